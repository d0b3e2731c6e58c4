//! Which process is the main process of an agent, where the daemon has not started that itself: of a forking agent, and of one
//! that an earlier daemon has left without a record.
//!
//! The processes of the agent come in, as `host::tree` has found them, with what else there is to know; a choice comes out.

use std::time::Duration;

use super::membership::{Kin, Strength};
use crate::kernel::{Pid, Process};
use crate::sorted_map::SortedSet;

/// How old the main process of a forking agent without a pid file must be. Many programs fork twice, and the process in
/// between lives for a moment only.
const MAIN_PROCESS_AGE: Duration = Duration::from_millis(500);

/// What there is to choose the main process of a forking agent by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// Its definition names a pid file: the process id in it, if there is one. Nothing else counts then.
    PidFile(Option<Pid>),
    /// It has no pid file, and which of its processes have started the others must do.
    Descent {
        /// Some orphans may be its processes too, and that is not known yet.
        incomplete: bool,
        /// How long the host has been up; `None` where that is not known.
        uptime: Option<Duration>,
    },
}

/// Whether a process of a forking agent may be its main process, by the strength of the evidence that it is the agent's. One
/// that is known by its environment only must not be older than the agent's last main process or starter. Both times are
/// in ticks.
pub fn may_be_main(strength: Strength, began: u64, last_began: u64) -> bool {
    strength.holds() || strength.may_lead() && began >= last_began
}

/// The main process of a forking agent, whose starter or last main process has ended; `None` if it cannot be told yet. `alive`:
/// its processes that can still run.
pub fn find_main(alive: &[Kin], evidence: Evidence) -> Option<Process> {
    match evidence {
        Evidence::PidFile(pid) => alive.iter().map(|kin| kin.process).find(|process| Some(process.pid) == pid),
        Evidence::Descent { incomplete: true, .. } => None,
        Evidence::Descent { incomplete: false, uptime } => only_root(alive, uptime),
    }
}

/// The only process that descends from no other one of these. While there are several, each could be the main process; a
/// young one may only be about to fork again.
fn only_root(alive: &[Kin], uptime: Option<Duration>) -> Option<Process> {
    let is_inside = |kin: &Kin| alive.iter().any(|other| other.process.pid.raw() == kin.parent);
    let mut roots = alive.iter().filter(|kin| !is_inside(kin)).map(|kin| kin.process);
    let only = roots.next().filter(|_| roots.next().is_none())?;
    uptime.is_none_or(|uptime| only.age(uptime) >= MAIN_PROCESS_AGE).then_some(only)
}

/// Puts the processes that an earlier daemon has left of an agent in order, the most likely main process first: one whose
/// parent is not among them, which leads a session and is the oldest such. Returns it if it is likely enough; what is only
/// marked as the agent's never is.
pub fn sort_leftover(processes: &mut [Kin], strength: Strength) -> Option<Process> {
    let pids: SortedSet<i32> = processes.iter().map(|kin| kin.process.pid.raw()).collect();
    let leads = |kin: &Kin| kin.session == kin.process.pid.raw();
    processes.sort_unstable_by_key(|kin| (pids.contains(&kin.parent), !leads(kin), kin.process.ticks, kin.process.pid));
    processes.first().filter(|kin| strength.holds() && leads(kin)).map(|kin| kin.process)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A process that was started so many ticks after boot.
    fn kin(pid: i32, parent: i32, session: i32, ticks: u64) -> Kin {
        Kin { process: Process { pid: Pid::new(pid).unwrap(), ticks }, parent, session }
    }

    fn descent(millis: u64) -> Evidence {
        Evidence::Descent { incomplete: false, uptime: Some(Duration::from_millis(millis)) }
    }

    #[test]
    fn the_main_process_of_a_forking_agent_is_its_pid_files_or_the_only_root() {
        // Process 10 was started 100 s after boot, 11 is its child, 20 an orphan beside it.
        let tree = [kin(10, 1, 10, 10_000), kin(11, 10, 10, 10_100)];
        let two = [kin(10, 1, 10, 10_000), kin(20, 1, 20, 10_000)];
        let named = |pid| Evidence::PidFile(Pid::new(pid));
        let asking = Evidence::Descent { incomplete: true, uptime: Some(Duration::from_secs(200)) };
        let unknown = Evidence::Descent { incomplete: false, uptime: None };
        for (alive, evidence, want, why) in [
            (&tree[..], named(11), Some(11), "the pid file names a child"),
            (&tree, named(10), Some(10), "the pid file names the root"),
            (&tree, named(12), None, "the pid file names another's process"),
            (&tree, Evidence::PidFile(None), None, "there is nothing in the pid file yet"),
            (&two, named(20), Some(20), "the pid file names one of several roots"),
            (&tree, descent(100_500), Some(10), "the only root"),
            (&tree, descent(100_490), None, "the only root is too young"),
            (&tree, descent(90_000), None, "the host is up for less than the root's start, as after a rounding"),
            (&tree, unknown, Some(10), "its age is not known"),
            (&tree, asking, None, "an orphan may be the agent's too"),
            (&two, descent(200_000), None, "there are two roots"),
            (&[], descent(200_000), None, "there is no process"),
            (&[], named(10), None, "the process of the pid file has ended"),
        ] {
            assert_eq!(find_main(alive, evidence).map(|main| main.pid.raw()), want, "{why}");
        }
    }

    #[test]
    fn only_what_is_surely_the_agents_or_was_started_since_may_be_its_main_process() {
        for (strength, began, want) in [
            (Strength::Descended, 5, true),
            (Strength::Grouped, 5, true),
            (Strength::Orphan, 5, false),
            (Strength::Orphan, 10, true),
            (Strength::Marked, 20, false),
        ] {
            assert_eq!(may_be_main(strength, began, 10), want, "{strength:?} {began}");
        }
    }

    #[test]
    fn the_oldest_leader_of_a_session_is_most_likely_the_main_process_of_a_leftover() {
        let of_group = Strength::Grouped;
        for (mut processes, strength, order, main, why) in [
            (vec![kin(11, 10, 10, 2), kin(10, 1, 10, 1)], of_group, vec![10, 11], Some(10), "a parent and its child"),
            (vec![kin(10, 1, 10, 9), kin(20, 1, 20, 5)], of_group, vec![20, 10], Some(20), "two leaders"),
            (vec![kin(10, 1, 10, 5), kin(20, 1, 20, 5)], of_group, vec![10, 20], Some(10), "two of the same age"),
            (vec![kin(10, 1, 5, 1), kin(20, 1, 20, 9)], of_group, vec![20, 10], Some(20), "an older one leads nothing"),
            (vec![kin(10, 1, 5, 1), kin(11, 10, 11, 2)], of_group, vec![10, 11], None, "the root leads nothing"),
            (vec![kin(10, 1, 10, 1)], Strength::Marked, vec![10], None, "it is only marked"),
            (vec![], of_group, vec![], None, "nothing is left"),
        ] {
            assert_eq!(sort_leftover(&mut processes, strength).map(|main| main.pid.raw()), main, "{why}");
            assert_eq!(processes.iter().map(|kin| kin.process.pid.raw()).collect::<Vec<_>>(), order, "{why}");
        }
    }
}
