//! The API: what lists and changes things, for the command line over a socket and for reading on loopback.

use super::door::{self, reply, Reply, Unread};
use super::give::Wanted;
use super::manage::{self, NewKey};
use super::{accounts, clock, lookup, parts, people as logins, upload, webhooks, Shared};
use crate::model::host::State;
use crate::model::people::{self, By, Caller};
use crate::model::release::{self, Artifact};
use crate::pages::params::Params;
use crate::store::releases::Release;
use crate::store::{events, groups, missing, refused, releases, Error};
use crate::wire::calls;
use crate::wire::url::decode;
use hyper::body::Incoming;
use hyper::{Method, Request};
use serde_json::{json, Map, Value as Json};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::Arc;

/// Answers `/healthz`, `/readyz` and `/metrics`.
pub async fn health(shared: &Arc<Shared>, path: &str) -> Reply {
    match path {
        "/metrics" => metrics(shared).await,
        "/readyz" => ready(shared).await,
        _ => reply(200, "text/plain", "ok\n", &[]),
    }
}

/// Answers a request of a caller below `/api/v1/`.
pub async fn handle(shared: Arc<Shared>, caller: Caller, request: Request<Incoming>) -> Reply {
    let path = request.uri().path().to_string();
    let query = request.uri().query().unwrap_or_default().to_string();
    let Some(name) = path.strip_prefix("/api/v1/") else { return answer_error(404, "want /api/v1/") };
    let get = request.method() != Method::POST;
    if !(if get { calls::is_list(name) } else { calls::is_call(name) }) {
        door::drain(request.into_body()).await;
        return not_here(name);
    }
    let needed = if get { people::role_to_see(name) } else { people::role_to_change(name) };
    // A backup is a file where the caller says: only for who has the server's own rights already.
    let backup = || match name == "backup" && caller.by != By::Socket {
        true => Err("backup works over the socket only: bootserver backup FILE".to_string()),
        false => Ok(()),
    };
    if let Err(why) = caller.may(needed).and_then(|()| backup()) {
        door::drain(request.into_body()).await;
        return answer_error(403, &why);
    }
    if get {
        if let Err(why) = calls::check_query(name, &query) {
            return answer_error(400, &why);
        }
        return answer_text(look(&shared, &caller, name, &query).await);
    }
    if name == calls::UPLOAD {
        return match upload::store(&shared, request.into_body()).await {
            Ok((sha256, size)) => answer(Ok(json!({ "sha256": sha256, "size": size }))),
            Err(error) => answer(refused(error)),
        };
    }
    let body = match door::read_body(request.into_body()).await {
        Ok(body) => body,
        Err(Unread::TooLong) => return answer_error(413, "the request is longer than 1 MiB"),
        Err(Unread::Cut | Unread::NoRoom) => return answer_error(408, "the request did not come whole in 10 s"),
    };
    let body = serde_json::from_slice::<Json>(&body).map_err(|error| format!("the body is not JSON: {error}"));
    match body.and_then(|body| calls::check_body(name, &body).map(|()| body)) {
        Ok(body) => answer(change(&shared, name, body, &caller).await),
        Err(why) => answer_error(400, &why),
    }
}

/// The methods of a path below `/api/v1/`; nothing where there is no such path.
pub fn methods(name: &str) -> Option<&'static str> {
    match (calls::is_list(name), calls::is_call(name)) {
        (true, true) => Some("GET, HEAD, POST"),
        (true, false) => Some("GET, HEAD"),
        (false, true) => Some("POST"),
        (false, false) => None,
    }
}

/// A refusal for what is not there, or not by this method.
pub fn not_here(name: &str) -> Reply {
    let Some(methods) = methods(name) else {
        return answer_error(404, &format!("there is no \"{name}\": want {}", calls::known()));
    };
    let mut answer = answer_error(405, &format!("want {methods}"));
    door::set(answer.headers_mut(), "allow", methods);
    answer
}

fn answer(outcome: Result<Json, Error>) -> Reply {
    answer_text(outcome.map(|body| body.to_string()))
}

/// The same, where the body is text already.
fn answer_text(outcome: Result<String, Error>) -> Reply {
    match outcome {
        Ok(body) => reply(200, "application/json", body, &[]),
        Err(Error::Refused(why)) => answer_error(400, &why),
        Err(Error::Forbidden(why)) => answer_error(403, &why),
        Err(Error::Missing(why)) => answer_error(404, &why),
        Err(error) => answer_error(503, &error.to_string()),
    }
}

/// A refusal with its status and its sentence.
pub fn answer_error(status: u16, why: &str) -> Reply {
    reply(status, "application/json", json!({ "error": why }).to_string(), &[])
}

