//! The directories below /run that agents have while they run.

mod util;

use std::fs;
use std::os::unix::fs::{chown, MetadataExt, PermissionsExt};

use util::*;

#[test]
fn a_runtime_directory_is_there_while_the_agent_runs() {
    if lacks_root() {
        return;
    }
    let mut host = Host::new();
    let (web, deep) = (Place::new("web"), Place::new("deep"));
    let keys = format!("[\"{}\", \"{}/a\"]", web.0, deep.0);
    let script = format!(": >{}/socket; exec sleep 1000", web.path().display());
    host.agent("web", &script, &[("runtime_directory", &keys), ("user", "4711"), ("group", "4712")]);
    host.start();
    host.wait("its file", || web.path().join("socket").exists());
    for (path, owner) in [(web.path(), (4711, 4712)), (deep.path(), (0, 0)), (deep.path().join("a"), (4711, 4712))] {
        let there = fs::symlink_metadata(&path).expect("it was made");
        assert!(there.is_dir() && there.mode() & 0o7777 == 0o755, "{path:?} {:o}", there.mode());
        assert_eq!((there.uid(), there.gid()), owner, "{path:?}");
    }
    outlives_daemons(&mut host, "web");
    assert!(web.path().join("socket").exists());
    assert_eq!(host.cli(&["stop", "web"]).code, 0);
    assert!(!web.path().exists() && !deep.path().exists());
    // As after a reboot, when /run is empty.
    assert_eq!(host.cli(&["start", "web"]).code, 0);
    host.wait("its file", || web.path().join("socket").exists());
    // The definition goes while no daemon runs, and what it had goes too.
    host.kill9();
    fs::remove_file(host.path("agents.d/web.json")).expect("it was there");
    host.start();
    host.wait("its directories to be removed", || !web.path().exists() && !deep.path().exists());
}

#[test]
fn a_runtime_directory_that_cannot_be_had_is_a_failed_start() {
    if lacks_root() {
        return;
    }
    let mut host = Host::new();
    let (theirs, file, own) = (Place::new("theirs"), Place::new("file"), Place::new("own"));
    fs::create_dir(theirs.path()).expect("root may");
    fs::write(file.path(), "text").expect("root may");
    fs::create_dir(own.path()).expect("root may");
    fs::set_permissions(own.path(), fs::Permissions::from_mode(0o700)).expect("root may");
    chown(own.path(), Some(4711), Some(4711)).expect("root may");
    fs::write(own.path().join("kept"), "text").expect("root may");
    for (name, place) in [("theirs", &theirs), ("file", &file), ("own", &own)] {
        let key = place.key();
        let keys = [("runtime_directory", &*key), ("user", "4711"), ("group", "4711"), ("retries", "0")];
        host.agent(name, "exec sleep 1000", &keys);
    }
    host.start();
    for (name, why) in [
        (
            "theirs",
            format!("cannot start: runtime_directory \"{}\": is there, and belongs to user 0", theirs.path().display()),
        ),
        ("file", "is there, and is no directory".to_string()),
    ] {
        let seen = host.wait_seen(name, "to be given up", |seen| seen.status == "fatal");
        assert!(seen.detail.contains(&why), "{seen:?}");
    }
    host.wait_running("own");
    assert_eq!(host.cli(&["stop", "--all"]).code, 0);
    // What was there before is never removed.
    assert!(theirs.path().is_dir() && file.path().is_file() && own.path().join("kept").exists());
}

#[test]
fn a_runtime_directory_is_one_agents_alone() {
    let mut host = Host::new();
    let (web, run) = (Place::new("one"), Place::new("run"));
    host.agent("a", "exec sleep 1000", &[("runtime_directory", &web.key())]);
    host.agent("b", "exec sleep 1000", &[("runtime_directory", &format!("[\"{}/x\"]", web.0))]);
    host.configure();
    let ran = host.cli(&["check"]);
    let want = format!("b.json: runtime_directory: \"{}/x\" is, holds, or is in one of a.json", web.0);
    assert!(ran.code == 1 && ran.err.contains(&want), "{ran:?}");
    fs::remove_file(host.path("agents.d/b.json")).expect("it was there");
    assert_eq!(host.cli(&["check"]).code, 0);
    for bad in ["\"web\"", "[\"/run/web\"]", "[\"../web\"]", "[\"web\", \"web/x\"]", "[7]"] {
        host.agent("b", "exec sleep 1000", &[("runtime_directory", bad)]);
        let ran = host.cli(&["check"]);
        assert!(ran.code == 1 && ran.err.contains("b.json: runtime_directory"), "{bad}: {ran:?}");
    }
    if lacks_root() {
        return;
    }
    let run_dir = format!("\"{}/agent\"", run.path().display());
    host.config.insert("run_dir".into(), run_dir.clone());
    host.configure();
    host.agent("b", "exec sleep 1000", &[("runtime_directory", &run.key()), ("retries", "0")]);
    let ran = host.cli(&["check"]);
    let want = format!("runtime_directory: \"{}\" is, holds, or is in the daemon's own {run_dir}", run.0);
    assert!(ran.code == 1 && ran.err.contains(&want), "{ran:?}");
}
