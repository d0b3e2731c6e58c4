//! Trust from outside (design 7): signed exchanges, signed packages, what a child that reads from the network holds, and what
//! a local user can plant.

mod util;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use util::*;

const KEY: &str = "the key of a test, long enough";
const NEXT_KEY: &str = "the next key of the same test";

/// Writes the key file of a host.
fn write_key(host: &Host, text: &str, mode: u32) {
    host.write("key", text);
    fs::set_permissions(host.path("key"), fs::Permissions::from_mode(mode)).expect("our own file");
}

/// A host that signs with `KEY`.
fn signing_host(server: &Server) -> Host {
    let mut host = Host::with(server);
    let path = format!("\"{}\"", host.path("key").display());
    host.set("key_file", &path);
    write_key(&host, &format!("{KEY}\n"), 0o600);
    host
}

/// Whether a request is signed with `key` as the protocol has it.
fn is_signed(request: &Request, key: &str) -> bool {
    let header = |name: &str| request.header(&format!("X-BootAgent-{name}")).unwrap_or_default().to_string();
    let (sn, nonce) = (header("Sn"), header("Nonce"));
    let text = format!("POST\n{}\n{sn}\n{nonce}\n{}", request.path, request.body);
    let hex = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
    nonce.len() == 32 && nonce.bytes().all(hex) && header("Signature") == hmac(key, &text)
}

#[test]
fn a_signed_exchange_is_the_protocols() {
    let server = Server::new();
    server.signs(|request, body| signature(KEY, request, body));
    let mut host = signing_host(&server);
    host.agent("web", "exec sleep 1000", &[]);
    host.start();
    host.wait_running("web");
    host.does(&server, &Job::new("j1", "stop", "web"), 0);
    host.wait_seen("web", "to be stopped", |agent| agent.status == "stoped");
    for request in server.requests() {
        assert!(is_signed(&request, KEY), "{request:?}");
    }
    let sn = text(&host.status().unwrap(), "sn").to_string();
    assert!(server.requests().iter().all(|request| request.header("X-BootAgent-Sn") == Some(&sn)));

    // No nonce comes twice, over restarts of every kind.
    host.kill9();
    host.start();
    host.wait("reports of the next daemon", || server.requests().len() > 8);
    host.end("TERM");
    host.start();
    host.wait("reports of the one after it", || server.requests().len() > 12);
    let requests = server.requests();
    let nonces: BTreeSet<_> = requests.iter().filter_map(|request| request.header("X-BootAgent-Nonce")).collect();
    assert_eq!(nonces.len(), requests.len());
    let counter: u64 = host.read("state/nonces").trim().parse().unwrap();
    assert_eq!(counter % 1000, 0, "{counter}");
    assert!(counter >= 3000, "{counter}: a later daemon begins with fresh numbers");
    assert!(!host.logs().contains(KEY) && !host.read("state/jobs/j1.json").contains(KEY));
}

#[test]
fn replies_that_are_not_signed_right_are_refused() {
    type Forgery = fn(&Request, &str) -> Option<String>;
    let forgeries: [(&str, Forgery); 7] = [
        ("none", |_, _| None),
        ("nothing in it", |_, _| Some(String::new())),
        ("another key", |request, body| signature("another key, long enough", request, body)),
        ("another body", |request, body| signature(KEY, request, &body.replace("stop", "start"))),
        ("another nonce", |_, body| Some(hmac(KEY, &format!("200\n{}\n{body}", "0".repeat(32))))),
        ("another status", |request, body| {
            Some(hmac(KEY, &format!("201\n{}\n{body}", request.header("X-BootAgent-Nonce")?)))
        }),
        ("our own request's", |request, _| request.header("X-BootAgent-Signature").map(str::to_string)),
    ];
    let mut running = Vec::new();
    for (what, forgery) in forgeries {
        let (bad, good) = (Server::new(), Server::new());
        bad.signs(forgery);
        bad.give(&Job::new("j1", "stop", "web").text());
        good.signs(|request, body| signature(KEY, request, body));
        let mut host = signing_host(&bad);
        host.set("svrlist", &format!("\"{},{}\"", bad.address, good.address));
        host.agent("web", "exec sleep 1000", &[]);
        host.start();
        running.push((what, bad, good, host));
    }
    for (what, bad, good, host) in &running {
        host.wait(&format!("the next server after a reply signed with {what}"), || good.requests().len() >= 2);
        assert!(host.wait_running("web").runs(), "{what}");
        assert!(host.job("j1").is_none(), "a job was taken from a reply signed with {what}");
        let told = |why: &str| host.logs().contains(&format!("server http://{}: {why}", bad.address));
        assert!(told("the reply's signature is") || told("the reply is not signed"), "{what}: {}", host.logs());
    }
}

