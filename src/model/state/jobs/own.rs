//! Steps that only jobs for the daemon itself have: `restart` is a reexec of the installed binary, `upgrade` one of a
//! new binary.
//!
//! The new binary is unpacked beside the installed one and tried. Then the step `Reexec` is recorded, and the new
//! binary is executed on trial. It first records the step `Prove`, and replaces the installed binary after its first
//! good exchange with a server. If the installed binary runs again and finds its job at `Prove`, the new one has
//! failed.

use std::time::Duration;

use super::open_job::{Activity, OpenJob};
use super::package::cannot_install;
use super::run::{Run, StepResult};
use crate::error::Error;
use crate::kernel::Time;
use crate::model::event::Action;
use crate::model::job::{Code, Job, JobAction, JobId, Outcome, Source, SELF};
use crate::model::plan::Step;
use crate::model::record::Installed;
use crate::model::state::reexec::is_version_of;
use crate::model::state::State;

/// Where the new binary is unpacked, below `packages/bootagent/`, and its name there.
pub(super) const NEXT: &str = "next";
const BINARY: &str = "next/bootagent";

/// How long a new binary may take for its first good exchange, unless the job has a `startsecs`.
const STARTSECS: Duration = Duration::from_secs(60);

impl State {
    /// Tries the binary that a job is to have executed, once no other reexec is under way.
    pub(super) fn follow_own_reexec(&mut self, index: usize) {
        if self.reexec.is_pending() {
            return;
        }
        let job = &self.jobs.open[index];
        let id = Some(job.record.id.clone());
        if job.record.step == Some(Step::TryNew) {
            let trial = job.content.as_ref().and_then(|job| job.startsecs).unwrap_or(STARTSECS);
            self.try_binary(self.own_binary(), None, id, Some(trial));
        } else {
            self.try_binary(self.options.program.clone(), None, id, None);
        }
    }

    /// The path of the new binary.
    fn own_binary(&self) -> Box<str> {
        format!("{}/{SELF}/{BINARY}", self.options.packages).into()
    }

    /// What the settings say when this version runs and has come with this package.
    fn own_package(&self, source: &Source) -> String {
        format!("{} {}", self.options.version, source.digest)
    }

    /// Notes the version that the new binary of a job reports; why it is refused, if it is not the one that the job says.
    pub(in super::super) fn note_version(&mut self, job: &JobId, version: Box<str>) -> Option<String> {
        let index = self.expect_job(job, "the new binary said its version")?;
        let job = &mut self.jobs.open[index];
        let source = job.source()?;
        let wanted = job.content.as_ref().and_then(|job| job.version.as_ref());
        if let Some(wanted) = wanted.filter(|wanted| !is_version_of(&version, wanted)) {
            return Some(format!("the job says version {wanted}, but the binary says {version}"));
        }
        let file = State::kept_file(source);
        let package = Installed { file, ..Installed::new(source, NEXT.into(), version) };
        job.record.package = Some(Box::new(package));
        None
    }

    /// The binary that a job is to have executed was tried and is good.
    pub(in super::super) fn binary_is_good(&mut self, job: &JobId) {
        let Some(index) = self.expect_job(job, "its binary was tried") else { return };
        self.run(index, &mut |run| match run.job.record.step {
            Some(Step::TryNew | Step::TryInstalled) => StepResult::Done,
            // It is the installed binary; nothing more has to be recorded before it is executed.
            _ => run.execute(),
        });
    }

    /// The binary that a job is to have executed is not executed.
    pub(in super::super) fn binary_not_executed(&mut self, job: &JobId, why: &str) {
        // After a shutdown the next daemon continues the job.
        if self.shutdown.is_some() {
            return;
        }
        if let Some(index) = self.expect_job(job, "its binary is not executed") {
            self.run(index, &mut |run| run.not_executed(why));
        }
    }

    /// A server has given a good answer: if this binary is on trial, it has proved itself.
    pub(in super::super) fn binary_proved(&mut self) {
        let proving = |job: &OpenJob| matches!(job.activity, Activity::Proving(_));
        if let Some(index) = self.jobs.open.iter().position(proving) {
            self.run(index, &mut |run| {
                // The result is recorded before the binary is replaced, so that a crash in between ends in this result,
                // too.
                run.job.record.outcome = Some(Outcome::new(Code::Success, &run.success()));
                StepResult::Done
            });
        }
    }

    /// Fails the job when this binary on trial had no good exchange in time.
    pub(super) fn proof_due(&mut self) {
        let late = |job: &OpenJob| matches!(job.activity, Activity::Proving(until) if until <= self.now.time);
        let Some(index) = self.jobs.open.iter().position(late) else { return };
        self.run(index, &mut |run| {
            let text = "had no good exchange with a server in its time";
            StepResult::Failed(Code::RolledBack, format!("rolled back: {} {text}", run.state.options.version))
        });
    }
}

