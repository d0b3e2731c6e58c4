//! Polled limits and health checks: what makes the daemon end a running agent on its own.

use std::fmt::Arguments;
use std::time::Duration;

use super::{AfterStop, Agent, AgentState, Health, StepContext, CPU_CHECKS};
use crate::kernel::{Decimal, Exit, Level, Time};
use crate::model::event::Usage;
use crate::model::restart::End;
use crate::model::spec::Limits;
use crate::text::size;

impl Agent {
    /// Its processor time and memory were measured. `check`: this is a check of polled limits, and not a measurement for a
    /// status.
    pub fn measured(&mut self, usage: &Usage, check: bool, context: &mut StepContext) {
        self.spared = usage.spared;
        if !matches!(self.state, AgentState::Running { .. }) {
            return;
        }
        self.memory = usage.memory;
        if let Some(total) = usage.cpu {
            if let Some(cpu) = share(&mut self.sample, total, context.now) {
                self.cpu = Some(cpu);
            }
            if let Some(cpu) = check.then(|| share(&mut self.check_sample, total, context.now)).flatten() {
                self.over_cpu(cpu, context);
            }
        }
        self.over_memory(context);
    }

    /// Its definition has another health check, or another size of its output, and its processes need not know.
    pub fn check_changed(&mut self, context: &mut StepContext) {
        let first = self.first_check(context.now);
        self.check_failures = 0;
        if let AgentState::Running { health: health @ (Health::Off | Health::Next(_)), .. } = &mut self.state {
            *health = first;
        }
        // The next daemon is to find it up to date, unless it waits for a restart that another change asks for.
        if !self.is_outdated() {
            self.note_started_with(None);
            self.save(context);
        }
    }

    fn over_cpu(&mut self, cpu: f64, context: &mut StepContext) {
        let limit = self.limit(|record, spec| record.cpu.or(spec.cpu));
        let (true, Some(limit)) = (self.enforcement.polled.cpu, limit) else { return };
        self.over_cpu = if cpu > f64::from(limit) / 100.0 { self.over_cpu + 1 } else { 0 };
        if self.over_cpu >= CPU_CHECKS {
            let (cpu, limit) = (Decimal::rounded(cpu, 10), Decimal::new(limit.into(), 100));
            self.kill_for_limit(
                format_args!("CPU {cpu} % over the limit of {limit} % in {CPU_CHECKS} checks in a row"),
                context,
            );
        }
    }

    fn over_memory(&mut self, context: &mut StepContext) {
        let limit = self.limit(|record, spec| record.memory.or(spec.memory));
        let (true, Some(limit), Some(memory)) = (self.enforcement.polled.memory, limit, self.memory) else { return };
        if memory > limit {
            let (memory, limit) = (size(memory as f64), size(limit as f64));
            self.kill_for_limit(format_args!("memory {memory} over the limit of {limit}"), context);
        }
    }

    /// A limit in force: `pick` chooses it from the limits that a job set and those of the definition.
    fn limit<T>(&self, pick: impl Fn(&Limits, &Limits) -> Option<T>) -> Option<T> {
        let spec = &self.own_spec()?.limits;
        pick(self.record.limits.as_ref().unwrap_or(spec), spec)
    }

    /// It is over a limit: kills all its processes. `text` says which limit.
    pub fn kill_for_limit(&mut self, text: Arguments, context: &mut StepContext) {
        if matches!(self.state, AgentState::Running { .. } | AgentState::Forking { .. }) {
            self.set_last_end(format_args!("killed: {text}"), "", Level::Warn, context);
            self.killed = true;
            self.begin_stop(AfterStop::Policy(End::Limit), context);
        }
    }

    /// Its health check ended; `tail`: the last lines of the check's output. A failure counts once it has been up for
    /// `startsecs`, or has passed a check.
    pub fn checked(&mut self, exit: Exit, tail: &str, context: &mut StepContext) {
        let (startsecs, Some(check)) = (self.startsecs(), self.check().cloned()) else { return };
        let AgentState::Running { health, since, .. } = &mut self.state else { return };
        let starting = !self.check_passed && context.now.since(*since) < startsecs;
        let Health::Busy { late, .. } = *health else { return };
        *health = Health::Next(context.now + check.interval);
        if exit == Exit::Code(0) {
            self.check_failures = 0;
            self.check_passed = true;
            return;
        }
        if starting {
            context.log(Level::Debug, &self.record.name, format_args!("health check not passed yet"));
            return;
        }
        self.check_failures += 1;
        let why =
            if late { format!("not done within {} s", Decimal::seconds(check.timeout)) } else { exit.to_string() };
        let between = if tail.is_empty() { "" } else { ": " };
        let text = format!("health check {why}, {} of {} in a row{between}{tail}", self.check_failures, check.retries);
        if self.check_failures < check.retries {
            context.log(Level::Warn, &self.record.name, format_args!("{text}"));
            return;
        }
        self.killed = false;
        self.set_last_end(format_args!("{text}"), "", Level::Warn, context);
        self.begin_stop(AfterStop::Policy(End::Unhealthy), context);
    }

    /// The host had no room for its health check, which counts as no failure: the next one is due as ever.
    pub fn not_checked(&mut self, why: &str, context: &mut StepContext) {
        let Some(interval) = self.check().map(|check| check.interval) else { return };
        if let AgentState::Running { health: health @ Health::Busy { .. }, .. } = &mut self.state {
            *health = Health::Next(context.now + interval);
            context.log(Level::Warn, &self.record.name, format_args!("health check put off: making a process: {why}"));
        }
    }

    /// The state of the health check right after a start.
    pub(super) fn first_check(&self, now: Time) -> Health {
        match self.check() {
            // The first check is due after `startsecs` at the latest, when a start counts as done.
            Some(check) => Health::Next(now + check.interval.min(self.startsecs())),
            None => Health::Off,
        }
    }
}

/// The processor share in percent since the last sample, which `total` replaces. `None` for the first sample, and less than
/// half a second after the last one: clock ticks are 10 ms, so that the share would be inexact.
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
