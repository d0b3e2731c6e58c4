//! The step that ends copies of an agent which its package has started by itself.
//!
//! Installers find programs in their PATH that stand in for those which start services. A package whose scripts go around
//! them, as by calling an init script, leaves a process that is a child of the daemon, or of init, and belongs to no agent.

use super::run::{Run, StepResult};
use crate::error::Error;
use crate::kernel::Level;
use crate::model::agent::Agent;
use crate::model::package::{self, Traits};
use crate::model::spec::{KillMode, Kind};

impl Run<'_> {
    /// Has processes ended that are copies of the agent, or of another one that comes from the same package, are no agent's,
    /// and were started since the job was received. No process of the agent itself is left by now.
    pub fn clear(&mut self) -> StepResult {
        if self.job.goes_back() && self.way_back().is_none() {
            return StepResult::Done;
        }
        let package = self.agent().and_then(|agent| agent.record.package.as_deref());
        let others = package.into_iter().flat_map(|package| self.others_of(package));
        // Of an agent that spares what it has started, a copy cannot be told from that.
        let specs = self.agent().into_iter().chain(others).filter_map(Agent::own_spec);
        let traits: Vec<Traits> =
            specs.filter(|spec| spec.kill != KillMode::Main).filter_map(|spec| package::traits(&spec.exec)).collect();
        let agents = self.state.agents.values();
        let known: Vec<String> = agents.filter_map(|agent| Some(agent.process()?.pid.raw().to_string())).collect();
        let tool = package::clear(&traits, self.job.record.received, &known.join(" "));
        self.run_tools(self.stop_script().into_iter().chain(tool).collect())
    }

    /// Has the agent's init script stop what it has started, unless that may be the daemon of another agent too.
    fn stop_script(&self) -> Option<package::Tool> {
        let agent = self.agent().filter(|agent| !agent.record.package.as_ref().is_some_and(|it| self.is_shared(it)))?;
        let spec = agent.own_spec().filter(|spec| spec.kind == Kind::Forking && spec.kill != KillMode::Main)?;
        package::stop(&spec.exec)
    }

    /// Says what was ended.
    pub fn cleared(&mut self, output: Result<&str, Error>) -> StepResult {
        match output.map(str::trim) {
            Ok("") => {}
            Ok(pids) => {
                let text = format!("the package had started the agent by itself, which was ended (process {pids})");
                self.log(Level::Warn, format_args!("{text}"));
                self.job.add_note(&text);
            }
            Err(why) => {
                let text = format_args!("cannot look for what the package has started by itself: {why}");
                self.log(Level::Warn, text);
            }
        }
        StepResult::Done
    }
}
