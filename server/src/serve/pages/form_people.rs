//! The forms of users, tokens, webhooks, and of one's own password.

use super::forms::{again, call, made, refused, text_in};
use super::{problem, read_lists, refusal, see, Look};
use crate::model::people;
use crate::pages::params::Params;
use crate::serve::door::Reply;
use crate::store::Error;
use serde_json::json;

/// Users and tokens.
pub async fn user(look: Look, path: &str, form: &Params) -> Reply {
    let name = form.get("name").trim();
    let (call_name, body) = match path {
        "users/tokens" => {
            let days = form.get("days").trim().parse::<i64>().ok();
            ("tokens", json!({ "name": form.get("token").trim(), "role": form.get("role"), "days": days }))
        }
        "users/tokens/revoke" => ("tokens/revoke", json!({ "name": name })),
        "users/role" => (path, json!({ "name": name, "role": form.get("role") })),
        "users/disable" | "users/enable" => (path, json!({ "name": name })),
        "users/passwd" => (path, json!({ "name": name, "password": form.get("password") })),
        "users" => (path, json!({ "name": name, "role": form.get("role"), "password": form.get("password") })),
        _ => return refusal(&look, 404, "There is no such thing", "this form leads nowhere").await,
    };
    let fields = form.with("password", "");
    match call(&look, call_name, body).await {
        Ok(done) if call_name == "tokens" => {
            made(look, read_lists::user_list, text_in(&done, "name"), text_in(&done, "token")).await
        }
        Ok(_) => see(match path {
            "users" => "/users?done=made",
            "users/tokens/revoke" => "/users?done=revoked",
            _ => "/users?done=kept",
        }),
        Err(Error::Refused(why) | Error::Missing(why)) if look.caller.may(people::Role::Admin).is_ok() => {
            refused(look, read_lists::user_list, fields, why).await
        }
        Err(error) => problem(&look, &error).await,
    }
}

/// The password of whoever is logged in.
pub async fn own_password(look: Look, form: &Params) -> Reply {
    let done = if form.get("new") == form.get("again") {
        call(&look, "me/password", json!({ "old": form.get("old"), "new": form.get("new") })).await
    } else {
        Err(Error::Refused("the new password is not the same in both fields".to_string()))
    };
    match done {
        Ok(_) => see("/login"),
        Err(Error::Refused(why)) => again(look, move |tx, look| read_lists::own(tx, look, Some(why))).await,
        Err(error) => problem(&look, &error).await,
    }
}

/// Webhooks.
pub async fn webhook(look: Look, path: &str, form: &Params) -> Reply {
    let name = form.get("name").trim();
    let body = match path {
        "webhooks" => json!({ "name": name, "url": form.get("url").trim(), "events": form.all("events") }),
        _ => json!({ "name": name }),
    };
    let fields = if path == "webhooks" { form.clone() } else { Params::default() };
    match call(&look, path, body).await {
        Ok(done) if path == "webhooks" => made(look, read_lists::webhook_list, name, text_in(&done, "secret")).await,
        Ok(_) => see(if path == "webhooks/test" { "/webhooks?done=sent" } else { "/webhooks?done=removed" }),
        Err(Error::Refused(why) | Error::Missing(why)) if look.caller.may(people::Role::Admin).is_ok() => {
            refused(look, read_lists::webhook_list, fields, why).await
        }
        Err(error) => problem(&look, &error).await,
    }
}
