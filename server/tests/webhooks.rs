//! Webhooks of a real server, against a receiver that is played.

mod util;

use hmac::{Hmac, KeyInit, Mac};
use serde_json::{json, Value};
use sha2::Sha256;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use util::{hex, wait_for, Host, Server};

/// What a receiver got: (head in lower case, body).
type Got = Arc<Mutex<Vec<(String, String)>>>;

struct Receiver {
    address: String,
    got: Got,
    /// What it answers: a status line and headers. Nothing: it never answers.
    answer: Arc<Mutex<String>>,
}

impl Receiver {
    fn start(answer: &str) -> Receiver {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address").to_string();
        let (got, answer) = (Got::default(), Arc::new(Mutex::new(answer.to_string())));
        let (kept, said) = (got.clone(), answer.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.expect("a connection");
                let (mut bytes, mut part) = (Vec::new(), [0; 4096]);
                let whole = loop {
                    let count = stream.read(&mut part).unwrap_or(0);
                    bytes.extend_from_slice(&part[..count]);
                    let text = String::from_utf8_lossy(&bytes).into_owned();
                    if let Some((head, body)) = text.split_once("\r\n\r\n") {
                        let head = head.to_lowercase();
                        let size = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                        if size.is_some_and(|size| size.parse() == Ok(body.len())) {
                            break Some((head, body.to_string()));
                        }
                    }
                    if count == 0 {
                        break None;
                    }
                };
                let Some(whole) = whole else { continue };
                kept.lock().expect("the list").push(whole);
                let said = said.lock().expect("the answer").clone();
                if said.is_empty() {
                    // It keeps the connection, and says nothing.
                    std::mem::forget(stream);
                } else {
                    let _ = stream.write_all(format!("HTTP/1.1 {said}\r\nContent-Length: 6\r\n\r\nSECRET").as_bytes());
                }
            }
        });
        Receiver { address, got, answer }
    }

    fn url(&self) -> String {
        format!("http://{}/hook?key=hidden", self.address)
    }

    fn got(&self) -> Vec<(String, String)> {
        self.got.lock().expect("the list").clone()
    }

    fn bodies(&self) -> Vec<Value> {
        self.got().iter().map(|(_, body)| serde_json::from_str(body).expect("JSON")).collect()
    }
}

fn mac(key: &str, text: &str) -> String {
    let mac = Hmac::<Sha256>::new_from_slice(key.as_bytes()).expect("a key");
    hex(&mac.chain_update(text).finalize().into_bytes())
}

/// A webhook: the secret of its messages.
fn add(server: &Server, name: &str, url: &str, events: &[&str]) -> String {
    let mut words = vec!["--json", "webhook", "add", name, url];
    for event in events {
        words.extend(["--event", event]);
    }
    let made: Value = serde_json::from_str(&server.run(&words)).expect("JSON");
    made["secret"].as_str().expect("a secret").to_string()
}

/// Hosts of which each fails a job, which is an event.
fn fail_jobs(server: &Server, count: usize) {
    let key = server.key(&["--group", "web", "--auto-accept"]);
    let mut hosts: Vec<Host> =
        (0..count).map(|n| Host::new(&format!("web-{n}"), &format!("sn-{n}"), Some(&key))).collect();
    let mut wait = |host: &mut Host| wait_for("taken in", || (host.report(server).body["errcode"] == 0).then_some(()));
    hosts.iter_mut().for_each(&mut wait);
    server.run(&["job", "restart", "web", "--select", "group=web"]);
    for host in &mut hosts {
        let id = host.jobs(server)[0]["id"].as_str().expect("an id").to_string();
        host.result(server, &id, 6, "did not stop");
    }
}

#[test]
fn what_happens_is_told_and_signed() {
    let server = Server::start(&["--pages-url", "https://boot.example.com/"]);
    let receiver = Receiver::start("204 No Content");
    let secret = add(&server, "chat", &receiver.url(), &["job", "host-conflict"]);
    fail_jobs(&server, 1);
    wait_for("a message", || (!receiver.got().is_empty()).then_some(()));
    let (head, body) = receiver.got()[0].clone();
    assert!(head.starts_with("post /hook?key=hidden http/1.1"), "{head}");
    assert!(head.contains(&format!("x-bootserver-signature: sha256={}", mac(&secret, &body))), "{head}");
    assert!(head.contains("content-type: application/json") && head.contains("x-bootserver-id: chat-"), "{head}");
    let message: Value = serde_json::from_str(&body).expect("JSON");
    let mut keys: Vec<&String> = message.as_object().expect("an object").keys().collect();
    keys.sort();
    assert_eq!(keys, ["event", "object", "reason", "time", "url"]);
    assert_eq!((&message["event"], &message["object"]), (&json!("job"), &json!("web-0")));
    assert_eq!(message["url"], "https://boot.example.com/hosts/sn-0");
    assert!(message["reason"].as_str().is_some_and(|reason| reason.contains("did not stop")), "{message}");
    let listed = server.json(&["webhook", "list"]);
    wait_for("its outcome", || {
        (server.json(&["webhook", "list"])[0]["outcome"] == "answered with status 204").then_some(())
    });
    assert!(!listed[0].to_string().contains(&secret), "{listed:?}");
    assert!(!server.run(&["audit"]).contains("hidden"), "the URL's secret is not in the trail");
}

