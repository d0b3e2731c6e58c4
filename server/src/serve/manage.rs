//! What people do to hosts, keys and groups. Each is one transaction and leaves a line in the audit trail.

use super::{clock, zone};
use crate::model::execution::{self, Event};
use crate::model::filter::Filter;
use crate::model::host::{Freshness, State};
use crate::model::window::Window;
use crate::store::groups::{self, Key};
use crate::store::hosts::{Host, Which};
use crate::store::{events, executions, hosts, jobs, refused, Error, Tx};
use crate::wire::{job, sign};
use serde_json::{json, Value as Json};

/// Moves a host to another state.
///
/// # Errors
/// What the engine says, or that there is no such host.
pub fn set_state(tx: &mut dyn Tx, sn: &str, state: State, reason: &str, who: &str, now: i64) -> Result<(), Error> {
    let mut host = hosts::find(tx, sn)?;
    let before = host.state;
    host.state = state;
    host.reason = reason.to_string();
    hosts::save(tx, &host)?;
    match state {
        // It starts anew: whichever of two machines comes first is the one.
        State::Accepted => hosts::reset_replay(tx, &host.sn)?,
        State::Retired | State::Rejected => withdraw(tx, &host.sn, now)?,
        State::Pending | State::Conflict => (),
    }
    let (sn, name) = (&host.sn, &host.name);
    events::note(tx, now, "host", (sn, name), &format!("{} by {who}", state.as_str()), 0)?;
    events::audit(tx, now, who, state.as_str(), &format!("host {name} {sn}"), (before.as_str(), state.as_str()))
}

/// Withdraws what a host has not ended.
fn withdraw(tx: &mut dyn Tx, sn: &str, now: i64) -> Result<(), Error> {
    for mut stored in executions::live_of(tx, sn)? {
        stored.execution.step(Event::Cancel, now);
        executions::save(tx, &stored.id, &stored.execution)?;
    }
    Ok(())
}

/// Puts a host in the place of another: group, labels and pin move, the old one is retired; states of hosts do not move.
///
/// # Errors
/// What the engine says, or that there is no such host.
pub fn replace(tx: &mut dyn Tx, old: &str, new: &str, who: &str, now: i64) -> Result<(), Error> {
    let (old, mut new) = (hosts::find(tx, old)?, hosts::find(tx, new)?);
    if old.sn == new.sn {
        return refused("OLD and NEW are the same host");
    }
    regroup(&mut new, &old.group);
    new.reason = String::new();
    hosts::save(tx, &new)?;
    let mut labels = hosts::labels(tx, &old.sn)?;
    labels.extend(hosts::labels(tx, &new.sn)?);
    hosts::set_labels(tx, &new.sn, &labels)?;
    if let Some(why) = hosts::pinned(tx, &old.sn)? {
        hosts::pin(tx, &new.sn, Some(&why))?;
    }
    tx.run("UPDATE hosts SET flagged = 0 WHERE sn = ?1", crate::args![&new.sn])?;
    judge_envs(tx, &new.sn, now)?;
    set_state(tx, &old.sn, State::Retired, &format!("replaced by {}", new.sn), who, now)?;
    events::note(tx, now, "host", (&new.sn, &new.name), &format!("takes the place of {}", old.sn), 0)?;
    events::audit(tx, now, who, "replace", &format!("host {}", new.name), (&old.sn, &new.sn))
}

/// Sets labels of a host, and removes those with an empty value.
///
/// # Errors
/// What the engine says, that there is no such host, or that a name will not do.
pub fn label(tx: &mut dyn Tx, word: &str, changes: &serde_json::Map<String, Json>, who: &str) -> Result<(), Error> {
    let host = hosts::find(tx, word)?;
    let before = hosts::labels(tx, &host.sn)?;
    let mut labels = before.clone();
    for (name, value) in changes {
        let value = value.as_str().unwrap_or_default();
        if !crate::model::release::is_name(name) || value.len() > 128 || value.chars().any(char::is_control) {
            return refused(format!("label \"{name}\": want a name of A-Z a-z 0-9 _ - and a value of up to 128 bytes"));
        }
        if value.is_empty() {
            labels.remove(name);
        } else {
            labels.insert(name.clone(), value.to_string());
        }
    }
    hosts::set_labels(tx, &host.sn, &labels)?;
    judge_envs(tx, &host.sn, clock::now())?;
    let (before, after) = (json!(before).to_string(), json!(labels).to_string());
    events::audit(tx, clock::now(), who, "label", &format!("host {} {}", host.name, host.sn), (&before, &after))
}

/// Pins hosts: their versions stay as they are, until they are unpinned.
///
/// # Errors
/// What the engine says, that there is no such host, or that the reason will not do.
pub fn pin(tx: &mut dyn Tx, words: &[String], why: Option<&str>, who: &str) -> Result<(), Error> {
    if why.is_some_and(|why| why.len() > 200 || why.chars().any(char::is_control)) {
        return refused("reason: want up to 200 bytes in one line");
    }
    for word in words {
        let host = hosts::find(tx, word)?;
        let before = hosts::pinned(tx, &host.sn)?;
        hosts::pin(tx, &host.sn, why)?;
        let (action, object) = (if why.is_some() { "pin" } else { "unpin" }, format!("host {} {}", host.name, host.sn));
        let (before, after) = (before.unwrap_or_default(), why.unwrap_or_default());
        events::audit(tx, clock::now(), who, action, &object, (&before, after))?;
    }
    Ok(())
}

