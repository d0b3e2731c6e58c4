//! The commands from outside: usage, exit codes, what is printed. `tests/check.rs` and `tests/status.rs` have the two that say
//! the most.

mod util;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::time::Instant;

use util::*;

const COMMANDS: [&str; 16] = [
    "run",
    "check",
    "status",
    "start",
    "stop",
    "restart",
    "reload",
    "logs",
    "reexec",
    "report",
    "jobs",
    "init",
    "completion",
    "example",
    "sha256",
    "version",
];

#[test]
fn help_names_every_command() {
    for args in [&["help"][..], &["--help"], &["-h"]] {
        let ran = bootagent(args);
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{args:?}");
        for command in COMMANDS {
            assert!(ran.out.contains(command), "{args:?} does not name {command}");
        }
    }
    for command in COMMANDS {
        let ran = bootagent(&["help", command]);
        assert!(ran.code == 0 && ran.out.contains(command), "help {command}: {ran:?}");
        let ran = bootagent(&[command, "--help"]);
        assert!(ran.code == 0 && ran.out.contains(command), "{command} --help: {ran:?}");
    }
}

#[test]
fn the_version_is_that_of_the_package() {
    let ran = bootagent(&["version"]);
    assert_eq!(ran.code, 0);
    let version = format!("bootagent-{}-", env!("CARGO_PKG_VERSION"));
    assert!(ran.out.starts_with(&version) && ran.out.lines().count() == 1, "{ran:?}");
}

#[test]
fn wrong_usage_is_exit_code_2() {
    // (arguments, what the message names)
    let cases: [(&[&str], &str); 15] = [
        (&[], "bootagent"),
        (&["statsu"], "statsu"),
        (&["statsu"], "status"),
        (&["--frobnicate", "status"], "frobnicate"),
        (&["status", "--frobnicate"], "frobnicate"),
        (&["-c"], "c"),
        (&["start"], "NAME"),
        (&["stop"], "NAME"),
        (&["restart"], "NAME"),
        (&["status", "one", "two"], "two"),
        (&["start", "one", "--all"], "--all"),
        (&["sha256"], "FILE"),
        (&["init"], "sysv"),
        (&["init", "upstart"], "upstart"),
        (&["run", "-S", "host:0"], "host:0"),
    ];
    for (args, named) in cases {
        let ran = bootagent(args);
        assert_eq!(ran.code, 2, "{args:?}: {ran:?}");
        assert!(ran.err.contains(named), "{args:?}: {named} is not named in {:?}", ran.err);
        assert_eq!(ran.out, "", "{args:?}");
    }
}

#[test]
fn sha256_prints_what_a_job_wants() {
    let host = Host::new();
    host.write("file", "some bytes\n");
    let path = host.path("file").display().to_string();
    let ran = bootagent(&["sha256", &path]);
    assert_eq!((ran.code, ran.out), (0, format!("{}\n", checksum(b"some bytes\n"))));
    for missing in [host.path("missing"), host.dir.clone()] {
        let path = missing.display().to_string();
        let ran = bootagent(&["sha256", &path]);
        assert!(ran.code == 1 && ran.err.contains(&path) && ran.out.is_empty(), "{ran:?}");
    }
}

#[test]
fn without_a_daemon_it_is_exit_code_3() {
    let host = Host::new();
    host.configure();
    let commands: [&[&str]; 13] = [
        &["reload"],
        &["start", "--all"],
        &["stop", "web", "db"],
        &["status", "web", "--json"],
        &["status"],
        &["status", "web"],
        &["status", "--json"],
        &["start", "web"],
        &["stop", "web"],
        &["restart", "web"],
        &["report"],
        &["jobs"],
        &["reexec"],
    ];
    for args in commands {
        let ran = host.cli(args);
        assert_eq!(ran.code, 3, "{args:?}: {ran:?}");
        assert!(ran.err.contains("not running") && ran.out.is_empty(), "{args:?}: {ran:?}");
    }
    // The same beside the socket of a daemon that died.
    let mut host = Host::new();
    host.start();
    host.kill9();
    assert_eq!(host.cli(&["status"]).code, 3);
}

