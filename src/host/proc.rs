//! What the kernel says about processes, read from /proc: one line of `stat` for each in a pass (`Snapshot`), and the
//! dearer files of single ones when somebody asks.
//!
//! Nothing here is believed further than it reads: a process that ends meanwhile is simply not there, a line that does
//! not parse is a process that is not there. Without /proc there are no processes, and `Snapshot::fault` says why.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read};
use std::time::Duration;

use crate::kernel::{Errno, Pid, Process, Uid};
use crate::model::spec::Name;
use crate::sorted_map::{SortedMap, SortedSet};
use crate::sys::file::{read_text, read_up_to};
use crate::sys::process::own_id;

/// Clock ticks a second in /proc (USER_HZ): 100 on every target.
pub const TICKS: u64 = 100;

/// The most that is read of an environment: beyond it a process is taken for a stranger. Our two variables come first in
/// what we start; 1.0.0 put them last, behind what a job of 128 KiB can set, and a shell in between may have sorted them.
pub const MAX_ENVIRON: usize = 256 << 10;

/// PF_KTHREAD in the flags of stat: a thread of the kernel.
const KERNEL_THREAD: u64 = 0x0020_0000;

/// One process as its `stat` line shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Which one.
    pub process: Process,
    /// Its parent; 0 for one from outside the pid namespace.
    pub parent: i32,
    /// Its session: the pid of the process that started it, dead or alive.
    pub session: i32,
    /// The state letter, `R`, `S`, `D`, `T`, `t`, `Z` or `X`; `?` where it was not read.
    pub state: u8,
    /// A thread of the kernel.
    pub kernel: bool,
    /// How many threads it has.
    pub threads: u32,
    /// Processor time of its own and of the children it has waited for, in ticks.
    pub used: u64,
}

impl Stat {
    /// A process that is there, with its parent and session, of which nothing else has been read.
    pub fn unread(process: Process, parent: i32, session: i32) -> Stat {
        Stat { process, parent, session, state: b'?', kernel: false, threads: 1, used: 0 }
    }

    /// Whether it can still run: a zombie whose other threads go on can.
    pub fn alive(&self) -> bool {
        !matches!(self.state, b'Z' | b'X' | b'x') || self.threads > 1
    }

    /// Whether a signal or a tracer has stopped it, as far as is known.
    pub fn stopped(&self) -> bool {
        matches!(self.state, b'T' | b't' | b'?')
    }
}

/// Every process of the host but init and the kernel's own threads, at one moment; ordered by pid.
#[derive(Debug, Default)]
pub struct Snapshot {
    stats: Vec<Stat>,
    fault: Option<Box<str>>,
    /// The fault is one of this moment: there may be any process.
    passing: bool,
    /// It was made by hand, and what is in it is not to be looked up again.
    made: bool,
}

impl Snapshot {
    /// One pass over /proc.
    pub fn take() -> Snapshot {
        Snapshot::around(&SortedMap::new())
    }

    /// The same, without reading anything about these children of ours, ids with start times: each leads a session of its
    /// own, and its id cannot change hands before we reap it.
    pub fn around(children: &SortedMap<Pid, u64>) -> Snapshot {
        let mut snapshot = Snapshot::default();
        let threads = kernel_threads();
        let entries = match fs::read_dir("/proc") {
            Ok(entries) => entries,
            Err(cause) => return Snapshot::failed(&cause),
        };
        for entry in entries {
            // An error in the middle of the list would make processes look dead: better to know nothing.
            let entry = match entry {
                Ok(entry) => entry,
                Err(cause) => return Snapshot::failed(&cause),
            };
            let name = entry.file_name();
            let Some(pid) = name.to_str().and_then(parse_pid).filter(|pid| !threads.contains(pid)) else { continue };
            if snapshot.stats.try_reserve(1).is_err() {
                return Snapshot::failed(&io::Error::from_raw_os_error(libc::ENOMEM));
            }
            if let Some(&ticks) = children.get(&pid) {
                snapshot.stats.push(Stat::unread(Process { pid, ticks }, own_id(), pid.raw()));
                continue;
            }
            match read_stat(pid) {
                Ok(stat) => snapshot.stats.extend(stat),
                Err(cause) => return Snapshot::failed(&cause),
            }
        }
        // Without it, this is an empty directory, or the /proc of another pid namespace, whose numbers are no ids of ours.
        match fs::read_link("/proc/self") {
            Ok(own) if own.to_str().and_then(|own| own.parse().ok()) == Some(own_id()) => {}
            Ok(_) => return Snapshot::failed(&io::Error::from_raw_os_error(libc::ENOENT)),
            Err(cause) => return Snapshot::failed(&cause),
        }
        snapshot.stats.sort_unstable_by_key(|stat| stat.process.pid);
        snapshot
    }

