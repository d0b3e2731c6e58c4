//! The users that helpers run as.
//!
//! What reads from the network, or judges what was read, runs as a user of its own where the host allows that. Here is chosen
//! which user the next helper gets, and which warnings there are about that, for the log and for reports. The rules are in
//! `model::ids`, and what the host allows is found out by `host::identity`.

use std::path::Path;

use super::Daemon;
use crate::error::Error;
use crate::host::config_files;
use crate::host::helper::Binary;
use crate::host::identity::{agents_as_helper, open_program, users, Identity, Users};
use crate::kernel::{Gid, Level, Uid};
use crate::model::ids::{Pool, RunsAs};
use crate::sys::{account, monotonic, process, random};
use crate::wire::config::Config;

/// The part that a helper plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Runner {
    /// It reads from the network.
    Network,
    /// It judges bytes that came from the network.
    Judge,
    /// It does what only the daemon's own user may.
    Daemon,
}

/// The users that helpers run as.
pub(super) struct HelperUsers {
    users: Users,
    /// The ids that are given out one by one, where each helper has its own.
    pool: Option<Pool>,
    /// Why helpers execute a binary that they can read, if they do.
    readable_binary: Option<Error>,
}

impl HelperUsers {
    /// Finds out which users there are, and has helpers execute a copy of `binary` that they cannot read.
    pub fn new(config: &Config, binary: &mut Binary) -> HelperUsers {
        let (users, pool) = find_users(config);
        // Without root, helpers run as the daemon's own user, who can always read a copy that it owns.
        let copied = match account::own_uid() {
            Uid(0) => binary.use_copy_for_others(&[Path::new(&*config.state_dir), Path::new(&*config.run_dir)]),
            _ => Ok(()),
        };
        HelperUsers { users, pool, readable_binary: copied.err() }
    }

    fn warnings(&self) -> Vec<String> {
        let mut warnings = self.users.warnings.clone();
        warnings.extend(self.readable_binary.as_ref().map(|why| open_program(why)));
        let problem = self.users.plan.as_ref().err();
        warnings.extend(problem.map(|why| format!("{why}: there will be no exchanges with servers")));
        warnings
    }

    /// The warnings, for the log.
    pub fn notes(&self) -> Vec<(Level, String)> {
        let level = if self.users.plan.is_err() { Level::Error } else { Level::Warn };
        self.warnings().into_iter().map(|text| (level, text)).collect()
    }

    /// The user of the next helper that plays this part, while helpers run with the ids `used`; `None`: the daemon's own.
    ///
    /// # Errors
    /// When there is no such user, or no id is free.
    pub fn choose(&mut self, runner: Runner, used: &[Uid]) -> Result<Option<Identity>, Error> {
        let runs_as = match (runner, &self.users.plan) {
            (Runner::Daemon, _) => RunsAs::Daemon,
            (Runner::Network, Ok(plan)) => plan.network,
            (Runner::Judge, Ok(plan)) => plan.judge,
            (_, Err(why)) => return Err(why.clone()),
        };
        match runs_as {
            RunsAs::Daemon => Ok(None),
            RunsAs::User(uid, gid) => Ok(Some(Identity { uid, gid })),
            RunsAs::OwnId => {
                let id = self.pool.as_mut().and_then(|pool| pool.take(used, &mut process::has_process));
                let id = id.ok_or("no user id is free for a helper: other processes have those of its range")?;
                Ok(Some(Identity { uid: id, gid: Gid(id.0) }))
            }
        }
    }
}

/// The users that the host has for helpers now, and a pool of ids where each helper is to have its own.
fn find_users(config: &Config) -> (Users, Option<Pool>) {
    let name = config.helper_user.as_deref();
    let mut users = users(name);
    users.warnings.extend(config_files::root_helper(name));
    let range = users.plan.as_ref().ok().and_then(|plan| plan.range);
    let mut seed = [0; 8];
    if random(&mut seed).is_err() {
        seed = monotonic().0.to_le_bytes();
    }
    (users, range.map(|range| Pool::new(range, u64::from_le_bytes(seed))))
}

impl Daemon {
    /// Finds out again which users helpers may run as.
    pub(super) fn reread_identities(&mut self) {
        let users = &mut self.helpers.users;
        let before = users.warnings();
        (users.users, users.pool) = find_users(&self.config);
        if users.warnings() == before {
            return;
        }
        for (level, note) in users.notes() {
            self.log.write(level, &note);
        }
    }

    /// The warnings about the users of helpers, for a report.
    pub(super) fn helper_warnings(&self) -> Vec<Box<str>> {
        let users = &self.helpers.users;
        let mut warnings = users.warnings();
        let mut specs = self.state.agents().filter_map(|agent| Some(&*agent.definition.as_ref()?.spec));
        warnings.extend(agents_as_helper(&users.users, self.config.helper_user.as_deref(), &mut specs));
        warnings.into_iter().map(Into::into).collect()
    }
}
