//! Keys that do for a daemon what its systemd unit did around it: programs before the start, reloads, capabilities, more limits.

mod util;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use util::*;

#[test]
fn the_number_of_tasks_is_limited() {
    let mut host = Host::new();
    let (out, done) = (host.path("out"), host.path("done"));
    let script = format!(
        "(for i in 1 2 3 4 5 6; do sleep 1000 & echo $i >>{}; done) 2>/dev/null; : >{}; exec sleep 1000",
        out.display(),
        done.display()
    );
    host.agent("few", &script, &[("limits", "{ \"tasks\": 5 }")]);
    host.start();
    outlives_daemons(&mut host, "few");
    host.wait("it to have tried", || done.exists());
    let status = host.status().expect("a status");
    let by = text(&items(&status, "agents")[0], "limits_by").to_string();
    if by == "tasks=not held" {
        assert_eq!(host.lines("out"), 6);
        cannot_apply("no pids controller can be used here");
        return;
    }
    assert!(["cgroup1", "cgroup2"].contains(&&*by), "{by}");
    // The two shells and three more.
    assert_eq!(host.read("out"), "1\n2\n3\n");
    let shown = host.ok(&["status", "few"]);
    assert!(shown.contains("tasks=5"), "{shown}");
}

/// A script that notes each HUP in a file.
fn notes_hup(out: &Path) -> String {
    format!("trap 'echo hup >>{}' HUP; while :; do sleep 0.1; done", out.display())
}

#[test]
fn an_agent_reloads_by_a_signal() {
    let mut host = Host::new();
    let out = host.path("out");
    host.agent("web", &notes_hup(&out), &[("reload", "\"HUP\"")]);
    host.agent("none", "exec sleep 1000", &[]);
    host.agent("down", "exec sleep 1000", &[("reload", "\"HUP\""), ("autostart", "false")]);
    host.start();
    outlives_daemons(&mut host, "web");
    host.wait_running("none");
    let ran = host.cli(&["reload", "web"]);
    assert!(ran.code == 0 && ran.out.contains("agent \"web\" has reloaded"), "{ran:?}");
    host.wait("the signal", || host.read("out") == "hup\n");
    for (name, why) in
        [("none", "its definition has no \"reload\""), ("down", "it does not run"), ("who", "no agent \"who\"")]
    {
        let ran = host.cli(&["reload", name]);
        assert!(ran.code == 1 && ran.err.contains(why), "{name}: {ran:?}");
    }
    assert!(host.ok(&["status", "web"]).contains("by SIGHUP"));
    assert_eq!(host.cli(&["reload"]).code, 0, "the command of before");
}

#[test]
fn an_agent_reloads_by_a_program() {
    let mut host = Host::new();
    let out = host.path("out");
    let reload = |script: &str, timeout: &str| {
        format!("{{ \"exec\": [\"/bin/sh\", \"-c\", \"{script}\"], \"timeout\": {timeout} }}")
    };
    let user = if own_user() == 0 { &[("user", "4711"), ("group", "4711")][..] } else { &[] };
    let with = |reload: &str| {
        let mut keys = vec![("reload", reload.to_string())];
        keys.extend(user.iter().map(|(key, value)| (*key, value.to_string())));
        keys
    };
    let good = format!("echo $(id -u) $A >>{}", out.display());
    for (name, script, timeout) in
        [("good", &*good, "60"), ("bad", "echo line 7 is wrong >&2; exit 3", "60"), ("late", "sleep 1000", "0.2")]
    {
        let reload = reload(script, timeout);
        let mut keys = with(&reload);
        keys.push(("envs", "{ \"A\": \"value\" }".to_string()));
        let keys: Vec<(&str, &str)> = keys.iter().map(|(key, value)| (*key, value.as_str())).collect();
        host.agent(name, "exec sleep 1000", &keys);
    }
    host.agent("missing", "exec sleep 1000", &[("reload", "{ \"exec\": [\"/no/such/program\"] }")]);
    host.write("out", "");
    fs::set_permissions(&out, fs::Permissions::from_mode(0o666)).expect("our own file");
    host.configure();
    let ran = host.cli(&["check"]);
    assert!(ran.err.contains("missing.json: reload.exec[0]: cannot find the program \"/no/such/program\""), "{ran:?}");
    host.start();
    for name in ["good", "bad", "late", "missing"] {
        host.wait_running(name);
    }
    for (name, code, want) in [
        ("good", 0, "agent \"good\" has reloaded"),
        ("bad", 1, "does not reload: its program exited with status 3: line 7 is wrong"),
        ("late", 1, "does not reload: not done in time"),
        ("missing", 1, "does not reload: executing the program: program \"/no/such/program\": No such file"),
    ] {
        let ran = host.cli(&["reload", name]);
        let said = [&*ran.out, &*ran.err].concat();
        assert!(ran.code == code && said.contains(want), "{name}: {ran:?}");
        assert!(host.wait_running(name).failures == 0);
    }
    let user = if own_user() == 0 { 4711 } else { own_user() };
    assert_eq!(host.read("out"), format!("{user} value\n"));
}

