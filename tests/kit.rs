//! The kit for server writers (examples/hosts.rs): it finds nothing wrong with the smallest server, and each fault of a server
//! that is broken on purpose.

mod util;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use miniserde::json::{self, Value};
use util::*;

const KEY: &str = "the key of a test, long enough";

/// Gives a job as the smallest server takes one: a file that is renamed into its place.
const GIVE: &str = "mkdir -p jobs/$1 && cat >jobs/$1/a.tmp && mv jobs/$1/a.tmp jobs/$1/a.json";

/// A server with one fault; without a name it has none.
struct Broken {
    fault: &'static str,
    keyed: bool,
    jobs: PathBuf,
    over: BTreeSet<String>,
    offered: bool,
    nonces: BTreeSet<String>,
}

impl Broken {
    /// Serves in threads of this process until that ends; the address.
    fn start(fault: &'static str, keyed: bool, jobs: PathBuf) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound").to_string();
        let (over, nonces) = (BTreeSet::new(), BTreeSet::new());
        let server = Arc::new(Mutex::new(Broken { fault, keyed, jobs, over, offered: false, nonces }));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                stream.set_read_timeout(Some(Duration::from_secs(1))).expect("a good time");
                let server = server.clone();
                if fault == "one at a time" {
                    drop(serve(&server, stream));
                } else {
                    std::thread::spawn(move || serve(&server, stream));
                }
            }
        });
        address
    }

    /// The status and the body of the reply.
    fn reply(&mut self, path: &str, headers: &str, body: &str) -> (u16, String) {
        let refused = |why: &str| (200, format!("{{\"errcode\":1,\"message\":\"{why}\"}}"));
        if self.keyed {
            let (sn, nonce) = (header(headers, "X-BootAgent-Sn"), header(headers, "X-BootAgent-Nonce"));
            let text = format!("POST\n{path}\n{sn}\n{nonce}\n{body}");
            let good = hmac(KEY, &text) == header(headers, "X-BootAgent-Signature");
            let is_new = self.nonces.insert(nonce.to_string());
            let faults = [("takes unsigned", nonce.is_empty()), ("takes altered", !good), ("takes replays", !is_new)];
            if !(good && is_new || faults.iter().any(|(fault, applies)| *applies && self.fault == *fault)) {
                return (403, String::new());
            }
        }
        let Ok(value) = json::from_str::<Value>(body) else {
            return if self.fault == "takes junk" { (200, "{\"errcode\":0}".into()) } else { refused("junk") };
        };
        if path.ends_with("/result") {
            for result in items(&value, "") {
                let id = text(result, "id").to_string();
                let known = id.starts_with("kit-");
                let again = known && !self.over.insert(id);
                if !known && self.fault == "refuses unknown results" || again && self.fault == "refuses a second result"
                {
                    return refused("no such job");
                }
            }
            return (200, "{\"errcode\":0}".into());
        }
        let host = text(&value, "hostname");
        let strict = self.fault == "refuses unknown keys" && body.contains("a key of later");
        let wrong_clock = self.fault == "wants the right time" && number(&value, "timestamp") < 1e9;
        if host.is_empty() || strict || wrong_clock {
            return refused("a bad report");
        }
        let job = std::fs::read_to_string(self.jobs.join(host).join("a.json")).unwrap_or_default();
        let id = json::from_str::<Value>(&job).map(|job| text(&job, "id").to_string()).unwrap_or_default();
        let is_over = self.over.contains(&id) && self.fault != "offers for ever";
        let once = self.fault == "offers once" && self.offered;
        if job.is_empty() || is_over || once {
            return (200, "{\"errcode\":0,\"jobs\":[]}".into());
        }
        self.offered = true;
        (200, format!("{{\"errcode\":0,\"jobs\":[{job}]}}"))
    }
}

fn header<'a>(headers: &'a str, name: &str) -> &'a str {
    let pairs = headers.lines().filter_map(|line| line.split_once(": "));
    pairs.into_iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map_or("", |(_, value)| value)
}

fn serve(server: &Mutex<Broken>, mut stream: TcpStream) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head)? == 0 {
            return Ok(());
        }
    }
    let length: usize = header(&head, "Content-Length").parse().unwrap_or(0);
    if length > 4 << 20 {
        return stream.write_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n");
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let path = head.split(' ').nth(1).unwrap_or_default().to_string();
    let mut server = server.lock().expect("no thread panics with it");
    let (status, reply) = server.reply(&path, &head, &String::from_utf8_lossy(&body));
    let signed = hmac(KEY, &format!("{status}\n{}\n{reply}", header(&head, "X-BootAgent-Nonce")));
    let signed =
        if server.fault == "signs nothing" { String::new() } else { format!("X-BootAgent-Signature: {signed}\r\n") };
    let more = usize::from(server.fault == "cuts replies");
    write!(stream, "HTTP/1.1 {status} X\r\nContent-Length: {}\r\n{signed}\r\n{reply}", reply.len() + more)
}

