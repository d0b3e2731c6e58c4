//! What keeps jobs from hosts for a time: maintenance windows of groups, and pins.

mod util;

use serde_json::json;
use util::{Host, Server};

/// A window of UTC that opens and closes so many minutes from now.
fn window(from: i64, to: i64) -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock").as_secs();
    let minute = i64::try_from(now).expect("a small number") / 60;
    let clock = |minutes: i64| {
        let of_day = (minute + minutes).rem_euclid(24 * 60);
        format!("{:02}:{:02}", of_day / 60, of_day % 60)
    };
    format!("window=daily {}-{}", clock(from), clock(to))
}

#[test]
fn jobs_wait_for_the_window_of_the_group_and_end_with_it() {
    let server = Server::start(&[]);
    let key = server.key(&["--group", "web", "--auto-accept"]);
    let mut host = Host::new("web-01", "sn-1", Some(&key));
    host.report(&server);
    server.run(&["group", "set", "web", &window(120, 180)]);
    server.run(&["job", "restart", "web", "--select", "group=web"]);
    assert!(host.jobs(&server).is_empty(), "the window is shut");
    let waiting = server.json(&["job", "list"]).remove(0);
    assert_eq!(waiting["state"], "waiting");
    assert!(
        waiting["reason"].as_str().expect("a reason").contains("maintenance window of group web: opens"),
        "{waiting}"
    );
    server.run(&["job", "reload", "web", "--select", "group=web", "--now"]);
    let urgent = host.jobs(&server);
    assert_eq!((urgent.len(), &urgent[0]["action"]), (1, &json!("reload")));
    host.result(&server, urgent[0]["id"].as_str().expect("an id"), 0, "success");
    server.run(&["group", "set", "web", &window(-60, 60)]);
    let job = host.jobs(&server).remove(0);
    let expires = job["expires"].as_i64().expect("seconds");
    assert!((3500..=3660).contains(&expires), "{expires}");
    server.run(&["group", "set", "web", "window=always"]);
    host.result(&server, job["id"].as_str().expect("an id"), 9, "cancelled");
    assert!(host.jobs(&server).is_empty(), "cancelled by somebody, before the window closed");
}

#[test]
fn a_window_or_a_zone_that_cannot_be_read_is_named() {
    let server = Server::start(&[]);
    server.run(&["group", "new", "web"]);
    for (setting, part) in [("window=sometimes", "want days and times"), ("zone=Middle/Earth", "want a name such as")] {
        let (code, _, error) = server.try_run(&["group", "set", "web", setting]);
        assert!(code == 1 && error.contains(part), "{setting}: {error}");
    }
    server.run(&["group", "set", "web", "zone=Europe/Amsterdam", "window=mon-fri 22:00-04:00"]);
    let group = server.json(&["group", "list"]).remove(0);
    assert_eq!((&group["zone"], &group["window"]), (&json!("Europe/Amsterdam"), &json!("mon-fri 22:00-04:00")));
}

#[test]
fn a_pinned_host_keeps_its_versions() {
    let server = Server::start(&[]);
    let key = server.key(&["--group", "web", "--auto-accept"]);
    let mut host = Host::new("web-01", "sn-1", Some(&key));
    host.report(&server);
    server.release("web", "1.0");
    server.run(&["host", "pin", "web-01", "--reason", "a customer's demo"]);
    assert_eq!(server.host("sn-1")["reason"], "pinned: a customer's demo");
    let (code, _, error) = server.try_run(&["job", "install", "web", "--select", "group=web"]);
    assert!(code == 1 && error.contains("1 pinned"), "{error}");
    server.run(&["job", "restart", "web", "--select", "group=web"]);
    assert_eq!(host.jobs(&server).len(), 1, "it can still be restarted");
    Host::new("web-02", "sn-2", Some(&key)).report(&server);
    server.run(&["host", "replace", "sn-1", "sn-2"]);
    assert_eq!(server.host("sn-2")["pinned"], "a customer's demo", "the pin moves");
    server.run(&["host", "unpin", "web-02"]);
    server.run(&["job", "install", "web", "--select", "sn=sn-2"]);
}
