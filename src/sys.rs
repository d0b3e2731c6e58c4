//! The only unsafe code: system calls behind safe signatures, one libc call to a wrapper.
//!
//! Everything here returns `io::Result` with the kernel's own error; what it means is decided by the caller. Calls that are
//! younger than Linux 3.10 go through syscall(2) and either have a fallback here or say that they may be missing. This file
//! has errors, pipes, descriptor flags, clocks, randomness and the host's name; the rest is by subject in the files below.

use std::ffi::{c_int, c_long, CStr, CString};
use std::fs::File;
use std::io::{self, Read};
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::kernel::Time;

pub mod account;
pub mod alarm;
pub mod child;
pub mod setup_error;
pub mod socket;
pub mod file;
pub mod image;
pub mod notify;
pub mod poll;
pub mod process;
pub mod seccomp;
mod standard;
pub mod terminal;

/// Turns the -1 of a C call into the error it left in errno, and passes any other result on.
fn cerr(result: c_int) -> io::Result<c_int> {
    if result == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// `cerr` for the wider results of syscall(2), read(2) and write(2).
fn cerr_long(result: c_long) -> io::Result<c_long> {
    if result == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// A pipe, the reading end first; both ends close on exec.
///
/// # Errors
/// When no descriptors are left.
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [0; 2];
    // SAFETY: pipe2 writes two descriptors to the array, which has room for two.
    cerr(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) })?;
    // SAFETY: the call succeeded, so these are open descriptors that nothing else owns.
    Ok(unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) })
}

/// Makes reads and writes of `fd` return `WouldBlock` instead of waiting.
///
/// The flag belongs to the open file, so it holds for every process that shares the file, children too.
///
/// # Errors
/// When the kernel refuses, which it does for no open file.
pub fn set_nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: F_GETFL touches no memory.
    let flags = cerr(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) })?;
    // SAFETY: F_SETFL takes an int and touches no memory.
    cerr(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK) }).map(drop)
}

/// Sets whether `fd` closes when a program is executed.
///
/// # Errors
/// When the kernel refuses, which it does for no open file.
pub fn set_cloexec(fd: BorrowedFd<'_>, on: bool) -> io::Result<()> {
    let flag = if on { libc::FD_CLOEXEC } else { 0 };
    // SAFETY: F_SETFD takes an int and touches no memory; FD_CLOEXEC is the only flag there is.
    cerr(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, flag) }).map(drop)
}

/// Detaches from a terminal: descriptors 0 to 2 are /dev/null from now on.
///
/// # Errors
/// When /dev/null cannot be opened; the descriptors then stay as they are.
pub fn detach_standard_files() -> io::Result<()> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    for target in 0..=2 {
        // SAFETY: both are plain numbers of descriptors; no OwnedFd holds the three standard ones.
        cerr(unsafe { libc::dup2(null.as_raw_fd(), target) })?;
    }
    Ok(())
}

