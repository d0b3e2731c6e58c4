//! Unpacks a tar archive below one directory, and refuses whatever would reach outside of it.
//!
//! The directory is empty and only this process writes to it, so the type of each component of a path, once checked, cannot
//! change: no member goes through a link. Compressed archives come through the host's gzip or xz. Everything is on disk
//! before success is reported; after a failure the daemon removes what is left.

mod names;
mod stream;

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{symlink, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use self::names::{lowest, relative};
use self::stream::{decompressor, Source};
use crate::kernel::{Exit, Sig};
use crate::model::package::Format;
use crate::sys::file::read_up_to;
use crate::sys::process;
use crate::text::exact_size;
use crate::work::tar::{header, padded, pax, up_to_nul, Extra, Header, BLOCK};
use crate::work::{Failure, FailureKind, HelperResponse, Result};

/// The longest pax header or long name, bytes.
const EXTRA_MAX: u64 = 64 << 10;
/// Bytes copied at once.
const CHUNK: usize = 64 << 10;

/// How an AppleDouble file begins: what a Mac stores of a file beside its content, as `._NAME` beside `NAME`.
const APPLE_DOUBLE: &[u8] = &[0, 5, 0x16, 7];
/// How a `.DS_Store` begins: what a Mac stores of how it shows a folder.
const DS_STORE: &[u8] = &[0, 0, 0, 1];

/// How much of a tool's messages is shown, bytes.
const MESSAGES_MAX: u64 = 400;

/// Unpacks `package` into `dir`.
///
/// # Errors
/// When the package is no good archive, has members that are not allowed or more of them or of bytes than allowed, when it
/// cannot be decompressed, and when the disk fails or is full.
pub fn unpack(
    mut package: File,
    format: Format,
    dir: &str,
    max_bytes: u64,
    max_entries: u64,
) -> Result<HelperResponse> {
    package.rewind().map_err(|error| Failure::storage("cannot read the package", &error))?;
    let mut unpacking = Unpacking {
        root: PathBuf::from(dir),
        directories: Vec::new(),
        climbing: None,
        max_bytes,
        max_entries,
        entries: 0,
        bytes: 0,
        member: String::new(),
        buffer: vec![0; CHUNK],
    };
    let tool = match format {
        Format::Tar => None,
        Format::TarGz => Some("gzip"),
        Format::TarXz => Some("xz"),
        Format::TarZst => Some("zstd"),
        _ => {
            return Err(Failure::new(FailureKind::Final, format!("a \"{}\" package is not unpacked", format.ending())))
        }
    };
    match tool {
        None => unpacking.read(&mut Source { file: package, read: 0 })?,
        Some(tool) => {
            let (pid, [stdout, mut messages], mut failures) = decompressor(tool, package.into())?;
            let mut source = Source { file: stdout, read: 0 };
            let read = unpacking.read(&mut source);
            // The tool gets SIGPIPE if it still writes.
            drop(source);
            let exit = process::wait_for(pid).unwrap_or(Exit::Unknown);
            if let Some(failure) = failures.take(pid) {
                return Err(Failure::new(FailureKind::Final, format!("cannot execute \"{tool}\": {failure}")));
            }
            // Where the tool failed, the archive just ends too early: the tool's own error is the better one.
            let tool_failed = exit != Exit::Code(0) && exit != Exit::Signal(Sig::PIPE);
            if tool_failed && read.as_ref().err().is_none_or(|failure| failure.kind == FailureKind::Final) {
                let mut text = Vec::new();
                let _ = read_up_to(MESSAGES_MAX, &mut text, &mut |to| messages.read(to));
                let text = String::from_utf8_lossy(&text);
                let reason = format!("cannot decompress the package: \"{tool}\" {exit}: {}", text.trim());
                return Err(Failure::new(FailureKind::Final, reason));
            }
            read?;
        }
    }
    unpacking.finish()
}

/// What an earlier member is on disk.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Made {
    File,
    Directory,
    Link,
}

/// An archive being unpacked.
struct Unpacking {
    root: PathBuf,
    /// The directories made so far, by their relative names.
    directories: Vec<PathBuf>,
    /// A link whose target leads through the root itself: that is outside, once a single top directory becomes the root.
    climbing: Option<String>,
    max_bytes: u64,
    max_entries: u64,
    entries: u64,
    bytes: u64,
    /// The name of the present member, for messages.
    member: String,
    buffer: Vec<u8>,
}

