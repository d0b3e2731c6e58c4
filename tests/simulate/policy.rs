//! The restart policy once more, written from its description and from what happens on the host, not from the model.

use std::time::Duration;

use bootagent::kernel::{Exit, Time};
use bootagent::model::agent::AgentState;
use bootagent::model::record::RunRecord;
use bootagent::model::restart::Policy;
use bootagent::model::spec::{Autorestart, Spec};

/// An end that nobody asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum End {
    Exited(Exit),
    /// Over a limit, or not healthy.
    Forced,
    NotStarted,
}

/// When an agent may be started again without an order.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Next {
    /// It may be started.
    Free,
    At(Time),
    /// It was given up, or has finished.
    Never,
}

/// What an agent has been through, as seen from the host.
#[derive(Clone, Debug)]
pub struct Watch {
    failures: u32,
    /// The last end, until the model has drawn its conclusion: what, after how long, when.
    pub end: Option<(End, Duration, Time)>,
    next: Next,
    /// Somebody has ordered something since the last end: it may be started, its count may be forgotten.
    excused: bool,
}

impl Watch {
    pub fn new() -> Watch {
        Watch { failures: 0, end: None, next: Next::Free, excused: false }
    }

    /// Somebody ordered something.
    pub fn excuse(&mut self) {
        self.excused = true;
    }

    /// It ended, and nobody had asked for that.
    pub fn ended(&mut self, end: End, ran: Duration, now: Time) {
        self.excused = false;
        self.end = Some((end, ran, now));
    }

    /// A new daemon found this.
    pub fn found(&mut self, run: Option<&RunRecord>, alive: bool, stray: bool, now: Time) -> Result<(), String> {
        let pending = self.end.take().is_some();
        let Some(run) = run else {
            if self.failures > 0 && !self.excused && !pending {
                return Err(format!("{} failures are forgotten", self.failures));
            }
            *self = Watch { excused: self.excused, ..Watch::new() };
            return Ok(());
        };
        let dead = (run.process.is_some() || run.forking) && !alive;
        if run.failures != self.failures && !self.excused && !pending && !dead {
            return Err(format!("{} failures on record, {} happened", run.failures, self.failures));
        }
        self.failures = run.failures;
        self.next = match (run.fatal || run.finished, run.restart_at) {
            (true, _) => Next::Never,
            (false, Some(at)) => Next::At(at),
            (false, None) => Next::Free,
        };
        if run.stopping {
            self.excuse();
        } else if dead && !(run.forking && stray) {
            self.ended(End::Exited(Exit::Unknown), now.since(run.started), now);
        }
        Ok(())
    }

    /// It is being started.
    pub fn started(&mut self, now: Time) -> Result<(), String> {
        if !self.excused {
            match (self.next, self.end) {
                (Next::Never, None) => return Err("started although it was given up or has finished".into()),
                (Next::At(at), None) if now < at => return Err(format!("started at {now:?}, before {at:?}")),
                _ => {}
            }
        }
        Ok(())
    }

    /// Compares what the model has come to with what it must have come to.
    pub fn look(
        &mut self,
        life: &AgentState,
        failures: u32,
        ordered: bool,
        policy: Policy,
        spec: Option<&Spec>,
        now: Time,
    ) -> Result<(), String> {
        self.excused |= ordered;
        if matches!(life, AgentState::Stopping(_)) {
            return Ok(());
        }
        if self.excused || spec.is_none() {
            self.end = None;
            self.failures = failures;
            self.next = match life {
                AgentState::Waiting { until } => Next::At(*until),
                AgentState::Down | AgentState::Fatal => Next::Never,
                _ => Next::Free,
            };
            self.excused = ordered || spec.is_none();
            return Ok(());
        }
        let Some(spec) = spec else { return Ok(()) };
        if let Some((end, ran, at)) = self.end.take() {
            let normal = match (spec.autorestart, end) {
                (Autorestart::Never, _) => true,
                (Autorestart::Unexpected, End::Exited(Exit::Code(code))) => spec.exitcodes.contains(&(code as u8)),
                _ => false,
            };
            let early = end == End::NotStarted || ran < spec.windowsecs.unwrap_or(policy.windowsecs);
            self.failures = if normal || !early { 0 } else { self.failures + 1 };
            let wait = spec.restartsecs.unwrap_or(policy.restartsecs);
            if normal {
                self.next = Next::Never;
                if *life != AgentState::Down {
                    return Err(format!("after {end:?} it has finished, and is {life:?}"));
                }
            } else if self.failures > spec.retries.unwrap_or(policy.retries) {
                self.next = Next::Never;
                if *life != AgentState::Fatal {
                    return Err(format!("after {} early ends it is given up, and is {life:?}", self.failures));
                }
            } else {
                self.next = Next::At(at + wait);
                match life {
                    AgentState::Waiting { until } if *until < at + wait || *until > now + wait => {
                        return Err(format!("it waits until {until:?}, and ended at {at:?}"));
                    }
                    AgentState::Waiting { until } => self.next = Next::At(*until),
                    _ if wait.is_zero() => {}
                    _ => return Err(format!("after {end:?} it waits for its restart, and is {life:?}")),
                }
            }
        }
        if matches!(life, AgentState::Running { .. } | AgentState::Waiting { .. } | AgentState::Fatal)
            && failures != self.failures
        {
            return Err(format!("it tells {failures} failures, {} happened", self.failures));
        }
        Ok(())
    }
}
