//! Jobs as the servers order them, and their results.
//!
//! `wire::job` reads a `Job` from JSON and checks it. `model::plan` says which steps a job takes, `model::state::jobs` takes
//! them, and an `Outcome` goes back to the server. This file holds values only, and decides nothing.
use std::fmt;
use std::time::Duration;

use crate::model::package::{Digest, Format};
use crate::model::schedule::Server;
use crate::model::spec::{Envs, Limits, Name, Spec};
use crate::text::{sanitize, MESSAGE_MAX};
/// The name that stands for the daemon itself in jobs.
pub const SELF: &str = "bootagent";

/// A job's id, checked with `spec::is_job_id`.
pub type JobId = Box<str>;

/// One order from a server.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// Chosen by the server, and sent back in the result.
    pub id: JobId,
    /// What to do.
    pub action: JobAction,
    /// The agent to act on; `bootagent` is the daemon itself; empty only for a `config` of the daemon.
    pub name: Name,
    /// Replaces the environment that an earlier job gave the agent.
    pub envs: Option<Envs>,
    /// Replaces the limits that an earlier job gave the agent.
    pub limits: Option<Limits>,
    /// The agent's definition.
    pub definition: Option<Box<Spec>>,
    /// The definition as JSON text, which is kept in the agent's record; empty without one.
    pub definition_text: Box<str>,
    /// Version of the package.
    pub version: Option<Box<str>>,
    /// How long the agent must be alive for the job to count as done.
    pub startsecs: Option<Duration>,
    /// The text of a .minisig file: the package's signature.
    pub signature: Option<Box<str>>,
    /// The job begins at a moment of this window, which depends on the host's identity; zero: at once.
    pub window: Duration,
    /// It begins no later than this after its receipt; `None`: at any time.
    pub expires: Option<Duration>,
    /// An uninstall removes configuration and data too.
    pub purge: bool,
    /// The job as the server sent it, JSON text, which is kept in its record.
    pub text: Box<str>,
}

impl Job {
    /// A job that orders this of an agent, and says nothing else. Its text is its id.
    pub fn new(id: &str, name: &str, action: JobAction) -> Job {
        Job {
            id: id.into(),
            action,
            name: name.into(),
            envs: None,
            limits: None,
            definition: None,
            definition_text: "".into(),
            version: None,
            startsecs: None,
            signature: None,
            window: Duration::ZERO,
            expires: None,
            purge: false,
            text: id.into(),
        }
    }
}

/// What a job orders.
#[derive(Clone, Debug, PartialEq)]
pub enum JobAction {
    /// Install a package and start its agent.
    Install(Source),
    /// Replace the package of an agent; if the new one does not stay alive, the previous one is installed again.
    Upgrade(Source),
    /// Stop the agent, remove package, definition and records.
    Uninstall,
    /// Start the agent, and keep it running from now on.
    Start,
    /// Stop the agent, and keep it stopped from now on.
    Stop,
    /// Stop the agent if it runs, and start it.
    Restart,
    /// Have the agent read its own configuration again.
    Reload,
    /// Change settings: of the daemon (`svrlist`, `step`), or of one agent (`envs`, `limits` with a name).
    Config {
        /// The new server list, which must answer first; an empty one removes the list that an earlier job gave.
        servers: Option<Vec<Server>>,
        /// The new reporting interval, 10..=86400 s.
        step: Option<Duration>,
    },
}

impl JobAction {
    /// The `action` as the servers spell it.
    pub const fn name(&self) -> &'static str {
        match self {
            JobAction::Install(_) => "install",
            JobAction::Upgrade(_) => "upgrade",
            JobAction::Uninstall => "uninstall",
            JobAction::Start => "start",
            JobAction::Stop => "stop",
            JobAction::Restart => "restart",
            JobAction::Reload => "reload",
            JobAction::Config { .. } => "config",
        }
    }
}

/// Where a package comes from and what it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// An `ftp://`, `http://` or `file://` URL as the job has it. It may hold a password, and is never shown.
    pub url: Box<str>,
    /// The digest that the package file must have.
    pub digest: Digest,
    /// The format, from the ending of the file name.
    pub format: Format,
}

impl Source {
    /// Whether it is a file of this host. Only root may be able to read it, and that involves no network.
    pub fn is_local(&self) -> bool {
        self.url.get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case("file:"))
    }
}

/// A result code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Code {
    /// Done.
    Success = 0,
    /// A field is missing or wrong.
    BadJob = 1,
    /// No such action.
    UnknownAction = 2,
    /// No such agent.
    NoAgent = 3,
    /// The package cannot be downloaded.
    Download = 4,
    /// The package does not have the digest of the job.
    Checksum = 5,
    /// The package cannot be installed.
    Install = 6,
    /// The agent does not start, or does not stay alive.
    Start = 7,
    /// Undone: the previous package runs again.
    RolledBack = 8,
    /// It did not begin in time, or was cancelled.
    Expired = 9,
    /// The signature or the configuration of the host forbids it.
    Refused = 10,
}

impl Code {
    /// The code with this number.
    pub const fn new(raw: u8) -> Option<Code> {
        Some(match raw {
            0 => Code::Success,
            1 => Code::BadJob,
            2 => Code::UnknownAction,
            3 => Code::NoAgent,
            4 => Code::Download,
            5 => Code::Checksum,
            6 => Code::Install,
            7 => Code::Start,
            8 => Code::RolledBack,
            9 => Code::Expired,
            10 => Code::Refused,
            _ => return None,
        })
    }
}

/// How a job ended: a code, and one sentence for a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The kind of the end.
    pub code: Code,
    /// At most `MESSAGE_MAX` bytes on one line, without control characters, as `Outcome::new` makes it.
    pub message: Box<str>,
}

impl Outcome {
    /// An outcome whose message is sanitized first.
    pub fn new(code: Code, message: &str) -> Outcome {
        Outcome { code, message: sanitize(message, MESSAGE_MAX).into() }
    }
}

/// A job that cannot be done as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejectedJob {
    /// Its id, if it has a valid one; without it the rejection can only be logged.
    pub id: Option<JobId>,
    /// `Code::BadJob` or `Code::UnknownAction`.
    pub code: Code,
    /// Which field is wrong, and why.
    pub message: Box<str>,
    /// The `action` as the server sent it, for the ledger; empty without one.
    pub action: Box<str>,
    /// The `name` as the server sent it, if it is a valid one; else empty.
    pub name: Name,
}

impl fmt::Display for RejectedJob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.id {
            Some(id) => write!(f, "job \"{id}\" refused: {}", self.message),
            None => write!(f, "a job without a usable id refused: {}", self.message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_file_is_local() {
        for (url, want) in [
            ("file:///tmp/web-1.tar.gz", true),
            ("FILE:///tmp/web-1.tar.gz", true),
            ("http://file/web-1.tar.gz", false),
            ("ftp://a/file:", false),
            ("file", false),
        ] {
            let source = Source { url: url.into(), digest: Digest([0; 32]), format: Format::Deb };
            assert_eq!(source.is_local(), want, "{url}");
        }
    }
}
