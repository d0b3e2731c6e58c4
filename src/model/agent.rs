//! One agent's state machine.
//!
//! | state | `request_start` | `request_stop` | `started` | `not_started` | `exited` | `process_count` 0 | more than 0 | `due` |
//! |---|---|---|---|---|---|---|---|---|
//! | Down, Fatal | start | Down | - | - | - | - | - | - |
//! | Waiting | start | Down | - | - | - | - | - | start at `until` |
//! | Starting | - | Stopping | Running, Forking | policy, or Stopping (what its `prestart` has left) | - | - | - | - |
//! | Prestart | - | Stopping | - | policy | Starting, or Stopping | - | - | Stopping at the timeout |
//! | Forking | - | Stopping | - | policy | find the main process, or Stopping | - | - | find again, or Stopping at the timeout |
//! | Running | - | Stopping | - | policy | Stopping (its other processes) | - | - | health check |
//! | Stopping | start afterwards | stay down afterwards | signal the process | count | count | conclude | signal, count again | SIGKILL, count again |
//!
//! An agent with a `prestart` goes from Starting to Prestart (`prestart_started`), and with its end back to Starting.
//!
//! "policy" is what `restart::judge` says; "conclude" does what `AfterStop` says, once the main process is gone too. When
//! the host cannot start a process for lack of resources, Starting becomes Waiting. A dash is an event that cannot happen
//! in that state: it changes nothing, and is logged where it shows a fault.
//!
//! Events come in from `model::state`, with the time and a place for actions in `StepContext`. `agent_state` has the
//! states, `requests` has how an agent starts and stops, `events` what happens to it and what is due, `watch` polled limits
//! and health checks, `resume` how a new daemon takes it over, `report` what is reported about it.

mod agent_state;
mod events;
mod report;
mod requests;
mod resume;
mod watch;

use std::fmt::Arguments;
use std::time::Duration;

use crate::kernel::{Exit, Level, Process, Sig, Time};
use crate::model::enforcement::{Enforcement, Polled};
use crate::model::event::{log, Action, Definition, Origin, Scope};
use crate::model::record::{AgentRecord, Wanted};
use crate::model::restart::{End, Policy};
use crate::model::spec::{Autorestart, Check, Fingerprints, KillMode, Kind, Name, Program, Spec, STOPSECS};
use crate::model::trust::{may_set, unnamed};
pub use agent_state::{AfterStop, AgentState, Health, LastEnd, Stopping};

/// The first and the longest pause between two counts of an agent's remaining processes.
const COUNT_INTERVAL: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// How long a forking agent's starter may run: a starter that does not end is an agent that stays in the foreground.
const STARTER_TIMEOUT: Duration = Duration::from_secs(90);

/// How long the main process of a forking agent is searched for after the end of its starter, unless `startsecs` is longer.
const MAIN_PROCESS_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the pid file is looked at for another main process, after one that has ended with status 0. A new gunicorn writes
/// its own after it has seen the end of the old one.
const HANDOVER_TIMEOUT: Duration = Duration::from_secs(3);

/// How long an agent that says when it is ready may take for that: this many times `startsecs`, and at least so long.
const READY_TIMEOUT: (u32, Duration) = (10, Duration::from_secs(90));

/// The pauses between two searches for a main process: while it is awaited, and while the agent runs without one that is known.
const SEARCH_PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// The time between two SIGKILLs to a health check or a tool that has not ended yet.
pub const KILL_INTERVAL: Duration = Duration::from_secs(5);

/// The wait before the next attempt of a start that failed because the host lacked resources.
const RESOURCE_RETRY_DELAY: Duration = Duration::from_secs(10);

/// How far the start time of a process may be from the time of its order: the kernel counts it in hundredths of a second.
const START_TIME_ERROR: Duration = Duration::from_millis(20);

/// How many checks in a row over a polled CPU limit end in a kill.
const CPU_CHECKS: u32 = 3;

/// What one step of an agent is given besides its event.
pub struct StepContext<'a> {
    /// The monotonic clock.
    pub now: Time,
    /// The daemon's restart policy.
    pub policy: Policy,
    /// The boot id, for run records.
    pub boot_id: &'a str,
    /// All agents are being stopped, as the daemon shuts down.
    pub shutdown: bool,
    /// Gets the actions.
    pub out: &'a mut Vec<Action>,
    /// Gets the sentences for the server, each with the agent's name.
    pub reported: &'a mut Vec<(Name, String)>,
}

impl StepContext<'_> {
    fn log(&mut self, level: Level, name: &str, text: Arguments) {
        log(self.out, level, format_args!("agent \"{name}\": {text}"));
    }

    /// Logs a sentence, and reports it to the server.
    fn log_and_report(&mut self, level: Level, name: &Name, text: Arguments) {
        self.log(level, name, text);
        self.reported.push((name.clone(), text.to_string()));
    }
}

