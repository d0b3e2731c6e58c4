//! Downloads that fail, as servers and people see them: cuts, stalls, false lengths, redirects, resolvers that hang; and
//! that this disturbs nothing else.

#[path = "fetch/server.rs"]
mod scripted;
mod util;

use std::fs;
use std::io::{Read, Write};
use std::net::UdpSocket;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use scripted::{reply, send};
use util::*;

/// What no message may have in it.
const SECRET: &str = "hunter2-of-the-test";

/// A server whose downloads a test scripts.
type Source = scripted::Server;

/// A control server, and a host that is about to report to it, with short pauses between downloads.
fn pair() -> (Server, Host) {
    let server = Server::new();
    let mut host = Host::with(&server);
    host.env("BOOTAGENT_FETCH_SECS", "0.01");
    (server, host)
}

/// A job that installs `package` from `url`.
fn install(id: &str, url: &str, package: &Package) -> Job {
    Job::new(id, "install", "web").package(&format!("{url}/{}", package.file), package).set("startsecs", "0.2")
}

/// All of it, or the bytes from an offset on.
fn rest(bytes: &[u8], from: Option<usize>) -> Vec<u8> {
    match from {
        Some(from) => {
            let range = format!("Content-Range: bytes {from}-{}/{}\r\n", bytes.len() - 1, bytes.len());
            reply("206 Partial Content", &range, &bytes[from..])
        }
        None => reply("200 OK", "", bytes),
    }
}

#[test]
fn a_server_that_brings_nothing_is_given_up_after_eight_attempts() {
    if needs_faults() {
        return;
    }
    let (server, mut host) = pair();
    host.start();
    let package = tarball(&host, "web", "1.0", &staying("up"), &[]);
    let nowhere = Server::nowhere();
    let message = host.does(&server, &install("refused", &format!("http://{nowhere}"), &package), 4);
    assert!(message.contains("tried 8 times") && message.contains("Connection refused"), "{message}");
    let message = host.does(&server, &install("ftp", &format!("ftp://{nowhere}"), &package), 4);
    assert!(message.contains("tried 8 times") && message.contains("Connection refused"), "{message}");
    let source = Source::fixed(reply("503 Not Now", "", b""));
    let message = host.does(&server, &install("busy", &source.url, &package), 4);
    assert!(message.contains("503 Not Now"), "{message}");
    assert_eq!(source.requests().len(), 8);
    // Each doubles the last, from 0.01 s.
    for pause in ["0.01", "0.02", "0.04", "0.08", "0.16", "0.32", "0.64"] {
        assert_eq!(said(&host, &format!("tried again in {pause} s")), 3, "{}", host.logs());
    }
    let source = Source::fixed(reply("403 No", "", b""));
    let message = host.does(&server, &install("final", &source.url, &package), 4);
    assert!(message.contains("403 No") && source.requests().len() == 1, "{message}");
    #[cfg(not(feature = "tls"))]
    {
        let message = host.does(&server, &install("tls", "https://localhost", &package), 1);
        assert!(message.contains("https"), "{message}");
        let source = Source::fixed(reply("302 Found", "Location: https://localhost/x\r\n", b""));
        let message = host.does(&server, &install("to-tls", &source.url, &package), 4);
        assert!(message.contains("built without https"), "{message}");
    }
    for (n, location) in ["file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://127.0.0.1/x"].into_iter().enumerate() {
        let source = Source::fixed(reply("302 Found", &format!("Location: {location}\r\n"), b""));
        let message = host.does(&server, &install(&format!("to-{n}"), &source.url, &package), 4);
        assert!(message.contains("redirect") || message.contains("gopher"), "{message}");
        assert_eq!(source.requests().len(), 1);
    }
    assert!(entries(&host.path("state/downloads")).is_empty());
}

#[test]
fn a_server_that_wants_to_be_left_alone_is() {
    let (server, mut host) = pair();
    host.start();
    let package = tarball(&host, "web", "1.0", &staying("up"), &[]);
    let (bytes, times) = (package.bytes.clone(), Arc::new(Mutex::new(Vec::new())));
    let seen = times.clone();
    let source = Source::http(move |number, request, stream| {
        seen.lock().expect("not poisoned").push(Instant::now());
        let later = reply("503 Later", "Retry-After: 2\r\n", b"");
        send(stream, &if number == 0 { later } else { rest(&bytes, request.from()) });
    });
    host.does(&server, &install("later", &source.url, &package), 0);
    let times = times.lock().expect("not poisoned");
    assert!(times.len() == 2 && times[1] - times[0] >= Duration::from_secs(2), "{times:?}");
    assert_eq!(said(&host, "tried again in 2 s"), 1);
}

