//! Hosts: the record that people change, and the hot row that each report writes.

use super::{missing, refused, Error, Row, Tx, Value, NEXT};
use crate::args;
use crate::model::facts::{self, Facts};
use crate::model::filter::Filter;
use crate::model::host::{self, AgentView, Freshness, Gaps, State, View};
use crate::model::replay::{Boots, Nonces};
use serde_json::Value as Json;
use std::collections::{BTreeMap, HashMap};

/// A host as one report meets it.
#[derive(Clone, Debug)]
pub struct Host {
    /// Its identity.
    pub sn: String,
    /// Its name, as last reported.
    pub name: String,
    /// Its group.
    pub group: String,
    /// Whether it gets jobs.
    pub state: State,
    /// The key it is held to.
    pub key: Option<String>,
    /// When it was first seen.
    pub created: i64,
    /// Why it is in this state.
    pub reason: String,
    /// When the last report came.
    pub seen: Option<i64>,
    /// Boots with their `seq`.
    pub boots: Boots,
    /// The last nonces, where there is no `seq`.
    pub nonces: Nonces,
    /// Where the last report came from.
    pub peer: String,
    /// Its agents, a line each: `model::facts::agent_line`.
    pub agents: String,
    /// Its interval, as last reported.
    pub step: i64,
    /// What lists are sorted and counted by.
    pub facts: Facts,
}

const HOST: &str =
    "SELECT h.sn, h.name, h.grp, h.state, h.key, h.created, h.reason, r.seen, r.boots, r.nonces, r.peer, \
    r.agents, r.step, h.os, h.arch, h.version, h.down, h.clock_wrong, h.fresh FROM hosts h LEFT JOIN reports r ON r.sn = h.sn";

fn host_of(row: &Row) -> Host {
    let boots: Vec<(String, i64)> = serde_json::from_str::<Vec<Json>>(&row.text(8))
        .unwrap_or_default()
        .iter()
        .filter_map(|pair| Some((pair.get(0)?.as_str()?.to_string(), pair.get(1)?.as_i64()?)))
        .collect();
    Host {
        sn: row.text(0),
        name: row.text(1),
        group: row.text(2),
        state: State::parse(&row.text(3)),
        key: row.maybe_text(4),
        created: row.int(5),
        reason: row.text(6),
        seen: row.maybe_int(7),
        boots: Boots(boots),
        nonces: Nonces(row.text(9).split(' ').filter(|nonce| !nonce.is_empty()).map(str::to_string).collect()),
        peer: row.text(10),
        agents: row.text(11),
        step: row.maybe_int(12).unwrap_or(600),
        facts: Facts {
            os: row.text(13),
            arch: row.text(14),
            version: row.text(15),
            down: row.int(16),
            clock_wrong: row.int(17) != 0,
            fresh: Freshness::parse(&row.text(18)),
        },
    }
}

/// The host of an `sn`.
///
/// # Errors
/// What the engine says.
pub fn get(tx: &mut dyn Tx, sn: &str) -> Result<Option<Host>, Error> {
    Ok(tx.row(&format!("{HOST} WHERE h.sn = ?1"), args![sn])?.as_ref().map(host_of))
}

/// The hosts of a name, 20 at most: a whole fleet may call itself localhost.
///
/// # Errors
/// What the engine says.
pub fn named(tx: &mut dyn Tx, name: &str) -> Result<Vec<Host>, Error> {
    Ok(tx.rows(&format!("{HOST} WHERE h.name = ?1 LIMIT 20"), args![name])?.iter().map(host_of).collect())
}

/// The one host that somebody means by an `sn`, the beginning of one, or a name.
///
/// # Errors
/// What the engine says; that there is none, or that there are several.
pub fn find(tx: &mut dyn Tx, word: &str) -> Result<Host, Error> {
    if let Some(host) = get(tx, word)? {
        return Ok(host);
    }
    let mut found = named(tx, word)?;
    if found.len() > 1 {
        found.retain(|host| host.state != State::Retired);
    }
    if found.is_empty() && word.len() >= 6 {
        // Every text that begins with the word comes before the word with the last of all characters behind it.
        let sql = format!("{HOST} WHERE h.sn >= ?1 AND h.sn < ?2 ORDER BY h.sn LIMIT 20");
        let end = format!("{word}{}", char::MAX);
        found = tx.rows(&sql, args![word, end])?.iter().map(host_of).collect();
    }
    match found.len() {
        0 => missing(format!("there is no host \"{word}\": want a name or an sn of bootserver host list")),
        1 => Ok(found.swap_remove(0)),
        _ => {
            let sns: Vec<&str> = found.iter().map(|host| host.sn.as_str()).collect();
            refused(format!("\"{word}\" means {} hosts: say which sn: {}", sns.len(), sns.join(", ")))
        }
    }
}

/// Keeps a new host.
///
/// # Errors
/// What the engine says.
pub fn add(tx: &mut dyn Tx, host: &Host) -> Result<(), Error> {
    tx.run(
        "INSERT INTO hosts (sn, name, grp, state, created) VALUES (?1, '', '', '', ?2)",
        args![&host.sn, host.created],
    )?;
    save(tx, host)
}

