//! Records with contents that no daemon wrote, as a failing disk may produce: nothing outside the daemon's own directories
//! is touched because of them, and nothing waits for ever.

mod util;

use std::fs;

use util::*;

/// Changes a record while no daemon runs.
fn change(host: &Host, record: &str, from: &str, to: &str) {
    let text = host.read(record);
    assert!(text.contains(from), "{record}: {text}");
    fs::write(host.path(record), text.replace(from, to)).expect("the test's own file");
}

#[test]
fn a_name_that_leads_elsewhere_removes_nothing() {
    let server = Server::new();
    let mut host = Host::with(&server);
    host.start();
    let package = tarball(&host, "packed", "1.0", &staying("here"), &[]);
    let url = server.serve(&package.file, &package.bytes);
    host.does(&server, &Job::new("i1", "install", "packed").package(&url, &package), 0);
    host.wait_running("packed");
    host.kill9();
    for victim in ["elsewhere", "state/elsewhere"] {
        fs::create_dir_all(host.path(victim)).unwrap();
        fs::write(host.path(victim).join("file"), "precious").unwrap();
    }
    change(&host, "state/agents/packed.json", "\"package\":\"1.0\"", "\"package\":\"../../../elsewhere\"");
    host.start();
    // The record is damaged, so the agent is unknown; its leftovers wait for a command.
    assert!(host.logs().contains("packed.json\": package.package: not a plain name"), "{}", host.logs());
    server.give(&Job::new("u1", "uninstall", "packed").text());
    host.result(&server, "u1");
    host.does(&server, &Job::new("i2", "install", "packed").package(&url, &package), 0);
    host.wait_running("packed");
    host.kill9();
    let job = |id: &str| format!("state/jobs/{id}.json");
    change(&host, &job("i2"), "\"name\":\"packed\"", "\"name\":\"../elsewhere\"");
    let phase = ["done", "taken"].into_iter().find(|phase| host.read(&job("i2")).contains(&format!("\"{phase}\"")));
    change(&host, &job("i2"), &format!("\"phase\":\"{}\"", phase.expect("it has ended")), "\"phase\":\"installing\"");
    host.start();
    assert!(host.logs().contains("i2.json\": name: not an agent's name"), "{}", host.logs());
    host.wait_running("packed");
    for victim in ["elsewhere/file", "state/elsewhere/file"] {
        assert_eq!(host.read(victim), "precious", "{victim}");
    }
}

#[test]
fn a_restart_in_centuries_comes_sooner() {
    let mut host = Host::new();
    host.set("restartsecs", "1").set("retries", "1000");
    let ready = host.path("ready");
    host.agent("web", &format!("[ -e {} ] && exec sleep 1000; exit 1", ready.display()), &[]);
    host.start();
    host.wait_seen("web", "to wait", |agent| agent.failures > 0 && !agent.runs());
    host.kill9();
    let text = host.read("run/agents/web.json");
    let (_, rest) = text.split_once("\"restart_at\":").expect("it waits");
    let at: String = rest.chars().take_while(char::is_ascii_digit).collect();
    change(&host, "run/agents/web.json", &format!("\"restart_at\":{at}"), "\"restart_at\":9223372036854775807");
    fs::write(ready, "").unwrap();
    host.start();
    host.wait_running("web");
}
