//! Downloads over HTTP and from files.

use std::fs;
use std::time::{Duration, Instant};

use bootagent::work::{Kind, Order, Outcome};

use crate::server::{reply, send, Server};
use crate::{content, failed, fetch, fetched, perform, Scratch};

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
    failed(fetch(&server.url, &file), Kind::Temporary, 200_000, "ended after 200000 of 300000 bytes");
    failed(fetch(&server.url, &file), Kind::Temporary, 0, "ended after 200000 of 300000 bytes");
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
fn statuses_are_final_or_temporary() {
    let scratch = Scratch::new("status");
    let file = scratch.file("a", b"");
    for (status, kind) in [
        ("404 Not Found", Kind::Final),
        ("403 Forbidden", Kind::Final),
        ("204 No Content", Kind::Final),
        ("408 Request Timeout", Kind::Temporary),
        ("429 Too Many Requests", Kind::Temporary),
        ("500 Oops", Kind::Temporary),
        ("503 Later", Kind::Temporary),
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
    for bytes in ["", "HTTP/1.1 200 OK\r\nContent-", "SSH-2.0-OpenSSH\r\n"] {
        let server = Server::fixed(bytes);
        match fetch(&server.url, &file) {
            Outcome::Failed { kind: Kind::Temporary, .. } => {}
            // Without a length, what has come is all there is.
            Outcome::Fetched { size: 0, .. } if bytes.starts_with("HTTP") => {}
            other => panic!("{bytes:?}: {other:?}"),
        }
    }
    failed(fetch("http://127.0.0.1:1/", &file), Kind::Temporary, 0, "Connection refused");
    failed(fetch("http://nowhere.invalid/", &file), Kind::Temporary, 0, "lookup");
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
        failed(fetch(&format!("{}{path}", server.url), &file), Kind::Final, 0, part);
    }
    assert_eq!(server.requests().iter().filter(|request| request.lines[0].contains("/round")).count(), 6);
}

#[test]
fn a_file_that_is_too_big_is_not_taken() {
    let scratch = Scratch::new("big");
    let said = Server::fixed("HTTP/1.1 200 OK\r\nContent-Length: 1048577\r\n\r\n");
    failed(fetch(&said.url, &scratch.file("a", b"")), Kind::TooBig, 0, "1048577 bytes, more than 1048576");
    let unsaid = Server::http(|_, _, stream| {
        send(stream, b"HTTP/1.1 200 OK\r\n\r\n");
        send(stream, &content(2 << 20));
    });
    let file = scratch.file("b", b"");
    match fetch(&unsaid.url, &file) {
        Outcome::Failed { kind: Kind::TooBig, .. } => {}
        other => panic!("{other:?}"),
    }
    assert!(fs::metadata(&file).expect("there").len() <= 1 << 20);
}

#[test]
fn chunks_are_joined_and_a_cut_among_them_is_noticed() {
    let scratch = Scratch::new("chunks");
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let whole = format!("{head}5\r\nhello\r\n6;x=y\r\n world\r\n0\r\n\r\n");
    let kept = Server::http(move |_, _, stream| {
        send(stream, whole.as_bytes());
        // The connection stays, as HTTP/1.1 has it, until the other side goes.
        let _ = std::io::Read::read(stream, &mut [0]);
    });
    assert_eq!(fetch(&kept.url, &scratch.file("a", b"")), fetched(b"hello world"));
    let closing = head.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
    let closed = Server::fixed(format!("{closing}5\r\nhello\r\n0\r\n\r\n"));
    assert_eq!(fetch(&closed.url, &scratch.file("b", b"")), fetched(b"hello"));
    for (number, cut) in ["5\r\nhello\r\n", "5\r\nhel", "5\r\nhello\r\n6"].iter().enumerate() {
        let server = Server::fixed(format!("{head}{cut}"));
        match fetch(&server.url, &scratch.file(&format!("c{number}"), b"")) {
            Outcome::Failed { kind: Kind::Temporary, .. } => {}
            other => panic!("{cut:?}: {other:?}"),
        }
    }
}

#[test]
fn a_password_is_sent_and_never_shown() {
    let scratch = Scratch::new("password");
    let server = Server::fixed(reply("401 No user:s3cret@x here", "", b""));
    let url = server.url.replace("http://", "http://user:s3cret%40x@");
    let reason = failed(fetch(&url, &scratch.file("a", b"")), Kind::Final, 0, "401");
    assert!(!reason.contains("s3cret"), "{reason}");
    assert_eq!(server.requests()[0].header("authorization"), Some("Basic dXNlcjpzM2NyZXRAeA=="));
}

#[test]
fn a_rate_is_kept() {
    let scratch = Scratch::new("rate");
    let bytes = content(300_000);
    let server = Server::fixed(reply("200 OK", "", &bytes));
    let started = Instant::now();
    let order = Order::Fetch { url: server.url.clone(), max_bytes: 1 << 20, rate: Some(200_000) };
    assert_eq!(perform(&order, &scratch.file("a", b"")), fetched(&bytes));
    let took = started.elapsed();
    assert!(took >= Duration::from_millis(1400), "{took:?}");
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[test]
fn files_are_copied() {
    let scratch = Scratch::new("file");
    let bytes = content(300_000);
    let source = scratch.file("a b", &bytes);
    let url = format!("file://{}", source.to_str().expect("ASCII").replace(' ', "%20"));
    assert_eq!(fetch(&url, &scratch.file("to", b"older part")), fetched(&bytes));
    let file = scratch.file("c", b"");
    failed(fetch("file:///no/such", &file), Kind::Final, 0, "No such file");
    failed(fetch("file:///etc", &file), Kind::Final, 0, "no regular file");
    failed(fetch("file:///dev/zero", &file), Kind::Final, 0, "no regular file");
    failed(fetch("file://other/etc/passwd", &file), Kind::Final, 0, "no host");
    failed(fetch("gopher://x/", &file), Kind::Final, 0, "gopher");
}

#[test]
fn a_full_disk_is_said() {
    let scratch = Scratch::new("full");
    let huge = Order::Fetch {
        url: Server::fixed("HTTP/1.1 200 OK\r\nContent-Length: 1152921504606846976\r\n\r\n").url,
        max_bytes: u64::MAX,
        rate: None,
    };
    failed(perform(&huge, &scratch.file("a", b"")), Kind::NoSpace, 0, "no space");
}
