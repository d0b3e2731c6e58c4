//! Every parser over every fixture, cut at each byte and with bytes changed, by a fixed seed, and over the inputs that the
//! fuzzers have kept (`fuzz/corpus`): nothing panics, nothing takes for ever, and what is accepted satisfies its properties.

#[path = "util/random.rs"]
#[allow(dead_code)]
mod random;

#[path = "../fuzz/properties.rs"]
mod properties;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use bootagent::wire::reexec_data::{self, ReexecData};
use bootagent::work;

use random::Random;

/// How many changed copies are made of each fixture.
const ROUNDS: usize = 3_000;

/// Sequences that mean something to a parser.
const TOKENS: [&[u8]; 20] = [
    b"{",
    b"}",
    b"[",
    b"]",
    b"\"",
    b"\\",
    b"\\u0000",
    b"\\ud800",
    b",",
    b":",
    b"null",
    b"-1",
    b"1e999",
    b"0.5",
    b"%00",
    b"://",
    b"@",
    b"\0",
    b"\xff",
    b"18446744073709551616",
];

/// The files of a folder.
fn files(folder: &str) -> Vec<Vec<u8>> {
    let entries = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)).expect("the folder is there");
    let paths = entries.map(|entry| entry.expect("it can be listed").path()).filter(|path| path.is_file());
    paths.map(|path| fs::read(path).expect("it can be read")).collect()
}

/// Hands each mangled copy of each fixture to `parse`.
fn mangle(fixtures: &[Vec<u8>], parse: fn(&[u8])) {
    let began = Instant::now();
    let mut random = Random(0x5eed_b007_a6e7);
    let mut below = |bound: usize| random.below(bound as u64) as usize;
    assert!(!fixtures.is_empty(), "no fixture");
    for fixture in fixtures {
        for end in 0..=fixture.len() {
            parse(&fixture[..end]);
        }
        for _ in 0..ROUNDS {
            let mut copy = fixture.clone();
            for _ in 0..=below(3) {
                let at = below(copy.len());
                match below(4) {
                    0 => copy[at] ^= 1 << below(8),
                    1 => copy[at] = below(256) as u8,
                    2 => drop(copy.splice(at..at, TOKENS[below(TOKENS.len())].iter().copied())),
                    _ => drop(copy.drain(at..(at + 1 + below(16)).min(copy.len()))),
                }
                if copy.is_empty() {
                    break;
                }
            }
            parse(&copy);
        }
    }
    assert!(began.elapsed() < Duration::from_secs(300), "{:?}", began.elapsed());
}

/// Hands each cut copy of what a fuzzer has found to `parse`; none may take a second.
fn try_corpus(target: &str, parse: fn(&[u8])) {
    let corpus = files(&format!("fuzz/corpus/{target}"));
    assert!(corpus.len() > 50, "where is the corpus?");
    for bytes in corpus {
        let began = Instant::now();
        for end in 0..=bytes.len() {
            parse(&bytes[..end]);
        }
        assert!(began.elapsed() < Duration::from_secs(1 + bytes.len() as u64), "{:?}", began.elapsed());
    }
}

/// The same for texts.
fn mangle_texts(texts: &[&str], parse: fn(&[u8])) {
    let fixtures: Vec<Vec<u8>> = texts.iter().map(|text| text.as_bytes().to_vec()).collect();
    mangle(&fixtures, parse);
}

#[test]
fn replies_and_jobs() {
    mangle(&files("tests/proto"), properties::server);
    mangle_texts(&["a key of sixteen\nanother, longer key\n", &"0123456789abcdef".repeat(4)], properties::server);
    try_corpus("server", properties::server);
}

#[test]
fn what_a_helper_sends_back() {
    let reply = br#"{"errcode":0,"jobs":[{"id":"1","action":"stop","name":"web"}],"retry_after":60}"#;
    let signature = Some("ab".repeat(32));
    let outcomes = [
        work::HelperResponse::Exchanged { status: 200, retry_after: Some(1), signature, body: reply.to_vec() },
        work::HelperResponse::Fetched { digest: [7; 32], size: 1 << 40, counted: true },
        work::HelperResponse::Verified { digest: [9; 32] },
        work::HelperResponse::Unpacked { entries: 3, bytes: 4096, top: "web-1.0".into() },
        work::HelperResponse::Failed(work::Failure {
            kind: work::FailureKind::Final,
            reason: "404".into(),
            progressed: 5,
            retry_after: None,
        }),
    ];
    let mut fixtures: Vec<Vec<u8>> = outcomes.iter().map(work::encode_response).collect();
    let all = [work::encode_announced(10), work::encode_announced(u64::MAX), fixtures[1].clone()].concat();
    fixtures.push(all);
    mangle(&fixtures, properties::helpers);
    try_corpus("helpers", properties::helpers);
}

