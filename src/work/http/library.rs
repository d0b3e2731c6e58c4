//! The HTTP client of minreq, and everything that has to be worked around in it.
//!
//! Nothing outside of this file names minreq, but for the type of a body. It is used because it is small; what follows from
//! that is handled here:
//!
//! - A timeout of minreq's starts a thread. It gets none: SIGALRM is the timeout of this process, and where connecting and
//!   replying have times of their own, `sys::alarm` has a handler that finds out which of the two is over, and that gives up
//!   an address which does not answer over TLS, so that minreq tries the next one.
//! - It reads a head of up to 8 KiB of UTF-8 only. Any other one is unreadable, and the server is asked again by the client
//!   of our own; over TLS the exchange has failed.
//! - It takes an interim reply (1xx) for the final one, and a line that continues a header for one of its own; that makes
//!   the reply unreadable too.
//! - It answers a connection closed without a word with a 503 of its own, known by its phrase only.
//! - It takes the end of the connection for the end of a head and for the end of the chunks, and of two lengths the first.
//! - Its errors are written for programmers.

use std::io::ErrorKind;
use std::net::ToSocketAddrs;

use super::{Body, Reply};
use crate::model::url::Url;
use crate::sys::alarm;
use crate::work::{cause, Failure, FailureKind, Result, NEXT_ADDRESS_SECS};

/// The phrase of the 503 that minreq makes up when it reads no status line.
const NO_STATUS_LINE: &str = "Server did not provide a status line";

/// Sends `body` with these headers, and reads the head of the reply.
///
/// # Errors
/// When there is no connection, or no reply that can be used.
pub fn post(url: &Url, headers: &[(&str, &str)], body: Vec<u8>) -> Result<Reply> {
    send(minreq::post(url.for_http()).with_header("Connection", "close").with_body(body), headers)
}

/// Sends `body` with these headers over TLS, and reads the head of the reply. An address that does not answer is given up for
/// the next one in time.
///
/// # Errors
/// When there is no connection, or no reply that can be used.
pub fn post_tls(url: &Url, headers: &[(&str, &str)], body: Vec<u8>) -> Result<Reply> {
    // minreq looks the name up again, and goes through its addresses.
    let addresses = (url.host.as_str(), url.effective_port()).to_socket_addrs();
    let addresses = addresses.map_err(|error| Failure::new(FailureKind::Temporary, cause(&error)))?;
    alarm::set_addresses(addresses.count() as u32, NEXT_ADDRESS_SECS);
    post(url, headers, body).map_err(|mut failure| {
        // There is no other client that speaks TLS.
        failure.kind = FailureKind::Temporary;
        failure
    })
}

/// Asks for `url` over TLS with these headers, and reads the head of the reply.
///
/// # Errors
/// When there is no connection, or no reply that can be used.
pub fn get_tls(url: &Url, headers: &[(&str, &str)]) -> Result<Reply> {
    send(minreq::get(url.for_http()), headers)
}

/// Redirects are replies like any other: minreq would follow them to anywhere.
fn send(mut request: minreq::Request, headers: &[(&str, &str)]) -> Result<Reply> {
    for (name, value) in headers {
        request = request.with_header(*name, *value);
    }
    let mut response = request.with_follow_redirects(false).send_lazy().map_err(|error| explained(&error))?;
    if matches!(response.status_code, 100 | 102..=199) {
        let reason = "the reply comes behind an interim one (1xx), which cannot be read";
        return Err(Failure::new(FailureKind::Unreadable, reason));
    }
    if response.headers.iter().any(|(name, _)| name.starts_with([' ', '\t'])) {
        let reason = "the reply has a header in several lines, which cannot be read";
        return Err(Failure::new(FailureKind::Unreadable, reason));
    }
    if response.status_code == 503 && response.reason_phrase == NO_STATUS_LINE {
        let reason = "the server closed the connection or answered something that is not HTTP";
        return Err(Failure::new(FailureKind::Temporary, reason));
    }
    let mut headers = std::mem::take(&mut response.headers);
    for (name, value) in &mut headers {
        (*name, *value) = (name.trim().to_string(), value.trim().to_string());
    }
    let phrase = response.reason_phrase.trim().to_string();
    Reply { status: response.status_code, phrase, headers, body: Body::Library(response) }.checked()
}

/// minreq's error in words for an operator.
fn explained(error: &minreq::Error) -> Box<Failure> {
    use minreq::Error;
    let reason = match error {
        Error::IoError(error) if error.kind() == ErrorKind::UnexpectedEof => "the server closed the connection".into(),
        Error::IoError(error) => cause(error),
        Error::HeadersOverflow | Error::StatusLineOverflow => "the head of the reply is over 8 KiB".into(),
        Error::InvalidUtf8InResponse => "the head of the reply has bytes that are not UTF-8".into(),
        Error::MalformedContentLength => "the reply's Content-Length is no number, or too large".into(),
        other => other.to_string(),
    };
    let kind = match error {
        Error::HeadersOverflow | Error::StatusLineOverflow | Error::InvalidUtf8InResponse => FailureKind::Unreadable,
        _ => FailureKind::Temporary,
    };
    Failure::new(kind, reason)
}
