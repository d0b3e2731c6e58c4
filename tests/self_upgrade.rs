//! The daemon upgraded by a job: a good binary replaces it; with a bad one the old binary keeps running or runs again. Agents
//! notice neither.

mod util;

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use util::*;

/// The binary under test with a byte more: another file that does the same.
fn another() -> Vec<u8> {
    let mut bytes = fs::read(binary()).expect("the binary under test");
    bytes.push(b'\n');
    bytes
}

/// A new binary that passes `version` and `check`, and does `run` when it is run.
fn passing(run: &str) -> Vec<u8> {
    format!("#!/bin/sh\ncase \"$*\" in version) echo bootagent-9.9.9-none;; *check) ;; *) {run};; esac\n").into_bytes()
}

/// A job that upgrades the daemon to this binary.
fn upgrade(host: &Host, server: &Server, id: &str, startsecs: &str, new: &[u8]) -> Job {
    let work = host.path("build").join(unique_name("own"));
    fs::create_dir_all(&work).expect("the host's directory can be written");
    fs::write(work.join("bootagent"), new).expect("the host's directory can be written");
    fs::set_permissions(work.join("bootagent"), fs::Permissions::from_mode(0o755)).expect("the test's own file");
    let file = work.join("bootagent.tar.gz");
    let packed = Command::new("tar").arg("-C").arg(&work).arg("-czf").arg(&file).arg("bootagent").status();
    assert!(packed.expect("tar is there").success());
    let bytes = fs::read(&file).expect("tar wrote it");
    let url = server.serve(&format!("{id}/bootagent.tar.gz"), &bytes);
    let quoted = |text: &str| format!("\"{text}\"");
    Job::new(id, "upgrade", "bootagent")
        .set("url", &quoted(&url))
        .set("checksum", &quoted(&checksum(&bytes)))
        .set("startsecs", startsecs)
}

/// A host with an agent, whose binary may be replaced; the agent's process.
fn host_with_agent(server: &Server) -> (Host, i32) {
    let mut host = Host::with(server);
    host.install();
    host.agent("web", "exec sleep 1000", &[]);
    host.start();
    let pid = host.wait_running("web").pid;
    (host, pid)
}

/// Waits until the new binary was executed so many times.
fn wait_executed(host: &Host, times: usize) {
    let executed = || host.read("log/bootagent.log").matches("packages/bootagent/next/bootagent\"").count();
    host.wait("the new binary to be executed", || executed() >= times);
}

/// The processes that are daemons of this host.
fn daemons(host: &Host) -> Vec<i32> {
    let runs = |pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        words.contains(&&b"run"[..]) && !words.contains(&&b"watch"[..])
    };
    let all: Vec<i32> = host.processes().into_iter().filter(runs).collect();
    // A child that one has just forked is still called the same.
    let is_child = |pid: &i32| all.contains(&proc_status(*pid, "PPid").parse().unwrap_or(0));
    all.iter().copied().filter(|pid| !is_child(pid)).collect()
}

#[test]
fn a_good_binary_takes_the_place_of_the_old_one() {
    let server = Server::new();
    let (mut host, pid) = host_with_agent(&server);
    let new = another();
    let job = upgrade(&host, &server, "u1", "20", &new);
    let message = host.does(&server, &job, 0);
    assert!(message.contains("bootagent-"), "{message}");
    assert_eq!(fs::read(host.path("bin/bootagent")).unwrap(), new, "it is not the installed one");
    assert_eq!(entries(&host.path("bin")).len(), 1, "something is left beside it");
    assert!(host.lives(), "the daemon has another pid\n{}", host.logs());
    assert_eq!(host.wait_running("web").pid, pid);
    host.wait("the watcher to end", || host.agents_processes() == [pid]);
    assert!(!host.path("state/packages/bootagent").exists());
    // The same package once more is no work.
    let fetched = || server.requests_to("/packages/u1/bootagent.tar.gz").len();
    let before = fetched();
    server.give(&job.set("id", "\"u1-again\"").text());
    let (code, message) = host.result(&server, "u1-again");
    assert!(code == 0 && message.contains("already") && fetched() == before, "{code} {message}");
    // It is a daemon like any other: reexec, restart, upgrade again.
    host.ok(&["reexec"]);
    host.does(&server, &Job::new("r1", "restart", "bootagent"), 0);
    let again = fs::read(binary()).unwrap();
    host.does(&server, &upgrade(&host, &server, "u2", "20", &again), 0);
    assert_eq!(fs::read(host.path("bin/bootagent")).unwrap(), again);
    assert!(host.lives());
    assert_eq!(host.wait_running("web").pid, pid);
    host.does(&server, &Job::new("last", "restart", "web"), 0);
    assert_eq!((server.times_taken("u1"), server.times_taken("u2")), (1, 1));
}

