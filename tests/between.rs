//! An attacker between host and server: a proxy in front of the smallest server with a key, which alters, replays,
//! withholds and reorders messages. Whatever it does, neither side accepts anything from it.

mod util;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use util::*;

const KEY: &str = "the key of a test, long enough";

/// What the proxy does to a request or a reply, as bytes.
type Hook = Box<dyn FnMut(Vec<u8>) -> Vec<u8> + Send>;

/// What it does now, and what it has seen.
struct Book {
    asks: Hook,
    answers: Hook,
    /// Each request and its reply, as both sides sent them.
    seen: Vec<(Vec<u8>, Vec<u8>)>,
}

/// The proxy; its thread ends with the test.
struct Between {
    address: String,
    book: Arc<Mutex<Book>>,
}

impl Between {
    /// In front of the server at `to`.
    fn new(to: &str) -> Between {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound").to_string();
        let book = Book { asks: Box::new(|bytes| bytes), answers: Box::new(|bytes| bytes), seen: Vec::new() };
        let book = Arc::new(Mutex::new(book));
        let (theirs, to) = (book.clone(), to.to_string());
        std::thread::spawn(move || {
            for mut client in listener.incoming().flatten() {
                let request = read_request(&mut client);
                let sent = (theirs.lock().expect("no panic").asks)(request.clone());
                let reply = exchange(&to, &sent);
                let mut book = theirs.lock().expect("no panic");
                book.seen.push((request, reply.clone()));
                let reply = (book.answers)(reply);
                drop(book);
                // A client may have gone.
                let _ = client.write_all(&reply);
            }
        });
        Between { address, book }
    }

    fn does(&self, asks: impl FnMut(Vec<u8>) -> Vec<u8> + Send + 'static) {
        self.book.lock().expect("no panic").asks = Box::new(asks);
    }

    fn answers(&self, answers: impl FnMut(Vec<u8>) -> Vec<u8> + Send + 'static) {
        self.book.lock().expect("no panic").answers = Box::new(answers);
    }

    /// Everything goes through again.
    fn rests(&self) {
        self.does(|bytes| bytes);
        self.answers(|bytes| bytes);
    }

    fn seen(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        self.book.lock().expect("no panic").seen.clone()
    }
}

/// A whole request: its head, and as many bytes as that says.
fn read_request(client: &mut TcpStream) -> Vec<u8> {
    let mut reader = BufReader::new(client);
    let (mut request, mut length) = (Vec::new(), 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return request;
        }
        request.extend_from_slice(line.as_bytes());
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
        if line == "\r\n" {
            break;
        }
    }
    // A body that breaks off is passed on as it is.
    let _ = reader.take(length).read_to_end(&mut request);
    request
}

/// Sends these bytes to a server; all that it answers.
fn exchange(to: &str, request: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(to).expect("the server listens");
    let mut reply = Vec::new();
    let sent = stream.write_all(request).and_then(|()| stream.shutdown(Shutdown::Write));
    // A server that refuses may close before it has read everything.
    let _ = sent.and_then(|()| stream.read_to_end(&mut reply));
    reply
}

/// The bytes with the first `from` in them become `to`, as long.
fn altered(bytes: &[u8], from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len(), "its length would tell");
    let at = bytes.windows(from.len()).position(|part| part == from.as_bytes());
    let at = at.unwrap_or_else(|| panic!("no \"{from}\" in {}", String::from_utf8_lossy(bytes)));
    [&bytes[..at], to.as_bytes(), &bytes[at + from.len()..]].concat()
}

/// The bytes with another digit at the end of a header's value.
fn with_header(bytes: &[u8], name: &str) -> Vec<u8> {
    let text = String::from_utf8(bytes.to_vec()).expect("text");
    let at = text.to_ascii_lowercase().find(&name.to_ascii_lowercase()).expect("the header is there");
    let end = at + text[at..].find('\r').expect("it ends");
    let digit = if text.as_bytes()[end - 1] == b'0' { "1" } else { "0" };
    [&text[..end - 1], digit, &text[end..]].concat().into_bytes()
}

/// The smallest server, with the key of its host and a job for it.
struct Reference {
    child: Child,
    address: String,
}

