//! Status reports and results as agents send them. What a server must know is checked; unknown keys are kept apart.

use super::kept::{self, plain};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// One agent in a report.
#[derive(Clone, Debug, PartialEq)]
pub struct Agent {
    /// Unique on its host.
    pub name: String,
    /// What runs.
    pub version: String,
    /// `stoped`, `running`, `fatal` or `killed`.
    pub status: String,
    /// Why.
    pub detail: String,
}

/// A good status report.
#[derive(Clone, Debug)]
pub struct Report {
    /// The name; not an identity.
    pub hostname: String,
    /// `bootagent-VERSION-ARCH`.
    pub version: String,
    /// The host's clock.
    pub timestamp: i64,
    /// Seconds between reports.
    pub step: i64,
    /// Its agents.
    pub agents: Vec<Agent>,
    /// The identity; a basic agent has none.
    pub sn: Option<String>,
    /// Of this boot.
    pub boot_id: Option<String>,
    /// Rises with each report.
    pub seq: Option<i64>,
    /// `ID VERSION_ID`.
    pub os: String,
    /// Ids of jobs received and not ended; `None`: it does not say, and does not understand `cancel`.
    pub open: Option<Vec<String>>,
    /// (time by the host's clock, agent, sentence)
    pub events: Vec<(i64, String, String)>,
    /// The report as it is kept, without its events.
    pub body: String,
}

/// The events of one report that are kept.
const EVENTS_MAX: usize = 100;
/// The longest sentence, in bytes.
const MESSAGE_MAX: usize = 1024;
/// Results in one array at most; an agent sends up to 64.
const RESULTS_MAX: usize = 256;
/// Open jobs that a report may name; an agent holds up to 256.
const OPEN_MAX: usize = 1024;

/// Whether this may be the `sn` of a host. `name:` is how hosts without one are kept.
pub fn is_sn(text: &str) -> bool {
    is_token(text, 128) && !text.starts_with("name:")
}

/// Reads a status report.
///
/// # Errors
/// The key that is missing or wrong, and what is wanted.
pub fn read_status(body: &[u8]) -> Result<Report, String> {
    let value: Value = serde_json::from_slice(body).map_err(|error| format!("the body is not JSON: {error}"))?;
    let Value::Object(mut object) = value else { return Err("want a JSON object".to_string()) };
    let hostname = text(&object, "hostname").ok_or("hostname: want a string")?.to_string();
    let is_plain = hostname.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    if !is_plain || hostname.is_empty() || hostname.len() > 253 {
        return Err("hostname: want 1 to 253 of A-Z a-z 0-9 . _ -".to_string());
    }
    let version = plain(text(&object, "version").ok_or("version: want a string")?, 128);
    number(&object, "uptime").ok_or("uptime: want a number")?;
    let timestamp = number(&object, "timestamp").ok_or("timestamp: want a number")?;
    let step = number(&object, "step").ok_or("step: want a number")?.clamp(1, 86_400);
    let agents = object.get("agents").and_then(Value::as_array).ok_or("agents: want an array")?;
    let mut agents = agents.iter().map(read_agent).collect::<Result<Vec<Agent>, String>>()?;
    agents.truncate(kept::AGENTS_MAX);
    let sn = text(&object, "sn").filter(|sn| is_sn(sn)).map(str::to_string);
    if object.contains_key("sn") && sn.is_none() {
        return Err("sn: want 1 to 128 visible characters that do not begin with \"name:\"".to_string());
    }
    let events = object.remove("events").as_ref().map(read_events).unwrap_or_default();
    Ok(Report {
        hostname,
        version,
        timestamp,
        step,
        agents,
        sn,
        boot_id: text(&object, "boot_id").filter(|id| is_token(id, 128)).map(str::to_string),
        seq: number(&object, "seq"),
        os: plain(text(&object, "os").unwrap_or_default(), 128),
        open: object.get("open").and_then(Value::as_array).map(|ids| strings(ids)),
        events,
        body: kept::report(object),
    })
}

