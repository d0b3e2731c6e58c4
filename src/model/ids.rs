//! Whom a helper runs as: a user id of its own, where the host has a range of ids that nobody else uses.
//!
//! What the host says comes in as `HostIds`. Whether a process has an id at the moment is asked when one is taken, by the
//! caller's own means. Nothing here touches the host.

use crate::kernel::{Gid, Uid};

/// User or group ids that follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdRange {
    /// The first one.
    pub first: u32,
    /// How many there are.
    pub count: u32,
}

impl IdRange {
    const fn end(self) -> u64 {
        self.first as u64 + self.count as u64
    }

    fn holds(self, id: u32) -> bool {
        id >= self.first && u64::from(id) < self.end()
    }

    fn meets(self, other: IdRange) -> bool {
        u64::from(self.first) < other.end() && u64::from(other.first) < self.end()
    }

    fn is_within(self, other: IdRange) -> bool {
        self.first >= other.first && self.end() <= other.end()
    }
}

/// Where helpers may find their ids, the best range first. systemd leaves 1879048192 to 2147352575 and 60706 to 61183 to
/// nobody: 61184 to 65519 are its dynamic users, 524288 to 1879048191 its containers'. Subordinate ids begin at 100000 and
/// end below 600100000, and what directory services map ends at 2000200000. The last range is for containers that have
/// 65536 ids.
pub const RANGES: [IdRange; 3] = [
    IdRange { first: 2_100_000_000, count: 65_536 },
    IdRange { first: 2_050_000_000, count: 65_536 },
    IdRange { first: 60_706, count: 478 },
];

/// The user that stands for nobody in particular, where there is no range.
const NOBODY: u32 = 65_534;

/// What the host says about its ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostIds {
    /// Whether we are root, and may run others as whom we like.
    pub root: bool,
    /// Ids of users and groups that have a name.
    pub accounts: Vec<u32>,
    /// Ids that were given to users for their containers.
    pub granted: Vec<IdRange>,
    /// The user ids there are in our user namespace.
    pub users: Vec<IdRange>,
    /// The group ids there are in our user namespace.
    pub groups: Vec<IdRange>,
}

impl HostIds {
    /// The first range that exists here as a whole, and in which nobody has an id.
    pub fn free_range(&self) -> Option<IdRange> {
        let free = |range: &IdRange| {
            self.has(*range)
                && !self.accounts.iter().any(|id| range.holds(*id))
                && !self.granted.iter().any(|granted| granted.meets(*range))
        };
        RANGES.into_iter().find(free)
    }

    /// Whether all these ids exist in our user namespace, as users and as groups.
    fn has(&self, range: IdRange) -> bool {
        [&self.users, &self.groups].iter().all(|mapped| mapped.iter().any(|mapped| range.is_within(*mapped)))
    }
}

/// Whom a kind of helper runs as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunsAs {
    /// Each as a user id of its own.
    OwnId,
    /// This user and group.
    User(Uid, Gid),
    /// The user of the daemon.
    Daemon,
}

/// Whom helpers run as on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What reads from the network.
    pub network: RunsAs,
    /// What judges bytes. Never the user of `network`, where we have a choice.
    pub judge: RunsAs,
    /// Where the ids of their own come from.
    pub range: Option<IdRange>,
}

/// Decides whom helpers run as; `configured` is the user of the configuration, where it names one.
pub fn plan(ids: &HostIds, configured: Option<(Uid, Gid)>) -> Plan {
    if !ids.root {
        return Plan { network: RunsAs::Daemon, judge: RunsAs::Daemon, range: None };
    }
    let range = ids.free_range();
    let judge = range.map_or(RunsAs::Daemon, |_| RunsAs::OwnId);
    let network = match configured {
        Some((uid, gid)) => RunsAs::User(uid, gid),
        None if range.is_some() => RunsAs::OwnId,
        None if ids.has(IdRange { first: NOBODY, count: 1 }) => RunsAs::User(Uid(NOBODY), Gid(NOBODY)),
        None => RunsAs::Daemon,
    };
    Plan { network, judge, range }
}

/// What the plan costs, for people; nothing where each helper has an id of its own. `helper_user` is the configured one.
pub fn warning(plan: &Plan, root: bool, helper_user: Option<&str>) -> Option<String> {
    if !root {
        return Some(
            "the daemon does not run as root, or may not change its user: what reads from the network and what verifies packages run as its own user, \
             whose other processes can take them over"
                .to_string(),
        );
    }
    let no_range = "no range of user ids is free for helpers (see /proc/self/uid_map, /etc/passwd, /etc/subuid)";
    match (plan.network, helper_user) {
        // What is to be said about that user is said elsewhere.
        (RunsAs::User(Uid(0), _), _) | (RunsAs::OwnId, _) => None,
        (RunsAs::User(..), Some(name)) => Some(format!(
            "helper_user: what reads from the network runs as \"{name}\", and other processes of that user can stop it: \
             leave helper_user out, and each helper runs as a user id of its own"
        )),
        (RunsAs::User(uid, _), None) => Some(format!(
            "{no_range}: what reads from the network runs as user {}, whose other processes can stop it, and what \
             verifies packages runs as root",
            uid.0
        )),
        (RunsAs::Daemon, _) => Some(format!("{no_range}: what reads from the network runs as root")),
    }
}

