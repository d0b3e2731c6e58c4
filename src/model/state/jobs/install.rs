//! Packages: how a job installs, removes and undoes one, once its bytes are here.

use super::{Ask, Chosen, Doing, Purpose, SELF};
use crate::kernel::Level;
use crate::model::agent::Agent;
use crate::model::event::{Action, Definition, Now, Origin};
use crate::model::job::{Code, Job, Order, Outcome, Source};
use crate::model::package;
use crate::model::record::{AgentRecord, Installed, Phase, Wanted};
use crate::model::spec::{is_version, Spec};
use crate::model::state::{is_file, State};

/// Where a tar is unpacked before its version is known, below `packages/NAME/`.
const UNPACK: &str = ".unpack";

impl State {
    pub(super) fn source(&self, index: usize) -> Option<&Source> {
        match &self.tasks[index].job.as_ref()?.order {
            Order::Install(source) | Order::Upgrade(source) => Some(source),
            Order::Uninstall | Order::Start | Order::Stop | Order::Restart | Order::Config { .. } => None,
        }
    }

    /// The name under which a package file is kept below `packages/NAME/`.
    pub(super) fn kept_file(source: &Source) -> Box<str> {
        let digest = source.digest.to_string();
        format!("{}{}", &digest["SHA256:".len()..][..16], source.format.ending()).into()
    }

    fn kept_path(&self, name: &str, file: &str) -> String {
        format!("{}/{name}/{file}", self.options.packages)
    }

    /// An install or upgrade begins: with the download, unless this very package is installed already.
    pub(super) fn begin_install(&mut self, index: usize, out: &mut Vec<Action>) {
        let Some(job) = self.tasks[index].job.clone() else { return };
        let Some(digest) = self.source(index).map(|source| source.digest) else { return };
        let agent = self.agents.get(&job.name);
        let record = agent.map(|agent| agent.record.clone()).unwrap_or_default();
        self.tasks[index].record.before = Some(Box::new(record.clone()));
        let same = record.package.filter(|package| {
            package.digest == digest && job.version.as_ref().is_none_or(|version| *version == package.version)
        });
        let (Some(same), Some(agent)) = (same, agent) else {
            return self.go(index, Phase::Downloading, out);
        };
        let changed = job.envs.is_some() && job.envs != agent.record.envs
            || job.limits.is_some() && job.limits != agent.record.limits
            || job.definition.is_some() && Some(&job.definition_text) != agent.record.definition.as_ref();
        let starts = matches!(job.order, Order::Install(_)) || agent.wanted() == Wanted::Up;
        if !changed && (agent.running_since().is_some() || !starts) {
            return self.finish(index, Code::Success, "success, this package is installed already", out);
        }
        self.tasks[index].record.package = Some(same);
        self.go(index, Phase::Installing, out);
    }

    /// The package is the one the agent has already: only what the job says about it is new.
    fn keep_installed(&mut self, index: usize, version: Box<str>, out: &mut Vec<Action>) {
        let Some(job) = self.tasks[index].job.clone() else { return };
        let is_file = self.agents.get(&job.name).is_some_and(is_file);
        let definition = job.definition.filter(|_| !is_file);
        let definition = definition.map(|spec| Definition { origin: Origin::Job, spec });
        self.adopt_package(index, Chosen { definition, version }, out);
    }

    /// The phase `Verified`: the package gets its place, and its name is asked for.
    pub(super) fn keep_package(&mut self, index: usize, out: &mut Vec<Action>) {
        let Some(file) = self.source(index).map(State::kept_file) else { return };
        let task = &mut self.tasks[index];
        task.doing = Doing::Asked(Ask::Keep);
        out.push(Action::Place(task.record.id.clone(), task.record.name.clone(), file));
    }

    fn kept(&mut self, index: usize, now: Now, out: &mut Vec<Action>) {
        let Some(file) = self.source(index).map(State::kept_file) else { return };
        if !self.options.signed {
            return self.identify(index, now, out);
        }
        // What is verified is the file that is installed, in a place where only root can write.
        let task = &mut self.tasks[index];
        task.doing = Doing::Asked(Ask::Verify);
        out.push(Action::Verify(task.record.id.clone(), task.record.name.clone(), file));
    }

    /// A signature was verified, or could not be.
    pub(in super::super) fn verified(
        &mut self,
        id: &str,
        result: Result<(), Box<str>>,
        now: Now,
        out: &mut Vec<Action>,
    ) {
        let Some((index, Ask::Verify)) = self.asked(id) else { return };
        match result {
            Ok(()) => self.identify(index, now, out),
            Err(why) => self.discard(index, Code::Refused, &format!("refused: {why}"), now, out),
        }
    }

