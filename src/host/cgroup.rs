//! Control groups: which hierarchies the host has, our group in one of them (`Group`), and an agent's group below it
//! (`Leaf`): made, entered, limited, read, frozen, killed and removed.
//!
//! What there is is found from the texts of /proc/self/mountinfo and /proc/self/cgroup alone (`hierarchies`); whether it
//! can be used is found by trying, step by step, and each failure is a value with its path. Controllers are never enabled
//! where processes live, and nobody but agents is ever put into a leaf.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::kernel::{Errno, Pid};
use crate::sys::poll::Counter;

/// What could not be done, with which file, and why.
#[derive(Debug)]
pub struct Error {
    verb: &'static str,
    path: PathBuf,
    cause: Cause,
}

#[derive(Debug)]
enum Cause {
    Io(io::Error),
    Text(Box<str>),
}

impl Error {
    fn io(verb: &'static str, path: &Path, cause: io::Error) -> Error {
        Error { verb, path: path.into(), cause: Cause::Io(cause) }
    }

    fn text(verb: &'static str, path: &Path, text: &str) -> Error {
        Error { verb, path: path.into(), cause: Cause::Text(text.into()) }
    }

    /// Whether the file is not there.
    pub fn missing(&self) -> bool {
        matches!(&self.cause, Cause::Io(cause) if cause.kind() == io::ErrorKind::NotFound)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {} \"{}\": ", self.verb, self.path.display())?;
        match &self.cause {
            Cause::Io(cause) => match cause.raw_os_error() {
                Some(code) => Errno(code).fmt(f),
                None => cause.fmt(f),
            },
            Cause::Text(text) => f.write_str(text),
        }
    }
}

/// Which interface a hierarchy has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// A hierarchy of its own for each controller or set of controllers.
    V1,
    /// The unified hierarchy.
    V2,
}

impl Version {
    /// As `limits_by` says it.
    pub const fn name(self) -> &'static str {
        match self {
            Version::V1 => "cgroup1",
            Version::V2 => "cgroup2",
        }
    }
}

/// One mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// Its interface.
    pub version: Version,
    /// Where it is mounted.
    pub mount: PathBuf,
    /// The directory of our own group in it; `mount` where that cannot be seen.
    pub own: PathBuf,
    /// For v1: its controllers, or `name=systemd`. Empty for v2, where each group has its own list.
    pub controllers: Vec<Box<str>>,
}

impl Hierarchy {
    /// Whether it is a v1 hierarchy with this controller.
    pub fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|known| **known == *controller)
    }
}

/// All hierarchies, each once, from the texts of /proc/self/mountinfo and /proc/self/cgroup (proc(5), cgroups(7)).
pub fn hierarchies(mountinfo: &str, own: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let mut left = left.split(' ');
        let (Some(root), Some(mount)) = (left.nth(3), left.next()) else { continue };
        let mut right = right.split(' ');
        let (Some(kind), Some(options)) = (right.next(), right.nth(1)) else { continue };
        let version = match kind {
            "cgroup2" => Version::V2,
            "cgroup" => Version::V1,
            _ => continue,
        };
        // The options of a v1 mount are those of any file system, then the controllers; only names that
        // /proc/self/cgroup knows are controllers.
        let Some((controllers, path)) = own.lines().find_map(|line| {
            let mut words = line.splitn(3, ':').skip(1);
            let (names, path) = (words.next()?, words.next()?);
            let here = match version {
                Version::V2 => names.is_empty(),
                Version::V1 => !names.is_empty() && names.split(',').all(|name| options.split(',').any(|o| o == name)),
            };
            here.then_some((names, path))
        }) else {
            continue;
        };
        let mount = PathBuf::from(unescape(mount));
        let root = unescape(root);
        // Within a mount of a part of the hierarchy (a container without a namespace) our path starts with that part;
        // a path with ".." is outside what we can see.
        let below = path.strip_prefix(root.trim_end_matches('/')).unwrap_or("").trim_start_matches('/');
        let visible = !below.split('/').any(|part| part == "..");
        let own = if visible && !below.is_empty() { mount.join(below) } else { mount.clone() };
        let controllers: Vec<Box<str>> =
            controllers.split(',').filter(|name| !name.is_empty()).map(Box::from).collect();
        if !found.iter().any(|known| known.version == version && known.controllers == controllers) {
            found.push(Hierarchy { version, mount, own, controllers });
        }
    }
    found
}

