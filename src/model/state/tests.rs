//! Jobs, clients on the host and servers, each tested with a state of its own. `tests/simulate.rs` mixes them all.
//!
//! A `Bench` is the host around a state: it answers at once what needs no decision of the test, and keeps all actions. The
//! host of `tests/simulate.rs` is another one on purpose. There everything has its time, goes wrong by chance, and is judged by
//! rules that hold for every life. Here a test says what happens next, sees each action, and looks into the state, which no
//! test outside of the crate can. Of what the two do, only the names of the actions are the same.

mod agents;
mod cancel;
mod downloads;
mod formats;
mod inventory;
mod jobs;
mod meanwhile;
mod own;
mod queue;
mod results;
mod resumed;
mod shutdown;
mod undo;
mod unread;

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use super::incidents::INCIDENTS;
use super::*;
use crate::kernel::{Exit, Pid, Process, Sig};
use crate::model::agent::AgentState;
use crate::model::command::Command;
use crate::model::enforcement::{Enforcement, Polled};
use crate::model::event::{Definition, Fetched, Message, Reply, Scope, ToolOwner, Verified};
use crate::model::job::{Code, Job, JobAction, RejectedJob, Source};
use crate::model::package::{Digest, Format};
use crate::model::record::Wanted;
use crate::model::reexec_state::ReexecState;
use crate::model::restart::Policy;
use crate::model::schedule::parse_servers;
use crate::model::spec::Kind;

/// A state and its host.
struct Bench {
    state: State,
    now: Now,
    /// All actions since the last look at them.
    done: Vec<Action>,
    /// The records on disk.
    jobs: BTreeMap<JobId, JobRecord>,
    agents: BTreeMap<Name, AgentRecord>,
    settings: Settings,
    definitions: Vec<Definition>,
    /// Every job that a server has offered.
    offered: Vec<Job>,
    /// The disk is full: records of jobs cannot be written.
    full: bool,
    /// The record of this job cannot be written.
    unwritable: JobId,
    /// What the package manager has: whether the package is installed.
    installed: bool,
    last_pid: i32,
}

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn options() -> Options {
    Options {
        hostname: "host".into(),
        version: "1".into(),
        boot_id: "boot".into(),
        servers: parse_servers("one:1").unwrap(),
        step: secs(600),
        splay: Duration::ZERO,
        policy: Policy { restartsecs: secs(180), windowsecs: secs(900), retries: 3 },
        checksecs: secs(60),
        times: Times::default(),
        packages: "/packages".into(),
        signed: false,
        keyed: false,
        closed: None,
        program: "/bootagent".into(),
        config: "/bootagent.json".into(),
        seed: 1,
    }
}

fn spec(name: &str) -> Spec {
    Spec::new(name, "1", vec!["/bin/agent".into()])
}

fn file(spec: Spec) -> Definition {
    Definition { origin: Origin::File, spec: Box::new(spec) }
}

/// A job that installs or upgrades to a tar whose digest and version are this number.
fn package(id: &str, name: &str, number: u8, upgrade: bool) -> Job {
    let source = Source { url: "http://p/a.tar".into(), digest: Digest([number; 32]), format: Format::Tar };
    let mut job = Job::new(id, name, if upgrade { JobAction::Upgrade(source) } else { JobAction::Install(source) });
    job.definition = Some(Box::new(spec(name)));
    job.definition_text = name.into();
    job.version = Some(number.to_string().into());
    job
}

impl Bench {
    /// A host with the agents defined by these.
    fn new(specs: Vec<Spec>) -> Bench {
        let now = Now { time: Time::new(1000, 0), wall: 1_700_001_000 };
        let definitions: Vec<Definition> = specs.into_iter().map(file).collect();
        let mut bench = Bench {
            state: State::new(options(), Recovered::default(), now, &mut Vec::new()),
            now,
            done: Vec::new(),
            jobs: BTreeMap::new(),
            agents: BTreeMap::new(),
            settings: Settings::default(),
            definitions,
            offered: Vec::new(),
            full: false,
            unwritable: "".into(),
            installed: false,
            last_pid: 100,
        };
        bench.restart_daemon();
        bench
    }

