//! A copy of this program that its users can execute and not read. The kernel lets nobody trace a process of such a program
//! from exec(2) on, not even another process of the same user; whoever executes a program that can be read can be traced
//! until it closes itself.
//!
//! The copy is root's, of mode 0111, in a directory of its own that is closed to all others: it is executed by its
//! descriptor. In `state_dir` it is left there, and made anew only when it is not what runs.

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

/// What everybody may do with it: execute it.
const MODE: u32 = 0o111;

/// Bytes that are copied or compared at a time.
const PART: usize = 16 << 10;

/// A copy of `own`, in the first of the directories where that can be, else in memory.
///
/// # Errors
/// Why it can be nowhere, place by place.
pub fn closed_copy(own: &File, places: &[&Path]) -> Result<File, Error> {
    let mut why = String::new();
    for place in places {
        match copy_in(own, place) {
            Ok(file) => return Ok(file),
            Err(reason) => why += &format!("\"{}\": {reason}; ", place.display()),
        }
    }
    in_memory(own).map_err(|error| format_error!("{why}memory: {}", reason(&error)))
}

/// Why there can be no copy, as far as can be told without making one; for `check`.
///
/// # Errors
/// As `closed_copy`.
pub fn can_be_copied(places: &[&Path]) -> Result<(), Error> {
    let mut why = String::new();
    for place in places {
        // What does not exist yet is made by the daemon.
        let there = place.ancestors().find(|above| above.exists()).unwrap_or(Path::new("/"));
        match may_execute(there) {
            Ok(()) => return Ok(()),
            Err(reason) => why += &format!("\"{}\": {reason}; ", place.display()),
        }
    }
    memory_file().map(drop).map_err(|error| format_error!("{why}memory: {}", reason(&error)))
}

/// Removes the copy from one of the directories, where there is one.
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
    if let Ok(there) = open() {
        if is_closed(&there).unwrap_or(false) && is_same(own, &there).unwrap_or(false) {
            return Ok(there);
        }
    }
    let temporary = dir.join([NAME, TEMPORARY].concat());
    let _ = fs::remove_file(&temporary);
    let mut options = OpenOptions::new();
    let made = options.write(true).create_new(true).mode(0o600).open(&temporary).and_then(|file| {
        copy(own, &file)?;
        let made = file.metadata()?.ino();
        file.set_permissions(Permissions::from_mode(MODE))?;
        // One that is open for writing is not executed.
        drop(file);
        fs::rename(&temporary, &path)?;
        let there = open()?;
        match is_closed(&there)? && there.metadata()?.ino() == made {
            true => Ok(there),
            // A file system without modes, or whose modes nobody heeds.
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

/// Whether a file is root's own, and nobody else can do anything but execute it.
fn is_closed(file: &File) -> io::Result<bool> {
    let found = file.metadata()?;
    Ok(found.is_file() && found.uid() == 0 && found.mode() & 0o7777 == MODE && found.nlink() == 1)
}

fn copy(mut from: &File, mut to: &File) -> io::Result<()> {
    let mut part = [0; PART];
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
    let (mut left, mut right) = ([0; PART], [0; PART]);
    loop {
        let (count, there) = (fill(one, &mut left)?, fill(other, &mut right)?);
        if left[..count] != right[..there] {
            return Ok(false);
        }
        if count == 0 {
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
    fn a_copy_is_closed_and_kept_as_long_as_it_is_the_same() {
        if crate::sys::account::own_uid().0 != 0 {
            println!("skipped: needs root");
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
        let copy = closed_copy(&first, &[Path::new("/no/such/place"), &dir]).unwrap();
        assert!(is_closed(&copy).unwrap() && is_same(&first, &copy).unwrap());
        let made = number();
        closed_copy(&first, &[&dir]).unwrap();
        assert_eq!(number(), made, "it was made anew");
        for spoil in [0o755, 0o4111] {
            fs::set_permissions(&place, Permissions::from_mode(spoil)).unwrap();
            assert!(is_closed(&closed_copy(&first, &[&dir]).unwrap()).unwrap(), "{spoil:o}");
            assert_eq!(fs::metadata(&place).unwrap().mode() & 0o7777, MODE, "{spoil:o}");
        }
        for content in [vec![8; 3 * PART + 5], vec![8; 10]] {
            let next = write(&content);
            assert!(is_same(&next, &closed_copy(&next, &[&dir]).unwrap()).unwrap());
        }
        remove(&dir);
        assert!(!place.parent().unwrap().exists());
        closed_copy(&first, &[&dir]).unwrap();
        fs::remove_file(&place).unwrap();
        // A link in its place is not followed, and replaced.
        std::os::unix::fs::symlink(&own, &place).unwrap();
        let file = write(b"x");
        assert!(is_same(&file, &closed_copy(&file, &[&dir]).unwrap()).unwrap());
        assert!(fs::symlink_metadata(&place).unwrap().is_file() && fs::metadata(&own).unwrap().mode() & 0o444 != 0);
        assert!(is_same(&file, &closed_copy(&file, &[Path::new("/no/such/place")]).unwrap()).unwrap(), "in memory");
        fs::remove_dir_all(dir).unwrap();
    }
}
