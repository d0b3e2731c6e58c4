//! An FTP client for one file: RFC 959 with EPSV (RFC 2428), SIZE and REST (RFC 3659), URLs as RFC 1738 has them.
//!
//! Transfers are binary and passive, and always from the address of the control connection: the host in a PASV reply is
//! ignored. 4xx is temporary and 5xx final, except where there is another way. The URL comes in parsed, and the bytes go to
//! the `Sink`.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use crate::error::Error;
use crate::model::url::{decoded_part, Url};
use crate::sys::alarm;
use crate::work::sink::{Completeness, Sink};
use crate::work::{connect, stall_secs, Failure, FailureKind, Result, Route};

/// The longest reply that is read, bytes.
const REPLY_MAX: usize = 16 << 10;
/// How much of a reply's text is shown, bytes.
const SHOWN_MAX: usize = 300;
/// How long connecting for data may take: there is another way.
const CONNECT_MAX: Duration = Duration::from_secs(15);
/// How long the reply to EPSV may take, s: there is another way.
const EPSV_MAX: u32 = 15;

/// Fetches the file `url` names, behind what `sink` holds, from an address that `route` chooses.
///
/// # Errors
/// When the file is not complete; what has come so far is in the sink.
pub fn fetch(url: &Url, route: &Route, sink: &mut Sink) -> Result<Completeness> {
    let (folders, file) = folders_and_file(&url.path).map_err(|reason| Failure::new(FailureKind::Final, reason))?;
    let mut control = Control::ready(url, route, &folders)?;
    let size = control.size(&file)?;
    if let Some(size) = size {
        if sink.size() == size && size > 0 {
            return Ok(Completeness::Counted);
        }
        if sink.size() > size {
            sink.restart()?;
        }
        sink.expect(size)?;
    }
    let mut data = control.open_data()?;
    let mut begun = control.begin(&file, sink);
    // The server cannot open the data connection on its side: by PASV it may.
    if control.last.code == 425 && !control.passive && control.peer.is_ipv4() {
        data = control.open_passive()?;
        begun = control.begin(&file, sink);
    }
    match begun {
        // The server may refuse the offset, where its file has become shorter: the next attempt starts from 0.
        Err(mut failure) if failure.kind == FailureKind::Final && sink.size() > 0 => {
            sink.restart()?;
            failure.kind = FailureKind::Temporary;
            return Err(failure);
        }
        result => result?,
    }
    let filled = sink.fill(&mut data, None);
    drop(data);
    filled?;
    // All bytes that SIZE announced have come, so the reply to RETR does not matter.
    if size == Some(sink.size()) {
        return Ok(Completeness::Counted);
    }
    // A server that could not send everything says why in this reply.
    control.reply()?;
    control.expect("RETR", 2)?;
    match size {
        Some(size) if size > sink.size() => Err(Failure::new(
            FailureKind::Temporary,
            format!("the transfer ended after {} of {size} bytes", sink.size()),
        )),
        // A good reply means that this was the whole file.
        _ => Ok(Completeness::Counted),
    }
}

/// The folders to enter and the file to ask for, in the encoding of the server. An empty first segment, or one that begins with an encoded slash, starts from
/// the root.
fn folders_and_file(path: &str) -> Result<(Vec<Vec<u8>>, Vec<u8>), Error> {
    let path = path.strip_prefix('/').unwrap_or(path);
    let mut segments = Vec::new();
    for (place, segment) in path.split('/').enumerate() {
        match segment {
            "" if place == 0 => segments.push(b"/".to_vec()),
            "" => {}
            _ => segments.push(decoded_part(segment)?),
        }
    }
    match segments.pop() {
        Some(file) if !path.ends_with('/') && !path.is_empty() => Ok((segments, file)),
        _ => Err("the url names no file".into()),
    }
}

/// The control connection.
struct Control<'a> {
    url: &'a Url,
    route: &'a Route,
    folders: &'a [Vec<u8>],
    stream: TcpStream,
    peer: SocketAddr,
    /// Bytes that were received and not yet parsed.
    inbox: Vec<u8>,
    /// The last reply.
    last: Reply,
    /// The data connection was opened by PASV.
    passive: bool,
}

/// One reply of the server.
#[derive(Debug, Default, PartialEq, Eq)]
struct Reply {
    code: u16,
    text: String,
}

