//! `bootagent check`: prints everything that is wrong with the configuration, which it reads as the daemon does.
//!
//! Besides the files it checks the host: whether users, groups and programs exist, and as which user helpers would run.
//! Nothing is changed and no daemon is needed.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::cli::{complain, list, print, Ended};
use crate::host::config_files::{self, Basis, Configuration};
use crate::host::disk::reason;
use crate::host::spawn::{env_file, user_of};
use crate::host::{identity, image, runtime_directory};
use crate::kernel::{Resource, Uid};
use crate::model::spec::{is_host_name, notify_socket, parse_capability, Account, Kind, Spec};
use crate::sys::image::is_noexec;
use crate::sys::{account, hostname};
use crate::text::{count, exact_size};
use crate::wire::config::{Config, ConfigError, Defined};
use crate::wire::sign::Keys;

/// Capabilities, capabilities(7), each of which lets a process get all others.
const AS_GOOD_AS_ROOT: [&str; 11] = [
    "dac_override",
    "chown",
    "fowner",
    "setuid",
    "setfcap",
    "sys_admin",
    "sys_module",
    "sys_ptrace",
    "sys_rawio",
    "mknod",
    "bpf",
];

/// Reads all configuration, and prints every problem to standard error.
///
/// # Errors
/// The exit code, when there is a problem.
pub fn check(path: &Path) -> Ended {
    let Configuration { config, has_file, agents, mut problems } = config_files::read_configuration(path);
    let (used, source) = config_files::config_in_use(path);
    if !has_file {
        // The file is optional, but that it is missing is a problem where it was there before and required signatures.
        problems = used.problems;
    }
    check_daemon(&config, &path.to_string_lossy(), &mut problems);
    for agent in &agents.agents {
        let file = format!("{}/{}", config.agents_dir.trim_end_matches('/'), agent.file);
        for message in check_agent(&agent.spec, &config) {
            problems.push(ConfigError::new(&file, &message));
        }
    }
    list(&problems);
    match source {
        Basis::File => {}
        Basis::Copy => {
            complain(&format_args!("a daemon that starts now runs on the last good copy of {}", path.display()))
        }
        Basis::Defaults(why) => {
            complain(&format_args!("for a daemon that starts now: {}", config_files::closed(path, &why)))
        }
    }
    if !problems.is_empty() {
        return Err(1);
    }
    for text in warnings(&config, &agents.agents) {
        complain(&format_args!("warning: {text}"));
    }
    let state = if has_file { "ok" } else { "not there, so all defaults" };
    let agents = count(agents.agents.len() as u64, "agent");
    print(&format!("{}: {state}; {agents}\n", path.display()))
}

/// What works, and most likely not as it is meant.
fn warnings(config: &Config, agents: &[Defined]) -> Vec<String> {
    let mut warnings = check_helpers(config, agents);
    warnings.extend(config_files::shared_directories(config));
    let own_name = hostname();
    if config.hostname.is_none() && !is_host_name(&own_name) {
        warnings.push(format!(
            "servers take no host name but 1 to 253 of A-Z a-z 0-9 . _ -, and this host's is \"{own_name}\": set hostname"
        ));
    }
    if !Path::new(&*config.agents_dir).exists() {
        warnings.push(format!("agents_dir: there is no directory \"{}\"", config.agents_dir));
    }
    warnings.extend(noexec_warning(Path::new(&*config.state_dir)));
    for Defined { file, spec, .. } in agents {
        if !Path::new(&*spec.directory).is_dir() {
            warnings.push(format!("{file}: directory: there is no directory \"{}\"", spec.directory));
        }
        let of_agent = [root_warning(spec, user_of(spec)), file_size_warning(spec)];
        warnings.extend(of_agent.into_iter().flatten().map(|text| format!("{file}: {text}")));
    }
    warnings
}

