//! Keys that real daemons need: each is put into effect at the start, stays over a kill -9 and a reexec of the daemon, and a
//! host that cannot do it is told why.

mod util;

use std::fs;
use std::os::unix::fs::{chown, lchown, symlink, PermissionsExt};
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
        outlives_daemons(&mut host, name);
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

#[test]
fn an_env_file_is_read_at_each_start() {
    let mut host = Host::new();
    let file = host.path("default");
    let keys = [("env_file", format!("\"{}\"", file.display())), ("envs", "{ \"B\": \"ours\" }".to_string())];
    let keys: Vec<(&str, &str)> = keys.iter().map(|(key, value)| (*key, value.as_str())).collect();
    host.agent(
        "web",
        &format!("echo \"$A/$B/$BOOTAGENT_NAME\" >>{}; exec sleep 1000", host.path("out").display()),
        &keys,
    );
    let missing = format!("\"-{}\"", host.path("none").display());
    host.agent("missing", "exec sleep 1000", &[("env_file", &missing)]);
    host.write("default", "# comment\nA=\"one two\"\nB=theirs\nBOOTAGENT_NAME=other\n");
    host.start();
    host.wait_running("missing");
    host.wait("its output", || host.read("out") == "one two/ours/web\n");
    outlives_daemons(&mut host, "web");
    host.write("default", "A=new\n");
    assert_eq!(host.cli(&["restart", "web"]).code, 0);
    host.wait("its output", || host.read("out") == "one two/ours/web\nnew/ours/web\n");
    fs::remove_file(&file).expect("it was written");
    let ran = host.cli(&["check"]);
    assert!(ran.code == 1 && ran.err.contains("web.json: env_file \""), "{ran:?}");
    assert_eq!(host.cli(&["restart", "web"]).code, 1);
    let seen = host.wait_seen("web", "to fail", |seen| !seen.runs());
    assert!(seen.detail.contains("reading the environment: env_file \""), "{seen:?}");
}

#[test]
fn an_env_file_that_others_could_write_is_refused() {
    if lacks_root() {
        return;
    }
    let mut host = Host::new();
    let script = format!("echo $SECRET >>{}; exec sleep 1000", host.path("out").display());
    fs::create_dir(host.path("home")).expect("a directory");
    for (file, text) in [("open", "A=1"), ("root", "SECRET=root"), ("home/own", "A=2"), ("foreign", "A=3")] {
        host.write(file, text);
    }
    let path = |file: &str| host.path(file);
    fs::set_permissions(path("open"), fs::Permissions::from_mode(0o666)).expect("root may");
    for (file, user) in [("home", 4711), ("home/own", 4711), ("foreign", 4712)] {
        chown(path(file), Some(user), Some(user)).expect("root may");
    }
    symlink(path("root"), path("home/link")).expect("a link");
    fs::hard_link(path("root"), path("home/name")).expect("a second name");
    lchown(path("home/link"), Some(4711), Some(4711)).expect("root may");
    for (name, file) in [
        ("others", "open"),
        ("foreigner", "foreign"),
        ("link", "home/link"),
        ("name", "home/name"),
        ("own", "home/own"),
        ("directory", "home"),
    ] {
        let file = format!("\"{}\"", path(file).display());
        let keys = [("env_file", &*file), ("user", "4711"), ("group", "4711"), ("retries", "0")];
        host.agent(name, if name == "own" { "exec sleep 1000" } else { &script }, &keys);
    }
    host.start();
    for (name, why) in [
        ("others", "others can write it"),
        ("foreigner", "it belongs to user 4712"),
        ("link", "belongs to user 4711"),
        ("name", "it has more than one name"),
        ("directory", "not a regular file"),
    ] {
        let seen = host.wait_seen(name, "to be given up", |seen| seen.status == "fatal");
        assert!(seen.detail.contains(why), "{seen:?}");
    }
    host.wait_running("own");
    assert_eq!(host.read("out"), "");
}

#[test]
fn with_kill_mixed_only_the_main_process_gets_the_stop_signal() {
    let mut host = Host::new();
    let out = host.path("out");
    // A worker that notes a TERM, and ends when the file is there that its main process makes at the end.
    let worker = format!(
        "trap \"echo worker >>{0}\" TERM; until test -e {1}; do sleep 0.05; done",
        out.display(),
        host.path("end").display()
    );
    let main = format!(
        "sh -c '{worker}' & trap \"echo main >>{}; : >{}; wait; exit 0\" TERM; while :; do wait; done",
        out.display(),
        host.path("end").display()
    );
    host.agent("mixed", &main, &[("kill", "\"mixed\""), ("stopsecs", "60")]);
    // One whose worker stays: it is killed after stopsecs.
    host.agent(
        "stays",
        "sleep 1000 & trap 'exit 0' TERM; while :; do wait; done",
        &[("kill", "\"mixed\""), ("stopsecs", "0.5")],
    );
    host.start();
    outlives_daemons(&mut host, "mixed");
    host.wait_running("stays");
    for name in ["mixed", "stays"] {
        assert_eq!(host.cli(&["stop", name]).code, 0);
    }
    assert_eq!(host.read("out"), "main\n");
    assert!(host.agents_processes().is_empty(), "{:?}", host.agents_processes());
}