/// A list, or one object of it, as JSON.
async fn look(shared: &Arc<Shared>, caller: &Caller, name: &str, query: &str) -> Result<String, Error> {
    let params = Params::parse(query);
    let limit = params.get("limit").parse().unwrap_or(1000_i64);
    let after = params.get("after").parse().ok();
    let (name, word) = name.split_once('/').map_or((name, None), |(name, word)| (name, Some(decode(word))));
    if name == "me" {
        return Ok(json!({ "who": caller.who, "role": caller.role.as_str() }).to_string());
    }
    let name = name.to_string();
    let gaps = shared.gaps();
    shared
        .read(move |tx| {
            let list = match (name.as_str(), word) {
                ("hosts", Some(word)) => return lookup::host(tx, &word, &gaps).map(|host| host.to_string()),
                ("counts", None) => return lookup::counts(tx).map(|counts| counts.to_string()),
                ("hosts", None) => return lookup::hosts(tx, params.get("filter"), &gaps),
                ("executions", None) => return lookup::executions(tx, params.get("filter"), limit),
                ("jobs", Some(word)) => return lookup::job(tx, &word),
                ("jobs", None) => lookup::jobs(tx, &params, limit)?,
                ("releases", None) => lookup::releases(tx)?,
                ("keys", None) => lookup::keys(tx)?,
                ("groups", None) => lookup::groups(tx)?,
                ("events", None) => lookup::events(tx, &params, after, limit)?,
                ("audit", None) => lookup::audit(tx, &params, limit)?,
                ("users", None) => accounts::users(tx)?,
                ("tokens", None) => accounts::tokens(tx)?,
                ("webhooks", None) => webhooks::list(tx)?,
                (name, _) => return missing(format!("there is no list \"{name}\"")),
            };
            Ok(Json::from(list).to_string())
        })
        .await
}

fn text(body: &Json, key: &str) -> Result<String, Error> {
    match body[key].as_str() {
        Some(text) => Ok(text.to_string()),
        None => refused(format!("{key}: want a string")),
    }
}

fn maybe(body: &Json, key: &str) -> Option<String> {
    body[key].as_str().map(str::to_string)
}

fn object(body: &Json, key: &str) -> Map<String, Json> {
    body[key].as_object().cloned().unwrap_or_default()
}

/// Does what a call asks for. Whoever calls this has checked the caller's role.
///
/// # Errors
/// What the engine says, or what of the request will not do.
pub async fn change(shared: &Arc<Shared>, name: &str, body: Json, caller: &Caller) -> Result<Json, Error> {
    let who = caller.who.clone();
    match name {
        "me/password" => own_password(shared, body, caller).await,
        _ if accounts::is_call(name) => {
            let body = hash(body).await?;
            let call = name.to_string();
            shared.write(move |tx| accounts::change(tx, &call, &body, &who)).await
        }
        "hosts/state" => set_state(shared, &body, who).await,
        "hosts/replace" | "hosts/label" | "hosts/group" | "hosts/pin" => {
            change_host(shared, name.to_string(), body, who).await
        }
        "groups" | "groups/set" => {
            let (name, new) = (text(&body, "name")?, name == "groups");
            shared
                .write(move |tx| match new {
                    true => manage::new_group(tx, &name, &who),
                    false => manage::set_group(tx, &name, &object(&body, "settings"), &who),
                })
                .await?;
            Ok(json!({}))
        }
        "keys" => {
            let (group, host) = (text(&body, "group")?, maybe(&body, "host"));
            let wanted = NewKey { group, host, auto_accept: body["auto_accept"].as_bool().unwrap_or(false) };
            let key = shared.write(move |tx| manage::new_key(tx, &wanted, &who)).await?;
            Ok(json!({ "id": key.id, "key": key.secret }))
        }
        "keys/revoke" => {
            let id = text(&body, "id")?;
            let revoke = move |tx: &mut dyn crate::store::Tx| {
                let hosts = groups::revoke(tx, &id, clock::now())?;
                events::audit(tx, clock::now(), &who, "key revoke", &format!("key {id}"), ("valid", "revoked"))?;
                Ok(json!({ "hosts": hosts }))
            };
            shared.write(revoke).await
        }
        "releases" => add_release(shared, &body, who).await,
        "releases/withdraw" => {
            let (agent, version) = (text(&body, "agent")?, text(&body, "version")?);
            let withdraw = move |tx: &mut dyn crate::store::Tx| {
                releases::withdraw(tx, &agent, &version, clock::now())?;
                let object = format!("release {agent} {version}");
                events::audit(tx, clock::now(), &who, "release withdraw", &object, ("ready", "withdrawn"))
            };
            shared.write(withdraw).await.map(|()| json!({}))
        }
        "jobs" => {
            let wanted = wanted_job(&body, who)?;
            parts::give(shared, wanted).await
        }
        "jobs/cancel" => parts::cancel(shared, text(&body, "id")?, who).await,
        "webhooks" => shared.write(move |tx| webhooks::add(tx, &body, &who)).await,
        "webhooks/remove" => shared.write(move |tx| webhooks::remove(tx, &body, &who)).await,
        "webhooks/test" => webhooks::test(shared, &body, who).await,
        "backup" => backup(shared, PathBuf::from(text(&body, "file")?), who).await,
        _ => missing(format!("there is no such call: \"{name}\"")),
    }
}

