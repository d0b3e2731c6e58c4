//! The HTTP client: minreq, and everything that has to be worked around in it.
//!
//! A request goes in as a `Url` with headers, a `Reply` comes out: its status, its headers and, by `Read`, its body.
//! Nothing outside of this file names minreq. It is used because it is small; what follows from that is handled here:
//!
//! - A timeout of minreq's starts a thread. It gets none: SIGALRM is the timeout of this process, and where connecting and
//!   replying have times of their own, `sys::alarm` has a handler that finds out which of the two is over.
//! - It takes an interim reply (1xx) for the final one, so the head behind it is read here.
//! - It answers a connection closed without a word with a 503 of its own, known by its phrase only.
//! - It takes the end of the connection for the end of a head and for the end of the chunks, and of two lengths the first.
//! - Its errors are written for programmers.

use std::io::{self, ErrorKind, Read};

use crate::model::url::Url;
use crate::sys::alarm;
use crate::sys::file::read_up_to;
use crate::work::{cause, FailureKind, HelperError};

/// The longest head behind an interim reply, bytes.
const HEAD_MAX: usize = 8 << 10;

/// The phrase of the 503 that minreq makes up when it reads no status line.
const NO_STATUS_LINE: &str = "Server did not provide a status line";

const LENGTH: &str = "content-length";

/// How long an exchange may take, s, and the exit statuses of a process that was not done by then.
pub struct Times {
    /// For the connection, name resolution included.
    pub connect: u32,
    /// For everything.
    pub total: u32,
    /// When there was no connection in time.
    pub no_connection: i32,
    /// When there was no whole reply in time.
    pub no_reply: i32,
}

/// Ends this process unless it ends by itself within these times.
///
/// # Errors
/// When the kernel refuses the handler of the signal.
pub fn set_times(times: &Times) -> Result<(), Box<HelperError>> {
    alarm::end_after(times.connect, times.total, [times.no_connection, times.no_reply])
        .map_err(|error| HelperError::temporary("cannot set the alarm", &error))
}

/// Sends `body` as JSON, and reads the head of the reply.
///
/// # Errors
/// When there is no connection, or no reply that can be used.
pub fn post(url: &Url, headers: &[(String, String)], body: Vec<u8>) -> Result<Reply, Box<HelperError>> {
    let mut request = minreq::post(url.for_http())
        .with_header("Connection", "close")
        .with_header("Content-Type", "application/json")
        .with_body(body);
    for (name, value) in headers {
        request = request.with_header(name, value);
    }
    send(request)
}

/// Asks for what follows the first `from` bytes, and reads the head of the reply.
///
/// # Errors
/// When there is no connection, or no reply that can be used.
pub fn get(url: &Url, from: u64) -> Result<Reply, Box<HelperError>> {
    let mut request = minreq::get(url.for_http()).with_header("Accept-Encoding", "identity");
    if from > 0 {
        request = request.with_header("Range", format!("bytes={from}-"));
    }
    if let Some(user) = &url.user {
        let pair = format!("{user}:{}", url.password.as_deref().unwrap_or_default());
        request = request.with_header("Authorization", format!("Basic {}", base64(pair.as_bytes())));
    }
    send(request)
}

/// Redirects are replies like any other: minreq would follow them to anywhere.
fn send(request: minreq::Request) -> Result<Reply, Box<HelperError>> {
    let response = request.with_follow_redirects(false).send_lazy().map_err(|error| explained(&error))?;
    let mut reply = Reply(response);
    while matches!(reply.status(), 100 | 102..=199) {
        reply.read_next_head()?;
    }
    if reply.status() == 503 && reply.0.reason_phrase == NO_STATUS_LINE {
        let reason = "the server closed the connection or answered something that is not HTTP";
        return Err(HelperError::new(FailureKind::Temporary, reason));
    }
    // With two lengths, nobody knows where the body ends (RFC 9110, 8.6).
    let length = reply.header(LENGTH);
    if reply.0.headers.iter().any(|(name, value)| name.trim() == LENGTH && Some(value.trim()) != length) {
        return Err(HelperError::new(FailureKind::Temporary, "the reply has more than one Content-Length"));
    }
    Ok(reply)
}

/// A reply whose head was read; `Read` gives the body.
pub struct Reply(minreq::ResponseLazy);

impl Reply {
    /// The status; one with less than three digits is of a line that was cut short.
    pub fn status(&self) -> u16 {
        self.0.status_code
    }

    /// What the status line says behind the status.
    pub fn phrase(&self) -> &str {
        self.0.reason_phrase.trim()
    }

