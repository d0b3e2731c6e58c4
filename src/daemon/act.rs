//! Does what one action says, and tells the state what came of it.

use super::identity::Runner;
use super::{Daemon, HelperTask};
use crate::error::Error;
use crate::host::helper::Helper;
use crate::kernel::{Level, Process, Sig};
use crate::model::command::Answer;
use crate::model::event::{Action, Event, Fetched, Message, Reply, Usage, Verified};
use crate::model::job::{JobAction as JobOrder, JobId};
use crate::model::package::Digest;
use crate::model::record::{JobRecord, Phase};
use crate::model::report::{Entry, Report};
use crate::model::schedule::Server;
use crate::sys::monotonic;
use crate::wire::{control, proto};
use crate::work::{FailureKind, HelperRequest, HelperResponse};

/// The longest reply of a server, bytes.
const REPLY_MAX: u64 = 1 << 20;

impl Daemon {
    pub(super) fn act(&mut self, action: Action) {
        match action {
            Action::Log(level, text) => self.log(level, &text),
            Action::Reload => self.reload(),
            Action::Answer(client, answer) => self.control.answer(client, &control::write_answer(&answer), monotonic()),
            Action::AnswerSettled(client, name, mut answer) => {
                if let Some(why) = self.record_problem(&name) {
                    answer.message = format!("{}; this cannot be recorded: {why}", answer.message).into();
                }
                self.act(Action::Answer(client, answer));
            }
            Action::AnswerReport(client, report) => {
                let body = self.status_body(*report).into();
                let answer = Answer { code: 0, message: "".into(), body };
                self.control.answer(client, &control::write_answer(&answer), monotonic());
            }
            Action::AnswerJobs(client, entries) => {
                let body = proto::ledger_body(&self.ledger(entries)).into();
                let answer = Answer { code: 0, message: "".into(), body };
                self.control.answer(client, &control::write_answer(&answer), monotonic());
            }
            Action::Reexec(program, until) => self.reexec(&program, until),
            Action::Quit(code) => self.quit = Some(code),

            Action::Start(name) => self.start_agent(name),
            Action::FindMain(name) => self.find_main(name),
            Action::Signal(name, Sig::KILL) => drop(self.trees.kill(&name, &self.limits)),
            Action::Signal(name, sig) => drop(self.trees.signal(&name, sig, &self.limits)),
            Action::CountProcesses { name, last } => {
                self.look_at_watched();
                // Dearer to read than to remove.
                if last {
                    self.limits.vacate(&name);
                }
                let left = self.trees.left(&name, &self.limits);
                if left == 0 {
                    self.trees.kill_marked(&name, &self.limits);
                }
                self.queue.push_back(Event::ProcessCount(name, u32::try_from(left).unwrap_or(u32::MAX)));
            }
            Action::Release(name) => {
                self.limits.release(&name);
                self.trees.forget(&name);
            }
            Action::Measure => self.measure(),
            Action::Check(name) => self.start_check(name),
            Action::KillCheck(name) => self.kill_owned(&super::Owner::Check(name)),

            Action::Exchange(server, message) => self.exchange(&server, message),
            Action::Fetch(id) => self.fetch(id),
            Action::StopFetch(id) => self.stop_helper(&HelperTask::Fetch(id)),
            Action::RemoveDownload(id) => {
                self.stop_helper(&HelperTask::Fetch(id.clone()));
                if let Err(error) = self.store.remove_download(&self.download_name(&id)) {
                    self.log(Level::Warn, &error);
                }
            }
            Action::Tool(owner, tool) => self.start_tool(owner, tool),
            Action::KillTool(owner) => self.kill_owned(&super::Owner::Tool(owner)),
            Action::PlacePackage(id, name, file) => {
                let result = self.place(&id, &name, &file);
                self.queue.push_back(Event::Placed(id, result));
            }
            Action::Rename { job, name, from, to } => {
                let result = self.rename(&name, &from, &to);
                self.queue.push_back(Event::Placed(job, result));
            }
            Action::Replace(id, program) => {
                let result = self.replace(&program);
                self.queue.push_back(Event::Placed(id, result));
            }
            Action::Link(id, name, dir) => {
                let result = self.link(&name, &dir);
                self.queue.push_back(Event::Placed(id, result));
            }
            Action::Verify(id, name, file) => self.verify_package(id, &name, &file),
            Action::Unpack { job, name, file, dir, format } => self.unpack(job, &name, &file, &dir, format),
            Action::Inspect { job, name, dir, text } => {
                let result = self.inspect(&name, &dir, text.as_deref());
                self.queue.push_back(Event::Inspected(job, result));
            }
            Action::RemovePackage(name, files) => self.drop_package(&name, &files),

            Action::SaveJob(record) => {
                // A job must not be further than what it has changed.
                let result = self
                    .retry_records()
                    .and_then(|()| self.store.write_job(&record).map_err(|error| error.to_string().into()));
                let id = record.id.clone();
                if result.is_err() && record.phase == Phase::Taken {
                    // Nobody waits for this one; until it is written the next daemon would send the result again.
                    self.unsaved.insert(format!("job {id}"), Action::SaveJob(record));
                }
                self.queue.push_back(Event::Saved(id, result));
            }
            Action::TouchJob(id, seq) => self.touch_job(&id, seq),
            Action::RemoveJob(_)
            | Action::SaveAgent(_)
            | Action::RemoveAgent(_)
            | Action::SaveSettings(_)
            | Action::SaveIdentity(_)
            | Action::SaveRun(_)
            | Action::SaveStop(_) => self.save(action),
        }
    }

