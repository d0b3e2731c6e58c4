//! The configuration files of the host: `bootagent.json` and the files of `agents.d`, checked and read.
//!
//! Their text goes to `wire::config`, which checks it; the checks here are about the files themselves. Run by root, a file
//! that another user could have written is not read, as the author of an agent's definition can do what root can. The last
//! good copies of definitions are not looked up here: the caller fills in `Source::good` before it has the sources parsed.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use crate::error::Error;
use crate::host::disk::reason;
use crate::host::path_check::{access_of, as_root, check_directory, resolve, Blocked, ACL};
use crate::host::store::Store;
use crate::kernel::Uid;
use crate::model::access::{self, Place};
use crate::model::basis::{self, Cause, Choice};
use crate::sys::account;
use crate::sys::file::{attribute_of, read_up_to};
use crate::wire::config::{self, Agents, Change, Config, ConfigError, Source, SourceError};
use crate::wire::control::SOCKET;

/// The path of the configuration without `-c`. Only there it may be missing.
pub const CONFIG: &str = "/etc/bootagent/bootagent.json";

/// The largest configuration file that is read, bytes.
const MAX_FILE: u64 = 1 << 20;

/// The user besides whom nobody may write a configuration file.
const ROOT: Uid = Uid(0);

const MISSING: &str = "there is no such file";

/// The name of the last good copy of the configuration file, see `Store::good`.
pub const GOOD: &str = "bootagent.json";

/// What `read_config` has read.
#[derive(Debug)]
pub struct Loaded {
    /// The values of the file, with defaults for those that are wrong. The daemon must not run with it when there are
    /// problems.
    pub config: Box<Config>,
    /// The file's text; `None` where there is no file, or it must not be read.
    pub text: Option<Vec<u8>>,
    /// Everything that is wrong with the file.
    pub problems: Vec<ConfigError>,
}

/// What `read_configuration` has read.
#[derive(Debug)]
pub struct Configuration {
    /// `bootagent.json`.
    pub config: Box<Config>,
    /// Whether there is such a file.
    pub has_file: bool,
    /// The agents that `agents_dir` defines; none where the directory is missing.
    pub agents: Agents,
    /// Everything that is wrong in all files.
    pub problems: Vec<ConfigError>,
}

/// Reads the configuration file. Where the default one is missing, everything has its default.
pub fn read_config(path: &Path) -> Loaded {
    let label = path.to_string_lossy();
    let text = match read_file(path) {
        Ok(None) if path != Path::new(CONFIG) => Err(refused(MISSING)),
        read => read,
    };
    match text {
        Ok(None) => Loaded { config: Box::default(), text: None, problems: Vec::new() },
        Ok(Some(text)) => {
            let (config, problems) = config::read_config(&label, &text);
            Loaded { config: Box::new(config), text: Some(text), problems }
        }
        Err(message) => {
            Loaded { config: Box::default(), text: None, problems: vec![ConfigError::new(&label, &message)] }
        }
    }
}

/// Where the configuration of a daemon comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Basis {
    /// The file, or defaults where there is no file and none is needed.
    File,
    /// The last good copy of a bad file.
    Copy,
    /// The directories that the file still names, and defaults. These require no signatures although the file may have
    /// required some, so there must be neither exchanges nor jobs. With the reason.
    Defaults(Error),
}

/// The configuration that a daemon with this file uses, with what is wrong in the file. In place of a bad file it is the last
/// good copy, which is looked for in the state_dir that the file still names. A missing default file is an error only when
/// it once required signatures.
pub fn config_in_use(path: &Path) -> (Loaded, Basis) {
    let loaded = read_config(path);
    let store = Store::of(&loaded.config);
    in_use(path, loaded, &store)
}

