//! Steps of jobs that bring a package or take one away, and the way back from them.

use super::open_job::Chosen;
use super::run::{Run, StepResult};
use crate::error::Error;
use crate::kernel::Level;
use crate::model::agent::Agent;
use crate::model::event::{log, Action, Definition, Origin, Verified};
use crate::model::job::{Code, Job, JobAction, Outcome, Source};
use crate::model::package;
use crate::model::plan::{Plan, Step};
use crate::model::record::{AgentRecord, Installed, Phase, Wanted};
use crate::model::spec::{is_version, Spec};
use crate::model::state::{is_file, take_out, State};
use crate::model::trust;

/// Where a tar is unpacked before its version is known, below `packages/NAME/`.
const UNPACK: &str = ".unpack";

impl State {
    /// The name under which a package file is kept below `packages/NAME/`.
    pub(super) fn kept_file(source: &Source) -> Box<str> {
        let digest = source.digest.to_string();
        format!("{}{}", &digest["SHA256:".len()..][..16], source.format.ending()).into()
    }

    fn kept_path(&self, name: &str, file: &str) -> String {
        format!("{}/{name}/{file}", self.options.packages)
    }

    /// Forgets an agent; one that somebody has started meanwhile is ended first.
    pub(in super::super) fn forget(&mut self, name: &str, now: crate::model::event::Now, out: &mut Vec<Action>) {
        if let Some(agent) = self.agents.get_mut(name) {
            agent.record = AgentRecord { name: name.into(), wanted: Some(Wanted::Down), ..AgentRecord::default() };
            agent.define(None);
            self.leave(name, now, out);
            self.follow_leaving(out);
        }
    }
}

