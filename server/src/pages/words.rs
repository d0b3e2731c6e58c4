//! States and reasons in words.

use super::{time, Badge, Tone};
use crate::model::facts;
use crate::model::host::{AgentView, Freshness, View, UNDECIDED};
use serde_json::Value as Json;

/// A count with commas: `12,345`.
pub fn count(number: i64) -> String {
    let digits = number.abs().to_string();
    let mut out = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    if number < 0 {
        out.insert(0, '-');
    }
    out
}

/// `1 host`, `12 hosts`.
pub fn many(number: i64, word: &str) -> String {
    format!("{} {word}{}", count(number), if number == 1 { "" } else { "s" })
}

/// Bytes as people read them: `12.3 MB`.
pub fn size(bytes: i64) -> String {
    let units = ["kB", "MB", "GB", "TB"];
    if bytes < 1000 {
        return format!("{bytes} bytes");
    }
    let (mut tenths, mut unit) = (bytes / 100, 0);
    while tenths >= 10_000 && unit + 1 < units.len() {
        tenths /= 1000;
        unit += 1;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, units[unit])
}

/// A status of the wire as people write it.
pub fn status(word: &str) -> &str {
    if word == "stoped" {
        "stopped"
    } else {
        word
    }
}

/// The badge of an agent's status.
pub fn agent_badge(word: &str) -> Badge {
    let tone = match word {
        "running" => Tone::Ok,
        "stoped" => Tone::Mute,
        _ => Tone::Bad,
    };
    Badge::new(tone, status(word))
}

/// The badges of a host, the one that matters most first.
pub fn host_badges(host: &View) -> Vec<Badge> {
    let mut badges = Vec::new();
    match host.state.as_str() {
        "pending" => badges.push(Badge::new(Tone::Busy, "pending")),
        "conflict" => badges.push(Badge::new(Tone::Bad, "conflict")),
        "accepted" => (),
        other => badges.push(Badge::new(Tone::Mute, other)),
    }
    let gone = matches!(host.state.as_str(), "retired" | "rejected");
    let (tone, word) = match host.freshness {
        Freshness::OnTime => (Tone::Ok, "on time"),
        Freshness::Late => (Tone::Warn, "late"),
        Freshness::Lost => (Tone::Bad, "lost"),
        Freshness::Never => (Tone::Bad, "never seen"),
    };
    badges.push(Badge::new(if gone { Tone::Mute } else { tone }, word));
    let down = host.agents.iter().filter(|agent| facts::is_down(&agent.status)).count();
    if down > 0 && !gone {
        badges.push(Badge::new(Tone::Bad, format!("{} down", many(i64::try_from(down).unwrap_or(0), "agent"))));
    }
    if host.clock_wrong && !gone {
        badges.push(Badge::new(Tone::Warn, "clock wrong"));
    }
    badges
}

/// Why a host is as it is, in sentences; none where all is well.
pub fn host_reasons(host: &View, body: Option<&Json>, lost_after: i64, now: i64) -> Vec<String> {
    let mut reasons = Vec::new();
    if !host.reason.is_empty() {
        reasons.push(host.reason.clone());
    }
    if host.state == "pending" {
        reasons.push(format!("{UNDECIDED}: accept it, or reject it"));
    }
    let silent = time::span(now - host.seen.unwrap_or(now));
    let step = time::span(host.step);
    match host.freshness {
        _ if matches!(host.state.as_str(), "retired" | "rejected") => (),
        Freshness::Late => reasons.push(format!("no report for {silent}, and one is due every {step}")),
        Freshness::Lost => {
            let after = time::span(lost_after.max(3 * host.step));
            reasons.push(format!("no report for {silent}; group {} calls that lost after {after}", host.group));
        }
        Freshness::Never => reasons.push("it has never reported".to_string()),
        Freshness::OnTime => (),
    }
    for agent in host.agents.iter().filter(|agent| facts::is_down(&agent.status)) {
        reasons.push(down_reason(agent, body));
    }
    reasons
}

fn down_reason(agent: &AgentView, body: Option<&Json>) -> String {
    let agents = body.and_then(|body| body["agents"].as_array());
    let whole = agents.into_iter().flatten().find(|one| one["name"] == agent.name.as_str());
    let detail = whole.and_then(|one| one["detail"].as_str()).unwrap_or_default();
    let colon = if detail.is_empty() { "" } else { ": " };
    format!("{} is {}{colon}{detail}", agent.name, status(&agent.status))
}

/// The badge of an execution's state.
pub fn execution_badge(state: &str) -> Badge {
    let tone = match state {
        "verified" => Tone::Ok,
        "waiting" | "offered" | "received" | "done" => Tone::Busy,
        "drift" | "retried" => Tone::Warn,
        "expired" | "withdrawn" => Tone::Mute,
        _ => Tone::Bad,
    };
    Badge::new(tone, state)
}

/// What a state of an execution means.
pub fn execution_meaning(state: &str) -> &'static str {
    match state {
        "waiting" => "not offered yet",
        "offered" => "offered, not confirmed by the host",
        "received" => "the host works on it",
        "done" => "the host said success; its version is not seen yet",
        "verified" => "done and seen to be so",
        "mismatch" => "the host said success, and another version is there",
        "retried" => "could not download; tried again",
        "failed" => "did not work",
        "refused" => "the host refuses it",
        "drift" => "there is no such agent there any more",
        "expired" => "not begun in time",
        "lost" => "no result, and no word from the host",
        "stuck" => "24 h without a result",
        "withdrawn" => "cancelled",
        _ => "",
    }
}

/// What a result's code means.
pub fn code(errcode: i64) -> &'static str {
    match errcode {
        0 => "success",
        1 => "bad job",
        2 => "unknown action",
        3 => "no such agent",
        4 => "cannot download",
        5 => "checksum mismatch",
        6 => "cannot install",
        7 => "cannot start",
        8 => "rolled back",
        9 => "expired or cancelled",
        10 => "refused",
        _ => "unknown code",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn numbers_are_told() {
        assert_eq!(
            (count(0), count(999), count(1_000), count(-1_234_567)),
            ("0".into(), "999".into(), "1,000".into(), "-1,234,567".into())
        );
        assert_eq!((size(5), size(1_500), size(12_345_678)), ("5 bytes".into(), "1.5 kB".into(), "12.3 MB".into()));
        assert_eq!((many(1, "host"), many(2, "host")), ("1 host".into(), "2 hosts".into()));
    }

    #[test]
    fn every_trouble_has_its_reason() {
        let agent = |status: &str| AgentView { name: "web".into(), version: "1".into(), status: status.into() };
        let mut host =
            View { state: "accepted".into(), group: "g".into(), step: 600, seen: Some(0), ..View::default() };
        host.freshness = Freshness::OnTime;
        assert!(host_reasons(&host, None, 86_400, 60).is_empty());
        host.freshness = Freshness::Late;
        host.agents.push(agent("fatal"));
        let body = json!({ "agents": [{ "name": "web", "detail": "gave up after 4 early ends" }] });
        let reasons = host_reasons(&host, Some(&body), 86_400, 3_600);
        assert_eq!(reasons[0], "no report for 60 min, and one is due every 10 min");
        assert_eq!(reasons[1], "web is fatal: gave up after 4 early ends");
        let words: Vec<String> = host_badges(&host).into_iter().map(|badge| badge.word).collect();
        assert_eq!(words, ["late", "1 agent down"]);
        host.clock_wrong = true;
        assert_eq!(host_badges(&host).last().map(|badge| badge.word.as_str()), Some("clock wrong"));
    }
}
