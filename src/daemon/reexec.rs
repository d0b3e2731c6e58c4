//! Reexec: the daemon executes its binary again, or that of another version, without ending.
//!
//! The process stays the same, and so do its children and locks. Some descriptors are kept open over the exec; which is which
//! is written to a file that is unlinked at once, and whose descriptor an environment variable names. No child inherits it.
//! A binary on trial, such as one just installed by an upgrade, is watched by a child of the old one (`work::watch`), which
//! reinstalls the old binary should the new one end or hang.

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
use crate::kernel::{Level, Pid, Resource, Time};
use crate::model::event::{Client, Event, ToolOwner};
use crate::sys::child::Setup;
use crate::sys::file::{open_nofollow, read, read_up_to};
use crate::sys::poll::{poll, PollFd};
use crate::sys::{inherited, pipe, process, set_cloexec};
use crate::wire::reexec_data::{self, ReexecData};
use crate::work::watch;

/// Below `run_dir`, while it is written: the reexec data.
pub(super) const REEXEC_FILE: &str = "handover";

/// The environment variable with the number of the descriptor of the reexec data.
const VARIABLE: &str = "BOOTAGENT_HANDOVER";

/// How long after the end of a trial the watcher ends a binary that does not undo the upgrade by itself.
const GRACE: Duration = Duration::from_secs(5);

/// How long the watcher may take to be executed. This is the one wait outside of the loop, which is about to be left.
const WATCHER_START: Duration = Duration::from_secs(1);

/// The path of the installed binary, and the watcher of this one.
pub(super) struct Installed {
    pub program: String,
    /// The pipe to the process that watches this binary while it is on trial.
    pub watcher: Option<File>,
}

/// The reexec data that this process left for itself before it executed this binary; `None` when it was started otherwise,
/// `Err` when the data cannot be read.
pub(super) fn take_reexec_data() -> Option<Result<ReexecData, Error>> {
    let number = std::env::var(VARIABLE).ok()?;
    std::env::remove_var(VARIABLE);
    let data = read_descriptor(&number).and_then(|text| reexec_data::read(&text));
    match &data {
        Ok(data) if data.pid != process::own_id() => Some(Err("it is of another process".into())),
        _ => Some(data),
    }
}

/// The content of the file with this descriptor.
fn read_descriptor(number: &str) -> Result<String, Error> {
    let number = number.parse().map_err(|_| format_error!("\"{number}\" is no descriptor"))?;
    let mut file = File::from(inherited(number).map_err(|error| reason(&error))?);
    let mut text = Vec::new();
    let rewound = file.seek(SeekFrom::Start(0));
    let read = rewound.and_then(|_| read_up_to(u64::MAX, &mut text, &mut |to| file.read(to)));
    read.map_err(|error| reason(&error))?;
    String::from_utf8(text).map_err(|_| "it is not UTF-8".into())
}

/// The descriptor with this number, if it was kept open over a reexec.
pub(super) fn take_descriptor(number: Option<i32>) -> Option<OwnedFd> {
    inherited(number?).ok()
}

/// The path of the installed binary: the one it was started with, if that is a path, so that a link to it stays one.
pub(super) fn installed() -> String {
    let called = std::env::args_os().next().filter(|name| name.as_bytes().contains(&b'/')).map(PathBuf::from);
    let called = called.and_then(|name| std::path::absolute(name).ok()).filter(|path| path.exists());
    let path = called.or_else(|| std::env::current_exe().ok()).unwrap_or_else(|| PathBuf::from("/proc/self/exe"));
    let path = path.to_string_lossy().into_owned();
    // The kernel adds this to the name of a binary that was replaced since.
    path.strip_suffix(" (deleted)").unwrap_or(&path).to_string()
}

impl Daemon {
    /// Replaces this binary by `program`, which is on trial until `until`; returns only when that fails.
    pub(super) fn reexec(&mut self, program: &str, until: Option<Time>) {
        let Err(why) = self.execute(program, until);
        self.dismiss_watcher();
        self.queue.push_back(Event::NotReexeced(why.into()));
    }

