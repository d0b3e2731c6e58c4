//! When and to which server to talk: the reporting interval with its jitter, the order of servers, the wait after a
//! failed round, a new server list on trial.
//!
//! A round asks one server after the other until one gives a good answer. Results and statuses have rounds and waits of
//! their own, so that a server that takes no results still hears how the host is.

use std::fmt;
use std::time::Duration;

use crate::error::Error;
use crate::kernel::Time;
use crate::model::job::joined;

/// A control server: where its `/agent/...` endpoints are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// `http://host:port` and an optional path without a slash at its end, as requests begin.
    pub base: Box<str>,
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.base)
    }
}

/// Reads a server list: entries separated by commas, each `host:port` or a full URL with an optional path before
/// `/agent`; empty entries are skipped.
///
/// # Errors
/// Says which entries are wrong and why.
pub fn parse_servers(list: &str) -> Result<Vec<Server>, Error> {
    let (mut servers, mut wrong) = (Vec::new(), Vec::new());
    for entry in list.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
        match parse_server(entry) {
            Ok(server) => servers.push(server),
            Err(why) => wrong.push(why),
        }
    }
    if wrong.is_empty() {
        return Ok(servers);
    }
    Err(joined(&mut wrong.iter().map(|why| &**why), "; ").into())
}

fn parse_server(entry: &str) -> Result<Server, Error> {
    let (scheme, rest) = match entry.split_once("://") {
        None => ("http", entry),
        Some(("http", rest)) => ("http", rest),
        Some(("https", rest)) if cfg!(feature = "tls") => ("https", rest),
        Some(("https", _)) => return Err(format_error!("server \"{entry}\": https needs the tls build")),
        Some((other, _)) => return Err(format_error!("server \"{entry}\": want http://, got \"{other}://\"")),
    };
    let (authority, path) = match rest.find('/') {
        Some(slash) => rest.split_at(slash),
        None => (rest, ""),
    };
    if authority.contains('@') {
        return Err("server: a user in the URL cannot be used, want host:port".into());
    }
    if authority.contains([';', ' ']) {
        return Err(format_error!("server \"{entry}\": servers are separated by commas"));
    }
    if authority.contains(['[', ']']) || authority.matches(':').count() > 1 {
        return Err(format_error!("server \"{entry}\": literal IPv6 addresses cannot be used, want a host name"));
    }
    let (host, port) = match authority.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None if rest.len() < entry.len() => (authority, None),
        None => return Err(format_error!("server \"{entry}\": want host:port")),
    };
    if host.is_empty() || !host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_')) {
        return Err(format_error!("server \"{entry}\": \"{host}\" is not a host name"));
    }
    let port = match port {
        None => String::new(),
        Some(text) => match text.parse::<u16>() {
            Ok(port) if port > 0 && text.bytes().all(|b| b.is_ascii_digit()) => format!(":{port}"),
            _ => return Err(format_error!("server \"{entry}\": want a port of 1..65535, got \"{text}\"")),
        },
    };
    if !path.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'?' | b'#')) {
        return Err(format_error!("server \"{entry}\": want a plain path, got \"{path}\""));
    }
    Ok(Server { base: format!("{scheme}://{host}{port}{}", path.trim_end_matches('/')).into() })
}

/// The wait after the first failed round, doubled with each one until it reaches the step.
const BACKOFF: Duration = Duration::from_secs(10);

/// The least time between two extra statuses.
const EXTRA: Duration = Duration::from_secs(10);

/// How far the jitter of one report can be from that of the report before, as a part of its whole range.
const JITTER_STEP: f64 = 0.2;

/// The longest a server may ask to be left alone, unless the step is longer.
const RETRY_AFTER: Duration = Duration::from_secs(3600);

/// Pseudo-random numbers (SplitMix64), seeded once: jitter need not be unpredictable, only different on every host.
#[derive(Clone, Debug, PartialEq)]
pub struct Random(pub u64);

