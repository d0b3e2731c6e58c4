//! The start scripts that `bootagent init` prints: what the linters of their kinds say of them, what the sysv one does, and
//! that each starts a dead daemon again where its init system can be had here. `tests/vm` runs inittab and sysv on kernels
//! of their own.

mod util;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use util::*;

const SYSTEMS: [&str; 5] = ["sysv", "openrc", "procd", "systemd", "inittab"];

/// The script for `system`, which starts this host's daemon, as a file that can be executed.
fn script(host: &Host, system: &str, name: &str) -> PathBuf {
    host.configure();
    let path = host.path(name);
    let text = host.ok(&["init", system]);
    host.write(name, &text);
    if text.starts_with("#!") {
        write_program(&path, &text);
    }
    path
}

fn ran(command: &mut Command) -> Ran {
    run(command.stdin(Stdio::null())).unwrap_or_else(|| panic!("{command:?} does not end"))
}

/// Runs the start script with one argument.
fn service(script: &Path, argument: &str) -> Ran {
    ran(Command::new(script).arg(argument))
}

/// The process id in a file below `run`; 0 when there is none.
fn pid_in(host: &Host, file: &str) -> i32 {
    host.read(&format!("run/{file}")).trim().parse().unwrap_or(0)
}

fn daemon(host: &Host) -> i32 {
    pid_in(host, "bootagent.pid")
}

/// Waits for another daemon than `old` that answers; its process id.
fn next_daemon(host: &Host, old: i32) -> i32 {
    host.wait("another daemon", || ![0, old].contains(&daemon(host)) && host.cli(&["status"]).code == 0);
    daemon(host)
}

#[test]
fn shellcheck_has_nothing_to_say() {
    let host = Host::new();
    for system in SYSTEMS {
        let script = script(&host, system, "script");
        let text = host.read("script");
        assert!(text.contains(&binary().display().to_string()) && text.ends_with('\n'), "{system}: {text}");
        if text.starts_with("#!") && !lacks("shellcheck") {
            // Neither openrc-run nor rc.common is known to it as a shell; both are POSIX ones.
            let said = ran(Command::new("shellcheck").args(["--shell", "sh"]).arg(&script));
            assert_eq!((said.code, said.out.as_str()), (0, ""), "{system}");
        }
        if text.starts_with("#!") {
            assert_eq!(ran(Command::new("sh").arg("-n").arg(&script)).code, 0, "{system}");
        }
    }
}

#[test]
fn systemd_takes_the_unit() {
    if lacks("systemd-analyze") {
        return;
    }
    let host = Host::new();
    script(&host, "systemd", "bootagent.service");
    let verify = || ran(Command::new("systemd-analyze").arg("verify").arg(host.path("bootagent.service")));
    let said = verify();
    assert_eq!((said.code, said.err.as_str()), (0, ""), "{said:?}");
    // It would have said so.
    host.write("bootagent.service", &host.read("bootagent.service").replace("Restart=always", "Restart=allways"));
    assert_ne!(verify().err, "");
}

