//! The daemon's records, and what becomes of those that cannot be written or read just now.
//!
//! Actions that save or remove a record come in; they go to the store at once. One that fails is kept, by the record it is
//! about, and tried again with each check and before each job is saved. Records that could not be read at the start are
//! remembered here too, and so are copies of good definitions that still have to be written. This is the one place that
//! writes records; it decides nothing about their content.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::conditions::Condition;
use super::reexec::REEXEC_FILE;
use super::Daemon;
use crate::error::Error;
use crate::host::disk::{publish, DiskError};
use crate::host::store::{can_be_read, Store};
use crate::model::event::{Action, Event};
use crate::model::job::JobId;
use crate::model::record::{JobRecord, Phase};
use crate::model::spec::Name;
use crate::sorted_map::SortedMap;
use crate::sys::monotonic;

/// What a reexec needs of `run_dir`, bytes: a page each for the output of a trial, its process id, and the reexec data.
const REEXEC_ROOM: usize = 3 * 4096;

/// The record that an action is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum RecordKey {
    Agent(Name),
    Run(Name),
    Shutdown,
    Job(JobId),
    Settings,
    Identity,
}

impl RecordKey {
    /// The record that `action` saves or removes, if it does.
    fn of(action: &Action) -> Option<RecordKey> {
        Some(match action {
            Action::SaveAgent(record) => RecordKey::Agent(record.name.clone()),
            Action::RemoveAgent(name) => RecordKey::Agent(name.clone()),
            Action::SaveRun(run) => RecordKey::Run(run.name.clone()),
            Action::SaveStop(_) => RecordKey::Shutdown,
            Action::SaveJob(record) => RecordKey::Job(record.id.clone()),
            Action::RemoveJob(id) => RecordKey::Job(id.clone()),
            Action::SaveSettings(_) => RecordKey::Settings,
            Action::SaveIdentity(_) => RecordKey::Identity,
            _ => return None,
        })
    }

    /// Whether the record is of use in this boot only.
    fn is_of_this_boot(&self) -> bool {
        matches!(self, RecordKey::Run(_) | RecordKey::Shutdown)
    }
}

/// Files below `good/` and their content. All of it is in one piece of memory, which goes back to the kernel at the end: what
/// an allocator has for hundreds of small pieces stays with the process.
#[derive(Debug, Default)]
pub(super) struct Backups {
    bytes: Vec<u8>,
    /// Where the name of a file begins in `bytes`, and where its text does.
    places: Vec<(usize, usize)>,
}

impl Backups {
    /// Adds a file and its content.
    pub fn push(&mut self, file: &str, text: &[u8]) {
        self.places.push((self.bytes.len(), self.bytes.len() + file.len()));
        self.bytes.extend_from_slice(file.as_bytes());
        self.bytes.extend_from_slice(text);
    }

    /// Removes the last one: a file and its content.
    fn pop(&mut self) -> Option<(String, Vec<u8>)> {
        let (begin, middle) = self.places.pop()?;
        let text = self.bytes.split_off(middle);
        let file = String::from_utf8_lossy(&self.bytes.split_off(begin)).into_owned();
        Some((file, text))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }
}

/// The store, and what still has to be done with it.
pub(super) struct Records {
    store: Store,
    /// Records that could not be written or removed, with what is to be done again.
    unsaved: SortedMap<RecordKey, Action>,
    /// Files and directories that could not be read at the start.
    unreadable: Vec<PathBuf>,
    /// Copies of good definitions that are still to be written.
    pub pending_backups: Backups,
    /// Those that could not be written; the next check tries them again.
    failed_backups: Backups,
}

impl Records {
    /// `unreadable`: what could not be read of the store and beside it.
    pub fn new(store: Store, unreadable: Vec<PathBuf>, pending_backups: Backups) -> Records {
        let failed_backups = Backups::default();
        Records { store, unsaved: SortedMap::new(), unreadable, pending_backups, failed_backups }
    }

