//! Reexec from outside: a new binary replaces the daemon in its process, and nothing is lost, done twice or noticed.

mod util;

use std::fs;
use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};

use util::*;

#[test]
fn a_reexec_disturbs_nothing() {
    let mut host = Host::new();
    host.agent("web", "exec sleep 1000", &[]);
    host.start();
    let (daemon, pid) = (host.pid(), host.wait_running("web").pid);
    for _ in 0..3 {
        host.ok(&["reexec"]);
        assert!(host.lives(), "the daemon has another pid than {daemon}");
        assert_eq!(host.wait_running("web").pid, pid);
    }
    // Still its child: the end is seen with its cause.
    kill(pid, "KILL");
    host.wait_seen("web", "to come back", |agent| agent.runs() && agent.pid != pid);
    let good = host.read("bootagent.json");
    host.write("bootagent.json", &good.replace("\"step\": 0.3", "\"step\": \"x\""));
    let ran = host.cli(&["reexec"]);
    assert!(
        ran.code == 1 && ran.err.contains("step"),
        "put in place with a configuration that it cannot read: {ran:?}"
    );
    host.write("bootagent.json", "{ \"step\": }");
    host.signal("USR2");
    host.wait("the refusal", || host.read("log/bootagent.log").matches("reexec refused").count() == 2);
    assert!(host.lives());
}

#[test]
fn an_end_in_the_gap_is_neither_lost_nor_doubled() {
    let server = Server::new();
    let mut host = Host::with(&server);
    host.set("retries", "1000").set("windowsecs", "1000").set("restartsecs", "0.05");
    host.agent("mortal", "exec sleep 1000", &[]);
    host.agent("other", "exec sleep 1000", &[]);
    host.start();
    let other = host.wait_running("other").pid;
    let rounds = variable("REEXEC_ROUNDS", 30);
    for round in 0..rounds {
        let pid = host.wait_running("mortal").pid;
        std::thread::scope(|scope| {
            let reexec = scope.spawn(|| host.ok(&["reexec"]));
            // The gap is somewhere in the first tenth of a second.
            let_pass(Duration::from_millis(100 * (round % 50) / rounds.min(50)));
            kill(pid, "KILL");
            reexec.join().expect("the reexec succeeds");
        });
        let seen = host.wait_seen("mortal", "to come back", |agent| agent.runs() && agent.pid != pid);
        assert_eq!(seen.failures as u64, round + 1, "{seen:?}\n{}", host.logs());
        assert!(host.lives(), "the daemon has another pid\n{}", host.logs());
        host.wait("one copy of each agent", || host.agents_processes().len() == 2);
    }
    assert_eq!(host.wait_running("other").pid, other);
    let told = || {
        let statuses = server.statuses();
        let events = statuses.iter().flat_map(|status| items(status, "events"));
        events.filter(|event| text(event, "message").contains("SIGKILL")).count()
    };
    let all = || {
        let statuses = server.statuses();
        let events = statuses.iter().flat_map(|status| items(status, "events"));
        events.map(|event| text(event, "message").to_string()).collect::<Vec<_>>()
    };
    if patiently(|| (told() >= rounds as usize).then_some(())).is_none() {
        panic!("told {} of {rounds}: {:#?}", told(), all());
    }
    // An event that is sent twice would be sent before the next one.
    kill(host.wait_running("mortal").pid, "KILL");
    host.wait("one more to be told", || told() > rounds as usize);
    assert_eq!(told(), rounds as usize + 1, "an end was told twice");
    let taken_over = |status| items(status, "events").iter().any(|event| text(event, "message").contains("taken over"));
    assert!(!server.statuses().iter().any(taken_over), "a reexec is no news");
}

