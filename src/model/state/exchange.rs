//! Exchanges with the servers: which one is due, what it sends, and what its answer means.
//!
//! `model::schedule` says when to talk and to whom; this file says what about. The result of a job is sent until a
//! server has taken it, and an incident likewise. A job comes in with the answer to a status, and goes to `jobs`.

use super::{State, OPEN_JOBS};
use crate::kernel::{Level, Time};
use crate::model::event::{answer, log, Action, Client, Message, Reply};
use crate::model::job::{Job, JobId, Outcome, RejectedJob};
use crate::model::record::Phase;
use crate::model::schedule::{ExchangeKind, ExchangeSchedule, Peer, Round, Server};
use crate::text::count;

/// Results in one exchange.
const BATCH: usize = 64;

/// What is wrong with the answer of a server on trial that does not speak the whole protocol.
pub(super) const NO_ERRCODE: &str = "its answer holds no integer errcode";

/// Exchanges with the servers, and who waits for one.
#[derive(Clone, Debug, Default)]
pub(super) struct Exchanges {
    /// When to talk and to whom.
    pub schedule: ExchangeSchedule,
    /// The jobs whose results are in the exchange that is under way.
    sent_results: Vec<JobId>,
    /// The server that answered last; empty before the first answer.
    last_server: Box<str>,
    /// What was wrong with the last good answer to a status. It is in the log already.
    logged_problems: Vec<(Level, String)>,
    /// Clients that wait until a server has taken a report.
    pub reporting: Vec<Client>,
}

impl Exchanges {
    /// None so far.
    pub fn new(schedule: ExchangeSchedule) -> Exchanges {
        Exchanges { schedule, ..Exchanges::default() }
    }

    /// Whether the exchange that is under way sends results.
    #[cfg(test)]
    pub fn sends_results(&self) -> bool {
        !self.sent_results.is_empty()
    }

    /// Logs that a server answers or does not, once for each change.
    fn log_answer(&mut self, server: &str, good: bool, reply: &Reply, out: &mut Vec<Action>) {
        let first = good && *self.last_server != *server;
        if first {
            self.last_server = server.into();
        }
        if !self.schedule.is_news(server, good) {
            if first {
                log(out, Level::Info, format_args!("server {server}: answers"));
            }
            return;
        }
        match reply {
            Reply::Failed { reason, .. } => log(out, Level::Warn, format_args!("server {server}: {reason}")),
            _ if good => log(out, Level::Info, format_args!("server {server}: answers again")),
            _ => log(out, Level::Warn, format_args!("server {server}: {NO_ERRCODE}")),
        }
    }

    /// Logs what is wrong with an answer, unless it was wrong with the one before.
    fn log_problems(&mut self, problems: Vec<(Level, String)>, out: &mut Vec<Action>) {
        for (level, text) in &problems {
            if !self.logged_problems.iter().any(|(_, logged)| logged == text) {
                log(out, *level, format_args!("{text}"));
            }
        }
        self.logged_problems = problems;
    }

    fn answer_reporting(&mut self, good: bool, server: &str, reply: &Reply, out: &mut Vec<Action>) {
        for client in std::mem::take(&mut self.reporting) {
            match reply {
                Reply::Jobs { errcode: Some(errcode), .. } if good && *errcode != 0 => {
                    let text = format_args!("reported to {server}, which answers errcode {errcode}: its log says why");
                    answer(out, client, 0, text);
                }
                _ if good => answer(out, client, 0, format_args!("reported to {server}")),
                Reply::Failed { reason, .. } => {
                    answer(out, client, 1, format_args!("no server took the report; the last one, {server}: {reason}"));
                }
                _ => answer(out, client, 1, format_args!("no server took the report; the last one: {server}")),
            }
        }
    }
}

impl State {
    /// When the earliest result wants to be sent.
    pub(super) fn results_due(&self) -> Option<Time> {
        self.jobs.open.iter().filter_map(|job| job.result_at()).min()
    }

