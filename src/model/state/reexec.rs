//! Another image of the daemon in the place of this one: tried first, and executed when nothing is half done.
//!
//! The new binary's `version` and `check` run as package tools do, with a deadline; what fails refuses the reexec and
//! changes nothing. Then nothing new is begun until exchanges, starts and stops under way have ended: their outcome is in
//! records, from which the new image goes on as after any daemon's end, except that agents stay its children and
//! that `Carried` says what records do not.

use std::time::Duration;

use super::{Goal, State};
use crate::kernel::{Exit, Level, Time};
use crate::model::agent::{AgentState, KILL_INTERVAL};
use crate::model::command::Command;
use crate::model::event::{answer, log, Action, Client, Now, ToolOwner};
use crate::model::job::{sanitize, JobId, MESSAGE_MAX};
use crate::model::package::Tool;
use crate::model::reexec_state::ReexecState;

/// How long `version` and how long `check` may take.
const TRY: Duration = Duration::from_secs(10);

/// How long what is half done is waited for: an exchange takes 35 s at most.
const PATIENCE: Duration = Duration::from_secs(40);

/// The same for an image that goes back to the one before: its watcher does not wait much longer.
const LITTLE_PATIENCE: Duration = Duration::from_secs(2);

/// An image that is to take our place.
#[derive(Clone, Debug)]
pub(super) struct Reexec {
    program: Box<str>,
    /// Who waits for it on the host.
    pub clients: Vec<Client>,
    /// The job that ordered it.
    job: Option<JobId>,
    /// It is on trial until so long after it was executed.
    trial: Option<Duration>,
    stage: Stage,
}

/// How far it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Its `version` runs, and is killed at that time (again, when it is late already).
    Version { until: Time, late: bool },
    /// The same of its `check`.
    Check { until: Time, late: bool },
    /// It is good; the job that ordered it writes that down.
    Good,
    /// It is executed when nothing is half done, at that time at the latest.
    Waiting(Time),
    /// It is being executed.
    Leaving,
}

impl Reexec {
    pub fn deadline(&self, quiet: bool) -> Option<Time> {
        match self.stage {
            Stage::Waiting(_) if quiet => Some(Time::default()),
            Stage::Version { until, .. } | Stage::Check { until, .. } | Stage::Waiting(until) => Some(until),
            Stage::Good | Stage::Leaving => None,
        }
    }
}

impl State {
    /// What the next image is to know beside the records.
    pub fn reexec_state(&self, until: Option<Time>) -> ReexecState {
        let reexec = self.reexec.as_ref();
        ReexecState {
            began: self.began,
            times: self.schedule.times(),
            incidents: self.incidents.clone(),
            dropped_incidents: self.dropped_incidents,
            interrupted: self.interrupted,
            clients: reexec.map_or(Vec::new(), |reexec| reexec.clients.clone()),
            job: reexec.and_then(|reexec| reexec.job.clone()),
            until,
        }
    }

    /// Who waits for something else than a new image, as commands that go on where these are.
    pub fn waiting(&self) -> Vec<(Client, Command)> {
        let mut waiting = Vec::new();
        for waiter in &self.waiters {
            let name = waiter.name.clone();
            let stops = |life: &AgentState| matches!(life, AgentState::Stopping(_));
            let command = match waiter.goal {
                Goal::Down => Command::Stop(name),
                Goal::Up { .. } if self.agents.get(&name).is_some_and(|agent| stops(&agent.state)) => {
                    Command::Restart(name)
                }
                Goal::Up { .. } => Command::Start(name),
            };
            waiting.push((waiter.client, command));
        }
        waiting.extend(self.reporting.iter().map(|client| (*client, Command::Report)));
        let measuring = self.measuring.clients.iter();
        waiting.extend(measuring.map(|(client, name)| (*client, Command::Status(name.clone()))));
        waiting
    }