    fn identify(&mut self, index: usize, now: Now, out: &mut Vec<Action>) {
        let Some(source) = self.source(index).cloned() else { return };
        let path = self.kept_path(&self.job_name(index), &State::kept_file(&source));
        match package::identify(source.format, &path) {
            Some(tool) => self.run_tools(index, Purpose::Identify, vec![tool], now, out),
            None => self.go(index, Phase::Installing, out),
        }
    }

    /// The phase `Installing`: the package manager or the unpacker goes to work.
    pub(super) fn install(&mut self, index: usize, now: Now, out: &mut Vec<Action>) {
        let (name, resumed) = (self.job_name(index), self.tasks[index].resumed);
        let Some(source) = self.source(index).cloned() else {
            return self.remove(index, now, out);
        };
        let record = &self.tasks[index].record;
        if let Some(same) = record.package.clone() {
            if record.before.as_ref().is_some_and(|before| before.package.as_ref() == Some(&same)) {
                return self.keep_installed(index, same.version, out);
            }
        }
        let file = State::kept_file(&source);
        if source.format.is_tar() {
            let (job, dir, format) = (self.tasks[index].record.id.clone(), UNPACK.into(), source.format);
            self.tasks[index].doing = Doing::Asked(Ask::Unpack);
            return out.push(Action::Unpack { job, name, file, dir, format });
        }
        let interrupted = std::mem::take(&mut self.interrupted) || resumed;
        let tools = package::install(source.format, &self.kept_path(&name, &file), interrupted);
        self.run_tools(index, Purpose::Install, tools, now, out);
    }

    /// Removes what an agent is made of; it is down.
    fn remove(&mut self, index: usize, now: Now, out: &mut Vec<Action>) {
        let name = self.job_name(index);
        let installed = self.agents.get(&name).and_then(|agent| agent.record.package.as_ref());
        match installed.and_then(|installed| package::remove(installed.format, &installed.package)) {
            Some(tool) => self.run_tools(index, Purpose::Remove, vec![tool], now, out),
            None => self.removed(index, now, out),
        }
    }

    fn removed(&mut self, index: usize, now: Now, out: &mut Vec<Action>) {
        let name = self.job_name(index);
        out.push(Action::DropPackage(name.clone(), Vec::new()));
        self.forget(&name, now, out);
        self.finish(index, Code::Success, "success", out);
    }

    /// The package tools run for this purpose have ended.
    pub(super) fn tools_done(
        &mut self,
        index: usize,
        purpose: Purpose,
        result: Result<&str, String>,
        now: Now,
        out: &mut Vec<Action>,
    ) {
        match (purpose, result) {
            (Purpose::Identify, result) => {
                match result.and_then(package::identity) {
                    Ok((package, version)) => self.identified(index, package, version, now, out),
                    Err(why) => self.discard(index, Code::Install, &format!("cannot install: {why}"), now, out),
                };
            }
            (Purpose::Query, result) => {
                self.tasks[index].record.foreign = result.is_ok();
                self.go(index, Phase::Installing, out);
            }
            (Purpose::Install, Ok(_)) => self.inspect(index, "", out),
            (Purpose::Install, Err(why)) => {
                self.undo(index, Code::Install, &format!("cannot install: {why}"), now, out)
            }
            (Purpose::Remove, Ok(_)) => self.removed(index, now, out),
            (Purpose::Remove, Err(why)) => {
                self.undo(index, Code::Install, &format!("cannot remove the package: {why}"), now, out);
            }
            (Purpose::Retire, result) => {
                if let Err(why) = result {
                    let text = format!("job \"{}\": the former package stays: {why}", self.tasks[index].record.id);
                    out.push(Action::Log(Level::Warn, text));
                }
                self.installed(index, out);
            }
            (Purpose::Undo, Ok(_)) => self.undo_link(index, now, out),
            (Purpose::Undo, Err(why)) => {
                self.not_undone(index, &why);
                self.undo_link(index, now, out);
            }
        }
    }

    fn not_undone(&mut self, index: usize, why: &str) {
        if let Some(outcome) = &mut self.tasks[index].record.outcome {
            *outcome = Outcome::new(outcome.code, &format!("{}; cannot go back: {why}", outcome.message));
        }
    }

    /// The package's own name is known: was it there before, put there by somebody else?
    fn identified(&mut self, index: usize, package: Box<str>, version: Box<str>, now: Now, out: &mut Vec<Action>) {
        let Some(source) = self.source(index).cloned() else { return };
        let before = self.tasks[index].record.before.as_ref().and_then(|before| before.package.as_ref());
        let ours = before.is_some_and(|old| old.format == source.format && old.package == package);
        let query = package::query(source.format, &package);
        let file = State::kept_file(&source);
        self.tasks[index].record.package =
            Some(Installed { format: source.format, package, version, digest: source.digest, file });
        match query {
            Some(tool) if !ours => self.run_tools(index, Purpose::Query, vec![tool], now, out),
            _ => self.go(index, Phase::Installing, out),
        }
    }

