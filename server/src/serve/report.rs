//! What a report does to what is stored, in one transaction: identity, replay, states, jobs for the reply.

use crate::model::execution::{Event as Happening, State as ExecutionState};
use crate::model::host::State;
use crate::model::release;
use crate::model::replay::Verdict;
use crate::store::events::{self, Event};
use crate::store::groups::Key;
use crate::store::hosts::Host;
use crate::store::{executions, groups, hosts, jobs, releases, Error, Tx};
use crate::wire::agent::{Agent, Report};
use crate::wire::job;
use serde_json::Value as Json;

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

/// What goes back.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// The report is taken.
    Taken {
        /// Jobs to offer.
        jobs: Vec<Json>,
        /// Ids to cancel.
        cancel: Vec<String>,
        /// The state of the host, for the metrics.
        state: &'static str,
    },
    /// errcode 1 and why: the server does not want it.
    Unwanted(String),
    /// 403 and why.
    Forbidden(String),
}

const HOUR: i64 = 3600;
/// Hosts that wait for a decision at most.
const PENDING_MAX: i64 = 10_000;
/// Nonces kept of a host whose reports have no `seq`.
const NONCES: usize = 64;
/// Jobs in one reply at most; the agent holds 256 open.
const JOBS_MAX: usize = 64;

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
    let group = sender.key.as_ref().map_or("default", |key| key.group.as_str());
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
    if let Some(why) = held(tx, known.as_ref(), sender.key.as_ref(), &sn, &report.hostname)? {
        events::note(tx, now, "security", (&sn, &report.hostname), &why, HOUR)?;
        return Ok(Answer::Forbidden(why));
    }
    let (mut host, before) = match known {
        Some(host) => (host.clone(), Some(host)),
        None => match enroll(tx, report, sender, &sn, group, now, may_enroll)? {
            Some(host) => (host, None),
            None => return Ok(Answer::Taken { jobs: Vec::new(), cancel: Vec::new(), state: "turned away" }),
        },
    };
    if !judge_newness(tx, &mut host, report, sender, now)? {
        return Ok(Answer::Forbidden("a report that was seen before".to_string()));
    }
    update(tx, &mut host, before.as_ref(), report, sender, now)?;
    let state = host.state.as_str();
    let (jobs, cancel) = exchange_jobs(tx, &host, report, sender, now)?;
    Ok(Answer::Taken { jobs, cancel, state })
}

/// The `sn`, or one made of the name where the group takes hosts without.
fn identity(tx: &mut dyn Tx, report: &Report, group: &str) -> Result<Option<String>, Error> {
    if let Some(sn) = &report.sn {
        return Ok(Some(sn.clone()));
    }
    let allowed = groups::list(tx)?.iter().any(|known| known.name == group && known.allow_unidentified);
    Ok(allowed.then(|| format!("name:{}", report.hostname)))
}

/// Why this key may not speak for this host; `None` when it may. Binds a key made for one host.
pub fn held(
    tx: &mut dyn Tx,
    host: Option<&Host>,
    key: Option<&Key>,
    sn: &str,
    name: &str,
) -> Result<Option<String>, Error> {
    let Some(key) = key else {
        return Ok(host.and_then(|host| host.key.as_ref()).map(|_| format!("{name}: unsigned, and it has a key")));
    };
    if let Some(wanted) = &key.host {
        match &key.bound_sn {
            Some(bound) if bound == sn => (),
            Some(_) => return Ok(Some(format!("key {} is bound to another machine", key.id))),
            None if host.is_some_and(|host| host.group != key.group) => {
                return Ok(Some(format!("key {} is of another group", key.id)));
            }
            None if wanted != name => return Ok(Some(format!("key {} is for host \"{wanted}\"", key.id))),
            None => groups::bind_key(tx, &key.id, sn)?,
        }
    }
    let Some(held) = host.and_then(|host| host.key.as_ref()).filter(|held| **held != key.id) else { return Ok(None) };
    // Another key: two of a group may be active while they change, but one that was made for this host is held to.
    let Some(former) = groups::key(tx, held)? else { return Ok(None) };
    let same = former.group == key.group && (former.host.is_none() || key.host.is_some());
    Ok((!same).then(|| format!("{name} was taken with key {}, and this is key {}", former.id, key.id)))
}

/// Takes a new host, unless too many come.
fn enroll(
    tx: &mut dyn Tx,
    report: &Report,
    sender: &Sender,
    sn: &str,
    group: &str,
    now: i64,
    may_enroll: &dyn Fn() -> bool,
) -> Result<Option<Host>, Error> {
    let accepted = sender.key.as_ref().is_some_and(|key| key.auto_accept);
    if !accepted {
        let waiting = tx.number("SELECT count(*) FROM hosts WHERE state = 'pending'", &[])?;
        if waiting >= PENDING_MAX || !may_enroll() {
            return Ok(None);
        }
    }
    groups::make(tx, group, now)?;
    let host = Host {
        sn: sn.to_string(),
        name: report.hostname.clone(),
        group: group.to_string(),
        state: if accepted { State::Accepted } else { State::Pending },
        key: sender.key.as_ref().map(|key| key.id.clone()),
        created: now,
        reason: String::new(),
        seen: None,
        boots: Default::default(),
        nonces: String::new(),
        peer: String::new(),
        agents: String::new(),
        step: report.step,
    };
    hosts::add(tx, &host)?;
    if hosts::named(tx, &host.name)?.len() > 1 {
        tx.run("UPDATE hosts SET flagged = 1 WHERE sn = ?1", crate::args![sn])?;
    }
    let text = if accepted { "new host, accepted by its key" } else { "new host: bootserver host accept" };
    events::note(tx, now, "host", (sn, &host.name), text, 0)?;
    Ok(Some(host))
}

