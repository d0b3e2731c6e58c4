//! One daemon for hours, over agents that die, hang, leak and fork, with jobs, reexecs and a server that goes wrong in every
//! way it can. Its memory and descriptors stay what they were, no agent is lost or runs twice, every job is answered, with
//! one and the same result however often it was sent.
//!
//! `make soak HOURS=1`. For a fifth of the time the daemon is replaced again and again, by reexec and by SIGKILL. Then one
//! process runs for the rest, so that its leaks show. Without `SOAK_HOURS` it takes twenty seconds, with fewer agents.
//! `SOAK_PAGE=docs/fleet.md` writes a table into that page and plots beside it.

mod util;
#[path = "soak/agents.rs"]
mod agents;
#[path = "fleet/plot.rs"]
mod plot;
#[path = "soak/record.rs"]
mod record;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use agents::{Crowd, Kind};
use record::Record;
use util::*;

/// Jobs that may be unanswered before no more are given.
const OPEN: usize = 40;

/// How long everything has to come to rest at the end.
const PEACE: Duration = Duration::from_secs(240);

struct Soak {
    host: Host,
    server: Server,
    crowd: Crowd,
    random: Random,
    packages: Vec<Package>,
    jobs: Vec<String>,
    /// How often each thing was done.
    done: BTreeMap<&'static str, u64>,
    record: Record,
}

impl Soak {
    fn new(agents: usize) -> Soak {
        let server = Server::new();
        let mut host = Host::with(&server);
        host.set("step", "2").set("checksecs", "5").set("log_level", "\"info\"");
        host.set("restartsecs", "2").set("windowsecs", "5").set("retries", "1000000");
        let crowd = Crowd::new(&host, agents);
        let packages = ["1.0", "2.0"].map(|version| tarball(&host, "packed", version, &staying("packed"), &[]));
        for package in &packages {
            server.serve(&package.file, &package.bytes);
        }
        let (jobs, done, record) = (Vec::new(), BTreeMap::new(), Record::new());
        Soak { host, server, crowd, random: Random(7), packages: packages.into(), jobs, done, record }
    }

    fn count(&mut self, what: &'static str) {
        *self.done.entry(what).or_default() += 1;
    }

    /// Something that a server or a person does.
    fn disturb(&mut self) {
        match self.random.below(10) {
            0..6 => self.job(),
            6 => {
                let mode = match self.random.below(6) {
                    0 => Mode::Close,
                    1 => Mode::Hang,
                    2 => Mode::Drip,
                    3 => Mode::Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\n{\"errcode\": 0, ".to_vec()),
                    4 => Mode::reply("503 Busy", "Retry-After: 1\r\n", ""),
                    _ => Mode::reply("200 OK", "", "\u{1}not JSON at all"),
                };
                self.server.mode(mode);
                self.server.takes(self.random.below(2) == 0);
                self.count("server faults");
            }
            7 => {
                self.host.signal("HUP");
                self.count("reloads");
            }
            8 => {
                // A definition that was changed restarts its agent.
                let index = self.random.below(self.crowd.len() as u64) as usize;
                let value = format!("{{ \"TURN\": \"{}\" }}", self.random.below(1_000_000));
                self.crowd.define(&self.host, index, &value);
                self.host.signal("HUP");
                self.count("definitions changed");
            }
            _ => {
                // An agent is killed from outside.
                let name = self.crowd.pick(&mut self.random);
                if let Some(seen) = self.host.seen(&name).filter(|seen| seen.pid > 1) {
                    kill(seen.pid, "KILL");
                    self.count("agents killed");
                }
            }
        }
    }

    /// Gives a job, unless too many are open.
    fn job(&mut self) {
        if self.jobs.iter().rev().take(200).filter(|id| self.server.result(id).is_none()).count() >= OPEN {
            return;
        }
        let id = format!("soak-{}", self.jobs.len());
        let name = self.crowd.pick(&mut self.random);
        let package = &self.packages[self.random.below(2) as usize];
        let url = format!("http://{}/packages/{}", self.server.address, package.file);
        let job = match self.random.below(12) {
            0..3 => Job::new(&id, "restart", &name),
            3 => Job::new(&id, "stop", &name),
            4..6 => Job::new(&id, "start", &name),
            6 => Job::new(&id, "config", &name).set("envs", "{ \"FROM\": \"a job\" }"),
            7 => {
                // One that has a memory limit anyway: with cgroup v1 every agent that has one takes a descriptor.
                let mut picks = (0..100).map(|_| self.crowd.pick(&mut self.random));
                let limited = picks.find(|name| name.starts_with("leaks")).unwrap_or(name);
                Job::new(&id, "config", &limited).set("limits", "{ \"memory\": \"24M\" }")
            }
            8..10 => Job::new(&id, "install", "packed").package(&url, package),
            10 => Job::new(&id, "uninstall", "packed"),
            _ => Job::new(&id, "start", "nobody").set("window", "3"),
        };
        self.server.give(&job.text());
        self.jobs.push(id);
        self.count("jobs");
    }

