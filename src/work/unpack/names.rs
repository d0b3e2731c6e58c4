//! Names in an archive: where a member is placed, and where a symbolic link leads.
//!
//! Bytes of a header come in, and a path below the root or the reason to refuse it goes out. No file is touched here.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The name as a path below the root, without `.` and doubled slashes; empty for the root itself.
///
/// # Errors
/// When the name is absolute, leads upwards or has control characters; the text follows the name of the member.
pub fn relative(name: &[u8]) -> Result<PathBuf, &'static str> {
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

/// The lowest depth below the root on the way to the target of the symbolic link `name`: 0 is the root itself.
///
/// `..` is allowed only at the front of the target: behind a name, that name could be a link that leads elsewhere.
///
/// # Errors
/// When the target is absolute, empty, outside of the root, or has control characters; the text follows the name of the
/// member.
pub fn lowest(name: &Path, target: &[u8]) -> Result<usize, &'static str> {
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
