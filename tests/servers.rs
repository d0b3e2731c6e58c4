//! Downloads from real servers: nginx and busybox over http, vsftpd, pure-ftpd and pyftpdlib over ftp. BOOTAGENT_TEST_CUTS says
//! how often the network breaks in one download.

mod util;

use std::fs;
use std::time::{Duration, Instant};

use util::*;

/// `program` on a root of its own; says so when it is missing.
fn mirror(program: Program, host: &Host, ip: &str) -> Option<Mirror> {
    // They want to change their user, or root.
    if matches!(program, Program::Vsftpd | Program::PureFtpd) && lacks_root() {
        return None;
    }
    let mirror = Mirror::start(program, host, ip);
    if mirror.is_none() {
        skipped(program.package());
    }
    mirror
}

/// What is told about the download of a job: bytes that are there, and all.
fn progress(host: &Host, id: &str) -> Option<(u64, u64)> {
    let job = host.job(id)?;
    let (there, all) = text(&job, "progress").strip_suffix(" bytes")?.split_once(" of ")?;
    Some((there.parse().ok()?, all.parse().ok()?))
}

/// The size of a job's download file.
fn part(host: &Host) -> u64 {
    entries(&host.path("state/downloads"))
        .iter()
        .filter_map(|path| fs::metadata(path).ok())
        .map(|data| data.len())
        .sum()
}

/// A package is fetched from it slowly, and the server is killed meanwhile; then it is there again.
fn outlives_its_server(program: Program) {
    if needs_faults() {
        return;
    }
    let server = Server::new();
    let mut host = Host::with(&server);
    host.set("download_rate", "2500000").env("BOOTAGENT_FETCH_SECS", "0.1");
    let Some(mut mirror) = mirror(program, &host, "127.0.0.1") else { return };
    let user = if program == Program::PureFtpd { "me:pass%20word@" } else { "" };
    host.start();
    // More than the buffers between two processes hold, as what is in them still comes when the server is dead.
    let package = heavy(&host, "web", "1.0", 12_000);
    let all = package.bytes.len() as u64;
    fs::create_dir(mirror.root.join("a dir")).expect("the host's directory can be written");
    fs::write(mirror.root.join("a dir/web+1.0 (x).tar"), &package.bytes).expect("the same");
    let job = |id: &str, name: &str, path: &str| {
        Job::new(id, "install", name).package(&mirror.url(user, path), &package).set("startsecs", "0.2")
    };
    server.give(&job("slow", "web", "a%20dir/web+1.0%20%28x%29.tar").text());
    let (mut there, mut told, mut table) = (0, 0, String::new());
    host.wait("a part of the package", || {
        (there, told) = progress(&host, "slow").unwrap_or_default();
        if there > all / 10 {
            table = host.ok(&["jobs"]);
        }
        !table.is_empty()
    });
    let missing = [job("m0", "none", "a%20dir/no%20such.tar"), job("m1", "none", "b/x.tar")];
    mirror.kill();
    assert!(told == all && there < all, "{there} of {told} bytes, and it has {all}");
    assert!(table.contains(&format!(" of {}", bootagent::text::size(all as f64))), "{table}");
    host.wait("the cut to be noticed", || host.read("log/bootagent.log").contains(" interrupted, tried again"));
    let left = part(&host);
    assert!(left >= there && left < all, "{left} of {all} bytes are left");
    mirror.again();
    let mut smallest = left;
    // Fetching, hashing and unpacking all of it takes a busy machine its time.
    let deadline = Instant::now() + PATIENCE * 6;
    while server.result("slow").is_none() {
        assert!(Instant::now() < deadline, "no result\n{}", host.logs());
        // It is gone when the package takes its place.
        smallest = Some(part(&host)).filter(|size| *size > 0).unwrap_or(smallest).min(smallest);
        pause();
    }
    assert_eq!(host.result(&server, "slow").0, 0, "{}", host.logs());
    assert_eq!((smallest, server.times_taken("slow")), (left, 1), "it did not go on where it was\n{}", host.logs());
    host.wait_running("web");
    for missing in missing {
        let message = host.does(&server, &missing, 4);
        assert!(message.contains(if program.is_ftp() { "550" } else { "404" }), "{message}");
    }
    if program.is_ftp() {
        let url = mirror.url(user, "%2Fa%20dir/web+1.0%20%28x%29.tar;type=i");
        host.does(&server, &Job::new("root", "install", "again").package(&url, &package), 1);
        assert!(host.logs().contains("job \"root\""), "the definition in it is web's, and it came to be read");
    }
}

#[test]
fn nginx_may_be_killed() {
    outlives_its_server(Program::Nginx);
}

#[test]
fn busybox_httpd_may_be_killed() {
    outlives_its_server(Program::Httpd);
}

#[test]
fn vsftpd_may_be_killed() {
    outlives_its_server(Program::Vsftpd);
}

#[test]
fn pure_ftpd_may_be_killed() {
    outlives_its_server(Program::PureFtpd);
}

#[test]
fn pyftpdlib_may_be_killed() {
    outlives_its_server(Program::Pyftpdlib);
}

