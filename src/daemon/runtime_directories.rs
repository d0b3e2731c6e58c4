//! The `runtime_directory` of agents: made before each start, removed when the agent is down.
//!
//! What was made for an agent is in a file below `run_dir`, so that whatever daemon comes next removes that and nothing
//! else, also when the definition has changed or gone meanwhile.

use std::fs;

use super::Daemon;
use crate::error::Error;
use crate::host::disk::{list, publish};
use crate::host::runtime_directory::{clash, make, missing, remove};
use crate::kernel::{Gid, Level, Uid};
use crate::model::agent::Agent;
use crate::model::event::{Definition, Origin};
use crate::model::runtime_directory::{taken, Claim};
use crate::model::spec::Spec;

/// How the name of the file ends that has what was made for an agent, one name below /run in each line.
const ENDING: &str = ".dirs";

impl Daemon {
    /// Makes the directories of an agent that is about to be started; what its last run had is removed first.
    ///
    /// # Errors
    /// When one of them cannot be made, or is the daemon's or another agent's.
    pub(super) fn make_runtime_directories(&mut self, spec: &Spec, user: Uid, group: Gid) -> Result<(), Error> {
        self.remove_runtime_directories(&spec.name);
        if spec.runtime_directory.is_empty() {
            return Ok(());
        }
        if let Some(why) = clash(&spec.runtime_directory, &self.config) {
            return Err(why.into());
        }
        self.check_shared(spec)?;
        let made: Vec<&str> = spec.runtime_directory.iter().flat_map(|name| missing(name)).collect();
        if !made.is_empty() {
            let file = [&spec.name, ENDING].concat();
            publish(self.run_dir(), &file, &made.join("\n")).map_err(|error| format_error!("{error}"))?;
        }
        spec.runtime_directory.iter().try_for_each(|name| make(name, user, group))
    }

    /// Refuses a directory of another agent.
    fn check_shared(&self, spec: &Spec) -> Result<(), Error> {
        let origin = self.state.find_agent(&spec.name).and_then(Agent::origin);
        let origin = origin.unwrap_or(Origin::Package);
        let own = Claim { origin, name: &spec.name, directories: &spec.runtime_directory };
        match taken(own, self.state.agents().filter_map(claim)) {
            Some((name, other)) => {
                Err(format_error!("runtime_directory: \"{name}\" is, holds, or is in one of agent \"{other}\""))
            }
            None => Ok(()),
        }
    }

    /// Removes the directories that were made for an agent of which no process is left.
    pub(super) fn remove_runtime_directories(&mut self, name: &str) {
        let file = self.run_dir().join([name, ENDING].concat());
        let Some(text) = self.read_run_file(&file) else { return };
        let made: Vec<&str> = text.lines().collect();
        for path in made.iter().rev() {
            // What was made on the way to another one goes only if nobody else has put anything there.
            let on_the_way =
                made.iter().any(|other| other.strip_prefix(path).is_some_and(|rest| rest.starts_with('/')));
            if let Err(error) = remove(path, !on_the_way) {
                self.log(Level::Warn, &format_args!("agent \"{name}\": {error}"));
            }
        }
        let _ = fs::remove_file(file);
    }

    /// Removes what was made for agents that are down or gone, and that an earlier daemon had no time to remove.
    pub(super) fn remove_old_runtime_directories(&mut self) {
        for name in list(self.run_dir(), ENDING).unwrap_or_default() {
            if self.state.find_agent(&name).is_none_or(Agent::is_over) {
                self.remove_runtime_directories(&name);
            }
        }
    }
}

/// The directories that an agent's definition names, if it has one.
fn claim(agent: &Agent) -> Option<Claim<'_>> {
    let Definition { origin, spec } = agent.definition.as_ref()?;
    Some(Claim { origin: *origin, name: agent.name(), directories: &spec.runtime_directory })
}
