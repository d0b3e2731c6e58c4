//! One open job: its record, what it waits for, and when it continues by itself.
//!
//! The record is what survives the daemon. All else is known again when the job is resumed, or lost without harm.

use std::rc::Rc;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use crate::kernel::Time;
use crate::model::event::Definition;
use crate::model::job::{Job, JobAction, Source, SELF};
use crate::model::package::Tool;
use crate::model::plan::{Direction, Plan, Step};
use crate::model::record::{JobRecord, Phase};
use crate::model::spec::Name;
use crate::model::state::Goal;
use crate::model::url::Url;

/// One open job.
#[derive(Clone, Debug, Default)]
pub struct OpenJob {
    /// What is on disk of it, or about to be.
    pub record: JobRecord,
    /// What the server ordered; `None` once the job has ended, and for one that was rejected as it came.
    pub content: Option<Rc<Job>>,
    /// What it does; empty before it has begun.
    pub plan: Plan,
    /// What it waits for.
    pub activity: Activity,
    /// An earlier daemon had it: what its step does may have been done already.
    pub resumed: bool,
    /// Its record is on disk, perhaps as of an earlier step.
    pub recorded: bool,
    /// Its package was verified by this daemon, with the keys that are trusted now.
    pub verified: bool,
    /// What the agent becomes with the package.
    pub chosen: Option<Chosen>,
    /// The start it waits for.
    pub goal: Option<Goal>,
    /// Download attempts in a row that made no progress.
    pub tries: u32,
    /// When its last download attempt began, or was cut off for others.
    pub last_fetch: Time,
    /// It could not be undone, and the package manager has this version instead; empty: nothing is installed.
    pub stuck: Option<Box<str>>,
    /// Its undo has asked whether the package that the job found is still there.
    pub asked_before_undo: bool,
    /// The former package, of another format or name, was removed, and its agent is started anew.
    pub retired: bool,
    /// The whole package was fetched again, as the digest of a doubtful download was wrong.
    pub refetched: bool,
    /// A server has cancelled it: it ends before it changes anything.
    pub cancelled: bool,
    /// When its result is sent.
    pub send_at: Time,
    /// How often servers refused the result when it was sent alone.
    pub refusals: u32,
    /// The result is sent alone, as a server refused a batch with it.
    pub sent_alone: bool,
}

/// What an open job waits for.
#[derive(Clone, Debug, Default)]
pub enum Activity {
    /// Its turn.
    #[default]
    Queued,
    /// Its record being on disk; the step it stands at begins then.
    Saving,
    /// The same, which could not be done; it is tried again at that time.
    SaveAgain(Time),
    /// The end of its step, which an event or the state of its agent brings.
    Step,
    /// The end of another download.
    WaitingForSlot,
    /// The end of its download attempt.
    Fetching,
    /// The next download attempt, at that time; and why the last one failed.
    FetchAgain(Time, Box<str>),
    /// The end of package tools.
    Tools(Box<Tools>),
    /// The reexec: its turn, what is tried, or the exec itself.
    Reexec,
    /// The first exchange of this binary, which is on trial, with a server: until that time.
    Proving(Time),
    /// A server that takes the result.
    Ended,
}

/// What an agent becomes with a new package.
#[derive(Clone, Debug)]
pub struct Chosen {
    /// Its new definition; `None`: it keeps the one it has.
    pub definition: Option<Definition>,
    /// The version that is reported of it.
    pub version: Box<str>,
}

/// A package tool at work, and those that follow.
#[derive(Clone, Debug)]
pub struct Tools {
    /// Those to run; the one at work is the first.
    pub queue: Vec<Tool>,
    /// When the one at work is killed; again when it is `late`.
    pub deadline: Time,
    /// The one at work took too long, and was killed.
    pub late: bool,
    /// Another program holds the lock of the package database: when to try again.
    pub again: Option<Time>,
    /// How long to try for the lock.
    pub lock_until: Time,
    /// How the last one failed that was not the last of all.
    pub failure: Option<Box<str>>,
}

impl OpenJob {
    /// A job that waits for this.
    pub fn new(record: JobRecord, content: Option<Rc<Job>>, activity: Activity) -> OpenJob {
        OpenJob { record, content, activity, ..OpenJob::default() }
    }

