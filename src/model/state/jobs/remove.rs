//! Steps that remove packages: one that the new one replaces, one that is no longer kept, and that of an agent that goes.

use super::package::{is_same_package, one_version};
use super::run::{Run, StepResult};
use crate::error::Error;
use crate::kernel::Level;
use crate::model::agent::Agent;
use crate::model::event::Action;
use crate::model::job::Code;
use crate::model::package;
use crate::model::plan::Step;
use crate::model::record::Installed;
use crate::model::state::State;

impl Run<'_> {
    /// The agent runs from the new package: the former package, if of another format or name, is removed.
    pub fn retire(&mut self) -> StepResult {
        let record = &self.job.record;
        let new = record.package.as_deref();
        let old =
            record.former().filter(|old| !new.is_some_and(|new| is_same_package(old, new)) && !self.is_shared(old));
        let Some((old, remove)) = old.and_then(|old| Some((old, package::remove(old.format, &old.package, false)?)))
        else {
            return StepResult::Done;
        };
        if self.job.retired {
            return StepResult::Done;
        }
        let mut tools = vec![remove];
        if let Some(new) = new {
            // Removing the former package has removed the files that are in both.
            let path = self.state.kept_path(&record.name, &new.file);
            tools.extend(package::install(new.format, &path, &new.package, false, None, &record.held));
        }
        tools.extend(package::query(old.format, &old.package));
        self.run_tools(tools)
    }

    /// Says if the former package is still there, which is no reason for an undo. Then the agent is started anew: the scripts
    /// of the former package may have ended it, and those of the new one, which was installed once more, started a copy.
    pub fn retired(&mut self, output: Result<&str, Error>) -> StepResult {
        let how = match output.map(one_version) {
            Ok(left) if left.is_empty() => "",
            Ok(_) => " was not removed, remove it by hand",
            Err(_) => " may be there still, remove it by hand if it is",
        };
        if !how.is_empty() {
            let former = self.job.record.former().map_or("", |old| &old.package);
            self.job.add_note(&["the former package ", former, how].concat());
        }
        self.job.retired = true;
        StepResult::GoTo(Step::Stop)
    }

    /// Keeps the package before the new one, and removes the one before that.
    pub fn keep(&mut self) -> StepResult {
        let old = self.job.record.before.take().and_then(|before| before.package);
        let mut drop = Vec::new();
        let Some(agent) = self.state.agents.get_mut(self.job.name()) else {
            self.log(Level::Warn, format_args!("its agent is gone, so no package of it is kept"));
            return StepResult::Done;
        };
        let new = agent.record.package.as_ref().map(|new| new.digest);
        if let Some(old) = old.filter(|old| Some(old.digest) != new) {
            if let Some(older) = agent.record.previous.replace(old) {
                let in_use = [&agent.record.package, &agent.record.previous];
                drop = older.files();
                drop.retain(|file| !in_use.iter().any(|installed| holds(installed, file)));
            }
        }
        drop.extend(self.job.source().filter(|source| source.format.is_tar()).map(State::kept_file));
        if !drop.is_empty() {
            self.state.out.push(Action::RemovePackage(agent.record.name.clone(), drop));
        }
        self.state.out.push(Action::SaveAgent(Box::new(agent.record.clone())));
        StepResult::Done
    }

    /// Asks what is installed of the agent's package: that is what an undo has to bring back.
    pub fn ask_installed(&mut self) -> StepResult {
        let installed = self.agent().and_then(|agent| agent.record.package.as_ref());
        let query = installed.and_then(|installed| package::query(installed.format, &installed.package));
        self.run_tools(query.into_iter().collect())
    }

    /// Notes that; a database that cannot tell does not hold up the removal.
    pub fn note_installed(&mut self, output: Result<&str, Error>) -> StepResult {
        if let Ok(output) = output {
            (self.job.record.found, self.job.record.held) = (Some(one_version(output)), output.into());
        }
        StepResult::Done
    }

    /// Has the package tool remove the agent's package.
    pub fn remove(&mut self) -> StepResult {
        let purge = self.job.content.as_ref().is_some_and(|job| job.purge);
        let installed = self.agent().and_then(|agent| agent.record.package.as_ref());
        let tool = installed
            .filter(|installed| !self.is_shared(installed))
            .and_then(|installed| package::remove(installed.format, &installed.package, purge));
        let query = installed.filter(|_| tool.is_some()).and_then(|gone| package::query(gone.format, &gone.package));
        self.run_tools(tool.into_iter().chain(query).collect())
    }

    /// Judges a removal by what the package manager says is left.
    pub fn removed(&mut self, output: Result<&str, Error>) -> StepResult {
        let failure = self.tool_failure();
        match (output.map(one_version), failure) {
            (Ok(left), _) if left.is_empty() => StepResult::Done,
            (Ok(_), Some(why)) => cannot_remove(&why),
            (Ok(left), None) => cannot_remove(&format!("the package manager still has {left}")),
            (Err(why), _) => cannot_remove(&why),
        }
    }

    /// Whether another agent comes from the same package, so that it must not be removed.
    pub(super) fn is_shared(&self, package: &Installed) -> bool {
        self.others_of(package).next().is_some()
    }

    /// The other agents that come from this package.
    pub(super) fn others_of<'b>(&'b self, package: &'b Installed) -> impl Iterator<Item = &'b Agent> {
        self.state.agents.values().filter(|agent| {
            let of_other = agent.record.package.as_ref().filter(|_| *agent.record.name != *self.job.record.name);
            of_other.is_some_and(|other| !package.format.is_tar() && is_same_package(other, package))
        })
    }

    /// Removes the agent, with all that is kept of its packages.
    pub fn forget(&mut self) -> StepResult {
        self.state.out.push(Action::RemovePackage(self.name(), Vec::new()));
        self.state.forget(self.job.name());
        StepResult::Done
    }
}

fn cannot_remove(why: &str) -> StepResult {
    StepResult::Failed(Code::Install, format!("cannot remove the package: {}{why}", package::advice(why)))
}

/// Whether a file or directory below `packages/NAME/` belongs to this package.
pub(super) fn holds(installed: &Option<Box<Installed>>, file: &str) -> bool {
    installed.as_ref().is_some_and(|installed| installed.files().iter().any(|kept| **kept == *file))
}