/// One agent: its definition, whether it should run, and what it is doing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Agent {
    /// What is remembered over reboots.
    pub record: AgentRecord,
    /// Its definition; `None` if that was removed, and the agent with it.
    pub definition: Option<Definition>,
    /// What it is doing.
    pub state: AgentState,
    /// Counts its starts.
    pub generation: u32,
    /// The fingerprints of the definition that it was last started with, if known.
    started_with: Option<Fingerprints>,
    /// Abnormal ends in a row.
    failures: u32,
    /// Its last end was by force.
    killed: bool,
    /// When its last start was ordered, if it is not known to have been made since.
    start_ordered: Option<Time>,
    /// Its `prestart` is to come, or runs.
    prepares: bool,
    /// Processes that an earlier daemon started may still run: they are ended before the next start.
    leftovers: bool,
    /// Its runs may have left processes that are spared, as `KillMode::Main` says: the start time of the first process of its
    /// last run, in ticks since boot. What is older was left by earlier runs.
    spares: Option<u64>,
    /// How many such processes there were at the last measurement.
    spared: u32,
    /// The next stop ends all its processes, also those that are spared otherwise: it is being removed, or is out of memory.
    ends_all: bool,
    /// It ended normally, and is not restarted without a request.
    finished: bool,
    /// It did so with status 0, as seen by this daemon.
    succeeded: bool,
    /// How it ended last, a sentence for people.
    detail: Box<str>,
    /// What it has said that it is doing, a sentence for people; empty if nothing.
    said: Box<str>,
    /// It may have said that it is ready when no daemon listened.
    unheard: bool,
    /// What enforces its limits.
    enforcement: Enforcement,
    /// Checks in a row over the polled CPU limit.
    over_cpu: u32,
    /// Failed health checks in a row.
    check_failures: u32,
    /// Its health check has passed since its start.
    check_passed: bool,
    /// The last measurement: when, and the processor time used until then.
    sample: Option<(Time, Duration)>,
    /// The same of the last check of polled limits, as other measurements, for a status, do not count as checks.
    check_sample: Option<(Time, Duration)>,
    /// Its processor share in percent between the last two measurements.
    cpu: Option<f64>,
    /// Its memory at the last measurement, bytes.
    memory: Option<u64>,
    /// Packages must be signed, so that jobs may set only the environment variables that its definition names.
    signed: bool,
    /// What the host has instead of the package that a job installed, as somebody has removed or replaced that by hand;
    /// empty: nothing. `None`: it has the package, or has not answered yet.
    pub replaced_by: Option<Box<str>>,
    /// The host has answered what it has of that package since somebody, or a job, may have changed it.
    pub inventoried: bool,
}

impl Agent {
    /// An agent that is down. `leftovers`: processes that an earlier daemon of this boot started may still run; `signed`:
    /// packages must be signed.
    pub fn new(record: AgentRecord, definition: Option<Definition>, leftovers: bool, signed: bool) -> Agent {
        Agent { record, definition, leftovers, signed, ..Agent::default() }
    }

    /// What its definition says, without what jobs have set.
    pub fn own_spec(&self) -> Option<&Spec> {
        self.definition.as_ref().map(|definition| &*definition.spec)
    }

    /// The time between its stop signal and SIGKILL; the default if it has no definition any more.
    pub fn stopsecs(&self) -> Duration {
        self.own_spec().map_or(STOPSECS, |spec| spec.stopsecs)
    }

    /// How long a start must last to count as done.
    pub fn startsecs(&self) -> Duration {
        self.own_spec().map_or(Duration::ZERO, |spec| spec.startsecs)
    }

    /// Which of its processes a stop ends. Without a definition it ends as it was started.
    fn kill_mode(&self) -> KillMode {
        let without = if self.spares() { KillMode::Main } else { KillMode::Tree };
        self.own_spec().map_or(without, |spec| spec.kill)
    }

    /// Whether its runs may have left processes that are spared.
    pub fn spares(&self) -> bool {
        self.spares.is_some()
    }

    /// The start time of the first process of its present run, in ticks since boot; `None` unless it runs and spares what
    /// earlier runs have left.
    pub fn run_began(&self) -> Option<u64> {
        match &self.state {
            AgentState::Running { .. } | AgentState::Forking { .. } | AgentState::Prestart { .. } => self.spares,
            AgentState::Stopping(stopping) if stopping.main_process.is_some() || stopping.scope == Scope::Run => {
                self.spares
            }
            _ => None,
        }
    }

