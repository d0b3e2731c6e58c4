//! Takes a job through its plan, forwards and back. A step is recorded where the plan says so and begins; when it is
//! done, the next one follows. A step that fails ends the job, or has it undone.
//!
//! What a step does is in `step`; nothing here knows any of them.

use std::fmt::Arguments;

use super::open_job::{Activity, OpenJob};
use super::CANCELLED;
use crate::kernel::Level;
use crate::model::event::{log, Action};
use crate::model::job::{Code, JobId, Outcome};
use crate::model::plan::{Direction, Step};
use crate::model::record::Phase;
use crate::model::spec::Name;
use crate::model::state::State;

/// A job at work, and what it works with, the rest of the state.
pub(super) struct Run<'a> {
    pub state: &'a mut State,
    pub job: &'a mut OpenJob,
}

/// What came of beginning a step, or of what answers it.
#[derive(Debug)]
pub(super) enum StepResult {
    /// It is under way: an event, the state of the agent or the time ends it.
    Wait,
    /// It is done.
    Done,
    /// It is done, and so are all steps up to this one.
    DoneUpTo(Step),
    /// This step is to come next.
    GoTo(Step),
    /// It failed: what was changed is to be undone.
    Failed(Code, String),
    /// The job ends with this, and nothing is undone.
    End(Code, String),
}

impl State {
    /// Has the job at `index` do something. It is not in the list of open jobs meanwhile; no step of a job looks there.
    /// Not generic: the code would be there once for each of the many callers.
    pub(super) fn run(&mut self, index: usize, work: &mut dyn FnMut(&mut Run) -> StepResult) {
        let mut job = self.jobs.open.remove(index);
        let mut run = Run { state: self, job: &mut job };
        let result = work(&mut run);
        run.go(result);
        self.jobs.open.insert(index, job);
    }

    /// Ends the job at `index`; what it did stays.
    pub(super) fn finish(&mut self, index: usize, code: Code, message: &str) {
        self.run(index, &mut |_| StepResult::End(code, message.to_string()));
    }
}

impl Run<'_> {
    /// The job's id.
    pub fn id(&self) -> JobId {
        self.job.record.id.clone()
    }

    /// The agent's name.
    pub fn name(&self) -> Name {
        self.job.record.name.clone()
    }

    /// Logs something about the job.
    pub fn log(&mut self, level: Level, text: Arguments) {
        let id = &self.job.record.id;
        log(&mut self.state.out, level, format_args!("job \"{id}\": {text}"));
    }

    /// Continues with what came of a step, until the job waits for something or has ended.
    fn go(&mut self, mut result: StepResult) {
        loop {
            let next = match result {
                StepResult::Wait => return,
                StepResult::Done => self.after(self.job.record.step),
                StepResult::DoneUpTo(step) => self.after(Some(step)),
                StepResult::GoTo(step) => Some(step),
                StepResult::End(code, message) => return self.finish(code, &message),
                StepResult::Failed(code, why) => {
                    result = self.fail(code, why);
                    continue;
                }
            };
            let Some(step) = next else { return self.end() };
            if self.job.cancelled && self.job.can_be_cancelled() {
                result = StepResult::Failed(Code::Expired, CANCELLED.to_string());
                continue;
            }
            self.job.stand_at(step);
            if self.job.plan.is_recorded(self.job.record.direction, step) {
                return self.save();
            }
            result = self.begin();
        }
    }

    fn after(&self, step: Option<Step>) -> Option<Step> {
        self.job.plan.after(self.job.record.direction, step?)
    }

    /// Has the record written; the step that the job stands at begins when that is done.
    fn save(&mut self) {
        self.job.activity = Activity::Saving;
        self.write_record();
    }

    /// Has the record written, with the step that the job stands at.
    pub fn write_record(&mut self) {
        self.state.out.push(Action::SaveJob(Box::new(self.job.record.clone())));
    }

    /// Continues where an earlier daemon was.
    pub fn resume(&mut self) -> StepResult {
        let record = &self.job.record;
        let phase = record.phase;
        let plan = self.job.content.as_deref().and_then(|job| self.state.plan(job, &self.job.record));
        let step = plan.and_then(|plan| plan.resume(record.direction, phase, record.step.or(self.proved())));
        match (plan, step) {
            (Some(plan), Some(step)) => {
                (self.job.plan, self.job.record.step) = (*plan, Some(step));
                self.begin()
            }
            _ => StepResult::End(
                Code::BadJob,
                format!("its record says \"{}\", to which no such job comes", phase.name()),
            ),
        }
    }

    /// A step failed. In an undo this is added to the result, and the rest is undone nevertheless. Where nothing was
    /// changed yet, what was fetched is removed and the job ends. Otherwise the undo begins.
    fn fail(&mut self, code: Code, why: String) -> StepResult {
        if self.job.goes_back() {
            self.add_to_outcome(&why);
            return StepResult::Done;
        }
        let changed = self.job.record.step.is_some_and(|step| self.job.plan.changes(step)) || self.has_adopted();
        if !changed {
            self.discard();
            return StepResult::End(code, why);
        }
        let Some(first) = self.job.plan.first(Direction::Back) else { return StepResult::End(code, why) };
        let Some(outcome) = self.outcome_of_undoing(code, &why) else { return StepResult::End(code, why) };
        self.job.record.outcome = Some(outcome);
        self.job.record.direction = Direction::Back;
        self.job.goal = None;
        StepResult::GoTo(first)
    }

    /// Adds to the message of the result that will be reported.
    pub fn add_to_outcome(&mut self, text: &str) {
        if let Some(outcome) = &mut self.job.record.outcome {
            *outcome = Outcome::new(outcome.code, &format!("{}; {text}", outcome.message));
        }
    }

    /// All steps are done.
    fn end(&mut self) {
        match self.job.record.outcome.take().filter(|_| self.job.goes_back()) {
            Some(outcome) => self.finish(outcome.code, &outcome.message),
            None => {
                let message = match &*self.job.record.note {
                    _ if self.job.is_own() => self.success(),
                    "" => "success".to_string(),
                    note => format!("success; {note}"),
                };
                self.finish(Code::Success, &message);
            }
        }
    }

    /// Ends the job with a result; what it did stays.
    fn finish(&mut self, code: Code, message: &str) {
        let outcome = Outcome::new(code, message);
        let level = if code == Code::Success { Level::Info } else { Level::Error };
        self.log(level, format_args!("result {}: {}", code as u8, outcome.message));
        if self.job.source().is_some() {
            self.state.out.push(Action::RemoveDownload(self.id()));
        }
        let name = self.name();
        if let Some(agent) = self.state.agents.get_mut(&name).filter(|_| self.job.is_changing_package()) {
            agent.inventoried = false;
        }
        self.state.jobs.released.push(name);
        let record = &mut self.job.record;
        record.outcome = Some(outcome);
        (record.before, record.package) = (None, None);
        (record.text, record.note) = ("".into(), "".into());
        (record.phase, record.step, record.direction) = (Phase::Done, None, Direction::Forward);
        self.job.content = None;
        self.save();
    }
}
