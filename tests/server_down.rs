//! Exchanges from outside: what is sent, when, and to which server; and that agents never notice a server, however broken.

mod util;

use std::fs;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use util::*;

/// A host that reports to these servers, in this order.
fn host_of(servers: &[&str]) -> Host {
    let mut host = Host::new();
    host.set("svrlist", &format!("\"{}\"", servers.join(",")));
    host
}

#[test]
fn a_report_holds_what_the_protocol_says() {
    let server = Server::new();
    let mut host = host_of(&[&format!("http://{}/some/path/", server.address)]);
    host.set("step", "2");
    host.agent("web", "exec sleep 1000", &[]);
    host.agent("down", "exec sleep 1000", &[("autostart", "false"), ("version", "\"7.1\"")]);
    host.start();
    let path = "/some/path/agent/status";
    host.wait("a report of the running agent", || {
        let reports = server.requests_to(path);
        reports.last().and_then(|request| seen(&request.json(), "web")).is_some_and(|agent| agent.uptime > 0.0)
    });
    let request = server.requests_to(path).pop().unwrap();
    assert_eq!(request.method, "POST");
    assert_eq!(request.header("Connection").map(str::to_lowercase).as_deref(), Some("close"));
    assert!(request.header("Content-Type").is_some_and(|kind| kind.starts_with("application/json")));
    assert_eq!(request.header("Host"), Some(server.address.as_str()));

    let body = request.json();
    assert_eq!(text(&body, "hostname"), "test-host");
    let version = format!("bootagent-{}-", env!("CARGO_PKG_VERSION"));
    assert!(text(&body, "version").starts_with(&version), "{}", text(&body, "version"));
    assert_eq!(number(&body, "step"), 2.0);
    assert!((0.0..60.0).contains(&number(&body, "uptime")));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    assert!((now - number(&body, "timestamp")).abs() < 60.0);
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    assert_eq!(text(&body, "boot_id"), boot_id.trim());
    let dashes: Vec<usize> = text(&body, "sn").match_indices('-').map(|(at, _)| at).collect();
    assert_eq!((text(&body, "sn").len(), dashes), (36, vec![8, 13, 18, 23]));
    assert!(matches!(at(&body, "events"), miniserde::json::Value::Array(_)));

    let web = seen(&body, "web").unwrap();
    assert_eq!((web.status.as_str(), web.version.as_str(), web.failures), ("running", "1.0", 0));
    assert!(web.pid > 1 && alive(web.pid));
    let down = seen(&body, "down").unwrap();
    assert_eq!((down.status.as_str(), down.version.as_str(), down.uptime), ("stoped", "7.1", 0.0));

    // The same host after a restart.
    host.end("TERM");
    server.forget();
    host.start();
    host.wait("the next report", || !server.requests_to(path).is_empty());
    assert_eq!(text(&server.requests_to(path)[0].json(), "sn"), text(&body, "sn"), "the host forgot who it is");
}

#[test]
fn reports_come_at_their_step_and_on_change() {
    let server = Server::new();
    let mut host = Host::with(&server);
    host.set("step", "1");
    host.start();
    host.wait("five reports", || server.requests_to("/agent/status").len() >= 5);
    let times: Vec<Instant> = server.requests_to("/agent/status").iter().map(|request| request.at).collect();
    for pair in times.windows(2).skip(1) {
        let gap = pair[1] - pair[0];
        // 5 % of jitter, and what a busy machine adds.
        assert!(gap >= Duration::from_millis(900) && gap < Duration::from_millis(1900), "{gap:?}");
    }
    host.end("TERM");

    // With a long step a change is reported all the same.
    host.set("step", "3600");
    host.agent("web", "exec sleep 1000", &[]);
    server.forget();
    host.start();
    host.wait("the agent to be reported", || {
        server.statuses().last().and_then(|status| seen(status, "web")).is_some_and(|agent| agent.runs())
    });
    assert!(stays(|| server.requests().len() <= 2), "it talks without need");
}

