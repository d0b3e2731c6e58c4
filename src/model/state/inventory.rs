//! What the host has of the agents' packages. People install and remove packages beside the daemon: the package database is
//! right then, and not the record of the last job.

use super::jobs::{is_same_package, one_version, OpenJob};
use super::State;
use crate::kernel::Level;
use crate::model::agent::Agent;
use crate::model::event::{log, Action, Now};
use crate::model::package::inventory::{answer, inventory};
use crate::model::package::Tool;
use crate::model::record::Installed;

impl State {
    /// The tool that asks the package managers for the packages of which there is no answer, or of all agents if somebody may
    /// have changed them (`anew`); `None` if there are none.
    pub fn inventory_tool(&mut self, anew: bool) -> Option<Tool> {
        self.agents.values_mut().for_each(|agent| agent.inventoried &= !anew);
        let missing = self.agents.values().filter(|agent| !agent.inventoried);
        inventory(missing.filter_map(|agent| Some((&**agent.name(), agent.record.package.as_deref()?))))
    }

    /// Whether there is an answer of every package.
    pub fn is_inventoried(&self) -> bool {
        self.agents.values().all(|agent| agent.inventoried || agent.record.package.is_none())
    }

    /// Whether a job is changing a package, so that what the host has of it will soon be another.
    pub fn is_changing_packages(&self) -> bool {
        self.jobs.open.iter().any(OpenJob::is_changing_package)
    }

    /// Takes the answers of that tool, and says of each package that somebody has changed.
    pub(super) fn inventory_taken(&mut self, output: &str, now: Now, out: &mut Vec<Action>) {
        if self.is_changing_packages() {
            return;
        }
        for (name, found) in output.lines().filter_map(answer) {
            let Some(agent) = self.agents.get_mut(name) else { continue };
            let before = agent.replaced_by.take();
            agent.replaced_by = agent.record.package.as_ref().and_then(|package| replacement(package, found));
            agent.inventoried = true;
            if agent.replaced_by != before {
                if let Some(text) = self.agents.get(name).and_then(|agent| self.package_trouble(agent)) {
                    log(out, Level::Warn, format_args!("{text}"));
                    self.incident(name.into(), &text, now);
                }
            }
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
        let how = "was changed by hand, and a job that installs it puts that right";
        Some(format!("agent \"{}\": its package {} {how}: want {want}, got {found}", agent.name(), package.package))
    }
}

/// What the host has instead of a package; empty: nothing.
fn replacement(package: &Installed, found: &str) -> Option<Box<str>> {
    let found = one_version(found);
    // Neither the record of a tar nor one that an older version wrote says which version it was.
    let is_there = if package.native.is_empty() { !found.is_empty() } else { found == package.native };
    (!is_there).then_some(found)
}
