//! A copy of the running binary that helpers can execute and cannot read. From exec(2) on, the kernel lets no process trace
//! one that executes such a file, not even another process of the same user. A process that executes a readable file can be
//! traced until it forbids that itself.
//!
//! The copy belongs to root and has mode 0111. It is in its own directory, which is closed to all others, and is executed by
//! its descriptor. A copy in `state_dir` stays there, and is made again only when it differs from the running binary.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use crate::error::Error;
use crate::host::disk::{reason, TEMPORARY};
use crate::sys::file::{make_directory, open_nofollow};
use crate::sys::image::{is_noexec, memory_file};

/// The directory of the copy, below `state_dir` or `run_dir`.
const DIRECTORY: &str = "bin";

/// The name of the copy in it.
const NAME: &str = "helper";

/// The mode of the copy: everybody may execute it, and nothing else.
const MODE: u32 = 0o111;

/// Bytes that are copied or compared at a time: few calls for the daemon's own binary, in memory that returns to the kernel.
const PART: usize = 64 << 10;

/// A copy of `own` in the first of these directories where that is possible, else in memory.
///
/// # Errors
/// When it is possible in none of them; the message has the reason for each.
pub fn unreadable_copy(own: &File, places: &[&Path]) -> Result<File, Error> {
    let mut why = String::new();
    for place in places {
        match copy_in(own, place) {
            Ok(file) => return Ok(file),
            Err(reason) => why += &format!("\"{}\": {reason}; ", place.display()),
        }
    }
    in_memory(own).map_err(|error| format_error!("{why}memory: {}", reason(&error)))
}

/// Checks without making a copy whether `unreadable_copy` is possible, for `check`.
///
/// # Errors
/// As `unreadable_copy`, as far as that is known without making the copy.
pub fn can_be_copied(places: &[&Path]) -> Result<(), Error> {
    let mut why = String::new();
    for place in places {
        // The daemon makes the directories that do not exist yet.
        let existing = place.ancestors().find(|above| above.exists()).unwrap_or(Path::new("/"));
        match may_execute(existing) {
            Ok(()) => return Ok(()),
            Err(reason) => why += &format!("\"{}\": {reason}; ", place.display()),
        }
    }
    memory_file().map(drop).map_err(|error| format_error!("{why}memory: {}", reason(&error)))
}

/// Removes the copy from one of the directories, if there is one.
pub fn remove(place: &Path) {
    let dir = place.join(DIRECTORY);
    let _ = fs::remove_file(dir.join(NAME));
    let _ = fs::remove_dir(dir);
}

fn may_execute(dir: &Path) -> Result<(), Error> {
    match is_noexec(dir) {
        Ok(false) => Ok(()),
        Ok(true) => Err("is mounted noexec".into()),
        Err(error) => Err(reason(&error)),
    }
}

fn copy_in(own: &File, place: &Path) -> Result<File, Error> {
    may_execute(place)?;
    let dir = place.join(DIRECTORY);
    make_directory(&dir, 0o700).map_err(|error| reason(&error))?;
    let path = dir.join(NAME);
    let open = || open_nofollow(&path, OpenOptions::new().read(true), 0);
    if let Ok(copy) = open() {
        if is_unreadable(&copy).unwrap_or(false) && is_same(own, &copy).unwrap_or(false) {
            return Ok(copy);
        }
    }
    let temporary = dir.join([NAME, TEMPORARY].concat());
    let _ = fs::remove_file(&temporary);
    let mut options = OpenOptions::new();
    let made = options.write(true).create_new(true).mode(0o600).open(&temporary).and_then(|file| {
        copy(own, &file)?;
        let inode = file.metadata()?.ino();
        file.set_permissions(Permissions::from_mode(MODE))?;
        // The kernel does not execute a file that is open for writing.
        drop(file);
        fs::rename(&temporary, &path)?;
        let copy = open()?;
        match is_unreadable(&copy)? && copy.metadata()?.ino() == inode {
            true => Ok(copy),
            // The file system has no modes, or does not enforce them.
            false => Err(io::Error::other("files there can be read by everybody")),
        }
    });
    made.map_err(|error| {
        let _ = fs::remove_file(&temporary);
        remove(place);
        reason(&error)
    })
}

