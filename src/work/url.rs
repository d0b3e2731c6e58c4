//! URLs of servers and packages, split and checked; what minreq would quietly take for something else is refused here.
//!
//! Pure. A password in a URL leaves this file only in `Url`, never in a message.

use crate::error::Error;

/// How what a URL names is fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// `http://`.
    Http,
    /// `https://`.
    Https,
    /// `ftp://`.
    Ftp,
    /// `file://`.
    File,
}

/// A URL in its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// How to fetch it.
    pub scheme: Scheme,
    /// User name, percent-decoded.
    pub user: Option<String>,
    /// Password, percent-decoded.
    pub password: Option<String>,
    /// Name or address; a literal IPv6 address without its brackets. Empty for `file`.
    pub host: String,
    /// As given, or the scheme's own; 0 for `file`.
    pub port: u16,
    /// From the first slash on, still encoded, without fragment; a query is part of it.
    pub path: String,
}

impl Url {
    /// Reads and checks a URL; the error says what is wrong with it, without its password.
    pub fn parse(url: &str) -> Result<Url, Error> {
        if let Some(bad) = url.chars().find(|c| c.is_control() || *c == ' ') {
            return Err(format_error!("the url holds U+{:04X}, which must be percent-encoded", u32::from(bad)));
        }
        let (scheme, rest) = url.split_once("://").ok_or("the url has no scheme")?;
        let (scheme, default_port) = match scheme.to_ascii_lowercase().as_str() {
            "http" => (Scheme::Http, 80),
            "https" => (Scheme::Https, 443),
            "ftp" => (Scheme::Ftp, 21),
            "file" => (Scheme::File, 0),
            other => return Err(format_error!("want a url of http, https, ftp or file, got \"{other}\"")),
        };
        let rest = rest.split('#').next().unwrap_or_default();
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let path = if path.starts_with('/') { path.to_string() } else { format!("/{path}") };
        let (userinfo, place) = match authority.rsplit_once('@') {
            Some((userinfo, place)) => (Some(userinfo), place),
            None => (None, authority),
        };
        if scheme == Scheme::File {
            if !(place.is_empty() || place.eq_ignore_ascii_case("localhost")) || userinfo.is_some() {
                return Err(format_error!("a file url names no host, got \"{place}\""));
            }
            return Ok(Url { scheme, user: None, password: None, host: String::new(), port: 0, path });
        }
        let (user, password) = match userinfo {
            Some(userinfo) => {
                let (user, password) = match userinfo.split_once(':') {
                    Some((user, password)) => (user, Some(decoded(password, "password")?)),
                    None => (userinfo, None),
                };
                (Some(decoded(user, "user name")?), password)
            }
            None => (None, None),
        };
        let (host, port) = split_place(place)?;
        let port = match port {
            Some(text) => text
                .parse::<u16>()
                .ok()
                .filter(|port| *port > 0 && text.bytes().all(|byte| byte.is_ascii_digit()))
                // Not quoted: with an unencoded slash in a password, this is the beginning of it.
                .ok_or("want a port of 1 to 65535 behind the host")?,
            None => default_port,
        };
        if host.is_empty() {
            return Err("the url has no host".into());
        }
        Ok(Url { scheme, user, password, host: host.into(), port, path })
    }

    /// The URL as minreq takes it: no user, bytes outside of ASCII encoded.
    pub fn for_http(&self) -> Result<String, Error> {
        if self.host.contains(':') {
            return Err(format_error!("cannot use the literal IPv6 address \"{}\": give the host a name", self.host));
        }
        let (scheme, own) = if self.scheme == Scheme::Https { ("https", 443) } else { ("http", 80) };
        let mut out = format!("{scheme}://{}", self.host);
        if self.port != own {
            out.push_str(&format!(":{}", self.port));
        }
        for byte in self.path.bytes() {
            if byte.is_ascii() {
                out.push(char::from(byte));
            } else {
                out.push_str(&format!("%{byte:02X}"));
            }
        }
        Ok(out)
    }

    /// The URL that `location`, found in a reply from this one, leads to. What is relative keeps user and password.
    pub fn join(&self, location: &str) -> Result<Url, Error> {
        let scheme = if self.scheme == Scheme::Https { "https" } else { "http" };
        if location.split(['/', '?', '#']).next().is_some_and(|head| head.contains(':')) {
            return Url::parse(location);
        }
        if location.starts_with("//") {
            return Url::parse(&format!("{scheme}:{location}"));
        }
        let here = self.path.split('?').next().unwrap_or("/");
        let path = if location.starts_with('/') {
            location.to_string()
        } else if location.starts_with('?') || location.is_empty() {
            format!("{here}{location}")
        } else {
            format!("{}/{location}", here.rsplit_once('/').map_or("", |(folder, _)| folder))
        };
        // Parsed for its checks; the place it names does not matter.
        let checked = Url::parse(&format!("{scheme}://host{path}"))?;
        Ok(Url { path: checked.path, ..self.clone() })
    }

    /// `host:port`, to be shown.
    pub fn place(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

/// `host`, `host:port` or either with a bracketed IPv6 address.
fn split_place(place: &str) -> Result<(&str, Option<&str>), Error> {
    if let Some(rest) = place.strip_prefix('[') {
        let (host, port) = rest.split_once(']').ok_or_else(|| format_error!("\"{place}\" has no closing bracket"))?;
        if host.parse::<std::net::Ipv6Addr>().is_err() {
            return Err(format_error!("\"{host}\" is no IPv6 address"));
        }
        return match port.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if port.is_empty() => Ok((host, None)),
            None => Err(format_error!("want a port behind the address, got \"{port}\"")),
        };
    }
    match place.split_once(':') {
        Some((_, port)) if port.contains(':') => {
            Err("a literal IPv6 address must stand in brackets; better give the host a name".into())
        }
        Some((host, port)) => Ok((host, Some(port))),
        None => Ok((place, None)),
    }
}

/// Percent-decodes; `None` for a broken escape.
pub fn percent_decoded(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let high = char::from(bytes.next()?).to_digit(16)?;
        let low = char::from(bytes.next()?).to_digit(16)?;
        out.push((high << 4 | low) as u8);
    }
    Some(out)
}

