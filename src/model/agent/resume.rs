//! How an agent goes on under the next daemon: by its record, or by what runs of it without one.

use std::time::Duration;

use super::{Agent, Life, Then, Turn, FIND_MAIN, NEVER, SHORT};
use crate::kernel::{Exit, Level, Process, Time};
use crate::model::record::{RunRecord, Wanted};
use crate::model::restart::End;
use crate::model::spec::Kind;

impl Agent {
    /// Takes over what an earlier daemon of this boot noted; `alive`: its main process is still there; `strays`: other
    /// processes of it are.
    pub fn resume(&mut self, run: &RunRecord, alive: bool, strays: bool, turn: &mut Turn) {
        self.failures = run.failures;
        self.note_mark(run.mark);
        self.killed = run.killed;
        self.detail = run.detail.clone();
        match run.process {
            process if run.stopping => {
                let then = if self.wanted() == Wanted::Up { Then::Up } else { Then::Down };
                let leader = process.filter(|_| alive).map(|process| (process, run.started));
                let ran = leader.map_or(Duration::ZERO, |_| turn.now.since(run.started));
                self.stop(then, leader, ran, turn);
                self.look(turn);
            }
            _ if run.forking && (alive || strays) => {
                self.generation += 1;
                let starter = run.process.filter(|_| alive);
                let ask = starter.is_none().then_some((turn.now, turn.now + FIND_MAIN));
                self.life = Life::Forking { starter, since: run.started, ask };
            }
            Some(process) if alive => {
                self.generation += 1;
                self.life = Life::Running { process, since: run.started, health: self.first_check(turn.now) };
                turn.tell(
                    Level::Info,
                    &run.name,
                    format_args!("taken over with process {process_id}", process_id = process.pid),
                );
            }
            Some(_) => {
                let ran = turn.now.since(run.started);
                self.killed = false;
                self.set_end(format_args!("ended while no daemon was watching, status unknown"), "", Level::Warn, turn);
                self.stop(Then::Policy(End::Exited(Exit::Unknown)), None, ran, turn);
            }
            None if run.fatal => self.life = Life::Fatal,
            None => {
                self.rests = run.restart_at == Some(NEVER);
                if let Some(until) = run.restart_at.filter(|until| *until != NEVER) {
                    // No wait is longer than this: a record that says so is damaged.
                    let definition = self.definition.as_ref();
                    let policy = definition.map_or(turn.policy, |definition| turn.policy.of(&definition.spec));
                    let latest = turn.now + policy.restartsecs.max(SHORT);
                    self.life = Life::Waiting { until: until.min(latest) };
                }
            }
        }
        if run.mark.is_none() {
            self.save(turn);
        }
    }

    /// Processes of it run although no record says so: its main process, started then, if one can be told to be it. They
    /// are taken over, or ended before anything else is started.
    pub fn strayed(&mut self, main: Option<(Process, Time)>, turn: &mut Turn) {
        let forking = self.definition.as_ref().is_some_and(|definition| definition.spec.kind == Kind::Forking);
        match (&self.life, main) {
            // Known already, or looked for anyway.
            (Life::Starting | Life::Forking { .. } | Life::Running { .. } | Life::Stopping(_), _) => {}
            (Life::Down | Life::Waiting { .. } | Life::Fatal, Some((process, since))) => {
                self.note_mark(self.mark);
                self.generation += 1;
                self.life = if forking {
                    Life::Forking { starter: None, since, ask: Some((turn.now, turn.now + FIND_MAIN)) }
                } else {
                    Life::Running { process, since, health: self.first_check(turn.now) }
                };
                self.save(turn);
                turn.tell(
                    Level::Warn,
                    &self.record.name,
                    format_args!("taken over with process {}, which no record knew", process.pid),
                );
            }
            (Life::Down | Life::Waiting { .. } | Life::Fatal, None) => {
                turn.tell(
                    Level::Warn,
                    &self.record.name,
                    format_args!("an earlier daemon left processes of it, which are ended"),
                );
                let then = match self.life {
                    Life::Waiting { until } => Then::Wait(until),
                    Life::Fatal => Then::Fatal,
                    _ if self.wanted() == Wanted::Down => Then::Down,
                    _ if self.rests => Then::Wait(NEVER),
                    _ => Then::Up,
                };
                self.leftovers = false;
                self.stop(then, None, Duration::ZERO, turn);
            }
        }
    }
}
