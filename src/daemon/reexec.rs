//! Another image in the place of this one: what is handed over, the exec, and what the new image finds.
//!
//! The process stays the same, and with it its children and locks. Descriptors that are to stay are kept open over the exec;
//! which is which stands in a file without a name, whose descriptor an environment variable tells. No child sees it.
//! An image on trial is watched by a child of the one before it (`work::watch`).

use std::convert::Infallible;
use std::ffi::{CString, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Daemon, Owner};
use crate::error::Error;
use crate::host::config_files;
use crate::host::disk::{reason, sync_dir};
use crate::kernel::{Level, Time};
use crate::model::event::{Client, Event, ToolOwner};
use crate::sys::child::{spawn_child, Setup};
use crate::sys::file::{open_nofollow, read, read_up_to};
use crate::sys::poll::{poll, PollFd};
use crate::sys::{inherited, pipe, process, set_cloexec};
use crate::wire::reexec_data::{self, ReexecData};
use crate::work::watch;

/// Below `run_dir`, while it is written: what is handed over.
pub const REEXEC_FILE: &str = "handover";

/// Tells the new image the number of the descriptor that all else stands in.
const VARIABLE: &str = "BOOTAGENT_HANDOVER";

/// How much later than its own time an image on trial is ended by its watcher, if it does not go back by itself.
const GRACE: Duration = Duration::from_secs(5);

/// How long the watcher may take to be executed: the one wait outside of the loop, which is being left.
const BEGIN: Duration = Duration::from_secs(1);

/// What the image before this one handed over; `Err`: it did, and it cannot be read.
pub fn take_reexec_data() -> Option<Result<ReexecData, Error>> {
    let number = std::env::var(VARIABLE).ok()?;
    std::env::remove_var(VARIABLE);
    let file = number.parse().map_err(|_| format_error!("\"{number}\" is no descriptor"));
    let text = file.and_then(|number| {
        let mut text = Vec::new();
        let mut file = File::from(inherited(number).map_err(|error| reason(&error))?);
        let begun = file.seek(SeekFrom::Start(0));
        let read = begun.and_then(|_| read_up_to(u64::MAX, &mut text, &mut |to| file.read(to)));
        read.map_err(|error| reason(&error))?;
        String::from_utf8(text).map_err(|_| "it is not UTF-8".into())
    });
    let handover = text.and_then(|text| reexec_data::read(&text));
    match &handover {
        Ok(handover) if handover.pid != process::own_id() => Some(Err("it is of another process".into())),
        _ => Some(handover),
    }
}

/// The descriptor that was handed over under this number.
pub fn taken(number: Option<i32>) -> Option<OwnedFd> {
    inherited(number?).ok()
}

/// The path of the installed binary: as it was called, where that is a path, so that a link stays one.
pub fn installed() -> String {
    let called = std::env::args_os().next().filter(|name| name.as_bytes().contains(&b'/')).map(PathBuf::from);
    let called = called.and_then(|name| std::path::absolute(name).ok()).filter(|path| path.exists());
    let path = called.or_else(|| std::env::current_exe().ok()).unwrap_or_else(|| PathBuf::from("/proc/self/exe"));
    let path = path.to_string_lossy().into_owned();
    // What the kernel adds to the name of a binary that was replaced since.
    path.strip_suffix(" (deleted)").unwrap_or(&path).to_string()
}

impl Daemon {
    /// Executes `program` in our place; returns only when that cannot be done.
    pub(super) fn reexec(&mut self, program: &str, until: Option<Time>) {
        let Err(why) = self.execute(program, until);
        self.dismiss_watcher();
        self.queue.push_back(Event::NotReexeced(why.into()));
    }

