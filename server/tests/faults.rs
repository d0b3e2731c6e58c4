//! When nothing can be stored, hosts are told so in a way that they heed, and it goes on by itself.

#[path = "../../tests/util/skip.rs"]
#[allow(dead_code, reason = "shared with other tests")]
mod skip;
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

#[test]
fn beyond_a_full_queue_hosts_are_told_to_come_later_and_the_others_are_served() {
    let limits = std::fs::read_to_string("/proc/self/limits").expect("limits");
    let files =
        limits.lines().find_map(|line| line.strip_prefix("Max open files")?.split_whitespace().next()?.parse().ok());
    if files.is_some_and(|files: u64| files < 10_000) {
        skip::skipped("ulimit -n 10000");
        return;
    }
    let server = Server::start(&[]);
    let key = server.key(&["--group", "web", "--auto-accept"]);
    let mut host = Host::new("web-01", "sn-1", Some(&key));
    host.report(&server);
    let other = Connection::open(server.dir.join("bootserver.db")).expect("the database");
    other.execute_batch("BEGIN IMMEDIATE").expect("the lock");
    let begun = std::time::Instant::now();
    let others = (0..4100).map(|n| Host::new(&format!("h-{n}"), &format!("many-{n}"), Some(&key)));
    let mut waiting: Vec<std::net::TcpStream> = others.map(|mut other| other.begin_report(&server)).collect();
    let answer = util::wait_for("a full queue", || Some(host.report(&server)).filter(|answer| answer.status == 503));
    is_told_to_come_later(&answer);
    assert!(answer.head.contains("retry-after: "), "{}", answer.head);
    assert!(begun.elapsed() < std::time::Duration::from_secs(9), "told at once, not when the lock is given up");
    other.execute_batch("ROLLBACK").expect("the end of the lock");
    let mut ends = std::collections::BTreeMap::new();
    for stream in &mut waiting {
        let (status, _, _) = util::read_answer(stream).expect("each is answered");
        *ends.entry(status).or_insert(0) += 1;
    }
    assert!(ends[&200] >= 4000 && ends.keys().all(|status| [200, 503].contains(status)), "{ends:?}");
}

/// A small file system of its own, where the test may mount one.
struct Small(std::path::PathBuf);

impl Small {
    fn mount(name: &str) -> Option<Small> {
        let path = std::env::temp_dir().join(format!("bootserver-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a directory");
        let small = Small(path);
        if !small.mounts(&["-t", "tmpfs", "-o", "size=6m,mode=0700", "tmpfs"]) {
            skip::skipped("root, and a mount of tmpfs");
            return None;
        }
        Some(small)
    }

    fn mounts(&self, words: &[&str]) -> bool {
        let output = std::process::Command::new("mount").args(words).arg(&self.0).output();
        output.is_ok_and(|output| output.status.success())
    }

    /// Fills it up.
    fn fill(&self) {
        let mut file = std::fs::File::create(self.0.join("filler")).expect("a file");
        let block = vec![1; 4096];
        while std::io::Write::write_all(&mut file, &block).is_ok() {}
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// A server on a small file system, and a host that it knows.
fn on(small: &Small) -> (Server, Host) {
    let mut server = Server::stopped(&[]);
    server.dir = small.0.join("data");
    server.run(&["init"]);
    server.resume();
    let key = server.key(&["--group", "web", "--auto-accept"]);
    let mut host = Host::new("web-01", "sn-1", Some(&key));
    assert_eq!(host.report(&server).status, 200);
    (server, host)
}

fn is_told_to_come_later(answer: &util::Answer) {
    assert_eq!((answer.status, answer.signed), (503, true), "{}", answer.body);
    assert!(answer.body["retry_after"].as_u64().is_some_and(|wait| (60..120).contains(&wait)), "{}", answer.body);
}

#[test]
fn a_full_disk_is_said_and_passes_and_nothing_that_was_acknowledged_is_gone() {
    let Some(small) = Small::mount("full") else { return };
    let (server, mut host) = on(&small);
    server.run(&["job", "restart", "web", "--select", "group=web"]);
    let job = host.jobs(&server).remove(0);
    small.fill();
    // What is left of its last block, and of the log of the database, may still take some.
    let refused = util::wait_for("a 503", || {
        let mut large = host.clone();
        large.more = serde_json::json!({ "detail": "x".repeat(300_000) });
        host.seq = host.seq.map(|seq| seq + 1);
        let answer = large.report(&server);
        (answer.status == 503).then_some(answer)
    });
    is_told_to_come_later(&refused);
    util::wait_for("a line in the log", || server.log().contains("cannot store: ").then_some(()));
    let (code, _, error) = server.try_run(&["group", "new", "other"]);
    assert!(code == 0 || error.contains("full"), "{error}");
    std::fs::remove_file(small.0.join("filler")).expect("room again");
    host.seq = host.seq.map(|seq| seq + 100);
    let id = job["id"].as_str().expect("an id");
    assert_eq!(host.result(&server, id, 0, "success").body["errcode"], 0);
    assert_eq!(host.report(&server).status, 200, "back by itself");
    assert_eq!(server.json(&["job", "list"])[0]["state"], "verified");
}

#[test]
fn a_directory_that_can_only_be_read_is_said_at_the_start() {
    let Some(small) = Small::mount("readonly") else { return };
    let (mut server, mut host) = on(&small);
    server.kill();
    assert!(small.mounts(&["-o", "remount,ro"]));
    for words in [&["serve", "--listen", "127.0.0.1:0", "--pages", "127.0.0.1:0"][..], &["key", "new", "--group", "db"]]
    {
        let (code, _, error) = server.try_run(words);
        assert!(code == 1 && error.contains("only") && error.contains(small.0.to_str().expect("a path")), "{error}");
    }
    let (code, out, _) = server.try_run(&["doctor"]);
    assert!(code == 1 && out.contains("FAULT") && out.contains("only"), "{out}");
    assert!(small.mounts(&["-o", "remount,rw"]));
    server.resume();
    assert_eq!(host.report(&server).status, 200);
}
