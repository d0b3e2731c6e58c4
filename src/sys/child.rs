//! Making a child: fork, set up, execute.
//!
//! A `Setup` is complete before the fork; between fork and exec there are only system calls and `_exit`: no allocation,
//! lookup, log or panic. A child that cannot be set up writes where and why as one atomic record to the
//! `setup_error::SetupErrorPipe`, which lives as long as the daemon, and exits with 127; the pipe is read when the child is
//! reaped. So starting never blocks, costs no descriptor per child, and needs no answer when all went well.

use std::convert::Infallible;
use std::ffi::{c_char, CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use super::process::{
    exit_now, fork, fork_into, limit, own_id, parent_id, prctl, set_limit, set_umask, start_session, Fork, UNUSED,
};
use super::setup_error::{encode, SetupError, SetupErrorPipe};
use super::{cerr, cerr_long, pipe, pointers, poll, standard};
use crate::kernel::{Errno, Gid, Pid, Resource, Sig, Stage, Uid};

/// What to execute.
#[derive(Debug)]
pub enum Program {
    /// The file of this name.
    Path(CString),
    /// The file that is open here, also where the child may not look its name up. Not for scripts: their interpreter
    /// would have to open a descriptor that is closed by then.
    Fd(OwnedFd),
}

/// Everything about a child before it is made, in the order in which it is set. Not `Debug`: environments hold secrets.
pub struct Setup {
    /// What to execute.
    pub program: Program,
    /// Its arguments, its own name first.
    pub argv: Vec<CString>,
    /// Its whole environment, `NAME=value`.
    pub envp: Vec<CString>,
    /// The directory of a control group of v2: the child is made in it where the kernel supports that, else it enters it.
    pub cgroup: Option<OwnedFd>,
    /// Control groups to enter: their `cgroup.procs` or `tasks` files, open for writing.
    pub cgroups: Vec<OwnedFd>,
    /// Descriptor 0; `None` is /dev/null.
    pub stdin: Option<OwnedFd>,
    /// Descriptor 1; `None` is /dev/null.
    pub stdout: Option<OwnedFd>,
    /// Descriptor 2; `None` is /dev/null.
    pub stderr: Option<OwnedFd>,
    /// Descriptors 3, 4 and so on; everything above is closed.
    pub extra: Vec<OwnedFd>,
    /// Whether it gets the kernel's defaults (`standard`) instead of what this process has, before what follows.
    pub standard: bool,
    /// Resource, soft limit, hard limit; `u64::MAX` is unlimited.
    pub rlimits: Vec<(Resource, u64, u64)>,
    /// Its scheduling priority, -20 to 19; `None` is ours. It also stays ours where it is 0 and we may not set it.
    pub nice: Option<i32>,
    /// How readily the kernel kills it when memory runs out, -1000 (never) to 1000; `None` is ours. It also stays ours where
    /// it is 0 and we may not set it.
    pub oom_score_adj: Option<i32>,
    /// Supplementary groups; `None` is ours.
    pub groups: Option<Vec<Gid>>,
    /// Group, real, effective and saved; `None` is ours.
    pub gid: Option<Gid>,
    /// The capabilities, as a bit set, that it or a set-user-id program below it can ever have; `None` is ours.
    pub bounding: Option<u64>,
    /// The capabilities, as a bit set, that it keeps when its user is another one than root.
    pub ambient: u64,
    /// User, real, effective and saved; `None` is ours.
    pub uid: Option<Uid>,
    /// Whether set-user-id programs and file capabilities have no effect for it and all processes below it.
    pub no_new_privs: bool,
    /// The signal it gets when this process ends.
    pub death_signal: Option<Sig>,
    /// Working directory, entered as its user.
    pub directory: CString,
    /// File mode creation mask.
    pub umask: u32,
}

impl Setup {
    /// A child that differs from this process only in its program, and has /dev/null for descriptors 0 to 2.
    pub fn new(program: Program, argv: Vec<CString>, envp: Vec<CString>) -> Setup {
        Setup {
            program,
            argv,
            envp,
            cgroup: None,
            cgroups: Vec::new(),
            stdin: None,
            stdout: None,
            stderr: None,
            extra: Vec::new(),
            standard: false,
            rlimits: Vec::new(),
            nice: None,
            oom_score_adj: None,
            groups: None,
            gid: None,
            bounding: None,
            ambient: 0,
            uid: None,
            no_new_privs: false,
            death_signal: None,
            directory: c"/".to_owned(),
            umask: 0o022,
        }
    }
}

/// Makes a child as `setup` says, and returns at once. If it cannot execute its program it exits with 127, and `failures` has
/// the reason when it is reaped.
///
/// # Errors
/// When no process could be made: `Stage::Fork`.
pub fn spawn_child(setup: &Setup, failures: &SetupErrorPipe) -> io::Result<Pid> {
    let mut null = None;
    let mut files = Vec::with_capacity(3 + setup.extra.len());
    for file in [&setup.stdin, &setup.stdout, &setup.stderr] {
        files.push(match (file, &null) {
            (Some(file), _) => file.as_raw_fd(),
            (None, Some(null)) => AsRawFd::as_raw_fd(null),
            (None, None) => null.insert(open_null()?).as_raw_fd(),
        });
    }
    files.extend(setup.extra.iter().map(AsRawFd::as_raw_fd));
    let mut child = Child {
        setup,
        argv: pointers(&setup.argv),
        envp: pointers(&setup.envp),
        files,
        program: match &setup.program {
            Program::Path(_) => -1,
            Program::Fd(fd) => fd.as_raw_fd(),
        },
        failures: failures.write.as_raw_fd(),
        ignored: failures.ignored,
        oom_score_adj: setup.oom_score_adj.map(|score| score.to_string()),
        parent: own_id(),
        inside: false,
        highest: highest()?,
    };
    let made_inside = setup.cgroup.as_ref().and_then(|group| fork_into(group.as_fd()).ok());
    child.inside = made_inside.is_some();
    let side = match made_inside {
        Some(side) => side,
        None => fork()?,
    };
    match side {
        Fork::Parent(pid) => Ok(pid),
        Fork::Child => child.run(),
    }
}

/// Where closing one by one ends, on kernels without close_range(2): more would take longer than some 10 ms.
const DESCRIPTORS_MAX: u64 = 65_536;

/// One above the last descriptor there can be, at most `DESCRIPTORS_MAX`.
fn highest() -> io::Result<RawFd> {
    Ok(limit(Resource::Nofile)?.0.min(DESCRIPTORS_MAX) as RawFd)
}

/// close_range(2) from `first` to the last; false on kernels without it, or without the flag (Linux 5.9 and 5.11).
fn close_range(first: RawFd, flags: libc::c_uint) -> bool {
    // SAFETY: the call takes numbers only.
    unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, flags) == 0 }
}

