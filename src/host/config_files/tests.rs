//! Tests with real files: who may write them, which copy of the configuration counts.

use std::os::unix::fs::{chown, lchown, symlink, PermissionsExt};

use super::*;
use std::path::PathBuf;

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
}

#[test]
fn the_copy_of_another_file_says_nothing_about_this_one() {
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
}

#[test]
fn a_record_of_required_signatures_that_cannot_be_read_may_require_anything() {
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
        (link("loop.json", &scratch.0.join("loop.json"), 0), Some("cannot read: Too many levels of symbolic links")),
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
        let python = std::process::Command::new("python3").args(["-c", script]).arg(path).args([name, list]).status();
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