    /// Starts the exchange that is due, if any.
    pub(super) fn follow_exchanges(&mut self) {
        // A measurement under way is a status that is about to be sent. Before a reexec no exchange begins.
        if self.measuring.report.is_some() || self.is_leaving() {
            return;
        }
        let results = self.results_due().is_some_and(|at| at <= self.now.time);
        match self.exchanges.schedule.next(self.now.time, results) {
            Some((ExchangeKind::Results, server)) => {
                let results = self.due_results();
                self.exchanges.sent_results = results.iter().map(|(id, _)| id.clone()).collect();
                self.out.push(Action::Exchange(server, Message::Results(results)));
            }
            Some((ExchangeKind::Status | ExchangeKind::Trial, server)) => {
                self.measuring.report = Some(server);
                self.measure();
            }
            None if !self.exchanges.schedule.is_report_due() => {
                for client in std::mem::take(&mut self.exchanges.reporting) {
                    let why = "each has asked to be left alone for a while";
                    answer(&mut self.out, client, 1, format_args!("no server took the report: {why}"));
                }
            }
            None => {}
        }
    }

    /// The results that are due, as many as one exchange may hold. A result that was refused in a batch goes alone.
    fn due_results(&self) -> Vec<(JobId, Outcome)> {
        let mut results = Vec::new();
        for (alone, most) in [(false, BATCH), (true, 1)] {
            for job in &self.jobs.open {
                let due = job.sent_alone == alone && job.result_at().is_some_and(|at| at <= self.now.time);
                if let (true, Some(outcome)) = (due && results.len() < most, &job.record.outcome) {
                    results.push((job.record.id.clone(), outcome.clone()));
                }
            }
        }
        results
    }

    /// How this server is asked.
    pub fn peer(&self, server: &Server) -> Peer {
        self.exchanges.schedule.peer(server)
    }

    /// Sends a status, now that everything was measured.
    pub(super) fn send_status(&mut self, server: Server) {
        let mut report = self.report(None);
        report.events = self.incidents.send(self.now);
        self.out.push(Action::Exchange(server, Message::Status(Box::new(report))));
    }

    /// Takes the answer to the exchange that was under way.
    pub(super) fn replied(&mut self, reply: Reply) {
        let schedule = &mut self.exchanges.schedule;
        let reply = match reply {
            Reply::Unreadable(_) if schedule.ask_again() => return,
            Reply::Unreadable(reason) => Reply::Failed { reason, retry_after: None },
            reply => reply,
        };
        let server = schedule.asking().map_or("".into(), |server| server.base.clone());
        let (good, retry_after) = match &reply {
            // A server on trial must speak the whole protocol, an integer errcode included.
            Reply::Jobs { errcode: None, .. } => (!schedule.on_trial(), None),
            Reply::Jobs { .. } | Reply::Taken | Reply::NotTaken(_) => (true, None),
            Reply::Failed { retry_after, .. } => (false, *retry_after),
            Reply::Unreadable(_) => (false, None),
        };
        let (kind, round) = schedule.answered(good, retry_after, self.now.time);
        if good {
            self.binary_proved();
        }
        let Some(kind) = kind else {
            return log(
                &mut self.out,
                Level::Warn,
                format_args!("a server's answer came without an exchange, and is ignored"),
            );
        };
        self.exchanges.log_answer(&server, good, &reply, &mut self.out);
        match kind {
            ExchangeKind::Status | ExchangeKind::Trial => self.status_replied(kind, round, &server, reply),
            ExchangeKind::Results => self.results_replied(&server, reply),
        }
    }