#[test]
fn a_command_under_way_is_answered_by_the_new_image() {
    let mut host = Host::new();
    host.agent("slow", "exec sleep 1000", &[("autostart", "false"), ("startsecs", "3")]);
    host.agent("stubborn", "trap '' TERM; while :; do sleep 0.1; done", &[("stopsecs", "2")]);
    host.start();
    host.wait_running("stubborn");
    std::thread::scope(|scope| {
        let began = Instant::now();
        let start = scope.spawn(|| host.ok(&["start", "slow"]));
        host.wait_running("slow");
        host.ok(&["reexec"]);
        let early = start.is_finished() && began.elapsed() < Duration::from_secs(3);
        assert!(!early, "answered before its startsecs");
        let stop = scope.spawn(|| host.ok(&["stop", "stubborn"]));
        host.wait("the stop to begin", || !host.seen("stubborn").is_some_and(|agent| agent.runs()));
        host.ok(&["reexec"]);
        start.join().expect("the start is answered");
        assert!(began.elapsed() >= Duration::from_secs(3), "answered before its startsecs");
        stop.join().expect("the stop is answered");
    });
    assert_eq!(host.agents_processes().len(), 1);
}

#[test]
fn the_uptime_and_the_reporting_go_on() {
    let server = Server::new();
    let mut host = Host::with(&server);
    host.set("step", "1000");
    host.agent("web", "exec sleep 1000", &[]);
    host.start();
    host.wait_running("web");
    host.wait("an uptime", || host.status().is_some_and(|status| number(&status, "uptime") >= 2.0));
    let reports = server.statuses().len();
    for _ in 0..5 {
        host.ok(&["reexec"]);
        let status = host.status().expect("the daemon answers");
        assert!(number(&status, "uptime") >= 2.0, "the daemon is the same: {}", number(&status, "uptime"));
    }
    assert!(stays(|| server.statuses().len() <= reports + 1), "a storm of reports");
    let ran = host.cli(&["report"]);
    assert_eq!(ran.code, 0, "{ran:?}");
}

#[test]
fn a_signal_is_as_good_as_the_command() {
    let mut host = Host::new();
    host.agent("web", "exec sleep 1000", &[]);
    host.start();
    let pid = host.wait_running("web").pid;
    host.signal("USR2");
    host.wait("the new image to begin", || host.read("log/bootagent.log").matches(" starts as process ").count() == 2);
    assert_eq!(host.wait_running("web").pid, pid);
    assert!(host.lives());
}

#[test]
fn a_job_restarts_the_daemon_in_place() {
    let server = Server::new();
    let mut host = Host::with(&server);
    host.agent("web", "exec sleep 1000", &[]);
    host.start();
    let pid = host.wait_running("web").pid;
    let message = host.does(&server, &Job::new("r1", "restart", "bootagent"), 0);
    assert!(message.contains("bootagent-"), "{message}");
    assert_eq!(host.read("log/bootagent.log").matches(" starts as process ").count(), 2);
    assert_eq!(host.wait_running("web").pid, pid);
    assert!(host.lives());
    host.does(&server, &Job::new("r2", "restart", "web"), 0);
    assert_eq!(server.times_taken("r1"), 1);
}

#[test]
fn what_is_on_disk_by_then_runs() {
    let mut host = Host::new();
    host.install();
    host.agent("web", "exec sleep 1000", &[]);
    host.start();
    let (daemon, pid) = (host.pid(), host.wait_running("web").pid);
    // As an operator does it: beside, then renamed over. Then by a link to another directory.
    copy_program(&binary(), &host.path("bin/bootagent.next"));
    fs::rename(host.path("bin/bootagent.next"), host.path("bin/bootagent")).unwrap();
    host.ok(&["reexec"]);
    fs::create_dir(host.path("other")).unwrap();
    copy_program(&binary(), &host.path("other/bootagent"));
    fs::remove_file(host.path("bin/bootagent")).unwrap();
    symlink(host.path("other/bootagent"), host.path("bin/bootagent")).unwrap();
    host.ok(&["reexec"]);
    let image = fs::read_link(format!("/proc/{daemon}/exe")).unwrap();
    let line = fs::read(format!("/proc/{daemon}/cmdline")).unwrap();
    let line = String::from_utf8_lossy(&line).replace('\0', " ");
    // An emulator stands there for what it runs.
    if !is_emulated() {
        assert_eq!(image, host.path("other/bootagent"));
        assert_eq!(line.trim(), format!("{} -c {} run", host.program.display(), host.path("bootagent.json").display()));
    }
    assert_eq!(host.wait_running("web").pid, pid);
    // No descriptor of the reexec data stays open or reaches an agent.
    let open = entries(format!("/proc/{daemon}/fd").as_ref()).len();
    host.ok(&["reexec"]);
    host.wait("the clients to be gone", || entries(format!("/proc/{daemon}/fd").as_ref()).len() <= open);
    kill(pid, "KILL");
    let pid = host.wait_seen("web", "to come back", |agent| agent.runs() && agent.pid != pid).pid;
    // Until the child has executed its program, it is a copy of the daemon.
    host.wait("the program to be executed", || fs::read(format!("/proc/{pid}/comm")).unwrap_or_default() == b"sleep\n");
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap();
    assert!(!String::from_utf8_lossy(&environment).contains("HANDOVER"));
}

