//! Requests to start and stop an agent, and how a start and a stop proceed.

use std::time::Duration;

use super::{
    seconds_rounded_up, stopsignal, AfterStop, Agent, AgentState, Health, StepContext, Stopping, COUNT_INTERVAL,
};
use crate::kernel::{Exit, Level, Process, Sig, Time};
use crate::model::event::{Action, Scope};
use crate::model::restart::{judge, End, Verdict};
use crate::model::spec::KillMode;
use crate::text::count;

impl Agent {
    /// Starts it if it has not been started yet, without forgetting earlier failures.
    pub fn start_if_new(&mut self, context: &mut StepContext) {
        if self.is_fresh() {
            self.begin_start(context);
        }
    }

    /// Starts it unless it runs, and forgets earlier failures.
    pub fn request_start(&mut self, context: &mut StepContext) {
        self.failures = 0;
        match &mut self.state {
            AgentState::Down | AgentState::Fatal | AgentState::Waiting { .. } => self.begin_start(context),
            AgentState::Forking { .. } | AgentState::Running { .. } => self.save(context),
            AgentState::Starting | AgentState::Prestart { .. } => {}
            AgentState::Stopping(stopping) => {
                stopping.after = AfterStop::Up;
                self.save(context);
            }
        }
    }

    /// Stops it.
    pub fn request_stop(&mut self, context: &mut StepContext) {
        match &mut self.state {
            AgentState::Down => {}
            AgentState::Waiting { .. } | AgentState::Fatal => {
                self.failures = 0;
                self.killed = false;
                self.detail = "stopped".into();
                self.state = AgentState::Down;
                self.save(context);
            }
            AgentState::Stopping(stopping) => {
                stopping.after = AfterStop::Down;
                self.save(context);
            }
            AgentState::Starting
            | AgentState::Prestart { .. }
            | AgentState::Forking { .. }
            | AgentState::Running { .. } => self.begin_stop(AfterStop::Down, context),
        }
    }

    /// Stops it with all its processes, also those that its runs have left and that are spared otherwise: it is being removed, or
    /// the machine goes down.
    pub fn request_end(&mut self, context: &mut StepContext) {
        if !self.spares() {
            return self.request_stop(context);
        }
        self.ends_all = true;
        self.request_stop(context);
        let name = self.record.name.clone();
        match &mut self.state {
            AgentState::Down => self.enter_stopping(AfterStop::Down, None, Duration::ZERO, context),
            AgentState::Stopping(stopping) if stopping.scope != Scope::Tree => {
                stopping.scope = Scope::Tree;
                stopping.count_at = Some(context.now + COUNT_INTERVAL.0);
                context.out.push(stopsignal(name, Scope::Tree, &self.definition));
            }
            _ => {}
        }
    }

    /// Stops it if it runs, starts it, and forgets earlier failures.
    pub fn request_restart(&mut self, context: &mut StepContext) {
        if !self.is_up() {
            return self.request_start(context);
        }
        self.failures = 0;
        self.begin_stop(AfterStop::Up, context);
    }

    /// Starts it, after ending what an earlier daemon may have left of it.
    pub(super) fn begin_start(&mut self, context: &mut StepContext) {
        if self.definition.is_none() {
            self.detail = "it has no definition that can be read".into();
            self.state = AgentState::Down;
            return;
        }
        if self.leftovers {
            self.leftovers = false;
            return self.enter_stopping(AfterStop::Up, None, Duration::ZERO, context);
        }
        self.generation += 1;
        (self.ends_all, self.unheard, self.said) = (false, false, "".into());
        if self.kill_mode() == KillMode::Main {
            self.spares.get_or_insert(0);
        }
        (self.finished, self.succeeded) = (false, false);
        let unnamed = self.unnamed_envs();
        if !unnamed.is_empty() {
            let why = "set by a job and not named in its definition's envs, does not count with trusted_keys";
            context.log_and_report(Level::Warn, &self.record.name, format_args!("{unnamed}, {why}"));
        }
        self.note_started_with(None);
        self.state = AgentState::Starting;
        self.start_ordered = Some(context.now);
        self.prepares = self.prestart().is_some();
        // A daemon that finds the new process then knows that the earlier run is over.
        self.save(context);
        (self.sample, self.check_sample, self.cpu, self.memory) = (None, None, None, None);
        (self.over_cpu, self.check_failures, self.check_passed) = (0, 0, false);
        let name = self.record.name.clone();
        context.out.push(if self.prepares { Action::StartPrestart(name) } else { Action::Start(name) });
    }

