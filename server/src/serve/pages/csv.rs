//! Every list as CSV: the whole of it, with the filter of its page.

use super::{read, read_jobs, read_lists, release, Look};
use crate::pages::jobs::{states, JobRow};
use crate::pages::lists::GroupRow;
use crate::pages::{time, words};
use crate::serve::lookup;
use crate::store::roster::{self, Scope, Wanted};
use crate::store::{events, executions, groups, jobs, missing, releases, Error, Tx};
use crate::wire::url;
use std::collections::HashMap;

/// Lines at most of a list that grows without end.
const LINES_MAX: i64 = 1_000_000;

/// A table of text.
struct Table(String);

impl Table {
    fn new(names: &[&str]) -> Table {
        let mut table = Table(String::new());
        table.line(names);
        table
    }

    fn line<T: AsRef<str>>(&mut self, cells: &[T]) {
        for (place, cell) in cells.iter().enumerate() {
            if place > 0 {
                self.0.push(',');
            }
            self.0.push_str(&quoted(cell.as_ref()));
        }
        self.0.push_str("\r\n");
    }
}

/// A cell. Spreadsheets take what begins like a formula for one, and a host chooses its own name: such a cell gets a `'`.
fn quoted(text: &str) -> String {
    let formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']) && text.parse::<f64>().is_err();
    let text = if formula { format!("'{text}") } else { text.to_string() };
    match text.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text,
    }
}

fn at(time: Option<i64>) -> String {
    time.map(time::iso).unwrap_or_default()
}

/// The list at a path.
///
/// # Errors
/// What the engine says, what of the filter cannot be read, or that there is no such list.
pub fn list(tx: &mut dyn Tx, look: &Look, path: &str) -> Result<String, Error> {
    let table = match path {
        "/hosts" => hosts(tx, look, read::scope(look))?,
        "/pending" => hosts(tx, look, Scope::Pending)?,
        "/agents" => agent_list(tx, look)?,
        "/jobs" => job_list(tx, look)?,
        "/releases" => release_list(tx, look)?,
        "/events" => event_list(tx, look)?,
        "/audit" => audit_list(tx, look)?,
        "/keys" => key_list(tx, look)?,
        "/groups" => group_list(tx, look)?,
        "/users" => user_list(tx, look)?,
        "/tokens" => token_list(tx, look)?,
        "/webhooks" => webhook_list(tx, look)?,
        path => match path.strip_prefix("/jobs/") {
            Some(id) => job(tx, look, &url::decode(id))?,
            None => return missing(format!("there is no list \"{path}.csv\"")),
        },
    };
    Ok(table.0)
}

fn hosts(tx: &mut dyn Tx, look: &Look, scope: Scope) -> Result<Table, Error> {
    let (wanted, wrong) = read::wanted(look, scope);
    if let Some(wrong) = wrong {
        return crate::store::refused(wrong);
    }
    let names = [
        "sn",
        "name",
        "group",
        "state",
        "freshness",
        "os",
        "arch",
        "bootagent",
        "last report",
        "agents",
        "labels set here",
        "reason",
    ];
    let mut table = Table::new(&names);
    let limits: HashMap<String, i64> =
        groups::list(tx)?.into_iter().map(|group| (group.name, group.lost_after)).collect();
    roster::each(tx, &Wanted { scope, ..wanted }, &mut |host| {
        let agents: Vec<String> =
            host.agents.iter().map(|a| format!("{} {} {}", a.name, a.version, words::status(&a.status))).collect();
        let labels: Vec<String> = host.own_labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let (fresh, seen) = (host.freshness.as_str().to_string(), at(host.seen));
        let (agents, labels) = (agents.join("; "), labels.join(" "));
        let lost_after = limits.get(&host.group).copied().unwrap_or(86_400);
        let reasons = words::host_reasons(&host, None, lost_after, look.now).join("; ");
        table.line(&[
            host.sn,
            host.name,
            host.group,
            host.state,
            fresh,
            host.os,
            host.arch,
            host.version,
            seen,
            agents,
            labels,
            reasons,
        ]);
        Ok(())
    })?;
    Ok(table)
}

fn agent_list(tx: &mut dyn Tx, look: &Look) -> Result<Table, Error> {
    let mut table = Table::new(&["agent", "version", "hosts", "statuses"]);
    for row in read::agents_of(tx, look)? {
        let statuses: Vec<String> = row.parts.iter().map(|part| format!("{} {}", part.count, part.word)).collect();
        table.line(&[row.name, row.version, row.total.to_string(), statuses.join("; ")]);
    }
    Ok(table)
}

fn job_list(tx: &mut dyn Tx, look: &Look) -> Result<Table, Error> {
    let names = ["id", "action", "agent", "version", "hosts", "state", "by", "given", "counts"];
    let mut table = Table::new(&names);
    let (found, _) = jobs::page(tx, look.params.get("q"), lookup::cut(&look.params), 0, LINES_MAX)?;
    for JobRow { job, badge, parts, .. } in read_jobs::rows(tx, found)? {
        let counts: Vec<String> = parts.iter().map(|part| format!("{} {}", part.count, part.word)).collect();
        let (given, version) = (at(Some(job.created)), job.version.unwrap_or_default());
        table.line(&[job.id, job.action, job.agent, version, job.select, badge.word, job.by, given, counts.join("; ")]);
    }
    Ok(table)
}

