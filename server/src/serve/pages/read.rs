//! Which page an address is, and the pages of the fleet and its hosts.

use super::{frame, read_jobs, read_lists, release, text_of, Look};
use crate::model::filter::Filter;
use crate::model::version;
use crate::pages::agents::{self, AgentRow as FleetAgent, Agents};
use crate::pages::fleet::{self, Fleet, VersionRow};
use crate::pages::host::{AgentRow, HostPage, Label, Twin};
use crate::pages::hosts::{self as host_pages, FirstStep, HostRow, Hosts, Pending};
use crate::pages::jobs::ExecutionRow;
use crate::pages::lists::EventRow;
use crate::pages::{Pager, Tone, LINES};
use crate::serve::lookup;
use crate::store::jobs::Cut;
use crate::store::roster::{self, Order, Scope, Wanted, SCOPES};
use crate::store::{events, executions, groups, hosts, jobs, missing, releases, Error, Tx};
use crate::wire::url;
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

/// The page of an address.
///
/// # Errors
/// What the engine says, or that there is no such page.
pub fn page(tx: &mut dyn Tx, look: &Look) -> Result<String, Error> {
    let path = look.path.trim_matches('/');
    let (first, rest) = path.split_once('/').unwrap_or((path, ""));
    match (first, rest) {
        ("", "") => fleet(tx, look),
        ("hosts", "") => list(tx, look),
        ("hosts", sn) => host(tx, look, &url::decode(sn)),
        ("pending", "") => pending(tx, look),
        ("agents", "") => agent_list(tx, look),
        ("jobs", "") => read_jobs::list(tx, look),
        ("jobs", "new") => read_jobs::new_job(tx, look, &look.params, None, None),
        ("jobs", id) => read_jobs::job(tx, look, &url::decode(id)),
        ("releases", "") => release::list(tx, look),
        ("releases", "new") => release::new_release(tx, look, &look.params, None),
        _ => read_lists::page(tx, look, path),
    }
}

/// What the list's address asks for, and what of its filter cannot be read.
pub fn wanted(look: &Look, scope: Scope) -> (Wanted, Option<String>) {
    let order = match look.params.get("order") {
        "name" => Order::Name,
        "new" => Order::New,
        _ => Order::Trouble,
    };
    match Filter::parse(look.params.get("q")) {
        Ok(filter) => (Wanted { scope, filter, order }, None),
        Err(wrong) => (Wanted { scope, order, ..Wanted::default() }, Some(wrong)),
    }
}

/// The cut of hosts that an address asks for.
pub fn scope(look: &Look) -> Scope {
    let word = look.params.get("show");
    SCOPES.iter().find(|(_, known)| *known == word).map_or(Scope::Active, |(scope, _)| *scope)
}

/// The rows of some hosts, with their reasons.
fn rows(tx: &mut dyn Tx, look: &Look, sns: &[String]) -> Result<Vec<HostRow>, Error> {
    let (limits, gaps) = (groups::list(tx)?, look.shared.gaps());
    let mut rows = Vec::new();
    for sn in sns {
        let Some(known) = hosts::get(tx, sn)? else { continue };
        let lost_after = limits.iter().find(|group| group.name == known.group).map_or(86_400, |group| group.lost_after);
        hosts::views(tx, hosts::Which::One(sn), look.now, &gaps, &mut |mut view, body| {
            // As lists are sorted and counted.
            view.freshness = known.facts.fresh;
            let key = known.key.clone();
            rows.push(HostRow::new(view, body.as_ref(), lost_after, known.created, key, look.now));
            Ok(())
        })?;
    }
    Ok(rows)
}

/// What an empty fleet needs.
fn first_step(tx: &mut dyn Tx, look: &Look) -> Result<FirstStep, Error> {
    let keys = tx.number("SELECT count(*) FROM keys WHERE revoked IS NULL", &[])?;
    Ok(FirstStep { has_key: keys > 0 || look.shared.allow_unsigned, address: look.shared.hosts_come_to() })
}

