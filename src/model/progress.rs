//! Whether a helper makes progress. A helper has a timer of its own, but that does not end a helper that a signal has
//! stopped: so the daemon checks it from time to time, and ends one that has done nothing over many checks in a row.
//!
//! Checks are counted, and not the time between them: if the daemon itself stood still, because of a suspended machine or
//! a debugger, the helper may have stood still too. What a check shows comes in as a `Sign`; taking it is the caller's part.

use std::time::Duration;

use crate::kernel::Time;

/// What a check of a helper shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sign {
    /// The size of the file that it writes, bytes.
    pub bytes: u64,
    /// The processor time that it has used, in clock ticks.
    pub work: u64,
    /// It waits for a disk, which may take any time and cannot be interrupted.
    pub waits_for_disk: bool,
}

/// The checks of one helper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    last: Option<Sign>,
    /// Checks in a row that showed no progress.
    without_progress: u32,
    interval: Duration,
    look_at: Time,
}

/// How many checks in a row without progress end a helper.
const CHECKS: u32 = 16;

impl Progress {
    /// The checks of a helper that is to be ended when it has made no progress for `limit`, or little longer.
    pub fn new(limit: Duration, now: Time) -> Progress {
        let interval = limit / CHECKS;
        Progress { last: None, without_progress: 0, interval, look_at: now + interval }
    }

    /// When the next check is due.
    pub fn look_at(&self) -> Time {
        self.look_at
    }

    /// Takes the result of a check, `None` if nothing could be seen; returns false when the helper is to be ended.
    pub fn makes_progress(&mut self, sign: Option<Sign>, now: Time) -> bool {
        self.look_at = now + self.interval;
        let same = sign.is_some_and(|sign| self.last == Some(sign) && !sign.waits_for_disk);
        self.without_progress = if same { self.without_progress + 1 } else { 0 };
        self.last = sign;
        self.without_progress < CHECKS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEW: Sign = Sign { bytes: 0, work: 0, waits_for_disk: false };

    /// How many checks a helper survives, where `sign` makes a check's result from its number.
    fn survived(sign: impl Fn(u64) -> Option<Sign>) -> u64 {
        let mut progress = Progress::new(Duration::from_secs(64), Time(0));
        (0..1000).find(|check| !progress.makes_progress(sign(*check), progress.look_at())).unwrap_or(1000)
    }

    #[test]
    fn only_a_helper_without_any_progress_is_ended() {
        for (what, want, sign) in [
            ("stopped from the start", 16, (|_| Some(NEW)) as fn(u64) -> Option<Sign>),
            ("bytes come in", 1000, |check| Some(Sign { bytes: check, ..NEW })),
            ("a byte now and then", 1000, |check| Some(Sign { bytes: check / 15, ..NEW })),
            ("it calculates", 1000, |check| Some(Sign { work: check, ..NEW })),
            ("a file is emptied", 1000, |check| Some(Sign { bytes: 1000 - check, ..NEW })),
            ("a slow disk", 1000, |_| Some(Sign { waits_for_disk: true, ..NEW })),
            ("nothing can be seen", 1000, |_| None),
            ("stopped after a while", 66, |check| Some(Sign { bytes: check.min(50), ..NEW })),
        ] {
            assert_eq!(survived(sign), want, "{what}");
        }
    }

    #[test]
    fn a_check_is_due_an_interval_after_the_one_before() {
        let mut progress = Progress::new(Duration::from_secs(64), Time::new(10, 0));
        assert_eq!(progress.look_at(), Time::new(14, 0));
        // The daemon stood still for a day, which counts as one check.
        assert!(progress.makes_progress(Some(NEW), Time::new(86_400, 0)));
        assert_eq!(progress.look_at(), Time::new(86_404, 0));
        assert!(progress.makes_progress(Some(NEW), Time::new(2 * 86_400, 0)));
    }
}
