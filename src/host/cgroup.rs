//! Control groups: which hierarchies the host has, our group in one of them (`Group`), and an agent's group below it
//! (`Leaf`): made, entered, limited, read, frozen, killed and removed.
//!
//! The hierarchies are found from the texts of /proc/self/mountinfo and /proc/self/cgroup alone (`hierarchies`). Whether
//! one can be used is found by trying, step by step, and each failure is a value with its path. Controllers are never
//! enabled in a group that has processes, and no process but an agent's is ever put into a leaf.

mod group;
mod leaf;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::host::disk::{with_context, DiskError};
use crate::model::enforcement::Version;
use crate::model::package::hex;
use crate::sys::file::read_text;
pub use group::Group;
pub use leaf::{Controller, Leaf};

/// The state directory whose daemon has the group of the shortest name.
const DEFAULT_STATE_DIR: &str = "/var/lib/bootagent";

/// How the names of the groups of all daemons begin.
const PREFIX: &str = "bootagent";

/// One mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// Its interface.
    pub version: Version,
    /// Where it is mounted.
    pub mount: PathBuf,
    /// The directory of our own group in it; `mount` where that directory is outside the mount.
    pub own: PathBuf,
    /// For v1: its controllers, or `name=systemd`. Empty for v2, where each group has its own list.
    pub controllers: Vec<Box<str>>,
}

impl Hierarchy {
    /// Whether it may have this controller; of v2 that shows only when the controller is enabled.
    pub fn may_have(&self, controller: &str) -> bool {
        self.version == Version::V2 || self.controllers.iter().any(|known| **known == *controller)
    }
}

/// All hierarchies, each once, from the texts of /proc/self/mountinfo and /proc/self/cgroup (proc(5), cgroups(7)).
pub fn hierarchies(mountinfo: &str, own: &str) -> Vec<Hierarchy> {
    let mut all: Vec<Hierarchy> = Vec::new();
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
        // The options of a v1 mount are those of any file system and then the controllers. Only the names that are in
        // /proc/self/cgroup too are controllers.
        let Some((controllers, path)) = own.lines().find_map(|line| {
            let mut words = line.splitn(3, ':').skip(1);
            let (names, path) = (words.next()?, words.next()?);
            let matches = match version {
                Version::V2 => names.is_empty(),
                Version::V1 => !names.is_empty() && names.split(',').all(|name| options.split(',').any(|o| o == name)),
            };
            matches.then_some((names, path))
        }) else {
            continue;
        };
        let mount = PathBuf::from(unescape(mount));
        let root = unescape(root);
        // Where only a part of the hierarchy is mounted (a container without a cgroup namespace), our path begins with
        // that part. A path with ".." is outside the mount.
        let below = path.strip_prefix(root.trim_end_matches('/')).unwrap_or("").trim_start_matches('/');
        let visible = !below.split('/').any(|part| part == "..");
        let own = if visible && !below.is_empty() { mount.join(below) } else { mount.clone() };
        let mut names: Vec<Box<str>> = Vec::new();
        for name in controllers.split(',').filter(|name| !name.is_empty()) {
            names.push(name.into());
        }
        if !all.iter().any(|known| known.version == version && known.controllers == names) {
            all.push(Hierarchy { version, mount, own, controllers: names });
        }
    }
    all
}

/// Undoes the escapes of mountinfo, which writes space, tab, newline and backslash as three octal digits.
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

/// What tells the agents of the daemon with this state directory from those of any other: its device and inode. The same path
/// may be another directory for a daemon in a chroot or container. Empty where there is no such directory.
pub fn mark_of(state_dir: &str) -> Box<str> {
    fs::metadata(state_dir).map_or("".into(), |found| format!("{}:{}", found.dev(), found.ino()).into())
}

/// The name of our group, so that two daemons on one host never use the same one: `bootagent`, or `bootagent-` and the
/// beginning of a hash of `state_dir` and its mark, unless that is the default one of the host itself.
pub fn group_name(state_dir: &str) -> String {
    let state_dir = state_dir.trim_end_matches('/');
    let mark = mark_of(state_dir);
    if state_dir == DEFAULT_STATE_DIR && is_on_host() && mark_of(&["/proc/1/root", state_dir].concat()) == mark {
        return PREFIX.into();
    }
    let digest = Sha256::digest([state_dir, "\0", &mark].concat());
    format!("{PREFIX}-{}", hex(&digest[..6]))
}

/// Whether this process is in the first process namespace, whose number is fixed in the kernel. In another one, process 1 is
/// that of a container.
fn is_on_host() -> bool {
    fs::read_link("/proc/self/ns/pid").is_ok_and(|namespace| namespace == Path::new("pid:[4026531836]"))
}

/// An operation on a control group that failed for a reason other than an error of the kernel.
fn failed(verb: &'static str, path: &Path, why: &str) -> Box<DiskError> {
    Box::new(DiskError { verb, path: path.into(), cause: io::Error::other(why) })
}

/// Makes a directory; false when it exists already.
fn make_dir(dir: &Path) -> Result<bool, Box<DiskError>> {
    match fs::create_dir(dir) {
        Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        made => with_context(made, "make", dir).map(|()| true),
    }
}

/// The groups in a group; empty where they cannot be listed.
fn directories(dir: &Path) -> Vec<PathBuf> {
    let mut groups = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            groups.push(entry.path());
        }
    }
    groups
}

fn open_for_writing(path: &Path) -> Result<File, Box<DiskError>> {
    with_context(OpenOptions::new().write(true).open(path), "open", path)
}

/// Writes a file by a single write(2), as the kernel requires.
fn write_file(path: &Path, text: &str) -> Result<(), Box<DiskError>> {
    with_context(open_for_writing(path)?.write_all(text.as_bytes()), "write", path)
}

fn read_file(path: &Path) -> Result<String, Box<DiskError>> {
    let read = match read_text(path) {
        // The group was removed between open and read.
        Err(cause) if cause.raw_os_error() == Some(libc::ENODEV) => Err(io::ErrorKind::NotFound.into()),
        read => read,
    };
    with_context(read, "read", path)
}

/// The same result; a file that does not exist is no failure.
fn tolerate_missing(result: Result<(), Box<DiskError>>) -> Result<(), Box<DiskError>> {
    match result {
        Err(error) if !error.missing() => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
