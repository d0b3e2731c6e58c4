//! Nobody stands in for an agent by what they say of themselves.

mod util;

use std::fs;
use std::process::{Child, Command, Stdio};

use util::*;

/// A process with these real, effective and saved users, in a session of its own, whose environment names agent `web`.
fn pretender(host: &Host, users: (u32, u32, u32)) -> Child {
    let (real, effective, saved) = users;
    let script = format!(
        "import os, time; os.setsid(); ready = open('{}', 'wb', 0); \
         os.setresuid({real}, {effective}, {saved}); ready.write(b'x'); time.sleep(1000)",
        host.path("ready").display()
    );
    let _ = fs::remove_file(host.path("ready"));
    let mut command = Command::new("python3");
    command.args(["-c", &script]).env("BOOTAGENT_NAME", "web").env("BOOTAGENT_STATE_ID", &*host.mark());
    let child = command.stdin(Stdio::null()).spawn().expect("it starts");
    host.wait("it to be who it says", || !host.read("ready").is_empty());
    child
}

#[test]
fn nobody_stands_in_for_an_agent_by_what_they_say() {
    if lacks_root() || lacks("python3") || emulator_lacks("reaper of orphans (PR_SET_CHILD_SUBREAPER)") {
        return;
    }
    // As su that waits for a password, as sudo that does, and as a program of another user's.
    for users in [(65_534, 0, 0), (0, 0, 0), (65_533, 65_533, 65_533)] {
        for groups in [true, false] {
            for how in ["crash", "lost", "stopped"] {
                let mut host = Host::new();
                if !groups {
                    host.behind(NO_GROUPS);
                }
                host.agent("web", "exec sleep 1000", &[]);
                host.set("restartsecs", "0.1");
                host.start();
                let pid = host.wait_running("web").pid;
                if how == "stopped" {
                    host.ok(&["stop", "web"]);
                }
                let mut pretender = pretender(&host, users);
                host.kill9();
                if how != "stopped" {
                    kill(pid, "KILL");
                    host.wait("its end", || !alive(pid));
                }
                if how == "lost" {
                    fs::remove_dir_all(host.path("run/agents")).expect("the records of runs");
                }
                host.start();
                let case = format!("{users:?} {how}, groups: {groups}");
                let other = i32::try_from(pretender.id()).expect("a process id");
                if how == "stopped" {
                    assert!(!host.wait_seen("web", "to be there", |agent| agent.status == "stoped").runs(), "{case}");
                } else {
                    let now = host.wait_seen("web", "to run anew", |agent| agent.runs() && agent.pid > 0);
                    assert!(now.pid != other && now.pid != pid, "{case}: {now:?}");
                    host.ok(&["stop", "web"]);
                }
                // At most root's own gets the agent's signals.
                let alive = pretender.try_wait().is_ok_and(|ended| ended.is_none());
                assert!(alive || users == (0, 0, 0), "{case}: it was ended\n{}", host.logs());
                let _ = (pretender.kill(), pretender.wait());
                host.end("TERM");
            }
        }
    }
}
