//! Signed exchanges: what the daemon signs, which replies it accepts, and what it does without a usable key.

mod util;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use util::*;

const KEY: &str = "the key of a test, long enough";
const NEXT_KEY: &str = "the next key of the same test";

/// Writes the key file of a host.
fn write_key(host: &Host, text: &str, mode: u32) {
    host.write("key", text);
    fs::set_permissions(host.path("key"), fs::Permissions::from_mode(mode)).expect("our own file");
}

/// A host that signs with `KEY`.
fn signing_host(server: &Server) -> Host {
    let mut host = Host::with(server);
    let path = format!("\"{}\"", host.path("key").display());
    host.set("key_file", &path);
    write_key(&host, &format!("{KEY}\n"), 0o600);
    host
}

/// Whether a request is signed with `key` as the protocol has it.
fn is_signed(request: &Request, key: &str) -> bool {
    let header = |name: &str| request.header(&format!("X-BootAgent-{name}")).unwrap_or_default().to_string();
    let (sn, nonce) = (header("Sn"), header("Nonce"));
    let text = format!("POST\n{}\n{sn}\n{nonce}\n{}", request.path, request.body);
    let hex = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
    nonce.len() == 32 && nonce.bytes().all(hex) && header("Signature") == hmac(key, &text)
}

#[test]
fn a_signed_exchange_is_the_protocols() {
    let server = Server::new();
    server.signs(|request, body| signature(KEY, request, body));
    let mut host = signing_host(&server);
    host.agent("web", "exec sleep 1000", &[]);
    host.start();
    host.wait_running("web");
    host.does(&server, &Job::new("j1", "stop", "web"), 0);
    host.wait_seen("web", "to be stopped", |agent| agent.status == "stoped");
    let name = &checksum(KEY.as_bytes())["SHA256:".len()..][..16];
    for request in server.requests() {
        assert!(is_signed(&request, KEY), "{request:?}");
        assert_eq!(request.header("X-BootAgent-Key"), Some(name));
    }
    let sn = text(&host.status().unwrap(), "sn").to_string();
    assert!(server.requests().iter().all(|request| request.header("X-BootAgent-Sn") == Some(&sn)));

    // No nonce comes twice, over restarts of every kind: each daemon begins with numbers that none before it could have used.
    let first: u64 = host.read("state/nonces").trim().parse().unwrap();
    host.kill9();
    host.start();
    host.wait("reports of the next daemon", || server.requests().len() > 8);
    host.end("TERM");
    host.start();
    host.wait("reports of the one after it", || server.requests().len() > 12);
    let requests = server.requests();
    let nonces: BTreeSet<_> = requests.iter().filter_map(|request| request.header("X-BootAgent-Nonce")).collect();
    assert_eq!(nonces.len(), requests.len());
    let last: u64 = host.read("state/nonces").trim().parse().unwrap();
    assert!(last >= first + 2000, "{first} {last}: a later daemon begins with fresh numbers");
    assert!(!host.logs().contains(KEY) && !host.read("state/jobs/j1.json").contains(KEY));
}

#[test]
fn replies_that_are_not_signed_right_are_refused() {
    type Forgery = fn(&Request, &str) -> Option<String>;
    let forgeries: [(&str, Forgery); 7] = [
        ("none", |_, _| None),
        ("nothing in it", |_, _| Some(String::new())),
        ("another key", |request, body| signature("another key, long enough", request, body)),
        ("another body", |request, body| signature(KEY, request, &body.replace("stop", "start"))),
        ("another nonce", |_, body| Some(hmac(KEY, &format!("200\n{}\n{body}", "0".repeat(32))))),
        ("another status", |request, body| {
            Some(hmac(KEY, &format!("201\n{}\n{body}", request.header("X-BootAgent-Nonce")?)))
        }),
        ("our own request's", |request, _| request.header("X-BootAgent-Signature").map(str::to_string)),
    ];
    let mut running = Vec::new();
    for (what, forgery) in forgeries {
        let (bad, good) = (Server::new(), Server::new());
        bad.signs(forgery);
        bad.give(&Job::new("j1", "stop", "web").text());
        good.signs(|request, body| signature(KEY, request, body));
        let mut host = signing_host(&bad);
        host.set("svrlist", &format!("\"{},{}\"", bad.address, good.address));
        host.agent("web", "exec sleep 1000", &[]);
        host.start();
        running.push((what, bad, good, host));
    }
    for (what, bad, good, host) in &running {
        host.wait(&format!("the next server after a reply signed with {what}"), || good.requests().len() >= 2);
        assert!(host.wait_running("web").runs(), "{what}");
        assert!(host.job("j1").is_none(), "a job was taken from a reply signed with {what}");
        let told = |why: &str| host.logs().contains(&format!("server http://{}: {why}", bad.address));
        assert!(told("the reply's signature is") || told("the reply is not signed"), "{what}: {}", host.logs());
    }
}

#[test]
fn a_replayed_reply_is_worth_nothing() {
    let server = Server::new();
    let first: Arc<Mutex<Option<String>>> = Arc::default();
    // What was right for the first status of this body is sent for ever after.
    server.signs(move |request, body| {
        let mut first = first.lock().unwrap();
        first.get_or_insert_with(|| signature(KEY, request, body).unwrap_or_default());
        first.clone()
    });
    let mut host = signing_host(&server);
    host.agent("web", "exec sleep 1000", &[]);
    host.start();
    host.wait("some reports", || server.requests().len() >= 3);
    host.wait("the replay to be refused", || host.logs().contains("the reply's signature is wrong"));
    assert!(host.wait_running("web").runs());
}

