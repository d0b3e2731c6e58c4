//! The output files of agents, at each check: those that are full are rotated by helpers (`work::rotate`), the one that has
//! waited longest first, and those that are no longer at their path are reported.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::conditions::Condition;
use super::helpers::HelperTask;
use super::identity::Runner;
use super::Daemon;
use crate::host::logs::Fate;
use crate::host::spawn::user_of;
use crate::kernel::Process;
use crate::model::spec::{Name, Spec};
use crate::work::{rotate, Failure, HelperRequest, HelperResponse};

/// How many outputs are rotated at the same time; the others follow.
const ROTATIONS: usize = 4;

impl Daemon {
    /// Looks at the outputs of all agents.
    pub(super) fn look_at_outputs(&mut self) {
        let state = &self.state;
        self.conditions.forget_agents(&|name| state.spec(name).is_some());
        self.rotate_waiting();
        for name in self.names(&|_| true) {
            self.look_at_output(&name);
        }
    }

    /// Looks again at the outputs that were full when no more could be rotated. Those that have to wait on keep their order.
    fn rotate_waiting(&mut self) {
        for name in std::mem::take(&mut self.full_outputs) {
            self.look_at_output(&name);
        }
    }

    fn look_at_output(&mut self, name: &Name) {
        let Some(spec) = self.state.spec(name) else { return };
        let moved = self.trees.main_process(name).and_then(|process| self.find_moved(name, process));
        let path = self.outputs.path(name);
        let problem = moved.as_ref().map(|(_, fate)| match fate {
            Fate::Removed => format!(
                "agent \"{name}\": \"{}\" was removed while it writes to it: restart it to make the file anew",
                path.display()
            ),
            Fate::Moved(to) => format!(
                "agent \"{name}\": \"{}\" was moved to \"{}\" while it writes to it, where its size is not limited: \
                 restart it to make the file anew",
                path.display(),
                to.display()
            ),
        });
        self.set_condition(Condition::OutputPlace(name.clone()), problem.as_deref());
        match moved {
            Some((link, Fate::Removed)) => self.cap_removed(name, &spec, &link),
            _ => self.rotate_output(name, spec.log_size),
        }
    }

    /// The descriptor by which the main process of an agent has its output open, if that is no longer at its path.
    fn find_moved(&self, name: &str, process: Process) -> Option<(PathBuf, Fate)> {
        [1, 2].into_iter().find_map(|fd| {
            let link = PathBuf::from(format!("/proc/{}/fd/{fd}", process.pid));
            let fate = self.outputs.fate(name, &link)?;
            Some((link, fate))
        })
    }

    /// Empties an output that was removed when it is larger than its limit.
    fn cap_removed(&mut self, name: &Name, spec: &Spec, link: &Path) {
        if let Some(log) = self.outputs.nameless(name, link, spec.log_size, user_of(spec)) {
            self.start_rotation(name, log, Path::new(""), spec.log_size);
        }
    }

    /// Has the output of an agent rotated, if it is larger than `size` bytes.
    pub(super) fn rotate_output(&mut self, name: &Name, size: u64) {
        match self.outputs.full(name, size) {
            Ok(Some(log)) => {
                let older = self.outputs.path(name).with_extension("log.1");
                self.start_rotation(name, log, &older, size);
            }
            Ok(None) => {}
            Err(problem) => self.set_condition(Condition::OutputRotation(name.clone()), Some(&problem)),
        }
    }

    fn start_rotation(&mut self, name: &Name, log: File, older: &Path, size: u64) {
        if self.helpers.is_rotating(name) {
            return;
        }
        if self.helpers.rotations() >= ROTATIONS {
            if !self.full_outputs.contains(name) {
                self.full_outputs.push(name.clone());
            }
            return;
        }
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let freezer = self.limits.freezer(name).as_deref().map(text).unwrap_or_default();
        let request = HelperRequest::Rotate { older: text(older), size, freezer };
        let started = self.start_helper(HelperTask::Rotate(name.clone()), &request, Some(log), Runner::Daemon);
        if let Err(why) = started {
            let problem = self.outputs.not_rotated(name, &why);
            self.set_condition(Condition::OutputRotation(name.clone()), Some(&problem));
        }
    }

    /// Takes what came of a rotation.
    pub(super) fn rotated(&mut self, name: &Name, response: HelperResponse) {
        let size = self.state.spec(name).map_or(u64::MAX, |spec| spec.log_size);
        let rotated = self.outputs.rotated(name, size);
        let problem = match response {
            HelperResponse::Rotated => rotated.err(),
            failed => {
                // A helper that was killed may have left the agent frozen.
                if let Some(freezer) = self.limits.freezer(name) {
                    rotate::thaw(&freezer);
                }
                Some(self.outputs.not_rotated(name, &Failure::of(failed).reason))
            }
        };
        self.set_condition(Condition::OutputRotation(name.clone()), problem.as_deref());
        self.rotate_waiting();
    }
}
