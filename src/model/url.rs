//! URLs of servers and packages, split and checked.
//!
//! A URL comes in as text, from a configuration, a job or a redirect, and goes out as a `Url` in its parts. What the
//! HTTP library would quietly take for something else is refused here. No error quotes the URL: it may hold a password,
//! which leaves this file only in `Url::password`.

use crate::error::Error;

/// How what a URL names is fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// `http://`.
    Http,
    /// `https://`, in the tls build only.
    Https,
    /// `ftp://`.
    Ftp,
    /// `file://`.
    File,
}

/// The schemes in their order, each with the name that a URL begins with, and the port of a URL that names none.
const SCHEMES: [(Scheme, &str, u16); 4] =
    [(Scheme::Http, "http", 80), (Scheme::Https, "https", 443), (Scheme::Ftp, "ftp", 21), (Scheme::File, "file", 0)];

impl Scheme {
    /// Whether it is `http` or `https`.
    pub fn is_http(self) -> bool {
        matches!(self, Scheme::Http | Scheme::Https)
    }

    /// The name, as a URL begins with it.
    pub fn name(self) -> &'static str {
        SCHEMES[self as usize].1
    }

    /// The port of a URL that names none; 0 for `file`.
    fn default_port(self) -> u16 {
        SCHEMES[self as usize].2
    }

    /// What ends the host: only `http` and `https` have queries and fragments.
    fn delimiters(self) -> &'static [char] {
        if self.is_http() {
            &['/', '?', '#']
        } else {
            &['/']
        }
    }
}

/// A URL in its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// How to fetch it.
    pub scheme: Scheme,
    /// User name, percent-decoded: text in whatever encoding the server has.
    pub user: Option<Vec<u8>>,
    /// Password, percent-decoded.
    pub password: Option<Vec<u8>>,
    /// Name or address; a literal IPv6 address, which only `ftp` may have, without its brackets. Empty for `file`.
    pub host: String,
    /// The port, where the URL names one.
    pub port: Option<u16>,
    /// From the first slash on, still encoded; with the query and without the fragment of `http` and `https`, without the
    /// `;type=` of `ftp` (RFC 1738, 3.2.2).
    pub path: String,
}

impl Url {
    /// Reads and checks a URL. The path may hold broken percent escapes: whoever decodes it sees them.
    ///
    /// # Errors
    /// Says what is wrong with the URL, without quoting it.
    pub fn parse(url: &str) -> Result<Url, Error> {
        if let Some(bad) = url.chars().find(|c| c.is_whitespace() || c.is_control()) {
            let code = u32::from(bad);
            return Err(format_error!("spaces and control characters must be percent-encoded, got U+{code:04X}"));
        }
        let (scheme, rest) = url.split_once("://").unwrap_or_default();
        let known = SCHEMES.iter().find(|(_, name, _)| scheme.eq_ignore_ascii_case(name));
        let (scheme, ..) = *known.ok_or("want ftp://, http:// or file://")?;
        if scheme == Scheme::Https && !cfg!(feature = "tls") {
            return Err("https needs the tls build, and this binary is built without https".into());
        }
        let rest = if scheme.is_http() { rest.split('#').next().unwrap_or_default() } else { rest };
        let (authority, path) = rest.split_at(rest.find(scheme.delimiters()).unwrap_or(rest.len()));
        let path = match path.rsplit_once(";type=") {
            Some((path, kind)) if scheme == Scheme::Ftp && kind.len() == 1 => path,
            _ => path,
        };
        let path = if path.starts_with('/') { path.to_string() } else { format!("/{path}") };
        if scheme == Scheme::File {
            if !matches!(authority, "" | "localhost") {
                return Err("want file:/// and an absolute path, with no host".into());
            }
            return Ok(Url { scheme, user: None, password: None, host: String::new(), port: None, path });
        }
        let (userinfo, address) = match authority.rsplit_once('@') {
            Some((userinfo, address)) => (Some(userinfo), address),
            None => (None, authority),
        };
        let (user, password) = match userinfo.map(|text| text.split_once(':').ok_or(text)) {
            Some(Ok((user, password))) => (Some(decoded_part(user)?), Some(decoded_part(password)?)),
            Some(Err(user)) => (Some(decoded_part(user)?), None),
            None => (None, None),
        };
        let (host, port) = split_address(address, scheme)?;
        let port = port.map(parse_port).transpose()?;
        Ok(Url { scheme, user, password, host: host.into(), port, path })
    }

