//! The daemon's side of a helper, with real children. Fork needs a process with one thread, so this has a `main` of its own.
//! The helpers that it starts are this same program.

#[path = "util/skip.rs"]
#[allow(dead_code)]
mod skip;

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use bootagent::host::helper::{Binary, Helper, Identity};
use bootagent::kernel::{Exit, Gid, Pid, Sig, Uid};
use bootagent::model::package::Format;
use bootagent::sys::poll::{poll, PollFd};
use bootagent::sys::process::Fork;
use bootagent::sys::seccomp::{restrict, Purpose};
use bootagent::sys::setup_error::SetupErrorPipe;
use bootagent::sys::{account, monotonic, process};
use bootagent::work::{Failure, FailureKind, HelperRequest, HelperResponse, Route};

type Test = fn(&mut Host);

fn main() {
    if std::env::args().nth(1).as_deref() == Some("work") {
        bootagent::work::run();
    }
    let tests: [(&str, Test); 10] = [
        ("a_download_goes_through", a_download_goes_through),
        ("long_orders_and_replies_do_not_block", long_orders_and_replies_do_not_block),
        ("result_and_exit_come_in_any_order", result_and_exit_come_in_any_order),
        ("one_that_is_killed_has_failed", one_that_is_killed_has_failed),
        ("one_that_hangs_is_stopped_at_its_deadline", one_that_hangs_is_stopped_at_its_deadline),
        ("one_that_never_was_says_where_it_broke_off", one_that_never_was_says_where_it_broke_off),
        ("one_that_sends_without_end_is_not_heard_without_end", one_that_sends_without_end_is_not_heard_without_end),
        ("it_runs_as_somebody_else_with_nothing", it_runs_as_somebody_else_with_nothing),
        ("one_that_does_nothing_is_ended_whatever_it_is_for", one_that_does_nothing_is_ended_whatever_it_is_for),
        ("what_a_helper_does_not_need_it_cannot_do", what_a_helper_does_not_need_it_cannot_do),
    ];
    println!("\nrunning {} tests", tests.len());
    let mut host = Host::new();
    for (name, test) in &tests {
        test(&mut host);
        println!("test {name} ... ok");
    }
    println!("\ntest result: ok. {} passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n", tests.len());
}

