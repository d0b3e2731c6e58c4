//! The main process of an agent, where the daemon has not started it itself: found, and followed from then on.
//!
//! `model::main_process` decides which process it is.

use std::fs::{File, Metadata, OpenOptions};
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::{Daemon, Owner};
use crate::host::proc::{self, Stat};
use crate::kernel::{Pid, Process};
use crate::model::event::Event;
use crate::model::main_process::{self, Evidence};
use crate::model::spec::Name;
use crate::sys::process;

impl Daemon {
    /// Finds the main process that a forking agent's starter, or the main process before it, has left.
    pub(super) fn find_main(&mut self, name: Name) {
        self.trees.forget_snapshot();
        let mut members = self.trees.members(&name, &self.limits);
        members.retain(Stat::alive);
        let evidence = match self.state.spec(&name).and_then(|spec| spec.pidfile) {
            Some(pidfile) => Evidence::PidFile(read_pid(Path::new(&*pidfile))),
            None => Evidence::Descent { incomplete: self.trees.is_asking(&name), uptime: proc::uptime() },
        };
        let found = main_process::find_main(&members.iter().map(Stat::kin).collect::<Vec<_>>(), evidence);
        if let Some(process) = found {
            self.follow_process(&name, process);
        }
        self.queue.push_back(Event::MainProcess { name, found, left: members.len() as u32 });
    }

    /// Makes sure that the end of an agent's main process, which the daemon did not start itself, is noticed.
    pub(super) fn follow_process(&mut self, name: &Name, process: Process) {
        self.trees.adopt(name, process);
        if process::is_child(process.pid) {
            self.children.owners.insert(process.pid, Owner::Agent(name.clone()));
        } else {
            self.watch(Owner::Agent(name.clone()), process);
        }
    }

    /// Does so for another process of the agent that has taken the place of its main process, which lives on perhaps.
    pub(super) fn follow_moved(&mut self, name: &Name, process: Process) {
        self.children.forget(&Owner::Agent(name.clone()));
        self.trees.keep_main(name);
        self.follow_process(name, process);
    }
}

/// The process id in a file: its leading number, whatever follows, as some daemons write more than that. The agent's user
/// can put anything in its place, so it is looked at before it is opened: reading a named pipe would block the daemon, and
/// opening a device may have an effect.
fn read_pid(path: &Path) -> Option<Pid> {
    let place = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(path).ok()?;
    place.metadata().ok().filter(Metadata::is_file)?;
    let mut file = File::open(format!("/proc/self/fd/{}", place.as_raw_fd())).ok()?;
    let mut text = [0; 32];
    let length = file.read(&mut text).ok()?;
    leading_pid(&text[..length])
}

fn leading_pid(text: &[u8]) -> Option<Pid> {
    let text = text.trim_ascii_start();
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    proc::parse_pid(std::str::from_utf8(&text[..digits]).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_file_begins_with_the_process_id() {
        let want = Pid::new(4711);
        for text in
            ["4711", "4711\n", "  4711\n", "4711\n/var/lib/data\n1700000000\n5432\n", "4711\0\0\0", "4711 host.example"]
        {
            assert_eq!(leading_pid(text.as_bytes()), want, "{text:?}");
        }
        for text in ["", "\n", "host", "-4711", "0", "99999999999999999999"] {
            assert_eq!(leading_pid(text.as_bytes()), None, "{text:?}");
        }
    }
}