/// Closes all descriptors but the standard ones, which the parent of this process left open. To be called before this
/// process opens any file.
///
/// # Errors
/// When the limit of descriptors cannot be read.
pub fn close_inherited() -> io::Result<()> {
    if !close_range(3, 0) {
        for fd in 3..highest()? {
            // SAFETY: nothing here has opened a file yet, so nothing owns this descriptor.
            unsafe { libc::close(fd) };
        }
    }
    Ok(())
}

/// Stands in for a standard descriptor that `Setup` leaves out: /dev/null, or where there is none the reading end of a pipe,
/// which is empty, and where writing fails with EBADF and so without SIGPIPE.
fn open_null() -> io::Result<OwnedFd> {
    match File::options().read(true).write(true).open("/dev/null") {
        Ok(null) => Ok(null.into()),
        Err(_) => pipe().map(|(read, _)| read),
    }
}

/// A child between fork and exec, made before the fork.
struct Child<'a> {
    setup: &'a Setup,
    argv: Vec<*const c_char>,
    envp: Vec<*const c_char>,
    /// What becomes descriptors 0, 1, 2 and so on.
    files: Vec<RawFd>,
    /// The program's descriptor, -1 without one.
    program: RawFd,
    /// The writing end of the `SetupErrorPipe`.
    failures: RawFd,
    /// Signals to be given their default action.
    ignored: u64,
    oom_score_adj: Option<String>,
    parent: i32,
    /// Whether it was made in its control group of v2.
    inside: bool,
    /// One above the last descriptor there can be.
    highest: RawFd,
}

