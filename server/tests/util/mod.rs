//! A real bootserver in a temporary directory, and hosts that are played: they sign, report and answer as agents do.
#![allow(dead_code, reason = "each test file uses a part")]

use hmac::{Hmac, KeyInit, Mac};
use serde_json::{json, Value};
use sha2::{Digest, Sha256};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How long anything may take.
pub const DEADLINE: Duration = Duration::from_secs(30);

pub struct Server {
    pub dir: PathBuf,
    pub address: String,
    /// Where the pages are: `ADDRESS:PORT`.
    pub pages: String,
    child: Option<Child>,
    options: Vec<String>,
    /// What is in the server's environment beside ours.
    pub env: Vec<(&'static str, String)>,
    log: Arc<Mutex<String>>,
}

impl Server {
    /// A new directory with a server on it.
    pub fn start(options: &[&str]) -> Server {
        let mut server = Server::stopped(options);
        server.run(&["init"]);
        server.resume();
        server
    }

    /// A new directory in which nothing is yet.
    pub fn stopped(options: &[&str]) -> Server {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("bootserver-{}-{number}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        let options = options.iter().map(|word| word.to_string()).collect();
        let (address, pages) = (String::new(), String::new());
        Server { dir, address, pages, child: None, options, env: Vec::new(), log: Arc::default() }
    }

    /// What it has said so far.
    pub fn log(&self) -> String {
        self.log.lock().expect("no panic").clone()
    }

    /// Starts it again.
    pub fn resume(&mut self) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bootserver"));
        // The same port again, so that real daemons find it.
        let listen = if self.address.is_empty() { "127.0.0.1:0" } else { &self.address };
        command.arg("-d").arg(&self.dir).args(["serve", "--listen", listen, "--pages", "127.0.0.1:0"]);
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command.args(&self.options).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("bootserver starts");
        let mut lines = BufReader::new(child.stderr.take().expect("its log")).lines();
        let mut log = String::new();
        loop {
            let line = lines.next().unwrap_or_else(|| panic!("bootserver ended early: {log}")).expect("a line");
            if let Some((_, address)) = line.split_once("hosts: listening on ") {
                self.address = address.to_string();
            }
            if let Some((_, url)) = line.split_once("pages: listening on ") {
                self.pages = url.split('/').nth(2).unwrap_or_default().to_string();
            }
            if line.ends_with(" ready") {
                break;
            }
            log += &line;
        }
        // What it says later must not fill the pipe.
        let log = self.log.clone();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                log.lock().expect("no panic").push_str(&format!("{line}\n"));
            }
        });
        self.child = Some(child);
    }

    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("a kill");
            child.wait().expect("its end");
        }
    }

    /// Runs a verb: exit code, stdout, stderr.
    pub fn try_run(&self, words: &[&str]) -> (i32, String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bootserver"));
        let output = command.arg("-d").arg(&self.dir).args(words).output().expect("bootserver runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
    }

    pub fn run(&self, words: &[&str]) -> String {
        let (code, out, error) = self.try_run(words);
        assert_eq!(code, 0, "{words:?}: {out}{error}");
        out
    }

    pub fn json(&self, words: &[&str]) -> Vec<Value> {
        let out = self.run(&[&["--json"], words].concat());
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{words:?}: {error}: {out}"))
    }

    pub fn key(&self, words: &[&str]) -> String {
        self.run(&[&["key", "new"], words].concat()).trim().to_string()
    }

    /// The host of a list, by its sn.
    pub fn host(&self, sn: &str) -> Value {
        let filter = format!("sn={sn}");
        self.json(&["host", "list", &filter]).into_iter().next().unwrap_or(Value::Null)
    }

    /// A token of a program.
    pub fn token(&self, role: &str) -> String {
        self.run(&["token", "new", role, "--role", role]).trim().to_string()
    }

    /// What is answered at the pages' door to whoever shows a token.
    pub fn page(&self, token: &str, path: &str) -> String {
        let head = format!("GET {path} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {token}\r\n\r\n", self.pages);
        let (status, _, body) = try_exchange(&self.pages, &head).expect("an exchange");
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    pub fn events(&self) -> String {
        self.run(&["events", "-n", "1000"])
    }

    /// A package that is a release.
    pub fn release(&self, agent: &str, version: &str) {
        let file = self.dir.join(format!("{agent}-{version}.tar.gz"));
        fs::write(&file, format!("{agent} {version}")).expect("a package");
        self.run(&["release", "add", agent, version, "--file", file.to_str().expect("a path")]);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Waits until `check` gives something.
pub fn wait_for<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = check() {
            return found;
        }
        assert!(begun.elapsed() < DEADLINE, "{what}: not within {DEADLINE:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A host that is played.
#[derive(Clone)]
pub struct Host {
    pub name: String,
    pub sn: String,
    pub key: Option<String>,
    /// Whether it says which key it signs with, as agents from 1.1 on do.
    pub names_key: bool,
    pub boot: String,
    /// `None`: an agent of 1.0.0.
    pub seq: Option<i64>,
    /// Keys that replace those of the report; `null` removes one.
    pub more: Value,
    pub nonce: u64,
}

pub struct Answer {
    pub status: u16,
    pub body: Value,
    pub head: String,
    /// Whether it is signed with the host's key.
    pub signed: bool,
}

impl Host {
    pub fn new(name: &str, sn: &str, key: Option<&str>) -> Host {
        let (boot, key) = (format!("boot-{sn}"), key.map(str::to_string));
        Host { name: name.into(), sn: sn.into(), key, names_key: true, boot, seq: Some(0), more: json!({}), nonce: 0 }
    }

    pub fn body(&self) -> Value {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock").as_secs();
        let mut body = json!({ "hostname": self.name, "version": "bootagent-1.1.0-x86_64", "uptime": 5,
            "timestamp": now, "step": 1, "agents": [], "sn": self.sn, "boot_id": self.boot, "os": "debian 12",
            "open": [] });
        if let Some(seq) = self.seq {
            body["seq"] = json!(seq);
        }
        for (key, value) in self.more.as_object().expect("an object") {
            match value {
                Value::Null => drop(body.as_object_mut().expect("an object").remove(key)),
                value => body[key] = value.clone(),
            }
        }
        body
    }

    pub fn report(&mut self, server: &Server) -> Answer {
        self.seq = self.seq.map(|seq| seq + 1);
        self.post(server, "/agent/status", &self.body().to_string())
    }

    /// Sends a report and does not wait for the answer.
    pub fn begin_report(&mut self, server: &Server) -> TcpStream {
        self.seq = self.seq.map(|seq| seq + 1);
        let (request, _) = self.request("/agent/status", &self.body().to_string());
        let mut stream = TcpStream::connect(&server.address).expect("a connection");
        stream.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        stream.write_all(request.as_bytes()).expect("a request");
        stream
    }

    pub fn jobs(&mut self, server: &Server) -> Vec<Value> {
        let answer = self.report(server);
        assert_eq!((answer.status, &answer.body["errcode"]), (200, &json!(0)), "{}", answer.body);
        answer.body["jobs"].as_array().expect("jobs").clone()
    }

    pub fn result(&mut self, server: &Server, id: &str, errcode: i64, message: &str) -> Answer {
        let body = json!([{ "id": id, "errcode": errcode, "message": message }]);
        self.post(server, "/agent/job/result", &body.to_string())
    }

    /// Whether the server at an address, which may end at any moment, took a result.
    pub fn try_result(&mut self, address: &str, id: &str) -> bool {
        let body = json!([{ "id": id, "errcode": 0, "message": "success" }]).to_string();
        let (request, _) = self.request("/agent/job/result", &body);
        try_exchange(address, &request).is_ok_and(|(status, _, body)| status == 200 && body == "{\"errcode\":0}")
    }

    /// The same for a report.
    pub fn try_report(&mut self, address: &str) -> bool {
        self.seq = self.seq.map(|seq| seq + 1);
        let (request, _) = self.request("/agent/status", &self.body().to_string());
        try_exchange(address, &request).is_ok_and(|(status, _, body)| status == 200 && body.contains("\"errcode\":0"))
    }

    pub fn post(&mut self, server: &Server, path: &str, body: &str) -> Answer {
        let (request, nonce) = self.request(path, body);
        let (status, head, text) = exchange(server, &request);
        let wanted = self.key.as_ref().map(|key| mac(key, &format!("{status}\n{nonce}\n{text}")));
        let signed = wanted.is_some_and(|wanted| head.contains(&format!("x-bootagent-signature: {wanted}")));
        Answer { status, body: serde_json::from_str(&text).unwrap_or(Value::Null), head, signed }
    }

    /// A signed request, and its nonce.
    fn request(&mut self, path: &str, body: &str) -> (String, String) {
        self.nonce += 1;
        let nonce = hex(&Sha256::digest(format!("{}{}{}", self.sn, self.boot, self.nonce))[..16]);
        let mut head =
            format!("POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
        if let Some(key) = &self.key {
            let signature = mac(key, &format!("POST\n{path}\n{}\n{nonce}\n{body}", self.sn));
            head += &format!(
                "X-BootAgent-Sn: {}\r\nX-BootAgent-Nonce: {nonce}\r\nX-BootAgent-Signature: {signature}\r\n",
                self.sn
            );
            if self.names_key {
                head += &format!("X-BootAgent-Key: {}\r\n", hex(&Sha256::digest(key)[..8]));
            }
        }
        (format!("{head}\r\n{body}"), nonce)
    }
}

fn mac(key: &str, text: &str) -> String {
    let mac = Hmac::<Sha256>::new_from_slice(key.as_bytes()).expect("a key");
    hex(&mac.chain_update(text).finalize().into_bytes())
}

/// One request: status, head in lower case, body.
pub fn exchange(server: &Server, request: &str) -> (u16, String, String) {
    try_exchange(&server.address, request).expect("an exchange")
}

pub fn try_exchange(address: &str, request: &str) -> std::io::Result<(u16, String, String)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.write_all(request.as_bytes())?;
    read_answer(&mut stream)
}

pub fn read_answer(stream: &mut TcpStream) -> std::io::Result<(u16, String, String)> {
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let text = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").ok_or(std::io::ErrorKind::UnexpectedEof)?;
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok()).ok_or(std::io::ErrorKind::InvalidData)?;
    Ok((status, head.to_lowercase(), body.to_string()))
}

/// The bootagent of this project, as `make server-test` builds it.
pub fn bootagent() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let path = std::env::var_os("BOOTAGENT").map_or_else(|| root.join("target/debug/bootagent"), PathBuf::from);
    assert!(path.exists(), "{} is not there: make build", path.display());
    path
}
