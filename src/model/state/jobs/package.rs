//! Steps of jobs that install or remove a package, and those that undo them.
//!
//! The package file is kept below `packages/NAME/`, and so is the one before it, for an undo. The host does what the
//! steps ask for; this file says with which names, and judges the answers.

use super::open_job::Chosen;
use super::run::{Run, StepResult};
use crate::error::Error;
use crate::kernel::Level;
use crate::model::agent::Agent;
use crate::model::event::{log, Action, Definition, Now, Origin, Verified};
use crate::model::job::{Code, Job, JobAction, Outcome, Source};
use crate::model::package::{self, Format};
use crate::model::plan::{Plan, Step};
use crate::model::record::{AgentRecord, Installed, Phase, Wanted};
use crate::model::spec::{is_version, Spec};
use crate::model::state::{is_file, take_out, State};
use crate::model::trust;
use crate::text::{sanitize, MESSAGE_MAX};

/// Where a tar is unpacked before its version is known, below `packages/NAME/`.
const UNPACK: &str = ".unpack";

impl State {
    /// The name under which a package file is kept below `packages/NAME/`.
    pub(super) fn kept_file(source: &Source) -> Box<str> {
        let digest = source.digest.to_string();
        format!("{}{}", &digest["SHA256:".len()..][..16], source.format.ending()).into()
    }

    /// The path of a file below `packages/NAME/`.
    fn kept_path(&self, name: &str, file: &str) -> String {
        format!("{}/{name}/{file}", self.options.packages)
    }

    /// Forgets an agent. One that runs, as the operator has started it meanwhile, is stopped first.
    pub(in super::super) fn forget(&mut self, name: &str, now: Now, out: &mut Vec<Action>) {
        if let Some(agent) = self.agents.get_mut(name) {
            agent.record = AgentRecord { name: name.into(), wanted: Some(Wanted::Down), ..AgentRecord::default() };
            agent.define(None);
            self.leave(name, now, out);
            self.follow_leaving(out);
        }
    }
}