#[test]
fn a_bad_binary_is_refused() {
    let mut host = Host::new();
    host.install();
    host.agent("web", "exec sleep 1000", &[]);
    host.start();
    let pid = host.wait_running("web").pid;
    let client = host.program.clone();
    // Another machine's: the ELF header's machine is none.
    let mut foreign = fs::read(binary()).unwrap();
    foreign[18..20].copy_from_slice(&[0xfe, 0xfe]);
    let script = |text: &str| format!("#!/bin/sh\n# {}\n{text}\n", host.dir.display()).into_bytes();
    host.program = binary();
    for (what, bytes, want) in [
        ("fails", script("exit 1"), "exited with status 1"),
        ("says nothing", script("exit 0"), "does not say"),
        ("cannot check", script("[ $1 = version ] && echo bootagent-9; [ $1 = version ] || exit 3"), "status 3"),
        ("is foreign", foreign, "executing the program"),
        ("is empty", Vec::new(), "executing the program"),
        ("hangs", script("sleep 1000"), "not done within 10 s"),
    ] {
        let next = host.path("bin/next");
        fs::write(host.path("bytes"), bytes).unwrap();
        copy_program(&host.path("bytes"), &next);
        fs::rename(&next, &client).unwrap();
        let ran = host.cli(&["reexec"]);
        assert_eq!(ran.code, 1, "{what}: {ran:?}");
        assert!(ran.err.contains("refused") && ran.err.contains(want), "{what}: {ran:?}");
        assert_eq!(host.wait_running("web").pid, pid);
    }
    host.wait("the hanging ones to be gone", || host.agents_processes().len() == 1);
    fs::remove_file(&client).unwrap();
    assert_eq!(host.cli(&["reexec"]).code, 1);
    copy_program(&binary(), &client);
    host.ok(&["reexec"]);
    assert_eq!(host.wait_running("web").pid, pid);
}

#[test]
fn a_bad_or_moved_configuration_is_refused() {
    let mut host = Host::new();
    host.agent("web", "exec sleep 1000", &[]);
    host.start();
    let pid = host.wait_running("web").pid;
    host.write("agents.d/bad.json", "{");
    let ran = host.cli(&["reexec"]);
    assert!(ran.code == 1 && ran.err.contains("bad.json"), "{ran:?}");
    fs::remove_file(host.path("agents.d/bad.json")).unwrap();
    let good = host.read("bootagent.json");
    let elsewhere =
        good.replace(&host.path("state").display().to_string(), &host.path("elsewhere").display().to_string());
    host.write("bootagent.json", &elsewhere);
    let ran = host.cli(&["reexec"]);
    assert!(ran.code == 1 && ran.err.contains("state_dir"), "{ran:?}");
    host.write("bootagent.json", &good);
    host.ok(&["reexec"]);
    assert_eq!(host.wait_running("web").pid, pid);
    assert_eq!(host.agents_processes(), [pid]);
}