    /// The agent's name.
    pub fn name(&self) -> &Name {
        &self.record.name
    }

    /// Whether it has begun to change the package of its agent and has not ended; until then an undo may change it back.
    pub fn is_changing_package(&self) -> bool {
        use JobAction::{Config, Reload, Restart, Start, Stop};
        let keeps = matches!(self.action(), Some(Start | Stop | Restart | Reload | Config { .. }));
        !keeps && self.record.phase > Phase::Verified && self.record.phase < Phase::Done
    }

    /// When the result wants to be sent; `None`: the job has not ended.
    pub fn result_at(&self) -> Option<Time> {
        matches!(self.activity, Activity::Ended).then_some(self.send_at)
    }

    /// Whether it is being undone.
    pub fn goes_back(&self) -> bool {
        self.record.direction == Direction::Back
    }

    /// Whether it is a job for the daemon itself.
    pub fn is_own(&self) -> bool {
        **self.name() == *SELF
    }

    /// Whether it has ended, with a result that is on record or about to be.
    pub fn has_ended(&self) -> bool {
        self.record.phase == Phase::Done
    }

    /// Whether it waits for its turn, not begun.
    pub fn is_waiting(&self) -> bool {
        matches!(self.activity, Activity::Queued) && self.record.phase == Phase::Received
    }

    /// Whether it has changed nothing yet, so that a server can cancel it.
    pub fn can_be_cancelled(&self) -> bool {
        self.record.phase <= Phase::Verified && !self.goes_back()
    }

    /// Whether it has begun this step and waits for its end.
    pub fn is_at(&self, step: Step) -> bool {
        matches!(self.activity, Activity::Step) && self.record.step == Some(step)
    }

    /// What it does; `None` once it has ended.
    pub fn action(&self) -> Option<&JobAction> {
        self.content.as_ref().map(|job| &job.action)
    }

    /// Where its package is fetched from, as people may see it.
    pub fn shown_url(&self) -> String {
        let url = self.source().and_then(|source| Url::parse(&source.url).ok());
        url.map_or_else(|| "the package".into(), |url| url.shown())
    }

    /// The package it brings.
    pub fn source(&self) -> Option<&Source> {
        match self.action()? {
            JobAction::Install(source) | JobAction::Upgrade(source) => Some(source),
            JobAction::Uninstall
            | JobAction::Start
            | JobAction::Stop
            | JobAction::Restart
            | JobAction::Reload
            | JobAction::Config { .. } => None,
        }
    }

    /// Adds to what the message of its success says, unless it says this already, as a step that is done twice does.
    pub fn add_note(&mut self, text: &str) {
        let note = &mut self.record.note;
        if note.contains(text) {
            return;
        }
        let between = if note.is_empty() { "" } else { "; " };
        *note = [&**note, between, text].concat().into();
    }

    /// Goes to a step of its plan.
    pub fn stand_at(&mut self, step: Step) {
        self.record.step = Some(step);
        self.record.phase = step.phase(self.record.direction);
    }

    /// When it begins on this host: at a moment in its window that the host's `sn` and the job's id choose.
    pub fn begin_at(&self, sn: &str) -> Time {
        let window = self.content.as_ref().map_or(0, |job| job.window.as_secs());
        self.record.received + Duration::from_secs(window_hash(sn, &self.record.id).checked_rem(window).unwrap_or(0))
    }

    /// When it ends without a beginning.
    pub fn expires_at(&self) -> Option<Time> {
        let expires = self.content.as_ref()?.expires?;
        Some(self.record.received + expires)
    }

    /// When it continues by itself; `first`: no other job has to end before it.
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
fn window_hash(sn: &str, id: &str) -> u64 {
    let hash = Sha256::new().chain_update(sn).chain_update("\n").chain_update(id).finalize();
    hash.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_moment_in_a_window_is_the_same_in_every_version() {
        // Computed with another implementation of SHA-256.
        for (sn, id, want) in [
            ("bfdcc18c-0000-4000-8000-000000000001", "roll-1", 17_828_284_431_002_947_388),
            ("", "a", 8_314_109_957_015_630_941),
        ] {
            assert_eq!(super::window_hash(sn, id), want, "{sn} {id}");
        }
    }
}
