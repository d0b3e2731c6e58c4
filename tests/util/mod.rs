//! What the black-box tests share: a `Host` that runs the real binary in a directory of its own, a scriptable control
//! `Server` inside the test, and makers of packages.
//!
//! Nothing here has a fixed name or port, so that tests run side by side. A `Host` ends every process it caused, found by
//! its directory in their environment or arguments, and no other. `BOOTAGENT_TEST_BIN` names another binary to test,
//! `BOOTAGENT_TEST_KEEP` keeps the directories, `BOOTAGENT_TEST_ALL` turns every skip into a failure.
//! A test that is skipped is ignored, not passed (`skip`).

// Each test crate uses its own part of this.
#![allow(dead_code, unused_imports)]

mod cutter;
mod leftovers;
mod mirror;
mod next;
mod packages;
mod place;
mod programs;
mod random;
mod server;
mod skip;
mod values;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{channel, Receiver};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use bootagent::host::cgroup::{group_name, hierarchies, mark_of};
pub use bootagent::host::machine::boot_id;
use miniserde::json::{self, Number, Value};

pub use cutter::*;
pub use mirror::*;
pub use next::*;
pub use packages::*;
pub use place::*;
pub use programs::*;
pub use random::*;
pub use server::*;
pub use skip::*;
pub use values::*;

/// How long a condition may take to come true. Generous: it costs time only in a test that fails.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The same for the binary under test: a foreign one is emulated, and a release has the long times of a real host.
pub fn patience() -> Duration {
    PATIENCE * if is_emulated() || lacks_faults() { 2 } else { 1 }
}

/// One host: its configuration, its directories, and the daemon while one runs.
pub struct Host {
    pub dir: PathBuf,
    pub config: BTreeMap<String, String>,
    env: BTreeMap<&'static str, String>,
    daemon: Option<Child>,
    pub program: PathBuf,
    /// The names of the control groups that daemons of this host may have made.
    group_names: Mutex<BTreeSet<String>>,
}

/// How a command ended and what it said.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

/// One agent as the daemon reports it.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    pub status: String,
    pub version: String,
    pub detail: String,
    pub pid: i32,
    pub failures: i64,
    pub uptime: f64,
}

impl Seen {
    pub fn runs(&self) -> bool {
        self.status == "running"
    }
}

impl Host {
    /// A host without a server, with short times.
    pub fn new() -> Host {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("bootagent-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::SeqCst));
        let dir = std::env::temp_dir().join(name);
        fs::create_dir_all(dir.join("agents.d")).expect("a directory for the test");
        // The name of the control group depends on this very directory.
        fs::create_dir_all(dir.join("state")).expect("a directory for the test");
        // Agents of other users must get through here, and only the owner may write, whatever the umask is.
        for path in [dir.clone(), dir.join("agents.d")] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("the test's own directory");
        }
        let (config, env) = (BTreeMap::new(), BTreeMap::new());
        let group_names = Mutex::default();
        let mut host = Host { dir, config, env, daemon: None, program: binary(), group_names };
        for (key, path) in [("agents_dir", "agents.d"), ("state_dir", "state"), ("run_dir", "run"), ("log_dir", "log")]
        {
            let path = json::to_string(&host.path(path).display().to_string());
            host.set(key, &path);
        }
        host.set("hostname", "\"test-host\"").set("splay", "0").set("step", "0.3").set("checksecs", "1");
        host.set("restartsecs", "0.3").set("windowsecs", "5").set("log_level", "\"debug\"");
        host
    }

    /// A host that reports to `server`.
    pub fn with(server: &Server) -> Host {
        let mut host = Host::new();
        host.set("svrlist", &format!("\"{}\"", server.address));
        host
    }

    /// Sets a key of bootagent.json to `value`, JSON text; an empty one removes it. It counts from the next start on.
    pub fn set(&mut self, key: &str, value: &str) -> &mut Host {
        if value.is_empty() {
            self.config.remove(key);
        } else {
            self.config.insert(key.to_string(), value.to_string());
        }
        self
    }

    /// Sets a variable in the daemon's environment; an empty one removes it. It counts from the next start on.
    pub fn env(&mut self, key: &'static str, value: &str) -> &mut Host {
        if value.is_empty() {
            self.env.remove(key);
        } else {
            self.env.insert(key, value.to_string());
        }
        self
    }

