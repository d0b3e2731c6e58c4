//! One agent's definition, checked on construction, and the rules its single values follow.
//!
//! Texts come in from `wire::config`, which knows file and place; here is only what makes a value a good one. A `Spec`
//! that exists is one that can be tried: only what the host decides (user, group, program present) is left to each start.

mod fingerprint;

use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use crate::kernel::{Decimal, Resource, Sig};

/// The name of an agent: `[A-Za-z0-9_-]{1,50}`, so that it is safe in file names, cgroup names and environments.
/// Shared by all that know the agent, as each copy of its own would cost 32 bytes.
pub type Name = Rc<str>;

/// Environment variables in the order they are set; a later one of the same name wins.
pub type Envs = Vec<(Box<str>, Box<str>)>;

/// `stopsecs` of a definition that does not say it.
pub const STOPSECS: Duration = Duration::from_secs(10);

/// One agent's definition.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// Unique on the host.
    pub name: Name,
    /// As the definition says; what is reported unless a package brought another one.
    pub version: Box<str>,
    /// Program and arguments, at least the program.
    pub exec: Vec<Box<str>>,
    /// Whether the started process is the agent or only its starter.
    pub kind: Kind,
    /// For `Kind::Forking`: the file the agent writes its main process id to.
    pub pidfile: Option<Box<str>>,
    /// Whom it runs as; `None` is root (or the daemon's own user when that is not root).
    pub user: Option<Account>,
    /// Its group; `None` is the user's own.
    pub group: Option<Account>,
    /// Working directory, absolute.
    pub directory: Box<str>,
    /// File mode creation mask, 0..=0o777.
    pub umask: u32,
    /// Added to the clean environment every agent gets.
    pub envs: Envs,
    /// What it may use.
    pub limits: Limits,
    /// Whether it is wanted up before anybody said start or stop.
    pub autostart: bool,
    /// Which ends lead to a restart.
    pub autorestart: Autorestart,
    /// Exit statuses that are a normal end, 0..=255.
    pub exitcodes: Vec<u8>,
    /// How long it must be alive for a start to count as done.
    pub startsecs: Duration,
    /// The polite signal of a stop.
    pub stopsignal: Sig,
    /// How long the polite signal may take before SIGKILL.
    pub stopsecs: Duration,
    /// Own restart delay instead of the daemon's.
    pub restartsecs: Option<Duration>,
    /// Own window of early ends instead of the daemon's.
    pub windowsecs: Option<Duration>,
    /// Own number of restarts instead of the daemon's.
    pub retries: Option<u32>,
    /// Health check, if any.
    pub check: Option<Box<Check>>,
    /// Size in bytes over which its output file is turned over.
    pub log_size: u64,
    /// Whether set-user-id programs and file capabilities give it nothing.
    pub no_new_privs: bool,
    /// The capabilities, as a bit set, that it can ever have; `None`: all that a process of its user can.
    pub capabilities: Option<u64>,
}

impl Spec {
    /// A definition with nothing but what is required; everything else at its default.
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
            envs: Vec::new(),
            limits: Limits::default(),
            autostart: true,
            autorestart: Autorestart::Always,
            exitcodes: vec![0],
            startsecs: Duration::from_secs(10),
            stopsignal: Sig::TERM,
            stopsecs: STOPSECS,
            restartsecs: None,
            windowsecs: None,
            retries: None,
            check: None,
            log_size: 1 << 20,
            no_new_privs: false,
            capabilities: None,
        }
    }
}

/// What the started process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The agent itself, staying in the foreground.
    Simple,
    /// A starter that ends once the agent is in the background.
    Forking,
}

/// A user or group as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Account {
    /// A name from /etc/passwd or /etc/group.
    Name(Box<str>),
    /// A number, taken as it is.
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

/// Which ends lead to a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Autorestart {
    /// Every end nobody asked for.
    Always,
    /// Ends by a signal or with a status that is not in `exitcodes`.
    Unexpected,
    /// None.
    Never,
}

/// What an agent may use; what is `None` or missing is not limited.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Limits {
    /// Processor share of its whole tree in hundredths of a percent of one core: 1000 is "10%".
    pub cpu: Option<u32>,
    /// Memory of its whole tree, bytes.
    pub memory: Option<u64>,
    /// setrlimit(2) values, soft and hard alike, one per resource.
    pub resources: Vec<(Resource, u64)>,
}