    /// Stops a running agent: with its stop signal, or with SIGKILL if it is over a limit.
    pub(super) fn begin_stop(&mut self, after: AfterStop, context: &mut StepContext) {
        let main_process = match &self.state {
            AgentState::Running { process, since, health, .. } => {
                if matches!(health, Health::Busy { .. }) {
                    context.out.push(Action::KillCheck(self.record.name.clone()));
                }
                Some((*process, *since))
            }
            AgentState::Prestart { process, since } => Some((*process, *since)),
            AgentState::Forking { starter, since, .. } => starter.map(|process| (process, *since)),
            AgentState::Starting => None,
            AgentState::Down | AgentState::Waiting { .. } | AgentState::Fatal | AgentState::Stopping(_) => return,
        };
        let was_starting = self.state == AgentState::Starting;
        let ran = main_process.map_or(Duration::ZERO, |(_, since)| context.now.since(since));
        self.enter_stopping(after, main_process, ran, context);
        let name = self.record.name.clone();
        let (definition, stopsecs) = (&self.definition, self.stopsecs());
        // The record of a shutdown says already that what ran then was being stopped.
        if matches!(after, AfterStop::Up | AfterStop::Down) && !(context.shutdown && main_process.is_some()) {
            self.save(context);
        }
        let AgentState::Stopping(stopping) = &mut self.state else { return };
        stopping.killed = after == AfterStop::Policy(End::Limit);
        let scope = stopping.scope;
        let signal =
            if stopping.killed { Action::Signal(name, scope, Sig::KILL) } else { stopsignal(name, scope, definition) };
        stopping.kill_at = Some(context.now + stopsecs);
        if !was_starting {
            context.out.push(signal);
        }
        // The end of a main process that is a child is an event; the end of one that was taken over may not be.
        stopping.count_at = Some(context.now + if stopping.killed { COUNT_INTERVAL.0 } else { COUNT_INTERVAL.1 });
    }

    /// Enters `Stopping`; without a main process the remaining processes are counted right away.
    pub(super) fn enter_stopping(
        &mut self,
        after: AfterStop,
        main_process: Option<(Process, Time)>,
        ran: Duration,
        context: &mut StepContext,
    ) {
        let starting = self.state == AgentState::Starting;
        let scope = self.scope(after);
        self.state = AgentState::Stopping(Box::new(Stopping {
            after,
            scope,
            main_process,
            uptime: ran,
            kill_at: None,
            killed: false,
            refused: false,
            starting,
            count_at: None,
            pause: COUNT_INTERVAL.0,
        }));
        if main_process.is_none() && !starting {
            self.count_processes(context);
        }
    }

    /// Has the remaining processes of a stop counted, and counts again if no answer comes.
    pub(super) fn count_processes(&mut self, context: &mut StepContext) {
        if let AgentState::Stopping(stopping) = &mut self.state {
            stopping.count_at = Some(context.now + COUNT_INTERVAL.1);
            context.out.push(self.count_action());
        }
    }

    /// The action that counts the processes that a stop ends.
    pub(super) fn count_action(&self) -> Action {
        let scope = match &self.state {
            AgentState::Stopping(stopping) => stopping.scope,
            _ => Scope::Tree,
        };
        Action::CountProcesses { name: self.record.name.clone(), scope, last: self.is_going_down() }
    }

