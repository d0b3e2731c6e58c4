//! A simulated server: its requests per second, how long a request may wait, and whether it answers at all.

use crate::simulation::{Series, SECOND};

/// The time a client gives a connection.
const CONNECT: u64 = 10 * SECOND;

/// There and back, and the work of one request.
const LATENCY: u64 = 50 * 1_000_000;

/// The longest a request waits for others; what would wait longer is told to come back in a minute.
const BACKLOG: u64 = 5 * SECOND;
const RETRY_AFTER: u64 = 60;

/// How a server is.
#[derive(Clone, Copy, PartialEq)]
pub enum Mode {
    Up,
    /// The host is there, the server is not.
    Refuses,
    /// The host is gone: connections lead nowhere.
    Silent,
    /// It asks every host for a pause until then, s.
    Closed(u64),
}

pub struct Server {
    pub mode: Mode,
    /// Requests per second.
    pub capacity: f64,
    /// What reached it while it was up or closed.
    pub seen: Series,
    /// When it will have done what waits.
    free: u64,
}

/// What becomes of a request.
pub enum Verdict {
    Good,
    /// No good answer, and how long it asks to be left alone, s.
    Failed(Option<u64>),
}

impl Server {
    pub fn new(capacity: f64) -> Server {
        Server { mode: Mode::Up, capacity, seen: Series::default(), free: 0 }
    }

    /// Takes a request: when its client hears, and what.
    pub fn take(&mut self, now: u64) -> (u64, Verdict) {
        match self.mode {
            Mode::Refuses => return (now + LATENCY, Verdict::Failed(None)),
            Mode::Silent => return (now + CONNECT, Verdict::Failed(None)),
            Mode::Up | Mode::Closed(_) => self.seen.count(now),
        }
        if let Mode::Closed(end) = self.mode {
            return (now + LATENCY, Verdict::Failed(Some(end.saturating_sub(now / SECOND))));
        }
        let begin = self.free.max(now);
        if begin - now > BACKLOG {
            return (now + LATENCY, Verdict::Failed(Some(RETRY_AFTER)));
        }
        self.free = begin + (SECOND as f64 / self.capacity) as u64;
        (self.free + LATENCY, Verdict::Good)
    }
}
