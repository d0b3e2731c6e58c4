//! The watcher of a new image of the daemon: a child that the image before it left, of the same binary as that one.
//!
//! While the new image is on trial it waits for a byte on fd 0, which says that all is well. Should the daemon end without
//! one, or not be done by its time, it is ended and the installed binary becomes the daemon again: by an init that
//! starts it, as the lock in `run_dir` shows, else by this process, which executes it.

use std::ffi::CString;
use std::fs::OpenOptions;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use crate::kernel::{Pid, Sig, Time};
use crate::sys::poll::{poll, PollFd};
use crate::sys::process::{self, c_text};
use crate::sys::{file, monotonic, stdin};

/// The hidden command.
pub const WORD: &str = "watch";

/// The byte that says that all is well.
pub const DISMISSED: u8 = b'.';

/// The file in `run_dir` that says why the installed binary runs again.
pub const UNDONE: &str = "undone";

/// The file in `run_dir` that a daemon has locked.
pub const LOCK: &str = "bootagent.lock";

/// How often the daemon is looked at: the pipe alone does not tell its end, as a child of it may have it too.
const LOOK: Duration = Duration::from_millis(200);

/// How long an init may take to start a daemon that died.
const INIT: Duration = Duration::from_secs(3);

/// Watches, as the words after `watch` say: process id, time, `run_dir`, the installed binary, its arguments. Returns the
/// exit status when nothing is to be done.
pub fn run(words: &[String]) -> i32 {
    let [daemon, until, run_dir, program, argv @ ..] = words else { return misused() };
    let daemon = daemon.parse().ok().and_then(Pid::new);
    let (Some(daemon), Ok(until)) = (daemon, until.parse().map(Time)) else { return misused() };
    let Some(why) = watch(daemon, until) else { return 0 };
    // Only for the message of the job that brought the new image.
    let _ = std::fs::write(Path::new(run_dir).join(UNDONE), why);
    if follows(daemon, &Path::new(run_dir).join(LOCK)) {
        return 0;
    }
    let argv: Vec<CString> = argv.iter().map(|arg| c_text(arg.as_bytes())).collect();
    let error = process::exec(&c_text(program.as_bytes()), &argv, &process::environment());
    eprintln!("bootagent: cannot execute \"{program}\" again: {error}");
    1
}

fn misused() -> i32 {
    eprintln!("bootagent: {WORD} is for the daemon only");
    2
}

/// Waits for the byte; else ends the daemon, and says why.
fn watch(daemon: Pid, until: Time) -> Option<&'static str> {
    let mut listens = true;
    loop {
        let mut stdin = stdin();
        let mut fds = [PollFd::reading(stdin.as_fd())];
        let fds = if listens { &mut fds[..] } else { &mut [] };
        if matches!(poll(fds, Some(LOOK)), Ok(1..)) {
            match stdin.read(&mut [0]) {
                Ok(1) => return None,
                _ => listens = false,
            }
        }
        if process::parent_id() != daemon.raw() {
            return Some("it ended before its first good exchange with a server");
        }
        if monotonic() >= until {
            // It is our parent and so cannot be another process with its id.
            let _ = process::signal(daemon, Sig::KILL);
            return Some("it hung before its first good exchange with a server, and was killed");
        }
    }
}

/// Whether somebody else starts a daemon. One that was just killed may hold the lock a little longer.
fn follows(daemon: Pid, lock: &Path) -> bool {
    let end = monotonic() + INIT;
    while monotonic() < end {
        let held =
            file::open_nofollow(lock, OpenOptions::new().read(true), 0).and_then(|file| file::lock_holder(&file));
        if matches!(held, Ok(Some(holder)) if holder != daemon) {
            return true;
        }
        let _ = poll(&mut [], Some(LOOK));
    }
    false
}