impl Unpacking {
    /// Unpacks every member, and reads to the end of the stream, so that a decompressor sees the end and checks its sums.
    fn read(&mut self, source: &mut Source) -> Result<()> {
        let mut block = [0; BLOCK];
        let mut extra = Extra::default();
        while source.fill(&mut block)? {
            let read = header(&block);
            let Some(mut header) =
                read.map_err(|what| Failure::new(FailureKind::Final, format!("no tar archive: {what}")))?
            else {
                return self.drain(source);
            };
            match header.kind {
                b'L' => extra.name = Some(up_to_nul(self.attached(source, header.size)?)),
                b'K' => extra.link = Some(up_to_nul(self.attached(source, header.size)?)),
                b'x' => {
                    let bytes = self.attached(source, header.size)?;
                    pax(&bytes, &mut extra)?;
                }
                b'g' => {
                    // One name or size for all members makes no sense.
                    let bytes = self.attached(source, header.size)?;
                    let mut global = Extra::default();
                    pax(&bytes, &mut global)?;
                    if global.name.is_some() || global.link.is_some() || global.size.is_some() {
                        return Err(Failure::new(FailureKind::Hostile, "a global header names or sizes all members"));
                    }
                }
                _ => {
                    let Extra { name, link, size, sparse } = std::mem::take(&mut extra);
                    header.name = name.unwrap_or(header.name);
                    header.link = link.unwrap_or(header.link);
                    header.size = size.unwrap_or(header.size);
                    header.kind = if sparse { b'S' } else { header.kind };
                    self.member = String::from_utf8_lossy(&header.name).into_owned();
                    self.make(&header, source)?;
                }
            }
        }
        if self.entries == 0 {
            return Err(Failure::new(FailureKind::Final, "the archive is empty"));
        }
        Ok(())
    }

    /// Reads the padding behind the end mark.
    fn drain(&mut self, source: &mut Source) -> Result<()> {
        let end = source.read;
        loop {
            match source.file.read(&mut self.buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => source.read += count as u64,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(Failure::temporary("cannot read the archive", &error)),
            }
            if source.read - end > self.max_bytes {
                return Err(Failure::new(FailureKind::TooBig, "the archive has too many bytes behind its end mark"));
            }
        }
    }

    /// Reads the data of an extra header, which belongs to the next member.
    fn attached(&mut self, source: &mut Source, size: u64) -> Result<Vec<u8>> {
        self.count()?;
        if size > EXTRA_MAX {
            return Err(Failure::new(FailureKind::Hostile, format!("a header of {size} bytes")));
        }
        let mut bytes = vec![0; padded(size) as usize];
        source.demand(&mut bytes)?;
        bytes.truncate(size as usize);
        Ok(bytes)
    }

    /// Counts one more header of any kind, so that no archive keeps this process busy for ever.
    fn count(&mut self) -> Result<()> {
        self.entries += 1;
        if self.entries > self.max_entries {
            return Err(Failure::new(
                FailureKind::TooBig,
                format!("the archive has more than {} members", self.max_entries),
            ));
        }
        Ok(())
    }

    /// The present member must not be unpacked; `what` follows its name.
    fn hostile(&self, what: &str) -> Box<Failure> {
        Failure::new(FailureKind::Hostile, format!("member \"{}\" {what}", self.member))
    }

    /// The disk refuses the present member.
    fn storage(&self, error: &io::Error) -> Box<Failure> {
        Failure::storage(&format!("cannot unpack \"{}\"", self.member), error)
    }