fn job(tx: &mut dyn Tx, look: &Look, id: &str) -> Result<Table, Error> {
    let names = ["id", "sn", "host", "attempt", "state", "code", "message", "reason", "offered", "received", "ended"];
    let mut table = Table::new(&names);
    let (states, counts) = (states(look.params.get("state")), jobs::counts(tx, id)?);
    for stored in executions::page(tx, id, &states, &counts, (0, LINES_MAX))? {
        let e = stored.execution;
        let code = e.errcode.map(|code| code.to_string()).unwrap_or_default();
        let (attempt, state) = (e.attempt.to_string(), e.state.as_str().to_string());
        let times = (at(e.offered), at(e.received), at(e.ended));
        table.line(&[
            stored.id,
            stored.sn,
            stored.host,
            attempt,
            state,
            code,
            e.message,
            e.reason,
            times.0,
            times.1,
            times.2,
        ]);
    }
    Ok(table)
}

fn release_list(tx: &mut dyn Tx, look: &Look) -> Result<Table, Error> {
    let mut table =
        Table::new(&["agent", "version", "added", "withdrawn", "package", "arch", "os", "sha256", "size", "url"]);
    for (release, artifacts) in releases::list_whole(tx)? {
        if !release::is_meant(look, &release) {
            continue;
        }
        let (created, withdrawn) = (at(Some(release.created)), at(release.withdrawn));
        for (a, size) in artifacts {
            let (url, size) = (a.url.unwrap_or_default(), size.to_string());
            let (agent, version) = (release.agent.clone(), release.version.clone());
            let (created, withdrawn) = (created.clone(), withdrawn.clone());
            table.line(&[agent, version, created, withdrawn, a.name, a.arch, a.os, a.sha256, size, url]);
        }
    }
    Ok(table)
}

fn event_list(tx: &mut dyn Tx, look: &Look) -> Result<Table, Error> {
    let mut table = Table::new(&["time", "kind", "sn", "host", "message"]);
    let wanted = lookup::wanted_events(tx, &look.params)?;
    let (found, _) = events::page(tx, &wanted, 0, LINES_MAX, 1)?;
    for event in found {
        table.line(&[at(Some(event.time)), event.kind, event.sn, event.host, event.message]);
    }
    Ok(table)
}

fn audit_list(tx: &mut dyn Tx, look: &Look) -> Result<Table, Error> {
    let mut table = Table::new(&["time", "who", "action", "object", "before", "after"]);
    let (found, _) = events::audit_page(tx, &lookup::wanted_audit(&look.params), 0, LINES_MAX, 1)?;
    for line in found {
        table.line(&[at(Some(line.time)), line.who, line.action, line.object, line.before, line.after]);
    }
    Ok(table)
}

fn key_list(tx: &mut dyn Tx, look: &Look) -> Result<Table, Error> {
    let mut table = Table::new(&["key", "group", "for", "hosts", "made", "revoked"]);
    for key in read_lists::keys(tx, look)? {
        table.line(&[key.id, key.group, key.scope, key.hosts.to_string(), at(Some(key.created)), at(key.revoked)]);
    }
    Ok(table)
}

fn group_list(tx: &mut dyn Tx, look: &Look) -> Result<Table, Error> {
    let names = ["group", "hosts", "lost after s", "retired after s", "replace", "hosts without sn", "window", "zone"];
    let mut table = Table::new(&names);
    for GroupRow { group, hosts } in read_lists::groups(tx, look)? {
        let retire = group.retire_after.map(|after| after.to_string()).unwrap_or_default();
        let replace = if group.replace_auto { "auto" } else { "ask" }.to_string();
        let plain = if group.allow_unidentified { "taken" } else { "refused" }.to_string();
        let (hosts, lost, window) = (hosts.to_string(), group.lost_after.to_string(), group.window.unwrap_or_default());
        table.line(&[group.name, hosts, lost, retire, replace, plain, window, group.zone]);
    }
    Ok(table)
}

fn user_list(tx: &mut dyn Tx, look: &Look) -> Result<Table, Error> {
    let mut table = Table::new(&["user", "role", "added", "last login", "disabled"]);
    for user in read_lists::users(tx, look)? {
        table.line(&[user.name, user.role, at(Some(user.created)), at(user.seen), at(user.disabled)]);
    }
    Ok(table)
}

fn token_list(tx: &mut dyn Tx, look: &Look) -> Result<Table, Error> {
    let mut table = Table::new(&["token", "role", "state", "ends", "last used", "made", "by"]);
    for token in read_lists::tokens(tx, look)? {
        let times = (at(Some(token.expires)), at(token.seen), at(Some(token.created)));
        table.line(&[token.name, token.role, token.badge.word, times.0, times.1, times.2, token.giver]);
    }
    Ok(table)
}

fn webhook_list(tx: &mut dyn Tx, look: &Look) -> Result<Table, Error> {
    let mut table = Table::new(&["webhook", "at", "told", "state", "last message", "outcome", "added", "by"]);
    for hook in read_lists::webhooks(tx, look)? {
        let (tried, created) = (at(hook.tried), at(Some(hook.created)));
        table.line(&[hook.name, hook.place, hook.kinds, hook.badge.word, tried, hook.outcome, created, hook.by]);
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn cells_are_no_formulas_and_stay_whole() {
        assert_eq!(quoted("web-01"), "web-01");
        assert_eq!(quoted("=1+1"), "'=1+1");
        assert_eq!(quoted("-5"), "-5");
        assert_eq!(quoted("a,\"b\""), "\"a,\"\"b\"\"\"");
    }
}
