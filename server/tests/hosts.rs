//! Which hosts are taken, and as whom: each row of the table in the contract.

mod util;

use serde_json::json;
use util::{wait_for, Host, Server};

#[test]
fn a_new_host_waits_and_gets_jobs_once_it_is_accepted() {
    let server = Server::start(&[]);
    let key = server.key(&["--group", "web"]);
    let mut host = Host::new("web-01", "sn-1", Some(&key));
    let first = host.report(&server);
    assert!(first.signed && first.body["errcode"] == 0, "{}", first.body);
    let seen = server.host("sn-1");
    assert_eq!(
        (&seen["state"], &seen["group"], &seen["freshness"]),
        (&json!("pending"), &json!("web"), &json!("on-time"))
    );
    let reason = seen["reason"].as_str().unwrap_or_default();
    assert!(reason.ends_with(": bootserver host accept sn-1, or host reject sn-1"), "{reason}");
    let token = server.token("viewer");
    assert!(server.page(&token, "/pending").contains("until then: accept it, or reject it"));
    assert!(server.page(&token, "/hosts/sn-1").contains("until then: accept it, or reject it"));
    assert!(server.page(&token, "/pending.csv").contains("until then: accept it, or reject it"));
    let (code, _, error) = server.try_run(&["job", "start", "web", "--select", "host=web-01"]);
    assert_eq!(code, 1);
    assert!(error.contains("1 pending, not accepted"), "{error}");
    server.run(&["host", "accept", "web-01"]);
    server.run(&["job", "start", "web", "--select", "host=web-01"]);
    assert_eq!(host.jobs(&server)[0]["action"], "start");
}

#[test]
fn a_key_with_auto_accept_accepts() {
    let server = Server::start(&[]);
    let key = server.key(&["--group", "web", "--auto-accept"]);
    Host::new("web-01", "sn-1", Some(&key)).report(&server);
    assert_eq!(server.host("sn-1")["state"], "accepted");
}

