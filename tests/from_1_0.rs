//! 1.0.0, the release before this one, and this binary after each other on one host: each finishes jobs that the other has
//! begun, the daemon is upgraded from 1.0.0 and goes back to it, and a reexec works in both directions.
//! `tests/crash.rs` has every phase of the jobs of agents.

mod util;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use util::*;

/// A job that upgrades the daemon to this binary.
fn upgrade(host: &Host, server: &Server, id: &str, startsecs: &str, new: &Path) -> Job {
    let work = host.path("build").join(id);
    fs::create_dir_all(&work).expect("the host's directory can be written");
    fs::copy(new, work.join("bootagent")).expect("the host's directory can be written");
    fs::set_permissions(work.join("bootagent"), fs::Permissions::from_mode(0o755)).expect("the test's own file");
    let file = work.join("bootagent.tar.gz");
    let packed = Command::new("tar").arg("-C").arg(&work).arg("-czf").arg(&file).arg("bootagent").status();
    assert!(packed.expect("tar is there").success());
    let bytes = fs::read(&file).expect("tar wrote it");
    let url = server.serve(&format!("{id}/bootagent.tar.gz"), &bytes);
    Job::new(id, "upgrade", "bootagent")
        .set("url", &format!("\"{url}\""))
        .set("checksum", &format!("\"{}\"", checksum(&bytes)))
        .set("startsecs", startsecs)
}

/// A host whose installed binary is a copy of this one, with an agent; the agent's process.
fn host_with(server: &Server, program: &Path) -> (Host, i32) {
    let mut host = Host::with(server);
    host.install();
    place(&host, program);
    host.agent("web", "exec sleep 1000", &[]);
    host.agent("slow", "exec sleep 1000", &[("autostart", "false"), ("startsecs", "2")]);
    host.start();
    let pid = host.wait_running("web").pid;
    (host, pid)
}

/// Puts a binary in the place of the installed one.
fn place(host: &Host, program: &Path) {
    copy_program(program, &host.path("bin/next"));
    fs::rename(host.path("bin/next"), host.path("bin/bootagent")).expect("the host's directory can be written");
}

fn installed(host: &Host) -> Vec<u8> {
    fs::read(host.path("bin/bootagent")).expect("there is an installed binary")
}

/// What runs as the daemon.
fn image(host: &Host) -> Vec<u8> {
    fs::read(format!("/proc/{}/exe", host.pid())).expect("the daemon runs")
}

/// Whether the `seq` of reports rises, over all of both versions; 1.0.0 sends none.
fn seq_rises(server: &Server) -> bool {
    let seqs: Vec<f64> = server.statuses().iter().map(|status| number(status, "seq")).collect();
    let seqs: Vec<f64> = seqs.into_iter().filter(|seq| !seq.is_nan()).collect();
    !seqs.is_empty() && seqs.windows(2).all(|pair| pair[0] < pair[1])
}

/// The two binaries, each with the one that follows it.
fn pairs() -> Option<[(std::path::PathBuf, std::path::PathBuf); 2]> {
    let old = old_binary()?;
    Some([(old.clone(), binary()), (binary(), old)])
}

#[test]
fn a_job_of_1_0_0_in_any_phase_is_ended_by_this_binary() {
    let Some(old) = old_binary() else { return };
    let stubborn = "trap '' TERM; while :; do sleep 0.1; done";
    // What the version before and the new one do, how the job is caught, and how it ends.
    for (what, before, after, phases, code) in [
        ("a download", "exec sleep 1001", "exec sleep 1002", &["\"phase\":\"downloading\""][..], 0),
        ("a stop", stubborn, "exec sleep 1002", &["\"phase\":\"starting\""], 0),
        ("a start", "exec sleep 1001", "exec sleep 1002", &["\"phase\":\"settling\""], 0),
        ("a way back", "exec sleep 1001", "exit 1", &["\"phase\":\"settling\"", "\"outcome\""], 8),
        ("a stop on the way back", "exec sleep 1001", "trap '' TERM; sleep 1; exit 1", &["\"outcome\""], 8),
    ] {
        let server = Server::new();
        let mut host = Host::with(&server);
        host.program = old.clone();
        if what == "a download" {
            host.set("download_rate", "\"1K\"");
        }
        host.start();
        let program = |script: &str| format!("#!/bin/sh\n{script}\n");
        let first = tarball(&host, "web", "1.0", &program(before), &[("stopsecs", "2")]);
        let second = match what {
            "a download" => heavy(&host, "web", "2.0", 4),
            _ => tarball(&host, "web", "2.0", &program(after), &[]),
        };
        let url = server.serve(&first.file, &first.bytes);
        host.does(&server, &Job::new("one", "install", "web").package(&url, &first).set("startsecs", "0.1"), 0);
        let url = server.serve(&second.file, &second.bytes);
        server.give(&Job::new("two", "upgrade", "web").package(&url, &second).set("startsecs", "2.5").text());
        let record = || host.read("state/jobs/two.json");
        host.wait(what, || phases.iter().all(|word| record().contains(word)));
        let caught = record();
        host.kill9();
        host.set("download_rate", "");
        host.program = binary();
        host.start();
        let (got, message) = host.result(&server, "two");
        assert_eq!(got, code, "{what}: {message}\n{caught}\n{}", host.logs());
        let version = if code == 0 { "2.0" } else { "1.0" };
        let seen = host.wait_running("web");
        assert_eq!(seen.version, version, "{what}");
        host.wait("one copy of it", || host.agents_processes().len() <= 2);
        assert_eq!(server.codes("two").len(), 1, "{what}");
    }
}

