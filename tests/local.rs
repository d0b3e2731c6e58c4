//! What somebody with a shell on the host can do to the daemon: plant links and pipes, and keep the control socket busy; and
//! the modes that prevent more.

mod util;

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::{symlink, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Duration;

use util::*;

#[test]
fn links_that_somebody_planted_are_not_followed() {
    let mut host = Host::new();
    for dir in ["log", "run", "elsewhere"] {
        fs::create_dir_all(host.path(dir)).unwrap();
    }
    let victim = |name: &str| {
        let path = host.path("elsewhere").join(name);
        fs::write(&path, "precious\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o604)).unwrap();
        path
    };
    let places = [
        ("log/web.log", true),
        ("log/hard.log", false),
        ("log/turned.log.1", true),
        ("log/turned.log.1.tmp", false),
        ("run/bootagent.pid", true),
        ("run/bootagent.pid.tmp", false),
        ("run/boot", true),
    ];
    let mut victims = Vec::new();
    for (index, (place, soft)) in places.into_iter().enumerate() {
        let path = victim(&format!("{index}"));
        let made = if soft { symlink(&path, host.path(place)) } else { fs::hard_link(&path, host.path(place)) };
        made.unwrap();
        victims.push((place, path));
    }
    let own_log = victim("own-log");
    symlink(&own_log, host.path("log/bootagent.log")).unwrap();
    victims.push(("log/bootagent.log", own_log));
    host.agent("web", "echo written; exec sleep 1000", &[]);
    host.agent("hard", "echo written; exec sleep 1000", &[]);
    let script = "i=0; while [ $i -lt 200 ]; do echo written; i=$((i + 1)); done; exec sleep 1000";
    host.agent("turned", script, &[("log_size", "\"1K\"")]);
    host.start();
    // A log that cannot be used keeps no agent down.
    for name in ["web", "hard", "turned"] {
        host.wait_running(name);
    }
    host.wait("an output to be rotated", || fs::read(host.path("log/turned.log.1")).is_ok_and(|old| old.len() > 900));
    host.end("TERM");
    for (place, path) in victims {
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious\n", "{place} was written through");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o604, "{place}: the mode was changed");
    }

    // A lock that is a link is removed, and the daemon locks a file of its own.
    let lock = host.path("elsewhere/lock");
    fs::remove_file(host.path("run/bootagent.lock")).unwrap();
    symlink(&lock, host.path("run/bootagent.lock")).unwrap();
    host.start();
    assert!(!lock.exists(), "the lock was made through the link");
    assert!(
        fs::symlink_metadata(host.path("run/bootagent.lock")).is_ok_and(|found| found.is_file()),
        "{}",
        host.logs()
    );
}

#[test]
fn files_have_their_modes_whatever_the_umask() {
    for umask in ["000", "077"] {
        let server = Server::new();
        let host = Host::with(&server);
        host.agent("web", "exec sleep 1000", &[]);
        host.configure();
        // The daemon by way of a shell, as an init script would start it.
        let line = "umask $0; exec \"$@\"";
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", line, umask]).arg(binary()).arg("-c").arg(host.path("bootagent.json")).args(["run", "-d"]);
        let ran = run(&mut shell).expect("it goes to the background");
        assert_eq!(ran.code, 0, "{ran:?}");
        host.wait_running("web");
        let package = tarball(&host, "packed", "1.0", &staying("here"), &[]);
        let url = server.serve(&package.file, &package.bytes);
        host.does(&server, &Job::new("i1", "install", "packed").package(&url, &package), 0);
        for (path, want) in [
            ("state", 0o755),
            ("state/identity.json", 0o600),
            ("state/agents/packed.json", 0o600),
            ("state/jobs", 0o755),
            ("state/jobs/i1.json", 0o600),
            ("state/packages/packed", 0o755),
            ("state/packages/packed/1.0", 0o755),
            ("state/packages/packed/1.0/bin/agent", 0o755),
            ("state/good/bootagent.json", 0o600),
            ("run", 0o755),
            ("run/agents/web.json", 0o600),
            ("run/bootagent.pid", 0o644),
            ("run/bootagent.lock", 0o600),
            ("run/bootagent.sock", 0o600),
            ("log", 0o755),
            ("log/bootagent.log", 0o600),
            ("log/web.log", 0o640),
        ] {
            let found = fs::symlink_metadata(host.path(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
            assert_eq!(found.mode() & 0o7777, want, "{path} with umask {umask}: {:o}", found.mode());
        }
        assert!(fs::symlink_metadata(host.path("run/bootagent.sock")).unwrap().file_type().is_socket());
        kill(host.read("run/bootagent.pid").trim().parse().unwrap(), "TERM");
        host.wait("its end", || host.status().is_none());
    }
}

#[test]
fn commands_are_roots_and_cannot_be_blocked() {
    let mut host = Host::new();
    host.agent("web", "exec sleep 1000", &[]);
    host.start();
    let pid = host.wait_running("web").pid;
    let socket = host.path("run/bootagent.sock");
    // Those who say nothing, those who say half of it, and those who do not read.
    let mut silent = Vec::new();
    for index in 0..60 {
        let mut stream = UnixStream::connect(&socket).unwrap();
        let said: &[u8] = [&b""[..], b"{\"command\":", b"{\"command\":\"status\"}\n"][index % 3];
        stream.write_all(said).unwrap();
        silent.push(stream);
    }
    kill(pid, "KILL");
    let next = host.wait_seen("web", "to be restarted", |agent| agent.runs() && agent.pid != pid);
    assert!(next.runs());
    drop(silent);

    if lacks_root() || lacks("setpriv") || lacks("python3") {
        return;
    }
    // Whatever the mode of the socket says, it is who asks that counts.
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o666)).unwrap();
    let script = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); \
        s.sendall(b'{\"command\":\"stop\",\"name\":\"web\"}\\n'); print(s.recv(4096).decode())";
    let mut stranger = Command::new("setpriv");
    stranger.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "python3", "-c", script]).arg(&socket);
    let ran = run(&mut stranger).expect("it ends");
    assert!(!ran.out.contains("\"code\":0"), "{ran:?}");
    assert!(ran.out.contains("only root may give commands") || !ran.err.is_empty(), "{ran:?}");
    // The daemon takes one command after the other: this one came after the stranger's.
    assert!(host.seen("web").is_some_and(|agent| agent.runs()));
}

