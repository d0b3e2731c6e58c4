//! What goes wrong with the host and not with an agent: said when it begins, tried again with each check, and said once
//! more when it works.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::parent_id;
use std::path::Path;
use std::time::Duration;

use super::reexec::REEXEC_FILE;
use super::{recovered, startup, Copies, Daemon};
use crate::error::Error;
use crate::host::config_files;
use crate::host::disk::{make_dir, publish, reason, DiskError};
use crate::host::store::{can_be_read, Store};
use crate::kernel::{Level, Pid, Sig};
use crate::model::event::{Action, Event};
use crate::sys::{monotonic, process};
use crate::work::watch;

/// What `fares` calls the records.
const RECORDS: &str = "keeping records";

/// The key of the record of a shutdown in `unsaved`.
const SHUTDOWN: &str = "run";

/// What a reexec takes of `run_dir`, bytes: the output of a trial, its process id, the handover.
const ROOM: usize = 3 * 4096;

impl Daemon {
    /// How something fared that may go wrong again and again: what is said is only that this changed.
    pub(super) fn set_condition(&mut self, what: &'static str, problem: Option<&str>) {
        match problem {
            Some(problem) if !self.troubles.contains_key(what) => {
                self.log(Level::Error, &format_args!("{problem} (said once while {what} does not work)"));
                self.troubles.insert(what, problem.into());
            }
            Some(_) => {}
            None if self.troubles.remove(what).is_some() => self.log(Level::Info, &format_args!("{what} works again")),
            None => {}
        }
    }

    /// Writes or removes a record; what does not work now is done again with each check.
    pub(super) fn save(&mut self, action: Action) {
        let key = match &action {
            Action::SaveAgent(record) => format!("agent {}", record.name),
            Action::RemoveAgent(name) => {
                self.unsaved.remove(&format!("run {name}"));
                format!("agent {name}")
            }
            Action::SaveRun(run) => format!("run {}", run.name),
            Action::SaveStop(_) => SHUTDOWN.to_string(),
            Action::SaveJob(record) => format!("job {}", record.id),
            Action::RemoveJob(id) => format!("job {id}"),
            Action::SaveSettings(_) => "settings".to_string(),
            Action::SaveIdentity(_) => "identity".to_string(),
            _ => return,
        };
        let result = self.record(&action);
        match &result {
            Ok(()) => drop(self.unsaved.remove(&key)),
            Err(_) => self.unsaved.insert(key, action),
        }
        self.note_record_result(result);
    }

