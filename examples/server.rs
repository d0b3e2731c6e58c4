//! The smallest control server for BootAgent: all that the protocol asks of a server, to be read in one go. HTTP itself is
//! in http/mod.rs. `bootserver`, in server/, is the one to run for a fleet; this one is for people who write their own.
//!
//!     cargo run --example server -- --listen 127.0.0.1:8080 --packages DIR --jobs DIR --results FILE [--key-file FILE]
//!
//! A job is a file with one job or an array of them: `HOSTNAME/ANY.json` below the jobs directory is for one host,
//! `all/ANY.json` for every host. Write it under another name and rename it. A job's `id` is yours; a host gets it with the
//! host and the `attempt` (1 if left out) added, as an id runs once: to try a job again, raise `attempt` in its file.

mod http;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bootagent::model::spec::is_job_id;
use bootagent::wire::json::{self, array, integer, number, Array, Object, Value, MAX_DEPTH};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use http::{escape, Reply, Request};

/// Requests answered at one time. More get a 503, and from twice as many on a connection is closed.
const REQUESTS_MAX: usize = 512;
/// Nonces remembered of each host. A request that is older and is sent again would be taken for a new one.
const NONCES_MAX: usize = 4096;

struct Server {
    packages: Option<PathBuf>,
    jobs: Option<PathBuf>,
    /// The keys shared with the hosts: the first one signs, each is accepted. Without keys nothing is signed.
    keys: Vec<Hmac<Sha256>>,
    book: Mutex<Book>,
}

/// Everything that is remembered. Only the results outlive the server.
struct Book {
    /// The last report of each host name, and when it came.
    hosts: BTreeMap<String, (u64, Value)>,
    /// The ids, as hosts know them, whose result is there.
    done: HashSet<String>,
    /// Each job as it was first offered, by the id as the host knows it.
    offered: HashMap<String, String>,
    /// What is wrong with the job files, as seen with the last report of each host.
    problems: BTreeMap<String, Vec<String>>,
    nonces: HashMap<String, VecDeque<String>>,
    results: File,
}

fn main() -> Result<(), String> {
    let (mut listen, mut results) = ("127.0.0.1:8080".to_string(), "results.jsonl".to_string());
    let (mut packages, mut jobs, mut keys) = (None, None, Vec::new());
    let mut arguments = std::env::args().skip(1);
    while let Some(option) = arguments.next() {
        let value = arguments.next().ok_or_else(|| format!("{option} wants a value"))?;
        let cannot = |error: io::Error| format!("{option}: cannot use \"{value}\": {error}");
        match option.as_str() {
            "--packages" => packages = Some(fs::canonicalize(&value).map_err(cannot)?),
            "--jobs" => jobs = Some(fs::canonicalize(&value).map_err(cannot)?),
            "--key-file" => keys = read_keys(&fs::read_to_string(&value).map_err(cannot)?)?,
            "--listen" => listen = value,
            "--results" => results = value,
            _ => return Err(format!("{option} is none of --listen --packages --jobs --results --key-file")),
        }
    }
    let book = Book::open(&results).map_err(|error| format!("cannot open \"{results}\": {error}"))?;
    let listener = TcpListener::bind(&listen).map_err(|error| format!("cannot listen on \"{listen}\": {error}"))?;
    println!("listening on {}", listener.local_addr().map_err(|error| error.to_string())?);
    let server = Arc::new(Server { packages, jobs, keys, book: Mutex::new(book) });
    let open = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming() {
        let Ok(stream) = stream else {
            std::thread::sleep(Duration::from_millis(100)); // No descriptor is left: one that ends gives it back.
            continue;
        };
        let (server, open) = (server.clone(), open.clone());
        let others = open.fetch_add(1, Ordering::SeqCst);
        std::thread::spawn(move || {
            if others < 2 * REQUESTS_MAX {
                let _ = server.serve(stream, others >= REQUESTS_MAX); // A host whose reply is lost asks again.
            }
            open.fetch_sub(1, Ordering::SeqCst);
        });
    }
    Ok(())
}

