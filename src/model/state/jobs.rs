//! Jobs from receipt to result: whose turn it is, and what is due.
//!
//! What a job does is a plan (`model::plan`). `receive` takes jobs in, `queue` holds them, this file begins them in
//! their turn, `run` takes them through their plans, and `step` says what each step begins and when it is done, with
//! `download`, `package`, `remove`, `undo`, `clear`, `tools` and `own`. What a job found before it changed anything stays in its
//! record until its end, as an undo restores it.

mod clear;
mod download;
mod own;
mod package;
mod queue;
mod receive;
mod remove;
mod run;
mod step;
mod open_job;
mod tools;
mod undo;

use std::mem::discriminant;

use super::State;
use crate::kernel::{Level, Time};
use crate::model::event::{log, Action};
use crate::model::job::{Code, Job, JobAction, JobId};
use crate::model::plan::{Direction, Plan, Step};
use crate::model::record::{JobRecord, Phase};
use crate::model::trust;
use open_job::Activity;
pub(super) use open_job::OpenJob;
pub(super) use package::{is_same_package, one_version};
pub(super) use queue::JobQueue;
use run::{Run, StepResult};

/// The message of a job that a server cancelled.
const CANCELLED: &str = "cancelled by the server";

impl State {
    /// Where the job with this id is among the open ones, for an `event` that only an open job can cause. An id of none is
    /// logged.
    pub(super) fn expect_job(&mut self, id: &JobId, event: &str) -> Option<usize> {
        let index = self.jobs.index(id);
        if index.is_none() {
            log(&mut self.out, Level::Warn, format_args!("job \"{id}\": {event}, and it is not open, ignored"));
        }
        index
    }

    /// The plan of a job that has begun; `None`: there is no such job.
    fn plan(&self, job: &Job, record: &JobRecord) -> Option<&'static Plan> {
        let same =
            record.package.as_deref().filter(|package| record.former() == Some(package)).is_some_and(|package| {
                let agent = self.agents.get(&job.name);
                agent.map_or(package.format.is_tar(), |agent| package::is_known(package, agent))
            });
        Plan::of(job, same)
    }

    /// Lets every job continue that can.
    pub(super) fn follow_jobs(&mut self) {
        let mut index = 0;
        while index < self.jobs.open.len() {
            let before = (discriminant(&self.jobs.open[index].activity), self.jobs.open[index].record.step);
            self.follow_job(index);
            // If something has changed, the same job may continue at once.
            if before == (discriminant(&self.jobs.open[index].activity), self.jobs.open[index].record.step) {
                index += 1;
            }
        }
        if !self.jobs.released.is_empty() && std::mem::take(&mut self.jobs.reread_on_release) {
            self.out.push(Action::RereadDefinitions);
        }
        for name in std::mem::take(&mut self.jobs.released) {
            self.restart_outdated(&name);
        }
    }

    /// Lets the job at `index` continue if it can.
    fn follow_job(&mut self, index: usize) {
        if self.is_held(index) {
            return;
        }
        let job = &self.jobs.open[index];
        match &job.activity {
            Activity::Queued => self.follow_queued(index),
            Activity::WaitingForSlot => self.follow_slot(index),
            Activity::Reexec => self.follow_own_reexec(index),
            Activity::Step if job.is_at(Step::Stop) => self.run(index, &mut |run| run.follow_stop()),
            Activity::Step if job.is_at(Step::Settle) => self.run(index, &mut |run| run.follow_settling()),
            _ => {}
        }
    }

    /// Whether a job waits until it is known what must be signed. A job that has put something in its place does not
    /// wait.
    pub(super) fn is_held(&self, index: usize) -> bool {
        let job = &self.jobs.open[index];
        self.options.closed.is_some() && job.record.phase <= Phase::Installing && !job.goes_back()
    }

    /// Whether a package is being verified or unpacked.
    pub(super) fn is_unpacking(&self) -> bool {
        let steps = [Step::Verify, Step::Unpack, Step::Install];
        self.jobs.open.iter().any(|job| steps.iter().any(|step| job.is_at(*step)))
    }

    /// Whether every earlier job for the same agent has ended.
    fn is_first(&self, index: usize) -> bool {
        let name = self.jobs.open[index].name();
        self.jobs.open[..index].iter().all(|earlier| earlier.name() != name || earlier.has_ended())
    }

    /// Resumes or begins a job that waits for its turn, or ends it when it has expired.
    fn follow_queued(&mut self, index: usize) {
        let job = &self.jobs.open[index];
        if job.record.phase != Phase::Received {
            self.run(index, &mut |run| run.resume());
        } else if job.cancelled {
            self.finish(index, Code::Expired, CANCELLED);
        } else if job.expires_at().is_some_and(|at| at <= self.now.time) {
            self.finish(index, Code::Expired, "expired before it could begin");
        } else if self.is_first(index) && job.begin_at(&self.identity.sn) <= self.now.time {
            self.run(index, &mut |run| run.begin_job());
        }
    }

    /// Ends jobs for the same agent that wait before the job at `index`, if this one makes them pointless.
    fn cancel_queued(&mut self, index: usize) {
        let job = &self.jobs.open[index];
        if !matches!(job.action(), Some(JobAction::Stop | JobAction::Uninstall)) || job.is_own() {
            return;
        }
        let (text, name) = (format!("cancelled by job \"{}\"", job.record.id), job.name().clone());
        for other in 0..index {
            if self.jobs.open[other].is_waiting() && *self.jobs.open[other].name() == name {
                self.finish(other, Code::Expired, &text);
            }
        }
    }

    /// A server wants a job to end. One that has begun to change something goes on. An answer to a step that is under way
    /// ends the job as well, but nothing waits for a download.
    pub(super) fn cancel(&mut self, id: &JobId) {
        let Some(index) = self.jobs.index(id).filter(|index| self.jobs.open[*index].can_be_cancelled()) else { return };
        let job = &mut self.jobs.open[index];
        job.cancelled = true;
        match job.activity {
            Activity::Fetching => self.out.push(Action::StopFetch(id.clone())),
            Activity::WaitingForSlot | Activity::FetchAgain(..) => {}
            _ => return,
        }
        self.finish(index, Code::Expired, CANCELLED);
    }

    /// When the first job continues by itself.
    pub(super) fn jobs_deadline(&self) -> Option<Time> {
        let mut first = self.fetch_turn().map(|(_, until)| until);
        for (index, job) in self.jobs.open.iter().enumerate().filter(|(index, _)| !self.is_held(*index)) {
            first = Time::earliest(&[first, job.deadline(&self.identity.sn, self.is_first(index))]);
            if let Some(goal) = job.goal.filter(|_| job.is_at(Step::Settle)) {
                first = Time::earliest(&[first, self.wait_until(job.name(), goal)]);
            }
        }
        first
    }

    /// Does what is due of jobs at this moment.
    pub(super) fn jobs_due(&mut self) {
        self.proof_due();
        self.fetch_turn_due();
        for index in 0..self.jobs.open.len() {
            let job = &mut self.jobs.open[index];
            match &job.activity {
                Activity::SaveAgain(at) if *at <= self.now.time => {
                    job.activity = Activity::Saving;
                    self.out.push(Action::SaveJob(Box::new(job.record.clone())));
                }
                Activity::FetchAgain(at, _) if *at <= self.now.time => job.activity = Activity::WaitingForSlot,
                Activity::Tools(_) => self.run(index, &mut |run| run.tool_due()),
                _ => {}
            }
        }
    }
}