/// What a daemon would have.
struct Host {
    binary: Binary,
    failures: SetupErrorPipe,
    dir: std::path::PathBuf,
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

impl Host {
    fn new() -> Host {
        let dir = std::env::temp_dir().join(format!("bootagent-helper-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("a directory");
        Host { binary: Binary::own(Path::new("/none")), failures: SetupErrorPipe::new().expect("a pipe"), dir }
    }

    fn file(&self, bytes: &[u8]) -> File {
        let path = self.dir.join("file");
        fs::write(&path, bytes).expect("a file");
        OpenOptions::new().read(true).write(true).open(path).expect("a file")
    }

    fn start(&self, order: &HelperRequest, file: Option<File>) -> Helper {
        Helper::start(&self.binary, order, file, None, &self.failures, monotonic()).expect("starts")
    }

    /// The daemon's loop, for one helper; `turn` is called between waits.
    fn finish(&mut self, mut helper: Helper, mut turn: impl FnMut(&mut Helper)) -> HelperResponse {
        let give_up = Instant::now() + Duration::from_secs(20);
        while !helper.finished() {
            assert!(Instant::now() < give_up, "a helper does not finish");
            let mut fds: Vec<PollFd> = helper.fds().into_iter().flatten().collect();
            poll(&mut fds, Some(Duration::from_millis(5))).expect("polls");
            helper.ready();
            turn(&mut helper);
            while let Some((pid, exit)) = process::wait_any().expect("waits") {
                assert_eq!(pid, helper.pid());
                helper.exited(exit, self.failures.take(pid));
            }
        }
        helper.outcome()
    }
}

/// Copies this source file, which is bigger than nothing.
fn copy() -> HelperRequest {
    HelperRequest::Fetch {
        url: format!("file://{}/{}", env!("CARGO_MANIFEST_DIR"), file!()),
        max_bytes: 1 << 20,
        rate: None,
        route: Default::default(),
        digest: [0; 32],
    }
}

#[track_caller]
fn failed(outcome: HelperResponse, want: FailureKind, part: &str) {
    match outcome {
        HelperResponse::Failed(Failure { kind, reason, .. }) if kind == want && reason.contains(part) => {}
        other => panic!("want a failure with \"{part}\", got {other:?}"),
    }
}

fn a_download_goes_through(host: &mut Host) {
    let file = host.file(b"");
    let helper = host.start(&copy(), Some(file.try_clone().expect("a clone")));
    let look = helper.deadline().expect("it is looked at from time to time").since(monotonic());
    assert!(look > Duration::from_secs(2) && look < Duration::from_secs(5), "{look:?}");
    let length = fs::metadata(file!()).expect("there").len();
    match host.finish(helper, |_| {}) {
        HelperResponse::Fetched { size, .. } => assert_eq!(size, length),
        other => panic!("{other:?}"),
    }
    assert_eq!(file.metadata().expect("open").len(), length);
}

fn long_orders_and_replies_do_not_block(host: &mut Host) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.set_nonblocking(true).expect("a flag");
    let url = format!("http://{}/", listener.local_addr().expect("bound"));
    let body = vec![b'x'; 300_000];
    let order = HelperRequest::Exchange {
        url,
        headers: Vec::new(),
        body: body.clone(),
        max_body: 1 << 20,
        route: Route::default(),
    };
    let helper = host.start(&order, None);
    assert!(helper.fds()[0].is_some(), "the order fits into a pipe");
    assert!(helper.deadline().is_some());
    let reply = vec![b'y'; 500_000];
    let outcome = host.finish(helper, |_| {
        let Ok((mut stream, _)) = listener.accept() else { return };
        stream.set_nonblocking(false).expect("a flag");
        let mut request = Vec::new();
        let mut buffer = [0; 4096];
        while !request.ends_with(&body) {
            let count = stream.read(&mut buffer).expect("a request");
            request.extend_from_slice(&buffer[..count]);
        }
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", reply.len());
        stream.write_all(head.as_bytes()).expect("taken");
        stream.write_all(&reply).expect("taken");
    });
    match outcome {
        HelperResponse::Exchanged { status: 200, body, .. } => assert_eq!(body, reply),
        other => panic!("{other:?}"),
    }
}

fn result_and_exit_come_in_any_order(host: &mut Host) {
    // The exit status first: nothing is read before.
    let mut helper = host.start(&copy(), Some(host.file(b"")));
    let exit = process::wait_for(helper.pid()).expect("waits");
    helper.exited(exit, None);
    assert!(helper.finished());
    assert!(matches!(helper.outcome(), HelperResponse::Fetched { .. }));
    // The result first, and its end.
    let mut helper = host.start(&copy(), Some(host.file(b"")));
    let give_up = Instant::now() + Duration::from_secs(20);
    while helper.fds()[1].is_some() {
        assert!(Instant::now() < give_up && !helper.finished());
        let mut fds: Vec<PollFd> = helper.fds().into_iter().flatten().collect();
        poll(&mut fds, Some(Duration::from_secs(1))).expect("polls");
        drop(fds);
        helper.ready();
    }
    assert!(!helper.finished());
    let pid = helper.pid();
    assert_eq!(process::wait_for(pid).expect("waits"), Exit::Code(0));
    // Somebody else may have got the status.
    helper.exited(Exit::Unknown, None);
    assert!(matches!(helper.outcome(), HelperResponse::Fetched { .. }));
}

fn one_that_is_killed_has_failed(host: &mut Host) {
    for (sig, kind, part) in [
        (Sig::KILL, FailureKind::Temporary, "killed by SIGKILL without a result"),
        (Sig::ALRM, FailureKind::Temporary, "stalled: no byte for 60 s"),
        (Sig::XFSZ, FailureKind::TooBig, "larger than allowed"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}/", listener.local_addr().expect("bound"));
        let file = host.file(b"12345");
        let helper = host.start(
            &HelperRequest::Fetch { url, max_bytes: 100, rate: None, route: Default::default(), digest: [0; 32] },
            Some(file),
        );
        let (mut stream, _) = listener.accept().expect("a connection");
        let mut sent = false;
        let outcome = host.finish(helper, |helper| {
            if !sent {
                let head = b"HTTP/1.1 206 Partial\r\nContent-Range: bytes 5-99/100\r\n\r\n1234567";
                stream.write_all(head).expect("taken");
                sent = true;
            }
            if helper.progress() == Some(12) {
                process::signal(helper.pid(), sig).expect("there");
            }
        });
        match &outcome {
            HelperResponse::Failed(Failure { progressed, .. }) => assert_eq!(*progressed, 7),
            other => panic!("{other:?}"),
        }
        failed(outcome, kind, part);
    }
}

fn one_that_hangs_is_stopped_at_its_deadline(host: &mut Host) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}/", listener.local_addr().expect("bound"));
    let order =
        HelperRequest::Exchange { url, headers: Vec::new(), body: Vec::new(), max_body: 100, route: Route::default() };
    let mut helper = host.start(&order, None);
    assert!(helper.deadline().is_some_and(|deadline| deadline.since(monotonic()) > Duration::from_secs(30)));
    helper.stop();
    assert_eq!(helper.deadline(), None);
    failed(host.finish(helper, |_| {}), FailureKind::Temporary, "no complete reply within 30 s");
}

