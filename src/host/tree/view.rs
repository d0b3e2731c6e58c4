//! Whose each process of the host is: one pass over /proc in a turn of the loop gives the facts, `model::membership` says
//! what they mean.
//!
//! What is surer is found out first: main processes and what was seen before, then what descends from that or shares its
//! sessions, and only for orphans that are nobody's then their environments, for which there is a budget in each look.

use super::{Tree, Trees};
use crate::host::limits::Limits;
use crate::host::proc::{self, Snapshot, Stat};
use crate::kernel::{Pid, Process, Uid};
use crate::model::membership::{judge, AgentId, Facts, Mark, Member, Strength};
use crate::sorted_map::{SortedMap, SortedSet};
use crate::sys::account::own_uid;

/// So many orphans are asked who they are in one look, so many bytes of their environments are read before the rest waits
/// for the next look, and so often one that is just being executed is let go on first.
const ASKED: usize = 256;
const ASKED_BYTES: usize = 1 << 20;
const EXECUTING: usize = 50;

/// One pass over /proc, and whose each process is.
#[derive(Debug)]
pub(super) struct View {
    pub(super) snapshot: Snapshot,
    pub(super) facts: Vec<Facts>,
    /// What the facts mean.
    members: Vec<Option<Member>>,
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

/// What one look may still spend on asking orphans.
struct Budget {
    asked: usize,
    bytes: usize,
    executing: usize,
}

/// What came of asking an orphan.
enum Asked {
    Says(Mark),
    /// It is nobody's, and will be nobody's.
    Stranger,
    /// That could not be told.
    Unknown,
}

/// The processes of a snapshot by something that several of them share.
struct Index(Vec<(i32, usize)>);

impl Index {
    fn new(stats: &[Stat], key: fn(&Stat) -> i32) -> Index {
        let mut pairs: Vec<(i32, usize)> = stats.iter().enumerate().map(|(index, stat)| (key(stat), index)).collect();
        pairs.sort_unstable();
        Index(pairs)
    }

    fn of(&self, key: i32) -> impl Iterator<Item = usize> + '_ {
        let first = self.0.partition_point(|(known, _)| *known < key);
        self.0[first..].iter().take_while(move |(known, _)| *known == key).map(|(_, index)| *index)
    }
}

impl Trees {
    /// All processes of one tree in this turn's view, and how surely each is of it.
    pub(super) fn collect(&mut self, name: &str, limits: &Limits, depth: Depth) -> Vec<(Stat, Strength)> {
        let Some(tree) = self.trees.get_mut(name) else { return Vec::new() };
        let (id, leader, adopted) = (tree.id, tree.main_process, tree.adopted);
        let group = limits.members(name);
        tree.grouped = group.is_some();
        let (grouped, outside) = (group.unwrap_or_default(), tree.grouped);
        self.snapshot_view(depth);
        let (own, ours) = (self.own, &self.ours);
        let may = |pid: Pid| pid.raw() != own && !ours.contains(&pid);
        let Some(view) = self.view.as_mut() else { return Vec::new() };
        let mut members = Vec::new();
        if view.snapshot.fault().is_some() {
            // Nothing is known but the group, and our own child, whose id is its own until we reap it.
            let child = leader.filter(|_| !adopted).map(|leader| leader.pid);
            let pids: SortedSet<Pid> = grouped.into_iter().chain(child).filter(|pid| may(*pid)).collect();
            let unread = |pid| (Stat::unread(Process { pid, ticks: 0 }, 0, 0), Strength::Grouped);
            members.extend(pids.into_iter().map(unread));
            return members;
        }
        let mut fresh = Vec::new();
        for pid in grouped.into_iter().filter(|pid| may(*pid)) {
            match view.snapshot.index(pid) {
                Some(index) => {
                    let known = view.members[index];
                    view.facts[index].group = Some(id);
                    // What descends from the others is known already.
                    if known.is_none_or(|member| member.agent != id || !member.strength.holds()) {
                        fresh.push(index);
                    }
                }
                None => members.extend(proc::stat(pid).map(|stat| (stat, Strength::Grouped))),
            }
        }
        view.spread(fresh, own);
        for (stat, member) in view.snapshot.stats().iter().zip(&view.members) {
            match *member {
                // A mark counts for nothing where the agent has a control group.
                Some(Member { agent, strength }) if agent == id && (strength.holds() || !outside) => {
                    members.push((*stat, strength));
                }
                _ => {}
            }
        }
        members.sort_unstable_by_key(|(stat, _)| stat.process.pid);
        if let Some(tree) = self.trees.get_mut(name) {
            tree.remember(&members);
        }
        members
    }