/// Puts a host into another group, whose limit may be another one: a lost host counts as late until it is judged again by it.
fn regroup(host: &mut Host, group: &str) {
    host.group = group.to_string();
    if host.facts.fresh == Freshness::Lost {
        host.facts.fresh = Freshness::Late;
    }
}

/// Judges again who gets envs, after the group or the labels of a host have changed: what it was not given yet, and would not
/// be given now, is withdrawn.
fn judge_envs(tx: &mut dyn Tx, sn: &str, now: i64) -> Result<(), Error> {
    let mut found = None;
    hosts::views(tx, Which::One(sn), now, &[], &mut |mut view, _| {
        // A host's own labels must not lead secrets to it.
        view.labels = view.own_labels.clone();
        found = Some(view);
        Ok(())
    })?;
    let Some(host) = found else { return Ok(()) };
    for mut stored in executions::live_of(tx, sn)? {
        if stored.execution.state != execution::State::Waiting {
            continue;
        }
        let Some(job) = jobs::get(tx, &stored.job)? else { continue };
        let meant = Filter::parse(&job.select).is_ok_and(|filter| filter.matches(&host));
        if !meant && job::carries_envs(&job.body) {
            stored.execution.step(Event::Cancel, now);
            executions::save(tx, &stored.id, &stored.execution)?;
            let text = format!("{} {}: withdrawn, as it carries envs for {}", job.action, job.agent, job.select);
            events::note(tx, now, "job", (sn, &host.name), &text, 0)?;
        }
    }
    Ok(())
}

/// Moves a host to another group.
///
/// # Errors
/// What the engine says, or that there is no such host or group.
pub fn move_to(tx: &mut dyn Tx, word: &str, group: &str, who: &str) -> Result<(), Error> {
    groups::get(tx, group)?;
    let mut host = hosts::find(tx, word)?;
    let before = host.group.clone();
    regroup(&mut host, group);
    hosts::save(tx, &host)?;
    judge_envs(tx, &host.sn, clock::now())?;
    let object = format!("host {} {}", host.name, host.sn);
    events::audit(tx, clock::now(), who, "group", &object, (&before, group))
}

/// What somebody asks for in a key.
#[derive(Clone, Debug)]
pub struct NewKey {
    /// Made where it is missing.
    pub group: String,
    /// For one host of this name only.
    pub host: Option<String>,
    /// Whether its hosts are accepted at once.
    pub auto_accept: bool,
}

/// Makes a key, and its group where it is missing.
///
/// # Errors
/// What the engine says, or that the group's name will not do.
pub fn new_key(tx: &mut dyn Tx, wanted: &NewKey, who: &str) -> Result<Key, Error> {
    let now = clock::now();
    groups::make(tx, &wanted.group, now)?;
    let secret = clock::secret();
    let key = Key {
        id: sign::key_id(&secret),
        secret,
        group: wanted.group.clone(),
        host: wanted.host.clone(),
        bound_sn: None,
        auto_accept: wanted.auto_accept,
        created: now,
        revoked: None,
    };
    groups::add_key(tx, &key)?;
    let object = format!("key {} of group {}", key.id, key.group);
    events::audit(tx, now, who, "key new", &object, ("", if key.auto_accept { "auto-accept" } else { "" }))?;
    Ok(key)
}

/// Makes a group.
///
/// # Errors
/// What the engine says, that its name will not do, or that it is there.
pub fn new_group(tx: &mut dyn Tx, name: &str, who: &str) -> Result<(), Error> {
    if !groups::make(tx, name, clock::now())? {
        return refused(format!("there is a group \"{name}\" already"));
    }
    events::audit(tx, clock::now(), who, "group new", &format!("group {name}"), ("", ""))
}

/// Changes settings of a group.
///
/// # Errors
/// What the engine says, or which setting will not do.
pub fn set_group(tx: &mut dyn Tx, name: &str, changes: &serde_json::Map<String, Json>, who: &str) -> Result<(), Error> {
    let mut group = groups::get(tx, name)?;
    let before = group.told();
    for (key, value) in changes {
        let value = value.as_str().unwrap_or_default();
        let number = || value.parse::<i64>().ok().filter(|seconds| *seconds > 0);
        let wrong = |want: &str| Error::Refused(format!("{key}: want {want}, got \"{value}\""));
        let flag = || match value {
            "true" | "yes" | "auto" => Ok(true),
            "false" | "no" | "ask" => Ok(false),
            _ => Err(wrong("true or false")),
        };
        match key.as_str() {
            "lost" | "lost_after" => group.lost_after = number().ok_or_else(|| wrong("seconds"))?,
            "retire" | "retire_after" if value.is_empty() || value == "never" => group.retire_after = None,
            "retire" | "retire_after" => group.retire_after = Some(number().ok_or_else(|| wrong("seconds"))?),
            "replace" => group.replace_auto = flag()?,
            "zone" => {
                zone::get(value).map_err(Error::Refused)?;
                group.zone = value.to_string();
            }
            "window" if value.is_empty() || value == "always" => group.window = None,
            "window" => {
                Window::parse(value).map_err(Error::Refused)?;
                group.window = Some(value.to_string());
            }
            "allow_unidentified" => group.allow_unidentified = flag()?,
            _ => {
                let known = "zone, window, lost, retire, replace, allow_unidentified";
                return refused(format!("unknown setting \"{key}\": want one of {known}"));
            }
        }
    }
    groups::set(tx, &group)?;
    // Judged again by the new limit.
    hosts::judge_again(tx, name)?;
    let after = group.told();
    events::audit(tx, clock::now(), who, "group set", &format!("group {name}"), (&before, &after))
}