#[test]
fn the_daemon_is_upgraded_to_this_binary_and_back() {
    let Some(pairs) = pairs() else { return };
    for (from, to) in pairs {
        let server = Server::new();
        let (mut host, pid) = host_with(&server, &from);
        let message = host.does(&server, &upgrade(&host, &server, "there", "20", &to), 0);
        let bytes = fs::read(&to).expect("the binary is there");
        assert!(installed(&host) == bytes && image(&host) == bytes, "{message}\n{}", host.logs());
        host.does(&server, &Job::new("restart", "restart", "bootagent"), 0);
        host.does(&server, &upgrade(&host, &server, "back", "20", &from), 0);
        let bytes = fs::read(&from).expect("the binary is there");
        assert!(installed(&host) == bytes && image(&host) == bytes, "{}", host.logs());
        assert!(host.lives() && host.wait_running("web").pid == pid, "{}", host.logs());
        assert!(holds(Duration::from_millis(500), || server.times_taken("there") == 1));
        assert!(seq_rises(&server), "{}", host.logs());
    }
}

#[test]
fn a_failed_upgrade_leads_back_to_the_version_before() {
    let Some(pairs) = pairs() else { return };
    for (from, to) in pairs {
        // It reaches no server and goes back by itself; it is killed, and a watcher sees to it.
        for killed in [false, true] {
            let server = Server::new();
            let (mut host, pid) = host_with(&server, &from);
            let startsecs = if killed { "30" } else { "3" };
            server.give(&upgrade(&host, &server, "up", startsecs, &to).text());
            host.wait("the fetch", || !server.requests_to("/packages/up/bootagent.tar.gz").is_empty());
            server.mode(Mode::Close);
            let on_trial = || host.job("up").is_some_and(|job| text(&job, "state") == "settling");
            host.wait("the new binary to be on trial", || host.status().is_some() && on_trial());
            if killed {
                host.kill9();
            } else {
                let back = || host.read("log/bootagent.log").matches("bin/bootagent\"").count() >= 1;
                host.wait("the old binary to be executed", back);
            }
            host.wait("a daemon", || host.status().is_some());
            server.mode(Mode::Good);
            let (code, message) = host.result(&server, "up");
            assert_eq!(code, 8, "killed {killed}: {message}\n{}", host.logs());
            assert!(from == binary() && seq_rises(&server) || from != binary(), "{}", host.logs());
            assert!(installed(&host) == fs::read(&from).expect("the binary is there"), "{message}");
            assert_eq!(host.wait_running("web").pid, pid, "{message}");
            assert!(killed || host.lives(), "the daemon has another pid");
            assert!(!host.path("state/packages/bootagent").exists(), "its package is left");
        }
    }
}

#[test]
fn a_reexec_leads_to_either_version_with_whoever_waits() {
    let Some(pairs) = pairs() else { return };
    for (from, to) in pairs {
        let server = Server::new();
        let (mut host, pid) = host_with(&server, &from);
        place(&host, &to);
        std::thread::scope(|scope| {
            let start = scope.spawn(|| host.ok(&["start", "slow"]));
            host.wait_running("slow");
            host.ok(&["reexec"]);
            start.join().expect("the start is answered");
        });
        assert!(image(&host) == fs::read(&to).expect("the binary is there"), "{}", host.logs());
        // A job goes on over it.
        server.give(&Job::new("again", "restart", "slow").text());
        host.wait("the job to begin", || host.path("state/jobs/again.json").exists());
        place(&host, &from);
        host.ok(&["reexec"]);
        assert_eq!(host.result(&server, "again").0, 0, "{}", host.logs());
        assert!(image(&host) == fs::read(&from).expect("the binary is there"), "{}", host.logs());
        assert_eq!(host.wait_running("web").pid, pid);
        assert!(host.lives());
    }
}