    /// Only `roots` and what descends from them, by the kernel's own lists of children where it keeps them: on a host
    /// with thousands of other processes the cheaper way to look at a few agents. Else the same as `take`.
    pub fn below(roots: &[Pid]) -> Snapshot {
        let mut snapshot = Snapshot::default();
        let mut open: Vec<Pid> = roots.to_vec();
        let mut looked_at = SortedSet::new();
        while let Some(pid) = open.pop() {
            if !looked_at.insert(pid) {
                continue;
            }
            let stat = match read_stat(pid) {
                Ok(Some(stat)) => stat,
                Ok(None) => continue,
                Err(cause) => return Snapshot::failed(&cause),
            };
            snapshot.stats.push(stat);
            let listed = match stat.threads {
                1 => children_of(pid.raw()).map(|children| open.extend(children)).is_some(),
                _ => children(pid.raw(), &mut open),
            };
            if !listed && self::stat(pid).is_some_and(|stat| stat.alive()) {
                return Snapshot::take();
            }
        }
        snapshot.stats.sort_unstable_by_key(|stat| stat.process.pid);
        snapshot
    }

    /// A snapshot of exactly these, for tests and for hosts whose processes are known otherwise.
    pub fn of(mut stats: Vec<Stat>) -> Snapshot {
        stats.sort_unstable_by_key(|stat| stat.process.pid);
        Snapshot { stats, made: true, ..Snapshot::default() }
    }

    fn failed(cause: &io::Error) -> Snapshot {
        let fault = match cause.raw_os_error() {
            Some(code) => format!("cannot read \"/proc\": {}", Errno(code)),
            None => format!("cannot read \"/proc\": {cause}"),
        };
        Snapshot { fault: Some(fault.into()), passing: !is_gone(cause), ..Snapshot::default() }
    }

    /// Why nothing is known about processes; `None` when /proc could be read.
    pub fn fault(&self) -> Option<&str> {
        self.fault.as_deref()
    }

    /// Whether that is for now only, for want of descriptors or memory: nothing is known then about any process.
    pub fn is_passing(&self) -> bool {
        self.passing
    }

    /// All of them, ordered by pid.
    pub fn stats(&self) -> &[Stat] {
        &self.stats
    }

    /// The process that has this id.
    pub fn find(&self, pid: Pid) -> Option<&Stat> {
        self.index(pid).map(|index| &self.stats[index])
    }

    /// Where in `stats` it is.
    pub fn index(&self, pid: Pid) -> Option<usize> {
        self.stats.binary_search_by_key(&pid, |stat| stat.process.pid).ok()
    }

    /// This very process, unless it is gone.
    pub fn get(&self, process: Process) -> Option<&Stat> {
        self.find(process.pid).filter(|stat| stat.process.ticks == process.ticks)
    }

    /// Whether this process is in this session still, after the whole snapshot was taken: so no other session can have
    /// had the same id meanwhile.
    pub fn is_still_in(&self, process: Process, session: i32) -> bool {
        let same = |stat: &Stat| stat.process == process && stat.session == session;
        if self.made {
            return self.find(process.pid).is_some_and(same);
        }
        stat(process.pid).as_ref().is_some_and(same)
    }
}

/// The process that has this id now; `None` when there is none or nothing can be read.
pub fn stat(pid: Pid) -> Option<Stat> {
    read_stat(pid).ok().flatten()
}

/// The same, apart from what cannot be read although it may be there.
fn read_stat(pid: Pid) -> io::Result<Option<Stat>> {
    let mut path = Path::new();
    let _ = write!(path, "/proc/{pid}/stat");
    let mut buffer = [0; 1024];
    match read_some(path.as_str(), &mut buffer) {
        Ok(length) => Ok(parse_stat(&buffer[..length])),
        Err(cause) if is_gone(&cause) => Ok(None),
        Err(cause) => Err(cause),
    }
}

