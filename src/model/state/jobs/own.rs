//! Steps that only jobs of the daemon itself have: `restart` is a reexec, `upgrade` puts another binary in its place.
//!
//! The new binary is unpacked beside the installed one and tried; then `Reexec` is on record and it is executed, on trial. What
//! it does first is to go on to `Prove`; with its first good exchange it is put in the installed one's place. The installed
//! one, finding its job there, knows that the new one did not prove itself.

use std::time::Duration;

use super::open_job::{Activity, OpenJob};
use super::run::{Run, StepResult};
use crate::error::Error;
use crate::kernel::Time;
use crate::model::event::{Action, Now};
use crate::model::job::{Code, Job, JobAction, JobId, Outcome, Source, SELF};
use crate::model::plan::Step;
use crate::model::record::Installed;
use crate::model::state::State;

/// Where the new binary is unpacked, below `packages/bootagent/`, and its name there.
pub(super) const NEXT: &str = "next";
const BINARY: &str = "next/bootagent";

/// How long a new binary has for its first good exchange, unless the job says otherwise.
const STARTSECS: Duration = Duration::from_secs(60);

impl State {
    /// Tries the binary that a job ordered, once no other is tried.
    pub(super) fn follow_own_reexec(&mut self, index: usize, now: Now, out: &mut Vec<Action>) {
        if self.is_reexecing() {
            return;
        }
        let job = &self.tasks[index];
        let id = Some(job.record.id.clone());
        if job.record.step == Some(Step::TryNew) {
            let trial = job.content.as_ref().and_then(|job| job.startsecs).unwrap_or(STARTSECS);
            self.try_binary(self.own_binary(), None, id, Some(trial), now, out);
        } else {
            self.try_binary(self.options.program.clone(), None, id, None, now, out);
        }
    }

    fn own_binary(&self) -> Box<str> {
        format!("{}/{SELF}/{BINARY}", self.options.packages).into()
    }

    /// What stands for this version out of this package in the settings.
    fn own_package(&self, source: &Source) -> String {
        format!("{} {}", self.options.version, source.digest)
    }

    /// What the new binary calls itself.
    pub(in super::super) fn found_version(&mut self, job: &str, version: Box<str>) {
        let Some(index) = self.index(job) else { return };
        let job = &mut self.tasks[index];
        if let Some(source) = job.source() {
            let (format, digest, file) = (source.format, source.digest, State::kept_file(source));
            job.record.package = Some(Box::new(Installed { format, package: NEXT.into(), version, digest, file }));
        }
    }

    /// The binary that a job ordered was tried and is good.
    pub(in super::super) fn binary_is_good(&mut self, job: &str, now: Now, out: &mut Vec<Action>) {
        let Some(index) = self.index(job) else { return };
        self.run(index, now, out, |run| match run.job.record.step {
            Some(Step::TryNew | Step::TryInstalled) => StepResult::Done,
            // It is the installed one, which is to run now; nothing more has to be written down for that.
            _ => run.execute(),
        });
    }

    /// The binary that a job ordered is not executed.
    pub(in super::super) fn binary_not_executed(&mut self, job: &JobId, why: &str, now: Now, out: &mut Vec<Action>) {
        // In a shutdown the next daemon goes on with it.
        if let Some(index) = self.index(job).filter(|_| self.shutdown.is_none()) {
            self.run(index, now, out, |run| run.not_executed(why));
        }
    }

    /// A server has answered well: if this image is on trial, it has proved itself.
    pub(in super::super) fn proven(&mut self, now: Now, out: &mut Vec<Action>) {
        let proving = |job: &OpenJob| matches!(job.activity, Activity::Proving(_));
        if let Some(index) = self.tasks.iter().position(proving) {
            self.run(index, now, out, |run| {
                // What will be reported is on record before it is made so.
                run.job.record.outcome = Some(Outcome::new(Code::Success, &run.success()));
                StepResult::Done
            });
        }
    }

    /// Looks whether this image had its time.
    pub(super) fn proof_due(&mut self, now: Now, out: &mut Vec<Action>) {
        let late = |job: &OpenJob| matches!(job.activity, Activity::Proving(until) if until <= now.time);
        let Some(index) = self.tasks.iter().position(late) else { return };
        let text = format!("rolled back: {} had no good exchange with a server in its time", self.options.version);
        self.run(index, now, out, |_| StepResult::Failed(Code::RolledBack, text));
    }
}

