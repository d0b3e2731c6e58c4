//! Control groups that no agent needs any more are removed: at once where they are empty, later where they are not yet.

use std::fs;
use std::path::Path;

use super::{Limits, MountedHierarchy};
use crate::model::spec;

impl Limits {
    /// Removes an agent's group unless a process is in it.
    pub fn vacate(&mut self, name: &str) {
        let Some(groups) = self.agents.get_mut(name) else { return };
        // Where it cannot be removed, the processes in it show at the next look.
        if groups.tracking.as_ref().is_some_and(|leaf| fs::remove_dir(leaf.dir()).is_ok()) {
            let gone = groups.tracking.take();
            for leaf in &mut groups.limited {
                leaf.take_if(|leaf| Some(&**leaf) == gone.as_ref());
            }
            // Its directory may have been the last one in the group of an earlier daemon.
            self.leftover.extend(gone);
        }
    }

    /// Forgets an agent of which no process is left, and removes its groups; those that are not empty yet are removed later.
    pub fn release(&mut self, name: &str) {
        if let Some(groups) = self.agents.remove(name) {
            for leaf in groups.leaves() {
                self.leftover.push(leaf.clone());
            }
        }
        self.remove_leftover();
    }

    /// Removes the groups that no agent is in, in every hierarchy: those that were not empty when their agent was released, and
    /// those that an earlier daemon left. To be called with each check, once every agent that runs has been attached, and not
    /// during a start, when the child is not in its group yet.
    pub fn remove_empty_groups(&mut self) {
        let mut old = Vec::new();
        for index in 0..self.hierarchies.len() {
            let MountedHierarchy { hierarchy, group } = &self.hierarchies[index];
            let is_there = |base: &Path| base.join(self.own_name()).is_dir();
            // A group that no agent has needed yet is not made for this.
            if group.is_some() || is_there(&hierarchy.mount) || is_there(&hierarchy.own) {
                let Ok(group) = self.group(index) else { continue };
                old.extend(group.leaves().iter().map(|name| group.find(name)));
            }
        }
        for leaf in old {
            let used = self.agents.get(leaf.name()).is_some_and(|groups| groups.leaves().contains(&&leaf));
            // Empty groups below one that is in use belong to the agent.
            if !used && spec::is_name(leaf.name()) && !self.leftover.contains(&leaf) && !leaf.populated() {
                self.leftover.push(leaf);
            }
        }
        self.remove_leftover();
    }

    pub(super) fn remove_leftover(&mut self) {
        let own = self.own_name().to_string();
        let agents = &self.agents;
        self.leftover.retain(|leaf| {
            let used = agents.get(leaf.name()).is_some_and(|groups| groups.leaves().contains(&leaf));
            let stays = !used && !leaf.remove();
            if !used && !stays && !leaf.group().ends_with(&own) {
                // The group of an earlier daemon is of no use once it is empty.
                let _ = fs::remove_dir(leaf.group());
            }
            stays
        });
    }

    /// Removes all empty groups; for the end of a daemon that has stopped its agents.
    pub fn close(&mut self) {
        self.remove_empty_groups();
        for mounted in &self.hierarchies {
            if let Some(Ok(group)) = &mounted.group {
                group.close();
            }
        }
    }
}
