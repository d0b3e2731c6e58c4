//! Signals, by number and by name.

use std::fmt;

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

#[cfg(test)]
mod tests {
    use super::*;

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
}
