//! When to exchange messages with a server, and with which one: the reporting interval with its jitter, the order of the
//! servers and of their addresses, the wait after a failed round, and a new server list on trial.
//!
//! A round asks one server after the other until one gives a valid answer. Results and statuses have rounds and waits of
//! their own, so that a server that takes no results still gets statuses. `model::state::exchange` asks what is due, and
//! passes on each answer; the time comes in as `now`.

mod peers;
mod servers;

use std::time::Duration;

use crate::kernel::Time;
pub use peers::Peer;
pub use servers::{parse_servers, Server};

/// The longest wait after the first failed round; it doubles with each further one until it reaches the step.
const BACKOFF: Duration = Duration::from_secs(10);

/// The shortest time between two extra statuses.
const EXTRA_INTERVAL: Duration = Duration::from_secs(10);

/// How far the jitter of one report can be from that of the report before, as a part of its whole range.
const JITTER_STEP: f64 = 0.2;

/// The longest wait that a server can ask for with Retry-After, unless the step is longer.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

/// Of how many servers something is remembered: lists on trial may bring any number.
const REMEMBERED_MAX: usize = 64;

/// Pseudo-random numbers (SplitMix64) from one seed: jitter need not be unpredictable, only different on every host.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Random(pub u64);

impl Random {
    /// The next number, uniform over all of `u64`.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// The next number, uniform over 0..1.
    fn fraction(&mut self) -> f64 {
        (self.number() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// What an exchange is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExchangeKind {
    /// It sends a status.
    Status,
    /// It sends results of jobs.
    Results,
    /// It sends a status to a server of a list on trial.
    Trial,
}

/// What an answer means for the round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Round {
    /// The round ended with a valid answer.
    Good,
    /// The next server is asked.
    Next,
    /// The round ended, and no server gave a valid answer.
    Failed,
}

/// When the next round of a kind is due, and how many failed in a row before it.
#[derive(Clone, Debug, Default, PartialEq)]
struct Channel {
    at: Time,
    failures: u32,
}

/// The part of the schedule that a reexec hands over to the new binary.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Times {
    /// When the next status is due, and how many rounds in a row failed before it.
    pub status: (Time, u32),
    /// The same for results.
    pub results: (Time, u32),
    /// When an extra status is due; `None`: none is.
    pub extra: Option<Time>,
    /// The earliest time of the next extra status.
    pub extra_again: Time,
    /// The server that answered last.
    pub server: Box<str>,
    /// The servers that asked for no request before a time.
    pub held: Vec<(Box<str>, Time)>,
    /// In which order the addresses of servers are tried, and by which HTTP client.
    pub peers: Vec<(Box<str>, Peer)>,
    /// When a server last took a report.
    pub heard: Time,
}

/// When to exchange messages with a server, and with which one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ExchangeSchedule {
    random: Random,
    /// The place of the last interval between the shortest and the longest one, 0..1.
    jitter_phase: f64,
    step: Duration,
    /// The servers that a job gave.
    of_job: Vec<Server>,
    /// The servers of the configuration, which are asked after those of a job.
    default: Vec<Server>,
    /// The servers that asked for no request before a time.
    held: Vec<(Server, Time)>,
    /// In which order the addresses of servers are tried, and by which HTTP client.
    peers: Vec<(Box<str>, Peer)>,
    /// The address that the exchange under way has reached, where that is known.
    reached: Option<u64>,
    /// The servers that were logged as not answering.
    silent: Vec<Box<str>>,
    /// The server that answered last, as an index into `of_job` followed by `default`.
    current: usize,
    status: Channel,
    results: Channel,
    /// When a server last took a report; at first, when the daemon started.
    heard: Time,
    /// An agent changed its state: when the extra status about it is due.
    extra: Option<Time>,
    /// The earliest time of the next extra status.
    extra_again: Time,
    /// A person wants a report now.
    urgent: bool,
    /// A server refused results since the last round began.
    refused: bool,
    /// The server list on trial, until its round begins.
    trial: Option<Vec<Server>>,
    /// The server of the last list on trial that answered.
    answered_on_trial: Option<Server>,
    /// The kind of the round, and the servers that are still to be asked: first the one that is being asked.
    round: Option<(ExchangeKind, Vec<Server>)>,
    /// An answer is awaited.
    busy: bool,
    /// Exchanges are signed.
    keyed: bool,
}

