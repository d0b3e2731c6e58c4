//! A connection to a name, which may have several addresses: one that does not answer costs seconds, not the transfer.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use crate::model::url::Url;
use crate::sys::poll::{poll, PollFd};
use crate::sys::socket;
use crate::work::{Failure, Result, Route, CONNECT_SECS, NEXT_ADDRESS_SECS};

/// The time in which all addresses of a name are begun.
const FOR_ALL: Duration = Duration::from_secs(8);

/// The addresses of the host in `url`, in the order in which they are to be tried.
///
/// # Errors
/// When the name has no address.
pub fn addresses(url: &Url, route: &Route) -> Result<Vec<SocketAddr>> {
    let host = &*url.host;
    let cannot_resolve = |error| Failure::temporary(&format!("cannot resolve \"{host}\""), &error);
    let mut addresses: Vec<SocketAddr> =
        (host, url.effective_port()).to_socket_addrs().map_err(cannot_resolve)?.collect();
    if addresses.is_empty() {
        return Err(cannot_resolve(io::Error::new(io::ErrorKind::NotFound, "it has no address")));
    }
    put_in_order(&mut addresses, route);
    Ok(addresses)
}

/// Moves the addresses on by as many places as the route says, so that one which takes connections and serves nothing is not
/// tried first for ever; then those that have failed to the end, and the one that answered last to the front.
fn put_in_order(addresses: &mut [SocketAddr], route: &Route) {
    addresses.rotate_left((route.turn % addresses.len() as u64) as usize);
    let place = |addresses: &[SocketAddr], wanted| addresses.iter().position(|address| number(address) == wanted);
    for failed in &route.failed {
        if let Some(index) = place(addresses, *failed) {
            addresses[index..].rotate_left(1);
        }
    }
    if let Some(index) = route.first.and_then(|first| place(addresses, first)) {
        addresses[..=index].rotate_right(1);
    }
}

/// An address as a number that is never 0, and another one for each of the addresses of a name unless they were chosen with
/// care (the multiplier is that of SplitMix64).
pub fn number(address: &SocketAddr) -> u64 {
    let number = match address.ip() {
        IpAddr::V4(ip) => u64::from(ip.to_bits()),
        IpAddr::V6(ip) => ((ip.to_bits() >> 64) as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ ip.to_bits() as u64,
    };
    number.max(1)
}

/// Connects to one of the `addresses` of the host in `url`. The next address is begun when those before it have failed, or have not
/// answered within `NEXT_ADDRESS_SECS`, or sooner where there are so many that the last would have no time; the first that
/// answers is taken.
///
/// # Errors
/// When none has answered in `CONNECT_SECS`.
pub fn connect(url: &Url, addresses: &[SocketAddr]) -> Result<TcpStream> {
    let (host, port) = (&url.host, url.effective_port());
    first_of(addresses)
        .map_err(|error| Failure::temporary(&format!("cannot connect to \"{host}\" port {port}"), &error))
}

/// The first connection to one of these addresses.
fn first_of(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let end = Instant::now() + Duration::from_secs(CONNECT_SECS.into());
    let mut begin_next = Instant::now();
    let every = Duration::from_secs(NEXT_ADDRESS_SECS.into()).min(FOR_ALL / addresses.len().max(1) as u32);
    let mut addresses = addresses.iter();
    let mut begun: Vec<TcpStream> = Vec::new();
    let mut failure = io::Error::from(io::ErrorKind::TimedOut);
    loop {
        let now = Instant::now();
        if addresses.len() > 0 && (begin_next <= now || begun.is_empty()) {
            match addresses.next().map(|address| socket::begin_connect(*address)) {
                Some(Ok(stream)) => {
                    begun.push(stream);
                    begin_next = now + every;
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
        let [v6, first, second] = [0, 1, 2].map(|index: usize| number(&all[index]));
        for (good, failed, turn, want) in [
            (None, vec![], 0, [0, 1, 2]),
            (None, vec![], 1, [1, 2, 0]),
            (None, vec![], 5, [2, 0, 1]),
            (None, vec![], u64::MAX, [0, 1, 2]),
            (Some(second), vec![], 0, [2, 0, 1]),
            (Some(v6), vec![], 1, [0, 1, 2]),
            (None, vec![v6], 0, [1, 2, 0]),
            (None, vec![second, first], 0, [0, 2, 1]),
            (None, vec![second, v6, first], 0, [2, 0, 1]),
            (Some(second), vec![v6], 0, [2, 1, 0]),
            (Some(7), vec![8], 1, [1, 2, 0]),
        ] {
            let route = Route { turn, first: good, failed, ..Route::default() };
            let mut got = all.clone();
            put_in_order(&mut got, &route);
            assert_eq!(got, want.map(|index: usize| all[index]), "{route:?}");
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
            (vec![silent, silent, silent, silent, silent, silent, silent, good], 9.5),
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
