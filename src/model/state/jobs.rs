//! Jobs on their way from receipt to result.
//!
//! A job's phase is on disk before anything is done in it (`go`, then `saved`, then `act`), so that after any interruption
//! `act` is simply done again: every phase's work can be repeated without harm. What a job found before it changed anything
//! stays in its record until the end; `undo` goes back to that.

mod install;
mod own;

use std::collections::VecDeque;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::renewal::RENEWAL;
use super::{Goal, Progress, State};
use crate::kernel::{Exit, Level, Time};
use crate::model::agent::Agent;
use crate::model::event::{Action, Definition, Fetched, Now, Reply};
use crate::model::job::{sanitize, Code, Job, JobId, Order, Outcome, Rejected, MESSAGE_MAX};
use crate::model::package::{is_locked, Tool, LOCK_WAIT};
use crate::model::record::{AgentRecord, JobRecord, Phase, Wanted};
use crate::model::report::Entry;
use crate::model::spec::Name;
use crate::model::trust;

/// Download attempts in a row that bring nothing before it is given up.
const FETCH_TRIES: u32 = 8;

/// The longest pause between two of them; the first is 1 s.
const FETCH_PAUSE: Duration = Duration::from_secs(60);

/// The name by which jobs mean the daemon itself.
pub const SELF: &str = "bootagent";

/// One open job.
#[derive(Clone, Debug)]
pub(super) struct Task {
    pub record: JobRecord,
    /// The job; `None` once it is done, and for one that was refused as it came.
    pub job: Option<Box<Job>>,
    doing: Doing,
    /// It was begun by an earlier daemon: what its phase does may have been done already.
    resumed: bool,
    /// Its record has been on disk.
    recorded: bool,
    /// The start it waits for.
    goal: Option<Goal>,
    /// Download attempts in a row that brought nothing.
    tries: u32,
    /// The whole was fetched again because a resumed part did not fit.
    refetched: bool,
    /// When the result is sent.
    sending: Sending,
}

/// When to send a result.
#[derive(Clone, Copy, Debug, Default)]
struct Sending {
    at: Time,
    refusals: u32,
    alone: bool,
}

/// What an open job is doing.
#[derive(Clone, Debug)]
enum Doing {
    /// Its record is being written; the phase's work follows.
    Saving,
    /// Its record could not be written; tried again at that time.
    SaveAgain(Time),
    /// It waits for its turn.
    Queued,
    /// It waits for another download to end.
    WaitingForSlot,
    /// Its package is being fetched.
    Fetching,
    /// Its package is fetched again at that time.
    FetchAgain(Time),
    /// Something was asked of the host, and the answer is awaited.
    Asked(Ask),
    /// A package tool is at work.
    Tool(Box<Toolwork>),
    /// The agent must come to its end.
    StoppingAgent,
    /// The agent must stay alive.
    Settling,
    /// A server list is on trial.
    Trial,
    /// Another image of the daemon is being tried, or is about to take our place.
    Renewing,
    /// This image must exchange something with a server by then.
    Proving(Time),
    /// The result is to be sent.
    Ended,
}

/// What was asked of the host.
#[derive(Clone, Debug)]
enum Ask {
    /// To keep the download as a package file.
    Keep,
    /// To verify its signature.
    Verify,
    /// To unpack a tar.
    Unpack,
    /// For the package's own definition.
    Inspect,
    /// To give what was unpacked its name.
    Rename(Box<Chosen>),
    /// To let the new package be the current one.
    Link,
    /// To let the former package be the current one again.
    UndoLink,
    /// For the definition that was in force before.
    Recall,
    /// To put this image in the place of the installed one.
    Replace,
}

/// What an agent becomes with a new package.
#[derive(Clone, Debug)]
struct Chosen {
    /// `None`: the one it has.
    definition: Option<Definition>,
    version: Box<str>,
}

/// A package tool at work, and those that follow.
#[derive(Clone, Debug)]
struct Toolwork {
    purpose: Purpose,
    /// The one at work first.
    tools: VecDeque<Tool>,
    /// When it is killed; again, when it was already.
    deadline: Time,
    late: bool,
    /// Another one holds the lock: when to try again.
    again: Option<Time>,
    /// How long the lock is waited for.
    lock_until: Time,
}

/// What a package tool is run for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// To learn the package's name and version.
    Identify,
    /// To learn whether the package was there before the job.
    Query,
    /// To install the new package.
    Install,
    /// To remove the package.
    Remove,
    /// To remove the package before it, which another kind of package has replaced.
    Retire,
    /// To go back.
    Undo,
}

impl Task {
    fn new(record: JobRecord, job: Option<Box<Job>>, doing: Doing) -> Task {
        Task {
            record,
            job,
            doing,
            resumed: false,
            recorded: false,
            goal: None,
            tries: 0,
            refetched: false,
            sending: Sending::default(),
        }
    }

