//! Whom helpers run as: the user ids they have, and what there is to be said about them.

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
    /// It judges bytes that one of those brought.
    Judge,
    /// It does for the daemon what only the daemon's user may.
    Daemon,
}

/// Whom helpers run as.
pub(super) struct HelperUsers {
    /// As it was decided.
    found: Users,
    pool: Option<Pool>,
    /// Why there is no copy of our binary that helpers cannot read.
    open: Option<Error>,
}

impl HelperUsers {
    /// Decides whom they run as, and has them execute a copy of `binary` that they cannot read.
    pub fn new(config: &Config, binary: &mut Binary) -> HelperUsers {
        let (found, pool) = look(config);
        let mut made = HelperUsers { found, pool, open: None };
        // Run by another than root, they are no other users, and a copy of its own file its owner can always read.
        if account::own_uid() == Uid(0) {
            made.open = binary.close(&[Path::new(&*config.state_dir), Path::new(&*config.run_dir)]).err();
        }
        made
    }

    /// What is to be said about them.
    fn troubles(&self) -> Vec<String> {
        let mut troubles = self.found.warnings.clone();
        troubles.extend(self.open.as_ref().map(|why| open_program(why)));
        let problem = self.found.plan.as_ref().err();
        troubles.extend(problem.map(|why| format!("{why}: there will be no exchanges with servers")));
        troubles
    }

    /// The same, for the log.
    pub fn tell(&self, notes: &mut Vec<(Level, String)>) {
        let level = if self.found.plan.is_err() { Level::Error } else { Level::Warn };
        notes.extend(self.troubles().into_iter().map(|text| (level, text)));
    }
}

/// Whom helpers run as, as the host is now, and where they find their ids.
fn look(config: &Config) -> (Users, Option<Pool>) {
    let name = config.helper_user.as_deref();
    let mut found = users(name);
    found.warnings.extend(config_files::root_helper(name));
    let range = found.plan.as_ref().ok().and_then(|plan| plan.range);
    let mut chance = [0; 8];
    if random(&mut chance).is_err() {
        chance = monotonic().0.to_le_bytes();
    }
    (found, range.map(|range| Pool::new(range, u64::from_le_bytes(chance))))
}

impl Daemon {
    /// Whom the next helper with this part runs as; `None`: as ourselves.
    pub(super) fn identity(&mut self, runner: Runner) -> Result<Option<Identity>, Error> {
        let runs_as = match (runner, &self.users.found.plan) {
            (Runner::Daemon, _) => RunsAs::Daemon,
            (Runner::Network, Ok(plan)) => plan.network,
            (Runner::Judge, Ok(plan)) => plan.judge,
            (_, Err(why)) => return Err(why.clone()),
        };
        match runs_as {
            RunsAs::Daemon => Ok(None),
            RunsAs::User(uid, gid) => Ok(Some(Identity { uid, gid })),
            RunsAs::OwnId => {
                let ours: Vec<Uid> = self.helpers.iter().filter_map(|(_, helper)| helper.user()).collect();
                let pool = self.users.pool.as_mut();
                let id = pool.and_then(|pool| pool.take(&ours, &mut process::has_process));
                let id = id.ok_or("no user id is free for a helper: other processes have those of its range")?;
                Ok(Some(Identity { uid: id, gid: Gid(id.0) }))
            }
        }
    }

    /// Looks again whom helpers may run as.
    pub(super) fn reload_identities(&mut self) {
        let before = self.users.troubles();
        (self.users.found, self.users.pool) = look(&self.config);
        let mut notes = Vec::new();
        if self.users.troubles() != before {
            self.users.tell(&mut notes);
        }
        for (level, note) in notes {
            self.log(level, &note);
        }
    }

    /// What there is to be said in a report about whom helpers run as.
    pub(super) fn helper_troubles(&self) -> Vec<Box<str>> {
        let mut troubles = self.users.troubles();
        let mut specs = self.state.agents().filter_map(|agent| Some(&*agent.definition.as_ref()?.spec));
        troubles.extend(agents_as_helper(&self.users.found, self.config.helper_user.as_deref(), &mut specs));
        troubles.into_iter().map(Into::into).collect()
    }
}
