//! A daemon run by root refuses files that somebody else could have written or replaced: by an access control list, by a
//! group, through a directory above, or through a link. It says who could, and which command corrects it.

mod util;

use std::fs;
use std::os::unix::fs::{chown, symlink, PermissionsExt};
use std::path::Path;
use std::process::Command;

use util::*;

/// Some user and group that are not root.
const STRANGER: u32 = 12_345;

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("the test's own file");
}

/// Lets `STRANGER` write by an access control list, `access` or `default`.
fn grant(path: &Path, list: &str) {
    let script = "import os, struct, sys; e = lambda *all: struct.pack('<HHI', *all); none = 0xffffffff; \
        os.setxattr(sys.argv[1], 'system.posix_acl_' + sys.argv[2], struct.pack('<I', 2) + e(1, 7, none) \
        + e(2, 7, int(sys.argv[3])) + e(4, 5, none) + e(16, 7, none) + e(32, 5, none))";
    let mut python = Command::new("python3");
    python.args(["-c", script]).arg(path).args([list, &STRANGER.to_string()]);
    let ran = run(&mut python).expect("it ends");
    assert_eq!(ran.code, 0, "{ran:?}");
}

/// What `setfacl -b` and `-k` do.
fn revoke(path: &Path, list: &str) {
    let mut python = Command::new("python3");
    python.args(["-c", "import os, sys; os.removexattr(sys.argv[1], 'system.posix_acl_' + sys.argv[2])"]);
    assert_eq!(run(python.arg(path).arg(list)).expect("it ends").code, 0);
}

#[test]
fn definitions_that_others_could_write_define_nothing() {
    if lacks_root() || lacks("python3") {
        return;
    }
    let mut host = Host::new();
    let directory = host.path("agents.d");
    let at = |name: &str| directory.join(format!("{name}.json"));
    for name in ["fine", "listed", "grouped", "owned", "linked", "readable"] {
        host.agent(name, "exec sleep 1000", &[]);
    }
    grant(&at("listed"), "access");
    chown(at("grouped"), None, Some(STRANGER)).unwrap();
    mode(&at("grouped"), 0o664);
    chown(at("owned"), Some(STRANGER), None).unwrap();
    let theirs = host.path("theirs");
    fs::create_dir(&theirs).unwrap();
    fs::rename(at("linked"), theirs.join("linked.json")).unwrap();
    symlink(theirs.join("linked.json"), at("linked")).unwrap();
    chown(&theirs, Some(STRANGER), None).unwrap();
    // A list that lets others read does not matter, and neither does the group root.
    grant(&at("readable"), "access");
    mode(&at("readable"), 0o644);
    mode(&at("fine"), 0o664);

    let wants = [
        ("listed", format!("refused: user {STRANGER} can write it, by its access control list; type setfacl -b \"")),
        ("grouped", format!("refused: group {STRANGER} can write it (mode 0664); type chmod g-w \"")),
        ("owned", format!("refused: it belongs to user {STRANGER}; type chown root \"")),
        ("linked", format!("refused: the directory \"{}\": it belongs to user {STRANGER}", theirs.display())),
    ];
    host.configure();
    let checked = host.cli(&["check"]);
    assert_eq!((checked.code, checked.err.lines().count()), (1, wants.len()), "{checked:?}");
    host.start();
    for name in ["fine", "readable"] {
        host.wait_running(name);
    }
    for (name, want) in &wants {
        let line = format!("{}: {want}", at(name).display());
        assert!(checked.err.contains(&line), "{line} is not in {checked:?}");
        assert!(host.logs().contains(&line), "{line} is not in\n{}", host.logs());
        assert!(!host.seen(name).is_some_and(|agent| agent.runs()), "{name}");
    }

    // What the messages say ends it.
    revoke(&at("listed"), "access");
    mode(&at("listed"), 0o644);
    mode(&at("grouped"), 0o644);
    for path in [&at("owned"), &theirs] {
        chown(path, Some(0), None).unwrap();
    }
    assert_eq!(host.cli(&["check"]).code, 0);
    host.signal("HUP");
    for (name, _) in &wants {
        host.wait_running(name);
    }

    // What was good before stays in force.
    let pid = host.wait_running("listed").pid;
    fs::write(at("listed"), definition("listed", "2", "exec sleep 1001", &[])).unwrap();
    grant(&at("listed"), "access");
    let before = host.read("log/bootagent.log").matches("setfacl -b").count();
    host.signal("HUP");
    host.wait("the refusal", || host.read("log/bootagent.log").matches("setfacl -b").count() > before);
    assert_eq!(host.wait_running("listed").pid, pid);
}

