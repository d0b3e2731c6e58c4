//! HTTP servers that lie, break off, stall, or write as no other does.

use std::fs;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use bootagent::work::{Failure, FailureKind, HelperRequest, HelperResponse};
use sha2::{Digest, Sha256};

use crate::server::{reply, send, Server};
use crate::{content, failed, fetch, fetch_known, fetched, needs_short_times, outcome, performed, uncounted, Scratch};

#[test]
fn connections_that_break_are_temporary() {
    let scratch = Scratch::new("break");
    let file = scratch.file("a", b"");
    for bytes in ["", "HTTP/1.1 200 OK\r\nContent-", "SSH-2.0-OpenSSH\r\n", "HTTP/1.1 20", "HTTP/1.1 200 OK\r\n\r\n"] {
        failed(fetch(&Server::fixed(bytes).url, &file), FailureKind::Temporary, 0, "");
    }
    // What is closed with a request unread is reset.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}/", listener.local_addr().expect("bound"));
    std::thread::spawn(move || listener.incoming().for_each(|stream| drop(stream.map(|stream| stream.peek(&mut [0])))));
    failed(fetch(&url, &file), FailureKind::Temporary, 0, "");
    failed(fetch("http://127.0.0.1:1/", &file), FailureKind::Temporary, 0, "Connection refused");
    failed(fetch("http://nowhere.invalid/", &file), FailureKind::Temporary, 0, "lookup");
}

#[test]
fn a_head_that_is_cut_anywhere_costs_nothing_of_what_is_there() {
    let scratch = Scratch::new("heads");
    let bytes = content(1000);
    for whole in [
        reply("206 Partial Content", "Server: x\r\nContent-Range: bytes 500-999/1000\r\n", &bytes[500..]),
        reply("200 OK", "Server: x\r\n", &bytes),
    ] {
        let head = whole.windows(4).position(|end| end == b"\r\n\r\n").expect("a head") + 4;
        let sent = whole.clone();
        let server = Server::http(move |number, _, stream| send(stream, &sent[..number]));
        let file = scratch.file("a", &bytes[..500]);
        for end in 0..=head {
            failed(fetch(&server.url, &file), FailureKind::Temporary, 0, "");
            assert_eq!(fs::read(&file).expect("there"), bytes[..500], "cut after {end} of {head} bytes");
        }
    }
}

#[test]
fn lies_about_lengths_harm_nobody() {
    let scratch = Scratch::new("lies");
    let bytes = content(1000);
    let said = |length: &str| [format!("HTTP/1.1 200 OK\r\n{length}\r\n").as_bytes(), &bytes].concat();
    // Too few promised: no more are taken, and the digest tells. Of two promises none counts, unless they are the same.
    let few = Server::fixed(said("Content-Length: 900\r\n"));
    assert_eq!(fetch(&few.url, &scratch.file("a", b"")), fetched(&bytes[..900]));
    let two = Server::fixed(said("Content-Length: 900\r\nContent-Length: 1000\r\n"));
    failed(fetch(&two.url, &scratch.file("b", b"")), FailureKind::Temporary, 0, "more than one Content-Length");
    let same = Server::fixed(said("Content-Length: 1000\r\ncontent-length:1000\r\n"));
    assert_eq!(fetch(&same.url, &scratch.file("b", b"")), fetched(&bytes));
    let many = Server::fixed(said("Content-Length: 1100\r\n"));
    failed(fetch(&many.url, &scratch.file("c", b"")), FailureKind::Temporary, 1000, "ended after 1000 of 1100");
    let none = Server::fixed(said("X: y\r\n"));
    assert_eq!(fetch(&none.url, &scratch.file("d", b"")), uncounted(&bytes));
    for length in ["-1", "0x10", "99999999999999999999999", "", "10 10"] {
        let server = Server::fixed(said(&format!("Content-Length: {length}\r\n")));
        failed(fetch(&server.url, &scratch.file("e", b"")), FailureKind::Temporary, 0, "Content-Length is no number");
    }
    // A range that promises one file and brings another: what it promises is checked, what it brings is hashed.
    for (range, body, part) in [
        ("500-999/1000", &bytes[500..900], "900 of 1000"),
        ("500-999/2000000", &bytes[500..], "2000000 bytes, more than"),
    ] {
        let text = format!("Content-Range: bytes {range}\r\n");
        let server = Server::fixed(reply("206 Partial Content", &text, body));
        match fetch(&server.url, &scratch.file("f", &bytes[..500])) {
            HelperResponse::Failed(Failure { reason, .. }) => assert!(reason.contains(part), "{reason}"),
            other => panic!("{other:?}"),
        }
    }
    // The request did not ask for a part. One that is not the beginning is refused.
    for (range, kind) in [("500-999/1000", FailureKind::Final), ("x", FailureKind::Final)] {
        let text = format!("Content-Range: bytes {range}\r\n");
        let part = Server::fixed(reply("206 Partial Content", &text, &bytes[500..]));
        failed(fetch(&part.url, &scratch.file("g", b"")), kind, 0, "206");
    }
    let part = Server::fixed(reply("206 Partial Content", "Content-Range: bytes 0-499/1000\r\n", &bytes[..500]));
    failed(fetch(&part.url, &scratch.file("g", b"")), FailureKind::Temporary, 500, "500 of 1000");
}

