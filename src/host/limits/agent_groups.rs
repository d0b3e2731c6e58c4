//! The control groups of one agent: one that identifies its processes, and one for each limit, which often are the same.

use std::cell::Cell;
use std::os::fd::OwnedFd;

use crate::host::cgroup::{Controller, Leaf};
use crate::model::enforcement::{Held, OomCount};
use crate::sys::poll::Counter;

/// The groups of one agent.
#[derive(Debug, Default)]
pub(super) struct AgentGroups {
    pub(super) tracking: Option<Leaf>,
    /// Those that hold a limit, by its `Controller`.
    pub(super) limited: [Option<Box<Leaf>>; 3],
    pub(super) memory_limit: Option<u64>,
    /// No limit is set in its groups, so its next start need not lift any.
    pub(super) unlimited: bool,
    /// All processes in the tracking group were killed in one step.
    pub(super) killed: Cell<bool>,
    /// What the kernel had counted when the agent was started or last asked about.
    pub(super) baseline: Option<OomCount>,
    /// For a memory limit by v1: is raised when it is hit.
    pub(super) alarm: Option<Counter>,
}

impl AgentGroups {
    /// What holds the limits of the agent.
    pub(super) fn held(&self) -> Held {
        let [memory, cpu, tasks] = self.limited.each_ref().map(|leaf| leaf.as_ref().map(|leaf| leaf.version()));
        Held { cpu, memory, tasks }
    }

    /// The group that limits its memory.
    pub(super) fn memory(&self) -> Option<&Leaf> {
        self.limited[Controller::Memory as usize].as_deref()
    }

    /// The ways into its groups, as in `Applied`, and what is wrong with others.
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
        for leaf in self.tracking.iter().chain(self.limited.iter().flatten().map(|leaf| &**leaf)) {
            if !leaves.contains(&leaf) {
                leaves.push(leaf);
            }
        }
        leaves
    }
}
