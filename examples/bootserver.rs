//! A reference control server: what a bootagent talks to, in as few lines as show the whole protocol.
//!
//! It takes status reports, hands out the jobs dropped into a directory, writes results to a file before it acknowledges
//! them, and serves packages. One thread per connection, JSON by miniserde, nothing of the agent's own code. A server
//! for a fleet differs in where it keeps things, not in what it answers.
//!
//!     cargo run --example bootserver -- --listen 127.0.0.1:8080 --packages DIR --jobs DIR --results FILE
//!
//! A job is a file: `HOSTNAME/ANY.json` below the jobs directory is for one host, `all/ANY.json` for every one.
//! With `--key-file FILE` it answers signed requests only, each nonce once, and signs what it answers.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hmac::{Hmac, KeyInit, Mac};
use miniserde::json::{self, Array, Number, Object, Value};
use sha2::Sha256;

/// The longest request line with all headers.
const HEAD_MAX: u64 = 16 << 10;
/// The longest body: a status of some thousand agents.
const BODY_MAX: u64 = 4 << 20;
/// Connections served at one time; more are told to come back later.
const CONNECTIONS_MAX: usize = 512;
/// Hosts remembered; a report of one more is refused.
const HOSTS_MAX: usize = 100_000;
/// Nonces remembered of each host; a request that is recorded and sent again must be younger to do harm.
const NONCES_MAX: usize = 4096;
/// Results shown on the page.
const RECENT_MAX: usize = 50;

struct Server {
    packages: Option<PathBuf>,
    jobs: Option<PathBuf>,
    /// The keys shared with the agents: the first signs, each is accepted; none: nothing is signed.
    keys: Vec<Hmac<Sha256>>,
    book: Mutex<Book>,
}

/// Everything that is remembered.
struct Book {
    hosts: BTreeMap<String, Host>,
    /// (host, job id) whose result came in: such a job is not handed out again.
    done: HashSet<(String, String)>,
    /// The same by address, for results of hosts that have not reported since this server started.
    done_by_peer: HashSet<(String, String)>,
    /// Job files found bad, as said already.
    complaints: HashSet<String>,
    /// The last nonces of each sn.
    nonces: BTreeMap<String, VecDeque<String>>,
    recent: VecDeque<String>,
    results: File,
}

/// What is known of one host.
struct Host {
    received: u64,
    peer: String,
    status: Value,
    /// Ids of the jobs it was given and has not answered.
    given: HashSet<String>,
}

/// One request, read whole.
struct Request {
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: String,
    peer: IpAddr,
}

impl Request {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// An answer: status line, content type, body.
struct Reply(&'static str, &'static str, String);

fn main() -> ExitCode {
    match run(std::env::args().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("bootserver: {message}");
            eprintln!("usage: bootserver [--listen ADDR:PORT] [--packages DIR] [--jobs DIR] [--results FILE] [--key-file FILE]");
            ExitCode::from(2)
        }
    }
}

fn run(mut args: impl Iterator<Item = String>) -> Result<(), String> {
    let mut listen = "127.0.0.1:8080".to_string();
    let (mut packages, mut jobs, mut results) = (None, None, "results.jsonl".to_string());
    let mut keys = Vec::new();
    while let Some(option) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{option} wants a value"));
        match option.as_str() {
            "--listen" => listen = value()?,
            "--packages" => packages = Some(directory(&value()?)?),
            "--jobs" => jobs = Some(directory(&value()?)?),
            "--results" => results = value()?,
            "--key-file" => keys = read_keys(&value()?)?,
            _ => return Err(format!("unknown option \"{option}\"")),
        }
    }
    let book = Mutex::new(Book::open(&results).map_err(|error| format!("cannot open \"{results}\": {error}"))?);
    let listener = TcpListener::bind(&listen).map_err(|error| format!("cannot listen on \"{listen}\": {error}"))?;
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    println!("listening on {address}");

    let server = Arc::new(Server { packages, jobs, keys, book });
    let open = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else {
            // Out of descriptors, most likely: connections that end give some back.
            std::thread::sleep(Duration::from_millis(100));
            continue;
        };
        if open.fetch_add(1, Ordering::SeqCst) >= CONNECTIONS_MAX {
            let _ = stream.write_all(b"HTTP/1.1 503 Busy\r\nRetry-After: 60\r\nContent-Length: 0\r\n\r\n");
            open.fetch_sub(1, Ordering::SeqCst);
            continue;
        }
        let (server, open) = (server.clone(), open.clone());
        std::thread::spawn(move || {
            if let Err(error) = server.serve(&mut stream) {
                eprintln!("bootserver: a connection ended early: {error}");
            }
            open.fetch_sub(1, Ordering::SeqCst);
        });
    }
    Ok(())
}