    /// Makes one member.
    fn make(&mut self, header: &Header, source: &mut Source) -> Result<()> {
        self.count()?;
        // The label of a volume, which GNU tar writes in front.
        if header.kind == b'V' {
            return Ok(());
        }
        let name = relative(&header.name).map_err(|what| self.hostile(what))?;
        // In the oldest archives only the slash shows that a member is a directory.
        let kind = if header.kind == b'0' && header.name.ends_with(b"/") { b'5' } else { header.kind };
        if name.as_os_str().is_empty() {
            return if kind == b'5' { Ok(()) } else { Err(self.hostile("has no name")) };
        }
        match kind {
            b'5' => {
                self.directory(&name)?;
                let mode = Permissions::from_mode(header.mode & 0o755 | 0o700);
                fs::set_permissions(self.root.join(&name), mode).map_err(|error| self.storage(&error))
            }
            b'0' | b'7' if header.mode & 0o7000 != 0 => {
                Err(self.hostile("is a file with a set-user-id, set-group-id or sticky bit"))
            }
            b'0' | b'7' => self.file(header, &name, source),
            b'1' => self.hard_link(header, &name),
            b'2' => self.link(&name, OsStr::from_bytes(&header.link)),
            b'S' => Err(self.hostile("is sparse, which is not unpacked: make the archive without --sparse")),
            b'M' => Err(self.hostile("goes on from another volume: make an archive of one volume")),
            b'3' | b'4' | b'6' => Err(self.hostile("is a device or a named pipe")),
            other if other.is_ascii_graphic() => {
                Err(self.hostile(&format!("is of the unknown kind '{}'", char::from(other))))
            }
            other => Err(self.hostile(&format!("is of the unknown kind {other}"))),
        }
    }