#[test]
fn records() {
    let handover = ReexecData {
        pid: 4711,
        program: "/usr/sbin/bootagent".into(),
        listener: Some(5),
        connections: vec![reexec_data::Connection { line: b"{\"command\":".to_vec(), ..Default::default() }],
        ..ReexecData::default()
    };
    mangle(&files("tests/records"), properties::records);
    mangle_texts(&[&reexec_data::write(&handover), r#"{"boot_id":"0b1d6e0c","at":123456789}"#], properties::records);
    try_corpus("records", properties::records);
}

#[test]
fn configuration() {
    let fixtures = [files("examples"), files("examples/agents.d"), files("examples/sample")].concat();
    let json: Vec<Vec<u8>> = fixtures.into_iter().filter(|bytes| bytes.starts_with(b"{")).collect();
    assert!(json.len() >= 4);
    mangle(&json, properties::definitions);
    try_corpus("definitions", properties::definitions);
}

#[test]
fn the_control_socket() {
    let lines = [
        r#"{"command":"start","name":"web"}"#,
        r#"{"command":"status"}"#,
        r#"{"code":1,"message":"no agent \u0022web\u0022","body":{"agents":[{"name":"web"}]}}"#,
        r#"{"code":0,"message":""}"#,
    ];
    mangle_texts(&lines, properties::control);
    try_corpus("control", properties::control);
}

#[test]
fn what_the_kernel_and_package_tools_say() {
    let texts = [
        "4711 (a) b (c)) S 1 4711 4711 0 -1 4194560 1 2 3 4 50 60 7 8 20 0 1 0 123456 4096 100 18446744073709551615 1 1\n",
        "HOME=/\0BOOTAGENT_NAME=web\0BOOTAGENT_STATE_ID=/state\0PATH=/bin\0",
        "00400000-7ffc000 ---p 00000000 00:00 0 [rollup]\nRss: 884 kB\nPss: 385 kB\nShared_Clean: 696 kB\nSwapPss: 1 kB\n",
        "Name:\tcat\nUid:\t0\t0\t0\t0\nVmRSS:\t  1084 kB\nRssAnon:\t 88 kB\nRssShmem:\t 0 kB\nVmSwap:\t 4 kB\n",
        "4711\n",
        "         0          0 4294967295\n",
        "READY=1\nMAINPID=4711\nSTATUS=serving\nWATCHDOG=1",
        "Package: web\nVersion: 1:1.0-1\n",
        "pkgname = web\npkgver = 1.0-r0\n",
        "Package: -web\nVersion: 1.0\nDescription: Package: x\n",
    ];
    mangle_texts(&texts, properties::children);
    // An access control list.
    mangle(
        &[b"\x02\0\0\0\x01\0\x06\0\xff\xff\xff\xff\x02\0\x06\0\x07\0\0\0\x10\0\x06\0\xff\xff\xff\xff".to_vec()],
        properties::children,
    );
}

/// FTP replies, tar headers, pax records, signatures, keys, URLs, and the frames of the working children.
#[test]
fn what_comes_over_the_network_and_out_of_archives() {
    let mut tar = vec![0; 512];
    tar[..9].copy_from_slice(b"web-1.0/a");
    tar[100..108].copy_from_slice(b"0000755\0");
    tar[124..136].copy_from_slice(b"00000000012\0");
    tar[136..148].copy_from_slice(b"14713370000\0");
    tar[156] = b'0';
    tar[257..263].copy_from_slice(b"ustar\0");
    let signature = "untrusted comment: signature from minisign secret key\n\
        RUTspmpO3rNUqW1Vtr7TgZffPJqJ6HSxv7/mZNDb9wHwtUTn4WPmnEwzq667m+0xExySaCQvMnwaH47xChhPDM3aNjcWvXZ2uAQ=\n\
        trusted comment: name=a version=1\n\
        Bu5AkeMrwfbgwSuSvszk5Suhn1oFbrzbtHtnXB5DNSP3VSiQrETmArtRQQsuD+QxJNrRRYoTPflAE9BB8U5dAg==\n";
    let order = work::HelperRequest::Verify {
        keys: vec!["RWTspmpO3rNUqYiLwLY+uKKJM52K0iCklLo8KPu8o7W/zwnglYNEU7Lg".into()],
        signature: signature.into(),
        name: "web".into(),
        version: "1".into(),
    };
    let mut fixtures = vec![tar, work::encode_request(&order)];
    for text in [
        "220-Welcome\r\n220-to all\r\n220 ready\r\n",
        "229 Entering Extended Passive Mode (|||6446|)\r\n",
        "227 Entering Passive Mode (127,0,0,1,200,13).\r\n",
        "213 1048576\r\n",
        "30 mtime=1700000000.123456789\n27 path=web-1.0/bin/agent-x\n",
        "RWTspmpO3rNUqYiLwLY+uKKJM52K0iCklLo8KPu8o7W/zwnglYNEU7Lg",
        signature,
        "ftp://user:pass%40word@[::1]:2121/%2Fpub//a%20b/web-1.0.tar.gz;type=i",
        "http://example.org:80/a/../b?x=y#z",
        "file:///srv/packages/web-1.0.deb",
    ] {
        fixtures.push(text.as_bytes().to_vec());
    }
    mangle(&fixtures, properties::children);
    try_corpus("children", properties::children);
}
