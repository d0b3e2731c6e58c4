//! A killed daemon is followed by one that takes over every agent: agents of every kind, with and without their records,
//! with and without control groups. There are never two copies of an agent, and no end is missed.

mod util;

use std::fs;
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use util::*;

/// The living main processes of an agent whose main process is `sleep <mark>`.
fn copies(mark: &str) -> Vec<i32> {
    let want = format!("sleep\0{mark}\0");
    let mut found = Vec::new();
    for path in entries(Path::new("/proc")) {
        let Some(pid) = path.file_name().and_then(|name| name.to_str()?.parse::<i32>().ok()) else { continue };
        if fs::read(path.join("cmdline")).is_ok_and(|line| line == want.as_bytes()) && alive(pid) {
            found.push(pid);
        }
    }
    found
}

/// A number that no other test on this machine sleeps for.
fn mark(number: u32) -> String {
    format!("{number}.{}", std::process::id())
}

/// Defines agents of every kind; returns each one's name and the mark of its main process.
fn every_kind(host: &Host, first: u32) -> Vec<(&'static str, String)> {
    let marks: Vec<String> = (first..first + 6).map(mark).collect();
    let sleep = |index: usize| format!("sleep {}", marks[index]);
    let pidfile = host.path("forked.pid").display().to_string();
    host.agent("simple", &format!("exec {}", sleep(0)), &[]);
    host.agent("family", &format!("setsid sleep 3000 & (sleep 3000 &) ; exec {}", sleep(1)), &[]);
    host.agent("deaf", &format!("trap '' TERM; exec {}", sleep(2)), &[("stopsecs", "0.1")]);
    host.agent("forking", &format!("setsid {} & exit 0", sleep(3)), &[("type", "\"forking\"")]);
    let with = format!("setsid sh -c 'echo $$ >{pidfile}; exec {}' & exit 0", sleep(4));
    let pidfile = format!("\"{pidfile}\"");
    host.agent("pidfile", &with, &[("type", "\"forking\""), ("pidfile", &pidfile)]);
    let brief = format!("(setsid sleep 3000 &) ; {}", sleep(5).replacen("sleep ", "exec timeout 0.1 sleep ", 1));
    host.agent("brief", &brief, &[("restartsecs", "0.02"), ("windowsecs", "0"), ("stopsecs", "0.1")]);
    ["simple", "family", "deaf", "forking", "pidfile", "brief"].into_iter().zip(marks).collect()
}

fn kill_at_random(host: &mut Host, first: u32, rounds: u64) {
    host.set("restartsecs", "0.05").set("log_level", "\"info\"");
    let agents = every_kind(host, first);
    let mut dice = Random(u64::from(first));
    let mut orders: Vec<Child> = Vec::new();
    host.start();
    let quiet = host.wait_running("simple").pid;
    let since = Instant::now();
    for round in 0..rounds {
        for _ in 0..dice.below(3) {
            let name = agents[1 + dice.below(5) as usize].0;
            orders.push(host.begin(&[["restart", "stop", "start"][dice.below(3) as usize], name]));
        }
        let_pass(Duration::from_millis(dice.below(120)));
        host.kill9();
        for order in &mut orders {
            let _ = order.kill();
            let _ = order.wait();
        }
        orders.clear();
        host.launch(&[]);
        for (name, mark) in &agents {
            let found = copies(mark);
            assert!(found.len() <= 1, "round {round}: {name} runs as {found:?}\n{}", host.logs());
        }
    }
    host.kill9();
    host.start();
    assert_eq!(copies(&agents[0].1), [quiet], "an agent nobody touched was touched\n{}", host.logs());
    let uptime = host.wait_running("simple").uptime;
    assert!(uptime >= since.elapsed().as_secs_f64() - 4.0, "{uptime} s, its uptime was lost");
    for (name, mark) in &agents[1..5] {
        // A child that had not executed its program yet dies with its daemon, perhaps only now.
        host.wait(&format!("{name} to start"), || host.cli(&["start", name]).code == 0);
        host.wait(&format!("one copy of {name}"), || copies(mark).len() == 1);
    }
    let code = host.end("TERM").code();
    assert_eq!((code, host.processes()), (Some(0), vec![]), "{}", host.logs());
}

