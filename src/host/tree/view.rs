//! Which agent each process of the host belongs to: one pass over /proc in a turn of the loop collects the facts, and
//! `model::membership` judges them.
//!
//! The stronger evidence comes first: main processes and the processes known from the last look, then their descendants
//! and those that share their sessions. Only the environments of the remaining orphans matter, and reading one can block: they
//! become questions, which the daemon has a helper answer, and the next look uses the answers. Nothing here sends a signal.

use std::time::Duration;

use super::{Tree, Trees};
use crate::host::limits::Limits;
use crate::host::proc::{self, Snapshot, Stat};
use crate::kernel::{Pid, Process, Uid};
use crate::model::membership::{judge, AgentId, Facts, Mark, Member, Strength};
use crate::sorted_map::{Index, SortedMap, SortedSet};
use crate::sys::account::own_uid;
use crate::sys::monotonic;
use crate::work::inspect::ProcessTag;

/// How many orphans one look asks about; the rest waits for the next look.
const ORPHANS: usize = 256;
/// How long no environment of a user's processes is read after one could not be read.
const BLOCKED_TIME: Duration = Duration::from_secs(60);

/// One pass over /proc, and which agent each process belongs to.
#[derive(Debug)]
pub(super) struct View {
    pub(super) snapshot: Snapshot,
    pub(super) facts: FactTable,
    depth: Depth,
}

/// How much a view contains; each depth contains what the ones before it do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Depth {
    /// Which processes there are. Nothing was read of main processes that are children of the daemon.
    Present,
    /// What agents use. Processes that belong to a tree but do not descend from the daemon may be missing.
    Usage,
    /// Every process of the host.
    Whole,
}

/// The facts about each process of a snapshot, by its index there. Nothing is known of most processes of a host, so each
/// of those takes a pointer and no more.
#[derive(Debug)]
pub(super) struct FactTable(Vec<Option<Box<Facts>>>);

impl FactTable {
    fn new(len: usize) -> FactTable {
        FactTable(std::iter::repeat_with(|| None).take(len).collect())
    }

    /// The facts about a process, to add one.
    fn edit(&mut self, index: usize) -> &mut Facts {
        self.0[index].get_or_insert_with(Box::default)
    }

    /// Whether a process is in no tree, whatever else is known.
    pub(super) fn is_excluded(&self, index: usize) -> bool {
        self.0[index].as_ref().is_some_and(|facts| facts.excluded)
    }

    /// The agent that a process belongs to.
    pub(super) fn judge(&self, index: usize) -> Option<Member> {
        judge(self.0[index].as_ref()?)
    }

    /// Whether nothing is known of the parent of a process.
    fn has_no_parent(&self, index: usize) -> bool {
        self.0[index].as_ref().is_none_or(|facts| facts.parent.is_none())
    }

    /// Whether a process surely belongs to some agent.
    fn holds(&self, index: usize) -> bool {
        self.judge(index).is_some_and(|member| member.strength.holds())
    }

    /// The processes that belong to agents, with their index.
    fn members(&self) -> impl Iterator<Item = (usize, Member)> + '_ {
        (0..self.0.len()).filter_map(|index| Some((index, self.judge(index)?)))
    }
}

/// What the environment of an orphan says.
enum Answer {
    Marked(Mark),
    /// It belongs to no agent, and never will.
    Stranger,
    /// It is not known yet.
    Unknown,
}

impl Trees {
    /// All processes of one tree in the view of this turn, with how surely each belongs to it.
    pub(super) fn collect(&mut self, name: &str, limits: &Limits, depth: Depth) -> Vec<(Stat, Strength)> {
        let Some(tree) = self.trees.get_mut(name) else { return Vec::new() };
        let (id, leader, adopted) = (tree.id, tree.main_process, tree.adopted);
        let group = limits.members(name);
        tree.grouped = group.is_some();
        let has_group = tree.grouped;
        self.snapshot_view(depth);
        let (own, keeper, ours) = (self.own, self.keeper, &self.ours);
        let may_be_agent = |pid: &Pid| pid.raw() != own && keeper != Some(*pid) && !ours.contains(pid);
        let mut grouped = group.unwrap_or_default();
        grouped.retain(may_be_agent);
        let Some(view) = self.view.as_mut() else { return Vec::new() };
        if view.snapshot.fault().is_some() {
            // Nothing is known but the group, and our own child, which keeps its id until we reap it.
            let child = leader.filter(|_| !adopted).map(|leader| leader.pid).filter(may_be_agent);
            let pids: SortedSet<Pid> = grouped.into_iter().chain(child).collect();
            let unread = |pid| (Stat::unread(Process { pid, ticks: 0 }, 0, 0), Strength::Grouped);
            return pids.into_iter().map(unread).collect();
        }
        let mut members = view.add_group(id, grouped, own);
        for (index, member) in view.facts.members() {
            // A mark counts for nothing where the agent has a control group.
            if member.agent == id && (member.strength.holds() || !has_group) {
                members.push((view.snapshot.stats()[index], member.strength));
            }
        }
        members.sort_unstable_by_key(|(stat, _)| stat.process.pid);
        if let Some(tree) = self.trees.get_mut(name) {
            tree.remember(&members);
            tree.update_spared(&members, depth);
        }
        members
    }

