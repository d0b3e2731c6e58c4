//! Another image of the daemon in the place of this one: tried first, and executed when nothing is half done.
//!
//! The new binary's `version` and `check` run as package tools do, with a deadline; what fails refuses the reexec and
//! changes nothing. Then nothing new is begun until exchanges, starts and stops under way have ended: their outcome is in
//! records, from which the new image goes on as after any daemon's end, except that agents stay its children and
//! that `Carried` says what records do not.

use std::time::Duration;

use super::{Goal, State};
use crate::kernel::{Exit, Level, Time};
use crate::model::agent::{Life, KILL_AGAIN};
use crate::model::carried::Carried;
use crate::model::command::Command;
use crate::model::event::{answer, log, Action, Client, Now, ToolOwner};
use crate::model::job::{sanitize, JobId, MESSAGE_MAX};
use crate::model::package::Tool;

/// How long `version` and how long `check` may take.
const TRY: Duration = Duration::from_secs(10);

/// How long what is half done is waited for: an exchange takes 35 s at most.
const PATIENCE: Duration = Duration::from_secs(40);

/// The same for an image that goes back to the one before: its watcher does not wait much longer.
const LITTLE_PATIENCE: Duration = Duration::from_secs(2);

/// An image that is to take our place.
#[derive(Clone, Debug)]
pub(super) struct Renewal {
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

impl Renewal {
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
    pub fn carry(&self, until: Option<Time>) -> Carried {
        let renewal = self.renewal.as_ref();
        Carried {
            began: self.began,
            times: self.pace.times(),
            incidents: self.incidents.clone(),
            dropped_incidents: self.dropped_incidents,
            interrupted: self.interrupted,
            clients: renewal.map_or(Vec::new(), |renewal| renewal.clients.clone()),
            job: renewal.and_then(|renewal| renewal.job.clone()),
            until,
        }
    }