/// One key to a line: the line's bytes without its newline.
fn read_keys(text: &str) -> Result<Vec<Hmac<Sha256>>, String> {
    if text.is_empty() || text.lines().any(|line| line.len() < 16) {
        return Err("--key-file: want lines of at least 16 bytes, each a key".to_string());
    }
    text.lines().map(|line| Hmac::new_from_slice(line.as_bytes()).map_err(|error| error.to_string())).collect()
}

impl Server {
    fn book(&self) -> MutexGuard<'_, Book> {
        // A thread that died while it held the book left it whole: every change to it is a single insert.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers the one request of a connection.
    fn serve(&self, mut stream: TcpStream, busy: bool) -> io::Result<()> {
        let request = match Request::read(&stream)? {
            Ok(request) => request,
            Err(status) => return http::send(&mut stream, &Reply::plain(status), "", true),
        };
        if let Some(name) = request.path.strip_prefix("/packages/") {
            return request.answer_with_file(&mut stream, self.packages.as_deref(), name);
        }
        let signed = !self.keys.is_empty() && request.path.starts_with("/agent/");
        let reply = match (request.method.as_str(), request.path.as_str()) {
            // A host with a key heeds what is signed, `retry_after` in the body; one without a key heeds the header.
            _ if busy => Reply("503 Busy", "application/json", "{\"errcode\":1,\"retry_after\":60}".into()),
            _ if signed && !self.is_signed(&request) => Reply::plain("403 Forbidden: not signed, or seen before"),
            ("POST", "/agent/status") => answer(self.report(&request)),
            ("POST", "/agent/job/result") => answer(self.results(&request)),
            ("GET" | "HEAD", "/") => Reply("200 OK", "text/html; charset=utf-8", self.page()),
            (_, "/agent/status" | "/agent/job/result" | "/") => Reply::plain("405 Method Not Allowed"),
            _ => Reply::plain("404 Not Found"),
        };
        let mut headers = if signed { self.signature(&request, &reply) } else { String::new() };
        if busy {
            headers += "Retry-After: 60\r\n";
        }
        request.answer(&mut stream, &reply, &headers)
    }

    /// Whether a request is signed with one of the keys, and its nonce was not used before.
    fn is_signed(&self, request: &Request) -> bool {
        let (sn, nonce) = (request.header("x-bootagent-sn"), request.header("x-bootagent-nonce"));
        let text = format!("{}\n{}\n{sn}\n{nonce}\n{}", request.method, request.path, request.body);
        let digits = request.header("x-bootagent-signature");
        let byte = |at| digits.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
        let signature: Vec<u8> = (0..digits.len()).step_by(2).map_while(byte).collect();
        let good = |key: &Hmac<Sha256>| key.clone().chain_update(&text).verify_slice(&signature).is_ok();
        if nonce.len() != 32 || !self.keys.iter().any(good) {
            return false;
        }
        let mut book = self.book();
        let used = book.nonces.entry(sn.to_string()).or_default();
        let fresh = !used.iter().any(|known| known == nonce);
        used.push_back(nonce.to_string());
        if used.len() > NONCES_MAX {
            used.pop_front();
        }
        fresh
    }

    /// The header that makes a reply count. To a host with a key a reply without it is none, whatever its status.
    fn signature(&self, request: &Request, Reply(status, _, body): &Reply) -> String {
        let text = format!("{}\n{}\n{body}", &status[..3], request.header("x-bootagent-nonce"));
        format!("X-BootAgent-Signature: {}\r\n", hex(&self.keys[0].clone().chain_update(text).finalize().into_bytes()))
    }

    /// Takes a report. The reply has each job of the host that has no result yet; what the host has already it passes over.
    fn report(&self, request: &Request) -> Result<String, String> {
        let report = json::parse(&request.body, MAX_DEPTH).map_err(|error| format!("the body: {error}"))?;
        let host = check_report(&report)?.to_string();
        let mut book = self.book();
        book.hosts.insert(host.clone(), (now(), report));
        let (mut offers, mut problems) = (Vec::new(), self.strays(&book));
        for (file, job) in self.jobs_of(&[&host, "all"], &mut problems) {
            let Ok((id, job)) = as_sent(job, &host).map_err(|why| problems.push(format!("{file}: {why}"))) else {
                continue;
            };
            let offered = book.offered.entry(id.clone()).or_insert_with(|| job.clone()).clone();
            if offered != job {
                problems.push(format!("{file}: {id} was offered and has changed since; raise its \"attempt\""));
            }
            if !book.done.contains(&id) {
                offers.push(offered);
            }
        }
        let said: Vec<&String> = book.problems.values().flatten().collect();
        problems.iter().filter(|problem| !said.contains(problem)).for_each(|problem| eprintln!("server: {problem}"));
        book.problems.insert(host, problems);
        Ok(format!("{{\"errcode\":0,\"jobs\":[{}]}}", offers.join(",")))
    }

