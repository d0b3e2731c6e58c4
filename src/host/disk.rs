//! Files that are there whole or not at all: written to a temporary file, and renamed over the one that was there.
//!
//! A directory that is missing is made again by the next write, and a write that fails leaves nothing behind. Nothing
//! is followed that may be a planted link, or waited for that may be a pipe. Every error says what could not be done to
//! which path, and keeps its error number.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::kernel::Errno;
use crate::sys::file::read_up_to;

/// The largest file that is read: a reply, and so a job, is at most 1 MiB.
const FILE_MAX: u64 = 16 << 20;

/// The ending of a file that is being written.
pub const TEMPORARY: &str = ".tmp";

/// What could not be done to which path.
#[derive(Debug)]
pub struct DiskError {
    /// What was tried, as in "cannot write".
    pub verb: &'static str,
    /// To what.
    pub path: PathBuf,
    /// Why it did not work; keeps its error number.
    pub cause: io::Error,
}

impl fmt::Display for DiskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {} \"{}\": {}", self.verb, self.path.display(), reason(&self.cause))
    }
}

impl From<Box<DiskError>> for Error {
    #[inline(never)]
    fn from(error: Box<DiskError>) -> Error {
        format_error!("{error}")
    }
}

impl std::error::Error for DiskError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.cause)
    }
}

/// Ties a failed call to what it was for.
pub fn with_context<T>(result: io::Result<T>, verb: &'static str, path: &Path) -> Result<T, Box<DiskError>> {
    result.map_err(|cause| Box::new(DiskError { verb, path: path.into(), cause }))
}

/// The error's text, for a person: without the number that std puts behind it.
pub fn reason(error: &io::Error) -> Error {
    match error.raw_os_error() {
        Some(raw) => format_error!("{}", Errno(raw)),
        None => format_error!("{error}"),
    }
}

/// Makes a directory and those above it, each 0755 whatever the umask; one that is there stays as it is.
///
/// # Errors
/// When it cannot be made, or something else is in its place.
pub fn make_dir(path: &Path) -> Result<(), Box<DiskError>> {
    make(path, &mut Vec::new())
}

/// The same, on disk when this returns.
///
/// # Errors
/// As `make_dir`.
pub fn make_durable_dir(path: &Path) -> Result<(), Box<DiskError>> {
    let mut changed = Vec::new();
    make(path, &mut changed)?;
    sync_changed(&changed);
    Ok(())
}

/// Makes a directory, and notes in which others that made an entry.
fn make(path: &Path, changed: &mut Vec<PathBuf>) -> Result<(), Box<DiskError>> {
    let mut options = DirBuilder::new();
    options.mode(0o755);
    let mut made = options.create(path);
    let above = path.parent().filter(|above| *above != Path::new(""));
    if made.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        if let Some(above) = above {
            make(above, changed)?;
            made = options.create(path);
        }
    }
    match made {
        Ok(()) => {}
        // Whatever mkdir says first (EEXIST, EROFS, EACCES): what is there already need not be made.
        Err(_) if path.is_dir() => return Ok(()),
        failed => return with_context(failed, "make", path),
    }
    changed.extend(above.filter(|above| !changed.iter().any(|known| known == above)).map(PathBuf::from));
    with_context(fs::set_permissions(path, Permissions::from_mode(0o755)), "set the mode of", path)
}

/// Without permission to read a directory, the sync of what was made in it must do.
fn sync_changed(changed: &[PathBuf]) {
    for dir in changed {
        let _ = sync_dir(dir);
    }
}

/// Makes directories that are ours alone: of this mode, and none a link to somewhere else; on disk when this returns.
///
/// # Errors
/// When one is not so and cannot be made so.
pub fn make_own_dirs(paths: &[PathBuf], mode: u32) -> Result<(), Box<DiskError>> {
    let mut changed = Vec::new();
    for path in paths {
        make(path, &mut changed)?;
        let found = with_context(fs::symlink_metadata(path), "look at", path)?;
        if !found.is_dir() {
            return with_context(Err(io::ErrorKind::NotADirectory.into()), "use", path);
        }
        if found.permissions().mode() & 0o7777 != mode {
            with_context(fs::set_permissions(path, Permissions::from_mode(mode)), "set the mode of", path)?;
        }
    }
    sync_changed(&changed);
    Ok(())
}

/// The names of the files in a directory that end so, without that ending, in byte order.
///
/// # Errors
/// When the directory is missing or cannot be read.
pub fn list(dir: &Path, ending: &str) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)? {
        if let Some(stem) = entry?.file_name().to_str().and_then(|name| name.strip_suffix(ending)) {
            names.push(stem.to_string());
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Reads a whole regular file, without following a link or waiting on a pipe.
///
/// # Errors
/// When it is something else, or over 16 MiB, or cannot be read.
pub fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
    let size = file.metadata()?;
    if !size.is_file() || size.len() > FILE_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not a regular file, or too large"));
    }
    let mut content = Vec::with_capacity(size.len() as usize);
    read_up_to(FILE_MAX, &mut content, &mut |to| file.read(to))?;
    Ok(content)
}