    pub(super) fn send_at(&self) -> Option<Time> {
        matches!(self.doing, Doing::Ended).then_some(self.sending.at)
    }

    pub(super) fn send_again(&mut self, now: Time) {
        self.sending.at = self.sending.at.min(now);
    }

    pub(super) fn alone(&self) -> bool {
        self.sending.alone
    }

    pub(super) fn refusals(&self) -> u32 {
        self.sending.refusals
    }

    /// The server refused the result: in a batch it may have been another's fault.
    pub(super) fn refused(&mut self, in_batch: bool, again: Time) {
        self.sending.alone = true;
        if !in_batch {
            self.sending.refusals += 1;
            self.sending.at = again;
        }
    }

    /// Whether it is being undone.
    fn undoing(&self) -> bool {
        self.record.outcome.is_some() && self.record.phase != Phase::Done
    }

    pub(super) fn has_ended(&self) -> bool {
        self.record.phase == Phase::Done
    }

    fn order(&self) -> Option<&Order> {
        self.job.as_ref().map(|job| &job.order)
    }

    /// The moment in its window that this host picks.
    fn begin_at(&self, sn: &str) -> Time {
        let window = self.job.as_ref().map_or(0, |job| job.window.as_secs());
        self.record.received + Duration::from_secs(place(sn, &self.record.id).checked_rem(window).unwrap_or(0))
    }

    fn expires_at(&self) -> Option<Time> {
        let expires = self.job.as_ref()?.expires?;
        Some(self.record.received + expires)
    }

    /// When it goes on by itself; `first`: no other job has to end before it.
    fn deadline(&self, sn: &str, first: bool) -> Option<Time> {
        match &self.doing {
            Doing::SaveAgain(at) | Doing::FetchAgain(at) | Doing::Proving(at) => Some(*at),
            Doing::Queued => {
                let begin = first.then(|| self.begin_at(sn));
                [begin, self.expires_at()].into_iter().flatten().min()
            }
            Doing::Tool(work) => Some(work.again.unwrap_or(work.deadline)),
            Doing::Saving
            | Doing::WaitingForSlot
            | Doing::Fetching
            | Doing::Asked(_)
            | Doing::StoppingAgent
            | Doing::Settling
            | Doing::Trial
            | Doing::Renewing
            | Doing::Ended => None,
        }
    }
}

impl State {
    pub(super) fn load_jobs(
        &mut self,
        jobs: Vec<(JobRecord, Option<Box<Job>>)>,
        damaged: Vec<JobId>,
        now: Now,
        out: &mut Vec<Action>,
    ) {
        for (mut record, job) in jobs {
            self.next_seq = self.next_seq.max(record.seq + 1);
            if record.phase == Phase::Taken {
                self.ledger.insert(record.id, record.seq);
                continue;
            }
            if record.boot_id != self.options.boot_id || record.received > now.time {
                record.boot_id = self.options.boot_id.clone();
                record.received = now.time;
            }
            let ended = record.phase == Phase::Done;
            let readable = job.is_some();
            let mut task = Task::new(record, job, if ended { Doing::Ended } else { Doing::Queued });
            (task.resumed, task.recorded) = (true, true);
            self.tasks.push(task);
            if !ended && !readable {
                let index = self.tasks.len() - 1;
                self.finish(index, Code::BadJob, "its record holds no job that can be read", out);
            }
        }
        self.tasks.sort_by_key(|task| task.record.seq);
        for index in 0..self.tasks.len() {
            if self.tasks[index].record.phase == Phase::Received {
                self.cancel_queued(index, out);
            }
        }
        for id in damaged {
            let rejected = Rejected {
                id: Some(id),
                code: Code::Expired,
                message: "cancelled: its record was damaged, and whether it was done is not known".into(),
                action: "".into(),
                name: "".into(),
            };
            self.accept(Err(rejected), now, out);
            // It was on disk, so that it is not one to be offered again if this cannot be written at once.
            self.tasks.iter_mut().last().into_iter().for_each(|task| task.recorded = true);
        }
    }