#[test]
fn a_stall_is_ended_and_gone_on_from() {
    if needs_faults() {
        return;
    }
    let (server, mut host) = pair();
    host.env("BOOTAGENT_STALL_SECS", "1");
    host.start();
    let package = tarball(&host, "web", "1.0", &staying("up"), &[]);
    let bytes = package.bytes.clone();
    let source = Source::http(move |number, request, stream| {
        let whole = rest(&bytes, request.from());
        match number {
            0 => {
                send(stream, &whole[..whole.len() - 100]);
                // Until the other side closes.
                let _ = stream.read(&mut [0]);
            }
            _ => send(stream, &whole),
        }
    });
    host.does(&server, &install("stalls", &source.url, &package), 0);
    assert_eq!(said(&host, "stalled: no byte for 1 s"), 1, "{}", host.logs());
    assert_eq!(source.requests()[1].from(), Some(package.bytes.len() - 100));
}

#[test]
fn a_file_that_changes_meanwhile_is_fetched_from_the_start_once() {
    let (server, mut host) = pair();
    host.start();
    let [old, new] = ["old", "new"].map(|word| tarball(&host, "web", "1.0", &staying(word), &[]));
    let source = |wanted: &Package, whole: bool| {
        let (first, then) = (old.bytes.clone(), wanted.bytes.clone());
        Source::http(move |number, request, stream| match number {
            0 => {
                let bytes = rest(&first, None);
                send(stream, &bytes[..bytes.len() - first.len() / 2]);
            }
            // Another one is fitted to its beginning; then it is whole, or not even then.
            1 => send(stream, &rest(&then, request.from())),
            _ if whole => send(stream, &rest(&then, request.from())),
            _ => send(stream, &rest(&[7; 1000], request.from())),
        })
    };
    // The size must differ: else a range that is not satisfiable would be another test.
    let changed = source(&new, true);
    host.does(&server, &install("changed", &changed.url, &new), 0);
    let asked: Vec<Option<usize>> = changed.requests().iter().map(scripted::Request::from).collect();
    assert_eq!(asked, [None, Some(old.bytes.len().div_ceil(2)), None]);
    assert_eq!(said(&host, "fetched again from the start"), 1);
    host.does(&server, &Job::new("gone", "uninstall", "web"), 0);
    let spoiled = source(&new, false);
    let message = host.does(&server, &install("spoiled", &spoiled.url, &new), 5);
    assert!(
        message.contains(&new.checksum.to_lowercase()["SHA256:".len()..]) && spoiled.requests().len() == 3,
        "{message}"
    );
    assert!(entries(&host.path("state/downloads")).is_empty());
}

#[test]
fn a_server_without_lengths_may_be_cut_once() {
    let (server, mut host) = pair();
    host.start();
    let package = tarball(&host, "web", "1.0", &staying("up"), &[]);
    let bytes = package.bytes.clone();
    // The first end of the connection looks the same as the second.
    let source = Source::http(move |number, _, stream| {
        send(stream, b"HTTP/1.0 200 OK\r\n\r\n");
        send(stream, if number == 0 { &bytes[..bytes.len() / 2] } else { &bytes });
    });
    host.does(&server, &install("old", &source.url, &package), 0);
    assert_eq!(source.requests().len(), 2);
}

#[test]
fn chunks_may_be_cut_as_often_as_anything_else() {
    let (server, mut host) = pair();
    host.start();
    let package = tarball(&host, "web", "1.0", &staying("up"), &[]);
    let bytes = package.bytes.clone();
    // What has come is more with each attempt, and the last chunk comes only in the tenth. Half of them continue, in chunks
    // too; the other server begins again each time.
    for (id, continues) in [("continued", true), ("again", false)] {
        let bytes = bytes.clone();
        let source = Source::http(move |number, request, stream| {
            let from = match request.header("range").filter(|_| continues) {
                Some(range) => range["bytes=".len()..range.len() - 1].parse().expect("a number"),
                None => 0,
            };
            let (status, range) = match from {
                0 => ("200 OK", String::new()),
                _ => ("206 Partial", format!("Content-Range: bytes {from}-{}/*\r\n", bytes.len() - 1)),
            };
            let head = format!("HTTP/1.1 {status}\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n{range}\r\n");
            send(stream, head.as_bytes());
            let sent = &bytes[from..bytes.len() * (number.min(9) + 1) / 10];
            send(stream, &[format!("{:x}\r\n", sent.len()).as_bytes(), sent, b"\r\n"].concat());
            send(stream, if number < 9 { b"" } else { b"0\r\n\r\n" });
        });
        host.does(&server, &install(id, &source.url, &package), 0);
        assert_eq!(source.requests().len(), 10, "{id}");
        host.does(&server, &Job::new(&format!("{id}-gone"), "uninstall", "web"), 0);
    }
}

