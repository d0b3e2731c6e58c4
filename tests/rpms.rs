//! rpms whose scripts fail: what is told, and what is left in the database.

mod util;

use std::fs;
use std::process::Command;

use util::*;

/// A host without agents, and what its packages are called.
struct Setup {
    name: String,
    package: String,
    server: Server,
    host: Host,
    _purge: Purge,
}

impl Setup {
    fn new(prefix: &str) -> Option<Setup> {
        if lacks_root() || lacks("rpmbuild") || lacks("rpm") {
            return None;
        }
        let name = unique_name(prefix);
        let package = format!("{name}-pkg");
        let purge = Purge(&["rpm", "-e", "--noscripts", "--allmatches"], package.clone());
        let server = Server::new();
        let mut host = Host::with(&server);
        host.env("BOOTAGENT_LOCK_SECS", "0.2");
        host.start();
        Some(Setup { name, package, server, host, _purge: purge })
    }

    fn make(&self, version: &str, scripts: &str) -> Package {
        let mut files = host_files(&self.name, version, &staying(version)).to_vec();
        files.push((format!("etc/{}.conf", self.name), format!("of {version}\n")));
        rpm_with(&self.host, &self.package, version, &borrowed(&files), scripts)
    }

    fn install(&self, id: &str, package: &Package, code: i64) -> String {
        self.host.does(&self.server, &install(&self.server, id, &self.name, package), code)
    }

    /// What the database has, a word for each entry.
    fn installed(&self) -> String {
        let format = "%{VERSION} ";
        run(Command::new("rpm").args(["-q", "--qf", format, &self.package])).expect("rpm ends").out
    }

    fn by_hand(&self, options: &[&str], package: &Package) {
        let path = self.host.path(&package.file);
        fs::write(&path, &package.bytes).expect("the host's directory can be written");
        by_hand(&[&["rpm"], options, &[&*path.to_string_lossy()]].concat());
    }
}

#[test]
fn an_upgrade_that_the_old_package_hinders_leaves_one_version() {
    let Some(rig) = Setup::new("batest-preun") else { return };
    let hinders = "%preun\n[ $1 = 0 ]\n";
    rig.install("p1", &rig.make("1.0", hinders), 0);
    // The new one hinders the way back as well.
    let message = rig.install("p2", &rig.make("2.0", hinders), 8);
    let advice = "a script that is run before a removal fails, give a package in which it is mended: ";
    assert!(message.starts_with("rolled back from 2.0-1 to 1.0: ") && message.contains("%preun("), "{message}");
    assert!(message.contains(advice), "{message}");
    assert_eq!(rig.installed(), "1.0 ");
    assert_eq!(rig.host.wait_running(&rig.name).version, "1.0");
    // With another script, or none, it is mended.
    for (id, version, scripts) in [("p3", "3.0", ""), ("p4", "4.0", "%preun\nexit 1\n"), ("p5", "3.0", hinders)] {
        let message = rig.install(id, &rig.make(version, scripts), 0);
        assert_eq!(message.contains("%preun("), id != "p4", "{message}");
        assert_eq!(rig.installed(), format!("{version} "), "{id}");
        assert_eq!(rig.host.wait_running(&rig.name).version, version);
    }
    rig.host.does(&rig.server, &Job::new("p6", "uninstall", &rig.name), 0);
    assert!(rig.installed().contains("not installed"), "{}", rig.installed());
}

#[test]
fn a_package_that_cannot_be_removed_is_after_it_was_mended() {
    let Some(rig) = Setup::new("batest-unmoved") else { return };
    let uninstall = |id: &str, code: i64| rig.host.does(&rig.server, &Job::new(id, "uninstall", &rig.name), code);
    rig.install("m1", &rig.make("1.0", "%preun\nexit 1\n"), 0);
    let message = uninstall("m2", 6);
    let told = "cannot remove the package: a script that is run before a removal fails, give a package in which it is mended: ";
    assert!(message.starts_with(told) && message.ends_with("; undone"), "{message}");
    assert_eq!(rig.installed(), "1.0 ");
    assert_eq!(rig.host.wait_running(&rig.name).version, "1.0");
    let message = rig.install("m3", &rig.make("1.1", ""), 0);
    assert!(message.contains("%preun("), "{message}");
    assert_eq!(rig.installed(), "1.1 ");
    uninstall("m4", 0);
    assert!(rig.installed().contains("not installed"), "{}", rig.installed());
}