    /// Takes a job that was never seen before: nothing is done before its record is on disk.
    pub(super) fn accept(&mut self, job: Result<Job, Rejected>, now: Now, out: &mut Vec<Action>) {
        let mut record = JobRecord {
            id: "".into(),
            seq: self.next_seq,
            action: "".into(),
            name: "".into(),
            text: "".into(),
            boot_id: self.options.boot_id.clone(),
            received: now.time,
            phase: Phase::Received,
            before: None,
            package: None,
            foreign: false,
            outcome: None,
        };
        self.next_seq += 1;
        let job = match job {
            Ok(job) => {
                (record.id, record.action, record.name) = (job.id.clone(), job.order.action().into(), job.name.clone());
                record.text = job.text.clone();
                Some(Box::new(job))
            }
            Err(rejected) => {
                out.push(Action::Log(Level::Error, rejected.to_string()));
                (record.id, record.action, record.name) =
                    (rejected.id.unwrap_or_default(), rejected.action, rejected.name);
                record.phase = Phase::Done;
                record.outcome = Some(Outcome::new(rejected.code, &rejected.message));
                None
            }
        };
        out.push(Action::SaveJob(Box::new(record.clone())));
        self.tasks.push(Task::new(record, job, Doing::Saving));
    }

    /// A job's record is on disk, or cannot be written.
    pub(super) fn saved(&mut self, id: &str, result: Result<(), Box<str>>, now: Now, out: &mut Vec<Action>) {
        let Some(index) = self.index(id) else { return };
        let task = &mut self.tasks[index];
        if !matches!(task.doing, Doing::Saving) {
            return;
        }
        match result {
            Ok(()) => {
                if !task.recorded && task.record.phase == Phase::Received {
                    let JobRecord { action, name, .. } = &task.record;
                    let on = if name.is_empty() { String::new() } else { format!(" \"{name}\"") };
                    out.push(Action::Log(Level::Info, format!("job \"{id}\": {action}{on}")));
                }
                task.recorded = true;
                if self.unrecordable {
                    self.unrecordable = false;
                    out.push(Action::Log(Level::Info, "jobs can be recorded again".into()));
                }
                if self.shutdown.is_some() && !task.has_ended() {
                    // The next daemon goes on from here.
                    task.doing = Doing::Queued;
                } else {
                    self.act(index, now, out);
                }
            }
            Err(why) if !task.recorded => {
                self.tasks.remove(index);
                // Offered again with every report: said once.
                if !self.unrecordable {
                    self.unrecordable = true;
                    let text = format!("jobs are left for the server to offer again, \"{id}\" the first: {why}");
                    self.incident("bootagent".into(), &text, now);
                    out.push(Action::Log(Level::Error, text));
                }
            }
            Err(why) => {
                task.doing = Doing::SaveAgain(now.time + self.options.times.save);
                let wait = self.options.times.save.as_secs();
                out.push(Action::Log(Level::Error, format!("job \"{id}\" waits, tried again in {wait} s: {why}")));
            }
        }
    }

    fn index(&self, id: &str) -> Option<usize> {
        self.tasks.iter().position(|task| *task.record.id == *id)
    }

    /// The job `id`, if it awaits an answer of the host, and what it asked.
    fn asked(&self, id: &str) -> Option<(usize, Ask)> {
        let index = self.index(id)?;
        match &self.tasks[index].doing {
            Doing::Asked(ask) => Some((index, ask.clone())),
            _ => None,
        }
    }

    /// Enters a phase: first on disk, then in deed.
    fn go(&mut self, index: usize, phase: Phase, out: &mut Vec<Action>) {
        let task = &mut self.tasks[index];
        task.record.phase = phase;
        task.doing = Doing::Saving;
        out.push(Action::SaveJob(Box::new(task.record.clone())));
    }

    /// Does what a job's phase is for; harmless when some of it was done before.
    fn act(&mut self, index: usize, now: Now, out: &mut Vec<Action>) {
        let task = &mut self.tasks[index];
        let own = *task.record.name == *SELF;
        match task.record.phase {
            Phase::Received => {
                task.doing = Doing::Queued;
                self.cancel_queued(index, out);
            }
            Phase::Downloading => task.doing = Doing::WaitingForSlot,
            Phase::Verified => self.keep_package(index, out),
            Phase::Installing | Phase::Starting | Phase::Settling if own => self.act_own(index, now, out),
            Phase::Installing if task.undoing() => self.stop_agent(index, now, out),
            Phase::Installing => self.install(index, now, out),
            Phase::Starting => self.start(index, now, out),
            Phase::Settling => self.settle(index, now, out),
            Phase::Done => {
                task.doing = Doing::Ended;
                self.pace.new_results(now.time);
            }
            Phase::Taken => {}
        }
    }

    /// Ends a job with a result; what it did stays.
    fn finish(&mut self, index: usize, code: Code, message: &str, out: &mut Vec<Action>) {
        let outcome = Outcome::new(code, message);
        let task = &mut self.tasks[index];
        let id = task.record.id.clone();
        let level = if code == Code::Success { Level::Info } else { Level::Error };
        out.push(Action::Log(level, format!("job \"{id}\": result {}: {}", code as u8, outcome.message)));
        if matches!(task.order(), Some(Order::Install(_) | Order::Upgrade(_))) {
            out.push(Action::DropDownload(id));
        }
        task.record.outcome = Some(outcome);
        (task.record.before, task.record.package) = (None, None);
        task.record.text = "".into();
        task.job = None;
        self.go(index, Phase::Done, out);
    }

