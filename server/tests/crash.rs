//! The server is killed two hundred times while hosts report and send results. Whatever was acknowledged is there
//! afterwards, and nothing counts twice. `make server-bench` runs it; it takes some minutes.

mod util;

use rusqlite::Connection;
use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;
use util::{Host, Server};

const ROUNDS: u64 = 200;
const HOSTS: u64 = 40;

/// What the database has of a job: id, state and message of each execution.
fn stored(server: &Server, job: &str) -> HashMap<String, (String, String)> {
    let database = Connection::open(server.dir.join("bootserver.db")).expect("the database");
    let mut query = database.prepare("SELECT id, state, message FROM executions WHERE job = ?1").expect("a query");
    let rows = query.query_map([job], |row| Ok((row.get(0)?, (row.get(1)?, row.get(2)?)))).expect("rows");
    rows.map(|row| row.expect("a row")).collect()
}

/// What was acknowledged before the server died: results by id, and the greatest `seq` of each host.
#[derive(Default)]
struct Taken {
    results: Vec<String>,
    reports: Vec<Host>,
}

/// All hosts send their result and go on reporting, until the server is killed after `pause`.
fn load_and_kill(server: &mut Server, jobs: &[(Host, String)], pause: Duration) -> Taken {
    let taken = Mutex::new(Taken::default());
    let address = server.address.clone();
    std::thread::scope(|scope| {
        for (host, id) in jobs {
            let (address, taken) = (&address, &taken);
            let mut sends = host.clone();
            scope.spawn(move || {
                if sends.try_result(address, id) {
                    taken.lock().expect("no panic").results.push(id.clone());
                }
            });
            let mut reports = host.clone();
            reports.nonce += 1000;
            scope.spawn(move || {
                let mut last = None;
                while reports.try_report(address) {
                    last = Some(reports.clone());
                }
                taken.lock().expect("no panic").reports.extend(last);
            });
        }
        std::thread::sleep(pause);
        server.kill();
    });
    taken.into_inner().expect("no panic")
}

#[test]
#[ignore = "takes minutes: make server-bench"]
fn two_hundred_kills_lose_and_double_nothing() {
    let mut server = Server::start(&[]);
    let key = server.key(&["--group", "web", "--auto-accept"]);
    let mut hosts: Vec<Host> =
        (0..HOSTS).map(|n| Host::new(&format!("h-{n}"), &format!("sn-{n}"), Some(&key))).collect();
    for host in &mut hosts {
        assert_eq!(host.report(&server).status, 200);
    }
    let (mut results, mut reports) = (0, 0);
    for round in 1..=ROUNDS {
        server.run(&["job", "restart", "web", "--select", "group=web"]);
        let mut jobs = Vec::new();
        for host in &mut hosts {
            let id = host.jobs(&server).remove(0)["id"].as_str().expect("an id").to_string();
            jobs.push((host.clone(), id));
        }
        let job = jobs[0].1.split('-').next().expect("the job's id").to_string();
        let taken = load_and_kill(&mut server, &jobs, Duration::from_micros(round * 7919 % 60_000));
        (results, reports) = (results + taken.results.len(), reports + taken.reports.len());
        let there = stored(&server, &job);
        for id in &taken.results {
            let found = there.get(id).map(|(state, message)| (state.as_str(), message.as_str()));
            assert_eq!(found, Some(("verified", "success")), "round {round}: {id} was acknowledged");
        }
        server.resume();
        for mut host in taken.reports {
            host.seq = host.seq.map(|seq| seq - 1);
            assert_eq!(host.report(&server).status, 403, "round {round}: {} was taken, and is a replay now", host.name);
        }
        // Each sends its result again, as it does not know whether it was taken. It counts once.
        for (host, id) in &mut jobs {
            host.nonce += 100_000;
            assert_eq!(host.result(&server, id, 0, "success").body["errcode"], 0, "round {round}");
        }
        let there = stored(&server, &job);
        assert_eq!(there.len() as u64, HOSTS, "round {round}");
        assert!(there.values().all(|(state, _)| state == "verified"), "round {round}: {there:?}");
        for host in &mut hosts {
            // Those that died with the server have used nonces and numbers.
            (host.nonce, host.seq) = (host.nonce + 200_000, host.seq.map(|seq| seq + 10_000));
        }
    }
    assert!(!server.events().contains("a second, different result"));
    server.run(&["doctor"]);
    println!("{ROUNDS} kills, {results} results and the reports of {reports} hosts acknowledged before one: all there, none twice");
    assert!(results > 1000 && reports > 1000, "too little was under way: {results} results, {reports} hosts");
}
