//! The way back: what a job has changed is as it was before, and why is said.

use std::fmt::Arguments;

use super::adopt::{holds, same_package};
use super::install::UNPACK;
use super::task::{Ask, Doing, Purpose};
use crate::model::agent::Agent;
use crate::model::event::{Action, Definition, Now};
use crate::model::job::{Code, Order, Outcome};
use crate::model::package;
use crate::model::record::{AgentRecord, Phase, Wanted};
use crate::model::state::{is_file, State};

impl State {
    /// Nothing was changed yet: the package is thrown away and the job ends. Where an earlier daemon had come further, and
    /// on record the agent has the package already, that is undone.
    pub(super) fn discard(&mut self, index: usize, code: Code, why: Arguments, now: Now, out: &mut Vec<Action>) {
        let agent = self.agents.get(&self.job_name(index)).map(|agent| agent.record.package.as_ref());
        let before = self.tasks[index].record.before.as_ref().map(|before| before.package.as_ref());
        if agent.is_some() && before.is_some() && agent != before {
            return self.undo(index, code, why, now, out);
        }
        if let Some(file) = self.source(index).map(State::kept_file) {
            let name = self.job_name(index);
            let kept = self.agents.get(&name).map(|agent| [&agent.record.package, &agent.record.previous]);
            let mut drop: Vec<Box<str>> = Vec::new();
            // Without a package that is kept, nothing there is of any use.
            if let Some(kept) = kept.filter(|kept| kept.iter().any(|installed| installed.is_some())) {
                drop.push(UNPACK.into());
                if !kept.iter().any(|installed| holds(installed, &file)) {
                    drop.push(file);
                }
            }
            out.push(Action::DropPackage(name, drop));
        }
        self.finish(index, code, why, out);
    }

    /// Removes what an agent is made of; it is down.
    pub(in super::super) fn remove(&mut self, index: usize, now: Now, out: &mut Vec<Action>) {
        let name = self.job_name(index);
        let installed = self.agents.get(&name).and_then(|agent| agent.record.package.as_ref());
        match installed.and_then(|installed| package::remove(installed.format, &installed.package)) {
            Some(tool) => self.run_tools(index, Purpose::Remove, vec![tool], now, out),
            None => self.removed(index, now, out),
        }
    }

    pub(super) fn removed(&mut self, index: usize, now: Now, out: &mut Vec<Action>) {
        let name = self.job_name(index);
        out.push(Action::DropPackage(name.clone(), Vec::new()));
        self.forget(&name, now, out);
        self.finish(index, Code::Success, format_args!("success"), out);
    }

    /// Goes back to what was there before the job, and says why.
    pub(super) fn undo(&mut self, index: usize, code: Code, why: Arguments, now: Now, out: &mut Vec<Action>) {
        let task = &mut self.tasks[index];
        let Some(before) = task.record.before.as_deref() else { return self.finish(index, code, why, out) };
        let new = task.record.package.as_ref();
        let version = new.map_or("the new one", |new| &new.version);
        let stays = task.record.foreign && new.is_some_and(|new| !new.format.is_tar());
        task.record.outcome = Some(match &before.package {
            // What is refused is refused, whatever it takes.
            Some(old) if new.is_some() && code == Code::Refused => {
                Outcome::new(code, &format!("{why}; rolled back from {version} to {}", old.version))
            }
            Some(old) if new.is_some() => {
                Outcome::new(Code::RolledBack, &format!("rolled back from {version} to {}: {why}", old.version))
            }
            _ if stays => {
                Outcome::new(code, &format!("{why}; no earlier package is kept to go back to, {version} stays"))
            }
            _ => Outcome::new(code, &format!("{why}; undone")),
        });
        let (name, message) = (task.record.name.clone(), task.record.outcome.as_ref().map(|told| told.message.clone()));
        self.incident(name, &message.unwrap_or_default(), now);
        self.go(index, Phase::Installing, out);
    }

    /// The agent is down: the package that was there before takes its place again.
    pub(super) fn undo_package(&mut self, index: usize, now: Now, out: &mut Vec<Action>) {
        let record = &self.tasks[index].record;
        let old = record.before.as_ref().and_then(|before| before.package.clone());
        // What a removal left of a package is not much.
        let removal = matches!(self.tasks[index].order(), Some(Order::Uninstall));
        let new = record.package.clone().filter(|new| old.as_ref().is_none_or(|old| old.digest != new.digest));
        let mut tools = Vec::new();
        if let Some(new) = new.as_ref().filter(|new| !old.as_ref().is_some_and(|old| same_package(old, new))) {
            tools.extend(package::remove(new.format, &new.package).filter(|_| !record.foreign));
        }
        if let Some(old) = old.filter(|_| new.is_some() || removal) {
            let path = self.kept_path(&record.name, &old.file);
            tools.extend(package::install(old.format, &path, false));
        }
        if tools.is_empty() {
            self.undo_link(index, now, out);
        } else {
            self.run_tools(index, Purpose::Undo, tools, now, out);
        }
    }

