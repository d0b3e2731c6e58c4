//! Every parser over every fixture, cut at each byte and with bytes changed, by a fixed seed: nothing panics, nothing
//! takes for ever, and what is accepted keeps its promises.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use bootagent::model::job::{Rejected, MESSAGE_MAX};
use bootagent::wire::{proto, record};

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

/// A generator of numbers that is the same everywhere (xorshift64).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound.max(1) as u64) as usize
    }
}

/// Hands each mangled copy of each fixture of the folder to `parse`.
fn mangle(folder: &str, parse: fn(&[u8])) {
    let began = Instant::now();
    let mut numbers = Numbers(0x5eed_b007_a6e7);
    let mut fixtures = 0;
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)).expect("the folder is there") {
        let fixture = fs::read(entry.expect("it can be listed").path()).expect("it can be read");
        fixtures += 1;
        for end in 0..=fixture.len() {
            parse(&fixture[..end]);
        }
        for _ in 0..ROUNDS {
            let mut copy = fixture.clone();
            for _ in 0..=numbers.below(3) {
                let at = numbers.below(copy.len());
                match numbers.below(4) {
                    0 => copy[at] ^= 1 << numbers.below(8),
                    1 => copy[at] = numbers.below(256) as u8,
                    2 => drop(copy.splice(at..at, TOKENS[numbers.below(TOKENS.len())].iter().copied())),
                    _ => drop(copy.drain(at..(at + 1 + numbers.below(16)).min(copy.len()))),
                }
                if copy.is_empty() {
                    break;
                }
            }
            parse(&copy);
        }
    }
    assert!(fixtures > 0, "no fixture in {folder}");
    assert!(began.elapsed() < Duration::from_secs(300), "{folder}: {:?}", began.elapsed());
}

fn check_rejected(rejected: &Rejected) {
    assert!(!rejected.message.is_empty() && rejected.message.len() <= MESSAGE_MAX, "{rejected:?}");
    for shown in [&rejected.message, &rejected.action, &rejected.name] {
        assert!(!shown.contains(char::is_control), "{rejected:?}");
    }
}

#[test]
fn replies_and_jobs() {
    mangle("tests/proto", |bytes| {
        if let Err(message) = proto::result_reply(bytes) {
            assert!(!message.contains(char::is_control), "{message:?}");
        }
        match proto::reply(bytes) {
            Err(message) => assert!(!message.contains(char::is_control), "{message:?}"),
            Ok(reply) => {
                for job in reply.jobs {
                    match job {
                        Ok(job) => assert_eq!(proto::job(&job.text), Ok(job)),
                        Err(rejected) => check_rejected(&rejected),
                    }
                }
            }
        }
        if let Err(rejected) = proto::job(&String::from_utf8_lossy(bytes)) {
            check_rejected(&rejected);
        }
    });
}

#[test]
fn records() {
    mangle("tests/records", |bytes| {
        let text = String::from_utf8_lossy(bytes);
        if let Ok(read) = record::read_agent(&text) {
            assert_eq!(record::read_agent(&record::write_agent(&read)), Ok(read));
        }
        if let Ok(read) = record::read_job(&text) {
            assert_eq!(record::read_job(&record::write_job(&read)), Ok(read));
        }
        if let Ok(read) = record::read_run(&text) {
            assert_eq!(record::read_run(&record::write_run(&read)), Ok(read));
        }
        if let Ok(read) = record::read_identity(&text) {
            assert_eq!(record::read_identity(&record::write_identity(&read)), Ok(read));
        }
        if let Ok(read) = record::read_settings(&text) {
            // Steps are kept in milliseconds.
            assert_eq!(
                record::read_settings(&record::write_settings(&read)).map(|again| again.svrlist),
                Ok(read.svrlist)
            );
        }
    });
}