    /// Lets every job go on that can.
    pub(super) fn follow_jobs(&mut self, now: Now, out: &mut Vec<Action>) {
        let mut index = 0;
        while index < self.tasks.len() {
            let before = std::mem::discriminant(&self.tasks[index].doing);
            self.follow_job(index, now, out);
            // What it does now may be done already, or may be begun at once.
            if std::mem::discriminant(&self.tasks[index].doing) == before {
                index += 1;
            }
        }
    }

    fn follow_job(&mut self, index: usize, now: Now, out: &mut Vec<Action>) {
        // An agent that ends with the daemon says nothing about a job: the next daemon goes on with it.
        if self.shutdown.is_some() {
            return;
        }
        let name = self.tasks[index].record.name.clone();
        match &self.tasks[index].doing {
            Doing::Queued => self.follow_queued(index, now, out),
            Doing::WaitingForSlot if !self.is_leaving() && !self.is_fetching() => {
                self.tasks[index].doing = Doing::Fetching;
                out.push(Action::Fetch(self.tasks[index].record.id.clone()));
            }
            Doing::Renewing if self.shutdown.is_none() && !self.is_renewing() => self.follow_own(index, now, out),
            Doing::StoppingAgent if self.agents.get(&name).is_none_or(Agent::is_down) => {
                self.agent_stopped(index, now, out);
            }
            Doing::StoppingAgent => self.follow_stopping(index, &name, now, out),
            Doing::Settling => {
                let Some(goal) = self.tasks[index].goal else { return };
                match self.progress(&name, goal, now.time) {
                    Progress::Wait(_) => {}
                    Progress::Reached => self.settled(index, now, out),
                    Progress::Missed(why) => self.not_settled(index, &why, now, out),
                }
            }
            _ => {}
        }
    }

    /// Whether a package is being verified or unpacked.
    pub(super) fn is_unpacking(&self) -> bool {
        self.tasks.iter().any(|task| matches!(task.doing, Doing::Asked(Ask::Verify | Ask::Unpack)))
    }

    /// Somebody may want the agent up while a job is bringing it down.
    fn follow_stopping(&mut self, index: usize, name: &str, now: Now, out: &mut Vec<Action>) {
        let Some(agent) = self.agents.get(name).filter(|agent| !agent.is_going_down()) else { return };
        if agent.wanted() == Wanted::Up && matches!(self.tasks[index].order(), Some(Order::Stop)) {
            return self.finish(index, Code::Expired, "cancelled: the agent was started meanwhile", out);
        }
        self.turn(name, now, out, |agent, turn| agent.order_down(turn));
    }

    fn is_fetching(&self) -> bool {
        self.tasks.iter().any(|task| matches!(task.doing, Doing::Fetching))
    }

    /// Whether no earlier job for the same agent is still to end.
    fn is_first(&self, index: usize) -> bool {
        let name = &self.tasks[index].record.name;
        self.tasks[..index].iter().all(|earlier| earlier.record.name != *name || earlier.has_ended())
    }

    fn follow_queued(&mut self, index: usize, now: Now, out: &mut Vec<Action>) {
        let task = &self.tasks[index];
        if task.record.phase == Phase::Received && task.expires_at().is_some_and(|at| at <= now.time) {
            return self.finish(index, Code::Expired, "expired before it could begin", out);
        }
        let begun = task.record.phase != Phase::Received;
        if begun {
            self.act(index, now, out);
        } else if self.is_first(index) && task.begin_at(&self.identity.sn) <= now.time {
            self.begin(index, now, out);
        }
    }

    /// A job's turn has come.
    fn begin(&mut self, index: usize, now: Now, out: &mut Vec<Action>) {
        let task = &self.tasks[index];
        let Some(job) = task.job.as_deref() else { return };
        if let Some(why) = trust::objection(job).filter(|_| self.options.signed) {
            return self.finish(index, Code::Refused, &format!("refused: {why}"), out);
        }
        let name = job.name.clone();
        if *name == *SELF {
            return self.begin_own(index, out);
        }
        let known = self.agents.get(&name);
        match &job.order {
            Order::Config { .. } if name.is_empty() => self.configure(index, now, out),
            Order::Install(_) => self.begin_install(index, out),
            Order::Upgrade(_) if known.is_some() => self.begin_install(index, out),
            Order::Uninstall if known.is_some_and(super::is_file) => {
                let text = format!("agent \"{name}\" is defined by a file on the host: stop it instead");
                self.finish(index, Code::Refused, &text, out);
            }
            Order::Config { .. } if known.is_some() => self.overlay(index, out),
            Order::Start | Order::Restart | Order::Stop if known.is_some() => self.go(index, Phase::Starting, out),
            Order::Uninstall if known.is_some() => {
                let before = known.map(|agent| Box::new(agent.record.clone()));
                self.tasks[index].record.before = before;
                self.go(index, Phase::Starting, out);
            }
            _ => self.finish(index, Code::NoAgent, &format!("no agent \"{name}\" on this host"), out),
        }
    }

