//! Which user helpers run as, for the daemon and for `check`.
//!
//! The accounts, id ranges and capabilities of the host are read here, `model::ids` decides by them, and the decision comes
//! out with the warnings that belong to it. No process is started here.

use crate::error::Error;
use crate::host::disk::reason;
use crate::kernel::{Gid, Uid};
use crate::model::ids::{plan, warning, HostIds, IdRange, Plan, RunsAs};
use crate::model::spec::{Account, Spec};
use crate::sys::account;
use crate::sys::file::read_text;

/// The user and group that a helper runs as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its user.
    pub uid: Uid,
    /// Its only group.
    pub gid: Gid,
}

/// The users that helpers run as, with warnings.
#[derive(Debug)]
pub struct Users {
    /// The decision, or why there must be no exchanges.
    pub plan: Result<Plan, Error>,
    /// What is less secure by this decision than it could be.
    pub warnings: Vec<String>,
    /// All names of the user that is configured as `helper_user`.
    names: Vec<String>,
}

/// Reads the ids of the host, and decides which users helpers run as.
pub fn users(helper_user: Option<&str>) -> Users {
    let ids = host_ids();
    let configured = match helper_user {
        // Only root can run helpers as another user.
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
    // Where the names cannot be read, an agent's user is compared by its number only.
    let names = configured.map_or(Vec::new(), |(uid, _)| account::names_of(uid).unwrap_or_default());
    Users { plan: Ok(plan), warnings, names }
}

/// No user for helpers, so that there are no exchanges.
fn nobody(why: Error) -> Users {
    Users { plan: Err(why), warnings: Vec::new(), names: Vec::new() }
}

/// The ids that the host uses. Where they cannot be read, all ids count as used.
fn host_ids() -> HostIds {
    let ranges = |pairs: Vec<(u32, u32)>| pairs.into_iter().map(|(first, count)| IdRange { first, count }).collect();
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

/// The warning for a host where helpers execute a binary that they can read, as there can be no other copy of it.
pub fn open_program(why: &str) -> String {
    format!(
        "there is no place for a copy of the binary that helpers can execute and not read ({why}): processes of the user \
         that a helper runs as can trace it when it begins; have state_dir or run_dir on a file system that is not noexec"
    )
}

/// The warning for an agent that runs as `helper_user`.
fn agent_as_helper(agent: &str, helper_user: &str) -> String {
    format!(
        "agent \"{agent}\" runs as helper_user \"{helper_user}\", and can stop what reads from the network: want a user of \
         its own for it, or no helper_user"
    )
}

/// Whether root has the capabilities to change its user and group ids, which it may lack in a container. True where its
/// capabilities cannot be read.
fn may_change_user() -> bool {
    const SETGID_AND_SETUID: u64 = 1 << 6 | 1 << 7;
    let status = read_text("/proc/self/status".as_ref()).unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok());
    effective.is_none_or(|bits| bits & SETGID_AND_SETUID == SETGID_AND_SETUID)
}

/// Whether an agent with this definition runs as the user `uid`, all names of whom are `names`.
fn runs_as(spec: &Spec, names: &[String], uid: Uid) -> bool {
    match &spec.user {
        None => uid == Uid(0),
        Some(Account::Id(id)) => *id == uid.0,
        Some(Account::Name(name)) => names.iter().any(|known| **known == **name),
    }
}

/// The warnings for agents that run as `helper_user`. There is a separate warning for a `helper_user` that is root.
pub fn agents_as_helper(
    users: &Users,
    helper_user: Option<&str>,
    agents: &mut dyn Iterator<Item = &Spec>,
) -> Vec<String> {
    let (Some(helper_user), Ok(Plan { network: RunsAs::User(uid, _), .. })) = (helper_user, &users.plan) else {
        return Vec::new();
    };
    let same_user = agents.filter(|spec| *uid != Uid(0) && runs_as(spec, &users.names, *uid));
    same_user.map(|spec| agent_as_helper(&spec.name, helper_user)).collect()
}
