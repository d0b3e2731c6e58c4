//! How a new daemon takes over an agent: from its run record, or from processes of it that run without one.
//!
//! The caller has looked at the host: whether the recorded process is alive, and which other processes belong to the agent.

use std::time::Duration;

use super::{AfterStop, Agent, AgentState, Health, LastEnd, StepContext, RESOURCE_RETRY_DELAY, START_TIME_ERROR};
use crate::kernel::{Exit, Level, Process, Time};
use crate::model::record::{RunRecord, Wanted};
use crate::model::restart::End;
use crate::model::spec::{KillMode, Kind};

impl Agent {
    /// Continues from the run record that an earlier daemon of this boot wrote. `alive`: the recorded process is still
    /// alive; `strays`: other processes of the agent are.
    pub fn resume(&mut self, run: &RunRecord, alive: bool, strays: bool, context: &mut StepContext) {
        self.failures = run.failures;
        self.note_started_with(run.started_with);
        self.killed = run.killed;
        self.spares = run.spares;
        self.said = run.said.clone();
        self.detail = run.detail.clone();
        match run.process {
            process if run.stopping => {
                let after = if self.wanted() == Wanted::Up { AfterStop::Up } else { AfterStop::Down };
                let main_process = process.filter(|_| alive).map(|process| (process, run.started));
                let ran = main_process.map_or(Duration::ZERO, |_| context.now.since(run.started));
                if run.unready || run.forking {
                    // A start that was not complete leaves nothing of its own.
                    self.state = AgentState::Forking { starter: None, since: run.started, ask: None, before: None };
                }
                self.enter_stopping(after, main_process, ran, context);
                self.count_processes(context);
            }
            _ if run.forking && (alive || strays) => {
                self.generation += 1;
                let starter = run.process.filter(|_| alive);
                let ask = starter.is_none().then_some((context.now, context.now + self.search_time()));
                self.state = AgentState::Forking { starter, since: run.started, ask, before: None };
            }
            Some(process) if alive => {
                self.generation += 1;
                self.unheard = run.unready;
                // The daemon never sets a longer wait: a record that has one is damaged.
                let ready_by = run.unready.then(|| run.started.min(context.now) + self.ready_time());
                let health = if run.unready { Health::Off } else { self.first_check(context.now) };
                self.state = AgentState::Running { process, since: run.started, health, ready_by };
                context.log_and_report(Level::Info, &run.name, format_args!("taken over with process {}", process.pid));
            }
            Some(_) if strays && self.pidfile().is_some() => {
                self.generation += 1;
                let end = LastEnd { exit: Exit::Unknown, oom: None, tail: "".into() };
                self.search_successor(run.started, end, context);
            }
            process if process.is_some() || run.forking => {
                let ran = context.now.since(run.started);
                self.killed = false;
                let text = format_args!("ended while no daemon was watching, status unknown");
                self.set_last_end(text, "", Level::Warn, context);
                self.enter_stopping(AfterStop::Policy(End::Exited(Exit::Unknown)), None, ran, context);
            }
            _ if run.fatal => self.state = AgentState::Fatal,
            _ => {
                self.start_ordered = Some(run.started).filter(|started| *started != Time::default());
                self.finished = run.finished;
                if let Some(until) = run.restart_at {
                    // The daemon never sets a longer wait: a record that has one is damaged.
                    let policy = self.own_spec().map_or(context.policy, |spec| context.policy.of(spec));
                    let latest = context.now + policy.restartsecs.max(RESOURCE_RETRY_DELAY);
                    self.state = AgentState::Waiting { until: until.min(latest) };
                }
            }
        }
        if run.started_with.is_none() {
            self.save(context);
        }
    }

    /// Whether an earlier daemon has ordered a start and not noted that it was made, and a process that began then can be of it.
    fn fits_ordered_start(&self, since: Time) -> bool {
        self.start_ordered.is_some_and(|ordered| ordered <= since + START_TIME_ERROR)
    }

    /// Notes that no daemon has ended since its start: nothing that it has said was lost.
    pub fn was_heard(&mut self) {
        self.unheard = false;
    }

    /// Processes of it run although it has no run record that says so. `main_process`: its main process, and when that was
    /// started, if it can be identified; then the agent is taken over. Otherwise its processes are ended before it is
    /// started.
    pub fn found_running(&mut self, main_process: Option<(Process, Time)>, context: &mut StepContext) {
        // Its processes are known already, or are being searched for.
        if !self.is_over() {
            return;
        }
        let main_alone = self.kill_mode() == KillMode::Main;
        let begins_run = main_process.is_some_and(|(_, since)| self.fits_ordered_start(since));
        // A record, or a stop on record, says that its main process does not run: they are what its runs have left.
        let left = self.spares() || main_process.is_none() || self.wanted() == Wanted::Down;
        if main_alone && !begins_run && left {
            self.spares.get_or_insert(0);
            self.leftovers = false;
            return;
        }
        if let Some((process, since)) = main_process {
            self.note_started_with(self.started_with);
            self.generation += 1;
            self.spares = main_alone.then_some(process.ticks);
            self.state = if self.own_spec().is_some_and(|spec| spec.kind == Kind::Forking) {
                let ask = Some((context.now, context.now + self.search_time()));
                AgentState::Forking { starter: None, since, ask, before: None }
            } else {
                AgentState::Running { process, since, health: self.first_check(context.now), ready_by: None }
            };
            self.save(context);
            let text = format_args!("taken over with process {}, which is in no record", process.pid);
            return context.log_and_report(Level::Warn, &self.record.name, text);
        }
        let text = format_args!("an earlier daemon left processes of it: ending them");
        context.log_and_report(Level::Warn, &self.record.name, text);
        let after = match self.state {
            AgentState::Waiting { until } => AfterStop::Wait(until),
            AgentState::Fatal => AfterStop::Fatal,
            _ if self.wanted() == Wanted::Down => AfterStop::Down,
            _ if self.finished => AfterStop::Finished,
            _ => AfterStop::Up,
        };
        self.leftovers = false;
        self.enter_stopping(after, None, Duration::ZERO, context);
    }
}
