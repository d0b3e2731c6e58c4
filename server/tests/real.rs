//! A real daemon on loopback: enrolled, given a package, told to stop it.

#[path = "../../tests/util/skip.rs"]
#[allow(dead_code, reason = "shared with other tests")]
mod skip;
mod util;

use serde_json::{json, Value};
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use util::{bootagent, wait_for, Server};

struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        // SIGTERM, so that it ends its agents too.
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}

fn start(server: &Server, home: &Path, key: &str, trusted: &[&str]) -> Daemon {
    let path = |name: &str| home.join(name).to_str().expect("a path").to_string();
    fs::create_dir_all(home.join("agents.d")).expect("a directory");
    fs::write(home.join("key"), format!("{key}\n")).expect("a key file");
    let closed = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(home.join("key"), closed).expect("a closed key file");
    let config = json!({ "svrlist": server.address, "step": 1, "splay": 0, "hostname": "real-01",
        "agents_dir": path("agents.d"), "state_dir": path("state"), "run_dir": path("run"), "log_dir": path("log"),
        "key_file": path("key"), "trusted_keys": trusted });
    fs::write(home.join("bootagent.json"), config.to_string()).expect("a configuration");
    let mut command = Command::new(bootagent());
    command.arg("-c").arg(home.join("bootagent.json")).arg("run").stdout(Stdio::null()).stderr(Stdio::null());
    Daemon(command.spawn().expect("bootagent starts"))
}

fn package(dir: &Path) -> String {
    let root = dir.join("package");
    fs::create_dir_all(root.join("bin")).expect("a directory");
    fs::write(root.join("bin/web"), "#!/bin/sh\nexec sleep 1000\n").expect("a program");
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(root.join("bin/web"), open).expect("an executable");
    let definition = json!({ "name": "web", "version": "1.0", "exec": ["bin/web"], "startsecs": 1 });
    fs::write(root.join("bootagent.json"), definition.to_string()).expect("a definition");
    let file = dir.join("web-1.0.tar.gz").to_str().expect("a path").to_string();
    let done = Command::new("tar").args(["czf", &file, "-C"]).arg(&root).arg(".").status();
    assert!(done.expect("tar runs").success());
    file
}

#[test]
fn a_real_daemon_is_enrolled_and_does_its_jobs() {
    let mut server = Server::start(&[]);
    let key = server.key(&["--group", "web"]);
    let home = server.dir.join("host");
    let _daemon = start(&server, &home, &key, &[]);
    wait_for("a host", || server.json(&["host", "list", "host=real-01 state=pending"]).pop());
    server.run(&["host", "accept", "real-01"]);
    server.run(&["release", "add", "web", "1.0", "--file", &package(&server.dir)]);
    server.run(&["job", "install", "web", "--select", "host=real-01"]);
    let in_state = |server: &Server, state: &str, count: usize| -> Option<Vec<Value>> {
        Some(server.json(&["job", "list", &format!("state={state}")])).filter(|list| list.len() == count)
    };
    wait_for("an install", || in_state(&server, "verified", 1));
    wait_for("a running agent", || server.json(&["host", "list", "agent.web.status=running"]).pop());
    // The server dies and comes back; the daemon finds it again, and nothing is offered twice.
    server.kill();
    server.resume();
    server.run(&["job", "stop", "web", "--select", "host=real-01"]);
    wait_for("a stop", || in_state(&server, "verified", 2));
    wait_for("a stopped agent", || server.json(&["host", "list", "agent.web.status=stopped"]).pop());
    server.run(&["job", "start", "nosuch", "--select", "host=real-01"]);
    wait_for("a drift", || in_state(&server, "drift", 1));
}

/// A key of minisign without a password: its public line, and the file of its secret.
fn minisign_key(dir: &Path) -> Option<(String, String)> {
    let path = |name: &str| dir.join(name).to_str().expect("a path").to_string();
    let (public, secret) = (path("minisign.pub"), path("minisign.key"));
    let mut command = Command::new("minisign");
    command.args(["-G", "-W", "-p", &public, "-s", &secret]).stdin(Stdio::null()).stdout(Stdio::null());
    if !command.status().is_ok_and(|status| status.success()) {
        skip::skipped("minisign");
        return None;
    }
    let text = fs::read_to_string(&public).expect("the public key");
    Some((text.lines().last().expect("its line").to_string(), secret))
}

#[test]
fn a_real_daemon_takes_a_signed_package_from_elsewhere_and_no_other() {
    let server = Server::start(&[]);
    let Some((public, secret)) = minisign_key(&server.dir) else { return };
    let key = server.key(&["--group", "web", "--auto-accept"]);
    let _daemon = start(&server, &server.dir.join("host"), &key, &[&public]);
    wait_for("a host", || server.json(&["host", "list", "host=real-01"]).pop());
    let file = package(&server.dir);
    let sign = |comment: &str| {
        let mut command = Command::new("minisign");
        let done = command.args(["-S", "-s", &secret, "-m", &file, "-t", comment]).stdout(Stdio::null()).status();
        assert!(done.expect("minisign runs").success());
    };
    let digest = util::hex(&<sha2::Sha256 as sha2::Digest>::digest(fs::read(&file).expect("the package")));
    let (url, checksum, sig) = (format!("file://{file}"), format!("SHA256:{digest}"), format!("{file}.minisig"));
    let add = |version: &str, more: &[&str]| {
        let words = ["release", "add", "web", version, "--url", &url, "--checksum", &checksum];
        server.try_run(&[&words[..], more].concat())
    };
    let ended = |count: usize| {
        let list = server.json(&["job", "list"]);
        (list.len() == count && list.iter().all(|one| !one["ended"].is_null())).then(|| list[0].clone())
    };
    assert_eq!(add("0.9", &[]).0, 0);
    server.run(&["job", "install", "web", "--select", "group=web"]);
    let unsigned = wait_for("a refusal", || ended(1));
    assert_eq!((&unsigned["state"], &unsigned["errcode"]), (&json!("refused"), &json!(10)), "{unsigned}");
    sign("name=web version=2.0");
    let (code, _, error) = add("1.0", &["--sig", &sig]);
    assert!(code == 1 && error.contains("want \"name=web version=1.0\""), "a signature for another version: {error}");
    sign("name=web version=1.0");
    assert_eq!(add("1.0", &["--sig", &sig]).0, 0);
    server.run(&["job", "install", "web", "--select", "group=web"]);
    wait_for("an install", || ended(2));
    wait_for("a verified version", || server.json(&["job", "list", "state=verified"]).pop());
    wait_for("a running agent", || server.json(&["host", "list", "agent.web.status=running"]).pop());
}