#[test]
fn a_job_has_an_agent_reload() {
    let server = Server::new();
    let mut host = Host::with(&server);
    let out = host.path("out");
    host.agent("web", &notes_hup(&out), &[("reload", "\"HUP\"")]);
    let program = "{ \"exec\": [\"/bin/sh\", \"-c\", \"echo no >&2; exit 3\"] }";
    host.agent("bad", "exec sleep 1000", &[("reload", program)]);
    host.agent("none", "exec sleep 1000", &[]);
    host.start();
    for name in ["web", "bad", "none"] {
        host.wait_running(name);
    }
    host.does(&server, &Job::new("1", "reload", "web"), 0);
    host.wait("the signal", || host.read("out") == "hup\n");
    let said = host.does(&server, &Job::new("2", "reload", "bad"), 7);
    assert!(said.contains("the agent does not reload: its program exited with status 3: no"), "{said}");
    let said = host.does(&server, &Job::new("3", "reload", "none"), 1);
    assert!(said.contains("the agent does not reload: its definition has no \"reload\""), "{said}");
    assert_eq!(host.cli(&["stop", "web"]).code, 0);
    let said = host.does(&server, &Job::new("5", "reload", "web"), 1);
    assert!(said.contains("it does not run"), "{said}");
    host.does(&server, &Job::new("4", "reload", "who"), 3);
}

#[test]
fn open_files_are_as_many_as_there_can_be() {
    let mut host = Host::new();
    host.agent("all", "exec sleep 1000", &[("limits", "{ \"nofile\": \"unlimited\" }")]);
    host.agent("many", "exec sleep 1000", &[("limits", "{ \"nofile\": 100000000000 }")]);
    host.agent("few", "exec sleep 1000", &[("limits", "{ \"nofile\": 100 }")]);
    host.start();
    let files = |pid: i32| {
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).expect("the agent lives");
        let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("its limit").to_string();
        line.split_whitespace().nth(3).expect("a number").to_string()
    };
    let most = files(host.wait_running("all").pid);
    let kernel = fs::read_to_string("/proc/sys/fs/nr_open").expect("a kernel's limit");
    assert!(most == kernel.trim() || most == files(std::process::id() as i32), "{most}");
    assert_eq!(files(host.wait_running("many").pid), most);
    assert_eq!(files(host.wait_running("few").pid), "100");
    let said = format!("nofile=unlimited; nofile is {most}, the most there can be here");
    let shown = host.ok(&["status", "all"]);
    assert!(shown.contains(&said), "{shown}");
    assert!(!host.ok(&["status", "few"]).contains("the most"));
    // Without the right to raise it, the most is the daemon's own.
    if lacks_root() || lacks("setpriv") || lacks("prlimit") {
        return;
    }
    let mut host = Host::new();
    host.agent("all", "exec sleep 1000", &[("limits", "{ \"nofile\": \"unlimited\" }")]);
    host.through("prlimit --nofile=500:600 setpriv --bounding-set=-sys_resource");
    host.start();
    assert_eq!(files(host.wait_running("all").pid), "600");
}