#[test]
fn a_replayed_reply_is_worth_nothing() {
    let server = Server::new();
    let first: Arc<Mutex<Option<String>>> = Arc::default();
    // What was right for the first status of this body is sent for ever after.
    server.signs(move |request, body| {
        let mut first = first.lock().unwrap();
        first.get_or_insert_with(|| signature(KEY, request, body).unwrap_or_default());
        first.clone()
    });
    let mut host = signing_host(&server);
    host.agent("web", "exec sleep 1000", &[]);
    host.start();
    host.wait("some reports", || server.requests().len() >= 3);
    host.wait("the replay to be refused", || host.logs().contains("the reply's signature is wrong"));
    assert!(host.wait_running("web").runs());
}

#[test]
fn keys_change_one_side_at_a_time() {
    let server = Server::new();
    server.signs(|request, body| signature(KEY, request, body));
    let mut host = signing_host(&server);
    host.start();
    let answered = |host: &Host| host.cli(&["report"]).code == 0;
    assert!(answered(&host));

    // The new key comes first here, while the server still has the old one only.
    write_key(&host, &format!("{NEXT_KEY}\n{KEY}\n"), 0o600);
    server.forget();
    host.signal("HUP");
    host.wait("the new key to sign", || server.requests().last().is_some_and(|last| is_signed(last, NEXT_KEY)));
    assert!(answered(&host), "the old key is accepted beside the new one");
    server.signs(|request, body| signature(NEXT_KEY, request, body));
    assert!(answered(&host));

    // The old one goes.
    write_key(&host, NEXT_KEY, 0o600);
    host.signal("HUP");
    server.signs(|request, body| signature(KEY, request, body));
    host.wait("the old key to be refused", || !answered(&host));
}

#[test]
fn without_a_usable_key_there_is_no_exchange_and_all_else() {
    for (what, text, mode) in [
        ("it is short", "fifteen bytes..", 0o600),
        ("others can read it", KEY, 0o644),
        ("its group can read it", KEY, 0o640),
        ("it is not there", "", 0),
    ] {
        let server = Server::new();
        let mut host = signing_host(&server);
        if mode == 0 {
            fs::remove_file(host.path("key")).unwrap();
        } else {
            write_key(&host, text, mode);
        }
        host.agent("web", "exec sleep 1000", &[]);
        host.start();
        let pid = host.wait_running("web").pid;
        assert!(holds(Duration::from_millis(700), || server.requests().is_empty()), "{what}: it talks all the same");
        let line = "there will be no exchanges with servers";
        assert!(host.logs().lines().any(|log| log.contains("error") && log.contains(line)), "{}", host.logs());
        assert_eq!(host.cli(&["report"]).code, 1);
        let check = host.cli(&["check"]);
        assert!(check.code == 1 && check.err.contains("key_file"), "{check:?}");

        // Mended and told so, it talks.
        server.signs(|request, body| signature(KEY, request, body));
        write_key(&host, KEY, 0o600);
        host.signal("HUP");
        host.wait("a report", || server.requests().iter().any(|request| is_signed(request, KEY)));
        assert_eq!(host.wait_running("web").pid, pid);
        // And a key that turns bad ends it again.
        write_key(&host, "short", 0o600);
        host.signal("HUP");
        host.wait("no more reports", || {
            let before = server.requests().len();
            holds(Duration::from_millis(600), || server.requests().len() == before)
        });
        assert_eq!(host.wait_running("web").pid, pid);
    }
}

