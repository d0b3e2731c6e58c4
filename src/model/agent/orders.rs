//! What is ordered of an agent, and how it begins and ends.

use std::time::Duration;

use super::{stopsignal, Agent, Health, Life, Stopping, Then, Turn, LOOK, NEVER};
use crate::kernel::{Level, Process, Sig, Time};
use crate::model::event::Action;
use crate::model::record::Wanted;
use crate::model::restart::{judge, End, Verdict};
use crate::text::count;

impl Agent {
    /// Starts it if nothing of it is there and nothing speaks against that, without forgetting earlier failures.
    pub fn wake(&mut self, turn: &mut Turn) {
        if self.is_fresh() {
            self.begin(turn);
        }
    }

    /// Starts it unless it runs, forgetting earlier failures.
    pub fn order_up(&mut self, turn: &mut Turn) {
        self.failures = 0;
        match &mut self.life {
            Life::Down | Life::Fatal | Life::Waiting { .. } => self.begin(turn),
            Life::Forking { .. } | Life::Running { .. } => self.save(turn),
            Life::Starting => {}
            Life::Stopping(stopping) => {
                stopping.then = Then::Up;
                self.save(turn);
            }
        }
    }

    /// Stops it.
    pub fn order_down(&mut self, turn: &mut Turn) {
        match &mut self.life {
            Life::Down => {}
            Life::Waiting { .. } | Life::Fatal => {
                self.failures = 0;
                self.killed = false;
                self.detail = "stopped".into();
                self.life = Life::Down;
                self.save(turn);
            }
            Life::Stopping(stopping) => {
                stopping.then = Then::Down;
                self.save(turn);
            }
            Life::Starting | Life::Forking { .. } | Life::Running { .. } => self.end(Then::Down, turn),
        }
    }

    /// Stops it if it runs, and starts it, forgetting earlier failures.
    pub fn order_restart(&mut self, turn: &mut Turn) {
        self.failures = 0;
        match &mut self.life {
            Life::Starting | Life::Forking { .. } | Life::Running { .. } => self.end(Then::Up, turn),
            Life::Down | Life::Fatal | Life::Waiting { .. } | Life::Stopping(_) => self.order_up(turn),
        }
    }

    /// Forgets earlier failures, as after a changed definition; starts it if it was given up or waits, and is wanted.
    pub fn pardon(&mut self, turn: &mut Turn) {
        self.failures = 0;
        if matches!(self.life, Life::Fatal | Life::Waiting { .. }) {
            match self.wanted() {
                Wanted::Up => self.begin(turn),
                Wanted::Down => self.order_down(turn),
            }
        }
    }

    pub(super) fn begin(&mut self, turn: &mut Turn) {
        if self.definition.is_none() {
            self.detail = "it has no definition that can be read".into();
            self.life = Life::Down;
            return;
        }
        if self.leftovers {
            self.leftovers = false;
            return self.stop(Then::Up, None, Duration::ZERO, turn);
        }
        self.generation += 1;
        self.rests = false;
        let unnamed = self.unnamed_envs();
        if !unnamed.is_empty() {
            let why = "set by a job and not named in its definition's envs, does not count with trusted_keys";
            turn.tell(Level::Warn, &self.record.name, format_args!("{unnamed}, {why}"));
        }
        self.note_mark(None);
        self.life = Life::Starting;
        // Whoever finds the process without its own record knows then that it is a new one.
        self.save(turn);
        (self.sample, self.check_sample, self.cpu, self.memory) = (None, None, None, None);
        (self.over_cpu, self.check_failures, self.passed) = (0, 0, false);
        turn.out.push(Action::Start(self.record.name.clone()));
    }

