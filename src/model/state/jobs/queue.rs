//! The jobs of a host: those that are open, and the ids of those that are over.
//!
//! An id is remembered after its job, so that a job that a server offers again is not run again. The memory holds
//! `ENDED_JOBS` ids; the one with the lowest rank is forgotten first.

use super::OpenJob;
use crate::model::job::JobId;
use crate::model::record::JobRecord;
use crate::model::spec::Name;
use crate::model::state::ENDED_JOBS;
use crate::sorted_map::SortedMap;

/// The jobs of a host.
#[derive(Clone, Debug)]
pub struct JobQueue {
    /// Open jobs in the order they were received.
    pub open: Vec<OpenJob>,
    /// Jobs whose results were taken: id and rank.
    ledger: SortedMap<JobId, u64>,
    /// The sequence number of the next job, and the next rank.
    next_seq: u64,
    /// The last new job could not be recorded.
    pub unrecordable: bool,
    /// An installer was killed: the package database may need a repair.
    pub interrupted: bool,
    /// Agents whose job has just ended.
    pub released: Vec<Name>,
    /// An agent without a definition stays because of a job: definitions are read again when one has ended.
    pub reread_on_release: bool,
}

impl JobQueue {
    /// No jobs; `interrupted`: an earlier daemon may have been killed with an installer at work.
    pub fn new(interrupted: bool) -> JobQueue {
        JobQueue {
            open: Vec::new(),
            ledger: SortedMap::new(),
            next_seq: 1,
            unrecordable: false,
            interrupted,
            released: Vec::new(),
            reread_on_release: false,
        }
    }

    /// Where in `open` the job with this id is.
    pub fn index(&self, id: &str) -> Option<usize> {
        self.open.iter().position(|job| *job.record.id == *id)
    }

    /// The open job with this id.
    pub fn get(&self, id: &str) -> Option<&OpenJob> {
        self.open.iter().find(|job| *job.record.id == *id)
    }

    /// Whether a job with this id was received before.
    pub fn is_known(&self, id: &str) -> bool {
        self.ledger.contains_key(id) || self.get(id).is_some()
    }

    /// The number for a new job.
    pub fn new_seq(&mut self) -> u64 {
        self.next_seq += 1;
        self.next_seq - 1
    }

    /// A record on disk has this number: later ones get higher ones.
    pub fn seen_seq(&mut self, seq: u64) {
        self.next_seq = self.next_seq.max(seq + 1);
    }

    /// Remembers the id of a job that is over.
    pub fn remember(&mut self, record: &JobRecord) {
        self.ledger.insert(record.id.clone(), record.seq);
    }

    /// Forgets the id with the lowest rank, and returns it; `None`: there is room for all.
    pub fn forget_oldest(&mut self) -> Option<JobId> {
        if self.ledger.len() <= ENDED_JOBS {
            return None;
        }
        let oldest = self.ledger.iter().min_by_key(|(_, rank)| **rank).map(|(id, _)| id.clone())?;
        self.ledger.remove(&oldest);
        Some(oldest)
    }

    /// A server offered a job again that is over: its id gets a new rank, which is returned. `None`: it keeps the one
    /// it has, which is high enough; a new one costs a write.
    pub fn touch(&mut self, id: &str) -> Option<u64> {
        let rank = self.ledger.get_mut(id)?;
        if *rank + (ENDED_JOBS as u64) / 2 >= self.next_seq {
            return None;
        }
        *rank = self.next_seq;
        Some(self.new_seq())
    }

    /// The ids that are remembered.
    #[cfg(test)]
    pub fn remembered(&self) -> Vec<&str> {
        self.ledger.keys().map(|id| &**id).collect()
    }
}
