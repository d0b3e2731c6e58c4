//! What an agent reports: to servers and people in a status, and to the next daemon in its run record.

use super::{seconds_rounded_up, AfterStop, Agent, AgentState};
use crate::kernel::Time;
use crate::model::event::Scope;
use crate::model::record::RunRecord;
use crate::model::report::{AgentReport, Status};
use crate::model::restart::Policy;
use crate::text::count;

impl Agent {
    /// Its part of a report.
    pub fn report(&self, now: Time, policy: Policy) -> AgentReport {
        let process = self.process();
        let since = match &self.state {
            AgentState::Running { since, .. } | AgentState::Forking { since, .. } => *since,
            AgentState::Stopping(stopping) => stopping.main_process.map_or(now, |(_, since)| since),
            AgentState::Down
            | AgentState::Waiting { .. }
            | AgentState::Fatal
            | AgentState::Starting
            | AgentState::Prestart { .. } => now,
        };
        let forking = matches!(self.state, AgentState::Forking { .. });
        let in_prestart = matches!(self.state, AgentState::Prestart { .. });
        let running = process.is_some() && !in_prestart || forking;
        AgentReport {
            name: self.record.name.clone(),
            version: self.version().into(),
            status: self.status(),
            uptime: now.since(since),
            // A starter or prestart is not the main process, and whoever signals it would end the start.
            pid: process.filter(|_| !forking && !in_prestart).map_or(0, |process| process.pid.raw()),
            failures: self.failures,
            detail: self.detail(now, policy).into(),
            cpu: self.cpu.filter(|_| running),
            memory: self.memory.filter(|_| running),
            limits_by: self.enforcement.by.clone().filter(|_| running),
            job_limits: self
                .record
                .limits
                .as_ref()
                .filter(|limits| !limits.is_empty())
                .map(|limits| limits.to_string().into()),
        }
    }

    /// Its state in the words of the protocol.
    pub fn status(&self) -> Status {
        let ended = if self.killed { Status::Killed } else { Status::Stopped };
        match &self.state {
            AgentState::Prestart { .. } | AgentState::Forking { .. } | AgentState::Running { .. } => Status::Running,
            AgentState::Stopping(stopping) if stopping.main_process.is_some() && !self.killed => Status::Running,
            AgentState::Fatal => Status::Fatal,
            AgentState::Down | AgentState::Waiting { .. } | AgentState::Starting | AgentState::Stopping(_) => ended,
        }
    }

    /// Why it is in its state, a sentence for people; empty when there is nothing to explain.
    fn detail(&self, now: Time, policy: Policy) -> String {
        let last_end = &self.detail;
        let text = match &self.state {
            AgentState::Waiting { until } => {
                let retries = self.own_spec().map_or(policy, |spec| policy.of(spec)).retries;
                let wait = seconds_rounded_up(until.since(now));
                format!("{last_end}; restart {} of {retries} in {wait} s", self.failures.max(1))
            }
            AgentState::Fatal => {
                format!("{last_end}; given up after {} in a row", count(self.failures.into(), "early end"))
            }
            AgentState::Stopping(stopping) if stopping.main_process.is_some() && !self.killed => {
                format!("{last_end}; stopping")
            }
            AgentState::Running { .. } if self.check_failures > 0 => {
                format!("health check did not pass {} in a row", count(self.check_failures.into(), "time"))
            }
            AgentState::Prestart { .. } => "its prestart runs".to_string(),
            AgentState::Forking { starter, .. } => match (starter, self.pidfile()) {
                (Some(_), _) => "its starter runs".to_string(),
                (None, Some(file)) => format!("waits for pid file \"{file}\" to name its main process"),
                (None, None) if self.runs_headless() => {
                    "several of its processes could be the main process, and there is no pid file".to_string()
                }
                (None, None) => "looks for its main process".to_string(),
            },
            AgentState::Running { ready_by: Some(_), .. } => match &*self.said {
                "" => "waits for READY=1".to_string(),
                said => format!("waits for READY=1: {said}"),
            },
            AgentState::Running { .. } if !self.said.is_empty() => self.said.to_string(),
            AgentState::Running { .. } | AgentState::Starting if self.failures == 0 => String::new(),
            AgentState::Running { .. } => format!("last end: {last_end}"),
            AgentState::Down | AgentState::Starting | AgentState::Stopping(_) => last_end.to_string(),
        };
        let text = match self.spared {
            0 => text,
            1 => format!("{text}; 1 process left by earlier runs"),
            spared => format!("{text}; {spared} processes left by earlier runs"),
        };
        // The text begins like this when no end is known.
        text.strip_prefix("; ").map_or_else(|| text.clone(), str::to_string)
    }

    /// How it ended last, a sentence for people; empty if it has not ended yet.
    pub fn last_end(&self) -> &str {
        &self.detail
    }

    /// What the next daemon of this boot must know about it.
    pub fn run_record(&self, boot_id: &str) -> RunRecord {
        let (started, after) = match &self.state {
            AgentState::Running { since, .. }
            | AgentState::Forking { since, .. }
            | AgentState::Prestart { since, .. } => (*since, None),
            AgentState::Stopping(stopping) => {
                (stopping.main_process.map_or(Time::default(), |(_, since)| since), Some(stopping.after))
            }
            // The next daemon knows by this time that a process of it, if there is a new one, belongs to this start.
            AgentState::Starting => (self.start_ordered.unwrap_or_default(), None),
            AgentState::Down | AgentState::Waiting { .. } | AgentState::Fatal => (Time::default(), None),
        };
        // The next daemon ends a prestart that is to come or under way, and starts the agent anew.
        let prepares = self.prepares && matches!(self.state, AgentState::Starting | AgentState::Prestart { .. });
        RunRecord {
            name: self.record.name.clone(),
            boot_id: boot_id.into(),
            process: self.process(),
            forking: matches!(self.state, AgentState::Forking { .. }),
            stopping: prepares
                || !matches!(after, None | Some(AfterStop::Wait(_) | AfterStop::Finished | AfterStop::Fatal)),
            started,
            started_with: self.started_with,
            // A requested stop resets the failures.
            failures: if after == Some(AfterStop::Down) { 0 } else { self.failures },
            restart_at: match (&self.state, &after) {
                (AgentState::Waiting { until }, _) | (_, Some(AfterStop::Wait(until))) => Some(*until),
                _ => None,
            },
            finished: (self.state == AgentState::Down && self.finished) || after == Some(AfterStop::Finished),
            fatal: self.state == AgentState::Fatal || after == Some(AfterStop::Fatal),
            killed: self.killed,
            spares: self.spares,
            unready: self.is_unready()
                || match &self.state {
                    AgentState::Stopping(stopping) => stopping.scope == Scope::Run,
                    _ => prepares,
                },
            said: self.said.clone(),
            detail: self.detail.clone(),
        }
    }
}
