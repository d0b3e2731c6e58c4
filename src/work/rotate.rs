//! Rotates the output of an agent: copies its last bytes into `NAME.log.1` and truncates it. It is not renamed, as its writers
//! hold it open.
//!
//! Its writers go on while most of it is copied. For the last piece and the truncation the agent's control group is frozen,
//! where there is one: then nothing is lost between the two, and both files begin with a whole line. Where the group does not
//! freeze in time, the log stays as it is, and the daemon tries again at its next look. Where there is no group that can be
//! frozen, what is written between the last read and the truncation is lost. When to rotate is not decided here.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{fchown, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::kernel::Time;
use crate::sys::file::{read_text, try_lock};
use crate::sys::monotonic;
use crate::sys::poll::poll;

/// The mode of an output, and of the file that gets its last bytes.
pub const MODE: u32 = 0o640;
/// The longest that the writers are held up at once.
const FROZEN_MAX: Duration = Duration::from_millis(50);
/// How often the writers are frozen to copy the last piece, where they write more than can be copied in that time. After that
/// the log stays as it is until the next look.
const ATTEMPTS: u32 = 10;
/// How many times the size that is kept a log may grow to while its writers do not freeze in time, for example as one of them
/// waits for a dead file server. A longer one is rotated while they write, as it would grow without end.
const UNFROZEN_MAX: u64 = 10;
/// How much is copied at once, and how long the last line may be to be kept whole, bytes.
const CHUNK: usize = 64 << 10;

/// Replaces the file `older` by the last `size` bytes of `log`, which is open for reading and writing, and truncates the log.
/// With an empty `older` nothing is kept. `freezer`: see `Frozen::begin`.
///
/// # Errors
/// When the bytes could not be kept, or the log not truncated. It is truncated even where the bytes cannot be kept.
pub fn rotate(log: &File, older: &Path, size: u64, freezer: &Path) -> io::Result<()> {
    if log.metadata()?.len() == 0 || older.as_os_str().is_empty() {
        return truncate(log);
    }
    let temporary = older.with_extension("1.tmp");
    match keep(log, older, &temporary, size, freezer) {
        Ok(()) => Ok(()),
        Err(error) => {
            let _ = fs::remove_file(&temporary);
            truncate(log)?;
            Err(error)
        }
    }
}

/// Empties the log. One that is empty already gets a byte first: it may have blocks beyond its end, and some file systems free
/// nothing where the length stays the same.
fn truncate(log: &File) -> io::Result<()> {
    if log.metadata()?.len() == 0 {
        log.set_len(1)?;
    }
    log.set_len(0)
}

/// Copies the log into `temporary`, gives that the name `older`, and truncates the log. Leaves the log as it is where another
/// helper is doing this, the writers are too fast, or they do not freeze in time.
fn keep(log: &File, older: &Path, temporary: &Path, size: u64, freezer: &Path) -> io::Result<()> {
    let before = log.metadata()?;
    let copy = open_plain(temporary)?;
    if !try_lock(&copy)? {
        return Ok(());
    }
    copy.set_len(0)?;
    // Only root can give it to the agent's user.
    let _ = fchown(&copy, Some(before.uid()), Some(before.gid()));
    copy.set_permissions(Permissions::from_mode(MODE))?;
    // One byte before the first that is kept, as that may be the end of a line.
    let at = before.len().saturating_sub(size.saturating_add(1));
    let mut copying = Copying { log, copy, at, skips_line: before.len() > size, buffer: vec![0; CHUNK] };
    for _ in 0..ATTEMPTS {
        let end = log.metadata()?.len();
        while copying.at < end && copying.copy_chunk()? {}
        let until = monotonic() + FROZEN_MAX;
        let Ok(frozen) = Frozen::begin(freezer, until) else { continue };
        let mut more = true;
        while more && monotonic() < until {
            more = copying.copy_chunk()?;
        }
        if !more || frozen.is_none() {
            return copying.finish(older, temporary, frozen.is_some());
        }
    }
    match before.len() > size.saturating_mul(UNFROZEN_MAX) {
        true => copying.finish(older, temporary, false),
        false => fs::remove_file(temporary),
    }
}

