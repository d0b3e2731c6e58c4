//! Jobs, clients on the host and servers, each tested with a state of its own. `tests/simulate.rs` mixes them all.
//!
//! A `Bench` is the host around a state: it answers at once what needs no decision of the test, and keeps all actions.

mod cancel;
mod jobs;
mod unread;
mod own;
mod results;
mod undo;

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use super::incidents::INCIDENTS;
use super::*;
use crate::kernel::{Exit, Pid, Process, Sig};
use crate::model::agent::AgentState;
use crate::model::command::Command;
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

fn job(id: &str, name: &str, order: JobAction) -> Job {
    Job {
        id: id.into(),
        action: order,
        name: name.into(),
        envs: None,
        limits: None,
        definition: None,
        definition_text: "".into(),
        version: None,
        startsecs: None,
        signature: None,
        window: Duration::ZERO,
        expires: None,
        purge: false,
        text: id.into(),
    }
}

/// A job that installs or upgrades to a tar whose digest and version are this number.
fn package(id: &str, name: &str, number: u8, upgrade: bool) -> Job {
    let source = Source { url: "http://p/a.tar".into(), digest: Digest([number; 32]), format: Format::Tar };
    let mut job = job(id, name, if upgrade { JobAction::Upgrade(source) } else { JobAction::Install(source) });
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
                return Some(Event::Started { name, process, limits_by: None, poll_cpu: false, poll_memory: true });
            }
            Action::SaveJob(record) if self.full => {
                return Some(Event::Saved(record.id.clone(), Err("no space".into())));
            }
            Action::SaveJob(record) => {
                self.jobs.insert(record.id.clone(), (**record).clone());
                return Some(Event::Saved(record.id.clone(), Ok(())));
            }
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
        self.step(Event::Fetched(
            id.into(),
            Fetched::Whole { digest: Digest([number; 32]), doubtful: false, cut: false },
        ));
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

// Agents.

#[test]
fn limits_of_a_forking_agent_are_polled_once_its_main_process_is_known() {
    let mut forking = spec("web");
    forking.kind = Kind::Forking;
    let mut bench = Bench::new(vec![forking]);
    let pid = bench.state.agents.get("web").and_then(Agent::process).expect("its starter").pid;
    bench.step(Event::Exited { name: "web".into(), pid, exit: Exit::Code(0), oom: None, tail: "".into() });
    bench.step(Event::MainProcess {
        name: "web".into(),
        found: Some(Process { pid: Pid::new(9).unwrap(), ticks: 1 }),
        left: 1,
    });
    assert!(bench.runs("web"));
    bench.step(Event::Replied(Reply::Jobs { errcode: Some(0), jobs: Vec::new(), cancel: Vec::new() }));
    assert!(bench.state.poll_at.is_some_and(|at| at <= bench.now.time + secs(10)));
}

#[test]
fn what_runs_of_an_agent_without_a_definition_is_ended_before_it_is_forgotten() {
    let recovered = Recovered { unrecorded: vec![("web".into(), None)], leftovers: true, ..Recovered::default() };
    let now = Now { time: Time::new(1000, 0), wall: 1_700_001_000 };
    let mut out = Vec::new();
    let mut state = State::new(options(), recovered, now, &mut out);
    let look = Action::CountProcesses { name: "web".into(), scope: Scope::Tree, last: true };
    let drop = Action::RemoveAgent("web".into());
    assert!(out.contains(&look) && !out.contains(&drop), "{out:?}");
    out.clear();
    state.step(Event::ProcessCount("web".into(), 1), now, &mut out);
    let late = Now { time: now.time + secs(11), ..now };
    for (event, sig) in [(Event::ProcessesChanged, Sig::TERM), (Event::Tick, Sig::KILL)] {
        state.step(event, late, &mut out);
        assert!(out.contains(&Action::Signal("web".into(), Scope::Tree, sig)) && !out.contains(&drop), "{out:?}");
    }
    // A client that starts it meanwhile gets an error.
    out.clear();
    state.step(Event::Command(Client(1), Command::Start("web".into())), late, &mut out);
    assert_eq!(out.iter().filter_map(answers).collect::<Vec<_>>(), [(1, 1)]);
    state.step(Event::ProcessCount("web".into(), 0), late, &mut out);
    assert!(out.contains(&drop) && state.agents().next().is_none(), "{out:?}");
}

