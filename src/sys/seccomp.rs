//! The system calls that a helper process may make: a filter that the kernel applies from then on, seccomp(2). An attacker
//! who takes over a helper can use the network, its pipes and its file, and cannot start a program, make a file, change the
//! user or touch another process.
//!
//! A call that is not in the lists fails with EPERM, and does not end the process: a C library may try a call that it can do
//! without, and that must not cost a fleet its updates. The lists hold for x86_64, aarch64, arm and x86, on musl and glibc. Where the kernel has
//! no filters, or for another processor, nothing is restricted.

use std::ffi::{c_long, c_ulong};
use std::io;

use super::{cerr, process::UNUSED};

/// What the process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// It uses the network, and fills the file it was given.
    Network,
    /// It reads the file it was given.
    Reading,
}

/// When a call is allowed.
enum When {
    Always,
    /// The argument at this place is one of these.
    OneOf(u32, &'static [u32]),
    /// The argument at this place has none of these bits.
    Without(u32, u32),
}
use When::{Always, OneOf, Without};

type Calls = &'static [(c_long, When)];

/// The commands of fcntl(2) that copy descriptors and change their flags. Others can lock files that other processes wait for,
/// and make the kernel send signals to any process.
const FILE_CONTROLS: &[u32] = &[
    libc::F_DUPFD as u32,
    libc::F_DUPFD_CLOEXEC as u32,
    libc::F_GETFD as u32,
    libc::F_SETFD as u32,
    libc::F_GETFL as u32,
    libc::F_SETFL as u32,
];

/// Calls on the descriptors it has.
const FILES: Calls = &[
    (libc::SYS_read, Always),
    (libc::SYS_write, Always),
    (libc::SYS_readv, Always),
    (libc::SYS_writev, Always),
    (libc::SYS_pread64, Always),
    (libc::SYS_lseek, Always),
    (libc::SYS_ftruncate, Always),
    (libc::SYS_fsync, Always),
    (libc::SYS_fdatasync, Always),
    (libc::SYS_close, Always),
    (libc::SYS_fcntl, OneOf(1, FILE_CONTROLS)),
    (libc::SYS_fstat, Always),
    (libc::SYS_fstatfs, Always),
    (libc::SYS_statx, Always),
    #[cfg(target_pointer_width = "32")]
    (libc::SYS__llseek, Always),
    #[cfg(target_pointer_width = "32")]
    (libc::SYS_ftruncate64, Always),
    #[cfg(target_pointer_width = "32")]
    (libc::SYS_fcntl64, OneOf(1, FILE_CONTROLS)),
    #[cfg(target_pointer_width = "32")]
    (libc::SYS_fstat64, Always),
    #[cfg(target_pointer_width = "32")]
    (libc::SYS_fstatfs64, Always),
    #[cfg(target_pointer_width = "32")]
    (libc::SYS_fstatat64, Always),
    #[cfg(target_pointer_width = "64")]
    (libc::SYS_newfstatat, Always),
];

/// When memory may become executable: glibc loads its name service modules when it needs them, a static binary never does.
const CODE: When = if cfg!(target_env = "gnu") { Always } else { Without(2, libc::PROT_EXEC as u32) };

/// Calls for memory.
const MEMORY: Calls = &[
    (libc::SYS_brk, Always),
    #[cfg(not(target_arch = "arm"))]
    (libc::SYS_mmap, CODE),
    #[cfg(target_pointer_width = "32")]
    (libc::SYS_mmap2, CODE),
    (libc::SYS_mprotect, CODE),
    (libc::SYS_munmap, Always),
    (libc::SYS_mremap, Always),
    (libc::SYS_madvise, Always),
];

/// Calls for clocks, pauses, the alarm, signals and the exit. Those with 64-bit times have the same numbers on all 32-bit
/// processors.
const TIME: Calls = &[
    (libc::SYS_clock_gettime, Always),
    (libc::SYS_gettimeofday, Always),
    (libc::SYS_nanosleep, Always),
    (libc::SYS_clock_nanosleep, Always),
    (libc::SYS_setitimer, Always),
    (libc::SYS_futex, Always),
    (libc::SYS_getrandom, Always),
    (libc::SYS_getpid, Always),
    (libc::SYS_rt_sigaction, Always),
    (libc::SYS_rt_sigprocmask, Always),
    (libc::SYS_rt_sigreturn, Always),
    (libc::SYS_sigaltstack, Always),
    (libc::SYS_restart_syscall, Always),
    (libc::SYS_exit, Always),
    (libc::SYS_exit_group, Always),
    #[cfg(any(target_arch = "x86_64", target_arch = "x86"))]
    (libc::SYS_alarm, Always),
    #[cfg(any(target_arch = "x86_64", target_arch = "x86"))]
    (libc::SYS_time, Always),
    #[cfg(target_pointer_width = "32")]
    (libc::SYS_sigreturn, Always),
    #[cfg(target_pointer_width = "32")]
    (403, Always), // clock_gettime64
    #[cfg(target_pointer_width = "32")]
    (407, Always), // clock_nanosleep_time64
    #[cfg(target_pointer_width = "32")]
    (422, Always), // futex_time64
];

/// Address families of sockets. glibc also asks local name services, and the kernel for its addresses.
#[cfg(not(target_env = "gnu"))]
const SOCKETS: &[u32] = &[libc::AF_INET as u32, libc::AF_INET6 as u32];
#[cfg(target_env = "gnu")]
const SOCKETS: &[u32] = &[libc::AF_INET as u32, libc::AF_INET6 as u32, libc::AF_UNIX as u32, libc::AF_NETLINK as u32];

/// FIONREAD, how much can be read, and FIONBIO, non-blocking mode.
const SOCKET_CONTROLS: &[u32] = &[0x541b, 0x5421];

/// Calls for outgoing connections.
const NETWORK: Calls = &[
    (libc::SYS_socket, OneOf(0, SOCKETS)),
    (libc::SYS_ioctl, OneOf(1, SOCKET_CONTROLS)),
    (libc::SYS_connect, Always),
    (libc::SYS_bind, Always),
    (libc::SYS_getsockname, Always),
    (libc::SYS_getpeername, Always),
    (libc::SYS_getsockopt, Always),
    (libc::SYS_setsockopt, Always),
    (libc::SYS_sendto, Always),
    (libc::SYS_recvfrom, Always),
    (libc::SYS_sendmsg, Always),
    (libc::SYS_recvmsg, Always),
    (libc::SYS_sendmmsg, Always),
    (libc::SYS_recvmmsg, Always),
    (libc::SYS_shutdown, Always),
    (libc::SYS_ppoll, Always),
    #[cfg(not(target_arch = "aarch64"))]
    (libc::SYS_poll, Always),
    #[cfg(target_arch = "arm")]
    (libc::SYS_send, Always),
    #[cfg(target_arch = "arm")]
    (libc::SYS_recv, Always),
    // All of the above in one, before Linux 4.3.
    #[cfg(target_arch = "x86")]
    (libc::SYS_socketcall, Always),
    #[cfg(target_pointer_width = "32")]
    (414, Always), // ppoll_time64
];

/// The flags of an open that is not for reading only.
const WRITING: u32 = (libc::O_WRONLY | libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC | libc::O_APPEND) as u32;

/// Calls that open files for reading: those that configure name resolution, and local packages.
const LOOKUP: Calls = &[
    (libc::SYS_openat, Without(2, WRITING)),
    (libc::SYS_faccessat, Always),
    (libc::SYS_readlinkat, Always),
    (libc::SYS_uname, Always),
    #[cfg(not(target_arch = "aarch64"))]
    (libc::SYS_open, Without(1, WRITING)),
    #[cfg(not(target_arch = "aarch64"))]
    (libc::SYS_access, Always),
    #[cfg(not(target_arch = "aarch64"))]
    (libc::SYS_stat, Always),
    #[cfg(target_pointer_width = "32")]
    (libc::SYS_stat64, Always),
];

/// Allows this process only the calls that `purpose` needs, until it ends.
///
/// # Errors
/// EINVAL or ENOSYS where the kernel has no filters; nothing is restricted then.
pub fn restrict(purpose: Purpose) -> io::Result<()> {
    let mut filter = filter(purpose).ok_or_else(|| io::Error::from_raw_os_error(libc::ENOSYS))?;
    let program = libc::sock_fprog { len: filter.len() as _, filter: filter.as_mut_ptr() };
    let program: *const libc::sock_fprog = &program;
    // The daemon sets it for helpers too; the filter requires it.
    super::process::prctl(libc::PR_SET_NO_NEW_PRIVS, 1)?;
    let mode = libc::SECCOMP_MODE_FILTER as c_ulong;
    // SAFETY: the kernel reads the program and the filter it points to, which both live through the call.
    cerr(unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, program, UNUSED, UNUSED) }).map(drop)
}

