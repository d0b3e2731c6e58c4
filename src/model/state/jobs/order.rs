//! Orders that need no package: start, stop, restart, config; and the start that an install or upgrade ends with.

use std::time::Duration;

use super::task::Doing;
use crate::model::agent::Agent;
use crate::model::event::{Action, Now, Reply};
use crate::model::job::{joined, Code, Order, Outcome};
use crate::model::record::{AgentRecord, Phase, Wanted};
use crate::model::state::State;

impl State {
    /// Changes the daemon's own settings.
    pub(super) fn configure(&mut self, index: usize, now: Now, out: &mut Vec<Action>) {
        let Some(Order::Config { servers, .. }) = self.tasks[index].order() else { return };
        match servers {
            Some(servers) if !servers.is_empty() => {
                self.pace.try_given(servers.clone());
                self.tasks[index].doing = Doing::Trial;
            }
            _ => self.apply_settings(index, now, out),
        }
    }

    /// A server list was on trial.
    pub(in super::super) fn tried(&mut self, good: bool, server: &str, reply: &Reply, now: Now, out: &mut Vec<Action>) {
        let Some(index) = self.tasks.iter().position(|task| matches!(task.doing, Doing::Trial)) else { return };
        if good {
            return self.apply_settings(index, now, out);
        }
        let why = match reply {
            Reply::Failed { reason, .. } => reason,
            _ => "its answer holds no integer errcode",
        };
        self.finish(
            index,
            Code::Download,
            format_args!("no server of the new list answers, the old list stays; the last one, {server}: {why}"),
            out,
        );
    }

    fn apply_settings(&mut self, index: usize, now: Now, out: &mut Vec<Action>) {
        let Some(Order::Config { servers, step }) = self.tasks[index].order() else { return };
        if let Some(servers) = servers {
            self.settings.svrlist = joined(&mut servers.iter().map(|server| &*server.base), ",").into();
            self.pace.set_given(servers.clone());
        }
        if let Some(step) = *step {
            self.settings.step = Some(step);
            self.pace.set_step(step, now.time);
        }
        out.push(Action::SaveSettings(self.settings.clone()));
        self.finish(index, Code::Success, format_args!("success"), out);
    }

    /// Changes the environment and limits of one agent.
    pub(super) fn overlay(&mut self, index: usize, out: &mut Vec<Action>) {
        let Some(job) = self.tasks[index].job.clone() else { return };
        let Some(agent) = self.agents.get(&job.name) else { return };
        let changed = job.envs.is_some() && job.envs != agent.record.envs
            || job.limits.is_some() && job.limits != agent.record.limits;
        if !changed {
            return self.finish(index, Code::Success, format_args!("success, nothing changed"), out);
        }
        self.tasks[index].record.before = Some(Box::new(agent.record.clone()));
        self.go(index, Phase::Starting, out);
    }

    /// The phase `Starting`: the agent is brought to run, or to its end.
    pub(super) fn start(&mut self, index: usize, now: Now, out: &mut Vec<Action>) {
        let task = &self.tasks[index];
        let (Some(job), name) = (task.job.clone(), task.record.name.clone()) else { return };
        // What an earlier daemon restarted for this job is not restarted again.
        let received = task.record.received;
        let done_before = task.resumed
            && self.agents.get(&name).and_then(Agent::running_since).is_some_and(|since| since >= received);
        if task.undoing() {
            return self.start_again(index, now, out);
        }
        match job.order {
            Order::Install(_) | Order::Upgrade(_) => self.stop_agent(index, now, out),
            Order::Stop | Order::Uninstall => {
                self.want(&name, Wanted::Down, now, out);
                self.stop_agent(index, now, out);
            }
            Order::Start => self.start_agent(index, now, out),
            Order::Restart if done_before => self.start_agent(index, now, out),
            Order::Restart => {
                self.want(&name, Wanted::Up, now, out);
                self.stop_agent(index, now, out);
            }
            Order::Config { .. } => {
                if let Some(agent) = self.agents.get_mut(&name) {
                    agent.record.envs = job.envs.clone().or(agent.record.envs.take());
                    agent.record.limits = job.limits.clone().or(agent.record.limits.take());
                    out.push(Action::SaveAgent(Box::new(agent.record.clone())));
                }
                match self.agents.get(&name).map(Agent::wanted) {
                    Some(Wanted::Up) => self.stop_agent(index, now, out),
                    _ => self.finish(index, Code::Success, format_args!("success, the agent is stopped"), out),
                }
            }
        }
    }

