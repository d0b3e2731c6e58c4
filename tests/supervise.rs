//! Supervision from outside: starts, the exact restart policy, stops, limits, reloads, daemon deaths.

mod util;

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use util::*;

/// The environment of a process.
fn environment(pid: i32) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).split('\0').filter(|entry| !entry.is_empty()).map(str::to_string).collect()
}

/// A script that records the time of each start (s since boot) in `file` and then runs `rest`, where `$N` is the number of
/// starts so far.
fn noting(host: &Host, file: &str, rest: &str) -> String {
    let file = host.path(file).display().to_string();
    format!("cut -d' ' -f1 /proc/uptime >> {file}; N=$(wc -l < {file}); {rest}")
}

#[test]
fn an_agent_starts_as_its_definition_describes() {
    let mut host = Host::new();
    host.agent(
        "web",
        "",
        &[
            ("exec", "[\"/bin/sleep\", \"1000\"]"),
            ("directory", "\"/usr\""),
            ("umask", "\"027\""),
            ("envs", "{ \"COLOUR\": \"green\", \"HOME\": \"/nowhere\" }"),
            ("limits", "{ \"nofile\": 77, \"core\": 0 }"),
        ],
    );
    host.start();
    let pid = host.wait_running("web").pid;
    // Running means executed: nothing here may still be the daemon's own.
    host.wait("the program to be executed", || fs::read(format!("/proc/{pid}/comm")).unwrap_or_default() == b"sleep\n");

    let envs = environment(pid);
    for entry in ["COLOUR=green", "HOME=/nowhere", "BOOTAGENT_NAME=web"] {
        assert!(envs.iter().any(|known| known == entry), "{entry} is missing in {envs:?}");
    }
    let keys: BTreeSet<&str> = envs.iter().filter_map(|entry| entry.split_once('=')).map(|(key, _)| key).collect();
    assert_eq!(keys.len(), envs.len(), "a variable is there twice: {envs:?}");
    for key in ["PATH", "USER", "LOGNAME", "SHELL"] {
        assert!(keys.contains(key), "{key} is missing in {envs:?}");
    }
    assert!(!keys.contains("BOOTAGENT_TEST_LEAK"), "the daemon's own environment leaks: {envs:?}");

    assert_eq!(fs::read_link(format!("/proc/{pid}/cwd")).unwrap().to_str(), Some("/usr"));
    assert_eq!(proc_status(pid, "Umask"), "0027");
    assert_eq!((signals(pid, "SigBlk"), signals(pid, "SigIgn")), (0, 0));
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let open_files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert_eq!(open_files.split_whitespace().skip(3).take(2).collect::<Vec<_>>(), ["77", "77"]);
    let fds: Vec<String> = entries(format!("/proc/{pid}/fd").as_ref())
        .iter()
        .map(|fd| fs::read_link(fd).unwrap().display().to_string())
        .collect();
    let log = host.path("log/web.log").display().to_string();
    assert_eq!(fds, ["/dev/null", log.as_str(), log.as_str()]);
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let session = stat.rsplit_once(") ").unwrap().1.split(' ').nth(3).unwrap();
    assert_eq!(session, pid.to_string(), "it has no session of its own");
    assert_eq!(fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap().trim(), "0");
}