#[test]
fn what_a_removal_says_outlives_the_daemon() {
    let Some(mut rig) = Setup::new("batest-gone") else { return };
    let faults = cfg!(debug_assertions) && std::env::var_os("BOOTAGENT_TEST_BIN").is_none();
    let [flag, began] = ["flag", "began"].map(|file| rig.host.path(file));
    let waits = format!("touch {}; while [ -e {} ]; do sleep 0.1; done", began.display(), flag.display());
    // rpm runs on and ends while no daemon is there, or while the next one waits for it, or it has ended and the daemon asks
    // what is left.
    for (id, point, late) in [("g1", "", false), ("g2", "", true), ("g3", "Tool-5:2", false)] {
        if !point.is_empty() && !faults {
            continue;
        }
        let wait = if point.is_empty() { &waits } else { ":" };
        let script = format!("%postun\n{wait}; echo no key >&2; exit 3\n");
        rig.install(&format!("{id}-0"), &rig.make("1.0", &script), 0);
        fs::write(&flag, "").expect("the host's directory can be written");
        let _ = fs::remove_file(&began);
        rig.host.kill9();
        rig.host.env("BOOTAGENT_FAULT", point);
        rig.host.start();
        rig.host.env("BOOTAGENT_FAULT", "");
        rig.server.give(&Job::new(id, "uninstall", &rig.name).text());
        let daemon = rig.host.pid();
        rig.host.wait("rpm or the daemon to wait", || match point {
            "" => began.exists(),
            _ => proc_status(daemon, "State").starts_with('T'),
        });
        rig.host.kill9();
        if late {
            rig.host.start();
            rig.host.wait("the next daemon to wait", || rig.host.logs().contains("waiting for process"));
        }
        fs::remove_file(&flag).expect("it is there");
        if !late {
            let ended = || rig.host.read(&format!("run/tool-{id}.out")).contains("no key");
            rig.host.wait("rpm to end", || !point.is_empty() || ended());
            rig.host.start();
        }
        let (code, message) = rig.host.result(&rig.server, id);
        let times = message.matches("no key").count();
        assert!(code == 0 && message.contains("%postun(") && times == 1, "{id}: {code} {message}");
        assert!(rig.installed().contains("not installed"), "{id}: {}", rig.installed());
    }
}

#[test]
fn several_versions_in_the_database_become_one() {
    let Some(rig) = Setup::new("batest-two") else { return };
    let one = rig.make("1.0", "%preun\nexit 1\n");
    rig.install("t1", &one, 0);
    rig.by_hand(&["-i", "--nodeps", "--force"], &rig.make("0.9", "%preun\nexit 1\n"));
    let conf = format!("/etc/{}.conf", rig.name);
    assert_eq!(rig.installed(), "1.0 0.9 ");
    rig.install("t2", &rig.make("2.0", ""), 0);
    assert_eq!(rig.installed(), "2.0 ");
    assert_eq!(fs::read_to_string(&conf).ok().as_deref(), Some("of 2.0\n"));
    assert_eq!(rig.host.wait_running(&rig.name).version, "2.0");
    rig.by_hand(&["-i", "--nodeps", "--force"], &one);
    // The version that a job has installed is one of both.
    rig.install("t3", &rig.make("2.0", "%pre\n:\n"), 0);
    assert_eq!(rig.installed(), "2.0 ");
}

#[test]
fn what_went_wrong_beside_it_is_told_after_a_kill_too() {
    let Some(mut rig) = Setup::new("batest-note") else { return };
    let package = rig.make("1.0", "%post\necho no key >&2; exit 3\n");
    let job = install(&rig.server, "n1", &rig.name, &package).set("startsecs", "3");
    rig.server.give(&job.text());
    let settles = |row: miniserde::json::Value| text(&row, "state") == "settling";
    rig.host.wait("the agent to be watched", || rig.host.job("n1").is_some_and(settles));
    rig.host.end("KILL");
    rig.host.start();
    let (code, message) = rig.host.result(&rig.server, "n1");
    assert!(code == 0 && message.contains("%post(") && message.contains("no key"), "{code} {message}");
}

#[test]
fn configuration_that_a_new_version_drops_comes_back_with_the_old_one() {
    let Some(rig) = Setup::new("batest-dropped") else { return };
    let conf = format!("/etc/{} a.config", rig.name);
    let make = |version: &str, script: &str, has_conf: bool| {
        let mut files = host_files(&rig.name, version, script).to_vec();
        files.extend(has_conf.then(|| (conf[1..].to_string(), "the default\n".to_string())));
        rpm_with(&rig.host, &rig.package, version, &borrowed(&files), "")
    };
    rig.install("d1", &make("1.0", &staying("1.0"), true), 0);
    fs::write(&conf, "somebody's own\n").expect("/etc can be written");
    let is_kept = || fs::read_to_string(&conf).is_ok_and(|text| text == "somebody's own\n");
    rig.install("d2", &make("2.0", "#!/bin/sh\nexit 9\n", false), 8);
    assert!(is_kept(), "gone with an upgrade that was undone");
    rig.host.does(&rig.server, &Job::new("d3", "uninstall", &rig.name), 0);
    assert!(is_kept(), "gone with an uninstall");
    for left in [conf.clone(), format!("{conf}.rpmnew")] {
        fs::remove_file(&left).expect("it is there");
    }
}
