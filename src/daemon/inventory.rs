//! When to ask what the host has of the agents' packages: at the start, when a look at files shows that a package manager, or
//! somebody in the directory of a tar, has changed something since, and again where there was no answer. The looks are at
//! each check and with each status for people.

use std::fs;
use std::os::unix::fs::MetadataExt;

use super::{Daemon, Owner};
use crate::kernel::{Exit, Time};
use crate::model::event::{Event, ToolOwner};
use crate::model::package::inventory::DATABASES;
use crate::sys::monotonic;

/// The last inventory.
#[derive(Debug, Default)]
pub(super) struct Inventory {
    /// A hash of when the databases were changed, and of which directories of tars are there.
    changes: u64,
    /// When the tool that runs is killed.
    until: Time,
    /// When what has no answer is asked for again, however often people look.
    again: Time,
}

impl Daemon {
    /// Looks for changes, and has packages asked for when there are any, or when there was no answer.
    pub(super) fn look_at_packages(&mut self) {
        let (now, owner) = (monotonic(), ToolOwner::Inventory);
        let child = Owner::Tool(owner.clone());
        if self.children.find(&child).is_some() {
            if self.inventory.until <= now {
                self.kill_owned(&child);
            }
            return;
        }
        let mut lines = String::new();
        let changes = self.package_changes(&mut lines);
        let anew = changes != self.inventory.changes;
        let is_due = anew || self.inventory.again <= now && !self.state.is_inventoried();
        if !is_due || self.state.is_changing_packages() {
            return;
        }
        self.inventory.changes = changes;
        // The next check comes a little less than `checksecs` after this one.
        self.inventory.again = now + self.config.checksecs / 2;
        self.queue.push_back(Event::ToolDone { owner: owner.clone(), exit: Exit::Code(0), output: lines.into() });
        if let Some(tool) = self.state.inventory_tool(anew) {
            self.inventory.until = now + tool.timeout;
            self.start_tool(owner, tool);
        }
    }

    /// The changes; `lines` gets what they say about tars.
    fn package_changes(&self, lines: &mut String) -> u64 {
        let mut changes = 1_u64;
        let mut add = |change: i64| changes = changes.wrapping_mul(31).wrapping_add(change as u64);
        for path in DATABASES.split(' ') {
            add(fs::metadata(path).map_or(0, |data| data.mtime().wrapping_mul(1 << 30) ^ data.mtime_nsec()));
        }
        for agent in self.state.agents() {
            if let Some(dir) = self.state.current(agent.name()) {
                let is_there = self.records.store().packages_dir(agent.name()).join(&*dir).is_dir();
                add(is_there.into());
                lines.push_str(&[&**agent.name(), if is_there { " it .\n" } else { " .\n" }].concat());
            }
        }
        changes
    }
}
