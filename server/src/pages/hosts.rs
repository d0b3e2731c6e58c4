//! The list of hosts, and those that wait for a decision.

use super::{words, Badge, Frame, Pager};
use crate::model::host::{AgentView, View};
use crate::store::roster::{Scope, Summary, SCOPES};
use askama::Template;
use serde_json::Value as Json;

/// A host in a list.
pub struct HostRow {
    /// What is known of it.
    pub view: View,
    /// Its states.
    pub badges: Vec<Badge>,
    /// Why it is so.
    pub reasons: Vec<String>,
    /// When it was first seen.
    pub created: i64,
    /// The key it came with.
    pub key: Option<String>,
}

impl HostRow {
    /// A row of what is known.
    pub fn new(
        view: View,
        body: Option<&Json>,
        lost_after: i64,
        created: i64,
        key: Option<String>,
        now: i64,
    ) -> HostRow {
        let (badges, reasons) = (words::host_badges(&view), words::host_reasons(&view, body, lost_after, now));
        HostRow { view, badges, reasons, created, key }
    }

    /// Where its page is.
    pub fn address(&self) -> String {
        host_address(&self.view.sn)
    }

    /// The first agents, as many as fit.
    pub fn some_agents(&self) -> Vec<AgentChip> {
        // Those in trouble are seen even where there are many.
        let mut agents: Vec<&AgentView> = self.view.agents.iter().collect();
        agents.sort_by_key(|agent| !crate::model::facts::is_down(&agent.status));
        let chip = |agent: &AgentView| AgentChip {
            name: agent.name.clone(),
            version: agent.version.clone(),
            badge: words::agent_badge(&agent.status),
        };
        agents.into_iter().take(AGENTS).map(chip).collect()
    }

    /// How many more there are.
    pub fn more_agents(&self) -> usize {
        self.view.agents.len().saturating_sub(AGENTS)
    }

    /// `debian 12, x86_64`.
    pub fn system(&self) -> String {
        let parts: Vec<&str> =
            [self.view.os.as_str(), self.view.arch.as_str()].into_iter().filter(|part| !part.is_empty()).collect();
        parts.join(", ")
    }
}

/// An agent in a row.
pub struct AgentChip {
    /// Its name.
    pub name: String,
    /// What runs.
    pub version: String,
    /// Its status.
    pub badge: Badge,
}

/// Agents that a row shows.
const AGENTS: usize = 4;

/// The address of a host's page.
pub fn host_address(sn: &str) -> String {
    format!("/hosts/{}", crate::wire::url::encode(sn))
}

/// A cut of the list, with its count.
pub struct Tab {
    /// What it says.
    pub word: &'static str,
    /// How many hosts it has.
    pub count: String,
    /// Where it leads.
    pub address: String,
    /// Whether it is the one that is shown.
    pub chosen: bool,
}

/// The cuts of the list.
pub fn tabs(frame: &Frame, chosen: Scope, summary: &Summary) -> Vec<Tab> {
    let shown = SCOPES.iter().filter(|(scope, _)| *scope != Scope::All);
    shown
        .map(|(scope, word)| {
            let name = match scope {
                Scope::Active => "All",
                Scope::Trouble => "In trouble",
                Scope::Lost => "Lost",
                Scope::Late => "Late",
                Scope::Down => "Agents down",
                Scope::Pending => "Pending",
                Scope::Conflict => "Conflict",
                Scope::Gone => "Retired, rejected",
                Scope::All => "Everything",
            };
            let word = if *scope == Scope::Active { "" } else { word };
            let address = frame.params.with("page", "").with("show", word).address(&frame.path);
            Tab { word: name, count: words::count(summary.of(*scope)), address, chosen: *scope == chosen }
        })
        .collect()
}

/// The list of hosts.
#[derive(Template)]
#[template(path = "hosts.html")]
pub struct Hosts {
    /// What is around it.
    pub f: Frame,
    /// The cuts.
    pub tabs: Vec<Tab>,
    /// The lines.
    pub rows: Vec<HostRow>,
    /// Where in the list this is.
    pub pager: Pager,
    /// What of the filter cannot be read.
    pub wrong: Option<String>,
    /// Whether there is any host at all.
    pub any: bool,
    /// How a host is made to report here.
    pub first_step: FirstStep,
}

/// What an empty fleet needs.
#[derive(Default)]
pub struct FirstStep {
    /// Whether a key is there.
    pub has_key: bool,
    /// Where hosts report.
    pub address: String,
}

/// Hosts that wait for a decision.
#[derive(Template)]
#[template(path = "pending.html")]
pub struct Pending {
    /// What is around it.
    pub f: Frame,
    /// The lines.
    pub rows: Vec<HostRow>,
    /// Where in the list this is.
    pub pager: Pager,
    /// What of the filter cannot be read.
    pub wrong: Option<String>,
    /// Whether there is any host at all.
    pub any: bool,
    /// How a host is made to report here.
    pub first_step: FirstStep,
}
