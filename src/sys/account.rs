//! Users and groups: who this process is, and what passwd(5) and group(5) say.
//!
//! The two files are read here, and not by the C library: that might ask a server or wait for a name service, which the
//! daemon's loop must not, and what it returns would depend on how this program is linked. Without the file there are no
//! users or groups; a line that is no account is skipped.

use std::io;
use std::path::Path;

use crate::kernel::{Gid, Uid};

const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";

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
///
/// # Errors
/// When /etc/passwd exists and cannot be read.
pub fn user_by_name(name: &str) -> io::Result<Option<User>> {
    find_user(&|account| account.name == name)
}

/// The (first) user with this id; `None` when there is none.
///
/// # Errors
/// When /etc/passwd exists and cannot be read.
pub fn user_by_id(uid: Uid) -> io::Result<Option<User>> {
    find_user(&|account| account.id == uid.0)
}

/// All names that the user with this id has.
///
/// # Errors
/// When /etc/passwd exists and cannot be read.
pub fn names_of(uid: Uid) -> io::Result<Vec<String>> {
    let text = text_of(PASSWD)?;
    let names = accounts(&text).filter(|account| account.id == uid.0).map(|account| account.name.to_string());
    Ok(names.collect())
}

/// The id of the group called `name`; `None` when there is none.
///
/// # Errors
/// When /etc/group exists and cannot be read.
pub fn group_by_name(name: &str) -> io::Result<Option<Gid>> {
    let text = text_of(GROUP)?;
    let group = accounts(&text).find(|account| account.name == name);
    Ok(group.map(|group| Gid(group.id)))
}

/// Every group that the user called `name` is in, `primary` among them.
///
/// # Errors
/// When /etc/group exists and cannot be read.
pub fn groups_of(name: &str, primary: Gid) -> io::Result<Vec<Gid>> {
    let mut groups = vec![primary];
    for Account { id, fields: [members, ..], .. } in accounts(&text_of(GROUP)?) {
        if !groups.contains(&Gid(id)) && members.split(',').any(|member| member == name) {
            groups.push(Gid(id));
        }
    }
    Ok(groups)
}

/// The ids of all users and groups that have a name, and of the users' primary groups.
///
/// # Errors
/// When /etc/passwd or /etc/group exists and cannot be read.
pub fn all_ids() -> io::Result<Vec<u32>> {
    let mut ids = Vec::new();
    for Account { id, fields: [gid, ..], .. } in accounts(&text_of(PASSWD)?) {
        ids.push(id);
        ids.extend(number(gid));
    }
    ids.extend(accounts(&text_of(GROUP)?).map(|account| account.id));
    Ok(ids)
}

/// The ranges of ids that users have for their containers, subuid(5) and subgid(5): the first id and how many.
///
/// # Errors
/// When one of the files exists and cannot be read.
pub fn granted_ids() -> io::Result<Vec<(u32, u32)>> {
    let mut granted = Vec::new();
    for path in ["/etc/subuid", "/etc/subgid"] {
        granted.extend(text_of(path)?.lines().filter_map(grant));
    }
    Ok(granted)
}

/// One line of subuid(5): `user:first:count`.
fn grant(line: &str) -> Option<(u32, u32)> {
    let mut fields = line.split(':').skip(1);
    Some((number(fields.next()?)?, number(fields.next()?.trim_end())?))
}

/// The ranges of ids that exist in this user namespace, as `map` in /proc/self says (`uid_map` or `gid_map`): the first id
/// and how many. All ids, where the kernel has no such namespaces or there is no /proc.
pub fn mapped_ids(map: &str) -> Vec<(u32, u32)> {
    match super::file::read_text(&Path::new("/proc/self").join(map)) {
        Ok(text) => text.lines().filter_map(mapped).collect(),
        Err(_) => vec![(0, u32::MAX)],
    }
}

/// One line of a map, user_namespaces(7): inside, outside, count.
fn mapped(line: &str) -> Option<(u32, u32)> {
    let mut words = line.split_ascii_whitespace();
    let (first, _outside, count) = (words.next()?, words.next()?, words.next()?);
    Some((number(first)?, number(count)?))
}

