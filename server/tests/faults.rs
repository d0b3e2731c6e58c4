//! When nothing can be stored, hosts are told so in a way that they heed, and it goes on by itself.

mod util;

use rusqlite::Connection;
use util::{Host, Server};

#[test]
fn a_locked_database_is_a_signed_503_and_passes() {
    let server = Server::start(&[]);
    let key = server.key(&["--group", "web", "--auto-accept"]);
    let mut host = Host::new("web-01", "sn-1", Some(&key));
    host.report(&server);
    let other = Connection::open(server.dir.join("bootserver.db")).expect("the database");
    other.execute_batch("BEGIN IMMEDIATE").expect("the lock");
    let answer = host.report(&server);
    assert_eq!((answer.status, answer.signed), (503, true));
    assert!(answer.head.contains("retry-after: "), "{}", answer.head);
    let wait = answer.body["retry_after"].as_u64().expect("a pause in the signed body");
    assert!((60..120).contains(&wait), "{wait}");
    other.execute_batch("ROLLBACK").expect("the end of the lock");
    assert_eq!(host.report(&server).status, 200);
}

#[test]
fn kill_9_under_load_loses_no_acknowledged_result() {
    let mut server = Server::start(&[]);
    let key = server.key(&["--group", "web", "--auto-accept"]);
    let mut hosts: Vec<Host> = (0..40).map(|n| Host::new(&format!("h-{n}"), &format!("sn-{n}"), Some(&key))).collect();
    for host in &mut hosts {
        assert_eq!(host.report(&server).status, 200);
    }
    for round in 1..=5 {
        server.run(&["job", "restart", "web", "--select", "group=web"]);
        let mut jobs = Vec::new();
        for host in &mut hosts {
            jobs.push((host.clone(), host.jobs(&server).remove(0)["id"].as_str().expect("an id").to_string()));
        }
        // Results come from many at once, and the server is killed among them.
        let taken = std::sync::Mutex::new(Vec::new());
        let address = server.address.clone();
        std::thread::scope(|scope| {
            for (host, id) in &jobs {
                let (address, taken, mut host) = (&address, &taken, host.clone());
                scope.spawn(move || {
                    if host.try_result(address, id) {
                        taken.lock().expect("no panic").push(id.clone());
                    }
                });
            }
            std::thread::sleep(std::time::Duration::from_millis(3 * round));
            server.kill();
        });
        server.resume();
        let stored = server.json(&["job", "list", "state=verified", "-n", "100000"]);
        for id in taken.into_inner().expect("no panic") {
            assert!(stored.iter().any(|execution| execution["id"] == id.as_str()), "{id} was acknowledged and is gone");
        }
        // Those that were not acknowledged come again, and count once.
        for (host, id) in &mut jobs {
            assert_eq!(host.result(&server, id, 0, "success").body["errcode"], 0);
        }
        let done = server.json(&["job", "list", "state=verified", "-n", "100000"]).len();
        assert_eq!(done as u64, 40 * round);
        for host in &mut hosts {
            // The copies have used nonces; those of 1.1 are told apart by seq.
            host.nonce += 10;
        }
    }
}
