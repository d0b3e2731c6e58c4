//! Well-known programs that put themselves in the background, as agents of type forking, with and without a pid file: found,
//! reported, restarted, taken over by the next daemon, and stopped with all their processes.

mod util;

use std::collections::BTreeSet;
use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::path::Path;
use std::sync::atomic::{AtomicU16, Ordering};

use bootagent::host::cgroup::group_name;

use util::*;

/// One such program, its arguments, and whether it writes a pid file.
struct Kind {
    program: &'static str,
    exec: String,
    pidfile: Option<&'static str>,
    /// As many processes as it has at least.
    processes: usize,
}

/// A port nobody listens on at the moment; zabbix_agentd takes none above 32767.
fn port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 20_000 + (std::process::id() % 10_000) as u16;
    let mut ports = (0..2000).map(|_| first + NEXT.fetch_add(1, Ordering::SeqCst));
    let free =
        |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok() && UdpSocket::bind(("127.0.0.1", *port)).is_ok();
    ports.find(free).expect("a free port")
}

fn snmpd(host: &Host) -> Kind {
    let dir = host.dir.display();
    host.write("snmpd.conf", "rocommunity public 127.0.0.1\n");
    let exec = format!(
        "\"-C\", \"-c\", \"{dir}/snmpd.conf\", \"-Lf\", \"{dir}/snmpd.log\", \"-p\", \"{dir}/snmpd.pid\", \"-I\", \"-smux\", \
         \"udp:127.0.0.1:{}\"",
        port()
    );
    Kind { program: "snmpd", exec, pidfile: Some("snmpd.pid"), processes: 1 }
}

fn zabbix(host: &Host) -> Kind {
    let dir = host.dir.display();
    let conf = format!(
        "PidFile={dir}/zabbix.pid\nLogFile={dir}/zabbix.log\nServer=127.0.0.1\nListenIP=127.0.0.1\nListenPort={}\n\
         StartAgents=3\nAllowRoot=1\n",
        port()
    );
    host.write("zabbix.conf", &conf);
    let exec = format!("\"-c\", \"{dir}/zabbix.conf\"");
    Kind { program: "zabbix_agentd", exec, pidfile: Some("zabbix.pid"), processes: 5 }
}

fn collectd(host: &Host) -> Kind {
    let dir = host.dir.display();
    let conf = format!(
        "BaseDir \"{dir}\"\nPIDFile \"{dir}/collectd.pid\"\nHostname \"test\"\nFQDNLookup false\nInterval 1\n\
         LoadPlugin logfile\n<Plugin logfile>\nFile \"{dir}/collectd.log\"\n</Plugin>\n"
    );
    host.write("collectd.conf", &conf);
    let exec = format!("\"-C\", \"{dir}/collectd.conf\"");
    Kind { program: "collectd", exec, pidfile: Some("collectd.pid"), processes: 1 }
}

/// The processes of a program in this host's control groups, or with its directory in their environment: some write over
/// that.
fn running(host: &Host, program: &str) -> BTreeSet<i32> {
    let group = group_name(&host.path("state").display().to_string());
    let of_host = host.agents_processes();
    let mut found = BTreeSet::new();
    for path in entries(Path::new("/proc")) {
        let Some(pid) = path.file_name().and_then(|name| name.to_str()?.parse::<i32>().ok()) else { continue };
        let image = fs::read_link(path.join("exe")).unwrap_or_default();
        let grouped = || fs::read_to_string(path.join("cgroup")).is_ok_and(|text| text.contains(&group));
        if image.file_name().is_some_and(|name| name == program) && alive(pid) && (of_host.contains(&pid) || grouped())
        {
            found.insert(pid);
        }
    }
    found
}

/// Ends what the host cannot find at its own end.
struct Leftovers(String);

impl Drop for Leftovers {
    fn drop(&mut self) {
        for path in entries(Path::new("/proc")) {
            let Some(pid) = path.file_name().and_then(|name| name.to_str()?.parse::<i32>().ok()) else { continue };
            if pid > 1 && fs::read_to_string(path.join("cgroup")).is_ok_and(|text| text.contains(&self.0)) {
                kill(pid, "KILL");
            }
        }
    }
}

/// The main process that was found last, the agent being in the background.
fn main_process(host: &Host) -> i32 {
    let log = host.read("log/bootagent.log");
    let started = log.rsplit("started, process ").next().unwrap_or_default();
    started.lines().next().and_then(|pid| pid.parse().ok()).unwrap_or(0)
}

