//! Whose a process is: the one rule by which stops, signals, limits and adoption tell an agent's processes from others.
//!
//! Facts about one process in one look at the host go in, the agent and how surely the process is its come out. What is
//! proven (`Strength::holds`) gets signals, is waited for by a stop, counts as the agent's memory and processor time and
//! may be its main process. What only its environment ties to the agent, which anybody could have written, gets signals
//! and nothing else. How the facts are found out is `host::tree`'s affair.

use crate::kernel::Uid;

/// An agent, as whoever asks numbers them.
pub type AgentId = u32;

/// How surely a process is an agent's; each is surer than those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Strength {
    /// Its environment says so, or that of a process that it descends from.
    Marked,
    /// The same, and it is an orphan that became a child of the daemon: it descends from some agent.
    Orphan,
    /// It is in the agent's control group, where an administrator may have put it.
    Grouped,
    /// It is the main process, descends from it, or shares a session with one that does.
    Descended,
}

impl Strength {
    /// Whether it counts as the agent's in every respect, and not only for signals.
    pub fn holds(self) -> bool {
        self >= Strength::Grouped
    }

    /// Whether its session is one that the agent's processes have made.
    pub fn lends_session(self) -> bool {
        self == Strength::Descended
    }

    /// Whether the search for the main process of an agent that puts itself in the background may end at it. By then the
    /// line of its parents is gone, and without control groups nothing better than an orphan's word is left.
    pub fn may_lead(self) -> bool {
        self >= Strength::Orphan
    }
}

/// Whose a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// The agent.
    pub agent: AgentId,
    /// How surely.
    pub strength: Strength,
}

/// What is known of one process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// It is the daemon, a thread of the kernel, a helper or an installer, or descends from one of the last two.
    pub excluded: bool,
    /// The agent whose main process it is, by id and start time.
    pub main: Option<AgentId>,
    /// The agent in whose control group it is.
    pub group: Option<AgentId>,
    /// What it was at the last look, by id and start time.
    pub seen: Option<Member>,
    /// What its parent is.
    pub parent: Option<Member>,
    /// The agent of a process that is in the same session in this very look and lends it: the id of a session is given
    /// to nobody else for as long as one process is in it, and may be a stranger's right after.
    pub session: Option<AgentId>,
    /// What its environment says; asked only of an orphan, when all else is silent.
    pub mark: Option<Mark>,
}

/// What the environment of a process says, and what speaks for and against it.
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
    /// The process is in the control groups that the agent's processes are in when it has none of its own.
    pub same_groups: bool,
    /// The process is a child of the daemon.
    pub our_child: bool,
    /// Processes of the agent may be children of init: an earlier daemon started it.
    pub adopted: bool,
}

