//! The processor time of a tree: readings of its processes at each look go in, a sum that never decreases comes out.

use crate::kernel::Process;
use crate::sorted_map::SortedMap;

/// Adds up the processor time of a tree, also when processes of it end.
#[derive(Debug, Default)]
pub(super) struct Meter {
    total: u64,
    last: Option<SortedMap<Process, Reading>>,
}

/// The processor time of one process at one look.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    /// Of the process and of the children it has waited for, in ticks.
    pub(super) used: u64,
    /// No process of the tree will wait for it.
    pub(super) orphan: bool,
}

impl Meter {
    /// Takes the readings of all processes at one look, and returns the sum so far in ticks.
    pub(super) fn read(&mut self, now: SortedMap<Process, Reading>) -> u64 {
        let sum = |readings: &SortedMap<Process, Reading>| readings.values().map(|reading| reading.used).sum::<u64>();
        let mut before = 0;
        if let Some(last) = &self.last {
            before = sum(last);
            for (process, reading) in last {
                // The time of an orphan went to init or to the daemon; that of any other is in its parent's reading now.
                if reading.orphan && !now.contains_key(process) {
                    before -= reading.used;
                }
            }
        }
        self.total += sum(&now).saturating_sub(before);
        self.last = Some(now);
        self.total
    }
}
