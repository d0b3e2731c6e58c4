//! Jobs as they come: from a server, from the records of an earlier daemon; and as the ledger shows them.

use std::rc::Rc;

use super::task::{Doing, Task};
use crate::error::Error;
use crate::kernel::Level;
use crate::model::event::{log, Action, Now};
use crate::model::job::{Code, Job, JobId, Outcome, RejectedJob};
use crate::model::plan::{Direction, Step};
use crate::model::record::{JobRecord, Phase};
use crate::model::report::Entry;
use crate::model::state::State;

impl State {
    pub(in super::super) fn load_jobs(
        &mut self,
        jobs: Vec<(JobRecord, Option<Rc<Job>>)>,
        damaged: Vec<JobId>,
        now: Now,
        out: &mut Vec<Action>,
    ) {
        for (mut record, job) in jobs {
            self.next_seq = self.next_seq.max(record.seq + 1);
            if record.phase == Phase::Taken {
                self.ledger.insert(record.id, record.seq);
                continue;
            }
            if record.boot_id != self.options.boot_id || record.received > now.time {
                record.boot_id = self.options.boot_id.clone();
                record.received = now.time;
            }
            let ended = record.phase == Phase::Done;
            let readable = job.is_some();
            let mut task = Task::new(record, job, if ended { Doing::Ended } else { Doing::Queued });
            (task.resumed, task.recorded) = (true, true);
            self.tasks.push(task);
            if !ended && !readable {
                let index = self.tasks.len() - 1;
                self.finish(index, Code::BadJob, "its record holds no job that can be read", now, out);
            }
        }
        self.tasks.sort_unstable_by_key(|task| task.record.seq);
        for index in 0..self.tasks.len() {
            if self.tasks[index].record.phase == Phase::Received {
                self.cancel_queued(index, now, out);
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
            self.accept(Err(rejected), now, out);
            // It was on disk, so that it is not one to be offered again if this cannot be written at once.
            self.tasks.iter_mut().last().into_iter().for_each(|task| task.recorded = true);
        }
    }

    /// Takes a job that was never seen before: nothing is done before its record is on disk.
    pub(in super::super) fn accept(&mut self, job: Result<Job, RejectedJob>, now: Now, out: &mut Vec<Action>) {
        let mut record = JobRecord {
            id: "".into(),
            seq: self.next_seq,
            action: "".into(),
            name: "".into(),
            text: "".into(),
            boot_id: self.options.boot_id.clone(),
            received: now.time,
            phase: Phase::Received,
            step: None,
            direction: Direction::Forward,
            before: None,
            package: None,
            foreign: false,
            outcome: None,
        };
        self.next_seq += 1;
        let job = match job {
            Ok(job) => {
                (record.id, record.action, record.name) = (job.id.clone(), job.action.name().into(), job.name.clone());
                record.text = job.text.clone();
                Some(Rc::new(job))
            }
            Err(rejected) => {
                log(out, Level::Error, format_args!("{rejected}"));
                (record.id, record.action, record.name) =
                    (rejected.id.unwrap_or_default(), rejected.action, rejected.name);
                record.phase = Phase::Done;
                record.outcome = Some(Outcome::new(rejected.code, &rejected.message));
                None
            }
        };
        out.push(Action::SaveJob(Box::new(record.clone())));
        self.tasks.push(Task::new(record, job, Doing::Saving));
    }

    /// A job's record is on disk, or cannot be written.
    pub(in super::super) fn saved(&mut self, id: &str, result: Result<(), Error>, now: Now, out: &mut Vec<Action>) {
        let Some(index) = self.index(id) else { return };
        let task = &mut self.tasks[index];
        if !matches!(task.doing, Doing::Saving) {
            return;
        }
        match result {
            Ok(()) => {
                if !task.recorded && task.record.phase == Phase::Received {
                    let JobRecord { action, name, .. } = &task.record;
                    let on = if name.is_empty() { String::new() } else { format!(" \"{name}\"") };
                    log(out, Level::Info, format_args!("job \"{id}\": {action}{on}"));
                }
                task.recorded = true;
                if self.unrecordable {
                    self.unrecordable = false;
                    log(out, Level::Info, format_args!("jobs can be recorded again"));
                }
                if self.shutdown.is_some() && !task.has_ended() {
                    // The next daemon goes on from here.
                    task.doing = Doing::Queued;
                } else {
                    self.recorded(index, now, out);
                }
            }
            Err(why) if !task.recorded => {
                self.tasks.remove(index);
                // Offered again with every report: said once.
                if !self.unrecordable {
                    self.unrecordable = true;
                    let text = format!("jobs are left for the server to offer again, \"{id}\" the first: {why}");
                    self.incident("bootagent".into(), &text, now);
                    out.push(Action::Log(Level::Error, text));
                }
            }
            Err(why) => {
                task.doing = Doing::SaveAgain(now.time + self.options.times.save);
                let wait = self.options.times.save.as_secs();
                log(out, Level::Error, format_args!("job \"{id}\" waits, tried again in {wait} s: {why}"));
            }
        }
    }

    /// A job's record is on disk as it stands.
    fn recorded(&mut self, index: usize, now: Now, out: &mut Vec<Action>) {
        match self.tasks[index].record.phase {
            Phase::Received => {
                self.tasks[index].doing = Doing::Queued;
                self.cancel_queued(index, now, out);
            }
            Phase::Done => {
                self.tasks[index].doing = Doing::Ended;
                self.schedule.new_results(now.time);
            }
            Phase::Taken => {}
            Phase::Downloading | Phase::Verified | Phase::Installing | Phase::Starting | Phase::Settling => {
                self.run(index, now, out, |run| run.begin());
            }
        }
    }

    /// The open jobs as the ledger shows them.
    pub(in super::super) fn entries(&self, now: Now) -> Vec<Entry> {
        let entry = |(index, task): (usize, &Task)| Entry {
            id: task.record.id.clone(),
            action: task.record.action.clone(),
            name: task.record.name.clone(),
            phase: task.record.phase,
            outcome: task.record.outcome.clone().filter(|_| task.has_ended()),
            progress: self.progress_of(index, now).into(),
        };
        self.tasks.iter().enumerate().map(entry).collect()
    }

    fn progress_of(&self, index: usize, now: Now) -> String {
        let task = &self.tasks[index];
        if self.is_held(index) {
            return "waits for a good configuration".to_string();
        }
        match &task.doing {
            Doing::SaveAgain(_) => "waits until its record can be written".to_string(),
            Doing::Queued => {
                let name = &task.record.name;
                match self.tasks[..index].iter().find(|other| other.record.name == *name && !other.has_ended()) {
                    Some(other) => format!("waits for \"{}\"", other.record.id),
                    None => {
                        let begin = task.begin_at(&self.identity.sn);
                        format!("begins in {} s", begin.since(now.time).as_secs())
                    }
                }
            }
            Doing::WaitingForSlot => "waits for another download".to_string(),
            Doing::FetchAgain(at, why) => {
                format!("download interrupted, tried again in {} s: {why}", at.since(now.time).as_secs())
            }
            Doing::Tools(tools) if tools.again.is_some() => "waits for the package manager's lock".to_string(),
            Doing::Step if task.is_at(Step::TryServers) => "the new server list is on trial".to_string(),
            Doing::Reexec => "the daemon is being replaced".to_string(),
            Doing::Proving(at) => {
                format!("an exchange with a server must come within {} s", at.since(now.time).as_secs())
            }
            Doing::Ended if task.sending.refusals > 0 => "the server does not take the result".to_string(),
            _ if task.goes_back() => "being undone".to_string(),
            _ => String::new(),
        }
    }
}
