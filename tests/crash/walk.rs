//! One host that is walked through jobs, and what is checked after each of them.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::util::*;

/// What happens at a point.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Disaster {
    /// The daemon is killed.
    Crash,
    /// Everything is killed, what is for one boot only is gone.
    Reboot,
    /// The file system is full for a while.
    Full,
    /// The daemon is killed, and the record of its job is cut.
    Torn,
    /// The daemon is killed, and 1.0.0 continues.
    Downgrade,
    /// The daemon is killed, and continues with the record as 1.0.0 writes it.
    Upgrade,
}

/// How the agent is made up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    Tar,
    Deb,
    Rpm,
}

/// One job of a walk: what it does, the code it ends with, the version that runs then; "" for none.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    pub action: &'static str,
    pub version: &'static str,
    pub code: i64,
    pub then: &'static str,
}

pub const fn step(action: &'static str, version: &'static str, code: i64, then: &'static str) -> Step {
    Step { action, version, code, then }
}

/// The version that ends at once.
pub const BROKEN: &str = "3.0";

/// Points that come by chance, or change nothing.
const IDLE: [&str; 17] = [
    "Log",
    "Measure",
    "Measured",
    "Exchange",
    "Replied",
    "CountProcesses",
    "ProcessCount",
    "Tick",
    "Answer",
    "AnswerReport",
    "Command",
    "ProcessesChanged",
    "Check",
    "Gone",
    "Attached",
    "LookAtPackages",
    "PackagesSeen",
];

/// A host on its walk.
pub struct Walk {
    pub server: Server,
    pub host: Host,
    pub kind: Kind,
    pub name: String,
    /// The name in the package manager's database.
    pub package: String,
    pub packages: Vec<Package>,
    /// Records are torn: the broken version may be what is known to be there.
    pub torn: bool,
    pub jobs: u32,
}

impl Walk {
    pub fn new(kind: Kind) -> Walk {
        let server = Server::new();
        let mut host = Host::with(&server);
        host.env("BOOTAGENT_LOCK_SECS", "0.1").env("BOOTAGENT_SAVE_SECS", "0.1").env("BOOTAGENT_FETCH_SECS", "0.1");
        host.set("retries", "9").set("step", "0.15");
        let name = if kind == Kind::Tar { "web".to_string() } else { unique_name("batest") };
        let package = format!("{name}-pkg");
        let make = |version: &str| {
            let number = version.replace('.', "");
            let script = match version {
                BROKEN => "#!/bin/sh\nexit 9\n".to_string(),
                _ => format!("#!/bin/sh\nexec sleep 1000{number}\n"),
            };
            if kind == Kind::Tar {
                return tarball(&host, &name, version, &script, &[]);
            }
            let exec = format!("[\"/usr/bin/{name}\"]");
            let files = [
                (format!("usr/bin/{name}"), script),
                (format!("usr/lib/bootagent/{name}.json"), definition(&name, version, "", &[("exec", &exec)])),
            ];
            let files: Vec<(&str, &str)> = files.iter().map(|(file, text)| (file.as_str(), text.as_str())).collect();
            match kind {
                Kind::Rpm => rpm(&host, &package, version, &files),
                _ => deb(&host, &package, version, &files, &[("postinst", "#!/bin/sh\nsleep 0.1\n")]),
            }
        };
        let packages = ["1.0", "2.0", BROKEN].map(make).into();
        Walk { server, host, kind, name, package, packages, torn: false, jobs: 0 }
    }

    /// A new job that does this step.
    pub fn job(&mut self, step: &Step) -> Job {
        self.jobs += 1;
        let job = Job::new(&format!("j{}", self.jobs), step.action, &self.name);
        if step.action == "config" {
            return job.set("envs", &format!("{{ \"NUMBER\": \"{}\" }}", self.jobs));
        }
        match self.packages.iter().find(|package| package.version == step.version) {
            Some(package) => {
                let url = self.server.serve(&package.file, &package.bytes);
                // What ends at once must have its time to do so on a busy machine.
                let startsecs = if step.version == BROKEN { "0.5" } else { "0.15" };
                job.package(&url, package).set("startsecs", startsecs)
            }
            None => job,
        }
    }

    /// Does a step undisturbed.
    pub fn does(&mut self, step: &Step) {
        let job = self.job(step);
        self.host.does(&self.server, &job, step.code);
        self.is_taken(&job.id);
        self.check(step.then, &format!("{step:?}"));
    }

    /// Waits longer than usual: others on this machine may hold the lock of its package manager.
    pub fn waits(&self, what: &str, mut condition: impl FnMut() -> bool) {
        let mut again = 0..5;
        while again.next().is_some() && patiently(|| condition().then_some(())).is_none() {}
        self.host.wait(what, condition);
    }

    pub fn is_taken(&self, id: &str) {
        self.host.wait("the result to be noted as taken", || self.over(id));
    }

