//! Plain values in the kernel's vocabulary: times, process ids, signals, ends of processes, error numbers.
//!
//! No calls are made here: everything is a value that other modules pass along. The pure parts (`model`, `wire`)
//! speak in these, `sys` translates them to and from libc.

use std::fmt;
use std::num::NonZero;
use std::time::Duration;

/// A moment on the monotonic clock (`CLOCK_MONOTONIC`, clock_gettime(2)), in nanoseconds since boot.
///
/// Comparable between processes of one boot only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(pub u64);

impl Time {
    /// The moment `seconds` and `nanos` after boot.
    pub const fn new(seconds: u64, nanos: u32) -> Time {
        Time(seconds.saturating_mul(1_000_000_000).saturating_add(nanos as u64))
    }

    /// The first of those moments that are known.
    pub fn earliest(times: &[Option<Time>]) -> Option<Time> {
        times.iter().flatten().min().copied()
    }

    /// How long ago `earlier` was; zero when it lies ahead.
    #[inline(never)]
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Time {
    /// The moment that is `earlier` before this one, but not before boot.
    #[must_use]
    pub fn before(self, earlier: Duration) -> Time {
        Time(self.0.saturating_sub(nanos(earlier)))
    }
}

impl std::ops::Add<Duration> for Time {
    type Output = Time;

    /// Saturates at the end of time, 584 years after boot.
    #[inline(never)]
    fn add(self, later: Duration) -> Time {
        Time(self.0.saturating_add(nanos(later)))
    }
}

/// A time in nanoseconds, at most 584 years; `Duration::as_nanos` computes with 128 bits, which no time here needs.
pub fn nanos(time: Duration) -> u64 {
    time.as_secs().saturating_mul(1_000_000_000).saturating_add(time.subsec_nanos().into())
}

/// A time in milliseconds, rounded down.
pub fn millis(time: Duration) -> u64 {
    time.as_secs().saturating_mul(1000).saturating_add(time.subsec_millis().into())
}

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

/// A signal number, signal(7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sig(i32);

/// The signals that have a name everywhere; numbers as libc has them for the target.
const SIGNALS: &[(&str, i32)] = &[
    ("HUP", libc::SIGHUP),
    ("INT", libc::SIGINT),
    ("QUIT", libc::SIGQUIT),
    ("ILL", libc::SIGILL),
    ("TRAP", libc::SIGTRAP),
    ("ABRT", libc::SIGABRT),
    ("BUS", libc::SIGBUS),
    ("FPE", libc::SIGFPE),
    ("KILL", libc::SIGKILL),
    ("USR1", libc::SIGUSR1),
    ("SEGV", libc::SIGSEGV),
    ("USR2", libc::SIGUSR2),
    ("PIPE", libc::SIGPIPE),
    ("ALRM", libc::SIGALRM),
    ("TERM", libc::SIGTERM),
    ("CHLD", libc::SIGCHLD),
    ("CONT", libc::SIGCONT),
    ("STOP", libc::SIGSTOP),
    ("TSTP", libc::SIGTSTP),
    ("TTIN", libc::SIGTTIN),
    ("TTOU", libc::SIGTTOU),
    ("URG", libc::SIGURG),
    ("XCPU", libc::SIGXCPU),
    ("XFSZ", libc::SIGXFSZ),
    ("VTALRM", libc::SIGVTALRM),
    ("PROF", libc::SIGPROF),
    ("WINCH", libc::SIGWINCH),
    ("IO", libc::SIGIO),
    ("PWR", libc::SIGPWR),
    ("SYS", libc::SIGSYS),
];

impl Sig {
    /// Hangup.
    pub const HUP: Sig = Sig(libc::SIGHUP);
    /// Interrupt from the keyboard.
    pub const INT: Sig = Sig(libc::SIGINT);
    /// Quit from the keyboard.
    pub const QUIT: Sig = Sig(libc::SIGQUIT);
    /// Kill; cannot be caught.
    pub const KILL: Sig = Sig(libc::SIGKILL);
    /// First signal for the program's own use.
    pub const USR1: Sig = Sig(libc::SIGUSR1);
    /// Second signal for the program's own use.
    pub const USR2: Sig = Sig(libc::SIGUSR2);
    /// Write to a pipe without a reader.
    pub const PIPE: Sig = Sig(libc::SIGPIPE);
    /// Timer of alarm(2).
    pub const ALRM: Sig = Sig(libc::SIGALRM);
    /// Request to end.
    pub const TERM: Sig = Sig(libc::SIGTERM);
    /// A child's state changed.
    pub const CHLD: Sig = Sig(libc::SIGCHLD);
    /// Continue if stopped.
    pub const CONT: Sig = Sig(libc::SIGCONT);
    /// Stop; cannot be caught.
    pub const STOP: Sig = Sig(libc::SIGSTOP);
    /// File size limit passed.
    pub const XFSZ: Sig = Sig(libc::SIGXFSZ);

    /// The signal with this number; `None` outside 1..=64.
    pub const fn new(raw: i32) -> Option<Sig> {
        if raw >= 1 && raw <= 64 {
            Some(Sig(raw))
        } else {
            None
        }
    }