#[test]
fn a_thousand_clients_hold_up_nobody() {
    let mut host = Host::new();
    host.agent("web", "exec sleep 1000", &[]);
    host.agent("slow", "trap '' TERM; while :; do sleep 1; done", &[("stopsecs", "15")]);
    host.start();
    let pid = host.wait_running("web").pid;
    host.wait_running("slow");
    let socket = host.path("run/bootagent.sock");
    let over = Arc::new(AtomicBool::new(false));

    // One whose command takes long, and who goes on talking for as long as it does.
    let (path, end) = (socket.clone(), over.clone());
    let talker = std::thread::spawn(move || {
        let mut stream = UnixStream::connect(path).expect("it listens");
        stream.write_all(b"{\"command\":\"stop\",\"name\":\"slow\"}\n").expect("it reads");
        while !end.load(Ordering::SeqCst) && stream.write_all(&[b'x'; 1 << 16]).is_ok() {}
    });
    host.wait_seen("slow", "to be stopped", |agent| !agent.detail.is_empty() || !agent.runs());
    // One who never comes to the end of a line.
    let (path, end) = (socket.clone(), over.clone());
    let stammerer = std::thread::spawn(move || {
        let mut stream = UnixStream::connect(path).expect("it listens");
        while !end.load(Ordering::SeqCst) && stream.write_all(b"x").is_ok() {
            pause();
        }
    });
    // And many who say nothing; the last of them may have to wait for the kernel to take them.
    let (path, end) = (socket, over.clone());
    let crowd = std::thread::spawn(move || {
        let mut crowd = Vec::new();
        while crowd.len() < 1000 && !end.load(Ordering::SeqCst) {
            crowd.push(UnixStream::connect(&path).expect("it listens"));
        }
        while !end.load(Ordering::SeqCst) {
            pause();
        }
    });
    let descriptors = || entries(format!("/proc/{}/fd", host.pid()).as_ref()).len();
    host.wait("as many clients as are taken", || descriptors() > 64);
    kill(pid, "KILL");
    host.wait("the next process", || host.read("log/bootagent.log").matches("agent \"web\": started").count() >= 2);
    assert!(stays(|| descriptors() < 150), "{} descriptors", descriptors());
    over.store(true, Ordering::SeqCst);
    for thread in [talker, stammerer, crowd] {
        thread.join().expect("no panic");
    }
    assert!(host.wait_running("web").runs());
}

