//! Pages for people. The caller is known, and the CSRF token of a form is checked, before anything here is called.

use super::door::{reply, Reply};
use super::front::Ask;
use super::Shared;
use crate::wire::url;
use std::sync::Arc;

const HTML: &str = "text/html; charset=utf-8";

/// Answers a request for a page.
pub async fn handle(_shared: &Arc<Shared>, ask: Ask) -> Reply {
    match (ask.path.as_str(), &ask.caller) {
        ("/login", _) => login(200, &url::param(&ask.query, "next").unwrap_or_default(), ""),
        ("/", Some(caller)) => {
            let (who, role, csrf) = (escape(&caller.who), caller.role.as_str(), caller.csrf());
            let page = format!(
                "<!DOCTYPE html><html lang=\"en\"><title>bootserver</title><p>You are {who}, {role}.</p>\
                 <form method=\"post\" action=\"/logout\"><input type=\"hidden\" name=\"csrf\" value=\"{csrf}\">\
                 <button>Log out</button></form></html>"
            );
            reply(200, HTML, page, &[])
        }
        _ => reply(404, "text/plain", "there is no such page\n", &[]),
    }
}

/// The login page, with what was wrong with the last try.
pub fn login(status: u16, next: &str, wrong: &str) -> Reply {
    let (next, wrong) = (escape(next), escape(wrong));
    let page = format!(
        "<!DOCTYPE html><html lang=\"en\"><title>bootserver: log in</title><h1>Log in</h1><p role=\"alert\">{wrong}</p>\
         <form method=\"post\" action=\"/login\"><input type=\"hidden\" name=\"next\" value=\"{next}\">\
         <label>Name <input name=\"name\" autocomplete=\"username\" required autofocus></label> \
         <label>Password <input type=\"password\" name=\"password\" autocomplete=\"current-password\" required></label> \
         <button>Log in</button></form></html>"
    );
    reply(status, HTML, page, &[])
}

/// Text that is no markup.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#39;")
}