#[test]
fn only_what_is_signed_asks_for_a_pause() {
    let busy = |headers: &str, body: &str| {
        let server = Server::new();
        server.mode(Mode::Signed(KEY, "503 Later", headers.to_string(), body.to_string()));
        server
    };
    // Somebody between may add a header to what is signed.
    let header = busy("Retry-After: 3600\r\n", "{\"errcode\": 0}");
    let mut added = signing_host(&header);
    added.start();
    // A server that asks for more than a step gets a step.
    let long = busy("", "{\"errcode\": 0, \"retry_after\": 86400}");
    let mut capped = signing_host(&long);
    capped.set("step", "1");
    capped.start();
    let body = busy("", "{\"errcode\": 0, \"retry_after\": 3}");
    let mut heeded = signing_host(&body);
    heeded.set("step", "4");
    heeded.start();
    // What asks for nothing that can be had is no reason to wait.
    let odd = busy("", "{\"errcode\": 0, \"retry_after\": \"600\"}");
    let mut other = signing_host(&odd);
    other.start();
    added.wait("no heed of the header", || header.requests().len() >= 3);
    other.wait("no heed of a text", || odd.requests().len() >= 3);
    capped.wait("no more heed than a step", || long.requests().len() >= 3);
    heeded.wait("the second try", || body.requests().len() >= 3);
    let times: Vec<std::time::Instant> = body.requests().iter().map(|request| request.at).collect();
    for pair in times.windows(2) {
        let pause = pair[1] - pair[0];
        assert!(pause >= Duration::from_millis(2900) && pause < Duration::from_secs(20), "{pause:?}");
    }
    let times: Vec<std::time::Instant> = long.requests().iter().map(|request| request.at).collect();
    assert!(times.windows(2).all(|pair| pair[1] - pair[0] >= Duration::from_millis(900)), "{times:?}");
}

#[test]
fn keys_change_one_side_at_a_time() {
    let server = Server::new();
    server.signs(|request, body| signature(KEY, request, body));
    let mut host = signing_host(&server);
    host.start();
    let answered = |host: &Host| host.cli(&["report"]).code == 0;
    assert!(answered(&host));

    // The new key comes first here, while the server still has the old one only.
    write_key(&host, &format!("{NEXT_KEY}\n{KEY}\n"), 0o600);
    server.forget();
    host.signal("HUP");
    host.wait("the new key to sign", || server.requests().last().is_some_and(|last| is_signed(last, NEXT_KEY)));
    assert!(answered(&host), "the old key is accepted beside the new one");
    server.signs(|request, body| signature(NEXT_KEY, request, body));
    assert!(answered(&host));

    // The old one goes.
    write_key(&host, NEXT_KEY, 0o600);
    host.signal("HUP");
    server.signs(|request, body| signature(KEY, request, body));
    host.wait("the old key to be refused", || !answered(&host));
}

#[test]
fn without_a_usable_key_there_is_no_exchange_and_all_else() {
    for (what, text, mode) in [
        ("it is short", "fifteen bytes..", 0o600),
        ("others can read it", KEY, 0o644),
        ("its group can read it", KEY, 0o640),
        ("it is not there", "", 0),
    ] {
        let server = Server::new();
        let mut host = signing_host(&server);
        if mode == 0 {
            fs::remove_file(host.path("key")).unwrap();
        } else {
            write_key(&host, text, mode);
        }
        host.agent("web", "exec sleep 1000", &[]);
        host.start();
        let pid = host.wait_running("web").pid;
        assert!(stays(|| server.requests().is_empty()), "{what}: it talks all the same");
        let line = "there will be no exchanges with servers";
        assert!(host.logs().lines().any(|log| log.contains("error") && log.contains(line)), "{}", host.logs());
        assert_eq!(host.cli(&["report"]).code, 1);
        let check = host.cli(&["check"]);
        assert!(check.code == 1 && check.err.contains("key_file"), "{check:?}");

        // When the key file is good again and SIGHUP came, there are exchanges.
        server.signs(|request, body| signature(KEY, request, body));
        write_key(&host, KEY, 0o600);
        host.signal("HUP");
        host.wait("a report", || server.requests().iter().any(|request| is_signed(request, KEY)));
        assert_eq!(host.wait_running("web").pid, pid);
        // A key that becomes bad ends them again.
        write_key(&host, "short", 0o600);
        host.signal("HUP");
        host.wait("no more reports", || {
            let before = server.requests().len();
            stays(|| server.requests().len() == before)
        });
        assert_eq!(host.wait_running("web").pid, pid);
    }
}

#[test]
fn the_reference_server_does_its_half() {
    let Some(program) = example("server") else {
        skipped("the smallest server (cargo build --examples)");
        return;
    };
    if lacks("curl") {
        return;
    }
    let server = Server::new();
    let mut host = signing_host(&server);
    fs::create_dir_all(host.path("jobs/all")).unwrap();
    host.write("jobs/all/stop.json", &Job::new("j1", "stop", "web").text());
    let port = Server::nowhere();
    let mut command = Command::new(program);
    command.args(["--listen", &port, "--jobs", "jobs", "--key-file", "key"]).current_dir(&host.dir);
    let mut reference = command.spawn().unwrap();
    host.set("svrlist", &format!("\"{port}\""));
    host.agent("web", "exec sleep 1000", &[]);
    host.start();
    let taken = patiently(|| (host.lines("results.jsonl") > 0).then_some(()));
    let signed = run(Command::new("curl").args(["-s", "-o", "/dev/null", "-w", "%{http_code}"]).args([
        "-d",
        "{}",
        &format!("http://{port}/agent/status"),
    ]));
    reference.kill().unwrap();
    reference.wait().unwrap();
    assert!(taken.is_some(), "{}", host.logs());
    assert_eq!(signed.map(|ran| ran.out).as_deref(), Some("403"));
}
