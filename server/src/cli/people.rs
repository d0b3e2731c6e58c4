//! `user` and `token`: by the running server, or on the directory where none runs.

use super::client::{Client, Failure};
use super::print::{ago, cell};
use super::verbs::{in_directory, show};
use super::words::{Token, User};
use crate::serve::{accounts, clock, run};
use crate::store::{Error, Tx};
use serde_json::{json, Value as Json};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

type Done = Result<(), Failure>;

/// Does a change, and says what came of it.
fn change(dir: &Path, client: &Client, call: &str, body: Json) -> Result<Json, Failure> {
    if client.is_running() {
        return client.post(call, &body);
    }
    let body = accounts::hash_password(body).map_err(|error| Failure::Failed(error.to_string()))?;
    in_directory(dir, |tx| accounts::change(tx, call, &body, &run::local()))
}

fn list(
    dir: &Path,
    client: &Client,
    call: &str,
    read: impl FnOnce(&mut dyn Tx) -> Result<Vec<Json>, Error>,
) -> Result<Json, Failure> {
    match client.is_running() {
        true => client.get(call, &[]),
        false => Ok(Json::from(in_directory(dir, read)?)),
    }
}

pub fn user(user: &User, dir: &Path, client: &Client, as_json: bool) -> Done {
    match user {
        User::Add { name, role, password_file } => {
            let (password, made) = password(password_file.as_deref())?;
            change(dir, client, "users", json!({ "name": name, "role": role, "password": password }))?;
            tell(name, made.then_some(password), as_json);
        }
        User::Passwd { name, password_file } => {
            let (password, made) = password(password_file.as_deref())?;
            change(dir, client, "users/passwd", json!({ "name": name, "password": password }))?;
            tell(name, made.then_some(password), as_json);
        }
        User::Role { name, role } => {
            change(dir, client, "users/role", json!({ "name": name, "role": role }))?;
            println!("{name} is {role} from now on, and must log in again");
        }
        User::Disable { name } => {
            let done = change(dir, client, "users/disable", json!({ "name": name }))?;
            println!("{name} is let in no longer");
            for token in done["tokens"].as_array().into_iter().flatten() {
                println!("a token that {name} made still works: bootserver token revoke {}", cell(token));
            }
        }
        User::Enable { name } => {
            change(dir, client, "users/enable", json!({ "name": name }))?;
            println!("{name} can log in again");
        }
        User::List => {
            let found = list(dir, client, "users", accounts::users)?;
            show(&found, as_json, &["USER", "ROLE", "STATE", "SESSIONS", "LOGGED IN", "MADE"], |user| {
                let state = if user["disabled"].is_null() { "enabled" } else { "disabled" };
                let now = clock::now();
                let times = vec![ago(&user["seen"], now), ago(&user["created"], now)];
                [vec![cell(&user["name"]), cell(&user["role"]), state.into(), cell(&user["sessions"])], times].concat()
            });
        }
    }
    Ok(())
}

/// The password of a file, or a new one and `true`.
fn password(file: Option<&Path>) -> Result<(String, bool), Failure> {
    let Some(file) = file else { return Ok((clock::random_id(), true)) };
    let said = |error: std::io::Error| format!("cannot read {}: {error}", file.display());
    let mut text = String::new();
    if file == Path::new("-") {
        std::io::stdin().take(4096).read_to_string(&mut text).map_err(said)?;
    } else {
        text = std::fs::read_to_string(file).map_err(said)?;
    }
    match text.lines().next() {
        Some(line) if !line.is_empty() => Ok((line.to_string(), false)),
        _ => Err(Failure::Failed(format!("{}: want the password in its first line", file.display()))),
    }
}

fn tell(name: &str, made: Option<String>, as_json: bool) {
    match made {
        _ if as_json => println!("{}", json!({ "name": name, "password": made })),
        Some(password) => println!("{name} can log in with the password {password} (it is not shown again)"),
        None => println!("{name} can log in"),
    }
}

pub fn token(token: &Token, dir: &Path, client: &Client, as_json: bool) -> Done {
    match token {
        Token::New { name, role, days, out } => {
            if let Some(out) = out.as_ref().filter(|out| out.exists()) {
                return Err(Failure::Failed(format!("{} is there already", out.display())));
            }
            let made = change(dir, client, "tokens", json!({ "name": name, "role": role, "days": days }))?;
            let Some(out) = out else {
                match as_json {
                    true => println!("{made}"),
                    false => println!("{}", cell(&made["token"])),
                }
                return Ok(());
            };
            let said = |error: std::io::Error| format!("cannot write {}: {error}", out.display());
            let mut file =
                std::fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(out).map_err(said)?;
            writeln!(file, "{}", cell(&made["token"])).map_err(said)?;
            println!("token {name} ({role}, {days} days) is in {}: bootserver --token-file wants it", out.display());
        }
        Token::List => {
            let found = list(dir, client, "tokens", accounts::tokens)?;
            let headings = ["TOKEN", "ROLE", "STATE", "MADE BY", "MADE", "USED", "ENDS"];
            show(&found, as_json, &headings, |token| {
                let plain = ["name", "role", "state", "by"].map(|key| cell(&token[key]));
                let now = clock::now();
                let times = vec![ago(&token["created"], now), ago(&token["seen"], now), ago(&token["expires"], now)];
                [plain.to_vec(), times].concat()
            });
        }
        Token::Revoke { name } => {
            change(dir, client, "tokens/revoke", json!({ "name": name }))?;
            println!("token {name} is revoked");
        }
    }
    Ok(())
}