    /// Notes the first process of a run.
    fn note_begin(&mut self, first: Process) {
        self.spares = self.spares.map(|_| first.ticks);
    }

    /// How long its main process is searched for.
    fn search_time(&self) -> Duration {
        self.startsecs().max(MAIN_PROCESS_TIMEOUT)
    }

    /// How long it may take to say that it is ready.
    fn ready_time(&self) -> Duration {
        self.startsecs().saturating_mul(READY_TIMEOUT.0).max(READY_TIMEOUT.1)
    }

    /// Whether it runs and has not said yet that it is ready.
    pub(super) fn is_unready(&self) -> bool {
        matches!(self.state, AgentState::Running { ready_by: Some(_), .. })
    }

    /// The state of an agent whose main process was just started.
    fn running(&self, process: Process, now: Time) -> AgentState {
        let notify = self.own_spec().is_some_and(|spec| spec.kind == Kind::Notify);
        let ready_by = notify.then(|| now + self.ready_time());
        let health = if notify { Health::Off } else { self.first_check(now) };
        AgentState::Running { process, since: now, health, ready_by }
    }

    /// What is run before its start.
    fn prestart(&self) -> Option<&Program> {
        self.own_spec()?.prestart.as_deref()
    }

    /// The pid file of a forking agent.
    fn pidfile(&self) -> Option<&str> {
        self.own_spec()?.pidfile.as_deref()
    }

    /// Whether it counts as running without a main process that is known: its starter has ended, several of its processes
    /// could be the main process, and no pid file will name it.
    pub(super) fn runs_headless(&self) -> bool {
        match &self.state {
            // The long pause follows a search after the time for it that has found several processes.
            AgentState::Forking { ask: Some((next, until)), before: None, .. } => *next >= *until + SEARCH_PAUSES.1,
            _ => false,
        }
    }

    /// Its name.
    pub fn name(&self) -> &Name {
        &self.record.name
    }

    /// Whether it should run.
    pub fn wanted(&self) -> Wanted {
        let autostart = self.own_spec().is_some_and(|spec| spec.autostart);
        self.record.wanted.unwrap_or(if autostart { Wanted::Up } else { Wanted::Down })
    }

    /// A job has changed its package: what the host has answered of it does not count any more.
    pub fn forget_inventory(&mut self) {
        (self.replaced_by, self.inventoried) = (None, false);
    }

    /// The version of the package that a job installed, or what is in its place; without a package that of its definition;
    /// empty without either.
    pub fn version(&self) -> &str {
        match &self.record.package {
            Some(package) => self.replaced_by.as_ref().unwrap_or(&package.version),
            None => self.own_spec().map_or("", |spec| &spec.version),
        }
    }

    /// Its definition, with the environment and the limits that jobs have set.
    pub fn spec(&self) -> Option<Spec> {
        let mut spec = self.own_spec()?.clone();
        if let Some(envs) = &self.record.envs {
            let is_allowed = |key: &str| !self.signed || may_set(key, self.definition.as_ref());
            for (key, value) in envs.iter().filter(|(key, _)| is_allowed(key)) {
                spec.envs.retain(|(known, _)| known != key);
                spec.envs.push((key.clone(), value.clone()));
            }
        }
        if let Some(limits) = &self.record.limits {
            spec.limits.cpu = limits.cpu.or(spec.limits.cpu);
            spec.limits.memory = limits.memory.or(spec.limits.memory);
            spec.limits.tasks = limits.tasks.or(spec.limits.tasks);
            for (resource, value) in &limits.resources {
                spec.limits.resources.retain(|(known, _)| known != resource);
                spec.limits.resources.push((*resource, *value));
            }
        }
        Some(spec)
    }

    /// The environment variables that jobs have set and that do not count, as packages must be signed and its definition
    /// does not name them (any more).
    fn unnamed_envs(&self) -> String {
        match self.signed {
            true => unnamed(self.record.envs.as_ref(), self.definition.as_ref()),
            false => String::new(),
        }
    }

    /// Whether no process of it runs, and none is started without a request.
    pub fn is_down(&self) -> bool {
        matches!(self.state, AgentState::Down | AgentState::Fatal)
    }

    /// Whether it runs or is being started, and is not being stopped.
    pub fn is_up(&self) -> bool {
        !self.is_over() && !matches!(self.state, AgentState::Stopping(_))
    }

    /// Whether no process of its last run is left, so that what that run had made can go.
    pub fn is_over(&self) -> bool {
        matches!(self.state, AgentState::Down | AgentState::Waiting { .. } | AgentState::Fatal)
    }

