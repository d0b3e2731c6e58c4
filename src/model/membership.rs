//! Which agent a process belongs to: the one rule for stops, signals, limits and taking over.
//!
//! Facts about one process, from one scan of the host, come in; the agent and the strength of the evidence come out. A
//! process with proof (`Strength::holds`) gets signals, is waited for by every stop, counts toward the agent's memory and
//! processor time, and may be its main process. Without proof there is only an environment, and any program can have any
//! environment: such a process gets signals, does not count, and a stop waits for it once at most. An `Orphan` of them may be
//! taken for the main process of a forking agent (`Strength::may_lead`). `host::tree` collects the facts.
//!
//! An agent may spare the processes that its earlier runs have left (`extend_spared`). They belong to it and count like all
//! others, but only what ends or counts its whole tree (`Scope::Tree`) sends them signals and waits for them, and none of them
//! is ever taken for its main process.

use crate::kernel::{Process, Uid};
use crate::sorted_map::{Index, SortedSet};

/// The number of an agent, which the caller assigns.
pub type AgentId = u32;

/// How strong the evidence is that a process belongs to an agent, the weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Strength {
    /// Its environment names the agent, or that of a process that it descends from does.
    Marked,
    /// The same, and it is an orphan that became a child of the daemon: it descends from some agent.
    Orphan,
    /// It is in the agent's control group, where an administrator may have put it, or descends from such a process.
    Grouped,
    /// It is the main process, descends from it, or is in a session with a process that does.
    Descended,
}

impl Strength {
    /// Whether the process counts as the agent's in every respect, and not only for signals.
    pub fn holds(self) -> bool {
        self >= Strength::Grouped
    }

    /// Whether other processes in its session belong to the agent too, as the agent's processes have made that session.
    pub fn lends_session(self) -> bool {
        self == Strength::Descended
    }

    /// Whether the process may be taken for the main process of a forking agent. By then its parents have ended, and without
    /// control groups there is no better evidence than an orphan's environment.
    pub fn may_lead(self) -> bool {
        self >= Strength::Orphan
    }
}

/// The agent that a process belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// The agent.
    pub agent: AgentId,
    /// How strong the evidence is.
    pub strength: Strength,
}

/// What is known about one process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// It belongs to no agent: it is the daemon, its keeper, a kernel thread, a helper or an installer, or descends from one of
    /// the last two.
    pub excluded: bool,
    /// The agent whose main process it is, by process id and start time.
    pub main: Option<AgentId>,
    /// The agent in whose control group it is.
    pub group: Option<AgentId>,
    /// What the last scan decided about it, by process id and start time.
    pub seen: Option<Member>,
    /// What this scan has decided about its parent.
    pub parent: Option<Member>,
    /// The agent of another process in the same session that lends it, `Strength::lends_session`. That process must be alive
    /// in this scan: a session id stays in use while a process has it, and may be another session's right after.
    pub session: Option<AgentId>,
    /// What its environment says; it is read only where no other fact decides, for orphans and for what an earlier daemon left.
    pub mark: Option<Mark>,
}

/// The agent that the environment of a process names, and the evidence for and against it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The agent it names.
    pub agent: AgentId,
    /// The real, effective and saved user of the process; `None` when they could not be read.
    pub users: Option<[Uid; 3]>,
    /// The user the agent runs as; `None` when it is not known.
    pub agent_user: Option<Uid>,
    /// The agent has a control group, and this process is not in it.
    pub outside_group: bool,
    /// The process is in the control groups of the daemon or of the agent's main process.
    pub same_groups: bool,
    /// The process is a child of the daemon.
    pub our_child: bool,
    /// An earlier daemon started the agent, so that orphans of it may be children of init.
    pub adopted: bool,
}

/// Decides which agent a process belongs to; `None`: to none.
pub fn judge(facts: &Facts) -> Option<Member> {
    let of = |agent: AgentId, strength: Strength| Some(Member { agent, strength });
    let holds = |member: &Member| member.strength.holds();
    if facts.excluded {
        return None;
    }
    if let Some(agent) = facts.main {
        return of(agent, Strength::Descended);
    }
    let session = facts.session.and_then(|agent| of(agent, Strength::Descended));
    let mut proven = [facts.seen, facts.parent, session].into_iter().flatten().filter(holds);
    if let Some(agent) = facts.group {
        // The group decides about the agent; the other facts can only make the evidence for this agent stronger.
        return proven.find(|member| member.agent == agent).or(of(agent, Strength::Grouped));
    }
    if let Some(member) = proven.next() {
        return Some(member);
    }
    if let Some(member) = facts.seen {
        return Some(member);
    }
    if let Some(member) = facts.parent {
        return of(member.agent, Strength::Marked);
    }
    facts.mark.as_ref().and_then(judge_mark)
}

