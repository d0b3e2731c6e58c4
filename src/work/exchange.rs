//! One exchange with a server: an HTTP POST and its whole reply, within a deadline and a size.
//!
//! Also what any use of minreq needs: its errors in our words, and the headers of a reply. minreq gets no timeout, as it
//! would start a thread for it; the process has an alarm instead.

use std::io::{ErrorKind, Read};

use crate::sys::alarm;
use crate::sys::file::read_up_to;
use crate::work::url::{Scheme, Url};
use crate::work::{
    cause, FailureKind, HelperError, HelperResponse, CONNECT_SECS, EXCHANGE_SECS, EXIT_NO_CONNECTION, EXIT_NO_REPLY,
};

/// The longest head behind an interim reply, bytes.
const HEAD_MAX: usize = 8 << 10;

const LENGTH: &str = "content-length";

/// Sends `body` and reads the reply, whatever its status; a redirect is a reply like any other.
pub fn exchange(
    url: &str,
    headers: &[(String, String)],
    body: Vec<u8>,
    max_body: u64,
) -> Result<HelperResponse, Box<HelperError>> {
    alarm::end_after(CONNECT_SECS, EXCHANGE_SECS, [EXIT_NO_CONNECTION, EXIT_NO_REPLY])
        .map_err(|error| HelperError::temporary("cannot set the alarm", &error))?;
    let address = Url::parse(url)
        .and_then(|url| match url.scheme {
            Scheme::Http | Scheme::Https => url.for_http(),
            Scheme::Ftp | Scheme::File => Err("a server's url is http or https".into()),
        })
        .map_err(|reason| HelperError::new(FailureKind::Final, reason))?;
    let mut request = minreq::post(address)
        .with_follow_redirects(false)
        .with_header("Connection", "close")
        .with_header("Content-Type", "application/json")
        .with_body(body);
    for (name, value) in headers {
        request = request.with_header(name, value);
    }
    let mut reply = send(request)?;
    let length = content_length(&reply);
    if let Some(length) = length.filter(|length| *length > max_body) {
        return Err(HelperError::new(
            FailureKind::TooBig,
            format_error!("the reply has {length} bytes, more than {max_body}"),
        ));
    }
    let mut body = Vec::new();
    let taken = read_up_to(max_body.saturating_add(1), &mut body, &mut |to| reply.read(to));
    taken
        .map_err(|error| HelperError::temporary(&format!("the reply broke off after {} bytes", body.len()), &error))?;
    let size = body.len() as u64;
    if size > max_body {
        return Err(HelperError::new(FailureKind::TooBig, format_error!("the reply has more than {max_body} bytes")));
    }
    if let Some(length) = length.filter(|length| *length > size) {
        return Err(HelperError::new(
            FailureKind::Temporary,
            format_error!("the reply ended after {size} of {length} bytes"),
        ));
    }
    Ok(HelperResponse::Exchanged {
        status: reply.status_code as u16,
        retry_after: header(&reply, "retry-after").and_then(|value| value.parse().ok()),
        signature: header(&reply, "x-bootagent-signature").map(String::from),
        body,
    })
}

/// Sends the request and reads the head of the reply.
pub fn send(request: minreq::Request) -> Result<minreq::ResponseLazy, Box<HelperError>> {
    let mut reply = request.send_lazy().map_err(|error| explained(&error))?;
    // minreq takes an interim reply (RFC 9110, 15.2) for the final one, which is what follows.
    while matches!(reply.status_code, 100 | 102..=199) {
        next_head(&mut reply)?;
    }
    // What minreq makes of a connection closed without a word, and of anything that is not HTTP.
    if reply.status_code == 503 && reply.reason_phrase == "Server did not provide a status line" {
        return Err(HelperError::new(
            FailureKind::Temporary,
            "the server closed the connection or answered something that is not HTTP",
        ));
    }
    // Where two lengths are told, the end of the reply is anybody's guess (RFC 9110, 8.6).
    let length = header(&reply, LENGTH);
    if reply.headers.iter().any(|(name, value)| name.trim() == LENGTH && Some(value.trim()) != length) {
        return Err(HelperError::new(FailureKind::Temporary, "the reply has more than one Content-Length"));
    }
    Ok(reply)
}

/// Reads another head, from where minreq sees a body that ends with the connection.
fn next_head(reply: &mut minreq::ResponseLazy) -> Result<(), Box<HelperError>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let read = read_up_to(1, &mut head, &mut |to| reply.read(to));
        if read.map_err(|error| HelperError::new(FailureKind::Temporary, cause(&error)))? == 0 || head.len() > HEAD_MAX
        {
            return Err(HelperError::new(
                FailureKind::Temporary,
                "there is nothing behind an interim reply that could be a reply",
            ));
        }
    }
    let text = String::from_utf8_lossy(&head);
    let mut lines = text.split('\n').map(str::trim_end);
    let mut words = lines.next().unwrap_or_default().splitn(3, ' ').skip(1);
    reply.status_code = words.next().and_then(|status| status.parse().ok()).unwrap_or(0);
    reply.reason_phrase = words.next().unwrap_or_default().into();
    reply.headers.clear();
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        reply.headers.extend([(name.to_ascii_lowercase(), value.trim().into())]);
    }
    match is_chunked(reply) {
        true => Err(HelperError::new(FailureKind::Temporary, "chunks behind an interim reply cannot be read")),
        false => Ok(()),
    }
}

/// The value of the first header of this lower-case name.
pub fn header<'a>(reply: &'a minreq::ResponseLazy, name: &str) -> Option<&'a str> {
    reply.headers.iter().find(|(known, _)| known.trim() == name).map(|(_, value)| value.trim())
}

/// How long the body will be, where the reply says so in a way that counts (RFC 9112, 6.3).
pub fn content_length(reply: &minreq::ResponseLazy) -> Option<u64> {
    if is_chunked(reply) {
        return None;
    }
    header(reply, LENGTH).and_then(|value| value.parse().ok())
}

/// Whether the body comes in chunks.
pub fn is_chunked(reply: &minreq::ResponseLazy) -> bool {
    header(reply, "transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked"))
}

/// minreq's error in our words.
fn explained(error: &minreq::Error) -> Box<HelperError> {
    use minreq::Error;
    match error {
        Error::IoError(error) if error.kind() == ErrorKind::UnexpectedEof => {
            HelperError::new(FailureKind::Temporary, "the server closed the connection")
        }
        Error::IoError(error) => HelperError::new(FailureKind::Temporary, cause(error)),
        Error::HttpsFeatureNotEnabled => HelperError::new(FailureKind::Final, "this binary is built without https"),
        Error::PunycodeFeatureNotEnabled | Error::PunycodeConversionFailed => {
            HelperError::new(FailureKind::Final, "the host's name is not ASCII; write it in its xn-- form")
        }
        Error::HeadersOverflow | Error::StatusLineOverflow => {
            HelperError::new(FailureKind::Temporary, "the head of the reply is over 8 KiB")
        }
        Error::MalformedContentLength => {
            HelperError::new(FailureKind::Temporary, "the reply's Content-Length is no number, or too large")
        }
        other => HelperError::new(FailureKind::Temporary, other.to_string()),
    }
}