impl Limits {
    /// Whether nothing is limited.
    pub fn is_empty(&self) -> bool {
        self.cpu.is_none() && self.memory.is_none() && self.resources.is_empty()
    }
}

/// A command that says by its exit status whether the agent is healthy.
#[derive(Clone, Debug, PartialEq)]
pub struct Check {
    /// Program and arguments.
    pub exec: Vec<Box<str>>,
    /// From the end of one run to the begin of the next.
    pub interval: Duration,
    /// A run that takes longer is killed and counts as failed.
    pub timeout: Duration,
    /// That many failures in a row end the agent; at least 1.
    pub retries: u32,
}

/// Whether `text` can name an agent.
pub fn is_name(text: &str) -> bool {
    (1..=50).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

/// Whether `text` can be a job's id: `[A-Za-z0-9_-][A-Za-z0-9._-]{0,126}`, so that it is safe as a file name.
pub fn is_job_id(text: &str) -> bool {
    (1..=127).contains(&text.len())
        && !text.starts_with('.')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
}

/// Whether `text` names something in a directory, and nothing outside of it.
pub fn is_file_name(text: &str) -> bool {
    !matches!(text, "" | "." | "..") && !text.contains(['/', '\0'])
}

/// Whether `text` can be a version: 1..=100 of `[A-Za-z0-9._+~:-]`, not beginning with a dot, so that it is safe as a
/// directory name.
pub fn is_version(text: &str) -> bool {
    (1..=100).contains(&text.len())
        && !text.starts_with('.')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'+' | b'~' | b':' | b'-'))
}

/// The capabilities by number, capabilities(7), without their `CAP_`.
const CAPABILITIES: &str =
    "chown dac_override dac_read_search fowner fsetid kill setgid setuid setpcap linux_immutable \
    net_bind_service net_broadcast net_admin net_raw ipc_lock ipc_owner sys_module sys_rawio sys_chroot sys_ptrace \
    sys_pacct sys_admin sys_boot sys_nice sys_resource sys_time sys_tty_config mknod lease audit_write audit_control \
    setfcap mac_override mac_admin syslog wake_alarm block_suspend audit_read perfmon bpf checkpoint_restore";

impl fmt::Display for Limits {
    /// `CPU=10% memory=20M nofile=1024`, in the values that a definition takes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut between = "";
        if let Some(cpu) = self.cpu {
            write!(f, "CPU={}%", Decimal::new(cpu.into(), 100))?;
            between = " ";
        }
        let memory = self.memory.map(|bytes| ("memory", bytes, true));
        let resources = self.resources.iter().map(|(resource, value)| (resource.key(), *value, resource.in_bytes()));
        for (key, mut value, in_bytes) in memory.into_iter().chain(resources) {
            write!(f, "{between}{key}=")?;
            between = " ";
            if value == u64::MAX {
                f.write_str("unlimited")?;
                continue;
            }
            let mut units = ["", "K", "M", "G"].iter();
            let mut unit = units.next();
            while in_bytes && value > 0 && value % 1024 == 0 && units.len() > 0 {
                value /= 1024;
                unit = units.next();
            }
            write!(f, "{value}{}", unit.unwrap_or(&""))?;
        }
        Ok(())
    }
}

/// A capability such as `CAP_NET_BIND_SERVICE` or `net_bind_service` as a bit set of one.
pub fn parse_capability(text: &str) -> Option<u64> {
    let name = text.to_ascii_lowercase();
    let name = name.strip_prefix("cap_").unwrap_or(&name);
    let number = CAPABILITIES.split(' ').position(|known| known == name)?;
    Some(1 << number)
}

