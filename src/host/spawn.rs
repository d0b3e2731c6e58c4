//! How an agent's child is set up: a definition (`Spec`) goes in, a `Setup` comes out, with accounts looked up, the
//! environment built and the program found.
//!
//! What can fail before there is a child fails here, with a message that names the user, group or file; later errors come
//! through `sys::setup_error::SetupErrorPipe`. A user or group that does not exist is an error and never means root.

use std::ffi::CString;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use crate::error::Error;
use crate::host::config_files::read_env_file;
use crate::kernel::{Errno, Gid, Resource, Stage, Uid};
use crate::model::spec::{Account, Envs, Spec};
use crate::sys::account::{group_by_name, groups_of, own_gid, own_uid, user_by_id, user_by_name, User};
use crate::sys::child::{Program, Setup};
use crate::sys::file::read_text;
use crate::sys::process::{limit, set_limit};
use crate::wire::env_file::parse;

/// The value of `PATH` in the environment of agents and installers.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a start depends on besides the definition.
#[derive(Clone, Copy, Debug)]
pub struct Where<'a> {
    /// The value of `BOOTAGENT_STATE_DIR`, for people and programs.
    pub state_dir: &'a str,
    /// The value of `BOOTAGENT_STATE_ID`, which tells this daemon's agents from those of another daemon.
    pub mark: &'a str,
    /// The unpacked package that a relative program is in; `None` when the agent did not come as a tar.
    pub package: Option<&'a Path>,
    /// The value of `NOTIFY_SOCKET`; `None`: it gets none.
    pub notify: Option<&'a str>,
    /// The variables of the definition's `env_file`.
    pub of_file: &'a [(Box<str>, Box<str>)],
}

/// Why a child cannot be set up: the step that would fail, and what is wrong, with values in quotes.
fn wrong(stage: Stage, why: fmt::Arguments<'_>) -> Error {
    format_error!("{stage}: {why}")
}

/// The setup of a child that runs `exec` (of the definition, or of its check) with the user, groups, environment, directory,
/// umask and resource limits of the definition, in its own session, with output to `output`.
///
/// # Errors
/// When a user, a group or the program does not exist, or needs root.
pub fn setup(spec: &Spec, exec: &[Box<str>], host: &Where<'_>, output: Option<OwnedFd>) -> Result<Setup, Error> {
    let user = run_as(spec)?;
    let change = ids(spec, &user)?;
    let program = c_text(find_program(exec, host)?.as_os_str().as_bytes(), Stage::Exec)?;
    let mut argv = vec![program.clone()];
    for argument in exec.iter().skip(1) {
        argv.push(c_text(argument.as_bytes(), Stage::Exec)?);
    }
    let mut setup = Setup::new(Program::Path(program), argv, environment(spec, &user, host)?);
    if let Some(file) = output {
        let copy = file.try_clone().map_err(|error| wrong(Stage::Files, format_args!("{error}")))?;
        setup.stderr = Some(copy);
        setup.stdout = Some(file);
    }
    setup.standard = true;
    for &(resource, value) in &spec.limits.resources {
        let value = if resource == Resource::Nofile { possible_files(value) } else { value };
        setup.rlimits.push((resource, value, value));
    }
    // The daemon may have other values of its own, which children inherit.
    (setup.nice, setup.oom_score_adj) = (Some(spec.nice), Some(spec.oom_score_adj));
    if let Some((uid, gid, groups)) = change {
        setup.uid = Some(uid);
        setup.gid = Some(gid);
        setup.groups = Some(groups);
    }
    if spec.capabilities.is_some() && own_uid() != Uid(0) {
        return Err(wrong(Stage::Privileges, format_args!("only root can limit the capabilities of agents")));
    }
    if spec.ambient_capabilities != 0 && own_uid() != Uid(0) {
        return Err(wrong(Stage::Privileges, format_args!("only root can give capabilities to agents")));
    }
    setup.bounding = spec.capabilities;
    setup.ambient = spec.ambient_capabilities;
    setup.no_new_privs = spec.no_new_privs;
    setup.directory = c_text(spec.directory.as_bytes(), Stage::Directory)?;
    setup.umask = spec.umask;
    Ok(setup)
}