/// The kernel's own threads, which are no agent's and may be the most of a host's processes; none where it keeps no lists of
/// children. In a pid namespace of its own, process 2 is any.
fn kernel_threads() -> SortedSet<Pid> {
    let mut threads = SortedSet::new();
    if let Some(all) = Pid::new(2).filter(|pid| stat(*pid).is_some_and(|stat| stat.kernel)) {
        threads.insert(all);
        threads.extend(children_of(all.raw()).into_iter().flatten());
    }
    threads
}

/// Whether a file of a process is missing or closed to us for good, and not for want of descriptors or memory.
fn is_gone(cause: &io::Error) -> bool {
    !matches!(cause.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::EIO))
}

/// Whether `process` is still the one with its id, and not a zombie. It is taken for alive while that cannot be read: to
/// start another beside it would be worse than to be late.
pub fn alive(process: Process) -> bool {
    match read_stat(process.pid) {
        Ok(stat) => stat.is_some_and(|stat| stat.process == process && stat.alive()),
        Err(_) => true,
    }
}

/// A process id as a whole file name or word.
pub fn parse_pid(text: &str) -> Option<Pid> {
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Pid::new(text.parse().ok()?)
}

/// Reads one `stat` line. The program's name in it may hold spaces, parentheses and line ends: what counts starts after
/// the last `)`, as all that follows are numbers.
pub fn parse_stat(line: &[u8]) -> Option<Stat> {
    let open = line.iter().position(|&b| b == b'(')?;
    let close = line.iter().rposition(|&b| b == b')')?;
    let pid = parse_pid(std::str::from_utf8(line.get(..open)?).ok()?.trim_end())?;
    let rest = std::str::from_utf8(line.get(close + 1..)?).ok()?;
    let mut words = rest.split_ascii_whitespace();
    let mut next = || words.next();
    let state = match next()?.as_bytes() {
        [letter] => *letter,
        _ => return None,
    };
    let parent = next()?.parse().ok()?;
    let _group = next()?;
    let session = next()?.parse().ok()?;
    let (_terminal, _foreground) = (next()?, next()?);
    let flags: u64 = next()?.parse().ok()?;
    for _faults in 0..4 {
        next()?;
    }
    let mut used = 0u64;
    for _utime_stime_cutime_cstime in 0..4 {
        // The children's times are printed signed.
        let time: i64 = next()?.parse().ok()?;
        used = used.saturating_add(time.max(0) as u64);
    }
    let (_priority, _nice) = (next()?, next()?);
    let threads = next()?.parse().ok()?;
    let _timer = next()?;
    let ticks = next()?.parse().ok()?;
    let kernel = flags & KERNEL_THREAD != 0;
    Some(Stat { process: Process { pid, ticks }, parent, session, state, kernel, threads, used })
}

/// The real, effective and saved user of a process.
pub fn users(pid: Pid) -> Option<[Uid; 3]> {
    let mut path = Path::new();
    let _ = write!(path, "/proc/{pid}/status");
    let mut buffer = [0; 4096];
    let length = read_some(path.as_str(), &mut buffer).ok()?;
    parse_users(&buffer[..length])
}

/// The real, effective and saved user in a status. A program's name, which comes before them, holds no line end there.
pub fn parse_users(text: &[u8]) -> Option<[Uid; 3]> {
    let line = text.split(|&b| b == b'\n').find_map(|line| line.strip_prefix(b"Uid:"))?;
    let mut words = std::str::from_utf8(line).ok()?.split_ascii_whitespace();
    let mut next = || words.next()?.parse().ok().map(Uid);
    Some([next()?, next()?, next()?])
}

/// The control groups of the process with this id in all hierarchies, as the kernel lists them; empty where it has none.
pub fn groups(pid: i32) -> Vec<u8> {
    let mut path = Path::new();
    let _ = write!(path, "/proc/{pid}/cgroup");
    let mut text = Vec::new();
    if let Ok(mut file) = File::open(path.as_str()) {
        let _ = read_up_to(64 << 10, &mut text, &mut |to| file.read(to));
    }
    text
}

