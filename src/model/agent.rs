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
//! "policy" is `restart::judge`; "conclude" does what the stop was for: stay down, start again, or the policy. A dash is
//! an event that cannot happen there; it is logged and changes nothing.

use std::time::Duration;

use crate::kernel::{Decimal, Exit, Level, Process, Sig, Time};
use crate::model::event::{Action, Definition, Origin, Usage};
use crate::model::record::{AgentRecord, RunRecord, Wanted};
use crate::model::report::{AgentReport, Status};
use crate::model::restart::{judge, End, Policy, Verdict};
use crate::model::spec::{Kind, Name, Spec};

/// The first and the longest pause between two looks at what is left of a tree.
const LOOK: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// The time of a restart that is not to be.
const NEVER: Time = Time(u64::MAX);

/// How long a forking agent's starter may run: one that stays is an agent that does not go into the background.
const STARTER: Duration = Duration::from_secs(90);

/// How long a forking agent's starter may have ended before its main process is known.
const FIND_MAIN: Duration = Duration::from_secs(10);

/// How long after a SIGKILL the next one follows, for what did not end by the first.
pub const KILL_AGAIN: Duration = Duration::from_secs(5);

/// How long after a start that the host had nothing to spare for the next one follows.
const SHORT: Duration = Duration::from_secs(10);

/// Checks in a row over a polled CPU limit that end in a kill.
const CPU_CHECKS: u32 = 3;

/// What surrounds one step of an agent.
pub struct Turn<'a> {
    /// The monotonic clock.
    pub now: Time,
    /// The daemon's restart policy.
    pub policy: Policy,
    /// The boot id, for run records.
    pub boot_id: &'a str,
    /// Where actions go.
    pub out: &'a mut Vec<Action>,
    /// Where sentences for the server go.
    pub told: &'a mut Vec<(Name, String)>,
}

impl Turn<'_> {
    fn log(&mut self, level: Level, name: &str, text: &str) {
        self.out.push(Action::Log(level, format!("agent \"{name}\": {text}")));
    }

    /// Logs and tells the server.
    fn tell(&mut self, level: Level, name: &str, text: &str) {
        self.log(level, name, text);
        self.told.push((name.into(), text.to_string()));
    }
}

