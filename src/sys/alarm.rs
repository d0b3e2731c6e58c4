//! Deadlines of a helper process by alarm(2), and the state of the one connection it has.
//!
//! A helper has one thread, and most of the calls that it waits in, name resolution first of all, take no timeout. So the
//! timer of the process is the deadline, and its signal ends the process: by its default action, or with an exit status
//! that says whether there was a connection. The socket belongs to the HTTP library, which does not give it away, so it is
//! looked for among the open descriptors. Only `work` uses this; `handle` serves `sys::notify` too.

use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};

use super::cerr;

/// How long the exchange may still take when the time for the connection is over, s.
static REMAINING: AtomicU32 = AtomicU32::new(0);
/// The exit statuses, while connecting and after.
static STATUS: [AtomicI32; 2] = [AtomicI32::new(0), AtomicI32::new(0)];
/// Whether the time for the connection is over.
static CONNECTED: AtomicBool = AtomicBool::new(false);
/// How many addresses follow the one that is being tried.
static FOLLOWING: AtomicU32 = AtomicU32::new(0);
/// How long one of several addresses may take, s.
static ADDRESS: AtomicU32 = AtomicU32::new(0);
/// How much of the time for the connection is left behind the present alarm, s.
static LEFT: AtomicU32 = AtomicU32::new(0);

/// The descriptors among which the socket of this process is: it opens few files, and each gets the lowest free number.
const SOCKETS: std::ops::Range<RawFd> = 3..32;

/// Sends SIGALRM to this process after `seconds`, in place of an alarm set before; 0 only cancels that.
pub fn alarm(seconds: u32) {
    // SAFETY: alarm touches no memory of ours and cannot fail.
    unsafe { libc::alarm(seconds) };
}

/// Ends this process with `statuses[0]` unless it has a TCP connection after `connect` seconds, and with `statuses[1]`
/// after `total` seconds in any case.
///
/// # Errors
/// When the kernel refuses the signal handler.
pub fn end_after(connect: u32, total: u32, statuses: [i32; 2]) -> io::Result<()> {
    REMAINING.store(total - connect, Ordering::Relaxed);
    for (place, status) in STATUS.iter().zip(statuses) {
        place.store(status, Ordering::Relaxed);
    }
    handle(on_alarm, libc::SA_RESTART)?;
    alarm(connect);
    Ok(())
}

/// Has SIGALRM handled by `handler`, which makes async-signal-safe calls only; `flags` are those of sigaction(2).
///
/// # Errors
/// When the kernel refuses it.
pub(super) fn handle(handler: extern "C" fn(libc::c_int), flags: libc::c_int) -> io::Result<()> {
    // SAFETY: sigaction is plain data for which all zeroes is a good value (empty mask, no flags).
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as libc::sighandler_t;
    action.sa_flags = flags;
    // SAFETY: `action` is initialised and outlives the call; the handler keeps to what its documentation says.
    cerr(unsafe { libc::sigaction(libc::SIGALRM, &action, std::ptr::null_mut()) }).map(drop)
}

/// Gives up an address that has not answered after `seconds`, where another one of the `addresses` follows.
pub fn set_addresses(addresses: u32, seconds: u32) {
    FOLLOWING.store(addresses.saturating_sub(1), Ordering::Relaxed);
    ADDRESS.store(seconds, Ordering::Relaxed);
    // SAFETY: alarm touches no memory of ours and cannot fail.
    wait_for_address(unsafe { libc::alarm(0) });
}

/// Sets the alarm for the address that is being tried; `left` is the time for the connection.
fn wait_for_address(left: u32) {
    let wait = match FOLLOWING.load(Ordering::Relaxed) {
        0 => left,
        _ => ADDRESS.load(Ordering::Relaxed).min(left),
    };
    LEFT.store(left - wait, Ordering::Relaxed);
    alarm(wait.max(1));
}

/// Uses atomics, system calls and _exit only: it may have interrupted anything.
extern "C" fn on_alarm(_: libc::c_int) {
    let late = CONNECTED.load(Ordering::Relaxed);
    let left = LEFT.swap(0, Ordering::Relaxed);
    if !late && { SOCKETS }.any(is_connected) {
        CONNECTED.store(true, Ordering::Relaxed);
        alarm(REMAINING.load(Ordering::Relaxed) + left);
        return;
    }
    if !late && left > 0 {
        FOLLOWING.fetch_sub(1, Ordering::Relaxed);
        { SOCKETS }.for_each(give_up);
        wait_for_address(left);
        return;
    }
    let status = STATUS[usize::from(late)].load(Ordering::Relaxed);
    // SAFETY: _exit is async-signal-safe and does not return.
    unsafe { libc::_exit(status) }
}

/// Ends a connect(2) on `fd`, which is restarted after this signal: with this time limit it fails at once.
fn give_up(fd: RawFd) {
    let limit = libc::timeval { tv_sec: 0, tv_usec: 1000 };
    let length = size_of_val(&limit) as libc::socklen_t;
    // SAFETY: the pointer and the length describe `limit`, which lives through the call; a foreign fd is reported by errno.
    unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_SNDTIMEO, (&raw const limit).cast(), length) };
}

/// Whether `fd` is a TCP socket with a peer. A resolver's UDP socket can have one too, hence the type.
fn is_connected(fd: RawFd) -> bool {
    let mut kind: libc::c_int = 0;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    let place = (&raw mut kind).cast();
    // SAFETY: `place` and `length` describe `kind`, which lives through the call; a foreign fd is reported by errno.
    let got = unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_TYPE, place, &mut length) };
    if got != 0 || kind != libc::SOCK_STREAM {
        return false;
    }
    // SAFETY: sockaddr_storage is plain data for which all zeroes is a good value.
    let mut peer: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    let mut length = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    let place = (&raw mut peer).cast();
    // SAFETY: `place` and `length` describe `peer`, which lives through the call.
    let got = unsafe { libc::getpeername(fd, place, &mut length) };
    got == 0 && matches!(libc::c_int::from(peer.ss_family), libc::AF_INET | libc::AF_INET6)
}

/// Whether the server has closed this process's connection, or there is none.
pub fn is_closed() -> bool {
    let Some(fd) = { SOCKETS }.find(|fd| is_connected(*fd)) else { return true };
    let mut byte = 0_u8;
    // SAFETY: the call writes one byte at most, to `byte`; it takes nothing out of the socket and does not wait.
    let seen = unsafe { libc::recv(fd, (&raw mut byte).cast(), 1, libc::MSG_PEEK | libc::MSG_DONTWAIT) };
    match seen {
        0 => true,
        -1 => io::Error::last_os_error().kind() != io::ErrorKind::WouldBlock,
        _ => false,
    }
}
