//! What the daemon's start recovered on the host, and what that means for the agents: which definition counts, which records
//! of runs are of this boot, and whose the processes are that nobody knows.
//!
//! `daemon::recovered` reads all this from the host; `init` makes the state of it.

use std::rc::Rc;

use super::Unreadable;
use crate::kernel::{Process, Time};
use crate::model::event::Definition;
use crate::model::job::{Job, JobId};
use crate::model::membership::Strength;
use crate::model::record::{AgentRecord, Identity, JobRecord, RunRecord, Settings, StopRecord};
use crate::model::reexec_state::ReexecState;
use crate::model::schedule::Server;
use crate::model::spec::Name;

/// What the daemon's start recovered on the host.
#[derive(Clone, Debug, Default)]
pub struct Recovered {
    /// Who this host is.
    pub identity: Identity,
    /// What a server set.
    pub settings: Settings,
    /// The servers that a job gave, which `settings` has as a text.
    pub servers: Vec<Server>,
    /// Every good definition from every source.
    pub definitions: Vec<Definition>,
    /// The records of agents.
    pub agents: Vec<AgentRecord>,
    /// The records of jobs, each with the job read back from its text while it is not done.
    pub jobs: Vec<(JobRecord, Option<Rc<Job>>)>,
    /// What an earlier daemon of this boot recorded of each agent's run, and whether its main process is still alive.
    pub runs: Vec<(RunRecord, bool)>,
    /// Agents of which processes run although no record says so: the likely main process and when it was started, if
    /// one of them can be recognized as it.
    pub unrecorded: Vec<(Name, Option<(Process, Time)>)>,
    /// Agents that are known only from the environment of their processes: these are ended, and nothing waits for it.
    pub marked: Vec<Name>,
    /// Sentences about records that could not be read, for the log and the server.
    pub damage: Vec<(Name, Box<str>)>,
    /// Ids of jobs whose records could not be read.
    pub damaged_jobs: Vec<JobId>,
    /// Records that are there and cannot be read just now.
    pub unread: Unreadable,
    /// Another daemon ran in this boot: its processes may still run.
    pub leftovers: bool,
    /// What the binary left that executed this one.
    pub reexec: Option<ReexecState>,
    /// Why the watcher of a new binary executed this one again.
    pub undone: Option<Box<str>>,
}

impl Recovered {
    /// Keeps of each agent the definition that counts.
    pub fn choose_definitions(&mut self) {
        self.definitions = best(std::mem::take(&mut self.definitions));
    }

    /// Forgets the runs of agents that were removed and have left processes behind that are spared, and returns the names of
    /// these agents: what they have left is nobody's any more. `left`: the agents of which processes were found.
    pub fn forget_removed(&mut self, left: &[&Name]) -> Vec<Name> {
        let is_defined = |name: &Name| {
            let agents = self.agents.iter().map(|agent| &agent.name);
            agents.chain(self.definitions.iter().map(|definition| &definition.spec.name)).any(|known| known == name)
        };
        let is_left = |run: &RunRecord| run.spares.is_some() && run.process.is_none() && !is_defined(&run.name);
        let removed = self.runs.iter().filter(|(run, _)| is_left(run) && left.contains(&&run.name));
        let removed: Vec<Name> = removed.map(|(run, _)| run.name.clone()).collect();
        self.runs.retain(|(run, _)| !removed.contains(&run.name));
        removed
    }

    /// Takes processes of an agent that no record mentions: those that surely are the agent's count as a run of it. `main`: the
    /// most likely main process, and when it was started.
    pub fn add_leftover(&mut self, name: Name, strength: Strength, main: Option<(Process, Time)>) {
        match strength.holds() {
            true => self.unrecorded.push((name, main)),
            false => self.marked.push(name),
        }
    }
}

/// The records of runs that are of this boot. Those that a shutdown of this boot ended are marked so. Without a boot id, only
/// after a reexec it is certain that records are of this boot.
pub fn runs_of_boot(boot: &str, mut runs: Vec<RunRecord>, stop: Option<StopRecord>, reexeced: bool) -> Vec<RunRecord> {
    let is_known = !boot.is_empty();
    runs.retain(|run| *run.boot_id == *boot && (reexeced || is_known));
    if let Some(stop) = stop.filter(|stop| *stop.boot_id == *boot && is_known) {
        runs.iter_mut().for_each(|run| run.end_with(stop.at));
    }
    runs
}

