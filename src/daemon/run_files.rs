//! The files that say that this daemon runs: a lock in `run_dir`, another in `state_dir`, and the pid file.
//!
//! The locks keep a second daemon from using the same directories; they are held as long as the process lives, also over a
//! reexec. The pid file is for people and init scripts, and the daemon never reads it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use crate::error::Error;
use crate::host::disk::{clear, publish, DiskError};
use crate::host::store::CORRUPT;
use crate::sys::file::{lock_holder, open_nofollow, try_lock, try_lock_reading};
use crate::sys::process;
use crate::work::watch;

/// Below `run_dir`.
const PID_FILE: &str = "bootagent.pid";

/// The locks that are held, and whether the pid file is written.
#[derive(Debug)]
pub(super) struct RunFiles {
    /// Held in `run_dir`.
    pub lock: File,
    /// Held in `state_dir`, as `run_dir` may be emptied or configured differently; `None` where it cannot be locked.
    pub state_lock: Option<File>,
    /// Whether the last attempt to write the pid file succeeded.
    pub pid_file_written: bool,
}

impl RunFiles {
    /// Writes the pid file.
    ///
    /// # Errors
    /// When it cannot be written; an old one is removed then, if it can be.
    pub fn write_pid_file(&mut self, run_dir: &Path) -> Result<(), Box<DiskError>> {
        let written = publish(run_dir, PID_FILE, &format!("{}\n", process::own_id()));
        self.pid_file_written = written.is_ok();
        written
    }
}

/// Removes the pid file, as the daemon ends.
pub(super) fn remove_pid_file(run_dir: &Path) {
    let _ = fs::remove_file(run_dir.join(PID_FILE));
}

/// Makes and locks the file at `path`, below `run_dir`.
///
/// # Errors
/// When another process holds it, or it cannot be opened.
pub(super) fn lock(path: &Path) -> Result<File, Error> {
    // There are file systems where an open file and its name never have the same number.
    let mut more_attempts = 3;
    loop {
        // Something else than a file in its place is no lock of another daemon.
        clear(path, CORRUPT);
        let file = open_nofollow(path, OpenOptions::new().read(true).write(true).create(true), 0o600)
            .map_err(|error| format_error!("cannot open \"{}\": {error}", path.display()))?;
        match try_lock(&file) {
            // Its last owner may have removed it between the two calls: a lock that nobody finds keeps nobody out.
            Ok(true) if more_attempts > 0 && !is_file_at(&file, path) => more_attempts -= 1,
            Ok(true) => return Ok(file),
            Ok(false) => return Err(already_running(path, &file).into()),
            Err(error) => return Err(format_error!("cannot lock \"{}\": {error}", path.display())),
        }
    }
}

/// The lock in `state_dir`, on a file that is open for reading only: one that is open for writing keeps its file system
/// from being remounted read-only. `None` where it cannot be locked, as the agents are to run all the same.
///
/// # Errors
/// When another daemon holds it, whatever its `run_dir`.
pub(super) fn lock_state(state_dir: &Path) -> Result<Option<File>, Error> {
    let path = state_dir.join(watch::LOCK);
    // Without O_NONBLOCK, opening a named pipe in its place would wait for a writer for ever.
    let flags = libc::O_CREAT | libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags).mode(0o600).open(&path);
    match file.and_then(|file| Ok((try_lock_reading(&file)?, file))) {
        Ok((true, file)) => Ok(Some(file)),
        Ok((false, file)) => Err(already_running(&path, &file).into()),
        Err(_) => Ok(None),
    }
}

fn already_running(path: &Path, file: &File) -> String {
    let holder = lock_holder(file).ok().flatten().map_or(String::new(), |pid| format!(" by process {pid}"));
    format!("another daemon is running, as \"{}\" is locked{holder}: stop it first", path.display())
}

/// Whether the open file `file` is still the one at `path`, as far as can be seen: a look that fails says nothing.
pub(super) fn is_file_at(file: &File, path: &Path) -> bool {
    let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    match (file.metadata().map(identity), fs::symlink_metadata(path).map(identity)) {
        (Ok(held), Ok(there)) => held == there,
        (_, Err(error)) => !is_gone(&error),
        (Err(_), _) => true,
    }
}

/// Whether this is what the kernel says of something that is not there.
pub(super) fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}
