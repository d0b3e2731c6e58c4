//! All agents and jobs of a host, and the one place of decisions: `step` takes an event and says what to do.
//!
//! A state comes from what `options` holds, as `init` says. `agents` applies events to agents and answers clients on
//! the host, `jobs` takes jobs through their plans, `exchange` speaks with the servers, `incidents` keeps what they are
//! to hear, `reexec` has a new binary executed, `unreadable` says what must wait for a record. Nothing here uses a
//! clock, file, socket or log: the same events always give the same actions.

mod agents;
mod init;
mod options;
mod recovered;
mod jobs;
mod reexec;
mod reload;
mod exchange;
mod incidents;
mod inventory;
#[cfg(test)]
mod tests;
mod unreadable;

use std::time::Duration;

use crate::kernel::{Level, Time};
use crate::model::agent::{Agent, StepContext};
use crate::model::event::{answer, Action, Client, Event, Now, Origin, Shutdown};
use crate::model::job::{Job, JobId};
use crate::model::record::{AgentRecord, Identity, JobRecord, Phase, RunRecord, Settings, StopRecord};
use crate::model::schedule::Server;
use crate::model::spec::{Name, Spec};
use crate::sorted_map::SortedMap;
use exchange::Exchanges;
use incidents::Incidents;
use inventory::Inventory;
use jobs::JobQueue;
pub use options::{Options, Times};
pub use recovered::{runs_of_boot, Recovered};
use reexec::Reexec;
use reload::AgentReload;
pub use unreadable::Unreadable;

/// Jobs that may be open at a time: not begun, running, or ended with a result that no server has taken yet.
pub const OPEN_JOBS: usize = 256;

/// Ended jobs whose ids are remembered.
pub const ENDED_JOBS: usize = 4096;

/// A wall clock that moves against the monotonic one by more than this was set, s.
const CLOCK_JUMP: u64 = 60;

/// How long a shutdown waits for agents that do not even end by SIGKILL, beside the longest `stopsecs`.
const SHUTDOWN_MARGIN: Duration = Duration::from_secs(10);

/// What is answered while the daemon is being stopped.
pub const ENDING: &str = "the daemon is being stopped";

/// A client waits for an agent to be up or down.
#[derive(Clone, Debug, PartialEq)]
struct Waiter {
    client: Client,
    name: Name,
    goal: Goal,
}

/// What an agent must come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Goal {
    /// Start number `generation` runs and has done so for `lasting`; `healthy`: and has passed its check, if it has
    /// one.
    Up { generation: u32, lasting: Duration, healthy: bool },
    /// Nothing of it is left.
    Down,
}

/// Where an agent is on the way to a goal.
#[derive(Clone, Debug, PartialEq)]
enum Progress {
    /// It may still reach it; when to look again, unless an event comes before.
    Wait(Option<Time>),
    /// It has reached it.
    Reached,
    /// It will not reach it, and why.
    Missed(String),
}

/// Why a measurement was asked for.
#[derive(Clone, Debug, Default, PartialEq)]
struct Measuring {
    /// A measurement is under way.
    asked: bool,
    /// It is compared with polled limits.
    check: bool,
    /// Clients that asked for the status of one agent or of all.
    clients: Vec<(Client, Option<Name>)>,
    /// The server to which it is sent.
    report: Option<Server>,
}

/// The answer to clients that asked for all to be read again.
#[derive(Clone, Debug, Default)]
struct Rereading {
    clients: Vec<Client>,
    /// What has changed and what is wrong, one line each.
    lines: Vec<String>,
    /// Something is wrong.
    failed: bool,
}

impl Rereading {
    fn tell(&mut self, line: &str) {
        if !self.clients.is_empty() {
            self.lines.push(line.to_string());
        }
    }
}