#[test]
fn the_reference_server_does_its_half() {
    let Some(program) = example("bootserver") else {
        skipped("the example bootserver (cargo build --examples)");
        return;
    };
    if lacks("curl") {
        return;
    }
    let server = Server::new();
    let mut host = signing_host(&server);
    fs::create_dir_all(host.path("jobs/all")).unwrap();
    host.write("jobs/all/stop.json", &Job::new("j1", "stop", "web").text());
    let port = Server::nowhere();
    let mut command = Command::new(program);
    command.args(["--listen", &port, "--jobs", "jobs", "--key-file", "key"]).current_dir(&host.dir);
    let mut reference = command.spawn().unwrap();
    host.set("svrlist", &format!("\"{port}\""));
    host.agent("web", "exec sleep 1000", &[]);
    host.start();
    let taken = patiently(|| (host.lines("results.jsonl") > 0).then_some(()));
    let signed = run(Command::new("curl").args(["-s", "-o", "/dev/null", "-w", "%{http_code}"]).args([
        "-d",
        "{}",
        &format!("http://{port}/agent/status"),
    ]));
    reference.kill().unwrap();
    reference.wait().unwrap();
    assert!(taken.is_some(), "{}", host.logs());
    assert_eq!(signed.map(|ran| ran.out).as_deref(), Some("403"));
}

/// A minisign key pair in a host's directory; `None` where the tool is missing.
struct Signatory {
    dir: PathBuf,
    /// The public key as `trusted_keys` wants it.
    public: String,
}

impl Signatory {
    fn new(host: &Host, name: &str) -> Option<Signatory> {
        if lacks("minisign") {
            return None;
        }
        let dir = host.path(name);
        fs::create_dir_all(&dir).expect("the host's directory can be written");
        let signatory = Signatory { dir, public: String::new() };
        signatory.minisign(&["-G", "-W", "-p", "pub", "-s", "sec"]);
        let public = fs::read_to_string(signatory.dir.join("pub")).expect("minisign wrote it");
        Some(Signatory { public: public.lines().nth(1).expect("two lines").to_string(), ..signatory })
    }

    fn minisign(&self, args: &[&str]) {
        let ran = run(Command::new("minisign").args(args).current_dir(&self.dir)).expect("minisign ends");
        assert_eq!(ran.code, 0, "minisign {args:?}: {}{}", ran.out, ran.err);
    }

    /// The text of a .minisig file over `bytes`.
    fn sign(&self, bytes: &[u8], comment: &str, extra: &[&str]) -> String {
        fs::write(self.dir.join("file"), bytes).expect("the host's directory can be written");
        self.minisign(&[&["-S", "-s", "sec", "-m", "file", "-x", "file.minisig", "-t", comment], extra].concat());
        fs::read_to_string(self.dir.join("file.minisig")).expect("minisign wrote it")
    }
}

/// A job that installs `package` with this signature.
fn signed(server: &Server, id: &str, name: &str, package: &Package, signature: &str) -> Job {
    let url = server.serve(&package.file, &package.bytes);
    let job = Job::new(id, "install", name).package(&url, package).set("startsecs", "0.2");
    job.set("signature", &miniserde::json::to_string(signature))
}

/// What a refused package leaves on the host, the ledger and the log apart.
fn leftovers(host: &Host, name: &str) -> Vec<PathBuf> {
    let mut left = entries(&host.path("state/downloads"));
    for place in ["state/packages", "state/agents", "run/agents", "state/good/agents.d"] {
        let about = |path: &PathBuf| path.file_name().is_some_and(|file| file.to_string_lossy().starts_with(name));
        left.extend(entries(&host.path(place)).into_iter().filter(about));
    }
    left
}