    fn measure(&mut self) {
        let names: Vec<_> =
            self.state.agents().filter(|agent| !agent.is_down()).map(|agent| agent.name().clone()).collect();
        let mut usages = Vec::with_capacity(names.len());
        for name in names {
            let usage = self.trees.usage(&name, &self.limits);
            let cpu = usage.cpu.map(std::time::Duration::from_micros);
            usages.push(Usage { name, cpu, memory: usage.memory });
        }
        self.queue.push_back(Event::Measured(usages));
    }

    /// The open jobs, and those that are over as their records tell.
    fn ledger(&mut self, mut entries: Vec<Entry>) -> Vec<Entry> {
        for entry in &mut entries {
            if entry.phase == Phase::Downloading && entry.progress.is_empty() {
                let fetch = HelperTask::Fetch(entry.id.clone());
                let helper = self.helpers.iter().find(|(errand, _)| *errand == fetch);
                if let Some((bytes, total)) = helper.and_then(|(_, helper)| Some((helper.progress()?, helper.total())))
                {
                    entry.progress = match total {
                        Some(total) => format!("{bytes} of {total} bytes").into(),
                        None => format!("{bytes} bytes").into(),
                    };
                }
            }
        }
        let mut ledger = Vec::new();
        for record in self.store.jobs() {
            if record.phase == Phase::Taken {
                let JobRecord { id, action, name, phase, outcome, .. } = record;
                ledger.push(Entry { id, action, name, phase, outcome, progress: "".into() });
            }
        }
        ledger.append(&mut entries);
        ledger
    }

    fn touch_job(&mut self, id: &str, seq: u64) {
        if let Some(mut record) = self.store.job(id) {
            record.seq = seq;
            let result = self.store.write_job(&record);
            self.note_record_result(result);
        }
    }

    /// A report with what does not work here.
    fn status_body(&self, mut report: Report) -> String {
        report.troubles.extend(self.troubles.values().cloned());
        report.troubles.extend(self.helper_troubles());
        proto::status_body(&report)
    }

    /// Starts an exchange; one that cannot be started is a server that does not answer.
    fn exchange(&mut self, server: &Server, message: Message) {
        let results = matches!(message, Message::Results(_));
        let (path, body) = match message {
            Message::Status(report) => ("/agent/status", self.status_body(*report)),
            Message::Results(results) => ("/agent/job/result", proto::results_body(&results)),
        };
        let (url, body) = (format!("{}{path}", server.base), body.into_bytes());
        let started = self.sign(&url, &body).and_then(|signed| {
            let (headers, nonce) = signed.map_or((Vec::new(), None), |signed| (signed.headers, Some(signed.nonce)));
            let order = HelperRequest::Exchange { url, headers, body, max_body: REPLY_MAX };
            self.start_helper(HelperTask::Exchange { results, nonce }, &order, None, Runner::Network)
        });
        if let Err(reason) = started {
            self.queue.push_back(Event::Replied(Reply::Failed { reason: reason.into(), retry_after: None }));
        }
    }

    fn fetch(&mut self, id: JobId) {
        let source = match self.state.job(&id).map(|job| &job.action) {
            Some(JobOrder::Install(source) | JobOrder::Upgrade(source)) => source.clone(),
            _ => return,
        };
        let order = HelperRequest::Fetch {
            url: source.url.to_string(),
            max_bytes: self.config.max_download,
            rate: self.config.download_rate,
        };
        // A local file may be for root only, and no network is read.
        let runner = if source.url.starts_with("file:") { Runner::Daemon } else { Runner::Network };
        let started = match self.open_download(&id) {
            Ok(file) => self.start_helper(HelperTask::Fetch(id.clone()), &order, Some(file), runner),
            Err(reason) => Err(reason),
        };
        if let Err(reason) = started {
            self.queue.push_back(Event::Fetched(
                id,
                Fetched::Cut { reason: reason.into(), progress: false, retry_after: None },
            ));
        }
    }

    /// Starts a helper on an errand.
    pub(super) fn start_helper(
        &mut self,
        errand: HelperTask,
        order: &HelperRequest,
        file: Option<std::fs::File>,
        runner: Runner,
    ) -> Result<(), Error> {
        let who = self.identity(runner)?;
        let helper = Helper::start(&self.binary, order, file, who, &self.failures, monotonic())
            .map_err(|error| format_error!("cannot start a helper: {}", crate::host::disk::reason(&error)))?;
        self.track_child(helper.pid(), super::Owner::Helper);
        self.helpers.push((errand, helper));
        Ok(())
    }