    /// Where the records are.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Whether everything could be read at the start.
    pub fn are_complete(&self) -> bool {
        self.unreadable.is_empty()
    }

    /// Whether something could not be read at the start, and all of it can be now.
    pub fn can_be_read_again(&self) -> bool {
        !self.unreadable.is_empty() && self.unsaved.is_empty() && can_be_read(&self.unreadable)
    }

    /// Replaces the copies that are to be written.
    pub fn replace_backups(&mut self, backups: Backups) {
        (self.pending_backups, self.failed_backups) = (backups, Backups::default());
    }

    fn apply(&self, action: &Action) -> Result<(), Box<DiskError>> {
        match action {
            Action::SaveAgent(record) => self.store.write_agent(record, &self.unreadable),
            Action::RemoveAgent(name) => self.store.remove_run(name).and(self.store.remove_agent(name)),
            Action::SaveRun(run) => self.store.write_run(run),
            Action::SaveStop(stop) => self.store.write_stop(stop),
            Action::SaveJob(record) => self.store.write_job(record),
            Action::RemoveJob(id) => self.store.remove_job(id),
            Action::SaveSettings(settings) => self.store.write_settings(settings),
            Action::SaveIdentity(identity) => self.store.write_identity(identity),
            _ => Ok(()),
        }
    }

    /// Tries again what failed; the last error, if something fails again.
    fn retry(&mut self) -> Result<(), Box<DiskError>> {
        let mut result = Ok(());
        let mut unsaved = std::mem::take(&mut self.unsaved);
        unsaved.retain(|_, action| match self.apply(action) {
            Ok(()) => false,
            failed => {
                result = failed;
                true
            }
        });
        self.unsaved = unsaved;
        result
    }
}

impl Daemon {
    /// Writes or removes a record; an attempt that fails is repeated with each check.
    pub(super) fn save(&mut self, action: Action) {
        let Some(key) = RecordKey::of(&action) else { return };
        if let Action::RemoveAgent(name) = &action {
            self.records.unsaved.remove(&RecordKey::Run(name.clone()));
        }
        let result = self.records.apply(&action);
        let unsaved = &mut self.records.unsaved;
        match &result {
            Ok(()) => drop(unsaved.remove(&key)),
            Err(_) => unsaved.insert(key, action),
        }
        self.note_record_result(result);
    }

    /// Writes the record of a job, after all other records: a job must not be further than what it has changed.
    pub(super) fn save_job(&mut self, record: Box<JobRecord>) {
        let result = self
            .retry_records()
            .and_then(|()| self.records.store.write_job(&record).map_err(|error| error.to_string().into()));
        let id = record.id.clone();
        if result.is_err() && record.phase == Phase::Taken {
            // The state does not try this one again, and until it is written the next daemon would send the result again.
            self.records.unsaved.insert(RecordKey::Job(id.clone()), Action::SaveJob(record));
        }
        self.queue.push_back(Event::Saved(id, result));
    }

    /// Tries again what failed.
    ///
    /// # Errors
    /// When a record that outlives this boot still cannot be written.
    pub(super) fn retry_records(&mut self) -> Result<(), Error> {
        if !self.records.unsaved.is_empty() {
            let result = self.records.retry();
            self.note_record_result(result);
        }
        if self.records.unsaved.keys().all(RecordKey::is_of_this_boot) {
            return Ok(());
        }
        Err(self.conditions.problem(Condition::Records).unwrap_or_default().into())
    }

    /// Makes sure that the new binary finds all records, and that there is room for the reexec data.
    ///
    /// # Errors
    /// What cannot be written.
    pub(super) fn flush_records(&mut self) -> Result<(), Error> {
        let _ = self.retry_records();
        let run_dir = Path::new(&*self.config.run_dir);
        publish(run_dir, REEXEC_FILE, &" ".repeat(REEXEC_ROOM))?;
        let _ = fs::remove_file(run_dir.join(REEXEC_FILE));
        match self.conditions.problem(Condition::Records) {
            Some(problem) if !self.records.unsaved.is_empty() => Err(problem.into()),
            _ => Ok(()),
        }
    }

