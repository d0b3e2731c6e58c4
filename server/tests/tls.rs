//! The pages' door with TLS and behind a proxy, and a server that is asked from somewhere else.

mod util;

use serde_json::Value;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use util::{try_exchange, wait_for, Server, DEADLINE};

/// A directory that goes away.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Dir {
        let path = std::env::temp_dir().join(format!("bootserver-tls-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).expect("a directory");
        Dir(path)
    }

    fn file(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("a path").to_string()
    }

    /// A new certificate for localhost, and its key.
    fn certify(&self) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_string()]).expect("a certificate");
        write(&self.file("key.pem"), &made.signing_key.serialize_pem(), 0o600);
        write(&self.file("cert.pem"), &made.cert.pem(), 0o644);
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn write(path: &str, text: &str, mode: u32) {
    fs::write(path, text).expect("a file");
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("its mode");
}

fn start_tls(dir: &Dir) -> Server {
    dir.certify();
    Server::start(&["--tls-cert", &dir.file("cert.pem"), "--tls-key", &dir.file("key.pem")])
}

fn port(server: &Server) -> String {
    server.pages.rsplit(':').next().expect("a port").to_string()
}

/// One request over TLS, to whom `cert` is trusted.
fn exchange(server: &Server, cert: &str, request: &str) -> Result<(String, String), String> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(cert).expect("a certificate")).expect("a root");
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").expect("a name");
    let session = ClientConnection::new(Arc::new(config), name).expect("a client");
    let mut stream = StreamOwned::new(session, TcpStream::connect(&server.pages).expect("a connection"));
    stream.write_all(request.as_bytes()).map_err(|error| error.to_string())?;
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    let text = String::from_utf8_lossy(&answer).into_owned();
    match text.split_once("\r\n\r\n") {
        Some((head, body)) => Ok((head.to_lowercase(), body.to_string())),
        None => Err(format!("{read:?}")),
    }
}

