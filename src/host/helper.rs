//! A helper: a process of this same binary that does one blocking task. Its request goes in by one pipe, its response comes
//! out by another.
//!
//! It has no open files but its pipes and one file, runs as another user where that is possible, and dies with the daemon.
//! It is finished when it has been reaped, as its whole response is in the pipe by then; a helper that dies becomes a
//! `Failed` response like any other. Nothing here blocks, and no response is judged here.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::Error;
use crate::host::disk::reason;
pub use crate::host::identity::Identity;
use crate::host::{image, proc};
use crate::kernel::{Exit, Pid, Resource, Sig, Time, Uid};
use crate::model::oom_score;
use crate::model::progress::{Progress, Sign};
use crate::sys::child::{spawn_child, Program, Setup};
use crate::sys::poll::PollFd;
use crate::sys::setup_error::{SetupError, SetupErrorPipe};
use crate::sys::{monotonic, pipe, process, set_nonblocking};
use crate::work::{
    decode_response, encode_request, stall_secs, take_announced, Failure, FailureKind, HelperRequest, HelperResponse,
    CONNECT_SECS, EXCHANGE_SECS, EXIT_NO_CONNECTION, EXIT_NO_REPLY,
};

/// The most bytes of a response in addition to the body of a reply.
const RESULT_MAX: u64 = 64 << 10;
/// Address space of a helper, and of the decompressor it runs, bytes.
const MEMORY_MAX: u64 = 256 << 20;
/// The most memory of a helper that exchanges, bytes: a server may send a head that does not end, and the HTTP library has no
/// sure limit for it.
const EXCHANGE_MEMORY_MAX: u64 = 128 << 20;
/// The number of descriptors a helper may have.
const FILES_MAX: u64 = 64;
/// How long after its own alarm the daemon kills a helper.
const GRACE: Duration = Duration::from_secs(5);
/// How long verifying or unpacking may take. Only a defective disk takes longer.
const UNPACK_MAX: Duration = Duration::from_secs(1800);
/// How long an `Inspect` may take for each process: reading one takes less than a millisecond, unless it is blocked.
pub const INSPECT_MAX: Duration = Duration::from_secs(3);
/// The longest answer about a process, bytes.
const ANSWER_MAX: u64 = 64;

/// The running binary, which helpers execute again.
#[derive(Debug)]
pub struct Binary {
    /// Open since the daemon's start, so that helpers execute this version, whatever is on disk by then.
    file: Option<File>,
    path: PathBuf,
    /// A copy of it that helpers with another user execute and cannot read.
    unreadable_copy: Option<File>,
}

impl Binary {
    /// The binary of this process. Where it cannot be opened (without /proc, or not readable for us), `path` is executed.
    pub fn own(path: &Path) -> Binary {
        Binary { file: File::open("/proc/self/exe").ok(), path: path.into(), unreadable_copy: None }
    }

    /// The binary at this path, which is looked up at each start.
    pub fn at(path: &Path) -> Binary {
        Binary { file: None, path: path.into(), unreadable_copy: None }
    }

    /// Has helpers with another user execute a copy that they cannot read. It is made in the first of these directories
    /// where that is possible.
    ///
    /// # Errors
    /// When no copy is possible. The helpers execute the binary itself then.
    pub fn use_copy_for_others(&mut self, places: &[&Path]) -> Result<(), Error> {
        let own = self.file.as_ref().ok_or("\"/proc/self/exe\" cannot be opened")?;
        self.unreadable_copy = Some(image::unreadable_copy(own, places)?);
        Ok(())
    }

    /// What a helper with another user executes.
    fn program_for_others(&self) -> io::Result<Program> {
        match &self.unreadable_copy {
            Some(file) => Ok(Program::Fd(file.try_clone()?.into())),
            None => self.program(),
        }
    }

    /// What a helper with the daemon's user executes.
    ///
    /// # Errors
    /// When there is no descriptor left for it, or the path has a zero byte.
    pub fn program(&self) -> io::Result<Program> {
        match &self.file {
            Some(file) => Ok(Program::Fd(file.try_clone()?.into())),
            None => Ok(Program::Path(text(self.path.as_os_str())?)),
        }
    }
}

