//! Steps that undo a job: the package, the definition and the record that were there before come back.
//!
//! Afterwards the package manager is asked what is installed, and what it says decides whether the undo worked. Where it did
//! not, the result of the job begins with that.

use super::package::{is_same_package, one_version, shown, UNPACK};
use super::remove::holds;
use super::run::{Run, StepResult};
use crate::error::Error;
use crate::model::event::{Action, Definition, Origin};
use crate::model::job::{Code, JobAction, Outcome};
use crate::model::package::{self, Format};
use crate::model::record::{Installed, Wanted};
use crate::model::spec::Spec;
use crate::model::state::{is_file, State};
use crate::text::{sanitize, MESSAGE_MAX};

/// What the package manager does to undo a job.
pub(super) struct WayBack {
    /// What removes the new package, if it is removed.
    remove: Option<package::Tool>,
    /// The path of the package file to install, if there is one.
    install: Option<String>,
    /// The format of the package to ask for in the end.
    format: Format,
    /// The name of that package.
    package: Box<str>,
    /// The version that it should have then; empty: it should be gone, or its version is not known.
    want: Box<str>,
}

impl Run<'_> {
    /// Whether the agent has adopted the new package, as an earlier daemon may have done after it last wrote the job's
    /// record.
    pub fn has_adopted(&self) -> bool {
        let before = self.job.record.before.as_ref().map(|before| before.package.as_ref());
        let agent = self.agent().map(|agent| agent.record.package.as_ref());
        agent.is_some() && before.is_some() && agent != before
    }

    /// What will be reported of a job that is undone; `None`: it is not known what to restore.
    pub fn outcome_of_undoing(&mut self, code: Code, why: &str) -> Option<Outcome> {
        if self.job.is_own() {
            return Some(Outcome::new(code, why));
        }
        let record = &self.job.record;
        let before = record.before.as_deref()?;
        let new = record.package.as_ref();
        let version = new.map_or("the new one", |new| &new.version);
        let outcome = match &before.package {
            // A refusal is reported as one, even with a rollback.
            Some(old) if new.is_some() && code == Code::Refused => {
                Outcome::new(code, &format!("{why}; rolled back from {version} to {}", old.version))
            }
            Some(old) if new.is_some() => {
                let (to, lost) = self.back_to(old);
                Outcome::new(Code::RolledBack, &format!("rolled back from {version} to {to}{lost}: {why}"))
            }
            _ => Outcome::new(code, &format!("{why}; undone")),
        };
        self.state.incident(self.name(), &outcome.message, self.now);
        Some(outcome)
    }

    /// The version to go back to. Where somebody else had replaced what the last job installed, this is what they had
    /// installed if it is kept; if not, a remark says that it is lost.
    fn back_to(&self, old: &Installed) -> (Box<str>, String) {
        let same = self.job.record.package.as_ref().is_some_and(|new| is_same_package(old, new));
        let found = self.job.record.found.as_deref().filter(|found| same && !found.is_empty());
        match found.filter(|found| !old.native.is_empty() && *found != &*old.native) {
            None => (old.version.clone(), String::new()),
            Some(found) if self.way_back().is_some_and(|way| *way.want == *found) => (found.into(), String::new()),
            Some(found) => (old.version.clone(), format!(", as what was there before, {found}, is not kept")),
        }
    }

    /// What the package manager has to do to undo the job, if only to say what is installed; `None`: the job has asked
    /// nothing of it.
    pub fn way_back(&self) -> Option<WayBack> {
        let record = &self.job.record;
        let before = record.before.as_deref()?;
        let old = before.package.as_deref();
        // An uninstall may have removed the package or a part of it.
        let removal = matches!(self.job.action(), Some(JobAction::Uninstall));
        let new = record.package.as_deref().filter(|new| old.is_none_or(|old| old.digest != new.digest));
        // What would stay installed beside the old package.
        let added = new.filter(|new| !old.is_some_and(|old| is_same_package(old, new)) && !new.format.is_tar());
        // The format stays tar where no package has to be asked for.
        let mut way = WayBack { remove: None, install: None, format: Format::Tar, package: "".into(), want: "".into() };
        if let Some(new) = added {
            let is_ours = !record.foreign && !self.is_shared(new);
            if is_ours {
                way.remove = package::remove(new.format, &new.package, false);
            }
            if is_ours || old.is_none() {
                (way.format, way.package) = (new.format, new.package.clone());
                way.want = record.found.clone().filter(|_| !is_ours).unwrap_or_default();
            }
        }
        // The old package comes back, in the version that the job found if the file of that is kept.
        if let Some(old) = old.filter(|old| (new.is_some() || removal) && !old.format.is_tar()) {
            let previous = before.previous.as_deref().filter(|kept| is_same_package(kept, old));
            let kept = previous.filter(|kept| Some(&kept.native) == record.found.as_ref()).unwrap_or(old);
            (way.format, way.package, way.want) = (old.format, old.package.clone(), kept.native.clone());
            way.install = Some(self.state.kept_path(&record.name, &kept.file));
        }
        // The job installed the same package once more, as it was gone or another one was in its place: it stays.
        let again = record.package.as_deref().filter(|_| new.is_none() && record.found.is_some());
        if let Some(again) = again.filter(|again| !again.format.is_tar()) {
            (way.format, way.package, way.want) = (again.format, again.package.clone(), again.native.clone());
        }
        (!way.format.is_tar()).then_some(way)
    }

    /// Has the former package installed again.
    pub fn reinstall(&mut self) -> StepResult {
        let Some(way) = self.way_back() else { return StepResult::Done };
        let mut tools: Vec<package::Tool> = way.remove.into_iter().collect();
        if let Some(path) = &way.install {
            tools.extend(package::install(way.format, path, &way.package, false));
        }
        tools.extend(package::query(way.format, &way.package));
        self.run_tools(tools)
    }

    /// Judges the undo by the version that the package manager says is installed now.
    pub fn reinstalled(&mut self, output: Result<&str, Error>) -> StepResult {
        let (failure, Some(way)) = (self.tool_failure(), self.way_back()) else { return self.misfit() };
        let found = match output.map(one_version) {
            Ok(found) => found,
            Err(why) => return self.cannot_go_back(None, failure.as_deref().unwrap_or(&why)),
        };
        // A record that an older version wrote does not say which version it was.
        let unknown = way.want.is_empty() && way.install.is_some();
        if found == way.want || unknown && !found.is_empty() && failure.is_none() {
            return StepResult::Done;
        }
        let has_tools = way.remove.is_some() || way.install.is_some();
        let why = failure.as_deref().unwrap_or(match has_tools {
            true => "the package manager reported no failure",
            false => "the agent has no other package to go back to",
        });
        let result = self.cannot_go_back(Some(found), why);
        // A package that stays installed, as it is not ours, does not become the agent's.
        if !has_tools && self.job.record.before.as_ref().is_some_and(|before| before.package.is_none()) {
            self.job.stuck = None;
        }
        result
    }

    /// The former package does not come back: the result begins with that, and `restore_with` records what is installed
    /// instead. `found`: that, if it is known.
    pub fn cannot_go_back(&mut self, found: Option<Box<str>>, why: &str) -> StepResult {
        let text = match &found {
            Some(found) => format!("cannot go back, {} is installed: ", shown(found)),
            None => "cannot go back: ".to_string(),
        };
        self.job.stuck = found;
        if let Some(outcome) = &mut self.job.record.outcome {
            let reason = match outcome.code {
                Code::RolledBack => outcome.message.split_once(": ").map_or("", |(_, reason)| reason),
                _ => outcome.message.strip_suffix("; undone").unwrap_or(&outcome.message),
            };
            let code = if outcome.code == Code::RolledBack { Code::Install } else { outcome.code };
            *outcome = Outcome::new(code, &format!("{text}{}; {reason}", sanitize(why, MESSAGE_MAX / 3)));
        }
        StepResult::Done
    }

    /// Has `current` point to the directory of the former tar, if the former package is a tar.
    pub fn relink(&mut self) -> StepResult {
        let record = &self.job.record;
        let old = record.before.as_ref().and_then(|before| before.package.as_ref());
        match old.filter(|old| old.format.is_tar() && record.package.is_some()) {
            Some(old) => {
                let dir = old.package.clone();
                self.ask(Action::Link(self.id(), self.name(), dir))
            }
            None => StepResult::Done,
        }
    }

    /// Removes the files that the job brought and the agent did not have before; all files of its packages, if it had none.
    pub fn discard(&mut self) -> StepResult {
        let Some(source) = self.job.source() else { return StepResult::Done };
        let mut drop: Vec<Box<str>> = vec![UNPACK.into(), State::kept_file(source)];
        drop.extend(self.job.record.package.iter().flat_map(|package| package.files()));
        let before = self.job.record.before.as_deref();
        let kept = before.map_or([&None, &None], |before| [&before.package, &before.previous]);
        drop.retain(|file| !kept.iter().any(|installed| holds(installed, file)));
        // What the package manager could not remove becomes the agent's package, and the next job may have to go back to it.
        let stuck = self.job.record.package.as_deref().filter(|new| {
            let found = self.job.stuck.as_deref();
            found.is_some_and(|found| is_what_was_found(new, found))
        });
        if let Some(stuck) = stuck {
            drop.retain(|file| !stuck.files().contains(file));
        } else if kept.iter().all(|installed| installed.is_none()) {
            // An empty list stands for everything.
            drop.clear();
        }
        self.out.push(Action::RemovePackage(self.name(), drop));
        StepResult::Done
    }

    /// Has the agent's former definition read, where the job may have replaced it.
    pub fn restore(&mut self) -> StepResult {
        let Some(before) = &self.job.record.before else { return self.misfit() };
        if before.name.is_empty() || self.agent().is_some_and(is_file) || self.job.source().is_none() {
            return self.restore_with(None);
        }
        let tar = before.package.as_ref().filter(|old| old.format.is_tar());
        let (dir, text) = (tar.map_or("".into(), |old| old.package.clone()), before.definition.clone());
        self.ask(Action::Inspect { job: self.id(), name: self.name(), dir, text })
    }

    /// Restores the agent's record and definition. The agent is forgotten where there was none before, which a record
    /// without a name says, or where only a file defined it and this file is gone by now.
    pub fn restore_with(&mut self, definition: Option<Box<Spec>>) -> StepResult {
        let Some(mut before) = self.job.record.before.as_deref().cloned() else { return self.misfit() };
        let has_file = self.agent().is_some_and(is_file);
        if before.name.is_empty() || !has_file && before.package.is_none() && before.definition.is_none() {
            self.state.forget(self.job.name(), self.now, self.out);
            if before.name.is_empty() {
                self.out.push(Action::RemoveOutput(self.job.name().clone()));
            }
            return StepResult::Done;
        }
        let removal = matches!(self.job.action(), Some(JobAction::Uninstall));
        if let Some(agent) = self.state.agents.get_mut(self.job.name()) {
            // Of the jobs that can be undone only an uninstall orders an agent down. With any other job the operator did,
            // and the agent stays down.
            if agent.record.wanted == Some(Wanted::Down) && !removal {
                before.wanted = Some(Wanted::Down);
            }
            let origin = if before.definition.is_none() { Origin::Package } else { Origin::Job };
            agent.record = before;
            if let Some(found) = self.job.stuck.take() {
                // The undo has failed: the record names the package that is installed. The package manager says nothing of
                // a tar.
                let new = self.job.record.package.take().filter(|new| is_what_was_found(new, &found));
                let old = agent.record.package.take().filter(|old| !found.is_empty() && !old.format.is_tar());
                agent.record.package =
                    new.or(old.map(|old| Box::new(Installed { version: found.clone(), native: found, ..*old })));
            }
            if let Some(spec) = definition {
                agent.define(Some(Definition { origin, spec }));
            }
            self.out.push(Action::SaveAgent(Box::new(agent.record.clone())));
        }
        StepResult::Done
    }
}

/// Whether this is the package whose version, with a remark behind it perhaps, the package manager has found.
fn is_what_was_found(package: &Installed, found: &str) -> bool {
    !package.format.is_tar() && !found.is_empty() && found.split(' ').next() == Some(&*package.native)
}
