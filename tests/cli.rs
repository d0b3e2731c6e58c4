//! The commands from outside: usage, exit codes, what is printed, and every message of `check`.

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
fn status_is_a_table_for_people() {
    let mut host = Host::new();
    host.start();
    let empty = host.ok(&["status"]);
    assert!(empty.contains("agents.d"), "says nothing of where agents come from:\n{empty}");
    host.agent("web", "exec sleep 1000", &[]);
    host.agent("a-longer-name", "exec sleep 1000", &[("autostart", "false"), ("version", "\"2.5\"")]);
    host.signal("HUP");
    let pid = host.wait_running("web").pid;
    let table = host.ok(&["status"]);
    let row = table.lines().find(|line| line.starts_with("web ")).unwrap_or_else(|| panic!("no row:\n{table}"));
    let words: Vec<&str> = row.split_whitespace().collect();
    assert!(words.contains(&"running") && words.contains(&"1.0") && words.contains(&pid.to_string().as_str()), "{row}");
    assert!(table.lines().any(|line| line.starts_with("a-longer-name ") && line.contains("stopped")), "{table}");

    assert!(table.starts_with("2 agents: 1 running, 1 stopped\n"), "{table}");
    assert!(table.find("web ") < table.find("a-longer-name "), "what is stopped on purpose is no trouble: {table}");

    let one = host.ok(&["status", "web"]);
    let log = host.path("log/web.log").display().to_string();
    assert!(one.contains(&log) && one.contains("a file in agents_dir"), "{one}");
    for args in [&["status", "a-longer-name"][..], &["status", "--json", "a-longer-name"]] {
        let ran = host.cli(args);
        assert!(ran.code == 1 && ran.out.contains("stop") && ran.err.is_empty(), "{args:?}: {ran:?}");
    }
    assert!(one.contains("running") && !one.contains("a-longer-name"), "{one}");
    let json = host.ok(&["status", "web", "--json"]);
    let json: miniserde::json::Value = miniserde::json::from_str(&json).unwrap();
    assert_eq!(items(&json, "agents").len(), 1);
    let ran = host.cli(&["status", "wbe"]);
    assert!(ran.code == 1 && ran.err.contains("wbe") && ran.err.contains("web"), "{ran:?}");
}

#[test]
fn status_names_the_files_that_are_bad() {
    let mut host = Host::new();
    host.agent("web", "exec sleep 1000", &[]);
    host.start();
    let pid = host.wait_running("web").pid;
    assert_eq!(host.cli(&["status"]).err, "");
    host.write("agents.d/web.json", "{ \"name\": \"web\"");
    host.write("agents.d/new.json", "{}");
    host.signal("HUP");
    let ran = host.cli(&["status"]);
    assert!(ran.code == 0 && ran.out.contains(&pid.to_string()), "{ran:?}");
    for want in ["agents.d/web.json:1:16: expected", "agents.d/new.json: name: missing", "the last good version"] {
        assert!(ran.err.contains(want), "{want}: {ran:?}");
    }
    host.write("bootagent.json", &host.read("bootagent.json").replacen('{', "{ \"x\": 1,", 1));
    let ran = host.cli(&["status"]);
    assert!(ran.code == 0 && ran.err.contains("bootagent.json: x: unknown key"), "{ran:?}");
}

