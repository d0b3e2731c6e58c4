//! A host in memory: it does what the actions say, as reliably as real hosts do, and holds the model to its promises.

mod acts;
mod happens;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bootagent::kernel::{Exit, Pid, Process, Sig, Time};
use bootagent::model::agent::{AgentState, Health};
use bootagent::model::command::Command;
use bootagent::model::event::{
    Action, Client, Definition, Event, Fetched, Message, Now, Origin, Reply, Shutdown, ToolOwner, Usage, Verified,
};
use bootagent::model::job::{Code, Job, JobAction, JobId, RejectedJob, Source};
use bootagent::model::package::{Digest, Format, Tool};
use bootagent::model::record::{AgentRecord, JobRecord, Phase, RunRecord, Settings, Wanted};
use bootagent::model::schedule::parse_servers;
use bootagent::model::spec::{Kind, Name, Spec};
use bootagent::model::state::{Options, Recovered, State, Times};

use crate::policy::{End, Watch};
use crate::random::Random;
use crate::script::{job_definition, package_definition, Mode, Outside, Plan, EVENTFUL};

/// After so long in peace everything must have come to its end.
const PEACE: u64 = 210 * 60 * 1000;

/// A job may take so long, when everything is slow: a download alone takes up to an hour, and others come before it.
const LONGEST: u64 = 3 * 3600 * 1000 * MS;

/// Ticks in a row, at one moment, that may do nothing.
const IDLE_TICKS: u32 = 5;

/// A starter that runs longer is no starter.
const STARTER: Duration = Duration::from_secs(90);

/// The longest line of a history.
const LINE: usize = 300;

const MS: u64 = 1_000_000;

/// A promise that was broken.
type Broken = Result<(), String>;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Role {
    Main,
    Starter,
    Other,
}

#[derive(Clone, Debug)]
struct Live {
    name: Name,
    process: Process,
    role: Role,
    /// It ignores everything but SIGKILL.
    stubborn: bool,
}

/// What the daemon knows of a process it follows.
#[derive(Clone, Debug)]
struct Followed {
    /// It is a child, so that its status is known.
    ours: bool,
    since: Time,
    role: Role,
    /// It was asked to end.
    signalled: bool,
}

#[derive(Clone, Debug)]
enum Due {
    Script(usize),
    Boot,
    Dies(i32, Exit),
    /// An answer to the daemon of this number, and to no later one.
    Answer(u32, Box<Event>),
    ToolEnds(JobId, u64, Exit, String),
}

/// What is on disk.
#[derive(Clone, Debug, Default)]
struct Disk {
    files: BTreeMap<Name, Spec>,
    agents: BTreeMap<Name, AgentRecord>,
    jobs: BTreeMap<JobId, JobRecord>,
    settings: Settings,
    runs: BTreeMap<Name, RunRecord>,
    stop: Option<Time>,
    downloads: BTreeSet<JobId>,
    /// Below `packages/`: package files and directories, with the package they are of; and `current`.
    packages: BTreeMap<(Name, Box<str>), u8>,
    current: BTreeMap<Name, Box<str>>,
    /// The package manager's database.
    installed: BTreeMap<Box<str>, u8>,
    full: bool,
}

pub struct Host<'a> {
    plan: &'a Plan,
    random: Random,
    /// ns since the life began; the monotonic clock begins anew with each boot.
    time: u64,
    booted: u64,
    boots: u32,
    clock: i64,
    agenda: BTreeMap<(u64, u64), Due>,
    count: u64,
    disk: Disk,
    processes: BTreeMap<i32, Live>,
    last_pid: i32,
    hogs: BTreeSet<Name>,

    daemon: Option<State>,
    daemons: u32,
    queue: VecDeque<Event>,
    followed: BTreeMap<i32, Followed>,
    fuse: Option<u32>,
    exchanging: bool,
    fetching: Option<JobId>,
    /// Package tools that this daemon started, by number.
    tools: BTreeMap<JobId, u64>,
    checks: BTreeMap<Name, u32>,
    polled: BTreeMap<Name, bool>,
    /// What each agent was last started by, in this boot.
    started_by: BTreeMap<Name, Spec>,
    sought: BTreeMap<Name, Time>,
    clients: BTreeSet<u32>,
    last_client: u32,
    stopping: Option<Time>,

    linked: BTreeSet<(Name, Box<str>)>,
    mode: Mode,
    jobs: Vec<Job>,
    bad: Vec<Box<str>>,
    cancelled: BTreeSet<JobId>,
    /// Jobs that this daemon was told to cancel before they had changed anything.
    doomed: BTreeSet<JobId>,
    /// Jobs that are on record, since when.
    accepted: BTreeMap<JobId, u64>,
    /// Jobs that are at work on an agent.
    working: BTreeMap<JobId, Name>,
    results: BTreeMap<JobId, Code>,

    watches: BTreeMap<Name, Watch>,
    pub steps: u64,
    pub history: Vec<String>,
    told: bool,
}