/// Opens a file for reading and writing, which is made if need be. Its former bytes stay, as another helper may be writing it.
fn open_plain(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(MODE).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    match options.create(true).truncate(false).open(path) {
        Ok(file) if is_plain(&file) => Ok(file),
        // A link may have been planted to have another file overwritten.
        _ => {
            let _ = fs::remove_file(path);
            options.create_new(true).open(path)
        }
    }
}

/// Whether it is a regular file with one name.
fn is_plain(file: &File) -> bool {
    file.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.nlink() == 1)
}

/// A log that is being copied.
struct Copying<'a> {
    log: &'a File,
    copy: File,
    /// Where the next chunk begins in the log.
    at: u64,
    /// The next chunk begins in the middle of the log, perhaps within a line, whose rest is left out.
    skips_line: bool,
    buffer: Vec<u8>,
}

impl Copying<'_> {
    /// Copies the next chunk; false at the end of the log.
    fn copy_chunk(&mut self) -> io::Result<bool> {
        let count = self.log.read_at(&mut self.buffer, self.at)?;
        self.at += count as u64;
        let mut chunk = &self.buffer[..count];
        if std::mem::take(&mut self.skips_line) && count > 0 {
            // The line is kept where the chunk has no other one; the first byte was read only to see whether it ends a line.
            let end = chunk.iter().position(|byte| *byte == b'\n').filter(|end| end + 1 < count);
            chunk = &chunk[end.map_or(1, |end| end + 1)..];
        }
        // A chunk of zeros is not copied. It is most likely a hole: a writer that does not append goes on at its old position
        // after the log was truncated.
        if chunk.iter().any(|byte| *byte != 0) {
            self.copy.write_all(chunk)?;
        }
        Ok(count > 0)
    }

    /// Gives the copy its name, and truncates the log. If nobody writes to it, a last line without its end stays in the log, and
    /// not in the copy.
    fn finish(&mut self, older: &Path, temporary: &Path, nobody_writes: bool) -> io::Result<()> {
        let length = self.copy.metadata()?.len();
        let mut last = Vec::new();
        if nobody_writes {
            let from = length.saturating_sub(CHUNK as u64);
            last.resize((length - from) as usize, 0);
            self.copy.read_exact_at(&mut last, from)?;
        }
        let line_end = last.iter().rposition(|byte| *byte == b'\n');
        let open_line = line_end.map_or(&[][..], |end| &last[end + 1..]);
        self.copy.set_len(length - open_line.len() as u64)?;
        fs::rename(temporary, older)?;
        self.log.set_len(0)?;
        self.log.write_all_at(open_line, 0)
    }
}

/// A control group while it is frozen: it is thawed when this is dropped.
struct Frozen(PathBuf);

impl Frozen {
    /// Freezes the group of the file `freezer`: `cgroup.freeze` of v2, or `freezer.state` of v1. `None` where there is no such
    /// file, or it cannot be written.
    ///
    /// # Errors
    /// When the group is not frozen in time.
    fn begin(freezer: &Path, until: Time) -> io::Result<Option<Frozen>> {
        if freezer.as_os_str().is_empty() {
            return Ok(None);
        }
        let frozen = Frozen(freezer.into());
        if fs::write(freezer, if frozen.is_v2() { "1" } else { "FROZEN" }).is_err() {
            return Ok(None);
        }
        while !frozen.is_complete() {
            if monotonic() >= until {
                return Err(io::ErrorKind::TimedOut.into());
            }
            // The kernel has no event for this in v1.
            let _ = poll(&mut [], Some(Duration::from_millis(1)));
        }
        Ok(Some(frozen))
    }

    fn is_v2(&self) -> bool {
        self.0.ends_with("cgroup.freeze")
    }

    /// Whether every process of the group is frozen by now.
    fn is_complete(&self) -> bool {
        let text = |path: &Path| read_text(path).unwrap_or_default();
        match self.is_v2() {
            true => text(&self.0.with_file_name("cgroup.events")).lines().any(|line| line == "frozen 1"),
            false => text(&self.0).trim() == "FROZEN",
        }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        thaw(&self.0);
    }
}

/// Thaws the group of the file `freezer`, unless that is empty.
pub fn thaw(freezer: &Path) {
    if !freezer.as_os_str().is_empty() {
        let _ = fs::write(freezer, if freezer.ends_with("cgroup.freeze") { "0" } else { "THAWED" });
    }
}
