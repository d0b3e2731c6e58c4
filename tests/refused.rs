//! What the kernel refuses the daemon for a while, injected by strace: no memory for a child, no descriptor on the whole
//! host, a disk that fails, a log that cannot be written to. The daemon says so once, keeps running, and catches up.

mod util;

use std::process::{Child, Command, Stdio};

use util::*;

/// Calls that look at a file without opening it.
const LOOKING: &str = "?stat,?lstat,?fstat,?newfstatat,?fstatat64,?stat64,?lstat64,?fstat64,?statx";

/// Calls that make a process; those that a processor or kernel has not got are left out.
const MAKING: &str = "clone,?clone3,?fork,?vfork";

/// Calls that take a descriptor from the host's table of open files.
const OPENING: &str = "openat,?open,pipe2,?pipe,socket,socketpair,accept4,?accept,?pidfd_open,?memfd_create";

/// From now on calls of a process are refused, until this is dropped.
struct Refusal {
    strace: Child,
    pid: i32,
}

impl Refusal {
    /// Refuses `calls` with `error`: those to these files only, unless there are none.
    fn new(host: &Host, calls: &str, error: &str, files: &[String]) -> Refusal {
        Refusal::begin(host, &[], calls, error, files)
    }

    /// Refuses every third call, also of the processes that it makes from now on.
    fn in_turn(host: &Host, calls: &str, error: &str) -> Refusal {
        Refusal::begin(host, &["-f"], calls, &format!("{error}:when=3+3"), &[])
    }

    fn begin(host: &Host, options: &[&str], calls: &str, error: &str, files: &[String]) -> Refusal {
        let pid = host.pid();
        let mut command = Command::new("strace");
        command.args(options);
        command.args(["-qq", "-o", "/dev/null", "-p", &pid.to_string(), "-e", &format!("trace={calls}")]);
        command.args(["-e", &format!("inject={calls}:error={error}")]);
        for file in files {
            command.args(["-P", file]);
        }
        let strace = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().expect("strace is there");
        let refusal = Refusal { strace, pid };
        host.wait("strace to be there", || proc_status(pid, "TracerPid") != "0");
        refusal
    }
}

impl Drop for Refusal {
    fn drop(&mut self) {
        // At SIGTERM it lets the process go.
        kill(self.strace.id() as i32, "TERM");
        let _ = self.strace.wait();
        assert!(std::thread::panicking() || proc_status(self.pid, "TracerPid") == "0", "strace holds on to it");
    }
}

/// Whether one process may have another's calls refused.
fn cannot_refuse() -> bool {
    if emulator_lacks("ptrace") || lacks("strace") {
        return true;
    }
    let args = ["-qq", "-o", "/dev/null", "-e", "inject=chdir:error=EIO", "/bin/true"];
    let works = run(Command::new("strace").args(args)).is_some_and(|ran| ran.code == 0);
    !works && skipped("ptrace")
}

fn reports(server: &Server) -> usize {
    server.requests_to("/agent/status").len()
}

/// A host with two agents, which reports to `server`.
fn with_agents(server: &Server) -> (Host, [i32; 2]) {
    let mut host = Host::with(server);
    host.agent("web", "exec sleep 1000", &[]);
    host.agent("other", "exec sleep 1000", &[]);
    host.start();
    let pids = ["web", "other"].map(|name| host.wait_running(name).pid);
    (host, pids)
}

/// Agent `web` was killed while something was refused: it is started again, once, and nothing else was lost.
fn is_made_good(server: &Server, host: &Host, [web, other]: [i32; 2]) {
    let before = reports(server);
    let again = host.wait_seen("web", "to run again", |agent| agent.runs() && agent.pid != web);
    assert_eq!(again.failures, 1, "what the host lacked was counted: {again:?}");
    host.wait("more reports", || reports(server) > before + 1);
    assert_eq!(host.wait_running("other").pid, other);
    host.wait("one copy of each", || host.agents_processes().len() == 2);
    assert!(entries(&host.path("state")).iter().all(|path| !path.to_string_lossy().contains("corrupt")));
}

#[test]
fn without_memory_for_a_child_a_start_waits() {
    if cannot_refuse() {
        return;
    }
    let server = Server::new();
    let (host, pids) = with_agents(&server);
    let refusal = Refusal::new(&host, MAKING, "ENOMEM", &[]);
    kill(pids[0], "KILL");
    host.wait("a start that is put off", || said(&host, "cannot start yet: ") > 0);
    assert!(host.seen("other").is_some_and(|agent| agent.runs()), "no command is answered");
    drop(refusal);
    is_made_good(&server, &host, pids);
    assert_eq!(said(&host, "cannot start yet: making a process: "), 1, "{}", host.logs());
}

/// What it needs again and again it has: it asks for no more.
#[test]
fn without_memory_for_itself_an_agent_is_started_again() {
    if cannot_refuse() {
        return;
    }
    let server = Server::new();
    let (host, pids) = with_agents(&server);
    let pid = host.pid();
    let refusal = Refusal::new(&host, "?mmap,?mmap2,mremap", "ENOMEM", &[]);
    kill(pids[0], "KILL");
    is_made_good(&server, &host, pids);
    drop(refusal);
    assert_eq!(host.pid(), pid, "{}", host.logs());
}

/// Nor can anybody see then whether an agent has ended as a whole: it is waited for.
#[test]
fn without_files_on_the_whole_host_nothing_is_lost() {
    if cannot_refuse() {
        return;
    }
    let server = Server::new();
    let (host, pids) = with_agents(&server);
    let refusal = Refusal::new(&host, OPENING, "ENFILE", &[]);
    kill(pids[0], "KILL");
    host.wait("its end to be noticed", || said(&host, "killed by SIGKILL") == 1);
    host.wait("what is refused to be said", || said(&host, "Too many open files in system") > 0);
    assert!(stays(|| alive(host.pid()) && alive(pids[1])));
    assert!((1..=3).contains(&said(&host, "Too many open files in system")), "{}", host.logs());
    drop(refusal);
    is_made_good(&server, &host, pids);
}

