//! The processes of each agent: found, counted, signalled until none is left, taken over from an earlier daemon.
//!
//! An agent's tree is what is in its control group, and in any case what descends from its main process, shares a session
//! with such a process, or was seen in the tree before. An orphan, whose parents are gone, may name an agent by
//! `BOOTAGENT_NAME` and our state directory in its environment, which is a hint that anybody can give: such a process gets
//! the agent's signals, and counts for nothing else. `model::membership` has the rule, `view` the facts for it. We are the
//! reaper of orphans, so that what an agent of ours leaves behind becomes our child. Our own helpers and installers are
//! never in a tree, and a signal goes only to a process whose id and start time are checked right before.
//!
//! /proc is read once for all agents in a turn of the loop (`turn` ends that), and only when somebody asks.

mod leftover;
mod meter;
mod view;

use std::os::fd::AsFd;
use std::time::Duration;

use crate::host::limits::{Limits, Usage};
use crate::host::proc::{self, Snapshot, Stat};
use crate::kernel::{Pid, Process, Sig, Uid};
use crate::model::membership::{AgentId, Strength};
use crate::model::spec::Name;
use crate::sorted_map::{SortedMap, SortedSet};
use crate::sys;
use crate::sys::process as calls;
use meter::{Meter, Reading};
use view::{Depth, View};

/// How many processes a tree may have before it is treated as one that makes them faster than they are killed.
const BOMB: usize = 16;

/// So often is such a tree looked at again in one call of `kill`, and so long may that take; the rest is for the next call.
const ROUNDS: usize = 8;
const ROUNDS_TIME: Duration = Duration::from_millis(100);

/// The trees of all agents.
#[derive(Debug)]
pub struct Trees {
    own: i32,
    state_dir: Box<str>,
    trees: SortedMap<Name, Box<Tree>>,
    /// Our helpers and installers, with all that descends from them.
    ours: SortedSet<Pid>,
    /// Orphans that are nobody's, whatever their environments say: by id, with the start time. Asked once.
    strangers: SortedMap<Pid, u64>,
    /// The orphan that the budget of the last look did not reach.
    ask_next: Option<Pid>,
    /// The user each agent runs as; `None`: it has one that cannot be told. One that is not in it runs as we do.
    users: SortedMap<Name, Option<Uid>>,
    last_id: AgentId,
    view: Option<View>,
    /// Whether we have no children but main processes and helpers, as of this turn.
    no_orphans: Option<bool>,
    /// How many processes the last pass over /proc found.
    host_size: usize,
}

/// What is known of one agent's tree.
#[derive(Debug)]
struct Tree {
    id: AgentId,
    main_process: Option<Process>,
    /// The main process is not our child, and what it leaves behind goes to init.
    adopted: bool,
    /// When its last main process was started, as that process counts it.
    begun: u64,
    /// It has a control group, as of the last time anybody asked.
    grouped: bool,
    /// Everything else that was in it at the last look, and how surely; its control group tells of what is in that.
    seen: Vec<(Process, Strength)>,
    meter: Meter,
    /// Calls of `kill` in this life.
    kills: u32,
    /// What is only marked was counted once, so that it gets the signal before the last one.
    warned: bool,
}

/// What runs of an agent that nobody has taken over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leftover {
    /// The one that is its main process most likely, unless none can be told to be it.
    pub main: Option<Process>,
    /// All of them, the most likely main process first.
    pub processes: Vec<Process>,
    /// How surely they are the agent's: all are in its control group, or all are only marked.
    pub strength: Strength,
}

impl Trees {
    /// No agents yet. `state_dir` is what `BOOTAGENT_STATE_DIR` says in the agents' environments.
    pub fn new(state_dir: &str) -> Trees {
        Trees {
            own: calls::own_id(),
            state_dir: state_dir.into(),
            trees: SortedMap::new(),
            ours: SortedSet::new(),
            strangers: SortedMap::new(),
            ask_next: None,
            users: SortedMap::new(),
            last_id: 0,
            view: None,
            no_orphans: None,
            host_size: usize::MAX,
        }
    }

