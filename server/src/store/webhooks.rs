//! Webhooks, and the events that each was not told of yet.

use super::{missing, refused, Error, Row, Tx};
use crate::args;
use crate::model::webhook::{Event, Progress};

/// Somebody who is told of events.
#[derive(Clone, Debug)]
pub struct Webhook {
    /// Unique.
    pub name: String,
    /// Where messages go. It may have a secret in it.
    pub url: String,
    /// What messages are signed with.
    pub secret: String,
    /// Names of `model::webhook::KINDS`.
    pub kinds: Vec<String>,
    /// When it was added.
    pub created: i64,
    /// Who added it.
    pub by: String,
    /// How far it has been told.
    pub progress: Progress,
    /// In a row.
    pub failures: i64,
    /// When to try again.
    pub not_before: i64,
    /// What became of the last message.
    pub outcome: String,
    /// When that was.
    pub tried: Option<i64>,
}

/// All webhooks, by name.
///
/// # Errors
/// What the engine says.
pub fn list(tx: &mut dyn Tx) -> Result<Vec<Webhook>, Error> {
    let sql = "SELECT name, url, secret, kinds, created, giver, told, failures, not_before, outcome, tried, ahead \
        FROM webhooks ORDER BY name";
    let webhook = |row: &Row| Webhook {
        name: row.text(0),
        url: row.text(1),
        secret: row.text(2),
        kinds: row.text(3).split_whitespace().map(str::to_string).collect(),
        created: row.int(4),
        by: row.text(5),
        progress: Progress { told: row.int(6), ahead: serde_json::from_str(&row.text(11)).unwrap_or_default() },
        failures: row.int(7),
        not_before: row.int(8),
        outcome: row.text(9),
        tried: row.maybe_int(10),
    };
    Ok(tx.rows(sql, &[])?.iter().map(webhook).collect())
}

/// One webhook.
///
/// # Errors
/// What the engine says, or that there is none.
pub fn get(tx: &mut dyn Tx, name: &str) -> Result<Webhook, Error> {
    match list(tx)?.into_iter().find(|webhook| webhook.name == name) {
        Some(webhook) => Ok(webhook),
        None => missing(format!("there is no webhook \"{name}\": bootserver webhook list")),
    }
}

/// Keeps a new webhook; it is told of what happens from now on.
///
/// # Errors
/// What the engine says, or that there is one of this name.
pub fn add(tx: &mut dyn Tx, webhook: &Webhook) -> Result<(), Error> {
    let sql = "INSERT INTO webhooks (name, url, secret, kinds, created, giver, told) \
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT DO NOTHING";
    let told = newest_event(tx)?;
    let Webhook { name, url, secret, kinds, created, by, .. } = webhook;
    match tx.run(sql, args![name, url, secret, kinds.join(" "), *created, by, told])? {
        0 => refused(format!("there is a webhook \"{name}\" already")),
        _ => Ok(()),
    }
}

/// Removes a webhook.
///
/// # Errors
/// What the engine says, or that there is none.
pub fn remove(tx: &mut dyn Tx, name: &str) -> Result<(), Error> {
    match tx.run("DELETE FROM webhooks WHERE name = ?1", args![name])? {
        0 => missing(format!("there is no webhook \"{name}\": bootserver webhook list")),
        _ => Ok(()),
    }
}

/// Keeps how far a webhook has been told, and what became of the last message.
///
/// # Errors
/// What the engine says.
pub fn save(tx: &mut dyn Tx, webhook: &Webhook) -> Result<(), Error> {
    // The secret too: another one of this name may have been added meanwhile.
    let sql = "UPDATE webhooks SET told = ?3, ahead = ?4, failures = ?5, not_before = ?6, outcome = ?7, tried = ?8 \
        WHERE name = ?1 AND secret = ?2";
    let Webhook { name, secret, progress, failures, not_before, outcome, tried, .. } = webhook;
    let ahead = serde_json::json!(progress.ahead).to_string();
    tx.run(sql, args![name, secret, progress.told, ahead, *failures, *not_before, outcome, *tried])?;
    Ok(())
}

fn newest_event(tx: &mut dyn Tx) -> Result<i64, Error> {
    tx.number("SELECT max(id) FROM events", &[])
}

/// Events after one, the oldest first, and the newest one's id.
///
/// # Errors
/// What the engine says.
pub fn events(tx: &mut dyn Tx, after: i64) -> Result<(Vec<Event>, i64), Error> {
    let newest = newest_event(tx)?;
    if newest <= after {
        return Ok((Vec::new(), after));
    }
    let sql = "SELECT id, time, kind, sn, host, message FROM events WHERE id > ?1 AND id <= ?2 \
        ORDER BY id LIMIT 50000";
    let event = |row: &Row| Event {
        id: row.int(0),
        time: row.int(1),
        kind: row.text(2),
        sn: row.text(3),
        host: row.text(4),
        message: row.text(5),
    };
    let found: Vec<Event> = tx.rows(sql, args![after, newest])?.iter().map(event).collect();
    // Where there is more than was read, the rest comes in the next round.
    let last = if found.len() == 50_000 { found.last().map_or(newest, |event| event.id) } else { newest };
    Ok((found, last))
}