    fn stop_helper(&mut self, stopped: &HelperTask) {
        for (errand, helper) in &mut self.helpers {
            if errand == stopped {
                helper.stop();
            }
        }
    }

    /// Ends helpers that are late or do nothing, and hears those that have finished.
    pub(super) fn finish_helpers(&mut self) {
        let now = monotonic();
        for (_, helper) in &mut self.helpers {
            helper.look(now);
        }
        while let Some(index) = self.helpers.iter().position(|(_, helper)| helper.finished()) {
            let (errand, helper) = self.helpers.swap_remove(index);
            self.trees.remove_ours(helper.pid());
            let outcome = helper.outcome();
            match errand {
                HelperTask::Exchange { results, nonce } => {
                    let reply = match &outcome {
                        HelperResponse::Exchanged { status, body, signature, .. } => {
                            self.verify(nonce.as_deref(), *status, body, signature.as_deref())
                        }
                        _ => Ok(()),
                    };
                    // Nothing of a reply that does not count is looked at.
                    let reply = reply.map_or_else(
                        |why| Reply::Failed { reason: why.into(), retry_after: None },
                        |()| reply_of(outcome, results, nonce.is_some()),
                    );
                    self.queue.push_back(Event::Replied(reply));
                }
                HelperTask::Fetch(id) => {
                    let resumed = self.resumed.remove(&id);
                    self.queue.push_back(Event::Fetched(id, fetched(outcome, resumed)));
                }
                HelperTask::Verify(id) => self.queue.push_back(Event::Verified(id, verified(outcome))),
                HelperTask::Unpack(id, dir) => {
                    let result = self.unpacked(&dir, outcome);
                    self.queue.push_back(Event::Unpacked(id, result));
                }
            }
        }
    }

    /// The process with this id, as it can be told from a later one with the same id.
    pub(super) fn process(pid: crate::kernel::Pid) -> Process {
        crate::host::proc::stat(pid).map_or(Process { pid, ticks: 0 }, |stat| stat.process)
    }
}

/// What a reply says; of one that is `signed` only what the signature is over, and so no header.
fn reply_of(outcome: HelperResponse, results: bool, signed: bool) -> Reply {
    let failed = |reason: String, retry_after| Reply::Failed { reason: reason.into(), retry_after };
    match outcome {
        HelperResponse::Exchanged { status, retry_after, body, .. } if !(200..300).contains(&status) => {
            let asked = if signed { proto::retry_after(&body) } else { retry_after };
            failed(format!("answers with HTTP status {status}"), asked.filter(|_| matches!(status, 429 | 503)))
        }
        HelperResponse::Exchanged { body, .. } if results => match proto::result_reply(&body) {
            Ok(()) => Reply::Taken,
            Err(why) if proto::reply(&body).is_ok() => Reply::NotTaken(why.into()),
            Err(why) => failed(why.into(), None),
        },
        HelperResponse::Exchanged { body, .. } => match proto::reply(&body) {
            Ok(reply) => Reply::Jobs { errcode: reply.errcode, jobs: reply.jobs },
            Err(why) => failed(why.into(), None),
        },
        HelperResponse::Failed { reason, .. } => failed(reason, None),
        HelperResponse::Fetched { .. } | HelperResponse::Verified { .. } | HelperResponse::Unpacked { .. } => {
            failed("the helper did something else".to_string(), None)
        }
    }
}

fn fetched(outcome: HelperResponse, resumed: bool) -> Fetched {
    match outcome {
        HelperResponse::Fetched { digest, counted, cut, .. } => {
            Fetched::Whole { digest: Digest(digest), doubtful: resumed || !counted, cut }
        }
        HelperResponse::Failed { kind: FailureKind::Temporary, reason, progressed, retry_after } => {
            Fetched::Cut { reason: reason.into(), progress: progressed > 0, retry_after }
        }
        HelperResponse::Failed { reason, .. } => Fetched::Refused { reason: reason.into() },
        HelperResponse::Exchanged { .. } | HelperResponse::Verified { .. } | HelperResponse::Unpacked { .. } => {
            Fetched::Refused { reason: "the helper did something else".into() }
        }
    }
}

fn verified(outcome: HelperResponse) -> Verified {
    match outcome {
        HelperResponse::Verified { digest } => Verified::Sound(Digest(digest)),
        HelperResponse::Failed { kind: FailureKind::Hostile, reason, .. } => Verified::Hostile(reason.into()),
        HelperResponse::Failed { reason, .. } => Verified::Unknown(reason.into()),
        HelperResponse::Exchanged { .. } | HelperResponse::Fetched { .. } | HelperResponse::Unpacked { .. } => {
            Verified::Unknown("the helper did something else".into())
        }
    }
}