/// One key to a line; the line's bytes without its newline.
fn read_keys(path: &str) -> Result<Vec<Hmac<Sha256>>, String> {
    let text = fs::read(path).map_err(|error| format!("cannot read \"{path}\": {error}"))?;
    let lines = text.strip_suffix(b"\n").unwrap_or(&text).split(|byte| *byte == b'\n');
    let key = |line: &[u8]| match line.len() {
        0..16 => Err(format!("\"{path}\": want keys of at least 16 bytes")),
        _ => Hmac::new_from_slice(line).map_err(|error| error.to_string()),
    };
    lines.map(key).collect()
}

fn directory(path: &str) -> Result<PathBuf, String> {
    match fs::canonicalize(path) {
        Ok(path) if path.is_dir() => Ok(path),
        Ok(_) => Err(format!("\"{path}\" is not a directory")),
        Err(error) => Err(format!("cannot use \"{path}\": {error}")),
    }
}

/// The files in a directory that end in `.json`, in byte order of name.
fn json_files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut found: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|e| e == "json")).collect();
    found.sort();
    found
}

impl Server {
    fn book(&self) -> MutexGuard<'_, Book> {
        // A thread that died while it held the book left it whole: every change to it is a single insert.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers the one request of a connection.
    fn serve(&self, stream: &mut TcpStream) -> io::Result<()> {
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.set_write_timeout(Some(Duration::from_secs(60)))?;
        let request = match read_request(stream)? {
            Ok(request) => request,
            Err(status) => return send(stream, "", &Reply(status, "text/plain", format!("{status}\n")), ""),
        };
        if let Some(name) = request.path.strip_prefix("/packages/") {
            return self.package(stream, &request, name);
        }
        let signed = !self.keys.is_empty() && request.path.starts_with("/agent/");
        let reply = match (request.method.as_str(), request.path.as_str()) {
            _ if signed && !self.is_signed(&request) => {
                Reply("403 Forbidden", "text/plain", "not signed, or seen before\n".to_string())
            }
            ("POST", "/agent/status") => answer(self.status(&request)),
            ("POST", "/agent/job/result") => answer(self.result(&request).map(|()| "{\"errcode\":0}".to_string())),
            ("GET" | "HEAD", "/hosts") => Reply("200 OK", "application/json", self.hosts()),
            ("GET" | "HEAD", "/") => Reply("200 OK", "text/html; charset=utf-8", self.page()),
            (_, "/agent/status" | "/agent/job/result" | "/hosts" | "/") => {
                Reply("405 Method Not Allowed", "text/plain", "wrong method\n".to_string())
            }
            _ => Reply("404 Not Found", "text/plain", "no such page\n".to_string()),
        };
        let signature = if signed { self.signature(&request, &reply) } else { String::new() };
        send(stream, &request.method, &reply, &signature)
    }

