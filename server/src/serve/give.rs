//! Giving one-off jobs to the hosts of a filter, and cancelling them.

use super::clock;
use crate::model::execution::{Event, Execution};
use crate::model::filter::Filter;
use crate::model::host::{Gaps, View};
use crate::model::release;
use crate::model::version;
use crate::store::executions::{self, Stored};
use crate::store::jobs::{self, Job};
use crate::store::{events, hosts, missing, refused, releases, Error, Tx};
use crate::wire::job;
use serde_json::{json, Map, Value as Json};
use std::collections::BTreeMap;

/// What somebody asks for.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// As on the wire.
    pub action: String,
    /// Empty: the host's own configuration.
    pub agent: String,
    /// The filter.
    pub select: String,
    /// The release; the newest without it.
    pub version: Option<String>,
    /// What goes to hosts beside the package.
    pub body: Map<String, Json>,
    /// Whether it is offered outside of the maintenance windows of groups too.
    pub any_time: bool,
    /// Who gives it.
    pub who: String,
}

/// The host's own keys of a job; what else comes is refused.
const BODY: [&str; 8] = ["envs", "limits", "svrlist", "step", "window", "expires", "startsecs", "purge"];

/// What a job would do.
pub struct Selection {
    /// The hosts that get it.
    pub hosts: Vec<View>,
    /// How many do not, by why.
    pub left_out: BTreeMap<String, u64>,
    /// The version that is given.
    pub version: Option<String>,
    /// What goes to hosts beside the package.
    body: Map<String, Json>,
}

/// Says what a job would do, and does nothing.
///
/// # Errors
/// What the engine says; what of the request will not do.
pub fn preview(tx: &mut dyn Tx, wanted: &Wanted, gaps: &Gaps) -> Result<Selection, Error> {
    let filter = Filter::parse(&wanted.select).map_err(Error::Refused)?;
    job::check(&wanted.action, &wanted.agent, &wanted.body).map_err(Error::Refused)?;
    if let Some(key) = wanted.body.keys().find(|key| !BODY.contains(&key.as_str())) {
        return refused(format!("unknown key \"{key}\": want some of {}", BODY.join(", ")));
    }
    let mut body = wanted.body.clone();
    let release = pick_release(tx, wanted, &mut body)?;
    if job::carries_envs(&body) && !filter.is_by_server() {
        let whose = if wanted.body.contains_key("envs") { "" } else { ", as its release's definition has some" };
        return refused(format!(
            "a job with envs{whose}: select by group, sn or label.NAME (set on the server) only, as anything else \
            is what a host says of itself"
        ));
    }
    let version = release.as_ref().map(|(version, _)| version.clone());
    let artifacts = release.as_ref().map(|(_, list)| list.as_slice());
    let chosen = Choice { filter: &filter, action: &wanted.action, secret: job::carries_envs(&body), artifacts };
    let (hosts, left_out) = select(tx, &chosen, clock::now(), gaps)?;
    Ok(Selection { hosts, left_out, version, body })
}

/// Gives a job; the answer says to how many hosts, and why others were left out.
///
/// # Errors
/// What the engine says; what of the request will not do; that no host is meant.
pub fn give(tx: &mut dyn Tx, wanted: &Wanted, gaps: &Gaps) -> Result<Json, Error> {
    let now = clock::now();
    let Selection { hosts: chosen, left_out, version, body } = preview(tx, wanted, gaps)?;
    if chosen.is_empty() {
        let why: Vec<String> = left_out.iter().map(|(why, count)| format!("{count} {why}")).collect();
        let why = if why.is_empty() { "no host matches".to_string() } else { why.join(", ") };
        return refused(format!("the job was given to nobody: {why} (--select {:?})", wanted.select));
    }
    let number = jobs::next_number(tx)?;
    let id = format!("j{number}");
    let seconds = |key: &str| body.get(key).and_then(Json::as_i64).unwrap_or(0);
    let slack = seconds("window") + seconds("startsecs");
    let count = chosen.len();
    for host in chosen {
        let execution = Execution { windowed: !wanted.any_time, ..Execution::new(version.clone(), slack, host.step) };
        let (agent, action) = (wanted.agent.clone(), wanted.action.clone());
        let execution_id = format!("{id}-{}", clock::random_id());
        let (sn, name) = (host.sn, host.name);
        let stored =
            Stored { id: execution_id, job: id.clone(), sn, host: name, agent, action, created: now, execution };
        executions::add(tx, &stored)?;
    }
    let (agent, action, select) = (wanted.agent.clone(), wanted.action.clone(), wanted.select.clone());
    let (state, by) = ("open".to_string(), wanted.who.clone());
    jobs::add(tx, &Job { id: id.clone(), number, agent, action, select, version, body, state, created: now, by })?;
    let object = format!("job {id}: {} {} where {:?}", wanted.action, wanted.agent, wanted.select);
    events::audit(tx, now, &wanted.who, "job", &object, ("", &format!("{count} hosts")))?;
    Ok(json!({ "id": id, "hosts": count, "left_out": left_out }))
}

