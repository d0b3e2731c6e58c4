//! `run -d`: three processes. The one that was started waits until the daemon is ready and ends; the daemon; and between
//! them a keeper, which does nothing but start a daemon again that has died.
//!
//! The keeper is for hosts whose init does not look after what it started. It starts the binary that is on disk by then,
//! and ends with a daemon that was told to end. What tells the daemon to end may as well be told to the keeper, which hands
//! it on: while a dead daemon waits to be started again there is nobody else, and its agents still are to be stopped.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::recovery::is_file_at;
use super::{startup, Options};
use crate::error::Error;
use crate::host::config_files;
use crate::host::disk::make_dir;
use crate::kernel::{Exit, Pid, Sig, Time};
use crate::sys::child::close_inherited;
use crate::sys::poll::{poll, PollFd, Signals};
use crate::sys::process::{self, c_text, Fork};
use crate::sys::{self, monotonic};

/// Below `run_dir`: the keeper's process id, for init scripts. Locked by the keeper, as two of them would each start a
/// daemon.
const KEEPER_FILE: &str = "keeper.pid";

/// Tells a daemon that is started in the place of one that has died how that one ended.
const DIED: &str = "BOOTAGENT_DIED";

/// The first and the longest pause before a dead daemon is started again; doubled with each one that dies early.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// A daemon that lives shorter has died early.
const EARLY: Duration = Duration::from_secs(60);

/// So many daemons in a row that cannot even start, and the keeper gives up: perhaps another one runs.
const GIVE_UP: u32 = 10;

/// The two sides of going to the background that are of interest to the caller.
pub(super) enum Background {
    /// One that is to end with this code.
    Parent(u8),
    /// The daemon to be, which writes a byte when it is ready.
    Child(File),
}

/// Goes to the background.
///
/// # Errors
/// When there is another keeper, or no pipe or process to be had.
pub(super) fn enter(options: &Options) -> Result<Background, Error> {
    let told = |error: io::Error| format!("cannot go to the background: {error}");
    // A script that waits for a lock or the end of a pipe would wait as long as there is a daemon.
    close_inherited().map_err(told)?;
    // What is started again is looked up now: the working directory is left.
    let program = std::env::current_exe().map_err(told)?;
    let (read, write) = sys::pipe().map_err(told)?;
    if let Fork::Parent(_) = process::fork().map_err(told)? {
        drop(write);
        // The end of the pipe without a byte is the end of a daemon that has said why.
        let mut byte = [0];
        let ready = File::from(read).read(&mut byte).map_err(told)? == 1;
        return Ok(Background::Parent(if ready { 0 } else { 1 }));
    }
    drop(read);
    process::start_session().map_err(told)?;
    let run_dir = config_files::config_in_use(&options.config_path).0.config.run_dir;
    let file = Path::new(&*run_dir).join(KEEPER_FILE);
    let lock = hold(&file)?;
    // Blocked in the daemons too until they are ready to read them, so that none is lost.
    let signals = Signals::new(&[Sig::CHLD, Sig::TERM, Sig::INT, Sig::QUIT]).map_err(told)?;
    match process::fork().map_err(told)? {
        Fork::Child => Ok(Background::Child(File::from(write))),
        Fork::Parent(daemon) => {
            drop(write);
            let mut keeper = Keeper { file, lock, signals, daemon: Some(daemon), told: None };
            let code = keeper.keep(daemon, &program, options);
            let _ = fs::remove_file(&keeper.file);
            Ok(Background::Parent(code))
        }
    }
}

/// Makes and locks the keeper's file; without a process id in it there is still the daemon's own.
fn hold(file: &Path) -> Result<File, Error> {
    make_dir(file.parent().unwrap_or(Path::new("/")))?;
    let mut lock = startup::lock(file)?;
    let _ = lock.set_len(0).and_then(|()| lock.write_all(format!("{}\n", process::own_id()).as_bytes()));
    Ok(lock)
}

struct Keeper {
    file: PathBuf,
    /// It is locked as long as this is open.
    lock: File,
    signals: Signals,
    /// The daemon, while there is one.
    daemon: Option<Pid>,
    /// The signal that is to end it all.
    told: Option<Sig>,
}