    /// The port to connect to.
    pub fn effective_port(&self) -> u16 {
        self.port.unwrap_or(self.scheme.default_port())
    }

    /// The path without the query of `http` and `https`.
    pub fn path_without_query(&self) -> &str {
        match self.path.split_once('?') {
            Some((path, _)) if self.scheme.is_http() => path,
            _ => &self.path,
        }
    }

    /// The URL as an HTTP library takes it: no user, no port that goes without saying, bytes outside of ASCII encoded.
    pub fn for_http(&self) -> String {
        let mut out = format!("{}://{}", self.scheme.name(), self.host);
        if let Some(port) = self.port.filter(|port| *port != self.scheme.default_port()) {
            out.push_str(&format!(":{port}"));
        }
        for byte in self.path.bytes() {
            if byte.is_ascii() {
                out.push(char::from(byte));
            } else {
                out.push_str(&format!("%{byte:02X}"));
            }
        }
        out
    }

    /// The URL that `location`, the target of a redirect in a reply from this one, leads to. User and password stay as long
    /// as scheme, host and port do.
    ///
    /// # Errors
    /// When `location` is no URL, or one that `parse` refuses.
    pub fn join(&self, location: &str) -> Result<Url, Error> {
        let scheme = self.scheme.name();
        if location.split(['/', '?', '#']).next().is_some_and(|head| head.contains(':')) {
            return Url::parse(location).map(|url| url.with_account_of(self));
        }
        if location.starts_with("//") {
            return Url::parse(&format!("{scheme}:{location}")).map(|url| url.with_account_of(self));
        }
        let here = self.path_without_query();
        let path = if location.starts_with('/') {
            location.to_string()
        } else if location.starts_with('?') || location.is_empty() {
            format!("{here}{location}")
        } else {
            format!("{}/{location}", here.rsplit_once('/').map_or("", |(folder, _)| folder))
        };
        // Parsed for its checks only; the host is of no interest.
        let checked = Url::parse(&format!("{scheme}://host{path}"))?;
        Ok(Url { path: without_dots(&checked.path), ..self.clone() })
    }

    /// The URL with user and password of `other`, if it leads to the same server and has none itself.
    fn with_account_of(mut self, other: &Url) -> Url {
        self.path = without_dots(&self.path);
        let is_same = self.scheme == other.scheme && self.effective_port() == other.effective_port();
        if is_same && self.host.eq_ignore_ascii_case(&other.host) && self.user.is_none() {
            (self.user, self.password) = (other.user.clone(), other.password.clone());
        }
        self
    }

    /// The URL for messages, without what is nobody's business: user, password and query.
    pub fn shown(&self) -> String {
        let port = self.port.map_or(String::new(), |port| format!(":{port}"));
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        format!("{}://{host}{port}{}", self.scheme.name(), self.path_without_query())
    }
}

/// A path without the segments `.` and `..`, which a client resolves before it asks (RFC 3986, 5.2.4). The query stays as
/// it is.
fn without_dots(path: &str) -> String {
    let (path, query) = path.split_at(path.find('?').unwrap_or(path.len()));
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        match segment {
            "." => {}
            ".." => drop(kept.pop()),
            _ => kept.push(segment),
        }
        // What ends with dots names a folder.
        if segments.peek().is_none() && matches!(segment, "." | "..") {
            kept.push("");
        }
    }
    format!("/{}{query}", kept.join("/"))
}

/// Splits `host` or `host:port`; for `ftp` the host may be an IPv6 address in brackets.
fn split_address(address: &str, scheme: Scheme) -> Result<(&str, Option<&str>), Error> {
    let wrong_host = || match scheme {
        Scheme::Ftp => "want a host name, or an IPv6 address between [ and ]".into(),
        // The HTTP library takes what is before the first colon for the host.
        _ => Error::from("want a host name (literal IPv6 addresses cannot be used)"),
    };
    if let Some(rest) = address.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or_else(wrong_host)?;
        if scheme != Scheme::Ftp || host.parse::<core::net::Ipv6Addr>().is_err() {
            return Err(wrong_host());
        }
        return match rest.strip_prefix(':') {
            None if !rest.is_empty() => Err("want a port of 1..65535 behind the address".into()),
            port => Ok((host, port)),
        };
    }
    let (host, port) = match address.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (address, None),
    };
    let is_name =
        !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
    if !is_name || port.is_some_and(|port| port.contains(':')) {
        return Err(wrong_host());
    }
    Ok((host, port))
}

