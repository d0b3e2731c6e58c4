//! The daemon's own log, and the files the agents write their output to; all of them capped.
//!
//! A log that is full is copied to `.1` and truncated, as its writers hold it open. Nothing here may stop an agent or
//! the daemon, or wait for a reader: what cannot be written to its file goes where it can, or nowhere. Which line is
//! worth writing, and when output is turned over, others decide.

use crate::sorted_map::SortedMap;
use std::fmt::Display;
use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::Error;
use crate::host::disk::{make_dir, reason};
use crate::kernel::Level;
use crate::model::job::sanitize;
use crate::sys::file::read_up_to;
use crate::sys::poll::{poll, PollFd};
use crate::sys::wall;

/// The size over which the daemon's own log is turned over.
const LOG_MAX: u64 = 1 << 20;

/// The longest line, bytes: a pipe that poll(2) calls writable takes 4096 without waiting.
const LINE_MAX: usize = 4000;

/// The daemon's own log.
#[derive(Debug)]
pub struct Log {
    dir: PathBuf,
    level: Level,
    foreground: bool,
    /// The open file, and which one it is.
    file: Option<(File, FileId)>,
}

/// A file whatever its name: device and inode.
type FileId = (u64, u64);

fn id_of(found: &Metadata) -> FileId {
    (found.dev(), found.ino())
}

impl Log {
    /// The log `bootagent.log` in `dir`, of lines up to `level`; in the `foreground` they go to stderr too. Nothing is
    /// opened before the first line.
    pub fn new(dir: &Path, level: Level, foreground: bool) -> Log {
        Log { dir: dir.into(), level, foreground, file: None }
    }

    /// Whether a line of this level would be written.
    pub fn takes(&self, level: Level) -> bool {
        level <= self.level
    }

    /// Writes a line, if it matters enough. Where the file cannot be written it goes to the kernel's log, or to stderr.
    pub fn write(&mut self, level: Level, text: &dyn Display) {
        if !self.takes(level) {
            return;
        }
        let text = sanitize(&text.to_string(), LINE_MAX - 100);
        let line = format!("{} {:5} {text}\n", timestamp(wall()), level.name());
        if self.foreground {
            write_stderr(&line);
        }
        if self.append(&line).is_err() {
            self.file = None;
            // In the foreground it has been seen already.
            if !self.foreground && write_kernel_log(level, &text).is_err() {
                write_stderr(&line);
            }
        }
    }

    /// A line that a full disk cuts is taken back.
    fn append(&mut self, line: &str) -> io::Result<()> {
        let path = self.dir.join("bootagent.log");
        let mut found = fs::symlink_metadata(&path).ok();
        // Somebody may have removed or renamed it.
        let ours = self.file.as_ref().map(|(_, id)| *id);
        if ours.is_none() || ours != found.as_ref().map(id_of) {
            let (file, opened) = open_append(&self.dir, &path, 0o600)?;
            self.file = Some((file, id_of(&opened)));
            found = Some(opened);
        }
        let (Some((file, _)), Some(found)) = (&mut self.file, found) else { return Ok(()) };
        let mut size = found.len();
        if size + line.len() as u64 > LOG_MAX {
            // A copy that cannot be kept is no reason to let the log grow.
            let _ = rotate_file(&path, LOG_MAX, 0o600, None);
            size = 0;
        }
        let written = file.write(line.as_bytes())?;
        if written < line.len() {
            file.set_len(size)?;
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }
}

/// The files that agents write their output to, `NAME.log`.
#[derive(Debug)]
pub struct Outputs {
    dir: PathBuf,
    /// Where the output of the agent's last start begins, unless that is at the beginning of the file.
    begins: SortedMap<Box<str>, u64>,
    /// Which file was opened at the agent's last start, when it had no other name.
    opened: SortedMap<Box<str>, FileId>,
    /// What the file system did not give back when the output was turned over for the disk space it held.
    kept: SortedMap<Box<str>, u64>,
}

/// So much more than twice its limit may an output hold of the disk: file systems allocate ahead of a writer.
const AHEAD: u64 = 2 << 20;

/// The disk space of a file, which an agent can make larger than its length by fallocate(2).
fn held(found: &Metadata) -> u64 {
    found.blocks().saturating_mul(512)
}

impl Outputs {
    /// Those in `dir`.
    pub fn new(dir: &Path) -> Outputs {
        Outputs { dir: dir.into(), begins: SortedMap::new(), opened: SortedMap::new(), kept: SortedMap::new() }
    }