    /// Whether a request is signed by one of the keys, with a nonce that was not used before.
    fn is_signed(&self, request: &Request) -> bool {
        let header = |name: &str| request.header(&format!("X-BootAgent-{name}")).unwrap_or_default();
        let (sn, nonce) = (header("Sn"), header("Nonce"));
        let text = format!("{}\n{}\n{sn}\n{nonce}\n{}", request.method, request.path, request.body);
        let signature: Option<Vec<u8>> = header("Signature")
            .as_bytes()
            .chunks(2)
            .map(|pair| std::str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok()))
            .collect();
        let signature = signature.unwrap_or_default();
        let good = |key: &Hmac<Sha256>| key.clone().chain_update(&text).verify_slice(&signature).is_ok();
        if nonce.len() != 32 || !self.keys.iter().any(good) {
            return false;
        }
        let mut book = self.book();
        let known = book.nonces.len();
        match book.nonces.get_mut(sn) {
            None if known >= HOSTS_MAX => return false,
            None => drop(book.nonces.insert(sn.to_string(), VecDeque::from([nonce.to_string()]))),
            Some(used) if used.iter().any(|used| used == nonce) => return false,
            Some(used) => {
                used.push_back(nonce.to_string());
                if used.len() > NONCES_MAX {
                    used.pop_front();
                }
            }
        }
        true
    }

    /// The header that makes a reply count.
    fn signature(&self, request: &Request, Reply(status, _, body): &Reply) -> String {
        let nonce = request.header("X-BootAgent-Nonce").unwrap_or_default();
        let code = status.split(' ').next().unwrap_or_default();
        let mac = self.keys[0].clone().chain_update(format!("{code}\n{nonce}\n{body}"));
        let digits = mac.finalize().into_bytes().iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
        format!("X-BootAgent-Signature: {digits}\r\n")
    }

    /// Takes a status report; the answer carries every job the host has not answered yet. A job given twice is no
    /// harm: an agent runs an id once.
    fn status(&self, request: &Request) -> Result<String, String> {
        let status: Value = json::from_str(&request.body).map_err(|_| "the body is not JSON")?;
        let hostname = check_status(&status)?.to_string();
        let mut book = self.book();
        if !book.hosts.contains_key(&hostname) && book.hosts.len() >= HOSTS_MAX {
            return Err("too many hosts".to_string());
        }
        let peer = request.peer.to_string();
        let jobs = self.jobs_for(&mut book, &hostname, &peer);
        let ids = jobs.iter().map(|job| text(job, "id").unwrap_or_default().to_string());
        let mut given: HashSet<String> = ids.collect();
        if let Some(known) = book.hosts.remove(&hostname) {
            given.extend(known.given);
        }
        book.hosts.insert(hostname, Host { received: now(), peer, status, given });
        let mut reply = Object::new();
        reply.insert("errcode".to_string(), Value::Number(Number::U64(0)));
        reply.insert("jobs".to_string(), Value::Array(jobs));
        Ok(json::to_string(&Value::Object(reply)))
    }

    /// The open jobs in `DIR/<hostname>` and `DIR/all`, in byte order of file name. A file should be written under
    /// another ending and renamed, or half of it may be read; that half is bad JSON, and the file is read again.
    fn jobs_for(&self, book: &mut Book, hostname: &str, peer: &str) -> Array {
        let mut open = Array::new();
        let Some(root) = &self.jobs else { return open };
        for stray in json_files(root) {
            let file = stray.display();
            book.complain(format!("\"{file}\" is given to nobody: want it in the directory of a host, or in \"all\""));
        }
        let mut files = Vec::new();
        for directory in [root.join(hostname), root.join("all")] {
            files.append(&mut json_files(&directory));
        }
        for file in files {
            let jobs = match fs::read_to_string(&file).map(|text| json::from_str::<Value>(&text)) {
                Ok(Ok(Value::Array(jobs))) => jobs,
                Ok(Ok(job @ Value::Object(_))) => Array::from_iter([job]),
                Ok(_) => {
                    book.complain(format!("\"{}\" is neither a job nor an array of jobs", file.display()));
                    continue;
                }
                Err(error) => {
                    book.complain(format!("cannot read \"{}\": {error}", file.display()));
                    continue;
                }
            };
            for job in jobs {
                // Only the id is looked at: whether a job is a good one is for the agent to say, with code 1 or 2.
                let Some(id) = text(&job, "id") else {
                    book.complain(format!("a job in \"{}\" has no id", file.display()));
                    continue;
                };
                let by_host = (hostname.to_string(), id.to_string());
                let by_peer = (peer.to_string(), id.to_string());
                if !book.done.contains(&by_host) && !book.done_by_peer.contains(&by_peer) {
                    open.push(job);
                }
            }
        }
        open
    }

    /// Takes an array of results: all of them or, when one is junk, none, so that the agent sends them one by one.
    fn result(&self, request: &Request) -> Result<(), String> {
        let Ok(Value::Array(results)) = json::from_str(&request.body) else {
            return Err("the body is not a JSON array".to_string());
        };
        for result in &results {
            check_result(result)?;
        }
        let mut book = self.book();
        let peer = request.peer.to_string();
        let mut lines = String::new();
        for result in results {
            let Value::Object(mut result) = result else { continue };
            result.retain(|key, _| matches!(key.as_str(), "id" | "errcode" | "message"));
            let Some(Value::String(id)) = result.get("id").cloned() else { continue };
            let host = book.host_of(&id, &peer, request.header("X-BootAgent-Sn"));
            if let Some(host) = &host {
                result.insert("host".to_string(), Value::String(host.clone()));
            }
            result.insert("peer".to_string(), Value::String(peer.clone()));
            result.insert("received".to_string(), Value::Number(Number::U64(now())));
            let line = json::to_string(&Value::Object(result));
            lines.push_str(&line);
            lines.push('\n');
            book.mark_done(host, id, &peer);
            book.remember(line);
        }
        // On disk first, acknowledged then: an agent forgets a result that was taken.
        let written = book.results.write_all(lines.as_bytes()).and_then(|()| book.results.sync_data());
        written.map_err(|error| format!("cannot keep the results: {error}"))
    }

    /// Sends a file below the packages directory, or the part that is asked for.
    fn package(&self, stream: &mut TcpStream, request: &Request, name: &str) -> io::Result<()> {
        let head_only = request.method == "HEAD";
        let found = self.packages.as_deref().and_then(|root| find_package(root, name));
        let (Some(mut file), true) = (found, head_only || request.method == "GET") else {
            return send(stream, "", &Reply("404 Not Found", "text/plain", "no such package\n".to_string()), "");
        };
        let size = file.metadata()?.len();
        let (status, first, end) = match request.header("Range").map(|range| read_range(range, size)) {
            None => ("200 OK", 0, size),
            Some(Some((first, end))) => ("206 Partial Content", first, end),
            Some(None) => {
                let head = "HTTP/1.1 416 Range Not Satisfiable\r\nConnection: close\r\nContent-Length: 0\r\n";
                return stream.write_all(format!("{head}Content-Range: bytes */{size}\r\n\r\n").as_bytes());
            }
        };
        let mut head = format!("HTTP/1.1 {status}\r\nConnection: close\r\nAccept-Ranges: bytes\r\n");
        let _ = write!(head, "Content-Type: application/octet-stream\r\nContent-Length: {}\r\n", end - first);
        if status.starts_with("206") {
            let _ = write!(head, "Content-Range: bytes {first}-{}/{size}\r\n", end - 1);
        }
        head.push_str("\r\n");
        stream.write_all(head.as_bytes())?;
        if !head_only {
            file.seek(SeekFrom::Start(first))?;
            io::copy(&mut file.take(end - first), stream)?;
        }
        Ok(())
    }

    /// The last status of every host, as JSON.
    fn hosts(&self) -> String {
        let mut list = Array::new();
        for (name, host) in &self.book().hosts {
            let mut row = Object::new();
            row.insert("host".to_string(), Value::String(name.clone()));
            row.insert("peer".to_string(), Value::String(host.peer.clone()));
            row.insert("received".to_string(), Value::Number(Number::U64(host.received)));
            row.insert("status".to_string(), host.status.clone());
            list.push(Value::Object(row));
        }
        json::to_string(&Value::Array(list)) + "\n"
    }

    /// The same for a person.
    fn page(&self) -> String {
        let book = self.book();
        let mut page = "<!doctype html><title>bootserver</title><meta charset=utf-8>\
            <style>body{font:15px sans-serif}td,th{padding:2px 12px;text-align:left}</style><h1>Hosts</h1>\
            <table><tr><th>host<th>version<th>last report<th>agent<th>version<th>status<th>detail"
            .to_string();
        for (name, host) in &book.hosts {
            let age = now().saturating_sub(host.received);
            let version = text(&host.status, "version").unwrap_or_default();
            let _ = write!(page, "<tr><td>{}<td>{}<td>{age} s ago", escape(name), escape(version));
            for agent in items(&host.status, "agents") {
                page.push_str("<tr><td><td><td>");
                for key in ["name", "version", "status", "detail"] {
                    let _ = write!(page, "<td>{}", escape(text(agent, key).unwrap_or_default()));
                }
            }
        }
        page.push_str("</table><h1>Last results</h1><pre>");
        for line in book.recent.iter().rev() {
            page.push_str(&escape(line));
            page.push('\n');
        }
        page.push_str("</pre>\n");
        page
    }
}