    /// Wants the agent up, and watches it.
    pub(super) fn start_agent(&mut self, index: usize, now: Now, out: &mut Vec<Action>) {
        let name = self.tasks[index].record.name.clone();
        self.want(&name, Wanted::Up, now, out);
        self.turn(&name, now, out, &mut |agent, turn| agent.order_up(turn));
        self.watch_start(index, out);
    }

    fn watch_start(&mut self, index: usize, out: &mut Vec<Action>) {
        let lasting = self.lasting(index);
        let goal = self.goal_up(&self.tasks[index].record.name, lasting, self.needs_health(index));
        self.tasks[index].goal = Some(goal);
        self.go(index, Phase::Settling, out);
    }

    fn lasting(&self, index: usize) -> Duration {
        let task = &self.tasks[index];
        let own = task.job.as_ref().and_then(|job| job.startsecs);
        own.unwrap_or_else(|| self.startsecs(&task.record.name))
    }

    /// Whether the agent must be healthy, too: where there is something to go back to.
    fn needs_health(&self, index: usize) -> bool {
        let task = &self.tasks[index];
        !task.undoing() && task.record.before.is_some()
    }

    /// The phase `Settling`: after an interruption the start that runs now is the one to watch. What ended while nobody
    /// was watching may have ended with the daemon, and says nothing about the agent: it is started again.
    pub(super) fn settle(&mut self, index: usize, now: Now, out: &mut Vec<Action>) {
        let name = self.job_name(index);
        let task = &self.tasks[index];
        let wanted = self.agents.get(&name).is_some_and(|agent| agent.wanted() == Wanted::Up);
        if task.resumed && task.goal.is_none() && wanted {
            self.turn(&name, now, out, &mut |agent, turn| agent.order_up(turn));
        }
        let lasting = self.lasting(index);
        let goal = self.goal_up(&self.tasks[index].record.name, lasting, self.needs_health(index));
        let task = &mut self.tasks[index];
        task.goal.get_or_insert(goal);
        task.doing = Doing::Settling;
    }

    pub(super) fn settled(&mut self, index: usize, now: Now, out: &mut Vec<Action>) {
        let task = &self.tasks[index];
        if task.undoing() {
            return self.undone(index, out);
        }
        match task.order() {
            Some(Order::Install(_) | Order::Upgrade(_)) => self.retire(index, now, out),
            _ => self.finish(index, Code::Success, format_args!("success"), out),
        }
    }

    pub(super) fn not_settled(&mut self, index: usize, why: &str, now: Now, out: &mut Vec<Action>) {
        let task = &mut self.tasks[index];
        if let (true, Some(outcome)) = (task.undoing(), task.record.outcome.clone()) {
            let text = format!("{}; what was there before does not stay up either: {why}", outcome.message);
            task.record.outcome = Some(Outcome::new(outcome.code, &text));
            return self.undone(index, out);
        }
        match task.order() {
            Some(Order::Install(_) | Order::Upgrade(_) | Order::Config { .. }) => {
                self.undo(index, Code::Start, format_args!("the agent does not stay up: {why}"), now, out);
            }
            _ => self.finish(index, Code::Start, format_args!("the agent does not stay up: {why}"), out),
        }
    }

    /// Brings the agent down; `agent_stopped` goes on.
    pub(super) fn stop_agent(&mut self, index: usize, now: Now, out: &mut Vec<Action>) {
        let name = self.tasks[index].record.name.clone();
        self.turn(&name, now, out, &mut |agent, turn| agent.order_down(turn));
        self.tasks[index].doing = Doing::StoppingAgent;
    }

    pub(super) fn agent_stopped(&mut self, index: usize, now: Now, out: &mut Vec<Action>) {
        let task = &self.tasks[index];
        if task.undoing() {
            return self.undo_package(index, now, out);
        }
        match task.order() {
            Some(Order::Uninstall) => self.go(index, Phase::Installing, out),
            Some(Order::Install(_) | Order::Upgrade(_)) => self.switch_package(index, now, out),
            // Not both in one phase: whose end it was must be known after an interruption.
            Some(Order::Restart | Order::Config { .. }) => self.start_agent(index, now, out),
            _ => self.finish(index, Code::Success, format_args!("success"), out),
        }
    }

    /// Forgets an agent; one that somebody has started meanwhile is ended first.
    pub(in super::super) fn forget(&mut self, name: &str, now: Now, out: &mut Vec<Action>) {
        if let Some(agent) = self.agents.get_mut(name) {
            agent.record = AgentRecord { name: name.into(), wanted: Some(Wanted::Down), ..AgentRecord::default() };
            agent.define(None);
            self.leave(name, now, out);
            self.follow_leaving(out);
        }
    }
}
