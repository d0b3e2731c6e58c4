//! Signed packages: which ones are installed when there are trusted keys, that a server alone cannot bring code onto a host,
//! and that only verified packages are installed.

mod util;

use std::fs;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;
use std::process::Command;

use util::*;

/// What the binary under test says of itself.
const VERSION: &str = env!("CARGO_PKG_VERSION");

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

/// The `envs` of a definition that lets jobs set one variable.
const COLOUR: &str = "{ \"COLOUR\": \"none\" }";

/// What an agent's process has in its environment under this name.
fn variable(host: &Host, agent: &str, name: &str) -> Option<String> {
    let environ = fs::read(format!("/proc/{}/environ", host.wait_running(agent).pid)).ok()?;
    let text = String::from_utf8_lossy(&environ).into_owned();
    text.split('\0').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')).map(str::to_string)
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

/// Waits until nothing is left; a result may be sent before the last file is removed.
fn wait_for_no_leftovers(host: &Host, name: &str) {
    host.wait(&format!("no leftovers of {name}"), || leftovers(host, name).is_empty());
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
    let one = tarball(&host, "web", "1.0", &staying("one"), &[("envs", COLOUR)]);
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
    wait_for_no_leftovers(&host, "big");
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
    wait_for_no_leftovers(&host, "web");
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
    let package = tarball(&host, "web", "1.0", &staying("one"), &[("envs", COLOUR)]);
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
    wait_for_no_leftovers(&host, "web");
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
fn a_job_sets_only_variables_that_the_definition_names() {
    let Some((server, host, signatory)) = trusting() else { return };
    let naming = |version: &str, envs: &str| {
        let package = tarball(&host, "web", version, &staying(version), &[("envs", envs)]);
        let signature = signatory.sign(&package.bytes, &format!("name=web version={version}"), &[]);
        (package, signature)
    };
    let job = |id: &str, (package, signature): &(Package, String)| signed(&server, id, "web", package, signature);
    let one = naming("1.0", "{ \"COLOUR\": \"none\", \"PATH\": \"/usr/bin:/bin\" }");
    let evil = "{ \"COLOUR\": \"green\", \"GIO_EXTRA_MODULES\": \"/tmp/evil\" }";

    // What a package names is known when it is here: nothing of it stays.
    let message = host.does(&server, &job("i1", &one).set("envs", evil), 10);
    assert!(message.contains("GIO_EXTRA_MODULES") && !message.contains("COLOUR"), "{message}");
    wait_for_no_leftovers(&host, "web");
    host.does(&server, &job("i2", &one).set("envs", "{ \"COLOUR\": \"green\" }"), 0);
    assert_eq!(variable(&host, "web", "COLOUR").as_deref(), Some("green"));
    let pid = host.wait_running("web").pid;
    // The same package again, and a change without one.
    host.does(&server, &job("i3", &one).set("envs", evil), 10);
    let config = |id: &str, envs: &str| Job::new(id, "config", "web").set("envs", envs);
    host.does(&server, &config("c1", evil), 10);
    // Named by the definition, and a shell's own all the same.
    host.does(&server, &config("c2", "{ \"PATH\": \"/tmp/evil\" }"), 10);
    // What is refused changes nothing.
    let two = naming("2.0", "{ \"SIZE\": \"none\" }");
    host.does(&server, &job("u1", &two).set("action", "\"upgrade\"").set("envs", "{ \"COLOUR\": \"red\" }"), 10);
    assert_eq!(host.wait_running("web").pid, pid);
    assert_eq!(host.wait_running("web").version, "1.0");

    // A definition that no longer names what a job has set: it does not count any more, and that is said.
    host.does(&server, &job("u2", &two).set("action", "\"upgrade\""), 0);
    assert_eq!(variable(&host, "web", "COLOUR"), None);
    assert_eq!(variable(&host, "web", "SIZE").as_deref(), Some("none"));
    let line = "agent \"web\": COLOUR, set by a job and not named in its definition's envs";
    assert!(host.logs().contains(line), "{}", host.logs());
    host.wait("the server to hear of it", || {
        server.statuses().iter().any(|status| {
            items(status, "events").iter().any(|event| text(event, "message").starts_with("COLOUR, set by a job"))
        })
    });
}

#[test]
fn what_jobs_set_before_there_were_trusted_keys_must_be_named_too() {
    let server = Server::new();
    let mut host = Host::with(&server);
    let Some(signatory) = Signatory::new(&host, "key-a") else { return };
    let package = tarball(&host, "web", "1.0", &staying("one"), &[("envs", COLOUR)]);
    let url = server.serve(&package.file, &package.bytes);
    let envs = "{ \"COLOUR\": \"green\", \"LD_PRELOAD\": \"/tmp/evil\", \"SIZE\": \"big\" }";
    let given = definition("job", "1.0", "exec sleep 1000", &[("envs", COLOUR)]);
    host.start();
    let install = |id: &str, name: &str| Job::new(id, "install", name).package(&url, &package).set("startsecs", "0.2");
    host.does(&server, &install("i1", "web").set("envs", envs), 0);
    let own = tar_of(&host, "job", "1.0", &[("x", "x")]);
    let own_url = server.serve(&own.file, &own.bytes);
    let job = Job::new("i2", "install", "job").package(&own_url, &own).set("definition", &given).set("envs", envs);
    host.does(&server, &job, 0);
    for name in ["web", "job"] {
        assert_eq!(variable(&host, name, "SIZE").as_deref(), Some("big"), "{name}");
    }
    host.end("QUIT");

    host.set("trusted_keys", &format!("[\"{}\"]", signatory.public));
    host.start();
    // An agent that runs with variables that do not count any more is restarted.
    let left = |name: &str, variable_name: &str| variable(&host, name, variable_name);
    host.wait("what is not named to be gone", || ["web", "job"].iter().all(|name| left(name, "SIZE").is_none()));
    assert_eq!(left("web", "COLOUR").as_deref(), Some("green"));
    assert_eq!(left("web", "LD_PRELOAD"), None);
    // A job's definition is no signed one: it stays, and names nothing.
    assert_eq!(left("job", "COLOUR").as_deref(), Some("none"));
    let config = |id: &str, name: &str| Job::new(id, "config", name).set("envs", "{ \"COLOUR\": \"red\" }");
    host.does(&server, &config("c1", "job"), 10);
    host.does(&server, &config("c2", "web"), 0);
}

#[test]
fn what_is_not_verified_lies_under_a_name_that_no_server_chose() {
    use std::io::{Read, Write};
    let Some((server, host, _)) = trusting() else { return };
    let slow = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("\"http://{}/evil.so.tar\"", slow.local_addr().unwrap());
    let job = Job::new("libevil.so", "install", "other").set("url", &url).set("version", "\"1.0\"");
    let job = job.set("checksum", &format!("\"{}\"", checksum(b"what never comes"))).set("signature", "\"none\"");
    server.give(&job.text());
    let (mut taken, _) = slow.accept().unwrap();
    let _ = taken.read(&mut [0; 4096]).unwrap();
    taken.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nunverified bytes").unwrap();
    let there = || fs::read(host.download("libevil.so")).is_ok_and(|bytes| bytes == b"unverified bytes");
    host.wait("the bytes to be on disk", there);
    let downloads = entries(&host.path("state/downloads"));
    assert_eq!(downloads, [host.download("libevil.so")]);
    let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(host.path("state/downloads")), 0o700);
    assert_eq!(mode(host.download("libevil.so")), 0o600);
    assert_eq!(entries(&host.path("state/packages")), Vec::<PathBuf>::new());
    drop(taken);
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
    wait_for_no_leftovers(&host, &name);
    assert!(!mark.exists());
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
    let mut options = fs::OpenOptions::new();
    options.create(true).truncate(true).read(true).write(true).mode(0o600);
    let writer = options.open(host.download("i1")).unwrap();
    let message = host.does(&server, &job("i1"), 10);
    assert!(message.contains("open for writing elsewhere") && message.contains("helper_user"), "{message}");
    assert_eq!(writer.metadata().unwrap().len(), package.bytes.len() as u64, "it is what was fetched into");
    wait_for_no_leftovers(&host, "web");
    // A reader does no harm, and the next job has a file of its own.
    let reader = options.open(host.download("i2")).map(|_| fs::File::open(host.download("i2")));
    host.does(&server, &job("i2"), 0);
    assert!(host.wait_running("web").runs());
    drop((reader, writer));
}

#[test]
fn what_was_altered_after_the_download_is_not_installed() {
    if needs_faults() {
        return;
    }
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
    wait_for_no_leftovers(&host, "web");
}

#[test]
fn the_daemons_own_package_must_be_signed_too() {
    let server = Server::new();
    let mut host = Host::with(&server);
    let Some(signatory) = Signatory::new(&host, "key-a") else { return };
    host.install();
    host.set("trusted_keys", &format!("[\"{}\"]", signatory.public));
    host.agent("web", "exec sleep 1000", &[]);
    host.start();
    let pid = host.wait_running("web").pid;
    let installed = fs::read(host.path("bin/bootagent")).unwrap();
    let mut new = installed.clone();
    new.push(b'\n');
    fs::create_dir_all(host.path("build/own")).unwrap();
    fs::write(host.path("build/own/bootagent"), &new).unwrap();
    fs::set_permissions(host.path("build/own/bootagent"), fs::Permissions::from_mode(0o755)).unwrap();
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(host.path("build/own")).arg("-czf").arg(host.path("build/own.tar.gz")).arg("bootagent");
    assert!(tar.status().unwrap().success());
    let bytes = fs::read(host.path("build/own.tar.gz")).unwrap();
    let url = server.serve("bootagent.tar.gz", &bytes);
    let quoted = |text: &str| miniserde::json::to_string(text);
    let job = |id: &str, signature: &str| {
        let job = Job::new(id, "upgrade", "bootagent").set("version", &format!("\"{VERSION}\"")).set("startsecs", "20");
        let job = job.set("url", &quoted(&url)).set("checksum", &quoted(&checksum(&bytes)));
        job.set("signature", &quoted(signature))
    };
    let Some(stranger) = Signatory::new(&host, "stranger") else { return };
    for (id, signature) in [
        ("none", String::new()),
        ("stranger", stranger.sign(&bytes, &format!("name=bootagent version={VERSION}"), &[])),
        ("agent", signatory.sign(&bytes, &format!("name=web version={VERSION}"), &[])),
        ("version", signatory.sign(&bytes, "name=bootagent version=9.8", &[])),
        ("file", signatory.sign(b"another", &format!("name=bootagent version={VERSION}"), &[])),
    ] {
        let message = host.does(&server, &job(id, &signature), 10);
        assert!(message.starts_with("refused: ") && message.contains("sign"), "{id}: {message}");
        wait_for_no_leftovers(&host, "bootagent");
    }
    assert!(host.lives() && fs::read(host.path("bin/bootagent")).unwrap() == installed);
    host.does(&server, &job("good", &signatory.sign(&bytes, &format!("name=bootagent version={VERSION}"), &[])), 0);
    assert!(fs::read(host.path("bin/bootagent")).unwrap() == new, "another binary is installed");
    assert_eq!(host.wait_running("web").pid, pid);
}
