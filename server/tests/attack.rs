//! What somebody with a host's key, or without any, can do to the others: nothing.

mod util;

use rusqlite::Connection;
use serde_json::json;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};
use util::{exchange, try_exchange, wait_for, Host, Server};

fn known(server: &Server, name: &str, sn: &str) -> Host {
    let key = server.key(&["--group", "web", "--auto-accept"]);
    let mut host = Host::new(name, sn, Some(&key));
    assert_eq!(host.report(server).status, 200);
    host
}

#[test]
fn a_result_under_another_hosts_sn_with_another_groups_key_has_no_effect() {
    let server = Server::start(&[]);
    let mut victim = known(&server, "web-01", "sn-1");
    server.run(&["job", "start", "web", "--select", "group=web"]);
    let id = victim.jobs(&server)[0]["id"].as_str().expect("an id").to_string();
    let other = server.key(&["--group", "db", "--auto-accept"]);
    let mut thief = Host::new("web-01", "sn-1", Some(&other));
    assert_eq!(thief.result(&server, &id, 0, "mine").body["errcode"], 0, "a well-formed result is never refused");
    assert_eq!(server.json(&["job", "list"])[0]["state"], "offered");
    assert!(server.events().contains("had no effect"), "{}", server.events());
    assert_eq!(thief.report(&server).status, 403);
    assert_eq!(victim.report(&server).status, 200, "nobody is locked out by it");
}

#[test]
fn a_recorded_report_of_an_old_agent_is_flagged_and_locks_nobody_out() {
    let server = Server::start(&[]);
    let mut host = known(&server, "web-01", "sn-1");
    host.seq = None;
    assert_eq!(host.report(&server).status, 200);
    let mut recorded = host.clone();
    recorded.nonce -= 1;
    host.boot = "the next boot".into();
    assert_eq!(host.report(&server).status, 200);
    assert_eq!(recorded.report(&server).status, 200);
    assert!(server.events().contains("a nonce came twice"), "{}", server.events());
    assert_eq!(server.host("sn-1")["state"], "accepted", "a recorded report makes no conflict");
    assert_eq!(host.report(&server).status, 200);
}

#[test]
fn connections_that_claim_much_and_send_nothing_hold_up_nobody() {
    let server = Server::start(&[]);
    let mut host = known(&server, "web-01", "sn-1");
    let id = server.json(&["key", "list"])[0]["id"].as_str().expect("an id").to_string();
    let head = format!(
        "POST /agent/status HTTP/1.1\r\nHost: x\r\nX-BootAgent-Key: {id}\r\nX-BootAgent-Sn: sn-9\r\n\
         X-BootAgent-Nonce: {}\r\nX-BootAgent-Signature: 00\r\nContent-Length: ",
        "0".repeat(32)
    );
    let slow: Vec<TcpStream> = (0..300)
        .map(|n| {
            // Large claims first, then small ones for what they leave.
            let claim = [1 << 20, 1 << 20, 1 << 20, 1 << 18, 1 << 15, 100][n / 50];
            let mut stream = TcpStream::connect(&server.address).expect("a connection");
            stream.write_all(format!("{head}{claim}\r\n\r\n{{").as_bytes()).expect("a head");
            stream
        })
        .collect();
    let begun = Instant::now();
    for _ in 0..20 {
        assert_eq!(host.report(&server).status, 200);
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    drop(slow);
}

#[test]
fn idle_connections_are_ended_and_hold_up_nobody() {
    let server = Server::start(&[]);
    let mut host = known(&server, "web-01", "sn-1");
    let mut idle: Vec<TcpStream> =
        (0..400).map(|_| TcpStream::connect(&server.address).expect("a connection")).collect();
    assert_eq!(host.report(&server).status, 200);
    let begun = Instant::now();
    for stream in &mut idle {
        stream.set_read_timeout(Some(util::DEADLINE)).expect("a deadline");
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).expect("its end");
    }
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
}

