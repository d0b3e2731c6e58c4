//! Times that do not count: while the server was down, or its clock was set forward, nothing ages. And what a clock that is
//! set back does to them.

/// A time that does not count, in seconds since the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Its begin.
    pub from: i64,
    /// Its end.
    pub to: i64,
}

/// Times that do not count, oldest first.
pub type Gaps = [Gap];

/// What the clock did between two looks at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It went on as time does.
    Steady,
    /// It was set forward, by so many seconds.
    Forward(i64),
    /// It was set back, by so many seconds.
    Back(i64),
    /// It went on, and for so many seconds nothing could be stored, or the whole server stood still.
    Deaf(i64),
}

/// A smaller step than this is left alone, as clocks are corrected by that much all the time.
pub const NOTICED: i64 = 10;
/// Gaps that are kept.
const KEPT: usize = 64;
const DAY: i64 = 86_400;

/// Looks come every few seconds. A longer time between two that worked is one in which no host was heard.
const LOOK: i64 = 60;

/// Judges the clock: it showed `last`, now it shows `now`, and `elapsed` seconds have passed in truth.
pub fn turn(last: i64, now: i64, elapsed: i64) -> Turn {
    match now - last - elapsed {
        step if step > NOTICED => Turn::Forward(step),
        step if step < -NOTICED => Turn::Back(-step),
        _ if elapsed > LOOK => Turn::Deaf(elapsed),
        _ => Turn::Steady,
    }
}

/// Adds a gap, and drops the oldest of too many.
pub fn add(gaps: &mut Vec<Gap>, gap: Gap) {
    gaps.push(gap);
    let first = gaps.len().saturating_sub(KEPT);
    gaps.drain(..first);
}

/// Cuts off what lies after `now`, where the clock was set back to.
pub fn cut(gaps: &mut Vec<Gap>, now: i64) {
    gaps.retain(|gap| gap.from < now);
    for gap in gaps {
        gap.to = gap.to.min(now);
    }
}

/// Whether what is too old may be deleted. For a day after a gap of more than a day it may not: a clock that is wrong by years
/// would make everything too old.
pub fn may_forget(gaps: &Gaps, now: i64) -> bool {
    !gaps.iter().any(|gap| gap.to - gap.from > DAY && now - gap.to < DAY)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gap(from: i64, to: i64) -> Gap {
        Gap { from, to }
    }

    #[test]
    fn a_clock_that_is_set_is_noticed() {
        for (last, now, elapsed, wanted) in [
            (1000, 1002, 2, Turn::Steady),
            (1000, 1012, 2, Turn::Steady),
            (1000, 1013, 2, Turn::Forward(11)),
            (1000, 992, 2, Turn::Steady),
            (1000, 991, 2, Turn::Back(11)),
            (1000, 1060, 60, Turn::Steady),
            (1000, 4600, 3600, Turn::Deaf(3600)),
            (1000, 0, 2, Turn::Back(1002)),
        ] {
            assert_eq!(turn(last, now, elapsed), wanted, "{last} {now} {elapsed}");
        }
    }

    #[test]
    fn gaps_are_kept_up_to_a_number_and_never_in_the_future() {
        let mut gaps = Vec::new();
        for n in 0..100 {
            add(&mut gaps, gap(n * 100, n * 100 + 50));
        }
        assert_eq!((gaps.len(), gaps[0]), (KEPT, gap(3600, 3650)));
        cut(&mut gaps, 3720);
        assert_eq!(gaps, [gap(3600, 3650), gap(3700, 3720)]);
    }

    #[test]
    fn nothing_is_deleted_by_a_clock_that_was_just_set() {
        let now = 100 * DAY;
        assert!(may_forget(&[], now));
        assert!(may_forget(&[gap(now - 3600, now)], now), "an hour is nothing");
        assert!(!may_forget(&[gap(now - 50 * DAY, now - 60)], now));
        assert!(may_forget(&[gap(now - 50 * DAY, now - DAY)], now), "a day later it is");
    }
}
