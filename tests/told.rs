//! What a person is told: how much memory an agent has, and what becomes of one that ends at once, as it has done its work
//! or went into the background.

mod util;

use util::*;

#[test]
fn an_agent_that_runs_once_has_run() {
    let mut host = Host::new();
    let keys = [("autorestart", "\"never\""), ("autostart", "false"), ("startsecs", "30")];
    host.agent("once", "echo done", &keys);
    host.agent("fails", "echo done; exit 3", &keys);
    host.agent("leaves", "setsid sleep 1000 & exit 0", &keys);
    host.start();
    let said = host.ok(&["start", "once"]);
    assert!(said.contains("agent \"once\" has run: exited with status 0"), "{said}");
    assert!(host.ok(&["restart", "once"]).contains("has run"));
    let ran = host.cli(&["start", "fails"]);
    assert!(ran.code == 1 && ran.err.contains("exited with status 3"), "{ran:?}");
    assert!(host.ok(&["start", "leaves"]).contains("has run"));
    assert_eq!(host.agents_processes(), []);
}

#[test]
fn report_says_what_the_server_answers() {
    let server = Server::new();
    let mut host = Host::with(&server);
    host.set("step", "1000");
    host.start();
    let address = server.address.clone();
    assert_eq!(host.ok(&["report"]), format!("reported to http://{address}\n"));
    server.mode(Mode::reply("200 OK", "", "{\"errcode\":7,\"message\":\"the disk is full\"}"));
    let said = host.ok(&["report"]);
    assert_eq!(said, format!("reported to http://{address}, which answers errcode 7: its log says why\n"));
    assert!(host.read("log/bootagent.log").contains("answers errcode 7"), "{}", host.logs());
    server.mode(Mode::reply("500 Internal Server Error", "", "full"));
    let ran = host.cli(&["report"]);
    assert!(ran.code == 1 && ran.err.contains(&address) && ran.err.contains("HTTP status 500"), "{ran:?}");
    server.mode(Mode::Good);
    assert_eq!(host.ok(&["report"]), format!("reported to http://{address}\n"));
}

#[test]
fn a_simple_agent_that_goes_into_the_background_is_told_its_type() {
    let mut host = Host::new();
    host.agent("forks", "sleep 1000 & exit 0", &[]);
    host.agent("ends", "exit 0", &[]);
    host.agent("stops", "sleep 1000 & exec sleep 1001", &[]);
    host.start();
    let hint = "needs \"type\": \"forking\"";
    host.wait_seen("forks", "to be told", |agent| agent.failures > 0 && agent.detail.contains(hint));
    host.wait_seen("ends", "to end", |agent| agent.failures > 0 && !agent.detail.contains(hint));
    host.ok(&["stop", "stops"]);
    assert!(host.seen("stops").is_some_and(|agent| !agent.detail.contains(hint)));
}

#[test]
fn memory_is_told_alike_with_and_without_a_control_group() {
    if lacks("python3") {
        return;
    }
    let mut host = Host::new();
    let file = host.path("large").display().to_string();
    // Its page cache is charged to its group.
    let read = format!(
        "head -c 64M /dev/zero >{file}.$BOOTAGENT_NAME; cat {file}.$BOOTAGENT_NAME >/dev/null; exec sleep 1000"
    );
    host.agent("with", &read, &[("limits", "{ \"memory\": \"200M\" }")]);
    host.agent("without", &read, &[]);
    let program = host.path("headless.py").display().to_string();
    host.write(
        "headless.py",
        "import ctypes, threading, time\nkept = bytearray(32 << 20)\n\
         threading.Thread(target=time.sleep, args=(1000,)).start()\nctypes.CDLL(None).pthread_exit(None)\n",
    );
    host.agent("headless", &format!("exec python3 {program}"), &[]);
    host.start();
    let memory = |host: &Host, name: &str| {
        let status = host.status().expect("it answers");
        let agent = items(&status, "agents").iter().find(|agent| text(agent, "name") == name).expect("it is known");
        number(agent, "memory")
    };
    for name in ["with", "without"] {
        let pid = host.wait_running(name).pid;
        host.wait("it to have read", || proc_status(pid, "Name") == "sleep");
        let got = memory(&host, name);
        assert!(got > 0.0 && got < f64::from(16 << 20), "{name}: {got}");
    }
    let pid = host.wait_running("headless").pid;
    host.wait("its main thread to end", || proc_status(pid, "State").starts_with('Z'));
    let got = memory(&host, "headless");
    assert!(got > f64::from(32 << 20), "headless: {got}");
    host.ok(&["stop", "headless"]);
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "it is left");
}

#[test]
fn another_check_or_size_of_the_output_restarts_nobody() {
    let mut host = Host::new();
    host.agent("web", "exec sleep 1000", &[]);
    host.start();
    let pid = host.wait_running("web").pid;
    let checked = host.path("checked").display().to_string();
    let check = |retries: u32, then: &str| {
        format!(
            "{{ \"exec\": [\"/bin/sh\", \"-c\", \"echo >>{checked}; {then}\"], \"interval\": 0.1, \"retries\": {retries} }}"
        )
    };
    host.agent("web", "exec sleep 1000", &[("check", &check(3, ":")), ("log_size", "\"2M\"")]);
    host.signal("HUP");
    host.wait("the new check", || host.lines("checked") > 1);
    assert_eq!(host.wait_running("web").pid, pid);
    host.kill9();
    host.start();
    assert_eq!(host.wait_running("web").pid, pid, "{}", host.logs());
    host.agent("web", "exec sleep 1000", &[("check", &check(1, "exit 7"))]);
    host.signal("HUP");
    host.wait_seen("web", "to be ended by that check", |agent| agent.detail.contains("status 7"));
    host.agent("web", "exec sleep 1001", &[]);
    host.signal("HUP");
    host.wait_seen("web", "to be restarted", |agent| agent.runs() && agent.pid != pid);
}
