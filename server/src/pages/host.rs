//! One host: what it reports, its jobs, what happened, who it is, and what can be done.

use super::hosts::HostRow;
use super::jobs::ExecutionRow;
use super::lists::EventRow;
use super::{words, Badge, Frame};
use askama::Template;
use serde_json::Value as Json;

/// An agent on its host.
pub struct AgentRow {
    /// Its name.
    pub name: String,
    /// What runs.
    pub version: String,
    /// Its status.
    pub badge: Badge,
    /// Why, or since when.
    pub detail: String,
    /// What it uses.
    pub usage: String,
    /// What it may use.
    pub limits: String,
}

impl AgentRow {
    /// The agents of a report, those in trouble first.
    pub fn of(body: &Json) -> Vec<AgentRow> {
        let mut agents: Vec<&Json> = body["agents"].as_array().into_iter().flatten().collect();
        agents.sort_by_key(|agent| !crate::model::facts::is_down(agent["status"].as_str().unwrap_or_default()));
        agents.into_iter().map(AgentRow::new).collect()
    }

    fn new(agent: &Json) -> AgentRow {
        let text = |key: &str| agent[key].as_str().unwrap_or_default().to_string();
        let number = |key: &str| agent[key].as_f64();
        let status = text("status");
        let mut detail = Vec::new();
        if status == "running" {
            if let Some(uptime) = agent["uptime"].as_i64() {
                detail.push(format!("for {}", super::time::span(uptime)));
            }
        }
        if let Some(failures) = agent["failures"].as_i64().filter(|failures| *failures > 0) {
            detail.push(format!(
                "ended {} by itself",
                if failures == 1 { "once".into() } else { format!("{failures} times") }
            ));
        }
        if !text("detail").is_empty() {
            detail.push(text("detail"));
        }
        let mut usage = Vec::new();
        if let Some(pid) = agent["pid"].as_i64().filter(|pid| *pid > 0) {
            usage.push(format!("pid {pid}"));
        }
        if let Some(cpu) = number("cpu") {
            usage.push(format!("{cpu:.1} % CPU"));
        }
        if let Some(memory) = agent["memory"].as_i64() {
            usage.push(words::size(memory));
        }
        AgentRow {
            name: text("name"),
            version: text("version"),
            badge: words::agent_badge(&status),
            detail: detail.join("; "),
            usage: usage.join(", "),
            limits: text("job_limits"),
        }
    }
}

/// A label of a host.
pub struct Label {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
    /// Whether it was set on the server, and not by the host.
    pub own: bool,
}

/// A host that may be the same machine.
pub struct Twin {
    /// Its identity.
    pub sn: String,
    /// Where its page is.
    pub address: String,
    /// Its state.
    pub state: String,
    /// When it last reported.
    pub seen: Option<i64>,
    /// Whether it seems that this host took its place.
    pub replaced: bool,
}

/// One host.
#[derive(Template)]
#[template(path = "host.html")]
pub struct HostPage {
    /// What is around it.
    pub f: Frame,
    /// The host.
    pub row: HostRow,
    /// Its agents.
    pub agents: Vec<AgentRow>,
    /// What the daemon itself complains of.
    pub troubles: Vec<String>,
    /// Its labels.
    pub labels: Vec<Label>,
    /// Seconds by which its clock is ahead.
    pub skew: i64,
    /// How long its daemon runs, in seconds.
    pub uptime: Option<i64>,
    /// Others of its name.
    pub twins: Vec<Twin>,
    /// Its newest jobs.
    pub jobs: Vec<ExecutionRow>,
    /// Its newest events.
    pub events: Vec<EventRow>,
    /// The groups it can be moved to.
    pub groups: Vec<String>,
    /// The last report as it came.
    pub report: String,
}

impl HostPage {
    /// Where a form leads.
    pub fn to(&self, action: &str) -> String {
        format!("{}/{action}", self.row.address())
    }

    /// Where a job for this host is given.
    pub fn job_address(&self) -> String {
        format!("/jobs/new?select={}", crate::wire::url::encode(&format!("sn={}", self.row.view.sn)))
    }

    /// Whether it gets jobs.
    pub fn is_accepted(&self) -> bool {
        self.row.view.state == "accepted"
    }

    /// Its own labels, a line each, as the form has them.
    pub fn own_labels(&self) -> String {
        let own = self.row.view.own_labels.iter();
        own.map(|(name, value)| format!("{name}={value}\n")).collect()
    }
}
