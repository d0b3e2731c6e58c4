//! What somebody sends from a page. It becomes a call of the API, with its rules and its line in the audit trail; then the
//! browser is led to a page that shows what was done. What will not do is shown with the fields as they were.

use super::{form_people, problem, read, read_jobs, read_lists, refusal, release, see, Look, HTML};
use crate::model::people;
use crate::pages::jobs::Preview;
use crate::pages::params::Params;
use crate::pages::sent::{Made, Sent};
use crate::serve::door::{self, reply, Reply};
use crate::serve::front::Ask;
use crate::serve::{api, give};
use crate::store::roster::{self, Scope};
use crate::store::{hosts, Error, Tx};
use crate::wire::{calls, url};
use serde_json::{json, Map, Value as Json};

/// Hosts that one transaction accepts.
const BATCH: usize = 200;

/// Takes a form.
pub async fn take(look: Look, mut ask: Ask) -> Reply {
    let path = look.path.trim_matches('/').to_string();
    if path == "releases/new" {
        return release::add(look, &mut ask).await;
    }
    if let Some(body) = ask.body.take() {
        door::drain(body).await;
        return refusal(&look, 415, "This cannot be done", "want a form of the type application/x-www-form-urlencoded")
            .await;
    }
    let form = Params::of(ask.form);
    let parts: Vec<&str> = path.split('/').collect();
    match parts.as_slice() {
        ["pending"] => decide(look, &form).await,
        ["hosts", sn, action] => host(look, &url::decode(sn), action, &form).await,
        ["jobs", "new"] => job(look, &form).await,
        ["jobs", id, "cancel"] => {
            let id = url::decode(id);
            let back = |done: &Json| format!("/jobs/{}?done=cancelled&n={}", url::encode(&id), done["withdrawn"]);
            plain(look, "jobs/cancel", json!({ "id": id }), back).await
        }
        ["releases", "withdraw"] => {
            let body = json!({ "agent": form.get("agent"), "version": form.get("version") });
            plain(look, "releases/withdraw", body, |_| "/releases?done=withdrawn".to_string()).await
        }
        ["keys"] => new_key(look, &form).await,
        ["keys", "revoke"] => {
            plain(look, "keys/revoke", json!({ "id": form.get("id") }), |_| "/keys?done=revoked".to_string()).await
        }
        ["groups"] | ["groups", "set"] => group(look, &path, &form).await,
        ["me"] => form_people::own_password(look, &form).await,
        ["users", ..] => form_people::user(look, &path, &form).await,
        ["webhooks", ..] => form_people::webhook(look, &path, &form).await,
        _ => refusal(&look, 404, "There is no such thing", "this form leads nowhere: load its page again").await,
    }
}

/// Calls the API as whoever sent the form.
pub async fn call(look: &Look, name: &str, body: Json) -> Result<Json, Error> {
    look.caller.may(people::role_to_change(name)).map_err(Error::Forbidden)?;
    calls::check_body(name, &body).map_err(Error::Refused)?;
    api::change(&look.shared, name, body, &look.caller).await
}

/// A form that is one call, and leads to another page.
async fn plain(look: Look, name: &str, body: Json, back: impl FnOnce(&Json) -> String) -> Reply {
    match call(&look, name, body).await {
        Ok(done) => see(&back(&done)),
        Err(error) => problem(&look, &error).await,
    }
}

/// A page with what is wrong.
pub async fn again(
    look: Look,
    page: impl FnOnce(&mut dyn Tx, &Look) -> Result<String, Error> + Send + 'static,
) -> Reply {
    let asked = look.clone();
    match look.shared.read(move |tx| page(tx, &asked)).await {
        Ok(text) => reply(400, HTML, text, &[]),
        Err(error) => problem(&look, &error).await,
    }
}

/// What makes a page that shows what came of its form.
pub type Page = fn(&mut dyn Tx, &Look, Sent) -> Result<String, Error>;

/// The page of a form that changed nothing, with what was sent and why.
pub async fn refused(look: Look, page: Page, fields: Params, why: String) -> Reply {
    again(look, move |tx, look| page(tx, look, Sent { fields, wrong: Some(why), made: None })).await
}

/// The page of a form that made something with a secret. It is shown in the reply itself: it is in no address, and in no
/// database that could show it again.
pub async fn made(look: Look, page: Page, name: &str, secret: &str) -> Reply {
    let made = Some(Made { name: name.to_string(), secret: secret.to_string() });
    let asked = look.clone();
    match look.shared.read(move |tx| page(tx, &asked, Sent { made, ..Sent::default() })).await {
        Ok(text) => reply(200, HTML, text, &[]),
        Err(error) => problem(&look, &error).await,
    }
}

