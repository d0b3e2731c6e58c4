//! How each server is asked: in which order the addresses of its name are tried, and by which HTTP client.
//!
//! An address that answered comes first the next time, and one that failed last, until the daemon ends.

use super::{ExchangeSchedule, Server, REMEMBERED_MAX};

/// How many failed addresses of one server are remembered.
pub(super) const FAILED_MAX: usize = 16;

/// How a server is asked: in which order the addresses of its name are tried, and by which HTTP client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// The address that answered last, which comes first, as a number; `None`: none did, or it has failed since.
    pub first: Option<u64>,
    /// The addresses that have failed since they last answered, which come last: the longest ago first, as it may work again.
    pub failed: Vec<u64>,
    /// The HTTP library could not read an answer of it; the client of our own asks it from then on.
    pub unreadable: bool,
}

impl ExchangeSchedule {
    /// How this server is asked.
    pub fn peer(&self, server: &Server) -> Peer {
        self.peers.iter().find(|(base, _)| *base == server.base).map(|(_, peer)| peer.clone()).unwrap_or_default()
    }

    /// The exchange that is under way has reached this address of the server.
    pub fn reached(&mut self, address: u64) {
        self.reached = Some(address);
    }

    /// The server that is being asked gave an answer that the HTTP library cannot read. It is asked again at once, by the client
    /// of our own. Returns false if no server is asked, or this one was asked so already.
    pub fn ask_again(&mut self) -> bool {
        if self.asking().is_none_or(|server| self.peer(server).unreadable) {
            return false;
        }
        self.change_peer(|peer| peer.unreadable = true);
        self.reached = None;
        self.busy = false;
        true
    }

    /// The address that was reached comes first the next time, or last. A server that asks for a pause has answered; another of
    /// its addresses would be no better. This needs to know which server is asked, so it comes before `busy` ends.
    pub(super) fn judge_address(&mut self, good: bool, asks_for_pause: bool) {
        let Some(address) = self.reached.take() else { return };
        if !good && asks_for_pause {
            return;
        }
        self.change_peer(|peer| {
            peer.failed.retain(|known| *known != address);
            if good {
                peer.first = Some(address);
                return;
            }
            peer.first = peer.first.filter(|first| *first != address);
            if peer.failed.len() >= FAILED_MAX {
                peer.failed.remove(0);
            }
            peer.failed.push(address);
        });
    }

    /// Changes how the server that is being asked is asked the next time. When there are too many, the oldest one of a list
    /// that was on trial is forgotten.
    fn change_peer(&mut self, change: impl FnOnce(&mut Peer)) {
        let Some(base) = self.asking().map(|server| server.base.clone()) else { return };
        let index = self.peers.iter().position(|(known, _)| *known == base).unwrap_or_else(|| {
            if self.peers.len() >= REMEMBERED_MAX {
                let mut listed = self.of_job.iter().chain(&self.default);
                let other = self.peers.iter().position(|(known, _)| !listed.any(|server| server.base == *known));
                self.peers.remove(other.unwrap_or(0));
            }
            self.peers.push((base, Peer::default()));
            self.peers.len() - 1
        });
        change(&mut self.peers[index].1);
    }
}
