//! Whom helpers run as: the user ids they have, and what there is to be said about them.

use std::path::Path;

use super::Daemon;
use crate::host::files;
use crate::host::helper::Binary;
use crate::host::identity::{agent_as_helper, open_program, runs_as, users, Identity};
use crate::kernel::{Gid, Level, Uid};
use crate::model::ids::{Plan, Pool, RunsAs};
use crate::reason::Reason;
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
    /// `Err`: there must be no exchanges, and why.
    plan: Result<Plan, Reason>,
    pool: Option<Pool>,
    warnings: Vec<String>,
    /// Why there is no copy of our binary that helpers cannot read.
    open: Option<Reason>,
}

impl HelperUsers {
    /// Decides whom they run as, and has them execute a copy of `binary` that they cannot read.
    pub fn new(config: &Config, binary: &mut Binary) -> HelperUsers {
        let mut made = HelperUsers { plan: Err("".into()), pool: None, warnings: Vec::new(), open: None };
        made.look(config);
        // Run by another than root, they are no other users, and a copy of its own file its owner can always read.
        if account::own_uid() == Uid(0) {
            made.open = binary.close(&[Path::new(&*config.state_dir), Path::new(&*config.run_dir)]).err();
        }
        made
    }

    fn look(&mut self, config: &Config) {
        let found = users(config.helper_user.as_deref());
        let range = found.plan.as_ref().ok().and_then(|plan| plan.range);
        let mut chance = [0; 8];
        if random(&mut chance).is_err() {
            chance = monotonic().0.to_le_bytes();
        }
        self.pool = range.map(|range| Pool::new(range, u64::from_le_bytes(chance)));
        self.plan = found.plan;
        self.warnings = found.warnings;
        self.warnings.extend(files::root_helper(config.helper_user.as_deref()));
    }

    /// What is to be said about them.
    fn troubles(&self) -> Vec<String> {
        let mut troubles = self.warnings.clone();
        troubles.extend(self.open.as_ref().map(|why| open_program(why)));
        troubles.extend(self.plan.as_ref().err().map(|why| format!("{why}: there are no exchanges with servers")));
        troubles
    }

    /// The same, for the log.
    pub fn tell(&self, notes: &mut Vec<(Level, String)>) {
        let level = if self.plan.is_err() { Level::Error } else { Level::Warn };
        notes.extend(self.troubles().into_iter().map(|text| (level, text)));
    }
}

impl Daemon {
    /// Whom the next helper with this part runs as; `None`: as ourselves.
    pub(super) fn identity(&mut self, runner: Runner) -> Result<Option<Identity>, Reason> {
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
        let config = &self.config;
        self.users.look(config);
        let mut notes = Vec::new();
        if self.users.troubles() != before {
            self.users.tell(&mut notes);
        }
        for (level, note) in notes {
            self.say(level, &note);
        }
    }

    /// What there is to be said in a report about whom helpers run as.
    pub(super) fn helper_troubles(&self) -> Vec<Box<str>> {
        let mut troubles: Vec<Box<str>> = self.users.troubles().into_iter().map(Into::into).collect();
        if let (Some(name), Ok(Plan { network: RunsAs::User(uid, _), .. })) =
            (self.config.helper_user.as_deref(), &self.users.plan)
        {
            for agent in self.state.agents() {
                let spec = agent.definition.as_ref().map(|definition| &definition.spec);
                if spec.is_some_and(|spec| *uid != Uid(0) && runs_as(spec, name, *uid)) {
                    troubles.push(agent_as_helper(agent.name(), name).into());
                }
            }
        }
        troubles
    }
}
