//! A package that is on the host becomes its agent's: its definition is chosen, it takes the old one's place.

use std::fmt::Arguments;

use super::install::UNPACK;
use super::task::{Ask, Chosen, Doing, Purpose};
use crate::kernel::Level;
use crate::model::agent::Agent;
use crate::model::event::{log, Action, Definition, Now, Origin};
use crate::model::job::{Code, Job, Order, Source};
use crate::model::package::{self, Tool};
use crate::model::record::{Installed, Phase, Wanted};
use crate::model::spec::{is_version, Spec};
use crate::model::state::{take_out, State};
use crate::model::trust::env_objection;
use crate::reason::Reason;

impl State {
    /// Chooses the definition that counts: a file in `agents.d`, else a job's, else the package's own.
    pub(super) fn choose(&mut self, index: usize, own: Option<Box<Spec>>, now: Now, out: &mut Vec<Action>) {
        let Some(job) = self.tasks[index].job.clone() else { return };
        let Some(source) = self.source(index).cloned() else { return };
        if let Some(own) = own.as_ref().filter(|own| own.name != job.name) {
            return self.unfit(
                index,
                Code::BadJob,
                format_args!("the package's definition is of \"{}\", not of \"{}\"", own.name, job.name),
                now,
                out,
            );
        }
        let origin = self.agents.get(&job.name).and_then(Agent::origin);
        let by_package = |spec| Definition { origin: Origin::Package, spec };
        let definition = match (origin, job.definition.clone(), own) {
            (Some(Origin::File), ..) => None,
            (_, Some(spec), _) => Some(Definition { origin: Origin::Job, spec }),
            // Where packages must be signed, what one says of itself counts for more than what a job said before.
            (Some(Origin::Job), _, own) if own.is_none() || !self.options.signed => None,
            (_, None, Some(own)) => Some(by_package(own)),
            (_, None, None) => {
                let text = "no definition: neither in agents.d, nor in the job, nor in the package";
                return self.unfit(index, Code::BadJob, format_args!("{text}"), now, out);
            }
        };
        let current = self.agents.get(&job.name).and_then(|agent| agent.definition.as_ref());
        if let Some(why) = self.env_objection(&job, definition.as_ref().or(current)) {
            return self.unfit(index, Code::Refused, format_args!("refused: {why}"), now, out);
        }
        let task = &self.tasks[index];
        let told = task.record.package.as_ref().map(|package| package.version.clone());
        let defined = definition.as_ref().map(|definition| definition.spec.version.clone());
        let version = job.version.clone().or(defined).or(told).unwrap_or_else(|| version_of(&job, &source));
        let chosen = Chosen { definition, version };
        if !source.format.is_tar() {
            return self.adopt_package(index, chosen, out);
        }
        let dir = self.unpack_dir(index, &source, &chosen.version);
        let (id, name) = (task.record.id.clone(), job.name.clone());
        self.tasks[index].record.package = Some(Box::new(Installed {
            format: source.format,
            package: dir.clone(),
            version: chosen.version.clone(),
            digest: source.digest,
            file: "".into(),
        }));
        self.tasks[index].doing = Doing::Asked(Ask::Rename(Box::new(chosen)));
        out.push(Action::Rename { job: id, name, from: UNPACK.into(), to: dir });
    }

    /// The package does not say how to run its agent, or not so that the job can be done. What a package manager has installed is undone; of a tar nothing has its
    /// place yet, and the agent goes on undisturbed.
    pub(super) fn unfit(&mut self, index: usize, code: Code, why: Arguments, now: Now, out: &mut Vec<Action>) {
        match self.source(index).is_some_and(|source| source.format.is_tar()) {
            true => self.discard(index, code, why, now, out),
            false => self.undo(index, code, why, now, out),
        }
    }

