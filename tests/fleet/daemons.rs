//! Real daemons, each a host of its own, and the smallest server (examples/server.rs). Daemons, whatever
//! runs below them and the server itself are killed at random while jobs come; at the end each job must have been answered,
//! with one and the same result however often it was sent, and each agent must run once.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use miniserde::json::{self, Value};

use crate::util::*;

/// A key that daemons and server share: signed requests say whose the results are, as all hosts have one address here.
const KEY: &str = "a key for the fleet in a box";

/// Jobs that a host may have unanswered before it is given no more.
const OPEN: usize = 3;

/// How long hosts have after the last kill to answer everything.
const PEACE: Duration = Duration::from_secs(180);

/// What is asked for, and how it came out.
pub struct Outcome {
    pub daemons_killed: usize,
    pub others_killed: usize,
    pub server_killed: usize,
    pub jobs: usize,
    /// Jobs by result code.
    pub codes: BTreeMap<i64, usize>,
    /// Results that were sent again, as an answer was lost.
    pub repeated: usize,
    /// Seconds from the last kill until all jobs were answered.
    pub settled: f64,
    /// Private memory of the daemons, KiB: mean and largest.
    pub memory: (f64, u64),
    /// What was not as it should be, a sentence each.
    pub failures: Vec<String>,
}

struct Reference {
    program: std::path::PathBuf,
    dir: std::path::PathBuf,
    address: String,
    child: Child,
}

impl Reference {
    fn start(dir: &Path, address: &str) -> Option<Reference> {
        let program = example("server")?;
        let (child, address) = Reference::launch(&program, dir, address);
        Some(Reference { program, dir: dir.to_path_buf(), address, child })
    }

    fn launch(program: &Path, dir: &Path, address: &str) -> (Child, String) {
        let errors = OpenOptions::new().create(true).append(true).open(dir.join("server.err")).expect("a log");
        let mut command = Command::new(program);
        command.args(["--listen", address, "--packages", "packages", "--jobs", "jobs", "--key-file", "key"]);
        let mut child = command.current_dir(dir).stdout(Stdio::piped()).stderr(errors).spawn().expect("the example");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line).expect("a line");
        let address = line.trim().strip_prefix("listening on ").map(str::to_string);
        let errors = || fs::read_to_string(dir.join("server.err")).unwrap_or_default();
        let address = address.unwrap_or_else(|| panic!("the server does not listen: {line}{}", errors()));
        (child, address)
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Kills it, and starts it again over the same files.
    fn replace(&mut self) {
        self.kill();
        self.child = Reference::launch(&self.program, &self.dir, &self.address).0;
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        self.kill();
    }
}

/// One host and what it was given.
struct Member {
    host: Host,
    name: String,
    given: usize,
    /// When its daemon is started again.
    back: Option<Instant>,
}