    /// Goes on as the image before this one.
    pub(super) fn continue_after_reexec(&mut self, carried: ReexecState, now: Now, out: &mut Vec<Action>) {
        self.began = carried.began;
        self.schedule.go_on(carried.times, now.time);
        // What was told meanwhile comes after what was told before.
        let later = std::mem::replace(&mut self.incidents, carried.incidents);
        self.incidents.extend(later);
        self.dropped_incidents = carried.dropped_incidents;
        self.interrupted |= carried.interrupted;
        for client in carried.clients {
            answer(out, client, 0, format_args!("{} runs", self.options.version));
        }
        (self.brought_by, self.trial) = (carried.job, carried.until);
        if self.trial.is_some() {
            self.schedule.hurry();
        }
    }

    /// Somebody on the host wants the installed binary in our place.
    pub(super) fn reexec(&mut self, client: Option<Client>, now: Now, out: &mut Vec<Action>) {
        let refused = match &mut self.reexec {
            Some(reexec) if reexec.program == self.options.program => {
                return reexec.clients.extend(client);
            }
            _ if self.shutdown.is_some() => "the daemon is being stopped",
            Some(_) => "an upgrade of the daemon is under way",
            None if self.trial.is_some() => "this binary is itself on trial; wait for its first exchange with a server",
            None => {
                let program = self.options.program.clone();
                return self.try_binary(program, client, None, None, now, out);
            }
        };
        log(out, Level::Warn, format_args!("reexec refused: {refused}"));
        if let Some(client) = client {
            answer(out, client, 1, format_args!("reexec refused: {refused}"));
        }
    }

    /// Tries a binary that is to take our place.
    pub(super) fn try_binary(
        &mut self,
        program: Box<str>,
        client: Option<Client>,
        job: Option<JobId>,
        trial: Option<Duration>,
        now: Now,
        out: &mut Vec<Action>,
    ) {
        let argv = vec![program.clone(), "version".into()];
        let stage = Stage::Version { until: now.time + TRY, late: false };
        self.reexec = Some(Reexec { program, clients: client.into_iter().collect(), job, trial, stage });
        out.push(Action::Tool(ToolOwner::Reexec, Tool { argv, timeout: TRY }));
    }

    /// Goes back to the installed binary, which ran before this one.
    pub(super) fn reexec_back(&mut self, job: JobId, now: Now) {
        let stage = Stage::Waiting(now.time + LITTLE_PATIENCE);
        let program = self.options.program.clone();
        self.reexec = Some(Reexec { program, clients: Vec::new(), job: Some(job), trial: None, stage });
    }

    /// Whether another image is being tried, or about to take our place.
    pub(super) fn is_reexecing(&self) -> bool {
        self.reexec.is_some()
    }

    /// Whether nothing new may be begun, as another image is about to take our place.
    pub(super) fn is_leaving(&self) -> bool {
        self.reexec.as_ref().is_some_and(|reexec| matches!(reexec.stage, Stage::Waiting(_) | Stage::Leaving))
    }