fn rounds() -> u64 {
    variable("ADOPT_ROUNDS", 20)
}

#[test]
fn killed_at_any_moment_nothing_is_doubled_or_lost() {
    kill_at_random(&mut Host::new(), 4100, rounds());
}

#[test]
fn killed_at_any_moment_without_control_groups() {
    if lacks_root() || emulator_lacks("reaper of orphans (PR_SET_CHILD_SUBREAPER)") {
        return;
    }
    let mut host = Host::new();
    host.behind(NO_GROUPS);
    kill_at_random(&mut host, 4200, rounds());
}

/// All records of runs are gone; the daemon still finds what runs.
fn lose_the_records(host: &mut Host, first: u32) {
    let agents = every_kind(host, first);
    host.start();
    let mut before = Vec::new();
    for (name, mark) in &agents[..5] {
        host.wait_running(name);
        host.wait(&format!("one copy of {name}"), || copies(mark).len() == 1);
        before.push(copies(mark));
    }
    host.wait_seen("simple", "to have an uptime", |agent| agent.uptime >= 1.0);
    host.kill9();
    fs::remove_dir_all(host.path("run/agents")).expect("the records of runs");
    host.start();
    for ((name, mark), before) in agents.iter().zip(before) {
        host.wait_running(name);
        assert_eq!(copies(mark), before, "{name} is another one\n{}", host.logs());
    }
    assert!(host.seen("simple").expect("it is there").uptime >= 1.0, "its uptime is not that of its process");
    kill(copies(&agents[0].1)[0], "KILL");
    host.wait("the end of one without a record to be noticed", || copies(&agents[0].1).len() == 1);
    let code = host.end("TERM").code();
    assert_eq!((code, host.processes()), (Some(0), vec![]), "{}", host.logs());
}

#[test]
fn an_agent_that_has_lost_its_definition_meanwhile_is_stopped_politely() {
    let mut host = Host::new();
    let said = host.path("said");
    let script = format!("trap 'sleep 0.5; echo end >{}; exit 0' TERM; while :; do sleep 0.1; done", said.display());
    host.agent("web", &script, &[]);
    host.start();
    host.wait_running("web");
    host.kill9();
    fs::remove_file(host.path("agents.d/web.json")).expect("its definition");
    host.start();
    host.wait("the agent to end", || host.agents_processes().is_empty());
    assert!(said.exists(), "it was not given its time\n{}", host.logs());
}

#[test]
fn agents_are_known_without_their_records() {
    lose_the_records(&mut Host::new(), 4300);
}

#[test]
fn what_only_environments_tell_of_is_ended_and_started_anew() {
    if lacks_root() || emulator_lacks("reaper of orphans (PR_SET_CHILD_SUBREAPER)") {
        return;
    }
    let mut host = Host::new();
    host.behind(NO_GROUPS);
    let agents = &every_kind(&host, 4400)[..5];
    host.start();
    let mut before = Vec::new();
    for (name, mark) in agents {
        host.wait_running(name);
        host.wait(&format!("one copy of {name}"), || copies(mark).len() == 1);
        before.extend(copies(mark));
    }
    host.kill9();
    fs::remove_dir_all(host.path("run/agents")).expect("the records of runs");
    host.start();
    for (name, mark) in agents {
        host.wait_running(name);
        host.wait(&format!("one new copy of {name}"), || {
            let found = copies(mark);
            found.len() == 1 && !before.contains(&found[0])
        });
    }
    let code = host.end("TERM").code();
    assert_eq!((code, host.processes()), (Some(0), vec![]), "{}", host.logs());
}

