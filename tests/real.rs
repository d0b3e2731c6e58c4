//! Keys that real daemons need: each is put into effect at the start, stays over a kill -9 and a reexec of the daemon, and a
//! host that cannot do it is told why.

mod util;

use std::fs;
use std::process::Command;

use util::*;

/// The value of nice of a process, the 19th field of its stat.
fn nice(pid: i32) -> String {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let (_, fields) = stat.rsplit_once(") ").unwrap_or_default();
    fields.split(' ').nth(16).unwrap_or_default().to_string()
}

fn oom_score_adj(pid: i32) -> String {
    fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap_or_default().trim().to_string()
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
fn nice_and_the_out_of_memory_score_are_set() {
    if lacks_root() {
        return;
    }
    let mut host = Host::new();
    let script = "sleep 1000 & wait";
    host.agent("plain", script, &[]);
    // Below the daemon's own score needs CAP_SYS_RESOURCE, which a container may lack.
    let capabilities = u64::from_str_radix(&proc_status(std::process::id() as i32, "CapEff"), 16).unwrap_or(0);
    let score = if capabilities >> 24 & 1 != 0 { "-900" } else { "900" };
    host.agent("last", script, &[("nice", "-5"), ("oom_score_adj", score)]);
    host.agent("first", script, &[("nice", "19"), ("oom_score_adj", "1000"), ("user", "65534"), ("group", "65534")]);
    host.start();
    for (name, want) in [("plain", ("0", "0")), ("last", ("-5", score)), ("first", ("19", "1000"))] {
        let pid = host.wait_running(name).pid;
        assert_eq!((&*nice(pid), &*oom_score_adj(pid)), want, "{name}");
        stays(&mut host, name);
    }
    assert_eq!(nice(host.pid()), "0", "the daemon's own");
}

#[test]
fn a_priority_that_may_not_be_set_is_named() {
    let mut host = Host::new();
    host.agent("low", "exec sleep 1000", &[("nice", "5"), ("oom_score_adj", "500")]);
    host.agent("high", "exec sleep 1000", &[("nice", "-5"), ("retries", "0")]);
    host.agent("kept", "exec sleep 1000", &[("oom_score_adj", "-1000"), ("retries", "0")]);
    if lacks_root() || lacks("setpriv") {
        return;
    }
    host.through("setpriv --bounding-set=-sys_nice,-sys_resource");
    host.start();
    host.wait_running("low");
    for (name, want) in
        [("high", "cannot start: setting the priority: "), ("kept", "cannot start: setting the out-of-memory score: ")]
    {
        let seen = host.wait_seen(name, "to be given up", |seen| seen.status == "fatal");
        assert!(seen.detail.contains(want), "{seen:?}");
    }
}

#[test]
fn on_signal_restarts_after_signals_alone() {
    let mut host = Host::new();
    let keys = [("autorestart", "\"on-signal\""), ("restartsecs", "0.1")];
    host.agent("exits", "exit 7", &keys);
    host.agent("killed", "exec sleep 1000", &keys);
    host.start();
    host.wait_seen("exits", "to stay down", |seen| seen.status == "stoped" && seen.detail.contains("status 7"));
    let pid = host.wait_running("killed").pid;
    assert!(Command::new("kill").arg(pid.to_string()).status().expect("kill").success());
    host.wait_seen("killed", "to be restarted", |seen| seen.runs() && seen.pid != pid);
    let seen = host.seen("exits").expect("a status");
    assert_eq!((&*seen.status, seen.failures), ("stoped", 0), "{seen:?}");
}

#[test]
fn a_health_check_that_fails_while_it_starts_ends_nothing() {
    let mut host = Host::new();
    let ready = host.path("ready");
    let check = format!(
        "{{ \"exec\": [\"/usr/bin/test\", \"-e\", \"{}\"], \"interval\": 0.1, \"retries\": 2 }}",
        ready.display()
    );
    let script = format!("sleep 2; : >{}; exec sleep 1000", ready.display());
    host.agent("slow", &script, &[("check", &check), ("startsecs", "60")]);
    host.start();
    let pid = host.wait_running("slow").pid;
    host.wait("it to be ready", || ready.exists());
    let seen = host.wait_running("slow");
    assert_eq!((seen.pid, seen.failures), (pid, 0));
}