/// A started host that trusts a fresh key.
fn trusting() -> Option<(Server, Host, Signatory)> {
    let server = Server::new();
    let mut host = Host::with(&server);
    let signatory = Signatory::new(&host, "key-a")?;
    let other = Signatory::new(&host, "key-b")?;
    host.set("trusted_keys", &format!("[\"{}\", \"{}\"]", other.public, signatory.public));
    host.start();
    Some((server, host, signatory))
}

#[test]
fn signed_packages_are_installed() {
    let Some((server, host, signatory)) = trusting() else { return };
    let about = |name: &str, version: &str| format!("name={name} version={version}");
    let one = tarball(&host, "web", "1.0", &staying("one"), &[]);
    let signature = signatory.sign(&one.bytes, &about("web", "1.0"), &[]);
    let job = signed(&server, "i1", "web", &one, &signature).set("envs", "{ \"COLOUR\": \"green\" }");
    host.does(&server, &job, 0);
    assert_eq!(host.wait_running("web").version, "1.0");

    // Legacy signatures, and more words in the comment.
    let two = tarball(&host, "web", "2.0", &staying("two"), &[]);
    let signature = signatory.sign(&two.bytes, &format!("built today {}", about("web", "2.0")), &["-l"]);
    host.does(&server, &signed(&server, "i2", "web", &two, &signature), 0);
    assert_eq!(host.wait_running("web").version, "2.0");

    // Line ends of another system change nothing.
    let three = tarball(&host, "web", "3.0", &staying("three"), &[]);
    let signature = signatory.sign(&three.bytes, &about("web", "3.0"), &[]).replace('\n', "\r\n");
    host.does(&server, &signed(&server, "i3", "web", &three, &signature), 0);
    assert_eq!(host.wait_running("web").version, "3.0");

    // Larger than a legacy signature is good for, and than what is read at a time.
    let zeros = "0".repeat(9 << 20);
    let big_definition = definition("big", "1.0", "exec sleep 1000", &[]);
    let mut big = tar_of(&host, "big", "1.0", &[("zeros", &zeros), ("bootagent.json", &big_definition)]);
    // The packer compresses; what is signed must be large.
    big.bytes.extend(vec![0; 9 << 20]);
    big.checksum = checksum(&big.bytes);
    let legacy = signatory.sign(&big.bytes, &about("big", "1.0"), &["-l"]);
    let message = host.does(&server, &signed(&server, "i4", "big", &big, &legacy), 10);
    assert!(message.contains("8 MiB"), "{message}");
    assert_eq!(leftovers(&host, "big"), Vec::<PathBuf>::new());
}

