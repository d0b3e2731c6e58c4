//! The daemon keeps running whatever the host runs out of. It reports the shortage once, and catches up when it is over.

mod util;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use util::*;

/// A command that keeps so many bytes of memory for as long as it lives: `tail` waits for the end of a line.
fn hog(bytes: &str) -> String {
    format!("(head -c {bytes} /dev/zero; sleep 1000) | tail -n 1 >/dev/null")
}

/// Sets a limit of a process as `user`: its own, as root may not be allowed to on another's.
fn prlimit(user: &str, pid: i32, limit: &str) {
    let ids = [format!("--reuid={user}"), format!("--regid={user}")];
    let mut command = Command::new("setpriv");
    let done = command.args(ids).args(["--clear-groups", "prlimit", "--pid", &pid.to_string(), limit]).status();
    assert!(done.is_ok_and(|status| status.success()), "prlimit {limit}");
}

#[test]
fn a_child_out_of_memory_ends_the_whole_tree() {
    if lacks_root() {
        return;
    }
    let mut host = Host::new();
    host.set("restartsecs", "60").set("windowsecs", "60").set("checksecs", "60");
    // The main process itself uses next to nothing, and outlives its children.
    host.agent(
        "one",
        &format!("{} & while :; do sleep 0.1; done", hog("60m")),
        &[("limits", "{ \"memory\": \"20M\" }")],
    );
    let hundred = format!("for i in $(seq 100); do {} & done; while :; do sleep 0.1; done", hog("1m"));
    host.agent("hundred", &hundred, &[("limits", "{ \"memory\": \"40M\" }")]);
    // So may be the program that is run before the agent.
    let fills = "{ \"exec\": [\"/bin/sh\", \"-c\", \"head -c 60m /dev/zero | tail -n 1\"] }";
    host.agent("before", "exec sleep 1000", &[("prestart", fills), ("limits", "{ \"memory\": \"30M\" }")]);
    host.start();
    for (name, limit) in [("one", "20M"), ("hundred", "40M"), ("before", "30M")] {
        let killed = |agent: &Seen| agent.status == "killed" && agent.failures == 1;
        let agent = host.wait_seen(name, "to be killed", killed);
        assert!(
            agent.detail.contains("out of memory") && agent.detail.contains(&format!("limit {limit}")),
            "{agent:?}"
        );
    }
    host.wait("all of them to be gone", || host.agents_processes().is_empty());
}

#[test]
fn limits_are_polled_where_there_is_nothing_better() {
    if lacks_root() || lacks("setpriv") {
        return;
    }
    let mut host = Host::new();
    host.set("restartsecs", "60");
    host.behind(&unprivileged(&host));
    host.agent(
        "memory",
        &format!("{} & while :; do sleep 0.1; done", hog("40m")),
        &[("limits", "{ \"memory\": \"20M\" }")],
    );
    host.agent("cpu", "while :; do :; done & wait", &[("limits", "{ \"CPU\": \"5%\" }")]);
    host.agent("good", "exec sleep 1000", &[("limits", "{ \"memory\": \"20M\", \"CPU\": \"50%\" }")]);
    host.start();
    let agent = host.wait_seen("memory", "to be killed", |agent| agent.status == "killed");
    assert!(agent.detail.contains("memory") && agent.detail.contains("20M"), "{agent:?}");
    let agent = host.wait_seen("cpu", "to be killed", |agent| agent.status == "killed");
    assert!(agent.detail.contains("CPU") && agent.detail.contains("3 checks in a row"), "{agent:?}");
    assert!(host.wait_running("good").failures == 0);
    let status = host.status().expect("the daemon answers");
    let by: Vec<&str> = items(&status, "agents").iter().map(|agent| text(agent, "limits_by")).collect();
    assert!(by.contains(&"polled"), "{by:?}");
    host.wait("the killed ones to be gone", || host.agents_processes().len() == 1);
}

#[test]
fn without_descriptors_a_start_waits() {
    if lacks_root() || lacks("setpriv") || lacks("prlimit") {
        return;
    }
    let mut host = Host::new();
    host.agent("web", "exec sleep 1000", &[]);
    host.start();
    let (daemon, pid) = (host.pid(), host.wait_running("web").pid);
    let open = entries(std::path::Path::new(&format!("/proc/{daemon}/fd"))).len();
    prlimit("0", daemon, &format!("--nofile={}:", open + 2));
    kill(pid, "KILL");
    host.wait("a start that is put off", || said(&host, "no descriptors to spare") > 0);
    prlimit("0", daemon, "--nofile=4096:");
    let agent = host.wait_seen("web", "to run again", |agent| agent.runs() && agent.pid != pid);
    assert_eq!(agent.failures, 1, "what the host lacked was counted: {agent:?}");
    assert_eq!(said(&host, "no descriptors to spare"), 1);
}

