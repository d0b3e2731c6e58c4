//! One host whose daemon is upgraded again and again, each time with a disaster at another point, and what is checked after
//! each of them.

use std::fs;
use std::io::Write;
use std::process::Command;

use crate::util::*;
use crate::{another, daemons, host_with_agent, passing, upgrade};

/// What happens to the daemon during the upgrade; `tests/crash.rs` does the same to the jobs of agents.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Disaster {
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
pub enum New {
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
pub fn walks(kind: New, disaster: Disaster, stride: usize, first: usize) {
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