#[test]
fn a_binary_that_cannot_even_be_tried_changes_nothing() {
    let server = Server::new();
    let (mut host, pid) = host_with_agent(&server);
    let old = fs::read(host.path("bin/bootagent")).unwrap();
    let mut foreign = another();
    foreign[18..20].copy_from_slice(&[0xfe, 0xfe]);
    for (id, new, want) in [
        ("true", fs::read("/bin/true").unwrap(), "does not say"),
        ("empty", b"#!/bin/sh\n".to_vec(), "does not say"),
        ("fails", b"#!/bin/sh\nexit 1\n".to_vec(), "status 1"),
        (
            "config",
            b"#!/bin/sh\n[ $1 = version ] && exec echo bootagent-9; echo too old >&2; exit 1\n".to_vec(),
            "too old",
        ),
        ("foreign", foreign, "executing the program"),
    ] {
        let message = host.does(&server, &upgrade(&host, &server, id, "20", &new), 6);
        assert!(message.contains(want), "{id}: {message}");
        assert!(host.lives());
        assert_eq!(host.wait_running("web").pid, pid);
    }
    let none = tar_of(&host, "bootagent", "9", &[("README", "no binary here")]);
    let job = Job::new("none", "upgrade", "bootagent").package(&server.serve(&none.file, &none.bytes), &none);
    host.does(&server, &job, 6);
    let job = job.set("id", "\"deb\"").set("url", "\"http://127.0.0.1:1/bootagent_1_all.deb\"");
    server.give(&job.text());
    assert_eq!(host.result(&server, "deb").0, 1);
    for action in ["stop", "start", "uninstall"] {
        host.does(&server, &Job::new(action, action, "bootagent"), 10);
    }
    assert_eq!(fs::read(host.path("bin/bootagent")).unwrap(), old);
    assert!(!host.path("state/packages/bootagent").exists());
    assert!(!host.read("log/bootagent.log").contains("info  executing"), "it was executed");
}

#[test]
fn after_a_binary_that_ends_or_hangs_the_old_one_runs_again() {
    for (id, run) in
        [("exits", "exit 1"), ("dies", "sleep 2; exit 0"), ("hangs", "exec sleep 1000"), ("crashes", "kill -9 $$")]
    {
        let server = Server::new();
        let (host, pid) = host_with_agent(&server);
        let old = fs::read(host.path("bin/bootagent")).unwrap();
        let message = host.does(&server, &upgrade(&host, &server, id, "3", &passing(run)), 8);
        assert!(message.contains("bootagent-9.9.9"), "{id}: {message}");
        assert_eq!(message.contains("hung"), id == "hangs", "{id}: {message}");
        assert_eq!(fs::read(host.path("bin/bootagent")).unwrap(), old);
        assert_eq!(host.wait_running("web").pid, pid, "{id}");
        assert_eq!(daemons(&host).len(), 1, "{id}: {:?}\n{}", daemons(&host), host.logs());
        host.does(&server, &Job::new("next", "start", "web"), 0);
        assert_eq!(server.times_taken(id), 1);
        // The agent is as ever: its end is noticed.
        kill(pid, "KILL");
        host.wait_seen("web", "to come back", |agent| agent.runs() && agent.pid != pid);
    }
}

#[test]
fn a_binary_that_reaches_no_server_gives_its_place_back() {
    let server = Server::new();
    let (mut host, pid) = host_with_agent(&server);
    let old = fs::read(host.path("bin/bootagent")).unwrap();
    let job = upgrade(&host, &server, "u1", "3", &another());
    server.give(&job.text());
    host.wait("the package to be fetched", || !server.requests_to("/packages/u1/bootagent.tar.gz").is_empty());
    server.mode(Mode::Close);
    wait_executed(&host, 1);
    let back = || host.read("log/bootagent.log").matches("bin/bootagent\"").count() >= 1;
    host.wait("the old binary to be executed", back);
    server.mode(Mode::Good);
    let (code, message) = host.result(&server, "u1");
    assert!(code == 8 && message.contains("no good exchange"), "{code} {message}\n{}", host.logs());
    assert!(host.lives(), "the daemon has another pid");
    let image = fs::read_link(format!("/proc/{}/exe", host.pid())).unwrap();
    assert!(is_emulated() || image == host.path("bin/bootagent"), "{image:?}");
    assert_eq!(fs::read(host.path("bin/bootagent")).unwrap(), old);
    assert_eq!(host.wait_running("web").pid, pid);
    host.wait("the watcher to end", || host.agents_processes() == [pid]);
}

