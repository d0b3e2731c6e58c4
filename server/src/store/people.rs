//! Users, their sessions, and tokens of programs.

use super::{missing, refused, Error, Row, Tx};
use crate::args;
use crate::model::people::Role;

/// Somebody who can log in.
#[derive(Clone, Debug)]
pub struct User {
    /// Unique.
    pub name: String,
    /// What they may do.
    pub role: Role,
    /// The hash of the password.
    pub password: String,
    /// When they were added.
    pub created: i64,
    /// When they were disabled.
    pub disabled: Option<i64>,
    /// When they last logged in.
    pub seen: Option<i64>,
}

const USER: &str = "SELECT name, role, password, created, disabled, seen FROM users";

fn user_of(row: &Row) -> User {
    User {
        name: row.text(0),
        // What is kept was checked; what a later version wrote may not give more than looking.
        role: Role::parse(&row.text(1)).unwrap_or(Role::Viewer),
        password: row.text(2),
        created: row.int(3),
        disabled: row.maybe_int(4),
        seen: row.maybe_int(5),
    }
}

/// A user that may not be there.
///
/// # Errors
/// What the engine says.
pub fn user(tx: &mut dyn Tx, name: &str) -> Result<Option<User>, Error> {
    Ok(tx.row(&format!("{USER} WHERE name = ?1"), args![name])?.as_ref().map(user_of))
}

/// A user that is wanted.
///
/// # Errors
/// What the engine says, or that there is none.
pub fn known(tx: &mut dyn Tx, name: &str) -> Result<User, Error> {
    match user(tx, name)? {
        Some(user) => Ok(user),
        None => missing(format!("there is no user \"{name}\": bootserver user list")),
    }
}

/// All users, by name.
///
/// # Errors
/// What the engine says.
pub fn users(tx: &mut dyn Tx) -> Result<Vec<User>, Error> {
    Ok(tx.rows(&format!("{USER} ORDER BY name"), &[])?.iter().map(user_of).collect())
}

/// Keeps a new user.
///
/// # Errors
/// What the engine says, or that there is one of this name.
pub fn add_user(tx: &mut dyn Tx, name: &str, role: Role, password: &str, now: i64) -> Result<(), Error> {
    let sql = "INSERT INTO users (name, role, password, created) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING";
    match tx.run(sql, args![name, role.as_str(), password, now])? {
        0 => refused(format!("there is a user \"{name}\" already")),
        _ => Ok(()),
    }
}

/// Keeps what changed of a user, and ends their sessions.
///
/// # Errors
/// What the engine says.
pub fn save_user(tx: &mut dyn Tx, user: &User) -> Result<(), Error> {
    let sql = "UPDATE users SET role = ?2, password = ?3, disabled = ?4 WHERE name = ?1";
    tx.run(sql, args![&user.name, user.role.as_str(), &user.password, user.disabled])?;
    tx.run("DELETE FROM sessions WHERE name = ?1", args![&user.name])?;
    Ok(())
}

/// Keeps a session under the digest of its secret.
///
/// # Errors
/// What the engine says.
pub fn add_session(tx: &mut dyn Tx, id: &str, name: &str, peer: &str, now: i64, expires: i64) -> Result<(), Error> {
    let sql = "INSERT INTO sessions (id, name, peer, created, expires) VALUES (?1, ?2, ?3, ?4, ?5)";
    tx.run(sql, args![id, name, peer, now, expires])?;
    tx.run("UPDATE users SET seen = ?2 WHERE name = ?1", args![name, now])?;
    Ok(())
}

/// The user of a session that is valid now.
///
/// # Errors
/// What the engine says.
pub fn session(tx: &mut dyn Tx, id: &str, now: i64) -> Result<Option<User>, Error> {
    let sql = format!(
        "{USER} WHERE disabled IS NULL AND name = (SELECT name FROM sessions WHERE id = ?1 AND created <= ?2 + 300 \
         AND expires > ?2)"
    );
    Ok(tx.row(&sql, args![id, now])?.as_ref().map(user_of))
}

