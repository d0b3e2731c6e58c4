//! HTTP/1.1 as far as the smallest server needs it: one request to a connection, files in parts. Nothing here is about
//! BootAgent; in your language a library does it.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

/// The longest head of a request, in bytes.
const HEAD_MAX: u64 = 16 << 10;
/// The longest body, in bytes: a report of some thousand agents.
const BODY_MAX: u64 = 4 << 20;

/// One request, read whole.
pub struct Request {
    pub method: String,
    pub path: String,
    /// By name in small letters.
    headers: HashMap<String, String>,
    pub body: String,
}

/// A reply: status line, content type, body.
pub struct Reply(pub &'static str, pub &'static str, pub String);

impl Reply {
    /// A reply whose body says what its status line says.
    pub fn plain(status: &'static str) -> Reply {
        Reply(status, "text/plain", format!("{status}\n"))
    }
}

impl Request {
    /// Reads a request; the inner error is the status to answer with.
    ///
    /// # Errors
    /// The connection is broken, or the client is silent for ten seconds.
    pub fn read(stream: &TcpStream) -> io::Result<Result<Request, &'static str>> {
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.set_write_timeout(Some(Duration::from_secs(60)))?;
        let mut reader = BufReader::new(stream).take(HEAD_MAX);
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 || !line.ends_with('\n') {
                return Ok(Err("400 Bad Request"));
            }
            match line.trim_end() {
                "" => break,
                line => lines.push(line.to_string()),
            }
        }
        let mut words = lines.first().map(String::as_str).unwrap_or_default().split(' ');
        let (Some(method), Some(target), Some(_)) = (words.next(), words.next(), words.next()) else {
            return Ok(Err("400 Bad Request"));
        };
        let path = target.split('?').next().unwrap_or_default();
        // Of a header that comes twice the first one counts.
        let mut headers = HashMap::new();
        for (name, value) in lines[1..].iter().filter_map(|line| line.split_once(':')) {
            headers.entry(name.to_ascii_lowercase()).or_insert_with(|| value.trim().to_string());
        }
        let mut request = Request { method: method.into(), path: path.into(), headers, body: String::new() };
        if !request.header("transfer-encoding").is_empty() {
            return Ok(Err("411 Length Required"));
        }
        let length = match request.header("content-length") {
            "" => 0,
            digits => match digits.parse::<u64>() {
                Ok(length) if length <= BODY_MAX => length,
                Ok(_) => return Ok(Err("413 Content Too Large")),
                Err(_) => return Ok(Err("400 Bad Request")),
            },
        };
        if !request.header("expect").is_empty() {
            let mut back: &TcpStream = stream;
            back.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let mut body = Vec::new();
        reader.set_limit(length);
        reader.read_to_end(&mut body)?;
        match String::from_utf8(body) {
            Ok(body) if body.len() as u64 == length => request.body = body,
            _ => return Ok(Err("400 Bad Request")),
        }
        Ok(Ok(request))
    }

    /// The header of a name in small letters; empty where there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(String::as_str).unwrap_or_default()
    }

    /// Sends `reply`; `headers` are more of them, each with its line end.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn answer(&self, stream: &mut TcpStream, reply: &Reply, headers: &str) -> io::Result<()> {
        send(stream, reply, headers, self.method != "HEAD")
    }

    /// Sends the file `name` below the directory `root`, or the part of it that is asked for.
    ///
    /// # Errors
    /// The connection is broken, or the file cannot be read.
    pub fn answer_with_file(&self, stream: &mut TcpStream, root: Option<&Path>, name: &str) -> io::Result<()> {
        let Some(mut file) = root.and_then(|root| find(root, name)) else {
            return self.answer(stream, &Reply::plain("404 Not Found"), "");
        };
        let size = file.metadata()?.len();
        let (status, range, about) = match self.header("range") {
            "" => ("200 OK", 0..size, String::new()),
            range => match read_range(range, size) {
                Some(range) => {
                    let about = format!("Content-Range: bytes {}-{}/{size}\r\n", range.start, range.end - 1);
                    ("206 Partial Content", range, about)
                }
                None => ("416 Range Not Satisfiable", 0..0, format!("Content-Range: bytes */{size}\r\n")),
            },
        };
        let length = range.end - range.start;
        let head =
            format!("HTTP/1.1 {status}\r\nConnection: close\r\nAccept-Ranges: bytes\r\nContent-Length: {length}");
        stream.write_all(format!("{head}\r\n{about}\r\n").as_bytes())?;
        if self.method == "GET" {
            file.seek(SeekFrom::Start(range.start))?;
            io::copy(&mut file.take(length), stream)?;
        }
        Ok(())
    }
}

/// Sends a reply to a request that could not be read, or, `with_body` or without it, to one that was.
///
/// # Errors
/// The connection is broken.
pub fn send(stream: &mut TcpStream, reply: &Reply, headers: &str, with_body: bool) -> io::Result<()> {
    let Reply(status, kind, body) = reply;
    let head =
        format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Type: {kind}\r\nContent-Length: {}", body.len());
    let body = if with_body { body } else { "" };
    stream.write_all(format!("{head}\r\n{headers}\r\n{body}").as_bytes())
}

/// The regular file `name` below `root`, if it does not lead out of it, by `..` or by a link.
fn find(root: &Path, name: &str) -> Option<File> {
    let name = decode(name)?;
    if name.split('/').any(|part| part.is_empty() || part.starts_with('.')) {
        return None;
    }
    let path = fs::canonicalize(root.join(name)).ok()?;
    (path.starts_with(root) && path.is_file()).then(|| File::open(path).ok()).flatten()
}

/// Undoes percent-encoding; `None` where it is broken or hides a control character.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(mut byte) = rest.next() {
        if byte == b'%' {
            let digit = |byte: u8| char::from(byte).to_digit(16);
            byte = u8::try_from(digit(rest.next()?)? << 4 | digit(rest.next()?)?).ok()?;
        }
        if byte.is_ascii_control() {
            return None;
        }
        bytes.push(byte);
    }
    String::from_utf8(bytes).ok()
}

/// What a `Range: bytes=...` header asks for of a file of `size` bytes; one range only.
fn read_range(range: &str, size: u64) -> Option<std::ops::Range<u64>> {
    let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    let range = match (first, last) {
        ("", suffix) => size.saturating_sub(suffix.parse().ok()?)..size,
        (first, "") => first.parse().ok()?..size,
        (first, last) => first.parse().ok()?..last.parse::<u64>().ok()?.saturating_add(1).min(size),
    };
    (range.start < range.end).then_some(range)
}

/// `text` as it may stand in HTML.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
