//! Processes: this one (ids, limits, exec), and others (reaping, signals, pidfds); making one is in `sys::child`.

use std::ffi::{c_int, CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::null;

use super::{cerr, cerr_long, pointers, poll};
use crate::kernel::{Exit, Pid, Resource, Sig, Uid};

/// The id of this process: a plain number and no `Pid`, as it may be 1.
pub fn own_id() -> i32 {
    // SAFETY: getpid touches no memory and cannot fail.
    unsafe { libc::getpid() }
}

/// Has a write beyond the limit of file sizes fail with EFBIG instead of ending this process. Children are to reset this.
pub fn ignore_file_size_signal() {
    poll::ignore(libc::SIGXFSZ);
}

/// The id of this process's parent; 0 for one outside our pid namespace.
pub fn parent_id() -> i32 {
    // SAFETY: getppid touches no memory and cannot fail.
    unsafe { libc::getppid() }
}

/// Reaps one child that has ended, without waiting: which one, and how it ended. `None` when there is none for now.
///
/// # Errors
/// When the kernel refuses, which it does not.
pub fn wait_any() -> io::Result<Option<(Pid, Exit)>> {
    loop {
        let mut status = 0;
        // SAFETY: waitpid writes the status to the int it is given.
        match cerr(unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) }) {
            Ok(0) => return Ok(None),
            Ok(raw) => {
                // Stops and continuations are not requested, but a tracer could get them.
                let ended = libc::WIFEXITED(status) || libc::WIFSIGNALED(status);
                if let (Some(pid), true) = (Pid::new(raw), ended) {
                    return Ok(Some((pid, exit_of(status))));
                }
            }
            Err(error) => match error.raw_os_error() {
                Some(libc::ECHILD) => return Ok(None),
                Some(libc::EINTR) => {}
                _ => return Err(error),
            },
        }
    }
}

/// Whether a process is our child, running or not yet reaped; until then no other process gets its id.
pub fn is_child(pid: Pid) -> bool {
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: all zeros is a value of siginfo_t, a plain C struct.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: waitid writes no more than the struct it is given; with WNOWAIT it takes nothing away.
    cerr(unsafe { libc::waitid(libc::P_PID, pid.raw() as libc::id_t, &mut info, options) }).is_ok()
}

