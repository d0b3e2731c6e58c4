//! Unpacks a tar archive below one directory, and refuses whatever would reach outside of it.
//!
//! The directory is empty and only this process can write to it, so the record of what was made (`made`) is the truth about
//! it: no member goes through a link, and no name is looked up that could have been changed. Compressed archives come through
//! the host's gzip or xz. Everything is on disk before success is said; a failure leaves its remains for the daemon to remove.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr};
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{symlink, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::kernel::{Exit, Pid, Sig};
use crate::model::package::Format;
use crate::sys::child::{spawn_child, FailurePipe, Program, Setup};
use crate::sys::{pipe, process};
use crate::work::tar::{header, records, Header, BLOCK};
use crate::work::{Fault, Kind, Outcome};

/// Where the host's tools are looked for.
const TOOL_DIRS: [&str; 6] = ["/usr/bin", "/bin", "/usr/local/bin", "/usr/sbin", "/sbin", "/usr/local/sbin"];
/// The longest pax header or long name, bytes.
const EXTRA_MAX: u64 = 64 << 10;
/// Bytes copied at once.
const CHUNK: usize = 64 << 10;

/// Unpacks `package` into `dir`.
pub fn unpack(
    mut package: File,
    format: Format,
    dir: &str,
    max_bytes: u64,
    max_entries: u64,
) -> Result<Outcome, Fault> {
    package.rewind().map_err(|error| Fault::storage("cannot read the package", &error))?;
    let mut unpacking = Unpacking {
        root: PathBuf::from(dir),
        made: BTreeMap::new(),
        climbing: None,
        max_bytes,
        max_entries,
        entries: 0,
        bytes: 0,
        buffer: vec![0; CHUNK],
    };
    let tool = match format {
        Format::Tar => None,
        Format::TarGz => Some("gzip"),
        Format::TarXz => Some("xz"),
        _ => return Err(Fault::new(Kind::Final, format!("a \"{}\" package is not unpacked", format.ending()))),
    };
    match tool {
        None => unpacking.read(&mut Source { file: package, read: 0 })?,
        Some(tool) => {
            let (pid, stdout, mut failures) = decompressor(tool, package.into())?;
            let mut source = Source { file: stdout, read: 0 };
            let read = unpacking.read(&mut source);
            // Whatever it still wants to write, nobody wants to read.
            drop(source);
            let exit = process::wait_for(pid).unwrap_or(Exit::Unknown);
            if let Some(failure) = failures.take(pid) {
                return Err(Fault::new(Kind::Final, format!("cannot execute \"{tool}\": {failure}")));
            }
            match (read, exit) {
                (Ok(()), Exit::Code(0)) => {}
                // It was the tool that broke off, and the archive only ends too early.
                (Ok(()) | Err(Fault { kind: Kind::Final, .. }), exit)
                    if exit != Exit::Code(0) && exit != Exit::Signal(Sig::PIPE) =>
                {
                    return Err(Fault::new(Kind::Final, format!("cannot decompress the package: \"{tool}\" {exit}")));
                }
                (read, _) => read?,
            }
        }
    }
    unpacking.finish()
}

/// Starts `tool -dc` on the package; busybox stands in for a tool that is missing.
fn decompressor(tool: &str, package: OwnedFd) -> Result<(Pid, File, FailurePipe), Fault> {
    let program = [tool, "busybox"]
        .iter()
        .flat_map(|name| TOOL_DIRS.iter().map(move |dir| format!("{dir}/{name}")))
        .find(|path| fs::metadata(path).is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0))
        .ok_or_else(|| Fault::new(Kind::Final, format!("cannot decompress the package: the host has no \"{tool}\"")))?;
    let cannot = |error: io::Error| Fault::temporary(&format!("cannot start \"{tool}\""), &error);
    let text = |text: &str| CString::new(text).map_err(|error| cannot(error.into()));
    let argv = vec![text(tool)?, c"-dc".to_owned()];
    let mut setup = Setup::new(Program::Path(text(&program)?), argv, vec![c"PATH=/usr/bin:/bin".to_owned()]);
    let (read, write) = pipe().map_err(cannot)?;
    let failures = FailurePipe::new().map_err(cannot)?;
    setup.stdin = Some(package);
    setup.stdout = Some(write);
    setup.death_signal = Some(Sig::KILL);
    setup.no_new_privs = true;
    let pid = spawn_child(&setup, &failures).map_err(cannot)?;
    Ok((pid, File::from(read), failures))
}

/// The archive as a stream.
struct Source {
    file: File,
    /// Bytes read so far.
    read: u64,
}