    /// An agent's processes run as this user; `None`: nobody can tell, and no environment is believed.
    pub fn runs_as(&mut self, name: &Name, user: Option<Uid>) {
        self.users.insert(name.clone(), user);
    }

    /// A main process was started as our child, in a session of its own.
    pub fn started(&mut self, name: &Name, leader: Process) {
        self.tree(name).lead(leader, false);
    }

    /// A main process was taken over: from an earlier daemon's record, or found as what a forking agent's starter
    /// left. False when it is gone, or another process has its id.
    pub fn adopt(&mut self, name: &Name, leader: Process) -> bool {
        let own = self.own;
        let ours = calls::is_child(leader.pid);
        // Without /proc an id has no start time, and only that of a child is sure to be its own.
        if leader.pid.raw() == own || !(proc::alive(leader) || ours && leader.ticks == 0) {
            return false;
        }
        self.tree(name).lead(leader, !ours);
        if !ours {
            // What was nobody's may be this agent's.
            self.strangers = SortedMap::new();
        }
        true
    }

    /// The main process has ended, and has been reaped if it was our child; the rest of the tree stays known.
    pub fn ended(&mut self, name: &str) {
        if let Some(tree) = self.trees.get_mut(name) {
            tree.main_process = None;
        }
    }

    /// Nothing is left of this agent, or nothing of it is ours any more.
    pub fn forget(&mut self, name: &str) {
        // No process is in it any more: what was read in this turn stays true of all others.
        self.trees.remove(name);
    }

    /// The main process of an agent, when it has one.
    pub fn main_process(&self, name: &str) -> Option<Process> {
        self.trees.get(name)?.main_process
    }

    /// A helper, installer or health check was started: neither it nor what descends from it is in any tree.
    pub fn add_ours(&mut self, pid: Pid) {
        self.ours.insert(pid);
        self.forget_snapshot();
    }

    /// It has ended.
    pub fn remove_ours(&mut self, pid: Pid) {
        self.ours.remove(&pid);
        self.forget_snapshot();
    }

    /// A new turn of the loop, after reaping: what was read before no longer counts.
    pub fn forget_snapshot(&mut self) {
        self.view = None;
        self.no_orphans = None;
    }

    /// Why nothing but main processes and control groups is known; `None` while /proc can be read.
    pub fn fault(&mut self) -> Option<&str> {
        self.snapshot_view(Depth::Whole).snapshot.fault()
    }

    /// Whether /proc cannot be read just now, though it is there.
    pub fn is_blind(&mut self) -> bool {
        self.snapshot_view(Depth::Whole);
        self.view.as_ref().is_some_and(|view| view.snapshot.is_passing())
    }

    /// Looks at this snapshot in this turn instead of taking one.
    pub fn show(&mut self, snapshot: Snapshot) {
        self.see(snapshot, Depth::Whole);
    }

    /// Every process that may be an agent's main process, zombies included, ordered by pid: what is surely its own, and
    /// orphans of ours that name it and are not older than its starter.
    pub fn members(&mut self, name: &str, limits: &Limits) -> Vec<Stat> {
        let begun = self.trees.get(name).map_or(0, |tree| tree.begun);
        let mut members = Vec::new();
        for (stat, strength) in self.collect(name, limits, Depth::Whole) {
            if strength.holds() || strength.may_lead() && stat.process.ticks >= begun {
                members.push(stat);
            }
        }
        members
    }

    /// How many processes of an agent can still run; 1 while that cannot be told for want of descriptors or memory. What
    /// is only marked keeps nobody waiting: it is counted once after a start, so that it hears the polite signal, and
    /// never again.
    pub fn left(&mut self, name: &str, limits: &Limits) -> usize {
        if self.is_surely_empty(name, limits) {
            return 0;
        }
        if self.is_blind() {
            return 1;
        }
        let (mut held, mut marked) = (0, 0);
        for (stat, strength) in self.collect(name, limits, Depth::Whole) {
            if stat.alive() {
                *(if strength.holds() { &mut held } else { &mut marked }) += 1;
            }
        }
        match self.trees.get_mut(name) {
            Some(tree) if held == 0 && marked > 0 && !tree.warned => {
                tree.warned = true;
                marked
            }
            _ => held,
        }
    }

