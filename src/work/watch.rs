//! The watcher of an upgrade of the daemon: a child that executes the old binary while the daemon runs the new one.
//!
//! It waits for a byte on fd 0, which the daemon writes when the new binary has proved itself. If the daemon ends without
//! that, or takes too long and is killed, the installed binary has to become the daemon again. An init may start it, which
//! the lock in `run_dir` shows; else this process executes it.

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

/// The name of the hidden command.
pub const WORD: &str = "watch";

/// The byte with which the daemon ends the watch.
pub const DISMISSED: u8 = b'.';

/// The file in `run_dir` with the reason why the installed binary runs again.
pub const UNDONE: &str = "undone";

/// The file in `run_dir` that a daemon has locked.
pub const LOCK: &str = "bootagent.lock";

/// How often the daemon is checked: its end does not close the pipe when a child of it has that open too.
const CHECK_INTERVAL: Duration = Duration::from_millis(200);

/// How long an init may take to start a daemon that ended.
const INIT_GRACE: Duration = Duration::from_secs(3);

/// Watches the daemon. The words are its process id, the end of the watch in ns since boot, `run_dir`, the installed binary and
/// its arguments. Returns the exit status when this process need not become the daemon.
pub fn run(words: &[String]) -> i32 {
    let [daemon, until, run_dir, program, argv @ ..] = words else { return misused() };
    let daemon = daemon.parse().ok().and_then(Pid::new);
    let (Some(daemon), Ok(until)) = (daemon, until.parse().map(Time)) else { return misused() };
    let Some(why) = watch(daemon, until) else { return 0 };
    // This is only for the message of the job that brought the new binary.
    let _ = std::fs::write(Path::new(run_dir).join(UNDONE), why);
    if is_replaced(daemon, &Path::new(run_dir).join(LOCK)) {
        return 0;
    }
    let argv: Vec<CString> = argv.iter().map(|arg| c_text(arg.as_bytes())).collect();
    let error = process::exec(&c_text(program.as_bytes()), &argv, &process::environment());
    eprintln!("bootagent: cannot execute \"{program}\": {error}");
    1
}

fn misused() -> i32 {
    eprintln!("bootagent: {WORD} is for the daemon only");
    2
}

/// Waits for the byte. Without it, returns why the daemon has ended or was killed.
fn watch(daemon: Pid, until: Time) -> Option<&'static str> {
    let mut is_open = true;
    loop {
        let mut stdin = stdin();
        let mut fds = [PollFd::reading(stdin.as_fd())];
        let fds = if is_open { &mut fds[..] } else { &mut [] };
        if matches!(poll(fds, Some(CHECK_INTERVAL)), Ok(1..)) {
            match stdin.read(&mut [0]) {
                Ok(1) => return None,
                _ => is_open = false,
            }
        }
        if process::parent_id() != daemon.raw() {
            return Some("it ended before its first good exchange with a server");
        }
        if monotonic() >= until {
            // It is still the parent of this process, so the id is not another process's.
            let _ = process::signal(daemon, Sig::KILL);
            return Some("it hung before its first good exchange with a server, and was killed");
        }
    }
}

/// Whether another daemon is started by an init. One that was just killed may hold the lock a little longer.
fn is_replaced(daemon: Pid, lock: &Path) -> bool {
    let end = monotonic() + INIT_GRACE;
    while monotonic() < end {
        let held =
            file::open_nofollow(lock, OpenOptions::new().read(true), 0).and_then(|file| file::lock_holder(&file));
        if matches!(held, Ok(Some(holder)) if holder != daemon) {
            return true;
        }
        let _ = poll(&mut [], Some(CHECK_INTERVAL));
    }
    false
}