    /// A tar is what the host had before: it is the current one again.
    pub(super) fn undo_link(&mut self, index: usize, now: Now, out: &mut Vec<Action>) {
        let task = &mut self.tasks[index];
        let old = task.record.before.as_ref().and_then(|before| before.package.clone());
        match old.filter(|old| old.format.is_tar() && task.record.package.is_some()) {
            Some(old) => {
                task.doing = Doing::Asked(Ask::UndoLink);
                out.push(Action::Link(task.record.id.clone(), task.record.name.clone(), old.package));
            }
            None => self.package_undone(index, now, out),
        }
    }

    pub(super) fn not_undone(&mut self, index: usize, why: &str) {
        if let Some(outcome) = &mut self.tasks[index].record.outcome {
            *outcome = Outcome::new(outcome.code, &format!("{}; cannot go back: {why}", outcome.message));
        }
    }

    /// The host has the package it had before: the agent gets the definition it had.
    pub(super) fn package_undone(&mut self, index: usize, now: Now, out: &mut Vec<Action>) {
        let name = self.job_name(index);
        let Some(before) = self.tasks[index].record.before.clone() else { return };
        let mut drop: Vec<Box<str>> = vec![UNPACK.into()];
        if let Some(source) = self.source(index).cloned() {
            drop.push(State::kept_file(&source));
        }
        if let Some(package) = &self.tasks[index].record.package {
            drop.extend(package.files());
        }
        drop.retain(|file| !holds(&before.package, file) && !holds(&before.previous, file));
        let fresh = before.package.is_none() && before.previous.is_none();
        out.push(Action::DropPackage(name.clone(), if fresh { Vec::new() } else { drop }));
        if before.name.is_empty() || self.agents.get(&name).is_some_and(is_file) || self.source(index).is_none() {
            return self.go_back(index, None, now, out);
        }
        let dir =
            before.package.as_ref().filter(|old| old.format.is_tar()).map_or("".into(), |old| old.package.clone());
        let task = &mut self.tasks[index];
        task.doing = Doing::Asked(Ask::Recall);
        out.push(Action::Inspect { job: task.record.id.clone(), name, dir, text: before.definition.clone() });
    }

    pub(super) fn go_back(&mut self, index: usize, definition: Option<Definition>, now: Now, out: &mut Vec<Action>) {
        let name = self.job_name(index);
        if let Some(mut before) = self.tasks[index].record.before.clone() {
            // Only a removal wants an agent down: otherwise this is somebody's word, and counts.
            let wanted = self.agents.get(&name).and_then(|agent| agent.record.wanted);
            if wanted == Some(Wanted::Down) && !matches!(self.tasks[index].order(), Some(Order::Uninstall)) {
                before.wanted = wanted;
            }
            self.restore(&name, *before, definition, now, out);
        }
        self.go(index, Phase::Starting, out);
    }

    /// Restores what is remembered of an agent; an empty record means there was none. One that only a file defined, which
    /// is gone meanwhile, has nothing to go back to either.
    fn restore(
        &mut self,
        name: &str,
        before: AgentRecord,
        definition: Option<Definition>,
        now: Now,
        out: &mut Vec<Action>,
    ) {
        let file = self.agents.get(name).is_some_and(is_file);
        if before.name.is_empty() || !file && before.package.is_none() && before.definition.is_none() {
            return self.forget(name, now, out);
        }
        if let Some(agent) = self.agents.get_mut(name) {
            agent.record = before;
            if let Some(definition) = definition {
                agent.define(Some(definition));
            }
            out.push(Action::SaveAgent(Box::new(agent.record.clone())));
        }
    }

    /// What was there before is back: it runs again, if it should, and only then.
    pub(super) fn start_again(&mut self, index: usize, now: Now, out: &mut Vec<Action>) {
        let name = self.job_name(index);
        if self.agents.get(&name).map(Agent::wanted) == Some(Wanted::Up) {
            return self.start_agent(index, now, out);
        }
        self.turn(&name, now, out, &mut |agent, turn| agent.order_down(turn));
        self.undone(index, out);
    }

    pub(super) fn undone(&mut self, index: usize, out: &mut Vec<Action>) {
        if let Some(outcome) = self.tasks[index].record.outcome.clone() {
            self.finish(index, outcome.code, format_args!("{}", outcome.message), out);
        }
    }
}