#[test]
fn packages_that_are_not_signed_right_are_refused() {
    let Some((server, host, signatory)) = trusting() else { return };
    let Some(stranger) = Signatory::new(&host, "stranger") else { return };
    let package = tarball(&host, "web", "1.0", &staying("never"), &[]);
    let other = tarball(&host, "web", "1.0", &staying("another"), &[]);
    let comment = "name=web version=1.0";
    let good = signatory.sign(&package.bytes, comment, &[]);
    let legacy = signatory.sign(&package.bytes, comment, &["-l"]);
    let lines: Vec<&str> = good.lines().collect();
    let mixed: Vec<&str> = legacy.lines().collect();
    let with = |index: usize, line: &str| {
        let mut lines = lines.clone();
        lines[index] = line;
        lines.join("\n") + "\n"
    };
    let cases = [
        ("a key nobody trusts", stranger.sign(&package.bytes, comment, &[])),
        ("a key nobody trusts, legacy", stranger.sign(&package.bytes, comment, &["-l"])),
        ("another file", signatory.sign(&other.bytes, comment, &[])),
        ("another file, legacy", signatory.sign(&other.bytes, comment, &["-l"])),
        ("another agent", signatory.sign(&package.bytes, "name=db version=1.0", &[])),
        ("another version", signatory.sign(&package.bytes, "name=web version=0.9", &[])),
        ("no name", signatory.sign(&package.bytes, "version=1.0", &[])),
        ("minisign's own comment", signatory.sign(&package.bytes, "timestamp:1700000000 file:x hashed", &[])),
        ("a comment that was changed", with(2, "trusted comment: name=web version=1.0 ")),
        ("a comment of the other signature", with(3, mixed[3])),
        ("the other kind of signature", with(1, mixed[1])),
        ("a signature cut short", good[..good.len() / 2].to_string()),
        ("three lines", lines[..3].join("\n")),
        (
            "no base64",
            with(
                1,
                "RU*************************************************************************************************",
            ),
        ),
        ("an empty one", String::new()),
        ("a line", "\n".to_string()),
        ("none", "none".to_string()),
    ];
    for (index, (what, signature)) in cases.iter().enumerate() {
        let mut job = signed(&server, &format!("r{index}"), "web", &package, signature);
        if *what == "none" {
            job = job.set("signature", "null");
        }
        server.give(&job.text());
    }
    for (index, (what, _)) in cases.iter().enumerate() {
        let (code, message) = host.result(&server, &format!("r{index}"));
        assert_eq!(code, 10, "{what}: {message}");
        assert!(message.starts_with("refused: ") && message.contains("sign"), "{what}: {message}");
    }
    assert_eq!(leftovers(&host, "web"), Vec::<PathBuf>::new());
    assert!(host.seen("web").is_none() && host.agents_processes().is_empty());
    // The same host, the same package: it was the signatures.
    host.does(&server, &signed(&server, "good", "web", &package, &good), 0);
    // What runs stays when the next one is refused.
    let pid = host.wait_running("web").pid;
    host.does(&server, &signed(&server, "bad", "web", &other, &good), 10);
    assert_eq!(host.wait_running("web").pid, pid);
    assert!(host.path("state/packages/web/current/bin/agent").exists());
}

#[test]
fn a_server_alone_brings_no_code_onto_the_host() {
    let Some((server, host, signatory)) = trusting() else { return };
    let package = tarball(&host, "web", "1.0", &staying("one"), &[]);
    let signature = signatory.sign(&package.bytes, "name=web version=1.0", &[]);
    let install = |id: &str| signed(&server, id, "web", &package, &signature);
    let evil = definition("web", "1.0", "touch /tmp/evil", &[]);
    let message = host.does(&server, &install("d1").set("definition", &evil), 10);
    assert!(message.contains("definition"), "{message}");
    for (index, name) in
        ["PATH", "HOME", "SHELL", "LD_PRELOAD", "BASH_ENV", "PYTHONPATH", "PERL5OPT"].iter().enumerate()
    {
        let envs = format!("{{ \"COLOUR\": \"green\", \"{name}\": \"/tmp/evil\" }}");
        let message = host.does(&server, &install(&format!("e{index}")).set("envs", &envs), 10);
        assert!(message.contains(name) && !message.contains("/tmp/evil"), "{message}");
    }
    host.does(&server, &install("v1").set("version", "null"), 10);
    assert_eq!(leftovers(&host, "web"), Vec::<PathBuf>::new());
    assert!(!server.requests().iter().any(|request| request.path.starts_with("/packages/")), "it was fetched");

    // The same for what is installed.
    host.does(&server, &install("good"), 0);
    let pid = host.wait_running("web").pid;
    let config = |id: &str| Job::new(id, "config", "web");
    host.does(&server, &config("c1").set("envs", "{ \"LD_PRELOAD\": \"/tmp/evil\" }"), 10);
    host.does(&server, &config("c2").set("definition", &evil), 10);
    assert_eq!(host.wait_running("web").pid, pid);
    host.does(&server, &config("c3").set("envs", "{ \"COLOUR\": \"blue\" }"), 0);
    assert_ne!(host.wait_running("web").pid, pid);
}

