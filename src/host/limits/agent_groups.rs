//! The control groups of one agent: one that identifies its processes, and one for each limit, which often are the same.

use std::os::fd::OwnedFd;

use crate::host::cgroup::Leaf;
use crate::model::spec;
use crate::sys::poll::Counter;

/// The groups of one agent.
#[derive(Debug, Default)]
pub(super) struct AgentGroups {
    pub(super) tracking: Option<Leaf>,
    pub(super) memory: Option<Box<Leaf>>,
    pub(super) cpu: Option<Box<Leaf>>,
    pub(super) tasks: Option<Box<Leaf>>,
    pub(super) memory_limit: Option<u64>,
    /// No limit is set in its groups, so its next start need not lift any.
    pub(super) unlimited: bool,
    /// The kernel's count of kills when the agent was started or last asked about, and whether it counts kills.
    pub(super) baseline: Option<(u64, bool)>,
    /// For a memory limit by v1: is raised when it is hit.
    pub(super) alarm: Option<Counter>,
}

impl AgentGroups {
    /// What enforces these limits, see `Enforcement::by`.
    pub(super) fn by(&self, limits: &spec::Limits) -> Option<Box<str>> {
        let by = |leaf: &Option<Box<Leaf>>, without| leaf.as_ref().map_or(without, |leaf| leaf.version().name());
        let all = [
            limits.cpu.map(|_| ("CPU", by(&self.cpu, "polled"))),
            limits.memory.map(|_| ("memory", by(&self.memory, "polled"))),
            limits.tasks.map(|_| ("tasks", by(&self.tasks, "not held"))),
        ];
        let all: Vec<_> = all.into_iter().flatten().collect();
        let first = all.first()?.1;
        if first != "not held" && all.iter().all(|(_, by)| *by == first) {
            return Some(first.into());
        }
        let each: Vec<_> = all.iter().map(|(limit, by)| format!("{limit}={by}")).collect();
        Some(each.join(" ").into())
    }

    /// The ways into its groups, as in `Enforcement`, and what is wrong with others.
    pub(super) fn entrances(&self) -> (Option<OwnedFd>, Vec<OwnedFd>, Vec<String>) {
        let (mut cgroup, mut cgroups, mut errors) = (None, Vec::new(), Vec::new());
        for leaf in self.leaves() {
            match leaf.directory().ok_or_else(|| leaf.entrance()) {
                Ok(directory) => cgroup = Some(directory),
                Err(Ok(fd)) => cgroups.push(fd),
                Err(Err(error)) => errors.push(error.to_string()),
            }
        }
        (cgroup, cgroups, errors)
    }

    /// The groups of the agent, each once.
    pub(super) fn leaves(&self) -> Vec<&Leaf> {
        let mut leaves: Vec<&Leaf> = Vec::new();
        let limits = [&self.memory, &self.cpu, &self.tasks].into_iter().flatten().map(|leaf| &**leaf);
        for leaf in self.tracking.iter().chain(limits) {
            if !leaves.contains(&leaf) {
                leaves.push(leaf);
            }
        }
        leaves
    }
}