    /// This turn's view, at least so deep.
    pub(super) fn snapshot_view(&mut self, depth: Depth) -> &View {
        if self.view.as_ref().is_some_and(|view| view.depth < depth) {
            self.view = None;
        }
        if self.view.is_none() {
            let known = self.trees.values().map(|tree| tree.seen.len() + 1).sum::<usize>();
            // Following the lists of children costs about three times as much for each process as the pass over all.
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
        }
        let facts = self.resolve(&snapshot);
        let view = View { snapshot, members: facts.iter().map(judge).collect(), facts, depth };
        let mut members: SortedMap<AgentId, Vec<(Stat, Strength)>> = SortedMap::new();
        for (stat, member) in view.snapshot.stats().iter().zip(&view.members) {
            if let Some(Member { agent, strength }) = *member {
                members.or_insert_with(agent, Vec::new).push((*stat, strength));
            }
        }
        for tree in self.trees.values_mut().filter(|_| view.snapshot.fault().is_none()) {
            tree.remember(members.get(&tree.id).map_or(&[], Vec::as_slice));
        }
        self.view = Some(view);
    }

    /// What is known of each process of a snapshot, control groups apart.
    fn resolve(&mut self, snapshot: &Snapshot) -> Vec<Facts> {
        let stats = snapshot.stats();
        let mut facts = vec![Facts::default(); stats.len()];
        let children = Index::new(stats, |stat| stat.parent);
        self.exclude(stats, &children, &mut facts);
        for tree in self.trees.values() {
            let at = |process: Process| snapshot.index(process.pid).filter(|index| stats[*index].process == process);
            for (process, strength) in &tree.seen {
                if let Some(index) = at(*process) {
                    facts[index].seen = Some(Member { agent: tree.id, strength: *strength });
                }
            }
            if let Some(index) = tree.main_process.and_then(at) {
                facts[index].main = Some(tree.id);
            }
        }
        let held: Vec<usize> = (0..stats.len()).filter(|index| holds(&facts[*index])).collect();
        spread_surely(snapshot, &children, &mut facts, held, self.own);
        let mut marked: Vec<usize> = (0..stats.len()).filter(|index| facts[*index].seen.is_some()).collect();
        marked.retain(|index| !holds(&facts[*index]));
        self.ask_orphans(snapshot, &mut facts, &mut marked);
        while let Some(index) = marked.pop() {
            let Some(member) = judge(&facts[index]) else { continue };
            for child in children.of(stats[index].process.pid.raw()) {
                if facts[child].parent.is_none() && judge(&facts[child]).is_none() {
                    facts[child].parent = Some(member);
                    marked.push(child);
                }
            }
        }
        facts
    }

    /// Notes who is in no tree: ourselves, the kernel, our helpers and installers with what descends from them.
    fn exclude(&self, stats: &[Stat], children: &Index, facts: &mut [Facts]) {
        let mut open = Vec::new();
        for (index, stat) in stats.iter().enumerate() {
            let pid = stat.process.pid;
            facts[index].excluded = stat.kernel || pid.raw() == self.own;
            if self.ours.contains(&pid) {
                facts[index].excluded = true;
                open.push(pid);
            }
        }
        while let Some(pid) = open.pop() {
            for child in children.of(pid.raw()) {
                if !facts[child].excluded {
                    facts[child].excluded = true;
                    open.push(stats[child].process.pid);
                }
            }
        }
    }