#[test]
fn a_restart_comes_in_its_time_and_the_fourth_early_end_is_the_last() {
    let mut bench = Bench::new(vec![spec("web")]);
    for failures in 1..=3 {
        bench.agent_ends("web", Exit::Code(1));
        bench.take(starts);
        bench.pass(secs(179));
        assert!(bench.take(starts).is_empty(), "before its time, after end {failures}");
        bench.pass(secs(1));
        assert_eq!(bench.take(starts).len(), 1, "after end {failures}");
    }
    bench.agent_ends("web", Exit::Code(1));
    assert_eq!(bench.agent_state("web"), AgentState::Fatal);
    bench.take(starts);
    bench.pass(secs(100_000));
    assert!(bench.take(starts).is_empty());
    bench.step(Event::Command(Client(1), Command::Start("web".into())));
    assert_eq!(bench.take(starts).len(), 1, "a start ends it");
}

#[test]
fn incidents_beyond_the_last_are_dropped_and_counted() {
    let mut bench = Bench::new(Vec::new());
    let problems = (0..INCIDENTS + 5).map(|number| format!("problem {number}").into()).collect();
    bench.step(Event::Definitions { whole: true, good: Vec::new(), problems });
    bench.take(starts);
    let report = |action: &Action| match action {
        Action::Exchange(_, Message::Status(report)) => Some(report.events.clone()),
        _ => None,
    };
    bench.step(Event::Replied(Reply::Jobs { errcode: Some(0), jobs: Vec::new(), cancel: Vec::new() }));
    bench.pass(secs(700));
    let events = bench.take(report).pop().unwrap();
    assert_eq!(events.len(), INCIDENTS + 1);
    assert_eq!(&*events[0].message, "5 earlier events dropped");
    assert_eq!(&*events[1].message, "problem 5");
    bench.step(Event::Replied(Reply::Jobs { errcode: Some(0), jobs: Vec::new(), cancel: Vec::new() }));
    bench.pass(secs(700));
    assert_eq!(bench.take(report).pop(), Some(Vec::new()), "reported once");
}

// Clients on the host.

#[test]
fn a_command_is_answered_when_it_is_done() {
    let mut bench = Bench::new(vec![spec("web")]);
    bench.step(Event::Command(Client(1), Command::Stop("web".into())));
    assert!(bench.take(answers).is_empty(), "it still runs");
    bench.agent_ends("web", Exit::Signal(Sig::TERM));
    assert_eq!(bench.take(answers), [(1, 0)]);
    bench.step(Event::Command(Client(2), Command::Start("web".into())));
    bench.pass(secs(9));
    assert!(bench.take(answers).is_empty(), "startsecs is 10");
    bench.pass(secs(1));
    assert_eq!(bench.take(answers), [(2, 0)]);
    bench.step(Event::Command(Client(3), Command::Restart("web".into())));
    bench.agent_ends("web", Exit::Signal(Sig::TERM));
    assert!(bench.runs("web"));
    bench.agent_ends("web", Exit::Code(1));
    assert_eq!(bench.take(answers), [(3, 1)]);
    bench.step(Event::Command(Client(4), Command::Start("who".into())));
    assert_eq!(bench.take(answers), [(4, 1)]);
    bench.step(Event::Command(Client(5), Command::Start("web".into())));
    bench.step(Event::Gone(Client(5)));
    bench.pass(secs(20));
    assert!(bench.take(answers).is_empty(), "its client is gone");
}

#[test]
fn a_report_is_answered_when_every_server_asked_for_a_pause() {
    let mut bench = Bench::new(Vec::new());
    bench.step(Event::Replied(Reply::Failed { reason: "busy".into(), retry_after: Some(500) }));
    bench.pass(secs(20));
    bench.take(answers);
    bench.step(Event::Command(Client(1), Command::Report));
    assert_eq!(bench.take(answers), [(1, 1)]);
}

