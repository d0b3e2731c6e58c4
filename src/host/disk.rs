//! Files that exist completely or not at all: each is written to a temporary file, which is renamed over the old one.
//!
//! A missing directory is made again by the next write, and a write that fails leaves nothing behind. A link that somebody
//! may have planted is not followed, and a pipe is not waited for. Every error says what could not be done to which path,
//! and keeps its error number. What the files contain is not known here.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::kernel::Errno;
use crate::sys::account::own_uid;
use crate::sys::file::read_up_to;

/// The largest file that is read, bytes. A reply, and so the record of a job, is at most 1 MiB.
const FILE_MAX: u64 = 16 << 20;

/// The ending of a file that is being written.
pub const TEMPORARY: &str = ".tmp";

/// An operation on a file or directory that failed.
#[derive(Debug)]
pub struct DiskError {
    /// What was tried, as in "cannot write".
    pub verb: &'static str,
    /// The file or directory.
    pub path: PathBuf,
    /// Why it failed, with the error number.
    pub cause: io::Error,
}

impl DiskError {
    /// Whether the file does not exist.
    pub fn missing(&self) -> bool {
        self.cause.kind() == io::ErrorKind::NotFound
    }
}

impl fmt::Display for DiskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {} \"{}\": {}", self.verb, self.path.display(), reason(&self.cause))
    }
}

impl From<Box<DiskError>> for Error {
    fn from(error: Box<DiskError>) -> Error {
        format_error!("{error}")
    }
}

impl std::error::Error for DiskError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.cause)
    }
}

/// Adds to the error of a call what it was for.
///
/// # Errors
/// When `result` is one.
pub fn with_context<T>(result: io::Result<T>, verb: &'static str, path: &Path) -> Result<T, Box<DiskError>> {
    result.map_err(|cause| Box::new(DiskError { verb, path: path.into(), cause }))
}

/// The text of an error for a person: without the number that the standard library adds.
pub fn reason(error: &io::Error) -> Error {
    match error.raw_os_error() {
        Some(raw) => format_error!("{}", Errno(raw)),
        None => format_error!("{error}"),
    }
}

/// Makes a directory and those above it, each with mode 0755 whatever the umask; one that exists stays as it is.
///
/// # Errors
/// When it cannot be made, or something else is in its place.
pub fn make_dir(path: &Path) -> Result<(), Box<DiskError>> {
    make(path, &mut Vec::new())
}

/// The same; the directories are on disk when this returns.
///
/// # Errors
/// As `make_dir`.
pub fn make_durable_dir(path: &Path) -> Result<(), Box<DiskError>> {
    let mut changed = Vec::new();
    make(path, &mut changed)?;
    sync_changed(&changed);
    Ok(())
}

/// Makes a directory, and adds the directories that got a new entry to `changed`.
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
        // Whichever error mkdir(2) gives (EEXIST, EROFS, EACCES): a directory that exists need not be made.
        Err(_) if path.is_dir() => return Ok(()),
        failed => return with_context(failed, "make", path),
    }
    changed.extend(above.filter(|above| !changed.iter().any(|known| known == above)).map(PathBuf::from));
    with_context(fs::set_permissions(path, Permissions::from_mode(0o755)), "set the mode of", path)
}

/// Syncs directories. One that we may not read cannot be synced; the sync of what was made in it must be enough.
fn sync_changed(changed: &[PathBuf]) {
    for dir in changed {
        let _ = sync_dir(dir);
    }
}

/// Makes directories of the daemon's own, each with its mode; a symbolic link is not accepted in place of one. They are on
/// disk when this returns.
///
/// # Errors
/// When one cannot be made, is something else, or cannot be given the mode.
pub fn make_own_dirs(dirs: &[(PathBuf, u32)]) -> Result<(), Box<DiskError>> {
    let mut changed = Vec::new();
    for (path, mode) in dirs {
        make(path, &mut changed)?;
        let metadata = with_context(fs::symlink_metadata(path), "look at", path)?;
        if !metadata.is_dir() {
            return with_context(Err(io::ErrorKind::NotADirectory.into()), "use", path);
        }
        if metadata.permissions().mode() & 0o7777 != *mode {
            with_context(fs::set_permissions(path, Permissions::from_mode(*mode)), "set the mode of", path)?;
        }
    }
    sync_changed(&changed);
    Ok(())
}

/// The names of the files in a directory that have this ending, without it, in byte order.
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

/// A number that is another one when a file or directory, or who may use it, has changed; 0 where there is none.
pub fn last_change(path: &str) -> i64 {
    fs::metadata(path).map_or(0, |data| data.ctime().wrapping_mul(1 << 30) ^ data.ctime_nsec())
}

/// Reads a whole regular file, without following a link or waiting on a pipe.
///
/// # Errors
/// When it is something else, or over 16 MiB, or cannot be read.
pub fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    read_plain(path, false)
}

/// The same for a file that only this daemon, or another one of the same user, could have written.
///
/// # Errors
/// As `read_file`, and when it belongs to another user, or others can write it.
pub fn read_own(path: &Path) -> io::Result<Vec<u8>> {
    read_plain(path, true)
}

