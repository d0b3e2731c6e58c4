//! Events from outside: what happened to agents, jobs and records between two reports is in the next report, once. When
//! there are too many events, the oldest are left out and counted.

mod util;

use std::fs;

use util::*;

/// All events reported so far, as `NAME: MESSAGE`.
fn events(server: &Server) -> Vec<String> {
    let told = |status: &miniserde::json::Value| {
        let event = |event| format!("{}: {}", text(event, "name"), text(event, "message"));
        items(status, "events").iter().map(event).collect::<Vec<_>>()
    };
    server.statuses().iter().flat_map(told).collect()
}

/// Waits until an event of this agent with these words is reported.
fn is_told(host: &Host, server: &Server, name: &str, words: &str) {
    let has = |event: &String| event.starts_with(&format!("{name}: ")) && event.contains(words);
    let told = patiently(|| events(server).iter().any(has).then_some(()));
    assert!(told.is_some(), "{name}: {words}: {:#?}\n{}", events(server), host.logs());
}

#[test]
fn each_kind_of_event_is_told_once() {
    let server = Server::new();
    let mut host = Host::with(&server);
    host.set("restartsecs", "0.1").set("windowsecs", "60");
    host.agent("ends", "exit 3", &[("autorestart", "\"never\"")]);
    host.agent("weak", "exit 4", &[("retries", "1")]);
    host.agent("once", "exit 4", &[("retries", "0")]);
    host.agent("web", "exec sleep 1000", &[]);
    // A shell that grows.
    let grows = "x=x; while :; do x=$x$x; [ ${#x} -lt 60000000 ] || exec sleep 1000; done";
    host.agent("big", grows, &[("limits", "{ \"memory\": \"20M\" }"), ("autorestart", "\"never\"")]);
    host.start();
    is_told(&host, &server, "ends", "status 3");
    is_told(&host, &server, "weak", "given up after 2 early ends in a row");
    is_told(&host, &server, "once", "given up after 1 early end in a row");
    is_told(&host, &server, "big", "memory");
    let first = host.wait_running("web").pid;
    kill(first, "KILL");
    is_told(&host, &server, "web", "SIGKILL");
    // What was undone.
    let package = |version: &str, script: &str| {
        let package = tarball(&host, "app", version, script, &[]);
        let url = server.serve(&package.file, &package.bytes);
        // The second has its time to end.
        let startsecs = if version == "1.0" { "0.2" } else { "1" };
        Job::new(&format!("v{version}"), "install", "app").package(&url, &package).set("startsecs", startsecs)
    };
    host.does(&server, &package("1.0", &staying("up")), 0);
    host.does(&server, &package("2.0", "#!/bin/sh\nexit 9\n"), 8);
    is_told(&host, &server, "app", "rolled back from 2.0 to 1.0");
    // The next daemon finds agents that run, and a record that cannot be read.
    host.wait_seen("web", "to run again", |seen| seen.runs() && seen.pid != first);
    host.kill9();
    fs::write(host.path("state/agents/ends.json"), "{ \"name\": \"en").unwrap();
    host.start();
    is_told(&host, &server, "web", "taken over");
    let aside = |event: &String| event.contains("ends.json") && event.contains("set aside");
    assert!(patiently(|| events(&server).iter().any(aside).then_some(())).is_some(), "{:#?}", events(&server));
    // A definition that is none.
    host.write("agents.d/bad.json", "{ \"name\": 7 }");
    host.signal("HUP");
    is_told(&host, &server, "bootagent", "bad.json");

    let count = server.statuses().len();
    host.wait("more reports", || server.statuses().len() > count + 3);
    let all = events(&server);
    let times = |name: &str, words: &str| {
        all.iter().filter(|event| event.starts_with(&format!("{name}: ")) && event.contains(words)).count()
    };
    for (name, words, want) in [
        ("ends", "status 3", 1),
        ("weak", "status 4", 2),
        ("weak", "given up", 1),
        ("web", "SIGKILL", 1),
        ("web", "taken over", 1),
        ("app", "rolled back", 1),
    ] {
        assert_eq!(times(name, words), want, "{name}: {words}: {all:#?}");
    }
    assert_eq!(all.iter().filter(|event| aside(event)).count(), 1, "{all:#?}");
    let bad: Vec<&String> = all.iter().filter(|event| event.contains("bad.json")).collect();
    assert!(bad.iter().enumerate().all(|(n, event)| !bad[..n].contains(event)), "{bad:#?}");
}

#[test]
fn of_too_many_events_the_oldest_are_left_out_and_counted() {
    let server = Server::new();
    let mut host = Host::with(&server);
    host.set("restartsecs", "0.01").set("retries", "10000").set("step", "0.2");
    host.agent(
        "flaps",
        "echo x >>$COUNT; exit 5",
        &[("envs", &format!("{{ \"COUNT\": \"{}\" }}", host.path("count").display()))],
    );
    server.mode(Mode::Close);
    host.start();
    host.wait("the agent to have ended 200 times", || host.lines("count") > 200);
    server.forget();
    server.mode(Mode::Good);
    host.wait("a report", || server.statuses().len() > 1);
    let statuses = server.statuses();
    // Events of a report without an answer are all sent again.
    let many = statuses.iter().max_by_key(|status| items(status, "events").len()).expect("there is one");
    let told: Vec<&str> = items(many, "events").iter().map(|event| text(event, "message")).collect();
    assert!((129..=130).contains(&told.len()), "{}", told.len());
    let dropped: usize = told[0].split(' ').next().and_then(|word| word.parse().ok()).unwrap_or(0);
    assert!(told[0].ends_with(" earlier events dropped") && dropped > 60, "{}", told[0]);
    assert!(told[1..].iter().all(|event| event.contains("status 5")), "{told:?}");
    let count = server.statuses().len();
    host.wait("more reports", || server.statuses().len() > count + 2);
    let drops = events(&server).iter().filter(|event| event.contains("events dropped")).count();
    assert!(drops <= 2, "told {drops} times");
    assert!(host.status().is_some());
}