/// A host whose daemon is a new binary on trial, with a server that is silent.
fn on_trial(server: &Server) -> (Host, i32) {
    let (host, pid) = host_with_agent(server);
    server.give(&upgrade(&host, server, "u1", "30", &another()).text());
    host.wait("the package to be fetched", || !server.requests_to("/packages/u1/bootagent.tar.gz").is_empty());
    server.mode(Mode::Close);
    wait_executed(&host, 1);
    let settling = || host.job("u1").is_some_and(|job| text(&job, "state") == "settling");
    host.wait("the new binary to settle", || host.status().is_some() && settling());
    (host, pid)
}

#[test]
fn a_new_binary_that_is_killed_is_followed_by_the_old_one() {
    let server = Server::new();
    let (mut host, pid) = on_trial(&server);
    assert_eq!(host.cli(&["reexec"]).code, 1, "a reexec in the midst of it");
    host.kill9();
    host.wait("the old binary to run", || host.status().is_some());
    server.mode(Mode::Good);
    let (code, message) = host.result(&server, "u1");
    assert!(code == 8 && message.contains("it ended before"), "{code} {message}\n{}", host.logs());
    assert_eq!(host.wait_running("web").pid, pid);
    assert_eq!(daemons(&host).len(), 1);
}

#[test]
fn an_init_that_starts_the_daemon_again_is_left_to_it() {
    let server = Server::new();
    let (mut host, pid) = on_trial(&server);
    host.kill9();
    host.start();
    let daemon = host.pid();
    server.mode(Mode::Good);
    assert_eq!(host.result(&server, "u1").0, 8);
    // It is the only one that would start another.
    host.wait("the watcher to end", || host.agents_processes() == [pid]);
    assert_eq!(daemons(&host), [daemon], "{}", host.logs());
    assert_eq!(host.wait_running("web").pid, pid);
}

#[test]
fn a_stop_on_trial_is_a_stop() {
    let server = Server::new();
    let (mut host, _) = on_trial(&server);
    assert_eq!(host.end("TERM").code(), Some(0));
    // The watcher is killed too, so nothing would start the daemon again.
    host.wait("everything to end", || host.processes().is_empty());
    assert!(stays(|| host.processes().is_empty()), "somebody started the daemon again");
    server.mode(Mode::Good);
    host.start();
    assert_eq!(host.result(&server, "u1").0, 8);
    host.wait_running("web");
}

/// What happens to the daemon during the upgrade; `tests/crash.rs` does the same to the jobs of agents.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Disaster {
    /// It is killed, and started again at once, as by an init.
    Crash,
    /// It is killed, and only a watcher would start it again.
    Orphaned,
    /// Everything is killed, and the host starts anew.
    Reboot,
    /// It is killed, and the record of its job is cut.
    Torn,
    /// The file system of its state is full for a while.
    Full,
}

/// A host whose daemon is upgraded again and again.
struct Walk {
    /// Let go of before the host is removed.
    mount: Option<Mount>,
    server: Server,
    host: Host,
    base: Vec<u8>,
    agent: i32,
    jobs: u32,
}

/// What the new binary is like.
#[derive(Clone, Copy, Debug, PartialEq)]
enum New {
    Good,
    /// It ends at once.
    Ends,
    /// It has no time at all for its first exchange.
    Late,
}

impl New {
    fn code(self) -> i64 {
        if self == New::Good {
            0
        } else {
            8
        }
    }
}

impl Walk {
    fn new() -> Walk {
        let server = Server::new();
        let (mut host, agent) = host_with_agent(&server);
        host.kill9();
        let base = fs::read(binary()).expect("the binary under test");
        host.set("step", "0.15").env("BOOTAGENT_SAVE_SECS", "0.1");
        Walk { mount: None, server, host, base, agent, jobs: 0 }
    }