#[test]
fn without_processes_a_start_waits() {
    if lacks_root() || lacks("setpriv") || lacks("prlimit") {
        return;
    }
    let mut host = Host::new();
    host.behind(&unprivileged(&host));
    host.agent("web", "exec sleep 1000", &[]);
    host.start();
    let pid = host.wait_running("web").pid;
    prlimit("12345", host.pid(), "--nproc=1:");
    kill(pid, "KILL");
    host.wait("a start that is put off", || said(&host, "cannot start yet: ") > 0);
    assert!(host.seen("web").is_some_and(|agent| agent.failures == 1 && agent.status != "fatal"));
    prlimit("12345", host.pid(), "--nproc=4096:");
    assert_eq!(host.wait_running("web").failures, 1);
}

#[test]
fn a_full_disk_is_said_once_and_made_good() {
    if lacks_root() {
        return;
    }
    let mut host = Host::new();
    let state = host.path("state").display().to_string();
    host.behind(&format!("mkdir -p {state}; mount -t tmpfs -o size=128k none {state} || exit 1;"));
    for name in ["a", "b", "c"] {
        host.agent(name, "exec sleep 1000", &[]);
    }
    host.start();
    host.wait_running("c");
    // As the daemon sees it.
    let inside = format!("/proc/{}/root{state}", host.pid());
    let filler = format!("{inside}/filler");
    fill(Path::new(&filler));
    for name in ["a", "b", "c"] {
        let said = host.ok(&["stop", name]);
        let want = format!("agent \"{name}\" is stopped; this cannot be recorded: cannot write ");
        assert!(said.starts_with(&want), "{said}");
    }
    assert_eq!(said(&host, "No space left on device"), 1, "{}", host.logs());
    let shown = host.ok(&["status"]);
    assert!(shown.contains("\ncannot write ") && shown.contains(": No space left on device\n"), "{shown}");
    // After a reexec the daemon would not know of the order, and would start them.
    let ran = host.cli(&["reexec"]);
    assert!(ran.code == 1 && ran.err.contains("reexec refused: cannot write "), "{ran:?}");
    assert!(ran.err.contains("No space left on device"), "{ran:?}");
    host.ok(&["start", "a"]);
    fs::remove_file(&filler).expect("the filler");
    host.wait("the records to be written", || said(&host, "writing records works again") == 1);
    let record = |name: &str| {
        let mut text = String::new();
        let file = fs::File::open(format!("{inside}/agents/{name}.json"));
        file.and_then(|mut file| file.read_to_string(&mut text)).expect("a record");
        text
    };
    assert_eq!(host.ok(&["stop", "b"]), "agent \"b\" is stopped\n");
    assert!(!host.ok(&["status", "--json"]).contains("troubles"));
    host.ok(&["reexec"]);
    assert!(["b", "c"].iter().all(|name| host.seen(name).is_some_and(|agent| !agent.runs())), "{}", host.logs());
    assert!(record("a").contains("\"up\"") && record("b").contains("\"down\"") && record("c").contains("\"down\""));
}

/// Takes all the room that is left in a file system, until the file is removed.
fn fill(path: &Path) {
    let mut file = fs::File::create(path).expect("a full file system has room for a name");
    while file.write(&[0; 4096]).is_ok_and(|count| count > 0) {}
}

/// Records of this boot are replaced in the space that they have; a record without space is reported.
#[test]
fn a_full_run_dir_costs_no_agent() {
    if lacks_root() {
        return;
    }
    let mut host = Host::new();
    // In a process of its own, so that it outlives the daemon.
    let run = host.path("run");
    let script = "mkdir \"$0\" && mount -t tmpfs -o size=128k none \"$0\" && exec sleep 1000";
    let mut command = Command::new("unshare");
    command.args(["-m", "/bin/sh", "-c", script]).arg(&run).env("DIRECTORY", run.join("mounted"));
    let holder = command.spawn().expect("unshare").id();
    let run = PathBuf::from(format!("/proc/{holder}/root{}", run.display()));
    let device = |path: &Path| fs::metadata(path).map(|found| found.dev()).ok();
    let mounted = || device(&run).is_some_and(|device_there| Some(device_there) != device(&host.dir));
    host.wait("the new file system", mounted);
    host.set("run_dir", &format!("\"{}\"", run.display()));
    host.agent("web", "exec sleep 1000", &[]);
    host.start();
    let first = host.wait_running("web");
    fill(&run.join("filler"));
    kill(first.pid, "KILL");
    let second = host.wait_seen("web", "to run again", |agent| agent.runs() && agent.pid != first.pid);
    let ran = host.cli(&["reexec"]);
    assert!(ran.code == 1 && ran.err.contains("reexec refused: cannot write "), "{ran:?}");
    assert!(ran.err.contains("No space left on device"), "{ran:?}");
    host.kill9();
    host.start();
    let found = host.wait_running("web");
    assert_eq!((found.pid, found.failures), (second.pid, 1), "{}", host.logs());
    assert_eq!(fs::read_to_string(run.join("bootagent.pid")).unwrap_or_default().trim(), host.pid().to_string());
    fs::remove_file(run.join("filler")).expect("the test's own");
    host.ok(&["reexec"]);
    assert_eq!(host.wait_running("web").pid, second.pid, "{}", host.logs());
}

