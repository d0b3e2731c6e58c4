//! The pages of plain lists, of people, and of the server itself.

use super::{frame, text_of, Look};
use crate::model::people::Role;
use crate::model::webhook;
use crate::pages::lists::{Audit, EventRow, Events, Fact, GroupRow, Groups, KeyRow, Keys, ServerPage};
use crate::pages::people::{Kind, Me, TokenRow, UserRow, Users, WebhookRow, Webhooks};
use crate::pages::sent::Sent;
use crate::pages::{time, words, Pager, Tone, COUNT_MAX, LINES};
use crate::serve::lookup;
use crate::store::{events, groups, migrate, missing, people, webhooks, Error, Tx};
use crate::wire::url::Url;
use std::sync::atomic::{AtomicU64, Ordering};

/// The page of a path.
///
/// # Errors
/// What the engine says, that there is no such page, or that the caller may not see it.
pub fn page(tx: &mut dyn Tx, look: &Look, path: &str) -> Result<String, Error> {
    match path {
        "events" => event_list(tx, look),
        "audit" => audit_list(tx, look),
        "keys" => key_list(tx, look, Sent::default()),
        "groups" => group_list(tx, look, Sent::default()),
        "users" => user_list(tx, look, Sent::default()),
        "webhooks" => webhook_list(tx, look, Sent::default()),
        "me" => own(tx, look, None),
        "server" => server(tx, look),
        _ => missing(format!("there is no page \"/{path}\": the menu has all there are")),
    }
}

fn event_list(tx: &mut dyn Tx, look: &Look) -> Result<String, Error> {
    let f = frame(tx, look, "/events", "Events")?;
    let wanted = lookup::wanted_events(tx, &look.params)?;
    let (found, total) = events::page(tx, &wanted, look.params.first(), LINES, COUNT_MAX + 1)?;
    let rows: Vec<EventRow> = found.into_iter().map(EventRow::new).collect();
    let pager = Pager::new(&f, rows.len(), total.min(COUNT_MAX), total > COUNT_MAX);
    let kinds =
        ["agent", "came back", "conflict", "host", "job", "lost", "same name", "security", "server", "unknown job"];
    Ok(text_of(&Events { f, rows, pager, kinds: kinds.map(String::from).to_vec() }))
}

fn audit_list(tx: &mut dyn Tx, look: &Look) -> Result<String, Error> {
    let f = frame(tx, look, "/audit", "Audit")?;
    let wanted = lookup::wanted_audit(&look.params);
    let (rows, total) = events::audit_page(tx, &wanted, look.params.first(), LINES, COUNT_MAX + 1)?;
    let pager = Pager::new(&f, rows.len(), total.min(COUNT_MAX), total > COUNT_MAX);
    Ok(text_of(&Audit { f, rows, pager }))
}

/// Whether a line of a short list has what its address asks for.
fn is_meant(look: &Look, line: &[&str]) -> bool {
    let wanted = look.params.get("q").trim().to_lowercase();
    line.iter().any(|cell| cell.to_lowercase().contains(&wanted))
}

/// The keys that an address asks for, the newest first.
///
/// # Errors
/// What the engine says.
pub fn keys(tx: &mut dyn Tx, look: &Look) -> Result<Vec<KeyRow>, Error> {
    let mut rows = Vec::new();
    for (key, hosts) in groups::keys(tx)? {
        let accept = if key.auto_accept { ", accepted at once" } else { "" };
        let scope = match (&key.host, &key.bound_sn) {
            (None, _) => format!("every host of the group{accept}"),
            (Some(host), None) => format!("{host} only, not used yet{accept}"),
            (Some(host), Some(sn)) => format!("{host} only, bound to {sn}{accept}"),
        };
        rows.push(KeyRow { id: key.id, group: key.group, scope, hosts, created: key.created, revoked: key.revoked });
    }
    rows.retain(|row: &KeyRow| is_meant(look, &[&row.id, &row.group, &row.scope]));
    Ok(rows)
}