/// Waits until the child `pid` has ended. Not for the daemon's loop, which must never wait for one thing only.
///
/// # Errors
/// ECHILD when it is no child of this process.
pub fn wait_for(pid: Pid) -> io::Result<Exit> {
    let mut status = 0;
    loop {
        // SAFETY: waitpid writes the status to the int it is given.
        match cerr(unsafe { libc::waitpid(pid.raw(), &mut status, 0) }) {
            Ok(_) => return Ok(exit_of(status)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// The end that a wait status tells of, wait(2).
pub fn exit_of(status: c_int) -> Exit {
    if libc::WIFEXITED(status) {
        return Exit::Code(libc::WEXITSTATUS(status));
    }
    match Sig::new(libc::WTERMSIG(status)) {
        Some(sig) => Exit::Signal(sig),
        None => Exit::Unknown,
    }
}

/// Sends `sig` to the process `pid`.
///
/// # Errors
/// ESRCH when there is none (one that has ended but is not yet reaped exists), EPERM when it is another user's.
pub fn signal(pid: Pid, sig: Sig) -> io::Result<()> {
    // SAFETY: kill reads no memory of ours.
    cerr(unsafe { libc::kill(pid.raw(), sig.raw()) }).map(drop)
}

/// Sends `sig` to every process in the group led by `leader`.
///
/// # Errors
/// ESRCH when there is no such group, EPERM when all in it are another user's.
pub fn signal_group(leader: Pid, sig: Sig) -> io::Result<()> {
    // SAFETY: kill reads no memory of ours; Pid keeps the number below -1, so that this reaches one group only.
    cerr(unsafe { libc::kill(-leader.raw(), sig.raw()) }).map(drop)
}

/// Whether there is a process `pid`, of any user; one that is not yet reaped exists.
pub fn exists(pid: Pid) -> bool {
    // SAFETY: kill with signal 0 only checks.
    match cerr(unsafe { libc::kill(pid.raw(), 0) }) {
        Ok(_) => true,
        Err(error) => error.raw_os_error() == Some(libc::EPERM),
    }
}

/// Whether any process that we can see runs as this user. It takes one call, however many processes there are, and no /proc.
pub fn has_process(user: Uid) -> bool {
    // The C library's wrapper returns -1 both as a priority and as a failure; the kernel's own results are above 0.
    // SAFETY: the call takes two numbers.
    let result = unsafe { libc::syscall(libc::SYS_getpriority, libc::PRIO_USER, user.0) };
    result != -1 || io::Error::last_os_error().raw_os_error() != Some(libc::ESRCH)
}

/// A descriptor of the process `pid` that becomes readable when it has ended.
///
/// # Errors
/// ENOSYS before Linux 5.3, and EPERM under some old seccomp filters: the process must then be polled.
pub fn pidfd_open(pid: Pid) -> io::Result<OwnedFd> {
    // SAFETY: the call takes two numbers.
    let fd = cerr_long(unsafe { libc::syscall(libc::SYS_pidfd_open, pid.raw(), 0) })?;
    // SAFETY: the call succeeded, so this is an open descriptor that nothing else owns; it closes on exec by itself.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Sends `sig` to the process of `pidfd`, never to another one that got its id.
///
/// # Errors
/// ESRCH when it has ended, and as `pidfd_open`.
pub fn pidfd_signal(pidfd: BorrowedFd<'_>, sig: Sig) -> io::Result<()> {
    let info = null::<libc::siginfo_t>();
    // SAFETY: a null siginfo makes the kernel fill in what kill(2) would.
    cerr_long(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), sig.raw(), info, 0) }).map(drop)
}

/// How the process of `pidfd`, which is not our child, ended; `None` until its parent has taken its status.
///
/// # Errors
/// ENOTTY or ESRCH before Linux 6.15, which does not tell.
pub fn pidfd_exit(pidfd: BorrowedFd<'_>) -> io::Result<Option<Exit>> {
    /// `struct pidfd_info` of linux/pidfd.h in its first version.
    #[repr(C)]
    #[derive(Default)]
    struct PidfdInfo {
        mask: u64,
        cgroup: u64,
        ids: [u32; 11],
        exit_code: i32,
    }
    const PIDFD_INFO_EXIT: u64 = 1 << 3;
    /// `_IOWR(0xFF, 11, struct pidfd_info)`; its type is another one in each C library.
    const PIDFD_GET_INFO: u32 = 3 << 30 | (size_of::<PidfdInfo>() as u32) << 16 | 0xff << 8 | 11;
    let mut info = PidfdInfo { mask: PIDFD_INFO_EXIT, ..Default::default() };
    // SAFETY: the size in the request tells the kernel how much of `info` it may fill in.
    cerr(unsafe { libc::ioctl(pidfd.as_raw_fd(), PIDFD_GET_INFO as _, &mut info) })?;
    Ok((info.mask & PIDFD_INFO_EXIT != 0).then(|| exit_of(info.exit_code)))
}

/// Makes orphans among our descendants our children instead of init's.
///
/// # Errors
/// EINVAL before Linux 3.4.
pub fn set_child_subreaper() -> io::Result<()> {
    prctl(libc::PR_SET_CHILD_SUBREAPER, 1)
}

/// Keeps other processes of this user out of our memory, and prevents core dumps. An exec resets it, so a program has to call
/// this for itself.
///
/// # Errors
/// When the kernel refuses, which it does not.
pub fn set_undumpable() -> io::Result<()> {
    prctl(libc::PR_SET_DUMPABLE, 0)
}

/// One of the prctl(2) operations that take a single number.
///
/// # Errors
/// When the kernel does not know the operation, or refuses it.
pub(super) fn prctl(operation: c_int, value: libc::c_ulong) -> io::Result<()> {
    // SAFETY: the operations used here take numbers only.
    cerr(unsafe { libc::prctl(operation, value, UNUSED, UNUSED, UNUSED) }).map(drop)
}

/// The value of prctl's unused arguments, in full width.
pub(super) const UNUSED: libc::c_ulong = 0;

/// Our soft and hard limit of `resource`; `u64::MAX` is unlimited.
///
/// # Errors
/// When the kernel refuses, which it does not.
pub fn limit(resource: Resource) -> io::Result<(u64, u64)> {
    let mut limits = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: getrlimit fills in the struct it is given.
    cerr(unsafe { libc::getrlimit(resource_number(resource) as _, &mut limits) })?;
    let value = |limit: libc::rlim_t| if limit == libc::RLIM_INFINITY { u64::MAX } else { limit };
    Ok((value(limits.rlim_cur), value(limits.rlim_max)))
}

/// Sets our soft and hard limit of `resource`; `u64::MAX` is unlimited.
///
/// # Errors
/// EPERM when the hard limit is raised without privileges, EINVAL when the soft one is above it.
pub fn set_limit(resource: Resource, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: soft, rlim_max: hard };
    // SAFETY: setrlimit reads the struct it is given.
    cerr(unsafe { libc::setrlimit(resource_number(resource) as _, &limit) }).map(drop)
}

pub(super) fn resource_number(resource: Resource) -> c_int {
    (match resource {
        Resource::Nofile => libc::RLIMIT_NOFILE,
        Resource::Nproc => libc::RLIMIT_NPROC,
        Resource::Core => libc::RLIMIT_CORE,
        Resource::Fsize => libc::RLIMIT_FSIZE,
        Resource::Stack => libc::RLIMIT_STACK,
        Resource::Data => libc::RLIMIT_DATA,
        Resource::As => libc::RLIMIT_AS,
        Resource::Cputime => libc::RLIMIT_CPU,
        Resource::Memlock => libc::RLIMIT_MEMLOCK,
    }) as c_int
}

/// Sets how readily the kernel kills us when memory runs out, -1000 (never) to 1000.
///
/// # Errors
/// When there is no /proc, or it takes privileges that we do not have.
pub fn set_oom_score_adj(score: i32) -> io::Result<()> {
    std::fs::write("/proc/self/oom_score_adj", score.to_string())
}

/// Sets the file mode creation mask and returns the old one.
pub fn set_umask(mask: u32) -> u32 {
    // SAFETY: umask takes a number and cannot fail.
    unsafe { libc::umask(mask) }
}

/// Starts a session of our own, without a controlling terminal.
///
/// # Errors
/// EPERM when this process leads a process group.
pub fn start_session() -> io::Result<()> {
    // SAFETY: setsid touches no memory.
    cerr(unsafe { libc::setsid() }).map(drop)
}

/// The arguments of this program, its name first, as `exec` takes them.
pub fn arguments() -> Vec<CString> {
    let mut arguments = Vec::new();
    for argument in std::env::args_os() {
        arguments.push(c_text(argument.as_bytes()));
    }
    arguments
}

/// Our environment, as `exec` takes it.
pub fn environment() -> Vec<CString> {
    let mut environment = Vec::new();
    for (name, value) in std::env::vars_os() {
        environment.push(c_text(&[name.as_bytes(), b"=", value.as_bytes()].concat()));
    }
    environment
}

/// The text as a C string; empty where there is a zero byte in it, which texts that were C strings do not have.
pub fn c_text(text: &[u8]) -> CString {
    CString::new(text).unwrap_or_default()
}

/// Executes `program` in place of this one; returns only when that fails.
///
/// Descriptors stay open only after `set_cloexec(fd, false)`; the signal mask, locks and children stay by themselves.
pub fn exec(program: &CStr, argv: &[CString], envp: &[CString]) -> io::Error {
    let (argv, envp) = (pointers(argv), pointers(envp));
    // SAFETY: the path ends in a NUL, both lists in a null, and what they point to outlives the call.
    unsafe { libc::execve(program.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
    io::Error::last_os_error()
}

/// What to do with the machine, reboot(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reboot {
    /// Restart it.
    Restart,
    /// Halt it and leave the power on.
    Halt,
    /// Switch it off.
    PowerOff,
}

/// Restarts, halts or switches off the machine at once; data that is not synced is lost. In a pid namespace of its own it
/// ends the init of the container instead.
///
/// # Errors
/// EPERM in a container, and without privileges.
pub fn reboot(what: Reboot) -> io::Result<()> {
    let command = match what {
        Reboot::Restart => libc::LINUX_REBOOT_CMD_RESTART,
        Reboot::Halt => libc::LINUX_REBOOT_CMD_HALT,
        Reboot::PowerOff => libc::LINUX_REBOOT_CMD_POWER_OFF,
    };
    // SAFETY: these commands take no argument.
    cerr(unsafe { libc::reboot(command as c_int) }).map(drop)
}

/// Writes all data that the kernel holds in memory to the disks; may take long.
pub fn sync() {
    // SAFETY: sync touches no memory and cannot fail.
    unsafe { libc::sync() };
}

/// The two sides of a fork.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fork {
    /// This is the old process; the new one has this id.
    Parent(Pid),
    /// This is the new process.
    Child,
}

/// Makes a copy of this process. This and `fork_into` are the only forks, and both refuse when there are other threads: the
/// copy would inherit their locks, locked for ever. Without /proc it cannot always be known that there are none.
///
/// # Errors
/// When there are other threads, or the kernel has no room for another process.
pub fn fork() -> io::Result<Fork> {
    be_alone()?;
    // SAFETY: with a single thread the child is a full copy, in which everything may be called.
    Ok(side(cerr(unsafe { libc::fork() })?))
}

/// As `fork`, with the copy made in the control group of v2 whose directory is `group`: moving a process into a group waits
/// for all processors of the host, some 10 ms, and making it there does not.
///
/// # Errors
/// As `fork`; ENOSYS before Linux 5.3, and E2BIG or EINVAL before 5.7: the copy then has to enter the group by itself.
pub fn fork_into(group: BorrowedFd<'_>) -> io::Result<Fork> {
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    be_alone()?;
    // clone(2): flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup.
    let mut arguments = [0u64; 11];
    arguments[0] = CLONE_INTO_CGROUP;
    arguments[4] = libc::SIGCHLD as u64;
    arguments[10] = group.as_raw_fd() as u64;
    // SAFETY: without CLONE_VM and a stack this is fork(2): a full copy of a process with a single thread. The kernel reads
    // the arguments, whose size it is given.
    let raw = unsafe { libc::syscall(libc::SYS_clone3, arguments.as_ptr(), size_of_val(&arguments)) };
    Ok(side(cerr_long(raw)? as i32))
}

/// Fails when there are other threads.
fn be_alone() -> io::Result<()> {
    // The call has no effect on a process with one thread and fails for one with more, unshare(2). Older kernels also refuse it
    // while another process reads our memory.
    // SAFETY: the call takes a number.
    if unsafe { libc::unshare(libc::CLONE_THREAD) } == 0 {
        return Ok(());
    }
    match threads() {
        Some(count) if count > 1 => Err(io::Error::other("this process has more than one thread")),
        _ => Ok(()),
    }
}

/// Which side of a fork this is, by what the call returned.
fn side(raw: i32) -> Fork {
    match raw {
        0 => Fork::Child,
        raw => Fork::Parent(Pid::new(raw).expect("a child's id is above 1, as init and we are not our own children")),
    }
}

/// How many threads this process has. Read from /proc/self/stat, as an emulator such as qemu-user provides that file itself:
/// /proc/self/task would show the emulator's own threads.
fn threads() -> Option<u32> {
    let stat = super::file::read_text(Path::new("/proc/self/stat")).ok()?;
    // The fields after the name, which may hold anything, begin with the third.
    stat.rsplit_once(')')?.1.split(' ').nth(20 - 2)?.parse().ok()
}

/// Ends this process at once, without destructors and exit handlers, which a forked copy must not run.
pub fn exit_now(status: i32) -> ! {
    // SAFETY: _exit does not return, and leaves nothing to be unsound.
    unsafe { libc::_exit(status) }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn exit_statuses_are_decoded() {
        for (status, want) in [
            (0x0000, Exit::Code(0)),
            (0x0700, Exit::Code(7)),
            (0xff00, Exit::Code(255)),
            (0x0009, Exit::Signal(Sig::KILL)),
            (0x008b, Exit::Signal(Sig::new(11).unwrap())),
        ] {
            assert_eq!(exit_of(status), want, "{status:#x}");
        }
    }

    #[test]
    fn limits_are_read_and_set() {
        let (soft, hard) = limit(Resource::Core).unwrap();
        set_limit(Resource::Core, soft, hard).unwrap();
        assert_eq!(limit(Resource::Core).unwrap(), (soft, hard));
        assert!(soft <= hard);
    }

    #[test]
    fn a_process_that_does_not_exist() {
        let nobody = Pid::new(i32::MAX).unwrap();
        assert!(!exists(nobody));
        assert_eq!(signal(nobody, Sig::TERM).unwrap_err().raw_os_error(), Some(libc::ESRCH));
        assert_eq!(signal_group(nobody, Sig::TERM).unwrap_err().raw_os_error(), Some(libc::ESRCH));
        assert!(pidfd_open(nobody).is_err());
    }

    #[test]
    fn users_with_processes_are_known() {
        assert!(has_process(crate::sys::account::own_uid()));
        assert!(!has_process(Uid(3_999_999_998)));
    }

    #[test]
    fn fork_refuses_threads() {
        let (stay, wait) = std::sync::mpsc::channel::<()>();
        let other = std::thread::spawn(move || wait.recv());
        assert!(fork().is_err());
        drop(stay);
        assert!(other.join().unwrap().is_err());
    }

    #[test]
    fn exec_returns_what_went_wrong() {
        assert_eq!(exec(c"/no/such/program", &[], &[]).kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_pidfd_tells_the_status_once_it_is_taken() {
        let mut command = std::process::Command::new("/bin/sh");
        let mut child = command.args(["-c", "read x; exit 7"]).stdin(std::process::Stdio::piped()).spawn().unwrap();
        let pidfd = pidfd_open(Pid::new(child.id() as i32).unwrap()).unwrap();
        let before = pidfd_exit(pidfd.as_fd());
        drop(child.stdin.take());
        child.wait().unwrap();
        // Older kernels tell nothing.
        assert_eq!(before.unwrap_or(None), None);
        assert_eq!(pidfd_exit(pidfd.as_fd()).unwrap_or(Some(Exit::Code(7))), Some(Exit::Code(7)));
    }
}