#[test]
fn bodies_that_have_no_end_or_are_too_long_are_refused_in_order() {
    let server = Server::start(&["--allow-unsigned"]);
    let mut host = Host::new("web-01", "sn-1", None);
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
    let head = "POST /agent/status HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
    let (status, _, body) = exchange(&server, &format!("{head}{}0\r\n\r\n", chunk.repeat(20)));
    assert_eq!(status, 413, "{body}");
    let liar = "POST /agent/status HTTP/1.1\r\nHost: x\r\nContent-Length: 18446744073709551615\r\n\r\n{}";
    let status = try_exchange(&server.address, liar).map_or(400, |answer| answer.0);
    assert!((400..500).contains(&status), "{status}");
    let twice = "POST /agent/status HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}";
    assert!(try_exchange(&server.address, twice).map_or(true, |(status, ..)| status == 400));
    assert_eq!(host.report(&server).status, 200);
}

#[test]
fn a_body_of_who_cannot_be_right_is_not_kept_in_memory() {
    let server = Server::start(&[]);
    for head in [
        "X-BootAgent-Key: 0123456789abcdef\r\n".to_string(),
        String::new(),
        format!("X-BootAgent-Signature: 00\r\nX-BootAgent-Nonce: {}\r\n", "z".repeat(32)),
    ] {
        let body = "x".repeat(900_000);
        let request = format!("POST /agent/status HTTP/1.1\r\nHost: x\r\n{head}Content-Length: 900000\r\n\r\n{body}");
        assert_eq!(exchange(&server, &request).0, 403, "{head}");
    }
    // Without the key's id all keys have to be tried: not on a body of a megabyte.
    let head = format!("X-BootAgent-Signature: 00\r\nX-BootAgent-Nonce: {}\r\n", "0".repeat(32));
    let body = "x".repeat(900_000);
    let request = format!("POST /agent/status HTTP/1.1\r\nHost: x\r\n{head}Content-Length: 900000\r\n\r\n{body}");
    assert_eq!(exchange(&server, &request).0, 413);
}

