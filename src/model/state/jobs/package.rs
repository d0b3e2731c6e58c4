//! Steps of jobs that install or remove a package; `undo` has those that undo them.
//!
//! The package file is kept below `packages/NAME/`, and so is the one before it, for an undo. The host does what the
//! steps ask for; this file says with which names, and judges the answers.

use super::open_job::Chosen;
use super::run::{Run, StepResult};
use crate::error::Error;
use crate::kernel::Level;
use crate::model::agent::Agent;
use crate::model::event::{Action, Definition, Origin, Verified};
use crate::model::job::{Code, Job, JobAction, Source};
use crate::model::package;
use crate::model::plan::{Plan, Step};
use crate::model::record::{AgentRecord, Installed, Phase, Wanted};
use crate::model::spec::{is_version, Spec};
use crate::model::state::{is_file, take_out, State};
use crate::model::trust;

/// Where a tar is unpacked before its version is known, below `packages/NAME/`.
pub(super) const UNPACK: &str = ".unpack";

impl State {
    /// The name under which a package file is kept below `packages/NAME/`.
    pub(super) fn kept_file(source: &Source) -> Box<str> {
        let digest = source.digest.to_string();
        format!("{}{}", &digest["SHA256:".len()..][..16], source.format.ending()).into()
    }

    /// The path of a file below `packages/NAME/`.
    pub(in super::super) fn kept_path(&self, name: &str, file: &str) -> String {
        format!("{}/{name}/{file}", self.options.packages)
    }

    /// Forgets an agent. One that runs, as the operator has started it meanwhile, is stopped first.
    pub(in super::super) fn forget(&mut self, name: &str) {
        if let Some(agent) = self.agents.get_mut(name) {
            agent.record = AgentRecord { name: name.into(), wanted: Some(Wanted::Down), ..AgentRecord::default() };
            agent.definition = None;
            self.step_agent(name, &mut |agent, context| {
                if agent.spares() {
                    agent.request_end(context);
                }
            });
            self.leave(name);
            self.follow_leaving();
            // While it is being stopped, a daemon that comes next must not start it by what its record said before.
            if let Some(agent) = self.agents.get(name) {
                self.out.push(Action::SaveAgent(Box::new(agent.record.clone())));
            }
        }
    }
}

