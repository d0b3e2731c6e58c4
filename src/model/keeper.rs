//! What the keeper of `run -d` does when the daemon has ended: whether it starts another one, and when.

use std::time::Duration;

use crate::kernel::Exit;

/// The shortest pause before a dead daemon is started again; it doubles with each daemon that dies early.
pub const PAUSE: Duration = Duration::from_secs(1);

/// The longest such pause.
pub const PAUSE_MAX: Duration = Duration::from_secs(60);

/// A daemon that dies within this time has died early.
const EARLY: Duration = Duration::from_secs(60);

/// After this many daemons in a row that could not start, the keeper gives up: perhaps another daemon runs.
const START_FAILURES: u32 = 10;

/// A daemon that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndedDaemon {
    /// How it ended.
    pub exit: Exit,
    /// How long it lived.
    pub lived: Duration,
    /// It is the first one, and has printed why it cannot start.
    pub is_first: bool,
    /// A signal has ordered it to end.
    pub ordered: bool,
}

/// What follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The keeper ends with this code.
    End(u8),
    /// Another daemon is started after this pause.
    Start(Duration),
}

/// The keeper's memory of the daemons that have died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deaths {
    /// The pause before the next one.
    pause: Duration,
    /// How many in a row could not start.
    start_failures: u32,
}

impl Deaths {
    /// None yet.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Deaths {
        Deaths { pause: PAUSE, start_failures: 0 }
    }

    /// Says what follows the end of a daemon.
    pub fn add(&mut self, daemon: EndedDaemon) -> Next {
        let gives_up = daemon.is_first || daemon.ordered || self.start_failures >= START_FAILURES;
        match daemon.exit {
            Exit::Code(0) => return Next::End(0),
            Exit::Code(_) if gives_up => return Next::End(1),
            Exit::Code(_) => self.start_failures += 1,
            Exit::Signal(_) | Exit::Unknown => self.start_failures = 0,
        }
        if daemon.lived >= EARLY {
            self.pause = PAUSE;
        }
        let pause = self.pause;
        self.pause = (pause * 2).min(PAUSE_MAX);
        Next::Start(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Sig;

    const KILLED: EndedDaemon =
        EndedDaemon { exit: Exit::Signal(Sig::KILL), lived: Duration::from_secs(5), is_first: false, ordered: false };
    const FAILED: EndedDaemon = EndedDaemon { exit: Exit::Code(1), ..KILLED };

    #[test]
    fn only_a_daemon_that_died_is_followed_by_another() {
        let start = Next::Start(PAUSE);
        for (daemon, want, why) in [
            (KILLED, start, "it was killed"),
            (EndedDaemon { is_first: true, ..KILLED }, start, "the first one was killed"),
            (EndedDaemon { ordered: true, ..KILLED }, start, "it was killed while it stopped the agents"),
            (EndedDaemon { exit: Exit::Unknown, ..KILLED }, start, "nobody knows how it ended"),
            (EndedDaemon { exit: Exit::Code(0), ..KILLED }, Next::End(0), "it ended as ordered"),
            (FAILED, start, "it could not start"),
            (EndedDaemon { is_first: true, ..FAILED }, Next::End(1), "the first one could not start"),
            (EndedDaemon { ordered: true, ..FAILED }, Next::End(1), "it could not start, and was to end"),
        ] {
            assert_eq!(Deaths::new().add(daemon), want, "{why}");
        }
    }

    #[test]
    fn the_pause_doubles_until_a_daemon_has_lived_for_long() {
        let mut deaths = Deaths::new();
        for want in [1, 2, 4, 8, 16, 32, 60, 60] {
            assert_eq!(deaths.add(KILLED), Next::Start(Duration::from_secs(want)));
        }
        let old = EndedDaemon { lived: EARLY, ..KILLED };
        assert_eq!((deaths.add(old), deaths.add(KILLED)), (Next::Start(PAUSE), Next::Start(PAUSE * 2)));
    }

    #[test]
    fn the_keeper_gives_up_after_ten_that_could_not_start() {
        let mut deaths = Deaths::new();
        for _ in 0..START_FAILURES {
            assert_ne!(deaths.add(FAILED), Next::End(1));
        }
        assert_eq!(deaths.add(FAILED), Next::End(1));
        assert_ne!(deaths.add(KILLED), Next::End(1), "one that could start");
        assert_ne!(deaths.add(FAILED), Next::End(1), "it counts anew");
    }
}
