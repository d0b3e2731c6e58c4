//! One open job: what is on record of it, what it waits for, and when it goes on by itself.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use crate::kernel::Time;
use crate::model::event::Definition;
use crate::model::job::{Job, JobAction, Source, SELF};
use crate::model::package::Tool;
use crate::model::plan::{Direction, Plan, Step, NOTHING};
use crate::model::record::{JobRecord, Phase};
use crate::model::spec::Name;
use crate::model::state::Goal;

/// One open job.
#[derive(Clone, Debug)]
pub struct OpenJob {
    pub record: JobRecord,
    /// The job; `None` once it is done, and for one that was refused as it came.
    pub content: Option<Rc<Job>>,
    /// What it does, once it has begun.
    pub plan: &'static Plan,
    pub activity: Activity,
    /// It was begun by an earlier daemon: what its step does may have been done already.
    pub resumed: bool,
    /// Its record has been on disk.
    pub recorded: bool,
    /// Its package was verified by this daemon, with the keys that are trusted now.
    pub verified: bool,
    /// What the agent becomes with the package.
    pub chosen: Option<Chosen>,
    /// The start it waits for.
    pub goal: Option<Goal>,
    /// Download attempts in a row that brought nothing.
    pub tries: u32,
    /// When its last download attempt began, or others last took its turn.
    pub context: Time,
    /// The whole was fetched again because what was doubtful did not fit.
    pub refetched: bool,
    /// When the result is sent.
    pub sending: Sending,
}

/// When to send a result.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sending {
    at: Time,
    pub refusals: u32,
    alone: bool,
}

/// What an open job waits for.
#[derive(Clone, Debug)]
pub enum Activity {
    /// Its turn.
    Queued,
    /// Its record being on disk; the step it stands at begins then.
    Saving,
    /// The same, which could not be done; it is tried again at that time.
    SaveAgain(Time),
    /// The end of its step, by an event or by what its agent comes to.
    Step,
    /// The end of another download.
    WaitingForSlot,
    /// The end of its download attempt.
    Fetching,
    /// The next attempt, at that time, as this broke the last one off.
    FetchAgain(Time, Box<str>),
    /// The end of package tools.
    Tools(Box<Tools>),
    /// The reexec: its turn, what is tried, or the exec itself.
    Reexec,
    /// The first exchange of this image with a server, until that time.
    Proving(Time),
    /// The server, which is to take the result.
    Ended,
}

/// What an agent becomes with a new package.
#[derive(Clone, Debug)]
pub struct Chosen {
    /// `None`: the one it has.
    pub definition: Option<Definition>,
    pub version: Box<str>,
}

/// A package tool at work, and those that follow.
#[derive(Clone, Debug)]
pub struct Tools {
    /// The one at work first.
    pub left: VecDeque<Tool>,
    /// When it is killed; again, when it was already.
    pub deadline: Time,
    pub late: bool,
    /// Another one holds the lock: when to try again.
    pub again: Option<Time>,
    /// How long the lock is waited for.
    pub lock_until: Time,
}

impl OpenJob {
    pub fn new(record: JobRecord, content: Option<Rc<Job>>, activity: Activity) -> OpenJob {
        OpenJob {
            record,
            content,
            plan: &NOTHING,
            activity,
            resumed: false,
            recorded: false,
            verified: false,
            chosen: None,
            goal: None,
            tries: 0,
            context: Time::default(),
            refetched: false,
            sending: Sending::default(),
        }
    }

    pub fn name(&self) -> &Name {
        &self.record.name
    }

    pub fn send_at(&self) -> Option<Time> {
        matches!(self.activity, Activity::Ended).then_some(self.sending.at)
    }

    pub fn send_again(&mut self, now: Time) {
        self.sending.at = self.sending.at.min(now);
    }

    pub fn alone(&self) -> bool {
        self.sending.alone
    }

    pub fn refusals(&self) -> u32 {
        self.sending.refusals
    }

    /// The server refused the result: in a batch it may have been another's fault.
    pub fn refused(&mut self, in_batch: bool, again: Time) {
        self.sending.alone = true;
        if !in_batch {
            self.sending.refusals += 1;
            self.sending.at = again;
        }
    }

    /// Whether it is on its way back.
    pub fn goes_back(&self) -> bool {
        self.record.direction == Direction::Back
    }

    /// Whether it is given to the daemon itself.
    pub fn is_own(&self) -> bool {
        **self.name() == *SELF
    }

    pub fn has_ended(&self) -> bool {
        self.record.phase == Phase::Done
    }

    /// Whether it waits for its turn, not begun.
    pub fn is_waiting(&self) -> bool {
        matches!(self.activity, Activity::Queued) && self.record.phase == Phase::Received
    }

    /// Whether it has begun this step, and the end of that is to come.
    pub fn is_at(&self, step: Step) -> bool {
        matches!(self.activity, Activity::Step) && self.record.step == Some(step)
    }

    pub fn action(&self) -> Option<&JobAction> {
        self.content.as_ref().map(|job| &job.action)
    }

    /// The package it brings.
    pub fn source(&self) -> Option<&Source> {
        match self.action()? {
            JobAction::Install(source) | JobAction::Upgrade(source) => Some(source),
            JobAction::Uninstall
            | JobAction::Start
            | JobAction::Stop
            | JobAction::Restart
            | JobAction::Config { .. } => None,
        }
    }

    /// Goes to a step of its plan.
    pub fn stand_at(&mut self, step: Step) {
        self.record.step = Some(step);
        self.record.phase = step.phase(self.record.direction);
    }

    /// The moment in its window that this host picks.
    pub fn begin_at(&self, sn: &str) -> Time {
        let window = self.content.as_ref().map_or(0, |job| job.window.as_secs());
        self.record.received + Duration::from_secs(place(sn, &self.record.id).checked_rem(window).unwrap_or(0))
    }

    pub fn expires_at(&self) -> Option<Time> {
        let expires = self.content.as_ref()?.expires?;
        Some(self.record.received + expires)
    }

    /// When it goes on by itself; `first`: no other job has to end before it.
    pub fn deadline(&self, sn: &str, first: bool) -> Option<Time> {
        match &self.activity {
            Activity::SaveAgain(at) | Activity::FetchAgain(at, _) | Activity::Proving(at) => Some(*at),
            Activity::Queued => {
                let begin = first.then(|| self.begin_at(sn));
                Time::earliest(&[begin, self.expires_at()])
            }
            Activity::Tools(tools) => Some(tools.again.unwrap_or(tools.deadline)),
            Activity::Saving
            | Activity::WaitingForSlot
            | Activity::Fetching
            | Activity::Step
            | Activity::Reexec
            | Activity::Ended => None,
        }
    }
}

/// The number by which a host finds its moment in a job's window.
fn place(sn: &str, id: &str) -> u64 {
    let hash = Sha256::new().chain_update(sn).chain_update("\n").chain_update(id).finalize();
    hash.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod window {
    #[test]
    fn its_moment_is_the_same_on_every_version() {
        // Computed with another implementation of SHA-256.
        for (sn, id, want) in [
            ("bfdcc18c-0000-4000-8000-000000000001", "roll-1", 17_828_284_431_002_947_388),
            ("", "a", 8_314_109_957_015_630_941),
        ] {
            assert_eq!(super::place(sn, id), want, "{sn} {id}");
        }
    }
}
