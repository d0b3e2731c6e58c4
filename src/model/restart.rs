//! The restart policy: what follows an end that nobody requested.
//!
//! The policy, the end and the number of failures before it come in, a verdict comes out. Every restart goes through
//! `judge`; nothing else counts failures.

use std::time::Duration;

use crate::kernel::{Exit, Time};
use crate::model::spec::{Autorestart, Spec};

/// The restart policy of the daemon, or of an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The time between an end and the restart.
    pub restartsecs: Duration,
    /// A run shorter than this counts as a failure; a longer one resets the failures to 0.
    pub windowsecs: Duration,
    /// More failures in a row than this: the agent is given up.
    pub retries: u32,
}

impl Policy {
    /// The policy of one agent: the values of its definition, and the daemon's for those that it does not have.
    pub fn of(self, spec: &Spec) -> Policy {
        Policy {
            restartsecs: spec.restartsecs.unwrap_or(self.restartsecs),
            windowsecs: spec.windowsecs.unwrap_or(self.windowsecs),
            retries: spec.retries.unwrap_or(self.retries),
        }
    }
}

/// How an agent ended without a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Its main process ended.
    Exited(Exit),
    /// It was killed because it was over a limit.
    Limit,
    /// Its health check failed too often.
    Unhealthy,
    /// It could not be started.
    NotStarted,
}

/// What follows an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The agent stays down: the end was normal, or its definition wants no restarts.
    Stay,
    /// The agent is started again.
    Restart {
        /// When it is started.
        at: Time,
        /// Failures in a row, this end included.
        failures: u32,
    },
    /// The agent is given up, as it failed too often in a row.
    GiveUp {
        /// Failures in a row, this end included.
        failures: u32,
    },
}

/// Judges an end at `now` of a run of length `ran`, after `failures` failures in a row before it.
pub fn judge(policy: Policy, spec: &Spec, failures: u32, end: End, ran: Duration, now: Time) -> Verdict {
    let normal = match (spec.autorestart, end) {
        (Autorestart::Never, _) => true,
        (Autorestart::Unexpected, End::Exited(Exit::Code(code))) => {
            spec.exitcodes.iter().any(|ok| i32::from(*ok) == code)
        }
        (Autorestart::OnSignal, End::Exited(Exit::Code(_))) => true,
        (Autorestart::OnSignal | Autorestart::Unexpected | Autorestart::Always, _) => false,
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
    fn the_fourth_early_end_in_a_row_is_fatal_with_three_retries() {
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
        let mut on_signal = spec.clone();
        on_signal.autorestart = Autorestart::OnSignal;
        for raw in 1..=64 {
            let end = End::Exited(Exit::Signal(Sig::new(raw).unwrap()));
            assert_eq!(judge(POLICY, &spec, 0, end, EARLY, NOW), restart(1), "signal {raw}");
            assert_eq!(judge(POLICY, &on_signal, 0, end, EARLY, NOW), restart(1), "signal {raw}");
        }
        for end in [End::Limit, End::Unhealthy, End::NotStarted, End::Exited(Exit::Unknown)] {
            assert_eq!(judge(POLICY, &on_signal, 0, end, EARLY, NOW), restart(1), "{end:?}");
        }
    }

    #[test]
    fn autorestart_decides_which_ends_are_normal() {
        use Autorestart::{Always, Never, OnSignal, Unexpected};
        for (autorestart, code, want) in [
            (Always, 0, restart(1)),
            (Unexpected, 0, Verdict::Stay),
            (Unexpected, 7, Verdict::Stay),
            (Unexpected, 1, restart(1)),
            (Never, 1, Verdict::Stay),
            (OnSignal, 0, Verdict::Stay),
            (OnSignal, 1, Verdict::Stay),
        ] {
            let mut spec = Spec::new("web", "1", vec!["/bin/x".into()]);
            (spec.autorestart, spec.exitcodes) = (autorestart, vec![0, 7]);
            let end = End::Exited(Exit::Code(code));
            assert_eq!(judge(POLICY, &spec, 0, end, EARLY, NOW), want, "{autorestart:?} {code}");
        }
    }

    #[test]
    fn without_retries_the_first_early_end_is_fatal() {
        let mut spec = Spec::new("web", "1", vec!["/bin/x".into()]);
        spec.retries = Some(0);
        let verdict = judge(POLICY.of(&spec), &spec, 0, End::Exited(Exit::Code(1)), EARLY, NOW);
        assert_eq!(verdict, Verdict::GiveUp { failures: 1 });
    }
}