    /// Ends what was queued for the same agent before the job at `index`, if that makes it pointless.
    fn cancel_queued(&mut self, index: usize, out: &mut Vec<Action>) {
        let task = &self.tasks[index];
        if !matches!(task.order(), Some(Order::Stop | Order::Uninstall)) || *task.record.name == *SELF {
            return;
        }
        let (id, name) = (self.tasks[index].record.id.clone(), self.tasks[index].record.name.clone());
        for other in 0..index {
            let task = &self.tasks[other];
            let waits = matches!(task.doing, Doing::Queued) && task.record.phase == Phase::Received;
            if waits && task.record.name == name {
                self.finish(other, Code::Expired, &format!("cancelled by job \"{id}\""), out);
            }
        }
    }

    /// Changes the daemon's own settings.
    fn configure(&mut self, index: usize, now: Now, out: &mut Vec<Action>) {
        let Some(Order::Config { servers, .. }) = self.tasks[index].order().cloned() else { return };
        match servers {
            Some(servers) if !servers.is_empty() => {
                self.pace.try_given(servers);
                self.tasks[index].doing = Doing::Trial;
            }
            _ => self.apply_settings(index, now, out),
        }
    }

    /// A server list was on trial.
    pub(super) fn tried(&mut self, good: bool, server: &str, reply: &Reply, now: Now, out: &mut Vec<Action>) {
        let Some(index) = self.tasks.iter().position(|task| matches!(task.doing, Doing::Trial)) else { return };
        if good {
            return self.apply_settings(index, now, out);
        }
        let why = match reply {
            Reply::Failed { reason, .. } => reason,
            _ => "its answer holds no integer errcode",
        };
        let text = format!("no server of the new list answers, the old list stays; the last one, {server}: {why}");
        self.finish(index, Code::Download, &text, out);
    }

    fn apply_settings(&mut self, index: usize, now: Now, out: &mut Vec<Action>) {
        let Some(Order::Config { servers, step }) = self.tasks[index].order().cloned() else { return };
        if let Some(servers) = servers {
            let list: Vec<&str> = servers.iter().map(|server| &*server.base).collect();
            self.settings.svrlist = list.join(",").into();
            self.pace.set_given(servers);
        }
        if let Some(step) = step {
            self.settings.step = Some(step);
            self.pace.set_step(step, now.time);
        }
        out.push(Action::SaveSettings(self.settings.clone()));
        self.finish(index, Code::Success, "success", out);
    }

    /// Changes the environment and limits of one agent.
    fn overlay(&mut self, index: usize, out: &mut Vec<Action>) {
        let Some(job) = self.tasks[index].job.clone() else { return };
        let Some(agent) = self.agents.get(&job.name) else { return };
        let changed = job.envs.is_some() && job.envs != agent.record.envs
            || job.limits.is_some() && job.limits != agent.record.limits;
        if !changed {
            return self.finish(index, Code::Success, "success, nothing changed", out);
        }
        self.tasks[index].record.before = Some(Box::new(agent.record.clone()));
        self.go(index, Phase::Starting, out);
    }

    /// The phase `Starting`: the agent is brought to run, or to its end.
    fn start(&mut self, index: usize, now: Now, out: &mut Vec<Action>) {
        let task = &self.tasks[index];
        let (Some(job), name) = (task.job.clone(), task.record.name.clone()) else { return };
        // What an earlier daemon restarted for this job is not restarted again.
        let received = task.record.received;
        let done_before = task.resumed
            && self.agents.get(&name).and_then(Agent::running_since).is_some_and(|since| since >= received);
        if task.undoing() {
            return self.start_again(index, now, out);
        }
        match job.order {
            Order::Install(_) | Order::Upgrade(_) => self.stop_agent(index, now, out),
            Order::Stop | Order::Uninstall => {
                self.want(&name, Wanted::Down, now, out);
                self.stop_agent(index, now, out);
            }
            Order::Start => self.start_agent(index, now, out),
            Order::Restart if done_before => self.start_agent(index, now, out),
            Order::Restart => {
                self.want(&name, Wanted::Up, now, out);
                self.stop_agent(index, now, out);
            }
            Order::Config { .. } => {
                if let Some(agent) = self.agents.get_mut(&name) {
                    agent.record.envs = job.envs.clone().or(agent.record.envs.take());
                    agent.record.limits = job.limits.clone().or(agent.record.limits.take());
                    out.push(Action::SaveAgent(Box::new(agent.record.clone())));
                }
                match self.agents.get(&name).map(Agent::wanted) {
                    Some(Wanted::Up) => self.stop_agent(index, now, out),
                    _ => self.finish(index, Code::Success, "success, the agent is stopped", out),
                }
            }
        }
    }

