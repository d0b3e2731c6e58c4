//! Jobs as the servers give them, their results, and one job's way through its phases.

use std::fmt;
use std::time::Duration;

use crate::model::package::{Digest, Format};
use crate::model::schedule::Server;
use crate::model::spec::{Envs, Limits, Name, Spec};

/// The name by which jobs mean the daemon itself.
pub const SELF: &str = "bootagent";

/// A job's id, checked with `spec::is_job_id`.
pub type JobId = Box<str>;

/// One order from a server.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// Chosen by the server, echoed in the result.
    pub id: JobId,
    /// What to do.
    pub action: JobAction,
    /// The agent to act on; `bootagent` is the daemon itself; empty only for a `config` of the daemon.
    pub name: Name,
    /// Replaces the job-given environment of the agent.
    pub envs: Option<Envs>,
    /// Replaces the job-given limits of the agent.
    pub limits: Option<Limits>,
    /// The agent's definition.
    pub definition: Option<Box<Spec>>,
    /// The definition as JSON text, to be kept; empty without one.
    pub definition_text: Box<str>,
    /// Version of the package.
    pub version: Option<Box<str>>,
    /// How long the agent must be alive for the job to count as done.
    pub startsecs: Option<Duration>,
    /// Text of a .minisig file over the package.
    pub signature: Option<Box<str>>,
    /// The job begins at a moment of this window that the host's identity picks; zero: at once.
    pub window: Duration,
    /// How long after receipt it may begin; `None`: for ever.
    pub expires: Option<Duration>,
    /// The job as JSON text, as it was given: what its durable record keeps.
    pub text: Box<str>,
}

/// What a job orders.
#[derive(Clone, Debug, PartialEq)]
pub enum JobAction {
    /// Install a package and start its agent.
    Install(Source),
    /// Replace the package of an agent, going back if the new one does not stay alive.
    Upgrade(Source),
    /// Stop the agent, remove package, definition and records.
    Uninstall,
    /// Want the agent up, and start it.
    Start,
    /// Want the agent down, and stop it.
    Stop,
    /// Stop the agent if it runs, and start it.
    Restart,
    /// Change settings: of the daemon (`svrlist`, `step`), or of one agent (`envs`, `limits` with a name).
    Config {
        /// The new server list on trial; an empty one clears the given list.
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
            JobAction::Config { .. } => "config",
        }
    }
}

/// Where a package comes from and what it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// `ftp://`, `http://` or `file://`, as given (may hold a password: never shown).
    pub url: Box<str>,
    /// What the bytes must hash to.
    pub digest: Digest,
    /// By its file name.
    pub format: Format,
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
    /// The package cannot be had.
    Download = 4,
    /// The package is not what was promised.
    Checksum = 5,
    /// The installer did not do it.
    Install = 6,
    /// The agent does not start or stay alive.
    Start = 7,
    /// Undone: the previous package runs again.
    RolledBack = 8,
    /// Not begun in time, or cancelled.
    Expired = 9,
    /// Signature or policy forbids it.
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

/// How a job ended: a code and one sentence for a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What kind of end.
    pub code: Code,
    /// At most 1 KiB, no control characters, no secrets: made so by `Outcome::new`.
    pub message: Box<str>,
}

/// The longest message of a result or detail, bytes.
pub const MESSAGE_MAX: usize = 1024;

impl Outcome {
    /// An outcome whose message is made fit to be sent: control characters become spaces, and what is over 1 KiB is
    /// cut in the middle, as both the beginning and the last lines matter.
    pub fn new(code: Code, message: &str) -> Outcome {
        Outcome { code, message: sanitize(message, MESSAGE_MAX).into() }
    }
}

/// `words` with `between` in between. (`join` of the standard library takes ten times the code, for each type of words.)
pub fn joined(words: &mut dyn Iterator<Item = &str>, between: &str) -> String {
    let mut text = words.next().unwrap_or_default().to_string();
    for word in words {
        text.push_str(between);
        text.push_str(word);
    }
    text
}