/// Keeps what changed in the record of a host.
///
/// # Errors
/// What the engine says.
pub fn save(tx: &mut dyn Tx, host: &Host) -> Result<(), Error> {
    let sql = "UPDATE hosts SET name = ?2, grp = ?3, state = ?4, key = ?5, reason = ?6, os = ?7, arch = ?8, \
        version = ?9, down = ?10, clock_wrong = ?11, fresh = ?12, trouble = ?13 WHERE sn = ?1";
    let Host { sn, name, group, key, reason, facts, .. } = host;
    let Facts { os, arch, version, down, clock_wrong, fresh } = facts;
    let (state, key, fresh) = (host.state.as_str(), key.as_deref(), fresh.as_str());
    let trouble = facts::trouble(host.state, facts, reason);
    let args = args![sn, name, group, state, key, reason, os, arch, version, *down, *clock_wrong, fresh, trouble];
    tx.run(sql, args)?;
    Ok(())
}

/// Writes the hot row.
///
/// # Errors
/// What the engine says.
pub fn save_report(tx: &mut dyn Tx, host: &Host, skew: i64, body: &str) -> Result<(), Error> {
    let boots: Vec<Json> = host.boots.0.iter().map(|(boot, seq)| serde_json::json!([boot, seq])).collect();
    let sql = "INSERT INTO reports (sn, seen, step, skew, boots, nonces, peer, agents, body) \
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT (sn) DO UPDATE SET seen = ?2, step = ?3, skew = ?4, \
        boots = ?5, nonces = ?6, peer = ?7, agents = ?8, body = ?9";
    let (boots, nonces, seen) = (Json::from(boots).to_string(), host.nonces.0.join(" "), host.seen);
    tx.run(sql, args![&host.sn, seen, host.step, skew, boots, nonces, &host.peer, &host.agents, body])?;
    Ok(())
}

/// Forgets boots and nonces, so that the next report is taken as the first.
///
/// # Errors
/// What the engine says.
pub fn reset_replay(tx: &mut dyn Tx, sn: &str) -> Result<(), Error> {
    tx.run("UPDATE reports SET boots = '[]', nonces = '' WHERE sn = ?1", args![sn])?;
    Ok(())
}

/// The state and the group of a host, and whether it is pinned.
///
/// # Errors
/// What the engine says.
pub fn standing(tx: &mut dyn Tx, sn: &str) -> Result<Option<(State, String, bool)>, Error> {
    let row = tx.row("SELECT state, grp, pinned FROM hosts WHERE sn = ?1", args![sn])?;
    Ok(row.map(|row| (State::parse(&row.text(0)), row.text(1), row.maybe_text(2).is_some())))
}

/// Why a host is pinned, where it is.
///
/// # Errors
/// What the engine says.
pub fn pinned(tx: &mut dyn Tx, sn: &str) -> Result<Option<String>, Error> {
    Ok(tx.row("SELECT pinned FROM hosts WHERE sn = ?1", args![sn])?.and_then(|row| row.maybe_text(0)))
}

/// Pins a host, or unpins it.
///
/// # Errors
/// What the engine says.
pub fn pin(tx: &mut dyn Tx, sn: &str, why: Option<&str>) -> Result<(), Error> {
    tx.run("UPDATE hosts SET pinned = ?2 WHERE sn = ?1", args![sn, why])?;
    Ok(())
}

/// The clock was set back to `now`: no host was heard of after it.
///
/// # Errors
/// What the engine says.
pub fn turn_back(tx: &mut dyn Tx, now: i64) -> Result<(), Error> {
    tx.run("UPDATE reports SET seen = ?1 WHERE seen > ?1", args![now])?;
    tx.run("UPDATE hosts SET created = ?1 WHERE flagged = 1 AND created > ?1", args![now])?;
    Ok(())
}

/// The limit of a group has changed: its lost hosts count as late until they are judged again by it.
///
/// # Errors
/// What the engine says.
pub fn judge_again(tx: &mut dyn Tx, group: &str) -> Result<(), Error> {
    let sql = format!("{HOST} WHERE h.grp = ?1 AND h.fresh = 'lost'");
    let lost: Vec<Host> = tx.rows(&sql, args![group])?.iter().map(host_of).collect();
    for mut host in lost {
        host.facts.fresh = Freshness::Late;
        save(tx, &host)?;
    }
    Ok(())
}

/// How many hosts are in each state.
///
/// # Errors
/// What the engine says.
pub fn counts(tx: &mut dyn Tx) -> Result<BTreeMap<String, i64>, Error> {
    let rows = tx.rows("SELECT state, count(*) FROM hosts GROUP BY state", &[])?;
    Ok(rows.iter().map(|row| (row.text(0), row.int(1))).collect())
}

/// The labels set on the server.
///
/// # Errors
/// What the engine says.
pub fn labels(tx: &mut dyn Tx, sn: &str) -> Result<BTreeMap<String, String>, Error> {
    let text = tx.row("SELECT labels FROM hosts WHERE sn = ?1", args![sn])?.map(|row| row.text(0)).unwrap_or_default();
    let value: Json = serde_json::from_str(&text).unwrap_or_default();
    Ok(crate::wire::agent::labels(Some(&value)))
}

