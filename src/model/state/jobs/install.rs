//! Packages: how a job installs one, once its bytes are here.

use super::task::{Ask, Chosen, Doing, Purpose};
use super::SELF;
use crate::kernel::Level;
use crate::model::agent::Agent;
use crate::model::event::{log, Action, Definition, Now, Origin, Verified};
use crate::model::job::{Code, Order, Source};
use crate::model::package;
use crate::model::record::{Installed, Phase, Wanted};
use crate::model::spec::Spec;
use crate::model::state::{is_file, State};
use crate::reason::Reason;

/// Where a tar is unpacked before its version is known, below `packages/NAME/`.
pub(super) const UNPACK: &str = ".unpack";

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

    pub(super) fn kept_path(&self, name: &str, file: &str) -> String {
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
            return self.finish(index, Code::Success, format_args!("success, this package is installed already"), out);
        }
        if !is_known(&same, agent) {
            return self.go(index, Phase::Downloading, out);
        }
        if let Some(why) = self.env_objection(&job, agent.definition.as_ref()) {
            return self.finish(index, Code::Refused, format_args!("refused: {why}"), out);
        }
        self.tasks[index].record.package = Some(same);
        self.go(index, Phase::Installing, out);
    }

    /// The package is the one the agent has already: only what the job says about it is new.
    fn keep_installed(&mut self, index: usize, version: Box<str>, out: &mut Vec<Action>) {
        let Some(job) = self.tasks[index].job.clone() else { return };
        let is_file = self.agents.get(&job.name).is_some_and(is_file);
        let definition = job.definition.clone().filter(|_| !is_file);
        let definition = definition.map(|spec| Definition { origin: Origin::Job, spec });
        self.adopt_package(index, Chosen { definition, version }, out);
    }

    /// The phase `Verified`: what was fetched is verified where it lies, in a place where only root can write and under a
    /// name that no server chose, and not by the child that fetched it: whoever took that one over can say anything. The very
    /// file gets its place then.
    pub(super) fn verify(&mut self, index: usize, out: &mut Vec<Action>) {
        let Some(file) = self.source(index).map(State::kept_file) else { return };
        let task = &mut self.tasks[index];
        task.doing = Doing::Asked(Ask::Verify);
        out.push(Action::Verify(task.record.id.clone(), task.record.name.clone(), file));
    }

    /// The package is what it should be: it gets its place, and the name that installers want.
    fn keep_package(&mut self, index: usize, out: &mut Vec<Action>) {
        let Some(file) = self.source(index).map(State::kept_file) else { return };
        let task = &mut self.tasks[index];
        task.doing = Doing::Asked(Ask::Keep);
        out.push(Action::Place(task.record.id.clone(), task.record.name.clone(), file));
    }

    /// A package was verified, or could not be.
    pub(in super::super) fn verified(&mut self, id: &str, result: Verified, now: Now, out: &mut Vec<Action>) {
        let Some((index, Ask::Verify)) = self.asked(id) else { return };
        let Some(want) = self.source(index).map(|source| source.digest) else { return };
        match result {
            Verified::Sound(digest) if digest == want => self.keep_package(index, out),
            Verified::Sound(digest) => {
                self.discard(
                    index,
                    Code::Checksum,
                    format_args!("the package is not what was fetched: want {want}, got {digest}"),
                    now,
                    out,
                );
            }
            Verified::Hostile(why) => self.discard(index, Code::Refused, format_args!("refused: {why}"), now, out),
            Verified::Unknown(why) => {
                self.discard(index, Code::Install, format_args!("cannot install: {why}"), now, out)
            }
        }
    }

    /// The phase `Verified`, once the package has its place: what it says it is.
    pub(super) fn identify(&mut self, index: usize, now: Now, out: &mut Vec<Action>) {
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
            let known = self.agents.get(&name).map_or(same.format.is_tar(), |agent| is_known(&same, agent));
            if known && record.before.as_ref().is_some_and(|before| before.package.as_ref() == Some(&same)) {
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

    /// The package tools run for this purpose have ended.
    pub(super) fn tools_done(
        &mut self,
        index: usize,
        purpose: Purpose,
        result: Result<&str, Reason>,
        now: Now,
        out: &mut Vec<Action>,
    ) {
        match (purpose, result) {
            (Purpose::Identify, result) => {
                match result.and_then(package::identity) {
                    Ok((package, version)) => self.identified(index, package, version, now, out),
                    Err(why) => self.discard(index, Code::Install, format_args!("cannot install: {why}"), now, out),
                };
            }
            (Purpose::Query, result) => {
                self.tasks[index].record.foreign = result.is_ok();
                self.go(index, Phase::Installing, out);
            }
            (Purpose::Install, Ok(_)) => self.inspect(index, "", out),
            (Purpose::Install, Err(why)) => {
                self.undo(index, Code::Install, format_args!("cannot install: {why}"), now, out)
            }
            (Purpose::Remove, Ok(_)) => self.removed(index, now, out),
            (Purpose::Remove, Err(why)) => {
                self.undo(index, Code::Install, format_args!("cannot remove the package: {why}"), now, out);
            }
            (Purpose::Retire, result) => {
                if let Err(why) = result {
                    log(
                        out,
                        Level::Warn,
                        format_args!("job \"{}\": taking the former package away: {why}", self.tasks[index].record.id),
                    );
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

    /// The package's own name is known: was it there before, put there by somebody else?
    fn identified(&mut self, index: usize, package: Box<str>, version: Box<str>, now: Now, out: &mut Vec<Action>) {
        let Some(source) = self.source(index).cloned() else { return };
        let before = self.tasks[index].record.before.as_ref().and_then(|before| before.package.as_ref());
        let ours = before.is_some_and(|old| old.format == source.format && old.package == package);
        let query = package::query(source.format, &package);
        let file = State::kept_file(&source);
        self.tasks[index].record.package =
            Some(Box::new(Installed { format: source.format, package, version, digest: source.digest, file }));
        match query {
            Some(tool) if !ours => self.run_tools(index, Purpose::Query, vec![tool], now, out),
            _ => self.go(index, Phase::Installing, out),
        }
    }

    fn inspect(&mut self, index: usize, dir: &str, out: &mut Vec<Action>) {
        let task = &mut self.tasks[index];
        task.doing = Doing::Asked(Ask::Inspect);
        let (job, name) = (task.record.id.clone(), task.record.name.clone());
        out.push(Action::Inspect { job, name, dir: dir.into(), text: None });
    }

    /// A tar was unpacked, or could not be.
    pub(in super::super) fn unpacked(&mut self, id: &str, result: Result<(), Reason>, now: Now, out: &mut Vec<Action>) {
        let Some((index, Ask::Unpack)) = self.asked(id) else { return };
        match result {
            result if *self.tasks[index].record.name == *SELF => self.unpacked_own(index, result, out),
            Ok(()) => self.inspect(index, UNPACK, out),
            Err(why) => self.discard(index, Code::Install, format_args!("cannot install: {why}"), now, out),
        }
    }

    /// The package's own definition was read; also the former one, on the way back.
    pub(in super::super) fn inspected(
        &mut self,
        id: &str,
        result: Result<Option<Box<Spec>>, Reason>,
        now: Now,
        out: &mut Vec<Action>,
    ) {
        match self.asked(id) {
            Some((index, Ask::Inspect)) => match result {
                Ok(own) => self.choose(index, own, now, out),
                Err(why) => self.unfit(index, Code::BadJob, format_args!("the package's definition: {why}"), now, out),
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
}

/// Whether an installed package is known to be still there: of one that a package manager may have removed only while its
/// agent runs.
fn is_known(package: &Installed, agent: &Agent) -> bool {
    package.format.is_tar() || agent.running_since().is_some()
}