/// A helper that runs, or has ended and whose response has not been taken.
#[derive(Debug)]
pub struct Helper {
    pid: Pid,
    /// It is for an `Inspect`: each line of its response is an answer that counts.
    inspects: bool,
    who: Option<Identity>,
    /// When the daemon kills it, whatever it does.
    deadline: Option<Time>,
    /// What is said when it was stopped; `None`: that there was no reply in time.
    when_stopped: Option<&'static str>,
    /// Whether it makes progress; `None` for an exchange and an inspection, which have only their deadline.
    progress: Option<Progress>,
    /// Why the daemon killed it; `None` if it did not.
    stopped: Option<Stopped>,
    /// What is still to be written of its request.
    request: Vec<u8>,
    /// Takes the request; `None` once all of it is written.
    request_pipe: Option<File>,
    response: Vec<u8>,
    response_max: u64,
    /// Why its response cannot be read; empty while it can.
    unread: Box<str>,
    /// The bytes it has sent, also those that are not kept. `response_max` limits these.
    received: u64,
    /// Gives the response; `None` once it has ended.
    response_pipe: Option<File>,
    exit: Option<(Exit, Option<SetupError>)>,
    /// The file that a download is written to, and its size at the start.
    target: Option<(File, u64)>,
    /// What it has announced: the size of the whole download, bytes, or the address that its exchange has reached.
    announced: Option<u64>,
}

/// Why the daemon killed a helper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stopped {
    /// Its deadline has passed, or its response is no longer needed.
    Unwanted,
    /// It made no progress for too long.
    Stalled,
}

/// What a helper may use for its request: how large its file may become and how long the response may be, bytes, how long it may
/// take in all, and what is said of one that was stopped.
fn bounds(request: &HelperRequest) -> (u64, u64, Option<Duration>, Option<&'static str>) {
    match request {
        HelperRequest::Exchange { max_body, .. } => {
            let most = Duration::from_secs(EXCHANGE_SECS.into()) + GRACE;
            (0, max_body.saturating_add(RESULT_MAX), Some(most), None)
        }
        HelperRequest::Fetch { max_bytes, .. } => (*max_bytes, RESULT_MAX, None, Some("interrupted, as others wait")),
        HelperRequest::Verify { .. } => {
            (0, RESULT_MAX, Some(UNPACK_MAX), Some("verifying the signature took too long"))
        }
        HelperRequest::Unpack { max_bytes, .. } => {
            (*max_bytes, RESULT_MAX, Some(UNPACK_MAX), Some("unpacking was stopped"))
        }
        HelperRequest::Inspect { pids, .. } => {
            (0, pids.len() as u64 * ANSWER_MAX, Some(INSPECT_MAX), Some("a process cannot be read"))
        }
        HelperRequest::Rotate { .. } => (u64::MAX, RESULT_MAX, Some(UNPACK_MAX), Some("copying it took too long")),
    }
}

impl Helper {
    /// Starts a helper with a request. `file` is the package: a `Fetch` writes to it (opened for reading and writing, at most
    /// `max_bytes` long), a `Verify` or `Unpack` reads it; a `Rotate` gets the log, open for both. `who` is the user of the
    /// helper; `None`: that of the daemon.
    ///
    /// # Errors
    /// When no child can be made.
    pub fn start(
        binary: &Binary,
        request: &HelperRequest,
        file: Option<File>,
        who: Option<Identity>,
        failures: &SetupErrorPipe,
        now: Time,
    ) -> io::Result<Helper> {
        let (file_max, response_max, most, when_stopped) = bounds(request);
        let exchanges = matches!(request, HelperRequest::Exchange { .. });
        let inspects = matches!(request, HelperRequest::Inspect { .. });
        let target = match (&file, request) {
            (Some(file), HelperRequest::Fetch { .. }) => Some((watched(file)?, file.metadata()?.len())),
            _ => None,
        };
        let (request_read, request_write) = pipe()?;
        let (response_read, response_write) = pipe()?;
        set_nonblocking(request_write.as_fd())?;
        set_nonblocking(response_read.as_fd())?;

        let memory = if exchanges { EXCHANGE_MEMORY_MAX } else { MEMORY_MAX };
        let mut setup = setup(binary, who, file_max, memory)?;
        setup.stdin = Some(request_read);
        setup.stdout = Some(response_write);
        setup.extra = file.into_iter().map(OwnedFd::from).collect();
        if matches!(request, HelperRequest::Rotate { .. }) {
            // It ends by itself, and must not end while it has frozen an agent.
            setup.death_signal = None;
        }
        let pid = spawn_child(&setup, failures)?;
        // This closes the daemon's copies of the child's pipe ends. With them the response would never end.
        drop(setup);
        let mut helper = Helper {
            pid,
            inspects,
            who,
            deadline: most.map(|most| now + most),
            when_stopped,
            progress: (!exchanges && !inspects).then(|| Progress::new(stall_limit(), now)),
            stopped: None,
            request: encode_request(request),
            request_pipe: Some(File::from(request_write)),
            response: Vec::new(),
            response_max,
            unread: "".into(),
            received: 0,
            response_pipe: Some(File::from(response_read)),
            exit: None,
            target,
            announced: None,
        };
        // Most requests fit into the pipe, and then the loop need not wait for room in it.
        helper.send();
        Ok(helper)
    }