/// Keeps the labels set on the server.
///
/// # Errors
/// What the engine says.
pub fn set_labels(tx: &mut dyn Tx, sn: &str, labels: &BTreeMap<String, String>) -> Result<(), Error> {
    let text = serde_json::json!(labels).to_string();
    tx.run("UPDATE hosts SET labels = ?2 WHERE sn = ?1", args![sn, text])?;
    Ok(())
}

/// Of which hosts views are wanted.
#[derive(Clone, Copy, Debug)]
pub enum Which<'a> {
    /// The one of an `sn`.
    One(&'a str),
    /// Those that a filter means.
    Meant(&'a Filter),
    /// Those that a filter may mean: of all others the database can tell that it does not. Whoever asks decides.
    Perhaps(&'a Filter),
}

/// The condition in SQL. Only columns that are set whether a host has reported or not are looked at.
fn condition(which: Which) -> (String, Vec<Value>) {
    let filter = match which {
        Which::One(sn) => return ("h.sn = ?1".to_string(), vec![sn.into()]),
        Which::Meant(filter) | Which::Perhaps(filter) => filter,
    };
    let (mut sql, mut args) = ("1 = 1".to_string(), Vec::<Value>::new());
    let plain = filter.plain().0.into_iter();
    for term in plain.filter(|term| matches!(term.column, "sn" | "name" | "grp" | "state")) {
        args.push(term.value.into());
        sql.push_str(&format!(" AND {}", super::roster::test(&term, args.len())));
    }
    (sql, args)
}

/// Hands views of hosts to `each`, in order of name.
///
/// # Errors
/// What the engine or `each` says.
pub fn views(
    tx: &mut dyn Tx,
    which: Which,
    now: i64,
    gaps: &Gaps,
    each: &mut dyn FnMut(View, Option<Json>) -> Result<(), Error>,
) -> Result<(), Error> {
    let groups: HashMap<String, i64> =
        super::groups::list(tx)?.into_iter().map(|group| (group.name, group.lost_after)).collect();
    let (test, args) = condition(which);
    let sql = format!(
        "SELECT h.sn, h.name, h.grp, h.state, h.labels, h.reason, r.seen, r.step, r.skew, r.peer, r.body, h.pinned \
         FROM hosts h LEFT JOIN reports r ON r.sn = h.sn WHERE {test} ORDER BY h.name, h.sn"
    );
    tx.each(&sql, &args, &mut |row| {
        let (view, body) = view_of(&row, &groups, now, gaps);
        match which {
            Which::Meant(filter) if !filter.matches(&view) => Ok(NEXT),
            _ => each(view, body).map(|()| NEXT),
        }
    })
}

fn view_of(row: &Row, groups: &HashMap<String, i64>, now: i64, gaps: &Gaps) -> (View, Option<Json>) {
    let body: Option<Json> = row.maybe_text(10).and_then(|text| serde_json::from_str(&text).ok());
    let text = |value: &Json, key: &str| value.get(key).and_then(Json::as_str).unwrap_or_default().to_string();
    let own: Json = serde_json::from_str(&row.text(4)).unwrap_or_default();
    let own_labels = crate::wire::agent::labels(Some(&own));
    let mut view = View {
        sn: row.text(0),
        name: row.text(1),
        group: row.text(2),
        state: row.text(3),
        seen: row.maybe_int(6),
        step: row.maybe_int(7).unwrap_or(600),
        peer: row.text(9),
        reason: row.text(5),
        pinned: row.maybe_text(11),
        ..View::default()
    };
    let mut add_reason = |text: String| {
        view.reason = if view.reason.is_empty() { text } else { format!("{}; {text}", view.reason) };
    };
    if let Some(why) = &view.pinned {
        add_reason(if why.is_empty() { "pinned".to_string() } else { format!("pinned: {why}") });
    }
    let skew = row.int(8);
    view.clock_wrong = skew.saturating_abs() > facts::SKEW_MAX;
    if view.clock_wrong {
        let direction = if skew < 0 { "behind" } else { "ahead" };
        add_reason(format!("its clock is {} {direction}", host::span(skew.saturating_abs())));
    }
    let lost_after = groups.get(&view.group).copied().unwrap_or(86_400);
    view.freshness = host::freshness(view.seen, view.step, lost_after, now, gaps);
    if let Some(body) = &body {
        (view.version, view.arch) = host::split_version(&text(body, "version"));
        view.os = text(body, "os");
        view.labels = crate::wire::agent::labels(body.get("labels"));
        let agents = body.get("agents").and_then(Json::as_array).into_iter().flatten();
        let agent =
            |a: &Json| AgentView { name: text(a, "name"), version: text(a, "version"), status: text(a, "status") };
        view.agents = agents.map(agent).collect();
    }
    view.labels.extend(own_labels.clone());
    view.own_labels = own_labels;
    (view, body)
}