    fn execute(&mut self, program: &str, until: Option<Time>) -> Result<Infallible, Error> {
        self.reserve_descriptors()?;
        // An image on trial goes back whatever that costs.
        if until.is_some() || self.watcher.is_none() {
            self.flush_records()?;
        }
        for (_, helper) in &mut self.helpers {
            helper.stop();
        }
        let checks: Vec<Owner> =
            self.owners.values().filter(|owner| matches!(owner, Owner::Check(_))).cloned().collect();
        for check in checks {
            self.kill_owned(&check);
        }
        match until {
            Some(until) => self.start_watcher(until + GRACE)?,
            None => self.dismiss_watcher(),
        }
        let told = |what: &str, error: io::Error| format!("cannot {what}: {}", reason(&error));
        let path = CString::new(program).map_err(|error| told("execute it", error.into()))?;
        let file = self.write_reexec_data(until).map_err(|error| told("write down what is handed over", error))?;
        let argv = process::arguments();
        let mut envp = process::environment();
        envp.push(text(&format!("{VARIABLE}={}", file.as_raw_fd())));
        self.log(Level::Info, &format_args!("executing \"{program}\""));
        let Daemon { lock, state_lock, control, failures, watcher, .. } = self;
        let mut kept: Vec<BorrowedFd> = vec![file.as_fd(), lock.as_fd()];
        kept.extend(state_lock.as_ref().map(AsFd::as_fd));
        kept.extend(control.descriptors());
        kept.extend(failures.ends());
        kept.extend(watcher.as_ref().map(AsFd::as_fd));
        let open = kept.iter().try_for_each(|fd| set_cloexec(*fd, false));
        let failed = match open {
            Ok(()) => process::exec(&path, &argv, &envp),
            Err(error) => error,
        };
        for fd in kept {
            let _ = set_cloexec(fd, true);
        }
        Err(format_error!("cannot execute \"{program}\": {}", reason(&failed)))
    }

    /// Records and sockets are looked for where they are now: another place would be another daemon.
    fn reserve_descriptors(&self) -> Result<(), Error> {
        let next = config_files::config_in_use(&self.config_path).0.config;
        for (key, now, next) in
            [("run_dir", &self.config.run_dir, &next.run_dir), ("state_dir", &self.config.state_dir, &next.state_dir)]
        {
            if now != next {
                return Err(format_error!(
                    "{key} is \"{next}\" now, and was \"{now}\": stop the daemon and start it anew"
                ));
            }
        }
        Ok(())
    }

    fn write_reexec_data(&mut self, until: Option<Time>) -> io::Result<File> {
        let (mut tools, mut errands) = (Vec::new(), Vec::new());
        for (pid, owner) in &self.owners {
            match owner {
                Owner::Agent(_) => {}
                Owner::Tool(ToolOwner::Job(job)) => tools.push((*pid, job.clone())),
                Owner::Tool(ToolOwner::Reexec) | Owner::Check(_) | Owner::Helper | Owner::Detached => {
                    errands.push(*pid)
                }
            }
        }
        let (last_client, mut connections) = self.control.connections();
        for (client, command) in self.state.waiting() {
            if let Some(found) = connections.iter_mut().find(|connection| connection.client == client.0) {
                found.command = Some(command);
            }
        }
        let [read, write] = self.failures.ends().map(|end| end.as_raw_fd());
        let handover = ReexecData {
            pid: process::own_id(),
            program: self.program.clone(),
            run_dir: self.config.run_dir.to_string(),
            lock: Some(self.lock.as_raw_fd()),
            state_lock: self.state_lock.as_ref().map(AsRawFd::as_raw_fd),
            listener: self.control.descriptors().next().map(|fd| fd.as_raw_fd()),
            failures: Some((read, write)),
            watcher: self.watcher.as_ref().map(AsRawFd::as_raw_fd),
            nofile: self.nofile,
            last_client,
            connections,
            tools,
            detached: errands,
            state: self.state.reexec_state(until),
        };
        let path = Path::new(&*self.config.run_dir).join(REEXEC_FILE);
        let _ = fs::remove_file(&path);
        let mut file = open_nofollow(&path, OpenOptions::new().read(true).write(true).create_new(true), 0o600)?;
        let written = file.write_all(reexec_data::write(&handover).as_bytes());
        fs::remove_file(&path)?;
        written.map(|()| file)
    }

