//! Health checks: run as a definition says, and heard to the end, so that a failure can say why.
//!
//! What a check says goes through a pipe that is emptied as it fills, so that it waits for nobody and fills no disk, and only
//! the end of it is kept. What a check leaves running holds nothing up: its own end counts.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::AsFd;

use super::children::{longest_value, without_values, TAIL};
use super::{Daemon, Owner};
use crate::kernel::Exit;
use crate::model::event::Event;
use crate::model::spec::Name;
use crate::sys::child::spawn_child;
use crate::sys::file::read_up_to;
use crate::sys::poll::PollFd;
use crate::sys::{pipe, set_nonblocking};
use crate::text::sanitize;

/// So much is read at once: what a pipe holds.
const PIPE: u64 = 64 << 10;

/// A health check that runs, or has ended and was not heard out.
pub(super) struct Check {
    name: Name,
    /// What it writes to; none where there could be none, and when nothing more can come.
    pipe: Option<File>,
    /// The end of what it has said.
    said: Vec<u8>,
    /// So much of that is kept, bytes.
    kept: usize,
}

impl Check {
    /// What to wait for.
    pub(super) fn fd(&self) -> Option<PollFd<'_>> {
        self.pipe.as_ref().map(|pipe| PollFd::reading(pipe.as_fd()))
    }

    /// Takes what it has said since.
    pub(super) fn read(&mut self) {
        let Some(pipe) = &mut self.pipe else { return };
        match read_up_to(PIPE, &mut self.said, &mut |to| pipe.read(to)) {
            Ok(count) if count as u64 == PIPE => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Ok(_) | Err(_) => self.pipe = None,
        }
        self.said.drain(..self.said.len().saturating_sub(self.kept));
    }
}

impl Daemon {
    /// Runs an agent's health check.
    pub(super) fn start_check(&mut self, name: Name) {
        let spec = self.state.spec(&name);
        let Some((spec, check)) = spec.and_then(|spec| spec.check.clone().map(|check| (spec, check))) else { return };
        let mut ours = None;
        let spawned = self.child(&spec, &check.exec, None).and_then(|mut setup| {
            // Without descriptors to spare it is not heard, which is not its fault.
            let spare = self.exhausted_resource().is_none().then(pipe).and_then(Result::ok);
            if let Some((read, write)) = spare.filter(|(read, _)| set_nonblocking(read.as_fd()).is_ok()) {
                setup.stderr = write.try_clone().ok();
                setup.stdout = Some(write);
                ours = Some(File::from(read));
            }
            spawn_child(&setup, &self.failures).map_err(|error| format_error!("{error}"))
        });
        match spawned {
            Ok(pid) => {
                let kept = TAIL as usize + longest_value(&spec);
                self.checks.push(Check { name: name.clone(), pipe: ours, said: Vec::new(), kept });
                self.track_child(pid, Owner::Check(name));
            }
            Err(reason) => self.queue.push_back(Event::Checked(name, Exit::Unknown, reason.into())),
        }
    }

    /// The last lines of what a check that has ended said, without the values of its environment.
    pub(super) fn heard(&mut self, name: &str) -> String {
        let Some(index) = self.checks.iter().position(|check| *check.name == *name) else { return String::new() };
        let mut check = self.checks.remove(index);
        check.read();
        // An agent that has gone meanwhile has nothing to say any more.
        let Some(spec) = self.state.spec(name) else { return String::new() };
        sanitize(&without_values(&String::from_utf8_lossy(&check.said), &spec.envs), TAIL as usize)
    }
}
