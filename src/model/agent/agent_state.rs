//! What an agent is doing, and what each state needs to know.

use std::time::Duration;

use crate::kernel::{Process, Time};
use crate::model::restart::End;

/// What an agent is doing.
#[derive(Clone, Debug, PartialEq)]
pub enum AgentState {
    /// Nothing of it is there, and no start is due.
    Down,
    /// It ended, and is started again at `until`.
    Waiting {
        /// Not before this.
        until: Time,
    },
    /// It was given up.
    Fatal,
    /// Its process is being made.
    Starting,
    /// The starter of a forking agent runs, or has ended and the main process is sought.
    Forking {
        /// The starter, while it runs.
        starter: Option<Process>,
        /// When the starter was started.
        since: Time,
        /// When to ask for the main process again, and when to stop asking; both only after the starter's end.
        ask: Option<(Time, Time)>,
    },
    /// Its main process runs.
    Running {
        /// The main process.
        process: Process,
        /// When it was started.
        since: Time,
        /// Its health check.
        health: Health,
    },
    /// It, or what it left behind, is being ended.
    Stopping(Box<Stopping>),
}

impl AgentState {
    pub(super) fn name(&self) -> &'static str {
        match self {
            AgentState::Down => "down",
            AgentState::Waiting { .. } => "waiting",
            AgentState::Fatal => "fatal",
            AgentState::Starting => "starting",
            AgentState::Forking { .. } => "forking",
            AgentState::Running { .. } => "running",
            AgentState::Stopping(_) => "stopping",
        }
    }
}

/// Where the health check stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// None, or not now.
    Off,
    /// It runs again at that time.
    Next(Time),
    /// It is running, and is killed at that time (again, when it is late already).
    Busy {
        /// When to kill it.
        until: Time,
        /// It was killed for taking too long.
        late: bool,
    },
}

/// An end in progress.
#[derive(Clone, Debug, PartialEq)]
pub struct Stopping {
    /// What follows when nothing is left.
    pub after: AfterStop,
    /// The main process while it is alive, and when it was started.
    pub main_process: Option<(Process, Time)>,
    /// How long the main process had been running when this began.
    pub uptime: Duration,
    /// When SIGKILL follows; `None` while the polite signal was not sent.
    pub kill_at: Option<Time>,
    /// SIGKILL was sent.
    pub killed: bool,
    /// Its process is being made: whether there is one is not known yet.
    pub starting: bool,
    /// When to look next at what is left; `None` while the end of the main process is awaited.
    pub count_at: Option<Time>,
    /// The pause after that look.
    pub pause: Duration,
}

/// What follows a stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterStop {
    /// It stays down, as ordered.
    Down,
    /// It is started, as ordered.
    Up,
    /// It waits for its restart at this time, as before the stop.
    Wait(Time),
    /// It stays down, as it ended normally before the stop and no restart is due.
    Finished,
    /// It stays given up.
    Fatal,
    /// The restart policy says.
    Policy(End),
}