/// Accepts or rejects pending hosts: the chosen ones, or all that a filter matches.
async fn decide(look: Look, form: &Params) -> Reply {
    let action = form.get("do").to_string();
    let state = if action == "reject" { "rejected" } else { "accepted" };
    let mut chosen = form.all("host");
    if action == "accept-all" {
        let mut asked = look.clone();
        asked.params = Params::default().with("q", form.get("q"));
        let (wanted, wrong) = read::wanted(&asked, Scope::Pending);
        if let Some(wrong) = wrong {
            return problem(&look, &Error::Refused(wrong)).await;
        }
        let found = look.shared.read(move |tx| roster::page(tx, &wanted, 0, i64::from(i32::MAX))).await;
        match found {
            Ok(page) => chosen = page.sns,
            Err(error) => return problem(&look, &error).await,
        }
    }
    if chosen.is_empty() {
        let why = "no host was chosen: go back, tick some, and send the form again";
        return refusal(&look, 400, "This cannot be done", why).await;
    }
    for batch in chosen.chunks(BATCH) {
        if let Err(error) = call(&look, "hosts/state", json!({ "state": state, "hosts": batch })).await {
            return problem(&look, &error).await;
        }
    }
    see(&format!("/pending?done={state}&n={}", chosen.len()))
}

/// What is done to one host.
async fn host(look: Look, sn: &str, action: &str, form: &Params) -> Reply {
    let (name, body, done) = match action {
        "accept" => ("hosts/state", json!({ "state": "accepted", "hosts": [sn] }), "accepted"),
        "reject" => ("hosts/state", json!({ "state": "rejected", "hosts": [sn] }), "rejected"),
        "retire" => ("hosts/state", json!({ "state": "retired", "hosts": [sn] }), "retired"),
        "replace" => ("hosts/replace", json!({ "old": form.get("old"), "new": sn }), "replaced"),
        "pin" => ("hosts/pin", json!({ "hosts": [sn], "reason": form.get("reason").trim() }), "pinned"),
        "unpin" => ("hosts/pin", json!({ "hosts": [sn] }), "unpinned"),
        "group" => ("hosts/group", json!({ "host": sn, "group": form.get("group") }), "moved"),
        "labels" => {
            let (known, text) = (sn.to_string(), form.get("labels").to_string());
            match look.shared.read(move |tx| label_changes(tx, &known, &text)).await {
                Ok(labels) => ("hosts/label", json!({ "host": sn, "labels": labels }), "labels"),
                Err(error) => return problem(&look, &error).await,
            }
        }
        _ => return refusal(&look, 404, "There is no such thing", "this form leads nowhere").await,
    };
    let back = format!("{}?done={done}", crate::pages::hosts::host_address(sn));
    plain(look, name, body, |_| back).await
}

/// The labels of a form, a line each; those that are no longer there are empty, which removes them.
fn label_changes(tx: &mut dyn Tx, sn: &str, text: &str) -> Result<Map<String, Json>, Error> {
    let mut labels: Map<String, Json> = hosts::labels(tx, sn)?.into_keys().map(|name| (name, json!(""))).collect();
    labels.extend(pairs(text).map_err(Error::Refused)?);
    Ok(labels)
}

/// `NAME=VALUE` lines.
fn pairs(text: &str) -> Result<Map<String, Json>, String> {
    let mut pairs = Map::new();
    for line in text.lines().map(|line| line.trim_end_matches('\r')).filter(|line| !line.trim().is_empty()) {
        match line.split_once('=') {
            Some((name, value)) if !name.trim().is_empty() => drop(pairs.insert(name.trim().to_string(), json!(value))),
            _ => return Err(format!("\"{line}\": want NAME=VALUE, a line each")),
        }
    }
    Ok(pairs)
}