impl Reference {
    fn start(host: &Host) -> Option<Reference> {
        let Some(program) = example("server") else {
            skipped("the smallest server (cargo build --examples)");
            return None;
        };
        fs::create_dir_all(host.path("jobs/all")).expect("the host's directory can be written");
        host.write("key", KEY);
        fs::set_permissions(host.path("key"), fs::Permissions::from_mode(0o600)).expect("the test's own file");
        let mut command = Command::new(program);
        command.args(["--listen", "127.0.0.1:0", "--jobs", "jobs", "--key-file", "key"]).current_dir(&host.dir);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it can be executed");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line).expect("a line");
        let address = line.trim().strip_prefix("listening on ").expect("the first line says where").to_string();
        Some(Reference { child, address })
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A host that talks to the smallest server through the proxy only.
fn host_behind(step: &str) -> Option<(Host, Reference, Between)> {
    let mut host = Host::new();
    let reference = Reference::start(&host)?;
    let between = Between::new(&reference.address);
    let key = format!("\"{}\"", host.path("key").display());
    let servers = format!("\"{}\"", between.address);
    host.set("key_file", &key).set("svrlist", &servers).set("step", step);
    host.agent("web", "exec sleep 1000", &[]);
    Some((host, reference, between))
}

fn reports(host: &Host) -> bool {
    host.cli(&["report"]).code == 0
}

#[test]
fn what_is_altered_on_the_way_does_not_count() {
    let Some((mut host, _reference, between)) = host_behind("1000") else { return };
    host.start();
    host.wait("a good exchange", || reports(&host));
    host.write("jobs/all/stop.json", &Job::new("j1", "stop", "web").text());

    type Alter = fn(&[u8]) -> Vec<u8>;
    let replies: [(&str, Alter); 6] = [
        ("the job's agent", |bytes| altered(bytes, "\"web\"", "\"wex\"")),
        ("the status", |bytes| altered(bytes, " 200 ", " 201 ")),
        ("the errcode", |bytes| altered(bytes, "\"errcode\":0", "\"errcode\":1")),
        ("a digit of the signature", |bytes| with_header(bytes, "X-BootAgent-Signature")),
        ("the signature's name", |bytes| altered(bytes, "BootAgent-Sig", "BootAgent-Sog")),
        ("the end of the body", |bytes| [bytes, b" "].concat()),
    ];
    for (what, alter) in replies {
        // A byte behind the body counts only where its length allows it.
        between.answers(move |bytes| {
            let longer = alter(&bytes);
            let text = String::from_utf8(longer).expect("text");
            let (head, body) = text.split_once("\r\n\r\n").expect("a head");
            let lines = head.split("\r\n").map(|line| match line.split_once(':') {
                Some((name, _)) if name.eq_ignore_ascii_case("content-length") => format!("{name}: {}", body.len()),
                _ => line.to_string(),
            });
            format!("{}\r\n\r\n{body}", lines.collect::<Vec<_>>().join("\r\n")).into_bytes()
        });
        assert!(!reports(&host), "{what} of a reply was altered, and it counts");
    }
    let requests: [(&str, Alter); 5] = [
        ("the agent's state", |bytes| altered(bytes, "\"running\"", "\"stopped\"")),
        ("the path", |bytes| altered(bytes, "/agent/status ", "/agent/statuz ")),
        ("the nonce", |bytes| with_header(bytes, "X-BootAgent-Nonce")),
        ("the sn", |bytes| with_header(bytes, "X-BootAgent-Sn")),
        ("the signature", |bytes| with_header(bytes, "X-BootAgent-Signature")),
    ];
    // The daemon may report by itself too, so wait until nothing is under way.
    between.does(|bytes| with_header(&bytes, "X-BootAgent-Signature"));
    assert!(!reports(&host), "request and reply were altered, and it counts");
    between.answers(|bytes| bytes);
    for (what, alter) in requests {
        between.does(move |bytes| alter(&bytes));
        assert!(!reports(&host), "{what} of a request was altered, and it was answered");
        let (_, reply) = between.seen().pop().expect("it came by");
        assert!(reply.starts_with(b"HTTP/1.1 403 "), "{what}: {}", String::from_utf8_lossy(&reply));
    }
    assert!(host.job(&as_sent("j1")).is_none() && host.wait_running("web").runs(), "{}", host.logs());
    // Said once, as long as it lasts.
    assert_eq!(host.read("log/bootagent.log").matches("the reply's signature is wrong").count(), 1, "{}", host.logs());
    // The server accepted nothing of that as a message of the host either.
    between.rests();
    host.wait("the job to come through", || reports(&host) && host.lines("results.jsonl") > 0);
    host.wait_seen("web", "to be stopped", |agent| agent.status == "stoped");
    assert_eq!(host.lines("results.jsonl"), 1, "{}", host.read("results.jsonl"));
}

#[test]
fn what_was_said_before_does_not_count_again() {
    let Some((mut host, reference, between)) = host_behind("1000") else { return };
    host.start();
    host.wait("a good exchange", || reports(&host));
    host.write("jobs/all/stop.json", &Job::new("j1", "stop", "web").text());
    assert!(reports(&host));
    host.wait("the result", || host.lines("results.jsonl") > 0);
    host.wait_seen("web", "to be stopped", |agent| agent.status == "stoped");

    // The server accepts no message of the host twice, results included.
    let said = between.seen();
    assert!(said.len() >= 3);
    for (request, _) in &said {
        let reply = exchange(&reference.address, request);
        assert!(reply.starts_with(b"HTTP/1.1 403 "), "{}", String::from_utf8_lossy(&reply));
    }
    assert_eq!(host.lines("results.jsonl"), 1, "{}", host.read("results.jsonl"));

    // The host accepts no reply of the server twice, jobs included.
    host.ok(&["start", "web"]);
    host.wait_running("web");
    let mut told = 0;
    for (_, reply) in &said {
        told += usize::from(String::from_utf8_lossy(reply).contains(&as_sent("j1")));
        let reply = reply.clone();
        between.answers(move |_| reply.clone());
        assert!(!reports(&host), "a reply was taken for another");
    }
    assert!(told >= 1, "the job was not among them");
    assert!(host.wait_running("web").runs());
    between.rests();
    host.wait("an exchange again", || reports(&host));
}

#[test]
fn replies_in_another_order_do_not_count() {
    // Two hosts of one server get each other's replies, and each its own one too late.
    let Some((mut one, reference, between)) = host_behind("1000") else { return };
    let mut other = Host::new();
    let key = format!("\"{}\"", one.path("key").display());
    other.set("key_file", &key).set("svrlist", &format!("\"{}\"", between.address)).set("step", "1000");
    other.agent("web", "exec sleep 1000", &[]);
    one.start();
    other.start();
    one.wait("good exchanges", || reports(&one) && reports(&other));
    one.write("jobs/all/stop.json", &Job::new("j1", "stop", "web").text());
    let mut before: Option<Vec<u8>> = None;
    between.answers(move |reply| before.replace(reply).unwrap_or_default());
    for _ in 0..4 {
        assert!(!reports(&one) && !reports(&other), "a reply to another request was taken");
    }
    for host in [&one, &other] {
        assert!(host.job(&as_sent("j1")).is_none() && host.wait_running("web").runs());
    }
    drop(reference);
}

#[test]
fn who_withholds_replies_is_a_failed_server() {
    let Some((mut host, reference, between)) = host_behind("0.2") else { return };
    let servers = format!("\"{},{}\"", between.address, reference.address);
    host.set("svrlist", &servers);
    between.answers(|_| Vec::new());
    host.write("jobs/all/stop.json", &Job::new("j1", "stop", "web").text());
    host.start();
    // The next server is asked, and its reply counts.
    host.wait("the result", || host.lines("results.jsonl") > 0);
    host.wait_seen("web", "to be stopped", |agent| agent.status == "stoped");
    let came_by = between.seen().len();
    assert!(came_by >= 1);
    // The daemon stays with it.
    host.write("jobs/all/start.json", &Job::new("j2", "start", "web").text());
    host.wait("the next result", || host.read("results.jsonl").contains("\"j2\""));
    assert_eq!(between.seen().len(), came_by);
}
