//! What a child that reads from the network, and an agent, hold, and as whom they run.

mod util;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use util::*;

const KEY: &str = "a key that no child may hold";

/// The value of one line of /proc/PID/limits, soft and hard.
fn limit(pid: i32, what: &str) -> (String, String) {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix(what)).unwrap_or_default();
    let mut words = line.split_whitespace().map(str::to_string);
    (words.next().unwrap_or_default(), words.next().unwrap_or_default())
}

/// What a process has open: number and target.
fn open_files(pid: i32) -> Vec<(i32, String)> {
    let number = |path: &PathBuf| path.file_name()?.to_str()?.parse().ok();
    let target = |path: &PathBuf| fs::read_link(path).map(|to| to.to_string_lossy().into_owned()).unwrap_or_default();
    let mut files: Vec<(i32, String)> = entries(format!("/proc/{pid}/fd").as_ref())
        .iter()
        .filter_map(|path| Some((number(path)?, target(path))))
        .collect();
    files.sort();
    files
}

/// Whether these bytes are anywhere in a process's writable memory.
fn remembers(pid: i32, secret: &str) -> bool {
    let mut memory = fs::File::open(format!("/proc/{pid}/mem")).expect("root may look");
    for line in fs::read_to_string(format!("/proc/{pid}/maps")).expect("it lives").lines() {
        let mut words = line.split_whitespace();
        let (Some(range), Some(mode)) = (words.next(), words.next()) else { continue };
        let Some((start, end)) = range.split_once('-') else { continue };
        let address = |text| u64::from_str_radix(text, 16).expect("an address");
        let (start, end) = (address(start), address(end));
        let mut bytes = vec![0; (end - start) as usize];
        if !mode.starts_with("rw") || memory.seek(SeekFrom::Start(start)).is_err() || memory.read(&mut bytes).is_err() {
            continue;
        }
        if bytes.windows(secret.len()).any(|part| part == secret.as_bytes()) {
            return true;
        }
    }
    false
}

/// The working children of a host's daemon that have a connection.
fn working(host: &Host) -> Option<i32> {
    let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", host.pid())).unwrap_or_default();
    children.split_whitespace().filter_map(|pid| pid.parse().ok()).find(|pid| {
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        command == b"bootagent\0work\0" && open_files(*pid).iter().any(|(_, file)| file.starts_with("socket:"))
    })
}

/// The user id of a process, which all four of its user ids and of its group ids are.
fn only_id(pid: i32) -> u32 {
    let ids = proc_status(pid, "Uid");
    assert_eq!(proc_status(pid, "Gid"), ids);
    let mut ids = ids.split(' ');
    let first: u32 = ids.next().and_then(|id| id.parse().ok()).expect("a number");
    assert!(ids.clone().count() == 3 && ids.all(|id| id == first.to_string()), "{}", proc_status(pid, "Uid"));
    first
}

/// Ids that no account of this host has, and none of its users was given.
fn is_nobodys(id: u32) -> bool {
    let named = |file: &str| {
        let text = fs::read_to_string(file).unwrap_or_default();
        text.lines().any(|line| line.split(':').any(|field| field == id.to_string()))
    };
    (2_000_200_001..2_147_352_576).contains(&id) && !["/etc/passwd", "/etc/group"].into_iter().any(named)
}

/// What every working child must be, whatever it does; its user id.
fn examine(pid: i32, file_max: &str) -> u32 {
    let id = only_id(pid);
    assert!(is_nobodys(id), "{id}");
    assert_eq!(proc_status(pid, "Groups"), "");
    examine_image(pid);
    #[cfg(not(feature = "tls"))]
    assert_eq!(proc_status(pid, "Seccomp"), "2");
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(proc_status(pid, set), "0000000000000000", "{set}");
    }
    assert_eq!(proc_status(pid, "NoNewPrivs"), "1");
    let both = |value: &str| (value.to_string(), value.to_string());
    assert_eq!(limit(pid, "Max file size"), both(file_max));
    // An exchange fills no file, and has less memory.
    let memory = if file_max == "0" { "134217728" } else { "268435456" };
    assert_eq!(limit(pid, "Max address space"), both(memory));
    assert_eq!(limit(pid, "Max open files"), both("64"));
    assert_eq!(limit(pid, "Max processes"), both("0"));
    assert_eq!(limit(pid, "Max core file size"), both("0"));
    // What is not dumpable belongs to root, whoever it runs as: its own user cannot look into it.
    assert_eq!(fs::metadata(format!("/proc/{pid}/environ")).expect("it lives").uid(), 0);
    let environment = fs::read_to_string(format!("/proc/{pid}/environ")).expect("root may look");
    let names = environment.split_terminator('\0').filter_map(|pair| pair.split('=').next());
    assert!(names.clone().all(|name| ["PATH", "SSL_CERT_FILE", "SSL_CERT_DIR"].contains(&name)), "{environment}");
    assert!(names.count() > 0);
    assert!(!remembers(pid, KEY) && !remembers(pid, "an agent's secret"), "it holds a secret");
    assert!(remembers(pid, "bootagent"), "its memory was not looked through");
    id
}