fn in_use(path: &Path, mut loaded: Loaded, store: &Store) -> (Loaded, Basis) {
    let file = match (&loaded.text, loaded.problems.is_empty()) {
        (Some(_), true) => return (loaded, Basis::File),
        (None, true) => basis::File::Missing,
        (_, false) => basis::File::Bad,
    };
    let copy = read_copy(path, store);
    let facts = match &copy {
        Ok(None) => basis::Copy::Missing,
        Ok(Some((_, problems))) if !problems.is_empty() => basis::Copy::Damaged,
        Ok(Some((config, _))) => basis::Copy::Good(config.guards()),
        Err(_) => basis::Copy::Unreadable,
    };
    let guards = match store.guards() {
        Ok(None) => basis::Guards::Missing,
        Ok(Some(words)) => basis::Guards::Recorded(String::from_utf8(words).unwrap_or_default()),
        Err(_) => basis::Guards::Unreadable,
    };
    let choice = basis::choose(file, &facts, &guards);
    if file == basis::File::Missing && choice != Choice::File {
        let text =
            "there is no such file any more, and the last one may have asked for signatures: put it back, or write \
                    {} into it if none are to be asked for";
        loaded.problems.push(ConfigError::new(&path.to_string_lossy(), text));
    }
    let why = match (choice, copy) {
        (Choice::File, _) => return (loaded, Basis::File),
        (Choice::Copy, Ok(Some((config, _)))) => {
            loaded.config = Box::new(config);
            return (loaded, Basis::Copy);
        }
        (Choice::Defaults(Cause::DamagedCopy), _) => "the last good copy of it is damaged".into(),
        (Choice::Defaults(Cause::WeakerCopy), _) => {
            "the last good copy of it does not ask for all the signatures that were asked for".into()
        }
        (_, Err(error)) => format_error!("the last good copy of it cannot be read: {}", reason(&error)),
        (_, Ok(_)) => format_error!("there is no good copy of it in state_dir \"{}\"", loaded.config.state_dir),
    };
    loaded.config = Box::new(loaded.config.only_directories());
    (loaded, Basis::Defaults(why))
}

/// The last good copy of this configuration file, with what is wrong in it; `None` where there is none, or it is of another
/// file.
fn read_copy(path: &Path, store: &Store) -> io::Result<Option<(Config, Vec<ConfigError>)>> {
    let of_another = store.copied()?.is_some_and(|copied| *copied != *copy_of(path));
    let text = if of_another { None } else { store.kept(GOOD)? };
    Ok(text.map(|text| config::read_config(GOOD, &text)))
}

/// How `Store::copied` names this configuration file: by its absolute path.
pub fn copy_of(path: &Path) -> Vec<u8> {
    std::path::absolute(path).unwrap_or_else(|_| path.into()).into_os_string().into_encoded_bytes()
}

/// The message that a daemon runs with `Basis::Defaults`, and why.
pub fn closed(path: &Path, why: &str) -> String {
    format!(
        "{} is bad, and {why}: agents are kept running, but there are no exchanges with servers and no jobs, as they might \
         have to be signed; fix the file, then send SIGHUP",
        path.display()
    )
}

/// The configuration by which a command finds the daemon that uses this file.
///
/// # Errors
/// What is wrong with a file that gives neither `state_dir` nor `run_dir`: another daemon may use the default directories.
/// They are used only where the file is the default one and a daemon or a good copy is there.
pub fn config_of_daemon(path: &Path) -> Result<Loaded, Vec<ConfigError>> {
    let read = read_config(path);
    // A text with wrong values, but without a syntax error, names the directories, or means the default ones.
    let is_parsed = read.text.is_some() && read.problems.iter().all(|problem| problem.place.is_none());
    let default = Config::default();
    let names_one = read.config.state_dir != default.state_dir || read.config.run_dir != default.run_dir;
    let is_certain = read.problems.is_empty() || is_parsed || names_one;
    let (loaded, basis) = config_in_use(path);
    let is_there = || basis == Basis::Copy || Path::new(&*default.run_dir).join(SOCKET).exists();
    if is_certain || path == Path::new(CONFIG) && is_there() {
        Ok(loaded)
    } else {
        Err(read.problems)
    }
}

/// Reads the whole configuration, for callers that use no last good copies.
pub fn read_configuration(path: &Path) -> Configuration {
    let Loaded { config, text, mut problems } = read_config(path);
    let has_file = text.is_some() || !problems.is_empty();
    let mut agents = read_agents(&config.agents_dir);
    problems.append(&mut agents.problems);
    Configuration { config, has_file, agents, problems }
}