/// Sends a command over the control socket and no more.
fn says(host: &Host, command: &str) -> UnixStream {
    let mut stream = UnixStream::connect(host.path("run/bootagent.sock")).expect("it listens");
    stream.write_all(format!("{command}\n").as_bytes()).expect("it takes commands");
    stream.shutdown(Shutdown::Write).expect("it is connected");
    stream
}

/// What comes back.
fn hears(mut stream: UnixStream) -> String {
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a socket");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer, and its end");
    answer
}

#[test]
fn whoever_has_no_more_to_say_is_answered() {
    let mut host = Host::new();
    host.agent("web", "exec sleep 1000", &[("startsecs", "1.5")]);
    host.start();
    host.wait_running("web");
    assert!(hears(says(&host, "{\"command\":\"status\"}")).contains("\"name\":\"web\""));
    let work = || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", host.pid())).expect("it runs");
        let words: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
        words[11..13].iter().map(|ticks| ticks.parse::<u64>().expect("a number")).sum::<u64>()
    };
    let before = work();
    let gone = says(&host, "{\"command\":\"restart\",\"name\":\"web\"}");
    let answer = hears(says(&host, "{\"command\":\"restart\",\"name\":\"web\"}"));
    assert!(answer.contains("\"code\":0") && answer.contains("is running"), "{answer}");
    assert!(work() - before < 50, "it spins while the client waits");
    // One that does not wait for its answer is forgotten.
    let descriptors = || entries(format!("/proc/{}/fd", host.pid()).as_ref()).len();
    hears(gone);
    let before = descriptors();
    let gone = says(&host, "{\"command\":\"restart\",\"name\":\"web\"}");
    host.wait("it to be taken", || descriptors() == before + 1);
    drop(gone);
    host.wait("it to be dropped", || descriptors() == before);
}

#[test]
fn whoever_comes_as_the_daemon_ends_is_told_so() {
    for clients in [1, 100] {
        let mut host = Host::new();
        host.start();
        let pid = host.pid();
        kill(pid, "STOP");
        host.wait("it to stand still", || proc_status(pid, "State").starts_with('T'));
        let crowd: Vec<UnixStream> = (0..clients).map(|_| says(&host, "{\"command\":\"jobs\"}")).collect();
        kill(pid, "TERM");
        kill(pid, "CONT");
        for client in crowd {
            let answer = hears(client);
            assert!(answer.contains("\"code\":1,\"message\":\"the daemon is being stopped\""), "{answer}");
        }
        host.wait("its end", || host.status().is_none());
    }
}

#[test]
fn a_pipe_in_place_of_a_pid_file_holds_up_nobody() {
    let mut host = Host::new();
    let pidfile = host.path("forking.pid");
    let script = format!("rm -f {0}; mkfifo {0}; sleep 1000 & exit 0", pidfile.display());
    let quoted = format!("\"{}\"", pidfile.display());
    host.agent("forking", &script, &[("type", "\"forking\""), ("pidfile", &quoted)]);
    host.agent("web", "exec sleep 1000", &[]);
    host.start();
    let pid = host.wait_running("web").pid;
    host.wait("the pipe", || pidfile.exists());
    host.wait_seen("forking", "to be looked for", |agent| !agent.detail.is_empty());
    kill(pid, "KILL");
    host.wait_seen("web", "to be restarted", |agent| agent.runs() && agent.pid != pid);
}

/// How much of the disk a file holds.
fn held(path: &std::path::Path) -> u64 {
    fs::metadata(path).map_or(0, |found| found.blocks() * 512)
}