#[test]
fn an_agent_runs_as_its_user() {
    if lacks_root() {
        return;
    }
    let mut host = Host::new();
    host.agent("named", "exec sleep 1000", &[("user", "\"nobody\"")]);
    host.agent("numbered", "exec sleep 1000", &[("user", "12345"), ("group", "23456")]);
    host.agent("nobody-knows", "exec sleep 1000", &[("user", "\"no-such-user\""), ("retries", "0")]);
    host.agent("no-group", "exec sleep 1000", &[("group", "\"no-such-group\""), ("retries", "0")]);
    host.start();

    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    let line = passwd.lines().find(|line| line.starts_with("nobody:")).expect("every host has a nobody");
    let ids: Vec<&str> = line.split(':').collect();
    let pid = host.wait_running("named").pid;
    assert_eq!(proc_status(pid, "Uid"), [ids[2]; 4].join(" "));
    assert_eq!(proc_status(pid, "Gid"), [ids[3]; 4].join(" "));
    assert!(!proc_status(pid, "Groups").split(' ').any(|group| group == "0"), "it kept root's groups");
    assert!(environment(pid).contains(&"USER=nobody".to_string()));

    let pid = host.wait_running("numbered").pid;
    assert_eq!(proc_status(pid, "Uid"), "12345 12345 12345 12345");
    assert_eq!(proc_status(pid, "Gid"), "23456 23456 23456 23456");
    assert!(["", "23456"].contains(&proc_status(pid, "Groups").as_str()));

    for (name, cause) in [("nobody-knows", "no-such-user"), ("no-group", "no-such-group")] {
        let agent = host.wait_seen(name, "to be given up", |agent| agent.status == "fatal");
        assert!(agent.detail.contains(cause), "{agent:?}");
        assert_eq!(agent.pid, 0);
    }
}