/// Whose the process is that these facts are about; `None`: no agent's.
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
    let sure = [facts.seen, facts.parent, session].into_iter().flatten().filter(holds);
    if let Some(agent) = facts.group {
        // The group says whose it is, the rest only how else it is that agent's.
        return sure.clone().find(|member| member.agent == agent).or(of(agent, Strength::Grouped));
    }
    if let Some(member) = sure.clone().next() {
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

/// An environment is whoever's who executed the program. A set-user-id program keeps that of its caller, so that all
/// three users must be the agent's; and even then it proves nothing.
fn judge_mark(mark: &Mark) -> Option<Member> {
    let user = mark.agent_user?;
    if mark.users? != [user; 3] || mark.outside_group || !mark.same_groups {
        return None;
    }
    let strength = match (mark.our_child, mark.adopted) {
        (true, _) => Strength::Orphan,
        (false, true) => Strength::Marked,
        // What an agent that we started leaves behind becomes our child.
        (false, false) => return None,
    };
    Some(Member { agent: mark.agent, strength })
}

#[cfg(test)]
mod tests {
    use super::Strength::{Descended, Grouped, Marked, Orphan};
    use super::*;

    const NOTHING: Facts =
        Facts { excluded: false, main: None, group: None, seen: None, parent: None, session: None, mark: None };

    /// What the environment of an orphan of ours says that is the agent's in every respect.
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
    fn what_is_surer_decides() {
        let strong = is(1, Descended);
        let weak = is(1, Marked);
        let mark = Some(GOOD);
        for (facts, want, why) in [
            (NOTHING, None, "nothing is known"),
            (Facts { main: Some(1), ..NOTHING }, strong, "the main process"),
            (Facts { main: Some(1), group: Some(2), ..NOTHING }, strong, "in another's group"),
            (Facts { main: Some(1), excluded: true, ..NOTHING }, None, "a helper is nobody's"),
            (Facts { parent: strong, excluded: true, ..NOTHING }, None, "nor is what it starts"),
            (Facts { mark, excluded: true, ..NOTHING }, None, "whatever it says"),
            (Facts { group: Some(1), ..NOTHING }, is(1, Grouped), "in the group"),
            (Facts { group: Some(1), parent: strong, ..NOTHING }, strong, "in the group, and descends"),
            (Facts { group: Some(1), parent: is(2, Descended), ..NOTHING }, is(1, Grouped), "moved into the group"),
            (Facts { group: Some(1), seen: is(2, Descended), ..NOTHING }, is(1, Grouped), "the same, later"),
            (Facts { group: Some(1), session: Some(1), ..NOTHING }, strong, "in the group and the session"),
            (Facts { group: Some(2), mark, ..NOTHING }, is(2, Grouped), "a mark against the group"),
            (Facts { seen: strong, ..NOTHING }, strong, "seen before"),
            (Facts { seen: strong, parent: is(2, Descended), ..NOTHING }, strong, "adopted by another's subreaper"),
            (Facts { parent: strong, ..NOTHING }, strong, "descends"),
            (Facts { parent: is(1, Grouped), ..NOTHING }, is(1, Grouped), "descends from one of the group"),
            (Facts { parent: strong, mark: Some(Mark { agent: 2, ..GOOD }), ..NOTHING }, strong, "and says otherwise"),
            (Facts { session: Some(1), ..NOTHING }, strong, "in a session"),
            (Facts { session: Some(1), seen: weak, ..NOTHING }, strong, "surer than before"),
            (Facts { session: Some(1), parent: is(2, Marked), ..NOTHING }, strong, "surer than its parent's word"),
            (Facts { seen: is(1, Orphan), ..NOTHING }, is(1, Orphan), "still an orphan"),
            (Facts { parent: is(1, Orphan), ..NOTHING }, weak, "a child of an orphan"),
            (Facts { parent: weak, ..NOTHING }, weak, "a child of one that says so"),
            (Facts { mark, ..NOTHING }, is(1, Orphan), "an orphan that says so"),
        ] {
            assert_eq!(judge(&facts), want, "{why}");
        }
    }

    #[test]
    fn a_mark_is_believed_of_the_agents_own_user_only_and_never_against_a_group() {
        let users = |real, effective, saved| Some([Uid(real), Uid(effective), Uid(saved)]);
        let root = Mark { agent_user: Some(Uid(0)), ..GOOD };
        let of_init = Mark { our_child: false, ..GOOD };
        for (mark, want, why) in [
            (GOOD, is(1, Orphan), "our child"),
            (Mark { adopted: true, ..GOOD }, is(1, Orphan), "our child, of an agent taken over"),
            (Mark { adopted: true, ..of_init }, is(1, Marked), "init's, of an agent taken over"),
            (of_init, None, "init's, of an agent that we started"),
            (Mark { users: users(200, 200, 200), ..GOOD }, None, "another agent's orphan"),
            (Mark { users: users(200, 0, 0), ..root }, None, "su that waits for a password"),
            (Mark { users: users(0, 200, 0), ..root }, None, "a set-user-id program that gave root up for now"),
            (Mark { users: users(0, 0, 200), ..root }, None, "one that kept its caller to go back to"),
            (Mark { users: users(0, 0, 0), ..root }, is(1, Orphan), "root's own"),
            (Mark { users: users(0, 0, 0), ..GOOD }, None, "root's, of an agent of another user"),
            (Mark { users: users(100, 100, 100), ..root }, None, "a user's, of an agent of root"),
            (Mark { users: users(65_534, 65_534, 65_534), ..root }, None, "root of another user namespace"),
            (Mark { users: None, ..GOOD }, None, "nobody knows whose"),
            (Mark { agent_user: None, ..GOOD }, None, "nobody knows the agent's user"),
            (Mark { users: None, agent_user: None, ..GOOD }, None, "nobody knows either"),
            (Mark { outside_group: true, ..GOOD }, None, "the agent has a group"),
            (Mark { same_groups: false, ..GOOD }, None, "in a user's slice, another agent's group or a container"),
            (Mark { same_groups: false, adopted: true, ..of_init }, None, "the same, of an agent taken over"),
        ] {
            assert_eq!(judge(&Facts { mark: Some(mark), ..NOTHING }), want, "{why}");
        }
    }

    #[test]
    fn a_mark_holds_nothing() {
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
