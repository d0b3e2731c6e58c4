//! One agent's state machine.
//!
//! | life \ event | up ordered | down ordered | started | not started | exited | left 0 | left n | time |
//! |---|---|---|---|---|---|---|---|---|
//! | Down, Fatal | begin | Down | - | - | - | - | - | - |
//! | Waiting | begin | Down | - | - | - | - | - | begin at `until` |
//! | Starting | - | Stopping | Running, Forking | policy (host short: Waiting) | - | - | - | - |
//! | Forking | - | Stopping | - | policy | find the main process, or Stopping | - | - | ask again, policy at the end, also of a starter that stays |
//! | Running | - | Stopping | - | policy | Stopping (the rest of its tree) | - | - | health check |
//! | Stopping | then up | then down | leader known, signal it | leader gone | leader gone, look | conclude, the leader being gone | signal, wait | SIGKILL, look again |
//!
//! "policy" is `restart::judge`; "conclude" does what the stop was for: stay down, start again, wait or stay given up as before, or the policy. A dash is
//! an event that cannot happen there; it is logged and changes nothing.
//!
//! `orders` has what is ordered and how it begins and ends, `events` what happens and falls due, `watch` limits and health
//! checks, `resume` what goes on under the next daemon, `told` what is said of it.

mod events;
mod agent_state;
mod requests;
mod resume;
mod report;
mod watch;

use std::fmt::Arguments;
use std::time::Duration;

use crate::kernel::{Level, Process, Sig, Time};
use crate::model::event::{log, Action, Definition, Origin};
use crate::model::record::{AgentRecord, Wanted};
use crate::model::restart::Policy;
use crate::model::spec::{Name, Spec, STOPSECS};
use crate::model::trust::{may_set, unnamed};
pub use agent_state::{AfterStop, AgentState, Health, Stopping};

/// The first and the longest pause between two looks at what is left of a tree.
const COUNT_INTERVAL: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// How long a forking agent's starter may run: one that stays is an agent that does not go into the background.
const STARTER_TIMEOUT: Duration = Duration::from_secs(90);

/// How long a forking agent's starter may have ended before its main process is known.
const MAIN_PROCESS_TIMEOUT: Duration = Duration::from_secs(10);

/// How long after a SIGKILL the next one follows, for what did not end by the first.
pub const KILL_INTERVAL: Duration = Duration::from_secs(5);

/// How long after a start that the host had nothing to spare for the next one follows.
const RESOURCE_RETRY_DELAY: Duration = Duration::from_secs(10);

/// Checks in a row over a polled CPU limit that end in a kill.
const CPU_CHECKS: u32 = 3;

/// What surrounds one step of an agent.
pub struct StepContext<'a> {
    /// The monotonic clock.
    pub now: Time,
    /// The daemon's restart policy.
    pub policy: Policy,
    /// The boot id, for run records.
    pub boot_id: &'a str,
    /// All agents are being stopped, as the daemon ends.
    pub shutdown: bool,
    /// Where actions go.
    pub out: &'a mut Vec<Action>,
    /// Where sentences for the server go.
    pub reported: &'a mut Vec<(Name, String)>,
}

impl StepContext<'_> {
    fn log(&mut self, level: Level, name: &str, text: Arguments) {
        log(self.out, level, format_args!("agent \"{name}\": {text}"));
    }

    /// Logs and tells the server.
    fn log_and_report(&mut self, level: Level, name: &Name, text: Arguments) {
        self.log(level, name, text);
        self.reported.push((name.clone(), text.to_string()));
    }
}

/// One agent: what it is, what it should be, what it is doing.
#[derive(Clone, Debug, PartialEq)]
pub struct Agent {
    /// What is kept over reboots.
    pub record: AgentRecord,
    /// Its definition; `None` when it is gone and the agent with it.
    pub definition: Option<Definition>,
    /// What it is doing.
    pub state: AgentState,
    /// Counts starts, so that one start can be told from the next.
    pub generation: u32,
    /// The mark of the definition that it was last started by, as far as that is known.
    fingerprint: Option<u64>,
    /// Abnormal ends in a row.
    failures: u32,
    /// Its last end was by force.
    killed: bool,
    /// Processes of an earlier daemon's time may be about: look before a start.
    leftovers: bool,
    /// It ended normally, and is not to be restarted.
    finished: bool,
    /// What is said about its last end.
    detail: Box<str>,
    limits_by: Option<Box<str>>,
    poll: (bool, bool),
    over_cpu: u32,
    check_failures: u32,
    /// Its check has passed since its start.
    check_passed: bool,
    /// The last measurement: when, and the processor time of the tree until then.
    sample: Option<(Time, Duration)>,
    /// The same at the last check of polled limits: what people ask in between is no check.
    check_sample: Option<(Time, Duration)>,
    /// Processor share in percent between the last two measurements.
    cpu: Option<f64>,
    memory: Option<u64>,
    /// Packages must be signed, so that of what jobs set only those variables count that its definition names.
    signed: bool,
}

impl Agent {
    /// An agent that does nothing yet. `leftovers`: an earlier daemon of this boot may have left processes behind; `signed`:
    /// packages must be signed.
    pub fn new(record: AgentRecord, definition: Option<Definition>, leftovers: bool, signed: bool) -> Agent {
        Agent {
            record,
            definition,
            state: AgentState::Down,
            generation: 0,
            fingerprint: None,
            failures: 0,
            killed: false,
            leftovers,
            finished: false,
            detail: "".into(),
            limits_by: None,
            poll: (false, false),
            over_cpu: 0,
            check_failures: 0,
            check_passed: false,
            sample: None,
            check_sample: None,
            cpu: None,
            memory: None,
            signed,
        }
    }