fn in_memory(own: &File) -> io::Result<File> {
    let file = memory_file()?;
    copy(own, &file)?;
    file.set_permissions(Permissions::from_mode(MODE))?;
    Ok(file)
}

/// Whether a file belongs to root, and others can do nothing but execute it.
fn is_unreadable(file: &File) -> io::Result<bool> {
    let metadata = file.metadata()?;
    Ok(metadata.is_file() && metadata.uid() == 0 && metadata.mode() & 0o7777 == MODE && metadata.nlink() == 1)
}

fn copy(mut from: &File, mut to: &File) -> io::Result<()> {
    let mut part = vec![0; PART];
    from.seek(SeekFrom::Start(0))?;
    loop {
        match fill(from, &mut part)? {
            0 => return Ok(()),
            count => to.write_all(&part[..count])?,
        }
    }
}

fn is_same(mut one: &File, mut other: &File) -> io::Result<bool> {
    if one.metadata()?.len() != other.metadata()?.len() {
        return Ok(false);
    }
    one.seek(SeekFrom::Start(0))?;
    other.seek(SeekFrom::Start(0))?;
    let (mut left, mut right) = (vec![0; PART], vec![0; PART]);
    loop {
        let (left_count, right_count) = (fill(one, &mut left)?, fill(other, &mut right)?);
        if left[..left_count] != right[..right_count] {
            return Ok(false);
        }
        if left_count == 0 {
            return Ok(true);
        }
    }
}

/// Reads until `part` is full or the file ends.
fn fill(mut file: &File, part: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < part.len() {
        match file.read(&mut part[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_unreadable_and_kept_as_long_as_it_is_the_same() {
        if crate::sys::account::own_uid().0 != 0 {
            crate::skip::skipped("root");
            return;
        }
        let dir = std::env::temp_dir().join(format!("bootagent-image-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        let own = dir.join("own");
        let write = |content: &[u8]| {
            fs::write(&own, content).unwrap();
            File::open(&own).unwrap()
        };
        let place = dir.join(DIRECTORY).join(NAME);
        let number = || fs::metadata(&place).unwrap().ino();
        let first = write(&[7; 3 * PART + 5]);
        let copy = unreadable_copy(&first, &[Path::new("/no/such/place"), &dir]).unwrap();
        assert!(is_unreadable(&copy).unwrap() && is_same(&first, &copy).unwrap());
        let made = number();
        unreadable_copy(&first, &[&dir]).unwrap();
        assert_eq!(number(), made, "it was made again");
        for spoil in [0o755, 0o4111] {
            fs::set_permissions(&place, Permissions::from_mode(spoil)).unwrap();
            assert!(is_unreadable(&unreadable_copy(&first, &[&dir]).unwrap()).unwrap(), "{spoil:o}");
            assert_eq!(fs::metadata(&place).unwrap().mode() & 0o7777, MODE, "{spoil:o}");
        }
        for content in [vec![8; 3 * PART + 5], vec![8; 10]] {
            let next = write(&content);
            assert!(is_same(&next, &unreadable_copy(&next, &[&dir]).unwrap()).unwrap());
        }
        remove(&dir);
        assert!(!place.parent().unwrap().exists());
        unreadable_copy(&first, &[&dir]).unwrap();
        fs::remove_file(&place).unwrap();
        // A link in its place is not followed, and replaced.
        std::os::unix::fs::symlink(&own, &place).unwrap();
        let file = write(b"x");
        assert!(is_same(&file, &unreadable_copy(&file, &[&dir]).unwrap()).unwrap());
        assert!(fs::symlink_metadata(&place).unwrap().is_file() && fs::metadata(&own).unwrap().mode() & 0o444 != 0);
        assert!(is_same(&file, &unreadable_copy(&file, &[Path::new("/no/such/place")]).unwrap()).unwrap(), "in memory");
        fs::remove_dir_all(dir).unwrap();
    }
}
