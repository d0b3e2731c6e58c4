//! Exchanges with a control server.

use std::path::Path;

use bootagent::work::{FailureKind, HelperRequest, HelperResponse, Route};

use crate::server::{reply, send, Server};
use crate::{failed, perform};

/// An exchange by the HTTP library, or by the client of our own.
fn exchange_by(own_client: bool, url: &str) -> HelperResponse {
    let order = HelperRequest::Exchange {
        url: format!("{url}/agent/status"),
        headers: vec![("X-BootAgent-Sn".into(), "1234".into())],
        body: b"{\"hostname\":\"a\"}".to_vec(),
        max_body: 1 << 20,
        route: Route { own_client, ..Route::default() },
    };
    perform(&order, Path::new("/dev/null"))
}

fn exchange(url: &str) -> HelperResponse {
    exchange_by(false, url)
}

#[test]
fn a_reply_comes_back_whatever_its_status() {
    for (status, headers, retry_after, signature) in [
        ("200 OK", "X-BootAgent-Signature: abc\r\n", None, Some("abc".to_string())),
        ("429 Slow Down", "Retry-After: 17\r\n", Some(17), None),
        ("503 Later", "retry-after:Wed, 21 Oct 2015 07:28:00 GMT\r\n", None, None),
        ("302 Found", "Location: http://127.0.0.1:1/\r\n", None, None),
    ] {
        for own_client in [false, true] {
            let server = Server::fixed(reply(status, headers, b"{}"));
            let address = server.url.trim_start_matches("http://").to_string();
            let want = HelperResponse::Exchanged {
                status: status[..3].parse().expect("a number"),
                retry_after,
                signature: signature.clone(),
                body: b"{}".to_vec(),
            };
            assert_eq!(exchange_by(own_client, &server.url), want);
            let requests = server.requests();
            assert_eq!(requests.len(), 1);
            assert_eq!(requests[0].lines[0], "POST /agent/status HTTP/1.1");
            assert_eq!(requests[0].header("host"), Some(&*address));
            assert_eq!(requests[0].header("connection"), Some("close"));
            assert_eq!(requests[0].header("content-type"), Some("application/json"));
            assert_eq!(requests[0].header("accept-encoding"), Some("identity"));
            assert_eq!(requests[0].header("content-length"), Some("16"));
            assert_eq!(requests[0].header("x-bootagent-sn"), Some("1234"));
            assert_eq!(requests[0].body, b"{\"hostname\":\"a\"}");
        }
    }
}

/// What the HTTP library cannot read the client of our own can, but for a head that never ends.
#[test]
fn an_unreadable_reply_is_one_for_the_other_client() {
    let long = format!("HTTP/1.1 200 OK\r\n{}Content-Length: 2\r\n\r\n{{}}", "X-A: b\r\n".repeat(2000));
    let endless = format!("HTTP/1.1 200 OK\r\n{}", "X-A: b\r\n".repeat(10_000));
    for (reply, part, is_good) in [
        (&b"HTTP/1.1 200 OK\r\nX-By: caf\xe9\r\nContent-Length: 2\r\n\r\n{}"[..], "not UTF-8", true),
        (b"HTTP/1.1 200 D'accord, bien s\xfbr\r\nContent-Length: 2\r\n\r\n{}", "not UTF-8", true),
        (long.as_bytes(), "over 8 KiB", true),
        (endless.as_bytes(), "over 8 KiB", false),
        (
            b"HTTP/1.1 200 OK\r\nX-By: a,\r\n Content-Length: 5\r\nContent-Length: 2\r\n\r\n{}",
            "a header in several lines",
            true,
        ),
        (
            b"HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
            "behind an interim one",
            true,
        ),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", "behind an interim one", true),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=caf\xe9\r\n{}\r\n0\r\n\r\n",
            "broke off after 0 bytes",
            true,
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX-By: caf\xe9\r\n\r\n",
            "broke off after 2 bytes",
            true,
        ),
    ] {
        let server = Server::fixed(reply);
        failed(exchange(&server.url), FailureKind::Unreadable, 0, part);
        match exchange_by(true, &server.url) {
            HelperResponse::Exchanged { status: 200, body, .. } if is_good => assert_eq!(body, b"{}", "{part}"),
            other if is_good => panic!("{part}: {other:?}"),
            other => drop(failed(other, FailureKind::Temporary, 0, "over 64 KiB")),
        }
    }
}

#[test]
fn a_reply_may_come_in_chunks_or_without_a_length() {
    for reply in [
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n",
        "HTTP/1.0 200 OK\r\n\r\n{}",
        "HTTP/1.1 200 OK\nContent-Length: 2\n\n{}",
    ] {
        for own_client in [false, true] {
            match exchange_by(own_client, &Server::fixed(reply).url) {
                HelperResponse::Exchanged { status: 200, body, .. } => assert_eq!(body, b"{}"),
                other => panic!("{reply:?}: {other:?}"),
            }
        }
    }
}

#[test]
fn a_reply_is_complete_though_the_connection_stays() {
    for (reply, status) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", 200),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", 200),
        ("HTTP/1.1 204 No Content\r\n\r\n", 204),
        ("HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\n", 304),
    ] {
        for own_client in [false, true] {
            // minreq reads a body where there can be none.
            if status != 200 && !own_client {
                continue;
            }
            let server = Server::http(move |_, _, stream| {
                send(stream, reply.as_bytes());
                while matches!(std::io::Read::read(stream, &mut [0; 64]), Ok(1..)) {}
            });
            match exchange_by(own_client, &server.url) {
                HelperResponse::Exchanged { status: got, .. } => assert_eq!(got, status, "{reply}"),
                other => panic!("{reply}: {other:?}"),
            }
        }
    }
}

#[test]
fn numbers_have_no_sign() {
    for (reply, part) in [
        ("HTTP/1.1 +20 OK\r\nContent-Length: 2\r\n\r\n{}", "not HTTP"),
        ("HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\n{}", "Content-Length"),
    ] {
        failed(exchange_by(true, &Server::fixed(reply).url), FailureKind::Temporary, 0, part);
    }
}

#[test]
fn a_reply_that_is_no_reply_fails() {
    for (reply, kind, part) in [
        (
            &b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}"[..],
            FailureKind::Temporary,
            "ended after 2 of 100 bytes",
        ),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5000000\r\n\r\n{}", FailureKind::TooBig, "5000000 bytes"),
        (b"", FailureKind::Temporary, "closed the connection"),
        (b"hello\r\n", FailureKind::Temporary, "not HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n{}", FailureKind::Temporary, "Content-Length"),
    ] {
        for own_client in [false, true] {
            failed(exchange_by(own_client, &Server::fixed(reply).url), kind, 0, part);
        }
    }
    let endless = Server::http(|_, _, stream| {
        send(stream, b"HTTP/1.1 200 OK\r\n\r\n");
        send(stream, &vec![b' '; 5 << 20]);
    });
    for own_client in [false, true] {
        failed(exchange_by(own_client, &endless.url), FailureKind::TooBig, 0, "more than 1M");
    }
    failed(exchange("http://127.0.0.1:1"), FailureKind::Temporary, 0, "Connection refused");
    failed(exchange("http://[::1]:80"), FailureKind::Final, 0, "want a host name");
    #[cfg(not(feature = "tls"))]
    failed(exchange("https://127.0.0.1"), FailureKind::Final, 0, "without https");
}