impl ExchangeSchedule {
    /// A schedule whose first report is due after a random part of `splay`.
    pub fn new(
        default: Vec<Server>,
        of_job: Vec<Server>,
        step: Duration,
        splay: Duration,
        seed: u64,
        now: Time,
    ) -> ExchangeSchedule {
        let mut random = Random(seed);
        let first = now + splay.mul_f64(random.fraction());
        let jitter_phase = random.fraction();
        ExchangeSchedule {
            random,
            jitter_phase,
            step,
            of_job,
            default,
            status: Channel { at: first, failures: 0 },
            results: Channel { at: now, failures: 0 },
            heard: now,
            // Agents change their state when the daemon starts them: that is no reason to report before the splay is over.
            extra_again: first,
            ..ExchangeSchedule::default()
        }
    }

    /// Says whether exchanges are signed. If they are, a request for a pause comes from the server itself, in the signed
    /// answer, and not from a proxy.
    pub fn set_keyed(&mut self, keyed: bool) {
        self.keyed = keyed;
    }

    /// The part of the schedule that a reexec hands over.
    pub fn times(&self) -> Times {
        Times {
            status: (self.status.at, self.status.failures),
            results: (self.results.at, self.results.failures),
            extra: self.extra,
            extra_again: self.extra_again,
            server: self.server().map_or("".into(), |server| server.base.clone()),
            held: self.held.iter().map(|(server, until)| (server.base.clone(), *until)).collect(),
            peers: self.peers.clone(),
            heard: self.heard,
        }
    }

    /// Continues the schedule that a reexec handed over; the step may have changed since.
    pub fn resume(&mut self, times: Times, now: Time) {
        let latest = now + self.jitter();
        self.status = Channel { at: times.status.0.min(latest), failures: times.status.1 };
        self.results = Channel { at: times.results.0.min(latest), failures: times.results.1 };
        (self.extra, self.extra_again) = (times.extra, times.extra_again);
        let known = self.of_job.iter().chain(&self.default).position(|server| server.base == times.server);
        self.current = known.unwrap_or(0);
        (self.heard, self.peers) = (times.heard, times.peers);
        self.held = times.held.into_iter().map(|(base, until)| (Server { base }, until)).collect();
    }

    /// The reporting interval, without jitter.
    pub fn step(&self) -> Duration {
        self.step
    }

    /// Whether there is any server, apart from a list on trial.
    pub fn has_servers(&self) -> bool {
        !(self.of_job.is_empty() && self.default.is_empty())
    }

    /// How long no server has taken a report; `None` if the last one was taken.
    pub fn silence(&self, now: Time) -> Option<Duration> {
        (self.status.failures > 0 && self.has_servers()).then(|| now.since(self.heard))
    }

    /// The server that answered last; before any answer, the one that is asked first.
    pub fn server(&self) -> Option<&Server> {
        self.of_job.iter().chain(&self.default).nth(self.current)
    }

    /// Changes the reporting interval; the next report comes no later than one new interval from now.
    pub fn set_step(&mut self, step: Duration, now: Time) {
        self.step = step;
        self.status.at = self.status.at.min(now + self.jitter());
    }

    /// Replaces the servers that are asked before those of the configuration. The one that has just answered is asked next;
    /// where it is not among them, the first.
    pub fn set_servers(&mut self, of_job: Vec<Server>) {
        self.current = of_job.iter().position(|server| Some(server) == self.answered_on_trial.as_ref()).unwrap_or(0);
        self.of_job = of_job;
    }

    /// Puts a server list on trial: the next round asks each of its servers once, until one answers.
    pub fn try_servers(&mut self, servers: Vec<Server>) {
        self.trial = Some(servers);
    }

    /// An agent changed its state: an extra status is due, at most one every 10 s.
    pub fn changed(&mut self, now: Time) {
        self.extra.get_or_insert(self.extra_again.max(now));
    }

    /// A person wants a report now.
    pub fn request_report(&mut self) {
        self.urgent = true;
    }

