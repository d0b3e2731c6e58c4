//! What a report does to what is stored, in one transaction: identity, replay, states, jobs for the reply.

use super::zone;
use crate::model::exchange::{self, Live, Said, Seen};
use crate::model::facts::{agent_line, read_agent_line, Facts};
use crate::model::host::State;
use crate::model::identity::{self, Key, Known, Speech};
use crate::model::release;
use crate::model::replay::{self, Mark, Verdict};
use crate::store::events::{self, Event};
use crate::store::hosts::Host;
use crate::store::{executions, groups, hosts, jobs, releases, Error, Tx};
use crate::wire::agent::{Agent, Report};
use crate::wire::job;
use serde_json::Value as Json;
use std::collections::HashMap;

/// Who sent a request.
#[derive(Clone, Debug)]
pub struct Sender {
    /// The key that signed it.
    pub key: Option<Key>,
    /// `X-BootAgent-Sn`.
    pub sn: String,
    /// `X-BootAgent-Nonce`.
    pub nonce: String,
    /// The address.
    pub peer: String,
    /// Where packages are served, as this host sees it.
    pub base: String,
}

impl Sender {
    /// The group that its key leads to.
    fn group(&self) -> &str {
        self.key.as_ref().map_or("default", |key| key.group.as_str())
    }
}

/// What goes back.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// The report is taken.
    Taken {
        /// Jobs to offer.
        jobs: Vec<Json>,
        /// Ids to cancel.
        cancel: Vec<String>,
    },
    /// A new host, and too many wait or come at one time: errcode 0 and no jobs.
    TurnedAway,
    /// errcode 1 and why: the server does not want it.
    Unwanted(String),
    /// 403 and why.
    Forbidden(String),
}

const HOUR: i64 = 3600;
/// Agents of one report whose change is an event.
const CHANGES_MAX: usize = 100;
/// Hosts that wait for a decision at most.
const PENDING_MAX: i64 = 10_000;

/// Takes a report. `may_enroll`: whether one more new host may be taken this second.
///
/// # Errors
/// What the engine says.
pub fn take(
    tx: &mut dyn Tx,
    report: &Report,
    sender: &Sender,
    now: i64,
    may_enroll: &dyn Fn() -> bool,
) -> Result<Answer, Error> {
    let group = sender.group();
    let Some(sn) = identity(tx, report, group)? else {
        let name = &report.hostname;
        let text = format!("{name} has no sn, and group {group} does not take such hosts");
        events::note(tx, now, "host", ("", name), &text, HOUR)?;
        return Ok(Answer::Unwanted(format!("{text}: bootserver group set {group} allow_unidentified=true")));
    };
    if sender.key.is_some() && !sender.sn.is_empty() && report.sn.as_ref().is_some_and(|sn| *sn != sender.sn) {
        return Ok(Answer::Forbidden("the body's sn is not the header's".to_string()));
    }
    let known = hosts::get(tx, &sn)?;
    if let Some(why) = unheld(tx, known.as_ref(), sender.key.as_ref(), &sn, &report.hostname)? {
        // An sn that nobody knows is anything: those have one pause together.
        let named = if known.is_some() { sn.as_str() } else { "" };
        events::note(tx, now, "security", (named, &report.hostname), &why, HOUR)?;
        return Ok(Answer::Forbidden(why));
    }
    let (mut host, before) = match known {
        Some(host) => (host.clone(), Some(host)),
        None => match enroll(tx, report, sender, &sn, now, may_enroll)? {
            Some(host) => (host, None),
            None => return Ok(Answer::TurnedAway),
        },
    };
    if !take_verdict(tx, &mut host, report, sender, now)? {
        return Ok(Answer::Forbidden("a report that was seen before".to_string()));
    }
    update(tx, &mut host, before.as_ref(), report, sender, now)?;
    let (jobs, cancel) = exchange_jobs(tx, &host, report, sender, now)?;
    Ok(Answer::Taken { jobs, cancel })
}

/// The `sn`, or one made of the name where the group takes hosts without.
fn identity(tx: &mut dyn Tx, report: &Report, group: &str) -> Result<Option<String>, Error> {
    if let Some(sn) = &report.sn {
        return Ok(Some(sn.clone()));
    }
    let allowed = groups::find(tx, group)?.is_some_and(|group| group.allow_unidentified);
    Ok(allowed.then(|| format!("name:{}", report.hostname)))
}

/// Why the key may not speak for this host; `None` when it may. Binds a key that was made for one host.
///
/// # Errors
/// What the engine says.
pub fn unheld(
    tx: &mut dyn Tx,
    host: Option<&Host>,
    key: Option<&Key>,
    sn: &str,
    name: &str,
) -> Result<Option<String>, Error> {
    let held = match host.and_then(|host| host.key.as_ref()) {
        Some(id) => groups::key(tx, id)?,
        None => None,
    };
    let known = host.map(|host| Known { group: &host.group, key: held.as_ref() });
    match identity::judge_key(known, key, sn, name) {
        Speech::May => Ok(None),
        Speech::MayNot(why) => Ok(Some(why)),
        Speech::Binds => {
            if let Some(key) = key {
                groups::bind_key(tx, &key.id, sn)?;
            }
            Ok(None)
        }
    }
}

