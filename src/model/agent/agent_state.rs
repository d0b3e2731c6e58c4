//! The states of an agent. A time or a count that only one state needs is a field of that state.

use std::time::Duration;

use crate::kernel::{Exit, Process, Time};
use crate::model::event::Scope;
use crate::model::restart::End;

/// What an agent is doing.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum AgentState {
    /// No process of it runs, and no start is due.
    #[default]
    Down,
    /// It ended, and is started again at `until`.
    Waiting {
        /// When it is started.
        until: Time,
    },
    /// It was given up after too many early ends.
    Fatal,
    /// Its process, or its `prestart`, is being started.
    Starting,
    /// Its `prestart` runs.
    Prestart {
        /// The process.
        process: Process,
        /// When it was started.
        since: Time,
    },
    /// The starter of a forking agent runs, or has ended and the main process is searched for.
    Forking {
        /// The starter; `None` after its end.
        starter: Option<Process>,
        /// When the starter was started.
        since: Time,
        /// When to search for the main process again, and when to stop searching; `None` before the starter's end.
        ask: Option<(Time, Time)>,
        /// The end of the main process that ran before, if this is a search for one that it may have handed over to.
        before: Option<Box<LastEnd>>,
    },
    /// Its main process runs.
    Running {
        /// The main process.
        process: Process,
        /// When it was started, or said that it is ready.
        since: Time,
        /// Its health check.
        health: Health,
        /// Until when it must say that it is ready; `None`: it has, or need not say so.
        ready_by: Option<Time>,
    },
    /// It, or the processes that it left behind, are being stopped.
    Stopping(Box<Stopping>),
}

impl AgentState {
    pub(super) fn name(&self) -> &'static str {
        match self {
            AgentState::Down => "down",
            AgentState::Waiting { .. } => "waiting",
            AgentState::Fatal => "fatal",
            AgentState::Starting => "starting",
            AgentState::Prestart { .. } => "prestart",
            AgentState::Forking { .. } => "forking",
            AgentState::Running { .. } => "running",
            AgentState::Stopping(_) => "stopping",
        }
    }
}

/// The state of the health check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// The agent has no health check.
    Off,
    /// The next check is due at this time.
    Next(Time),
    /// A check is running.
    Busy {
        /// When it is killed for taking too long, or killed again.
        until: Time,
        /// It was killed for taking too long.
        late: bool,
    },
}

/// How a main process ended, until it is known whether another one has taken its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastEnd {
    /// How it ended.
    pub exit: Exit,
    /// What the kernel said, if it ended as it was out of memory.
    pub oom: Option<Box<str>>,
    /// The last lines of its output.
    pub tail: Box<str>,
}

/// A stop in progress.
#[derive(Clone, Debug, PartialEq)]
pub struct Stopping {
    /// What follows when no process of the scope is left.
    pub after: AfterStop,
    /// Which processes it ends.
    pub scope: Scope,
    /// The main process, and when it was started; `None` after its end.
    pub main_process: Option<(Process, Time)>,
    /// How long the main process had been running when the stop began.
    pub uptime: Duration,
    /// When SIGKILL follows; `None` before the stop signal was sent.
    pub kill_at: Option<Time>,
    /// SIGKILL was sent.
    pub killed: bool,
    /// The last signal was refused.
    pub refused: bool,
    /// Its process is still being started, so that nothing can be signalled yet.
    pub starting: bool,
    /// When to count the remaining processes next; `None` while nothing but the end of the main process is awaited.
    pub count_at: Option<Time>,
    /// The pause after the next count.
    pub pause: Duration,
}

/// What follows a stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterStop {
    /// It stays down, as requested.
    Down,
    /// It is started, as requested.
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
