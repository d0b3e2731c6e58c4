//! Webhooks: which events are told, how many in one message, when to try again, and where no message may go.

use super::address::{plain, Cidr};
use core::net::IpAddr;
use std::collections::BTreeMap;

/// (what a webhook asks for, the kind of the event that is meant)
pub const KINDS: [(&str, &str); 5] = [
    ("host-lost", "lost"),
    ("host-conflict", "conflict"),
    ("host-back", "came back"),
    ("security", "security"),
    ("job", "job"),
];

/// What a webhook is told when it does not say.
pub const USUAL: [&str; 2] = ["host-lost", "host-conflict"];

/// How many messages a webhook gets in a minute. Where there are more events, those of one kind share a message.
pub const A_MINUTE: usize = 5;

/// Something that happened, as the log of events has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Newer events have higher ones.
    pub id: i64,
    /// Seconds since the epoch.
    pub time: i64,
    /// As in the log.
    pub kind: String,
    /// The host, or nothing.
    pub sn: String,
    /// Its name.
    pub host: String,
    /// One sentence.
    pub message: String,
}

/// A message that is to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The last event in it.
    pub id: i64,
    /// One of [`KINDS`].
    pub event: &'static str,
    /// When the last of its events happened.
    pub time: i64,
    /// The host, or how many.
    pub object: String,
    /// One sentence.
    pub reason: String,
    /// Where it can be looked at, below the URL of the pages.
    pub path: String,
}

/// How far a webhook has been told, by the ids of events: nothing is left out, whatever fails in between.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// It was told of this event and of all before it that it wants.
    pub told: i64,
    /// The last event of each kind that it was told of beyond `told`. A message that has all new events of one kind may
    /// arrive before an older event of another kind.
    pub ahead: BTreeMap<String, i64>,
}

impl Progress {
    /// A message has arrived.
    pub fn arrived(&mut self, message: &Message) {
        let id = self.ahead.entry(message.event.to_string()).or_insert(message.id);
        *id = message.id.max(*id);
    }

    /// All messages up to an event have arrived.
    pub fn caught_up(&mut self, newest: i64) {
        self.told = self.told.max(newest);
        let told = self.told;
        self.ahead.retain(|_, id| *id > told);
    }

    /// Whether an event need not be told.
    fn has(&self, kind: &str, id: i64) -> bool {
        id <= self.ahead.get(kind).copied().unwrap_or(0).max(self.told)
    }
}

/// Checks the names of events that a webhook asks for.
///
/// # Errors
/// Which one is unknown.
pub fn check_kinds(kinds: &[String]) -> Result<(), String> {
    let known = |name: &str| KINDS.iter().any(|(known, _)| *known == name);
    match kinds.iter().find(|name| !known(name)) {
        Some(name) => {
            let known: Vec<&str> = KINDS.iter().map(|(known, _)| *known).collect();
            Err(format!("event \"{name}\": want some of {}", known.join(", ")))
        }
        None if kinds.is_empty() => Err("events: want at least one".to_string()),
        None => Ok(()),
    }
}

