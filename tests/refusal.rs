//! A daemon without root, and an agent that becomes root: what cannot be signalled is said, and nobody waits for it.

mod util;

use std::fs;
use std::os::unix::fs::{chown, PermissionsExt};
use std::process::Command;

use util::*;

#[test]
fn an_agent_that_became_root_is_said_to_run_on() {
    if lacks_root() || lacks("cc") || lacks("setpriv") || is_emulated() {
        return;
    }
    let mut host = Host::new();
    let program = host.path("rooted");
    host.write("rooted.c", "#include <unistd.h>\nint main() { if (setuid(0)) return 1; for (;;) pause(); }\n");
    let made = run(Command::new("cc").arg("-o").arg(&program).arg(host.path("rooted.c"))).expect("it ends");
    assert_eq!(made.code, 0, "{made:?}");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o4755)).expect("the test's own file");
    let script = format!("exec {}", program.display());
    for name in ["rooted", "again"] {
        host.agent(name, &script, &[("stopsecs", "0.2"), ("startsecs", "0")]);
    }
    host.agent("web", "exec sleep 1000", &[]);
    for place in ["state", "run", "log"] {
        fs::create_dir_all(host.path(place)).expect("a directory for the test");
        chown(host.path(place), Some(65_534), Some(65_534)).expect("root may do that");
    }
    host.through("setpriv --reuid 65534 --regid 65534 --clear-groups");
    host.start();
    let pids = ["rooted", "again"].map(|name| host.wait_running(name).pid);
    for pid in pids {
        host.wait("it to be root", || proc_status(pid, "Uid").split_whitespace().next() == Some("0"));
    }
    let ran = host.cli(&["stop", "rooted"]);
    let why = format!("process {} runs as user root, the daemon as user nobody: Operation not permitted", pids[0]);
    assert!(ran.code == 1 && ran.err.contains(&why), "{ran:?}");
    assert!(!host.read("daemon.out").contains("sent SIGKILL"), "{}", host.logs());
    let seen = host.seen("rooted").expect("it is known");
    assert!(seen.runs() && seen.detail.contains(&why), "{seen:?}");
    let ran = host.cli(&["restart", "again"]);
    assert!(ran.code == 1 && ran.err.contains("runs as user root"), "{ran:?}");
    // Once it has ended by itself, all goes on.
    kill(pids[1], "KILL");
    host.wait_seen("again", "to be started again", |agent| agent.runs() && agent.pid != pids[1]);
    host.ok(&["stop", "web"]);
    host.end("TERM");
    let said = host.read("daemon.out");
    for name in ["rooted", "again"] {
        let line = format!("agent \"{name}\": still runs as the daemon ends: cannot be stopped: process ");
        assert!(said.contains(&line), "{said}");
    }
    for pid in host.agents_processes() {
        kill(pid, "KILL");
    }
}