impl Run<'_> {
    /// Checks a job for the daemon itself.
    ///
    /// # Errors
    /// How it ends at once, where it cannot be done or is done already.
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

    /// The message of a job for the daemon itself that succeeds.
    pub fn success(&self) -> String {
        format!("success, {} runs", self.state.options.version)
    }

    /// The step of an upgrade whose binary has proved itself, in a record of 1.0.0, which has no steps: its outcome is
    /// a success before the end of the job.
    pub fn proved(&self) -> Option<Step> {
        let proved = self.job.is_own() && self.job.record.outcome.as_ref()?.code == Code::Success;
        proved.then_some(Step::Replace)
    }

    /// Whether this job had the binary executed that runs now.
    fn has_executed(&self) -> bool {
        self.state.reexec.is_by(&self.job.record.id)
    }

    /// Until when this binary is on trial, if it is by this job.
    fn trial(&self) -> Option<Time> {
        self.state.reexec.trial.filter(|_| self.has_executed())
    }

    /// Has the installed binary tried, unless it runs already for this job.
    pub fn try_installed(&mut self) -> StepResult {
        match self.has_executed() {
            true => StepResult::DoneUpTo(Step::Reexec),
            false => self.wait_for(Activity::Reexec),
        }
    }

    /// Has the binary executed that was tried. The step is done when that binary runs and comes here.
    pub fn reexec(&mut self) -> StepResult {
        if self.trial().is_some() {
            return StepResult::Done;
        }
        if self.state.reexec.is_good_for(&self.job.record.id) {
            return self.execute();
        }
        // It is not known whether the exec took place, unless the watcher of the new binary has reported.
        match self.state.reexec.undone.is_some() {
            true => self.not_proved(),
            false => StepResult::GoTo(Step::Unpack),
        }
    }

    /// Nothing more has to be recorded before the binary is executed.
    fn execute(&mut self) -> StepResult {
        self.state.reexec.recorded(self.state.now);
        self.wait_for(Activity::Reexec)
    }

    /// Ends the job whose binary is not executed, by the step that it stands at.
    fn not_executed(&mut self, why: &str) -> StepResult {
        let reported = self.job.record.outcome.as_ref().map(|outcome| outcome.message.clone()).unwrap_or_default();
        match (self.job.record.step, self.job.action()) {
            (Some(Step::TryNew | Step::Reexec), Some(JobAction::Upgrade(_))) => {
                cannot_install(&format!("{why}; nothing is changed"))
            }
            (Some(Step::TryInstalled | Step::Reexec), _) => {
                StepResult::Failed(Code::Start, format!("cannot restart: {why}"))
            }
            _ => {
                self.state.reexec.trial = None;
                let text = format!("{reported}; it stays, as the former binary cannot be executed: {why}");
                StepResult::End(Code::Install, text)
            }
        }
    }

    /// Waits for the first good exchange of the new binary. The installed binary ends the job here.
    pub fn prove(&mut self) -> StepResult {
        match self.trial() {
            Some(until) => self.wait_for(Activity::Proving(until)),
            None => self.not_proved(),
        }
    }

    /// The installed binary runs again: the new one has failed, and could not record it.
    fn not_proved(&mut self) -> StepResult {
        let new = self.job.record.package.as_ref().map_or("the new one", |package| &package.version);
        let why = self.state.reexec.undone.take();
        let why = why.as_deref().unwrap_or("it ended before its first good exchange with a server");
        let text = format!("rolled back from {new} to {}: {why}", self.state.options.version);
        self.discard();
        StepResult::End(Code::RolledBack, text)
    }

    /// Has the new binary put in the place of the installed one, unless it was and now runs from there.
    pub fn replace(&mut self) -> StepResult {
        if self.has_executed() && self.state.reexec.trial.is_none() {
            return StepResult::Done;
        }
        let binary = self.state.own_binary();
        self.ask(Action::Replace(self.id(), binary))
    }

    /// The new binary was put in the place of the installed one, or could not be.
    pub fn replaced(&mut self, result: Result<(), Error>) -> StepResult {
        match result {
            Ok(()) if self.state.reexec.trial.take().is_some() => StepResult::Done,
            // An earlier daemon was interrupted here. The old binary may be the one that runs, so the installed one is
            // executed.
            Ok(()) => self.wait_for(Activity::Reexec),
            Err(why) => cannot_install(&format!("{why}; undone")),
        }
    }

    /// The new binary is installed. The settings say which package brought it; the package's files are removed.
    pub fn remember(&mut self) -> StepResult {
        if let Some(source) = self.job.source() {
            self.state.settings.package = self.state.own_package(source).into();
            self.state.out.push(Action::SaveSettings(self.state.settings.clone()));
        }
        self.discard()
    }

    /// Has the installed binary executed again. The step is done when that binary runs and comes here.
    pub fn go_back(&mut self) -> StepResult {
        if self.trial().is_some() {
            let program = self.state.options.program.clone();
            self.state.reexec.go_back(program, self.id(), self.state.now);
            return self.wait_for(Activity::Reexec);
        }
        let text = format!("{} runs again", self.state.options.version);
        self.add_to_outcome(&text);
        self.discard()
    }
}