/// The page of keys.
///
/// # Errors
/// What the engine says.
pub fn key_list(tx: &mut dyn Tx, look: &Look, sent: Sent) -> Result<String, Error> {
    let f = frame(tx, look, "/keys", "Keys")?;
    let all = keys(tx, look)?;
    let total = i64::try_from(all.len()).unwrap_or(0);
    let first = usize::try_from(look.params.first()).unwrap_or(0);
    let rows: Vec<KeyRow> = all.into_iter().skip(first).take(usize::try_from(LINES).unwrap_or(50)).collect();
    let pager = Pager::new(&f, rows.len(), total, false);
    let groups = groups::list(tx)?.into_iter().map(|group| group.name).collect();
    let address = look.shared.hosts_come_to();
    Ok(text_of(&Keys { f, rows, pager, groups, address, sent }))
}

/// The groups that an address asks for, by name.
///
/// # Errors
/// What the engine says.
pub fn groups(tx: &mut dyn Tx, look: &Look) -> Result<Vec<GroupRow>, Error> {
    let rows = groups::list_counted(tx)?.into_iter().map(|(group, hosts)| GroupRow { group, hosts });
    Ok(rows.filter(|row| is_meant(look, &[&row.group.name])).collect())
}

/// The page of groups.
///
/// # Errors
/// What the engine says.
pub fn group_list(tx: &mut dyn Tx, look: &Look, sent: Sent) -> Result<String, Error> {
    let f = frame(tx, look, "/groups", "Groups")?;
    let rows = groups(tx, look)?;
    Ok(text_of(&Groups { f, rows, sent }))
}

/// The users that an address asks for, by name. Admins see them.
///
/// # Errors
/// What the engine says, or that the caller is no admin.
pub fn users(tx: &mut dyn Tx, look: &Look) -> Result<Vec<UserRow>, Error> {
    look.caller.may(Role::Admin).map_err(Error::Forbidden)?;
    let row = |user: people::User| UserRow {
        name: user.name,
        role: user.role.as_str().to_string(),
        created: user.created,
        seen: user.seen,
        disabled: user.disabled,
    };
    let rows = people::users(tx)?.into_iter().map(row);
    Ok(rows.filter(|row| is_meant(look, &[&row.name, &row.role])).collect())
}

/// The tokens that an address asks for, by name. Admins see them.
///
/// # Errors
/// What the engine says, or that the caller is no admin.
pub fn tokens(tx: &mut dyn Tx, look: &Look) -> Result<Vec<TokenRow>, Error> {
    look.caller.may(Role::Admin).map_err(Error::Forbidden)?;
    let row = |token: people::Token| TokenRow {
        badge: TokenRow::state(token.expires, token.revoked, look.now),
        name: token.name,
        role: token.role.as_str().to_string(),
        created: token.created,
        giver: token.by,
        expires: token.expires,
        seen: token.seen,
    };
    let rows = people::tokens(tx)?.into_iter().map(row);
    Ok(rows.filter(|row| is_meant(look, &[&row.name, &row.role, &row.giver])).collect())
}

/// The page of users and tokens.
///
/// # Errors
/// What the engine says, or that the caller is no admin.
pub fn user_list(tx: &mut dyn Tx, look: &Look, sent: Sent) -> Result<String, Error> {
    let (users, tokens) = (users(tx, look)?, tokens(tx, look)?);
    let f = frame(tx, look, "/users", "Users")?;
    Ok(text_of(&Users { f, users, tokens, sent }))
}

/// The webhooks that an address asks for, by name. Admins see them.
///
/// # Errors
/// What the engine says, or that the caller is no admin.
pub fn webhooks(tx: &mut dyn Tx, look: &Look) -> Result<Vec<WebhookRow>, Error> {
    look.caller.may(Role::Admin).map_err(Error::Forbidden)?;
    let row = |hook: webhooks::Webhook| WebhookRow {
        // The path of the URL may be a secret.
        place: Url::parse(&hook.url).map(|url| url.authority()).unwrap_or_default(),
        kinds: hook.kinds.join(", "),
        badge: WebhookRow::state(hook.failures, hook.tried.is_some()),
        name: hook.name,
        outcome: hook.outcome,
        tried: hook.tried,
        created: hook.created,
        by: hook.by,
    };
    let rows = webhooks::list(tx)?.into_iter().map(row);
    Ok(rows.filter(|row| is_meant(look, &[&row.name, &row.place, &row.kinds])).collect())
}

