//! What a state begins with: the options of the daemon, and what its start recovered on the host.
//!
//! `daemon::startup` fills these in; `init` makes the state of them. Nothing here is changed later.

use std::rc::Rc;
use std::time::Duration;

use super::Unreadable;
use crate::kernel::{Process, Time};
use crate::model::event::Definition;
use crate::model::job::{Job, JobId};
use crate::model::record::{AgentRecord, Identity, JobRecord, RunRecord, Settings};
use crate::model::reexec_state::ReexecState;
use crate::model::restart::Policy;
use crate::model::schedule::Server;
use crate::model::spec::Name;

/// What the daemon's configuration and its host say at its start.
#[derive(Clone, Debug)]
pub struct Options {
    /// gethostname(2), or the configured name.
    pub hostname: Box<str>,
    /// `bootagent-<version>-<arch>`.
    pub version: Box<str>,
    /// The kernel's boot id; empty where it has none.
    pub boot_id: Box<str>,
    /// The servers that never change.
    pub servers: Vec<Server>,
    /// The configured reporting interval.
    pub step: Duration,
    /// The first report comes after a random part of this.
    pub splay: Duration,
    /// The restart policy where definitions say nothing else.
    pub policy: Policy,
    /// The time between two checks; polled limits are looked at every 10 s at least.
    pub checksecs: Duration,
    /// How long jobs wait for what.
    pub times: Times,
    /// Where packages are kept.
    pub packages: Box<str>,
    /// Only signed packages may be installed.
    pub signed: bool,
    /// Exchanges are signed: what a server says outside of its signature is ignored.
    pub keyed: bool,
    /// Why there are neither exchanges nor jobs; `None`: there are.
    pub closed: Option<Box<str>>,
    /// The installed binary.
    pub program: Box<str>,
    /// The configuration file.
    pub config: Box<str>,
    /// Seed of the jitter.
    pub seed: u64,
}

/// How long jobs wait for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// A package tool that takes longer is killed, whatever its own limit says.
    pub tool: Duration,
    /// The pause before a tool tries again to get a lock.
    pub lock: Duration,
    /// The pause before the first new attempt at a download; it doubles.
    pub fetch: Duration,
    /// The pause before a job's record that could not be written is tried again.
    pub save: Duration,
}

impl Default for Times {
    fn default() -> Times {
        Times {
            tool: Duration::MAX,
            lock: Duration::from_secs(5),
            fetch: Duration::from_secs(1),
            save: Duration::from_secs(10),
        }
    }
}

/// What the daemon's start recovered on the host.
#[derive(Clone, Debug, Default)]
pub struct Recovered {
    /// Who this host is.
    pub identity: Identity,
    /// What a server set.
    pub settings: Settings,
    /// The servers in `settings`.
    pub given: Vec<Server>,
    /// Every good definition from every source.
    pub definitions: Vec<Definition>,
    /// The records of agents.
    pub agents: Vec<AgentRecord>,
    /// The records of jobs, each with the job read back from its text while it is not done.
    pub jobs: Vec<(JobRecord, Option<Rc<Job>>)>,
    /// What an earlier daemon of this boot recorded of each agent's run, and whether its main process is still alive.
    pub runs: Vec<(RunRecord, bool)>,
    /// Agents of which processes run although no record says so: the likely main process and when it was started, if
    /// one of them can be recognized as it.
    pub unrecorded: Vec<(Name, Option<(Process, Time)>)>,
    /// Agents that are known only from the environment of their processes: these are ended, and nothing waits for it.
    pub marked: Vec<Name>,
    /// Sentences about records that could not be read, for the log and the server.
    pub damage: Vec<(Name, Box<str>)>,
    /// Ids of jobs whose records could not be read.
    pub damaged_jobs: Vec<JobId>,
    /// Records that are there and cannot be read just now.
    pub unread: Unreadable,
    /// Another daemon ran in this boot: its processes may still run.
    pub leftovers: bool,
    /// What the binary left that executed this one.
    pub reexec: Option<ReexecState>,
    /// Why the watcher of a new binary executed this one again.
    pub undone: Option<Box<str>>,
}