/// Caches call the whole file a part of it, and a part the whole.
#[test]
fn a_status_may_be_the_wrong_one_of_two() {
    let scratch = Scratch::new("statuses");
    let bytes = content(1000);
    let whole = Server::fixed(reply("206 Partial Content", "Content-Range: bytes 0-999/1000\r\n", &bytes));
    assert_eq!(fetch(&whole.url, &scratch.file("a", b"")), fetched(&bytes));
    let part = Server::fixed(reply("200 OK", "Content-Range: bytes 500-999/1000\r\n", &bytes[500..]));
    assert_eq!(fetch(&part.url, &scratch.file("b", &bytes[..500])), fetched(&bytes));
}

/// Servers put any bytes into headers that nobody needs, and into those that somebody does.
#[test]
fn heads_are_taken_as_servers_write_them() {
    let scratch = Scratch::new("odd-heads");
    let bytes = content(10);
    let latin =
        [&b"HTTP/1.1 200 D\xe9j\xe0 vu\r\nX: M\xfcller\r\n no header\r\nContent-Length : 10\n\n"[..], &bytes].concat();
    assert_eq!(fetch(&Server::fixed(latin).url, &scratch.file("a", b"")), fetched(&bytes));
    let missing = Server::fixed(&b"HTTP/1.1 404 Introuvable \xe0 jamais\r\nContent-Length: 0\r\n\r\n"[..]);
    failed(fetch(&missing.url, &scratch.file("a", b"")), FailureKind::Final, 0, "answered 404 Introuvable");
    let bare = Server::fixed("HTTP/1.1 404\r\n\r\n");
    failed(fetch(&bare.url, &scratch.file("a", b"")), FailureKind::Final, 0, "answered 404");
    let long = Server::fixed(reply("200 OK", &format!("X: {}\r\n", "x".repeat(60 << 10)), &bytes));
    assert_eq!(fetch(&long.url, &scratch.file("b", b"")), fetched(&bytes));
    let longer = Server::fixed(reply("200 OK", &format!("X: {}\r\n", "x".repeat(64 << 10)), &bytes));
    failed(fetch(&longer.url, &scratch.file("c", b"")), FailureKind::Temporary, 0, "over 64 KiB");
    for (location, want) in [
        (&b"/a b/M\xc3\xbcller.tar"[..], "/a%20b/M%C3%BCller.tar"),
        (b"/M\xfcller.tar", "/M%FCller.tar"),
        (b"x.tar?q=a b", "/x.tar?q=a%20b"),
        (b"\r\n\t../pool/x.tar", "/pool/x.tar"),
    ] {
        let to = [b"HTTP/1.1 302 Found\r\nLocation: ", location, b"\r\nContent-Length: 0\r\n\r\n"].concat();
        let found = reply("200 OK", "", &bytes);
        let server = Server::http(move |number, _, stream| send(stream, if number == 0 { &to } else { &found }));
        assert_eq!(fetch(&server.url, &scratch.file("d", b"")), fetched(&bytes), "{want}");
        assert_eq!(server.requests()[1].lines[0], format!("GET {want} HTTP/1.1"));
    }
}

