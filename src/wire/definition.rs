//! One agent's definition, and the parts of it that jobs carry too: JSON values in, a `Spec` or every fault out.
//!
//! Only the text is judged here. Whether user, group and program exist on the host is looked up at each start.
//! Environments may hold secrets, so no message quotes a value of one.

use std::time::Duration;

use crate::kernel::{Resource, Sig};
use crate::model::runtime_directory::{is_runtime_directory, shared_directory};
use crate::model::spec::{
    is_name, is_version, parse_capability, parse_percent, parse_size, Account, Autorestart, Check, Envs, KillMode,
    Kind, Limits, Program, Reload, Spec,
};
use crate::wire::json::{self, show, Fields, Value};

/// The name that no agent can have, because jobs mean the daemon with it.
pub const RESERVED: &str = "bootagent";

/// Reads a definition. In a tar package (`in_tar`) programs may be relative to the package. Without `strict`, unknown keys are
/// ignored, as a newer binary may have recorded them.
///
/// Returns `None` when it has added to the faults.
pub fn definition(mut fields: Fields<'_, '_>, in_tar: bool, strict: bool) -> Option<Spec> {
    let before = fields.fault_count();
    let mut spec = Spec::new("", "", Vec::new());
    identity(&mut fields, in_tar, &mut spec);
    process(&mut fields, &mut spec);
    set(&mut spec.envs, envs(&mut fields));
    let env_file = |v| json::text(v).filter(|path| path.strip_prefix('-').unwrap_or(path).starts_with('/'));
    spec.env_file =
        fields.read("env_file", "an absolute path, \"-\" in front if it may be missing", env_file).map(Into::into);
    spec.runtime_directory = runtime_directory(&mut fields);
    set(&mut spec.limits, limits(&mut fields, strict));
    restarts(&mut fields, &mut spec);
    set(&mut spec.startsecs, fields.seconds("startsecs"));
    set(&mut spec.stopsignal, fields.read("stopsignal", "a signal such as \"TERM\"", signal));
    set(&mut spec.stopsecs, fields.seconds("stopsecs"));
    let kills = [("tree", KillMode::Tree), ("mixed", KillMode::Mixed), ("main", KillMode::Main)];
    set(&mut spec.kill, fields.word("kill", &kills));
    spec.prestart = fields.inside("prestart").map(|fields| Box::new(program(fields, in_tar, strict)));
    spec.reload = reload(&mut fields, in_tar, strict);
    spec.restartsecs = fields.seconds("restartsecs");
    spec.windowsecs = fields.seconds("windowsecs");
    spec.retries = fields.integer("retries", 0, u32::MAX.into()).map(|retries| retries as u32);
    spec.check = fields.inside("check").map(|fields| Box::new(check(fields, in_tar, strict)));
    set(&mut spec.log_size, fields.read("log_size", "a size such as \"1M\"", size_above_0));
    set(&mut spec.nice, fields.read("nice", "an integer of -20..19", |v| json::signed(v, -20, 19)));
    let score = fields.read("oom_score_adj", "an integer of -1000..1000", |v| json::signed(v, -1000, 1000));
    set(&mut spec.oom_score_adj, score);
    privileges(&mut fields, &mut spec);
    if strict {
        fields.refuse_unknown();
    }
    (fields.fault_count() == before).then_some(spec)
}

/// What an agent is: `name`, `version` and `exec`, which every definition has.
fn identity(fields: &mut Fields<'_, '_>, in_tar: bool, spec: &mut Spec) {
    fields.required("name");
    if let Some(name) = fields.read("name", "1 to 50 of A-Z a-z 0-9 _ -", |v| json::text(v).filter(|t| is_name(t))) {
        spec.name = name.into();
        if name == RESERVED {
            fields.fault("name", "\"bootagent\" is the daemon's own");
        }
    }
    fields.required("version");
    let version = fields.read("version", "a string of 1 to 100 of A-Z a-z 0-9 . _ + ~ : -, no dot first", |v| {
        json::text(v).filter(|text| is_version(text))
    });
    set(&mut spec.version, version.map(Into::into));
    spec.exec = exec(fields, in_tar);
}

/// How its process is made: `type`, `pidfile`, `user`, `group`, `directory` and `umask`.
fn process(fields: &mut Fields<'_, '_>, spec: &mut Spec) {
    let kinds = [("simple", Kind::Simple), ("forking", Kind::Forking), ("notify", Kind::Notify)];
    let kind = fields.word("type", &kinds);
    set(&mut spec.kind, kind);
    spec.pidfile = fields.read("pidfile", "an absolute path", absolute).map(Into::into);
    let stays = kind.map_or(fields.get("type").is_none(), |kind| kind != Kind::Forking);
    if stays && fields.get("pidfile").is_some() {
        fields.fault("pidfile", "only with type \"forking\"");
    }
    spec.user = fields.read("user", "a user name or number", account);
    spec.group = fields.read("group", "a group name or number", account);
    if matches!(spec.user, Some(Account::Id(_))) && fields.get("group").is_none() {
        fields.fault("group", "missing, a numeric user needs one");
    }
    set(&mut spec.directory, fields.read("directory", "an absolute path", absolute).map(Into::into));
    set(&mut spec.umask, fields.read("umask", "an octal string such as \"022\"", umask));
}