impl Book {
    /// Opens the file of results; what is in it already counts as done.
    fn open(path: &str) -> io::Result<Book> {
        let results = OpenOptions::new().read(true).append(true).create(true).open(path)?;
        let (hosts, complaints) = (BTreeMap::new(), HashSet::new());
        let (done, done_by_peer, recent) = (HashSet::new(), HashSet::new(), VecDeque::new());
        let nonces = BTreeMap::new();
        let mut book = Book { hosts, done, done_by_peer, complaints, nonces, recent, results };
        for line in BufReader::new(book.results.try_clone()?).lines() {
            let line = line?;
            // A power cut may have left the last line short; its result was not acknowledged and will come again.
            let Ok(result) = json::from_str::<Value>(&line) else { continue };
            if let (Some(id), Some(peer)) = (text(&result, "id"), text(&result, "peer")) {
                book.mark_done(text(&result, "host").map(str::to_string), id.to_string(), peer);
            }
            book.remember(line);
        }
        Ok(book)
    }

    /// Results name no host: it is the one of this sn, else the one at this address that was given the job, else the one
    /// there that answered it before (a repetition). `None` before the host's first report to this server.
    fn host_of(&self, id: &str, peer: &str, sn: Option<&str>) -> Option<String> {
        let by_sn = |host: &Host| sn.is_some() && text(&host.status, "sn") == sn;
        if let Some((name, _)) = self.hosts.iter().find(|(_, host)| by_sn(host)) {
            return Some(name.clone());
        }
        let mut there = self.hosts.iter().filter(|(_, host)| host.peer == peer);
        let waiting = there.clone().find(|(_, host)| host.given.contains(id));
        let answered = || there.find(|(name, _)| self.done.contains(&(name.to_string(), id.to_string())));
        waiting.or_else(answered).map(|(name, _)| name.clone())
    }

