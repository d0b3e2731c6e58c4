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
use crate::model::record::{AgentRecord, Installed, JobRecord, Wanted};
use crate::model::spec::Spec;
use crate::model::state::inventory::replacement;
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
    /// Somebody else's version may still be there. The package manager is asked first; only if it is gone is our file, of
    /// another version, installed.
    ask_first: bool,
}

impl WayBack {
    /// Changes nothing, and asks for this package; `None` for a tar, of which the package manager knows nothing.
    fn asking(package: &Installed, want: Box<str>) -> Option<WayBack> {
        let (format, package) = (package.format, package.package.clone());
        (!format.is_tar()).then_some(WayBack { remove: None, install: None, format, package, want, ask_first: false })
    }
}

impl Run<'_> {
    /// Whether the agent has adopted the new package, as an earlier daemon may have done after it last wrote the job's
    /// record.
    pub fn has_adopted(&self) -> bool {
        let before = self.job.record.before.as_ref();
        self.agent().zip(before).is_some_and(|(agent, before)| agent.record.package != before.package)
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
        self.state.incident(self.name(), &outcome.message);
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
        let Some(new) = record.package.as_deref() else {
            // Of the jobs without a package only an uninstall changes one: it may have removed the old one, or a part of it.
            return self.old_package(before).filter(|_| self.is_uninstall());
        };
        if old.is_some_and(|old| old.digest == new.digest) {
            // It was installed once more if it was gone, or if another version was in its place. It stays.
            return WayBack::asking(new, new.native.clone()).filter(|_| record.found.is_some());
        }
        let way = self.old_package(before);
        if old.is_some_and(|old| is_same_package(old, new)) {
            // The old version replaces the new one.
            return way;
        }
        if record.foreign || self.is_shared(new) {
            // It stays, as it is not only this agent's.
            let found = record.found.clone().unwrap_or_default();
            return way.or_else(|| WayBack::asking(new, found).filter(|_| old.is_none()));
        }
        let remove = package::remove(new.format, &new.package, false);
        Some(WayBack { remove, ..way.or_else(|| WayBack::asking(new, "".into()))? })
    }

    fn is_uninstall(&self) -> bool {
        matches!(self.job.action(), Some(JobAction::Uninstall))
    }

    /// Brings the old package back, in the version that the job has found if the file of that one is kept; `None` where the
    /// package manager has not installed the old package.
    fn old_package(&self, before: &AgentRecord) -> Option<WayBack> {
        let record = &self.job.record;
        let old = before.package.as_deref()?;
        let previous = before.previous.as_deref().filter(|kept| is_same_package(kept, old));
        let kept = previous.filter(|kept| Some(&kept.native) == record.found.as_ref()).unwrap_or(old);
        let install = Some(self.state.kept_path(&record.name, &kept.file));
        let way = WayBack { install, ..WayBack::asking(old, kept.native.clone())? };
        match record.found.as_ref().filter(|found| self.is_uninstall() && **found != kept.native) {
            // Somebody else has replaced the package, or removed it.
            Some(found) => {
                let install = way.install.filter(|_| !found.is_empty());
                Some(WayBack { install, want: found.clone(), ask_first: true, ..way })
            }
            None => Some(way),
        }
    }

    /// Has the former package installed again.
    pub fn reinstall(&mut self) -> StepResult {
        let Some(way) = self.way_back() else { return StepResult::Done };
        let mut tools: Vec<package::Tool> = way.remove.into_iter().collect();
        let JobRecord { held, received, .. } = &self.job.record;
        let minutes = self.state.now.time.since(*received).as_secs() / 60 + 1;
        match &way.install {
            // `reinstalled` comes here again if that version is gone.
            Some(path) if !way.ask_first || self.job.asked_before_undo => {
                tools.extend(package::install(way.format, path, &way.package, false, Some(minutes), held));
            }
            Some(_) => tools.extend(package::keep(way.format, &way.package, held)),
            None => {}
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
        if way.ask_first && !std::mem::replace(&mut self.job.asked_before_undo, true) && found != way.want {
            return self.reinstall();
        }
        if let Some(why) = failure.as_deref().filter(|why| found == way.want && self.may_still_be_new(&way, why)) {
            let result = self.cannot_go_back(Some(found), why);
            // Where the installer has not let it in, the former build is still there.
            if !self.has_adopted() {
                self.job.stuck = None;
            }
            return result;
        }
        // A record that an older version wrote does not say which version it was.
        let unknown = way.want.is_empty() && way.install.is_some();
        // `restore_with` looks whether that is what the agent has on record.
        if let Some(agent) = self.state.agents.get_mut(self.job.name()) {
            agent.replaced_by = Some(found.clone());
        }
        if found == way.want || unknown && !found.is_empty() && failure.is_none() {
            return StepResult::Done;
        }
        let has_tools = way.remove.is_some() || way.install.is_some();
        let lost = format!("what was there before, {}, is not kept", way.want);
        let why = failure.as_deref().unwrap_or(match has_tools {
            true if way.ask_first => &lost,
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

    /// Whether the new package may still be there, another build of the version to go back to, after an installer that said why
    /// it failed.
    fn may_still_be_new(&self, way: &WayBack, why: &str) -> bool {
        let replaced =
            self.job.record.package.as_ref().filter(|new| new.native == way.want && new.package == way.package);
        way.install.is_some() && replaced.is_some() && package::may_be_refused(way.format, why)
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
        match record.former().filter(|old| old.format.is_tar() && record.package.is_some()) {
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
        self.state.out.push(Action::RemovePackage(self.name(), drop));
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
        let Some(mut record) = self.job.record.before.as_deref().cloned() else { return self.misfit() };
        let is_new = record.name.is_empty();
        let is_defined = record.package.is_some() || record.definition.is_some() || self.agent().is_some_and(is_file);
        if is_new || !is_defined {
            self.state.forget(self.job.name());
            if is_new {
                self.state.out.push(Action::RemoveOutput(self.job.name().clone()));
            }
            return StepResult::Done;
        }
        let Some(agent) = self.agent() else { return StepResult::Done };
        // Of the jobs that can be undone only an uninstall orders an agent down. With any other job the operator did, and the
        // agent stays down.
        if agent.record.wanted == Some(Wanted::Down) && !self.is_uninstall() {
            record.wanted = Some(Wanted::Down);
        }
        let origin = if record.definition.is_none() { Origin::Package } else { Origin::Job };
        if let Some(found) = self.job.stuck.take() {
            record.package = package_left(self.job.record.package.take(), record.package, &found);
        }
        self.state.out.push(Action::SaveAgent(Box::new(record.clone())));
        let is_changing_package = self.job.is_changing_package();
        if let Some(agent) = self.state.agents.get_mut(self.job.name()) {
            let package = record.package.as_deref().filter(|package| !package.format.is_tar());
            if is_changing_package {
                let found = agent.replaced_by.take().zip(package);
                agent.replaced_by = found.and_then(|(found, package)| replacement(package, &found));
            }
            agent.record = record;
            if let Some(spec) = definition {
                agent.definition = Some(Definition { origin, spec });
            }
        }
        StepResult::Done
    }
}

/// The package that an agent has on record after an undo that has failed: the package manager has `found`. It says nothing of
/// a tar. Where that is neither the new package nor the old one, the record of the old one stays, so that a job can bring it
/// back.
fn package_left(new: Option<Box<Installed>>, old: Option<Box<Installed>>, found: &str) -> Option<Box<Installed>> {
    let new = new.filter(|new| is_what_was_found(new, found));
    new.or(old.filter(|old| !found.is_empty() && !old.format.is_tar()))
}

/// Whether this is the package whose version, with a remark behind it perhaps, the package manager has found.
fn is_what_was_found(package: &Installed, found: &str) -> bool {
    !package.format.is_tar() && !found.is_empty() && found.split(' ').next() == Some(&*package.native)
}