    /// Which processes a stop that begins now ends. What is over a limit ends whole. With `KillMode::Main` a start that is not
    /// done, or has failed, leaves nothing of its own.
    pub(super) fn scope(&self, after: AfterStop) -> Scope {
        if self.kill_mode() != KillMode::Main || self.ends_all || after == AfterStop::Policy(End::Limit) {
            return Scope::Tree;
        }
        match self.state {
            AgentState::Starting
            | AgentState::Prestart { .. }
            | AgentState::Forking { before: None, .. }
            | AgentState::Running { ready_by: Some(_), .. } => Scope::Run,
            _ => Scope::Main,
        }
    }

    /// What has been ended after a start that made no process: what earlier runs have left was not looked at.
    pub(super) fn unstarted_scope(&self) -> Scope {
        match self.spares() {
            true => Scope::Run,
            false => Scope::Tree,
        }
    }

    /// What is done with its control groups when these processes of it have ended.
    pub(super) fn release(&self, scope: Scope) -> Action {
        match scope {
            Scope::Tree => Action::Release(self.record.name.clone()),
            Scope::Run | Scope::Main => Action::Spare(self.record.name.clone()),
        }
    }

    /// No process that it had to end is left: does what the stop was for, and releases its control group.
    pub(super) fn conclude(&mut self, after: AfterStop, ran: Duration, context: &mut StepContext) {
        let scope = match &self.state {
            AgentState::Stopping(stopping) => stopping.scope,
            _ => self.unstarted_scope(),
        };
        self.spares = self.spares.filter(|_| scope != Scope::Tree);
        self.state = AgentState::Down;
        let first = context.out.len();
        self.after_stop(after, ran, context);
        // An agent that is started again at once keeps its control group.
        if self.state != AgentState::Starting {
            context.out.insert(first, self.release(scope));
        }
    }

    fn after_stop(&mut self, after: AfterStop, ran: Duration, context: &mut StepContext) {
        match after {
            AfterStop::Down => {
                self.killed = false;
                self.failures = 0;
                self.detail = "stopped".into();
                context.log(Level::Info, &self.record.name, format_args!("stopped"));
            }
            AfterStop::Up => return self.begin_start(context),
            AfterStop::Wait(until) => self.state = AgentState::Waiting { until },
            AfterStop::Finished => {}
            AfterStop::Fatal => self.state = AgentState::Fatal,
            AfterStop::Policy(end) => return self.apply_policy(end, ran, context),
        }
        self.save_unless_shutdown(context);
    }

    /// Does what the restart policy says about an end that nobody requested.
    fn apply_policy(&mut self, end: End, ran: Duration, context: &mut StepContext) {
        let Some(spec) = self.own_spec() else { return self.save(context) };
        let policy = context.policy.of(spec);
        match judge(policy, spec, self.failures, end, ran, context.now) {
            Verdict::Stay => {
                (self.failures, self.finished) = (0, true);
                self.succeeded = end == End::Exited(Exit::Code(0));
            }
            Verdict::Restart { at, failures } => {
                self.failures = failures;
                if at <= context.now {
                    return self.begin_start(context);
                }
                self.state = AgentState::Waiting { until: at };
                let wait = seconds_rounded_up(at.since(context.now));
                let (count, retries) = (failures.max(1), policy.retries);
                let text = format_args!("restart {count} of {retries} in {wait} s");
                context.log(Level::Info, &self.record.name, text);
            }
            Verdict::GiveUp { failures } => {
                self.failures = failures;
                self.state = AgentState::Fatal;
                let failures = count(failures.into(), "early end");
                let text = format_args!("given up after {failures} in a row");
                context.log_and_report(Level::Error, &self.record.name, text);
            }
        }
        self.save_unless_shutdown(context);
    }

    /// Writes the run record, except during a shutdown: the record of the shutdown says already that the agent was being
    /// stopped, and the next daemon looks at what is left of it.
    fn save_unless_shutdown(&self, context: &mut StepContext) {
        if !context.shutdown {
            self.save(context);
        }
    }
}
