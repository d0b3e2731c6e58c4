//! Jobs as they come in, from a server or from the records of an earlier daemon; and as `bootagent jobs` lists them.
//!
//! Nothing is done for a new job before its record is on disk.

use std::rc::Rc;

use super::open_job::{Activity, OpenJob};
use crate::error::Error;
use crate::kernel::Level;
use crate::model::event::{log, Action};
use crate::model::job::{Code, Job, JobId, Outcome, RejectedJob};
use crate::model::plan::Step;
use crate::model::record::{JobRecord, Phase};
use crate::model::report::Entry;
use crate::model::state::State;

impl State {
    /// Takes over the jobs on record. Those with a damaged record are answered, as it is not known whether they were
    /// done.
    pub(in super::super) fn load_jobs(&mut self, jobs: Vec<(JobRecord, Option<Rc<Job>>)>, damaged: Vec<JobId>) {
        for (mut record, job) in jobs {
            self.jobs.seen_seq(record.seq);
            if record.phase == Phase::Taken {
                self.jobs.remember(&record);
                continue;
            }
            if record.boot_id != self.options.boot_id || record.received > self.now.time {
                record.boot_id = self.options.boot_id.clone();
                record.received = self.now.time;
            }
            let ended = record.phase == Phase::Done;
            let readable = job.is_some();
            let mut job = OpenJob::new(record, job, if ended { Activity::Ended } else { Activity::Queued });
            (job.resumed, job.recorded) = (true, true);
            self.jobs.open.push(job);
            if !ended && !readable {
                let index = self.jobs.open.len() - 1;
                self.finish(index, Code::BadJob, "its record holds no job that can be read");
            }
        }
        self.jobs.open.sort_unstable_by_key(|job| job.record.seq);
        for index in 0..self.jobs.open.len() {
            if self.jobs.open[index].record.phase == Phase::Received {
                self.cancel_queued(index);
            }
        }
        for id in damaged {
            let rejected = RejectedJob {
                id: Some(id),
                code: Code::Expired,
                message: "cancelled: its record was damaged, and whether it was done is not known".into(),
                action: "".into(),
                name: "".into(),
            };
            self.accept(Err(rejected));
            // A server does not offer this job again: it must not be dropped if its record cannot be written at once.
            self.jobs.open.iter_mut().last().into_iter().for_each(|job| job.recorded = true);
        }
    }

    /// Takes a new job, and has its record written.
    pub(in super::super) fn accept(&mut self, job: Result<Job, RejectedJob>) {
        let mut record = JobRecord::new(self.jobs.new_seq(), self.options.boot_id.clone(), self.now.time);
        let job = match job {
            Ok(job) => {
                (record.id, record.action, record.name) = (job.id.clone(), job.action.name().into(), job.name.clone());
                record.text = job.text.clone();
                Some(Rc::new(job))
            }
            Err(rejected) => {
                log(&mut self.out, Level::Error, format_args!("{rejected}"));
                (record.id, record.action, record.name) =
                    (rejected.id.unwrap_or_default(), rejected.action, rejected.name);
                record.phase = Phase::Done;
                record.outcome = Some(Outcome::new(rejected.code, &rejected.message));
                None
            }
        };
        self.out.push(Action::SaveJob(Box::new(record.clone())));
        self.jobs.open.push(OpenJob::new(record, job, Activity::Saving));
    }