    /// Its process id, which is valid until `exited`.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// The user it runs as; `None` where that is the daemon's.
    pub fn user(&self) -> Option<Uid> {
        self.who.map(|who| who.uid)
    }

    /// When `look` must be called, unless it has finished by then.
    pub fn deadline(&self) -> Option<Time> {
        if self.stopped.is_some() || self.exit.is_some() {
            return None;
        }
        Time::earliest(&[self.deadline, self.progress.map(|progress| progress.look_at())])
    }

    /// Kills it when its deadline has passed, or when it makes no progress.
    pub fn look(&mut self, now: Time) {
        if self.deadline().is_none_or(|at| at > now) {
            return;
        }
        let sign = self.sign();
        if self.deadline.is_some_and(|at| at <= now) {
            self.stop();
        } else if self.progress.as_mut().is_some_and(|progress| !progress.makes_progress(sign, now)) {
            self.kill(Stopped::Stalled);
        }
    }

    /// The signs of progress that are visible from outside.
    fn sign(&self) -> Option<Sign> {
        let stat = proc::stat(self.pid)?;
        let bytes = self.progress().unwrap_or(0) + self.response.len() as u64;
        Some(Sign { bytes, work: stat.used, waits_for_disk: stat.state == b'D' })
    }

    /// The descriptors to wait for: room for its request, and its response.
    pub fn fds(&self) -> [Option<PollFd<'_>>; 2] {
        [
            self.request_pipe.as_ref().map(|pipe| PollFd::writing(pipe.as_fd())),
            self.response_pipe.as_ref().map(|pipe| PollFd::reading(pipe.as_fd())),
        ]
    }

    /// To be called when one of `fds` is ready. Writes and reads what is possible without waiting.
    pub fn ready(&mut self) {
        self.send();
        self.receive();
    }

    /// To be called when it has been reaped. `failure` is its setup error, if there is one.
    pub fn exited(&mut self, exit: Exit, failure: Option<SetupError>) {
        self.exit = Some((exit, failure));
        self.request_pipe = None;
        // Its whole response is in the pipe. Another process that may have the other end open has nothing to add.
        self.receive();
        self.response_pipe = None;
    }

    /// Whether there is nothing more to expect of it: it has been reaped, or it is an inspection that was killed. The latter
    /// may wait for ever in the kernel, and its answers so far count.
    pub fn finished(&self) -> bool {
        self.reaped() || self.inspects && self.stopped.is_some()
    }

    /// Whether it has been reaped.
    pub fn reaped(&self) -> bool {
        self.exit.is_some()
    }

    /// Whether it has closed its end of the response pipe.
    pub fn has_answered(&self) -> bool {
        self.response_pipe.is_none()
    }

    /// Kills it, as its response is no longer needed.
    pub fn stop(&mut self) {
        self.kill(Stopped::Unwanted);
    }

    fn kill(&mut self, why: Stopped) {
        self.stopped = Some(why);
        if self.exit.is_none() {
            // It fails only where the helper has just ended by itself.
            let _ = process::signal(self.pid, Sig::KILL);
        }
    }

    /// The bytes of a download on disk so far, of all attempts together.
    pub fn progress(&self) -> Option<u64> {
        let (file, _) = self.target.as_ref()?;
        file.metadata().ok().map(|data| data.len())
    }

    /// The number that it has announced, if it has: of a download how many bytes it will have in all, of an exchange the
    /// address that it has reached.
    pub fn announced(&self) -> Option<u64> {
        self.announced
    }

    /// Its response, once it has `finished`.
    pub fn outcome(mut self) -> HelperResponse {
        if self.inspects {
            self.receive();
            let text = String::from_utf8_lossy(&self.response);
            return HelperResponse::Inspected(
                text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n').map(str::to_string)).collect(),
            );
        }
        let (exit, failure) = self.exit.unwrap_or((Exit::Unknown, None));
        // A response that is complete counts, even when the exit status is not known.
        if matches!(exit, Exit::Code(0) | Exit::Unknown) {
            if let Some(response) = decode_response(&self.response) {
                return response;
            }
        }
        let progressed = match (self.progress(), self.target.take()) {
            (Some(now), Some((_, before))) => now.saturating_sub(before),
            _ => 0,
        };
        let (kind, reason) = self.cause(exit, failure);
        HelperResponse::Failed(Failure { kind, reason, progressed, retry_after: None })
    }