/// The request that the fields of a job make.
fn job_request(form: &Params) -> Result<Json, String> {
    let mut body = Map::new();
    if form.get("purge") == "on" {
        body.insert("purge".to_string(), json!(true));
    }
    for key in ["envs", "limits"] {
        let mut pairs = pairs(form.get(key)).map_err(|why| format!("{key}: {why}"))?;
        if let Some(name) = pairs.iter().find(|(_, value)| key == "envs" && *value == "").map(|(name, _)| name) {
            return Err(format!("envs: {name} has no value; values are not shown again: type them once more"));
        }
        if key == "limits" {
            for value in pairs.values_mut() {
                // The agent wants counts as numbers and sizes as text.
                if let Some(number) = value.as_str().and_then(|text| text.parse::<i64>().ok()) {
                    *value = json!(number);
                }
            }
        }
        if !pairs.is_empty() {
            body.insert(key.to_string(), Json::Object(pairs));
        }
    }
    for key in ["window", "expires", "startsecs", "step"] {
        let text = form.get(key).trim();
        if !text.is_empty() {
            let number: i64 = text.parse().map_err(|_| format!("{key}: want a number of seconds, got \"{text}\""))?;
            body.insert(key.to_string(), json!(number));
        }
    }
    let servers = form.get("svrlist").trim();
    if !servers.is_empty() {
        body.insert("svrlist".to_string(), json!(servers));
    }
    let text = |name: &str| form.get(name).trim().to_string();
    let version = Some(text("version")).filter(|version| !version.is_empty());
    let action = text("action");
    let version = version.filter(|_| crate::wire::job::installs(&action));
    if text("select").is_empty() {
        return Err("hosts: want a filter; state=accepted means every host".to_string());
    }
    let any_time = form.get("any_time") == "on";
    Ok(json!({ "action": action, "agent": text("agent"), "version": version, "select": text("select"), "body": body,
        "any_time": any_time }))
}

/// Gives a job, or shows what it would do.
async fn job(look: Look, form: &Params) -> Reply {
    let fields = form.clone();
    let request = match job_request(form) {
        Ok(request) => request,
        Err(why) => return again(look, move |tx, look| read_jobs::new_job(tx, look, &fields, Some(why), None)).await,
    };
    if form.get("do") == "preview" {
        let asked = look.clone();
        let shown = look.shared.read(move |tx| {
            let wanted = api::wanted_job(&request, String::new())?;
            let (wrong, preview) = match give::preview(tx, &wanted, &asked.shared.gaps()) {
                Ok(found) => (None, Some(preview(found))),
                Err(Error::Refused(why)) => (Some(why), None),
                Err(error) => return Err(error),
            };
            read_jobs::new_job(tx, &asked, &fields, wrong, preview)
        });
        return match shown.await {
            Ok(text) => reply(200, HTML, text, &[]),
            Err(error) => problem(&look, &error).await,
        };
    }
    match call(&look, "jobs", request).await {
        Ok(done) => {
            let id = url::encode(done["id"].as_str().unwrap_or_default());
            see(&format!("/jobs/{id}?done=given&n={}", done["hosts"]))
        }
        Err(Error::Refused(why)) => {
            again(look, move |tx, look| read_jobs::new_job(tx, look, &fields, Some(why), None)).await
        }
        Err(error) => problem(&look, &error).await,
    }
}

/// A text in what the API has answered.
pub fn text_in<'a>(done: &'a Json, name: &str) -> &'a str {
    done[name].as_str().unwrap_or_default()
}

fn preview(found: give::Selection) -> Preview {
    let names = found.hosts.iter().take(10).map(|host| host.name.clone()).collect();
    let left_out = found.left_out.into_iter().map(|(why, count)| (why, i64::try_from(count).unwrap_or(i64::MAX)));
    let hosts = i64::try_from(found.hosts.len()).unwrap_or(i64::MAX);
    Preview { hosts, names, left_out: left_out.collect(), version: found.version }
}

async fn new_key(look: Look, form: &Params) -> Reply {
    let host = Some(form.get("host").trim()).filter(|host| !host.is_empty());
    let body =
        json!({ "group": form.get("group").trim(), "host": host, "auto_accept": form.get("auto_accept") == "on" });
    let fields = form.clone();
    match call(&look, "keys", body).await {
        Ok(done) => made(look, read_lists::key_list, text_in(&done, "id"), text_in(&done, "key")).await,
        Err(Error::Refused(why)) => refused(look, read_lists::key_list, fields, why).await,
        Err(error) => problem(&look, &error).await,
    }
}

async fn group(look: Look, path: &str, form: &Params) -> Reply {
    let name = form.get("name").trim();
    let flag = |name: &str| if form.get(name) == "on" { "true" } else { "false" };
    let body = match path {
        "groups" => json!({ "name": name }),
        _ => json!({ "name": name, "settings": {
            "lost_after": form.get("lost_after").trim(), "retire_after": form.get("retire_after").trim(),
            "replace": flag("replace"), "allow_unidentified": flag("allow_unidentified"),
            "zone": form.get("zone").trim(), "window": form.get("window").trim(),
        } }),
    };
    let fields = form.clone();
    match call(&look, path, body).await {
        Ok(_) => see(if path == "groups" { "/groups?done=made" } else { "/groups?done=kept" }),
        Err(Error::Refused(why)) => refused(look, read_lists::group_list, fields, why).await,
        Err(error) => problem(&look, &error).await,
    }
}
