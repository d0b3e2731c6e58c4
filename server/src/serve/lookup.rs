//! Lists and single objects as JSON, as the command line and the API show them.

use super::clock;
use crate::model::filter::Filter;
use crate::model::host::{Gaps, View, UNDECIDED};
use crate::model::release::Artifact;
use crate::pages::params::Params;
use crate::store::executions::{self, Stored, Term};
use crate::store::hosts::Which;
use crate::store::jobs::{self, Cut, Job};
use crate::store::{events, groups, hosts, missing, refused, releases, Error, Tx};
use serde_json::{json, Value as Json};

/// A host in a list.
pub fn host_json(view: &View, body: Option<&Json>) -> Json {
    let agents = body.and_then(|body| body.get("agents")).cloned().unwrap_or_else(|| json!([]));
    let mut reason = view.reason.clone();
    if view.state == "pending" {
        let first = format!("{UNDECIDED}: bootserver host accept {0}, or host reject {0}", view.sn);
        reason = if reason.is_empty() { first } else { format!("{first}; {reason}") };
    }
    json!({
        "sn": view.sn, "name": view.name, "group": view.group, "state": view.state,
        "freshness": view.freshness.as_str(), "os": view.os, "arch": view.arch, "version": view.version,
        "labels": view.labels, "seen": view.seen, "agents": agents, "reason": reason,
        "pinned": view.pinned,
    })
}

/// How much there is of what: hosts in all and by state, keys that are valid, releases, jobs.
///
/// # Errors
/// What the engine says.
pub fn counts(tx: &mut dyn Tx) -> Result<Json, Error> {
    let states = hosts::counts(tx)?;
    let mut found = json!({
        "hosts": states.values().sum::<i64>(),
        "keys": tx.number("SELECT count(*) FROM keys WHERE revoked IS NULL", &[])?,
        "releases": tx.number("SELECT count(*) FROM releases WHERE withdrawn IS NULL", &[])?,
        "jobs": tx.number("SELECT count(*) FROM jobs", &[])?,
    });
    for state in ["pending", "accepted", "rejected", "retired", "conflict"] {
        found[state] = json!(states.get(state).copied().unwrap_or(0));
    }
    Ok(found)
}

/// An array that is written as text at once: as values, the hosts of a large fleet would take a gigabyte.
#[derive(Default)]
struct List(String);

impl List {
    fn push(&mut self, value: &Json) {
        self.0.push(if self.0.is_empty() { '[' } else { ',' });
        self.0.push_str(&value.to_string());
    }

    fn end(mut self) -> String {
        self.0.push_str(if self.0.is_empty() { "[]" } else { "]" });
        self.0
    }
}

/// The hosts of a filter, as the text of an array.
///
/// # Errors
/// What the engine says, or what of the filter will not do.
pub fn hosts(tx: &mut dyn Tx, filter: &str, gaps: &Gaps) -> Result<String, Error> {
    let filter = Filter::parse(filter).map_err(Error::Refused)?;
    let mut list = List::default();
    hosts::views(tx, Which::Meant(&filter), clock::now(), gaps, &mut |view, body| {
        list.push(&host_json(&view, body.as_ref()));
        Ok(())
    })?;
    Ok(list.end())
}

/// One host with all that is known of it.
///
/// # Errors
/// What the engine says, or that there is no such host.
pub fn host(tx: &mut dyn Tx, word: &str, gaps: &Gaps) -> Result<Json, Error> {
    let known = hosts::find(tx, word)?;
    let mut found = Json::Null;
    hosts::views(tx, Which::One(&known.sn), clock::now(), gaps, &mut |view, body| {
        found = host_json(&view, body.as_ref());
        found["peer"] = json!(view.peer);
        found["step"] = json!(view.step);
        found["report"] = body.unwrap_or(Json::Null);
        Ok(())
    })?;
    found["key"] = json!(known.key);
    found["created"] = json!(known.created);
    let wanted = events::Wanted { sns: vec![known.sn.clone()], ..events::Wanted::default() };
    let (happened, _) = events::page(tx, &wanted, 0, 20, 20)?;
    let event = |one: &events::Stored| json!({ "time": one.time, "kind": one.kind, "message": one.message });
    found["events"] = happened.iter().map(event).collect();
    let live = executions::live_of(tx, &known.sn)?;
    found["executions"] = live.iter().map(execution_json).collect();
    Ok(found)
}

