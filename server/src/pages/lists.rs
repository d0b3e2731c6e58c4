//! Plain lists: events, the audit trail, keys, groups; and the server's own page.

use super::sent::Sent;
use super::{Badge, Frame, Pager, Tone};
use crate::model::gaps::Gap;
use crate::store::events::{Line, Stored};
use crate::store::groups::Group;
use askama::Template;

/// Something that happened.
pub struct EventRow {
    /// When, by the server's clock.
    pub time: i64,
    /// Its kind.
    pub kind: Badge,
    /// The host; empty without one.
    pub sn: String,
    /// Its name.
    pub host: String,
    /// The sentence.
    pub message: String,
}

impl EventRow {
    /// A row of an event.
    pub fn new(event: Stored) -> EventRow {
        let tone = match event.kind.as_str() {
            "security" | "conflict" | "lost" => Tone::Bad,
            "same name" | "came back" | "unknown job" => Tone::Warn,
            _ => Tone::Mute,
        };
        let Stored { time, kind, sn, host, message, .. } = event;
        EventRow { time, kind: Badge::new(tone, kind), sn, host, message }
    }

    /// Where its host's page is.
    pub fn host_address(&self) -> String {
        super::hosts::host_address(&self.sn)
    }
}

/// What happened.
#[derive(Template)]
#[template(path = "events.html")]
pub struct Events {
    /// What is around it.
    pub f: Frame,
    /// The lines.
    pub rows: Vec<EventRow>,
    /// Where in the list this is.
    pub pager: Pager,
    /// The kinds there are.
    pub kinds: Vec<String>,
}

/// The audit trail.
#[derive(Template)]
#[template(path = "audit.html")]
pub struct Audit {
    /// What is around it.
    pub f: Frame,
    /// The lines.
    pub rows: Vec<Line>,
    /// Where in the list this is.
    pub pager: Pager,
}

/// A key.
pub struct KeyRow {
    /// What hosts name it by.
    pub id: String,
    /// The group it leads to.
    pub group: String,
    /// For whom it is, and what it does.
    pub scope: String,
    /// Hosts that hang on it.
    pub hosts: i64,
    /// When it was made.
    pub created: i64,
    /// When it was revoked.
    pub revoked: Option<i64>,
}

/// Keys that hosts sign with.
#[derive(Template)]
#[template(path = "keys.html")]
pub struct Keys {
    /// What is around it.
    pub f: Frame,
    /// The lines.
    pub rows: Vec<KeyRow>,
    /// Where in the list this is.
    pub pager: Pager,
    /// The names of groups.
    pub groups: Vec<String>,
    /// Where hosts report.
    pub address: String,
    /// What came of the form.
    pub sent: Sent,
}

/// A group.
pub struct GroupRow {
    /// Its settings.
    pub group: Group,
    /// How many hosts it has.
    pub hosts: i64,
}

/// Groups of hosts.
#[derive(Template)]
#[template(path = "groups.html")]
pub struct Groups {
    /// What is around it.
    pub f: Frame,
    /// The lines.
    pub rows: Vec<GroupRow>,
    /// What came of a form.
    pub sent: Sent,
}

/// A number of the server.
pub struct Fact {
    /// What it is.
    pub name: &'static str,
    /// What it is now.
    pub value: String,
    /// How it is to be taken.
    pub tone: Tone,
    /// What it means, or what to do.
    pub note: String,
}

/// The server's own state.
#[derive(Template)]
#[template(path = "server.html")]
pub struct ServerPage {
    /// What is around it.
    pub f: Frame,
    /// What it is.
    pub facts: Vec<Fact>,
    /// What it answered since the start.
    pub answers: Vec<Fact>,
    /// Times in which it was down.
    pub gaps: Vec<Gap>,
}
