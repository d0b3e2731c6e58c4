//! Events and the audit trail.

use super::{Error, Row, Tx, Value};
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

/// Events of one kind of one host that are kept in an hour, so that no host can fill the disk.
const HOURLY: i64 = 1000;

/// Keeps an event, unless its host had too many of its kind in the last hour.
///
/// # Errors
/// What the engine says.
pub fn add(tx: &mut dyn Tx, event: &Event) -> Result<(), Error> {
    let recent = count_since(tx, event.sn, event.kind, event.received - 3600, event.received)?;
    if recent >= HOURLY {
        return Ok(());
    }
    let last = format!("{HOURLY} events of this kind in an hour: more are not kept");
    let event = &Event { message: if recent + 1 == HOURLY { &last } else { event.message }, ..event.clone() };
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
    if pause > 0 && count_since(tx, sn, kind, now - pause, now)? > 0 {
        return Ok(());
    }
    add(tx, &Event { time: now, received: now, kind, sn, host, message })
}

/// How many events of a kind a host had after `since`. Those after `now` were kept before the clock was set back.
fn count_since(tx: &mut dyn Tx, sn: &str, kind: &str, since: i64, now: i64) -> Result<i64, Error> {
    let sql = "SELECT count(*) FROM events WHERE sn = ?1 AND kind = ?2 AND received > ?3 AND received <= ?4";
    tx.number(sql, args![sn, kind, since, now])
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

/// Which events or lines of the audit trail a list shows; empty texts mean any.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// A part of the sentence.
    pub text: String,
    /// Who did it.
    pub by: String,
    /// The `sn` of hosts.
    pub sns: Vec<String>,
    /// The name of a host that has no `sn` here.
    pub host: String,
    /// The kind of an event.
    pub kind: String,
}

/// The text of a search as a pattern of LIKE, with `!` before what would be a wildcard.
pub fn pattern(text: &str) -> String {
    let mut out = String::from("%");
    for c in text.chars() {
        if matches!(c, '%' | '_' | '!') {
            out.push('!');
        }
        out.push(c);
    }
    out.push('%');
    out
}

/// An event as it is kept.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Rises.
    pub id: i64,
    /// When it happened, by the server's clock.
    pub time: i64,
    /// When it was heard of.
    pub received: i64,
    /// Its kind.
    pub kind: String,
    /// The host, or nothing.
    pub sn: String,
    /// Its name.
    pub host: String,
    /// One sentence.
    pub message: String,
}

const COLUMNS: &str = "SELECT id, time, received, kind, sn, host, message FROM events";

fn stored_of(row: &Row) -> Stored {
    let (id, time, received, kind) = (row.int(0), row.int(1), row.int(2), row.text(3));
    Stored { id, time, received, kind, sn: row.text(4), host: row.text(5), message: row.text(6) }
}

/// The conditions of a list of events: only what is asked for, so that an index can help.
fn conditions(wanted: &Wanted) -> (String, Vec<Value>) {
    let (mut tests, mut args) = (vec!["1 = 1".to_string()], Vec::<Value>::new());
    let mut test = |sql: &str, value: &str| {
        args.push(value.into());
        tests.push(sql.replace('?', &format!("?{}", args.len())));
    };
    if !wanted.text.is_empty() {
        test("message LIKE ? ESCAPE '!'", &pattern(&wanted.text));
    }
    if !wanted.kind.is_empty() {
        test("kind = ?", &wanted.kind);
    }
    if !wanted.host.is_empty() {
        test("host = ?", &wanted.host);
    }
    if !wanted.sns.is_empty() {
        let places: Vec<String> = (1..=wanted.sns.len()).map(|place| format!("?{}", args.len() + place)).collect();
        tests.push(format!("sn IN ({})", places.join(", ")));
        args.extend(wanted.sns.iter().map(Value::from));
    }
    (tests.join(" AND "), args)
}

/// Events after one, oldest first.
///
/// # Errors
/// What the engine says.
pub fn after(tx: &mut dyn Tx, wanted: &Wanted, id: i64, count: i64) -> Result<Vec<Stored>, Error> {
    let (test, mut args) = conditions(wanted);
    let (one, two) = (args.len() + 1, args.len() + 2);
    args.extend([id.into(), count.into()]);
    let sql = format!("{COLUMNS} WHERE {test} AND id > ?{one} ORDER BY id LIMIT ?{two}");
    Ok(tx.rows(&sql, &args)?.iter().map(stored_of).collect())
}

/// A page of events, the newest first, and how many there are, counted to `limit`.
///
/// # Errors
/// What the engine says.
pub fn page(tx: &mut dyn Tx, wanted: &Wanted, first: i64, count: i64, limit: i64) -> Result<(Vec<Stored>, i64), Error> {
    let (test, mut args) = conditions(wanted);
    let (one, two) = (args.len() + 1, args.len() + 2);
    let total = format!("SELECT count(*) FROM (SELECT 1 FROM events WHERE {test} LIMIT ?{one}) AS found");
    args.push(limit.into());
    let total = tx.number(&total, &args)?;
    args.pop();
    args.extend([count.into(), first.into()]);
    let sql = format!("{COLUMNS} WHERE {test} ORDER BY id DESC LIMIT ?{one} OFFSET ?{two}");
    Ok((tx.rows(&sql, &args)?.iter().map(stored_of).collect(), total))
}

/// A line of the audit trail.
#[derive(Clone, Debug)]
pub struct Line {
    /// When.
    pub time: i64,
    /// Who.
    pub who: String,
    /// What was done.
    pub action: String,
    /// To what.
    pub object: String,
    /// What was there before.
    pub before: String,
    /// What is there now.
    pub after: String,
}

fn line_of(row: &Row) -> Line {
    let (time, who, action, object) = (row.int(0), row.text(1), row.text(2), row.text(3));
    Line { time, who, action, object, before: row.text(4), after: row.text(5) }
}

/// A page of the audit trail, the newest first, and how many lines there are, counted to `limit`.
///
/// # Errors
/// What the engine says.
pub fn audit_page(
    tx: &mut dyn Tx,
    wanted: &Wanted,
    first: i64,
    count: i64,
    limit: i64,
) -> Result<(Vec<Line>, i64), Error> {
    let sql = "FROM audit WHERE (?1 = '%%' OR action LIKE ?1 ESCAPE '!' OR object LIKE ?1 ESCAPE '!') \
        AND (?2 = '' OR who = ?2)";
    let (text, by) = (pattern(&wanted.text), &wanted.by);
    let total = format!("SELECT count(*) FROM (SELECT 1 {sql} LIMIT ?3) AS found");
    let total = tx.number(&total, args![&text, by, limit])?;
    let sql = format!("SELECT time, who, action, object, before, after {sql} ORDER BY id DESC LIMIT ?3 OFFSET ?4");
    Ok((tx.rows(&sql, args![text, by, count, first])?.iter().map(line_of).collect(), total))
}
