//! The first page: what needs somebody, what there is, what happened.

use super::agents::AgentRow;
use super::hosts::{FirstStep, HostRow};
use super::jobs::{ExecutionRow, JobRow};
use super::{words, Frame, Html, Part, Tone};
use crate::store::roster::{Scope, Summary, SCOPES};
use askama::Template;

/// Something that needs somebody.
pub struct Alarm {
    /// How bad it is.
    pub tone: Tone,
    /// What it is.
    pub text: String,
    /// What to do.
    pub hint: String,
    /// Where it is seen.
    pub address: String,
}

/// What of the hosts needs somebody, the worst first.
pub fn alarms(summary: &Summary) -> Vec<Alarm> {
    let mut alarms = Vec::new();
    let mut add = |tone, count: i64, scope: Scope, one: &str, several: &str, hint: &str| {
        if count > 0 {
            let word = SCOPES.iter().find(|(known, _)| *known == scope).map_or("", |(_, word)| word);
            let text = format!("{} {}", words::many(count, "host"), if count == 1 { one } else { several });
            let address = if scope == Scope::Pending { "/pending".into() } else { format!("/hosts?show={word}") };
            alarms.push(Alarm { tone, text, hint: hint.to_string(), address });
        }
    };
    add(
        Tone::Bad,
        summary.conflict,
        Scope::Conflict,
        "is in conflict",
        "are in conflict",
        "two machines speak as one, and get no jobs until that is mended",
    );
    add(Tone::Bad, summary.lost, Scope::Lost, "is lost", "are lost", "silent for longer than their group allows");
    let hint = "agents that ended and are not started again, or were killed at a limit";
    add(Tone::Bad, summary.down, Scope::Down, "has agents down", "have agents down", hint);
    add(Tone::Warn, summary.late, Scope::Late, "is late", "are late", "no report for three of their steps");
    let hint = "accept or reject: they get no jobs until then";
    add(Tone::Busy, summary.pending, Scope::Pending, "waits for a decision", "wait for a decision", hint);
    alarms
}

/// A count of the fleet.
pub struct Tile {
    /// What is counted.
    pub word: &'static str,
    /// How many.
    pub count: String,
    /// How it is to be taken.
    pub tone: Tone,
    /// Where they are listed.
    pub address: String,
}

/// The counts of the fleet.
pub fn tiles(summary: &Summary) -> Vec<Tile> {
    let tile = |word, count: i64, tone: Tone, address: &str| Tile {
        word,
        count: words::count(count),
        tone: if count == 0 { Tone::Mute } else { tone },
        address: address.to_string(),
    };
    vec![
        tile("on time", summary.on_time, Tone::Ok, "/hosts?q=state%3Daccepted%20fresh%3Don-time"),
        tile("late", summary.late, Tone::Warn, "/hosts?show=late"),
        tile("lost", summary.lost, Tone::Bad, "/hosts?show=lost"),
        tile("agents down", summary.down, Tone::Bad, "/hosts?show=down"),
        tile("pending", summary.pending, Tone::Busy, "/pending"),
        tile("conflict", summary.conflict, Tone::Bad, "/hosts?show=conflict"),
    ]
}

/// A version and how many hosts have it.
pub struct VersionRow {
    /// The version.
    pub version: String,
    /// How many hosts.
    pub hosts: i64,
    /// Where they are listed.
    pub address: String,
}

/// The first page.
#[derive(Template)]
#[template(path = "fleet.html")]
pub struct Fleet {
    /// What is around it.
    pub f: Frame,
    /// What there is.
    pub summary: Summary,
    /// What needs somebody.
    pub alarms: Vec<Alarm>,
    /// The counts.
    pub tiles: Vec<Tile>,
    /// The worst hosts.
    pub worst: Vec<HostRow>,
    /// Jobs that run, or ended a short while ago.
    pub jobs: Vec<JobRow>,
    /// How many jobs did not work on a host in the last 24 hours.
    pub failed: i64,
    /// What went wrong last.
    pub failures: Vec<ExecutionRow>,
    /// Versions of bootagent.
    pub versions: Vec<VersionRow>,
    /// Agents.
    pub agents: Vec<AgentRow>,
    /// How a host is made to report here.
    pub first_step: FirstStep,
    /// The state of the server in a sentence, with its tone.
    pub health: (Tone, String),
}

impl Fleet {
    /// Hosts by freshness.
    pub fn bar(&self) -> Html {
        let part = |tone, word: &str, count| Part { tone, word: word.to_string(), count };
        super::bar(&[
            part(Tone::Ok, "on time", self.summary.on_time),
            part(Tone::Warn, "late", self.summary.late),
            part(Tone::Bad, "lost", self.summary.lost),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_is_told_first_and_nothing_where_all_is_well() {
        assert!(alarms(&Summary { on_time: 9, ..Summary::default() }).is_empty());
        let all = alarms(&Summary { conflict: 1, lost: 2, pending: 3, ..Summary::default() });
        let texts: Vec<&str> = all.iter().map(|alarm| alarm.text.as_str()).collect();
        assert_eq!(texts, ["1 host is in conflict", "2 hosts are lost", "3 hosts wait for a decision"]);
    }
}
