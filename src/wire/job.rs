//! One job as a server writes it: a JSON value in, a `Job` or everything that is wrong with it out.
//!
//! What passes here is trusted by everything behind it, so each field is checked, also those that matter only later.
//! Unknown keys, and `url`, `checksum`, `svrlist` and `step` in an action that has no use for them, are ignored; an
//! unknown limit is not, as what is meant to be limited would not be. No message holds the value of an environment
//! variable or anything of a URL but its file name: it may hold a password.

use crate::error::Error;
use crate::model::job::{Code, Job, JobAction, RejectedJob, Source};
use crate::model::package::{Digest, Format};
use crate::model::schedule::{parse_servers, Server};
use crate::model::spec::{is_job_id, is_name, is_version};
use crate::model::url::{decoded, Url};
use crate::text::{sanitize, MESSAGE_MAX};
use crate::wire::definition;
use crate::wire::json::{self, show, Fields, Value};

/// The longest job, bytes as compact JSON: 256 of them, each held as text and as what it says, must not be what a daemon
/// dies of. No program can be given more in one variable.
const JOB_MAX: usize = 128 << 10;

/// Reads a job out of a reply.
///
/// # Errors
/// Why it cannot be run as it was written.
pub fn read(value: &Value) -> Result<Job, RejectedJob> {
    let mut rejected =
        RejectedJob { id: None, code: Code::BadJob, message: "".into(), action: "".into(), name: "".into() };
    let mut faults = Vec::new();
    let job = take(value, &mut rejected, &mut faults);
    match job {
        Some(job) if faults.is_empty() => Ok(job),
        _ => {
            rejected.message = sanitize(&faults.join("; "), MESSAGE_MAX).into();
            Err(rejected)
        }
    }
}

/// Reads the text of a job that was recorded.
///
/// # Errors
/// As `read`.
pub fn read_text(text: &str) -> Result<Job, RejectedJob> {
    match json::parse(text, json::MAX_DEPTH) {
        Ok(value) => read(&value),
        Err(syntax) => Err(RejectedJob {
            id: None,
            code: Code::BadJob,
            message: sanitize(&syntax.to_string(), MESSAGE_MAX).into(),
            action: "".into(),
            name: "".into(),
        }),
    }
}

/// The job, as far as it can be told; what is known of it goes to `rejected` on the way.
fn take(value: &Value, rejected: &mut RejectedJob, faults: &mut Vec<String>) -> Option<Job> {
    if let Some(spoiled) = json::object(value).and_then(|job| json::text(job.get(json::SPOILED)?)) {
        faults.push(spoiled.to_string());
    }
    let mut fields = Fields::of(value, "", faults)?;
    fields.required("id");
    rejected.id = fields
        .read("id", "1 to 127 of A-Z a-z 0-9 . _ -, no dot first", |v| json::text(v).filter(|t| is_job_id(t)))
        .map(Into::into);
    let action = fields.text("action").unwrap_or_default();
    rejected.action = sanitize(action, 50).into();
    // An empty name is as good as none: it is what some servers write for none.
    let given = fields.get("name").filter(|value| json::text(value) != Some(""));
    if let Some(value) = given {
        match json::text(value).filter(|text| is_name(text)) {
            Some(name) => rejected.name = name.into(),
            None => fields.wrong("name", "1 to 50 of A-Z a-z 0-9 _ -", value),
        }
    } else if action != "config" {
        fields.fault("name", "missing");
    }

    let order = match action {
        "install" => source(&mut fields).map(JobAction::Install),
        "upgrade" => source(&mut fields).map(JobAction::Upgrade),
        "uninstall" => Some(JobAction::Uninstall),
        "start" => Some(JobAction::Start),
        "stop" => Some(JobAction::Stop),
        "restart" => Some(JobAction::Restart),
        "config" => config(&mut fields, given.is_some()),
        "" => {
            if fields.get("action").is_none_or(|value| json::text(value).is_some()) {
                fields.fault("action", "missing");
            }
            None
        }
        _ => {
            rejected.code = Code::UnknownAction;
            let want = "install, upgrade, uninstall, start, stop, restart or config";
            fields.fault("action", &format!("want {want}, got {}", show(&Value::String(action.to_string()))));
            return None;
        }
    };
    // Without a package of its own nothing says what a relative program would be relative to.
    let in_tar = match &order {
        Some(JobAction::Install(source) | JobAction::Upgrade(source)) => source.format.is_tar(),
        order => order.is_none(),
    };

    let version = fields.read("version", "1 to 100 of A-Z a-z 0-9 . _ + ~ : -, no dot first", |v| {
        json::text(v).filter(|text| text.is_empty() || is_version(text))
    });
    let startsecs = fields.seconds("startsecs");
    let signature = fields.text("signature");
    let window = fields.seconds("window").unwrap_or_default();
    // 0 is what a server writes that writes every key.
    let expires = fields.seconds("expires").filter(|time| !time.is_zero());
    let envs = fields.get("envs").and_then(|value| {
        let (path, faults) = fields.inside("envs");
        definition::envs(value, &path, faults)
    });
    let limits = fields.get("limits").and_then(|value| {
        let (path, faults) = fields.inside("limits");
        definition::limits(value, &path, true, faults)
    });
    let text = json::write(value);
    if text.len() > JOB_MAX {
        fields.fault("", &format!("want a job of at most 128 KiB, got {} bytes", text.len()));
    }
    let written = fields.get("definition");
    let spec = written.and_then(|value| {
        let (path, faults) = fields.inside("definition");
        definition::definition(value, &path, in_tar, true, faults)
    });
    if spec.as_ref().is_some_and(|spec| spec.name != rejected.name) {
        fields.fault("definition.name", &format!("want \"{}\", as the job says", rejected.name));
    }
    Some(Job {
        id: rejected.id.clone()?,
        action: order?,
        name: rejected.name.clone(),
        envs,
        limits,
        definition: spec.map(Box::new),
        definition_text: written.map(json::write).unwrap_or_default().into(),
        version: version.filter(|text| !text.is_empty()).map(Into::into),
        startsecs,
        signature: signature.filter(|text| !text.is_empty()).map(Into::into),
        window,
        expires,
        text: text.into(),
    })
}