impl Run<'_> {
    /// Notes what the agent is before an install or upgrade; `Err`: the job ends at once, as the agent has all that it
    /// says.
    pub fn begin_install(&mut self, job: &Job) -> Result<(), StepResult> {
        let agent = self.state.agents.get(&job.name);
        let record = agent.map(|agent| agent.record.clone()).unwrap_or_default();
        let digest = self.job.source().map(|source| source.digest);
        let same = record.package.clone().filter(|package| {
            Some(package.digest) == digest && job.version.as_ref().is_none_or(|version| *version == package.version)
        });
        self.job.record.before = Some(Box::new(record));
        let (Some(same), Some(agent)) = (same, agent) else { return Ok(()) };
        if is_known(&same, agent) {
            if let Some(why) = self.env_objection(job, agent.definition.as_ref()) {
                return Err(StepResult::End(Code::Refused, format!("refused: {why}")));
            }
            self.job.record.package = Some(same);
        }
        Ok(())
    }

    /// Whether the package is the one that the agent had before.
    fn is_same(&self) -> bool {
        let record = &self.job.record;
        record.package.is_some() && record.before.as_ref().is_some_and(|before| before.package == record.package)
    }

    /// Why a job's environment is refused for an agent with this definition, where packages must be signed.
    fn env_objection(&self, job: &Job, definition: Option<&Definition>) -> Option<String> {
        trust::env_objection(job.envs.as_ref(), definition).filter(|_| self.state.options.signed)
    }

    /// Why a package that is about to be installed must not be: an earlier daemon began the job when packages did not
    /// need to be signed.
    pub fn unsigned(&self) -> Option<String> {
        let resumed = self.job.resumed && self.job.record.phase == Phase::Installing && !self.job.goes_back();
        self.job.source().filter(|_| resumed && self.state.options.signed)?;
        trust::objection(self.job.content.as_deref()?)
    }

    /// Whether a package that is about to be installed must be verified again: the earlier daemon that did so may have
    /// trusted other keys, or every package.
    pub fn is_unverified(&self) -> bool {
        self.job.resumed && !self.job.verified && self.state.options.signed && !self.job.goes_back()
    }

    /// Refuses a step. An install of a package that is there already has changed nothing before it has adopted it.
    pub fn refuse(&self, step: Step, why: &str) -> StepResult {
        let text = format!("refused: {why}");
        match step == Step::Adopt && !self.has_adopted() {
            true => StepResult::End(Code::Refused, text),
            false => StepResult::Failed(Code::Refused, text),
        }
    }

    // Forward.

    /// Has the package file kept below `packages/NAME/`.
    pub fn place(&mut self) -> StepResult {
        let Some(file) = self.job.source().map(State::kept_file) else { return self.misfit() };
        self.ask(Action::PlacePackage(self.id(), self.name(), file))
    }

    /// Has the package file verified. The helper that fetched it does not do this, as an attacker who controls that
    /// helper could report anything. The file lies where only root can write, under a name that no server chose; this
    /// same file is the one that is placed.
    pub fn verify(&mut self) -> StepResult {
        let Some(file) = self.job.source().map(State::kept_file) else { return self.misfit() };
        self.ask(Action::Verify(self.id(), self.name(), file))
    }

    /// Judges the digest and the signature of the package file.
    pub fn verified(&mut self, verified: Verified) -> StepResult {
        let Some(want) = self.job.source().map(|source| source.digest) else { return self.misfit() };
        match verified {
            Verified::Sound(digest) if digest == want => {
                self.job.verified = true;
                match self.job.is_at(Step::Verify) {
                    true => StepResult::Done,
                    false => self.begin(),
                }
            }
            Verified::Sound(digest) => StepResult::Failed(
                Code::Checksum,
                format!("the package is not what was fetched: want {want}, got {digest}"),
            ),
            Verified::Hostile(why) => StepResult::Failed(Code::Refused, format!("refused: {why}")),
            Verified::Unknown(why) => StepResult::Failed(Code::Install, format!("cannot install: {why}")),
        }
    }

    /// Asks the package tool for the name and version of the package file.
    pub fn identify(&mut self) -> StepResult {
        let Some(source) = self.job.source() else { return self.misfit() };
        let path = self.state.kept_path(self.job.name(), &State::kept_file(source));
        self.run_tools(package::identify(source.format, &path))
    }

    /// Notes the name and version of the package.
    pub fn identified(&mut self, output: Result<&str, Error>) -> StepResult {
        let Some(source) = self.job.source() else { return self.misfit() };
        match output.and_then(package::identity) {
            Ok((package, version)) => {
                let (format, digest, file) = (source.format, source.digest, State::kept_file(source));
                let native = version.clone();
                self.job.record.package = Some(Box::new(Installed { format, package, version, digest, file, native }));
                StepResult::Done
            }
            Err(why) => StepResult::Failed(Code::Install, format!("cannot install: {why}")),
        }
    }

    /// Asks what is installed of the package.
    pub fn query(&mut self) -> StepResult {
        let Some(new) = &self.job.record.package else { return self.misfit() };
        self.run_tools(package::query(new.format, &new.package))
    }

    /// Notes what was installed before, and whether somebody else did that.
    pub fn queried(&mut self, output: Result<&str, Error>) -> StepResult {
        let Ok(versions) = output.map(one_version) else { return StepResult::Done };
        let record = &mut self.job.record;
        let old = record.before.as_ref().and_then(|before| before.package.as_ref());
        let by_a_job = record.package.as_ref().is_some_and(|new| old.is_some_and(|old| is_same_package(old, new)));
        record.foreign = !by_a_job && !versions.is_empty();
        record.found = Some(versions);
        StepResult::Done
    }

    /// Asks whether what the agent has on record is still there.
    pub fn look(&mut self) -> StepResult {
        let Some(package) = &self.job.record.package else { return self.misfit() };
        let tool = package::query(package.format, &package.package)
            .unwrap_or_else(|| package::look(&self.state.kept_path(self.job.name(), &package.package)));
        self.run_tools([tool])
    }

    /// Ends a job that has nothing to change, or has a package fetched again that somebody removed or replaced.
    pub fn looked(&mut self, output: Result<&str, Error>) -> StepResult {
        let (Some(job), Some(package)) = (self.job.content.clone(), &self.job.record.package) else {
            return self.misfit();
        };
        let found = output.map(one_version);
        let there = match &found {
            Ok(found) => package.native.is_empty() && !found.is_empty() || *found == package.native,
            Err(_) => false,
        };
        if !there {
            let found = found.ok().filter(|found| !found.is_empty());
            return self
                .fetch_again(&found.map_or("it is gone".to_string(), |found| format!("{found} is in its place")));
        }
        let Some(agent) = self.agent() else { return StepResult::Done };
        let changed = changes(&job, agent)
            || job.definition.is_some() && Some(&job.definition_text) != agent.record.definition.as_ref();
        let starts = matches!(job.action, JobAction::Install(_)) || agent.wanted() == Wanted::Up;
        match !changed && (agent.running_since().is_some() || !starts) {
            true => StepResult::End(Code::Success, "success, this package is installed already".to_string()),
            false => StepResult::Done,
        }
    }

    /// Has the package tool install the package file.
    pub fn install(&mut self) -> StepResult {
        let Some(source) = self.job.source() else { return self.misfit() };
        let Some(package) = self.job.record.package.as_ref().map(|new| new.package.clone()) else {
            return self.misfit();
        };
        let path = self.state.kept_path(self.job.name(), &State::kept_file(source));
        let interrupted = std::mem::take(&mut self.state.jobs.interrupted) || self.job.resumed;
        let mut tools = package::install(source.format, &path, &package, interrupted);
        tools.extend(package::query(source.format, &package));
        self.run_tools(tools)
    }

    /// Judges an installation by what the package manager says is there, as its own failure may be another package's.
    pub fn installed(&mut self, output: Result<&str, Error>) -> StepResult {
        let failure = self.tool_failure();
        let Some(new) = &self.job.record.package else { return self.misfit() };
        let why = match (output.map(one_version), failure) {
            (Ok(found), None) if found == new.native => return StepResult::Done,
            (Ok(found), Some(why))
                if found == new.native && !package::is_own_failure(new.format, &new.package, &why) =>
            {
                self.job.note = Some(why);
                return StepResult::Done;
            }
            (_, Some(why)) => why,
            (Ok(found), None) => format!("the package manager has {}", shown(&found)).into(),
            (Err(why), None) => why.to_string().into(),
        };
        StepResult::Failed(Code::Install, format!("cannot install: {why}"))
    }

    /// Has the tar unpacked, beside what is in use.
    pub fn unpack(&mut self) -> StepResult {
        let Some(source) = self.job.source() else { return self.misfit() };
        let (file, format) = (State::kept_file(source), source.format);
        let dir = if self.job.is_own() { super::own::NEXT } else { UNPACK };
        self.ask(Action::Unpack { job: self.id(), name: self.name(), file, dir: dir.into(), format })
    }

    /// Has the definition read that the package brings.
    pub fn inspect(&mut self) -> StepResult {
        let Some(source) = self.job.source() else { return self.misfit() };
        let dir = if source.format.is_tar() { UNPACK } else { "" };
        self.ask(Action::Inspect { job: self.id(), name: self.name(), dir: dir.into(), text: None })
    }

    /// Chooses the definition that counts: that of a file in `agents.d`, else of a job, else of the package itself.
    pub fn choose(&mut self, own: Result<Option<Box<Spec>>, Error>) -> StepResult {
        let (Some(job), Some(source)) = (self.job.content.clone(), self.job.source()) else { return self.misfit() };
        let unfit = |why: String| StepResult::Failed(Code::BadJob, why);
        let own = match own {
            Ok(Some(own)) if own.name != job.name => {
                return unfit(format!("the package's definition is of \"{}\", not of \"{}\"", own.name, job.name));
            }
            Ok(own) => own,
            Err(why) => return unfit(format!("the package's definition: {why}")),
        };
        let by = |origin, spec| Some(Definition { origin, spec });
        let signed = self.state.options.signed;
        let definition = match (self.agent().and_then(Agent::origin), job.definition.clone(), own) {
            (Some(Origin::File), ..) => None,
            (_, Some(spec), _) => by(Origin::Job, spec),
            // Where packages must be signed, the definition in one counts for more than that of an earlier job.
            (Some(Origin::Job), _, own) if own.is_none() || !signed => None,
            (_, None, Some(own)) => by(Origin::Package, own),
            (_, None, None) => {
                return unfit("no definition: neither in agents.d, nor in the job, nor in the package".to_string());
            }
        };
        let current = self.agent().and_then(|agent| agent.definition.as_ref());
        if let Some(why) = self.env_objection(&job, definition.as_ref().or(current)) {
            return StepResult::Failed(Code::Refused, format!("refused: {why}"));
        }
        let installed = self.job.record.package.as_ref().map(|package| package.version.clone());
        let defined = definition.as_ref().map(|definition| definition.spec.version.clone());
        let version = job.version.clone().or(defined).or(installed).unwrap_or_else(|| version_of(&job, source));
        self.job.chosen = Some(Chosen { definition, version });
        StepResult::Done
    }

    /// Names the directory of the tar after its version.
    pub fn give_name(&mut self) -> StepResult {
        let (Some(source), Some(chosen)) = (self.job.source(), &self.job.chosen) else { return self.misfit() };
        let dir = self.unpack_dir(source, &chosen.version);
        let (format, digest, version) = (source.format, source.digest, chosen.version.clone());
        let package = Installed { format, package: dir.clone(), version, digest, file: "".into(), native: "".into() };
        self.job.record.package = Some(Box::new(package));
        self.ask(Action::Rename { job: self.id(), name: self.name(), from: UNPACK.into(), to: dir })
    }

    /// The directory of a version; another package of the same version gets one of its own.
    fn unpack_dir(&self, source: &Source, version: &str) -> Box<str> {
        let dir = if is_version(version) { version } else { "unversioned" };
        let taken =
            |installed: &Option<Box<Installed>>| installed.as_ref().is_some_and(|installed| *installed.package == *dir);
        // Only what was in use before the job counts: the directory of an interrupted attempt is replaced.
        let before = self.job.record.before.as_deref();
        if dir == "current" || before.is_some_and(|before| taken(&before.package) || taken(&before.previous)) {
            format!("{dir}+{}", &State::kept_file(source)[..8]).into()
        } else {
            dir.into()
        }
    }

    /// The package is on the host: from now on the agent is what the job says.
    pub fn adopt(&mut self) -> StepResult {
        let Some(job) = self.job.content.clone() else { return self.misfit() };
        let Some(chosen) = self.job.chosen.take().or_else(|| self.as_installed(&job)) else { return self.misfit() };
        if let Some(package) = &mut self.job.record.package {
            package.version = chosen.version;
        }
        take_out(&mut self.state.leaving, &job.name);
        let agent = self.state.agent(&job.name, false);
        if let Some(definition) = chosen.definition {
            let by_job = definition.origin == Origin::Job;
            agent.record.definition = by_job.then(|| job.definition_text.clone());
            agent.define(Some(definition));
        }
        agent.record.package = self.job.record.package.clone();
        agent.record.envs = job.envs.clone().or(agent.record.envs.take());
        agent.record.limits = job.limits.clone().or(agent.record.limits.take());
        if matches!(job.action, JobAction::Install(_)) {
            agent.record.wanted = Some(Wanted::Up);
        }
        self.out.push(Action::SaveAgent(Box::new(agent.record.clone())));
        StepResult::Done
    }

    /// What the agent becomes with the package that it has already; `None`: it has another one.
    fn as_installed(&self, job: &Job) -> Option<Chosen> {
        let version = self.job.record.package.as_ref().filter(|_| self.is_same())?.version.clone();
        let definition = job.definition.clone().filter(|_| !self.agent().is_some_and(is_file));
        Some(Chosen { definition: definition.map(|spec| Definition { origin: Origin::Job, spec }), version })
    }

    /// Has `current` point to the directory of the tar.
    pub fn link(&mut self) -> StepResult {
        match &self.job.record.package {
            Some(package) if package.format.is_tar() => {
                let dir = package.package.clone();
                self.ask(Action::Link(self.id(), self.name(), dir))
            }
            _ => StepResult::Done,
        }
    }

    /// Fails the step, or has a package fetched again that is on record and gone.
    pub fn not_linked(&mut self, why: &str) -> StepResult {
        match self.is_same() {
            true => self.fetch_again(why),
            false => StepResult::Failed(Code::Install, format!("cannot install: {why}")),
        }
    }

    /// Has the package fetched again that is on record: somebody removed it, or the record of an uninstall was lost.
    fn fetch_again(&mut self, why: &str) -> StepResult {
        let Some(plan) = self.job.content.as_ref().and_then(|job| Plan::of(job, false)) else { return self.misfit() };
        let id = &self.job.record.id;
        log(self.out, Level::Warn, format_args!("job \"{id}\": the package is fetched again: {why}"));
        self.job.record.package = None;
        self.job.plan = plan;
        StepResult::GoTo(Step::Download)
    }

    /// The agent runs from the new package: the former package, if of another format or name, is removed.
    pub fn retire(&mut self) -> StepResult {
        let record = &self.job.record;
        let old = record.before.as_ref().and_then(|before| before.package.as_ref());
        let new = record.package.as_ref();
        let old = old.filter(|old| !new.is_some_and(|new| is_same_package(old, new)) && !self.is_shared(old));
        let Some(remove) = old.and_then(|old| package::remove(old.format, &old.package, false)) else {
            return StepResult::Done;
        };
        let mut tools = vec![remove];
        if let Some(new) = new {
            // Removing the former package has removed the files that are in both.
            let path = self.state.kept_path(&record.name, &new.file);
            tools.extend(package::install(new.format, &path, &new.package, false));
        }
        self.run_tools(tools)
    }

    /// The former package cannot be removed, which is no reason for an undo.
    pub fn not_retired(&mut self, why: &str) -> StepResult {
        let id = &self.job.record.id;
        log(self.out, Level::Warn, format_args!("job \"{id}\": cannot remove the former package: {why}"));
        StepResult::Done
    }

    /// Keeps the package before the new one, and removes the one before that.
    pub fn keep(&mut self) -> StepResult {
        let old = self.job.record.before.take().and_then(|before| before.package);
        let mut drop = Vec::new();
        let Some(agent) = self.state.agents.get_mut(self.job.name()) else {
            let id = &self.job.record.id;
            log(self.out, Level::Warn, format_args!("job \"{id}\": its agent is gone, so no package of it is kept"));
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
            self.out.push(Action::RemovePackage(agent.record.name.clone(), drop));
        }
        self.out.push(Action::SaveAgent(Box::new(agent.record.clone())));
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
        self.run_tools(tool.into_iter().chain(query))
    }

    /// Judges a removal by what the package manager says is left.
    pub fn removed(&mut self, output: Result<&str, Error>) -> StepResult {
        let failure = self.tool_failure();
        match (output, failure) {
            (Ok(left), failure) if left.trim().is_empty() => {
                self.job.note = failure;
                StepResult::Done
            }
            (Ok(_), Some(why)) => cannot_remove(&why),
            (Ok(left), None) => cannot_remove(&format!("the package manager still has {}", left.trim())),
            (Err(why), _) => cannot_remove(&why),
        }
    }

    /// Whether another agent comes from the same package, so that it must not be removed.
    fn is_shared(&self, package: &Installed) -> bool {
        !package.format.is_tar()
            && self.state.agents.values().any(|agent| {
                let of_other = agent.record.package.as_ref().filter(|_| *agent.record.name != *self.job.record.name);
                of_other.is_some_and(|other| is_same_package(other, package))
            })
    }

    /// Removes the agent, with all that is kept of its packages.
    pub fn forget(&mut self) -> StepResult {
        self.out.push(Action::RemovePackage(self.name(), Vec::new()));
        self.state.forget(self.job.name(), self.now, self.out);
        StepResult::Done
    }

    // Undo.

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
        let stays = record.foreign && new.is_some_and(|new| !new.format.is_tar());
        let outcome = match &before.package {
            // A refusal is reported as one, even with a rollback.
            Some(old) if new.is_some() && code == Code::Refused => {
                Outcome::new(code, &format!("{why}; rolled back from {version} to {}", old.version))
            }
            Some(old) if new.is_some() => {
                let (to, lost) = self.back_to(old);
                Outcome::new(Code::RolledBack, &format!("rolled back from {version} to {to}{lost}: {why}"))
            }
            _ if stays => {
                Outcome::new(code, &format!("{why}; no earlier package is kept to go back to, {version} stays"))
            }
            _ => Outcome::new(code, &format!("{why}; undone")),
        };
        self.state.incident(self.name(), &outcome.message, self.now);
        Some(outcome)
    }

    /// The version to go back to, and a remark where what was there before cannot be had: somebody else had replaced what
    /// the last job installed.
    fn back_to(&self, old: &Installed) -> (Box<str>, String) {
        let same = self.job.record.package.as_ref().is_some_and(|new| is_same_package(old, new));
        match self.job.record.found.as_ref().filter(|found| same && !old.native.is_empty() && **found != old.native) {
            None => (old.version.clone(), String::new()),
            Some(found) if self.way_back().is_some_and(|way| way.want == *found) => (found.clone(), String::new()),
            Some(found) => (old.version.clone(), format!(", as what was there before, {}, is not kept", shown(found))),
        }
    }

    /// What the package manager has to do to undo the job; `None`: nothing.
    fn way_back(&self) -> Option<WayBack> {
        let record = &self.job.record;
        let before = record.before.as_deref()?;
        let old = before.package.as_deref();
        // An uninstall may have removed the package or a part of it.
        let removal = matches!(self.job.action(), Some(JobAction::Uninstall));
        let new = record.package.as_deref().filter(|new| old.is_none_or(|old| old.digest != new.digest));
        let replaces = new.filter(|new| !old.is_some_and(|old| is_same_package(old, new)) && !new.format.is_tar());
        let mut way = WayBack { remove: None, install: None, format: Format::Tar, package: "".into(), want: "".into() };
        if let Some(new) = replaces {
            (way.format, way.package) = (new.format, new.package.clone());
            if !record.foreign && !self.is_shared(new) {
                way.remove = package::remove(new.format, &new.package, false);
            }
        }
        if let Some(old) = old.filter(|old| (new.is_some() || removal) && !old.format.is_tar()) {
            let previous = before.previous.as_deref().filter(|kept| is_same_package(kept, old));
            let kept = previous.filter(|kept| Some(&kept.native) == record.found.as_ref()).unwrap_or(old);
            (way.format, way.package, way.want) = (old.format, old.package.clone(), kept.native.clone());
            way.install = Some(self.state.kept_path(&record.name, &kept.file));
        }
        (way.remove.is_some() || way.install.is_some()).then_some(way)
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

    /// Judges the way back by what the package manager says is there now.
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
        self.cannot_go_back(Some(found), &failure.unwrap_or_default())
    }

    /// What was there before does not come back: the result says so first, and the agent's record what is there.
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

    /// Removes what the job brought and the agent did not have before; everything, if it had no package.
    pub fn discard(&mut self) -> StepResult {
        let Some(source) = self.job.source() else { return StepResult::Done };
        let mut drop: Vec<Box<str>> = vec![UNPACK.into(), State::kept_file(source)];
        drop.extend(self.job.record.package.iter().flat_map(|package| package.files()));
        let before = self.job.record.before.as_deref();
        let kept = before.map_or([&None, &None], |before| [&before.package, &before.previous]);
        drop.retain(|file| !kept.iter().any(|installed| holds(installed, file)));
        if kept.iter().all(|installed| installed.is_none()) {
            drop.clear();
        }
        self.out.push(Action::RemovePackage(self.name(), drop));
        StepResult::Done
    }

    /// Has the definition read that the agent had before, where the job may have replaced it.
    pub fn restore(&mut self) -> StepResult {
        let Some(before) = &self.job.record.before else { return self.misfit() };
        if before.name.is_empty() || self.agent().is_some_and(is_file) || self.job.source().is_none() {
            return self.restore_with(None);
        }
        let tar = before.package.as_ref().filter(|old| old.format.is_tar());
        let (dir, text) = (tar.map_or("".into(), |old| old.package.clone()), before.definition.clone());
        self.ask(Action::Inspect { job: self.id(), name: self.name(), dir, text })
    }

    /// Restores the agent's record and definition. There is nothing to restore where there was no agent, as an empty
    /// record says, or where only a file defined it and this file is gone by now.
    pub fn restore_with(&mut self, definition: Option<Box<Spec>>) -> StepResult {
        let Some(mut before) = self.job.record.before.as_deref().cloned() else { return self.misfit() };
        let file = self.agent().is_some_and(is_file);
        if before.name.is_empty() || !file && before.package.is_none() && before.definition.is_none() {
            self.state.forget(self.job.name(), self.now, self.out);
            return StepResult::Done;
        }
        let removal = matches!(self.job.action(), Some(JobAction::Uninstall));
        if let Some(agent) = self.state.agents.get_mut(self.job.name()) {
            // Of the jobs that are undone only an uninstall orders an agent down: otherwise the operator did, which
            // counts.
            if agent.record.wanted == Some(Wanted::Down) && !removal {
                before.wanted = Some(Wanted::Down);
            }
            let origin = if before.definition.is_none() { Origin::Package } else { Origin::Job };
            agent.record = before;
            if let Some(found) = self.job.stuck.take() {
                // The undo has failed, and what the package manager has counts.
                let new = self.job.record.package.take().filter(|new| found.split(' ').next() == Some(&*new.native));
                let old = agent.record.package.take().filter(|_| !found.is_empty());
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

    /// Has the host do something, and waits for its answer.
    pub fn ask(&mut self, action: Action) -> StepResult {
        self.out.push(action);
        StepResult::Wait
    }
}

/// Whether the job changes the agent's environment or limits.
pub(super) fn changes(job: &Job, agent: &Agent) -> bool {
    job.envs.is_some() && job.envs != agent.record.envs || job.limits.is_some() && job.limits != agent.record.limits
}

/// Whether an installed package is known to be still there. A package manager may have removed one without the daemon,
/// so that it is known only while its agent runs.
pub(super) fn is_known(package: &Installed, agent: &Agent) -> bool {
    package.format.is_tar() || agent.running_since().is_some()
}

/// The version in a file name such as `web-1.5.6.tar.gz`, or else the beginning of the digest.
fn version_of(job: &Job, source: &Source) -> Box<str> {
    let file = source.url.rsplit('/').next().unwrap_or_default();
    let stem = file.strip_suffix(source.format.ending()).or_else(|| file.strip_suffix(".tgz")).unwrap_or(file);
    let version = stem.strip_prefix(&*job.name).map(|rest| rest.trim_start_matches(['-', '_']));
    match version.filter(|version| is_version(version)) {
        Some(version) => version.into(),
        None => State::kept_file(source)[..12].into(),
    }
}

/// What the package manager does on the way back.
struct WayBack {
    /// The new package is removed.
    remove: Option<package::Tool>,
    /// This package file is installed.
    install: Option<String>,
    /// The package to look at in the end.
    format: Format,
    package: Box<str>,
    /// Its version then; empty: it is gone, or the version is not known.
    want: Box<str>,
}

/// The version that a query printed; several ones, where the package manager has more than one, with spaces between.
fn one_version(output: &str) -> Box<str> {
    let mut versions: Vec<&str> = output.split_whitespace().collect();
    versions.dedup();
    versions.join(" ").into()
}

/// A version in a message.
fn shown(version: &str) -> &str {
    if version.is_empty() {
        "nothing"
    } else {
        version
    }
}

/// Whether one package replaces the other in the package manager's database, or both are tars, which are kept beside
/// each other.
fn is_same_package(old: &Installed, new: &Installed) -> bool {
    old.format.is_tar() && new.format.is_tar() || old.format == new.format && old.package == new.package
}

fn cannot_remove(why: &str) -> StepResult {
    StepResult::Failed(Code::Install, format!("cannot remove the package: {why}"))
}

/// Whether a file or directory below `packages/NAME/` belongs to this package.
fn holds(installed: &Option<Box<Installed>>, file: &str) -> bool {
    installed.as_ref().is_some_and(|installed| installed.files().iter().any(|kept| **kept == *file))
}
