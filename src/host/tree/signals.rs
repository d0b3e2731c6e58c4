//! Signals to the processes of an agent. Each goes only to a process whose id and start time were checked right before.

use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::time::Duration;

use super::view::Depth;
use super::Trees;
use crate::host::limits::Limits;
use crate::host::proc;
use crate::kernel::{Process, Sig};
use crate::model::ending::is_fork_bomb;
use crate::model::event::Scope;
use crate::sorted_map::SortedSet;
use crate::sys;
use crate::sys::process as calls;

/// How often one call of `kill` looks at such a tree again; the rest is left for the next call.
const ROUNDS: usize = 8;
/// How long that may take.
const ROUNDS_TIME: Duration = Duration::from_millis(100);

impl Trees {
    /// Sends the last signal to the processes that were only found to be marked after it was sent.
    pub(super) fn signal_late(&mut self, name: &str, limits: &Limits) {
        let signalled = self.trees.get_mut(name).and_then(|tree| tree.run.signalled.take());
        let Some((sig, told)) = signalled else { return };
        for process in self.alive(name, limits).1 {
            if !told.contains(&process) && self.send(name, process, sig, limits) {
                self.send(name, process, Sig::CONT, limits);
            }
        }
    }

    /// Sends a signal to these processes of an agent, and SIGCONT to those that are stopped, so that the signal takes effect.
    /// Returns how many processes got it.
    pub fn signal(&mut self, name: &str, scope: Scope, sig: Sig, limits: &Limits) -> usize {
        if scope == Scope::Main {
            return self.signal_main(name, sig, limits);
        }
        let mut sent = 0;
        // While no agent was taken over, all processes descend from the daemon. SIGKILL comes to those that are missed.
        let all_ours = !self.trees.values().any(|tree| tree.adopted);
        let depth = if sig != Sig::KILL && all_ours { Depth::Present } else { Depth::Whole };
        let leader = self.main_process(name);
        let mut told = Vec::new();
        for (stat, strength) in self.collect(name, limits, depth) {
            let is_meant = scope == Scope::Tree || strength.holds() && !self.is_spared(name, stat.process);
            if stat.alive() && is_meant && self.send(name, stat.process, sig, limits) {
                sent += 1;
                if !strength.holds() {
                    told.push(stat.process);
                }
                // The main process may have been stopped since its state was read.
                if sig != Sig::STOP && (stat.stopped() || leader == Some(stat.process)) {
                    self.send(name, stat.process, Sig::CONT, limits);
                }
            }
        }
        if let Some(tree) = self.trees.get_mut(name).filter(|_| sig != Sig::KILL) {
            tree.run.signalled = Some((sig, told));
        }
        sent
    }

    /// Sends a signal to the main process of an agent alone, if it has one, and SIGCONT so that the signal takes effect.
    fn signal_main(&mut self, name: &str, sig: Sig, limits: &Limits) -> usize {
        let Some(process) = self.main_process(name) else { return 0 };
        let sent = self.send(name, process, sig, limits);
        self.send(name, process, Sig::CONT, limits);
        sent.into()
    }

    /// Kills the processes that are only marked as an agent's, after all others have ended. No stop waits for them.
    pub fn kill_marked(&mut self, name: &str, limits: &Limits) {
        if self.trees.get(name).is_none_or(|tree| !tree.run.warned) {
            return;
        }
        for (stat, strength) in self.collect(name, limits, Depth::Whole) {
            if stat.alive() && !strength.holds() {
                self.send(name, stat.process, Sig::KILL, limits);
            }
        }
    }

    /// Kills these processes of an agent, and returns how many there were at the last look. A tree that is large, or is not
    /// gone at the second call, is first stopped and looked at again several times, so that it cannot create processes
    /// faster than they die. To be called until `left` returns 0, with a pause in between.
    pub fn kill(&mut self, name: &str, scope: Scope, limits: &Limits) -> usize {
        if scope != Scope::Tree {
            return self.signal(name, scope, Sig::KILL, limits);
        }
        let Some(tree) = self.trees.get_mut(name) else { return 0 };
        tree.run.kills = tree.run.kills.saturating_add(1);
        let kills = tree.run.kills;
        if limits.kill(name) {
            self.forget_snapshot();
        }
        let began = sys::monotonic();
        let (mut members, marked) = self.alive(name, limits);
        let bomb = is_fork_bomb(members.len(), kills);
        let frozen = bomb && limits.freeze(name, true);
        if bomb {
            // Killing changes which process descends from which, stopping does not: all are stopped before any is killed.
            let mut stopped = SortedSet::new();
            for _ in 0..ROUNDS {
                let fresh: Vec<Process> = members.iter().copied().filter(|member| stopped.insert(*member)).collect();
                if fresh.is_empty() || sys::monotonic().since(began) > ROUNDS_TIME {
                    break;
                }
                for process in fresh {
                    self.send(name, process, Sig::STOP, limits);
                }
                self.forget_snapshot();
                members = self.alive(name, limits).0;
            }
        }
        for process in members.iter().chain(&marked) {
            self.send(name, *process, Sig::KILL, limits);
        }
        if frozen {
            limits.freeze(name, false);
        }
        self.forget_snapshot();
        members.len()
    }

    /// The processes that surely belong to an agent, and those that are only marked.
    fn alive(&mut self, name: &str, limits: &Limits) -> (Vec<Process>, Vec<Process>) {
        let (mut held, mut marked) = (Vec::new(), Vec::new());
        for (stat, strength) in self.collect(name, limits, Depth::Whole) {
            if stat.alive() {
                (if strength.holds() { &mut held } else { &mut marked }).push(stat.process);
            }
        }
        (held, marked)
    }

    /// Sends a signal to exactly this process; false when it was gone or refused it, which is noted.
    fn send(&mut self, name: &str, process: Process, sig: Sig, limits: &Limits) -> bool {
        if self.is_daemon(process.pid) {
            return false;
        }
        let sent = self.try_to_send(name, process, sig, limits);
        if sent.as_ref().is_err_and(|error| error.kind() == ErrorKind::PermissionDenied) {
            if let Some(tree) = self.trees.get_mut(name) {
                tree.run.refused = Some(process);
            }
        }
        sent.is_ok()
    }

    fn try_to_send(&self, name: &str, process: Process, sig: Sig, limits: &Limits) -> io::Result<()> {
        let Process { pid, ticks } = process;
        let tree = self.trees.get(name);
        let child = tree.is_some_and(|tree| !tree.adopted && tree.main_process.is_some_and(|leader| leader.pid == pid));
        if child {
            // Its id cannot pass to another process before we reap it. Without /proc the rest of the tree is not known, and
            // its process group gets the signal.
            let group = ticks == 0 && calls::signal_group(pid, sig).is_ok();
            let sent = calls::signal(pid, sig);
            return if group { Ok(()) } else { sent };
        }
        let pidfd = calls::pidfd_open(pid).ok();
        let same = if ticks == 0 {
            pidfd.is_some() && limits.members(name).is_some_and(|pids| pids.contains(&pid))
        } else {
            proc::stat(pid).is_some_and(|now| now.process == process)
        };
        match pidfd {
            _ if !same => Err(ErrorKind::NotFound.into()),
            Some(fd) => calls::pidfd_signal(fd.as_fd(), sig),
            None => calls::signal(pid, sig),
        }
    }

    /// The process of an agent that refused the last signal, as we may not signal it; asking forgets it.
    pub fn refused(&mut self, name: &str) -> Option<Process> {
        self.trees.get_mut(name)?.run.refused.take()
    }
}
