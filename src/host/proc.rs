//! What the kernel says about processes, read from /proc: the `stat` line of each process in one pass (`Snapshot`), and
//! the files that cost more to read, of single processes when they are asked for.
//!
//! None of these files needs a lock on the memory of a process, so that no process can delay the daemon. Those that do,
//! such as its environment, are read by a helper (`work::inspect`).
//!
//! A process that ends during a pass, or whose `stat` line does not parse, is left out. Without /proc there are no
//! processes, and `Snapshot::fault` says why. Nothing here decides which agent a process belongs to.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use crate::kernel::{Errno, Exit, Pid, Process, Uid, TICKS};
use crate::model::membership::Kin;
use crate::sorted_map::{SortedMap, SortedSet};
use crate::sys::file::{read_text, read_up_to};
use crate::sys::process::{exit_of, own_id};
use crate::work::inspect::kilobytes;

/// PF_KTHREAD in the flags of `stat`, which marks a thread of the kernel.
const KERNEL_THREAD: u64 = 0x0020_0000;

/// One process as its `stat` line shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Its id and start time.
    pub process: Process,
    /// Its parent; 0 for one from outside the pid namespace.
    pub parent: i32,
    /// Its session: the pid of the process that created the session, which may have ended.
    pub session: i32,
    /// The state letter, `R`, `S`, `D`, `T`, `t`, `Z` or `X`; `?` where it was not read.
    pub state: u8,
    /// Whether it is a thread of the kernel.
    pub kernel: bool,
    /// The number of its threads.
    pub threads: u32,
    /// Processor time of the process and of the children it has waited for, in ticks (`TICKS` a second).
    pub used: u64,
}

impl Stat {
    /// A process that exists, with its parent and session; nothing else of it has been read.
    pub fn unread(process: Process, parent: i32, session: i32) -> Stat {
        Stat { process, parent, session, state: b'?', kernel: false, threads: 1, used: 0 }
    }

    /// What tells which processes have started which.
    pub fn kin(&self) -> Kin {
        Kin { process: self.process, parent: self.parent, session: self.session }
    }

    /// Whether it can still run. A zombie can while it has other threads.
    pub fn alive(&self) -> bool {
        !matches!(self.state, b'Z' | b'X' | b'x') || self.threads > 1
    }

    /// Whether a signal or a tracer has stopped it; true where its state was not read.
    pub fn stopped(&self) -> bool {
        matches!(self.state, b'T' | b't' | b'?')
    }
}

/// Every process of the host except init and the kernel's threads, at one moment; ordered by pid.
#[derive(Debug, Default)]
pub struct Snapshot {
    stats: Vec<Stat>,
    fault: Option<Box<str>>,
    /// The fault is temporary, so any process may exist.
    temporary: bool,
    /// It was made by `of`, and its processes must not be looked up in /proc.
    synthetic: bool,
}

impl Snapshot {
    /// One pass over /proc.
    pub fn take() -> Snapshot {
        Snapshot::around(&SortedMap::new())
    }

    /// The same, without reading anything about `children`, which are children of the daemon, ids with start times. Each
    /// leads its own session, and its id cannot pass to another process before the daemon reaps it.
    pub fn around(children: &SortedMap<Pid, u64>) -> Snapshot {
        Snapshot::read(children).unwrap_or_else(|cause| Snapshot::failed(&cause))
    }

    fn read(children: &SortedMap<Pid, u64>) -> io::Result<Snapshot> {
        let threads = kernel_threads();
        let mut stats = Vec::new();
        // The kernel adds the number of processes to the link count of /proc. With it the list need not grow and move.
        let _ = stats.try_reserve_exact(fs::metadata("/proc")?.nlink() as usize);
        // Listing and reading alternate: the child of a process that has ended when it is read is still to be listed.
        for entry in fs::read_dir("/proc")? {
            // An error here is one of the whole pass, as a part of the list would make processes look dead.
            let name = entry?.file_name();
            let Some(pid) = name.to_str().and_then(parse_pid).filter(|pid| !threads.contains(pid)) else { continue };
            stats.try_reserve(1).map_err(|_| io::Error::from_raw_os_error(libc::ENOMEM))?;
            match children.get(&pid) {
                Some(&ticks) => stats.push(Stat::unread(Process { pid, ticks }, own_id(), pid.raw())),
                None => stats.extend(read_stat(pid)?.filter(|stat| !stat.kernel)),
            }
        }
        // Where this is not our id, /proc is an empty directory or belongs to another pid namespace, with other ids.
        let own = fs::read_link("/proc/self")?;
        if own.to_str().and_then(|own| own.parse().ok()) != Some(own_id()) {
            return Err(io::Error::from_raw_os_error(libc::ENOENT));
        }
        Ok(Snapshot::sorted(stats))
    }