#[test]
fn directories_that_others_could_write_are_refused() {
    if lacks_root() || lacks("python3") {
        return;
    }
    let mut host = Host::new();
    host.agent("web", "exec sleep 1000", &[]);
    host.start();
    host.wait_running("web");
    let directory = host.path("agents.d");
    let pid = host.wait_running("web").pid;
    let refused = |what: &str, cure: &str| {
        let says = |text: &str| text.contains(what) && text.contains(&format!("; type {cure} \""));
        let checked = host.cli(&["check"]);
        assert!(checked.code == 1 && checked.err.contains("refused: the directory \""), "{what}: {checked:?}");
        assert!(says(&checked.err), "{what}: {checked:?}");
        let before = host.read("log/bootagent.log").len();
        host.signal("HUP");
        host.wait("the refusal", || says(&host.read("log/bootagent.log")[before..]));
        // A directory that cannot be read changes nothing.
        assert!(alive(pid), "{what}");
    };
    for directory in [&directory, &host.dir] {
        chown(directory, None, Some(STRANGER)).unwrap();
        mode(directory, 0o775);
        refused(&format!("group {STRANGER} can write it (mode 0775)"), "chmod g-w");
        mode(directory, 0o755);
        grant(directory, "access");
        refused(&format!("user {STRANGER} can write it, by its access control list"), "setfacl -b");
        revoke(directory, "access");
        mode(directory, 0o755);
        chown(directory, Some(STRANGER), None).unwrap();
        refused(&format!("it belongs to user {STRANGER}"), "chown root");
        chown(directory, Some(0), Some(0)).unwrap();
    }
    grant(&directory, "default");
    refused(&format!("user {STRANGER} could write new files in it"), "setfacl -k");
    revoke(&directory, "default");
    // Everybody could add a definition, though not change one.
    mode(&directory, 0o1777);
    refused("others can write it (mode 1777)", "chmod o-w");
    mode(&directory, 0o755);
    assert_eq!(host.wait_running("web").pid, pid);
    // A sticky directory above, as /tmp is one, is fine.
    mode(&host.dir, 0o1777);
    assert_eq!(host.cli(&["check"]).code, 0);
}

#[test]
fn the_daemons_own_directories_are_looked_at() {
    if lacks_root() {
        return;
    }
    let mut host = Host::new();
    host.agent("web", "exec sleep 1000", &[]);
    for dir in ["state/jobs", "run", "log"] {
        fs::create_dir_all(host.path(dir)).unwrap();
    }
    host.configure();
    let quiet = host.cli(&["check"]);
    assert!(quiet.code == 0 && !quiet.err.contains("_dir: "), "{quiet:?}");
    chown(host.path("state/jobs"), Some(STRANGER), None).unwrap();
    mode(&host.path("run"), 0o1777);
    chown(host.path("log"), None, Some(STRANGER)).unwrap();
    mode(&host.path("log"), 0o775);
    let warned = host.cli(&["check"]);
    assert_eq!(warned.code, 0, "{warned:?}");
    host.start();
    host.wait_running("web");
    for (key, dir, why, cure) in [
        ("state_dir", "state/jobs", format!("it belongs to user {STRANGER}"), "chown root"),
        ("run_dir", "run", "others can write it (mode 1777)".to_string(), "chmod o-w"),
        ("log_dir", "log", format!("group {STRANGER} can write it (mode 0775)"), "chmod g-w"),
    ] {
        let dir = host.path(dir).display().to_string();
        let line = format!("{key}: the directory \"{dir}\": {why}; type {cure} \"{dir}\"");
        assert!(warned.err.contains(&line), "{line} is not in {warned:?}");
        assert!(host.read("log/bootagent.log").contains(&line), "{line} is not in\n{}", host.logs());
    }
}

#[test]
fn a_container_of_an_ordinary_user_may_lie_in_the_hosts_directories() {
    if lacks_root() || lacks("setpriv") || lacks("unshare") {
        return;
    }
    let host = Host::new();
    host.agent("web", "exec sleep 1000", &[]);
    host.configure();
    let inside = |args: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", &STRANGER.to_string(), "--regid", &STRANGER.to_string(), "--clear-groups"]);
        run(command.args(["unshare", "--user", "--map-root-user"]).args(args)).expect("it ends")
    };
    if inside(&["true"]).code != 0 {
        skipped("user namespaces for ordinary users");
        return;
    }
    let binary = binary().display().to_string();
    let file = host.path("bootagent.json").display().to_string();
    let check = [&*binary, "-c", &*file, "check"];
    // Whose the configuration is cannot be seen in there, as its owner is nobody there; nor whose the directories above are.
    let refused = inside(&check);
    assert!(refused.code == 1 && refused.err.contains("it belongs to user "), "{refused:?}");
    for path in [&host.dir, &host.path("agents.d"), &host.path("agents.d/web.json"), &host.path("bootagent.json")] {
        chown(path, Some(STRANGER), Some(STRANGER)).unwrap();
    }
    let fine = inside(&check);
    assert_eq!(fine.code, 0, "{fine:?}");
}