    /// Does what an action says of a record.
    fn record(&self, action: &Action) -> Result<(), Box<DiskError>> {
        match action {
            Action::SaveAgent(record) => self.store.write_agent(record, &self.unread),
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

    /// Does again what did not work; an error while some of it still does not.
    pub(super) fn retry_records(&mut self) -> Result<(), Error> {
        if !self.unsaved.is_empty() {
            let mut result = Ok(());
            let mut unsaved = std::mem::take(&mut self.unsaved);
            unsaved.retain(|_, action| match self.record(action) {
                Ok(()) => false,
                failed => {
                    result = failed;
                    true
                }
            });
            self.unsaved = unsaved;
            self.note_record_result(result);
        }
        // What matters to this boot only holds up no job.
        if self.unsaved.keys().all(|key| key.starts_with("run")) {
            return Ok(());
        }
        Err(self.troubles.get(RECORDS).map(|trouble| &**trouble).unwrap_or_default().into())
    }

    /// Sees to it that the next image finds all there is to know, and room for what it is handed.
    ///
    /// # Errors
    /// What cannot be written.
    pub(super) fn flush_records(&mut self) -> Result<(), Error> {
        let _ = self.retry_records();
        let run_dir = Path::new(&*self.config.run_dir);
        publish(run_dir, REEXEC_FILE, &" ".repeat(ROOM))?;
        let _ = fs::remove_file(run_dir.join(REEXEC_FILE));
        match self.troubles.get(RECORDS) {
            Some(trouble) if !self.unsaved.is_empty() => Err((**trouble).into()),
            _ => Ok(()),
        }
    }

    /// At the end of a shutdown: where that it was one is not on record, nothing is left to say that its agents ran. There is
    /// always room for that.
    pub(super) fn forget_stopped(&self) {
        if self.unsaved.contains_key(SHUTDOWN) {
            for agent in self.state.agents() {
                let _ = self.store.remove_run(agent.name());
            }
        }
    }

    fn write_pid_file(&mut self) {
        let told = startup::write_pid_file(Path::new(&*self.config.run_dir));
        self.pid_file_written = told.is_ok();
        self.set_condition("writing the pid file", told.err().map(|error| error.to_string()).as_deref());
    }

    /// Why the record of an agent is not as it should be, if so; all that are not are tried once more.
    pub(super) fn record_problem(&mut self, name: &str) -> Option<Box<str>> {
        let key = format!("agent {name}");
        self.unsaved.get(&key)?;
        let _ = self.retry_records();
        self.unsaved.get(&key).and_then(|_| self.troubles.get(RECORDS).cloned())
    }

    /// Says what became of writing or removing a record.
    pub(super) fn note_record_result(&mut self, result: Result<(), Box<DiskError>>) {
        match result {
            Err(error) => self.set_condition(RECORDS, Some(&error.to_string())),
            Ok(()) if self.unsaved.is_empty() => self.set_condition(RECORDS, None),
            Ok(()) => {}
        }
    }

    /// Keeps copies of the definitions that are good, for so long, one at least: neither the first start of hundreds of
    /// agents nor the end of one waits for the disk to have them all.
    pub(super) fn write_backups(&mut self, time: Duration) {
        if self.pending_backups.is_empty() {
            return;
        }
        let until = monotonic() + time;
        let mut kept = Ok(());
        while let Some((file, text)) = self.pending_backups.pop() {
            kept = kept.and(self.store.keep_good(&file, &text));
            if monotonic() >= until {
                break;
            }
        }
        if self.pending_backups.is_empty() {
            self.pending_backups = Copies::default();
            kept = kept.and(self.store.sync_good_definitions());
        }
        let problem = kept.err().map(|error| error.to_string());
        self.set_condition("copying good definitions", problem.as_deref());
    }

    /// Does again what did not work, and makes again what somebody removed.
    pub(super) fn recover(&mut self) {
        // What still does not work was said when it began.
        let _ = self.retry_records();
        if !self.unread.is_empty() && self.unsaved.is_empty() && can_be_read(&self.unread) {
            self.log(Level::Info, &"records that could not be read can be: all are read again");
            self.queue.push_back(Event::Reexec);
        }
        let run_dir = self.config.run_dir.clone();
        let run_dir = Path::new(&*run_dir);
        if !self.pid_file_written {
            self.write_pid_file();
        }
        self.recover_state_dir();
        self.mend_guards();
        let unlocked = !is_file_at(&self.lock, &run_dir.join(watch::LOCK));
        if !unlocked && !self.control.is_lost() && run_dir.join("agents").is_dir() {
            return self.set_condition("run_dir", None);
        }
        let mended = make_dir(run_dir).map_err(Error::from).and_then(|()| {
            if unlocked {
                self.lock = startup::lock(&run_dir.join(watch::LOCK))?;
            }
            self.control
                .listen_again()
                .map_err(|error| format_error!("cannot listen in \"{}\": {}", run_dir.display(), reason(&error)))
        });
        let lost = format!("run_dir \"{}\" was removed or emptied", run_dir.display());
        match mended {
            Ok(()) => {
                self.log(Level::Warn, &format_args!("{lost}, made again"));
                recovered::first_of_boot(&self.config, &crate::host::store::boot_id(), &mut self.log);
                self.write_pid_file();
                // A keeper looks after its own file when it wakes up; to others this says nothing.
                if let Some(parent) = i32::try_from(parent_id()).ok().and_then(Pid::new) {
                    let _ = process::signal(parent, Sig::CHLD);
                }
                let records: Vec<_> = self.state.run_records().collect();
                for record in records {
                    self.save(Action::SaveRun(Box::new(record)));
                }
            }
            Err(why) => self.set_condition("run_dir", Some(&format!("{lost}: {why}"))),
        }
    }

    /// Remembers what signatures are asked for, where that is not on record.
    fn mend_guards(&mut self) {
        let guards = self.config.guards();
        let known = self.store.guards().is_ok_and(|known| known.as_deref() == Some(guards.as_bytes()));
        let kept = if guards.is_empty() || known { Ok(()) } else { self.keep_configuration() };
        self.set_condition("copying the configuration", kept.err().map(|error| error.to_string()).as_deref());
    }

    /// Keeps a copy of the configuration file where it is good; else only what the one in use asks of signatures.
    fn keep_configuration(&self) -> Result<(), Box<DiskError>> {
        let loaded = config_files::read_config(&self.config_path);
        match loaded.text.filter(|_| loaded.problems.is_empty()) {
            Some(text) => startup::keep_config(&self.store, &self.config_path, &loaded.config, &text),
            None if self.config.guards().is_empty() => Ok(()),
            None => self.store.write_guards(Some(&self.config.guards())),
        }
    }

    /// Locks `state_dir` where that could not be done before; one that was removed or emptied is filled again.
    fn recover_state_dir(&mut self) {
        let state_dir = self.config.state_dir.clone();
        let state_dir = Path::new(&*state_dir);
        if self.state_lock.as_ref().is_some_and(|lock| is_file_at(lock, &state_dir.join(watch::LOCK))) {
            return;
        }
        // That it cannot be made is told with what cannot be recorded.
        let _ = Store::open(state_dir, Path::new(&*self.config.run_dir));
        let lock = startup::lock_state(state_dir);
        self.set_condition("locking state_dir", lock.as_ref().err().map(|why| &**why));
        let Ok(Some(lock)) = lock else { return };
        // Where there is another identity, another directory was put in its place, or mounted there.
        if self.state_lock.replace(lock).is_none() || self.store.has_identity() {
            return;
        }
        self.log(
            Level::Warn,
            &format_args!("state_dir \"{}\" was removed or emptied, made again", state_dir.display()),
        );
        for record in self.state.records() {
            self.save(record);
        }
        let _ = self.keep_configuration();
        let dir = self.config.agents_dir.clone();
        if let Ok(Some(sources)) = config_files::read_directory(Path::new(&*dir)) {
            let _ = recovered::read_definitions(&self.store, &dir, sources, &mut self.pending_backups, &mut Vec::new());
        }
    }
}

/// Whether this file, which we hold, is still the one at `path`.
pub(super) fn is_file_at(file: &File, path: &Path) -> bool {
    let identity = |found: fs::Metadata| (found.dev(), found.ino());
    let (held, there) = (file.metadata().map(identity), fs::symlink_metadata(path).map(identity));
    held.is_ok_and(|held| there.is_ok_and(|there| held == there))
}