#[test]
fn a_prestart_runs_before_each_start() {
    let mut host = Host::new();
    let out = host.path("out");
    let place = Place::new("pre");
    let prestart = |script: &str| format!("{{ \"exec\": [\"/bin/sh\", \"-c\", \"{script}\"], \"timeout\": 5 }}");
    let user = if own_user() == 0 { "4711" } else { return assert!(lacks_root()) };
    let good = prestart(&format!("echo pre $(id -u) $A >>{0}; : >{1}/made", out.display(), place.path().display()));
    let script = format!("test -e {1}/made && echo main >>{0}; exec sleep 1000", out.display(), place.path().display());
    let key = place.key();
    let keys = [
        ("prestart", &*good),
        ("user", user),
        ("group", user),
        ("envs", "{ \"A\": \"value\" }"),
        ("runtime_directory", &*key),
    ];
    host.write("out", "");
    fs::set_permissions(&out, fs::Permissions::from_mode(0o666)).expect("our own file");
    host.agent("web", &script, &keys);
    let (bad, late) = (prestart("sleep 1000 & echo line 7 is wrong >&2; exit 3"), prestart("sleep 1000"));
    let late = late.replace("5 }", "0.3 }");
    let (missing, gone) = ("{ \"exec\": [\"/no/such\"] }", host.path("gone"));
    for (name, prestart) in [("bad", &*bad), ("late", &*late)] {
        host.agent(
            name,
            &format!(": >{}; exec sleep 1000", gone.display()),
            &[("prestart", prestart), ("retries", "0")],
        );
    }
    host.start();
    host.wait("its output", || host.read("out") == "pre 4711 value\nmain\n");
    outlives_daemons(&mut host, "web");
    let keys = [("prestart", missing), ("retries", "0")];
    host.agent("missing", &format!(": >{}; exec sleep 1000", gone.display()), &keys);
    host.cli(&["reload"]);
    assert_eq!(host.cli(&["restart", "web"]).code, 0);
    host.wait("its output", || host.read("out") == "pre 4711 value\nmain\n".repeat(2));
    for (name, want) in [
        ("bad", "cannot start: its prestart exited with status 3: line 7 is wrong"),
        ("late", "cannot start: its prestart is not done within 0.3 s"),
        ("missing", "cannot start: prestart: executing the program: program \"/no/such\": No such file"),
    ] {
        let seen = host.wait_seen(name, "to be given up", |seen| seen.status == "fatal");
        assert!(seen.detail.contains(want), "{seen:?}");
    }
    assert!(!gone.exists(), "an agent was started without its prestart");
    assert_eq!(host.cli(&["stop", "web"]).code, 0);
    assert!(host.agents_processes().is_empty(), "{:?}", host.agents_processes());
}

#[test]
fn a_prestart_is_stopped_and_begun_anew() {
    let mut host = Host::new();
    let (out, go) = (host.path("out"), host.path("go"));
    let script = format!("echo pre >>{}; until test -e {}; do sleep 0.1; done", out.display(), go.display());
    let prestart = format!("{{ \"exec\": [\"/bin/sh\", \"-c\", \"{script}\"] }}");
    host.agent("web", "exec sleep 1000", &[("prestart", &prestart)]);
    host.start();
    host.wait("the prestart", || host.lines("out") == 1);
    let seen = host.wait_seen("web", "its prestart", |seen| seen.detail == "its prestart runs");
    assert_eq!((&*seen.status, seen.pid), ("running", 0), "{seen:?}");
    assert_eq!(host.cli(&["stop", "web"]).code, 0);
    assert!(host.agents_processes().is_empty(), "{:?}", host.agents_processes());
    let mut client = host.begin(&["start", "web"]);
    host.wait("the prestart", || host.lines("out") == 2);
    // A daemon that comes next ends it, and begins anew.
    host.kill9();
    host.start();
    host.wait("the prestart", || host.lines("out") == 3);
    host.write("go", "");
    host.wait_running("web");
    assert_eq!(host.lines("out"), 3);
    let _ = client.wait();
}