/// The messages for events that were not told, oldest first. Where there are more than `room` allows, those of one kind become
/// one message.
pub fn messages(events: &[Event], progress: &Progress, kinds: &[String], room: usize) -> Vec<Message> {
    let mut wanted: Vec<(&'static str, Vec<&Event>)> = Vec::new();
    for event in events {
        let Some((name, _)) = KINDS.iter().find(|(_, kind)| *kind == event.kind) else { continue };
        if !kinds.iter().any(|kind| kind == name) || progress.has(name, event.id) {
            continue;
        }
        match wanted.iter_mut().find(|(known, _)| known == name) {
            Some((_, list)) => list.push(event),
            None => wanted.push((name, vec![event])),
        }
    }
    let total: usize = wanted.iter().map(|(_, list)| list.len()).sum();
    let mut out = Vec::new();
    for (event, list) in wanted {
        if total <= room {
            out.extend(list.into_iter().map(|one| single(event, one)));
        } else {
            out.extend(together(event, &list));
        }
    }
    out.sort_by_key(|message| message.id);
    out
}

fn single(event: &'static str, one: &Event) -> Message {
    let path = if one.sn.is_empty() { "/events".to_string() } else { format!("/hosts/{}", encode_sn(&one.sn)) };
    let object = if one.host.is_empty() { one.sn.clone() } else { one.host.clone() };
    Message { id: one.id, event, time: one.time, object, reason: one.message.clone(), path }
}

fn together(event: &'static str, list: &[&Event]) -> Option<Message> {
    let last = list.last()?;
    if list.len() == 1 {
        return Some(single(event, last));
    }
    let mut names: Vec<&str> =
        list.iter().map(|one| if one.host.is_empty() { &one.sn } else { &one.host }).map(|n| n.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let shown = names.iter().take(5).copied().collect::<Vec<_>>().join(", ");
    let more = if names.len() > 5 { format!(" and {} more", names.len() - 5) } else { String::new() };
    let object = if names.len() == 1 { names[0].to_string() } else { format!("{} hosts", names.len()) };
    let reason = format!("{} events: {shown}{more}; the last: {}", list.len(), last.message);
    Some(Message { id: last.id, event, time: last.time, object, reason, path: "/events".to_string() })
}

fn encode_sn(sn: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    sn.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// Seconds to wait after so many failures in a row: 10 s, doubled each time, up to an hour.
pub fn pause(failures: i64) -> i64 {
    let doubled = 10_i64.checked_shl(u32::try_from(failures - 1).unwrap_or(0).min(16));
    doubled.unwrap_or(3600).clamp(10, 3600)
}

/// Why no message may go to an address: what listens there serves this machine alone, and trusts who can reach it.
pub fn forbidden(address: IpAddr) -> Option<&'static str> {
    let address = plain(address);
    if address.is_unspecified() || address.is_multicast() || address == IpAddr::from([255, 255, 255, 255]) {
        return Some("no address of one machine");
    }
    let link_local = ["169.254.0.0/16", "fe80::/10", "fd00:ec2::254"];
    let mut ranges = link_local.iter().filter_map(|range| range.parse::<Cidr>().ok());
    ranges.any(|range| range.contains(address)).then_some("a link-local address")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(id: i64, kind: &str, host: &str) -> Event {
        let message = format!("message {id}");
        Event { id, time: 100 + id, kind: kind.to_string(), sn: format!("sn/{host}"), host: host.to_string(), message }
    }

    fn kinds(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| name.to_string()).collect()
    }

    #[test]
    fn only_what_was_asked_for_is_told() {
        let events = [event(1, "lost", "a"), event(2, "conflict", "b"), event(3, "agent", "c"), event(4, "lost", "d")];
        let found = messages(&events, &Progress::default(), &kinds(&["host-lost"]), 5);
        let short: Vec<(&str, &str)> = found.iter().map(|m| (m.event, m.object.as_str())).collect();
        assert_eq!(short, [("host-lost", "a"), ("host-lost", "d")]);
        assert_eq!((found[0].path.as_str(), found[0].time, found[0].id), ("/hosts/sn%2Fa", 101, 1));
    }

    #[test]
    fn many_become_one_of_each_kind() {
        let mut events: Vec<Event> = (1..=20_000).map(|id| event(id, "lost", &format!("h{id}"))).collect();
        events.push(event(20_001, "conflict", "x"));
        let found = messages(&events, &Progress::default(), &kinds(&["host-lost", "host-conflict"]), 5);
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].object.as_str(), found[0].id), ("20000 hosts", 20_000));
        assert!(found[0].reason.starts_with("20000 events: h1, h10, "), "{}", found[0].reason);
        assert!(found[0].reason.len() < 200);
        assert_eq!((found[1].object.as_str(), found[1].event), ("x", "host-conflict"));
        assert_eq!(messages(&events[..5], &Progress::default(), &kinds(&["host-lost"]), 5).len(), 5);
        assert_eq!(messages(&events[..6], &Progress::default(), &kinds(&["host-lost"]), 5).len(), 1);
        assert_eq!(messages(&events[..1], &Progress::default(), &kinds(&["host-lost"]), 0).len(), 1);
        assert!(messages(&[], &Progress::default(), &kinds(&["host-lost"]), 5).is_empty());
    }

    #[test]
    fn what_did_not_arrive_is_told_and_what_did_is_not_told_again() {
        let wanted = kinds(&["host-lost", "host-conflict"]);
        let mut events: Vec<Event> = (1..=9).map(|id| event(id, "lost", "a")).collect();
        events[3] = event(4, "conflict", "b");
        events.push(event(10, "conflict", "c"));
        let mut progress = Progress::default();
        let ids = |events: &[Event], progress: &Progress| -> Vec<(&str, i64)> {
            messages(events, progress, &wanted, 2).iter().map(|message| (message.event, message.id)).collect()
        };
        assert_eq!(ids(&events, &progress), [("host-lost", 9), ("host-conflict", 10)]);
        // The first one arrives, and the second does not: it has an event from before the end of the first.
        progress.arrived(&messages(&events, &progress, &wanted, 2)[0]);
        events.push(event(11, "lost", "d"));
        let left = messages(&events, &progress, &wanted, 2);
        assert_eq!(ids(&events, &progress), [("host-conflict", 10), ("host-lost", 11)]);
        assert!(left[0].reason.starts_with("2 events: b, c"), "{}", left[0].reason);
        assert_eq!((left[1].object.as_str(), left[1].reason.as_str()), ("d", "message 11"), "those before it are told");
        for message in &left {
            progress.arrived(message);
        }
        progress.caught_up(11);
        assert_eq!(progress, Progress { told: 11, ahead: BTreeMap::new() });
        assert!(ids(&events, &progress).is_empty());
    }

    #[test]
    fn it_waits_longer_each_time() {
        let pauses: Vec<i64> = [1, 2, 3, 9, 10, 1000].map(pause).to_vec();
        assert_eq!(pauses, [10, 20, 40, 2560, 3600, 3600]);
    }

    #[test]
    fn where_no_message_goes() {
        for bad in [
            "169.254.169.254",
            "::ffff:169.254.169.254",
            "fe80::1",
            "0.0.0.0",
            "::",
            "224.0.0.1",
            "ff02::1",
            "255.255.255.255",
            "fd00:ec2::254",
        ] {
            assert!(forbidden(bad.parse().expect(bad)).is_some(), "{bad}");
        }
        for good in ["127.0.0.1", "10.0.0.1", "192.0.2.1", "2001:db8::1", "fd00::1"] {
            assert!(forbidden(good.parse().expect(good)).is_none(), "{good}");
        }
    }

    #[test]
    fn events_have_names() {
        assert!(check_kinds(&kinds(&["host-lost", "job"])).is_ok());
        assert!(check_kinds(&kinds(&["rain"])).expect_err("unknown").contains("want some of host-lost"));
        assert!(check_kinds(&[]).is_err());
    }
}
