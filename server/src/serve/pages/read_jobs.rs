//! The pages of jobs.

use super::{frame, text_of, Look};
use crate::pages::jobs::{self as pages, ExecutionRow, Failure, JobPage, JobRow, Jobs, NewJob, Preview};
use crate::pages::params::Params;
use crate::pages::{words, Pager, LINES};
use crate::serve::lookup;
use crate::store::jobs::{self, Job};
use crate::store::{executions, missing, releases, roster, Error, Tx};
use crate::wire::url;

/// Rows of jobs, with their counts.
///
/// # Errors
/// What the engine says.
pub fn rows(tx: &mut dyn Tx, list: Vec<Job>) -> Result<Vec<JobRow>, Error> {
    let mut rows = Vec::new();
    for job in list {
        let counts = jobs::counts(tx, &job.id)?;
        rows.push(JobRow::new(job, &counts));
    }
    Ok(rows)
}

/// The list of jobs.
///
/// # Errors
/// What the engine says.
pub fn list(tx: &mut dyn Tx, look: &Look) -> Result<String, Error> {
    let f = frame(tx, look, "/jobs", "Jobs")?;
    let (found, total) = jobs::page(tx, look.params.get("q"), lookup::cut(&look.params), look.params.first(), LINES)?;
    let rows = rows(tx, found)?;
    let pager = Pager::new(&f, rows.len(), total, false);
    let has_release = tx.number("SELECT count(*) FROM releases WHERE withdrawn IS NULL", &[])? > 0;
    Ok(text_of(&Jobs { f, rows, pager, wrong: None, has_release }))
}

/// One job.
///
/// # Errors
/// What the engine says, or that there is no such job.
pub fn job(tx: &mut dyn Tx, look: &Look, id: &str) -> Result<String, Error> {
    let Some(job) = jobs::get(tx, id)? else {
        return missing(format!("there is no job \"{id}\": see the list of jobs"));
    };
    let counts = jobs::counts(tx, id)?;
    let row = JobRow::new(job, &counts);
    let f = frame(tx, look, "/jobs", &format!("{} {}", row.job.id, row.told()))?;
    let state = look.params.get("state");
    let found = executions::page(tx, id, &pages::states(state), &counts, (look.params.first(), LINES))?;
    let total = if state.is_empty() {
        row.total
    } else {
        row.parts.iter().filter(|part| part.word == state).map(|part| part.count).sum()
    };
    let rows: Vec<ExecutionRow> = found.into_iter().map(ExecutionRow::new).collect();
    let pager = Pager::new(&f, rows.len(), total, false);
    let failure = |(errcode, message, count): (Option<i64>, String, i64)| Failure {
        code: errcode.map_or_else(|| "no result".to_string(), |errcode| format!("{errcode}: {}", words::code(errcode))),
        message,
        count,
    };
    let failures: Vec<Failure> = executions::failures(tx, id)?.into_iter().map(failure).collect();
    let (may_act, tabs) = (executions::in_hand(tx, id)?, pages::state_tabs(&f, &row));
    let again = (!failures.is_empty()).then(|| again(&row.job));
    Ok(text_of(&JobPage { f, row, tabs, failures, rows, pager, may_act, again }))
}

/// The address of the form that gives a job once more. What it carried is not in it: that may be secret.
fn again(job: &Job) -> String {
    let pairs = [("action", job.action.as_str()), ("agent", &job.agent), ("select", &job.select)];
    let pairs: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}={}", url::encode(value))).collect();
    format!("/jobs/new?{}", pairs.join("&"))
}

/// The form that gives a job.
///
/// # Errors
/// What the engine says.
pub fn new_job(
    tx: &mut dyn Tx,
    look: &Look,
    fields: &Params,
    wrong: Option<String>,
    preview: Option<Preview>,
) -> Result<String, Error> {
    let f = frame(tx, look, "/jobs", "Give a job")?;
    // Whoever looks at the form again sees which envs were given, and no value.
    let fields = &fields.with("envs", &names_only(fields.get("envs")));
    let known = releases::list(tx, None)?.into_iter().filter(|release| release.withdrawn.is_none());
    let releases: Vec<(String, String)> = known.map(|release| (release.agent, release.version)).collect();
    let agents = agent_names(tx, look, &releases)?;
    Ok(text_of(&NewJob { f, fields: fields.clone(), wrong, preview, agents, releases }))
}

/// `NAME=` of each line `NAME=VALUE`.
fn names_only(lines: &str) -> String {
    let names = lines.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| format!("{}=\n", name.trim()));
    names.collect()
}

/// Names of agents that have a release, or run somewhere.
///
/// # Errors
/// What the engine says.
pub fn agent_names(tx: &mut dyn Tx, look: &Look, releases: &[(String, String)]) -> Result<Vec<String>, Error> {
    let mut agents: Vec<String> = releases.iter().map(|(agent, _)| agent.clone()).collect();
    agents.extend(look.shared.agents_of_fleet(tx)?.keys().map(|key: &roster::AgentKey| key.name.clone()));
    agents.sort();
    agents.dedup();
    Ok(agents)
}