#[test]
fn a_host_that_is_lost_or_in_conflict_is_told_of() {
    let server = Server::start(&[]);
    let receiver = Receiver::start("200 OK");
    add(&server, "chat", &receiver.url(), &[]);
    let key = server.key(&["--group", "web", "--auto-accept"]);
    server.run(&["group", "set", "web", "lost_after=4"]);
    Host::new("web-01", "sn-1", Some(&key)).report(&server);
    // A clone: one machine-id, boots of two machines.
    let mut clone = Host::new("web-02", "sn-2", Some(&key));
    let mut other = clone.clone();
    other.boot = "boot-other".to_string();
    for _ in 0..2 {
        clone.report(&server);
        other.report(&server);
    }
    let told = |event: &str, object: &str| {
        receiver.bodies().into_iter().find(|body| body["event"] == event && body["object"] == object)
    };
    let conflict = wait_for("the conflict", || told("host-conflict", "web-02"));
    assert!(conflict["url"].as_str().is_some_and(|url| url.ends_with("/hosts/sn-2")), "{conflict}");
    let lost = wait_for("the lost host", || told("host-lost", "web-01"));
    assert!(lost["reason"].as_str().is_some_and(|reason| reason.starts_with("no report for")), "{lost}");
}

#[test]
fn a_message_that_did_not_arrive_comes_again() {
    let mut server = Server::start(&[]);
    let receiver = Receiver::start("500 Broken");
    add(&server, "chat", &receiver.url(), &["job"]);
    fail_jobs(&server, 1);
    let outcome = || server.json(&["webhook", "list"])[0]["outcome"].as_str().unwrap_or_default().to_string();
    wait_for("a failure", || (outcome() == "answered with status 500").then_some(()));
    let told = receiver.got().len();
    server.kill();
    *receiver.answer.lock().expect("the answer") = "200 OK".to_string();
    server.resume();
    wait_for("another try", || (receiver.got().len() > told).then_some(()));
    let id = |place: usize| {
        receiver.got()[place].0.lines().find(|line| line.starts_with("x-bootserver-id")).map(str::to_string)
    };
    assert_eq!(id(0), id(told), "the same message");
    let failures = || server.json(&["webhook", "list"])[0]["failures"].clone();
    wait_for("a success", || (failures() == 0).then_some(()));
}

#[test]
fn many_events_are_few_messages() {
    let server = Server::start(&[]);
    let receiver = Receiver::start("200 OK");
    add(&server, "chat", &receiver.url(), &["job"]);
    fail_jobs(&server, 40);
    let count = |reason: &str| reason.split(' ').next().and_then(|word| word.parse::<usize>().ok()).unwrap_or(1);
    let told = || receiver.bodies().iter().map(|body| count(body["reason"].as_str().expect("text"))).sum::<usize>();
    wait_for("all of them", || (told() == 40).then_some(()));
    assert!(receiver.got().len() <= 5, "{:?}", receiver.bodies());
}

#[test]
fn no_more_than_five_in_a_minute_and_the_rest_later() {
    let server = Server::start(&[]);
    let receiver = Receiver::start("200 OK");
    add(&server, "chat", &receiver.url(), &["job", "security"]);
    for round in 0..4 {
        fail_jobs(&server, 1);
        wait_for("a message", || (receiver.got().len() > round).then_some(()));
    }
    // One place is left, and two kinds wait.
    let key = server.key(&["--group", "other"]);
    let mut stranger = Host::new("web-0", "sn-0", Some(&key));
    fail_jobs(&server, 1);
    assert_eq!(stranger.report(&server).status, 403);
    wait_for("the fifth", || (receiver.got().len() == 5).then_some(()));
    let listed = |server: &Server| server.json(&["webhook", "list"])[0].clone();
    wait_for("its outcome", || (listed(&server)["failures"] == 0).then_some(()));
    assert_eq!(receiver.got().len(), 5, "{:?}", receiver.bodies());
}