#[test]
fn what_stands_in_the_place_of_a_file_of_ours_is_no_obstacle() {
    let mut host = Host::new();
    for directory in ["state", "run/boot/kept", "run/bootagent.pid"] {
        fs::create_dir_all(host.path(directory)).expect("the host's directory");
    }
    for pipe in ["state/bootagent.lock", "run/bootagent.lock"] {
        assert!(Command::new("mkfifo").arg(host.path(pipe)).status().is_ok_and(|status| status.success()));
    }
    host.agent("web", "exec sleep 1000", &[]);
    host.start();
    host.wait_running("web");
    assert_eq!(host.cli(&["run"]).code, 1, "a second daemon");
    assert_eq!(host.read("run/bootagent.pid").trim(), host.pid().to_string());
    assert_eq!(said(&host, "run/boot\": Is a directory; make room, or remove what is in its place"), 1);
    host.kill9();
    fs::remove_file(host.path("run/bootagent.pid")).expect("the daemon's own");
    fs::create_dir_all(host.path("run/bootagent.pid/kept")).expect("the host's directory");
    host.start();
    let told = "cannot write \"";
    host.wait("the pid file to be told", || {
        host.ok(&["status"]).lines().any(|line| line.starts_with(told) && line.ends_with("pid\": Is a directory"))
    });
}

/// A pid file that could not be written at the start, as with a full run_dir, does not stay that of the last daemon.
#[test]
fn a_pid_file_is_made_good() {
    let mut host = Host::new();
    host.start();
    host.kill9();
    let stale = host.read("run/bootagent.pid");
    // Stands where it is written.
    fs::create_dir_all(host.path("run/bootagent.pid.tmp/kept")).expect("a directory of the daemon");
    host.start();
    assert_ne!(host.read("run/bootagent.pid"), stale);
    fs::remove_dir_all(host.path("run/bootagent.pid.tmp")).expect("the test's own");
    host.wait("the pid file to be true", || host.read("run/bootagent.pid").trim() == host.pid().to_string());
}

/// Removes a directory in which the daemon may just be making something.
fn remove(host: &Host, directory: &str) {
    host.wait("a directory to be gone", || fs::remove_dir_all(host.path(directory)).is_ok());
}

#[test]
fn what_is_removed_is_made_again() {
    let mut host = Host::new();
    host.agent("web", "exec sleep 1000", &[]);
    host.agent("flaky", "sleep 0.3; exit 1", &[("restartsecs", "0.1"), ("retries", "100")]);
    host.agent("off", "exec sleep 1000", &[]);
    host.start();
    let pid = host.wait_running("web").pid;
    host.ok(&["stop", "off"]);
    let identity = host.read("state/identity.json");
    for directory in ["run", "log", "state"] {
        remove(&host, directory);
    }
    host.wait("commands to be taken again", || host.path("run/bootagent.sock").exists() && host.seen("web").is_some());
    host.wait("the log", || host.path("log/bootagent.log").exists());
    let kept = ["identity.json", "good/bootagent.json", "good/agents.d/web.json", "agents/off.json"];
    host.wait("state_dir to be as it was", || kept.iter().all(|file| host.path("state").join(file).exists()));
    assert_eq!(host.read("state/identity.json"), identity);
    host.ok(&["stop", "flaky"]);
    host.wait("the record of an order", || host.path("state/agents/flaky.json").exists());
    // A second daemon is still kept out, and the next one knows everything.
    assert_eq!(host.cli(&["run"]).code, 1);
    host.kill9();
    host.start();
    assert_eq!(host.wait_running("web").pid, pid);
    assert!(host.seen("flaky").is_some_and(|agent| !agent.runs()));
}

/// Its socket takes connections all the same.
#[test]
fn a_daemon_that_is_stopped_is_said_to_be() {
    let mut host = Host::new();
    host.start();
    host.signal("STOP");
    let ran = host.cli(&["status"]);
    host.signal("CONT");
    assert!(ran.code == 1 && ran.err.contains("no answer for 20 s: its process is stopped"), "{ran:?}");
    host.ok(&["status"]);
}

