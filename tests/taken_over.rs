//! What a daemon knows of agents, checks and other programs that it has taken over from one that was killed, and when it knows nothing.

mod util;

use std::fs;
use std::os::unix::fs::{chown, PermissionsExt};
use std::process::{Command, Stdio};

use util::*;

#[test]
fn a_record_of_another_boot_is_void() {
    let mut host = Host::new();
    host.agent("web", "exec sleep 1000", &[]);
    host.agent("done", "exit 1", &[("retries", "0")]);
    host.start();
    let pid = host.wait_running("web").pid;
    host.wait_seen("done", "to be given up", |agent| agent.status == "fatal");
    host.kill9();
    kill(pid, "KILL");
    for name in ["web", "done"] {
        let file = format!("run/agents/{name}.json");
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        // A live process of somebody else, in a record of an earlier boot.
        let text = host.read(&file).replace(boot.trim(), "00000000-0000-4000-8000-000000000000");
        host.write(&file, &text);
    }
    host.start();
    let agent = host.wait_running("web");
    assert_eq!(agent.failures, 0, "{agent:?}");
    assert!(!agent.detail.contains("unknown"), "{agent:?}");
    host.wait("a new try of what was given up in another boot", || {
        host.read("log/bootagent.log").matches("\"done\": given up").count() == 2
    });
}

#[test]
fn a_health_check_is_ended_by_the_next_daemon() {
    let mut host = Host::new();
    let pids = host.path("checks").display().to_string();
    let check = format!(
        "{{ \"exec\": [\"/bin/sh\", \"-c\", \"echo $$ >>{pids}; sleep 1003; :\"], \"interval\": 0.1, \"timeout\": 100, \
         \"retries\": 3 }}"
    );
    host.agent("web", "exec sleep 1000", &[("check", &check)]);
    host.start();
    let pid = host.wait_running("web").pid;
    for (round, how) in ["KILL", "KILL", "QUIT", "USR2"].into_iter().enumerate() {
        host.wait("a check", || host.lines("checks") == round + 1);
        let check: i32 = host.read("checks").lines().last().and_then(|line| line.parse().ok()).expect("a process id");
        let sleep = descendants(check);
        match how {
            "KILL" => host.kill9(),
            "QUIT" => drop(host.end("QUIT")),
            _ => host.signal("USR2"),
        }
        if how != "USR2" {
            host.start();
        }
        host.wait("the check to be ended", || !alive(check) && !sleep.iter().any(|pid| alive(*pid)));
        assert_eq!(host.wait_running("web").pid, pid);
    }
    host.ok(&["stop", "web"]);
    assert_eq!(host.agents_processes(), []);
    assert!(!host.path("run/check-web.pid").exists());
}

/// The last process id in a file of process ids.
fn last_pid(host: &Host, file: &str) -> i32 {
    host.read(file).lines().last().and_then(|line| line.parse().ok()).expect("a process id")
}

#[test]
fn the_program_of_a_reload_is_ended_by_the_next_daemon() {
    let server = Server::new();
    let mut host = Host::with(&server);
    let dir = host.dir.display().to_string();
    let script = format!("echo $$ >>{dir}/reloads; [ -e {dir}/good ] || sleep 1003; :");
    let reload = format!("{{ \"exec\": [\"/bin/sh\", \"-c\", \"{script}\"], \"timeout\": 1000 }}");
    // A stop of this one leaves what is not its main process.
    host.agent("web", "exec sleep 1000", &[("reload", &reload), ("kill", "\"main\"")]);
    host.start();
    let pid = host.wait_running("web").pid;
    for (round, how) in ["client", "QUIT", "job"].into_iter().enumerate() {
        let mut client = match how {
            "job" => {
                server.give(&Job::new("1", "reload", "web").text());
                None
            }
            _ => Some(host.begin(&["reload", "web"])),
        };
        host.wait("a reload", || host.lines("reloads") == round + 1 && host.path("run/reload-web.pid").exists());
        let reload = last_pid(&host, "reloads");
        let sleep = descendants(reload);
        match how {
            "QUIT" => drop(host.end("QUIT")),
            _ => host.kill9(),
        }
        if let Some(client) = &mut client {
            assert!(!client.wait().expect("our own child").success(), "nobody knows how it ended");
        }
        if how == "job" {
            host.write("good", "");
        }
        host.start();
        host.wait("the reload to be ended", || !alive(reload) && !sleep.iter().any(|pid| alive(*pid)));
        assert_eq!(host.wait_running("web").pid, pid);
    }
    // The job has it run again, and is answered by that.
    let (code, message) = host.result(&server, "1");
    assert!(code == 0 && host.lines("reloads") == 4, "{code} {message}\n{}", host.logs());
    assert!(!host.path("run/reload-web.pid").exists());
}

