//! Definitions that change, that break, and that are many.

mod util;

use std::fs;
use std::os::unix::fs::symlink;

use util::*;

#[test]
fn a_reload_touches_what_changed_only() {
    let mut host = Host::new();
    host.agent("same", "exec sleep 1000", &[]);
    host.agent("changed", "exec sleep 1000", &[]);
    host.agent("removed", "exec sleep 1000", &[]);
    host.agent("broken", "exec sleep 1000", &[]);
    host.write("linked.json", &definition("linked", "1.0", "exec sleep 1000", &[]));
    symlink(host.path("linked.json"), host.path("agents.d/linked.json")).unwrap();
    host.start();
    let [same, changed, removed, broken, linked] =
        ["same", "changed", "removed", "broken", "linked"].map(|name| host.wait_running(name).pid);

    host.agent("added", "exec sleep 1000", &[]);
    host.write("agents.d/changed.json", &definition("changed", "2.0", "exec sleep 2000", &[]));
    host.write("agents.d/broken.json", "{ \"name\": \"broken\", ");
    fs::remove_file(host.path("agents.d/removed.json")).unwrap();
    fs::remove_file(host.path("linked.json")).unwrap();
    host.signal("HUP");
    host.wait_running("added");
    host.wait_seen("changed", "to run anew", |agent| agent.runs() && agent.version == "2.0" && agent.pid != changed);
    host.wait("the removed one to end", || host.seen("removed").is_none() && !alive(removed));
    assert_eq!(host.seen("same").map(|agent| agent.pid), Some(same));
    assert_eq!(host.seen("broken").map(|agent| agent.pid), Some(broken), "a broken file ended its agent");
    assert_eq!(host.seen("linked").map(|agent| agent.pid), Some(linked), "a link to nothing ended its agent");
    for file in ["broken.json", "linked.json"] {
        assert!(host.logs().contains(file), "nothing is said of {file}\n{}", host.logs());
    }

    // Without the directory nothing is known to have changed.
    fs::rename(host.path("agents.d"), host.path("elsewhere")).unwrap();
    host.signal("HUP");
    host.wait("that to be said", || host.logs().contains("there is no such directory, nothing is changed"));
    assert!(alive(same) && alive(broken));
    assert_eq!(host.status().map(|status| items(&status, "agents").len()), Some(5));
}

#[test]
fn a_bad_file_costs_only_its_own_agent() {
    let mut host = Host::new();
    host.agent("good", "exec sleep 1000", &[]);
    host.write("agents.d/bad.json", "{ \"name\": \"bad\", \"exec\": \"text\" }");
    host.write("agents.d/twice.json", &definition("good", "9.9", "exec sleep 2000", &[]));
    host.start();
    assert_eq!(host.wait_running("good").version, "1.0", "the later of two files with one name counts");
    assert_eq!(host.status().map(|status| items(&status, "agents").len()), Some(1));
}

/// Copies of good definitions are made after the agents have been started, and count when the files have become bad.
#[test]
fn many_definitions_are_kept_as_they_were_when_they_were_good() {
    let mut host = Host::new();
    let names: Vec<String> = (0..40).map(|index| format!("a{index}")).collect();
    for name in &names {
        host.agent(name, "exec sleep 1000", &[("autostart", if *name == "a7" { "true" } else { "false" })]);
    }
    host.start();
    host.wait_running("a7");
    host.wait("a copy of each", || {
        names.iter().all(|name| {
            let copy = host.path(&format!("state/good/agents.d/{name}.json"));
            std::fs::read_to_string(copy).is_ok_and(|text| text == host.read(&format!("agents.d/{name}.json")))
        })
    });
    assert_eq!(host.end("TERM").code(), Some(0));
    for name in &names {
        host.write(&format!("agents.d/{name}.json"), "{");
    }
    host.start();
    host.wait_running("a7");
    assert!(host.seen("a39").is_some_and(|agent| !agent.runs()));
}
