//! Runs any plan, forwards and back: a step is written down where it must be, begins, and when it is done the next one follows.
//! A step that fails ends the job, or turns it round.

use super::task::{Doing, Task};
use crate::kernel::Level;
use crate::model::event::{log, Action, Now};
use crate::model::job::{Code, JobId, Outcome};
use crate::model::plan::{Direction, Step};
use crate::model::record::Phase;
use crate::model::spec::Name;
use crate::model::state::State;

/// A job at work, and what it works with: all the rest of the state, the moment, and what is to be done.
pub(super) struct Run<'a> {
    pub state: &'a mut State,
    pub task: &'a mut Task,
    pub now: Now,
    pub out: &'a mut Vec<Action>,
}

/// What came of beginning a step, or of what answers it.
#[derive(Debug)]
pub(super) enum Then {
    /// It is under way: an event, the agent or the time will tell.
    Wait,
    /// It is done.
    Done,
    /// It is done, and so is all up to this step.
    Past(Step),
    /// This step is to come next.
    Go(Step),
    /// It failed: what is changed is to be undone.
    Failed(Code, String),
    /// The job is over, with nothing to be undone.
    Over(Code, String),
}

impl State {
    /// Has the job at `index` do something. No step of a job looks at the list of jobs, which is without it meanwhile.
    pub(super) fn run(&mut self, index: usize, now: Now, out: &mut Vec<Action>, work: impl FnOnce(&mut Run) -> Then) {
        let mut task = self.tasks.remove(index);
        let mut run = Run { state: self, task: &mut task, now, out };
        let then = work(&mut run);
        run.go(then);
        self.tasks.insert(index, task);
    }

    /// Ends the job at `index`; what it did stays.
    pub(super) fn finish(&mut self, index: usize, code: Code, message: &str, now: Now, out: &mut Vec<Action>) {
        self.run(index, now, out, |_| Then::Over(code, message.to_string()));
    }
}

impl Run<'_> {
    pub fn id(&self) -> JobId {
        self.task.record.id.clone()
    }

    pub fn name(&self) -> Name {
        self.task.record.name.clone()
    }

    /// Goes on from what came of a step, until something is to be waited for.
    fn go(&mut self, mut then: Then) {
        loop {
            let next = match then {
                Then::Wait => return,
                Then::Done => self.after(self.task.record.step),
                Then::Past(step) => self.after(Some(step)),
                Then::Go(step) => Some(step),
                Then::Over(code, message) => return self.finish(code, &message),
                Then::Failed(code, why) => {
                    then = self.fail(code, why);
                    continue;
                }
            };
            let Some(step) = next else { return self.end() };
            self.task.stand_at(step);
            if self.task.plan.is_recorded(self.task.record.direction, step) {
                return self.save();
            }
            then = self.begin();
        }
    }

    fn after(&self, step: Option<Step>) -> Option<Step> {
        self.task.plan.after(self.task.record.direction, step?)
    }

    /// Has the record written; the step that the job stands at begins when that is done.
    fn save(&mut self) {
        self.task.doing = Doing::Saving;
        self.out.push(Action::SaveJob(Box::new(self.task.record.clone())));
    }

    /// Goes on where an earlier daemon was.
    pub fn resume(&mut self) -> Then {
        let record = &self.task.record;
        let phase = record.phase;
        let plan = self.task.job.as_deref().and_then(|job| self.state.plan(job, self.task));
        let step = plan.and_then(|plan| plan.resume(record.direction, phase, record.step.or(self.proved())));
        match (plan, step) {
            (Some(plan), Some(step)) => {
                (self.task.plan, self.task.record.step) = (plan, Some(step));
                self.begin()
            }
            _ => Then::Over(Code::BadJob, format!("its record says \"{}\", to which no such job comes", phase.name())),
        }
    }

    /// A step failed. On the way back that is said, and the rest is undone all the same; where nothing was changed yet, what was
    /// brought is thrown away; otherwise the job turns round.
    fn fail(&mut self, code: Code, why: String) -> Then {
        if self.task.goes_back() {
            self.add_to_outcome(&why);
            return Then::Done;
        }
        let changed = self.task.record.step.is_some_and(|step| self.task.plan.changes(step)) || self.has_adopted();
        if !changed {
            self.discard();
            return Then::Over(code, why);
        }
        let Some(first) = self.task.plan.first(Direction::Back) else { return Then::Over(code, why) };
        let Some(outcome) = self.outcome_of_undoing(code, &why) else { return Then::Over(code, why) };
        self.task.record.outcome = Some(outcome);
        self.task.record.direction = Direction::Back;
        self.task.goal = None;
        Then::Go(first)
    }

    /// Adds to what will be reported.
    pub fn add_to_outcome(&mut self, text: &str) {
        if let Some(outcome) = &mut self.task.record.outcome {
            *outcome = Outcome::new(outcome.code, &format!("{}; {text}", outcome.message));
        }
    }

    /// All steps are done.
    fn end(&mut self) {
        match self.task.record.outcome.take().filter(|_| self.task.goes_back()) {
            Some(outcome) => self.finish(outcome.code, &outcome.message),
            None => {
                let message = if self.task.is_own() { self.success() } else { "success".to_string() };
                self.finish(Code::Success, &message);
            }
        }
    }

    /// Ends the job with a result; what it did stays.
    fn finish(&mut self, code: Code, message: &str) {
        let outcome = Outcome::new(code, message);
        let id = self.id();
        let level = if code == Code::Success { Level::Info } else { Level::Error };
        log(self.out, level, format_args!("job \"{id}\": result {}: {}", code as u8, outcome.message));
        if self.task.source().is_some() {
            self.out.push(Action::RemoveDownload(id));
        }
        self.state.released.push(self.name());
        let record = &mut self.task.record;
        record.outcome = Some(outcome);
        (record.before, record.package) = (None, None);
        record.text = "".into();
        (record.phase, record.step, record.direction) = (Phase::Done, None, Direction::Forward);
        self.task.job = None;
        self.save();
    }
}
