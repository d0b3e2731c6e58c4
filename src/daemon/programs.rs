//! Programs that the daemon waits for, and that must not outlive it: health checks, reloads, and tools but those of jobs.
//!
//! Nobody would notice that one hangs, and its result would be lost; who wanted it runs it again. So they are ended with the
//! daemon. The process id of each is in a file below `run_dir`, by which the next daemon ends those of one that has died.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use super::children::kill_all_below;
use super::{Daemon, Owner};
use crate::host::disk::{list, publish, read_own, reason};
use crate::host::proc;
use crate::kernel::{Level, Pid, Process};
use crate::model::event::ToolOwner;

/// How the names of their files begin. A job's tool, which may be an installer and must not be interrupted, is not among them:
/// no job's id begins with a dot.
const FILES: [&str; 3] = ["check-", "reload-", "tool-."];

/// The file with the process id of a program that runs for an agent, below `run_dir`.
fn pid_file(kind: &str, name: &str) -> String {
    format!("{kind}-{name}.pid")
}

impl Daemon {
    /// Notes the process id of a program that runs for an agent, for the next daemon: a "check" or a "reload". It matters only
    /// if this daemon dies, and is written again for the next such program, so that a failure is not told.
    pub(super) fn note_program(&self, kind: &str, name: &str, pid: Pid) {
        let _ = publish(self.run_dir(), &pid_file(kind, name), &self.note_of(pid));
    }

    /// What such a file holds: the process id, its start time and the boot.
    pub(super) fn note_of(&self, pid: Pid) -> String {
        let Process { pid, ticks } = Daemon::process(pid);
        format!("{pid} {ticks} {}\n", self.state.boot_id())
    }

    /// This program has ended.
    pub(super) fn forget_program(&self, kind: &str, name: &str) {
        let _ = fs::remove_file(self.run_dir().join(pid_file(kind, name)));
    }

    /// The process that such a file names, if it is of this boot. A child is that in any case: before a reexec, an older version
    /// may have noted it without the boot.
    fn noted_process(&mut self, path: &Path) -> Option<Process> {
        let text = self.read_run_file(path)?;
        let (process, boot) = proc::parse_process(&text)?;
        let is_ours =
            !boot.is_empty() && *boot == *self.state.boot_id() || self.children.owners.contains_key(&process.pid);
        is_ours.then_some(process)
    }

    /// The text of a file below `run_dir`. One that somebody else could have written is told, and not taken: it says which
    /// processes are ended, or which directories are removed.
    pub(super) fn read_run_file(&mut self, path: &Path) -> Option<String> {
        match read_own(path) {
            Ok(text) => return Some(String::from_utf8_lossy(&text).into_owned()),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => {
                let why = reason(&error);
                self.log(Level::Warn, &format_args!("cannot read \"{}\": {why}; it is ignored", path.display()));
            }
        }
        None
    }

    /// Ends the programs that an earlier daemon, or this one before a reexec, has left running.
    pub(super) fn end_old_programs(&mut self) {
        let run_dir = self.config.run_dir.clone();
        let run_dir = Path::new(&*run_dir);
        for file in list(run_dir, ".pid").unwrap_or_default() {
            if !FILES.iter().any(|kind| file.starts_with(kind)) {
                continue;
            }
            let path = run_dir.join(file + ".pid");
            if let Some(process) = self.noted_process(&path) {
                if proc::stat(process.pid).is_some_and(|stat| stat.process == process) {
                    kill_all_below(process.pid);
                }
            }
            let _ = fs::remove_file(path);
        }
    }

    /// Ends the programs that run.
    pub(super) fn stop_programs(&mut self) {
        for (pid, owner) in &self.children.owners {
            match owner {
                Owner::Check(_) | Owner::Reload(_) | Owner::Tool(ToolOwner::Reexec | ToolOwner::Inventory) => {
                    kill_all_below(*pid);
                }
                Owner::Tool(ToolOwner::Job(_))
                | Owner::Agent(_)
                | Owner::Prestart(_)
                | Owner::Helper
                | Owner::Detached => {}
            }
        }
    }
}
