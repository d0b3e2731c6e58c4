//! Downloads over HTTP and from files.

use std::fs;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use bootagent::work::{decode_response, take_total, FailureKind, HelperRequest, HelperResponse, Route};
use sha2::{Digest, Sha256};

use crate::server::{reply, send, Server};
use crate::{
    content, cut, failed, fetch, fetched, has_32_bits, have, keeps, needs_short_times, outcome, perform, performed,
    uncounted, Scratch,
};

#[test]
fn a_whole_file_is_fetched_and_hashed() {
    let scratch = Scratch::new("whole");
    let bytes = content(700_000);
    let server = Server::fixed(reply("200 OK", "", &bytes));
    let file = scratch.file("a", b"");
    assert_eq!(fetch(&format!("{}/a%20b?c#d", server.url), &file), fetched(&bytes));
    assert_eq!(fs::read(&file).expect("there"), bytes);
    assert_eq!(server.requests()[0].lines[0], "GET /a%20b?c HTTP/1.1");
}

#[test]
fn a_cut_is_temporary_and_the_next_attempt_goes_on() {
    let scratch = Scratch::new("cut");
    let bytes = content(300_000);
    let served = bytes.clone();
    let server = Server::http(move |number, request, stream| {
        let from = request.from().unwrap_or(0);
        let range = format!("Content-Range: bytes {from}-{}/{}\r\n", served.len() - 1, served.len());
        let status = if from > 0 { "206 Partial Content" } else { "200 OK" };
        let whole = reply(status, &range, &served[from..]);
        let end = if number < 2 { whole.len() - 100_000 } else { whole.len() };
        send(stream, &whole[..end]);
    });
    let file = scratch.file("a", b"");
    failed(fetch(&server.url, &file), FailureKind::Temporary, 200_000, "ended after 200000 of 300000 bytes");
    failed(fetch(&server.url, &file), FailureKind::Temporary, 0, "ended after 200000 of 300000 bytes");
    assert_eq!(fetch(&server.url, &file), fetched(&bytes));
    assert_eq!(fs::read(&file).expect("there"), bytes);
    assert_eq!(server.requests()[2].from(), Some(200_000));
}

#[test]
fn a_range_that_is_ignored_or_wrong_begins_anew() {
    let scratch = Scratch::new("anew");
    let bytes = content(1000);
    let ignores = Server::fixed(reply("200 OK", "", &bytes));
    assert_eq!(fetch(&ignores.url, &scratch.file("a", &content(500))), fetched(&bytes));

    for wrong in [
        reply("206 Partial Content", "Content-Range: bytes 400-999/1000\r\n", &bytes[400..]),
        reply("206 Partial Content", "", &bytes[500..]),
        reply("416 Range Not Satisfiable", "Content-Range: bytes */400\r\n", b""),
        reply("416 Range Not Satisfiable", "", b""),
    ] {
        let whole = reply("200 OK", "", &bytes);
        let server = Server::http(move |_, request, stream| {
            send(stream, if request.from() == Some(500) { &wrong } else { &whole });
        });
        assert_eq!(fetch(&server.url, &scratch.file("a", &bytes[..500])), fetched(&bytes));
        assert_eq!(server.requests().len(), 2);
    }
}

#[test]
fn what_is_complete_already_is_not_fetched_again() {
    let scratch = Scratch::new("complete");
    let bytes = content(1000);
    let server = Server::fixed(reply("416 Range Not Satisfiable", "Content-Range: bytes */1000\r\n", b""));
    assert_eq!(fetch(&server.url, &scratch.file("a", &bytes)), fetched(&bytes));
}

#[test]
fn what_has_the_wanted_digest_is_not_asked_for() {
    let scratch = Scratch::new("http-wanted");
    let bytes = content(5000);
    // Nobody listens there.
    let order = HelperRequest::Fetch {
        url: "http://127.0.0.1:1/x.deb".into(),
        max_bytes: 1 << 20,
        rate: None,
        route: Default::default(),
        digest: Sha256::digest(&bytes).into(),
    };
    assert_eq!(perform(&order, &scratch.file("a", &bytes)), fetched(&bytes));
    failed(perform(&order, &scratch.file("b", &bytes[..4999])), FailureKind::Temporary, 0, "refused");
}