    fn mark_done(&mut self, host: Option<String>, id: String, peer: &str) {
        match host {
            None => drop(self.done_by_peer.insert((peer.to_string(), id))),
            Some(name) => {
                if let Some(host) = self.hosts.get_mut(&name) {
                    host.given.remove(&id);
                }
                self.done.insert((name, id));
            }
        }
    }

    /// Keeps the newest results for the page.
    fn remember(&mut self, result: String) {
        self.recent.push_back(result);
        if self.recent.len() > RECENT_MAX {
            self.recent.pop_front();
        }
    }

    /// Says once what is wrong with a file that is looked at again with every report.
    fn complain(&mut self, message: String) {
        if self.complaints.len() < 1000 && !self.complaints.contains(&message) {
            eprintln!("bootserver: {message}");
            self.complaints.insert(message);
        }
    }
}

/// The host name of a good report.
fn check_status(status: &Value) -> Result<&str, String> {
    let hostname = text(status, "hostname").ok_or("hostname: want a string")?;
    let plain = hostname.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    // It becomes a directory name below the jobs: nothing that leads out of there.
    if !plain || hostname.is_empty() || hostname.len() > 253 || hostname.starts_with('.') {
        return Err("hostname: want 1 to 253 of A-Z a-z 0-9 . _ -".to_string());
    }
    text(status, "version").ok_or("version: want a string")?;
    for key in ["uptime", "timestamp", "step"] {
        number(status, key).ok_or_else(|| format!("{key}: want a number"))?;
    }
    if !matches!(get(status, "agents"), Some(Value::Array(_))) {
        return Err("agents: want an array".to_string());
    }
    for agent in items(status, "agents") {
        let name = text(agent, "name").ok_or("agents: one has no name")?;
        text(agent, "version").ok_or_else(|| format!("agent \"{name}\": version: want a string"))?;
        number(agent, "uptime").ok_or_else(|| format!("agent \"{name}\": uptime: want a number"))?;
        if !matches!(text(agent, "status"), Some("stoped" | "running" | "fatal" | "killed")) {
            return Err(format!("agent \"{name}\": status: want stoped, running, fatal or killed"));
        }
    }
    Ok(hostname)
}

fn check_result(result: &Value) -> Result<(), String> {
    let id = text(result, "id").filter(|id| !id.is_empty() && id.len() <= 127).ok_or("a result has no usable id")?;
    match number(result, "errcode") {
        Some(code) if code >= 0.0 && code.fract() == 0.0 => (),
        _ => return Err(format!("result \"{id}\": errcode: want a number of 0 or more")),
    }
    text(result, "message").map(drop).ok_or_else(|| format!("result \"{id}\": message: want a string"))
}

