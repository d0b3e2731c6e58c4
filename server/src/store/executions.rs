//! Executions: one job on one host.

use super::{Error, Row, Tx, Value, NEXT};
use crate::args;
use crate::model::execution::{Execution, State};
use crate::model::filter::glob;
use std::collections::BTreeMap;
use std::ops::ControlFlow;

/// An execution with what it belongs to.
#[derive(Clone, Debug)]
pub struct Stored {
    /// As the host knows it.
    pub id: String,
    /// The job.
    pub job: String,
    /// The host.
    pub sn: String,
    /// Its name when the job was given.
    pub host: String,
    /// The agent that is acted on.
    pub agent: String,
    /// What is done.
    pub action: String,
    /// When it was made.
    pub created: i64,
    /// Where it is.
    pub execution: Execution,
}

const COLUMNS: &str =
    "id, job, sn, host, agent, action, created, state, attempt, not_before, offered, received, ended, \
    deadline, errcode, message, reason, missing, version, slack, step, windowed, closes";

fn stored_of(row: &Row) -> Stored {
    let execution = Execution {
        state: State::parse(&row.text(7)).unwrap_or(State::Waiting),
        attempt: row.int(8),
        not_before: row.int(9),
        offered: row.maybe_int(10),
        received: row.maybe_int(11),
        ended: row.maybe_int(12),
        deadline: row.maybe_int(13),
        errcode: row.maybe_int(14),
        message: row.text(15),
        reason: row.text(16),
        missing: row.int(17),
        version: row.maybe_text(18),
        slack: row.int(19),
        step: row.int(20),
        windowed: row.int(21) != 0,
        closes: row.maybe_int(22),
    };
    let (id, job, sn, host) = (row.text(0), row.text(1), row.text(2), row.text(3));
    Stored { id, job, sn, host, agent: row.text(4), action: row.text(5), created: row.int(6), execution }
}

/// Whether anything can happen to it yet: 1 by itself, 2 that the host has to be told of its end.
fn live(state: State) -> i64 {
    match state {
        State::Done => 1,
        State::Withdrawn => 2,
        state => i64::from(state.is_open()),
    }
}

/// Keeps a new one.
///
/// # Errors
/// What the engine says.
pub fn add(tx: &mut dyn Tx, stored: &Stored) -> Result<(), Error> {
    let sql = format!(
        "INSERT INTO executions ({COLUMNS}, live) VALUES \
         (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?23, ?24)"
    );
    let (s, e) = (stored, &stored.execution);
    let args: [Value; 24] = [
        (&s.id).into(),
        (&s.job).into(),
        (&s.sn).into(),
        (&s.host).into(),
        (&s.agent).into(),
        (&s.action).into(),
        s.created.into(),
        e.state.as_str().into(),
        e.attempt.into(),
        e.not_before.into(),
        e.offered.into(),
        e.received.into(),
        e.ended.into(),
        e.deadline.into(),
        e.errcode.into(),
        (&e.message).into(),
        (&e.reason).into(),
        e.missing.into(),
        e.version.as_deref().into(),
        e.slack.into(),
        e.step.into(),
        e.windowed.into(),
        e.closes.into(),
        live(e.state).into(),
    ];
    tx.run(&sql, &args)?;
    Ok(())
}

/// Keeps what changed.
///
/// # Errors
/// What the engine says.
pub fn save(tx: &mut dyn Tx, id: &str, e: &Execution) -> Result<(), Error> {
    let sql =
        "UPDATE executions SET state = ?2, offered = ?3, received = ?4, ended = ?5, deadline = ?6, errcode = ?7, \
        message = ?8, reason = ?9, missing = ?10, live = ?11, closes = ?12 WHERE id = ?1";
    let state = e.state.as_str();
    let (message, reason, live) = (&e.message, &e.reason, live(e.state));
    let times = (e.offered, e.received, e.ended, e.deadline, e.closes);
    let (offered, received, ended, deadline, closes) = times;
    let args =
        args![id, state, offered, received, ended, deadline, e.errcode, message, reason, e.missing, live, closes];
    tx.run(sql, args)?;
    Ok(())
}

/// Ends the telling of a withdrawn one.
///
/// # Errors
/// What the engine says.
pub fn settle(tx: &mut dyn Tx, id: &str) -> Result<(), Error> {
    tx.run("UPDATE executions SET live = 0 WHERE id = ?1", args![id])?;
    Ok(())
}

/// The live ones of a host, oldest first.
///
/// # Errors
/// What the engine says.
pub fn live_of(tx: &mut dyn Tx, sn: &str) -> Result<Vec<Stored>, Error> {
    let sql = format!("SELECT {COLUMNS} FROM executions WHERE sn = ?1 AND live > 0 ORDER BY created, length(job), job");
    Ok(tx.rows(&sql, args![sn])?.iter().map(stored_of).collect())
}

/// One by its id.
///
/// # Errors
/// What the engine says.
pub fn get(tx: &mut dyn Tx, id: &str) -> Result<Option<Stored>, Error> {
    Ok(tx.row(&format!("SELECT {COLUMNS} FROM executions WHERE id = ?1"), args![id])?.as_ref().map(stored_of))
}