    /// Whether a report that a person wants is due or being sent, or another exchange is under way.
    pub fn is_report_due(&self) -> bool {
        self.urgent || self.busy || self.round.is_some()
    }

    /// There are new results: they are sent at once, unless the last round failed.
    pub fn new_results(&mut self, now: Time) {
        if self.results.failures == 0 && self.status.failures == 0 {
            self.results.at = self.results.at.min(now);
        }
    }

    /// When the next exchange is due, with `results` the time of the earliest result that is to be sent; `None`: not before
    /// something else happens.
    pub fn deadline(&self, results: Option<Time>) -> Option<Time> {
        if self.busy || !(self.has_servers() || self.trial.is_some()) {
            return None;
        }
        if self.round.is_some() || self.trial.is_some() || self.urgent {
            return Some(Time::default());
        }
        let extra = self.extra.filter(|_| self.status.failures == 0);
        let results = results.map(|at| at.max(self.results.at));
        Time::earliest(&[Some(self.status.at), extra, results])
    }

    /// The server whose answer is awaited.
    pub fn asking(&self) -> Option<&Server> {
        self.round.as_ref().filter(|_| self.busy)?.1.first()
    }

    /// Whether the answer of a server on trial is awaited.
    pub fn on_trial(&self) -> bool {
        self.busy && matches!(self.round, Some((ExchangeKind::Trial, _)))
    }

    /// Whether a server began to answer (`good`), or ceased to, with this answer: each change is logged once.
    pub fn is_news(&mut self, server: &str, good: bool) -> bool {
        let known = self.silent.iter().position(|silent| **silent == *server);
        match (known, good) {
            (None, false) => {
                if self.silent.len() >= REMEMBERED_MAX {
                    self.silent.remove(0);
                }
                self.silent.push(server.into());
            }
            (Some(index), true) => drop(self.silent.swap_remove(index)),
            (None, true) | (Some(_), false) => return false,
        }
        true
    }

    /// The exchange that is due now: its kind and its server; `results`: there are results to send. The caller passes the
    /// answer to `answered`.
    pub fn next(&mut self, now: Time, results: bool) -> Option<(ExchangeKind, Server)> {
        if self.busy {
            return None;
        }
        if self.round.is_none() {
            self.round = self.begin_round(now, results);
        }
        let (kind, servers) = self.round.as_ref()?;
        let server = servers.first()?.clone();
        self.busy = true;
        Some((*kind, server))
    }

    fn begin_round(&mut self, now: Time, results: bool) -> Option<(ExchangeKind, Vec<Server>)> {
        if let Some(servers) = self.trial.take() {
            return Some((ExchangeKind::Trial, servers));
        }
        let extra = self.status.failures == 0 && self.extra.is_some_and(|at| at <= now);
        let status = self.urgent || extra || self.status.at <= now;
        // After refused results a status goes first, as a server may refuse many results, one at a time.
        let kind = if results && self.results.at <= now && !(status && self.refused) {
            ExchangeKind::Results
        } else if status {
            ExchangeKind::Status
        } else {
            return None;
        };
        let servers = self.available_servers(now);
        if servers.is_empty() {
            self.wait_for_servers(now);
            return None;
        }
        self.refused = false;
        if kind == ExchangeKind::Status {
            self.urgent = false;
            if self.extra.take().is_some() {
                self.extra_again = now + EXTRA_INTERVAL;
            }
        }
        Some((kind, servers))
    }

    /// The servers that may be asked now, each once: first the one that answered last, then those after it.
    fn available_servers(&mut self, now: Time) -> Vec<Server> {
        self.held.retain(|(_, until)| *until > now);
        let all: Vec<&Server> = self.of_job.iter().chain(&self.default).collect();
        let mut servers: Vec<Server> = Vec::new();
        for server in all.iter().copied().cycle().skip(self.current).take(all.len()) {
            if !servers.contains(server) && !self.held.iter().any(|(held, _)| held == server) {
                servers.push(server.clone());
            }
        }
        servers
    }