#[test]
fn a_refused_deb_is_not_installed() {
    if lacks_root() || lacks("dpkg-deb") {
        return;
    }
    let Some((server, host, signatory)) = trusting() else { return };
    let name = unique_name("signed");
    let mark = host.path("mark");
    let definition = definition(&name, "1.0", "exec sleep 1000", &[]);
    let path = format!("usr/lib/bootagent/{name}.json");
    let postinst = format!("#!/bin/sh\ntouch {}\n", mark.display());
    let package = deb(&host, &name, "1.0", &[(&path, &definition)], &[("postinst", &postinst)]);
    let wrong = signatory.sign(b"something else", &format!("name={name} version=1.0"), &[]);
    host.does(&server, &signed(&server, "i1", &name, &package, &wrong), 10);
    assert!(!mark.exists() && leftovers(&host, &name).is_empty(), "{:?}", leftovers(&host, &name));
    let right = signatory.sign(&package.bytes, &format!("name={name} version=1.0"), &[]);
    host.does(&server, &signed(&server, "i2", &name, &package, &right), 0);
    assert!(mark.exists());
    host.does(&server, &Job::new("u1", "uninstall", &name), 0);
}

#[test]
fn what_can_still_be_written_to_is_not_installed() {
    let server = Server::new();
    let mut host = Host::with(&server);
    host.start();
    let package = tarball(&host, "web", "1.0", &staying("one"), &[]);
    let url = server.serve(&package.file, &package.bytes);
    let job = |id: &str| Job::new(id, "install", "web").package(&url, &package).set("startsecs", "0.2");
    // A child that reads from the network, taken over, could give its descriptor to another process of its user.
    fs::create_dir_all(host.path("state/downloads")).unwrap();
    let mut options = fs::OpenOptions::new();
    options.create(true).truncate(true).read(true).write(true).mode(0o600);
    let writer = options.open(host.path("state/downloads/i1")).unwrap();
    let message = host.does(&server, &job("i1"), 10);
    assert!(message.contains("open for writing elsewhere") && message.contains("helper_user"), "{message}");
    assert_eq!(writer.metadata().unwrap().len(), package.bytes.len() as u64, "it is what was fetched into");
    assert_eq!(leftovers(&host, "web"), Vec::<PathBuf>::new());
    // A reader harms nobody, and the next job has a file of its own.
    let reader = options.open(host.path("state/downloads/i2")).map(|_| fs::File::open(host.path("state/downloads/i2")));
    host.does(&server, &job("i2"), 0);
    assert!(host.wait_running("web").runs());
    drop((reader, writer));
}

#[test]
fn what_was_altered_after_the_download_is_not_installed() {
    let server = Server::new();
    let mut host = Host::with(&server);
    host.env("BOOTAGENT_FAULT", "place-renamed:1");
    host.start();
    let package = tarball(&host, "web", "1.0", &staying("one"), &[]);
    let url = server.serve(&package.file, &package.bytes);
    server.give(&Job::new("i1", "install", "web").package(&url, &package).text());
    // Between the download and all else the daemon dies, and the file becomes another.
    host.wait("the daemon to stop", || proc_status(host.pid(), "State").starts_with('T'));
    host.kill9();
    let files = entries(&host.path("state/packages/web"));
    let [file] = &files[..] else { panic!("{files:?}") };
    let other = tarball(&host, "web", "1.0", &staying("another"), &[]);
    fs::write(file, &other.bytes).unwrap();
    host.env("BOOTAGENT_FAULT", "");
    host.start();
    let (code, message) = host.result(&server, "i1");
    assert!(code == 5 && message.contains(&checksum(&other.bytes)), "{code}: {message}");
    assert_eq!(leftovers(&host, "web"), Vec::<PathBuf>::new());
}
