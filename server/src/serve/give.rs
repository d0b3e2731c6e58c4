//! Giving one-off jobs to the hosts of a filter, and cancelling them.

use super::{clock, parts};
use crate::model::execution::{self, Event, Execution};
use crate::model::filter::Filter;
use crate::model::host::{self, Gaps};
use crate::model::job::{State, PART};
use crate::model::release;
use crate::model::version;
use crate::store::executions::{self, Stored};
use crate::store::hosts::Which;
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
    /// The hosts that get it, by name.
    pub hosts: Vec<Chosen>,
    /// How many do not, by why.
    pub left_out: BTreeMap<String, u64>,
    /// The version that is given.
    pub version: Option<String>,
    /// What goes to hosts beside the package.
    pub body: Map<String, Json>,
}

/// A host that gets a job.
#[derive(Clone, Debug)]
pub struct Chosen {
    /// Its identity.
    pub sn: String,
    /// Its name.
    pub name: String,
    group: String,
    /// Its labels that were set on the server, where the job carries envs.
    labels: BTreeMap<String, String>,
    /// Its interval between reports.
    step: i64,
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

/// What a job would do, where it would do anything.
///
/// # Errors
/// As `preview`, and that no host is meant.
pub fn select_some(tx: &mut dyn Tx, wanted: &Wanted, gaps: &Gaps) -> Result<Selection, Error> {
    let selection = preview(tx, wanted, gaps)?;
    match selection.hosts.is_empty() {
        true => nobody(&selection.left_out, &wanted.select),
        false => Ok(selection),
    }
}

fn nobody<T>(left_out: &BTreeMap<String, u64>, select: &str) -> Result<T, Error> {
    let why: Vec<String> = left_out.iter().map(|(why, count)| format!("{count} {why}")).collect();
    let why = if why.is_empty() { "no host matches".to_string() } else { why.join(", ") };
    refused(format!("the job was given to nobody: {why} (--select {select:?})"))
}

/// A job that is being given.
pub struct Given {
    /// Its id.
    pub id: String,
    wanted: Wanted,
    version: Option<String>,
    /// The window and startsecs of the job, in seconds.
    slack: i64,
    /// Whether it carries envs.
    secret: bool,
    count: u64,
    left_out: BTreeMap<String, u64>,
    now: i64,
}

impl Given {
    /// Makes the job, for no host yet.
    ///
    /// # Errors
    /// What the engine says.
    pub fn begin(
        tx: &mut dyn Tx,
        wanted: Wanted,
        version: Option<String>,
        body: Map<String, Json>,
        state: State,
        left_out: BTreeMap<String, u64>,
    ) -> Result<Given, Error> {
        let (now, number) = (clock::now(), jobs::next_number(tx)?);
        let id = format!("j{number}");
        let seconds = |key: &str| body.get(key).and_then(Json::as_i64).unwrap_or(0);
        let (slack, secret) = (seconds("window") + seconds("startsecs"), job::carries_envs(&body));
        let (agent, action, select) = (wanted.agent.clone(), wanted.action.clone(), wanted.select.clone());
        let (by, version_of) = (wanted.who.clone(), version.clone());
        let job =
            Job { id: id.clone(), number, agent, action, select, version: version_of, body, state, created: now, by };
        jobs::add(tx, &job)?;
        Ok(Given { id, wanted, version, slack, secret, count: 0, left_out, now })
    }

    /// Adds hosts. One that was changed since it was chosen is left out.
    ///
    /// # Errors
    /// What the engine says.
    pub fn add(&mut self, tx: &mut dyn Tx, hosts: &[Chosen]) -> Result<(), Error> {
        for host in hosts {
            let same = hosts::standing(tx, &host.sn)?.is_some_and(|(state, group, pinned)| {
                let pinned = pinned && job::changes_versions(&self.wanted.action);
                state == host::State::Accepted && group == host.group && !pinned
            });
            if !same || self.secret && hosts::labels(tx, &host.sn)? != host.labels {
                *self.left_out.entry("changed meanwhile".to_string()).or_insert(0) += 1;
                continue;
            }
            let new = Execution::new(self.version.clone(), self.slack, host.step);
            let execution = Execution { windowed: !self.wanted.any_time, ..new };
            let (job, agent, action) = (self.id.clone(), self.wanted.agent.clone(), self.wanted.action.clone());
            let id = format!("{job}-{}", clock::random_id());
            let (sn, name) = (host.sn.clone(), host.name.clone());
            executions::add(tx, &Stored { id, job, sn, host: name, agent, action, created: self.now, execution })?;
            self.count += 1;
        }
        Ok(())
    }

    /// Adds hosts to a job that is being prepared, in a transaction after the first.
    ///
    /// # Errors
    /// What the engine says, or that it was cancelled meanwhile.
    pub fn go_on(mut self, tx: &mut dyn Tx, hosts: &[Chosen]) -> Result<Given, Error> {
        self.check_not_cancelled(tx)?;
        self.add(tx, hosts)?;
        Ok(self)
    }

