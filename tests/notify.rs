//! Agents that say when they are ready, as sd_notify(3) has it: what is heard, from whom, and what daemons say.

mod util;

use std::fs::{self, File, FileTimes};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use util::*;

/// What the agents here begin with: `say` sends a message, `wait` waits for a file.
const PRELUDE: &str = "import os, socket, sys, time\n\
    target = os.environ['NOTIFY_SOCKET']\n\
    link = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n\
    def say(text):\n    link.sendto(text if isinstance(text, bytes) else text.encode(), target)\n\
    def wait(path):\n    while not os.path.exists(path): time.sleep(0.02)\n";

/// An agent of type notify that is this program.
fn agent(host: &Host, name: &str, program: &str, keys: &[(&str, &str)]) {
    let file = host.path(&format!("{name}.py"));
    host.write(&format!("{name}.py"), &format!("{PRELUDE}{program}\n"));
    let mut all = vec![("type", "\"notify\"")];
    all.extend(keys);
    host.agent(name, &format!("exec python3 {}", file.display()), &all);
}

fn socket(host: &Host, name: &str) -> PathBuf {
    host.path("run/notify").join(name)
}

fn wait_detail(host: &Host, name: &str, want: &str) -> Seen {
    host.wait_seen(name, want, |seen| seen.detail == want)
}

/// A program that is ready when the file `go` is there.
fn waits_for_go(host: &Host) -> String {
    format!("wait('{}')\nsay('READY=1\\nSTATUS=serving')\ntime.sleep(1000)", host.path("go").display())
}

