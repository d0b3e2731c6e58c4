//! Query strings, forms, and what stands in a path.

use std::fmt::Write as _;

/// What a client needs of a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// Whether it is `https`.
    pub https: bool,
    /// A name or an address, without brackets.
    pub host: String,
    /// As it is given, or that of the scheme.
    pub port: u16,
    /// What goes into the request line: with the query, without the fragment; at least `/`.
    pub target: String,
}

impl Url {
    /// Reads `http://` and `https://` URLs.
    ///
    /// # Errors
    /// What is wanted.
    pub fn parse(text: &str) -> Result<Url, String> {
        let wrong = |want: &str| Err(format!("\"{text}\": {want}"));
        let (https, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (_, Some(rest)) => (false, rest),
            _ => return wrong("want http://... or https://..."),
        };
        if text.len() > 1000 || !text.bytes().all(|b| b.is_ascii_graphic()) {
            return wrong("want up to 1000 visible ASCII characters");
        }
        let rest = rest.split('#').next().unwrap_or_default();
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(end);
        if authority.contains('@') {
            return wrong("want no user or password in it");
        }
        let (host, port) = match authority.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')) {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        };
        let port = match port.map(str::parse::<u16>) {
            None if https => 443,
            None => 80,
            Some(Ok(port)) if port > 0 => port,
            Some(_) => return wrong("want a port of 1 to 65535"),
        };
        let inside = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let is_name = |name: &str| name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        let host = match inside {
            Some(inside) if inside.parse::<core::net::Ipv6Addr>().is_ok() => inside,
            None if !host.is_empty() && is_name(host) => host,
            _ => return wrong("want a host"),
        };
        let target = if target.starts_with('/') { target.to_string() } else { format!("/{target}") };
        Ok(Url { https, host: host.to_string(), port, target })
    }

    /// As it stands in a `Host` header.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        match (self.https, self.port) {
            (true, 443) | (false, 80) => host,
            (_, port) => format!("{host}:{port}"),
        }
    }
}

/// The value of a name in a query string.
pub fn param(query: &str, name: &str) -> Option<String> {
    pairs(query).into_iter().find(|(key, _)| key == name).map(|(_, value)| value)
}

/// The names and values of a query string or a form, decoded.
pub fn pairs(text: &str) -> Vec<(String, String)> {
    let pair = |pair: &str| pair.split_once('=').map(|(key, value)| (decode(key), decode(value)));
    text.split('&').filter_map(pair).collect()
}

/// Undoes percent-encoding; what is broken stays.
pub fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let digits = bytes.get(at + 1..at + 3).filter(|two| two.iter().all(u8::is_ascii_hexdigit));
        let digits = digits.and_then(|two| std::str::from_utf8(two).ok());
        match (bytes[at], digits.and_then(|digits| u8::from_str_radix(digits, 16).ok())) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 2;
            }
            (b'+', _) => out.push(b' '),
            (byte, _) => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Percent-encodes what may not stand in a path or a query.
pub fn encode(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => drop(write!(out, "%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        for (text, https, authority, port, target) in [
            ("http://a.example", false, "a.example", 80, "/"),
            ("https://a.example:8443/x?y=1#z", true, "a.example:8443", 8443, "/x?y=1"),
            ("https://10.0.0.1?y", true, "10.0.0.1", 443, "/?y"),
            ("http://[::1]:8081/", false, "[::1]:8081", 8081, "/"),
            ("http://[::1]", false, "[::1]", 80, "/"),
        ] {
            let url = Url::parse(text).expect(text);
            let found = (url.https, url.authority(), url.port, url.target.as_str());
            assert_eq!(found, (https, authority.to_string(), port, target), "{text}");
        }
        for bad in [
            "",
            "ftp://a",
            "http://",
            "http:///x",
            "http://a:0",
            "http://a:b",
            "http://u:p@a/",
            "http://a b/",
            "http://[::1",
            "http://::1/",
            "http://a/\r\nx",
            "//a",
            "http://[a]/",
        ] {
            assert!(Url::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn there_and_back() {
        for text in ["", "a b&c=d", "ä/ö", "100%", "%+1", "%zz"] {
            assert_eq!(decode(&encode(text)), text);
        }
        assert_eq!(decode("a+b%20c%2"), "a b c%2");
        assert_eq!(param("a=1&b=x+y", "b"), Some("x y".to_string()));
        assert_eq!(param("a=1", "b"), None);
    }
}
