//! The programs that have agents read their own configuration again: run as the agent's user, in its tree and its control
//! groups, with their output in the agent's. One that an earlier daemon has left running is ended (`programs`).

use super::{Daemon, Owner};
use crate::error::Error;
use crate::host::disk::reason;
use crate::kernel::{Exit, Stage};
use crate::model::event::Event;
use crate::model::spec::Name;

impl Daemon {
    /// Runs the program of an agent's `reload`.
    pub(super) fn start_reload(&mut self, name: Name) {
        if let Err(reason) = self.spawn_reload(&name) {
            self.queue.push_back(Event::ReloadEnded(name, Exit::Unknown, reason.into()));
        }
    }

    fn spawn_reload(&mut self, name: &Name) -> Result<(), Error> {
        let spec = self.state.spec(name).ok_or("it has no definition")?;
        let program = spec.reload.as_ref().and_then(|reload| reload.program()).ok_or("it has no program for it")?;
        let output = self.outputs.open(name).ok();
        let mut setup = self.child(&spec, &program.exec, output, None)?;
        (setup.cgroup, setup.cgroups) = self.limits.entrances(name);
        let pid = self.children.spawn(&setup).map_err(|error| format_error!("{}: {}", Stage::Fork, reason(&error)))?;
        self.note_program("reload", name, pid);
        self.children.owners.insert(pid, Owner::Reload(name.clone()));
        Ok(())
    }
}
