//! The processes of each agent: found, counted, signalled until none is left, taken over from an earlier daemon.
//!
//! The tree of an agent is what is in its control group, and in any case what descends from its main process, shares a
//! session with such a process, or was seen in the tree before. An orphan, whose parents are gone, may name an agent by
//! `BOOTAGENT_NAME` and our state directory in its environment. Any process can claim that, so such a process gets the
//! agent's signals and counts for nothing else. `model::membership` has the rule, `view` collects the facts for it. The
//! daemon is the reaper of orphans, so what its agents leave behind becomes its child. Helpers and installers are never
//! in a tree, and a signal goes only to a process whose id and start time were checked right before.
//!
//! /proc is read at most once for all agents in a turn of the loop (`forget_snapshot` ends that), and only when needed.

mod leftover;
mod signals;
mod spared;
mod usage;
mod view;

use crate::host::limits::Limits;
use crate::host::proc::{self, Snapshot, Stat};
use crate::kernel::{Pid, Process, Sig, Time, Uid};
use crate::model::ending::{AnswerWait, Living};
use crate::model::event::Scope;
use crate::model::main_process::may_be_main;
use crate::model::measurement::Meter;
use crate::model::membership::{AgentId, Strength};
use crate::model::spec::Name;
use crate::sorted_map::{SortedMap, SortedSet};
use crate::sys::process as calls;
pub use leftover::Ask;
use view::{Depth, View};

/// The trees of all agents.
#[derive(Debug, Default)]
pub struct Trees {
    own: i32,
    /// The keeper that started the daemon, where one did.
    keeper: Option<Pid>,
    trees: SortedMap<Name, Box<Tree>>,
    /// Our helpers and installers; their descendants are in no tree either.
    ours: SortedSet<Pid>,
    /// Orphans that belong to no agent, by id, with the start time. Their environments are not read again.
    strangers: SortedMap<Pid, u64>,
    /// Orphans whose environments name an agent.
    named: SortedMap<Process, Name>,
    /// Orphans whose environments are still to be read, with their users.
    questions: SortedMap<Process, Uid>,
    /// Users with a process that could not be read, and until when nothing of theirs is asked about.
    blocked: Vec<(Uid, Time)>,
    /// The first orphan that the budget of the last look did not reach.
    ask_next: Option<Pid>,
    /// The user each agent runs as; `None` where it is not known. An agent without an entry runs as the daemon does.
    users: SortedMap<Name, Option<Uid>>,
    last_id: AgentId,
    view: Option<View>,
    /// Whether the daemon has no children but main processes and helpers, as of this turn.
    no_orphans: Option<bool>,
    /// The number of processes in the last pass over /proc.
    host_size: usize,
}

/// What is known of one agent's tree.
#[derive(Debug, Default)]
struct Tree {
    id: AgentId,
    main_process: Option<Process>,
    /// The main process is not our child, and its orphans become children of init.
    adopted: bool,
    /// It has a control group, as of the last look.
    grouped: bool,
    /// All other processes at the last look, with how surely they belong to it, without those that are in it only by its
    /// control group.
    seen: Vec<(Process, Strength)>,
    /// Those that earlier runs have left, and that are spared.
    spared: SortedSet<Process>,
    run: Run,
}

/// What is known since a main process of an agent was started or taken over.
#[derive(Debug, Default)]
struct Run {
    /// The start time of that process, in ticks since boot.
    started_at: u64,
    meter: Meter,
    /// Calls of `kill`.
    kills: u32,
    /// Processes that are only marked were counted once, so that they get the polite signal before SIGKILL.
    warned: bool,
    /// The last signal but SIGKILL that was sent to the tree, and the processes that are only marked and got it.
    signalled: Option<(Sig, Vec<Process>)>,
    /// How long a stop waits for what the environments of orphans say.
    answers: AnswerWait,
    /// Until when nobody tries to find out how its processes share their memory, as one of them cannot be read.
    unreadable_until: Time,
    /// The process that refused the last signal.
    refused: Option<Process>,
}

