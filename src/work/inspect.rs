//! What can be read of other processes only under a lock on their memory: environments, and how memory is shared.
//!
//! Any process can hold that lock for ever, for example while it maps a file of a file system that it serves itself, and
//! whoever reads these files waits. So a helper does it, and the daemon ends one that waits for too long. Nothing else in the
//! program reads them; `tests/layers.rs` checks that. What an answer means is not decided here.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::time::Duration;

use crate::kernel::Pid;
use crate::model::spec::{is_name, Name};
use crate::sys::file::read_up_to;

/// The most bytes of an environment that are read; a process that names no agent in them is a stranger. The daemon puts
/// its two variables first. Version 1.0.0 put them last, behind the up to 128 KiB that a job can set, and a shell between
/// the daemon and the process may have sorted them.
const MAX_ENVIRON: usize = 256 << 10;

/// How often a process in the middle of execve(2) is looked at, and the pause in between.
const EXEC_LOOKS: u32 = 20;
const EXEC_PAUSE: Duration = Duration::from_millis(1);

/// The answer about a process of which nothing is known.
const UNKNOWN: &str = "?";

/// Which agent a process belongs to according to its environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProcessTag {
    /// The agent with this name, of the daemon with our mark.
    Agent(Name),
    /// No agent of this daemon.
    Stranger,
    /// The environment cannot be read: the process belongs to another user, or is gone.
    Unknown,
}

/// Answers about each of these processes in order, one line each, as soon as it is known. With a mark: the agent
/// that its environment names; without: its memory. Lines are read by `ProcessTag::read` and `read_memory`.
///
/// # Errors
/// When nobody reads the answers any more.
pub(super) fn inspect(pids: &[Pid], mark: Option<&str>, out: &mut dyn Write) -> io::Result<()> {
    for pid in pids {
        let line = match mark {
            Some(mark) => settled_tag(*pid, mark).line(),
            None => shared_memory(*pid).map_or(UNKNOWN.into(), |bytes| bytes.to_string()),
        };
        // In one write, so that the answer is known before the next process is read.
        out.write_all((line + "\n").as_bytes())?;
        out.flush()?;
    }
    Ok(())
}

/// What the environment of a process says, once it is not in the middle of execve(2) any more.
fn settled_tag(pid: Pid, mark: &str) -> ProcessTag {
    for _ in 0..EXEC_LOOKS {
        match process_tag(pid, mark).0 {
            Some(tag) => return tag,
            None => std::thread::sleep(EXEC_PAUSE),
        }
    }
    ProcessTag::Unknown
}

impl ProcessTag {
    /// As a line of an answer.
    fn line(&self) -> String {
        match self {
            ProcessTag::Agent(name) => format!("={name}"),
            ProcessTag::Stranger => "-".into(),
            ProcessTag::Unknown => UNKNOWN.into(),
        }
    }

    /// Reads a line of an answer.
    pub fn read(line: &str) -> ProcessTag {
        match line.strip_prefix('=') {
            Some(name) if is_name(name) => ProcessTag::Agent(name.into()),
            _ if line == "-" => ProcessTag::Stranger,
            _ => ProcessTag::Unknown,
        }
    }
}

/// Reads a line of an answer about memory, bytes; `None` where it is unknown.
pub fn read_memory(line: &str) -> Option<u64> {
    line.parse().ok()
}

/// The anonymous and shared memory of a process in bytes: of pages that processes share, each has a part. `None` where it
/// cannot be read, and before Linux 4.14.
fn shared_memory(pid: Pid) -> Option<u64> {
    let mut text = Vec::new();
    let mut file = File::open(format!("/proc/{pid}/smaps_rollup")).ok()?;
    read_up_to(4096, &mut text, &mut |to| file.read(to)).ok()?;
    parse_rollup(&text)
}

/// The sum of Pss_Anon, Pss_Shmem and SwapPss in a `smaps_rollup` file, in bytes. Before Linux 5.4 it is the sum of Pss and
/// SwapPss, which has the pages of files too.
pub fn parse_rollup(text: &[u8]) -> Option<u64> {
    let resident = match kilobytes(text, b"Pss_Anon:") {
        Some(anonymous) => anonymous + kilobytes(text, b"Pss_Shmem:").unwrap_or(0),
        None => kilobytes(text, b"Pss:")?,
    };
    Some((resident + kilobytes(text, b"SwapPss:").unwrap_or(0)) << 10)
}

/// The number in a line `Key:   123 kB`; `None` also where it is too large to be counted in bytes.
pub fn kilobytes(text: &[u8], key: &[u8]) -> Option<u64> {
    let line = text.split(|&b| b == b'\n').find_map(|line| line.strip_prefix(key))?;
    let number: u64 = std::str::from_utf8(line).ok()?.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    (number < 1 << 50).then_some(number)
}

