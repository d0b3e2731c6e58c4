//! How the processes of an agent are ended: which of them a stop waits for, how long it waits for what is not known yet, and
//! when they are taken for a fork bomb.
//!
//! `model::membership` says which processes those are. `host::tree` counts them and sends the signals.

use std::time::Duration;

use super::event::Scope;
use crate::kernel::Time;

/// How long a stop waits for the environments of orphans, from its first count on. Reading them takes a few milliseconds,
/// unless a process blocks that.
const ANSWER_TIME: Duration = Duration::from_secs(5);

/// A tree with more processes than this is treated as one that creates them faster than they can be killed.
const BOMB: usize = 16;

/// How long a stop waits for what the environments of orphans say, which may be the agent's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AnswerWait {
    /// Until when; `None` before the first count that lacked an answer.
    until: Option<Time>,
}

impl AnswerWait {
    /// Whether a count of no processes has to wait for answers that are due.
    pub fn lasts(&mut self, now: Time) -> bool {
        now < *self.until.get_or_insert(now + ANSWER_TIME)
    }
}

/// The processes of an agent that can still run, at one look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Living {
    /// Those that surely are the agent's.
    pub held: usize,
    /// Those that are only marked as the agent's.
    pub marked: usize,
}

/// What a count says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    /// How many processes a stop still waits for.
    pub left: usize,
    /// The marked ones among them have not had the last signal yet, and get it now.
    pub signal_late: bool,
}

impl Living {
    /// How many of these a stop waits for. It does not wait for processes that are only marked: they are counted once after a
    /// start, so that they get the polite signal, and never again. `warned`: they were counted before.
    pub fn count(self, scope: Scope, warned: bool) -> Count {
        let Living { held, marked } = self;
        match scope == Scope::Tree && held == 0 && marked > 0 && !warned {
            true => Count { left: marked, signal_late: true },
            false => Count { left: held, signal_late: false },
        }
    }
}

/// Whether a tree of this many processes is stopped before it is killed, so that it cannot create processes faster than they
/// die. `kills`: the calls of `kill` since its start, this one included.
pub fn is_fork_bomb(processes: usize, kills: u32) -> bool {
    processes > 0 && (kills > 1 || processes > BOMB)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_waits_for_answers_five_seconds_from_its_first_count() {
        let at = |seconds| Time::new(100, 0) + Duration::from_secs(seconds);
        for (counts, want) in [
            (&[0][..], &[true][..]),
            (&[0, 4, 5, 6], &[true, true, false, false]),
            (&[50, 54, 55], &[true, true, false]),
        ] {
            let mut wait = AnswerWait::default();
            let got: Vec<bool> = counts.iter().map(|seconds| wait.lasts(at(*seconds))).collect();
            assert_eq!(got, want, "{counts:?}");
        }
    }

    #[test]
    fn a_stop_waits_for_marked_processes_once() {
        for (held, marked, scope, warned, left, signal_late) in [
            (0, 0, Scope::Tree, false, 0, false),
            (2, 0, Scope::Tree, false, 2, false),
            (2, 3, Scope::Tree, false, 2, false),
            (0, 3, Scope::Tree, false, 3, true),
            (0, 3, Scope::Tree, true, 0, false),
            (0, 3, Scope::Run, false, 0, false),
            (1, 3, Scope::Run, false, 1, false),
        ] {
            let got = Living { held, marked }.count(scope, warned);
            assert_eq!(got, Count { left, signal_late }, "{held} {marked} {scope:?} {warned}");
        }
    }

    #[test]
    fn a_large_tree_and_one_that_is_not_gone_are_fork_bombs() {
        for (processes, kills, want) in
            [(0, 1, false), (1, 1, false), (16, 1, false), (17, 1, true), (1, 2, true), (0, 2, false)]
        {
            assert_eq!(is_fork_bomb(processes, kills), want, "{processes} {kills}");
        }
    }
}