/// Characters that nobody sees and that change how others are read, or carry what nobody reads: all of the general category
/// Cf (bidirectional marks, overrides and isolates, zero-width characters, tags), and what else a terminal shows as nothing:
/// variation selectors, fillers, what Unicode keeps for more of them. Ranges, in their order.
const INVISIBLE: [(u32, u32); 25] = [
    (0x00ad, 0x00ad),
    (0x034f, 0x034f),
    (0x0600, 0x0605),
    (0x061c, 0x061c),
    (0x06dd, 0x06dd),
    (0x070f, 0x070f),
    (0x0890, 0x0891),
    (0x08e2, 0x08e2),
    (0x115f, 0x1160),
    (0x17b4, 0x17b5),
    (0x180b, 0x180f),
    (0x200b, 0x200f),
    (0x202a, 0x202e),
    (0x2060, 0x206f),
    (0x3164, 0x3164),
    (0xfe00, 0xfe0f),
    (0xfeff, 0xfeff),
    (0xffa0, 0xffa0),
    (0xfff0, 0xfffb),
    (0x110bd, 0x110bd),
    (0x110cd, 0x110cd),
    (0x13430, 0x1343f),
    (0x1bca0, 0x1bca3),
    (0x1d173, 0x1d17a),
    (0xe0000, 0xe0fff),
];

/// `text` as a terminal may have it: without what nobody sees, and with spaces for control characters but line ends.
pub fn visible(text: &str) -> String {
    let seen = |c: &char| !INVISIBLE.iter().any(|(first, last)| (*first..=*last).contains(&u32::from(*c)));
    text.chars().filter(seen).map(|c| if c.is_control() && c != '\n' { ' ' } else { c }).collect()
}

/// `text` on one line and at most `max` bytes: runs of white space and control characters become one space (line ends
/// " | "), what nobody sees is left out, and the middle of a longer text becomes " ... ". All that an agent, a package, a
/// server or a file's name says goes through here on its way to a log, a terminal or a server.
pub fn sanitize(text: &str, max: usize) -> String {
    let mut line = String::with_capacity(text.len().min(max));
    let text = visible(text);
    for part in text.lines() {
        let mut words = part.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
        let Some(first) = words.next() else { continue };
        if !line.is_empty() {
            line.push_str(" | ");
        }
        line.push_str(first);
        for word in words {
            line.push(' ');
            line.push_str(word);
        }
    }
    if line.len() <= max {
        return line;
    }
    const GAP: &str = " ... ";
    let half = max.saturating_sub(GAP.len()) / 2;
    let mut head = half;
    while !line.is_char_boundary(head) {
        head -= 1;
    }
    let mut tail = line.len() - half;
    while !line.is_char_boundary(tail) {
        tail += 1;
    }
    format!("{}{GAP}{}", &line[..head], &line[tail..])
}

/// A job that cannot be run as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejectedJob {
    /// Its id, where it has a usable one; without it the rejection can only be logged.
    pub id: Option<JobId>,
    /// `Code::BadJob` or `Code::UnknownAction`.
    pub code: Code,
    /// Which field, what was wrong.
    pub message: Box<str>,
    /// The `action` as given, for the ledger; empty without one.
    pub action: Box<str>,
    /// The `name` as given, when it is one; else empty.
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
    fn words_are_joined() {
        for (words, want) in [(&[][..], ""), (&["a"], "a"), (&["a", "", "b"], "a, , b"), (&["", "b"], ", b")] {
            assert_eq!(joined(&mut words.iter().copied(), ", "), want);
        }
    }

    #[test]
    fn messages_fit_on_the_wire() {
        for (text, max, want) in [
            ("a\u{202e}b\u{2066}c\u{200b}d\u{feff}e\u{e0041}f\u{e007f}g\u{ad}h", 100, "abcdefgh"),
            ("a\u{2028}b\u{2029}c\u{85}d\u{9b}e", 100, "a b c d e"),
            ("\u{200d}\u{202a}", 100, ""),
            (
                "\u{e9}t\u{e9} \u{4e2d}\u{6587} \u{1f600} e\u{301}",
                100,
                "\u{e9}t\u{e9} \u{4e2d}\u{6587} \u{1f600} e\u{301}",
            ),
            ("one\ttwo\n\n  three\x07\n", 100, "one two | three"),
            ("", 100, ""),
            ("abcdefghijklmnop", 15, "abcde ... lmnop"),
            ("äääääääääää", 15, "ää ... ää"),
        ] {
            assert_eq!(sanitize(text, max), want);
        }
        assert!(sanitize(&"x".repeat(5000), MESSAGE_MAX).len() <= MESSAGE_MAX);
    }
}
