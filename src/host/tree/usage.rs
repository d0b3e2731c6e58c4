//! What the processes of an agent use.

use super::view::Depth;
use super::Trees;
use crate::host::limits::{Limits, Usage};
use crate::host::proc;
use crate::kernel::TICKS;
use crate::model::measurement::{may_share_much, sum, Parts, Reading, UNREADABLE_TIME};
use crate::sys;

impl Trees {
    /// What an agent's tree uses, as its control groups count it; what they do not count is the sum over its processes.
    /// `cpu` never decreases between two starts. Of a process that no process of the tree waited for, the time up to the
    /// last look before its end is counted.
    ///
    /// Where the memory is a sum, a page that several processes share counts for each of them. The second value then has
    /// these processes, each with its part of the sum, so that what they share can be found out; it is empty where that
    /// would make no difference, or a process of the tree cannot be read.
    pub fn usage(&mut self, name: &str, limits: &Limits) -> (Usage, Parts) {
        let mut usage = limits.usage(name);
        let mut parts = Parts::new();
        if usage.cpu.is_some() && usage.memory.is_some() {
            return (usage, parts);
        }
        let mut members = self.collect(name, limits, Depth::Usage);
        members.retain(|(stat, strength)| strength.holds() && stat.alive());
        if self.view.as_ref().is_none_or(|view| view.snapshot.fault().is_some()) {
            return (usage, parts);
        }
        let own = self.own;
        let Some(tree) = self.trees.get_mut(name) else { return (usage, parts) };
        if usage.cpu.is_none() {
            let readings = members.iter().map(|(stat, _)| {
                let orphan = stat.parent == own || stat.parent <= 1;
                (stat.process, Reading { used: stat.used, orphan })
            });
            usage.cpu = Some(tree.run.meter.read(readings.collect()) * (1_000_000 / TICKS));
        }
        if usage.memory.is_none() {
            parts.extend(members.iter().filter_map(|(stat, _)| Some((stat.process, proc::memory(stat.process.pid)?))));
            usage.memory = Some(sum(&parts));
            if !may_share_much(&parts) || tree.run.unreadable_until > sys::monotonic() {
                parts = Vec::new();
            }
        }
        (usage, parts)
    }

    /// Notes that a process of an agent cannot be read, and that nobody is to try it again for a while.
    pub fn note_unreadable(&mut self, name: &str) {
        if let Some(tree) = self.trees.get_mut(name) {
            tree.run.unreadable_until = sys::monotonic() + UNREADABLE_TIME;
        }
    }
}