/// Reads from the environment of a process which agent it names, and returns that with the number of bytes read. `None`: the
/// process is in the middle of execve(2), and its environment does not exist yet.
fn process_tag(pid: Pid, mark: &str) -> (Option<ProcessTag>, usize) {
    let Ok(mut file) = open_environ(pid) else { return (Some(ProcessTag::Unknown), 0) };
    let mut environ = Environ::new(mark);
    let mut chunk = Vec::new();
    let mut length = 0;
    // One page at a time: in what the daemon starts the two variables are in the first page.
    while environ.tag().is_none() && length < MAX_ENVIRON {
        chunk.clear();
        match read_up_to(4096, &mut chunk, &mut |to| file.read(to)) {
            Ok(0) => break,
            Ok(more) => length += more,
            Err(_) => return (Some(ProcessTag::Unknown), length),
        }
        environ.read(&chunk);
    }
    if length > 0 {
        return (Some(environ.end()), length);
    }
    // In the middle of execve(2) the arguments are missing too, or execve(2) has ended since the environment was read.
    let arguments = File::open(format!("/proc/{pid}/cmdline")).and_then(|mut file| file.read(&mut [0]));
    match arguments {
        Ok(0) => (None, 0),
        _ if file.read(&mut [0]).is_ok_and(|length| length > 0) => (None, 0),
        _ => (Some(ProcessTag::Stranger), 0),
    }
}

/// The environment of a process. A main thread that has ended has none any more, but the other threads have it.
fn open_environ(pid: Pid) -> io::Result<File> {
    File::open(format!("/proc/{pid}/environ")).or_else(|error| {
        let mut threads = fs::read_dir(format!("/proc/{pid}/task"))?.flatten();
        threads.find_map(|thread| File::open(thread.path().join("environ")).ok()).ok_or(error)
    })
}

/// Which agent an environment names. `environ` is a sequence of NUL-terminated `NAME=value`; of two variables with the same
/// name the first one counts, as with getenv(3).
pub fn parse_environ(environ: &[u8], mark: &str) -> ProcessTag {
    let mut reader = Environ::new(mark);
    reader.read(environ);
    reader.end()
}

/// An environment that is read in pieces.
struct Environ<'a> {
    mark: &'a str,
    /// The beginning of a variable that continues in the next piece.
    open: Vec<u8>,
    name: Option<Box<[u8]>>,
    id: Option<Box<[u8]>>,
}

