//! Carries out actions: each action of the state is done here, or handed to the file that does it.
//!
//! What comes of an action goes back to the state as an event. Results of helpers become events here too. Nothing is decided
//! here: what follows from a result is for the state.

use super::helpers::{Finished, HelperTask};
use super::identity::Runner;
use super::Daemon;
use crate::host::machine::os_release;
use crate::host::proc::users;
use crate::host::spawn::possible_files;
use crate::kernel::{Errno, Level, Process, Resource, Sig, Uid};
use crate::model::command::Answer;
use crate::model::event::{Action, Client, Event, Fetched, Message, Reply, Scope, Verified};
use crate::model::job::{JobAction as JobOrder, JobId};
use crate::model::package::Digest;
use crate::model::record::{JobRecord, Phase};
use crate::model::report::{Entry, Report};
use crate::model::schedule::{Peer, Server};
use crate::model::spec::Name;
use crate::sys::account::{own_uid, user_by_id};
use crate::sys::monotonic;
use crate::wire::{about, control, proto};
use crate::work::{Failure, FailureKind, HelperRequest, HelperResponse, Route};

/// The longest reply of a server, bytes.
const REPLY_MAX: u64 = 1 << 20;

impl Daemon {
    /// Carries out one action.
    pub(super) fn act(&mut self, action: Action) {
        match action {
            Action::Log(level, text) => self.log(level, &text),
            Action::RereadDefinitions => drop(self.reread_definitions()),
            Action::Reread => self.reread_all(),
            Action::Answer(..) | Action::AnswerSettled(..) | Action::AnswerReport(..) | Action::AnswerJobs(..) => {
                self.act_for_client(action);
            }
            Action::Reexec(program, until) => self.reexec(&program, until),
            Action::Quit(code) => self.quit = Some(code),

            Action::StartPrestart(name) => self.start_agent(name, true),
            Action::Start(name) => self.start_agent(name, false),
            Action::FindMain(name) => self.find_main(name),
            Action::FollowMain(name, process) => self.follow_moved(&name, process),
            Action::Signal(name, scope, sig) => self.signal(name, scope, sig),
            Action::CountProcesses { name, scope, last } => self.count_processes(name, scope, last),
            Action::Release(name) => {
                self.close_notifications(&name);
                self.remove_runtime_directories(&name);
                self.release(&name);
            }
            Action::Spare(name) => {
                self.close_notifications(&name);
                self.remove_runtime_directories(&name);
                self.trees.leave_behind(&name, None, &self.limits);
                self.release_if_empty(&name);
            }
            Action::Measure => self.measure(),
            Action::Check(name) => self.start_check(name),
            Action::KillCheck(name) => self.kill_owned(&super::Owner::Check(name)),

            Action::Reload(name) => self.start_reload(name),
            Action::KillReload(name) => self.kill_owned(&super::Owner::Reload(name)),

            Action::Exchange(server, message) => self.exchange(&server, message),
            Action::Fetch(id) => self.fetch(id),
            Action::StopFetch(id) => self.helpers.stop_download(&id),
            Action::RemoveDownload(id) => self.remove_download(&id),
            Action::Tool(owner, tool) => self.start_tool(owner, tool),
            Action::KillTool(owner) => self.kill_owned(&super::Owner::Tool(owner)),
            Action::Verify(id, name, file) => self.verify_package(id, &name, &file),
            Action::Unpack { job, name, file, dir, format } => self.unpack(job, &name, &file, &dir, format),
            Action::PlacePackage(..)
            | Action::Rename { .. }
            | Action::Replace(..)
            | Action::Link(..)
            | Action::Inspect { .. } => self.act_on_package(action),
            Action::RemovePackage(name, files) => self.drop_package(&name, &files),
            Action::LookAtPackages => self.look_at_packages(),

            Action::RemoveOutput(name) => self.outputs.remove(&name),

            Action::SaveJob(record) => self.save_job(record),
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

    /// Answers a client, with what only the daemon knows beside what the state says.
    fn act_for_client(&mut self, action: Action) {
        match action {
            Action::Answer(client, answer) => self.answer(client, &answer),
            Action::AnswerSettled(client, name, mut answer) => {
                if let Some(why) = self.record_problem(&name) {
                    answer.message = format!("{}; this cannot be recorded: {why}", answer.message).into();
                }
                self.answer(client, &answer);
            }
            Action::AnswerReport(client, report) => {
                let seq = self.signing.next_number();
                let body = self.detailed_status(*report, seq).into();
                self.answer(client, &Answer { code: 0, message: "".into(), body });
            }
            Action::AnswerJobs(client, entries) => {
                let body = proto::ledger_body(&self.ledger(entries)).into();
                self.answer(client, &Answer { code: 0, message: "".into(), body });
            }
            _ => {}
        }
    }

    fn remove_download(&mut self, id: &JobId) {
        self.helpers.stop_download(id);
        if let Err(error) = self.records.store().remove_download(&self.download_name(id)) {
            self.log(Level::Warn, &error);
        }
    }

    /// Carries out an action on the files of a package that needs no helper, and reports how that ended.
    fn act_on_package(&mut self, action: Action) {
        let event = match action {
            Action::PlacePackage(job, name, file) => {
                let result = self.place(&job, &name, &file);
                Event::Placed(job, result)
            }
            Action::Rename { job, name, from, to } => Event::Placed(job, self.rename(&name, &from, &to)),
            Action::Replace(job, program) => Event::Placed(job, self.replace(&program)),
            Action::Link(job, name, dir) => Event::Placed(job, self.link(&name, &dir)),
            Action::Inspect { job, name, dir, text } => {
                Event::Inspected(job, self.inspect(&name, &dir, text.as_deref()))
            }
            _ => return,
        };
        self.queue.push_back(event);
    }

    fn answer(&mut self, client: Client, answer: &Answer) {
        self.control.answer(client, &control::write_answer(answer), monotonic());
    }

    /// Sends a signal to these processes of an agent, and reports if one of them did not get it.
    fn signal(&mut self, name: Name, scope: Scope, sig: Sig) {
        match sig {
            Sig::KILL => self.trees.kill(&name, scope, &self.limits),
            _ => self.trees.signal(&name, scope, sig, &self.limits),
        };
        let Some(process) = self.trees.refused(&name) else { return };
        let user = |uid: Uid| match user_by_id(uid) {
            Ok(Some(user)) => format!("user {}", user.name),
            _ => format!("user {}", uid.0),
        };
        let theirs = users(process.pid).map_or("another user".to_string(), |[_, effective, _]| user(effective));
        let cause = Errno(libc::EPERM);
        let reason =
            format!("process {} runs as {theirs}, the daemon as {}: {cause}", process.pid, user(own_uid())).into();
        self.queue.push_back(Event::Refused { name, reason });
    }

    /// Forgets the values, the control groups and the tree of an agent of which no process is left.
    fn release(&mut self, name: &str) {
        self.forget_values(name);
        self.limits.release(name);
        self.trees.forget(name);
    }

    /// Does so if no process is left, also none that is spared.
    fn release_if_empty(&mut self, name: &str) {
        if self.trees.left(name, Scope::Tree, &self.limits) == 0 {
            self.release(name);
        }
    }

    /// Does so for all agents that are down and may have left such processes.
    pub(super) fn release_spared(&mut self) {
        for name in self.names(&|agent| agent.is_down() && agent.spares()) {
            self.release_if_empty(&name);
        }
    }

    /// Counts these processes of an agent. `last`: there should be none left, and its control groups can go.
    fn count_processes(&mut self, name: Name, scope: Scope, last: bool) {
        self.look_at_watched();
        // Removing the directory of a control group, which fails while it has a process, is cheaper than reading
        // cgroup.procs.
        if last {
            self.limits.vacate(&name);
        }
        let count = self.trees.left(&name, scope, &self.limits);
        if count == 0 && scope == Scope::Tree {
            if self.trees.waits_for_answers(&name) {
                // `ProcessesChanged` comes with the answers, and has the state count again.
                return;
            }
            self.trees.kill_marked(&name, &self.limits);
        }
        self.queue.push_back(Event::ProcessCount(name, u32::try_from(count).unwrap_or(u32::MAX)));
    }

    /// The open jobs, with the progress of their downloads, after those that are over, which only their records know.
    fn ledger(&mut self, mut entries: Vec<Entry>) -> Vec<Entry> {
        for entry in &mut entries {
            if entry.phase == Phase::Downloading && entry.progress.is_empty() {
                if let Some((bytes, total)) = self.helpers.download_progress(&entry.id) {
                    entry.progress = match total {
                        Some(total) => format!("{bytes} of {total} bytes").into(),
                        None => format!("{bytes} bytes").into(),
                    };
                }
            }
        }
        let (now, boot_id) = (monotonic(), self.state.boot_id());
        let mut ledger = Vec::new();
        for record in self.records.store().jobs() {
            if record.phase == Phase::Taken {
                // The clock of another boot was another one.
                let age = (*record.boot_id == *boot_id).then(|| now.since(record.received));
                let JobRecord { id, action, name, phase, outcome, .. } = record;
                ledger.push(Entry { id, action, name, phase, outcome, progress: "".into(), age });
            }
        }
        ledger.append(&mut entries);
        ledger
    }

    /// Writes the place of a job in the order of jobs into its record.
    fn touch_job(&mut self, id: &str, seq: u64) {
        if let Some(mut record) = self.records.store().job(id) {
            record.seq = seq;
            let result = self.records.store().write_job(&record);
            self.note_record_result(result);
        }
    }

    /// A report for people on this host; of one agent also what its definition says.
    fn detailed_status(&self, report: Report, seq: Option<u64>) -> String {
        let agent = match &report.agents[..] {
            [agent] => self.state.find_agent(&agent.name),
            _ => None,
        };
        let body = self.status_body(report, seq);
        let Some((agent, spec)) = agent.and_then(|agent| Some((agent, agent.spec()?))) else { return body };
        let wanted = spec.limits.resources.iter().find(|(resource, _)| *resource == Resource::Nofile);
        let files = wanted.and_then(|(_, wanted)| Some(possible_files(*wanted)).filter(|files| files < wanted));
        about::add(&body, &spec, agent.origin(), files, &self.outputs.path(agent.name()).to_string_lossy())
    }

    /// A report, with what only the host knows: its system, its labels, and what fails at the moment.
    fn status_body(&self, mut report: Report, seq: Option<u64>) -> String {
        report.os = os_release();
        report.labels = self.config.labels.clone();
        report.seq = seq;
        let has = |name: &Name| report.agents.iter().any(|agent| agent.name == *name);
        let troubles: Vec<_> = self.conditions.problems(&has).cloned().collect();
        report.troubles.extend(troubles);
        report.troubles.extend(self.log.problem().map(Box::from));
        report.troubles.extend(self.helper_warnings());
        proto::status_body(&report)
    }

    /// Starts an exchange; one that cannot be started counts as a server that does not answer.
    fn exchange(&mut self, server: &Server, message: Message) {
        let results = matches!(message, Message::Results(_));
        let (number, seq) = self.take_number();
        let (path, body) = match message {
            Message::Status(report) => ("/agent/status", self.status_body(*report, seq)),
            Message::Results(results) => ("/agent/job/result", proto::results_body(&results)),
        };
        let (url, body) = (format!("{}{path}", server.base), body.into_bytes());
        let started = self.sign(&url, number, &body).and_then(|signed| {
            let (headers, nonce) = signed.map_or((Vec::new(), None), |signed| (signed.headers, Some(signed.nonce)));
            let Peer { first, failed, unreadable } = self.state.peer(server);
            let route = Route { first, failed, own_client: unreadable, ..Route::default() };
            let request = HelperRequest::Exchange { url, headers, body, max_body: REPLY_MAX, route };
            self.start_helper(HelperTask::Exchange { results, nonce }, &request, None, Runner::Network)
        });
        if let Err(reason) = started {
            self.queue.push_back(Event::Replied(Reply::Failed { reason: reason.into(), retry_after: None }));
        }
    }

    /// Starts the download of a job's package.
    fn fetch(&mut self, id: JobId) {
        let source = match self.state.job(&id).map(|job| &job.action) {
            Some(JobOrder::Install(source) | JobOrder::Upgrade(source)) => source.clone(),
            _ => return,
        };
        let request = HelperRequest::Fetch {
            url: source.url.to_string(),
            max_bytes: self.config.max_download,
            rate: self.config.download_rate,
            route: Route {
                proxy: self.config.proxy.as_deref().map(String::from),
                turn: self.state.fetch_tries(&id).into(),
                ..Route::default()
            },
            digest: source.digest.0,
        };
        let runner = if source.is_local() { Runner::Daemon } else { Runner::Network };
        let started = self.open_download(&id).and_then(|(file, resumed)| {
            self.start_helper(HelperTask::Fetch(id.clone(), resumed), &request, Some(file), runner)
        });
        if let Err(reason) = started {
            self.queue.push_back(Event::Fetched(
                id,
                Fetched::Cut { reason: reason.into(), progress: false, retry_after: None },
            ));
        }
    }

    /// Turns the results of helpers that have ended into events.
    pub(super) fn finish_helpers(&mut self) {
        while let Some(Finished { task, response, address, reaped }) = self.helpers.take_finished() {
            if let Some(pid) = reaped {
                self.trees.remove_ours(pid);
            }
            let event = match task {
                HelperTask::Exchange { results, nonce } => {
                    self.queue.extend(address.map(Event::Reached));
                    Event::Replied(self.reply(response, results, nonce.as_deref()))
                }
                HelperTask::Fetch(job, resumed) => Event::Fetched(job, fetched(response, resumed)),
                HelperTask::Verify(job) => Event::Verified(job, verified(response)),
                HelperTask::Unpack(job, dir) => Event::Unpacked(job, self.strip_top(&dir, response)),
                HelperTask::Rotate(name) => {
                    self.rotated(&name, response);
                    continue;
                }
                HelperTask::Inspect(inspection) => {
                    self.inspected(inspection, response, reaped.is_none());
                    continue;
                }
            };
            self.queue.push_back(event);
        }
    }

    /// What a server has replied to a request that was signed with `nonce`, if it was. Nothing in a reply whose signature is
    /// wrong is used, and as a signature covers the status and the body only, no header of a signed one.
    fn reply(&self, response: HelperResponse, results: bool, nonce: Option<&str>) -> Reply {
        let HelperResponse::Exchanged { status, retry_after, body, signature } = response else {
            return match Failure::of(response) {
                Failure { kind: FailureKind::Unreadable, reason, .. } => Reply::Unreadable(reason.into()),
                Failure { reason, .. } => Reply::Failed { reason: reason.into(), retry_after: None },
            };
        };
        match self.verify(nonce, status, &body, signature.as_deref()) {
            Ok(()) if nonce.is_some() => read_reply(status, &body, results, &|| proto::retry_after(&body)),
            Ok(()) => read_reply(status, &body, results, &|| retry_after),
            Err(reason) => Reply::Failed { reason: reason.into(), retry_after: None },
        }
    }

    /// The process with this id, with its start time, by which it differs from a later process with the same id. A single read
    /// that fails is repeated, as the next daemon does not know an agent again without that time.
    pub(super) fn process(pid: crate::kernel::Pid) -> Process {
        let stat = (0..3).find_map(|_| crate::host::proc::stat(pid));
        stat.map_or(Process { pid, ticks: 0 }, |stat| stat.process)
    }
}

/// What a reply says. With 429 and 503, `pause` says after how many seconds the server wants the next request.
fn read_reply(status: u16, body: &[u8], results: bool, pause: &dyn Fn() -> Option<u64>) -> Reply {
    let failed = |reason: String, retry_after| Reply::Failed { reason: reason.into(), retry_after };
    if !(200..300).contains(&status) {
        let retry_after = if matches!(status, 429 | 503) { pause() } else { None };
        return failed(format!("answers with HTTP status {status}"), retry_after);
    }
    if results {
        return match proto::result_reply(body) {
            Ok(()) => Reply::Taken,
            Err(why) if proto::reply(body).is_ok() => Reply::NotTaken(why.into()),
            Err(why) => failed(why.into(), None),
        };
    }
    match proto::reply(body) {
        Ok(proto::Reply { errcode, jobs, cancel }) => Reply::Jobs { errcode, jobs, cancel },
        Err(why) => failed(why.into(), None),
    }
}

fn fetched(response: HelperResponse, resumed: bool) -> Fetched {
    if let HelperResponse::Fetched { digest, counted, .. } = response {
        return Fetched::Whole { digest: Digest(digest), doubtful: resumed || !counted };
    }
    let Failure { kind, reason, progressed, retry_after } = Failure::of(response);
    match kind {
        FailureKind::Temporary | FailureKind::Unreadable => {
            Fetched::Cut { reason: reason.into(), progress: progressed > 0, retry_after }
        }
        _ => Fetched::Refused { reason: reason.into() },
    }
}

fn verified(response: HelperResponse) -> Verified {
    if let HelperResponse::Verified { digest } = response {
        return Verified::Sound(Digest(digest));
    }
    match Failure::of(response) {
        Failure { kind: FailureKind::Hostile, reason, .. } => Verified::Hostile(reason.into()),
        Failure { reason, .. } => Verified::Unknown(reason.into()),
    }
}
