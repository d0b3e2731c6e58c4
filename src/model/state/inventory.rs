//! What the host has of the agents' packages. People install and remove packages beside the daemon: the package database is
//! right then, and not the record of the last job.
//!
//! The daemon looks at files from time to time. A look that shows a change since the last inventory leads to another one.

use super::jobs::{is_same_package, one_version, OpenJob};
use super::State;
use crate::kernel::{Level, Time};
use crate::model::agent::Agent;
use crate::model::event::{Action, ToolOwner};
use crate::model::package::inventory::{answer, inventory};
use crate::model::record::Installed;
use crate::model::spec::Name;

/// The last inventory.
#[derive(Clone, Debug, Default)]
pub(super) struct Inventory {
    /// What the look has shown that led to it; `None`: there was none yet.
    changes: Option<u64>,
    /// When the tool that runs for it is killed; `None`: none runs.
    running_until: Option<Time>,
    /// When what has no answer is asked for again, however often people look.
    again: Time,
}

impl State {
    /// Takes a look at the host: the package managers are asked where somebody may have changed a package since, and again
    /// for those of which there was no answer.
    pub(super) fn packages_seen(&mut self, changes: u64, tars: &[(Name, bool)]) {
        if let Some(until) = self.inventory.running_until {
            if until <= self.now.time {
                self.out.push(Action::KillTool(ToolOwner::Inventory));
            }
            return;
        }
        let changed = self.inventory.changes != Some(changes);
        let is_due = changed || self.inventory.again <= self.now.time && !self.is_inventoried();
        if !is_due || self.is_changing_packages() {
            return;
        }
        self.inventory.changes = Some(changes);
        // The next check comes a little less than `checksecs` after this one.
        self.inventory.again = self.now.time + self.options.checksecs / 2;
        if changed {
            self.agents.values_mut().for_each(|agent| agent.inventoried = false);
        }
        let missing = self.agents.values().filter(|agent| !agent.inventoried);
        let tool = inventory(missing.filter_map(|agent| Some((&**agent.name(), agent.record.package.as_deref()?))));
        if let Some(tool) = tool {
            self.inventory.running_until = Some(self.now.time + tool.timeout);
            self.out.push(Action::Tool(ToolOwner::Inventory, tool));
        }
        for (name, is_there) in tars {
            self.package_found(name, if *is_there { "it" } else { "" });
        }
    }

    /// Whether there is an answer of every package.
    pub(super) fn is_inventoried(&self) -> bool {
        self.agents.values().all(|agent| agent.inventoried || agent.record.package.is_none())
    }

    /// Whether a job is changing a package, so that what the host has of it will soon be another.
    pub(super) fn is_changing_packages(&self) -> bool {
        self.jobs.open.iter().any(OpenJob::is_changing_package)
    }

    /// Takes the answers of the package managers.
    pub(super) fn inventory_taken(&mut self, output: &str) {
        self.inventory.running_until = None;
        if self.is_changing_packages() {
            return;
        }
        for (name, found) in output.lines().filter_map(answer) {
            self.package_found(name, found);
        }
    }

    /// Takes what the host has of the package of an agent, and reports it if somebody has changed that.
    fn package_found(&mut self, name: &str, found: &str) {
        let Some(agent) = self.agents.get_mut(name) else { return };
        let before = agent.replaced_by.take();
        agent.replaced_by = agent.record.package.as_ref().and_then(|package| replacement(package, found));
        agent.inventoried = true;
        if agent.replaced_by == before {
            return;
        }
        if let Some(text) = self.agents.get(name).and_then(|agent| self.package_trouble(agent)) {
            self.log_and_report(Level::Warn, name.into(), &text);
        }
    }

    /// What people read where the host has not the package that a job installed.
    pub(super) fn package_trouble(&self, agent: &Agent) -> Option<String> {
        let (package, found) = (agent.record.package.as_ref()?, agent.replaced_by.as_ref()?);
        // Agents may share a package, which a job has changed for one of them.
        let is_of_job = |other: &Installed| is_same_package(other, package) && other.native == *found;
        if !found.is_empty() && self.agents.values().any(|other| other.record.package.as_deref().is_some_and(is_of_job))
        {
            return None;
        }
        let found = if found.is_empty() { "nothing" } else { found };
        let want = if package.native.is_empty() { &package.version } else { &package.native };
        let how = "has changed since a job installed it, and one that does so again puts that right";
        Some(format!("agent \"{}\": its package {} {how}: want {want}, got {found}", agent.name(), package.package))
    }
}

/// What the host has instead of a package; empty: nothing.
pub(super) fn replacement(package: &Installed, found: &str) -> Option<Box<str>> {
    let found = one_version(found);
    // Neither the record of a tar nor one that an older version wrote says which version it was.
    let is_there = if package.native.is_empty() { !found.is_empty() } else { found == package.native };
    (!is_there).then_some(found)
}