#[test]
fn statuses_are_final_or_temporary() {
    let scratch = Scratch::new("status");
    let file = scratch.file("a", b"");
    for (status, kind) in [
        ("404 Not Found", FailureKind::Final),
        ("403 Forbidden", FailureKind::Final),
        ("204 No Content", FailureKind::Final),
        ("408 Request Timeout", FailureKind::Temporary),
        ("429 Too Many Requests", FailureKind::Temporary),
        ("500 Oops", FailureKind::Temporary),
        ("503 Later", FailureKind::Temporary),
    ] {
        let server = Server::fixed(reply(status, "", b"<html>"));
        failed(fetch(&server.url, &file), kind, 0, status);
    }
    assert_eq!(fs::metadata(&file).expect("there").len(), 0);
}

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
fn redirects_are_followed_so_far_and_not_everywhere() {
    let scratch = Scratch::new("redirect");
    let bytes = content(10);
    let served = bytes.clone();
    let server = Server::http(move |_, request, stream| {
        let path = request.lines[0].split(' ').nth(1).expect("a request line");
        let to = |location: &str| reply("302 Found", &format!("Location: {location}\r\n"), b"");
        send(
            stream,
            &match path {
                "/a/start" => to("next?x"),
                "/a/next?x" => to("/end"),
                "/end" => reply("200 OK", "", &served),
                "/file" => to("file:///etc/hostname"),
                "/ftp" => to("ftp://127.0.0.1/x"),
                "/nowhere" => reply("302 Found", "", b""),
                _ => to("/round"),
            },
        );
    });
    let file = scratch.file("a", b"");
    assert_eq!(fetch(&format!("{}/a/start", server.url), &file), fetched(&bytes));
    let file = scratch.file("b", b"");
    for (path, part) in
        [("/file", "not http"), ("/ftp", "not http"), ("/nowhere", "nowhere"), ("/round", "more than 5 times")]
    {
        failed(fetch(&format!("{}{path}", server.url), &file), FailureKind::Final, 0, part);
    }
    assert_eq!(server.requests().iter().filter(|request| request.lines[0].contains("/round")).count(), 6);
}

#[test]
fn a_file_that_is_too_big_is_not_taken() {
    let scratch = Scratch::new("big");
    let said = Server::fixed("HTTP/1.1 200 OK\r\nContent-Length: 1048577\r\n\r\n");
    failed(fetch(&said.url, &scratch.file("a", b"")), FailureKind::TooBig, 0, "1048577 bytes, more than 1M");
    let unsaid = Server::http(|_, _, stream| {
        send(stream, b"HTTP/1.1 200 OK\r\n\r\n");
        send(stream, &content(2 << 20));
    });
    let file = scratch.file("b", b"");
    match fetch(&unsaid.url, &file) {
        HelperResponse::Failed { kind: FailureKind::TooBig, .. } => {}
        other => panic!("{other:?}"),
    }
    assert!(fs::metadata(&file).expect("there").len() <= 1 << 20);
}

#[test]
fn chunks_are_joined_and_after_a_cut_among_them_the_digest_decides() {
    let scratch = Scratch::new("chunks");
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let whole = format!("{head}5\r\nhello\r\n6;x=y\r\n world\r\n0\r\n\r\n");
    let kept = Server::http(move |_, _, stream| {
        send(stream, whole.as_bytes());
        // The connection stays, as HTTP/1.1 has it, until the other side goes.
        let _ = std::io::Read::read(stream, &mut [0]);
    });
    assert_eq!(fetch(&kept.url, &scratch.file("a", b"")), fetched(b"hello world"));
    // It closes behind them, announced or not; whether that has been seen by then depends.
    let closing = head.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
    for (number, head) in [head, &closing].into_iter().enumerate() {
        let closed = Server::fixed(format!("{head}5\r\nhello\r\n0\r\n\r\n"));
        let outcome = fetch(&closed.url, &scratch.file(&format!("b{number}"), b""));
        assert!([fetched(b"hello"), uncounted(b"hello"), cut(b"hello")].contains(&outcome), "{outcome:?}");
    }
    // Cut within a chunk, between two, and within a length.
    for (number, cut) in ["5\r\nhello\r\n", "5\r\nhello", "5\r\nhello\r\n6"].iter().enumerate() {
        let server = Server::fixed(format!("{head}{cut}"));
        let file = scratch.file(&format!("c{number}"), b"");
        assert_eq!(fetch(&server.url, &file), crate::cut(b"hello"), "{cut:?}");
    }
}

