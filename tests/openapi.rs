//! docs/openapi.yaml against what is really sent: the daemon and the smallest server talk through a proxy that records
//! everything, and `openapi.py` checks every request and reply against the document.

mod util;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use miniserde::json;

use util::*;

/// Exchanges as `openapi.py` reads them.
type Tape = Arc<Mutex<Vec<String>>>;

/// A message's headers and body as JSON, `first` being what else its object holds.
fn message(text: &str, first: &str) -> String {
    let (head, body) = text.split_once("\r\n\r\n").expect("a whole head");
    let headers = head.lines().skip(1).filter_map(|line| line.split_once(": "));
    let headers: Vec<String> =
        headers.map(|(name, value)| format!("[{},{}]", json::to_string(name), json::to_string(value))).collect();
    format!("{{{first}\"headers\":[{}],\"body\":{}}}", headers.join(","), json::to_string(body))
}

fn exchange(path: &str, request: &str, reply: &str) -> String {
    format!("{{\"path\":{},\"request\":{request},\"reply\":{reply}}}", json::to_string(path))
}

/// Hands every connection on to the server at `to` and keeps what was said; the address to talk to.
fn tap(to: String) -> (String, Tape) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port on the loopback");
    let address = listener.local_addr().expect("it is bound").to_string();
    let tape = Tape::default();
    let kept = tape.clone();
    std::thread::spawn(move || {
        // One client, which talks to its server on one connection at a time.
        for stream in listener.incoming().flatten() {
            let _ = hand_on(stream, &to, &kept);
        }
    });
    (address, tape)
}

