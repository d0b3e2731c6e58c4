//! One agent's definition.
//!
//! `wire::definition` makes it of a text, and `values` has the rules for single values. A `Spec` that exists is valid: only
//! what depends on the host (whether user, group and program exist) is left to each start.

mod fingerprint;
mod values;

pub use fingerprint::Fingerprints;
pub use values::{
    is_file_name, is_host_name, is_job_id, is_name, is_version, is_word, parse_capability, parse_percent, parse_size,
};

use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use crate::error::Error;
use crate::kernel::{Decimal, Resource, Sig};
use crate::model::oom_score;
use crate::text::in_units;

/// The name of an agent: `[A-Za-z0-9_-]{1,50}`, so that it is safe in file names, cgroup names and environments. It is
/// reference-counted, as every copy of a name would cost 32 bytes.
pub type Name = Rc<str>;

/// Environment variables in the order they are set; a later one of the same name wins.
pub type Envs = Vec<(Box<str>, Box<str>)>;

/// The labels of a host: names and values, ordered by name.
pub type Labels = Vec<(Box<str>, Box<str>)>;

/// The default of `stopsecs`.
pub const STOPSECS: Duration = Duration::from_secs(10);

/// One agent's definition.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// Its name, unique on the host.
    pub name: Name,
    /// Its version, which is reported unless a job installed a package with another one.
    pub version: Box<str>,
    /// The program and its arguments; at least the program.
    pub exec: Vec<Box<str>>,
    /// Whether the started process is the agent or only its starter.
    pub kind: Kind,
    /// For `Kind::Forking`: the file that the agent writes the id of its main process to.
    pub pidfile: Option<Box<str>>,
    /// The user that it runs as; `None`: the daemon's own user, usually root.
    pub user: Option<Account>,
    /// Its group; `None`: the group of its user.
    pub group: Option<Account>,
    /// Its working directory, an absolute path.
    pub directory: Box<str>,
    /// Its file mode creation mask, 0..=0o777.
    pub umask: u32,
    /// Directories below /run that are made before each start and removed when it is down.
    pub runtime_directory: Vec<Box<str>>,
    /// Environment variables besides those that every agent gets.
    pub envs: Envs,
    /// A file with more of them, read at each start, which `envs` win over; with `-` in front it may be missing.
    pub env_file: Option<Box<str>>,
    /// Its limits.
    pub limits: Limits,
    /// Whether it should run before any start or stop was requested.
    pub autostart: bool,
    /// Which ends are followed by a restart.
    pub autorestart: Autorestart,
    /// Exit statuses of a normal end, 0..=255.
    pub exitcodes: Vec<u8>,
    /// How long it must be alive for a start to count as done.
    pub startsecs: Duration,
    /// The first signal of a stop.
    pub stopsignal: Sig,
    /// The time between the first signal of a stop and SIGKILL.
    pub stopsecs: Duration,
    /// Which of its processes a stop ends.
    pub kill: KillMode,
    /// What is run before each start, and must end with status 0.
    pub prestart: Option<Box<Program>>,
    /// How it reads its own configuration again; `None`: it cannot.
    pub reload: Option<Reload>,
    /// Its `Policy::restartsecs`; `None`: the daemon's.
    pub restartsecs: Option<Duration>,
    /// Its `Policy::windowsecs`; `None`: the daemon's.
    pub windowsecs: Option<Duration>,
    /// Its `Policy::retries`; `None`: the daemon's.
    pub retries: Option<u32>,
    /// Its health check; `None` without one.
    pub check: Option<Box<Check>>,
    /// The size over which its output file is rotated, bytes.
    pub log_size: u64,
    /// Its scheduling priority, -20 (most) to 19 (least).
    pub nice: i32,
    /// How readily the kernel kills it when memory runs out, -1000 (never) to 1000.
    pub oom_score_adj: i32,
    /// Whether set-user-id programs and file capabilities give it no privileges.
    pub no_new_privs: bool,
    /// The only capabilities that it can have, as a bit set; `None`: all that a process of its user can have.
    pub capabilities: Option<u64>,
    /// The capabilities that it has although its user is not root, as a bit set.
    pub ambient_capabilities: u64,
}

impl Spec {
    /// Whether what runs by this definition runs by the other one too: they differ at most in what the daemon does beside it.
    pub fn is_run_as(&self, other: &Spec) -> bool {
        Spec { log_size: other.log_size, check: other.check.clone(), ..self.clone() } == *other
    }

    /// A definition with the required values, and the default of every other value.
    pub fn new(name: &str, version: &str, exec: Vec<Box<str>>) -> Spec {
        Spec {
            name: name.into(),
            version: version.into(),
            exec,
            kind: Kind::Simple,
            pidfile: None,
            user: None,
            group: None,
            directory: "/".into(),
            umask: 0o022,
            runtime_directory: Vec::new(),
            envs: Vec::new(),
            env_file: None,
            limits: Limits::default(),
            autostart: true,
            autorestart: Autorestart::Always,
            exitcodes: vec![0],
            startsecs: Duration::from_secs(10),
            stopsignal: Sig::TERM,
            stopsecs: STOPSECS,
            kill: KillMode::Tree,
            prestart: None,
            reload: None,
            restartsecs: None,
            windowsecs: None,
            retries: None,
            check: None,
            log_size: 1 << 20,
            nice: 0,
            oom_score_adj: oom_score::USUAL,
            no_new_privs: false,
            capabilities: None,
            ambient_capabilities: 0,
        }
    }
}

