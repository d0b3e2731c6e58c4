//! The last lines of what an agent has written, for the message about its end.

use super::Daemon;
use crate::kernel::Exit;
use crate::model::secrets::{longest_value, without_values, TAIL};
use crate::model::spec::Name;
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

    /// The same of a program for an agent that writes to the agent's output; nothing where it has succeeded.
    pub(super) fn tail_of_failure(&mut self, name: &Name, exit: Exit) -> Box<str> {
        match exit {
            Exit::Code(0) => "".into(),
            _ => self.tail(name),
        }
    }
}
