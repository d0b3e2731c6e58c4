//! Blocking work, done in a child executed from this same binary (`bootagent work`), never in the daemon.
//!
//! One `Order` comes in on fd 0, ended by the end of the pipe; one `Outcome` goes out on fd 1; the file to fill or to
//! read is fd 3. The process owns nothing else, holds no secret and may be killed at any moment: what it has written to
//! fd 3 is what the next attempt goes on from. It says what happened; whether to try again is `model`'s to decide.

mod exchange;
mod fetch;
mod frame;
mod ftp;
mod http;
mod sink;
mod tar;
mod unpack;
mod verify;
pub mod watch;

use std::fs::File;
use std::io::{self, Read, Write};
use std::process::exit;

use crate::error::Error;
use crate::kernel::{Errno, Resource};
use crate::model::package::Format;
use crate::model::url;
use crate::sys::file::read_up_to;
use crate::sys::seccomp::{self, Purpose};
use crate::sys::{process, stdin};

pub use frame::{decode_request, decode_response, encode_request, encode_response, encode_total, take_total};

/// Exit status of a child that could not connect in time.
pub const EXIT_NO_CONNECTION: i32 = 40;
/// Exit status of a child whose exchange was not complete in time.
pub const EXIT_NO_REPLY: i32 = 41;
/// How long the connection of an exchange may take, name resolution included, s.
pub const CONNECT_SECS: u32 = 10;
/// How long an exchange may take, s.
pub const EXCHANGE_SECS: u32 = 30;
/// A download without a byte for this long ends by SIGALRM, s.
const STALL_SECS: u32 = 60;
/// The longest order that is read, bytes.
const ORDER_MAX: u64 = 16 << 20;
/// The longest reason, bytes.
const REASON_MAX: usize = 1024;

/// What a child is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HelperRequest {
    /// One HTTP POST.
    Exchange {
        /// `http://` or `https://`.
        url: String,
        /// Sent beside those every request has.
        headers: Vec<(String, String)>,
        /// JSON.
        body: Vec<u8>,
        /// A longer reply is a failure, bytes.
        max_body: u64,
    },
    /// One attempt at a download into fd 3, which may already hold its beginning.
    Fetch {
        /// `ftp://`, `http://`, `https://` or `file://`.
        url: String,
        /// A longer file is a failure, bytes.
        max_bytes: u64,
        /// At most so many bytes per second.
        rate: Option<u64>,
    },
    /// Verification of the package that is fd 3, from its beginning.
    Verify {
        /// minisign public keys, one of which must have signed it; none: there need be no signature.
        keys: Vec<String>,
        /// Text of a .minisig file.
        signature: String,
        /// What the trusted comment must say.
        name: String,
        /// What the trusted comment must say.
        version: String,
    },
    /// Unpacking of the tar archive that is fd 3.
    Unpack {
        /// One of the tar formats.
        format: Format,
        /// An empty directory that nobody else can write to, absolute.
        dir: String,
        /// More bytes in files are a failure.
        max_bytes: u64,
        /// More members are a failure.
        max_entries: u64,
    },
}

/// What came of an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HelperResponse {
    /// The server answered, with whatever status.
    Exchanged {
        /// Of the status line.
        status: u16,
        /// `Retry-After` in seconds; a date in it is not read.
        retry_after: Option<u64>,
        /// `X-BootAgent-Signature`.
        signature: Option<String>,
        /// Complete.
        body: Vec<u8>,
    },
    /// The file is complete and on disk.
    Fetched {
        /// SHA-256 over all of it.
        digest: [u8; 32],
        /// Bytes.
        size: u64,
        /// The source said how many there are, and so many came; else it may have been cut short unnoticed.
        counted: bool,
        /// The connection ended where nobody had announced it: if the digest does not fit, they were cut short.
        cut: bool,
    },
    /// The signature, where there must be one, is good.
    Verified {
        /// SHA-256 over all of the file.
        digest: [u8; 32],
    },
    /// Everything is on disk.
    Unpacked {
        /// Members of the archive.
        entries: u64,
        /// In files.
        bytes: u64,
        /// The single top directory, below which the contents are; empty when there is none.
        top: String,
    },
    /// It was not done.
    Failed {
        /// What kind of failure.
        kind: FailureKind,
        /// One sentence for a person, at most 1 KiB, without passwords.
        reason: String,
        /// Bytes by which the file grew in this attempt.
        progressed: u64,
        /// `Retry-After` of a 429 or 503, s; a date in it is not read.
        retry_after: Option<u64>,
    },
}

/// What a failure means for another attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FailureKind {
    /// Another attempt may go better.
    Temporary = 0,
    /// Another attempt would end the same.
    Final = 1,
    /// The file system is full.
    NoSpace = 2,
    /// Larger than allowed.
    TooBig = 3,
    /// An archive that reaches outside of its directory or holds what none of ours may, or a package that is not signed as
    /// it must be.
    Hostile = 4,
}

/// A failure on its way out.
#[derive(Debug)]
struct HelperError {
    kind: FailureKind,
    reason: Error,
    retry_after: Option<u64>,
}

impl HelperError {
    #[inline(never)]
    fn new(kind: FailureKind, reason: impl Into<Error>) -> Box<HelperError> {
        Box::new(HelperError { kind, reason: reason.into(), retry_after: None })
    }

    /// `what: cause`, for a failure of the network or of a peer: worth another attempt.
    fn temporary(what: &str, error: &io::Error) -> Box<HelperError> {
        HelperError::new(FailureKind::Temporary, format_error!("{what}: {}", cause(error)))
    }