/// The agents that the files of `agents_dir` define, for callers that use no last good copies; none where the directory is
/// missing.
pub fn read_agents(directory: &str) -> Agents {
    match read_directory(Path::new(directory)) {
        Ok(sources) => config::read_agents(directory, &mut sources.unwrap_or_default()),
        Err(message) => Agents { problems: vec![ConfigError::new(directory, &message)], ..Agents::default() },
    }
}

/// Whether `agents_dir`, in which nothing is wrong, is as the daemon last read it. The daemon keeps a copy of each file.
pub fn is_as_read(config: &Config) -> bool {
    let store = Store::of(config);
    let Ok(Some(sources)) = read_directory(Path::new(&*config.agents_dir)) else { return true };
    let same = |source: &Source| source.text.as_ref().ok() == store.good(&format!("agents.d/{}", source.file)).as_ref();
    sources.len() == store.good_definitions().len() && sources.iter().all(same)
}

/// What has changed in the configuration at `path` since the daemon last read it; `None`: nothing, or something is wrong with
/// it. The daemon keeps a copy of the file.
pub fn change_since_read(path: &Path) -> Option<Change> {
    let loaded = read_config(path);
    let store = Store::of(&loaded.config);
    let Ok(Some((mut before, problems))) = read_copy(path, &store) else { return None };
    if !problems.is_empty() || !loaded.problems.is_empty() {
        return None;
    }
    before.take_over(&loaded.config)
}

/// The files `*.json` of a directory, each with its text or with what is wrong with the file; `None` when there is no
/// directory.
///
/// # Errors
/// When the directory cannot be read, or another user could write in it.
pub fn read_directory(directory: &Path) -> Result<Option<Vec<Source>>, SourceError> {
    let Some(directory) = resolve(directory, ROOT)? else { return Ok(None) };
    let entries = match fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unread_directory(error)),
    };
    check_directory(&directory, Place::Listed, ROOT)?;
    let mut sources = Vec::new();
    for entry in entries {
        let entry = entry.map_err(unread_directory)?;
        let name = entry.file_name();
        let file = name.to_string_lossy();
        if !file.ends_with(".json") || file.starts_with('.') {
            continue;
        }
        // The directory has been checked, so only the file and the target of a link need be. A file that has been removed
        // since counts as never there.
        let is_link = entry.file_type().map_err(unread_directory)?.is_symlink();
        let text = if is_link { read_file(&entry.path()) } else { read_checked(&entry.path(), false, ROOT) };
        if let Some(text) = text.transpose() {
            sources.push(Source { file: file.into(), text, good: None });
        }
    }
    Ok(Some(sources))
}

/// The text of a configuration file; `None` when there is none.
///
/// # Errors
/// When it cannot be read, or another user could have written it.
pub fn read_file(path: &Path) -> Result<Option<Vec<u8>>, SourceError> {
    read(path, false, ROOT)
}

/// The content of a file of environment variables, which may also be in the hands of the agent's `user`; `None` when there
/// is none.
///
/// # Errors
/// When it cannot be read, or another user than root and `user` could have written it.
pub fn read_env_file(path: &Path, user: Uid) -> Result<Option<Vec<u8>>, Error> {
    read(path, false, user).map_err(|error| error.to_string().into())
}

/// The content of a file with a secret, which must be closed to other users.
///
/// # Errors
/// When it does not exist, cannot be read, or others can read or write it.
pub fn read_key(path: &Path) -> Result<Vec<u8>, Error> {
    Ok(read(path, true, ROOT)?.ok_or(MISSING)?)
}

/// Checks the directories on the path to a file and then the file, from the top, so that nobody can change what has been
/// checked already, and reads it.
fn read(path: &Path, secret: bool, also: Uid) -> Result<Option<Vec<u8>>, SourceError> {
    let text = match resolve(path, also)? {
        Some(real) => {
            check_directory(real.parent().unwrap_or(Path::new("/")), Place::Near, also)?;
            read_checked(&real, secret, also)?
        }
        None => None,
    };
    // A link to nothing is an error: its target may be on a file system that is not mounted at the moment.
    if text.is_none() && path.is_symlink() {
        return Err(unread(io::Error::from_raw_os_error(libc::ENOENT)));
    }
    Ok(text)
}

