//! Hosts that lack what others have: system calls of later kernels, /etc, /proc/sys. The daemon does all its work there.

mod util;

use std::fs;
use std::process::Command;

use util::*;

/// Refuses all system calls that came after Linux 3.10 with ENOSYS ("old"), or all after 5.1 with EPERM ("strict"), to
/// itself and what it becomes. x86_64 and aarch64 have theirs in order of age; filters are older than 3.10.
const FILTER: &str = r#"
import ctypes, os, struct, sys
first, arch = {"x86_64": (314, 0xC000003E), "aarch64": (274, 0xC00000B7)}[os.uname().machine]
first, error = {"old": (first, 0x00050026), "strict": (424, 0x00050001)}[sys.argv[1]]
code = [(0x20, 0, 0, 4), (0x15, 1, 0, arch), (0x06, 0, 0, 0x7FFF0000),    # another architecture, emulated: let be
        (0x20, 0, 0, 0), (0x35, 0, 1, first), (0x06, 0, 0, error), (0x06, 0, 0, 0x7FFF0000)]
program = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in code))
filter = struct.pack("@HP", len(code), ctypes.addressof(program))
prctl = ctypes.CDLL(None, use_errno=True).prctl
if os.geteuid():
    prctl(38, 1, 0, 0, 0)
if prctl(22, 2, ctypes.c_char_p(filter), 0, 0):
    sys.exit("no filter: " + os.strerror(ctypes.get_errno()))
os.execv(sys.argv[2], sys.argv[2:])
"#;

/// What every host must be able to do: an install by a job, a restart, a daemon killed and one replaced, a stop.
fn works(host: &mut Host, server: &Server) {
    host.agent("web", "exec sleep 1000", &[("limits", r#"{ "memory": "64M", "nofile": 100, "core": 0 }"#)]);
    host.start();
    let web = host.wait_running("web");
    let package = tarball(host, "packed", "1.0", &staying("packed"), &[]);
    let url = server.serve("packed-1.0.tar.gz", &package.bytes);
    host.does(server, &Job::new("install-1", "install", "packed").package(&url, &package), 0);
    let packed = host.wait_running("packed");

    kill(packed.pid, "KILL");
    let again = host.wait_seen("packed", "to be started again", |agent| agent.runs() && agent.pid != packed.pid);
    host.kill9();
    host.start();
    let pids = ["web", "packed"].map(|name| host.wait_running(name).pid);
    assert_eq!(pids, [web.pid, again.pid], "{}", host.logs());
    host.ok(&["reexec"]);
    let pids = ["web", "packed"].map(|name| host.wait_running(name).pid);
    assert_eq!(pids, [web.pid, again.pid], "{}", host.logs());
    // The end of one that is no child of this daemon is noticed, with the next check where there are no pidfds.
    kill(again.pid, "KILL");
    let end = host.wait_seen("packed", "to be started again", |agent| agent.runs() && agent.pid != again.pid);
    // How it ended is read from /proc, where its parent has not taken that before.
    assert!(["killed by SIGKILL", "unknown"].iter().any(|how| end.detail.contains(how)), "{end:?}");
    host.ok(&["stop", "web"]);
    assert!(!alive(web.pid));
    assert!(host.end("TERM").success(), "{}", host.logs());
    assert_eq!(host.processes(), []);
}

/// The host works behind the filter of that name, which answers `newer`, the number of a system call on x86_64 and
/// elsewhere, with `error`.
fn works_behind(kind: &str, newer: (i32, i32), error: i32) {
    if lacks("python3") {
        return;
    }
    let server = Server::new();
    let mut host = Host::with(&server);
    host.write("filter.py", FILTER);
    let script = host.path("filter.py").display().to_string();
    // Itself, where what is found by that name is a script that looks for it.
    let python = run(Command::new("python3").args(["-c", "import sys; print(sys.executable)"])).expect("it ends").out;
    let python = python.trim().to_string();
    let newer = if cfg!(target_arch = "x86_64") { newer.0 } else { newer.1 }.to_string();
    let probe = "import ctypes, sys; c = ctypes.CDLL(None, use_errno=True); \
                 c.syscall(int(sys.argv[1]), 0, 0, 0, 0, 0, 0); print(ctypes.get_errno())";
    let ran = run(Command::new(&python).args([&script, kind, &python, "-c", probe, &newer]));
    assert_eq!(ran.expect("a script that ends").out, format!("{error}\n"), "{newer} is filtered");

    host.through(&format!("{python} {script} {kind}"));
    works(&mut host, &server);
}

#[test]
fn a_kernel_of_3_10_is_enough() {
    works_behind("old", (318, 278), 38);
}

/// Containers run by older software get this answer, which says nothing of what the kernel has.
#[test]
fn a_container_that_refuses_new_calls_is_enough() {
    if emulator_lacks("way to begin behind such a filter") {
        return;
    }
    works_behind("strict", (434, 434), 1);
}

/// Nothing but busybox, the binary and the libraries that it may need: what is unpacked and executed comes from there.
#[test]
fn a_host_of_busybox_alone_is_enough() {
    if lacks_root() || lacks("unshare") || lacks("busybox") {
        return;
    }
    let server = Server::new();
    let mut host = Host::with(&server);
    let busybox = find_program("busybox").expect("looked up above");
    fs::create_dir_all(host.path("root/bin")).expect("the test's own directory");
    copy_program(&busybox, &host.path("root/bin/busybox"));
    let place = binary().parent().expect("a file is in a directory").display().to_string();
    host.through(&format!(
        "unshare -m /bin/sh -c '\
             own={} && place={place} && cd $own/root && \
             mkdir -p proc dev sys/fs/cgroup etc tmp .$own .$place && \
             for lib in lib lib64 usr/lib usr/lib64; do \
                 [ ! -d /$lib ] || {{ mkdir -p $lib && mount --rbind /$lib $lib; }} done && \
             mount --rbind /proc proc && mount --rbind /dev dev && mount --rbind /sys/fs/cgroup sys/fs/cgroup && \
             mount --bind $own .$own && mount --bind $place .$place && chroot . /bin/busybox --install -s /bin && \
             exec chroot . \"$0\" \"$@\"'",
        host.dir.display()
    ));
    host.agent("alone", "[ -e /usr/bin ] || echo alone; exec sleep 1000", &[]);
    works(&mut host, &server);
    assert_eq!(host.read("log/alone.log"), "alone\n", "{}", host.logs());
}

#[test]
fn a_host_without_accounts_and_proc_sys_is_enough() {
    if lacks_root() || lacks("unshare") {
        return;
    }
    let server = Server::new();
    let mut host = Host::with(&server);
    host.behind("mount -t tmpfs none /etc && mount -t tmpfs none /proc/sys &&");
    works(&mut host, &server);
}
