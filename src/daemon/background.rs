//! `run -d`: going to the background, with a keeper.
//!
//! There are three processes then. The first was started by the user; it waits until the daemon is ready, and ends. The
//! second is the keeper: it starts the daemon again when it dies, for hosts whose init does not do that. The third is the
//! daemon. The keeper executes the binary that is on disk at that time, and ends when the daemon has ended as ordered. It
//! passes signals on to the daemon: while a dead daemon waits to be started again, only the keeper can receive the order to
//! stop the agents.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::run_files::{is_file_at, lock};
use super::Options;
use crate::error::Error;
use crate::host::config_files;
use crate::host::disk::{make_dir, make_durable_dir};
use crate::host::limits::Limits;
use crate::host::proc::parse_pid;
use crate::kernel::{Exit, Pid, Sig, Time};
use crate::model::keeper::{Deaths, EndedDaemon, Next, PAUSE, PAUSE_MAX};
use crate::sys::child::close_inherited;
use crate::sys::file::read_text;
use crate::sys::poll::{poll, PollFd, Signals};
use crate::sys::process::{self, c_text, Fork};
use crate::sys::{self, monotonic};

/// Below `run_dir`: the keeper's process id, for init scripts. The keeper locks it, as two keepers would each start a daemon.
const KEEPER_FILE: &str = "keeper.pid";

/// The environment variable that tells a daemon how the one before it died.
const DIED: &str = "BOOTAGENT_DIED";

/// In which process `enter` returns.
pub(super) enum Background {
    /// The first process or the keeper, which is to end with this code.
    Parent(u8),
    /// The daemon, which writes a byte when it is ready.
    Child(File),
}

/// Goes to the background; returns in each of the processes.
///
/// # Errors
/// When there is another keeper, or no pipe or process can be made.
pub(super) fn enter(options: &Options) -> Result<Background, Error> {
    let with_context = |error: io::Error| format!("cannot go to the background: {error}");
    // With inherited descriptors open, a script that waits for a lock or for the end of a pipe would wait for the daemon.
    close_inherited().map_err(with_context)?;
    // Looked up now, as the working directory changes.
    let program = std::env::current_exe().map_err(with_context)?;
    let (read, write) = sys::pipe().map_err(with_context)?;
    if let Fork::Parent(_) = process::fork().map_err(with_context)? {
        drop(write);
        // The pipe ends without a byte when the daemon has ended; it has printed why.
        let mut byte = [0];
        let ready = File::from(read).read(&mut byte).map_err(with_context)? == 1;
        return Ok(Background::Parent(if ready { 0 } else { 1 }));
    }
    drop(read);
    process::start_session().map_err(with_context)?;
    let config = config_files::config_in_use(&options.config_path).0.config;
    // The name of our control group is made of this directory, which is reported by the daemon when it cannot be made.
    let _ = make_durable_dir(Path::new(&*config.state_dir));
    // Neither the keeper nor the daemon is to end with an agent from below which somebody started them.
    Limits::detect(&config.state_dir, config.cgroup.as_deref()).leave_agents();
    let file = Path::new(&*config.run_dir).join(KEEPER_FILE);
    let lock = lock_keeper_file(&file)?;
    // They stay blocked in the daemons too until these read them, so that none is lost.
    let signals = Signals::new(&[Sig::CHLD, Sig::TERM, Sig::INT, Sig::QUIT]).map_err(with_context)?;
    match process::fork().map_err(with_context)? {
        Fork::Child => Ok(Background::Child(File::from(write))),
        Fork::Parent(daemon) => {
            drop(write);
            let check = config.checksecs;
            let mut keeper = Keeper { file, lock, check, signals, daemon: Some(daemon), ordered: None };
            let code = keeper.keep(daemon, &program, options);
            // Another keeper may have made a file of its own there since.
            if is_file_at(&keeper.lock, &keeper.file) {
                let _ = fs::remove_file(&keeper.file);
            }
            Ok(Background::Parent(code))
        }
    }
}

/// Makes and locks the keeper's file. The process id in it is of less importance than the lock, so that one that cannot be
/// written is no error.
fn lock_keeper_file(file: &Path) -> Result<File, Error> {
    make_dir(file.parent().unwrap_or(Path::new("/")))?;
    let mut lock = lock(file)?;
    let _ = lock.set_len(0).and_then(|()| lock.write_all(format!("{}\n", process::own_id()).as_bytes()));
    Ok(lock)
}