    fn check_not_cancelled(&self, tx: &mut dyn Tx) -> Result<(), Error> {
        match jobs::get(tx, &self.id)? {
            Some(job) if !job.state.is_cancelled() => Ok(()),
            _ => parts::gone(&self.id),
        }
    }

    /// Opens the job after the last host was added: from now on hosts get it.
    ///
    /// # Errors
    /// What the engine says; that it was cancelled meanwhile, or is for nobody.
    pub fn end(&mut self, tx: &mut dyn Tx) -> Result<(), Error> {
        self.check_not_cancelled(tx)?;
        if self.count == 0 {
            return nobody(&self.left_out, &self.wanted.select);
        }
        jobs::set_state(tx, &self.id, State::Open)?;
        let Wanted { action, agent, select, who, .. } = &self.wanted;
        let object = format!("job {}: {action} {agent} where {select:?}", self.id);
        events::audit(tx, clock::now(), who, "job", &object, ("", &format!("{} hosts", self.count)))
    }

    /// What is answered.
    pub fn answer(&self) -> Json {
        json!({ "id": self.id, "hosts": self.count, "left_out": self.left_out })
    }
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
) -> Result<(Vec<Chosen>, BTreeMap<String, u64>), Error> {
    let (mut chosen, mut left_out) = (Vec::<Chosen>::new(), BTreeMap::new());
    let Choice { filter, action, secret, artifacts } = *choice;
    hosts::views(tx, Which::Perhaps(filter), now, gaps, &mut |mut view, _| {
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
            let labels = if secret { view.own_labels } else { BTreeMap::new() };
            chosen.push(Chosen { sn: view.sn, name: view.name, group: view.group, labels, step: view.step });
            return Ok(());
        };
        *left_out.entry(why).or_insert(0) += 1;
        Ok(())
    })?;
    // Hosts come in order of name.
    let twins = |pair: &&[Chosen]| pair[0].name == pair[1].name;
    if filter.is_by_name() {
        if let Some(pair) = chosen.windows(2).find(twins) {
            let (name, one, other) = (&pair[0].name, &pair[0].sn, &pair[1].sn);
            return refused(format!("two hosts are named {name}: say which: sn={one} or sn={other}"));
        }
    }
    Ok((chosen, left_out))
}

/// What a cancel does, in executions.
pub struct Cancelled {
    /// How many had not ended: all of these are withdrawn, now or in later parts.
    pub withdrawn: i64,
    /// How many of them were given to their hosts already.
    pub may_act: i64,
    /// Whether some have to be withdrawn in later parts.
    pub more: bool,
}

/// Cancels a job, or one execution. Of a job only the first part of its executions is withdrawn here. The others are not
/// offered any more, and `withdraw` does the rest.
///
/// # Errors
/// What the engine says, or that there is no such job.
pub fn cancel(tx: &mut dyn Tx, id: &str, who: &str) -> Result<Cancelled, Error> {
    let now = clock::now();
    let mut done = Cancelled { withdrawn: 0, may_act: 0, more: false };
    if let Some(mut one) = executions::get(tx, id)? {
        if one.execution.state.is_open() {
            (done.withdrawn, done.may_act) = (1, i64::from(one.execution.offered.is_some()));
            one.execution.step(Event::Cancel, now);
            executions::save(tx, &one.id, &one.execution)?;
        }
    } else {
        let Some(job) = jobs::get(tx, id)? else {
            return missing(format!("there is no job \"{id}\": see bootserver job list"));
        };
        let counts = jobs::counts(tx, id)?;
        let sum = |test: fn(execution::State) -> bool| -> i64 {
            let states = counts.iter().filter(|(word, _)| execution::State::parse(word).is_some_and(test));
            states.map(|(_, count)| count).sum()
        };
        done.withdrawn = sum(execution::State::is_open);
        done.may_act = sum(|state| state.is_open() && state != execution::State::Waiting);
        // A job of which all executions have ended stays as it is.
        if sum(execution::State::can_be_cancelled) > 0 || job.state == State::Preparing {
            jobs::set_state(tx, id, State::Cancelling)?;
            done.more = withdraw(tx, id, now)?;
        }
    }
    let after = format!("{} withdrawn", done.withdrawn);
    events::audit(tx, now, who, "job cancel", &format!("job {id}"), ("", &after))?;
    Ok(done)
}

/// Withdraws a part of a job that is being cancelled; tells whether there is more.
///
/// # Errors
/// What the engine says.
pub fn withdraw(tx: &mut dyn Tx, id: &str, now: i64) -> Result<bool, Error> {
    let part = executions::open_of(tx, id, i64::try_from(PART).unwrap_or(i64::MAX))?;
    let more = part.len() == PART;
    for mut stored in part {
        stored.execution.step(Event::Cancel, now);
        executions::save(tx, &stored.id, &stored.execution)?;
    }
    if !more {
        jobs::set_state(tx, id, State::Cancelled)?;
    }
    Ok(more)
}