/// Keeps the definition that counts of each agent: that of a file, else of a job, else of the package itself.
pub(super) fn best(mut definitions: Vec<Definition>) -> Vec<Definition> {
    definitions.sort_unstable_by(|a, b| (&a.spec.name, a.origin).cmp(&(&b.spec.name, b.origin)));
    let mut best: Vec<Definition> = Vec::new();
    for definition in definitions {
        if best.last().is_none_or(|first| first.spec.name != definition.spec.name) {
            best.push(definition);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Pid;
    use crate::model::event::Origin;
    use crate::model::spec::Spec;

    fn run(name: &str, boot: &str) -> RunRecord {
        RunRecord {
            name: name.into(),
            boot_id: boot.into(),
            process: None,
            forking: false,
            stopping: false,
            started: Time::default(),
            started_with: None,
            failures: 0,
            restart_at: None,
            finished: false,
            fatal: false,
            killed: false,
            spares: None,
            detail: "".into(),
            unready: false,
            said: "".into(),
        }
    }

    fn definition(name: &str, origin: Origin) -> Definition {
        Definition { origin, spec: Box::new(Spec::new(name, "1", vec!["/bin/true".into()])) }
    }

    #[test]
    fn records_of_runs_count_for_their_boot() {
        for (record, boot, reexeced, want, why) in [
            ("a", "a", false, true, "the same boot"),
            ("a", "b", false, false, "another boot"),
            ("a", "b", true, false, "another boot, although after a reexec"),
            ("", "", false, false, "the kernel has no boot id"),
            ("", "", true, true, "the same process wrote it"),
        ] {
            let runs = runs_of_boot(boot, vec![run("web", record)], None, reexeced);
            assert_eq!(!runs.is_empty(), want, "{why}");
        }
    }

    #[test]
    fn a_shutdown_ends_the_runs_of_its_boot() {
        let process = Process { pid: Pid::new(10).unwrap(), ticks: 1 };
        let runs = || vec![RunRecord { process: Some(process), failures: 3, ..run("web", "a") }];
        for (stop, want) in [(None, false), (Some("a"), true), (Some("b"), false)] {
            let stop = stop.map(|boot: &str| StopRecord { boot_id: boot.into(), at: Time::new(50, 0) });
            let runs = runs_of_boot("a", runs(), stop.clone(), false);
            assert_eq!((runs[0].stopping, runs[0].failures == 0), (want, want), "{stop:?}");
        }
    }

    #[test]
    fn what_a_removed_agent_has_spared_is_nobodys() {
        let spared = RunRecord { spares: Some(1), ..run("web", "a") };
        let running = RunRecord { process: Some(Process { pid: Pid::new(10).unwrap(), ticks: 1 }), ..spared.clone() };
        let web = Name::from("web");
        for (run, defined, recorded, found, removed, why) in [
            (spared.clone(), false, false, true, true, "it was removed, and has left something"),
            (spared.clone(), true, false, true, false, "it has a definition"),
            (spared.clone(), false, true, true, false, "it has a record"),
            (spared, false, false, false, false, "nothing is left of it"),
            (running, false, false, true, false, "its main process runs"),
            (run("web", "a"), false, false, true, false, "it spares nothing"),
        ] {
            let mut recovered = Recovered { runs: vec![(run, false)], ..Recovered::default() };
            recovered.definitions.extend(defined.then(|| definition("web", Origin::File)));
            recovered.agents.extend(recorded.then(|| AgentRecord { name: web.clone(), ..AgentRecord::default() }));
            let left = if found { vec![&web] } else { Vec::new() };
            assert_eq!(recovered.forget_removed(&left) == [web.clone()], removed, "{why}");
            assert_eq!(recovered.runs.is_empty(), removed, "{why}");
        }
    }

    #[test]
    fn only_what_surely_is_an_agents_is_a_run_of_it() {
        for (strength, is_run) in [(Strength::Descended, true), (Strength::Grouped, true), (Strength::Marked, false)] {
            let mut recovered = Recovered::default();
            recovered.add_leftover("web".into(), strength, None);
            assert_eq!((recovered.unrecorded.len(), recovered.marked.len()), (is_run.into(), (!is_run).into()));
        }
    }

    #[test]
    fn of_several_definitions_that_of_a_file_counts_then_that_of_a_job() {
        let [file, job, package] = [Origin::File, Origin::Job, Origin::Package];
        for (web, want) in [(vec![package, file, job], file), (vec![package, job], job), (vec![package], package)] {
            let mut recovered = Recovered::default();
            recovered.definitions.push(definition("zeta", job));
            recovered.definitions.extend(web.iter().map(|origin| definition("web", *origin)));
            recovered.choose_definitions();
            let got: Vec<_> = recovered.definitions.iter().map(|one| (&*one.spec.name, one.origin)).collect();
            assert_eq!(got, [("web", want), ("zeta", job)], "{web:?}");
        }
    }
}