impl Environ<'_> {
    fn new(mark: &str) -> Environ<'_> {
        Environ { mark, open: Vec::new(), name: None, id: None }
    }

    fn read(&mut self, mut piece: &[u8]) {
        while let Some(end) = piece.iter().position(|&b| b == 0) {
            self.open.extend_from_slice(&piece[..end]);
            self.close();
            piece = &piece[end + 1..];
        }
        self.open.extend_from_slice(piece);
    }

    fn close(&mut self) {
        for (variable, value) in [(&b"BOOTAGENT_NAME="[..], &mut self.name), (b"BOOTAGENT_STATE_ID=", &mut self.id)] {
            if let (None, Some(text)) = (&value, self.open.strip_prefix(variable)) {
                *value = Some(text.into());
            }
        }
        self.open.clear();
    }

    /// What the environment says, once the rest of it cannot change that.
    fn tag(&self) -> Option<ProcessTag> {
        let (name, id) = (self.name.as_ref()?, self.id.as_ref()?);
        let name = std::str::from_utf8(name).ok().filter(|name| is_name(name));
        Some(match name {
            Some(name) if **id == *self.mark.as_bytes() && !self.mark.is_empty() => ProcessTag::Agent(name.into()),
            _ => ProcessTag::Stranger,
        })
    }

    fn end(mut self) -> ProcessTag {
        self.close();
        self.tag().unwrap_or(ProcessTag::Stranger)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn environments() {
        let agent = |name: &str| ProcessTag::Agent(name.into());
        for (text, want) in [
            ("BOOTAGENT_NAME=web\0BOOTAGENT_STATE_ID=/s\0", agent("web")),
            ("A=b\0BOOTAGENT_STATE_ID=/s\0=\0BOOTAGENT_NAME=web", agent("web")),
            ("BOOTAGENT_NAME=a\0BOOTAGENT_NAME=b\0BOOTAGENT_STATE_ID=/s\0", agent("a")),
            ("BOOTAGENT_NAME=web\0BOOTAGENT_STATE_ID=/s/t\0", ProcessTag::Stranger),
            ("BOOTAGENT_NAME=web\0", ProcessTag::Stranger),
            ("BOOTAGENT_STATE_ID=/s\0", ProcessTag::Stranger),
            ("XBOOTAGENT_NAME=web\0BOOTAGENT_STATE_ID=/s\0", ProcessTag::Stranger),
            ("BOOTAGENT_NAME=../x\0BOOTAGENT_STATE_ID=/s\0", ProcessTag::Stranger),
            ("BOOTAGENT_NAME=\0BOOTAGENT_STATE_ID=/s\0", ProcessTag::Stranger),
            ("\0\0\0", ProcessTag::Stranger),
        ] {
            assert_eq!(parse_environ(text.as_bytes(), "/s"), want, "{text:?}");
        }
        assert_eq!(parse_environ(b"BOOTAGENT_NAME=\xff\0BOOTAGENT_STATE_ID=/s\0", "/s"), ProcessTag::Stranger);
    }

    #[test]
    fn an_environment_says_the_same_however_it_is_cut() {
        let text = b"PATH=/bin\0BOOTAGENT_NAME=web\0LONG=xxxxxxxxxxxxxxxx\0BOOTAGENT_STATE_ID=/s\0HOME=/\0";
        for size in 1..=text.len() {
            let mut environ = Environ::new("/s");
            let mut known = None;
            for piece in text.chunks(size) {
                environ.read(piece);
                known = known.or(environ.tag());
            }
            assert_eq!(known, Some(ProcessTag::Agent("web".into())), "in pieces of {size}: before its end");
            assert_eq!(environ.end(), ProcessTag::Agent("web".into()), "in pieces of {size}");
        }
    }

    #[test]
    fn a_large_environment_is_read_only_as_far_as_needed() {
        let long = "x".repeat(100_000);
        let mut command = std::process::Command::new("sleep");
        command.arg("60").env_clear();
        for (first, want) in [(true, ProcessTag::Agent("web".into())), (false, ProcessTag::Stranger)] {
            command.env_clear();
            // `Command` sorts the variables by name.
            let name = |index: usize| if first { format!("X{index}") } else { format!("A{index}") };
            for index in 0..5 {
                command.env(name(index), &long);
            }
            let mut child = command.env("BOOTAGENT_NAME", "web").env("BOOTAGENT_STATE_ID", "/s").spawn().unwrap();
            let pid = Pid::new(child.id() as i32).unwrap();
            let (mut tag, mut length) = process_tag(pid, "/s");
            while tag.is_none() {
                std::thread::yield_now();
                (tag, length) = process_tag(pid, "/s");
            }
            let _ = (child.kill(), child.wait());
            assert_eq!(tag, Some(want));
            assert_eq!(length, if first { 4096 } else { MAX_ENVIRON });
        }
    }
    #[test]
    fn answers_come_back_as_they_went() {
        for tag in [ProcessTag::Agent("web-1".into()), ProcessTag::Stranger, ProcessTag::Unknown] {
            assert_eq!(ProcessTag::read(&tag.line()), tag);
        }
        for line in ["", "=", "=../x", "=a b", "--", "7"] {
            assert_eq!(ProcessTag::read(line), ProcessTag::Unknown, "{line:?}");
        }
        let own = Pid::new(std::process::id() as i32).unwrap();
        let gone = Pid::new(i32::MAX).unwrap();
        let mut answers = Vec::new();
        inspect(&[own, gone], None, &mut answers).unwrap();
        let lines = String::from_utf8(answers).unwrap();
        let memory: Vec<Option<u64>> = lines.lines().map(read_memory).collect();
        assert!(matches!(memory[..], [Some(10_000..), None]), "{lines}");
    }

    #[test]
    fn memory_files() {
        let rollup = "55-7f ---p 0 00:00 0 [rollup]\nRss:  900 kB\nPss:      100 kB\n";
        assert_eq!(parse_rollup(rollup.as_bytes()), Some(100 << 10));
        let with = |more: &str| parse_rollup(format!("{rollup}{more}").as_bytes());
        assert_eq!(with("SwapPss:  4 kB\n"), Some(104 << 10));
        assert_eq!(with("Pss_Anon:  50 kB\nPss_File: 20 kB\nPss_Shmem:  30 kB\nSwapPss:  4 kB\n"), Some(84 << 10));
        for text in [
            "",
            "Pss:",
            "Pss: kB",
            "Pss: -1 kB",
            "Pss: 1 MB",
            "Pss: 99999999999999999999 kB",
            "Pss: 18446744073709551615 kB",
        ] {
            assert_eq!(parse_rollup(text.as_bytes()), None, "{text:?}");
        }
    }
}