/// mountinfo writes space, tab, newline and backslash as three octal digits.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let code = rest.get(at + 1..at + 4).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code.filter(u8::is_ascii) {
            Some(code) => {
                out.push(code as char);
                rest = &rest[at + 4..];
            }
            None => {
                out.push('\\');
                rest = &rest[at + 1..];
            }
        }
    }
    out.push_str(rest);
    out
}

/// The name of our group: `bootagent`, or with the beginning of a hash for another `state_dir`, so that two daemons on
/// one host never meet.
pub fn group_name(state_dir: &str) -> String {
    let state_dir = state_dir.trim_end_matches('/');
    if state_dir == "/var/lib/bootagent" {
        return "bootagent".into();
    }
    let digest = Sha256::digest(state_dir.as_bytes());
    let mut name = String::from("bootagent-");
    for byte in digest.iter().take(6) {
        for nibble in [byte >> 4, byte & 15] {
            name.push(char::from_digit(nibble.into(), 16).unwrap_or('0'));
        }
    }
    name
}

/// The group all of an agent's groups are in, in one hierarchy.
#[derive(Debug)]
pub struct Group {
    version: Version,
    /// Controllers are enabled from here on down.
    base: PathBuf,
    dir: PathBuf,
    own: PathBuf,
    controllers: Vec<Box<str>>,
}

impl Group {
    /// Makes our group `name`, or the one at the path `parent` where the configuration says so, or finds it made. It is
    /// tried at the top of the hierarchy first, where no service manager's cleaning up reaches the agents, then below
    /// the group we are in, which is ours where it was delegated to us.
    pub fn open(hierarchy: &Hierarchy, name: &str, parent: Option<&str>) -> Result<Group, Error> {
        let mut bases = vec![hierarchy.mount.clone()];
        // A daemon that has moved itself into a group of its own is found again there by its successor.
        let own = match hierarchy.own.file_name() {
            Some(last) if last == "daemon" && hierarchy.version == Version::V2 => hierarchy.own.parent(),
            _ => Some(hierarchy.own.as_path()),
        };
        bases.extend(own.filter(|own| parent.is_none() && *own != hierarchy.mount).map(PathBuf::from));
        let mut first = None;
        for base in bases {
            let group = Group {
                version: hierarchy.version,
                dir: base.join(parent.unwrap_or(name).trim_matches('/')),
                base,
                own: hierarchy.own.clone(),
                controllers: hierarchy.controllers.clone(),
            };
            match group.make() {
                Ok(()) => return group.leave(),
                Err(error) => first = first.or(Some(error)),
            }
        }
        Err(first.unwrap_or_else(|| Error::text("use", &hierarchy.mount, "no place for a group")))
    }

    fn make(&self) -> Result<(), Error> {
        let mut dir = self.base.clone();
        for part in self.dir.strip_prefix(&self.base).unwrap_or(Path::new("")) {
            if part == ".." {
                return Err(Error::text("make", &self.dir, "the path leaves the hierarchy"));
            }
            dir.push(part);
            make_dir(&dir)?;
        }
        open_for_writing(&self.dir.join("cgroup.procs")).map(drop)
    }

    /// Takes us out of our own group of agents, where a daemon started by an agent finds itself.
    fn leave(mut self) -> Result<Group, Error> {
        if self.own.starts_with(&self.dir) {
            self.vacate()?;
        }
        Ok(self)
    }

    /// The interface it has.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Makes sure that groups below have `controller`: `memory` or `cpu`.
    pub fn enable(&mut self, controller: &str) -> Result<(), Error> {
        if self.version == Version::V1 {
            return match self.controllers.iter().any(|known| **known == *controller) {
                true => Ok(()),
                false => Err(Error::text("use", &self.dir, "the hierarchy is without the controller")),
            };
        }
        let below = self.dir.strip_prefix(&self.base).unwrap_or(Path::new("")).to_path_buf();
        let mut dir = self.base.clone();
        self.enable_in(&dir, controller)?;
        for part in &below {
            dir.push(part);
            self.enable_in(&dir, controller)?;
        }
        Ok(())
    }

    fn enable_in(&mut self, dir: &Path, controller: &str) -> Result<(), Error> {
        let control = dir.join("cgroup.subtree_control");
        let listed = |path: &Path| Ok(read_file(path)?.split_ascii_whitespace().any(|name| name == controller));
        if listed(&control)? {
            return Ok(());
        }
        let available = dir.join("cgroup.controllers");
        if !listed(&available)? {
            return Err(Error::text("use", &available, &format!("\"{controller}\" is not among the controllers")));
        }
        // Only the root group may hold processes and hand out controllers; any other is refused with EBUSY.
        if dir == self.own && !self.is_root(dir) {
            self.vacate()?;
        }
        write_file(&control, &format!("+{controller}"))?;
        match listed(&control)? {
            true => Ok(()),
            false => Err(Error::text("write", &control, &format!("\"{controller}\" was not taken"))),
        }
    }

