//! Jobs for many hosts: given and cancelled in parts, while hosts report, and finished after a kill -9.

mod util;

use serde_json::{json, Value};
use std::time::{Duration, Instant};
use util::{wait_for, Host, Server};

/// The database of a server.
fn database(server: &Server) -> rusqlite::Connection {
    let connection = rusqlite::Connection::open(server.dir.join("bootserver.db")).expect("the database");
    connection.busy_timeout(Duration::from_secs(10)).expect("a time");
    connection
}

/// A server with so many accepted hosts, which reported a moment ago and never will again.
fn with_hosts(count: u32) -> Server {
    let mut server = Server::stopped(&[]);
    server.run(&["init"]);
    server.run(&["group", "new", "web"]);
    let insert = format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count}) \
         INSERT INTO hosts (sn, name, grp, state, created) SELECT 'sn-' || i, 'web-' || i, 'web', 'accepted', 0 FROM n; \
         INSERT INTO reports (sn, seen, step, skew, boots, nonces, peer, agents, body) \
         SELECT sn, unixepoch(), 600, 0, '[]', '', '', '', '{{\"version\":\"bootagent-1.1.0-x86_64\",\"os\":\"debian 12\"}}' \
         FROM hosts;"
    );
    database(&server).execute_batch(&insert).expect("hosts");
    server.resume();
    server
}

fn jobs(server: &Server, token: &str) -> Vec<Value> {
    serde_json::from_str(&server.page(token, "/api/v1/jobs")).expect("an array")
}

#[test]
fn a_large_job_is_given_and_cancelled_to_the_last_host() {
    let server = with_hosts(1100);
    let token = server.token("viewer");
    let out = server.run(&["job", "start", "web", "--select", "group=web"]);
    assert!(out.contains("job j1 for 1100 hosts"), "{out}");
    let job = &jobs(&server, &token)[0];
    assert_eq!((&job["state"], &job["counts"]), (&json!("open"), &json!({ "waiting": 1100 })));
    assert_eq!(server.json(&["job", "show", "j1"]).len(), 1100);
    let out = server.run(&["job", "cancel", "j1"]);
    assert!(out.contains("1100 withdrawn; 0 hosts had it"), "{out}");
    let job = &jobs(&server, &token)[0];
    assert_eq!((&job["state"], &job["counts"]), (&json!("cancelled"), &json!({ "withdrawn": 1100 })));
    let trail = server.run(&["audit"]);
    assert!(trail.contains("1100 hosts") && trail.contains("1100 withdrawn"), "{trail}");
}

#[test]
fn reports_are_stored_while_a_large_job_is_given_and_nobody_gets_it_before_it_is_whole() {
    let server = with_hosts(20_000);
    let (token, key) = (server.token("viewer"), server.key(&["--group", "web", "--auto-accept"]));
    // First and last by name: in the first and in the last part.
    let mut hosts = [Host::new("a", "sn-a", Some(&key)), Host::new("z", "sn-z", Some(&key))];
    for host in &mut hosts {
        host.report(&server);
    }
    let (mut reports, mut slowest) = (0, Duration::ZERO);
    std::thread::scope(|scope| {
        let giving = scope.spawn(|| server.run(&["job", "start", "web", "--select", "group=web"]));
        while !giving.is_finished() {
            for host in &mut hosts {
                let begun = Instant::now();
                let offered = host.jobs(&server);
                slowest = slowest.max(begun.elapsed());
                if !offered.is_empty() {
                    assert_eq!(jobs(&server, &token)[0]["state"], "open", "it was not whole");
                }
                reports += 1;
            }
        }
        let out = giving.join().expect("the job is given");
        assert!(out.contains("for 20002 hosts"), "{out}");
    });
    assert!(reports >= 20, "only {reports} reports in that time");
    assert!(slowest < Duration::from_secs(2), "a report waited for {slowest:?}");
    for host in &mut hosts {
        assert_eq!(host.jobs(&server).len(), 1, "it is offered until its result");
    }
}

#[test]
fn a_job_that_a_kill_broke_off_was_not_given() {
    let mut server = with_hosts(20_000);
    let (token, key) = (server.token("viewer"), server.key(&["--group", "web", "--auto-accept"]));
    let mut host = Host::new("a", "sn-a", Some(&key));
    host.report(&server);
    let mut giving = std::process::Command::new(env!("CARGO_BIN_EXE_bootserver"))
        .arg("-d")
        .arg(&server.dir)
        .args(["job", "start", "web", "--select", "group=web"])
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("bootserver");
    let preparing = |job: &Value| job["state"] == "preparing" && job["counts"]["waiting"].as_i64() > Some(1000);
    wait_for("a job that is being prepared", || jobs(&server, &token).first().is_some_and(preparing).then_some(()));
    server.kill();
    assert_ne!(giving.wait().expect("its end").code(), Some(0), "nobody was told that it was given");
    server.resume();
    assert!(host.jobs(&server).is_empty());
    wait_for("nothing is left", || jobs(&server, &token).is_empty().then_some(()));
    assert!(host.jobs(&server).is_empty());
    let left = "SELECT count(*) FROM executions";
    let left: i64 = database(&server).query_row(left, [], |row| row.get(0)).expect("a count");
    assert_eq!(left, 0);
    assert!(server.events().contains("job j1 (start web) was not given"), "{}", server.events());
}

#[test]
fn what_a_killed_server_left_unfinished_is_finished() {
    let mut server = Server::start(&[]);
    let key = server.key(&["--group", "web", "--auto-accept"]);
    let mut host = Host::new("web-01", "sn-1", Some(&key));
    host.report(&server);
    for _ in 0..3 {
        server.run(&["job", "start", "web", "--select", "group=web"]);
    }
    server.kill();
    let set =
        "UPDATE jobs SET state = 'preparing' WHERE id = 'j1'; UPDATE jobs SET state = 'cancelling' WHERE id = 'j2'";
    database(&server).execute_batch(set).expect("two jobs that are unfinished");
    server.resume();
    let offered = host.jobs(&server);
    assert_eq!(offered.len(), 1, "{offered:?}");
    assert!(offered[0]["id"].as_str().is_some_and(|id| id.starts_with("j3-")), "{offered:?}");
    let token = server.token("viewer");
    let jobs = wait_for("an end", || {
        let jobs = jobs(&server, &token);
        (jobs.len() == 2 && jobs[1]["counts"] == json!({ "withdrawn": 1 })).then_some(jobs)
    });
    assert_eq!((&jobs[1]["id"], &jobs[1]["state"]), (&json!("j2"), &json!("cancelled")));
    assert_eq!(server.json(&["job", "list", "job=j1"]).len(), 0);
    assert!(server.events().contains("job j1 (start web) was not given"), "{}", server.events());
    let again = server.run(&["job", "start", "web", "--select", "group=web"]);
    assert!(again.contains("job j4"), "the number is not used again: {again}");
}
