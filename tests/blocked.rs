//! Processes that nobody can read: they hold the lock on their own memory for ever, as they wait under it for a file system
//! that they serve themselves. The daemon does without what it cannot read, and never waits for it.

mod util;

use std::path::Path;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use util::*;

/// What unmounts the control groups of a daemon, so that memory is polled, and orphans are known by their environments.
const NO_GROUPS: &str = "umount -R -l /sys/fs/cgroup || exit 1;";

/// Serves a FUSE file system that never writes, in a mount namespace of its own at the directory given first. A process maps
/// a file of it, changes the page, and replaces the mapping: for that the kernel writes the page under the lock, and waits.
/// Once the file given second is there, a third process grows by 300 MiB.
const BLOCK: &str = r#"
import ctypes, os, signal, struct, sys, time
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]

def check(result, what):
    if result in (-1, ctypes.c_void_p(-1).value):
        raise OSError(ctypes.get_errno(), what)
    return result

def attributes(node):
    mode = 0o40755 if node == 1 else 0o100666
    return struct.pack("<6Q3I7I", node, 4096, 8, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)

def serve(fuse):
    # Whatever becomes of the test: tools such as ps hang while the block lasts.
    signal.alarm(60)
    while True:
        request = os.read(fuse, 1 << 18)
        _, call, number, node = struct.unpack_from("<IIQQ", request)
        error, body = 0, b""
        if call in (2, 16, 42):  # FORGET, WRITE, BATCH_FORGET
            continue
        elif call == 26:  # INIT
            body = struct.pack("<IIIIHHIIHHI7I", 7, 31, 65536, 0, 16, 12, 65536, 1, 16, 0, 0, *[0] * 7)
        elif call == 1:  # LOOKUP
            body = struct.pack("<QQQQII", 2, 1, 999, 999, 0, 0) + attributes(2)
        elif call in (3, 4):  # GETATTR, SETATTR
            body = struct.pack("<QII", 999, 0, 0) + attributes(node)
        elif call in (14, 27):  # OPEN, OPENDIR
            body = struct.pack("<QII", 1, 0, 0)
        elif call == 15:  # READ
            body = bytes(4096)
        elif call not in (18, 25):  # RELEASE, FLUSH
            error = -38
        os.write(fuse, struct.pack("<IiQ", 16 + len(body), error, number) + body)

directory, grow = sys.argv[1:]
os.makedirs(directory, exist_ok=True)
check(libc.unshare(0x20000), "unshare")
check(libc.mount(None, b"/", None, 0x44000, None), "private mounts")
fuse = os.open("/dev/fuse", os.O_RDWR)
options = b"fd=%d,rootmode=40000,user_id=%d,group_id=0" % (fuse, os.getuid())
check(libc.mount(b"test", directory.encode(), b"fuse.test", 0, options), "mount")
server = os.fork()
if server == 0:
    serve(fuse)
os.close(fuse)
if os.fork() == 0:
    while not os.path.exists(grow):
        time.sleep(0.05)
    large = bytearray(b"x") * (300 << 20)
    time.sleep(1000)
file = os.open(directory + "/file", os.O_RDWR)
page = check(libc.mmap(None, 4096, 3, 1, file, 0), "mmap")
ctypes.memset(page, 1, 1)
print("blocking", server, flush=True)
libc.mmap(page, 4096, 3, 0x32, -1, 0)
print("not blocked", flush=True)
time.sleep(1000)
"#;

/// How long commands may take while a process blocks: what a helper gets for one, twice, and some more.
const BRIEF: Duration = Duration::from_secs(15);

/// Only one test at a time: when it ends it looks for its processes, and would wait for one that the other has blocked.
static ALONE: Mutex<()> = Mutex::new(());

/// A host without control groups, and a command that runs `BLOCK`; `None` where that is not possible.
fn host() -> Option<(Host, String, MutexGuard<'static, ()>)> {
    if lacks_root() || lacks("python3") {
        return None;
    }
    if !Path::new("/dev/fuse").exists() {
        skipped("/dev/fuse");
        return None;
    }
    let alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let mut host = Host::new();
    host.behind(NO_GROUPS);
    host.write("block.py", BLOCK);
    let path = |name: &str| host.path(name).display().to_string();
    let command = format!("python3 {} {} {}", path("block.py"), path("mnt"), path("grow"));
    Some((host, command, alone))
}

/// Runs a command, which must end soon and well.
fn soon(host: &Host, args: &[&str]) -> String {
    let began = Instant::now();
    let out = host.ok(args);
    assert!(began.elapsed() < BRIEF, "{args:?} took {:?}", began.elapsed());
    out
}

#[test]
fn an_agent_that_cannot_be_read_is_measured_limited_and_stopped() {
    let Some((mut host, command, _alone)) = host() else { return };
    host.agent("web", &format!("exec {command}"), &[("limits", "{ \"memory\": \"200M\" }"), ("restartsecs", "1000")]);
    host.agent("db", "exec sleep 1000", &[]);
    host.start();
    host.wait("the block", || host.read("log/web.log").contains("blocking"));
    // Twice: the first measurement finds out, and those after it know.
    for _ in 0..2 {
        let status = soon(&host, &["status", "--json"]);
        assert!(status.contains("\"memory\""), "{status}");
    }
    let troubles = || host.status().map_or(String::new(), |status| miniserde::json::to_string(at(&status, "troubles")));
    assert!(troubles().contains("cannot be read"), "{}", troubles());
    soon(&host, &["restart", "db"]);
    assert!(!host.read("log/web.log").contains("not blocked"), "it is blocked still");

    host.write("grow", "");
    let web = host.wait_seen("web", "the limit to be held", |web| web.status == "killed");
    assert!(web.detail.contains("over the limit"), "{}", web.detail);
    host.wait("what cannot be read to be gone", || !troubles().contains("cannot be read"));

    std::fs::remove_file(host.path("grow")).expect("the test made it");
    host.write("log/web.log", "");
    soon(&host, &["start", "web"]);
    host.wait("the block", || host.read("log/web.log").contains("blocking"));
    soon(&host, &["stop", "web"]);
    host.finish();
}

#[test]
fn an_orphan_that_cannot_be_read_delays_no_stop_and_no_daemon() {
    let Some((mut host, command, _alone)) = host() else { return };
    let out = host.path("out").display().to_string();
    // It descends from no process that any look has seen, and nothing in its environment says whose it is.
    let go = host.path("go").display().to_string();
    let script = format!(
        "until [ -e {go} ]; do sleep 0.1; done; (setsid env -i PATH=$PATH {command} >{out} 2>&1 &) ; exec sleep 1000"
    );
    host.agent("web", &script, &[("stopsecs", "1")]);
    host.agent("db", "exec sleep 1000", &[]);
    host.start();
    host.write("go", "");
    host.wait("the block", || Path::new(&out).exists() && host.read("out").contains("blocking"));
    let server: i32 =
        host.read("out").trim().rsplit(' ').next().and_then(|pid| pid.parse().ok()).expect("a process id");
    for args in [["stop", "web"], ["restart", "db"]] {
        soon(&host, &args);
    }
    let status = soon(&host, &["status", "--json"]);
    assert!(status.contains("cannot be read"), "{status}\n{}", host.logs());
    host.kill9();
    let began = Instant::now();
    host.start();
    assert!(began.elapsed() < BRIEF, "the start took {:?}", began.elapsed());
    soon(&host, &["status"]);
    soon(&host, &["stop", "db"]);
    assert!(!host.read("out").contains("not blocked"), "it is blocked still");
    kill(server, "KILL");
    host.finish();
}
