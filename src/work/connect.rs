//! A connection to a name, which may have several addresses: one that does not answer costs seconds, not the transfer.

use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use crate::sys::poll::{poll, PollFd};
use crate::sys::socket;
use crate::work::{HelperError, Route, CONNECT_SECS, NEXT_ADDRESS_SECS};

/// The addresses of `host`, in the order in which they are to be tried.
///
/// # Errors
/// When the name has no address.
pub fn addresses(host: &str, port: u16, route: &Route) -> Result<Vec<SocketAddr>, Box<HelperError>> {
    let cannot_resolve = |error| HelperError::temporary(&format!("cannot resolve \"{host}\""), &error);
    let mut addresses: Vec<SocketAddr> = (host, port).to_socket_addrs().map_err(cannot_resolve)?.collect();
    if addresses.is_empty() {
        return Err(cannot_resolve(io::Error::new(io::ErrorKind::NotFound, "it has no address")));
    }
    put_in_order(&mut addresses, route);
    Ok(addresses)
}

/// Moves addresses that the route names to the front and to the end, and each other one forward by one with each turn, so that
/// one which takes connections and serves nothing is not tried first for ever.
fn put_in_order(addresses: &mut [SocketAddr], route: &Route) {
    addresses.rotate_left((route.turn % addresses.len() as u64) as usize);
    let place = |addresses: &[SocketAddr], text: &str| addresses.iter().position(|address| address.to_string() == text);
    if let Some(index) = place(addresses, &route.last) {
        addresses[index..].rotate_left(1);
    }
    if let Some(index) = place(addresses, &route.first) {
        addresses[..=index].rotate_right(1);
    }
}

/// Connects to one of the `addresses` of `host`. The next address is begun when those before it have failed, or have not
/// answered within `NEXT_ADDRESS_SECS`; the first that answers is taken.
///
/// # Errors
/// When none has answered in `CONNECT_SECS`.
pub fn connect(host: &str, port: u16, addresses: &[SocketAddr]) -> Result<TcpStream, Box<HelperError>> {
    first_of(addresses)
        .map_err(|error| HelperError::temporary(&format!("cannot connect to \"{host}\" port {port}"), &error))
}

/// The first connection to one of these addresses.
fn first_of(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let end = Instant::now() + Duration::from_secs(CONNECT_SECS.into());
    let mut begin_next = Instant::now();
    let mut addresses = addresses.iter();
    let mut begun: Vec<TcpStream> = Vec::new();
    let mut failure = io::Error::from(io::ErrorKind::TimedOut);
    loop {
        let now = Instant::now();
        if addresses.len() > 0 && (begin_next <= now || begun.is_empty()) {
            match addresses.next().map(|address| socket::begin_connect(*address)) {
                Some(Ok(stream)) => {
                    begun.push(stream);
                    begin_next = now + Duration::from_secs(NEXT_ADDRESS_SECS.into());
                }
                Some(Err(error)) => failure = error,
                None => {}
            }
            continue;
        }
        if begun.is_empty() || end <= now {
            return Err(failure);
        }
        let until = if addresses.len() > 0 { begin_next.min(end) } else { end };
        let mut fds: Vec<PollFd> = begun.iter().map(|stream| PollFd::writing(stream.as_fd())).collect();
        poll(&mut fds, Some(until - now))?;
        let Some(index) = fds.iter().position(PollFd::ready) else { continue };
        let stream = begun.swap_remove(index);
        match stream.take_error()? {
            None => return stream.set_nonblocking(false).map(|()| stream),
            Some(error) => (failure, begin_next) = (error, now),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn the_route_says_which_address_comes_first() {
        let all: Vec<SocketAddr> =
            ["[2001:db8::1]:80", "192.0.2.1:80", "192.0.2.2:80"].map(|text| text.parse().expect("an address")).to_vec();
        for (first, last, turn, want) in [
            ("", "", 0, [0, 1, 2]),
            ("", "", 1, [1, 2, 0]),
            ("", "", 5, [2, 0, 1]),
            ("", "", u64::MAX, [0, 1, 2]),
            ("192.0.2.2:80", "", 0, [2, 0, 1]),
            ("[2001:db8::1]:80", "", 1, [0, 1, 2]),
            ("", "[2001:db8::1]:80", 0, [1, 2, 0]),
            ("", "192.0.2.1:80", 1, [2, 0, 1]),
            ("192.0.2.2:80", "[2001:db8::1]:80", 0, [2, 1, 0]),
            ("192.0.2.1:80", "192.0.2.1:80", 0, [1, 0, 2]),
            ("192.0.2.9:80", "192.0.2.8:80", 1, [1, 2, 0]),
            ("no address", "", 1, [1, 2, 0]),
        ] {
            let mut got = all.clone();
            put_in_order(&mut got, &Route { turn, first: first.into(), last: last.into(), ..Route::default() });
            assert_eq!(got, want.map(|index: usize| all[index]), "{first:?} {last:?} {turn}");
        }
    }

    #[test]
    fn the_next_address_is_taken_where_one_refuses_or_says_nothing() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let good = listener.local_addr().expect("bound");
        let refusing = "127.0.0.1:1".parse().expect("an address");
        // The queue is full: the kernel drops what comes, as a firewall does.
        let full = TcpListener::bind("127.0.0.1:0").expect("a port");
        let silent = full.local_addr().expect("bound");
        let held: Vec<_> = (0..300).map(|_| socket::begin_connect(silent)).collect();
        // A multicast address cannot be connected to: the kernel says so at once.
        let unreachable = "224.0.0.1:1".parse().expect("an address");
        for (addresses, most) in [
            (vec![refusing, good], 1.5),
            (vec![silent, good], 4.0),
            (vec![silent, unreachable, unreachable, good], 4.0),
            (vec![good, silent], 1.5),
        ] {
            let began = Instant::now();
            let peer = first_of(&addresses).and_then(|stream| stream.peer_addr());
            assert_eq!(peer.ok(), Some(good), "{addresses:?}");
            assert!(began.elapsed().as_secs_f64() < most, "{addresses:?}: {:?}", began.elapsed());
        }
        assert!(first_of(&[refusing]).is_err());
        drop(held);
    }
}