    /// Sends a signal to all that is left of an agent, and has what is stopped continue to feel it; returns how many
    /// processes got it.
    pub fn signal(&mut self, name: &str, sig: Sig, limits: &Limits) -> usize {
        let mut sent = 0;
        // While none was taken over, all of them descend from us. What is missed is still there when SIGKILL comes.
        let all_ours = !self.trees.values().any(|tree| tree.adopted);
        let depth = if sig != Sig::KILL && all_ours { Depth::Present } else { Depth::Whole };
        let leader = self.main_process(name);
        for (stat, _) in self.collect(name, limits, depth) {
            if stat.alive() && self.send(name, stat.process, sig, limits) {
                sent += 1;
                // It may have been stopped since that was read.
                if sig != Sig::STOP && (stat.stopped() || leader == Some(stat.process)) {
                    self.send(name, stat.process, Sig::CONT, limits);
                }
            }
        }
        sent
    }

    /// Kills what is only marked as an agent's, the rest of which has ended: nobody waits for it.
    pub fn kill_marked(&mut self, name: &str, limits: &Limits) {
        if self.trees.get(name).is_none_or(|tree| !tree.warned) {
            return;
        }
        for (stat, strength) in self.collect(name, limits, Depth::Whole) {
            if stat.alive() && !strength.holds() {
                self.send(name, stat.process, Sig::KILL, limits);
            }
        }
    }

