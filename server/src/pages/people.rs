//! Logging in; users, tokens, one's own password; webhooks.

use super::sent::Sent;
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
    /// What came of a form.
    pub sent: Sent,
}

impl Users {
    /// The address of the tokens as CSV.
    pub fn tokens_csv(&self) -> String {
        self.f.params.address("/tokens.csv")
    }
}

/// A webhook.
pub struct WebhookRow {
    /// Its name.
    pub name: String,
    /// Where messages go, without what may be secret in it.
    pub place: String,
    /// What it is told.
    pub kinds: String,
    /// Whether it works.
    pub badge: Badge,
    /// What became of the last message.
    pub outcome: String,
    /// When that was.
    pub tried: Option<i64>,
    /// When it was added.
    pub created: i64,
    /// By whom.
    pub by: String,
}

impl WebhookRow {
    /// The state of a webhook after so many failures in a row.
    pub fn state(failures: i64, tried: bool) -> Badge {
        match (failures, tried) {
            (0, false) => Badge::new(Tone::Mute, "nothing told yet"),
            (0, true) => Badge::new(Tone::Ok, "works"),
            (count, _) => Badge::new(
                Tone::Bad,
                format!("failed {}", if count == 1 { "once".into() } else { format!("{count} times") }),
            ),
        }
    }
}

/// Something that a webhook can be told.
pub struct Kind {
    /// Its name.
    pub name: &'static str,
    /// What it means.
    pub meaning: &'static str,
    /// Whether it is ticked.
    pub ticked: bool,
}

impl Kind {
    /// What a kind of event means.
    pub fn meaning(name: &str) -> &'static str {
        match name {
            "host-lost" => "a host is silent for longer than its group allows",
            "host-conflict" => "two machines report as one host",
            "host-back" => "a retired host reports again",
            "security" => "something was refused: a replay, a wrong key, another host's result",
            "job" => "a job did not work on a host",
            _ => "",
        }
    }
}

/// Webhooks.
#[derive(Template)]
#[template(path = "webhooks.html")]
pub struct Webhooks {
    /// What is around it.
    pub f: Frame,
    /// The lines.
    pub rows: Vec<WebhookRow>,
    /// What can be told.
    pub kinds: Vec<Kind>,
    /// What came of a form.
    pub sent: Sent,
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