    /// Why there is no complete response.
    fn cause(&self, exit: Exit, failure: Option<SetupError>) -> (FailureKind, String) {
        let reason = match exit {
            _ if self.stopped == Some(Stopped::Stalled) => {
                format!("the helper did nothing for {} s, and was ended", stall_limit().as_secs())
            }
            _ if self.stopped.is_some() => self.when_stopped.map_or_else(no_reply, String::from),
            Exit::Code(EXIT_NO_CONNECTION) => format!("no connection within {CONNECT_SECS} s"),
            Exit::Code(EXIT_NO_REPLY) => no_reply(),
            Exit::Signal(Sig::ALRM) => format!("stalled: no byte for {} s", stall_secs()),
            Exit::Signal(Sig::XFSZ) => return (FailureKind::TooBig, "a file is larger than allowed".to_string()),
            _ => match failure {
                Some(failure) => format!("cannot start a helper: {failure}"),
                None if self.received > self.response_max => "the helper's result is too long".to_string(),
                None if !self.unread.is_empty() => format!("the helper's result cannot be read: {}", self.unread),
                None => format!("the helper {exit} without a result"),
            },
        };
        (FailureKind::Temporary, reason)
    }

    /// Writes as much of the request as the pipe takes.
    fn send(&mut self) {
        while let Some(pipe) = &mut self.request_pipe {
            match pipe.write(&self.request) {
                Ok(count) if count < self.request.len() => {
                    self.request.drain(..count);
                    continue;
                }
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                // The helper has closed its end; its response or its exit status says why.
                Err(_) => {}
            }
            self.request_pipe = None;
            self.request = Vec::new();
        }
    }

    /// Reads what is in the response pipe. A helper that an attacker has taken over may fill the pipe as fast as it is read,
    /// also with bytes that are not kept: after `response_max` bytes nothing more is read.
    fn receive(&mut self) {
        let mut buffer = [0; 4 << 10];
        while let Some(pipe) = &mut self.response_pipe {
            match pipe.read(&mut buffer) {
                Ok(count @ 1..) if self.received <= self.response_max => {
                    self.received += count as u64;
                    if self.inspects {
                        self.deadline = Some(monotonic() + INSPECT_MAX);
                    }
                    self.response.extend_from_slice(&buffer[..count]);
                    while let Some(number) = take_announced(&mut self.response) {
                        self.announced = Some(number);
                    }
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => self.unread = reason(&error).into(),
                Ok(_) => {}
            }
            self.response_pipe = None;
        }
    }
}

fn no_reply() -> String {
    format!("no complete reply within {EXCHANGE_SECS} s")
}

/// What a helper executes, as which user, and within which limits.
fn setup(binary: &Binary, who: Option<Identity>, file_max: u64, memory: u64) -> io::Result<Setup> {
    let argv = vec![c"bootagent".to_owned(), c"work".to_owned()];
    let program = if who.is_some() { binary.program_for_others() } else { binary.program() }?;
    let mut setup = Setup::new(program, argv, environment());
    setup.rlimits =
        [(Resource::Nofile, FILES_MAX), (Resource::Core, 0), (Resource::Fsize, file_max), (Resource::As, memory)]
            .into_iter()
            .map(|(resource, most)| limit(resource, most))
            .collect();
    setup.oom_score_adj = Some(oom_score::USUAL);
    setup.no_new_privs = true;
    setup.death_signal = Some(Sig::KILL);
    if let Some(who) = who {
        setup.groups = Some(Vec::new());
        setup.gid = Some(who.gid);
        setup.uid = Some(who.uid);
    }
    Ok(setup)
}

/// How long a helper may make no progress. Its own alarm comes before that, unless it is blocked.
fn stall_limit() -> Duration {
    Duration::from_secs(u64::from(stall_secs())) + GRACE
}

/// The same file, opened again only to look at its size. Other children inherit a descriptor until they execute their
/// programs, and one that is open for writing would count as a writer that the helper left. Without /proc it is a copy.
fn watched(file: &File) -> io::Result<File> {
    File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).or_else(|_| file.try_clone())
}

/// The limit to set, soft and hard: `most`, or the daemon's own hard limit where that is lower.
fn limit(resource: Resource, most: u64) -> (Resource, u64, u64) {
    let hard = process::limit(resource).map_or(u64::MAX, |(_, hard)| hard);
    (resource, most.min(hard), most.min(hard))
}

/// The whole environment of a helper. The variables that say where the host keeps its certificate authorities are passed on.
fn environment() -> Vec<CString> {
    let mut envp = vec![c"PATH=/usr/sbin:/usr/bin:/sbin:/bin".to_owned()];
    let names = [
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        #[cfg(debug_assertions)]
        "BOOTAGENT_STALL_SECS",
    ];
    for name in names {
        if let Some(value) = std::env::var_os(name) {
            let pair = [name.as_bytes(), b"=", value.as_bytes()].concat();
            envp.extend(CString::new(pair));
        }
    }
    envp
}

fn text(text: &OsStr) -> io::Result<CString> {
    Ok(CString::new(text.as_bytes())?)
}
