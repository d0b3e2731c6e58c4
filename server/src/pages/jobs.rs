//! Jobs, one job with what became of it on each host, and the form that gives one.

use super::{words, Badge, Frame, Pager, Part, Tone};
use crate::model::job::State;
use crate::store::executions::Stored;
use crate::store::jobs::Job;
use askama::Template;
use std::collections::BTreeMap;

/// A job in a list.
pub struct JobRow {
    /// The job.
    pub job: Job,
    /// Its state.
    pub badge: Badge,
    /// Hosts by what became of it there.
    pub parts: Vec<Part>,
    /// Hosts in all.
    pub total: i64,
}

/// The states that a page of a job shows, those that did not work first.
pub fn states(wanted: &str) -> Vec<&str> {
    match wanted {
        "" => ORDER.iter().rev().copied().collect(),
        state => vec![state],
    }
}

/// States in the order of a bar: what is good, what is on its way, what is not good.
const ORDER: [&str; 14] = [
    "verified",
    "done",
    "received",
    "offered",
    "waiting",
    "retried",
    "drift",
    "expired",
    "withdrawn",
    "mismatch",
    "stuck",
    "lost",
    "refused",
    "failed",
];

impl JobRow {
    /// A row of a job and its counts by state.
    pub fn new(job: Job, counts: &BTreeMap<String, i64>) -> JobRow {
        let part = |state: &&str| {
            let count = counts.get(*state).copied().filter(|count| *count > 0)?;
            Some(Part { tone: words::execution_badge(state).tone, word: state.to_string(), count })
        };
        let parts: Vec<Part> = ORDER.iter().filter_map(part).collect();
        let sum = |tone: Tone| parts.iter().filter(|part| part.tone == tone).map(|part| part.count).sum::<i64>();
        let (busy, bad) = (sum(Tone::Busy), sum(Tone::Bad));
        let badge = if job.state.is_cancelled() {
            Badge::new(Tone::Mute, "cancelled")
        } else if job.state == State::Preparing {
            Badge::new(Tone::Busy, "being prepared")
        } else if busy > 0 {
            let word = if bad > 0 { "running, with failures" } else { "running" };
            Badge::new(if bad > 0 { Tone::Bad } else { Tone::Busy }, word)
        } else if bad > 0 {
            Badge::new(Tone::Bad, "ended with failures")
        } else {
            Badge::new(Tone::Ok, "done")
        };
        JobRow { total: counts.values().sum(), job, badge, parts }
    }

    /// Where its page is.
    pub fn address(&self) -> String {
        format!("/jobs/{}", crate::wire::url::encode(&self.job.id))
    }

    /// `install web 1.0`.
    pub fn told(&self) -> String {
        let version = self.job.version.as_deref().unwrap_or_default();
        [self.job.action.as_str(), &self.job.agent, version]
            .into_iter()
            .filter(|word| !word.is_empty())
            .collect::<Vec<_>>()
            .join(" ")
    }

    /// The hosts it is for, in words.
    pub fn select(&self) -> &str {
        if self.job.select.is_empty() {
            "every accepted host"
        } else {
            &self.job.select
        }
    }

    /// Whether there is anything to cancel.
    pub fn is_open(&self) -> bool {
        self.parts.iter().any(|part| matches!(part.word.as_str(), "waiting" | "offered" | "received"))
    }
}

/// The list of jobs.
#[derive(Template)]
#[template(path = "jobs.html")]
pub struct Jobs {
    /// What is around it.
    pub f: Frame,
    /// The lines.
    pub rows: Vec<JobRow>,
    /// Where in the list this is.
    pub pager: Pager,
    /// What of the filter cannot be read.
    pub wrong: Option<String>,
    /// Whether there is any release.
    pub has_release: bool,
}

/// One job on one host.
pub struct ExecutionRow {
    /// What is kept of it.
    pub stored: Stored,
    /// Its state.
    pub badge: Badge,
    /// Why it is so.
    pub reason: String,
}

impl ExecutionRow {
    /// A row of an execution.
    pub fn new(stored: Stored) -> ExecutionRow {
        let badge = words::execution_badge(stored.execution.state.as_str());
        let mut reason = stored.execution.reason.clone();
        if let Some(errcode) = stored.execution.errcode.filter(|code| *code != 0) {
            reason = format!("{reason} ({errcode}: {})", words::code(errcode));
        }
        ExecutionRow { stored, badge, reason }
    }

    /// What the host said, where it says more than success.
    pub fn message(&self) -> Option<&str> {
        let e = &self.stored.execution;
        (!e.message.is_empty() && e.errcode != Some(0)).then_some(e.message.as_str())
    }