/// The port is not quoted: with an unencoded slash in a password, `text` is the beginning of the password.
fn parse_port(text: &str) -> Result<u16, Error> {
    match text.parse::<u16>() {
        Ok(port @ 1..) if text.bytes().all(|byte| byte.is_ascii_digit()) => Ok(port),
        _ => Err("want a port of 1..65535".into()),
    }
}

/// Percent-decodes a part of a URL.
///
/// # Errors
/// When a `%` is not followed by two hexadecimal digits.
pub fn decoded(part: &str) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || char::from(rest.next()?).to_digit(16);
        match (digit(), digit()) {
            (Some(high), Some(low)) => bytes.push((high << 4 | low) as u8),
            _ => return Err("want two hexadecimal digits after each %".into()),
        }
    }
    Ok(bytes)
}

/// Percent-decodes a part of a URL that must have no control characters.
///
/// # Errors
/// When it has some, or a percent escape is broken.
pub fn decoded_part(part: &str) -> Result<Vec<u8>, Error> {
    match decoded(part)? {
        bytes if bytes.iter().any(u8::is_ascii_control) => Err("want no control characters".into()),
        bytes => Ok(bytes),
    }
}

/// `text` with the password of `url`, encoded and decoded, replaced by `***`.
pub fn without_password(text: &str, url: &str) -> String {
    let Some(password) = password_of(url).filter(|password| !password.is_empty()) else { return text.to_string() };
    let text = text.replace(password, "***");
    match decoded_part(password).map(String::from_utf8) {
        Ok(Ok(plain)) if plain != password => text.replace(&plain, "***"),
        _ => text,
    }
}