/// The descriptor with this number, which was left open over an exec; it closes on exec from now on.
///
/// Each number may be taken only once, as the owner closes it.
///
/// # Errors
/// EBADF when nothing is open under the number.
pub fn inherited(raw: i32) -> io::Result<OwnedFd> {
    if raw <= 2 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: F_SETFD touches no memory, and fails where nothing is open.
    cerr(unsafe { libc::fcntl(raw, libc::F_SETFD, libc::FD_CLOEXEC) })?;
    // SAFETY: the descriptor is open, and by this function's contract nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// Descriptor 0 for reading without a buffer or a lock, unlike `std::io::stdin`. It stays open.
pub fn stdin() -> ManuallyDrop<File> {
    // SAFETY: std opens descriptor 0 before `main` where it is closed, and nothing here closes it, this File included.
    ManuallyDrop::new(unsafe { File::from_raw_fd(0) })
}

/// Now, on the clock that cannot be set.
pub fn monotonic() -> Time {
    // SAFETY: a timespec is plain numbers, for which zeros are values.
    let mut now: libc::timespec = unsafe { std::mem::zeroed() };
    // Seconds since boot fit any time_t, and CLOCK_MONOTONIC is always there, so this cannot fail.
    // SAFETY: clock_gettime fills in the timespec it is given.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    Time::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// Seconds since the epoch, for display only, as this clock can be set. 0 when it is before 1970.
pub fn wall() -> u64 {
    #[cfg(target_pointer_width = "32")]
    {
        // libc's clock_gettime fails after 2038 where its time_t has 32 bits (and std's SystemTime panics), so ask
        // the kernel for 64 bits: clock_gettime64, number 403 on every 32-bit machine, since Linux 5.1.
        let mut now = [0i64; 2];
        // SAFETY: the call fills in two 64-bit numbers, seconds and nanoseconds.
        if unsafe { libc::syscall(403, libc::CLOCK_REALTIME, now.as_mut_ptr()) } == 0 {
            return u64::try_from(now[0]).unwrap_or(0);
        }
    }
    // SAFETY: a timespec is plain numbers, for which zeros are values.
    let mut now: libc::timespec = unsafe { std::mem::zeroed() };
    // SAFETY: clock_gettime fills in the timespec it is given.
    unsafe { libc::clock_gettime(libc::CLOCK_REALTIME, &mut now) };
    u64::try_from(now.tv_sec).unwrap_or(0)
}

/// The host's name, gethostname(2); empty when the kernel does not give it.
pub fn hostname() -> String {
    let mut name = [0u8; 256];
    // SAFETY: gethostname writes at most that many bytes; the last one stays 0, as one less is given.
    if unsafe { libc::gethostname(name.as_mut_ptr().cast(), name.len() - 1) } != 0 {
        return String::new();
    }
    CStr::from_bytes_until_nul(&name).map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Fills `bytes` with unpredictable random bytes.
///
/// # Errors
/// When the kernel has no getrandom(2), or no seed yet, and /dev/urandom cannot be read either.
pub fn random(bytes: &mut [u8]) -> io::Result<()> {
    // This does not wait for a seed: a board without an entropy source may need minutes after boot, and /dev/urandom is then
    // the best there is. Up to 256 bytes come in one piece.
    // SAFETY: getrandom writes at most as many bytes as the slice has.
    let got = unsafe { libc::syscall(libc::SYS_getrandom, bytes.as_mut_ptr(), bytes.len(), libc::GRND_NONBLOCK) };
    if usize::try_from(got) == Ok(bytes.len()) {
        return Ok(());
    }
    File::open("/dev/urandom")?.read_exact(bytes)
}

/// The pointers to `texts` and a null after the last, as execve(2) takes them. They are valid until `texts` is changed.
fn pointers(texts: &[CString]) -> Vec<*const std::ffi::c_char> {
    let mut list = Vec::with_capacity(texts.len() + 1);
    for text in texts {
        list.push(text.as_ptr());
    }
    list.push(std::ptr::null());
    list
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::AsFd;

    #[test]
    fn a_pipe_carries_bytes_and_does_not_block_when_told() {
        let (read, write) = pipe().unwrap();
        set_nonblocking(read.as_fd()).unwrap();
        let mut reader = File::from(read);
        let mut byte = [0; 1];
        assert_eq!(reader.read(&mut byte).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        File::from(write).write_all(b"x").unwrap();
        assert_eq!((reader.read(&mut byte).unwrap(), byte), (1, *b"x"));
        assert_eq!(reader.read(&mut byte).unwrap(), 0);
    }

    #[test]
    fn clocks_agree_with_the_standard_library() {
        let (before, after) = (monotonic(), monotonic());
        assert!(before <= after && before.0 > 0);
        let std = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        assert!(wall().abs_diff(std) <= 1);
    }

    #[test]
    fn random_bytes_differ() {
        let (mut a, mut b) = ([0; 32], [0; 32]);
        random(&mut a).unwrap();
        random(&mut b).unwrap();
        assert_ne!(a, b);
        let mut long = vec![0; 100_000];
        random(&mut long).unwrap();
        assert!(long[99_000..].iter().any(|byte| *byte != 0));
    }

    #[test]
    fn the_host_has_a_name_and_units() {
        let file = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
        assert_eq!(hostname(), file.trim());
        // SAFETY: sysconf touches no memory of ours.
        assert_eq!(unsafe { libc::sysconf(libc::_SC_CLK_TCK) }, crate::kernel::TICKS as i64);
    }

    #[test]
    fn inherited_takes_only_what_is_open() {
        assert!(inherited(1).is_err() && inherited(1 << 20).is_err());
    }
}
