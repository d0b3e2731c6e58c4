//! Jobs over their whole life, with hosts that are played.

mod util;

use serde_json::{json, Value};
use util::{exchange, try_exchange, wait_for, Host, Server};

fn accepted(server: &Server) -> Host {
    let key = server.key(&["--group", "web", "--auto-accept"]);
    let mut host = Host::new("web-01", "sn-1", Some(&key));
    host.report(server);
    host
}

fn id(job: &Value) -> String {
    job["id"].as_str().expect("an id").to_string()
}

fn only(server: &Server) -> Value {
    let list = server.json(&["job", "list"]);
    assert_eq!(list.len(), 1, "{list:?}");
    list[0].clone()
}

#[test]
fn an_install_is_offered_until_its_result_and_verified_by_a_report() {
    let server = Server::start(&[]);
    let mut host = accepted(&server);
    server.release("web", "1.0");
    assert_eq!(only_offer(&server, &mut host, &["job", "install", "web", "--select", "group=web"])["version"], "1.0");
    let job = host.jobs(&server).remove(0);
    assert_eq!(only(&server)["state"], "offered");
    host.more = json!({ "open": [id(&job)] });
    assert!(host.jobs(&server).is_empty(), "one that it has need not be said again");
    assert_eq!(only(&server)["state"], "received");
    host.result(&server, &id(&job), 0, "success");
    assert_eq!(only(&server)["state"], "done");
    host.more = json!({ "agents": [{ "name": "web", "version": "1.0", "status": "running", "uptime": 1 }] });
    assert!(host.jobs(&server).is_empty());
    let execution = only(&server);
    assert_eq!(execution["state"], "verified");
    assert_eq!(server.json(&["job", "list", "state=failed"]).len(), 0);
}

fn only_offer(server: &Server, host: &mut Host, words: &[&str]) -> Value {
    server.run(words);
    let mut jobs = host.jobs(server);
    assert_eq!(jobs.len(), 1, "{jobs:?}");
    jobs.remove(0)
}

#[test]
fn a_package_is_served_whole_and_in_parts() {
    let server = Server::start(&[]);
    let mut host = accepted(&server);
    server.release("web", "1.0");
    let job = only_offer(&server, &mut host, &["job", "install", "web", "--select", "group=web"]);
    let url = job["url"].as_str().expect("a url");
    let path = url.strip_prefix(&format!("http://{}", server.address)).expect("our own address");
    let (status, head, body) = exchange(&server, &format!("GET {path} HTTP/1.1\r\nHost: evil\r\n\r\n"));
    assert_eq!((status, body.as_str()), (200, "web 1.0"));
    assert!(head.contains("content-length: 7"), "{head}");
    let (status, head, body) = exchange(&server, &format!("GET {path} HTTP/1.1\r\nHost: x\r\nRange: bytes=4-\r\n\r\n"));
    assert_eq!((status, body.as_str()), (206, "1.0"));
    assert!(head.contains("content-range: bytes 4-6/7"), "{head}");
    let etag = head.lines().find_map(|line| line.strip_prefix("etag: ")).expect("an etag").to_string();
    let part_if = |range: &str| {
        exchange(&server, &format!("GET {path} HTTP/1.1\r\nHost: x\r\nRange: bytes=4-\r\nIf-Range: {range}\r\n\r\n"))
    };
    assert_eq!((part_if(&etag).0, part_if(&etag).2.as_str()), (206, "1.0"));
    for other in ["\"another\"", "Sun, 29 Nov 2026 10:00:00 GMT"] {
        assert_eq!((part_if(other).0, part_if(other).2.as_str()), (200, "web 1.0"), "it is another one: {other}");
    }
    let other = path.replace("web-1.0.tar.gz", "other.tar.gz");
    for wrong in ["/packages/", "/packages/../bootserver.db", other.as_str(), "/api/v1/hosts", "/metrics"] {
        assert_eq!(exchange(&server, &format!("GET {wrong} HTTP/1.1\r\nHost: x\r\n\r\n")).0, 404, "{wrong}");
    }
}

#[test]
fn packages_are_where_the_public_url_says() {
    let server = Server::start(&["--public-url", "https://packages.example.com/boot/"]);
    let mut host = accepted(&server);
    server.release("web", "1.0");
    let job = only_offer(&server, &mut host, &["job", "install", "web", "--select", "group=web"]);
    let url = job["url"].as_str().expect("a url");
    assert!(url.starts_with("https://packages.example.com/boot/packages/"), "{url}");
    assert!(url.ends_with("/web-1.0.tar.gz"), "{url}");
    let mut stopped = Server::stopped(&[]);
    stopped.run(&["init"]);
    let (code, _, error) = stopped.try_run(&["serve", "--public-url", "packages.example.com"]);
    assert!(code == 2 && error.contains("--public-url"), "{code} {error}");
    stopped.kill();
}