impl Run<'_> {
    /// Notes what the agent is before an install or upgrade, and whether it has the package of the job already.
    ///
    /// # Errors
    /// How the job ends at once, where it has the package and may not set the environment variables of the job.
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
        record.package.is_some() && record.former() == record.package.as_deref()
    }

    /// Whether this is the very package file that the agent had before.
    fn is_former_build(&self, package: &Installed) -> bool {
        self.job.record.former().is_some_and(|old| old.digest == package.digest)
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
            Verified::Unknown(why) => cannot_install(&why),
        }
    }

    /// Asks the package tool for the name and version of the package file.
    pub fn identify(&mut self) -> StepResult {
        let Some(source) = self.job.source() else { return self.misfit() };
        let path = self.state.kept_path(self.job.name(), &State::kept_file(source));
        self.run_tools(package::identify(source.format, &path).into_iter().collect())
    }

    /// Notes the name and version of the package.
    pub fn identified(&mut self, output: Result<&str, Error>) -> StepResult {
        let Some(source) = self.job.source() else { return self.misfit() };
        match output.and_then(package::identity) {
            Ok((package, version)) => {
                let (file, native) = (State::kept_file(source), version.clone());
                let package = Installed { file, native, ..Installed::new(source, package, version) };
                self.job.record.package = Some(Box::new(package));
                StepResult::Done
            }
            Err(why) => cannot_install(&why),
        }
    }

    /// Asks what is installed of the package.
    pub fn query(&mut self) -> StepResult {
        let record = &self.job.record;
        let Some(new) = record.package.as_deref() else { return self.misfit() };
        let former = record.former().filter(|old| old.format == new.format).unwrap_or(new);
        let mut query = package::query(new.format, &new.package);
        if let Some(query) = query.as_mut().filter(|_| former.package != new.package) {
            query.argv.push(former.package.clone());
        }
        self.run_tools(query.into_iter().collect())
    }

    /// Notes what was installed before, and whether somebody else did that.
    pub fn queried(&mut self, output: Result<&str, Error>) -> StepResult {
        let output = match output {
            Ok(output) => output,
            Err(why) => return cannot_tell(&why),
        };
        let (versions, record) = (one_version(output), &mut self.job.record);
        let replaced = record.former().zip(record.package.as_deref());
        let by_a_job = replaced.is_some_and(|(old, new)| is_same_package(old, new));
        record.foreign = !by_a_job && !versions.is_empty();
        (record.found, record.held) = (Some(versions), output.into());
        StepResult::Done
    }

    /// Asks whether what the agent has on record is still there.
    pub fn look(&mut self) -> StepResult {
        let Some(package) = &self.job.record.package else { return self.misfit() };
        let tool = package::query(package.format, &package.package)
            .unwrap_or_else(|| package::look(&self.state.kept_path(self.job.name(), &package.package)));
        self.run_tools(vec![tool])
    }

    /// Ends a job that has nothing to change, or has a package fetched again that somebody removed or replaced.
    pub fn looked(&mut self, output: Result<&str, Error>) -> StepResult {
        let (Some(job), Some(package)) = (self.job.content.clone(), &self.job.record.package) else {
            return self.misfit();
        };
        let found = match output.map(one_version) {
            // There is no directory.
            Err(_) if package.format.is_tar() => return self.fetch_again("it is gone"),
            Ok(_) if package.format.is_tar() => package.native.clone(),
            Ok(found) if found.is_empty() => return self.fetch_again("it is gone"),
            Ok(found) => found,
            Err(why) => return cannot_tell(&why),
        };
        if !package.native.is_empty() && found != package.native {
            return self.fetch_again(&format!("{found} is in its place"));
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
        let interrupted = std::mem::take(&mut self.state.jobs.interrupted) || self.job.resumed;
        let record = &self.job.record;
        let Some(new) = record.package.as_deref() else { return self.misfit() };
        let path = self.state.kept_path(&record.name, &new.file);
        let mut tools = package::install(new.format, &path, &new.package, interrupted, None, &record.held);
        tools.extend(package::query(new.format, &new.package));
        self.run_tools(tools)
    }

    /// Judges an installation by what the package manager says is there, as its own failure may be another package's.
    pub fn installed(&mut self, output: Result<&str, Error>) -> StepResult {
        let failure = self.tool_failure();
        let Some(new) = &self.job.record.package else { return self.misfit() };
        // The database cannot tell another build of the same version from this one.
        let was_there = self.job.record.found.as_ref() == Some(&new.native) && !self.is_former_build(new);
        let is_own = |why: &str| {
            was_there && package::may_be_refused(new.format, why)
                || package::is_own_failure(new.format, &new.package, &new.native, why)
        };
        let why = match (output.map(one_version), failure) {
            (Ok(found), failure) if found == new.native && !failure.as_deref().is_some_and(is_own) => {
                return StepResult::Done;
            }
            (_, Some(why)) => why,
            (Ok(found), None) => format!("the package manager has {}", shown(&found)).into(),
            (Err(why), None) => return cannot_tell(&why),
        };
        cannot_install(&[package::advice(&why), &why].concat())
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
        let package = Installed::new(source, dir.clone(), chosen.version.clone());
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
            agent.definition = Some(definition);
        }
        agent.record.package = self.job.record.package.clone();
        agent.forget_inventory();
        agent.record.envs = job.envs.clone().or(agent.record.envs.take());
        agent.record.limits = job.limits.clone().or(agent.record.limits.take());
        if matches!(job.action, JobAction::Install(_)) {
            agent.record.wanted = Some(Wanted::Up);
        }
        let record = Box::new(agent.record.clone());
        self.state.out.push(Action::SaveAgent(record));
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
            false => cannot_install(why),
        }
    }

    /// Has the package fetched again that is on record: somebody removed it, or the record of an uninstall was lost.
    fn fetch_again(&mut self, why: &str) -> StepResult {
        let Some(plan) = self.job.content.as_ref().and_then(|job| Plan::of(job, false)) else { return self.misfit() };
        self.log(Level::Warn, format_args!("the package is fetched again: {why}"));
        self.job.record.package = None;
        self.job.plan = *plan;
        StepResult::GoTo(Step::Download)
    }

    /// Has the host do something, and waits for its answer.
    pub fn ask(&mut self, action: Action) -> StepResult {
        self.state.out.push(action);
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

/// The version that a query printed; several ones, where the package manager has more than one, with spaces between.
pub(in super::super) fn one_version(output: &str) -> Box<str> {
    let mut versions: Vec<&str> = output.split_whitespace().filter(|word| !word.starts_with("hold:")).collect();
    versions.dedup();
    versions.join(" ").into()
}

/// The package database does not answer: an installation that cannot be judged is not begun, or counts as failed.
fn cannot_tell(why: &str) -> StepResult {
    cannot_install(&format!("it cannot be told what is installed: {why}"))
}

/// The package is not installed, and why.
pub(super) fn cannot_install(why: &str) -> StepResult {
    StepResult::Failed(Code::Install, format!("cannot install: {why}"))
}

/// A version in a message.
pub(super) fn shown(version: &str) -> &str {
    if version.is_empty() {
        "nothing"
    } else {
        version
    }
}

/// Whether one package replaces the other in the package manager's database, or both are tars, which are kept beside
/// each other.
pub(in super::super) fn is_same_package(old: &Installed, new: &Installed) -> bool {
    old.format.is_tar() && new.format.is_tar() || old.format == new.format && old.package == new.package
}
