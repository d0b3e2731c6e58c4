//! Who could write to a path: every directory from the root down, and the links on the way.
//!
//! Paths come in, and the real path comes out, or why it must not be used. The rule is in `model::access`; here the host is
//! asked for modes, owners and access control lists. Nothing is changed.

use std::ffi::{CStr, OsString};
use std::fs::{self, Metadata};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use crate::error::Error;
use crate::host::disk::reason;
use crate::kernel::Uid;
use crate::model::access::{self, Access, Place, Writer};
use crate::sys::account;
use crate::sys::file::{attribute, read_text};

/// How many symbolic links are followed on the way to a file, as many as the kernel does.
const LINKS_MAX: usize = 40;

/// The access control list of a file or directory, acl(5).
pub const ACL: &CStr = c"system.posix_acl_access";

/// The access control list that new files in a directory get.
const DEFAULT_ACL: &CStr = c"system.posix_acl_default";

/// Why a path must not or cannot be used.
pub struct Blocked {
    /// The reason, with what to type where that helps.
    pub why: Error,
    /// Where another user can write on it: whether that is only by the group of a directory.
    pub writer: Option<bool>,
}

impl Blocked {
    fn unread(error: io::Error) -> Blocked {
        Blocked { why: format_error!("cannot read: {}", reason(&error)), writer: None }
    }
}

/// The path without symbolic links; `None` where it leads to nothing. Run by root, every directory on it is checked before
/// anything in it is looked at, also those that links lead through: a user who can write in one of them can replace the
/// rest of the path. Not run by root, the path itself, unchecked.
///
/// # Errors
/// When another user than root and `also` could change the path, or it cannot be followed.
pub fn resolve(path: &Path, also: Uid) -> Result<Option<PathBuf>, Blocked> {
    if !as_root() {
        return Ok(Some(path.into()));
    }
    let mut ahead = Vec::new();
    prepend(&mut ahead, path);
    if path.is_relative() {
        prepend(&mut ahead, &std::env::current_dir().map_err(Blocked::unread)?);
    }
    let mut done = PathBuf::from("/");
    check_directory(&done, Place::Above, also)?;
    let mut links = 0;
    while let Some(name) = ahead.pop() {
        if name == ".." {
            done.pop();
            continue;
        }
        let next = done.join(&name);
        let metadata = match fs::symlink_metadata(&next) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Blocked::unread(error)),
        };
        if metadata.is_symlink() {
            check_link(&done, &next, metadata.uid(), also)?;
            links += 1;
            let target = match fs::read_link(&next) {
                Ok(target) if links <= LINKS_MAX => target,
                Ok(_) => return Err(Blocked::unread(io::Error::from_raw_os_error(libc::ELOOP))),
                Err(error) => return Err(Blocked::unread(error)),
            };
            if target.is_absolute() {
                done = PathBuf::from("/");
            }
            prepend(&mut ahead, &target);
        } else if metadata.is_dir() {
            check_directory(&next, Place::Above, also)?;
            done = next;
        } else if ahead.is_empty() {
            return Ok(Some(next));
        } else {
            return Err(Blocked::unread(io::Error::from_raw_os_error(libc::ENOTDIR)));
        }
    }
    Ok(Some(done))
}

/// Puts the names of a path before those that are still ahead. They are in reverse order, the next one last.
fn prepend(ahead: &mut Vec<OsString>, path: &Path) {
    for part in path.components().rev() {
        match part {
            Component::Normal(name) => ahead.push(name.into()),
            Component::ParentDir => ahead.push("..".into()),
            _ => {}
        }
    }
}

/// Checks a link. In a directory where other users may make files, such as /tmp or one of `also`, it must belong to root.
fn check_link(directory: &Path, link: &Path, uid: u32, also: Uid) -> Result<(), Blocked> {
    let shared = fs::symlink_metadata(directory).map_err(Blocked::unread)?.mode() & 0o1000 != 0;
    if uid == 0 || (!shared && also.0 == 0) {
        return Ok(());
    }
    let link = link.display();
    let why = format_error!("the link \"{link}\" belongs to user {uid}; type chown -h root \"{link}\"");
    Err(Blocked { why, writer: Some(false) })
}

/// Checks a directory; not run by root, every directory is good.
///
/// # Errors
/// When another user than root and `also` can write in it, or it cannot be looked at.
pub fn check_directory(directory: &Path, place: Place, also: Uid) -> Result<(), Blocked> {
    let blocked = |why, writer| Err(Blocked { why, writer });
    let shown = directory.display();
    if !as_root() {
        return Ok(());
    }
    let look = || -> io::Result<_> {
        let metadata = fs::symlink_metadata(directory)?;
        let default_acl = if place == Place::Above { None } else { attribute(directory, DEFAULT_ACL)? };
        Ok((metadata, attribute(directory, ACL)?, default_acl))
    };
    let (metadata, acl, default_acl) = match look() {
        Ok(found) => found,
        Err(error) => {
            return blocked(format_error!("cannot look at the directory \"{shown}\": {}", reason(&error)), None)
        }
    };
    let mut access = access_of(&metadata, acl.as_deref(), default_acl.as_deref());
    if access.uid == also.0 || place == Place::Above && is_from_outside(access.uid) {
        access.uid = 0;
    }
    match access::writer(&access, place) {
        Some(Writer { why, cure, by_group }) => {
            blocked(format_error!("the directory \"{shown}\": {why}; type {cure} \"{shown}\""), Some(by_group))
        }
        None => Ok(()),
    }
}

/// Whether a user is not in this user namespace. In a container that root did not start, the upper directories may be those
/// of the host, and the kernel does not say who owns them.
fn is_from_outside(uid: u32) -> bool {
    let text = |path: &str| read_text(Path::new(path)).unwrap_or_default();
    uid != 0
        && text("/proc/sys/kernel/overflowuid").trim().parse() == Ok(uid)
        && !access::is_mapped(&text("/proc/self/uid_map"), uid)
}

/// What `model::access` decides by: the mode, the owner and the access control lists of a file.
pub fn access_of<'a>(metadata: &Metadata, acl: Option<&'a [u8]>, default_acl: Option<&'a [u8]>) -> Access<'a> {
    Access { mode: metadata.mode(), uid: metadata.uid(), gid: metadata.gid(), acl, default_acl }
}

/// Whether the daemon runs as root: only then does it matter who else could write.
pub fn as_root() -> bool {
    account::own_uid().0 == 0
}