fn list(tx: &mut dyn Tx, look: &Look) -> Result<String, Error> {
    let scope = scope(look);
    let (wanted, wrong) = wanted(look, scope);
    let f = frame(tx, look, "/hosts", "Hosts")?;
    let summary = roster::summary(tx)?;
    let found = match wrong {
        Some(_) => roster::Page::default(),
        None => roster::page(tx, &wanted, look.params.first(), LINES)?,
    };
    let rows = rows(tx, look, &found.sns)?;
    let pager = Pager::new(&f, rows.len(), found.total, false);
    let (any, tabs) = (summary.of(Scope::All) > 0, host_pages::tabs(&f, scope, &summary));
    let first_step = first_step(tx, look)?;
    Ok(text_of(&Hosts { f, tabs, rows, pager, wrong, any, first_step }))
}

fn pending(tx: &mut dyn Tx, look: &Look) -> Result<String, Error> {
    let (wanted, wrong) = wanted(look, Scope::Pending);
    let wanted = Wanted { order: Order::New, ..wanted };
    let f = frame(tx, look, "/pending", "Pending")?;
    let found = match wrong {
        Some(_) => roster::Page::default(),
        None => roster::page(tx, &wanted, look.params.first(), LINES)?,
    };
    let rows = rows(tx, look, &found.sns)?;
    let pager = Pager::new(&f, rows.len(), found.total, false);
    let first_step = first_step(tx, look)?;
    let any = roster::summary(tx)?.of(Scope::All) > 0;
    Ok(text_of(&Pending { f, rows, pager, wrong, any, first_step }))
}

/// The agents of the fleet whose name has the part that an address asks for.
///
/// # Errors
/// What the engine says.
pub fn agents_of(tx: &mut dyn Tx, look: &Look) -> Result<Vec<FleetAgent>, Error> {
    let part = look.params.get("q").trim();
    let counted = look.shared.agents_of_fleet(tx)?;
    let mut rows = agents::agents(&counted);
    rows.retain(|row| row.name.contains(part));
    Ok(rows)
}

fn agent_list(tx: &mut dyn Tx, look: &Look) -> Result<String, Error> {
    let f = frame(tx, look, "/agents", "Agents")?;
    let all = agents_of(tx, look)?;
    let total = i64::try_from(all.len()).unwrap_or(i64::MAX);
    let (first, lines) = (usize::try_from(look.params.first()).unwrap_or(0), usize::try_from(LINES).unwrap_or(50));
    let rows = agents::named_once(all.into_iter().skip(first).take(lines).collect());
    let mut newest: BTreeMap<String, String> = BTreeMap::new();
    for release in releases::list(tx, None)?.into_iter().filter(|release| release.withdrawn.is_none()) {
        let known = newest.get(&release.agent);
        if known.is_none_or(|known| version::compare(known, &release.version).is_lt()) {
            newest.insert(release.agent, release.version);
        }
    }
    let pager = Pager::new(&f, rows.len(), total, false);
    Ok(text_of(&Agents { f, rows, pager, releases: newest }))
}

/// Hosts in trouble, jobs and failures that the first page shows.
const SHOWN: i64 = 8;
const DAY: i64 = 86_400;

fn fleet(tx: &mut dyn Tx, look: &Look) -> Result<String, Error> {
    let f = frame(tx, look, "/", "Fleet")?;
    let summary = roster::summary(tx)?;
    let trouble = Wanted { scope: Scope::Trouble, ..Wanted::default() };
    let worst = roster::page(tx, &trouble, 0, SHOWN)?;
    let worst = rows(tx, look, &worst.sns)?;
    let (failures, failed) = executions::failed_since(tx, look.now - DAY, SHOWN)?;
    let failures = failures.into_iter().map(ExecutionRow::new).collect();
    let (newest, _) = jobs::page(tx, "", Cut::All, 0, SHOWN)?;
    let jobs = read_jobs::rows(tx, newest)?;
    let version = |(version, hosts): (String, i64)| {
        let filter = format!("state=accepted version=\"{version}\"");
        VersionRow { address: format!("/hosts?q={}", url::encode(&filter)), version, hosts }
    };
    let versions = roster::versions(tx)?.into_iter().map(version).collect();
    let counted = look.shared.agents_of_fleet(tx)?;
    let agents = agents::named_once(agents::agents(&counted));
    let first_step = first_step(tx, look)?;
    let (alarms, tiles, health) = (fleet::alarms(&summary), fleet::tiles(&summary), health(look));
    Ok(text_of(&Fleet {
        f,
        summary,
        alarms,
        tiles,
        worst,
        jobs,
        failed,
        failures,
        versions,
        agents,
        first_step,
        health,
    }))
}

