//! What happens to an agent, and what is due without anything happening.

use std::time::Duration;

use super::{stopsignal, Agent, Health, Life, Then, Turn, FIND_MAIN, KILL_AGAIN, LOOK, SHORT, STARTER};
use crate::kernel::{Exit, Level, Process, Sig, Time};
use crate::model::event::Action;
use crate::model::restart::End;
use crate::model::spec::Kind;

impl Agent {
    /// What enforces its limits, whether its CPU and whether its memory must be polled.
    pub fn attached(&mut self, by: &(Option<Box<str>>, bool, bool)) {
        self.limits_by = by.0.clone();
        self.poll = (by.1, by.2);
    }

    /// Its process was made.
    pub fn started(&mut self, process: Process, by: &(Option<Box<str>>, bool, bool), turn: &mut Turn) {
        self.attached(by);
        match &mut self.life {
            Life::Starting => {
                let forking = self.definition.as_ref().is_some_and(|definition| definition.spec.kind == Kind::Forking);
                self.life = if forking {
                    Life::Forking { starter: Some(process), since: turn.now, ask: None }
                } else {
                    Life::Running { process, since: turn.now, health: self.first_check(turn.now) }
                };
                self.save(turn);
                let verb = if forking { "starting" } else { "started" };
                turn.log(Level::Info, &self.record.name, format_args!("{verb}, process {}", process.pid));
            }
            Life::Stopping(stopping) => {
                stopping.leader = Some((process, turn.now));
                stopping.starting = false;
                stopping.look_at = None;
                let sig = if stopping.killed { Sig::KILL } else { stopsignal(&self.definition) };
                turn.out.push(Action::Signal(self.record.name.clone(), sig));
            }
            Life::Down | Life::Waiting { .. } | Life::Fatal | Life::Forking { .. } | Life::Running { .. } => {
                self.illegal("started", turn);
            }
        }
    }

    /// Its process could not be made, or could not become the agent.
    pub fn not_started(&mut self, reason: &str, turn: &mut Turn) {
        match &mut self.life {
            Life::Starting | Life::Forking { .. } | Life::Running { .. } => {
                self.killed = false;
                self.set_end(format_args!("cannot start: {reason}"), "", Level::Error, turn);
                self.conclude(Then::Policy(End::NotStarted), Duration::ZERO, turn);
            }
            Life::Stopping(stopping) => {
                (stopping.leader, stopping.starting) = (None, false);
                self.look(turn);
            }
            Life::Down | Life::Waiting { .. } | Life::Fatal => self.illegal("not started", turn),
        }
    }

    /// The host had nothing to spare for its start: tried again before long, and not counted.
    pub fn short(&mut self, reason: &str, turn: &mut Turn) {
        if self.life != Life::Starting {
            return self.not_started(reason, turn);
        }
        let text = format!("cannot start yet: {reason}");
        if *self.detail != *text {
            self.set_end(format_args!("{text}"), "", Level::Error, turn);
        }
        turn.out.push(Action::Release(self.record.name.clone()));
        self.life = Life::Waiting { until: turn.now + SHORT };
        self.save(turn);
    }

    /// Its main process, or its starter, ended.
    pub fn exited(&mut self, exit: Exit, oom: Option<&str>, tail: &str, turn: &mut Turn) {
        match &mut self.life {
            Life::Running { since, health, .. } => {
                let ran = turn.now.since(*since);
                if matches!(health, Health::Busy { .. }) {
                    turn.out.push(Action::KillCheck(self.record.name.clone()));
                }
                self.ended(exit, oom, tail, ran, turn);
            }
            Life::Forking { starter, since, ask } => {
                *starter = None;
                // One that was taken over has no status.
                if matches!(exit, Exit::Code(0) | Exit::Unknown) {
                    *ask = Some((turn.now, turn.now + FIND_MAIN));
                    turn.out.push(Action::FindMain(self.record.name.clone()));
                } else {
                    let ran = turn.now.since(*since);
                    self.ended(exit, oom, tail, ran, turn);
                }
            }
            Life::Stopping(stopping) => {
                stopping.leader = None;
                self.look(turn);
            }
            Life::Down | Life::Waiting { .. } | Life::Fatal | Life::Starting => self.illegal("ended", turn),
        }
    }

    pub(super) fn ended(&mut self, exit: Exit, oom: Option<&str>, tail: &str, ran: Duration, turn: &mut Turn) {
        self.killed = oom.is_some() || exit == Exit::Signal(Sig::KILL);
        let text = match oom {
            Some(oom) => format!("killed: {oom}"),
            None => exit.to_string(),
        };
        self.set_end(format_args!("{text} after {} s", ran.as_secs()), tail, Level::Warn, turn);
        self.stop(Then::Policy(End::Exited(exit)), None, ran, turn);
    }