/// All agents and jobs of a host.
#[derive(Clone, Debug)]
pub struct State {
    /// The moment of the event that is being taken.
    now: Now,
    /// What is to be done, until `step` returns it.
    out: Vec<Action>,
    options: Options,
    identity: Identity,
    settings: Settings,
    began: Time,
    agents: SortedMap<Name, Agent>,
    /// Agents whose definition is gone, to be forgotten when nothing of them is left.
    leaving: Vec<Name>,
    jobs: JobQueue,
    exchanges: Exchanges,
    incidents: Incidents,
    inventory: Inventory,
    waiters: Vec<Waiter>,
    measuring: Measuring,
    /// When polled limits are looked at next.
    poll_at: Option<Time>,
    /// The wall clock minus the monotonic one, s.
    clock: Option<i64>,
    /// The daemon is being stopped, and ends at that time at the latest.
    shutdown: Option<Time>,
    reexec: Reexec,
    rereading: Rereading,
    /// Agents that are reading their own configuration again.
    reloads: Vec<AgentReload>,
    /// Records that are there and could not be read.
    unread: Unreadable,
}

impl State {
    /// Takes one event, and says what to do.
    pub fn step(&mut self, event: Event, now: Now, out: &mut Vec<Action>) {
        self.now = now;
        std::mem::swap(&mut self.out, out);
        self.take(event);
        self.follow();
        std::mem::swap(&mut self.out, out);
    }

    fn take(&mut self, event: Event) {
        self.watch_clock();
        match event {
            Event::Tick => self.due(),
            // In a shutdown nothing new begins: the next daemon reads the definitions, and resumes the jobs.
            Event::Definitions { .. }
            | Event::Saved(..)
            | Event::Fetched(..)
            | Event::ToolDone { .. }
            | Event::Verified(..)
            | Event::Unpacked(..)
            | Event::Placed(..)
            | Event::Inspected(..)
            | Event::PackagesSeen { .. }
                if self.shutdown.is_some() => {}
            Event::Definitions { good, problems, whole } => {
                self.unread.definitions = !whole;
                self.redefine(good, &problems);
            }
            Event::Reread { problems, notes } => self.reread(&problems, &notes),
            Event::Command(client, command) => self.command(client, command),
            Event::Gone(client) => self.client_gone(client),
            Event::Shutdown(how) => self.shut_down(how),
            Event::Reexec => self.request_reexec(None),
            Event::NotReexeced(why) => self.not_reexeced(&why),
            Event::Measured(usages) => self.measured(usages),
            Event::ReloadEnded(name, exit, tail) => self.reload_ended(&name, exit, &tail),
            Event::Reached(address) => self.exchanges.schedule.reached(address),
            Event::Replied(reply) => self.replied(reply),
            Event::Saved(id, result) => self.saved(&id, result),
            Event::ToolDone { owner, exit, output } => self.tool_done(&owner, exit, &output),
            Event::Fetched(ref id, _)
            | Event::Verified(ref id, _)
            | Event::Unpacked(ref id, _)
            | Event::Placed(ref id, _)
            | Event::Inspected(ref id, _) => {
                let id = id.clone();
                self.host_answered(&id, event);
            }
            Event::PackagesSeen { changes, tars } => self.packages_seen(changes, &tars),
            Event::ProcessesChanged => self.step_agents(None, &mut |agent, context| agent.take(&event, context)),
            Event::Started { ref name, .. }
            | Event::PrestartStarted(ref name, _)
            | Event::Attached(ref name, _)
            | Event::NotStarted { ref name, .. }
            | Event::ResourceExhausted { ref name, .. }
            | Event::OutOfMemory(ref name, _)
            | Event::Notified(ref name, _)
            | Event::Exited { ref name, .. }
            | Event::MainProcess { ref name, .. }
            | Event::ProcessCount(ref name, _)
            | Event::Refused { ref name, .. }
            | Event::Checked(ref name, ..)
            | Event::NotChecked(ref name, _) => {
                self.step_agent(name, &mut |agent, context| agent.take(&event, context));
            }
        }
    }

    /// When to send `Event::Tick`, unless another event comes before; `None`: nothing is due, ever.
    pub fn deadline(&self) -> Option<Time> {
        let mut first = Time::earliest(&[self.poll_at, self.shutdown]);
        for agent in self.agents.values() {
            first = Time::earliest(&[first, agent.deadline()]);
        }
        for waiter in &self.waiters {
            first = Time::earliest(&[first, self.wait_until(&waiter.name, waiter.goal)]);
        }
        for reload in &self.reloads {
            first = Time::earliest(&[first, Some(reload.until)]);
        }
        let reexec = self.reexec.deadline(self.is_quiet());
        if self.shutdown.is_some() {
            return Time::earliest(&[first, reexec]);
        }
        let results = self.results_due();
        let exchange = if self.is_leaving() { None } else { self.exchanges.schedule.deadline(results) };
        Time::earliest(&[first, exchange, self.jobs_deadline(), reexec])
    }