/// The step at which setting up the child failed, the kernel's error, and the limit being set. An io::Error of errno
/// allocates nothing.
struct StepError(Stage, io::Error, Option<(Resource, u64)>);

/// Adds to an error the step at which it came up.
fn at(stage: Stage) -> impl Fn(io::Error) -> StepError {
    move |error| StepError(stage, error, None)
}

impl Child<'_> {
    fn run(&mut self) -> ! {
        let Err(StepError(stage, error, limit)) = self.become_program();
        let failure = SetupError { stage, errno: Errno(error.raw_os_error().unwrap_or(0)), limit };
        // If this fails too, the exit status still says that the program was not executed.
        let _ = write(self.failures, &encode(own_id(), &failure));
        exit_now(127)
    }

    /// The order matters: groups and limits need root, the directory is entered with the rights of the user, the death
    /// signal does not survive a change of user, and nothing may be unblocked before its action is the default.
    fn become_program(&mut self) -> Result<Infallible, StepError> {
        let setup = self.setup;
        // A child that outlives the daemon before its exec would look like the daemon to the next one.
        self.die_with_parent(Sig::KILL)?;
        start_session().map_err(at(Stage::Session))?;
        if let Some(group) = setup.cgroup.as_ref().filter(|_| !self.inside) {
            enter(group.as_raw_fd()).map_err(at(Stage::Cgroup))?;
        }
        for group in &setup.cgroups {
            write(group.as_raw_fd(), b"0").map_err(at(Stage::Cgroup))?;
        }
        self.arrange_files().map_err(at(Stage::Files))?;
        // This opens a file, for which the limits set below may leave no descriptor.
        if let Some(score) = &self.oom_score_adj {
            allowed(write_oom_score(score.as_bytes()), setup.oom_score_adj).map_err(at(Stage::Priority))?;
        }
        // A low value may be allowed by the limit of nice values alone, which is reset below.
        if let Some(nice) = setup.nice {
            // SAFETY: the call takes numbers only.
            let set = cerr(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) }).map(drop);
            allowed(set, setup.nice).map_err(at(Stage::Nice))?;
        }
        if setup.standard {
            standard::reset(&setup.rlimits);
        }
        for &(resource, soft, hard) in &setup.rlimits {
            set_limit(resource, soft, hard).map_err(|error| StepError(Stage::Limits, error, Some((resource, soft))))?;
        }
        self.change_user()?;
        if setup.no_new_privs {
            prctl(libc::PR_SET_NO_NEW_PRIVS, 1).map_err(at(Stage::Privileges))?;
        }
        // The kernel resets the death signal when the user changes.
        self.die_with_parent(setup.death_signal.unwrap_or(Sig::KILL))?;
        // SAFETY: the path ends in a NUL.
        cerr(unsafe { libc::chdir(setup.directory.as_ptr()) }).map_err(at(Stage::Directory))?;
        set_umask(setup.umask);
        for raw in (1..=64).filter(|raw| self.ignored >> (raw - 1) & 1 != 0) {
            poll::set_default_action(raw).map_err(at(Stage::Signals))?;
        }
        poll::unblock_all().map_err(at(Stage::Signals))?;
        self.close_the_rest();
        if setup.death_signal.is_none() {
            prctl(libc::PR_SET_PDEATHSIG, 0).map_err(at(Stage::Privileges))?;
        }
        Err(at(Stage::Exec)(self.execute()))
    }

    fn die_with_parent(&self, sig: Sig) -> Result<(), StepError> {
        prctl(libc::PR_SET_PDEATHSIG, sig.raw() as libc::c_ulong).map_err(at(Stage::Privileges))?;
        if parent_id() != self.parent {
            // The parent ended before the call, so there will be no signal.
            exit_now(127);
        }
        Ok(())
    }

    /// Makes `files` the lowest descriptors, in order. All descriptors that are needed are moved above those first: then none
    /// is overwritten before it is copied, and none is its own target, which would leave it closing on exec.
    fn arrange_files(&mut self) -> io::Result<()> {
        let above = self.files.len() as RawFd;
        self.failures = move_above(self.failures, above)?;
        if self.program >= 0 {
            self.program = move_above(self.program, above)?;
        }
        for file in &mut self.files {
            *file = move_above(*file, above)?;
        }
        for (target, file) in self.files.iter().enumerate() {
            // SAFETY: dup2 closes what was open as `target`, which nothing in this process uses any more.
            cerr(unsafe { libc::dup2(*file, target as RawFd) })?;
        }
        Ok(())
    }

    fn change_user(&self) -> Result<(), StepError> {
        if let Some(groups) = &self.setup.groups {
            // SAFETY: Gid is laid out as gid_t, and the length is the list's own.
            cerr(unsafe { libc::setgroups(groups.len() as _, groups.as_ptr().cast()) }).map_err(at(Stage::Groups))?;
        }
        // To these calls -1 means "unchanged", which would leave the child with the ids of the daemon.
        let refused = |stage| StepError(stage, io::Error::from_raw_os_error(libc::EINVAL), None);
        if let Some(gid) = self.setup.gid {
            if gid.0 == u32::MAX {
                return Err(refused(Stage::Gid));
            }
            // SAFETY: setresgid takes numbers; it changes all three ids or none.
            cerr(unsafe { libc::setresgid(gid.0, gid.0, gid.0) }).map_err(at(Stage::Gid))?;
        }
        if let Some(keep) = self.setup.bounding {
            drop_capabilities(keep).map_err(at(Stage::Privileges))?;
        }
        if let Some(uid) = self.setup.uid {
            if uid.0 == u32::MAX {
                return Err(refused(Stage::Uid));
            }
            // Root has them in any case, and ambient ones would stay where a program changes its user.
            let ambient = if uid.0 == 0 { 0 } else { self.setup.ambient };
            if ambient != 0 {
                prctl(libc::PR_SET_KEEPCAPS, 1).map_err(at(Stage::Ambient))?;
            }
            // SAFETY: setresuid takes numbers; it changes all three ids or none.
            cerr(unsafe { libc::setresuid(uid.0, uid.0, uid.0) }).map_err(at(Stage::Uid))?;
            if ambient != 0 {
                keep_capabilities(ambient).map_err(at(Stage::Ambient))?;
            }
        }
        Ok(())
    }

    /// Keeps descriptors above the arranged ones from the program. Those of the daemon close on exec anyway; this is for what
    /// the daemon's own parent left open. They are marked and not closed, as the `SetupErrorPipe` and the program are needed
    /// until the exec.
    fn close_the_rest(&self) {
        let first = self.files.len() as RawFd;
        if !close_range(first, libc::CLOSE_RANGE_CLOEXEC) {
            for fd in first..self.highest {
                // SAFETY: F_SETFD touches no memory, and fails harmlessly where nothing is open.
                unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
            }
        }
    }

    fn execute(&self) -> io::Error {
        match &self.setup.program {
            Program::Path(path) => {
                // SAFETY: the path ends in a NUL, both lists in a null, and what they point to is in `setup`.
                unsafe { libc::execve(path.as_ptr(), self.argv.as_ptr(), self.envp.as_ptr()) };
            }
            Program::Fd(_) => {
                // Both C libraries use execveat, and /proc/self/fd before Linux 3.19.
                // SAFETY: both lists end in a null, and what they point to is in `setup`.
                unsafe { libc::fexecve(self.program, self.argv.as_ptr(), self.envp.as_ptr()) };
            }
        }
        io::Error::last_os_error()
    }
}