#[test]
fn the_trial_of_a_binary_is_ended_by_the_next_daemon() {
    let mut host = Host::new();
    host.install();
    host.agent("web", "exec sleep 1000", &[]);
    host.start();
    let pid = host.wait_running("web").pid;
    let trials = host.path("trials");
    write_program(&host.program, &format!("#!/bin/sh\necho $$ >>{}\nsleep 1003\n:\n", trials.display()));
    let mut client = host.begin(&["reexec"]);
    host.wait("a trial", || host.lines("trials") == 1 && host.path("run/tool-.reexec.pid").exists());
    let trial = last_pid(&host, "trials");
    host.kill9();
    assert!(!client.wait().expect("our own child").success());
    copy_program(&binary(), &host.program);
    host.start();
    host.wait("the trial to be ended", || !alive(trial));
    assert_eq!(host.wait_running("web").pid, pid);
}

#[test]
fn the_status_of_an_agent_that_was_taken_over_is_known() {
    if is_emulated() || is_older_than_linux(6, 15) {
        return;
    }
    let mut host = Host::new();
    host.set("restartsecs", "1000");
    for name in ["clean", "fails", "killed"] {
        let wait = format!("while [ ! -e {}/{name} ]; do sleep 0.02; done", host.dir.display());
        let end = match name {
            "clean" => "exit 0",
            "fails" => "exit 7",
            _ => "kill -KILL $$",
        };
        host.agent(name, &format!("{wait}; {end}"), &[("autorestart", "\"unexpected\"")]);
    }
    host.start();
    for name in ["clean", "fails", "killed"] {
        host.wait_running(name);
    }
    host.kill9();
    host.start();
    for (name, status, detail) in [
        ("clean", "stoped", "exited with status 0"),
        ("fails", "stoped", "exited with status 7"),
        ("killed", "killed", "killed by SIGKILL"),
    ] {
        host.write(name, "");
        let agent = host.wait_seen(name, "to have ended", |agent| agent.status == status);
        assert!(agent.detail.contains(detail), "{name}: {agent:?}\n{}", host.logs());
    }
    let clean = host.seen("clean").expect("it is there");
    assert!(clean.failures == 0 && !clean.detail.contains("restart"), "status 0 is no failure here: {clean:?}");
}

#[test]
fn a_process_is_ended_only_where_the_daemon_itself_named_it() {
    if lacks_root() {
        return;
    }
    let mut host = Host::new();
    host.start();
    let boot = boot_id();
    let other = boot.replace(|c: char| c.is_ascii_hexdigit(), "0");
    let own = 0o644;
    for (what, boot, user, mode, is_ended) in [
        ("its own", &*boot, 0, own, true),
        ("of another boot", &*other, 0, own, false),
        ("of no boot", "", 0, own, false),
        ("of another user", &*boot, 65534, own, false),
        ("open to its group", &*boot, 0, 0o664, false),
        ("open to all", &*boot, 0, 0o646, false),
    ] {
        for name in ["check-web", "reload-web", "tool-.inventory", "tool-.reexec"] {
            let mut named = Command::new("sleep")
                .arg("1000")
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("it starts");
            let path = host.path(&format!("run/{name}.pid"));
            let line = format!("cannot read \"{}\": it belongs to another user, or others", path.display());
            let before = said(&host, &line);
            fs::write(&path, noted(named.id(), boot)).expect("it can be written");
            chown(&path, Some(user), None).expect("we are root");
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("we are root");
            host.kill9();
            host.start();
            if is_ended {
                host.wait("it to be ended", || named.try_wait().is_ok_and(|status| status.is_some()));
            } else {
                assert!(named.try_wait().is_ok_and(|status| status.is_none()), "{name} {what}: it was ended");
                named.kill().and_then(|()| named.wait()).expect("our own child");
            }
            assert!(!path.exists(), "{name} {what}");
            let is_told = user != 0 || mode != own;
            assert_eq!(said(&host, &line) - before, usize::from(is_told), "{name} {what}: {}", host.logs());
        }
    }
}

#[test]
fn a_record_of_a_run_that_somebody_else_wrote_is_set_aside() {
    if lacks_root() {
        return;
    }
    let mut host = Host::new();
    host.agent("web", "exec sleep 1000", &[]);
    host.start();
    host.wait_running("web");
    let path = host.path("run/agents/web.json");
    host.kill9();
    chown(&path, Some(65534), None).expect("we are root");
    host.start();
    let aside = host.path("run/agents/web.json.corrupt");
    let line = format!("cannot read \"{}\": it belongs to another user, or others", path.display());
    host.wait("it to be told", || host.read("log/bootagent.log").contains(&line));
    assert!(aside.exists());
    host.wait_running("web");
}
