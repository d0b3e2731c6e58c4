//! What the control groups of agents have counted, and whether an agent is out of memory.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};

use super::Limits;
use crate::model::spec::Name;
use crate::sys::poll::Counter;
use crate::text::{exact_size, size};

/// What an agent's groups have counted; `None` for what no group counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Processor time since the group was made, microseconds. It starts from zero when the group is made again.
    pub cpu: Option<u64>,
    /// Memory in use, bytes.
    pub memory: Option<u64>,
}

/// The kernel killed a process of an agent because the agent had reached its memory limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfMemory {
    /// The most memory it used, bytes; `None` where the kernel does not record it.
    pub peak: Option<u64>,
    /// Its limit, bytes.
    pub limit: u64,
}

impl fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("out of memory: ")?;
        if let Some(peak) = self.peak {
            write!(f, "{} used, ", size(peak as f64))?;
        }
        write!(f, "limit {}", exact_size(self.limit))
    }
}

impl Limits {
    /// What an agent's groups have counted. For what is `None` here, see `Trees::usage`.
    pub fn usage(&self, name: &str) -> Usage {
        let Some(held) = self.agents.get(name) else { return Usage::default() };
        let mut usage = Usage::default();
        for leaf in held.leaves() {
            usage.cpu = usage.cpu.or_else(|| leaf.cpu());
            usage.memory = usage.memory.or_else(|| leaf.memory());
        }
        usage
    }

    /// Whether processes of the agent were killed because it was out of memory, since its start or since the last call that
    /// returned this. `sigkilled`: its main process was ended by SIGKILL. Where the kernel counts only how often the limit
    /// was hit, a hit together with `sigkilled` counts as such a kill.
    pub fn oom_killed(&mut self, name: &str, sigkilled: bool) -> Option<OutOfMemory> {
        let held = self.agents.get_mut(name)?;
        let limit = held.memory_limit?;
        let leaf = held.memory.as_ref()?;
        let (count, kills) = leaf.oom_kills()?;
        let (before, _) = held.baseline?;
        if count <= before || !(kills || sigkilled) {
            return None;
        }
        held.baseline = Some((count, kills));
        Some(OutOfMemory { peak: leaf.memory_peak(), limit })
    }

    /// The descriptors that become readable at once when an agent is out of memory: one for each agent whose memory is
    /// limited by v1, in an order that stays the same until the next call that changes anything.
    pub fn alarms(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.agents.values().filter_map(|held| Some(held.alarm.as_ref()?.as_fd()))
    }

    /// The agent of the descriptor at `index` in `alarms`, if its memory limit was hit.
    pub fn alarmed(&mut self, index: usize) -> Option<(Name, OutOfMemory)> {
        let (name, held) = self.agents.iter().filter(|(_, held)| held.alarm.is_some()).nth(index)?;
        let raised = held.alarm.as_ref().is_some_and(Counter::take);
        let peak = held.memory.as_ref().and_then(|leaf| leaf.memory_peak());
        raised.then_some((name.clone(), OutOfMemory { peak, limit: held.memory_limit? }))
    }
}