    /// A job's record is on disk, or cannot be written.
    pub(in super::super) fn saved(&mut self, id: &str, result: Result<(), Error>) {
        // A record may also be written when its job is over, or while it waits for something else.
        let Some(index) = self.jobs.index(id) else { return };
        let job = &mut self.jobs.open[index];
        if !matches!(job.activity, Activity::Saving) {
            return;
        }
        match result {
            Ok(()) => {
                if !job.recorded && job.record.phase == Phase::Received {
                    let JobRecord { action, name, .. } = &job.record;
                    let target = if name.is_empty() { String::new() } else { format!(" \"{name}\"") };
                    log(&mut self.out, Level::Info, format_args!("job \"{id}\": {action}{target}"));
                }
                job.recorded = true;
                if self.jobs.unrecordable {
                    self.jobs.unrecordable = false;
                    log(&mut self.out, Level::Info, format_args!("jobs can be recorded again"));
                }
                self.record_saved(index);
            }
            Err(why) if !job.recorded => {
                let JobRecord { name, seq, .. } = self.jobs.open.remove(index).record;
                // Those behind it for the same agent must not be done before it.
                self.jobs.open.retain(|job| {
                    let stays = job.recorded || job.record.seq < seq || job.record.name != name;
                    if !stays {
                        self.out.push(Action::RemoveJob(job.record.id.clone()));
                    }
                    stays
                });
                // It is offered again with every report: only the first one is logged.
                if !self.jobs.unrecordable {
                    self.jobs.unrecordable = true;
                    let text = format!("jobs are left for the server to offer again, \"{id}\" the first: {why}");
                    self.log_and_report(Level::Error, "bootagent".into(), &text);
                }
            }
            Err(why) => {
                job.activity = Activity::SaveAgain(self.now.time + self.options.times.save);
                let wait = self.options.times.save.as_secs();
                log(
                    &mut self.out,
                    Level::Error,
                    format_args!("job \"{id}\": cannot write its record, tried again in {wait} s: {why}"),
                );
            }
        }
    }

    /// A job's record is on disk as it stands: the job goes on.
    fn record_saved(&mut self, index: usize) {
        match self.jobs.open[index].record.phase {
            Phase::Received => {
                self.jobs.open[index].activity = Activity::Queued;
                self.cancel_queued(index);
            }
            Phase::Done => {
                self.jobs.open[index].activity = Activity::Ended;
                self.exchanges.schedule.new_results(self.now.time);
            }
            Phase::Taken => {}
            Phase::Downloading | Phase::Verified | Phase::Installing | Phase::Starting | Phase::Settling => {
                self.run(index, &mut |run| run.begin());
            }
        }
    }

    /// The open jobs as `bootagent jobs` lists them.
    pub(in super::super) fn entries(&self) -> Vec<Entry> {
        let entry = |(index, job): (usize, &OpenJob)| Entry {
            id: job.record.id.clone(),
            action: job.record.action.clone(),
            name: job.record.name.clone(),
            phase: job.record.phase,
            outcome: job.record.outcome.clone().filter(|_| job.has_ended()),
            progress: self.progress_of(index).into(),
            age: Some(self.now.time.since(job.record.received)),
        };
        self.jobs.open.iter().enumerate().map(entry).collect()
    }

    fn progress_of(&self, index: usize) -> String {
        let job = &self.jobs.open[index];
        if self.is_held(index) {
            return "waits for a good configuration".to_string();
        }
        match &job.activity {
            Activity::SaveAgain(_) => "waits until its record can be written".to_string(),
            Activity::Queued => {
                let name = &job.record.name;
                match self.jobs.open[..index].iter().find(|other| other.record.name == *name && !other.has_ended()) {
                    Some(other) => format!("waits for \"{}\"", other.record.id),
                    None => {
                        let begin = job.begin_at(&self.identity.sn);
                        format!("begins in {} s", begin.since(self.now.time).as_secs())
                    }
                }
            }
            Activity::WaitingForSlot => "waits for another download".to_string(),
            Activity::FetchAgain(at, why) => {
                let (from, wait) = (job.shown_url(), at.since(self.now.time).as_secs());
                format!("download of {from} interrupted, tried again in {wait} s: {why}")
            }
            Activity::Tools(tools) if tools.again.is_some() => "waits for the package manager's lock".to_string(),
            Activity::Step if job.is_at(Step::TryServers) => "the new server list is on trial".to_string(),
            Activity::Reexec => "the daemon is being replaced".to_string(),
            Activity::Proving(at) => {
                format!("an exchange with a server must come within {} s", at.since(self.now.time).as_secs())
            }
            Activity::Ended if job.refusals > 0 => "the server does not take the result".to_string(),
            _ if job.goes_back() => "being undone".to_string(),
            _ => String::new(),
        }
    }
}
