//! The daemon upgraded by a job: a good binary replaces it; with a bad one the old binary keeps running or runs again. Agents
//! notice neither.

mod util;
#[path = "self_upgrade/walk.rs"]
mod walk;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use util::*;
use walk::{walks, Disaster, New};

/// The binary under test with a byte more: another file that does the same.
fn another() -> Vec<u8> {
    let mut bytes = fs::read(binary()).expect("the binary under test");
    bytes.push(b'\n');
    bytes
}

/// A new binary that passes `version` and `check`, and does `run` when it is run.
fn passing(run: &str) -> Vec<u8> {
    format!("#!/bin/sh\ncase \"$*\" in version) echo bootagent-9.9.9-none;; *check) ;; *) {run};; esac\n").into_bytes()
}

/// A job that upgrades the daemon to this binary.
fn upgrade(host: &Host, server: &Server, id: &str, startsecs: &str, new: &[u8]) -> Job {
    let work = host.path("build").join(unique_name("own"));
    fs::create_dir_all(&work).expect("the host's directory can be written");
    fs::write(work.join("bootagent"), new).expect("the host's directory can be written");
    fs::set_permissions(work.join("bootagent"), fs::Permissions::from_mode(0o755)).expect("the test's own file");
    let file = work.join("bootagent.tar.gz");
    let packed = Command::new("tar").arg("-C").arg(&work).arg("-czf").arg(&file).arg("bootagent").status();
    assert!(packed.expect("tar is there").success());
    let bytes = fs::read(&file).expect("tar wrote it");
    let url = server.serve(&format!("{id}/bootagent.tar.gz"), &bytes);
    let quoted = |text: &str| format!("\"{text}\"");
    Job::new(id, "upgrade", "bootagent")
        .set("url", &quoted(&url))
        .set("checksum", &quoted(&checksum(&bytes)))
        .set("startsecs", startsecs)
}

/// A host with an agent, whose binary may be replaced; the agent's process.
fn host_with_agent(server: &Server) -> (Host, i32) {
    let mut host = Host::with(server);
    host.install();
    host.agent("web", "exec sleep 1000", &[]);
    host.start();
    let pid = host.wait_running("web").pid;
    (host, pid)
}

/// Waits until the new binary was executed so many times.
fn wait_executed(host: &Host, times: usize) {
    let executed = || host.read("log/bootagent.log").matches("packages/bootagent/next/bootagent\"").count();
    host.wait("the new binary to be executed", || executed() >= times);
}

/// The processes that are daemons of this host.
fn daemons(host: &Host) -> Vec<i32> {
    let runs = |pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        words.contains(&&b"run"[..]) && !words.contains(&&b"watch"[..])
    };
    let all: Vec<i32> = host.processes().into_iter().filter(runs).collect();
    // A child that one has just forked is still called the same.
    let is_child = |pid: &i32| all.contains(&proc_status(*pid, "PPid").parse().unwrap_or(0));
    all.iter().copied().filter(|pid| !is_child(pid)).collect()
}

#[test]
fn a_good_binary_takes_the_place_of_the_old_one() {
    let server = Server::new();
    let (mut host, pid) = host_with_agent(&server);
    let new = another();
    let job = upgrade(&host, &server, "u1", "20", &new);
    let message = host.does(&server, &job, 0);
    assert!(message.contains("bootagent-"), "{message}");
    assert_eq!(fs::read(host.path("bin/bootagent")).unwrap(), new, "it is not the installed one");
    assert_eq!(entries(&host.path("bin")).len(), 1, "something is left beside it");
    assert!(host.lives(), "the daemon has another pid\n{}", host.logs());
    assert_eq!(host.wait_running("web").pid, pid);
    host.wait("the watcher to end", || host.agents_processes() == [pid]);
    assert!(!host.path("state/packages/bootagent").exists());
    // The same package once more is no work.
    let fetched = || server.requests_to("/packages/u1/bootagent.tar.gz").len();
    let before = fetched();
    server.give(&job.set("id", "\"u1-again\"").text());
    let (code, message) = host.result(&server, "u1-again");
    assert!(code == 0 && message.contains("already") && fetched() == before, "{code} {message}");
    // It is a daemon like any other: reexec, restart, upgrade again.
    host.ok(&["reexec"]);
    host.does(&server, &Job::new("r1", "restart", "bootagent"), 0);
    let again = fs::read(binary()).unwrap();
    host.does(&server, &upgrade(&host, &server, "u2", "20", &again), 0);
    assert_eq!(fs::read(host.path("bin/bootagent")).unwrap(), again);
    assert!(host.lives());
    assert_eq!(host.wait_running("web").pid, pid);
    host.does(&server, &Job::new("last", "restart", "web"), 0);
    assert_eq!((server.times_taken("u1"), server.times_taken("u2")), (1, 1));
}

