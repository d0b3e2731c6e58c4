//! The files that agents write their output to: whose they are, how they are rotated, what happens to those that are removed
//! or moved, and what is said of those that cannot be opened. And files that reach a limit of sizes.

mod util;

use std::fs;
use std::os::unix::fs::MetadataExt;

use util::*;

/// The lines of the daemon's report about what does not work on the host.
fn troubles(host: &Host) -> Vec<String> {
    let status = host.status().expect("the daemon answers");
    items(&status, "troubles").iter().map(|trouble| text(trouble, "").to_string()).collect()
}

fn says(host: &Host, words: &[&str]) -> bool {
    troubles(host).iter().any(|trouble| words.iter().all(|word| trouble.contains(word)))
}

#[test]
fn an_output_is_its_agents_users_own() {
    if lacks_root() {
        return;
    }
    let mut host = Host::new();
    for (name, user) in [("root", None), ("user", Some("\"nobody\""))] {
        let keys: Vec<_> = user.into_iter().map(|user| ("user", user)).collect();
        host.agent(name, "echo one; echo two >>/dev/stderr; cat /dev/stderr >/dev/null; exec sleep 1000", &keys);
        host.agent(&format!("{name}-cuts"), "echo one; echo two >/dev/stderr; echo three; exec sleep 1000", &keys);
    }
    host.write("log/user.log", "of a run before, as root\n");
    host.start();
    for (name, uid) in [("root", 0), ("user", 65_534), ("root-cuts", 0), ("user-cuts", 65_534)] {
        host.wait_running(name);
        let file = format!("log/{name}.log");
        let want = if name.ends_with("cuts") { "two\nthree\n" } else { "one\ntwo\n" };
        host.wait("its output to be there", || host.read(&file).ends_with(want));
        let found = fs::metadata(host.path(&file)).expect("its output");
        assert_eq!(found.uid(), uid, "{name}");
        assert!(name == "user" || found.mode() & 0o7777 == 0o640, "{name}: {:o}", found.mode());
    }
}

#[test]
fn each_output_that_cannot_be_opened_is_named_until_it_can() {
    let mut host = Host::new();
    for name in ["one", "two", "good"] {
        host.agent(name, "echo hello; exec sleep 1000", &[]);
    }
    for name in ["one", "two"] {
        fs::create_dir_all(host.path(&format!("log/{name}.log"))).expect("a directory in its place");
    }
    host.start();
    host.wait_running("good");
    for name in ["good", "two"] {
        host.ok(&["restart", name]);
        assert!(says(&host, &["one.log\"", "not a regular file"]), "{:?}", troubles(&host));
        assert!(says(&host, &["two.log\"", "not a regular file"]), "{:?}", troubles(&host));
    }
    fs::remove_dir(host.path("log/one.log")).expect("it is empty");
    host.ok(&["restart", "one"]);
    assert!(!says(&host, &["one.log\""]) && says(&host, &["two.log\""]), "{:?}", troubles(&host));
    assert!(host.read("daemon.out").contains("opening the output of agent \"one\" works again"));
    fs::remove_file(host.path("agents.d/two.json")).expect("its definition");
    host.signal("HUP");
    host.wait("a removed agent to be forgotten", || troubles(&host).is_empty());
}

#[test]
fn an_output_that_was_removed_is_limited_and_one_that_was_moved_is_left() {
    let mut host = Host::new();
    host.set("checksecs", "0.2");
    let script = "while :; do echo 0123456789012345678901234567890123456789; sleep 0.001; done";
    for name in ["removed", "moved"] {
        host.agent(name, script, &[("log_size", "\"20K\"")]);
    }
    host.start();
    let pid = host.wait_running("removed").pid;
    let moved = host.path("log/moved.log.2");
    host.wait("some output", || host.lines("log/removed.log") > 3 && host.lines("log/moved.log") > 3);
    fs::remove_file(host.path("log/removed.log")).expect("its output");
    fs::rename(host.path("log/moved.log"), &moved).expect("its output");
    host.wait("both to be said", || {
        says(&host, &["removed.log\" was removed"]) && says(&host, &["moved.log\" was moved", "moved.log.2\""])
    });
    assert!(!host.ok(&["status", "removed"]).contains("/moved.log\""), "that is another agent's");
    let size = || fs::metadata(format!("/proc/{pid}/fd/1")).map_or(u64::MAX, |found| found.len());
    let mut before = 0;
    host.wait("the file without a name to be emptied", || {
        let now = size();
        let less = now < before;
        before = now;
        less
    });
    host.wait("the moved file to grow on", || fs::metadata(&moved).is_ok_and(|found| found.len() > 40 << 10));
    // So does the next daemon.
    host.kill9();
    host.start();
    host.wait("both to be said again", || says(&host, &["removed.log\""]) && says(&host, &["moved.log.2\""]));
    host.wait("the file without a name to be small", || size() < 40 << 10);
    for name in ["removed", "moved"] {
        host.ok(&["restart", name]);
        host.wait("its file to be made anew", || host.lines(&format!("log/{name}.log")) > 0);
        assert!(!says(&host, &[&format!("/{name}.log\"")]), "{:?}", troubles(&host));
    }
}

/// A writer of numbered lines, each in two parts.
const COUNTER: &str = "i=0; while :; do i=$((i+1)); printf '%s' \"line \"; printf '%s\\n' \"$i\"; done";

