//! A helper: this same binary executed again to do one blocking thing, its order on one pipe, its outcome on another.
//!
//! It holds nothing but its pipes and one file, runs as somebody else where it can, and dies with the daemon. It is finished
//! when it has been reaped, as all that it had to say is in the pipe by then; how it died becomes a `Failed` outcome like
//! any other. Nothing here blocks, and nothing here judges.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::Error;
pub use crate::host::identity::Identity;
use crate::host::{image, proc};
use crate::kernel::{Exit, Pid, Resource, Sig, Time, Uid};
use crate::model::progress::{Progress, Sign};
use crate::sys::child::{spawn_child, Program, Setup};
use crate::sys::poll::PollFd;
use crate::sys::setup_error::{SetupError, SetupErrorPipe};
use crate::sys::{pipe, process, set_nonblocking};
use crate::work::{
    decode_response, encode_request, stall_secs, take_total, FailureKind, HelperRequest, HelperResponse, CONNECT_SECS,
    EXCHANGE_SECS, EXIT_NO_CONNECTION, EXIT_NO_REPLY,
};

/// What an outcome may have beside the body of a reply, bytes.
const RESULT_MAX: u64 = 64 << 10;
/// Address space of a helper, and of the decompressor it runs, bytes.
const MEMORY_MAX: u64 = 256 << 20;
/// Descriptors of a helper.
const FILES_MAX: u64 = 64;
/// How much later than its own alarm a helper is ended from here.
const GRACE: Duration = Duration::from_secs(5);
/// How long verifying or unpacking may take; only a disk that has died takes longer.
const UNPACK_MAX: Duration = Duration::from_secs(1800);

/// The running binary, to be executed again.
#[derive(Debug)]
pub struct Binary {
    /// Open since the daemon's start, so that it is this version that is executed, whatever is now on disk.
    file: Option<File>,
    path: PathBuf,
    /// A copy of it that helpers of other users execute and cannot read.
    closed: Option<File>,
}

impl Binary {
    /// The binary of this process; where it cannot be opened (no /proc, or not readable for us), `path` is executed.
    pub fn own(path: &Path) -> Binary {
        Binary { file: File::open("/proc/self/exe").ok(), path: path.into(), closed: None }
    }

    /// The binary of this name, looked up at each start.
    pub fn at(path: &Path) -> Binary {
        Binary { file: None, path: path.into(), closed: None }
    }

    /// Has helpers of other users execute a copy that they cannot read, in the first of these directories where that can be.
    ///
    /// # Errors
    /// Why there can be none; they execute the binary itself then.
    pub fn close(&mut self, places: &[&Path]) -> Result<(), Error> {
        let own = self.file.as_ref().ok_or("\"/proc/self/exe\" cannot be opened")?;
        self.closed = Some(image::closed_copy(own, places)?);
        Ok(())
    }

    /// What a helper of another user is to execute.
    fn program_for_others(&self) -> io::Result<Program> {
        match &self.closed {
            Some(file) => Ok(Program::Fd(file.try_clone()?.into())),
            None => self.program(),
        }
    }

    /// What to execute.
    pub fn program(&self) -> io::Result<Program> {
        match &self.file {
            Some(file) => Ok(Program::Fd(file.try_clone()?.into())),
            None => Ok(Program::Path(text(self.path.as_os_str())?)),
        }
    }
}

/// A running helper, or one that has ended and not been heard out.
#[derive(Debug)]
pub struct Helper {
    pid: Pid,
    task: Task,
    who: Option<Identity>,
    /// When it is to be ended from here, whatever it does.
    deadline: Option<Time>,
    /// Whether it does anything; an exchange has its deadline only.
    progress: Option<Progress>,
    /// Why it was ended from here, if it was.
    stopped: Option<Stopped>,
    order: Vec<u8>,
    sent: usize,
    /// Takes the order; none when it has all of it.
    order_pipe: Option<File>,
    result: Vec<u8>,
    result_max: u64,
    /// All bytes it has sent, those too that are not kept: `result_max` is for these.
    heard: u64,
    /// Gives the result; none when it has ended.
    result_pipe: Option<File>,
    exit: Option<(Exit, Option<SetupError>)>,
    /// The file a download fills, and its size at the start.
    target: Option<(File, u64)>,
    /// How many bytes a download will have, once its source has said so.
    total: Option<u64>,
}

/// What it was started for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Task {
    Exchange,
    Fetch,
    Verify,
    Unpack,
}

/// Why a helper was ended from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stopped {
    /// Its time is over, or nobody wants its outcome any more.
    Unwanted,
    /// It did nothing for too long.
    Still,
}