/// `fd`, or a copy of it where its number is below `above`.
fn move_above(fd: RawFd, above: RawFd) -> io::Result<RawFd> {
    if fd >= above {
        return Ok(fd);
    }
    // SAFETY: F_DUPFD_CLOEXEC takes an int and touches no memory.
    cerr(unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, above) })
}

/// Enters the control group of v2 whose directory is open as `group`.
fn enter(group: RawFd) -> io::Result<()> {
    // SAFETY: the path ends in a NUL.
    let file = cerr(unsafe { libc::openat(group, c"cgroup.procs".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC) })?;
    write(file, b"0")
}

fn write_oom_score(score: &[u8]) -> io::Result<()> {
    const PATH: &CStr = c"/proc/self/oom_score_adj";
    // SAFETY: the path ends in a NUL.
    let fd = cerr(unsafe { libc::open(PATH.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC) })?;
    write(fd, score)
}

/// The same result. Where 0, the default, cannot be set, as there is no /proc or it is not allowed, that is no failure: then
/// the daemon could not change its own value either.
fn allowed(result: io::Result<()>, value: Option<i32>) -> io::Result<()> {
    match result {
        Err(error)
            if value == Some(0)
                && matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EACCES | libc::EPERM | libc::EROFS)) =>
        {
            Ok(())
        }
        result => result,
    }
}

