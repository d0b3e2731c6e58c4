//! When and to which server to talk: the reporting interval with its jitter, the order of servers, the wait after a
//! failed round, a new server list on trial.
//!
//! A round asks one server after the other until one gives a good answer. Results and statuses have rounds and waits of
//! their own, so that a server that takes no results still hears how the host is.

use std::fmt;
use std::time::Duration;

use crate::kernel::Time;

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
/// Says which entry is wrong and why.
pub fn parse_servers(list: &str) -> Result<Vec<Server>, String> {
    list.split(',').map(str::trim).filter(|entry| !entry.is_empty()).map(parse_server).collect()
}

fn parse_server(entry: &str) -> Result<Server, String> {
    let (scheme, rest) = match entry.split_once("://") {
        None => ("http", entry),
        Some(("http", rest)) => ("http", rest),
        Some(("https", rest)) if cfg!(feature = "tls") => ("https", rest),
        Some(("https", _)) => return Err(format!("server \"{entry}\": https needs the tls build")),
        Some((other, _)) => return Err(format!("server \"{entry}\": want http://, got \"{other}://\"")),
    };
    let (authority, path) = match rest.find('/') {
        Some(slash) => rest.split_at(slash),
        None => (rest, ""),
    };
    if authority.contains('@') {
        return Err("server: a user in the URL cannot be used, want host:port".to_string());
    }
    if authority.contains(['[', ']']) || authority.matches(':').count() > 1 {
        return Err(format!("server \"{entry}\": literal IPv6 addresses cannot be used, want a host name"));
    }
    let (host, port) = match authority.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None if entry.contains("://") => (authority, None),
        None => return Err(format!("server \"{entry}\": want host:port")),
    };
    if host.is_empty() || !host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_')) {
        return Err(format!("server \"{entry}\": \"{host}\" is not a host name"));
    }
    let port = match port {
        None => String::new(),
        Some(text) => match text.parse::<u16>() {
            Ok(port) if port > 0 && text.bytes().all(|b| b.is_ascii_digit()) => format!(":{port}"),
            _ => return Err(format!("server \"{entry}\": want a port of 1..65535, got \"{text}\"")),
        },
    };
    if !path.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'?' | b'#')) {
        return Err(format!("server \"{entry}\": want a plain path, got \"{path}\""));
    }
    Ok(Server { base: format!("{scheme}://{host}{port}{}", path.trim_end_matches('/')).into() })
}

/// The wait after the first failed round, doubled with each one until it reaches the step.
const BACKOFF: Duration = Duration::from_secs(10);

/// The least time between two extra statuses.
const EXTRA: Duration = Duration::from_secs(10);

/// The longest a server may ask to be left alone, unless the step is longer.
const RETRY_AFTER: Duration = Duration::from_secs(3600);

/// Pseudo-random numbers (SplitMix64), seeded once: jitter need not be unpredictable, only different on every host.
#[derive(Clone, Debug, PartialEq)]
pub struct Random(pub u64);

impl Random {
    /// A number of 0..1.
    fn fraction(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// What an exchange is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Talk {
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
}

/// When and to which server to talk.
#[derive(Clone, Debug, PartialEq)]
pub struct Pace {
    random: Random,
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
    /// An agent changed its state: when to say so.
    extra: Option<Time>,
    /// When an extra status may be sent again.
    extra_again: Time,
    /// A person wants a report now.
    urgent: bool,
    /// The list on trial, until its round begins.
    trial: Option<Vec<Server>>,
    /// The servers still to be asked in this round, the one being asked first.
    round: Option<(Talk, Vec<Server>)>,
    /// An answer is awaited.
    busy: bool,
}

impl Pace {
    /// A pace whose first report is due after a random part of `splay`.
    pub fn new(
        default: Vec<Server>,
        given: Vec<Server>,
        step: Duration,
        splay: Duration,
        seed: u64,
        now: Time,
    ) -> Pace {
        let mut random = Random(seed);
        let first = now + splay.mul_f64(random.fraction());
        Pace {
            random,
            step,
            given,
            default,
            held: Vec::new(),
            silent: Vec::new(),
            current: 0,
            status: Channel { at: first, failures: 0 },
            results: Channel { at: now, failures: 0 },
            extra: None,
            extra_again: now,
            urgent: false,
            trial: None,
            round: None,
            busy: false,
        }
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
        [Some(self.status.at), extra, results].into_iter().flatten().min()
    }

