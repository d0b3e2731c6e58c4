//! What the shell that started the daemon had does not reach agents and their health checks: the documented defaults do.

mod util;

use std::fs;
use std::process::Command;

use util::*;

/// What a program says about a process, without its id.
fn says(program: &str, pid: i32) -> String {
    let ran = run(Command::new(program).args(["-p", &pid.to_string()])).expect("it ends");
    ran.out.replace(&pid.to_string(), "PID")
}

/// The nice value of a process.
fn niceness(pid: i32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(16).map(str::to_string))
}

#[test]
fn agents_have_the_defaults_whoever_started_the_daemon() {
    let needed = ["prlimit", "nice", "ionice", "chrt", "taskset"];
    if lacks_root() || needed.into_iter().any(lacks) || is_emulated() {
        return;
    }
    let mut host = Host::new();
    let checked = host.path("checked").display().to_string();
    let check = format!(
        "{{ \"exec\": [\"/bin/sh\", \"-c\", \"cat /proc/self/limits >{checked}\"], \"interval\": 0.1, \"retries\": 3 }}"
    );
    host.agent("web", "exec sleep 1000", &[("check", &check)]);
    host.agent("own", "exec sleep 1000", &[("limits", "{ \"nofile\": 77, \"fsize\": \"1M\" }"), ("nice", "3")]);
    host.through(
        "prlimit --nofile=300: --core=5: --fsize=100000000: --nproc=5000: --stack=1000000: --memlock=1: \
         nice -n 7 ionice -c 3 chrt -b 0 taskset 1",
    );
    host.start();
    let pid = host.wait_running("web").pid;
    host.wait("the program to be executed", || proc_status(pid, "Name") == "sleep");
    assert!(says("chrt", host.pid()).contains("SCHED_BATCH") && says("ionice", host.pid()).contains("idle"));
    host.wait("a health check", || host.read("checked").lines().count() > 10);
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).expect("it lives");
    // A hard limit cannot be raised everywhere, so that the lower one of two soft limits is right.
    let number = |text: Option<&str>| text.map_or(0, |text| text.parse::<u64>().unwrap_or(u64::MAX));
    let limit = |text: &str, what: &str, column: usize| {
        number(text.lines().find_map(|line| line.strip_prefix(what)?.split_whitespace().nth(column)))
    };
    let ours = fs::read_to_string("/proc/self/limits").expect("this test lives");
    for text in [limits, host.read("checked")] {
        for (what, want) in [
            ("Max core file size", 0),
            ("Max file size", u64::MAX),
            ("Max processes", u64::MAX),
            ("Max stack size", 8 << 20),
            ("Max locked memory", 8 << 20),
            ("Max open files", 1024),
        ] {
            let got = limit(&text, what, 0);
            assert!(got == want || got == want.min(limit(&ours, what, 1)), "{what}: {got}");
        }
    }
    // As this test, which nobody has restricted, and process 1.
    assert_eq!(niceness(pid).as_deref(), Some("0"));
    assert!(says("chrt", pid).contains("SCHED_OTHER"), "{}", says("chrt", pid));
    assert!(!says("ionice", pid).contains("idle"), "{}", says("ionice", pid));
    assert_eq!(proc_status(pid, "Cpus_allowed"), proc_status(1, "Cpus_allowed"));
    assert_eq!(fs::read_to_string(format!("/proc/{pid}/timerslack_ns")).unwrap_or_default().trim(), "50000");
    // What a definition says comes after that.
    let own = host.wait_running("own").pid;
    host.wait("the program to be executed", || proc_status(own, "Name") == "sleep");
    let limits = fs::read_to_string(format!("/proc/{own}/limits")).expect("it lives");
    let has = |what: &str, both: &str| {
        let line = limits.lines().find(|line| line.starts_with(what)).unwrap_or_default();
        line.split_whitespace().filter(|word| *word == both).count() == 2
    };
    assert!(has("Max open files", "77") && has("Max file size", "1048576"), "{limits}");
    assert_eq!(niceness(own).as_deref(), Some("3"));
}

#[test]
fn what_a_definition_says_is_not_lowered_before() {
    if lacks_root() || ["prlimit", "setpriv"].into_iter().any(lacks) || is_emulated() {
        return;
    }
    let raise = ["--nice=40", "--memlock=33554432"];
    let can_raise = run(Command::new("prlimit").args(raise).arg("true")).is_some_and(|ran| ran.code == 0);
    if !can_raise {
        cannot_apply("hard limits cannot be raised here, without CAP_SYS_RESOURCE");
        return;
    }
    // A daemon that may not raise a limit again which it has lowered.
    let mut host = Host::new();
    host.agent("web", "exec sleep 1000", &[("limits", "{ \"memlock\": \"32M\" }"), ("nice", "-5")]);
    host.through(&format!("prlimit {} setpriv --bounding-set=-sys_nice,-sys_resource", raise.join(" ")));
    host.start();
    let pid = host.wait_running("web").pid;
    host.wait("the program to be executed", || proc_status(pid, "Name") == "sleep");
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).expect("it lives");
    let of = |what: &str| {
        let line = limits.lines().find_map(|line| line.strip_prefix(what)).unwrap_or_default();
        line.split_whitespace().take(2).map(str::to_string).collect::<Vec<_>>()
    };
    assert_eq!(
        (of("Max locked memory"), of("Max nice priority")),
        (vec!["33554432".to_string(); 2], vec!["0".to_string(); 2])
    );
    assert_eq!(niceness(pid).as_deref(), Some("-5"));
}
