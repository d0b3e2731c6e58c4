//! Events and the audit trail.

use super::{Error, Tx};
use crate::args;

/// Something that happened to a host.
#[derive(Clone, Debug)]
pub struct Event<'a> {
    /// When, by the server's clock.
    pub time: i64,
    /// When it was heard of.
    pub received: i64,
    /// `agent`, `host`, `security`, `conflict`, `job`, `server`.
    pub kind: &'a str,
    /// The host, or nothing.
    pub sn: &'a str,
    /// Its name.
    pub host: &'a str,
    /// One sentence.
    pub message: &'a str,
}

/// Keeps an event.
///
/// # Errors
/// What the engine says.
pub fn add(tx: &mut dyn Tx, event: &Event) -> Result<(), Error> {
    let sql = "INSERT INTO events (time, received, kind, sn, host, message) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    let Event { time, received, kind, sn, host, message } = *event;
    tx.run(sql, args![time, received, kind, sn, host, message])?;
    Ok(())
}

/// Keeps an event that happened now, unless one of its kind was kept for this host in the last `pause` seconds.
///
/// # Errors
/// What the engine says.
pub fn note(
    tx: &mut dyn Tx,
    now: i64,
    kind: &str,
    (sn, host): (&str, &str),
    message: &str,
    pause: i64,
) -> Result<(), Error> {
    let recent = "SELECT count(*) FROM events WHERE sn = ?1 AND kind = ?2 AND received > ?3 AND received <= ?4";
    if pause > 0 && tx.number(recent, args![sn, kind, now - pause, now])? > 0 {
        return Ok(());
    }
    add(tx, &Event { time: now, received: now, kind, sn, host, message })
}

/// Keeps who did what.
///
/// # Errors
/// What the engine says.
pub fn audit(
    tx: &mut dyn Tx,
    now: i64,
    who: &str,
    action: &str,
    object: &str,
    (before, after): (&str, &str),
) -> Result<(), Error> {
    let sql = "INSERT INTO audit (time, who, action, object, before, after) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    tx.run(sql, args![now, who, action, object, before, after])?;
    Ok(())
}

const DAY: i64 = 86_400;

/// Deletes a small batch of what is older than it is kept: events 30 days, executions 180, audit 400. Tells how many.
///
/// # Errors
/// What the engine says.
pub fn forget(tx: &mut dyn Tx, now: i64) -> Result<u64, Error> {
    let mut gone = 0;
    for (sql, days) in [
        ("DELETE FROM events WHERE id IN (SELECT id FROM events WHERE received < ?1 LIMIT 500)", 30),
        ("DELETE FROM executions WHERE id IN (SELECT id FROM executions WHERE ended < ?1 LIMIT 500)", 180),
        (
            "DELETE FROM jobs WHERE id IN (SELECT id FROM jobs WHERE created < ?1 \
             AND NOT EXISTS (SELECT 1 FROM executions WHERE job = jobs.id) LIMIT 100)",
            180,
        ),
        ("DELETE FROM audit WHERE id IN (SELECT id FROM audit WHERE time < ?1 LIMIT 500)", 400),
    ] {
        gone += tx.run(sql, args![now - days * DAY])?;
    }
    Ok(gone)
}