#[test]
fn sysv_has_the_exit_codes_of_the_lsb() {
    let host = Host::new();
    host.agent("web", "exec sleep 1000", &[]);
    let script = script(&host, "sysv", "bootagent");
    let code = |argument: &str| service(&script, argument).code;
    assert_eq!((code("status"), code("reload"), code("stop"), code("frob"), code("")), (3, 7, 0, 2, 2));
    assert_eq!(code("try-restart"), 0);
    assert_eq!(code("status"), 3, "try-restart started what did not run");
    assert_eq!((code("start"), code("status")), (0, 0));
    let (web, first) = (host.wait_running("web").pid, daemon(&host));
    for argument in ["start", "reload", "force-reload", "restart", "try-restart", "restart"] {
        let said = service(&script, argument);
        assert_eq!(said.code, 0, "{argument}: {said:?}");
        assert_eq!((daemon(&host), host.wait_running("web").pid), (first, web), "{argument}");
    }
    for dead in [pid_in(&host, "keeper.pid"), first] {
        kill(dead, "KILL");
        host.wait("its end", || !alive(dead));
    }
    let said = service(&script, "status");
    assert!(said.code == 1 && said.out.contains("dead"), "{said:?}");
    assert!(alive(web), "agents go on without a daemon");
    assert_eq!((code("reload"), code("restart"), code("status")), (7, 0, 0), "restart starts what is dead");
    assert_eq!(host.wait_running("web").pid, web);
    assert_eq!((code("stop"), code("status"), code("stop")), (0, 3, 0));
    assert_eq!(host.processes(), [], "stop ends the agents, and the keeper with its daemon");
    // A pid file that names a stranger is not believed.
    host.write("run/bootagent.pid", &format!("{}\n", std::process::id()));
    host.write("run/keeper.pid", "1\n");
    assert_eq!((code("status"), code("stop")), (1, 0));
    host.write("gone", &host.read("bootagent").replace(&binary().display().to_string(), "/nowhere/bootagent"));
    write_program(&host.path("gone"), &host.read("gone"));
    assert_eq!(service(&host.path("gone"), "start").code, 5);
}

#[test]
fn sysv_stops_what_its_keeper_is_about_to_start() {
    let host = Host::new();
    host.agent("web", "exec sleep 1000", &[]);
    let script = script(&host, "sysv", "bootagent");
    assert_eq!(service(&script, "start").code, 0);
    let web = host.wait_running("web").pid;
    let keeper = pid_in(&host, "keeper.pid");
    // While the keeper does nothing there is no daemon to be told.
    kill(keeper, "STOP");
    let dead = daemon(&host);
    kill(dead, "KILL");
    host.wait("the daemon's end", || !alive(dead));
    let status = service(&script, "status");
    assert!(status.code == 1 && status.out.contains("keeper"), "{status:?}");
    let started = service(&script, "start");
    assert!(started.code == 0 && started.out.contains("keeper"), "{started:?}");
    let second = host.cli(&["run", "-d"]);
    assert!(second.code == 1 && second.err.contains(&keeper.to_string()), "{second:?}");
    let mut stop = Command::new(&script).arg("stop").stdout(Stdio::null()).spawn().expect("our own script");
    host.wait("the keeper to be told", || proc_status(keeper, "ShdPnd").ends_with("4000") || !alive(keeper));
    kill(keeper, "CONT");
    let ended = patiently(|| stop.try_wait().expect("our own child"));
    assert!(ended.is_some_and(|ended| ended.success()), "{ended:?}\n{}", host.logs());
    assert!(!alive(web) && host.processes().is_empty(), "{}", host.logs());
    assert_eq!(service(&script, "status").code, 3);
}

#[test]
fn a_keeper_hands_on_what_it_is_told() {
    let host = Host::new();
    host.agent("web", "exec sleep 1000", &[]);
    host.configure();
    host.ok(&["run", "-d"]);
    let web = host.wait_running("web").pid;
    kill(pid_in(&host, "keeper.pid"), "QUIT");
    host.wait("keeper and daemon to end", || host.processes() == [web]);
    host.ok(&["run", "-d"]);
    assert_eq!(host.wait_running("web").pid, web);
    kill(pid_in(&host, "keeper.pid"), "TERM");
    host.wait("all to end", || host.processes().is_empty());
    assert!(!host.path("run/keeper.pid").exists() && !host.path("run/bootagent.pid").exists());
}

/// As procd's rc.common: calls the functions of the script, and says what it was told to watch over.
const RC_COMMON: &str = r#"
for function in open_instance set_param append_param close_instance send_signal; do
    eval "procd_$function() { echo $function \"\$@\"; }"
done
start() { start_service; }
stop() { echo stopped; }
restart() { stop; start; }
reload() { restart; }
script=$1 action=$2
. "$script"
# rc.common's own, unless the script has another.
case $action in
reload) if [ "$(command -v reload_service)" ]; then reload() { reload_service; }; fi ;;
esac
"$action"
"#;

