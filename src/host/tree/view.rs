//! Whose each process of the host is: one pass over /proc in a turn of the loop, and what that tells of every tree.

use super::{Trees, EXECUTING};
use crate::host::limits::Limits;
use crate::host::proc::{self, Mark, Snapshot, Stat};
use crate::kernel::{Pid, Process};
use crate::map::{Map, Set};

/// One pass over /proc, and whose each process is.
#[derive(Debug)]
pub(super) struct View {
    pub(super) snapshot: Snapshot,
    pub(super) owners: Vec<Owner>,
    depth: Depth,
}

/// How much a view shows; each is good for what is before it, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Depth {
    /// Who is there. Of main processes that are our children nothing has been read.
    Present,
    /// What agents use; it may be without what is in a tree but does not descend from us.
    Usage,
    /// Every process of the host.
    Whole,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    Unresolved,
    Nobody,
    Tree { id: u32, weak: bool },
}

impl Trees {
    /// All processes of one tree in this turn's view, and whether each is only weakly known.
    pub(super) fn collect(&mut self, name: &str, limits: &Limits, depth: Depth) -> Vec<(Stat, bool)> {
        let Some(tree) = self.trees.get(name) else { return Vec::new() };
        let (id, leader, adopted) = (tree.id, tree.leader, tree.adopted);
        let grouped = limits.members(name).unwrap_or_default();
        self.look(depth);
        let (own, ours) = (self.own, &self.ours);
        let may = |pid: Pid| pid.raw() != own && !ours.contains(&pid);
        let Some(view) = self.view.as_mut() else { return Vec::new() };
        let mut members = Vec::new();
        if view.snapshot.fault().is_some() {
            // Nothing is known but the group, and our own child, whose id is its own until we reap it.
            let child = leader.filter(|_| !adopted).map(|leader| leader.pid);
            let pids: Set<Pid> = grouped.into_iter().chain(child).filter(|pid| may(*pid)).collect();
            let unread = |pid| (Stat::unread(Process { pid, ticks: 0 }, 0, 0), false);
            members.extend(pids.into_iter().map(unread));
            return members;
        }
        let whole = Owner::Tree { id, weak: false };
        let mut grown = false;
        for pid in grouped.into_iter().filter(|pid| may(*pid)) {
            match view.snapshot.index(pid) {
                Some(index) if view.owners[index] != whole => {
                    view.owners[index] = whole;
                    grown = true;
                }
                Some(_) => {}
                None => members.extend(proc::stat(pid).map(|stat| (stat, false))),
            }
        }
        while std::mem::take(&mut grown) {
            for index in 0..view.owners.len() {
                let stat = view.snapshot.stats()[index];
                let parent = Pid::new(stat.parent).and_then(|parent| view.snapshot.index(parent));
                let inherits = parent.is_some_and(|parent| view.owners[parent] == whole);
                if inherits && view.owners[index] == Owner::Nobody && may(stat.process.pid) {
                    view.owners[index] = whole;
                    grown = true;
                }
            }
        }
        for (stat, owner) in view.snapshot.stats().iter().zip(&view.owners) {
            if let Owner::Tree { id: owner, weak } = *owner {
                if owner == id {
                    members.push((*stat, weak));
                }
            }
        }
        members.sort_unstable_by_key(|(stat, _)| stat.process.pid);
        if let Some(tree) = self.trees.get_mut(name) {
            tree.remember(&members);
        }
        members
    }

    /// This turn's view, at least so deep.
    pub(super) fn look(&mut self, depth: Depth) -> &View {
        if self.view.as_ref().is_some_and(|view| view.depth < depth) {
            self.view = None;
        }
        if self.view.is_none() {
            let known = self.trees.values().map(|tree| tree.seen.len() + 1).sum::<usize>();
            // Following the lists of children costs about three times as much for each process as the pass over all.
            if depth < Depth::Whole && self.own > 1 && known.saturating_mul(4) < self.host_size {
                let mut roots: Vec<Pid> = Pid::new(self.own).into_iter().collect();
                for tree in self.trees.values() {
                    roots.extend(tree.known().map(|member| member.process.pid));
                }
                self.see(Snapshot::below(&roots), Depth::Usage);
            } else if depth == Depth::Present {
                let own = self.trees.values().filter(|tree| !tree.adopted).filter_map(|tree| tree.leader);
                let children = own.map(|leader| (leader.pid, leader.ticks)).collect();
                self.see(Snapshot::around(&children), Depth::Present);
            } else {
                self.see(Snapshot::take(), Depth::Whole);
            }
        }
        self.view.as_ref().expect("it was set just now")
    }

