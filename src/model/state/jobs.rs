//! Jobs on their way from receipt to result.
//!
//! A job's phase is on disk before anything is done in it (`go`, then `saved`, then `act`), so that after any interruption
//! `act` is simply done again: every phase's work can be repeated without harm. What a job found before it changed anything
//! stays in its record until the end; `undo` goes back to that.
//!
//! `receive` takes jobs in, this file leads them from phase to phase, `order` does what needs no package, `install`,
//! `adopt` and `undo` what does, `own` what is ordered of the daemon itself; `work` follows the children of all.

mod adopt;
mod install;
mod order;
mod own;
mod receive;
mod task;
mod undo;
mod work;

use super::{Progress, State};
use std::fmt::Arguments;
use std::time::Duration;

use crate::kernel::{Level, Time};
use crate::model::agent::Agent;
use crate::model::event::{log, Action, Now};
use crate::model::job::{Code, Job, Order, Outcome};
use crate::model::record::{Phase, Wanted};
use crate::model::spec::Name;
use crate::model::trust;
pub(super) use task::Task;
use task::{Ask, Doing};

/// How long a download keeps others waiting: it goes on after them, where it was.
const FETCH_TURN: Duration = Duration::from_secs(600);

/// The name by which jobs mean the daemon itself.
pub const SELF: &str = "bootagent";