/// A program that its user can execute and not read, so that the kernel never lets anybody trace it.
fn examine_image(pid: i32) {
    let image = fs::metadata(format!("/proc/{pid}/exe")).expect("it lives");
    assert_eq!((image.uid(), image.mode() & 0o7777), (0, 0o111));
}

#[test]
fn a_child_that_reads_from_the_network_holds_nothing() {
    if lacks_root() || emulator_lacks("process that holds nothing of the emulator's") {
        return;
    }
    let server = Server::new();
    server.signs(|request, body| signature(KEY, request, body));
    let mut host = Host::with(&server);
    host.write("key", KEY);
    fs::set_permissions(host.path("key"), fs::Permissions::from_mode(0o600)).unwrap();
    let path = format!("\"{}\"", host.path("key").display());
    host.set("key_file", &path).set("max_download", "\"1M\"");
    host.agent("web", "exec sleep 1000", &[("envs", "{ \"TOKEN\": \"an agent's secret\" }")]);
    host.start();
    host.wait_running("web");
    // A server that takes a connection and says nothing.
    server.mode(Mode::Hang);
    host.wait("an exchange without an end", || server.hanging() > 0);
    let pid = working(&host).expect("an exchange is under way");
    let exchanges = examine(pid, "0");
    let files = open_files(pid);
    assert_eq!(files.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [0, 1, 2, 3], "{files:?}");
    let kinds = ["pipe:", "pipe:", "/dev/null", "socket:"];
    assert!(files.iter().zip(kinds).all(|((_, file), kind)| file.starts_with(kind)), "{files:?}");
    server.mode(Mode::Good);

    // The same with a package.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("\"http://{}/web-1.0.tar\"", silent.local_addr().unwrap());
    let job = Job::new("i1", "install", "other").set("url", &url);
    server.give(&job.set("checksum", &format!("\"{}\"", checksum(b"what never comes"))).text());
    let (mut taken, _) = silent.accept().unwrap();
    taken.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nx").unwrap();
    let file = host.download("i1").display().to_string();
    let fetches = |pid: &i32| open_files(*pid).iter().any(|(_, open)| *open == file);
    let pid = patiently(|| working(&host).filter(fetches)).expect("a download is under way");
    assert_ne!(examine(pid, "1048576"), exchanges);
    let files = open_files(pid);
    let (download, rest): (Vec<_>, Vec<_>) = files.iter().skip(3).partition(|(_, open)| *open == file);
    assert!(!download.is_empty() && rest.len() == 1 && rest[0].1.starts_with("socket:"), "{files:?}");
    // It ends with the daemon, whatever becomes of that.
    host.kill9();
    host.wait("the download to end", || !PathBuf::from(format!("/proc/{pid}/exe")).exists());
    drop(taken);
}

#[test]
fn without_its_helper_user_there_is_no_exchange_and_all_else() {
    if lacks_root() {
        return;
    }
    let server = Server::new();
    let mut host = Host::with(&server);
    host.set("helper_user", "\"no-such-user\"");
    host.agent("web", "sleep 0.5", &[]);
    host.start();
    host.wait("the agent to be restarted", || host.seen("web").is_some_and(|agent| agent.failures > 0));
    assert!(server.requests().is_empty(), "somebody else read from the network");
    assert!(host.logs().contains("helper_user \"no-such-user\" does not exist"), "{}", host.logs());
}

