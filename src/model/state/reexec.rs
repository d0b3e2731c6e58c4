//! Reexec: the daemon executes a new binary of itself, which keeps the process and with it all agents as children.
//!
//! First the new binary's `version` and `check` run as package tools do, with a deadline; a binary that fails them is
//! refused, and nothing is changed. Then nothing new begins until the exchanges, starts and stops under way have ended,
//! as their outcome is in records then. The new binary continues from these records as after any end of a daemon;
//! `ReexecState` holds what no record does.

use std::time::Duration;

use super::{Goal, State};
use crate::kernel::{Exit, Level, Time};
use crate::model::agent::{Agent, AgentState, KILL_INTERVAL};
use crate::model::command::Command;
use crate::model::event::{answer, log, Action, Client, Now, ToolOwner};
use crate::model::job::JobId;
use crate::model::package::Tool;
use crate::model::reexec_state::ReexecState;
use crate::text::{sanitize, MESSAGE_MAX};

/// The commands by which a new binary is tried, in this order.
const VERSION: &str = "version";
const CHECK: &str = "check";

/// How long each of them may take.
const TRY: Duration = Duration::from_secs(10);

/// How long the exec waits for what is under way: an exchange takes 35 s at most.
const PATIENCE: Duration = Duration::from_secs(40);

/// The same for a binary on trial that gives its place back: its watcher does not wait much longer.
const LITTLE_PATIENCE: Duration = Duration::from_secs(2);

/// The reexec that is to come, and how this binary came to be executed.
#[derive(Clone, Debug, Default)]
pub(super) struct Reexec {
    pending: Option<Pending>,
    /// The job that had this binary executed.
    brought_by: Option<JobId>,
    /// This binary is on trial until then.
    pub trial: Option<Time>,
    /// Why the watcher of a new binary executed this one again.
    pub undone: Option<Box<str>>,
}

/// A reexec that is to come.
#[derive(Clone, Debug)]
struct Pending {
    program: Box<str>,
    /// Clients on the host that wait for it.
    clients: Vec<Client>,
    /// The job that ordered it.
    job: Option<JobId>,
    /// The new binary is on trial for so long after the exec.
    trial: Option<Duration>,
    stage: Stage,
}

/// How far a reexec has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// This command of the new binary, `version` or `check`, runs, and is killed at that time; again when it is `late`
    /// already.
    Trying { command: &'static str, until: Time, late: bool },
    /// The binary is good; the job that ordered it has this recorded.
    Good,
    /// The binary is executed when nothing is under way, at that time at the latest.
    Waiting(Time),
    /// The binary is being executed.
    Leaving,
}

impl Reexec {
    /// None is to come; `undone`: why the watcher of a new binary executed this one again.
    pub fn new(undone: Option<Box<str>>) -> Reexec {
        Reexec { undone, ..Reexec::default() }
    }

    /// When something is due; `quiet`: nothing is under way that the exec waits for.
    pub fn deadline(&self, quiet: bool) -> Option<Time> {
        match self.pending.as_ref()?.stage {
            Stage::Waiting(_) if quiet => Some(Time::default()),
            Stage::Trying { until, .. } | Stage::Waiting(until) => Some(until),
            Stage::Good | Stage::Leaving => None,
        }
    }

    /// Whether this job had this binary executed.
    pub fn is_by(&self, job: &JobId) -> bool {
        self.brought_by.as_ref() == Some(job)
    }

    /// Whether a reexec is to come.
    pub fn is_pending(&self) -> bool {
        self.pending.is_some()
    }

    /// Whether the new binary that this job ordered has proved good, so that the job may have this recorded.
    pub fn is_good_for(&self, job: &str) -> bool {
        let good = |pending: &Pending| pending.stage == Stage::Good && pending.job.as_deref() == Some(job);
        self.pending.as_ref().is_some_and(good)
    }

    /// This client waits no more.
    pub fn client_gone(&mut self, client: Client) {
        if let Some(pending) = &mut self.pending {
            pending.clients.retain(|waiting| *waiting != client);
        }
    }

    /// Nothing more has to be recorded before the new binary is executed.
    pub fn recorded(&mut self, now: Now) {
        if let Some(pending) = &mut self.pending {
            pending.stage = Stage::Waiting(now.time + PATIENCE);
        }
    }

    /// Gives the place back to `program`, the installed binary, which ran before this one.
    pub fn go_back(&mut self, program: Box<str>, job: JobId, now: Now) {
        let stage = Stage::Waiting(now.time + LITTLE_PATIENCE);
        self.pending = Some(Pending { program, clients: Vec::new(), job: Some(job), trial: None, stage });
    }
}

