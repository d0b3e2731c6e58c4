//! What moves agents from outside: commands of clients on the host, changed definitions, measurements.
//!
//! An order is recorded before it is carried out. A client is answered when its agent has reached what the client
//! wants, or never will. What an agent does in its own states is in `model::agent`.

use std::time::Duration;

use super::jobs::OpenJob;
use super::recovered::best;
use super::reload::{answer_reload, Asker};
use super::{take_out, Goal, Progress, Rereading, State, Waiter, ENDING};
use crate::kernel::{Level, Time};
use crate::model::agent::{Agent, AgentState};
use crate::model::command::{Answer, Command};
use crate::model::event::{answer, log, Action, Client, Definition, Origin, Usage};
use crate::model::record::{Phase, Wanted};
use crate::model::report::Report;
use crate::model::spec::{Labels, Name};
use crate::text::suggestion;

/// The longest time between two looks at polled limits.
const POLL: Duration = Duration::from_secs(10);

/// How many agents are named to a client that names another one.
const NAMED_MAX: usize = 20;

impl State {
    /// Carries out a command of a client on the host.
    pub(super) fn command(&mut self, client: Client, command: Command) {
        match command {
            Command::Start(_)
            | Command::Stop(_)
            | Command::Restart(_)
            | Command::Report
            | Command::Reexec
            | Command::Reread
            | Command::Reload(_)
                if self.shutdown.is_some() =>
            {
                answer(&mut self.out, client, 1, format_args!("{ENDING}"));
            }
            Command::Status(name) => {
                if let Some(name) = name.as_ref().filter(|name| !self.agents.contains_key(*name)) {
                    return self.answer_unknown(client, name);
                }
                self.measuring.clients.push((client, name));
                self.measure();
            }
            Command::Start(name) | Command::Restart(name) | Command::Stop(name) | Command::Reload(name)
                if !self.agents.contains_key(&name) =>
            {
                self.answer_unknown(client, &name);
            }
            Command::Start(name) | Command::Restart(name) if self.leaving.contains(&name) => {
                let text = "has no definition any more, and is being stopped";
                answer(&mut self.out, client, 1, format_args!("agent \"{name}\" {text}"));
            }
            Command::Start(name) => {
                self.want(&name, Wanted::Up);
                self.step_agent(&name, &mut |agent, context| agent.request_start(context));
                self.wait_up(client, name);
            }
            Command::Restart(name) => {
                self.want(&name, Wanted::Up);
                self.step_agent(&name, &mut |agent, context| agent.request_restart(context));
                self.wait_for_next_start(&name);
                self.wait_up(client, name);
            }
            Command::Stop(name) => {
                self.want(&name, Wanted::Down);
                self.step_agent(&name, &mut |agent, context| agent.request_stop(context));
                self.waiters.push(Waiter { client, name, goal: Goal::Down });
            }
            Command::Report if !self.exchanges.schedule.has_servers() => {
                let text = "there is no server to report to: set svrlist in the configuration";
                let text = self.options.closed.as_deref().unwrap_or(text);
                answer(&mut self.out, client, 1, format_args!("{text}"));
            }
            Command::Report => {
                self.exchanges.reporting.push(client);
                self.exchanges.schedule.request_report();
            }
            Command::Jobs => {
                let entries = self.entries();
                self.out.push(Action::AnswerJobs(client, entries));
            }
            Command::Reread => {
                self.rereading.clients.push(client);
                self.out.push(Action::Reread);
            }
            Command::Reload(name) => {
                if let Some(result) = self.begin_reload(&name, Asker::Client(client)) {
                    answer_reload(client, &name, &result, &mut self.out);
                }
            }
            Command::Reexec => self.request_reexec(Some(client)),
        }
    }

    fn answer_unknown(&mut self, client: Client, name: &str) {
        let names: Vec<&str> = self.agents.keys().map(|known| &**known).collect();
        let hint = match (suggestion(name, &names), names.len()) {
            (Some(meant), _) => meant,
            (None, 0) => "there are none".to_string(),
            (None, 1..=NAMED_MAX) => format!("known: {}", names.join(", ")),
            _ => "\"bootagent status\" names those that there are".to_string(),
        };
        answer(&mut self.out, client, 1, format_args!("no agent \"{name}\"; {hint}"));
    }

    /// A client has closed its connection, and waits for nothing any more.
    pub(super) fn client_gone(&mut self, client: Client) {
        self.waiters.retain(|waiter| waiter.client != client);
        self.exchanges.reporting.retain(|waiting| *waiting != client);
        self.measuring.clients.retain(|(waiting, _)| *waiting != client);
        self.reexec.client_gone(client);
        self.rereading.clients.retain(|waiting| *waiting != client);
        self.forget_reloading(client);
    }