/// How many open files can be allowed to a child that should have `wanted`: the most that the kernel and our own rights give.
pub fn possible_files(wanted: u64) -> u64 {
    let most = read_text(Path::new("/proc/sys/fs/nr_open")).ok().and_then(|text| text.trim().parse().ok());
    let wanted = wanted.min(most.unwrap_or(u64::MAX));
    let Ok((soft, hard)) = limit(Resource::Nofile) else { return wanted };
    // Whether we may go above our own limit is tried: in a container, CAP_SYS_RESOURCE alone does not say so.
    if wanted <= hard || set_limit(Resource::Nofile, soft, wanted).is_err() {
        return wanted.min(hard);
    }
    // Lowering it again is always allowed.
    let _ = set_limit(Resource::Nofile, soft, hard);
    wanted
}

/// The user that the processes of this agent run as; `None` when its account does not exist or cannot be looked up now.
pub fn user_of(spec: &Spec) -> Option<Uid> {
    match &spec.user {
        None => Some(own_uid()),
        Some(Account::Id(id)) => Some(Uid(*id)),
        Some(Account::Name(_)) => run_as(spec).ok().map(|user| user.uid),
    }
}

/// The account of the user that an agent runs as. The name of a number without an account is the number.
fn run_as(spec: &Spec) -> Result<User, Error> {
    let (account, id) = match &spec.user {
        None => (user_by_id(own_uid()), own_uid()),
        Some(Account::Id(id)) if spec.group.is_none() => {
            return Err(wrong(Stage::Gid, format_args!("user {id} is a number: want a \"group\" too")));
        }
        Some(Account::Id(id)) => (user_by_id(Uid(*id)), Uid(*id)),
        Some(Account::Name(name)) => match user_by_name(name) {
            Ok(None) => return Err(wrong(Stage::Uid, format_args!("user \"{name}\" does not exist"))),
            account => (account, own_uid()),
        },
    };
    match account {
        Ok(Some(user)) => Ok(user),
        Err(error) if matches!(spec.user, Some(Account::Name(_))) => {
            Err(cannot_look_up(Stage::Uid, "user", spec.user.as_ref(), &error))
        }
        // A number needs no account.
        Ok(None) | Err(_) => {
            let name = if id == Uid(0) { "root".to_string() } else { id.0.to_string() };
            Ok(User { name, uid: id, gid: own_gid(), home: "/".into(), shell: String::new() })
        }
    }
}

/// User, group and supplementary groups.
type Ids = (Uid, Gid, Vec<Gid>);

/// The ids to change to; `None` where they are the daemon's own.
fn ids(spec: &Spec, user: &User) -> Result<Option<Ids>, Error> {
    let gid = match &spec.group {
        None if spec.user.is_none() => own_gid(),
        None => user.gid,
        Some(Account::Id(id)) => Gid(*id),
        Some(Account::Name(name)) => match group_by_name(name) {
            Ok(Some(gid)) => gid,
            Ok(None) => return Err(wrong(Stage::Gid, format_args!("group \"{name}\" does not exist"))),
            Err(error) => return Err(cannot_look_up(Stage::Gid, "group", spec.group.as_ref(), &error)),
        },
    };
    if own_uid() != Uid(0) {
        if user.uid != own_uid() {
            let name = &user.name;
            return Err(wrong(Stage::Uid, format_args!("user \"{name}\": only root can run agents as another user")));
        }
        if gid != own_gid() && spec.group.is_some() {
            return Err(wrong(Stage::Gid, format_args!("group {}: only root can run agents in another group", gid.0)));
        }
        return Ok(None);
    }
    if spec.user.is_none() && gid == own_gid() {
        return Ok(None);
    }
    let groups = match groups_of(&user.name, gid) {
        Ok(groups) => groups,
        Err(error) => return Err(cannot_look_up(Stage::Groups, "groups of user", spec.user.as_ref(), &error)),
    };
    Ok(Some((user.uid, gid, groups)))
}