/// An execution in a list.
pub fn execution_json(stored: &Stored) -> Json {
    let e = &stored.execution;
    json!({
        "id": stored.id, "job": stored.job, "sn": stored.sn, "host": stored.host, "agent": stored.agent,
        "action": stored.action, "attempt": e.attempt, "state": e.state.as_str(), "errcode": e.errcode,
        "message": e.message, "created": stored.created, "offered": e.offered, "received": e.received,
        "ended": e.ended, "deadline": e.deadline, "reason": e.reason, "version": e.version,
    })
}

/// Executions whose `key=value` terms all hold, `limit` at most, as the text of an array.
///
/// # Errors
/// What the engine says, or what of the filter will not do.
pub fn executions(tx: &mut dyn Tx, filter: &str, limit: i64) -> Result<String, Error> {
    let terms = execution_terms(filter)?;
    list_executions(tx, &terms, limit)
}

fn list_executions(tx: &mut dyn Tx, terms: &[Term], limit: i64) -> Result<String, Error> {
    let mut list = List::default();
    executions::each(tx, terms, limit, &mut |stored| {
        list.push(&execution_json(&stored));
        Ok(())
    })?;
    Ok(list.end())
}

/// `key = value` and `key != value`, values with globs.
fn execution_terms(filter: &str) -> Result<Vec<Term>, Error> {
    let mut terms = Vec::new();
    for word in filter.split_whitespace().filter(|word| *word != "and") {
        let Some((name, value)) = word.split_once('=') else {
            return refused(format!("filter: \"{word}\": want KEY=VALUE or KEY!=VALUE"));
        };
        let (name, same) = name.strip_suffix('!').map_or((name, true), |name| (name, false));
        let Some((key, _)) = executions::KEYS.iter().find(|(_, known)| *known == name) else {
            let known = executions::KEYS.map(|(_, word)| word).join(", ");
            return refused(format!("filter: unknown key \"{name}\": want one of {known}"));
        };
        terms.push(Term { key: *key, same, value: value.trim_matches('"').to_string() });
    }
    Ok(terms)
}

/// A job without what it carries: that may be secret.
///
/// # Errors
/// What the engine says.
pub fn job_json(tx: &mut dyn Tx, job: &Job) -> Result<Json, Error> {
    let counts = jobs::counts(tx, &job.id)?;
    let open = ["waiting", "offered", "received", "done"].iter().any(|state| counts.contains_key(*state));
    let state = job.state.told(open);
    Ok(json!({
        "id": job.id, "agent": job.agent, "action": job.action, "select": job.select, "version": job.version,
        "state": state, "created": job.created, "by": job.by, "counts": counts,
    }))
}

/// The cut of jobs that an address asks for.
pub fn cut(params: &Params) -> Cut {
    match params.get("state") {
        "running" => Cut::Running,
        "failed" => Cut::Failed,
        "cancelled" => Cut::Cancelled,
        _ => Cut::All,
    }
}

/// The newest jobs that an address asks for.
///
/// # Errors
/// What the engine says.
pub fn jobs(tx: &mut dyn Tx, params: &Params, limit: i64) -> Result<Vec<Json>, Error> {
    let (found, _) = jobs::page(tx, params.get("q"), cut(params), 0, limit)?;
    found.iter().map(|job| job_json(tx, job)).collect()
}

/// The executions of a job, or the one of an id, as the text of an array.
///
/// # Errors
/// What the engine says, or that there is no such job.
pub fn job(tx: &mut dyn Tx, id: &str) -> Result<String, Error> {
    if let Some(one) = executions::get(tx, id)? {
        return Ok(json!([execution_json(&one)]).to_string());
    }
    if jobs::get(tx, id)?.is_none() {
        return missing(format!("there is no job \"{id}\": see bootserver job list"));
    }
    let of_job = Term { key: executions::Key::Job, same: true, value: id.to_string() };
    list_executions(tx, &[of_job], i64::MAX)
}