    /// Kills all that is left of an agent, and returns how many processes of it there were at the last look. What is
    /// large, or is still there at the second call, is first held still and looked at again and again, so
    /// that it cannot multiply faster than it dies. To be called until `left` says 0, with a moment in between.
    pub fn kill(&mut self, name: &str, limits: &Limits) -> usize {
        let Some(tree) = self.trees.get_mut(name) else { return 0 };
        tree.kills = tree.kills.saturating_add(1);
        let again = tree.kills > 1;
        if limits.kill(name).unwrap_or(false) {
            self.forget_snapshot();
        }
        let began = sys::monotonic();
        let (mut members, marked) = self.alive(name, limits);
        let bomb = !members.is_empty() && (again || members.len() > BOMB);
        let frozen = bomb && limits.freeze(name, true);
        if bomb {
            // Stopping does not change who descends from whom, killing does: so all are stopped before the first is killed.
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

    /// What an agent's tree uses: what its control groups have counted, and for what they do not the sum over its
    /// processes. `cpu` never goes back while the agent lives; what a process used that nobody in the tree waited for is
    /// counted up to the last look before its end.
    pub fn usage(&mut self, name: &str, limits: &Limits) -> Usage {
        let mut usage = limits.usage(name);
        if usage.cpu.is_some() && usage.memory.is_some() {
            return usage;
        }
        let mut members = self.collect(name, limits, Depth::Usage);
        members.retain(|(stat, strength)| strength.holds() && stat.alive());
        if self.view.as_ref().is_none_or(|view| view.snapshot.fault().is_some()) {
            return usage;
        }
        let own = self.own;
        let Some(tree) = self.trees.get_mut(name) else { return usage };
        if usage.cpu.is_none() {
            let readings = members.iter().map(|(stat, _)| {
                let orphan = stat.parent == own || stat.parent <= 1;
                (stat.process, Reading { used: stat.used, orphan })
            });
            usage.cpu = Some(tree.meter.read(readings.collect()) * (1_000_000 / proc::TICKS));
        }
        if usage.memory.is_none() {
            usage.memory = Some(members.iter().filter_map(|(stat, _)| proc::memory(stat.process.pid)).sum());
        }
        usage
    }

    /// These processes are left of an agent, whose main process is not known; none of them is our child.
    pub fn claim(&mut self, name: &Name, left: &Leftover) {
        self.strangers = SortedMap::new();
        let tree = self.tree(name);
        tree.adopted = true;
        tree.seen.extend(left.processes.iter().map(|process| (*process, left.strength)));
    }

    fn tree(&mut self, name: &Name) -> &mut Tree {
        self.forget_snapshot();
        let id = self.last_id + 1;
        let tree = self.trees.or_insert_with(name.clone(), || Box::new(Tree::new(id)));
        self.last_id = self.last_id.max(tree.id);
        tree
    }

    fn may_be_agent(&self, stat: &Stat) -> bool {
        let pid = stat.process.pid;
        stat.alive() && !stat.kernel && pid.raw() != self.own && !self.ours.contains(&pid)
    }

    /// Whether a tree is gone without a pass over /proc: it has no main process, nothing in its group, and among our
    /// children, where its orphans would be, is none that is not accounted for.
    fn is_surely_empty(&mut self, name: &str, limits: &Limits) -> bool {
        match self.trees.get(name) {
            None => return true,
            Some(tree) if tree.main_process.is_some() || tree.adopted => return false,
            _ => {}
        }
        if self.view.is_some() || limits.populated(name) == Some(true) {
            return false;
        }
        let no_orphans = || {
            let mut children = proc::children_of(self.own)?;
            children.retain(|pid| !self.ours.contains(pid));
            let count = children.len();
            let children: SortedSet<Pid> = children.into_iter().collect();
            let leaders = self.trees.values().filter_map(|tree| Some(tree.main_process?.pid));
            Some(leaders.filter(|pid| children.contains(pid)).count() == count)
        };
        *self.no_orphans.get_or_insert_with(|| no_orphans() == Some(true))
    }

    /// What is surely of an agent, and what is only marked.
    fn alive(&mut self, name: &str, limits: &Limits) -> (Vec<Process>, Vec<Process>) {
        let (mut held, mut marked) = (Vec::new(), Vec::new());
        for (stat, strength) in self.collect(name, limits, Depth::Whole) {
            if stat.alive() {
                (if strength.holds() { &mut held } else { &mut marked }).push(stat.process);
            }
        }
        (held, marked)
    }

    /// Sends a signal to exactly this process; whether it was there to get it.
    fn send(&self, name: &str, process: Process, sig: Sig, limits: &Limits) -> bool {
        let Process { pid, ticks } = process;
        if pid.raw() == self.own {
            return false;
        }
        let tree = self.trees.get(name);
        let child = tree.is_some_and(|tree| !tree.adopted && tree.main_process.is_some_and(|leader| leader.pid == pid));
        if child {
            // Its id cannot change hands before we reap it. Without /proc the group of its session is all we know of the rest.
            let group = ticks == 0 && calls::signal_group(pid, sig).is_ok();
            return calls::signal(pid, sig).is_ok() | group;
        }
        let pidfd = calls::pidfd_open(pid).ok();
        let same = if ticks == 0 {
            pidfd.is_some() && limits.members(name).is_some_and(|pids| pids.contains(&pid))
        } else {
            proc::stat(pid).is_some_and(|now| now.process == process)
        };
        let sent = || match pidfd {
            Some(fd) => calls::pidfd_signal(fd.as_fd(), sig).is_ok(),
            None => calls::signal(pid, sig).is_ok(),
        };
        same && sent()
    }
}

impl Tree {
    fn new(id: AgentId) -> Tree {
        Tree {
            id,
            main_process: None,
            adopted: false,
            begun: 0,
            grouped: false,
            seen: Vec::new(),
            meter: Meter::default(),
            kills: 0,
            warned: false,
        }
    }

    fn lead(&mut self, leader: Process, adopted: bool) {
        self.main_process = Some(leader);
        self.adopted = adopted;
        self.begun = leader.ticks;
        self.meter = Meter::default();
        self.kills = 0;
        self.warned = false;
    }

    /// Everything that was in it at the last look.
    fn known(&self) -> impl Iterator<Item = (Process, Strength)> + '_ {
        let leader = self.main_process.map(|process| (process, Strength::Descended));
        leader.into_iter().chain(self.seen.iter().copied())
    }

    /// What is in it only by its control group is not remembered: when it is taken out, it is out.
    fn remember(&mut self, members: &[(Stat, Strength)]) {
        self.seen.clear();
        for (stat, strength) in members {
            if Some(stat.process) != self.main_process && stat.alive() && *strength != Strength::Grouped {
                self.seen.push((stat.process, *strength));
            }
        }
    }
}

#[cfg(test)]
mod tests;
