//! Agents that use as much as they can get, and what limits them: processor time, processes, output, health checks; and
//! what the daemon can still do on a read-only disk.

mod util;

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use util::*;

/// The directory of a process's v1 or v2 group with this controller, if there is one of ours.
fn group_of(pid: i32, controller: &str) -> Option<PathBuf> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let mut lines = text.lines().map(|line| line.splitn(3, ':').skip(1).collect::<Vec<_>>());
    let line = lines.find(|line| line.len() == 2 && line[1].contains("/bootagent") && has(line[0], controller))?;
    let below = line[1].trim_start_matches('/');
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let mut mounts = mounts.lines().filter_map(|mount| {
        let (left, right) = mount.split_once(" - ")?;
        let fits =
            if line[0].is_empty() { right.starts_with("cgroup2 ") } else { has(right.split(' ').nth(2)?, controller) };
        fits.then(|| PathBuf::from(left.split(' ').nth(4).unwrap_or_default()))
    });
    mounts.find_map(|mount| Some(mount.join(below)).filter(|dir| dir.is_dir()))
}

fn has(names: &str, controller: &str) -> bool {
    names.is_empty() || names.split(',').any(|name| name == controller)
}

/// Processor time of these processes so far, clock ticks.
fn ticks(pids: &[i32]) -> u64 {
    let used = |pid: &i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let rest = stat.rsplit_once(") ").map_or("", |(_, rest)| rest).to_string();
        rest.split(' ').skip(11).take(2).filter_map(|word| word.parse::<u64>().ok()).sum::<u64>()
    };
    pids.iter().map(used).sum()
}

#[test]
fn a_processor_hog_is_held_down() {
    if lacks_root() {
        return;
    }
    let mut host = Host::new();
    let script = "for i in 1 2 3; do (while :; do :; done) & done; exec sleep 1000";
    host.agent("hog", script, &[("limits", "{ \"CPU\": \"20%\" }")]);
    host.start();
    let pid = host.wait_running("hog").pid;
    let status = host.status().expect("the daemon answers");
    let by = text(&items(&status, "agents")[0], "limits_by").to_string();
    if by == "polled" {
        skipped("a cpu controller");
        return;
    }
    let dir = group_of(pid, "cpu").unwrap_or_else(|| panic!("no group of process {pid}, limited by {by}"));
    let limit = |file: &str| fs::read_to_string(dir.join(file)).unwrap_or_default().trim().to_string();
    if by == "cgroup1" {
        assert_eq!((limit("cpu.cfs_quota_us"), limit("cpu.cfs_period_us")), ("20000".into(), "100000".into()));
    } else {
        assert_eq!(limit("cpu.max"), "20000 100000");
    }
    host.wait("all of them", || host.agents_processes().len() == 4);
    let pids = host.agents_processes();
    let (began, before) = (Instant::now(), ticks(&pids));
    host.wait("it to run for a while", || began.elapsed() > Duration::from_secs(4));
    let share = (ticks(&pids) - before) as f64 / began.elapsed().as_secs_f64();
    // What hogs take on an idle host is 200 or 300 hundredths of a second in a second.
    assert!((1.0..40.0).contains(&share), "{share} hundredths of a second in a second, limited to 20");
    assert_eq!(host.wait_running("hog").failures, 0);
    host.ok(&["stop", "hog"]);
    assert_eq!(host.agents_processes(), []);
}