/// Adds the problems that the daemon itself would have on this host.
fn check_daemon(config: &Config, file: &str, problems: &mut Vec<ConfigError>) {
    let directories = [("state_dir", &config.state_dir), ("run_dir", &config.run_dir), ("log_dir", &config.log_dir)];
    for (key, path) in directories {
        let why = match fs::metadata(&**path) {
            Ok(metadata) if metadata.is_dir() => continue,
            Ok(_) => "not a directory".into(),
            // The daemon makes it when it starts.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => reason(&error),
        };
        problems.push(ConfigError::new(file, &format!("{key}: \"{path}\": {why}")));
    }
    if let Some(message) = config.helper_user.as_deref().and_then(missing_user) {
        problems.push(ConfigError::new(file, &format!("helper_user: {message}")));
    }
    if let Some(key_file) = &config.key_file {
        let read = config_files::read_key(Path::new(&**key_file)).and_then(|text| Keys::read(&text));
        problems.extend(read.err().map(|why| ConfigError::new(file, &format!("key_file: \"{key_file}\": {why}"))));
    }
}

/// Warnings about the user that helpers run as on this host.
fn check_helpers(config: &Config, agents: &[Defined]) -> Vec<String> {
    let name = config.helper_user.as_deref();
    let users = identity::users(name);
    let mut warnings = users.warnings.clone();
    warnings.extend(config_files::root_helper(name));
    if account::own_uid() == Uid(0) {
        let copied = image::can_be_copied(&[Path::new(&*config.state_dir), Path::new(&*config.run_dir)]);
        warnings.extend(copied.err().map(|why| identity::open_program(&why)));
    }
    warnings.extend(identity::agents_as_helper(&users, name, &mut agents.iter().map(|agent| &*agent.spec)));
    warnings
}

/// The reasons why an agent cannot be started on this host.
fn check_agent(spec: &Spec, config: &Config) -> Vec<String> {
    let mut messages = Vec::new();
    if let Some(Account::Name(user)) = &spec.user {
        messages.extend(missing_user(user).map(|message| format!("user: {message}")));
    }
    let user = user_of(spec);
    if account::own_uid() != Uid(0) && user.is_some_and(|user| user != account::own_uid()) {
        messages.push("user: only root can run agents as another user".to_string());
    }
    if let Some(Account::Name(group)) = &spec.group {
        let found = account::group_by_name(group).map(|found| found.is_some());
        messages.extend(missing("group", group, found).map(|message| format!("group: {message}")));
    }
    if let Some(user) = user {
        messages.extend(env_file(spec, user).err().map(String::from));
    }
    if spec.kind == Kind::Notify {
        messages.extend(notify_socket(&config.run_dir, &spec.name).err().map(|error| error.to_string()));
    }
    messages.extend(runtime_directory::clash(&spec.runtime_directory, config));
    for (key, exec) in [
        ("", Some(&spec.exec)),
        ("prestart.", spec.prestart.as_ref().map(|program| &program.exec)),
        ("reload.", spec.reload.as_ref().and_then(|reload| reload.program()).map(|program| &program.exec)),
        ("check.", spec.check.as_ref().map(|check| &check.exec)),
    ] {
        let message = exec.and_then(|exec| unusable_program(&exec[0]));
        messages.extend(message.map(|message| format!("{key}exec[0]: {message}")));
    }
    messages
}

/// A warning where programs of packages could not be executed, as they are unpacked below `state_dir`. Where that is not
/// there yet, the directory counts that it will be made in.
fn noexec_warning(state_dir: &Path) -> Option<String> {
    let there = state_dir.ancestors().find(|path| path.exists())?;
    is_noexec(there).is_ok_and(|is| is).then(|| {
        format!(
            "state_dir: \"{}\" is mounted noexec: no program of a tar package and no new version of the daemon can be executed there; \
             mount it without noexec, or choose another state_dir",
            there.display()
        )
    })
}

/// A warning where an agent cannot write to its own log any more before that is rotated.
fn file_size_warning(spec: &Spec) -> Option<String> {
    let (_, limit) = spec.limits.resources.iter().find(|(resource, _)| *resource == Resource::Fsize)?;
    (*limit <= spec.log_size).then(|| {
        format!(
            "limits.fsize: {} is not above log_size ({}): the agent's log reaches this limit before it is rotated, and \
             then the agent gets SIGXFSZ for every line that it writes; set a log_size that is well below",
            exact_size(*limit),
            exact_size(spec.log_size)
        )
    })
}

