//! Control groups: which hierarchies the host has, our group in one of them (`Group`), and an agent's group below it
//! (`Leaf`): made, entered, limited, read, frozen, killed and removed.
//!
//! What there is is found from the texts of /proc/self/mountinfo and /proc/self/cgroup alone (`hierarchies`); whether it
//! can be used is found by trying, step by step, and each failure is a value with its path. Controllers are never enabled
//! where processes live, and nobody but agents is ever put into a leaf.

mod group;
mod leaf;

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::kernel::Errno;
use crate::sys::file::read_text;
pub use group::Group;
pub use leaf::Leaf;

/// What could not be done, with which file, and why.
#[derive(Debug)]
pub struct CgroupError {
    verb: &'static str,
    path: PathBuf,
    cause: Cause,
}

#[derive(Debug)]
enum Cause {
    Io(io::Error),
    Text(Box<str>),
}

impl CgroupError {
    fn io(verb: &'static str, path: &Path, cause: io::Error) -> Box<CgroupError> {
        Box::new(CgroupError { verb, path: path.into(), cause: Cause::Io(cause) })
    }

    fn text(verb: &'static str, path: &Path, text: &str) -> Box<CgroupError> {
        Box::new(CgroupError { verb, path: path.into(), cause: Cause::Text(text.into()) })
    }

    /// Whether the file is not there.
    pub fn missing(&self) -> bool {
        matches!(&self.cause, Cause::Io(cause) if cause.kind() == io::ErrorKind::NotFound)
    }
}

impl fmt::Display for CgroupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {} \"{}\": ", self.verb, self.path.display())?;
        match &self.cause {
            Cause::Io(cause) => match cause.raw_os_error() {
                Some(code) => Errno(code).fmt(f),
                None => cause.fmt(f),
            },
            Cause::Text(text) => f.write_str(text),
        }
    }
}

/// Which interface a hierarchy has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// A hierarchy of its own for each controller or set of controllers.
    V1,
    /// The unified hierarchy.
    V2,
}

impl Version {
    /// As `limits_by` says it.
    pub const fn name(self) -> &'static str {
        match self {
            Version::V1 => "cgroup1",
            Version::V2 => "cgroup2",
        }
    }
}

/// One mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// Its interface.
    pub version: Version,
    /// Where it is mounted.
    pub mount: PathBuf,
    /// The directory of our own group in it; `mount` where that cannot be seen.
    pub own: PathBuf,
    /// For v1: its controllers, or `name=systemd`. Empty for v2, where each group has its own list.
    pub controllers: Vec<Box<str>>,
}

impl Hierarchy {
    /// Whether it is a v1 hierarchy with this controller.
    pub fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|known| **known == *controller)
    }
}

/// All hierarchies, each once, from the texts of /proc/self/mountinfo and /proc/self/cgroup (proc(5), cgroups(7)).
pub fn hierarchies(mountinfo: &str, own: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let mut left = left.split(' ');
        let (Some(root), Some(mount)) = (left.nth(3), left.next()) else { continue };
        let mut right = right.split(' ');
        let (Some(kind), Some(options)) = (right.next(), right.nth(1)) else { continue };
        let version = match kind {
            "cgroup2" => Version::V2,
            "cgroup" => Version::V1,
            _ => continue,
        };
        // The options of a v1 mount are those of any file system, then the controllers; only names that
        // /proc/self/cgroup knows are controllers.
        let Some((controllers, path)) = own.lines().find_map(|line| {
            let mut words = line.splitn(3, ':').skip(1);
            let (names, path) = (words.next()?, words.next()?);
            let here = match version {
                Version::V2 => names.is_empty(),
                Version::V1 => !names.is_empty() && names.split(',').all(|name| options.split(',').any(|o| o == name)),
            };
            here.then_some((names, path))
        }) else {
            continue;
        };
        let mount = PathBuf::from(unescape(mount));
        let root = unescape(root);
        // Within a mount of a part of the hierarchy (a container without a namespace) our path starts with that part;
        // a path with ".." is outside what we can see.
        let below = path.strip_prefix(root.trim_end_matches('/')).unwrap_or("").trim_start_matches('/');
        let visible = !below.split('/').any(|part| part == "..");
        let own = if visible && !below.is_empty() { mount.join(below) } else { mount.clone() };
        let mut names: Vec<Box<str>> = Vec::new();
        for name in controllers.split(',').filter(|name| !name.is_empty()) {
            names.push(name.into());
        }
        if !found.iter().any(|known| known.version == version && known.controllers == names) {
            found.push(Hierarchy { version, mount, own, controllers: names });
        }
    }
    found
}

/// mountinfo writes space, tab, newline and backslash as three octal digits.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let code = rest.get(at + 1..at + 4).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code.filter(u8::is_ascii) {
            Some(code) => {
                out.push(code as char);
                rest = &rest[at + 4..];
            }
            None => {
                out.push('\\');
                rest = &rest[at + 1..];
            }
        }
    }
    out.push_str(rest);
    out
}

/// The name of our group: `bootagent`, or with the beginning of a hash for another `state_dir`, so that two daemons on
/// one host never meet.
pub fn group_name(state_dir: &str) -> String {
    let state_dir = state_dir.trim_end_matches('/');
    if state_dir == "/var/lib/bootagent" {
        return "bootagent".into();
    }
    let digest = Sha256::digest(state_dir.as_bytes());
    let mut name = String::from("bootagent-");
    for byte in digest.iter().take(6) {
        for nibble in [byte >> 4, byte & 15] {
            name.push(char::from_digit(nibble.into(), 16).unwrap_or('0'));
        }
    }
    name
}

/// Makes a directory; false when it is there.
fn make_dir(dir: &Path) -> Result<bool, Box<CgroupError>> {
    match fs::create_dir(dir) {
        Ok(()) => Ok(true),
        Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(cause) => Err(CgroupError::io("make", dir, cause)),
    }
}

/// The groups in a group; none where that cannot be known.
fn directories(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.push(entry.path());
        }
    }
    found
}

fn open_for_writing(path: &Path) -> Result<File, Box<CgroupError>> {
    OpenOptions::new().write(true).open(path).map_err(|cause| CgroupError::io("open", path, cause))
}

/// One write(2), as the kernel wants it.
fn write_file(path: &Path, text: &str) -> Result<(), Box<CgroupError>> {
    open_for_writing(path)?.write_all(text.as_bytes()).map_err(|cause| CgroupError::io("write", path, cause))
}

fn read_file(path: &Path) -> Result<String, Box<CgroupError>> {
    match read_text(path) {
        Ok(text) => Ok(text),
        // The group vanished between open and read.
        Err(cause) if cause.raw_os_error() == Some(libc::ENODEV) => {
            Err(CgroupError::io("read", path, io::ErrorKind::NotFound.into()))
        }
        Err(cause) => Err(CgroupError::io("read", path, cause)),
    }
}

fn set_and_compare(path: &Path, text: &str) -> Result<(), Box<CgroupError>> {
    write_file(path, text)?;
    let got = read_file(path)?;
    match got.trim() == text {
        true => Ok(()),
        false => Err(CgroupError::text("write", path, &format!("wrote \"{text}\", read back \"{}\"", got.trim()))),
    }
}

fn tolerate_missing(result: Result<(), Box<CgroupError>>) -> Result<(), Box<CgroupError>> {
    match result {
        Err(error) if !error.missing() => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