    /// Why a job's environment is refused for an agent with this definition, where packages must be signed.
    pub(super) fn env_objection(&self, job: &Job, definition: Option<&Definition>) -> Option<String> {
        env_objection(job.envs.as_ref(), definition).filter(|_| self.options.signed)
    }

    /// The directory of a version; another package of the same version gets one of its own.
    fn unpack_dir(&self, index: usize, source: &Source, version: &str) -> Box<str> {
        let dir = if is_version(version) { version } else { "unversioned" };
        let taken =
            |installed: &Option<Box<Installed>>| installed.as_ref().is_some_and(|installed| *installed.package == *dir);
        // As it was before the job: what an interrupted attempt put there is replaced.
        let before = self.tasks[index].record.before.as_deref();
        if dir == "current" || before.is_some_and(|before| taken(&before.package) || taken(&before.previous)) {
            format!("{dir}+{}", &State::kept_file(source)[..8]).into()
        } else {
            dir.into()
        }
    }

    /// The package is on the host: the agent is what the job says from now on.
    pub(super) fn adopt_package(&mut self, index: usize, chosen: Chosen, out: &mut Vec<Action>) {
        let Some(job) = self.tasks[index].job.clone() else { return };
        if let Some(package) = &mut self.tasks[index].record.package {
            package.version = chosen.version;
        }
        let package = self.tasks[index].record.package.clone();
        take_out(&mut self.leaving, &job.name);
        let agent = self.agent(&job.name, false);
        if let Some(definition) = chosen.definition {
            let given = definition.origin == Origin::Job;
            agent.record.definition = given.then(|| job.definition_text.clone());
            agent.define(Some(definition));
        }
        agent.record.package = package;
        agent.record.envs = job.envs.clone().or(agent.record.envs.take());
        agent.record.limits = job.limits.clone().or(agent.record.limits.take());
        if matches!(job.order, Order::Install(_)) {
            agent.record.wanted = Some(Wanted::Up);
        }
        out.push(Action::SaveAgent(Box::new(agent.record.clone())));
        self.go(index, Phase::Starting, out);
    }

    /// The agent is down: the new package takes the old one's place.
    pub(super) fn switch_package(&mut self, index: usize, now: Now, out: &mut Vec<Action>) {
        let task = &mut self.tasks[index];
        match &task.record.package {
            Some(package) if package.format.is_tar() => {
                let dir = package.package.clone();
                task.doing = Doing::Asked(Ask::Link);
                out.push(Action::Link(task.record.id.clone(), task.record.name.clone(), dir));
            }
            _ => self.switched(index, now, out),
        }
    }

    fn switched(&mut self, index: usize, now: Now, out: &mut Vec<Action>) {
        match self.agents.get(&self.job_name(index)).map(Agent::wanted) {
            Some(Wanted::Up) => self.start_agent(index, now, out),
            _ => self.retire(index, now, out),
        }
    }

    /// Something was put in its place, or could not be.
    pub(in super::super) fn placed(&mut self, id: &str, result: Result<(), Reason>, now: Now, out: &mut Vec<Action>) {
        let Some((index, ask)) = self.asked(id) else { return };
        match (ask, result) {
            (Ask::Keep, Ok(())) => self.identify(index, now, out),
            (Ask::Keep, Err(why)) => {
                self.discard(index, Code::Install, format_args!("cannot keep the package: {why}"), now, out)
            }
            (Ask::Rename(chosen), Ok(())) => self.adopt_package(index, *chosen, out),
            (Ask::Rename(_), Err(why)) => {
                self.discard(index, Code::Install, format_args!("cannot install: {why}"), now, out)
            }
            (Ask::Link, Ok(())) => self.switched(index, now, out),
            (Ask::Link, Err(why)) if self.is_same(index) => {
                // A removal came as far as the files, and its record was lost.
                log(
                    out,
                    Level::Warn,
                    format_args!("job \"{id}\": what was installed is gone and fetched again: {why}"),
                );
                self.tasks[index].record.package = None;
                self.go(index, Phase::Downloading, out);
            }
            (Ask::Link, Err(why)) => self.undo(index, Code::Install, format_args!("cannot install: {why}"), now, out),
            (Ask::UndoLink, Ok(())) => self.package_undone(index, now, out),
            (Ask::UndoLink, Err(why)) => {
                self.not_undone(index, &why);
                self.package_undone(index, now, out);
            }
            (Ask::Replace, result) => self.replaced(index, result, out),
            (Ask::Verify | Ask::Unpack | Ask::Inspect | Ask::Recall, _) => {}
        }
    }

