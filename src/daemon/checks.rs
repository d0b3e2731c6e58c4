//! Health checks: programs that a definition names, and whose output explains a failure.
//!
//! The output of a check goes through a pipe that is read as it fills, so that the check never blocks and no disk fills up;
//! only the end of the output is kept. Processes that a check leaves running do not matter: its result is its own end. What
//! a result means for the agent is for the state to decide. One that an earlier daemon has left running is ended (`programs`).

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::AsFd;

use super::{Daemon, Owner};
use crate::host::disk::reason;
use crate::kernel::Exit;
use crate::model::event::Event;
use crate::model::secrets::{longest_value, without_values, TAIL};
use crate::model::spec::Name;
use crate::sys::file::read_up_to;
use crate::sys::poll::PollFd;
use crate::sys::{pipe, set_nonblocking};
use crate::text::sanitize;

/// How much is read at once, bytes: what a pipe holds.
const PIPE: u64 = 64 << 10;

/// A health check that runs, or that has ended and whose output was not read to its end.
pub(super) struct Check {
    name: Name,
    /// Its output; `None` where no pipe could be made, and when the output has ended.
    pipe: Option<File>,
    /// The end of what was read.
    output: Vec<u8>,
    /// How much of that is kept, bytes.
    max: usize,
}

impl Check {
    /// What to poll for its output.
    pub(super) fn fd(&self) -> Option<PollFd<'_>> {
        self.pipe.as_ref().map(|pipe| PollFd::reading(pipe.as_fd()))
    }

    /// Reads what it has written since.
    pub(super) fn read(&mut self) {
        let Some(pipe) = &mut self.pipe else { return };
        match read_up_to(PIPE, &mut self.output, &mut |to| pipe.read(to)) {
            Ok(count) if count as u64 == PIPE => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Ok(_) | Err(_) => self.pipe = None,
        }
        self.output.drain(..self.output.len().saturating_sub(self.max));
    }
}

impl Daemon {
    /// Runs an agent's health check.
    pub(super) fn start_check(&mut self, name: Name) {
        let Some(spec) = self.state.spec(&name) else { return };
        let Some(check) = &spec.check else { return };
        let mut setup = match self.child(&spec, &check.exec, None, None) {
            Ok(setup) => setup,
            Err(reason) => return self.queue.push_back(Event::Checked(name, Exit::Unknown, reason.into())),
        };
        // Without a descriptor to spare, the check runs without its output being read.
        let spare = self.exhausted_resource().is_none().then(pipe).and_then(Result::ok);
        let output = spare.filter(|(read, _)| set_nonblocking(read.as_fd()).is_ok()).map(|(read, write)| {
            setup.stderr = write.try_clone().ok();
            setup.stdout = Some(write);
            File::from(read)
        });
        match self.children.spawn(&setup) {
            Ok(pid) => {
                let max = TAIL as usize + longest_value(&self.secrets(&spec));
                self.checks.push(Check { name: name.clone(), pipe: output, output: Vec::new(), max });
                self.note_program("check", &name, pid);
                self.track_child(pid, Owner::Check(name));
            }
            // No child was made, which says nothing about the agent.
            Err(error) => self.queue.push_back(Event::NotChecked(name, reason(&error).into())),
        }
    }

    /// Removes a check that has ended; returns the last lines of its output, without the values of its environment.
    pub(super) fn finish_check(&mut self, name: &str) -> String {
        let Some(index) = self.checks.iter().position(|check| *check.name == *name) else { return String::new() };
        let mut check = self.checks.remove(index);
        self.forget_program("check", name);
        check.read();
        // The agent may have been removed in the meantime.
        let Some(spec) = self.state.spec(name) else { return String::new() };
        sanitize(&without_values(&String::from_utf8_lossy(&check.output), &self.secrets(&spec)), TAIL as usize)
    }
}