/// The users of a host's helpers, and what they do: descriptor 3 is a file that is filled, or one that is only read.
fn users_at_work(host: &Host, users: &mut BTreeMap<&'static str, BTreeSet<u32>>) {
    let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", host.pid())).unwrap_or_default();
    for pid in children.split_whitespace().filter_map(|pid| pid.parse().ok()) {
        let third = fs::read_link(format!("/proc/{pid}/fd/3")).unwrap_or_default();
        let third = third.to_string_lossy();
        if !third.contains("/state/downloads/") && !third.contains("/state/packages/") {
            continue;
        }
        // The flags in octal, as open(2) has them: 2 is O_RDWR, and 0 is O_RDONLY.
        let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/3")).unwrap_or_default();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).map(str::trim).unwrap_or_default();
        let does = match flags.chars().last() {
            Some('2') => "fetch",
            Some('0') => "verify",
            // It has closed the file since.
            _ => continue,
        };
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let user = proc_status(pid, "Uid").split(' ').next().and_then(|id| id.parse().ok());
        // Before the exec it is the daemon still, whoever it will be; what unpacks is root.
        if let Some(user @ 1..) = user.filter(|_| words == b"bootagent\0work\0") {
            users.entry(does).or_default().insert(user);
        }
    }
}

#[test]
fn whoever_judges_a_package_is_not_whoever_fetched_it() {
    if lacks_root() || emulator_lacks("sight of who a child is") {
        return;
    }
    for helper_user in [None, Some("nobody")] {
        let server = Server::new();
        let mut host = Host::with(&server);
        if let Some(name) = helper_user {
            host.set("helper_user", &format!("\"{name}\""));
        }
        host.agent("theirs", "exec sleep 1000", &[("user", "\"nobody\"")]);
        host.start();
        let package = heavy(&host, "web", "1.0", 3 << 10);
        let url = server.serve(&package.file, &package.bytes);
        server.give(&Job::new("i1", "install", "web").package(&url, &package).set("startsecs", "0.2").text());
        let mut users = BTreeMap::new();
        let mut result = None;
        let until = Instant::now() + patience();
        while result.is_none() && Instant::now() < until {
            users_at_work(&host, &mut users);
            result = server.result("i1");
        }
        assert_eq!(result.map(|(code, _)| code), Some(0), "{}", host.logs());
        let (fetched, verified) = (&users["fetch"], &users["verify"]);
        assert!(fetched.len() == 1 && fetched.is_disjoint(verified), "{users:?}");
        assert!(verified.iter().all(|id| is_nobodys(*id)), "{users:?}");
        assert_eq!(fetched.iter().all(|id| is_nobodys(*id)), helper_user.is_none(), "{users:?}");
        // What that user costs is said, and that an agent is one of those who could make use of it.
        let checked = host.cli(&["check"]);
        for told in [checked.err, host.ok(&["status"]), host.ok(&["status", "--json"])] {
            assert_eq!(told.contains("other processes of that user can stop it"), helper_user.is_some(), "{told}");
            assert_eq!(
                told.contains("\\\"theirs\\\" runs as") || told.contains("\"theirs\" runs as"),
                helper_user.is_some(),
                "{told}"
            );
        }
        assert_eq!(checked.code, 0);
    }
}

#[test]
fn where_nothing_may_be_executed_the_unreadable_copy_is_elsewhere() {
    if lacks_root() || lacks("unshare") || emulator_lacks("mounts of its own") {
        return;
    }
    let server = Server::new();
    let mut host = Host::with(&server);
    let (state, run) = (host.path("state").display().to_string(), host.path("run").display().to_string());
    let closed = |dir: &str| {
        format!("mkdir -p {dir}; mount --bind {dir} {dir} && mount -o remount,bind,noexec {dir} || exit 1;")
    };
    server.mode(Mode::Hang);
    for (mounts, want) in [
        (String::new(), "/state/bin/helper"),
        (closed(&state), "/run/bin/helper"),
        (closed(&state) + &closed(&run), "/memfd:bootagent (deleted)"),
    ] {
        host.behind(&mounts);
        host.start();
        let pid = patiently(|| working(&host)).expect("an exchange is under way");
        examine_image(pid);
        let image = fs::read_link(format!("/proc/{pid}/exe")).expect("it lives");
        assert!(image.to_string_lossy().ends_with(want), "{} is not {want}", image.display());
        host.end("TERM");
        assert!(!host.path("run/bin").exists());
    }
}