#[test]
fn no_line_is_lost_or_cut_where_writers_can_be_frozen() {
    let mut host = Host::new();
    host.set("checksecs", "0.1");
    host.agent("counter", COUNTER, &[("log_size", "\"32K\"")]);
    host.start();
    let pid = host.wait_running("counter").pid;
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    if !groups.contains("0::/bootagent-") && !groups.contains("freezer:/bootagent-") {
        cannot_apply("there is no control group to freeze");
        return;
    }
    let older = || fs::metadata(host.path("log/counter.log.1")).map_or(0, |found| found.ino());
    let number = |line: Option<&str>| line.and_then(|line| line.strip_prefix("line ")?.parse::<u64>().ok());
    let mut seen = 0;
    for _ in 0..10 {
        let both = patiently(|| {
            let before = older();
            let (kept, goes_on) = (host.read("log/counter.log.1"), host.read("log/counter.log"));
            let (last, first) = (number(kept.lines().last()), number(goes_on.lines().next()));
            // Between its copy and its truncation the log begins with what was copied.
            let is_one_moment = before != 0 && before != seen && before == older() && goes_on.lines().count() > 1;
            (is_one_moment && first.is_none_or(|first| Some(first) > last)).then_some((before, kept, last, first))
        });
        let (file, kept, last, first) = both.expect("two files of one moment");
        seen = file;
        assert!(number(kept.lines().next()).is_some() && kept.ends_with('\n'), "{kept:.40}");
        assert!(last.is_some() && last.map(|last| last + 1) == first, "{last:?} {first:?}");
    }
    assert!(host.seen("counter").is_some_and(|agent| agent.runs() && agent.failures == 0));
}

#[test]
fn an_agent_that_was_left_frozen_is_thawed_by_the_next_daemon() {
    let mut host = Host::new();
    host.agent("web", "exec sleep 1000", &[]);
    host.start();
    let web = host.wait_running("web").pid;
    let files = host.control_groups().into_iter().filter(|group| group.ends_with("web"));
    let mut files = files.flat_map(|group| ["cgroup.freeze", "freezer.state"].map(|file| group.join(file)));
    let Some(freezer) = files.find(|file| file.exists()) else {
        cannot_apply("there is no control group to freeze");
        return;
    };
    let state = || fs::read_to_string(&freezer).expect("it can be read").trim().to_string();
    let thawed = state();
    fs::write(&freezer, if freezer.ends_with("cgroup.freeze") { "1" } else { "FROZEN" }).expect("root may freeze it");
    host.wait("it to be frozen", || ["1", "FROZEN"].contains(&&*state()));
    // A helper that rotates its output goes on over a reexec, and thaws it.
    host.ok(&["reexec"]);
    assert!(["1", "FROZEN"].contains(&&*state()), "{}", state());
    host.kill9();
    host.start();
    host.wait("it to be thawed", || state() == thawed);
    assert_eq!(host.wait_running("web").pid, web);
    host.ok(&["stop", "web"]);
}

#[test]
fn no_output_waits_for_ever_behind_others_that_are_always_full() {
    let mut host = Host::new();
    host.set("checksecs", "0.1");
    let names: Vec<String> = (0..10).map(|number| format!("web{number}")).collect();
    let script = format!("while :; do echo {}; sleep 0.005; done", "0123456789".repeat(200));
    for name in &names {
        host.agent(name, &script, &[("log_size", "\"1K\"")]);
    }
    host.start();
    let is_turned = |name: &String| host.path(&format!("log/{name}.log.1")).exists();
    host.wait("all of them to be turned", || names.iter().all(is_turned));
}

#[test]
fn a_limit_of_file_sizes_is_an_error_and_not_the_end() {
    if lacks("prlimit") {
        return;
    }
    let mut host = Host::new();
    host.set("checksecs", "0.2");
    host.agent("web", "exec sleep 1000", &[]);
    host.start();
    let web = host.wait_running("web").pid;
    let daemon = format!("--pid={}", host.pid());
    let limit = |most: &str| {
        let ran = run(std::process::Command::new("prlimit").args([&*daemon, most]));
        assert_eq!(ran.expect("it ends").code, 0);
    };
    limit("--fsize=0:");
    host.cli(&["stop", "web"]);
    assert!(says(&host, &["bootagent.log\"", "File too large"]), "{:?}", troubles(&host));
    assert!(says(&host, &["web.json", "File too large"]), "{:?}", troubles(&host));
    host.cli(&["start", "web"]);
    let again = host.wait_running("web").pid;
    assert!(again != web && host.lives());
    // An agent has the default action of the signal, though the daemon ignores it.
    assert_eq!(signals(again, "SigIgn") & (1 << 24), 0);
    limit("--fsize=unlimited:");
    host.wait("all to be written again", || troubles(&host).is_empty());

    // At the start, too.
    host.kill9();
    host.through("prlimit --fsize=0");
    host.start();
    assert_eq!(host.wait_running("web").pid, again);
    host.wait("the pid file to be missed", || says(&host, &["bootagent.pid\"", "File too large"]));
}

#[test]
fn the_hole_that_a_rotation_leaves_is_not_shown() {
    let host = Host::new();
    host.configure();
    host.write("log/web.log", &("\0".repeat(200_000) + "after\n"));
    assert_eq!(host.ok(&["logs", "web"]), "after\n");
}
