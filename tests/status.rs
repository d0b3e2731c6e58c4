//! `status` as people see it: on terminals of any width, with many agents, with and without colours, and again and again.

mod util;

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use util::*;

const REASON: &str = "cannot bind to port 9100: Address already in use by another process of this host";

/// A host with `count` agents of which one is fatal, and `running` run.
fn many(count: usize, running: usize) -> Host {
    let mut host = Host::new();
    for number in 0..count {
        let name = format!("{}-{number:03}", ["collector", "log-shipper", "scanner-of-vulnerabilities"][number % 3]);
        let starts = [("autostart", if number < running { "true" } else { "false" })];
        host.agent(&name, "exec sleep 1000", &starts);
    }
    host.agent("exporter", &format!("echo '{REASON}'; exit 1"), &[("retries", "0")]);
    host.start();
    host.wait("all to be started", || host.ok(&["status"]).contains(&format!(": {running} running")));
    host.wait_seen("exporter", "to be given up", |agent| agent.status == "fatal");
    // The daemon records what it has read when it has nothing else to do.
    host.wait("it to say that it has read all", || host.cli(&["status"]).err.is_empty());
    host
}

/// `status` on a terminal: `setup` is a command before it, such as one that gives the terminal its size.
fn on_terminal(host: &Host, setup: &str, variables: &[(&str, &str)]) -> String {
    let config = host.path("bootagent.json").display().to_string();
    let line = format!("{setup}; {} -c {config} status", binary().display());
    let mut command = Command::new("script");
    command.args(["-qec", &line, "/dev/null"]).stdin(Stdio::null());
    command.env_remove("COLUMNS").env_remove("NO_COLOR").env("TERM", "xterm").envs(variables.iter().copied());
    let ran = run(&mut command).expect("it ends");
    assert_eq!(ran.code, 0, "{ran:?}");
    ran.out.replace('\r', "")
}

fn with_columns(host: &Host, columns: &str) -> String {
    let mut command = Command::new(binary());
    command.arg("-c").arg(host.path("bootagent.json")).arg("status").env("COLUMNS", columns).stdin(Stdio::null());
    let ran = run(&mut command).expect("it ends");
    assert!(ran.code == 0 && ran.err.is_empty(), "{ran:?}");
    ran.out
}

#[test]
fn sixty_agents_fit_any_width() {
    let host = many(59, 12);
    for (columns, heads, part) in [
        (
            "60",
            "NAME                            STATE    UPTIME",
            "    exited with status 1 after 0 s: cannot bind to port",
        ),
        ("80", "VERSION  STATE    UPTIME", &format!("    exited with status 1 after 0 s: {}", &REASON[..35])),
        ("200", "FAILURES  DETAIL\n", &format!("  exited with status 1 after 0 s: {}", &REASON[..60])),
    ] {
        let table = with_columns(&host, columns);
        let width: usize = columns.parse().expect("a number");
        let wide: Vec<&str> = table.lines().filter(|line| line.chars().count() > width).collect();
        assert_eq!(wide, [""; 0], "{columns}: {table}");
        assert!(table.starts_with("60 agents: 12 running, 47 stopped, 1 fatal\n"), "{columns}: {table}");
        assert!(table.contains(heads) && table.contains(part), "{columns}: {table}");
        let names: Vec<&str> = table.lines().filter(|line| line.contains("-0") || line.starts_with("exp")).collect();
        assert!(names.len() == 60 && names[0].starts_with("exporter "), "{columns}: {table}");
        assert!(names[1..13].iter().all(|line| line.contains(" running ")), "{columns}: {table}");
    }
}

#[test]
fn a_thousand_agents_are_told_with_the_trouble_first() {
    let host = many(999, 3);
    let table = with_columns(&host, "80");
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines[0], "1000 agents: 3 running, 996 stopped, 1 fatal");
    assert!(lines[4].starts_with("exporter ") && lines[5].contains("cannot bind"), "{}", lines[..9].join("\n"));
    assert!(lines[6..9].iter().all(|line| line.contains(" running ")), "{}", lines[..9].join("\n"));
    assert_eq!(lines.iter().filter(|line| line.contains(" stopped ")).count(), 996);
    // Whoever misspells one is not told all the others.
    let ran = host.cli(&["status", "exportre"]);
    assert!(ran.code == 1 && ran.err.contains("did you mean \"exporter\"?"), "{ran:?}");
    let ran = host.cli(&["status", "nobody"]);
    assert!(ran.code == 1 && ran.err.len() < 200 && ran.err.contains("\"bootagent status\""), "{ran:?}");
}