/// A download over a network that breaks all the time: it ends, once, with what was promised.
fn survives_cuts(program: Program) {
    if needs_faults() {
        return;
    }
    let times = std::env::var("BOOTAGENT_TEST_CUTS").ok().and_then(|text| text.parse().ok()).unwrap_or(30);
    let server = Server::new();
    let mut host = Host::with(&server);
    host.env("BOOTAGENT_FETCH_SECS", "0.01").env("BOOTAGENT_STALL_SECS", "1");
    let Some(mirror) = mirror(program, &host, "127.0.0.1") else { return };
    host.start();
    let package = heavy(&host, "web", "1.0", times * 20);
    fs::write(mirror.root.join(&package.file), &package.bytes).expect("the host's directory can be written");
    let cutter = Cutter::new(mirror.address, times, (package.bytes.len() / times) as u64);
    let url = mirror.url("", &package.file).replace(&mirror.address.to_string(), &cutter.address.to_string());
    server.give(&Job::new("cut", "install", "web").package(&url, &package).set("startsecs", "0.2").text());
    let mut parts = vec![0];
    while server.result("cut").is_none() {
        let (before, cuts) = (part(&host), cutter.cuts());
        host.wait("another cut, or the end", || cutter.cuts() > cuts || server.result("cut").is_some());
        parts.extend([before, part(&host)].iter().filter(|size| **size > 0));
    }
    assert_eq!(host.result(&server, "cut").0, 0, "{}", host.logs());
    assert!(cutter.cuts() >= times, "only {} cuts", cutter.cuts());
    assert!(parts.is_sorted(), "what was fetched was given up: {parts:?}");
    host.wait_running("web");
    assert_eq!(server.times_taken("cut"), 1);
}

#[test]
fn http_survives_cuts() {
    survives_cuts(Program::Nginx);
}

#[test]
fn ftp_survives_cuts() {
    survives_cuts(Program::Vsftpd);
}

#[test]
fn ftp_may_want_a_login() {
    let server = Server::new();
    let host = &mut Host::with(&server);
    host.start();
    for program in [Program::PureFtpd, Program::Pyftpdlib] {
        let Some(mirror) = mirror(program, host, "127.0.0.1") else { continue };
        let name = format!("{program:?}");
        let package = tarball(host, &name, "1.0", &staying("up"), &[]);
        fs::write(mirror.root.join(&package.file), &package.bytes).expect("the host's directory can be written");
        let job = |id: &str, user: &str| {
            let url = mirror.url(user, &package.file);
            Job::new(&format!("{name}-{id}"), "install", &name).package(&url, &package).set("startsecs", "0.2")
        };
        let message = host.does(&server, &job("wrong", "me:wr0ng-secret@"), 4);
        assert!(message.contains("530"), "{message}");
        assert!(!message.contains("wr0ng-secret") && !host.logs().contains("wr0ng-secret"), "{message}");
        host.does(&server, &job("right", "me:pass%20word@"), 0);
        host.wait_running(&name);
        assert!(!host.logs().contains("pass word") && !host.logs().contains("pass%20word"));
    }
}

#[test]
fn a_name_may_have_an_ipv6_address_only() {
    if lacks_root() || std::net::TcpListener::bind("[::1]:0").is_err() && skipped("IPv6") {
        return;
    }
    let server = Server::new();
    let mut host = Host::with(&server);
    host.write("hosts", "127.0.0.1 localhost\n::1 packages.test\n");
    let hosts = host.path("hosts");
    host.behind(&format!("mount --bind {} /etc/hosts;", hosts.display()));
    host.start();
    for program in PROGRAMS {
        let Some(mirror) = mirror(program, &host, "::1") else { continue };
        let name = format!("{program:?}");
        let package = tarball(&host, &name, "1.0", &staying("up"), &[]);
        fs::write(mirror.root.join(&package.file), &package.bytes).expect("the host's directory can be written");
        let user = if program == Program::PureFtpd { "me:pass%20word@" } else { "" };
        let literal = mirror.url(user, &package.file);
        let url = literal.replace("[::1]", "packages.test");
        host.does(&server, &Job::new(&name, "install", &name).package(&url, &package).set("startsecs", "0.2"), 0);
        let again = Job::new(&format!("{name}-literal"), "install", "literal").package(&literal, &package);
        let message = host.does(&server, &again, 1);
        assert!(program.is_ftp() || message.contains("want a host name"), "{message}");
    }
}

#[test]
fn a_rate_is_kept() {
    let server = Server::new();
    let mut host = Host::with(&server);
    // So that it takes some seconds, and little besides.
    host.set("download_rate", "300000");
    host.start();
    for program in [Program::Nginx, Program::Vsftpd] {
        let Some(mirror) = mirror(program, &host, "127.0.0.1") else { continue };
        let name = format!("{program:?}");
        let package = heavy(&host, &name, "1.0", 900);
        fs::write(mirror.root.join(&package.file), &package.bytes).expect("the host's directory can be written");
        let user = if program == Program::PureFtpd { "me:pass%20word@" } else { "" };
        let url = mirror.url(user, &package.file);
        let job = Job::new(&name, "install", &name).package(&url, &package).set("startsecs", "0");
        server.give(&job.text());
        host.wait("the download", || progress(&host, &name).is_some());
        let began = Instant::now();
        let (there, all) = progress(&host, &name).expect("it is being fetched");
        host.wait("its end", || host.job(&name).is_some_and(|job| text(&job, "state") != "downloading"));
        let expected = Duration::from_secs_f64((all - there) as f64 / 300_000.0);
        let took = began.elapsed();
        eprintln!("{name}: {took:?} for {expected:?}");
        assert!(took >= expected.mul_f64(0.9) && took <= expected * 3, "{name}: {took:?} for {expected:?}");
        assert_eq!(host.result(&server, &name).0, 0);
    }
}