impl Member {
    fn new(index: usize, server: &str, step: &str) -> Member {
        let mut host = Host::new();
        let name = format!("host-{index:03}");
        host.write("key", KEY);
        fs::set_permissions(host.path("key"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("the key");
        let key = json::to_string(&host.path("key").display().to_string());
        host.set("key_file", &key).set("svrlist", &format!("\"{server}\"")).set("hostname", &format!("\"{name}\""));
        // What is killed here must not count as the agents' own failure for ever.
        host.set("step", step).set("splay", step).set("checksecs", "10").set("log_level", "\"info\"");
        host.set("restartsecs", "1").set("windowsecs", "5").set("retries", "1000000");
        for agent in ["log", "mon"] {
            host.agent(agent, "exec sleep 100000", &[]);
        }
        Member { host, name, given: 0, back: None }
    }

    /// Writes its next job where the server looks for it.
    fn give(&mut self, dir: &Path, random: &mut Random, packages: &[Package], server: &str) -> String {
        self.given += 1;
        let id = format!("{}-{}", self.name, self.given);
        let package = &packages[random.below(packages.len() as u64) as usize];
        let url = format!("http://{server}/packages/{}", package.file);
        let job = match random.below(12) {
            0..4 => Job::new(&id, "install", "packed").package(&url, package),
            4 => Job::new(&id, "install", "packed").package(&url, package).set("checksum", &json::to_string(WRONG)),
            5 => Job::new(&id, "uninstall", "packed"),
            6 => Job::new(&id, "restart", "log"),
            7 => Job::new(&id, "stop", "mon"),
            8 => Job::new(&id, "start", "mon"),
            9 => Job::new(&id, "config", "log").set("envs", "{ \"N\": \"1\" }"),
            10 => Job::new(&id, "dance", "log"),
            _ => Job::new(&id, "restart", "log").set("window", "5"),
        };
        let directory = dir.join("jobs").join(&self.name);
        fs::create_dir_all(&directory).expect("the server's directory");
        let file = directory.join(format!("{:05}.new", self.given));
        fs::write(&file, job.text()).expect("the server's directory");
        fs::rename(&file, file.with_extension("json")).expect("the server's directory");
        id
    }
}

const WRONG: &str = "SHA256:0000000000000000000000000000000000000000000000000000000000000000";

/// Every result on the server's file: the codes and messages that came for a job. Ids are unique here, and begin with the
/// host: the server itself does not know whose a result is when it has been started since that host's last report, and
/// then does not take off what it added to the id for host and attempt.
fn results(path: &Path) -> BTreeMap<String, Vec<(i64, String)>> {
    let mut all: BTreeMap<String, Vec<(i64, String)>> = BTreeMap::new();
    for line in fs::read_to_string(path).unwrap_or_default().lines() {
        // Its last line may be half written.
        let Ok(result) = json::from_str::<Value>(line) else { continue };
        let host = text(&result, "host");
        let id = text(&result, "sent_id").rsplitn(3, '.').last().unwrap_or_default().to_string();
        assert!(id.starts_with(host), "a result of {host}: {line}");
        all.entry(id).or_default().push((number(&result, "errcode") as i64, text(&result, "message").to_string()));
    }
    all
}

/// Private memory of a process, KiB.
pub fn private(pid: i32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let field =
        |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok());
    field("Private_Dirty:").unwrap_or(0) + field("Private_Clean:").unwrap_or(0)
}

/// The children of a process.
pub fn children(pid: i32) -> Vec<i32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

/// Every agent's living processes: (state_dir, name) of their environment.
pub fn agents_alive() -> BTreeMap<(String, String), Vec<i32>> {
    let mut found: BTreeMap<(String, String), Vec<i32>> = BTreeMap::new();
    for path in entries(Path::new("/proc")) {
        let Some(pid) = path.file_name().and_then(|name| name.to_str()?.parse::<i32>().ok()) else { continue };
        let environ = fs::read(path.join("environ")).unwrap_or_default();
        let value = |key: &str| {
            let mut all = environ.split(|byte| *byte == 0);
            all.find_map(|entry| Some(String::from_utf8_lossy(entry.strip_prefix(key.as_bytes())?).into_owned()))
        };
        if let (Some(state), Some(name)) = (value("BOOTAGENT_STATE_DIR="), value("BOOTAGENT_NAME=")) {
            if alive(pid) {
                found.entry((state, name)).or_default().push(pid);
            }
        }
    }
    found
}

/// Lets them live; `None` where the smallest server was not built.
pub fn live(daemons: usize, time: Duration) -> Option<Outcome> {
    let mut random = Random(daemons as u64);
    let site = Host::new();
    site.write("key", KEY);
    for directory in ["jobs", "packages"] {
        fs::create_dir_all(site.path(directory)).expect("the server's directory");
    }
    let mut server = Reference::start(&site.dir, "127.0.0.1:0")?;
    let packages: Vec<Package> =
        ["1.0", "2.0", "3.0"].map(|version| tarball(&site, "packed", version, &staying("packed"), &[])).into();
    for package in &packages {
        fs::write(site.path("packages").join(&package.file), &package.bytes).expect("the server's directory");
    }

    // Some fifty exchanges a second, however many there are.
    let step = format!("{}", (daemons as f64 / 50.0).max(1.0));
    let mut members: Vec<Member> = (0..daemons).map(|index| Member::new(index, &server.address, &step)).collect();
    members.iter_mut().for_each(|member| member.host.launch(&[]));

    let mut outcome = Outcome {
        daemons_killed: 0,
        others_killed: 0,
        server_killed: 0,
        jobs: 0,
        codes: BTreeMap::new(),
        repeated: 0,
        settled: 0.0,
        memory: (0.0, 0),
        failures: Vec::new(),
    };
    let mut open: BTreeSet<String> = BTreeSet::new();
    let end = Instant::now() + time;
    let mut server_dies = Instant::now() + time / 4;
    let mut look = Instant::now();
    while Instant::now() < end {
        // With many of them each is given a job every twenty seconds and killed every two minutes.
        let turn = Duration::from_secs_f64((20.0 / daemons as f64).min(0.2));
        let_pass(turn);
        let index = random.below(daemons as u64) as usize;
        let prefix = format!("{}-", members[index].name);
        let waiting = open.range(prefix.clone()..).take_while(|id| id.starts_with(&prefix)).count();
        if waiting < OPEN {
            open.insert(members[index].give(&site.dir, &mut random, &packages, &server.address));
            outcome.jobs += 1;
        }
        let member = &mut members[random.below(daemons as u64) as usize];
        match random.below(12) {
            0..2 if member.back.is_none() => {
                member.host.kill9();
                member.back = Some(Instant::now() + Duration::from_millis(random.below(3000)));
                outcome.daemons_killed += 1;
            }
            2..5 if member.back.is_none() => {
                // An agent, an exchange, a download, an installer: whatever there is.
                let below = children(member.host.pid());
                if !below.is_empty() {
                    kill(below[random.below(below.len() as u64) as usize], "KILL");
                    outcome.others_killed += 1;
                }
            }
            _ => {}
        }
        for member in &mut members {
            if member.back.is_some_and(|at| at <= Instant::now()) {
                member.host.launch(&[]);
                member.back = None;
            }
        }
        if Instant::now() > server_dies {
            server.replace();
            outcome.server_killed += 1;
            server_dies = Instant::now() + time / 4;
        }
        if Instant::now() > look {
            let known = results(&site.path("results.jsonl"));
            open.retain(|job| !known.contains_key(job));
            look = Instant::now() + Duration::from_secs(2);
        }
    }
    for member in members.iter_mut().filter(|member| member.back.is_some()) {
        member.host.launch(&[]);
    }

    // Peace: every job is answered.
    let peace = Instant::now();
    loop {
        let known = results(&site.path("results.jsonl"));
        open.retain(|job| !known.contains_key(job));
        if open.is_empty() || peace.elapsed() > PEACE {
            break;
        }
        pause();
    }
    outcome.settled = peace.elapsed().as_secs_f64();
    account(&mut outcome, &mut members, &open, &site);
    Some(outcome)
}

/// What is right and what is not, at the end.
fn account(outcome: &mut Outcome, members: &mut [Member], open: &BTreeSet<String>, site: &Host) {
    for id in open {
        outcome.failures.push(format!("job {id} was never answered"));
    }
    for (id, all) in results(&site.path("results.jsonl")) {
        *outcome.codes.entry(all[0].0).or_default() += 1;
        outcome.repeated += all.len() - 1;
        if all.iter().any(|result| *result != all[0]) {
            outcome.failures.push(format!("job {id} was answered differently: {all:?}"));
        }
    }
    for member in &mut *members {
        let lives = member.host.lives();
        if !lives || patiently(|| member.host.status()).is_none() {
            outcome.failures.push(format!("{}: the daemon does not answer\n{}", member.name, member.host.logs()));
        }
    }
    // A restart may be under way: a host is looked at again until it is as it should be.
    let mut wrong: BTreeMap<String, String> = BTreeMap::new();
    let _ = patiently(|| {
        wrong.clear();
        let alive = agents_alive();
        for member in &*members {
            let state = member.host.path("state").display().to_string();
            let Some(status) = member.host.status() else { continue };
            for agent in items(&status, "agents") {
                let name = text(agent, "name");
                let count = alive.get(&(state.clone(), name.to_string())).map_or(0, Vec::len);
                let runs = text(agent, "status") == "running";
                let stopped = text(agent, "status") == "stoped" && text(agent, "detail").contains("stopped");
                if !(runs && count == 1 || stopped && count == 0) {
                    let at = format!("{}: {name}: {count} processes, {}", member.name, json::to_string(agent));
                    wrong.insert(format!("{} {name}", member.name), at);
                }
            }
        }
        wrong.is_empty().then_some(())
    });
    outcome.failures.extend(wrong.into_values());
    let memory: Vec<u64> = members.iter().map(|member| private(member.host.pid())).collect();
    outcome.memory = (memory.iter().sum::<u64>() as f64 / memory.len() as f64, memory.into_iter().max().unwrap_or(0));

    for member in &*members {
        member.host.signal("TERM");
    }
    for member in members {
        if !member.host.ended().success() {
            outcome.failures.push(format!("{}: the daemon did not end well", member.name));
        }
    }
    let ours =
        agents_alive().into_keys().filter(|(state, _)| state.contains(&format!("-test-{}-", std::process::id())));
    outcome.failures.extend(ours.map(|(state, name)| format!("{state}: {name} is left over")));
}