// Shutdown.

#[test]
fn a_shutdown_leaves_a_settling_upgrade_to_the_next_daemon() {
    let mut bench = Bench::installed("web");
    bench.offer(vec![package("next", "web", 2, true)]);
    bench.deliver("next", 2);
    bench.agent_ends("web", Exit::Signal(Sig::TERM));
    bench.step(Event::Placed("next".into(), Ok(())));
    assert_eq!(bench.jobs["next"].phase, Phase::Settling);
    bench.step(Event::Shutdown(Shutdown::Stop));
    bench.agent_ends("web", Exit::Signal(Sig::TERM));
    assert!(bench.done.contains(&Action::Quit(0)));
    let record = &bench.jobs["next"];
    assert_eq!((record.phase, &record.outcome), (Phase::Settling, &None), "no failure of the package's");
    bench.restart_daemon();
    bench.pass(secs(10));
    assert_eq!(bench.code("next"), Some(Code::Success));
}

#[test]
fn nothing_new_begins_in_a_shutdown() {
    let mut bench = Bench::installed("web");
    bench.offer(vec![package("next", "web", 2, true)]);
    bench.deliver("next", 2);
    bench.take(starts);
    bench.step(Event::Shutdown(Shutdown::Stop));
    bench.step(Event::Command(Client(1), Command::Start("web".into())));
    bench.step(Event::Definitions { whole: true, good: vec![file(spec("new"))], problems: Vec::new() });
    bench.agent_ends("web", Exit::Signal(Sig::TERM));
    bench.step(Event::Placed("next".into(), Ok(())));
    let done = std::mem::take(&mut bench.done);
    assert!(done.iter().filter_map(starts).next().is_none(), "{done:?}");
    assert_eq!(done.iter().filter_map(answers).collect::<Vec<_>>(), [(1, 1)]);
    assert!(done.contains(&Action::Quit(0)));
}

#[test]
fn a_shutdown_is_recorded_once_for_all_agents_and_the_next_daemon_starts_them_again() {
    let saved = |action: &Action| match action {
        Action::SaveRun(run) => Some(RunRecord::clone(run)),
        _ => None,
    };
    let stopped = |action: &Action| match action {
        Action::SaveStop(stop) => Some(stop.at),
        _ => None,
    };
    let mut bench = Bench::new(vec![spec("web")]);
    bench.agent_ends("web", Exit::Code(1));
    bench.pass(secs(180));
    let mut run = bench.done.iter().filter_map(saved).next_back().unwrap();
    assert!(run.process.is_some() && run.failures == 1 && !run.stopping, "{run:?}");
    bench.done.clear();
    bench.step(Event::Shutdown(Shutdown::Stop));
    bench.agent_ends("web", Exit::Signal(Sig::TERM));
    assert_eq!(bench.done.iter().filter_map(saved).count(), 0);
    let stops: Vec<Time> = bench.done.iter().filter_map(stopped).collect();
    assert!(stops.len() == 1 && stops[0] >= run.started, "{stops:?}");
    run.end_with(stops[0].before(secs(300)));
    assert!(!run.stopping, "it was started after that");
    run.end_with(stops[0]);
    assert!(run.stopping && run.failures == 0, "{run:?}");
    let runs = vec![(run, false)];
    let recovered = Recovered { definitions: bench.definitions.clone(), runs, leftovers: true, ..Recovered::default() };
    let mut out = Vec::new();
    let mut state = State::new(options(), recovered, bench.now, &mut out);
    // It counts processes before the first start, as there was another daemon.
    for _ in 0..2 {
        state.step(Event::ProcessCount("web".into(), 0), bench.now, &mut out);
    }
    assert!(out.iter().any(|action| starts(action).is_some()), "{out:?}");
}

#[test]
fn a_shutdown_ends_with_agents_that_do_not() {
    let mut bench = Bench::new(vec![spec("web")]);
    bench.offer(vec![package("first", "other", 1, false)]);
    bench.step(Event::Shutdown(Shutdown::Stop));
    bench.pass(secs(20));
    assert!(bench.done.contains(&Action::Quit(0)), "stopsecs and ten seconds");
}