impl State {
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
        if let Some(why) = self.unsigned(index) {
            return self.unfit(index, Code::Refused, format_args!("refused: {why}"), now, out);
        }
        let task = &mut self.tasks[index];
        let own = *task.record.name == *SELF;
        match task.record.phase {
            Phase::Received => {
                task.doing = Doing::Queued;
                self.cancel_queued(index, out);
            }
            Phase::Downloading => task.doing = Doing::WaitingForSlot,
            Phase::Verified => self.verify(index, out),
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
    fn finish(&mut self, index: usize, code: Code, message: Arguments, out: &mut Vec<Action>) {
        let outcome = Outcome::new(code, &message.to_string());
        let task = &mut self.tasks[index];
        let id = task.record.id.clone();
        let level = if code == Code::Success { Level::Info } else { Level::Error };
        log(out, level, format_args!("job \"{id}\": result {}: {}", code as u8, outcome.message));
        if matches!(task.order(), Some(Order::Install(_) | Order::Upgrade(_))) {
            out.push(Action::DropDownload(id));
        }
        task.record.outcome = Some(outcome);
        (task.record.before, task.record.package) = (None, None);
        task.record.text = "".into();
        task.job = None;
        self.released.push(task.record.name.clone());
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
        if !self.released.is_empty() && std::mem::take(&mut self.awaited) {
            out.push(Action::Reload);
        }
        for name in std::mem::take(&mut self.released) {
            self.renew_outdated(&name, now, out);
        }
    }

    fn follow_job(&mut self, index: usize, now: Now, out: &mut Vec<Action>) {
        // An agent that ends with the daemon says nothing about a job: the next daemon goes on with it.
        if self.shutdown.is_some() {
            return;
        }
        if self.is_held(index) {
            return;
        }
        let name = self.tasks[index].record.name.clone();
        match &self.tasks[index].doing {
            Doing::Queued => self.follow_queued(index, now, out),
            Doing::WaitingForSlot if !self.is_leaving() && self.is_next_to_fetch(index) => {
                let task = &mut self.tasks[index];
                (task.doing, task.turn) = (Doing::Fetching, now.time);
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

    /// Why a package that is about to be installed must not be: an earlier daemon began when none needed to be signed.
    fn unsigned(&self, index: usize) -> Option<String> {
        let task = &self.tasks[index];
        let begun = task.resumed && task.record.phase == Phase::Installing && !task.undoing();
        self.source(index).filter(|_| begun && self.options.signed)?;
        trust::objection(task.job.as_deref()?)
    }

    /// Whether a job waits until it is known what must be signed: it has not put anything in its place yet.
    pub(super) fn is_held(&self, index: usize) -> bool {
        let task = &self.tasks[index];
        self.options.closed.is_some() && task.record.phase <= Phase::Installing && !task.undoing()
    }

    /// Whether a package is being verified or unpacked.
    pub(super) fn is_unpacking(&self) -> bool {
        self.tasks.iter().any(|task| matches!(task.doing, Doing::Asked(Ask::Verify | Ask::Unpack)))
    }

    /// Somebody may want the agent up while a job is bringing it down.
    fn follow_stopping(&mut self, index: usize, name: &str, now: Now, out: &mut Vec<Action>) {
        let Some(agent) = self.agents.get(name).filter(|agent| !agent.is_going_down()) else { return };
        if agent.wanted() == Wanted::Up && matches!(self.tasks[index].order(), Some(Order::Stop)) {
            return self.finish(index, Code::Expired, format_args!("cancelled: the agent was started meanwhile"), out);
        }
        self.turn(name, now, out, &mut |agent, turn| agent.order_down(turn));
    }

    /// Whether nothing is fetched, and nobody has waited for longer.
    fn is_next_to_fetch(&self, index: usize) -> bool {
        let turn = self.tasks[index].turn;
        self.tasks.iter().all(|task| match task.doing {
            Doing::Fetching => false,
            Doing::WaitingForSlot => task.turn >= turn,
            _ => true,
        })
    }

    /// The download that others wait for, and when it is their turn.
    fn fetch_turn(&self) -> Option<(usize, Time)> {
        self.tasks.iter().find(|task| matches!(task.doing, Doing::WaitingForSlot))?;
        let index = self.tasks.iter().position(|task| matches!(task.doing, Doing::Fetching))?;
        Some((index, self.tasks[index].turn + FETCH_TURN))
    }

    /// Whether no earlier job for the same agent is still to end.
    fn is_first(&self, index: usize) -> bool {
        let name = &self.tasks[index].record.name;
        self.tasks[..index].iter().all(|earlier| earlier.record.name != *name || earlier.has_ended())
    }

    fn follow_queued(&mut self, index: usize, now: Now, out: &mut Vec<Action>) {
        let task = &self.tasks[index];
        if task.record.phase == Phase::Received && task.expires_at().is_some_and(|at| at <= now.time) {
            return self.finish(index, Code::Expired, format_args!("expired before it could begin"), out);
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
        if let Some(why) = self.objection(job) {
            return self.finish(index, Code::Refused, format_args!("refused: {why}"), out);
        }
        let name = job.name.clone();
        if *name == *SELF {
            return self.begin_own(index, out);
        }
        let known = self.agents.get(&name).filter(|_| !self.leaving.contains(&name));
        match &job.order {
            Order::Config { .. } if name.is_empty() => self.configure(index, now, out),
            Order::Install(_) => self.begin_install(index, out),
            Order::Upgrade(_) if known.is_some() => self.begin_install(index, out),
            Order::Uninstall if known.is_some_and(super::is_file) => {
                self.finish(
                    index,
                    Code::Refused,
                    format_args!("agent \"{name}\" is defined by a file on the host: stop it instead"),
                    out,
                );
            }
            Order::Config { .. } if known.is_some() => self.overlay(index, out),
            Order::Start | Order::Restart | Order::Stop if known.is_some() => self.go(index, Phase::Starting, out),
            Order::Uninstall if known.is_some() => {
                let before = known.map(|agent| Box::new(agent.record.clone()));
                self.tasks[index].record.before = before;
                self.go(index, Phase::Starting, out);
            }
            _ => self.finish(index, Code::NoAgent, format_args!("no agent \"{name}\" on this host"), out),
        }
    }

    /// Why a job is refused before anything is done for it, where packages must be signed. What a package's own definition
    /// names is known when that is here.
    fn objection(&self, job: &Job) -> Option<String> {
        if !self.options.signed {
            return None;
        }
        let agent = self.agents.get(&job.name);
        let packaged = matches!(job.order, Order::Install(_) | Order::Upgrade(_)) && !agent.is_some_and(super::is_file);
        let defined = agent.filter(|_| !packaged || *job.name == *SELF);
        let names = || trust::env_objection(job.envs.as_ref(), defined?.definition.as_ref());
        trust::objection(job).or_else(names)
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
                self.finish(other, Code::Expired, format_args!("cancelled by job \"{id}\""), out);
            }
        }
    }

    pub(super) fn tasks_deadline(&self) -> Option<Time> {
        let mut first = self.fetch_turn().map(|(_, until)| until);
        for (index, task) in self.tasks.iter().enumerate().filter(|(index, _)| !self.is_held(*index)) {
            first = Time::earliest(&[first, task.deadline(&self.identity.sn, self.is_first(index))]);
            if let (Doing::Settling, Some(goal)) = (&task.doing, task.goal) {
                first = Time::earliest(&[first, self.wait_until(&task.record.name, goal)]);
            }
        }
        first
    }

    pub(super) fn tasks_due(&mut self, now: Now, out: &mut Vec<Action>) {
        self.proof_due(now, out);
        if let Some((index, _)) = self.fetch_turn().filter(|(_, until)| *until <= now.time) {
            let task = &mut self.tasks[index];
            task.turn = now.time;
            out.push(Action::CutFetch(task.record.id.clone()));
        }
        for task in &mut self.tasks {
            let id = &task.record.id;
            match &mut task.doing {
                Doing::SaveAgain(at) if *at <= now.time => {
                    task.doing = Doing::Saving;
                    out.push(Action::SaveJob(Box::new(task.record.clone())));
                }
                Doing::FetchAgain(at, _) if *at <= now.time => task.doing = Doing::WaitingForSlot,
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

    fn job_name(&self, index: usize) -> Name {
        self.tasks[index].record.name.clone()
    }
}
