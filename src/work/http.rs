//! The HTTP clients: minreq, which sends the POSTs and all that goes over TLS, and one of our own.
//!
//! A request goes in as a `Url` with headers, a `Reply` comes out: its status, its headers and, by `Read`, its body.
//! Our own client sends the GETs of downloads, which meet all kinds of servers, and the POSTs that minreq cannot do well:
//! to a name with several addresses, which minreq tries in its own order and time, and to a server of which it could not
//! read an answer.

mod library;
mod own;

use std::io::{self, Read};
use std::time::{Duration, Instant};

use crate::model::url::{Scheme, Url};
use crate::sys::alarm;
use crate::sys::file::read_up_to;
use crate::work::sink::Completeness;
use crate::work::{announce, connect, Failure, FailureKind, Result, NEXT_ADDRESS_SECS};

const LENGTH: &str = "content-length";

/// How a server is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Route {
    /// The proxy for `http`, `host:port`; it gets the whole URL.
    pub proxy: Option<String>,
    /// By how many places the addresses of a name are moved on.
    pub turn: u64,
    /// The address that then comes first, where the name still has it, as `connect::number` has it.
    pub first: Option<u64>,
    /// The addresses that come last, in this order.
    pub failed: Vec<u64>,
    /// A POST is sent by the client of our own also where minreq could.
    pub own_client: bool,
}

/// Sends `body` as JSON, and reads the head of the reply.
///
/// # Errors
/// When there is no connection, or no reply that can be used.
pub fn post(url: &Url, headers: &[(String, String)], body: Vec<u8>, route: &Route) -> Result<Reply> {
    let mut all = vec![("Accept-Encoding", "identity"), ("Content-Type", "application/json")];
    all.extend(headers.iter().map(|(name, value)| (&**name, &**value)));
    if is_tls(url) {
        return library::post_tls(url, &all, body);
    }
    let began = Instant::now();
    let addresses = connect::addresses(url, route)?;
    // minreq looks the name up once more; there may be no time for that.
    let is_quick = began.elapsed() < Duration::from_secs(NEXT_ADDRESS_SECS.into());
    if addresses.len() == 1 && is_quick && !route.own_client {
        return library::post(url, &all, body);
    }
    let stream = connect::connect(url, &addresses)?;
    if let Ok(address) = stream.peer_addr() {
        announce(connect::number(&address));
    }
    own::send("POST", url, &all, &body, stream, false)
}

/// Asks for what follows the first `from` bytes, and reads the head of the reply.
///
/// # Errors
/// When there is no connection, or no reply that can be used.
pub fn get(url: &Url, from: u64, route: &Route) -> Result<Reply> {
    let (range, authorization) = (format!("bytes={from}-"), authorization(url));
    let mut headers = vec![("Accept-Encoding", "identity")];
    if from > 0 {
        headers.push(("Range", &range));
    }
    headers.extend(authorization.as_ref().map(|value| ("Authorization", &**value)));
    if is_tls(url) {
        return library::get_tls(url, &headers);
    }
    let proxy = route.proxy.as_ref().map(|proxy| Url::parse(&format!("http://{proxy}"))).transpose();
    let proxy = proxy.map_err(|why| Failure::new(FailureKind::Final, format!("proxy: {why}")))?;
    let next_hop = proxy.as_ref().unwrap_or(url);
    let addresses = connect::addresses(next_hop, route)?;
    let stream = connect::connect(next_hop, &addresses)?;
    own::send("GET", url, &headers, &[], stream, proxy.is_some())
}

/// Whether the library has to speak TLS. Without the feature `Url::parse` has refused such a URL.
fn is_tls(url: &Url) -> bool {
    cfg!(feature = "tls") && url.scheme == Scheme::Https
}

/// The value of the header with the user and password of a URL. A proxy has none: `wire::config` refuses one with a user.
fn authorization(url: &Url) -> Option<String> {
    let pair = [url.user.as_ref()?, &b":"[..], url.password.as_deref().unwrap_or_default()].concat();
    Some(format!("Basic {}", base64(&pair)))
}