#[test]
fn a_disk_that_fails_is_said_once_and_made_good() {
    if cannot_refuse() {
        return;
    }
    let mut host = Host::new();
    for name in ["a", "b"] {
        host.agent(name, "exec sleep 1000", &[]);
    }
    host.start();
    host.wait_running("b");
    let record = |name: &str| host.read(&format!("state/agents/{name}.json"));
    for (round, calls) in ["fsync,?fdatasync", "write,?pwrite64", "rename,?renameat,?renameat2"].into_iter().enumerate()
    {
        // Its log and its answers are written all the same: only the records are on the failing disk.
        let files = ["a", "b"].map(|name| host.path(&format!("state/agents/{name}.json.tmp")).display().to_string());
        let files = if calls.starts_with("write") { &files[..] } else { &[] };
        let (order, word) = if round % 2 == 0 { ("stop", "down") } else { ("start", "up") };
        let refusal = Refusal::new(&host, calls, "EIO", files);
        host.ok(&[order, "a"]);
        host.ok(&[order, "b"]);
        assert_eq!(said(&host, "(reported once while writing records fails)"), round + 1, "{calls}\n{}", host.logs());
        assert!(!record("a").contains(word), "{calls}: {}", record("a"));
        drop(refusal);
        host.wait("the records to be written", || said(&host, "writing records works again") == round + 1);
        assert!(["a", "b"].iter().all(|name| record(name).contains(word)), "{calls}: {} {}", record("a"), record("b"));
    }
}

#[test]
fn a_log_directory_that_became_read_only_costs_the_logs_only() {
    if cannot_refuse() {
        return;
    }
    let mut host = Host::new();
    host.agent("web", "echo up; exec sleep 1000", &[]);
    host.start();
    let mut pid = host.wait_running("web").pid;
    host.wait("its output", || host.lines("log/web.log") == 1);
    let out = |text: &str| host.read("daemon.out").matches(text).count();
    let logs = ["log/web.log", "log/bootagent.log"].map(|file| host.path(file).display().to_string());
    let refusal = Refusal::new(&host, "openat,?open,write", "EROFS", &logs);
    for _ in 0..2 {
        host.ok(&["restart", "web"]);
        let web = host.wait_running("web");
        assert!(web.pid != pid && web.failures == 0, "{web:?}");
        pid = web.pid;
    }
    assert_eq!((out("its output is dropped"), out("Read-only file system")), (1, 1), "{}", host.logs());
    assert_eq!(host.lines("log/web.log"), 1);
    drop(refusal);
    host.ok(&["restart", "web"]);
    host.wait("its output", || host.lines("log/web.log") == 2);
    assert_eq!(said(&host, "opening the output of agent \"web\" works again"), 1, "{}", host.logs());
}

#[test]
fn reads_that_fail_in_turn_cost_no_job_and_no_agent() {
    if cannot_refuse() {
        return;
    }
    let server = Server::new();
    let mut host = Host::with(&server);
    host.env("BOOTAGENT_FETCH_SECS", "0.05").set("checksecs", "0.2");
    for name in ["web", "other"] {
        host.agent(name, "exec sleep 1000", &[("stopsecs", "1")]);
    }
    host.start();
    let [web, other] = ["web", "other"].map(|name| host.wait_running(name).pid);
    let package = tarball(&host, "given", "1.0", &staying("given"), &[]);
    let url = server.serve(&package.file, &package.bytes);
    let refusal = Refusal::in_turn(&host, "read", "EIO");
    kill(web, "KILL");
    server.give(&Job::new("1", "install", "given").package(&url, &package).text());
    host.wait("a download that fails", || said(&host, "interrupted, tried again") > 0 || server.result("1").is_some());
    drop(refusal);
    let (code, message) = host.result(&server, "1");
    assert_eq!(code, 0, "{message}\n{}", host.logs());
    assert_eq!(server.requests_to(&format!("/packages/{}", package.file)).len(), 1, "it was there already");
    let lies = ["status 0 without a result", "closed the connection"];
    assert!(lies.iter().all(|lie| said(&host, lie) == 0), "{}", host.logs());
    let again = host.wait_seen("web", "to run again", |agent| agent.runs() && agent.pid != web).pid;
    let pids = [again, other, host.wait_running("given").pid];
    assert_eq!(host.wait_running("other").pid, other);
    host.kill9();
    host.start();
    assert_eq!(["web", "other", "given"].map(|name| host.wait_running(name).pid), pids, "{}", host.logs());
    host.wait("one copy of each", || host.agents_processes().len() == 3);
}

#[test]
fn a_directory_that_cannot_be_looked_at_is_not_taken_for_removed() {
    if cannot_refuse() {
        return;
    }
    let mut host = Host::new();
    host.set("checksecs", "0.1");
    host.agent("web", "exec sleep 1000", &[]);
    host.start();
    let pid = host.wait_running("web").pid;
    let files = ["run/bootagent.lock", "run/bootagent.sock", "run/agents", "state/bootagent.lock"];
    let files = files.map(|file| host.path(file).display().to_string());
    let refusal = Refusal::new(&host, LOOKING, "EIO", &files);
    assert!(stays(|| said(&host, "removed or emptied") == 0), "{}", host.logs());
    drop(refusal);
    assert_eq!(host.wait_running("web").pid, pid);
}