    /// Only `roots` and their descendants, found by the kernel's lists of children. On a host with thousands of other
    /// processes this is the cheaper way to look at a few agents. Where the kernel keeps no such lists, the same as `take`.
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
                _ => add_children(pid.raw(), &mut open),
            };
            if !listed && self::stat(pid).is_some_and(|stat| stat.alive()) {
                return Snapshot::take();
            }
        }
        Snapshot::sorted(snapshot.stats)
    }

    /// A snapshot of exactly these processes, for tests.
    pub fn of(stats: Vec<Stat>) -> Snapshot {
        Snapshot { synthetic: true, ..Snapshot::sorted(stats) }
    }

    fn sorted(mut stats: Vec<Stat>) -> Snapshot {
        stats.sort_unstable_by_key(|stat| stat.process.pid);
        Snapshot { stats, ..Snapshot::default() }
    }

    fn failed(cause: &io::Error) -> Snapshot {
        let fault = match cause.raw_os_error() {
            Some(code) => format!("cannot read \"/proc\": {}", Errno(code)),
            None => format!("cannot read \"/proc\": {cause}"),
        };
        Snapshot { fault: Some(fault.into()), temporary: !is_gone(cause), ..Snapshot::default() }
    }

    /// Why nothing is known about processes; `None` when /proc could be read.
    pub fn fault(&self) -> Option<&str> {
        self.fault.as_deref()
    }

    /// Whether the fault is temporary, such as a lack of descriptors or memory. Nothing is known about any process then.
    pub fn has_temporary_fault(&self) -> bool {
        self.temporary
    }

    /// All of them, ordered by pid.
    pub fn stats(&self) -> &[Stat] {
        &self.stats
    }

    /// The process with this id.
    pub fn find(&self, pid: Pid) -> Option<&Stat> {
        self.index(pid).map(|index| &self.stats[index])
    }

    /// The index in `stats` of the process with this id.
    pub fn index(&self, pid: Pid) -> Option<usize> {
        self.stats.binary_search_by_key(&pid, |stat| stat.process.pid).ok()
    }

    /// This process, unless it is gone or another one has its id.
    pub fn get(&self, process: Process) -> Option<&Stat> {
        self.find(process.pid).filter(|stat| stat.process.ticks == process.ticks)
    }

    /// Whether this process is still in this session now, after the snapshot was taken. If so, no other session can have
    /// had the same id in between.
    pub fn is_still_in(&self, process: Process, session: i32) -> bool {
        let same = |stat: &Stat| stat.process == process && stat.session == session;
        if self.synthetic {
            return self.find(process.pid).is_some_and(same);
        }
        stat(process.pid).as_ref().is_some_and(same)
    }
}

/// How this process ended, while its parent has not taken its status yet; `None` afterwards, and where the kernel does not
/// let us read it. `exit_code` is the last field of the line, proc_pid_stat(5).
pub fn exit_of_zombie(process: Process) -> Option<Exit> {
    let line = fs::read(format!("/proc/{}/stat", process.pid)).ok()?;
    in_host_time(parse_stat(&line)?).filter(|stat| stat.process == process && !stat.alive())?;
    // Whoever may not trace the process reads a 0 there, and may not read this link either.
    fs::read_link(format!("/proc/{}/ns/user", process.pid)).ok()?;
    let status = line.trim_ascii_end().rsplit(|byte| *byte == b' ').next()?;
    std::str::from_utf8(status).ok()?.parse().ok().map(exit_of)
}

/// The process with this id now; `None` when there is none or it cannot be read.
pub fn stat(pid: Pid) -> Option<Stat> {
    read_stat(pid).ok().flatten()
}