#[test]
fn a_panic_says_where_and_why() {
    if needs_faults() {
        return;
    }
    let mut host = Host::new();
    host.agent("web", "exec sleep 1000", &[]);
    host.env("BOOTAGENT_FAULT_PANIC", "1");
    host.launch(&[]);
    let status = host.ended();
    assert_eq!(status.signal(), Some(6), "{status}");
    // In the background nobody reads what it writes to standard error.
    for file in ["daemon.out", "log/bootagent.log"] {
        let said = host.read(file);
        let place = said.split_once("internal error: panicked at src/daemon/fault_injection.rs:").map(|(_, rest)| rest);
        let line = place.and_then(|place| place.split(':').next());
        assert!(line.is_some_and(|line| line.parse::<u32>().is_ok()), "{file}: {said}");
        assert!(said.contains("a panic was asked for"), "{file}: {said}");
    }
}

#[test]
fn start_stop_and_restart_return_when_it_is_done() {
    let mut host = Host::new();
    host.agent("web", "exec sleep 1000", &[("startsecs", "0.5")]);
    host.agent("weak", "echo out of luck; exit 4", &[("autostart", "false"), ("retries", "0")]);
    host.start();
    host.wait_running("web");
    host.ok(&["stop", "web"]);
    assert_eq!(host.agents_processes(), []);
    host.ok(&["stop", "web"]);
    let began = Instant::now();
    host.ok(&["start", "web"]);
    let agent = host.seen("web").unwrap();
    assert!(agent.runs() && began.elapsed().as_secs_f64() >= 0.4, "told before startsecs: {agent:?}");
    host.ok(&["start", "web"]);
    assert_eq!(host.seen("web").map(|now| now.pid), Some(agent.pid));
    host.ok(&["restart", "web"]);
    assert_ne!(host.seen("web").map(|now| now.pid), Some(agent.pid));

    let ran = host.cli(&["start", "weak"]);
    assert!(ran.code == 1 && (ran.out.clone() + &ran.err).contains("status 4"), "{ran:?}");
    for command in ["start", "stop", "restart"] {
        let ran = host.cli(&[command, "nobody-knows"]);
        assert!(ran.code == 1 && ran.err.contains("nobody-knows"), "{command}: {ran:?}");
    }
}

#[test]
fn several_agents_are_told_at_once() {
    let mut host = Host::new();
    for name in ["a", "b", "c"] {
        host.agent(name, "exec sleep 1000", &[("startsecs", "1"), ("autostart", "false")]);
    }
    host.start();
    let began = Instant::now();
    let ran = host.cli(&["start", "a", "b"]);
    assert!(ran.code == 0 && ran.out.contains("a: ") && ran.out.contains("b: "), "{ran:?}");
    assert!(began.elapsed().as_secs_f64() < 1.9, "one after the other");
    assert!(host.seen("a").unwrap().runs() && host.seen("b").unwrap().runs() && !host.seen("c").unwrap().runs());
    let ran = host.cli(&["restart", "b", "nobody-knows"]);
    assert!(ran.code == 1 && ran.out.contains("b: ") && ran.err.contains("nobody-knows"), "{ran:?}");
    host.ok(&["start", "--all"]);
    assert!(host.seen("c").unwrap().runs());
    host.ok(&["stop", "--all"]);
    assert_eq!(host.agents_processes(), []);
}