impl Helper {
    /// Starts a helper on `order`. `file` is the package: to be filled by a `Fetch` (opened for reading and writing, at most
    /// `max_bytes` long), to be read by a `Verify` or `Unpack`. `who` is `None` to run as ourselves.
    ///
    /// # Errors
    /// When no child can be made.
    pub fn start(
        binary: &Binary,
        order: &HelperRequest,
        file: Option<File>,
        who: Option<Identity>,
        failures: &SetupErrorPipe,
        now: Time,
    ) -> io::Result<Helper> {
        let (task, file_max, result_max, deadline) = match order {
            HelperRequest::Exchange { max_body, .. } => {
                let most = Duration::from_secs(u64::from(EXCHANGE_SECS)) + GRACE;
                (Task::Exchange, 0, max_body.saturating_add(RESULT_MAX), Some(now + most))
            }
            HelperRequest::Fetch { max_bytes, .. } => (Task::Fetch, *max_bytes, RESULT_MAX, None),
            HelperRequest::Verify { .. } => (Task::Verify, 0, RESULT_MAX, Some(now + UNPACK_MAX)),
            HelperRequest::Unpack { max_bytes, .. } => (Task::Unpack, *max_bytes, RESULT_MAX, Some(now + UNPACK_MAX)),
        };
        let target = match &file {
            Some(file) if task == Task::Fetch => Some((watched(file)?, file.metadata()?.len())),
            _ => None,
        };
        let (order_read, order_write) = pipe()?;
        let (result_read, result_write) = pipe()?;
        set_nonblocking(order_write.as_fd())?;
        set_nonblocking(result_read.as_fd())?;

        let mut setup = setup(binary, who, file_max)?;
        setup.stdin = Some(order_read);
        setup.stdout = Some(result_write);
        setup.extra = file.into_iter().map(OwnedFd::from).collect();
        let pid = spawn_child(&setup, failures)?;
        // Our copies of the child's ends must go, or the result would never end.
        drop(setup);
        let mut helper = Helper {
            pid,
            task,
            who,
            deadline,
            progress: (task != Task::Exchange).then(|| Progress::new(still_limit(), now)),
            stopped: None,
            order: encode_request(order),
            sent: 0,
            order_pipe: Some(File::from(order_write)),
            result: Vec::new(),
            result_max,
            heard: 0,
            result_pipe: Some(File::from(result_read)),
            exit: None,
            target,
            total: None,
        };
        // Most orders fit into the pipe, and then the loop never hears of it.
        helper.send();
        Ok(helper)
    }

    /// Its process id, until `exited`.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// The user it runs as, where that is not ours.
    pub fn user(&self) -> Option<Uid> {
        self.who.map(|who| who.uid)
    }

    /// When `look` is to be called, if it has not finished by then.
    pub fn deadline(&self) -> Option<Time> {
        if self.stopped.is_some() || self.exit.is_some() {
            return None;
        }
        Time::earliest(&[self.deadline, self.progress.map(|progress| progress.look_at())])
    }

    /// Ends it when its time is over, or when it does nothing any more.
    pub fn look(&mut self, now: Time) {
        if self.deadline().is_none_or(|at| at > now) {
            return;
        }
        let sign = self.sign();
        if self.deadline.is_some_and(|at| at <= now) {
            self.stop();
        } else if self.progress.as_mut().is_some_and(|progress| !progress.goes_on(sign, now)) {
            self.end(Stopped::Still);
        }
    }

    /// What there is to be seen of its work.
    fn sign(&self) -> Option<Sign> {
        let stat = proc::stat(self.pid)?;
        let bytes = self.progress().unwrap_or(0) + self.result.len() as u64;
        Some(Sign { bytes, work: stat.used, waits_for_disk: stat.state == b'D' })
    }

    /// What to wait for: room for its order, and its result.
    pub fn fds(&self) -> [Option<PollFd<'_>>; 2] {
        [
            self.order_pipe.as_ref().map(|pipe| PollFd::writing(pipe.as_fd())),
            self.result_pipe.as_ref().map(|pipe| PollFd::reading(pipe.as_fd())),
        ]
    }

    /// To be called when one of `fds` is ready; does what can be done without waiting.
    pub fn ready(&mut self) {
        self.send();
        self.receive();
    }

    /// To be called when it has been reaped; `failure` is what the failure pipe knows of it.
    pub fn exited(&mut self, exit: Exit, failure: Option<SetupError>) {
        self.exit = Some((exit, failure));
        self.order_pipe = None;
        // What it had to say is in the pipe; whoever else got hold of the other end has nothing to say.
        self.receive();
        self.result_pipe = None;
    }

    /// Whether there is nothing more to wait for.
    pub fn finished(&self) -> bool {
        self.exit.is_some()
    }

    /// Ends it by force, as nobody wants its outcome any more.
    pub fn stop(&mut self) {
        self.end(Stopped::Unwanted);
    }

    fn end(&mut self, why: Stopped) {
        self.stopped = Some(why);
        if self.exit.is_none() {
            // One that has just ended by itself is as good.
            let _ = process::signal(self.pid, Sig::KILL);
        }
    }

    /// Bytes a download has fetched so far, all attempts together.
    pub fn progress(&self) -> Option<u64> {
        let (file, _) = self.target.as_ref()?;
        file.metadata().ok().map(|data| data.len())
    }

    /// How many bytes a download will have fetched at its end, where that is known.
    pub fn total(&self) -> Option<u64> {
        self.total
    }

