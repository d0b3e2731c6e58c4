//! Installs whose downloads are cut, or whose packages are not there.

mod util;

use std::path::PathBuf;

use util::*;

#[test]
fn what_cannot_be_downloaded_is_code_4() {
    let server = Server::new();
    let mut host = Host::with(&server);
    host.start();
    let package = tarball(&host, "web", "1.0", &staying("up"), &[]);
    let url = format!("http://{}/packages/nothing.tar.gz", server.address);
    let message = host.does(&server, &Job::new("i1", "install", "web").package(&url, &package), 4);
    assert!(message.contains("404"), "{message}");
    assert_eq!(downloads(&server).len(), 1, "a final answer was asked for again");
    assert_eq!(traces(&host, "web"), [] as [PathBuf; 0]);
}

#[test]
fn a_cut_download_goes_on_where_it_stopped() {
    let server = Server::new();
    let mut host = Host::with(&server);
    host.start();
    // Something that does not compress, so that there is something to cut.
    let noise: String = (0u64..40_000).map(|n| format!("{:x}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15))).collect();
    let definition = definition("web", "1.0", "", &[("exec", "[\"bin/agent\"]")]);
    let files = [("bin/agent", staying("up")), ("noise", noise), ("bootagent.json", definition)];
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
    let package = tar_of(&host, "web", "1.0", &files);
    server.cut(2, 100_000);
    host.does(&server, &install(&server, "i1", "web", &package), 0);
    let ranges: Vec<Option<String>> =
        downloads(&server).iter().map(|request| request.header("Range").map(str::to_string)).collect();
    assert_eq!(ranges, [None, Some("bytes=100000-".to_string()), Some("bytes=200000-".to_string())]);
}

#[test]
fn a_download_survives_any_number_of_cuts() {
    if needs_faults() {
        return;
    }
    let server = Server::new();
    let mut host = Host::with(&server);
    host.env("BOOTAGENT_FETCH_SECS", "0.02");
    host.start();
    let noise: String = (0u64..40_000).map(|n| format!("{:x}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15))).collect();
    let definition = definition("web", "1.0", "", &[("exec", "[\"bin/agent\"]")]);
    let files = [("bin/agent", staying("up")), ("noise", noise), ("bootagent.json", definition)];
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
    let package = tar_of(&host, "web", "1.0", &files);
    let times = 60;
    server.cut(times, package.bytes.len() / (times + 2));
    server.give(&install(&server, "i1", "web", &package).text());
    // And the daemon is killed in between.
    host.wait("some of the cuts", || downloads(&server).len() > 20);
    host.kill9();
    host.start();
    assert_eq!(host.result(&server, "i1").0, 0);
    assert!(downloads(&server).len() > times, "not every cut was met");
    host.wait_running("web");
}