/// The job that a request asks for.
///
/// # Errors
/// What of the request will not do.
pub fn wanted_job(body: &Json, who: String) -> Result<Wanted, Error> {
    let (action, select) = (text(body, "action")?, maybe(body, "select").unwrap_or_default());
    let (agent, version) = (maybe(body, "agent").unwrap_or_default(), maybe(body, "version"));
    let any_time = body["any_time"].as_bool().unwrap_or(false);
    Ok(Wanted { action, agent, select, version, body: object(body, "body"), any_time, who })
}

/// Hashes the password of a request, away from the threads that answer.
async fn hash(body: Json) -> Result<Json, Error> {
    let task = tokio::task::spawn_blocking(move || accounts::hash_password(body));
    task.await.unwrap_or_else(|_| Err(Error::Engine("a fault of the server, see its log".to_string())))
}

/// Changes the password of whoever is logged in: `old` and `new`.
async fn own_password(shared: &Arc<Shared>, body: Json, caller: &Caller) -> Result<Json, Error> {
    let Some(user) = caller.user().map(str::to_string) else {
        return refused("this changes the password of who is logged in; for another: users/passwd");
    };
    let (old, new, who) = (text(&body, "old")?, text(&body, "new")?, caller.who.clone());
    if let Err(wait) = shared.logins.attempt(&user, "a session", clock::now()) {
        return refused(format!("old: too many were wrong: try again in {} minutes", wait / 60 + 1));
    }
    if !logins::check(shared, &user, &old).await? {
        return refused("old: this is not your password");
    }
    shared.logins.succeeded(&user, "a session");
    let body = hash(json!({ "name": user, "password": new })).await?;
    let hash = text(&body, "password")?;
    shared.write(move |tx| accounts::own_password(tx, &user, &hash, &who)).await
}

async fn set_state(shared: &Arc<Shared>, body: &Json, who: String) -> Result<Json, Error> {
    let state = match text(body, "state")?.as_str() {
        "accepted" => State::Accepted,
        "rejected" => State::Rejected,
        "retired" => State::Retired,
        other => return refused(format!("state \"{other}\": want accepted, rejected or retired")),
    };
    let words = words(body)?;
    let count = words.len();
    let set = move |tx: &mut dyn crate::store::Tx| {
        words.iter().try_for_each(|word| manage::set_state(tx, word, state, "", &who, clock::now()))
    };
    shared.write(set).await?;
    Ok(json!({ "hosts": count }))
}

/// The hosts that are meant: names or sn.
fn words(body: &Json) -> Result<Vec<String>, Error> {
    let words: Vec<String> =
        body["hosts"].as_array().into_iter().flatten().filter_map(|word| word.as_str().map(str::to_string)).collect();
    match words.is_empty() {
        true => refused("want the hosts: names or sn"),
        false => Ok(words),
    }
}

async fn change_host(shared: &Arc<Shared>, name: String, body: Json, who: String) -> Result<Json, Error> {
    let change = move |tx: &mut dyn crate::store::Tx| match name.as_str() {
        "hosts/replace" => manage::replace(tx, &text(&body, "old")?, &text(&body, "new")?, &who, clock::now()),
        "hosts/pin" => manage::pin(tx, &words(&body)?, maybe(&body, "reason").as_deref(), &who),
        "hosts/label" => manage::label(tx, &text(&body, "host")?, &object(&body, "labels"), &who),
        _ => manage::move_to(tx, &text(&body, "host")?, &text(&body, "group")?, &who),
    };
    shared.write(change).await.map(|()| json!({}))
}