/// A warning where an agent runs as root with limited capabilities, which limits it less than it seems.
fn root_warning(spec: &Spec, user: Option<Uid>) -> Option<String> {
    let capabilities = spec.capabilities.filter(|_| user == Some(Uid(0)))?;
    let strong: Vec<&str> = AS_GOOD_AS_ROOT
        .into_iter()
        .filter(|name| parse_capability(name).is_some_and(|bit| capabilities & bit != 0))
        .collect();
    let also = match strong.is_empty() {
        true => String::new(),
        false => format!(", and {} alone is as good as all of them", strong.join(", ")),
    };
    Some(format!(
        "capabilities: it runs as root, and whoever is root owns root's files without any capability: it can still write what root may write, \
         as /etc/passwd, programs, and the records of this daemon, and so become all of root{also}; give it a user of its own, \
         with which the bound holds"
    ))
}

fn missing_user(name: &str) -> Option<String> {
    missing("user", name, account::user_by_name(name).map(|found| found.is_some()))
}

fn missing(what: &str, name: &str, found: io::Result<bool>) -> Option<String> {
    match found {
        Ok(true) => None,
        Ok(false) => Some(format!("there is no {what} \"{name}\" on this host")),
        Err(error) => Some(format!("cannot look up \"{name}\": {error}")),
    }
}

fn unusable_program(path: &str) -> Option<String> {
    match fs::metadata(path) {
        Err(error) => Some(format!("cannot find the program \"{path}\": {}", reason(&error))),
        Ok(metadata) if !metadata.is_file() => Some(format!("\"{path}\" is not a program")),
        Ok(metadata) if metadata.permissions().mode() & 0o111 == 0 => Some(format!("\"{path}\" is not executable")),
        Ok(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limited_capabilities_of_root_are_warned_of() {
        let mut spec = Spec::new("web", "1", vec!["/bin/sh".into()]);
        let root = Some(Uid(0));
        assert_eq!(root_warning(&spec, root), None);
        spec.capabilities = parse_capability("net_bind_service");
        let warning = root_warning(&spec, root).unwrap_or_default();
        assert!(warning.contains("it runs as root") && !warning.contains("as good as"), "{warning}");
        spec.capabilities = Some(parse_capability("setuid").unwrap_or(0) | parse_capability("bpf").unwrap_or(0));
        let warning = root_warning(&spec, root).unwrap_or_default();
        assert!(warning.contains("and setuid, bpf alone is as good"), "{warning}");
        assert_eq!(root_warning(&spec, Some(Uid(1000))), None, "a daemon without root has no root to give");
        assert_eq!(root_warning(&spec, None), None);
        assert!(AS_GOOD_AS_ROOT.iter().all(|name| parse_capability(name).is_some()));
    }

    #[test]
    fn a_limit_of_file_size_that_the_log_meets_is_warned_of() {
        for (limit, is_warned) in [(None, false), (Some(1 << 19), true), (Some(1 << 20), true), (Some(1 << 21), false)]
        {
            let mut spec = Spec::new("web", "1", vec!["/bin/sh".into()]);
            spec.log_size = 1 << 20;
            spec.limits.resources.extend(limit.map(|limit| (Resource::Fsize, limit)));
            assert_eq!(file_size_warning(&spec).is_some(), is_warned, "{limit:?}");
        }
    }

    #[test]
    fn missing_users_groups_and_programs_are_named() {
        let mut spec = Spec::new("web", "1", vec!["/bin/sh".into()]);
        assert_eq!(check_agent(&spec, &Config::default()), Vec::<String>::new());
        spec.user = Some(Account::Name("root".into()));
        spec.group = Some(Account::Id(12345));
        assert_eq!(check_agent(&spec, &Config::default()), Vec::<String>::new());
        spec.user = Some(Account::Name("no-such-user".into()));
        spec.group = Some(Account::Name("no-such-group".into()));
        spec.exec[0] = "/no/such/program".into();
        let want = [
            "user: there is no user \"no-such-user\" on this host",
            "group: there is no group \"no-such-group\" on this host",
            "exec[0]: cannot find the program \"/no/such/program\": No such file or directory",
        ];
        assert_eq!(check_agent(&spec, &Config::default()), want);
        for (path, want) in [("/etc", "is not a program"), ("/etc/passwd", "is not executable")] {
            assert!(unusable_program(path).is_some_and(|message| message.contains(want)), "{path}");
        }
    }
}
