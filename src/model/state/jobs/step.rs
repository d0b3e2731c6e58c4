//! What each step begins, and what its answers mean. What they are for is said in `model::plan`; steps that only packages or
//! only the daemon itself know are in `package` and `own`.

use std::time::Duration;

use super::open_job::Activity;
use super::run::{Run, StepResult};
use crate::error::Error;
use crate::kernel::Level;
use crate::model::agent::Agent;
use crate::model::event::{log, Action, Fetched, Now, Reply, Verified};
use crate::model::job::{joined, Code, JobAction};
use crate::model::plan::Step;
use crate::model::record::Wanted;
use crate::model::spec::Spec;
use crate::model::state::{Progress, State};

/// An answer of the host to what a step began.
#[derive(Debug)]
pub enum Answer<'a> {
    /// To `Action::Fetch`.
    Fetched(Fetched),
    /// To `Action::Verify`.
    Verified(Verified),
    /// To `Action::Unpack`.
    Unpacked(Result<(), Error>),
    /// To `Action::Place`, `Rename`, `Link` and `Replace`.
    Placed(Result<(), Error>),
    /// To `Action::Inspect`.
    Inspected(Result<Option<Box<Spec>>, Error>),
    /// Of the last package tool that a step runs.
    Tools(Result<&'a str, Error>),
}

impl Answer<'_> {
    /// What it is called in the log, which is to show nothing of what it holds.
    fn name(&self) -> &'static str {
        match self {
            Answer::Fetched(_) => "download",
            Answer::Verified(_) => "verification",
            Answer::Unpacked(_) => "unpacking",
            Answer::Placed(_) => "move",
            Answer::Inspected(_) => "definition",
            Answer::Tools(_) => "tool",
        }
    }
}

impl State {
    /// The host answers what a job asked.
    pub(in super::super) fn answered(&mut self, id: &str, answer: Answer, now: Now, out: &mut Vec<Action>) {
        // A job that has ended asks for nothing any more; what it asked before that may be answered late.
        if let Some(index) = self.index(id).filter(|index| !self.tasks[*index].has_ended()) {
            self.run(index, now, out, |run| run.answer(answer));
        }
    }

    /// A server list was on trial.
    pub(in super::super) fn tried(&mut self, good: bool, server: &str, reply: &Reply, now: Now, out: &mut Vec<Action>) {
        let Some(index) = self.tasks.iter().position(|job| job.is_at(Step::TryServers)) else { return };
        let why = match reply {
            Reply::Failed { reason, .. } => reason,
            _ => "its answer holds no integer errcode",
        };
        let text = "no server of the new list answers, the old list stays; the last one";
        let failed = StepResult::Failed(Code::Download, format!("{text}, {server}: {why}"));
        self.run(index, now, out, |_| if good { StepResult::Done } else { failed });
    }
}