    /// Who waits for something else than a new image, as commands that go on where these are.
    pub fn waiting(&self) -> Vec<(Client, Command)> {
        let mut waiting = Vec::new();
        for waiter in &self.waiters {
            let name = waiter.name.clone();
            let stops = |life: &Life| matches!(life, Life::Stopping(_));
            let command = match waiter.goal {
                Goal::Down => Command::Stop(name),
                Goal::Up { .. } if self.agents.get(&name).is_some_and(|agent| stops(&agent.life)) => {
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
    pub(super) fn go_on(&mut self, carried: Carried, now: Now, out: &mut Vec<Action>) {
        self.began = carried.began;
        self.pace.go_on(carried.times, now.time);
        // What was told meanwhile comes after what was told before.
        let later = std::mem::replace(&mut self.incidents, carried.incidents);
        self.incidents.extend(later);
        self.dropped_incidents = carried.dropped_incidents;
        self.interrupted |= carried.interrupted;
        for client in carried.clients {
            answer(out, client, 0, format_args!("{} runs", self.options.version));
        }
        (self.renewed_by, self.trial) = (carried.job, carried.until);
        if self.trial.is_some() {
            self.pace.hurry();
        }
    }

    /// Somebody on the host wants the installed binary in our place.
    pub(super) fn reexec(&mut self, client: Option<Client>, now: Now, out: &mut Vec<Action>) {
        let refused = match &mut self.renewal {
            Some(renewal) if renewal.program == self.options.program => {
                return renewal.clients.extend(client);
            }
            _ if self.shutdown.is_some() => "the daemon is being stopped",
            Some(_) => "an upgrade of the daemon is under way",
            None if self.trial.is_some() => "this binary is itself on trial; wait for its first exchange with a server",
            None => {
                let program = self.options.program.clone();
                return self.renew(program, client, None, None, now, out);
            }
        };
        log(out, Level::Warn, format_args!("reexec refused: {refused}"));
        if let Some(client) = client {
            answer(out, client, 1, format_args!("reexec refused: {refused}"));
        }
    }

    /// Tries a binary that is to take our place.
    pub(super) fn renew(
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
        self.renewal = Some(Renewal { program, clients: client.into_iter().collect(), job, trial, stage });
        out.push(Action::Tool(ToolOwner::Reexec, Tool { argv, timeout: TRY }));
    }

    /// Goes back to the installed binary, which ran before this one.
    pub(super) fn renew_back(&mut self, job: JobId, now: Now) {
        let stage = Stage::Waiting(now.time + LITTLE_PATIENCE);
        let program = self.options.program.clone();
        self.renewal = Some(Renewal { program, clients: Vec::new(), job: Some(job), trial: None, stage });
    }

    /// Whether another image is being tried, or about to take our place.
    pub(super) fn is_renewing(&self) -> bool {
        self.renewal.is_some()
    }

    /// Whether nothing new may be begun, as another image is about to take our place.
    pub(super) fn is_leaving(&self) -> bool {
        self.renewal.as_ref().is_some_and(|renewal| matches!(renewal.stage, Stage::Waiting(_) | Stage::Leaving))
    }

    /// The new binary's `version` or `check` has ended.
    pub(super) fn renewal_tried(&mut self, exit: Exit, output: &str, now: Now, out: &mut Vec<Action>) {
        let config = self.options.config.clone();
        let Some(renewal) = &mut self.renewal else { return };
        let (word, late) = match renewal.stage {
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
            let text = format!("\"{} {word}\" {why}", renewal.program);
            return self.not_renewed(&sanitize(&text, MESSAGE_MAX), now, out);
        }
        if word == "version" {
            renewal.stage = Stage::Check { until: now.time + TRY, late: false };
            let argv = vec![renewal.program.clone(), "-c".into(), config, "check".into()];
            let version = version.and_then(|version| version.split_whitespace().next()).unwrap_or_default();
            let version = format!("bootagent-{}", sanitize(version, 60)).into();
            if let Some(job) = renewal.job.clone() {
                self.found_version(&job, version);
            }
            return out.push(Action::Tool(ToolOwner::Reexec, Tool { argv, timeout: TRY }));
        }
        renewal.stage = Stage::Good;
        match renewal.job.clone() {
            Some(job) => self.binary_is_good(&job, now, out),
            None => self.renewal_recorded(now),
        }
    }

    /// Nothing more has to be written down before the new binary is executed.
    pub(super) fn renewal_recorded(&mut self, now: Now) {
        if let Some(renewal) = &mut self.renewal {
            renewal.stage = Stage::Waiting(now.time + PATIENCE);
        }
    }

    /// Whether the job's new binary has proved good, and the job may say so in its record.
    pub(super) fn is_good_for(&self, job: &str) -> bool {
        let good = |renewal: &Renewal| renewal.stage == Stage::Good && renewal.job.as_deref() == Some(job);
        self.renewal.as_ref().is_some_and(good)
    }

    /// The new binary is not executed, or cannot be.
    pub(super) fn not_renewed(&mut self, why: &str, now: Now, out: &mut Vec<Action>) {
        let Some(renewal) = self.renewal.take() else { return };
        log(out, Level::Error, format_args!("reexec refused, nothing is changed: {why}"));
        for client in renewal.clients {
            answer(out, client, 1, format_args!("reexec refused: {why}"));
        }
        if let Some(job) = renewal.job {
            self.binary_not_executed(&job, why, now, out);
        }
    }

    /// Gives a new image up when the daemon is to end.
    pub(super) fn follow_renewal(&mut self, now: Now, out: &mut Vec<Action>) {
        let Some(renewal) = &self.renewal else { return };
        if self.shutdown.is_some() {
            let trying = matches!(renewal.stage, Stage::Version { .. } | Stage::Check { .. });
            out.extend(trying.then_some(Action::KillTool(ToolOwner::Reexec)));
            self.not_renewed("the daemon is being stopped", now, out);
        }
    }

    /// Whether the records say all there is to know.
    pub(super) fn is_quiet(&self) -> bool {
        let moving = |life: &Life| matches!(life, Life::Starting | Life::Forking { .. } | Life::Stopping(_));
        let talking = self.pace.asking().is_some() || self.measuring.report.is_some();
        !talking && !self.is_unpacking() && !self.agents.values().any(|agent| moving(&agent.life))
    }

    /// Executes the new binary once nothing is half done: with a tick, which comes when every other event has been taken,
    /// so that none is lost.
    pub(super) fn renewal_due(&mut self, now: Now, out: &mut Vec<Action>) {
        let quiet = self.is_quiet();
        let Some(renewal) = &mut self.renewal else { return };
        if matches!(renewal.stage, Stage::Waiting(until) if quiet || until <= now.time) {
            renewal.stage = Stage::Leaving;
            let until = renewal.trial.map(|trial| now.time + trial);
            out.push(Action::Reexec(renewal.program.clone(), until));
        }
        if let Stage::Version { until, late } | Stage::Check { until, late } = &mut renewal.stage {
            if *until <= now.time {
                (*until, *late) = (now.time + KILL_AGAIN, true);
                out.push(Action::KillTool(ToolOwner::Reexec));
            }
        }
    }
}
