//! What happens to an agent's processes, and what falls due: the right columns of the table in `agent.rs`.

use std::fmt::Arguments;
use std::time::Duration;

use super::{
    stopsignal, AfterStop, Agent, AgentState, Health, LastEnd, StepContext, COUNT_INTERVAL, HANDOVER_TIMEOUT,
    KILL_INTERVAL, RESOURCE_RETRY_DELAY, SEARCH_PAUSES, STARTER_TIMEOUT,
};
use crate::kernel::{Decimal, Exit, Level, Pid, Process, Sig, Time};
use crate::model::enforcement::Enforcement;
use crate::model::event::{Action, Event, Notification};
use crate::model::restart::End;
use crate::model::spec::Kind;

impl Agent {
    /// Takes an event that is about it, or about every agent.
    pub fn take(&mut self, event: &Event, context: &mut StepContext) {
        match event {
            Event::Started { process, enforcement, .. } => self.started(*process, enforcement, context),
            Event::PrestartStarted(_, process) => self.prestart_started(*process, context),
            Event::Attached(_, enforcement) => self.attached(enforcement),
            Event::NotStarted { reason, .. } => self.not_started(reason, context),
            Event::ResourceExhausted { reason, .. } => self.resource_exhausted(reason, context),
            Event::OutOfMemory(_, text) => self.kill_for_limit(format_args!("{text}"), context),
            Event::Notified(_, said) => self.notified(said, context),
            Event::Exited { pid, exit, oom, tail, .. } => {
                self.process_ended(*pid, *exit, oom.as_deref(), tail, context);
            }
            Event::MainProcess { found, left, .. } => self.main_found(*found, *left, context),
            Event::ProcessCount(_, count) => self.process_count(*count, context),
            Event::Refused { reason, .. } => self.refused(reason, context),
            Event::ProcessesChanged => self.processes_changed(context),
            Event::Checked(_, exit, tail) => self.checked(*exit, tail, context),
            Event::NotChecked(_, why) => self.not_checked(why, context),
            _ => {}
        }
    }

    /// Its limits were applied, and are enforced in this way.
    pub fn attached(&mut self, enforcement: &Enforcement) {
        self.enforcement = enforcement.clone();
    }

    /// Its process was started.
    pub fn started(&mut self, process: Process, enforcement: &Enforcement, context: &mut StepContext) {
        self.attached(enforcement);
        if self.prestart().is_none() {
            self.note_begin(process);
        }
        match &mut self.state {
            AgentState::Starting => {
                let kind = self.own_spec().map_or(Kind::Simple, |spec| spec.kind);
                self.state = if kind == Kind::Forking {
                    AgentState::Forking { starter: Some(process), since: context.now, ask: None, before: None }
                } else {
                    self.running(process, context.now)
                };
                self.save(context);
                let verb = if kind == Kind::Simple { "started" } else { "starting" };
                context.log(Level::Info, &self.record.name, format_args!("{verb}, process {}", process.pid));
            }
            AgentState::Stopping(_) => self.stop_started(process, context),
            AgentState::Down
            | AgentState::Waiting { .. }
            | AgentState::Fatal
            | AgentState::Prestart { .. }
            | AgentState::Forking { .. }
            | AgentState::Running { .. } => {
                self.log_impossible("started", context);
            }
        }
    }

    /// Its `prestart` was started.
    pub fn prestart_started(&mut self, process: Process, context: &mut StepContext) {
        self.note_begin(process);
        match &self.state {
            AgentState::Starting => {
                self.state = AgentState::Prestart { process, since: context.now };
                self.save(context);
                context.log(Level::Info, &self.record.name, format_args!("prestart, process {}", process.pid));
            }
            AgentState::Stopping(_) => self.stop_started(process, context),
            _ => self.log_impossible("a started prestart", context),
        }
    }

