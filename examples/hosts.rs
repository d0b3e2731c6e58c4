//! A kit for people who write a control server: it plays hosts with the daemon's own messages, and says row by row what the
//! server does right and wrong; then it is as many hosts as you like, and measures.
//!
//!     cargo run --release --example hosts -- --server http://127.0.0.1:8080 [--key-file F] [--give CMD] [--json]
//!         [--hosts N] [--rate R] [--seconds S]
//!
//! A row is `ok|FAULT|note|not tried NAME: TEXT`; the exit code is 0 when there is no FAULT. `--give CMD` makes the server
//! offer a job: CMD is run by sh with the host's name as $1 and the job on its standard input. With `--hosts` there are so many
//! hosts, which report every 600 s together, or R times a second, for S seconds; a latency counts from the moment at which its
//! report was due, so that a server that stops answering cannot look fast. Nothing is waited for in parallel but by threads.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bootagent::model::job::{Code, Outcome};
use bootagent::model::report::{AgentReport, Report, Status};
use bootagent::wire::{proto, sign};
use sha2::{Digest, Sha256};

/// How long a reply may take, as long as the daemon waits for one.
const PATIENCE: Duration = Duration::from_secs(30);

/// The reporting interval of the hosts.
const STEP: u64 = 600;

/// Connections at a time when load is made.
const WORKERS: u64 = 256;

/// A reply of the server.
struct Reply {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Reply {
    fn header(&self, name: &str) -> Option<&str> {
        let pairs = self.head.lines().filter_map(|line| line.split_once(':'));
        pairs.into_iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }

    /// Whether it takes what was sent.
    fn takes(&self) -> bool {
        self.status == 200 && proto::result_reply(&self.body).is_ok()
    }