async fn add_release(shared: &Arc<Shared>, body: &Json, who: String) -> Result<Json, Error> {
    let (agent, version) = (text(body, "agent")?, text(body, "version")?);
    if !release::is_name(&agent) {
        return refused(format!("agent \"{agent}\": want 1 to 50 of A-Z a-z 0-9 _ -"));
    }
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._+~:-".contains(&b);
    if version.is_empty() || version.len() > 64 || !version.bytes().all(plain) {
        return refused(format!("version \"{version}\": want 1 to 64 of A-Z a-z 0-9 . _ + ~ : -"));
    }
    let (name, url) = (text(body, "name")?, maybe(body, "url"));
    release::check_file_name(&agent, &name).map_err(Error::Refused)?;
    let sha256 = text(body, "sha256")?.to_ascii_lowercase();
    if sha256.len() != 64 || !sha256.bytes().all(|b| b.is_ascii_hexdigit()) {
        return refused("checksum: want SHA256: and 64 hex digits");
    }
    if url.is_none() && !shared.dir.join("packages").join(&sha256).exists() {
        return refused("the package was not uploaded");
    }
    let sig = maybe(body, "sig");
    if let Some(sig) = &sig {
        upload::check_signature(sig, &agent, &version).map_err(Error::Refused)?;
    }
    let definition = body["definition"].as_object().map(|definition| Json::Object(definition.clone()).to_string());
    let (arch, os) = (maybe(body, "arch").unwrap_or_default(), maybe(body, "os").unwrap_or_default());
    let artifact = Artifact { arch, os, sha256, name, url, sig };
    let (startsecs, size) = (body["startsecs"].as_i64(), body["size"].as_i64().unwrap_or(0));
    let add = move |tx: &mut dyn crate::store::Tx| {
        let created = clock::now();
        let named = format!("release {agent} {version}");
        let release = Release { agent, version, definition, startsecs, created, withdrawn: None };
        releases::add(tx, &release, &artifact, size)?;
        events::audit(tx, created, &who, "release add", &named, ("", &artifact.sha256))
    };
    shared.write(add).await.map(|()| json!({}))
}

async fn backup(shared: &Arc<Shared>, file: PathBuf, who: String) -> Result<Json, Error> {
    let copying = shared.clone();
    let target = file.clone();
    let task = tokio::task::spawn_blocking(move || super::run::write_backup(copying.engine.as_ref(), &target));
    task.await.unwrap_or_else(|_| Err(Error::Engine("a fault of the server, see its log".to_string())))?;
    let object = file.display().to_string();
    shared.write(move |tx| events::audit(tx, clock::now(), &who, "backup", &object, ("", ""))).await?;
    Ok(json!({}))
}

async fn ready(shared: &Arc<Shared>) -> Reply {
    match shared.write(|tx| groups::keep(tx, "ready", "1")).await {
        Ok(()) => reply(200, "text/plain", "ready\n", &[]),
        Err(error) => reply(503, "text/plain", format!("{error}\n"), &[]),
    }
}

async fn metrics(shared: &Arc<Shared>) -> Reply {
    let states = match shared.read(|tx| crate::store::hosts::counts(tx)).await {
        Ok(states) => states,
        Err(error) => return reply(503, "text/plain", format!("{error}\n"), &[]),
    };
    let mut page = String::from("# TYPE bootserver_hosts gauge\n");
    for (state, count) in states {
        page.push_str(&format!("bootserver_hosts{{state=\"{state}\"}} {count}\n"));
    }
    let counts = &shared.counts;
    page.push_str("# TYPE bootserver_reports_total counter\n");
    for (answer, counter) in [
        ("taken", &counts.taken),
        ("turned_away", &counts.turned_away),
        ("unwanted", &counts.unwanted),
        ("forbidden", &counts.forbidden),
        ("bad", &counts.bad),
        ("shed", &counts.shed),
        ("failed", &counts.failed),
    ] {
        let count = counter.load(Ordering::Relaxed);
        page.push_str(&format!("bootserver_reports_total{{answer=\"{answer}\"}} {count}\n"));
    }
    page.push_str(&shared.reads.metrics());
    page.push_str("# TYPE bootserver_logins_total counter\n");
    for (answer, counter) in
        [("taken", &counts.logins), ("refused", &counts.logins_refused), ("limited", &counts.logins_limited)]
    {
        let count = counter.load(Ordering::Relaxed);
        page.push_str(&format!("bootserver_logins_total{{answer=\"{answer}\"}} {count}\n"));
    }
    let [work, commits, micros] = shared.engine.counts();
    let seconds = std::time::Duration::from_micros(micros).as_secs_f64();
    let results = counts.results.load(Ordering::Relaxed);
    page.push_str(&format!(
        "# TYPE bootserver_results_total counter\nbootserver_results_total {results}\n\
         # TYPE bootserver_writes_total counter\nbootserver_writes_total {work}\n\
         # TYPE bootserver_commit_seconds summary\nbootserver_commit_seconds_sum {seconds}\n\
         bootserver_commit_seconds_count {commits}\n\
         # TYPE bootserver_start_time_seconds gauge\nbootserver_start_time_seconds {}\n",
        shared.started
    ));
    reply(200, "text/plain; version=0.0.4", page, &[])
}