    pub(super) fn see(&mut self, snapshot: Snapshot, depth: Depth) {
        if depth == Depth::Whole {
            self.host_size = snapshot.stats().len();
            self.strangers.retain(|pid, ticks| snapshot.get(Process { pid: *pid, ticks: *ticks }).is_some());
        }
        let owners = self.resolve(&snapshot);
        let mut members: Map<u32, Vec<(Stat, bool)>> = Map::new();
        for (stat, owner) in snapshot.stats().iter().zip(&owners) {
            if let Owner::Tree { id, weak } = *owner {
                members.or_insert_with(id, Vec::new).push((*stat, weak));
            }
        }
        for tree in self.trees.values_mut().filter(|_| snapshot.fault().is_none()) {
            tree.remember(members.get(&tree.id).map_or(&[], Vec::as_slice));
        }
        self.view = Some(View { snapshot, owners, depth });
    }

    /// Whose each process of a snapshot is, control groups apart.
    pub(super) fn resolve(&mut self, snapshot: &Snapshot) -> Vec<Owner> {
        let mut known: Map<Process, Owner> = Map::new();
        for tree in self.trees.values() {
            known.extend(tree.known().map(|member| (member.process, Owner::Tree { id: tree.id, weak: member.weak })));
        }
        let mut sessions: Map<i32, u32> = Map::new();
        for tree in self.trees.values_mut() {
            // The id of a session is not given to a process while the session lives. If a stranger has it, the session is over.
            tree.sessions.retain(|session| match Pid::new(*session).and_then(|pid| snapshot.find(pid)) {
                Some(stat) => known.get(&stat.process).is_some_and(|owner| owner.id() == Some(tree.id)),
                None => true,
            });
            sessions.extend(tree.sessions.iter().map(|session| (*session, tree.id)));
        }
        let stats = snapshot.stats();
        let mut owners = vec![Owner::Unresolved; stats.len()];
        let mut path = Vec::new();
        for start in 0..stats.len() {
            // Up the line of parents to one that is decided, then down again.
            let mut at = start;
            let mut owner = loop {
                if owners[at] != Owner::Unresolved {
                    break owners[at];
                }
                let stat = &stats[at];
                let pid = stat.process.pid;
                if stat.kernel || pid.raw() == self.own || self.ours.contains(&pid) {
                    owners[at] = Owner::Nobody;
                    break Owner::Nobody;
                }
                if let Some(owner) = known.get(&stat.process) {
                    break *owner;
                }
                if let Some(id) = sessions.get(&stat.session) {
                    break Owner::Tree { id: *id, weak: false };
                }
                let parent = Pid::new(stat.parent).filter(|parent| parent.raw() != self.own);
                match parent.and_then(|parent| snapshot.index(parent)) {
                    // A loop can only come of ids that changed hands while they were read.
                    Some(parent) if path.len() < stats.len() => {
                        path.push(at);
                        at = parent;
                    }
                    _ => break self.ask(stat),
                }
            };
            owners[at] = owner;
            while let Some(below) = path.pop() {
                if owner == Owner::Unresolved {
                    owner = Owner::Nobody;
                }
                owners[below] = owner;
            }
        }
        owners
    }

    /// Whose an orphan is by its environment. One that became our child descends from us, so that its word can be taken.
    /// Init's may be anybody's, and are asked only for an agent that was taken over: what another leaves becomes ours.
    pub(super) fn ask(&mut self, stat: &Stat) -> Owner {
        let Process { pid, ticks } = stat.process;
        if !stat.alive() || self.trees.is_empty() || self.strangers.get(&pid) == Some(&ticks) {
            return Owner::Nobody;
        }
        for _ in 0..EXECUTING {
            match proc::mark(pid, &self.state_dir) {
                Mark::Agent(name) => match self.trees.get(&name) {
                    Some(tree) if tree.adopted || stat.parent == self.own => {
                        return Owner::Tree { id: tree.id, weak: stat.parent != self.own }
                    }
                    _ => break,
                },
                Mark::Stranger => {
                    self.strangers.insert(pid, ticks);
                    break;
                }
                Mark::Unknown => break,
                Mark::Executing => std::thread::yield_now(),
            }
        }
        Owner::Nobody
    }
}

impl Owner {
    fn id(self) -> Option<u32> {
        match self {
            Owner::Tree { id, .. } => Some(id),
            _ => None,
        }
    }
}
