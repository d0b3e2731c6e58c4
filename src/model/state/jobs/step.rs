//! What each step of a job begins, and what the host's answers to it mean.
//!
//! `model::plan` says what the steps are for and in which order they come. Here are those for any agent and for
//! settings; those of packages are in `package`, those of the daemon itself in `own`.

use std::time::Duration;

use super::open_job::Activity;
use super::package::cannot_install;
use super::run::{Run, StepResult};
use super::CANCELLED;
use crate::error::Error;
use crate::kernel::Level;
use crate::model::agent::Agent;
use crate::model::event::{log, Action, Event, Reply};
use crate::model::job::{Code, JobAction};
use crate::model::plan::Step;
use crate::model::record::Wanted;
use crate::model::state::exchange::NO_ERRCODE;
use crate::model::state::reload::Asker;
use crate::model::state::{Progress, State};

impl State {
    /// The host answers what a job asked.
    pub(in super::super) fn host_answered(&mut self, id: &str, answer: Event) {
        let mut answer = Some(answer);
        self.answered(id, &mut |run| answer.take().map_or(StepResult::Wait, |answer| run.answer(answer)));
    }

    /// The agent of a job has read its configuration again, or has not.
    pub(in super::super) fn agent_reloaded(&mut self, id: &str, result: &Result<(), Box<str>>) {
        self.answered(id, &mut |run| run.reloaded(result));
    }

    fn answered(&mut self, id: &str, take: &mut dyn FnMut(&mut Run) -> StepResult) {
        // A job that has ended asks for nothing any more; what it asked before that may be answered late.
        if let Some(index) = self.jobs.index(id).filter(|index| !self.jobs.open[*index].has_ended()) {
            self.run(index, take);
        }
    }

    /// The trial of a server list has ended; `server` is the one asked last.
    pub(in super::super) fn server_list_tried(&mut self, good: bool, server: &str, reply: &Reply) {
        let Some(index) = self.jobs.open.iter().position(|job| job.is_at(Step::TryServers)) else {
            return log(
                &mut self.out,
                Level::Warn,
                format_args!("server {server}: it was on trial for no job, ignored"),
            );
        };
        let why = match reply {
            Reply::Failed { reason, .. } => reason,
            _ => NO_ERRCODE,
        };
        let text = "no server of the new list answers, the old list stays; the last one";
        self.run(index, &mut |_| match good {
            true => StepResult::Done,
            false => StepResult::Failed(Code::Download, format!("{text}, {server}: {why}")),
        });
    }
}

