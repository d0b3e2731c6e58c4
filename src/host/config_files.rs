//! The configuration files of the host: `bootagent.json` and the files of `agents.d`, checked and read.
//!
//! Their text goes to `wire::config`, which checks it; the checks here are about the files themselves. Run by root, a file
//! that another user could have written is not read, as the author of an agent's definition can do what root can. The last
//! good copies of definitions are not looked up here: the caller fills in `Source::good` before it has the sources parsed.

use std::ffi::{CStr, OsString};
use std::fs::{self, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use crate::error::Error;
use crate::host::disk::reason;
use crate::host::store::Store;
use crate::model::access::{self, Access, Place, Writer};
use crate::sys::account;
use crate::sys::file::{attribute, attribute_of, read_text, read_up_to};
use crate::wire::config::{self, Agents, Config, ConfigError, Source, SourceError};
use crate::wire::control::SOCKET;

/// The path of the configuration without `-c`. Only there it may be missing.
pub const CONFIG: &str = "/etc/bootagent/bootagent.json";

/// The largest configuration file that is read, bytes.
const MAX_FILE: u64 = 1 << 20;

/// How many symbolic links are followed on the way to a file, as many as the kernel does.
const LINKS_MAX: usize = 40;

/// The access control list of a file or directory, acl(5).
const ACL: &CStr = c"system.posix_acl_access";

/// The access control list that new files in a directory get.
const DEFAULT_ACL: &CStr = c"system.posix_acl_default";

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
    let named = path != Path::new(CONFIG);
    match read_file(path).and_then(|text| if named { text.ok_or_else(|| refused(MISSING)).map(Some) } else { Ok(text) })
    {
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
    let store = Store::new(Path::new(&*loaded.config.state_dir), Path::new(&*loaded.config.run_dir));
    in_use(path, loaded, &store)
}

fn in_use(path: &Path, mut loaded: Loaded, store: &Store) -> (Loaded, Basis) {
    let gone = loaded.text.is_none() && loaded.problems.is_empty();
    if loaded.problems.is_empty() && !gone {
        return (loaded, Basis::File);
    }
    let foreign = store.copied().map(|copied| copied.is_some_and(|copied| *copied != *copy_of(path)));
    let copy = match foreign {
        Ok(false) => store.kept(GOOD).map(|text| text.map(|text| config::read_config(GOOD, &text))),
        Ok(true) => Ok(None),
        Err(error) => Err(error),
    };
    let required = required(store, &copy);
    if gone && required.is_empty() {
        return (loaded, Basis::File);
    }
    if gone {
        let text =
            "there is no such file any more, and the last one may have asked for signatures: put it back, or write \
                    {} into it if none are to be asked for";
        loaded.problems.push(ConfigError::new(&path.to_string_lossy(), text));
    }
    let why = match copy {
        Ok(Some((_, problems))) if !problems.is_empty() => "the last good copy of it is damaged".into(),
        Ok(Some((config, _))) if config.asks_for(&required) => {
            loaded.config = Box::new(config);
            return (loaded, Basis::Copy);
        }
        Ok(Some(_)) => "the last good copy of it does not ask for all the signatures that were asked for".into(),
        Ok(None) => format_error!("there is no good copy of it in state_dir \"{}\"", loaded.config.state_dir),
        Err(error) => format_error!("the last good copy of it cannot be read: {}", reason(&error)),
    };
    loaded.config = Box::new(loaded.config.only_directories());
    (loaded, Basis::Defaults(why))
}

/// How `Store::copied` names this configuration file: by its absolute path.
pub fn copy_of(path: &Path) -> Vec<u8> {
    std::path::absolute(path).unwrap_or_else(|_| path.into()).into_os_string().into_encoded_bytes()
}

/// The last good copy of the configuration, with what is wrong in it.
type Copy = io::Result<Option<(Config, Vec<ConfigError>)>>;

/// Which signatures the configuration last required, in the words of `Config::guards`; another word where that is not known.
fn required(store: &Store, copy: &Copy) -> String {
    match (store.guards(), copy) {
        (Ok(Some(guards)), _) => match String::from_utf8(guards) {
            Ok(guards) if !guards.trim().is_empty() => guards,
            // There is such a record, so something was required.
            _ => "anything".to_string(),
        },
        // Version 1.0 kept no such record, only the copy.
        (Ok(None), Ok(Some((config, problems)))) if problems.is_empty() => config.guards(),
        (Ok(None), Ok(None)) => String::new(),
        (Ok(None) | Err(_), _) => "anything".to_string(),
    }
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
    let whole = read.text.is_some() && read.problems.iter().all(|problem| problem.place.is_none());
    let usual = Config::default();
    let named = read.config.state_dir != usual.state_dir || read.config.run_dir != usual.run_dir;
    let sure = read.problems.is_empty() || whole || named;
    let (loaded, source) = config_in_use(path);
    let is_copy = source == Basis::Copy;
    let is_there = || Path::new(&*usual.run_dir).join(SOCKET).exists();
    if sure || path == Path::new(CONFIG) && (is_copy || is_there()) {
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
        Ok(sources) => config::read_agents(directory, sources.unwrap_or_default()),
        Err(message) => Agents { problems: vec![ConfigError::new(directory, &message)], ..Agents::default() },
    }
}

/// Whether `agents_dir`, in which nothing is wrong, is as the daemon last read it. The daemon keeps a copy of each file.
pub fn is_as_read(config: &Config) -> bool {
    let store = Store::new(Path::new(&*config.state_dir), Path::new(&*config.run_dir));
    let Ok(Some(sources)) = read_directory(Path::new(&*config.agents_dir)) else { return true };
    let same = |source: &Source| source.text.as_ref().ok() == store.good(&format!("agents.d/{}", source.file)).as_ref();
    sources.len() == store.good_definitions().len() && sources.iter().all(same)
}

/// The files `*.json` of a directory, each with its text or with what is wrong with the file; `None` when there is no
/// directory.
///
/// # Errors
/// When the directory cannot be read, or another user could write in it.
pub fn read_directory(directory: &Path) -> Result<Option<Vec<Source>>, SourceError> {
    let Some(directory) = resolve(directory)? else { return Ok(None) };
    let entries = match fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unread_directory(error)),
    };
    check_directory(&directory, Place::Listed)?;
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
        let text = if is_link { read_file(&entry.path()) } else { read_checked(&entry.path(), false) };
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
    read(path, false)
}