fn lives_with(kind: fn(&Host) -> Kind, with_pidfile: bool) {
    let mut host = Host::new();
    let Kind { program, exec, pidfile, processes } = kind(&host);
    let _leftovers = Leftovers(group_name(&host.path("state").display().to_string()));
    if lacks(program) {
        return;
    }
    let path = find_program(program).expect("looked up above").display().to_string();
    let exec = format!("[\"{path}\", {exec}]");
    let file = pidfile.filter(|_| with_pidfile).map(|file| host.path(file).display().to_string());
    let file = file.map_or("null".to_string(), |file| format!("\"{file}\""));
    let keys = [("type", "\"forking\""), ("exec", &*exec), ("pidfile", &*file), ("stopsecs", "2")];
    host.set("windowsecs", "600").set("retries", "10").set("restartsecs", "0.5");
    host.agent("real", "", &keys);
    host.start();
    let whole = |host: &Host, failures: i64, other: i32| {
        let main = host.wait_seen("real", "to run by its main process", |agent| {
            let theirs = running(host, program);
            let found = agent.pid != other && agent.pid == main_process(host);
            agent.runs() && found && theirs.len() >= processes && theirs.contains(&agent.pid)
        });
        if let Some(file) = pidfile.filter(|_| with_pidfile) {
            let named = || host.read(file).trim() == main.pid.to_string();
            host.wait("the pid file to name the main process", named);
        }
        assert_eq!(main.failures, failures, "{main:?}\n{}", host.logs());
        main.pid
    };
    let first = whole(&host, 0, 0);
    let before = running(&host, program);
    assert!(stays(|| running(&host, program) == before), "{}", host.logs());

    // The main process dies: what it leaves is ended, and it is started again.
    kill(first, "KILL");
    let second = whole(&host, 1, first);
    assert!(running(&host, program).is_disjoint(&before), "some of {before:?} are left\n{}", host.logs());

    // The daemon dies: the next one takes it over, and notices its end all the same.
    let before = running(&host, program);
    host.kill9();
    assert_eq!(running(&host, program), before);
    host.start();
    assert_eq!(whole(&host, 1, 0), second);
    assert_eq!(running(&host, program), before, "{}", host.logs());
    kill(second, "KILL");
    let third = whole(&host, 2, second);
    host.ok(&["reexec"]);
    assert_eq!(whole(&host, 2, 0), third);
    host.ok(&["restart", "real"]);
    let fourth = whole(&host, 0, third);
    host.kill9();
    host.start();
    assert_eq!(whole(&host, 0, 0), fourth);
    host.ok(&["stop", "real"]);
    assert_eq!(running(&host, program), BTreeSet::new(), "stopped, and not all are gone\n{}", host.logs());
    assert_eq!(host.end("TERM").code(), Some(0));
    assert_eq!(host.processes(), [], "{}", host.logs());
}

#[test]
fn snmpd_with_a_pid_file() {
    lives_with(snmpd, true);
}

#[test]
fn snmpd_without_one() {
    lives_with(snmpd, false);
}

#[test]
fn zabbix_agentd_with_a_pid_file() {
    lives_with(zabbix, true);
}

#[test]
fn zabbix_agentd_without_one() {
    lives_with(zabbix, false);
}

#[test]
fn collectd_with_a_pid_file() {
    lives_with(collectd, true);
}

#[test]
fn collectd_without_one() {
    lives_with(collectd, false);
}

/// A forking agent written in Perl: `script` has `$pf`, the path of its pid file, and `&wr` to write it.
fn perl(host: &Host, name: &str, script: &str, keys: &[(&str, &str)]) -> String {
    let file = host.path(&format!("{name}.pid")).display().to_string();
    let begin = format!("use POSIX; $pf='{file}'; sub wr {{ open F,'>',\"$pf.n\"; print F \"$$\\n@_\"; close F; rename \"$pf.n\",$pf }} ");
    let exec = format!("[\"/usr/bin/perl\", \"-e\", {}]", miniserde::json::to_string(&format!("{begin}{script}")));
    let mut all = vec![("type", "\"forking\""), ("exec", &*exec)];
    all.extend(keys);
    host.agent(name, "", &all);
    file
}

const DAEMON: &str = "fork and exit 0; setsid; fork and exit 0; ";

#[test]
fn a_pid_file_that_was_left_or_says_more_is_no_trouble() {
    let mut host = Host::new();
    host.set("restartsecs", "0.3");
    let file = host.path("f.pid").display().to_string();
    let script = format!(
        "if (-e $pf) {{ print 'it is there'; exit 1 }} {DAEMON} wr '/var/lib/data', \"\\n\", 5432; sleep 1 while 1"
    );
    perl(&host, "f", &script, &[("pidfile", &format!("\"{file}\""))]);
    host.start();
    let first = host.wait_seen("f", "to run", |agent| agent.runs() && agent.pid > 0).pid;
    kill(first, "KILL");
    let second = host.wait_seen("f", "to run again", |agent| agent.runs() && agent.pid > 0 && agent.pid != first);
    assert_eq!(second.failures, 1, "{second:?}\n{}", host.logs());
}

#[test]
fn a_main_process_that_hands_over_is_followed() {
    // The new one writes the pid file before the end of the old one, as nginx does, or after it, as gunicorn does.
    for (name, late) in [("early", ""), ("late", "unlink $pf; sleep 2; ")] {
        let mut host = Host::new();
        let file = host.path(&format!("{name}.pid")).display().to_string();
        let successor = format!("$SIG{{USR2}}='IGNORE'; {late} wr");
        let script = format!(
            "{DAEMON} $SIG{{USR2}}=sub{{ if (!fork) {{ {successor} }} else {{ sleep 1; exit 0 }} }}; wr; sleep 1 while 1"
        );
        perl(&host, name, &script, &[("pidfile", &format!("\"{file}\""))]);
        host.start();
        let first = host.wait_seen(name, "to run", |agent| agent.runs() && agent.pid > 0).pid;
        kill(first, "USR2");
        let next = host.wait_seen(name, "to be another process", |agent| agent.pid > 0 && agent.pid != first);
        assert!(next.runs() && next.failures == 0, "{next:?}\n{}", host.logs());
        assert!(!host.read("log/bootagent.log").contains("after 1 s"), "it has not ended\n{}", host.logs());
    }
}

#[test]
fn while_several_processes_could_be_the_main_one_none_is_reported() {
    let mut host = Host::new();
    let script = "for (1..2) { if (!fork) { setsid; sleep 1 while 1 } } exit 0";
    perl(&host, "two", script, &[]);
    host.start();
    let agent = host.wait_seen("two", "to run without a main process", |agent| {
        agent.runs() && agent.detail.contains("several of its processes")
    });
    assert_eq!(agent.pid, 0, "{agent:?}");
    host.ok(&["stop", "two"]);
}