impl<'a> Host<'a> {
    pub fn new(plan: &'a Plan, told: bool) -> Host<'a> {
        let mut host = Host {
            plan,
            random: Random(plan.seed ^ 0x5EED),
            time: 0,
            booted: 0,
            boots: 0,
            clock: 0,
            agenda: BTreeMap::new(),
            count: 0,
            disk: Disk::default(),
            processes: BTreeMap::new(),
            last_pid: 100,
            hogs: BTreeSet::new(),
            daemon: None,
            daemons: 0,
            queue: VecDeque::new(),
            followed: BTreeMap::new(),
            fuse: None,
            exchanging: false,
            fetching: None,
            tools: BTreeMap::new(),
            checks: BTreeMap::new(),
            polled: BTreeMap::new(),
            started_by: BTreeMap::new(),
            sought: BTreeMap::new(),
            clients: BTreeSet::new(),
            last_client: 0,
            stopping: None,
            linked: BTreeSet::new(),
            mode: Mode::Good,
            jobs: Vec::new(),
            bad: Vec::new(),
            cancelled: BTreeSet::new(),
            doomed: BTreeSet::new(),
            accepted: BTreeMap::new(),
            working: BTreeMap::new(),
            results: BTreeMap::new(),
            watches: BTreeMap::new(),
            steps: 0,
            history: Vec::new(),
            told,
        };
        host.disk.files = plan.files.iter().map(|spec| (spec.name.clone(), spec.clone())).collect();
        for (index, (at, _)) in plan.script.iter().enumerate() {
            host.at(at * MS, Due::Script(index));
        }
        host.at(0, Due::Boot);
        host
    }

    /// Lives the whole life.
    pub fn live(&mut self) -> Broken {
        self.until((EVENTFUL) * MS)?;
        self.tell(|| "peace".into());
        (self.mode, self.disk.full) = (Mode::Good, false);
        self.until((EVENTFUL + PEACE) * MS)?;
        self.rests()?;
        self.outside(&Outside::Shutdown)?;
        self.until(self.time + 120_000 * MS)
    }

    fn until(&mut self, end: u64) -> Broken {
        self.settle()?;
        let (mut ticked, mut ticks) = (0, 0);
        loop {
            let deadline = self.daemon.as_ref().and_then(State::deadline);
            let deadline = deadline.map(|at| (self.booted + at.0).saturating_sub(5_000 * MS).max(self.time));
            let due = self.agenda.first_key_value().map(|((at, _), _)| *at);
            let Some(next) = [deadline, due].into_iter().flatten().min().filter(|next| *next <= end) else { break };
            self.time = next;
            if due == Some(next) {
                let Some((_, due)) = self.agenda.pop_first() else { break };
                self.happens(due)?;
            } else {
                if ticked != next {
                    (ticked, ticks) = (next, 0);
                }
                ticks += 1;
                if ticks > IDLE_TICKS {
                    return Err(format!("the deadline is stuck at {next}"));
                }
                self.queue.push_back(Event::Tick);
            }
            self.settle()?;
        }
        self.time = end;
        Ok(())
    }

    /// The monotonic clock: a boot takes five seconds.
    fn now(&self) -> Now {
        let time = Time(self.time - self.booted + 5_000 * MS);
        Now { time, wall: (1_700_000_000 + (self.time / 1_000 / MS) as i64 + self.clock) as u64 }
    }

    fn at(&mut self, time: u64, due: Due) {
        self.count += 1;
        self.agenda.insert((time, self.count), due);
    }

    fn later(&mut self, ms: u64, due: Due) {
        self.at(self.time + ms * MS, due);
    }

    /// Answers the daemon that lives now.
    fn answer(&mut self, ms: u64, event: Event) {
        self.later(ms, Due::Answer(self.daemons, Box::new(event)));
    }

    fn tell(&mut self, text: impl FnOnce() -> String) {
        if self.told {
            let line = format!("{:>11.3} {}", self.time as f64 / 1e9, text());
            self.history.push(line);
        }
    }

    fn wears(&mut self) -> bool {
        self.random.chance(self.plan.wear)
    }

    fn watch(&mut self, name: &str) -> &mut Watch {
        self.watches.entry(name.into()).or_insert_with(Watch::new)
    }

    fn life(&self, name: &str) -> Option<&AgentState> {
        self.daemon.as_ref()?.agents().find(|agent| **agent.name() == *name).map(|agent| &agent.state)
    }

    // The loop of the daemon.

    fn settle(&mut self) -> Broken {
        while let Some(event) = self.queue.pop_front() {
            let now = self.now();
            self.before(&event);
            let Some(state) = &mut self.daemon else { break };
            if self.told && !is_routine(&event) {
                let text: String = match &event {
                    Event::Replied(Reply::Jobs { jobs, cancel, .. }) => {
                        format!("{} jobs offered, cancelled {cancel:?}", jobs.len())
                    }
                    event => format!("{event:?}").chars().take(LINE).collect(),
                };
                self.history.push(format!("{:>11.3} > {text}", self.time as f64 / 1e9));
            }
            let mut out = Vec::new();
            let routine = is_routine(&event);
            let late = matches!(event, Event::Tick).then(|| late_starters(state, now.time)).unwrap_or_default();
            state.step(event, now, &mut out);
            for name in late {
                self.watch(&name).ended(End::NotStarted, Duration::ZERO, now.time);
            }
            self.steps += 1;
            if routine && out.is_empty() {
                continue;
            }
            self.note_orders();
            self.perform(out)?;
            self.after()?;
        }
        Ok(())
    }

    /// What the event says about agents, before the model hears of it.
    fn before(&mut self, event: &Event) {
        match event {
            Event::Command(_, Command::Start(name) | Command::Stop(name) | Command::Restart(name)) => {
                self.watch(name).excuse();
            }
            Event::Replied(Reply::Jobs { errcode: Some(_), jobs, cancel }) => {
                for id in cancel {
                    let offered = jobs.iter().any(|job| job.as_ref().is_ok_and(|job| job.id == *id));
                    let record = self.daemon.as_ref().and_then(|state| state.job_record(id));
                    let early = record
                        .map_or(offered && !self.disk.jobs.contains_key(id), |record| record.phase <= Phase::Verified);
                    if early {
                        self.doomed.insert(id.clone());
                    }
                }
            }
            Event::Definitions { .. } | Event::Shutdown(_) => {
                let names: Vec<Name> = self.watches.keys().cloned().collect();
                names.iter().for_each(|name| self.watch(name).excuse());
            }
            Event::Measured(usages) => {
                let now = self.now().time;
                for usage in usages {
                    let Some(limit) = self.daemon.as_ref().and_then(|state| state.spec(&usage.name)?.limits.memory)
                    else {
                        continue;
                    };
                    let polled = self.polled.get(&usage.name).copied().unwrap_or(false);
                    if polled && usage.memory.is_some_and(|memory| memory > limit) {
                        if let Some(AgentState::Running { since, .. }) = self.life(&usage.name) {
                            let ran = now.since(*since);
                            self.watch(&usage.name).ended(End::Forced, ran, now);
                        }
                    }
                }
            }
            Event::Checked(name, exit, _) => {
                let now = self.now().time;
                // What a check of an earlier run says counts no more.
                let Some(AgentState::Running { since, health: Health::Busy { .. }, .. }) = self.life(name) else {
                    return;
                };
                let ran = now.since(*since);
                let failed = self.checks.entry(name.clone()).or_default();
                *failed = if *exit == Exit::Code(0) { 0 } else { *failed + 1 };
                if *failed == 2 {
                    *failed = 0;
                    self.watch(name).ended(End::Forced, ran, now);
                }
            }
            Event::NotStarted { name, .. } => {
                let now = self.now().time;
                let stopping = matches!(self.life(name), Some(AgentState::Stopping(_)));
                self.followed.retain(|pid, _| self.processes.contains_key(pid));
                if !stopping {
                    self.watch(name).ended(End::NotStarted, Duration::ZERO, now);
                }
            }
            Event::MainProcess { name, found: None, left } => {
                let now = self.now().time;
                let sought = self.sought.get(name).copied();
                let (mut seeks, mut runs_since) = (false, None);
                if let Some(AgentState::Forking { starter: None, since, ask, .. }) = self.life(name) {
                    // The next look is later than the search: it runs as long as there is any process of it.
                    runs_since = ask.filter(|(next, until)| next > until).map(|_| *since);
                    seeks = runs_since.is_none();
                }
                if let (Some(since), 0) = (runs_since, left) {
                    self.watch(name).ended(End::Exited(Exit::Unknown), now.since(since), now);
                }
                let startsecs = self
                    .daemon
                    .as_ref()
                    .and_then(|state| state.spec(name))
                    .map_or(Duration::ZERO, |spec| spec.startsecs);
                let longest = startsecs.max(Duration::from_secs(10));
                // What is left may be it: only the processes that live are known.
                let spec = self.daemon.as_ref().and_then(|state| state.spec(name));
                let may_be = *left > 0 && spec.is_none_or(|spec| spec.pidfile.is_none());
                if seeks && !may_be && sought.is_some_and(|since| now.since(since) >= longest) {
                    self.watch(name).ended(End::NotStarted, Duration::ZERO, now);
                }
            }
            _ => {}
        }
    }

    /// Jobs at work on an agent are orders, as long as they are.
    fn note_orders(&mut self) {
        for name in self.working.values() {
            self.watches.entry(name.clone()).or_insert_with(Watch::new).excuse();
        }
    }

    /// Nothing that was promised is broken.
    fn after(&mut self) -> Broken {
        let Some(state) = &self.daemon else { return Ok(()) };
        let now = self.now().time;
        let policy = self.plan.policy;
        let mut watches = std::mem::take(&mut self.watches);
        for agent in state.agents() {
            let name = agent.name();
            let ordered = self.stopping.is_some() || self.working.values().any(|at_work| at_work == name);
            let failures = agent.report(now, policy).failures;
            let spec = agent.definition.as_ref().map(|definition| &*definition.spec);
            let mut watch = watches.remove(name).unwrap_or_else(Watch::new);
            let looked = watch.look(&agent.state, failures, ordered, policy, spec, now);
            looked.map_err(|why| format!("agent {name}: {why}"))?;
            self.watches.insert(name.clone(), watch);
            let by =
                self.started_by.get(name).filter(|_| matches!(agent.state, AgentState::Running { .. }) && !ordered);
            if by.zip(agent.spec().as_ref()).is_some_and(|(by, spec)| !by.is_run_as(spec)) {
                return Err(format!("agent {name} runs by {by:?}, which is no more its definition"));
            }
        }
        if self.stopping.is_some_and(|at| now > at) {
            return Err("the daemon was told to stop, and does not end".into());
        }
        Ok(())
    }

    fn perform(&mut self, actions: Vec<Action>) -> Broken {
        for action in actions {
            if self.fuse == Some(0) {
                self.crash();
            }
            self.fuse = self.fuse.map(|left| left - 1);
            if self.daemon.is_none() {
                break;
            }
            let routine = matches!(action, Action::CountProcesses { .. } | Action::Measure | Action::Check(_))
                || matches!(action, Action::Exchange(_, Message::Status(_)));
            if !routine {
                self.tell(|| format!("  < {action:?}").chars().take(LINE).collect());
            }
            self.act(action)?;
        }
        Ok(())
    }

    // The end.

    /// After a long peace: every job answered, every person too, every agent where it should be.
    fn rests(&self) -> Broken {
        let Some(state) = &self.daemon else { return Err("there is no daemon after hours of peace".into()) };
        // Servers that did not answer may not be asked for a whole step.
        let patient = self.plan.step > Duration::from_secs(3600);
        let waits = |id: &JobId| patient && state.job_record(id).is_some_and(|record| record.phase == Phase::Done);
        for (id, since) in &self.accepted {
            if self.time - since < LONGEST || waits(id) {
                continue;
            }
            if !self.results.contains_key(id) {
                let record = state.job_record(id).map(|record| (record.phase, record.outcome.clone()));
                return Err(format!("job {id} is not answered: {record:?}"));
            }
            // A job whose last record could not be written is answered once more by the next daemon, which does no harm.
            if state.job_record(id).is_some() {
                return Err(format!("job {id} is answered, and not over"));
            }
        }
        if let Some(client) = self.clients.first() {
            return Err(format!("client {client} is not answered"));
        }
        for agent in state.agents() {
            let up = matches!(agent.state, AgentState::Running { .. });
            let given_up = !matches!(agent.state, AgentState::Down) || !agent.is_fresh();
            let name = agent.name();
            match agent.wanted() {
                Wanted::Up if !up && !given_up && agent.definition.is_some() => {
                    return Err(format!("agent {name} should run, and is {:?}", agent.state))
                }
                Wanted::Down if !agent.is_down() => return Err(format!("agent {name} should not run, and does")),
                _ => {}
            }
            let lives = self.processes.values().filter(|live| live.name == *name).count();
            if agent.is_down() != (lives == 0) && !matches!(agent.state, AgentState::Waiting { .. }) {
                return Err(format!("agent {name} is {:?}, and {lives} processes of it live", agent.state));
            }
            let package = agent.record.package.as_ref();
            if let Some(package) = package.filter(|package| package.format == Format::Tar) {
                let dir = package.package.clone();
                if self.disk.packages.get(&(name.clone(), dir.clone())) != Some(&package.digest.0[0]) {
                    return Err(format!("the package of agent {name} is not in {dir}"));
                }
                if self.disk.current.get(name) != Some(&dir) {
                    return Err(format!("the package of agent {name} is {dir}, and not the current one"));
                }
            }
        }
        let strays = self.processes.values().find(|live| state.agents().all(|agent| *agent.name() != live.name));
        if let Some(live) = strays {
            return Err(format!("{live:?} runs, and no agent is known of that name"));
        }
        Ok(())
    }
}

/// Agents whose starter has run for too long.
fn late_starters(state: &State, now: Time) -> Vec<Name> {
    let late = |life: &AgentState| matches!(life, AgentState::Forking { starter: Some(_), since, .. } if now.since(*since) >= STARTER);
    state.agents().filter(|agent| late(&agent.state)).map(|agent| agent.name().clone()).collect()
}

/// Whether an event is of no use to the reader of a history.
fn is_routine(event: &Event) -> bool {
    match event {
        Event::Tick | Event::Measured(_) | Event::ProcessCount(..) | Event::Checked(_, Exit::Code(0), _) => true,
        Event::Replied(Reply::Jobs { jobs, cancel, .. }) => jobs.is_empty() && cancel.is_empty(),
        _ => false,
    }
}

/// The job for whose sake an action changes the host.
fn job_of(action: &Action) -> Option<&JobId> {
    match action {
        Action::Fetch(id)
        | Action::Tool(ToolOwner::Job(id), _)
        | Action::PlacePackage(id, ..)
        | Action::Verify(id, ..)
        | Action::Link(id, ..) => Some(id),
        Action::Unpack { job, .. } | Action::Rename { job, .. } | Action::Inspect { job, .. } => Some(job),
        _ => None,
    }
}

/// The package that a kept file is of: its name begins with the digest.
fn number_of(file: &str) -> u8 {
    u8::from_str_radix(file.get(..2).unwrap_or_default(), 16).unwrap_or_default()
}