impl<'a> Control<'a> {
    /// Connects, and reads the greeting.
    fn connect(url: &'a Url, route: &'a Route, folders: &'a [Vec<u8>]) -> Result<Control<'a>> {
        alarm::alarm(stall_secs());
        let stream = connect::connect(url, &connect::addresses(url, route)?)?;
        let peer =
            stream.peer_addr().map_err(|error| Failure::temporary("the control connection broke off", &error))?;
        let (inbox, last) = (Vec::new(), Reply::default());
        let mut control = Control { url, route, folders, stream, peer, inbox, last, passive: false };
        // 120 means ready in some minutes, and is followed by 220; the alarm limits how long that may take.
        while control.reply()? / 100 == 1 {}
        control.expect("the connection", 2)?;
        Ok(control)
    }

    /// A control connection that has logged in and entered the folders.
    fn ready(url: &'a Url, route: &'a Route, folders: &'a [Vec<u8>]) -> Result<Control<'a>> {
        let mut control = Control::connect(url, route, folders)?;
        control
            .log_in(url.user.as_deref().unwrap_or(b"anonymous"), url.password.as_deref().unwrap_or(b"bootagent@"))?;
        control.demand("TYPE", b"I", 2)?;
        for folder in folders {
            control.demand("CWD", folder, 2)?;
        }
        Ok(control)
    }

    fn log_in(&mut self, user: &[u8], password: &[u8]) -> Result<()> {
        if self.ask("USER", user)? != 331 {
            return self.expect("USER", 2);
        }
        self.ask("PASS", password)?;
        self.expect("the password", 2)
    }

    /// The size of the file, bytes, where the server knows SIZE.
    fn size(&mut self, file: &[u8]) -> Result<Option<u64>> {
        let code = self.ask("SIZE", file)?;
        Ok(if code == 213 { self.last.text.trim().parse().ok() } else { None })
    }

    /// A data connection by EPSV, or by PASV where the server or a firewall does not support that, whatever it does
    /// instead: this may be another control connection then.
    fn open_data(&mut self) -> Result<TcpStream> {
        // Some firewalls let nothing through that they do not know, and nothing after it.
        let wait = Duration::from_secs(EPSV_MAX.min(stall_secs() / 4).max(1).into());
        let _ = self.stream.set_read_timeout(Some(wait));
        let asked = self.ask("EPSV", b"");
        let _ = self.stream.set_read_timeout(None);
        match asked {
            Ok(229) => {
                let opened = self.connect_data("EPSV", extended_port(&self.last.text));
                if opened.is_ok() || self.peer.is_ipv6() {
                    return opened;
                }
            }
            Err(failure) if self.peer.is_ipv6() => return Err(failure),
            Ok(421) | Err(_) => {
                // A server may allow no second connection beside the first.
                let _ = self.stream.shutdown(Shutdown::Both);
                *self = Control::ready(self.url, self.route, self.folders)?;
            }
            Ok(_) => {}
        }
        self.open_passive()
    }

    /// A data connection by PASV.
    fn open_passive(&mut self) -> Result<TcpStream> {
        self.passive = true;
        self.demand("PASV", b"", 2)?;
        self.connect_data("PASV", passive_port(&self.last.text))
    }

    /// Connects to the port in the reply to `command`, and fails early enough for the other way to be tried.
    fn connect_data(&self, command: &str, port: Option<u16>) -> Result<TcpStream> {
        let Some(port) = port else {
            let reason = format!("no port in the reply to {command}: {}", self.last.text);
            return Err(Failure::new(FailureKind::Temporary, reason));
        };
        alarm::alarm(stall_secs());
        TcpStream::connect_timeout(&SocketAddr::new(self.peer.ip(), port), CONNECT_MAX)
            .map_err(|error| Failure::temporary("cannot open a data connection", &error))
    }

    /// Asks for the file, from behind what the sink holds.
    fn begin(&mut self, file: &[u8], sink: &mut Sink) -> Result<()> {
        if sink.size() > 0 {
            match self.ask("REST", sink.size().to_string().as_bytes())? {
                350 => {}
                400..=499 => self.expect("REST", 3)?,
                _ => sink.restart()?,
            }
        }
        self.demand("RETR", file, 1)
    }

    /// Sends a command; the reply must be of this class.
    fn demand(&mut self, command: &str, argument: &[u8], class: u16) -> Result<()> {
        self.ask(command, argument)?;
        self.expect(String::from_utf8_lossy(&command_line(command, argument)).trim_end(), class)
    }

    /// Checks that the first digit of the last reply's code is `class`; the failure quotes the server.
    fn expect(&self, command: &str, class: u16) -> Result<()> {
        let Reply { code, text } = &self.last;
        if code / 100 == class {
            return Ok(());
        }
        let kind = if code / 100 == 5 { FailureKind::Final } else { FailureKind::Temporary };
        Err(Failure::new(kind, format!("the server answered {command} with {code} {text}")))
    }

    /// Sends a command and reads the reply, of which it returns the code.
    fn ask(&mut self, command: &str, argument: &[u8]) -> Result<u16> {
        alarm::alarm(stall_secs());
        self.stream
            .write_all(&command_line(command, argument))
            .map_err(|error| Failure::temporary("the control connection broke off", &error))?;
        self.reply()
    }

    /// Reads one reply, and returns its code.
    fn reply(&mut self) -> Result<u16> {
        loop {
            match parse(&self.inbox) {
                Parsed::Reply(reply, used) => {
                    self.inbox.drain(..used);
                    self.last = reply;
                    return Ok(self.last.code);
                }
                Parsed::Nonsense => return Err(Failure::new(FailureKind::Temporary, "the server's reply is not FTP")),
                Parsed::Incomplete if self.inbox.len() > REPLY_MAX => {
                    return Err(Failure::new(FailureKind::Temporary, "the server's reply is over 16 KiB"));
                }
                Parsed::Incomplete => {}
            }
            let mut buffer = [0; 2048];
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(Failure::new(FailureKind::Temporary, "the server closed the control connection")),
                Ok(count) => self.inbox.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Failure::temporary("the control connection broke off", &error)),
            }
        }
    }
}