/// How long ago a process was started; `None` where the kernel does not say how long it has been up.
pub fn age(process: Process) -> Option<Duration> {
    let mut buffer = [0; 64];
    let length = read_some("/proc/uptime", &mut buffer).ok()?;
    let up = parse_uptime(std::str::from_utf8(&buffer[..length]).ok()?)?;
    Some(up.saturating_sub(Duration::from_millis(process.ticks.saturating_mul(1000) / TICKS)))
}

/// The first number of /proc/uptime, seconds with two decimals. (The parser of floats comes with large tables.)
fn parse_uptime(text: &str) -> Option<Duration> {
    let (seconds, rest) = text.split_once('.')?;
    let hundredths: u64 = rest.get(..2)?.parse().ok()?;
    Some(Duration::from_secs(seconds.parse().ok()?) + Duration::from_millis(hundredths * 10))
}

/// What an environment says about whose process it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProcessTag {
    /// It is of the agent of this name, under our state directory.
    Agent(Name),
    /// It is not one of ours.
    Stranger,
    /// It is just becoming another program: its environment is not there yet.
    Executing,
    /// Nothing could be read: it is another user's, or gone.
    Unknown,
}

/// Reads from a process's environment which agent it names; with how many bytes were read for that.
pub fn process_tag(pid: Pid, state_dir: &str) -> (ProcessTag, usize) {
    let mut path = Path::new();
    let _ = write!(path, "/proc/{pid}/environ");
    let Ok(mut file) = File::open(path.as_str()) else { return (ProcessTag::Unknown, 0) };
    let mut environ = Environ::new(state_dir);
    let mut chunk = Vec::new();
    let mut length = 0;
    // A page at a time: what we start has its mark in the first.
    while environ.mark().is_none() && length < MAX_ENVIRON {
        chunk.clear();
        match read_up_to(4096, &mut chunk, &mut |to| file.read(to)) {
            Ok(0) => break,
            Ok(more) => length += more,
            Err(_) => return (ProcessTag::Unknown, length),
        }
        environ.read(&chunk);
    }
    if length > 0 {
        return (environ.end(), length);
    }
    // In the middle of execve(2) the arguments are not there either, or were there just before the environment.
    path.clear();
    let _ = write!(path, "/proc/{pid}/cmdline");
    match read_some(path.as_str(), &mut [0]) {
        Ok(0) => (ProcessTag::Executing, 0),
        _ if file.read(&mut [0]).is_ok_and(|length| length > 0) => (ProcessTag::Executing, 0),
        _ => (ProcessTag::Stranger, 0),
    }
}

/// Which agent an environment of NUL-ended `NAME=value` names; the first one of a name counts, as for getenv(3).
pub fn parse_environ(environ: &[u8], state_dir: &str) -> ProcessTag {
    let mut reader = Environ::new(state_dir);
    reader.read(environ);
    reader.end()
}

/// An environment that comes in pieces.
struct Environ<'a> {
    state_dir: &'a str,
    /// The beginning of the variable that the next piece goes on with.
    open: Vec<u8>,
    name: Option<Box<[u8]>>,
    directory: Option<Box<[u8]>>,
}

impl Environ<'_> {
    fn new(state_dir: &str) -> Environ<'_> {
        Environ { state_dir, open: Vec::new(), name: None, directory: None }
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
        for (variable, value) in
            [(&b"BOOTAGENT_NAME="[..], &mut self.name), (b"BOOTAGENT_STATE_DIR=", &mut self.directory)]
        {
            if let (None, Some(found)) = (&value, self.open.strip_prefix(variable)) {
                *value = Some(found.into());
            }
        }
        self.open.clear();
    }

    /// What it says, once that cannot change any more.
    fn mark(&self) -> Option<ProcessTag> {
        let (name, directory) = (self.name.as_ref()?, self.directory.as_ref()?);
        let name = std::str::from_utf8(name).ok().filter(|name| crate::model::spec::is_name(name));
        Some(match name {
            Some(name) if **directory == *self.state_dir.as_bytes() => ProcessTag::Agent(name.into()),
            _ => ProcessTag::Stranger,
        })
    }

    fn end(mut self) -> ProcessTag {
        self.close();
        self.mark().unwrap_or(ProcessTag::Stranger)
    }
}

