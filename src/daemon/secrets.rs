//! What of the environments of agents nobody may see in a message: the values of now, and those that what still runs of an
//! agent was started with, as an `env_file`, a definition and the variables of a job may change meanwhile.
//!
//! The latter are kept in memory and, for the next daemon, in a file below `run_dir` that only root can read, as the run records.
//! It is there as long as anything of the agent is.

use std::fs;
use std::path::{Path, PathBuf};

use super::Daemon;
use crate::host::disk::{list, write};
use crate::host::spawn::{env_file, user_of};
use crate::model::secrets::secrets;
use crate::model::spec::{Envs, Name, Spec};
use crate::sorted_map::SortedMap;
use crate::sys::file::read_text;

/// How many values of one agent are kept; of more, the last ones.
const VALUES: usize = 1000;

/// The values that the programs of agents were started with.
#[derive(Default)]
pub(super) struct Given(SortedMap<Name, Envs>);

fn file_name(name: &str) -> String {
    format!("values-{name}.env")
}

impl Daemon {
    /// What is shown of an agent's environment by its name alone.
    pub(super) fn secrets(&self, spec: &Spec) -> Envs {
        let of_file = user_of(spec).and_then(|user| env_file(spec, user).ok()).unwrap_or_default();
        let nothing = Envs::new();
        self.secrets_with(spec, of_file, self.given.0.get(&spec.name).unwrap_or(&nothing))
    }

    fn secrets_with(&self, spec: &Spec, of_file: Envs, given: &Envs) -> Envs {
        let record = self.state.agents().find(|agent| **agent.name() == *spec.name).map(|agent| &agent.record);
        let of_job = record.and_then(|record| record.envs.as_ref());
        secrets(of_file.into_iter().chain(spec.envs.iter().cloned()).collect(), of_job, given)
    }

    /// Notes what a program of an agent is started with; `of_file`: the variables of its `env_file`.
    pub(super) fn note_values(&mut self, spec: &Spec, of_file: Envs) {
        let mut new = self.secrets_with(spec, of_file, &Envs::new());
        let given = self.given.0.or_insert_with(spec.name.clone(), Envs::new);
        new.retain(|variable| !given.contains(variable));
        if !new.is_empty() {
            given.append(&mut new);
            given.drain(..given.len().saturating_sub(VALUES));
            self.write_values(&spec.name);
        }
    }

    /// Where the file cannot be written, this daemon knows the values all the same.
    fn write_values(&self, name: &Name) {
        let Some(given) = self.given.0.get(name) else { return };
        let text: String = given.iter().map(|(name, value)| format!("{name}={value}\0")).collect();
        let _ = write(Path::new(&*self.config.run_dir), &file_name(name), text.as_bytes(), false);
    }

    /// Writes all the values again, after `run_dir` was removed.
    pub(super) fn rewrite_values(&self) {
        self.given.0.keys().for_each(|name| self.write_values(name));
    }

    /// Nothing of an agent is left.
    pub(super) fn forget_values(&mut self, name: &Name) {
        if self.given.0.remove(name).is_some() {
            let _ = fs::remove_file(self.values_file(name));
        }
    }

    /// Takes the values over that an earlier daemon has noted.
    pub(super) fn recover_values(&mut self) {
        for file in list(Path::new(&*self.config.run_dir), ".env").unwrap_or_default() {
            let Some(name) = file.strip_prefix("values-") else { continue };
            let path = self.values_file(name);
            let found = self.state.agents().find(|agent| **agent.name() == *name);
            match (found.filter(|agent| agent.spares() || !agent.is_over()), read_text(&path)) {
                (Some(agent), Ok(text)) => {
                    let values = text.split('\0').filter_map(|line| line.split_once('='));
                    let values = values.map(|(name, value)| (name.into(), value.into())).collect();
                    self.given.0.insert(agent.name().clone(), values);
                }
                _ => drop(fs::remove_file(path)),
            }
        }
    }

    fn values_file(&self, name: &str) -> PathBuf {
        Path::new(&*self.config.run_dir).join(file_name(name))
    }
}
