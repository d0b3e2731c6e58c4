//! What the daemon adds to the basic protocol, seen from a server: `os`, `labels`, `open` and `seq` in a status, and `cancel`
//! in a reply; also between this binary and a server that knows nothing of it, and between 1.0.0 and a server that does.

mod util;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use miniserde::json::Value;
use util::*;

const KEY: &str = "the key of a test, long enough";

/// The last status that came.
fn last(server: &Server) -> Value {
    server.statuses().pop().expect("there was a status")
}

/// Waits until a status is as wanted.
fn wait_status(host: &Host, server: &Server, what: &str, want: impl Fn(&Value) -> bool) -> Value {
    host.wait(what, || server.statuses().last().is_some_and(&want));
    last(server)
}

fn has_open(status: &Value, ids: &[&str]) -> bool {
    items(status, "open").iter().map(|id| text(id, "")).eq(ids.iter().copied())
}

/// The `seq` of every status so far.
fn seqs(server: &Server) -> Vec<f64> {
    server.statuses().iter().map(|status| number(status, "seq")).collect()
}

fn rises(seqs: &[f64]) -> bool {
    seqs.windows(2).all(|pair| pair[0] < pair[1])
}

/// A host with an agent that stays and an install in its download, which takes minutes; its package.
fn downloading(server: &Server, id: &str) -> (Host, Package) {
    let mut host = Host::with(server);
    host.set("download_rate", "\"1K\"");
    host.agent("web", "exec sleep 1000", &[]);
    host.start();
    let package = heavy(&host, "log", "1.0", 200);
    let url = server.serve(&package.file, &package.bytes);
    server.give(&Job::new(id, "install", "log").package(&url, &package).text());
    let is_downloading = || host.job(id).is_some_and(|job| text(&job, "state") == "downloading");
    host.wait("the download", is_downloading);
    (host, package)
}

#[test]
fn a_status_says_what_the_host_is_and_labels_change_with_a_reload() {
    let server = Server::new();
    let mut host = Host::with(&server);
    host.set("labels", "{ \"site\": \"ams\", \"role\": \"web\" }");
    host.start();
    let status = wait_status(&host, &server, "a status", |_| true);
    let script = ". /etc/os-release && printf %s \"$ID${VERSION_ID:+ $VERSION_ID}\"";
    let os = run(std::process::Command::new("sh").args(["-c", script])).expect("a shell").out;
    if !os.is_empty() {
        assert_eq!(text(&status, "os"), os);
    }
    assert_eq!((text(&status, "labels.site"), text(&status, "labels.role")), ("ams", "web"));
    assert!(has_open(&status, &[]));
    assert_eq!(text(&host.status().expect("it runs"), "labels.site"), "ams");

    host.set("labels", "{ \"site\": \"fra\" }");
    host.configure();
    host.signal("HUP");
    let moved = |status: &Value| text(status, "labels.site") == "fra";
    let status = wait_status(&host, &server, "the new label", moved);
    assert!(!matches!(&status, Value::Object(status) if status.contains_key("os") && os.is_empty()));
    assert!(matches!(at(&status, "labels"), Value::Object(labels) if labels.len() == 1));
    let log = |host: &Host| host.read("log/bootagent.log");
    assert!(!log(&host).contains("bootagent reexec"), "{}", log(&host));
    assert!(host.read("state/good/bootagent.json").contains("fra"), "the last good copy has the old labels");

    // Bad ones change nothing, and are said; another key that changed is said too.
    host.set("labels", "{ \"site\": 7 }");
    host.configure();
    host.signal("HUP");
    host.wait("the fault to be said", || log(&host).contains("labels.site: want a text"));
    host.set("labels", "").set("splay", "1");
    host.configure();
    host.signal("HUP");
    host.wait("the other key to be said", || log(&host).contains("run \"bootagent reexec\""));
    wait_status(&host, &server, "no labels", |status| matches!(at(status, "labels"), Value::Null));
}

#[test]
fn seq_rises_over_servers_crashes_and_reexecs() {
    // The first server fails each exchange, so that each report is tried twice.
    let (bad, server) = (Server::new(), Server::new());
    bad.mode(Mode::reply("500 No", "", "{}"));
    let mut host = Host::new();
    host.set("svrlist", &format!("\"{},{}\"", bad.address, server.address));
    host.install();
    let program = host.path("bin/bootagent");
    host.program = program;
    for round in 0..3 {
        host.start();
        let before = server.statuses().len();
        host.wait("reports", || server.statuses().len() > before + 2);
        match round {
            0 => host.kill9(),
            1 => {
                host.ok(&["reexec"]);
                let before = server.statuses().len();
                host.wait("reports", || server.statuses().len() > before + 1);
                host.dismiss();
            }
            _ => {}
        }
    }
    let (tried, taken) = (seqs(&bad), seqs(&server));
    assert!(rises(&tried) && rises(&taken), "{tried:?} {taken:?}");
    assert!(!tried.is_empty() && tried.iter().all(|seq| !taken.contains(seq)), "{tried:?} {taken:?}");

    // A counter that cannot be kept is not sent, as it would be repeated.
    host.kill9();
    fs::remove_file(host.path("state/nonces")).expect("there is a counter");
    fs::create_dir(host.path("state/nonces")).expect("the test's own directory");
    let before = server.statuses().len();
    host.start();
    host.wait("a report", || server.statuses().len() > before);
    assert!(matches!(at(&last(&server), "seq"), Value::Null), "{:?}", seqs(&server));
    // A record of it that is lost leads to a greater number nevertheless.
    host.kill9();
    fs::remove_dir(host.path("state/nonces")).expect("the test's own directory");
    host.start();
    wait_status(&host, &server, "a seq", |status| number(status, "seq") > taken[taken.len() - 1]);
}