/// The processes of an agent that is not taken over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leftover {
    /// The most likely main process; `None` where no process is likely to be it.
    pub main: Option<Process>,
    /// All of them, the most likely main process first.
    pub processes: Vec<Process>,
    /// How surely they belong to the agent: all are in its control group, or all are only marked.
    pub strength: Strength,
}

impl Trees {
    /// No agents yet.
    pub fn new() -> Trees {
        Trees { own: calls::own_id(), host_size: usize::MAX, ..Trees::default() }
    }

    /// Sets the keeper of the daemon. Like the daemon it belongs to no agent, whatever has started it.
    pub fn set_keeper(&mut self, keeper: Option<Pid>) {
        self.keeper = keeper;
    }

    /// Whether it is the daemon or its keeper.
    fn is_daemon(&self, pid: Pid) -> bool {
        pid.raw() == self.own || self.keeper == Some(pid)
    }

    /// Sets the user that an agent's processes run as; `None`: it is not known, and no environment is believed.
    pub fn runs_as(&mut self, name: &Name, user: Option<Uid>) {
        self.users.insert(name.clone(), user);
    }

    /// A main process was started as our child, in a session of its own.
    pub fn started(&mut self, name: &Name, leader: Process) {
        self.tree(name).lead(leader, false);
    }

