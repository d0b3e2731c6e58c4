//! The API's calls: which there are, and what each takes. What is not in these tables is refused before anything looks at it.
//! docs/server-openapi.yaml says the same to people; tests/openapi.rs compares.

use super::url;
use serde_json::Value as Json;

/// What a key holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Text.
    Text,
    /// A whole number.
    Number,
    /// `true` or `false`.
    Flag,
    /// An array of text.
    Texts,
    /// An object.
    Object,
    /// An object whose values are text.
    Words,
}

impl Kind {
    fn wanted(self) -> &'static str {
        match self {
            Kind::Text => "a string",
            Kind::Number => "a whole number",
            Kind::Flag => "true or false",
            Kind::Texts => "an array of strings",
            Kind::Object => "an object",
            Kind::Words => "an object of strings",
        }
    }

    fn fits(self, value: &Json) -> bool {
        match self {
            Kind::Text => value.is_string(),
            Kind::Number => value.is_i64(),
            Kind::Flag => value.is_boolean(),
            Kind::Texts => value.as_array().is_some_and(|list| list.iter().all(Json::is_string)),
            Kind::Object => value.is_object(),
            Kind::Words => value.as_object().is_some_and(|object| object.values().all(Json::is_string)),
        }
    }
}

/// (key, what it holds, whether it must be there)
type Key = (&'static str, Kind, bool);

use Kind::{Flag, Number, Object, Text, Texts, Words};

/// (list, its parameters, whether one element can be asked for by `list/ELEMENT`)
const LISTS: [(&str, &[&str], bool); 13] = [
    ("me", &[], false),
    ("counts", &[], false),
    ("hosts", &["filter"], true),
    ("executions", &["filter", "limit"], false),
    ("jobs", &["q", "state", "limit"], true),
    ("releases", &[], false),
    ("keys", &[], false),
    ("groups", &[], false),
    ("events", &["q", "kind", "host", "after", "limit"], false),
    ("audit", &["q", "who", "limit"], false),
    ("users", &[], false),
    ("tokens", &[], false),
    ("webhooks", &[], false),
];

const NAME: Key = ("name", Text, true);

/// (call, the keys of its body)
const CALLS: [(&str, &[Key]); 25] = [
    ("hosts/state", &[("hosts", Texts, true), ("state", Text, true)]),
    ("hosts/replace", &[("old", Text, true), ("new", Text, true)]),
    ("hosts/label", &[("host", Text, true), ("labels", Words, true)]),
    ("hosts/group", &[("host", Text, true), ("group", Text, true)]),
    ("hosts/pin", &[("hosts", Texts, true), ("reason", Text, false)]),
    ("groups", &[NAME]),
    ("groups/set", &[NAME, ("settings", Words, true)]),
    ("keys", &[("group", Text, true), ("host", Text, false), ("auto_accept", Flag, false)]),
    ("keys/revoke", &[("id", Text, true)]),
    (
        "releases",
        &[
            ("agent", Text, true),
            ("version", Text, true),
            NAME,
            ("sha256", Text, true),
            ("url", Text, false),
            ("size", Number, false),
            ("arch", Text, false),
            ("os", Text, false),
            ("sig", Text, false),
            ("definition", Object, false),
            ("startsecs", Number, false),
        ],
    ),
    ("releases/withdraw", &[("agent", Text, true), ("version", Text, true)]),
    (
        "jobs",
        &[
            ("action", Text, true),
            ("agent", Text, false),
            ("select", Text, true),
            ("version", Text, false),
            ("any_time", Flag, false),
            ("body", Object, false),
        ],
    ),
    ("jobs/cancel", &[("id", Text, true)]),
    ("users", &[NAME, ("role", Text, true), ("password", Text, true)]),
    ("users/passwd", &[NAME, ("password", Text, true)]),
    ("users/role", &[NAME, ("role", Text, true)]),
    ("users/disable", &[NAME]),
    ("users/enable", &[NAME]),
    ("tokens", &[NAME, ("role", Text, true), ("days", Number, true)]),
    ("tokens/revoke", &[NAME]),
    ("me/password", &[("old", Text, true), ("new", Text, true)]),
    ("webhooks", &[NAME, ("url", Text, true), ("events", Texts, false)]),
    ("webhooks/remove", &[NAME]),
    ("webhooks/test", &[NAME]),
    ("backup", &[("file", Text, true)]),
];

/// The upload of a package: its body is the package.
pub const UPLOAD: &str = "packages";

/// Whether there is a list, or an element of one, of this name.
pub fn is_list(name: &str) -> bool {
    let (list, element) = name.split_once('/').map_or((name, ""), |(list, element)| (list, element));
    LISTS.iter().any(|(known, _, elements)| *known == list && (name == list || *elements && !element.is_empty()))
}

/// Whether there is a call of this name.
pub fn is_call(name: &str) -> bool {
    name == UPLOAD || CALLS.iter().any(|(known, _)| *known == name)
}

/// What there is, for whoever asked for something else.
pub fn known() -> String {
    let lists: Vec<&str> = LISTS.iter().map(|(name, _, _)| *name).collect();
    let calls: Vec<&str> = CALLS.iter().map(|(name, _)| *name).collect();
    format!("GET {}; POST {}, {UPLOAD}", lists.join(", "), calls.join(", "))
}

/// The states that jobs are asked for by.
const STATES: [&str; 3] = ["running", "failed", "cancelled"];

/// The most that a list gives.
const LIMIT_MAX: i64 = 100_000;

/// Checks the parameters of a list.
///
/// # Errors
/// Which one will not do, and what is wanted.
pub fn check_query(name: &str, query: &str) -> Result<(), String> {
    let list = name.split('/').next().unwrap_or_default();
    let whole: &[&str] = LISTS.iter().find(|(known, _, _)| *known == list).map_or(&[], |(_, keys, _)| keys);
    let keys = if list == name { whole } else { &[] };
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (key, value) = (url::decode(key), url::decode(value));
        if !keys.contains(&key.as_str()) {
            let want = if keys.is_empty() { "none".to_string() } else { keys.join(", ") };
            return Err(format!("unknown parameter \"{key}\": want {want}"));
        }
        let lowest = i64::from(key == "limit");
        if key == "state" && !STATES.contains(&value.as_str()) {
            return Err(format!("state: want {}", STATES.join(", ")));
        }
        if matches!(key.as_str(), "limit" | "after")
            && !value.parse().is_ok_and(|number| (lowest..=i64::MAX).contains(&number))
        {
            return Err(format!("{key}: want a whole number of {lowest} or more, got \"{value}\""));
        }
        if key == "limit" && !value.parse().is_ok_and(|number: i64| number <= LIMIT_MAX) {
            return Err(format!("limit: want {LIMIT_MAX} at most"));
        }
    }
    Ok(())
}

