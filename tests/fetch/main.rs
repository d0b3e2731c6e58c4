//! The helper mode of the real binary: one request in, one response out, against servers that misbehave in every known way.

mod exchange;
mod ftp;
mod files;
mod http;
mod odd;
#[path = "../util/random.rs"]
#[allow(dead_code)]
mod random;
mod server;
#[path = "../util/skip.rs"]
#[allow(dead_code)]
mod skip;
mod unpack;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use bootagent::work::{
    decode_response, encode_request, take_announced, Failure, FailureKind, HelperRequest, HelperResponse,
};
use sha2::{Digest, Sha256};

/// The binary under test.
fn binary() -> PathBuf {
    std::env::var_os("BOOTAGENT_TEST_BIN").map_or_else(|| env!("CARGO_BIN_EXE_bootagent").into(), PathBuf::from)
}

/// Whether it is a 32-bit one, whose HTTP library takes no length beyond that (elf(5): EI_CLASS).
fn has_32_bits() -> bool {
    std::fs::read(binary()).expect("a binary")[4] == 1
}

/// Whether a test is skipped as it asks for short times, and the binary under test is a release, which takes none.
fn needs_short_times() -> bool {
    let mark = b"BOOTAGENT_STALL_SECS";
    let has = std::env::var_os("BOOTAGENT_TEST_BIN").is_none()
        || std::fs::read(binary()).is_ok_and(|bytes| bytes.windows(mark.len()).any(|part| part == mark));
    if !has {
        skip::cannot_apply("a release takes no short times");
    }
    !has
}

/// Has the binary do `order` with `file` as descriptor 3.
fn perform(order: &HelperRequest, file: &Path) -> HelperResponse {
    let output = performed(order, file, "", &[]);
    assert!(output.status.success(), "{}", output.status);
    outcome(&output)
}

/// The outcome among what was written.
fn outcome(output: &Output) -> HelperResponse {
    let mut bytes = output.stdout.clone();
    while take_announced(&mut bytes).is_some() {}
    decode_response(&bytes).expect("one whole outcome")
}

/// The same after a shell has done `before`, with these variables; returns how it ended.
fn performed(order: &HelperRequest, file: &Path, before: &str, env: &[(&str, &str)]) -> Output {
    let mut child = Command::new("sh")
        .args(["-c", &format!("{before} exec \"$0\" work 3<>\"$1\"")])
        .arg(binary())
        .arg(file)
        .envs(env.iter().copied())
        // If it were heeded, every request would fail at once, and in a thread.
        .env("MINREQ_TIMEOUT", "0")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("sh starts");
    child.stdin.take().expect("piped").write_all(&encode_request(order)).expect("takes its order");
    child.wait_with_output().expect("ends")
}

/// Fetches `url` into `file`, up to a megabyte.
fn fetch(url: &str, file: &Path) -> HelperResponse {
    fetch_known(url, [0; 32], file)
}

/// The same for a file that has this digest.
fn fetch_known(url: &str, digest: [u8; 32], file: &Path) -> HelperResponse {
    perform(
        &HelperRequest::Fetch { url: url.into(), max_bytes: 1 << 20, rate: None, route: Default::default(), digest },
        file,
    )
}

/// What fetching `bytes` comes to.
fn fetched(bytes: &[u8]) -> HelperResponse {
    HelperResponse::Fetched { digest: Sha256::digest(bytes).into(), size: bytes.len() as u64, counted: true }
}

/// The same when nobody said how many there are.
fn uncounted(bytes: &[u8]) -> HelperResponse {
    HelperResponse::Fetched { digest: Sha256::digest(bytes).into(), size: bytes.len() as u64, counted: false }
}

/// Checks that it failed so, and returns the reason.
#[track_caller]
fn failed(outcome: HelperResponse, want: FailureKind, gained: u64, part: &str) -> String {
    match outcome {
        HelperResponse::Failed(Failure { kind, reason, progressed, .. }) => {
            assert_eq!((kind, progressed), (want, gained), "{reason}");
            assert!(reason.contains(part), "\"{part}\" not in \"{reason}\"");
            reason
        }
        other => panic!("want a failure with \"{part}\", got {other:?}"),
    }
}

/// Checks that `work` takes this long: no less than a tenth less; how much more depends on what else this machine does.
fn keeps(expected: Duration, work: impl FnOnce()) {
    let started = Instant::now();
    work();
    let took = started.elapsed();
    eprintln!("took {took:?} instead of {expected:?}");
    assert!(took >= expected.mul_f64(0.9) && took <= expected * 3, "{took:?} instead of {expected:?}");
}

/// Bytes without a pattern that could hide a shift.
fn content(length: usize) -> Vec<u8> {
    let mut random = random::Random(1);
    (0..length).map(|_| random.next() as u8).collect()
}

/// A directory that goes with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("bootagent-fetch-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a directory");
        Scratch(path)
    }

    /// A file of this content.
    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, bytes).expect("a file");
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Whether `tool` is there; if not, says that the test is skipped, or fails when everything must be tested.
fn have(tool: &str, there: bool) -> bool {
    there || !skip::skipped(tool)
}