/// A size such as `4096`, `20M` or `1.5G` in bytes; K, M, G and T count in 1024s and may be followed by `B` or `iB`.
pub fn parse_size(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match &text[digits.len()..] {
        "" | "B" => 0,
        "K" | "KB" | "KiB" | "k" => 10,
        "M" | "MB" | "MiB" | "m" => 20,
        "G" | "GB" | "GiB" | "g" => 30,
        "T" | "TB" | "TiB" | "t" => 40,
        _ => return None,
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.is_empty() || !whole.bytes().chain(fraction.bytes()).all(|b| b.is_ascii_digit()) {
        return None;
    }
    if digits.ends_with('.') || fraction.len() > 9 {
        return None;
    }
    let unit = 1u64 << shift;
    let mut bytes = whole.parse::<u64>().ok()?.checked_mul(unit)?;
    if !fraction.is_empty() {
        let scale = 10u128.pow(fraction.len() as u32);
        let part = fraction.parse::<u128>().ok()? * u128::from(unit) / scale;
        bytes = bytes.checked_add(part as u64)?;
    }
    Some(bytes)
}

/// A share such as `10%`, `0.5%` or `250%` in hundredths of a percent, at least 1 and at most 1024 cores.
pub fn parse_percent(text: &str) -> Option<u32> {
    let number = text.strip_suffix('%')?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) || fraction.len() > 2 || number.ends_with('.') {
        return None;
    }
    let hundredths: u32 = format!("{fraction:0<2}").parse().ok()?;
    let share = whole.parse::<u32>().ok()?.checked_mul(100)?.checked_add(hundredths)?;
    (1..=10_240_000).contains(&share).then_some(share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_told_as_they_are_given() {
        let resources = vec![(Resource::Nofile, 2048), (Resource::Core, 0), (Resource::As, u64::MAX)];
        let all = Limits { cpu: Some(1050), memory: Some(20 << 20), resources };
        assert_eq!(all.to_string(), "CPU=10.5% memory=20M nofile=2048 core=0 as=unlimited");
        for (bytes, want) in [(1000, "1000"), (1536, "1536"), (2048, "2K"), (5 << 30, "5G"), (1 << 50, "1048576G")] {
            let limits = Limits { memory: Some(bytes), ..Limits::default() };
            assert_eq!(limits.to_string(), format!("memory={want}"));
            assert_eq!(parse_size(want), Some(bytes));
        }
        assert_eq!(Limits::default().to_string(), "");
    }

    #[test]
    fn names() {
        for (text, want) in [
            ("BasicAgent", true),
            ("a-b_9", true),
            ("", false),
            ("a.b", false),
            ("a/b", false),
            ("ä", false),
            (&"x".repeat(50), true),
            (&"x".repeat(51), false),
        ] {
            assert_eq!(is_name(text), want, "{text}");
        }
        for (text, want) in [("a", true), (".a", false), ("a.b", true), ("..", false), ("a/b", false), ("", false)] {
            assert_eq!(is_job_id(text), want, "{text}");
        }
        assert!(is_job_id(&"x".repeat(127)) && !is_job_id(&"x".repeat(128)));
        assert!(is_version("1:2.3~rc1+b2") && !is_version("../1") && !is_version(""));
    }

    #[test]
    fn sizes() {
        for (text, want) in [
            ("0", Some(0)),
            ("4096", Some(4096)),
            ("20M", Some(20 << 20)),
            ("1.5K", Some(1536)),
            ("1GiB", Some(1 << 30)),
            ("2TB", Some(2 << 40)),
            ("20X", None),
            ("-1", None),
            ("M", None),
            ("1.M", None),
            ("1 M", None),
            ("99999999999T", None),
            ("", None),
        ] {
            assert_eq!(parse_size(text), want, "{text}");
        }
    }

    #[test]
    fn capabilities() {
        for (text, want) in [
            ("CAP_CHOWN", Some(0)),
            ("cap_net_bind_service", Some(10)),
            ("NET_BIND_SERVICE", Some(10)),
            ("CAP_SYS_ADMIN", Some(21)),
            ("CAP_SYSLOG", Some(34)),
            ("CAP_CHECKPOINT_RESTORE", Some(40)),
            ("CAP_CAP_CHOWN", None),
            ("CAP_", None),
            ("", None),
            ("chown dac_override", None),
            ("10", None),
        ] {
            assert_eq!(parse_capability(text), want.map(|number: u32| 1 << number), "{text}");
        }
    }

    #[test]
    fn percents() {
        for (text, want) in [
            ("10%", Some(1000)),
            ("0.5%", Some(50)),
            ("250%", Some(25_000)),
            ("0.01%", Some(1)),
            ("0%", None),
            ("10", None),
            ("%", None),
            ("-1%", None),
            ("1.%", None),
            ("200000%", None),
        ] {
            assert_eq!(parse_percent(text), want, "{text}");
        }
    }
}
