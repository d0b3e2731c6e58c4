//! Has agents read their own configuration again, as the `reload` of their definitions says, for clients and jobs.
//!
//! A signal is sent, and that is all. A program runs until its end or its timeout, and whoever asked waits for it; who asks
//! meanwhile waits for another run, as this one may have read the files before they changed.

use super::State;
use crate::kernel::{Exit, Level, Time};
use crate::model::agent::{AgentState, KILL_INTERVAL};
use crate::model::event::{answer, log, Action, Client, Scope};
use crate::model::job::JobId;
use crate::model::spec::{Name, Reload};

/// Who wants an agent to reload.
#[derive(Clone, Debug)]
pub(super) enum Asker {
    Client(Client),
    Job(JobId),
}

/// The program of an agent's `reload` that runs.
#[derive(Clone, Debug)]
pub(super) struct AgentReload {
    name: Name,
    /// When it is killed, or killed again.
    pub until: Time,
    /// It has taken too long, and was killed.
    late: bool,
    askers: Vec<Asker>,
    /// Those who asked after it was started.
    next: Vec<Asker>,
}

impl State {
    /// Why an agent cannot be asked to read its configuration again.
    pub(super) fn reload_objection(&self, name: &str) -> Option<&'static str> {
        let Some(agent) = self.agents.get(name) else { return Some("there is no such agent") };
        if agent.own_spec().is_none_or(|spec| spec.reload.is_none()) {
            return Some("its definition has no \"reload\"");
        }
        let runs = matches!(agent.state, AgentState::Running { ready_by: None, .. }) || agent.runs_headless();
        (!runs).then_some("it does not run")
    }

    /// Has an agent read its configuration again; how that ended, or `None`: that comes later.
    pub(super) fn begin_reload(&mut self, name: &Name, asker: Asker) -> Option<Result<(), Box<str>>> {
        if let Some(why) = self.reload_objection(name) {
            return Some(Err(why.into()));
        }
        let agent = self.agents.get(name)?;
        match agent.own_spec()?.reload.as_ref()? {
            Reload::Signal(_) if agent.runs_headless() => Some(Err("its main process is not known".into())),
            Reload::Signal(sig) => {
                log(&mut self.out, Level::Info, format_args!("agent \"{name}\": reload, sent {sig}"));
                self.out.push(Action::Signal(name.clone(), Scope::Main, *sig));
                Some(Ok(()))
            }
            Reload::Exec(program) => {
                let until = self.now.time + program.timeout;
                match self.reloads.iter_mut().find(|reload| reload.name == *name) {
                    Some(reload) => reload.next.push(asker),
                    None => {
                        let askers = vec![asker];
                        self.reloads.push(AgentReload {
                            name: name.clone(),
                            until,
                            late: false,
                            askers,
                            next: Vec::new(),
                        });
                        self.out.push(Action::Reload(name.clone()));
                    }
                }
                None
            }
        }
    }

    /// The program of a reload has ended; `tail`: the last lines of the agent's output.
    pub(super) fn reload_ended(&mut self, name: &str, exit: Exit, tail: &str) {
        let Some(index) = self.reloads.iter().position(|reload| *reload.name == *name) else { return };
        let AgentReload { name, late, askers, next, .. } = self.reloads.remove(index);
        let between = if tail.is_empty() { "" } else { ": " };
        let result = match exit {
            Exit::Code(0) => Ok(()),
            _ if late => Err(format!("not done in time{between}{tail}").into()),
            Exit::Unknown => Err(tail.into()),
            exit => Err(format!("its program {exit}{between}{tail}").into()),
        };
        match &result {
            Ok(()) => log(&mut self.out, Level::Info, format_args!("agent \"{name}\": reloaded")),
            Err(why) => log(&mut self.out, Level::Warn, format_args!("agent \"{name}\": does not reload: {why}")),
        }
        for asker in askers {
            self.tell_reloaded(asker, &name, &result);
        }
        for asker in next {
            if let Some(result) = self.begin_reload(&name, asker.clone()) {
                self.tell_reloaded(asker, &name, &result);
            }
        }
    }

    fn tell_reloaded(&mut self, asker: Asker, name: &str, result: &Result<(), Box<str>>) {
        match asker {
            Asker::Client(client) => answer_reload(client, name, result, &mut self.out),
            Asker::Job(id) => self.agent_reloaded(&id, result),
        }
    }

    /// Kills programs that take too long.
    pub(super) fn reloads_due(&mut self) {
        for reload in self.reloads.iter_mut().filter(|reload| reload.until <= self.now.time) {
            (reload.until, reload.late) = (self.now.time + KILL_INTERVAL, true);
            self.out.push(Action::KillReload(reload.name.clone()));
        }
    }

    /// The clients that wait for a reload of an agent.
    pub(super) fn reloading_agents(&self) -> impl Iterator<Item = (Client, &Name)> {
        self.reloads.iter().flat_map(|reload| {
            reload.askers.iter().chain(&reload.next).filter_map(|asker| match asker {
                Asker::Client(client) => Some((*client, &reload.name)),
                Asker::Job(_) => None,
            })
        })
    }

    /// This client waits no more.
    pub(super) fn forget_reloading(&mut self, client: Client) {
        let stays = |asker: &Asker| !matches!(asker, Asker::Client(waiting) if *waiting == client);
        for reload in &mut self.reloads {
            reload.askers.retain(stays);
            reload.next.retain(stays);
        }
    }
}

/// Answers a client that wanted an agent to reload.
pub(super) fn answer_reload(client: Client, name: &str, result: &Result<(), Box<str>>, out: &mut Vec<Action>) {
    match result {
        Ok(()) => answer(out, client, 0, format_args!("agent \"{name}\" has reloaded")),
        Err(why) => answer(out, client, 1, format_args!("agent \"{name}\" does not reload: {why}")),
    }
}