#[test]
fn a_binary_that_cannot_even_be_tried_changes_nothing() {
    let server = Server::new();
    let (mut host, pid) = host_with_agent(&server);
    let old = fs::read(host.path("bin/bootagent")).unwrap();
    let mut foreign = another();
    foreign[18..20].copy_from_slice(&[0xfe, 0xfe]);
    for (id, new, want) in [
        ("true", fs::read("/bin/true").unwrap(), "does not say"),
        ("empty", b"#!/bin/sh\n".to_vec(), "does not say"),
        ("fails", b"#!/bin/sh\nexit 1\n".to_vec(), "status 1"),
        (
            "config",
            b"#!/bin/sh\n[ $1 = version ] && exec echo bootagent-9; echo too old >&2; exit 1\n".to_vec(),
            "too old",
        ),
        ("foreign", foreign, "executing the program"),
    ] {
        let message = host.does(&server, &upgrade(&host, &server, id, "20", &new), 6);
        assert!(message.contains(want), "{id}: {message}");
        assert!(host.lives());
        assert_eq!(host.wait_running("web").pid, pid);
    }
    let none = tar_of(&host, "bootagent", "9", &[("README", "no binary here")]);
    let job = Job::new("none", "upgrade", "bootagent").package(&server.serve(&none.file, &none.bytes), &none);
    host.does(&server, &job, 6);
    let job = job.set("id", "\"deb\"").set("url", "\"http://127.0.0.1:1/bootagent_1_all.deb\"");
    server.give(&job.text());
    assert_eq!(host.result(&server, "deb").0, 1);
    for action in ["stop", "start", "uninstall"] {
        host.does(&server, &Job::new(action, action, "bootagent"), 10);
    }
    assert_eq!(fs::read(host.path("bin/bootagent")).unwrap(), old);
    assert!(!host.path("state/packages/bootagent").exists());
    assert!(!host.read("log/bootagent.log").contains("info  executing"), "it was executed");
}

#[test]
fn after_a_binary_that_ends_or_hangs_the_old_one_runs_again() {
    for (id, run) in
        [("exits", "exit 1"), ("dies", "sleep 2; exit 0"), ("hangs", "exec sleep 1000"), ("crashes", "kill -9 $$")]
    {
        let server = Server::new();
        let (host, pid) = host_with_agent(&server);
        let old = fs::read(host.path("bin/bootagent")).unwrap();
        let message = host.does(&server, &upgrade(&host, &server, id, "3", &passing(run)), 8);
        assert!(message.contains("bootagent-9.9.9"), "{id}: {message}");
        assert_eq!(message.contains("hung"), id == "hangs", "{id}: {message}");
        assert_eq!(fs::read(host.path("bin/bootagent")).unwrap(), old);
        assert_eq!(host.wait_running("web").pid, pid, "{id}");
        assert_eq!(daemons(&host).len(), 1, "{id}: {:?}\n{}", daemons(&host), host.logs());
        host.does(&server, &Job::new("next", "start", "web"), 0);
        assert_eq!(server.times_taken(id), 1);
        // The agent is as ever: its end is noticed.
        kill(pid, "KILL");
        host.wait_seen("web", "to come back", |agent| agent.runs() && agent.pid != pid);
    }
}

