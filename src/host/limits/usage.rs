//! What the control groups of agents have counted, and whether an agent is out of memory.

use std::os::fd::{AsFd, BorrowedFd};

use super::Limits;
use crate::host::cgroup::Leaf;
use crate::model::enforcement::OutOfMemory;
use crate::model::spec::Name;
use crate::sys::poll::Counter;

/// What an agent's groups have counted; `None` for what no group counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Processor time since the group was made, microseconds. It starts from zero when the group is made again.
    pub cpu: Option<u64>,
    /// Memory in use, bytes.
    pub memory: Option<u64>,
}

impl Limits {
    /// What an agent's groups have counted. For what is `None` here, see `Trees::usage`.
    pub fn usage(&self, name: &str) -> Usage {
        let Some(groups) = self.agents.get(name) else { return Usage::default() };
        let mut usage = Usage::default();
        for leaf in groups.leaves() {
            usage.cpu = usage.cpu.or_else(|| leaf.cpu());
            usage.memory = usage.memory.or_else(|| leaf.memory());
        }
        usage
    }

    /// Whether processes of the agent were killed because it was out of memory, since its start or since the last call that
    /// returned this. `sigkilled`: its main process was ended by SIGKILL.
    pub fn oom_killed(&mut self, name: &str, sigkilled: bool) -> Option<OutOfMemory> {
        let groups = self.agents.get_mut(name)?;
        let limit = groups.memory_limit?;
        let count = groups.memory()?.oom_count()?;
        if !count.shows_kill(groups.baseline?, sigkilled) {
            return None;
        }
        groups.baseline = Some(count);
        Some(OutOfMemory { peak: groups.memory()?.memory_peak(), limit })
    }

    /// The descriptors that become readable at once when an agent is out of memory: one for each agent whose memory is
    /// limited by v1, in an order that stays the same until the next call that changes anything.
    pub fn alarms(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.agents.values().filter_map(|groups| Some(groups.alarm.as_ref()?.as_fd()))
    }

    /// The agent of the descriptor at `index` in `alarms`, if its memory limit was hit.
    pub fn alarmed(&mut self, index: usize) -> Option<(Name, OutOfMemory)> {
        let (name, groups) = self.agents.iter().filter(|(_, groups)| groups.alarm.is_some()).nth(index)?;
        let raised = groups.alarm.as_ref().is_some_and(Counter::take);
        let peak = groups.memory().and_then(Leaf::memory_peak);
        raised.then_some((name.clone(), OutOfMemory { peak, limit: groups.memory_limit? }))
    }
}