#[test]
fn another_user_has_the_ambient_capabilities() {
    if lacks_root() {
        return;
    }
    let mut host = Host::new();
    let user = [("user", "4711"), ("group", "4711")];
    let with = |more: &[(&'static str, &'static str)]| [&user[..], more].concat();
    let out = host.path("out");
    // What it executes has it too.
    let script = format!("grep CapEff: /proc/self/status >{}; exec sleep 1000", out.display());
    let ambient = ("ambient_capabilities", "[\"CAP_NET_BIND_SERVICE\", \"CAP_CHOWN\"]");
    host.write("out", "");
    fs::set_permissions(&out, fs::Permissions::from_mode(0o666)).expect("our own file");
    host.agent("web", &script, &with(&[ambient, ("no_new_privs", "true")]));
    host.agent(
        "bound",
        "exec sleep 1000",
        &with(&[ambient, ("capabilities", "[\"CAP_NET_BIND_SERVICE\", \"CAP_CHOWN\"]")]),
    );
    host.agent("plain", "exec sleep 1000", &user);
    host.start();
    for (name, want) in [("web", 1 << 10 | 1), ("bound", 1 << 10 | 1), ("plain", 0u64)] {
        let pid = host.wait_running(name).pid;
        for set in ["CapPrm", "CapEff", "CapInh", "CapAmb"] {
            assert_eq!(u64::from_str_radix(&proc_status(pid, set), 16).expect("a set"), want, "{name} {set}");
        }
    }
    host.wait("its output", || host.read("out").contains("0000000000000401"));
    outlives_daemons(&mut host, "web");
    host.agent("plain", "exec sleep 1000", &with(&[ambient, ("capabilities", "[\"CAP_CHOWN\"]")]));
    let ran = host.cli(&["check"]);
    assert!(ran.err.contains("plain.json: ambient_capabilities: want only such as are in capabilities too"), "{ran:?}");
    if lacks("setpriv") {
        return;
    }
    // A capability that the daemon does not have cannot be given.
    let mut host = Host::new();
    host.agent("web", "exec sleep 1000", &with(&[ambient, ("retries", "0")]));
    host.through("setpriv --bounding-set=-net_bind_service");
    host.start();
    let seen = host.wait_seen("web", "to be given up", |seen| seen.status == "fatal");
    assert!(seen.detail.contains("cannot start: giving it capabilities: "), "{seen:?}");
}

#[test]
fn the_control_groups_of_an_agent_that_is_gone_are_removed() {
    let mut host = Host::new();
    host.set("checksecs", "0.2");
    let agent = |host: &Host, limits: &str| host.agent("web", "exec sleep 1000", &[("limits", limits)]);
    let groups = |host: &Host| {
        let all = host.control_groups().into_iter();
        all.filter(|group| group.file_name().is_some_and(|name| name == "web")).collect::<Vec<_>>()
    };
    for end in ["killed", "stopped", "left"] {
        agent(&host, "{ \"CPU\": \"50%\", \"memory\": \"50M\", \"tasks\": 50 }");
        host.start();
        let pid = host.wait_running("web").pid;
        if groups(&host).is_empty() {
            cannot_apply("no control group can be made here");
            return;
        }
        match end {
            "killed" => host.kill9(),
            "stopped" => drop(host.end("TERM")),
            _ => drop(host.end("QUIT")),
        }
        // It ends, and is defined no more, while no daemon runs.
        let _ = std::process::Command::new("kill")
            .args(["-9", &pid.to_string()])
            .stderr(std::process::Stdio::null())
            .status();
        fs::remove_file(host.path("agents.d/web.json")).expect("it was there");
        host.start();
        host.wait("its groups to be removed", || groups(&host).is_empty());
        host.end("TERM");
        assert_eq!(host.control_groups(), Vec::<PathBuf>::new(), "after {end}");
    }
}