    /// Where the output of the agent is.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join([name, ".log"].concat())
    }

    /// Opens the agent's output file for append, made together with its directory where missing. A start: what is in it
    /// already is not of this run.
    ///
    /// # Errors
    /// A sentence for the log. The agent is started all the same, with its output to /dev/null.
    pub fn open(&mut self, name: &str) -> Result<OwnedFd, Error> {
        let path = self.path(name);
        match open_append(&self.dir, &path, 0o640) {
            Ok((file, found)) => {
                self.opened.insert(name.into(), id_of(&found));
                match found.len() {
                    0 => drop(self.begins.remove(name)),
                    size => self.begins.insert(name.into(), size),
                }
                Ok(file.into())
            }
            Err(error) => Err(format_error!(
                "agent \"{name}\": cannot open \"{}\": {}, its output is dropped",
                path.display(),
                reason(&error)
            )),
        }
    }

    /// When the agent's output is over `size` bytes, or holds far more of the disk than those need: keeps the last `size`
    /// of them in `NAME.log.1`, and truncates it.
    ///
    /// # Errors
    /// A sentence for the log, when it could not be kept or truncated; one that cannot be kept is truncated all the same.
    pub fn rotate(&mut self, name: &str, size: u64) -> Result<(), Error> {
        let path = self.path(name);
        let Ok(found) = fs::symlink_metadata(&path) else { return Ok(()) };
        let before = self.kept.get(name).copied().unwrap_or(0);
        let hoards = held(&found) > size.saturating_mul(2).saturating_add(AHEAD).saturating_add(before);
        if !found.is_file() || found.len() <= size && !hoards {
            return Ok(());
        }
        self.begins.remove(name);
        let told =
            |why: &dyn Display| format_error!("agent \"{name}\": cannot turn over \"{}\": {why}", path.display());
        let left = rotate_file(&path, size, 0o640, self.opened.get(name)).map_err(|error| told(&reason(&error)))?;
        self.kept.remove(name);
        if hoards && left > AHEAD {
            self.kept.insert(name.into(), left);
            return Err(told(&format_args!("the file system keeps {left} bytes allocated behind its end")));
        }
        Ok(())
    }

    /// The last whole lines of the agent's output since its start, at most `max` bytes; empty when there are none. What
    /// was there before this daemon opened it counts too. Not yet fit to be shown: it is the agent's, see
    /// `model::job::sanitize`.
    pub fn tail(&self, name: &str, max: u64) -> String {
        let (path, begin) = (self.path(name), self.begins.get(name).copied().unwrap_or(0));
        if fs::symlink_metadata(&path).is_ok_and(|found| found.len() == begin) {
            // It has said nothing.
            return String::new();
        }
        read_tail(&path, begin, max).unwrap_or_default()
    }
}