    /// The jobs in the files of some directories, in byte order of file name, each with its file's name.
    fn jobs_of(&self, directories: &[&str], problems: &mut Vec<String>) -> Vec<(String, Object)> {
        let Some(root) = &self.jobs else { return Vec::new() };
        let files = directories.iter().flat_map(|name| entries(&root.join(name)));
        let mut jobs = Vec::new();
        for path in files.filter(|path| path.extension().is_some_and(|extension| extension == "json")) {
            let file = path.display();
            let value = json::parse_bytes(&fs::read(&path).unwrap_or_default(), MAX_DEPTH).unwrap_or_else(|error| {
                problems.push(format!("{file}:{error}"));
                Value::Array(Array::new())
            });
            let list = if let Value::Array(list) = value { list } else { Array::from_iter([value]) };
            for job in list {
                match job {
                    Value::Object(job) => jobs.push((file.to_string(), job)),
                    _ => problems.push(format!("{file}: want a job or an array of jobs")),
                }
            }
        }
        jobs
    }

    /// What lies in the jobs directory and goes to no host: loose files, and directories of hosts that never reported.
    fn strays(&self, book: &Book) -> Vec<String> {
        let known = |name: &str| name == "all" || book.hosts.contains_key(name);
        let mut paths = self.jobs.as_deref().map(entries).unwrap_or_default();
        paths.retain(|path| !path.is_dir() || !known(&path.file_name().unwrap_or_default().to_string_lossy()));
        paths.iter().map(|path| format!("{}: no host of this name has reported", path.display())).collect()
    }

    /// Takes an array of results: all, or none where one is malformed, and the host then sends them one by one. A result
    /// of an unknown id is taken as well: what is refused a host would send for ever.
    fn results(&self, request: &Request) -> Result<String, String> {
        let results = json::parse(&request.body, MAX_DEPTH).map_err(|error| format!("the body: {error}"))?;
        let (mut ids, mut lines) = (Vec::new(), Vec::new());
        let mut book = self.book();
        for result in array(&results).ok_or("the body: want an array of results")? {
            let id = text(result, "id").filter(|id| is_job_id(id)).ok_or("id: want the id of a job")?;
            let errcode = get(result, "errcode").and_then(integer).ok_or("errcode: want a number")?;
            let message = text(result, "message").map(|text| json::write(&Value::String(text.to_string())));
            let message = message.ok_or("message: want a string")?;
            let (job, host) = book.as_written(id);
            let origin = format!("\"id\":\"{job}\",\"host\":\"{host}\",\"sent_id\":\"{id}\",\"received\":{}", now());
            lines.push(format!("{{{origin},\"errcode\":{errcode},\"message\":{message}}}\n"));
            ids.push(id.to_string());
        }
        // On disk first and acknowledged then, as a host forgets a result that was taken.
        let written = book.results.write_all(lines.concat().as_bytes()).and_then(|()| book.results.sync_data());
        written.map_err(|error| format!("cannot keep the results: {error}"))?;
        book.done.extend(ids);
        Ok("{\"errcode\":0}".to_string())
    }

    /// For a person: what is wrong with the job files, and the hosts with their agents.
    fn page(&self) -> String {
        let book = self.book();
        let problems: BTreeSet<&str> = book.problems.values().flatten().map(String::as_str).collect();
        let style = "<style>body{font:15px sans-serif}td{padding:2px 12px}</style>";
        let mut page =
            format!("<!doctype html><meta charset=utf-8><title>BootAgent</title>{style}<h1>Job files</h1><pre>");
        page += &escape(&problems.into_iter().collect::<Vec<_>>().join("\n"));
        page += "</pre><h1>Hosts</h1><table>";
        for (host, (received, report)) in &book.hosts {
            let version = escape(text(report, "version").unwrap_or_default());
            page += &format!("<tr><td>{host}<td>{version}<td>{} s ago", now().saturating_sub(*received));
            for agent in get(report, "agents").and_then(array).unwrap_or_default() {
                let cell = |key| format!("<td>{}", escape(text(agent, key).unwrap_or_default()));
                page += &format!("<tr><td>{}", ["name", "version", "status", "limits_by", "detail"].map(cell).concat());
            }
        }
        page + "</table>\n"
    }
}