/// What `autorestart` can be.
const AUTORESTARTS: [(&str, Autorestart); 4] = [
    ("always", Autorestart::Always),
    ("unexpected", Autorestart::Unexpected),
    ("on-signal", Autorestart::OnSignal),
    ("never", Autorestart::Never),
];

/// When it is started, and which ends are normal: `autostart`, `autorestart` and `exitcodes`.
fn restarts(fields: &mut Fields<'_, '_>, spec: &mut Spec) {
    set(&mut spec.autostart, fields.flag("autostart"));
    set(&mut spec.autorestart, fields.word("autorestart", &AUTORESTARTS));
    let codes = fields.list("exitcodes", "an array of integers of 0..255", "an integer of 0..255", |code| {
        u8::try_from(json::integer(code)?).ok()
    });
    set(&mut spec.exitcodes, codes);
}

/// The names of its `runtime_directory`.
fn runtime_directory(fields: &mut Fields<'_, '_>) -> Vec<Box<str>> {
    let values =
        fields.read("runtime_directory", "an array of names such as [\"web\"]", json::array).unwrap_or_default();
    let mut names: Vec<Box<str>> = Vec::new();
    for (index, value) in values.iter().enumerate() {
        let key = format!("runtime_directory[{index}]");
        match json::text(value).filter(|text| is_runtime_directory(text)).map(Box::from) {
            None => fields.wrong(&key, "a path below /run such as \"web\", without \"..\"", value),
            Some(name) if shared_directory(std::slice::from_ref(&name), &names).is_some() => {
                fields.fault(&key, "holds another one of them, or is in it");
            }
            Some(name) => names.push(name),
        }
    }
    names
}

/// What it may and may not do: `no_new_privs`, `capabilities` and `ambient_capabilities`.
fn privileges(fields: &mut Fields<'_, '_>, spec: &mut Spec) {
    set(&mut spec.no_new_privs, fields.flag("no_new_privs"));
    spec.capabilities = capabilities(fields, "capabilities");
    set(&mut spec.ambient_capabilities, capabilities(fields, "ambient_capabilities"));
    if spec.ambient_capabilities & !spec.capabilities.unwrap_or(u64::MAX) != 0 {
        fields.fault("ambient_capabilities", "want only such as are in capabilities too");
    }
}

/// The set of the capabilities that an array names.
fn capabilities(fields: &mut Fields<'_, '_>, key: &'static str) -> Option<u64> {
    let names = fields.list(key, "an array of names such as \"CAP_CHOWN\"", "a name such as \"CAP_CHOWN\"", |name| {
        parse_capability(json::text(name)?)
    });
    Some(names?.iter().fold(0, |all, one| all | one))
}

/// As many processes and threads as any Linux can have.
const TASKS_MAX: u64 = 1 << 22;

/// Reads the `limits`, if there are any; unknown keys are faults with `strict` and ignored without.
pub fn limits(fields: &mut Fields<'_, '_>, strict: bool) -> Option<Limits> {
    if json::is_empty(fields.get("limits")?) {
        return Some(Limits::default());
    }
    let mut fields = fields.inside("limits")?;
    let mut limits = Limits {
        cpu: fields.read("CPU", "a share such as \"10%\"", |v| parse_percent(json::text(v)?)),
        memory: fields.read("memory", "a size such as \"20M\"", size_above_0),
        tasks: fields.integer("tasks", 1, TASKS_MAX),
        resources: Vec::new(),
    };
    for resource in Resource::ALL {
        let number = match resource.in_bytes() {
            true => {
                fields.read(resource.key(), "a size such as \"20M\" or \"unlimited\"", |v| size(v).or(unlimited(v)))
            }
            false => fields.read(resource.key(), "an integer or \"unlimited\"", |v| json::integer(v).or(unlimited(v))),
        };
        limits.resources.extend(number.map(|number| (resource, number)));
    }
    if strict {
        fields.refuse_unknown();
    }
    Some(limits)
}

/// Reads the environment variables `envs`, if there are any.
pub fn envs(fields: &mut Fields<'_, '_>) -> Option<Envs> {
    let value = fields.get("envs")?;
    if json::is_empty(value) {
        return Some(Envs::new());
    }
    let Some(object) = json::object(value) else {
        fields.fault("envs", "want an object of strings");
        return None;
    };
    let mut envs = Envs::new();
    for (name, value) in object {
        // A name such as "A=secret" would show a value.
        let shown = name.split_once('=').map_or(name.clone(), |(before, _)| [before, "=..."].concat());
        if !is_variable(name) {
            let shown = show(&Value::String(shown));
            fields.fault("envs", &format!("want names of A-Z a-z 0-9 _, no digit first, got {shown}"));
        } else if name == "BOOTAGENT_NAME" {
            fields.fault(&format!("envs.{name}"), "is set by the daemon");
        } else if let Some(text) = json::text(value) {
            envs.push((name.as_str().into(), text.into()));
        } else {
            fields.fault(&format!("envs.{name}"), "want a string without NUL");
        }
    }
    Some(envs)
}

