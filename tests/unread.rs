//! Records that cannot be read or written just now: nothing is lost by it.

mod util;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use util::*;

/// A host without rights that has been given an agent by a job, has one that was stopped and one that runs.
fn with_a_past(server: &Server) -> Host {
    let mut host = Host::with(server);
    host.behind(&unprivileged(&host));
    host.agent("web", "exec sleep 1000", &[]);
    host.agent("stopped", "exec sleep 1000", &[]);
    host.start();
    host.wait_running("web");
    host.ok(&["stop", "stopped"]);
    let package = tarball(&host, "given", "1.0", &staying("given"), &[]);
    let url = server.serve("given-1.0.tar.gz", &package.bytes);
    host.does(server, &Job::new("install-1", "install", "given").package(&url, &package), 0);
    host.wait("the result to be known as taken", || {
        host.job("install-1").is_some_and(|job| text(&job, "state") == "taken")
    });
    host
}

/// Names below the state directory that say that something was given up.
fn set_aside(host: &Host) -> Vec<PathBuf> {
    let places = ["state", "state/agents", "state/jobs", "run/agents"];
    let all = places.iter().flat_map(|place| entries(&host.path(place)));
    all.filter(|path| path.to_string_lossy().contains("corrupt")).collect()
}

#[test]
fn records_that_cannot_be_read_just_now_are_not_lost() {
    if lacks_root() || lacks("setpriv") {
        return;
    }
    let server = Server::new();
    let mut host = with_a_past(&server);
    host.agent("free", "exec sleep 1000", &[]);
    let sn = text(&host.status().expect("the daemon answers"), "sn").to_string();
    let pids = ["web", "given"].map(|name| host.wait_running(name).pid);
    host.kill9();
    let closed = ["state/agents/web", "state/agents/given", "state/agents/stopped", "run/agents/given"];
    let closed = closed.iter().chain(&["state/jobs/install-1", "state/identity"]);
    let closed: Vec<_> = closed.map(|name| host.path(&format!("{name}.json"))).collect();
    let mode = |mode: u32| {
        for file in closed.iter().filter(|file| file.exists()) {
            fs::set_permissions(file, fs::Permissions::from_mode(mode)).expect("a record");
        }
    };
    mode(0);
    server.repeats();
    host.start();
    host.wait_running("free");
    assert_eq!(host.wait_running("web").pid, pids[0], "{}", host.logs());
    // Without its record and a control group nothing proves that this process is the agent's: it is left alone.
    assert!(alive(pids[1]), "{}", host.logs());
    assert_eq!(text(&host.status().expect("the daemon answers"), "sn"), "", "another host for the servers");

    // Jobs of others are done, an order is obeyed at once, and the rest waits.
    server.give(&Job::new("restart-1", "restart", "given").text());
    host.does(&server, &Job::new("restart-2", "restart", "free"), 0);
    host.ok(&["stop", "web"]);
    host.ok(&["stop", "stopped"]);
    assert!(stays(|| !host.seen("stopped").is_some_and(|agent| agent.runs())));
    assert_eq!((server.times_taken("install-1"), server.times_taken("restart-1")), (1, 0), "{}", host.logs());
    assert!(alive(pids[1]), "{}", host.logs());
    assert!(host.lives() && set_aside(&host).is_empty());

    mode(0o600);
    host.wait("all of them to be read again", || said(&host, "all are read again") > 0);
    assert_eq!(host.result(&server, "restart-1").0, 0, "{}", host.logs());
    let given = host.wait_running("given");
    assert!(given.pid != pids[1] && given.version == "1.0", "{given:?}");
    assert_eq!(text(&host.status().expect("the daemon answers"), "sn"), sn);
    for name in ["web", "stopped"] {
        assert_eq!(host.seen(name).map(|agent| agent.status), Some("stoped".to_string()), "{name}\n{}", host.logs());
    }
    assert!(host.read("state/agents/web.json").contains("down"), "the order was lost");
    assert_eq!((server.times_taken("install-1"), set_aside(&host)), (1, vec![]));
    assert_eq!(said(&host, " starts as process "), 3, "read again more than once\n{}", host.logs());
}

#[test]
fn a_start_without_descriptors_loses_nothing() {
    if lacks_root() || lacks("setpriv") || lacks("prlimit") {
        return;
    }
    let server = Server::new();
    let mut host = with_a_past(&server);
    server.repeats();
    let sn = text(&host.status().expect("the daemon answers"), "sn").to_string();
    let pids = ["web", "given"].map(|name| host.wait_running(name).pid);
    host.kill9();
    let usual = host.program.clone();
    let mut answered = 0;
    host.set("checksecs", "0.2");
    for files in [7, 9, 10, 11, 12, 13, 14, 16, 20] {
        host.through(&format!("setpriv --reuid=12345 --regid=12345 --clear-groups prlimit --nofile={files}:{files}"));
        host.launch(&[]);
        // Where it comes up, it goes about its work for some checks.
        let over = Instant::now() + Duration::from_millis(700);
        while host.lives() && Instant::now() < over {
            pause();
        }
        answered += usize::from(host.lives());
        host.kill9();
        assert_eq!(set_aside(&host), Vec::<PathBuf>::new(), "with {files} descriptors\n{}", host.logs());
        assert!(pids.iter().all(|pid| alive(*pid)), "an agent was ended with {files} descriptors\n{}", host.logs());
    }
    assert!(answered > 0, "no number of descriptors was enough");
    host.program = usual;
    host.start();
    assert_eq!(["web", "given"].map(|name| host.wait_running(name).pid), pids, "{}", host.logs());
    assert!(!host.read("daemon.out").contains("unknown status"), "one was taken for dead\n{}", host.logs());
    assert_eq!(host.agents_processes().len(), 2, "a second copy\n{}", host.logs());
    assert_eq!(text(&host.status().expect("the daemon answers"), "sn"), sn);
    assert_eq!(host.seen("stopped").map(|agent| agent.status), Some("stoped".to_string()));
    assert_eq!(server.times_taken("install-1"), 1, "a job was done again\n{}", host.logs());
}

/// That every agent was being ended is one record: without it none of them is to look as if it had failed.
#[test]
fn a_shutdown_that_cannot_be_recorded_is_one_all_the_same() {
    let mut host = Host::new();
    host.agent("web", "exec sleep 1000", &[]);
    host.start();
    host.wait_running("web");
    host.write("run/stop.json/in-its-place", "");
    assert!(host.end("TERM").success());
    assert!(host.logs().contains("stop.json"), "{}", host.logs());
    host.start();
    let agent = host.wait_running("web");
    assert_eq!(agent.failures, 0, "{agent:?}");
    assert!(!host.logs().contains("status unknown"), "{}", host.logs());
}
