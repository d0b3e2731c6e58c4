//! Jobs that mean the daemon itself: `restart` is a reexec, `upgrade` puts another binary in its place.
//!
//! The new binary is unpacked beside the installed one and tried; then `Starting` is on disk and it is executed, on
//! trial. What it does first is to enter `Settling`; with its first good exchange it is put in the installed one's
//! place. The installed one, finding its job in `Settling`, knows that the new one did not prove itself.

use std::time::Duration;

use super::task::{Ask, Doing, Task};
use super::SELF;
use crate::model::event::{Action, Now};
use crate::model::job::{Code, JobId, Order, Outcome, Source};
use crate::model::record::{Installed, Phase};
use crate::model::state::State;
use crate::reason::Reason;

/// Where the new binary is unpacked, below `packages/bootagent/`, and its name there.
const NEXT: &str = "next";
const BINARY: &str = "next/bootagent";

/// How long a new binary has for its first good exchange, unless the job says otherwise.
const STARTSECS: Duration = Duration::from_secs(60);

impl State {
    /// What is ordered of the daemon itself.
    pub(super) fn begin_own(&mut self, index: usize, out: &mut Vec<Action>) {
        match self.tasks[index].order() {
            Some(Order::Restart) => self.go(index, Phase::Starting, out),
            Some(Order::Upgrade(source)) if *self.settings.package == *self.own_package(source) => {
                let text = format!("success, {} is installed already", self.options.version);
                self.finish(index, Code::Success, format_args!("{text}"), out);
            }
            Some(Order::Upgrade(source)) if source.format.is_tar() => self.go(index, Phase::Downloading, out),
            Some(Order::Upgrade(_)) => {
                let text = "url: want a .tar, .tar.gz, .tgz or .tar.xz that holds the binary \"bootagent\"";
                self.finish(index, Code::BadJob, format_args!("{text}"), out);
            }
            _ => self.finish(
                index,
                Code::Refused,
                format_args!("only upgrade and restart can be done to bootagent"),
                out,
            ),
        }
    }

    /// Does what the phase of such a job is for.
    pub(super) fn act_own(&mut self, index: usize, now: Now, out: &mut Vec<Action>) {
        let task = &self.tasks[index];
        let id = task.record.id.clone();
        let ours = self.renewed_by.as_ref() == Some(&id);
        let trial = self.trial.filter(|_| ours);
        let restart = matches!(task.order(), Some(Order::Restart));
        let doing = match (task.record.phase, task.record.outcome.as_ref().map(|outcome| outcome.code)) {
            (Phase::Starting, _) if restart && ours => {
                let text = self.success();
                return self.finish(index, Code::Success, format_args!("{text}"), out);
            }
            (Phase::Starting, _) if restart => Doing::Renewing,
            (Phase::Starting, _) if trial.is_some() => return self.go(index, Phase::Settling, out),
            (Phase::Starting, _) if self.is_good_for(&id) => {
                self.renewal_recorded(now);
                Doing::Renewing
            }
            (Phase::Starting, _) if self.undone.is_none() => return self.go(index, Phase::Installing, out),
            (Phase::Settling, Some(Code::Success)) if ours && trial.is_none() => {
                return self.own_installed(index, out);
            }
            (Phase::Settling, Some(Code::Success)) => {
                out.push(Action::Replace(id, self.own_binary()));
                Doing::Asked(Ask::Replace)
            }
            (Phase::Settling, outcome) => match trial {
                Some(until) if outcome.is_none() => Doing::Proving(until),
                Some(_) => {
                    self.renew_back(id, now);
                    Doing::Renewing
                }
                None => return self.own_undone(index, out),
            },
            (Phase::Starting, _) => return self.own_undone(index, out),
            _ => {
                let Some(source) = self.source(index).cloned() else { return };
                let (file, format) = (State::kept_file(&source), source.format);
                out.push(Action::Unpack { job: id, name: SELF.into(), file, dir: NEXT.into(), format });
                Doing::Asked(Ask::Unpack)
            }
        };
        self.tasks[index].doing = doing;
    }

    /// The new binary was unpacked, or could not be.
    pub(super) fn unpacked_own(&mut self, index: usize, result: Result<(), Reason>, out: &mut Vec<Action>) {
        match result {
            Ok(()) => self.tasks[index].doing = Doing::Renewing,
            Err(why) => self.end_own(index, Code::Install, &format!("cannot install: {why}"), out),
        }
    }

    /// Tries the binary that a job ordered, once no other is tried.
    pub(super) fn follow_own(&mut self, index: usize, now: Now, out: &mut Vec<Action>) {
        let task = &self.tasks[index];
        let id = Some(task.record.id.clone());
        if task.record.phase == Phase::Installing {
            let trial = task.job.as_ref().and_then(|job| job.startsecs).unwrap_or(STARTSECS);
            self.renew(self.own_binary(), None, id, Some(trial), now, out);
        } else {
            self.renew(self.options.program.clone(), None, id, None, now, out);
        }
    }