    /// Nothing was changed yet: the package is thrown away and the job ends. Where an earlier daemon had come further, and
    /// on record the agent has the package already, that is undone.
    fn discard(&mut self, index: usize, code: Code, why: &str, now: Now, out: &mut Vec<Action>) {
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

    fn inspect(&mut self, index: usize, dir: &str, out: &mut Vec<Action>) {
        let task = &mut self.tasks[index];
        task.doing = Doing::Asked(Ask::Inspect);
        let (job, name) = (task.record.id.clone(), task.record.name.clone());
        out.push(Action::Inspect { job, name, dir: dir.into(), text: None });
    }

    /// A tar was unpacked, or could not be.
    pub(in super::super) fn unpacked(
        &mut self,
        id: &str,
        result: Result<(), Box<str>>,
        now: Now,
        out: &mut Vec<Action>,
    ) {
        let Some((index, Ask::Unpack)) = self.asked(id) else { return };
        match result {
            result if *self.tasks[index].record.name == *SELF => self.unpacked_own(index, result, out),
            Ok(()) => self.inspect(index, UNPACK, out),
            Err(why) => self.discard(index, Code::Install, &format!("cannot install: {why}"), now, out),
        }
    }

    /// The package's own definition was read; also the former one, on the way back.
    pub(in super::super) fn inspected(
        &mut self,
        id: &str,
        result: Result<Option<Box<Spec>>, Box<str>>,
        now: Now,
        out: &mut Vec<Action>,
    ) {
        match self.asked(id) {
            Some((index, Ask::Inspect)) => match result {
                Ok(own) => self.choose(index, own, now, out),
                Err(why) => self.undo(index, Code::BadJob, &format!("the package's definition: {why}"), now, out),
            },
            Some((index, Ask::Recall)) => {
                let had_own =
                    self.tasks[index].record.before.as_ref().is_some_and(|before| before.definition.is_none());
                let origin = if had_own { Origin::Package } else { Origin::Job };
                let definition = result.ok().flatten().map(|spec| Definition { origin, spec });
                self.go_back(index, definition, now, out);
            }
            _ => {}
        }
    }

    /// Chooses the definition that counts: a file in `agents.d`, else a job's, else the package's own.
    fn choose(&mut self, index: usize, own: Option<Box<Spec>>, now: Now, out: &mut Vec<Action>) {
        let Some(job) = self.tasks[index].job.clone() else { return };
        let Some(source) = self.source(index).cloned() else { return };
        if let Some(own) = own.as_ref().filter(|own| own.name != job.name) {
            let text = format!("the package's definition is of \"{}\", not of \"{}\"", own.name, job.name);
            return self.undo(index, Code::BadJob, &text, now, out);
        }
        let origin = self.agents.get(&job.name).and_then(Agent::origin);
        let by_package = |spec| Definition { origin: Origin::Package, spec };
        let definition = match (origin, job.definition.clone(), own) {
            (Some(Origin::File), ..) => None,
            (_, Some(spec), _) => Some(Definition { origin: Origin::Job, spec }),
            (Some(Origin::Job), ..) => None,
            (_, None, Some(own)) => Some(by_package(own)),
            (_, None, None) => {
                let text = "no definition: neither in agents.d, nor in the job, nor in the package";
                return self.undo(index, Code::BadJob, text, now, out);
            }
        };
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
        self.tasks[index].record.package = Some(Installed {
            format: source.format,
            package: dir.clone(),
            version: chosen.version.clone(),
            digest: source.digest,
            file: "".into(),
        });
        self.tasks[index].doing = Doing::Asked(Ask::Rename(Box::new(chosen)));
        out.push(Action::Rename { job: id, name, from: UNPACK.into(), to: dir });
    }

    /// The directory of a version; another package of the same version gets one of its own.
    fn unpack_dir(&self, index: usize, source: &Source, version: &str) -> Box<str> {
        let dir = if is_version(version) { version } else { "unversioned" };
        let taken =
            |installed: &Option<Installed>| installed.as_ref().is_some_and(|installed| *installed.package == *dir);
        // As it was before the job: what an interrupted attempt put there is replaced.
        let before = self.tasks[index].record.before.as_deref();
        if dir == "current" || before.is_some_and(|before| taken(&before.package) || taken(&before.previous)) {
            format!("{dir}+{}", &State::kept_file(source)[..8]).into()
        } else {
            dir.into()
        }
    }

    /// The package is on the host: the agent is what the job says from now on.
    fn adopt_package(&mut self, index: usize, chosen: Chosen, out: &mut Vec<Action>) {
        let Some(job) = self.tasks[index].job.clone() else { return };
        if let Some(package) = &mut self.tasks[index].record.package {
            package.version = chosen.version;
        }
        let package = self.tasks[index].record.package.clone();
        let fresh = AgentRecord { name: job.name.clone(), ..AgentRecord::default() };
        self.leaving.retain(|leaving| *leaving != job.name);
        let agent = self.agents.or_insert_with(job.name.clone(), || Agent::new(fresh, None, false));
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
    pub(in super::super) fn placed(&mut self, id: &str, result: Result<(), Box<str>>, now: Now, out: &mut Vec<Action>) {
        let Some((index, ask)) = self.asked(id) else { return };
        match (ask, result) {
            (Ask::Keep, Ok(())) => self.kept(index, now, out),
            (Ask::Keep, Err(why)) => {
                self.discard(index, Code::Install, &format!("cannot keep the package: {why}"), now, out)
            }
            (Ask::Rename(chosen), Ok(())) => self.adopt_package(index, *chosen, out),
            (Ask::Rename(_), Err(why)) => {
                self.discard(index, Code::Install, &format!("cannot install: {why}"), now, out)
            }
            (Ask::Link, Ok(())) => self.switched(index, now, out),
            (Ask::Link, Err(why)) => self.undo(index, Code::Install, &format!("cannot install: {why}"), now, out),
            (Ask::UndoLink, Ok(())) => self.package_undone(index, now, out),
            (Ask::UndoLink, Err(why)) => {
                self.not_undone(index, &why);
                self.package_undone(index, now, out);
            }
            (Ask::Replace, result) => self.replaced(index, result, out),
            (Ask::Verify | Ask::Unpack | Ask::Inspect | Ask::Recall, _) => {}
        }
    }

    /// The new package is up: one of another kind or name that it replaced must not stay beside it.
    pub(super) fn retire(&mut self, index: usize, now: Now, out: &mut Vec<Action>) {
        let old = self.tasks[index].record.before.as_ref().and_then(|before| before.package.as_ref());
        let new = self.tasks[index].record.package.as_ref();
        let tool = old.filter(|old| !new.is_some_and(|new| same_package(old, new)));
        match tool.and_then(|old| package::remove(old.format, &old.package)) {
            Some(tool) => self.run_tools(index, Purpose::Retire, vec![tool], now, out),
            None => self.installed(index, out),
        }
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
                    drop.extend(older.files().filter(|file| !in_use.iter().any(|installed| holds(installed, file))));
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
        self.finish(index, Code::Success, "success", out);
    }

    /// Goes back to what was there before the job, and says why.
    pub(super) fn undo(&mut self, index: usize, code: Code, why: &str, now: Now, out: &mut Vec<Action>) {
        let task = &mut self.tasks[index];
        let Some(before) = task.record.before.as_deref() else { return self.finish(index, code, why, out) };
        let new = task.record.package.as_ref();
        let version = new.map_or("the new one", |new| &new.version);
        let stays = task.record.foreign && new.is_some_and(|new| !new.format.is_tar());
        task.record.outcome = Some(match &before.package {
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
    fn undo_link(&mut self, index: usize, now: Now, out: &mut Vec<Action>) {
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

    /// The host has the package it had before: the agent gets the definition it had.
    fn package_undone(&mut self, index: usize, now: Now, out: &mut Vec<Action>) {
        let name = self.job_name(index);
        let Some(before) = self.tasks[index].record.before.clone() else { return };
        let mut drop: Vec<Box<str>> = vec![UNPACK.into()];
        if let Some(source) = self.source(index).cloned() {
            drop.push(State::kept_file(&source));
        }
        drop.extend(self.tasks[index].record.package.iter().flat_map(Installed::files));
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

    fn go_back(&mut self, index: usize, definition: Option<Definition>, now: Now, out: &mut Vec<Action>) {
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

    /// What was there before is back: it runs again, if it should.
    pub(super) fn start_again(&mut self, index: usize, now: Now, out: &mut Vec<Action>) {
        match self.agents.get(&self.job_name(index)).map(Agent::wanted) {
            Some(Wanted::Up) => self.start_agent(index, now, out),
            _ => self.undone(index, out),
        }
    }

    pub(super) fn undone(&mut self, index: usize, out: &mut Vec<Action>) {
        if let Some(outcome) = self.tasks[index].record.outcome.clone() {
            self.finish(index, outcome.code, &outcome.message, out);
        }
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
fn same_package(old: &Installed, new: &Installed) -> bool {
    old.format.is_tar() && new.format.is_tar() || old.format == new.format && old.package == new.package
}

fn holds(installed: &Option<Installed>, file: &str) -> bool {
    installed.as_ref().is_some_and(|installed| installed.files().any(|kept| *kept == *file))
}
