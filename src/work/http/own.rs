//! The HTTP client of our own, over plain TCP. It takes replies as servers send them: any bytes in headers and reason
//! phrases, long heads, interim replies, and bodies with a length, in chunks, or up to the end of the connection.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;

use super::Reply;
use crate::model::url::Url;
use crate::work::{cause, Failure, FailureKind, Result};

/// The longest head, bytes.
const HEAD_MAX: u64 = 64 << 10;
/// The longest line with the length of a chunk, bytes.
const CHUNK_LINE_MAX: u64 = 1 << 10;

/// Sends a request for `url` with these headers and this body over `stream`, which blocks, and reads the head of the reply. A
/// proxy is sent the whole URL.
///
/// # Errors
/// When there is no connection, or no reply that can be used.
pub fn send(
    method: &str,
    url: &Url,
    headers: &[(&str, &str)],
    body: &[u8],
    stream: TcpStream,
    is_proxy: bool,
) -> Result<Reply> {
    let whole = url.for_http();
    let (_, rest) = whole.split_once("://").unwrap_or_default();
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let target = if is_proxy { &whole } else { path };
    let mut request = format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n");
    if !body.is_empty() {
        request.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    for (name, value) in headers {
        request.push_str(&[name, ": ", value, "\r\n"].concat());
    }
    request.push_str("\r\n");
    let sent = (&stream).write_all(&[request.as_bytes(), body].concat());
    let mut body = Body { stream: BufReader::new(stream), framing: Framing::ToTheEnd };
    loop {
        // A server may have refused the request before all of it was sent: its reply says why.
        let reply = read_head(&mut body.stream);
        let mut reply = match (&sent, reply) {
            (Err(error), Err(_)) => return Err(Failure::new(FailureKind::Temporary, cause(error))),
            (_, reply) => reply?,
        };
        // 101 is final: it was not asked for.
        if matches!(reply.status, 100 | 102..=199) {
            continue;
        }
        body.framing = match reply.content_length() {
            Some(length) => Framing::Length(length),
            None if reply.is_chunked() => Framing::Chunk(0),
            None if reply.header(super::LENGTH).is_some() => {
                let reason = "the reply's Content-Length is no number, or too large";
                return Err(Failure::new(FailureKind::Temporary, reason));
            }
            None => Framing::ToTheEnd,
        };
        reply.body = super::Body::Own(body);
        return reply.checked();
    }
}

/// Reads a head; the reply has no body yet.
fn read_head(stream: &mut BufReader<TcpStream>) -> Result<Reply> {
    let mut left = HEAD_MAX;
    let line = read_line(stream, &mut left)?;
    let line = String::from_utf8_lossy(&line);
    let mut words = line.splitn(3, ' ');
    let is_http =
        words.next().and_then(|version| version.get(..5)).is_some_and(|name| name.eq_ignore_ascii_case("HTTP/"));
    let status = words.next().filter(|word| is_http && word.len() == 3);
    let Some(status) = status.and_then(super::number).and_then(|status| status.try_into().ok()) else {
        return Err(Failure::new(FailureKind::Temporary, "the server answered something that is not HTTP"));
    };
    let mut reply = Reply {
        status,
        phrase: words.next().unwrap_or_default().trim().to_string(),
        headers: Vec::new(),
        body: super::Body::None,
    };
    loop {
        let line = read_line(stream, &mut left)?;
        if line.is_empty() {
            return Ok(reply);
        }
        // A line that begins with white space continues the one before it (RFC 9112, 5.2).
        if let [b' ' | b'\t', more @ ..] = &line[..] {
            if let Some((_, value)) = reply.headers.last_mut() {
                *value = [value, " ", &text(more.trim_ascii())].concat().trim().to_string();
            }
        } else if let Some(colon) = line.iter().position(|byte| *byte == b':') {
            let name = String::from_utf8_lossy(&line[..colon]).trim().to_ascii_lowercase();
            reply.headers.push((name, text(line[colon + 1..].trim_ascii())));
        }
    }
}

/// A header's value as text. Bytes that are not UTF-8 are percent-encoded, so that a URL in it stays what it was.
fn text(value: &[u8]) -> String {
    if let Ok(text) = std::str::from_utf8(value) {
        return text.to_string();
    }
    let mut text = String::new();
    for byte in value {
        match byte.is_ascii() {
            true => text.push(char::from(*byte)),
            false => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

/// Reads a line of a head, of which `left` bytes are left, without its end.
fn read_line(stream: &mut BufReader<TcpStream>, left: &mut u64) -> Result<Vec<u8>> {
    let mut line = Vec::new();
    stream
        .take(*left)
        .read_until(b'\n', &mut line)
        .map_err(|error| Failure::new(FailureKind::Temporary, cause(&error)))?;
    *left -= line.len() as u64;
    if line.pop() != Some(b'\n') {
        let reason = match *left {
            0 => "the head of the reply is over 64 KiB",
            _ => "the server closed the connection before the end of the head",
        };
        return Err(Failure::new(FailureKind::Temporary, reason));
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    Ok(line)
}

/// The body of a reply, as it comes.
pub struct Body {
    stream: BufReader<TcpStream>,
    framing: Framing,
}

/// Where the body, or what is read of it next, ends.
enum Framing {
    /// After so many bytes.
    Length(u64),
    /// After so many bytes the next chunk begins.
    Chunk(u64),
    /// The last chunk has come.
    LastChunk,
    /// With the connection.
    ToTheEnd,
}

impl Body {
    /// Whether the last chunk has come.
    pub fn has_last_chunk(&self) -> bool {
        matches!(self.framing, Framing::LastChunk)
    }

    /// Reads the length of the next chunk; 0 at the last one, and where the connection ends instead.
    fn next_chunk(&mut self) -> io::Result<u64> {
        let mut line = Vec::new();
        // The end of the chunk before is an empty line.
        while line.is_empty() {
            (&mut self.stream).take(CHUNK_LINE_MAX).read_until(b'\n', &mut line)?;
            match line.pop() {
                Some(b'\n') => {}
                Some(_) if line.len() as u64 + 1 == CHUNK_LINE_MAX => {
                    return Err(io::Error::new(
                        ErrorKind::InvalidData,
                        "the length of a chunk is in a line of over 1 KiB",
                    ));
                }
                _ => return Ok(0),
            }
            line.truncate(line.trim_ascii_end().len());
        }
        let digits = line.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        let length = std::str::from_utf8(digits).ok().and_then(|digits| u64::from_str_radix(digits, 16).ok());
        let length = length.filter(|_| !digits.starts_with(b"+"));
        let length = length.ok_or_else(|| io::Error::new(ErrorKind::InvalidData, "a chunk has no length"))?;
        self.framing = if length > 0 { Framing::Chunk(length) } else { Framing::LastChunk };
        Ok(length)
    }
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if matches!(self.framing, Framing::Chunk(0)) && self.next_chunk()? == 0 {
            return Ok(0);
        }
        let (Framing::Length(left) | Framing::Chunk(left)) = &mut self.framing else {
            return if self.has_last_chunk() { Ok(0) } else { self.stream.read(buffer) };
        };
        // To read nothing would wait for more, from a server that keeps the connection.
        if *left == 0 {
            return Ok(0);
        }
        let most = (buffer.len() as u64).min(*left) as usize;
        let count = self.stream.read(&mut buffer[..most])?;
        *left -= count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// What is read of a body in chunks.
    fn read(sent: &[u8]) -> Result<String, String> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut server = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, _) = listener.accept().unwrap();
        server.write_all(sent).unwrap();
        drop(server);
        let mut body = Body { stream: BufReader::new(stream), framing: Framing::Chunk(0) };
        let mut text = String::new();
        body.read_to_string(&mut text).map_err(|error| error.to_string())?;
        Ok(format!("{text}{}", if body.has_last_chunk() { "" } else { " cut off" }))
    }

    #[test]
    fn chunks_have_lengths() {
        let long = |length: usize| [&b"3;"[..], &vec![b'x'; length - 4], b"\r\nabc\r\n0\r\n\r\n"].concat();
        for (sent, want) in [
            (&b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n"[..], Ok("abcde")),
            (b"3\r\nabc\r\n", Ok("abc cut off")),
            (b"3\r\nabc\r\n2", Ok("abc cut off")),
            (b"3\r\nabc\r\nx\r\n", Err("a chunk has no length")),
            (b"+3\r\nabc\r\n0\r\n\r\n", Err("a chunk has no length")),
            (&long(1024), Ok("abc")),
            (&long(1025), Err("the length of a chunk is in a line of over 1 KiB")),
        ] {
            let got = read(sent);
            assert_eq!(got.as_deref().map_err(|error| &**error), want, "{}", sent.escape_ascii());
        }
    }
}