    /// Wants the agent up, and watches it.
    fn start_agent(&mut self, index: usize, now: Now, out: &mut Vec<Action>) {
        let name = self.tasks[index].record.name.clone();
        self.want(&name, Wanted::Up, now, out);
        self.turn(&name, now, out, |agent, turn| agent.order_up(turn));
        self.watch_start(index, out);
    }

    fn watch_start(&mut self, index: usize, out: &mut Vec<Action>) {
        let lasting = self.lasting(index);
        let goal = self.goal_up(&self.tasks[index].record.name, lasting, self.needs_health(index));
        self.tasks[index].goal = Some(goal);
        self.go(index, Phase::Settling, out);
    }

    fn lasting(&self, index: usize) -> Duration {
        let task = &self.tasks[index];
        let own = task.job.as_ref().and_then(|job| job.startsecs);
        own.unwrap_or_else(|| self.startsecs(&task.record.name))
    }

    /// Whether the agent must be healthy, too: where there is something to go back to.
    fn needs_health(&self, index: usize) -> bool {
        let task = &self.tasks[index];
        !task.undoing() && task.record.before.is_some()
    }

    /// The phase `Settling`: after an interruption the start that runs now is the one to watch. What ended while nobody
    /// was watching may have ended with the daemon, and says nothing about the agent: it is started again.
    fn settle(&mut self, index: usize, now: Now, out: &mut Vec<Action>) {
        let name = self.job_name(index);
        let task = &self.tasks[index];
        let wanted = self.agents.get(&name).is_some_and(|agent| agent.wanted() == Wanted::Up);
        if task.resumed && task.goal.is_none() && wanted {
            self.turn(&name, now, out, |agent, turn| agent.order_up(turn));
        }
        let lasting = self.lasting(index);
        let goal = self.goal_up(&self.tasks[index].record.name, lasting, self.needs_health(index));
        let task = &mut self.tasks[index];
        task.goal.get_or_insert(goal);
        task.doing = Doing::Settling;
    }

    fn settled(&mut self, index: usize, now: Now, out: &mut Vec<Action>) {
        let task = &self.tasks[index];
        if task.undoing() {
            return self.undone(index, out);
        }
        match task.order() {
            Some(Order::Install(_) | Order::Upgrade(_)) => self.retire(index, now, out),
            _ => self.finish(index, Code::Success, "success", out),
        }
    }

    fn not_settled(&mut self, index: usize, why: &str, now: Now, out: &mut Vec<Action>) {
        let task = &mut self.tasks[index];
        if let (true, Some(outcome)) = (task.undoing(), task.record.outcome.clone()) {
            let text = format!("{}; what was there before does not stay up either: {why}", outcome.message);
            task.record.outcome = Some(Outcome::new(outcome.code, &text));
            return self.undone(index, out);
        }
        match task.order() {
            Some(Order::Install(_) | Order::Upgrade(_) | Order::Config { .. }) => {
                self.undo(index, Code::Start, &format!("the agent does not stay up: {why}"), now, out);
            }
            _ => self.finish(index, Code::Start, &format!("the agent does not stay up: {why}"), out),
        }
    }

    /// Brings the agent down; `agent_stopped` goes on.
    fn stop_agent(&mut self, index: usize, now: Now, out: &mut Vec<Action>) {
        let name = self.tasks[index].record.name.clone();
        self.turn(&name, now, out, |agent, turn| agent.order_down(turn));
        self.tasks[index].doing = Doing::StoppingAgent;
    }

    fn agent_stopped(&mut self, index: usize, now: Now, out: &mut Vec<Action>) {
        let task = &self.tasks[index];
        if task.undoing() {
            return self.undo_package(index, now, out);
        }
        match task.order() {
            Some(Order::Uninstall) => self.go(index, Phase::Installing, out),
            Some(Order::Install(_) | Order::Upgrade(_)) => self.switch_package(index, now, out),
            // Not both in one phase: whose end it was must be known after an interruption.
            Some(Order::Restart | Order::Config { .. }) => self.start_agent(index, now, out),
            _ => self.finish(index, Code::Success, "success", out),
        }
    }