/// Whether the report is no recorded one. Two machines with one identity become a conflict.
fn judge_newness(tx: &mut dyn Tx, host: &mut Host, report: &Report, sender: &Sender, now: i64) -> Result<bool, Error> {
    let verdict = report.boot_id.as_ref().map_or(Verdict::New, |boot| host.boots.judge(boot, report.seq));
    match verdict {
        Verdict::Replay => return Ok(false),
        Verdict::Clone if matches!(host.state, State::Accepted | State::Pending | State::Conflict) => {
            host.state = State::Conflict;
            host.reason = format!(
                "two machines report as this host, from {} and {}: remove identity.json from the state_dir of one of them and restart its daemon, then \
                 bootserver host accept {}",
                host.peer, sender.peer, host.sn
            );
            events::note(tx, now, "conflict", (&host.sn, &host.name), &host.reason, HOUR)?;
        }
        Verdict::Clone | Verdict::Rebooted | Verdict::New => (),
    }
    if report.seq.is_none() && !sender.nonce.is_empty() {
        let mut nonces: Vec<&str> = host.nonces.split(' ').filter(|nonce| !nonce.is_empty()).collect();
        if nonces.contains(&sender.nonce.as_str()) {
            let text = "a nonce came twice: a recorded report, or an agent whose counter was set back";
            events::note(tx, now, "security", (&host.sn, &host.name), text, HOUR)?;
        } else {
            nonces.push(&sender.nonce);
            let first = nonces.len().saturating_sub(NONCES);
            host.nonces = nonces[first..].join(" ");
        }
    }
    Ok(true)
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
    let same = |old: &Host| {
        old.name == host.name && old.key == host.key && old.state == host.state && old.reason == host.reason
    };
    if before.is_some_and(|old| !same(old)) {
        hosts::save(tx, host)?;
    }
    let agents: String = report.agents.iter().map(|a| format!("{} {} {}\n", a.name, a.status, a.version)).collect();
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

/// Keeps an event for each agent that is in another state than before.
fn tell_changes(tx: &mut dyn Tx, host: &Host, agents: &[Agent], now: i64) -> Result<(), Error> {
    for agent in agents {
        let known = host.agents.lines().find_map(|line| line.strip_prefix(&agent.name)?.strip_prefix(' '));
        let before = known.and_then(|rest| rest.split(' ').next()).unwrap_or("unknown");
        if before != agent.status {
            let why = if agent.detail.is_empty() { String::new() } else { format!(": {}", agent.detail) };
            let text = format!("{}: {before} -> {}{why}", agent.name, agent.status).replace("stoped", "stopped");
            events::note(tx, now, "agent", (&host.sn, &host.name), &text, 0)?;
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
    let (mut offers, mut cancel) = (Vec::new(), Vec::new());
    for mut stored in executions::live_of(tx, &host.sn)? {
        let open = report.open.as_ref().map(|ids| ids.contains(&stored.id));
        let before = stored.execution.clone();
        if before.state == ExecutionState::Withdrawn {
            match open {
                Some(true) => cancel.push(stored.id.clone()),
                // It had a report to show up in since it was offered; the result, if any, is recorded all the same.
                Some(false) if before.ended.is_some_and(|ended| now > ended + 3 * host.step) => {
                    executions::settle(tx, &stored.id)?;
                }
                _ => (),
            }
            continue;
        }
        let version = report.agents.iter().find(|a| a.name == stored.agent).map(|a| a.version.clone());
        let version = if stored.agent == "bootagent" {
            Some(crate::model::host::split_version(&report.version).0)
        } else {
            version
        };
        stored.execution.step(Happening::Report { open, version }, now);
        let execution = &mut stored.execution;
        let due = execution.state.is_open() && now >= execution.not_before;
        if due && host.state == State::Accepted && offers.len() < JOBS_MAX {
            // One that the host says it has need not be said again.
            if open != Some(true) {
                if let Some(offer) = build(tx, &stored, report, sender)? {
                    offers.push(offer);
                }
            }
            stored.execution.step(Happening::Offer, now);
        }
        if stored.execution != before {
            executions::save(tx, &stored.id, &stored.execution)?;
        }
    }
    Ok((offers, cancel))
}

/// The job for the wire; `None` when the job is gone.
fn build(
    tx: &mut dyn Tx,
    stored: &executions::Stored,
    report: &Report,
    sender: &Sender,
) -> Result<Option<Json>, Error> {
    let Some(known) = jobs::get(tx, &stored.job)? else { return Ok(None) };
    let mut artifact = None;
    if let (true, Some(version)) = (job::installs(&known.action), &known.version) {
        let (_, arch) = crate::model::host::split_version(&report.version);
        let all: Vec<_> = releases::artifacts(tx, &known.agent, version)?.into_iter().map(|(a, _)| a).collect();
        artifact = release::choose(&all, &arch, &report.os).cloned();
    }
    Ok(Some(job::offer(&stored.id, &known.action, &known.agent, &known.body, artifact.as_ref(), &sender.base)))
}
