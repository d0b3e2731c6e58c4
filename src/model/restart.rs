//! The restart policy: what follows an end that nobody asked for.
//!
//! Every path to a restart goes through `judge`; nothing else counts failures.

use std::time::Duration;

use crate::kernel::{Exit, Time};
use crate::model::spec::{Autorestart, Spec};

/// The daemon's values for what a definition leaves open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// No restart before this has passed since the end.
    pub restartsecs: Duration,
    /// A run shorter than this counts as one abnormal event, a longer one sets the count back to 0.
    pub windowsecs: Duration,
    /// More events in a row than this: given up.
    pub retries: u32,
}

impl Policy {
    /// The policy for one agent, whose definition may say otherwise.
    pub fn of(self, spec: &Spec) -> Policy {
        Policy {
            restartsecs: spec.restartsecs.unwrap_or(self.restartsecs),
            windowsecs: spec.windowsecs.unwrap_or(self.windowsecs),
            retries: spec.retries.unwrap_or(self.retries),
        }
    }
}

/// How an agent came to its end without anybody asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Its main process ended.
    Exited(Exit),
    /// It was killed for being over a limit.
    Limit,
    /// Its health check kept failing.
    Unhealthy,
    /// It could not be started.
    NotStarted,
}

/// What is to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The end was a normal one, or restarts are not wanted: stays down.
    Stay,
    /// Start again at that time.
    Restart {
        /// No earlier than this.
        at: Time,
        /// Abnormal events in a row, this one included.
        failures: u32,
    },
    /// Too many in a row.
    GiveUp {
        /// Abnormal events in a row, this one included.
        failures: u32,
    },
}

/// Judges the end at `now` of a run of length `ran`, after `failures` abnormal events in a row before it.
pub fn judge(policy: Policy, spec: &Spec, failures: u32, end: End, ran: Duration, now: Time) -> Verdict {
    let normal = match (spec.autorestart, end) {
        (Autorestart::Never, _) => true,
        (Autorestart::Unexpected, End::Exited(Exit::Code(code))) => {
            spec.exitcodes.iter().any(|ok| i32::from(*ok) == code)
        }
        (Autorestart::Unexpected | Autorestart::Always, _) => false,
    };
    if normal {
        return Verdict::Stay;
    }
    let failures = if ran < policy.windowsecs || end == End::NotStarted { failures.saturating_add(1) } else { 0 };
    if failures > policy.retries {
        Verdict::GiveUp { failures }
    } else {
        Verdict::Restart { at: now + policy.restartsecs, failures }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Sig;

    const POLICY: Policy =
        Policy { restartsecs: Duration::from_secs(180), windowsecs: Duration::from_secs(900), retries: 3 };
    const NOW: Time = Time::new(1000, 0);
    const EARLY: Duration = Duration::from_secs(899);
    const LATE: Duration = Duration::from_secs(900);

    fn restart(failures: u32) -> Verdict {
        Verdict::Restart { at: Time::new(1180, 0), failures }
    }

    #[test]
    fn three_restarts_then_the_fourth_early_end_is_fatal() {
        let spec = Spec::new("web", "1", vec!["/bin/x".into()]);
        let exited = End::Exited(Exit::Code(1));
        for (before, end, ran, want) in [
            (0, exited, EARLY, restart(1)),
            (1, exited, EARLY, restart(2)),
            (2, exited, EARLY, restart(3)),
            (3, exited, EARLY, Verdict::GiveUp { failures: 4 }),
            (3, exited, LATE, restart(0)),
            (3, End::Limit, EARLY, Verdict::GiveUp { failures: 4 }),
            (3, End::Unhealthy, EARLY, Verdict::GiveUp { failures: 4 }),
            (3, End::NotStarted, Duration::ZERO, Verdict::GiveUp { failures: 4 }),
            (0, End::Exited(Exit::Code(0)), EARLY, restart(1)),
            (0, End::Exited(Exit::Unknown), EARLY, restart(1)),
        ] {
            assert_eq!(judge(POLICY, &spec, before, end, ran, NOW), want, "{before} {end:?} {ran:?}");
        }
    }

    #[test]
    fn every_signal_is_abnormal() {
        let mut spec = Spec::new("web", "1", vec!["/bin/x".into()]);
        spec.autorestart = Autorestart::Unexpected;
        for raw in 1..=64 {
            let end = End::Exited(Exit::Signal(Sig::new(raw).unwrap()));
            assert_eq!(judge(POLICY, &spec, 0, end, EARLY, NOW), restart(1), "signal {raw}");
        }
    }

    #[test]
    fn autorestart() {
        use Autorestart::{Always, Never, Unexpected};
        for (autorestart, code, want) in [
            (Always, 0, restart(1)),
            (Unexpected, 0, Verdict::Stay),
            (Unexpected, 7, Verdict::Stay),
            (Unexpected, 1, restart(1)),
            (Never, 1, Verdict::Stay),
        ] {
            let mut spec = Spec::new("web", "1", vec!["/bin/x".into()]);
            (spec.autorestart, spec.exitcodes) = (autorestart, vec![0, 7]);
            let end = End::Exited(Exit::Code(code));
            assert_eq!(judge(POLICY, &spec, 0, end, EARLY, NOW), want, "{autorestart:?} {code}");
        }
    }

    #[test]
    fn no_retries_means_the_first_early_end_is_fatal() {
        let mut spec = Spec::new("web", "1", vec!["/bin/x".into()]);
        spec.retries = Some(0);
        let verdict = judge(POLICY.of(&spec), &spec, 0, End::Exited(Exit::Code(1)), EARLY, NOW);
        assert_eq!(verdict, Verdict::GiveUp { failures: 1 });
    }
}