/// Seconds since the epoch as `2026-11-22T08:41:25Z`.
pub fn timestamp(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Days are counted in years that begin in March, so that the leap day is a year's last; 719468 days lie between
    // 0000-03-01 and the epoch, 146097 in each era of 400 years.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

/// Opens a log for append, making it with exactly `mode`, and its directory where that is gone; with what it was then.
fn open_append(dir: &Path, path: &Path, mode: u32) -> io::Result<(File, Metadata)> {
    let mut options = OpenOptions::new();
    // Opening a pipe would wait for its reader, a lease of somebody else's for its end, and a device may do something; what
    // was no pipe a moment ago may be one now. For reads and writes of a regular file the flag means nothing.
    options.append(true).mode(mode).custom_flags(libc::O_NOFOLLOW | libc::O_NOCTTY | libc::O_NONBLOCK);
    let new = match fs::symlink_metadata(path) {
        Ok(found) if !found.is_file() && !found.is_symlink() => {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        found => found.is_err(),
    };
    let mut opened = options.create(new).open(path);
    if opened.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        make_dir(dir).map_err(|error| error.cause)?;
        opened = options.create(true).open(path);
    }
    let (file, found) = unshared(opened?, None)?;
    if new {
        file.set_permissions(Permissions::from_mode(mode))?;
    }
    Ok((file, found))
}

/// The file, unless it is somewhere else too: a hard link could have been planted, to some file that we are to write to.
/// `known` had no other name when it was opened: who has given it one since has no less to lose by that.
fn unshared(file: File, known: Option<&FileId>) -> io::Result<(File, Metadata)> {
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    if found.nlink() > 1 && known != Some(&id_of(&found)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the file has another name (a hard link)"));
    }
    Ok((file, found))
}

/// Keeps the last `size` bytes of a log in its `.1`, and truncates it; returns what it holds of the disk then. The writers
/// hold it open for append, so what they write next begins at its start. `known` as for `unshared`.
fn rotate_file(path: &Path, size: u64, mode: u32, known: Option<&FileId>) -> io::Result<u64> {
    let options = &mut OpenOptions::new();
    let log = options.read(true).write(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
    let (mut log, found) = unshared(log, known)?;
    let kept = if found.len() > 0 { keep_copy(&mut log, path, size, mode) } else { Ok(()) };
    log.set_len(0)?;
    if held(&log.metadata()?) > 0 && found.len() == 0 {
        // Some file systems do nothing for a file that has this length already, whatever lies behind it.
        log.set_len(1)?;
        log.set_len(0)?;
    }
    kept?;
    Ok(held(&log.metadata()?))
}

fn keep_copy(log: &mut File, path: &Path, size: u64, mode: u32) -> io::Result<()> {
    let older = path.with_extension("log.1");
    let temporary = path.with_extension("log.1.tmp");
    let _ = fs::remove_file(&temporary);
    log.seek(SeekFrom::Start(log.metadata()?.len().saturating_sub(size)))?;
    let copied = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary).and_then(|mut copy| {
        copy.set_permissions(Permissions::from_mode(mode))?;
        let mut chunk = Vec::new();
        let mut left = size;
        while left > 0 && read_up_to(left.min(64 << 10), &mut chunk, &mut |to| log.read(to))? > 0 {
            // What its writer has left out by a jump is left out of the copy.
            if chunk.iter().any(|byte| *byte != 0) {
                copy.write_all(&chunk)?;
            }
            left -= chunk.len() as u64;
            chunk.clear();
        }
        fs::rename(&temporary, &older)
    });
    if copied.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    copied
}

fn read_tail(path: &Path, begin: u64, max: u64) -> io::Result<String> {
    let mut file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
    let found = file.metadata()?;
    if !found.is_file() {
        return Ok(String::new());
    }
    // Shorter than at its beginning: somebody truncated it.
    let begin = if begin > found.len() { 0 } else { begin };
    let start = found.len().saturating_sub(max).max(begin);
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    read_up_to(max, &mut bytes, &mut |to| file.read(to))?;
    let mut tail = &bytes[..];
    if start > begin {
        // The first line is cut most likely; a single long one is better than nothing.
        if let Some(end) = tail.iter().position(|byte| *byte == b'\n').filter(|end| end + 1 < tail.len()) {
            tail = &tail[end + 1..];
        }
    }
    Ok(String::from_utf8_lossy(tail).into_owned())
}

/// Writes to stderr, unless nobody reads what is in it: the daemon does not wait for a terminal or a pipe.
fn write_stderr(line: &str) {
    let stderr = io::stderr();
    let mut fds = [PollFd::writing(stderr.as_fd())];
    if poll(&mut fds, Some(Duration::ZERO)).is_ok() && fds[0].ready() {
        let _ = stderr.lock().write(line.as_bytes());
    }
}

/// Writes to the kernel's log, the one place that is left without a disk.
fn write_kernel_log(level: Level, text: &str) -> io::Result<()> {
    let mut log = OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open("/dev/kmsg")?;
    // Priorities of facility daemon (3), syslog(3).
    let priority = 3 << 3
        | match level {
            Level::Error => 3,
            Level::Warn => 4,
            Level::Info => 6,
            Level::Debug => 7,
        };
    log.write(format!("<{priority}>bootagent: {text}\n").as_bytes()).map(drop)
}

#[cfg(test)]
mod tests;