    /// Whether the package is the one that the agent had before.
    fn is_same(&self, index: usize) -> bool {
        let record = &self.tasks[index].record;
        record.package.is_some() && record.before.as_ref().is_some_and(|before| before.package == record.package)
    }

    /// The new package is up: one of another kind or name that it replaced must not stay beside it.
    pub(super) fn retire(&mut self, index: usize, now: Now, out: &mut Vec<Action>) {
        let record = &self.tasks[index].record;
        let old = record.before.as_ref().and_then(|before| before.package.as_ref());
        let new = record.package.as_ref();
        let old = old.filter(|old| !new.is_some_and(|new| same_package(old, new)));
        let mut tools: Vec<Tool> = old.and_then(|old| package::remove(old.format, &old.package)).into_iter().collect();
        if tools.is_empty() {
            return self.installed(index, out);
        }
        if let Some(new) = new {
            // The files that both have went with the former one.
            tools.extend(package::install(new.format, &self.kept_path(&record.name, &new.file), false));
        }
        self.run_tools(index, Purpose::Retire, tools, now, out);
    }

    /// The new package is up: the one before it is kept, the one before that is not.
    pub(super) fn installed(&mut self, index: usize, out: &mut Vec<Action>) {
        let name = self.job_name(index);
        let old = self.tasks[index].record.before.take().and_then(|before| before.package);
        let source = self.source(index).cloned();
        if let Some(agent) = self.agents.get_mut(&name) {
            let mut drop = Vec::new();
            let new = agent.record.package.clone();
            if let Some(old) = old.filter(|old| Some(old.digest) != new.as_ref().map(|new| new.digest)) {
                if let Some(older) = agent.record.previous.replace(old) {
                    let in_use = [&agent.record.package, &agent.record.previous];
                    drop = older.files();
                    drop.retain(|file| !in_use.iter().any(|installed| holds(installed, file)));
                }
            }
            if let Some(source) = source.filter(|source| source.format.is_tar()) {
                drop.push(State::kept_file(&source));
            }
            if !drop.is_empty() {
                out.push(Action::DropPackage(name, drop));
            }
            out.push(Action::SaveAgent(Box::new(agent.record.clone())));
        }
        self.finish(index, Code::Success, format_args!("success"), out);
    }
}

/// The version in a file name such as `web-1.5.6.tar.gz`, else the beginning of the digest.
fn version_of(job: &Job, source: &Source) -> Box<str> {
    let file = source.url.rsplit('/').next().unwrap_or_default();
    let stem = file.strip_suffix(source.format.ending()).or_else(|| file.strip_suffix(".tgz")).unwrap_or(file);
    let version = stem.strip_prefix(&*job.name).map(|rest| rest.trim_start_matches(['-', '_']));
    match version.filter(|version| is_version(version)) {
        Some(version) => version.into(),
        None => State::kept_file(source)[..12].into(),
    }
}

/// Whether the one takes the other's place in the package manager's database, or both are directories of ours.
pub(super) fn same_package(old: &Installed, new: &Installed) -> bool {
    old.format.is_tar() && new.format.is_tar() || old.format == new.format && old.package == new.package
}

pub(super) fn holds(installed: &Option<Box<Installed>>, file: &str) -> bool {
    installed.as_ref().is_some_and(|installed| installed.files().iter().any(|kept| **kept == *file))
}