/// Percent-decodes what must be text without control characters; the error names `what`, not the text.
pub fn decoded(text: &str, what: &str) -> Result<String, Error> {
    let bytes =
        percent_decoded(text).ok_or_else(|| format_error!("the {what} in the url has a broken percent escape"))?;
    if bytes.iter().any(u8::is_ascii_control) {
        return Err(format_error!("the {what} in the url holds a control character"));
    }
    String::from_utf8(bytes).map_err(|_| format_error!("the {what} in the url is not UTF-8"))
}

/// `url` without its password, to be shown.
pub fn shown(url: &str) -> String {
    match password_of(url) {
        Some((start, end)) => format!("{}{}", &url[..start - 1], &url[end..]),
        None => url.to_string(),
    }
}

/// `text` with the password of `url`, as written and as meant, struck out.
pub fn without_password(text: &str, url: &str) -> String {
    let Some((start, end)) = password_of(url) else { return text.to_string() };
    let written = &url[start..end];
    if written.is_empty() {
        return text.to_string();
    }
    let text = text.replace(written, "***");
    match percent_decoded(written).and_then(|bytes| String::from_utf8(bytes).ok()) {
        Some(meant) if meant != written => text.replace(&meant, "***"),
        _ => text,
    }
}

/// Where in `url` its password stands.
fn password_of(url: &str) -> Option<(usize, usize)> {
    let start = url.find("://")? + 3;
    let end = url[start..].find(['/', '?', '#']).map_or(url.len(), |at| start + at);
    let at = start + url[start..end].rfind('@')?;
    let colon = start + url[start..at].find(':')?;
    Some((colon + 1, at))
}

/// Standard base64 with padding, for `Authorization: Basic`.
pub fn base64(bytes: &[u8]) -> String {
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
    fn urls_are_split() {
        for (text, place, path, user, password) in [
            ("http://h", "h:80", "/", None, None),
            ("HTTP://h:8080?q#f", "h:8080", "/?q", None, None),
            ("https://h/a/b?c=d", "h:443", "/a/b?c=d", None, None),
            ("ftp://u:p%40x@h/%2Fa", "h:21", "/%2Fa", Some("u"), Some("p@x")),
            ("ftp://u@[::1]:2121/a", "[::1]:2121", "/a", Some("u"), None),
            ("file:///a%20b", ":0", "/a%20b", None, None),
        ] {
            let url = Url::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!((url.place().as_str(), url.path.as_str()), (place, path), "{text}");
            assert_eq!((url.user.as_deref(), url.password.as_deref()), (user, password), "{text}");
        }
    }

    #[test]
    fn bad_urls_are_refused_and_passwords_not_shown() {
        for text in [
            "h/a",
            "gopher://h",
            "http://",
            "http://:80/",
            "http://h:0/",
            "http://h:65536/",
            "http://h:+80/",
            "http://h:/",
            "http://::1/",
            "http://[::1/",
            "http://[::1]80/",
            "http://h/a b",
            "http://h/a\r\nX: y",
            "ftp://u:secret%0d%0a@h/",
            "ftp://u:secret%@h/",
            "file://other/a",
        ] {
            let error = Url::parse(text).expect_err(text);
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn redirects_are_resolved() {
        let base = Url::parse("http://u:p@h:81/a/b?c").expect("good");
        for (location, place, path, kept) in [
            ("https://g/x", "g:443", "/x", false),
            ("//g/x", "g:80", "/x", false),
            ("/x?y#z", "h:81", "/x?y", true),
            ("x", "h:81", "/a/x", true),
            ("?y", "h:81", "/a/b?y", true),
            ("", "h:81", "/a/b", true),
        ] {
            let url = base.join(location).unwrap_or_else(|error| panic!("{location}: {error}"));
            assert_eq!(
                (url.place().as_str(), url.path.as_str(), url.user.is_some()),
                (place, path, kept),
                "{location}"
            );
        }
        assert!(base.join("x y").is_err());
        assert_eq!(base.join("file:///etc/passwd").map(|url| url.scheme), Ok(Scheme::File));
    }

    #[test]
    fn minreq_gets_what_it_understands() {
        let text = |url: &str| Url::parse(url).and_then(|url| url.for_http());
        assert_eq!(text("http://u:p@h:80/\u{e4}"), Ok("http://h/%C3%A4".into()));
        assert_eq!(text("https://h:80/"), Ok("https://h:80/".into()));
        assert!(text("http://[::1]/").is_err_and(|error| error.contains("give the host a name")));
    }

    #[test]
    fn passwords_are_struck_out() {
        let url = "ftp://u:p%40ss@h/a@b";
        assert_eq!(shown(url), "ftp://u@h/a@b");
        assert_eq!(without_password("530 p@ss, p%40ss: no", url), "530 ***, ***: no");
        assert_eq!(shown("http://h/a:b@c"), "http://h/a:b@c");
    }

    #[test]
    fn base64_as_rfc_4648_has_it() {
        for (text, want) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")] {
            assert_eq!(base64(text.as_bytes()), want);
        }
    }
}
