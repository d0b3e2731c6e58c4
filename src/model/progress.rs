//! Whether a helper makes progress. It has an alarm of its own, which one that is stopped by a signal does not hear: so the
//! daemon looks from time to time, and ends one that has done nothing over many looks.
//!
//! Looks are counted, and not the time between them: where the daemon was held up itself, by a suspended machine as by a
//! debugger, the helper was perhaps too.

use std::time::Duration;

use crate::kernel::Time;

/// What a look at a helper shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sign {
    /// The size of the file it fills.
    pub bytes: u64,
    /// The processor time it has used, in ticks.
    pub work: u64,
    /// It waits for a disk, which may take any time and cannot be interrupted.
    pub waits_for_disk: bool,
}

/// The looks at one helper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    last: Option<Sign>,
    /// Looks in a row that showed nothing new.
    still: u32,
    interval: Duration,
    look_at: Time,
}

/// So many looks in a row without anything new, and it is ended.
const LOOKS: u32 = 16;

impl Progress {
    /// One that ends a helper when it has stood still for `limit`, or little longer.
    pub fn new(limit: Duration, now: Time) -> Progress {
        let interval = limit / LOOKS;
        Progress { last: None, still: 0, interval, look_at: now + interval }
    }

    /// When the next look is due.
    pub fn look_at(&self) -> Time {
        self.look_at
    }

    /// Takes what a look shows, `None` where nothing can be seen; false when the helper is to be ended.
    pub fn goes_on(&mut self, sign: Option<Sign>, now: Time) -> bool {
        self.look_at = now + self.interval;
        let stands = sign.is_some_and(|sign| self.last == Some(sign) && !sign.waits_for_disk);
        self.still = if stands { self.still + 1 } else { 0 };
        self.last = sign;
        self.still < LOOKS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEW: Sign = Sign { bytes: 0, work: 0, waits_for_disk: false };

    /// How many looks it survives that all show what `sign` makes of their number.
    fn survived(sign: impl Fn(u64) -> Option<Sign>) -> u64 {
        let mut progress = Progress::new(Duration::from_secs(64), Time(0));
        (0..1000).find(|look| !progress.goes_on(sign(*look), progress.look_at())).unwrap_or(1000)
    }

    #[test]
    fn only_one_that_does_nothing_at_all_is_ended() {
        for (what, want, sign) in [
            ("stopped from the start", 16, (|_| Some(NEW)) as fn(u64) -> Option<Sign>),
            ("bytes come in", 1000, |look| Some(Sign { bytes: look, ..NEW })),
            ("a byte now and then", 1000, |look| Some(Sign { bytes: look / 15, ..NEW })),
            ("it calculates", 1000, |look| Some(Sign { work: look, ..NEW })),
            ("a file is emptied", 1000, |look| Some(Sign { bytes: 1000 - look, ..NEW })),
            ("a slow disk", 1000, |_| Some(Sign { waits_for_disk: true, ..NEW })),
            ("nothing can be seen", 1000, |_| None),
            ("stopped after a while", 66, |look| Some(Sign { bytes: look.min(50), ..NEW })),
        ] {
            assert_eq!(survived(sign), want, "{what}");
        }
    }

    #[test]
    fn a_look_is_due_after_each() {
        let mut progress = Progress::new(Duration::from_secs(64), Time::new(10, 0));
        assert_eq!(progress.look_at(), Time::new(14, 0));
        // The daemon was held up for a day: that is one look.
        assert!(progress.goes_on(Some(NEW), Time::new(86_400, 0)));
        assert_eq!(progress.look_at(), Time::new(86_404, 0));
        assert!(progress.goes_on(Some(NEW), Time::new(2 * 86_400, 0)));
    }
}
