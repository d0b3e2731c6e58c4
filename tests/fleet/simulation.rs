//! A fleet in memory: every host is a whole `model::state::State` with its real timing, against simulated servers.
//!
//! All hosts share one simulated clock. Actions are done at once, except exchanges and downloads, which take the time that
//! the servers need. There is no thread and no real clock: the same seed gives the same fleet.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use bootagent::kernel::{Exit, Pid, Process, Time};
use bootagent::model::enforcement::Enforcement;
use bootagent::model::event::{Action, Definition, Event, Fetched, Message, Now, Origin, Reply, Verified};
use bootagent::model::job::{Job, JobAction, Source};
use bootagent::model::package::{Digest, Format};
use bootagent::model::restart::Policy;
use bootagent::model::schedule::{parse_servers, Server as Address};
use bootagent::model::spec::Spec;
use bootagent::model::state::{Options, Recovered, State, Times};

use crate::servers::{Server, Verdict};
use crate::util::Random;

pub const SECOND: u64 = 1_000_000_000;

/// What a download takes, from a package server that is wide enough.
const DOWNLOAD: u64 = 5 * SECOND;

/// The options that every host starts with.
#[derive(Clone, Copy)]
pub struct Plan {
    pub hosts: u32,
    /// s
    pub step: u64,
    /// s
    pub splay: u64,
}

impl Plan {
    /// Requests per second of a fleet that nothing happens to.
    pub fn steady(&self) -> f64 {
        f64::from(self.hosts) / self.step as f64
    }

    /// What the peak after a common reboot may be: the first reports, spread over the splay, beside three times what is
    /// usual.
    pub fn bound(&self) -> f64 {
        f64::from(self.hosts) / self.splay as f64 + 3.0 * self.steady()
    }
}

/// One host; its daemon, once it runs.
struct Host {
    state: Option<State>,
    /// Daemons so far: what is on its way to an earlier one is lost.
    life: u32,
    /// The tick that is asked for.
    tick: u64,
    /// A server took a status since the last `listen`.
    heard: bool,
}

enum Due {
    Boot,
    Tick,
    Event(Box<Event>),
}

/// Something due: when, in which order of those at the same time, for which host in which life.
struct Entry(u64, u64, u32, u32, Due);

impl PartialEq for Entry {
    fn eq(&self, other: &Entry) -> bool {
        (self.0, self.1) == (other.0, other.1)
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Entry) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Entry) -> std::cmp::Ordering {
        (self.0, self.1).cmp(&(other.0, other.1))
    }
}

/// What happened in each second.
#[derive(Clone, Default)]
pub struct Series(pub Vec<u32>);

impl Series {
    pub fn count(&mut self, time: u64) {
        let second = (time / SECOND) as usize;
        if self.0.len() <= second {
            self.0.resize(second + 1, 0);
        }
        self.0[second] += 1;
    }

    fn part(&self, from: u64, to: u64) -> &[u32] {
        let end = (to as usize).min(self.0.len());
        &self.0[(from as usize).min(end)..end]
    }

    /// How many in `from..to`, s.
    pub fn sum(&self, from: u64, to: u64) -> u64 {
        self.part(from, to).iter().map(|count| u64::from(*count)).sum()
    }

    /// Per second, over `from..to`, s.
    pub fn mean(&self, from: u64, to: u64) -> f64 {
        self.sum(from, to) as f64 / (to - from) as f64
    }

    /// The highest mean per second of any `width` seconds in `from..to`.
    pub fn peak(&self, from: u64, to: u64, width: u64) -> f64 {
        (from..to.saturating_sub(width - 1)).map(|start| self.mean(start, start + width)).fold(0.0, f64::max)
    }

    /// From when on, in `from..to`, no minute has more than `limit` per second: seconds after `from`.
    pub fn settles(&self, from: u64, to: u64, limit: f64) -> u64 {
        let last = (from..to - 60).rev().find(|start| self.mean(*start, start + 60) > limit);
        last.map_or(0, |start| start + 60 - from)
    }
}

pub struct Fleet {
    plan: Plan,
    addresses: Vec<Address>,
    pub servers: Vec<Server>,
    hosts: Vec<Host>,
    agenda: BinaryHeap<Reverse<Entry>>,
    count: u64,
    time: u64,
    random: Random,
    /// The job that every host is to do, and which hosts have answered.
    job: Option<Job>,
    pub answered: Vec<bool>,
    /// Requests of every kind, whatever became of them.
    pub requests: Series,
    /// Those that were answered well.
    pub served: Series,
    /// Downloads begun.
    pub downloads: Series,
    /// The first good status of each host since the last `listen`.
    pub heard: Series,
}