#[test]
fn a_download_is_cancelled_and_leaves_nothing() {
    let server = Server::new();
    let (host, _) = downloading(&server, "one");
    wait_status(&host, &server, "the job to be open", |status| has_open(status, &["one"]));
    server.cancel("nobody's");
    server.cancel("one");
    let (code, message) = host.result(&server, "one");
    assert_eq!((code, &*message), (9, "cancelled by the server"), "{}", host.logs());
    wait_status(&host, &server, "nothing to be open", |status| has_open(status, &[]));
    host.wait("the download to be removed", || entries(&host.path("state/downloads")).is_empty());
    assert!(!host.path("state/packages/log").exists() && host.seen("log").is_none());
    // A job that has ended stays as it is, and is offered and cancelled in vain.
    server.repeats();
    server.forget();
    wait_status(&host, &server, "another report", |_| true);
    assert!(holds(std::time::Duration::from_secs(1), || server.codes("one") == [9]));
}

#[test]
fn a_cancel_comes_to_the_next_daemon_as_well_and_its_result_stays() {
    // The daemon is killed before the cancel, and again before the result is taken; the second time with a reboot.
    let server = Server::new();
    let (mut host, _) = downloading(&server, "one");
    host.kill9();
    server.takes(false);
    server.cancel("one");
    host.start();
    let is_done = || host.job("one").is_some_and(|job| text(&job, "state") == "done" && number(&job, "errcode") == 9.0);
    host.wait("the cancel", is_done);
    host.kill9();
    if !lacks_faults() {
        host.env("BOOTAGENT_BOOT_ID", "another-boot");
        fs::remove_dir_all(host.path("run")).expect("it is empty after a boot");
    }
    server.takes(true);
    host.start();
    assert_eq!(host.result(&server, "one").0, 9);
    // A helper of the daemon that was killed may have sent it too.
    assert!(holds(std::time::Duration::from_secs(1), || server.codes("one").iter().all(|code| *code == 9)));
    assert!(host.seen("log").is_none(), "it was installed all the same");
}

#[test]
fn what_waits_is_cancelled_and_what_acts_goes_on() {
    let server = Server::new();
    let mut host = Host::with(&server);
    host.agent("web", "exec sleep 1000", &[("startsecs", "2")]);
    host.agent("calm", "exec sleep 1000", &[]);
    host.start();
    let calm = host.wait_running("calm").pid;
    // A window whose moment is years away on every host that is not very lucky; a job behind another; a start that settles.
    server.give(&Job::new("window", "restart", "calm").set("window", "300000000").text());
    server.give(&Job::new("acts", "restart", "web").text());
    server.give(&Job::new("behind", "stop", "web").text());
    let settles = || host.job("acts").is_some_and(|job| text(&job, "state") == "settling");
    host.wait("the restart", settles);
    ["window", "acts", "behind"].iter().for_each(|id| server.cancel(id));
    assert_eq!(host.result(&server, "window").0, 9);
    assert_eq!(host.result(&server, "behind").0, 9);
    assert_eq!(host.result(&server, "acts").0, 0);
    // Given and cancelled in one reply: jobs come first.
    server.cancel("at-once");
    server.give(&Job::new("at-once", "restart", "calm").text());
    assert_eq!(host.result(&server, "at-once").0, 9);
    assert_eq!(host.wait_running("calm").pid, calm);
    assert!(host.seen("web").is_some_and(|agent| agent.runs()));
}

#[test]
fn with_a_key_only_a_signed_cancel_counts() {
    let server = Server::new();
    server.signs(|request, body| signature(KEY, request, body));
    let mut host = Host::with(&server);
    host.write("key", &format!("{KEY}\n"));
    fs::set_permissions(host.path("key"), fs::Permissions::from_mode(0o600)).expect("the test's own file");
    let key = miniserde::json::to_string(&host.path("key").display().to_string());
    host.set("key_file", &key);
    host.agent("web", "exec sleep 1000", &[]);
    host.start();
    host.wait_running("web");
    server.give(&Job::new("one", "restart", "web").set("window", "300000000").text());
    wait_status(&host, &server, "the job to be open", |status| has_open(status, &["one"]));
    server.mode(Mode::reply("200 OK", "", "{\"errcode\": 0, \"cancel\": [\"one\"]}"));
    let before = server.statuses().len();
    host.wait("two reports", || server.statuses().len() > before + 1);
    assert!(host.job("one").is_some_and(|job| text(&job, "state") == "received"), "an unsigned cancel counted");
    server.mode(Mode::Good);
    server.cancel("one");
    assert_eq!(host.result(&server, "one").0, 9);
    // The name of the key, by which a server finds it: as sha256sum has it.
    let request = server.requests_to("/agent/status").pop().expect("there were some");
    let digest = checksum(KEY.as_bytes());
    assert_eq!(request.header("X-BootAgent-Key"), digest.strip_prefix("SHA256:").map(|digits| &digits[..16]));
}

#[test]
fn daemon_1_0_0_goes_on_with_a_server_that_cancels() {
    let Some(old) = old_binary() else { return };
    let server = Server::new();
    let mut host = Host::with(&server);
    host.program = old;
    host.agent("web", "exec sleep 1000", &[]);
    host.start();
    host.wait_running("web");
    server.cancel("one");
    server.give(&Job::new("one", "restart", "web").text());
    assert_eq!(host.result(&server, "one").0, 0, "{}", host.logs());
    // By this key a server knows that `cancel` is understood.
    let status = last(&server);
    assert!(matches!(at(&status, "open"), Value::Null) && matches!(at(&status, "seq"), Value::Null));
}
