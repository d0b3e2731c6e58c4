//! The records on disk, as values: the host's identity, the settings that a server gave, and a record per agent and job,
//! which last (below `state_dir`); a record per run of an agent and one of a shutdown, which count for one boot only (below
//! `run_dir`).
//!
//! `wire::record` turns them into JSON and back, `host::store` writes and reads the files.

use std::time::Duration;

use crate::kernel::{Process, Time};
use crate::model::job::{JobId, Outcome, Source};
use crate::model::package::{Digest, Format};
pub use crate::model::plan::Phase;
use crate::model::plan::{Direction, Step};
use crate::model::spec::{Envs, Fingerprints, Limits, Name};

/// The host's identity, which is made at the first start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// A random UUID.
    pub sn: Box<str>,
    /// The machine-id of the host at that time: if the host has another one, the disk was cloned, and it gets a new `sn`.
    /// Empty if the host has none.
    pub machine_id: Box<str>,
}

impl Identity {
    /// Whether it is that of the host with this machine-id; a host that has none may be any.
    pub fn is_of(&self, machine_id: &str) -> bool {
        machine_id.is_empty() || *self.machine_id == *machine_id
    }
}

/// The settings that a server gave with a `config` job, and the package that it upgraded the daemon with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// The servers that are asked before those of the configuration; empty if no job gave any.
    pub svrlist: Box<str>,
    /// The reporting interval instead of the configured one, 10..=86400 s.
    pub step: Option<Duration>,
    /// The daemon's version and the digest of the package that it came in, with a space between them; empty if no job
    /// upgraded it.
    pub package: Box<str>,
}

/// Whether an agent should run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// It should.
    Up,
    /// It should not.
    Down,
}

/// A package that a job installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installed {
    /// Its format, which decides which tool manages it.
    pub format: Format,
    /// Its name in the package manager's database; for a tar its directory below `packages/NAME/`.
    pub package: Box<str>,
    /// The version of the agent.
    pub version: Box<str>,
    /// The digest of the package file.
    pub digest: Digest,
    /// The package file, which is kept below `packages/NAME/`; empty for a tar, whose directory is kept instead.
    pub file: Box<str>,
    /// The version in the package manager's words; empty for a tar, and in a record that an older version wrote.
    pub native: Box<str>,
}

impl Installed {
    /// The package of this source, of which no file is kept and whose version is known to nobody but the agent.
    pub fn new(source: &Source, package: Box<str>, version: Box<str>) -> Installed {
        let (format, digest) = (source.format, source.digest);
        Installed { format, package, version, digest, file: "".into(), native: "".into() }
    }

    /// The files and directories of the package that are kept below `packages/NAME/`.
    pub fn files(&self) -> Vec<Box<str>> {
        let mut files = Vec::new();
        if self.format.is_tar() {
            files.push(self.package.clone());
        }
        if !self.file.is_empty() {
            files.push(self.file.clone());
        }
        files
    }
}

/// What is remembered about an agent over reboots.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AgentRecord {
    /// The agent.
    pub name: Name,
    /// Whether the agent should run, by the last start or stop; `None`: there was none, and `autostart` decides.
    pub wanted: Option<Wanted>,
    /// The definition that a job gave, as JSON text.
    pub definition: Option<Box<str>>,
    /// The environment that a job gave, which overrides the definition's.
    pub envs: Option<Envs>,
    /// The limits that a job gave, which override the definition's.
    pub limits: Option<Limits>,
    /// The package that a job installed.
    pub package: Option<Box<Installed>>,
    /// The previous package, which is kept for a rollback.
    pub previous: Option<Box<Installed>>,
}

impl AgentRecord {
    /// This record, with the values of an older one of the same agent for all that it does not say.
    pub fn merged_onto(&self, old: AgentRecord) -> AgentRecord {
        let new = self.clone();
        AgentRecord {
            name: new.name,
            wanted: new.wanted.or(old.wanted),
            definition: new.definition.or(old.definition),
            envs: new.envs.or(old.envs),
            limits: new.limits.or(old.limits),
            package: new.package.or(old.package),
            previous: new.previous.or(old.previous),
        }
    }
}