impl Fleet {
    /// A fleet whose daemons start at random moments of the first step.
    pub fn new(plan: Plan, servers: Vec<Server>) -> Fleet {
        let list: Vec<String> = (0..servers.len()).map(|index| format!("server-{index}:80")).collect();
        let hosts = (0..plan.hosts).map(|_| Host { state: None, life: 0, tick: u64::MAX, heard: false }).collect();
        let mut fleet = Fleet {
            plan,
            addresses: parse_servers(&list.join(",")).expect("good names"),
            servers,
            hosts,
            agenda: BinaryHeap::new(),
            count: 0,
            time: 0,
            random: Random(1),
            job: None,
            answered: vec![false; plan.hosts as usize],
            requests: Series::default(),
            served: Series::default(),
            downloads: Series::default(),
            heard: Series::default(),
        };
        for host in 0..plan.hosts {
            let at = fleet.random.below(plan.step * SECOND);
            fleet.at(at, host, Due::Boot);
        }
        fleet
    }

    fn at(&mut self, time: u64, host: u32, due: Due) {
        self.count += 1;
        let life = self.hosts[host as usize].life;
        self.agenda.push(Reverse(Entry(time, self.count, host, life, due)));
    }

    /// All hosts lose power and come back, all in the same second.
    pub fn reboot(&mut self) {
        for host in 0..self.plan.hosts {
            let state = &mut self.hosts[host as usize];
            (state.state, state.life) = (None, state.life + 1);
            let at = self.time + self.random.below(SECOND);
            self.at(at, host, Due::Boot);
        }
    }

    /// From now on the first good status of each host counts as `heard`.
    pub fn listen(&mut self) {
        self.heard = Series::default();
        self.hosts.iter_mut().for_each(|host| host.heard = false);
    }

    /// Seconds from `from`, s, until this part of the hosts has been heard; `None`: it never was.
    pub fn heard_after(&self, from: u64, part: f64) -> Option<u64> {
        let wanted = (f64::from(self.plan.hosts) * part).ceil() as u64;
        let mut sum = 0;
        let second = self.heard.0.iter().position(|count| {
            sum += u64::from(*count);
            sum >= wanted
        });
        Some((second? as u64 + 1).saturating_sub(from))
    }

    /// The highest mean per second that one server saw in any ten seconds of `from..to`, s.
    pub fn busiest(&self, from: u64, to: u64) -> f64 {
        self.servers.iter().map(|server| server.seen.peak(from, to, 10)).fold(0.0, f64::max)
    }

    /// Gives a job to install a new agent to every host that reports from now on; `window` in s.
    pub fn offer(&mut self, window: u64) {
        let digest = Digest([7; 32]);
        let source = Source { url: "http://packages/new-1.0.tar".into(), digest, format: Format::Tar };
        self.job = Some(Job {
            version: Some("1.0".into()),
            window: Duration::from_secs(window),
            text: "{}".into(),
            ..Job::new("roll-1", "new", JobAction::Install(source))
        });
    }

    /// Lives until `end`, s.
    pub fn run(&mut self, end: u64) {
        let end = end * SECOND;
        while self.agenda.peek().is_some_and(|Reverse(entry)| entry.0 < end) {
            let Some(Reverse(Entry(time, _, host, life, due))) = self.agenda.pop() else { break };
            self.time = time;
            if self.hosts[host as usize].life == life {
                self.happens(host, due);
            }
        }
        self.time = end;
    }

    fn now(&self) -> Now {
        Now { time: Time(self.time + 5 * SECOND), wall: 1_700_000_000 + self.time / SECOND }
    }

    fn happens(&mut self, host: u32, due: Due) {
        let now = self.now();
        let mut out = Vec::new();
        match due {
            Due::Boot => {
                let seed = self.random.next();
                self.hosts[host as usize].state = Some(self.boot(host, seed, &mut out));
            }
            Due::Tick if self.hosts[host as usize].tick != self.time => return,
            Due::Tick => self.step(host, Event::Tick, now, &mut out),
            Due::Event(event) => self.step(host, *event, now, &mut out),
        }
        // What is answered at once may want more done.
        while !out.is_empty() {
            for action in std::mem::take(&mut out) {
                for event in self.act(host, action) {
                    self.step(host, event, now, &mut out);
                }
            }
        }
        let deadline = self.hosts[host as usize].state.as_ref().and_then(State::deadline);
        let tick = deadline.map_or(u64::MAX, |at| at.0.saturating_sub(5 * SECOND).max(self.time));
        if tick != self.hosts[host as usize].tick || tick == self.time {
            self.hosts[host as usize].tick = tick;
            if tick < u64::MAX {
                self.at(tick, host, Due::Tick);
            }
        }
    }