fn one_that_never_was_says_where_it_broke_off(host: &mut Host) {
    let text = host.dir.join("text");
    let mut file = File::create(&text).expect("a file");
    file.write_all(b"no program").expect("written");
    file.rewind().expect("a file");
    let own = std::mem::replace(&mut host.binary, Binary::own(Path::new("/none")));
    // Where there is no /proc, a path is executed.
    host.binary = Binary::at(&text);
    let helper = host.start(&copy(), None);
    let outcome = host.finish(helper, |_| {});
    host.binary = own;
    failed(outcome, FailureKind::Temporary, "cannot start a helper: executing the program: Permission denied");
}

fn one_that_sends_without_end_is_not_heard_without_end(host: &mut Host) {
    // What is taken at once, and what is no frame at all: more than a loop could hear in the time of a test.
    for piece in [bootagent::work::encode_announced(7), vec![0; 16]] {
        let (pieces, script) = (host.dir.join("pieces"), host.dir.join("script"));
        fs::write(&pieces, piece.repeat(80_000)).expect("a file");
        let text = format!("#!/bin/sh\nfor turn in 1 2 3 4 5 6 7 8; do cat '{}' || exit 3; done\n", pieces.display());
        fs::write(&script, text).expect("a file");
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("a mode");
        let own = std::mem::replace(&mut host.binary, Binary::at(&script));
        let mut outcomes = Vec::new();
        let exchange = HelperRequest::Exchange {
            url: String::new(),
            headers: Vec::new(),
            body: Vec::new(),
            max_body: 9,
            route: Route::default(),
        };
        for request in [copy(), exchange] {
            let file = host.file(b"");
            let helper = host.start(&request, Some(file));
            outcomes.push(host.finish(helper, |_| {}));
        }
        host.binary = own;
        for outcome in outcomes {
            failed(outcome, FailureKind::Temporary, "the helper's result is too long");
        }
    }
}

fn it_runs_as_somebody_else_with_nothing(host: &mut Host) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}/", listener.local_addr().expect("bound"));
    let root = account::own_uid() == Uid(0);
    let who = Identity { uid: Uid(65534), gid: Gid(65534) };
    if !root {
        assert!(!skip::all_must_run(), "needs root");
        skip::note_skip("it_runs_as_somebody_else_with_nothing", "needs root for a part of it");
    }
    let order =
        HelperRequest::Exchange { url, headers: Vec::new(), body: Vec::new(), max_body: 100, route: Route::default() };
    let started = Helper::start(&host.binary, &order, None, root.then_some(who), &host.failures, monotonic());
    let mut helper = started.expect("starts");
    let (mut stream, _) = listener.accept().expect("a connection");
    // All of it: closing on unread bytes would be a reset, not an end.
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("a request");
        request.push(byte[0]);
    }
    let pid: Pid = helper.pid();
    let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).expect("readable");
    let status = read("status");
    let line = |key: &str| {
        let line = status.lines().find(|line| line.starts_with(key)).expect("there");
        line.split_whitespace().skip(1).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(line("NoNewPrivs:"), "1");
    assert_eq!(line("Threads:"), "1");
    if root {
        assert_eq!(line("Uid:"), "65534 65534 65534 65534");
        assert_eq!(line("Gid:"), "65534 65534 65534 65534");
        assert_eq!(line("Groups:"), "");
        assert_eq!(line("CapEff:"), "0000000000000000");
        let environment = read("environ");
        for pair in environment.split_terminator('\0') {
            let name = pair.split('=').next().unwrap_or_default();
            assert!(["PATH", "SSL_CERT_FILE", "SSL_CERT_DIR"].contains(&name), "{pair:?}");
        }
        let mut fds: Vec<String> = fs::read_dir(format!("/proc/{pid}/fd"))
            .expect("readable")
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("a number"))
            .collect();
        fds.sort();
        assert_eq!(fds, ["0", "1", "2", "3"], "order, result, /dev/null and its socket");
        let limits = read("limits");
        for (name, value) in [("Max file size", "0"), ("Max address space", "134217728"), ("Max open files", "64")] {
            let found = limits.lines().find(|line| line.starts_with(name)).expect("there");
            let words: Vec<&str> = found[name.len()..].split_whitespace().collect();
            assert_eq!(&words[..2], [value, value], "{name}");
        }
    }
    drop(stream);
    helper.ready();
    failed(host.finish(helper, |_| {}), FailureKind::Temporary, "closed the connection");
}