    /// Takes what the image before this one left, beside what is taken at the start.
    pub(super) fn inherit(&mut self, handover: ReexecData) {
        for (pid, job) in handover.tools {
            self.track_child(pid, Owner::Tool(ToolOwner::Job(job)));
        }
        for pid in handover.detached {
            self.track_child(pid, Owner::Detached);
        }
        self.watcher = taken(handover.watcher).map(File::from);
        for connection in handover.connections {
            if let Some(command) = connection.command {
                self.queue.push_back(Event::Command(Client(connection.client), command));
            }
        }
    }

    /// Has a child of this image see to it that the installed binary runs again, should the next one end or hang.
    fn start_watcher(&mut self, until: Time) -> Result<(), Error> {
        let started = (|| {
            let (read, write) = pipe()?;
            let mut argv = vec![c"bootagent".to_owned(), text(watch::WORD)];
            let own = process::own_id().to_string();
            for word in [&*own, &until.0.to_string(), &*self.config.run_dir, &self.program] {
                argv.push(text(word));
            }
            argv.append(&mut process::arguments());
            let mut setup = Setup::new(self.binary.program()?, argv, process::environment());
            setup.stdin = Some(read);
            setup.stdout = io::stdout().as_fd().try_clone_to_owned().ok();
            setup.stderr = io::stderr().as_fd().try_clone_to_owned().ok();
            // What it may execute finds its files as we do.
            setup.directory =
                std::env::current_dir().map_or(c"/".to_owned(), |dir| process::c_text(dir.as_os_str().as_bytes()));
            self.restore_limits(&mut setup);
            let (begun, held) = pipe()?;
            let pid = spawn_child(&setup, &self.failures)?;
            drop(held);
            // Until it is its program it would end with us; that it is shows in the end of a pipe that no program keeps.
            match poll(&mut [PollFd::reading(begun.as_fd())], Some(BEGIN))? {
                0 => Err(io::ErrorKind::TimedOut.into()),
                _ => Ok((pid, write)),
            }
        })();
        let (pid, write) =
            started.map_err(|error: io::Error| format_error!("cannot start a watcher: {}", reason(&error)))?;
        if let Some(failure) = self.failures.take(pid) {
            return Err(format_error!("cannot start a watcher: {failure}"));
        }
        self.track_child(pid, Owner::Detached);
        self.watcher = Some(File::from(write));
        Ok(())
    }

    /// Tells the watcher of this image, if there is one, that it is not needed any more.
    pub(super) fn dismiss_watcher(&mut self) {
        if let Some(mut watcher) = self.watcher.take() {
            // One that has ended is as good.
            let _ = watcher.write_all(&[watch::DISMISSED]);
        }
    }

    /// Puts this binary in the place of the installed one, in one step.
    pub(super) fn replace(&mut self, from: &str) -> Result<(), Error> {
        let told = |path: &Path, error: &io::Error| format!("cannot write \"{}\": {}", path.display(), reason(error));
        // A link to the binary stays one.
        let program = fs::canonicalize(&self.program).unwrap_or_else(|_| PathBuf::from(&self.program));
        let mut next = OsString::from(&program);
        next.push(".new");
        let next = PathBuf::from(next);
        if Path::new(from).exists() {
            let copied = read(Path::new(from))
                .and_then(|binary| fs::write(&next, binary))
                .and_then(|()| fs::metadata(&program).or_else(|_| fs::metadata(from)))
                .and_then(|old| fs::set_permissions(&next, old.permissions()))
                .and_then(|()| File::open(&next)?.sync_all())
                .and_then(|()| fs::rename(&next, &program));
            if let Err(error) = copied {
                let _ = fs::remove_file(&next);
                return Err(told(&program, &error).into());
            }
            sync_dir(program.parent().unwrap_or(Path::new("/")))?;
        }
        self.dismiss_watcher();
        Ok(())
    }
}

fn text(text: &str) -> CString {
    process::c_text(text.as_bytes())
}