/// Releases with their artifacts.
///
/// # Errors
/// What the engine says.
pub fn releases(tx: &mut dyn Tx) -> Result<Vec<Json>, Error> {
    let artifact = |(a, size): &(Artifact, i64)| {
        json!({ "arch": a.arch, "os": a.os, "sha256": a.sha256, "name": a.name, "url": a.url,
            "signed": a.sig.is_some(), "size": size })
    };
    let one = |(release, artifacts): &releases::Whole| {
        json!({
            "agent": release.agent, "version": release.version, "created": release.created,
            "withdrawn": release.withdrawn, "startsecs": release.startsecs,
            "definition": release.definition.is_some(),
            "artifacts": artifacts.iter().map(artifact).collect::<Vec<_>>(),
        })
    };
    Ok(releases::list_whole(tx)?.iter().map(one).collect())
}

/// Keys without their secrets, each with how many hosts hang on it.
///
/// # Errors
/// What the engine says.
pub fn keys(tx: &mut dyn Tx) -> Result<Vec<Json>, Error> {
    let one = |(key, hosts): &(groups::Key, i64)| {
        json!({
            "id": key.id, "group": key.group, "host": key.host, "bound_sn": key.bound_sn,
            "auto_accept": key.auto_accept, "created": key.created, "revoked": key.revoked, "hosts": hosts,
        })
    };
    Ok(groups::keys(tx)?.iter().map(one).collect())
}

/// Groups with their settings and hosts.
///
/// # Errors
/// What the engine says.
pub fn groups(tx: &mut dyn Tx) -> Result<Vec<Json>, Error> {
    let one = |(group, hosts): &(groups::Group, i64)| {
        json!({
            "name": group.name, "hosts": hosts, "lost_after": group.lost_after, "retire_after": group.retire_after,
            "replace": if group.replace_auto { "auto" } else { "ask" },
            "allow_unidentified": group.allow_unidentified, "zone": group.zone, "window": group.window,
        })
    };
    Ok(groups::list_counted(tx)?.iter().map(one).collect())
}

/// What the address of a list of events asks for. A host is meant by its `sn` or its name.
///
/// # Errors
/// What the engine says.
pub fn wanted_events(tx: &mut dyn Tx, params: &Params) -> Result<events::Wanted, Error> {
    let text = |name: &str| params.get(name).trim().to_string();
    let mut wanted = events::Wanted { text: text("q"), kind: text("kind"), ..events::Wanted::default() };
    let host = text("host");
    if !host.is_empty() {
        wanted.sns = hosts::named(tx, &host)?.into_iter().map(|host| host.sn).collect();
        if hosts::get(tx, &host)?.is_some() {
            wanted.sns.push(host.clone());
        }
        if wanted.sns.is_empty() {
            wanted.host = host;
        }
    }
    Ok(wanted)
}

/// What the address of the audit trail asks for.
pub fn wanted_audit(params: &Params) -> events::Wanted {
    let text = |name: &str| params.get(name).trim().to_string();
    events::Wanted { text: text("q"), by: text("who"), ..events::Wanted::default() }
}

/// Events after one, oldest first; without one the newest.
///
/// # Errors
/// What the engine says.
pub fn events(tx: &mut dyn Tx, params: &Params, after: Option<i64>, limit: i64) -> Result<Vec<Json>, Error> {
    let wanted = wanted_events(tx, params)?;
    let found = match after {
        Some(id) => events::after(tx, &wanted, id, limit)?,
        None => {
            let (mut newest, _) = events::page(tx, &wanted, 0, limit, 1)?;
            newest.reverse();
            newest
        }
    };
    let one = |event: &events::Stored| {
        json!({ "id": event.id, "time": event.time, "received": event.received, "kind": event.kind,
            "sn": event.sn, "host": event.host, "message": event.message })
    };
    Ok(found.iter().map(one).collect())
}

/// The newest lines of the audit trail, oldest first.
///
/// # Errors
/// What the engine says.
pub fn audit(tx: &mut dyn Tx, params: &Params, limit: i64) -> Result<Vec<Json>, Error> {
    let (newest, _) = events::audit_page(tx, &wanted_audit(params), 0, limit, 1)?;
    let one = |line: &events::Line| {
        json!({ "time": line.time, "who": line.who, "action": line.action, "object": line.object,
            "before": line.before, "after": line.after })
    };
    Ok(newest.iter().rev().map(one).collect())
}
