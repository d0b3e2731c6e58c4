//! Blocking work, done in a helper: a child that executes this same binary (`bootagent work`). Never in the daemon.
//!
//! One `HelperRequest` comes in on fd 0, ended by the end of the pipe; one `HelperResponse` goes out on fd 1; the file to fill
//! or to read is fd 3. The process owns nothing else and may be killed at any moment: the next attempt continues behind the
//! bytes that are in fd 3. A helper reports what happened; `model` decides whether to try again.

mod connect;
mod exchange;
mod fetch;
mod frame;
mod ftp;
mod http;
pub mod inspect;
pub mod rotate;
mod sink;
mod tar;
mod unpack;
mod verify;
pub mod watch;

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::exit;

use crate::kernel::{Errno, Pid, Resource};
use crate::model::package::Format;
use crate::model::url;
use crate::sys::file::read_up_to;
use crate::sys::seccomp::{self, Purpose};
use crate::sys::{process, stdin};

pub use http::Route;

pub use frame::{decode_request, decode_response, encode_announced, encode_request, encode_response, take_announced};

/// Exit status of a helper that could not connect in time.
pub const EXIT_NO_CONNECTION: i32 = 40;
/// Exit status of a helper whose exchange was not complete in time.
pub const EXIT_NO_REPLY: i32 = 41;
/// How long the connection of an exchange may take, name resolution included, s.
pub const CONNECT_SECS: u32 = 10;
/// After this time without an answer from one address of a name the next one is tried, s.
pub const NEXT_ADDRESS_SECS: u32 = 2;
/// How long an exchange may take, s.
pub const EXCHANGE_SECS: u32 = 30;
/// A download that gets no byte for this long ends by SIGALRM, s.
const STALL_SECS: u32 = 60;
/// The longest request that is read, bytes.
const ORDER_MAX: u64 = 16 << 20;
/// The longest reason, bytes.
const REASON_MAX: usize = 1024;

/// What a helper has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HelperRequest {
    /// One HTTP POST.
    Exchange {
        /// `http://`, or `https://` in the tls build.
        url: String,
        /// Sent besides those that every request has.
        headers: Vec<(String, String)>,
        /// JSON.
        body: Vec<u8>,
        /// A longer reply is a failure, bytes.
        max_body: u64,
        /// How to reach the server; packages only have a proxy.
        route: Route,
    },
    /// One attempt at a download into fd 3, which may already hold its beginning.
    Fetch {
        /// `ftp://`, `http://`, `https://` or `file://`.
        url: String,
        /// A longer file is a failure, bytes.
        max_bytes: u64,
        /// The highest rate, bytes per second.
        rate: Option<u64>,
        /// How to reach the server.
        route: Route,
        /// The SHA-256 that the file should have: one that has it already is not asked for again.
        digest: [u8; 32],
    },
    /// Verification of the package that is fd 3, from its beginning.
    Verify {
        /// minisign public keys, one of which must have signed it; without any, no signature is needed.
        keys: Vec<String>,
        /// The text of a .minisig file.
        signature: String,
        /// The name that the trusted comment must have.
        name: String,
        /// The version that the trusted comment must have.
        version: String,
    },
    /// Unpacking of the tar archive that is fd 3.
    Unpack {
        /// One of the tar formats.
        format: Format,
        /// The absolute path of an empty directory that only this process writes to.
        dir: String,
        /// More bytes in all files together are a failure.
        max_bytes: u64,
        /// More members are a failure.
        max_entries: u64,
    },
    /// What can be read of other processes only under a lock that they may hold for ever.
    Inspect {
        /// The processes, in the order of the answers.
        pids: Vec<Pid>,
        /// The mark of the daemon whose agents their environments may name; `None`: the memory of each is asked for.
        mark: Option<String>,
    },
    /// Rotation of the output of an agent, which is fd 3.
    Rotate {
        /// The file that gets its last bytes; empty: they are not kept.
        older: String,
        /// How many bytes are kept.
        size: u64,
        /// The file that freezes the agent's control group; empty where there is none.
        freezer: String,
    },
}