    /// The root of a whole hierarchy, as opposed to that of a namespace, is without this file.
    fn is_root(&self, dir: &Path) -> bool {
        !dir.join("cgroup.events").exists()
    }

    /// Moves us to where we are in nobody's way: the root of a hierarchy may hold processes, below a group that was
    /// delegated to us it takes one of our own.
    fn vacate(&mut self) -> Result<(), Error> {
        let mut place = self.base.clone();
        if self.version == Version::V2 && !self.is_root(&place) {
            place.push("daemon");
            make_dir(&place)?;
        }
        write_file(&place.join("cgroup.procs"), "0")?;
        self.own = place;
        Ok(())
    }

    /// The group of one agent, made if need be.
    pub fn leaf(&self, name: &str) -> Result<Leaf, Error> {
        let leaf = self.find(name);
        make_dir(&leaf.dir)?;
        Ok(leaf)
    }

    /// The group of one agent, whether it is there or not.
    pub fn find(&self, name: &str) -> Leaf {
        Leaf { version: self.version, dir: self.dir.join(name) }
    }

    /// The names of all groups in it.
    pub fn leaves(&self) -> Vec<Box<str>> {
        let mut names = Vec::new();
        if let Ok(entries) = fs::read_dir(&self.dir) {
            for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
                names.extend(entry.file_name().to_str().map(Box::from));
            }
        }
        names
    }

    /// Removes it if it is empty.
    pub fn close(&self) {
        let _ = fs::remove_dir(&self.dir);
    }
}

/// The group of one agent in one hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    version: Version,
    dir: PathBuf,
}

impl Leaf {
    /// The interface it has.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The file through which a child enters it by writing `0`.
    pub fn entrance(&self) -> Result<OwnedFd, Error> {
        open_for_writing(&self.dir.join("cgroup.procs")).map(OwnedFd::from)
    }

    /// Its directory, for a child that is made in it; `None` with v1, which cannot do that.
    pub fn directory(&self) -> Option<OwnedFd> {
        let v2 = self.version == Version::V2;
        v2.then(|| fs::File::open(&self.dir).ok()).flatten().map(OwnedFd::from)
    }

    /// Every process in it and in groups its processes made below it; none when it is gone.
    pub fn members(&self) -> Result<Vec<Pid>, Error> {
        let mut pids = Vec::new();
        members(&self.dir, &mut pids).map(|()| pids)
    }

    /// Whether any process is in it or below.
    pub fn populated(&self) -> bool {
        if self.version == Version::V2 {
            if let Ok(Some(count)) = keyed(&self.dir.join("cgroup.events"), "populated") {
                return count != 0;
            }
        }
        self.members().is_ok_and(|pids| !pids.is_empty())
    }

    /// Has the kernel kill all that is in it in one step, also what is just being forked; false where it cannot (v1, or
    /// before 5.14). We must never be in it: then it is an error, and nothing is killed.
    pub fn kill(&self) -> Result<bool, Error> {
        let file = self.dir.join("cgroup.kill");
        if self.version == Version::V1 || !file.exists() {
            return Ok(false);
        }
        if self.members()?.iter().any(|pid| pid.raw() as u32 == std::process::id()) {
            return Err(Error::text("kill", &self.dir, "we are in it ourselves"));
        }
        write_file(&file, "1").map(|()| true)
    }

    /// Stops or continues all that is in it, where the hierarchy can (v2 from 5.2, v1 freezer).
    pub fn freeze(&self, frozen: bool) -> Result<(), Error> {
        match self.version {
            Version::V2 => write_file(&self.dir.join("cgroup.freeze"), if frozen { "1" } else { "0" }),
            Version::V1 => write_file(&self.dir.join("freezer.state"), if frozen { "FROZEN" } else { "THAWED" }),
        }
    }

