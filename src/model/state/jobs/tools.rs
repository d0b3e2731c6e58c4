//! Package tools that a step runs, one after the other: with a deadline, again while another one holds the lock.

use super::open_job::{Activity, Tools};
use super::run::{Run, StepResult};
use super::step::Answer;
use crate::kernel::{Exit, Level};
use crate::model::agent::KILL_INTERVAL;
use crate::model::event::{log, Action, Now, ToolOwner};
use crate::model::job::{joined, sanitize, MESSAGE_MAX};
use crate::model::package::{is_locked, Tool, LOCK_WAIT};
use crate::model::state::State;

impl State {
    /// A package tool ended, or one that tries another image of the daemon.
    pub(in super::super) fn tool_done(
        &mut self,
        owner: &ToolOwner,
        exit: Exit,
        output: &str,
        now: Now,
        out: &mut Vec<Action>,
    ) {
        match owner {
            ToolOwner::Reexec => self.reexec_tried(exit, output, now, out),
            ToolOwner::Job(id) => {
                if let Some(index) = self.index(id) {
                    self.run(index, now, out, |run| run.tool_done(exit, output));
                }
            }
        }
    }
}

impl Run<'_> {
    /// Runs package tools one after the other; the step is done where there is none.
    pub fn run_tools(&mut self, tools: impl IntoIterator<Item = Tool>) -> StepResult {
        let tools = Tools {
            left: tools.into_iter().collect(),
            deadline: self.now.time,
            late: false,
            again: None,
            lock_until: self.now.time + LOCK_WAIT,
        };
        if tools.left.is_empty() {
            return StepResult::Done;
        }
        self.job.activity = Activity::Tools(Box::new(tools));
        self.run_tool()
    }

    /// Runs the first of the tools that are left.
    fn run_tool(&mut self) -> StepResult {
        let Activity::Tools(tools) = &mut self.job.activity else { return StepResult::Wait };
        let Some(tool) = tools.left.front().cloned() else { return StepResult::Wait };
        (tools.late, tools.again) = (false, None);
        tools.deadline = self.now.time + tool.timeout.min(self.state.options.times.tool);
        self.ask(Action::Tool(ToolOwner::Job(self.id()), tool))
    }

    fn tool_done(&mut self, exit: Exit, output: &str) -> StepResult {
        let id = self.id();
        let Activity::Tools(tools) = &mut self.job.activity else {
            log(self.out, Level::Warn, format_args!("job \"{id}\": the end of a tool that it did not run, ignored"));
            return StepResult::Wait;
        };
        let argv = tools.left.front().map(|tool| joined(&mut tool.argv.iter().map(|word| &**word), " "));
        let program = sanitize(&argv.unwrap_or_default(), 100);
        let failed = exit != Exit::Code(0);
        if failed && is_locked(output) && self.now.time < tools.lock_until {
            tools.again = Some(self.now.time + self.state.options.times.lock);
            log(self.out, Level::Info, format_args!("job \"{id}\": {program} waits for a lock"));
            return StepResult::Wait;
        }
        // What comes before the last one only prepares.
        if tools.left.len() > 1 {
            if failed {
                log(self.out, Level::Warn, format_args!("job \"{id}\": {program}: {exit}, going on without"));
            }
            tools.left.pop_front();
            return self.run_tool();
        }
        if !failed {
            return self.answer(Answer::Tools(Ok(output)));
        }
        let late = tools.late;
        if late || matches!(exit, Exit::Signal(_)) {
            self.state.interrupted = true;
        }
        let how = if late { "took too long and was killed".to_string() } else { exit.to_string() };
        let text = sanitize(&format!("{program}: {how}: {output}"), MESSAGE_MAX);
        self.answer(Answer::Tools(Err(text.into())))
    }

    /// What is due of a tool: it is killed when it takes too long, again when it was already; or the lock is tried again.
    pub fn tool_due(&mut self) -> StepResult {
        let id = self.id();
        let Activity::Tools(tools) = &mut self.job.activity else { return StepResult::Wait };
        match tools.again {
            Some(at) if at <= self.now.time => self.run_tool(),
            None if tools.deadline <= self.now.time => {
                tools.late = true;
                tools.deadline = self.now.time + KILL_INTERVAL;
                self.ask(Action::KillTool(ToolOwner::Job(id)))
            }
            Some(_) | None => StepResult::Wait,
        }
    }
}
