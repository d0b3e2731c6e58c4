//! Sockets that agents send short messages to, each of which says which process has sent it, unix(7).

use std::fs::{rename, Permissions};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use super::{alarm, cerr};

/// A message, and where it comes from.
pub struct Datagram<'a> {
    /// Its bytes, as many as fit.
    pub bytes: &'a [u8],
    /// There were more of them.
    pub truncated: bool,
    /// The process that has sent it; 0 where that is not visible here.
    pub sender: i32,
}

/// Room for one control message with the credentials of a sender. Descriptors that somebody sends do not fit, and are closed by
/// the kernel.
#[repr(C, align(8))]
struct Control([u8; CONTROL]);

// SAFETY: the macro calculates with numbers only.
const CONTROL: usize = unsafe { libc::CMSG_SPACE(size_of::<libc::ucred>() as u32) } as usize;

/// How often a close that waits is interrupted, in microseconds.
const INTERRUPTS: libc::c_long = 1000;

/// While this exists no close waits. What others have attached to a message that is taken, or lost with its socket, is closed
/// by the kernel on behalf of this process, and the close of a connection waits for as long as they have asked for, SO_LINGER
/// in socket(7). A signal ends that wait, so a timer sends one again and again.
pub struct NoWaiting(());

impl NoWaiting {
    /// Begins this time, which is to be short: it is no time for calls that a signal must not interrupt.
    pub fn begin() -> NoWaiting {
        // Without SA_RESTART, as nothing is to go on waiting. It is refused only for a signal that there is not.
        let _ = alarm::handle(ignore, 0);
        // SAFETY: sigset_t is plain data for which all zeroes is a good value. The pointers are to a value that lives through
        // the calls, or null.
        unsafe {
            let mut alarm: libc::sigset_t = std::mem::zeroed();
            libc::sigaddset(&mut alarm, libc::SIGALRM);
            libc::sigprocmask(libc::SIG_UNBLOCK, &alarm, std::ptr::null_mut());
        }
        set_timer(INTERRUPTS);
        NoWaiting(())
    }
}

impl Drop for NoWaiting {
    fn drop(&mut self) {
        set_timer(0);
    }
}

/// Sends SIGALRM to this process again and again from now on, or, with 0, no more.
fn set_timer(microseconds: libc::c_long) {
    // The kernel's itimerval: the seconds and microseconds of the interval, then of the first time.
    let timer: [libc::c_long; 4] = [0, microseconds, 0, microseconds];
    let old = std::ptr::null_mut::<libc::c_long>();
    // SAFETY: the pointer is to a value that lives through the call; a null one is not written.
    unsafe { libc::syscall(libc::SYS_setitimer, libc::ITIMER_REAL, timer.as_ptr(), old) };
}

extern "C" fn ignore(_: libc::c_int) {}

/// Makes a socket at `path` that everybody can send to, in place of what is there; it does not block. Nobody can send
/// anything before it takes the credentials of senders, as it is made at `draft` first, in the same directory.
///
/// # Errors
/// When it cannot be made there.
pub fn bind(draft: &Path, path: &Path) -> io::Result<OwnedFd> {
    let _ = std::fs::remove_file(draft);
    let socket = UnixDatagram::bind(draft)?;
    socket.set_nonblocking(true)?;
    let on: libc::c_int = 1;
    let (value, length) = ((&raw const on).cast(), size_of_val(&on) as libc::socklen_t);
    // SAFETY: the pointer and the length describe `on`, which lives through the call.
    cerr(unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PASSCRED, value, length) })?;
    std::fs::set_permissions(draft, Permissions::from_mode(0o666))?;
    rename(draft, path)?;
    Ok(socket.into())
}

/// Takes the next message; `None`: there is none at the moment.
///
/// # Errors
/// What recvmsg(2) reports.
pub fn receive<'a>(socket: BorrowedFd<'_>, buffer: &'a mut [u8]) -> io::Result<Option<Datagram<'a>>> {
    let mut control = Control([0; CONTROL]);
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: msghdr is plain data for which all zeroes is a good value.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    header.msg_control = (&raw mut control).cast();
    header.msg_controllen = CONTROL as _;
    // SAFETY: the header describes `buffer` and `control`, which live through the call.
    let length = unsafe { libc::recvmsg(socket.as_raw_fd(), &mut header, libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC) };
    if length < 0 {
        let error = io::Error::last_os_error();
        return if error.kind() == io::ErrorKind::WouldBlock { Ok(None) } else { Err(error) };
    }
    let mut sender = 0;
    // SAFETY: the kernel has filled in the header, and `control` is as long as it says.
    let first = unsafe { libc::CMSG_FIRSTHDR(&header).as_ref() };
    if let Some(first) =
        first.filter(|first| (first.cmsg_level, first.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_CREDENTIALS))
    {
        // SAFETY: a message of this type has a ucred behind its header, which need not be aligned.
        sender = unsafe { libc::CMSG_DATA(first).cast::<libc::ucred>().read_unaligned() }.pid;
    }
    let truncated = header.msg_flags & libc::MSG_TRUNC != 0;
    Ok(Some(Datagram { bytes: &buffer[..length as usize], truncated, sender }))
}
