//! What the host has of the agents' packages. People install and remove packages beside the daemon: the package database is
//! right then, and not the record of the last job.

use super::jobs::one_version;
use super::State;
use crate::kernel::Level;
use crate::model::event::{log, Action, Now};
use crate::model::package::inventory::{answer, inventory};
use crate::model::package::Tool;
use crate::model::record::{Installed, Phase};

impl State {
    /// The tool that asks a package manager for the packages of all agents; `None` if there are none.
    pub fn inventory_tool(&self) -> Option<Tool> {
        inventory(self.agents.values().filter_map(|agent| Some((&**agent.name(), agent.record.package.as_deref()?))))
    }

    /// Whether a job is changing a package, so that what the host has of it will soon be another.
    pub fn is_changing_packages(&self) -> bool {
        self.jobs.open.iter().any(|job| job.record.phase > Phase::Verified && job.record.phase < Phase::Done)
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
            if agent.replaced_by != before {
                if let Some(text) = agent.package_trouble() {
                    log(out, Level::Warn, format_args!("{text}"));
                    self.incident(name.into(), &text, now);
                }
            }
        }
    }
}

/// What the host has instead of a package; empty: nothing.
fn replacement(package: &Installed, found: &str) -> Option<Box<str>> {
    let found = one_version(found);
    // Neither the record of a tar nor one that an older version wrote says which version it was.
    let is_there = if package.native.is_empty() { !found.is_empty() } else { found == package.native };
    (!is_there).then_some(found)
}