fn read_plain(path: &Path, own: bool) -> io::Result<Vec<u8>> {
    let mut file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
    let metadata = file.metadata()?;
    let mut why = "not a regular file, or too large";
    if metadata.is_file() && metadata.len() <= FILE_MAX {
        why = "it belongs to another user, or others can write it";
        if !own || metadata.uid() == own_uid().0 && metadata.mode() & 0o022 == 0 {
            let mut content = Vec::with_capacity(metadata.len() as usize);
            read_up_to(FILE_MAX, &mut content, &mut |to| file.read(to))?;
            return Ok(content);
        }
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, why))
}

/// Replaces a file by one with this content in one step, with mode 0600; `durable`: it is on disk when this returns.
///
/// # Errors
/// When it cannot be written. The old file is still there then, unless the disk is full and it was not `durable`; after a
/// failed sync it may be the new one.
pub fn write(dir: &Path, file: &str, content: &[u8], durable: bool) -> Result<(), Box<DiskError>> {
    put(dir, file, content, 0o600, durable)?;
    if durable {
        sync_dir(dir)
    } else {
        Ok(())
    }
}

/// The same; it is durable once the caller has synced the directory too.
///
/// # Errors
/// As `write`.
pub fn write_synced(dir: &Path, file: &str, content: &[u8]) -> Result<(), Box<DiskError>> {
    put(dir, file, content, 0o600, true)
}

/// The same with mode 0644, for a file that everybody may read and nobody needs after a crash.
///
/// # Errors
/// As `write`.
pub fn publish(dir: &Path, file: &str, text: &str) -> Result<(), Box<DiskError>> {
    put(dir, file, text.as_bytes(), 0o644, false)
}

/// Replaces a file. One that need not be `synced` is of this boot only, and an outdated one would mislead: where there is
/// no space for the new file beside the old one, the old one is removed first.
fn put(dir: &Path, file: &str, content: &[u8], mode: u32, synced: bool) -> Result<(), Box<DiskError>> {
    let path = dir.join(file);
    let temporary = dir.join([file, TEMPORARY].concat());
    let replace = || {
        let written = create(&temporary)
            .and_then(|file| fill(file, content, mode, synced))
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
        Some(libc::ENOSPC | libc::EDQUOT | libc::EISDIR | libc::ENOTEMPTY | libc::EEXIST) if !synced => {
            // An empty directory may be in the place of the file.
            let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir(&path));
            written = replace();
        }
        _ => {}
    }
    with_context(written, "write", &path)
}

/// Creates a new file, and removes a leftover one first.
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
    // It was created with mode 0600.
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

/// Waits until the entries of a directory that were made, renamed or removed are so on disk.
///
/// # Errors
/// When the directory cannot be opened or synced.
pub fn sync_dir(dir: &Path) -> Result<(), Box<DiskError>> {
    // A FIFO may be in the place of the directory, and opening that would wait for its other side.
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY | libc::O_NONBLOCK).open(dir);
    match opened.and_then(|dir| dir.sync_all()) {
        // Some file systems cannot sync a directory, fsync(2), and have no other way to do it.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
        synced => with_context(synced, "sync", dir),
    }
}

/// The path with this ending added to its name.
pub fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut longer = path.as_os_str().to_owned();
    longer.push(ending);
    longer.into()
}

/// Renames what is in the place of one of our directories and is neither a directory nor a link: this ending is added to its
/// name. Returns the new path; `None` where there was nothing to rename, or it failed.
pub fn set_aside(dir: &Path, ending: &str) -> Option<PathBuf> {
    fs::symlink_metadata(dir).ok().filter(|metadata| !metadata.is_dir() && !metadata.is_symlink())?;
    let aside = with_ending(dir, ending);
    fs::rename(dir, &aside).ok().map(|()| aside)
}

/// Removes what is in the place of one of our files in `run_dir` and is no regular file. A directory that is not empty is
/// renamed: this ending is added to its name.
pub fn clear(path: &Path, ending: &str) {
    if fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_file()) {
        return;
    }
    if fs::remove_file(path).or_else(|_| fs::remove_dir(path)).is_err() {
        // Where this fails too, the next use of the file reports it.
        let _ = fs::rename(path, with_ending(path, ending));
    }
}

/// Removes a file, which is gone from the disk when this returns; one that does not exist is no error.
///
/// # Errors
/// When it exists and cannot be removed, or the directory cannot be synced.
pub fn remove_durable(dir: &Path, file: &str) -> Result<(), Box<DiskError>> {
    let path = dir.join(file);
    match fs::remove_file(&path) {
        Ok(()) => sync_dir(dir),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        failed => with_context(failed, "remove", &path),
    }
}

/// Removes a file; one that does not exist is no error.
///
/// # Errors
/// When it exists and cannot be removed.
pub fn remove(path: &Path) -> Result<(), Box<DiskError>> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => with_context(removed, "remove", path),
    }
}
