//! The protocol's messages: reports become JSON text, and the servers' replies become values.
//!
//! Keys and words are spelled as the servers spell them. The keys of a body are in a fixed order, and a key whose value is
//! not known is left out. A reply as a whole only has to be JSON; each job in it is checked alone, see `job`.
//! Reference and examples: `tests/proto`.

use crate::error::Error;
use crate::model::job::{Job, JobId, Outcome, RejectedJob};
use crate::model::report::{AgentReport, Entry, Report};
use crate::model::spec::is_job_id;
use crate::text::{sanitize, MESSAGE_MAX};
use crate::wire::emit::Writer;
use crate::wire::job;
use crate::wire::json::{self, Number, Value};

/// How many rejected jobs without an id are kept of one reply. They can only be logged, and a few lines are enough.
const NAMELESS_MAX: usize = 8;

/// What a server answered to a status.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    /// Its `errcode`; `None` where that is not a whole number.
    pub errcode: Option<i64>,
    /// Its jobs in order, each one good or with the reason why it is rejected. The same id may come twice.
    pub jobs: Vec<Result<Job, RejectedJob>>,
    /// The ids of jobs that are to be cancelled. A value that cannot be an id is left out.
    pub cancel: Vec<JobId>,
}

/// The body of `POST /agent/status`, and what `bootagent status --json` prints.
pub fn status_body(report: &Report) -> String {
    let mut json = Writer::new();
    json.open('{');
    put(&mut json, "hostname", &report.hostname);
    put(&mut json, "version", &report.version);
    json.key("uptime").number(report.uptime.as_secs());
    json.key("timestamp").number(report.timestamp);
    json.key("step").seconds(report.step);
    json.key("agents").open('[');
    for agent in &report.agents {
        put_agent(&mut json, agent);
    }
    json.close(']');
    json.key("sn").text(&report.sn);
    json.key("boot_id").text(&report.boot_id);
    json.key("events").open('[');
    for event in &report.events {
        json.open('{');
        json.key("timestamp").number(event.timestamp);
        json.key("name").text(&event.name);
        put(&mut json, "message", &event.message);
        json.close('}');
    }
    json.close(']');
    if !report.os.is_empty() {
        put(&mut json, "os", &report.os);
    }
    if !report.labels.is_empty() {
        json.key("labels").open('{');
        for (name, value) in &report.labels {
            json.key(name).text(value);
        }
        json.close('}');
    }
    json.key("open").open('[');
    for id in &report.open {
        json.text(id);
    }
    json.close(']');
    json.optional_number("silence", report.silence.map(|silence| silence.as_secs()));
    if !report.troubles.is_empty() {
        json.key("troubles").open('[');
        for trouble in &report.troubles {
            json.text(&sanitize(trouble, MESSAGE_MAX));
        }
        json.close(']');
    }
    json.optional_number("seq", report.seq);
    json.close('}');
    json.finish()
}

/// A text for people. It is sanitized, as parts of it may come from anywhere.
fn put(json: &mut Writer, key: &str, text: &str) {
    json.key(key).text(&sanitize(text, MESSAGE_MAX));
}

fn put_agent(json: &mut Writer, agent: &AgentReport) {
    json.open('{');
    json.key("name").text(&agent.name);
    put(json, "version", &agent.version);
    json.key("status").text(agent.status.word());
    json.key("uptime").number(agent.uptime.as_secs());
    json.key("pid").number(u64::try_from(agent.pid).unwrap_or(0));
    json.key("failures").number(agent.failures.into());
    put(json, "detail", &agent.detail);
    if let Some(cpu) = agent.cpu {
        json.key("cpu").decimal(cpu);
    }
    json.optional_number("memory", agent.memory);
    json.optional_text("limits_by", agent.limits_by.as_deref());
    json.optional_text("job_limits", agent.job_limits.as_deref());
    json.close('}');
}