    /// Gives the host's state a file system of its own; false where that cannot be.
    fn mount(&mut self) -> bool {
        let state = self.host.path("state");
        let size = format!("size={},mode=755", 4 * self.base.len());
        // What is known of the agent stays.
        fs::rename(&state, self.host.path("before")).expect("the host's directory can be written");
        fs::create_dir_all(&state).expect("the host's directory can be written");
        let ran = run(Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&state));
        if ran.is_none_or(|ran| ran.code != 0) {
            return !skipped("mount");
        }
        self.mount = Some(Mount(state.clone()));
        let ran = run(Command::new("cp").arg("-a").arg(self.host.path("before/.")).arg(&state));
        ran.is_some_and(|ran| ran.code == 0)
    }

    fn installed(&self) -> Vec<u8> {
        fs::read(&self.host.program).expect("there is an installed binary")
    }

    /// A job that brings such a binary, another one than the installed; and that binary.
    fn job(&mut self, kind: New) -> (Job, Vec<u8>) {
        self.jobs += 1;
        let new = match kind {
            New::Ends => passing("exit 1"),
            _ if self.installed() == self.base => another(),
            _ => self.base.clone(),
        };
        let startsecs = if kind == New::Late { "0" } else { "20" };
        (upgrade(&self.host, &self.server, &format!("u{}", self.jobs), startsecs, &new), new)
    }

    fn over(&self, id: &str) -> bool {
        // Not asked of a daemon that may be stopped.
        self.host.read(&format!("state/jobs/{id}.json")).contains("\"taken\"")
    }

    /// The points that such an upgrade comes by.
    fn points(&mut self, kind: New) -> Vec<String> {
        let log = self.host.path("points");
        self.host.env("BOOTAGENT_FAULT_LOG", &log.display().to_string());
        let text = loop {
            let _ = fs::remove_file(&log);
            self.host.start();
            let (job, _) = self.job(kind);
            self.server.give(&job.text());
            let (code, message) = self.host.result(&self.server, &job.id);
            self.host.wait("the result to be noted as taken", || self.over(&job.id));
            self.end();
            if code == kind.code() {
                break self.host.read("points");
            }
            // One that has no time may have its exchange all the same, where both are due at once.
            assert!(kind == New::Late && code == 0 && self.jobs < 10, "{code} {message}\n{}", self.host.logs());
        };
        self.host.env("BOOTAGENT_FAULT_LOG", "");
        let idle = ["Log", "Measure", "Measured", "Exchange", "Replied", "Tick", "Saved"];
        let mut points: Vec<String> = Vec::new();
        for point in text.lines().filter(|point| !idle.contains(&point.trim_start_matches(['1', '2', '3', '-']))) {
            let number = text.lines().filter(|line| *line == point).count();
            let new = (1..=number).map(|n| format!("{point}:{n}")).find(|point| !points.contains(point));
            points.extend(new);
        }
        points
    }

    /// Ends the daemon, whoever started it.
    fn end(&mut self) {
        self.host.dismiss();
        for pid in daemons(&self.host) {
            kill(pid, "KILL");
        }
        self.host.wait("the daemon to be gone", || daemons(&self.host).is_empty());
    }

    fn survives(&mut self, kind: New, point: &str, disaster: Disaster) {
        let what = format!("{disaster:?} at {point} of an upgrade to {kind:?}");
        let old = self.installed();
        let (job, new) = self.job(kind);
        self.host.env("BOOTAGENT_FAULT", point);
        self.host.start();
        self.host.env("BOOTAGENT_FAULT", "");
        self.server.give(&job.text());
        let daemon = self.host.pid();
        self.host.wait(&what, || proc_status(daemon, "State").starts_with('T') || self.over(&job.id));
        let watched = self.host.processes().into_iter().any(is_watcher);
        if disaster == Disaster::Full {
            fill(&self.host, || {
                kill(daemon, "CONT");
                let _ = stays(|| !self.over(&job.id));
            });
        } else {
            self.host.dismiss();
        }
        let record = self.host.path("state/jobs").join(format!("{}.json", job.id));
        // The server may have it, or be about to get it, and the next daemon cannot know.
        let waiting = fs::read_to_string(&record).is_ok_and(|text| text.contains("\"done\""));
        match disaster {
            Disaster::Reboot => {
                for pid in self.host.processes() {
                    kill(pid, "KILL");
                }
                self.host.wait("all processes to be gone", || self.host.processes().is_empty());
                let _ = fs::remove_dir_all(self.host.path("run"));
                self.host.env("BOOTAGENT_BOOT_ID", &format!("boot-{}", self.jobs));
            }
            Disaster::Torn => {
                if let Ok(bytes) = fs::read(&record) {
                    fs::write(&record, &bytes[..bytes.len() / 2]).expect("a record of the test's own host");
                }
            }
            Disaster::Crash | Disaster::Orphaned | Disaster::Full => {}
        }
        if disaster == Disaster::Orphaned && watched {
            self.host.wait(&what, || self.host.status().is_some());
        } else if disaster != Disaster::Full {
            // It may become the new binary, and end as that, before it has answered anybody here.
            self.host.launch(&[]);
        }
        let (code, message) = self.host.result(&self.server, &job.id);
        let say = |problem: &str| format!("{what}: {problem}: {code} {message}\n{}", self.host.logs());
        self.host.wait("the result to be noted as taken", || self.over(&job.id));
        let codes = self.server.codes(&job.id);
        let once = codes.len() == 1 || waiting && codes.len() == 2;
        assert!(once || disaster == Disaster::Torn, "{}", say(&format!("{codes:?}")));
        let now = self.installed();
        let right = match code {
            // One that has no time may have its exchange all the same, where both are due at once.
            0 => kind != New::Ends && now == new,
            4 if disaster == Disaster::Full => now == old,
            6 | 8 => now == old,
            9 => disaster == Disaster::Torn && (now == new || now == old),
            _ => false,
        };
        assert!(right, "{}", say("the installed binary is another one"));
        let exe = || fs::read(format!("/proc/{}/exe", daemons(&self.host)[0])).is_ok_and(|bytes| bytes == now);
        assert!(daemons(&self.host).len() == 1 && exe(), "{}", say("what runs is not what is installed"));
        let pid = self.host.wait_running("web").pid;
        assert!(disaster == Disaster::Reboot || pid == self.agent, "{}", say("the agent has another pid"));
        self.agent = pid;
        let mut left = Vec::new();
        let clean = patiently(|| {
            left = entries(&self.host.path("state/downloads"));
            left.extend(entries(&self.host.path("state/packages")));
            left.extend(entries(&self.host.path("bin")).into_iter().filter(|path| *path != self.host.program));
            let others = self.host.processes().into_iter().filter(|other| *other != pid);
            (left.is_empty() && others.count() == 1).then_some(())
        });
        assert!(clean.is_some(), "{}", say(&format!("left over: {left:?}, {:?}", self.host.processes())));
        self.end();
    }
}