/// The same; an error where the process may exist although it cannot be read.
fn read_stat(pid: Pid) -> io::Result<Option<Stat>> {
    let mut buffer = [0; 1024];
    match read_some(&format!("/proc/{pid}/stat"), &mut buffer) {
        Ok(length) => Ok(parse_stat(&buffer[..length]).and_then(in_host_time)),
        Err(cause) if is_gone(&cause) => Ok(None),
        Err(cause) => Err(cause),
    }
}

/// The same with the start time as every time namespace of this host has it.
fn in_host_time(mut stat: Stat) -> Option<Stat> {
    stat.process.ticks = stat.process.ticks.checked_add_signed(-own_offset())?;
    Some(stat)
}

/// What our own time namespace adds to all times since boot, in ticks: time_namespaces(7). The daemon before this one may
/// have been in another one.
fn own_offset() -> i64 {
    static OFFSET: OnceLock<i64> = OnceLock::new();
    if let Some(known) = OFFSET.get() {
        return *known;
    }
    match read_text(Path::new("/proc/self/timens_offsets")) {
        Ok(text) => *OFFSET.get_or_init(|| parse_offset(&text).unwrap_or(0)),
        Err(cause) if is_gone(&cause) => *OFFSET.get_or_init(|| 0),
        Err(_) => 0,
    }
}

/// The offset of the clock since boot, of which the file has seconds and nanoseconds.
fn parse_offset(text: &str) -> Option<i64> {
    let mut words = text.lines().find_map(|line| line.strip_prefix("boottime"))?.split_ascii_whitespace();
    let (seconds, nanoseconds): (i64, i64) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let ticks = TICKS as i64;
    seconds.checked_mul(ticks)?.checked_add(nanoseconds / (1_000_000_000 / ticks))
}

/// The kernel's threads, which may be most of the processes of a host; empty where the kernel keeps no lists of children.
/// In a pid namespace process 2 can be any process.
fn kernel_threads() -> SortedSet<Pid> {
    let mut threads = SortedSet::new();
    if let Some(kthreadd) = Pid::new(2).filter(|pid| stat(*pid).is_some_and(|stat| stat.kernel)) {
        threads.insert(kthreadd);
        threads.extend(children_of(kthreadd.raw()).into_iter().flatten());
    }
    threads
}

/// Whether an error means that a file of a process is missing or closed to us for good, as opposed to a lack of
/// descriptors or memory.
fn is_gone(cause: &io::Error) -> bool {
    !matches!(cause.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::EIO))
}

/// The process of a text with its id and its start time in ticks, and the id of the boot behind them; empty where there is none.
pub fn parse_process(text: &str) -> Option<(Process, &str)> {
    let mut words = text.split_ascii_whitespace();
    let process = Process { pid: parse_pid(words.next()?)?, ticks: words.next()?.parse().ok()? };
    Some((process, words.next().unwrap_or("")))
}

/// Whether `process` still has its id and is not a zombie. While that cannot be read it counts as alive: starting a second
/// instance beside it would be worse than starting it late.
pub fn alive(process: Process) -> bool {
    match read_stat(process.pid) {
        Ok(stat) => stat.is_some_and(|stat| stat.process == process && stat.alive()),
        Err(_) => true,
    }
}

/// The process id that a whole file name or word is; `None` where it is something else.
pub fn parse_pid(text: &str) -> Option<Pid> {
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Pid::new(text.parse().ok()?)
}

/// Reads one `stat` line. The program's name in it may contain spaces, parentheses and line ends, so the fields are read
/// from the last `)` on: after the name there are only the state letter and numbers.
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
        // The kernel prints the times of the children as signed numbers.
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
    let mut buffer = [0; 4096];
    let length = read_some(&format!("/proc/{pid}/status"), &mut buffer).ok()?;
    parse_users(&buffer[..length])
}

/// The real, effective and saved user in a `status` file. The kernel escapes line ends in the program's name, which comes
/// before them.
pub fn parse_users(text: &[u8]) -> Option<[Uid; 3]> {
    let line = text.split(|&b| b == b'\n').find_map(|line| line.strip_prefix(b"Uid:"))?;
    let mut words = std::str::from_utf8(line).ok()?.split_ascii_whitespace();
    let mut next = || words.next()?.parse().ok().map(Uid);
    Some([next()?, next()?, next()?])
}