    /// The view of this turn, with at least this depth.
    pub(super) fn snapshot_view(&mut self, depth: Depth) -> &View {
        if self.view.as_ref().is_some_and(|view| view.depth < depth) {
            self.view = None;
        }
        if self.view.is_none() {
            let known = self.trees.values().map(|tree| tree.seen.len() + 1).sum::<usize>();
            // Following the lists of children costs about three times as much for each process as a pass over /proc.
            if depth < Depth::Whole && self.own > 1 && known.saturating_mul(4) < self.host_size {
                let mut roots: Vec<Pid> = Pid::new(self.own).into_iter().collect();
                for tree in self.trees.values() {
                    roots.extend(tree.known().map(|(process, _)| process.pid));
                }
                self.see(Snapshot::below(&roots), Depth::Usage);
            } else if depth == Depth::Present {
                let own = self.trees.values().filter(|tree| !tree.adopted).filter_map(|tree| tree.main_process);
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
            self.named.retain(|process, _| snapshot.get(*process).is_some());
            self.questions.retain(|process, _| snapshot.get(*process).is_some());
        }
        let view = View { facts: self.resolve(&snapshot), snapshot, depth };
        let mut members: SortedMap<AgentId, Vec<(Stat, Strength)>> = SortedMap::new();
        for (index, Member { agent, strength }) in view.facts.members() {
            members.or_insert_with(agent, Vec::new).push((view.snapshot.stats()[index], strength));
        }
        for tree in self.trees.values_mut().filter(|_| view.snapshot.fault().is_none()) {
            tree.remember(members.get(&tree.id).map_or(&[], Vec::as_slice));
        }
        self.view = Some(view);
    }

    /// The facts about each process of a snapshot, apart from the control groups.
    fn resolve(&mut self, snapshot: &Snapshot) -> FactTable {
        let stats = snapshot.stats();
        let mut facts = FactTable::new(stats.len());
        let children = Index::new(stats.iter().map(|stat| stat.parent));
        self.exclude(stats, &children, &mut facts);
        let at = |process: Process| snapshot.index(process.pid).filter(|index| stats[*index].process == process);
        for tree in self.trees.values() {
            for (process, strength) in &tree.seen {
                if let Some(index) = at(*process) {
                    facts.edit(index).seen = Some(Member { agent: tree.id, strength: *strength });
                }
            }
            if let Some(index) = tree.main_process.and_then(at) {
                facts.edit(index).main = Some(tree.id);
            }
        }
        let held = facts.members().filter(|(_, member)| member.strength.holds()).map(|(index, _)| index).collect();
        spread_surely(snapshot, &children, &mut facts, held, self.own);
        let weak = facts.members().filter(|(_, member)| !member.strength.holds());
        let mut marked: Vec<usize> = weak.map(|(index, _)| index).collect();
        self.ask_orphans(snapshot, &mut facts, &mut marked);
        while let Some(index) = marked.pop() {
            let Some(member) = facts.judge(index) else { continue };
            for child in children.of(stats[index].process.pid.raw()) {
                if facts.has_no_parent(child) && facts.judge(child).is_none() {
                    facts.edit(child).parent = Some(member);
                    marked.push(child);
                }
            }
        }
        facts
    }

    /// Notes which processes are in no tree: the daemon, its keeper, threads of the kernel, helpers and installers with all
    /// their descendants.
    fn exclude(&self, stats: &[Stat], children: &Index, facts: &mut FactTable) {
        let mut open = Vec::new();
        for (index, stat) in stats.iter().enumerate() {
            let pid = stat.process.pid;
            let is_ours = self.ours.contains(&pid);
            if is_ours || stat.kernel || self.is_daemon(pid) {
                facts.edit(index).excluded = true;
            }
            if is_ours {
                open.push(pid);
            }
        }
        while let Some(pid) = open.pop() {
            for child in children.of(pid.raw()) {
                if !facts.is_excluded(child) {
                    facts.edit(child).excluded = true;
                    open.push(stats[child].process.pid);
                }
            }
        }
    }

    /// Asks about the environments of the orphans that belong to no agent so far, of some in one look; the next look continues
    /// where it ended. Adds those that are known to name an agent to `marked`.
    fn ask_orphans(&mut self, snapshot: &Snapshot, facts: &mut FactTable, marked: &mut Vec<usize>) {
        let stats = snapshot.stats();
        let mut budget = ORPHANS;
        let (of_ours, of_init) = self.relevant_orphans();
        if !of_ours && !of_init {
            return;
        }
        let mut agents_users = None;
        let first = self.ask_next.take().map_or(0, |next| stats.partition_point(|stat| stat.process.pid < next));
        for index in (first..stats.len()).chain(0..first) {
            let stat = &stats[index];
            let Process { pid, ticks } = stat.process;
            let parent = Pid::new(stat.parent).filter(|parent| parent.raw() != self.own);
            let orphan = parent.is_none_or(|parent| snapshot.index(parent).is_none());
            if !orphan || facts.is_excluded(index) || !stat.alive() || facts.judge(index).is_some() {
                continue;
            }
            let relevant = if stat.parent == self.own { of_ours } else { of_init };
            if !relevant || self.strangers.get(&pid) == Some(&ticks) {
                continue;
            }
            if budget == 0 {
                self.ask_next = Some(pid);
                break;
            }
            budget -= 1;
            let agents_users = agents_users.get_or_insert_with(|| self.agents_users());
            match self.ask(stat, agents_users) {
                Answer::Marked(mark) => {
                    facts.edit(index).mark = Some(mark);
                    match facts.judge(index) {
                        Some(_) => marked.push(index),
                        None => self.strangers.insert(pid, ticks),
                    }
                }
                Answer::Stranger => self.strangers.insert(pid, ticks),
                Answer::Unknown => {}
            }
        }
    }

    /// Whether the environments of orphans that are children of the daemon, and of those that are children of init, can
    /// matter to any tree.
    fn relevant_orphans(&self) -> (bool, bool) {
        let mut open = self.trees.values().filter(|tree| !tree.grouped).map(|tree| tree.adopted).peekable();
        (open.peek().is_some(), open.any(|adopted| adopted))
    }

    /// The users of the agents that an environment can matter to.
    fn agents_users(&self) -> SortedSet<u32> {
        let open = self.trees.iter().filter(|(_, tree)| !tree.grouped);
        open.filter_map(|(name, _)| self.user(name)).map(|user| user.0).collect()
    }

    /// What the environment of an orphan says, as far as that is known. It is asked for only where the real, effective and
    /// saved user of the process are the same and one of `agents_users`.
    fn ask(&mut self, stat: &Stat, agents_users: &SortedSet<u32>) -> Answer {
        let Some(users) = proc::users(stat.process.pid) else { return Answer::Unknown };
        let user = users[0];
        if users != [user; 3] || !agents_users.contains(&user.0) {
            return Answer::Stranger;
        }
        if let Some(name) = self.named.get(&stat.process) {
            let Some(tree) = self.trees.get(name) else { return Answer::Stranger };
            return Answer::Marked(self.mark(name, tree, stat, users));
        }
        if !self.blocked.iter().any(|(other, until)| *other == user && *until > monotonic()) {
            self.questions.insert(stat.process, user);
        }
        Answer::Unknown
    }

    /// The processes whose environments are to be read, `most` at most. Each is to be answered by `answer` or `block`.
    pub fn questions(&self, most: usize) -> Vec<Process> {
        self.questions.keys().copied().take(most).collect()
    }

    /// Takes what the environment of a process says.
    pub fn answer(&mut self, process: Process, tag: ProcessTag) {
        if self.questions.remove(&process).is_none() {
            return;
        }
        match tag {
            ProcessTag::Agent(name) => self.named.insert(process, name),
            ProcessTag::Stranger => self.strangers.insert(process.pid, process.ticks),
            ProcessTag::Unknown => {}
        }
        self.forget_snapshot();
    }

    /// Notes that the environment of a process cannot be read: it belongs to no agent, and nothing of its user is asked about
    /// for a while.
    pub fn block(&mut self, process: Process) {
        let Some(user) = self.questions.remove(&process) else { return };
        self.strangers.insert(process.pid, process.ticks);
        self.questions.retain(|_, other| *other != user);
        self.blocked.retain(|(other, _)| *other != user);
        self.blocked.push((user, monotonic() + BLOCKED_TIME));
        self.forget_snapshot();
    }

    /// Whether answers are due about orphans that may be this agent's.
    pub fn is_asking(&self, name: &str) -> bool {
        let user = self.user(name);
        let open = self.questions.values().any(|asked| Some(*asked) == user);
        open && self.trees.get(name).is_some_and(|tree| !tree.grouped)
    }

    /// Whether a stop of this agent is to wait for such answers.
    pub fn waits_for_answers(&mut self, name: &str) -> bool {
        let asking = self.is_asking(name);
        self.trees.get_mut(name).filter(|_| asking).is_some_and(|tree| tree.run.answers.lasts(monotonic()))
    }

    /// The evidence for and against an orphan that names an agent.
    fn mark(&self, name: &str, tree: &Tree, stat: &Stat, users: [Uid; 3]) -> Mark {
        let leader = tree.main_process.map(|leader| leader.pid);
        Mark {
            agent: tree.id,
            users: Some(users),
            agent_user: self.user(name),
            outside_group: tree.grouped,
            same_groups: self.shares_groups(stat.process.pid, leader),
            our_child: stat.parent == self.own,
            adopted: tree.adopted,
        }
    }

    /// Whether a process is in the control groups of the daemon, or in those of an agent's main process. An agent that has
    /// no control group of its own runs in these.
    pub(super) fn shares_groups(&self, pid: Pid, leader: Option<Pid>) -> bool {
        let groups = proc::groups(pid.raw());
        let leader = leader.map(Pid::raw);
        [self.own].into_iter().chain(leader).any(|other| proc::groups(other) == groups)
    }

    /// The user an agent runs as.
    pub(super) fn user(&self, name: &str) -> Option<Uid> {
        self.users.get(name).copied().unwrap_or(Some(own_uid()))
    }
}

impl View {
    /// Notes which processes are in the control group of an agent, and lets their descendants belong to it. Returns those
    /// that started since the snapshot was taken.
    fn add_group(&mut self, agent: AgentId, pids: Vec<Pid>, own: i32) -> Vec<(Stat, Strength)> {
        let mut late = Vec::new();
        let mut fresh = Vec::new();
        for pid in pids {
            let Some(index) = self.snapshot.index(pid) else {
                late.extend(proc::stat(pid).map(|stat| (stat, Strength::Grouped)));
                continue;
            };
            let known = self.facts.judge(index);
            self.facts.edit(index).group = Some(agent);
            // The descendants of the others are known already.
            if known.is_none_or(|member| member.agent != agent || !member.strength.holds()) {
                fresh.push(index);
            }
        }
        if !fresh.is_empty() {
            let children = Index::new(self.snapshot.stats().iter().map(|stat| stat.parent));
            spread_surely(&self.snapshot, &children, &mut self.facts, fresh, own);
        }
        late
    }
}

/// Notes which processes descend from those at `open` or share their sessions, and so on from those.
fn spread_surely(snapshot: &Snapshot, children: &Index, facts: &mut FactTable, mut open: Vec<usize>, own: i32) {
    let stats = snapshot.stats();
    let sessions = Index::new(stats.iter().map(|stat| stat.session));
    let mut lent = SortedSet::new();
    // A child of ours is in our session until it has begun its own: others in that session are whoever started us, and what
    // else they started.
    lent.extend(Pid::new(own).and_then(|own| snapshot.find(own)).map(|stat| stat.session));
    let mut lenders = open.clone();
    loop {
        // Descent comes before sessions.
        while let Some(index) = open.pop() {
            let Some(member) = facts.judge(index).filter(|member| member.strength.holds()) else { continue };
            for child in children.of(stats[index].process.pid.raw()) {
                if stats[child].parent == own || facts.holds(child) {
                    continue;
                }
                facts.edit(child).parent = Some(member);
                if facts.holds(child) {
                    open.push(child);
                    lenders.push(child);
                }
            }
        }
        let Some(lender) = lenders.pop() else { return };
        let Stat { process, session, .. } = stats[lender];
        let member = facts.judge(lender).filter(|member| member.strength.lends_session());
        let Some(member) = member.filter(|_| session > 1 && !lent.contains(&session)) else { continue };
        let others: Vec<usize> = sessions.of(session).filter(|index| !facts.holds(*index)).collect();
        if others.is_empty() || !is_of_its_session(snapshot, process, session) {
            continue;
        }
        lent.insert(session);
        for other in others {
            facts.edit(other).session = Some(member.agent);
            if facts.holds(other) {
                open.push(other);
                lenders.push(other);
            }
        }
    }
}

/// Whether the session that a process was seen in is the session that others were seen in during the same pass. It is not
/// when the process has left it, or when a younger process has the id of its leader.
fn is_of_its_session(snapshot: &Snapshot, process: Process, session: i32) -> bool {
    let leader = Pid::new(session).and_then(|pid| snapshot.find(pid));
    let led = leader.is_none_or(|leader| leader.session == session && leader.process.ticks <= process.ticks);
    led && snapshot.is_still_in(process, session)
}
