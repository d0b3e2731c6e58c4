//! Keys that do for a daemon what its systemd unit did around it: directories, programs before the start, reloads, more limits.

mod util;

use std::fs;
use std::os::unix::fs::{chown, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use util::*;

/// A directory below /run that no other test has, and that is gone in the end.
struct Place(String);

impl Place {
    fn new(what: &str) -> Place {
        Place(format!("bootagent-test-{}-{what}", std::process::id()))
    }

    fn path(&self) -> PathBuf {
        Path::new("/run").join(&self.0)
    }

    fn key(&self) -> String {
        format!("[\"{}\"]", self.0)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(self.path()).or_else(|_| fs::remove_file(self.path()));
    }
}

/// Whether the agent goes on undisturbed, with the same process, over a kill -9 of the daemon and over a reexec.
fn stays(host: &mut Host, name: &str) {
    let pid = host.wait_running(name).pid;
    host.kill9();
    host.start();
    assert_eq!(host.wait_running(name).pid, pid, "after a kill -9");
    let ran = host.cli(&["reexec"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(host.wait_running(name).pid, pid, "after a reexec");
}

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
    stays(&mut host, "web");
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
    stays(&mut host, "few");
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

fn own_user() -> u32 {
    fs::metadata("/proc/self").map_or(0, |own| own.uid())
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
    stays(&mut host, "web");
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
    stays(&mut host, "web");
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
    stays(&mut host, "web");
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

/// The definitions in docs/migrating.md.
fn worked_definitions() -> Vec<String> {
    let blocks = include_str!("../docs/migrating.md").split("\n\n");
    blocks.filter(|block| block.starts_with("    {")).map(String::from).collect()
}

#[test]
fn the_worked_definitions_are_good() {
    let definitions = worked_definitions();
    assert!(definitions.len() >= 12, "only {}", definitions.len());
    for text in definitions {
        let read = bootagent::wire::config::read_definition("migrating.md", text.as_bytes(), false, true);
        assert!(read.is_ok(), "{text}: {read:?}");
    }
}

#[test]
fn worked_definitions_run_real_daemons() {
    if lacks_root() || lacks("nginx") || lacks("zabbix_agentd") || lacks("collectd") {
        return;
    }
    let mut host = Host::new();
    let dir = host.dir.display().to_string();
    host.write(
        "nginx.conf",
        &format!(
            "pid {dir}/nginx.pid; error_log stderr; events {{}} http {{ access_log off; server {{ listen unix:{dir}/web; }} }}"
        ),
    );
    host.write("collectd.conf", &format!("BaseDir \"{dir}\"\nPIDFile \"{dir}/collectd.pid\"\n"));
    // The agent takes none above 32767.
    let port = 20000 + std::process::id() % 12000;
    host.write(
        "zabbix.conf",
        &format!("LogType=console\nServer=127.0.0.1\nListenIP=127.0.0.1\nListenPort={port}\nPidFile=/tmp/bootagent-zabbix-{port}.pid\n"),
    );
    // Each as it is documented, with a configuration of the test, and without a place in /run that may be in use.
    let changes = [
        ("nginx", "\"daemon off;\"]", format!("\"daemon off;\", \"-c\", \"{dir}/nginx.conf\"]")),
        ("collectd", "/usr/sbin/collectd\",", format!("/usr/sbin/collectd\", \"-C\", \"{dir}/collectd.conf\",")),
        ("zabbix-agent", "--foreground\"]", format!("--foreground\", \"-c\", \"{dir}/zabbix.conf\"]")),
    ];
    for (name, before, after) in &changes {
        let definition = worked_definitions().into_iter().find(|text| text.contains(&format!("\"{name}\"")));
        let definition = definition.expect("it is documented").replace("\"runtime_directory\": [\"zabbix\"],", "");
        assert!(definition.contains(before), "{definition}");
        host.write(
            &format!("agents.d/{name}.json"),
            &definition.replace(before, after).replace("{ \"name\"", "{ \"startsecs\": 1, \"name\""),
        );
    }
    host.start();
    for (name, ..) in &changes {
        stays(&mut host, name);
    }
    let pid = host.wait_running("nginx").pid;
    let workers = || {
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        children.split_whitespace().map(String::from).collect::<Vec<_>>()
    };
    host.wait("its workers", || !workers().is_empty());
    let before = workers();
    assert_eq!(host.cli(&["reload", "nginx"]).code, 0);
    host.wait("new workers", || !workers().is_empty() && workers().iter().all(|worker| !before.contains(worker)));
    assert_eq!(host.wait_running("nginx").pid, pid);
    host.write("nginx.conf", "no such directive;");
    assert_eq!(host.cli(&["restart", "nginx"]).code, 1);
    let seen = host.seen("nginx").expect("a status");
    assert!(seen.detail.contains("its prestart exited with status 1"), "{seen:?}");
    assert_eq!(host.cli(&["stop", "--all"]).code, 0);
    assert!(host.agents_processes().is_empty(), "{:?}", host.agents_processes());
    let _ = fs::remove_file(format!("/tmp/bootagent-zabbix-{port}.pid"));
}

#[test]
fn the_worked_definition_of_postgresql_runs_it() {
    let bin = "/usr/lib/postgresql/15/bin";
    if lacks_root() || lacks("runuser") {
        return;
    }
    if !Path::new(bin).join("initdb").exists() {
        skipped("PostgreSQL 15");
        return;
    }
    let mut host = Host::new();
    let data = host.path("pg");
    fs::create_dir(&data).expect("a directory");
    let made = std::process::Command::new("sh")
        .args([
            "-c",
            &format!("chown postgres {0} && runuser -u postgres -- {bin}/initdb -N -A trust -D {0}", data.display()),
        ])
        .output()
        .expect("a shell");
    assert!(made.status.success(), "{made:?}");
    let definition =
        worked_definitions().into_iter().find(|text| text.contains("\"postgresql\"")).expect("it is documented");
    let data = data.display().to_string();
    let mut changed = definition.clone();
    for (before, after) in [
        ("/var/lib/postgresql/15/main", data.clone()),
        ("config_file=/etc/postgresql/15/main/postgresql.conf", format!("unix_socket_directories={data}")),
        ("\"]", "\", \"-c\", \"listen_addresses=\"]".to_string()),
        ("\"runtime_directory\": [\"postgresql\"],", String::new()),
        ("\"-q\"", format!("\"-q\", \"-h\", \"{data}\"")),
        ("\"startsecs\": 60", "\"startsecs\": 1".to_string()),
    ] {
        assert!(changed.contains(before), "{before} in {changed}");
        changed = changed.replacen(before, &after, 1);
    }
    if u64::from_str_radix(&proc_status(std::process::id() as i32, "CapEff"), 16).is_ok_and(|set| set >> 24 & 1 == 0) {
        changed = changed.replace("-900", "900");
    }
    host.write("agents.d/postgresql.json", &changed);
    host.start();
    let pid = host.wait_running("postgresql").pid;
    let is_ready = || {
        let ready = std::process::Command::new("/usr/bin/pg_isready").args(["-q", "-h", &data]).status();
        ready.expect("it is there").success()
    };
    host.wait("it to be ready", is_ready);
    stays(&mut host, "postgresql");
    assert_eq!(host.cli(&["reload", "postgresql"]).code, 0);
    assert_eq!(host.wait_running("postgresql").pid, pid);
    host.wait("the reload", || host.read("log/postgresql.log").contains("SIGHUP"));
    assert_eq!(host.cli(&["stop", "postgresql"]).code, 0);
    // Its fast stop ends with a checkpoint; killed children would have made it recover.
    let log = host.read("log/postgresql.log");
    assert!(log.contains("database system is shut down") && !log.contains("terminated by signal"), "{log}");
}