#[test]
fn a_fork_bomb_that_hides_and_is_deaf_is_ended() {
    if lacks_root() || lacks("setsid") || emulator_lacks("reaper of orphans (PR_SET_CHILD_SUBREAPER)") {
        return;
    }
    let mut host = Host::new();
    // Each makes two others in sessions of their own, as far as its limit lets it, and none listens to SIGTERM.
    let bomb =
        "trap '' TERM HUP; n=$(($1 + 1)); [ $n -gt 7 ] || { setsid /bin/sh \"$0\" $n & setsid /bin/sh \"$0\" $n & }; \
                exec sleep 1000";
    host.write("bomb.sh", bomb);
    let exec = format!("[\"/bin/sh\", \"{}\", \"0\"]", host.path("bomb.sh").display());
    // The kernel counts all processes of a user on the host: this one is nobody else's.
    let user = (200_000 + std::process::id()).to_string();
    let keys = [("exec", &*exec), ("user", &*user), ("group", &*user), ("stopsecs", "0.5"), ("startsecs", "0")];
    let limits = [("limits", "{ \"nproc\": 60 }")];
    host.agent("bomb", "", &[&keys[..], &limits[..]].concat());
    host.agent("web", "exec sleep 1000", &[]);
    host.start();
    let web = host.wait_running("web").pid;
    for round in 0..3 {
        host.wait("the bomb to go off", || host.agents_processes().len() > 8);
        let began = Instant::now();
        host.ok(&[["stop", "restart", "stop"][round], "bomb"]);
        assert!(began.elapsed() < Duration::from_secs(40), "{:?}", began.elapsed());
        if round != 1 {
            assert_eq!(host.agents_processes(), [web], "{}", host.logs());
            host.begin(&["start", "bomb"]).wait().expect("the order ends");
        }
    }
    host.wait("the bomb to go off", || host.agents_processes().len() > 8);
    host.kill9();
    host.start();
    host.ok(&["stop", "bomb"]);
    assert_eq!(host.agents_processes(), [web], "adopted, stopped, and not all are gone\n{}", host.logs());
}

#[test]
fn a_health_check_is_the_agents_own() {
    if lacks_root() {
        return;
    }
    let mut host = Host::new();
    let dir = host.path("seen");
    fs::create_dir(&dir).expect("the host's directory");
    std::os::unix::fs::chown(&dir, Some(12345), Some(23456)).expect("the test's own directory");
    let script = format!("id -u >{0}/uid; id -g >{0}/gid; echo $BOOTAGENT_NAME >{0}/name", dir.display());
    let check = |script: &str, timeout: &str, retries: &str| {
        let script = miniserde::json::to_string(&script.to_string());
        format!(
            "{{ \"exec\": [\"/bin/sh\", \"-c\", {script}], \"interval\": 0.1, \"timeout\": {timeout}, \"retries\": {retries} }}"
        )
    };
    let own = check(&script, "10", "3");
    let keys = [("user", "12345"), ("group", "23456"), ("check", &*own)];
    host.agent("own", "exec sleep 1000", &keys);
    // A check that hangs with a child is killed with it, and counts.
    let hangs = check("sleep 1000 & sleep 1000", "0.3", "2");
    host.agent("slow", "exec sleep 1000", &[("check", &hangs), ("restartsecs", "60")]);
    // So is one that was stopped by a signal.
    let stops = check("kill -STOP $$", "0.3", "1");
    host.agent("halted", "exec sleep 1000", &[("check", &stops), ("restartsecs", "60")]);
    // The last output of an agent is reported: only its end, nothing that a terminal would obey, and no secret.
    let says =
        "i=0; while [ $i -lt 300 ]; do echo line $i; i=$((i+1)); done; printf 'bad \\033[31m%s\\n' \"$TOKEN\"; exit 7";
    host.agent("loud", says, &[("restartsecs", "60"), ("envs", "{ \"TOKEN\": \"s3cr3t-s3cr3t\" }")]);
    host.start();
    host.wait("the check of the first", || host.lines("seen/name") == 1);
    assert_eq!(
        (&*host.read("seen/uid"), &*host.read("seen/gid"), &*host.read("seen/name")),
        ("12345\n", "23456\n", "own\n")
    );

    let slow = host.wait_seen("slow", "to be ended", |agent| agent.failures == 1);
    assert!(slow.detail.contains("not done within 0.3 s") && slow.detail.contains("2 of 2"), "{slow:?}");
    let halted = host.wait_seen("halted", "to be ended", |agent| agent.failures == 1);
    assert!(halted.detail.contains("not done within 0.3 s"), "{halted:?}");
    let loud = host.wait_seen("loud", "to be ended", |agent| agent.failures == 1);
    assert!(
        loud.detail.contains("status 7") && loud.detail.contains("line 299") && loud.detail.contains("bad"),
        "{loud:?}"
    );
    assert!(loud.detail.len() <= 1100 && !loud.detail.contains("line 1 "), "{} bytes: {loud:?}", loud.detail.len());
    assert!(!loud.detail.contains('\u{1b}') && !loud.detail.contains("s3cr3t"), "{loud:?}");
    let own = host.wait_running("own");
    assert_eq!((own.failures, &*own.detail), (0, ""));
    host.wait("nothing of the others to be left", || host.agents_processes().len() <= 3);
}