#[test]
fn a_start_is_done_when_the_agent_says_so() {
    if lacks("python3") {
        return;
    }
    let mut host = Host::new();
    let out = host.path("out").display().to_string();
    let note = format!("{{ \"exec\": [\"/bin/sh\", \"-c\", \"echo $0 $NOTIFY_SOCKET >>{out}\", \"NAME\"] }}");
    let (prestart, check) = (note.replace("NAME", "prestart"), note.replace("NAME", "check"));
    let program = format!(
        "open('{out}', 'a').write('main ' + target + chr(10))\nsay('STATUS=loading\\ta secret word\\u202e\\x1b[1m')\n{}",
        waits_for_go(&host)
    );
    let envs = "{ \"KEY\": \"a secret word\" }";
    agent(
        &host,
        "web",
        &program,
        &[("prestart", &prestart), ("check", &check), ("envs", envs), ("autostart", "false")],
    );
    host.start();
    let mut start = host.begin(&["start", "web"]);
    let seen = host.wait_seen("web", "its status", |seen| seen.detail.contains("loading"));
    assert!(seen.runs() && seen.pid > 0, "{seen:?}");
    assert!(seen.detail.starts_with("waits for READY=1: loading") && seen.detail.contains("$KEY"), "{seen:?}");
    assert!(!seen.detail.contains(['\u{1b}', '\u{202e}', '\t']), "{seen:?}");
    assert!(start.try_wait().expect("it is ours").is_none(), "the command waits");
    let ran = host.cli(&["reload", "web"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    host.write("go", "");
    assert!(start.wait().expect("it is ours").success());
    assert_eq!(wait_detail(&host, "web", "serving").pid, seen.pid);
    host.wait("a health check", || host.read("out").contains("check"));
    // Neither the program before the start nor the check may say anything.
    assert_eq!(host.read("out").lines().next(), Some("prestart"));
    assert!(host.read("out").contains(&format!("main {}\n", socket(&host, "web").display())));
    assert!(host.read("out").lines().any(|line| line == "check"), "{}", host.read("out"));
    assert_eq!(host.cli(&["stop", "web"]).code, 0);
    assert!(!socket(&host, "web").exists());
}

#[test]
fn only_processes_of_the_agent_are_heard() {
    if lacks("python3") {
        return;
    }
    let mut host = Host::new();
    agent(&host, "web", &waits_for_go(&host), &[]);
    // Another agent, and a process that its agent has started and left.
    let steals = format!(
        "target = '{}'\nsay('READY=1\\nSTATUS=stolen')\nopen('{}', 'w')\ntime.sleep(1000)",
        socket(&host, "web").display(),
        host.path("stolen").display()
    );
    host.start();
    wait_detail(&host, "web", "waits for READY=1");
    let stranger = UnixDatagram::unbound().expect("a socket");
    stranger.send_to(b"READY=1\nSTATUS=strange\nMAINPID=2", socket(&host, "web")).expect("everybody may send");
    agent(&host, "thief", &steals, &[]);
    assert_eq!(host.cli(&["reload"]).code, 0);
    host.wait("the other agent to have tried", || host.path("stolen").exists());
    host.wait("both to be refused", || host.logs().matches("agent \"web\": a message of process").count() >= 2);
    let pid = wait_detail(&host, "web", "waits for READY=1").pid;
    host.write("go", "");
    assert_eq!(wait_detail(&host, "web", "serving").pid, pid);
}

#[test]
fn a_main_process_moves_within_the_tree() {
    if lacks("python3") {
        return;
    }
    let mut host = Host::new();
    let pid = host.path("pid").display().to_string();
    let go = host.path("go").display().to_string();
    // The first process goes as soon as it has said which one follows.
    let program = format!(
        "say('MAINPID=%d' % os.getppid())\nsay('MAINPID=2')\nsay('MAINPID=1')\nchild = os.fork()\n\
         if child:\n    say('STATUS=moved\\nMAINPID=%d\\nREADY=1' % child)\n    os._exit(3)\n\
         open('{pid}', 'w').write(str(os.getpid()))\nwait('{go}')\nos._exit(7)"
    );
    agent(&host, "web", &program, &[("restartsecs", "1000")]);
    host.start();
    let seen = wait_detail(&host, "web", "moved");
    host.wait("the process that follows", || host.read("pid") == seen.pid.to_string());
    assert_eq!(host.cli(&["start", "web"]).code, 0);
    for end in ["kill -9", "reexec"] {
        match end {
            "reexec" => assert_eq!(host.cli(&["reexec"]).code, 0),
            _ => {
                host.kill9();
                host.start();
            }
        }
        assert_eq!(wait_detail(&host, "web", "moved").pid, seen.pid, "{end}");
    }
    kill(seen.pid, "KILL");
    host.wait_seen("web", "its end", |seen| !seen.runs());
    // How a process ends that the daemon has not made itself is known all the same.
    fs::remove_file(&pid).expect("it was there");
    assert_eq!(host.cli(&["restart", "web"]).code, 0);
    host.write("go", "");
    host.wait_seen("web", "its end", |seen| seen.detail.contains("exited with status 7"));
}

#[test]
fn an_agent_is_heard_by_the_next_daemon() {
    if lacks("python3") {
        return;
    }
    let mut host = Host::new();
    let next = host.path("next").display().to_string();
    let program = format!(
        "for number in range(1000):\n    wait('{next}%d' % number)\n    try: say('STATUS=number %d' % number)\n    \
         except OSError: say('STATUS=number %d' % number)\n    if number == 3: say('READY=1')"
    );
    agent(&host, "web", &program, &[("user", "4711"), ("group", "4711")][..if is_root() { 2 } else { 0 }]);
    host.start();
    let pid = host.wait_running("web").pid;
    for (number, before) in ["start", "kill -9", "reexec", "removed", "reexec", "kill -9"].into_iter().enumerate() {
        match before {
            "kill -9" => {
                host.kill9();
                host.start();
            }
            "reexec" => assert_eq!(host.cli(&["reexec"]).code, 0),
            "removed" => {
                host.set("checksecs", "0.2");
                host.kill9();
                host.start();
                fs::remove_file(socket(&host, "web")).expect("it was there");
                host.wait("the socket to be made again", || socket(&host, "web").exists());
            }
            _ => {}
        }
        host.write(&format!("next{number}"), "");
        let wait = if number < 3 { "waits for READY=1: " } else { "" };
        assert_eq!(wait_detail(&host, "web", &format!("{wait}number {number}")).pid, pid, "after {before}");
    }
    assert_eq!(host.cli(&["stop", "web"]).code, 0);
    // What is left of one that is gone is removed by the next daemon.
    host.kill9();
    host.write("run/notify/gone", "");
    host.start();
    host.wait("it to be removed", || !socket(&host, "gone").exists());
}

#[test]
fn an_env_file_is_not_read_for_each_message() {
    if lacks("python3") {
        return;
    }
    let mut host = Host::new();
    let (next, file) = (host.path("next").display().to_string(), host.path("env"));
    let program = format!(
        "say('READY=1')\nfor number in range(1000):\n    wait('{next}%d' % number)\n    \
         say('STATUS=%d %s' % (number, open('{next}%d' % number).read()))"
    );
    host.write("env", "TOKEN=the first secret\n");
    agent(&host, "web", &program, &[("env_file", &format!("\"{}\"", file.display()))]);
    host.start();
    host.wait_running("web");
    let says = |number: u32, text: &str| {
        host.write("next", text);
        fs::rename(host.path("next"), host.path(&format!("next{number}"))).expect("our own file");
        wait_detail(&host, "web", &format!("{number} with $TOKEN"));
        fs::metadata(&file).and_then(|there| there.accessed()).expect("our own file")
    };
    says(0, "with the first secret");
    // As long as it was written later, the kernel notes when it is read.
    let later = SystemTime::now() + Duration::from_secs(10_000);
    let times = FileTimes::new().set_accessed(SystemTime::UNIX_EPOCH).set_modified(later);
    File::options().write(true).open(&file).and_then(|file| file.set_times(times)).expect("our own file");
    let read = says(1, "with the first secret");
    if read == SystemTime::UNIX_EPOCH {
        cannot_apply("the file system does not note when a file is read");
        return;
    }
    for number in 2..6 {
        assert_eq!(says(number, "with the first secret"), read, "it was read for message {number}");
    }
    // An agent may read it anew itself.
    host.write("env", "TOKEN=the second secret\n");
    says(6, "with the second secret");
    says(7, "with the first secret");
}

fn is_root() -> bool {
    proc_status(std::process::id() as i32, "Uid").split(' ').nth(1) == Some("0")
}

#[test]
fn a_flood_of_messages_holds_up_nothing() {
    if lacks("python3") {
        return;
    }
    let mut host = Host::new();
    let program = "import array\nbig = b'STATUS=' + b'x' * 60000\n\
         for number in range(200):\n    link.sendmsg([b'STATUS=files'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [0, 1, 2]))], 0, target)\n\
         say(big)\nsay(b'\\xff\\xfe\\0=\\n=\\n')\nsay('RELOADING=1\\nWATCHDOG=1\\nEXTEND_TIMEOUT_USEC=1\\nSTOPPING=1')\nsay('READY=1')\n\
         until = time.time() + 3\nnumber = 0\n\
         while time.time() < until:\n    say('STATUS=%d' % number)\n    number += 1\n\
         say('STATUS=done')\ntime.sleep(1000)"
    ;
    agent(&host, "web", program, &[]);
    host.agent("other", "exec sleep 1000", &[("restartsecs", "0.1")]);
    host.start();
    let descriptors = || entries(&PathBuf::from(format!("/proc/{}/fd", host.pid()))).len();
    let before = descriptors();
    host.wait_seen("web", "the flood", |seen| seen.detail.parse::<u32>().is_ok());
    let other = host.wait_running("other").pid;
    kill(other, "KILL");
    host.wait_seen("other", "to be restarted during the flood", |seen| seen.runs() && seen.pid != other);
    assert!(host.seen("web").is_some_and(|seen| seen.detail != "done"), "the flood goes on");
    let ticks = || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", host.pid())).unwrap_or_default();
        let fields: Vec<u64> =
            stat.rsplit_once(") ").map_or("", |(_, rest)| rest).split(' ').map(|n| n.parse().unwrap_or(0)).collect();
        fields[11] + fields[12]
    };
    let used = ticks();
    wait_detail(&host, "web", "done");
    assert!(ticks() - used < 150, "{} ticks in at most 3 s", ticks() - used);
    assert!(descriptors() <= before + 1, "{} and {before}", descriptors());
}

#[test]
fn an_install_succeeds_with_an_agent_that_is_ready() {
    if lacks("python3") {
        return;
    }
    let server = Server::new();
    let mut host = Host::with(&server);
    host.start();
    let program = format!("{PRELUDE}{}", waits_for_go(&host));
    host.write("web.py", &program);
    let script = format!("#!/bin/sh\nexec python3 {}\n", host.path("web.py").display());
    let package = tarball(&host, "web", "1.0", &script, &[("type", "\"notify\"")]);
    let url = server.serve(&package.file, &package.bytes);
    server.give(&Job::new("1", "install", "web").package(&url, &package).set("startsecs", "0.5").text());
    let pid = wait_detail(&host, "web", "waits for READY=1").pid;
    assert!(stays(|| server.result("1").is_none()), "it waits for the agent");
    host.write("go", "");
    assert_eq!(host.result(&server, "1").0, 0);
    assert_eq!(wait_detail(&host, "web", "serving").pid, pid);
}

#[test]
fn what_is_left_of_an_agent_says_nothing() {
    if lacks("python3") {
        return;
    }
    let mut host = Host::new();
    let (go, done) = (host.path("go").display().to_string(), host.path("done").display().to_string());
    let program = format!(
        "if os.fork() == 0:\n    os.setsid()\n    wait('{go}')\n    say('STATUS=left\\nMAINPID=%d' % os.getpid())\n    open('{done}', 'w')\n    time.sleep(1000)\n\
         say('READY=1\\nSTATUS=run')\ntime.sleep(1000)"
    );
    agent(&host, "web", &program, &[("kill", "\"main\"")]);
    host.start();
    wait_detail(&host, "web", "run");
    // The next run starts nothing that would speak.
    agent(&host, "web", "say('READY=1\\nSTATUS=second')\ntime.sleep(1000)", &[("kill", "\"main\"")]);
    assert_eq!(host.cli(&["restart", "web"]).code, 0);
    let want = "second; 1 process left by earlier runs";
    let pid = wait_detail(&host, "web", want).pid;
    host.write("go", "");
    host.wait("it to have spoken", || host.path("done").exists());
    assert!(stays(|| host.seen("web").is_some_and(|seen| seen.pid == pid && seen.detail == want)));
}

/// Sends many messages with connections whose close waits for a minute, and which nobody else has open then.
const LINGERING: &str = "import array, os, socket, struct, sys, time\n\
    link = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n\
    server = socket.socket()\n\
    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)\n\
    server.bind(('127.0.0.1', 0))\n\
    server.listen(200)\n\
    for i in range(100):\n\
    \x20   # The end of a process waits for no close.\n\
    \x20   if os.fork(): continue\n\
    \x20   client = socket.create_connection(server.getsockname())\n\
    \x20   client.setblocking(False)\n\
    \x20   client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 60))\n\
    \x20   try:\n\
    \x20       while True: client.send(bytes(65536))\n\
    \x20   except BlockingIOError: pass\n\
    \x20   passed = array.array('i', [client.fileno()])\n\
    \x20   link.sendmsg([b'STATUS=x'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, passed)], 0, sys.argv[1])\n\
    \x20   os._exit(0)\n\
    for i in range(100): os.wait()\n\
    open(sys.argv[2], 'w')\n\
    time.sleep(1000)\n";

#[test]
fn descriptors_that_are_sent_along_hold_up_nothing() {
    if lacks("python3") {
        return;
    }
    let mut host = Host::new();
    agent(&host, "web", "say('READY=1\\nSTATUS=serving')\ntime.sleep(1000)", &[]);
    host.start();
    wait_detail(&host, "web", "serving");
    let done = host.path("done");
    let mut sender = std::process::Command::new("python3")
        .args(["-c", LINGERING])
        .args([&socket(&host, "web"), &done])
        .spawn()
        .expect("python3 can be executed");
    host.wait("all messages", || done.exists());
    let begin = Instant::now();
    assert!(host.status().is_some());
    // What was not read yet is lost.
    assert_eq!(host.cli(&["stop", "web"]).code, 0);
    let took = begin.elapsed();
    sender.kill().and_then(|()| sender.wait()).expect("it is ours");
    assert!(took < Duration::from_secs(30), "{took:?}");
}

#[test]
fn the_path_of_a_socket_has_a_limit() {
    let mut host = Host::new();
    let name = "x".repeat(50);
    let deep = host.path(&"y".repeat(60));
    host.set("run_dir", &format!("\"{}\"", deep.display()));
    host.agent(&name, "exec sleep 1000", &[("type", "\"notify\"")]);
    host.configure();
    let ran = host.cli(&["check"]);
    assert!(
        ran.code == 1 && ran.err.contains("NOTIFY_SOCKET: ") && ran.err.contains("configure a shorter run_dir"),
        "{ran:?}"
    );
}

#[test]
fn worked_definitions_of_daemons_that_say_when_they_are_ready() {
    if lacks_root() || lacks("redis-server") || lacks("haproxy") || lacks("rsyslogd") {
        return;
    }
    let mut host = Host::new();
    let dir = host.dir.display().to_string();
    fs::create_dir(host.path("data")).expect("a directory");
    assert!(std::process::Command::new("chown")
        .args(["redis", &format!("{dir}/data")])
        .status()
        .expect("chown")
        .success());
    host.write("redis.conf", &format!("port 0\nunixsocket {dir}/data/redis\ndir {dir}/data\n"));
    let haproxy = format!("defaults\n mode http\n timeout client 1s\n timeout server 1s\n timeout connect 1s\nfrontend web\n bind unix@{dir}/web\n");
    host.write("haproxy.cfg", &haproxy);
    let rsyslog = format!("module(load=\"imuxsock\" SysSock.Use=\"off\")\ninput(type=\"imuxsock\" Socket=\"{dir}/log/in\")\n*.* {dir}/out\n");
    host.write("rsyslog.conf", &rsyslog);
    let changes: [(&str, &[(&str, String)]); 3] = [
        (
            "redis",
            &[
                ("/etc/redis/redis.conf", format!("{dir}/redis.conf")),
                ("redis-cli\",", format!("redis-cli\", \"-s\", \"{dir}/data/redis\",")),
                ("\"runtime_directory\": [\"redis\"],", String::new()),
            ],
        ),
        (
            "haproxy",
            &[
                ("/etc/haproxy/haproxy.cfg", format!("{dir}/haproxy.cfg")),
                ("\"runtime_directory\": [\"haproxy\"],", String::new()),
            ],
        ),
        ("rsyslog", &[("\"-iNONE\"", format!("\"-iNONE\", \"-f\", \"{dir}/rsyslog.conf\""))]),
    ];
    for (name, changes) in &changes {
        host.write(&format!("agents.d/{name}.json"), &worked_definition(name, changes));
    }
    host.start();
    for (name, _) in &changes {
        // That is 1 s after they are ready.
        assert_eq!(host.cli(&["start", name]).code, 0, "{name}: {:?}", host.seen(name));
        let pid = host.wait_running(name).pid;
        if *name != "redis" {
            assert_eq!(host.cli(&["reload", name]).code, 0, "{name}");
        }
        host.kill9();
        host.start();
        assert_eq!(host.cli(&["reexec"]).code, 0);
        let seen = host.wait_running(name);
        assert!(seen.pid == pid && !seen.detail.contains("waits"), "{seen:?}");
    }
    wait_detail(&host, "redis", "Ready to accept connections");
    host.write("haproxy.cfg", &haproxy.replace("/web", "/other"));
    assert_eq!(host.cli(&["reload", "haproxy"]).code, 0);
    // While it reloads it may miss the stop signal.
    let reloads = || host.read("log/haproxy.log").matches("Former worker").count();
    host.wait("the new configuration", || host.path("other").exists() && reloads() == 2);
    assert_eq!(host.cli(&["stop", "--all"]).code, 0);
    assert!(host.agents_processes().is_empty(), "{:?}", host.agents_processes());
}

#[test]
fn a_script_says_so_by_systemd_notify() {
    if lacks("systemd-notify") {
        return;
    }
    let mut host = Host::new();
    host.agent(
        "web",
        "sleep 0.3; systemd-notify --ready --pid --status='from a script'; while :; do sleep 1; done",
        &[("type", "\"notify\"")],
    );
    host.start();
    assert_eq!(host.cli(&["start", "web"]).code, 0);
    wait_detail(&host, "web", "from a script");
}
