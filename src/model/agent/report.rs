//! What is said of an agent: to the server, to people, and to the next daemon.

use super::{seconds_rounded_up, AfterStop, Agent, AgentState};
use crate::kernel::Time;
use crate::model::record::RunRecord;
use crate::model::report::{AgentReport, Status};
use crate::model::restart::Policy;
use crate::text::count;

impl Agent {
    /// Its part of a report.
    pub fn report(&self, now: Time, policy: Policy) -> AgentReport {
        let process = self.process();
        let since = match &self.state {
            AgentState::Running { since, .. } | AgentState::Forking { starter: Some(_), since, .. } => *since,
            AgentState::Stopping(stopping) => stopping.main_process.map_or(now, |(_, since)| since),
            AgentState::Forking { .. }
            | AgentState::Down
            | AgentState::Waiting { .. }
            | AgentState::Fatal
            | AgentState::Starting => now,
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
            AgentState::Forking { starter: Some(_), .. } | AgentState::Running { .. } => Status::Running,
            AgentState::Stopping(stopping) if stopping.main_process.is_some() && !self.killed => Status::Running,
            AgentState::Fatal => Status::Fatal,
            AgentState::Down
            | AgentState::Waiting { .. }
            | AgentState::Starting
            | AgentState::Forking { .. }
            | AgentState::Stopping(_) => ended,
        }
    }

    pub(super) fn detail(&self, now: Time, policy: Policy) -> String {
        let said = &self.detail;
        let told = match &self.state {
            AgentState::Waiting { until } => {
                let retries = self.definition.as_ref().map_or(policy, |definition| policy.of(&definition.spec)).retries;
                let wait = seconds_rounded_up(until.since(now));
                format!("{said}; restart {} of {retries} in {wait} s", self.failures.max(1))
            }
            AgentState::Fatal => {
                format!("{said}; given up after {} in a row", count(self.failures.into(), "early end"))
            }
            AgentState::Stopping(stopping) if stopping.main_process.is_some() && !self.killed => {
                format!("{said}; stopping")
            }
            AgentState::Running { .. } if self.check_failures > 0 => {
                format!("health check did not pass {} in a row", count(self.check_failures.into(), "time"))
            }
            AgentState::Running { .. } | AgentState::Forking { .. } | AgentState::Starting if self.failures == 0 => {
                String::new()
            }
            AgentState::Running { .. } | AgentState::Forking { .. } => format!("last end: {said}"),
            AgentState::Down | AgentState::Starting | AgentState::Stopping(_) => said.to_string(),
        };
        // Where nothing is known of an end.
        told.strip_prefix("; ").map_or_else(|| told.clone(), str::to_string)
    }

    /// What is said about its last end.
    pub fn last_end(&self) -> &str {
        &self.detail
    }

    /// What matters to this boot.
    pub fn run_record(&self, boot_id: &str) -> RunRecord {
        let (started, then) = match &self.state {
            AgentState::Running { since, .. } | AgentState::Forking { since, .. } => (*since, None),
            AgentState::Stopping(stopping) => {
                (stopping.main_process.map_or(Time::default(), |(_, since)| since), Some(stopping.after))
            }
            AgentState::Down | AgentState::Waiting { .. } | AgentState::Fatal | AgentState::Starting => {
                (Time::default(), None)
            }
        };
        RunRecord {
            name: self.record.name.clone(),
            boot_id: boot_id.into(),
            process: self.process(),
            forking: matches!(self.state, AgentState::Forking { .. }),
            stopping: !matches!(then, None | Some(AfterStop::Wait(_) | AfterStop::Finished | AfterStop::Fatal)),
            started,
            fingerprint: self.fingerprint,
            // What has come down as ordered begins anew.
            failures: if then == Some(AfterStop::Down) { 0 } else { self.failures },
            restart_at: match (&self.state, &then) {
                (AgentState::Waiting { until }, _) | (_, Some(AfterStop::Wait(until))) => Some(*until),
                _ => None,
            },
            finished: (self.state == AgentState::Down && self.finished) || then == Some(AfterStop::Finished),
            fatal: self.state == AgentState::Fatal || then == Some(AfterStop::Fatal),
            killed: self.killed,
            detail: self.detail.clone(),
        }
    }
}
