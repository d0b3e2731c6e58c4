//! What an agent's definition says, for people who look at one agent: `status NAME`.

use crate::model::event::Origin;
use crate::model::spec::{Autorestart, Kind, Reload, Spec};
use crate::text::sanitize;
use crate::wire::emit::Writer;

/// The longest text of one value, bytes.
const MAX: usize = 400;

/// The status document `body` of one agent with `about` in addition: pairs of a heading and a text in the order in
/// which they are shown. `files`: how many open files it can
/// have, where that is less than its limit says. It has no environment variables, as these may be secrets. `log` is the path
/// of the agent's output.
pub fn add(body: &str, spec: &Spec, origin: Option<Origin>, files: Option<u64>, log: &str) -> String {
    let mut json = Writer::new();
    json.open('[');
    put(&mut json, spec, origin, files, log);
    json.close(']');
    format!("{},\"about\":{}}}", body.strip_suffix('}').unwrap_or(body), json.finish())
}

fn put(json: &mut Writer, spec: &Spec, origin: Option<Origin>, files: Option<u64>, log: &str) {
    let mut line = |heading: &str, text: &str| {
        if !text.is_empty() {
            json.open('[');
            json.text(heading);
            json.text(&sanitize(text, MAX));
            json.close(']');
        }
    };
    let source = match origin {
        Some(Origin::File) => "a file in agents_dir",
        Some(Origin::Job) => "a job",
        Some(Origin::Package) => "its package",
        None => "",
    };
    line("defined by", source);
    line("program", &spec.exec.join(" "));
    let mut user = spec.user.as_ref().map_or("the daemon's own, usually root".to_string(), |user| user.to_string());
    if let Some(group) = &spec.group {
        user.push_str(&format!(", group {group}"));
    }
    line("user", &user);
    line("directory", &spec.directory);
    line("output", log);
    if spec.kind == Kind::Forking {
        let pidfile = spec.pidfile.as_deref();
        line("main process", &pidfile.map_or("the only one".to_string(), |file| format!("by pid file {file}")));
    }
    let most = files.map_or(String::new(), |files| format!("; nofile is {files}, the most there can be here"));
    line("limits", &format!("{}{most}", spec.limits));
    let restart = match spec.autorestart {
        Autorestart::Always => "always",
        Autorestart::Unexpected => "after signals and unexpected exit codes",
        Autorestart::OnSignal => "after signals and limit kills",
        Autorestart::Never => "never",
    };
    line("restart", restart);
    line("prestart", &spec.prestart.as_ref().map_or(String::new(), |program| program.exec.join(" ")));
    match &spec.reload {
        Some(Reload::Signal(sig)) => line("reload", &format!("by {sig}")),
        Some(Reload::Exec(program)) => line("reload", &format!("by {}", program.exec.join(" "))),
        None => {}
    }
    if let Some(check) = &spec.check {
        let (program, interval) = (check.exec.join(" "), check.interval.as_secs());
        line("health check", &format!("{program}, every {interval} s; failures that end it: {}", check.retries));
    }
}
