//! `run -d`: three processes. The one that was started waits until the daemon is ready and ends; the daemon; and between
//! them a keeper, which does nothing but start a daemon again that has died.
//!
//! The keeper is for hosts whose init does not look after what it started. It starts the binary that is on disk by then,
//! and ends with a daemon that was told to end.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use super::Options;
use crate::kernel::{Exit, Pid, Time};
use crate::sys::poll::poll;
use crate::sys::process::{self, Fork};
use crate::sys::{self, monotonic};

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
/// When there is no pipe or process to be had.
pub(super) fn enter(options: &Options) -> io::Result<Background> {
    // What is started again is looked up now: the working directory is left.
    let program = std::env::current_exe()?;
    let (read, write) = sys::pipe()?;
    if let Fork::Parent(_) = process::fork()? {
        drop(write);
        // The end of the pipe without a byte is the end of a daemon that has said why.
        let mut byte = [0];
        let ready = File::from(read).read(&mut byte)? == 1;
        return Ok(Background::Parent(if ready { 0 } else { 1 }));
    }
    drop(read);
    process::start_session()?;
    match process::fork()? {
        Fork::Child => Ok(Background::Child(File::from(write))),
        Fork::Parent(daemon) => {
            drop(write);
            Ok(Background::Parent(keep(daemon, &program, options)))
        }
    }
}

/// Starts the daemon again whenever it dies; returns when it has ended as it was told.
fn keep(first: Pid, program: &Path, options: &Options) -> u8 {
    // Whoever reads what the starter says waits for all who could say something. The daemon lets go itself when it is
    // ready; where there is no /dev/null, so be it.
    let _ = sys::detach_standard_files();
    let (mut daemon, mut began) = (first, monotonic());
    let (mut pause, mut unable) = (PAUSE.0, 0);
    loop {
        match process::wait_for(daemon) {
            Ok(Exit::Code(0)) => return 0,
            // The first daemon has told its reason to whoever started it.
            Ok(Exit::Code(_)) if daemon == first || unable >= GIVE_UP => return 1,
            Ok(Exit::Code(_)) => unable += 1,
            Ok(Exit::Signal(_) | Exit::Unknown) => unable = 0,
            Err(_) => return 1,
        }
        if monotonic().since(began) >= EARLY {
            pause = PAUSE.0;
        }
        wait(pause);
        pause = (pause * 2).min(PAUSE.1);
        began = monotonic();
        daemon = loop {
            match process::fork() {
                Ok(Fork::Parent(pid)) => break pid,
                Ok(Fork::Child) => execute(program, options),
                // No process to be had: later, then.
                Err(_) => wait(PAUSE.1),
            }
        };
    }
}

/// Becomes the daemon that is on disk now, in the foreground of nothing.
fn execute(program: &Path, options: &Options) -> ! {
    let text = |bytes: &[u8]| CString::new(bytes).unwrap_or_default();
    let program = text(program.as_os_str().as_bytes());
    let mut argv = vec![c"bootagent".to_owned(), c"-c".to_owned(), text(options.config_path.as_os_str().as_bytes())];
    argv.push(c"run".to_owned());
    if let Some(servers) = &options.servers {
        let list: Vec<&str> = servers.iter().map(|server| &*server.base).collect();
        argv.extend([c"-S".to_owned(), text(list.join(",").as_bytes())]);
    }
    let envp: Vec<CString> =
        std::env::vars_os().map(|(name, value)| text(&[name.as_bytes(), b"=", value.as_bytes()].concat())).collect();
    let _ = process::exec(&program, &argv, &envp);
    process::exit_now(1)
}

fn wait(pause: Duration) {
    let until: Time = monotonic() + pause;
    while monotonic() < until {
        // Nothing to wait for but the time.
        let _ = poll(&mut [], Some(until.since(monotonic())));
    }
}