/// Takes every capability that is not in the set `keep` out of the bounding set.
fn drop_capabilities(keep: u64) -> io::Result<()> {
    for capability in 0..64 {
        // SAFETY: the operation takes numbers only.
        match unsafe { libc::prctl(libc::PR_CAPBSET_READ, capability, UNUSED, UNUSED, UNUSED) } {
            0 => {}
            1 if keep & (1 << capability) != 0 => {}
            1 => prctl(libc::PR_CAPBSET_DROP, capability)?,
            // The kernel has no capability of this number, nor of any above.
            _ => break,
        }
    }
    Ok(())
}

/// Leaves this process, and what it executes as a user without privileges, these capabilities and no others. Needs Linux 4.3.
fn keep_capabilities(set: u64) -> io::Result<()> {
    /// _LINUX_CAPABILITY_VERSION_3: two words for each set.
    const VERSION: u32 = 0x2008_0522;
    let header: [u32; 2] = [VERSION, 0];
    let (low, high) = (set as u32, (set >> 32) as u32);
    // Effective, permitted and inheritable: the lower words, then the higher ones.
    let data: [u32; 6] = [low, low, low, high, high, high];
    // SAFETY: capset reads the two structs, which consist of these words.
    cerr_long(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) })?;
    for capability in (0..64).filter(|capability| set >> capability & 1 != 0) {
        let raise = libc::PR_CAP_AMBIENT_RAISE as libc::c_ulong;
        let capability = capability as libc::c_ulong;
        // SAFETY: the operation takes numbers only.
        cerr(unsafe { libc::prctl(libc::PR_CAP_AMBIENT, raise, capability, UNUSED, UNUSED) })?;
    }
    Ok(())
}

fn write(fd: RawFd, bytes: &[u8]) -> io::Result<()> {
    // SAFETY: the pointer and the length are the slice's own.
    let written = unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) };
    cerr_long(written as libc::c_long).map(drop)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn without_a_null_device_reading_ends_and_writing_fails_quietly() {
        let (read, _) = pipe().unwrap();
        let mut file = File::from(read);
        assert_eq!(file.read(&mut [0]).unwrap(), 0);
        assert_eq!(file.write(b"x").unwrap_err().raw_os_error(), Some(libc::EBADF));
    }
}