/// The kernel's name of this processor's system call convention, AUDIT_ARCH_*: the numbers in the lists are of this one.
const ARCHITECTURE: Option<u32> = if cfg!(all(target_arch = "x86_64", target_pointer_width = "64")) {
    Some(0xc000_003e)
} else if cfg!(target_arch = "aarch64") {
    Some(0xc000_00b7)
} else if cfg!(target_arch = "arm") {
    Some(0x4000_0028)
} else if cfg!(target_arch = "x86") {
    Some(0x4000_0003)
} else {
    None
};

// Offsets of the number of the call, the architecture and the first argument in the filter's input. All processors here have
// the lower half of an argument first.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARGUMENTS: u32 = 16;

// Instructions: load a word, jump if equal, jump if any bit is set, return.
const LOAD: u16 = 0x20;
const IF_EQUAL: u16 = 0x15;
const IF_ANY: u16 = 0x45;
const RETURN: u16 = 0x06;

// Results of the filter.
const ALLOW: u32 = 0x7fff_0000;
const REFUSE: u32 = 0x0005_0000 | libc::EPERM as u32;
const KILL: u32 = 0;

fn step(code: u16, k: u32) -> libc::sock_filter {
    libc::sock_filter { code, jt: 0, jf: 0, k }
}

/// The step, and how many steps to skip when its condition does not hold.
fn unless(code: u16, k: u32, otherwise: u8) -> libc::sock_filter {
    libc::sock_filter { code, jt: 0, jf: otherwise, k }
}