/// Junk is answered with a non-zero errcode that says why.
fn answer(outcome: Result<String, String>) -> Reply {
    let body = outcome.unwrap_or_else(|message| {
        eprintln!("bootserver: refused a request: {message}");
        format!("{{\"errcode\":1,\"message\":{}}}", json::to_string(&message))
    });
    Reply("200 OK", "application/json", body)
}

/// Reads one request; the inner error is the status line to answer.
fn read_request(stream: &TcpStream) -> io::Result<Result<Request, &'static str>> {
    let peer = stream.peer_addr()?.ip();
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
    let mut lines = lines.into_iter();
    let first = lines.next().unwrap_or_default();
    let mut words = first.split(' ');
    let (Some(method), Some(target), Some(_)) = (words.next(), words.next(), words.next()) else {
        return Ok(Err("400 Bad Request"));
    };
    let path = target.split('?').next().unwrap_or_default();
    let mut request =
        Request { method: method.into(), path: path.into(), headers: Vec::new(), body: String::new(), peer };
    for line in lines {
        let Some((name, value)) = line.split_once(':') else { return Ok(Err("400 Bad Request")) };
        request.headers.push((name.to_string(), value.trim().to_string()));
    }
    if request.header("Transfer-Encoding").is_some() {
        return Ok(Err("411 Length Required"));
    }
    let length = match request.header("Content-Length").map(str::parse::<u64>) {
        None => 0,
        Some(Ok(length)) if length <= BODY_MAX => length,
        Some(Ok(_)) => return Ok(Err("413 Content Too Large")),
        Some(Err(_)) => return Ok(Err("400 Bad Request")),
    };
    if request.header("Expect").is_some() {
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

/// `headers`: more of them, each with its line end.
fn send(stream: &mut TcpStream, method: &str, Reply(status, kind, body): &Reply, headers: &str) -> io::Result<()> {
    let length = body.len();
    let mut text = format!(
        "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n{headers}\r\n"
    );
    if method != "HEAD" {
        text.push_str(body);
    }
    stream.write_all(text.as_bytes())
}

/// The regular file of this name below `root`, if it does not lead out of it, by `..` or by a link.
fn find_package(root: &Path, name: &str) -> Option<File> {
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
    while let Some(byte) = rest.next() {
        let byte = match byte {
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                let high = char::from(digits[0]).to_digit(16)?;
                let low = char::from(digits[1]).to_digit(16)?;
                u8::try_from(high << 4 | low).ok()?
            }
            plain => plain,
        };
        if byte.is_ascii_control() {
            return None;
        }
        bytes.push(byte);
    }
    String::from_utf8(bytes).ok()
}

/// The bytes `first..end` of a `Range: bytes=...` header over a file of `size` bytes; one range only.
fn read_range(range: &str, size: u64) -> Option<(u64, u64)> {
    let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    let (first, end) = match (first, last) {
        ("", suffix) => (size.saturating_sub(suffix.parse().ok()?), size),
        (first, "") => (first.parse().ok()?, size),
        (first, last) => (first.parse().ok()?, last.parse::<u64>().ok()?.saturating_add(1).min(size)),
    };
    (first < end).then_some((first, end))
}

fn get<'a>(value: &'a Value, key: &str) -> Option<&'a Value> {
    match value {
        Value::Object(object) => object.get(key),
        _ => None,
    }
}

fn text<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    match get(value, key) {
        Some(Value::String(text)) => Some(text),
        _ => None,
    }
}

fn number(value: &Value, key: &str) -> Option<f64> {
    match get(value, key) {
        Some(Value::Number(Number::U64(number))) => Some(*number as f64),
        Some(Value::Number(Number::I64(number))) => Some(*number as f64),
        Some(Value::Number(Number::F64(number))) => Some(*number),
        _ => None,
    }
}

fn items<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    match get(value, key) {
        Some(Value::Array(array)) => Some(array.iter()),
        _ => None,
    }
    .into_iter()
    .flatten()
}

/// `text` as it may stand in HTML.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Seconds since the epoch.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
