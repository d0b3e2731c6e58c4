//! The directories below /run that agents have while they run.
//!
//! A name of a definition goes in; what was made comes out. Every directory on the way must be one that only root can write
//! in, so that nobody can have a directory made, given away or removed elsewhere. Which ones an agent has made is written
//! down by the caller.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{chown, MetadataExt};
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::host::disk::reason;
use crate::host::path_check::resolve;
use crate::kernel::{Gid, Uid};
use crate::model::runtime_directory::overlap;
use crate::sys::file::{make_directory, read_text};
use crate::wire::config::Config;

/// Where they are.
const BASE: &str = "/run";

/// The directories on the way to `name`, itself last, that are not there: those that `make` will make.
pub fn missing(name: &str) -> Vec<&str> {
    let is_missing = |path: &&str| match fs::symlink_metadata(Path::new(BASE).join(path)) {
        Ok(_) => false,
        Err(error) => error.kind() == ErrorKind::NotFound,
    };
    let ends = name.match_indices('/').map(|(at, _)| at).chain([name.len()]);
    ends.map(|end| &name[..end]).filter(is_missing).collect()
}

/// Makes `name`, 0755 and owned by this user and group; what is missing on the way belongs to root. One that is there
/// already and belongs to the user stays as it is.
///
/// # Errors
/// When it cannot be made, is no directory, or belongs to somebody else; or when others can write on the way.
pub fn make(name: &str, user: Uid, group: Gid) -> Result<(), Error> {
    let wrong =
        |path: &Path, why: &dyn std::fmt::Display| format_error!("runtime_directory \"{}\": {why}", path.display());
    let (above, last) = name.rsplit_once('/').unwrap_or(("", name));
    let mut place = parent(BASE)?;
    for part in above.split('/').filter(|part| !part.is_empty()) {
        place.push(part);
        make_directory(&place, 0o755).map_err(|error| wrong(&place, &reason(&error)))?;
        place = parent(&place)?;
    }
    let path = place.join(last);
    match fs::symlink_metadata(&path) {
        Ok(there) if !there.is_dir() => Err(wrong(&path, &"is there, and is no directory")),
        Ok(there) if there.uid() != user.0 => {
            let (owner, user) = (there.uid(), user.0);
            Err(wrong(&path, &format_args!("is there, and belongs to user {owner}, not to user {user}")))
        }
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => make_directory(&path, 0o755)
            .and_then(|()| chown(&path, Some(user.0), Some(group.0)))
            .map_err(|error| wrong(&path, &reason(&error))),
        Err(error) => Err(wrong(&path, &reason(&error))),
    }
}

/// The real path of a directory that only root can write in.
fn parent(path: impl AsRef<Path>) -> Result<PathBuf, Error> {
    let path = path.as_ref();
    let wrong = |why: &str| format_error!("runtime_directory: \"{}\": {why}", path.display());
    match resolve(path, Uid(0)) {
        Ok(Some(real)) => Ok(real),
        Ok(None) => Err(wrong("there is no such directory")),
        Err(blocked) => Err(wrong(&blocked.why)),
    }
}

/// Removes one that was made; `whole`: with all that is in it, else only if it is empty. One that is gone is no error.
///
/// # Errors
/// When it cannot be removed, as something is mounted in it, or others can write on the way.
pub fn remove(name: &str, whole: bool) -> Result<(), Error> {
    let (above, last) = name.rsplit_once('/').unwrap_or(("", name));
    let place = Path::new(BASE).join(above);
    let wrong = |why: &str| format_error!("runtime_directory: cannot remove \"{BASE}/{name}\": {why}");
    if !place.exists() {
        return Ok(());
    }
    let path = parent(&place)?.join(last);
    if whole && has_mount(&path) {
        return Err(wrong("a file system is mounted in it"));
    }
    let removed = match fs::symlink_metadata(&path) {
        Ok(there) if there.is_dir() && whole => fs::remove_dir_all(&path),
        Ok(there) if there.is_dir() => match fs::remove_dir(&path) {
            Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => Ok(()),
            removed => removed,
        },
        Ok(_) => Err(io::Error::from_raw_os_error(libc::ENOTDIR)),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(wrong(&reason(&error))),
        _ => Ok(()),
    }
}

/// Whether a file system is mounted at `path` or below it: what is in that is not the agent's to lose.
fn has_mount(path: &Path) -> bool {
    let mounts = read_text(Path::new("/proc/self/mountinfo")).unwrap_or_default();
    mounts.lines().filter_map(|line| line.split(' ').nth(4)).any(|mount| Path::new(mount).starts_with(path))
}

/// What is wrong with these names where one of them is, holds, or is in a directory of the daemon's.
pub fn clash(names: &[Box<str>], config: &Config) -> Option<String> {
    let real = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.into());
    let base = real(Path::new(BASE));
    [&config.run_dir, &config.state_dir, &config.log_dir].into_iter().find_map(|own| {
        let place = real(Path::new(&**own));
        let name = names.iter().find(|name| overlap(&base.join(&***name), &place))?;
        Some(format!("runtime_directory: \"{name}\" is, holds, or is in the daemon's own \"{own}\""))
    })
}