    /// Records whether an agent should run, before anything is done about it.
    pub(super) fn want(&mut self, name: &str, wanted: Wanted) {
        let Some(agent) = self.agents.get_mut(name) else {
            return log(
                &mut self.out,
                Level::Warn,
                format_args!("agent \"{name}\": it is ordered, and there is none, ignored"),
            );
        };
        if agent.record.wanted != Some(wanted) {
            agent.record.wanted = Some(wanted);
            self.out.push(Action::SaveAgent(Box::new(agent.record.clone())));
        }
    }

    /// Lets a client wait until the agent that it ordered up has run for long enough.
    fn wait_up(&mut self, client: Client, name: Name) {
        let lasting = self.startsecs(&name);
        let goal = self.goal_up(&name, lasting, false);
        self.waiters.push(Waiter { client, name, goal });
    }

    /// How long a start of the agent must last to count as one.
    pub(super) fn startsecs(&self, name: &str) -> Duration {
        self.agents.get(name).map_or(Duration::ZERO, Agent::startsecs)
    }

    /// The number of the start of an agent that runs, or else is to come.
    fn next_start(&self, name: &str) -> u32 {
        self.agents.get(name).map_or(0, |agent| agent.generation + u32::from(!agent.is_up()))
    }

    /// The goal of an agent that was just ordered up.
    pub(super) fn goal_up(&self, name: &str, lasting: Duration, healthy: bool) -> Goal {
        Goal::Up { generation: self.next_start(name), lasting, healthy }
    }

    /// Lets all who wait for an earlier start of the agent wait for the one that was ordered now.
    fn wait_for_next_start(&mut self, name: &str) {
        let next = self.next_start(name);
        let waiters = self.waiters.iter_mut().filter(|waiter| *waiter.name == *name).map(|waiter| &mut waiter.goal);
        let jobs = self.jobs.open.iter_mut().filter(|job| *job.record.name == *name);
        for goal in waiters.chain(jobs.filter_map(|job| job.goal.as_mut())) {
            if let Goal::Up { generation, .. } = goal {
                *generation = next;
            }
        }
    }

    /// How far an agent is on the way to a goal.
    pub(super) fn progress(&self, name: &str, goal: Goal, now: Time) -> Progress {
        let Some(agent) = self.agents.get(name) else {
            return match goal {
                Goal::Down => Progress::Reached,
                Goal::Up { .. } => Progress::Missed("it was removed meanwhile".to_string()),
            };
        };
        match goal {
            Goal::Down if agent.is_down() => Progress::Reached,
            Goal::Down if agent.is_stuck().is_some() => Progress::Missed(agent.last_end().to_string()),
            Goal::Down if agent.wanted() == Wanted::Up => {
                Progress::Missed("it was started again meanwhile".to_string())
            }
            Goal::Down => Progress::Wait(None),
            Goal::Up { generation, lasting, healthy } => match &agent.state {
                AgentState::Running { ready_by: Some(_), .. } if agent.generation == generation => Progress::Wait(None),
                AgentState::Running { since, .. } if agent.generation == generation => {
                    if healthy && !agent.is_healthy() {
                        // No deadline: its check passes once, or fails too often and ends the agent.
                        Progress::Wait(None)
                    } else if now.since(*since) < lasting {
                        Progress::Wait(Some(*since + lasting))
                    } else {
                        Progress::Reached
                    }
                }
                AgentState::Forking { .. } if agent.generation == generation && agent.runs_headless() => {
                    Progress::Reached
                }
                AgentState::Starting | AgentState::Prestart { .. } | AgentState::Forking { .. }
                    if agent.generation == generation =>
                {
                    Progress::Wait(None)
                }
                AgentState::Stopping(_)
                    if agent.generation < generation && agent.wanted() == Wanted::Up && agent.is_stuck().is_none() =>
                {
                    Progress::Wait(None)
                }
                AgentState::Down | AgentState::Stopping(_) if agent.wanted() == Wanted::Down => {
                    Progress::Missed("it was stopped meanwhile".to_string())
                }
                _ => Progress::Missed(agent.last_end().to_string()),
            },
        }
    }

    /// When to look at an agent's progress again, unless an event comes before.
    pub(super) fn wait_until(&self, name: &str, goal: Goal) -> Option<Time> {
        match self.progress(name, goal, Time::default()) {
            Progress::Wait(at) => at,
            Progress::Reached | Progress::Missed(_) => None,
        }
    }