/// Takes a new host, unless too many come.
fn enroll(
    tx: &mut dyn Tx,
    report: &Report,
    sender: &Sender,
    sn: &str,
    now: i64,
    may_enroll: &dyn Fn() -> bool,
) -> Result<Option<Host>, Error> {
    // The count of those of this second comes first: it costs nothing when a flood comes.
    let mut waiting = Ok(0);
    let room = || {
        may_enroll() && {
            waiting = tx.number("SELECT count(*) FROM hosts WHERE state = 'pending'", &[]);
            waiting.as_ref().is_ok_and(|waiting| *waiting < PENDING_MAX)
        }
    };
    let state = identity::enrol(sender.key.as_ref().is_some_and(|key| key.auto_accept), room);
    waiting?;
    let Some(state) = state else { return Ok(None) };
    let group = sender.group();
    groups::make(tx, group, now)?;
    let host = Host {
        sn: sn.to_string(),
        name: report.hostname.clone(),
        group: group.to_string(),
        state,
        key: sender.key.as_ref().map(|key| key.id.clone()),
        created: now,
        reason: String::new(),
        seen: None,
        boots: Default::default(),
        nonces: Default::default(),
        peer: String::new(),
        agents: String::new(),
        step: report.step,
        facts: facts(report, now),
    };
    hosts::add(tx, &host)?;
    if hosts::named(tx, &host.name)?.len() > 1 {
        tx.run("UPDATE hosts SET flagged = 1 WHERE sn = ?1", crate::args![sn])?;
    }
    let text = match state {
        State::Accepted => "new host, accepted by its key".to_string(),
        _ => format!("new host: bootserver host accept {}", host.name),
    };
    events::note(tx, now, "host", (sn, &host.name), &text, 0)?;
    Ok(Some(host))
}

/// What lists show of a report.
fn facts(report: &Report, now: i64) -> Facts {
    let statuses = report.agents.iter().map(|agent| agent.status.as_str());
    Facts::of(&report.version, &report.os, statuses, report.timestamp.saturating_sub(now))
}

/// Notes what the report tells of the host's identity; false when it counts for nothing.
fn take_verdict(tx: &mut dyn Tx, host: &mut Host, report: &Report, sender: &Sender, now: i64) -> Result<bool, Error> {
    let mark = Mark { boot: report.boot_id.as_deref(), seq: report.seq, nonce: &sender.nonce };
    let verdict = replay::judge(&mut host.boots, &mut host.nonces, &mark);
    let Some(state) = replay::next_state(host.state, verdict) else { return Ok(false) };
    if verdict == Verdict::Suspect {
        let text = "a nonce came twice: a recorded report, or an agent whose counter was set back";
        events::note(tx, now, "security", (&host.sn, &host.name), text, HOUR)?;
    }
    if verdict == Verdict::Clone && state == State::Conflict {
        host.reason = conflict_reason(host, &sender.peer);
        events::note(tx, now, "conflict", (&host.sn, &host.name), &host.reason, HOUR)?;
    }
    host.state = state;
    Ok(true)
}

/// What somebody has to know and to do when two machines are one host. The addresses are in one order, so that the text
/// stays the same while the two take turns.
fn conflict_reason(host: &Host, peer: &str) -> String {
    let mut peers = [host.peer.as_str(), peer];
    peers.sort_unstable();
    format!(
        "two machines report as this host, from {} and {}: remove identity.json from the state_dir of one of them and \
         restart its daemon, then bootserver host accept {}",
        peers[0], peers[1], host.sn
    )
}