#[test]
fn what_a_failing_health_check_says_is_told() {
    let mut host = Host::new();
    let agent = |name: &str, script: &str, retries: u32| {
        let script = miniserde::json::to_string(script);
        let check = format!(
            "{{ \"exec\": [\"/bin/sh\", \"-c\", {script}], \"interval\": 0.1, \"timeout\": 60, \"retries\": {retries} }}"
        );
        let envs = "{ \"TOKEN\": \"s3cr3t-s3cr3t\" }";
        host.agent(name, "exec sleep 1000", &[("check", &check), ("restartsecs", "60"), ("envs", envs)]);
    };
    let lines = "i=0; while [ $i -lt 300 ]; do echo line $i; i=$((i+1)); done; ";
    agent("sick", &format!("{lines} printf 'bad \\033[31m%s\\n' \"$TOKEN\" >&2; exit 7"), 2);
    // Far more than a pipe holds, which would block it; with less than a line it ends all the same.
    agent("flood", "head -c 3000000 /dev/zero | tr '\\0' x; echo; printf 'that was much'; exit 7", 1);
    // Its output ends before it does, and after it.
    agent("mute", "exec >&- 2>&-; sleep 0.3; exit 7", 1);
    agent("left", "sleep 1000 & echo left; exit 7", 1);
    host.start();
    let end = |name: &str| host.wait_seen(name, "to be ended", |agent| agent.failures == 1).detail;
    let sick = end("sick");
    assert!(sick.contains("status 7, 2 of 2 in a row: ") && sick.contains("line 299 | bad"), "{sick}");
    assert!(sick.len() <= 1100 && !sick.contains("line 1 "), "{} bytes: {sick}", sick.len());
    assert!(!sick.contains('\u{1b}') && !sick.contains("s3cr3t"), "{sick}");
    let flood = end("flood");
    assert!(flood.contains("status 7, 1 of 1 in a row: x") && flood.contains("x | that was much;"), "{flood}");
    let mute = end("mute");
    assert!(mute.contains("status 7, 1 of 1 in a row; restart"), "{mute}");
    let left = end("left");
    assert!(left.contains("status 7, 1 of 1 in a row: left; restart"), "{left}");
    let log = host.read("log/bootagent.log");
    assert!(log.lines().any(|line| line.contains("1 of 2 in a row: ") && line.contains("line 299 | bad")), "{log}");
}

#[test]
fn a_writer_is_never_held_up() {
    let mut host = Host::new();
    host.set("checksecs", "0.2");
    let beat = host.path("beat").display().to_string();
    let script = format!("i=0; while :; do i=$((i+1)); echo {}; echo $i >{beat}; done", "0123456789".repeat(20));
    host.agent("chatty", &script, &[("log_size", "\"64K\"")]);
    host.start();
    let pid = host.wait_running("chatty").pid;
    let dir = host.dir.clone();
    let size = |file: &str| fs::metadata(dir.join(file)).map_or(0, |meta| meta.len());
    // It is empty for a moment whenever it is written.
    let read = || fs::read_to_string(dir.join("beat")).ok()?.trim().parse::<u64>().ok();
    let beats = || patiently(read).expect("it counts its lines");
    host.wait("the file to be rotated", || size("log/chatty.log.1") > 0);
    kill(host.pid(), "STOP");
    let (before, length) = (beats(), size("log/chatty.log"));
    host.wait("it to write on with a daemon that stands still", || beats() > before + 500);
    kill(host.pid(), "CONT");
    host.wait("the file to be rotated again", || size("log/chatty.log") < length + 500 * 200);
    host.kill9();
    let before = beats();
    host.wait("it to write on without a daemon", || beats() > before + 2000);
    assert!(size("log/chatty.log") > 64 << 10);
    host.start();
    assert_eq!(host.wait_running("chatty").pid, pid);
    host.wait("the next daemon to turn it over", || size("log/chatty.log") < 100_000);
    // Without the file it writes on too.
    fs::remove_file(host.path("log/chatty.log")).expect("its output");
    let before = beats();
    host.wait("it to write on without its file", || beats() > before + 500);
    assert_eq!(host.wait_running("chatty").pid, pid);
}