fn cannot_look_up(stage: Stage, what: &str, account: Option<&Account>, error: &io::Error) -> Error {
    match account {
        Some(account) => wrong(stage, format_args!("cannot look up {what} \"{account}\": {error}")),
        None => wrong(stage, format_args!("cannot look up our own {what}: {error}")),
    }
}

/// A clean environment with the agent's own variables. By the first and the last variable of the daemon orphans are
/// identified, so nothing replaces them; they come first, so that they are in the first page of the environment.
fn environment(spec: &Spec, user: &User, host: &Where<'_>) -> Result<Vec<CString>, Error> {
    let shell = if user.shell.is_empty() { "/bin/sh" } else { &user.shell };
    let ours =
        [("BOOTAGENT_NAME", &*spec.name), ("BOOTAGENT_STATE_DIR", host.state_dir), ("BOOTAGENT_STATE_ID", host.mark)];
    let mut all: Vec<(&str, &str)> = ours.to_vec();
    all.extend([
        ("PATH", PATH),
        ("HOME", &*user.home),
        ("USER", &user.name),
        ("LOGNAME", &user.name),
        ("SHELL", shell),
    ]);
    all.extend(host.notify.map(|path| ("NOTIFY_SOCKET", path)));
    all.extend(host.of_file.iter().chain(&spec.envs).map(|(name, value)| (&**name, &**value)));
    // A variable stays where it is named first, with its last value. There may be many: an env_file may have a mebibyte.
    let mut by_name: Vec<usize> = (0..all.len()).collect();
    by_name.sort_unstable_by_key(|index| (all[*index].0, *index));
    let mut chosen = Vec::new();
    for same in by_name.chunk_by(|a, b| all[*a].0 == all[*b].0) {
        let (first, last) = (same[0], same[same.len() - 1]);
        let value = if first < ours.len() { all[first].1 } else { all[last].1 };
        chosen.push((first, all[first].0, value));
    }
    chosen.sort_unstable();
    let mut envp = Vec::with_capacity(chosen.len());
    for (_, name, value) in chosen {
        envp.push(c_text([name, "=", value].concat().as_bytes(), Stage::Exec)?);
    }
    Ok(envp)
}

/// The variables of the agent's `env_file`.
///
/// # Errors
/// When it is missing and must not be, cannot be read, or others could have written it.
pub fn env_file(spec: &Spec, user: Uid) -> Result<Envs, Error> {
    let Some(path) = &spec.env_file else { return Ok(Envs::new()) };
    let (path, optional) = path.strip_prefix('-').map_or((&**path, false), |path| (path, true));
    match read_env_file(Path::new(path), user) {
        Ok(Some(text)) => Ok(parse(&String::from_utf8_lossy(&text))),
        Ok(None) if optional => Ok(Envs::new()),
        Ok(None) => Err(format_error!("env_file \"{path}\": {}", Errno(libc::ENOENT))),
        Err(why) => Err(format_error!("env_file \"{path}\": {why}")),
    }
}

