//! Records become JSON text, and JSON text becomes records. `host::store` reads and writes the files.
//!
//! Every field comes back exactly as it was. Records of older and newer binaries are read too: unknown keys are ignored, and
//! optional ones may be missing. A text that was cut off, or is of another kind, is an error and never a partial record.
//! Environments and limits are arrays of pairs, as their order matters and JSON objects have none.

use std::time::Duration;

use crate::error::Error;
use crate::kernel::{Pid, Process, Resource, Time};
use crate::model::job::{Code, Outcome};
use crate::model::package::{Digest, Format};
use crate::model::plan::{Direction, Step};
use crate::model::record::{
    AgentRecord, Identity, Installed, JobRecord, Phase, RunRecord, Settings, StopRecord, Wanted,
};
use crate::model::spec::{is_file_name, is_job_id, is_name, Envs, Fingerprints, Limits, Name};
use crate::wire::emit::Writer;
use crate::wire::json::{self, Fields, Value};

/// The host's identity as text.
pub fn write_identity(identity: &Identity) -> String {
    let mut json = Writer::new();
    json.open('{');
    json.key("sn").text(&identity.sn);
    json.key("machine_id").text(&identity.machine_id);
    json.close('}');
    json.finish()
}

/// Reads what `write_identity` wrote.
///
/// # Errors
/// What is wrong with the text.
pub fn read_identity(text: &str) -> Result<Identity, Error> {
    json::read(text, |mut fields| {
        fields.required("sn");
        let sn = fields.string("sn");
        // It goes into a header of each request, and tells hosts apart.
        if !(1..=64).contains(&sn.len()) || !sn.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            fields.fault("sn", "not the name of a host");
        }
        Some(Identity { sn, machine_id: fields.string("machine_id") })
    })
}

/// The settings a server gave as text.
pub fn write_settings(settings: &Settings) -> String {
    let mut json = Writer::new();
    json.open('{');
    json.key("svrlist").text(&settings.svrlist);
    if let Some(step) = settings.step {
        json.key("step").seconds(step);
    }
    json.key("package").text(&settings.package);
    json.close('}');
    json.finish()
}

/// Reads what `write_settings` wrote.
///
/// # Errors
/// What is wrong with the text.
pub fn read_settings(text: &str) -> Result<Settings, Error> {
    json::read(text, |mut fields| {
        // As a job may set it: a host that talks without a pause, or never again, cannot be set right from afar.
        let step = fields.integer("step", 10, 86_400).map(Duration::from_secs);
        Some(Settings { svrlist: fields.string("svrlist"), step, package: fields.string("package") })
    })
}

/// The largest sequence number that is accepted: more than all jobs there will ever be, with room for counting on.
const SEQ_MAX: u64 = 1 << 62;

/// An agent's record as text.
pub fn write_agent(agent: &AgentRecord) -> String {
    let mut json = Writer::new();
    put_agent(&mut json, agent);
    json.finish()
}

/// Reads what `write_agent` wrote.
///
/// # Errors
/// What is wrong with the text.
pub fn read_agent(text: &str) -> Result<AgentRecord, Error> {
    json::read(text, |fields| take_agent(fields, false))
}

/// A job's record as text.
pub fn write_job(job: &JobRecord) -> String {
    let mut json = Writer::new();
    json.open('{');
    json.key("id").text(&job.id);
    json.key("seq").number(job.seq);
    json.key("action").text(&job.action);
    json.key("name").text(&job.name);
    json.key("boot_id").text(&job.boot_id);
    json.key("received").number(job.received.0);
    json.key("phase").text(job.phase.name());
    json.optional_text("step", job.step.map(Step::name));
    if job.phase < Phase::Done {
        json.key("direction").text(match job.direction {
            Direction::Forward => "forward",
            Direction::Back => "back",
        });
    }
    json.key("text").text(&job.text);
    if let Some(before) = &job.before {
        json.key("before");
        put_agent(&mut json, before);
    }
    put_package(&mut json, "package", job.package.as_deref());
    json.key("foreign").boolean(job.foreign);
    json.optional_text("found", job.found.as_deref());
    json.optional_text("held", not_empty(&job.held));
    json.optional_text("note", not_empty(&job.note));
    if let Some(outcome) = &job.outcome {
        json.key("outcome").open('{');
        json.key("code").number(outcome.code as u64);
        json.key("message").text(&outcome.message);
        json.close('}');
    }
    json.close('}');
    json.finish()
}

