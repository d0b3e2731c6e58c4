//! TCP connections that are begun without waiting for them. Only `work` uses this file.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{FromRawFd, OwnedFd};

use super::cerr;

/// Begins a connection to `address`. The socket does not block, and can be written to when the connection is there or has
/// failed: `TcpStream::take_error` says which.
///
/// # Errors
/// When it fails at once.
pub fn begin_connect(address: SocketAddr) -> io::Result<TcpStream> {
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: the call takes numbers only.
    let fd = cerr(unsafe { libc::socket(family, kind, 0) })?;
    // SAFETY: the call succeeded, so this is an open descriptor that nothing else owns.
    let stream = TcpStream::from(unsafe { OwnedFd::from_raw_fd(fd) });
    let begun = match address {
        SocketAddr::V4(address) => {
            // SAFETY: sockaddr_in is plain data for which all zeroes is a good value.
            let mut raw: libc::sockaddr_in = unsafe { std::mem::zeroed() };
            raw.sin_family = libc::AF_INET as libc::sa_family_t;
            raw.sin_port = address.port().to_be();
            raw.sin_addr.s_addr = u32::from_ne_bytes(address.ip().octets());
            let length = size_of_val(&raw) as libc::socklen_t;
            // SAFETY: the pointer and the length describe `raw`, which lives through the call.
            unsafe { libc::connect(fd, (&raw const raw).cast(), length) }
        }
        SocketAddr::V6(address) => {
            // SAFETY: sockaddr_in6 is plain data for which all zeroes is a good value.
            let mut raw: libc::sockaddr_in6 = unsafe { std::mem::zeroed() };
            raw.sin6_family = libc::AF_INET6 as libc::sa_family_t;
            raw.sin6_port = address.port().to_be();
            raw.sin6_addr.s6_addr = address.ip().octets();
            raw.sin6_scope_id = address.scope_id();
            let length = size_of_val(&raw) as libc::socklen_t;
            // SAFETY: the pointer and the length describe `raw`, which lives through the call.
            unsafe { libc::connect(fd, (&raw const raw).cast(), length) }
        }
    };
    match cerr(begun) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(stream),
    }
}