#[test]
fn odd_json_is_answered_and_harms_nothing() {
    let server = Server::start(&[]);
    let mut host = known(&server, "web-01", "sn-1");
    let usual = host.body().to_string();
    let with = |more: &str| usual.replacen('{', &format!("{{{more},"), 1);
    let deep = format!("\"x\":{}{}", "[".repeat(100_000), "]".repeat(100_000));
    for (case, body, taken) in [
        ("deep nesting", with(&deep), false),
        ("a lone surrogate", with(r#""os2":"\ud800""#), false),
        ("bytes that are no UTF-8", "{\"hostname\":\"\u{fffd}\"}".to_string(), false),
        ("NUL", with(r#""troubles":["a\u0000b"]"#), true),
        ("a key twice", with(r#""timestamp":1"#), true),
        ("a huge number", usual.replace("\"uptime\":5", "\"uptime\":1e308"), true),
        ("a number that is none", usual.replace("\"uptime\":5", "\"uptime\":1e999"), false),
        ("a clock before all time", usual.replace("\"uptime\":5", "\"uptime\":5,\"timestamp\":-1e300"), true),
        ("a step of zero", with(r#""x":0"#).replace("\"step\":1", "\"step\":-5"), true),
        ("many open jobs", with(&format!("\"open\":[{}]", ["\"j\""; 100_000].join(","))), true),
    ] {
        host.seq = host.seq.map(|seq| seq + 1);
        let body = body.replace("\"seq\":1", &format!("\"seq\":{}", host.seq.expect("a number")));
        let answer = host.post(&server, "/agent/status", &body);
        assert_eq!((answer.status, answer.signed), (200, true), "{case}: {}", answer.body);
        assert_eq!(answer.body["errcode"] == 0, taken, "{case}: {}", answer.body);
    }
    for results in ["[{}]", r#"[{"id":"a b","errcode":0,"message":""}]"#, r#"[{"id":"a","errcode":-1,"message":""}]"#] {
        assert_eq!(host.post(&server, "/agent/job/result", results).body["errcode"], 1, "{results}");
    }
    let many = json!(vec![json!({ "id": "x", "errcode": 0, "message": "" }); 300]).to_string();
    assert_eq!(host.post(&server, "/agent/job/result", &many).body["errcode"], 1);
    assert_eq!(host.report(&server).status, 200);
    assert_eq!(server.host("sn-1")["name"], "web-01");
}

#[test]
fn what_a_host_says_moves_no_terminals_cursor() {
    let server = Server::start(&[]);
    let mut host = known(&server, "web-01", "sn-1");
    let evil = "\u{1b}[2Jx\u{9b}31m\u{202e}y\r\n";
    host.more = json!({ "os": evil, "version": format!("bootagent-{evil}-x86_64"), "labels": { "role": evil },
        "agents": [{ "name": evil, "version": evil, "status": "running", "uptime": 1, "detail": evil }],
        "events": [{ "timestamp": 0, "name": evil, "message": evil }] });
    host.report(&server);
    host.result(&server, "unknown", 0, evil);
    for words in [&["host", "list"][..], &["host", "show", "web-01"], &["events"], &["job", "list"]] {
        let shown = server.run(words);
        let odd: Vec<char> = shown.chars().filter(|c| (c.is_control() && *c != '\n') || *c == '\u{202e}').collect();
        assert!(odd.is_empty(), "{words:?}: {odd:?} in {shown}");
    }
}

#[test]
fn a_host_cannot_fill_the_disk_with_events() {
    let server = Server::start(&[]);
    let mut host = known(&server, "web-01", "sn-1");
    let event = json!({ "timestamp": 0, "name": "web", "message": "m".repeat(2000) });
    host.more = json!({ "events": vec![event; 200] });
    for _ in 0..12 {
        assert_eq!(host.report(&server).status, 200);
    }
    let events = server.json(&["events", "-n", "100000"]);
    let kept = events.iter().filter(|event| event["kind"] == "agent").count();
    assert_eq!(kept, 1000);
    assert!(events.last().expect("an event")["message"].as_str().expect("text").contains("more are not kept"));
}

#[test]
fn strangers_are_told_of_together() {
    let server = Server::start(&[]);
    let host = known(&server, "web-01", "sn-1");
    for n in 0..30 {
        let mut stranger = Host::new("x", &format!("stranger-{n}"), host.key.as_deref());
        assert_eq!(stranger.result(&server, "no-such-job", 0, "x").body["errcode"], 0);
    }
    assert_eq!(server.events().matches("not known").count(), 1);
}

#[test]
fn paths_lead_nowhere_else() {
    let server = Server::start(&[]);
    known(&server, "web-01", "sn-1");
    server.release("web", "1.0");
    let digest = server.json(&["release", "list"])[0]["artifacts"][0]["sha256"].as_str().expect("a digest").to_string();
    let good = format!("/packages/{digest}/web-1.0.tar.gz");
    let get = |path: &str| try_exchange(&server.address, &format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"));
    assert_eq!(get(&good).expect("an answer").0, 200);
    for path in [
        format!("/packages/{digest}"),
        format!("/packages/{digest}/"),
        format!("/packages/{digest}/web-1.0.tar.gz/"),
        format!("/packages/{digest}/../bootserver.db"),
        format!("/packages/{digest}/..%2f..%2fbootserver.db"),
        format!("/packages/{digest}/web-1.0.tar.gz%00"),
        format!("/packages//{digest}/web-1.0.tar.gz"),
        format!("/packages/{}/web-1.0.tar.gz", digest.to_uppercase()),
        format!("/packages/../packages/{digest}/web-1.0.tar.gz"),
        "/packages/../../bootserver.db/x.deb".to_string(),
        "/packages/..".to_string(),
        format!("/packages/{}/x.deb", "../".repeat(20)),
        format!("/packages/{}", "a".repeat(20_000)),
        "/".to_string(),
        "/agent/status/".to_string(),
        "/Agent/status".to_string(),
        "//agent/status".to_string(),
        "/api/v1/keys".to_string(),
        "http://127.0.0.1/api/v1/keys".to_string(),
        "/metrics".to_string(),
    ] {
        let answer = get(&path).expect("an answer");
        assert!([400, 404, 414].contains(&answer.0), "{path}: {} {}", answer.0, answer.2);
    }
    for method in ["PUT", "DELETE", "CONNECT", "TRACE", "OPTIONS"] {
        let request = format!("{method} {good} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
        let status = try_exchange(&server.address, &request).map_or(0, |answer| answer.0);
        assert!([0, 400, 404, 405].contains(&status), "{method}: {status}");
    }
}

#[test]
fn who_takes_a_package_and_reads_nothing_is_given_up() {
    let server = Server::start(&[]);
    known(&server, "web-01", "sn-1");
    let file = server.dir.join("big-1.0.tar.gz");
    std::fs::write(&file, vec![1; 32 << 20]).expect("a package");
    server.run(&["release", "add", "big", "1.0", "--file", file.to_str().expect("a path")]);
    let digest = server.json(&["release", "list"])[0]["artifacts"][0]["sha256"].as_str().expect("a digest").to_string();
    let mut stream = TcpStream::connect(&server.address).expect("a connection");
    let request = format!("GET /packages/{digest}/big-1.0.tar.gz HTTP/1.1\r\nHost: x\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("a request");
    // It shows only by reading whether the server still holds it; so long nothing is read.
    std::thread::sleep(Duration::from_secs(12));
    stream.set_read_timeout(Some(util::DEADLINE)).expect("a deadline");
    let mut got = Vec::new();
    let _ = stream.read_to_end(&mut got);
    assert!(got.starts_with(b"HTTP/1.1 200") && got.len() < 32 << 20, "{} bytes", got.len());
}

#[test]
fn twenty_unknown_hosts_a_second_may_ask() {
    let server = Server::start(&[]);
    let key = server.key(&["--group", "web"]);
    let begun = Instant::now();
    for n in 0..200 {
        let answer = Host::new(&format!("h-{n}"), &format!("sn-{n}"), Some(&key)).report(&server);
        assert_eq!((answer.status, &answer.body["errcode"], &answer.body["jobs"]), (200, &json!(0), &json!([])));
    }
    let seconds = begun.elapsed().as_secs() as usize + 2;
    let taken = server.json(&["host", "list"]).len();
    assert!((20..=20 * seconds).contains(&taken), "{taken} in {seconds} s");
    assert!(taken < 200, "the machine is too slow for this test: {:?}", begun.elapsed());
}

#[test]
fn ten_thousand_may_wait_and_no_more() {
    let server = Server::start(&[]);
    let key = server.key(&["--group", "web"]);
    let database = Connection::open(server.dir.join("bootserver.db")).expect("the database");
    database.busy_timeout(util::DEADLINE).expect("a deadline");
    let fill = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9999) \
        INSERT INTO hosts (sn, name, grp, state, created) SELECT 'p-' || i, 'p-' || i, 'web', 'pending', 0 FROM n";
    database.execute(fill, []).expect("hosts that wait");
    let ask = |sn: &str| {
        assert_eq!(Host::new(sn, sn, Some(&key)).report(&server).status, 200);
        server.host(sn)["state"].clone()
    };
    assert_eq!(ask("the-last"), "pending");
    assert_eq!(ask("too-many"), json!(null));
    server.run(&["host", "reject", "p-1"]);
    wait_for("the next second", || (ask("again") == "pending").then_some(()));
}
