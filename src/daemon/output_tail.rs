//! The last lines of what an agent has written, for the message about its end.

use super::Daemon;
use crate::host::spawn::{env_file, user_of};
use crate::model::secrets::{longest_value, secrets, without_values, TAIL};
use crate::model::spec::{Envs, Name, Spec};
use crate::text::sanitize;

impl Daemon {
    /// The last lines of an agent's output, without the values of its environment.
    pub(super) fn tail(&mut self, name: &Name) -> Box<str> {
        let Some(spec) = self.state.spec(name) else { return "".into() };
        let secrets = self.secrets(&spec);
        let text = self.outputs.tail(name, TAIL + longest_value(&secrets) as u64);
        if !text.is_empty() {
            self.rotate_output(name, spec.log_size);
        }
        sanitize(&without_values(&text, &secrets), TAIL as usize).into()
    }

    /// What is shown of an agent's environment by its name alone.
    pub(super) fn secrets(&self, spec: &Spec) -> Envs {
        let record = self.state.agents().find(|agent| **agent.name() == *spec.name).map(|agent| &agent.record);
        let of_job = record.and_then(|record| record.envs.clone()).unwrap_or_default();
        let of_file = user_of(spec).and_then(|user| env_file(spec, user).ok()).unwrap_or_default();
        secrets(of_file.into_iter().chain(spec.envs.iter().cloned()).collect(), &of_job)
    }
}