#[test]
fn unsigned_and_wrongly_signed_requests_are_refused() {
    let server = Server::start(&[]);
    let key = server.key(&["--group", "web"]);
    assert_eq!(Host::new("a", "sn-1", None).report(&server).status, 403);
    let answer = Host::new("a", "sn-1", Some("0123456789abcdef0123")).report(&server);
    assert_eq!((answer.status, answer.signed), (403, false));
    let mut unnamed = Host::new("a", "sn-1", Some("0123456789abcdef0123"));
    unnamed.names_key = false;
    assert_eq!(unnamed.report(&server).status, 403);
    assert!(server.json(&["host", "list"]).is_empty());
    let (_, _, metrics) =
        util::try_exchange(&server.pages, "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("metrics");
    assert!(metrics.contains("bootserver_reports_total{answer=\"forbidden\"} 3"), "{metrics}");
    assert!(server.log().contains("refused 127.0.0.1"), "{}", server.log());
    // One of 1.0.0 does not say which key it is.
    let mut old = Host::new("a", "sn-1", Some(&key));
    (old.names_key, old.seq) = (false, None);
    let answer = old.report(&server);
    assert_eq!((answer.status, answer.signed), (200, true));
}

#[test]
fn without_keys_a_basic_agent_is_taken_where_it_may() {
    let server = Server::start(&["--allow-unsigned"]);
    let mut basic = Host::new("old-01", "x", None);
    basic.more = json!({ "sn": null, "boot_id": null, "seq": null, "os": null, "open": null });
    assert_eq!(basic.report(&server).body["errcode"], 1);
    let mut forged = Host::new("old-01", "name:old-01", None);
    assert_eq!(forged.report(&server).body["errcode"], 1, "nobody takes the place of a host without an sn");
    server.run(&["group", "new", "default"]);
    server.run(&["group", "set", "default", "allow_unidentified=true"]);
    assert_eq!(basic.report(&server).body["errcode"], 0);
    assert_eq!(server.host("name:old-01")["state"], "pending");
    Host::new("new-01", "sn-2", None).report(&server);
    assert_eq!(server.host("sn-2")["state"], "pending");
}

#[test]
fn an_unsigned_report_cannot_speak_for_a_host_with_a_key() {
    let server = Server::start(&["--allow-unsigned"]);
    let key = server.key(&["--group", "web"]);
    Host::new("web-01", "sn-1", Some(&key)).report(&server);
    let mut thief = Host::new("web-01", "sn-1", None);
    thief.seq = Some(100);
    assert_eq!(thief.report(&server).status, 403);
}

#[test]
fn a_recorded_report_changes_nothing() {
    let server = Server::start(&[]);
    let key = server.key(&["--group", "web", "--auto-accept"]);
    let mut host = Host::new("web-01", "sn-1", Some(&key));
    host.report(&server);
    host.report(&server);
    let mut recorded = host.clone();
    recorded.seq = Some(0);
    recorded.name = "evil".into();
    assert_eq!(recorded.report(&server).status, 403);
    assert_eq!(server.host("sn-1")["name"], "web-01");
    assert_eq!(host.report(&server).status, 200);
}

#[test]
fn a_clone_is_a_conflict_and_accept_ends_it() {
    let server = Server::start(&[]);
    let key = server.key(&["--group", "web", "--auto-accept"]);
    let mut one = Host::new("web-01", "sn-1", Some(&key));
    let mut other = Host { boot: "other".into(), ..one.clone() };
    one.report(&server);
    other.report(&server);
    assert_eq!(server.host("sn-1")["state"], "accepted", "a reboot is none");
    server.run(&["job", "start", "web", "--select", "sn=sn-1"]);
    assert!(one.jobs(&server).is_empty(), "jobs are withheld");
    let host = server.host("sn-1");
    assert_eq!(host["state"], "conflict");
    assert!(host["reason"].as_str().expect("a reason").contains("two machines"), "{host}");
    other.report(&server);
    assert_eq!(server.events().matches("two machines").count(), 1, "one event an hour");
    server.run(&["host", "accept", "web-01"]);
    assert_eq!(one.jobs(&server).len(), 1);
    assert_eq!(server.host("sn-1")["state"], "accepted");
}

#[test]
fn a_snapshot_that_was_restored_is_no_clone_and_shows_what_it_has() {
    let server = Server::start(&[]);
    let key = server.key(&["--group", "web", "--auto-accept"]);
    let mut host = Host::new("web-01", "sn-1", Some(&key));
    let web = |version: &str| json!([{ "name": "web", "version": version, "status": "running", "uptime": 1 }]);
    host.report(&server);
    let snapshot = host.clone();
    host.more = json!({ "agents": web("2.0") });
    for _ in 0..5 {
        host.report(&server);
    }
    // What was on the disk comes back: a smaller seq, older versions, and a boot of its own.
    let mut restored = Host { boot: "after the restore".into(), more: json!({ "agents": web("1.0") }), ..snapshot };
    restored.nonce += 1000;
    assert_eq!(restored.report(&server).status, 200);
    let seen = server.host("sn-1");
    assert_eq!((&seen["state"], &seen["agents"][0]["version"]), (&json!("accepted"), &json!("1.0")));
    server.run(&["job", "restart", "web", "--select", "agent.web.version=1.0"]);
    assert_eq!(restored.jobs(&server).len(), 1);
}

#[test]
fn a_reimaged_host_takes_the_old_ones_place() {
    let server = Server::start(&[]);
    let key = server.key(&["--group", "web", "--auto-accept"]);
    Host::new("web-01", "sn-old", Some(&key)).report(&server);
    server.run(&["host", "label", "web-01", "role=front"]);
    let mut new = Host::new("web-01", "sn-new", Some(&key));
    wait_for("a proposal", || {
        new.report(&server);
        let reason = server.host("sn-new")["reason"].as_str().unwrap_or_default().to_string();
        reason.contains("bootserver host replace sn-old sn-new").then_some(())
    });
    server.run(&["host", "replace", "sn-old", "sn-new"]);
    assert_eq!(server.host("sn-old")["state"], "retired");
    assert_eq!(server.host("sn-new")["labels"]["role"], "front");
}

#[test]
fn by_rule_it_takes_it_by_itself() {
    let server = Server::start(&[]);
    let key = server.key(&["--group", "web", "--auto-accept"]);
    server.run(&["group", "set", "web", "replace=auto"]);
    Host::new("web-01", "sn-old", Some(&key)).report(&server);
    let mut new = Host::new("web-01", "sn-new", Some(&key));
    wait_for("a replacement", || {
        new.report(&server);
        (server.host("sn-old")["state"] == "retired").then_some(())
    });
    assert_eq!(server.host("sn-new")["state"], "accepted");
}

#[test]
fn by_rule_nobody_gets_into_another_group() {
    let server = Server::start(&[]);
    let (web, db) = (server.key(&["--group", "web", "--auto-accept"]), server.key(&["--group", "db", "--auto-accept"]));
    server.run(&["group", "set", "web", "replace=auto"]);
    Host::new("web-01", "sn-old", Some(&web)).report(&server);
    let mut stranger = Host::new("web-01", "sn-new", Some(&db));
    wait_for("a proposal", || {
        stranger.report(&server);
        let reason = server.host("sn-new")["reason"].as_str().unwrap_or_default().to_string();
        reason.contains("bootserver host replace sn-old sn-new").then_some(())
    });
    assert_eq!((&server.host("sn-old")["state"], &server.host("sn-new")["group"]), (&json!("accepted"), &json!("db")));
}

#[test]
fn a_host_is_judged_by_the_limit_of_the_group_it_is_moved_to() {
    let server = Server::start(&[]);
    let (web, db) = (server.key(&["--group", "web", "--auto-accept"]), server.key(&["--group", "db"]));
    server.run(&["group", "set", "web", "lost_after=4"]);
    let mut host = Host::new("web-01", "sn-1", Some(&web));
    host.report(&server);
    let counted = |word: &str| server.json(&["host", "list", &format!("fresh={word}")]).len();
    let token = server.token("viewer");
    let shown = || server.page(&token, "/hosts.csv?show=lost");
    wait_for("it is lost", || (counted("lost") == 1 && shown().contains("web-01")).then_some(()));
    server.run(&["host", "group", "web-01", "db"]);
    assert_eq!((counted("lost"), counted("late")), (0, 1), "by the day of its new group");
    assert!(!shown().contains("web-01"), "{}", shown());
    host.key = Some(db);
    assert_eq!(host.report(&server).status, 200, "and it may take a key of that group");
    host.key = Some(web);
    assert_eq!(host.report(&server).status, 403);
}

#[test]
fn a_host_is_meant_by_the_beginning_of_its_sn_as_it_is_written() {
    let server = Server::start(&[]);
    let key = server.key(&["--group", "web", "--auto-accept"]);
    for (name, sn) in [("a", "rack_01-x"), ("b", "rack_02-y"), ("c", "rack902-z")] {
        Host::new(name, sn, Some(&key)).report(&server);
    }
    let shown = |word: &str| server.try_run(&["host", "show", word]);
    assert!(shown("rack_02").1.contains("rack_02-y"), "{:?}", shown("rack_02"));
    assert!(shown("rack_0").2.contains("means 2 hosts"), "{:?}", shown("rack_0"));
    assert!(shown("rack%%%").2.contains("there is no host"), "{:?}", shown("rack%%%"));
}

#[test]
fn two_living_hosts_of_one_name_are_told_apart_by_sn() {
    let server = Server::start(&[]);
    let key = server.key(&["--group", "web", "--auto-accept"]);
    let (mut one, mut two) = (Host::new("web-01", "sn-1", Some(&key)), Host::new("web-01", "sn-2", Some(&key)));
    wait_for("a flag", || {
        one.report(&server);
        two.report(&server);
        let reason = server.host("sn-2")["reason"].as_str().unwrap_or_default().to_string();
        reason.contains("another host has this name: sn-1").then_some(())
    });
    let (code, _, error) = server.try_run(&["job", "start", "web", "--select", "host=web-01"]);
    assert!(code == 1 && error.contains("say which"), "{error}");
    assert_eq!(server.try_run(&["host", "accept", "web-01"]).0, 1);
    server.run(&["job", "start", "web", "--select", "sn=sn-2"]);
    assert!(one.jobs(&server).is_empty());
    assert_eq!(two.jobs(&server).len(), 1);
}

#[test]
fn a_retired_host_stays_so_until_it_is_accepted() {
    let server = Server::start(&[]);
    let key = server.key(&["--group", "web", "--auto-accept"]);
    let mut host = Host::new("web-01", "sn-1", Some(&key));
    host.report(&server);
    server.run(&["job", "start", "web", "--select", "sn=sn-1"]);
    server.run(&["host", "retire", "web-01"]);
    assert!(host.jobs(&server).is_empty());
    assert_eq!(server.host("sn-1")["state"], "retired");
    assert!(server.events().contains("came back"), "{}", server.events());
    assert_eq!(server.json(&["job", "list"])[0]["state"], "withdrawn");
    server.run(&["host", "accept", "web-01"]);
    assert_eq!(server.host("sn-1")["state"], "accepted");
}

#[test]
fn a_wrong_clock_is_told_and_orders_nothing() {
    let server = Server::start(&[]);
    let key = server.key(&["--group", "web", "--auto-accept"]);
    let mut host = Host::new("web-01", "sn-1", Some(&key));
    host.more = json!({ "timestamp": 1000, "events": [{ "timestamp": 990, "name": "web", "message": "hello" }] });
    host.report(&server);
    let reason = server.host("sn-1")["reason"].to_string();
    assert!(reason.contains("behind"), "{reason}");
    let event = server.json(&["events"]).into_iter().find(|event| event["message"] == "web: hello").expect("the event");
    let ago = event["received"].as_i64().expect("a time") - event["time"].as_i64().expect("a time");
    assert_eq!(ago, 10);
}

#[test]
fn an_ephemeral_host_is_retired_by_its_group() {
    let server = Server::start(&[]);
    let key = server.key(&["--group", "burst", "--auto-accept"]);
    server.run(&["group", "set", "burst", "retire_after=1"]);
    Host::new("b-01", "sn-1", Some(&key)).report(&server);
    let begun = std::time::Instant::now();
    while server.host("sn-1")["state"] != "retired" {
        assert!(begun.elapsed() < std::time::Duration::from_secs(60), "not retired");
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
}

#[test]
fn a_key_for_one_host_is_bound_to_the_first_that_uses_it() {
    let server = Server::start(&[]);
    let key = server.key(&["--group", "web", "--host", "web-01"]);
    assert_eq!(Host::new("db-01", "sn-9", Some(&key)).report(&server).status, 403);
    assert_eq!(Host::new("web-01", "sn-1", Some(&key)).report(&server).status, 200);
    assert_eq!(Host::new("web-01", "sn-2", Some(&key)).report(&server).status, 403);
}

#[test]
fn keys_change_within_a_group_and_are_revoked() {
    let server = Server::start(&[]);
    let (one, two) = (server.key(&["--group", "web", "--auto-accept"]), server.key(&["--group", "web"]));
    let other = server.key(&["--group", "db"]);
    let mut host = Host::new("web-01", "sn-1", Some(&one));
    host.report(&server);
    host.key = Some(other);
    assert_eq!(host.report(&server).status, 403, "a key of another group");
    host.key = Some(two);
    assert_eq!(host.report(&server).status, 200, "the next key of its group");
    let first =
        server.json(&["key", "list"]).into_iter().find(|key| key["auto_accept"] == true).expect("the first key");
    assert_eq!(first["hosts"], 0);
    server.run(&["key", "revoke", first["id"].as_str().expect("an id")]);
    host.key = Some(one);
    assert_eq!(host.report(&server).status, 403, "a revoked key");
}

#[test]
fn what_is_malformed_is_answered_with_its_reason() {
    let server = Server::start(&["--allow-unsigned"]);
    let mut host = Host::new("web-01", "sn-1", None);
    for body in ["", "[]", "{}", r#"{"hostname":"a/b"}"#] {
        let answer = host.post(&server, "/agent/status", body);
        assert_eq!((answer.status, &answer.body["errcode"]), (200, &json!(1)), "{body}");
    }
    let long = format!("{{\"hostname\":\"{}\"}}", "a".repeat(2 << 20));
    assert_eq!(host.post(&server, "/agent/status", &long).status, 413);
    assert_eq!(host.report(&server).status, 200);
}