/// Runs a verb of a server somewhere else.
fn run_at(url: &str, token: &str, cert: &str, words: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bootserver"));
    command.args(["--server", url, "--token-file", token]).args(words).env("SSL_CERT_FILE", cert);
    let output = command.output().expect("bootserver runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

fn log_in(server: &Server, more: &str) -> String {
    let body = "name=anna&password=correct+horse";
    format!(
        "POST /login HTTP/1.1\r\nHost: localhost:{}\r\n{more}Content-Type: application/x-www-form-urlencoded\r\n\
         Content-Length: {}\r\n\r\n{body}",
        port(server),
        body.len()
    )
}

fn add_anna(server: &Server) {
    let file = server.dir.join("password");
    fs::write(&file, "correct horse\n").expect("a file");
    server.run(&["user", "add", "anna", "--role", "admin", "--password-file", file.to_str().expect("a path")]);
}

#[test]
fn a_cookie_under_tls_stays_under_tls() {
    let dir = Dir::new("cookie");
    let server = start_tls(&dir);
    add_anna(&server);
    let cert = dir.file("cert.pem");
    let own = format!("Origin: https://localhost:{}\r\n", port(&server));
    let (head, _) = exchange(&server, &cert, &log_in(&server, &own)).expect("an answer");
    assert!(head.starts_with("http/1.1 303"), "{head}");
    assert!(head.contains("set-cookie: __host-bootserver="), "{head}");
    assert!(head.contains("; secure"), "{head}");
    let plain = format!("Origin: http://localhost:{}\r\n", port(&server));
    let (head, _) = exchange(&server, &cert, &log_in(&server, &plain)).expect("an answer");
    assert!(head.starts_with("http/1.1 403"), "another scheme is another origin: {head}");
    let without = try_exchange(&server.pages, "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert!(without.is_err(), "plain HTTP is not answered: {without:?}");
}

#[test]
fn every_verb_works_from_somewhere_else() {
    let dir = Dir::new("client");
    let server = start_tls(&dir);
    let (cert, token) = (dir.file("cert.pem"), dir.file("token"));
    server.run(&["token", "new", "admin", "--role", "admin", "--out", &token]);
    server.run(&["token", "new", "look", "--role", "viewer", "--out", &dir.file("viewer")]);
    let url = format!("https://localhost:{}", port(&server));
    let package = dir.file("web-1.0.tar.gz");
    // More than one TLS record, and more than the API takes in a JSON body.
    fs::write(&package, vec![b'x'; 3 << 20]).expect("a package");
    for words in [
        vec!["group", "new", "web"],
        vec!["key", "new", "--group", "web"],
        vec!["release", "add", "web", "1.0", "--file", &package],
        vec!["user", "add", "bert", "--role", "viewer"],
        vec!["user", "list"],
        vec!["token", "list"],
        vec!["host", "list"],
        vec!["job", "list"],
        vec!["release", "list"],
        vec!["events"],
        vec!["audit"],
    ] {
        let (code, out, error) = run_at(&url, &token, &cert, &words);
        assert_eq!(code, 0, "{words:?}: {out}{error}");
    }
    let releases = server.json(&["release", "list"]);
    assert_eq!(releases[0]["artifacts"][0]["size"], 3 << 20, "{releases:?}");
    let audit = server.json(&["audit"]);
    assert!(
        audit.iter().any(|line: &Value| line["who"] == "token:admin" && line["action"] == "release add"),
        "{audit:?}"
    );
    for (token, cert, words, code, part) in [
        ("viewer", "cert.pem", vec!["group", "new", "db"], 1, "needs the role admin"),
        ("token", "cert.pem", vec!["doctor"], 2, "not with --server"),
        ("token", "cert.pem", vec!["backup", "/tmp/x"], 2, "not with --server"),
        ("nothing", "cert.pem", vec!["host", "list"], 1, "cannot read"),
        ("cert.pem", "cert.pem", vec!["host", "list"], 1, "token"),
        ("token", "nothing", vec!["host", "list"], 1, "SSL_CERT_FILE"),
    ] {
        let (found, _, error) = run_at(&url, &dir.file(token), &dir.file(cert), &words);
        assert_eq!(found, code, "{words:?}: {error}");
        assert!(error.contains(part), "{words:?}: {error}");
    }
    for (url, code, part) in [
        ("http://boot.example.com", 2, "in the clear"),
        ("boot.example.com", 2, "want http"),
        ("https://localhost:1", 3, "no server answers"),
    ] {
        let (found, _, error) = run_at(url, &token, &cert, &["host", "list"]);
        assert_eq!(found, code, "{url}: {error}");
        assert!(error.contains(part), "{url}: {error}");
    }
    // A certificate that is not trusted.
    let other = Dir::new("other");
    other.certify();
    let (code, _, error) = run_at(&url, &token, &other.file("cert.pem"), &["host", "list"]);
    assert_eq!(code, 1, "{error}");
    assert!(error.contains("set SSL_CERT_FILE to who signed it"), "{error}");
}

#[test]
fn a_renewed_certificate_is_taken() {
    let dir = Dir::new("renew");
    let server = start_tls(&dir);
    let old = dir.file("old.pem");
    fs::copy(dir.file("cert.pem"), &old).expect("a copy");
    let get = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
    assert!(exchange(&server, &old, get).is_ok());
    // One that will not do changes nothing.
    let cert = fs::read_to_string(dir.file("cert.pem")).expect("a certificate");
    write(&dir.file("cert.pem"), "nothing", 0o644);
    assert!(exchange(&server, &old, get).is_ok());
    write(&dir.file("cert.pem"), &cert, 0o644);
    dir.certify();
    wait_for("the new certificate", || exchange(&server, &dir.file("cert.pem"), get).ok());
    assert!(exchange(&server, &old, get).is_err());
}

/// Starts a server that should not start: exit code and stderr. One that does start is ended.
fn try_serve(server: &Server, words: &[&str]) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bootserver"));
    command.arg("-d").arg(&server.dir).arg("serve").args(words).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("bootserver starts");
    let begun = Instant::now();
    let ended = loop {
        match child.try_wait().expect("its state") {
            None if begun.elapsed() < DEADLINE => std::thread::sleep(Duration::from_millis(20)),
            ended => break ended,
        }
    };
    // It has no effect on one that has ended.
    let _ = child.kill();
    let output = child.wait_with_output().expect("its log");
    let code = ended.and_then(|status| status.code()).unwrap_or(-1);
    (code, String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_door_that_is_not_safe_does_not_open() {
    let dir = Dir::new("refused");
    dir.certify();
    let (cert, key) = (dir.file("cert.pem"), dir.file("key.pem"));
    fs::copy(&key, dir.file("open.pem")).expect("a copy");
    fs::set_permissions(dir.file("open.pem"), fs::Permissions::from_mode(0o644)).expect("its mode");
    let other = Dir::new("refused-other");
    other.certify();
    let mut server = Server::start(&[]);
    server.kill();
    for (words, code, part) in [
        (vec!["--pages", "0.0.0.0:0"], 1, "in the clear"),
        (vec!["--pages", "[::]:0"], 1, "in the clear"),
        (vec!["--tls-cert", &cert], 2, "--tls-key"),
        (vec!["--tls-cert", &cert, "--tls-key", &dir.file("open.pem")], 1, "everybody can read it"),
        (vec!["--tls-cert", &cert, "--tls-key", &other.file("key.pem")], 1, "--tls-key"),
        (vec!["--tls-cert", &key, "--tls-key", &key], 1, "want certificates in PEM"),
        (vec!["--tls-cert", &cert, "--tls-key", &dir.file("nothing")], 1, "cannot read"),
        (vec!["--behind-proxy", "10.0.0.0/33"], 2, "want an address and a length"),
        (vec!["--pages-url", "boot.example.com"], 2, "want http"),
    ] {
        let (found, error) = try_serve(&server, &words);
        assert_eq!(found, code, "{words:?}: {error}");
        assert!(error.contains(part), "{words:?}: {error}");
    }
    assert!(Path::new(&key).exists());
}

#[test]
fn only_the_proxy_says_who_the_client_is() {
    let believed = Server::start(&["--behind-proxy", "127.0.0.1/32"]);
    let not = Server::start(&["--behind-proxy", "10.0.0.0/8"]);
    for server in [&believed, &not] {
        add_anna(server);
    }
    let ask = |server: &Server, more: &str| try_exchange(&server.pages, &log_in(server, more)).expect("an answer");
    let (status, head, _) = ask(&believed, "X-Forwarded-For: 203.0.113.9\r\nX-Forwarded-Proto: https\r\n");
    assert_eq!(status, 303);
    assert!(head.contains("set-cookie: __host-bootserver=") && head.contains("; secure"), "{head}");
    let (status, head, _) = ask(&not, "X-Forwarded-For: 203.0.113.9\r\nX-Forwarded-Proto: https\r\n");
    assert_eq!(status, 303);
    assert!(head.contains("set-cookie: bootserver="), "{head}");
    let login = |server: &Server| {
        let found = server.json(&["audit"]).into_iter().rfind(|line| line["action"] == "login").expect("a line");
        found["after"].as_str().unwrap_or_default().to_string()
    };
    assert_eq!(login(&believed), "from 203.0.113.9");
    assert_eq!(login(&not), "from 127.0.0.1");
    // What the client says comes first; the proxy's word is the last, in the same line or in one of its own.
    for lines in
        ["X-Forwarded-For: 10.1.1.1, 203.0.113.7\r\n", "X-Forwarded-For: 10.1.1.1\r\nX-Forwarded-For: 203.0.113.7\r\n"]
    {
        assert_eq!(ask(&believed, lines).0, 303);
        assert_eq!(login(&believed), "from 203.0.113.7", "{lines}");
    }
    // Behind a proxy, loopback is no proof of being on this machine.
    for server in [&believed, &not] {
        let metrics =
            try_exchange(&server.pages, "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("an answer");
        assert_eq!(metrics.0, 401);
    }
}
