//! The daemon's own log, and the files that agents write their output to; the size of all of them is limited.
//!
//! A log that is full is rotated: the daemon's own gets the name `.1`; an output is copied to its `.1` and truncated, as its
//! writers hold it open, which a helper does (`work::rotate`). Nothing here may stop an agent or the daemon, or wait for a
//! reader: a line that cannot be written to the log goes to the kernel's log or stderr, or is lost. Which lines are logged,
//! and when output is rotated, is not decided here.

use std::ffi::OsStr;
use std::fmt::Display;
use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::Error;
use crate::host::disk::{make_dir, reason};
use crate::kernel::{Level, Uid};
use crate::sorted_map::SortedMap;
use crate::sys::file::read_up_to;
use crate::sys::poll::{poll, PollFd};
use crate::sys::wall;
use crate::text::sanitize;
use crate::work::rotate::MODE;

/// The size at which the daemon's own log is rotated, bytes.
const LOG_MAX: u64 = 1 << 20;

/// The longest line, bytes. A pipe that is writable according to poll(2) takes 4096 bytes without waiting.
const LINE_MAX: usize = 4000;

/// The daemon's own log.
#[derive(Debug)]
pub struct Log {
    dir: PathBuf,
    level: Level,
    foreground: bool,
    /// The open file, with its id.
    file: Option<(File, FileId)>,
    problem: Option<Box<str>>,
}

/// What identifies a file whatever its name is: device and inode.
type FileId = (u64, u64);

fn id_of(metadata: &Metadata) -> FileId {
    (metadata.dev(), metadata.ino())
}

impl Log {
    /// The log `bootagent.log` in `dir`, for lines up to `level`; in the `foreground` they go to stderr too. The file is
    /// opened for the first line.
    pub fn new(dir: &Path, level: Level, foreground: bool) -> Log {
        Log { dir: dir.into(), level, foreground, file: None, problem: None }
    }

    /// Whether a line of this level would be written.
    pub fn takes(&self, level: Level) -> bool {
        level <= self.level
    }

    /// Writes a line, if its level is logged. Where the file cannot be written, it goes to the kernel's log or to stderr.
    pub fn write(&mut self, level: Level, text: &dyn Display) {
        if !self.takes(level) {
            return;
        }
        let text = sanitize(&text.to_string(), LINE_MAX - 100);
        let line = format!("{} {:5} {text}\n", timestamp(wall()), level.name());
        if self.foreground {
            write_stderr(&line);
        }
        let appended = self.append(&line);
        self.problem = appended.as_ref().err().map(|error| {
            let path = self.dir.join("bootagent.log");
            format!("cannot write \"{}\": {}, its lines go to the kernel's log", path.display(), reason(error)).into()
        });
        if appended.is_err() {
            self.file = None;
            // In the foreground it is on stderr already.
            if !self.foreground && write_kernel_log(level, &text).is_err() {
                write_stderr(&line);
            }
        }
    }

    /// Writes a line to the file. A line that does not fit on the disk as a whole is removed again.
    fn append(&mut self, line: &str) -> io::Result<()> {
        let path = self.dir.join("bootagent.log");
        let mut metadata = fs::symlink_metadata(&path).ok();
        if metadata.as_ref().is_some_and(|now| now.is_file() && now.len() + line.len() as u64 > LOG_MAX) {
            // Nobody else writes to it. It must not grow, even where what it contains cannot be kept.
            fs::rename(&path, path.with_extension("log.1")).or_else(|_| fs::remove_file(&path))?;
            metadata = None;
        }
        // The file may have been removed or renamed since the last line.
        let opened = self.file.as_ref().map(|(_, id)| *id);
        if opened.is_none() || opened != metadata.as_ref().map(id_of) {
            let (file, of_file) = open_append(&self.dir, &path, 0o600)?;
            self.file = Some((file, id_of(&of_file)));
            metadata = Some(of_file);
        }
        let (Some((file, _)), Some(metadata)) = (&mut self.file, metadata) else { return Ok(()) };
        let written = file.write_all(line.as_bytes());
        if written.is_err() {
            let _ = file.set_len(metadata.len());
        }
        written
    }

    /// Why the last line is not in the file.
    pub fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }
}

/// The files that agents write their output to, `NAME.log`.
#[derive(Debug)]
pub struct Outputs {
    dir: PathBuf,
    known: SortedMap<Box<str>, Output>,
}

/// What is known of the output of one agent.
#[derive(Clone, Copy, Debug, Default)]
struct Output {
    /// Where the output since the agent's last start begins.
    begin: u64,
    /// The file that was opened at that start. It had no second name then.
    opened: Option<FileId>,
    /// The bytes that the file system did not free when the output was rotated because of its disk space.
    unfreed: u64,
}

