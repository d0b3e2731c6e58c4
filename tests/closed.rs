//! A bad bootagent.json: the last good copy is used, or else the defaults. As these ask for no signatures, there are no
//! exchanges and no jobs until a file is good. Agents keep running.

mod util;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use util::*;

const KEY: &str = "the key of a test, long enough";

/// A host whose configuration asks for signatures, of exchanges and of packages.
fn guarded(server: &Server) -> Host {
    server.signs(|request, body| signature(KEY, request, body));
    let mut host = Host::with(server);
    host.write("key", KEY);
    fs::set_permissions(host.path("key"), fs::Permissions::from_mode(0o600)).expect("the test's own file");
    let path = format!("\"{}\"", host.path("key").display());
    host.set("key_file", &path).set("trusted_keys", &format!("[\"RW{}\"]", "A".repeat(54)));
    host.agent("web", "exec sleep 1000", &[]);
    host
}

fn is_signed(request: &Request) -> bool {
    request.header("X-BootAgent-Signature").is_some()
}

/// Waits for a request and leaves it without an answer, so that none can come in late when the daemon is ended now.
fn hold_a_request(host: &Host, server: &Server) {
    let before = server.hanging();
    server.mode(Mode::Hang);
    host.wait("a request to be held", || server.hanging() > before);
}

/// Forgets the requests of a daemon that was ended, and answers those of the next one.
fn forget(server: &Server) {
    server.mode(Mode::Good);
    server.forget();
}

/// Nothing is sent, every command says why, and the agent runs.
fn is_closed(host: &Host, server: &Server, what: &str) {
    let pid = host.wait_running("web").pid;
    assert!(holds(Duration::from_millis(700), || server.requests().is_empty()), "{what}: it talks all the same");
    let report = host.cli(&["report"]);
    let says = |text: &str| text.contains("no exchanges with servers and no jobs") && text.contains("send SIGHUP");
    assert!(report.code == 1 && says(&report.err), "{what}: {report:?}");
    let status = host.cli(&["status"]);
    assert!(says(&status.out), "{what}: {status:?}");
    let status = host.status().expect("the daemon answers");
    assert!(items(&status, "troubles").iter().any(|trouble| says(text(trouble, ""))), "{what}");
    assert!(host.logs().lines().any(|line| line.contains(" error ") && says(line)), "{what}: {}", host.logs());
    let check = host.cli(&["check"]);
    assert!(check.code == 1 && says(&check.err), "{what}: {check:?}");
    assert_eq!(host.wait_running("web").pid, pid, "{what}");
    assert!(server.requests().is_empty(), "{what}");
}

#[test]
fn a_bad_file_without_a_good_copy_closes_until_it_is_mended() {
    for (what, key, value) in [
        ("an unknown key", "stepp", "1"),
        ("a file that breaks off", "zz", "["),
        ("a key file of another type", "key_file", "5"),
        ("keys of another type", "trusted_keys", "{}"),
        ("a key that is none", "trusted_keys", "[\"RWQ\"]"),
    ] {
        let server = Server::new();
        let mut host = guarded(&server);
        let sound = host.config.get(key).cloned().unwrap_or_default();
        host.set("svrlist", "").set(key, value);
        host.start_with(&["-S", &server.address]);
        is_closed(&host, &server, what);
        // On SIGHUP it starts again with a good file, and the agents keep running.
        let pid = host.wait_running("web").pid;
        host.set(key, &sound).set("step", "0.3").configure();
        host.signal("HUP");
        host.wait("a report", || !server.requests().is_empty());
        assert!(server.requests().iter().all(is_signed), "{what}");
        assert_eq!(host.wait_running("web").pid, pid, "{what}");
        assert!(host.status().is_some_and(|status| items(&status, "troubles").is_empty()), "{what}");
    }
}

#[test]
fn a_file_that_is_mended_is_seen() {
    let server = Server::new();
    let mut host = guarded(&server);
    host.set("stepp", "1");
    host.start();
    is_closed(&host, &server, "a typo");
    host.set("stepp", "").configure();
    host.wait("a report", || !server.requests().is_empty());
    assert!(server.requests().iter().all(is_signed));
}

