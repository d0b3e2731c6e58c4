//! Records that are there and could not be read when the daemon started: descriptors or memory ran out, or the disk has
//! a fault. Nothing is decided because such a record is missing.
//!
//! An agent with such a record stays as it is, and only an order starts it. New jobs for it are left for the server to
//! offer again, and those on record wait. Once everything can be read, the daemon starts again in place (reexec).

use super::{JobId, Name, State};
use crate::kernel::Level;
use crate::model::event::log;
use crate::model::job::{Job, RejectedJob};
use crate::model::record::{JobRecord, Phase};

/// What cannot be read at present.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Unreadable {
    /// A whole directory of records, so that there may be a record of any agent and any job.
    pub all: bool,
    /// Agents with a record that cannot be read; an empty name stands for the settings of the daemon.
    pub agents: Vec<Name>,
    /// Jobs whose records cannot be read.
    pub jobs: Vec<JobId>,
    /// A file of definitions.
    pub definitions: bool,
}

impl State {
    /// Whether what is on record of an agent cannot be read.
    pub(super) fn is_unread(&self, name: &str) -> bool {
        self.unread.all || self.unread.agents.iter().any(|unread| **unread == *name)
    }

    /// Whether a job must wait until everything can be read.
    pub(super) fn must_wait(&self, job: &Result<Job, RejectedJob>) -> bool {
        let (id, name) = match job {
            Ok(job) => (Some(&job.id), &job.name),
            Err(rejected) => (rejected.id.as_ref(), &rejected.name),
        };
        self.is_unread(name) || id.is_some_and(|id| self.unread.jobs.contains(id))
    }

    /// Sets aside jobs of agents with a record that cannot be read: they are resumed when it can be.
    pub(super) fn hold_jobs<T>(&mut self, jobs: &mut Vec<(JobRecord, T)>) {
        jobs.retain(|(record, _)| {
            let held = self.is_unread(&record.name) && record.phase < Phase::Done;
            if held {
                self.jobs.seen_seq(record.seq);
                self.unread.jobs.push(record.id.clone());
            }
            !held
        });
    }

    /// Makes agents of those of which nothing but an unreadable record is known.
    pub(super) fn keep_unread(&mut self) {
        for name in self.unread.agents.clone().into_iter().filter(|name| !name.is_empty()) {
            let text = "its record cannot be read: until it can be, it is started by an order only, and takes no jobs";
            log(&mut self.out, Level::Error, format_args!("agent \"{name}\": {text}"));
            self.agent(&name, true);
        }
    }
}