#[test]
fn what_cannot_be_stored_is_said_and_does_not_flood_a_receiver() {
    let server = Server::start(&[]);
    let (receiver, other) = (Receiver::start("200 OK"), Receiver::start("200 OK"));
    add(&server, "chat", &receiver.url(), &["job"]);
    let database = rusqlite::Connection::open(server.dir.join("bootserver.db")).expect("the database");
    let trigger = "CREATE TRIGGER broken BEFORE UPDATE ON webhooks BEGIN SELECT raise(FAIL, 'the disk is broken'); END";
    database.execute_batch(trigger).expect("a trigger");
    fail_jobs(&server, 1);
    wait_for("the same message again and again", || (receiver.got().len() >= 5).then_some(()));
    assert!(server.log().contains("the disk is broken"), "{}", server.log());
    // Each message to the other receiver is a round in which the first one could have got one more.
    add(&server, "other", &other.url(), &["job"]);
    fail_jobs(&server, 1);
    wait_for("some rounds", || (other.got().len() >= 3).then_some(()));
    assert_eq!(receiver.got().len(), 5);
}

#[test]
fn where_no_message_goes() {
    let server = Server::start(&[]);
    for (name, url, part) in [
        ("a", "http://169.254.169.254/latest/meta-data/", "link-local"),
        ("a", "http://[fe80::1]/", "link-local"),
        ("a", "http://[::ffff:169.254.169.254]/", "link-local"),
        ("a", "http://0.0.0.0/", "no address of one machine"),
        ("a", "ftp://example.com/", "want http"),
        ("a", "http://user:word@example.com/", "want no user"),
        ("a b", "http://example.com/", "want 1 to 64"),
    ] {
        let (code, _, error) = server.try_run(&["webhook", "add", name, url]);
        assert_eq!(code, 1, "{url}");
        assert!(error.contains(part), "{url}: {error}");
    }
    let (code, _, error) = server.try_run(&["webhook", "add", "a", "http://example.com/", "--event", "rain"]);
    assert_eq!(code, 1);
    assert!(error.contains("want some of host-lost"), "{error}");
    let port = |address: &str| address.rsplit(':').next().expect("a port").to_string();
    for (name, url) in [
        ("hosts", format!("http://{}/agent/status", server.address)),
        ("pages", format!("http://localhost:{}/api/v1/jobs", port(&server.pages))),
        ("mapped", format!("http://[::ffff:127.0.0.1]:{}/", port(&server.pages))),
    ] {
        server.run(&["webhook", "add", name, &url]);
        let (code, _, error) = server.try_run(&["webhook", "test", name]);
        assert_eq!(code, 1, "{name}");
        assert!(error.contains("is a door of this server"), "{name}: {error}");
    }
    // Names that only the resolver can read: 169.254.169.254 in other words.
    for (name, url) in
        [("number", "http://2852039166/"), ("hex", "http://0xa9fea9fe/"), ("short", "http://169.254.43518/")]
    {
        server.run(&["webhook", "add", name, url]);
        let (code, _, error) = server.try_run(&["webhook", "test", name]);
        assert_eq!(code, 1, "{name}");
        assert!(error.contains("is a link-local address, where no message may go"), "{name}: {error}");
    }
    assert_eq!(server.try_run(&["webhook", "add", "pages", "http://example.com/"]).0, 1, "the name is taken");
    server.run(&["webhook", "remove", "pages"]);
    assert_eq!(server.try_run(&["webhook", "remove", "pages"]).0, 1);
    assert_eq!(server.try_run(&["webhook", "test", "pages"]).0, 1);
}

#[test]
fn a_test_says_what_became_of_it_and_nothing_of_the_reply() {
    let server = Server::start(&[]);
    let receiver = Receiver::start("200 OK");
    let other = Receiver::start("200 OK");
    add(&server, "chat", &receiver.url(), &[]);
    let answers = |answer: &str| {
        *receiver.answer.lock().expect("the answer") = answer.to_string();
        server.try_run(&["webhook", "test", "chat"])
    };
    let (code, out, _) = answers("200 OK");
    assert_eq!((code, out.trim()), (0, "webhook chat took the message: status 200"));
    assert_eq!(receiver.bodies()[0]["event"], "test");
    let redirect = format!("302 Found\r\nLocation: {}", other.url());
    for (answer, part) in [
        ("404 Not Found", "answered with status 404"),
        (redirect.as_str(), "redirects are not followed"),
        ("nonsense", "no HTTP answer"),
    ] {
        let (code, out, error) = answers(answer);
        assert_eq!(code, 1, "{answer}: {out}");
        assert!(error.contains(part), "{answer}: {error}");
        assert!(!format!("{out}{error}").contains("SECRET"), "{error}");
    }
    assert!(other.got().is_empty(), "the redirect was followed");
    let begun = Instant::now();
    let (code, _, error) = answers("");
    assert_eq!(code, 1);
    assert!(error.contains("no answer within 5 s"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    add(&server, "nobody", "http://127.0.0.1:1/", &[]);
    let (_, _, error) = server.try_run(&["webhook", "test", "nobody"]);
    assert!(error.contains("no connection"), "{error}");
}