#[test]
fn a_terminal_gives_width_and_colours() {
    if lacks("script") {
        return;
    }
    let host = many(2, 2);
    let sized = |columns: u32| format!("stty cols {columns}");
    let coloured = on_terminal(&host, &sized(200), &[]);
    assert!(coloured.contains("\x1b[1;31mfatal\x1b[0m") && coloured.contains("\x1b[32mrunning\x1b[0m"), "{coloured}");
    for variable in [("NO_COLOR", "1"), ("TERM", "dumb")] {
        let plain = on_terminal(&host, &sized(200), &[variable]);
        assert!(!plain.contains('\x1b') && plain.contains("fatal"), "{variable:?}: {plain}");
    }
    let widest = |text: &str| text.lines().map(|line| line.chars().count()).max();
    let narrow = on_terminal(&host, &sized(60), &[("NO_COLOR", "1")]);
    assert!(widest(&narrow) <= Some(60) && narrow.contains("cannot bind"), "{narrow}");
    // What somebody says counts more than the terminal; nonsense and an empty NO_COLOR say nothing.
    let wide = on_terminal(&host, &sized(60), &[("NO_COLOR", "1"), ("COLUMNS", "200")]);
    assert!(widest(&wide) > Some(120), "{wide}");
    for nonsense in ["", "0", "x"] {
        let narrow = on_terminal(&host, &sized(60), &[("NO_COLOR", "1"), ("COLUMNS", nonsense)]);
        assert!(widest(&narrow) <= Some(60), "{nonsense:?}: {narrow}");
    }
    assert!(on_terminal(&host, &sized(200), &[("NO_COLOR", "")]).contains('\x1b'));
    // Whoever reads it from a pipe gets all of it.
    let piped = host.ok(&["status"]);
    assert!(piped.contains(REASON) && !piped.contains('\x1b'), "{piped}");
}

#[test]
fn watch_shows_what_changes_until_it_is_interrupted() {
    let mut host = Host::new();
    host.agent("web", "exec sleep 1000", &[]);
    host.start();
    host.wait_running("web");
    let config = host.path("bootagent.json").display().to_string();
    let seen = File::create(host.path("seen")).expect("the host's directory can be written");
    let on_pipe = lacks("script");
    let mut command = Command::new(if on_pipe { "sh" } else { "script" });
    let line = format!("exec {} -c {config} status --watch", binary().display());
    command.args(if on_pipe { vec!["-c", &line] } else { vec!["-qec", &line, "/dev/null"] });
    let mut child =
        command.env("TERM", "xterm").stdin(Stdio::piped()).stdout(seen).spawn().expect("it can be executed");
    host.wait("the first one", || host.read("seen").contains("running"));
    host.ok(&["stop", "web"]);
    host.wait("the change", || host.read("seen").contains("1 agent: 1 stopped"));
    if !on_pipe {
        // Each begins on an empty screen.
        let screens = host.read("seen");
        assert!(screens.split("\x1b[H\x1b[2J").skip(1).all(|screen| screen.starts_with("1 agent: ")), "{screens}");
    }
    let watching = descendants(child.id() as i32).last().copied().unwrap_or(child.id() as i32);
    kill(watching, "INT");
    child.wait().expect("our own child");

    // On a pipe there is a line between two, and it ends with its reader.
    let mut child = Command::new(binary())
        .args(["-c", &config, "status", "web", "--watch"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary can be executed");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let first: Vec<String> = lines.by_ref().take(2).map_while(Result::ok).collect();
    assert_eq!(first, ["", "web"]);
    drop(lines);
    let ended = patiently(|| child.try_wait().expect("our own child"));
    assert!(ended.is_some_and(|status| status.success()), "{ended:?}");
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
    // A trouble with something else hides nothing.
    host.agent("mute", "exec sleep 1000", &[]);
    host.write("log/mute.log/in-its-place", "");
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