/// Writes the hot row, and what changed.
fn update(
    tx: &mut dyn Tx,
    host: &mut Host,
    before: Option<&Host>,
    report: &Report,
    sender: &Sender,
    now: i64,
) -> Result<(), Error> {
    if host.name != report.hostname {
        let text = format!("its name changed from {} to {}", host.name, report.hostname);
        host.name.clone_from(&report.hostname);
        events::note(tx, now, "host", (&host.sn, &host.name), &text, 0)?;
        tx.run("UPDATE hosts SET flagged = 1 WHERE sn = ?1", crate::args![&host.sn])?;
    }
    if let Some(key) = &sender.key {
        host.key = Some(key.id.clone());
    }
    if host.state == State::Retired {
        let text = format!("came back, and is retired: bootserver host accept {}", host.sn);
        events::note(tx, now, "came back", (&host.sn, &host.name), &text, HOUR)?;
    }
    host.facts = facts(report, now);
    let same = |old: &Host| {
        old.name == host.name
            && old.key == host.key
            && old.state == host.state
            && old.reason == host.reason
            && old.facts == host.facts
    };
    if before.is_some_and(|old| !same(old)) {
        hosts::save(tx, host)?;
    }
    let line = |agent: &Agent| agent_line(&agent.name, &agent.status, &agent.version);
    let agents: String = report.agents.iter().map(line).collect();
    if agents != host.agents && before.is_some() {
        tell_changes(tx, host, &report.agents, now)?;
    }
    for (at, name, message) in &report.events {
        // By the server's clock: the host's may be anything.
        let time = now.saturating_sub(report.timestamp.saturating_sub(*at)).clamp(0, now);
        let text = if name.is_empty() { message.clone() } else { format!("{name}: {message}") };
        let (sn, host) = (&host.sn, &host.name);
        events::add(tx, &Event { time, received: now, kind: "agent", sn, host, message: &text })?;
    }
    host.agents = agents;
    host.seen = Some(now);
    host.step = report.step;
    host.peer.clone_from(&sender.peer);
    hosts::save_report(tx, host, report.timestamp.saturating_sub(now), &report.body)
}

/// Keeps an event for each agent that is in another state than before, up to a number.
fn tell_changes(tx: &mut dyn Tx, host: &Host, agents: &[Agent], now: i64) -> Result<(), Error> {
    let pair = |line: &str| read_agent_line(line).map(|(name, status, _)| (name.to_string(), status.to_string()));
    let before: HashMap<String, String> = host.agents.lines().filter_map(pair).collect();
    let mut told = 0;
    for agent in agents {
        let known = before.get(&agent.name).map_or("unknown", String::as_str);
        if known != agent.status && told < CHANGES_MAX {
            let why = if agent.detail.is_empty() { String::new() } else { format!(": {}", agent.detail) };
            let text = format!("{}: {known} -> {}{why}", agent.name, agent.status).replace("stoped", "stopped");
            events::note(tx, now, "agent", (&host.sn, &host.name), &text, 0)?;
            told += 1;
        }
    }
    Ok(())
}

/// Moves the host's executions on, and collects what to offer and what to cancel.
fn exchange_jobs(
    tx: &mut dyn Tx,
    host: &Host,
    report: &Report,
    sender: &Sender,
    now: i64,
) -> Result<(Vec<Json>, Vec<String>), Error> {
    let mut stored = executions::to_exchange(tx, &host.sn)?;
    if stored.is_empty() {
        return Ok((Vec::new(), Vec::new()));
    }
    let before: Vec<_> = stored.iter().map(|one| one.execution.clone()).collect();
    let version = |agent: &str| match agent {
        "bootagent" => Some(crate::model::host::split_version(&report.version).0),
        agent => report.agents.iter().find(|known| known.name == agent).map(|known| known.version.clone()),
    };
    let seen = Seen { open: report.open.as_deref(), version: &version, step: host.step };
    let gate = zone::gate(&groups::find(tx, &host.group)?, now);
    let mut live: Vec<Live> =
        stored.iter_mut().map(|one| Live { id: &one.id, agent: &one.agent, execution: &mut one.execution }).collect();
    let said = exchange::exchange(&mut live, &seen, host.state == State::Accepted, &gate, now);
    let (mut offers, mut cancel) = (Vec::new(), Vec::new());
    for ((one, before), said) in stored.iter().zip(&before).zip(said) {
        if one.execution != *before {
            executions::save(tx, &one.id, &one.execution)?;
        }
        match said {
            Said::Nothing => (),
            Said::Offer { until } => offers.extend(build(tx, one, report, sender, until.map(|until| until - now))?),
            Said::Cancel => cancel.push(one.id.clone()),
            Said::Settle => executions::settle(tx, &one.id)?,
        }
    }
    Ok((offers, cancel))
}

/// The job for the wire; `None` when the job is gone. `left`: seconds until the maintenance window closes.
fn build(
    tx: &mut dyn Tx,
    stored: &executions::Stored,
    report: &Report,
    sender: &Sender,
    left: Option<i64>,
) -> Result<Option<Json>, Error> {
    let Some(known) = jobs::get(tx, &stored.job)? else { return Ok(None) };
    let mut artifact = None;
    if let (true, Some(version)) = (job::installs(&known.action), &known.version) {
        let (_, arch) = crate::model::host::split_version(&report.version);
        let all: Vec<_> = releases::artifacts(tx, &known.agent, version)?.into_iter().map(|(a, _)| a).collect();
        artifact = release::choose(&all, &arch, &report.os).cloned();
    }
    let body = match left {
        Some(left) => job::within(&known.body, left),
        None => known.body,
    };
    Ok(Some(job::offer(&stored.id, &known.action, &known.agent, &body, artifact.as_ref(), &sender.base)))
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