impl Run<'_> {
    /// What is ordered of the daemon itself, and cannot be done or is done already.
    pub fn begin_own(&mut self, job: &Job) -> Result<(), StepResult> {
        match &job.action {
            JobAction::Restart => Ok(()),
            JobAction::Upgrade(source) if *self.state.settings.package == *self.state.own_package(source) => {
                let text = format!("success, {} is installed already", self.state.options.version);
                Err(StepResult::End(Code::Success, text))
            }
            JobAction::Upgrade(source) if source.format.is_tar() => Ok(()),
            JobAction::Upgrade(_) => {
                let text = "url: want a .tar, .tar.gz, .tgz or .tar.xz that holds the binary \"bootagent\"";
                Err(StepResult::End(Code::BadJob, text.to_string()))
            }
            _ => {
                let text = "only upgrade and restart can be done to bootagent";
                Err(StepResult::End(Code::Refused, text.to_string()))
            }
        }
    }

    pub fn success(&self) -> String {
        format!("success, {} runs", self.state.options.version)
    }

    /// The step of a job whose outcome is on record as a success before its end: 1.0.0 notes it so.
    pub fn proved(&self) -> Option<Step> {
        let proved = |outcome: &Outcome| self.job.is_own() && outcome.code == Code::Success;
        self.job.record.outcome.as_ref().filter(|outcome| proved(outcome)).map(|_| Step::Replace)
    }

    /// Whether this job has put this image in the place of another.
    fn brought_us(&self) -> bool {
        self.state.brought_by.as_ref() == Some(&self.job.record.id)
    }

    /// Until when this image is on trial, if it is by this job.
    fn trial(&self) -> Option<Time> {
        self.state.trial.filter(|_| self.brought_us())
    }

    pub fn try_installed(&mut self) -> StepResult {
        match self.brought_us() {
            true => StepResult::DoneUpTo(Step::Reexec),
            false => self.wait_for(Activity::Reexec),
        }
    }

    /// Has the binary executed that was tried. In the image that it has become it is done.
    pub fn reexec(&mut self) -> StepResult {
        if self.trial().is_some() {
            return StepResult::Done;
        }
        if self.state.is_good_for(&self.job.record.id) {
            return self.execute();
        }
        // Whether it came to the exec is not known, unless a watcher has something to say.
        match self.state.undone.is_some() {
            true => self.not_proved(),
            false => StepResult::GoTo(Step::Unpack),
        }
    }

    fn execute(&mut self) -> StepResult {
        self.state.reexec_recorded(self.now);
        self.wait_for(Activity::Reexec)
    }

    fn not_executed(&mut self, why: &str) -> StepResult {
        let reported = self.job.record.outcome.as_ref().map(|outcome| outcome.message.clone()).unwrap_or_default();
        match (self.job.record.step, self.job.action()) {
            (Some(Step::TryNew | Step::Reexec), Some(JobAction::Upgrade(_))) => {
                StepResult::Failed(Code::Install, format!("cannot install: {why}; nothing is changed"))
            }
            (Some(Step::TryInstalled | Step::Reexec), _) => {
                StepResult::Failed(Code::Start, format!("cannot restart: {why}"))
            }
            _ => {
                self.state.trial = None;
                let text = format!("{reported}; it stays, as the one before cannot be executed: {why}");
                StepResult::End(Code::Install, text)
            }
        }
    }

    pub fn prove(&mut self) -> StepResult {
        match self.trial() {
            Some(until) => self.wait_for(Activity::Proving(until)),
            None => self.not_proved(),
        }
    }

    /// This is the installed binary again, and the new one has left no word.
    fn not_proved(&mut self) -> StepResult {
        let new = self.job.record.package.as_ref().map_or("the new one", |package| &package.version);
        let why = self.state.undone.take();
        let why = why.as_deref().unwrap_or("it ended before its first good exchange with a server");
        let text = format!("rolled back from {new} to {}: {why}", self.state.options.version);
        self.discard();
        StepResult::End(Code::RolledBack, text)
    }

    pub fn replace(&mut self) -> StepResult {
        if self.brought_us() && self.state.trial.is_none() {
            return StepResult::Done;
        }
        let binary = self.state.own_binary();
        self.ask(Action::Replace(self.id(), binary))
    }

    /// The new binary was put in the place of the installed one, or could not be.
    pub fn replaced(&mut self, result: Result<(), Error>) -> StepResult {
        match result {
            Ok(()) if self.state.trial.take().is_some() => StepResult::Done,
            // An earlier image was interrupted here. Either may run now, so the installed one is executed.
            Ok(()) => self.wait_for(Activity::Reexec),
            Err(why) => StepResult::Failed(Code::Install, format!("cannot install: {why}; undone")),
        }
    }

    /// The new binary is the installed one: which package brought it is remembered, its files are not needed any more.
    pub fn remember(&mut self) -> StepResult {
        if let Some(source) = self.job.source() {
            self.state.settings.package = self.state.own_package(source).into();
            self.out.push(Action::SaveSettings(self.state.settings.clone()));
        }
        self.discard()
    }

    /// Gives the place back to the installed binary, which finds the same step and is at the end of it.
    pub fn go_back(&mut self) -> StepResult {
        if self.trial().is_some() {
            self.state.reexec_back(self.id(), self.now);
            return self.wait_for(Activity::Reexec);
        }
        let text = format!("{} runs again", self.state.options.version);
        self.add_to_outcome(&text);
        self.discard()
    }
}