    /// Limits the memory of all in it, swap included, or lifts the limit; read back afterwards.
    pub fn set_memory(&self, limit: Option<u64>) -> Result<(), Error> {
        let (file, swap, none) = match self.version {
            Version::V2 => (self.dir.join("memory.max"), "memory.swap.max", "max"),
            Version::V1 => (self.dir.join("memory.limit_in_bytes"), "memory.memsw.limit_in_bytes", "-1"),
        };
        let swap = self.dir.join(swap);
        let text = limit.map_or(none.into(), |bytes| bytes.to_string());
        match self.version {
            Version::V2 => {
                write_file(&file, &text)?;
                // It counts swap alone. Hosts without swap accounting are without the file.
                tolerate_missing(write_file(&swap, if limit.is_some() { "0" } else { "max" }))?;
                // The whole tree ends with the process that was chosen (from 4.19).
                tolerate_missing(write_file(&self.dir.join("memory.oom.group"), "1"))?;
            }
            Version::V1 => {
                // Memory with swap can never be set below memory: which goes first depends on the old values.
                let early = write_file(&file, &text);
                tolerate_missing(write_file(&swap, &text))?;
                if early.is_err() {
                    write_file(&file, &text)?;
                }
            }
        }
        match limit {
            Some(want) if !self.has_memory(want) => {
                let got = read_file(&file)?;
                Err(Error::text("write", &file, &format!("wrote {want}, read back \"{}\"", got.trim())))
            }
            _ => Ok(()),
        }
    }

    /// Whether its memory is limited to `want` bytes, as near as the kernel's pages allow, 64 KiB at most.
    pub fn has_memory(&self, want: u64) -> bool {
        let file = match self.version {
            Version::V2 => "memory.max",
            Version::V1 => "memory.limit_in_bytes",
        };
        number(&self.dir.join(file)).is_some_and(|bytes| bytes.abs_diff(want) < 65_536)
    }

    /// Holds the processor time of all in it to `share` hundredths of a percent of one core, or lifts the limit; read
    /// back afterwards. A share below the kernel's least, 0.1 %, becomes that.
    pub fn set_cpu(&self, share: Option<u32>) -> Result<(), Error> {
        let bandwidth = share.map(bandwidth);
        match (self.version, bandwidth) {
            (Version::V2, None) => write_file(&self.dir.join("cpu.max"), "max"),
            (Version::V2, Some((quota, period))) => {
                set_and_compare(&self.dir.join("cpu.max"), &format!("{quota} {period}"))
            }
            (Version::V1, None) => write_file(&self.dir.join("cpu.cfs_quota_us"), "-1"),
            (Version::V1, Some((quota, period))) => {
                set_and_compare(&self.dir.join("cpu.cfs_period_us"), &period.to_string())?;
                set_and_compare(&self.dir.join("cpu.cfs_quota_us"), &quota.to_string())
            }
        }
    }

    /// Whether its processor time is held to `share`.
    pub fn has_cpu(&self, share: u32) -> bool {
        let (quota, period) = bandwidth(share);
        match self.version {
            Version::V2 => {
                read_file(&self.dir.join("cpu.max")).is_ok_and(|text| text.trim() == format!("{quota} {period}"))
            }
            Version::V1 => {
                number(&self.dir.join("cpu.cfs_quota_us")) == Some(quota)
                    && number(&self.dir.join("cpu.cfs_period_us")) == Some(period)
            }
        }
    }

    /// How many processes in it were killed for want of memory so far; with false, how often the limit was hit, where
    /// the kernel does not count the kills (v1 before 4.13).
    pub fn oom_kills(&self) -> Option<(u64, bool)> {
        let file = match self.version {
            Version::V2 => "memory.events",
            Version::V1 => "memory.oom_control",
        };
        if let Ok(Some(count)) = keyed(&self.dir.join(file), "oom_kill") {
            return Some((count, true));
        }
        let file = self.dir.join("memory.failcnt");
        (self.version == Version::V1).then(|| number(&file)).flatten().map(|count| (count, false))
    }

    /// Is raised whenever the memory limit is hit and nothing can be reclaimed: v1 kills one process then, and says
    /// nothing to the others. `None` for v2, which ends all that is in it.
    pub fn memory_alarm(&self) -> Result<Option<Counter>, Error> {
        if self.version == Version::V2 {
            return Ok(None);
        }
        let path = self.dir.join("cgroup.event_control");
        let alarm = Counter::new().map_err(|cause| Error::io("watch", &path, cause))?;
        let control = self.dir.join("memory.oom_control");
        // The kernel keeps what it needs of this file; the registration ends with the counter.
        let control = File::open(&control).map_err(|cause| Error::io("open", &control, cause))?;
        write_file(&path, &format!("{} {}", alarm.as_fd().as_raw_fd(), control.as_raw_fd()))?;
        Ok(Some(alarm))
    }