#[test]
fn no_agent_holds_the_disk_behind_its_output() {
    if lacks("python3") {
        return;
    }
    let mut host = Host::new();
    host.set("checksecs", "0.2");
    // Each takes space without making its output longer than it may be; the last makes it longer than any disk.
    let kinds = [
        ("ahead", "write(1, b'kept\\n'); allocate(0, 64 << 20)"),
        ("empty", "allocate(0, 64 << 20)"),
        ("far", "write(1, b'kept\\n'); allocate(1 << 40, 64 << 20)"),
        ("sparse", "truncate(1, 1 << 43); write(1, b'kept\\n')"),
    ];
    for (name, does) in kinds {
        let script = format!(
            "exec python3 -c \"
import ctypes, os, time
from os import write, truncate
libc = ctypes.CDLL(None, use_errno=True)
def allocate(start, length):
    if libc.fallocate64(1, 1, ctypes.c_int64(start), ctypes.c_int64(length)): raise OSError(ctypes.get_errno())
{does}
open('{}', 'w').write(str(os.fstat(1).st_blocks * 512))
while True: time.sleep(100)\"",
            host.path(name).display()
        );
        host.agent(name, &script, &[("log_size", "\"16K\""), ("retries", "0")]);
    }
    host.start();
    for (name, _) in kinds {
        host.wait("what it does to be done", || !host.read(name).is_empty());
        let took: u64 = host.read(name).parse().expect("a number");
        assert!(name == "sparse" || took >= 64 << 20, "{name} took {took} bytes only");
        let log = host.path(&format!("log/{name}.log"));
        host.wait(&format!("{name} to give its space back"), || {
            held(&log) < 1 << 20 && fs::metadata(&log).is_ok_and(|found| found.len() <= 16 << 10)
        });
        let copy = host.path(&format!("log/{name}.log.1"));
        assert!(held(&copy) < 1 << 20, "{name}: the copy holds {} bytes", held(&copy));
        assert!(
            name == "empty" || fs::read(&copy).is_ok_and(|text| text.ends_with(b"kept\n")),
            "{name}: it is not kept"
        );
        assert!(host.seen(name).is_some_and(|agent| agent.runs()), "{name} is to go on\n{}", host.logs());
    }
}

#[test]
fn environments_that_cannot_matter_are_not_read() {
    if lacks_root() || lacks("python3") || emulator_lacks("reaper of orphans (PR_SET_CHILD_SUBREAPER)") {
        return;
    }
    let mut host = Host::new();
    host.behind("umount -R -l /sys/fs/cgroup || exit 1;");
    // Taken over, so that orphans of init may be its own.
    host.agent("web", "trap '' TERM; while :; do sleep 1; done", &[("stopsecs", "0.2")]);
    host.start();
    host.wait_running("web");
    host.kill9();
    host.start();
    let time = format!("1002.{}", std::process::id());
    let script = "import os, sys
for i in range(40):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.setresuid(65534, 65534, 65534)
            os.execve('/bin/sleep', ['sleep', sys.argv[1]], {'P%d' % j: 'x' * 120000 for j in range(14)})
        os._exit(0)
while True:
    try: os.wait()
    except ChildProcessError: break";
    // They keep its output open.
    let mut maker = Command::new("python3");
    maker.args(["-c", script, &time]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    assert!(maker.status().expect("it ends").success());
    let want = format!("sleep\0{time}\0");
    let orphans = || -> Vec<i32> {
        let all = entries("/proc".as_ref()).into_iter();
        let pids = all.filter_map(|path| path.file_name()?.to_str()?.parse().ok());
        pids.filter(|pid| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line == want.as_bytes())).collect()
    };
    host.wait("the orphans", || orphans().len() == 40);
    let read = || -> u64 {
        let io = fs::read_to_string(format!("/proc/{}/io", host.pid())).expect("it runs");
        io.lines().find_map(|line| line.strip_prefix("rchar: ")?.parse().ok()).expect("a number")
    };
    let before = read();
    host.ok(&["restart", "web"]);
    let after = read();
    for pid in orphans() {
        kill(pid, "KILL");
    }
    // Their environments are 67 MB.
    assert!(after - before < 8 << 20, "{} bytes were read", after - before);
}