/// Whatever is wrong with the configuration: what it still says of directories finds the last good copy, which says the rest.
#[test]
fn a_broken_configuration_costs_neither_agents_nor_commands() {
    let host = Host::new();
    host.agent("web", "exec sleep 1000", &[]);
    host.configure();
    host.ok(&["run", "-d"]);
    let agent = host.wait_running("web").pid;
    let daemon = || host.read("run/bootagent.pid").trim().parse::<i32>().unwrap_or(0);
    let good = host.read("bootagent.json");
    let state = host.path("state").display().to_string();
    for broken in [
        good.trim_end().trim_end_matches('}').to_string(),
        good.replacen('{', "{ \"svrlist\": \"no server\",", 1),
        format!("{{ \"state_dir\": \"{state}\" \"run_dir\": ,"),
        format!("{{ \"state_dir\": \"{state}\", \"step\": -1 }}"),
    ] {
        host.write("bootagent.json", &broken);
        for command in ["status", "jobs"] {
            host.ok(&[command]);
        }
        let ran = host.cli(&["reexec"]);
        assert!(ran.code == 1 && !ran.err.contains("not running"), "{broken}: {ran:?}");
        let before = daemon();
        kill(before, "KILL");
        host.wait("another daemon", || daemon() != before && host.cli(&["status"]).code == 0);
        assert_eq!(host.wait_running("web").pid, agent, "{broken}");
    }
    assert!(host.logs().contains("the configuration is bad: the last good one is used"), "{}", host.logs());
    host.ok(&["stop", "web"]);
    assert!(!alive(agent));
    kill(daemon(), "TERM");
    host.wait("daemon and keeper to end", || host.processes().is_empty());
}

/// The lock in run_dir is removed with it. That in state_dir stays, also over a reexec, and is made again with state_dir.
#[test]
fn an_emptied_run_dir_lets_no_second_daemon_in() {
    let host = Host::new();
    host.agent("web", "echo >>started; exec sleep 1000", &[("directory", &format!("\"{}\"", host.dir.display()))]);
    host.configure();
    host.ok(&["run", "-d"]);
    let daemon = host.read("run/bootagent.pid").trim().parse().unwrap();
    host.wait_running("web");
    let keeper = host.read("run/keeper.pid");
    let refused = |what: &str| {
        remove(&host, "run");
        for options in [&["run", "-d"][..], &["run"]] {
            let ran = host.cli(options);
            assert!(ran.code == 1 && ran.err.contains("another daemon is running"), "{what}: {ran:?}");
        }
        host.wait("run_dir to be made again", || {
            host.cli(&["status"]).code == 0 && host.read("run/bootagent.pid").trim() == format!("{daemon}")
        });
        host.wait("the keeper's file to be made again", || host.read("run/keeper.pid") == keeper);
        // Alone, too, while nothing else is missing.
        fs::remove_file(host.path("run/keeper.pid")).unwrap();
        host.wait("the keeper's file to be made again, alone", || host.read("run/keeper.pid") == keeper);
    };
    refused("as it was started");
    host.ok(&["reexec"]);
    refused("another image");
    remove(&host, "state");
    host.ok(&["stop", "web"]);
    host.ok(&["start", "web"]);
    host.wait("the lock to be made again", || host.path("state/bootagent.lock").exists());
    refused("another state_dir");
    assert_eq!(host.lines("started"), 2);
    kill(daemon, "TERM");
    host.wait("daemon, keeper and agent to end", || host.processes().is_empty());
}

#[test]
fn storms_pass() {
    let mut host = Host::new();
    host.agent("web", "exec sleep 1000", &[]);
    // Ten thousand orphans, all of which become the daemon's.
    let orphans = "for i in $(seq 100); do (for j in $(seq 100); do true & done) & done; wait; touch done; sleep 1000";
    host.agent("orphans", orphans, &[("directory", &format!("\"{}\"", host.dir.display()))]);
    host.start();
    let pid = host.wait_running("web").pid;
    for signal in ["HUP", "CHLD", "USR1", "PIPE"] {
        let storm =
            format!("i=0; while [ $i -lt 500 ]; do kill -s {signal} {} || exit 1; i=$((i+1)); done", host.pid());
        assert!(Command::new("/bin/sh").args(["-c", &storm]).status().is_ok_and(|status| status.success()));
    }
    host.wait("the orphans to be made", || host.path("done").exists());
    host.wait("all of them to be reaped", || {
        let children = format!("/proc/{0}/task/{0}/children", host.pid());
        fs::read_to_string(children).unwrap_or_default().split_whitespace().count() <= 3
    });
    assert_eq!(host.wait_running("web").pid, pid);
    assert!(host.seen("web").is_some_and(|agent| agent.runs()));
}