    /// The most memory it ever had in use, bytes, where the kernel remembers it.
    pub fn memory_peak(&self) -> Option<u64> {
        number(&self.dir.join(match self.version {
            Version::V2 => "memory.peak",
            Version::V1 => "memory.max_usage_in_bytes",
        }))
    }

    /// The memory in use, bytes; `None` without the controller.
    pub fn memory(&self) -> Option<u64> {
        number(&self.dir.join(match self.version {
            Version::V2 => "memory.current",
            Version::V1 => "memory.usage_in_bytes",
        }))
    }

    /// The processor time used since it was made, microseconds; `None` without the controller.
    pub fn cpu(&self) -> Option<u64> {
        match self.version {
            Version::V2 => keyed(&self.dir.join("cpu.stat"), "usage_usec").ok().flatten(),
            Version::V1 => number(&self.dir.join("cpuacct.usage")).map(|nanos| nanos / 1000),
        }
    }

    /// Removes it with the groups made below it; an error while there are processes, to be tried again later.
    pub fn remove(&self) -> Result<(), Error> {
        remove(&self.dir)
    }
}

/// Quota and period in microseconds for a share in hundredths of a percent of one core: 100 ms, longer for shares whose
/// quota would fall below the kernel's least of 1 ms.
fn bandwidth(share: u32) -> (u64, u64) {
    let share = u64::from(share);
    if share >= 100 {
        return (share * 10, 100_000);
    }
    ((share * 100).max(1000), 1_000_000)
}

fn members(dir: &Path, pids: &mut Vec<Pid>) -> Result<(), Error> {
    let text = match read_file(&dir.join("cgroup.procs")) {
        Ok(text) => text,
        Err(error) if error.missing() => return Ok(()),
        Err(error) => return Err(error),
    };
    // A process from outside our pid namespace is listed as 0.
    pids.extend(text.lines().filter_map(|line| Pid::new(line.parse().ok()?)));
    for below in below(dir) {
        members(&below, pids)?;
    }
    Ok(())
}

fn remove(dir: &Path) -> Result<(), Error> {
    for below in below(dir) {
        remove(&below)?;
    }
    match fs::remove_dir(dir) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", dir, cause)),
        _ => Ok(()),
    }
}

/// The groups in a group; its link count says without reading it that there are none.
fn below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    if fs::metadata(dir).is_ok_and(|meta| meta.nlink() > 2) {
        if let Ok(entries) = fs::read_dir(dir) {
            for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
                found.push(entry.path());
            }
        }
    }
    found
}

fn make_dir(dir: &Path) -> Result<(), Error> {
    match fs::create_dir(dir) {
        Err(cause) if cause.kind() != io::ErrorKind::AlreadyExists => Err(Error::io("make", dir, cause)),
        _ => Ok(()),
    }
}

fn open_for_writing(path: &Path) -> Result<File, Error> {
    OpenOptions::new().write(true).open(path).map_err(|cause| Error::io("open", path, cause))
}

/// One write(2), as the kernel wants it.
fn write_file(path: &Path, text: &str) -> Result<(), Error> {
    open_for_writing(path)?.write_all(text.as_bytes()).map_err(|cause| Error::io("write", path, cause))
}

fn read_file(path: &Path) -> Result<String, Error> {
    let mut text = String::new();
    match File::open(path).and_then(|mut file| file.read_to_string(&mut text)) {
        Ok(_) => Ok(text),
        // The group vanished between open and read.
        Err(cause) if cause.raw_os_error() == Some(libc::ENODEV) => {
            Err(Error::io("read", path, io::ErrorKind::NotFound.into()))
        }
        Err(cause) => Err(Error::io("read", path, cause)),
    }
}

fn set_and_compare(path: &Path, text: &str) -> Result<(), Error> {
    write_file(path, text)?;
    let got = read_file(path)?;
    match got.trim() == text {
        true => Ok(()),
        false => Err(Error::text("write", path, &format!("wrote \"{text}\", read back \"{}\"", got.trim()))),
    }
}

fn tolerate_missing(result: Result<(), Error>) -> Result<(), Error> {
    match result {
        Err(error) if !error.missing() => Err(error),
        _ => Ok(()),
    }
}

/// The number that is a whole file.
fn number(path: &Path) -> Option<u64> {
    read_file(path).ok()?.trim().parse().ok()
}

/// The number after `key` in a file of such lines.
fn keyed(path: &Path, key: &str) -> Result<Option<u64>, Error> {
    let text = read_file(path)?;
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
    Ok(value.and_then(|value| value.trim().parse().ok()))
}

#[cfg(test)]
mod tests;