impl Run<'_> {
    /// Begins the step that the job stands at. No harm is done when an earlier daemon did a part of it.
    pub fn begin(&mut self) -> StepResult {
        let Some(step) = self.job.record.step else { return self.misfit() };
        self.job.activity = Activity::Step;
        if self.job.cancelled && self.job.can_be_cancelled() {
            return StepResult::Failed(Code::Expired, CANCELLED.to_string());
        }
        if let Some(why) = self.unsigned() {
            return self.refuse(step, &why);
        }
        match step {
            Step::Download => self.wait_for(Activity::WaitingForSlot),
            Step::Place => self.place(),
            Step::Verify => self.verify(),
            Step::Unpack | Step::Install if self.is_unverified() => self.verify(),
            Step::Identify => self.identify(),
            Step::Look => self.look(),
            Step::Query => self.query(),
            Step::AskInstalled => self.ask_installed(),
            Step::Unpack => self.unpack(),
            Step::Inspect => self.inspect(),
            Step::Name => self.give_name(),
            Step::Install => self.install(),
            Step::Adopt => self.adopt(),
            Step::WantUp => self.want(Wanted::Up),
            Step::WantDown => self.want(Wanted::Down),
            Step::Overlay => self.overlay(),
            Step::Stop => self.stop(),
            Step::Clear => self.clear(),
            Step::Link => self.link(),
            Step::Start => self.start(),
            Step::Resume => self.start_if_wanted(),
            Step::Reload => self.reload(),
            Step::Settle => self.settle(),
            Step::Retire => self.retire(),
            Step::Keep => self.keep(),
            Step::Remove => self.remove(),
            Step::Forget => self.forget(),
            Step::Reinstall => self.reinstall(),
            Step::Relink => self.relink(),
            Step::Discard => self.discard(),
            Step::Restore => self.restore(),
            Step::TryServers => self.try_servers(),
            Step::ApplySettings => self.apply_settings(),
            Step::TryNew => self.wait_for(Activity::Reexec),
            Step::TryInstalled => self.try_installed(),
            Step::Reexec => self.reexec(),
            Step::Prove => self.prove(),
            Step::Replace => self.replace(),
            Step::Remember => self.remember(),
            Step::GoBack => self.go_back(),
        }
    }

    /// What the host's answer means for the step that the job stands at.
    pub fn answer(&mut self, answer: Event) -> StepResult {
        let waits = matches!(self.job.activity, Activity::Step | Activity::Fetching | Activity::Tools(_));
        let Some(step) = self.job.record.step.filter(|_| waits) else { return self.ignore(answer_name(&answer)) };
        match (step, answer) {
            (Step::Download, Event::Fetched(_, fetched)) => self.fetched(fetched),
            (Step::Place, Event::Placed(_, Err(why))) => {
                StepResult::Failed(Code::Install, format!("cannot keep the package: {why}"))
            }
            (Step::Verify | Step::Unpack | Step::Install, Event::Verified(_, verified)) => self.verified(verified),
            (Step::Inspect, Event::Inspected(_, own)) => self.choose(own),
            (Step::Link, Event::Placed(_, Err(why))) => self.not_linked(&why),
            (Step::Relink, Event::Placed(_, Err(why))) => self.cannot_go_back(None, &why),
            (Step::Restore, Event::Inspected(_, own)) => self.restore_with(own.ok().flatten()),
            (Step::Replace, Event::Placed(_, result)) => self.replaced(result),
            (Step::Unpack, Event::Unpacked(_, Err(why))) | (Step::Name, Event::Placed(_, Err(why))) => {
                cannot_install(&why)
            }
            (Step::Place | Step::Name | Step::Link | Step::Relink, Event::Placed(_, Ok(())))
            | (Step::Unpack, Event::Unpacked(_, Ok(()))) => StepResult::Done,
            (_, answer) => self.ignore(answer_name(&answer)),
        }
    }

    /// What the last of the package tools that the step runs has said.
    pub fn tools_answer(&mut self, output: Result<&str, Error>) -> StepResult {
        match self.job.record.step {
            Some(Step::Identify) => self.identified(output),
            Some(Step::Look) => self.looked(output),
            Some(Step::Query) => self.queried(output),
            Some(Step::AskInstalled) => self.note_installed(output),
            Some(Step::Install) => self.installed(output),
            Some(Step::Clear) => self.cleared(output),
            Some(Step::Retire) => self.retired(output),
            Some(Step::Remove) => self.removed(output),
            Some(Step::Reinstall) => self.reinstalled(output),
            _ => self.ignore("the end of a package tool"),
        }
    }

    fn reloaded(&mut self, result: &Result<(), Box<str>>) -> StepResult {
        match result {
            _ if !self.job.is_at(Step::Reload) => self.ignore("the end of a reload"),
            Ok(()) => StepResult::Done,
            Err(why) => StepResult::Failed(Code::Start, format!("the agent does not reload: {why}")),
        }
    }

    /// Logs something that cannot come at the step, and changes nothing.
    pub fn ignore(&mut self, what: &str) -> StepResult {
        let step = self.job.record.step.map_or("none", Step::name);
        self.log(Level::Warn, format_args!("{what} at the step \"{step}\", ignored"));
        StepResult::Wait
    }

    /// The record of the job does not hold what its step needs.
    pub fn misfit(&self) -> StepResult {
        let step = self.job.record.step.map_or("none", Step::name);
        StepResult::Failed(Code::BadJob, format!("its record does not fit the step \"{step}\""))
    }

    /// Lets the job wait for something.
    pub fn wait_for(&mut self, activity: Activity) -> StepResult {
        self.job.activity = activity;
        StepResult::Wait
    }

    /// The job's agent.
    pub fn agent(&self) -> Option<&Agent> {
        self.state.agents.get(self.job.name())
    }

    /// Whether the agent is known and should run.
    pub fn is_wanted(&self) -> bool {
        self.agent().is_some_and(|agent| agent.wanted() == Wanted::Up)
    }

    fn want(&mut self, wanted: Wanted) -> StepResult {
        self.state.want(self.job.name(), wanted);
        StepResult::Done
    }

    /// Has the agent started.
    pub fn order_up(&mut self) {
        self.state.step_agent(self.job.name(), &mut |agent, context| agent.request_start(context));
    }

    /// Has the agent stopped, with all that its runs have left if it is being removed.
    pub fn order_down(&mut self) {
        let all = matches!(self.job.action(), Some(JobAction::Uninstall));
        self.state.step_agent(self.job.name(), &mut |agent, context| match all {
            true => agent.request_end(context),
            false => agent.request_stop(context),
        });
    }

    /// Changes the environment and limits of the agent.
    fn overlay(&mut self) -> StepResult {
        let Some(job) = self.job.content.clone() else { return self.misfit() };
        if let Some(agent) = self.state.agents.get_mut(&job.name) {
            agent.record.envs = job.envs.clone().or(agent.record.envs.take());
            agent.record.limits = job.limits.clone().or(agent.record.limits.take());
            self.state.out.push(Action::SaveAgent(Box::new(agent.record.clone())));
        }
        match self.is_wanted() {
            true => StepResult::Done,
            false => StepResult::End(Code::Success, "success, the agent is stopped".to_string()),
        }
    }

    /// Stops the agent.
    fn stop(&mut self) -> StepResult {
        // An agent that an earlier daemon restarted for this job is not restarted again.
        let received = self.job.record.received;
        let since = self.agent().and_then(Agent::running_since).filter(|since| *since >= received);
        if self.job.resumed && since.is_some() && matches!(self.job.action(), Some(JobAction::Restart)) {
            return StepResult::GoTo(Step::Start);
        }
        self.order_down();
        StepResult::Wait
    }

    /// Looks whether the agent is down. The operator may have started it meanwhile.
    pub fn follow_stop(&mut self) -> StepResult {
        let Some(agent) = self.agent().filter(|agent| !agent.is_down()) else { return StepResult::Done };
        if agent.is_stuck().is_some() {
            return StepResult::Failed(Code::Start, format!("the agent {}", agent.last_end()));
        }
        if agent.is_going_down() {
            return StepResult::Wait;
        }
        if agent.wanted() == Wanted::Up && matches!(self.job.action(), Some(JobAction::Stop)) {
            return StepResult::End(Code::Expired, "cancelled: the agent was started meanwhile".to_string());
        }
        self.order_down();
        StepResult::Wait
    }

    /// Starts the agent, and records that it should run.
    fn start(&mut self) -> StepResult {
        self.state.want(self.job.name(), Wanted::Up);
        self.order_up();
        self.job.goal = None;
        self.watch_start();
        StepResult::Done
    }

    fn start_if_wanted(&mut self) -> StepResult {
        if self.is_wanted() {
            return self.start();
        }
        self.order_down();
        StepResult::DoneUpTo(Step::Settle)
    }

    /// Has the agent read its configuration again.
    fn reload(&mut self) -> StepResult {
        let (name, asker) = (self.name(), Asker::Job(self.id()));
        if let Some(why) = self.state.reload_objection(&name) {
            return StepResult::Failed(Code::BadJob, format!("the agent does not reload: {why}"));
        }
        match self.state.begin_reload(&name, asker) {
            Some(result) => self.reloaded(&result),
            None => StepResult::Wait,
        }
    }

    /// Sets the start that is to be watched, unless it is known.
    fn watch_start(&mut self) {
        let name = self.job.name();
        let own = self.job.content.as_ref().and_then(|job| job.startsecs);
        let lasting: Duration = own.unwrap_or_else(|| self.state.startsecs(name));
        // It must be healthy, too, where there is a state to restore.
        let healthy = !self.job.goes_back() && self.job.record.before.is_some();
        let goal = self.state.goal_up(name, lasting, healthy);
        self.job.goal.get_or_insert(goal);
    }

    /// Watches the start; in a resumed job that of the process that runs now. An agent that ended while no daemon was
    /// watching may have ended with the daemon, which says nothing about the agent: it is started again.
    fn settle(&mut self) -> StepResult {
        if self.job.resumed && self.job.goal.is_none() && self.is_wanted() {
            self.order_up();
        }
        self.watch_start();
        StepResult::Wait
    }

    /// Looks whether the agent has stayed up for long enough.
    pub fn follow_settling(&mut self) -> StepResult {
        let Some(goal) = self.job.goal else { return self.misfit() };
        match self.state.progress(self.job.name(), goal, self.state.now.time) {
            Progress::Wait(_) => StepResult::Wait,
            Progress::Reached => StepResult::Done,
            Progress::Missed(why) if self.job.goes_back() => {
                StepResult::Failed(Code::Start, format!("what was there before does not stay up either: {why}"))
            }
            Progress::Missed(why) => StepResult::Failed(Code::Start, format!("the agent does not stay up: {why}")),
        }
    }

    fn try_servers(&mut self) -> StepResult {
        match self.job.action() {
            Some(JobAction::Config { servers: Some(servers), .. }) if !servers.is_empty() => {
                self.state.exchanges.schedule.try_servers(servers.clone());
                StepResult::Wait
            }
            _ => StepResult::Done,
        }
    }

    fn apply_settings(&mut self) -> StepResult {
        let Some(JobAction::Config { servers, step }) = self.job.action() else { return self.misfit() };
        let (settings, schedule) = (&mut self.state.settings, &mut self.state.exchanges.schedule);
        if let Some(servers) = servers {
            settings.svrlist = servers.iter().map(|server| &*server.base).collect::<Vec<_>>().join(",").into();
            schedule.set_servers(servers.clone());
        }
        if let Some(step) = *step {
            settings.step = Some(step);
            schedule.set_step(step, self.state.now.time);
        }
        self.state.out.push(Action::SaveSettings(settings.clone()));
        StepResult::Done
    }
}

/// What the log calls an answer of the host, which must show nothing of its content.
fn answer_name(answer: &Event) -> &'static str {
    match answer {
        Event::Fetched(..) => "the end of a download",
        Event::Verified(..) => "the end of a verification",
        Event::Unpacked(..) => "the end of an unpacking",
        Event::Placed(..) => "the end of a move",
        Event::Inspected(..) => "the end of an inspection",
        _ => "an event",
    }
}
