//! What the processes of an agent use together, where no control group counts it.
//!
//! `host::tree` reads the processes at each look. The processor time of a tree is a sum that never decreases (`Meter`). Its
//! memory is a sum too, in which a page that several processes share counts for each of them. Finding out what they share
//! takes a helper, so that is only done where it can make a difference (`may_share_much`, `shared_memory`).

use std::time::Duration;

use crate::kernel::Process;
use crate::sorted_map::SortedMap;

/// What the processes of a tree may share before it is worth while to find out how much it is, bytes.
const SHARED_MIN: u64 = 1 << 20;

/// How long the processes of a tree are not inspected after one could not be read.
pub const UNREADABLE_TIME: Duration = Duration::from_secs(600);

/// Adds up the processor time of a tree, also when processes of it end.
#[derive(Debug, Default)]
pub struct Meter {
    total: u64,
    last: Option<SortedMap<Process, Reading>>,
}

/// The processor time of one process at one look.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    /// Of the process and of the children it has waited for, in ticks.
    pub used: u64,
    /// No process of the tree will wait for it.
    pub orphan: bool,
}

impl Meter {
    /// Takes the readings of all processes at one look, and returns the sum so far in ticks.
    pub fn read(&mut self, now: SortedMap<Process, Reading>) -> u64 {
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

/// The processes of a tree, each with the memory that it uses, bytes.
pub type Parts = Vec<(Process, u64)>;

/// The memory of a tree, without regard to what its processes share.
pub fn sum(parts: &Parts) -> u64 {
    parts.iter().map(|(_, bytes)| bytes).sum()
}

/// Whether the processes may share so much that it has to be found out. They share no more than all but the largest use.
pub fn may_share_much(parts: &Parts) -> bool {
    let largest = parts.iter().map(|(_, bytes)| *bytes).max().unwrap_or(0);
    sum(parts) - largest >= SHARED_MIN
}

/// The memory of a tree, where a page that several processes share counts once. `found`: what is known of each process, in the
/// order of `parts`, in which such a page counts in part; `None` where nothing is. It may have grown since it was measured.
pub fn shared_memory(parts: &Parts, found: impl Iterator<Item = Option<u64>>) -> u64 {
    parts.iter().zip(found).map(|((_, alone), found)| found.unwrap_or(*alone).min(*alone)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Pid;

    fn process(number: i32) -> Process {
        Process { pid: Pid::new(100 + number).unwrap(), ticks: 1 }
    }

    #[test]
    fn processor_time_never_decreases() {
        let mut meter = Meter::default();
        let mut read = |list: &[(i32, u64, bool)]| {
            let readings =
                list.iter().map(|(number, used, orphan)| (*number, Reading { used: *used, orphan: *orphan }));
            meter.read(readings.map(|(number, reading)| (process(number), reading)).collect())
        };
        assert_eq!(read(&[(1, 100, true)]), 100);
        assert_eq!(read(&[(1, 110, true), (2, 50, false)]), 160);
        assert_eq!(read(&[(1, 165, true)]), 165, "the parent has waited for 2, and its time includes that of 2");
        assert_eq!(read(&[(1, 170, true), (3, 40, true)]), 210);
        assert_eq!(read(&[(1, 171, true)]), 211, "the time of an orphan that has ended still counts");
        assert_eq!(read(&[]), 211);
        assert_eq!(read(&[(9, 1, true)]), 212);
    }

    #[test]
    fn what_is_shared_is_found_out_where_it_can_be_a_megabyte() {
        const MB: u64 = 1 << 20;
        for (memory, want) in [
            (&[][..], false),
            (&[500 * MB], false),
            (&[500 * MB, MB - 1], false),
            (&[500 * MB, MB], true),
            (&[500 * MB, MB / 2, MB / 2], true),
            (&[MB, MB], true),
        ] {
            let parts: Parts = memory.iter().zip(1..).map(|(bytes, number)| (process(number), *bytes)).collect();
            assert_eq!(may_share_much(&parts), want, "{memory:?}");
        }
    }

    #[test]
    fn a_shared_page_counts_once_where_that_is_known() {
        let parts = vec![(process(1), 100), (process(2), 50)];
        for (found, want) in [
            ([Some(70), Some(20)], 90),
            ([None, None], 150),
            ([Some(70), None], 120),
            ([Some(300), Some(20)], 120),
            ([Some(0), Some(0)], 0),
        ] {
            assert_eq!(shared_memory(&parts, found.into_iter()), want, "{found:?}");
        }
    }
}