impl Random {
    /// The next number, any of 64 bits.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number of 0..1.
    fn fraction(&mut self) -> f64 {
        (self.number() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// What an exchange is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExchangeKind {
    /// A status.
    Status,
    /// Results of jobs.
    Results,
    /// A status to an entry of a new server list.
    Trial,
}

/// What an answer means for the round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Round {
    /// It ended well.
    Good,
    /// The next server is asked.
    Next,
    /// No server gave a good answer.
    Failed,
}

/// When to talk again, and when it went wrong last.
#[derive(Clone, Debug, Default, PartialEq)]
struct Channel {
    at: Time,
    failures: u32,
}

/// What one image of the daemon leaves to the next of its pace.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Times {
    /// When the next status is due, and failed rounds in a row before it.
    pub status: (Time, u32),
    /// The same of results.
    pub results: (Time, u32),
    /// An extra status is due.
    pub extra: Option<Time>,
    /// When one may be sent again.
    pub extra_again: Time,
    /// The server that answered last.
    pub server: Box<str>,
    /// Servers that asked to be left alone, until when.
    pub held: Vec<(Box<str>, Time)>,
    /// When a server last took a report.
    pub heard: Time,
}

/// When and to which server to talk.
#[derive(Clone, Debug, PartialEq)]
pub struct ExchangeSchedule {
    random: Random,
    /// Where the last interval was between the shortest and the longest, 0..1.
    jitter_phase: f64,
    step: Duration,
    /// The servers that a job gave.
    given: Vec<Server>,
    /// The servers that never change, tried after the given ones.
    default: Vec<Server>,
    /// Servers that asked to be left alone, until when.
    held: Vec<(Server, Time)>,
    /// Servers that do not answer, as far as was said.
    silent: Vec<Box<str>>,
    /// The server that answered last, as an index into `given` followed by `default`.
    current: usize,
    status: Channel,
    results: Channel,
    /// When a server last took a report, or all began.
    heard: Time,
    /// An agent changed its state: when to say so.
    extra: Option<Time>,
    /// When an extra status may be sent again.
    extra_again: Time,
    /// A person wants a report now.
    urgent: bool,
    /// The last exchange brought results that were refused.
    refused: bool,
    /// The list on trial, until its round begins.
    trial: Option<Vec<Server>>,
    /// The servers still to be asked in this round, the one being asked first.
    round: Option<(ExchangeKind, Vec<Server>)>,
    /// An answer is awaited.
    busy: bool,
    /// Exchanges are signed.
    keyed: bool,
}

impl ExchangeSchedule {
    /// A pace whose first report is due after a random part of `splay`.
    pub fn new(
        default: Vec<Server>,
        given: Vec<Server>,
        step: Duration,
        splay: Duration,
        seed: u64,
        now: Time,
    ) -> ExchangeSchedule {
        let mut random = Random(seed);
        let first = now + splay.mul_f64(random.fraction());
        let lean = random.fraction();
        ExchangeSchedule {
            random,
            jitter_phase: lean,
            step,
            given,
            default,
            held: Vec::new(),
            silent: Vec::new(),
            current: 0,
            status: Channel { at: first, failures: 0 },
            results: Channel { at: now, failures: 0 },
            heard: now,
            extra: None,
            // Agents that are started first thing are no reason to leave the splay: every host has some.
            extra_again: first,
            urgent: false,
            refused: false,
            trial: None,
            round: None,
            busy: false,
            keyed: false,
        }
    }

    /// Whether exchanges are signed: a server that has a key asks to be left alone in what it signs, and whoever is between
    /// has nothing to say.
    pub fn set_keyed(&mut self, keyed: bool) {
        self.keyed = keyed;
    }

    /// What the next image is to know.
    pub fn times(&self) -> Times {
        Times {
            status: (self.status.at, self.status.failures),
            results: (self.results.at, self.results.failures),
            extra: self.extra,
            extra_again: self.extra_again,
            server: self.server().map_or("".into(), |server| server.base.clone()),
            held: self.held.iter().map(|(server, until)| (server.base.clone(), *until)).collect(),
            heard: self.heard,
        }
    }

