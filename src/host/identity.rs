//! Whom helpers run as: the look at the host that `model::ids` decides by, for the daemon and for `check`.

use crate::error::Error;
use crate::host::disk::reason;
use crate::kernel::{Gid, Uid};
use crate::model::ids::{plan, warning, HostIds, IdRange, Plan, RunsAs};
use crate::model::spec::{Account, Spec};
use crate::sys::account;
use crate::sys::file::read_text;

/// Whom a helper runs as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its user.
    pub uid: Uid,
    /// Its only group.
    pub gid: Gid,
}

/// Whom helpers run as, and what there is to be said about that.
#[derive(Debug)]
pub struct Users {
    /// The decision; `Err`: there must be no exchanges, and why.
    pub plan: Result<Plan, Error>,
    /// What that costs.
    pub warnings: Vec<String>,
    /// All names of the configured user.
    names: Vec<String>,
}

/// Looks at the host, and decides whom helpers run as.
pub fn users(helper_user: Option<&str>) -> Users {
    let ids = host_ids();
    let configured = match helper_user {
        // Only root can be somebody else.
        Some(name) if ids.root => match account::user_by_name(name) {
            Ok(Some(user)) => Some((user.uid, user.gid)),
            Ok(None) => return nobody(format_error!("helper_user \"{name}\" does not exist")),
            Err(error) => return nobody(format_error!("cannot look up helper_user \"{name}\": {}", reason(&error))),
        },
        _ => None,
    };
    let plan = plan(&ids, configured);
    let mut warnings: Vec<String> = warning(&plan, ids.root, helper_user).into_iter().collect();
    if !warnings.is_empty() && read_text("/proc/sys/fs/suid_dumpable".as_ref()).is_ok_and(|text| text.trim() == "1") {
        warnings.push(
            "the setting fs.suid_dumpable is 1: other processes of the user that helpers run as can trace them; want 0"
                .to_string(),
        );
    }
    // Those that cannot be read are not known to be others.
    let names = configured.map_or(Vec::new(), |(uid, _)| account::names_of(uid).unwrap_or_default());
    Users { plan: Ok(plan), warnings, names }
}

fn nobody(why: Error) -> Users {
    Users { plan: Err(why), warnings: Vec::new(), names: Vec::new() }
}

/// What the host says about its ids. What cannot be read is taken for one that leaves no id free.
fn host_ids() -> HostIds {
    let ranges = |found: Vec<(u32, u32)>| found.into_iter().map(|(first, count)| IdRange { first, count }).collect();
    let root = account::own_uid().0 == 0 && may_change_user();
    let (accounts, granted) = (account::all_ids(), account::granted_ids());
    let known = accounts.is_ok() && granted.is_ok();
    let all = vec![(0, u32::MAX)];
    HostIds {
        root,
        accounts: accounts.unwrap_or_default(),
        granted: ranges(if known { granted.unwrap_or_default() } else { all }),
        users: ranges(account::mapped_ids("uid_map")),
        groups: ranges(account::mapped_ids("gid_map")),
    }
}

/// What is to be said where helpers execute a program that they can read.
pub fn open_program(why: &str) -> String {
    format!(
        "there is no place for a copy of the binary that helpers can execute and not read ({why}): processes of the user \
         that a helper runs as can trace it when it begins; have state_dir or run_dir on a file system that is not noexec"
    )
}

/// What is to be said of an agent that runs as the configured user of helpers.
fn agent_as_helper(agent: &str, helper_user: &str) -> String {
    format!(
        "agent \"{agent}\" runs as helper_user \"{helper_user}\", and can stop what reads from the network: want a user of \
         its own for it, or no helper_user"
    )
}

/// Whether a root may be somebody else, which in a container it may not: the capabilities to change user and group ids. Taken
/// for granted where that cannot be seen.
fn may_change_user() -> bool {
    const SETGID_AND_SETUID: u64 = 1 << 6 | 1 << 7;
    let status = read_text("/proc/self/status".as_ref()).unwrap_or_default();
    let held = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let held = held.and_then(|held| u64::from_str_radix(held.trim(), 16).ok());
    held.is_none_or(|held| held & SETGID_AND_SETUID == SETGID_AND_SETUID)
}

/// Whether an agent of this definition runs as the user `uid`, whose names are these: by name, or by number.
fn runs_as(spec: &Spec, names: &[String], uid: Uid) -> bool {
    match &spec.user {
        None => uid == Uid(0),
        Some(Account::Id(id)) => *id == uid.0,
        Some(Account::Name(name)) => names.iter().any(|known| **known == **name),
    }
}

/// What there is to be said about agents that run as the configured user of helpers. That root is one is said elsewhere.
pub fn agents_as_helper(
    users: &Users,
    helper_user: Option<&str>,
    agents: &mut dyn Iterator<Item = &Spec>,
) -> Vec<String> {
    let (Some(helper_user), Ok(Plan { network: RunsAs::User(uid, _), .. })) = (helper_user, &users.plan) else {
        return Vec::new();
    };
    let alike = agents.filter(|spec| *uid != Uid(0) && runs_as(spec, &users.names, *uid));
    alike.map(|spec| agent_as_helper(&spec.name, helper_user)).collect()
}