    /// The new binary's `version` or `check` has ended.
    pub(super) fn reexec_tried(&mut self, exit: Exit, output: &str, now: Now, out: &mut Vec<Action>) {
        let config = self.options.config.clone();
        let Some(reexec) = &mut self.reexec else { return };
        let (word, late) = match reexec.stage {
            Stage::Version { late, .. } => ("version", late),
            Stage::Check { late, .. } => ("check", late),
            Stage::Good | Stage::Waiting(_) | Stage::Leaving => return,
        };
        let version = output.lines().find_map(|line| line.strip_prefix("bootagent-"));
        let why = match exit {
            _ if late => format!("is not done within {} s", TRY.as_secs()),
            Exit::Code(0) if word == "version" && version.is_none() => "does not say \"bootagent-\"".to_string(),
            Exit::Code(0) => String::new(),
            _ => format!("{exit}: {output}"),
        };
        if !why.is_empty() {
            let text = format!("\"{} {word}\" {why}", reexec.program);
            return self.not_reexeced(&sanitize(&text, MESSAGE_MAX), now, out);
        }
        if word == "version" {
            reexec.stage = Stage::Check { until: now.time + TRY, late: false };
            let argv = vec![reexec.program.clone(), "-c".into(), config, "check".into()];
            let version = version.and_then(|version| version.split_whitespace().next()).unwrap_or_default();
            let version = format!("bootagent-{}", sanitize(version, 60)).into();
            if let Some(job) = reexec.job.clone() {
                self.found_version(&job, version);
            }
            return out.push(Action::Tool(ToolOwner::Reexec, Tool { argv, timeout: TRY }));
        }
        reexec.stage = Stage::Good;
        match reexec.job.clone() {
            Some(job) => self.binary_is_good(&job, now, out),
            None => self.reexec_recorded(now),
        }
    }

    /// Nothing more has to be written down before the new binary is executed.
    pub(super) fn reexec_recorded(&mut self, now: Now) {
        if let Some(reexec) = &mut self.reexec {
            reexec.stage = Stage::Waiting(now.time + PATIENCE);
        }
    }

    /// Whether the job's new binary has proved good, and the job may say so in its record.
    pub(super) fn is_good_for(&self, job: &str) -> bool {
        let good = |reexec: &Reexec| reexec.stage == Stage::Good && reexec.job.as_deref() == Some(job);
        self.reexec.as_ref().is_some_and(good)
    }

    /// The new binary is not executed, or cannot be.
    pub(super) fn not_reexeced(&mut self, why: &str, now: Now, out: &mut Vec<Action>) {
        let Some(reexec) = self.reexec.take() else { return };
        log(out, Level::Error, format_args!("reexec refused, nothing is changed: {why}"));
        for client in reexec.clients {
            answer(out, client, 1, format_args!("reexec refused: {why}"));
        }
        if let Some(job) = reexec.job {
            self.binary_not_executed(&job, why, now, out);
        }
    }

    /// Gives a new image up when the daemon is to end.
    pub(super) fn follow_reexec(&mut self, now: Now, out: &mut Vec<Action>) {
        let Some(reexec) = &self.reexec else { return };
        if self.shutdown.is_some() {
            let trying = matches!(reexec.stage, Stage::Version { .. } | Stage::Check { .. });
            out.extend(trying.then_some(Action::KillTool(ToolOwner::Reexec)));
            self.not_reexeced("the daemon is being stopped", now, out);
        }
    }

    /// Whether the records say all there is to know.
    pub(super) fn is_quiet(&self) -> bool {
        let moving = |life: &AgentState| {
            matches!(life, AgentState::Starting | AgentState::Forking { .. } | AgentState::Stopping(_))
        };
        let talking = self.schedule.asking().is_some() || self.measuring.report.is_some();
        !talking && !self.is_unpacking() && !self.agents.values().any(|agent| moving(&agent.state))
    }

    /// Executes the new binary once nothing is half done: with a tick, which comes when every other event has been taken,
    /// so that none is lost.
    pub(super) fn reexec_due(&mut self, now: Now, out: &mut Vec<Action>) {
        let quiet = self.is_quiet();
        let Some(reexec) = &mut self.reexec else { return };
        if matches!(reexec.stage, Stage::Waiting(until) if quiet || until <= now.time) {
            reexec.stage = Stage::Leaving;
            let until = reexec.trial.map(|trial| now.time + trial);
            out.push(Action::Reexec(reexec.program.clone(), until));
        }
        if let Stage::Version { until, late } | Stage::Check { until, late } = &mut reexec.stage {
            if *until <= now.time {
                (*until, *late) = (now.time + KILL_INTERVAL, true);
                out.push(Action::KillTool(ToolOwner::Reexec));
            }
        }
    }
}