    /// `what: cause`, for a failure of the local file system.
    fn storage(what: &str, error: &io::Error) -> Box<HelperError> {
        let kind = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => FailureKind::NoSpace,
            io::ErrorKind::FileTooLarge => FailureKind::TooBig,
            _ => FailureKind::Final,
        };
        HelperError::new(kind, format_error!("{what}: {}", cause(error)))
    }
}

/// How long a download may stand still, s. Tests cannot wait so long.
pub fn stall_secs() -> u32 {
    #[cfg(debug_assertions)]
    if let Some(secs) = std::env::var("BOOTAGENT_STALL_SECS").ok().and_then(|text| text.parse().ok()) {
        return secs;
    }
    STALL_SECS
}

/// The error's text without std's "(os error N)".
fn cause(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(raw) => Errno(raw).to_string(),
        None => error.to_string(),
    }
}

/// The hidden command `work`: reads an order, does it, writes what came of it, and ends the process with all that it holds.
pub fn run() -> ! {
    // Others of its user must not look into it, as it may see a password. A copy of this program that its user cannot read is
    // closed from the start. Where this is not to be had, it goes without.
    let _ = process::set_undumpable();
    // Whatever minreq finds there would make it start a thread.
    std::env::remove_var("MINREQ_TIMEOUT");
    let mut bytes = Vec::new();
    if let Err(error) = read_up_to(ORDER_MAX, &mut bytes, &mut |to| stdin().read(to)) {
        eprintln!("bootagent: cannot read the order: {error}");
        exit(1);
    }
    let Some(mut order) = decode_request(&bytes) else {
        eprintln!("bootagent: work is for the daemon only, and this is no order of its");
        exit(2);
    };
    drop(bytes);
    if !matches!(order, HelperRequest::Unpack { .. }) {
        // Only unpacking needs a process beside itself. Set here, as others of its user would count before the exec.
        let _ = process::set_limit(Resource::Nproc, 0, 0);
    }
    confine(&order);
    let outcome = perform(&mut order);
    let mut out = io::stdout().lock();
    exit(match out.write_all(&encode_response(&outcome)).and_then(|()| out.flush()) {
        Ok(()) => 0,
        Err(_) => 1,
    })
}

/// Gives up all system calls that this order does not need, for as long as this process lives; unpacking needs a process beside
/// itself. Where the kernel has no filters, it goes without, and so does a binary with TLS: which calls the library for that
/// makes is not ours to say.
fn confine(order: &HelperRequest) {
    let purpose = match order {
        _ if cfg!(feature = "tls") => return,
        HelperRequest::Exchange { .. } | HelperRequest::Fetch { .. } => Purpose::Network,
        HelperRequest::Verify { .. } => Purpose::Reading,
        HelperRequest::Unpack { .. } => return,
    };
    let _ = seccomp::restrict(purpose);
}

/// Every parser here over the same bytes, as a peer, an archive or a job could bring them: for the tests that mangle and
/// the fuzzers, which see nothing else of this part.
pub fn try_parsers(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    ftp::try_parsers(bytes, &text);
    verify::try_parsers(&text);
    tar::records(bytes);
    for block in bytes.chunks_exact(tar::BLOCK) {
        let mut block: tar::Block = block.try_into().expect("a chunk is as long as a block");
        let _ = tar::header(&block);
        // Without its checksum right nothing else of it is read.
        tar::set_checksum(&mut block);
        let _ = tar::header(&block);
    }
    if let Ok(url) = url::Url::parse(&text) {
        let _ = (url.for_http(), url.address(), url.join(&text));
    }
    url::without_password(&text, &text);
    decode_request(bytes);
    decode_response(bytes);
    take_total(&mut bytes.to_vec());
}

/// Does the order; a failure becomes an outcome.
fn perform(order: &mut HelperRequest) -> HelperResponse {
    match order {
        HelperRequest::Exchange { url, headers, body, max_body } => {
            let body = std::mem::take(body);
            exchange::exchange(url, headers, body, *max_body).unwrap_or_else(|fault| failed(&fault, url, 0))
        }
        HelperRequest::Fetch { url, max_bytes, rate } => match package_fd() {
            Ok(file) => {
                let before = file.metadata().map_or(0, |data| data.len());
                let after = file.try_clone();
                fetch::fetch(url, *max_bytes, *rate, file).unwrap_or_else(|fault| {
                    let now = after.and_then(|file| file.metadata()).map_or(0, |data| data.len());
                    failed(&fault, url, now.saturating_sub(before))
                })
            }
            Err(fault) => failed(&fault, url, 0),
        },
        HelperRequest::Verify { keys, signature, name, version } => package_fd()
            .and_then(|file| verify::verify(file, keys, signature, name, version))
            .map_or_else(|fault| failed(&fault, "", 0), |digest| HelperResponse::Verified { digest }),
        HelperRequest::Unpack { format, dir, max_bytes, max_entries } => package_fd()
            .and_then(|file| unpack::unpack(file, *format, dir, *max_bytes, *max_entries))
            .unwrap_or_else(|fault| failed(&fault, "", 0)),
    }
}

/// The file the daemon gave.
fn package_fd() -> Result<File, Box<HelperError>> {
    crate::sys::inherited(3)
        .map(File::from)
        .map_err(|error| HelperError::storage("cannot use the file at descriptor 3", &error))
}

/// The fault as an outcome, fit to be shown.
fn failed(fault: &HelperError, url: &str, progressed: u64) -> HelperResponse {
    let reason = crate::text::sanitize(&url::without_password(&fault.reason, url), REASON_MAX);
    HelperResponse::Failed { kind: fault.kind, reason, progressed, retry_after: fault.retry_after }
}