/// What came of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HelperResponse {
    /// The server answered, with whatever status.
    Exchanged {
        /// The status in the status line.
        status: u16,
        /// `Retry-After` in seconds; a date in it is not read.
        retry_after: Option<u64>,
        /// The header `X-BootAgent-Signature`.
        signature: Option<String>,
        /// The whole body.
        body: Vec<u8>,
    },
    /// The file is complete and on disk.
    Fetched {
        /// SHA-256 over all of it.
        digest: [u8; 32],
        /// Bytes.
        size: u64,
        /// The source announced how many bytes there are, and so many came; without that the file may be incomplete.
        counted: bool,
    },
    /// The signature is good, or none is needed.
    Verified {
        /// SHA-256 over all of the file.
        digest: [u8; 32],
    },
    /// Everything is on disk.
    Unpacked {
        /// How many members the archive has.
        entries: u64,
        /// How many bytes there are in all files together.
        bytes: u64,
        /// The single top directory that holds everything; empty when there is none.
        top: Vec<u8>,
    },
    /// Each complete answer to an `Inspect`, in the order of its processes. After a process that cannot be read there is none.
    Inspected(Vec<String>),
    /// The output is rotated.
    Rotated,
    /// The request could not be done.
    Failed(Failure),
}

/// Why a request could not be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What it means for another attempt.
    pub kind: FailureKind,
    /// One sentence for an operator, in a response at most 1 KiB and without passwords.
    pub reason: String,
    /// Bytes by which the file grew in this attempt.
    pub progressed: u64,
    /// `Retry-After` of a 429 or 503, s; a date in it is not read.
    pub retry_after: Option<u64>,
}

/// What a failure means for another attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// Another attempt may succeed.
    Temporary,
    /// Another attempt would fail in the same way.
    Final,
    /// The file system is full.
    NoSpace,
    /// Larger than allowed.
    TooBig,
    /// An archive that reaches outside of its directory or has members that are not allowed, or a package without the
    /// signature it needs.
    Hostile,
    /// The HTTP library cannot read a reply, and the HTTP client of our own may.
    Unreadable,
}

/// What a part of a helper's work comes to.
type Result<T, E = Box<Failure>> = std::result::Result<T, E>;

impl Failure {
    /// What a helper has sent in place of the result of its task.
    pub fn of(response: HelperResponse) -> Failure {
        match response {
            HelperResponse::Failed(failure) => failure,
            _ => *Failure::new(FailureKind::Final, "the helper's result is not that of its task"),
        }
    }

    fn new(kind: FailureKind, reason: impl Into<String>) -> Box<Failure> {
        Box::new(Failure { kind, reason: reason.into(), progressed: 0, retry_after: None })
    }

    /// `what: cause`, for a failure of the network or of a peer: another attempt may succeed.
    fn temporary(what: &str, error: &io::Error) -> Box<Failure> {
        Failure::new(FailureKind::Temporary, format!("{what}: {}", cause(error)))
    }

    /// `what: cause`, for a failure of the local file system.
    fn storage(what: &str, error: &io::Error) -> Box<Failure> {
        let kind = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => FailureKind::NoSpace,
            io::ErrorKind::FileTooLarge => FailureKind::TooBig,
            _ => match error.raw_os_error() {
                // The disk, or the host's memory or descriptors, may do another time.
                Some(libc::EIO | libc::ENOMEM | libc::EMFILE | libc::ENFILE) => FailureKind::Temporary,
                _ => FailureKind::Final,
            },
        };
        Failure::new(kind, format!("{what}: {}", cause(error)))
    }
}

/// How long a download may get no byte, s. Debug builds read it from the environment, as tests cannot wait so long.
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

/// The hidden command `work`: reads a request, does it, writes the response, and ends the process.
pub fn run() -> ! {
    // Other processes of its user must not read its memory, which may hold a password. A copy of this program that its user
    // cannot read is protected from the start. A kernel that refuses this must not stop the work.
    let _ = process::set_undumpable();
    // minreq reads this variable, and starts a thread for a timeout.
    std::env::remove_var("MINREQ_TIMEOUT");
    let mut bytes = Vec::new();
    if let Err(error) = read_up_to(ORDER_MAX, &mut bytes, &mut |to| stdin().read(to)) {
        eprintln!("bootagent: cannot read the request: {error}");
        exit(1);
    }
    let Some(mut request) = decode_request(&bytes) else {
        eprintln!("bootagent: cannot read the request: \"work\" is for the daemon only");
        exit(2);
    };
    drop(bytes);
    if !matches!(request, HelperRequest::Unpack { .. }) {
        // Only unpacking starts another process. The limit counts all processes of the user, so it is set after the exec.
        let _ = process::set_limit(Resource::Nproc, 0, 0);
    }
    confine(&request);
    let mut out = io::stdout();
    let written = match &mut request {
        // Its answers are lines and no frame, as each of them counts.
        HelperRequest::Inspect { pids, mark } => inspect::inspect(pids, mark.as_deref(), &mut out),
        request => {
            let response = encode_response(&respond(request));
            out.write_all(&response).and_then(|()| out.flush())
        }
    };
    exit(i32::from(written.is_err()))
}