    /// The server whose answer is awaited.
    pub fn asking(&self) -> Option<&Server> {
        self.round.as_ref().filter(|_| self.busy)?.1.first()
    }

    /// Whether the answer that is awaited is one of a server list on trial.
    pub fn on_trial(&self) -> bool {
        self.busy && matches!(self.round, Some((Talk::Trial, _)))
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
    pub fn next(&mut self, now: Time, results: bool) -> Option<(Talk, Server)> {
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

    fn begin(&mut self, now: Time, results: bool) -> Option<(Talk, Vec<Server>)> {
        if let Some(servers) = self.trial.take() {
            return Some((Talk::Trial, servers));
        }
        let extra = self.status.failures == 0 && self.extra.is_some_and(|at| at <= now);
        let talk = if results && self.results.at <= now {
            Talk::Results
        } else if self.urgent || extra || self.status.at <= now {
            Talk::Status
        } else {
            return None;
        };
        self.held.retain(|(_, until)| *until > now);
        let count = self.given.len() + self.default.len();
        let all = self.given.iter().chain(&self.default);
        let mut servers: Vec<Server> = Vec::with_capacity(count);
        for server in all.clone().skip(self.current).chain(all.take(self.current)) {
            if !servers.contains(server) && !self.held.iter().any(|(held, _)| held == server) {
                servers.push(server.clone());
            }
        }
        if servers.is_empty() {
            // Every server asked to be left alone: nothing before the first of them is free again.
            let free = self.held.iter().map(|(_, until)| *until).min().unwrap_or(now + self.step);
            self.status.at = self.status.at.max(free);
            self.results.at = self.results.at.max(free);
            (self.extra, self.urgent) = (None, false);
            return None;
        }
        if talk == Talk::Status {
            self.urgent = false;
            if self.extra.take().is_some() {
                self.extra_again = now + EXTRA;
            }
        }
        Some((talk, servers))
    }

    /// How long a server is left alone that asked for so many seconds.
    pub fn heeded(&self, seconds: u64) -> Duration {
        Duration::from_secs(seconds).min(self.step.max(RETRY_AFTER))
    }

    /// The server asked last gave a good answer, or none and may have asked to be left alone for so many seconds.
    pub fn answered(&mut self, good: bool, retry_after: Option<u64>, now: Time) -> (Option<Talk>, Round) {
        self.busy = false;
        let Some((talk, mut servers)) = self.round.take() else { return (None, Round::Failed) };
        let server = servers.remove(0);
        if good {
            self.good(talk, &server, now);
            return (Some(talk), Round::Good);
        }
        if let Some(seconds) = retry_after {
            self.held.push((server, now + self.heeded(seconds)));
        }
        if !servers.is_empty() {
            self.round = Some((talk, servers));
            return (Some(talk), Round::Next);
        }
        match talk {
            Talk::Status => {
                self.status.failures = self.status.failures.saturating_add(1);
                self.status.at = now + self.backoff(self.status.failures);
                self.results.at = self.results.at.max(self.status.at);
            }
            Talk::Results => {
                self.results.failures = self.results.failures.saturating_add(1);
                self.results.at = now + self.backoff(self.results.failures);
            }
            Talk::Trial => {}
        }
        (Some(talk), Round::Failed)
    }

    fn good(&mut self, talk: Talk, server: &Server, now: Time) {
        if let Some(index) = self.given.iter().chain(&self.default).position(|known| known == server) {
            self.current = index;
        }
        self.results.failures = 0;
        if talk != Talk::Results {
            self.status = Channel { at: now + self.jitter(), failures: 0 };
            self.results.at = self.results.at.min(now);
        }
    }

    /// One step, five percent more or less.
    fn jitter(&mut self) -> Duration {
        self.step.mul_f64(0.95 + 0.1 * self.random.fraction())
    }

    /// The wait after so many failures in a row: doubled from 10 s (or the step, if that is shorter), capped by the step,
    /// and of that a random part, so that a fleet does not come back in one wave.
    pub fn backoff(&mut self, failures: u32) -> Duration {
        let doubled = BACKOFF.min(self.step).saturating_mul(1 << failures.saturating_sub(1).min(20));
        doubled.min(self.step).mul_f64(self.random.fraction())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_lists() {
        for (list, want) in [
            ("", Ok(vec![])),
            (" a:1 ,, b.c:65535,", Ok(vec!["http://a:1", "http://b.c:65535"])),
            ("http://a/x/", Ok(vec!["http://a/x"])),
            ("http://a:8080/", Ok(vec!["http://a:8080"])),
            ("a:0", Err("port")),
            ("a:65536", Err("port")),
            ("a:+80", Err("port")),
            ("a", Err("host:port")),
            (":80", Err("host name")),
            ("[::1]:80", Err("IPv6")),
            ("::1:80", Err("IPv6")),
            ("ftp://a:1", Err("http://")),
            ("http://u:p@a:1", Err("user")),
            ("http://u@a:1", Err("user")),
            ("a:1/x?y", Err("path")),
        ] {
            match (parse_servers(list), want) {
                (Ok(got), Ok(want)) => assert_eq!(got.iter().map(|s| &*s.base).collect::<Vec<_>>(), want, "{list}"),
                (Err(got), Err(want)) => assert!(got.contains(want), "{list}: {got}"),
                (got, want) => panic!("{list}: got {got:?}, want {want:?}"),
            }
        }
    }

    fn pace(servers: &str, step: u64) -> Pace {
        let servers = parse_servers(servers).unwrap();
        Pace::new(servers, Vec::new(), Duration::from_secs(step), Duration::ZERO, 7, Time::default())
    }

    fn asked(pace: &mut Pace, now: Time, results: bool) -> Option<(Talk, String)> {
        pace.next(now, results).map(|(talk, server)| (talk, server.base.trim_start_matches("http://").to_string()))
    }

    #[test]
    fn reports_come_every_step_with_five_percent_of_jitter() {
        let mut pace = pace("a:1", 600);
        let mut now = Time::default();
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..1000 {
            assert_eq!(asked(&mut pace, now, false), Some((Talk::Status, "a:1".into())));
            assert_eq!(pace.answered(true, None, now), (Some(Talk::Status), Round::Good));
            let next = pace.deadline(None).unwrap();
            let wait = next.since(now).as_secs_f64();
            assert!((570.0..=630.0).contains(&wait), "{wait}");
            seen.insert(wait as u64);
            assert_eq!(pace.next(Time(next.0 - 1), false), None);
            now = next;
        }
        assert!(seen.len() > 40, "{seen:?}");
    }

    #[test]
    fn the_first_report_is_within_the_splay() {
        for seed in 0..100 {
            let servers = parse_servers("a:1").unwrap();
            let splay = Duration::from_secs(30);
            let pace = Pace::new(servers, Vec::new(), Duration::from_secs(600), splay, seed, Time::new(5, 0));
            let first = pace.deadline(None).unwrap().since(Time::new(5, 0));
            assert!(first <= splay, "{first:?}");
        }
    }

    #[test]
    fn a_round_asks_every_server_once_and_stays_with_the_one_that_answers() {
        let mut pace = pace("a:1,b:1,c:1,a:1", 600);
        let now = Time::default();
        assert_eq!(asked(&mut pace, now, false), Some((Talk::Status, "a:1".into())));
        assert_eq!(asked(&mut pace, now, false), None, "one exchange at a time");
        assert_eq!(pace.answered(false, None, now).1, Round::Next);
        assert_eq!(asked(&mut pace, now, false), Some((Talk::Status, "b:1".into())));
        assert_eq!(pace.answered(true, None, now).1, Round::Good);
        let now = pace.deadline(None).unwrap();
        for (server, round) in [("b:1", Round::Next), ("c:1", Round::Next), ("a:1", Round::Failed)] {
            assert_eq!(asked(&mut pace, now, false), Some((Talk::Status, server.into())));
            assert_eq!(pace.answered(false, None, now).1, round);
        }
        assert!(pace.deadline(None).unwrap() > now);
    }

    #[test]
    fn failed_rounds_wait_longer_up_to_the_step() {
        for (step, caps) in [(600, vec![10, 20, 40, 80, 160, 320, 600, 600, 600]), (4, vec![4, 4, 4])] {
            for seed in 0..200 {
                let mut pace = pace("a:1", step);
                pace.random = Random(seed);
                let mut now = Time::default();
                for cap in &caps {
                    assert!(pace.next(now, false).is_some());
                    pace.answered(false, None, now);
                    let wait = pace.deadline(None).unwrap().since(now);
                    assert!(wait <= Duration::from_secs(*cap), "{wait:?} {cap}");
                    now = pace.deadline(None).unwrap();
                }
            }
        }
    }

    #[test]
    fn results_go_first_and_never_hold_up_a_status() {
        let mut pace = pace("a:1", 600);
        let now = Time::default();
        assert_eq!(asked(&mut pace, now, true), Some((Talk::Results, "a:1".into())));
        assert_eq!(pace.answered(false, None, now).1, Round::Failed);
        assert_eq!(asked(&mut pace, now, true), Some((Talk::Status, "a:1".into())));
        assert_eq!(pace.answered(true, None, now).1, Round::Good);
        assert_eq!(asked(&mut pace, now, true), Some((Talk::Results, "a:1".into())), "a server answers again");
    }

    #[test]
    fn a_server_that_asks_for_peace_gets_it() {
        let mut pace = pace("a:1,b:1", 600);
        let now = Time::default();
        pace.next(now, false);
        assert_eq!(pace.answered(false, Some(100), now).1, Round::Next);
        pace.next(now, false);
        assert_eq!(pace.answered(false, Some(999_999), now).1, Round::Failed);
        let soon = now + Duration::from_secs(50);
        pace.hurry();
        assert_eq!(pace.next(soon, false), None);
        assert!(pace.deadline(None).unwrap() >= now + Duration::from_secs(100));
        let later = now + Duration::from_secs(100);
        pace.hurry();
        assert_eq!(asked(&mut pace, later, false), Some((Talk::Status, "a:1".into())));
        assert_eq!(pace.answered(false, None, later).1, Round::Failed, "b is held for an hour");
        let after = now + Duration::from_secs(3600);
        pace.hurry();
        pace.next(after, false);
        assert_eq!(pace.answered(false, None, after).1, Round::Next);
    }

    #[test]
    fn extra_statuses_are_ten_seconds_apart() {
        let mut pace = pace("a:1", 600);
        let mut now = Time::default();
        pace.next(now, false);
        pace.answered(true, None, now);
        pace.changed(now);
        assert_eq!(pace.deadline(None), Some(now));
        assert!(pace.next(now, false).is_some());
        pace.changed(now);
        pace.answered(true, None, now);
        assert_eq!(pace.deadline(None), Some(Time::new(10, 0)));
        now = Time::new(9, 0);
        assert_eq!(pace.next(now, false), None);
        assert!(pace.next(Time::new(10, 0), false).is_some());
    }

    #[test]
    fn a_list_on_trial_is_asked_once_each() {
        let mut pace = pace("a:1", 600);
        let now = Time::default();
        pace.try_given(parse_servers("x:1,y:1").unwrap());
        assert_eq!(asked(&mut pace, now, true), Some((Talk::Trial, "x:1".into())));
        assert_eq!(pace.answered(false, None, now), (Some(Talk::Trial), Round::Next));
        assert_eq!(asked(&mut pace, now, true), Some((Talk::Trial, "y:1".into())));
        assert_eq!(pace.answered(false, None, now), (Some(Talk::Trial), Round::Failed));
        assert_eq!(asked(&mut pace, now, false), Some((Talk::Status, "a:1".into())));
    }

    #[test]
    fn without_servers_there_is_nothing_to_wait_for() {
        let mut pace = pace("", 600);
        assert_eq!(pace.deadline(Some(Time::default())), None);
        pace.changed(Time::default());
        assert_eq!(pace.deadline(None), None);
    }
}