impl Book {
    /// Opens the file of results. A job that has a result in it is done.
    fn open(path: &str) -> io::Result<Book> {
        let results = OpenOptions::new().read(true).append(true).create(true).open(path)?;
        let (hosts, done, offered, problems, nonces) = Default::default();
        let mut book = Book { hosts, done, offered, problems, nonces, results };
        for line in BufReader::new(book.results.try_clone()?).lines() {
            // A last line that a crash cut off is no JSON. It was not acknowledged: its result comes again.
            let result = json::parse(&line?, MAX_DEPTH);
            book.done.extend(result.iter().filter_map(|result| text(result, "sent_id")).map(str::to_string));
        }
        Ok(book)
    }

    /// Job and host of an id that `as_sent` made; a foreign id is its own job.
    fn as_written<'a>(&'a self, id: &'a str) -> (&'a str, &'a str) {
        let mut parts = id.rsplitn(3, '.').skip(1);
        let host = parts.next().and_then(|mark| self.hosts.keys().find(|host| mark_of(host) == mark));
        parts.next().zip(host).map_or((id, ""), |(job, host)| (job, host))
    }
}

/// A job as `host` gets it, and its id there. Whether it is a good job is for the agent to say, with code 1 or 2.
fn as_sent(mut job: Object, host: &str) -> Result<(String, String), String> {
    let Some(Value::String(id)) = job.get("id") else { return Err("a job has no \"id\"".to_string()) };
    let attempt = job.get("attempt").map_or(Some(1), integer).ok_or("attempt: want a number from 1 on")?;
    let sent = format!("{id}.{}.{attempt}", mark_of(host));
    if !is_job_id(&sent) {
        return Err(format!("id: want up to 100 of A-Z a-z 0-9 . _ - and no dot first, got \"{id}\""));
    }
    job.remove("attempt");
    job.insert("id".to_string(), Value::String(sent.clone()));
    Ok((sent, json::write(&Value::Object(job))))
}

/// What stands for a host in the ids of its jobs.
fn mark_of(host: &str) -> String {
    hex(&Sha256::digest(host)[..4])
}

/// The host name of a good report.
fn check_report(report: &Value) -> Result<&str, String> {
    // It becomes a directory's name below the jobs; job ids have the same letters, and no path fits in them.
    let host = text(report, "hostname").filter(|name| is_job_id(name)).ok_or("hostname: want A-Z a-z 0-9 . _ -")?;
    text(report, "version").ok_or("version: want a string")?;
    for key in ["uptime", "timestamp", "step"] {
        get(report, key).and_then(number).ok_or_else(|| format!("{key}: want a number"))?;
    }
    for agent in get(report, "agents").and_then(array).ok_or("agents: want an array")? {
        let known = matches!(text(agent, "status"), Some("stoped" | "running" | "fatal" | "killed"));
        if !known || text(agent, "name").and(text(agent, "version")).is_none() {
            return Err("agents: want name, version, and status stoped, running, fatal or killed".to_string());
        }
    }
    Ok(host)
}

/// Junk is answered with an errcode that is not 0 and a message that says why.
fn answer(outcome: Result<String, String>) -> Reply {
    let body = outcome.unwrap_or_else(|message| {
        eprintln!("server: refused a request: {message}");
        format!("{{\"errcode\":1,\"message\":{}}}", json::write(&Value::String(message)))
    });
    Reply("200 OK", "application/json", body)
}

/// What is in a directory, in byte order of name; nothing where it cannot be read.
fn entries(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

fn get<'a>(value: &'a Value, key: &str) -> Option<&'a Value> {
    json::object(value).and_then(|object| object.get(key))
}

fn text<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    get(value, key).and_then(json::text)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Seconds since the epoch.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