    /// Ends a running agent: politely, or at once when it is over a limit.
    pub(super) fn end(&mut self, then: Then, turn: &mut Turn) {
        let leader = match &self.life {
            Life::Running { process, since, health } => {
                if matches!(health, Health::Busy { .. }) {
                    turn.out.push(Action::KillCheck(self.record.name.clone()));
                }
                Some((*process, *since))
            }
            Life::Forking { starter, since, .. } => starter.map(|process| (process, *since)),
            Life::Starting => None,
            Life::Down | Life::Waiting { .. } | Life::Fatal | Life::Stopping(_) => return,
        };
        let was_starting = self.life == Life::Starting;
        let ran = leader.map_or(Duration::ZERO, |(_, since)| turn.now.since(since));
        self.stop(then, leader, ran, turn);
        let name = self.record.name.clone();
        let (definition, stopsecs) = (&self.definition, self.stopsecs());
        // What ran when a shutdown began is known by the record of that.
        if matches!(then, Then::Up | Then::Down) && !(turn.shutdown && leader.is_some()) {
            self.save(turn);
        }
        let Life::Stopping(stopping) = &mut self.life else { return };
        stopping.killed = then == Then::Policy(End::Limit);
        let sig = if stopping.killed { Sig::KILL } else { stopsignal(definition) };
        stopping.kill_at = Some(turn.now + stopsecs);
        if !was_starting {
            turn.out.push(Action::Signal(name, sig));
        }
        // A main process that is a child tells its end itself; one that was taken over may not.
        stopping.look_at = Some(turn.now + if stopping.killed { LOOK.0 } else { LOOK.1 });
    }

    /// Enters `Stopping`; without a leader the tree is looked at right away.
    pub(super) fn stop(&mut self, then: Then, leader: Option<(Process, Time)>, ran: Duration, turn: &mut Turn) {
        let starting = self.life == Life::Starting;
        self.life = Life::Stopping(Box::new(Stopping {
            then,
            leader,
            ran,
            kill_at: None,
            killed: false,
            starting,
            look_at: None,
            pause: LOOK.0,
        }));
        if leader.is_none() && !starting {
            self.look(turn);
        }
    }

    pub(super) fn look(&mut self, turn: &mut Turn) {
        if let Life::Stopping(stopping) = &mut self.life {
            stopping.look_at = Some(turn.now + LOOK.1);
            turn.out.push(self.counting());
        }
    }

    /// Has its processes counted.
    pub(super) fn counting(&self) -> Action {
        Action::Look { name: self.record.name.clone(), last: self.is_going_down() }
    }

    /// Nothing of it is left: what was the stop for?
    pub(super) fn conclude(&mut self, then: Then, ran: Duration, turn: &mut Turn) {
        self.life = Life::Down;
        let first = turn.out.len();
        self.go_on(then, ran, turn);
        // One that is started again at once goes on in its control group.
        if self.life != Life::Starting {
            turn.out.insert(first, Action::Release(self.record.name.clone()));
        }
    }

    fn go_on(&mut self, then: Then, ran: Duration, turn: &mut Turn) {
        match then {
            Then::Down => {
                self.killed = false;
                self.failures = 0;
                self.detail = "stopped".into();
                turn.log(Level::Info, &self.record.name, format_args!("stopped"));
            }
            Then::Up => return self.begin(turn),
            Then::Wait(NEVER) => {}
            Then::Wait(until) => self.life = Life::Waiting { until },
            Then::Fatal => self.life = Life::Fatal,
            Then::Policy(end) => {
                let Some(definition) = &self.definition else { return self.save(turn) };
                let policy = turn.policy.of(&definition.spec);
                match judge(policy, &definition.spec, self.failures, end, ran, turn.now) {
                    Verdict::Stay => (self.failures, self.rests) = (0, true),
                    Verdict::Restart { at, failures } => {
                        self.failures = failures;
                        if at <= turn.now {
                            return self.begin(turn);
                        }
                        self.life = Life::Waiting { until: at };
                        let (name, wait) = (self.name().clone(), at.since(turn.now));
                        let wait = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
                        let (count, retries) = (failures.max(1), policy.retries);
                        turn.log(Level::Info, &name, format_args!("restart {count} of {retries} in {wait} s"));
                    }
                    Verdict::GiveUp { failures } => {
                        self.failures = failures;
                        self.life = Life::Fatal;
                        turn.tell(
                            Level::Error,
                            &self.record.name,
                            format_args!("given up after {} in a row", count(failures.into(), "early end")),
                        );
                    }
                }
            }
        }
        // That it was being stopped is on record: the next daemon sees what came of that.
        if !turn.shutdown {
            self.save(turn);
        }
    }
}