/// Tries to trace each new process of the host, as any process may try with those of its own user, until its input ends or it has
/// got one; says how many those are, and how many were refused.
const TRACER: &str = "
import ctypes, select, sys
libc = ctypes.CDLL(None, use_errno=True)
got = refused = 0
while not got and not select.select([sys.stdin], [], [], 0)[0]:
    last = int(open('/proc/sys/kernel/ns_last_pid').read())
    for pid in range(last - 3, last + 4):
        if libc.ptrace(0x4206, pid, 0, 0) == 0:
            got += 1
        elif ctypes.get_errno() == 1:
            refused += 1
print(got, refused)
";

#[test]
fn no_process_of_its_user_can_trace_a_helper() {
    if lacks_root() || lacks("python3") || lacks("unshare") || emulator_lacks("ptrace") {
        return;
    }
    if !Path::new("/proc/sys/kernel/ns_last_pid").exists() && skipped("a kernel that tells the last process id") {
        return;
    }
    let server = Server::new();
    let mut host = Host::with(&server);
    // A user whom nothing else on this host runs as.
    let user = 1_000_000 + std::process::id();
    let passwd = fs::read_to_string("/etc/passwd").expect("there") + &format!("traced:x:{user}:{user}::/:/bin/false\n");
    host.write("passwd", &passwd);
    host.set("helper_user", "\"traced\"");
    host.behind(&format!("mount --bind {} /etc/passwd || exit 1;", host.path("passwd").display()));
    host.start();
    let mut tracer = Command::new("/usr/bin/python3");
    tracer.args(["-c", TRACER]).uid(user).gid(user).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut tracer = tracer.spawn().expect("python3");
    for _ in 0..variable("BOOTAGENT_TRACED", 40) {
        host.ok(&["report"]);
    }
    drop(tracer.stdin.take());
    let said = tracer.wait_with_output().expect("it ends").stdout;
    let said = String::from_utf8_lossy(&said);
    let counts: Vec<u64> = said.split_whitespace().filter_map(|count| count.parse().ok()).collect();
    assert!(counts.len() == 2 && counts[1] > 0, "nothing was tried: {said}");
    assert_eq!(counts[0], 0, "a helper was traced");
}

#[test]
fn the_unreadable_copy_is_of_the_image_that_runs() {
    if lacks_root() || emulator_lacks("image of its own") {
        return;
    }
    let server = Server::new();
    let mut host = Host::with(&server);
    host.install();
    host.start();
    let copy = host.path("state/bin/helper");
    let read = |path: &PathBuf| fs::read(path).expect("root may read it");
    let first = read(&copy);
    assert_eq!(first, read(&host.program));
    assert_eq!(fs::metadata(host.path("state/bin")).expect("there").mode() & 0o7777, 0o700);
    // Another binary in its place is not executed before it is the daemon's own.
    let mut next = first.clone();
    next.extend_from_slice(b"another");
    let beside = host.path("next");
    fs::write(&beside, &next).expect("written");
    fs::set_permissions(&beside, fs::Permissions::from_mode(0o700)).expect("ours");
    fs::rename(&beside, &host.program).expect("renamed");
    host.ok(&["report"]);
    assert_eq!(read(&copy), first);
    host.ok(&["reexec"]);
    assert_eq!(read(&copy), next);
    host.ok(&["report"]);
    server.mode(Mode::Hang);
    let mut report = host.begin(&["report"]);
    let pid = patiently(|| working(&host)).expect("an exchange is under way");
    assert_eq!(fs::read(format!("/proc/{pid}/exe")).expect("root may read it"), next);
    report.kill().and_then(|()| report.wait()).expect("it was waiting");
    // One that was altered, or is none, is made anew by the next daemon.
    host.end("TERM");
    // The helper of the exchange that was under way may still end.
    patiently(|| fs::write(&copy, "no program").ok()).expect("root may write it");
    server.mode(Mode::Good);
    host.start();
    host.ok(&["report"]);
    assert_eq!(read(&copy), next);
}

