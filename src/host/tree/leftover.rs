//! Processes of agents that an earlier daemon started and this one has not taken over, found when the daemon starts.
//!
//! They are found by control groups, and by environments where no group is left. What becomes of them is not decided here.

use super::view::Depth;
use super::{Leftover, Trees};
use crate::host::limits::Limits;
use crate::host::proc::{self, Stat};
use crate::kernel::{Pid, Process, Uid};
use crate::model::main_process::sort_leftover;
use crate::model::membership::{self, judge, Facts, Kin, Strength};
use crate::model::spec::Name;
use crate::sorted_map::{SortedMap, SortedSet};
use crate::sys::account::own_uid;
use crate::work::inspect::ProcessTag;

/// Says which agent the environment of each of these processes names, `Unknown` where it cannot be read. Each is given with
/// its user.
pub type Ask<'a> = &'a mut dyn FnMut(&[(Pid, Uid)]) -> Vec<ProcessTag>;

impl Trees {
    /// Agents of an earlier daemon that are not taken over, with the processes of each: first those with processes in their
    /// control groups, among which the main process may be, then those that are known by environments only.
    pub fn leftovers(&mut self, limits: &Limits, ask: Ask) -> SortedMap<Name, Leftover> {
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
        for (name, stats) in self.marked(&leftovers, ask) {
            leftovers.insert(name, leftover(stats, Strength::Marked));
        }
        leftovers
    }

    /// The processes whose environments name an agent that is not taken over and has no control group left, and whose
    /// environments can be believed as far as an environment can.
    fn marked(&self, grouped: &SortedMap<Name, Leftover>, ask: Ask) -> SortedMap<Name, Vec<Stat>> {
        let mut marked: SortedMap<Name, Vec<Stat>> = SortedMap::new();
        let Some(view) = self.view.as_ref() else { return marked };
        let mut taken: SortedSet<Process> = grouped.values().flat_map(|left| left.processes.iter().copied()).collect();
        let mut asked = Vec::new();
        for (index, stat) in view.snapshot.stats().iter().enumerate() {
            let known = view.facts.is_excluded(index) || view.facts.judge(index).is_some();
            if known || !self.may_be_agent(stat) || !taken.insert(stat.process) {
                continue;
            }
            let Process { pid, .. } = stat.process;
            if let Some(users) = proc::users(pid).filter(|users| self.is_agents(*users)) {
                asked.push((stat, users));
            }
        }
        let processes: Vec<(Pid, Uid)> = asked.iter().map(|(stat, users)| (stat.process.pid, users[0])).collect();
        let tags = if processes.is_empty() { Vec::new() } else { ask(&processes) };
        for ((stat, users), tag) in asked.into_iter().zip(tags) {
            let pid = stat.process.pid;
            let ProcessTag::Agent(name) = tag else { continue };
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
                marked.or_insert_with(name, Vec::new).push(*stat);
            }
        }
        marked
    }

    /// Whether some agent runs as the user that all three of these are.
    fn is_agents(&self, users: [Uid; 3]) -> bool {
        let same = |user: Uid| users == [user; 3];
        same(own_uid()) || self.users.values().flatten().any(|user| same(*user))
    }
}

fn leftover(stats: Vec<Stat>, strength: Strength) -> Leftover {
    let mut processes: Vec<Kin> = stats.iter().map(Stat::kin).collect();
    let main = sort_leftover(&mut processes, strength);
    Leftover { main, processes: processes.iter().map(|kin| kin.process).collect(), strength }
}
