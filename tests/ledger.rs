//! The list of jobs against servers that misbehave: one that gives ten thousand jobs at once, one that offers every job for
//! ever, one that never takes a result; and results that are being sent when the daemon dies.
//!
//! `MANY_JOBS=10000` for all of them; some by default.

mod util;

use std::fs;

use util::*;

/// A server, and a started host with agent `web`, which records each of its starts in the file `starts`.
fn pair() -> (Server, Host) {
    let server = Server::new();
    let mut host = Host::with(&server);
    let starts = host.path("starts");
    host.agent("web", &format!("echo x >>{}; exec sleep 1000", starts.display()), &[("restartsecs", "0.1")]);
    host.start();
    host.wait_running("web");
    (server, host)
}

fn starts(host: &Host) -> usize {
    host.lines("starts")
}

/// The open jobs of a host: what is in its ledger and not taken.
fn open(host: &Host) -> usize {
    let ledger = miniserde::json::from_str(&host.ok(&["jobs", "--json"])).expect("the ledger is JSON");
    items(&ledger, "").iter().filter(|row| text(row, "state") != "taken").count()
}

/// The daemon's resident memory, KiB.
fn resident(host: &Host) -> u64 {
    proc_status(host.pid(), "VmRSS").split_whitespace().next().and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// The server has a result, but the host does not know that: it sends the result once more, and does nothing else.
#[test]
fn a_result_that_is_taken_in_a_crash_is_told_again_and_nothing_is_done_again() {
    if cfg!(not(debug_assertions)) || std::env::var_os("BOOTAGENT_TEST_BIN").is_some() {
        cannot_apply("a release takes no faults");
        return;
    }
    let (server, mut host) = pair();
    server.repeats();
    let mut wanted = starts(&host);
    for (n, point) in ["Exchange-results:1", "Replied-taken:1", "SaveJob-taken:1", "Saved:5"].into_iter().enumerate() {
        host.kill9();
        host.env("BOOTAGENT_FAULT", point);
        host.start();
        host.env("BOOTAGENT_FAULT", "");
        let id = format!("t{n}");
        server.give(&Job::new(&id, "restart", "web").text());
        let daemon = host.pid();
        host.wait(point, || proc_status(daemon, "State").starts_with('T'));
        host.kill9();
        host.start();
        assert_eq!(host.result(&server, &id).0, 0);
        let taken = || host.read(&format!("state/jobs/{id}.json")).contains("\"taken\"");
        host.wait("the result to be noted as taken", taken);
        // It is given again all the time.
        let count = server.requests_to("/agent/status").len();
        host.wait("more reports", || server.requests_to("/agent/status").len() > count + 2);
        let codes = server.codes(&id);
        assert!(codes.len() <= 2 && codes.iter().all(|code| *code == 0), "{point}: {codes:?}");
        wanted += 1;
        assert_eq!(starts(&host), wanted, "{point}: it was done again\n{}", host.logs());
    }
}

#[test]
fn a_flood_of_jobs_never_keeps_the_daemon_from_its_agents() {
    let many = std::env::var("MANY_JOBS").ok().and_then(|text| text.parse().ok()).unwrap_or(700);
    let (server, mut host) = pair();
    host.kill9();
    host.set("step", "0.1");
    host.start();
    let before = resident(&host);
    let jobs: Vec<String> = (0..many).map(|n| Job::new(&format!("n{n}"), "stop", "no-such-agent").text()).collect();
    server.give_all(&jobs.iter().map(String::as_str).collect::<Vec<_>>());
    host.wait("jobs to be received", || open(&host) > 0);
    // What one reply took is bounded by its size, and used again for the next; the jobs themselves must not add up.
    let received = resident(&host);
    assert!(received < before + (32 << 10), "memory: {before} KiB before, {received} KiB after a reply");
    // Meanwhile an agent that ends is restarted.
    let agent = host.wait_running("web");
    kill(agent.pid, "KILL");
    host.wait_seen("web", "to come back", |seen| seen.runs() && seen.pid != agent.pid);
    let mut most = 0;
    for n in 0..many {
        let mut answered = false;
        // Each takes its time; that all together do is no fault.
        for _ in 0..10 {
            answered = patiently(|| server.result(&format!("n{n}"))).is_some();
            if answered {
                break;
            }
        }
        assert!(answered, "n{n} is never answered\n{}", host.logs());
        if n % 50 == 0 {
            most = most.max(open(&host));
        }
    }
    assert!(most <= 256, "{most} jobs were open");
    assert!((0..many).step_by(7).all(|n| server.codes(&format!("n{n}")) == [3]), "some were answered twice or wrongly");
    assert!(server.sent_results().iter().all(|batch| batch.len() <= 64), "more than 64 results in one array");
    let now = resident(&host);
    assert!(
        now < received + (8 << 10),
        "memory: {before} KiB before, {received} KiB after a reply, {now} KiB after all"
    );
    host.wait("all to be taken", || open(&host) == 0);
    let kept = entries(&host.path("state/jobs")).len();
    assert!(kept <= 4096 && kept >= many.min(4096), "{kept} records are kept of {many}");
    assert!(alive(host.wait_running("web").pid));
}

#[test]
fn a_server_that_takes_no_result_is_reported_to_all_the_same() {
    let (server, mut host) = pair();
    server.takes(false);
    let jobs: Vec<String> = (0..300).map(|n| Job::new(&format!("n{n}"), "stop", "no-such-agent").text()).collect();
    server.give_all(&jobs.iter().map(String::as_str).collect::<Vec<_>>());
    host.wait("as many jobs as there may be", || open(&host) == 256);
    // No more than that, however long it goes on, and over a crash.
    for _ in 0..2 {
        let count = server.requests_to("/agent/status").len();
        host.wait("more reports", || server.requests_to("/agent/status").len() > count + 4);
        assert_eq!(open(&host), 256);
        host.kill9();
        host.start();
    }
    // Refused ones are sent again and again, which `step` bounds and is short here; reports come all the same.
    server.forget();
    host.wait("more reports", || server.requests_to("/agent/status").len() > 8);
    assert_eq!(server.times_taken("n0"), 0);
    let agent = host.wait_running("web");
    kill(agent.pid, "KILL");
    host.wait_seen("web", "to come back", |seen| seen.runs() && seen.pid != agent.pid);
    server.takes(true);
    for n in 0..300 {
        assert_eq!(host.result(&server, &format!("n{n}")).0, 3);
    }
}

/// Envs, names and ids of every kind; what is refused says which, and costs nothing else.
#[test]
fn mangled_jobs_are_answered_or_left_and_cost_nothing() {
    let (server, host) = pair();
    let huge: Vec<String> = (0..4000).map(|n| format!("\"V{n}\":\"{}\"", "x".repeat(40))).collect();
    let deep = format!("{}1{}", "[".repeat(50), "]".repeat(50));
    // Each with the codes it may end with; none: it can only be left.
    let jobs: Vec<(String, &[i64])> = vec![
        (Job::new("envs", "config", "web").set("envs", &format!("{{{}}}", huge.join(","))).text(), &[0, 1, 7, 8]),
        (Job::new("path", "install", "../../etc/cron.d/x").text(), &[1]),
        (Job::new("dots", "stop", "..").text(), &[1]),
        (Job::new("slash", "stop", "/bin/sh").text(), &[1]),
        (Job::new("newline", "stop", "web\nstop").text(), &[1]),
        (Job::new("long", "stop", &"w".repeat(51)).text(), &[1]),
        (Job::new("deep", "stop", "no-such-agent").set("unknown", &deep).text(), &[3]),
        (Job::new("number", "stop", "web").set("action", "7").text(), &[1, 2]),
        (Job::new("negative", "restart", "web").set("window", "-1").text(), &[1]),
        (Job::new("ages", "restart", "web").set("expires", "1e300").text(), &[1]),
        (Job::new("null", "stop", "web").set("envs", "null").set("name", "null").text(), &[1]),
        (Job::new("url", "install", "web").set("url", "\"file:///etc/\"").text(), &[1]),
        ("{\"id\":\"twice\",\"action\":\"stop\",\"name\":\"web\",\"name\":\"other\"}".to_string(), &[1]),
        (Job::new("..", "stop", "web").text(), &[]),
        (Job::new("a/b", "stop", "web").text(), &[]),
        (Job::new("", "stop", "web").text(), &[]),
        (Job::new("last", "stop", "no-such-agent").text(), &[3]),
    ];
    server.give_all(&jobs.iter().map(|(job, _)| job.as_str()).collect::<Vec<_>>());
    for (job, codes) in jobs.iter().filter(|(_, codes)| !codes.is_empty()) {
        let id = job.split('"').nth(3).expect("an id comes first");
        let (code, message) = host.result(&server, id);
        assert!(codes.contains(&code), "{id}: {code} {message}");
    }
    for (job, _) in jobs.iter().filter(|(_, codes)| codes.is_empty()) {
        let id = job.split('"').nth(3).expect("an id comes first");
        assert_eq!(server.times_taken(id), 0, "{id}");
    }
    assert!(host.seen("web").is_some() && host.status().is_some());
    assert!(fs::read_dir(host.path("state/jobs")).expect("the ledger").count() <= jobs.len());
    // The last of them was answered, so none of the others is still to be done.
    assert!(host.seen("web").is_some_and(|seen| seen.runs()));
}
