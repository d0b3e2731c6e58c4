//! Plain values in the kernel's vocabulary: times, process ids, signals, ends of processes, error numbers.
//!
//! No calls are made here: everything is a value that other modules pass along. The pure parts (`model`, `wire`)
//! speak in these, `sys` translates them to and from libc.

mod signal;
mod stage;
mod time;

use std::fmt;
use std::num::NonZero;
use std::time::Duration;

pub use signal::Sig;
pub use stage::Stage;
pub use time::{millis, nanos, Time};

/// A number with a few decimals, written as in JSON: `12.5`, and `12` when the decimals are 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decimal {
    number: u64,
    /// The divisor of `number`, a power of ten.
    scale: u64,
}

impl Decimal {
    /// `number` divided by 10 or 100 or another power of ten.
    pub const fn new(number: u64, scale: u64) -> Decimal {
        Decimal { number, scale }
    }

    /// `number` rounded to 1/`scale`, a power of ten; negative numbers and NaN become 0.
    pub fn rounded(number: f64, scale: u16) -> Decimal {
        // A cast from a float saturates, and NaN becomes 0.
        Decimal { number: (number * f64::from(scale)).round() as u64, scale: u64::from(scale) }
    }

    /// Seconds, to the millisecond.
    pub fn seconds(time: Duration) -> Decimal {
        Decimal { number: millis(time), scale: 1000 }
    }
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.number / self.scale)?;
        let (mut rest, mut unit) = (self.number % self.scale, self.scale);
        if rest > 0 {
            f.write_str(".")?;
        }
        while rest > 0 {
            unit /= 10;
            write!(f, "{}", rest / unit)?;
            rest %= unit;
        }
        Ok(())
    }
}

/// A process id that can be signalled safely: never 0, 1 or negative, so that a signal to it or to its group can reach
/// neither every process nor init (kill(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pid(NonZero<i32>);

impl Pid {
    /// `raw` as a process id; `None` below 2.
    pub const fn new(raw: i32) -> Option<Pid> {
        match NonZero::new(raw) {
            Some(id) if raw > 1 => Some(Pid(id)),
            _ => None,
        }
    }

    /// The number, as libc takes it.
    pub const fn raw(self) -> i32 {
        self.0.get()
    }
}

impl fmt::Display for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One process for as long as it lives: its id and its start time, so that a reused id is not mistaken for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    /// Its process id.
    pub pid: Pid,
    /// Its start in clock ticks since boot (field 22 of /proc/PID/stat, proc(5)); 0 where there is no /proc.
    pub ticks: u64,
}

impl Process {
    /// How long ago it was started, on a host that has been up for this long.
    pub fn age(self, uptime: Duration) -> Duration {
        uptime.saturating_sub(Duration::from_millis(self.ticks.saturating_mul(1000) / TICKS))
    }
}

/// The clock ticks of a second in the times of /proc (USER_HZ): 100 on every target.
pub const TICKS: u64 = 100;

/// A user id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Uid(pub u32);

/// A group id; laid out as gid_t, so that a list of them is one for setgroups(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Gid(pub u32);

/// An error number, errno(3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub i32);

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = std::io::Error::from_raw_os_error(self.0).to_string();
        f.write_str(text.split_once(" (os error").map_or(&*text, |(text, _)| text))
    }
}

/// How a process ended, waitpid(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It called exit with this status, 0..=255.
    Code(i32),
    /// A signal ended it.
    Signal(Sig),
    /// It has ended, and its status went to another parent.
    Unknown,
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exit::Code(code) => write!(f, "exited with status {code}"),
            Exit::Signal(sig) => write!(f, "killed by {sig}"),
            Exit::Unknown => f.write_str("ended with unknown status"),
        }
    }
}

/// How much a line of the daemon's log matters, the most important first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Something does not work and an operator has to act.
    Error,
    /// Something is not as it should be; the daemon keeps running without it.
    Warn,
    /// What was done.
    Info,
    /// How it was done.
    Debug,
}

impl Level {
    /// All of them.
    pub const ALL: [Level; 4] = [Level::Error, Level::Warn, Level::Info, Level::Debug];

    /// Its name in the log and in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Level::Error => "error",
            Level::Warn => "warn",
            Level::Info => "info",
            Level::Debug => "debug",
        }
    }
}

/// A limit of setrlimit(2) that a definition can set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resource {
    /// RLIMIT_NOFILE: file descriptors.
    Nofile,
    /// RLIMIT_NPROC: processes and threads of the user.
    Nproc,
    /// RLIMIT_CORE: core file size, bytes.
    Core,
    /// RLIMIT_FSIZE: file size, bytes.
    Fsize,
    /// RLIMIT_STACK: stack of the main thread, bytes.
    Stack,
    /// RLIMIT_DATA: data segment, bytes.
    Data,
    /// RLIMIT_AS: address space, bytes.
    As,
    /// RLIMIT_CPU: processor time, seconds.
    Cputime,
    /// RLIMIT_MEMLOCK: locked memory, bytes.
    Memlock,
}

impl Resource {
    /// Every one of them, in the order they are set.
    pub const ALL: [Resource; 9] = [
        Resource::Nofile,
        Resource::Nproc,
        Resource::Core,
        Resource::Fsize,
        Resource::Stack,
        Resource::Data,
        Resource::As,
        Resource::Cputime,
        Resource::Memlock,
    ];

    /// The key under `limits` in a definition.
    pub const fn key(self) -> &'static str {
        match self {
            Resource::Nofile => "nofile",
            Resource::Nproc => "nproc",
            Resource::Core => "core",
            Resource::Fsize => "fsize",
            Resource::Stack => "stack",
            Resource::Data => "data",
            Resource::As => "as",
            Resource::Cputime => "cputime",
            Resource::Memlock => "memlock",
        }
    }

    /// Whether its values count bytes, so that "20M" may be written.
    pub const fn in_bytes(self) -> bool {
        !matches!(self, Resource::Nofile | Resource::Nproc | Resource::Cputime)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_that_reaches_everyone_cannot_be_made() {
        for raw in [-1, 0, 1, i32::MIN] {
            assert_eq!(Pid::new(raw), None);
        }
        assert_eq!(Pid::new(2).map(Pid::raw), Some(2));
    }
}