    fn own_binary(&self) -> Box<str> {
        format!("{}/{SELF}/{BINARY}", self.options.packages).into()
    }

    /// What the new binary calls itself.
    pub(in super::super) fn found_version(&mut self, job: &str, version: Box<str>) {
        let Some(index) = self.index(job) else { return };
        if let Some(source) = self.source(index).cloned() {
            self.tasks[index].record.package = Some(Box::new(Installed {
                format: source.format,
                package: NEXT.into(),
                version,
                digest: source.digest,
                file: State::kept_file(&source),
            }));
        }
    }

    /// The new binary was tried and is good.
    pub(in super::super) fn renewal_good(&mut self, job: &JobId, out: &mut Vec<Action>) {
        if let Some(index) = self.index(job) {
            self.go(index, Phase::Starting, out);
        }
    }

    /// The binary a job ordered is not executed.
    pub(in super::super) fn own_not_renewed(&mut self, job: &JobId, why: &str, out: &mut Vec<Action>) {
        let Some(index) = self.index(job) else { return };
        let task = &self.tasks[index];
        if self.shutdown.is_some() {
            // The next daemon goes on with it.
            return;
        }
        if let Some(outcome) = task.record.outcome.clone() {
            self.trial = None;
            return self.finish(
                index,
                Code::Install,
                format_args!("{}; it stays, as the one before cannot be executed: {why}", outcome.message),
                out,
            );
        }
        match task.order() {
            Some(Order::Restart) => self.finish(index, Code::Start, format_args!("cannot restart: {why}"), out),
            _ => self.end_own(index, Code::Install, &format!("cannot install: {why}; nothing is changed"), out),
        }
    }

    /// A server has answered well: if this image is on trial, it has proved itself.
    pub(in super::super) fn proven(&mut self, out: &mut Vec<Action>) {
        let proving = |task: &Task| matches!(task.doing, Doing::Proving(_));
        if let Some(index) = self.tasks.iter().position(proving) {
            self.settle_own(index, Code::Success, &self.success(), out);
        }
    }

    /// The new binary was put in the place of the installed one, or could not be.
    pub(super) fn replaced(&mut self, index: usize, result: Result<(), Reason>, out: &mut Vec<Action>) {
        match result {
            Ok(()) if self.trial.take().is_some() => self.own_installed(index, out),
            // An earlier image was interrupted here: which one we are is not known, but soon we are the new one.
            Ok(()) => self.tasks[index].doing = Doing::Renewing,
            Err(why) => self.settle_own(index, Code::Install, &format!("cannot install: {why}; undone"), out),
        }
    }

    /// Looks whether this image had its time.
    pub(super) fn proof_due(&mut self, now: Now, out: &mut Vec<Action>) {
        let late = |task: &Task| matches!(task.doing, Doing::Proving(until) if until <= now.time);
        let Some(index) = self.tasks.iter().position(late) else { return };
        let text = format!("rolled back: {} had no good exchange with a server in its time", self.options.version);
        self.settle_own(index, Code::RolledBack, &text, out);
    }

    /// What will be reported is known, and written down before it is made so.
    fn settle_own(&mut self, index: usize, code: Code, why: &str, out: &mut Vec<Action>) {
        self.tasks[index].record.outcome = Some(Outcome::new(code, why));
        self.go(index, Phase::Settling, out);
    }

    /// This is the installed binary again.
    fn own_undone(&mut self, index: usize, out: &mut Vec<Action>) {
        let record = &self.tasks[index].record;
        if let Some(outcome) = record.outcome.clone() {
            let text = format!("{}; {} runs again", outcome.message, self.options.version);
            return self.end_own(index, outcome.code, &text, out);
        }
        let new = record.package.as_ref().map_or("the new one", |package| &package.version);
        let why = self.undone.take();
        let why = why.as_deref().unwrap_or("it ended before its first good exchange with a server");
        let text = format!("rolled back from {new} to {}: {why}", self.options.version);
        self.end_own(index, Code::RolledBack, &text, out);
    }

    fn success(&self) -> String {
        format!("success, {} runs", self.options.version)
    }

    /// What stands for this version out of this package in the settings.
    fn own_package(&self, source: &Source) -> String {
        format!("{} {}", self.options.version, source.digest)
    }

    /// The new binary is the installed one: which package brought it is remembered.
    fn own_installed(&mut self, index: usize, out: &mut Vec<Action>) {
        if let Some(source) = self.source(index) {
            self.settings.package = self.own_package(source).into();
            out.push(Action::SaveSettings(self.settings.clone()));
        }
        self.end_own(index, Code::Success, &self.success(), out);
    }

    /// Ends the job; nothing of the package is needed any more.
    fn end_own(&mut self, index: usize, code: Code, message: &str, out: &mut Vec<Action>) {
        out.push(Action::DropPackage(SELF.into(), Vec::new()));
        self.finish(index, code, format_args!("{message}"), out);
    }
}