    /// A download attempt ended.
    pub(super) fn fetched(&mut self, id: &str, fetched: Fetched, now: Now, out: &mut Vec<Action>) {
        let Some(index) = self.index(id).filter(|index| matches!(self.tasks[*index].doing, Doing::Fetching)) else {
            return;
        };
        let task = &mut self.tasks[index];
        let Some(Order::Install(source) | Order::Upgrade(source)) = task.job.as_ref().map(|job| &job.order) else {
            return;
        };
        match fetched {
            Fetched::Whole { digest, .. } if digest == source.digest => self.go(index, Phase::Verified, out),
            Fetched::Whole { resumed: true, .. } if !task.refetched => {
                task.refetched = true;
                task.doing = Doing::WaitingForSlot;
                out.push(Action::DropDownload(id.into()));
                out.push(Action::Log(
                    Level::Warn,
                    format!("job \"{id}\": the resumed download does not fit, from the start"),
                ));
            }
            Fetched::Whole { digest, .. } => {
                let text = format!("the package is not what was promised: want {}, got {digest}", source.digest);
                self.finish(index, Code::Checksum, &text, out);
            }
            Fetched::Refused { reason } => {
                self.finish(index, Code::Download, &format!("cannot download: {reason}"), out);
            }
            Fetched::Cut { reason, progress } => {
                task.tries = if progress { 0 } else { task.tries + 1 };
                if task.tries >= FETCH_TRIES {
                    let text = format!("cannot download, tried {FETCH_TRIES} times: {reason}");
                    return self.finish(index, Code::Download, &text, out);
                }
                let pause = (self.options.times.fetch * (1 << task.tries.saturating_sub(1))).min(FETCH_PAUSE);
                task.doing = Doing::FetchAgain(now.time + pause);
                let text =
                    format!("job \"{id}\": download interrupted, tried again in {} s: {reason}", pause.as_secs_f64());
                out.push(Action::Log(Level::Warn, text));
            }
        }
    }

    /// Runs package tools one after the other; `tools_done` goes on when the last one has ended well.
    fn run_tools(&mut self, index: usize, purpose: Purpose, tools: Vec<Tool>, now: Now, out: &mut Vec<Action>) {
        let task = &mut self.tasks[index];
        let Some(first) = tools.first().cloned() else { return };
        task.doing = Doing::Tool(Box::new(Toolwork {
            purpose,
            tools: tools.into(),
            deadline: now.time + first.timeout.min(self.options.times.tool),
            late: false,
            again: None,
            lock_until: now.time + LOCK_WAIT,
        }));
        out.push(Action::Tool(task.record.id.clone(), first));
    }

    /// A package tool ended.
    pub(super) fn tool_done(&mut self, id: &str, exit: Exit, output: &str, now: Now, out: &mut Vec<Action>) {
        if id == RENEWAL {
            return self.renewal_tried(exit, output, now, out);
        }
        let Some(index) = self.index(id) else { return };
        let Doing::Tool(work) = &mut self.tasks[index].doing else { return };
        let program = work.tools.front().map(|tool| tool.argv.join(" ")).unwrap_or_default();
        let program = sanitize(&program, 100);
        let locked = exit != Exit::Code(0) && is_locked(output) && now.time < work.lock_until;
        // What comes before the last one only prepares.
        if exit == Exit::Code(0) || (work.tools.len() > 1 && !locked) {
            if exit != Exit::Code(0) {
                out.push(Action::Log(Level::Warn, format!("job \"{id}\": {program}: {exit}, going on without")));
            }
            work.late = false;
            work.tools.pop_front();
            if let Some(next) = work.tools.front().cloned() {
                work.deadline = now.time + next.timeout.min(self.options.times.tool);
                out.push(Action::Tool(id.into(), next));
                return;
            }
            let purpose = work.purpose;
            return self.tools_done(index, purpose, Ok(output), now, out);
        }
        if locked {
            work.again = Some(now.time + self.options.times.lock);
            out.push(Action::Log(Level::Info, format!("job \"{id}\": {program} waits for a lock")));
            return;
        }
        let (purpose, late) = (work.purpose, work.late);
        if late || matches!(exit, Exit::Signal(_)) {
            self.interrupted = true;
        }
        let how = if late { "took too long and was killed".to_string() } else { exit.to_string() };
        let text = sanitize(&format!("{program}: {how}: {output}"), MESSAGE_MAX);
        self.tools_done(index, purpose, Err(text), now, out);
    }

    pub(super) fn tasks_deadline(&self) -> Option<Time> {
        let sn = &self.identity.sn;
        let timers = self.tasks.iter().enumerate();
        let timers = timers.filter_map(|(index, task)| task.deadline(sn, self.is_first(index)));
        let settling = self
            .tasks
            .iter()
            .filter(|task| matches!(task.doing, Doing::Settling))
            .filter_map(|task| self.wait_until(&task.record.name, task.goal?));
        timers.chain(settling).min()
    }