    /// Its stop, if one of its processes cannot be signalled and it can go on only when that has ended by itself.
    pub fn is_stuck(&self) -> Option<&Stopping> {
        match &self.state {
            AgentState::Stopping(stopping) if stopping.killed && stopping.refused => Some(stopping),
            _ => None,
        }
    }

    /// Of an agent that is never restarted, and whose start with this number has ended with status 0: whether nothing of it is
    /// left. `None` for any other.
    pub fn has_run(&self, generation: u32) -> Option<bool> {
        let is_one_shot = |spec: &Spec| spec.autorestart == Autorestart::Never;
        if self.generation != generation || !self.own_spec().is_some_and(is_one_shot) {
            return None;
        }
        match &self.state {
            AgentState::Down if self.succeeded => Some(true),
            AgentState::Stopping(stopping) if stopping.after == AfterStop::Policy(End::Exited(Exit::Code(0))) => {
                Some(false)
            }
            _ => None,
        }
    }

    /// Whether it is down, or will be without a start in between.
    pub fn is_going_down(&self) -> bool {
        match &self.state {
            AgentState::Stopping(stopping) => matches!(stopping.after, AfterStop::Down | AfterStop::Fatal),
            AgentState::Down | AgentState::Fatal => true,
            AgentState::Waiting { .. }
            | AgentState::Starting
            | AgentState::Prestart { .. }
            | AgentState::Forking { .. }
            | AgentState::Running { .. } => false,
        }
    }

    /// Whether it is down only because it has not been started yet.
    pub fn is_fresh(&self) -> bool {
        self.state == AgentState::Down && !self.finished
    }

    /// Its health check.
    fn check(&self) -> Option<&Check> {
        self.own_spec()?.check.as_deref()
    }

    /// Whether its health check has passed since its start; always, if it has no health check.
    pub fn is_healthy(&self) -> bool {
        self.check_passed || self.check().is_none()
    }

    /// When it was started; `None` unless its main process runs.
    pub fn running_since(&self) -> Option<Time> {
        match self.state {
            AgentState::Running { since, ready_by: None, .. } => Some(since),
            _ => None,
        }
    }

    /// Whether it runs and has a limit that must be polled.
    pub fn polled(&self) -> bool {
        self.enforcement.polled != Polled::default() && matches!(self.state, AgentState::Running { .. })
    }

    /// Whether it was last started with another definition than the one it has.
    pub fn is_outdated(&self) -> bool {
        self.started_with.zip(self.spec()).is_some_and(|(started_with, spec)| !started_with.fit(&spec))
    }

    /// Remembers the definition that it was started with; `None` stands for the one it has, as does what fits that.
    fn note_started_with(&mut self, fingerprints: Option<Fingerprints>) {
        let own = self.spec();
        let other = fingerprints.filter(|known| !own.as_ref().is_some_and(|own| known.fit(own)));
        self.started_with = other.or_else(|| own.map(|own| own.fingerprints()));
    }

    /// Its main process, its starter or its `prestart`, if that is alive.
    pub fn process(&self) -> Option<Process> {
        match &self.state {
            AgentState::Running { process, .. } | AgentState::Prestart { process, .. } => Some(*process),
            AgentState::Forking { starter, .. } => *starter,
            AgentState::Stopping(stopping) => stopping.main_process.map(|(process, _)| process),
            AgentState::Down | AgentState::Waiting { .. } | AgentState::Fatal | AgentState::Starting => None,
        }
    }

    /// Remembers how it ended, for its detail, and logs and reports it; `tail`: the last lines of its output.
    fn set_last_end(&mut self, text: Arguments, tail: &str, level: Level, context: &mut StepContext) {
        let between = if tail.is_empty() { "" } else { ": " };
        let text = format!("{text}{between}{tail}");
        context.log_and_report(level, &self.record.name, format_args!("{text}"));
        self.detail = text.into();
    }

    /// Has its run record written.
    fn save(&self, context: &mut StepContext) {
        context.out.push(Action::SaveRun(Box::new(self.run_record(context.boot_id))));
    }

    fn log_impossible(&self, event: &str, context: &mut StepContext) {
        let text = format_args!("unexpected event \"{event}\" in state \"{}\", ignored", self.state.name());
        context.log(Level::Warn, &self.record.name, text);
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

/// What a stop of these processes of the agent begins with.
fn stopsignal(name: Name, scope: Scope, definition: &Option<Definition>) -> Action {
    match definition.as_ref().map(|definition| (definition.spec.kill, definition.spec.stopsignal)) {
        Some((KillMode::Mixed, sig)) => Action::Signal(name, Scope::Main, sig),
        Some((KillMode::Tree | KillMode::Main, sig)) => Action::Signal(name, scope, sig),
        None => Action::Signal(name, scope, Sig::TERM),
    }
}

#[cfg(test)]
mod tests;