    /// A main process is taken over: it is from an earlier daemon's record, or was left by the starter of a forking agent.
    /// False when it is gone, or another process has its id.
    pub fn adopt(&mut self, name: &Name, leader: Process) -> bool {
        let ours = calls::is_child(leader.pid);
        // Without /proc start times are not known, and only a child is sure to be the process that had the id.
        if self.is_daemon(leader.pid) || !(proc::alive(leader) || ours && leader.ticks == 0) {
            return false;
        }
        self.tree(name).lead(leader, !ours);
        if !ours {
            // A process that belonged to no agent may belong to this one.
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

    /// The main process of an agent is about to be another one: this one is only one of its processes from now on.
    pub fn keep_main(&mut self, name: &str) {
        if let Some(tree) = self.trees.get_mut(name) {
            tree.seen.extend(tree.main_process.take().map(|process| (process, Strength::Descended)));
        }
    }

    /// The process of the present run of an agent that has this id. One that has ended counts as the one that had it at the last
    /// look.
    pub fn find(&mut self, name: &str, pid: i32, limits: &Limits) -> Option<Process> {
        let pid = Pid::new(pid)?;
        let main_process = self.main_process(name).filter(|main| main.pid == pid);
        if main_process.is_some() {
            return main_process;
        }
        let known: Vec<Process> = self.trees.get(name)?.seen.iter().map(|(process, _)| *process).collect();
        let members = self.collect(name, limits, Depth::Whole);
        let held = members.iter().filter(|(_, strength)| strength.holds()).map(|(stat, _)| stat.process);
        let mut found = held.chain(known.into_iter().filter(|_| proc::stat(pid).is_none()));
        found.find(|process| process.pid == pid && !self.is_spared(name, *process))
    }

    /// Forgets an agent of which no process is left, or whose processes are no longer the daemon's.
    pub fn forget(&mut self, name: &str) {
        // No process is in the tree any more, so the view of this turn stays true of all others.
        self.trees.remove(name);
    }

    /// The main process of an agent, when it has one.
    pub fn main_process(&self, name: &str) -> Option<Process> {
        self.trees.get(name)?.main_process
    }

    /// A helper, installer or health check was started: neither it nor any descendant of it is in a tree.
    pub fn add_ours(&mut self, pid: Pid) {
        self.ours.insert(pid);
        self.forget_snapshot();
    }

    /// A helper, installer or health check has ended.
    pub fn remove_ours(&mut self, pid: Pid) {
        self.ours.remove(&pid);
        self.forget_snapshot();
    }

    /// Drops what was read from /proc, with its memory: at the begin of a turn of the loop, after reaping, as it may be out
    /// of date, and at the end of the turn.
    pub fn forget_snapshot(&mut self) {
        self.view = None;
        self.no_orphans = None;
    }

    /// Why nothing is known but main processes and control groups; `None` while /proc can be read.
    pub fn fault(&mut self) -> Option<&str> {
        self.snapshot_view(Depth::Whole).snapshot.fault()
    }

    /// Whether /proc exists and cannot be read at the moment.
    pub fn is_blind(&mut self) -> bool {
        self.snapshot_view(Depth::Whole);
        self.view.as_ref().is_some_and(|view| view.snapshot.has_temporary_fault())
    }

    /// Uses this snapshot in this turn instead of reading /proc.
    pub fn show(&mut self, snapshot: Snapshot) {
        self.see(snapshot, Depth::Whole);
    }

    /// Every process that may be an agent's main process, zombies included, ordered by pid: those that surely belong to it
    /// and are not left by earlier runs, and children of the daemon that name it and are not older than its starter.
    pub fn members(&mut self, name: &str, limits: &Limits) -> Vec<Stat> {
        let started_at = self.trees.get(name).map_or(0, |tree| tree.run.started_at);
        let mut members = Vec::new();
        for (stat, strength) in self.collect(name, limits, Depth::Whole) {
            if may_be_main(strength, stat.process.ticks, started_at) && !self.is_spared(name, stat.process) {
                members.push(stat);
            }
        }
        members
    }

    /// How many of these processes of an agent can still run, as far as a stop waits for them (`Living::count`); 1 while /proc
    /// cannot be read for lack of descriptors or memory.
    pub fn left(&mut self, name: &str, scope: Scope, limits: &Limits) -> usize {
        if scope == Scope::Main {
            return self.main_process(name).is_some().into();
        }
        if self.is_surely_empty(name, limits) {
            return 0;
        }
        if self.is_blind() {
            return 1;
        }
        let mut living = Living::default();
        for (stat, strength) in self.collect(name, limits, Depth::Whole) {
            if stat.alive() && (scope == Scope::Tree || !self.is_spared(name, stat.process)) {
                *(if strength.holds() { &mut living.held } else { &mut living.marked }) += 1;
            }
        }
        let Some(tree) = self.trees.get_mut(name) else { return living.held };
        let count = living.count(scope, tree.run.warned);
        if count.signal_late {
            tree.run.warned = true;
            self.signal_late(name, limits);
        }
        count.left
    }

    /// Takes over the processes that are left of an agent whose main process is not known. None of them is our child.
    pub fn claim(&mut self, name: &Name, left: &Leftover) {
        self.strangers = SortedMap::new();
        let tree = self.tree(name);
        tree.adopted = true;
        tree.seen.extend(left.processes.iter().map(|process| (*process, left.strength)));
    }

    fn tree(&mut self, name: &Name) -> &mut Tree {
        self.forget_snapshot();
        let id = self.last_id + 1;
        let tree = self.trees.or_insert_with(name.clone(), || Box::new(Tree { id, ..Tree::default() }));
        self.last_id = self.last_id.max(tree.id);
        tree
    }

    fn may_be_agent(&self, stat: &Stat) -> bool {
        let pid = stat.process.pid;
        stat.alive() && !stat.kernel && !self.is_daemon(pid) && !self.ours.contains(&pid)
    }

    /// Whether a tree is known to be empty without a pass over /proc: it has no main process, no process in its group, and
    /// all children of the daemon, among which its orphans would be, are main processes or helpers.
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
}

impl Tree {
    fn lead(&mut self, leader: Process, adopted: bool) {
        self.main_process = Some(leader);
        self.adopted = adopted;
        self.run = Run { started_at: leader.ticks, ..Run::default() };
    }

    /// All processes of the tree at the last look.
    fn known(&self) -> impl Iterator<Item = (Process, Strength)> + '_ {
        let leader = self.main_process.map(|process| (process, Strength::Descended));
        leader.into_iter().chain(self.seen.iter().copied())
    }

    /// Keeps the processes of a look for the next one. A process that is in the tree only by its control group is not kept,
    /// as it leaves the tree when it is moved out of the group.
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
