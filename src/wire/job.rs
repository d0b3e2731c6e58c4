//! One job as a server writes it: a JSON value in, a `Job` or everything that is wrong with it out.
//!
//! The rest of the program trusts what passes here, so every field is checked, also one that is used only later. Unknown
//! keys are ignored, and so are `url`, `checksum`, `svrlist` and `step` in an action that does not use them. An unknown
//! limit is refused, because what it was meant to limit would stay unlimited. No message holds the value of an
//! environment variable, or any part of a URL except the file name: they may hold passwords.

use crate::error::Error;
use crate::model::job::{Code, Job, JobAction, RejectedJob, Source};
use crate::model::package::{Digest, Format};
use crate::model::schedule::{parse_servers, Server};
use crate::model::spec::{is_job_id, is_name, is_version};
use crate::model::url::{decoded, Url};
use crate::text::{sanitize, MESSAGE_MAX};
use crate::wire::definition;
use crate::wire::json::{self, show, Fields, Value};

/// The longest job, in bytes of compact JSON. 256 jobs, each held as text and as values, must not exhaust the daemon's
/// memory. Linux does not take a longer environment variable either.
const JOB_MAX: usize = 128 << 10;

/// Reads a job of a reply, with what is wrong in it, see `json::split_fault`.
///
/// # Errors
/// Why it cannot be run as it was written.
pub fn read(value: &Value) -> Result<Job, RejectedJob> {
    let mut rejected = bad_job("");
    let (value, fault) = json::split_fault(value);
    let mut faults: Vec<String> = fault.into_iter().map(str::to_string).collect();
    let job = take(value, &mut rejected, &mut faults);
    match job {
        Some(job) if faults.is_empty() => Ok(job),
        _ => {
            rejected.message = sanitize(&faults.join("; "), MESSAGE_MAX).into();
            Err(rejected)
        }
    }
}

/// Reads the text of a job that was recorded, `Job::text`.
///
/// # Errors
/// Why it cannot be run. That happens after the job was accepted when an older binary reads it, which may know less than
/// the one that recorded it.
pub fn read_text(text: &str) -> Result<Job, RejectedJob> {
    match json::parse(text, json::MAX_DEPTH) {
        Ok(value) => read(&value),
        Err(syntax) => Err(bad_job(&syntax.to_string())),
    }
}

/// The rejection of a job of which nothing is known yet.
fn bad_job(message: &str) -> RejectedJob {
    let message = sanitize(message, MESSAGE_MAX).into();
    RejectedJob { id: None, code: Code::BadJob, message, action: "".into(), name: "".into() }
}

/// Reads the job and adds what is wrong with it to `faults`; what identifies it goes to `rejected` on the way.
fn take(value: &Value, rejected: &mut RejectedJob, faults: &mut Vec<String>) -> Option<Job> {
    let mut fields = Fields::of(value, faults)?;
    fields.required("id");
    rejected.id = fields
        .read("id", "1 to 127 of A-Z a-z 0-9 . _ -, no dot first", |v| json::text(v).filter(|t| is_job_id(t)))
        .map(Into::into);
    let action_word = fields.text("action").unwrap_or_default();
    rejected.action = sanitize(action_word, 50).into();
    let named = agent_name(&mut fields, action_word, rejected);
    let action = match action(action_word, &mut fields, named) {
        Ok(action) => action,
        Err(unknown) => {
            rejected.code = Code::UnknownAction;
            fields.fault("action", &unknown);
            return None;
        }
    };
    // A relative program is relative to the package, so only a job that brings a tar package may name one.
    let in_tar = match &action {
        Some(JobAction::Install(source) | JobAction::Upgrade(source)) => source.format.is_tar(),
        action => action.is_none(),
    };

    let version = fields.read("version", "1 to 100 of A-Z a-z 0-9 . _ + ~ : -, no dot first", |v| {
        json::text(v).filter(|text| text.is_empty() || is_version(text))
    });
    let startsecs = fields.seconds("startsecs");
    let signature = fields.text("signature");
    let window = fields.seconds("window").unwrap_or_default();
    // A server that writes every key writes 0 for "never".
    let expires = fields.seconds("expires").filter(|time| !time.is_zero());
    let envs = definition::envs(&mut fields);
    let limits = definition::limits(&mut fields, true);
    let text = json::write(value);
    if text.len() > JOB_MAX {
        fields.fault("", &format!("want a job of at most 128 KiB, got {} bytes", text.len()));
    }
    let definition_value = fields.get("definition");
    let spec = fields.inside("definition").and_then(|fields| definition::definition(fields, in_tar, true));
    if spec.as_ref().is_some_and(|spec| spec.name != rejected.name) {
        fields.fault("definition.name", &format!("want \"{}\", as the job says", rejected.name));
    }
    Some(Job {
        id: rejected.id.clone()?,
        action: action?,
        name: rejected.name.clone(),
        envs,
        limits,
        definition: spec.map(Box::new),
        definition_text: definition_value.map(json::write).unwrap_or_default().into(),
        version: version.filter(|text| !text.is_empty()).map(Into::into),
        startsecs,
        signature: signature.filter(|text| !text.is_empty()).map(Into::into),
        window,
        expires,
        purge: fields.is_true("purge"),
        text: text.into(),
    })
}

