//! The daemon as process 1 of a pid namespace. There reboot(2) ends the namespace with a signal that shows the kind of
//! reboot. In an initramfs there may be nothing but /proc, or not even that.

mod util;

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use util::*;

/// A host whose daemon is process 1 of a namespace, in which the shell has run `commands` first.
fn host_of_init(commands: &str) -> Option<Host> {
    if lacks_root() || lacks("unshare") || lacks("nsenter") {
        return None;
    }
    let mut host = Host::new();
    host.through(&format!("unshare --pid --fork --mount --mount-proc /bin/sh -c '{commands} exec \"$0\" \"$@\"'"));
    Some(host)
}

/// The daemon, as the host of the namespace sees it.
fn init_of(host: &Host) -> i32 {
    let children = format!("/proc/{0}/task/{0}/children", host.pid());
    let found = patiently(|| fs::read_to_string(&children).ok()?.trim().parse().ok());
    found.unwrap_or_else(|| panic!("no process 1\n{}", host.logs()))
}

/// Asks process 1 to end everything, and returns the signal that ended the namespace.
fn down(host: &mut Host, signal: &str) -> Option<i32> {
    kill(init_of(host), signal);
    host.ended().signal()
}

/// Makes an agent's script record that it got the stop signal.
fn polite(host: &Host, name: &str) -> String {
    let file = host.path(name).display().to_string();
    format!("trap 'echo bye > {file}; exit 0' TERM; : > {file}; while :; do sleep 0.05; done")
}

#[test]
fn signals_stop_the_agents_and_then_the_machine() {
    for (signal, ending) in
        [("TERM", libc::SIGHUP), ("INT", libc::SIGHUP), ("USR1", libc::SIGINT), ("USR2", libc::SIGINT)]
    {
        let Some(mut host) = host_of_init("") else { return };
        host.agent("polite", &polite(&host, "said"), &[]);
        host.agent("stubborn", "trap '' TERM; while :; do sleep 0.1; done", &[("stopsecs", "0.3")]);
        host.start();
        host.wait_seen("polite", "to run", Seen::runs);
        host.wait("the script to come as far as its trap", || host.path("said").exists());
        host.wait_seen("stubborn", "to run", Seen::runs);
        // Process 1 ignores the signals that end or reexec an ordinary daemon.
        kill(init_of(&host), "QUIT");
        // The signal is taken before what is asked after it.
        assert!(host.status().is_some() && host.status().is_some(), "ended by SIGQUIT");
        assert_eq!(down(&mut host, signal), Some(ending), "{signal}\n{}", host.logs());
        assert_eq!(host.read("said"), "bye\n", "{signal}: its agent was not stopped first\n{}", host.logs());
        host.wait("nothing to be left", || host.processes().is_empty());
        let log = host.read("log/bootagent.log");
        assert!(log.contains("ended") && !log.contains("reexec"), "{log}");
    }
}

#[test]
fn what_agents_have_left_ends_before_the_machine_does() {
    let Some(mut host) = host_of_init("") else { return };
    let child = polite(&host, "child").replace('\'', "\"");
    let script = format!("setsid sh -c '{child}' & trap 'exit 0' TERM; while :; do wait; done");
    for name in ["up", "down"] {
        host.agent(name, &script.replace("/child", &format!("/child-of-{name}")), &[("kill", "\"main\"")]);
    }
    host.start();
    for name in ["up", "down"] {
        host.wait("what it starts", || host.path(&format!("child-of-{name}")).exists());
    }
    host.ok(&["stop", "down"]);
    host.wait_seen("down", "its child to be left", |seen| seen.detail.contains("1 process left"));
    assert_eq!(down(&mut host, "TERM"), Some(libc::SIGHUP), "{}", host.logs());
    for name in ["up", "down"] {
        assert_eq!(host.read(&format!("child-of-{name}")), "bye\n", "{name}: {}", host.logs());
    }
}