impl Run<'_> {
    /// Begins the job with the first step of its plan, or ends it with the reason why it has none.
    fn begin_job(&mut self) -> StepResult {
        let Some(job) = self.job.content.clone() else { return self.misfit() };
        if let Some(why) = self.objection(&job) {
            return StepResult::End(Code::Refused, format!("refused: {why}"));
        }
        let ready = if self.job.is_own() { self.begin_own(&job) } else { self.begin_for_agent(&job) };
        if let Err(end) = ready {
            return end;
        }
        let plan = self.state.plan(&job, &self.job.record);
        match plan.and_then(|plan| Some((plan, plan.first(Direction::Forward)?))) {
            Some((plan, first)) => {
                self.job.plan = *plan;
                StepResult::GoTo(first)
            }
            None => self.misfit(),
        }
    }

    /// Why a job is refused before anything is done for it, where packages must be signed. A definition inside of a
    /// package is judged once the package is on the host.
    fn objection(&self, job: &Job) -> Option<String> {
        if !self.state.options.signed {
            return None;
        }
        let agent = self.agent();
        let packaged =
            matches!(job.action, JobAction::Install(_) | JobAction::Upgrade(_)) && !agent.is_some_and(super::is_file);
        let defined = agent.filter(|_| !packaged || self.job.is_own());
        trust::objection(job).or_else(|| trust::env_objection(job.envs.as_ref(), defined?.definition.as_ref()))
    }

    /// Notes what the job finds of its agent; `Err`: the job ends with that.
    fn begin_for_agent(&mut self, job: &Job) -> Result<(), StepResult> {
        let name = &job.name;
        let known = self.state.agents.get(name).filter(|_| !self.state.leaving.contains(name));
        let Some(agent) = known else {
            return match job.action {
                JobAction::Config { .. } if name.is_empty() => Ok(()),
                JobAction::Install(_) => self.begin_install(job),
                _ => Err(StepResult::End(Code::NoAgent, format!("no agent \"{name}\" on this host"))),
            };
        };
        match job.action {
            JobAction::Install(_) | JobAction::Upgrade(_) => return self.begin_install(job),
            JobAction::Uninstall if super::is_file(agent) => {
                let text = format!("agent \"{name}\" is defined by a file on the host: stop it instead");
                return Err(StepResult::End(Code::Refused, text));
            }
            JobAction::Config { .. } if !package::changes(job, agent) => {
                return Err(StepResult::End(Code::Success, "success, nothing changed".to_string()));
            }
            JobAction::Uninstall | JobAction::Config { .. } => {
                self.job.record.before = Some(Box::new(agent.record.clone()));
            }
            JobAction::Start | JobAction::Stop | JobAction::Restart | JobAction::Reload => {}
        }
        Ok(())
    }
}