#[test]
fn what_is_too_big_is_not_taken() {
    let (server, mut host) = pair();
    host.set("max_download", "\"8M\"");
    host.start();
    let package = tarball(&host, "web", "1.0", &staying("up"), &[]);
    let told = Source::fixed(reply("200 OK", "", &vec![7; (8 << 20) + 1]));
    let message = host.does(&server, &install("told", &told.url, &package), 4);
    assert!(message.contains("the file has 8388609 bytes, more than 8M"), "{message}");
    let untold = Source::http(|_, _, stream| {
        send(stream, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        while stream.write_all(format!("1000\r\n{}\r\n", "x".repeat(4096)).as_bytes()).is_ok() {}
    });
    let message = host.does(&server, &install("untold", &untold.url, &package), 4);
    assert!(message.contains("the file has more than 8M"), "{message}");
    assert_eq!((told.requests().len(), untold.requests().len()), (1, 1));
    assert!(entries(&host.path("state/downloads")).is_empty());
}

#[test]
fn errors_say_where_and_keep_secrets() {
    let (server, mut host) = pair();
    host.start();
    let package = tarball(&host, "web", "1.0", &staying("up"), &[]);
    let missing = Source::fixed(reply("404 Not Found", "", b""));
    let address = missing.url.trim_start_matches("http://").to_string();
    let url = |address: &str| format!("http://user:{SECRET}@{address}/dir/{}?token={SECRET}", package.file);
    let job = |id: &str, url: &str| Job::new(id, "install", "web").package(url, &package);
    let message = host.does(&server, &job("missing", &url(&address)), 4);
    let want = format!("cannot download http://{address}/dir/{}: the server answered 404 Not Found", package.file);
    assert!(message.starts_with(&want), "{message}");
    // One that is not there at all, behind a redirect with a secret of its own.
    let nowhere = Server::nowhere();
    let source = Source::fixed(reply("302 Found", &format!("Location: {}\r\n", url(&nowhere)), b""));
    let address = source.url.trim_start_matches("http://").to_string();
    server.give(&job("redirected", &url(&address)).text());
    let want = format!(
        "download of http://{address}/dir/{0} interrupted, tried again in 0.01 s: redirected to \
         http://{nowhere}/dir/{0}: cannot connect to \"127.0.0.1\"",
        package.file
    );
    host.wait("it to be told", || said(&host, &want) > 0);
    let said_to_people = host.ok(&["jobs"]) + &host.ok(&["jobs", "--json"]) + &host.ok(&["status"]) + &host.logs();
    assert!(!said_to_people.contains(SECRET), "{said_to_people}");
}

/// Whether agent `other` is brought back, and jobs for it are done, while something else goes on.
fn undisturbed(server: &Server, host: &Host, id: &str) {
    for n in 0..3 {
        let before = host.wait_running("other");
        let began = Instant::now();
        kill(before.pid, "KILL");
        host.wait_seen("other", "to be brought back", |agent| agent.runs() && agent.pid != before.pid);
        // Its restart is due after 0.3 s; a busy machine adds to that.
        assert!(began.elapsed() < Duration::from_secs(15), "the end of an agent was noticed late");
        host.does(server, &Job::new(&format!("{id}-{n}"), "restart", "other"), 0);
    }
}

#[test]
fn a_download_that_was_stopped_by_a_signal_is_ended_and_tried_again() {
    if needs_faults() {
        return;
    }
    let (server, mut host) = pair();
    host.env("BOOTAGENT_STALL_SECS", "1");
    host.start();
    let package = tarball(&host, "web", "1.0", &staying("up"), &[]);
    let (bytes, stopped) = (package.bytes.clone(), Arc::new(Mutex::new(None)));
    let (daemon, noted) = (host.pid(), stopped.clone());
    let source = Source::http(move |number, request, stream| {
        if number == 0 {
            // Its own alarm is not heard while it is stopped.
            let children = fs::read_to_string(format!("/proc/{daemon}/task/{daemon}/children")).unwrap_or_default();
            let fetches = |pid: &&str| {
                let third = fs::read_link(format!("/proc/{pid}/fd/3")).unwrap_or_default();
                third.to_string_lossy().contains("/state/downloads/")
            };
            let pid = children.split_whitespace().find(fetches).map(String::from);
            let kill = Command::new("kill").arg("-STOP").args(&pid).status();
            assert!(kill.is_ok_and(|status| status.success()), "{children}");
            *noted.lock().expect("not poisoned") = pid;
            send(stream, &reply("200 OK", "", &bytes)[..200]);
            let _ = stream.read(&mut [0; 1]);
            return;
        }
        send(stream, &rest(&bytes, request.from()));
    });
    host.does(&server, &install("i1", &source.url, &package), 0);
    let pid = stopped.lock().expect("not poisoned").take().expect("a download was stopped");
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "it is still there");
    assert_eq!(said(&host, "did nothing for 6 s, and was ended"), 1, "{}", host.logs());
    assert_eq!(source.requests().len(), 2);
}