/// What became of an output that is written to and is not at its path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It has no name any more.
    Removed,
    /// It has this path now.
    Moved(PathBuf),
}

/// How many bytes more than twice its limit an output may take of the disk, as file systems allocate ahead of a writer.
const AHEAD: u64 = 2 << 20;

/// The bytes that a file takes of the disk. An agent can make them more than its length by fallocate(2).
fn disk_space(metadata: &Metadata) -> u64 {
    metadata.blocks().saturating_mul(512)
}

impl Outputs {
    /// The files in `dir`.
    pub fn new(dir: &Path) -> Outputs {
        Outputs { dir: dir.into(), known: SortedMap::new() }
    }

    /// What is known of an agent's output.
    fn known(&self, name: &str) -> Output {
        self.known.get(name).copied().unwrap_or_default()
    }

    /// The same, to be changed.
    fn edit(&mut self, name: &str) -> &mut Output {
        self.known.or_insert_with(name.into(), Output::default)
    }

    /// The path of the agent's output.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join([name, ".log"].concat())
    }

    /// Opens the agent's output file to append to it, for a start; file and directory are made where they are missing. What
    /// the file contains already is not part of this run.
    ///
    /// # Errors
    /// When it cannot be opened: a sentence for the log. The agent is started all the same, with its output to /dev/null.
    pub fn open(&mut self, name: &str) -> Result<OwnedFd, Error> {
        let path = self.path(name);
        match open_append(&self.dir, &path, MODE) {
            Ok((file, metadata)) => {
                let output = self.edit(name);
                (output.begin, output.opened) = (metadata.len(), Some(id_of(&metadata)));
                Ok(file.into())
            }
            Err(error) => Err(format_error!(
                "agent \"{name}\": cannot open \"{}\": {}, its output is dropped",
                path.display(),
                reason(&error)
            )),
        }
    }

    /// The agent's output, open to be rotated, when it is larger than `size` bytes, or takes far more of the disk than that.
    ///
    /// # Errors
    /// When it cannot be opened, or has a second name: a sentence for the log.
    pub fn full(&self, name: &str, size: u64) -> Result<Option<File>, Error> {
        let path = self.path(name);
        let Ok(metadata) = fs::symlink_metadata(&path) else { return Ok(None) };
        if !metadata.is_file() || metadata.len() <= size && !self.takes_too_much(name, size, &metadata) {
            return Ok(None);
        }
        let options = &mut OpenOptions::new();
        let log = options.read(true).write(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(&path);
        match log.and_then(|log| unshared(log, self.known(name).opened)) {
            Ok((log, _)) => Ok(Some(log)),
            Err(error) => Err(self.not_rotated(name, &reason(&error))),
        }
    }

    fn takes_too_much(&self, name: &str, size: u64, metadata: &Metadata) -> bool {
        let before = self.known(name).unfreed;
        disk_space(metadata) > size.saturating_mul(2).saturating_add(AHEAD).saturating_add(before)
    }

    /// Notes that the agent's output was rotated, as it was larger than `size` bytes.
    ///
    /// # Errors
    /// When it takes far more of the disk than that all the same: a sentence for the log.
    pub fn rotated(&mut self, name: &str, size: u64) -> Result<(), Error> {
        self.edit(name).begin = 0;
        let Ok(metadata) = fs::symlink_metadata(self.path(name)) else { return Ok(()) };
        let left = disk_space(&metadata);
        self.edit(name).unfreed = 0;
        if metadata.len() <= size && self.takes_too_much(name, size, &metadata) {
            self.edit(name).unfreed = left;
            return Err(
                self.not_rotated(name, &format_args!("the file system keeps {left} bytes allocated behind its end"))
            );
        }
        Ok(())
    }

    /// A sentence for the log about an output that could not be rotated.
    pub fn not_rotated(&self, name: &str, why: &dyn Display) -> Error {
        format_error!("agent \"{name}\": cannot rotate \"{}\": {why}", self.path(name).display())
    }

    /// What became of the output that an agent's main process has open as `link` (a descriptor in /proc): `None` while it is
    /// the file at its path, and where the process has opened something else there itself.
    pub fn fate(&self, name: &str, link: &Path) -> Option<Fate> {
        let (path, target) = (self.path(name), fs::read_link(link).ok()?);
        if target == path {
            return None;
        }
        let there = fs::symlink_metadata(&path).ok().map(|metadata| id_of(&metadata));
        let opened = self.known(name).opened;
        // A file that has no name any more is shown with its last one.
        let text = target.as_os_str().as_bytes();
        let lasting = Path::new(OsStr::from_bytes(text.strip_suffix(b" (deleted)").unwrap_or(text)));
        let beside = lasting.parent() == Some(&self.dir);
        let begins = |with: &str| lasting.file_name().is_some_and(|last| last.as_bytes().starts_with(with.as_bytes()));
        let is_output = match opened {
            Some(_) => there != opened && (beside || begins(name)),
            // Which file an earlier daemon has opened is not known. With a file at the path, only the name tells.
            None => beside && (there.is_none() || begins(&[name, ".log"].concat())),
        };
        match lasting == target {
            _ if !is_output => None,
            false => Some(Fate::Removed),
            true => Some(Fate::Moved(target)),
        }
    }

    /// The output that was removed while the process with the descriptor `link` writes to it, when it is larger than `size`
    /// bytes. `user`: that of the agent, which may have opened something else there.
    pub fn nameless(&self, name: &str, link: &Path, size: u64, user: Option<Uid>) -> Option<File> {
        let options = &mut OpenOptions::new();
        let log = options.read(true).write(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(link).ok()?;
        let metadata = log.metadata().ok()?;
        let is_known =
            self.known(name).opened == Some(id_of(&metadata)) || user.is_some_and(|user| user.0 == metadata.uid());
        (metadata.is_file() && metadata.nlink() == 0 && is_known && metadata.len() > size).then_some(log)
    }

    /// Removes the agent's output, unless there was output of an earlier agent of this name before its last start.
    pub fn remove(&mut self, name: &str) {
        if self.known.remove(name).is_none_or(|output| output.begin == 0) {
            let path = self.path(name);
            let _ = fs::remove_file(path.with_extension("log.1"));
            let _ = fs::remove_file(path);
        }
    }

    /// The last whole lines of the agent's output since its start, at most `max` bytes; empty when there are none. Where an
    /// earlier daemon started the agent, the whole file counts. The text must go through `text::sanitize` before it
    /// is shown, as the agent wrote it.
    pub fn tail(&self, name: &str, max: u64) -> String {
        let (path, begin) = (self.path(name), self.known(name).begin);
        // The agent has written nothing.
        if fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.len() == begin) {
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

/// Opens a log to append to it, and makes it, with exactly this mode, and its directory where they are missing.
fn open_append(dir: &Path, path: &Path, mode: u32) -> io::Result<(File, Metadata)> {
    let mut options = OpenOptions::new();
    // To open a pipe would wait for its reader, to open a file with another process's lease would wait for its end, and to
    // open a device may have an effect. What was no pipe at the look may be one at the open; for a regular file O_NONBLOCK
    // has no meaning.
    options.append(true).mode(mode).custom_flags(libc::O_NOFOLLOW | libc::O_NOCTTY | libc::O_NONBLOCK);
    let new = match fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.is_file() && !metadata.is_symlink() => {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        metadata => metadata.is_err(),
    };
    let mut opened = options.create(new).open(path);
    if opened.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        make_dir(dir).map_err(|error| error.cause)?;
        opened = options.create(true).open(path);
    }
    let (file, metadata) = unshared(opened?, None)?;
    if new {
        file.set_permissions(Permissions::from_mode(mode))?;
    }
    Ok((file, metadata))
}

/// The file, unless it has a second name: a hard link to another file may have been planted to have that file overwritten.
/// The file `known` had no second name when it was opened, so it is no such link whatever names it has been given since.
fn unshared(file: File, known: Option<FileId>) -> io::Result<(File, Metadata)> {
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    if metadata.nlink() > 1 && known != Some(id_of(&metadata)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the file has another name (a hard link)"));
    }
    Ok((file, metadata))
}

fn read_tail(path: &Path, begin: u64, max: u64) -> io::Result<String> {
    let mut file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Ok(String::new());
    }
    // A file that is shorter than at the start was truncated since.
    let begin = if begin > metadata.len() { 0 } else { begin };
    let start = metadata.len().saturating_sub(max).max(begin);
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    read_up_to(max, &mut bytes, &mut |to| file.read(to))?;
    let mut tail = &bytes[..];
    if start > begin {
        // The first line is most likely incomplete and is left out, unless it is the only one.
        if let Some(end) = tail.iter().position(|byte| *byte == b'\n').filter(|end| end + 1 < tail.len()) {
            tail = &tail[end + 1..];
        }
    }
    Ok(String::from_utf8_lossy(tail).into_owned())
}

/// Writes to stderr, unless that would wait: the daemon waits for no terminal and for no reader of a pipe.
fn write_stderr(line: &str) {
    let stderr = io::stderr();
    let mut fds = [PollFd::writing(stderr.as_fd())];
    if poll(&mut fds, Some(Duration::ZERO)).is_ok() && fds[0].ready() {
        let _ = stderr.lock().write(line.as_bytes());
    }
}

/// Writes to the kernel's log, which needs no disk.
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