impl Source {
    /// Fills `buffer`; `Ok(false)` when the stream ends before its first byte.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<bool, Fault> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.file.read(&mut buffer[filled..]) {
                Ok(0) if filled == 0 => return Ok(false),
                Ok(0) => return Err(Fault::new(Kind::Final, format!("the archive ends after {} bytes", self.read))),
                Ok(count) => {
                    filled += count;
                    self.read += count as u64;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(Fault::temporary("cannot read the archive", &error)),
            }
        }
        Ok(true)
    }

    /// Like `fill`, where the stream must not end.
    fn demand(&mut self, buffer: &mut [u8]) -> Result<(), Fault> {
        if self.fill(buffer)? || buffer.is_empty() {
            return Ok(());
        }
        Err(Fault::new(Kind::Final, format!("the archive ends after {} bytes", self.read)))
    }
}

/// What a member was made as.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Made {
    File,
    Directory,
    Link,
}

/// What the headers before a member say about it.
#[derive(Default)]
struct Extra {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
}

/// An archive being unpacked.
struct Unpacking {
    root: PathBuf,
    /// Everything below the root, by its relative name.
    made: BTreeMap<PathBuf, Made>,
    /// A link whose target leads over the root itself: outside, once a single top directory is taken for the root.
    climbing: Option<String>,
    max_bytes: u64,
    max_entries: u64,
    entries: u64,
    bytes: u64,
    buffer: Vec<u8>,
}