#[test]
fn an_agent_whose_definition_went_with_the_daemon_is_ended() {
    let mut host = Host::new();
    let mark = mark(4600);
    host.agent("web", &format!("setsid sleep 3000 & exec sleep {mark}"), &[]);
    for lost in [false, true] {
        host.agent("web", &format!("setsid sleep 3000 & exec sleep {mark}"), &[]);
        host.start();
        host.wait_running("web");
        host.wait("its child", || host.agents_processes().len() == 2);
        host.kill9();
        fs::remove_file(host.path("agents.d/web.json")).unwrap();
        if lost {
            fs::remove_dir_all(host.path("run/agents")).unwrap();
        }
        host.start();
        host.wait("it to be ended", || host.agents_processes().is_empty());
        host.end("TERM");
    }
}

/// The pids of these agents once all of them run.
fn pids<const N: usize>(host: &Host, names: [&str; N]) -> [i32; N] {
    names.map(|name| host.wait_running(name).pid)
}

#[test]
fn a_definition_that_changed_while_no_daemon_lived_counts() {
    let server = Server::new();
    let mut host = Host::with(&server);
    host.agent("same", "exec sleep 1000", &[]);
    host.agent("changed", "exec sleep 1000", &[]);
    host.agent("given", "exec sleep 1000", &[]);
    host.agent("stopped", "exec sleep 1000", &[]);
    host.agent("doomed", "exit 1", &[("retries", "0")]);
    host.start();
    let before = pids(&host, ["same", "changed", "given"]);
    host.wait_seen("doomed", "to be given up", |agent| agent.status == "fatal");
    host.ok(&["stop", "stopped"]);
    let config = Job::new("c1", "config", "given").set("envs", r#"{ "COLOUR": "green" }"#);
    host.does(&server, &config, 0);
    let given = host.wait_seen("given", "to run anew", |agent| agent.runs() && agent.pid != before[2]).pid;

    // A definition that is written differently but means the same has not changed.
    host.kill9();
    let text = host.read("agents.d/same.json");
    host.write("agents.d/same.json", &text.replace(", ", " ,\n "));
    host.agent("changed", "exec sleep 2000", &[]);
    host.agent("stopped", "exec sleep 2000", &[]);
    host.agent("doomed", "exec sleep 2000", &[("retries", "0")]);
    host.start();
    let changed = host.wait_seen("changed", "to run anew", |agent| agent.runs() && agent.pid != before[1]).pid;
    let line = || fs::read(format!("/proc/{changed}/cmdline")).unwrap_or_default();
    host.wait("the new program", || line() == b"sleep\x002000\0");
    host.wait_running("doomed");
    assert_eq!(pids(&host, ["same", "changed", "given"]), [before[0], changed, given], "{}", host.logs());
    assert!(!host.wait_seen("stopped", "to be there", |_| true).runs());

    // A reexec does the same; and an agent whose definition did not change is not restarted again.
    host.agent("same", "exec sleep 3000", &[]);
    host.ok(&["reexec"]);
    let same = host.wait_seen("same", "to run anew", |agent| agent.runs() && agent.pid != before[0]).pid;
    host.ok(&["reexec"]);
    host.kill9();
    host.start();
    assert_eq!(pids(&host, ["same", "changed", "given"]), [same, changed, given], "{}", host.logs());

    // Nor is one whose definition changed in what its processes do not depend on.
    host.kill9();
    let check = "{ \"exec\": [\"/bin/true\"] }";
    host.agent("same", "exec sleep 3000", &[("check", check), ("log_size", "\"2M\"")]);
    host.start();
    assert_eq!(pids(&host, ["same", "changed", "given"]), [same, changed, given], "{}", host.logs());

    // An agent that an older daemon started without recording a fingerprint is not restarted for that.
    host.kill9();
    for name in ["same", "changed"] {
        let file = format!("run/agents/{name}.json");
        let text = host.read(&file);
        assert!(text.contains("\"mark\""), "{text}");
        host.write(&file, &text.replace("\"mark\"", "\"unknown\""));
    }
    host.start();
    assert_eq!(pids(&host, ["same", "changed", "given"]), [same, changed, given], "{}", host.logs());
    host.kill9();
    host.agent("changed", "exec sleep 3000", &[]);
    host.start();
    host.wait_seen("changed", "to run anew", |agent| agent.runs() && agent.pid != changed);
    assert_eq!(pids(&host, ["same", "given"]), [same, given]);
}

#[test]
fn a_stop_is_completed_by_the_next_daemon() {
    let mut host = Host::new();
    let mark = mark(4700);
    let script = format!("setsid sh -c 'trap \"\" TERM; while :; do sleep 0.1; done' & exec sleep {mark}");
    host.agent("web", &script, &[("stopsecs", "60")]);
    host.start();
    host.wait_running("web");
    host.wait("its child", || host.agents_processes().len() >= 2);
    let mut order = host.begin(&["stop", "web"]);
    host.wait("the main process to end", || copies(&mark).is_empty());
    host.agent("web", &script, &[("stopsecs", "0.2")]);
    host.kill9();
    let _ = order.wait();
    host.start();
    host.wait("the rest of it to end", || host.agents_processes().is_empty());
    let agent = host.wait_seen("web", "to be stopped", |agent| agent.status == "stoped");
    assert_eq!(agent.pid, 0);
    assert!(stays(|| copies(&mark).is_empty()), "started against its order");
}

#[test]
fn a_shutdown_that_broke_off_is_no_failure_of_any_agent() {
    let mut host = Host::new();
    let (gone, deaf) = (mark(4750), mark(4751));
    host.agent("gone", &format!("exec sleep {gone}"), &[]);
    host.agent("deaf", &format!("trap '' TERM; sleep {deaf} & while :; do wait; done"), &[("stopsecs", "60")]);
    host.start();
    host.wait_running("gone");
    host.wait("its child", || !copies(&deaf).is_empty());
    let first = host.wait_running("deaf").pid;
    host.signal("TERM");
    host.wait("one of them to end", || copies(&gone).is_empty());
    host.kill9();
    host.agent("deaf", &format!("exec sleep {deaf}"), &[("stopsecs", "0.1")]);
    host.start();
    for name in ["gone", "deaf"] {
        let agent = host.wait_seen(name, "to run anew", |agent| agent.runs() && agent.pid != first);
        assert_eq!(agent.failures, 0, "{agent:?}");
    }
    // A shell runs before it is the program that is looked for.
    host.wait("one copy of each", || (copies(&gone).len(), copies(&deaf).len()) == (1, 1));
    let log = host.read("log/bootagent.log");
    assert!(!log.contains("status unknown"), "{log}");
}

#[test]
fn a_starter_is_followed_to_the_main_process() {
    let mut host = Host::new();
    let mark = mark(4800);
    let go = host.path("go").display().to_string();
    let script = format!("setsid sleep {mark} & while [ ! -e {go} ]; do sleep 0.02; done; exit 0");
    host.agent("web", &script, &[("type", "\"forking\"")]);
    host.start();
    host.wait("the background process", || copies(&mark).len() == 1);
    let starter = host.wait_running("web").pid;
    host.kill9();
    host.start();
    assert_eq!(host.wait_running("web").pid, starter);
    host.write("go", "");
    let main = copies(&mark)[0];
    host.wait_seen("web", "to run on without its starter", |agent| agent.runs() && agent.pid == main);
    // The same with a starter that ends while no daemon runs.
    fs::remove_file(host.path("go")).unwrap();
    let mut order = host.begin(&["restart", "web"]);
    host.wait("a new one", || copies(&mark).first().is_some_and(|pid| *pid != main));
    let starter = host.wait_seen("web", "to have a starter", |agent| agent.runs() && agent.pid != main).pid;
    host.kill9();
    let _ = order.wait();
    host.write("go", "");
    host.wait("the starter to end", || !alive(starter));
    host.start();
    host.wait_seen("web", "to run", |agent| agent.runs() && copies(&mark) == [agent.pid]);
}

/// As in a chroot or a container that has the processes and control groups of the host.
#[test]
fn a_daemon_with_another_directory_under_the_same_path_leaves_them_alone() {
    if lacks_root() || lacks("unshare") {
        return;
    }
    for groups in [true, false] {
        let (mut one, mut two) = (Host::new(), Host::new());
        if !groups {
            one.behind(NO_GROUPS);
        }
        for name in ["web", "only"] {
            one.agent(name, "sleep 1000 & exec sleep 1001", &[]);
        }
        one.start();
        let pids = ["web", "only"].map(|name| one.wait_running(name).pid);
        two.agent("web", "exec sleep 2000", &[]);
        let state = one.path("state").display().to_string();
        let mount = format!("mount --bind {} {state} || exit 1;", two.path("state").display());
        two.behind(&if groups { mount } else { format!("{NO_GROUPS} {mount}") });
        two.set("state_dir", &format!("\"{state}\""));
        two.start();
        let own = two.wait_running("web").pid;
        assert!(!pids.contains(&own) && two.seen("only").is_none(), "{}", two.logs());
        two.ok(&["restart", "web"]);
        two.end("TERM");
        assert!(pids.into_iter().all(alive), "{}", two.logs());
        one.kill9();
        one.start();
        assert_eq!(["web", "only"].map(|name| one.wait_running(name).pid), pids);
        one.end("TERM");
        assert_eq!(one.processes(), []);
        let _ = std::fs::remove_dir_all(one.path("state"));
    }
}

#[test]
fn an_agent_in_another_time_namespace_is_taken_over_and_not_killed() {
    if lacks_root() || lacks("unshare") || is_emulated() {
        return;
    }
    let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/time")).ok();
    let Some(own) = namespace("self") else {
        cannot_apply("needs a kernel with time namespaces");
        return;
    };
    let mut host = Host::new();
    let mark = mark(4900);
    host.agent("web", &format!("exec unshare -T --boottime 1000000 --monotonic 100000 sleep {mark}"), &[]);
    host.start();
    host.wait("it to have become its program", || copies(&mark).len() == 1);
    let agent = host.wait_running("web");
    if namespace(&agent.pid.to_string()) == Some(own) {
        cannot_apply("needs a kernel on which a program is in the time namespace that was made before it");
        return;
    }
    for _ in 0..2 {
        host.kill9();
        host.start();
        let now = host.wait_running("web");
        assert!(now.pid == agent.pid && now.failures == 0 && now.uptime < 10_000.0, "{now:?}\n{}", host.logs());
        assert_eq!(copies(&mark), [agent.pid], "{}", host.logs());
    }
    host.ok(&["stop", "web"]);
    assert!(copies(&mark).is_empty() && host.agents_processes().is_empty());
}

#[test]
fn a_daemon_in_another_time_namespace_takes_the_agents_over() {
    if lacks_root() || lacks("unshare") || is_emulated() {
        return;
    }
    let shifted = "unshare -T --boottime 100000";
    if fs::symlink_metadata("/proc/self/timens_offsets").is_err() {
        cannot_apply("needs a kernel with time namespaces");
        return;
    }
    let mut host = Host::new();
    let mark = mark(4901);
    for (name, kill) in [("web", "\"tree\""), ("main", "\"main\"")] {
        host.agent(name, &format!("exec sleep {mark}"), &[("kill", kill)]);
    }
    host.start();
    let agents = ["web", "main"].map(|name| host.wait_running(name));
    let own = host.program.clone();
    for is_shifted in [true, true, false] {
        host.kill9();
        match is_shifted {
            true => host.through(shifted),
            false => host.program = own.clone(),
        }
        host.start();
        for (agent, name) in agents.iter().zip(["web", "main"]) {
            let now = host.wait_running(name);
            assert!(now.pid == agent.pid && now.uptime < 10_000.0, "{now:?}\n{}", host.logs());
        }
        assert_eq!(copies(&mark).len(), 2, "{}", host.logs());
    }
    host.ok(&["stop", "--all"]);
    assert!(copies(&mark).is_empty() && host.agents_processes().is_empty());
}