fn hand_on(mut client: TcpStream, to: &str, tape: &Tape) -> std::io::Result<()> {
    let mut request = String::new();
    let mut reader = BufReader::new(client.try_clone()?);
    while !request.ends_with("\r\n\r\n") && reader.read_line(&mut request)? > 0 {}
    let length = request.lines().find_map(|line| line.strip_prefix("Content-Length: ")?.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    request.push_str(&String::from_utf8_lossy(&body));
    let mut server = TcpStream::connect(to)?;
    server.write_all(request.as_bytes())?;
    let mut reply = String::new();
    server.read_to_string(&mut reply)?;
    let path = request.split(' ').nth(1).unwrap_or_default();
    if path.starts_with("/agent/") {
        let status = format!("\"status\":{},", reply.split(' ').nth(1).unwrap_or("0"));
        tape.lock().expect("no panic").push(exchange(path, &message(&request, ""), &message(&reply, &status)));
    }
    client.write_all(reply.as_bytes())
}

/// Whether these exchanges are as the document says, and what is not.
fn judge(exchanges: &[String]) -> (bool, String) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new("python3");
    command.arg(root.join("tests/openapi.py")).arg(root.join("docs/openapi.yaml"));
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("python3 is here");
    let text = format!("[{}]", exchanges.join(","));
    child.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("our own child");
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

fn lacks_modules() -> bool {
    let import =
        Command::new("python3").args(["-c", "import jsonschema, yaml; jsonschema.Draft202012Validator"]).output();
    !import.is_ok_and(|import| import.status.success()) && skipped("python3 with jsonschema and yaml")
}

struct Reference(Child);

impl Drop for Reference {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts the smallest server over the directories of `host`; itself and its address.
fn reference(host: &Host, options: &[&str]) -> Option<(Reference, String)> {
    let Some(program) = example("server") else {
        skipped("the smallest server (cargo build --examples)");
        return None;
    };
    let mut command = Command::new(program);
    command.args(["--listen", "127.0.0.1:0", "--jobs", "jobs"]).args(options).current_dir(&host.dir);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it can be executed");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line).expect("a line");
    let address = line.trim().strip_prefix("listening on ").expect("the first line says where").to_string();
    Some((Reference(child), address))
}

#[test]
fn what_is_sent_is_what_the_document_says() {
    if lacks_modules() {
        return;
    }
    for signed in [false, true] {
        let mut host = Host::new();
        host.agent("web", "exec sleep 1000", &[("limits", "{ \"memory\": \"50M\", \"CPU\": \"90%\" }")]);
        host.agent("ended", "exit 3", &[]);
        host.write("key", "the key of this test, long enough\n");
        fs::set_permissions(host.path("key"), fs::Permissions::from_mode(0o600)).expect("our own file");
        let checksum = format!("SHA256:{}", "0".repeat(64));
        let nowhere = Server::nowhere();
        let jobs = [
            r#"{"id":"j1","action":"restart","name":"web"}"#.to_string(),
            r#"{"id":"j2","action":"config","name":"web","envs":{"A":"b"},"limits":{"nofile":100,"core":"1M"}}"#.into(),
            r#"{"id":"j3","action":"stop","name":"nobody","expires":60,"window":0,"new":[1]}"#.into(),
            format!(
                r#"{{"id":"j4","action":"install","name":"x","url":"http://{nowhere}/x.rpm","checksum":"{checksum}"}}"#
            ),
            r#"{"id":"j5","action":"config","step":86400}"#.into(),
        ];
        host.write("jobs/all/1.json", &format!("[{}]", jobs[..3].join(",")));
        host.write("jobs/all/2.json", &format!("[{}]", jobs[3..4].join(",")));
        let Some((_reference, address)) = reference(&host, if signed { &["--key-file", "key"] } else { &[] }) else {
            return;
        };
        let (address, tape) = tap(address);
        host.set("svrlist", &format!("\"{address}\""));
        if signed {
            let key = format!("\"{}\"", host.path("key").display());
            host.set("key_file", &key);
        }
        host.start();
        for id in ["j1", "j2", "j3"] {
            let mark = format!("\"id\":\"{id}\"");
            host.wait("the result of a job", || host.read("results.jsonl").contains(&mark));
        }
        host.write("jobs/all/3.json", &jobs[4]);
        host.wait("the result of the last job", || host.read("results.jsonl").contains("\"id\":\"j5\""));
        host.end("TERM");

        let exchanges = tape.lock().unwrap().clone();
        let text = exchanges.join("\n");
        for part in ["j4", "limits_by", "\\\"status\\\":\\\"running\\\"", "/agent/job/result", "\\\"errcode\\\":3"] {
            assert!(text.contains(part), "{part} was never sent:\n{text}");
        }
        assert_eq!(text.matches("[\"X-BootAgent-Signature\"").count() > 0, signed, "{text}");
        let (good, said) = judge(&exchanges);
        assert!(good, "{said}");

        if !signed {
            continue;
        }
        // It would have been seen.
        let (id, code) = (as_sent("j3"), "\\\",\\\"errcode\\\":3");
        for (right, wrong) in [
            ("\\\"status\\\":\\\"running\\\"", "\\\"status\\\":\\\"runs\\\""),
            ("\\\"hostname\\\":", "\\\"host\\\":"),
            ("\\\"action\\\":\\\"restart\\\"", "\\\"action\\\":\\\"again\\\""),
            (&format!("{id}{code}"), &format!("{id}{code}1")),
            ("application/json", "text/plain"),
        ] {
            assert!(text.contains(right), "{right} was never sent:\n{text}");
            let wrong: Vec<String> = exchanges.iter().map(|exchange| exchange.replace(right, wrong)).collect();
            assert!(!judge(&wrong).0, "nobody sees that {right} is missing");
        }
    }
}

#[test]
fn the_fixtures_are_what_the_document_says() {
    if lacks_modules() {
        return;
    }
    let fixture = |name: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/proto").join(name);
        let body = fs::read_to_string(path).expect("a fixture");
        format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{body}")
    };
    let pair = |path: &str, request: &str, reply: &str| {
        exchange(path, &message(&fixture(request), ""), &message(&fixture(reply), "\"status\":200,"))
    };
    let good = [
        pair("/agent/status", "status-request.json", "status-reply.json"),
        pair("/agent/status", "status-request-bare.json", "status-reply-empty.json"),
        pair("/agent/status", "status-request.json", "status-reply-all-keys.json"),
        pair("/agent/job/result", "result-request.json", "result-reply.json"),
    ];
    let (is_good, said) = judge(&good);
    assert!(is_good, "{said}");

    // Each bad job is found, and no good one is taken for one.
    let (is_good, said) = judge(&[pair("/agent/status", "status-request.json", "status-reply-bad-jobs.json")]);
    assert!(!is_good);
    for (index, bad) in
        [false, true, true, true, true, true, true, true, true, true, true, true, true, false].into_iter().enumerate()
    {
        assert_eq!(said.contains(&format!(": jobs/{index}")), bad, "job {index}:\n{said}");
    }
}