fn read_agent(value: &Value) -> Result<Agent, String> {
    let object = value.as_object().ok_or("agents: want objects")?;
    let name = text(object, "name").ok_or("agents: one has no name")?;
    let version = text(object, "version").ok_or_else(|| format!("agent \"{name}\": version: want a string"))?;
    let status = text(object, "status").unwrap_or_default();
    if !["stoped", "running", "fatal", "killed"].contains(&status) {
        return Err(format!("agent \"{name}\": status: want stoped, running, fatal or killed"));
    }
    let detail = plain(text(object, "detail").unwrap_or_default(), MESSAGE_MAX);
    Ok(Agent { name: plain(name, 128), version: plain(version, 128), status: status.to_string(), detail })
}

fn read_events(value: &Value) -> Vec<(i64, String, String)> {
    let one = |event: &Value| {
        let object = event.as_object()?;
        let at = number(object, "timestamp")?;
        let name = plain(text(object, "name").unwrap_or_default(), 128);
        Some((at, name, plain(text(object, "message")?, MESSAGE_MAX)))
    };
    value.as_array().into_iter().flatten().take(EVENTS_MAX).filter_map(one).collect()
}

/// A result of a job.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// As it was offered.
    pub id: String,
    /// 0 is success.
    pub errcode: i64,
    /// One sentence.
    pub message: String,
}

/// Reads an array of results.
///
/// # Errors
/// Which one is malformed, and how; then none of them counts.
pub fn read_results(body: &[u8]) -> Result<Vec<Outcome>, String> {
    let value: Value = serde_json::from_slice(body).map_err(|error| format!("the body is not JSON: {error}"))?;
    let list = value.as_array().ok_or("want an array of results")?;
    let one = |value: &Value| {
        let object = value.as_object().ok_or("want objects")?;
        let id = text(object, "id").filter(|id| is_token(id, 127)).ok_or("a result has no usable id")?.to_string();
        let errcode = number(object, "errcode").filter(|code| *code >= 0);
        let errcode = errcode.ok_or_else(|| format!("result \"{id}\": errcode: want a number of 0 or more"))?;
        let message = text(object, "message").ok_or_else(|| format!("result \"{id}\": message: want a string"))?;
        Ok(Outcome { errcode, message: plain(message, MESSAGE_MAX), id })
    };
    if list.len() > RESULTS_MAX {
        return Err(format!("want up to {RESULTS_MAX} results in one array"));
    }
    list.iter().map(one).collect()
}

fn is_token(text: &str, longest: usize) -> bool {
    (1..=longest).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}

fn text<'a>(object: &'a Map<String, Value>, key: &str) -> Option<&'a str> {
    object.get(key).and_then(Value::as_str)
}

fn number(object: &Map<String, Value>, key: &str) -> Option<i64> {
    let value = object.get(key)?;
    #[expect(clippy::cast_possible_truncation, reason = "a cast from a float saturates")]
    value.as_i64().or_else(|| value.as_f64().map(|number| number as i64))
}

fn strings(list: &[Value]) -> Vec<String> {
    list.iter().take(OPEN_MAX).filter_map(Value::as_str).map(str::to_string).collect()
}

/// Labels of an object of strings.
pub fn labels(value: Option<&Value>) -> BTreeMap<String, String> {
    let object = value.and_then(Value::as_object);
    let pair = |(name, value): (&String, &Value)| Some((name.clone(), value.as_str()?.to_string()));
    object.into_iter().flatten().take(64).filter_map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The agent's own fixtures bind the server too.
    #[test]
    fn takes_what_the_agent_sends() {
        let full = read_status(include_bytes!("../../../tests/proto/status-request.json")).expect("a full report");
        assert!(full.sn.is_some() && !full.agents.is_empty());
        let bare = read_status(include_bytes!("../../../tests/proto/status-request-bare.json")).expect("a bare one");
        assert!(bare.open.is_none() || bare.open == Some(Vec::new()));
        let results = read_results(include_bytes!("../../../tests/proto/result-request.json")).expect("results");
        assert!(!results.is_empty());
    }

    #[test]
    fn names_what_is_wrong() {
        for (body, part) in [
            ("", "not JSON"),
            ("[]", "object"),
            ("{}", "hostname"),
            (r#"{"hostname":"../x","version":"v"}"#, "hostname"),
            (r#"{"hostname":"a","version":"v","uptime":1,"timestamp":1,"step":1}"#, "agents"),
        ] {
            assert!(read_status(body.as_bytes()).expect_err(body).contains(part), "{body}");
        }
        assert!(read_results(br#"[{"id":"a","errcode":0}]"#).is_err());
    }
}