/// Checks the body of a call. A key that holds `null` counts as not given.
///
/// # Errors
/// Which key will not do, and what is wanted.
pub fn check_body(name: &str, body: &Json) -> Result<(), String> {
    let keys = CALLS.iter().find(|(known, _)| *known == name).map_or(&[] as &[Key], |(_, keys)| keys);
    let object = body.as_object().ok_or("the body: want a JSON object")?;
    for (key, value) in object {
        match keys.iter().find(|(known, _, _)| known == key) {
            Some((_, kind, _)) if !value.is_null() && !kind.fits(value) => {
                return Err(format!("{key}: want {}", kind.wanted()));
            }
            Some(_) => (),
            None => {
                let known: Vec<&str> = keys.iter().map(|(known, _, _)| *known).collect();
                return Err(format!("unknown key \"{key}\": want some of {}", known.join(", ")));
            }
        }
    }
    let missing = |(key, _, must): &&Key| *must && body[*key].is_null();
    match keys.iter().find(missing) {
        Some((key, kind, _)) => Err(format!("{key}: want {}", kind.wanted())),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn bodies() {
        for (call, body, wrong) in [
            ("groups", json!({ "name": "web" }), None),
            ("groups", json!({}), Some("name: want a string")),
            ("groups", json!({ "name": null }), Some("name: want a string")),
            ("groups", json!({ "name": 1 }), Some("name: want a string")),
            ("groups", json!({ "name": "a", "x": 1 }), Some("unknown key \"x\": want some of name")),
            ("groups", json!([]), Some("the body: want a JSON object")),
            ("keys", json!({ "group": "a", "host": null, "auto_accept": true }), None),
            ("keys", json!({ "group": "a", "auto_accept": "yes" }), Some("auto_accept: want true or false")),
            ("hosts/state", json!({ "hosts": ["a", 1], "state": "x" }), Some("hosts: want an array of strings")),
            (
                "groups/set",
                json!({ "name": "a", "settings": { "retire_after": 5 } }),
                Some("settings: want an object of strings"),
            ),
            ("tokens", json!({ "name": "a", "role": "b", "days": 1.5 }), Some("days: want a whole number")),
        ] {
            assert_eq!(check_body(call, &body).err().as_deref(), wrong, "{call} {body}");
        }
    }

    #[test]
    fn queries() {
        for (list, query, good) in [
            ("hosts", "", true),
            ("hosts", "filter=a%3Db", true),
            ("hosts", "limit=1", false),
            ("hosts/web", "filter=a", false),
            ("events", "after=0&limit=1", true),
            ("events", "q=a&kind=job&host=web-01", true),
            ("audit", "q=1&who=user:anna", true),
            ("jobs", "state=failed&q=web", true),
            ("jobs", "state=asleep", false),
            ("events", "after=-1", false),
            ("events", "limit=0", false),
            ("events", "limit=100000", true),
            ("events", "limit=100001", false),
            ("events", "limit=x", false),
            ("events", "limit", false),
            ("keys", "a=b", false),
        ] {
            assert_eq!(check_query(list, query).is_ok(), good, "{list}?{query}");
        }
    }

    #[test]
    fn names() {
        assert!(is_list("hosts") && is_list("hosts/a/b") && is_list("jobs/j1") && !is_list("hosts/"));
        assert!(!is_list("keys/1") && !is_list("") && !is_list("packages") && !is_list("host"));
        assert!(is_call("packages") && is_call("hosts/state") && !is_call("hosts") && !is_call("hosts/state/"));
    }
}