struct Keeper {
    file: PathBuf,
    /// The lock on `file`.
    lock: File,
    /// How often it looks whether `file` is still there: as often as the daemon looks at its files.
    check: Duration,
    signals: Signals,
    /// The daemon, while there is one.
    daemon: Option<Pid>,
    /// The signal that ordered the daemon to end, once there was one.
    ordered: Option<Sig>,
}

impl Keeper {
    /// Starts the daemon again whenever it dies; returns the exit code when it has ended as ordered, or cannot start.
    fn keep(&mut self, first: Pid, program: &Path, options: &Options) -> u8 {
        // A reader of the starter's output would wait for every process that has it open. The daemon closes it itself when it
        // is ready. Without /dev/null it stays open.
        let _ = sys::detach_standard_files();
        let mut started = monotonic();
        let mut deaths = Deaths::new();
        loop {
            let daemon = self.daemon;
            let exit = self.end_of_daemon();
            let (lived, ordered) = (monotonic().since(started), self.ordered.is_some());
            match deaths.add(EndedDaemon { exit, lived, is_first: daemon == Some(first), ordered }) {
                Next::End(code) => return code,
                Next::Start(pause) => self.wait(pause),
            }
            started = monotonic();
            while self.daemon.is_none() {
                match process::fork() {
                    Ok(Fork::Parent(pid)) => self.daemon = Some(pid),
                    Ok(Fork::Child) => execute(program, options, exit),
                    // No process can be made now: try later.
                    Err(_) => self.wait(PAUSE_MAX),
                }
            }
            // The signal stays blocked until the daemon has found its agents.
            if let Some(sig) = self.ordered {
                self.forward(sig);
            }
        }
    }

    /// Waits for the end of the daemon.
    fn end_of_daemon(&mut self) -> Exit {
        loop {
            match process::wait_any() {
                Ok(Some((pid, exit))) if Some(pid) == self.daemon => {
                    self.daemon = None;
                    return exit;
                }
                Ok(Some(_)) => {}
                Ok(None) => {
                    let next = if self.has_file() { self.check } else { PAUSE };
                    self.take_signals(Some(next));
                }
                Err(_) => return Exit::Unknown,
            }
        }
    }

    /// Whether the keeper's file is in its place, after making it again if necessary. Another keeper, which will give up soon,
    /// may hold the lock first.
    fn has_file(&mut self) -> bool {
        is_file_at(&self.lock, &self.file) || lock_keeper_file(&self.file).map(|lock| self.lock = lock).is_ok()
    }

    /// Waits for `pause`, or until there is a signal to pass on to the next daemon.
    fn wait(&mut self, pause: Duration) {
        let until: Time = monotonic() + pause;
        let ordered = self.ordered;
        while monotonic() < until && self.ordered == ordered {
            self.take_signals(Some(until.since(monotonic())));
        }
    }

    /// Waits for signals and passes them on.
    fn take_signals(&mut self, timeout: Option<Duration>) {
        let _ = poll(&mut [PollFd::reading(self.signals.as_fd())], timeout);
        while let Ok(Some(sig)) = self.signals.next() {
            if sig != Sig::CHLD {
                self.ordered = Some(sig);
                self.forward(sig);
            }
        }
    }

    fn forward(&self, sig: Sig) {
        if let Some(daemon) = self.daemon {
            // A daemon that has died meanwhile gets the signal when it has been started again.
            let _ = process::signal(daemon, sig);
        }
    }
}

/// The keeper that has started this daemon, where one did: the parent, if the keeper's file names it.
pub(super) fn own_keeper(run_dir: &Path) -> Option<Pid> {
    let keeper = parse_pid(read_text(&run_dir.join(KEEPER_FILE)).ok()?.trim())?;
    (process::parent_id() == keeper.raw()).then_some(keeper)
}

/// How the daemon before this one died, where a keeper has started this one in its place.
pub(super) fn last_death() -> Option<String> {
    let exit = std::env::var(DIED).ok()?;
    std::env::remove_var(DIED);
    Some(format!("the last daemon died ({exit}), and its keeper started this one"))
}

/// Executes the daemon that is on disk now, without `-d`; `exit` is how the one before it ended.
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