/// A command as it is sent. Names have the bytes that their URL has: old servers know no UTF-8.
fn command_line(command: &str, argument: &[u8]) -> Vec<u8> {
    let space: &[u8] = if argument.is_empty() { b"" } else { b" " };
    [command.as_bytes(), space, argument, b"\r\n"].concat()
}

/// Runs the parsers of replies and paths, see `work::try_parsers`.
pub fn try_parsers(bytes: &[u8], text: &str) {
    if let Parsed::Reply(reply, used) = parse(bytes) {
        assert!(used <= bytes.len());
        let _ = (extended_port(&reply.text), passive_port(&reply.text));
    }
    let _ = (extended_port(text), passive_port(text), folders_and_file(text));
}

/// What the bytes received so far hold.
#[derive(Debug, PartialEq, Eq)]
enum Parsed {
    Incomplete,
    Nonsense,
    /// A reply, and the bytes it took.
    Reply(Reply, usize),
}

/// Parses one reply at the front: `ddd text`, or `ddd-text`, any lines, and a line `ddd text` with the same code.
fn parse(bytes: &[u8]) -> Parsed {
    let mut used = 0;
    let mut open = None;
    let mut text = String::new();
    while let Some(end) = bytes[used..].iter().position(|byte| *byte == b'\n') {
        let line = &bytes[used..used + end];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        used += end + 1;
        let code = code(line);
        let last = match (open, code) {
            (None, None) => return Parsed::Nonsense,
            (None, Some(code)) => {
                open = Some(code);
                line.get(3) != Some(&b'-')
            }
            (Some(_), _) => code == open && line.get(3) != Some(&b'-'),
        };
        let words = if code.is_some() && code == open { line.get(4..).unwrap_or_default() } else { line };
        if text.len() < SHOWN_MAX {
            if !text.is_empty() {
                text.push(' ');
            }
            text.push_str(String::from_utf8_lossy(words).trim());
        }
        if let Some(code) = open.filter(|_| last) {
            return Parsed::Reply(Reply { code, text }, used);
        }
    }
    Parsed::Incomplete
}

/// The code at the beginning of a line: three digits, 100 to 599, and a space, a hyphen or nothing.
fn code(line: &[u8]) -> Option<u16> {
    let digits = line.get(..3).filter(|digits| digits.iter().all(u8::is_ascii_digit))?;
    let code = digits.iter().fold(0, |code, digit| code * 10 + u16::from(digit - b'0'));
    ((100..600).contains(&code) && matches!(line.get(3), None | Some(b' ' | b'-'))).then_some(code)
}

/// The port in `Entering Extended Passive Mode (|||6446|)`; the delimiter may be any character.
fn extended_port(text: &str) -> Option<u16> {
    let inner = text.split_once('(')?.1.split_once(')')?.0;
    let delimiter = inner.chars().next().filter(|c| !c.is_ascii_digit())?;
    let mut fields = inner.split(delimiter);
    fields.nth(3)?.parse().ok().filter(|port| *port > 0)
}

