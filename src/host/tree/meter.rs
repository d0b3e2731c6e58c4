//! Adding up what a tree has used.

use crate::kernel::Process;
use crate::sorted_map::SortedMap;

/// Adds up the processor time of a tree that loses processes.
#[derive(Debug, Default)]
pub(super) struct Meter {
    total: u64,
    last: Option<SortedMap<Process, Reading>>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    pub(super) used: u64,
    /// Nobody of the tree will wait for it.
    pub(super) orphan: bool,
}

impl Meter {
    /// Takes in what each process has used, its waited-for children included, and returns the sum so far in ticks.
    pub(super) fn read(&mut self, now: SortedMap<Process, Reading>) -> u64 {
        let sum = |readings: &SortedMap<Process, Reading>| readings.values().map(|reading| reading.used).sum::<u64>();
        let mut before = 0;
        if let Some(last) = &self.last {
            before = sum(last);
            for (process, reading) in last {
                // What it used went to init or to us; of any other, its parent in the tree has it now.
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