    /// Asks the orphans that are nobody's so far who they are, as far as the budget goes; where it ended the next look goes
    /// on. Adds those that name an agent to `marked`.
    fn ask_orphans(&mut self, snapshot: &Snapshot, facts: &mut [Facts], marked: &mut Vec<usize>) {
        let stats = snapshot.stats();
        let mut budget = Budget { asked: ASKED, bytes: ASKED_BYTES, executing: EXECUTING };
        let (of_ours, of_init) = self.may_be_told();
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
            if !orphan || facts[index].excluded || !stat.alive() || judge(&facts[index]).is_some() {
                continue;
            }
            let matters = if stat.parent == self.own { of_ours } else { of_init };
            if !matters || self.strangers.get(&pid) == Some(&ticks) {
                continue;
            }
            if budget.asked == 0 || budget.bytes == 0 {
                self.ask_next = Some(pid);
                break;
            }
            budget.asked -= 1;
            let said = self.ask(stat, agents_users.get_or_insert_with(|| self.agents_users()), &mut budget);
            if let Asked::Says(mark) = said {
                facts[index].mark = Some(mark);
            }
            match (said, judge(&facts[index])) {
                (Asked::Unknown, _) => {}
                (Asked::Says(_), Some(_)) => marked.push(index),
                (Asked::Says(_) | Asked::Stranger, _) => self.strangers.insert(pid, ticks),
            }
        }
    }

    /// Whether what orphans of ours, and those of init, say can matter to any tree.
    fn may_be_told(&self) -> (bool, bool) {
        let mut open = self.trees.values().filter(|tree| !tree.grouped).map(|tree| tree.adopted).peekable();
        (open.peek().is_some(), open.any(|adopted| adopted))
    }

    /// The users of the agents to whom an environment can matter.
    fn agents_users(&self) -> SortedSet<u32> {
        let open = self.trees.iter().filter(|(_, tree)| !tree.grouped);
        open.filter_map(|(name, _)| self.user(name)).map(|user| user.0).collect()
    }

    /// What an orphan's environment says. That is read only if it runs as one of these users in every respect.
    fn ask(&self, stat: &Stat, agents_users: &SortedSet<u32>, budget: &mut Budget) -> Asked {
        let pid = stat.process.pid;
        let Some(users) = proc::users(pid) else { return Asked::Unknown };
        if users != [users[0]; 3] || !agents_users.contains(&users[0].0) {
            return Asked::Stranger;
        }
        loop {
            let (said, length) = proc::process_tag(pid, &self.state_dir);
            budget.bytes = budget.bytes.saturating_sub(length);
            match said {
                proc::ProcessTag::Agent(name) => {
                    let Some(tree) = self.trees.get(&name) else { return Asked::Stranger };
                    return Asked::Says(self.mark(&name, tree, stat, users));
                }
                proc::ProcessTag::Stranger => return Asked::Stranger,
                proc::ProcessTag::Executing if budget.executing > 0 => {
                    budget.executing -= 1;
                    std::thread::yield_now();
                }
                proc::ProcessTag::Executing | proc::ProcessTag::Unknown => return Asked::Unknown,
            }
        }
    }

    /// What speaks for and against an orphan that names an agent.
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

    /// Whether a process is in the control groups that we are in, or an agent's main process is: those of an agent that has
    /// none of its own.
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
    /// Lets what these processes are, as a control group says, pass to what descends from them.
    fn spread(&mut self, fresh: Vec<usize>, own: i32) {
        if !fresh.is_empty() {
            let children = Index::new(self.snapshot.stats(), |stat| stat.parent);
            spread_surely(&self.snapshot, &children, &mut self.facts, fresh, own);
            self.members = self.facts.iter().map(judge).collect();
        }
    }
}

fn holds(facts: &Facts) -> bool {
    judge(facts).is_some_and(|member| member.strength.holds())
}

/// Notes what descends from the processes at `open` or shares their sessions, and from those in turn.
fn spread_surely(snapshot: &Snapshot, children: &Index, facts: &mut [Facts], mut open: Vec<usize>, own: i32) {
    let stats = snapshot.stats();
    let sessions = Index::new(stats, |stat| stat.session);
    let mut lent = SortedSet::new();
    let mut lenders = open.clone();
    loop {
        // Descent before sessions.
        while let Some(index) = open.pop() {
            let Some(member) = judge(&facts[index]).filter(|member| member.strength.holds()) else { continue };
            for child in children.of(stats[index].process.pid.raw()) {
                if stats[child].parent != own && !holds(&facts[child]) {
                    facts[child].parent = Some(member);
                    if holds(&facts[child]) {
                        open.push(child);
                        lenders.push(child);
                    }
                }
            }
        }
        let Some(lender) = lenders.pop() else { return };
        let Stat { process, session, .. } = stats[lender];
        let member = judge(&facts[lender]).filter(|member| member.strength.lends_session());
        let Some(member) = member.filter(|_| session > 1 && !lent.contains(&session)) else { continue };
        let others: Vec<usize> = sessions.of(session).filter(|index| !holds(&facts[*index])).collect();
        if others.is_empty() || !is_of_its_session(snapshot, process, session) {
            continue;
        }
        lent.insert(session);
        for other in others {
            facts[other].session = Some(member.agent);
            if holds(&facts[other]) {
                open.push(other);
                lenders.push(other);
            }
        }
    }
}

/// Whether the session that a process was seen in is the same one that others were seen in during the same pass: neither has
/// the process left it, nor has its leader's id a process that is younger.
fn is_of_its_session(snapshot: &Snapshot, process: Process, session: i32) -> bool {
    let leader = Pid::new(session).and_then(|pid| snapshot.find(pid));
    let led = leader.is_none_or(|leader| leader.session == session && leader.process.ticks <= process.ticks);
    led && snapshot.is_still_in(process, session)
}
