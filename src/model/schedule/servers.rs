//! The servers to exchange messages with, and the text form of a list of them.

use std::fmt;

use crate::error::Error;
use crate::model::url::Url;

/// A control server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// The URL that its `/agent/...` endpoints are below: `http://host:port`, and an optional path without a slash at its
    /// end.
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
/// Says which entries are wrong and why.
pub fn parse_servers(list: &str) -> Result<Vec<Server>, Error> {
    let (mut servers, mut wrong) = (Vec::new(), Vec::new());
    for entry in list.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
        match parse_server(entry) {
            Ok(server) => servers.push(server),
            Err(why) => wrong.push(why),
        }
    }
    if wrong.is_empty() {
        return Ok(servers);
    }
    Err(wrong.iter().map(|why| &**why).collect::<Vec<_>>().join("; ").into())
}

fn parse_server(entry: &str) -> Result<Server, Error> {
    let text = match entry.split_once("://") {
        None => format!("http://{entry}"),
        Some((scheme, rest)) if matches!(&*scheme.to_ascii_lowercase(), "http" | "https") => {
            format!("{}://{rest}", scheme.to_ascii_lowercase())
        }
        Some((other, _)) => return Err(format_error!("server \"{entry}\": want http://, got \"{other}://\"")),
    };
    let parsed = Url::parse(&text);
    // The entry is not quoted where it may hold a password.
    if parsed.as_ref().map_or(entry.contains('@'), |url| url.user.is_some()) {
        return Err("server: a user in the URL cannot be used, want host:port".into());
    }
    let url = parsed.map_err(|why| match entry.contains([';', ' ']) {
        true => format_error!("server \"{entry}\": servers are separated by commas"),
        false => format_error!("server \"{entry}\": {why}"),
    })?;
    if text.len() > entry.len() && url.port.is_none() {
        return Err(format_error!("server \"{entry}\": want host:port"));
    }
    if !text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'?' | b'#')) {
        return Err(format_error!("server \"{entry}\": want a plain path"));
    }
    let scheme = url.scheme.name();
    let port = url.port.map_or(String::new(), |port| format!(":{port}"));
    Ok(Server { base: format!("{scheme}://{}{port}{}", url.host, url.path.trim_end_matches('/')).into() })
}
