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

use super::{directories, failed, open_for_writing, read_file, tolerate_missing, write_file, Version};
use crate::host::disk::{with_context, DiskError};
use crate::kernel::Pid;
use crate::model::enforcement::OomCount;
use crate::model::spec::Name;
use crate::sys::file::read_text;
use crate::sys::poll::Counter;
use crate::sys::process::own_id;

/// What limits an agent in its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Controller {
    /// Limits memory, bytes.
    Memory,
    /// Limits processor time, hundredths of a percent of one core.
    Cpu,
    /// Limits processes and threads.
    Tasks,
}

impl Controller {
    /// The kernel's name of it.
    pub fn name(self) -> &'static str {
        match self {
            Controller::Memory => "memory",
            Controller::Cpu => "cpu",
            Controller::Tasks => "pids",
        }
    }
}

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
    pub fn entrance(&self) -> Result<OwnedFd, Box<DiskError>> {
        open_for_writing(&self.file("cgroup.procs")).map(OwnedFd::from)
    }

    /// Its open directory, for a child that is created in it; `None` with v1, which cannot do that.
    pub fn directory(&self) -> Option<OwnedFd> {
        let v2 = self.version == Version::V2;
        v2.then(|| fs::File::open(self.dir()).ok()).flatten().map(OwnedFd::from)
    }

    /// Every process in it and in the groups that its processes made below it; empty when it is gone, and `None` when its
    /// list of processes exists and cannot be read.
    pub fn members(&self) -> Option<Vec<Pid>> {
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
        self.members().is_some_and(|pids| !pids.is_empty())
    }

    /// Has the kernel kill all processes in it in one step, also those being forked; false where the kernel cannot do that
    /// (v1, or before Linux 5.14), and where the daemon itself is in the group: nothing is killed then.
    pub fn kill(&self) -> bool {
        let file = self.file("cgroup.kill");
        self.version == Version::V2
            && file.exists()
            && self.members().is_some_and(|pids| pids.iter().all(|pid| pid.raw() != own_id()))
            && write_file(&file, "1").is_ok()
    }

    /// Freezes or thaws all processes in it; false where the hierarchy cannot do that. V2 can from Linux 5.2 on, of v1 only the
    /// freezer.
    pub fn freeze(&self, frozen: bool) -> bool {
        let text = if frozen { self.v2_or_v1("1", "FROZEN") } else { self.v2_or_v1("0", "THAWED") };
        write_file(&self.freezer(), text).is_ok()
    }

    /// Whether its processes are stopped so, or about to be.
    pub fn is_frozen(&self) -> bool {
        read_text(&self.freezer()).is_ok_and(|text| !matches!(text.trim(), "0" | "THAWED"))
    }

    /// The file by which that is done.
    pub fn freezer(&self) -> PathBuf {
        self.file(self.v2_or_v1("cgroup.freeze", "freezer.state"))
    }

    /// Sets a limit of all its processes, or lifts it; reads it back.
    ///
    /// # Errors
    /// When the limit cannot be set, or reads back as something else.
    pub fn set(&self, controller: Controller, limit: Option<u64>) -> Result<(), Box<DiskError>> {
        match (controller, limit) {
            (Controller::Memory, _) => self.set_memory(limit),
            (Controller::Cpu, _) => self.set_cpu(limit.map(bandwidth)),
            (Controller::Tasks, Some(limit)) => self.write_and_compare("pids.max", &limit.to_string()),
            (Controller::Tasks, None) => self.write("pids.max", "max"),
        }
    }

    /// Whether this limit is set.
    pub fn has(&self, controller: Controller, want: u64) -> bool {
        match (controller, self.version) {
            (Controller::Memory, _) => self.has_memory(want),
            (Controller::Cpu, Version::V2) => {
                let (quota, period) = bandwidth(want);
                read_file(&self.file("cpu.max")).is_ok_and(|text| text.trim() == format!("{quota} {period}"))
            }
            (Controller::Cpu, Version::V1) => {
                let (quota, period) = bandwidth(want);
                self.number("cpu.cfs_quota_us") == Some(quota) && self.number("cpu.cfs_period_us") == Some(period)
            }
            (Controller::Tasks, _) => self.number("pids.max") == Some(want),
        }
    }

    /// Limits memory with swap.
    fn set_memory(&self, limit: Option<u64>) -> Result<(), Box<DiskError>> {
        let file = self.memory_limit();
        let swap = self.v2_or_v1("memory.swap.max", "memory.memsw.limit_in_bytes");
        let text = limit.map_or(self.v2_or_v1("max", "-1").into(), |bytes| bytes.to_string());
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
                Err(failed("write", &file, &format!("wrote {want}, read back \"{}\"", got.trim())))
            }
            _ => Ok(()),
        }
    }

    fn memory_limit(&self) -> &'static str {
        self.v2_or_v1("memory.max", "memory.limit_in_bytes")
    }

    /// The kernel rounds to pages, which are 64 KiB at most.
    fn has_memory(&self, want: u64) -> bool {
        self.number(self.memory_limit()).is_some_and(|bytes| bytes.abs_diff(want) < 65_536)
    }

    /// Limits processor time to a quota in each period.
    fn set_cpu(&self, bandwidth: Option<(u64, u64)>) -> Result<(), Box<DiskError>> {
        match (self.version, bandwidth) {
            (Version::V2, None) => self.write("cpu.max", "max"),
            (Version::V2, Some((quota, period))) => self.write_and_compare("cpu.max", &format!("{quota} {period}")),
            (Version::V1, None) => self.write("cpu.cfs_quota_us", "-1"),
            (Version::V1, Some((quota, period))) => {
                self.write_and_compare("cpu.cfs_period_us", &period.to_string())?;
                self.write_and_compare("cpu.cfs_quota_us", &quota.to_string())
            }
        }
    }

    /// How many processes in it were killed so far because it was out of memory. Where the kernel does not count the kills (v1
    /// before Linux 4.13), how often the limit was hit.
    pub fn oom_count(&self) -> Option<OomCount> {
        match self.keyed(self.v2_or_v1("memory.events", "memory.oom_control"), "oom_kill") {
            Some(count) => Some(OomCount::Kills(count)),
            None if self.version == Version::V2 => None,
            None => self.number("memory.failcnt").map(OomCount::Hits),
        }
    }

    /// A counter that is raised whenever the memory limit is hit and nothing can be reclaimed. V1 kills only one process
    /// then. `None` for v2, which kills all of them.
    ///
    /// # Errors
    /// When the kernel does not register the counter.
    pub fn memory_alarm(&self) -> Result<Option<Counter>, Box<DiskError>> {
        if self.version == Version::V2 {
            return Ok(None);
        }
        let path = self.file("cgroup.event_control");
        let alarm = with_context(Counter::new(), "watch", &path)?;
        let control = self.file("memory.oom_control");
        // The kernel keeps this file open itself; the registration ends when the counter is closed.
        let control = with_context(File::open(&control), "open", &control)?;
        write_file(&path, &format!("{} {}", alarm.as_fd().as_raw_fd(), control.as_raw_fd()))?;
        Ok(Some(alarm))
    }

    /// The most memory it ever used, bytes; `None` where the kernel does not record it.
    pub fn memory_peak(&self) -> Option<u64> {
        self.number(self.v2_or_v1("memory.peak", "memory.max_usage_in_bytes"))
    }

    /// The anonymous and shared memory in use, swapped out or not, bytes; `None` without the controller. The page cache, which
    /// the kernel gives up when the limit is reached, does not count, as it does not where processes are added up.
    pub fn memory(&self) -> Option<u64> {
        let stat = read_file(&self.file("memory.stat")).ok()?;
        let value = |key| value_of(&stat, key);
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

    /// Removes it with the groups below it; false while there are processes in it, and the caller tries again later.
    pub fn remove(&self) -> bool {
        remove(&self.dir())
    }

    /// The name or value that this interface has of the two.
    fn v2_or_v1(&self, v2: &'static str, v1: &'static str) -> &'static str {
        match self.version {
            Version::V2 => v2,
            Version::V1 => v1,
        }
    }

    fn write(&self, file: &str, text: &str) -> Result<(), Box<DiskError>> {
        write_file(&self.file(file), text)
    }

    /// Writes a file, and fails when it does not read back the same.
    fn write_and_compare(&self, file: &str, text: &str) -> Result<(), Box<DiskError>> {
        let path = self.file(file);
        write_file(&path, text)?;
        let got = read_file(&path)?;
        match got.trim() == text {
            true => Ok(()),
            false => Err(failed("write", &path, &format!("wrote \"{text}\", read back \"{}\"", got.trim()))),
        }
    }

    /// The number in a file that contains nothing else.
    fn number(&self, file: &str) -> Option<u64> {
        read_file(&self.file(file)).ok()?.trim().parse().ok()
    }

    /// The number after `key` in a file of lines `KEY NUMBER`.
    fn keyed(&self, file: &str, key: &str) -> Option<u64> {
        value_of(&read_file(&self.file(file)).ok()?, key)
    }
}