    /// The points a step comes by, in order, each with its number.
    pub fn points(&mut self, step: &Step) -> Vec<String> {
        let log = self.host.path("points");
        let _ = fs::remove_file(&log);
        let path = log.display().to_string();
        self.host.env("BOOTAGENT_FAULT_LOG", &path);
        self.host.start();
        self.does(step);
        self.host.kill9();
        self.host.env("BOOTAGENT_FAULT_LOG", "");
        let text = self.host.read("points");
        let all: Vec<&str> = text.lines().filter(|point| !IDLE.contains(point)).collect();
        let number = |n: usize| all[..=n].iter().filter(|point| **point == all[n]).count();
        (0..all.len()).map(|n| format!("{}:{}", all[n], number(n))).collect()
    }

    /// Does a step with a disaster at a point, and checks what came of it; the daemon does not run before and after.
    pub fn survives(&mut self, step: &Step, before: &str, point: &str, disaster: Disaster) {
        let what = format!("{step:?} with {disaster:?} at {point} of a {:?}", self.kind);
        let job = self.job(step);
        self.host.env("BOOTAGENT_FAULT", point);
        self.host.start();
        self.host.env("BOOTAGENT_FAULT", "");
        self.server.give(&job.text());
        let daemon = self.host.pid();
        let stopped = |this: &Walk| proc_status(daemon, "State").starts_with('T') || this.over(&job.id);
        self.waits(&what, || stopped(self));
        // The server may have the result, or be about to get it, and the next daemon cannot know.
        let waiting = self.host.read(&format!("state/jobs/{}.json", job.id)).contains("\"done\"");
        self.strike(disaster, daemon, &job.id);
        self.waits(&what, || self.server.result(&job.id).is_some());
        let (code, message) = self.host.result(&self.server, &job.id);
        self.is_taken(&job.id);
        let codes = self.server.codes(&job.id);
        let once = codes.len() == 1 || disaster != Disaster::Full && waiting && codes.len() == 2;
        assert!(once || disaster == Disaster::Torn, "{what}: {codes:?}\n{}", self.host.logs());
        let then = match (disaster, code) {
            (_, code) if code == step.code => step.then,
            // What the job had done before its record was lost is unknown.
            (Disaster::Torn, 9) => "?",
            (Disaster::Full, 4 | 6 | 7 | 8) => before,
            _ => panic!("{what}: {code} {message}\n{}", self.host.logs()),
        };
        // The records on disk say the same, and leftovers of the daemon are removed by the next one.
        self.host.kill9();
        self.host.start();
        self.check(then, &what);
        self.host.kill9();
        self.host.program = binary();
        if then != step.then {
            self.repair(step);
        }
    }

    pub fn over(&self, id: &str) -> bool {
        // Not asked of a daemon that may be stopped.
        self.host.read(&format!("state/jobs/{id}.json")).contains("\"taken\"")
    }

    pub fn strike(&mut self, disaster: Disaster, daemon: i32, id: &str) {
        if disaster == Disaster::Full {
            let filler = self.host.path("state/filler");
            let mut file = File::create(&filler).expect("the state directory can be written");
            while file.write_all(&[0; 512]).is_ok() {}
            kill(daemon, "CONT");
            let over = || self.over(id);
            let _ = stays(|| !over());
            fs::remove_file(&filler).expect("the test's own file");
            return;
        }
        let below = descendants(daemon);
        self.host.kill9();
        if disaster == Disaster::Reboot {
            for pid in below.into_iter().chain(self.host.processes()) {
                kill(pid, "KILL");
            }
            self.host.wait("all processes to be gone", || self.host.processes().is_empty());
            let _ = fs::remove_dir_all(self.host.path("run"));
            self.host.env("BOOTAGENT_BOOT_ID", &format!("boot-{}", self.jobs));
        }
        let record = self.host.path("state/jobs").join(format!("{id}.json"));
        if let (Disaster::Torn, Ok(bytes)) = (disaster, fs::read(&record)) {
            fs::write(&record, &bytes[..bytes.len() / 2]).expect("a record of the test's own host");
        }
        match (disaster, fs::read_to_string(&record)) {
            (Disaster::Downgrade, _) => self.host.program = old_binary().expect("it was there before the walk"),
            (Disaster::Upgrade, Ok(text)) => {
                let text = without(without(text, "step"), "direction");
                fs::write(&record, text).expect("a record of the test's own host");
                // It calls its download by the job's id.
                for path in entries(&self.host.path("state/downloads")) {
                    fs::rename(&path, self.host.path("state/downloads").join(id))
                        .expect("a file of the test's own host");
                }
            }
            _ => {}
        }
        self.host.start();
    }

    /// Makes of the host what the step would have.
    pub fn repair(&mut self, step: &Step) {
        self.host.start();
        let running = self.host.seen(&self.name).filter(Seen::runs).map_or(String::new(), |agent| agent.version);
        if running != step.then {
            match (step.action, step.then) {
                ("uninstall", _) | ("install", "") => {
                    let job = self.job(&Step { action: "uninstall", version: "", ..*step });
                    self.server.give(&job.text());
                    self.host.result(&self.server, &job.id);
                }
                (_, "") => self.does(&step_of("stop", step)),
                ("start" | "restart" | "config", _) => self.does(&step_of("start", step)),
                (_, then) => self.does(&Step { action: "install", version: then, code: 0, then }),
            }
        }
        self.host.kill9();
    }