#[test]
fn procd_is_told_what_to_run() {
    let mut host = Host::new();
    host.agent("web", "exec sleep 1000", &[]);
    let script = script(&host, "procd", "bootagent");
    host.write("rc.common", RC_COMMON);
    let rc = |action: &str| ran(Command::new("sh").arg(host.path("rc.common")).arg(&script).arg(action));
    let started = rc("start");
    let command =
        format!("set_param command {} -c {} run\n", binary().display(), host.path("bootagent.json").display());
    assert!(started.code == 0 && started.out.contains(&command), "{started:?}");
    assert!(started.out.contains("set_param respawn 3600 1 0\n"), "started again, for ever: {started:?}");
    assert!(started.out.starts_with("open_instance\n") && started.out.ends_with("close_instance\n"), "{started:?}");
    assert_eq!(rc("reload").out, "send_signal bootagent * HUP\n");
    // Without a daemon to go on in, one is started anew; otherwise procd is not even told.
    let restarted = rc("restart");
    assert!(restarted.code == 0 && restarted.out == format!("stopped\n{}", started.out), "{restarted:?}");
    host.start();
    let web = host.wait_running("web").pid;
    let restarted = ran(Command::new("sh").arg(host.path("rc.common")).arg(&script).arg("restart"));
    assert!(restarted.code == 0 && !restarted.out.contains("instance"), "{restarted:?}");
    assert_eq!(host.wait_running("web").pid, web);
}

#[test]
fn busybox_init_starts_a_dead_daemon_again() {
    if lacks_root() || lacks("busybox") || lacks("unshare") {
        return;
    }
    let host = Host::new();
    host.agent("web", "exec sleep 1000", &[]);
    script(&host, "inittab", "inittab");
    // Process 1 of namespaces of its own, where /etc has nothing but the table.
    let begin = "mount -t tmpfs none /etc && cp \"$0\" /etc/inittab && exec busybox init";
    let mut init = Command::new("unshare")
        .args(["-pfm", "--kill-child", "--mount-proc", "sh", "-c", begin])
        .arg(host.path("inittab"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("looked up above");
    let web = host.wait_running("web").pid;
    let first =
        host.processes().into_iter().find(|pid| proc_status(*pid, "NSpid").ends_with(&format!(" {}", daemon(&host))));
    kill(first.expect("the daemon is seen from outside"), "KILL");
    next_daemon(&host, daemon(&host));
    assert_eq!(host.wait_running("web").pid, web);
    let _ = init.kill();
    let _ = init.wait();
}

#[test]
fn make_installs_below_destdir_and_prefix() {
    if lacks("make") {
        return;
    }
    let host = Host::new();
    let make = |target: &str| {
        let destination = [format!("DESTDIR={}/root", host.dir.display()), "PREFIX=/opt/x".to_string()];
        let mut make = Command::new("make");
        make.current_dir(env!("CARGO_MANIFEST_DIR")).arg("-s").arg(target).args(destination);
        // Those of a make that runs this test are not ours.
        make.env_remove("MAKEFLAGS").env_remove("MAKELEVEL").env_remove("MFLAGS");
        let said = ran(make.arg(format!("BIN={}", binary().display())));
        assert_eq!(said.code, 0, "{said:?}");
    };
    make("install");
    let program = host.path("root/opt/x/sbin/bootagent");
    for page in ["share/man/man8/bootagent.8", "share/man/man5/bootagent.json.5"] {
        assert!(host.path("root/opt/x").join(page).is_file(), "{page}");
    }
    assert_eq!(ran(Command::new(&program).arg("version")).code, 0);
    let printed = ran(Command::new(&program).args(["init", "systemd"])).out;
    assert!(printed.contains(&format!("\nExecStart={} run\n", program.display())), "{printed}");
    make("uninstall");
    let left = ran(Command::new("find").arg(host.path("root")).args(["-type", "f"]));
    assert_eq!((left.code, left.out.as_str()), (0, ""));
    assert!(fs::metadata(host.path("root/opt/x/sbin")).is_ok(), "directories are others' too");
}
