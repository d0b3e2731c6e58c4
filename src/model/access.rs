//! Who besides root can write a file or a directory, by its owner, its mode and its access control lists.
//!
//! The configuration decides what runs as root, so that whoever can write it, or put another file in its place, is as good
//! as root. The group root counts as root. What the kernel says about the file comes in as `Access`; a `Writer`, with the
//! command that takes the permission away, comes out. Reading the file's attributes is the caller's part.

/// What a file or directory is used for, which decides what a writer could do with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A file that is read.
    File,
    /// A directory of which every file is read: even somebody who can only add files to it counts.
    Listed,
    /// The directory of a file that is read. With the sticky bit, as /tmp has it, nobody else can replace root's files in
    /// it.
    Near,
    /// A directory further up in the path.
    Above,
}

/// What the kernel says about a file or directory.
#[derive(Clone, Copy, Debug, Default)]
pub struct Access<'a> {
    /// Its permission bits.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its access control list, the value of the attribute `system.posix_acl_access`, acl(5).
    pub acl: Option<&'a [u8]>,
    /// The list that new files in this directory get, the value of `system.posix_acl_default`.
    pub default_acl: Option<&'a [u8]>,
}

/// Somebody who is not root and can write there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Writer {
    /// Who can write, and why, as a sentence about "it".
    pub why: String,
    /// The command that takes the permission away; the path follows it.
    pub cure: &'static str,
    /// Whether only the group of the file or directory gives the permission.
    pub by_group: bool,
}

impl Writer {
    fn new(why: String, cure: &'static str) -> Option<Writer> {
        Some(Writer { why, cure, by_group: false })
    }
}

/// The first user or group found that can write there and is not root; `None` if there is none.
pub fn writer(access: &Access<'_>, place: Place) -> Option<Writer> {
    let Access { uid, gid, .. } = *access;
    let bits = access.mode & 0o7777;
    if uid != 0 {
        return Writer::new(format!("it belongs to user {uid}"), "chown root");
    }
    // With the sticky bit others can only add files of their own, and a file that belongs to them is refused by itself.
    let sticky = matches!(place, Place::Near | Place::Above) && bits & 0o1000 != 0;
    if bits & 0o002 != 0 && !sticky {
        return Writer::new(format!("others can write it (mode {bits:04o})"), "chmod o-w");
    }
    let list = access.acl.map(entries);
    if list.is_none() && bits & 0o020 != 0 && gid != 0 && !sticky {
        let why = format!("group {gid} can write it (mode {bits:04o})");
        return Some(Writer { why, cure: "chmod g-w", by_group: true });
    }
    if let Some(list) = list.filter(|_| !sticky) {
        let Some(list) = list else {
            return Writer::new("it has an access control list that cannot be read".into(), "setfacl -b");
        };
        if let Some(who) = granted(&list, gid) {
            return Writer::new(format!("{who} can write it, by its access control list"), "setfacl -b");
        }
    }
    if let Some(list) = access.default_acl.map(entries) {
        let who = match &list {
            None => "an unknown user".into(),
            Some(list) if list.iter().any(|entry| entry.tag == OTHER && entry.write) => "others".into(),
            Some(list) => granted(list, 0)?,
        };
        let why = format!("{who} could write new files in it, by its default access control list");
        return Writer::new(why, "setfacl -k");
    }
    None
}

const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// One entry of an access control list.
struct Entry {
    tag: u16,
    write: bool,
    id: u32,
}

/// The entries of a list: after its version each has a tag, permissions and an id, little-endian. `None` if it is no
/// valid list.
fn entries(list: &[u8]) -> Option<Vec<Entry>> {
    let rest = list.strip_prefix(&[2, 0, 0, 0])?;
    if rest.len() % 8 != 0 {
        return None;
    }
    let entry = |bytes: &[u8]| Entry {
        tag: u16::from_le_bytes([bytes[0], bytes[1]]),
        write: bytes[2] & 2 != 0,
        id: u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
    };
    Some(rest.chunks_exact(8).map(entry).collect())
}

/// Who besides root may write according to this list, within its mask; `gid` is the group of the file. The permissions of
/// all others are not looked at, as they are also in the mode.
fn granted(list: &[Entry], gid: u32) -> Option<String> {
    if list.iter().any(|entry| entry.tag == MASK && !entry.write) {
        return None;
    }
    list.iter().filter(|entry| entry.write).find_map(|entry| match entry.tag {
        USER if entry.id != 0 => Some(format!("user {}", entry.id)),
        GROUP if entry.id != 0 => Some(format!("group {}", entry.id)),
        GROUP_OBJ if gid != 0 => Some(format!("group {gid}")),
        _ => None,
    })
}

