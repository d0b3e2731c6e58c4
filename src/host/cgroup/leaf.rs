//! The group of one agent: entered, limited, read, frozen, killed and removed.
//!
//! Limits go in, and are read back after they are set; what the kernel counts and which processes there are comes out.
//! Which limits an agent has is not decided here.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::{
    directories, open_for_writing, read_file, set_and_compare, tolerate_missing, write_file, CgroupError, Version,
};
use crate::kernel::Pid;
use crate::model::enforcement::OomCount;
use crate::model::spec::Name;
use crate::sys::file::read_text;
use crate::sys::poll::Counter;

/// The group of one agent in one hierarchy.
#[derive(Clone, Debug)]
pub struct Leaf {
    pub(super) version: Version,
    /// The directory of the group that all agents' groups are in, shared by all leaves.
    pub(super) group: Rc<Path>,
    pub(super) name: Name,
    /// It was made for this object.
    pub(super) new: bool,
}

impl PartialEq for Leaf {
    fn eq(&self, other: &Leaf) -> bool {
        (&self.group, &self.name) == (&other.group, &other.name)
    }
}

impl Leaf {
    /// The interface it has.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Whether it was just made, so that nothing has been set in it.
    pub fn is_new(&self) -> bool {
        self.new
    }

    /// The name of its agent.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// Its directory.
    pub fn dir(&self) -> PathBuf {
        self.group.join(&*self.name)
    }

    /// The directory that it is in, with the groups of all agents of a daemon.
    pub fn group(&self) -> &Path {
        &self.group
    }

    /// The path of one of its files.
    fn file(&self, name: &str) -> PathBuf {
        self.dir().join(name)
    }