    /// The signal named `TERM`, `term`, `SIGTERM`, `15`, or as `RTMIN+3` and `RTMAX-1` as the GNU C library counts them.
    pub fn parse(text: &str) -> Option<Sig> {
        if let Ok(number) = text.parse::<i32>() {
            return Sig::new(number);
        }
        let text = text.to_ascii_uppercase();
        let name = text.strip_prefix("SIG").unwrap_or(&text);
        let from = |end: &str| if end.is_empty() { Some(0) } else { end[1..].parse().ok().filter(|by| *by <= 30u8) };
        if let Some(end) = name.strip_prefix("RTMIN").filter(|end| end.is_empty() || end.starts_with('+')) {
            return from(end).map(|by| Sig(34 + i32::from(by)));
        }
        if let Some(end) = name.strip_prefix("RTMAX").filter(|end| end.is_empty() || end.starts_with('-')) {
            return from(end).map(|by| Sig(64 - i32::from(by)));
        }
        SIGNALS.iter().find(|(known, _)| *known == name).map(|(_, raw)| Sig(*raw))
    }

    /// The number, as libc takes it.
    pub const fn raw(self) -> i32 {
        self.0
    }
}

impl fmt::Display for Sig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match SIGNALS.iter().find(|(_, raw)| *raw == self.0) {
            Some((name, _)) => write!(f, "SIG{name}"),
            None => write!(f, "signal {}", self.0),
        }
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
    /// The level of this name.
    pub fn parse(text: &str) -> Option<Level> {
        [Level::Error, Level::Warn, Level::Info, Level::Debug].into_iter().find(|level| level.name() == text)
    }

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

/// The step of making a child that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Stage {
    /// fork(2).
    Fork,
    /// setsid(2).
    Session,
    /// Entering its control group.
    Cgroup,
    /// Opening and moving file descriptors.
    Files,
    /// setrlimit(2); `SetupError::limit` says which one.
    Limits,
    /// The out-of-memory score.
    Priority,
    /// setgroups(2).
    Groups,
    /// setgid(2).
    Gid,
    /// setuid(2).
    Uid,
    /// prctl(2): no new privileges, capabilities, parent death signal.
    Privileges,
    /// chdir(2).
    Directory,
    /// Default signal actions and mask.
    Signals,
    /// execve(2).
    Exec,
    /// setpriority(2).
    Nice,
    /// Reading its environment variables.
    Environment,
    /// capset(2), and raising ambient capabilities.
    Ambient,
}

impl Stage {
    /// The stage with this number, as a child writes it to its parent.
    pub const fn from_raw(raw: u8) -> Option<Stage> {
        const ALL: [Stage; 16] = [
            Stage::Fork,
            Stage::Session,
            Stage::Cgroup,
            Stage::Files,
            Stage::Limits,
            Stage::Priority,
            Stage::Groups,
            Stage::Gid,
            Stage::Uid,
            Stage::Privileges,
            Stage::Directory,
            Stage::Signals,
            Stage::Exec,
            Stage::Nice,
            Stage::Environment,
            Stage::Ambient,
        ];
        if (raw as usize) < ALL.len() {
            Some(ALL[raw as usize])
        } else {
            None
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stage::Fork => "making a process",
            Stage::Session => "starting a session",
            Stage::Cgroup => "entering the control group",
            Stage::Files => "arranging file descriptors",
            Stage::Limits => "setting resource limits",
            Stage::Priority => "setting the out-of-memory score",
            Stage::Groups => "setting supplementary groups",
            Stage::Gid => "setting the group",
            Stage::Uid => "setting the user",
            Stage::Privileges => "dropping privileges",
            Stage::Directory => "entering the working directory",
            Stage::Signals => "resetting signals",
            Stage::Exec => "executing the program",
            Stage::Nice => "setting the priority",
            Stage::Environment => "reading the environment",
            Stage::Ambient => "giving it capabilities",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_time_that_is_known() {
        let at = |seconds| Some(Time::new(seconds, 0));
        for (times, want) in [
            (&[][..], None),
            (&[None, None], None),
            (&[at(2)], at(2)),
            (&[None, at(3), at(1), None, at(2)], at(1)),
            (&[at(0), at(5)], at(0)),
        ] {
            assert_eq!(Time::earliest(times), want, "{times:?}");
        }
    }

    #[test]
    fn signals_are_read_by_name_and_number() {
        for (text, want) in [
            ("TERM", Some(Sig::TERM)),
            ("SIGTERM", Some(Sig::TERM)),
            ("15", Some(Sig::TERM)),
            ("USR1", Some(Sig::USR1)),
            ("0", None),
            ("-9", None),
            ("65", None),
            ("term", Some(Sig::TERM)),
            ("SigUsr1", Some(Sig::USR1)),
            ("RTMIN", Sig::new(34)),
            ("rtmin+3", Sig::new(37)),
            ("SIGRTMAX-1", Sig::new(63)),
            ("RTMIN+31", None),
            ("RTMIN-1", None),
            ("RTMIN+x", None),
            ("RTMAX+1", None),
            ("", None),
        ] {
            assert_eq!(Sig::parse(text), want, "{text}");
        }
        assert_eq!(Sig::TERM.to_string(), "SIGTERM");
    }

    #[test]
    fn a_pid_that_reaches_everyone_cannot_be_made() {
        for raw in [-1, 0, 1, i32::MIN] {
            assert_eq!(Pid::new(raw), None);
        }
        assert_eq!(Pid::new(2).map(Pid::raw), Some(2));
    }

    #[test]
    fn every_stage_survives_the_pipe() {
        let mut raw = 0;
        while let Some(stage) = Stage::from_raw(raw) {
            assert_eq!(stage as u8, raw);
            raw += 1;
        }
        assert_eq!(Stage::from_raw(raw - 1), Some(Stage::Ambient));
    }

    #[test]
    fn times_saturate() {
        assert_eq!(Time(5) + Duration::MAX, Time(u64::MAX));
        assert_eq!(Time(5).since(Time(9)), Duration::ZERO);
    }
}