    /// The host's identity as servers are told it.
    pub fn sn(&self) -> &str {
        &self.identity.sn
    }

    /// The definition an agent is started from, with the environment and limits that jobs gave it.
    pub fn spec(&self, name: &str) -> Option<Spec> {
        self.agents.get(name)?.spec()
    }

    /// The boot that the host is in.
    pub fn boot_id(&self) -> &str {
        &self.options.boot_id
    }

    /// Every agent.
    pub fn agents(&self) -> impl Iterator<Item = &Agent> {
        self.agents.values()
    }

    /// The agent with this name.
    pub fn find_agent(&self, name: &str) -> Option<&Agent> {
        self.agents.get(name)
    }

    /// What is on record of each agent's run, for when the records are lost.
    pub fn run_records(&self) -> impl Iterator<Item = RunRecord> + '_ {
        self.agents.values().map(|agent| agent.run_record(&self.options.boot_id))
    }

    /// Everything that is to outlive the boot, for when the records are lost; of ended jobs whose results were taken
    /// only the ids are known here.
    pub fn records(&self) -> Vec<Action> {
        let mut records = vec![Action::SaveSettings(self.settings.clone())];
        // An identity that could not be read at the start must not be replaced by another one.
        if !self.identity.sn.is_empty() {
            records.push(Action::SaveIdentity(self.identity.clone()));
        }
        for Agent { record, .. } in self.agents.values() {
            if *record != (AgentRecord { name: record.name.clone(), ..AgentRecord::default() }) {
                records.push(Action::SaveAgent(Box::new(record.clone())));
            }
        }
        records.extend(self.jobs.open.iter().map(|job| Action::SaveJob(Box::new(job.record.clone()))));
        records
    }

    /// The agent of this name, a new one where there is none. `leftovers` as in `Agent::new`.
    fn agent(&mut self, name: &Name, leftovers: bool) -> &mut Agent {
        let record = || AgentRecord { name: name.clone(), ..AgentRecord::default() };
        let signed = self.options.signed;
        self.agents.or_insert_with(name.clone(), || Agent::new(record(), None, leftovers, signed))
    }

    /// The open job with this id.
    pub fn job(&self, id: &str) -> Option<&Job> {
        self.jobs.get(id)?.content.as_deref()
    }

    /// The ids of the open jobs.
    pub fn job_ids(&self) -> impl Iterator<Item = &JobId> {
        self.jobs.open.iter().map(|job| &job.record.id)
    }

    /// The record of the open job with this id.
    pub fn job_record(&self, id: &str) -> Option<&JobRecord> {
        self.jobs.get(id).map(|job| &job.record)
    }

    /// The files and directories to be kept below `packages/NAME/`; `None` while a job may change them.
    pub fn keeps(&self, name: &str) -> Option<Vec<Box<str>>> {
        if self.jobs.open.iter().any(|job| *job.record.name == *name && job.record.phase != Phase::Done) {
            return None;
        }
        let mut kept = Vec::new();
        if let Some(agent) = self.agents.get(name) {
            for package in [&agent.record.package, &agent.record.previous].into_iter().flatten() {
                kept.extend(package.files());
            }
        }
        Some(kept)
    }

    /// What `packages/NAME/current` is to point to, for an agent that came in a tar.
    pub fn current(&self, name: &str) -> Option<Box<str>> {
        let package = self.agents.get(name)?.record.package.as_ref()?;
        package.format.is_tar().then(|| package.package.clone())
    }

    /// Does what follows from a change anywhere: answers to clients, the next steps of jobs, exchanges that are due.
    fn follow(&mut self) {
        // In a shutdown jobs stay as they are, as an agent that ends with the daemon says nothing about a job.
        if self.shutdown.is_none() {
            self.follow_jobs();
        }
        self.follow_leaving();
        self.follow_reexec();
        self.follow_waiters();
        self.poll_soon();
        if self.shutdown.is_none() {
            self.follow_exchanges();
        } else if self.agents.values().all(|agent| agent.is_down() || agent.is_stuck().is_some())
            || self.shutdown.is_some_and(|at| at <= self.now.time)
        {
            self.out.push(Action::Quit(0));
        }
    }

    /// At the end of a shutdown: the agents that it could not stop.
    pub fn unstopped(&self) -> impl Iterator<Item = &Agent> {
        self.agents.values().filter(|agent| self.shutdown.is_some() && !agent.is_down())
    }

    /// Does what is due at this moment.
    fn due(&mut self) {
        self.step_agents(None, &mut |agent, context| {
            if agent.deadline().is_some_and(|at| at <= context.now) {
                agent.due(context);
            }
        });
        self.reloads_due();
        if self.poll_at.is_some_and(|at| at <= self.now.time) {
            self.poll_at = None;
            if self.agents.values().any(Agent::polled) {
                self.measuring.check = true;
                self.measure();
            }
        }
        if self.shutdown.is_none() {
            self.jobs_due();
        }
        self.reexec_due();
    }

    /// Lets one agent take a step. When that changes its state, the servers are told soon.
    fn step_agent(&mut self, name: &str, step: &mut dyn FnMut(&mut Agent, &mut StepContext)) {
        self.step_agents(Some(name), step);
    }

    /// The same of one agent, or of all where there is no name. Not generic: the code would be there once for each of
    /// the many callers.
    fn step_agents(&mut self, name: Option<&str>, step: &mut dyn FnMut(&mut Agent, &mut StepContext)) {
        let mut reported = Vec::new();
        let (policy, boot_id, shutdown) = (self.options.policy, &self.options.boot_id, self.shutdown.is_some());
        let (out, mut changed) = (&mut self.out, false);
        let mut one = |agent: &mut Agent| {
            let before = agent.status();
            let reported = &mut reported;
            step(agent, &mut StepContext { now: self.now.time, policy, boot_id, shutdown, out, reported });
            changed |= agent.status() != before;
        };
        match name {
            Some(name) => self.agents.get_mut(name).into_iter().for_each(&mut one),
            None => self.agents.values_mut().for_each(&mut one),
        }
        if changed {
            self.exchanges.schedule.changed(self.now.time);
        }
        for (name, sentence) in reported {
            self.incident(name, &sentence);
        }
    }

    /// Reports that the wall clock was set. It changes nothing else: all times here are of the monotonic one.
    fn watch_clock(&mut self) {
        let offset = self.now.wall as i64 - (self.now.time.0 / 1_000_000_000) as i64;
        if let Some(before) = self.clock.replace(offset) {
            let jump = offset - before;
            if jump.unsigned_abs() > CLOCK_JUMP {
                let way = if jump > 0 { "forward" } else { "back" };
                let text = format!("the wall clock was set {way} by {} s", jump.unsigned_abs());
                self.log_and_report(Level::Warn, "bootagent".into(), &text);
            }
        }
    }

    /// Stops the daemon, alone or with all agents.
    fn shut_down(&mut self, how: Shutdown) {
        match how {
            Shutdown::Leave => self.out.push(Action::Quit(0)),
            Shutdown::Stop | Shutdown::Halt if self.shutdown.is_none() => {
                let longest = self.agents.values().map(Agent::stopsecs).max();
                self.shutdown = Some(self.now.time + longest.unwrap_or_default() + SHUTDOWN_MARGIN);
                let waiters = std::mem::take(&mut self.waiters).into_iter().map(|waiter| waiter.client);
                for client in waiters.chain(std::mem::take(&mut self.exchanges.reporting)) {
                    answer(&mut self.out, client, 1, format_args!("{ENDING}"));
                }
                let boot_id = self.options.boot_id.clone();
                self.out.push(Action::SaveStop(StopRecord { boot_id, at: self.now.time }));
                self.step_agents(None, &mut |agent, context| match how {
                    Shutdown::Halt => agent.request_end(context),
                    Shutdown::Stop | Shutdown::Leave => agent.request_stop(context),
                });
            }
            Shutdown::Stop | Shutdown::Halt => {}
        }
    }
}

/// Takes a name out of a list.
fn take_out(names: &mut Vec<Name>, name: &str) {
    names.retain(|known| **known != *name);
}

/// Whether an agent is defined by a file of the operator's, which no server can remove.
fn is_file(agent: &Agent) -> bool {
    agent.origin() == Some(Origin::File)
}