/// Ends a session.
///
/// # Errors
/// What the engine says.
pub fn end_session(tx: &mut dyn Tx, id: &str) -> Result<(), Error> {
    tx.run("DELETE FROM sessions WHERE id = ?1", args![id])?;
    Ok(())
}

/// Ends every session.
///
/// # Errors
/// What the engine says.
pub fn end_sessions(tx: &mut dyn Tx) -> Result<(), Error> {
    tx.run("DELETE FROM sessions", &[])?;
    Ok(())
}

/// Forgets sessions that are over.
///
/// # Errors
/// What the engine says.
pub fn forget_sessions(tx: &mut dyn Tx, now: i64) -> Result<(), Error> {
    tx.run("DELETE FROM sessions WHERE expires <= ?1", args![now])?;
    Ok(())
}

/// What a program shows instead of a password.
#[derive(Clone, Debug)]
pub struct Token {
    /// The digest of the secret.
    pub id: String,
    /// Unique, as the audit trail names it.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// When it was made.
    pub created: i64,
    /// Who made it.
    pub by: String,
    /// When it ends.
    pub expires: i64,
    /// When it was revoked.
    pub revoked: Option<i64>,
    /// When it was used, to the hour.
    pub seen: Option<i64>,
}

const TOKEN: &str = "SELECT id, name, role, created, giver, expires, revoked, seen FROM tokens";

fn token_of(row: &Row) -> Token {
    Token {
        id: row.text(0),
        name: row.text(1),
        role: Role::parse(&row.text(2)).unwrap_or(Role::Viewer),
        created: row.int(3),
        by: row.text(4),
        expires: row.int(5),
        revoked: row.maybe_int(6),
        seen: row.maybe_int(7),
    }
}

/// The token of a digest that is valid now.
///
/// # Errors
/// What the engine says.
pub fn token(tx: &mut dyn Tx, id: &str, now: i64) -> Result<Option<Token>, Error> {
    let sql = format!("{TOKEN} WHERE id = ?1 AND revoked IS NULL AND expires > ?2");
    Ok(tx.row(&sql, args![id, now])?.as_ref().map(token_of))
}

/// All tokens, by name.
///
/// # Errors
/// What the engine says.
pub fn tokens(tx: &mut dyn Tx) -> Result<Vec<Token>, Error> {
    Ok(tx.rows(&format!("{TOKEN} ORDER BY name"), &[])?.iter().map(token_of).collect())
}

/// Keeps a new token, in the place of one of its name that is no longer valid.
///
/// # Errors
/// What the engine says, or that there is a valid one of this name.
pub fn add_token(tx: &mut dyn Tx, token: &Token) -> Result<(), Error> {
    let gone = "DELETE FROM tokens WHERE name = ?1 AND (revoked IS NOT NULL OR expires <= ?2)";
    tx.run(gone, args![&token.name, token.created])?;
    let sql = "INSERT INTO tokens (id, name, role, created, giver, expires) VALUES (?1, ?2, ?3, ?4, ?5, ?6) \
        ON CONFLICT DO NOTHING";
    let Token { id, name, role, created, by, expires, .. } = token;
    match tx.run(sql, args![id, name, role.as_str(), *created, by, *expires])? {
        0 => refused(format!("there is a token \"{name}\": take another name, or bootserver token revoke {name}")),
        _ => Ok(()),
    }
}

/// Revokes a token.
///
/// # Errors
/// What the engine says, or that there is none.
pub fn revoke_token(tx: &mut dyn Tx, name: &str, now: i64) -> Result<(), Error> {
    match tx.run("UPDATE tokens SET revoked = ?2 WHERE name = ?1 AND revoked IS NULL", args![name, now])? {
        0 => missing(format!("there is no token \"{name}\" that is not revoked: bootserver token list")),
        _ => Ok(()),
    }
}

/// Keeps that a token was used.
///
/// # Errors
/// What the engine says.
pub fn token_seen(tx: &mut dyn Tx, id: &str, now: i64) -> Result<(), Error> {
    tx.run("UPDATE tokens SET seen = ?2 WHERE id = ?1", args![id, now])?;
    Ok(())
}
