//! An agent is started: its control groups, output, directories and socket are made, and then its process.
//!
//! What comes of it goes to the state as an event.

use std::fs::{self, Metadata};
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{fchown, MetadataExt};

use super::conditions::Condition;
use super::{Daemon, Owner};
use crate::error::Error;
use crate::host::disk::reason;
use crate::host::spawn::{env_file, setup, user_of, Where};
use crate::kernel::{Level, Resource, Stage};
use crate::model::descriptors::shortage;
use crate::model::event::Event;
use crate::model::preparation::Preparation;
use crate::model::spec::{Envs, Name, Spec};
use crate::sys::account::{own_gid, own_uid};
use crate::sys::child::Setup;
use crate::sys::process;

impl Daemon {
    /// Starts an agent, or only its `prestart`.
    pub(super) fn start_agent(&mut self, name: Name, prestart: bool) {
        let event = match self.exhausted_resource() {
            Some(reason) => Event::ResourceExhausted { name, reason: reason.into() },
            None => match self.spawn_agent(&name, prestart) {
                Ok(event) => event,
                Err(reason) => Event::NotStarted { name, reason: reason.into() },
            },
        };
        self.queue.push_back(event);
    }

    /// Why there are too few descriptors for a start, if so. Without /proc that is not known, and the start is tried.
    pub(super) fn exhausted_resource(&self) -> Option<String> {
        let open = match open_descriptors() {
            Ok(open) => open,
            Err(error) if error.kind() == ErrorKind::NotFound => return None,
            Err(error) => return Some(format!("no descriptors to spare: {}", reason(&error))),
        };
        let limit = process::limit(Resource::Nofile).map_or(0, |(soft, _)| soft);
        shortage(open, limit)
    }

    fn spawn_agent(&mut self, name: &Name, prestart: bool) -> Result<Event, Error> {
        let spec = self.state.spec(name).ok_or("it has no definition")?;
        let before = spec.prestart.as_ref().filter(|_| prestart);
        let limits = self.limits.apply(name, &spec.limits);
        for note in &limits.notes {
            self.log.write(Level::Info, &note);
        }
        let output = self.outputs.open(name);
        let problem = output.as_ref().err().map(|problem| &**problem);
        self.set_condition(Condition::OutputFile(name.clone()), problem);
        self.set_condition(Condition::OutputPlace(name.clone()), None);
        let exec = before.map_or(&spec.exec, |program| &program.exec);
        let preparation = Preparation::new(&spec, prestart);
        let notify = preparation.notifications.then(|| self.open_notifications(name)).transpose()?;
        let mut setup = self.child(&spec, exec, output.ok(), notify.as_deref()).map_err(|why| match prestart {
            true => format_error!("prestart: {why}"),
            false => why,
        })?;
        let (user, group) = (setup.uid.unwrap_or(own_uid()), setup.gid.unwrap_or(own_gid()));
        if let Some(file) = &setup.stdout {
            // The agent can then open /dev/stderr and read what it has written. A file system that has no owners is as good.
            let _ = fchown(file, Some(user.0), Some(group.0));
        }
        if preparation.place {
            self.make_runtime_directories(&spec, user, group)?;
            remove_pidfile(&spec);
        }
        if preparation.spares {
            self.trees.leave_behind(name, None, &self.limits);
        }
        setup.cgroups = limits.cgroups;
        setup.cgroup = limits.cgroup;
        let pid = match self.children.spawn(&setup) {
            Ok(pid) => pid,
            // No child was made, which is not the fault of the definition.
            Err(error) => {
                let reason = format!("{}: {}", Stage::Fork, reason(&error)).into();
                return Ok(Event::ResourceExhausted { name: name.clone(), reason });
            }
        };
        let process = Daemon::process(pid);
        self.trees.runs_as(name, Some(user));
        self.trees.started(name, process);
        if prestart {
            self.children.owners.insert(pid, Owner::Prestart(name.clone()));
            return Ok(Event::PrestartStarted(name.clone(), process));
        }
        self.children.owners.insert(pid, Owner::Agent(name.clone()));
        Ok(Event::Started { name: name.clone(), process, enforcement: limits.enforcement })
    }

    /// How to run `exec` as a definition says; `notify` is the socket that it is told to notify.
    ///
    /// # Errors
    /// When the definition cannot be followed on this host, such as when there is no such user.
    pub(super) fn child(
        &mut self,
        spec: &Spec,
        exec: &[Box<str>],
        output: Option<OwnedFd>,
        notify: Option<&str>,
    ) -> Result<Setup, Error> {
        // Only a relative program is looked for in the package.
        let relative = exec.first().is_some_and(|program| !program.starts_with('/'));
        let current = relative.then(|| self.records.store().packages_dir(&spec.name).join("current"));
        let package = current.filter(|current| current.exists());
        let of_file = match user_of(spec) {
            Some(user) => env_file(spec, user).map_err(|error| format_error!("{}: {error}", Stage::Environment))?,
            // That there is no such user is said below.
            None => Envs::new(),
        };
        let (state_dir, mark) = (&*self.config.state_dir, &*self.mark);
        let place = Where { state_dir, mark, package: package.as_deref(), notify, of_file: &of_file };
        let made = setup(spec, exec, &place, output);
        self.note_values(spec, of_file);
        made
    }
}

/// How many descriptors the daemon has open: the size of this directory from Linux 6.2 on, else the number of its entries.
fn open_descriptors() -> io::Result<u64> {
    const OWN: &str = "/proc/self/fd";
    match fs::metadata(OWN)?.len() {
        0 => Ok(fs::read_dir(OWN)?.count() as u64),
        open => Ok(open),
    }
}

/// Removes the pid file of an agent whose main process is gone: some daemons refuse to start while there is one. Another
/// user than root could lead the path elsewhere, so only a file of that user is removed.
fn remove_pidfile(spec: &Spec) {
    let Some(path) = spec.pidfile.as_deref() else { return };
    let is_theirs = |there: &Metadata| user_of(spec).is_some_and(|user| user.0 == 0 || there.uid() == user.0);
    if fs::symlink_metadata(path).is_ok_and(|there| !there.is_dir() && is_theirs(&there)) {
        let _ = fs::remove_file(path);
    }
}