impl Run<'_> {
    /// Begins the step that the job stands at; harmless when some of it was done before.
    pub fn begin(&mut self) -> StepResult {
        let Some(step) = self.job.record.step else { return self.misfit() };
        self.job.activity = Activity::Step;
        if let Some(why) = self.unsigned() {
            return self.refuse(step, &why);
        }
        match step {
            Step::Download => self.wait_for(Activity::WaitingForSlot),
            Step::Place => self.place(),
            Step::Verify => self.verify(),
            Step::Unpack | Step::Install if self.is_unverified() => self.verify(),
            Step::Identify => self.identify(),
            Step::Query => self.query(),
            Step::Unpack => self.unpack(),
            Step::Inspect => self.inspect(),
            Step::Name => self.give_name(),
            Step::Install => self.install(),
            Step::Adopt => self.adopt(),
            Step::WantUp => self.want(Wanted::Up),
            Step::WantDown => self.want(Wanted::Down),
            Step::Overlay => self.overlay(),
            Step::Stop => self.stop(),
            Step::Link => self.link(),
            Step::Start => self.start(),
            Step::Resume => self.start_if_wanted(),
            Step::Settle => self.settle(),
            Step::Retire => self.retire(),
            Step::Keep => self.keep(),
            Step::Remove => self.remove(),
            Step::Forget => self.forget(),
            Step::Reinstall => self.reinstall(),
            Step::Relink => self.relink(),
            Step::Discard => self.discard(),
            Step::Restore => self.recall(),
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
    pub fn answer(&mut self, answer: Answer) -> StepResult {
        let Some(step) = self.job.record.step else { return self.ignore(&answer) };
        if !matches!(self.job.activity, Activity::Step | Activity::Fetching | Activity::Tools(_)) {
            return self.ignore(&answer);
        }
        match (step, answer) {
            (Step::Download, Answer::Fetched(fetched)) => self.fetched(fetched),
            (Step::Place, Answer::Placed(Err(why))) => cannot_install(format_args!("cannot keep the package: {why}")),
            (Step::Verify | Step::Unpack | Step::Install, Answer::Verified(verified)) => self.verified(verified),
            (Step::Identify, Answer::Tools(said)) => self.identified(said),
            (Step::Query, Answer::Tools(said)) => self.queried(said.is_ok()),
            (Step::Inspect, Answer::Inspected(own)) => self.choose(own),
            (Step::Link, Answer::Placed(Err(why))) => self.not_linked(&why),
            (Step::Retire, Answer::Tools(Err(why))) => self.not_retired(&why),
            (Step::Remove, Answer::Tools(Err(why))) => cannot_install(format_args!("cannot remove the package: {why}")),
            (Step::Reinstall, Answer::Tools(Err(why))) | (Step::Relink, Answer::Placed(Err(why))) => {
                cannot_install(format_args!("cannot go back: {why}"))
            }
            (Step::Restore, Answer::Inspected(own)) => self.restore_with(own.ok().flatten()),
            (Step::Replace, Answer::Placed(result)) => self.replaced(result),
            (Step::Unpack, Answer::Unpacked(Err(why)))
            | (Step::Name, Answer::Placed(Err(why)))
            | (Step::Install, Answer::Tools(Err(why))) => cannot_install(format_args!("cannot install: {why}")),
            (Step::Place | Step::Name | Step::Link | Step::Relink, Answer::Placed(Ok(())))
            | (Step::Unpack, Answer::Unpacked(Ok(())))
            | (Step::Install | Step::Retire | Step::Remove | Step::Reinstall, Answer::Tools(Ok(_))) => StepResult::Done,
            (_, answer) => self.ignore(&answer),
        }
    }

    /// An answer to what the step did not ask.
    fn ignore(&mut self, answer: &Answer) -> StepResult {
        let step = self.job.record.step.map_or("none", Step::name);
        let (id, what) = (&self.job.record.id, answer.name());
        log(self.out, Level::Warn, format_args!("job \"{id}\": the end of a {what} at the step \"{step}\", ignored"));
        StepResult::Wait
    }

    /// The record of the job does not hold what its step needs.
    pub fn misfit(&self) -> StepResult {
        let step = self.job.record.step.map_or("none", Step::name);
        StepResult::Failed(Code::BadJob, format!("its record does not fit the step \"{step}\""))
    }

    pub fn wait_for(&mut self, activity: Activity) -> StepResult {
        self.job.activity = activity;
        StepResult::Wait
    }

    pub fn agent(&self) -> Option<&Agent> {
        self.state.agents.get(self.job.name())
    }

    /// Whether the agent is known and should run.
    pub fn is_wanted(&self) -> bool {
        self.agent().is_some_and(|agent| agent.wanted() == Wanted::Up)
    }

    fn want(&mut self, wanted: Wanted) -> StepResult {
        self.state.want(self.job.name(), wanted, self.now, self.out);
        StepResult::Done
    }

    pub fn order_up(&mut self) {
        self.state.step_agent(self.job.name(), self.now, self.out, &mut |agent, context| agent.request_start(context));
    }

    pub fn order_down(&mut self) {
        self.state.step_agent(self.job.name(), self.now, self.out, &mut |agent, context| agent.request_stop(context));
    }

    /// Changes the environment and limits of the agent.
    fn overlay(&mut self) -> StepResult {
        let Some(job) = self.job.content.clone() else { return self.misfit() };
        if let Some(agent) = self.state.agents.get_mut(&job.name) {
            agent.record.envs = job.envs.clone().or(agent.record.envs.take());
            agent.record.limits = job.limits.clone().or(agent.record.limits.take());
            self.out.push(Action::SaveAgent(Box::new(agent.record.clone())));
        }
        match self.is_wanted() {
            true => StepResult::Done,
            false => StepResult::End(Code::Success, "success, the agent is stopped".to_string()),
        }
    }

    /// Brings the agent down.
    fn stop(&mut self) -> StepResult {
        // What an earlier daemon restarted for this job is not restarted again.
        let received = self.job.record.received;
        let since = self.agent().and_then(Agent::running_since).filter(|since| *since >= received);
        if self.job.resumed && since.is_some() && matches!(self.job.action(), Some(JobAction::Restart)) {
            return StepResult::GoTo(Step::Start);
        }
        self.order_down();
        StepResult::Wait
    }

    /// Looks whether the agent is down. Somebody may want it up meanwhile.
    pub fn follow_stop(&mut self) -> StepResult {
        let Some(agent) = self.agent().filter(|agent| !agent.is_down()) else { return StepResult::Done };
        if agent.is_going_down() {
            return StepResult::Wait;
        }
        if agent.wanted() == Wanted::Up && matches!(self.job.action(), Some(JobAction::Stop)) {
            return StepResult::End(Code::Expired, "cancelled: the agent was started meanwhile".to_string());
        }
        self.order_down();
        StepResult::Wait
    }

    /// Wants the agent up, and starts it.
    fn start(&mut self) -> StepResult {
        self.state.want(self.job.name(), Wanted::Up, self.now, self.out);
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

    /// Sets the start that is to be watched, unless it is known.
    fn watch_start(&mut self) {
        let name = self.job.name();
        let own = self.job.content.as_ref().and_then(|job| job.startsecs);
        let lasting: Duration = own.unwrap_or_else(|| self.state.startsecs(name));
        // It must be healthy, too, where there is something to go back to.
        let healthy = !self.job.goes_back() && self.job.record.before.is_some();
        let goal = self.state.goal_up(name, lasting, healthy);
        self.job.goal.get_or_insert(goal);
    }

    /// Watches the start. After an interruption the one that runs now is the one to watch. What ended while nobody was
    /// watching may have ended with the daemon, and says nothing about the agent: it is started again.
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
        match self.state.progress(self.job.name(), goal, self.now.time) {
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
                self.state.schedule.try_given(servers.clone());
                StepResult::Wait
            }
            _ => StepResult::Done,
        }
    }

    fn apply_settings(&mut self) -> StepResult {
        let Some(JobAction::Config { servers, step }) = self.job.action() else { return self.misfit() };
        let (settings, pace) = (&mut self.state.settings, &mut self.state.schedule);
        if let Some(servers) = servers {
            settings.svrlist = joined(&mut servers.iter().map(|server| &*server.base), ",").into();
            pace.set_given(servers.clone());
        }
        if let Some(step) = *step {
            settings.step = Some(step);
            pace.set_step(step, self.now.time);
        }
        self.out.push(Action::SaveSettings(settings.clone()));
        StepResult::Done
    }
}

fn cannot_install(why: std::fmt::Arguments) -> StepResult {
    StepResult::Failed(Code::Install, why.to_string())
}
