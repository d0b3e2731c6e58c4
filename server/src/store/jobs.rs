//! One-off jobs, as somebody gave them.

use super::{Error, Row, Tx};
use crate::args;
use crate::model::job::State;
use serde_json::{Map, Value as Json};
use std::collections::BTreeMap;

/// A job over a selection of hosts.
#[derive(Clone, Debug)]
pub struct Job {
    /// `j` and a number.
    pub id: String,
    /// Its place in the order.
    pub number: i64,
    /// The agent; empty where a host's own configuration is meant.
    pub agent: String,
    /// What is done.
    pub action: String,
    /// The filter.
    pub select: String,
    /// The release.
    pub version: Option<String>,
    /// What goes to hosts beside the package. It may hold secrets: never shown.
    pub body: Map<String, Json>,
    /// Where it is.
    pub state: State,
    /// When it was given.
    pub created: i64,
    /// By whom.
    pub by: String,
}

const JOB: &str = "SELECT id, number, agent, action, selector, version, body, state, created, giver FROM jobs";

fn job_of(row: &Row) -> Job {
    Job {
        id: row.text(0),
        number: row.int(1),
        agent: row.text(2),
        action: row.text(3),
        select: row.text(4),
        version: row.maybe_text(5),
        body: serde_json::from_str(&row.text(6)).unwrap_or_default(),
        state: State::parse(&row.text(7)),
        created: row.int(8),
        by: row.text(9),
    }
}

/// The number of the next job.
///
/// # Errors
/// What the engine says.
pub fn next_number(tx: &mut dyn Tx) -> Result<i64, Error> {
    tx.number("SELECT coalesce(max(number), 0) + 1 FROM jobs", &[]).and_then(|number| {
        // Numbers of jobs that were forgotten are not used again.
        let kept = super::groups::setting(tx, "next_job")?.and_then(|text| text.parse().ok()).unwrap_or(1);
        let next = number.max(kept);
        super::groups::keep(tx, "next_job", &(next + 1).to_string())?;
        Ok(next)
    })
}

/// Keeps a new job.
///
/// # Errors
/// What the engine says.
pub fn add(tx: &mut dyn Tx, job: &Job) -> Result<(), Error> {
    let sql = "INSERT INTO jobs (id, number, agent, action, selector, version, body, state, created, giver) \
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";
    let Job { id, number, agent, action, select, version, body, state, created, by } = job;
    let body = Json::Object(body.clone()).to_string();
    tx.run(sql, args![id, *number, agent, action, select, version.as_deref(), body, state.as_str(), *created, by])?;
    Ok(())
}

/// A job by its id.
///
/// # Errors
/// What the engine says.
pub fn get(tx: &mut dyn Tx, id: &str) -> Result<Option<Job>, Error> {
    Ok(tx.row(&format!("{JOB} WHERE id = ?1"), args![id])?.as_ref().map(job_of))
}

/// How many executions of a job are in each state.
///
/// # Errors
/// What the engine says.
pub fn counts(tx: &mut dyn Tx, id: &str) -> Result<BTreeMap<String, i64>, Error> {
    let rows = tx.rows("SELECT state, count(*) FROM executions WHERE job = ?1 GROUP BY state", args![id])?;
    Ok(rows.iter().map(|row| (row.text(0), row.int(1))).collect())
}

/// Changes the state of a job.
///
/// # Errors
/// What the engine says.
pub fn set_state(tx: &mut dyn Tx, id: &str, state: State) -> Result<(), Error> {
    tx.run("UPDATE jobs SET state = ?2 WHERE id = ?1", args![id, state.as_str()])?;
    Ok(())
}

/// Jobs that are being prepared or cancelled.
///
/// # Errors
/// What the engine says.
pub fn unfinished(tx: &mut dyn Tx) -> Result<Vec<(String, State)>, Error> {
    let sql = "SELECT id, state FROM jobs WHERE state IN ('preparing', 'cancelling')";
    Ok(tx.rows(sql, &[])?.iter().map(|row| (row.text(0), State::parse(&row.text(1)))).collect())
}

/// Removes a job that has no executions.
///
/// # Errors
/// What the engine says.
pub fn remove(tx: &mut dyn Tx, id: &str) -> Result<(), Error> {
    tx.run("DELETE FROM jobs WHERE id = ?1", args![id])?;
    Ok(())
}

/// Which jobs a list shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cut {
    /// All.
    #[default]
    All,
    /// With hosts where it has not ended.
    Running,
    /// With hosts where it did not work.
    Failed,
    /// Cancelled.
    Cancelled,
}

impl Cut {
    fn sql(self) -> &'static str {
        match self {
            Cut::All => "1 = 1",
            Cut::Running => {
                "EXISTS (SELECT 1 FROM executions e WHERE e.job = jobs.id \
                 AND e.state IN ('waiting', 'offered', 'received', 'done'))"
            }
            Cut::Failed => {
                "EXISTS (SELECT 1 FROM executions e WHERE e.job = jobs.id \
                 AND e.state IN ('failed', 'refused', 'mismatch', 'lost', 'stuck'))"
            }
            Cut::Cancelled => "state IN ('cancelled', 'cancelling')",
        }
    }
}

/// A page of jobs, the newest first, and how many there are. `text`: a part of the id, agent, action, selector or of who
/// gave it.
///
/// # Errors
/// What the engine says.
pub fn page(tx: &mut dyn Tx, text: &str, cut: Cut, first: i64, count: i64) -> Result<(Vec<Job>, i64), Error> {
    let test = format!(
        "WHERE (?1 = '%%' OR id LIKE ?1 ESCAPE '!' OR agent LIKE ?1 ESCAPE '!' OR action LIKE ?1 ESCAPE '!' \
         OR selector LIKE ?1 ESCAPE '!' OR giver LIKE ?1 ESCAPE '!') AND {}",
        cut.sql()
    );
    let text = super::events::pattern(text);
    let total = tx.number(&format!("SELECT count(*) FROM jobs {test}"), args![&text])?;
    let sql = format!("{JOB} {test} ORDER BY number DESC LIMIT ?2 OFFSET ?3");
    Ok((tx.rows(&sql, args![text, count, first])?.iter().map(job_of).collect(), total))
}