/// Puts `content` in the place of the file in one step, with mode 0600; `durable`: it is on disk when this returns.
///
/// # Errors
/// When it cannot be written; the old file is still there then, unless it was not `durable` and had no room to be replaced
/// in. After a failed sync it may be the new one.
pub fn write(dir: &Path, file: &str, content: &[u8], durable: bool) -> Result<(), Box<DiskError>> {
    put(dir, file, content, 0o600, durable)?;
    if durable {
        sync_dir(dir)
    } else {
        Ok(())
    }
}

/// The same, durable when the directory is synced too.
///
/// # Errors
/// As `write`.
pub fn write_synced(dir: &Path, file: &str, content: &[u8]) -> Result<(), Box<DiskError>> {
    put(dir, file, content, 0o600, true)
}

/// The same for what everybody may read, and nobody needs after a crash: mode 0644.
///
/// # Errors
/// As `write`.
pub fn publish(dir: &Path, file: &str, text: &str) -> Result<(), Box<DiskError>> {
    put(dir, file, text.as_bytes(), 0o644, false)
}

/// What need not be `synced` is of this boot only, and misleads when it is old: where the new text does not fit beside the
/// old one, that gives way first.
fn put(dir: &Path, file: &str, content: &[u8], mode: u32, synced: bool) -> Result<(), Box<DiskError>> {
    let path = dir.join(file);
    let temporary = dir.join([file, TEMPORARY].concat());
    let replace = || {
        let written = create(&temporary)
            .and_then(|made| fill(made, content, mode, synced))
            .and_then(|()| fs::rename(&temporary, &path));
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        written
    };
    let mut written = replace();
    match written.as_ref().err().and_then(io::Error::raw_os_error) {
        Some(libc::ENOENT) => {
            if synced { make_durable_dir(dir) } else { make_dir(dir) }?;
            written = replace();
        }
        Some(libc::ENOSPC | libc::EDQUOT | libc::EISDIR) if !synced => {
            // An empty directory may be in its place.
            let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir(&path));
            written = replace();
        }
        _ => {}
    }
    with_context(written, "write", &path)
}

/// A new file in the place of a leftover one.
fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    match options.open(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs::remove_file(path).or_else(|_| fs::remove_dir(path))?;
            options.open(path)
        }
        made => made,
    }
}

fn fill(mut file: File, content: &[u8], mode: u32, durable: bool) -> io::Result<()> {
    // It was made with what only we may do.
    if mode != 0o600 {
        file.set_permissions(Permissions::from_mode(mode))?;
    }
    file.write_all(content)?;
    if durable {
        file.sync_all()
    } else {
        Ok(())
    }
}

/// Waits until what was made, renamed or removed in a directory is so on disk.
///
/// # Errors
/// When that cannot be done.
pub fn sync_dir(dir: &Path) -> Result<(), Box<DiskError>> {
    // What stands there may be a pipe, whose other side never comes.
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY | libc::O_NONBLOCK).open(dir);
    match opened.and_then(|dir| dir.sync_all()) {
        // Some file systems cannot do it, fsync(2); there is no other way to ask them.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
        synced => with_context(synced, "sync", dir),
    }
}

/// Moves what is in the place of a directory of ours, and is neither a directory nor a link, to a name with this ending;
/// where that is.
pub fn make_way(dir: &Path, ending: &str) -> Option<PathBuf> {
    fs::symlink_metadata(dir).ok().filter(|found| !found.is_dir() && !found.is_symlink())?;
    let mut aside = dir.as_os_str().to_owned();
    aside.push(ending);
    fs::rename(dir, &aside).ok().map(|()| aside.into())
}

/// Removes what is in the place of a file of ours in `run_dir` and is none; a directory with something in it is moved to a
/// name with this ending.
pub fn clear(path: &Path, ending: &str) {
    if fs::symlink_metadata(path).is_ok_and(|found| found.is_file()) {
        return;
    }
    if fs::remove_file(path).or_else(|_| fs::remove_dir(path)).is_err() {
        let mut aside = path.as_os_str().to_owned();
        aside.push(ending);
        // What is still there then is told by whoever wants to use it.
        let _ = fs::rename(path, aside);
    }
}

/// Removes a file for good; one that is not there is fine.
///
/// # Errors
/// When it is there and cannot be removed.
pub fn remove_durable(dir: &Path, file: &str) -> Result<(), Box<DiskError>> {
    let path = dir.join(file);
    match fs::remove_file(&path) {
        Ok(()) => sync_dir(dir),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        failed => with_context(failed, "remove", &path),
    }
}

/// Removes a file; one that is not there is fine.
///
/// # Errors
/// When it is there and cannot be removed.
pub fn remove(path: &Path) -> Result<(), Box<DiskError>> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => with_context(removed, "remove", path),
    }
}