impl State {
    /// What the new binary is to know beside the records; `until`: it is on trial until then.
    pub fn reexec_state(&self, until: Option<Time>) -> ReexecState {
        let pending = self.reexec.pending.as_ref();
        ReexecState {
            began: self.began,
            times: self.exchanges.schedule.times(),
            incidents: self.incidents.list().to_vec(),
            dropped_incidents: self.incidents.dropped(),
            interrupted: self.jobs.interrupted,
            clients: pending.map_or(Vec::new(), |pending| pending.clients.clone()),
            job: pending.and_then(|pending| pending.job.clone()),
            until,
        }
    }

    /// Clients that wait for something else than the reexec, each with the command by which the new binary lets it wait
    /// on.
    pub fn waiting(&self) -> Vec<(Client, Command)> {
        let mut waiting = Vec::new();
        for waiter in &self.waiters {
            let name = waiter.name.clone();
            let stops = |state: &AgentState| matches!(state, AgentState::Stopping(_));
            let command = match waiter.goal {
                Goal::Down => Command::Stop(name),
                Goal::Up { .. } if self.agents.get(&name).is_some_and(|agent| stops(&agent.state)) => {
                    Command::Restart(name)
                }
                Goal::Up { .. } => Command::Start(name),
            };
            waiting.push((waiter.client, command));
        }
        waiting.extend(self.exchanges.reporting.iter().map(|client| (*client, Command::Report)));
        waiting.extend(self.rereading.clients.iter().map(|client| (*client, Command::Reread)));
        waiting.extend(self.reloading_agents().map(|(client, name)| (client, Command::Reload(name.clone()))));
        let measuring = self.measuring.clients.iter();
        waiting.extend(measuring.map(|(client, name)| (*client, Command::Status(name.clone()))));
        waiting
    }

    /// Continues where the binary was that executed this one.
    pub(super) fn continue_after_reexec(&mut self, state: ReexecState) {
        self.began = state.began;
        self.exchanges.schedule.resume(state.times, self.now.time);
        self.incidents.prepend(state.incidents, state.dropped_incidents);
        self.jobs.interrupted |= state.interrupted;
        for client in state.clients {
            answer(&mut self.out, client, 0, format_args!("{} runs", self.options.version));
        }
        (self.reexec.brought_by, self.reexec.trial) = (state.job, state.until);
        if self.reexec.trial.is_some() {
            self.exchanges.schedule.request_report();
        }
    }

    /// The operator wants the installed binary executed; `client` waits for it, if there is one.
    pub(super) fn request_reexec(&mut self, client: Option<Client>) {
        let refused = match &mut self.reexec.pending {
            Some(pending) if pending.program == self.options.program => return pending.clients.extend(client),
            _ if self.shutdown.is_some() => "the daemon is being stopped",
            Some(_) => "an upgrade of the daemon is under way",
            None if self.reexec.trial.is_some() => {
                "this binary is itself on trial; wait for its first exchange with a server"
            }
            None => {
                let program = self.options.program.clone();
                return self.try_binary(program, client, None, None);
            }
        };
        log(&mut self.out, Level::Warn, format_args!("reexec refused: {refused}"));
        if let Some(client) = client {
            answer(&mut self.out, client, 1, format_args!("reexec refused: {refused}"));
        }
    }

    /// Tries a binary that is to be executed; `trial`: how long it is on trial then.
    pub(super) fn try_binary(
        &mut self,
        program: Box<str>,
        client: Option<Client>,
        job: Option<JobId>,
        trial: Option<Duration>,
    ) {
        let argv = vec![program.clone(), VERSION.into()];
        let stage = Stage::Trying { command: VERSION, until: self.now.time + TRY, late: false };
        self.reexec.pending = Some(Pending { program, clients: client.into_iter().collect(), job, trial, stage });
        self.out.push(Action::Tool(ToolOwner::Reexec, Tool { argv, timeout: TRY }));
    }

    /// Whether nothing new may begin, as a new binary is about to be executed.
    pub(super) fn is_leaving(&self) -> bool {
        let stage = self.reexec.pending.as_ref().map(|pending| pending.stage);
        matches!(stage, Some(Stage::Waiting(_) | Stage::Leaving))
    }