fn one_that_does_nothing_is_ended_whatever_it_is_for(host: &mut Host) {
    // It takes its time to read its order, as it has been stopped before.
    std::env::set_var("BOOTAGENT_STALL_SECS", "0");
    let dir = host.dir.join("unpacked").to_string_lossy().into_owned();
    let (keys, text) = (Vec::new(), String::new);
    let verify = HelperRequest::Verify { keys, signature: text(), name: text(), version: text() };
    let unpack = HelperRequest::Unpack { format: Format::Tar, dir, max_bytes: 1, max_entries: 1 };
    for (order, name) in [(copy(), "fetch"), (verify, "verify"), (unpack, "unpack")] {
        let file = host.file(if name == "fetch" { b"" } else { &[7; 1 << 20] });
        let helper = host.start(&order, Some(file));
        process::signal(helper.pid(), Sig::STOP).expect("there");
        let began = Instant::now();
        let outcome = host.finish(helper, |helper| helper.look(monotonic()));
        failed(outcome, FailureKind::Temporary, "did nothing for 5 s, and was ended");
        assert!(began.elapsed() > Duration::from_secs(4), "{name}");
    }
    std::env::remove_var("BOOTAGENT_STALL_SECS");
}

/// Does `tries` in a child that is restricted, whose exit status is how many of them failed, or 100 where the kernel has no
/// filters.
fn restricted(purpose: Purpose, tries: &[&dyn Fn() -> bool]) -> Exit {
    match process::fork().expect("forks") {
        Fork::Parent(pid) => process::wait_for(pid).expect("waits"),
        Fork::Child => {
            if restrict(purpose).is_err() {
                process::exit_now(100);
            }
            process::exit_now(tries.iter().filter(|works| !works()).count() as i32);
        }
    }
}

fn what_a_helper_does_not_need_it_cannot_do(host: &mut Host) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    let (file, socket) = (host.dir.join("made"), host.dir.join("socket"));
    let _listening = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
    let connects = || TcpStream::connect(address).is_ok();
    let reads = || fs::read("/etc/passwd").is_ok();
    let needed: [&dyn Fn() -> bool; 2] = [&connects, &reads];
    match restricted(Purpose::Network, &needed) {
        Exit::Code(0) => {}
        Exit::Code(100) => {
            assert!(!skip::all_must_run(), "needs a kernel with seccomp filters");
            return skip::note_skip("what_a_helper_does_not_need_it_cannot_do", "needs a kernel with seccomp filters");
        }
        other => panic!("what a helper needs does not work: {other:?}"),
    }
    assert_eq!(restricted(Purpose::Reading, &needed), Exit::Code(2), "what only reads has the network");
    let own = Pid::new(process::own_id()).expect("not init");
    let open = File::open("/etc/passwd").expect("readable");
    let forbidden: [&dyn Fn() -> bool; 10] = [
        &|| fs::write(&file, "x").is_ok(),
        &|| fs::remove_file(&socket).is_ok(),
        &|| fs::create_dir(&file).is_ok(),
        &|| process::fork().is_ok(),
        &|| process::exec(c"/bin/true", &[], &[]).kind() == std::io::ErrorKind::NotFound,
        &|| process::signal(own, Sig::CONT).is_ok(),
        &|| TcpListener::bind("127.0.0.1:0").is_ok(),
        &|| process::pidfd_open(own).is_ok(),
        // A lock on what others want to lock, and signals of the kernel's.
        &|| bootagent::sys::file::try_lock_reading(&open).is_ok(),
        &|| bootagent::sys::file::has_writer(&open).is_ok(),
    ];
    for purpose in [Purpose::Network, Purpose::Reading] {
        assert_eq!(restricted(purpose, &forbidden), Exit::Code(forbidden.len() as i32), "{purpose:?}");
    }
    // glibc asks daemons of the host when it looks up a name.
    if cfg!(not(target_env = "gnu")) {
        let forbidden: [&dyn Fn() -> bool; 1] = [&|| UnixStream::connect(&socket).is_ok()];
        assert_eq!(restricted(Purpose::Network, &forbidden), Exit::Code(1));
    }
    assert!(fs::remove_file(&socket).is_ok() && !file.exists());
}
