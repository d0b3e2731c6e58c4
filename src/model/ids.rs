//! Which user a helper runs as: one with an id of its own, if the host has a range of ids that nobody else uses.
//!
//! The host's users, groups and id maps come in as `HostIds`; a `Plan` and, with `Pool`, single ids come out. Whether a
//! process on the host has an id at the moment is asked through a function that the caller brings. Nothing here touches
//! the host.

use crate::kernel::{Gid, Uid};

/// A range of user or group ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdRange {
    /// The first id.
    pub first: u32,
    /// The number of ids.
    pub count: u32,
}

impl IdRange {
    const fn end(self) -> u64 {
        self.first as u64 + self.count as u64
    }

    fn contains(self, id: u32) -> bool {
        id >= self.first && u64::from(id) < self.end()
    }

    fn overlaps(self, other: IdRange) -> bool {
        u64::from(self.first) < other.end() && u64::from(other.first) < self.end()
    }

    fn is_within(self, other: IdRange) -> bool {
        self.first >= other.first && self.end() <= other.end()
    }
}

/// The ranges that helpers may take their ids from, the best one first. systemd assigns neither 1879048192 to 2147352575
/// nor 60706 to 61183: 61184 to 65519 are its dynamic users, 524288 to 1879048191 its containers. Subordinate ids begin at
/// 100000 and end below 600100000, and the ids that directory services map end at 2000200000. The last range is for
/// containers that have 65536 ids.
pub const RANGES: [IdRange; 3] = [
    IdRange { first: 2_100_000_000, count: 65_536 },
    IdRange { first: 2_050_000_000, count: 65_536 },
    IdRange { first: 60_706, count: 478 },
];

/// The user `nobody`, which is used where no range is free.
const NOBODY: u32 = 65_534;

/// The ids of the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostIds {
    /// Whether the daemon is root, and may start processes as any user.
    pub root: bool,
    /// The ids of users and groups that have a name.
    pub accounts: Vec<u32>,
    /// The subordinate ids, which users may use for their containers, subuid(5).
    pub granted: Vec<IdRange>,
    /// The user ids that exist in the daemon's user namespace.
    pub users: Vec<IdRange>,
    /// The group ids that exist in the daemon's user namespace.
    pub groups: Vec<IdRange>,
}

impl HostIds {
    /// The first range of `RANGES` that exists here as a whole, and in which no id is assigned.
    pub fn free_range(&self) -> Option<IdRange> {
        let free = |range: &IdRange| {
            self.has(*range)
                && !self.accounts.iter().any(|id| range.contains(*id))
                && !self.granted.iter().any(|granted| granted.overlaps(*range))
        };
        RANGES.into_iter().find(free)
    }

    /// Whether all these ids exist in the daemon's user namespace, as users and as groups.
    fn has(&self, range: IdRange) -> bool {
        [&self.users, &self.groups].iter().all(|mapped| mapped.iter().any(|mapped| range.is_within(*mapped)))
    }
}

/// The user that a kind of helper runs as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunsAs {
    /// Each helper has a user id of its own.
    OwnId,
    /// This user and group.
    User(Uid, Gid),
    /// The user of the daemon.
    Daemon,
}

/// The users that helpers run as on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// For helpers that read from the network.
    pub network: RunsAs,
    /// For helpers that verify packages; never the user of `network` if the daemon can choose.
    pub judge: RunsAs,
    /// The range that the ids of `RunsAs::OwnId` come from.
    pub range: Option<IdRange>,
}

/// Decides which users helpers run as; `configured` is the `helper_user` of the configuration, if it names one.
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

/// What the plan costs, a sentence for people; `None` if each helper has an id of its own. `helper_user` is the name of the
/// configured user.
pub fn warning(plan: &Plan, root: bool, helper_user: Option<&str>) -> Option<String> {
    if !root {
        return Some(
            "the daemon does not run as root, or may not change its user: what reads from the network and what verifies \
             packages run as its own user, whose other processes can take them over"
                .to_string(),
        );
    }
    let no_range = "no range of user ids is free for helpers (see /proc/self/uid_map, /etc/passwd, /etc/subuid)";
    match (plan.network, helper_user) {
        // A warning about root as `helper_user` is given where the configuration is read.
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

/// Hands out the user ids of a range in turn, so that an id is not used again soon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    range: IdRange,
    next: u32,
}

/// How many ids are tried at a time: if this many in a row are in use, somebody else uses the range.
const TRIES: u32 = 64;

impl Pool {
    /// A pool that begins at a place in the range that `chance`, a random number, decides: two daemons on one host should
    /// not hand out the same ids.
    pub fn new(range: IdRange, chance: u64) -> Pool {
        Pool { range, next: (chance % u64::from(range.count.max(1))) as u32 }
    }

    /// An id that none of `children` has, the ids of the daemon's own helpers, and no process on the host, which `in_use`
    /// says; `None` if no id is free.
    pub fn take(&mut self, children: &[Uid], in_use: &mut dyn FnMut(Uid) -> bool) -> Option<Uid> {
        for _ in 0..TRIES.min(self.range.count) {
            let id = Uid(self.range.first + self.next);
            self.next = (self.next + 1) % self.range.count;
            if !children.contains(&id) && !in_use(id) {
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
    fn a_free_range_has_no_assigned_ids() {
        let container = vec![range(0, 65_536)];
        for (what, ids, want) in [
            ("a usual host", host(), Some(0)),
            ("an account in the first range", HostIds { accounts: vec![2_100_000_007], ..host() }, Some(1)),
            (
                "accounts beside the first range",
                HostIds { accounts: vec![2_100_065_536, 2_099_999_999], ..host() },
                Some(0),
            ),
            ("subordinate ids", HostIds { granted: vec![range(100_000, 65_536)], ..host() }, Some(0)),
            (
                "subordinate ids that overlap the first range",
                HostIds { granted: vec![range(2_099_999_999, 2)], ..host() },
                Some(1),
            ),
            (
                "subordinate ids that end before it",
                HostIds { granted: vec![range(2_099_999_999, 1)], ..host() },
                Some(0),
            ),
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
    fn verification_runs_as_another_user_than_the_network() {
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
            let warning = warning(&plan, ids.root, configured.then_some("web"));
            assert_eq!(warning.is_none(), network == RunsAs::OwnId, "{what}: {warning:?}");
        }
    }

    #[test]
    fn ids_are_handed_out_in_turn_and_never_twice() {
        let mut pool = Pool::new(range(100, 4), 6);
        let mut free = |_: Uid| false;
        let taken: Vec<_> = (0..5).map(|_| pool.take(&[], &mut free)).collect();
        assert_eq!(taken, [102, 103, 100, 101, 102].map(|id| Some(Uid(id))));
        assert_eq!(pool.take(&[Uid(103)], &mut |id| id == Uid(100)), Some(Uid(101)), "of a child, of another");
        assert_eq!(pool.take(&[], &mut |_| true), None);
        assert_eq!(Pool::new(range(100, 400), 0).take(&[], &mut |id| id.0 < 164), None, "64 tries at most");
    }
}