/// What is remembered about a job from its receipt on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct JobRecord {
    /// Chosen by the server; the record's file name.
    pub id: JobId,
    /// The number of the job, counted up with every job received: the order and the age of jobs survive a restart.
    pub seq: u64,
    /// The `action` as the server sent it, for the ledger.
    pub action: Box<str>,
    /// The agent's name as the server sent it, for the ledger.
    pub name: Name,
    /// The job as JSON text; empty once it has ended.
    pub text: Box<str>,
    /// The boot in which it was received; in another boot it counts as received at the daemon's start.
    pub boot_id: Box<str>,
    /// When it was received in that boot.
    pub received: Time,
    /// Its phase, for the ledger and for 1.0.0.
    pub phase: Phase,
    /// The current step of its plan. It is recorded by name, as another version may have other steps at the same index.
    /// `None` before it has begun and after its end, and in a record that 1.0.0 wrote.
    pub step: Option<Step>,
    /// Its direction.
    pub direction: Direction,
    /// The agent's record before the job changed anything, which an undo restores.
    pub before: Option<Box<AgentRecord>>,
    /// The new package, as the package tool describes it.
    pub package: Option<Box<Installed>>,
    /// The new package was installed before the job, by somebody else: an undo does not remove it.
    pub foreign: bool,
    /// The version of the package that was installed before the job, as the package manager said; empty: none was.
    /// `None`: it was not asked.
    pub found: Option<Box<str>>,
    /// The packages that were on hold before the job, of the new and the former one, as the package manager said.
    pub held: Box<str>,
    /// What went wrong beside it, for the message of its success; empty: nothing.
    pub note: Box<str>,
    /// The outcome. It is known before the end of a job that is being undone, or whose new binary has proved itself.
    pub outcome: Option<Outcome>,
}

impl JobRecord {
    /// The record of a job that was just received, of which nothing is known yet but its place in the order.
    pub fn new(seq: u64, boot_id: Box<str>, received: Time) -> JobRecord {
        JobRecord { seq, boot_id, received, ..JobRecord::default() }
    }

    /// The package that the agent had before the job.
    pub fn former(&self) -> Option<&Installed> {
        self.before.as_ref()?.package.as_deref()
    }
}

/// A daemon began to stop all its agents and itself: one record for all agents, so that not every run record is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StopRecord {
    /// The boot that it counts for.
    pub boot_id: Box<str>,
    /// When the shutdown began.
    pub at: Time,
}

/// What is remembered about an agent's run within one boot.
#[derive(Clone, Debug, PartialEq)]
pub struct RunRecord {
    /// The agent.
    pub name: Name,
    /// The boot that it counts for.
    pub boot_id: Box<str>,
    /// Its main process, or its starter if `forking`; `None` if it has none.
    pub process: Option<Process>,
    /// It is a forking agent whose main process is not known yet.
    pub forking: bool,
    /// It was being stopped as requested, to stay down or to be started again.
    pub stopping: bool,
    /// When `process` was started.
    pub started: Time,
    /// The fingerprints of the definition that it was last started with; `None` if no daemon recorded them.
    pub started_with: Option<Fingerprints>,
    /// Abnormal ends in a row.
    pub failures: u32,
    /// It is restarted at this time; `None`: no restart is due.
    pub restart_at: Option<Time>,
    /// It ended normally, and is not restarted without a request.
    pub finished: bool,
    /// It was given up after too many early ends.
    pub fatal: bool,
    /// Its last end was by force.
    pub killed: bool,
    /// Its runs may have left processes that are spared: the start time of the first process of its last run, in ticks.
    pub spares: Option<u64>,
    /// How it ended last, a sentence for people.
    pub detail: Box<str>,
    /// Its start is not done, or is being stopped: it has not said yet that it is ready, or its `prestart` runs.
    pub unready: bool,
    /// What it has said that it is doing, a sentence for people.
    pub said: Box<str>,
}

impl RunRecord {
    /// Applies the record of a shutdown that began at `stop`: an agent that was started before was being stopped, and its
    /// failures are reset.
    pub fn end_with(&mut self, stop: Time) {
        if self.process.is_some() && self.started <= stop {
            (self.stopping, self.failures) = (true, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cloned_disk_is_known_by_its_machine_id() {
        for (known, machine_id, want) in
            [("a", "a", true), ("a", "b", false), ("", "b", false), ("a", "", true), ("", "", true)]
        {
            let identity = Identity { sn: "1".into(), machine_id: known.into() };
            assert_eq!(identity.is_of(machine_id), want, "{known} {machine_id}");
        }
    }
}
