//! A host in memory: it does what the actions say, as reliably as real hosts do, and holds the model to its promises.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bootagent::kernel::{Exit, Pid, Process, Sig, Time};
use bootagent::model::agent::{Health, Life};
use bootagent::model::command::Command;
use bootagent::model::event::{
    Action, Client, Definition, Event, Fetched, Message, Now, Origin, Reply, Shutdown, Usage, Verified,
};
use bootagent::model::job::{Code, Job, JobId, Order, Rejected, Source};
use bootagent::model::pace::parse_servers;
use bootagent::model::package::{Digest, Format, Tool};
use bootagent::model::record::{AgentRecord, JobRecord, Phase, RunRecord, Settings, Wanted};
use bootagent::model::spec::{Kind, Name, Spec};
use bootagent::model::state::{Found, Options, State, Times};

use crate::policy::{End, Watch};
use crate::random::Random;
use crate::script::{job_definition, package_definition, Mode, Outside, Plan, EVENTFUL};

/// After so long in peace everything must have come to its end.
const PEACE: u64 = 150 * 60 * 1000;

/// A job may take so long, when everything is slow.
const LONGEST: u64 = 2 * 3600 * 1000 * MS;

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
    /// It was told to end.
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

    fn life(&self, name: &str) -> Option<&Life> {
        self.daemon.as_ref()?.agents().find(|agent| **agent.name() == *name).map(|agent| &agent.life)
    }

    // What happens.

    fn happens(&mut self, due: Due) -> Broken {
        match due {
            Due::Script(index) => {
                let plan = self.plan;
                let outside = &plan.script[index].1;
                self.tell(|| format!("--- {outside:?}"));
                self.outside(outside)?;
            }
            Due::Boot => self.start_daemon()?,
            Due::Dies(pid, exit) => self.dies(pid, exit),
            Due::Answer(daemon, event) => {
                if daemon == self.daemons && self.daemon.is_some() {
                    self.hear(&event);
                    self.queue.push_back(*event);
                }
            }
            Due::ToolEnds(job, number, exit, output) => self.tool_ends(job, number, exit, output),
        }
        Ok(())
    }

    fn hear(&mut self, event: &Event) {
        match event {
            Event::Replied(_) => self.exchanging = false,
            Event::Fetched(..) => self.fetching = None,
            _ => {}
        }
    }

    fn command(&mut self, command: Command) {
        if self.daemon.is_some() {
            self.last_client += 1;
            self.clients.insert(self.last_client);
            self.queue.push_back(Event::Command(Client(self.last_client), command));
        }
    }

    fn outside(&mut self, outside: &Outside) -> Broken {
        match outside {
            Outside::Offer(job) => self.jobs.push((**job).clone()),
            Outside::OfferBad(id) => self.bad.push(id.clone()),
            Outside::Start(name) => self.command(Command::Start((*name).into())),
            Outside::Stop(name) => self.command(Command::Stop((*name).into())),
            Outside::Restart(name) => self.command(Command::Restart((*name).into())),
            Outside::Status => self.command(Command::Status(None)),
            Outside::Report => self.command(Command::Report),
            Outside::Gone => {
                if self.clients.remove(&self.last_client) {
                    self.queue.push_back(Event::Gone(Client(self.last_client)));
                }
            }
            Outside::Crash(after) => self.fuse = Some(*after),
            Outside::Reboot => self.reboot(),
            Outside::Shutdown if self.daemon.is_some() && self.stopping.is_none() => {
                let longest =
                    self.daemon.iter().flat_map(State::agents).filter_map(|agent| Some(agent.spec()?.stopsecs));
                self.stopping = Some(self.now().time + longest.max().unwrap_or_default() + Duration::from_secs(10));
                self.queue.push_back(Event::Shutdown(Shutdown::Stop));
            }
            Outside::Leave if self.daemon.is_some() => {
                self.queue.push_back(Event::Shutdown(Shutdown::Leave));
                self.stopping = None;
            }
            Outside::Shutdown | Outside::Leave => {}
            Outside::Change(spec) => {
                self.disk.files.insert(spec.name.clone(), (**spec).clone());
                self.reload();
            }
            Outside::Remove(name) => {
                self.disk.files.remove(*name);
                self.reload();
            }
            Outside::Kill(name, exit) => {
                let main = self.processes.iter().find(|(_, live)| *live.name == **name && live.role == Role::Main);
                if let Some(pid) = main.map(|(pid, _)| *pid) {
                    self.dies(pid, *exit);
                }
            }
            Outside::Hog(name) => drop(self.hogs.insert((*name).into())),
            Outside::Clock(by) => self.clock += by,
            Outside::Server(mode) => self.mode = *mode,
            Outside::Disk(full) => self.disk.full = *full,
        }
        Ok(())
    }

    fn reload(&mut self) {
        if self.daemon.is_some() {
            let good = self.definitions();
            self.queue.push_back(Event::Definitions { whole: true, good, problems: Vec::new() });
        }
    }

    fn definitions(&self) -> Vec<Definition> {
        let define = |origin, spec| Definition { origin, spec };
        let mut all: Vec<Definition> =
            self.disk.files.values().map(|spec| define(Origin::File, Box::new(spec.clone()))).collect();
        for record in self.disk.agents.values() {
            all.extend(record.definition.as_deref().and_then(job_definition).map(|spec| define(Origin::Job, spec)));
            let own = record.package.as_ref().and_then(|package| package_definition(package.digest.0[0], &record.name));
            all.extend(own.map(|spec| define(Origin::Package, spec)));
        }
        all
    }

    fn reboot(&mut self) {
        self.crash();
        self.processes.clear();
        self.disk.runs.clear();
        self.hogs.clear();
        self.watches.clear();
        self.started_by.clear();
        self.tools.clear();
        self.agenda.retain(|_, due| matches!(due, Due::Script(_)));
        (self.booted, self.boots) = (self.time, self.boots + 1);
        self.at(self.time, Due::Boot);
    }

    /// The daemon is gone, with all that only it knew, and init starts the next one.
    fn crash(&mut self) {
        if self.daemon.take().is_none() {
            return;
        }
        self.tell(|| "the daemon is gone".into());
        self.queue.clear();
        self.followed.clear();
        (self.fuse, self.exchanging, self.fetching, self.stopping) = (None, false, None, None);
        self.checks.clear();
        self.polled.clear();
        self.sought.clear();
        self.clients.clear();
        self.tools.clear();
        let wait = 1 + self.random.below(5_000);
        self.later(wait, Due::Boot);
    }

    fn start_daemon(&mut self) -> Broken {
        if self.daemon.is_some() {
            return Ok(());
        }
        self.daemons += 1;
        let now = self.now();
        let boot_id: Box<str> = format!("boot-{}", self.boots).into();
        let options = Options {
            hostname: "host".into(),
            version: "1".into(),
            boot_id,
            servers: parse_servers("one:1,two:2")?,
            step: self.plan.step,
            splay: Duration::from_secs(30),
            policy: self.plan.policy,
            times: Times::default(),
            signed: self.plan.signed,
            program: "/bootagent".into(),
            config: "/bootagent.json".into(),
            checksecs: Duration::from_secs(60),
            packages: "/packages".into(),
            seed: self.plan.seed ^ u64::from(self.daemons),
        };
        let mut found = Found {
            settings: self.disk.settings.clone(),
            given: parse_servers(&self.disk.settings.svrlist)?,
            definitions: self.definitions(),
            agents: self.disk.agents.values().cloned().collect(),
            leftovers: self.watches.values().next().is_some(),
            ..Found::default()
        };
        found.identity.sn = "sn".into();
        for record in self.disk.jobs.values() {
            let job = (!record.text.is_empty()).then(|| self.jobs.iter().find(|job| job.text == record.text));
            found.jobs.push((record.clone(), job.flatten().cloned().map(Box::new)));
        }
        let mut adopted = BTreeSet::new();
        for run in self.disk.runs.values() {
            let live = run.process.filter(|process| self.processes.contains_key(&process.pid.raw()));
            found.runs.push((run.clone(), live.is_some()));
            if live.is_some() {
                adopted.insert(run.name.clone());
            }
        }
        let mut strays: BTreeMap<Name, Option<(Process, Time)>> = BTreeMap::new();
        for live in self.processes.values().filter(|live| !adopted.contains(&live.name)) {
            let main = strays.entry(live.name.clone()).or_default();
            if live.role != Role::Other && main.is_none() && self.random.chance(70) {
                *main = Some((live.process, now.time));
            }
        }
        found.strays = strays.clone().into_iter().collect();
        let names: BTreeSet<Name> = self.watches.keys().chain(self.disk.runs.keys()).cloned().collect();
        for name in names {
            let run = self.disk.runs.get(&name).cloned();
            let (alive, stray) = (adopted.contains(&name), strays.contains_key(&name));
            let watch = self.watch(&name);
            watch.found(run.as_ref(), alive, stray, now.time).map_err(|why| format!("agent {name}: {why}"))?;
        }
        let mut out = Vec::new();
        let state = State::new(options, found, now, &mut out);
        self.tell(|| "a daemon starts".into());
        let following: Vec<(Name, Life, Process)> = state
            .agents()
            .filter_map(|agent| Some((agent.name().clone(), agent.life.clone(), agent.process()?)))
            .collect();
        for (name, life, process) in following {
            let Some(live) = self.processes.get(&process.pid.raw()) else { continue };
            let role = live.role;
            let since = match &life {
                Life::Running { since, .. } | Life::Forking { since, .. } => *since,
                _ => now.time,
            };
            self.followed.insert(process.pid.raw(), Followed { ours: false, since, role, signalled: false });
            let poll = state.spec(&name).is_some_and(|spec| !spec.limits.is_empty()) && self.random.chance(10);
            self.polled.insert(name.clone(), poll);
            self.queue.push_back(Event::Attached { name, limits_by: None, poll_cpu: false, poll_memory: poll });
        }
        for agent in state.agents() {
            if matches!(agent.life, Life::Forking { starter: None, .. }) {
                self.sought.insert(agent.name().clone(), now.time);
            }
            // Who should be down is ended, which nobody sees from outside; who was started by another definition, is
            // as good as ordered to start anew.
            let other = self.started_by.get(agent.name()).is_some_and(|known| Some(known) != agent.spec().as_ref());
            if other || agent.wanted() == Wanted::Down || agent.definition.is_none() {
                self.watches.entry(agent.name().clone()).or_insert_with(Watch::new).excuse();
            }
        }
        self.disk.downloads.retain(|id| state.job(id).is_some());
        self.daemon = Some(state);
        self.note_orders();
        self.perform(out)
    }

    fn dies(&mut self, pid: i32, exit: Exit) {
        let Some(live) = self.processes.remove(&pid) else { return };
        self.tell(|| format!("    {} {pid} {exit}", live.name));
        if self.daemon.is_none() {
            return;
        }
        let Some(followed) = self.followed.remove(&pid) else { return self.queue.push_back(Event::Stirred) };
        if live.role == Role::Main {
            self.hogs.remove(&live.name);
        }
        let exit = if followed.ours { exit } else { Exit::Unknown };
        let now = self.now().time;
        let good_start = followed.role == Role::Starter && matches!(exit, Exit::Code(0) | Exit::Unknown);
        if !followed.signalled && !good_start {
            self.watch(&live.name).ended(End::Exited(exit), now.since(followed.since), now);
        }
        if good_start {
            self.sought.insert(live.name.clone(), now);
        }
        let oom = (exit == Exit::Signal(Sig::KILL) && self.random.chance(30)).then(|| "out of memory".into());
        self.queue.push_back(Event::Exited { name: live.name, exit, oom, tail: "last words".into() });
    }

    fn tool_ends(&mut self, job: JobId, number: u64, exit: Exit, output: String) {
        if self.tools.get(&job) == Some(&number) {
            self.tools.remove(&job);
            self.queue.push_back(Event::ToolDone { job, exit, output: output.into() });
        }
    }

    // The loop of the daemon.

    fn settle(&mut self) -> Broken {
        while let Some(event) = self.queue.pop_front() {
            let now = self.now();
            self.before(&event);
            let Some(state) = &mut self.daemon else { break };
            if self.told && !is_routine(&event) {
                let text: String = match &event {
                    Event::Replied(Reply::Jobs { jobs, .. }) => format!("{} jobs offered", jobs.len()),
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
                        if let Some(Life::Running { since, .. }) = self.life(&usage.name) {
                            let ran = now.since(*since);
                            self.watch(&usage.name).ended(End::Forced, ran, now);
                        }
                    }
                }
            }
            Event::Checked(name, exit, _) => {
                let now = self.now().time;
                // What a check of an earlier run says counts no more.
                let Some(Life::Running { since, health: Health::Busy { .. }, .. }) = self.life(name) else { return };
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
                let stopping = matches!(self.life(name), Some(Life::Stopping(_)));
                self.followed.retain(|pid, _| self.processes.contains_key(pid));
                if !stopping {
                    self.watch(name).ended(End::NotStarted, Duration::ZERO, now);
                }
            }
            Event::Main(name, None) => {
                let now = self.now().time;
                let sought = self.sought.get(name).copied();
                let seeks = matches!(self.life(name), Some(Life::Forking { starter: None, .. }));
                if seeks && sought.is_some_and(|since| now.since(since) >= Duration::from_secs(10)) {
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
            let looked = watch.look(&agent.life, failures, ordered, policy, spec, now);
            looked.map_err(|why| format!("agent {name}: {why}"))?;
            self.watches.insert(name.clone(), watch);
            let by = self.started_by.get(name).filter(|_| matches!(agent.life, Life::Running { .. }) && !ordered);
            if by.is_some_and(|by| spec.is_some() && Some(by) != agent.spec().as_ref()) {
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
            let routine = matches!(action, Action::Look { .. } | Action::Measure | Action::Check(_))
                || matches!(action, Action::Exchange(_, Message::Status(_)));
            if !routine {
                self.tell(|| format!("  < {action:?}").chars().take(LINE).collect());
            }
            self.act(action)?;
        }
        Ok(())
    }

    // What the daemon does.

    fn act(&mut self, action: Action) -> Broken {
        if let Some(id) = job_of(&action) {
            let over = self.disk.jobs.get(id).filter(|record| matches!(record.phase, Phase::Done | Phase::Taken));
            if over.is_some() {
                return Err(format!("job {id} is over, and {action:?} is done for it"));
            }
        }
        match action {
            Action::Log(..) | Action::SaveIdentity(_) => {}
            Action::Reload => self.reload(),
            Action::Answer(client, _)
            | Action::AnswerSettled(client, ..)
            | Action::AnswerReport(client, _)
            | Action::AnswerJobs(client, _) => {
                if !self.clients.remove(&client.0) {
                    return Err(format!("{client:?} is answered, and nobody waits"));
                }
            }
            Action::Reexec(..) | Action::Replace(..) => return Err("bootagent was not to be changed".into()),
            Action::Quit(_) => self.quit()?,

            Action::Start(name) => self.start(name)?,
            Action::FindMain(name) => self.find_main(name),
            Action::Signal(name, sig) => self.signal(&name, sig),
            Action::Look { name, .. } => {
                let left = self.processes.values().filter(|live| live.name == name).count();
                self.queue.push_back(Event::Left(name, left as u32));
            }
            Action::Release(name) => {
                if self.processes.values().any(|live| live.name == name) {
                    return Err(format!("agent {name} is thought to be gone, and is not"));
                }
            }
            Action::Measure => self.measure(),
            Action::Check(name) => self.check(name),
            Action::KillCheck(name) => self.answer(10, Event::Checked(name, Exit::Signal(Sig::KILL), "".into())),

            Action::Exchange(server, message) => {
                if std::mem::replace(&mut self.exchanging, true) {
                    return Err("two exchanges at a time".into());
                }
                self.exchange(&server.base, message)?;
            }
            Action::Fetch(id) => self.fetch(id)?,
            Action::CutFetch(id) => {
                if !self.end_fetch(&id) {
                    return Err(format!("the download of {id} is cut, and there is none"));
                }
                self.fetching = Some(id.clone());
                let cut = Fetched::Cut { reason: "others wait".into(), progress: true, retry_after: None };
                self.answer(10, Event::Fetched(id, cut));
            }
            Action::DropDownload(id) => {
                self.disk.downloads.remove(&id);
                self.end_fetch(&id);
            }
            Action::Tool(id, tool) => self.tool(id, tool)?,
            Action::KillTool(id) => {
                if let Some(number) = self.tools.get(&id).copied() {
                    self.later(10, Due::ToolEnds(id, number, Exit::Signal(Sig::KILL), String::new()));
                }
            }
            Action::Place(id, name, file) => {
                let key = (name, file);
                let result = if self.wears() {
                    Err("no space".into())
                } else if self.disk.downloads.remove(&id) {
                    self.disk.packages.insert(key.clone(), number_of(&key.1));
                    Ok(())
                } else if self.disk.packages.contains_key(&key) {
                    Ok(())
                } else {
                    Err("the download is gone".into())
                };
                self.queue.push_back(Event::Placed(id, result));
            }
            Action::Verify(id, _, file) => {
                let digest = Digest([number_of(&file); 32]);
                let result = match self.wears() {
                    true => Verified::Hostile("not signed by a trusted key".into()),
                    false => Verified::Sound(digest),
                };
                self.queue.push_back(Event::Verified(id, result));
            }
            Action::Unpack { job, name, file, dir, .. } => self.unpack(job, name, file, dir),
            Action::Rename { job, name, from, to } => {
                let moved = if self.wears() { None } else { self.disk.packages.remove(&(name.clone(), from)) };
                let result = moved.ok_or("cannot move".into());
                let result = result.map(|number| self.disk.packages.extend([((name, to), number)]));
                self.queue.push_back(Event::Placed(job, result));
            }
            Action::Inspect { job, name, dir, text } => self.inspect(job, &name, dir, text),
            Action::Link(id, name, dir) => {
                // The way back is a link that was there before. No wear hits it: there is no way back from that.
                let known = self.linked.contains(&(name.clone(), dir.clone()));
                let there = self.disk.packages.contains_key(&(name.clone(), dir.clone())) && (known || !self.wears());
                if there {
                    self.linked.insert((name.clone(), dir.clone()));
                    self.disk.current.insert(name, dir);
                }
                self.queue.push_back(Event::Placed(id, if there { Ok(()) } else { Err("not there".into()) }));
            }
            Action::DropPackage(name, files) => {
                self.disk.packages.retain(|(of, file), _| *of != name || !files.is_empty() && !files.contains(file));
                if files.is_empty() {
                    self.disk.current.remove(&name);
                }
            }

            Action::SaveJob(record) => self.save_job(*record)?,
            Action::FreshenJob(id, seq) => {
                if let Some(record) = self.disk.jobs.get_mut(&id) {
                    record.seq = seq;
                }
            }
            Action::DropJob(id) => drop(self.disk.jobs.remove(&id)),
            Action::SaveAgent(record) => drop(self.disk.agents.insert(record.name.clone(), *record)),
            Action::DropAgent(name) => {
                self.disk.agents.remove(&name);
                self.disk.runs.remove(&name);
                // One of its name that comes later is another one.
                self.watches.insert(name.clone(), Watch::new());
                if self.processes.values().any(|live| live.name == name) && self.life(&name).is_none() {
                    return Err(format!("agent {name} is forgotten, and runs"));
                }
            }
            Action::SaveSettings(settings) => self.disk.settings = settings,
            Action::SaveRun(run) => drop(self.disk.runs.insert(run.name.clone(), *run)),
        }
        Ok(())
    }

    fn quit(&mut self) -> Broken {
        if self.stopping.is_some_and(|at| self.now().time < at) {
            if let Some(live) = self.processes.values().next() {
                return Err(format!("the daemon ends in time, and agent {} runs", live.name));
            }
        }
        let waiting: Vec<u32> = self.clients.iter().copied().collect();
        if self.stopping.is_some() && !waiting.is_empty() {
            return Err(format!("clients {waiting:?} are not answered"));
        }
        self.crash();
        Ok(())
    }

    fn start(&mut self, name: Name) -> Broken {
        if self.stopping.is_some() {
            return Err(format!("agent {name} is started in a shutdown"));
        }
        if let Some(live) = self.processes.values().find(|live| live.name == name) {
            return Err(format!("a second copy of agent {name} is started beside {:?}", live.process));
        }
        let now = self.now().time;
        self.watch(&name).started(now).map_err(|why| format!("agent {name}: {why}"))?;
        let Some(spec) = self.daemon.as_ref().and_then(|state| state.spec(&name)) else {
            return Err(format!("agent {name} is started without a definition"));
        };
        self.started_by.insert(name.clone(), spec.clone());
        if self.wears() {
            self.queue.push_back(Event::NotStarted { name, reason: "making a process: no memory".into() });
            return Ok(());
        }
        let role = if spec.kind == Kind::Forking { Role::Starter } else { Role::Main };
        let process = self.process(&name, role);
        self.sought.remove(&name);
        self.checks.remove(&name);
        let pid = process.pid.raw();
        self.followed.insert(pid, Followed { ours: true, since: now, role, signalled: false });
        let poll_memory = !spec.limits.is_empty() && self.random.chance(10);
        self.polled.insert(name.clone(), poll_memory);
        self.queue.push_back(Event::Started {
            name: name.clone(),
            process,
            limits_by: None,
            poll_cpu: false,
            poll_memory,
        });
        if self.wears() {
            self.processes.remove(&pid);
            self.queue.push_back(Event::NotStarted { name, reason: "executing the program: not there".into() });
            return Ok(());
        }
        if role == Role::Starter {
            // It hangs, gives up, or leaves an agent behind.
            if !self.wears() {
                let exit = if self.wears() { Exit::Code(1) } else { Exit::Code(0) };
                let after = self.random.below(2_000);
                self.later(after, Due::Dies(pid, exit));
            }
            if !self.wears() {
                let main = self.process(&name, Role::Main);
                self.ends_some_day(main.pid.raw());
            }
        } else {
            self.ends_some_day(pid);
        }
        while self.random.chance(20) {
            let other = self.process(&name, Role::Other);
            if self.random.chance(50) {
                let after = self.random.below(600_000);
                self.later(after, Due::Dies(other.pid.raw(), Exit::Code(0)));
            }
        }
        Ok(())
    }

    fn process(&mut self, name: &Name, role: Role) -> Process {
        self.last_pid += 1;
        let pid = Pid::new(self.last_pid).expect("pids are above 1 here");
        let process = Process { pid, ticks: self.time / (10 * MS) };
        let stubborn = self.random.chance(20);
        self.processes.insert(self.last_pid, Live { name: name.clone(), process, role, stubborn });
        process
    }

    fn ends_some_day(&mut self, pid: i32) {
        let after = match self.random.below(12) {
            0 | 1 => self.random.below(20_000),
            2 | 3 => self.random.below(900_000),
            4 => self.random.below(7_200_000),
            _ => return,
        };
        let exits = [Exit::Code(0), Exit::Code(1), Exit::Code(7), Exit::Signal(Sig::KILL), Exit::Signal(Sig::HUP)];
        let exit = self.random.pick(&exits);
        self.later(after, Due::Dies(pid, exit));
    }

    fn find_main(&mut self, name: Name) {
        let main = self.processes.values().filter(|live| live.name == name && live.role != Role::Starter);
        let main = main.min_by_key(|live| live.process.pid).map(|live| live.process);
        if let Some(process) = main {
            let since = match self.life(&name) {
                Some(Life::Forking { since, .. }) => *since,
                _ => self.now().time,
            };
            let followed = Followed { ours: true, since, role: Role::Main, signalled: false };
            self.followed.insert(process.pid.raw(), followed);
        }
        self.queue.push_back(Event::Main(name, main));
    }

    fn signal(&mut self, name: &str, sig: Sig) {
        let tree: Vec<(i32, bool)> = self
            .processes
            .iter()
            .filter(|(_, live)| *live.name == *name)
            .map(|(pid, live)| (*pid, live.stubborn))
            .collect();
        for (pid, stubborn) in tree {
            if let Some(followed) = self.followed.get_mut(&pid) {
                followed.signalled = true;
            }
            if sig == Sig::KILL {
                // Some hang in the kernel for a while.
                let after = if self.wears() { self.random.below(20_000) } else { self.random.below(50) };
                self.later(after, Due::Dies(pid, Exit::Signal(Sig::KILL)));
            } else if !stubborn {
                let after = self.random.below(5_000);
                let exit = if self.random.chance(50) { Exit::Code(0) } else { Exit::Signal(sig) };
                self.later(after, Due::Dies(pid, exit));
            }
        }
    }

    fn measure(&mut self) {
        let Some(state) = &self.daemon else { return };
        let names: Vec<Name> =
            state.agents().filter(|agent| !agent.is_down()).map(|agent| agent.name().clone()).collect();
        let usages = names.into_iter().map(|name| {
            let memory = Some(if self.hogs.contains(&name) { 1 << 30 } else { 1 << 10 });
            Usage { name, cpu: Some(Duration::from_nanos(self.time / 100)), memory }
        });
        let usages = usages.collect();
        self.queue.push_back(Event::Measured(usages));
    }

    fn check(&mut self, name: Name) {
        let sick = self.processes.values().find(|live| live.name == name && live.role == Role::Main);
        let sick = sick.is_some_and(|live| live.process.pid.raw() % 5 == 0);
        let exit = if sick || self.wears() { Exit::Code(1) } else { Exit::Code(0) };
        if !self.wears() {
            let after = self.random.below(9_000);
            self.answer(after, Event::Checked(name, exit, "".into()));
        }
    }

    fn exchange(&mut self, server: &str, message: Message) -> Broken {
        let mode = if self.wears() { Mode::Garbage } else { self.mode };
        let failed = |reason: &str, retry_after| Reply::Failed { reason: reason.into(), retry_after };
        let after = if mode == Mode::Silent { 30_000 } else { self.random.below(500) };
        let reply = match (mode, message) {
            (Mode::Silent, _) => failed("it says nothing", None),
            (Mode::Garbage, _) => failed("it talks rubbish", None),
            (Mode::Busy, _) => failed("it is busy", Some(self.random.below(4_000))),
            (mode, Message::Status(_)) => {
                let new = server.contains("new");
                if new && self.random.chance(50) {
                    failed("it is not there", None)
                } else if mode == Mode::Losing {
                    failed("the answer was cut", None)
                } else {
                    let errcode = if new && self.random.chance(20) { None } else { Some(0) };
                    Reply::Jobs { errcode, jobs: self.offers() }
                }
            }
            (Mode::Refusing, Message::Results(_)) => Reply::NotTaken("errcode 5".into()),
            (mode, Message::Results(results)) => {
                if results.is_empty() || results.len() > 64 {
                    return Err(format!("{} results in an exchange", results.len()));
                }
                for (id, outcome) in results {
                    let known = *self.results.entry(id.clone()).or_insert(outcome.code);
                    if known != outcome.code {
                        return Err(format!("job {id} had the result {known:?}, and now has {outcome:?}"));
                    }
                }
                if mode == Mode::Losing {
                    failed("the answer was cut", None)
                } else {
                    Reply::Taken
                }
            }
        };
        self.answer(after, Event::Replied(reply));
        Ok(())
    }

    /// The servers offer what they have no result of, and now and then what they have one of.
    fn offers(&mut self) -> Vec<Result<Job, Rejected>> {
        let again = self.random.chance(20);
        let wanted = |id: &JobId| again || !self.results.contains_key(id);
        let mut offers: Vec<Result<Job, Rejected>> =
            self.jobs.iter().filter(|job| wanted(&job.id)).cloned().map(Ok).collect();
        for id in self.bad.iter().filter(|id| wanted(id)) {
            let message = "action: missing".into();
            let rejected =
                Rejected { id: Some(id.clone()), code: Code::BadJob, message, action: "".into(), name: "".into() };
            offers.push(Err(rejected));
        }
        offers
    }

    fn job(&self, id: &str) -> Option<&Job> {
        self.daemon.as_ref()?.job(id)
    }

    fn source(&self, id: &str) -> Result<Source, String> {
        match self.job(id).map(|job| &job.order) {
            Some(Order::Install(source) | Order::Upgrade(source)) => Ok(source.clone()),
            _ => Err(format!("job {id} has no package")),
        }
    }

    fn fetch(&mut self, id: JobId) -> Broken {
        if let Some(other) = self.fetching.replace(id.clone()) {
            return Err(format!("the downloads of {other} and {id} run at once"));
        }
        let source = self.source(&id)?;
        let resumed = !self.disk.downloads.insert(id.clone());
        let mut wrong = source.digest;
        wrong.0[1] = 0;
        let fetched = match self.random.below(if self.plan.wear == 0 { 1 } else { 8 }) {
            1 => Fetched::Cut { reason: "cut".into(), progress: self.random.chance(50), retry_after: None },
            2 => Fetched::Refused { reason: "not there".into() },
            3 => Fetched::Whole { digest: wrong, doubtful: resumed },
            _ => Fetched::Whole { digest: source.digest, doubtful: resumed },
        };
        let slow = if self.random.chance(5) { 60 } else { 1 };
        let after = self.random.below(60_000 * slow);
        self.answer(after, Event::Fetched(id, fetched));
        Ok(())
    }

    /// Ends a download, and whether there was one.
    fn end_fetch(&mut self, id: &str) -> bool {
        let ends = self.fetching.as_deref() == Some(id);
        if ends {
            self.fetching = None;
            self.agenda.retain(|_, due| !matches!(due, Due::Answer(_, event) if matches!(**event, Event::Fetched(..))));
        }
        ends
    }

    fn tool(&mut self, id: JobId, tool: Tool) -> Broken {
        if self.tools.contains_key(&id) {
            return Err(format!("two package tools of job {id} run at once"));
        }
        let argv: Vec<&str> = tool.argv.iter().map(|arg| &**arg).collect();
        let last = argv.last().copied().unwrap_or_default();
        let fails = self.wears();
        let (exit, output) = match argv[0] {
            _ if fails && self.random.chance(50) => (Exit::Code(2), "database is locked"),
            _ if fails => (Exit::Code(1), "broken"),
            "dpkg-deb" => (Exit::Code(0), "Package: agent-package\nVersion: 3\n"),
            "sh" => (Exit::Code(i32::from(!self.disk.installed.contains_key(last))), ""),
            _ => (Exit::Code(0), "fine"),
        };
        if exit == Exit::Code(0) && argv[0] == "dpkg" {
            let name = self.job(&id).map(|job| job.name.clone()).unwrap_or_default();
            if argv.contains(&"-i") {
                let file: Box<str> = last.rsplit('/').next().unwrap_or_default().into();
                if !self.disk.packages.contains_key(&(name, file.clone())) {
                    return Err(format!("job {id}: {last} is installed, and is not there"));
                }
                self.disk.installed.insert("agent-package".into(), number_of(&file));
            } else if argv.contains(&"-P") {
                self.disk.installed.remove(last);
            }
        }
        self.count += 1;
        let number = self.count;
        self.tools.insert(id.clone(), number);
        let hangs = self.random.chance(self.plan.wear / 2);
        if !hangs {
            let after = self.random.below(30_000);
            self.later(after, Due::ToolEnds(id, number, exit, output.into()));
        }
        Ok(())
    }

    fn unpack(&mut self, job: JobId, name: Name, file: Box<str>, dir: Box<str>) {
        let package = self.disk.packages.get(&(name.clone(), file)).copied();
        let result = match package {
            None => Err("the package is gone".into()),
            Some(_) if self.wears() => Err("damaged".into()),
            Some(number) => {
                self.disk.packages.insert((name, dir), number);
                Ok(())
            }
        };
        let after = self.random.below(5_000);
        self.answer(after, Event::Unpacked(job, result));
    }

    fn inspect(&mut self, job: JobId, name: &Name, dir: Box<str>, text: Option<Box<str>>) {
        let number = if dir.is_empty() {
            self.disk.installed.get("agent-package").copied()
        } else {
            self.disk.packages.get(&(name.clone(), dir)).copied()
        };
        let result = match text {
            _ if self.wears() => Err("unreadable".into()),
            Some(text) => Ok(job_definition(&text)),
            None => Ok(number.and_then(|number| package_definition(number, name))),
        };
        self.queue.push_back(Event::Inspected(job, result));
    }

    fn save_job(&mut self, record: JobRecord) -> Broken {
        let id = record.id.clone();
        let over = |phase| matches!(phase, Phase::Done | Phase::Taken);
        if let Some(known) = self.disk.jobs.get(&id).filter(|known| over(known.phase)) {
            if !over(record.phase) || known.outcome != record.outcome {
                return Err(format!("job {id} was over, and is run again: {record:?}"));
            }
        }
        let result = if self.disk.full {
            Err("no space left on device".into())
        } else {
            self.accepted.entry(id.clone()).or_insert(self.time);
            match record.phase {
                Phase::Installing | Phase::Starting | Phase::Settling => {
                    self.working.insert(id.clone(), record.name.clone());
                }
                _ => drop(self.working.remove(&id)),
            }
            self.disk.jobs.insert(id.clone(), record);
            Ok(())
        };
        self.queue.push_back(Event::Saved(id, result));
        Ok(())
    }

    // The end.

    /// After a long peace: every job answered, every person too, every agent where it should be.
    fn rests(&self) -> Broken {
        let Some(state) = &self.daemon else { return Err("there is no daemon after hours of peace".into()) };
        // Servers that did not answer may be left alone for a whole step.
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
            // One whose last record could not be written is answered once more by the next daemon, which harms nobody.
            if state.job_record(id).is_some() {
                return Err(format!("job {id} is answered, and not over"));
            }
        }
        if let Some(client) = self.clients.first() {
            return Err(format!("client {client} is not answered"));
        }
        for agent in state.agents() {
            let up = matches!(agent.life, Life::Running { .. });
            let given_up = !matches!(agent.life, Life::Down) || !agent.is_fresh();
            let name = agent.name();
            match agent.wanted() {
                Wanted::Up if !up && !given_up && agent.definition.is_some() => {
                    return Err(format!("agent {name} should run, and is {:?}", agent.life))
                }
                Wanted::Down if !agent.is_down() => return Err(format!("agent {name} should not run, and does")),
                _ => {}
            }
            let lives = self.processes.values().filter(|live| live.name == *name).count();
            if agent.is_down() != (lives == 0) && !matches!(agent.life, Life::Waiting { .. }) {
                return Err(format!("agent {name} is {:?}, and {lives} processes of it live", agent.life));
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
    let late =
        |life: &Life| matches!(life, Life::Forking { starter: Some(_), since, .. } if now.since(*since) >= STARTER);
    state.agents().filter(|agent| late(&agent.life)).map(|agent| agent.name().clone()).collect()
}

/// Whether an event says nothing to who reads a history.
fn is_routine(event: &Event) -> bool {
    match event {
        Event::Tick | Event::Measured(_) | Event::Left(..) | Event::Checked(_, Exit::Code(0), _) => true,
        Event::Replied(Reply::Jobs { jobs, .. }) => jobs.is_empty(),
        _ => false,
    }
}

/// The job for whose sake an action changes the host.
fn job_of(action: &Action) -> Option<&JobId> {
    match action {
        Action::Fetch(id)
        | Action::Tool(id, _)
        | Action::Place(id, ..)
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
