//! The server's clock is set while it runs: it says so, and nothing ages by it. The time is libfaketime's.

#[path = "../../tests/util/skip.rs"]
#[allow(dead_code, reason = "shared with other tests")]
mod skip;
mod util;

use std::path::{Path, PathBuf};
use util::{wait_for, Host, Server};

const DAY: i64 = 86_400;

fn library() -> Option<PathBuf> {
    let places = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib"];
    let paths = places.map(|place| Path::new(place).join("faketime/libfaketimeMT.so.1"));
    paths.into_iter().find(|path| path.exists())
}

fn now() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock");
    i64::try_from(now.as_secs()).expect("a small number")
}

struct Clock(PathBuf);

impl Clock {
    /// Sets the server's clock, by days from the true time.
    fn set(&self, days: i64) {
        let new = self.0.with_extension("new");
        std::fs::write(&new, format!("{days:+}d\n")).expect("a file");
        std::fs::rename(new, &self.0).expect("a file");
    }
}

/// A server whose clock can be set.
fn start() -> Option<(Server, Clock)> {
    let Some(library) = library() else {
        skip::skipped("faketime");
        return None;
    };
    let mut server = Server::stopped(&[]);
    server.run(&["init"]);
    let clock = Clock(server.dir.join("time"));
    clock.set(0);
    server.env = vec![
        ("LD_PRELOAD", library.to_str().expect("a path").to_string()),
        ("FAKETIME_TIMESTAMP_FILE", clock.0.to_str().expect("a path").to_string()),
        ("FAKETIME_NO_CACHE", "1".to_string()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_string()),
    ];
    server.resume();
    Some((server, clock))
}

fn said(server: &Server, text: &str) {
    wait_for(text, || server.log().contains(text).then_some(()));
}

/// A host that reports every ten minutes and was given a job.
fn host(server: &Server) -> Host {
    let key = server.key(&["--group", "web", "--auto-accept"]);
    let mut host = Host::new("web-01", "sn-1", Some(&key));
    host.more = serde_json::json!({ "step": 600 });
    host.report(server);
    server.run(&["group", "set", "web", "retire=90000"]);
    server.run(&["job", "restart", "web", "--select", "group=web"]);
    assert_eq!(host.jobs(server).len(), 1);
    host
}

fn deadline(server: &Server) -> i64 {
    server.json(&["job", "list"])[0]["deadline"].as_i64().expect("a deadline")
}

fn seen(server: &Server) -> i64 {
    server.host("sn-1")["seen"].as_i64().expect("a time")
}

#[test]
fn a_clock_set_back_moves_deadlines_and_nothing_stays_in_the_future() {
    let Some((server, clock)) = start() else { return };
    let mut host = host(&server);
    clock.set(-30);
    said(&server, "the clock was set back by 25");
    let there = now() - 30 * DAY;
    assert!((there..there + 3600).contains(&deadline(&server)), "{} at {there}", deadline(&server));
    assert!(seen(&server) <= there + 60, "{} at {there}", seen(&server));
    assert_eq!(host.report(&server).status, 200);
    assert_eq!(server.host("sn-1")["freshness"], "on-time");
}

#[test]
fn a_clock_set_forward_ages_no_host_and_no_job() {
    let Some((server, clock)) = start() else { return };
    let mut host = host(&server);
    clock.set(400);
    said(&server, "the clock was set forward by 345");
    let there = now() + 400 * DAY;
    assert!((there..there + 3600).contains(&deadline(&server)), "{} at {there}", deadline(&server));
    // Longer than it takes until the part comes by that retires and deletes.
    let begun = std::time::Instant::now();
    while begun.elapsed() < std::time::Duration::from_secs(35) {
        assert_eq!(server.host("sn-1")["freshness"], "on-time", "after {:?}", begun.elapsed());
        std::thread::sleep(std::time::Duration::from_millis(500));
    }
    assert_eq!(server.host("sn-1")["state"], "accepted");
    assert!(!server.events().contains("no report for"), "no host was lost, not for a second: {}", server.events());
    assert_eq!(server.json(&["job", "list"])[0]["state"], "offered");
    assert!(server.events().contains("new host"), "events are not too old by a clock that was just set");
    assert_eq!(host.report(&server).status, 200);
}

#[test]
fn a_start_with_an_earlier_clock_is_told() {
    let Some((mut server, clock)) = start() else { return };
    let mut host = host(&server);
    server.kill();
    clock.set(-1000);
    server.resume();
    assert_eq!(host.report(&server).status, 200);
    assert_eq!(server.host("sn-1")["freshness"], "on-time");
    let there = now() - 1000 * DAY;
    assert!((there..there + 3600).contains(&deadline(&server)), "{} at {there}", deadline(&server));
}