    /// Every server asked for a pause: puts all exchanges off until the first pause ends. Without a key a random part is
    /// added, as a server may have named the same moment to every host; with a key `pause` has added it already.
    fn wait_for_servers(&mut self, now: Time) {
        let end = self.held.iter().map(|(_, until)| *until).min().unwrap_or(now + self.step);
        let end = match self.keyed {
            true => end,
            false => end + end.since(now).min(self.step).mul_f64(self.random.fraction()),
        };
        self.status.at = self.status.at.max(end);
        self.results.at = self.results.at.max(end);
        (self.extra, self.urgent) = (None, false);
    }

    /// The server answered, but did not take the results that it was sent.
    pub fn results_refused(&mut self) {
        self.refused = true;
    }

    /// The wait before the next request to a package server that asked for this many seconds.
    pub fn package_pause(&self, seconds: u64) -> Duration {
        Duration::from_secs(seconds).min(self.step.max(RETRY_AFTER_MAX))
    }

    /// The wait before the next request to a control server that asked for this many seconds. With a key a random part is
    /// added, so that hosts that were given the same moment do not all come at once; the sum is one step at most.
    fn pause(&mut self, seconds: u64) -> Duration {
        if !self.keyed {
            return self.package_pause(seconds);
        }
        let asked = Duration::from_secs(seconds).min(self.step);
        asked + asked.min(self.step - asked).mul_f64(self.random.fraction())
    }

    /// Takes the answer of the server that was asked. `good`: it was valid; `retry_after`: the server asked for no further
    /// request before this many seconds have passed. Returns the kind of the exchange, and what follows.
    pub fn answered(&mut self, good: bool, retry_after: Option<u64>, now: Time) -> (Option<ExchangeKind>, Round) {
        self.judge_address(good, retry_after.is_some());
        self.busy = false;
        let Some((kind, mut servers)) = self.round.take() else { return (None, Round::Failed) };
        let server = servers.remove(0);
        if good {
            self.note_success(kind, &server, now);
            return (Some(kind), Round::Good);
        }
        if let Some(seconds) = retry_after {
            let until = now + self.pause(seconds);
            self.held.push((server, until));
        }
        if !servers.is_empty() {
            self.round = Some((kind, servers));
            return (Some(kind), Round::Next);
        }
        match kind {
            ExchangeKind::Status => {
                self.status.failures = self.status.failures.saturating_add(1);
                self.status.at = now + self.backoff(self.status.failures);
                self.results.at = self.results.at.max(self.status.at);
            }
            ExchangeKind::Results => {
                self.results.failures = self.results.failures.saturating_add(1);
                self.results.at = now + self.backoff(self.results.failures);
            }
            ExchangeKind::Trial => {}
        }
        (Some(kind), Round::Failed)
    }

    fn note_success(&mut self, kind: ExchangeKind, server: &Server, now: Time) {
        if let Some(index) = self.of_job.iter().chain(&self.default).position(|known| known == server) {
            self.current = index;
        }
        if kind == ExchangeKind::Trial {
            self.answered_on_trial = Some(server.clone());
        }
        self.results.failures = 0;
        if kind != ExchangeKind::Results {
            self.heard = now;
            self.status = Channel { at: now + self.jitter(), failures: 0 };
            self.results.at = self.results.at.min(now);
        }
    }

    /// One step, five percent more or less, and close to the last one: so hosts that started together drift apart steadily.
    /// With an independent jitter each time, their reports would still come together with every step for most of a day.
    fn jitter(&mut self) -> Duration {
        let phase = (self.jitter_phase + JITTER_STEP * (2.0 * self.random.fraction() - 1.0)).abs();
        self.jitter_phase = if phase > 1.0 { 2.0 - phase } else { phase };
        self.step.mul_f64(0.95 + 0.1 * self.jitter_phase)
    }

    /// The wait after this many failures in a row: a random part of 10 s, doubled with each further failure up to the step,
    /// so that the hosts of a fleet do not all come back at once.
    pub fn backoff(&mut self, failures: u32) -> Duration {
        let doubled = BACKOFF.min(self.step).saturating_mul(1 << failures.saturating_sub(1).min(20));
        doubled.min(self.step).mul_f64(self.random.fraction())
    }
}

#[cfg(test)]
mod tests;
