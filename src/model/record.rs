//! What is remembered on disk, as values: the host's identity, settings the server gave, one record per agent and job
//! (durable, under `state_dir`), and what matters to this boot only (under `run_dir`).
//!
//! `wire::record` turns these into JSON and back, `host::store` puts them on disk.

use std::time::Duration;

use crate::kernel::{Process, Time};
use crate::model::job::{JobId, Outcome};
use crate::model::package::{Digest, Format};
pub use crate::model::plan::Phase;
use crate::model::plan::{Direction, Step};
use crate::model::spec::{Envs, Limits, Name};

/// Who this host is; made at first start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// A random UUID.
    pub sn: Box<str>,
    /// The machine-id it was made on: another one means a cloned disk, and a new `sn`. Empty where the host has none.
    pub machine_id: Box<str>,
}

/// Settings a server gave with a `config` job, and what it upgraded the daemon with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Tried before the default list; empty: none was given.
    pub svrlist: Box<str>,
    /// Reporting interval instead of the configured one.
    pub step: Option<Duration>,
    /// The daemon's version and the digest of the package that brought it, a space between them; empty: no job did.
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

/// A package that was installed by a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installed {
    /// Its format, which says who manages it.
    pub format: Format,
    /// Its name in the package manager's database; for a tar the directory it is in, below `packages/NAME/`.
    pub package: Box<str>,
    /// The agent's version it brought.
    pub version: Box<str>,
    /// Digest of the package file.
    pub digest: Digest,
    /// The kept package file, below `packages/NAME/`; empty for a tar, whose directory is kept instead.
    pub file: Box<str>,
}

impl Installed {
    /// What is kept of it below `packages/NAME/`.
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

/// What is remembered of one agent over reboots.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AgentRecord {
    /// Whose record it is.
    pub name: Name,
    /// What the last start or stop said; `None`: nobody has, `autostart` counts.
    pub wanted: Option<Wanted>,
    /// The definition a job gave, as JSON text.
    pub definition: Option<Box<str>>,
    /// The environment a job gave, over the definition's.
    pub envs: Option<Envs>,
    /// The limits a job gave, over the definition's.
    pub limits: Option<Limits>,
    /// The package a job installed.
    pub package: Option<Box<Installed>>,
    /// The package that was there before, kept to go back to.
    pub previous: Option<Box<Installed>>,
}

impl AgentRecord {
    /// This one, which says little, over an older one of the same agent.
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

/// What is remembered of one job, from its receipt on.
#[derive(Clone, Debug, PartialEq)]
pub struct JobRecord {
    /// Chosen by the server; the record's file name.
    pub id: JobId,
    /// Counts up with every job received, so that order and age survive a restart.
    pub seq: u64,
    /// `action` as given, for the ledger.
    pub action: Box<str>,
    /// The agent's name as given, for the ledger.
    pub name: Name,
    /// The job as JSON text; empty once it is done.
    pub text: Box<str>,
    /// The boot it was received in, and when; in another boot it counts as received at the daemon's start.
    pub boot_id: Box<str>,
    /// See `boot_id`.
    pub received: Time,
    /// Where it stands, for the ledger and for 1.0.0.
    pub phase: Phase,
    /// The step of its plan that it stands at: by its name, as an index would be another step where a plan has changed since.
    /// `None` before it has begun and after its end, and where 1.0.0 wrote this.
    pub step: Option<Step>,
    /// Which way it goes.
    pub direction: Direction,
    /// What the job found the agent to be before it changed anything: what an undo goes back to.
    pub before: Option<Box<AgentRecord>>,
    /// What the package tool says about the new package.
    pub package: Option<Box<Installed>>,
    /// That package was installed before the job, by somebody else: an undo leaves it.
    pub foreign: bool,
    /// The outcome; before the end, what will be reported then: on the way back, and of a new binary that has proved itself.
    pub outcome: Option<Outcome>,
}

/// That a daemon began to end all its agents and itself: once for all of them, and not in the record of each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StopRecord {
    /// The boot it is about; in any other it is void.
    pub boot_id: Box<str>,
    /// When that was.
    pub at: Time,
}

/// What is remembered of one agent's run within this boot.
#[derive(Clone, Debug, PartialEq)]
pub struct RunRecord {
    /// Whose it is.
    pub name: Name,
    /// The boot it is about; in any other it is void.
    pub boot_id: Box<str>,
    /// Its main process, when it has one.
    pub process: Option<Process>,
    /// That is the starter of a forking agent, whose main process is not known yet.
    pub forking: bool,
    /// It was being ended as ordered, to stay down or to start anew.
    pub stopping: bool,
    /// When that was started.
    pub started: Time,
    /// The `Spec::mark` of the definition that it was last started by; `None` where no daemon noted it.
    pub fingerprint: Option<u64>,
    /// Abnormal ends in a row.
    pub failures: u32,
    /// It is restarted at this time; `None`: no restart is due.
    pub restart_at: Option<Time>,
    /// It ended normally, and is not restarted without an order.
    pub finished: bool,
    /// It was given up.
    pub fatal: bool,
    /// Its last end was by force.
    pub killed: bool,
    /// What is said about its last end.
    pub detail: Box<str>,
}

impl RunRecord {
    /// A daemon began to end all agents at that time: what it had started before was being ended, and begins anew.
    pub fn end_with(&mut self, stop: Time) {
        if self.process.is_some() && self.started <= stop {
            (self.stopping, self.failures) = (true, 0);
        }
    }
}
