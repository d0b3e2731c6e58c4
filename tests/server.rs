//! The smallest server (examples/server.rs) as a server author reads it: what it hands out, keeps, serves and refuses.

mod util;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use miniserde::json::{self, Value};

use util::*;

const STATUS: &str = r#"{"hostname":"web-01","version":"bootagent-1.0.0-x86_64","uptime":1,"timestamp":2,"step":600,
    "agents":[{"name":"web","version":"1.0","status":"running","uptime":1.5}]}"#;

/// What stands for the host in the ids that it gets: the first 8 digits of the SHA-256 of "web-01".
const HOST: &str = "0b9d9f06";

/// The smallest server, running.
struct Reference(Child, String);

impl Reference {
    /// Starts one over the directories of `host`; `None` where the example was not built.
    fn start(host: &Host) -> Option<Reference> {
        Reference::start_with(host, &[])
    }

    fn start_with(host: &Host, options: &[&str]) -> Option<Reference> {
        let program = example("server").or_else(|| {
            skipped("the smallest server (cargo build --examples)");
            None
        })?;
        let mut command = Command::new(program);
        command.args(["--listen", "127.0.0.1:0"]).current_dir(&host.dir);
        command
            .args(["--packages", "packages", "--jobs", "jobs"])
            .args(options)
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = command.spawn().expect("the example can be executed");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line).expect("a line");
        let address = line.trim().strip_prefix("listening on ").expect("the first line says where").to_string();
        Some(Reference(child, address))
    }

    /// Sends one request; the whole answer.
    fn ask(&self, head: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(&self.1).expect("it listens");
        let request = format!("{head}\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        stream.write_all(request.as_bytes()).expect("it reads");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("it answers");
        String::from_utf8(answer).expect("text")
    }

    /// Posts a body; the answer as JSON.
    fn post(&self, path: &str, body: &str) -> Value {
        let answer = self.ask(&format!("POST {path} HTTP/1.1"), body);
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        json::from_str(answer.split_once("\r\n\r\n").expect("a head").1).expect("a JSON body")
    }

    /// The ids of the jobs it hands out for a report.
    fn given(&self) -> Vec<String> {
        let reply = self.post("/agent/status", STATUS);
        assert_eq!(number(&reply, "errcode"), 0.0);
        items(&reply, "jobs")
            .iter()
            .map(|job| text(job, "id").to_string())
            .map(|id| id.replace(HOST, "web-01"))
            .collect()
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A directory with packages and jobs, and a server over it.
fn pair() -> Option<(Host, Reference)> {
    let host = Host::new();
    host.write("packages/sub/a.tar", "0123456789");
    host.write("secret", "secret");
    std::os::unix::fs::symlink(host.path("secret"), host.path("packages/link")).expect("a link");
    host.write("jobs/web-01/1.json", r#"[{"id":"w1","action":"start","name":"web"},{"id":"w2"},{"action":"no id"}]"#);
    host.write("jobs/all/1.json", r#"{"id":"a1","action":"stop","name":"web"}"#);
    host.write("jobs/all/2.json", "{ half of a job");
    host.write("jobs/web-02/1.json", r#"{"id":"other"}"#);
    let server = Reference::start(&host)?;
    Some((host, server))
}

#[test]
fn jobs_are_given_until_their_result_came() {
    let Some((host, mut server)) = pair() else { return };
    assert_eq!(server.given(), ["w1.web-01.1", "w2.web-01.1", "a1.web-01.1"]);
    assert_eq!(server.given(), ["w1.web-01.1", "w2.web-01.1", "a1.web-01.1"]);
    let results =
        r#"[{"id":"w1.HOST.1","errcode":0,"message":"success"},{"id":"a1.HOST.1","errcode":3,"message":"<b>"}]"#;
    assert_eq!(number(&server.post("/agent/job/result", &results.replace("HOST", HOST)), "errcode"), 0.0);
    assert_eq!(server.given(), ["w2.web-01.1"]);
    host.write("jobs/web-01/2.json", r#"{"id":"w3"}"#);
    assert_eq!(server.given(), ["w2.web-01.1", "w3.web-01.1"], "a file dropped later");
    let page = server.ask("GET / HTTP/1.1", "");
    assert!(page.contains("web-01") && page.contains("running") && !page.contains("<b>"), "{page}");
    // What is wrong with the job files is told there, with its place.
    for wrong in ["jobs/all/2.json:1:3: ", "jobs/web-01/1.json: a job has no \"id\"", "jobs/web-02: no host"] {
        assert!(page.contains(wrong), "{wrong}: {page}");
    }

    // What was taken is on disk, with the host that it is of, and is known after a restart.
    let kept: Value = json::from_str(host.read("results.jsonl").lines().next().unwrap()).unwrap();
    assert_eq!((text(&kept, "id"), text(&kept, "host"), number(&kept, "errcode")), ("w1", "web-01", 0.0));
    drop(server);
    server = Reference::start(&host).unwrap();
    assert_eq!(server.given(), ["w2.web-01.1", "w3.web-01.1"]);
}

#[test]
fn another_attempt_has_another_id_and_a_changed_job_is_told() {
    let Some((host, server)) = pair() else { return };
    host.write("jobs/web-01/1.json", r#"{"id":"w1","action":"start","name":"web"}"#);
    assert_eq!(server.given(), ["w1.web-01.1", "a1.web-01.1"]);
    let told = |server: &Reference| server.ask("GET / HTTP/1.1", "").contains("has changed since");
    assert!(!told(&server));
    host.write("jobs/web-01/1.json", r#"{"id":"w1","action":"stop","name":"web"}"#);
    let reply = server.post("/agent/status", STATUS);
    assert_eq!(text(&reply, "jobs.0.action"), "start", "an id was given two meanings");
    assert!(told(&server));
    host.write("jobs/web-01/1.json", r#"{"id":"w1","attempt":2,"action":"stop","name":"web"}"#);
    assert_eq!(server.given(), ["w1.web-01.2", "a1.web-01.1"]);
    assert!(!told(&server));
}

#[test]
fn a_server_with_too_much_to_do_says_so_signed() {
    let host = Host::new();
    host.write("packages/a.tar", "");
    host.write("jobs/all/none.json", "[]");
    let key = "the key of this test";
    host.write("key", key);
    let Some(server) = Reference::start_with(&host, &["--key-file", "key"]) else { return };
    let silent: Vec<TcpStream> = (0..512).map(|_| TcpStream::connect(&server.1).expect("it listens")).collect();
    let nonce = "0123456789abcdef0123456789abcdef";
    let answer = patiently(|| {
        let answer = server.ask(&format!("POST /agent/status HTTP/1.1\r\nX-BootAgent-Nonce: {nonce}"), STATUS);
        answer.starts_with("HTTP/1.1 503 ").then_some(answer)
    });
    drop(silent);
    let answer = answer.expect("a 503 beside 512 connections");
    assert!(answer.contains("\r\nRetry-After: 60\r\n") && answer.contains("\"retry_after\":60"), "{answer}");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let signature = head.lines().find_map(|line| line.strip_prefix("X-BootAgent-Signature: "));
    let keys = bootagent::wire::sign::Keys::read(key.as_bytes()).expect("a key");
    assert_eq!(keys.verify(503, nonce, body.as_bytes(), signature), Ok(()));
}

#[test]
fn junk_is_answered_and_costs_nothing() {
    let Some((host, server)) = pair() else { return };
    for (path, body) in [
        ("/agent/status", "junk"),
        ("/agent/status", "[]"),
        ("/agent/status", &STATUS.replace("web-01", "../web-01")),
        ("/agent/status", &STATUS.replace("running", "stopped")),
        ("/agent/status", &STATUS.replace("600", "\"600\"")),
        ("/agent/job/result", "{}"),
        ("/agent/job/result", r#"[{"id":"w1","errcode":0,"message":"success"},{"id":"w2","errcode":"0"}]"#),
    ] {
        assert_ne!(number(&server.post(path, body), "errcode"), 0.0, "{path} {body}");
    }
    assert_eq!(host.read("results.jsonl"), "", "a part of a refused batch was taken");
    for (head, status) in [
        ("GET /agent/status HTTP/1.1", "405"),
        ("GET /elsewhere HTTP/1.1", "404"),
        ("nonsense", "400"),
        ("POST /agent/status HTTP/1.1\r\nContent-Length: 99999999", "413"),
    ] {
        let answer = server.ask(head, "");
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{head}: {answer}");
    }
    assert_eq!(server.given().len(), 3);
}

#[test]
fn packages_are_served_in_parts_and_nothing_else_is() {
    let Some((_host, server)) = pair() else { return };
    let get = |path: &str, extra: &str| server.ask(&format!("GET /packages/{path} HTTP/1.1{extra}"), "");
    assert!(get("sub/a.tar", "").ends_with("\r\n\r\n0123456789"));
    assert!(get("%73ub/a.tar", "").ends_with("\r\n\r\n0123456789"));
    for (range, status, body) in [
        ("3-", "206", "3456789"),
        ("3-5", "206", "345"),
        ("-2", "206", "89"),
        ("0-99", "206", "0123456789"),
        ("10-", "416", ""),
    ] {
        let answer = get("sub/a.tar", &format!("\r\nRange: bytes={range}"));
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{range}: {answer}");
        assert!(answer.ends_with(&format!("\r\n\r\n{body}")), "{range}: {answer}");
    }
    let head = server.ask("HEAD /packages/sub/a.tar HTTP/1.1", "");
    assert!(head.contains("Content-Length: 10\r\n") && head.ends_with("\r\n\r\n"), "{head}");
    for path in
        ["../secret", "%2e%2e/secret", "sub/../../secret", "link", "sub", "", "/etc/passwd", "sub//a.tar", "a%00"]
    {
        assert!(get(path, "").starts_with("HTTP/1.1 404 "), "{path} was served");
    }
}