/// The password in `url`, still encoded. The URL need not be a good one.
fn password_of(url: &str) -> Option<&str> {
    let (scheme, rest) = url.split_once("://")?;
    let delimiters = if scheme.eq_ignore_ascii_case("ftp") { Scheme::Ftp } else { Scheme::Http }.delimiters();
    let (userinfo, _) = rest.split(delimiters).next()?.rsplit_once('@')?;
    userinfo.split_once(':').map(|(_, password)| password)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `host:port`.
    fn address(url: &Url) -> String {
        let (open, close) = if url.host.contains(':') { ("[", "]") } else { ("", "") };
        format!("{open}{}{close}:{}", url.host, url.effective_port())
    }

    #[test]
    fn messages_say_where_and_keep_secrets() {
        for (text, want) in [
            ("http://h/a/b.tar?token=secret#e", "http://h/a/b.tar"),
            ("http://u:secret@h:8080/b.rpm", "http://h:8080/b.rpm"),
            ("ftp://u:secret@h/%2Fa", "ftp://h/%2Fa"),
            ("ftp://u:secret@[::1]:2121/a?b", "ftp://[::1]:2121/a?b"),
            ("file:///a%20b", "file:///a%20b"),
        ] {
            assert_eq!(Url::parse(text).expect("good").shown(), want);
        }
    }

    #[test]
    fn urls_are_split() {
        for (text, want, path, user, password) in [
            ("http://h", "h:80", "/", None, None),
            ("HTTP://h:8080?q#f", "h:8080", "/?q", None, None),
            ("http://h/a/b?c=d#e", "h:80", "/a/b?c=d", None, None),
            ("http://h/a%zz", "h:80", "/a%zz", None, None),
            ("ftp://u:p%40x@h/%2Fa", "h:21", "/%2Fa", Some("u"), Some("p@x")),
            ("ftp://u:p?#@h/a?b#c", "h:21", "/a?b#c", Some("u"), Some("p?#")),
            ("ftp://u@[::1]:2121/a", "[::1]:2121", "/a", Some("u"), None),
            ("ftp://@h/a", "h:21", "/a", Some(""), None),
            ("ftp://h/a;type=i", "h:21", "/a", None, None),
            ("http://h/a;type=i", "h:80", "/a;type=i", None, None),
            ("file:///a%20b#c", ":0", "/a%20b#c", None, None),
            ("file://localhost/a", ":0", "/a", None, None),
        ] {
            let url = Url::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!((address(&url), url.path.as_str()), (want.to_string(), path), "{text}");
            let account = (url.user.as_deref(), url.password.as_deref());
            assert_eq!(account, (user.map(str::as_bytes), password.map(str::as_bytes)), "{text}");
        }
    }

    #[test]
    fn bad_urls_are_refused_and_nothing_of_them_is_shown() {
        for (text, want) in [
            ("", "want ftp://, http:// or file://"),
            ("h/secret", "want ftp://, http:// or file://"),
            ("gopher://u:secret@h", "want ftp://, http:// or file://"),
            ("http://", "host name"),
            ("http://:80/", "host name"),
            ("http://u:secret@/", "host name"),
            ("http://h\u{e4}/", "host name"),
            ("http://h:0/", "port"),
            ("http://h:65536/", "port"),
            ("http://h:+80/", "port"),
            ("http://h:/", "port"),
            ("http://u:secret/x@h/", "port"),
            ("http://::1/", "IPv6"),
            ("http://[::1]/", "IPv6"),
            ("ftp://::1/", "IPv6"),
            ("ftp://1:2:3/", "IPv6"),
            ("ftp://[::1/", "IPv6"),
            ("ftp://[secret]/", "IPv6"),
            ("ftp://[::1]80/", "port"),
            ("http://h/secret b", "U+0020"),
            ("http://h/a\u{2003}b", "U+2003"),
            ("http://h/a\r\nX: y", "U+000D"),
            ("ftp://u:secret%0d%0a@h/", "control"),
            ("ftp://u%00:secret@h/", "control"),
            ("ftp://u:secret%@h/", "hexadecimal"),
            ("file://other/a", "file:///"),
        ] {
            let error = Url::parse(text).expect_err(text);
            assert!(error.contains(want) && !error.contains("secret"), "{text}: {error}");
        }
        assert_eq!(Url::parse("https://h/").is_ok(), cfg!(feature = "tls"));
    }

    #[test]
    fn redirects_are_resolved() {
        let base = Url::parse("http://u:p@h:81/a/b?c").expect("good");
        for (location, want, path, keeps_user) in [
            ("http://g/x", "g:80", "/x", false),
            ("//g/x", "g:80", "/x", false),
            ("/x?y#z", "h:81", "/x?y", true),
            ("x", "h:81", "/a/x", true),
            ("?y", "h:81", "/a/b?y", true),
            ("", "h:81", "/a/b", true),
            ("ftp://g/x", "g:21", "/x", false),
            ("http://H:81/x", "H:81", "/x", true),
            ("//h:81/x", "h:81", "/x", true),
            ("http://h/x", "h:80", "/x", false),
            ("http://v@h:81/x", "h:81", "/x", true),
            ("../pool/x", "h:81", "/pool/x", true),
            ("./x?y=../z", "h:81", "/a/x?y=../z", true),
            ("/a/../../x/..", "h:81", "/", true),
            ("/a/./b//c/.", "h:81", "/a/b//c/", true),
            ("http://g/a/../x", "g:80", "/x", false),
        ] {
            let url = base.join(location).unwrap_or_else(|error| panic!("{location}: {error}"));
            let joined = (address(&url), url.path.as_str(), url.user.is_some());
            assert_eq!(joined, (want.to_string(), path, keeps_user), "{location}");
        }
        assert!(base.join("x y").is_err());
        assert_eq!(base.join("http://v@h:81/x").expect("good").user.as_deref(), Some(&b"v"[..]));
    }

    #[test]
    fn an_http_library_gets_what_it_understands() {
        for (text, want) in [("http://u:p@h:80/\u{e4}", "http://h/%C3%A4"), ("http://h:81?q", "http://h:81/?q")] {
            assert_eq!(Url::parse(text).expect(text).for_http(), want);
        }
    }

    #[test]
    fn passwords_are_struck_out() {
        for (text, url, want) in [
            ("530 p@ss, p%40ss: no", "ftp://u:p%40ss@h/a@b", "530 ***, ***: no"),
            ("530 p?ss: no", "ftp://u:p?ss@h/a", "530 ***: no"),
            ("404 b", "http://h/a:b@c", "404 b"),
            ("404 b", "http://u:@h/", "404 b"),
        ] {
            assert_eq!(without_password(text, url), want);
        }
    }
}