/// Without control groups only /proc shows which processes belong to an agent.
#[test]
fn trees_are_known_without_control_groups() {
    let Some(mut host) = host_of_init("umount -R -l /sys/fs/cgroup 2>/dev/null;") else { return };
    host.agent(
        "web",
        "setsid sh -c \"trap '' TERM; while :; do sleep 0.1; done\" & exec sleep 1000",
        &[("stopsecs", "0.3")],
    );
    host.start();
    host.wait_seen("web", "to run", Seen::runs);
    let daemon = init_of(&host);
    host.wait("what it starts", || host.agents_processes().len() >= 3);
    host.ok(&["stop", "web"]);
    assert_eq!(host.agents_processes(), [daemon], "{}", host.logs());
    assert!(!host.logs().contains("cannot read \"/proc\""), "{}", host.logs());
}

#[test]
fn strangers_are_reaped() {
    let Some(mut host) = host_of_init("") else { return };
    host.agent("web", "exec sleep 1000", &[]);
    host.start();
    host.wait_seen("web", "to run", Seen::runs);
    let init = init_of(&host);
    let into = |script: &str| {
        let target = format!("--target={init}");
        let mut command = Command::new("nsenter");
        run(command.args([&target, "--pid", "--mount", "/bin/sh", "-c", script])).expect("it ends").code
    };
    for _ in 0..5 {
        assert_eq!(
            into("for i in 1 2 3 4 5 6 7 8 9; do (setsid sh -c 'sleep 0.0'$i >/dev/null 2>&1 &) ; done; exit 0"),
            0
        );
    }
    host.wait("all of them to be reaped", || {
        let children = fs::read_to_string(format!("/proc/{init}/task/{init}/children")).unwrap_or_default();
        children.split_whitespace().count() == 1
    });
    // A process that belongs to no agent keeps running, and no stop of an agent reaches it.
    assert_eq!(
        into(&format!("(setsid sh -c ': {}; sleep 1000' >/dev/null 2>&1 &)", host.path("stranger").display())),
        0
    );
    let strangers =
        |host: &Host| host.processes().into_iter().filter(|pid| proc_line(*pid).contains("/stranger;")).count();
    host.wait("a stranger", || strangers(&host) > 0);
    host.ok(&["restart", "web"]);
    host.ok(&["stop", "web"]);
    assert!(strangers(&host) > 0, "it was ended with an agent");
    assert_eq!(down(&mut host, "TERM"), Some(libc::SIGHUP));
    assert_eq!(strangers(&host), 0);
}

fn proc_line(pid: i32) -> String {
    String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default()).replace('\0', " ")
}

/// What a daemon must do wherever it is: start, restart, keep the output, stop.
fn does_its_work(host: &mut Host) {
    host.agent("web", "echo here; exec sleep 1000", &[]);
    host.agent("mortal", "sleep 0.2; exit 3", &[("restartsecs", "0.1"), ("retries", "1000")]);
    host.start();
    host.wait_seen("web", "to run", Seen::runs);
    host.wait_seen("mortal", "to be restarted", |agent| agent.failures >= 2);
    assert!(host.wait_seen("mortal", "to end", |agent| !agent.runs()).detail.contains("status 3"));
    host.wait("its output", || host.read("log/web.log").contains("here"));
    host.ok(&["restart", "web"]);
    host.ok(&["stop", "mortal"]);
    assert!(host.seen("mortal").is_some_and(|agent| !agent.runs() && agent.pid == 0));
}

#[test]
fn an_initramfs_with_only_proc_is_enough() {
    let bare = "mount -t tmpfs none /dev && umount -R -l /sys && mount -t tmpfs none /run || exit 1;";
    let Some(mut host) = host_of_init(bare) else { return };
    does_its_work(&mut host);
    let pid = host.seen("web").expect("it is there").pid;
    assert!(pid > 1, "{pid}");
    host.ok(&["reexec"]);
    assert_eq!(host.seen("web").map(|agent| agent.pid), Some(pid), "{}", host.logs());
    assert_eq!(down(&mut host, "USR2"), Some(libc::SIGINT), "{}", host.logs());
}