    /// What it is, for a row.
    fn text(&self) -> String {
        let body: String = String::from_utf8_lossy(&self.body).chars().take(120).collect();
        format!("HTTP {} {body}", self.status)
    }
}

/// One host that is played.
struct Host {
    name: String,
    sn: String,
    boot: String,
    seq: AtomicU64,
}

struct Kit {
    base: String,
    keys: Option<sign::Keys>,
    give: Option<String>,
    /// Makes names and ids differ from those of an earlier run.
    run: u64,
    rows: Mutex<Vec<(&'static str, &'static str, String)>>,
}

fn digits(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn uuid(text: &str) -> String {
    let hex = digits(text);
    format!("{}-{}-4{}-8{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..32])
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

impl Kit {
    fn host(&self, name: &str) -> Host {
        let name = format!("kit-{:x}-{name}", self.run);
        Host { sn: uuid(&name), boot: uuid(&format!("boot {name}")), seq: AtomicU64::new(1), name }
    }

    fn report(&self, host: &Host) -> Report {
        let agent = AgentReport {
            name: "web".into(),
            version: "1.0".into(),
            status: Status::Running,
            uptime: Duration::from_secs(60),
            pid: 100,
            failures: 0,
            detail: "".into(),
            cpu: Some(1.5),
            memory: Some(10 << 20),
            limits_by: Some("cgroup2".into()),
            job_limits: None,
        };
        Report {
            hostname: host.name.as_str().into(),
            version: concat!("bootagent-", env!("CARGO_PKG_VERSION"), "-x86_64").into(),
            uptime: Duration::from_secs(61),
            timestamp: now(),
            step: Duration::from_secs(STEP),
            agents: vec![agent],
            sn: host.sn.as_str().into(),
            boot_id: host.boot.as_str().into(),
            events: Vec::new(),
            os: "debian 12".into(),
            labels: vec![("role".into(), "kit".into())],
            open: Vec::new(),
            silence: None,
            troubles: Vec::new(),
            seq: Some(host.seq.fetch_add(1, Ordering::Relaxed)),
        }
    }

    /// A whole request as bytes, and its nonce. `signed`: with a key, where there is one.
    fn request(&self, host: &Host, path: &str, body: &str, signed: bool) -> (Vec<u8>, String) {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let url = format!("{}{path}", self.base);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let mut chance = [0; 32];
        chance[..8].copy_from_slice(&self.run.to_le_bytes());
        let (mut headers, mut nonce) = (String::new(), String::new());
        if let Some(keys) = self.keys.as_ref().filter(|_| signed) {
            let signed = keys.sign(&url, &host.sn, sign::nonce(&host.sn, number, &chance), body.as_bytes());
            headers = signed.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
            nonce = signed.nonce.to_string();
        }
        let (_, rest) = url.split_once("://").unwrap_or(("", &url));
        let (at, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\nContent-Type: application/json\r\n{headers}\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        (request.into_bytes(), nonce)
    }

    fn connect(&self) -> Result<TcpStream, String> {
        let (_, rest) = self.base.split_once("://").unwrap_or(("", &self.base));
        let at = rest.split('/').next().unwrap_or_default();
        let address = at.to_socket_addrs().ok().and_then(|mut all| all.next()).ok_or(format!("no address of {at}"))?;
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(10)).map_err(|why| why.to_string())?;
        stream
            .set_read_timeout(Some(PATIENCE))
            .and(stream.set_write_timeout(Some(PATIENCE)))
            .map_err(|why| why.to_string())?;
        Ok(stream)
    }

    /// Sends these bytes, and reads a whole reply as the daemon would: not shorter than it says, and not over 1 MiB.
    fn exchange(&self, request: &[u8]) -> Result<Reply, String> {
        let mut stream = self.connect()?;
        // A server may answer, and close, before it has read all.
        let _ = stream.write_all(request);
        read_reply(&mut stream)
    }

    /// Sends a message. With a key the reply must be signed, as it does not count otherwise.
    fn post(&self, host: &Host, path: &str, body: &str) -> Result<Reply, String> {
        let (request, nonce) = self.request(host, path, body, true);
        let reply = self.exchange(&request)?;
        if let Some(keys) = &self.keys {
            let signature = reply.header("X-BootAgent-Signature");
            let checked = keys.verify(reply.status, &nonce, &reply.body, signature);
            checked.map_err(|why| format!("{why} ({})", reply.text()))?;
        }
        Ok(reply)
    }

    fn status(&self, host: &Host) -> Result<Reply, String> {
        self.post(host, "/agent/status", &proto::status_body(&self.report(host)))
    }

    fn row(&self, kind: &'static str, name: &'static str, text: String) {
        self.rows.lock().expect("no thread panics with it").push((kind, name, text));
    }

    /// A row that is ok when the reply takes what was sent.
    fn must_take(&self, name: &'static str, reply: Result<Reply, String>) -> bool {
        match reply {
            Ok(reply) if reply.takes() => {
                self.row("ok", name, "taken".into());
                true
            }
            Ok(reply) => {
                self.row("FAULT", name, format!("want 200 and errcode 0, got {}", reply.text()));
                false
            }
            Err(why) => {
                self.row("FAULT", name, why);
                false
            }
        }
    }

    /// A row that is ok when the reply does not take what was sent, or the connection ends.
    fn must_refuse(&self, name: &'static str, reply: Result<Reply, String>) {
        match reply {
            Ok(reply) if reply.takes() => self.row("FAULT", name, format!("was taken: {}", reply.text())),
            Ok(reply) => self.row("ok", name, format!("refused: {}", reply.text())),
            Err(why) => self.row("ok", name, format!("refused: {why}")),
        }
    }
}

fn read_reply(stream: &mut TcpStream) -> Result<Reply, String> {
    let mut bytes = Vec::new();
    let ended = stream.take(2 << 20).read_to_end(&mut bytes);
    let split = bytes.windows(4).position(|four| four == b"\r\n\r\n");
    let Some(split) = split else {
        return Err(format!("no reply: {}", ended.err().map_or("closed".into(), |e| e.to_string())));
    };
    let head = String::from_utf8_lossy(&bytes[..split]).into_owned();
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or(format!("no status in {head:?}"))?;
    let reply = Reply { status, body: bytes[split + 4..].to_vec(), head };
    let length = reply.header("Content-Length").and_then(|length| length.parse::<usize>().ok());
    match length {
        Some(length) if length > reply.body.len() => {
            Err(format!("the reply is cut: {} of {length} bytes", reply.body.len()))
        }
        _ if reply.body.len() > 1 << 20 => Err("the reply is over 1 MiB".into()),
        _ => Ok(reply),
    }
}

/// What a server must take from every host.
fn reports(kit: &Kit) {
    let host = kit.host("plain");
    let basic = format!(
        "{{\"hostname\":\"{}\",\"version\":\"bootagent-1.0.0-x86_64\",\"uptime\":1,\"timestamp\":{},\"step\":600,\
         \"agents\":[{{\"name\":\"web\",\"version\":\"1\",\"status\":\"stoped\",\"uptime\":0}}]}}",
        kit.host("basic").name,
        now()
    );
    match kit.post(&kit.host("basic"), "/agent/status", &basic) {
        Ok(reply) if reply.takes() => kit.row("ok", "basic-report", "taken".into()),
        Ok(reply) if reply.status < 500 => {
            kit.row("note", "basic-report", format!("refuses hosts without sn: {}", reply.text()))
        }
        Ok(reply) => kit.row("FAULT", "basic-report", reply.text()),
        Err(why) => kit.row("FAULT", "basic-report", why),
    }
    kit.must_take("full-report", kit.status(&host));
    let more = proto::status_body(&kit.report(&host)).replacen('{', "{\"a key of later\":[{}],", 1);
    kit.must_take("unknown-key", kit.post(&host, "/agent/status", &more));
    let mut large = kit.report(&host);
    large.agents = (0..2000)
        .map(|n| AgentReport {
            name: format!("a{n}").into(),
            detail: "x".repeat(300).into(),
            ..large.agents[0].clone()
        })
        .collect();
    kit.must_take("large-report", kit.post(&host, "/agent/status", &proto::status_body(&large)));
    for (name, timestamp) in [("clock-at-1970", 0), ("clock-at-2100", 4_102_444_800)] {
        let report = Report { timestamp, ..kit.report(&host) };
        kit.must_take(name, kit.post(&host, "/agent/status", &proto::status_body(&report)));
    }
    let again = Host { sn: uuid(&format!("another {}", host.name)), ..kit.host("plain") };
    kit.must_take("re-imaged", kit.status(&again));
    let twin = Host { boot: uuid("twin"), ..kit.host("clone") };
    let first = kit.host("clone");
    let replies = [&first, &twin, &first, &twin].map(|host| kit.status(host).map(|reply| reply.status));
    match replies.iter().find_map(|reply| reply.as_ref().err()) {
        Some(why) => kit.row("FAULT", "clone", format!("one sn with two boot ids in turn is not answered: {why}")),
        None => kit.row("note", "clone", format!("one sn with two boot ids in turn: {replies:?}")),
    }
}

/// What a server must survive: after each, a good report is taken within 5 s.
fn bad_requests(kit: &Kit) {
    let host = kit.host("rude");
    for (name, body) in [("not-json", "junk"), ("not-an-object", "[]"), ("no-keys", "{}")] {
        kit.must_refuse(name, kit.post(&host, "/agent/status", body));
    }
    let (whole, _) = kit.request(&host, "/agent/status", &proto::status_body(&kit.report(&host)), true);
    if let Ok(mut stream) = kit.connect() {
        let _ = stream.write_all(&whole[..whole.len() - 10]);
    }
    kit.must_take("after-cut-request", kit.status(&host));
    // Slow clients hold up nobody else.
    let slow: Vec<TcpStream> = (0..20).filter_map(|_| kit.connect().ok()).collect();
    slow.iter().for_each(|stream| drop((&mut &*stream).write_all(&whole[..20])));
    let begin = Instant::now();
    if kit.must_take("beside-slow-requests", kit.status(&host)) && begin.elapsed() > Duration::from_secs(5) {
        kit.row(
            "FAULT",
            "beside-slow-requests",
            format!("20 slow requests held up another one for {:?}", begin.elapsed()),
        );
    }
    drop(slow);
    let junk = "x".repeat(64 << 20);
    kit.must_refuse("64-MiB-body", kit.post(&host, "/agent/status", &junk));
    kit.must_take("after-64-MiB", kit.status(&host));
}

/// What a server with keys must refuse.
fn signatures(kit: &Kit) {
    let host = kit.host("signed");
    if kit.keys.is_none() {
        return kit.row("not tried", "signatures", "give --key-file".into());
    }
    let body = || proto::status_body(&kit.report(&host));
    kit.must_refuse("unsigned", kit.exchange(&kit.request(&host, "/agent/status", &body(), false).0));
    let (mut wrong, _) = kit.request(&host, "/agent/status", &body(), true);
    // The last digit of seq: what is altered is good JSON still.
    let last = wrong.len() - 2;
    wrong[last] ^= 1;
    kit.must_refuse("altered", kit.exchange(&wrong));
    let (once, _) = kit.request(&host, "/agent/status", &body(), true);
    if kit.exchange(&once).is_ok_and(|reply| reply.takes()) {
        kit.must_refuse("replay", kit.exchange(&once));
    } else {
        kit.row("FAULT", "replay", "a good request was not taken the first time".into());
    }
    kit.must_take("after-refusals", kit.status(&host));
}

/// Results, and the way of a job.
fn jobs(kit: &Kit) {
    let host = kit.host("jobs");
    kit.must_take("first-report", kit.status(&host));
    let done = |id: &str| (id.into(), Outcome::new(Code::Success, "success"));
    let send = |ids: &[&str]| {
        let results: Vec<_> = ids.iter().map(|id| done(id)).collect();
        kit.post(&host, "/agent/job/result", &proto::results_body(&results))
    };
    kit.must_take("unknown-result", send(&["nobody-gave-this"]));
    kit.must_refuse("result-not-json", kit.post(&host, "/agent/job/result", "junk"));
    let Some(give) = &kit.give else {
        return kit.row("not tried", "job-offered", "give --give CMD".into());
    };
    let id = format!("kit-{:x}", kit.run);
    let job = format!("{{\"id\":\"{id}\",\"action\":\"restart\",\"name\":\"web\"}}");
    let child = Command::new("sh").args(["-c", give, "give", &host.name]).stdin(Stdio::piped()).spawn();
    let gave = child.and_then(|mut child| {
        child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(job.as_bytes()))?;
        child.wait()
    });
    if !gave.as_ref().is_ok_and(|status| status.success()) {
        return kit.row("FAULT", "job-offered", format!("the command of --give failed: {gave:?}"));
    }
    // A server may choose the id itself: whatever is offered counts.
    let offered = || -> Option<String> {
        let reply = kit.status(&host).ok()?;
        let jobs = proto::reply(&reply.body).ok()?.jobs;
        jobs.into_iter().flatten().next().map(|job| job.id.into())
    };
    let until = Instant::now() + Duration::from_secs(10);
    let mut first = offered();
    while first.is_none() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(200));
        first = offered();
    }
    let Some(id) = first else { return kit.row("FAULT", "job-offered", "no job within 10 s".into()) };
    kit.row("ok", "job-offered", id.clone());
    match offered() {
        Some(again) if again == id => kit.row("ok", "job-offered-again", "until its result is there".into()),
        other => {
            kit.row("FAULT", "job-offered-again", format!("want \"{id}\" until its result is there, got {other:?}"))
        }
    }
    kit.must_take("result-beside-unknown", send(&["nobody-gave-this-either", &id]));
    kit.must_take("result-twice", send(&[&id]));
    match offered() {
        Some(again) if again == id => kit.row("FAULT", "job-over", "it is offered after its result".into()),
        _ => kit.row("ok", "job-over", "not offered after its result".into()),
    }
}

/// Reports at a rate, by many hosts.
fn load(kit: &Kit, hosts: u64, rate: f64, seconds: u64) {
    let hosts: Vec<Host> = (0..hosts).map(|number| kit.host(&format!("load-{number}"))).collect();
    let (next, total) = (AtomicU64::new(0), (rate * seconds as f64).ceil() as u64);
    let (taken, busy, wrong) = (AtomicU64::new(0), AtomicU64::new(0), Mutex::new(Vec::<String>::new()));
    let latencies = Mutex::new(Vec::with_capacity(total as usize));
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..WORKERS.min(total) {
            scope.spawn(|| loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= total {
                    return;
                }
                let due = begin + Duration::from_secs_f64(number as f64 / rate);
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                let reply = kit.status(&hosts[number as usize % hosts.len()]);
                latencies.lock().expect("no thread panics with it").push(due.elapsed());
                match reply {
                    Ok(reply) if reply.takes() => drop(taken.fetch_add(1, Ordering::Relaxed)),
                    Ok(reply) if is_pause(kit, &reply) => drop(busy.fetch_add(1, Ordering::Relaxed)),
                    Ok(reply) => wrong.lock().expect("no thread panics with it").push(reply.text()),
                    Err(why) => wrong.lock().expect("no thread panics with it").push(why),
                }
            });
        }
    });
    let mut latencies = latencies.into_inner().expect("no thread panicked");
    latencies.sort_unstable();
    let at = |part: f64| latencies[((latencies.len() - 1) as f64 * part) as usize].as_secs_f64() * 1000.0;
    let (took, wrong) = (begin.elapsed().as_secs_f64(), wrong.into_inner().expect("no thread panicked"));
    let text = format!(
        "{total} reports of {} hosts in {took:.1} s: {} taken, {} told to come later, {} wrong; median {:.1} ms, p99 {:.1} ms, worst {:.1} ms",
        hosts.len(), taken.into_inner(), busy.into_inner(), wrong.len(), at(0.5), at(0.99), at(1.0)
    );
    match wrong.first() {
        None => kit.row("ok", "load", text),
        Some(first) => kit.row("FAULT", "load", format!("{text}; the first: {first}")),
    }
}

