//! Talking with the servers: which exchange is due, what it says, what its answer means.

use super::{State, ENDED_JOBS, OPEN_JOBS};
use crate::kernel::{Level, Time};
use crate::model::event::{answer, log, Action, Message, Now, Reply};
use crate::model::job::{Job, JobId, Outcome, RejectedJob};
use crate::model::record::Phase;
use crate::model::schedule::{ExchangeKind, Round, Server};
use crate::text::count;

/// Results in one exchange.
const BATCH: usize = 64;

impl State {
    /// When the earliest result wants to be sent.
    pub(super) fn results_due(&self) -> Option<Time> {
        self.tasks.iter().filter_map(|job| job.send_at()).min()
    }

    /// Starts the exchange that is due, if any.
    pub(super) fn follow_talk(&mut self, now: Now, out: &mut Vec<Action>) {
        // A measurement under way is a status that is about to be sent; an image that is leaving begins nothing new.
        if self.measuring.report.is_some() || self.is_leaving() {
            return;
        }
        let results = self.results_due().is_some_and(|at| at <= now.time);
        match self.schedule.next(now.time, results) {
            Some((ExchangeKind::Results, server)) => {
                let batch = self.batch(now);
                self.sent_results = batch.iter().map(|(id, _)| id.clone()).collect();
                out.push(Action::Exchange(server, Message::Results(batch)));
            }
            Some((ExchangeKind::Status | ExchangeKind::Trial, server)) => {
                self.measuring.report = Some(server);
                self.measure(out);
            }
            None if !self.reporting.is_empty() && !self.schedule.is_hurried() => {
                for client in std::mem::take(&mut self.reporting) {
                    let why = "each has asked to be left alone for a while";
                    answer(out, client, 1, format_args!("no server took the report: {why}"));
                }
            }
            None => {}
        }
    }

    /// The results that are due: one that was refused in a batch goes alone.
    fn batch(&self, now: Now) -> Vec<(JobId, Outcome)> {
        let mut batch = Vec::new();
        for (alone, most) in [(false, BATCH), (true, 1)] {
            for job in &self.tasks {
                let due = job.alone() == alone && job.send_at().is_some_and(|at| at <= now.time);
                if let (true, Some(outcome)) = (due && batch.len() < most, &job.record.outcome) {
                    batch.push((job.record.id.clone(), outcome.clone()));
                }
            }
        }
        batch
    }

    /// Sends a status, now that everything was measured.
    pub(super) fn send_status(&mut self, server: Server, now: Now, out: &mut Vec<Action>) {
        let mut report = self.report(None, now);
        if self.dropped_incidents > 0 {
            let message = format!("{} dropped", count(self.dropped_incidents, "earlier event")).into();
            let timestamp = report.events.first().map_or(now.wall, |first| first.timestamp);
            report.events.insert(0, crate::model::report::Incident { timestamp, name: "bootagent".into(), message });
        }
        (self.sent_incidents, self.sent_drops) = (self.incidents.len(), self.dropped_incidents);
        out.push(Action::Exchange(server, Message::Status(Box::new(report))));
    }

    /// Takes the answer to the exchange that was under way.
    pub(super) fn replied(&mut self, reply: Reply, now: Now, out: &mut Vec<Action>) {
        let server = self.schedule.asking().cloned();
        let (good, retry_after) = match &reply {
            Reply::Jobs { .. } | Reply::Taken | Reply::NotTaken(_) => (true, None),
            Reply::Failed { retry_after, .. } => (false, *retry_after),
        };
        // On trial a server must speak the protocol whole: an integer errcode.
        let on_trial = self.schedule.on_trial();
        let good = good && !(on_trial && matches!(reply, Reply::Jobs { errcode: None, .. }));
        let (talk, round) = self.schedule.answered(good, retry_after, now.time);
        if good {
            self.proven(now, out);
        }
        let Some(talk) = talk else { return };
        let name = server.as_ref().map_or("", |server| &*server.base);
        let first = good && *self.last_server != *name;
        if first {
            self.last_server = name.into();
        }
        if self.schedule.is_news(name, good) {
            match &reply {
                Reply::Failed { reason, .. } => log(out, Level::Warn, format_args!("server {name}: {reason}")),
                _ => log(out, Level::Info, format_args!("server {name}: answers again")),
            }
        } else if first {
            log(out, Level::Info, format_args!("server {name}: answers"));
        }
        match talk {
            ExchangeKind::Status | ExchangeKind::Trial => {
                if good {
                    self.incidents.drain(..self.sent_incidents.min(self.incidents.len()));
                    self.dropped_incidents -= self.sent_drops.min(self.dropped_incidents);
                }
                if round != Round::Next {
                    self.sent_incidents = 0;
                    self.answer_reporters(good, name, &reply, out);
                }
                if talk == ExchangeKind::Trial && round != Round::Next {
                    self.tried(good, name, &reply, now, out);
                }
                if let (true, Reply::Jobs { errcode, jobs }) = (good, reply) {
                    let mut wrong: Vec<(Level, String)> = Vec::new();
                    if let Some(errcode) = errcode.filter(|errcode| *errcode != 0) {
                        wrong.push((Level::Warn, format!("server {name}: answers errcode {errcode}")));
                    }
                    self.receive(jobs, name, &mut wrong, now, out);
                    for (level, text) in &wrong {
                        if !self.said_problems.iter().any(|(_, said)| said == text) {
                            log(out, *level, format_args!("{text}"));
                        }
                    }
                    self.said_problems = wrong;
                }
            }
            ExchangeKind::Results => {
                let sent = std::mem::take(&mut self.sent_results);
                match reply {
                    Reply::Taken => sent.iter().for_each(|id| self.taken(id, out)),
                    Reply::NotTaken(why) => {
                        log(out, Level::Warn, format_args!("server {name}: results not taken: {why}"));
                        self.schedule.results_refused();
                        self.not_taken(&sent, now);
                    }
                    Reply::Failed { .. } | Reply::Jobs { .. } => {}
                }
            }
        }
    }