    /// A process was started for an agent that is to stop by now.
    fn stop_started(&mut self, process: Process, context: &mut StepContext) {
        let AgentState::Stopping(stopping) = &mut self.state else { return };
        stopping.main_process = Some((process, context.now));
        stopping.starting = false;
        stopping.count_at = None;
        let name = self.record.name.clone();
        let (killed, scope) = (stopping.killed, stopping.scope);
        let signal =
            if killed { Action::Signal(name, scope, Sig::KILL) } else { stopsignal(name, scope, &self.definition) };
        context.out.push(signal);
    }

    /// Its `prestart` has ended: the start follows, or has failed.
    fn prestart_ended(&mut self, exit: Exit, oom: Option<&str>, tail: &str, context: &mut StepContext) {
        if exit == Exit::Code(0) {
            self.state = AgentState::Starting;
            self.prepares = false;
            self.save(context);
            return context.out.push(Action::Start(self.record.name.clone()));
        }
        match oom {
            Some(oom) => self.note_failed_start(format_args!("its prestart was killed: {oom}"), tail, context),
            None => self.note_failed_start(format_args!("its prestart {exit}"), tail, context),
        }
        self.killed = oom.is_some();
        self.enter_stopping(AfterStop::Policy(End::NotStarted), None, Duration::ZERO, context);
    }

    /// Remembers why a start has failed, as its last end.
    fn note_failed_start(&mut self, why: Arguments, tail: &str, context: &mut StepContext) {
        self.killed = false;
        self.set_last_end(format_args!("cannot start: {why}"), tail, Level::Error, context);
    }

    /// Its process could not be made, or could not execute the agent's program.
    pub fn not_started(&mut self, reason: &str, context: &mut StepContext) {
        match &mut self.state {
            AgentState::Starting
            | AgentState::Prestart { .. }
            | AgentState::Forking { .. }
            | AgentState::Running { .. } => {
                self.note_failed_start(format_args!("{reason}"), "", context);
                let after = AfterStop::Policy(End::NotStarted);
                if self.prestart().is_none() {
                    return self.conclude(after, Duration::ZERO, context);
                }
                // Its prestart may have left processes, and a start that has failed leaves nothing of its own.
                self.state = AgentState::Starting;
                self.enter_stopping(after, None, Duration::ZERO, context);
                self.not_started(reason, context);
            }
            AgentState::Stopping(stopping) => {
                (stopping.main_process, stopping.starting) = (None, false);
                self.count_processes(context);
            }
            AgentState::Down | AgentState::Waiting { .. } | AgentState::Fatal => {
                self.log_impossible("not started", context)
            }
        }
    }

    /// The host lacked resources to start it: the start is tried again soon, and does not count as a failure.
    pub fn resource_exhausted(&mut self, reason: &str, context: &mut StepContext) {
        if self.state != AgentState::Starting {
            return self.not_started(reason, context);
        }
        let text = format!("cannot start yet: {reason}");
        if *self.detail != *text {
            self.set_last_end(format_args!("{text}"), "", Level::Error, context);
        }
        let until = context.now + RESOURCE_RETRY_DELAY;
        if self.prestart().is_some() {
            // Its prestart may have left processes.
            self.enter_stopping(AfterStop::Wait(until), None, Duration::ZERO, context);
            return self.not_started(reason, context);
        }
        context.out.push(self.release(self.unstarted_scope()));
        self.state = AgentState::Waiting { until };
        self.save(context);
    }

    /// It has said something about itself.
    pub fn notified(&mut self, said: &Notification, context: &mut StepContext) {
        let AgentState::Running { process, ready_by, .. } = &mut self.state else { return };
        if let Some(status) = &said.status {
            self.said = status.clone();
        }
        let moved = said.main.filter(|main| main != process);
        if let Some(main) = moved {
            *process = main;
            context.out.push(Action::FollowMain(self.record.name.clone(), main));
            context.log(Level::Info, &self.record.name, format_args!("its main process is {} now", main.pid));
        }
        if said.ready && ready_by.is_some() {
            self.ready("it is ready", context);
        } else if moved.is_some() || said.status.is_some() {
            self.save(context);
        }
    }