    fn execute(&mut self, program: &str, until: Option<Time>) -> Result<Infallible, Error> {
        self.check_directories()?;
        // Undoing an upgrade must not fail because records cannot be written.
        if until.is_some() || self.installed.watcher.is_none() {
            self.flush_records()?;
        }
        self.helpers.stop_all();
        self.stop_programs();
        match until {
            Some(until) => self.start_watcher(until + GRACE)?,
            None => self.dismiss_watcher(),
        }
        let with_context = |what: &str, error: io::Error| format!("cannot {what}: {}", reason(&error));
        let path = CString::new(program).map_err(|error| with_context("execute it", error.into()))?;
        let data = self.write_reexec_data(until).map_err(|error| with_context("write the reexec data", error))?;
        let mut envp = process::environment();
        envp.push(text(&format!("{VARIABLE}={}", data.as_raw_fd())));
        self.log(Level::Info, &format_args!("executing \"{program}\""));
        let kept = self.kept_descriptors(&data);
        let failed = match kept.iter().try_for_each(|fd| set_cloexec(*fd, false)) {
            Ok(()) => process::exec(&path, &process::arguments(), &envp),
            Err(error) => error,
        };
        for fd in kept {
            let _ = set_cloexec(fd, true);
        }
        Err(format_error!("cannot execute \"{program}\": {}", reason(&failed)))
    }

    /// The descriptors that stay open over a reexec, `data` first.
    fn kept_descriptors<'a>(&'a mut self, data: &'a File) -> Vec<BorrowedFd<'a>> {
        let Daemon { run_files, control, children, installed, notifications, .. } = self;
        let mut kept = vec![data.as_fd(), run_files.lock.as_fd()];
        kept.extend(run_files.state_lock.as_ref().map(AsFd::as_fd));
        kept.extend(control.descriptors());
        kept.extend(children.setup_errors.ends());
        kept.extend(notifications.descriptors());
        kept.extend(installed.watcher.as_ref().map(AsFd::as_fd));
        kept
    }

    /// Checks that the configuration still names the directories that are in use: the locks and the records are there.
    fn check_directories(&self) -> Result<(), Error> {
        let config = config_files::config_in_use(&self.config_path).0.config;
        for (key, used, configured) in [
            ("run_dir", &self.config.run_dir, &config.run_dir),
            ("state_dir", &self.config.state_dir, &config.state_dir),
        ] {
            if used != configured {
                return Err(format_error!(
                    "{key} is \"{configured}\" now, and was \"{used}\": stop the daemon and start it again"
                ));
            }
        }
        Ok(())
    }

    fn write_reexec_data(&mut self, until: Option<Time>) -> io::Result<File> {
        let (mut tools, mut detached) = (Vec::new(), Vec::new());
        for (pid, owner) in &self.children.owners {
            match owner {
                Owner::Agent(_) | Owner::Prestart(_) | Owner::Reload(_) => {}
                Owner::Tool(ToolOwner::Job(job)) => tools.push((*pid, job.clone())),
                Owner::Tool(ToolOwner::Reexec | ToolOwner::Inventory)
                | Owner::Check(_)
                | Owner::Helper
                | Owner::Detached => detached.push(*pid),
            }
        }
        let (last_client, mut connections) = self.control.connections();
        for (client, command) in self.state.waiting() {
            if let Some(waiting) = connections.iter_mut().find(|connection| connection.client == client.0) {
                waiting.command = Some(command);
            }
        }
        let [read, write] = self.children.setup_errors.ends().map(|end| end.as_raw_fd());
        let data = ReexecData {
            pid: process::own_id(),
            program: self.installed.program.clone(),
            run_dir: self.config.run_dir.to_string(),
            lock: Some(self.run_files.lock.as_raw_fd()),
            state_lock: self.run_files.state_lock.as_ref().map(AsRawFd::as_raw_fd),
            listener: self.control.descriptors().next().map(|fd| fd.as_raw_fd()),
            failures: Some((read, write)),
            watcher: self.installed.watcher.as_ref().map(AsRawFd::as_raw_fd),
            nofile: self.children.nofile,
            last_client,
            connections,
            tools,
            detached,
            notifications: self.notifications.numbers(),
            state: self.state.reexec_state(until),
        };
        let path = self.run_dir().join(REEXEC_FILE);
        let _ = fs::remove_file(&path);
        let mut file = open_nofollow(&path, OpenOptions::new().read(true).write(true).create_new(true), 0o600)?;
        let written = file.write_all(reexec_data::write(&data).as_bytes());
        fs::remove_file(&path)?;
        written.map(|()| file)
    }

