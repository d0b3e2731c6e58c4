//! A daemon in the background with its keeper: when it is ready, what it inherits from its caller, what happens after its
//! death, and that there is only one.

mod util;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use util::*;

#[test]
fn a_second_daemon_refuses_to_start() {
    let mut host = Host::new();
    host.agent("web", "exec sleep 1000", &[]);
    host.start();
    let pid = host.wait_running("web").pid;
    let second = host.cli(&["run"]);
    assert_eq!(second.code, 1, "{second:?}");
    assert!(second.err.contains("running"), "{second:?}");
    assert_eq!(host.wait_running("web").pid, pid);
    // A leftover of a dead daemon does not keep the next one out.
    host.kill9();
    host.start();
    assert_eq!(host.wait_running("web").pid, pid);
}

#[test]
fn the_daemon_is_ready_when_the_parent_ends() {
    let host = Host::new();
    host.agent("web", "exec sleep 1000", &[]);
    host.configure();
    host.ok(&["run", "-d"]);
    assert_eq!(host.cli(&["status"]).code, 0, "the parent ended before the daemon answers");
    host.wait_running("web");
    let daemons = || {
        let runs = |pid: &i32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|byte| *byte == 0).any(|word| word == b"run")
        };
        host.processes().into_iter().filter(runs).collect::<Vec<_>>()
    };
    let pids = daemons();
    assert!(!pids.is_empty());
    // The parent reports what fails before the daemon is ready.
    let second = host.cli(&["run", "-d"]);
    assert!(second.code == 1 && !second.err.is_empty(), "{second:?}");
    assert_eq!(daemons(), pids);
    for pid in pids {
        kill(pid, "TERM");
    }
    host.wait("daemon and agent to end", || host.processes().is_empty());
}

#[test]
fn a_first_start_makes_directories_for_all_to_read_and_one_control_group() {
    let mut host = Host::new();
    let state = host.path("not-there/state").display().to_string();
    host.set("state_dir", &format!("\"{state}\""));
    host.agent("web", "exec sleep 1000", &[]);
    host.configure();
    // That of a directory that is not there.
    let other = bootagent::host::cgroup::group_name(&state);
    assert!(host.control_groups().is_empty());
    let script = "umask 077; exec \"$0\" -c \"$1\" run -d";
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", script]).arg(binary()).arg(host.path("bootagent.json"));
    let ran = run(&mut shell).expect("it ends");
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    host.wait_running("web");
    for dir in ["not-there/state", "run"] {
        let mode = fs::metadata(host.path(dir)).expect("it was made").permissions().mode();
        assert_eq!(mode & 0o777, 0o755, "{dir}");
    }
    let groups = host.control_groups();
    assert!(!groups.iter().any(|group| group.ends_with(&other)), "{groups:?}");
}

/// A script that waits for a lock, or for the end of a pipe, must not wait for the daemon's end.
#[test]
fn nothing_of_the_starters_stays_open() {
    let host = Host::new();
    host.configure();
    let line = "exec 7>\"$1/lock\"; exec \"$0\" -c \"$1/bootagent.json\" run -d";
    let mut shell = Command::new("sh");
    let ran = run(shell.args(["-c", line]).arg(binary()).arg(host.path(""))).expect("the parent ends");
    assert_eq!(ran.code, 0, "{ran:?}");
    let pids = host.processes();
    assert_eq!(pids.len(), 2, "daemon and keeper");
    for pid in pids {
        let lock = |entry: &Path| fs::read_link(entry).is_ok_and(|file| file.ends_with("lock"));
        let open = entries(Path::new(&format!("/proc/{pid}/fd")));
        assert!(!open.iter().any(|entry| lock(entry)), "{pid} has the starter's file");
    }
}

#[test]
fn a_dead_daemon_is_started_again() {
    let host = Host::new();
    host.agent("web", "exec sleep 1000", &[]);
    host.configure();
    host.ok(&["run", "-d"]);
    let daemon = || host.read("run/bootagent.pid").trim().parse::<i32>().unwrap_or(0);
    let (first, agent) = (daemon(), host.wait_running("web").pid);
    kill(first, "KILL");
    host.wait("another daemon", || daemon() != first && host.cli(&["status"]).code == 0);
    assert_eq!(host.wait_running("web").pid, agent, "the agent went on");
    let told = "the last daemon died (killed by SIGKILL), and its keeper started this one";
    assert_eq!(host.read("log/bootagent.log").matches(told).count(), 1, "{}", host.logs());
    assert_eq!(host.ok(&["status", "--json"]).matches(told).count(), 1, "it is an event");
    // After a reexec no daemon has died.
    host.ok(&["reexec"]);
    assert_eq!(host.read("log/bootagent.log").matches(told).count(), 1, "{}", host.logs());
    // A daemon that was asked to exit is not started again, and its keeper exits too.
    kill(daemon(), "TERM");
    host.wait("daemon, keeper and agent to end", || host.processes().is_empty());
}

/// An administrator's shell, cron or a configuration tool may be an agent, and somebody starts the daemon below it.
#[test]
fn a_daemon_started_from_below_an_agent_is_not_of_its_tree() {
    for (how, line) in [
        ("in the background", "\"$0\" -c \"$1/bootagent.json\" run -d"),
        ("in the session of the agent", "\"$0\" -c \"$1/bootagent.json\" run >/dev/null 2>&1 &"),
    ] {
        let mut host = Host::new();
        let dir = host.dir.display().to_string();
        let exec = format!("while [ ! -e {dir}/go ]; do sleep 0.1; done; set -- {dir}; ");
        let line = line.replace("$0", &binary().display().to_string());
        host.agent("shell", &format!("{exec}{line}\nwhile :; do sleep 1; done"), &[]);
        host.agent("other", "exec sleep 1000", &[]);
        host.start();
        let other = host.wait_running("other").pid;
        host.wait_running("shell");
        host.kill9();
        host.write("go", "");
        host.wait("the daemon that the agent starts", || host.cli(&["status"]).code == 0);
        let daemon = host.read("run/bootagent.pid").trim().parse::<i32>().expect("a process id");
        let keeper = host.read("run/keeper.pid").trim().parse::<i32>().unwrap_or(daemon);
        host.ok(&["stop", "shell"]);
        for (what, pid) in [("the daemon", daemon), ("its keeper", keeper), ("another agent", other)] {
            assert!(alive(pid), "{how}: {what} was ended too\n{}", host.logs());
        }
        kill(daemon, "TERM");
        host.wait("daemon, keeper and agents to end", || host.processes().is_empty());
    }
}

/// In the second between a dead daemon and the one that its keeper starts next, only the keeper can be told to stop.
#[test]
fn the_sysv_script_stops_what_a_keeper_is_about_to_start() {
    let host = Host::new();
    host.agent("web", "exec sleep 1000", &[]);
    host.configure();
    host.write("script", &host.ok(&["init", "sysv"]));
    let script = |word: &str| run(Command::new("sh").arg(host.path("script")).arg(word)).expect("the script ends");
    for _ in 0..3 {
        let ran = script("start");
        assert_eq!(ran.code, 0, "{ran:?}");
        host.wait_running("web");
        let daemon: i32 = host.read("run/bootagent.pid").trim().parse().unwrap();
        kill(daemon, "KILL");
        let ran = script("stop");
        assert!(ran.code == 0 && host.processes().is_empty(), "{ran:?} {:?}", host.processes());
        assert_eq!(script("status").code, 3);
    }
}