/// The memory of one process in bytes.
///
/// It is the proportional share (`Pss` of smaps_rollup) with what is swapped out: the sum over a tree then counts a page
/// that forked processes share once, as a cgroup does, where a sum of resident sizes would count it for each. Where that
/// file is missing (before 4.14) or not ours to read, it is what is private by kind, RssAnon and RssShmem, which
/// leaves out the program's own pages but does count copy-on-write ones twice; before 4.5 only VmRSS is left.
pub fn memory(pid: Pid) -> Option<u64> {
    let mut buffer = [0; 4096];
    let mut path = Path::new();
    let _ = write!(path, "/proc/{pid}/smaps_rollup");
    if let Ok(length) = read_some(path.as_str(), &mut buffer) {
        if let Some(bytes) = parse_rollup(&buffer[..length]) {
            return Some(bytes);
        }
    }
    path.clear();
    let _ = write!(path, "/proc/{pid}/status");
    let length = read_some(path.as_str(), &mut buffer).ok()?;
    parse_status(&buffer[..length])
}

/// Pss and SwapPss of a smaps_rollup, in bytes.
pub fn parse_rollup(text: &[u8]) -> Option<u64> {
    Some(kilobytes(text, b"Pss:")?.saturating_add(kilobytes(text, b"SwapPss:").unwrap_or(0)) << 10)
}

/// RssAnon, RssShmem and VmSwap of a status, or else VmRSS and VmSwap, in bytes.
pub fn parse_status(text: &[u8]) -> Option<u64> {
    let resident = match kilobytes(text, b"RssAnon:") {
        Some(anonymous) => anonymous.saturating_add(kilobytes(text, b"RssShmem:").unwrap_or(0)),
        None => kilobytes(text, b"VmRSS:")?,
    };
    Some(resident.saturating_add(kilobytes(text, b"VmSwap:").unwrap_or(0)) << 10)
}

/// The value of a line `Key:   123 kB`, as long as it can be counted in bytes.
fn kilobytes(text: &[u8], key: &[u8]) -> Option<u64> {
    let line = text.split(|&b| b == b'\n').find_map(|line| line.strip_prefix(key))?;
    let number: u64 = std::str::from_utf8(line).ok()?.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    (number < 1 << 50).then_some(number)
}

/// The children of a process of a single thread; `None` where the kernel keeps no such lists.
pub fn children_of(pid: i32) -> Option<Vec<Pid>> {
    let (mut path, mut found) = (Path::new(), Vec::new());
    let _ = write!(path, "/proc/{pid}/task/{pid}/children");
    listed(path.as_str(), &mut found).ok().map(|()| found)
}

/// Adds the children of each thread of `pid` to `found`; false where the kernel keeps no such lists.
fn children(pid: i32, found: &mut Vec<Pid>) -> bool {
    let mut path = Path::new();
    let _ = write!(path, "/proc/{pid}/task");
    let Ok(threads) = fs::read_dir(path.as_str()) else { return false };
    let mut known = false;
    for thread in threads.flatten() {
        let name = thread.file_name();
        let Some(name) = name.to_str() else { continue };
        path.clear();
        let _ = write!(path, "/proc/{pid}/task/{name}/children");
        match listed(path.as_str(), found) {
            Ok(()) => known = true,
            Err(cause) if is_gone(&cause) => {}
            Err(_) => return false,
        }
    }
    known
}

/// Adds the process ids that a file lists.
fn listed(path: &str, found: &mut Vec<Pid>) -> io::Result<()> {
    found.extend(read_text(std::path::Path::new(path))?.split_ascii_whitespace().filter_map(parse_pid));
    Ok(())
}

/// Reads the beginning of a file of /proc that comes as one record, and so whole by one read where `buffer` has the room.
fn read_some(path: &str, buffer: &mut [u8]) -> io::Result<usize> {
    let mut file = File::open(path)?;
    loop {
        match file.read(buffer) {
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
            read => return read,
        }
    }
}

/// A short path below /proc, without an allocation.
struct Path {
    bytes: [u8; 64],
    length: usize,
}

impl Path {
    fn new() -> Path {
        Path { bytes: [0; 64], length: 0 }
    }

    fn clear(&mut self) {
        self.length = 0;
    }

    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.length]).unwrap_or("")
    }
}

impl std::fmt::Write for Path {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let end = self.length + text.len();
        self.bytes.get_mut(self.length..end).ok_or(std::fmt::Error)?.copy_from_slice(text.as_bytes());
        self.length = end;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
