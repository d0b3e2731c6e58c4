//! The configuration as it lies on the host: `bootagent.json` and the files of `agents.d`, read and judged.
//!
//! Text goes to `wire::config`, which says what is wrong in it; here is what is wrong with the files themselves. Run by
//! root, a file that somebody else could have written is not read: whoever writes an agent's definition is root. What
//! was last good of a definition is for the caller to know, who fills in `Source::good` before it has the sources read.

use std::fs::{self, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use crate::host::disk::reason;
use crate::host::store::Store;
use crate::reason::Reason;
use crate::sys::account;
use crate::sys::file::read_up_to;
use crate::wire::config::{self, Agents, Config, Problem, Source};
use crate::wire::control::SOCKET;

/// Where the configuration is unless `-c` says otherwise; only there it may be missing.
pub const CONFIG: &str = "/etc/bootagent/bootagent.json";

/// The largest file that is taken for meant, bytes.
const MAX_FILE: u64 = 1 << 20;

const MISSING: &str = "there is no such file";

/// What the last good copy of the configuration file is called, `Store::good`.
pub const GOOD: &str = "bootagent.json";

/// What `read_config` found.
#[derive(Debug)]
pub struct Loaded {
    /// Good where the file is good, the default elsewhere; not to be run on when there are problems.
    pub config: Box<Config>,
    /// The file's text, when there is one that may be read.
    pub text: Option<Vec<u8>>,
    /// Everything that is wrong with the file.
    pub problems: Vec<Problem>,
}

/// What `read_configuration` found.
#[derive(Debug)]
pub struct Configuration {
    /// `bootagent.json`.
    pub config: Box<Config>,
    /// Whether there is such a file.
    pub has_file: bool,
    /// What `agents_dir` says; nothing where it is missing.
    pub agents: Agents,
    /// Everything that is wrong, in all files.
    pub problems: Vec<Problem>,
}

/// Reads the configuration file; where nobody named one, a missing one is all defaults.
pub fn read_config(path: &Path) -> Loaded {
    let label = path.to_string_lossy();
    let named = path != Path::new(CONFIG);
    match read_file(path).and_then(|text| if named { text.ok_or(MISSING.into()).map(Some) } else { Ok(text) }) {
        Ok(None) => Loaded { config: Box::default(), text: None, problems: Vec::new() },
        Ok(Some(text)) => {
            let (config, problems) = config::read_config(&label, &text);
            Loaded { config: Box::new(config), text: Some(text), problems }
        }
        Err(message) => Loaded { config: Box::default(), text: None, problems: vec![Problem::new(&label, &message)] },
    }
}

/// What a daemon with this configuration file runs on, and what is wrong with the file: in place of a bad one its last good
/// copy, which is looked for in the state_dir that the file still names, else the defaults with the directories it names.
/// Last, whether it is the copy.
pub fn config_in_use(path: &Path) -> (Loaded, bool) {
    let mut loaded = read_config(path);
    if loaded.problems.is_empty() {
        return (loaded, false);
    }
    let store = Store::new(Path::new(&*loaded.config.state_dir), Path::new(&*loaded.config.run_dir));
    match store.good(GOOD).map(|text| config::read_config(GOOD, &text)) {
        Some((config, problems)) if problems.is_empty() => {
            loaded.config = Box::new(config);
            (loaded, true)
        }
        _ => {
            loaded.config = Box::new(loaded.config.only_directories());
            (loaded, false)
        }
    }
}

/// The same for a command that looks for that daemon.
///
/// # Errors
/// What is wrong with a file that tells neither `state_dir` nor `run_dir`: in the default ones may be another daemon, unless
/// nobody named the file, and one is there.
pub fn config_of_daemon(path: &Path) -> Result<Loaded, Vec<Problem>> {
    let read = read_config(path);
    let whole = read.text.is_some() && read.problems.iter().all(|problem| problem.place.is_none());
    let usual = Config::default();
    let named = read.config.state_dir != usual.state_dir || read.config.run_dir != usual.run_dir;
    let sure = read.problems.is_empty() || whole || named;
    let (loaded, is_copy) = config_in_use(path);
    let is_there = || Path::new(&*usual.run_dir).join(SOCKET).exists();
    if sure || path == Path::new(CONFIG) && (is_copy || is_there()) {
        Ok(loaded)
    } else {
        Err(read.problems)
    }
}

/// Reads everything there is to configure, for those who know of no last good copies.
pub fn read_configuration(path: &Path) -> Configuration {
    let Loaded { config, text, mut problems } = read_config(path);
    let has_file = text.is_some() || !problems.is_empty();
    let mut agents = read_agents(&config.agents_dir);
    problems.append(&mut agents.problems);
    Configuration { config, has_file, agents, problems }
}

/// What the files of `agents_dir` say, for those who know of no last good copies; nothing where it is missing.
pub fn read_agents(directory: &str) -> Agents {
    match read_directory(Path::new(directory)) {
        Ok(sources) => config::read_agents(directory, sources.unwrap_or_default()),
        Err(message) => Agents { problems: vec![Problem::new(directory, &message)], ..Agents::default() },
    }
}

/// Whether `agents_dir`, in which nothing is wrong, is as the daemon last read it: of each file it keeps a copy.
pub fn is_as_read(config: &Config) -> bool {
    let store = Store::new(Path::new(&*config.state_dir), Path::new(&*config.run_dir));
    let Ok(Some(sources)) = read_directory(Path::new(&*config.agents_dir)) else { return true };
    let same = |source: &Source| source.text.as_ref().ok() == store.good(&format!("agents.d/{}", source.file)).as_ref();
    sources.len() == store.good_definitions().len() && sources.iter().all(same)
}

/// The files `*.json` of a directory, each with its text or what is wrong with it; `None` when there is no directory.
///
/// # Errors
/// Why the directory cannot be used at all.
pub fn read_directory(directory: &Path) -> Result<Option<Vec<Source>>, Reason> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unread_directory(error)),
    };
    check_above(directory)?;
    let mut sources = Vec::new();
    for entry in entries {
        let entry = entry.map_err(unread_directory)?;
        let name = entry.file_name();
        let file = name.to_string_lossy();
        if !file.ends_with(".json") || file.starts_with('.') {
            continue;
        }
        // The directory has been judged, so only the file is; one that vanished since was never there.
        if let Some(text) = read_alone(&entry.path(), false).transpose() {
            sources.push(Source { file: file.into(), text, good: None });
        }
    }
    Ok(Some(sources))
}

