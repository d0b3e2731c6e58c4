//! What a host in a test leaves behind, processes and control groups, and its end.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{MutexGuard, PoisonError};

use bootagent::host::cgroup::{group_name, hierarchies};
use miniserde::json;

use super::{alive, checksum, entries, kill, note_made, pause, proc_status, Host};

impl Host {
    /// Every process that this host caused, the daemon included: those with its directory in environment or arguments.
    pub fn processes(&self) -> Vec<i32> {
        let mut mark = self.dir.display().to_string().into_bytes();
        mark.push(b'/');
        let mut found = Vec::new();
        for path in entries(Path::new("/proc")) {
            let Some(pid) = path.file_name().and_then(|name| name.to_str()?.parse::<i32>().ok()) else { continue };
            let marked = |file: &str| {
                let bytes = fs::read(path.join(file)).unwrap_or_default();
                bytes.windows(mark.len()).any(|part| part == mark)
            };
            if pid != std::process::id() as i32 && alive(pid) && (marked("environ") || marked("cmdline")) {
                found.push(pid);
            }
        }
        found
    }

    /// The same without the daemon and its helpers: agents, and whatever they left.
    pub fn agents_processes(&self) -> Vec<i32> {
        let daemon = self.daemon.as_ref().map_or(0, |daemon| daemon.id() as i32);
        let command = |pid: i32| fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let own = command(daemon);
        let is_helper = |pid: i32| {
            let line = command(pid);
            let has = |line: &[u8], word: &[u8]| line.split(|byte| *byte == 0).any(|known| known == word);
            // The shell that asks for packages, and what that has started.
            let parent = proc_status(pid, "PPid").parse().map_or(Vec::new(), command);
            let is_one = has(&line, b"work") || has(&line, b"look") || has(&parent, b"look");
            // One that has just been made is still called as the daemon.
            is_one || line == own && proc_status(pid, "PPid") == daemon.to_string()
        };
        self.processes().into_iter().filter(|pid| *pid != daemon && !is_helper(*pid)).collect()
    }

    /// Ends the daemon and every process that this host caused, and removes its control groups.
    pub fn finish(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        let mut groups = self.control_groups();
        for _ in 0..200 {
            let mut left = self.processes();
            left.extend(groups.iter().flat_map(|group| members(group)));
            if left.is_empty() {
                break;
            }
            for pid in left {
                groups.extend(control_groups(pid));
                kill(pid, "KILL");
            }
            pause();
        }
        groups.sort();
        groups.dedup();
        // A group is busy for a moment more after the end of its last process.
        for _ in 0..100 {
            // Those below first.
            let left = groups.iter().rev().filter(|group| fs::remove_dir(group).is_err() && group.exists()).count();
            if left == 0 {
                break;
            }
            pause();
        }
    }

    /// Notes what a daemon that starts now calls its control group: the name depends on the file system and the inode of the
    /// state directory, and a test may put another one in its place. 1.0.0 knows only the path.
    pub(super) fn note_groups(&self) {
        let state_dir = self.config.get("state_dir").and_then(|text| json::from_str::<String>(text).ok());
        let state_dir = state_dir.unwrap_or_default();
        let digest = checksum(state_dir.as_bytes());
        let of_path = &digest["SHA256:".len()..][..12];
        for name in [group_name(&state_dir), format!("bootagent-{of_path}")] {
            if self.names().insert(name.clone()) {
                note_made(&name);
            }
        }
    }

    fn names(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.group_names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The control groups that daemons of this host have made and left.
    pub fn control_groups(&self) -> Vec<PathBuf> {
        self.note_groups();
        let names = self.names().clone();
        let read = |file| fs::read_to_string(file).unwrap_or_default();
        let hierarchies = hierarchies(&read("/proc/self/mountinfo"), &read("/proc/self/cgroup"));
        let above = hierarchies.into_iter().flat_map(|one| [one.mount, one.own]);
        let places = above.flat_map(|above| names.iter().map(move |name| above.join(name)).collect::<Vec<_>>());
        let mut found = Vec::new();
        for place in places.filter(|place| place.is_dir()) {
            found.extend(entries(&place).into_iter().filter(|path| path.is_dir()));
            found.push(place);
        }
        found
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.finish();
        if std::env::var_os("BOOTAGENT_TEST_KEEP").is_none() {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

/// The living processes in a control group.
fn members(group: &Path) -> Vec<i32> {
    let text = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 1 && alive(*pid)).collect()
}

/// Whether a control group is the one of all agents of a host in a test.
fn named_by_us(group: &Path) -> bool {
    group.file_name().is_some_and(|name| name.to_string_lossy().starts_with("bootagent-"))
}

/// The control groups of our making that a process is in.
fn control_groups(pid: i32) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for line in fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default().lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        if path.contains("/bootagent-") {
            let root = Path::new("/sys/fs/cgroup");
            for mount in ["", "unified", controllers.trim_start_matches("name=")] {
                let group = root.join(mount).join(path.trim_start_matches('/'));
                found.extend(group.parent().filter(|above| named_by_us(above)).map(PathBuf::from));
                found.push(group);
            }
        }
    }
    found
}