#[test]
fn status_says_that_definitions_were_not_read() {
    let mut host = Host::new();
    host.agent("web", "exec sleep 1000", &[]);
    host.start();
    let says = || host.cli(&["status"]).err;
    // The daemon records what it has read when it has nothing else to do.
    host.wait("it to be read", || says().is_empty());
    let changes: [&dyn Fn(); 3] =
        [&|| host.agent("new", "exec sleep 1000", &[]), &|| host.agent("web", "exec sleep 1001", &[]), &|| {
            std::fs::remove_file(host.path("agents.d/new.json")).expect("it is there")
        }];
    for change in changes {
        change();
        assert!(says().contains("agents.d\" has changed since the daemon read it"), "{}", says());
        host.signal("HUP");
        host.wait("it to be read again", || says().is_empty());
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
fn the_example_is_a_good_definition() {
    let host = Host::new();
    host.configure();
    host.write("agents.d/example.json", &host.ok(&["example"]));
    let ran = host.cli(&["check"]);
    assert!(ran.code == 0 && ran.err.is_empty() && ran.out.contains("1 agent"), "{ran:?}");
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

#[test]
fn check_passes_what_is_good() {
    let mut host = Host::new();
    host.configure();
    let ran = host.cli(&["check"]);
    assert!(ran.code == 0 && ran.err.is_empty(), "{ran:?}");
    host.agent("web", "exec sleep 1000", &[("limits", "{ \"CPU\": \"10%\", \"memory\": \"20M\", \"nofile\": 1024 }")]);
    host.set("max_download", "\"1.5G\"").set("svrlist", "\"one.example.org:80,http://two/path,\"");
    host.configure();
    let ran = host.cli(&["check"]);
    assert!(ran.code == 0 && ran.err.is_empty(), "{ran:?}");
    // Agents may all come with jobs, but a directory that is not there may be a misspelled one as well.
    fs::remove_dir_all(host.path("agents.d")).unwrap();
    let ran = host.cli(&["check"]);
    assert!(ran.code == 0 && ran.err.contains("warning: agents_dir: there is no directory"), "{ran:?}");
}

#[test]
fn check_warns_of_what_will_be_met_later() {
    let mut host = Host::new();
    host.agent("web", "exec sleep 1000", &[("limits", "{ \"fsize\": \"64K\" }"), ("log_size", "\"1M\"")]);
    host.configure();
    let ran = host.cli(&["check"]);
    let want = "warning: web.json: limits.fsize: 64K is not above log_size (1M)";
    assert!(ran.code == 0 && ran.err.contains(want) && !ran.err.contains("noexec"), "{ran:?}");
    if lacks_root() {
        return;
    }
    let dir = host.dir.display().to_string();
    host.set("state_dir", &format!("\"{dir}/not-there/yet\""));
    host.configure();
    // The program itself is elsewhere.
    let script = "mount --bind \"$0\" \"$0\" && mount -o remount,bind,noexec \"$0\" && exec \"$@\"";
    let config = host.path("bootagent.json").display().to_string();
    let mut command = Command::new("unshare");
    command.args(["-m", "/bin/sh", "-c", script, &dir]).arg(binary()).args(["-c", &config, "check"]);
    let ran = run(&mut command).expect("unshare is there");
    let want = format!("warning: state_dir: \"{dir}\" is mounted noexec: no program of a tar package");
    assert!(ran.code == 0 && ran.err.contains(&want), "{ran:?}");
}

#[test]
fn check_refuses_directories_that_cannot_be() {
    let mut host = Host::new();
    host.write("file", "");
    let dir = host.dir.clone();
    let quoted = |path: &str| format!("\"{}\"", dir.join(path).display());
    let long = quoted(&"x".repeat(100));
    for (key, value, cause) in [
        ("run_dir", quoted("state"), "want another directory than state_dir"),
        ("run_dir", long, "no socket can be made in it"),
        ("run_dir", quoted("file/x"), "Not a directory"),
        ("state_dir", quoted("file"), "not a directory"),
        ("log_dir", quoted("file"), "not a directory"),
    ] {
        let before = quoted(key.trim_end_matches("_dir"));
        host.set(key, &value);
        host.configure();
        let ran = host.cli(&["check"]);
        let line = ran.err.lines().find(|line| line.contains(&format!("bootagent.json: {key}: "))).unwrap_or_default();
        assert!(ran.code == 1 && line.contains(cause), "{key} {value}: {ran:?}");
        host.set(key, &before);
    }
}

/// The daemon in the default directories may be another one.
#[test]
fn a_file_that_tells_no_directories_leads_to_no_daemon() {
    let host = Host::new();
    host.write("empty.json", "");
    host.write("cut.json", "{ \"step\": 1, \"run_d");
    host.write("open.json", "{}");
    fs::set_permissions(host.path("open.json"), fs::Permissions::from_mode(0o666)).unwrap();
    let files =
        [("missing", "no such file"), ("empty", "expected a value"), ("cut", "cut.json:1:"), ("open", "mode 0666")];
    for (file, why) in files {
        if file == "open" && lacks_root() {
            continue;
        }
        let path = host.path(&format!("{file}.json")).display().to_string();
        for command in [&["status"][..], &["stop", "web"], &["jobs"], &["init", "sysv"]] {
            let ran = bootagent(&[&["-c", &path], command].concat());
            assert!(ran.code == 1 && ran.err.contains(&path) && ran.err.contains(why), "{file} {command:?}: {ran:?}");
            assert!(ran.out.is_empty() && !ran.err.contains("not running"), "{file} {command:?}: {ran:?}");
        }
        let ran = bootagent(&["-c", &path, "check"]);
        assert!(ran.code == 1 && ran.err.contains(why), "{file}: {ran:?}");
    }
}

#[test]
fn check_says_every_error_with_its_place() {
    let host = Host::new();
    host.configure();
    // (file, text, the lines that must be printed, from "agents.d/" on)
    let files: [(&str, &str, &[&str]); 6] = [
        (
            "a-syntax",
            "{\n  \"name\": \"a\",\n  \"version\": \"1\"\n  \"exec\": []\n}\n",
            &["agents.d/a-syntax.json:4:3: expected \",\" or \"}\""],
        ),
        (
            "b-sizes",
            "{ \"name\": \"b\", \"version\": \"1\", \"exec\": [\"/bin/true\"],\n  \
             \"limits\": { \"memory\": \"20X\" }, \"log_size\": \"-1\" }",
            &[
                "agents.d/b-sizes.json: limits.memory: want a size such as \"20M\", got \"20X\"",
                "agents.d/b-sizes.json: log_size: ",
            ],
        ),
        ("c-missing", "{ \"name\": \"c\" }", &["agents.d/c-missing.json: version: ", "agents.d/c-missing.json: exec: "]),
        (
            "d-unknown",
            "{ \"name\": \"d\", \"version\": \"1\", \"exec\": [\"/bin/true\"], \"colour\": 1, \"check\": { \"exe\": 1 } }",
            &["agents.d/d-unknown.json: colour: ", "agents.d/d-unknown.json: check.exe: "],
        ),
        (
            "e-kinds",
            "{ \"name\": \"e/f\", \"version\": 1, \"exec\": \"/bin/true\", \"umask\": \"999\", \"user\": 7,\n  \
             \"stopsignal\": \"NONE\", \"autorestart\": \"maybe\", \"directory\": \"tmp\", \"exitcodes\": [256] }",
            &[
                "agents.d/e-kinds.json: name: ",
                "agents.d/e-kinds.json: version: ",
                "agents.d/e-kinds.json: exec: ",
                "agents.d/e-kinds.json: umask: ",
                "agents.d/e-kinds.json: stopsignal: ",
                "agents.d/e-kinds.json: autorestart: ",
                "agents.d/e-kinds.json: directory: ",
                "agents.d/e-kinds.json: exitcodes",
            ],
        ),
        (
            "f-relative",
            "{ \"name\": \"f\", \"version\": \"1\", \"exec\": [\"bin/true\"] }",
            &["agents.d/f-relative.json: exec"],
        ),
    ];
    for (file, text, _) in files {
        host.write(&format!("agents.d/{file}.json"), text);
    }
    host.agent("g-good", "exec sleep 1000", &[]);
    host.write("agents.d/h-twice.json", &definition("g-good", "1", "true", &[]));
    host.write("agents.d/not-looked-at.txt", "{");
    let ran = host.cli(&["check"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    for (_, _, wanted) in files {
        for line in wanted {
            assert!(ran.err.contains(line), "{line}\nis not in\n{}", ran.err);
        }
    }
    let twice = ran.err.lines().find(|line| line.contains("agents.d/h-twice.json: ")).unwrap_or_default();
    assert!(twice.contains("g-good.json"), "the first file of the name is not said: {twice:?}");
    assert!(!ran.err.contains("g-good.json: ") && !ran.err.contains("not-looked-at"), "{}", ran.err);
}

#[test]
fn check_says_every_error_of_the_daemons_own_file() {
    let mut host = Host::new();
    host.set("step", "0").set("retries", "-1").set("svrlist", "\"host:0\"").set("log_level", "\"loud\"");
    host.set("colour", "1").set("max_download", "\"many\"");
    host.configure();
    let ran = host.cli(&["check"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    for key in ["step", "retries", "svrlist", "log_level", "colour", "max_download"] {
        let line = format!("bootagent.json: {key}: ");
        assert!(ran.err.contains(&line), "{line}\nis not in\n{}", ran.err);
    }
    host.write("bootagent.json", "{ \"step\": 1, }");
    let ran = host.cli(&["check"]);
    assert!(ran.code == 1 && ran.err.contains("bootagent.json:1:14: "), "{ran:?}");
}

#[test]
fn a_helper_user_that_is_root_is_warned_of() {
    if lacks_root() {
        return;
    }
    let mut host = Host::new();
    host.set("helper_user", "\"root\"");
    host.configure();
    let ran = host.cli(&["check"]);
    let warning = "helper_user: \"root\" is root, ";
    assert!(ran.code == 0 && ran.err.contains(&format!("warning: {warning}")), "{ran:?}");
    host.start();
    assert!(host.read("log/bootagent.log").contains(&format!("warn  {warning}")), "{}", host.logs());
    host.set("helper_user", "\"0\"").configure();
    assert_eq!(host.cli(&["check"]).code, 1, "a number is no name");
}

#[test]
fn check_looks_for_user_group_and_program() {
    let host = Host::new();
    host.configure();
    host.agent("a", "", &[("exec", "[\"/nonexistent/program\"]")]);
    host.agent("b", "true", &[("user", "\"no-such-user\"")]);
    host.agent("c", "true", &[("group", "\"no-such-group\"")]);
    let ran = host.cli(&["check"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    for (file, cause) in [("a", "/nonexistent/program"), ("b", "no-such-user"), ("c", "no-such-group")] {
        let place = format!("agents.d/{file}.json");
        let line = ran.err.lines().find(|line| line.contains(&place)).unwrap_or_default();
        assert!(line.contains(cause), "{cause} is not said of {place} in\n{}", ran.err);
    }
}

#[test]
fn what_others_can_write_is_refused() {
    if lacks_root() {
        return;
    }
    let mut host = Host::new();
    host.agent("web", "exec sleep 1000", &[]);
    host.agent("open", "exec sleep 1000", &[]);
    fs::set_permissions(host.path("agents.d/open.json"), fs::Permissions::from_mode(0o666)).unwrap();
    host.configure();
    let ran = host.cli(&["check"]);
    assert!(ran.code == 1 && ran.err.contains("open.json"), "{ran:?}");
    host.start();
    host.wait_running("web");
    assert_ne!(host.seen("open").map(|agent| agent.status), Some("running".to_string()));
    host.end("TERM");
    fs::set_permissions(host.path("agents.d"), fs::Permissions::from_mode(0o777)).unwrap();
    let ran = host.cli(&["check"]);
    assert!(ran.code == 1 && ran.err.contains("agents.d"), "{ran:?}");
}