#[test]
fn a_broken_answer_sends_it_to_the_next_server() {
    let deep = format!("{{\"errcode\": 0, \"x\": {}1{}}}", "[".repeat(65), "]".repeat(65));
    let huge = format!("{{\"errcode\": 0, \"x\": \"{}\"}}", "x".repeat(5 << 20));
    let good = "{\"errcode\": 0, \"jobs\": []}";
    let ok = |body: &str| Mode::reply("200 OK", "", body);
    let raw = |text: &str| Mode::Raw(text.as_bytes().to_vec());
    let cases = [
        ("closes", Mode::Close),
        ("500", Mode::reply("500 Internal Server Error", "", good)),
        ("404", Mode::reply("404 Not Found", "", good)),
        ("redirects", Mode::reply("302 Found", "Location: /agent/elsewhere\r\n", good)),
        ("HTML", ok("<html><body>Welcome to nginx!</body></html>")),
        ("nothing", ok("")),
        ("an array", ok("[]")),
        ("null", ok("null")),
        ("half of it", ok("{\"errcode\": 0, \"jobs\": [")),
        ("more than it", ok(&format!("{good} {good}"))),
        ("deep nesting", ok(&deep)),
        ("bottomless nesting", ok(&"[".repeat(500_000))),
        ("5 MB", ok(&huge)),
        ("not UTF-8", Mode::Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n{\xff\xff}".to_vec())),
        ("less than promised", raw(&format!("HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n{good}"))),
        (
            "two lengths",
            raw(&format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: {}\r\n\r\n{good}", good.len())),
        ),
        ("no HTTP", raw("220 ftp.example.org ready\r\n")),
        ("a cut head", raw("HTTP/1.1 200 OK\r\nContent-Le")),
        ("an endless head", raw(&format!("HTTP/1.1 200 OK\r\n{}", "X: y\r\n".repeat(100_000)))),
    ];
    let mut running = Vec::new();
    for (what, mode) in cases {
        let (bad, good) = (Server::new(), Server::new());
        bad.mode(mode);
        let mut host = host_of(&[&bad.address, &good.address]);
        host.start();
        running.push((what, host, bad, good));
    }
    for (what, host, bad, good) in &mut running {
        host.wait(&format!("the second server to hear a report while the first sends {what}"), || {
            !good.statuses().is_empty()
        });
        assert!(!bad.requests_to("/agent/status").is_empty(), "{what}: the first server was not tried");
        assert!(bad.requests_to("/agent/elsewhere").is_empty(), "{what}: a redirect was followed");
        assert!(host.lives(), "{what}");
    }
}

#[test]
fn what_a_plain_server_sends_is_enough() {
    for body in [
        "{}",
        "{\"errcode\": 0}",
        "{\"errcode\": 2, \"unknown\": [1, {\"a\": null}]}",
        "{\"jobs\": [], \"errcode\": \"not a number\"}",
    ] {
        let (server, next) = (Server::new(), Server::new());
        server.mode(Mode::reply("200 OK", "", body));
        let mut host = host_of(&[&server.address, &next.address]);
        host.start();
        if body.contains("not a number") {
            // Not what the protocol says, and harmless: either is right, as long as reports go on.
            host.wait("reports", || server.requests().len() + next.requests().len() >= 3);
            continue;
        }
        host.wait(&format!("reports to go on after {body}"), || server.statuses().len() >= 3);
        assert!(next.requests().is_empty(), "{body} was not accepted");
    }
    // No length, and chunks: both are HTTP/1.1.
    let chunked =
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n{\"errcod\r\n5\r\ne\": 0\r\n1\r\n}\r\n0\r\n\r\n";
    for answer in ["HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{\"errcode\": 0}", chunked] {
        let (server, next) = (Server::new(), Server::new());
        server.mode(Mode::Raw(answer.as_bytes().to_vec()));
        let mut host = host_of(&[&server.address, &next.address]);
        host.start();
        host.wait("reports to go on", || server.statuses().len() >= 2);
        assert!(next.requests().is_empty(), "{answer}");
    }
}

#[test]
fn a_server_that_hangs_or_drips_is_not_noticed() {
    let mut running = Vec::new();
    for mode in [Mode::Hang, Mode::Drip] {
        let (bad, good) = (Server::new(), Server::new());
        bad.mode(mode);
        // A good answer that takes longer than 30 s to drip.
        let job = Job::new("slow", "stop", "no-such-agent").set("padding", &format!("\"{}\"", "x".repeat(200)));
        bad.give(&job.text());
        let mut host = host_of(&[&bad.address, &good.address]);
        host.set("restartsecs", "0").set("retries", "1000");
        host.agent("web", "exec sleep 1000", &[]);
        host.start();
        host.wait("the exchange to begin", || !bad.requests().is_empty());
        running.push((host, bad, good, Instant::now()));
    }
    for (host, _, good, begun) in &running {
        let mut delays = Vec::new();
        for _ in 0..11 {
            let pid = host.wait_running("web").pid;
            let killed = Instant::now();
            kill(pid, "KILL");
            host.wait_seen("web", "to come back", |agent| agent.runs() && agent.pid != pid);
            delays.push(killed.elapsed());
        }
        delays.sort();
        // Mostly the time it takes to ask for it by commands; the server keeps its client waiting for much longer.
        assert!(delays[5] < Duration::from_secs(5), "{delays:?}");
        let asked = Instant::now();
        host.ok(&["restart", "web"]);
        host.ok(&["stop", "web"]);
        assert!(asked.elapsed() < Duration::from_secs(20), "commands wait for a server");
        assert!(good.requests().is_empty() || begun.elapsed() > Duration::from_secs(25), "given up too early");
    }
    let deadline = Instant::now() + Duration::from_secs(90);
    for (host, _, good, begun) in &running {
        while good.statuses().is_empty() {
            assert!(Instant::now() < deadline, "the next server never heard of it\n{}", host.logs());
            pause();
        }
        let took = good.requests()[0].at - *begun;
        assert!(took > Duration::from_secs(25) && took < Duration::from_secs(60), "given up after {took:?}");
    }
}

#[test]
fn it_stays_with_the_server_that_answered() {
    let (first, second) = (Server::new(), Server::new());
    let mut host = host_of(&[&Server::nowhere(), &first.address, &second.address]);
    host.start();
    host.wait("reports to the first that answers", || first.statuses().len() >= 3);
    assert!(second.requests().is_empty());
    first.mode(Mode::Close);
    host.wait("reports to the second", || second.statuses().len() >= 2);
    first.mode(Mode::Good);
    first.forget();
    let count = second.statuses().len();
    host.wait("more reports to the second", || second.statuses().len() >= count + 4);
    assert!(first.requests().is_empty(), "it went back without need");
    second.mode(Mode::Close);
    host.wait("reports to the first again", || first.statuses().len() >= 2);
}

#[test]
fn a_server_that_comes_back_is_found() {
    let server = Server::new();
    let (port, address) = (server.port(), server.address.clone());
    drop(server);
    let mut host = host_of(&[&address]);
    host.agent("web", "exec sleep 1000", &[]);
    host.start();
    let pid = host.wait_running("web").pid;
    let report = host.cli(&["report"]);
    assert!(report.code == 1 && !report.err.is_empty(), "{report:?}");
    let silence = "no server has taken a report for ";
    host.wait("the silence to be told", || host.ok(&["status"]).contains(silence));
    // It lasts over a reexec.
    host.ok(&["reexec"]);
    assert!(host.ok(&["status", "--json"]).contains("\"silence\":"));
    // Another test may have the port for a moment.
    let server = patiently(|| Server::on(port).ok()).expect("the port is free again");
    host.wait("a report to the server that came back", || !server.statuses().is_empty());
    host.ok(&["report"]);
    assert!(!host.ok(&["status"]).contains(silence));
    assert_eq!(host.seen("web").map(|agent| agent.pid), Some(pid));
}

#[test]
fn results_go_before_status() {
    let server = Server::new();
    let mut host = Host::with(&server);
    host.agent("web", "exec sleep 1000", &[("startsecs", "0.6")]);
    host.start();
    host.wait_running("web");
    server.takes(false);
    server.give(&Job::new("one", "restart", "web").text());
    host.wait("the result to be sent in vain", || !server.sent_results().is_empty());
    host.end("TERM");
    server.forget();
    server.takes(true);
    host.start();
    host.wait("two requests", || server.requests().len() >= 2);
    let paths: Vec<String> = server.requests().into_iter().map(|request| request.path).collect();
    assert_eq!(paths[..2], ["/agent/job/result", "/agent/status"]);
}

#[test]
fn retry_after_is_heeded() {
    let busy = Server::new();
    busy.mode(Mode::reply("503 Service Unavailable", "Retry-After: 3\r\n", "{\"errcode\": 0}"));
    let mut alone = host_of(&[&busy.address]);
    alone.start();
    let other = Server::new();
    other.mode(Mode::reply("503 Service Unavailable", "Retry-After: Wed, 21 Oct 2065 07:28:00 GMT\r\n", ""));
    let mut dated = host_of(&[&other.address]);
    dated.start();
    alone.wait("the second try", || busy.requests().len() >= 2);
    let times: Vec<Instant> = busy.requests().iter().map(|request| request.at).collect();
    assert!(times[1] - times[0] >= Duration::from_millis(2900), "asked again after {:?}", times[1] - times[0]);
    dated.wait("a date to be no reason to wait", || other.requests().len() >= 3);
}

#[test]
fn errors_never_make_it_talk_more() {
    let server = Server::new();
    server.mode(Mode::reply("500 Internal Server Error", "", ""));
    let mut host = Host::with(&server);
    host.set("step", "1");
    host.start();
    host.wait("the first try", || !server.requests().is_empty());
    let (before, count) = (Instant::now(), server.requests().len());
    host.wait("eight more", || server.requests().len() >= count + 8);
    // Full jitter under a cap of one step: on average twice as often as the step, and by chance a little more.
    let (tries, took) = (server.requests().len() - count, before.elapsed());
    assert!(tries as f64 <= 6.0 * took.as_secs_f64(), "{tries} tries in {took:?} with a step of 1 s");
    let log = host.read("log/bootagent.log");
    assert!(log.lines().filter(|line| line.contains("500")).count() <= 3, "each failure is logged:\n{log}");
}

#[test]
fn without_a_server_it_still_supervises() {
    let mut host = Host::new();
    host.agent("web", "exec sleep 1000", &[]);
    host.start();
    let pid = host.wait_running("web").pid;
    kill(pid, "KILL");
    host.wait_seen("web", "to come back", |agent| agent.runs() && agent.pid != pid);
    assert_eq!(host.cli(&["report"]).code, 1);
}

#[test]
fn servers_on_the_command_line_come_instead_of_the_file() {
    let (file, line) = (Server::new(), Server::new());
    let mut host = Host::with(&file);
    host.start_with(&["-S", &line.address]);
    host.wait("reports", || line.statuses().len() >= 2);
    assert!(file.requests().is_empty());
}
