//! What is done to users and tokens. It works in a running server and, for the command line, on the directory alone.

use super::clock;
use crate::model::people::{check_name, check_password, Role, TOKEN_DAYS_MAX};
use crate::store::people::{self, Token};
use crate::store::{events, missing, refused, Error, Tx};
use crate::wire::password;
use serde_json::{json, Value as Json};

/// The calls that are answered here.
pub fn is_call(call: &str) -> bool {
    matches!(call.split('/').next(), Some("users" | "tokens" | "me"))
}

/// Replaces the password in a request by its hash. It is slow: not for the threads that answer, nor for the writer.
///
/// # Errors
/// What of the password will not do.
pub fn hash_password(mut body: Json) -> Result<Json, Error> {
    if let Some(given) = body["password"].as_str() {
        check_password(body["name"].as_str().unwrap_or_default(), given).map_err(Error::Refused)?;
        let hash = password::hash(given, clock::salt());
        body["password"] = json!(hash);
    }
    Ok(body)
}

/// Does what a call asks for. `body` has been through [`hash_password`].
///
/// # Errors
/// What the engine says, or what of the request will not do.
pub fn change(tx: &mut dyn Tx, call: &str, body: &Json, who: &str) -> Result<Json, Error> {
    let name = body["name"].as_str().unwrap_or_default();
    match call {
        "users" => add_user(tx, name, body, who),
        "users/passwd" | "users/role" | "users/disable" | "users/enable" => change_user(tx, call, name, body, who),
        "tokens" => add_token(tx, name, body, who),
        "tokens/revoke" => {
            people::revoke_token(tx, name, clock::now())?;
            events::audit(tx, clock::now(), who, "token revoke", &format!("token {name}"), ("valid", "revoked"))?;
            Ok(json!({}))
        }
        _ => missing(format!("there is no such call: \"{call}\"")),
    }
}

fn role(body: &Json) -> Result<Role, Error> {
    Role::parse(body["role"].as_str().unwrap_or_default()).map_err(Error::Refused)
}

fn hashed(body: &Json) -> Result<String, Error> {
    match body["password"].as_str().filter(|hash| hash.starts_with("$argon2id$")) {
        Some(hash) => Ok(hash.to_string()),
        None => refused("password: want a string"),
    }
}

fn add_user(tx: &mut dyn Tx, name: &str, body: &Json, who: &str) -> Result<Json, Error> {
    check_name("user", name).map_err(Error::Refused)?;
    let (role, now) = (role(body)?, clock::now());
    people::add_user(tx, name, role, &hashed(body)?, now)?;
    events::audit(tx, now, who, "user add", &format!("user {name}"), ("", role.as_str()))?;
    Ok(json!({}))
}

/// Each change ends the user's sessions.
fn change_user(tx: &mut dyn Tx, call: &str, name: &str, body: &Json, who: &str) -> Result<Json, Error> {
    let mut user = people::known(tx, name)?;
    let before = user.clone();
    let told = |user: &people::User| match user.disabled {
        Some(_) => format!("{}, disabled", user.role.as_str()),
        None => user.role.as_str().to_string(),
    };
    let action = match call {
        "users/passwd" => {
            user.password = hashed(body)?;
            "user passwd"
        }
        "users/role" => {
            user.role = role(body)?;
            "user role"
        }
        "users/enable" => {
            user.disabled = None;
            "user enable"
        }
        _ => {
            user.disabled = user.disabled.or(Some(clock::now()));
            "user disable"
        }
    };
    let is_admin = |user: &people::User| user.role == Role::Admin && user.disabled.is_none();
    let others = people::users(tx)?.iter().any(|other| other.name != name && is_admin(other));
    if is_admin(&before) && !is_admin(&user) && !others && !who.starts_with("local:") {
        return refused(format!("{name} is the last admin: make another one first"));
    }
    people::save_user(tx, &user)?;
    let (before, mut after) = (told(&before), told(&user));
    if call == "users/passwd" {
        after += ", a new password";
    }
    events::audit(tx, clock::now(), who, action, &format!("user {name}"), (&before, &after))?;
    let made = format!("user:{name}");
    let now = clock::now();
    let theirs = people::tokens(tx)?
        .into_iter()
        .filter(|token| token.by == made && token.revoked.is_none() && token.expires > now)
        .map(|token| token.name);
    Ok(json!({ "tokens": theirs.collect::<Vec<String>>() }))
}

fn add_token(tx: &mut dyn Tx, name: &str, body: &Json, who: &str) -> Result<Json, Error> {
    check_name("token", name).map_err(Error::Refused)?;
    let (role, now) = (role(body)?, clock::now());
    let days = match body["days"].as_i64() {
        Some(days) if (1..=TOKEN_DAYS_MAX).contains(&days) => days,
        _ => return refused(format!("days: want 1 to {TOKEN_DAYS_MAX}; a token has an end")),
    };
    let secret = format!("bst_{}", clock::secret());
    let expires = now + days * 86_400;
    let (id, by) = (password::digest(&secret), who.to_string());
    people::add_token(
        tx,
        &Token { id, name: name.to_string(), role, created: now, by, expires, revoked: None, seen: None },
    )?;
    let after = format!("{}, {days} days", role.as_str());
    events::audit(tx, now, who, "token new", &format!("token {name}"), ("", &after))?;
    Ok(json!({ "name": name, "token": secret, "expires": expires }))
}

/// Changes one's own password, which was shown to be known.
///
/// # Errors
/// What the engine says, or what of the password will not do.
pub fn own_password(tx: &mut dyn Tx, name: &str, hash: &str, who: &str) -> Result<Json, Error> {
    let mut user = people::known(tx, name)?;
    user.password = hash.to_string();
    people::save_user(tx, &user)?;
    events::audit(tx, clock::now(), who, "user passwd", &format!("user {name}"), ("", "a new password"))?;
    Ok(json!({}))
}

/// Users without their passwords.
///
/// # Errors
/// What the engine says.
pub fn users(tx: &mut dyn Tx) -> Result<Vec<Json>, Error> {
    let mut list = Vec::new();
    for user in people::users(tx)? {
        let sql = "SELECT count(*) FROM sessions WHERE name = ?1 AND expires > ?2";
        let sessions = tx.number(sql, crate::args![&user.name, clock::now()])?;
        list.push(json!({
            "name": user.name, "role": user.role.as_str(), "created": user.created, "disabled": user.disabled,
            "seen": user.seen, "sessions": sessions,
        }));
    }
    Ok(list)
}

/// Tokens without their secrets.
///
/// # Errors
/// What the engine says.
pub fn tokens(tx: &mut dyn Tx) -> Result<Vec<Json>, Error> {
    let now = clock::now();
    let state = |token: &Token| match token.revoked {
        Some(_) => "revoked",
        None if token.expires <= now => "expired",
        None => "valid",
    };
    let one = |token: &Token| {
        json!({
            "name": token.name, "role": token.role.as_str(), "state": state(token), "created": token.created,
            "by": token.by, "expires": token.expires, "revoked": token.revoked, "seen": token.seen,
        })
    };
    Ok(people::tokens(tx)?.iter().map(one).collect())
}
