//! A control server inside the test: records every request, hands out jobs until their results came in, misbehaves on
//! order, and serves files with ranges.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hmac::{Hmac, KeyInit, Mac};
use miniserde::json::{self, Value};
use sha2::Sha256;

use super::{items, number, pause, text};

/// How requests to `/agent/...` are answered.
#[derive(Clone, PartialEq)]
pub enum Mode {
    /// As the protocol says.
    Good,
    /// The connection is closed without a byte.
    Close,
    /// Nothing is said, for as long as the mode lasts.
    Hang,
    /// A good answer, but one byte at a time, five a second.
    Drip,
    /// These bytes, whatever they are.
    Raw(Vec<u8>),
    /// An answer that is signed with this key: a status line, headers and a body of one's choice.
    Signed(&'static str, &'static str, String, String),
}

impl Mode {
    /// A whole answer with a status line and body of one's choice.
    pub fn reply(status: &str, headers: &str, body: &str) -> Mode {
        Mode::Raw(reply(status, headers, body))
    }
}

fn reply(status: &str, headers: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n{headers}\r\n{body}").into_bytes()
}

/// One request, as it came.
#[derive(Clone, Debug)]
pub struct Request {
    pub at: Instant,
    pub method: String,
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        json::from_str(&self.body).unwrap_or_else(|_| panic!("a body that is not JSON: {}", self.body))
    }
}

/// Makes the signature of a good reply from the request and the body; `None`: it is not signed.
pub type Signer = Box<dyn Fn(&Request, &str) -> Option<String> + Send>;