    /// Makes one file.
    fn file(&mut self, header: &Header, name: &Path, source: &mut Source) -> Result<()> {
        self.bytes = self.bytes.saturating_add(header.size);
        if self.bytes > self.max_bytes {
            let most = exact_size(self.max_bytes);
            let reason = format!("the archive has more than {most}, with \"{}\"", self.member);
            return Err(Failure::new(FailureKind::TooBig, reason));
        }
        let begin = self.begin(source, header.size)?;
        if is_of_a_mac(name, &begin) {
            return self.copy(source, &begin, header.size, &mut io::sink());
        }
        self.place(name)?;
        let path = self.root.join(name);
        let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let mut file = opened.map_err(|error| self.storage(&error))?;
        self.copy(source, &begin, header.size, &mut file)?;
        file.set_permissions(Permissions::from_mode(header.mode & 0o755 | 0o600))
            .map_err(|error| self.storage(&error))?;
        if let Some(time) = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(header.mtime)) {
            // The file is good without its time, which some file systems cannot store.
            let _ = file.set_modified(time);
        }
        file.sync_all().map_err(|error| self.storage(&error))
    }

    /// Makes `name` another name for an earlier member.
    fn hard_link(&mut self, header: &Header, name: &Path) -> Result<()> {
        let target = relative(&header.link).map_err(|what| self.hostile(&format!("is a link to what {what}")))?;
        let mut above = target.ancestors().skip(1).filter(|above| !above.as_os_str().is_empty());
        let inside = above.all(|above| self.kind_at(above).is_ok_and(|kind| kind == Some(Made::Directory)));
        match self.kind_at(&target) {
            Ok(Some(Made::File | Made::Link)) if inside && target == name => Ok(()),
            Ok(Some(Made::File)) if inside => {
                self.place(name)?;
                fs::hard_link(self.root.join(&target), self.root.join(name)).map_err(|error| self.storage(&error))
            }
            // Another name for a symbolic link: from its place the link may lead elsewhere.
            Ok(Some(Made::Link)) if inside => {
                let link = fs::read_link(self.root.join(&target)).map_err(|error| self.storage(&error))?;
                self.link(name, link.as_os_str())
            }
            _ => Err(self.hostile("is a hard link to no file of the archive before it")),
        }
    }

    /// Makes the symbolic link `name` to `target`.
    fn link(&mut self, name: &Path, target: &OsStr) -> Result<()> {
        let floor = lowest(name, target.as_bytes()).map_err(|what| self.hostile(what))?;
        if floor == 0 && self.climbing.is_none() && name.components().count() > 1 {
            self.climbing = Some(self.member.clone());
        }
        self.place(name)?;
        symlink(target, self.root.join(name)).map_err(|error| self.storage(&error))
    }

    /// The first bytes of a member's data.
    fn begin(&mut self, source: &mut Source, size: u64) -> Result<Vec<u8>> {
        let mut begin = vec![0; size.min(APPLE_DOUBLE.len() as u64) as usize];
        source.demand(&mut begin).map(|()| begin)
    }

    /// Copies a member's data, of which `begin` was read already, to its file.
    fn copy(&mut self, source: &mut Source, begin: &[u8], size: u64, file: &mut dyn Write) -> Result<()> {
        file.write_all(begin).map_err(|error| self.storage(&error))?;
        let mut left = size - begin.len() as u64;
        while left > 0 {
            let take = left.min(CHUNK as u64) as usize;
            let buffer = &mut self.buffer[..take];
            source.demand(buffer)?;
            file.write_all(buffer).map_err(|error| self.storage(&error))?;
            left -= take as u64;
        }
        let mut padding = [0; BLOCK];
        source.demand(&mut padding[..(padded(size) - size) as usize])
    }

    /// What is at `name`, without following links; all above it are directories.
    fn kind_at(&self, name: &Path) -> Result<Option<Made>> {
        match fs::symlink_metadata(self.root.join(name)) {
            Ok(data) if data.is_dir() => Ok(Some(Made::Directory)),
            Ok(data) if data.is_file() => Ok(Some(Made::File)),
            Ok(_) => Ok(Some(Made::Link)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.storage(&error)),
        }
    }

    /// Makes the directory `name` and those above it, where they are missing.
    fn directory(&mut self, name: &Path) -> Result<()> {
        let mut so_far = PathBuf::new();
        for component in name.components() {
            so_far.push(component);
            match self.kind_at(&so_far)? {
                Some(Made::Directory) => {}
                Some(Made::Link) => return Err(self.hostile("goes through a symbolic link")),
                Some(Made::File) => return Err(self.hostile("goes through a file")),
                None if self.directories.len() as u64 >= self.max_entries => {
                    return Err(self.hostile("needs more directories than the archive may have members"));
                }
                None => {
                    fs::create_dir(self.root.join(&so_far)).map_err(|error| self.storage(&error))?;
                    self.directories.push(so_far.clone());
                }
            }
        }
        Ok(())
    }

    /// Makes room for a member: makes the directories above it, and removes an earlier member of this name.
    fn place(&mut self, name: &Path) -> Result<()> {
        self.directory(name.parent().unwrap_or(Path::new("")))?;
        match self.kind_at(name)? {
            None => Ok(()),
            Some(Made::Directory) => Err(self.hostile("replaces a directory")),
            Some(Made::File | Made::Link) => {
                fs::remove_file(self.root.join(name)).map_err(|error| self.storage(&error))
            }
        }
    }

    /// Syncs the directories to disk, and finds the top directory.
    fn finish(self) -> Result<HelperResponse> {
        let storage = |error: io::Error| Failure::storage("cannot write the package to disk", &error);
        let mut first = fs::read_dir(&self.root).map_err(storage)?;
        let top = match (first.next(), first.next()) {
            (Some(Ok(only)), None) if only.file_type().is_ok_and(|kind| kind.is_dir()) && is_top(&only.path()) => {
                only.file_name().into_vec()
            }
            _ => Vec::new(),
        };
        if let Some(link) = self.climbing.filter(|_| !top.is_empty()) {
            let top = String::from_utf8_lossy(&top);
            let reason = format!("member \"{link}\" is a link out of the top directory \"{top}\"");
            return Err(Failure::new(FailureKind::Hostile, reason));
        }
        for name in self.directories.iter().map(PathBuf::as_path).chain([Path::new("")]) {
            File::open(self.root.join(name)).and_then(|directory| directory.sync_all()).map_err(storage)?;
        }
        Ok(HelperResponse::Unpacked { entries: self.entries, bytes: self.bytes, top })
    }
}

/// Whether a member of this name and beginning is what a Mac stores beside files. No Linux program wants it.
fn is_of_a_mac(name: &Path, begin: &[u8]) -> bool {
    let name = name.file_name().unwrap_or_default().as_bytes();
    begin == APPLE_DOUBLE && name.starts_with(b"._") || begin == DS_STORE && name == b".DS_Store"
}

/// Whether the single directory at the top of an archive is left out of the paths in it: not where it is a part of the
/// package itself, as one called `bin` is that does not hold the package's definition.
fn is_top(directory: &Path) -> bool {
    const PARTS: [&str; 9] = ["bin", "sbin", "lib", "lib64", "libexec", "etc", "share", "usr", "var"];
    let is_part = directory.file_name().is_some_and(|name| PARTS.iter().any(|part| name == *part));
    !is_part || directory.join("bootagent.json").exists()
}