/// The first of these accounts that has a group too.
fn find_user(is_it: &dyn Fn(&Account) -> bool) -> io::Result<Option<User>> {
    for account in accounts(&text_of(PASSWD)?).filter(is_it) {
        let [gid, _, home, shell] = account.fields;
        if let Some(gid) = number(gid).map(Gid) {
            let [name, home, shell] = [account.name, home, shell].map(String::from);
            return Ok(Some(User { name, uid: Uid(account.id), gid, home, shell }));
        }
    }
    Ok(None)
}

/// The content of one of these files; empty where there is none.
fn text_of(path: &str) -> io::Result<String> {
    match super::file::read_text(Path::new(path)) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => Ok(String::new()),
        read => read,
    }
}

/// A number of digits only: `parse` alone would take a sign.
fn number(text: &str) -> Option<u32> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// One line of passwd(5) or group(5).
struct Account<'a> {
    name: &'a str,
    id: u32,
    /// The four fields behind the id; those that are missing are empty.
    fields: [&'a str; 4],
}

/// The accounts in a text, without lines that are none.
fn accounts(text: &str) -> impl Iterator<Item = Account<'_>> {
    text.lines().filter_map(account)
}

/// A line without a name or a numeric id is no account, and one that begins with "+" or "-" says what a name service adds or
/// leaves out.
fn account(line: &str) -> Option<Account<'_>> {
    let mut fields = line.split(':');
    let (name, _password, id) = (fields.next()?, fields.next()?, number(fields.next()?)?);
    let is_name = !name.is_empty() && !name.starts_with(['+', '-']);
    is_name.then(|| Account { name, id, fields: std::array::from_fn(|_| fields.next().unwrap_or("")) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_known_both_ways() {
        let root = user_by_name("root").unwrap().unwrap();
        assert_eq!((root.uid, root.gid), (Uid(0), Gid(0)));
        assert_eq!(user_by_id(Uid(0)).unwrap(), Some(root));
        assert!(names_of(Uid(0)).unwrap().contains(&"root".to_string()));
        assert_eq!(group_by_name("root").unwrap(), Some(Gid(0)));
    }

    #[test]
    fn unknown_names_and_ids_are_none() {
        for name in ["no-such-user", "", "0", "+", "a\0b"] {
            assert_eq!(user_by_name(name).unwrap(), None, "{name}");
            assert_eq!(group_by_name(name).unwrap(), None, "{name}");
        }
        assert_eq!(user_by_id(Uid(3_999_999_999)).unwrap(), None);
    }

    #[test]
    fn the_primary_group_is_always_listed() {
        assert!(groups_of("root", Gid(0)).unwrap().contains(&Gid(0)));
        assert_eq!(groups_of("no-such-user", Gid(4711)).unwrap(), vec![Gid(4711)]);
    }

    #[test]
    fn ranges_of_ids_are_read() {
        for (line, want) in [
            ("web:100000:65536", Some((100_000, 65_536))),
            ("1000:1:2 ", Some((1, 2))),
            ("web:100000", None),
            ("web:x:1", None),
            ("", None),
        ] {
            assert_eq!(grant(line), want, "{line}");
        }
        for (line, want) in [
            ("         0          0 4294967295", Some((0, u32::MAX))),
            ("0 1000 1", Some((0, 1))),
            ("0 1000", None),
            ("", None),
        ] {
            assert_eq!(mapped(line), want, "{line}");
        }
        assert!(all_ids().unwrap().contains(&0) && !mapped_ids("uid_map").is_empty());
        granted_ids().unwrap();
    }

    #[test]
    fn lines_that_are_no_accounts_are_skipped() {
        let text = "root:x:0:0:root:/root:/bin/sh\n\n+\n+::::::\n:x:1:1::/:\nx\nx:x\nx:x:\nx:x:-1:2\nx:x:0x:2\nx:x:+0:2\n+x:x:5:2\n-x:x:5:2\nx:x:4294967296:2\n\
                    short:x:7\nwww:*:33:33:a,b::/bin/true:more\nlast:x:8:9:\nafter:x:1:1";
        let mut found = Vec::new();
        for account in accounts(text) {
            found.push((account.name.to_string(), account.id, account.fields.join("|")));
        }
        let want = [
            ("root", 0, "0|root|/root|/bin/sh"),
            ("short", 7, "|||"),
            ("www", 33, "33|a,b||/bin/true"),
            ("last", 8, "9|||"),
            ("after", 1, "1|||"),
        ];
        assert_eq!(found, want.map(|(name, id, rest)| (name.to_string(), id, rest.to_string())));
    }
}