    /// At the end of a shutdown whose record could not be written: removes the records of the runs, so that the next daemon
    /// does not take the agents for running ones. There is always room to remove a file.
    pub(super) fn forget_stopped(&self) {
        if self.records.unsaved.contains_key(&RecordKey::Shutdown) {
            for agent in self.state.agents() {
                let _ = self.records.store.remove_run(agent.name());
            }
        }
    }

    /// Why the record of an agent could not be written, after one more attempt; `None` when it is written.
    pub(super) fn record_problem(&mut self, name: &str) -> Option<Box<str>> {
        let key = RecordKey::Agent(name.into());
        self.records.unsaved.get(&key)?;
        let _ = self.retry_records();
        self.records.unsaved.get(&key).and_then(|_| self.conditions.problem(Condition::Records)).map(Into::into)
    }

    /// Notes whether a record could be written or removed.
    pub(super) fn note_record_result(&mut self, result: Result<(), Box<DiskError>>) {
        match result {
            Err(error) => self.set_condition(Condition::Records, Some(&error.to_string())),
            Ok(()) if self.records.unsaved.is_empty() && self.signing.is_durable() => {
                self.set_condition(Condition::Records, None)
            }
            Ok(()) => {}
        }
    }

    /// Writes copies of good definitions for `time`, one at least: neither the first start of hundreds of agents nor the end
    /// of one waits until all are on disk.
    pub(super) fn write_backups(&mut self, time: Duration) {
        let until = monotonic() + time;
        while let Some((file, text)) = self.records.pending_backups.pop() {
            let mut written = self.records.store.keep_good(&file, &text);
            if self.records.pending_backups.is_empty() {
                self.records.pending_backups = Backups::default();
                written = written.and_then(|()| self.records.store.sync_good_definitions());
            }
            if let Err(error) = written {
                self.records.failed_backups.push(&file, &text);
                self.set_condition(Condition::Backups, Some(&error.to_string()));
            }
            if monotonic() >= until {
                break;
            }
        }
    }

    /// Has the copies that failed written again in the next idle moments.
    pub(super) fn retry_backups(&mut self) {
        let Records { pending_backups, failed_backups, .. } = &mut self.records;
        if pending_backups.is_empty() {
            std::mem::swap(pending_backups, failed_backups);
        }
        if pending_backups.is_empty() {
            self.set_condition(Condition::Backups, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Time;
    use crate::model::record::StopRecord;

    #[test]
    fn only_records_of_this_boot_hold_up_no_job() {
        for (key, of_this_boot) in [
            (RecordKey::Run("web".into()), true),
            (RecordKey::Shutdown, true),
            // What decides is the kind of record, not how its name is spelled.
            (RecordKey::Agent("run".into()), false),
            (RecordKey::Job("run 1".into()), false),
            (RecordKey::Settings, false),
            (RecordKey::Identity, false),
        ] {
            assert_eq!(key.is_of_this_boot(), of_this_boot, "{key:?}");
        }
    }

    #[test]
    fn an_action_names_its_record() {
        for (action, want) in [
            (Action::RemoveAgent("web".into()), Some(RecordKey::Agent("web".into()))),
            (Action::RemoveJob("1".into()), Some(RecordKey::Job("1".into()))),
            (Action::SaveStop(StopRecord { boot_id: "b".into(), at: Time::default() }), Some(RecordKey::Shutdown)),
            (Action::Measure, None),
        ] {
            assert_eq!(RecordKey::of(&action), want);
        }
    }

    #[test]
    fn backups_come_out_as_they_went_in() {
        let mut backups = Backups::default();
        backups.push("agents.d/a.json", b"first");
        backups.push("agents.d/b.json", b"");
        assert_eq!(backups.pop(), Some(("agents.d/b.json".to_string(), Vec::new())));
        assert_eq!(backups.pop(), Some(("agents.d/a.json".to_string(), b"first".to_vec())));
        assert!(backups.is_empty() && backups.pop().is_none());
    }
}
