//! Agents whose children are not theirs to end, with `"kill": "main"`: what a stop leaves, who has it then, and what ends it.

mod util;

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use util::*;

/// A script that leaves two processes, one of them in a session of its own, and ends with TERM itself.
fn leaves(host: &Host) -> String {
    let out = host.path("out").display().to_string();
    let pipe = host.path("pipe").display().to_string();
    // One process each; the directory in its arguments is how the host finds it.
    let child = format!("trap \"echo child >>{out}\" TERM; exec 3<>{pipe}; while :; do read line <&3; done");
    format!("test -p {pipe} || mkfifo {pipe}; sh -c '{child}' & setsid sh -c '{child}' & trap 'echo main >>{out}; exit 0' TERM; while :; do wait; done")
}

/// The processes of this host that `leaves` has left.
fn left(host: &Host) -> BTreeSet<i32> {
    let is_child = |pid: &i32| {
        let arguments = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        arguments.starts_with("sh\0-c\0trap")
    };
    host.agents_processes().into_iter().filter(is_child).collect()
}

/// Waits for them, and has the daemon look at them: without a control group it knows only what it has seen below the main
/// process.
fn wait_left(host: &Host, count: usize) -> BTreeSet<i32> {
    host.wait("what it starts", || left(host).len() == count && host.status().is_some());
    left(host)
}

fn is_told(host: &Host, name: &str, count: usize) {
    let text = if count == 1 { "1 process left".to_string() } else { format!("{count} processes left") };
    host.wait_seen(name, &text, |seen| seen.detail.contains(&format!("{text} by earlier runs")));
}

/// A host with control groups where they can be made, and one without for root, who can hide them.
fn hosts() -> Vec<Host> {
    let mut hosts = vec![Host::new()];
    if own_user() == 0 {
        let mut without = Host::new();
        without.behind(NO_GROUPS);
        hosts.push(without);
    }
    hosts
}

#[test]
fn a_stop_and_a_restart_leave_what_the_agent_has_started() {
    for mut host in hosts() {
        host.agent("web", &leaves(&host), &[("kill", "\"main\"")]);
        host.start();
        let first = host.wait_running("web").pid;
        let two = wait_left(&host, 2);
        assert_eq!(host.cli(&["stop", "web"]).code, 0);
        assert_eq!((host.read("out"), left(&host), alive(first)), ("main\n".into(), two.clone(), false));
        is_told(&host, "web", 2);
        let seen = host.seen("web").expect("a status");
        assert_eq!(
            (&*seen.status, &*seen.detail, seen.pid),
            ("stoped", "stopped; 2 processes left by earlier runs", 0)
        );
        assert_eq!(host.cli(&["start", "web"]).code, 0);
        wait_left(&host, 4);
        is_told(&host, "web", 2);
        assert_eq!(host.cli(&["restart", "web"]).code, 0);
        assert!(wait_left(&host, 6).is_superset(&two));
        is_told(&host, "web", 4);
        // Its own end is no end of the others either, and they are not waited for.
        let pid = host.wait_running("web").pid;
        kill(pid, "KILL");
        host.wait_seen("web", "to be down", |seen| seen.status == "killed");
        assert!(wait_left(&host, 6).is_superset(&two));
        assert_eq!(host.read("out"), "main\n".repeat(2), "no other got a signal");
        // What has ended is not reported any more.
        two.iter().for_each(|pid| kill(*pid, "KILL"));
        is_told(&host, "web", 4);
        left(&host).iter().for_each(|pid| kill(*pid, "KILL"));
        host.wait_seen("web", "nothing to be left", |seen| !seen.detail.contains("left by"));
    }
}

