//! Users and groups: who this process is, and what /etc/passwd and /etc/group say (all that a static binary sees).

use std::ffi::{c_char, c_int, CStr, CString};
use std::io;
use std::ptr::null_mut;

use crate::kernel::{Gid, Uid};

/// One line of /etc/passwd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Login name.
    pub name: String,
    /// User id.
    pub uid: Uid,
    /// Primary group.
    pub gid: Gid,
    /// Home directory.
    pub home: String,
    /// Login shell; may be empty.
    pub shell: String,
}

/// Room for a line of /etc/group that lists thousands of members; a larger one is an error, not a missing group.
const LINE_MAX: usize = 1 << 20;

/// Groups one process can have, NGROUPS_MAX.
const GROUPS_MAX: usize = 65536;

/// The effective user of this process.
pub fn own_uid() -> Uid {
    // SAFETY: geteuid touches no memory and cannot fail.
    Uid(unsafe { libc::geteuid() })
}

/// The effective group of this process.
pub fn own_gid() -> Gid {
    // SAFETY: getegid touches no memory and cannot fail.
    Gid(unsafe { libc::getegid() })
}

/// The user called `name`; `None` when there is none.
pub fn user_by_name(name: &str) -> io::Result<Option<User>> {
    let name = CString::new(name)?;
    find_user(|entry, line, size, found| {
        // SAFETY: the name ends in a NUL, `line` has `size` bytes, and both results have room.
        unsafe { libc::getpwnam_r(name.as_ptr(), entry, line, size, found) }
    })
}

/// The (first) user with this id; `None` when there is none.
pub fn user_by_id(uid: Uid) -> io::Result<Option<User>> {
    find_user(|entry, line, size, found| {
        // SAFETY: `line` has `size` bytes, and both results have room.
        unsafe { libc::getpwuid_r(uid.0, entry, line, size, found) }
    })
}

/// The id of the group called `name`; `None` when there is none.
pub fn group_by_name(name: &str) -> io::Result<Option<Gid>> {
    let name = CString::new(name)?;
    // SAFETY: a group is a number and pointers, for which zeros are values.
    let mut entry: libc::group = unsafe { std::mem::zeroed() };
    let mut found = null_mut();
    with_room(|line, size| {
        // SAFETY: the name ends in a NUL, `line` has `size` bytes, and both results have room.
        unsafe { libc::getgrnam_r(name.as_ptr(), &mut entry, line, size, &mut found) }
    })?;
    Ok(if found.is_null() { None } else { Some(Gid(entry.gr_gid)) })
}

/// Every group that the user called `name` is in, `primary` among them.
pub fn groups_of(name: &str, primary: Gid) -> io::Result<Vec<Gid>> {
    let name = CString::new(name)?;
    let mut groups: Vec<libc::gid_t> = vec![0; 64];
    loop {
        let mut count = groups.len() as c_int;
        // SAFETY: the name ends in a NUL and `groups` has room for `count` ids, which is all the call writes.
        let result = unsafe { libc::getgrouplist(name.as_ptr(), primary.0, groups.as_mut_ptr(), &mut count) };
        let count = usize::try_from(count).unwrap_or(0);
        if result >= 0 {
            groups.truncate(count);
            return Ok(groups.into_iter().map(Gid).collect());
        }
        if groups.len() >= GROUPS_MAX {
            return Err(io::Error::last_os_error());
        }
        // Too few: the call says how many there are, in most libraries.
        let room = count.max(groups.len() * 2).min(GROUPS_MAX);
        groups.resize(room, 0);
    }
}

/// Runs one of the getpw*_r calls and copies what it found, which lies in the line buffer.
fn find_user(
    mut call: impl FnMut(*mut libc::passwd, *mut c_char, usize, *mut *mut libc::passwd) -> c_int,
) -> io::Result<Option<User>> {
    // SAFETY: a passwd is numbers and pointers, for which zeros are values.
    let mut entry: libc::passwd = unsafe { std::mem::zeroed() };
    let mut found = null_mut();
    let _line = with_room(|line, size| call(&mut entry, line, size, &mut found))?;
    if found.is_null() {
        return Ok(None);
    }
    // SAFETY: the entry was found, so its texts are strings in `_line`, which lives to the end of this function.
    let text = |text: *const c_char| unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned();
    Ok(Some(User {
        name: text(entry.pw_name),
        uid: Uid(entry.pw_uid),
        gid: Gid(entry.pw_gid),
        home: text(entry.pw_dir),
        shell: text(entry.pw_shell),
    }))
}

/// Runs `call` with ever more room for the line until it suffices, and returns that room.
fn with_room(mut call: impl FnMut(*mut c_char, usize) -> c_int) -> io::Result<Vec<c_char>> {
    let mut line: Vec<c_char> = vec![0; 1024];
    loop {
        match call(line.as_mut_ptr(), line.len()) {
            libc::ERANGE if line.len() < LINE_MAX => line.resize(line.len() * 2, 0),
            libc::EINTR => {}
            // No such entry, or no such file to look it up in: libraries differ in how they say it.
            0 | libc::ENOENT | libc::ESRCH | libc::ENOTDIR => return Ok(line),
            code => return Err(io::Error::from_raw_os_error(code)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_known_both_ways() {
        let root = user_by_name("root").unwrap().unwrap();
        assert_eq!((root.uid, root.gid), (Uid(0), Gid(0)));
        assert_eq!(user_by_id(Uid(0)).unwrap(), Some(root));
        assert_eq!(group_by_name("root").unwrap(), Some(Gid(0)));
    }

    #[test]
    fn nobody_is_invented() {
        for name in ["no-such-user", "", "0"] {
            assert_eq!(user_by_name(name).unwrap(), None, "{name}");
            assert_eq!(group_by_name(name).unwrap(), None, "{name}");
        }
        assert_eq!(user_by_id(Uid(3_999_999_999)).unwrap(), None);
        assert!(user_by_name("a\0b").is_err());
    }

    #[test]
    fn the_primary_group_is_always_listed() {
        assert!(groups_of("root", Gid(0)).unwrap().contains(&Gid(0)));
        assert_eq!(groups_of("no-such-user", Gid(4711)).unwrap(), vec![Gid(4711)]);
    }
}