    /// It counts as started from now on; `why` says why.
    fn ready(&mut self, why: &str, context: &mut StepContext) {
        let first = self.first_check(context.now);
        let AgentState::Running { process, since, health, ready_by } = &mut self.state else { return };
        (*since, *health, *ready_by) = (context.now, first, None);
        context.log(Level::Info, &self.record.name, format_args!("started, process {}: {why}", process.pid));
        self.save(context);
    }

    /// It has not said in time that it is ready.
    fn not_ready(&mut self, context: &mut StepContext) {
        if self.unheard {
            return self.ready("nobody may have heard that it is ready", context);
        }
        let timeout = self.ready_time().as_secs();
        self.note_failed_start(format_args!("it has not said READY=1 after {timeout} s"), "", context);
        self.begin_stop(AfterStop::Policy(End::NotStarted), context);
    }

    /// The process with this id ended: its main process, its starter or its `prestart`, if it is that still.
    pub fn process_ended(&mut self, pid: Pid, exit: Exit, oom: Option<&str>, tail: &str, context: &mut StepContext) {
        if self.process().is_none_or(|process| process.pid == pid) {
            self.exited(exit, oom, tail, context);
        }
    }

    /// Its main process, its starter or its `prestart` ended.
    pub fn exited(&mut self, exit: Exit, oom: Option<&str>, tail: &str, context: &mut StepContext) {
        let search = self.search_time();
        match &mut self.state {
            AgentState::Prestart { .. } => self.prestart_ended(exit, oom, tail, context),
            AgentState::Running { since, health, .. } => {
                let since = *since;
                if matches!(health, Health::Busy { .. }) {
                    context.out.push(Action::KillCheck(self.record.name.clone()));
                }
                if self.pidfile().is_some() {
                    let end = LastEnd { exit, oom: oom.map(Box::from), tail: tail.into() };
                    return self.search_successor(since, end, context);
                }
                self.ended(exit, oom, tail, context.now.since(since), context);
            }
            AgentState::Forking { starter, since, ask, .. } => {
                *starter = None;
                // The exit status of a starter that an earlier daemon started is unknown.
                if matches!(exit, Exit::Code(0) | Exit::Unknown) {
                    *ask = Some((context.now, context.now + search));
                    context.out.push(Action::FindMain(self.record.name.clone()));
                } else {
                    let ran = context.now.since(*since);
                    self.ended(exit, oom, tail, ran, context);
                }
            }
            AgentState::Stopping(stopping) => {
                stopping.main_process = None;
                self.count_processes(context);
            }
            AgentState::Down | AgentState::Waiting { .. } | AgentState::Fatal | AgentState::Starting => {
                self.log_impossible("ended", context)
            }
        }
    }

    /// Its main process or starter ended after `ran`, and nobody had requested that: ends what is left, then applies the
    /// restart policy.
    fn ended(&mut self, exit: Exit, oom: Option<&str>, tail: &str, ran: Duration, context: &mut StepContext) {
        self.killed = oom.is_some() || exit == Exit::Signal(Sig::KILL);
        self.ends_all |= oom.is_some();
        let text = match oom {
            Some(oom) => format!("killed: {oom}"),
            None => exit.to_string(),
        };
        let early = if self.is_unready() { ", before it said READY=1" } else { "" };
        self.set_last_end(format_args!("{text} after {} s{early}", ran.as_secs()), tail, Level::Warn, context);
        self.enter_stopping(AfterStop::Policy(End::Exited(exit)), None, ran, context);
    }

    /// Its main process ended, and may have handed over to another one that the pid file names.
    pub(super) fn search_successor(&mut self, since: Time, end: LastEnd, context: &mut StepContext) {
        let patience = if matches!(end.exit, Exit::Code(0)) { HANDOVER_TIMEOUT } else { Duration::ZERO };
        let ask = Some((context.now, context.now + patience));
        self.state = AgentState::Forking { starter: None, since, ask, before: Some(Box::new(end)) };
        context.out.push(Action::FindMain(self.record.name.clone()));
    }