    /// Another daemon takes over what is on record. Nothing else of the former one is left.
    fn restart_daemon(&mut self) {
        self.start_version("1", None, None);
    }

    /// A daemon of this version takes over what is on record, and what the binary left that executed it; `undone`: what
    /// the watcher of a new binary reported.
    fn start_version(&mut self, version: &str, before: Option<ReexecState>, undone: Option<&str>) {
        self.start_with(Options { version: version.into(), ..options() }, before, undone);
    }

    /// The same of a daemon with these options.
    fn start_with(&mut self, options: Options, before: Option<ReexecState>, undone: Option<&str>) {
        let read = |record: &JobRecord| self.offered.iter().find(|job| job.text == record.text).cloned().map(Rc::new);
        let recovered = Recovered {
            definitions: self.definitions.clone(),
            agents: self.agents.values().cloned().collect(),
            jobs: self.jobs.values().map(|record| (record.clone(), read(record))).collect(),
            settings: self.settings.clone(),
            reexec: before,
            undone: undone.map(Box::from),
            ..Recovered::default()
        };
        let mut out = Vec::new();
        self.state = State::new(options, recovered, self.now, &mut out);
        self.done.clear();
        self.answer(out);
    }

    /// The records of jobs are as 1.0.0 writes them.
    fn forget_steps(&mut self) {
        self.jobs.values_mut().for_each(|record| record.step = None);
    }

    fn step(&mut self, event: Event) {
        let mut out = Vec::new();
        self.state.step(event, self.now, &mut out);
        self.answer(out);
    }

    /// Does what can be done at once and gives the state the events that follow, until there are none.
    fn answer(&mut self, actions: Vec<Action>) {
        let mut actions = VecDeque::from(actions);
        let mut events = VecDeque::new();
        loop {
            while let Some(action) = actions.pop_front() {
                events.extend(self.act(&action));
                self.done.push(action);
            }
            let Some(event) = events.pop_front() else { return };
            let mut out = Vec::new();
            self.state.step(event, self.now, &mut out);
            actions.extend(out);
        }
    }

    fn act(&mut self, action: &Action) -> Option<Event> {
        match action {
            Action::Start(name) => {
                self.last_pid += 1;
                let process = Process { pid: Pid::new(self.last_pid).unwrap(), ticks: 1 };
                let name = name.clone();
                let enforcement = Enforcement { by: None, polled: Polled { cpu: false, memory: true } };
                return Some(Event::Started { name, process, enforcement });
            }
            Action::SaveJob(record) if self.full || record.id == self.unwritable => {
                return Some(Event::Saved(record.id.clone(), Err("no space".into())));
            }
            Action::SaveJob(record) => {
                self.jobs.insert(record.id.clone(), (**record).clone());
                return Some(Event::Saved(record.id.clone(), Ok(())));
            }
            Action::RemoveJob(id) => drop(self.jobs.remove(id)),
            Action::Measure => return Some(Event::Measured(Vec::new())),
            Action::SaveAgent(record) => drop(self.agents.insert(record.name.clone(), (**record).clone())),
            Action::RemoveAgent(name) => drop(self.agents.remove(name)),
            Action::SaveSettings(settings) => self.settings = settings.clone(),
            _ => {}
        }
        None
    }

    /// Lets time pass, with every tick that the state wants.
    fn pass(&mut self, time: Duration) {
        let end = self.now.time + time;
        while let Some(at) = self.state.deadline().filter(|at| *at <= end) {
            self.at(at.max(self.now.time));
            self.step(Event::Tick);
            if self.done.contains(&Action::Quit(0)) {
                return;
            }
            let next = self.state.deadline();
            assert!(next.is_none_or(|next| next > self.now.time), "a deadline in the past after a tick");
        }
        self.at(end);
    }

    fn at(&mut self, time: Time) {
        self.now = Now { time, wall: 1_700_000_000 + time.0 / 1_000_000_000 };
    }