/// Hands out user ids of a range, one after the other, so that none comes again soon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    range: IdRange,
    next: u32,
}

/// So many ids are tried at a time: where so many in a row are in use, somebody has taken the range.
const TRIES: u32 = 64;

impl Pool {
    /// One that begins anywhere, as `chance` says: two daemons of a host should not meet.
    pub fn new(range: IdRange, chance: u64) -> Pool {
        Pool { range, next: (chance % u64::from(range.count.max(1))) as u32 }
    }

    /// An id that none of our children has, and no process of the host as `in_use` says; `None` when there is none.
    pub fn take(&mut self, ours: &[Uid], in_use: &mut dyn FnMut(Uid) -> bool) -> Option<Uid> {
        for _ in 0..TRIES.min(self.range.count) {
            let id = Uid(self.range.first + self.next);
            self.next = (self.next + 1) % self.range.count;
            if !ours.contains(&id) && !in_use(id) {
                return Some(id);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: IdRange = IdRange { first: 0, count: u32::MAX };

    fn host() -> HostIds {
        HostIds {
            root: true,
            accounts: vec![0, 1000, 65_534],
            granted: Vec::new(),
            users: vec![ALL],
            groups: vec![ALL],
        }
    }

    fn range(first: u32, count: u32) -> IdRange {
        IdRange { first, count }
    }

    #[test]
    fn a_range_is_one_that_nobody_has() {
        let container = vec![range(0, 65_536)];
        for (what, ids, want) in [
            ("a usual host", host(), Some(0)),
            ("an account in the first", HostIds { accounts: vec![2_100_000_007], ..host() }, Some(1)),
            ("one just behind it", HostIds { accounts: vec![2_100_065_536, 2_099_999_999], ..host() }, Some(0)),
            ("subordinate ids", HostIds { granted: vec![range(100_000, 65_536)], ..host() }, Some(0)),
            ("that reach into it", HostIds { granted: vec![range(2_099_999_999, 2)], ..host() }, Some(1)),
            ("that end before it", HostIds { granted: vec![range(2_099_999_999, 1)], ..host() }, Some(0)),
            ("all ids granted", HostIds { granted: vec![ALL], ..host() }, None),
            ("a container", HostIds { users: container.clone(), groups: container.clone(), ..host() }, Some(2)),
            ("fewer groups", HostIds { users: vec![ALL], groups: container.clone(), ..host() }, Some(2)),
            ("few ids", HostIds { users: vec![range(0, 1)], groups: vec![range(0, 1)], ..host() }, None),
            ("no map at all", HostIds { users: Vec::new(), groups: Vec::new(), ..host() }, None),
        ] {
            assert_eq!(ids.free_range(), want.map(|index| RANGES[index]), "{what}");
        }
    }

    #[test]
    fn whoever_judges_is_not_whoever_fetched() {
        let (few, one) = (vec![range(0, 1000), range(65_534, 1)], vec![range(0, 1)]);
        let few = HostIds { users: few.clone(), groups: few, ..host() };
        let one = HostIds { users: one.clone(), groups: one, ..host() };
        let user = RunsAs::User(Uid(1000), Gid(1000));
        let nobody = RunsAs::User(Uid(65_534), Gid(65_534));
        for (what, ids, configured, network, judge) in [
            ("root", host(), false, RunsAs::OwnId, RunsAs::OwnId),
            ("a configured user", host(), true, user, RunsAs::OwnId),
            ("no range", few.clone(), false, nobody, RunsAs::Daemon),
            ("no range, a configured user", few, true, user, RunsAs::Daemon),
            ("one id only", one, false, RunsAs::Daemon, RunsAs::Daemon),
            ("not root", HostIds { root: false, ..host() }, true, RunsAs::Daemon, RunsAs::Daemon),
        ] {
            let plan = plan(&ids, configured.then_some((Uid(1000), Gid(1000))));
            assert_eq!((plan.network, plan.judge), (network, judge), "{what}");
            let apart = plan.network == RunsAs::OwnId || plan.network != plan.judge;
            assert!(apart || plan.network == RunsAs::Daemon, "{what}");
            let said = warning(&plan, ids.root, configured.then_some("web"));
            assert_eq!(said.is_none(), network == RunsAs::OwnId, "{what}: {said:?}");
        }
    }

    #[test]
    fn ids_are_handed_out_in_turn_and_never_twice() {
        let mut pool = Pool::new(range(100, 4), 6);
        let mut free = |_: Uid| false;
        let taken: Vec<_> = (0..5).map(|_| pool.take(&[], &mut free)).collect();
        assert_eq!(taken, [102, 103, 100, 101, 102].map(|id| Some(Uid(id))));
        assert_eq!(pool.take(&[Uid(103)], &mut |id| id == Uid(100)), Some(Uid(101)), "held by ours, by another");
        assert_eq!(pool.take(&[], &mut |_| true), None);
        assert_eq!(Pool::new(range(100, 400), 0).take(&[], &mut |id| id.0 < 164), None, "it tries for ever");
    }
}