/// Whether a user id is mapped in this user namespace, by its uid_map, user_namespaces(7). An id that is not stands for
/// any user outside the namespace, which may be root there.
pub fn is_mapped(uid_map: &str, uid: u32) -> bool {
    uid_map.lines().any(|line| {
        let mut numbers = line.split_ascii_whitespace().map(|number| number.parse::<u64>().unwrap_or(0));
        let (first, _, count) = (numbers.next().unwrap_or(0), numbers.next(), numbers.next().unwrap_or(0));
        (first..first.saturating_add(count)).contains(&uid.into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: u32 = u32::MAX;

    fn list(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let mut bytes = vec![2, 0, 0, 0];
        for (tag, permissions, id) in entries {
            bytes.extend(tag.to_le_bytes());
            bytes.extend(permissions.to_le_bytes());
            bytes.extend(id.to_le_bytes());
        }
        bytes
    }

    /// A list with entries for the owner, the group, the mask and the others, and one more entry.
    fn with(group: u16, mask: u16, entry: (u16, u16, u32)) -> Vec<u8> {
        list(&[(1, 6, NONE), entry, (GROUP_OBJ, group, NONE), (MASK, mask, NONE), (OTHER, 4, NONE)])
    }

    fn check(got: Option<Writer>, want: Option<&str>, what: &dyn std::fmt::Debug) {
        match (&got, want) {
            (None, None) => {}
            (Some(got), Some(want)) if format!("{}: {}", got.why, got.cure).contains(want) => {}
            _ => panic!("{what:?}: got {got:?}, want {want:?}"),
        }
    }

    #[test]
    fn owner_and_mode_say_who_can_write() {
        use Place::{Above, File, Listed, Near};
        for (mode, uid, gid, place, want) in [
            (0o644, 0, 0, File, None),
            (0o664, 0, 0, File, None),
            (0o664, 0, 5, File, Some("group 5 can write it (mode 0664): chmod g-w")),
            (0o646, 0, 0, File, Some("others can write it (mode 0646): chmod o-w")),
            (0o1646, 0, 0, File, Some("others")),
            (0o1664, 0, 5, File, Some("group 5")),
            (0o400, 5, 0, File, Some("it belongs to user 5: chown root")),
            (0o755, 0, 0, Listed, None),
            (0o777, 0, 0, Listed, Some("others")),
            (0o1777, 0, 0, Listed, Some("others")),
            (0o775, 0, 5, Listed, Some("group 5")),
            (0o755, 5, 0, Listed, Some("user 5")),
            (0o1777, 0, 0, Near, None),
            (0o777, 0, 0, Near, Some("others")),
            (0o777, 0, 0, Above, Some("others")),
            (0o1777, 0, 0, Above, None),
            (0o1777, 5, 0, Above, Some("user 5")),
            (0o775, 0, 5, Above, Some("group 5")),
            (0o1775, 0, 5, Above, None),
            (0o775, 0, 0, Above, None),
            (0o700, 5, 5, Above, Some("user 5")),
        ] {
            check(writer(&Access { mode, uid, gid, ..Access::default() }, place), want, &(mode, uid, gid, place));
        }
    }

    #[test]
    fn access_control_lists_say_who_else_can_write() {
        let named = |id| (USER, 6, id);
        for (what, acl, gid, want) in [
            ("a user", with(4, 6, named(7)), 0, Some("user 7 can write it, by its access control list: setfacl -b")),
            ("root", with(4, 6, named(0)), 0, None),
            ("a user who may only read", with(4, 6, (USER, 5, 7)), 0, None),
            ("a user whom the mask keeps out", with(4, 4, named(7)), 0, None),
            ("a group", with(4, 6, (GROUP, 2, 8)), 0, Some("group 8")),
            ("the group root", with(4, 6, (GROUP, 6, 0)), 0, None),
            ("the file's group", with(6, 6, (USER, 4, 7)), 9, Some("group 9")),
            ("the file's group, root", with(6, 6, (USER, 4, 7)), 0, None),
            ("the file's group, which the mask keeps out", with(6, 4, (USER, 4, 7)), 9, None),
            ("the mask alone", with(4, 6, (USER, 4, 7)), 9, None),
            ("a list without a mask", list(&[(USER, 2, 7)]), 0, Some("user 7")),
            ("a user from outside this user namespace", with(4, 6, named(NONE)), 0, Some("user 4294967295")),
            ("nobody", list(&[]), 0, None),
            ("nothing", Vec::new(), 0, Some("cannot be read")),
            ("another version", vec![3, 0, 0, 0], 0, Some("cannot be read")),
            ("a part of an entry", vec![2, 0, 0, 0, 2, 0, 2], 0, Some("cannot be read")),
        ] {
            // With an access control list the group bits of the mode are the list's mask.
            let access = Access { mode: 0o664, uid: 0, gid, acl: Some(&acl), default_acl: None };
            check(writer(&access, Place::File), want, &what);
            check(writer(&access, Place::Above), want, &what);
            check(writer(&Access { mode: 0o1777, ..access }, Place::Above), None, &what);
        }
    }

    #[test]
    fn default_access_control_lists_say_who_could_write_new_files() {
        for (what, default_acl, want) in [
            ("a user", with(5, 7, (USER, 7, 7)), Some("user 7 could write new files in it")),
            ("a group", with(5, 7, (GROUP, 7, 7)), Some("group 7 could write new files in it")),
            ("a user whom the mask keeps out", with(5, 5, (USER, 7, 7)), None),
            ("a user who may only read", with(7, 7, (USER, 5, 7)), None),
            ("others", list(&[(1, 7, NONE), (GROUP_OBJ, 5, NONE), (OTHER, 7, NONE)]), Some("others could write")),
            ("nothing", Vec::new(), Some("setfacl -k")),
        ] {
            let access = Access { mode: 0o755, default_acl: Some(&default_acl), ..Access::default() };
            check(writer(&access, Place::Listed), want, &what);
        }
    }

    #[test]
    fn a_user_id_is_mapped_or_from_outside_the_namespace() {
        for (map, uid, want) in [
            ("         0          0 4294967295\n", 65534, true),
            ("         0       1000          1\n", 65534, false),
            ("0 1000 1\n1 100000 65536\n", 65534, true),
            ("0 1000 1\n1 100000 65533\n", 65534, false),
            ("", 0, false),
            ("x", 0, false),
        ] {
            assert_eq!(is_mapped(map, uid), want, "{map:?}");
        }
    }
}
