//! What earlier runs of an agent have left and nobody ends, as with `"kill": "main"`: remembered, and told from its present
//! run.
//!
//! Such processes stay in the tree and count for the limits. `model::membership` says what else belongs to them.

use super::view::Depth;
use super::{Tree, Trees};
use crate::host::limits::Limits;
use crate::host::proc::Stat;
use crate::kernel::Process;
use crate::model::membership::{add_spared, Strength};
use crate::model::spec::Name;

impl Trees {
    /// Notes that the processes of an agent are left by earlier runs: all of them, or those that are older than its present
    /// run, whose first process was started at this time in ticks.
    pub fn leave_behind(&mut self, name: &Name, began: Option<u64>, limits: &Limits) {
        // An agent that is new may have the control group of an earlier one.
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
    pub fn spared(&mut self, name: &str, limits: &Limits) -> usize {
        let members = self.collect(name, limits, Depth::Whole);
        members.iter().filter(|(stat, _)| stat.alive() && self.is_spared(name, stat.process)).count()
    }
}

impl Tree {
    /// Adds what processes that earlier runs have left have started since the last look, and forgets those that have ended.
    pub(super) fn add_spared(&mut self, members: &[(Stat, Strength)], depth: Depth) {
        if self.spared.is_empty() {
            return;
        }
        let others = members.iter().filter(|(stat, _)| Some(stat.process) != self.main_process);
        add_spared(&mut self.spared, &others.map(|(stat, _)| stat.kin()).collect::<Vec<_>>());
        if depth == Depth::Whole {
            let known = std::mem::take(&mut self.spared);
            let is_there = |process: &Process| members.iter().any(|(stat, _)| stat.process == *process);
            self.spared = known.into_iter().filter(is_there).collect();
        }
    }
}