/// Lower-case hex HMAC-SHA256.
pub fn hmac(key: &str, text: &str) -> String {
    let mac = Hmac::<Sha256>::new_from_slice(key.as_bytes()).expect("a key of any length").chain_update(text);
    mac.finalize().into_bytes().iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// The signature of a reply with status 200 as the protocol has it.
pub fn signature(key: &str, request: &Request, body: &str) -> Option<String> {
    Some(hmac(key, &format!("200\n{}\n{body}", request.header("X-BootAgent-Nonce")?)))
}

/// The server; it ends when it is dropped.
pub struct Server {
    /// `127.0.0.1:PORT`.
    pub address: String,
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    over: AtomicBool,
}

struct State {
    mode: Mode,
    /// Results are taken; else they are answered with errcode 1.
    takes: bool,
    /// A batch of results with this id in it is answered with errcode 1.
    refuses: Option<String>,
    /// Jobs are given again when their result was taken.
    repeats: bool,
    /// (id, text) in the order given.
    jobs: Vec<(String, String)>,
    /// Ids that each reply to a status cancels.
    cancel: Vec<String>,
    /// Every taken result, in the order taken.
    results: Vec<(String, i64, String)>,
    requests: Vec<Request>,
    files: BTreeMap<String, Vec<u8>>,
    /// Downloads end after that many bytes of a body, this many more times.
    cuts: (usize, usize),
    signer: Option<Signer>,
    /// Requests that were left without an answer.
    hanging: usize,
}

impl Server {
    pub fn new() -> Server {
        Server::on(0).expect("a free port on the loopback")
    }

    /// A server at a port of one's choice, for one that comes up later.
    pub fn on(port: u16) -> io::Result<Server> {
        let listener = TcpListener::bind(("127.0.0.1", port))?;
        let address = listener.local_addr()?.to_string();
        let state = State {
            mode: Mode::Good,
            takes: true,
            refuses: None,
            repeats: false,
            jobs: Vec::new(),
            cancel: Vec::new(),
            results: Vec::new(),
            requests: Vec::new(),
            files: BTreeMap::new(),
            cuts: (0, 0),
            signer: None,
            hanging: 0,
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), over: AtomicBool::new(false) });
        let theirs = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if theirs.over.load(Ordering::SeqCst) {
                    break;
                }
                let (Ok(stream), shared) = (stream, theirs.clone()) else { continue };
                // Its clients are allowed to go away at any moment.
                std::thread::spawn(move || drop(shared.serve(stream)));
            }
        });
        Ok(Server { address, shared })
    }

    /// An address where nobody listens.
    pub fn nowhere() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port on the loopback");
        listener.local_addr().expect("it is bound").to_string()
    }

    pub fn port(&self) -> u16 {
        self.address.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).expect("an address has a port")
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state()
    }

    pub fn mode(&self, mode: Mode) {
        self.state().mode = mode;
    }

    /// Whether results are taken.
    pub fn takes(&self, takes: bool) {
        self.state().takes = takes;
    }

    /// Refuses every batch of results that holds this id.
    pub fn refuses(&self, id: &str) {
        self.state().refuses = Some(id.to_string());
    }

    /// Gives every job with every reply, answered or not.
    pub fn repeats(&self) {
        self.state().repeats = true;
    }

    /// Signs good replies so from now on.
    pub fn signs(&self, signer: impl Fn(&Request, &str) -> Option<String> + Send + 'static) {
        self.state().signer = Some(Box::new(signer));
    }

    /// Gives a job with every reply until its result was taken.
    pub fn give(&self, job: &str) {
        self.give_all(&[job]);
    }

    /// Cancels a job from now on, with every reply to a status.
    pub fn cancel(&self, id: &str) {
        self.state().cancel.push(id.to_string());
    }

    /// Gives several jobs in one reply.
    pub fn give_all(&self, jobs: &[&str]) {
        let id = |job: &str| json::from_str::<Value>(job).map(|job| text(&job, "id").to_string()).unwrap_or_default();
        let jobs = jobs.iter().map(|job| (id(job), job.to_string()));
        self.state().jobs.extend(jobs);
    }

    /// The code and message of the first taken result of a job.
    pub fn result(&self, id: &str) -> Option<(i64, String)> {
        let state = self.state();
        state.results.iter().find(|(known, ..)| known == id).map(|(_, code, message)| (*code, message.clone()))
    }

    /// How many results of a job were taken.
    pub fn times_taken(&self, id: &str) -> usize {
        self.state().results.iter().filter(|(known, ..)| known == id).count()
    }

    /// The codes of all taken results of a job.
    pub fn codes(&self, id: &str) -> Vec<i64> {
        self.state().results.iter().filter(|(known, ..)| known == id).map(|(_, code, _)| *code).collect()
    }

    pub fn requests(&self) -> Vec<Request> {
        self.state().requests.clone()
    }

    /// The requests to one path.
    pub fn requests_to(&self, path: &str) -> Vec<Request> {
        self.requests().into_iter().filter(|request| request.path == path).collect()
    }

    /// Every status body.
    pub fn statuses(&self) -> Vec<Value> {
        self.requests_to("/agent/status").iter().map(Request::json).collect()
    }

    /// Every result that was sent, taken or not, one list per request.
    pub fn sent_results(&self) -> Vec<Vec<String>> {
        let ids = |request: &Request| items(&request.json(), "").iter().map(|r| text(r, "id").to_string()).collect();
        self.requests_to("/agent/job/result").iter().map(ids).collect()
    }

    /// How many requests have been left to hang.
    pub fn hanging(&self) -> usize {
        self.state().hanging
    }

    /// Forgets the requests so far.
    pub fn forget(&self) {
        self.state().requests.clear();
    }

    /// Serves a file, and returns its URL.
    pub fn serve(&self, name: &str, bytes: &[u8]) -> String {
        let path = format!("/packages/{name}");
        self.state().files.insert(path.clone(), bytes.to_vec());
        format!("http://{}{path}", self.address)
    }

    /// Cuts the next `times` downloads after `bytes` bytes of the body.
    pub fn cut(&self, times: usize, bytes: usize) {
        self.state().cuts = (times, bytes);
    }
}