/// What the kit says about the server at `address`, row by row: kind and name; and its exit code.
fn kit(program: &Path, host: &Host, address: &str, more: &[&str]) -> (Vec<(String, String)>, i32) {
    let mut command = Command::new(program);
    command
        .args(["--server", &format!("http://{address}"), "--json", "--give", GIVE])
        .args(more)
        .current_dir(&host.dir);
    let ran = run(&mut command).expect("the kit ends");
    let rows: Value = json::from_str(&ran.out).unwrap_or_else(|_| panic!("no JSON: {}{}", ran.out, ran.err));
    let rows = items(&rows, "").iter().map(|row| (text(row, "row").to_string(), text(row, "name").to_string()));
    (rows.collect(), ran.code)
}

fn faults(rows: &[(String, String)]) -> Vec<&str> {
    rows.iter().filter(|(kind, _)| kind == "FAULT").map(|(_, name)| name.as_str()).collect()
}

fn program() -> Option<PathBuf> {
    example("hosts").or_else(|| {
        skipped("the example hosts (cargo build --examples)");
        None
    })
}

#[test]
fn each_fault_of_a_broken_server_is_found() {
    let Some(program) = program() else { return };
    for (fault, keyed, want) in [
        ("", false, &[][..]),
        ("", true, &[]),
        ("refuses unknown keys", false, &["unknown-key"]),
        ("wants the right time", false, &["clock-at-1970"]),
        ("takes junk", false, &["result-not-json", "not-json"]),
        ("refuses unknown results", false, &["unknown-result", "result-beside-unknown"]),
        ("refuses a second result", false, &["result-twice"]),
        ("offers once", false, &["job-offered-again"]),
        ("offers for ever", false, &["job-over"]),
        ("one at a time", false, &["beside-slow-requests"]),
        ("takes unsigned", true, &["unsigned"]),
        ("takes altered", true, &["unsigned", "altered"]),
        ("takes replays", true, &["replay"]),
    ] {
        let host = Host::new();
        host.write("key", &format!("{KEY}\n"));
        let address = Broken::start(fault, keyed, host.path("jobs"));
        let (rows, code) = kit(&program, &host, &address, if keyed { &["--key-file", "key"] } else { &[] });
        assert_eq!(faults(&rows), want, "{fault:?}: {rows:?}");
        assert_eq!(code, i32::from(!want.is_empty()), "{fault:?}");
    }
    // With these nothing is right.
    for (fault, keyed) in [("cuts replies", false), ("signs nothing", true)] {
        let host = Host::new();
        host.write("key", &format!("{KEY}\n"));
        let address = Broken::start(fault, keyed, host.path("jobs"));
        let (rows, code) = kit(&program, &host, &address, if keyed { &["--key-file", "key"] } else { &[] });
        assert!(faults(&rows).contains(&"full-report") && code == 1, "{fault}: {rows:?}");
    }
}

#[test]
fn the_reference_server_has_none_and_bears_load() {
    let Some((program, server)) = program().zip(example("server")) else { return };
    for keyed in [false, true] {
        let host = Host::new();
        host.write("key", &format!("{KEY}\n"));
        host.write("jobs/all/.keep", "");
        let key: &[&str] = if keyed { &["--key-file", "key"] } else { &[] };
        let mut command = Command::new(&server);
        command.args(["--listen", "127.0.0.1:0", "--jobs", "jobs"]).args(key).current_dir(&host.dir);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it can be executed");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line).expect("a line");
        let address = line.trim().strip_prefix("listening on ").expect("the first line says where").to_string();
        let load = [key, &["--hosts", "1000", "--rate", "100", "--seconds", "2"]].concat();
        let (rows, code) = kit(&program, &host, &address, &load);
        child.kill().and_then(|()| child.wait()).expect("it is ours");
        assert_eq!((faults(&rows), code), (vec![], 0), "{rows:?}");
        assert!(rows.contains(&("ok".into(), "load".into())), "{rows:?}");
        assert_eq!(rows.iter().any(|(kind, _)| kind == "not tried"), !keyed, "{rows:?}");
    }
}
