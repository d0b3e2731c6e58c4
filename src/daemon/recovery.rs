//! Restores what somebody removed from under the daemon: `run_dir`, `state_dir`, the pid file.
//!
//! With each check it looks whether the directories are still the ones that the daemon locked. If not, it makes and locks
//! them again, and writes from memory what was in them. Records that failed are tried again at the same time.

use std::fs;
use std::path::Path;

use super::conditions::Condition;
use super::records::Backups;
use super::run_files::{is_file_at, is_gone, lock, lock_state};
use super::{recovered, Daemon};
use crate::error::Error;
use crate::host::config_files;
use crate::host::disk::{make_dir, reason};
use crate::host::machine::boot_id;
use crate::host::store::Store;
use crate::kernel::Level;
use crate::model::event::{Action, Event};
use crate::work::watch;

impl Daemon {
    /// Tries again what failed, and restores what was removed.
    pub(super) fn recover(&mut self) {
        // What still fails was logged when it began.
        let _ = self.retry_records();
        if self.records.can_be_read_again() {
            self.log(Level::Info, &"records that could not be read can be: all are read again");
            self.queue.push_back(Event::Reexec);
        }
        if !self.run_files.pid_file_written {
            self.write_pid_file();
        }
        self.recover_state_dir();
        self.recover_configuration_copy();
        self.retry_backups();
        self.recover_run_dir();
        self.restore_notifications();
    }

    fn write_pid_file(&mut self) {
        let written = self.run_files.write_pid_file(Path::new(&*self.config.run_dir));
        self.set_condition(Condition::PidFile, written.err().map(|error| error.to_string()).as_deref());
    }

    /// Makes `run_dir` again with all that was in it, if it was removed or emptied.
    fn recover_run_dir(&mut self) {
        let run_dir = self.config.run_dir.clone();
        let run_dir = Path::new(&*run_dir);
        let locked = is_file_at(&self.run_files.lock, &run_dir.join(watch::LOCK));
        let agents = fs::metadata(run_dir.join("agents"));
        let there = agents.map_or_else(|error| !is_gone(&error), |agents| agents.is_dir());
        if locked && !self.control.is_lost() && there {
            return self.set_condition(Condition::RunDir, None);
        }
        let removed = format!("run_dir \"{}\" was removed or emptied", run_dir.display());
        match self.make_run_dir(run_dir, locked) {
            Ok(()) => self.log(Level::Warn, &format_args!("{removed}; it was made again")),
            Err(why) => return self.set_condition(Condition::RunDir, Some(&format!("{removed}: {why}"))),
        }
        recovered::first_of_boot(&self.config, &boot_id(), &mut self.log);
        self.write_pid_file();
        let records: Vec<_> = self.state.run_records().collect();
        for record in records {
            self.save(Action::SaveRun(Box::new(record)));
        }
        self.rewrite_values();
    }

    /// Makes `run_dir`, its lock unless it is `locked`, and the socket.
    fn make_run_dir(&mut self, run_dir: &Path, locked: bool) -> Result<(), Error> {
        make_dir(run_dir)?;
        if !locked {
            self.run_files.lock = lock(&run_dir.join(watch::LOCK))?;
        }
        self.control
            .listen_again()
            .map_err(|error| format_error!("cannot listen in \"{}\": {}", run_dir.display(), reason(&error)))
    }

    /// Locks `state_dir` where that could not be done before; one that was removed or emptied is filled again.
    fn recover_state_dir(&mut self) {
        let state_dir = self.config.state_dir.clone();
        let state_dir = Path::new(&*state_dir);
        let held = self.run_files.state_lock.as_ref();
        if held.is_some_and(|lock| is_file_at(lock, &state_dir.join(watch::LOCK))) {
            return;
        }
        // A directory that cannot be made is reported with the records that cannot be written to it.
        let _ = Store::open(state_dir, Path::new(&*self.config.run_dir));
        let locked = lock_state(state_dir);
        self.set_condition(Condition::StateLock, locked.as_ref().err().map(|why| &**why));
        let Ok(Some(lock)) = locked else { return };
        // With an identity in it, it is another directory that was put or mounted in its place, and is left as it is.
        if self.run_files.state_lock.replace(lock).is_none() || self.records.store().has_identity() {
            return;
        }
        self.log(
            Level::Warn,
            &format_args!("state_dir \"{}\" was removed or emptied; it was made again", state_dir.display()),
        );
        for record in self.state.records() {
            self.save(record);
        }
        self.keep_configuration();
        let dir = self.config.agents_dir.clone();
        if let Ok(Some(sources)) = config_files::read_directory(Path::new(&*dir)) {
            // Only the copies are of interest: the state has these definitions already, or will get them when they are reread.
            let mut backups = Backups::default();
            recovered::read_definitions(self.records.store(), &dir, sources, &mut backups);
            self.records.replace_backups(backups);
        }
    }
}
