//! Processes that earlier runs of an agent have left, and that an ordinary stop spares, as `"kill": "main"` asks for.
//!
//! They stay in the tree of the agent and count for its limits, and are told from the processes of its present run. Which
//! other processes belong to them is decided by `model::membership`.

use super::view::Depth;
use super::{Tree, Trees};
use crate::host::limits::Limits;
use crate::host::proc::Stat;
use crate::kernel::Process;
use crate::model::membership::{extend_spared, Strength};
use crate::model::spec::Name;
use crate::sorted_map::SortedSet;

impl Trees {
    /// Notes that processes of an agent are left by earlier runs. `began`: when the first process of its present run was
    /// started, in ticks; only those that are older are left by earlier ones. `None`: it has no present run, and all are.
    pub fn leave_behind(&mut self, name: &Name, began: Option<u64>, limits: &Limits) {
        // An agent without a tree may have the control group of an earlier one of its name, with processes in it.
        self.tree(name);
        let left: Vec<Process> =
            self.collect(name, limits, Depth::Whole).iter().map(|(stat, _)| stat.process).collect();
        let is_older = |process: &Process| began.is_none_or(|began| process.ticks < began);
        let Some(tree) = self.trees.get_mut(name) else { return };
        let main_process = tree.main_process;
        tree.spared.extend(left.into_iter().filter(|process| Some(*process) != main_process && is_older(process)));
    }

    /// Whether a process of an agent is left by an earlier run.
    pub(super) fn is_spared(&self, name: &str, process: Process) -> bool {
        self.trees.get(name).is_some_and(|tree| tree.spared.contains(&process))
    }

    /// How many processes of an agent are left by earlier runs.
    pub fn count_spared(&mut self, name: &str, limits: &Limits) -> usize {
        let members = self.collect(name, limits, Depth::Whole);
        members.iter().filter(|(stat, _)| stat.alive() && self.is_spared(name, stat.process)).count()
    }
}

impl Tree {
    /// Adds the processes that spared ones have started since the last look, and forgets those that have ended. Only a look
    /// at the whole tree shows which have ended.
    pub(super) fn update_spared(&mut self, members: &[(Stat, Strength)], depth: Depth) {
        if self.spared.is_empty() {
            return;
        }
        let others = members.iter().filter(|(stat, _)| Some(stat.process) != self.main_process);
        extend_spared(&mut self.spared, &others.map(|(stat, _)| stat.kin()).collect::<Vec<_>>());
        if depth == Depth::Whole {
            let known = std::mem::take(&mut self.spared);
            let members: SortedSet<Process> = members.iter().map(|(stat, _)| stat.process).collect();
            self.spared = known.into_iter().filter(|process| members.contains(process)).collect();
        }
    }
}