/// Checks and reads a file on a path that has been checked. `secret`: only where others cannot read it.
fn read_checked(path: &Path, secret: bool, also: Uid) -> Result<Option<Vec<u8>>, SourceError> {
    // No link is left on a path that was checked. Without O_NONBLOCK a FIFO in place of the file would block the daemon.
    let follow = if as_root() { libc::O_NOFOLLOW } else { 0 };
    let mut file = match OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | follow).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unread(error)),
    };
    let metadata = file.metadata().map_err(unread)?;
    if !metadata.is_file() {
        return Err(refused("not a regular file"));
    }
    if as_root() {
        let acl = attribute_of(&file, ACL).map_err(|error| unread_part(" its access control list", error))?;
        let mut access = access_of(&metadata, acl.as_deref(), None);
        // Where the agent's user can make links, a second name could be one of a file that is not for it to read.
        if also.0 != 0 && access.uid == 0 && metadata.nlink() > 1 {
            return Err(refused("refused: it has more than one name"));
        }
        if access.uid == also.0 {
            access.uid = 0;
        }
        if let Some(writer) = access::writer(&access, Place::File) {
            let (why, cure) = (writer.why, writer.cure);
            return Err(refused(format_error!("refused: {why}; type {cure} \"{}\"", path.display())));
        }
    }
    let bits = metadata.mode() & 0o7777;
    if secret && bits & 0o077 != 0 {
        let shown = path.display();
        return Err(refused(format_error!("refused: others may use it (mode {bits:04o}); type chmod 600 \"{shown}\"")));
    }
    let mut text = Vec::new();
    read_up_to(MAX_FILE + 1, &mut text, &mut |to| file.read(to)).map_err(unread)?;
    if text.len() as u64 > MAX_FILE {
        return Err(refused("larger than 1 MiB"));
    }
    Ok(Some(text))
}

impl From<Blocked> for SourceError {
    fn from(blocked: Blocked) -> SourceError {
        match blocked.writer {
            Some(_) => SourceError::Refused(format_error!("refused: {}", blocked.why)),
            None => SourceError::Unreadable(blocked.why),
        }
    }
}

/// The warnings for the daemon's own directories that other users can write in. Nothing is refused for that, as the agents
/// must run all the same.
pub fn shared_directories(config: &Config) -> Vec<String> {
    let mut messages = Vec::new();
    let records: &[&str] = &["agents", "jobs", "good", "good/agents.d", "packages"];
    for (key, dir, inside) in [
        ("state_dir", &config.state_dir, records),
        ("run_dir", &config.run_dir, &["agents"]),
        ("log_dir", &config.log_dir, &[]),
    ] {
        if let Err(Blocked { why, writer: Some(_) }) = check_own(key, Path::new(&**dir), inside) {
            messages.push(format!("{key}: {why}; until then others can change what the daemon keeps there"));
        }
    }
    messages
}

/// Checks a directory of the daemon's own and the directories in it, as far as they exist.
fn check_own(key: &str, path: &Path, inside: &[&str]) -> Result<(), Blocked> {
    let real = match resolve(path, ROOT) {
        Ok(Some(real)) => real,
        // On some distributions the group of the log daemon may write in /var/log.
        Err(Blocked { writer: Some(true), .. }) if key == "log_dir" => path.into(),
        other => return other.map(drop),
    };
    let inside = inside.iter().map(|name| real.join(name));
    for directory in inside.chain([real.clone()]).filter(|directory| directory.is_dir()) {
        check_directory(&directory, Place::Listed, ROOT)?;
    }
    Ok(())
}

/// The warning for a `helper_user` that is root; `None` where it is not, or the daemon does not run as root.
pub fn root_helper(helper: Option<&str>) -> Option<String> {
    let user = account::user_by_name(helper?).ok()??;
    (user.uid.0 == 0 && as_root()).then(|| {
        let name = user.name;
        format!("helper_user: \"{name}\" is root, and what reads from the network could do anything: want one without rights")
    })
}

fn refused(why: impl Into<Error>) -> SourceError {
    SourceError::Refused(why.into())
}

fn unread(error: io::Error) -> SourceError {
    unread_part("", error)
}

fn unread_directory(error: io::Error) -> SourceError {
    unread_part(" the directory", error)
}

fn unread_part(what: &str, error: io::Error) -> SourceError {
    SourceError::Unreadable(format_error!("cannot read{what}: {}", reason(&error)))
}

#[cfg(test)]
mod tests;
