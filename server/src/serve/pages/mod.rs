//! Pages for people. The caller is known, and the CSRF token of a form is checked, before anything here is called.
//!
//! `read` looks things up for `crate::pages` to render; `forms` turns what somebody sends into calls of the API, so that both
//! doors have the same rules; `files` is the style sheet and the script; `csv` is every list as CSV.

mod csv;
mod files;
mod form_people;
mod forms;
mod read;
mod read_jobs;
mod read_lists;
mod release;

use super::door::{reply, Reply};
use super::front::Ask;
use super::{clock, Shared};
use crate::model::people::{Caller, Role};
use crate::pages::params::Params;
use crate::pages::people::{Login, Problem};
use crate::pages::{Frame, Notice, Tone, Who};
use crate::store::{Error, Tx};
use crate::wire::url;
use askama::Template;
use hyper::Method;
use std::sync::Arc;

const HTML: &str = "text/html; charset=utf-8";

/// What a page is made for.
#[derive(Clone)]
struct Look {
    shared: Arc<Shared>,
    caller: Caller,
    path: String,
    params: Params,
    now: i64,
}

/// Answers a request for a page.
pub async fn handle(shared: &Arc<Shared>, ask: Ask) -> Reply {
    if ask.path.starts_with("/static/") {
        return files::serve(&ask.path, &ask.headers);
    }
    let Some(caller) = ask.caller.clone() else {
        let nobody = shared.read(|tx| tx.number("SELECT count(*) FROM users", &[])).await.is_ok_and(|users| users == 0);
        return login_page(200, &url::param(&ask.query, "next").unwrap_or_default(), "", nobody);
    };
    if ask.path == "/login" {
        return see("/");
    }
    let (path, params) = (ask.path.clone(), Params::parse(&ask.query));
    let look = Look { shared: shared.clone(), caller, path, params, now: clock::now() };
    if ask.method == Method::POST {
        return forms::take(look, ask).await;
    }
    let asked = look.clone();
    let found = shared
        .read(move |tx| match asked.path.strip_suffix(".csv") {
            Some(path) => csv::list(tx, &asked, path).map(|text| (text, true)),
            None => read::page(tx, &asked).map(|text| (text, false)),
        })
        .await;
    match found {
        Ok((text, true)) => {
            let name = look.path.trim_start_matches('/').replace(['/', '"'], "-");
            let header = ("content-disposition", format!("attachment; filename=\"{name}\""));
            reply(200, "text/csv; charset=utf-8", text, &[header])
        }
        Ok((text, false)) => reply(200, HTML, text, &[]),
        Err(error) => problem(&look, &error).await,
    }
}

/// Leads the browser to another page.
fn see(address: &str) -> Reply {
    reply(303, "text/plain", "", &[("location", address.to_string())])
}

/// A page that says why not.
async fn problem(look: &Look, error: &Error) -> Reply {
    let (status, what) = match error {
        Error::Refused(_) => (400, "This cannot be done"),
        Error::Forbidden(_) => (403, "You may not do this"),
        Error::Missing(_) => (404, "There is no such thing"),
        Error::Busy => (503, "The server is busy"),
        Error::Engine(_) => (503, "The database does not answer"),
    };
    refusal(look, status, what, &error.to_string()).await
}

async fn refusal(look: &Look, status: u16, what: &str, why: &str) -> Reply {
    let asked = look.clone();
    let bare = Frame { title: what.to_string(), assets: files::assets(), now: look.now, ..Frame::default() };
    let f = look.shared.read(move |tx| frame(tx, &asked, "", "")).await.unwrap_or(bare);
    let f = Frame { title: what.to_string(), ..f };
    let page = Problem { f, what: what.to_string(), why: why.to_string() };
    reply(status, HTML, text_of(&page), &[])
}

/// A template as text. A template fails only where a value of it does, and none of ours can.
fn text_of(page: &impl Template) -> String {
    page.render().unwrap_or_else(|error| format!("cannot show this page: {error}"))
}

/// What is around a page.
fn frame(tx: &mut dyn Tx, look: &Look, active: &'static str, title: &str) -> Result<Frame, Error> {
    let caller = &look.caller;
    let who = Who {
        name: caller.user().unwrap_or(&caller.who).to_string(),
        role: caller.role.as_str().to_string(),
        may_operate: caller.may(Role::Operator).is_ok(),
        may_administer: caller.may(Role::Admin).is_ok(),
    };
    Ok(Frame {
        title: title.to_string(),
        active,
        path: look.path.clone(),
        params: look.params.with("done", "").with("n", ""),
        now: look.now,
        who: Some(who),
        csrf: caller.csrf().to_string(),
        pending: tx.number("SELECT count(*) FROM hosts WHERE state = 'pending'", &[])?,
        trouble: tx.number("SELECT count(*) FROM hosts WHERE trouble > 0", &[])?,
        notice: notice(&look.params),
        assets: files::assets(),
    })
}

/// What a form says was done. The address has a word and a number only, so that no link can put words into our mouth.
fn notice(params: &Params) -> Option<Notice> {
    let number: i64 = params.get("n").parse().unwrap_or(1);
    let hosts = crate::pages::words::many(number, "host");
    let text = match params.get("done") {
        "accepted" => format!("{hosts} accepted."),
        "rejected" => format!("{hosts} rejected."),
        "retired" => format!("{hosts} retired."),
        "replaced" => "This host has taken the place of the other one, which is retired.".to_string(),
        "labels" => "The labels are set.".to_string(),
        "pinned" => "The host is pinned: the versions of its agents stay as they are.".to_string(),
        "unpinned" => "The host is no longer pinned.".to_string(),
        "moved" => "The host is moved.".to_string(),
        "given" => format!("The job is given to {hosts}. Each gets it with its next report."),
        "cancelled" => format!("Cancelled: {hosts} had not ended it."),
        "added" => "The package is added.".to_string(),
        "withdrawn" => "The release is withdrawn.".to_string(),
        "revoked" => "It is revoked.".to_string(),
        "kept" => "It is kept.".to_string(),
        "removed" => "It is removed.".to_string(),
        "sent" => "The test is sent, and was taken.".to_string(),
        "made" => "It is made.".to_string(),
        _ => return None,
    };
    Some(Notice { tone: Tone::Ok, text })
}

/// The login page, with what was wrong with the last try.
pub fn login(status: u16, next: &str, wrong: &str) -> Reply {
    login_page(status, next, wrong, false)
}

fn login_page(status: u16, next: &str, wrong: &str, nobody: bool) -> Reply {
    let f = Frame { title: "Log in".to_string(), assets: files::assets(), now: clock::now(), ..Frame::default() };
    let page = Login { f, next: next.to_string(), wrong: wrong.to_string(), nobody };
    reply(status, HTML, text_of(&page), &[])
}
