//! What a running daemon reads again when it is asked to: definitions, labels, keys, and which users helpers may run as.
//!
//! That an agent reads its own configuration again is in `reloads`.

use std::path::Path;

use super::records::Backups;
use super::recovered::{own_definitions, read_definitions};
use super::Daemon;
use crate::host::config_files;
use crate::kernel::Level;
use crate::model::event::Event;

impl Daemon {
    /// Reads again what a running daemon can read again: definitions, labels, keys, and which users helpers may run as.
    pub(super) fn reread_all(&mut self) {
        let (mut problems, mut notes) = (Vec::new(), Vec::new());
        problems.extend(self.reread_keys());
        self.reread_identities();
        problems.extend(self.reread_definitions().err());
        self.reread_labels(&mut problems, &mut notes);
        self.reopen(true);
        self.queue.push_back(Event::Reread { problems, notes });
    }

    /// Reads all definitions again.
    ///
    /// # Errors
    /// When the directory cannot be read, which is logged; nothing is changed then.
    pub(super) fn reread_definitions(&mut self) -> Result<(), Box<str>> {
        let dir = self.config.agents_dir.clone();
        let sources = match config_files::read_directory(Path::new(&*dir)) {
            Ok(Some(sources)) => sources,
            Ok(None) => {
                return Err(self.refuse_reread(format!("{dir}: there is no such directory, nothing is changed")))
            }
            Err(why) => return Err(self.refuse_reread(format!("{dir}: {why}; nothing is changed"))),
        };
        let mut backups = Backups::default();
        let mut definitions = read_definitions(self.records.store(), &dir, sources, &mut backups);
        for agent in self.state.agents() {
            own_definitions(self.records.store(), &agent.record, &mut definitions);
        }
        self.records.replace_backups(backups);
        self.log(Level::Info, &format_args!("definitions read again from \"{dir}\""));
        let (good, problems, whole) = (definitions.good, definitions.problems, definitions.complete);
        self.queue.push_back(Event::Definitions { good, problems, whole });
        Ok(())
    }

    fn refuse_reread(&mut self, why: String) -> Box<str> {
        self.log(Level::Error, &why);
        why.into()
    }
}