/// The file to execute. Whether its user may reach it shows at execve(2).
fn find_program(exec: &[Box<str>], host: &Where<'_>) -> Result<PathBuf, Error> {
    let name: &str = exec.first().map_or("", |name| name);
    let path = match (Path::new(name), host.package) {
        (path, _) if path.is_absolute() => path.to_path_buf(),
        (path, Some(package))
            if path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) =>
        {
            package.join(path)
        }
        (_, Some(_)) => return Err(wrong(Stage::Exec, format_args!("program \"{name}\" is outside the package"))),
        (_, None) => {
            return Err(wrong(
                Stage::Exec,
                format_args!("program \"{name}\": want an absolute path without a tar package"),
            ));
        }
    };
    let problem = match std::fs::metadata(&path) {
        Ok(metadata) if !metadata.is_file() => "not a regular file".to_string(),
        Ok(metadata) if metadata.permissions().mode() & 0o111 == 0 => "not executable: Permission denied".to_string(),
        Ok(_) => return Ok(path),
        Err(error) => Errno(error.raw_os_error().unwrap_or(libc::EIO)).to_string(),
    };
    Err(wrong(Stage::Exec, format_args!("program \"{}\": {problem}", path.display())))
}

fn c_text(bytes: &[u8], stage: Stage) -> Result<CString, Error> {
    // The text itself is not quoted, as it may be the value of a variable.
    CString::new(bytes).map_err(|_| wrong(stage, format_args!("a text with a zero byte in it cannot be passed on")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: Where<'static> = Where { state_dir: "/state", mark: "1:2", package: None, notify: None, of_file: &[] };

    fn spec() -> Spec {
        Spec::new("web", "1", vec!["/bin/sh".into(), "-c".into(), "true".into()])
    }

    fn made(spec: &Spec, host: &Where<'_>) -> Result<Setup, String> {
        setup(spec, &spec.exec, host, None).map_err(|error| error.to_string())
    }

    fn texts(list: &[CString]) -> Vec<&str> {
        list.iter().map(|text| text.to_str().unwrap()).collect()
    }

    #[test]
    fn a_socket_to_notify_is_there_unless_the_definition_says_otherwise() {
        let socket = |spec: &Spec, notify| {
            let setup = made(spec, &Where { notify, ..HOST }).unwrap();
            let all: Vec<String> = texts(&setup.envp).iter().map(|text| text.to_string()).collect();
            all.into_iter().filter(|text| text.starts_with("NOTIFY_SOCKET=")).collect::<Vec<_>>()
        };
        let mut spec = spec();
        assert_eq!(socket(&spec, None), Vec::<String>::new());
        assert_eq!(socket(&spec, Some("/run/web")), ["NOTIFY_SOCKET=/run/web"]);
        spec.envs.push(("NOTIFY_SOCKET".into(), "".into()));
        assert_eq!(socket(&spec, Some("/run/web")), ["NOTIFY_SOCKET="]);
    }

    #[test]
    fn the_environment_is_clean_and_later_values_win() {
        let mut spec = spec();
        for (name, value) in [("A", "1"), ("PATH", "/opt"), ("A", "2"), ("BOOTAGENT_NAME", "other")] {
            spec.envs.push((name.into(), value.into()));
        }
        let setup = made(&spec, &HOST).unwrap();
        let envp = texts(&setup.envp);
        let names: Vec<_> = envp.iter().map(|text| text.split('=').next().unwrap()).collect();
        assert_eq!(
            names,
            [
                "BOOTAGENT_NAME",
                "BOOTAGENT_STATE_DIR",
                "BOOTAGENT_STATE_ID",
                "PATH",
                "HOME",
                "USER",
                "LOGNAME",
                "SHELL",
                "A"
            ]
        );
        for want in ["PATH=/opt", "A=2", "BOOTAGENT_NAME=web", "BOOTAGENT_STATE_DIR=/state", "BOOTAGENT_STATE_ID=1:2"] {
            assert!(envp.contains(&want), "{want} in {envp:?}");
        }
    }

    #[test]
    fn without_a_user_nothing_changes() {
        let mut spec = spec();
        spec.limits.resources = vec![(Resource::Nofile, 64)];
        spec.umask = 0o077;
        let setup = made(&spec, &HOST).unwrap();
        assert_eq!((setup.uid, setup.gid, setup.groups), (None, None, None));
        assert_eq!(texts(&setup.argv), ["/bin/sh", "-c", "true"]);
        assert_eq!(
            (setup.rlimits, setup.umask, setup.oom_score_adj),
            (vec![(Resource::Nofile, 64, 64)], 0o077, Some(0))
        );
    }

    #[test]
    fn open_files_are_as_many_as_can_be() {
        let before = limit(Resource::Nofile).unwrap();
        assert_eq!(possible_files(64), 64);
        let most = possible_files(u64::MAX);
        let kernel: u64 = std::fs::read_to_string("/proc/sys/fs/nr_open").unwrap().trim().parse().unwrap();
        assert!(most == kernel || most == before.1, "{most} {kernel} {before:?}");
        assert_eq!(limit(Resource::Nofile).unwrap(), before);
    }

    #[test]
    fn accounts_that_do_not_exist_are_errors() {
        for (user, group, want) in [
            (Some(Account::Name("no-such".into())), None, "setting the user: user \"no-such\" does not exist"),
            (None, Some(Account::Name("no-such".into())), "setting the group: group \"no-such\" does not exist"),
            (Some(Account::Id(4711)), None, "setting the group: user 4711 is a number: want a \"group\" too"),
        ] {
            let mut spec = spec();
            (spec.user, spec.group) = (user, group);
            assert_eq!(made(&spec, &HOST).err().as_deref(), Some(want));
        }
    }

    #[test]
    fn another_user_is_for_root_only() {
        let mut spec = spec();
        (spec.user, spec.group) = (Some(Account::Id(4711)), Some(Account::Id(4712)));
        let made = made(&spec, &HOST);
        if own_uid() != Uid(0) {
            assert!(made.err().unwrap().contains("only root"));
            return;
        }
        let setup = made.unwrap();
        assert_eq!((setup.uid, setup.gid), (Some(Uid(4711)), Some(Gid(4712))));
        assert_eq!(setup.groups, Some(vec![Gid(4712)]));
        assert!(texts(&setup.envp).contains(&"USER=4711") && texts(&setup.envp).contains(&"SHELL=/bin/sh"));
        (spec.user, spec.group) = (Some(Account::Name("root".into())), None);
        let setup = self::made(&spec, &HOST).unwrap();
        assert_eq!((setup.uid, setup.gid), (Some(Uid(0)), Some(Gid(0))));
        assert!(setup.groups.unwrap().contains(&Gid(0)));
    }

    #[test]
    fn programs_are_found_or_named() {
        let package = Path::new("/bin");
        let inside = Where { package: Some(package), ..HOST };
        for (program, host, want) in [
            ("sh", &inside, Ok("/bin/sh")),
            ("./sh", &inside, Ok("/bin/sh")),
            ("/bin/sh", &inside, Ok("/bin/sh")),
            ("../bin/sh", &inside, Err("is outside the package")),
            ("sh", &HOST, Err("absolute path")),
            ("/no/such", &HOST, Err("program \"/no/such\": No such file")),
            ("/etc", &HOST, Err("not a regular file")),
            ("/etc/passwd", &HOST, Err("not executable")),
            ("/etc/passwd/x", &HOST, Err("Not a directory")),
        ] {
            match (find_program(&[program.into()], host), want) {
                (Ok(path), Ok(want)) => assert_eq!(path, Path::new(want).components().as_path(), "{program}"),
                (Err(error), Err(want)) => assert!(error.contains(want), "{program}: {error}"),
                (got, want) => panic!("{program}: got {got:?}, want {want:?}"),
            }
        }
    }

    #[test]
    fn a_zero_byte_is_refused_without_quoting_it() {
        let mut spec = spec();
        spec.envs.push(("A".into(), "secret\0".into()));
        let error = made(&spec, &HOST).err().unwrap();
        assert!(error.contains("zero byte") && !error.contains("secret"), "{error}");
    }
}
