//! Package tools that a step runs, one after the other. Each has a deadline, and is tried again while another program
//! holds the lock of the package database. Only the last one decides.

use super::open_job::{Activity, Tools};
use super::run::{Run, StepResult};
use crate::kernel::{Exit, Level};
use crate::model::agent::KILL_INTERVAL;
use crate::model::event::{Action, ToolOwner};
use crate::model::package::{is_locked, Tool, LOCK_WAIT};
use crate::model::state::State;
use crate::text::{sanitize, MESSAGE_MAX};

impl State {
    /// A package tool has ended, or a trial of a new binary of the daemon.
    pub(in super::super) fn tool_done(&mut self, owner: &ToolOwner, exit: Exit, output: &str) {
        match owner {
            ToolOwner::Reexec => self.reexec_tried(exit, output),
            ToolOwner::Inventory => self.inventory_taken(output),
            ToolOwner::Job(id) => {
                if let Some(index) = self.expect_job(id, "a package tool ended") {
                    self.run(index, &mut |run| run.tool_done(exit, output));
                }
            }
        }
    }
}

impl Run<'_> {
    /// Runs package tools one after the other; the step is done where there is none.
    pub fn run_tools(&mut self, queue: Vec<Tool>) -> StepResult {
        if queue.is_empty() {
            return StepResult::Done;
        }
        let tools = Tools {
            queue,
            deadline: self.state.now.time,
            late: false,
            again: None,
            lock_until: self.state.now.time + LOCK_WAIT,
            failure: None,
        };
        self.job.activity = Activity::Tools(Box::new(tools));
        self.run_tool()
    }

    /// Runs the first of the tools in the queue.
    fn run_tool(&mut self) -> StepResult {
        let Activity::Tools(tools) = &mut self.job.activity else { return self.ignore("a package tool") };
        let Some(tool) = tools.queue.first().cloned() else { return self.ignore("a package tool") };
        (tools.late, tools.again) = (false, None);
        tools.deadline = self.state.now.time + tool.timeout.min(self.state.options.times.tool);
        self.ask(Action::Tool(ToolOwner::Job(self.id()), tool))
    }

    fn tool_done(&mut self, exit: Exit, output: &str) -> StepResult {
        let Activity::Tools(tools) = &mut self.job.activity else { return self.ignore("the end of a package tool") };
        let program = sanitize(&tools.queue.first().map(Tool::shown).unwrap_or_default(), 100);
        let failed = exit != Exit::Code(0);
        let locked = failed && is_locked(output) && self.state.now.time < tools.lock_until;
        if !failed && tools.queue.len() == 1 {
            return self.tools_answer(Ok(output));
        }
        let killed = tools.late || matches!(exit, Exit::Signal(_));
        let how = if tools.late { "took too long and was killed".to_string() } else { exit.to_string() };
        let text = sanitize(&format!("{program}: {how}: {output}"), MESSAGE_MAX);
        if locked {
            tools.again = Some(self.state.now.time + self.state.options.times.lock);
            self.log(Level::Info, format_args!("{program} waits for a lock"));
        } else {
            self.state.jobs.interrupted |= failed && killed;
            if tools.queue.len() == 1 {
                return self.tools_answer(Err(text.into()));
            }
            tools.queue.remove(0);
            if failed {
                tools.failure = Some(text.as_str().into());
                self.log(Level::Warn, format_args!("{program}: {exit}, continued without it"));
            }
        }
        // rpm succeeds though a script has failed behind the installation or removal of its package, and only warns. One that
        // had done so much before it met a lock does not say it again.
        if failed && !locked || output.contains(" scriptlet failed") {
            // It is recorded at once, as the tool may not say it again.
            self.job.add_note(&["the package manager had trouble beside it: ", &text].concat());
            self.write_record();
        }
        if locked {
            return StepResult::Wait;
        }
        self.run_tool()
    }

    /// How a tool failed before the last one.
    pub fn tool_failure(&mut self) -> Option<Box<str>> {
        match &mut self.job.activity {
            Activity::Tools(tools) => tools.failure.take(),
            _ => None,
        }
    }

    /// Kills a tool that takes too long, again when it was killed already; or tries for the lock again.
    pub fn tool_due(&mut self) -> StepResult {
        let id = self.id();
        let Activity::Tools(tools) = &mut self.job.activity else { return self.ignore("the time of a package tool") };
        match tools.again {
            Some(at) if at <= self.state.now.time => self.run_tool(),
            None if tools.deadline <= self.state.now.time => {
                tools.late = true;
                tools.deadline = self.state.now.time + KILL_INTERVAL;
                self.ask(Action::KillTool(ToolOwner::Job(id)))
            }
            Some(_) | None => StepResult::Wait,
        }
    }
}