/// A file that is compressed for its transfer, though the request wants it as it is, is not mistaken for the package.
#[test]
fn an_encoding_nobody_asked_for_is_named() {
    let scratch = Scratch::new("encoding");
    let packed = b"\x1f\x8b...";
    let server = Server::fixed(reply("200 OK", "Content-Encoding: gzip\r\n", packed));
    for (number, file) in ["a.deb", "a.tar.gz", "a.tgz", "a"].iter().enumerate() {
        let url = format!("{}/{file}", server.url);
        let why = "compressed the file (Content-Encoding: gzip)";
        failed(fetch(&url, &scratch.file(&format!("a{number}"), b"")), FailureKind::Final, 5, why);
        // Many servers say it of files that are compressed by themselves, and send them as they are.
        let digest = Sha256::digest(packed).into();
        assert_eq!(fetch_known(&url, digest, &scratch.file(&format!("b{number}"), b"")), fetched(packed), "{file}");
    }
    assert_eq!(server.requests()[0].header("accept-encoding"), Some("identity"));
    // One that was cut is fetched again.
    let cut = "Transfer-Encoding: chunked\r\nContent-Encoding: gzip\r\n";
    let cut = Server::fixed(reply("200 OK", cut, b"5\r\n\x1f\x8b...\r\n"));
    failed(fetch(&cut.url, &scratch.file("d", b"")), FailureKind::Temporary, 5, "without its last chunk");
    let plain = Server::fixed(reply("200 OK", "Content-Encoding: gzip\r\n", b"plain"));
    assert_eq!(fetch(&format!("{}/a.deb", plain.url), &scratch.file("c", b"")), fetched(b"plain"));
}

