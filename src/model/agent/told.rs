//! What is said of an agent: to the server, to people, and to the next daemon.

use super::{Agent, Life, Then, NEVER};
use crate::kernel::Time;
use crate::model::record::RunRecord;
use crate::model::report::{AgentReport, Status};
use crate::model::restart::Policy;
use crate::text::count;

impl Agent {
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
        match &self.life {
            Life::Forking { starter: Some(_), .. } | Life::Running { .. } => Status::Running,
            Life::Stopping(stopping) if stopping.leader.is_some() && !self.killed => Status::Running,
            Life::Fatal => Status::Fatal,
            Life::Down | Life::Waiting { .. } | Life::Starting | Life::Forking { .. } | Life::Stopping(_) => ended,
        }
    }

    pub(super) fn detail(&self, now: Time, policy: Policy) -> String {
        let said = &self.detail;
        let told = match &self.life {
            Life::Waiting { until } => {
                let retries = self.definition.as_ref().map_or(policy, |definition| policy.of(&definition.spec)).retries;
                let wait = until.since(now);
                let wait = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
                format!("{said}; restart {} of {retries} in {wait} s", self.failures.max(1))
            }
            Life::Fatal => format!("{said}; given up after {} in a row", count(self.failures.into(), "early end")),
            Life::Stopping(stopping) if stopping.leader.is_some() && !self.killed => format!("{said}; stopping"),
            Life::Running { .. } if self.check_failures > 0 => {
                format!("health check did not pass {} in a row", count(self.check_failures.into(), "time"))
            }
            Life::Running { .. } | Life::Forking { .. } | Life::Starting if self.failures == 0 => String::new(),
            Life::Running { .. } | Life::Forking { .. } => format!("last end: {said}"),
            Life::Down | Life::Starting | Life::Stopping(_) => said.to_string(),
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
        let (started, then) = match &self.life {
            Life::Running { since, .. } | Life::Forking { since, .. } => (*since, None),
            Life::Stopping(stopping) => {
                (stopping.leader.map_or(Time::default(), |(_, since)| since), Some(stopping.then))
            }
            Life::Down | Life::Waiting { .. } | Life::Fatal | Life::Starting => (Time::default(), None),
        };
        RunRecord {
            name: self.record.name.clone(),
            boot_id: boot_id.into(),
            process: self.process(),
            forking: matches!(self.life, Life::Forking { .. }),
            stopping: !matches!(then, None | Some(Then::Wait(_) | Then::Fatal)),
            started,
            mark: self.mark,
            // What has come down as ordered begins anew.
            failures: if then == Some(Then::Down) { 0 } else { self.failures },
            restart_at: match (&self.life, &then) {
                (Life::Waiting { until }, _) | (_, Some(Then::Wait(until))) => Some(*until),
                (Life::Down, _) if self.rests => Some(NEVER),
                _ => None,
            },
            fatal: self.life == Life::Fatal || then == Some(Then::Fatal),
            killed: self.killed,
            detail: self.detail.clone(),
        }
    }
}