/// Mounts the state directory anew, as the daemon sees it.
fn remount(host: &Host, how: &str) {
    let (target, how) = (format!("--target={}", host.pid()), format!("remount,bind,{how}"));
    let state = host.path("state").display().to_string();
    let ran = run(Command::new("nsenter").args([&*target, "--mount", "mount", "-o", &*how, &*state]));
    let ran = ran.expect("it ends");
    assert_eq!(ran.code, 0, "{ran:?}");
}

#[test]
fn what_a_disk_refused_at_the_start_is_made_up_for() {
    if lacks_root() || lacks("nsenter") {
        return;
    }
    let server = Server::new();
    let mut host = Host::with(&server);
    let state = host.path("state").display().to_string();
    fs::create_dir_all(&state).expect("the host's directory");
    host.behind(&format!("mount --bind {state} {state}; mount -o remount,bind,ro {state} || exit 1;"));
    for name in ["a", "b"] {
        host.agent(name, "exec sleep 1000", &[]);
    }
    host.start();
    host.wait_running("b");
    let troubles = |host: &Host| host.status().map(|status| items(&status, "troubles").len());
    assert!(troubles(&host) > Some(0), "{}", host.logs());
    remount(&host, "rw");
    let copies = ["bootagent.json", "agents.d/a.json", "agents.d/b.json"];
    let are_there = || copies.iter().all(|copy| host.path(&format!("state/good/{copy}")).exists());
    host.wait("good copies to be made", are_there);
    host.wait("no trouble to be left", || troubles(&host) == Some(0));

    // Once more, where nothing but the numbers of reports has to be written.
    host.kill9();
    server.forget();
    host.start();
    host.wait("a report", || !server.statuses().is_empty());
    assert!(troubles(&host) > Some(0), "{}", host.logs());
    remount(&host, "rw");
    let is_numbered =
        |report: &miniserde::json::Value| number(report, "seq") > 0.0 && items(report, "troubles").is_empty();
    host.wait("a report with a number and no trouble", || server.statuses().last().is_some_and(is_numbered));
}

#[test]
fn a_read_only_disk_costs_the_memory_only() {
    if lacks_root() || lacks("nsenter") {
        return;
    }
    let mut host = Host::new();
    let state = host.path("state").display().to_string();
    fs::create_dir_all(&state).expect("the host's directory");
    host.behind(&format!("mount --bind {state} {state} || exit 1;"));
    for name in ["a", "b"] {
        host.agent(name, "exec sleep 1000", &[]);
    }
    host.start();
    let first = host.wait_running("a").pid;
    host.wait_running("b");
    remount(&host, "ro");
    host.ok(&["stop", "b"]);
    host.ok(&["start", "b"]);
    host.ok(&["stop", "b"]);
    kill(first, "KILL");
    let a = host.wait_seen("a", "to be started again", |agent| agent.runs() && agent.pid != first);
    assert_eq!(a.failures, 1);
    let said = |host: &Host| host.read("daemon.out").matches("Read-only file system").count();
    assert!((1..=3).contains(&said(&host)), "said {} times\n{}", said(&host), host.logs());
    assert!(!host.read("state/agents/b.json").contains("down"));
    remount(&host, "rw");
    host.wait("the record to be written", || host.read("state/agents/b.json").contains("down"));
    host.wait("that to be said", || host.read("daemon.out").contains("writing records works again"));

    // A start on such a disk.
    host.kill9();
    host.behind(&format!("mount --bind {state} {state}; mount -o remount,bind,ro {state} || exit 1;"));
    host.start();
    assert_eq!(host.wait_running("a").pid, a.pid);
    assert!(!host.seen("b").is_some_and(|agent| agent.runs()), "the last order is forgotten");
    host.ok(&["restart", "a"]);
    assert_eq!(host.end("TERM").code(), Some(0));
    assert_eq!(host.processes(), []);
}
