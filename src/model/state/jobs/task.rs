//! One open job: what is on record of it, what it is doing, and when it goes on by itself.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use crate::kernel::Time;
use crate::model::event::Definition;
use crate::model::job::{Job, Order};
use crate::model::package::Tool;
use crate::model::record::{JobRecord, Phase};
use crate::model::state::Goal;

/// One open job.
#[derive(Clone, Debug)]
pub struct Task {
    pub record: JobRecord,
    /// The job; `None` once it is done, and for one that was refused as it came.
    pub job: Option<Rc<Job>>,
    pub doing: Doing,
    /// It was begun by an earlier daemon: what its phase does may have been done already.
    pub resumed: bool,
    /// Its record has been on disk.
    pub recorded: bool,
    /// The start it waits for.
    pub goal: Option<Goal>,
    /// Download attempts in a row that brought nothing.
    pub tries: u32,
    /// When its last download attempt began, or others last took its turn.
    pub turn: Time,
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

/// What an open job is doing.
#[derive(Clone, Debug)]
pub enum Doing {
    /// Its record is being written; the phase's work follows.
    Saving,
    /// Its record could not be written; tried again at that time.
    SaveAgain(Time),
    /// It waits for its turn.
    Queued,
    /// It waits for another download to end.
    WaitingForSlot,
    /// Its package is being fetched.
    Fetching,
    /// Its package is fetched again at that time, as this broke the last attempt off.
    FetchAgain(Time, Box<str>),
    /// Something was asked of the host, and the answer is awaited.
    Asked(Ask),
    /// A package tool is at work.
    Tool(Box<Toolwork>),
    /// The agent must come to its end.
    StoppingAgent,
    /// The agent must stay alive.
    Settling,
    /// A server list is on trial.
    Trial,
    /// Another image of the daemon is being tried, or is about to take our place.
    Renewing,
    /// This image must exchange something with a server by then.
    Proving(Time),
    /// The result is to be sent.
    Ended,
}

/// What was asked of the host.
#[derive(Clone, Debug)]
pub enum Ask {
    /// To keep the download as a package file.
    Keep,
    /// To verify it.
    Verify,
    /// To unpack a tar.
    Unpack,
    /// For the package's own definition.
    Inspect,
    /// To give what was unpacked its name.
    Rename(Box<Chosen>),
    /// To let the new package be the current one.
    Link,
    /// To let the former package be the current one again.
    UndoLink,
    /// For the definition that was in force before.
    Recall,
    /// To put this image in the place of the installed one.
    Replace,
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
pub struct Toolwork {
    pub purpose: Purpose,
    /// The one at work first.
    pub tools: VecDeque<Tool>,
    /// When it is killed; again, when it was already.
    pub deadline: Time,
    pub late: bool,
    /// Another one holds the lock: when to try again.
    pub again: Option<Time>,
    /// How long the lock is waited for.
    pub lock_until: Time,
}

/// What a package tool is run for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To learn the package's name and version.
    Identify,
    /// To learn whether the package was there before the job.
    Query,
    /// To install the new package.
    Install,
    /// To remove the package.
    Remove,
    /// To remove the package before it, which another kind of package has replaced.
    Retire,
    /// To go back.
    Undo,
}

impl Task {
    pub fn new(record: JobRecord, job: Option<Rc<Job>>, doing: Doing) -> Task {
        Task {
            record,
            job,
            doing,
            resumed: false,
            recorded: false,
            goal: None,
            tries: 0,
            turn: Time::default(),
            refetched: false,
            sending: Sending::default(),
        }
    }

    pub fn send_at(&self) -> Option<Time> {
        matches!(self.doing, Doing::Ended).then_some(self.sending.at)
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

    /// Whether it is being undone.
    pub fn undoing(&self) -> bool {
        self.record.outcome.is_some() && self.record.phase != Phase::Done
    }

    pub fn has_ended(&self) -> bool {
        self.record.phase == Phase::Done
    }

    pub fn order(&self) -> Option<&Order> {
        self.job.as_ref().map(|job| &job.order)
    }

    /// The moment in its window that this host picks.
    pub fn begin_at(&self, sn: &str) -> Time {
        let window = self.job.as_ref().map_or(0, |job| job.window.as_secs());
        self.record.received + Duration::from_secs(place(sn, &self.record.id).checked_rem(window).unwrap_or(0))
    }

    pub fn expires_at(&self) -> Option<Time> {
        let expires = self.job.as_ref()?.expires?;
        Some(self.record.received + expires)
    }

    /// When it goes on by itself; `first`: no other job has to end before it.
    pub fn deadline(&self, sn: &str, first: bool) -> Option<Time> {
        match &self.doing {
            Doing::SaveAgain(at) | Doing::FetchAgain(at, _) | Doing::Proving(at) => Some(*at),
            Doing::Queued => {
                let begin = first.then(|| self.begin_at(sn));
                Time::earliest(&[begin, self.expires_at()])
            }
            Doing::Tool(work) => Some(work.again.unwrap_or(work.deadline)),
            Doing::Saving
            | Doing::WaitingForSlot
            | Doing::Fetching
            | Doing::Asked(_)
            | Doing::StoppingAgent
            | Doing::Settling
            | Doing::Trial
            | Doing::Renewing
            | Doing::Ended => None,
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
