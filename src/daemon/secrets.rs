//! Values of agents' environments that no message may show: the present ones, and those that a process that still runs was
//! started with. An `env_file`, a definition and a job may have changed them since.
//!
//! The latter are kept in memory and, for the next daemon, in a file below `run_dir` that only root can read, as the run records.
//! It is there as long as anything of the agent is.

use std::fs;

use super::Daemon;
use crate::host::disk::write;
use crate::host::spawn::{env_file, user_of};
use crate::host::store::{VALUES, VALUES_PREFIX};
use crate::model::secrets::{remember, secrets};
use crate::model::spec::{Envs, Name, Spec};
use crate::sorted_map::SortedMap;

/// How much is kept of one agent, bytes. The oldest values go first.
const MAX_BYTES: usize = 256 << 10;

/// What the programs of agents were started with: NAME=VALUE, each with a NUL behind it.
#[derive(Default)]
pub(super) struct Given(SortedMap<Name, String>);

impl Daemon {
    /// What is shown of an agent's environment by its name alone.
    pub(super) fn secrets(&self, spec: &Spec) -> Envs {
        let of_file = user_of(spec).and_then(|user| env_file(spec, user).ok()).unwrap_or_default();
        self.secrets_with(spec, of_file, self.given.0.get(&spec.name).map_or("", |given| given))
    }

    fn secrets_with(&self, spec: &Spec, mut all: Envs, given: &str) -> Envs {
        let jobs = self.state.find_agent(&spec.name).and_then(|agent| agent.record.envs.as_ref());
        all.extend_from_slice(&spec.envs);
        secrets(all, jobs, given)
    }

    /// Notes what a program of an agent is started with; `of_file`: the variables of its `env_file`.
    pub(super) fn note_values(&mut self, spec: &Spec, of_file: Envs) {
        let new = self.secrets_with(spec, of_file, "");
        let given = self.given.0.or_insert_with(spec.name.clone(), String::new);
        if remember(given, &new, MAX_BYTES) {
            self.write_values(&spec.name);
        }
    }

    /// Where the file cannot be written, this daemon knows the values all the same.
    fn write_values(&self, name: &Name) {
        if let Some(given) = self.given.0.get(name) {
            let _ = write(self.run_dir(), &file_name(name), given.as_bytes(), false);
        }
    }

    /// Writes all the values again, after `run_dir` was removed.
    pub(super) fn rewrite_values(&self) {
        self.state.agents().for_each(|agent| self.write_values(agent.name()));
    }

    /// Forgets the values of an agent of which nothing is left.
    pub(super) fn forget_values(&mut self, name: &str) {
        if self.given.0.remove(name).is_some() {
            let _ = fs::remove_file(self.run_dir().join(file_name(name)));
        }
    }

    /// Takes the values over that an earlier daemon has noted, by the names of their files.
    pub(super) fn recover_values(&mut self, noted: Vec<(String, String)>) {
        for (file, values) in noted {
            let Some(name) = file.strip_prefix(VALUES_PREFIX) else { continue };
            match self.state.find_agent(name).filter(|agent| agent.spares() || !agent.is_over()) {
                Some(agent) => self.given.0.insert(agent.name().clone(), values),
                None => drop(fs::remove_file(self.run_dir().join(file_name(name)))),
            }
        }
    }
}

fn file_name(name: &str) -> String {
    [VALUES_PREFIX, name, VALUES].concat()
}