    /// Puts another daemon in the place of this one.
    fn replace(&mut self) {
        if self.random.below(2) == 0 {
            self.host.ok(&["reexec"]);
            self.count("reexecs");
        } else {
            self.host.kill9();
            self.host.start();
            self.count("daemons killed");
        }
    }

    /// What is measured, and what must be so at any moment.
    fn look(&mut self, since: Instant) {
        let alive = self.crowd.alive(&self.host);
        let jobs = self.done.get("jobs").copied().unwrap_or(0);
        self.record.look(&self.host, since.elapsed(), alive.values().sum(), jobs);
        let twice: Vec<_> = alive.into_iter().filter(|(_, mains)| *mains > 1).collect();
        assert!(twice.is_empty(), "agents that run twice: {twice:?}\n{}", self.host.logs());
        // Bodies of hours are not kept.
        self.server.forget();
    }

    fn live(&mut self, time: Duration) {
        let mut since = Instant::now();
        let replacing = time / 5;
        let pace = Duration::from_secs_f64((time.as_secs_f64() / 3600.0).clamp(0.2, 1.0));
        let mut next_look = Duration::ZERO;
        let mut next_daemon = time / 20;
        let mut recover = Duration::MAX;
        while since.elapsed() < time {
            let_pass(pace);
            self.disturb();
            let now = since.elapsed();
            if now > next_look {
                self.look(since);
                next_look = now + (time / 200).max(Duration::from_secs(1));
            }
            if now > next_daemon && now < replacing {
                // A reexec waits for an exchange under way, which is not part of the time that is looked at.
                let began = Instant::now();
                self.server.mode(Mode::Good);
                self.replace();
                since += began.elapsed();
                next_daemon = now + (time / 100).min(Duration::from_secs(20));
            }
            // No fault lasts longer than twenty seconds, so that jobs come through in between.
            match recover {
                Duration::MAX => recover = now + Duration::from_secs(5 + self.random.below(15)),
                at if now > at => {
                    self.server.mode(Mode::Good);
                    self.server.takes(true);
                    recover = Duration::MAX;
                }
                _ => {}
            }
        }
        self.rest(since);
    }

    /// Everything good again: every job is answered, and every agent is where it should be.
    fn rest(&mut self, since: Instant) {
        self.server.mode(Mode::Good);
        self.server.takes(true);
        let end = Instant::now() + PEACE;
        loop {
            let open: Vec<&String> = self.jobs.iter().filter(|id| self.server.result(id).is_none()).collect();
            if open.is_empty() {
                break;
            }
            assert!(Instant::now() < end, "never answered: {open:?}\n{}", self.host.logs());
            pause();
        }
        for id in &self.jobs {
            let codes = self.server.codes(id);
            assert!(codes.iter().all(|code| *code == codes[0]), "job {id} was answered differently: {codes:?}");
        }
        self.look(since);
        let lost = patiently(|| {
            let status = self.host.status()?;
            let alive = self.crowd.alive(&self.host);
            self.crowd.lost(&status, &alive).is_empty().then_some(())
        });
        if lost.is_none() {
            let status = self.host.status().expect("the daemon answers");
            panic!("lost: {:?}\n{}", self.crowd.lost(&status, &self.crowd.alive(&self.host)), self.host.logs());
        }
        self.look(since);
    }
}

#[test]
fn nothing_grows_and_nothing_is_lost() {
    let hours: Option<f64> = std::env::var("SOAK_HOURS").ok().and_then(|text| text.parse().ok());
    let time = Duration::from_secs_f64(hours.map_or(20.0, |hours| hours * 3600.0));
    let agents = if hours.is_some() { 200 } else { 20 };
    let mut soak = Soak::new(agents);
    soak.host.start();
    soak.live(time);
    assert_eq!(soak.crowd.len(), agents);
    let table = soak.record.table(&soak.done, time);
    println!("{table}");
    if let Some(page) = std::env::var_os("SOAK_PAGE") {
        soak.record.write(page.as_ref(), &table);
    }
    soak.record.judge(time);
    assert!(soak.host.end("TERM").success(), "{}", soak.host.logs());
    let left = soak.crowd.alive(&soak.host);
    assert!(left.is_empty(), "left over: {left:?}");
    assert_eq!(soak.host.processes(), []);
    assert!(Kind::ALL.len() <= agents);
}