/// The text of a configuration file; `None` when there is none.
///
/// # Errors
/// Why it cannot be read, or must not be.
pub fn read_file(path: &Path) -> Result<Option<Vec<u8>>, Reason> {
    let text = read_alone(path, false)?;
    if text.is_some() {
        check_above(path.parent().unwrap_or(Path::new("/")))?;
    }
    Ok(text)
}

/// `secret`: only where nobody else can read it.
fn read_alone(path: &Path, secret: bool) -> Result<Option<Vec<u8>>, Reason> {
    // Without O_NONBLOCK a fifo put in place of the file would hold the daemon up.
    let mut file = match OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path) {
        Ok(file) => file,
        // A link whose target is gone, perhaps with a file system that is not mounted just now, is not nothing.
        Err(error) if error.kind() == ErrorKind::NotFound && !path.is_symlink() => return Ok(None),
        Err(error) => return Err(unread(error)),
    };
    let metadata = file.metadata().map_err(unread)?;
    if !metadata.is_file() {
        return Err("not a regular file".into());
    }
    if let Some(writer) = as_root().then(|| writer(&metadata, true)).flatten() {
        return Err(reason!("refused: {writer}; want it owned by root, mode 0644 or stricter"));
    }
    let bits = metadata.mode() & 0o7777;
    if secret && bits & 0o077 != 0 {
        return Err(reason!("refused: others may use it (mode {bits:04o}); want mode 0600"));
    }
    let mut text = Vec::new();
    read_up_to(MAX_FILE + 1, &mut text, &mut |to| file.read(to)).map_err(unread)?;
    if text.len() as u64 > MAX_FILE {
        return Err("larger than 1 MiB".into());
    }
    Ok(Some(text))
}

/// The content of a file with a secret: ours or root's, and closed to everybody else.
///
/// # Errors
/// Why it cannot be read, or must not be believed.
pub fn read_key(path: &Path) -> Result<Vec<u8>, Reason> {
    let text = read_alone(path, true)?.ok_or(MISSING)?;
    check_above(path.parent().unwrap_or(Path::new("/")))?;
    Ok(text)
}

/// Judges a directory with configuration in it, and all above it: who can rename there can put files in place.
fn check_above(directory: &Path) -> Result<(), Reason> {
    if !as_root() {
        return Ok(());
    }
    let real = fs::canonicalize(directory).map_err(unread_directory)?;
    for (depth, above) in real.ancestors().enumerate() {
        let metadata = fs::metadata(above)
            .map_err(|error| reason!("cannot look at the directory \"{}\": {}", above.display(), reason(&error)))?;
        if let Some(writer) = writer(&metadata, depth == 0) {
            return Err(reason!(
                "refused: the directory \"{}\": {writer}; want it owned by root, mode 0755 or stricter",
                above.display()
            ));
        }
    }
    Ok(())
}

