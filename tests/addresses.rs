//! Servers whose name has several addresses, and servers whose answers the HTTP library cannot read.

mod util;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use util::*;

/// A host on which `two-ways` is the name of `::1` first, and of the address of `server` then.
fn host_with_two_ways(server: &Server) -> Host {
    let mut host = Host::new();
    let hosts = host.path("hosts");
    fs::write(&hosts, "127.0.0.1 localhost\n::1 two-ways\n127.0.0.1 two-ways\n").expect("the test's own directory");
    host.behind(&format!("mount --bind {} /etc/hosts &&", hosts.display()));
    host.set("svrlist", &format!("\"two-ways:{}\"", server.port())).set("step", "1");
    host
}

/// Serves each connection to `listener` with `behave`. Returns the peers of all of them, as they come.
fn serve(listener: TcpListener, behave: fn(TcpStream)) -> Arc<Mutex<Vec<SocketAddr>>> {
    let peers = Arc::new(Mutex::new(Vec::new()));
    let known = peers.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            known.lock().expect("nothing panics with it").extend(stream.peer_addr());
            std::thread::spawn(move || behave(stream));
        }
    });
    peers
}

#[test]
fn an_address_that_failed_comes_last_the_next_time() {
    if lacks_root() || lacks("unshare") {
        return;
    }
    let fails = |mut stream: TcpStream| {
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream.write_all(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n");
    };
    // It reads until the client has given up.
    let is_silent = |mut stream: TcpStream| while matches!(stream.read(&mut [0; 4096]), Ok(1..)) {};
    let mut running = Vec::new();
    for (what, behave) in [("fails", fails as fn(TcpStream)), ("is silent", is_silent)] {
        let server = Server::new();
        let first = serve(TcpListener::bind(("::1", server.port())).expect("IPv6 on the loopback"), behave);
        let mut host = host_with_two_ways(&server);
        host.start();
        running.push((what, host, server, first));
    }
    for (what, host, server, first) in &running {
        host.wait(&format!("reports to the second address, as the first {what}"), || server.statuses().len() >= 3);
        let tries = first.lock().expect("nothing panics with it").len();
        assert_eq!(tries, 1, "the first address {what}, and was tried again\n{}", host.logs());
        assert_eq!(server.requests()[0].header("Host"), Some(&*format!("two-ways:{}", server.port())));
    }
}

#[test]
fn the_address_that_answered_comes_first_the_next_time() {
    if lacks_root() || lacks("unshare") {
        return;
    }
    let server = Server::new();
    let dead = TcpListener::bind(("::1", server.port())).expect("IPv6 on the loopback");
    // The queue of connections is full, and the kernel drops what comes, as a firewall does.
    let held: Vec<TcpStream> = {
        let connect = |_| TcpStream::connect_timeout(&dead.local_addr().ok()?, Duration::from_millis(200)).ok();
        (0..5000).map_while(connect).collect()
    };
    assert!(held.len() < 5000, "the queue is never full");
    let mut host = host_with_two_ways(&server);
    host.start();
    host.wait("a report to the second address", || !server.statuses().is_empty());
    let own: Vec<SocketAddr> = held.iter().filter_map(|stream| stream.local_addr().ok()).collect();
    let peers = serve(dead, drop);
    host.wait("more reports", || server.statuses().len() >= 3);
    let peers = peers.lock().expect("nothing panics with it").clone();
    assert!(peers.iter().all(|peer| own.contains(peer)), "the first address was tried again\n{}", host.logs());
}

#[test]
fn an_answer_that_the_library_cannot_read_costs_one_more_request() {
    let server = Server::new();
    let body = "{\"errcode\": 0}";
    let head = [&b"HTTP/1.1 200 D'accord, bien s\xfbr\r\nX-Served-By: caf\xe9\r\n"[..], b"Content-Length: 14\r\n\r\n"];
    server.mode(Mode::Raw([head.concat(), body.as_bytes().to_vec()].concat()));
    let mut host = Host::with(&server);
    host.set("splay", "86400").set("step", "86400");
    host.start();
    for requests in [2, 3, 4] {
        let ran = host.cli(&["report"]);
        assert_eq!(ran.code, 0, "{ran:?}\n{}", host.logs());
        assert_eq!(server.statuses().len(), requests, "{ran:?}");
    }
    let log = host.logs();
    assert!(!log.contains("UTF-8"), "{log}");
}
