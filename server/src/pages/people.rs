//! Logging in; users, tokens, one's own password; webhooks.

use super::{Badge, Frame, Tone};
use askama::Template;

/// The login page.
#[derive(Template)]
#[template(path = "login.html")]
pub struct Login {
    /// What is around it.
    pub f: Frame,
    /// The path to go to.
    pub next: String,
    /// What was wrong with the last try.
    pub wrong: String,
    /// Whether nobody can log in yet.
    pub nobody: bool,
}

/// A user.
pub struct UserRow {
    /// The name.
    pub name: String,
    /// The role.
    pub role: String,
    /// When they were added.
    pub created: i64,
    /// When they last logged in.
    pub seen: Option<i64>,
    /// When they were disabled.
    pub disabled: Option<i64>,
}

/// A token of a program.
pub struct TokenRow {
    /// Its name.
    pub name: String,
    /// What it may do.
    pub role: String,
    /// When it was made.
    pub created: i64,
    /// By whom.
    pub giver: String,
    /// Its end.
    pub expires: i64,
    /// When it was last used.
    pub seen: Option<i64>,
    /// Whether it is valid, and if not, why.
    pub badge: Badge,
}

impl TokenRow {
    /// The state of a token.
    pub fn state(expires: i64, revoked: Option<i64>, now: i64) -> Badge {
        match revoked {
            Some(_) => Badge::new(Tone::Mute, "revoked"),
            None if expires <= now => Badge::new(Tone::Mute, "at its end"),
            None => Badge::new(Tone::Ok, "valid"),
        }
    }
}

/// Users and tokens.
#[derive(Template)]
#[template(path = "users.html")]
pub struct Users {
    /// What is around it.
    pub f: Frame,
    /// Users.
    pub users: Vec<UserRow>,
    /// Tokens.
    pub tokens: Vec<TokenRow>,
    /// The fields as they were sent.
    pub fields: super::params::Params,
    /// Why nothing was changed.
    pub wrong: Option<String>,
    /// A token that was just made: its name and its secret, which is shown this once.
    pub made: Option<(String, String)>,
}

/// One's own password.
#[derive(Template)]
#[template(path = "me.html")]
pub struct Me {
    /// What is around it.
    pub f: Frame,
    /// Why it was not changed.
    pub wrong: Option<String>,
}

/// A page that says why something cannot be shown or done.
#[derive(Template)]
#[template(path = "problem.html")]
pub struct Problem {
    /// What is around it.
    pub f: Frame,
    /// What.
    pub what: String,
    /// Why, and what to do.
    pub why: String,
}
