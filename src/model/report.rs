//! The status report and the ledger, as values. `model::state` fills them, `wire::proto` and `wire::control` write them as
//! JSON.

use std::time::Duration;

use crate::model::job::{JobId, Outcome};
use crate::model::plan::Phase;
use crate::model::spec::{Labels, Name};

/// An agent's state, in the words of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// `stoped`: stopped on purpose, or waiting for its restart after its own exit.
    Stopped,
    /// `running`.
    Running,
    /// `fatal`: given up after repeated failures.
    Fatal,
    /// `killed`: by force, also while it waits for its restart.
    Killed,
}

impl Status {
    /// As the servers spell it.
    pub const fn word(self) -> &'static str {
        match self {
            Status::Stopped => "stoped",
            Status::Running => "running",
            Status::Fatal => "fatal",
            Status::Killed => "killed",
        }
    }
}

/// One agent's part of a report.
#[derive(Clone, Debug, PartialEq)]
pub struct AgentReport {
    /// Its name, unique on the host.
    pub name: Name,
    /// The installed version.
    pub version: Box<str>,
    /// Its state at the moment of the report.
    pub status: Status,
    /// How long its main process has been running; zero if it is not.
    pub uptime: Duration,
    /// The id of its main process; 0 if it has none.
    pub pid: i32,
    /// Abnormal ends in a row.
    pub failures: u32,
    /// Why it is in this state, a sentence for people; empty when there is nothing to explain.
    pub detail: Box<str>,
    /// Processor share of its processes between the last two measurements, percent of one core; `None` if it does not run,
    /// or the share is not known.
    pub cpu: Option<f64>,
    /// Memory of its processes, bytes; `None` if it does not run, or the memory is not known.
    pub memory: Option<u64>,
    /// What enforces its limits: `cgroup2`, `cgroup1`, `polled` or a mix; `None` without limits.
    pub limits_by: Option<Box<str>>,
    /// The limits that a job gave, which override the definition's; `None` without any.
    pub job_limits: Option<Box<str>>,
}

/// Something that happened, which is reported to the server once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incident {
    /// The wall clock when it happened, seconds since the epoch.
    pub timestamp: u64,
    /// The agent that it is about; `bootagent` for the daemon itself.
    pub name: Name,
    /// What happened, one sentence.
    pub message: Box<str>,
}

/// A whole status report.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// The configured host name, or that of gethostname(2).
    pub hostname: Box<str>,
    /// The daemon's version, `bootagent-<version>-<arch>`.
    pub version: Box<str>,
    /// The time since the daemon's start.
    pub uptime: Duration,
    /// The wall clock, seconds since the epoch.
    pub timestamp: u64,
    /// The reporting interval.
    pub step: Duration,
    /// Every agent, ordered by name.
    pub agents: Vec<AgentReport>,
    /// The host's serial number.
    pub sn: Box<str>,
    /// The kernel's boot id; empty if it has none.
    pub boot_id: Box<str>,
    /// What happened since the last report that a server took, oldest first.
    pub events: Vec<Incident>,
    /// The operating system, such as `debian 12`; empty if it is not known.
    pub os: Box<str>,
    /// What the configuration says about the host.
    pub labels: Labels,
    /// The jobs that were received and have not ended.
    pub open: Vec<JobId>,
    /// How long no server has taken a report; `None` if the last one was taken.
    pub silence: Option<Duration>,
    /// What does not work on the host at the moment, one sentence each.
    pub troubles: Vec<Box<str>>,
    /// A number that is greater in each later report of a state_dir; `None` where that cannot be made sure.
    pub seq: Option<u64>,
}

/// One job as the ledger shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Chosen by the server.
    pub id: Box<str>,
    /// The `action` as the server sent it.
    pub action: Box<str>,
    /// The agent's name as the server sent it.
    pub name: Name,
    /// Its phase.
    pub phase: Phase,
    /// How it ended, if it has.
    pub outcome: Option<Outcome>,
    /// The time since it was received, where that was in this boot.
    pub age: Option<Duration>,
    /// What it is doing at the moment, for people: `15 of 30 bytes`, `waits for "a1"`; empty when there is nothing to
    /// show.
    pub progress: Box<str>,
}