    /// Goes on as the image before, with a step that may be another one by now.
    pub fn go_on(&mut self, times: Times, now: Time) {
        let latest = now + self.jitter();
        self.status = Channel { at: times.status.0.min(latest), failures: times.status.1 };
        self.results = Channel { at: times.results.0.min(latest), failures: times.results.1 };
        (self.extra, self.extra_again) = (times.extra, times.extra_again);
        let known = self.given.iter().chain(&self.default).position(|server| server.base == times.server);
        self.current = known.unwrap_or(0);
        self.heard = times.heard;
        self.held = times.held.into_iter().map(|(base, until)| (Server { base }, until)).collect();
    }

    /// The reporting interval.
    pub fn step(&self) -> Duration {
        self.step
    }

    /// Whether there is any server to talk to.
    pub fn has_servers(&self) -> bool {
        !(self.given.is_empty() && self.default.is_empty())
    }

    /// How long no server has taken a report, while none does.
    pub fn silence(&self, now: Time) -> Option<Duration> {
        (self.status.failures > 0 && self.has_servers()).then(|| now.since(self.heard))
    }

    /// The server that answered last, or is asked first.
    pub fn server(&self) -> Option<&Server> {
        self.given.iter().chain(&self.default).nth(self.current)
    }

    /// Changes the reporting interval; the next report is no later than the new one says.
    pub fn set_step(&mut self, step: Duration, now: Time) {
        self.step = step;
        self.status.at = self.status.at.min(now + self.jitter());
    }

    /// Gives other servers to try before the default ones; the first of them is asked next.
    pub fn set_given(&mut self, given: Vec<Server>) {
        self.given = given;
        self.current = 0;
    }

    /// Puts a server list on trial: the next round asks each of its entries once.
    pub fn try_given(&mut self, servers: Vec<Server>) {
        self.trial = Some(servers);
    }

    /// An agent changed its state: an extra status, at most one every 10 s.
    pub fn changed(&mut self, now: Time) {
        self.extra.get_or_insert(self.extra_again.max(now));
    }

    /// A person wants a report now.
    pub fn hurry(&mut self) {
        self.urgent = true;
    }

    /// Whether a report that a person wants is under way, or is the next thing.
    pub fn is_hurried(&self) -> bool {
        self.urgent || self.busy || self.round.is_some()
    }

    /// There are new results: they are sent at once, unless servers do not answer at the moment.
    pub fn new_results(&mut self, now: Time) {
        if self.results.failures == 0 && self.status.failures == 0 {
            self.results.at = self.results.at.min(now);
        }
    }

    /// When `next` will want to talk, given when the earliest result wants to be sent; `None`: not before something else
    /// happens.
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

    /// Whether the answer that is awaited is one of a server list on trial.
    pub fn on_trial(&self) -> bool {
        self.busy && matches!(self.round, Some((ExchangeKind::Trial, _)))
    }

    /// Whether it is news that a server answers, or does not: said once for each change.
    pub fn is_news(&mut self, server: &str, good: bool) -> bool {
        let known = self.silent.iter().position(|silent| **silent == *server);
        match (known, good) {
            (None, false) => self.silent.push(server.into()),
            (Some(index), true) => drop(self.silent.swap_remove(index)),
            (None, true) | (Some(_), false) => return false,
        }
        true
    }

    /// Whom to talk to now, and what for; the answer goes to `answered`.
    pub fn next(&mut self, now: Time, results: bool) -> Option<(ExchangeKind, Server)> {
        if self.busy {
            return None;
        }
        if self.round.is_none() {
            self.round = self.begin(now, results);
        }
        let (talk, servers) = self.round.as_ref()?;
        let server = servers.first()?.clone();
        self.busy = true;
        Some((*talk, server))
    }