    /// The host is as it should be with this version running; "?": any one.
    pub fn check(&self, version: &str, what: &str) {
        let host = &self.host;
        let say = |problem: &str| format!("{what}: {problem}\n{}", host.logs());
        if version != "?" {
            let mut last = None;
            let as_wanted = patiently(|| {
                last = host.seen(&self.name);
                let running = last.as_ref().filter(|agent| agent.runs()).map_or("", |agent| &agent.version);
                (running == version).then_some(())
            });
            assert!(as_wanted.is_some(), "{}", say(&format!("want \"{version}\", it is {last:?}")));
        }
        let mut left = Vec::new();
        let clean = patiently(|| {
            left = self.leftovers();
            left.is_empty().then_some(())
        });
        assert!(clean.is_some(), "{}", say(&format!("left over: {left:?}")));
        let number = version.replace('.', "");
        let mut lines = Vec::new();
        let right = patiently(|| {
            lines = host.agents_processes().into_iter().map(command_line).filter(|line| !line.is_empty()).collect();
            let right = match version {
                "" => lines.is_empty(),
                "?" => lines.len() <= 1,
                _ => lines.len() == 1 && lines[0].ends_with(&format!("1000{number}")),
            };
            right.then_some(())
        });
        assert!(right.is_some(), "{}", say(&format!("processes: {lines:?}")));
        if version == "?" {
            return;
        }
        let known = self.in_database();
        let stopped = host.seen(&self.name).is_some();
        let want = if version.is_empty() && stopped { "1.0" } else { version };
        if let Some(known) = known {
            assert_eq!(known, want, "{}", say("the package database disagrees"));
        }
    }

    /// The version in the package manager's database; `None` where there is no package manager.
    pub fn in_database(&self) -> Option<String> {
        let ran = match self.kind {
            Kind::Tar => return None,
            Kind::Deb => {
                let format = "${db:Status-Abbrev}${Version}";
                run(Command::new("dpkg-query").args(["-W", "-f", format, &self.package]))?
            }
            Kind::Rpm => run(Command::new("rpm").args(["-q", "--qf", "ii %{VERSION}", &self.package]))?,
        };
        Some(if ran.code == 0 { ran.out.trim_start_matches("ii ").to_string() } else { String::new() })
    }

    /// What no finished job leaves behind.
    pub fn leftovers(&self) -> Vec<PathBuf> {
        let host = &self.host;
        let name = |path: &Path| path.file_name().map_or(String::new(), |name| name.to_string_lossy().into_owned());
        let mut left = entries(&host.path("state/downloads"));
        left.extend(entries(&host.path("run")).into_iter().filter(|path| name(path).starts_with("tool-")));
        for dir in ["state", "state/agents", "state/jobs", "run/agents"] {
            left.extend(entries(&host.path(dir)).into_iter().filter(|path| name(path).ends_with(".tmp")));
        }
        let known = host.seen(&self.name).is_some();
        for path in entries(&host.path("state/packages")) {
            if name(&path) != self.name || !known {
                left.push(path);
                continue;
            }
            let files: BTreeSet<String> = entries(&path).iter().map(|path| name(path)).collect();
            // A version that is the previous one as well gets a directory with another name: "1.0+4a34b8d7".
            let torn = if self.torn { BROKEN } else { "current" };
            let odd = |file: &&String| {
                self.kind == Kind::Tar
                    && !["current", "1.0", "2.0", torn].contains(&file.split('+').next().unwrap_or(file))
            };
            left.extend(files.iter().filter(|file| file.starts_with('.') || odd(file)).map(|file| path.join(file)));
            if files.len() > 3 {
                left.push(path);
            }
        }
        left
    }
}

impl Drop for Walk {
    fn drop(&mut self) {
        // An installer that outlives its daemon would bring the package after it was removed.
        self.host.finish();
        let program = match self.kind {
            Kind::Tar => return,
            Kind::Deb => &["dpkg", "--force-remove-reinstreq", "--purge"][..],
            Kind::Rpm => &["rpm", "-e"],
        };
        remove_package(&[program, &[&self.package]].concat());
    }
}

/// A record without a member whose value is a string.
fn without(text: String, key: &str) -> String {
    let Some((before, rest)) = text.split_once(&format!("\"{key}\":\"")) else { return text };
    let (_, after) = rest.split_once("\",").expect("a member that others follow");
    format!("{before}{after}")
}

fn step_of(action: &'static str, step: &Step) -> Step {
    Step { action, version: "", code: 0, then: step.then }
}

fn command_line(pid: i32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).trim_end_matches('\0').to_string()
}
