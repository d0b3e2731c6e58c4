//! The options of the daemon that a state begins with.
//!
//! `daemon::startup` fills these in; `init` makes the state of them. Nothing here is changed later.

use std::time::Duration;

use crate::model::restart::Policy;
use crate::model::schedule::Server;

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
