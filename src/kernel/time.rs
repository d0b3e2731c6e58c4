//! Times on the monotonic clock.

use std::time::Duration;

/// A moment on the monotonic clock (`CLOCK_MONOTONIC`, clock_gettime(2)), in nanoseconds since boot.
///
/// Comparable between processes of one boot only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(pub u64);

impl Time {
    /// The moment `seconds` and `nanos` after boot.
    pub const fn new(seconds: u64, nanos: u32) -> Time {
        Time(seconds.saturating_mul(1_000_000_000).saturating_add(nanos as u64))
    }

    /// The first of those moments that are known.
    pub fn earliest(times: &[Option<Time>]) -> Option<Time> {
        times.iter().flatten().min().copied()
    }

    /// How long ago `earlier` was; zero when it lies ahead.
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Time {
    /// The moment that is `earlier` before this one, but not before boot.
    #[must_use]
    pub fn before(self, earlier: Duration) -> Time {
        Time(self.0.saturating_sub(nanos(earlier)))
    }
}

impl std::ops::Add<Duration> for Time {
    type Output = Time;

    /// Saturates at the end of time, 584 years after boot.
    fn add(self, later: Duration) -> Time {
        Time(self.0.saturating_add(nanos(later)))
    }
}

/// A time in nanoseconds, at most 584 years; `Duration::as_nanos` computes with 128 bits, which no time here needs.
pub fn nanos(time: Duration) -> u64 {
    time.as_secs().saturating_mul(1_000_000_000).saturating_add(time.subsec_nanos().into())
}

/// A time in milliseconds, rounded down.
pub fn millis(time: Duration) -> u64 {
    time.as_secs().saturating_mul(1000).saturating_add(time.subsec_millis().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_time_that_is_known() {
        let at = |seconds| Some(Time::new(seconds, 0));
        for (times, want) in [
            (&[][..], None),
            (&[None, None], None),
            (&[at(2)], at(2)),
            (&[None, at(3), at(1), None, at(2)], at(1)),
            (&[at(0), at(5)], at(0)),
        ] {
            assert_eq!(Time::earliest(times), want, "{times:?}");
        }
    }

    #[test]
    fn times_saturate() {
        assert_eq!(Time(5) + Duration::MAX, Time(u64::MAX));
        assert_eq!(Time(5).since(Time(9)), Duration::ZERO);
    }
}