impl Run<'_> {
    /// Notes what the agent is before an install or upgrade, which is no work if it has all that the job says already.
    pub fn begin_install(&mut self, job: &Job) -> Result<(), StepResult> {
        let agent = self.state.agents.get(&job.name);
        let record = agent.map(|agent| agent.record.clone()).unwrap_or_default();
        let digest = self.job.source().map(|source| source.digest);
        let same = record.package.clone().filter(|package| {
            Some(package.digest) == digest && job.version.as_ref().is_none_or(|version| *version == package.version)
        });
        self.job.record.before = Some(Box::new(record));
        let (Some(same), Some(agent)) = (same, agent) else { return Ok(()) };
        let changed = changes(job, agent)
            || job.definition.is_some() && Some(&job.definition_text) != agent.record.definition.as_ref();
        let starts = matches!(job.action, JobAction::Install(_)) || agent.wanted() == Wanted::Up;
        if !changed && (agent.running_since().is_some() || !starts) {
            return Err(StepResult::End(Code::Success, "success, this package is installed already".to_string()));
        }
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

    /// Why a package that is about to be installed must not be: an earlier daemon began when none needed to be signed.
    pub fn unsigned(&self) -> Option<String> {
        let begun = self.job.resumed && self.job.record.phase == Phase::Installing && !self.job.goes_back();
        self.job.source().filter(|_| begun && self.state.options.signed)?;
        trust::objection(self.job.content.as_deref()?)
    }

    /// Whether a package that is about to be installed has been verified by an earlier daemon at best, which may have trusted
    /// other keys, or everybody.
    pub fn is_unverified(&self) -> bool {
        self.job.resumed && !self.job.verified && self.state.options.signed && !self.job.goes_back()
    }

    /// Refuses to go on with a step; where a package is there already, nothing is changed before it has been adopted.
    pub fn refuse(&self, step: Step, why: &str) -> StepResult {
        let text = format!("refused: {why}");
        match step == Step::Adopt && !self.has_adopted() {
            true => StepResult::End(Code::Refused, text),
            false => StepResult::Failed(Code::Refused, text),
        }
    }

    // Forward.

    pub fn place(&mut self) -> StepResult {
        let Some(file) = self.job.source().map(State::kept_file) else { return self.misfit() };
        self.ask(Action::PlacePackage(self.id(), self.name(), file))
    }

    /// What was fetched is verified where it lies, in a place where only root can write and under a name that no server chose,
    /// and not by the child that fetched it: whoever took that one over can say anything. The very file gets its place then.
    pub fn verify(&mut self) -> StepResult {
        let Some(file) = self.job.source().map(State::kept_file) else { return self.misfit() };
        self.ask(Action::Verify(self.id(), self.name(), file))
    }

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

    pub fn identify(&mut self) -> StepResult {
        let Some(source) = self.job.source() else { return self.misfit() };
        let path = self.state.kept_path(self.job.name(), &State::kept_file(source));
        self.run_tools(package::identify(source.format, &path))
    }

    pub fn identified(&mut self, said: Result<&str, Error>) -> StepResult {
        let Some(source) = self.job.source() else { return self.misfit() };
        match said.and_then(package::identity) {
            Ok((package, version)) => {
                let (format, digest, file) = (source.format, source.digest, State::kept_file(source));
                self.job.record.package = Some(Box::new(Installed { format, package, version, digest, file }));
                StepResult::Done
            }
            Err(why) => StepResult::Failed(Code::Install, format!("cannot install: {why}")),
        }
    }

    /// Asks whether the package is there, unless the agent has it from us.
    pub fn query(&mut self) -> StepResult {
        let record = &self.job.record;
        let Some(new) = &record.package else { return self.misfit() };
        let old = record.before.as_ref().and_then(|before| before.package.as_ref());
        let ours = old.is_some_and(|old| old.format == new.format && old.package == new.package);
        let query = package::query(new.format, &new.package);
        self.run_tools(query.filter(|_| !ours))
    }

    pub fn queried(&mut self, is_there: bool) -> StepResult {
        self.job.record.foreign = is_there;
        StepResult::Done
    }

    pub fn install(&mut self) -> StepResult {
        let Some(source) = self.job.source() else { return self.misfit() };
        let path = self.state.kept_path(self.job.name(), &State::kept_file(source));
        let interrupted = std::mem::take(&mut self.state.interrupted) || self.job.resumed;
        self.run_tools(package::install(source.format, &path, interrupted))
    }

    pub fn unpack(&mut self) -> StepResult {
        let Some(source) = self.job.source() else { return self.misfit() };
        let (file, format) = (State::kept_file(source), source.format);
        let dir = if self.job.is_own() { super::own::NEXT } else { UNPACK };
        self.ask(Action::Unpack { job: self.id(), name: self.name(), file, dir: dir.into(), format })
    }

    pub fn inspect(&mut self) -> StepResult {
        let Some(source) = self.job.source() else { return self.misfit() };
        let dir = if source.format.is_tar() { UNPACK } else { "" };
        self.ask(Action::Inspect { job: self.id(), name: self.name(), dir: dir.into(), text: None })
    }

    /// Chooses the definition that counts: a file in `agents.d`, else a job's, else the package's own.
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
            // Where packages must be signed, what one says of itself counts for more than what a job said before.
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
        let told = self.job.record.package.as_ref().map(|package| package.version.clone());
        let defined = definition.as_ref().map(|definition| definition.spec.version.clone());
        let version = job.version.clone().or(defined).or(told).unwrap_or_else(|| version_of(&job, source));
        self.job.chosen = Some(Chosen { definition, version });
        StepResult::Done
    }

    pub fn give_name(&mut self) -> StepResult {
        let (Some(source), Some(chosen)) = (self.job.source(), &self.job.chosen) else { return self.misfit() };
        let dir = self.unpack_dir(source, &chosen.version);
        let (format, digest, version) = (source.format, source.digest, chosen.version.clone());
        let package = Installed { format, package: dir.clone(), version, digest, file: "".into() };
        self.job.record.package = Some(Box::new(package));
        self.ask(Action::Rename { job: self.id(), name: self.name(), from: UNPACK.into(), to: dir })
    }

    /// The directory of a version; another package of the same version gets one of its own.
    fn unpack_dir(&self, source: &Source, version: &str) -> Box<str> {
        let dir = if is_version(version) { version } else { "unversioned" };
        let taken =
            |installed: &Option<Box<Installed>>| installed.as_ref().is_some_and(|installed| *installed.package == *dir);
        // As it was before the job: what an interrupted attempt put there is replaced.
        let before = self.job.record.before.as_deref();
        if dir == "current" || before.is_some_and(|before| taken(&before.package) || taken(&before.previous)) {
            format!("{dir}+{}", &State::kept_file(source)[..8]).into()
        } else {
            dir.into()
        }
    }

    /// The package is on the host: the agent is what the job says from now on.
    pub fn adopt(&mut self) -> StepResult {
        let Some(job) = self.job.content.clone() else { return self.misfit() };
        let Some(chosen) = self.job.chosen.take().or_else(|| self.as_installed(&job)) else { return self.misfit() };
        if let Some(package) = &mut self.job.record.package {
            package.version = chosen.version;
        }
        take_out(&mut self.state.leaving, &job.name);
        let agent = self.state.agent(&job.name, false);
        if let Some(definition) = chosen.definition {
            let given = definition.origin == Origin::Job;
            agent.record.definition = given.then(|| job.definition_text.clone());
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

    /// What the agent becomes with the package that it has already.
    fn as_installed(&self, job: &Job) -> Option<Chosen> {
        let version = self.job.record.package.as_ref().filter(|_| self.is_same())?.version.clone();
        let definition = job.definition.clone().filter(|_| !self.agent().is_some_and(is_file));
        Some(Chosen { definition: definition.map(|spec| Definition { origin: Origin::Job, spec }), version })
    }

    pub fn link(&mut self) -> StepResult {
        match &self.job.record.package {
            Some(package) if package.format.is_tar() => {
                let dir = package.package.clone();
                self.ask(Action::Link(self.id(), self.name(), dir))
            }
            _ => StepResult::Done,
        }
    }

    pub fn not_linked(&mut self, why: &str) -> StepResult {
        let plan = self.job.content.as_ref().and_then(|job| Plan::of(job, false));
        let (Some(plan), true) = (plan, self.is_same()) else {
            return StepResult::Failed(Code::Install, format!("cannot install: {why}"));
        };
        // A removal came as far as the files, and its record was lost.
        let id = &self.job.record.id;
        let text = format_args!("job \"{id}\": what was installed is gone and fetched again: {why}");
        log(self.out, Level::Warn, text);
        self.job.record.package = None;
        self.job.plan = plan;
        StepResult::GoTo(Step::Download)
    }

    /// The new package is up: one of another kind or name that it replaced must not stay beside it.
    pub fn retire(&mut self) -> StepResult {
        let record = &self.job.record;
        let old = record.before.as_ref().and_then(|before| before.package.as_ref());
        let new = record.package.as_ref();
        let old = old.filter(|old| !new.is_some_and(|new| is_same_package(old, new)));
        let Some(remove) = old.and_then(|old| package::remove(old.format, &old.package)) else {
            return StepResult::Done;
        };
        let mut tools = vec![remove];
        if let Some(new) = new {
            // The files that both have went with the former one.
            tools.extend(package::install(new.format, &self.state.kept_path(&record.name, &new.file), false));
        }
        self.run_tools(tools)
    }

    /// That the former package stays is no reason to go back.
    pub fn not_retired(&mut self, why: &str) -> StepResult {
        let id = &self.job.record.id;
        log(self.out, Level::Warn, format_args!("job \"{id}\": taking the former package away: {why}"));
        StepResult::Done
    }

    /// The package before the new one is kept, the one before that is not.
    pub fn keep(&mut self) -> StepResult {
        let old = self.job.record.before.take().and_then(|before| before.package);
        let mut drop = Vec::new();
        let Some(agent) = self.state.agents.get_mut(self.job.name()) else { return StepResult::Done };
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

    pub fn remove(&mut self) -> StepResult {
        let installed = self.agent().and_then(|agent| agent.record.package.as_ref());
        let tool = installed.and_then(|installed| package::remove(installed.format, &installed.package));
        self.run_tools(tool)
    }

    pub fn forget(&mut self) -> StepResult {
        self.out.push(Action::RemovePackage(self.name(), Vec::new()));
        self.state.forget(self.job.name(), self.now, self.out);
        StepResult::Done
    }

    // Back.

    /// Whether the agent has the package on record already, as an earlier daemon had come further.
    pub fn has_adopted(&self) -> bool {
        let before = self.job.record.before.as_ref().map(|before| before.package.as_ref());
        let agent = self.agent().map(|agent| agent.record.package.as_ref());
        agent.is_some() && before.is_some() && agent != before
    }

    /// What will be reported of a job that turns round; `None` where nothing is known to go back to.
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
        };
        self.state.incident(self.name(), &outcome.message, self.now);
        Some(outcome)
    }

    /// The package that was there before takes its place again.
    pub fn reinstall(&mut self) -> StepResult {
        let record = &self.job.record;
        let old = record.before.as_ref().and_then(|before| before.package.as_ref());
        // What a removal left of a package is not much.
        let removal = matches!(self.job.action(), Some(JobAction::Uninstall));
        let new = record.package.as_ref().filter(|new| old.is_none_or(|old| old.digest != new.digest));
        let mut tools = Vec::new();
        if let Some(new) = new.filter(|new| !old.is_some_and(|old| is_same_package(old, new))) {
            tools.extend(package::remove(new.format, &new.package).filter(|_| !record.foreign));
        }
        if let Some(old) = old.filter(|_| new.is_some() || removal) {
            tools.extend(package::install(old.format, &self.state.kept_path(&record.name, &old.file), false));
        }
        self.run_tools(tools)
    }

    /// A tar is what the host had before: it is the current one again.
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

    /// Throws away what was brought, but for what the agent had before; all there is, if it had no package.
    pub fn discard(&mut self) -> StepResult {
        let Some(source) = self.job.source() else { return StepResult::Done };
        let mut drop: Vec<Box<str>> = vec![UNPACK.into(), State::kept_file(source)];
        drop.extend(self.job.record.package.iter().flat_map(|package| package.files()));
        let before = self.job.record.before.as_deref();
        let had = before.map_or([&None, &None], |before| [&before.package, &before.previous]);
        drop.retain(|file| !had.iter().any(|installed| holds(installed, file)));
        if had.iter().all(|installed| installed.is_none()) {
            drop.clear();
        }
        self.out.push(Action::RemovePackage(self.name(), drop));
        StepResult::Done
    }

    /// Has the definition read that was in force before, where another one may have taken its place.
    pub fn recall(&mut self) -> StepResult {
        let Some(before) = &self.job.record.before else { return self.misfit() };
        if before.name.is_empty() || self.agent().is_some_and(is_file) || self.job.source().is_none() {
            return self.restore_with(None);
        }
        let tar = before.package.as_ref().filter(|old| old.format.is_tar());
        let (dir, text) = (tar.map_or("".into(), |old| old.package.clone()), before.definition.clone());
        self.ask(Action::Inspect { job: self.id(), name: self.name(), dir, text })
    }

    /// Restores what is remembered of an agent; an empty record means there was none. One that only a file defined, which is
    /// gone meanwhile, has nothing to go back to either.
    pub fn restore_with(&mut self, definition: Option<Box<Spec>>) -> StepResult {
        let Some(mut before) = self.job.record.before.as_deref().cloned() else { return self.misfit() };
        let file = self.agent().is_some_and(is_file);
        if before.name.is_empty() || !file && before.package.is_none() && before.definition.is_none() {
            self.state.forget(self.job.name(), self.now, self.out);
            return StepResult::Done;
        }
        let removal = matches!(self.job.action(), Some(JobAction::Uninstall));
        if let Some(agent) = self.state.agents.get_mut(self.job.name()) {
            // Only a removal wants an agent down: otherwise this is somebody's word, and counts.
            if agent.record.wanted == Some(Wanted::Down) && !removal {
                before.wanted = Some(Wanted::Down);
            }
            let origin = if before.definition.is_none() { Origin::Package } else { Origin::Job };
            agent.record = before;
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

/// Whether the job says something else of the agent's environment or limits than there is.
pub(super) fn changes(job: &Job, agent: &Agent) -> bool {
    job.envs.is_some() && job.envs != agent.record.envs || job.limits.is_some() && job.limits != agent.record.limits
}

/// Whether an installed package is known to be still there: of one that a package manager may have removed only while its
/// agent runs.
pub(super) fn is_known(package: &Installed, agent: &Agent) -> bool {
    package.format.is_tar() || agent.running_since().is_some()
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
fn is_same_package(old: &Installed, new: &Installed) -> bool {
    old.format.is_tar() && new.format.is_tar() || old.format == new.format && old.package == new.package
}

fn holds(installed: &Option<Box<Installed>>, file: &str) -> bool {
    installed.as_ref().is_some_and(|installed| installed.files().iter().any(|kept| **kept == *file))
}