#[test]
fn nobody_else_can_read_what_is_kept() {
    use std::os::unix::fs::PermissionsExt;
    let server = Server::start(&[]);
    let out = |name: &str| server.dir.join(name).to_str().expect("a path").to_string();
    server.run(&["key", "new", "--group", "web", "--out", &out("agent.key")]);
    server.run(&["token", "new", "a", "--role", "viewer", "--out", &out("a.token")]);
    server.run(&["backup", &out("backup.db")]);
    server.release("web", "1.0");
    let mode = |path: &std::path::Path| std::fs::metadata(path).expect("a file").permissions().mode() & 0o777;
    assert_eq!(mode(&server.dir), 0o700);
    let files = |dir: &std::path::Path| -> Vec<std::path::PathBuf> {
        std::fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("an entry").path()).collect()
    };
    let mut all = files(&server.dir);
    all.extend(files(&server.dir.join("packages")));
    // What the test itself put there, and the directory.
    all.retain(|path| !path.ends_with("web-1.0.tar.gz") && !path.is_dir());
    let names: Vec<String> = all.iter().map(|path| path.display().to_string()).collect();
    assert!(names.len() >= 8, "{names:?}");
    for path in &all {
        assert_eq!(mode(path), 0o600, "{}", path.display());
    }
}

#[test]
fn a_download_that_fails_is_tried_under_new_ids() {
    let server = Server::start(&[]);
    let mut host = accepted(&server);
    server.release("web", "1.0");
    server.run(&["job", "install", "web", "--select", "group=web"]);
    let mut seen = Vec::new();
    for attempt in 1..=3 {
        let job = wait_for("an offer", || host.jobs(&server).into_iter().next());
        assert!(!seen.contains(&id(&job)), "attempt {attempt} has an id of its own");
        seen.push(id(&job));
        host.result(&server, &id(&job), 4, "cannot download");
    }
    assert_eq!(server.json(&["job", "list", "state=retried"]).len(), 2);
    assert_eq!(server.json(&["job", "list", "state=failed"])[0]["attempt"], 3);
}

#[test]
fn results_are_never_refused_and_count_once() {
    let server = Server::start(&[]);
    let mut host = accepted(&server);
    let job = only_offer(&server, &mut host, &["job", "start", "web", "--select", "group=web"]);
    let key = host.key.clone();
    let mut stranger = Host::new("web-02", "sn-2", key.as_deref());
    assert_eq!(stranger.result(&server, &id(&job), 0, "mine").body["errcode"], 0);
    assert_eq!(only(&server)["state"], "offered", "another host's word has no effect");
    assert!(server.events().contains("had no effect"), "{}", server.events());
    assert_eq!(host.result(&server, "no-such-id", 0, "x").body["errcode"], 0);
    for (code, message) in [(7, "cannot start"), (7, "cannot start"), (0, "success")] {
        let answer = host.result(&server, &id(&job), code, message);
        assert!(answer.signed && answer.body["errcode"] == 0);
    }
    let execution = only(&server);
    assert_eq!((&execution["state"], &execution["errcode"]), (&json!("failed"), &json!(7)));
    assert!(server.events().contains("a second, different result"));
}

#[test]
fn a_cancelled_job_is_withdrawn_and_the_host_is_told() {
    let server = Server::start(&[]);
    let mut host = accepted(&server);
    let job = only_offer(&server, &mut host, &["job", "start", "web", "--select", "group=web"]);
    host.more = json!({ "open": [id(&job)] });
    host.report(&server);
    let job_id = only(&server)["job"].as_str().expect("a job").to_string();
    server.run(&["job", "cancel", &job_id]);
    assert_eq!(host.report(&server).body["cancel"], json!([id(&job)]));
    host.result(&server, &id(&job), 9, "cancelled");
    let execution = only(&server);
    assert_eq!((&execution["state"], &execution["errcode"]), (&json!("withdrawn"), &json!(9)));
}

#[test]
fn a_job_that_has_ended_is_not_cancelled_any_more() {
    let server = Server::start(&[]);
    let mut host = accepted(&server);
    let job = only_offer(&server, &mut host, &["job", "start", "web", "--select", "group=web"]);
    host.result(&server, &id(&job), 0, "success");
    let job_id = only(&server)["job"].as_str().expect("a job").to_string();
    assert!(server.run(&["job", "cancel", &job_id]).contains("has ended"));
    assert_eq!(only(&server)["state"], "verified");
    let token = server.token("viewer");
    let jobs: Value = serde_json::from_str(&server.page(&token, "/api/v1/jobs")).expect("JSON");
    assert_eq!(jobs[0]["state"], "done");
}