/// A reply whose head was read; `Read` gives the body.
pub struct Reply {
    /// One with less than three digits is of a line that was cut short.
    pub status: u16,
    /// What the status line says behind the status.
    pub phrase: String,
    /// Names are in lower case, and neither names nor values have white space around them.
    headers: Vec<(String, String)>,
    body: Body,
}

/// Where the body of a reply comes from.
enum Body {
    /// minreq.
    Library(minreq::ResponseLazy),
    /// The client of our own.
    Own(own::Body),
    /// Its head is being read.
    None,
}

impl Reply {
    /// The reply, unless nobody knows where its body ends, as with two lengths (RFC 9110, 8.6).
    fn checked(self) -> Result<Reply> {
        let length = self.header(LENGTH);
        if self.headers.iter().any(|(name, value)| name == LENGTH && Some(&**value) != length) {
            return Err(Failure::new(FailureKind::Temporary, "the reply has more than one Content-Length"));
        }
        Ok(self)
    }

    /// The value of the first header of this lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| &**value)
    }

    /// `Retry-After` in seconds; a date in it is not read.
    pub fn retry_after(&self) -> Option<u64> {
        self.header("retry-after").and_then(number)
    }

    /// How the body is compressed, though the request wants it as it is.
    pub fn encoding(&self) -> Option<&str> {
        self.header("content-encoding").filter(|value| !value.is_empty() && !value.eq_ignore_ascii_case("identity"))
    }

    /// How long the body will be, bytes, where the reply says so in a way that counts (RFC 9112, 6.3).
    pub fn content_length(&self) -> Option<u64> {
        match self.status {
            204 | 304 => Some(0),
            _ if self.is_chunked() => None,
            _ => self.header(LENGTH).and_then(number),
        }
    }

    /// Whether the body comes in chunks.
    fn is_chunked(&self) -> bool {
        self.has("transfer-encoding", "chunked")
    }

    fn has(&self, name: &str, value: &str) -> bool {
        self.header(name).is_some_and(|known| known.eq_ignore_ascii_case(value))
    }

    /// What is known of a body that has been read to its end; `total` is the size of the file, where the reply gave one.
    pub fn completeness(&self, total: Option<u64>) -> Completeness {
        match &self.body {
            _ if total.is_some() => Completeness::Counted,
            _ if !self.is_chunked() => Completeness::Uncounted,
            Body::Own(body) if body.has_last_chunk() => Completeness::Counted,
            // minreq does not say whether it has seen the last chunk. Behind it some servers close as they have
            // announced, some without a word.
            Body::Library(_) if !alarm::is_closed() => Completeness::Counted,
            Body::Library(_) if self.has("connection", "close") => Completeness::Uncounted,
            _ => Completeness::Unended,
        }
    }

    /// The first two bytes of the body, or fewer where it has not more. A server that closes the connection in the
    /// middle of the head is found out here.
    ///
    /// # Errors
    /// When the connection fails, or ends before the first byte of a body that is not known to be empty.
    pub fn first_bytes(&mut self, length: Option<u64>) -> Result<io::Cursor<Vec<u8>>> {
        let mut begin = Vec::new();
        let read = read_up_to(2, &mut begin, &mut |to| self.read(to));
        read.map_err(|error| Failure::temporary("the transfer broke off before its first byte", &error))?;
        if begin.is_empty() && length != Some(0) {
            let reason = "the server closed the connection before the first byte";
            return Err(Failure::new(FailureKind::Temporary, reason));
        }
        Ok(io::Cursor::new(begin))
    }
}

impl Read for Reply {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.body {
            Body::Library(body) => body.read(buffer),
            Body::Own(body) => body.read(buffer),
            Body::None => Ok(0),
        }
    }
}

/// A number of digits alone: the standard library would also take a plus sign.
fn number(text: &str) -> Option<u64> {
    text.parse().ok().filter(|_| !text.starts_with('+'))
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