/// Decides by the environment of a process alone. Whoever executes a program chooses its environment, and a set-user-id
/// program has the environment of its caller: so all three users of the process must be the agent's, and even then the
/// environment is no proof.
fn judge_mark(mark: &Mark) -> Option<Member> {
    let user = mark.agent_user?;
    if mark.users? != [user; 3] || mark.outside_group || !mark.same_groups {
        return None;
    }
    let strength = match (mark.our_child, mark.adopted) {
        (true, _) => Strength::Orphan,
        (false, true) => Strength::Marked,
        // Orphans of an agent that this daemon started become children of the daemon.
        (false, false) => return None,
    };
    Some(Member { agent: mark.agent, strength })
}

/// A process of an agent, with what shows which others it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kin {
    /// The process.
    pub process: Process,
    /// The id of its parent.
    pub parent: i32,
    /// The id of its session.
    pub session: i32,
}

/// Adds to `spared`, the processes that earlier runs of an agent have left, those that descend from them or share a session
/// with them. No process of the present run is among these, as each run begins a session of its own. `tree`: the processes of
/// the agent without its main process.
pub fn extend_spared(spared: &mut SortedSet<Process>, tree: &[Kin]) {
    let children = Index::new(tree.iter().map(|kin| kin.parent));
    let sessions = Index::new(tree.iter().map(|kin| kin.session));
    let mut is_spared: Vec<bool> = tree.iter().map(|kin| spared.contains(&kin.process)).collect();
    let mut open: Vec<usize> = (0..tree.len()).filter(|index| is_spared[*index]).collect();
    let mut seen = SortedSet::new();
    while let Some(index) = open.pop() {
        let Kin { process, session, .. } = tree[index];
        // A session that cannot be seen from here is 0, which shows nothing.
        let fresh = (session > 0 && seen.insert(session)).then(|| sessions.of(session));
        for other in children.of(process.pid.raw()).chain(fresh.into_iter().flatten()) {
            if !std::mem::replace(&mut is_spared[other], true) {
                open.push(other);
            }
        }
    }
    spared.extend(tree.iter().zip(is_spared).filter(|(_, is)| *is).map(|(kin, _)| kin.process));
}

#[cfg(test)]
mod tests {
    use super::Strength::{Descended, Grouped, Marked, Orphan};
    use super::*;
    use crate::kernel::Pid;

    const NOTHING: Facts =
        Facts { excluded: false, main: None, group: None, seen: None, parent: None, session: None, mark: None };

    /// The environment of a child of the daemon that belongs to the agent: nothing speaks against it.
    const GOOD: Mark = Mark {
        agent: 1,
        users: Some([Uid(100); 3]),
        agent_user: Some(Uid(100)),
        outside_group: false,
        same_groups: true,
        our_child: true,
        adopted: false,
    };

    fn is(agent: AgentId, strength: Strength) -> Option<Member> {
        Some(Member { agent, strength })
    }

    #[test]
    fn the_strongest_evidence_decides() {
        let strong = is(1, Descended);
        let weak = is(1, Marked);
        let mark = Some(GOOD);
        for (facts, want, why) in [
            (NOTHING, None, "nothing is known"),
            (Facts { main: Some(1), ..NOTHING }, strong, "the main process"),
            (Facts { main: Some(1), group: Some(2), ..NOTHING }, strong, "the main process, in another agent's group"),
            (Facts { main: Some(1), excluded: true, ..NOTHING }, None, "a helper belongs to no agent"),
            (Facts { parent: strong, excluded: true, ..NOTHING }, None, "nor does a child of a helper"),
            (Facts { mark, excluded: true, ..NOTHING }, None, "nor does a helper with an agent's environment"),
            (Facts { group: Some(1), ..NOTHING }, is(1, Grouped), "in the group"),
            (Facts { group: Some(1), parent: strong, ..NOTHING }, strong, "in the group, and descends"),
            (Facts { group: Some(1), parent: is(2, Descended), ..NOTHING }, is(1, Grouped), "moved into the group"),
            (
                Facts { group: Some(1), seen: is(2, Descended), ..NOTHING },
                is(1, Grouped),
                "moved into the group, seen before",
            ),
            (Facts { group: Some(1), session: Some(1), ..NOTHING }, strong, "in the group and the session"),
            (
                Facts { group: Some(2), mark, ..NOTHING },
                is(2, Grouped),
                "the environment names another agent than the group",
            ),
            (Facts { seen: strong, ..NOTHING }, strong, "seen before"),
            (
                Facts { seen: strong, parent: is(2, Descended), ..NOTHING },
                strong,
                "adopted by another agent's subreaper",
            ),
            (Facts { parent: strong, ..NOTHING }, strong, "descends"),
            (Facts { parent: is(1, Grouped), ..NOTHING }, is(1, Grouped), "descends from one of the group"),
            (
                Facts { parent: strong, mark: Some(Mark { agent: 2, ..GOOD }), ..NOTHING },
                strong,
                "descends, and its environment names another",
            ),
            (Facts { session: Some(1), ..NOTHING }, strong, "in a session"),
            (Facts { session: Some(1), seen: weak, ..NOTHING }, strong, "stronger than before"),
            (Facts { session: Some(1), parent: is(2, Marked), ..NOTHING }, strong, "stronger than its parent"),
            (Facts { seen: is(1, Orphan), ..NOTHING }, is(1, Orphan), "still an orphan"),
            (Facts { parent: is(1, Orphan), ..NOTHING }, weak, "a child of an orphan"),
            (Facts { parent: weak, ..NOTHING }, weak, "a child of a process with the environment"),
            (Facts { mark, ..NOTHING }, is(1, Orphan), "an orphan with the environment"),
        ] {
            assert_eq!(judge(&facts), want, "{why}");
        }
    }