    /// The time it has between the polite signal and SIGKILL; the usual one when its definition is gone.
    pub fn stopsecs(&self) -> Duration {
        self.definition.as_ref().map_or(STOPSECS, |definition| definition.spec.stopsecs)
    }

    /// Its name.
    pub fn name(&self) -> &Name {
        &self.record.name
    }

    /// Whether it should run.
    pub fn wanted(&self) -> Wanted {
        let first = self.definition.as_ref().is_some_and(|definition| definition.spec.autostart);
        self.record.wanted.unwrap_or(if first { Wanted::Up } else { Wanted::Down })
    }

    /// Its version: what a job installed, else what its definition says.
    pub fn version(&self) -> &str {
        match (&self.record.package, &self.definition) {
            (Some(package), _) => &package.version,
            (None, Some(definition)) => &definition.spec.version,
            (None, None) => "",
        }
    }

    /// Its definition with the environment and limits that jobs gave laid over.
    pub fn spec(&self) -> Option<Spec> {
        let mut spec = Spec::clone(&self.definition.as_ref()?.spec);
        if let Some(envs) = &self.record.envs {
            let counts = |key: &str| !self.signed || may_set(key, self.definition.as_ref());
            for (key, value) in envs.iter().filter(|(key, _)| counts(key)) {
                spec.envs.retain(|(known, _)| known != key);
                spec.envs.push((key.clone(), value.clone()));
            }
        }
        if let Some(limits) = &self.record.limits {
            spec.limits.cpu = limits.cpu.or(spec.limits.cpu);
            spec.limits.memory = limits.memory.or(spec.limits.memory);
            for (resource, value) in &limits.resources {
                spec.limits.resources.retain(|(known, _)| known != resource);
                spec.limits.resources.push((*resource, *value));
            }
        }
        Some(spec)
    }

    /// The variables that jobs have set and that are not its own to have: its definition does not name them (any more), and
    /// packages must be signed.
    fn unnamed_envs(&self) -> String {
        match self.signed {
            true => unnamed(self.record.envs.as_ref(), self.definition.as_ref()),
            false => String::new(),
        }
    }

    /// Nothing of it is there, and nothing will be without an order.
    pub fn is_down(&self) -> bool {
        matches!(self.state, AgentState::Down | AgentState::Fatal)
    }

    /// Whether it is down, or comes to that without a start in between.
    pub fn is_going_down(&self) -> bool {
        match &self.state {
            AgentState::Stopping(stopping) => matches!(stopping.after, AfterStop::Down | AfterStop::Fatal),
            AgentState::Down | AgentState::Fatal => true,
            AgentState::Waiting { .. }
            | AgentState::Starting
            | AgentState::Forking { .. }
            | AgentState::Running { .. } => false,
        }
    }

    /// Whether it is down only because nobody has started it yet.
    pub fn is_fresh(&self) -> bool {
        self.state == AgentState::Down && !self.finished
    }

    /// Whether its health check has passed since its start; one that has none is healthy.
    pub fn is_healthy(&self) -> bool {
        self.check_passed || self.definition.as_ref().is_none_or(|definition| definition.spec.check.is_none())
    }

    /// When its main process was started, while that runs.
    pub fn running_since(&self) -> Option<Time> {
        match self.state {
            AgentState::Running { since, .. } => Some(since),
            _ => None,
        }
    }

    /// Whether a limit of it must be polled now.
    pub fn polled(&self) -> bool {
        (self.poll.0 || self.poll.1) && matches!(self.state, AgentState::Running { .. })
    }

    /// Whether it was last started by another definition than the one it has.
    pub fn is_outdated(&self) -> bool {
        self.fingerprint.zip(self.spec()).is_some_and(|(mark, spec)| mark != spec.fingerprint())
    }

    /// It was, or is being, started by the definition of this mark; unless known, that is the one it has.
    fn note_fingerprint(&mut self, mark: Option<u64>) {
        self.fingerprint = mark.or_else(|| self.spec().map(|spec| spec.fingerprint()));
    }

    /// Its main process, or its starter, while it is alive.
    pub fn process(&self) -> Option<Process> {
        match &self.state {
            AgentState::Running { process, .. } => Some(*process),
            AgentState::Forking { starter, .. } => *starter,
            AgentState::Stopping(stopping) => stopping.main_process.map(|(process, _)| process),
            AgentState::Down | AgentState::Waiting { .. } | AgentState::Fatal | AgentState::Starting => None,
        }
    }

    /// Gives it another definition; the caller restarts it if that is a change.
    pub fn define(&mut self, definition: Option<Definition>) {
        self.definition = definition;
    }

    fn set_last_end(&mut self, text: Arguments, tail: &str, level: Level, context: &mut StepContext) {
        let between = if tail.is_empty() { "" } else { ": " };
        let text = format!("{text}{between}{tail}");
        context.log_and_report(level, &self.record.name, format_args!("{text}"));
        self.detail = text.into();
    }

    /// Notes what matters to this boot.
    fn save(&self, context: &mut StepContext) {
        context.out.push(Action::SaveRun(Box::new(self.run_record(context.boot_id))));
    }

    fn log_impossible(&self, event: &str, context: &mut StepContext) {
        context.log(Level::Warn, &self.record.name, format_args!("\"{event}\" while {}, ignored", self.state.name()));
    }

    /// Where its definition comes from.
    pub fn origin(&self) -> Option<Origin> {
        self.definition.as_ref().map(|definition| definition.origin)
    }
}

/// A wait in whole seconds, as people read it: never shorter than it is.
fn seconds_rounded_up(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

fn stopsignal(definition: &Option<Definition>) -> Sig {
    definition.as_ref().map_or(Sig::TERM, |definition| definition.spec.stopsignal)
}

#[cfg(test)]
mod tests;