#[test]
fn an_upgrade_from_1_0_0_survives_a_crash_wherever_its_job_stands() {
    let Some(old) = old_binary() else { return };
    if needs_faults() {
        return;
    }
    let (before, after) = (fs::read(&old).expect("it is there"), fs::read(binary()).expect("it is there"));
    // In the new image: where it is stopped and killed, and the time it has for its first exchange.
    for (point, startsecs) in [
        ("2-SaveJob-settling:1", "30"),
        ("2-SaveJob-settling:2", "30"),
        ("2-Replace:1", "30"),
        ("2-Placed:1", "30"),
        ("2-SaveSettings:1", "30"),
        ("2-SaveJob-done:1", "30"),
        ("2-SaveJob-taken:1", "30"),
        ("2-SaveJob-settling-undo:1", "0"),
        ("2-Reexec:1", "0"),
    ] {
        let server = Server::new();
        let (mut host, pid) = host_with(&server, &old);
        host.kill9();
        host.env("BOOTAGENT_FAULT", point);
        host.start();
        host.env("BOOTAGENT_FAULT", "");
        server.give(&upgrade(&host, &server, "up", startsecs, &binary()).text());
        let daemon = host.pid();
        host.wait(point, || proc_status(daemon, "State").starts_with('T'));
        host.kill9();
        // It may become the new binary before it has answered anybody here.
        host.launch(&[]);
        let (code, message) = host.result(&server, "up");
        host.wait("the result to be noted as taken", || host.read("state/jobs/up.json").contains("\"taken\""));
        let say = |problem: &str| format!("{point}: {problem}: {code} {message}\n{}", host.logs());
        assert!(matches!((code, startsecs), (0 | 8, "30") | (8, "0")), "{}", say("another code"));
        let want = if code == 0 { &after } else { &before };
        assert!(installed(&host) == *want, "{}", say("the installed binary is another one"));
        host.wait("what is installed to run", || image(&host) == *want);
        assert_eq!(host.wait_running("web").pid, pid, "{}", say("the agent has another pid"));
        let codes = server.codes("up");
        assert!(codes.len() == 1 || point.contains("taken"), "{}", say(&format!("{codes:?}")));
        assert!(!host.path("state/packages/bootagent").exists(), "{}", say("its package is left"));
    }
}

/// 1.0.0 names the control group by the path of `state_dir` alone, and marks its agents so.
#[test]
fn agents_of_1_0_0_are_taken_over_with_their_control_groups() {
    let Some(old) = old_binary() else { return };
    let mut host = Host::new();
    host.program = old;
    let hidden = host.path("hidden").display().to_string();
    let script = format!("env -i setsid sh -c 'env -i sleep 1002 & echo $! >{hidden}'; exec sleep 1000");
    host.agent("web", &script, &[("limits", "{ \"memory\": \"64M\" }")]);
    host.start();
    let pid = host.wait_running("web").pid;
    host.wait("its orphan", || host.read("hidden").ends_with('\n'));
    let orphan: i32 = host.read("hidden").trim().parse().expect("a process id");
    let groups = |pid: i32| fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let held = |host: &Host| text(&host.status().expect("it answers"), "agents.0.limits_by").to_string();
    let (before, by) = (groups(pid), held(&host));
    host.kill9();
    host.program = binary();
    host.start();
    assert_eq!(host.wait_running("web").pid, pid);
    assert_eq!(held(&host), by, "{}", host.logs());
    let grouped = before.contains("/bootagent-");
    host.ok(&["restart", "web"]);
    let again = host.wait_running("web").pid;
    assert!(again != pid && (!grouped || !alive(orphan)), "{}", host.logs());
    assert!(!grouped || groups(again) != before, "it is in the group of 1.0.0: {before}");
    host.end("TERM");
    assert!(alive(orphan) != grouped);
    let _ = Command::new("kill").args(["-9", &orphan.to_string()]).status();
}