/// Reads the name of the agent into `rejected`; whether the job has one. Only a `config` of the daemon may have none.
fn agent_name(fields: &mut Fields<'_, '_>, action_word: &str, rejected: &mut RejectedJob) -> bool {
    // Some servers write an empty name where there is none.
    let name = fields.get("name").filter(|value| json::text(value) != Some(""));
    if let Some(value) = name {
        match json::text(value).filter(|text| is_name(text)) {
            Some(name) => rejected.name = name.into(),
            None => fields.wrong("name", "1 to 50 of A-Z a-z 0-9 _ -", value),
        }
    } else if action_word != "config" {
        fields.fault("name", "missing");
    }
    name.is_some()
}

/// The action that a job asks for, with all that belongs to it; `None` when it has added what is wrong with that.
///
/// # Errors
/// When there is no such action.
fn action(word: &str, fields: &mut Fields<'_, '_>, named: bool) -> Result<Option<JobAction>, String> {
    Ok(match word {
        "install" => source(fields).map(JobAction::Install),
        "upgrade" => source(fields).map(JobAction::Upgrade),
        "uninstall" => Some(JobAction::Uninstall),
        "start" => Some(JobAction::Start),
        "stop" => Some(JobAction::Stop),
        "restart" => Some(JobAction::Restart),
        "reload" => Some(JobAction::Reload),
        "config" => config(fields, named),
        "" => {
            if fields.get("action").is_none_or(|value| json::text(value).is_some()) {
                fields.fault("action", "missing");
            }
            None
        }
        _ => {
            let want = "install, upgrade, uninstall, start, stop, restart, reload or config";
            return Err(format!("want {want}, got {}", show(&Value::String(word.to_string()))));
        }
    })
}

/// The package of an `install` or `upgrade`.
fn source(fields: &mut Fields<'_, '_>) -> Option<Source> {
    fields.required("url");
    let url = fields.text("url").map(str::trim);
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

/// What a `config` changes in the daemon; a `config` with a name may change that agent instead.
fn config(fields: &mut Fields<'_, '_>, named: bool) -> Option<JobAction> {
    let servers = fields.text("svrlist").map(|list| servers(list, fields));
    let step = fields.integer("step", 10, 86_400).map(std::time::Duration::from_secs);
    let mut changes = servers.is_some() || fields.get("step").is_some();
    for key in ["envs", "limits", "definition"] {
        match fields.get(key) {
            // A server that writes every key writes empty objects.
            Some(value) if !named && !json::is_empty(value) => {
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
    // The messages of `parse_servers` quote the list, which would show the password.
    let parsed = match list.contains('@') {
        true => Err("a user in a URL cannot be used, want host:port".into()),
        false => parse_servers(list),
    };
    parsed.unwrap_or_else(|message| {
        fields.fault("svrlist", &message);
        Vec::new()
    })
}

/// Checks `url` and returns the format of the package that it names.
fn package_format(url: &str) -> Result<Format, Error> {
    let parsed = Url::parse(url)?;
    let path = decoded(parsed.path_without_query())?;
    if path.iter().any(u8::is_ascii_control) {
        return Err("want no control characters".into());
    }
    let file = String::from_utf8_lossy(path.rsplit(|byte| *byte == b'/').next().unwrap_or_default());
    Format::of(&file).ok_or_else(|| {
        // A password that contains a slash would end up in the file name.
        let shown =
            if file.contains('@') { String::new() } else { format!(", got {}", show(&Value::String(file.into()))) };
        format_error!("want a file name in .rpm .deb .apk .ipk .tar .tar.gz .tgz .tar.xz .txz or .tar.zst{shown}")
    })
}

#[cfg(test)]
mod tests;
