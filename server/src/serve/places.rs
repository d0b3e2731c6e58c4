//! Connections of a door: how many there may be, how many of them from one address, and the loop that accepts them.

use super::clock;
use crate::model::address::Cidr;
use std::collections::HashMap;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How long to wait before the next try when a connection could not be accepted.
const OUT_OF_FILES: Duration = Duration::from_millis(100);

/// The places of a door.
pub struct Places {
    free: Arc<Semaphore>,
    /// What one address may have, so that it cannot keep all others out. For hosts it is more than the queue of the database
    /// holds: a whole fleet may come by one address, through a proxy.
    share: usize,
    /// Addresses that may have all places: proxies, through which everybody comes.
    trusted: Vec<Cidr>,
    taken: Mutex<HashMap<IpAddr, usize>>,
    /// The second in which the log last said that an address has too many.
    logged: AtomicI64,
}

/// A connection's place; dropped, it is free again.
pub struct Place {
    places: Arc<Places>,
    address: IpAddr,
    _free: OwnedSemaphorePermit,
}

impl Places {
    /// The places of the door for hosts: half as many as the process may have files open. The rest is for the database,
    /// packages that are sent, and the other door.
    pub fn of_hosts() -> Arc<Places> {
        Places::of((files() / 2).clamp(64, 8192), &[])
    }

    /// The places of the door for the pages.
    pub fn of_pages(proxies: &[Cidr]) -> Arc<Places> {
        Places::of((files() / 8).clamp(32, 512), proxies)
    }

    fn of(count: usize, trusted: &[Cidr]) -> Arc<Places> {
        let (free, trusted) = (Arc::new(Semaphore::new(count)), trusted.to_vec());
        Arc::new(Places { free, share: count / 4 * 3, trusted, taken: Mutex::default(), logged: AtomicI64::new(0) })
    }

    /// Waits until one more connection may be accepted.
    pub async fn free(&self) -> Option<OwnedSemaphorePermit> {
        self.free.clone().acquire_owned().await.ok()
    }

    /// A place for a connection that was accepted; `None` when its address has its share already.
    pub fn enter(self: &Arc<Self>, peer: IpAddr, free: OwnedSemaphorePermit) -> Option<Place> {
        let address = network(peer);
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let count = taken.entry(address).or_insert(0);
        let may_have_all = self.trusted.iter().any(|range| range.contains(peer));
        if *count >= self.share && !may_have_all {
            let now = clock::now();
            if self.logged.swap(now, Ordering::Relaxed) != now {
                clock::say(&format!("{peer} has {count} connections: more of it are closed until some end"));
            }
            return None;
        }
        *count += 1;
        Some(Place { places: self.clone(), address, _free: free })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.address);
            }
        }
    }
}

/// How many files the process may have open.
fn files() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(1024)
}

/// Accepts connections for ever, and serves each of them in a place.
pub async fn accept<F>(listener: TcpListener, places: Arc<Places>, serve: impl Fn(TcpStream, SocketAddr) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    loop {
        let Some(free) = places.free().await else { return };
        let Ok((stream, peer)) = listener.accept().await else {
            // Out of descriptors, most likely: connections that end give some back.
            tokio::time::sleep(OUT_OF_FILES).await;
            continue;
        };
        let Some(place) = places.enter(peer.ip(), free) else { continue };
        let served = serve(stream, peer);
        tokio::spawn(async move {
            let _place = place;
            served.await;
        });
    }
}

/// What counts as one address: of IPv6 a whole /64, as one machine may use all addresses of it.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(six) => match six.to_ipv4_mapped() {
            Some(four) => IpAddr::V4(four),
            None => IpAddr::V6((u128::from(six) >> 64 << 64).into()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_address_cannot_have_all() {
        let places = Places::of(8, &["10.0.0.9".parse().expect("an address")]);
        let (one, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let mut held = Vec::new();
        for _ in 0..6 {
            held.extend(places.enter(one, places.free().await.expect("a place")));
        }
        assert_eq!(held.len(), 6);
        assert!(places.enter(one, places.free().await.expect("a place")).is_none());
        assert!(places.enter(other, places.free().await.expect("a place")).is_some());
        held.pop();
        assert!(places.enter(one, places.free().await.expect("a place")).is_some());
        held.clear();
        let proxy = IpAddr::from([10, 0, 0, 9]);
        for _ in 0..8 {
            held.extend(places.enter(proxy, places.free().await.expect("a place")));
        }
        assert_eq!(held.len(), 8, "a proxy may have all");
        held.clear();
        assert!(places.taken.lock().expect("no panic").is_empty());
    }

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        let parse = |text: &str| network(text.parse().expect("an address"));
        assert_eq!(parse("2001:db8::1"), parse("2001:db8::ffff:2"));
        assert_ne!(parse("2001:db8::1"), parse("2001:db8:0:1::1"));
        assert_eq!(parse("::ffff:10.0.0.1"), parse("10.0.0.1"));
    }
}