#[test]
fn who_only_says_to_be_of_an_agent_is_not() {
    let mut host = Host::new();
    host.agent("web", "exec sleep 1000", &[]);
    host.start();
    host.wait_running("web");
    // Somebody's orphan, with what an agent's processes have in their environment.
    let pid_file = host.path("stranger");
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", "setsid sleep 1001 >/dev/null 2>&1 & echo $! >$0"]).arg(&pid_file);
    shell.env("BOOTAGENT_NAME", "web").env("BOOTAGENT_STATE_ID", &*host.mark());
    assert_eq!(run(&mut shell).expect("it ends").code, 0);
    let stranger: i32 = host.read("stranger").trim().parse().expect("a process id");
    host.wait("it to be sleep", || proc_status(stranger, "Name") == "sleep");
    host.ok(&["restart", "web"]);
    host.ok(&["stop", "web"]);
    assert!(alive(stranger), "it was taken for a part of the agent");
    kill(stranger, "KILL");
}

/// What turns a terminal's lines around, hides in them or commands it.
const TRICKS: [char; 12] = [
    '\u{1b}',
    '\u{9b}',
    '\u{202e}',
    '\u{2066}',
    '\u{200b}',
    '\u{200f}',
    '\u{feff}',
    '\u{e0041}',
    '\u{ad}',
    '\u{2028}',
    '\u{fe0f}',
    '\u{61c}',
];

#[test]
fn nobodys_words_play_tricks_on_whoever_reads_them() {
    let server = Server::new();
    let mut host = Host::with(&server);
    let tricks: String = TRICKS.iter().collect();
    let script = format!("printf '%s' 'o{tricks}dd'; exit 3");
    host.agent("web", &script, &[]);
    let checked = format!("[\"/bin/sh\", \"-c\", \"echo 'o{}dd'; exit 1\"]", tricks.replace('\u{1b}', "\\u001b"));
    let check = format!("{{ \"exec\": {checked}, \"interval\": 0.1, \"timeout\": 5, \"retries\": 1 }}");
    host.agent("sick", "exec sleep 1000", &[("check", &check)]);
    // Names of files, and what stands in them.
    host.write(
        &format!("agents.d/o{tricks}dd.json"),
        &format!("{{ \"name\": \"o{}dd\" }}", &tricks['\u{1b}'.len_utf8()..]),
    );
    host.start();
    host.wait_seen("web", "to be given up", |agent| agent.status == "fatal");
    // What a server says, and what it names.
    let odd = format!("o{}dd", &tricks['\u{1b}'.len_utf8()..]);
    let job = Job::new("j1", &odd, "web").set("url", &format!("\"{odd}\""));
    host.does(&server, &job, 2);
    let tar =
        tar_of(&host, "other", "1.0", &[(&format!("{odd}/x"), ""), ("bootagent.json", &format!("{{ \"{odd}\": 1 }}"))]);
    let url = server.serve(&tar.file, &tar.bytes);
    host.does(&server, &Job::new("j2", "install", "other").package(&url, &tar), 1);
    host.wait("the events", || {
        server.statuses().iter().any(|status| items(status, "events").iter().any(|event| text(event, "name") == "sick"))
    });
    let mut texts = vec![host.read("log/bootagent.log"), host.read("daemon.out")];
    for args in [&["status"][..], &["status", "web"], &["status", "--json"], &["jobs"], &["jobs", "--json"], &["check"]]
    {
        let ran = host.cli(args);
        texts.push(format!("{args:?}: {}{}", ran.out, ran.err));
    }
    texts.extend(server.requests().into_iter().map(|request| request.body));
    for text in &texts {
        let found = text.chars().find(|c| TRICKS.contains(c) || c.is_control() && *c != '\n');
        assert_eq!(found.map(char::escape_unicode).map(|c| c.to_string()), None, "{text}");
        assert!(!text.contains("\\u001b"), "{text}");
    }
    let heard = |part: &str| texts.iter().any(|text| text.contains(part));
    assert!(heard("agents.d/o dd.json: name: want") && heard(" s: o dd"), "{}", texts[0]);
}