/// What is wrong with this binary's own mode: run by root, it executes itself as the `helper` user, which needs the file, not
/// its directory, to be open to others.
pub fn closed_program(helper: Option<&str>) -> Option<Problem> {
    if !as_root() || helper == Some("root") {
        return None;
    }
    let program = std::env::current_exe().ok()?;
    let bits = fs::metadata(&program).ok()?.mode() & 0o7777;
    let message = format!("mode {bits:04o}: its helpers run without root and could not execute it, want 0755");
    (bits & 0o001 == 0).then(|| Problem::new(&program.to_string_lossy(), &message))
}

/// What is to be said of a helper user that is root, if it is; not run by root, helpers are no other user.
pub fn root_helper(helper: Option<&str>) -> Option<String> {
    let user = account::user_by_name(helper?).ok()??;
    (user.uid.0 == 0 && as_root()).then(|| {
        let name = user.name;
        format!("helper_user: \"{name}\" is root, and what reads from the network could do anything: want one without rights")
    })
}

/// Who besides root can write here, if anybody. `near` is a file that is read or its directory; further above only what
/// is open to everyone counts, and not where the sticky bit keeps them from each other's files.
fn writer(metadata: &Metadata, near: bool) -> Option<String> {
    judge(metadata.mode(), metadata.uid(), metadata.gid(), metadata.is_dir(), near)
}

fn judge(mode: u32, uid: u32, gid: u32, directory: bool, near: bool) -> Option<String> {
    let sticky = directory && mode & 0o1000 != 0;
    let bits = mode & 0o7777;
    if mode & 0o002 != 0 && !sticky {
        return Some(format!("others can write it (mode {bits:04o})"));
    }
    if near && uid != 0 {
        return Some(format!("it belongs to user {uid}"));
    }
    if near && mode & 0o020 != 0 && gid != 0 && !sticky {
        return Some(format!("group {gid} can write it (mode {bits:04o})"));
    }
    None
}

fn as_root() -> bool {
    account::own_uid().0 == 0
}

#[inline(never)]
fn unread(error: io::Error) -> Reason {
    reason!("cannot read: {}", reason(&error))
}

#[inline(never)]
fn unread_directory(error: io::Error) -> Reason {
    reason!("cannot read the directory: {}", reason(&error))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

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
    fn who_else_can_write() {
        let (file, directory, far) = ((false, true), (true, true), (true, false));
        for (mode, uid, gid, (is_directory, near), want) in [
            (0o644, 0, 0, file, None),
            (0o664, 0, 0, file, None),
            (0o664, 0, 5, file, Some("group 5")),
            (0o646, 0, 0, file, Some("others can write it (mode 0646)")),
            (0o1646, 0, 0, file, Some("others")),
            (0o644, 5, 0, file, Some("user 5")),
            (0o755, 0, 0, directory, None),
            (0o777, 0, 0, directory, Some("others")),
            (0o1777, 0, 0, directory, None),
            (0o775, 0, 5, directory, Some("group 5")),
            (0o755, 5, 0, directory, Some("user 5")),
            (0o777, 0, 0, far, Some("others")),
            (0o1777, 0, 0, far, None),
            (0o775, 5, 5, far, None),
        ] {
            let got = judge(mode, uid, gid, is_directory, near);
            match (&got, want) {
                (Some(got), Some(want)) if got.contains(want) => {}
                (None, None) => {}
                _ => panic!("{mode:o} {uid}:{gid}: got {got:?}, want {want:?}"),
            }
        }
    }

    #[test]
    fn files_that_are_none_are_said() {
        let scratch = Scratch::new("kinds");
        assert_eq!(read_file(&scratch.0.join("absent.json")), Ok(None));
        assert_eq!(read_file(&scratch.0.join("agents.d")), Err("not a regular file".into()));
        let fifo = scratch.0.join("fifo.json");
        assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        assert_eq!(read_file(&fifo), Err("not a regular file".into()));
        let large = scratch.write("large.json", &" ".repeat(MAX_FILE as usize + 1), 0o644);
        assert_eq!(read_file(&large), Err("larger than 1 MiB".into()));
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
        assert_eq!(read.problems, [Problem::new(&path.to_string_lossy(), MISSING)]);
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
            println!("skipped: needs root");
            return;
        }
        let scratch = Scratch::new("open");
        let file = scratch.write("x.json", "{}", 0o666);
        let message = read_file(&file).unwrap_err();
        assert!(message.starts_with("refused: others can write it (mode 0666)"), "{message}");
        let file = scratch.write("x.json", "{}", 0o644);
        fs::set_permissions(&scratch.0, fs::Permissions::from_mode(0o777)).unwrap();
        for message in [read_file(&file).unwrap_err(), read_directory(&scratch.0.join("agents.d")).unwrap_err()] {
            assert!(message.contains("directory") && message.contains("mode 0777"), "{message}");
        }
        fs::set_permissions(&scratch.0, fs::Permissions::from_mode(0o1777)).unwrap();
        assert!(read_file(&file).is_ok());
    }
}