#[test]
fn a_release_never_changes() {
    let server = Server::start(&[]);
    let file = server.dir.join("web.tar.gz");
    std::fs::write(&file, "web").expect("a package");
    let add = |more: &[&str]| {
        let words = ["release", "add", "web", "1", "--file", file.to_str().expect("a path")];
        server.try_run(&[&words, more].concat())
    };
    assert_eq!(add(&["--startsecs", "5", "--arch", "x86_64"]).0, 0);
    assert_eq!(add(&["--arch", "armv7"]).0, 0, "what is not said stays");
    assert_eq!(add(&["--startsecs", "5", "--arch", "aarch64"]).0, 0);
    let (code, _, error) = add(&["--startsecs", "9", "--arch", "riscv64"]);
    assert!(code == 1 && error.contains("has startsecs 5, and a release never changes"), "{error}");
    assert_eq!(server.json(&["release", "list"])[0]["artifacts"].as_array().map(Vec::len), Some(3));
}

#[test]
fn a_job_that_the_host_does_not_know_is_lost_and_a_late_result_puts_it_right() {
    let server = Server::start(&[]);
    let mut host = accepted(&server);
    let job = only_offer(&server, &mut host, &["job", "start", "web", "--select", "group=web"]);
    for _ in 0..3 {
        host.report(&server);
    }
    assert_eq!(only(&server)["state"], "lost");
    host.result(&server, &id(&job), 0, "success");
    assert_eq!(only(&server)["state"], "verified");
}

#[test]
fn envs_are_for_whom_the_server_knows_and_are_never_shown() {
    let server = Server::start(&[]);
    let mut host = accepted(&server);
    let config = ["job", "config", "web", "--env", "TOKEN=verysecret", "--select"];
    let (code, _, error) = server.try_run(&[&config[..], &["os=debian"]].concat());
    assert!(code == 1 && error.contains("envs"), "{error}");
    host.more = json!({ "labels": { "role": "front" } });
    host.report(&server);
    assert_eq!(server.try_run(&[&config[..], &["label.role=front"]].concat()).0, 1, "a host's own claim");
    let job = only_offer(&server, &mut host, &[&config[..], &["group=web"]].concat());
    assert_eq!(job["envs"]["TOKEN"], "verysecret");
    for words in [&["job", "list"][..], &["job", "show", "j1"], &["audit"], &["events"], &["host", "show", "web-01"]] {
        let text = server.run(&[&["--json"], words].concat());
        assert!(!text.contains("verysecret"), "{words:?}: {text}");
    }
}

/// Sends a form as whoever has a token.
fn send(server: &Server, path: &str, kind: &str, form: &str) -> String {
    let token = server.token("admin");
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {token}\r\nContent-Type: {kind}\r\n\
         Content-Length: {}\r\n\r\n{form}",
        server.pages,
        form.len()
    );
    try_exchange(&server.pages, &request).expect("an exchange").2
}

#[test]
fn a_form_does_not_show_the_envs_that_were_typed() {
    let server = Server::start(&[]);
    accepted(&server);
    let form = "action=config&agent=web&select=group%3Dweb&envs=TOKEN%3Dverysecret&do=preview";
    let page = send(&server, "/jobs/new", "application/x-www-form-urlencoded", form);
    assert!(page.contains("1 host") && page.contains(">TOKEN=") && !page.contains("verysecret"), "{page}");
}

#[test]
fn a_release_form_does_not_show_a_definition_with_envs() {
    let server = Server::start(&[]);
    let field =
        |name: &str, value: &str| format!("--x\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n");
    let definition = r#"{"exec":["/bin/a"],"envs":{"TOKEN":"verysecret"}}"#;
    let form = field("agent", "web") + &field("version", "1") + &field("definition", definition) + "--x--\r\n";
    let page = send(&server, "/releases/new", "multipart/form-data; boundary=x", &form);
    assert!(page.contains("want a package") && page.contains("not shown again"), "{page}");
    assert!(!page.contains("verysecret"), "{page}");
}

