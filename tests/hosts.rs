//! Hosts that lack what others have: the system calls of later kernels, /etc, /proc/sys. The daemon does all its work there.

mod util;

use util::*;

/// Answers ENOSYS to all system calls that came after Linux 3.10, to itself and what it becomes. x86_64 and aarch64 have
/// theirs in order of age; filters are older than 3.10.
const OLD_KERNEL: &str = r#"
import ctypes, os, struct, sys
first, arch = {"x86_64": (314, 0xC000003E), "aarch64": (274, 0xC00000B7)}[os.uname().machine]
code = [(0x20, 0, 0, 4), (0x15, 1, 0, arch), (0x06, 0, 0, 0x7FFF0000),    # another architecture, emulated: let be
        (0x20, 0, 0, 0), (0x35, 0, 1, first), (0x06, 0, 0, 0x00050026), (0x06, 0, 0, 0x7FFF0000)]
program = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in code))
filter = struct.pack("@HP", len(code), ctypes.addressof(program))
prctl = ctypes.CDLL(None, use_errno=True).prctl
if os.geteuid():
    prctl(38, 1, 0, 0, 0)
if prctl(22, 2, ctypes.c_char_p(filter), 0, 0):
    sys.exit("no filter: " + os.strerror(ctypes.get_errno()))
os.execv(sys.argv[1], sys.argv[1:])
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
    host.ok(&["stop", "web"]);
    assert!(!alive(web.pid));
    assert!(host.end("TERM").success(), "{}", host.logs());
    assert_eq!(host.processes(), []);
}

#[test]
fn a_kernel_of_3_10_is_enough() {
    if lacks("python3") {
        return;
    }
    let server = Server::new();
    let mut host = Host::with(&server);
    host.write("old-kernel.py", OLD_KERNEL);
    let script = host.path("old-kernel.py").display().to_string();
    let probe = "import ctypes; print(ctypes.CDLL(None).syscall(int(__import__('sys').argv[1]), 0, 0, 0, 0, 0, 0))";
    let newer = if cfg!(target_arch = "x86_64") { "318" } else { "278" };
    let python = find_program("python3").expect("looked up above").display().to_string();
    let ran = run(std::process::Command::new(&python).args([&script, &python, "-c", probe, newer]));
    assert_eq!(ran.expect("a script that ends").out, "-1\n", "getrandom(2) is filtered");

    host.through(&format!("{python} {script}"));
    works(&mut host, &server);
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