/// What an `install` or `upgrade` brings.
fn source(fields: &mut Fields<'_, '_>) -> Option<Source> {
    fields.required("url");
    let url = fields.text("url");
    let format = url.and_then(|url| match package_format(url) {
        Ok(format) => Some(format),
        Err(message) => {
            fields.fault("url", &message);
            None
        }
    });
    fields.required("checksum");
    let digest = fields.read("checksum", "\"SHA256:\" and 64 hexadecimal digits", |v| Digest::parse(json::text(v)?));
    Some(Source { url: url?.into(), digest: digest?, format: format? })
}

/// What a `config` changes of the daemon; one with a name may change its agent instead.
fn config(fields: &mut Fields<'_, '_>, named: bool) -> Option<JobAction> {
    let servers = fields.text("svrlist").map(|list| servers(list, fields));
    let step = fields.integer("step", 10, 86_400).map(std::time::Duration::from_secs);
    let mut changes = servers.is_some() || fields.get("step").is_some();
    for key in ["envs", "limits", "definition"] {
        match fields.get(key) {
            // Empty ones are what a server writes that writes every key.
            Some(value) if !named && json::object(value).is_none_or(|object| !object.is_empty()) => {
                fields.fault("name", &format!("missing, {key} are those of an agent"));
                changes = true;
            }
            Some(_) if named => changes = true,
            _ => {}
        }
    }
    if !changes {
        let keys = if named { "svrlist, step, envs, limits or definition" } else { "svrlist or step" };
        fields.fault("", &format!("nothing to change, want {keys}"));
    }
    Some(JobAction::Config { servers, step })
}

fn servers(list: &str, fields: &mut Fields<'_, '_>) -> Vec<Server> {
    // The list's own messages quote it.
    let parsed = match list.contains('@') {
        true => Err("a user in a URL cannot be used, want host:port".into()),
        false => parse_servers(list),
    };
    parsed.unwrap_or_else(|message| {
        fields.fault("svrlist", &message);
        Vec::new()
    })
}

/// The format of the package at `url`, which is checked on the way.
fn package_format(url: &str) -> Result<Format, Error> {
    let scheme = url.split_once("://").map(|(scheme, _)| scheme);
    if !matches!(scheme, Some("http" | "https" | "ftp" | "file")) {
        return Err("want ftp://, http:// or file://".into());
    }
    let parsed = Url::parse(url)?;
    let path = decoded(parsed.path_without_query())?;
    if path.iter().any(u8::is_ascii_control) {
        return Err("want no control characters".into());
    }
    let file = String::from_utf8_lossy(path.rsplit(|byte| *byte == b'/').next().unwrap_or_default());
    Format::of(&file).ok_or_else(|| {
        // A password with a slash in it would be found here.
        let shown =
            if file.contains('@') { String::new() } else { format!(", got {}", show(&Value::String(file.into()))) };
        format_error!("want a file name in .rpm .deb .apk .ipk .tar .tar.gz .tgz or .tar.xz{shown}")
    })
}

#[cfg(test)]
mod tests;