#[test]
fn envs_of_a_definition_are_for_whom_the_server_knows_too() {
    let server = Server::start(&[]);
    let mut host = accepted(&server);
    let (file, definition) = (server.dir.join("web.tar.gz"), server.dir.join("web.json"));
    std::fs::write(&file, "web").expect("a package");
    std::fs::write(&definition, r#"{"exec":["/bin/a"],"envs":{"TOKEN":"verysecret"}}"#).expect("a definition");
    let [file, definition] = [&file, &definition].map(|path| path.to_str().expect("a path"));
    server.run(&["release", "add", "web", "1", "--file", file, "--definition", definition]);
    let install = |select: &str| server.try_run(&["job", "install", "web", "--select", select]);
    let (code, _, error) = install("os=debian");
    assert!(code == 1 && error.contains("its release's definition has some"), "{error}");
    host.more = json!({ "labels": { "role": "front" } });
    host.report(&server);
    assert_eq!(install("label.role=front").0, 1, "a host's own claim");
    assert_eq!(install("group=web").0, 0);
    assert_eq!(host.jobs(&server)[0]["definition"]["envs"]["TOKEN"], "verysecret");
    let token = server.token("admin");
    for path in
        ["/releases", "/releases.csv", "/jobs/j1", "/jobs.csv", "/api/v1/releases", "/api/v1/jobs", "/hosts/sn-1"]
    {
        assert!(!server.page(&token, path).contains("verysecret"), "{path}");
    }
}

#[test]
fn who_gets_envs_is_judged_again_when_a_host_changes() {
    let server = Server::start(&[]);
    let mut host = accepted(&server);
    server.run(&["group", "new", "db"]);
    server.run(&["host", "label", "web-01", "role=front"]);
    for select in ["group=web", "label.role=front", "sn=sn-1"] {
        server.run(&["job", "config", "web", "--env", "TOKEN=verysecret", "--select", select]);
    }
    server.run(&["job", "start", "web", "--select", "group=web"]);
    let states = || -> Vec<String> {
        let mut list = server.json(&["job", "list"]);
        list.sort_by_key(|one| one["job"].to_string());
        list.iter().map(|one| one["state"].as_str().unwrap_or_default().to_string()).collect()
    };
    server.run(&["host", "group", "web-01", "db"]);
    assert_eq!(states(), ["withdrawn", "waiting", "waiting", "waiting"]);
    server.run(&["host", "label", "web-01", "role="]);
    assert_eq!(states(), ["withdrawn", "withdrawn", "waiting", "waiting"]);
    let given: Vec<Value> = host.jobs(&server).into_iter().map(|job| job["action"].clone()).collect();
    assert_eq!(given, ["config", "start"]);
    assert!(server.events().contains("withdrawn, as it carries envs for group=web"));
}

#[test]
fn a_list_of_jobs_is_filtered_before_it_is_cut() {
    let server = Server::start(&[]);
    let mut host = accepted(&server);
    let old = only_offer(&server, &mut host, &["job", "start", "web", "--select", "group=web"]);
    host.result(&server, &id(&old), 7, "did not start");
    for _ in 0..3 {
        server.run(&["job", "stop", "db", "--select", "group=web"]);
    }
    let found = |filter: &[&str]| -> Vec<Value> {
        let list = server.json(&[&["job", "list", "-n", "1"], filter].concat());
        list.iter().map(|one| one["job"].clone()).collect()
    };
    for filter in ["state=failed", "state=fail*", "errcode=7", "action!=stop", "agent=web", "errcode!="] {
        assert_eq!(found(&[filter]), [json!("j1")], "{filter}");
    }
    assert_eq!(found(&[]), [json!("j4")], "the newest first");
    assert_eq!(found(&["errcode=", "host=web-*"]), [json!("j4")]);
    assert_eq!(found(&["attempt=2"]), [json!(null); 0]);
    assert!(server.try_run(&["job", "list", "-n", "100001"]).2.contains("want 100000 at most"));
}

#[test]
fn what_was_acknowledged_outlives_kill_9() {
    let mut server = Server::start(&[]);
    let mut host = accepted(&server);
    for round in 1..=10 {
        server.run(&["job", "restart", "web", "--select", "group=web"]);
        let job = host.jobs(&server).remove(0);
        assert_eq!(host.result(&server, &id(&job), 0, "success").body["errcode"], 0);
        server.kill();
        server.resume();
        assert_eq!(host.result(&server, &id(&job), 0, "success").body["errcode"], 0, "sent again");
        assert_eq!(server.json(&["job", "list", "state=verified"]).len(), round);
        assert!(host.jobs(&server).is_empty(), "round {round}: offered again");
    }
}

#[test]
fn a_backup_is_put_back() {
    let mut server = Server::start(&[]);
    let mut host = accepted(&server);
    let file = server.dir.join("backup.db");
    let file = file.to_str().expect("a path");
    server.run(&["backup", file]);
    server.run(&["host", "retire", "web-01"]);
    assert_eq!(server.try_run(&["restore", file]).0, 1, "a running server keeps its database");
    server.kill();
    let backup = std::fs::read(file).expect("the backup");
    server.run(&["restore", file]);
    assert_eq!(std::fs::read(file).expect("the backup"), backup, "a backup is only read");
    server.resume();
    assert_eq!(server.host("sn-1")["state"], "accepted");
    assert_eq!(host.report(&server).status, 200);
    // What was there before can be had again, and is no less a backup.
    server.kill();
    let kept = |server: &Server| -> Vec<std::path::PathBuf> {
        let entries = std::fs::read_dir(&server.dir).expect("the directory").flatten().map(|entry| entry.path());
        entries.filter(|path| path.to_string_lossy().contains("before-restore-")).collect()
    };
    let old = kept(&server).remove(0);
    wait_for("the next second", || (now() > seconds_of(&old)).then_some(()));
    server.run(&["restore", old.to_str().expect("a path")]);
    assert_eq!(kept(&server).len(), 2, "each is kept");
    server.resume();
    assert_eq!(server.host("sn-1")["state"], "retired");
}

fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock").as_secs()
}