/// Fills the host's state to the last byte while `then` is done.
fn fill(host: &Host, then: impl FnOnce()) {
    let filler = host.path("state/filler");
    let mut file = fs::File::create(&filler).expect("the state directory can be written");
    while file.write_all(&[0; 65536]).is_ok() {}
    while file.write_all(&[0; 512]).is_ok() {}
    then();
    fs::remove_file(&filler).expect("the test's own file");
}

fn is_watcher(pid: i32) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default().split(|byte| *byte == 0).any(|word| word == b"watch")
}

/// Walks by every `stride`th point, by all of them with `CRASH_ALL=1`.
fn walks(kind: New, disaster: Disaster, stride: usize, first: usize) {
    if needs_faults() {
        return;
    }
    let all = std::env::var_os("CRASH_ALL").is_some();
    let mut walk = Walk::new();
    if disaster == Disaster::Full && (lacks_root() || !walk.mount()) {
        return;
    }
    let points = walk.points(kind);
    let images = match kind {
        New::Good => vec!["Save", "2-Save"],
        New::Ends => vec!["Save"],
        New::Late => vec!["Save", "2-Save", "3-Save"],
    };
    let has = |image: &&str| points.iter().filter(|point| point.starts_with(*image)).count() > 1;
    assert!(images.iter().all(has), "hardly any points: {points:?}");
    let (first, stride) = if all { (0, 1) } else { (first, stride) };
    let tried: Vec<&String> = points.iter().skip(first).step_by(stride).collect();
    for point in &tried {
        walk.survives(kind, point, disaster);
    }
    let full = walk.host.read("log/bootagent.log").contains("No space left on device");
    // A point or two may be such that nothing is written there.
    assert!(disaster != Disaster::Full || !all || full, "the disk was never full\n{}", walk.host.logs());
    eprintln!("{kind:?} {disaster:?}: {} points of {}", tried.len(), points.len());
}

#[test]
fn an_upgrade_of_the_daemon_survives_a_crash() {
    walks(New::Good, Disaster::Crash, 2, 0);
    walks(New::Late, Disaster::Crash, 7, 1);
}

#[test]
fn an_upgrade_of_the_daemon_survives_without_an_init() {
    walks(New::Good, Disaster::Orphaned, 14, 8);
    walks(New::Late, Disaster::Orphaned, 20, 5);
    walks(New::Ends, Disaster::Orphaned, 12, 3);
}

#[test]
fn an_upgrade_of_the_daemon_survives_a_reboot_and_a_torn_record() {
    walks(New::Good, Disaster::Reboot, 7, 2);
    walks(New::Late, Disaster::Reboot, 15, 8);
    walks(New::Good, Disaster::Torn, 11, 3);
}

#[test]
fn an_upgrade_of_the_daemon_survives_a_full_disk() {
    walks(New::Good, Disaster::Full, 16, 2);
    walks(New::Late, Disaster::Full, 30, 5);
}