/// The text of an absolute path.
pub fn absolute(value: &Value) -> Option<&str> {
    json::text(value).filter(|path| path.starts_with('/'))
}

/// A number of bytes above 0, as an integer or with a unit.
pub fn size_above_0(value: &Value) -> Option<u64> {
    size(value).filter(|bytes| *bytes > 0)
}

fn size(value: &Value) -> Option<u64> {
    json::integer(value).or_else(|| parse_size(json::text(value)?))
}

fn unlimited(value: &Value) -> Option<u64> {
    (json::text(value) == Some("unlimited")).then_some(u64::MAX)
}

/// Puts the value in the place of the default, if there is one.
pub fn set<T>(slot: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *slot = value;
    }
}

/// The required `exec` of an agent or its check; empty when it has a fault.
fn exec(fields: &mut Fields<'_, '_>, in_tar: bool) -> Vec<Box<str>> {
    let Some(value) = fields.required("exec") else { return Vec::new() };
    let elements = json::array(value).unwrap_or_default();
    let mut exec = Vec::with_capacity(elements.len());
    if elements.is_empty() {
        fields.wrong("exec", "an array of program and arguments such as [\"/usr/sbin/agent\", \"-f\"]", value);
    }
    for (index, element) in elements.iter().enumerate() {
        match json::text(element) {
            Some(text) if index > 0 || is_program(text, in_tar) => exec.push(text.into()),
            Some(_) if in_tar => fields.wrong("exec[0]", "an absolute path or one inside the package", element),
            Some(_) => fields.wrong("exec[0]", "an absolute path", element),
            None => fields.wrong(&format!("exec[{index}]"), "a string", element),
        }
    }
    exec
}

fn is_program(text: &str, in_tar: bool) -> bool {
    match text.strip_prefix('/') {
        Some(rest) => !rest.is_empty(),
        None => in_tar && !text.is_empty() && text.split('/').all(|part| part != ".."),
    }
}

fn check(mut fields: Fields<'_, '_>, in_tar: bool, strict: bool) -> Check {
    let exec = exec(&mut fields, in_tar);
    let interval = fields.seconds_above_0("interval").unwrap_or(Duration::from_secs(60));
    let timeout = fields.seconds_above_0("timeout").unwrap_or(Duration::from_secs(10));
    let retries = fields.integer("retries", 1, u32::MAX.into()).map_or(3, |retries| retries as u32);
    if strict {
        fields.refuse_unknown();
    }
    Check { exec, interval, timeout, retries }
}

/// How it reads its configuration again: a signal, or a program.
fn reload(fields: &mut Fields<'_, '_>, in_tar: bool, strict: bool) -> Option<Reload> {
    match fields.get("reload") {
        Some(Value::Object(_)) => {
            fields.inside("reload").map(|fields| Reload::Exec(Box::new(program(fields, in_tar, strict))))
        }
        _ => fields.read("reload", "a signal such as \"HUP\", or { \"exec\": [...] }", signal).map(Reload::Signal),
    }
}

fn program(mut fields: Fields<'_, '_>, in_tar: bool, strict: bool) -> Program {
    let exec = exec(&mut fields, in_tar);
    let timeout = fields.seconds_above_0("timeout").unwrap_or(Duration::from_secs(60));
    if strict {
        fields.refuse_unknown();
    }
    Program { exec, timeout }
}

fn account(value: &Value) -> Option<Account> {
    // To the system calls the highest number means "leave the id as it is", and the id before the call is root's.
    let id = |id: u64| u32::try_from(id).ok().filter(|id| *id != u32::MAX).map(Account::Id);
    let Some(text) = json::text(value) else { return id(json::integer(value)?) };
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return id(text.parse().ok()?);
    }
    let odd = |c: char| c.is_whitespace() || c.is_control() || matches!(c, ':' | '/' | ',');
    (!text.is_empty() && !text.starts_with('-') && !text.contains(odd)).then(|| Account::Name(text.into()))
}

fn umask(value: &Value) -> Option<u32> {
    let text = json::text(value)?;
    let octal = (1..=4).contains(&text.len()) && text.bytes().all(|byte| (b'0'..b'8').contains(&byte));
    u32::from_str_radix(text, 8).ok().filter(|mask| octal && *mask <= 0o777)
}

fn signal(value: &Value) -> Option<Sig> {
    match json::integer(value) {
        Some(number) => Sig::new(i32::try_from(number).ok()?),
        None => Sig::parse(json::text(value)?),
    }
}

/// Whether this can be the name of an environment variable.
pub fn is_variable(name: &str) -> bool {
    !name.starts_with(|c: char| c.is_ascii_digit())
        && !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests;