/// The content of a file with a secret, which must be closed to other users.
///
/// # Errors
/// When it does not exist, cannot be read, or others can read or write it.
pub fn read_key(path: &Path) -> Result<Vec<u8>, Error> {
    Ok(read(path, true)?.ok_or(MISSING)?)
}

/// Checks the directories on the path to a file and then the file, from the top, so that nobody can change what has been
/// checked already, and reads it.
fn read(path: &Path, secret: bool) -> Result<Option<Vec<u8>>, SourceError> {
    let text = match resolve(path)? {
        Some(real) => {
            check_directory(real.parent().unwrap_or(Path::new("/")), Place::Near)?;
            read_checked(&real, secret)?
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
fn read_checked(path: &Path, secret: bool) -> Result<Option<Vec<u8>>, SourceError> {
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
        let acl = attribute_of(&file, ACL).map_err(unread_list)?;
        if let Some(writer) = access::writer(&access(&metadata, acl.as_deref(), None), Place::File) {
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

/// Why a path must not or cannot be used.
struct Blocked {
    why: Error,
    /// Where another user can write on it: whether that is only by the group of a directory.
    writer: Option<bool>,
}

impl From<Blocked> for SourceError {
    fn from(blocked: Blocked) -> SourceError {
        match blocked.writer {
            Some(_) => SourceError::Refused(format_error!("refused: {}", blocked.why)),
            None => SourceError::Unreadable(blocked.why),
        }
    }
}

impl Blocked {
    #[inline(never)]
    fn unread(error: io::Error) -> Blocked {
        Blocked { why: unread(error).into(), writer: None }
    }
}

/// The path without symbolic links; `None` where it leads to nothing. Run by root, every directory on it is checked before
/// anything in it is looked at, also those that links lead through: a user who can write in one of them can replace the
/// rest of the path. Not run by root, the path itself, unchecked.
fn resolve(path: &Path) -> Result<Option<PathBuf>, Blocked> {
    if !as_root() {
        return Ok(Some(path.into()));
    }
    let mut ahead = Vec::new();
    prepend(&mut ahead, path);
    if path.is_relative() {
        prepend(&mut ahead, &std::env::current_dir().map_err(Blocked::unread)?);
    }
    let mut done = PathBuf::from("/");
    check_directory(&done, Place::Above)?;
    let mut links = 0;
    while let Some(name) = ahead.pop() {
        if name == ".." {
            done.pop();
            continue;
        }
        let next = done.join(&name);
        let metadata = match fs::symlink_metadata(&next) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Blocked::unread(error)),
        };
        if metadata.is_symlink() {
            check_link(&done, &next, metadata.uid())?;
            links += 1;
            let target = match fs::read_link(&next) {
                Ok(target) if links <= LINKS_MAX => target,
                Ok(_) => return Err(Blocked::unread(io::Error::from_raw_os_error(libc::ELOOP))),
                Err(error) => return Err(Blocked::unread(error)),
            };
            if target.is_absolute() {
                done = PathBuf::from("/");
            }
            prepend(&mut ahead, &target);
        } else if metadata.is_dir() {
            check_directory(&next, Place::Above)?;
            done = next;
        } else if ahead.is_empty() {
            return Ok(Some(next));
        } else {
            return Err(Blocked::unread(io::Error::from_raw_os_error(libc::ENOTDIR)));
        }
    }
    Ok(Some(done))
}

/// Puts the names of a path before those that are still ahead. They are in reverse order, the next one last.
fn prepend(ahead: &mut Vec<OsString>, path: &Path) {
    for part in path.components().rev() {
        match part {
            Component::Normal(name) => ahead.push(name.into()),
            Component::ParentDir => ahead.push("..".into()),
            _ => {}
        }
    }
}

/// Checks a link. In a directory where other users may make files, such as /tmp, it must belong to root.
fn check_link(directory: &Path, link: &Path, uid: u32) -> Result<(), Blocked> {
    let shared = fs::symlink_metadata(directory).map_err(Blocked::unread)?.mode() & 0o1000 != 0;
    if uid == 0 || !shared {
        return Ok(());
    }
    let link = link.display();
    let why = format_error!("the link \"{link}\" belongs to user {uid}; type chown -h root \"{link}\"");
    Err(Blocked { why, writer: Some(false) })
}

/// Checks a directory; not run by root, every directory is good.
fn check_directory(directory: &Path, place: Place) -> Result<(), Blocked> {
    let blocked = |why, writer| Err(Blocked { why, writer });
    let shown = directory.display();
    if !as_root() {
        return Ok(());
    }
    let look = || -> io::Result<_> {
        let metadata = fs::symlink_metadata(directory)?;
        let default_acl = if place == Place::Above { None } else { attribute(directory, DEFAULT_ACL)? };
        Ok((metadata, attribute(directory, ACL)?, default_acl))
    };
    let (metadata, acl, default_acl) = match look() {
        Ok(found) => found,
        Err(error) => {
            return blocked(format_error!("cannot look at the directory \"{shown}\": {}", reason(&error)), None)
        }
    };
    let mut access = access(&metadata, acl.as_deref(), default_acl.as_deref());
    if place == Place::Above && is_from_outside(access.uid) {
        access.uid = 0;
    }
    match access::writer(&access, place) {
        Some(Writer { why, cure, by_group }) => {
            blocked(format_error!("the directory \"{shown}\": {why}; type {cure} \"{shown}\""), Some(by_group))
        }
        None => Ok(()),
    }
}

/// Whether a user is not in this user namespace. In a container that root did not start, the upper directories may be those
/// of the host, and the kernel does not say who owns them.
fn is_from_outside(uid: u32) -> bool {
    let text = |path: &str| read_text(Path::new(path)).unwrap_or_default();
    uid != 0
        && text("/proc/sys/kernel/overflowuid").trim().parse() == Ok(uid)
        && !access::is_mapped(&text("/proc/self/uid_map"), uid)
}

fn access<'a>(metadata: &Metadata, acl: Option<&'a [u8]>, default_acl: Option<&'a [u8]>) -> Access<'a> {
    Access { mode: metadata.mode(), uid: metadata.uid(), gid: metadata.gid(), acl, default_acl }
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
    let real = match resolve(path) {
        Ok(Some(real)) => real,
        // On some distributions the group of the log daemon may write in /var/log.
        Err(Blocked { writer: Some(true), .. }) if key == "log_dir" => path.into(),
        other => return other.map(drop),
    };
    let inside = inside.iter().map(|name| real.join(name));
    for directory in inside.chain([real.clone()]).filter(|directory| directory.is_dir()) {
        check_directory(&directory, Place::Listed)?;
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

fn as_root() -> bool {
    account::own_uid().0 == 0
}

fn refused(why: impl Into<Error>) -> SourceError {
    SourceError::Refused(why.into())
}

#[inline(never)]
fn unread(error: io::Error) -> SourceError {
    SourceError::Unreadable(format_error!("cannot read: {}", reason(&error)))
}

#[inline(never)]
fn unread_list(error: io::Error) -> SourceError {
    SourceError::Unreadable(format_error!("cannot read its access control list: {}", reason(&error)))
}

#[inline(never)]
fn unread_directory(error: io::Error) -> SourceError {
    SourceError::Unreadable(format_error!("cannot read the directory: {}", reason(&error)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{chown, lchown, symlink, PermissionsExt};

    use super::*;

    /// A directory of its own for one test, gone when it ends.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Scratch {
            let path = std::env::temp_dir().join(format!("bootagent-files-{name}-{}", std::process::id()));
            fs::create_dir_all(path.join("agents.d")).unwrap();
            for directory in [path.clone(), path.join("agents.d")] {
                fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).unwrap();
            }
            Scratch(path)
        }

        fn write(&self, file: &str, text: &str, mode: u32) -> PathBuf {
            let path = self.0.join(file);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            path
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn what_is_no_regular_file_is_refused() {
        let scratch = Scratch::new("kinds");
        assert_eq!(read_file(&scratch.0.join("absent.json")), Ok(None));
        assert_eq!(read_file(&scratch.0.join("agents.d")), Err(refused("not a regular file")));
        let fifo = scratch.0.join("fifo.json");
        assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        assert_eq!(read_file(&fifo), Err(refused("not a regular file")));
        let large = scratch.write("large.json", &" ".repeat(MAX_FILE as usize + 1), 0o644);
        assert_eq!(read_file(&large), Err(refused("larger than 1 MiB")));
        let file = scratch.write("x.json", "{}", 0o644);
        assert_eq!(read_file(&file), Ok(Some(b"{}".to_vec())));
        assert!(read_file(&file.join("y")).is_err_and(|message| &*message == "cannot read: Not a directory"));
    }

    #[test]
    fn a_directory_gives_its_definitions_only() {
        let scratch = Scratch::new("directory");
        scratch.write("agents.d/b.json", "b", 0o644);
        scratch.write("agents.d/a.json", "a", 0o644);
        scratch.write("agents.d/.hidden.json", "", 0o644);
        scratch.write("agents.d/c.json~", "", 0o644);
        let sources = read_directory(&scratch.0.join("agents.d")).unwrap().unwrap();
        let mut files: Vec<&str> = sources.iter().map(|source| &*source.file).collect();
        files.sort_unstable();
        assert_eq!(files, ["a.json", "b.json"]);
        assert!(read_directory(&scratch.0.join("absent")).unwrap().is_none());
        assert!(read_directory(&scratch.0.join("agents.d/a.json")).is_err());
    }

    #[test]
    fn everything_is_read_and_every_problem_kept() {
        let scratch = Scratch::new("all");
        let agents_dir = scratch.0.join("agents.d");
        let path = scratch.write("bootagent.json", &format!("{{\"agents_dir\": {agents_dir:?}}}"), 0o644);
        scratch.write("agents.d/good.json", r#"{"name":"good","version":"1","exec":["/bin/true"]}"#, 0o644);
        scratch.write("agents.d/bad.json", "{", 0o644);
        let read = read_configuration(&path);
        assert!(read.has_file);
        assert_eq!(read.agents.agents.len(), 1);
        assert_eq!(read.problems.len(), 1);
        assert!(read.problems[0].to_string().contains("agents.d/bad.json:1:2: "), "{}", read.problems[0]);
        fs::remove_file(&path).unwrap();
        let read = read_configuration(&path);
        assert_eq!(*read.config, Config::default());
        assert_eq!(read.problems, [ConfigError::new(&path.to_string_lossy(), MISSING)]);
    }

    #[test]
    fn without_the_required_signatures_there_are_only_defaults() {
        let key = format!("\"RW{}\"", "A".repeat(54));
        let both = format!("{{\"key_file\": \"/k\", \"trusted_keys\": [{key}]}}");
        let one = "{\"key_file\": \"/k\"}".to_string();
        let (none, bad) = ("{}".to_string(), Some("{\"stepp\": 1}"));
        // The file, the good copy, the record of required signatures, and what is in use.
        for (file, copy, guards, want) in [
            (Some("{}"), Some("damaged"), Some("key_file"), "file"),
            (None, None, None, "file"),
            (None, Some(&*none), None, "file"),
            (None, Some(&*both), Some("key_file trusted_keys"), "copy"),
            (None, Some(&*both), None, "copy"),
            (None, Some(&*none), Some("key_file"), "does not ask for all"),
            (None, None, Some("key_file"), "no good copy"),
            (None, None, Some(""), "no good copy"),
            (None, Some("{"), None, "is damaged"),
            (bad, None, None, "no good copy"),
            (bad, Some(&*none), None, "copy"),
            (bad, Some(&*one), Some("key_file"), "copy"),
            (bad, Some(&*one), Some("key_file trusted_keys"), "does not ask for all"),
            (bad, Some(&*both), Some("trusted_keys"), "copy"),
            (bad, Some(&*both), Some("\u{0}\u{0}"), "does not ask for all"),
            (bad, Some(&both[..both.len() - 1]), Some("key_file trusted_keys"), "is damaged"),
            (bad, Some(""), None, "is damaged"),
            (Some(""), None, None, "no good copy"),
            (Some("{\"key_file\": 5}"), Some(&*none), Some("key_file"), "does not ask for all"),
            (Some("{\"trusted_keys\": \"RW\"}"), None, None, "no good copy"),
            (Some("{\"trusted_keys\": [1]}"), None, None, "no good copy"),
            (Some("{\"key_file\": \"/k\", \"key_file\": null}"), None, None, "no good copy"),
        ] {
            let scratch = Scratch::new("closed");
            let store = Store::open(&scratch.0.join("state"), &scratch.0.join("run")).unwrap();
            copy.into_iter().for_each(|text| store.keep_good(GOOD, text.as_bytes()).unwrap());
            guards.into_iter().for_each(|guards| fs::write(scratch.0.join("state/guards"), guards).unwrap());
            let loaded = match file {
                None => Loaded { config: Box::default(), text: None, problems: Vec::new() },
                Some(text) => {
                    let (config, problems) = config::read_config("x.json", text.as_bytes());
                    Loaded { config: Box::new(config), text: Some(text.into()), problems }
                }
            };
            let (loaded, source) = in_use(Path::new("x.json"), loaded, &store);
            let got = match &source {
                Basis::File => "file",
                Basis::Copy => "copy",
                Basis::Defaults(why) => why,
            };
            assert!(got.contains(want), "{file:?} {copy:?} {guards:?}: want {want}, got {got}");
            assert_eq!(loaded.problems.is_empty(), source == Basis::File, "{file:?} {copy:?} {guards:?}");
            let asks = !loaded.config.guards().is_empty();
            assert!(!(asks && matches!(source, Basis::Defaults(_))));
        }
        // The copy of another file says nothing about this one.
        for (copied, want) in [("/elsewhere/x.json", false), ("/etc/x.json", true)] {
            let scratch = Scratch::new("other");
            let store = Store::open(&scratch.0.join("state"), &scratch.0.join("run")).unwrap();
            store.write_copied(copied.as_bytes(), GOOD).unwrap();
            store.keep_good(GOOD, b"{}").unwrap();
            let (config, problems) = config::read_config("x.json", b"{");
            let loaded = Loaded { config: Box::new(config), text: Some(b"{".into()), problems };
            assert_eq!(in_use(Path::new("/etc/x.json"), loaded, &store).1 == Basis::Copy, want, "{copied}");
            // The copy of another file is not reported as that of this one.
            store.write_copied(b"/etc/x.json", GOOD).unwrap();
            assert_eq!(store.good(GOOD).is_some(), want, "{copied}");
        }
        // A record that cannot be read may require anything.
        let scratch = Scratch::new("unread");
        let store = Store::open(&scratch.0.join("state"), &scratch.0.join("run")).unwrap();
        fs::create_dir(scratch.0.join("state/guards")).unwrap();
        let loaded = Loaded { config: Box::default(), text: None, problems: Vec::new() };
        assert!(matches!(in_use(Path::new("x.json"), loaded, &store).1, Basis::Defaults(_)));
    }

    #[test]
    fn a_key_is_for_its_owner_only() {
        let scratch = Scratch::new("key");
        for (mode, want) in [(0o600, true), (0o400, true), (0o640, false), (0o604, false), (0o644, false)] {
            let path = scratch.write("key", "sixteen bytes...", mode);
            assert_eq!(read_key(&path).is_ok(), want, "{mode:o}");
            fs::remove_file(&path).unwrap();
        }
        assert_eq!(read_key(&scratch.0.join("key")), Err("there is no such file".into()));
    }

    #[test]
    fn root_reads_nothing_that_others_can_write() {
        if !as_root() {
            crate::skip::skipped("root");
            return;
        }
        let scratch = Scratch::new("open");
        let file = scratch.write("x.json", "{}", 0o666);
        let message = read_file(&file).unwrap_err();
        let cure = format!("; type chmod o-w \"{}\"", file.display());
        assert_eq!(&*message, format!("refused: others can write it (mode 0666){cure}"));
        let file = scratch.write("x.json", "{}", 0o644);
        fs::set_permissions(&scratch.0, fs::Permissions::from_mode(0o777)).unwrap();
        for message in [read_file(&file).unwrap_err(), read_directory(&scratch.0.join("agents.d")).unwrap_err()] {
            assert!(message.contains("directory") && message.contains("mode 0777"), "{message}");
        }
        fs::set_permissions(&scratch.0, fs::Permissions::from_mode(0o1777)).unwrap();
        assert!(read_file(&file).is_ok());
    }

    #[test]
    fn a_path_that_others_can_write_on_is_refused() {
        if !as_root() {
            crate::skip::skipped("root");
            return;
        }
        let scratch = Scratch::new("way");
        let file = scratch.write("x.json", "{}", 0o644);
        let [users, shared] = ["users", "shared"].map(|name| scratch.0.join(name));
        for directory in [&users, &users.join("below"), &shared] {
            fs::create_dir(directory).unwrap();
        }
        fs::write(users.join("below/y.json"), "{}").unwrap();
        chown(&users, Some(1), None).unwrap();
        fs::set_permissions(&shared, fs::Permissions::from_mode(0o1777)).unwrap();
        let link = |name: &str, target: &Path, owner| {
            let link = scratch.0.join(name);
            symlink(target, &link).unwrap();
            lchown(&link, Some(owner), None).unwrap();
            link
        };
        let users_text = users.display().to_string();
        let belongs =
            format!("refused: the directory \"{users_text}\": it belongs to user 1; type chown root \"{users_text}\"");
        let chain = link("2", &link("1", Path::new("users/below"), 0), 0);
        for (path, want) in [
            (users.join("below/y.json"), Some(&*belongs)),
            (link("to-file.json", &users.join("below/y.json"), 0), Some(&*belongs)),
            (link("to-directory", &users.join("below"), 0).join("y.json"), Some(&*belongs)),
            (chain.join("y.json"), Some(&*belongs)),
            (chain.join("../../x.json"), Some(&*belongs)),
            (link("fine.json", &file, 0), None),
            (link("fine-too.json", Path::new("./users/../x.json"), 0), Some(&*belongs)),
            (link("theirs-in-ours.json", &file, 1), None),
            (link("shared/planted.json", &file, 1), Some("planted.json\" belongs to user 1; type chown -h root")),
            (link("shared/ours.json", &file, 0), None),
            (
                link("loop.json", &scratch.0.join("loop.json"), 0),
                Some("cannot read: Too many levels of symbolic links"),
            ),
            (link("dangling.json", &scratch.0.join("none"), 0), Some("cannot read: No such file")),
            (scratch.0.join("x.json/below"), Some("cannot read: Not a directory")),
        ] {
            let got = read_file(&path);
            match (&got, want) {
                (Ok(Some(_)), None) => {}
                (Err(got), Some(want)) if got.contains(want) => {}
                _ => panic!("{}: got {got:?}, want {want:?}", path.display()),
            }
        }
        // A user who can make files in the directory of definitions decides what runs.
        assert!(read_directory(&shared).is_err_and(|message| message.contains("others can write it (mode 1777)")));
        link("agents.d/a.json", &users.join("below/y.json"), 0);
        link("agents.d/b.json", &file, 0);
        let sources = read_directory(&scratch.0.join("agents.d")).unwrap().unwrap();
        for source in sources {
            assert_eq!(source.text.is_ok(), &*source.file == "b.json", "{source:?}");
        }
    }

    #[test]
    fn access_control_lists_count() {
        if !as_root() {
            crate::skip::skipped("root");
            return;
        }
        let scratch = Scratch::new("lists");
        let file = scratch.write("x.json", "{}", 0o644);
        let directory = scratch.0.join("agents.d");
        // The owner, user 1, the group, the mask and the others.
        let list = "0200000001000600ffffffff020006000100000004000400ffffffff10000600ffffffff20000400ffffffff";
        let set = |name: &str, path: &Path| {
            let script = "import os, sys; os.setxattr(sys.argv[1], sys.argv[2], bytes.fromhex(sys.argv[3]))";
            let python =
                std::process::Command::new("python3").args(["-c", script]).arg(path).args([name, list]).status();
            python.is_ok_and(|status| status.success())
        };
        if !set("system.posix_acl_access", &file) {
            crate::skip::skipped("python3, and a file system with access control lists");
            return;
        }
        let message = read_file(&file).unwrap_err();
        let want = "refused: user 1 can write it, by its access control list; type setfacl -b \"";
        assert!(message.starts_with(want), "{message}");
        assert!(set("system.posix_acl_default", &directory));
        let message = read_directory(&directory).unwrap_err();
        assert!(message.contains("user 1 could write new files in it") && message.contains("setfacl -k"), "{message}");
        assert!(set("system.posix_acl_access", &scratch.0));
        for message in
            [read_file(&scratch.write("y.json", "{}", 0o644)).unwrap_err(), read_directory(&directory).unwrap_err()]
        {
            let want = format!("refused: the directory \"{}\": user 1 can write it", scratch.0.display());
            assert!(message.starts_with(&want), "{message}");
        }
    }

    #[test]
    fn directories_of_the_daemon_that_others_can_write_are_reported() {
        if !as_root() {
            crate::skip::skipped("root");
            return;
        }
        let scratch = Scratch::new("shared");
        let [state, run, log] = ["state", "run", "log"].map(|name| scratch.0.join(name));
        let config = Config {
            state_dir: state.to_str().unwrap().into(),
            run_dir: run.to_str().unwrap().into(),
            log_dir: log.join("bootagent").to_str().unwrap().into(),
            ..Config::default()
        };
        assert_eq!(shared_directories(&config), Vec::<String>::new(), "what is not there yet is made at the start");
        for directory in [state.join("agents"), run.clone(), log.join("bootagent")] {
            fs::create_dir_all(directory).unwrap();
        }
        assert_eq!(shared_directories(&config), Vec::<String>::new());
        chown(&log, None, Some(4)).unwrap();
        fs::set_permissions(&log, fs::Permissions::from_mode(0o775)).unwrap();
        assert_eq!(shared_directories(&config), Vec::<String>::new(), "as some distributions have /var/log");
        chown(state.join("agents"), Some(1), None).unwrap();
        fs::set_permissions(&run, fs::Permissions::from_mode(0o1777)).unwrap();
        fs::set_permissions(log.join("bootagent"), fs::Permissions::from_mode(0o757)).unwrap();
        let said = shared_directories(&config);
        let want = ["state_dir: the directory", "run_dir: the directory", "log_dir: the directory"];
        assert_eq!(said.len(), 3, "{said:?}");
        for (said, want) in said.iter().zip(want) {
            assert!(said.starts_with(want), "{said}");
        }
        assert!(said[0].contains("state/agents\": it belongs to user 1; type chown root"), "{}", said[0]);
    }
}
