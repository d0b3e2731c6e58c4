//! What runs of agents that nobody has taken over.

use super::view::Depth;
use super::{Leftover, Trees};
use crate::host::limits::Limits;
use crate::host::proc::{self, ProcessTag, Stat};
use crate::kernel::{Pid, Process, Uid};
use crate::model::membership::{self, judge, Facts, Strength};
use crate::model::spec::Name;
use crate::sorted_map::{SortedMap, SortedSet};
use crate::sys::account::own_uid;

/// The most that is read of the environments of all processes together, once at a daemon's start.
const ALL_BYTES: usize = 32 << 20;

impl Trees {
    /// Agents of an earlier daemon that nobody has taken over, with what runs of each: those that have processes in their
    /// control groups, whose main process may be among them, and then those that only environments tell of.
    pub fn leftovers(&mut self, limits: &Limits) -> SortedMap<Name, Leftover> {
        self.snapshot_view(Depth::Whole);
        let mut leftovers = SortedMap::new();
        let Some(view) = self.view.as_ref() else { return leftovers };
        for (name, pids) in limits.leftovers() {
            if self.trees.contains_key(&name) {
                continue;
            }
            let stats = pids.into_iter().filter_map(|pid| view.snapshot.find(pid)).copied();
            let stats: Vec<Stat> = stats.filter(|stat| self.may_be_agent(stat)).collect();
            if !stats.is_empty() {
                leftovers.insert(name, leftover(stats, Strength::Grouped));
            }
        }
        for (name, stats) in self.marked(&leftovers) {
            leftovers.insert(name, leftover(stats, Strength::Marked));
        }
        leftovers
    }

    /// Whose environments name an agent that nobody has taken over and of which no control group is left, and can be
    /// believed as far as an environment can.
    fn marked(&self, grouped: &SortedMap<Name, Leftover>) -> SortedMap<Name, Vec<Stat>> {
        let mut found: SortedMap<Name, Vec<Stat>> = SortedMap::new();
        let Some(view) = self.view.as_ref() else { return found };
        let mut taken: SortedSet<Process> = grouped.values().flat_map(|left| left.processes.iter().copied()).collect();
        let mut bytes = 0;
        for (stat, facts) in view.snapshot.stats().iter().zip(&view.facts) {
            if facts.excluded || judge(facts).is_some() || !self.may_be_agent(stat) || !taken.insert(stat.process) {
                continue;
            }
            let Process { pid, .. } = stat.process;
            let Some(users) = proc::users(pid).filter(|users| self.is_agents(*users)) else { continue };
            if bytes > ALL_BYTES {
                break;
            }
            let (said, length) = proc::process_tag(pid, &self.state_dir);
            bytes += length;
            let ProcessTag::Agent(name) = said else { continue };
            if self.trees.contains_key(&name) || grouped.contains_key(&name) {
                continue;
            }
            let mark = membership::Mark {
                agent: 0,
                users: Some(users),
                agent_user: self.user(&name),
                outside_group: false,
                same_groups: self.shares_groups(pid, None),
                our_child: false,
                adopted: true,
            };
            if judge(&Facts { mark: Some(mark), ..Facts::default() }).is_some() {
                found.or_insert_with(name, Vec::new).push(*stat);
            }
        }
        found
    }

    /// Whether some agent runs as a process with these users does.
    fn is_agents(&self, users: [Uid; 3]) -> bool {
        let same = |user: Uid| users == [user; 3];
        same(own_uid()) || self.users.values().flatten().any(|user| same(*user))
    }
}

fn leftover(mut stats: Vec<Stat>, strength: Strength) -> Leftover {
    // The one whose parent is outside, in a session of its own, the oldest of them.
    let pids: SortedSet<Pid> = stats.iter().map(|stat| stat.process.pid).collect();
    stats.sort_by_key(|stat| {
        let inside = Pid::new(stat.parent).is_some_and(|parent| pids.contains(&parent));
        (inside, stat.session != stat.process.pid.raw(), stat.process.ticks)
    });
    let leads = |stat: &&Stat| strength.holds() && stat.session == stat.process.pid.raw();
    let main = stats.first().filter(leads).map(|stat| stat.process);
    Leftover { main, processes: stats.iter().map(|stat| stat.process).collect(), strength }
}