    /// A search for a forking agent's main process ended; `None`: it was not found. This many of its processes are `left`.
    pub fn main_found(&mut self, main_process: Option<Process>, left: u32, context: &mut StepContext) {
        let headless = self.runs_headless();
        let has_pidfile = self.pidfile().is_some();
        let AgentState::Forking { starter: None, since, ask: Some((next, until)), before } = &mut self.state else {
            return;
        };
        let since = *since;
        if let Some(process) = main_process {
            let verb = if before.is_some() { "its main process has handed over to" } else { "started," };
            context.log(Level::Info, &self.record.name, format_args!("{verb} process {}", process.pid));
            let health = self.first_check(context.now);
            self.state = AgentState::Running { process, since, health, ready_by: None };
            return self.save(context);
        }
        if let Some(end) = before {
            if left > 0 && context.now < *until {
                *next = context.now + SEARCH_PAUSES.0;
                return;
            }
            let end = end.clone();
            return self.ended(end.exit, end.oom.as_deref(), &end.tail, context.now.since(since), context);
        }
        if headless && left == 0 {
            return self.ended(Exit::Unknown, None, "", context.now.since(since), context);
        }
        if context.now < *until {
            *next = context.now + SEARCH_PAUSES.0;
        } else if left > 0 && !has_pidfile {
            // It runs as long as there is any process of it.
            *next = context.now + SEARCH_PAUSES.1;
        } else {
            let what = match self.pidfile() {
                Some(file) => format!("pid file \"{file}\" names no process of it"),
                None => "it has no main process".to_string(),
            };
            let timeout = self.search_time().as_secs();
            self.note_failed_start(format_args!("its starter ended, and {what} after {timeout} s"), "", context);
            self.enter_stopping(AfterStop::Policy(End::NotStarted), None, Duration::ZERO, context);
        }
    }

    /// Its processes were counted: this many are left.
    pub fn process_count(&mut self, count: u32, context: &mut StepContext) {
        let (name, stopsecs) = (self.record.name.clone(), self.stopsecs());
        let AgentState::Stopping(stopping) = &mut self.state else { return };
        if count == 0 && stopping.main_process.is_none() && !stopping.starting {
            let (after, ran) = (stopping.after, stopping.uptime);
            self.conclude(after, ran, context);
            return;
        }
        let is_first = count > 0 && stopping.kill_at.is_none();
        if is_first {
            stopping.kill_at = Some(context.now + stopsecs);
            context.out.push(stopsignal(name, stopping.scope, &self.definition));
        }
        stopping.count_at = Some(context.now + stopping.pause);
        stopping.pause = (stopping.pause * 2).min(COUNT_INTERVAL.1);
        let ended_well = stopping.after == AfterStop::Policy(End::Exited(Exit::Code(0)));
        let simple = self.own_spec().is_some_and(|spec| spec.kind == Kind::Simple);
        if is_first && ended_well && simple {
            let hint = "it left processes: an agent that puts itself in the background needs \"type\": \"forking\"";
            self.detail = format!("{}; {hint}", self.detail).into();
            context.log_and_report(Level::Warn, &self.record.name, format_args!("{hint}"));
        }
    }

    /// One of its processes cannot be signalled.
    pub fn refused(&mut self, reason: &str, context: &mut StepContext) {
        let AgentState::Stopping(stopping) = &mut self.state else { return };
        stopping.refused = true;
        let text = format!("cannot be stopped: {reason}");
        if *self.detail != *text {
            self.set_last_end(format_args!("{text}"), "", Level::Error, context);
        }
    }

    /// A process that is no agent's main process was reaped or is known now: what is left of this agent may have changed.
    pub fn processes_changed(&mut self, context: &mut StepContext) {
        match &self.state {
            AgentState::Stopping(stopping) if stopping.main_process.is_none() => context.out.push(self.count_action()),
            AgentState::Forking { .. } if self.runs_headless() => {
                context.out.push(Action::FindMain(self.record.name.clone()));
            }
            _ => {}
        }
    }