    /// What came of it, once it has `finished`.
    pub fn outcome(mut self) -> HelperResponse {
        let (exit, failure) = self.exit.unwrap_or((Exit::Unknown, None));
        // A result is whole or none; one that is whole counts even when somebody else got the exit status.
        if matches!(exit, Exit::Code(0) | Exit::Unknown) {
            if let Some(outcome) = decode_response(&self.result) {
                return outcome;
            }
        }
        let progressed = match (self.progress(), self.target.take()) {
            (Some(now), Some((_, before))) => now.saturating_sub(before),
            _ => 0,
        };
        let (kind, reason) = self.cause(exit, failure);
        HelperResponse::Failed { kind, reason, progressed, retry_after: None }
    }

    /// Why there is no result.
    fn cause(&self, exit: Exit, failure: Option<SetupError>) -> (FailureKind, String) {
        let reason = match exit {
            _ if self.stopped == Some(Stopped::Still) => {
                format!("the helper did nothing for {} s, and was ended", still_limit().as_secs())
            }
            _ if self.stopped.is_some() => match self.task {
                Task::Exchange => format!("no complete reply within {EXCHANGE_SECS} s"),
                Task::Fetch => "interrupted, as others wait".to_string(),
                Task::Verify => "verifying the signature took too long".to_string(),
                Task::Unpack => "unpacking was stopped".to_string(),
            },
            Exit::Code(EXIT_NO_CONNECTION) => format!("no connection within {CONNECT_SECS} s"),
            Exit::Code(EXIT_NO_REPLY) => format!("no complete reply within {EXCHANGE_SECS} s"),
            Exit::Signal(Sig::ALRM) => format!("stalled: no byte for {} s", stall_secs()),
            Exit::Signal(Sig::XFSZ) => return (FailureKind::TooBig, "a file is larger than allowed".to_string()),
            _ => match failure {
                Some(failure) => format!("cannot start a helper: {failure}"),
                None if self.heard > self.result_max => "the helper's result is too long".to_string(),
                None => format!("the helper {exit} without a result"),
            },
        };
        (FailureKind::Temporary, reason)
    }

    /// Writes what the order pipe takes.
    fn send(&mut self) {
        while let Some(pipe) = &mut self.order_pipe {
            match pipe.write(&self.order[self.sent..]) {
                Ok(count) => {
                    self.sent += count;
                    if self.sent < self.order.len() {
                        continue;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                // It has closed its end; why is in its result or its exit status.
                Err(_) => {}
            }
            self.order_pipe = None;
            self.order = Vec::new();
        }
    }

    /// Reads what the result pipe has. One that was taken over may fill it as fast as it is emptied, with what is not kept too:
    /// it is heard up to a limit, and then never again.
    fn receive(&mut self) {
        let mut buffer = [0; 4 << 10];
        while let Some(pipe) = &mut self.result_pipe {
            match pipe.read(&mut buffer) {
                Ok(count @ 1..) if self.heard <= self.result_max => {
                    self.heard += count as u64;
                    self.result.extend_from_slice(&buffer[..count]);
                    while let Some(total) = take_total(&mut self.result) {
                        self.total = Some(total);
                    }
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                _ => {}
            }
            self.result_pipe = None;
        }
    }
}

/// What a helper executes, as whom, and within which limits.
fn setup(binary: &Binary, who: Option<Identity>, file_max: u64) -> io::Result<Setup> {
    let argv = vec![c"bootagent".to_owned(), c"work".to_owned()];
    let program = if who.is_some() { binary.program_for_others() } else { binary.program() }?;
    let mut setup = Setup::new(program, argv, environment());
    setup.rlimits =
        [(Resource::Nofile, FILES_MAX), (Resource::Core, 0), (Resource::Fsize, file_max), (Resource::As, MEMORY_MAX)]
            .into_iter()
            .map(|(resource, most)| limit(resource, most))
            .collect();
    setup.oom_score_adj = Some(0);
    setup.no_new_privs = true;
    setup.death_signal = Some(Sig::KILL);
    if let Some(who) = who {
        setup.groups = Some(Vec::new());
        setup.gid = Some(who.gid);
        setup.uid = Some(who.uid);
    }
    Ok(setup)
}

/// How long a helper may do nothing: its own alarm comes first, if it hears it.
fn still_limit() -> Duration {
    Duration::from_secs(u64::from(stall_secs())) + GRACE
}

/// The file, for looking at its size: a copy open for writing would be inherited by other children before they are their
/// programs, and be taken for a writer that the helper left. Where there is no /proc that has to do.
fn watched(file: &File) -> io::Result<File> {
    File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).or_else(|_| file.try_clone())
}

/// The limit as it is set; where ours is lower and cannot be raised again, ours.
fn limit(resource: Resource, most: u64) -> (Resource, u64, u64) {
    let hard = process::limit(resource).map_or(u64::MAX, |(_, hard)| hard);
    (resource, most.min(hard), most.min(hard))
}

/// A helper's whole environment; what says where the host keeps its certificate authorities is passed on.
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