/// The number after `key` in a text of lines `KEY NUMBER`.
fn value_of(text: &str, key: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
    value.and_then(|value| value.trim().parse().ok())
}

/// Quota and period in microseconds for a share in hundredths of a percent of one core. The period is 100 ms, or 1 s for
/// shares whose quota would be below the kernel's minimum of 1 ms; that minimum, 0.1 %, is used for a lower share.
pub(super) fn bandwidth(share: u64) -> (u64, u64) {
    if share >= 100 {
        return (share * 10, 100_000);
    }
    ((share * 100).max(1000), 1_000_000)
}

fn members(dir: &Path, pids: &mut Vec<Pid>) -> Option<()> {
    let text = match read_file(&dir.join("cgroup.procs")) {
        Ok(text) => text,
        Err(error) => return error.missing().then_some(()),
    };
    // A process from outside our pid namespace is listed as 0.
    pids.extend(text.lines().filter_map(|line| Pid::new(line.parse().ok()?)));
    for below in below(dir) {
        members(&below, pids)?;
    }
    Some(())
}

/// Removes a group with those below it; false where it is still there.
fn remove(dir: &Path) -> bool {
    let is_gone = || fs::remove_dir(dir).map_or_else(|error| error.kind() == io::ErrorKind::NotFound, |()| true);
    is_gone() || below(dir).iter().all(|below| remove(below)) && is_gone()
}

/// The groups in a group. Where there are none the link count says so, and the directory need not be read.
fn below(dir: &Path) -> Vec<PathBuf> {
    if fs::metadata(dir).is_ok_and(|meta| meta.nlink() > 2) {
        directories(dir)
    } else {
        Vec::new()
    }
}