#[test]
fn without_proc_it_says_what_it_cannot_do() {
    let Some(mut host) = host_of_init("mount -t tmpfs none /proc || exit 1;") else { return };
    does_its_work(&mut host);
    let pid = host.seen("web").expect("it is there").pid;
    host.ok(&["reexec"]);
    assert_eq!(host.seen("web").map(|agent| (agent.pid, agent.runs())), Some((pid, true)), "{}", host.logs());
    host.ok(&["restart", "web"]);
    assert_eq!(host.read("log/web.log").matches("here").count(), 3, "{}", host.logs());
    let said = |text: &str| host.read("log/bootagent.log").matches(text).count();
    assert_eq!(said("cannot read \"/proc\": No such file or directory: only the control groups"), 2, "{}", host.logs());
    assert_eq!(down(&mut host, "TERM"), Some(libc::SIGHUP), "{}", host.logs());
}

#[test]
fn process_1_is_replaced_over_the_socket_only_and_by_what_works() {
    let Some(mut host) = host_of_init("") else { return };
    let installed = host.path("bin/bootagent");
    fs::create_dir(host.path("bin")).expect("the host's directory");
    copy_program(&binary(), &installed);
    let through = host.read("through.sh").replace(&binary().display().to_string(), &installed.display().to_string());
    write_program(&host.path("through.sh"), &through);
    host.agent("web", "exec sleep 1000", &[]);
    host.start();
    let pid = host.wait_seen("web", "to run", Seen::runs).pid;
    let begun = |host: &Host| host.read("log/bootagent.log").matches(" starts as process 1").count();

    // Neither a binary that is none, nor one that cannot read its configuration, becomes process 1: that would be the
    // end of the machine.
    write_program(&host.path("bin/bad"), "#!/bin/sh\nexit 1\n");
    copy_program(&installed, &host.path("bin/good"));
    fs::rename(host.path("bin/bad"), &installed).expect("the installed binary");
    let ran = host.cli(&["reexec"]);
    assert!(ran.code == 1 && ran.err.contains("refused"), "{ran:?}");
    fs::rename(host.path("bin/good"), &installed).expect("the installed binary");
    let good = host.read("bootagent.json");
    host.write("bootagent.json", &good.replace("\"step\": 0.3", "\"step\": \"x\""));
    let ran = host.cli(&["reexec"]);
    assert!(ran.code == 1 && ran.err.contains("refused"), "{ran:?}");
    host.write("bootagent.json", &good);
    assert_eq!(begun(&host), 1);

    host.ok(&["reexec"]);
    assert_eq!(begun(&host), 2, "{}", host.logs());
    assert_eq!(host.wait_seen("web", "to run", Seen::runs).pid, pid);
    assert_eq!(down(&mut host, "USR2"), Some(libc::SIGINT), "SIGUSR2 is a power off\n{}", host.logs());
    assert_eq!(begun(&host), 2, "it was a reexec");
}

#[test]
fn where_it_may_not_reboot_it_exits() {
    if lacks("setpriv") {
        return;
    }
    let Some(mut host) = host_of_init("") else { return };
    let through = host.read("through.sh").replace("exec \"$0\"", "exec setpriv --bounding-set=-sys_boot \"$0\"");
    write_program(&host.path("through.sh"), &through);
    host.agent("polite", &polite(&host, "said"), &[]);
    host.start();
    host.wait("the script to come as far as its trap", || host.path("said").exists());
    kill(init_of(&host), "TERM");
    assert_eq!(host.ended().code(), Some(0), "{}", host.logs());
    assert_eq!(host.read("said"), "bye\n", "{}", host.logs());
}
