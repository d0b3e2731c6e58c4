//! What runs of agents that nobody has taken over.

use super::view::{Depth, Owner};
use super::{Leftover, Trees};
use crate::host::limits::Limits;
use crate::host::proc::{self, Mark, Stat};
use crate::kernel::Process;
use crate::map::{Map, Set};
use crate::model::spec::Name;
use crate::sys::account::own_uid;

impl Trees {
    /// Agents of an earlier daemon that nobody has taken over, with what runs of each: known by their control groups and
    /// environments.
    pub fn leftovers(&mut self, limits: &Limits) -> Map<Name, Leftover> {
        self.look(Depth::Whole);
        let mut found: Map<Name, Vec<Stat>> = Map::new();
        let Some(view) = self.view.as_ref() else { return Map::new() };
        let mut trusted = Set::new();
        for (name, pids) in limits.leftovers() {
            if self.trees.contains_key(&name) {
                continue;
            }
            trusted.extend(pids.iter().copied());
            let stats = pids.into_iter().filter_map(|pid| view.snapshot.find(pid)).copied();
            let stats: Vec<Stat> = stats.filter(|stat| self.may_be_agent(stat)).collect();
            if !stats.is_empty() {
                found.insert(name, stats);
            }
        }
        for (stat, owner) in view.snapshot.stats().iter().zip(&view.owners) {
            let taken = found.values().flatten().any(|known| known.process == stat.process);
            if *owner != Owner::Nobody || taken || !self.may_be_agent(stat) {
                continue;
            }
            if let Mark::Agent(name) = proc::mark(stat.process.pid, &self.state_dir) {
                if !self.trees.contains_key(&name) {
                    found.or_insert_with(name, Vec::new).push(*stat);
                }
            }
        }
        let mut leftovers = Map::new();
        for (name, mut stats) in found {
            // The one whose parent is outside, in a session of its own, the oldest of them.
            let pids: Set<i32> = stats.iter().map(|stat| stat.process.pid.raw()).collect();
            stats.sort_by_key(|stat| {
                (pids.contains(&stat.parent), stat.session != stat.process.pid.raw(), stat.process.ticks)
            });
            // Anybody can write an environment: the word of another user's process makes it no agent to be followed.
            let leads = |stat: &&Stat| {
                let Process { pid, .. } = stat.process;
                stat.session == pid.raw() && (trusted.contains(&pid) || proc::owner(pid) == Some(own_uid()))
            };
            let main = stats.first().filter(leads).map(|stat| stat.process);
            leftovers.insert(name, Leftover { main, processes: stats.iter().map(|stat| stat.process).collect() });
        }
        leftovers
    }
}