    /// The file through which a child enters it by writing `0`.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn entrance(&self) -> Result<OwnedFd, Box<CgroupError>> {
        open_for_writing(&self.file("cgroup.procs")).map(OwnedFd::from)
    }

    /// Its open directory, for a child that is created in it; `None` with v1, which cannot do that.
    pub fn directory(&self) -> Option<OwnedFd> {
        let v2 = self.version == Version::V2;
        v2.then(|| fs::File::open(self.dir()).ok()).flatten().map(OwnedFd::from)
    }

    /// Every process in it and in the groups that its processes made below it; empty when it is gone.
    ///
    /// # Errors
    /// When its list of processes exists and cannot be read.
    pub fn members(&self) -> Result<Vec<Pid>, Box<CgroupError>> {
        let mut pids = Vec::new();
        members(&self.dir(), &mut pids).map(|()| pids)
    }

    /// Whether any process is in it or below.
    pub fn populated(&self) -> bool {
        if self.version == Version::V2 {
            if let Some(count) = self.keyed("cgroup.events", "populated") {
                return count != 0;
            }
        }
        self.members().is_ok_and(|pids| !pids.is_empty())
    }

    /// Has the kernel kill all processes in it in one step, also those being forked; false where the kernel cannot do that
    /// (v1, or before Linux 5.14).
    ///
    /// # Errors
    /// When the daemon itself is in the group; nothing is killed then. When the group cannot be read or written.
    pub fn kill(&self) -> Result<bool, Box<CgroupError>> {
        let file = self.file("cgroup.kill");
        if self.version == Version::V1 || !file.exists() {
            return Ok(false);
        }
        if self.members()?.iter().any(|pid| pid.raw() as u32 == std::process::id()) {
            return Err(CgroupError::text("kill", &self.dir(), "we are in it ourselves"));
        }
        write_file(&file, "1").map(|()| true)
    }

    /// Freezes or thaws all processes in it.
    ///
    /// # Errors
    /// Where the hierarchy cannot do that; v2 can from Linux 5.2 on, of v1 only the freezer.
    pub fn freeze(&self, frozen: bool) -> Result<(), Box<CgroupError>> {
        let text = match self.version {
            Version::V2 => ["0", "1"],
            Version::V1 => ["THAWED", "FROZEN"],
        };
        write_file(&self.freezer(), text[usize::from(frozen)])
    }

    /// Whether its processes are stopped so, or about to be.
    pub fn is_frozen(&self) -> bool {
        read_text(&self.freezer()).is_ok_and(|text| !matches!(text.trim(), "0" | "THAWED"))
    }

    /// The file by which that is done.
    pub fn freezer(&self) -> PathBuf {
        self.file(match self.version {
            Version::V2 => "cgroup.freeze",
            Version::V1 => "freezer.state",
        })
    }

    /// Limits the memory of all processes in it to `limit` bytes, swap included, or lifts the limit; reads it back.
    ///
    /// # Errors
    /// When the limit cannot be set, or reads back as something else.
    pub fn set_memory(&self, limit: Option<u64>) -> Result<(), Box<CgroupError>> {
        let (file, swap, none) = match self.version {
            Version::V2 => ("memory.max", "memory.swap.max", "max"),
            Version::V1 => ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "-1"),
        };
        let text = limit.map_or(none.into(), |bytes| bytes.to_string());
        match self.version {
            Version::V2 => {
                self.write(file, &text)?;
                // This file limits swap alone. Hosts without swap accounting do not have it.
                tolerate_missing(self.write(swap, if limit.is_some() { "0" } else { "max" }))?;
                // From Linux 4.19 on, all processes of the group are killed together with the one that was chosen.
                tolerate_missing(self.write("memory.oom.group", "1"))?;
            }
            Version::V1 => {
                // The limit with swap can never be below the one without, so the order depends on the old values.
                let early = self.write(file, &text);
                tolerate_missing(self.write(swap, &text))?;
                if early.is_err() {
                    self.write(file, &text)?;
                }
            }
        }
        match limit {
            Some(want) if !self.has_memory(want) => {
                let file = self.file(file);
                let got = read_file(&file)?;
                Err(CgroupError::text("write", &file, &format!("wrote {want}, read back \"{}\"", got.trim())))
            }
            _ => Ok(()),
        }
    }

    /// Whether its memory is limited to `want` bytes. The kernel rounds to pages, which are 64 KiB at most.
    pub fn has_memory(&self, want: u64) -> bool {
        let file = match self.version {
            Version::V2 => "memory.max",
            Version::V1 => "memory.limit_in_bytes",
        };
        self.number(file).is_some_and(|bytes| bytes.abs_diff(want) < 65_536)
    }

    /// Limits the processor time of all processes in it to `share` hundredths of a percent of one core, or lifts the limit;
    /// reads it back. The kernel's minimum of 0.1 % is used for a lower share.
    ///
    /// # Errors
    /// As `set_memory`.
    pub fn set_cpu(&self, share: Option<u32>) -> Result<(), Box<CgroupError>> {
        let bandwidth = share.map(bandwidth);
        match (self.version, bandwidth) {
            (Version::V2, None) => self.write("cpu.max", "max"),
            (Version::V2, Some((quota, period))) => self.set("cpu.max", &format!("{quota} {period}")),
            (Version::V1, None) => self.write("cpu.cfs_quota_us", "-1"),
            (Version::V1, Some((quota, period))) => {
                self.set("cpu.cfs_period_us", &period.to_string())?;
                self.set("cpu.cfs_quota_us", &quota.to_string())
            }
        }
    }

    /// Whether its processor time is limited to `share` hundredths of a percent of one core.
    pub fn has_cpu(&self, share: u32) -> bool {
        let (quota, period) = bandwidth(share);
        match self.version {
            Version::V2 => {
                read_file(&self.file("cpu.max")).is_ok_and(|text| text.trim() == format!("{quota} {period}"))
            }
            Version::V1 => {
                self.number("cpu.cfs_quota_us") == Some(quota) && self.number("cpu.cfs_period_us") == Some(period)
            }
        }
    }

    /// Limits how many processes and threads there are in it, or lifts the limit; reads it back.
    ///
    /// # Errors
    /// As `set_memory`.
    pub fn set_tasks(&self, limit: Option<u64>) -> Result<(), Box<CgroupError>> {
        match limit {
            Some(limit) => self.set("pids.max", &limit.to_string()),
            None => self.write("pids.max", "max"),
        }
    }

    /// Whether there can be `want` processes and threads in it, and no more.
    pub fn has_tasks(&self, want: u64) -> bool {
        self.number("pids.max") == Some(want)
    }

    /// How many processes in it were killed so far because it was out of memory. Where the kernel does not count the kills (v1
    /// before Linux 4.13), how often the limit was hit.
    pub fn oom_count(&self) -> Option<OomCount> {
        let file = match self.version {
            Version::V2 => "memory.events",
            Version::V1 => "memory.oom_control",
        };
        if let Some(count) = self.keyed(file, "oom_kill") {
            return Some(OomCount::Kills(count));
        }
        match self.version {
            Version::V2 => None,
            Version::V1 => Some(OomCount::Hits(self.number("memory.failcnt")?)),
        }
    }

    /// A counter that is raised whenever the memory limit is hit and nothing can be reclaimed. V1 kills only one process
    /// then. `None` for v2, which kills all of them.
    ///
    /// # Errors
    /// When the kernel does not register the counter.
    pub fn memory_alarm(&self) -> Result<Option<Counter>, Box<CgroupError>> {
        if self.version == Version::V2 {
            return Ok(None);
        }
        let path = self.file("cgroup.event_control");
        let alarm = Counter::new().map_err(|cause| CgroupError::io("watch", &path, cause))?;
        let control = self.file("memory.oom_control");
        // The kernel keeps this file open itself; the registration ends when the counter is closed.
        let control = File::open(&control).map_err(|cause| CgroupError::io("open", &control, cause))?;
        write_file(&path, &format!("{} {}", alarm.as_fd().as_raw_fd(), control.as_raw_fd()))?;
        Ok(Some(alarm))
    }

    /// The most memory it ever used, bytes; `None` where the kernel does not record it.
    pub fn memory_peak(&self) -> Option<u64> {
        self.number(match self.version {
            Version::V2 => "memory.peak",
            Version::V1 => "memory.max_usage_in_bytes",
        })
    }

    /// The anonymous and shared memory in use, swapped out or not, bytes; `None` without the controller. The page cache, which
    /// the kernel gives up when the limit is reached, does not count, as it does not where processes are added up.
    pub fn memory(&self) -> Option<u64> {
        let stat = read_file(&self.file("memory.stat")).ok()?;
        let value = |key: &str| {
            let found = stat.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
            found.and_then(|value| value.trim().parse::<u64>().ok())
        };
        let (used, shared, swapped) = match self.version {
            Version::V2 => (value("anon")?, value("shmem"), self.number("memory.swap.current")),
            // Before Linux 4.15 shared memory counts as page cache only.
            Version::V1 => (value("total_rss")?, value("total_shmem"), value("total_swap")),
        };
        Some(used + shared.unwrap_or(0) + swapped.unwrap_or(0))
    }

    /// The processor time used since it was made, microseconds; `None` without the controller.
    pub fn cpu(&self) -> Option<u64> {
        match self.version {
            Version::V2 => self.keyed("cpu.stat", "usage_usec"),
            Version::V1 => self.number("cpuacct.usage").map(|nanos| nanos / 1000),
        }
    }

    /// Removes it with the groups below it.
    ///
    /// # Errors
    /// While there are processes in it; the caller tries again later.
    pub fn remove(&self) -> Result<(), Box<CgroupError>> {
        remove(&self.dir())
    }

    fn write(&self, file: &str, text: &str) -> Result<(), Box<CgroupError>> {
        write_file(&self.file(file), text)
    }

    /// Writes a file, and reads it back.
    fn set(&self, file: &str, text: &str) -> Result<(), Box<CgroupError>> {
        set_and_compare(&self.file(file), text)
    }

    /// The number in a file that contains nothing else.
    fn number(&self, file: &str) -> Option<u64> {
        read_file(&self.file(file)).ok()?.trim().parse().ok()
    }

    /// The number after `key` in a file of lines `KEY NUMBER`.
    fn keyed(&self, file: &str, key: &str) -> Option<u64> {
        let text = read_file(&self.file(file)).ok()?;
        let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
        value.and_then(|value| value.trim().parse().ok())
    }
}

/// Quota and period in microseconds for a share in hundredths of a percent of one core. The period is 100 ms, or 1 s for
/// shares whose quota would be below the kernel's minimum of 1 ms.
pub(super) fn bandwidth(share: u32) -> (u64, u64) {
    let share = u64::from(share);
    if share >= 100 {
        return (share * 10, 100_000);
    }
    ((share * 100).max(1000), 1_000_000)
}

fn members(dir: &Path, pids: &mut Vec<Pid>) -> Result<(), Box<CgroupError>> {
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

fn remove(dir: &Path) -> Result<(), Box<CgroupError>> {
    let mut removed = fs::remove_dir(dir);
    if removed.as_ref().is_err_and(|cause| cause.kind() != io::ErrorKind::NotFound) {
        for below in below(dir) {
            remove(&below)?;
            removed = fs::remove_dir(dir);
        }
    }
    match removed {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(CgroupError::io("remove", dir, cause)),
        _ => Ok(()),
    }
}

/// The groups in a group. Where there are none the link count says so, and the directory need not be read.
fn below(dir: &Path) -> Vec<PathBuf> {
    if fs::metadata(dir).is_ok_and(|meta| meta.nlink() > 2) {
        directories(dir)
    } else {
        Vec::new()
    }
}