#[test]
fn a_binary_that_reaches_no_server_gives_its_place_back() {
    let server = Server::new();
    let (mut host, pid) = host_with_agent(&server);
    let old = fs::read(host.path("bin/bootagent")).unwrap();
    let job = upgrade(&host, &server, "u1", "3", &another());
    server.give(&job.text());
    host.wait("the package to be fetched", || !server.requests_to("/packages/u1/bootagent.tar.gz").is_empty());
    server.mode(Mode::Close);
    wait_executed(&host, 1);
    let back = || host.read("log/bootagent.log").matches("bin/bootagent\"").count() >= 1;
    host.wait("the old binary to be executed", back);
    server.mode(Mode::Good);
    let (code, message) = host.result(&server, "u1");
    assert!(code == 8 && message.contains("no good exchange"), "{code} {message}\n{}", host.logs());
    assert!(host.lives(), "the daemon has another pid");
    let image = fs::read_link(format!("/proc/{}/exe", host.pid())).unwrap();
    assert!(is_emulated() || image == host.path("bin/bootagent"), "{image:?}");
    assert_eq!(fs::read(host.path("bin/bootagent")).unwrap(), old);
    assert_eq!(host.wait_running("web").pid, pid);
    host.wait("the watcher to end", || host.agents_processes() == [pid]);
}

/// A host whose daemon is a new binary on trial, with a server that is silent.
fn on_trial(server: &Server) -> (Host, i32) {
    let (host, pid) = host_with_agent(server);
    server.give(&upgrade(&host, server, "u1", "30", &another()).text());
    host.wait("the package to be fetched", || !server.requests_to("/packages/u1/bootagent.tar.gz").is_empty());
    server.mode(Mode::Close);
    wait_executed(&host, 1);
    let settling = || host.job("u1").is_some_and(|job| text(&job, "state") == "settling");
    host.wait("the new binary to settle", || host.status().is_some() && settling());
    (host, pid)
}

#[test]
fn a_new_binary_that_is_killed_is_followed_by_the_old_one() {
    let server = Server::new();
    let (mut host, pid) = on_trial(&server);
    assert_eq!(host.cli(&["reexec"]).code, 1, "a reexec in the midst of it");
    host.kill9();
    host.wait("the old binary to run", || host.status().is_some());
    server.mode(Mode::Good);
    let (code, message) = host.result(&server, "u1");
    assert!(code == 8 && message.contains("it ended before"), "{code} {message}\n{}", host.logs());
    assert_eq!(host.wait_running("web").pid, pid);
    assert_eq!(daemons(&host).len(), 1);
}

#[test]
fn an_init_that_starts_the_daemon_again_is_left_to_it() {
    let server = Server::new();
    let (mut host, pid) = on_trial(&server);
    host.kill9();
    host.start();
    let daemon = host.pid();
    server.mode(Mode::Good);
    assert_eq!(host.result(&server, "u1").0, 8);
    // It is the only one that would start another.
    host.wait("the watcher to end", || host.agents_processes() == [pid]);
    assert_eq!(daemons(&host), [daemon], "{}", host.logs());
    assert_eq!(host.wait_running("web").pid, pid);
}

#[test]
fn a_stop_on_trial_is_a_stop() {
    let server = Server::new();
    let (mut host, _) = on_trial(&server);
    assert_eq!(host.end("TERM").code(), Some(0));
    // The watcher is killed too, so nothing would start the daemon again.
    host.wait("everything to end", || host.processes().is_empty());
    assert!(stays(|| host.processes().is_empty()), "somebody started the daemon again");
    server.mode(Mode::Good);
    host.start();
    assert_eq!(host.result(&server, "u1").0, 8);
    host.wait_running("web");
}

#[test]
fn an_upgrade_of_the_daemon_survives_a_crash() {
    walks(New::Good, Disaster::Crash, 2, 0);
    walks(New::Late, Disaster::Crash, 7, 1);
}

#[test]
fn an_upgrade_of_the_daemon_survives_without_an_init() {
    walks(New::Good, Disaster::Orphaned, 14, 8);
    walks(New::Late, Disaster::Orphaned, 20, 5);
    walks(New::Ends, Disaster::Orphaned, 12, 3);
}

#[test]
fn an_upgrade_of_the_daemon_survives_a_reboot_and_a_torn_record() {
    walks(New::Good, Disaster::Reboot, 7, 2);
    walks(New::Late, Disaster::Reboot, 15, 8);
    walks(New::Good, Disaster::Torn, 11, 3);
}

#[test]
fn an_upgrade_of_the_daemon_survives_a_full_disk() {
    walks(New::Good, Disaster::Full, 16, 2);
    walks(New::Late, Disaster::Full, 30, 5);
}
