//! One request to a running server over its socket.

use crate::wire::url::encode;
use serde_json::Value as Json;
use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Why a command did not work, as its exit code tells it.
#[derive(Debug)]
pub enum Failure {
    /// 1: it was tried.
    Failed(String),
    /// 2: what was typed will not do.
    Usage(String),
    /// 3: no server runs.
    NotRunning(String),
}

impl From<String> for Failure {
    fn from(text: String) -> Failure {
        Failure::Failed(text)
    }
}

/// The server of a data directory.
pub struct Client {
    socket: PathBuf,
    dir: PathBuf,
}

impl Client {
    /// Nothing is connected yet.
    pub fn new(dir: &Path) -> Client {
        Client { socket: crate::serve::run::socket(dir), dir: dir.to_path_buf() }
    }

    /// Whether a server answers there.
    pub fn is_running(&self) -> bool {
        UnixStream::connect(&self.socket).is_ok()
    }

    /// Looks something up.
    ///
    /// # Errors
    /// What the server says, or that it does not run.
    pub fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<Json, Failure> {
        let mut target = format!("/api/v1/{path}");
        for (place, (name, value)) in query.iter().enumerate() {
            let _ = write!(target, "{}{name}={}", if place == 0 { '?' } else { '&' }, encode(value));
        }
        self.exchange("GET", &target, 0, &mut io::empty())
    }

    /// Changes something.
    ///
    /// # Errors
    /// What the server says, or that it does not run.
    pub fn post(&self, path: &str, body: &Json) -> Result<Json, Failure> {
        let text = body.to_string();
        self.exchange("POST", &format!("/api/v1/{path}"), text.len() as u64, &mut text.as_bytes())
    }

    /// Sends a file.
    ///
    /// # Errors
    /// What the server says, that it does not run, or that the file cannot be read.
    pub fn upload(&self, file: &Path) -> Result<Json, Failure> {
        let said = |error: io::Error| format!("cannot read {}: {error}", file.display());
        let mut open = std::fs::File::open(file).map_err(said)?;
        let size = open.metadata().map_err(said)?.len();
        self.exchange("POST", "/api/v1/packages", size, &mut open)
    }

    fn exchange(&self, method: &str, target: &str, size: u64, body: &mut dyn Read) -> Result<Json, Failure> {
        let dir = self.dir.display();
        let mut stream = UnixStream::connect(&self.socket).map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => Failure::Failed(format!("{}: {error}", self.socket.display())),
            _ => Failure::NotRunning(format!("no server runs on {dir}: bootserver -d {dir} serve")),
        })?;
        let said = |error: io::Error| Failure::Failed(format!("the server broke off: {error}"));
        stream.set_read_timeout(Some(Duration::from_secs(600))).map_err(said)?;
        let head = format!("{method} {target} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {size}\r\n\r\n");
        stream.write_all(head.as_bytes()).map_err(said)?;
        io::copy(body, &mut stream).map_err(said)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).map_err(said)?;
        let text = String::from_utf8_lossy(&answer);
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).unwrap_or_default();
        let json: Json = serde_json::from_str(body).unwrap_or(Json::Null);
        match (status, json["error"].as_str()) {
            ("200", _) => Ok(json),
            (_, Some(why)) => Err(Failure::Failed(why.to_string())),
            _ => Err(Failure::Failed(format!("the server said: {} {body}", head.lines().next().unwrap_or_default()))),
        }
    }
}
