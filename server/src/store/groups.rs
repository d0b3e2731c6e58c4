//! Groups, keys and settings.

use super::{missing, refused, Error, Row, Tx};
use crate::args;
pub use crate::model::identity::Key;

const KEY: &str = "SELECT id, secret, grp, host, bound_sn, auto_accept, created, revoked FROM keys";

fn key_of(row: &Row) -> Key {
    Key {
        id: row.text(0),
        secret: row.text(1),
        group: row.text(2),
        host: row.maybe_text(3),
        bound_sn: row.maybe_text(4),
        auto_accept: row.int(5) != 0,
        created: row.int(6),
        revoked: row.maybe_int(7),
    }
}

/// A group and its settings.
#[derive(Clone, Debug)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// Seconds of silence after which a host counts as lost.
    pub lost_after: i64,
    /// Seconds of silence after which a host is retired.
    pub retire_after: Option<i64>,
    /// Whether a host that came back as another machine takes the old one's place by itself.
    pub replace_auto: bool,
    /// Whether hosts without an `sn` are taken.
    pub allow_unidentified: bool,
    /// The name of the time zone of its windows.
    pub zone: String,
    /// When jobs may be offered; without one, always.
    pub window: Option<String>,
}

impl Group {
    /// The settings, as `group set` takes them.
    pub fn told(&self) -> String {
        let retire = self.retire_after.map_or("never".to_string(), |after| after.to_string());
        let (replace, window) =
            (if self.replace_auto { "auto" } else { "ask" }, self.window.as_deref().unwrap_or("always"));
        format!(
            "lost_after={} retire_after={retire} replace={replace} allow_unidentified={} zone={} window={window:?}",
            self.lost_after, self.allow_unidentified, self.zone
        )
    }
}

const GROUP: &str =
    "SELECT name, lost_after, retire_after, replace_auto, allow_unidentified, zone, windows FROM groups";

fn group_of(row: &Row) -> Group {
    Group {
        name: row.text(0),
        lost_after: row.int(1),
        retire_after: row.maybe_int(2),
        replace_auto: row.int(3) != 0,
        allow_unidentified: row.int(4) != 0,
        zone: row.text(5),
        window: row.maybe_text(6),
    }
}

/// Makes a group unless it is there; tells whether it was made.
///
/// # Errors
/// What the engine says, or that the name will not do.
pub fn make(tx: &mut dyn Tx, name: &str, now: i64) -> Result<bool, Error> {
    if !crate::model::release::is_name(name) {
        return refused(format!("group \"{name}\": want 1 to 50 of A-Z a-z 0-9 _ -"));
    }
    let made = tx.run("INSERT INTO groups (name, created) VALUES (?1, ?2) ON CONFLICT DO NOTHING", args![name, now])?;
    Ok(made > 0)
}

/// All groups, by name.
///
/// # Errors
/// What the engine says.
pub fn list(tx: &mut dyn Tx) -> Result<Vec<Group>, Error> {
    Ok(tx.rows(&format!("{GROUP} ORDER BY name"), &[])?.iter().map(group_of).collect())
}

/// All groups, by name, each with how many hosts it has.
///
/// # Errors
/// What the engine says.
pub fn list_counted(tx: &mut dyn Tx) -> Result<Vec<(Group, i64)>, Error> {
    let mut groups = Vec::new();
    for group in list(tx)? {
        let hosts = tx.number("SELECT count(*) FROM hosts WHERE grp = ?1", args![&group.name])?;
        groups.push((group, hosts));
    }
    Ok(groups)
}

/// One group, where it is there.
///
/// # Errors
/// What the engine says.
pub fn find(tx: &mut dyn Tx, name: &str) -> Result<Option<Group>, Error> {
    Ok(tx.row(&format!("{GROUP} WHERE name = ?1"), args![name])?.as_ref().map(group_of))
}

/// One group.
///
/// # Errors
/// What the engine says, or that there is none.
pub fn get(tx: &mut dyn Tx, name: &str) -> Result<Group, Error> {
    match find(tx, name)? {
        Some(group) => Ok(group),
        None => missing(format!("there is no group \"{name}\": bootserver group new {name}")),
    }
}