#[test]
fn an_agent_gets_nothing_of_ours() {
    let mut host = Host::new();
    let envs = ("envs", "{ \"TOKEN\": \"an agent's secret\" }");
    host.agent("web", "echo \"my token is $TOKEN\"; exec sleep 1000", &[envs]);
    host.agent("dying", "echo \"my token is $TOKEN\"; sleep 0.1; echo \"$TOKEN\" >&2; exit 3", &[envs]);
    host.start();
    let pid = host.wait_running("web").pid;
    host.wait("the shell to be sleep", || proc_status(pid, "Name") == "sleep");
    let output = host.path("log/web.log").display().to_string();
    let files = open_files(pid);
    let want = [(0, "/dev/null".to_string()), (1, output.clone()), (2, output)];
    assert_eq!(files, want);
    for set in ["SigBlk", "SigIgn", "SigCgt"] {
        assert_eq!(signals(pid, set), 0, "{set}");
    }
    assert_eq!(proc_status(pid, "Umask"), "0022");
    let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    assert_eq!(read("oom_score_adj").trim(), "0");
    assert_eq!(fs::read_link(format!("/proc/{pid}/cwd")).unwrap(), PathBuf::from("/"));
    // What we need more of, it does not get.
    assert_eq!(limit(pid, "Max open files").0, "1024");
    assert_eq!(proc_status(pid, "CapBnd"), proc_status(std::process::id() as i32, "CapBnd"));
    // Neither our session nor our control group, where agents have their own.
    let session = |pid: i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(3).map(str::to_string))
    };
    assert_eq!(session(pid), Some(pid.to_string()));
    let groups = |pid: i32| fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let own = groups(host.pid());
    for line in groups(pid).lines().filter(|line| !own.contains(line)) {
        assert!(line.ends_with("/web"), "a control group that is not its own: {line}");
    }
    let environment = read("environ");
    let names: Vec<&str> = environment.split_terminator('\0').filter_map(|pair| pair.split('=').next()).collect();
    let mut known = [
        "PATH",
        "HOME",
        "USER",
        "LOGNAME",
        "SHELL",
        "BOOTAGENT_NAME",
        "BOOTAGENT_STATE_DIR",
        "BOOTAGENT_STATE_ID",
        "TOKEN",
    ]
    .to_vec();
    // What a shell adds.
    known.extend(["PWD", "OLDPWD", "SHLVL", "_"]);
    assert!(names.iter().all(|name| known.contains(name)), "{names:?}");

    // A secret is in the agent's environment and where the agent puts it, and nowhere else.
    host.wait("an end with output", || host.seen("dying").is_some_and(|agent| agent.detail.contains("my token")));
    let told = [
        host.ok(&["status"]),
        host.ok(&["status", "--json"]),
        host.cli(&["status", "dying"]).out,
        host.ok(&["jobs"]),
        host.read("log/bootagent.log"),
        host.read("daemon.out"),
        host.read("run/agents/dying.json"),
    ];
    for text in told {
        assert!(!text.contains("an agent's secret"), "{text}");
    }
}

#[test]
fn privileges_can_be_taken_from_an_agent() {
    if lacks_root() {
        return;
    }
    let mut host = Host::new();
    let script = "exec sleep 1000";
    host.agent("all", script, &[]);
    host.agent("few", script, &[("capabilities", "[\"CAP_CHOWN\", \"net_bind_service\"]"), ("no_new_privs", "true")]);
    host.agent("none", script, &[("capabilities", "[]")]);
    host.start();
    let set = |name: &str, set: &str| proc_status(host.wait_running(name).pid, set);
    let own = proc_status(host.pid(), "CapBnd");
    assert_eq!(set("all", "CapBnd"), own);
    assert_eq!(set("all", "NoNewPrivs"), "0");
    for which in ["CapBnd", "CapPrm", "CapEff"] {
        assert_eq!(set("few", which), "0000000000000401", "{which}");
        assert_eq!(set("none", which), "0000000000000000", "{which}");
    }
    assert_eq!(set("few", "NoNewPrivs"), "1");
    assert_eq!(proc_status(host.pid(), "CapBnd"), own, "the daemon lost its own");
}