impl State {
    fn reply(&self, request: &Request, body: &str) -> Vec<u8> {
        let signature = self.signer.as_ref().and_then(|sign| sign(request, body));
        let header = signature.map_or(String::new(), |value| format!("X-BootAgent-Signature: {value}\r\n"));
        reply("200 OK", &header, body)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(&self.address);
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, mut stream: TcpStream) -> io::Result<()> {
        let request = read_request(&stream)?;
        let mode = {
            let mut state = self.state();
            state.requests.push(request.clone());
            state.mode.clone()
        };
        if request.path.starts_with("/packages/") {
            return stream.write_all(&self.file(&request));
        }
        match &mode {
            Mode::Good => stream.write_all(&self.answer(&request)),
            Mode::Close => Ok(()),
            Mode::Raw(bytes) => stream.write_all(bytes),
            Mode::Signed(key, status, headers, body) => {
                let code = status.split(' ').next().unwrap_or_default();
                let nonce = request.header("X-BootAgent-Nonce").unwrap_or_default();
                let signature = hmac(key, &format!("{code}\n{nonce}\n{body}"));
                let headers = format!("X-BootAgent-Signature: {signature}\r\n{headers}");
                stream.write_all(&reply(status, &headers, body))
            }
            Mode::Hang => {
                self.state().hanging += 1;
                while !self.over.load(Ordering::SeqCst) && self.state().mode == mode {
                    pause();
                }
                Ok(())
            }
            Mode::Drip => {
                for byte in self.answer(&request) {
                    if self.over.load(Ordering::SeqCst) || self.state().mode != mode {
                        break;
                    }
                    stream.write_all(&[byte])?;
                    super::let_pass(Duration::from_millis(200));
                }
                Ok(())
            }
        }
    }

    fn answer(&self, request: &Request) -> Vec<u8> {
        let mut state = self.state();
        if request.path.ends_with("/agent/status") {
            let open = |id: &str| !state.results.iter().any(|(known, ..)| known == id);
            let jobs = state.jobs.iter().filter(|(id, _)| state.repeats || open(id));
            let jobs: Vec<&str> = jobs.map(|(_, job)| job.as_str()).collect();
            let cancel: Vec<String> = state.cancel.iter().map(|id| format!("\"{id}\"")).collect();
            let cancel =
                if cancel.is_empty() { String::new() } else { format!(", \"cancel\": [{}]", cancel.join(",")) };
            let body = format!("{{\"errcode\": 0, \"jobs\": [{}]{cancel}}}", jobs.join(","));
            return state.reply(request, &body);
        }
        if !request.path.ends_with("/agent/job/result") {
            return reply("404 Not Found", "", "");
        }
        let body = request.json();
        let results = items(&body, "");
        let refused = |result| state.refuses.as_deref() == Some(text(result, "id"));
        if !state.takes || results.iter().any(refused) {
            return state.reply(request, "{\"errcode\": 1}");
        }
        for result in results {
            let (id, message) = (text(result, "id").to_string(), text(result, "message").to_string());
            state.results.push((id, number(result, "errcode") as i64, message));
        }
        state.reply(request, "{\"errcode\": 0}")
    }

    /// A file or the rest of it; `Range: bytes=N-` is all that is understood.
    fn file(&self, request: &Request) -> Vec<u8> {
        let mut state = self.state();
        let Some(bytes) = state.files.get(&request.path).cloned() else {
            return reply("404 Not Found", "", "no such file");
        };
        let range = request.header("Range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-'));
        let first = range.and_then(|first| first.parse::<usize>().ok());
        let (status, extra) = match first {
            None => ("200 OK", String::new()),
            Some(first) if first >= bytes.len() => return reply("416 Range Not Satisfiable", "", ""),
            Some(first) => {
                let (last, all) = (bytes.len() - 1, bytes.len());
                ("206 Partial Content", format!("Content-Range: bytes {first}-{last}/{all}\r\n"))
            }
        };
        let body = &bytes[first.unwrap_or(0)..];
        let length = body.len();
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n{extra}\r\n");
        let end = match state.cuts {
            (0, _) => length,
            (times, end) => {
                state.cuts.0 = times - 1;
                end.min(length)
            }
        };
        let mut answer = head.into_bytes();
        answer.extend_from_slice(&body[..end]);
        answer
    }
}

fn read_request(stream: &TcpStream) -> io::Result<Request> {
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace().map(str::to_string);
    let (Some(method), Some(path)) = (words.next(), words.next()) else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    let mut request = Request { at: Instant::now(), method, path, headers: Vec::new(), body: String::new() };
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.split_once(':') else { break };
        request.headers.push((name.to_string(), value.trim().to_string()));
    }
    let length = request.header("Content-Length").and_then(|length| length.parse().ok()).unwrap_or(0);
    reader.take(length).read_to_string(&mut request.body)?;
    Ok(request)
}