    /// The new binary's `version` or `check` has ended.
    pub(super) fn reexec_tried(&mut self, exit: Exit, output: &str) {
        // A shutdown gives the reexec up before the end of what it kills comes here.
        let Some(pending) = &mut self.reexec.pending else { return };
        let Stage::Trying { command, late, .. } = pending.stage else {
            let text = format_args!("reexec: a program ended that it does not run, ignored");
            return log(&mut self.out, Level::Warn, text);
        };
        let version = output.lines().find_map(|line| line.strip_prefix("bootagent-"));
        let why = match exit {
            _ if late => format!("is not done within {} s", TRY.as_secs()),
            Exit::Code(0) if command == VERSION && version.is_none() => "does not say \"bootagent-\"".to_string(),
            Exit::Code(0) => String::new(),
            _ => format!("{exit}: {output}"),
        };
        if !why.is_empty() {
            let text = format!("\"{} {command}\" {why}", pending.program);
            return self.not_reexeced(&sanitize(&text, MESSAGE_MAX));
        }
        if command == VERSION {
            pending.stage = Stage::Trying { command: CHECK, until: self.now.time + TRY, late: false };
            let argv = vec![pending.program.clone(), "-c".into(), self.options.config.clone(), CHECK.into()];
            let version = version.and_then(|version| version.split_whitespace().next()).unwrap_or_default();
            let version: Box<str> = format!("bootagent-{}", sanitize(version, 60)).into();
            if let Some(job) = pending.job.clone() {
                if let Some(why) = self.note_version(&job, version) {
                    return self.not_reexeced(&why);
                }
            }
            return self.out.push(Action::Tool(ToolOwner::Reexec, Tool { argv, timeout: TRY }));
        }
        pending.stage = Stage::Good;
        match pending.job.clone() {
            Some(job) => self.binary_is_good(&job),
            None => self.reexec.recorded(self.now),
        }
    }

    /// The new binary is not executed, or cannot be.
    pub(super) fn not_reexeced(&mut self, why: &str) {
        let Some(pending) = self.reexec.pending.take() else {
            return log(
                &mut self.out,
                Level::Warn,
                format_args!("reexec: it failed, and none is under way, ignored: {why}"),
            );
        };
        log(&mut self.out, Level::Error, format_args!("reexec refused, nothing is changed: {why}"));
        for client in pending.clients {
            answer(&mut self.out, client, 1, format_args!("reexec refused: {why}"));
        }
        if let Some(job) = pending.job {
            self.binary_not_executed(&job, why);
        }
    }

    /// Gives the reexec up when the daemon is being stopped.
    pub(super) fn follow_reexec(&mut self) {
        let Some(pending) = self.reexec.pending.as_ref().filter(|_| self.shutdown.is_some()) else { return };
        let trying = matches!(pending.stage, Stage::Trying { .. });
        self.out.extend(trying.then_some(Action::KillTool(ToolOwner::Reexec)));
        self.not_reexeced("the daemon is being stopped");
    }

    /// Whether the records say all there is to know.
    pub(super) fn is_quiet(&self) -> bool {
        let moving = |agent: &Agent| !agent.is_over() && !matches!(agent.state, AgentState::Running { .. });
        let exchanging = self.exchanges.schedule.asking().is_some() || self.measuring.report.is_some();
        !exchanging && self.reloads.is_empty() && !self.is_unpacking() && !self.agents.values().any(moving)
    }

    /// Executes the new binary once nothing is under way, and kills a trial that takes too long. A tick comes after
    /// every other event, so that the exec loses none.
    pub(super) fn reexec_due(&mut self) {
        let quiet = self.is_quiet();
        let Some(pending) = &mut self.reexec.pending else { return };
        match &mut pending.stage {
            Stage::Waiting(until) if quiet || *until <= self.now.time => {
                pending.stage = Stage::Leaving;
                let until = pending.trial.map(|trial| self.now.time + trial);
                self.out.push(Action::Reexec(pending.program.clone(), until));
            }
            Stage::Trying { until, late, .. } if *until <= self.now.time => {
                (*until, *late) = (self.now.time + KILL_INTERVAL, true);
                self.out.push(Action::KillTool(ToolOwner::Reexec));
            }
            Stage::Trying { .. } | Stage::Good | Stage::Waiting(_) | Stage::Leaving => {}
        }
    }
}

/// Whether `said`, such as `bootagent-1.2.0-x86_64`, is what a binary of version `wanted` says.
pub(super) fn is_version_of(said: &str, wanted: &str) -> bool {
    let rest = said.strip_prefix("bootagent-").and_then(|said| said.strip_prefix(wanted));
    said == wanted || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

#[cfg(test)]
mod tests {
    use super::is_version_of;

    #[test]
    fn a_binary_is_of_the_version_that_it_says() {
        for (said, wanted, want) in [
            ("bootagent-1.2.0-x86_64", "1.2.0", true),
            ("bootagent-1.2.0-x86_64", "bootagent-1.2.0-x86_64", true),
            ("bootagent-1.2.0", "1.2.0", true),
            ("bootagent-1.2.0-rc1-arm", "1.2.0-rc1", true),
            ("bootagent-1.2.01-x86_64", "1.2.0", false),
            ("bootagent-1.1.0-x86_64", "1.2.0", false),
            ("bootagent-", "1.2.0", false),
        ] {
            assert_eq!(is_version_of(said, wanted), want, "{said} {wanted}");
        }
    }
}