#[test]
fn interim_replies_are_passed_over() {
    let scratch = Scratch::new("interim");
    let bytes = content(1000);
    let early = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n";
    let range = "Content-Range: bytes 500-999/1000\r\n";
    for (part, final_reply) in [(0, reply("200 OK", "", &bytes)), (500, reply("206 Part", range, &bytes[500..]))] {
        let server = Server::http(move |_, _, stream| {
            send(stream, &[early.as_bytes(), &final_reply, b"HTTP/1.1 400 not asked\r\n\r\n"].concat());
            // The connection stays, until the other side goes.
            let _ = std::io::Read::read(stream, &mut [0]);
        });
        assert_eq!(fetch(&server.url, &scratch.file("a", &bytes[..part])), fetched(&bytes));
    }
    for (behind, kind, part) in [
        ("", FailureKind::Temporary, "closed the connection"),
        ("HTTP/1.1 200 OK\r\nContent-Le", FailureKind::Temporary, "closed the connection"),
        ("HTTP/1.1 404 Gone\r\n\r\n", FailureKind::Final, "404 Gone"),
        ("SSH-2.0\r\n\r\n", FailureKind::Temporary, "not HTTP"),
        ("HTTP/1.1 101 Other\r\n\r\n", FailureKind::Final, "101 Other"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n\r\n", FailureKind::Temporary, "chunk has no"),
    ] {
        let server = Server::fixed(format!("{early}{behind}"));
        failed(fetch(&server.url, &scratch.file("b", b"")), kind, 0, part);
    }
    let chunks = Server::fixed(
        "HTTP/1.1 100 Continue\r\nTransfer-Encoding: chunked\r\nContent-Length: 7\r\n\r\n\
         HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    );
    assert_eq!(fetch(&chunks.url, &scratch.file("c", b"")), fetched(b"hello"));
    let endless =
        Server::http(move |_, _, stream| while std::io::Write::write_all(stream, early.as_bytes()).is_ok() {});
    let order = HelperRequest::Fetch {
        url: endless.url.clone(),
        max_bytes: 1 << 20,
        rate: None,
        route: Default::default(),
        digest: [0; 32],
    };
    let output = performed(&order, &scratch.file("c", b""), "", &[("BOOTAGENT_STALL_SECS", "1")]);
    assert!(stalled(&output), "{output:?}");
}

#[test]
fn what_never_ends_is_ended() {
    let scratch = Scratch::new("endless");
    let file = scratch.file("a", b"");
    // A line of a head, and a head, without end.
    for piece in ["x", "X-A: b\r\n", "a:\n", "\u{e4}"] {
        let server = Server::http(move |_, _, stream| {
            let _ = stream.set_write_timeout(Some(Duration::from_secs(20)));
            send(stream, b"HTTP/1.1 200 OK\r\nX: ");
            let pieces = piece.repeat(10_000);
            while std::io::Write::write_all(stream, pieces.as_bytes()).is_ok() {}
        });
        let order = HelperRequest::Fetch {
            url: server.url.clone(),
            max_bytes: 1 << 20,
            rate: None,
            route: Default::default(),
            digest: [0; 32],
        };
        let output = performed(&order, &file, "ulimit -v 262144;", &[]);
        // minreq counts too few of them: then its memory, which is limited, or a check of its ends it.
        assert!(!output.status.success() || matches!(outcome(&output), HelperResponse::Failed(_)), "{piece:?}");
    }
    let body = Server::http(|_, _, stream| {
        send(stream, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        while std::io::Write::write_all(stream, format!("10000\r\n{}\r\n", "x".repeat(65536)).as_bytes()).is_ok() {}
    });
    failed(fetch(&body.url, &file), FailureKind::TooBig, 1 << 20, "more than 1M");
}

/// Whether a child was ended by its alarm.
pub fn stalled(output: &std::process::Output) -> bool {
    std::os::unix::process::ExitStatusExt::signal(&output.status) == Some(libc::SIGALRM)
}

#[test]
fn a_stall_ends_an_attempt_and_slowness_does_not() {
    if needs_short_times() {
        return;
    }
    let scratch = Scratch::new("stall");
    let bytes = content(12);
    let served = bytes.clone();
    let slow = Server::http(move |_, _, stream| {
        let _ = stream.set_nodelay(true);
        send(stream, b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n");
        for byte in served.chunks(1) {
            std::thread::sleep(Duration::from_millis(300));
            send(stream, byte);
        }
    });
    let order = |url: &str| HelperRequest::Fetch {
        url: url.into(),
        max_bytes: 1 << 20,
        rate: None,
        route: Default::default(),
        digest: [0; 32],
    };
    let two = [("BOOTAGENT_STALL_SECS", "2")];
    let output = performed(&order(&slow.url), &scratch.file("a", b""), "", &two);
    assert_eq!(outcome(&output), fetched(&bytes));

    // Before the head, in it, and in the body; the last one is never done with its head, though it goes on.
    for said in ["", "HTTP/1.1 200", "HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n12345", "DRIP"] {
        let server = Server::http(move |_, _, stream| match said {
            "DRIP" => {
                send(stream, b"HTTP/1.1 200 OK\r\nX: ");
                while std::io::Write::write_all(stream, b"x").is_ok() {
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
            _ => {
                send(stream, said.as_bytes());
                // Until the other side goes.
                let _ = std::io::Read::read(stream, &mut [0]);
            }
        });
        let began = Instant::now();
        let output = performed(&order(&server.url), &scratch.file("b", b""), "", &two);
        assert!(stalled(&output) && began.elapsed() >= Duration::from_secs(2), "{said:?}: {output:?}");
    }
    assert_eq!(fs::read(scratch.0.join("b")).expect("there").len(), 0);
}