    /// Where its host's page is.
    pub fn host_address(&self) -> String {
        super::hosts::host_address(&self.stored.sn)
    }

    /// Where its job's page is.
    pub fn job_address(&self) -> String {
        format!("/jobs/{}", crate::wire::url::encode(&self.stored.job))
    }

    /// `install web`.
    pub fn told(&self) -> String {
        let version = self.stored.execution.version.as_deref().unwrap_or_default();
        let words = [self.stored.action.as_str(), &self.stored.agent, version];
        words.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
    }

    /// When something last happened to it.
    pub fn touched(&self) -> i64 {
        let e = &self.stored.execution;
        e.ended.or(e.received).or(e.offered).unwrap_or(self.stored.created)
    }
}

/// Failures of one kind.
pub struct Failure {
    /// The code of the result, where there is one.
    pub code: String,
    /// The sentence of the host, or the reason.
    pub message: String,
    /// How many hosts.
    pub count: i64,
}

/// A cut of the executions of a job.
pub struct StateTab {
    /// The state; empty for all.
    pub badge: Option<Badge>,
    /// What it means.
    pub meaning: &'static str,
    /// How many.
    pub count: String,
    /// Where it leads.
    pub address: String,
    /// Whether it is the one that is shown.
    pub chosen: bool,
}

/// The cuts of a job.
pub fn state_tabs(frame: &Frame, row: &JobRow) -> Vec<StateTab> {
    let chosen = frame.params.get("state");
    let to = |state: &str| frame.params.with("page", "").with("state", state).address(&frame.path);
    let count = words::count(row.total);
    let mut tabs = vec![StateTab { badge: None, meaning: "", count, address: to(""), chosen: chosen.is_empty() }];
    for part in &row.parts {
        tabs.push(StateTab {
            badge: Some(words::execution_badge(&part.word)),
            meaning: words::execution_meaning(&part.word),
            count: words::count(part.count),
            address: to(&part.word),
            chosen: chosen == part.word,
        });
    }
    tabs
}

/// One job.
#[derive(Template)]
#[template(path = "job.html")]
pub struct JobPage {
    /// What is around it.
    pub f: Frame,
    /// The job.
    pub row: JobRow,
    /// The cuts.
    pub tabs: Vec<StateTab>,
    /// What went wrong, the most frequent first.
    pub failures: Vec<Failure>,
    /// What became of it on each host.
    pub rows: Vec<ExecutionRow>,
    /// Where in the list this is.
    pub pager: Pager,
    /// How many hosts have it and could act on it after a cancel.
    pub may_act: i64,
    /// The address of the form that gives it once more to the hosts where it did not work.
    pub again: Option<String>,
}

/// What a job would do.
pub struct Preview {
    /// How many hosts get it.
    pub hosts: i64,
    /// Some of them.
    pub names: Vec<String>,
    /// Who does not, and why.
    pub left_out: Vec<(String, i64)>,
    /// The version that is given.
    pub version: Option<String>,
}

/// The form that gives a job.
#[derive(Template)]
#[template(path = "job_new.html")]
pub struct NewJob {
    /// What is around it.
    pub f: Frame,
    /// The fields as they were sent.
    pub fields: super::params::Params,
    /// Why it cannot be given as it is.
    pub wrong: Option<String>,
    /// What it would do.
    pub preview: Option<Preview>,
    /// Names of agents that are known.
    pub agents: Vec<String>,
    /// Releases that can be given: agent and version.
    pub releases: Vec<(String, String)>,
}

/// Actions with what they do.
const ACTIONS: [(&str, &str); 8] = [
    ("install", "put a release there and run it"),
    ("upgrade", "put another release in its place"),
    ("uninstall", "stop it and remove it"),
    ("start", "run it"),
    ("stop", "stop it, and keep it stopped"),
    ("restart", "stop it and run it again"),
    ("reload", "have it read its configuration again"),
    ("config", "change envs and limits, or without an agent the host's own servers and step"),
];

impl NewJob {
    /// Actions to choose from.
    pub fn actions(&self) -> &[(&'static str, &'static str)] {
        &ACTIONS
    }

    /// Whether an action is the chosen one.
    pub fn is_action(&self, word: &str) -> bool {
        let chosen = self.fields.get("action");
        word == if chosen.is_empty() { "install" } else { chosen }
    }

    /// Whether a field is ticked.
    pub fn is_ticked(&self, name: &str) -> bool {
        self.fields.get(name) == "on"
    }

    /// Whether one of the rarer fields has something in it.
    pub fn has_more(&self) -> bool {
        ["envs", "limits", "window", "expires", "startsecs", "step", "svrlist", "purge", "any_time"]
            .iter()
            .any(|name| !self.fields.get(name).is_empty())
    }
}