    #[test]
    fn an_environment_counts_only_with_the_agents_user_and_not_against_a_group() {
        let users = |real, effective, saved| Some([Uid(real), Uid(effective), Uid(saved)]);
        let root = Mark { agent_user: Some(Uid(0)), ..GOOD };
        let of_init = Mark { our_child: false, ..GOOD };
        for (mark, want, why) in [
            (GOOD, is(1, Orphan), "a child of the daemon"),
            (Mark { adopted: true, ..GOOD }, is(1, Orphan), "a child of the daemon, of an agent taken over"),
            (Mark { adopted: true, ..of_init }, is(1, Marked), "a child of init, of an agent taken over"),
            (of_init, None, "a child of init, of an agent that this daemon started"),
            (Mark { users: users(200, 200, 200), ..GOOD }, None, "another agent's orphan"),
            (Mark { users: users(200, 0, 0), ..root }, None, "su that waits for a password"),
            (Mark { users: users(0, 200, 0), ..root }, None, "a set-user-id program that gave up root for now"),
            (Mark { users: users(0, 0, 200), ..root }, None, "a set-user-id program that can go back to its caller"),
            (Mark { users: users(0, 0, 0), ..root }, is(1, Orphan), "root's own"),
            (Mark { users: users(0, 0, 0), ..GOOD }, None, "root's, of an agent of another user"),
            (Mark { users: users(100, 100, 100), ..root }, None, "a user's, of an agent of root"),
            (Mark { users: users(65_534, 65_534, 65_534), ..root }, None, "root of another user namespace"),
            (Mark { users: None, ..GOOD }, None, "the users of the process are unknown"),
            (Mark { agent_user: None, ..GOOD }, None, "the agent's user is unknown"),
            (Mark { users: None, agent_user: None, ..GOOD }, None, "both are unknown"),
            (Mark { outside_group: true, ..GOOD }, None, "the agent has a group"),
            (Mark { same_groups: false, ..GOOD }, None, "in a user's slice, another agent's group or a container"),
            (Mark { same_groups: false, adopted: true, ..of_init }, None, "the same, of an agent taken over"),
        ] {
            assert_eq!(judge(&Facts { mark: Some(mark), ..NOTHING }), want, "{why}");
        }
    }

    #[test]
    fn what_earlier_runs_have_left_begets_more_of_it() {
        let kin = |pid: i32, parent, session| Kin {
            process: Process { pid: Pid::new(pid).unwrap(), ticks: 1 },
            parent,
            session,
        };
        // Process 10 was left, 20 is the main process, which is not among these.
        let tree = [
            kin(10, 1, 10),
            kin(11, 10, 10),
            kin(12, 11, 12),
            kin(13, 1, 12),
            kin(14, 1, 14),
            kin(21, 20, 20),
            kin(22, 21, 22),
        ];
        for (left, want) in
            [(vec![], vec![]), (vec![10], vec![10, 11, 12, 13]), (vec![12], vec![12, 13]), (vec![14], vec![14])]
        {
            let known = |pid: &i32| Process { pid: Pid::new(*pid).unwrap(), ticks: 1 };
            let mut spared: SortedSet<Process> = left.iter().map(known).collect();
            extend_spared(&mut spared, &tree);
            assert_eq!(spared.into_iter().map(|process| process.pid.raw()).collect::<Vec<_>>(), want, "{left:?}");
        }
    }

    #[test]
    fn an_environment_alone_is_no_proof() {
        for (strength, holds, leads, lends) in [
            (Marked, false, false, false),
            (Orphan, false, true, false),
            (Grouped, true, true, false),
            (Descended, true, true, true),
        ] {
            let got = (strength.holds(), strength.may_lead(), strength.lends_session());
            assert_eq!(got, (holds, leads, lends), "{strength:?}");
        }
    }
}