#[test]
fn the_next_daemon_takes_nothing_that_is_left_for_the_main_process() {
    let mut host = Host::new();
    host.agent("web", &leaves(&host), &[("kill", "\"main\"")]);
    host.start();
    wait_left(&host, 2);
    assert_eq!(host.cli(&["restart", "web"]).code, 0);
    let pid = host.wait_running("web").pid;
    let four = wait_left(&host, 4);
    let grouped = !host.control_groups().is_empty();
    for end in ["kill -9", "reexec"] {
        match end {
            "reexec" => assert_eq!(host.cli(&["reexec"]).code, 0),
            _ => {
                host.kill9();
                host.start();
            }
        }
        assert_eq!(host.wait_running("web").pid, pid, "{end}");
        if grouped {
            is_told(&host, "web", 2);
        }
    }
    // Its main process ends while no daemon runs.
    host.kill9();
    kill(pid, "KILL");
    host.start();
    let seen = host.wait_seen("web", "to be known as down", |seen| seen.status == "stoped");
    assert!(seen.pid == 0 && left(&host) == four, "{seen:?}");
    assert_eq!(host.cli(&["stop", "web"]).code, 0);
    for end in ["kill -9", "TERM"] {
        match end {
            "TERM" => drop(host.end("TERM")),
            _ => host.kill9(),
        }
        host.start();
        let seen = host.wait_seen("web", "to be down", |seen| seen.status == "stoped");
        assert!(seen.pid == 0 && left(&host) == four, "{end}: {seen:?}");
        if grouped {
            is_told(&host, "web", 4);
        }
    }
    assert_eq!(host.read("out"), "main\n");
}

#[test]
fn a_forking_agent_is_not_found_among_what_is_left() {
    for mut host in hosts() {
        for (name, pidfile) in [("with", true), ("without", false)] {
            let file = host.path(&format!("{name}.pid")).display().to_string();
            let note = if pidfile { format!("echo $$ >{file}; ") } else { String::new() };
            let main = format!("{note}setsid sleep 1001 & exec sleep 1000");
            let key = format!("\"{file}\"");
            let mut keys = vec![("kill", "\"main\""), ("type", "\"forking\"")];
            keys.extend(pidfile.then_some(("pidfile", &*key)));
            host.agent(name, &format!("setsid sh -c '{main}' & exit 0"), &keys);
        }
        host.start();
        for name in ["with", "without"] {
            let first = host.wait_seen(name, "its main process", |seen| seen.runs() && seen.pid > 0).pid;
            for round in 1..3 {
                // Without a control group the daemon knows the other process only if it has seen it below the main process.
                host.wait("the other process", || {
                    host.seen(name).is_some_and(|seen| descendants(seen.pid).len() == 1) && host.status().is_some()
                });
                assert_eq!(host.cli(&["restart", name]).code, 0, "{name}");
                let seen = host.wait_seen(name, "its main process", |seen| seen.runs() && seen.pid > 0);
                let command = fs::read_to_string(format!("/proc/{}/cmdline", seen.pid)).unwrap_or_default();
                assert!(command.starts_with("sleep\x001000") && seen.pid != first, "{name}: {command} {seen:?}");
                is_told(&host, name, round);
            }
            host.kill9();
            let pid = host.seen(name).map_or(0, |seen| seen.pid);
            host.start();
            let again = host.wait_seen(name, "its main process", |seen| seen.runs() && seen.pid > 0).pid;
            assert!(pid == 0 || again == pid, "{name}");
        }
        assert_eq!(host.cli(&["stop", "--all"]).code, 0);
    }
}

#[test]
fn what_is_left_outlives_the_definition_and_counts_for_the_next_one() {
    let mut host = Host::new();
    host.set("checksecs", "0.2");
    let script = leaves(&host);
    host.agent("web", &script, &[("kill", "\"main\"")]);
    host.start();
    let two = wait_left(&host, 2);
    let groups = |host: &Host| {
        let all = host.control_groups().into_iter();
        all.filter(|group| group.file_name().is_some_and(|name| name == "web")).collect::<Vec<PathBuf>>()
    };
    let grouped = !groups(&host).is_empty();
    fs::remove_file(host.path("agents.d/web.json")).expect("it was there");
    assert_eq!(host.cli(&["reload"]).code, 0);
    host.wait("it to be forgotten", || host.seen("web").is_none());
    for _ in 0..2 {
        host.kill9();
        host.start();
        host.wait("a status", || host.status().is_some());
        assert!(host.seen("web").is_none() && left(&host) == two, "{:?}", host.seen("web"));
    }
    if !grouped {
        cannot_apply("no control group can be made here");
        return;
    }
    assert!(!groups(&host).is_empty(), "their group is left");
    host.agent("web", &script, &[("kill", "\"main\"")]);
    assert_eq!(host.cli(&["reload"]).code, 0);
    wait_left(&host, 4);
    is_told(&host, "web", 2);
    fs::remove_file(host.path("agents.d/web.json")).expect("it was there");
    assert_eq!(host.cli(&["reload"]).code, 0);
    host.wait("it to be forgotten", || host.seen("web").is_none());
    left(&host).iter().for_each(|pid| kill(*pid, "KILL"));
    host.wait("its group to be removed", || groups(&host).is_empty());
}

