//! Downloads over HTTP.

use std::fs;
use std::time::Duration;

use bootagent::work::{decode_response, take_announced, Failure, FailureKind, HelperRequest, HelperResponse, Route};
use sha2::{Digest, Sha256};

use crate::server::{reply, send, Server};
use crate::{content, failed, fetch, fetch_known, fetched, keeps, perform, performed, uncounted, Scratch};

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
        HelperResponse::Failed(Failure { kind: FailureKind::TooBig, .. }) => {}
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
    // It closes behind them, announced or not.
    let closing = head.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
    for (number, head) in [head, &closing].into_iter().enumerate() {
        let closed = Server::fixed(format!("{head}5\r\nhello\r\n0\r\n\r\n"));
        let outcome = fetch(&closed.url, &scratch.file(&format!("b{number}"), b""));
        assert_eq!(outcome, fetched(b"hello"));
    }
    // Cut within a chunk, between two, and within a length, which "Connection: close" does not make an end.
    for (number, cut) in ["5\r\nhello\r\n", "5\r\nhello", "5\r\nhello\r\n6"].iter().enumerate() {
        for (head, name) in [(head, "c"), (&closing, "d")] {
            let server = Server::fixed(format!("{head}{cut}"));
            let file = scratch.file(&format!("{name}{number}"), b"");
            failed(fetch(&server.url, &file), FailureKind::Temporary, 5, "after 5 bytes, without its last chunk");
            // A file that is the right one has no more to come.
            let file = scratch.file(&format!("{name}{number}-whole"), b"");
            let digest = Sha256::digest(b"hello").into();
            assert_eq!(fetch_known(&server.url, digest, &file), uncounted(b"hello"), "{cut:?}");
        }
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
        route: Route { proxy: server.url.strip_prefix("http://").map(String::from), ..Route::default() },
        digest: [0; 32],
    };
    assert_eq!(perform(&order, &scratch.file("a", b"")), fetched(&bytes));
    let request = &server.requests()[0];
    assert_eq!(request.lines[0], "GET http://nowhere.invalid:81/a%20b?c HTTP/1.1");
    assert_eq!(request.header("host"), Some("nowhere.invalid:81"));
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
    assert_eq!((take_announced(&mut told), take_announced(&mut told)), (Some(1000), None));
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
            HelperResponse::Failed(Failure { kind: FailureKind::Temporary, retry_after, .. }) => {
                assert_eq!(retry_after, want, "{header}")
            }
            other => panic!("{other:?}"),
        }
    }
}