    fn begin(&mut self, now: Time, results: bool) -> Option<(ExchangeKind, Vec<Server>)> {
        if let Some(servers) = self.trial.take() {
            return Some((ExchangeKind::Trial, servers));
        }
        let extra = self.status.failures == 0 && self.extra.is_some_and(|at| at <= now);
        let status = self.urgent || extra || self.status.at <= now;
        // A server that refuses many results, each on its own, is reported to all the same.
        let talk = if results && self.results.at <= now && !(status && self.refused) {
            ExchangeKind::Results
        } else if status {
            ExchangeKind::Status
        } else {
            return None;
        };
        self.held.retain(|(_, until)| *until > now);
        let (given, count) = (self.given.len(), self.given.len() + self.default.len());
        let mut servers: Vec<Server> = Vec::new();
        for step in 0..count {
            let at = (self.current + step) % count;
            let server = if at < given { &self.given[at] } else { &self.default[at - given] };
            if !servers.contains(server) && !self.held.iter().any(|(held, _)| held == server) {
                servers.push(server.clone());
            }
        }
        if servers.is_empty() {
            // Every server asked to be left alone: nothing before the first of them is free again, and not at that very
            // moment, which a server may have told every host.
            let free = self.held.iter().map(|(_, until)| *until).min().unwrap_or(now + self.step);
            let free = match self.keyed {
                true => free,
                false => free + free.since(now).min(self.step).mul_f64(self.random.fraction()),
            };
            self.status.at = self.status.at.max(free);
            self.results.at = self.results.at.max(free);
            (self.extra, self.urgent) = (None, false);
            return None;
        }
        self.refused = false;
        if talk == ExchangeKind::Status {
            self.urgent = false;
            if self.extra.take().is_some() {
                self.extra_again = now + EXTRA;
            }
        }
        Some((talk, servers))
    }

    /// The server answered, but did not take the results that it was sent.
    pub fn results_refused(&mut self) {
        self.refused = true;
    }

    /// How long a server of packages is left alone that asked for so many seconds.
    pub fn heeded(&self, seconds: u64) -> Duration {
        Duration::from_secs(seconds).min(self.step.max(RETRY_AFTER))
    }

    /// How long a control server is left alone that asked for so many seconds. With a key that is never longer than one step,
    /// a random part included, so that hosts that were told the same moment do not come in one wave.
    fn pause(&mut self, seconds: u64) -> Duration {
        if !self.keyed {
            return self.heeded(seconds);
        }
        let asked = Duration::from_secs(seconds).min(self.step);
        asked + asked.min(self.step - asked).mul_f64(self.random.fraction())
    }

    /// The server asked last gave a good answer, or none and may have asked to be left alone for so many seconds.
    pub fn answered(&mut self, good: bool, retry_after: Option<u64>, now: Time) -> (Option<ExchangeKind>, Round) {
        self.busy = false;
        let Some((talk, mut servers)) = self.round.take() else { return (None, Round::Failed) };
        let server = servers.remove(0);
        if good {
            self.good(talk, &server, now);
            return (Some(talk), Round::Good);
        }
        if let Some(seconds) = retry_after {
            let until = now + self.pause(seconds);
            self.held.push((server, until));
        }
        if !servers.is_empty() {
            self.round = Some((talk, servers));
            return (Some(talk), Round::Next);
        }
        match talk {
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
        (Some(talk), Round::Failed)
    }

    fn good(&mut self, talk: ExchangeKind, server: &Server, now: Time) {
        if let Some(index) = self.given.iter().chain(&self.default).position(|known| known == server) {
            self.current = index;
        }
        self.results.failures = 0;
        if talk != ExchangeKind::Results {
            self.heard = now;
            self.status = Channel { at: now + self.jitter(), failures: 0 };
            self.results.at = self.results.at.min(now);
        }
    }

    /// One step, five percent more or less, and near to what it was the last time: hosts that began together drift apart
    /// steadily. With a jitter that begins anew each time a common start echoes with every step for most of a day.
    fn jitter(&mut self) -> Duration {
        let lean = (self.jitter_phase + JITTER_STEP * (2.0 * self.random.fraction() - 1.0)).abs();
        self.jitter_phase = if lean > 1.0 { 2.0 - lean } else { lean };
        self.step.mul_f64(0.95 + 0.1 * self.jitter_phase)
    }

    /// The wait after so many failures in a row: doubled from 10 s (or the step, if that is shorter), capped by the step,
    /// and of that a random part, so that a fleet does not come back in one wave.
    pub fn backoff(&mut self, failures: u32) -> Duration {
        let doubled = BACKOFF.min(self.step).saturating_mul(1 << failures.saturating_sub(1).min(20));
        doubled.min(self.step).mul_f64(self.random.fraction())
    }
}

#[cfg(test)]
mod tests;