#[test]
fn a_limit_and_an_uninstall_end_all() {
    let server = Server::new();
    let mut host = Host::with(&server);
    host.start();
    let package = tarball(&host, "web", "1.0", &format!("#!/bin/sh\n{}\n", leaves(&host)), &[("kill", "\"main\"")]);
    let url = server.serve(&package.file, &package.bytes);
    host.does(&server, &Job::new("1", "install", "web").package(&url, &package).set("startsecs", "0.5"), 0);
    wait_left(&host, 2);
    host.does(&server, &Job::new("2", "restart", "web"), 0);
    wait_left(&host, 4);
    host.does(&server, &Job::new("3", "stop", "web"), 0);
    wait_left(&host, 4);
    host.does(&server, &Job::new("4", "uninstall", "web"), 0);
    host.wait("all to end", || host.agents_processes().is_empty());
    // They ignore TERM.
    assert!(host.read("out").contains("child\n"));
    let hog = "sleep 1000 & wait_for=$(head -c 60000000 /dev/zero | tr '\\0' x); sleep 1000";
    host.agent("hog", hog, &[("kill", "\"main\""), ("limits", "{ \"memory\": \"30M\" }")]);
    assert_eq!(host.cli(&["reload"]).code, 0);
    host.wait_seen("hog", "to be over its limit", |seen| seen.status == "killed");
    host.wait("all to end", || host.agents_processes().is_empty());
}

#[test]
fn a_runtime_directory_goes_with_the_main_process() {
    if lacks_root() {
        return;
    }
    let mut host = Host::new();
    let name = format!("bootagent-test-{}-left", std::process::id());
    let place = Path::new("/run").join(&name);
    host.agent("web", &leaves(&host), &[("kill", "\"main\""), ("runtime_directory", &format!("[\"{name}\"]"))]);
    host.start();
    let two = wait_left(&host, 2);
    assert!(place.is_dir());
    assert_eq!(host.cli(&["stop", "web"]).code, 0);
    assert!(!place.exists() && left(&host) == two);
    assert_eq!(host.cli(&["start", "web"]).code, 0);
    assert!(place.is_dir());
    assert_eq!(host.cli(&["stop", "web"]).code, 0);
    assert!(!place.exists());
}

#[test]
fn what_a_prestart_has_started_is_ended_by_the_next_daemon() {
    for mut host in hosts() {
        let dir = host.dir.display().to_string();
        let script = format!("echo $$ >>{dir}/prestarts; [ -e {dir}/good ] || sleep 1003; :");
        let prestart = format!("{{ \"exec\": [\"/bin/sh\", \"-c\", \"{script}\"], \"timeout\": 1000 }}");
        host.agent("web", &leaves(&host), &[("kill", "\"main\"")]);
        host.start();
        let two = wait_left(&host, 2);
        host.agent("web", &leaves(&host), &[("kill", "\"main\""), ("prestart", &prestart)]);
        host.ok(&["reload"]);
        for round in 1..=2 {
            host.wait("its prestart", || host.lines("prestarts") == round);
            let prestart = host.read("prestarts").lines().last().and_then(|line| line.parse().ok());
            let prestart: i32 = prestart.expect("a process id");
            host.wait("what the prestart starts", || !descendants(prestart).is_empty());
            let sleep = descendants(prestart);
            host.kill9();
            if round == 2 {
                host.write("good", "");
            }
            host.start();
            let done = || !alive(prestart) && !sleep.iter().any(|pid| alive(*pid));
            host.wait("the prestart to be ended with what it has started", done);
        }
        host.wait_running("web");
        assert!(wait_left(&host, 4).is_superset(&two), "what an earlier run has left stays");
    }
}