/// Whether a reply asks for a pause in the way that the daemon heeds.
fn is_pause(kit: &Kit, reply: &Reply) -> bool {
    let asked = match kit.keys {
        Some(_) => proto::retry_after(&reply.body),
        None => reply.header("Retry-After").and_then(|seconds| seconds.parse().ok()),
    };
    matches!(reply.status, 429 | 503) && asked.is_some()
}

fn run() -> Result<bool, String> {
    let mut kit = Kit { base: String::new(), keys: None, give: None, run: 0, rows: Mutex::default() };
    let since = SystemTime::now().duration_since(UNIX_EPOCH).map_err(|why| why.to_string())?;
    kit.run = since.as_millis() as u64 ^ u64::from(std::process::id()) << 44;
    let (mut hosts, mut rate, mut seconds, mut json) = (0, None, 10, false);
    let mut args = std::env::args().skip(1);
    while let Some(option) = args.next() {
        let mut value = || args.next().ok_or(format!("{option} wants a value"));
        let number = |text: String| text.parse::<u64>().map_err(|_| format!("want a number, got {text:?}"));
        match option.as_str() {
            "--server" => kit.base = value()?.trim_end_matches('/').to_string(),
            "--key-file" => {
                let text = std::fs::read(value()?).map_err(|why| format!("cannot read the key file: {why}"))?;
                kit.keys = Some(sign::Keys::read(&text).map_err(|why| why.to_string())?);
            }
            "--give" => kit.give = Some(value()?),
            "--hosts" => hosts = number(value()?)?,
            "--rate" => rate = Some(number(value()?)? as f64),
            "--seconds" => seconds = number(value()?)?,
            "--json" => json = true,
            _ => return Err(format!("unknown option {option}")),
        }
    }
    if kit.base.is_empty() {
        return Err("want --server http://HOST:PORT".into());
    }
    reports(&kit);
    jobs(&kit);
    signatures(&kit);
    bad_requests(&kit);
    if hosts > 0 {
        load(&kit, hosts, rate.unwrap_or(hosts as f64 / STEP as f64).max(0.1), seconds);
    }
    let rows = kit.rows.into_inner().map_err(|why| why.to_string())?;
    let text = |text: &str| miniserde::json::to_string(text);
    let line = |(kind, name, what): &(&str, &str, String)| match json {
        true => format!("{{\"row\":{},\"name\":{},\"text\":{}}}", text(kind), text(name), text(what)),
        false => format!("{kind} {name}: {what}"),
    };
    let lines: Vec<String> = rows.iter().map(line).collect();
    println!("{}", if json { format!("[{}]", lines.join(",\n ")) } else { lines.join("\n") });
    Ok(rows.iter().all(|(kind, ..)| *kind != "FAULT"))
}

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("hosts: {why}");
            ExitCode::from(2)
        }
    }
}
