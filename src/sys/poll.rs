//! Waiting: poll(2), and signals as something to read (signalfd(2)).
//!
//! There is no registry: the caller owns the descriptors and makes the list of them before each wait. The signals it reads
//! stay blocked, so they never interrupt a call; `sys::child` unblocks them for children.

use std::fs::File;
use std::io::{self, Read};
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use super::{cerr, cerr_long};
use crate::kernel::{millis, Sig};

/// One descriptor to wait for, and what the last poll saw on it.
#[repr(transparent)]
pub struct PollFd<'a>(libc::pollfd, PhantomData<BorrowedFd<'a>>);

impl<'a> PollFd<'a> {
    /// Waits until `fd` has bytes, their end, or a connection.
    pub fn reading(fd: BorrowedFd<'a>) -> PollFd<'a> {
        PollFd::new(fd, libc::POLLIN)
    }

    /// Waits until `fd` takes bytes.
    pub fn writing(fd: BorrowedFd<'a>) -> PollFd<'a> {
        PollFd::new(fd, libc::POLLOUT)
    }

    /// Waits until the other side of `fd` is closed, without regard to bytes that can be read.
    pub fn ending(fd: BorrowedFd<'a>) -> PollFd<'a> {
        PollFd::new(fd, 0)
    }

    fn new(fd: BorrowedFd<'a>, events: i16) -> PollFd<'a> {
        PollFd(libc::pollfd { fd: fd.as_raw_fd(), events, revents: 0 }, PhantomData)
    }

    /// Whether the last poll found it ready. An error or a hangup counts: the next read or write returns it.
    pub fn ready(&self) -> bool {
        self.0.revents & !libc::POLLNVAL != 0
    }

    /// Whether the last poll found that it is no open descriptor: waiting for it again makes no sense.
    pub fn invalid(&self) -> bool {
        self.0.revents & libc::POLLNVAL != 0
    }
}

/// Waits until one of `fds` is ready or `timeout` is over (`None`: for ever), and returns how many are ready.
///
/// # Errors
/// `Interrupted` when a signal handler ran; the state of `fds` is then undefined.
pub fn poll(fds: &mut [PollFd<'_>], timeout: Option<Duration>) -> io::Result<usize> {
    // SAFETY: PollFd is laid out as pollfd, and the length is the slice's own.
    let ready = unsafe { libc::poll(fds.as_mut_ptr().cast(), fds.len() as libc::nfds_t, wait_ms(timeout)) };
    cerr(ready).map(|ready| ready as usize)
}

/// A timeout as poll takes it, in ms: rounded up, as a wait that ends before the deadline would make the caller spin.
fn wait_ms(timeout: Option<Duration>) -> i32 {
    match timeout {
        None => -1,
        Some(wait) => i32::try_from(millis(wait.saturating_add(Duration::from_nanos(999_999)))).unwrap_or(i32::MAX),
    }
}

/// A counter that the kernel raises, eventfd(2), and that poll can wait for.
#[derive(Debug)]
pub struct Counter(File);

impl Counter {
    /// A counter at 0.
    ///
    /// # Errors
    /// When no descriptors are left.
    pub fn new() -> io::Result<Counter> {
        // SAFETY: the call takes numbers only.
        let fd = cerr(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
        // SAFETY: the call succeeded, so this is an open descriptor that nothing else owns.
        Ok(Counter(File::from(unsafe { OwnedFd::from_raw_fd(fd) })))
    }

    /// Whether it was raised since the last call.
    pub fn take(&self) -> bool {
        matches!((&self.0).read(&mut [0; 8]), Ok(8))
    }
}

impl AsFd for Counter {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The signals of this process, queued for reading.
pub struct Signals(File);

impl Signals {
    /// Blocks `set`, gives its signals their default action, and queues them from now on.
    ///
    /// The default action matters for a SIGCHLD that the parent of this process ignored: the kernel would reap our children.
    ///
    /// # Errors
    /// When no descriptors are left.
    pub fn new(set: &[Sig]) -> io::Result<Signals> {
        let mask = mask_of(set);
        // SAFETY: both masks are valid for the call; a null one is not written.
        cerr(unsafe { libc::sigprocmask(libc::SIG_BLOCK, &mask, std::ptr::null_mut()) })?;
        for sig in set {
            set_default_action(sig.raw())?;
        }
        // SAFETY: -1 asks for a new descriptor; the mask is valid for the call.
        let fd = cerr(unsafe { libc::signalfd(-1, &mask, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) })?;
        // SAFETY: the call succeeded, so this is an open descriptor that nothing else owns.
        Ok(Signals(File::from(unsafe { OwnedFd::from_raw_fd(fd) })))
    }

    /// The next signal that has arrived; `None` when there are no more for now.
    ///
    /// # Errors
    /// When the descriptor cannot be read.
    pub fn next(&self) -> io::Result<Option<Sig>> {
        // The kernel's signalfd_siginfo begins with the signal's number, and is read whole or not at all.
        let mut info = [0u8; size_of::<libc::signalfd_siginfo>()];
        loop {
            match (&self.0).read(&mut info) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error),
            }
            let raw = i32::from_ne_bytes([info[0], info[1], info[2], info[3]]);
            if let Some(sig) = Sig::new(raw) {
                return Ok(Some(sig));
            }
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Unblocks all signals of the calling process.
///
/// # Errors
/// When the kernel refuses, which it does not.
pub(super) fn unblock_all() -> io::Result<()> {
    let mask = mask_of(&[]);
    // SAFETY: both masks are valid for the call; a null one is not written.
    cerr(unsafe { libc::sigprocmask(libc::SIG_SETMASK, &mask, std::ptr::null_mut()) }).map(drop)
}

/// Gives signal number `raw` its default action.
///
/// # Errors
/// When the kernel knows no such signal.
pub(super) fn set_default_action(raw: i32) -> io::Result<()> {
    action(raw, Some(libc::SIG_DFL)).map(drop)
}

/// Has this process ignore signal number `raw`.
pub(super) fn ignore(raw: i32) {
    // It fails only for a signal that there is not.
    let _ = action(raw, Some(libc::SIG_IGN));
}

/// The signals that this process ignores, as a bit set; signal 1 is the lowest bit.
pub(super) fn ignored_signals() -> u64 {
    let is_ignored = |raw: &i32| matches!(action(*raw, None), Ok(libc::SIG_IGN));
    (1..=64).filter(is_ignored).fold(0, |ignored, raw| ignored | 1 << (raw - 1))
}

/// Gives signal number `raw` the action `new`, which is no function; `None` leaves it as it is. Returns the action before.
///
/// Not by sigaction(3): it refuses the two or three signals that the C library keeps for its threads, and a parent may hand
/// those down ignored too.
fn action(raw: i32, new: Option<libc::sighandler_t>) -> io::Result<libc::sighandler_t> {
    // The kernel's own struct has handler, flags, restorer and 64 bits of mask; the handler is the first on every target.
    let new = new.map(|handler| [handler as u64, 0, 0, 0]);
    let new = new.as_ref().map_or(std::ptr::null(), |action| action.as_ptr());
    let mut old = [0u64; 4];
    let mask_size = 8usize;
    // SAFETY: both actions are at least as large as the kernel's; a null new one changes nothing.
    cerr_long(unsafe { libc::syscall(libc::SYS_rt_sigaction, raw, new, old.as_mut_ptr(), mask_size) })?;
    Ok(old[0] as libc::sighandler_t)
}

fn mask_of(set: &[Sig]) -> libc::sigset_t {
    // SAFETY: a sigset_t is plain numbers, for which zeros are values.
    let mut mask: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: sigemptyset writes the set it is given.
    unsafe { libc::sigemptyset(&mut mask) };
    for sig in set {
        // SAFETY: sigaddset changes the set it is given, and refuses a number it does not know.
        unsafe { libc::sigaddset(&mut mask, sig.raw()) };
    }
    mask
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::time::Instant;

    #[test]
    fn timeouts_round_up() {
        for (timeout, want) in [
            (None, -1),
            (Some(Duration::ZERO), 0),
            (Some(Duration::from_nanos(1)), 1),
            (Some(Duration::from_millis(7)), 7),
            (Some(Duration::from_micros(7001)), 8),
            (Some(Duration::MAX), i32::MAX),
        ] {
            assert_eq!(wait_ms(timeout), want, "{timeout:?}");
        }
    }

    #[test]
    fn poll_sees_bytes_hangups_and_time() {
        let (read, write) = crate::sys::pipe().unwrap();
        let mut write = File::from(write);
        let begin = Instant::now();
        assert_eq!(poll(&mut [PollFd::reading(read.as_fd())], Some(Duration::from_millis(20))).unwrap(), 0);
        assert!(begin.elapsed() >= Duration::from_millis(20));
        write.write_all(b"x").unwrap();
        let mut fds = [PollFd::reading(read.as_fd()), PollFd::writing(write.as_fd())];
        assert_eq!(poll(&mut fds, None).unwrap(), 2);
        assert!(fds[0].ready() && fds[1].ready() && !fds[0].invalid());
        let mut byte = [0; 1];
        (&File::from(read.try_clone().unwrap())).read_exact(&mut byte).unwrap();
        drop(write);
        let mut fds = [PollFd::reading(read.as_fd())];
        assert_eq!(poll(&mut fds, None).unwrap(), 1);
        assert!(fds[0].ready());
    }
}