    /// Answers clients whose agent has reached what they wait for, or never will.
    pub(super) fn follow_waiters(&mut self) {
        let mut waiters = std::mem::take(&mut self.waiters);
        waiters.retain(|waiter| {
            let name = &waiter.name;
            let has_run = |generation| self.agents.get(name).and_then(|agent| agent.has_run(generation));
            let (code, message) = match (self.progress(name, waiter.goal, self.now.time), waiter.goal) {
                (Progress::Wait(_), _) => return true,
                (Progress::Missed(_), Goal::Up { generation, .. }) if has_run(generation) == Some(false) => {
                    return true
                }
                (Progress::Missed(how), Goal::Up { generation, .. }) if has_run(generation) == Some(true) => {
                    (0, format!("agent \"{name}\" has run: {how}"))
                }
                (Progress::Reached, Goal::Up { .. }) => (0, format!("agent \"{name}\" is running")),
                (Progress::Reached, Goal::Down) => (0, format!("agent \"{name}\" is stopped")),
                (Progress::Missed(why), Goal::Up { .. }) => (1, format!("agent \"{name}\" does not run: {why}")),
                (Progress::Missed(why), Goal::Down) => (1, format!("agent \"{name}\" is not stopped: {why}")),
            };
            let answer = Answer { code, message: message.into(), body: "".into() };
            self.out.push(Action::AnswerSettled(waiter.client, name.clone(), answer));
            false
        });
        self.waiters = waiters;
    }

    /// Takes definitions that were read again: new agents start, changed ones restart, those without a definition stop.
    pub(super) fn redefine(&mut self, good: Vec<Definition>, problems: &[Box<str>]) {
        for problem in problems {
            self.log_and_report(Level::Error, "bootagent".into(), problem);
            self.rereading.tell(problem);
            self.rereading.failed = true;
        }
        let mut names: Vec<Name> = self.agents.keys().cloned().collect();
        for definition in best(good) {
            let name = definition.spec.name.clone();
            take_out(&mut names, &name);
            self.define(definition);
        }
        for name in names {
            self.forget_undefined(&name);
        }
    }

    /// Answers the clients that asked for all to be read again.
    pub(super) fn reread(&mut self, problems: &[Box<str>], notes: &[Box<str>]) {
        let Rereading { clients, mut lines, failed } = std::mem::take(&mut self.rereading);
        lines.extend(problems.iter().chain(notes).map(|line| line.to_string()));
        if lines.is_empty() {
            lines.push("nothing has changed".to_string());
        }
        let code = u8::from(failed || !problems.is_empty());
        for client in clients {
            answer(&mut self.out, client, code, format_args!("{}", lines.join("\n")));
        }
    }

    /// Gives an agent a definition. One that is unchanged has no effect.
    fn define(&mut self, definition: Definition) {
        let name = definition.spec.name.clone();
        take_out(&mut self.leaving, &name);
        let Some(agent) = self.agents.get_mut(&name) else {
            self.agent(&name, false).definition = Some(definition);
            self.tell_change(&name, "new");
            self.step_agent(&name, &mut |agent, context| {
                if agent.wanted() == Wanted::Up {
                    agent.request_start(context);
                }
            });
            return;
        };
        let before = agent.definition.replace(definition);
        let (before, after) = (before.map(|before| before.spec), agent.definition.as_ref().map(|after| &after.spec));
        if before.as_ref() == after {
            return;
        }
        if before.as_ref().zip(after).is_some_and(|(before, after)| before.is_run_as(after)) {
            self.tell_change(&name, "the definition changed in what needs no restart");
            return self.step_agent(&name, &mut |agent, context| agent.check_changed(context));
        }
        self.tell_change(&name, "the definition changed");
        self.refresh(&name);
    }

    /// Logs how a definition has changed, and tells it whoever asked for that.
    fn tell_change(&mut self, name: &str, change: &str) {
        let line = format!("agent \"{name}\": {change}");
        self.rereading.tell(&line);
        self.out.push(Action::Log(Level::Info, line));
    }

    /// Restarts an agent that an earlier daemon started by another definition. While a job changes the agent's package,
    /// this waits for the end of the job.
    pub(super) fn restart_outdated(&mut self, name: &str) {
        let replacing = |job: &OpenJob| {
            let record = &job.record;
            let begun = matches!(record.phase, Phase::Installing | Phase::Starting | Phase::Settling);
            *record.name == *name && begun && matches!(&*record.action, "install" | "upgrade" | "uninstall")
        };
        if self.agents.get(name).is_some_and(Agent::is_outdated) && !self.jobs.open.iter().any(replacing) {
            let text = "the definition changed while no daemon was watching";
            log(&mut self.out, Level::Info, format_args!("agent \"{name}\": {text}"));
            self.refresh(name);
        }
    }

    /// Has an agent run with its new definition, environment or limits.
    pub(super) fn refresh(&mut self, name: &str) {
        self.step_agent(name, &mut |agent, context| match agent.wanted() {
            // It has ended normally, and only an order starts it.
            Wanted::Up if agent.state == AgentState::Down && !agent.is_fresh() => {}
            Wanted::Up => agent.request_restart(context),
            Wanted::Down => agent.request_stop(context),
        });
        self.wait_for_next_start(name);
    }