fn seconds_of(path: &std::path::Path) -> u64 {
    let name = path.file_stem().and_then(|name| name.to_str()).expect("a name");
    name.rsplit('-').next().and_then(|text| text.parse().ok()).expect("a time")
}

#[test]
fn what_is_no_backup_is_left_alone_and_so_is_the_database() {
    let mut server = Server::start(&[]);
    accepted(&server);
    server.kill();
    let file = server.dir.join("junk.db");
    for junk in [&b"no database"[..], &[0; 8192], b""] {
        std::fs::write(&file, junk).expect("a file");
        let (code, _, error) = server.try_run(&["restore", file.to_str().expect("a path")]);
        assert!(code == 1 && error.contains("junk.db"), "{error}");
    }
    assert_eq!(server.try_run(&["restore", "/nonexistent"]).0, 1);
    assert!(!server.dir.join("restore.tmp").exists());
    server.resume();
    assert_eq!(server.host("sn-1")["state"], "accepted");
}

#[test]
fn exit_codes_tell_what_went_wrong() {
    let mut server = Server::start(&[]);
    assert_eq!(server.try_run(&["host", "list", "nonsense=1"]).0, 1);
    assert_eq!(server.try_run(&["host", "lst"]).0, 2);
    assert_eq!(server.try_run(&["job", "start"]).0, 2);
    server.kill();
    assert_eq!(server.try_run(&["host", "list"]).0, 3);
    assert_eq!(server.try_run(&["key", "new", "--group", "web"]).0, 0, "works on the directory");
}

/// Whoever types nothing more is told what comes next, at each step of the way.
#[test]
fn bootserver_alone_says_what_comes_next() {
    let mut server = Server::stopped(&[]);
    let says = |server: &Server, part: &str| {
        let text = server.run(&[]);
        assert!(text.contains(part), "{part}: {text}");
    };
    says(&server, " init");
    server.run(&["init"]);
    says(&server, " serve --listen");
    server.resume();
    says(&server, " key new --group");
    let key = server.key(&["--group", "web"]);
    says(&server, "no host has reported");
    let mut host = Host::new("web-01", "sn-1", Some(&key));
    host.report(&server);
    says(&server, "1 host waits for a decision");
    server.run(&["host", "accept", "web-01"]);
    says(&server, " release add AGENT VERSION --file");
    server.release("web", "1.0");
    says(&server, " job install AGENT --select");
    server.run(&["job", "install", "web", "--select", "group=web"]);
    says(&server, "events --follow");
}

#[test]
fn a_backup_is_made_while_hosts_report() {
    let server = Server::start(&[]);
    let mut host = accepted(&server);
    // Larger than what is copied in a moment.
    host.more = json!({ "troubles": vec!["t".repeat(200); 200] });
    let key = host.key.clone();
    for n in 0..150 {
        let mut other = Host::new(&format!("h-{n}"), &format!("sn-h-{n}"), key.as_deref());
        other.more = host.more.clone();
        other.report(&server);
    }
    let file = server.dir.join("backup.db");
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                assert_eq!(host.report(&server).status, 200);
            }
        });
        let begun = std::time::Instant::now();
        server.run(&["backup", file.to_str().expect("a path")]);
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(begun.elapsed() < util::DEADLINE, "{:?}", begun.elapsed());
    });
    let copy = rusqlite::Connection::open(&file).expect("the backup");
    let hosts: i64 = copy.query_row("SELECT count(*) FROM hosts", [], |row| row.get(0)).expect("a count");
    assert_eq!(hosts, 151);
}