#[test]
fn a_password_is_sent_and_never_shown() {
    let scratch = Scratch::new("password");
    let server = Server::fixed(reply("401 No user:s3cret@x here", "", b""));
    let url = server.url.replace("http://", "http://user:s3cret%40x@");
    let reason = failed(fetch(&url, &scratch.file("a", b"")), FailureKind::Final, 0, "401");
    assert!(!reason.contains("s3cret"), "{reason}");
    assert_eq!(server.requests()[0].header("authorization"), Some("Basic dXNlcjpzM2NyZXRAeA=="));
}

#[test]
fn a_rate_is_kept() {
    let scratch = Scratch::new("rate");
    let bytes = content(600_000);
    let served = bytes.clone();
    // Large pieces and small ones, and a server that is faster and one that pauses.
    for (piece, pause) in [(600_000, 0), (1000, 0), (50_000, 100)] {
        let (served, pause) = (served.clone(), Duration::from_millis(pause));
        let server = Server::http(move |_, _, stream| {
            let _ = stream.set_nodelay(true);
            send(stream, format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", served.len()).as_bytes());
            for bytes in served.chunks(piece) {
                send(stream, bytes);
                std::thread::sleep(pause);
            }
        });
        let order = HelperRequest::Fetch {
            url: server.url.clone(),
            max_bytes: 1 << 20,
            rate: Some(200_000),
            route: Default::default(),
            digest: [0; 32],
        };
        keeps(Duration::from_secs(3), || assert_eq!(perform(&order, &scratch.file("a", b"")), fetched(&bytes)));
    }
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
            HelperResponse::Failed { reason, .. } => assert!(reason.contains(part), "{reason}"),
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
    let deb = format!("{}/a.deb", server.url);
    failed(fetch(&deb, &scratch.file("a", b"")), FailureKind::Final, 0, "compressed the file (Content-Encoding: gzip)");
    assert_eq!(server.requests()[0].header("accept-encoding"), Some("identity"));
    // Many servers say it of files that are compressed by themselves, and send them as they are.
    assert_eq!(fetch(&format!("{}/a.tar.gz", server.url), &scratch.file("b", b"")), fetched(packed));
    let plain = Server::fixed(reply("200 OK", "Content-Encoding: gzip\r\n", b"plain"));
    assert_eq!(fetch(&format!("{}/a.deb", plain.url), &scratch.file("c", b"")), fetched(b"plain"));
}

/// A proxy gets the whole URL, and the server's name in it need not be known here.
#[test]
fn a_proxy_is_asked_for_the_whole_url() {
    let scratch = Scratch::new("proxy");
    let bytes = content(1000);
    let server = Server::fixed(reply("200 OK", "", &bytes));
    let order = HelperRequest::Fetch {
        url: "http://nowhere.invalid:81/a%20b?c".into(),
        max_bytes: 1 << 20,
        rate: None,
        route: Route { proxy: server.url.strip_prefix("http://").map(String::from), turn: 0 },
        digest: [0; 32],
    };
    assert_eq!(perform(&order, &scratch.file("a", b"")), fetched(&bytes));
    let request = &server.requests()[0];
    assert_eq!(request.lines[0], "GET http://nowhere.invalid:81/a%20b?c HTTP/1.1");
    assert_eq!(request.header("host"), Some("nowhere.invalid:81"));
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
        assert!(!output.status.success() || matches!(outcome(&output), HelperResponse::Failed { .. }), "{piece:?}");
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

#[test]
fn how_much_will_come_is_told_before_it_comes() {
    let scratch = Scratch::new("total");
    let bytes = content(1000);
    let server = Server::fixed(reply("200 OK", "", &bytes));
    let order = HelperRequest::Fetch {
        url: server.url.clone(),
        max_bytes: 1 << 20,
        rate: None,
        route: Default::default(),
        digest: [0; 32],
    };
    let mut told = performed(&order, &scratch.file("a", b""), "", &[]).stdout;
    assert_eq!((take_total(&mut told), take_total(&mut told)), (Some(1000), None));
    assert_eq!(decode_response(&told), Some(fetched(&bytes)));
}

#[test]
fn a_server_may_ask_to_be_left_alone() {
    let scratch = Scratch::new("later");
    for (status, header, want) in [
        ("503 Later", "Retry-After: 17\r\n", Some(17)),
        ("429 Too Many", "retry-after:9\r\n", Some(9)),
        ("503 Later", "Retry-After: Wed, 21 Oct 2015 07:28:00 GMT\r\n", None),
        ("500 Oops", "Retry-After: 17\r\n", None),
    ] {
        let server = Server::fixed(reply(status, header, b""));
        match fetch(&server.url, &scratch.file("a", b"")) {
            HelperResponse::Failed { kind: FailureKind::Temporary, retry_after, .. } => {
                assert_eq!(retry_after, want, "{header}")
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn files_are_copied() {
    let scratch = Scratch::new("file");
    let bytes = content(300_000);
    let source = scratch.file("a b", &bytes);
    let url = format!("file://{}", source.to_str().expect("ASCII").replace(' ', "%20"));
    assert_eq!(fetch(&url, &scratch.file("to", b"older part")), fetched(&bytes));
    let file = scratch.file("c", b"");
    failed(fetch("file:///no/such", &file), FailureKind::Final, 0, "No such file");
    failed(fetch("file:///etc", &file), FailureKind::Final, 0, "no regular file");
    failed(fetch("file:///dev/zero", &file), FailureKind::Final, 0, "no regular file");
    // A file of the kernel's own making, which has more in it than its size says.
    let made_up = fetch("file:///proc/self/mounts", &file);
    assert!(matches!(made_up, HelperResponse::Fetched { size: 0, .. }), "{made_up:?}");
    failed(fetch("file://other/etc/passwd", &file), FailureKind::Final, 0, "no host");
    failed(fetch("gopher://x/", &file), FailureKind::Final, 0, "want ftp://");
}

#[test]
fn a_full_disk_is_said() {
    let scratch = Scratch::new("full");
    let huge = HelperRequest::Fetch {
        url: Server::fixed("HTTP/1.1 200 OK\r\nContent-Length: 1152921504606846976\r\n\r\n").url,
        max_bytes: u64::MAX,
        rate: None,
        route: Default::default(),
        digest: [0; 32],
    };
    let told = perform(&huge, &scratch.file("a", b""));
    if has_32_bits() {
        failed(told, FailureKind::Temporary, 0, "too large");
        return;
    }
    failed(told, FailureKind::NoSpace, 0, "no space");
}

#[test]
fn a_disk_that_fills_up_while_bytes_come_is_said() {
    if !have("root", fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0)) {
        return;
    }
    let scratch = Scratch::new("small");
    fs::create_dir(scratch.0.join("disk")).expect("a directory");
    let disk = scratch.0.join("disk");
    // One has a length, the other does not.
    for (head, gained) in [("Content-Length: 300000\r\n", 0), ("", 100_000)] {
        let head = format!("HTTP/1.1 200 OK\r\n{head}\r\n");
        let server = Server::fixed([head.as_bytes(), &content(300_000)].concat());
        let order = HelperRequest::Fetch {
            url: server.url.clone(),
            max_bytes: 1 << 20,
            rate: None,
            route: Default::default(),
            digest: [0; 32],
        };
        let script = format!(
            "exec unshare -m sh -c 'mount -t tmpfs -o size=200k,mode=755 none {disk} && exec \"$0\" work 3<>{disk}/a' \"$0\";",
            disk = disk.display()
        );
        match outcome(&performed(&order, &disk.join("a"), &script, &[])) {
            HelperResponse::Failed { kind: FailureKind::NoSpace, progressed, .. } => {
                assert!(progressed >= gained, "{progressed}")
            }
            other => panic!("{other:?}"),
        }
    }
}
