//! One request to a running server: over its socket, or to a URL with a token.

use crate::serve::tls;
use crate::wire::url::{encode, Url};
use serde_json::Value as Json;
use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{IpAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConnection, StreamOwned};

/// How long an answer may take: an upload is stored before it is answered.
const PATIENCE: Duration = Duration::from_secs(600);

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

/// A server: of a data directory, or somewhere else.
pub struct Client {
    target: Target,
}

enum Target {
    Directory(PathBuf),
    Url { url: Url, token: String },
}

/// What a request goes over.
trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

impl Client {
    /// The server of a data directory. Nothing is connected yet.
    pub fn new(dir: &Path) -> Client {
        Client { target: Target::Directory(dir.to_path_buf()) }
    }

    /// A server at a URL, which is shown the token of a file.
    ///
    /// # Errors
    /// What of the URL or the file will not do.
    pub fn at(url: &str, token_file: Option<&Path>) -> Result<Client, Failure> {
        let url = Url::parse(url).map_err(|why| Failure::Usage(format!("--server {why}")))?;
        let is_here = url.host == "localhost" || url.host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        if !url.https && !is_here {
            let why = "want https://: a token must not cross a network in the clear";
            return Err(Failure::Usage(format!("--server {}: {why}", url.authority())));
        }
        let Some(file) = token_file else {
            return Err(Failure::Usage("--server: want --token-file FILE too: bootserver token new".to_string()));
        };
        let text = std::fs::read_to_string(file).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
        let token = text.lines().next().unwrap_or_default().trim().to_string();
        if token.is_empty() || !token.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(Failure::Failed(format!("{}: want a token in its first line", file.display())));
        }
        Ok(Client { target: Target::Url { url, token } })
    }

    /// Whether a server answers there. One at a URL is taken to.
    pub fn is_running(&self) -> bool {
        match &self.target {
            Target::Directory(dir) => UnixStream::connect(crate::serve::run::socket(dir)).is_ok(),
            Target::Url { .. } => true,
        }
    }

    /// Whether it is the server of a data directory here.
    pub fn is_local(&self) -> bool {
        matches!(self.target, Target::Directory(_))
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

    /// Connects; also the head's lines that say where the request goes and who asks.
    fn connect(&self) -> Result<(Box<dyn Stream>, String), Failure> {
        match &self.target {
            Target::Directory(dir) => {
                let socket = crate::serve::run::socket(dir);
                let dir = dir.display();
                let stream = UnixStream::connect(&socket).map_err(|error| match error.kind() {
                    io::ErrorKind::PermissionDenied => Failure::Failed(format!("{}: {error}", socket.display())),
                    _ => Failure::NotRunning(format!("no server runs on {dir}: bootserver -d {dir} serve")),
                })?;
                stream.set_read_timeout(Some(PATIENCE)).map_err(broken)?;
                Ok((Box::new(stream), "host: localhost\r\n".to_string()))
            }
            Target::Url { url, token } => {
                let at = url.authority();
                let said = |error: io::Error| Failure::NotRunning(format!("no server answers at {at}: {error}"));
                let stream = TcpStream::connect((url.host.as_str(), url.port)).map_err(said)?;
                stream.set_read_timeout(Some(PATIENCE)).map_err(broken)?;
                let head = format!("host: {at}\r\nauthorization: Bearer {token}\r\n");
                if !url.https {
                    return Ok((Box::new(stream), head));
                }
                let name = ServerName::try_from(url.host.clone()).map_err(|error| format!("{at}: {error}"))?;
                let session = ClientConnection::new(tls::client()?, name).map_err(|error| format!("{at}: {error}"))?;
                Ok((Box::new(StreamOwned::new(session, stream)), head))
            }
        }
    }

    fn exchange(&self, method: &str, target: &str, size: u64, body: &mut dyn Read) -> Result<Json, Failure> {
        let (mut stream, lines) = self.connect()?;
        // Nobody in between answers this version in chunks, or keeps the connection.
        let head = format!("{method} {target} HTTP/1.0\r\n{lines}content-length: {size}\r\n\r\n");
        stream.write_all(head.as_bytes()).map_err(broken)?;
        // A server that refuses what comes may close before it has all of it: its answer says why.
        let sent = io::copy(body, &mut stream).and_then(|_| stream.flush());
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        if answer.is_empty() {
            sent.map_err(broken)?;
            read.map_err(broken)?;
        }
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

fn broken(error: io::Error) -> Failure {
    let text = error.to_string();
    let cure = if text.contains("peer certificate") { "; set SSL_CERT_FILE to who signed it" } else { "" };
    Failure::Failed(format!("the server broke off: {text}{cure}"))
}
