//! The last good copies of the configuration files, which count while the files themselves cannot be used.

use std::io;

use super::{unless_missing, Store, RECORD};
use crate::host::disk::{list, read_file, remove, sync_dir, write, write_synced, DiskError};

/// The file in `good` with the path of the configuration file that the copy is of.
const COPIED: &str = "path";

impl Store {
    /// The last good copy of a configuration file; `None` where there is none or it cannot be read. Here and below, `file` is
    /// `bootagent.json`, or `agents.d/` and the name of the file, whatever `agents_dir` is.
    pub fn good(&self, file: &str) -> Option<Vec<u8>> {
        read_file(&self.state("good").join(file)).ok()
    }

    /// The same; `None` only where there is none.
    ///
    /// # Errors
    /// When it exists and cannot be read.
    pub fn kept(&self, file: &str) -> io::Result<Option<Vec<u8>>> {
        unless_missing(read_file(&self.state("good").join(file)))
    }

    /// The path of the configuration file that the good copy is of; `None` where it is not recorded, as by version 1.0.
    ///
    /// # Errors
    /// When the record exists and cannot be read.
    pub fn copied(&self) -> io::Result<Option<Vec<u8>>> {
        unless_missing(read_file(&self.state("good").join(COPIED)))
    }

    /// Writes the path of the configuration file that the next good copy is of, and first removes the copy of another file.
    ///
    /// # Errors
    /// As `write_identity`, or when that copy cannot be removed.
    pub fn write_copied(&self, path: &[u8], file: &str) -> Result<(), Box<DiskError>> {
        let known = self.copied();
        if known.as_ref().is_ok_and(|known| known.as_deref() == Some(path)) {
            return Ok(());
        }
        if !matches!(known, Ok(None)) {
            self.remove_good(file)?;
        }
        write(&self.state("good"), COPIED, path, true)
    }

    /// The definitions of which there is a good copy, in byte order, each with `agents.d/` before it.
    pub fn good_definitions(&self) -> Vec<String> {
        let stems = list(&self.state("good/agents.d"), RECORD).unwrap_or_default();
        stems.into_iter().map(|stem| ["agents.d/", &stem, RECORD].concat()).collect()
    }

    /// Writes the copy of a configuration file that is good; does nothing when the copy has this content already.
    ///
    /// # Errors
    /// As `write_identity`.
    pub fn keep_good(&self, file: &str, content: &[u8]) -> Result<(), Box<DiskError>> {
        if self.good(file).is_some_and(|kept| kept == content) {
            return Ok(());
        }
        let good = self.state("good");
        match file.split_once('/') {
            // The caller syncs the directory of definitions once for all of them.
            Some((dir, file)) => write_synced(&good.join(dir), file, content),
            None => write(&good, file, content, true),
        }
    }

    /// Syncs the directory of the good copies of definitions, so that they survive a power cut. A copy that is lost before
    /// is made again at the next start.
    ///
    /// # Errors
    /// When the directory cannot be synced.
    pub fn sync_good_definitions(&self) -> Result<(), Box<DiskError>> {
        sync_dir(&self.state("good/agents.d"))
    }

    /// Removes the good copy of a configuration file.
    ///
    /// # Errors
    /// As `remove_agent`.
    pub fn remove_good(&self, file: &str) -> Result<(), Box<DiskError>> {
        remove(&self.state("good").join(file))
    }
}