impl Unpacking {
    /// Unpacks every member, and reads on to the end of the stream, so that whoever writes it can check what it wrote.
    fn read(&mut self, source: &mut Source) -> Result<(), Fault> {
        let mut block = [0; BLOCK];
        let mut extra = Extra::default();
        while source.fill(&mut block)? {
            let read = header(&block);
            let Some(mut header) = read.map_err(|what| Fault::new(Kind::Final, format!("no tar archive: {what}")))?
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
                    // What would name every member alike, or size it, makes no sense for all of an archive.
                    let bytes = self.attached(source, header.size)?;
                    let mut global = Extra::default();
                    pax(&bytes, &mut global)?;
                    if global.name.is_some() || global.link.is_some() || global.size.is_some() {
                        return Err(Fault::new(Kind::Hostile, "a global header names or sizes all members"));
                    }
                }
                _ => {
                    let Extra { name, link, size } = std::mem::take(&mut extra);
                    header.name = name.unwrap_or(header.name);
                    header.link = link.unwrap_or(header.link);
                    header.size = size.unwrap_or(header.size);
                    self.member(&header, source)?;
                }
            }
        }
        if self.entries == 0 {
            return Err(Fault::new(Kind::Final, "the archive is empty"));
        }
        Ok(())
    }

    /// Reads what follows the end mark: padding, if anything.
    fn drain(&mut self, source: &mut Source) -> Result<(), Fault> {
        let end = source.read;
        loop {
            match source.file.read(&mut self.buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => source.read += count as u64,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(Fault::temporary("cannot read the archive", &error)),
            }
            if source.read - end > self.max_bytes {
                return Err(Fault::new(Kind::TooBig, "the archive goes on and on behind its end mark"));
            }
        }
    }

    /// The data of a header that belongs to the next one.
    fn attached(&mut self, source: &mut Source, size: u64) -> Result<Vec<u8>, Fault> {
        self.count()?;
        if size > EXTRA_MAX {
            return Err(Fault::new(Kind::Hostile, format!("a header of {size} bytes")));
        }
        let mut bytes = vec![0; padded(size) as usize];
        source.demand(&mut bytes)?;
        bytes.truncate(size as usize);
        Ok(bytes)
    }

    /// Counts one more header, of whatever kind, so that no archive keeps us busy for ever.
    fn count(&mut self) -> Result<(), Fault> {
        self.entries += 1;
        if self.entries > self.max_entries {
            return Err(Fault::new(Kind::TooBig, format!("the archive has more than {} members", self.max_entries)));
        }
        Ok(())
    }

    /// Makes one member.
    fn member(&mut self, header: &Header, source: &mut Source) -> Result<(), Fault> {
        self.count()?;
        let shown = String::from_utf8_lossy(&header.name).into_owned();
        let hostile = |what: &str| Fault::new(Kind::Hostile, format!("member \"{shown}\" {what}"));
        let name = relative(&header.name).map_err(hostile)?;
        if header.mode & 0o7000 != 0 {
            return Err(hostile("has a set-user-id, set-group-id or sticky bit"));
        }
        let storage = |error: io::Error| Fault::storage(&format!("cannot unpack \"{shown}\""), &error);
        // Files of the oldest archives have no other sign of being a directory.
        let kind = if header.kind == b'0' && header.name.ends_with(b"/") { b'5' } else { header.kind };
        if name.as_os_str().is_empty() {
            return if kind == b'5' { Ok(()) } else { Err(hostile("has no name")) };
        }
        match kind {
            b'5' => {
                self.directory(&name).map_err(hostile)?.map_err(storage)?;
                let mode = Permissions::from_mode(header.mode & 0o755 | 0o700);
                fs::set_permissions(self.root.join(&name), mode).map_err(storage)
            }
            b'0' | b'7' => {
                self.place(&name).map_err(hostile)?.map_err(storage)?;
                self.bytes = self.bytes.saturating_add(header.size);
                if self.bytes > self.max_bytes {
                    let reason = format!("the archive has more than {} bytes, with \"{shown}\"", self.max_bytes);
                    return Err(Fault::new(Kind::TooBig, reason));
                }
                let path = self.root.join(&name);
                let mut file =
                    OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(storage)?;
                self.made.insert(name, Made::File);
                self.copy(source, header.size, &mut file, storage)?;
                file.set_permissions(Permissions::from_mode(header.mode & 0o755 | 0o600)).map_err(storage)?;
                if let Some(time) = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(header.mtime)) {
                    // A time the file system cannot keep is no reason to do without the file.
                    let _ = file.set_modified(time);
                }
                file.sync_all().map_err(storage)
            }
            b'1' => {
                let target = relative(&header.link).map_err(|what| hostile(&format!("is a link to what {what}")))?;
                if self.made.get(&target) != Some(&Made::File) {
                    return Err(hostile("is a hard link to no file of the archive before it"));
                }
                if target == name {
                    return Ok(());
                }
                self.place(&name).map_err(hostile)?.map_err(storage)?;
                fs::hard_link(self.root.join(&target), self.root.join(&name)).map_err(storage)?;
                self.made.insert(name, Made::File);
                Ok(())
            }
            b'2' => {
                let floor = lowest(&name, &header.link).map_err(hostile)?;
                if floor == 0 && self.climbing.is_none() && name.components().count() > 1 {
                    self.climbing = Some(shown.clone());
                }
                self.place(&name).map_err(hostile)?.map_err(storage)?;
                symlink(OsStr::from_bytes(&header.link), self.root.join(&name)).map_err(storage)?;
                self.made.insert(name, Made::Link);
                Ok(())
            }
            b'3' | b'4' | b'6' => Err(hostile("is a device or a named pipe")),
            other => Err(hostile(&format!("is of the unknown kind '{}'", char::from(other).escape_default()))),
        }
    }

    /// Copies a member's data to its file.
    fn copy(
        &mut self,
        source: &mut Source,
        size: u64,
        file: &mut File,
        storage: impl Fn(io::Error) -> Fault,
    ) -> Result<(), Fault> {
        let mut left = size;
        while left > 0 {
            let take = left.min(CHUNK as u64) as usize;
            let buffer = &mut self.buffer[..take];
            source.demand(buffer)?;
            file.write_all(buffer).map_err(&storage)?;
            left -= take as u64;
        }
        let mut padding = [0; BLOCK];
        source.demand(&mut padding[..(padded(size) - size) as usize])
    }

    /// Makes the directory `name` and those above it, where they are missing. What is in its place and no directory is the
    /// outer error.
    fn directory(&mut self, name: &Path) -> Result<io::Result<()>, &'static str> {
        let mut so_far = PathBuf::new();
        for component in name.components() {
            so_far.push(component);
            match self.made.get(&so_far) {
                Some(Made::Directory) => {}
                Some(Made::Link) => return Err("goes through a symbolic link"),
                Some(Made::File) => return Err("goes through a file"),
                None if self.made.len() as u64 >= self.max_entries => {
                    return Err("needs more directories than the archive may have members");
                }
                None => {
                    if let Err(error) = fs::create_dir(self.root.join(&so_far)) {
                        return Ok(Err(error));
                    }
                    self.made.insert(so_far.clone(), Made::Directory);
                }
            }
        }
        Ok(Ok(()))
    }

    /// Makes room for `name`: what is above it is there, what an earlier member of this name made is not.
    fn place(&mut self, name: &Path) -> Result<io::Result<()>, &'static str> {
        let above = name.parent().unwrap_or(Path::new(""));
        if let Err(error) = self.directory(above)? {
            return Ok(Err(error));
        }
        match self.made.get(name) {
            None => Ok(Ok(())),
            Some(Made::Directory) => Err("replaces a directory"),
            Some(Made::File | Made::Link) => {
                self.made.remove(name);
                Ok(fs::remove_file(self.root.join(name)))
            }
        }
    }

    /// Puts the directories on disk, and finds the top.
    fn finish(self) -> Result<Outcome, Fault> {
        let mut first = self.made.iter().filter(|(name, _)| name.components().count() == 1);
        let top = match (first.next(), first.next()) {
            (Some((name, Made::Directory)), None) => name.to_string_lossy().into_owned(),
            _ => String::new(),
        };
        if let Some(link) = self.climbing.filter(|_| !top.is_empty()) {
            let reason = format!("member \"{link}\" is a link out of the top directory \"{top}\"");
            return Err(Fault::new(Kind::Hostile, reason));
        }
        let directories = self.made.iter().filter(|(_, made)| **made == Made::Directory).map(|(name, _)| name);
        for name in directories.map(PathBuf::as_path).chain([Path::new("")]) {
            File::open(self.root.join(name))
                .and_then(|directory| directory.sync_all())
                .map_err(|error| Fault::storage("cannot write the package to disk", &error))?;
        }
        Ok(Outcome::Unpacked { entries: self.entries, bytes: self.bytes, top })
    }
}