/// The port in `Entering Passive Mode (h1,h2,h3,h4,p1,p2)`; some servers leave the parentheses out.
fn passive_port(text: &str) -> Option<u16> {
    let numbers = text.split(|c: char| !c.is_ascii_digit() && c != ',').find(|run| run.split(',').count() == 6)?;
    let mut numbers = numbers.split(',').map(str::parse::<u8>);
    let high = numbers.nth(4)?.ok()?;
    let low = numbers.next()?.ok()?;
    Some(u16::from_be_bytes([high, low])).filter(|port| *port > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(bytes: &[u8]) -> Option<(u16, String, usize)> {
        match parse(bytes) {
            Parsed::Reply(reply, used) => Some((reply.code, reply.text, used)),
            _ => None,
        }
    }

    #[test]
    fn replies_of_one_and_of_many_lines() {
        for (bytes, want) in [
            (&b"220 hello\r\nmore"[..], Some((220, "hello", 11))),
            (b"220\r\n", Some((220, "", 5))),
            (b"220 bare line feed\n", Some((220, "bare line feed", 19))),
            (b"220-one\r\n two\r\n220-three\r\n220 four\r\n", Some((220, "one two three four", 36))),
            (b"220-one\r\n221 not yet\r\n220 end\r\n", Some((220, "one 221 not yet end", 31))),
            (b"220-one\r\n2201 not yet\r\n220 end\r\n", Some((220, "one 2201 not yet end", 32))),
        ] {
            let got = reply(bytes);
            assert_eq!(got.as_ref().map(|(code, text, used)| (*code, text.as_str(), *used)), want);
        }
        for whole in [&b"220 hello\r\n"[..], b"220-one\r\n two\r\n220 four\r\n"] {
            for end in 0..whole.len() {
                assert_eq!(parse(&whole[..end]), Parsed::Incomplete, "{end}");
            }
        }
        for bytes in
            [&b"hello\r\n"[..], b"22\r\n", b"099 x\r\n", b"600 x\r\n", b"2200\r\n", b"\r\n", b"HTTP/1.1 400 Bad\r\n"]
        {
            assert_eq!(parse(bytes), Parsed::Nonsense);
        }
    }

    #[test]
    fn ports() {
        for (text, want) in [
            ("Entering Extended Passive Mode (|||6446|)", Some(6446)),
            ("ok (!!!6446!).", Some(6446)),
            ("(|||65536|)", None),
            ("(|||0|)", None),
            ("(1111)", None),
            ("()", None),
            ("|||6446|", None),
        ] {
            assert_eq!(extended_port(text), want, "{text}");
        }
        for (text, want) in [
            ("Entering Passive Mode (127,0,0,1,25,46).", Some(6446)),
            ("Entering Passive Mode 127,0,0,1,25,46", Some(6446)),
            ("(127,0,0,1,256,1)", None),
            ("(127,0,0,1,0,0)", None),
            ("(127,0,0,1,1)", None),
            ("", None),
        ] {
            assert_eq!(passive_port(text), want, "{text}");
        }
    }

    #[test]
    fn paths_become_folders_and_a_file() {
        for (path, folders, file) in [
            ("/a.rpm", &[][..], "a.rpm"),
            ("/pub/x/a.rpm", &["pub", "x"], "a.rpm"),
            ("/pub//a%20b.rpm", &["pub"], "a b.rpm"),
            ("/%2Fsrv/a.rpm", &["/srv"], "a.rpm"),
            ("//srv/a.rpm", &["/", "srv"], "a.rpm"),
            ("/%2Fa.rpm", &[], "/a.rpm"),
        ] {
            let (got, name) = folders_and_file(path).unwrap_or_else(|error| panic!("{path}: {error}"));
            assert_eq!(
                (got, name.as_slice()),
                (folders.iter().map(|folder| folder.as_bytes().to_vec()).collect(), file.as_bytes())
            );
        }
        assert_eq!(folders_and_file("/M%FCller.tar").unwrap().1, b"M\xfcller.tar");
        for path in ["/", "/pub/", "//", "/a%0d%0aDELE%20b", "/a%00", "/a%", "/%0a/b"] {
            assert!(folders_and_file(path).is_err(), "{path}");
        }
    }

    #[test]
    fn mangled_replies_do_no_harm() {
        let mut seed = 7_u32;
        let whole = b"220-one\r\n two\r\n229 ok (|||6446|)\r\n227 (127,0,0,1,25,46)\r\n220 end\r\n";
        for _ in 0..20_000 {
            let mut mangled = whole.to_vec();
            for _ in 0..4 {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let place = (seed >> 8) as usize % mangled.len();
                mangled[place] = seed as u8;
            }
            parse(&mangled);
            let text = String::from_utf8_lossy(&mangled);
            extended_port(&text);
            passive_port(&text);
        }
    }
}