/// The server's own state in a sentence.
fn health(look: &Look) -> (Tone, String) {
    let counts = &look.shared.counts;
    let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    let (failed, shed) = (load(&counts.failed), load(&counts.shed));
    let since = crate::pages::time::span(look.now - look.shared.started);
    if failed > 0 {
        return (Tone::Bad, format!("{failed} requests could not be stored in the {since} since its start"));
    }
    if shed > 0 {
        return (Tone::Warn, format!("{shed} requests were told to come back later in the {since} since its start"));
    }
    (
        Tone::Ok,
        format!(
            "runs for {since}, {} reports taken, none lost",
            crate::pages::words::count(i64::try_from(load(&counts.taken)).unwrap_or(i64::MAX))
        ),
    )
}

fn host(tx: &mut dyn Tx, look: &Look, sn: &str) -> Result<String, Error> {
    let Some(known) = hosts::get(tx, sn)? else {
        // Links by name work too where the name is of one host.
        let known = hosts::find(tx, sn)?;
        let look = Look { path: host_pages::host_address(&known.sn), ..look.clone() };
        return host(tx, &look, &known.sn);
    };
    let found = rows(tx, look, std::slice::from_ref(&known.sn))?.pop();
    let Some(row) = found else { return missing(format!("there is no host \"{sn}\": see the list of hosts")) };
    let report = lookup::host(tx, &known.sn, &look.shared.gaps())?["report"].clone();
    let troubles = report["troubles"].as_array().into_iter().flatten().filter_map(Json::as_str).map(String::from);
    let label = |(name, value): (&String, &String)| {
        let own = row.view.own_labels.contains_key(name);
        Label { name: name.clone(), value: value.clone(), own }
    };
    let labels = row.view.labels.iter().map(label).collect();
    let f = frame(tx, look, "/hosts", &row.view.name)?;
    let skew = tx.number("SELECT skew FROM reports WHERE sn = ?1", crate::args![&known.sn])?;
    let wanted = events::Wanted { sns: vec![known.sn.clone()], ..events::Wanted::default() };
    let (happened, _) = events::page(tx, &wanted, 0, 15, 15)?;
    let jobs = executions::newest_of(tx, &known.sn, 15)?.into_iter().map(ExecutionRow::new).collect();
    let groups = groups::list(tx)?.into_iter().map(|group| group.name).collect();
    let uptime = report["uptime"].as_i64();
    let page = HostPage {
        f,
        agents: AgentRow::of(&report),
        troubles: troubles.collect(),
        labels,
        skew,
        uptime,
        twins: twins(tx, &known)?,
        jobs,
        events: happened.into_iter().map(EventRow::new).collect(),
        groups,
        report: serde_json::to_string_pretty(&report).unwrap_or_default(),
        row,
    };
    Ok(text_of(&page))
}

/// Others of the same name whose place this host may take.
fn twins(tx: &mut dyn Tx, host: &hosts::Host) -> Result<Vec<Twin>, Error> {
    let others = hosts::named(tx, &host.name)?.into_iter().filter(|other| other.sn != host.sn);
    let twin = |other: hosts::Host| Twin {
        address: host_pages::host_address(&other.sn),
        state: other.state.as_str().to_string(),
        seen: other.seen,
        replaced: host.reason.contains("replace?") && host.reason.contains(&other.sn),
        sn: other.sn,
    };
    Ok(others.filter(|other| other.state.as_str() != "retired").map(twin).collect())
}