/// `size` rounded up to whole blocks.
fn padded(size: u64) -> u64 {
    size.saturating_add(BLOCK as u64 - 1) / BLOCK as u64 * BLOCK as u64
}

/// GNU's long names end in a NUL.
fn up_to_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.truncate(bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len()));
    bytes
}

/// Takes what counts out of a pax header; times, owners and the like are not ours to keep.
fn pax(bytes: &[u8], extra: &mut Extra) -> Result<(), Fault> {
    let wrong = || Fault::new(Kind::Final, "no tar archive: a pax header that is none");
    for (key, value) in records(bytes).ok_or_else(wrong)? {
        match key {
            b"path" => extra.name = Some(value.to_vec()),
            b"linkpath" => extra.link = Some(value.to_vec()),
            b"size" => {
                let size = std::str::from_utf8(value).ok().and_then(|value| value.parse().ok());
                extra.size = Some(size.ok_or_else(wrong)?);
            }
            _ if key.starts_with(b"GNU.sparse.") => return Err(Fault::new(Kind::Hostile, "a sparse member")),
            _ => {}
        }
    }
    Ok(())
}

/// The name as a path below the root, `.` and doubled slashes taken out; empty for the root itself.
fn relative(name: &[u8]) -> Result<PathBuf, &'static str> {
    if name.starts_with(b"/") {
        return Err("has an absolute name");
    }
    if name.iter().any(u8::is_ascii_control) {
        return Err("has a control character in its name");
    }
    let mut path = PathBuf::new();
    for part in name.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return Err("has \"..\" in its name"),
            part => path.push(OsStr::from_bytes(part)),
        }
    }
    Ok(path)
}

/// How near to the root the target of the symbolic link `name` leads: 0 is the root itself.
///
/// `..` counts only at the front, where it is known what it leads out of: behind a name, that name could be a link.
fn lowest(name: &Path, target: &[u8]) -> Result<usize, &'static str> {
    if target.is_empty() || target.iter().any(u8::is_ascii_control) {
        return Err("is a symbolic link with an unusable target");
    }
    if target.starts_with(b"/") {
        return Err("is a symbolic link to an absolute name");
    }
    let mut depth = name.components().count() - 1;
    let mut descended = false;
    for part in target.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." if descended => return Err("is a symbolic link that climbs up from a name"),
            b".." => depth = depth.checked_sub(1).ok_or("is a symbolic link out of the package")?,
            _ => descended = true,
        }
    }
    Ok(depth)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_below_the_root() {
        for (name, want) in [("a/b", "a/b"), ("./a//b/", "a/b"), ("./", ""), ("a/./b", "a/b"), ("..a/b..", "..a/b..")] {
            assert_eq!(relative(name.as_bytes()), Ok(PathBuf::from(want)), "{name}");
        }
        for name in ["/a", "..", "a/..", "a/../b", "./../a", "a\nb", "a\0b", "a\x7f"] {
            assert!(relative(name.as_bytes()).is_err(), "{name:?}");
        }
    }

    #[test]
    fn link_targets_stay_below_the_root() {
        for (name, target, floor) in
            [("a", "b", 0), ("t/a", "b", 1), ("t/a", "../b", 0), ("t/u/a", "../b/c", 1), ("t/a", "./../t/b", 0)]
        {
            assert_eq!(lowest(Path::new(name), target.as_bytes()), Ok(floor), "{name} -> {target}");
        }
        for (name, target) in [
            ("a", "/etc"),
            ("a", ".."),
            ("t/a", "../.."),
            ("t/a", "b/../../.."),
            ("t/a", "b/.."),
            ("a", ""),
            ("a", "b\n"),
        ] {
            assert!(lowest(Path::new(name), target.as_bytes()).is_err(), "{name} -> {target}");
        }
    }
}