    pub fn path(&self, relative: &str) -> PathBuf {
        self.dir.join(relative)
    }

    /// Writes a file below the host's directory, renamed into place.
    pub fn write(&self, relative: &str, text: &str) {
        let path = self.path(relative);
        fs::create_dir_all(path.parent().expect("a file in a directory")).expect("the host's directory can be written");
        let new = path.with_extension("being-written");
        fs::write(&new, text).expect("the host's directory can be written");
        fs::set_permissions(&new, fs::Permissions::from_mode(0o644)).expect("the test's own file");
        fs::rename(&new, &path).expect("the host's directory can be written");
    }

    /// A file's text; empty when there is none.
    pub fn read(&self, relative: &str) -> String {
        fs::read(self.path(relative)).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// The number of lines in a file; 0 when there is none.
    pub fn lines(&self, relative: &str) -> usize {
        self.read(relative).lines().count()
    }

    /// Defines an agent in `agents.d` that runs `script` in a shell.
    pub fn agent(&self, name: &str, script: &str, keys: &[(&str, &str)]) {
        self.write(&format!("agents.d/{name}.json"), &definition(name, "1.0", script, keys));
    }

    /// Writes bootagent.json, for commands that need no daemon.
    pub fn configure(&self) {
        let keys: Vec<String> = self.config.iter().map(|(key, value)| format!("  \"{key}\": {value}")).collect();
        self.write("bootagent.json", &format!("{{\n{}\n}}\n", keys.join(",\n")));
    }

    /// From the next start on the daemon finds the host as it is after `commands`, which see mounts of their own.
    pub fn behind(&mut self, commands: &str) {
        self.through(&format!("unshare -m /bin/sh -c '{commands} exec \"$0\" \"$@\"'"));
    }

    /// What tells the daemon's agents from those of another daemon.
    pub fn mark(&self) -> Box<str> {
        mark_of(&self.path("state").display().to_string())
    }

    /// From the next start on the daemon is started by `command`, which becomes the program behind it.
    pub fn through(&mut self, command: &str) {
        let script = format!("#!/bin/sh\nexec {command} {} \"$@\"\n", binary().display());
        self.program = self.path("through.sh");
        write_program(&self.program, &script);
    }

    /// Starts the daemon in the foreground and returns when it answers.
    pub fn start(&mut self) {
        self.start_with(&[]);
    }

    /// The same with options of `run`.
    pub fn start_with(&mut self, options: &[&str]) {
        self.launch(options);
        let deadline = Instant::now() + patience();
        while self.status().is_none() {
            if !self.lives() || Instant::now() > deadline {
                let what = self.daemon.as_mut().map(Child::try_wait);
                panic!("the daemon does not answer: {what:?}\n{}", self.logs());
            }
            pause();
        }
    }

    /// The same, but returns at once.
    pub fn launch(&mut self, options: &[&str]) {
        assert!(self.daemon.is_none(), "the daemon is already started");
        self.configure();
        self.note_groups();
        let out = OpenOptions::new().create(true).append(true).open(self.path("daemon.out")).expect("daemon.out");
        let mut command = self.command(&self.program, &["run"]);
        command.args(options).stdout(out.try_clone().expect("a descriptor")).stderr(out);
        self.daemon = Some(command.spawn().expect("the binary can be executed"));
    }

    fn command(&self, program: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.arg("-c").arg(self.path("bootagent.json")).args(args).stdin(Stdio::null());
        // What must not reach an agent, and what would make minreq start a thread.
        command.envs(&self.env);
        command.env("BOOTAGENT_TEST_LEAK", "1").env("MINREQ_TIMEOUT", "1").current_dir("/");
        command
    }

    /// Gives this host a copy of the binary of its own, which may be replaced.
    pub fn install(&mut self) {
        self.program = self.path("bin/bootagent");
        fs::create_dir_all(self.path("bin")).expect("the host's directory can be written");
        copy_program(&binary(), &self.program);
    }

    /// The daemon's process id.
    pub fn pid(&self) -> i32 {
        self.daemon.as_ref().expect("the daemon was started").id() as i32
    }

    pub fn signal(&self, signal: &str) {
        kill(self.pid(), signal);
    }

    /// Ends the daemon with SIGKILL; its agents keep running.
    pub fn kill9(&mut self) {
        self.note_groups();
        let mut daemon = self.daemon.take().expect("the daemon was started");
        daemon.kill().expect("our own child");
        daemon.wait().expect("our own child");
    }

    /// The same with one that may have ended already, or was never started.
    pub fn dismiss(&mut self) {
        if self.daemon.is_some() {
            self.kill9();
        }
    }

    /// Ends the daemon with a signal and waits for it.
    pub fn end(&mut self, signal: &str) -> ExitStatus {
        self.signal(signal);
        self.ended()
    }

    /// Waits for the daemon's end.
    pub fn ended(&mut self) -> ExitStatus {
        self.note_groups();
        let mut daemon = self.daemon.take().expect("the daemon was started");
        let deadline = Instant::now() + patience();
        loop {
            if let Some(status) = daemon.try_wait().expect("our own child") {
                return status;
            }
            if Instant::now() > deadline {
                self.daemon = Some(daemon);
                panic!("the daemon does not end\n{}", self.logs());
            }
            pause();
        }
    }

    /// Whether the started daemon has not ended.
    pub fn lives(&mut self) -> bool {
        self.daemon.as_mut().is_some_and(|daemon| daemon.try_wait().expect("our own child").is_none())
    }

    /// Runs a command of the binary with this host's configuration.
    pub fn cli(&self, args: &[&str]) -> Ran {
        run(&mut self.command(&binary(), args))
            .unwrap_or_else(|| panic!("bootagent {args:?} does not end\n{}", self.logs()))
    }

    /// Begins a command without waiting for its end.
    pub fn begin(&self, args: &[&str]) -> Child {
        let mut command = self.command(&binary(), args);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the binary can be executed")
    }

    /// Runs a command that must succeed, and returns its output.
    pub fn ok(&self, args: &[&str]) -> String {
        let ran = self.cli(args);
        assert_eq!(ran.code, 0, "bootagent {args:?}: {ran:?}\n{}", self.logs());
        ran.out
    }

    /// `status --json`; `None` while no daemon answers.
    pub fn status(&self) -> Option<Value> {
        let ran = self.cli(&["status", "--json"]);
        (ran.code == 0).then(|| json::from_str(&ran.out).unwrap_or_else(|_| panic!("not JSON: {}", ran.out)))
    }

    /// One agent in `status --json`; `None` when it is not there.
    pub fn seen(&self, name: &str) -> Option<Seen> {
        seen(&self.status()?, name)
    }

    /// Where a job's download lies until it is verified.
    pub fn download(&self, id: &str) -> PathBuf {
        let sn = text(&self.status().expect("the daemon answers"), "sn").to_string();
        self.path("state/downloads").join(bootagent::model::package::download_name(&sn, id))
    }

    /// One job's row in `jobs --json`.
    pub fn job(&self, id: &str) -> Option<Value> {
        let ledger: Value = json::from_str(&self.ok(&["jobs", "--json"])).expect("jobs --json prints JSON");
        items(&ledger, "").iter().find(|row| text(row, "id") == id).cloned()
    }

    /// Waits until an agent is as `want` says, and returns how it was then.
    pub fn wait_seen(&self, name: &str, what: &str, mut want: impl FnMut(&Seen) -> bool) -> Seen {
        let mut last = None;
        let found = patiently(|| {
            last = self.seen(name);
            last.clone().filter(&mut want)
        });
        let found =
            found.unwrap_or_else(|| panic!("waited in vain for {name} {what}; it is {last:?}\n{}", self.logs()));
        // It is reported as running from its fork on, a moment before it executes its program.
        let image = |pid: i32| fs::read_link(format!("/proc/{pid}/exe")).ok();
        let daemon = self.daemon.as_ref().and_then(|daemon| image(daemon.id() as i32));
        let started = patiently(|| (daemon.is_none() || found.pid <= 0 || image(found.pid) != daemon).then_some(()));
        assert!(started.is_some(), "{name} never became its program\n{}", self.logs());
        found
    }

    /// Waits until an agent runs, and returns how it was then.
    pub fn wait_running(&self, name: &str) -> Seen {
        self.wait_seen(name, "to run", Seen::runs)
    }

    /// Waits until `condition` holds.
    pub fn wait(&self, what: &str, mut condition: impl FnMut() -> bool) {
        if patiently(|| condition().then_some(())).is_none() {
            panic!("waited in vain for {what}\n{}", self.logs());
        }
    }

    /// Waits until the server took the result of job `id`: its code and message.
    pub fn result(&self, server: &Server, id: &str) -> (i64, String) {
        patiently(|| server.result(id))
            .unwrap_or_else(|| panic!("waited in vain for the result of {id}\n{}", self.logs()))
    }

    /// Gives a job, waits for its result, and checks the code; returns the message.
    pub fn does(&self, server: &Server, job: &Job, code: i64) -> String {
        server.give(&job.text());
        let (got, message) = self.result(server, &job.id);
        assert_eq!(got, code, "job {}: \"{message}\"\n{}", job.text(), self.logs());
        message
    }

    /// Everything that was logged, for a test that fails.
    pub fn logs(&self) -> String {
        let mut files = vec![self.path("daemon.out")];
        files.extend(entries(&self.path("log")));
        let mut all = String::new();
        for file in files {
            let bytes = fs::read(&file).unwrap_or_default();
            let tail = &bytes[bytes.len().saturating_sub(6000)..];
            all.push_str(&format!("---- {}\n{}\n", file.display(), String::from_utf8_lossy(tail)));
        }
        all
    }
}

/// An agent's definition that runs `script` in a shell, with short times; `keys` are added or replace these.
pub fn definition(name: &str, version: &str, script: &str, keys: &[(&str, &str)]) -> String {
    let exec = format!("[\"/bin/sh\", \"-c\", {}]", json::to_string(script));
    let mut all = BTreeMap::from([
        ("name", json::to_string(name)),
        ("version", json::to_string(version)),
        ("exec", exec),
        ("startsecs", "0.2".to_string()),
        ("stopsecs", "3".to_string()),
    ]);
    for (key, value) in keys {
        all.insert(key, value.to_string());
    }
    let keys: Vec<String> = all.iter().map(|(key, value)| format!("\"{key}\": {value}")).collect();
    format!("{{ {} }}", keys.join(", "))
}

/// A definition in docs/migrating.md, with these changes and a short `startsecs`.
pub fn worked_definition(name: &str, changes: &[(&str, String)]) -> String {
    let mut blocks = include_str!("../../docs/migrating.md").split("\n\n").filter(|block| block.starts_with("    {"));
    let found = blocks.find(|block| block.contains(&format!("\"{name}\"")));
    let mut text = found.expect("it is documented").replacen("{ \"name\"", "{ \"startsecs\": 1, \"name\"", 1);
    for (before, after) in changes {
        assert!(text.contains(before), "{before} in {text}");
        text = text.replace(before, after);
    }
    text
}

/// A job under construction.
#[derive(Clone)]
pub struct Job {
    pub id: String,
    keys: Vec<(String, String)>,
}

impl Job {
    pub fn new(id: &str, action: &str, name: &str) -> Job {
        let mut job = Job { id: id.to_string(), keys: Vec::new() };
        job = job.set("id", &json::to_string(id)).set("action", &json::to_string(action));
        if name.is_empty() {
            job
        } else {
            job.set("name", &json::to_string(name))
        }
    }

    /// Adds a key with `value`, JSON text.
    pub fn set(mut self, key: &str, value: &str) -> Job {
        self.keys.retain(|(known, _)| known != key);
        self.keys.push((key.to_string(), value.to_string()));
        self
    }

    /// Adds where the package comes from, its checksum and version.
    pub fn package(self, url: &str, package: &Package) -> Job {
        self.set("url", &json::to_string(url))
            .set("checksum", &json::to_string(&package.checksum))
            .set("version", &json::to_string(&package.version))
    }

    pub fn text(&self) -> String {
        let keys: Vec<String> = self.keys.iter().map(|(key, value)| format!("\"{key}\":{value}")).collect();
        format!("{{{}}}", keys.join(","))
    }
}

/// One agent in a status body.
pub fn seen(status: &Value, name: &str) -> Option<Seen> {
    let agent = items(status, "agents").iter().find(|agent| text(agent, "name") == name)?;
    Some(Seen {
        status: text(agent, "status").to_string(),
        version: text(agent, "version").to_string(),
        detail: text(agent, "detail").to_string(),
        pid: number(agent, "pid") as i32,
        failures: number(agent, "failures") as i64,
        uptime: number(agent, "uptime"),
    })
}