    /// Takes the children, the watcher and the waiting commands that were handed over by a reexec.
    pub(super) fn inherit(&mut self, data: ReexecData) {
        for (pid, job) in data.tools {
            self.track_child(pid, Owner::Tool(ToolOwner::Job(job)));
        }
        for pid in data.detached {
            self.track_child(pid, Owner::Detached);
        }
        self.installed.watcher = take_descriptor(data.watcher).map(File::from);
        for connection in data.connections {
            if let Some(command) = connection.command {
                self.queue.push_back(Event::Command(Client(connection.client), command));
            }
        }
    }

    /// Starts a child that reinstalls the installed binary, should the next one end or hang before `until`.
    fn start_watcher(&mut self, until: Time) -> Result<(), Error> {
        let started = self.spawn_watcher(until);
        let (pid, write) = started.map_err(|error| format_error!("cannot start a watcher: {}", reason(&error)))?;
        if let Some(failure) = self.children.setup_errors.take(pid) {
            return Err(format_error!("cannot start a watcher: {failure}"));
        }
        self.track_child(pid, Owner::Detached);
        self.installed.watcher = Some(File::from(write));
        Ok(())
    }

    /// Makes the watcher, and waits until it executes its program; returns its process id and the pipe to it.
    fn spawn_watcher(&self, until: Time) -> io::Result<(Pid, OwnedFd)> {
        let (read, write) = pipe()?;
        let mut argv = vec![c"bootagent".to_owned(), text(watch::WORD)];
        let own = process::own_id().to_string();
        for word in [&*own, &until.0.to_string(), &*self.config.run_dir, &self.installed.program] {
            argv.push(text(word));
        }
        argv.append(&mut process::arguments());
        let mut setup = Setup::new(self.helpers.binary.program()?, argv, process::environment());
        setup.stdin = Some(read);
        setup.stdout = io::stdout().as_fd().try_clone_to_owned().ok();
        setup.stderr = io::stderr().as_fd().try_clone_to_owned().ok();
        // The daemon it may start finds relative paths from the same directory.
        setup.directory =
            std::env::current_dir().map_or(c"/".to_owned(), |dir| process::c_text(dir.as_os_str().as_bytes()));
        if let Some((soft, hard)) = self.children.nofile {
            setup.rlimits.push((Resource::Nofile, soft, hard));
        }
        let (executed, inherited_end) = pipe()?;
        let pid = self.children.spawn(&setup)?;
        drop(inherited_end);
        // Before it executes its program it would end with the daemon. The exec closes its end of this pipe, which is how
        // it shows.
        match poll(&mut [PollFd::reading(executed.as_fd())], Some(WATCHER_START))? {
            0 => Err(io::ErrorKind::TimedOut.into()),
            _ => Ok((pid, write)),
        }
    }

    /// Tells the watcher of this binary, if there is one, that it is not needed any more.
    pub(super) fn dismiss_watcher(&mut self) {
        if let Some(mut watcher) = self.installed.watcher.take() {
            // The watcher may have ended already.
            let _ = watcher.write_all(&[watch::DISMISSED]);
        }
    }

    /// Installs the binary `from` in place of the installed one, in one atomic step.
    ///
    /// # Errors
    /// When it cannot be written, or not be made durable.
    pub(super) fn replace(&mut self, from: &str) -> Result<(), Error> {
        // Where the path is a link, its target is replaced.
        let program =
            fs::canonicalize(&self.installed.program).unwrap_or_else(|_| PathBuf::from(&self.installed.program));
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
                return Err(format_error!("cannot write \"{}\": {}", program.display(), reason(&error)));
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