/// Reads what `write_job` wrote.
///
/// # Errors
/// What is wrong with the text.
pub fn read_job(text: &str) -> Result<JobRecord, Error> {
    json::read(text, take_job)
}

/// The record of a shutdown as text.
pub fn write_stop(stop: &StopRecord) -> String {
    let mut json = Writer::new();
    json.open('{');
    json.key("boot_id").text(&stop.boot_id);
    json.key("at").number(stop.at.0);
    json.close('}');
    json.finish()
}

/// Reads what `write_stop` wrote.
///
/// # Errors
/// What is wrong with the text.
pub fn read_stop(text: &str) -> Result<StopRecord, Error> {
    json::read(text, |mut fields| {
        let at = Time(fields.count("at").unwrap_or(0));
        Some(StopRecord { boot_id: fields.string("boot_id"), at })
    })
}

/// How 1.0.0 writes that an agent has finished and is not restarted: as the time of a restart that never comes. It is
/// still written beside `finished`, for a host that goes back to 1.0.0.
const NO_RESTART: Time = Time(u64::MAX);

/// The record of an agent's run as text.
pub fn write_run(run: &RunRecord) -> String {
    let mut json = Writer::new();
    json.open('{');
    json.key("name").text(&run.name);
    json.key("boot_id").text(&run.boot_id);
    if let Some(process) = run.process {
        json.key("pid").number(u64::from(process.pid.raw().unsigned_abs()));
        json.key("ticks").number(process.ticks);
    }
    json.key("forking").boolean(run.forking);
    json.key("stopping").boolean(run.stopping);
    json.key("started").number(run.started.0);
    if let Some(fingerprints) = run.started_with {
        json.key("mark").number(fingerprints.whole);
        json.optional_number("process_mark", fingerprints.process);
    }
    json.key("failures").number(u64::from(run.failures));
    let restart_at = run.restart_at.or(run.finished.then_some(NO_RESTART));
    json.optional_number("restart_at", restart_at.map(|at| at.0));
    json.key("finished").boolean(run.finished);
    json.key("fatal").boolean(run.fatal);
    json.key("killed").boolean(run.killed);
    json.optional_number("spares", run.spares);
    json.key("detail").text(&run.detail);
    if run.unready {
        json.key("unready").boolean(true);
    }
    json.optional_text("said", not_empty(&run.said));
    json.close('}');
    json.finish()
}

/// Reads what `write_run` wrote.
///
/// # Errors
/// What is wrong with the text.
pub fn read_run(text: &str) -> Result<RunRecord, Error> {
    json::read(text, take_run)
}

fn put_agent(json: &mut Writer, agent: &AgentRecord) {
    json.open('{');
    json.key("name").text(&agent.name);
    if let Some(wanted) = agent.wanted {
        json.key("wanted").text(match wanted {
            Wanted::Up => "up",
            Wanted::Down => "down",
        });
    }
    json.optional_text("definition", agent.definition.as_deref());
    if let Some(envs) = &agent.envs {
        json.key("envs").open('[');
        for (name, value) in envs {
            json.open('[');
            json.text(name);
            json.text(value);
            json.close(']');
        }
        json.close(']');
    }
    if let Some(limits) = &agent.limits {
        put_limits(json, limits);
    }
    put_package(json, "package", agent.package.as_deref());
    put_package(json, "previous", agent.previous.as_deref());
    json.close('}');
}

