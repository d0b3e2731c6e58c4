//! The working mode of the real binary: one order in, one outcome out, against servers that misbehave in every known way.

mod exchange;
mod ftp;
mod http;
mod server;
mod unpack;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use bootagent::work::{decode_outcome, encode_order, Kind, Order, Outcome};
use sha2::{Digest, Sha256};

/// Has the binary do `order` with `file` as descriptor 3.
fn perform(order: &Order, file: &Path) -> Outcome {
    let mut child = Command::new("sh")
        .args(["-c", "exec \"$0\" work 3<>\"$1\""])
        .arg(env!("CARGO_BIN_EXE_bootagent"))
        .arg(file)
        // If it were heeded, every request would fail at once, and in a thread.
        .env("MINREQ_TIMEOUT", "0")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("sh starts");
    child.stdin.take().expect("piped").write_all(&encode_order(order)).expect("takes its order");
    let output = child.wait_with_output().expect("ends");
    assert!(output.status.success(), "{}", output.status);
    decode_outcome(&output.stdout).expect("one whole outcome")
}

/// Fetches `url` into `file`, up to a megabyte.
fn fetch(url: &str, file: &Path) -> Outcome {
    perform(&Order::Fetch { url: url.into(), max_bytes: 1 << 20, rate: None }, file)
}

/// What fetching `bytes` comes to.
fn fetched(bytes: &[u8]) -> Outcome {
    Outcome::Fetched { digest: Sha256::digest(bytes).into(), size: bytes.len() as u64 }
}

/// Checks that it failed so, and returns the reason.
#[track_caller]
fn failed(outcome: Outcome, want: Kind, gained: u64, part: &str) -> String {
    match outcome {
        Outcome::Failed { kind, reason, progressed } => {
            assert_eq!((kind, progressed), (want, gained), "{reason}");
            assert!(reason.contains(part), "\"{part}\" not in \"{reason}\"");
            reason
        }
        other => panic!("want a failure with \"{part}\", got {other:?}"),
    }
}

/// Bytes without a pattern that could hide a shift.
fn content(length: usize) -> Vec<u8> {
    let mut seed = 1_u32;
    let mut next = || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 24) as u8
    };
    (0..length).map(|_| next()).collect()
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

/// Whether `tool` is there; if not, says so once, or fails when everything must be tested.
fn have(tool: &str, there: bool) -> bool {
    if !there {
        assert!(std::env::var_os("BOOTAGENT_TEST_ALL").is_none(), "needs {tool} (make deps)");
        eprintln!("skipped: needs {tool} (make deps)");
    }
    there
}