/// Gives up the system calls that this request does not need, until the process ends. There is no filter for unpacking, which
/// starts a process, for reading about processes and for rotating, which judge no stranger's bytes, where the kernel has none, and
/// in the tls build, whose library makes calls of its own.
fn confine(request: &HelperRequest) {
    let purpose = match request {
        _ if cfg!(feature = "tls") => return,
        HelperRequest::Exchange { .. } | HelperRequest::Fetch { .. } => Purpose::Network,
        HelperRequest::Verify { .. } => Purpose::Reading,
        HelperRequest::Unpack { .. } | HelperRequest::Inspect { .. } | HelperRequest::Rotate { .. } => return,
    };
    let _ = seccomp::restrict(purpose);
}

/// Runs every parser of this module over the same bytes, as they could come from a peer, an archive or a job. For fuzzers and
/// the tests that mangle input, which have no other access to the parsers.
pub fn try_parsers(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    ftp::try_parsers(bytes, &text);
    verify::try_parsers(&text);
    tar::records(bytes);
    for block in bytes.chunks_exact(tar::BLOCK) {
        let mut block: tar::Block = block.try_into().expect("a chunk is as long as a block");
        let _ = tar::header(&block);
        // With a wrong checksum nothing else in the block is read.
        tar::set_checksum(&mut block);
        let _ = tar::header(&block);
    }
    if let Ok(url) = url::Url::parse(&text) {
        let _ = (url.for_http(), url.shown(), url.join(&text));
    }
    url::without_password(&text, &text);
    decode_request(bytes);
    decode_response(bytes);
    take_announced(&mut bytes.to_vec());
}

/// Does the request; a failure becomes a response that can be shown.
fn respond(request: &mut HelperRequest) -> HelperResponse {
    perform(request).unwrap_or_else(|mut failure| {
        let url = match request {
            HelperRequest::Exchange { url, .. } | HelperRequest::Fetch { url, .. } => url,
            _ => "",
        };
        failure.reason = crate::text::sanitize(&url::without_password(&failure.reason, url), REASON_MAX);
        HelperResponse::Failed(*failure)
    })
}

fn perform(request: &mut HelperRequest) -> Result<HelperResponse> {
    match request {
        HelperRequest::Exchange { url, headers, body, max_body, route } => {
            exchange::exchange(url, headers, std::mem::take(body), *max_body, route)
        }
        HelperRequest::Fetch { url, max_bytes, rate, route, digest } => {
            let file = package()?;
            let length = || file.metadata().map_or(0, |data| data.len());
            let before = length();
            fetch::fetch(url, *max_bytes, *rate, route, digest, &file).map_err(|mut failure| {
                failure.progressed = length().saturating_sub(before);
                failure
            })
        }
        HelperRequest::Verify { keys, signature, name, version } => {
            let digest = verify::verify(&package()?, keys, signature, name, version)?;
            Ok(HelperResponse::Verified { digest })
        }
        HelperRequest::Unpack { format, dir, max_bytes, max_entries } => {
            unpack::unpack(package()?, *format, dir, *max_bytes, *max_entries)
        }
        HelperRequest::Rotate { older, size, freezer } => {
            rotate::rotate(&package()?, Path::new(older), *size, Path::new(freezer))
                .map_err(|error| Failure::new(FailureKind::Temporary, cause(&error)))?;
            Ok(HelperResponse::Rotated)
        }
        // `run` has answered it.
        HelperRequest::Inspect { .. } => Ok(HelperResponse::Inspected(Vec::new())),
    }
}

/// The package file, which the daemon passed as descriptor 3.
fn package() -> Result<File> {
    crate::sys::inherited(3)
        .map(File::from)
        .map_err(|error| Failure::storage("cannot use the package file at descriptor 3", &error))
}

/// Announces a number to the daemon, which may not be there any more. What it means depends on the request.
fn announce(number: u64) {
    let mut out = io::stdout();
    let _ = out.write_all(&encode_announced(number)).and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_of_another_task_is_a_failure_that_is_final() {
        let failure = Failure::of(HelperResponse::Unpacked { entries: 1, bytes: 1, top: Vec::new() });
        assert_eq!((failure.kind, failure.progressed, failure.retry_after), (FailureKind::Final, 0, None));
    }
}