/// The body of `POST /agent/job/result`.
pub fn results_body(results: &[(JobId, Outcome)]) -> String {
    let mut json = Writer::new();
    json.open('[');
    for (id, outcome) in results {
        json.open('{');
        json.key("id").text(id);
        json.key("errcode").number(outcome.code as u64);
        put(&mut json, "message", &outcome.message);
        json.close('}');
    }
    json.close(']');
    json.finish()
}

/// What `bootagent jobs --json` prints. A job without an outcome yet has `errcode` null and an empty `message`.
pub fn ledger_body(entries: &[Entry]) -> String {
    let mut json = Writer::new();
    json.open('[');
    for entry in entries {
        json.open('{');
        json.key("id").text(&entry.id);
        put(&mut json, "action", &entry.action);
        json.key("name").text(&entry.name);
        json.key("state").text(entry.phase.name());
        match &entry.outcome {
            Some(outcome) => json.key("errcode").number(outcome.code as u64),
            None => json.key("errcode").raw("null"),
        }
        put(&mut json, "message", entry.outcome.as_ref().map_or("", |outcome| &outcome.message));
        put(&mut json, "progress", &entry.progress);
        json.optional_number("age", entry.age.map(|age| age.as_secs()));
        json.close('}');
    }
    json.close(']');
    json.finish()
}

/// Reads the reply to a status. The caller has limited its size.
///
/// # Errors
/// Why it is no reply at all: not JSON, not an object, nested too deep, `jobs` not an array.
pub fn reply(body: &[u8]) -> Result<Reply, Error> {
    let reply = object(body)?;
    let mut jobs = Vec::new();
    let mut nameless = 0;
    let mut take = |value: &Value| {
        let job = job::read(value);
        let is_nameless = matches!(&job, Err(rejected) if rejected.id.is_none());
        nameless += usize::from(is_nameless);
        if !is_nameless || nameless <= NAMELESS_MAX {
            jobs.push(job);
        }
    };
    if let Some(value) = member(&reply, "jobs").filter(|value| !json::each_element(value, &mut take)) {
        return Err(format_error!("jobs: want an array, got {}", sanitize(&json::show(value), 200)));
    }
    let mut cancel = Vec::new();
    if let Some(value) = member(&reply, "cancel") {
        json::each_element(value, &mut |id| {
            cancel.extend(json::text(id).filter(|id| is_job_id(id)).map(JobId::from));
        });
    }
    Ok(Reply { errcode: errcode(&reply), jobs, cancel })
}

/// Reads the reply to a batch of results.
///
/// # Errors
/// Why the results do not count as taken: the reply is no JSON object, or its `errcode` is not 0.
pub fn result_reply(body: &[u8]) -> Result<(), Error> {
    match errcode(&object(body)?) {
        Some(0) => Ok(()),
        Some(other) => Err(format_error!("refused with errcode {other}")),
        None => Err("errcode: want 0, got no whole number".into()),
    }
}

/// The seconds for which a server asks for a pause, out of the body of a 429 or 503; `None` where that is not a whole
/// number.
pub fn retry_after(body: &[u8]) -> Option<u64> {
    json::integer(member(&object(body).ok()?, "retry_after")?)
}

fn object(body: &[u8]) -> Result<Value, Error> {
    match json::parse_reply(body) {
        Ok(reply) if json::object(&reply).is_some() => Ok(reply),
        Ok(other) => Err(format_error!("want a JSON object, got {}", sanitize(&json::show(&other), 200))),
        Err(syntax) => Err(format_error!("not JSON: {}", sanitize(&syntax.to_string(), 200))),
    }
}

fn member<'v>(object: &'v Value, key: &str) -> Option<&'v Value> {
    json::object(object)?.get(key).filter(|value| !matches!(value, Value::Null))
}

fn errcode(object: &Value) -> Option<i64> {
    match member(object, "errcode")? {
        Value::Number(Number::I64(number)) => Some(*number),
        other => i64::try_from(json::integer(other)?).ok(),
    }
}

#[cfg(test)]
mod tests;