/// Those of a host that a report moves on: the live ones, oldest first, without those that wait and whose job is not
/// prepared to its end, or is being cancelled.
///
/// # Errors
/// What the engine says.
pub fn to_exchange(tx: &mut dyn Tx, sn: &str) -> Result<Vec<Stored>, Error> {
    let sql = format!(
        "SELECT {COLUMNS} FROM executions WHERE sn = ?1 AND live > 0 AND NOT (state = 'waiting' AND EXISTS \
         (SELECT 1 FROM jobs WHERE jobs.id = executions.job AND jobs.state IN ('preparing', 'cancelling'))) \
         ORDER BY created, length(job), job"
    );
    Ok(tx.rows(&sql, args![sn])?.iter().map(stored_of).collect())
}

/// Some of a job that can still be given to hosts.
///
/// # Errors
/// What the engine says.
pub fn open_of(tx: &mut dyn Tx, job: &str, count: i64) -> Result<Vec<Stored>, Error> {
    let sql = format!(
        "SELECT {COLUMNS} FROM executions WHERE job = ?1 AND state IN ('waiting', 'offered', 'received') LIMIT ?2"
    );
    Ok(tx.rows(&sql, args![job, count])?.iter().map(stored_of).collect())
}

/// Removes some of a job; tells how many.
///
/// # Errors
/// What the engine says.
pub fn remove(tx: &mut dyn Tx, job: &str, count: usize) -> Result<u64, Error> {
    let sql = "DELETE FROM executions WHERE id IN (SELECT id FROM executions WHERE job = ?1 LIMIT ?2)";
    tx.run(sql, args![job, i64::try_from(count).unwrap_or(i64::MAX)])
}

/// A column of executions that a list is filtered by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// The job.
    Job,
    /// As the host knows it.
    Id,
    /// The host.
    Sn,
    /// Its name.
    Host,
    /// The agent.
    Agent,
    /// What is done.
    Action,
    /// Which try it is.
    Attempt,
    /// Where it is.
    State,
    /// The host's result; empty without one.
    Errcode,
}

/// Every key with its word, which is its column too.
pub const KEYS: [(Key, &str); 9] = [
    (Key::Job, "job"),
    (Key::Id, "id"),
    (Key::Sn, "sn"),
    (Key::Host, "host"),
    (Key::Agent, "agent"),
    (Key::Action, "action"),
    (Key::Attempt, "attempt"),
    (Key::State, "state"),
    (Key::Errcode, "errcode"),
];

/// `key = value` or `key != value`.
#[derive(Clone, Debug)]
pub struct Term {
    /// What is compared.
    pub key: Key,
    /// Whether it must be so, or must not.
    pub same: bool,
    /// The value, in which `*` and `?` stand for characters.
    pub value: String,
}

impl Term {
    /// The value as the database compares it, where it can.
    fn plain(&self) -> Option<Value> {
        match self.key {
            _ if self.value.contains(['*', '?']) => None,
            Key::Attempt | Key::Errcode if self.same => self.value.parse::<i64>().ok().map(Value::from),
            Key::Attempt | Key::Errcode => None,
            _ => Some(Value::from(&self.value)),
        }
    }

    fn holds(&self, stored: &Stored) -> bool {
        let e = &stored.execution;
        let number = |number: i64| number.to_string();
        let text = match self.key {
            Key::Job => stored.job.clone(),
            Key::Id => stored.id.clone(),
            Key::Sn => stored.sn.clone(),
            Key::Host => stored.host.clone(),
            Key::Agent => stored.agent.clone(),
            Key::Action => stored.action.clone(),
            Key::Attempt => number(e.attempt),
            Key::State => e.state.as_str().to_string(),
            Key::Errcode => e.errcode.map(number).unwrap_or_default(),
        };
        glob(&self.value, &text) == self.same
    }
}

/// Hands to `each` those of which every term holds, `limit` at most: of one job by host, else the newest first.
///
/// # Errors
/// What the engine or `each` says.
pub fn each(
    tx: &mut dyn Tx,
    terms: &[Term],
    limit: i64,
    each: &mut dyn FnMut(Stored) -> Result<(), Error>,
) -> Result<(), Error> {
    let (mut tests, mut args) = (vec!["1 = 1".to_string()], Vec::<Value>::new());
    for term in terms {
        let Some(value) = term.plain() else { continue };
        args.push(value);
        let column = KEYS.iter().find(|(key, _)| *key == term.key).map_or("id", |(_, column)| column);
        tests.push(format!("{column} {} ?{}", if term.same { "=" } else { "<>" }, args.len()));
    }
    let of_one_job = terms.iter().any(|term| term.key == Key::Job && term.same && term.plain().is_some());
    let order = if of_one_job { "host, attempt" } else { "created DESC, length(job) DESC, job DESC, host" };
    let sql = format!("SELECT {COLUMNS} FROM executions WHERE {} ORDER BY {order}", tests.join(" AND "));
    let mut left = limit;
    tx.each(&sql, &args, &mut |row| {
        let stored = stored_of(&row);
        if terms.iter().all(|term| term.holds(&stored)) {
            left -= 1;
            each(stored)?;
        }
        Ok(if left > 0 { NEXT } else { ControlFlow::Break(()) })
    })
}