/// What an agent is doing.
#[derive(Clone, Debug, PartialEq)]
pub enum Life {
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

impl Life {
    fn name(&self) -> &'static str {
        match self {
            Life::Down => "down",
            Life::Waiting { .. } => "waiting",
            Life::Fatal => "fatal",
            Life::Starting => "starting",
            Life::Forking { .. } => "forking",
            Life::Running { .. } => "running",
            Life::Stopping(_) => "stopping",
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
    pub then: Then,
    /// The main process while it is alive, and when it was started.
    pub leader: Option<(Process, Time)>,
    /// How long the main process had been running when this began.
    pub ran: Duration,
    /// When SIGKILL follows; `None` while the polite signal was not sent.
    pub kill_at: Option<Time>,
    /// SIGKILL was sent.
    pub killed: bool,
    /// Its process is being made: whether there is one is not known yet.
    pub starting: bool,
    /// When to look next at what is left; `None` while the end of the main process is awaited.
    pub look_at: Option<Time>,
    /// The pause after that look.
    pub pause: Duration,
}

/// What follows a stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// It stays down, as ordered.
    Down,
    /// It is started, as ordered.
    Up,
    /// The restart policy says.
    Policy(End),
}

/// One agent: what it is, what it should be, what it is doing.
#[derive(Clone, Debug, PartialEq)]
pub struct Agent {
    /// What is kept over reboots.
    pub record: AgentRecord,
    /// Its definition; `None` when it is gone and the agent with it.
    pub definition: Option<Definition>,
    /// What it is doing.
    pub life: Life,
    /// Counts starts, so that one start can be told from the next.
    pub generation: u32,
    /// Abnormal ends in a row.
    failures: u32,
    /// Its last end was by force.
    killed: bool,
    /// Processes of an earlier daemon's time may be about: look before a start.
    leftovers: bool,
    /// It ended normally, and is not to be restarted.
    rests: bool,
    /// What is said about its last end.
    detail: Box<str>,
    limits_by: Option<Box<str>>,
    poll: (bool, bool),
    over_cpu: u32,
    check_failures: u32,
    /// Its check has passed since its start.
    passed: bool,
    /// The last measurement: when, and the processor time of the tree until then.
    sample: Option<(Time, Duration)>,
    /// The same at the last check of polled limits: what people ask in between is no check.
    check_sample: Option<(Time, Duration)>,
    /// Processor share in percent between the last two measurements.
    cpu: Option<f64>,
    memory: Option<u64>,
}

impl Agent {
    /// An agent that does nothing yet. `leftovers`: an earlier daemon of this boot may have left processes behind.
    pub fn new(record: AgentRecord, definition: Option<Definition>, leftovers: bool) -> Agent {
        Agent {
            record,
            definition,
            life: Life::Down,
            generation: 0,
            failures: 0,
            killed: false,
            leftovers,
            rests: false,
            detail: "".into(),
            limits_by: None,
            poll: (false, false),
            over_cpu: 0,
            check_failures: 0,
            passed: false,
            sample: None,
            check_sample: None,
            cpu: None,
            memory: None,
        }
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
            for (key, value) in envs {
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

    /// Nothing of it is there, and nothing will be without an order.
    pub fn is_down(&self) -> bool {
        matches!(self.life, Life::Down | Life::Fatal)
    }

    /// Whether it is down, or comes to that without a start in between.
    pub fn is_going_down(&self) -> bool {
        match &self.life {
            Life::Stopping(stopping) => stopping.then == Then::Down,
            Life::Down | Life::Fatal => true,
            Life::Waiting { .. } | Life::Starting | Life::Forking { .. } | Life::Running { .. } => false,
        }
    }

    /// Whether it is down only because nobody has started it yet.
    pub fn is_fresh(&self) -> bool {
        self.life == Life::Down && !self.rests
    }

    /// Whether its health check has passed since its start; one that has none is healthy.
    pub fn is_healthy(&self) -> bool {
        self.passed || self.definition.as_ref().is_none_or(|definition| definition.spec.check.is_none())
    }

    /// When its main process was started, while that runs.
    pub fn running_since(&self) -> Option<Time> {
        match self.life {
            Life::Running { since, .. } => Some(since),
            _ => None,
        }
    }

    /// Whether a limit of it must be polled now.
    pub fn polled(&self) -> bool {
        (self.poll.0 || self.poll.1) && matches!(self.life, Life::Running { .. })
    }

    /// Takes over what an earlier daemon of this boot noted; `alive`: its main process is still there; `strays`: other
    /// processes of it are.
    pub fn resume(&mut self, run: &RunRecord, alive: bool, strays: bool, turn: &mut Turn) {
        self.failures = run.failures;
        self.killed = run.killed;
        self.detail = run.detail.clone();
        match run.process {
            process if run.stopping => {
                let then = if self.wanted() == Wanted::Up { Then::Up } else { Then::Down };
                let leader = process.filter(|_| alive).map(|process| (process, run.started));
                let ran = leader.map_or(Duration::ZERO, |_| turn.now.since(run.started));
                self.stop(then, leader, ran, turn);
                self.look(turn);
            }
            _ if run.forking && (alive || strays) => {
                self.generation += 1;
                let starter = run.process.filter(|_| alive);
                let ask = starter.is_none().then_some((turn.now, turn.now + FIND_MAIN));
                self.life = Life::Forking { starter, since: run.started, ask };
            }
            Some(process) if alive => {
                self.generation += 1;
                self.life = Life::Running { process, since: run.started, health: self.first_check(turn.now) };
                turn.tell(
                    Level::Info,
                    &run.name,
                    &format!("taken over with process {process_id}", process_id = process.pid),
                );
            }
            Some(_) => {
                let ran = turn.now.since(run.started);
                self.killed = false;
                self.set_end("ended while no daemon was watching, status unknown", "", Level::Warn, turn);
                self.stop(Then::Policy(End::Exited(Exit::Unknown)), None, ran, turn);
            }
            None if run.fatal => self.life = Life::Fatal,
            None => {
                self.rests = run.restart_at == Some(NEVER);
                if let Some(until) = run.restart_at.filter(|until| *until != NEVER) {
                    self.life = Life::Waiting { until };
                }
            }
        }
    }

    /// Processes of it run although no record says so: its main process, started then, if one can be told to be it. They
    /// are taken over, or ended before anything else is started.
    pub fn strayed(&mut self, main: Option<(Process, Time)>, turn: &mut Turn) {
        let forking = self.definition.as_ref().is_some_and(|definition| definition.spec.kind == Kind::Forking);
        match (&self.life, main) {
            // Known already, or looked for anyway.
            (Life::Starting | Life::Forking { .. } | Life::Running { .. } | Life::Stopping(_), _) => {}
            (Life::Down | Life::Waiting { .. } | Life::Fatal, Some((process, since))) => {
                self.generation += 1;
                self.life = if forking {
                    Life::Forking { starter: None, since, ask: Some((turn.now, turn.now + FIND_MAIN)) }
                } else {
                    Life::Running { process, since, health: self.first_check(turn.now) }
                };
                self.save(turn);
                let name = self.name().clone();
                turn.tell(
                    Level::Warn,
                    &name,
                    &format!("taken over with process {}, which no record knew", process.pid),
                );
            }
            (Life::Down | Life::Waiting { .. } | Life::Fatal, None) => {
                let name = self.name().clone();
                turn.tell(Level::Warn, &name, "an earlier daemon left processes of it, sent SIGKILL");
                turn.out.push(Action::Signal(name, Sig::KILL));
            }
        }
    }

    /// Starts it if nothing of it is there and nothing speaks against that, without forgetting earlier failures.
    pub fn wake(&mut self, turn: &mut Turn) {
        if self.is_fresh() {
            self.begin(turn);
        }
    }

    /// Its main process, or its starter, while it is alive.
    pub fn process(&self) -> Option<Process> {
        match &self.life {
            Life::Running { process, .. } => Some(*process),
            Life::Forking { starter, .. } => *starter,
            Life::Stopping(stopping) => stopping.leader.map(|(process, _)| process),
            Life::Down | Life::Waiting { .. } | Life::Fatal | Life::Starting => None,
        }
    }

    /// Gives it another definition; the caller restarts it if that is a change.
    pub fn define(&mut self, definition: Option<Definition>) {
        self.definition = definition;
    }

    /// Starts it unless it runs, forgetting earlier failures.
    pub fn order_up(&mut self, turn: &mut Turn) {
        self.failures = 0;
        match &mut self.life {
            Life::Down | Life::Fatal | Life::Waiting { .. } => self.begin(turn),
            Life::Forking { .. } | Life::Running { .. } => self.save(turn),
            Life::Starting => {}
            Life::Stopping(stopping) => {
                stopping.then = Then::Up;
                self.save(turn);
            }
        }
    }

    /// Stops it.
    pub fn order_down(&mut self, turn: &mut Turn) {
        match &mut self.life {
            Life::Down => {}
            Life::Waiting { .. } | Life::Fatal => {
                self.failures = 0;
                self.killed = false;
                self.detail = "stopped".into();
                self.life = Life::Down;
                self.save(turn);
            }
            Life::Stopping(stopping) => stopping.then = Then::Down,
            Life::Starting | Life::Forking { .. } | Life::Running { .. } => self.end(Then::Down, turn),
        }
    }

    /// Stops it if it runs, and starts it, forgetting earlier failures.
    pub fn order_restart(&mut self, turn: &mut Turn) {
        self.failures = 0;
        match &mut self.life {
            Life::Starting | Life::Forking { .. } | Life::Running { .. } => self.end(Then::Up, turn),
            Life::Down | Life::Fatal | Life::Waiting { .. } | Life::Stopping(_) => self.order_up(turn),
        }
    }

    /// Forgets earlier failures, as after a changed definition; starts it if it was given up or waits, and is wanted.
    pub fn pardon(&mut self, turn: &mut Turn) {
        self.failures = 0;
        if matches!(self.life, Life::Fatal | Life::Waiting { .. }) {
            match self.wanted() {
                Wanted::Up => self.begin(turn),
                Wanted::Down => self.order_down(turn),
            }
        }
    }

    /// What enforces its limits, whether its CPU and whether its memory must be polled.
    pub fn attached(&mut self, by: (Option<Box<str>>, bool, bool)) {
        self.limits_by = by.0;
        self.poll = (by.1, by.2);
    }

    /// Its process was made.
    pub fn started(&mut self, process: Process, by: (Option<Box<str>>, bool, bool), turn: &mut Turn) {
        self.attached(by);
        match &mut self.life {
            Life::Starting => {
                let forking = self.definition.as_ref().is_some_and(|definition| definition.spec.kind == Kind::Forking);
                self.life = if forking {
                    Life::Forking { starter: Some(process), since: turn.now, ask: None }
                } else {
                    Life::Running { process, since: turn.now, health: self.first_check(turn.now) }
                };
                self.save(turn);
                let name = self.name().clone();
                turn.log(Level::Info, &name, &format!("started, process {}", process.pid));
            }
            Life::Stopping(stopping) => {
                stopping.leader = Some((process, turn.now));
                stopping.starting = false;
                stopping.look_at = None;
                let sig = if stopping.killed { Sig::KILL } else { stopsignal(&self.definition) };
                turn.out.push(Action::Signal(self.record.name.clone(), sig));
            }
            Life::Down | Life::Waiting { .. } | Life::Fatal | Life::Forking { .. } | Life::Running { .. } => {
                self.illegal("started", turn);
            }
        }
    }

    /// Its process could not be made, or could not become the agent.
    pub fn not_started(&mut self, reason: &str, turn: &mut Turn) {
        match &mut self.life {
            Life::Starting | Life::Forking { .. } | Life::Running { .. } => {
                self.killed = false;
                self.set_end(&format!("cannot start: {reason}"), "", Level::Error, turn);
                self.conclude(Then::Policy(End::NotStarted), Duration::ZERO, turn);
            }
            Life::Stopping(stopping) => {
                (stopping.leader, stopping.starting) = (None, false);
                self.look(turn);
            }
            Life::Down | Life::Waiting { .. } | Life::Fatal => self.illegal("not started", turn),
        }
    }

    /// The host had nothing to spare for its start: tried again before long, and not counted.
    pub fn short(&mut self, reason: &str, turn: &mut Turn) {
        if self.life != Life::Starting {
            return self.not_started(reason, turn);
        }
        let text = format!("cannot start yet: {reason}");
        if *self.detail != *text {
            self.set_end(&text, "", Level::Error, turn);
        }
        turn.out.push(Action::Release(self.record.name.clone()));
        self.life = Life::Waiting { until: turn.now + SHORT };
        self.save(turn);
    }

    /// Its main process, or its starter, ended.
    pub fn exited(&mut self, exit: Exit, oom: Option<&str>, tail: &str, turn: &mut Turn) {
        match &mut self.life {
            Life::Running { since, health, .. } => {
                let ran = turn.now.since(*since);
                if matches!(health, Health::Busy { .. }) {
                    turn.out.push(Action::KillCheck(self.record.name.clone()));
                }
                self.ended(exit, oom, tail, ran, turn);
            }
            Life::Forking { starter, since, ask } => {
                *starter = None;
                // One that was taken over has no status.
                if matches!(exit, Exit::Code(0) | Exit::Unknown) {
                    *ask = Some((turn.now, turn.now + FIND_MAIN));
                    turn.out.push(Action::FindMain(self.record.name.clone()));
                } else {
                    let ran = turn.now.since(*since);
                    self.ended(exit, oom, tail, ran, turn);
                }
            }
            Life::Stopping(stopping) => {
                stopping.leader = None;
                self.look(turn);
            }
            Life::Down | Life::Waiting { .. } | Life::Fatal | Life::Starting => self.illegal("ended", turn),
        }
    }

    fn ended(&mut self, exit: Exit, oom: Option<&str>, tail: &str, ran: Duration, turn: &mut Turn) {
        self.killed = oom.is_some() || exit == Exit::Signal(Sig::KILL);
        let text = match oom {
            Some(oom) => format!("killed: {oom}"),
            None => exit.to_string(),
        };
        self.set_end(&format!("{text} after {} s", ran.as_secs()), tail, Level::Warn, turn);
        self.stop(Then::Policy(End::Exited(exit)), None, ran, turn);
    }

    /// The search for a forking agent's main process brought this.
    pub fn main_found(&mut self, found: Option<Process>, turn: &mut Turn) {
        let Life::Forking { starter: None, since, ask: Some((next, until)) } = &mut self.life else {
            return;
        };
        match found {
            Some(process) => {
                let since = *since;
                self.life = Life::Running { process, since, health: self.first_check(turn.now) };
                self.save(turn);
                let name = self.name().clone();
                turn.log(Level::Info, &name, &format!("started, process {}", process.pid));
            }
            None if turn.now < *until => *next = turn.now + Duration::from_millis(100),
            None => {
                self.killed = false;
                let text = format!(
                    "cannot start: its starter ended, and no main process is there after {} s",
                    FIND_MAIN.as_secs()
                );
                self.set_end(&text, "", Level::Error, turn);
                self.stop(Then::Policy(End::NotStarted), None, Duration::ZERO, turn);
            }
        }
    }

    /// So many processes of it are left.
    pub fn left(&mut self, count: u32, turn: &mut Turn) {
        let signal = stopsignal(&self.definition);
        let stopsecs = self.definition.as_ref().map_or(Duration::from_secs(10), |definition| definition.spec.stopsecs);
        let Life::Stopping(stopping) = &mut self.life else { return };
        if count == 0 && stopping.leader.is_none() && !stopping.starting {
            let (then, ran) = (stopping.then, stopping.ran);
            self.conclude(then, ran, turn);
            return;
        }
        if count > 0 && stopping.kill_at.is_none() {
            stopping.kill_at = Some(turn.now + stopsecs);
            turn.out.push(Action::Signal(self.record.name.clone(), signal));
        }
        stopping.look_at = Some(turn.now + stopping.pause);
        stopping.pause = (stopping.pause * 2).min(LOOK.1);
    }

    /// A process that is nobody's main process was reaped.
    pub fn stirred(&mut self, turn: &mut Turn) {
        if let Life::Stopping(stopping) = &self.life {
            if stopping.leader.is_none() {
                turn.out.push(Action::Look(self.record.name.clone()));
            }
        }
    }

    /// What its tree uses was measured; `check`: because polled limits were due, not because somebody wanted to know.
    pub fn measured(&mut self, usage: &Usage, check: bool, turn: &mut Turn) {
        if !matches!(self.life, Life::Running { .. }) {
            return;
        }
        self.memory = usage.memory;
        if let Some(total) = usage.cpu {
            if let Some(cpu) = share(&mut self.sample, total, turn.now) {
                self.cpu = Some(cpu);
            }
            if let Some(cpu) = check.then(|| share(&mut self.check_sample, total, turn.now)).flatten() {
                self.over_cpu(cpu, turn);
            }
        }
        self.over_memory(turn);
    }

    fn over_cpu(&mut self, cpu: f64, turn: &mut Turn) {
        let limit = self.limit(|record, spec| record.cpu.or(spec.cpu));
        let (true, Some(limit)) = (self.poll.0, limit) else { return };
        self.over_cpu = if cpu > f64::from(limit) / 100.0 { self.over_cpu + 1 } else { 0 };
        if self.over_cpu >= CPU_CHECKS {
            let (cpu, limit) = (Decimal::rounded(cpu, 10), Decimal::new(limit.into(), 100));
            self.kill_for_limit(
                &format!("CPU {cpu} % over the limit of {limit} % in {CPU_CHECKS} checks in a row"),
                turn,
            );
        }
    }

    fn over_memory(&mut self, turn: &mut Turn) {
        let limit = self.limit(|record, spec| record.memory.or(spec.memory));
        let (true, Some(limit), Some(memory)) = (self.poll.1, limit, self.memory) else { return };
        if memory > limit {
            self.kill_for_limit(&format!("memory {memory} bytes over the limit of {limit} bytes"), turn);
        }
    }

    fn limit<T>(
        &self,
        pick: impl Fn(&crate::model::spec::Limits, &crate::model::spec::Limits) -> Option<T>,
    ) -> Option<T> {
        let spec = &self.definition.as_ref()?.spec.limits;
        pick(self.record.limits.as_ref().unwrap_or(spec), spec)
    }

    /// It is over a limit: all of it is killed.
    pub fn kill_for_limit(&mut self, text: &str, turn: &mut Turn) {
        if matches!(self.life, Life::Running { .. } | Life::Forking { .. }) {
            self.set_end(&format!("killed: {text}"), "", Level::Warn, turn);
            self.killed = true;
            self.end(Then::Policy(End::Limit), turn);
        }
    }

    /// Its health check ended.
    pub fn checked(&mut self, exit: Exit, tail: &str, turn: &mut Turn) {
        let Some(check) = self.definition.as_ref().and_then(|definition| definition.spec.check.clone()) else { return };
        let Life::Running { health, .. } = &mut self.life else { return };
        let Health::Busy { late, .. } = *health else { return };
        *health = Health::Next(turn.now + check.interval);
        if exit == Exit::Code(0) {
            self.check_failures = 0;
            self.passed = true;
            return;
        }
        self.check_failures += 1;
        let why =
            if late { format!("not done within {} s", Decimal::seconds(check.timeout)) } else { exit.to_string() };
        let text = format!("health check {why}, {} of {} in a row", self.check_failures, check.retries);
        if self.check_failures < check.retries {
            let name = self.name().clone();
            turn.log(Level::Warn, &name, &text);
            return;
        }
        self.killed = false;
        self.set_end(&text, tail, Level::Warn, turn);
        self.end(Then::Policy(End::Unhealthy), turn);
    }

    /// The time came: does what is due.
    pub fn due(&mut self, turn: &mut Turn) {
        let name = self.record.name.clone();
        match &mut self.life {
            Life::Waiting { until } if *until <= turn.now => self.begin(turn),
            Life::Forking { ask: Some((next, _)), .. } if *next <= turn.now => turn.out.push(Action::FindMain(name)),
            Life::Forking { starter: Some(_), since, .. } if *since + STARTER <= turn.now => {
                let text = format!("cannot start: its starter has not ended after {} s", STARTER.as_secs());
                self.killed = false;
                self.set_end(&text, "", Level::Error, turn);
                self.end(Then::Policy(End::NotStarted), turn);
            }
            Life::Running { health, .. } => match *health {
                Health::Next(at) if at <= turn.now => {
                    let timeout = self.definition.as_ref().and_then(|definition| definition.spec.check.as_ref());
                    *health = timeout
                        .map_or(Health::Off, |check| Health::Busy { until: turn.now + check.timeout, late: false });
                    turn.out.push(Action::Check(name));
                }
                Health::Busy { until, .. } if until <= turn.now => {
                    *health = Health::Busy { until: turn.now + KILL_AGAIN, late: true };
                    turn.out.push(Action::KillCheck(name));
                }
                Health::Off | Health::Next(_) | Health::Busy { .. } => {}
            },
            Life::Stopping(stopping) => {
                if stopping.kill_at.is_some_and(|at| at <= turn.now) && !stopping.killed {
                    stopping.killed = true;
                    stopping.pause = LOOK.0;
                    stopping.look_at = Some(turn.now + LOOK.0);
                    turn.out.push(Action::Signal(name.clone(), Sig::KILL));
                    turn.log(Level::Warn, &name, "did not end in time, sent SIGKILL");
                } else if stopping.look_at.is_some_and(|at| at <= turn.now) {
                    if stopping.killed {
                        turn.out.push(Action::Signal(name.clone(), Sig::KILL));
                    }
                    // The answer sets the time of the next look; this is for an answer that does not come.
                    stopping.look_at = Some(turn.now + LOOK.1);
                    turn.out.push(Action::Look(name));
                }
            }
            Life::Down | Life::Waiting { .. } | Life::Fatal | Life::Starting | Life::Forking { .. } => {}
        }
    }

    /// When something is due next.
    pub fn deadline(&self) -> Option<Time> {
        match &self.life {
            Life::Waiting { until } => Some(*until),
            Life::Forking { starter: Some(_), since, .. } => Some(*since + STARTER),
            Life::Forking { ask, .. } => ask.map(|(next, _)| next),
            Life::Running { health, .. } => match health {
                Health::Off => None,
                Health::Next(at) | Health::Busy { until: at, .. } => Some(*at),
            },
            Life::Stopping(stopping) => {
                let kill = if stopping.killed { None } else { stopping.kill_at };
                [kill, stopping.look_at].into_iter().flatten().min()
            }
            Life::Down | Life::Fatal | Life::Starting => None,
        }
    }

    /// Its part of a report.
    pub fn report(&self, now: Time, policy: Policy) -> AgentReport {
        let process = self.process();
        let since = match &self.life {
            Life::Running { since, .. } | Life::Forking { starter: Some(_), since, .. } => *since,
            Life::Stopping(stopping) => stopping.leader.map_or(now, |(_, since)| since),
            Life::Forking { .. } | Life::Down | Life::Waiting { .. } | Life::Fatal | Life::Starting => now,
        };
        let running = process.is_some();
        AgentReport {
            name: self.record.name.clone(),
            version: self.version().into(),
            status: self.status(),
            uptime: now.since(since),
            pid: process.map_or(0, |process| process.pid.raw()),
            failures: self.failures,
            detail: self.detail(now, policy).into(),
            cpu: self.cpu.filter(|_| running),
            memory: self.memory.filter(|_| running),
            limits_by: self.limits_by.clone().filter(|_| running),
        }
    }

    /// Its state in the words of the protocol.
    pub fn status(&self) -> Status {
        let ended = if self.killed { Status::Killed } else { Status::Stopped };
        match &self.life {
            Life::Forking { starter: Some(_), .. } | Life::Running { .. } => Status::Running,
            Life::Stopping(stopping) if stopping.leader.is_some() && !self.killed => Status::Running,
            Life::Fatal => Status::Fatal,
            Life::Down | Life::Waiting { .. } | Life::Starting | Life::Forking { .. } | Life::Stopping(_) => ended,
        }
    }

    fn detail(&self, now: Time, policy: Policy) -> String {
        let said = &self.detail;
        match &self.life {
            Life::Waiting { until } => {
                let retries = self.definition.as_ref().map_or(policy, |definition| policy.of(&definition.spec)).retries;
                let wait = until.since(now);
                let wait = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
                format!("{said}; restart {} of {retries} in {wait} s", self.failures.max(1))
            }
            Life::Fatal => format!("{said}; given up after {} early ends in a row", self.failures),
            Life::Stopping(stopping) if stopping.leader.is_some() && !self.killed => format!("{said}; stopping"),
            Life::Running { .. } if self.check_failures > 0 => {
                format!("health check did not pass {} times in a row", self.check_failures)
            }
            Life::Running { .. } | Life::Forking { .. } | Life::Starting if self.failures == 0 => String::new(),
            Life::Running { .. } | Life::Forking { .. } => format!("last end: {said}"),
            Life::Down | Life::Starting | Life::Stopping(_) => said.to_string(),
        }
        .trim_start_matches("; ")
        .to_string()
    }

    /// What is said about its last end.
    pub fn last_end(&self) -> &str {
        &self.detail
    }

    fn first_check(&self, now: Time) -> Health {
        let spec = self.definition.as_ref().map(|definition| &definition.spec);
        let startsecs = spec.map_or(Duration::ZERO, |spec| spec.startsecs);
        match spec.and_then(|spec| spec.check.as_ref()) {
            // By then at the latest it must do what it is for.
            Some(check) => Health::Next(now + check.interval.min(startsecs)),
            None => Health::Off,
        }
    }

    fn set_end(&mut self, text: &str, tail: &str, level: Level, turn: &mut Turn) {
        let text = if tail.is_empty() { text.to_string() } else { format!("{text}: {tail}") };
        let name = self.name().clone();
        turn.tell(level, &name, &text);
        self.detail = text.into();
    }

    fn begin(&mut self, turn: &mut Turn) {
        if self.definition.is_none() {
            self.detail = "it has no definition that can be read".into();
            self.life = Life::Down;
            return;
        }
        if self.leftovers {
            self.leftovers = false;
            return self.stop(Then::Up, None, Duration::ZERO, turn);
        }
        self.generation += 1;
        self.rests = false;
        self.life = Life::Starting;
        // Whoever finds the process without its own record knows then that it is a new one.
        self.save(turn);
        (self.sample, self.check_sample, self.cpu, self.memory) = (None, None, None, None);
        (self.over_cpu, self.check_failures, self.passed) = (0, 0, false);
        turn.out.push(Action::Start(self.record.name.clone()));
    }

    /// Ends a running agent: politely, or at once when it is over a limit.
    fn end(&mut self, then: Then, turn: &mut Turn) {
        let leader = match &self.life {
            Life::Running { process, since, health } => {
                if matches!(health, Health::Busy { .. }) {
                    turn.out.push(Action::KillCheck(self.record.name.clone()));
                }
                Some((*process, *since))
            }
            Life::Forking { starter, since, .. } => starter.map(|process| (process, *since)),
            Life::Starting => None,
            Life::Down | Life::Waiting { .. } | Life::Fatal | Life::Stopping(_) => return,
        };
        let was_starting = self.life == Life::Starting;
        let ran = leader.map_or(Duration::ZERO, |(_, since)| turn.now.since(since));
        self.stop(then, leader, ran, turn);
        let name = self.record.name.clone();
        let definition = &self.definition;
        let stopsecs = definition.as_ref().map_or(Duration::ZERO, |definition| definition.spec.stopsecs);
        if matches!(then, Then::Up | Then::Down) {
            self.save(turn);
        }
        let Life::Stopping(stopping) = &mut self.life else { return };
        stopping.killed = then == Then::Policy(End::Limit);
        let sig = if stopping.killed { Sig::KILL } else { stopsignal(definition) };
        stopping.kill_at = Some(turn.now + stopsecs);
        if !was_starting {
            turn.out.push(Action::Signal(name, sig));
        }
        // A main process that is a child tells its end itself; one that was taken over may not.
        stopping.look_at = Some(turn.now + if stopping.killed { LOOK.0 } else { LOOK.1 });
    }

    /// Enters `Stopping`; without a leader the tree is looked at right away.
    fn stop(&mut self, then: Then, leader: Option<(Process, Time)>, ran: Duration, turn: &mut Turn) {
        let starting = self.life == Life::Starting;
        self.life = Life::Stopping(Box::new(Stopping {
            then,
            leader,
            ran,
            kill_at: None,
            killed: false,
            starting,
            look_at: None,
            pause: LOOK.0,
        }));
        if leader.is_none() && !starting {
            self.look(turn);
        }
    }

    fn look(&mut self, turn: &mut Turn) {
        if let Life::Stopping(stopping) = &mut self.life {
            stopping.look_at = Some(turn.now + LOOK.1);
            turn.out.push(Action::Look(self.record.name.clone()));
        }
    }

    /// Nothing of it is left: what was the stop for?
    fn conclude(&mut self, then: Then, ran: Duration, turn: &mut Turn) {
        turn.out.push(Action::Release(self.record.name.clone()));
        self.life = Life::Down;
        match then {
            Then::Down => {
                self.killed = false;
                self.failures = 0;
                self.detail = "stopped".into();
                let name = self.name().clone();
                turn.log(Level::Info, &name, "stopped");
            }
            Then::Up => return self.begin(turn),
            Then::Policy(end) => {
                let Some(definition) = &self.definition else { return self.save(turn) };
                let policy = turn.policy.of(&definition.spec);
                match judge(policy, &definition.spec, self.failures, end, ran, turn.now) {
                    Verdict::Stay => (self.failures, self.rests) = (0, true),
                    Verdict::Restart { at, failures } => {
                        self.failures = failures;
                        if at <= turn.now {
                            return self.begin(turn);
                        }
                        self.life = Life::Waiting { until: at };
                        let (name, wait) = (self.name().clone(), at.since(turn.now).as_secs_f64().ceil());
                        let (count, retries) = (failures.max(1), policy.retries);
                        turn.log(Level::Info, &name, &format!("restart {count} of {retries} in {wait} s"));
                    }
                    Verdict::GiveUp { failures } => {
                        self.failures = failures;
                        self.life = Life::Fatal;
                        let name = self.name().clone();
                        turn.tell(Level::Error, &name, &format!("given up after {failures} early ends in a row"));
                    }
                }
            }
        }
        self.save(turn);
    }

    /// Notes what matters to this boot.
    fn save(&self, turn: &mut Turn) {
        turn.out.push(Action::SaveRun(Box::new(self.run_record(turn.boot_id))));
    }

    /// What matters to this boot.
    pub fn run_record(&self, boot_id: &str) -> RunRecord {
        let (started, stopping) = match &self.life {
            Life::Running { since, .. } | Life::Forking { since, .. } => (*since, false),
            Life::Stopping(stopping) => (stopping.leader.map_or(Time::default(), |(_, since)| since), true),
            Life::Down | Life::Waiting { .. } | Life::Fatal | Life::Starting => (Time::default(), false),
        };
        RunRecord {
            name: self.record.name.clone(),
            boot_id: boot_id.into(),
            process: self.process(),
            forking: matches!(self.life, Life::Forking { .. }),
            stopping,
            started,
            failures: self.failures,
            restart_at: match self.life {
                Life::Waiting { until } => Some(until),
                Life::Down if self.rests => Some(NEVER),
                _ => None,
            },
            fatal: self.life == Life::Fatal,
            killed: self.killed,
            detail: self.detail.clone(),
        }
    }

    fn illegal(&self, event: &str, turn: &mut Turn) {
        turn.log(Level::Warn, &self.record.name, &format!("\"{event}\" while {}, ignored", self.life.name()));
    }

    /// Where its definition comes from.
    pub fn origin(&self) -> Option<Origin> {
        self.definition.as_ref().map(|definition| definition.origin)
    }
}

/// The processor share in percent since the last sample, which `total` replaces. `None` for the first one, and so soon
/// after the last that it would say little: clock ticks are 10 ms.
fn share(sample: &mut Option<(Time, Duration)>, total: Duration, now: Time) -> Option<f64> {
    let Some((then, before)) = *sample else {
        *sample = Some((now, total));
        return None;
    };
    let wall = now.since(then).as_secs_f64();
    if wall < 0.5 {
        return None;
    }
    *sample = Some((now, total));
    Some(total.saturating_sub(before).as_secs_f64() * 100.0 / wall)
}

fn stopsignal(definition: &Option<Definition>) -> Sig {
    definition.as_ref().map_or(Sig::TERM, |definition| definition.spec.stopsignal)
}

#[cfg(test)]
mod tests;