/// The page of webhooks.
///
/// # Errors
/// What the engine says, or that the caller is no admin.
pub fn webhook_list(tx: &mut dyn Tx, look: &Look, sent: Sent) -> Result<String, Error> {
    let rows = webhooks(tx, look)?;
    let f = frame(tx, look, "/webhooks", "Webhooks")?;
    let ticked = match sent.fields.pairs() {
        [] => webhook::USUAL.map(str::to_string).to_vec(),
        _ => sent.fields.all("events"),
    };
    let kind = |(name, _): &(&'static str, &str)| Kind {
        name,
        meaning: Kind::meaning(name),
        ticked: ticked.iter().any(|known| known == name),
    };
    let kinds = webhook::KINDS.iter().map(kind).collect();
    Ok(text_of(&Webhooks { f, rows, kinds, sent }))
}

/// The page of one's own password.
///
/// # Errors
/// What the engine says.
pub fn own(tx: &mut dyn Tx, look: &Look, wrong: Option<String>) -> Result<String, Error> {
    let f = frame(tx, look, "/me", "Your password")?;
    Ok(text_of(&Me { f, wrong }))
}

fn server(tx: &mut dyn Tx, look: &Look) -> Result<String, Error> {
    let f = frame(tx, look, "/server", "Server")?;
    let shared = &look.shared;
    let fact = |name, value: String, note: &str| Fact { name, value, tone: Tone::Ok, note: note.to_string() };
    let [work, commits, micros] = shared.engine.counts().map(|count| i64::try_from(count).unwrap_or(i64::MAX));
    let database = crate::serve::run::database(&shared.dir);
    let size = std::fs::metadata(database).map_or(0, |meta| i64::try_from(meta.len()).unwrap_or(0));
    let each = micros.checked_div(commits).unwrap_or(0);
    let [done, waiting, refused] = shared.reads.counts();
    let done = i64::try_from(done).unwrap_or(i64::MAX);
    let facts = vec![
        fact("Version", env!("CARGO_PKG_VERSION").to_string(), ""),
        fact("Runs for", time::span(look.now - shared.started), &format!("since {}", time::exact(shared.started))),
        fact("Data directory", shared.dir.display().to_string(), "the database, packages, the socket"),
        fact("Database", words::size(size), &format!("schema {}", migrate::WANTED)),
        fact("Hosts report to", shared.hosts_come_to(), "what a host's svrlist names"),
        fact("Writes", words::count(work), &format!("in {} commits of {each} µs on average", words::count(commits))),
        fact("Look-ups", words::count(done), &format!("{waiting} wait, {refused} were told to come back later")),
        fact("Clock", time::exact(look.now), "everything is ordered by it"),
    ];
    let counts = &shared.counts;
    let answer = |name, counter: &AtomicU64, bad: Tone, note: &str| {
        let count = i64::try_from(counter.load(Ordering::Relaxed)).unwrap_or(i64::MAX);
        Fact {
            name,
            value: words::count(count),
            tone: if count == 0 { Tone::Mute } else { bad },
            note: note.to_string(),
        }
    };
    let answers = vec![
        answer("Taken", &counts.taken, Tone::Ok, "reports that are stored"),
        answer("Results", &counts.results, Tone::Ok, "results of jobs that are stored"),
        answer("Turned away", &counts.turned_away, Tone::Warn, "new hosts beyond 20 a second or 10,000 that wait"),
        answer("Unwanted", &counts.unwanted, Tone::Warn, "hosts without an sn, where their group takes none"),
        answer("Forbidden", &counts.forbidden, Tone::Warn, "unsigned, wrongly signed, or seen before: see the events"),
        answer("Not understood", &counts.bad, Tone::Warn, "requests that are no reports"),
        answer("Come back later", &counts.shed, Tone::Warn, "more came than could be stored at that moment"),
        answer("Not stored", &counts.failed, Tone::Bad, "the database could not write: see the log of the server"),
    ];
    let gaps = shared.gaps().iter().rev().take(10).copied().collect();
    Ok(text_of(&ServerPage { f, facts, answers, gaps }))
}