    /// Does what is due at this time.
    pub fn due(&mut self, context: &mut StepContext) {
        let name = self.record.name.clone();
        let prestart = self.prestart_timeout();
        let check = self.check().map(|check| check.timeout);
        match &mut self.state {
            AgentState::Prestart { since, .. } if *since + prestart <= context.now => {
                let timeout = Decimal::seconds(prestart);
                self.note_failed_start(format_args!("its prestart is not done within {timeout} s"), "", context);
                self.begin_stop(AfterStop::Policy(End::NotStarted), context);
            }
            AgentState::Waiting { until } if *until <= context.now => self.begin_start(context),
            AgentState::Forking { ask: Some((next, _)), .. } if *next <= context.now => {
                context.out.push(Action::FindMain(name))
            }
            AgentState::Forking { starter: Some(_), since, .. } if *since + STARTER_TIMEOUT <= context.now => {
                let timeout = STARTER_TIMEOUT.as_secs();
                self.note_failed_start(format_args!("its starter has not ended after {timeout} s"), "", context);
                self.begin_stop(AfterStop::Policy(End::NotStarted), context);
            }
            AgentState::Running { ready_by: Some(at), .. } if *at <= context.now => self.not_ready(context),
            AgentState::Running { health, .. } => match *health {
                Health::Next(at) if at <= context.now => {
                    *health =
                        check.map_or(Health::Off, |timeout| Health::Busy { until: context.now + timeout, late: false });
                    context.out.push(Action::Check(name));
                }
                Health::Busy { until, .. } if until <= context.now => {
                    *health = Health::Busy { until: context.now + KILL_INTERVAL, late: true };
                    context.out.push(Action::KillCheck(name));
                }
                Health::Off | Health::Next(_) | Health::Busy { .. } => {}
            },
            AgentState::Stopping(stopping) => {
                if stopping.kill_at.is_some_and(|at| at <= context.now) && !stopping.killed {
                    stopping.killed = true;
                    stopping.pause = COUNT_INTERVAL.0;
                    stopping.count_at = Some(context.now + COUNT_INTERVAL.0);
                    context.out.push(Action::Signal(name.clone(), stopping.scope, Sig::KILL));
                    // Whether this signal is refused as the first one was, its own answer says.
                    if !std::mem::take(&mut stopping.refused) {
                        context.log(Level::Warn, &name, format_args!("did not end in time, sent SIGKILL"));
                    }
                } else if stopping.count_at.is_some_and(|at| at <= context.now) {
                    if stopping.killed {
                        stopping.refused = false;
                        context.out.push(Action::Signal(name.clone(), stopping.scope, Sig::KILL));
                    }
                    // The answer sets the time of the next count. This one is for the case that no answer comes.
                    stopping.count_at = Some(context.now + COUNT_INTERVAL.1);
                    context.out.push(self.count_action());
                }
            }
            AgentState::Down
            | AgentState::Waiting { .. }
            | AgentState::Fatal
            | AgentState::Starting
            | AgentState::Prestart { .. }
            | AgentState::Forking { .. } => {}
        }
    }

    /// How long its `prestart` may take.
    fn prestart_timeout(&self) -> Duration {
        self.prestart().map_or(Duration::MAX, |program| program.timeout)
    }

    /// When something is due next.
    pub fn deadline(&self) -> Option<Time> {
        match &self.state {
            AgentState::Waiting { until } => Some(*until),
            AgentState::Prestart { since, .. } => Some(*since + self.prestart_timeout()),
            AgentState::Forking { starter: Some(_), since, .. } => Some(*since + STARTER_TIMEOUT),
            AgentState::Forking { ask, .. } => ask.map(|(next, _)| next),
            AgentState::Running { ready_by: Some(at), .. } => Some(*at),
            AgentState::Running { health, .. } => match health {
                Health::Off => None,
                Health::Next(at) | Health::Busy { until: at, .. } => Some(*at),
            },
            AgentState::Stopping(stopping) => {
                let kill = if stopping.killed { None } else { stopping.kill_at };
                Time::earliest(&[kill, stopping.count_at])
            }
            AgentState::Down | AgentState::Fatal | AgentState::Starting => None,
        }
    }
}