    pub(super) fn tasks_due(&mut self, now: Now, out: &mut Vec<Action>) {
        self.proof_due(now, out);
        for task in &mut self.tasks {
            let id = &task.record.id;
            match &mut task.doing {
                Doing::SaveAgain(at) if *at <= now.time => {
                    task.doing = Doing::Saving;
                    out.push(Action::SaveJob(Box::new(task.record.clone())));
                }
                Doing::FetchAgain(at) if *at <= now.time => task.doing = Doing::WaitingForSlot,
                Doing::Tool(work) => match work.again {
                    Some(at) if at <= now.time => {
                        work.again = None;
                        if let Some(tool) = work.tools.front().cloned() {
                            work.deadline = now.time + tool.timeout.min(self.options.times.tool);
                            work.late = false;
                            out.push(Action::Tool(id.clone(), tool));
                        }
                    }
                    None if work.deadline <= now.time => {
                        work.late = true;
                        work.deadline = now.time + crate::model::agent::KILL_AGAIN;
                        out.push(Action::KillTool(id.clone()));
                    }
                    Some(_) | None => {}
                },
                _ => {}
            }
        }
    }

    /// The open jobs as the ledger shows them.
    pub(super) fn entries(&self, now: Now) -> Vec<Entry> {
        let entry = |(index, task): (usize, &Task)| Entry {
            id: task.record.id.clone(),
            action: task.record.action.clone(),
            name: task.record.name.clone(),
            phase: task.record.phase,
            outcome: task.record.outcome.clone().filter(|_| task.has_ended()),
            progress: self.progress_of(index, now).into(),
        };
        self.tasks.iter().enumerate().map(entry).collect()
    }

    fn progress_of(&self, index: usize, now: Now) -> String {
        let task = &self.tasks[index];
        match &task.doing {
            Doing::SaveAgain(_) => "waits until its record can be written".to_string(),
            Doing::Queued => {
                let name = &task.record.name;
                match self.tasks[..index].iter().find(|other| other.record.name == *name && !other.has_ended()) {
                    Some(other) => format!("waits for \"{}\"", other.record.id),
                    None => {
                        let begin = task.begin_at(&self.identity.sn);
                        format!("begins in {} s", begin.since(now.time).as_secs())
                    }
                }
            }
            Doing::WaitingForSlot => "waits for another download".to_string(),
            Doing::FetchAgain(at) => {
                format!("download interrupted, tried again in {} s", at.since(now.time).as_secs())
            }
            Doing::Tool(work) if work.again.is_some() => "waits for the package manager's lock".to_string(),
            Doing::Trial => "the new server list is on trial".to_string(),
            Doing::Renewing => "the daemon is being replaced".to_string(),
            Doing::Proving(at) => {
                format!("an exchange with a server must come within {} s", at.since(now.time).as_secs())
            }
            Doing::Ended if task.sending.refusals > 0 => "the server does not take the result".to_string(),
            _ if task.undoing() => "being undone".to_string(),
            _ => String::new(),
        }
    }

    /// Restores what is remembered of an agent; an empty record means there was none.
    fn restore(
        &mut self,
        name: &str,
        before: AgentRecord,
        definition: Option<Definition>,
        now: Now,
        out: &mut Vec<Action>,
    ) {
        if before.name.is_empty() {
            return self.forget(name, now, out);
        }
        if let Some(agent) = self.agents.get_mut(name) {
            agent.record = before;
            if let Some(definition) = definition {
                agent.define(Some(definition));
            }
            out.push(Action::SaveAgent(Box::new(agent.record.clone())));
        }
    }

    /// Forgets an agent; one that somebody has started meanwhile is ended first.
    pub(super) fn forget(&mut self, name: &str, now: Now, out: &mut Vec<Action>) {
        if let Some(agent) = self.agents.get_mut(name) {
            agent.record = AgentRecord { name: name.into(), wanted: Some(Wanted::Down), ..AgentRecord::default() };
            agent.define(None);
            self.leave(name, now, out);
            self.follow_leaving(out);
        }
    }

    fn job_name(&self, index: usize) -> Name {
        self.tasks[index].record.name.clone()
    }
}

/// The number by which a host finds its moment in a job's window.
fn place(sn: &str, id: &str) -> u64 {
    let hash = Sha256::new().chain_update(sn).chain_update("\n").chain_update(id).finalize();
    hash.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod window {
    #[test]
    fn its_moment_is_the_same_on_every_version() {
        // Computed with another implementation of SHA-256.
        for (sn, id, want) in [
            ("bfdcc18c-0000-4000-8000-000000000001", "roll-1", 17_828_284_431_002_947_388),
            ("", "a", 8_314_109_957_015_630_941),
        ] {
            assert_eq!(super::place(sn, id), want, "{sn} {id}");
        }
    }
}