#[test]
fn reload_says_what_has_changed() {
    let mut host = Host::new();
    host.agent("web", "exec sleep 1000", &[]);
    host.agent("old", "exec sleep 1000", &[]);
    host.start();
    let pid = host.wait_running("web").pid;
    host.wait_running("old");
    assert_eq!(host.ok(&["reload"]), "nothing has changed\n");
    host.agent("new", "exec sleep 1000", &[]);
    host.agent("old", "exec sleep 1001", &[]);
    let said = host.ok(&["reload"]);
    assert_eq!(said, "agent \"new\": new\nagent \"old\": the definition changed\n");
    host.wait_running("new");
    fs::remove_file(host.path("agents.d/new.json")).unwrap();
    host.write("agents.d/bad.json", "{ \"name\": \"bad\" ");
    let ran = host.cli(&["reload"]);
    assert!(ran.code == 1 && ran.err.contains("agents.d/bad.json:1:"), "{ran:?}");
    assert!(ran.err.contains("agent \"new\": no definition any more"), "{ran:?}");
    assert_eq!(host.wait_running("web").pid, pid);
    fs::remove_file(host.path("agents.d/bad.json")).unwrap();
    let with =
        |key: &str| host.write("bootagent.json", &host.read("bootagent.json").replacen('{', &format!("{{ {key},"), 1));
    with("\"labels\": { \"site\": \"ams\" }");
    assert!(host.cli(&["status"]).err.contains("bootagent reload"));
    assert_eq!(host.ok(&["reload"]), "the labels have changed\n");
    assert!(host.cli(&["status"]).err.is_empty());
    with("\"retries\": 7");
    let said = host.ok(&["reload"]);
    assert!(said.contains("bootagent.json has changed") && said.contains("reexec"), "{said}");
    assert!(host.cli(&["status"]).err.contains("bootagent reexec"));
    fs::rename(host.path("agents.d"), host.path("agents.away")).unwrap();
    let ran = host.cli(&["reload"]);
    assert!(ran.code == 1 && ran.err.contains("no such directory"), "{ran:?}");
    assert_eq!(host.wait_running("web").pid, pid);
}

#[test]
fn logs_are_shown_and_followed() {
    let mut host = Host::new();
    let script = "for i in 1 2 3; do echo line $i; done; printf '\\033[2J\\n'; while sleep 0.05; do [ -e go ] && cat go && rm go; done";
    host.agent("web", script, &[("directory", &format!("\"{}\"", host.dir.display())), ("log_size", "\"1K\"")]);
    host.start();
    host.wait_running("web");
    host.wait("the output", || host.lines("log/web.log") == 4);
    assert_eq!(host.ok(&["logs", "web", "-n", "3"]), "line 2\nline 3\n [2J\n");
    assert!(host.ok(&["logs"]).contains("agent \"web\": started"));
    let ran = host.cli(&["logs", "nobody"]);
    assert!(ran.code == 1 && ran.err.contains("nobody.log"), "{ran:?}");

    let config = host.path("bootagent.json");
    let followed = fs::File::create(host.path("followed")).unwrap();
    let mut child = Command::new(binary());
    let mut child =
        child.arg("-c").arg(config).args(["logs", "-f", "-n", "1", "web"]).stdout(followed).spawn().unwrap();
    host.wait("the last line", || host.lines("followed") == 1);
    let mut written = String::new();
    let mut say = |host: &Host, numbers: std::ops::RangeInclusive<u32>| {
        let text: String = numbers.map(|number| format!("number {number}\n")).collect();
        host.write("go.new", &text);
        fs::rename(host.path("go.new"), host.path("go")).unwrap();
        written += &text;
        host.wait("what is added", || host.read("followed").ends_with(&written));
    };
    let is_rotated = |host: &Host| host.path("log/web.log").metadata().is_ok_and(|log| log.len() < 1024);
    // More than fits, and with nothing of it lost: over a rotation, without a daemon, and over the rotation after that.
    say(&host, 1..=300);
    host.wait("a rotation", || is_rotated(&host));
    say(&host, 301..=600);
    host.kill9();
    say(&host, 601..=900);
    host.start();
    host.wait("another rotation", || is_rotated(&host));
    say(&host, 901..=910);
    // The agent's next start makes a log that was moved away anew, and follow goes on there.
    fs::rename(host.path("log/web.log"), host.path("moved")).unwrap();
    host.ok(&["restart", "web"]);
    host.wait("the new file", || host.read("followed").contains("number 910\nline 1\n"));
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn the_socket_is_for_root_alone() {
    let mut host = Host::new();
    host.start();
    let mode = |path: &str| fs::metadata(host.path(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("run/bootagent.sock"), 0o600);
    assert_eq!((mode("state"), mode("run")), (0o755, 0o755));
    for record in entries(&host.path("state")).iter().filter(|path| path.is_file()) {
        assert_eq!(fs::metadata(record).unwrap().permissions().mode() & 0o777, 0o600, "{}", record.display());
    }
}

#[test]
fn an_output_that_nobody_reads_is_no_matter() {
    let mut host = Host::new();
    host.agent("web", "exec sleep 1000", &[]);
    host.start();
    let config = host.path("bootagent.json");
    let mut child = Command::new(binary())
        .arg("-c")
        .arg(config)
        .arg("status")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}