#[test]
fn what_a_server_gave_before_does_not_open_it() {
    let server = Server::new();
    let mut host = Host::with(&server);
    host.agent("web", "exec sleep 1000", &[]);
    host.start();
    host.wait_running("web");
    host.does(&server, &Job::new("list", "config", "").set("svrlist", &format!("\"{}\"", server.address)), 0);
    let package = tarball(&host, "other", "1.0", &staying("unsigned"), &[]);
    let url = server.serve(&package.file, &package.bytes);
    server.give(&Job::new("waits", "install", "other").package(&url, &package).set("window", "86400").text());
    host.wait("the job to be taken", || host.job("waits").is_some());
    hold_a_request(&host, &server);
    host.end("QUIT");
    // Signatures are asked for from now on, by a file that a crash cuts.
    fs::remove_dir_all(host.path("state/good")).unwrap();
    forget(&server);
    host.set("trusted_keys", &format!("[\"RW{}\"", "A".repeat(54)));
    host.start();
    is_closed(&host, &server, "the list of a job");
    let job = host.job("waits").unwrap();
    assert_eq!((text(&job, "state"), text(&job, "progress")), ("received", "waits for a good configuration"));
}

#[test]
fn the_last_good_copy_is_used_only_where_it_asks_for_as_much() {
    let server = Server::new();
    let mut host = guarded(&server);
    let start_bad = |host: &mut Host| {
        host.end("QUIT");
        forget(&server);
        host.set("stepp", "1");
        host.start();
    };
    host.start();
    host.wait("a report", || !server.requests().is_empty());
    assert_eq!(host.read("state/guards"), "key_file trusted_keys");
    start_bad(&mut host);
    host.wait("a report by the copy", || !server.requests().is_empty());
    assert!(server.requests().iter().all(is_signed));
    let status = host.cli(&["status"]);
    assert!(status.out.contains("the last good one is used"), "{status:?}");
    let check = host.cli(&["check"]);
    assert!(check.code == 1 && check.err.contains("runs on the last good copy"), "{check:?}");

    hold_a_request(&host, &server);
    let copy = host.read("state/good/bootagent.json");
    let fewer: String =
        copy.lines().filter(|line| !line.contains("key_file")).map(|line| format!("{line}\n")).collect();
    for (what, text) in [("cut", &copy[..copy.len() - 3]), ("empty", ""), ("an older one", &fewer)] {
        host.write("state/good/bootagent.json", text);
        start_bad(&mut host);
        is_closed(&host, &server, what);
    }
    // A good file that asks for none is what opens it for good.
    host.end("QUIT");
    host.set("stepp", "").set("key_file", "").set("trusted_keys", "");
    host.start();
    host.wait("a report", || !server.requests().is_empty());
    assert!(!server.requests().iter().any(is_signed) && !host.path("state/guards").exists());
}

#[test]
fn what_cannot_be_remembered_opens_nothing_and_is_remembered_later() {
    let server = Server::new();
    let mut host = Host::with(&server);
    host.set("checksecs", "0.2");
    host.start();
    host.wait("a report", || !server.requests().is_empty());
    assert!(host.path("state/good/bootagent.json").exists());
    host.end("QUIT");
    // From now on signatures are asked for, which cannot be kept.
    let other = guarded(&server);
    for key in ["key_file", "trusted_keys"] {
        host.set(key, &other.config[key]);
    }
    host.agent("web", "exec sleep 1000", &[]);
    host.write("state/guards.tmp/x", "");
    server.forget();
    host.start();
    host.wait("a report", || !server.requests().is_empty());
    assert!(host.logs().contains("cannot keep a copy of the configuration"), "{}", host.logs());
    let checksecs = host.config["checksecs"].clone();
    hold_a_request(&host, &server);
    host.kill9();
    forget(&server);
    host.set("stepp", "1");
    host.start();
    is_closed(&host, &server, "an older copy that asks for nothing");
    host.kill9();
    // As soon as they can be, by the daemon that runs.
    host.set("stepp", "").set("checksecs", &checksecs);
    host.start();
    assert!(!host.path("state/guards").exists());
    fs::remove_dir_all(host.path("state/guards.tmp")).expect("the test's own file");
    host.wait("what is asked for to be kept", || host.path("state/guards").exists());
    assert_eq!(host.read("state/guards"), "key_file trusted_keys");
    fs::remove_file(host.path("state/guards")).expect("the test's own file");
    host.write("bootagent.json", "{");
    host.wait("it to be kept although the file is bad", || host.path("state/guards").exists());
}

#[test]
fn a_copy_that_was_left_where_state_dir_was_is_not_the_last_good_one() {
    if lacks_root() {
        return;
    }
    let server = Server::new();
    let mut host = Host::with(&server);
    fs::create_dir(host.path("lib")).expect("the test's own directory");
    let lib = host.path("lib").display().to_string();
    host.behind(&format!("mount --make-rprivate / && mount --bind {lib} /var/lib || exit 1;"));
    let state_dir = host.config["state_dir"].clone();
    host.set("state_dir", "");
    host.start();
    let copy = host.path("lib/bootagent/good/bootagent.json");
    assert!(copy.exists());
    host.end("QUIT");
    host.set("state_dir", &state_dir);
    host.start();
    assert!(!copy.exists() && host.path("state/good/bootagent.json").exists());
}