/// The control groups of the process with this id in all hierarchies, as the kernel lists them; empty where it has none
/// or they cannot be read.
pub fn groups(pid: i32) -> Vec<u8> {
    let mut text = Vec::new();
    if let Ok(mut file) = File::open(format!("/proc/{pid}/cgroup")) {
        let _ = read_up_to(64 << 10, &mut text, &mut |to| file.read(to));
    }
    text
}

/// How long the host has been up; `None` where /proc/uptime cannot be read.
pub fn uptime() -> Option<Duration> {
    let mut buffer = [0; 64];
    let length = read_some("/proc/uptime", &mut buffer).ok()?;
    let uptime = parse_uptime(std::str::from_utf8(&buffer[..length]).ok()?)?;
    let offset = Duration::from_millis(own_offset().unsigned_abs() * (1000 / TICKS));
    if own_offset() < 0 {
        uptime.checked_add(offset)
    } else {
        uptime.checked_sub(offset)
    }
}

/// The first number of /proc/uptime, seconds with two decimals. The standard library's parser of floats would add its
/// large tables to the binary.
fn parse_uptime(text: &str) -> Option<Duration> {
    let (seconds, rest) = text.split_once('.')?;
    let hundredths: u64 = rest.get(..2)?.parse().ok()?;
    Some(Duration::from_secs(seconds.parse().ok()?) + Duration::from_millis(hundredths * 10))
}

/// The anonymous and shared memory of one process in bytes, as the kernel counts it without a lock; `None` where it cannot
/// be read. A page that several processes share counts for each of them.
pub fn memory(pid: Pid) -> Option<u64> {
    let read = |path: &str| {
        let mut buffer = [0; 4096];
        let length = read_some(path, &mut buffer).ok()?;
        parse_status(&buffer[..length])
    };
    let whole = read(&format!("/proc/{pid}/status"));
    if whole.is_some() {
        return whole;
    }
    // A main thread that has ended has no memory any more, but the other threads have that of the process.
    let threads = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    threads.flatten().find_map(|thread| read(&format!("{}/status", thread.path().display())))
}

/// The sum of RssAnon, RssShmem and VmSwap in a `status` file, or else (before Linux 4.5) of VmRSS and VmSwap, in bytes.
pub fn parse_status(text: &[u8]) -> Option<u64> {
    let size = |key| kilobytes(text, key).unwrap_or(0);
    let resident = match kilobytes(text, b"RssAnon:") {
        Some(anonymous) => anonymous + size(b"RssShmem:"),
        None => kilobytes(text, b"VmRSS:")?,
    };
    Some((resident + size(b"VmSwap:")) << 10)
}

/// The children of a process with a single thread; `None` where the kernel keeps no such lists.
pub fn children_of(pid: i32) -> Option<Vec<Pid>> {
    let mut children = Vec::new();
    read_ids(&format!("/proc/{pid}/task/{pid}/children"), &mut children).ok().map(|()| children)
}

/// Adds the children of each thread of `pid` to `children`; false where the kernel keeps no such lists.
fn add_children(pid: i32, children: &mut Vec<Pid>) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    let mut known = false;
    for thread in threads.flatten() {
        let name = thread.file_name();
        let Some(name) = name.to_str() else { continue };
        match read_ids(&format!("/proc/{pid}/task/{name}/children"), children) {
            Ok(()) => known = true,
            Err(cause) if is_gone(&cause) => {}
            Err(_) => return false,
        }
    }
    known
}

/// Adds the process ids that a file lists.
fn read_ids(path: &str, ids: &mut Vec<Pid>) -> io::Result<()> {
    ids.extend(read_text(Path::new(path))?.split_ascii_whitespace().filter_map(parse_pid));
    Ok(())
}

/// Reads the beginning of a file. One read returns a file of /proc that is a single record as a whole, as far as `buffer`
/// has room for it.
fn read_some(path: &str, buffer: &mut [u8]) -> io::Result<usize> {
    let mut file = File::open(path)?;
    loop {
        match file.read(buffer) {
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
            read => return read,
        }
    }
}

#[cfg(test)]
mod tests;
