//! What a status report says, as values; `wire::proto` writes them.

use std::time::Duration;

use crate::model::spec::Name;

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

/// One agent in a report.
#[derive(Clone, Debug, PartialEq)]
pub struct AgentReport {
    /// Unique on the host.
    pub name: Name,
    /// The installed version.
    pub version: Box<str>,
    /// As the kernel says at the moment of the report.
    pub status: Status,
    /// How long its main process has been running; zero when it is not.
    pub uptime: Duration,
    /// Its main process; 0 when it has none.
    pub pid: i32,
    /// Abnormal ends in a row.
    pub failures: u32,
    /// Why it is in this state; empty when there is nothing to say.
    pub detail: Box<str>,
    /// Processor share of its tree since the last look, percent of one core; `None` when not running or not known.
    pub cpu: Option<f64>,
    /// Memory of its tree, bytes; `None` when not running or not known.
    pub memory: Option<u64>,
    /// `cgroup2`, `cgroup1`, `polled` or a mix; `None` without limits.
    pub limits_by: Option<Box<str>>,
    /// The limits that a job gave, which lie over the definition's; `None` without any.
    pub job_limits: Option<Box<str>>,
}

/// Something that happened, told to the server once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incident {
    /// Wall clock, s since the epoch.
    pub timestamp: u64,
    /// The agent it is about; `bootagent` for the daemon itself.
    pub name: Name,
    /// One sentence.
    pub message: Box<str>,
}

/// A whole status report.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// gethostname(2), or the configured name.
    pub hostname: Box<str>,
    /// `bootagent-<version>-<arch>`.
    pub version: Box<str>,
    /// Since the daemon's start.
    pub uptime: Duration,
    /// Wall clock, s since the epoch.
    pub timestamp: u64,
    /// Reporting interval.
    pub step: Duration,
    /// Every agent, by name.
    pub agents: Vec<AgentReport>,
    /// The host's serial number.
    pub sn: Box<str>,
    /// The kernel's boot id; empty where it has none.
    pub boot_id: Box<str>,
    /// What happened since the last report that was taken, oldest first.
    pub events: Vec<Incident>,
    /// How long no server has taken a report, while none does.
    pub silence: Option<Duration>,
    /// What does not work on the host at the moment, a sentence each.
    pub troubles: Vec<Box<str>>,
}

/// One job as the ledger shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Chosen by the server.
    pub id: Box<str>,
    /// `action` as given.
    pub action: Box<str>,
    /// The agent's name as given.
    pub name: Name,
    /// Where it stands.
    pub phase: crate::model::record::Phase,
    /// How it ended, when it has.
    pub outcome: Option<crate::model::job::Outcome>,
    /// What it is doing at the moment, for a person: `1.5 MB of 3.0 MB`, `waits for "a1"`; empty when there is nothing to say.
    pub progress: Box<str>,
}