/// Keeps changed settings.
///
/// # Errors
/// What the engine says.
pub fn set(tx: &mut dyn Tx, group: &Group) -> Result<(), Error> {
    let sql = "UPDATE groups SET lost_after = ?2, retire_after = ?3, replace_auto = ?4, allow_unidentified = ?5, \
        zone = ?6, windows = ?7 WHERE name = ?1";
    let Group { name, lost_after, retire_after, replace_auto, allow_unidentified, zone, window } = group;
    let (lost_after, retire_after, window) = (*lost_after, *retire_after, window.as_deref());
    tx.run(sql, args![name, lost_after, retire_after, *replace_auto, *allow_unidentified, zone, window])?;
    Ok(())
}

/// Keeps a new key.
///
/// # Errors
/// What the engine says.
pub fn add_key(tx: &mut dyn Tx, key: &Key) -> Result<(), Error> {
    let sql = "INSERT INTO keys (id, secret, grp, host, auto_accept, created) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    let host = key.host.as_deref();
    tx.run(sql, args![&key.id, &key.secret, &key.group, host, key.auto_accept, key.created])?;
    Ok(())
}

/// All keys, newest first, each with how many hosts hang on it. Retired ones do not.
///
/// # Errors
/// What the engine says.
pub fn keys(tx: &mut dyn Tx) -> Result<Vec<(Key, i64)>, Error> {
    let mut keys = Vec::new();
    for row in tx.rows(&format!("{KEY} ORDER BY created DESC, id"), &[])? {
        let key = key_of(&row);
        let hosts = hosts_of_key(tx, &key.id)?;
        keys.push((key, hosts));
    }
    Ok(keys)
}

fn hosts_of_key(tx: &mut dyn Tx, id: &str) -> Result<i64, Error> {
    tx.number("SELECT count(*) FROM hosts WHERE key = ?1 AND state <> 'retired'", args![id])
}

/// One key.
///
/// # Errors
/// What the engine says.
pub fn key(tx: &mut dyn Tx, id: &str) -> Result<Option<Key>, Error> {
    Ok(tx.row(&format!("{KEY} WHERE id = ?1"), args![id])?.as_ref().map(key_of))
}

/// The keys to try for a request that does not say which key signed it: the host's own, else those of groups.
///
/// # Errors
/// What the engine says.
pub fn candidates(tx: &mut dyn Tx, sn: &str) -> Result<Vec<Key>, Error> {
    let own = format!("{KEY} WHERE revoked IS NULL AND id = (SELECT key FROM hosts WHERE sn = ?1)");
    let mut keys: Vec<Key> = tx.rows(&own, args![sn])?.iter().map(key_of).collect();
    let groups = format!("{KEY} WHERE revoked IS NULL ORDER BY host IS NOT NULL, created DESC LIMIT 16");
    keys.extend(tx.rows(&groups, &[])?.iter().map(key_of));
    Ok(keys)
}

/// Binds a key made for one host to the first `sn` that uses it.
///
/// # Errors
/// What the engine says.
pub fn bind_key(tx: &mut dyn Tx, id: &str, sn: &str) -> Result<(), Error> {
    tx.run("UPDATE keys SET bound_sn = ?2 WHERE id = ?1 AND bound_sn IS NULL", args![id, sn])?;
    Ok(())
}

/// Revokes a key and tells how many hosts hang on it.
///
/// # Errors
/// What the engine says, or that there is no such key.
pub fn revoke(tx: &mut dyn Tx, id: &str, now: i64) -> Result<i64, Error> {
    if tx.run("UPDATE keys SET revoked = ?2 WHERE id = ?1 AND revoked IS NULL", args![id, now])? == 0 {
        return missing(format!("there is no key \"{id}\" that is not revoked"));
    }
    hosts_of_key(tx, id)
}

/// A setting of the server.
///
/// # Errors
/// What the engine says.
pub fn setting(tx: &mut dyn Tx, name: &str) -> Result<Option<String>, Error> {
    Ok(tx.row("SELECT value FROM settings WHERE name = ?1", args![name])?.map(|row| row.text(0)))
}

/// Keeps a setting of the server.
///
/// # Errors
/// What the engine says.
pub fn keep(tx: &mut dyn Tx, name: &str, value: &str) -> Result<(), Error> {
    let sql = "INSERT INTO settings (name, value) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = ?2";
    tx.run(sql, args![name, value])?;
    Ok(())
}