    /// Answers a status, if one is under way, so that results may follow.
    fn answer_status(&mut self) {
        if self.is_asking() && !self.state.exchanges.sends_results() {
            self.step(Event::Replied(Reply::Jobs { errcode: Some(0), jobs: Vec::new(), cancel: Vec::new() }));
        }
    }

    /// The actions since the last look that `wanted` picks; all of them are forgotten.
    fn take<T>(&mut self, wanted: impl Fn(&Action) -> Option<T>) -> Vec<T> {
        std::mem::take(&mut self.done).iter().filter_map(wanted).collect()
    }

    fn offer(&mut self, jobs: Vec<Job>) {
        self.offered.extend(jobs.clone());
        self.reply_jobs(jobs.into_iter().map(Ok).collect());
    }

    fn reply_jobs(&mut self, jobs: Vec<Result<Job, RejectedJob>>) {
        while self.is_asking() && self.state.exchanges.sends_results() {
            self.step(Event::Replied(Reply::Taken));
        }
        if !self.is_asking() {
            self.state.exchanges.schedule.request_report();
            self.step(Event::ProcessesChanged);
        }
        self.step(Event::Replied(Reply::Jobs { errcode: Some(0), jobs, cancel: Vec::new() }));
    }

    /// Whether an answer of a server is awaited.
    fn is_asking(&self) -> bool {
        self.state.exchanges.schedule.asking().is_some()
    }

    fn agent_ends(&mut self, name: &str, exit: Exit) {
        let pid = self.state.agents.get(name).and_then(Agent::process).expect("it runs").pid;
        self.step(Event::Exited { name: name.into(), pid, exit, oom: None, tail: "".into() });
        self.step(Event::ProcessCount(name.into(), 0));
    }

    fn agent_state(&self, name: &str) -> AgentState {
        self.state.agents.get(name).map_or(AgentState::Down, |agent| agent.state.clone())
    }

    fn runs(&self, name: &str) -> bool {
        matches!(self.agent_state(name), AgentState::Running { .. })
    }

    fn phase(&self, id: &str) -> Option<Phase> {
        self.state.job_record(id).map(|record| record.phase)
    }

    fn code(&self, id: &str) -> Option<Code> {
        self.jobs.get(id)?.outcome.as_ref().filter(|_| self.jobs[id].phase >= Phase::Done).map(|outcome| outcome.code)
    }

    /// Answers all that a job with a tar asks until the agent is stopped for it.
    fn deliver(&mut self, id: &str, number: u8) {
        self.step(Event::Fetched(id.into(), Fetched::Whole { digest: Digest([number; 32]), doubtful: false }));
        self.step(Event::Verified(id.into(), Verified::Sound(Digest([number; 32]))));
        self.step(Event::Placed(id.into(), Ok(())));
        self.step(Event::Unpacked(id.into(), Ok(())));
        self.step(Event::Inspected(id.into(), Ok(None)));
        self.step(Event::Placed(id.into(), Ok(())));
    }

    /// A host with an agent that a job has installed and that runs.
    fn installed(name: &str) -> Bench {
        let mut bench = Bench::new(Vec::new());
        bench.offer(vec![package("first", name, 1, false)]);
        bench.deliver("first", 1);
        bench.step(Event::Placed("first".into(), Ok(())));
        bench.pass(secs(10));
        assert_eq!(bench.code("first"), Some(Code::Success));
        bench.definitions = vec![Definition { origin: Origin::Job, spec: Box::new(spec(name)) }];
        bench
    }
}

fn starts(action: &Action) -> Option<Name> {
    match action {
        Action::Start(name) => Some(name.clone()),
        _ => None,
    }
}

fn answers(action: &Action) -> Option<(u32, u8)> {
    match action {
        Action::Answer(client, answer) | Action::AnswerSettled(client, _, answer) => Some((client.0, answer.code)),
        _ => None,
    }
}

fn results(action: &Action) -> Option<Vec<(JobId, Code)>> {
    match action {
        Action::Exchange(_, Message::Results(results)) => {
            Some(results.iter().map(|(id, outcome)| (id.clone(), outcome.code)).collect())
        }
        _ => None,
    }
}
