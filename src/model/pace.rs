//! When and to which server to talk.

use std::fmt;

/// A control server: where its `/agent/...` endpoints are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// `http://host:port` and an optional path without a slash at its end, as requests begin.
    pub base: Box<str>,
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.base)
    }
}

/// Reads a server list: entries separated by commas, each `host:port` or a full URL with an optional path before
/// `/agent`; empty entries are skipped.
///
/// # Errors
/// Says which entry is wrong and why.
pub fn parse_servers(list: &str) -> Result<Vec<Server>, String> {
    list.split(',').map(str::trim).filter(|entry| !entry.is_empty()).map(parse_server).collect()
}

fn parse_server(entry: &str) -> Result<Server, String> {
    let (scheme, rest) = match entry.split_once("://") {
        None => ("http", entry),
        Some(("http", rest)) => ("http", rest),
        Some(("https", rest)) if cfg!(feature = "tls") => ("https", rest),
        Some(("https", _)) => return Err(format!("server \"{entry}\": https needs the tls build")),
        Some((other, _)) => return Err(format!("server \"{entry}\": want http://, got \"{other}://\"")),
    };
    let (authority, path) = match rest.find('/') {
        Some(slash) => rest.split_at(slash),
        None => (rest, ""),
    };
    if authority.contains('@') {
        return Err("server: a user in the URL cannot be used, want host:port".to_string());
    }
    if authority.contains(['[', ']']) || authority.matches(':').count() > 1 {
        return Err(format!("server \"{entry}\": literal IPv6 addresses cannot be used, want a host name"));
    }
    let (host, port) = match authority.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None if entry.contains("://") => (authority, None),
        None => return Err(format!("server \"{entry}\": want host:port")),
    };
    if host.is_empty() || !host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_')) {
        return Err(format!("server \"{entry}\": \"{host}\" is not a host name"));
    }
    let port = match port {
        None => String::new(),
        Some(text) => match text.parse::<u16>() {
            Ok(port) if port > 0 && text.bytes().all(|b| b.is_ascii_digit()) => format!(":{port}"),
            _ => return Err(format!("server \"{entry}\": want a port of 1..65535, got \"{text}\"")),
        },
    };
    if !path.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'?' | b'#')) {
        return Err(format!("server \"{entry}\": want a plain path, got \"{path}\""));
    }
    Ok(Server { base: format!("{scheme}://{host}{port}{}", path.trim_end_matches('/')).into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_lists() {
        for (list, want) in [
            ("", Ok(vec![])),
            (" a:1 ,, b.c:65535,", Ok(vec!["http://a:1", "http://b.c:65535"])),
            ("http://a/x/", Ok(vec!["http://a/x"])),
            ("http://a:8080/", Ok(vec!["http://a:8080"])),
            ("a:0", Err("port")),
            ("a:65536", Err("port")),
            ("a:+80", Err("port")),
            ("a", Err("host:port")),
            (":80", Err("host name")),
            ("[::1]:80", Err("IPv6")),
            ("::1:80", Err("IPv6")),
            ("ftp://a:1", Err("http://")),
            ("http://u:p@a:1", Err("user")),
            ("http://u@a:1", Err("user")),
            ("a:1/x?y", Err("path")),
        ] {
            match (parse_servers(list), want) {
                (Ok(got), Ok(want)) => assert_eq!(got.iter().map(|s| &*s.base).collect::<Vec<_>>(), want, "{list}"),
                (Err(got), Err(want)) => assert!(got.contains(want), "{list}: {got}"),
                (got, want) => panic!("{list}: got {got:?}, want {want:?}"),
            }
        }
    }
}