    fn answer_reporters(&mut self, good: bool, server: &str, reply: &Reply, out: &mut Vec<Action>) {
        for client in std::mem::take(&mut self.reporting) {
            match reply {
                _ if good => answer(out, client, 0, format_args!("reported to {server}")),
                Reply::Failed { reason, .. } => {
                    answer(out, client, 1, format_args!("no server took the report; the last one, {server}: {reason}"));
                }
                _ => answer(out, client, 1, format_args!("no server took the report; the last one: {server}")),
            }
        }
    }

    /// Takes the jobs of a reply; what is `wrong` with it comes again with the next one, and is said once.
    fn receive(
        &mut self,
        jobs: Vec<Result<Job, RejectedJob>>,
        server: &str,
        wrong: &mut Vec<(Level, String)>,
        now: Now,
        out: &mut Vec<Action>,
    ) {
        let (mut left, mut unread) = (0, 0);
        for job in jobs {
            let id = match &job {
                Ok(job) => Some(&job.id),
                Err(rejected) => rejected.id.as_ref(),
            };
            let Some(id) = id else {
                if let Err(rejected) = job {
                    wrong.push((Level::Error, format!("server {server}: {rejected}")));
                }
                continue;
            };
            if self.is_known(id) {
                let id = id.clone();
                self.repeated(&id, now, out);
            } else if self.must_wait(&job) {
                unread += 1;
            } else if self.tasks.len() >= OPEN_JOBS {
                left += 1;
            } else {
                self.accept(job, now, out);
            }
        }
        let left_over = |jobs, why| format!("{} left for the servers to offer again: {why}", count(jobs, "job"));
        if unread > 0 {
            wrong.push((Level::Error, left_over(unread, "there are records that cannot be read")));
        }
        if left > 0 {
            wrong.push((Level::Warn, left_over(left, &format!("{OPEN_JOBS} are open"))));
        }
    }

    fn is_known(&self, id: &str) -> bool {
        self.ledger.contains_key(id) || self.phase_of(id).is_some()
    }

    /// A job came again: it is not run again, and counts as fresh.
    fn repeated(&mut self, id: &str, now: Now, out: &mut Vec<Action>) {
        if let Some(job) = self.tasks.iter_mut().find(|job| *job.record.id == *id) {
            job.send_again(now.time);
            return;
        }
        let fresh = self.next_seq;
        if let Some(rank) = self.ledger.get_mut(id) {
            // Only one that comes nearer to being forgotten is worth a write.
            if *rank + (ENDED_JOBS as u64) / 2 < fresh {
                *rank = fresh;
                self.next_seq += 1;
                out.push(Action::TouchJob(id.into(), fresh));
            }
        }
    }

    /// The server has a result: the job is over.
    fn taken(&mut self, id: &str, out: &mut Vec<Action>) {
        let Some(index) = self.tasks.iter().position(|job| *job.record.id == *id) else { return };
        let mut record = self.tasks.remove(index).record;
        record.phase = Phase::Taken;
        self.ledger.insert(record.id.clone(), record.seq);
        out.push(Action::SaveJob(Box::new(record)));
        while self.ledger.len() > ENDED_JOBS {
            let Some(oldest) = self.ledger.iter().min_by_key(|(_, rank)| **rank).map(|(id, _)| id.clone()) else {
                break;
            };
            self.ledger.remove(&oldest);
            out.push(Action::RemoveJob(oldest));
        }
    }

    /// The server answered, but did not take these results: each goes alone, and one that was alone waits.
    fn not_taken(&mut self, sent: &[JobId], now: Now) {
        for id in sent {
            let Some(index) = self.tasks.iter().position(|job| job.record.id == *id) else { continue };
            let wait = self.schedule.backoff(self.tasks[index].refusals() + 1);
            self.tasks[index].refused(sent.len() > 1, now.time + wait);
        }
    }
}