    /// The search for a forking agent's main process brought this.
    pub fn main_found(&mut self, found: Option<Process>, turn: &mut Turn) {
        let Life::Forking { starter: None, since, ask: Some((next, until)) } = &mut self.life else {
            return;
        };
        match found {
            Some(process) => {
                let since = *since;
                self.life = Life::Running { process, since, health: self.first_check(turn.now) };
                self.save(turn);
                turn.log(Level::Info, &self.record.name, format_args!("started, process {}", process.pid));
            }
            None if turn.now < *until => *next = turn.now + Duration::from_millis(100),
            None => {
                self.killed = false;
                let pidfile = self.definition.as_ref().and_then(|definition| definition.spec.pidfile.as_deref());
                let what = match pidfile {
                    Some(file) => format!("pid file \"{file}\" names no process of it"),
                    None => "no main process is there".to_string(),
                };
                self.set_end(
                    format_args!("cannot start: its starter ended, and {what} after {} s", FIND_MAIN.as_secs()),
                    "",
                    Level::Error,
                    turn,
                );
                self.stop(Then::Policy(End::NotStarted), None, Duration::ZERO, turn);
            }
        }
    }

    /// So many processes of it are left.
    pub fn left(&mut self, count: u32, turn: &mut Turn) {
        let signal = stopsignal(&self.definition);
        let stopsecs = self.stopsecs();
        let Life::Stopping(stopping) = &mut self.life else { return };
        if count == 0 && stopping.leader.is_none() && !stopping.starting {
            let (then, ran) = (stopping.then, stopping.ran);
            self.conclude(then, ran, turn);
            return;
        }
        if count > 0 && stopping.kill_at.is_none() {
            stopping.kill_at = Some(turn.now + stopsecs);
            turn.out.push(Action::Signal(self.record.name.clone(), signal));
        }
        stopping.look_at = Some(turn.now + stopping.pause);
        stopping.pause = (stopping.pause * 2).min(LOOK.1);
    }

    /// A process that is nobody's main process was reaped.
    pub fn stirred(&mut self, turn: &mut Turn) {
        if let Life::Stopping(stopping) = &self.life {
            if stopping.leader.is_none() {
                turn.out.push(self.counting());
            }
        }
    }

    /// The time came: does what is due.
    pub fn due(&mut self, turn: &mut Turn) {
        let name = self.record.name.clone();
        match &mut self.life {
            Life::Waiting { until } if *until <= turn.now => self.begin(turn),
            Life::Forking { ask: Some((next, _)), .. } if *next <= turn.now => turn.out.push(Action::FindMain(name)),
            Life::Forking { starter: Some(_), since, .. } if *since + STARTER <= turn.now => {
                self.killed = false;
                self.set_end(
                    format_args!("cannot start: its starter has not ended after {} s", STARTER.as_secs()),
                    "",
                    Level::Error,
                    turn,
                );
                self.end(Then::Policy(End::NotStarted), turn);
            }
            Life::Running { health, .. } => match *health {
                Health::Next(at) if at <= turn.now => {
                    let timeout = self.definition.as_ref().and_then(|definition| definition.spec.check.as_ref());
                    *health = timeout
                        .map_or(Health::Off, |check| Health::Busy { until: turn.now + check.timeout, late: false });
                    turn.out.push(Action::Check(name));
                }
                Health::Busy { until, .. } if until <= turn.now => {
                    *health = Health::Busy { until: turn.now + KILL_AGAIN, late: true };
                    turn.out.push(Action::KillCheck(name));
                }
                Health::Off | Health::Next(_) | Health::Busy { .. } => {}
            },
            Life::Stopping(stopping) => {
                if stopping.kill_at.is_some_and(|at| at <= turn.now) && !stopping.killed {
                    stopping.killed = true;
                    stopping.pause = LOOK.0;
                    stopping.look_at = Some(turn.now + LOOK.0);
                    turn.out.push(Action::Signal(name.clone(), Sig::KILL));
                    turn.log(Level::Warn, &name, format_args!("did not end in time, sent SIGKILL"));
                } else if stopping.look_at.is_some_and(|at| at <= turn.now) {
                    if stopping.killed {
                        turn.out.push(Action::Signal(name.clone(), Sig::KILL));
                    }
                    // The answer sets the time of the next look; this is for an answer that does not come.
                    stopping.look_at = Some(turn.now + LOOK.1);
                    turn.out.push(self.counting());
                }
            }
            Life::Down | Life::Waiting { .. } | Life::Fatal | Life::Starting | Life::Forking { .. } => {}
        }
    }

    /// When something is due next.
    pub fn deadline(&self) -> Option<Time> {
        match &self.life {
            Life::Waiting { until } => Some(*until),
            Life::Forking { starter: Some(_), since, .. } => Some(*since + STARTER),
            Life::Forking { ask, .. } => ask.map(|(next, _)| next),
            Life::Running { health, .. } => match health {
                Health::Off => None,
                Health::Next(at) | Health::Busy { until: at, .. } => Some(*at),
            },
            Life::Stopping(stopping) => {
                let kill = if stopping.killed { None } else { stopping.kill_at };
                Time::earliest(&[kill, stopping.look_at])
            }
            Life::Down | Life::Fatal | Life::Starting => None,
        }
    }
}