type Artifacts = Vec<release::Artifact>;

/// The release that is installed, and its artifacts; its definition goes into the body.
fn pick_release(
    tx: &mut dyn Tx,
    wanted: &Wanted,
    body: &mut Map<String, Json>,
) -> Result<Option<(String, Artifacts)>, Error> {
    if !job::installs(&wanted.action) {
        return match wanted.version {
            Some(_) => refused(format!("{} has no version", wanted.action)),
            None => Ok(None),
        };
    }
    let agent = &wanted.agent;
    let mut known = releases::list(tx, Some(agent))?;
    known.retain(|release| release.withdrawn.is_none());
    known.sort_by(|a, b| version::compare(&a.version, &b.version));
    let found = match &wanted.version {
        Some(version) => known.into_iter().find(|release| release.version == *version),
        None => known.pop(),
    };
    let Some(found) = found else {
        let version = wanted.version.as_deref().unwrap_or("VERSION");
        return refused(format!("there is no such release: bootserver release add {agent} {version} --file FILE"));
    };
    body.insert("version".to_string(), json!(found.version));
    if let Some(definition) = found.definition.as_ref().and_then(|text| serde_json::from_str::<Json>(text).ok()) {
        body.insert("definition".to_string(), definition);
    }
    if let Some(startsecs) = found.startsecs {
        body.entry("startsecs").or_insert_with(|| json!(startsecs));
    }
    let artifacts = releases::artifacts(tx, agent, &found.version)?.into_iter().map(|(a, _)| a).collect();
    Ok(Some((found.version, artifacts)))
}

/// What hosts are chosen by.
struct Choice<'a> {
    filter: &'a Filter,
    action: &'a str,
    /// Whether it carries envs.
    secret: bool,
    artifacts: Option<&'a [release::Artifact]>,
}

/// The hosts that get it, and how many do not, by why.
fn select(
    tx: &mut dyn Tx,
    choice: &Choice,
    now: i64,
    gaps: &Gaps,
) -> Result<(Vec<View>, BTreeMap<String, u64>), Error> {
    let (mut chosen, mut left_out) = (Vec::<View>::new(), BTreeMap::new());
    let Choice { filter, action, secret, artifacts } = *choice;
    hosts::views(tx, None, now, gaps, &mut |mut view, _| {
        if secret {
            // A host's own labels must not lead secrets to it.
            view.labels = view.own_labels.clone();
        }
        if !filter.matches(&view) {
            return Ok(());
        }
        let why = if view.state != "accepted" {
            format!("{}, not accepted", view.state)
        } else if view.pinned.is_some() && job::changes_versions(action) {
            "pinned".to_string()
        } else if artifacts.is_some_and(|list| release::choose(list, &view.arch, &view.os).is_none()) {
            format!("without a package for {} {}", view.os, view.arch)
        } else {
            view.agents = Vec::new();
            chosen.push(view);
            return Ok(());
        };
        *left_out.entry(why).or_insert(0) += 1;
        Ok(())
    })?;
    // Hosts come in order of name.
    let twins = |pair: &&[View]| pair[0].name == pair[1].name;
    if filter.is_by_name() {
        if let Some(pair) = chosen.windows(2).find(twins) {
            let (name, one, other) = (&pair[0].name, &pair[0].sn, &pair[1].sn);
            return refused(format!("two hosts are named {name}: say which: sn={one} or sn={other}"));
        }
    }
    Ok((chosen, left_out))
}

/// Cancels a job, or one execution; the answer says how many had it already.
///
/// # Errors
/// What the engine says, or that there is no such job.
pub fn cancel(tx: &mut dyn Tx, id: &str, who: &str) -> Result<Json, Error> {
    let now = clock::now();
    let found = match executions::get(tx, id)? {
        Some(one) => vec![one],
        None => {
            if jobs::get(tx, id)?.is_none() {
                return missing(format!("there is no job \"{id}\": see bootserver job list"));
            }
            let all = executions::of_job(tx, id)?;
            // One that has ended stays what it is.
            if all.iter().any(|one| one.execution.state.can_be_cancelled()) {
                jobs::set_state(tx, id, "cancelled")?;
            }
            all
        }
    };
    let (mut withdrawn, mut there) = (0, 0);
    for mut stored in found.into_iter().filter(|stored| stored.execution.state.is_open()) {
        there += i64::from(stored.execution.offered.is_some());
        withdrawn += 1;
        stored.execution.step(Event::Cancel, now);
        executions::save(tx, &stored.id, &stored.execution)?;
    }
    events::audit(tx, now, who, "job cancel", &format!("job {id}"), ("", &format!("{withdrawn} withdrawn")))?;
    Ok(json!({ "id": id, "withdrawn": withdrawn, "may_act": there }))
}