#[test]
fn slowness_disturbs_nobody_and_is_no_stall() {
    if needs_faults() {
        return;
    }
    let (server, mut host) = pair();
    host.env("BOOTAGENT_STALL_SECS", "2").set("retries", "100");
    host.agent("other", "exec sleep 1000", &[]);
    host.start();
    let package = tarball(&host, "web", "1.0", &staying("up"), &[]);
    let (bytes, hurry) = (package.bytes.clone(), Arc::new(Mutex::new(false)));
    let now = hurry.clone();
    let source = Source::http(move |_, request, stream| {
        let _ = stream.set_nodelay(true);
        let whole = rest(&bytes, request.from());
        let (head, body) = whole.split_at(whole.len() - bytes.len());
        send(stream, head);
        for byte in body.chunks(1) {
            send(stream, byte);
            if !*now.lock().expect("not poisoned") {
                let_pass(Duration::from_millis(300));
            }
        }
    });
    server.give(&install("slow", &source.url, &package).text());
    host.wait("its first bytes", || host.job("slow").is_some_and(|job| text(&job, "progress").contains(" of ")));
    undisturbed(&server, &host, "slow");
    *hurry.lock().expect("not poisoned") = true;
    assert_eq!(host.result(&server, "slow").0, 0);
    assert_eq!(source.requests().len(), 1, "slowness was taken for a stall");
}

#[test]
fn a_resolver_that_says_nothing_disturbs_nobody() {
    if lacks_root() {
        return;
    }
    let (server, mut host) = pair();
    // Of the loopback's addresses one for each process.
    let id = std::process::id();
    let address = format!("127.{}.{}.{}", 1 + id % 200, id / 200 % 250, 1 + id / 50_000 % 250);
    let Ok(resolver) = UdpSocket::bind(format!("{address}:53")) else {
        skipped("a free port 53 on the loopback");
        return;
    };
    host.write("resolv.conf", &format!("nameserver {address}\noptions timeout:1 attempts:1\n"));
    host.write("nsswitch.conf", "hosts: files dns\n");
    let [resolv, switch] = ["resolv.conf", "nsswitch.conf"].map(|name| host.path(name).display().to_string());
    host.behind(&format!(
        "mount --bind {resolv} /etc/resolv.conf; if [ -e /etc/nsswitch.conf ]; then mount --bind {switch} /etc/nsswitch.conf; fi;"
    ));
    host.set("retries", "100");
    host.agent("other", "exec sleep 1000", &[]);
    host.start();
    let package = tarball(&host, "web", "1.0", &staying("up"), &[]);
    for scheme in ["http", "ftp"] {
        server.give(&install(scheme, &format!("{scheme}://packages.test"), &package).text());
        undisturbed(&server, &host, scheme);
        resolver.set_read_timeout(Some(PATIENCE)).expect("a socket");
        assert!(resolver.recv(&mut [0; 512]).is_ok(), "nobody asked the resolver");
        // Eight attempts take two minutes where nothing shortens them.
        if lacks_faults() {
            return;
        }
        let (code, message) = host.result(&server, scheme);
        assert!(code == 4 && message.contains("tried 8 times"), "{code} {message}");
    }
}

#[test]
fn a_disk_that_fills_up_is_code_4_and_is_given_back() {
    if lacks_root() {
        return;
    }
    let (server, mut host) = pair();
    let state = host.path("state").display().to_string();
    fs::create_dir_all(host.path("state")).expect("the host's directory can be written");
    host.behind(&format!("mount -t tmpfs -o size=2m,mode=755 none {state};"));
    host.start();
    let package = tarball(&host, "web", "1.0", &staying("up"), &[]);
    let told = Source::fixed(reply("200 OK", "", &vec![7; 4 << 20]));
    let message = host.does(&server, &install("told", &told.url, &package), 4);
    assert!(message.contains("no space"), "{message}");
    let untold = Source::http(|_, _, stream| {
        send(stream, b"HTTP/1.1 200 OK\r\n\r\n");
        send(stream, &vec![7; 4 << 20]);
    });
    let message = host.does(&server, &install("untold", &untold.url, &package), 4);
    assert!(message.contains("No space left"), "{message}");
    // There is room for one that fits.
    let url = server.serve(&package.file, &package.bytes);
    host.does(&server, &Job::new("fits", "install", "web").package(&url, &package).set("startsecs", "0.2"), 0);
}
