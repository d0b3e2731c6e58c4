//! Records that are there and could not be read when the daemon started, for want of descriptors or memory, or as the disk
//! does not give them: their absence decides nothing.
//!
//! An agent with such a record goes on as it is, and is started by an order only; jobs for it are left for the server to
//! offer again, and those on record wait. When everything can be read, the daemon begins anew in place (reexec).

use super::{JobId, Name, State};
use crate::kernel::Level;
use crate::model::event::{log, Action};
use crate::model::job::{Job, RejectedJob};
use crate::model::record::{JobRecord, Phase};

/// What cannot be read just now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Unreadable {
    /// A whole directory of records: there may be any agent and any job.
    pub all: bool,
    /// Agents of which a record cannot be read; an empty name stands for the settings of the daemon.
    pub agents: Vec<Name>,
    /// Jobs whose records cannot be read.
    pub jobs: Vec<JobId>,
    /// A file of definitions, with what was last good of it.
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

    /// Sets aside jobs of agents of which a record cannot be read: they are resumed when it can.
    pub(super) fn hold_jobs<T>(&mut self, jobs: &mut Vec<(JobRecord, T)>) {
        jobs.retain(|(record, _)| {
            let held = self.is_unread(&record.name) && record.phase < Phase::Done;
            if held {
                self.next_seq = self.next_seq.max(record.seq + 1);
                self.unread.jobs.push(record.id.clone());
            }
            !held
        });
    }

    /// Agents of which there is nothing but a record that cannot be read are agents all the same.
    pub(super) fn keep_unread(&mut self, out: &mut Vec<Action>) {
        for name in self.unread.agents.clone().into_iter().filter(|name| !name.is_empty()) {
            let text = "its record cannot be read: until it can be, it is started by an order only, and takes no jobs";
            log(out, Level::Error, format_args!("agent \"{name}\": {text}"));
            self.agent(&name, true);
        }
    }
}