/// What the started process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The agent itself, which stays in the foreground.
    Simple,
    /// A starter, which ends once the agent is in the background.
    Forking,
    /// The agent itself, which says when it is ready.
    Notify,
}

/// A user or group as the definition has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Account {
    /// A name from /etc/passwd or /etc/group.
    Name(Box<str>),
    /// A number, which need not be in these files.
    Id(u32),
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Account::Name(name) => f.write_str(name),
            Account::Id(id) => id.fmt(f),
        }
    }
}

/// Which ends are followed by a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Autorestart {
    /// Every end that nobody requested.
    Always,
    /// Every end by a signal, or with a status that is not in `exitcodes`.
    Unexpected,
    /// No end.
    Never,
    /// Every end by a signal, and every limit kill.
    OnSignal,
}

/// Which processes a stop ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KillMode {
    /// All of them.
    Tree,
    /// All of them, but the first signal goes to the main process alone, which ends the others itself.
    Mixed,
    /// The main process alone: what it has started is not the agent's to end.
    Main,
}

/// How an agent reads its own configuration again.
#[derive(Clone, Debug, PartialEq)]
pub enum Reload {
    /// Its main process gets this signal.
    Signal(Sig),
    /// This program has it done.
    Exec(Box<Program>),
}

impl Reload {
    /// The program that has it done.
    pub fn program(&self) -> Option<&Program> {
        match self {
            Reload::Signal(_) => None,
            Reload::Exec(program) => Some(program),
        }
    }
}

/// A program that is run for an agent, as its user and in its tree.
#[derive(Clone, Debug, PartialEq)]
pub struct Program {
    /// The program and its arguments.
    pub exec: Vec<Box<str>>,
    /// A run that takes longer is killed, and has failed.
    pub timeout: Duration,
}

/// The limits of an agent; a value that is `None` or missing is not limited.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Limits {
    /// The processor share of all its processes, in hundredths of a percent of one core: 1000 is "10%".
    pub cpu: Option<u32>,
    /// The memory of all its processes, bytes.
    pub memory: Option<u64>,
    /// How many processes and threads it may have.
    pub tasks: Option<u64>,
    /// The setrlimit(2) values of each process, both the soft and the hard limit, one per resource.
    pub resources: Vec<(Resource, u64)>,
}

impl Limits {
    /// Whether nothing is limited.
    pub fn is_empty(&self) -> bool {
        self.cpu.is_none() && self.memory.is_none() && self.tasks.is_none() && self.resources.is_empty()
    }
}

impl fmt::Display for Limits {
    /// `CPU=10% memory=20M nofile=1024`: the values as a definition has them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        if let Some(cpu) = self.cpu {
            write!(f, "CPU={}%", Decimal::new(cpu.into(), 100))?;
            separator = " ";
        }
        let memory = self.memory.map(|bytes| ("memory", bytes, true));
        let tasks = self.tasks.map(|tasks| ("tasks", tasks, false));
        let resources = self.resources.iter().map(|(resource, value)| (resource.key(), *value, resource.in_bytes()));
        for (key, value, in_bytes) in memory.into_iter().chain(tasks).chain(resources) {
            write!(f, "{separator}{key}=")?;
            separator = " ";
            if value == u64::MAX {
                f.write_str("unlimited")?;
                continue;
            }
            let (value, unit) = if in_bytes { in_units(value) } else { (value, "") };
            write!(f, "{value}{unit}")?;
        }
        Ok(())
    }
}

/// A health check: a command whose exit status says whether the agent is healthy.
#[derive(Clone, Debug, PartialEq)]
pub struct Check {
    /// The program and its arguments.
    pub exec: Vec<Box<str>>,
    /// The time from the end of one run to the start of the next.
    pub interval: Duration,
    /// A run that takes longer is killed, and has failed.
    pub timeout: Duration,
    /// This many failures in a row end the agent; at least 1.
    pub retries: u32,
}

/// The directory below `run_dir` of the sockets of `Kind::Notify`.
pub const NOTIFY_DIR: &str = "notify";

/// The path of the socket of an agent of `Kind::Notify`.
///
/// # Errors
/// When it is longer than the path of a socket can be, unix(7).
pub fn notify_socket(run_dir: &str, name: &str) -> Result<String, Error> {
    const MOST: usize = 107;
    let path = format!("{run_dir}/{NOTIFY_DIR}/{name}");
    match path.len() {
        ..=MOST => Ok(path),
        length => Err(format_error!(
            "NOTIFY_SOCKET: \"{path}\" has {length} bytes, and the path of a socket {MOST} at most: configure a shorter run_dir"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_shown_as_a_definition_has_them() {
        let resources = vec![(Resource::Nofile, 2048), (Resource::Core, 0), (Resource::As, u64::MAX)];
        let all = Limits { cpu: Some(1050), memory: Some(20 << 20), tasks: Some(2048), resources };
        assert_eq!(all.to_string(), "CPU=10.5% memory=20M tasks=2048 nofile=2048 core=0 as=unlimited");
        for (bytes, want) in [(1000, "1000"), (1536, "1536"), (2048, "2K"), (5 << 30, "5G"), (1 << 50, "1048576G")] {
            let limits = Limits { memory: Some(bytes), ..Limits::default() };
            assert_eq!(limits.to_string(), format!("memory={want}"));
            assert_eq!(parse_size(want), Some(bytes));
        }
        assert_eq!(Limits::default().to_string(), "");
    }
}
