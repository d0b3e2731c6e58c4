//! What is kept of a report: no more than a host needs to be shown, and nothing that changes how a terminal or a page shows
//! the rest. A host's key must not be enough to fill the disk.

use super::text::visible;
use serde_json::{Map, Value};

/// Agents that are kept of a report.
pub const AGENTS_MAX: usize = 1000;
/// The longest text that is kept as it is, in bytes.
const TEXT_MAX: usize = 1024;
/// What a report may be without being cut further, in bytes.
const PLAIN_MAX: usize = 64 << 10;
/// The longest text of a large report.
const SHORT_MAX: usize = 128;
/// The keys of a report that the protocol knows; of a large one, only these are kept.
const KEYS: [&str; 13] = [
    "hostname",
    "version",
    "uptime",
    "timestamp",
    "step",
    "agents",
    "sn",
    "boot_id",
    "os",
    "labels",
    "silence",
    "troubles",
    "seq",
];
/// The same of an agent in it.
const AGENT_KEYS: [&str; 11] =
    ["name", "version", "status", "uptime", "pid", "failures", "detail", "cpu", "memory", "limits_by", "job_limits"];
/// Entries of any other list or object that are kept.
const ENTRIES_MAX: usize = 256;

/// The report as it is kept.
pub fn report(object: Map<String, Value>) -> String {
    let mut value = Value::Object(object);
    clean(&mut value, TEXT_MAX);
    let text = value.to_string();
    match text.len() > PLAIN_MAX {
        true => cut(value).to_string(),
        false => text,
    }
}

/// Of a large report what matters: the keys that are known, short texts, so many agents.
fn cut(mut report: Value) -> Value {
    keep_keys(&mut report, &KEYS);
    if let Some(agents) = report.get_mut("agents").and_then(Value::as_array_mut) {
        agents.truncate(AGENTS_MAX);
        agents.iter_mut().for_each(|agent| keep_keys(agent, &AGENT_KEYS));
    }
    clean(&mut report, SHORT_MAX);
    report
}

fn keep_keys(value: &mut Value, keys: &[&str]) {
    if let Some(object) = value.as_object_mut() {
        object.retain(|key, _| keys.contains(&key.as_str()));
    }
}

/// Makes every text in a value plain and no longer than `longest`, and every list and object but the list of agents short.
fn clean(value: &mut Value, longest: usize) {
    match value {
        Value::String(text) => *text = plain(text, longest),
        Value::Array(list) => list.iter_mut().for_each(|value| clean(value, longest)),
        Value::Object(object) => {
            let pairs = std::mem::take(object);
            for (key, mut value) in pairs.into_iter().take(ENTRIES_MAX) {
                if let Some(list) = value.as_array_mut().filter(|_| key != "agents") {
                    list.truncate(ENTRIES_MAX);
                }
                clean(&mut value, longest);
                object.insert(plain(&key, SHORT_MAX), value);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => (),
    }
}

/// A text without control and invisible characters, of `longest` bytes at most.
pub fn plain(text: &str, longest: usize) -> String {
    let mut text = visible(text).replace('\n', " ");
    let end = (0..=text.len().min(longest)).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text.truncate(end);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn kept(value: Value) -> (Value, usize) {
        let Value::Object(object) = value else { panic!("want an object") };
        let text = report(object);
        (serde_json::from_str(&text).expect("JSON"), text.len())
    }

    #[test]
    fn a_usual_report_is_kept_as_it_is() {
        let usual = json!({ "hostname": "a", "agents": [{ "name": "web", "detail": "fine" }], "a key of later": [{}] });
        assert_eq!(kept(usual.clone()).0, usual);
    }

    #[test]
    fn nothing_changes_how_the_rest_is_shown() {
        let odd = json!({ "os": "a\u{1b}[2J\n\u{202e}b\0", "la\u{7}bels": { "x\u{200b}": "\u{9b}" } });
        assert_eq!(kept(odd).0, json!({ "os": "a [2J b ", "la bels": { "x": " " } }));
    }

    #[test]
    fn a_huge_report_is_cut() {
        let agent = json!({ "name": "web", "version": "1", "status": "running", "detail": "d".repeat(300), "x": "y" });
        let huge = json!({ "hostname": "a", "agents": vec![agent; 2000], "junk": "j".repeat(500_000),
            "troubles": vec!["t"; 10_000], "open": ["id"] });
        let (found, size) = kept(huge);
        assert!(size < 300_000, "{size}");
        assert_eq!(found["agents"].as_array().map(Vec::len), Some(AGENTS_MAX));
        assert_eq!(found["agents"][0]["detail"], json!("d".repeat(SHORT_MAX)));
        assert_eq!(found["troubles"].as_array().map(Vec::len), Some(ENTRIES_MAX));
        assert!(found["junk"].is_null() && found["agents"][0]["x"].is_null());
    }
}