fn put_limits(json: &mut Writer, limits: &Limits) {
    json.key("limits").open('{');
    json.optional_number("cpu", limits.cpu.map(u64::from));
    json.optional_number("memory", limits.memory);
    json.optional_number("tasks", limits.tasks);
    json.key("resources").open('[');
    for (resource, limit) in &limits.resources {
        json.open('[');
        json.text(resource.key());
        json.number(*limit);
        json.close(']');
    }
    json.close(']');
    json.close('}');
}

fn put_package(json: &mut Writer, key: &str, package: Option<&Installed>) {
    let Some(package) = package else { return };
    json.key(key).open('{');
    json.key("format").text(package.format.ending());
    json.key("package").text(&package.package);
    json.key("version").text(&package.version);
    json.key("digest").text(&package.digest.to_string());
    json.key("file").text(&package.file);
    json.key("native").text(&package.native);
    json.close('}');
}

/// The text, where there is any.
fn not_empty(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

fn take_job(mut fields: Fields<'_, '_>) -> Option<JobRecord> {
    let id = fields.string("id");
    if !is_job_id(&id) {
        fields.fault("id", "not a job's id");
    }
    let phase = fields.text("phase").and_then(Phase::named);
    if phase.is_none() {
        fields.fault("phase", "not a phase of a job");
    }
    let outcome = fields.inside("outcome").and_then(take_outcome);
    if outcome.is_none() && matches!(phase, Some(Phase::Done | Phase::Taken)) {
        fields.fault("outcome", "missing in a job that is done");
    }
    // Directories are named after it. A job that was refused may have had any name.
    let name = fields.string("name");
    if !name.is_empty() && !is_name(&name) && !matches!(phase, Some(Phase::Done | Phase::Taken)) {
        fields.fault("name", "not an agent's name");
    }
    // 1.0.0 records no direction. Its jobs have an outcome before they are done only on the way back; the exception is the
    // success of an upgrade of the daemon that has passed its trial.
    let on_the_way_back =
        phase < Some(Phase::Done) && outcome.as_ref().is_some_and(|outcome| outcome.code != Code::Success);
    let direction = match fields.text("direction") {
        Some("forward") => Direction::Forward,
        Some("back") => Direction::Back,
        _ if on_the_way_back => Direction::Back,
        _ => Direction::Forward,
    };
    // A step that only another version knows counts as none.
    let step = fields.text("step").and_then(Step::named);
    Some(JobRecord {
        id,
        seq: fields.integer("seq", 0, SEQ_MAX).unwrap_or(0),
        action: fields.string("action"),
        name: name.into(),
        text: fields.string("text"),
        boot_id: fields.string("boot_id"),
        received: Time(fields.count("received").unwrap_or(0)),
        phase: phase?,
        step,
        direction,
        before: fields.inside("before").and_then(|before| take_agent(before, true)).map(Box::new),
        package: fields.inside("package").and_then(take_package).map(Box::new),
        foreign: fields.is_true("foreign"),
        found: fields.text("found").map(Into::into),
        held: fields.string("held"),
        note: fields.string("note"),
        outcome,
    })
}

fn take_outcome(mut fields: Fields<'_, '_>) -> Option<Outcome> {
    let code = fields.count("code").and_then(|raw| Code::new(u8::try_from(raw).ok()?));
    if code.is_none() {
        fields.fault("code", "not a result code");
    }
    Some(Outcome { code: code?, message: fields.string("message") })
}

fn take_run(mut fields: Fields<'_, '_>) -> Option<RunRecord> {
    let ticks = fields.count("ticks").unwrap_or(0);
    let mut process = None;
    if let Some(raw) = fields.count("pid") {
        process = i32::try_from(raw).ok().and_then(Pid::new).map(|pid| Process { pid, ticks });
        if process.is_none() {
            fields.fault("pid", "not a process id");
        }
    }
    let restart_at = fields.count("restart_at").map(Time);
    let fingerprints = (fields.count("mark"), fields.count("process_mark"));
    Some(RunRecord {
        name: name(&mut fields),
        boot_id: fields.string("boot_id"),
        process,
        forking: fields.is_true("forking"),
        stopping: fields.is_true("stopping"),
        started: Time(fields.count("started").unwrap_or(0)),
        started_with: fingerprints.0.map(|whole| Fingerprints { whole, process: fingerprints.1 }),
        failures: fields.integer("failures", 0, u64::from(u32::MAX)).unwrap_or(0) as u32,
        restart_at: restart_at.filter(|at| *at != NO_RESTART),
        finished: fields.is_true("finished") || restart_at == Some(NO_RESTART),
        fatal: fields.is_true("fatal"),
        killed: fields.is_true("killed"),
        spares: fields.count("spares"),
        detail: fields.string("detail"),
        unready: fields.is_true("unready"),
        said: fields.string("said"),
    })
}

/// Before a job changed anything there may have been no such agent; that is a record without a name (`may_be_none`).
fn take_agent(mut fields: Fields<'_, '_>, may_be_none: bool) -> Option<AgentRecord> {
    let wanted = fields.word("wanted", &[("up", Wanted::Up), ("down", Wanted::Down)]);
    let envs = fields.get("envs").and_then(take_envs);
    if envs.is_none() && fields.get("envs").is_some() {
        fields.fault("envs", "want pairs of strings");
    }
    let no_agent = may_be_none && fields.text("name").is_none_or(str::is_empty);
    Some(AgentRecord {
        name: if no_agent { "".into() } else { name(&mut fields) },
        wanted,
        definition: fields.text("definition").map(Into::into),
        envs,
        limits: fields.inside("limits").map(take_limits),
        package: fields.inside("package").and_then(take_package).map(Box::new),
        previous: fields.inside("previous").and_then(take_package).map(Box::new),
    })
}

fn take_envs(value: &Value) -> Option<Envs> {
    let mut envs = Envs::new();
    for pair in json::array(value)? {
        let [name, value] = json::array(pair)? else { return None };
        envs.push((json::text(name)?.into(), json::text(value)?.into()));
    }
    Some(envs)
}

fn take_limits(mut fields: Fields<'_, '_>) -> Limits {
    Limits {
        cpu: fields.integer("cpu", 0, u64::from(u32::MAX)).map(|share| share as u32),
        memory: fields.count("memory"),
        tasks: fields.count("tasks"),
        resources: fields.read("resources", "pairs of a name and a number", take_resources).unwrap_or_default(),
    }
}

fn take_resources(value: &Value) -> Option<Vec<(Resource, u64)>> {
    let mut resources = Vec::new();
    for pair in json::array(value)? {
        let [key, limit] = json::array(pair)? else { return None };
        let (key, limit) = (json::text(key)?, json::integer(limit)?);
        // This binary cannot limit a resource that only a newer binary knows.
        if let Some(resource) = Resource::ALL.into_iter().find(|known| known.key() == key) {
            resources.push((resource, limit));
        }
    }
    Some(resources)
}

fn take_package(mut fields: Fields<'_, '_>) -> Option<Installed> {
    let format = fields.read("format", "a package format", |value| Format::of(&["a", json::text(value)?].concat()));
    let digest = fields.read("digest", "a digest", |value| Digest::parse(json::text(value)?));
    for key in ["format", "digest"] {
        fields.required(key);
    }
    // They become names of files and directories that are removed later, and arguments of a package manager.
    let (package, file) = (fields.string("package"), fields.string("file"));
    for (key, text) in [("package", &package), ("file", &file)] {
        if !text.is_empty() && (!is_file_name(text) || text.starts_with('-')) {
            fields.fault(key, "not a plain name");
        }
    }
    let (version, native) = (fields.string("version"), fields.string("native"));
    Some(Installed { format: format?, package, version, digest: digest?, file, native })
}

fn name(fields: &mut Fields<'_, '_>) -> Name {
    let name = fields.string("name");
    if !is_name(&name) {
        fields.fault("name", "not an agent's name");
    }
    name.into()
}

#[cfg(test)]
mod tests;
