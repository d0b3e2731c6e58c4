//! Downloads from files, and disks that are full.

use std::fs;

use bootagent::work::{Failure, FailureKind, HelperRequest, HelperResponse};

use crate::server::Server;
use crate::{content, failed, fetch, fetched, has_32_bits, have, outcome, perform, performed, Scratch};

#[test]
fn files_are_copied() {
    let scratch = Scratch::new("file");
    let bytes = content(300_000);
    let source = scratch.file("a b", &bytes);
    let url = format!("file://{}", source.to_str().expect("ASCII").replace(' ', "%20"));
    assert_eq!(fetch(&url, &scratch.file("to", b"older part")), fetched(&bytes));
    let file = scratch.file("c", b"");
    failed(fetch("file:///no/such", &file), FailureKind::Final, 0, "No such file");
    failed(fetch("file:///etc", &file), FailureKind::Final, 0, "no regular file");
    failed(fetch("file:///dev/zero", &file), FailureKind::Final, 0, "no regular file");
    // A file of the kernel's own making, which has more in it than its size says.
    let made_up = fetch("file:///proc/self/mounts", &file);
    assert!(matches!(made_up, HelperResponse::Fetched { size: 0, .. }), "{made_up:?}");
    failed(fetch("file://other/etc/passwd", &file), FailureKind::Final, 0, "no host");
    failed(fetch("gopher://x/", &file), FailureKind::Final, 0, "want ftp://");
}

#[test]
fn a_full_disk_is_said() {
    let scratch = Scratch::new("full");
    let huge = HelperRequest::Fetch {
        url: Server::fixed("HTTP/1.1 200 OK\r\nContent-Length: 1152921504606846976\r\n\r\n").url,
        max_bytes: u64::MAX,
        rate: None,
        route: Default::default(),
        digest: [0; 32],
    };
    let told = perform(&huge, &scratch.file("a", b""));
    if has_32_bits() {
        failed(told, FailureKind::Temporary, 0, "too large");
        return;
    }
    failed(told, FailureKind::NoSpace, 0, "no space");
}

#[test]
fn a_disk_that_fills_up_while_bytes_come_is_said() {
    if !have("root", fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0)) {
        return;
    }
    let scratch = Scratch::new("small");
    fs::create_dir(scratch.0.join("disk")).expect("a directory");
    let disk = scratch.0.join("disk");
    // One has a length, the other does not.
    for (head, gained) in [("Content-Length: 300000\r\n", 0), ("", 100_000)] {
        let head = format!("HTTP/1.1 200 OK\r\n{head}\r\n");
        let server = Server::fixed([head.as_bytes(), &content(300_000)].concat());
        let order = HelperRequest::Fetch {
            url: server.url.clone(),
            max_bytes: 1 << 20,
            rate: None,
            route: Default::default(),
            digest: [0; 32],
        };
        let script = format!(
            "exec unshare -m sh -c 'mount -t tmpfs -o size=200k,mode=755 none {disk} && exec \"$0\" work 3<>{disk}/a' \"$0\";",
            disk = disk.display()
        );
        match outcome(&performed(&order, &disk.join("a"), &script, &[])) {
            HelperResponse::Failed(Failure { kind: FailureKind::NoSpace, progressed, .. }) => {
                assert!(progressed >= gained, "{progressed}")
            }
            other => panic!("{other:?}"),
        }
    }
}