/// The filter as the kernel takes it: the first call in the lists whose number matches decides.
fn filter(purpose: Purpose) -> Option<Vec<libc::sock_filter>> {
    let lists: &[Calls] = match purpose {
        Purpose::Network => &[FILES, NETWORK, TIME, MEMORY, LOOKUP],
        Purpose::Reading => &[FILES, TIME, MEMORY],
    };
    // This program makes no call of another architecture's convention.
    let is_own = libc::sock_filter { code: IF_EQUAL, jt: 1, jf: 0, k: ARCHITECTURE? };
    let mut filter = vec![step(LOAD, ARCH), is_own, step(RETURN, KILL), step(LOAD, NUMBER)];
    for (number, when) in lists.iter().copied().flatten() {
        let mut then = match when {
            Always => vec![step(RETURN, ALLOW)],
            OneOf(place, values) => {
                let mut then = vec![step(LOAD, ARGUMENTS + 8 * place)];
                for value in *values {
                    then.extend([unless(IF_EQUAL, *value, 1), step(RETURN, ALLOW)]);
                }
                then.push(step(RETURN, REFUSE));
                then
            }
            Without(place, bits) => vec![
                step(LOAD, ARGUMENTS + 8 * place),
                unless(IF_ANY, *bits, 1),
                step(RETURN, REFUSE),
                step(RETURN, ALLOW),
            ],
        };
        filter.push(unless(IF_EQUAL, *number as u32, then.len() as u8));
        filter.append(&mut then);
    }
    filter.push(step(RETURN, REFUSE));
    Some(filter)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel would do: interprets the few instructions there are for one call.
    fn judge(purpose: Purpose, arch: u32, number: c_long, arguments: [u32; 3]) -> u32 {
        let filter = filter(purpose).expect("a known processor");
        let (mut at, mut word) = (0, 0);
        loop {
            let step = &filter[at];
            let jump = match step.code {
                RETURN => return step.k,
                LOAD => {
                    word = match step.k {
                        NUMBER => number as u32,
                        ARCH => arch,
                        place => arguments[(place - ARGUMENTS) as usize / 8],
                    };
                    0
                }
                IF_EQUAL if word == step.k => step.jt,
                IF_ANY if word & step.k != 0 => step.jt,
                _ => step.jf,
            };
            at += 1 + usize::from(jump);
        }
    }

    #[test]
    fn only_listed_calls_are_allowed() {
        let own = ARCHITECTURE.expect("a known processor");
        use Purpose::{Network, Reading};
        for (purpose, number, arguments, want) in [
            (Network, libc::SYS_read, [0; 3], ALLOW),
            (Reading, libc::SYS_read, [0; 3], ALLOW),
            (Reading, libc::SYS_exit_group, [0; 3], ALLOW),
            (Network, libc::SYS_socket, [libc::AF_INET as u32, 1, 0], ALLOW),
            (Network, libc::SYS_socket, [libc::AF_INET6 as u32, 1, 0], ALLOW),
            (Network, libc::SYS_socket, [libc::AF_PACKET as u32, 1, 0], REFUSE),
            (Reading, libc::SYS_socket, [libc::AF_INET as u32, 1, 0], REFUSE),
            (Network, libc::SYS_openat, [0, 0, libc::O_CLOEXEC as u32], ALLOW),
            (Network, libc::SYS_openat, [0, 0, libc::O_RDWR as u32], REFUSE),
            (Network, libc::SYS_openat, [0, 0, (libc::O_WRONLY | libc::O_CREAT) as u32], REFUSE),
            (Reading, libc::SYS_openat, [0; 3], REFUSE),
            (Network, libc::SYS_execve, [0; 3], REFUSE),
            (Network, libc::SYS_clone, [0; 3], REFUSE),
            (Network, libc::SYS_ptrace, [0; 3], REFUSE),
            (Network, libc::SYS_kill, [0; 3], REFUSE),
            (Network, libc::SYS_setuid, [0; 3], REFUSE),
            (Network, libc::SYS_unlinkat, [0; 3], REFUSE),
            (Network, libc::SYS_accept4, [0; 3], REFUSE),
        ] {
            assert_eq!(judge(purpose, own, number, arguments), want, "{purpose:?} {number} {arguments:?}");
        }
        assert_eq!(judge(Network, own ^ 1, libc::SYS_read, [0; 3]), KILL, "another architecture");
        let lists = [FILES, NETWORK, TIME, MEMORY, LOOKUP];
        let numbers: Vec<c_long> = lists.iter().copied().flatten().map(|(number, _)| *number).collect();
        for number in 0..600 {
            let tried = [[libc::AF_INET as u32, 0, 0], [0, 0x541b, 0]];
            let allowed = tried.iter().any(|arguments| judge(Network, own, number, *arguments) == ALLOW);
            assert_eq!(allowed, numbers.contains(&number), "{number}");
        }
    }
}
