//! The size of a terminal.

use std::os::fd::{AsRawFd, BorrowedFd};

/// How many columns the terminal at `fd` has, ioctl_tty(2); `None` where it is none or does not say.
pub fn columns(fd: BorrowedFd<'_>) -> Option<usize> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ writes one winsize to the address, which is that of one; `fd` is open.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCGWINSZ, &mut size) };
    (result == 0 && size.ws_col > 0).then_some(size.ws_col.into())
}