    /// Stops an agent that has no definition any more, to be forgotten then.
    pub(super) fn leave(&mut self, name: &str) {
        if !self.leaving.iter().any(|leaving| **leaving == *name) {
            self.tell_change(name, "no definition any more, stopped and then forgotten");
            self.leaving.push(name.into());
            self.step_agent(name, &mut |agent, context| agent.request_stop(context));
        }
    }

    /// Lets an agent go for which no source has a definition. It stays while a record or a job says that it is to have
    /// one: then the definition cannot be read at present, or the job is about to bring it.
    pub(super) fn forget_undefined(&mut self, name: &str) {
        if self.unread.definitions || self.is_unread(name) {
            return;
        }
        let Some(agent) = self.agents.get_mut(name) else {
            return log(
                &mut self.out,
                Level::Warn,
                format_args!("agent \"{name}\": it has no definition, and there is none, ignored"),
            );
        };
        let recorded = agent.record.definition.is_some() || agent.record.package.is_some();
        let expected = self.jobs.open.iter().any(|job| *job.record.name == *name && !job.has_ended());
        self.jobs.reread_on_release |= expected;
        match (recorded || expected, agent.origin()) {
            (true, Some(Origin::File)) if !expected => {
                self.step_agent(name, &mut |agent, context| agent.request_stop(context));
                if let Some(agent) = self.agents.get_mut(name) {
                    agent.definition = None;
                }
            }
            (true, _) => {}
            (false, _) => self.leave(name),
        }
    }

    /// Forgets agents without a definition of which nothing is left.
    pub(super) fn follow_leaving(&mut self) {
        let (agents, boot_id) = (&mut self.agents, &self.options.boot_id);
        self.leaving.retain(|name| {
            let down = agents.get(name).is_none_or(Agent::is_down);
            if down {
                let agent = agents.remove(name);
                self.out.push(Action::RemoveAgent(name.clone()));
                // The next daemon is to spare what it has left, too.
                if let Some(agent) = agent.filter(Agent::spares) {
                    self.out.push(Action::Release(name.clone()));
                    self.out.push(Action::SaveRun(Box::new(agent.run_record(boot_id))));
                }
            }
            !down
        });
    }

    /// Asks for a measurement, unless one is under way.
    pub(super) fn measure(&mut self) {
        if !self.measuring.asked {
            self.measuring.asked = true;
            self.out.push(Action::Measure);
        }
    }

    /// Sets the time of the next look at polled limits, if there are any.
    pub(super) fn poll_soon(&mut self) {
        if self.poll_at.is_none() && self.agents.values().any(Agent::polled) {
            self.poll_at = Some(self.now.time + self.options.checksecs.min(POLL));
        }
    }

    /// Gives a measurement to all who asked for it.
    pub(super) fn measured(&mut self, usages: Vec<Usage>) {
        let measuring = std::mem::take(&mut self.measuring);
        for usage in usages {
            self.step_agent(&usage.name.clone(), &mut |agent, context| {
                agent.measured(&usage, measuring.check, context)
            });
        }
        if !measuring.clients.is_empty() {
            self.out.push(Action::LookAtPackages);
        }
        for (client, name) in measuring.clients {
            let report = self.report(name.as_deref());
            self.out.push(Action::AnswerReport(client, Box::new(report)));
        }
        if let Some(server) = measuring.report.filter(|_| self.shutdown.is_none()) {
            self.send_status(server);
        }
    }

    /// A report as it would be sent now, of all agents or of one. The daemon adds what only the host knows.
    pub(super) fn report(&self, name: Option<&str>) -> Report {
        let (mut agents, mut troubles) = (Vec::new(), Vec::new());
        for agent in self.agents.values() {
            if name.is_none_or(|name| *name == **agent.name()) {
                agents.push(agent.report(self.now.time, self.options.policy));
                troubles.extend(self.package_trouble(agent).map(Box::from));
            }
        }
        let open = self.jobs.open.iter().filter(|job| job.recorded && !job.has_ended());
        Report {
            hostname: self.options.hostname.clone(),
            version: self.options.version.clone(),
            uptime: self.now.time.since(self.began),
            timestamp: self.now.wall,
            step: self.exchanges.schedule.step(),
            agents,
            sn: self.identity.sn.clone(),
            boot_id: self.options.boot_id.clone(),
            events: self.incidents.list().to_vec(),
            os: "".into(),
            labels: Labels::new(),
            open: open.map(|job| job.record.id.clone()).collect(),
            silence: self.exchanges.schedule.silence(self.now.time),
            troubles,
            seq: None,
        }
    }
}