    /// Takes the answer to a status.
    fn status_replied(&mut self, kind: ExchangeKind, round: Round, server: &str, reply: Reply) {
        let good = round == Round::Good;
        if good {
            self.incidents.taken();
        }
        if let (true, ExchangeKind::Trial, Reply::Jobs { cancel, .. }) = (good, kind, &reply) {
            // The reply that ends the trial of a server list may cancel the job that brought the list.
            cancel.iter().for_each(|id| self.cancel(id));
        }
        if round != Round::Next {
            self.exchanges.answer_reporting(good, server, &reply, &mut self.out);
            if kind == ExchangeKind::Trial {
                self.server_list_tried(good, server, &reply);
            }
        }
        if let (true, Reply::Jobs { errcode, jobs, cancel }) = (good, reply) {
            let mut problems: Vec<(Level, String)> = Vec::new();
            if let Some(errcode) = errcode.filter(|errcode| *errcode != 0) {
                problems.push((Level::Warn, format!("server {server}: answers errcode {errcode}")));
            }
            self.receive(jobs, server, &mut problems);
            cancel.iter().for_each(|id| self.cancel(id));
            self.exchanges.log_problems(problems, &mut self.out);
        }
    }

    /// Takes the answer to results.
    fn results_replied(&mut self, server: &str, reply: Reply) {
        let sent = std::mem::take(&mut self.exchanges.sent_results);
        match reply {
            Reply::Taken => sent.iter().for_each(|id| self.result_taken(id)),
            Reply::NotTaken(why) => {
                log(&mut self.out, Level::Warn, format_args!("server {server}: results not taken: {why}"));
                self.exchanges.schedule.results_refused();
                self.results_not_taken(&sent);
            }
            Reply::Failed { .. } | Reply::Jobs { .. } | Reply::Unreadable(_) => {}
        }
    }

    /// Takes the jobs of an answer. What is wrong with it is added to `problems`, as it comes again with every answer.
    fn receive(&mut self, jobs: Vec<Result<Job, RejectedJob>>, server: &str, problems: &mut Vec<(Level, String)>) {
        let (mut too_many, mut unread) = (0, 0);
        for job in jobs {
            let id = match &job {
                Ok(job) => Some(&job.id),
                Err(rejected) => rejected.id.as_ref(),
            };
            let Some(id) = id else {
                if let Err(rejected) = job {
                    problems.push((Level::Error, format!("server {server}: {rejected}")));
                }
                continue;
            };
            if self.jobs.is_known(id) {
                self.offered_again(id);
            } else if self.must_wait(&job) {
                unread += 1;
            } else if self.jobs.open.len() >= OPEN_JOBS {
                too_many += 1;
            } else {
                self.accept(job);
            }
        }
        let not_taken = |jobs, why| format!("{} left for the servers to offer again: {why}", count(jobs, "job"));
        if unread > 0 {
            problems.push((Level::Error, not_taken(unread, "there are records that cannot be read")));
        }
        if too_many > 0 {
            problems.push((Level::Warn, not_taken(too_many, &format!("{OPEN_JOBS} are open"))));
        }
    }

    /// A server offers a job that was received before. It is not run again; the server has not got its result, or has
    /// lost it.
    fn offered_again(&mut self, id: &JobId) {
        if let Some(index) = self.jobs.index(id) {
            let job = &mut self.jobs.open[index];
            job.send_at = job.send_at.min(self.now.time);
        } else if let Some(rank) = self.jobs.touch(id) {
            self.out.push(Action::TouchJob(id.clone(), rank));
        }
    }

    /// A server has taken the result of a job: only its id is remembered from now on.
    fn result_taken(&mut self, id: &JobId) {
        let Some(index) = self.expect_job(id, "its result was taken") else { return };
        let mut record = self.jobs.open.remove(index).record;
        record.phase = Phase::Taken;
        self.jobs.remember(&record);
        self.out.push(Action::SaveJob(Box::new(record)));
        while let Some(oldest) = self.jobs.forget_oldest() {
            self.out.push(Action::RemoveJob(oldest));
        }
    }

    /// A server has answered, but did not take these results. Each goes alone now, as the fault may be another's; one
    /// that was alone already waits.
    fn results_not_taken(&mut self, sent: &[JobId]) {
        for id in sent {
            let Some(index) = self.expect_job(id, "its result was refused") else { continue };
            let job = &mut self.jobs.open[index];
            let wait = self.exchanges.schedule.backoff(job.refusals + 1);
            job.sent_alone = true;
            if sent.len() == 1 {
                job.refusals += 1;
                job.send_at = self.now.time + wait;
            }
        }
    }
}