impl Keeper {
    /// Starts the daemon again whenever it dies; returns when it has ended as it was told.
    fn keep(&mut self, first: Pid, program: &Path, options: &Options) -> u8 {
        // Whoever reads what the starter says waits for all who could say something. The daemon lets go itself when it is
        // ready; where there is no /dev/null, so be it.
        let _ = sys::detach_standard_files();
        let mut began = monotonic();
        let (mut pause, mut unable) = (PAUSE.0, 0);
        loop {
            let daemon = self.daemon;
            let exit = self.end_of_daemon();
            match exit {
                Exit::Code(0) => return 0,
                // The first daemon has told its reason to whoever started it.
                Exit::Code(_) if daemon == Some(first) || self.told.is_some() || unable >= GIVE_UP => return 1,
                Exit::Code(_) => unable += 1,
                Exit::Signal(_) | Exit::Unknown => unable = 0,
            }
            if monotonic().since(began) >= EARLY {
                pause = PAUSE.0;
            }
            self.wait(pause);
            pause = (pause * 2).min(PAUSE.1);
            began = monotonic();
            while self.daemon.is_none() {
                match process::fork() {
                    Ok(Fork::Parent(pid)) => self.daemon = Some(pid),
                    Ok(Fork::Child) => execute(program, options, exit),
                    // No process to be had: later, then.
                    Err(_) => self.wait(PAUSE.1),
                }
            }
            // It finds its agents first, and then that it is to end.
            if let Some(sig) = self.told {
                self.tell(sig);
            }
        }
    }

    fn end_of_daemon(&mut self) -> Exit {
        loop {
            match process::wait_any() {
                Ok(Some((pid, exit))) if Some(pid) == self.daemon => {
                    self.daemon = None;
                    return exit;
                }
                Ok(Some(_)) => {}
                Ok(None) => {
                    let again = (!self.has_file()).then_some(PAUSE.0);
                    self.take_signals(again);
                }
                Err(_) => return Exit::Unknown,
            }
        }
    }

    /// Whether our file is where it belongs. The daemon wakes us when it has made `run_dir` again; another keeper may have
    /// been quicker, and be about to give up.
    fn has_file(&mut self) -> bool {
        is_file_at(&self.lock, &self.file) || hold(&self.file).map(|lock| self.lock = lock).is_ok()
    }

    /// Waits for `pause`, or until there is something to tell the next daemon.
    fn wait(&mut self, pause: Duration) {
        let until: Time = monotonic() + pause;
        let told = self.told;
        while monotonic() < until && self.told == told {
            self.take_signals(Some(until.since(monotonic())));
        }
    }

    /// Waits for signals and hands them on.
    fn take_signals(&mut self, timeout: Option<Duration>) {
        let _ = poll(&mut [PollFd::reading(self.signals.as_fd())], timeout);
        while let Ok(Some(sig)) = self.signals.next() {
            if sig != Sig::CHLD {
                self.told = Some(sig);
                self.tell(sig);
            }
        }
    }

    fn tell(&self, sig: Sig) {
        if let Some(daemon) = self.daemon {
            // One that is gone is not told, but followed.
            let _ = process::signal(daemon, sig);
        }
    }
}

/// How the daemon before this one died, where a keeper has started this one in its place.
pub(super) fn last_death() -> Option<String> {
    let exit = std::env::var(DIED).ok()?;
    std::env::remove_var(DIED);
    Some(format!("the last daemon died ({exit}), and its keeper started this one"))
}

/// Becomes the daemon that is on disk now, in the foreground of nothing, in the place of one that ended so.
fn execute(program: &Path, options: &Options, exit: Exit) -> ! {
    let program = c_text(program.as_os_str().as_bytes());
    let mut argv = vec![c"bootagent".to_owned(), c"-c".to_owned(), c_text(options.config_path.as_os_str().as_bytes())];
    argv.push(c"run".to_owned());
    if let Some(servers) = &options.servers {
        let list = servers.iter().map(|server| &*server.base).collect::<Vec<_>>().join(",");
        argv.extend([c"-S".to_owned(), c_text(list.as_bytes())]);
    }
    let mut envp = process::environment();
    envp.push(c_text(format!("{DIED}={exit}").as_bytes()));
    let _ = process::exec(&program, &argv, &envp);
    process::exit_now(1)
}