    /// The value of the first header of this lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.0.headers.iter().find(|(known, _)| known.trim() == name).map(|(_, value)| value.trim())
    }

    /// `Retry-After` in seconds; a date in it is not read.
    pub fn retry_after(&self) -> Option<u64> {
        self.header("retry-after").and_then(|value| value.parse().ok())
    }

    /// How long the body will be, bytes, where the reply says so in a way that counts (RFC 9112, 6.3).
    pub fn content_length(&self) -> Option<u64> {
        if self.is_chunked() {
            return None;
        }
        self.header(LENGTH).and_then(|value| value.parse().ok())
    }

    /// Whether the body comes in chunks.
    fn is_chunked(&self) -> bool {
        self.has("transfer-encoding", "chunked")
    }

    fn has(&self, name: &str, value: &str) -> bool {
        self.header(name).is_some_and(|known| known.eq_ignore_ascii_case(value))
    }

    /// Where a body that has been read to its end did end.
    pub fn end(&self) -> BodyEnd {
        match self.is_chunked() {
            true if !alarm::is_closed() => BodyEnd::LastChunk,
            // Some servers close behind the last chunk without a word; others were cut off.
            true if !self.has("connection", "close") => BodyEnd::Unannounced,
            _ => BodyEnd::Closed,
        }
    }

    /// The first byte of the body, or none where it is empty as `length` says. A server that closes the connection in the
    /// middle of the head is found out here.
    ///
    /// # Errors
    /// When the connection fails, or ends before the first byte of a body that is not known to be empty.
    pub fn first_byte(&mut self, length: Option<u64>) -> Result<io::Cursor<Vec<u8>>, Box<HelperError>> {
        let mut byte = Vec::new();
        let read = read_up_to(1, &mut byte, &mut |to| self.0.read(to));
        read.map_err(|error| HelperError::temporary("the transfer broke off before its first byte", &error))?;
        if byte.is_empty() && length != Some(0) {
            let reason = "the server closed the connection before the first byte";
            return Err(HelperError::new(FailureKind::Temporary, reason));
        }
        Ok(io::Cursor::new(byte))
    }

    /// Reads another head, from what minreq takes for the body of an interim reply.
    fn read_next_head(&mut self) -> Result<(), Box<HelperError>> {
        let reply = &mut self.0;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let read = read_up_to(1, &mut head, &mut |to| reply.read(to));
            let count = read.map_err(|error| HelperError::new(FailureKind::Temporary, cause(&error)))?;
            if count == 0 || head.len() > HEAD_MAX {
                let reason = "there is nothing behind an interim reply that could be a reply";
                return Err(HelperError::new(FailureKind::Temporary, reason));
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
        match self.is_chunked() {
            true => Err(HelperError::new(FailureKind::Temporary, "chunks behind an interim reply cannot be read")),
            false => Ok(()),
        }
    }
}

impl Read for Reply {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

/// Where a body ended that has no length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyEnd {
    /// With its last chunk.
    LastChunk,
    /// With the connection, as announced.
    Closed,
    /// With the connection, before or right behind the last chunk.
    Unannounced,
}

/// minreq's error in words for an operator.
fn explained(error: &minreq::Error) -> Box<HelperError> {
    use minreq::Error;
    let (kind, reason) = match error {
        Error::IoError(error) if error.kind() == ErrorKind::UnexpectedEof => {
            (FailureKind::Temporary, "the server closed the connection".to_string())
        }
        Error::IoError(error) => (FailureKind::Temporary, cause(error)),
        Error::HeadersOverflow | Error::StatusLineOverflow => {
            (FailureKind::Temporary, "the head of the reply is over 8 KiB".to_string())
        }
        Error::MalformedContentLength => {
            (FailureKind::Temporary, "the reply's Content-Length is no number, or too large".to_string())
        }
        other => (FailureKind::Temporary, other.to_string()),
    };
    HelperError::new(kind, reason)
}

/// Standard base64 with padding (RFC 4648).
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for group in bytes.chunks(3) {
        let mut word = [0; 3];
        word[..group.len()].copy_from_slice(group);
        let word = u32::from_be_bytes([0, word[0], word[1], word[2]]);
        for place in 0..4 {
            let digit = DIGITS[(word >> (18 - 6 * place)) as usize & 63];
            out.push(if place > group.len() { '=' } else { char::from(digit) });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_as_rfc_4648_has_it() {
        for (text, want) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")] {
            assert_eq!(base64(text.as_bytes()), want);
        }
    }
}
