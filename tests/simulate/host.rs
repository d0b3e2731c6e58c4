//! A host in memory: it does what the actions say, as reliably as real hosts do, and holds the model to its promises.

mod acts;
mod agents;
mod happens;
mod packages;
mod promises;
mod servers;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bootagent::kernel::{Exit, Pid, Process, Sig, Time};
use bootagent::model::agent::{AgentState, Health};
use bootagent::model::command::Command;
use bootagent::model::enforcement::{Enforcement, Polled};
use bootagent::model::event::{
    Action, Client, Definition, Event, Fetched, Message, Notification, Now, Origin, Reply, Scope, Shutdown, ToolOwner,
    Usage, Verified,
};
use bootagent::model::job::{Code, Job, JobAction, JobId, RejectedJob, Source};
use bootagent::model::package::{Digest, Format, Tool};
use bootagent::model::record::{AgentRecord, JobRecord, Phase, RunRecord, Settings, Wanted};
use bootagent::model::schedule::parse_servers;
use bootagent::model::spec::{KillMode, Kind, Name, Spec};
use bootagent::model::state::{Options, Recovered, State, Times};

use self::promises::late_starts;
use crate::policy::{End, Watch};
use crate::random::Random;
use crate::script::{job_definition, package_definition, Mode, Outside, Plan, EVENTFUL, PRESTART};

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
    Prestart,
    Other,
}

#[derive(Clone, Debug)]
struct Live {
    name: Name,
    process: Process,
    role: Role,
    /// It ignores everything but SIGKILL.
    stubborn: bool,
    /// An earlier run has left it, and it is not the agent's to end.
    spared: bool,
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
    /// A main process says that it is ready.
    Says(i32),
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
    /// Agents whose `prestart` was started, and which were not started themselves since.
    prepared: BTreeSet<Name>,
    /// Agents that had a definition in this boot with which a stop leaves processes.
    may_spare: BTreeSet<Name>,
    /// Agents that were taken over and may have said that they are ready when no daemon listened.
    unheard: BTreeSet<Name>,
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
            prepared: BTreeSet::new(),
            may_spare: BTreeSet::new(),
            unheard: BTreeSet::new(),
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
            let late = matches!(event, Event::Tick).then(|| late_starts(state, now.time)).unwrap_or_default();
            state.step(event, now, &mut out);
            for name in late {
                self.is_late(&name, now.time);
            }
            self.steps += 1;
            if routine && out.is_empty() {
                continue;
            }
            self.note_orders();
            self.note_kill_modes();
            self.perform(out)?;
            self.after()?;
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
}

/// Whether an event is of no use to the reader of a history.
fn is_routine(event: &Event) -> bool {
    match event {
        Event::Tick | Event::Measured(_) | Event::ProcessCount(..) | Event::Checked(_, Exit::Code(0), _) => true,
        Event::Replied(Reply::Jobs { jobs, cancel, .. }) => jobs.is_empty() && cancel.is_empty(),
        _ => false,
    }
}

/// The package that a kept file is of: its name begins with the digest.
fn number_of(file: &str) -> u8 {
    u8::from_str_radix(file.get(..2).unwrap_or_default(), 16).unwrap_or_default()
}

/// What enforces limits of which the daemon polls that of memory, or none.
fn polls_memory(memory: bool) -> Enforcement {
    Enforcement { by: None, polled: Polled { cpu: false, memory } }
}