    fn step(&mut self, host: u32, event: Event, now: Now, out: &mut Vec<Action>) {
        if let Some(state) = &mut self.hosts[host as usize].state {
            state.step(event, now, out);
        }
    }

    fn boot(&mut self, host: u32, seed: u64, out: &mut Vec<Action>) -> State {
        let options = Options {
            hostname: format!("host-{host}").into(),
            version: "bootagent-1.0.0-x86_64".into(),
            boot_id: "".into(),
            servers: self.addresses.clone(),
            step: Duration::from_secs(self.plan.step),
            splay: Duration::from_secs(self.plan.splay),
            policy: Policy { restartsecs: Duration::from_secs(180), windowsecs: Duration::from_secs(900), retries: 3 },
            checksecs: Duration::from_secs(60),
            times: Times::default(),
            packages: "/packages".into(),
            signed: false,
            keyed: false,
            closed: None,
            program: "/bootagent".into(),
            config: "/bootagent.json".into(),
            seed,
        };
        let agent = Spec::new("log", "1.0", vec!["/usr/sbin/log".into()]);
        let definitions = vec![Definition { origin: Origin::File, spec: Box::new(agent) }];
        let mut found = Recovered { definitions, ..Recovered::default() };
        found.identity.sn = format!("sn-{host}").into();
        State::new(options, found, self.now(), out)
    }

    /// Does what a host wants done: what is answered at once.
    fn act(&mut self, host: u32, action: Action) -> Vec<Event> {
        match action {
            Action::Start(name) => {
                let process = Process { pid: Pid::new(1000).expect("a good number"), ticks: self.time };
                vec![Event::Started { name, process, enforcement: Enforcement::default() }]
            }
            Action::Signal(name, _, sig) => {
                vec![Event::Exited {
                    name,
                    pid: Pid::new(1000).expect("a good number"),
                    exit: Exit::Signal(sig),
                    oom: None,
                    tail: "".into(),
                }]
            }
            Action::CountProcesses { name, .. } => vec![Event::ProcessCount(name, 0)],
            Action::Measure => vec![Event::Measured(Vec::new())],
            Action::SaveJob(record) => vec![Event::Saved(record.id, Ok(()))],
            Action::PlacePackage(id, ..) | Action::Rename { job: id, .. } | Action::Link(id, ..) => {
                vec![Event::Placed(id, Ok(()))]
            }
            Action::Verify(id, ..) => vec![Event::Verified(id, Verified::Sound(Digest([7; 32])))],
            Action::Unpack { job, .. } => vec![Event::Unpacked(job, Ok(()))],
            Action::Inspect { job, name, .. } => {
                vec![Event::Inspected(job, Ok(Some(Box::new(Spec::new(&name, "1.0", vec!["/bin/new".into()])))))]
            }
            Action::Fetch(id) => {
                self.downloads.count(self.time);
                let fetched = Fetched::Whole { digest: Digest([7; 32]), doubtful: false };
                self.at(self.time + DOWNLOAD, host, Due::Event(Box::new(Event::Fetched(id, fetched))));
                Vec::new()
            }
            Action::Exchange(server, message) => {
                let (at, reply) = self.exchange(host, &server, message);
                self.at(at, host, Due::Event(Box::new(Event::Replied(reply))));
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    /// One request: when its answer comes, and what it is.
    fn exchange(&mut self, host: u32, server: &Address, message: Message) -> (u64, Reply) {
        self.requests.count(self.time);
        let index = self.addresses.iter().position(|address| address == server).expect("one of the list");
        let (at, verdict) = self.servers[index].take(self.time);
        let known = &mut self.hosts[host as usize];
        let reply = match (verdict, message) {
            (Verdict::Failed(retry_after), _) => Reply::Failed { reason: "no answer".into(), retry_after },
            (Verdict::Good, Message::Status(_)) => {
                self.served.count(self.time);
                if !std::mem::replace(&mut known.heard, true) {
                    self.heard.count(self.time);
                }
                let job = self.job.iter().filter(|_| !self.answered[host as usize]);
                Reply::Jobs { errcode: Some(0), jobs: job.cloned().map(Ok).collect(), cancel: Vec::new() }
            }
            (Verdict::Good, Message::Results(results)) => {
                self.served.count(self.time);
                for (id, outcome) in results {
                    assert!(!self.answered[host as usize], "job {id} is answered twice: {outcome:?}");
                    assert_eq!(outcome.code as u8, 0, "job {id}: {}", outcome.message);
                    self.answered[host as usize] = true;
                }
                Reply::Taken
            }
        };
        (at, reply)
    }
}