#[test]
fn sessions_of_sshd_go_on_over_a_restart() {
    if lacks_root() || lacks("/usr/sbin/sshd") || lacks("ssh") || lacks("unshare") {
        return;
    }
    let mut host = Host::new();
    let dir = host.dir.display().to_string();
    for key in ["host_key", "key"] {
        let made =
            Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f", &format!("{dir}/{key}")]).status();
        assert!(made.expect("ssh-keygen").success());
    }
    let port = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port").port();
    let config = format!(
        "Port {port}\nListenAddress 127.0.0.1\nHostKey {dir}/host_key\nAuthorizedKeysFile {dir}/key.pub\nStrictModes no\n\
         PermitRootLogin prohibit-password\nUsePAM no\nPidFile none\n"
    );
    host.write("sshd_config", &config);
    host.write("default", &format!("SSHD_OPTS=-f {dir}/sshd_config\n"));
    let changes =
        [("-/etc/default/ssh", format!("{dir}/default")), ("\"-t\"", format!("\"-t\", \"-f\", \"{dir}/sshd_config\""))];
    host.write("agents.d/sshd.json", &worked_definition("sshd", &changes));
    host.behind("mount -t tmpfs none /run;");
    host.start();
    let first = host.wait_running("sshd").pid;
    let login = |command: &str| {
        let mut ssh = Command::new("ssh");
        ssh.args([
            "-F",
            "none",
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            "UserKnownHostsFile=/dev/null",
            "-o",
            "LogLevel=ERROR",
        ]);
        ssh.args(["-i", &format!("{dir}/key"), "-p", &port.to_string(), "root@127.0.0.1", command]);
        ssh
    };
    let answers = || login("true").stderr(Stdio::null()).status().expect("ssh").success();
    host.wait("a login", answers);
    let mut session = login("echo $$; exec cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("ssh");
    let (mut to, mut from) =
        (session.stdin.take().expect("a pipe"), session.stdout.take().map(BufReader::new).expect("a pipe"));
    let mut says = |text: &str| {
        writeln!(to, "{text}").expect("the session takes it");
        let mut line = String::new();
        from.read_line(&mut line).expect("the session answers");
        line.trim().to_string()
    };
    let shell: i32 = says("one").parse().expect("a process id");
    assert_eq!(says(""), "one");
    for command in ["restart", "reload", "kill -9", "restart", "stop"] {
        if command == "kill -9" {
            host.kill9();
            host.start();
            continue;
        }
        assert_eq!(host.cli(&[command, "sshd"]).code, 0, "{command}");
        if command != "stop" {
            host.wait("a login", answers);
            assert_ne!(host.wait_running("sshd").pid, first);
        }
        assert!(alive(shell), "{command}");
        is_told(&host, "sshd", 2);
    }
    assert_eq!((says("two"), says("three")), ("".to_string(), "two".to_string()), "the session goes on");
    assert!(!answers());
    kill(session.id() as i32, "KILL");
    let _ = session.wait();
    host.wait_seen("sshd", "nothing to be left", |seen| !seen.detail.contains("left by"));
}

#[test]
fn jobs_of_cron_go_on_when_it_is_stopped() {
    if lacks_root() || lacks("/usr/sbin/cron") || lacks("unshare") {
        return;
    }
    let mut host = Host::new();
    let dir = host.dir.display().to_string();
    // Nothing but this job, which runs when cron is started first.
    host.write("crontab", &format!("@reboot root exec sleep 1000 >{dir}/out\n"));
    host.write("agents.d/cron.json", &worked_definition("cron", &[]));
    let tmpfs = |place: &str| format!("mount -t tmpfs none {place};");
    host.behind(&format!(
        "{}{}{}mkdir /var/spool/cron/crontabs;mount --bind {dir}/crontab /etc/crontab;",
        tmpfs("/run"),
        tmpfs("/etc/cron.d"),
        tmpfs("/var/spool/cron")
    ));
    host.start();
    host.wait_running("cron");
    host.wait("its job", || host.path("out").exists());
    for command in ["stop", "start", "restart"] {
        assert_eq!(host.cli(&[command, "cron"]).code, 0, "{command}");
        // The job, and the process of cron that waits for it.
        host.wait_seen("cron", "its job to be left", |seen| seen.detail.contains("left by earlier runs"));
    }
}
