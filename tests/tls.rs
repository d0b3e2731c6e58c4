//! The tls build against a real nginx with a private certificate authority (`make test-tls`): a good certificate is accepted;
//! one that has expired, is for another name or comes from an unknown authority is not.
#![cfg(feature = "tls")]

mod util;

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use util::*;

/// nginx with one certificate, in front of a test's server.
struct Front {
    child: Child,
    port: u16,
}

impl Front {
    fn start(host: &Host, name: &str, server: &Server) -> Front {
        let address = Server::nowhere();
        let port = address.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).expect("a port");
        let dir = host.path(name);
        let config = format!(
            "daemon off; pid {dir}/pid; error_log {dir}/error.log; events {{ }}\n\
             http {{ access_log off; client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy;\n\
             fastcgi_temp_path {dir}/fastcgi; uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;\n\
             server {{ listen 127.0.0.1:{port} ssl; ssl_certificate {dir}/cert.pem; ssl_certificate_key {dir}/key.pem;\n\
             location / {{ proxy_pass http://{server}; }} }} }}\n",
            dir = dir.display(),
            server = server.address
        );
        fs::write(dir.join("nginx.conf"), config).expect("the host's directory can be written");
        let mut nginx = Command::new(find_program("nginx").expect("looked for before"));
        nginx.arg("-p").arg(&dir).arg("-c").arg(dir.join("nginx.conf")).arg("-e").arg(dir.join("error.log"));
        let child = nginx.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("nginx can be executed");
        let front = Front { child, port };
        host.wait("nginx", || std::net::TcpStream::connect(("127.0.0.1", front.port)).is_ok());
        front
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        kill(self.child.id() as i32, "TERM");
        let _ = self.child.wait();
    }
}

/// Makes two authorities, and certificates by the first: good, expired, of another name; and one by the second.
fn certificates(host: &Host) {
    let script = r#"
        set -e
        cd "$0"
        for ca in ca stranger; do
            openssl req -x509 -newkey rsa:2048 -nodes -keyout $ca.key -out $ca.pem -days 2 -subj "/CN=$ca of a test" \
                -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign
        done
        make() {
            mkdir -p $1
            openssl req -newkey rsa:2048 -nodes -keyout $1/key.pem -out $1/csr -subj "/CN=$2"
            printf 'subjectAltName=DNS:%s\nbasicConstraints=CA:FALSE\nextendedKeyUsage=serverAuth\n' $2 >$1/ext
            : >$1/index; rm -f $1/index.attr
            printf '[ca]\ndefault_ca=d\n[d]\ndatabase=%s/index\nnew_certs_dir=%s\nrand_serial=yes\npolicy=p\n[p]\ncommonName=supplied\n' $1 $1 >$1/conf
            openssl ca -batch -config $1/conf -cert $3.pem -keyfile $3.key -md sha256 -notext -in $1/csr \
                -out $1/cert.pem -startdate $4 -enddate $5 -extfile $1/ext
        }
        make good localhost ca 20200101000000Z 20490101000000Z
        make expired localhost ca 20200101000000Z 20210101000000Z
        make other elsewhere.example ca 20200101000000Z 20490101000000Z
        make unknown localhost stranger 20200101000000Z 20490101000000Z
    "#;
    let ran = run(Command::new("/bin/sh").args(["-c", script]).arg(&host.dir)).expect("openssl ends");
    assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
}

#[test]
fn only_a_good_certificate_is_taken() {
    if lacks("nginx") || lacks("openssl") {
        return;
    }
    let mut host = Host::new();
    certificates(&host);
    // Helpers get it from the daemon, and that from us; no other test runs in this process.
    std::env::set_var("SSL_CERT_FILE", host.path("ca.pem"));
    std::env::remove_var("SSL_CERT_DIR");
    for (name, good) in [("good", true), ("expired", false), ("other", false), ("unknown", false)] {
        let server = Server::new();
        let front = Front::start(&host, name, &server);
        host.set("svrlist", &format!("\"https://localhost:{}\"", front.port));
        host.start();
        if good {
            host.wait("a report over https", || server.requests().len() >= 2);
            let package = tarball(&host, "web", "1.0", &staying("here"), &[]);
            let url = server
                .serve(&package.file, &package.bytes)
                .replace(&server.address, &format!("localhost:{}", front.port));
            let job = Job::new("i1", "install", "web").package(&url.replace("http:", "https:"), &package);
            host.does(&server, &job, 0);
            host.wait_running("web");
        } else {
            host.wait("it to be refused", || {
                host.read("log/bootagent.log").contains(&format!("localhost:{}: ", front.port))
            });
            assert!(stays(|| server.requests().is_empty()), "a certificate {name} was taken");
            assert!(host.wait_running("web").runs());
        }
        host.end("TERM");
    }
}
