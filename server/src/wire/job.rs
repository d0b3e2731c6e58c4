//! Jobs as they are offered to hosts.

use crate::model::release::{is_name, Artifact};
use serde_json::{json, Map, Value};

/// The actions of one-off jobs.
pub const ACTIONS: [&str; 8] = ["install", "upgrade", "uninstall", "start", "stop", "restart", "reload", "config"];

/// Whether the action installs a package.
pub fn installs(action: &str) -> bool {
    matches!(action, "install" | "upgrade")
}

/// Whether the action changes which versions are on a host; pinned hosts are left out then.
pub fn changes_versions(action: &str) -> bool {
    installs(action) || action == "uninstall"
}

/// Checks what somebody asks for before it is kept: the same rules as the agent's, so that no host has to refuse it.
///
/// # Errors
/// The key that is wrong, and what is wanted.
pub fn check(action: &str, agent: &str, body: &Map<String, Value>) -> Result<(), String> {
    if !ACTIONS.contains(&action) {
        return Err(format!("action \"{action}\": want one of {}", ACTIONS.join(", ")));
    }
    let is_the_host_itself = agent.is_empty() && action == "config";
    if !is_name(agent) && !is_the_host_itself {
        return Err(format!("agent \"{agent}\": want 1 to 50 of A-Z a-z 0-9 _ -"));
    }
    if agent == "bootagent" && !["upgrade", "restart"].contains(&action) {
        return Err("only upgrade and restart can be done to bootagent itself".to_string());
    }
    if action == "config" && agent.is_empty() && !body.contains_key("svrlist") && !body.contains_key("step") {
        return Err("config without an agent: want --svrlist or --step".to_string());
    }
    if action == "config" && !agent.is_empty() && !body.contains_key("envs") && !body.contains_key("limits") {
        return Err("config of an agent: want --env or --limit".to_string());
    }
    if let Some(step) = body.get("step") {
        if !step.as_i64().is_some_and(|step| (10..=86_400).contains(&step)) {
            return Err("step: want 10 to 86400 seconds".to_string());
        }
    }
    let wrong = |key: &str, good: &dyn Fn(&Value) -> bool| body.get(key).is_some_and(|value| !good(value));
    let words = |value: &Value| value.as_object().is_some_and(|object| object.values().all(Value::is_string));
    for (key, wrong, want) in [
        ("envs", wrong("envs", &words), "an object of strings"),
        ("limits", wrong("limits", &Value::is_object), "an object"),
        ("svrlist", wrong("svrlist", &Value::is_string), "a string"),
        ("purge", wrong("purge", &Value::is_boolean), "true or false"),
    ] {
        if wrong {
            return Err(format!("{key}: want {want}"));
        }
    }
    for key in ["window", "expires", "startsecs"] {
        if body.get(key).is_some_and(|value| !value.as_i64().is_some_and(|n| (0..=31_536_000).contains(&n))) {
            return Err(format!("{key}: want seconds, 0 or more"));
        }
    }
    Ok(())
}

/// Whether a job carries envs: its own, or those of its definition. They may be secrets.
pub fn carries_envs(body: &Map<String, Value>) -> bool {
    let definition = body.get("definition").and_then(|definition| definition.get("envs"));
    body.contains_key("envs") || definition.is_some_and(|envs| envs.as_object().is_none_or(|envs| !envs.is_empty()))
}

/// What goes to a host whose maintenance window closes in `left` seconds: it is not begun later, and the beginning is spread
/// over no more than that.
pub fn within(body: &Map<String, Value>, left: i64) -> Map<String, Value> {
    let mut body = body.clone();
    let asked = |key: &str| body.get(key).and_then(Value::as_i64).filter(|seconds| *seconds > 0);
    let expires = asked("expires").map_or(left, |seconds| seconds.min(left));
    let window = asked("window").map(|seconds| seconds.min(left));
    body.insert("expires".to_string(), json!(expires));
    if let Some(window) = window {
        body.insert("window".to_string(), json!(window));
    }
    body
}

/// The job for a host. `base`: where packages are served, such as `http://10.0.0.1:8080`.
pub fn offer(
    id: &str,
    action: &str,
    agent: &str,
    body: &Map<String, Value>,
    artifact: Option<&Artifact>,
    base: &str,
) -> Value {
    let mut job = body.clone();
    job.insert("id".to_string(), json!(id));
    job.insert("action".to_string(), json!(action));
    if !agent.is_empty() {
        job.insert("name".to_string(), json!(agent));
    }
    if let Some(artifact) = artifact {
        let own = || format!("{base}/packages/{}/{}", artifact.sha256, artifact.name);
        job.insert("url".to_string(), json!(artifact.url.clone().unwrap_or_else(own)));
        job.insert("checksum".to_string(), json!(format!("SHA256:{}", artifact.sha256)));
        if let Some(sig) = &artifact.sig {
            job.insert("signature".to_string(), json!(sig));
        }
    }
    Value::Object(job)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn envs_of_a_definition_are_envs() {
        for (body, carries) in [
            (r#"{"envs":{"A":"b"}}"#, true),
            (r#"{"envs":{}}"#, true),
            (r#"{"definition":{"envs":{"A":"b"}}}"#, true),
            (r#"{"definition":{"envs":["A=b"]}}"#, true),
            (r#"{"definition":{"envs":{}}}"#, false),
            (r#"{"definition":{"exec":["/bin/a"]}}"#, false),
            (r#"{"limits":{}}"#, false),
        ] {
            assert_eq!(carries_envs(&serde_json::from_str(body).expect("an object")), carries, "{body}");
        }
    }

    #[test]
    fn a_job_in_a_window_ends_with_it() {
        let body = |text: &str| serde_json::from_str::<Map<String, Value>>(text).expect("an object");
        for (given, wanted) in [
            ("{}", r#"{"expires":900}"#),
            (r#"{"expires":60,"window":30}"#, r#"{"expires":60,"window":30}"#),
            (r#"{"expires":2000}"#, r#"{"expires":900}"#),
            (r#"{"expires":0,"window":3600}"#, r#"{"expires":900,"window":900}"#),
        ] {
            assert_eq!(within(&body(given), 900), body(wanted), "{given}");
        }
    }

    #[test]
    fn what_no_host_would_take_is_refused_here() {
        let body = |text: &str| serde_json::from_str::<Map<String, Value>>(text).expect("an object");
        assert!(check("dance", "web", &body("{}")).is_err());
        assert!(check("start", "a b", &body("{}")).is_err());
        assert!(check("config", "", &body("{}")).is_err());
        assert!(check("config", "", &body(r#"{"step":5}"#)).is_err());
        assert!(check("config", "", &body(r#"{"step":600}"#)).is_ok());
        assert!(check("config", "web", &body(r#"{"envs":{"A":1}}"#)).is_err());
        assert!(check("config", "web", &body(r#"{"envs":{"A":"1"}}"#)).is_ok());
        assert!(check("config", "web", &body(r#"{"limits":5}"#)).is_err());
        assert!(check("uninstall", "web", &body(r#"{"purge":"yes"}"#)).is_err());
        assert!(check("stop", "bootagent", &body("{}")).is_err());
        assert!(check("stop", "web", &body(r#"{"window":-1}"#)).is_err());
        assert!(check("stop", "web", &body("{}")).is_ok());
    }
}