#[test]
fn three_restarts_and_the_fourth_early_end_is_fatal() {
    let server = Server::new();
    let mut host = Host::with(&server);
    host.set("retries", "3");
    host.agent("web", &noting(&host, "starts", "exit 3"), &[]);
    host.agent("other", "exec sleep 1000", &[]);
    host.start();
    let other = host.wait_running("other").pid;
    let agent = host.wait_seen("web", "to be given up", |agent| agent.status == "fatal");
    assert_eq!(host.lines("starts"), 4, "one start and three restarts\n{}", host.logs());
    assert_eq!((agent.failures, agent.pid, agent.uptime), (4, 0, 0.0));
    assert!(agent.detail.contains("status 3"), "{agent:?}");

    let starts: Vec<f64> = host.read("starts").lines().map(|line| line.parse().unwrap()).collect();
    for pair in starts.windows(2) {
        assert!(pair[1] - pair[0] >= 0.28, "restarted before restartsecs: {starts:?}");
    }
    assert!(stays(|| host.lines("starts") == 4), "fatal, and started again");
    host.wait("the server to hear of it", || {
        server.statuses().last().and_then(|status| seen(status, "web")).is_some_and(|agent| agent.status == "fatal")
    });
    for status in server.statuses() {
        let word = seen(&status, "web").map(|agent| agent.status).unwrap_or_default();
        assert!(["stoped", "running", "fatal"].contains(&word.as_str()), "{word}");
    }

    // A start ends fatal and begins a new count.
    let ran = host.cli(&["start", "web"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    host.wait_seen("web", "to be given up again", |agent| agent.status == "fatal" && host.lines("starts") == 8);
    assert_eq!(host.seen("other").map(|agent| agent.pid), Some(other), "a neighbour was touched");
}

#[test]
fn a_long_run_sets_the_count_back() {
    let mut host = Host::new();
    host.set("windowsecs", "1.5").set("restartsecs", "0.05").set("retries", "3");
    // Two early ends, one long run, then early ends only: four of these, counted from 0.
    host.agent("web", &noting(&host, "starts", "[ $N = 3 ] && sleep 2; exit 1"), &[]);
    host.start();
    host.wait_seen("web", "to be given up", |agent| agent.status == "fatal");
    assert_eq!(host.lines("starts"), 7, "{}", host.logs());
}

#[test]
fn a_stop_ends_the_whole_tree() {
    if lacks("setsid") {
        return;
    }
    let mut host = Host::new();
    let stubborn = "trap '' TERM; (setsid sh -c 'trap \"\" TERM; while :; do sleep 1; done' &); \
                    while :; do sleep 1; done";
    host.agent("stubborn", stubborn, &[("stopsecs", "0.5")]);
    host.start();
    host.wait_running("stubborn");
    host.wait("its grandchild", || host.agents_processes().len() >= 4);
    let before = Instant::now();
    host.ok(&["stop", "stubborn"]);
    let took = before.elapsed();
    let left = host.agents_processes();
    assert!(left.is_empty(), "stopped, and {left:?} are left\n{}", host.logs());
    assert!(took >= Duration::from_millis(450), "SIGKILL came before stopsecs: {took:?}");
    assert!(took < Duration::from_secs(30), "{took:?}");
    let agent = host.seen("stubborn").unwrap();
    assert_eq!((agent.status.as_str(), agent.pid), ("stoped", 0));
    assert!(stays(|| !host.seen("stubborn").unwrap().runs()), "a stopped agent came back");
}

/// On some kernels what is made in a control group that was killed is killed too.
#[test]
fn a_run_after_a_forced_stop_is_left_alone() {
    let mut host = Host::new();
    let stubborn = "trap '' TERM; while :; do sleep 1; done";
    host.agent("stubborn", stubborn, &[("stopsecs", "0.5")]);
    host.agent("limited", stubborn, &[("stopsecs", "0.5"), ("limits", "{\"memory\": \"64M\"}")]);
    host.start();
    for name in ["stubborn", "limited"] {
        let first = host.wait_running(name).pid;
        for _ in 0..2 {
            host.ok(&["restart", name]);
        }
        let agent = host.wait_running(name);
        assert!(agent.pid != first && agent.failures == 0, "{agent:?}\n{}", host.logs());
    }
    host.ok(&["reexec"]);
    host.ok(&["restart", "stubborn"]);
    assert!(host.wait_running("stubborn").failures == 0, "{}", host.logs());
    assert!(!host.logs().contains("killed by SIGKILL after"), "{}", host.logs());
}

#[test]
fn a_stop_is_polite_first() {
    let mut host = Host::new();
    let (bye, trapped) = (host.path("bye"), host.path("trapped"));
    let script = format!(
        "trap 'echo bye > {}; exit 0' USR1; : > {}; while :; do sleep 0.05; done",
        bye.display(),
        trapped.display()
    );
    host.agent("polite", &script, &[("stopsignal", "\"USR1\""), ("stopsecs", "60")]);
    host.start();
    host.wait_running("polite");
    host.wait("the script to come as far as its trap", || trapped.exists());
    let before = Instant::now();
    host.ok(&["stop", "polite"]);
    assert!(before.elapsed() < Duration::from_secs(40), "it was not over when nothing was left");
    assert_eq!(host.read("bye"), "bye\n");
}

#[test]
fn what_a_leader_leaves_ends_before_its_restart() {
    let mut host = Host::new();
    let script = format!("sleep 1000 & echo $! >> {}; exit 1", host.path("left").display());
    host.agent("web", &script, &[]);
    host.start();
    host.wait("two starts", || host.lines("left") >= 2);
    let first: i32 = host.read("left").lines().next().unwrap().parse().unwrap();
    assert!(!alive(first), "restarted beside {first}, a process of its former life");
}

#[test]
fn a_failed_start_names_the_step() {
    let mut host = Host::new();
    host.write("not-a-program", "text");
    let file = format!("[\"{}\"]", host.path("not-a-program").display());
    host.agent("missing", "", &[("exec", "[\"/nonexistent/program\"]"), ("retries", "0")]);
    host.agent("forbidden", "", &[("exec", &file), ("retries", "0")]);
    host.agent("homeless", "true", &[("directory", "\"/nonexistent/place\""), ("retries", "0")]);
    host.agent("good", "exec sleep 1000", &[]);
    host.start();
    for (name, step, cause) in [
        ("missing", "program", "No such file"),
        ("forbidden", "program", "ermission denied"),
        ("homeless", "directory", "No such file"),
    ] {
        let agent = host.wait_seen(name, "to be given up", |agent| agent.status == "fatal");
        assert!(agent.detail.contains(step) && agent.detail.contains(cause), "{name}: {agent:?}");
        assert_eq!((agent.pid, agent.failures), (0, 1), "{name}");
    }
    host.wait_running("good");
    let ran = host.cli(&["start", "missing"]);
    assert!(ran.code == 1 && (ran.out + &ran.err).contains("No such file"));
}

#[test]
fn which_ends_lead_to_a_restart() {
    let mut host = Host::new();
    host.set("restartsecs", "0.1");
    let start = |name: &str, rest: &str| noting(&host, name, rest);
    host.agent("always", &start("always", "[ $N = 2 ] && exec sleep 1000; exit 0"), &[]);
    host.agent("never", &start("never", "exit 1"), &[("autorestart", "\"never\"")]);
    host.agent("expected", &start("expected", "exit 5"), &[("autorestart", "\"unexpected\""), ("exitcodes", "[0, 5]")]);
    host.agent("unexpected", "exec sleep 1000", &[("autorestart", "\"unexpected\"")]);
    host.agent("idle", "exec sleep 1000", &[("autostart", "false")]);
    host.start();
    let pid = host.wait_running("unexpected").pid;
    kill(pid, "TERM");
    host.wait_seen("unexpected", "to come back", |agent| agent.runs() && agent.pid != pid);
    host.wait_seen("always", "to come back", |agent| agent.runs() && host.lines("always") == 2);
    for name in ["never", "expected"] {
        host.wait_seen(name, "to stay down", |agent| agent.status == "stoped");
        assert_eq!(host.lines(name), 1, "{name} was restarted");
    }
    let idle = host.seen("idle").unwrap();
    assert_eq!((idle.status.as_str(), idle.pid), ("stoped", 0));
}

#[test]
fn a_kill_from_elsewhere_is_killed_and_restarted() {
    let mut host = Host::new();
    host.set("restartsecs", "1");
    host.agent("web", "exec sleep 1000", &[]);
    host.start();
    let first = host.wait_running("web").pid;
    kill(first, "KILL");
    let down = host.wait_seen("web", "to be noticed", |agent| agent.pid != first);
    assert_eq!((down.status.as_str(), down.failures, down.pid), ("killed", 1, 0));
    assert!(down.detail.contains("SIGKILL"), "{down:?}");
    host.wait_seen("web", "to come back", |agent| agent.runs() && agent.pid != first);
}

#[test]
fn more_memory_than_allowed_is_killed() {
    let mut host = Host::new();
    host.set("restartsecs", "1000").set("checksecs", "0.2");
    let hog = "x=$(head -c 60000000 /dev/zero | tr '\\0' x); sleep 1000";
    host.agent("hog", hog, &[("limits", "{ \"memory\": \"20M\" }")]);
    host.agent("modest", "exec sleep 1000", &[("limits", "{ \"memory\": \"20M\" }")]);
    host.start();
    let agent = host.wait_seen("hog", "to be killed", |agent| agent.status == "killed");
    assert!(agent.detail.contains("memory"), "{agent:?}");
    host.wait("nothing of it to be left", || host.agents_processes().len() == 1);
    assert!(host.wait_running("modest").failures == 0);
    let by = host.status().unwrap();
    let by = text(items(&by, "agents").iter().find(|agent| text(agent, "name") == "modest").unwrap(), "limits_by");
    assert!(["cgroup2", "cgroup1", "polled"].contains(&by), "{by}");
}

#[test]
fn sigterm_stops_every_agent() {
    let mut host = Host::new();
    for n in 0..5 {
        host.agent(&format!("a{n}"), "exec sleep 1000", &[]);
    }
    host.agent("stubborn", "trap '' TERM; while :; do sleep 1; done", &[("stopsecs", "1")]);
    host.start();
    for name in ["a0", "a4", "stubborn"] {
        host.wait_running(name);
    }
    assert_eq!(host.end("TERM").code(), Some(0));
    assert_eq!(host.processes(), [], "stopped, and not all are gone");
    assert_eq!(host.cli(&["status"]).code, 3);
}

#[test]
fn sigquit_leaves_the_agents_to_the_next_daemon() {
    let mut host = Host::new();
    host.agent("web", "exec sleep 1000", &[]);
    host.start();
    let pid = host.wait_running("web").pid;
    assert_eq!(host.end("QUIT").code(), Some(0));
    assert!(alive(pid));
    host.start();
    assert_eq!(host.wait_running("web").pid, pid, "a second copy\n{}", host.logs());
    assert_eq!(host.agents_processes(), [pid]);
}

#[test]
fn a_killed_daemon_is_followed_by_one_that_takes_over() {
    let mut host = Host::new();
    host.set("restartsecs", "0.5");
    host.agent("web", "exec sleep 1000", &[]);
    host.agent("flaky", &noting(&host, "flaky", "[ $N = 1 ] && exit 1; exec sleep 1000"), &[]);
    host.start();
    let pid = host.wait_running("web").pid;
    host.wait_seen("flaky", "to run again", |agent| agent.runs() && agent.failures == 1);
    host.wait_seen("web", "to have an uptime", |agent| agent.uptime >= 1.0);
    for _ in 0..5 {
        host.kill9();
        assert!(alive(pid));
        host.start();
        let agent = host.wait_running("web");
        assert_eq!(agent.pid, pid);
        assert!(agent.uptime >= 1.0, "its uptime was lost: {agent:?}");
        assert_eq!(host.wait_running("flaky").failures, 1, "its failures were lost");
        // Its script may still run a program of its own.
        host.wait("no second copy to run", || host.agents_processes().len() == 2);
    }
    // An adopted agent's end is noticed, and its stop works.
    kill(pid, "KILL");
    host.wait_seen("web", "to come back", |agent| agent.runs() && agent.pid != pid);
    host.kill9();
    host.start();
    host.ok(&["stop", "web"]);
    host.ok(&["stop", "flaky"]);
    assert_eq!(host.agents_processes(), []);
}

#[test]
fn a_process_that_got_an_agents_old_pid_is_left_alone() {
    let mut host = Host::new();
    host.agent("web", "exec sleep 1000", &[]);
    host.start();
    let pid = host.wait_running("web").pid;
    host.kill9();
    kill(pid, "KILL");
    host.wait("the agent to be gone", || !alive(pid));
    // The record now names a process that is none: the next daemon must start a new one, not believe the file.
    host.start();
    host.wait_seen("web", "to run anew", |agent| agent.runs() && agent.pid != pid && alive(agent.pid));
}

#[test]
fn the_last_order_counts_over_restarts() {
    let mut host = Host::new();
    host.agent("down", "exec sleep 1000", &[]);
    host.agent("up", "exec sleep 1000", &[("autostart", "false")]);
    host.start();
    host.wait_running("down");
    host.ok(&["stop", "down"]);
    host.ok(&["start", "up"]);
    for signal in ["TERM", "KILL"] {
        host.end(signal);
        host.start();
        host.wait_running("up");
        assert_eq!(host.seen("down").map(|agent| agent.status), Some("stoped".to_string()), "after {signal}");
    }
}

#[test]
fn a_start_that_breaks_off_names_what_it_is_about() {
    let mut host = Host::new();
    host.set("retries", "0");
    let (directory, file) = (host.path("gone").display().to_string(), host.path("x.pid").display().to_string());
    let long = format!("[\"/bin/sleep\", \"{}\"]", "1".repeat(200_000));
    host.agent("away", "true", &[("directory", &format!("\"{directory}\""))]);
    host.agent("long", "", &[("exec", &long)]);
    host.agent("forks", "sleep 1000 &", &[("type", "\"forking\""), ("pidfile", &format!("\"{file}\""))]);
    host.start();
    for (name, want) in [
        ("away", format!("entering the working directory \"{directory}\": No such file")),
        ("long", "executing the program \"/bin/sleep\": Argument list too long".to_string()),
        ("forks", format!("and pid file \"{file}\" names no process of it after")),
    ] {
        host.wait_seen(name, &want, |agent| agent.detail.contains(&want));
    }
}

/// What the daemon opens on the way to an agent's program is not counted against its limit.
#[test]
fn an_agent_may_have_few_descriptors() {
    let mut host = Host::new();
    host.agent("modest", "exec sleep 1000", &[("limits", "{ \"nofile\": 4 }")]);
    host.start();
    host.wait_running("modest");
}

#[test]
fn an_output_file_is_turned_over() {
    let mut host = Host::new();
    host.set("checksecs", "0.2");
    let script = "while :; do echo 0123456789012345678901234567890123456789; sleep 0.001; done";
    host.agent("chatty", script, &[("log_size", "\"4K\"")]);
    host.start();
    let pid = host.wait_running("chatty").pid;
    let size = |file: &str| fs::metadata(host.path(file)).map_or(0, |meta| meta.len());
    host.wait("the file to be rotated", || size("log/chatty.log.1") > 2048);
    assert!(host.read("log/chatty.log.1").contains("0123456789"));
    let turned_at = || fs::metadata(host.path("log/chatty.log.1")).and_then(|meta| meta.modified()).ok();
    let first = turned_at();
    host.wait("it to be rotated again", || turned_at() > first);
    assert!(size("log/chatty.log") < 200_000, "it grows on");
    assert_eq!(host.seen("chatty").map(|agent| agent.pid), Some(pid), "its writer suffered");
}

#[test]
fn an_agent_in_the_background_is_followed() {
    let mut host = Host::new();
    let pidfile = host.path("forked.pid").display().to_string();
    let with = format!("sh -c 'echo $$ > {pidfile}; exec sleep 1000' & while [ ! -s {pidfile} ]; do sleep 0.01; done");
    let quoted = format!("\"{pidfile}\"");
    host.agent("with", &with, &[("type", "\"forking\""), ("pidfile", &quoted)]);
    host.agent("without", "sleep 2000 & exit 0", &[("type", "\"forking\"")]);
    host.start();
    let main = host
        .wait_seen("with", "to run", |agent| agent.runs() && host.read("forked.pid").trim() == agent.pid.to_string());
    let other = host.wait_seen("without", "to run", |agent| {
        agent.runs() && fs::read(format!("/proc/{}/cmdline", agent.pid)).unwrap_or_default() == b"sleep\x002000\0"
    });
    fs::remove_file(host.path("forked.pid")).unwrap();
    for (name, pid) in [("with", main.pid), ("without", other.pid)] {
        kill(pid, "KILL");
        host.wait_seen(name, "to come back", |agent| agent.runs() && agent.pid != pid && alive(agent.pid));
    }
    host.ok(&["stop", "with"]);
    host.ok(&["stop", "without"]);
    assert_eq!(host.agents_processes(), []);
}

#[test]
fn an_unhealthy_agent_is_restarted() {
    let mut host = Host::new();
    host.write("healthy", "");
    let test = host.path("healthy").display().to_string();
    let check = format!(
        "{{ \"exec\": [\"/bin/sh\", \"-c\", \"echo >>{test}.checks; test -e {test}\"], \"interval\": 0.1, \"timeout\": 5, \"retries\": 2 }}"
    );
    host.agent("web", "exec sleep 1000", &[("check", &check)]);
    host.start();
    let pid = host.wait_running("web").pid;
    host.wait("some checks", || host.lines("healthy.checks") >= 5);
    assert!(alive(pid), "a healthy agent was ended");
    fs::remove_file(host.path("healthy")).unwrap();
    host.wait("the unhealthy agent to be ended", || !alive(pid));
    host.write("healthy", "");
    let agent = host.wait_seen("web", "to come back", |agent| agent.runs() && agent.pid != pid);
    assert!(agent.failures >= 1, "{agent:?}");
}

/// A daemon that is told to stop while it waits for a restart, and one that has nothing to do, end as well.
#[test]
fn a_daemon_with_nothing_running_ends_at_once() {
    let mut host = Host::new();
    host.set("restartsecs", "1000");
    host.agent("weak", "exit 1", &[]);
    host.start();
    host.wait_seen("weak", "to fail", |agent| agent.status == "stoped" && agent.failures == 1);
    assert_eq!(host.end("TERM").code(), Some(0));
    let mut empty = Host::new();
    empty.start();
    assert_eq!(empty.end("INT").code(), Some(0));
}