/// Some whose deadline has passed, in their order, after a deadline and an id.
///
/// # Errors
/// What the engine says.
pub fn overdue(tx: &mut dyn Tx, now: i64, after: &(i64, String)) -> Result<Vec<Stored>, Error> {
    let sql = format!(
        "SELECT {COLUMNS} FROM executions WHERE deadline <= ?1 AND (deadline, id) > (?2, ?3) \
         ORDER BY deadline, id LIMIT 500"
    );
    Ok(tx.rows(&sql, args![now, after.0, &after.1])?.iter().map(stored_of).collect())
}

/// Moves every deadline by the time in which the server was down, or its clock was set by.
///
/// # Errors
/// What the engine says.
pub fn postpone(tx: &mut dyn Tx, seconds: i64) -> Result<(), Error> {
    let sql = "UPDATE executions SET deadline = deadline + ?1 WHERE deadline IS NOT NULL";
    tx.run(sql, args![seconds])?;
    tx.run(
        "UPDATE executions SET not_before = not_before + ?1 WHERE state = 'waiting' AND not_before > 0",
        args![seconds],
    )?;
    Ok(())
}

/// The clock was set back to `now`: what is open was not offered after it.
///
/// # Errors
/// What the engine says.
pub fn turn_back(tx: &mut dyn Tx, now: i64) -> Result<(), Error> {
    for column in ["offered", "received"] {
        tx.run(&format!("UPDATE executions SET {column} = ?1 WHERE live > 0 AND {column} > ?1"), args![now])?;
    }
    Ok(())
}

/// The states in which a job did not work on a host.
pub const BAD: &str = "('failed', 'refused', 'mismatch', 'lost', 'stuck')";

/// A page of a job's executions in these states, in the order of the states and then by host. `counts`: how many there are
/// of each, so that the page is found without looking at those before it.
///
/// # Errors
/// What the engine says.
pub fn page(
    tx: &mut dyn Tx,
    job: &str,
    states: &[&str],
    counts: &BTreeMap<String, i64>,
    (mut first, count): (i64, i64),
) -> Result<Vec<Stored>, Error> {
    let sql = format!(
        "SELECT {COLUMNS} FROM executions WHERE job = ?1 AND state = ?2 ORDER BY host, attempt LIMIT ?3 OFFSET ?4"
    );
    let mut found: Vec<Stored> = Vec::new();
    for state in states {
        let left = count - i64::try_from(found.len()).unwrap_or(count);
        let here = counts.get(*state).copied().unwrap_or(0);
        if first < here && left > 0 {
            found.extend(tx.rows(&sql, args![job, *state, left, first])?.iter().map(stored_of));
        }
        first = (first - here).max(0);
    }
    Ok(found)
}

/// What went wrong in a job, `(errcode, message or reason, count)`, the most frequent first.
///
/// # Errors
/// What the engine says.
pub fn failures(tx: &mut dyn Tx, job: &str) -> Result<Vec<(Option<i64>, String, i64)>, Error> {
    let sql = format!(
        "SELECT errcode, CASE WHEN message <> '' AND errcode <> 0 THEN message ELSE reason END AS told, count(*) \
         FROM executions WHERE job = ?1 AND state IN {BAD} GROUP BY errcode, told ORDER BY 3 DESC, 1 LIMIT 20"
    );
    let failure = |row: &Row| (row.maybe_int(0), row.text(1), row.int(2));
    Ok(tx.rows(&sql, args![job])?.iter().map(failure).collect())
}

/// What did not work since a time, the newest first, and on how many hosts.
///
/// # Errors
/// What the engine says.
pub fn failed_since(tx: &mut dyn Tx, since: i64, count: i64) -> Result<(Vec<Stored>, i64), Error> {
    let test = format!("FROM executions WHERE ended >= ?1 AND state IN {BAD}");
    let hosts = tx.number(&format!("SELECT count(DISTINCT sn) {test}"), args![since])?;
    let sql = format!("SELECT {COLUMNS} {test} ORDER BY ended DESC, host LIMIT ?2");
    Ok((tx.rows(&sql, args![since, count])?.iter().map(stored_of).collect(), hosts))
}

/// The newest of a host.
///
/// # Errors
/// What the engine says.
pub fn newest_of(tx: &mut dyn Tx, sn: &str, count: i64) -> Result<Vec<Stored>, Error> {
    let sql = format!("SELECT {COLUMNS} FROM executions WHERE sn = ?1 ORDER BY created DESC, attempt DESC LIMIT ?2");
    Ok(tx.rows(&sql, args![sn, count])?.iter().map(stored_of).collect())
}

/// How many hosts have it and have not ended it.
///
/// # Errors
/// What the engine says.
pub fn in_hand(tx: &mut dyn Tx, job: &str) -> Result<i64, Error> {
    let sql = "SELECT count(*) FROM executions WHERE job = ?1 AND state IN ('offered', 'received')";
    tx.number(sql, args![job])
}
