//! Records on disk: those that must survive a power cut under `state_dir`, those that matter to this boot only under
//! `run_dir`.
//!
//! A durable record is written as temporary file, fsync, rename, fsync of the directory (`disk`), so that at any moment
//! the old or the new one is complete on disk. A record that does not parse is renamed to `*.corrupt` and reported. Nothing
//! here decides what is written when.

mod good;
mod read;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::host::disk::{
    list, make_dir, make_durable_dir, make_own_dirs, read_file, remove, remove_durable, set_aside, with_context, write,
    DiskError, TEMPORARY,
};
use crate::model::record::{AgentRecord, Identity, JobRecord, RunRecord, Settings, StopRecord};
use crate::wire::config::Config;
use crate::wire::record;
use read::is_temporary;
pub use read::{can_be_read, Corrupt, Stored};

const IDENTITY: &str = "identity.json";
const SETTINGS: &str = "settings.json";
const STOP: &str = "stop";
const NONCES: &str = "nonces";
const DOWNLOADS: &str = "downloads";

/// What is downloaded is not verified yet, so nobody else may see it.
const DOWNLOADS_MODE: u32 = 0o700;

const GUARDS: &str = "guards";
const RECORD: &str = ".json";

/// The ending of the names of files in `run_dir` with the values that an agent's programs were started with.
pub const VALUES: &str = ".env";

/// The beginning of their names.
pub const VALUES_PREFIX: &str = "values-";

/// The largest counter of nonces that is accepted. No host reaches it, and a larger one could overflow.
const NONCES_MAX: u64 = 1 << 62;

/// The ending of the name of a record that was set aside.
pub const CORRUPT: &str = ".corrupt";

/// The directories of records, packages and downloads.
#[derive(Debug)]
pub struct Store {
    state_dir: PathBuf,
    run_dir: PathBuf,
    /// Messages about files that were in the place of directories and have been set aside.
    moved: Vec<String>,
}

impl Store {
    /// The store in these directories as they are, for a daemon that must run although `open` failed.
    pub fn new(state_dir: &Path, run_dir: &Path) -> Store {
        Store { state_dir: state_dir.into(), run_dir: run_dir.into(), moved: Vec::new() }
    }

    /// The same for a daemon with this configuration.
    pub fn of(config: &Config) -> Store {
        Store::new(Path::new(&*config.state_dir), Path::new(&*config.run_dir))
    }

    /// The path of this name in the state directory.
    fn state(&self, name: &str) -> PathBuf {
        self.state_dir.join(name)
    }

    /// The directory of the records of the agents' runs.
    fn runs(&self) -> PathBuf {
        self.run_dir.join("agents")
    }

    /// Makes the directories, and removes temporary files that a crash left.
    ///
    /// # Errors
    /// When a directory does not exist and cannot be made.
    pub fn open(state_dir: &Path, run_dir: &Path) -> Result<Store, Box<DiskError>> {
        make_durable_dir(state_dir)?;
        make_dir(run_dir)?;
        let mut store = Store::new(state_dir, run_dir);
        let records = ["agents", "jobs", "good", "good/agents.d"].map(|dir| state_dir.join(dir));
        let records = records.into_iter().chain([run_dir.join("agents")]).collect::<Vec<_>>();
        let mut dirs: Vec<_> = records.iter().map(|dir| (dir.clone(), 0o755)).collect();
        dirs.push((state_dir.join("packages"), 0o755));
        dirs.push((state_dir.join(DOWNLOADS), DOWNLOADS_MODE));
        for (dir, _) in &dirs {
            if let Some(aside) = set_aside(dir, CORRUPT) {
                let text = format!("\"{}\" was no directory; set aside as \"{}\"", dir.display(), aside.display());
                store.moved.push(text);
            }
        }
        make_own_dirs(&dirs)?;
        for dir in records.iter().map(PathBuf::as_path).chain([state_dir]) {
            remove_temporary(dir);
        }
        Ok(store)
    }

    /// Whether a record of the host's identity exists.
    pub fn has_identity(&self) -> bool {
        self.state(IDENTITY).exists()
    }

    /// Writes the host's identity.
    ///
    /// # Errors
    /// When it cannot be written; the old record is still there then.
    pub fn write_identity(&self, identity: &Identity) -> Result<(), Box<DiskError>> {
        write_durable(&self.state_dir, IDENTITY, &record::write_identity(identity))
    }

    /// Writes the settings that a server gave.
    ///
    /// # Errors
    /// As `write_identity`.
    pub fn write_settings(&self, settings: &Settings) -> Result<(), Box<DiskError>> {
        write_durable(&self.state_dir, SETTINGS, &record::write_settings(settings))
    }

    /// The first number of a nonce that was never used; `None` where there is no record of it, or it cannot be read.
    pub fn nonces(&self) -> Option<u64> {
        let content = read_file(&self.state(NONCES)).ok()?;
        std::str::from_utf8(&content).ok()?.trim().parse().ok().filter(|next| *next <= NONCES_MAX)
    }

    /// Writes the first number of a nonce that was never used.
    ///
    /// # Errors
    /// As `write_identity`.
    pub fn write_nonces(&self, next: u64) -> Result<(), Box<DiskError>> {
        write_durable(&self.state_dir, NONCES, &format!("{next}\n"))
    }

    /// Which signatures the last good configuration required; `None` when it required none.
    ///
    /// # Errors
    /// When the record exists and cannot be read.
    pub fn guards(&self) -> io::Result<Option<Vec<u8>>> {
        unless_missing(read_file(&self.state(GUARDS)))
    }

    /// Writes which signatures the configuration requires; `None`: it requires none.
    ///
    /// # Errors
    /// As `write_identity`, or when the record of earlier ones cannot be removed.
    pub fn write_guards(&self, guards: Option<&str>) -> Result<(), Box<DiskError>> {
        match guards {
            Some(guards) if self.guards().is_ok_and(|kept| kept.as_deref() == Some(guards.as_bytes())) => Ok(()),
            Some(guards) => write_durable(&self.state_dir, GUARDS, guards),
            None => remove_durable(&self.state_dir, GUARDS),
        }
    }

    /// Writes an agent's record. Where the old record could not be read at the start (it is in `unread`), what the new one
    /// lacks is taken from the old one now.
    ///
    /// # Errors
    /// As `write_identity`, and when the old record still cannot be read.
    pub fn write_agent(&self, agent: &AgentRecord, unread: &[PathBuf]) -> Result<(), Box<DiskError>> {
        let path = record_in(&self.state("agents"), &agent.name);
        if unread.iter().any(|unread| path.starts_with(unread)) {
            match read_file(&path) {
                Ok(text) => {
                    let old = std::str::from_utf8(&text).ok().and_then(|text| record::read_agent(text).ok());
                    return self.write_agent(&agent.merged_onto(old.unwrap_or_default()), &[]);
                }
                Err(error) if is_temporary(&error) => return with_context(Err(error), "read", &path),
                Err(_) => {}
            }
        }
        write_record(&self.state("agents"), &agent.name, &record::write_agent(agent), true)
    }

    /// Whether an agent's record was set aside, now or earlier.
    pub fn agent_is_corrupt(&self, name: &str) -> bool {
        self.state("agents").join([name, RECORD, CORRUPT].concat()).exists()
    }

    /// Writes a job's record.
    ///
    /// # Errors
    /// As `write_identity`.
    pub fn write_job(&self, job: &JobRecord) -> Result<(), Box<DiskError>> {
        write_record(&self.state("jobs"), &job.id, &record::write_job(job), true)
    }

    /// Writes the record of an agent's run, which need not outlive the boot.
    ///
    /// # Errors
    /// When it cannot be written. On a full disk the old record is removed, as it names a process that has ended.
    pub fn write_run(&self, run: &RunRecord) -> Result<(), Box<DiskError>> {
        write_record(&self.runs(), &run.name, &record::write_run(run), false)
    }

    /// Writes the record of a shutdown.
    ///
    /// # Errors
    /// As `write_identity`.
    pub fn write_stop(&self, stop: &StopRecord) -> Result<(), Box<DiskError>> {
        write_record(&self.run_dir, STOP, &record::write_stop(stop), false)
    }

    /// Removes an agent's record; one that does not exist is no error.
    ///
    /// # Errors
    /// When it exists and cannot be removed.
    pub fn remove_agent(&self, name: &str) -> Result<(), Box<DiskError>> {
        remove_durable(&self.state("agents"), &[name, RECORD].concat())
    }

    /// Removes a job's record, and an earlier one that was set aside.
    ///
    /// # Errors
    /// As `remove_agent`.
    pub fn remove_job(&self, id: &str) -> Result<(), Box<DiskError>> {
        let dir = self.state("jobs");
        remove(&dir.join([id, RECORD, CORRUPT].concat()))?;
        remove_durable(&dir, &[id, RECORD].concat())
    }

    /// Removes the record of an agent's run.
    ///
    /// # Errors
    /// As `remove_agent`.
    pub fn remove_run(&self, name: &str) -> Result<(), Box<DiskError>> {
        remove(&record_in(&self.runs(), name))
    }

    /// The directory of an agent's packages.
    pub fn packages_dir(&self, name: &str) -> PathBuf {
        let packages = self.state("packages");
        // An empty name would add a slash, and a link in place of the directory would be followed.
        if name.is_empty() {
            packages
        } else {
            packages.join(name)
        }
    }

    /// The path of the download with this name, see `package::download_name`.
    pub fn download(&self, name: &str) -> PathBuf {
        self.state(DOWNLOADS).join(name)
    }

    /// Makes the directory of downloads that are not verified yet, with mode 0700.
    ///
    /// # Errors
    /// When it cannot be made, or cannot be given the mode.
    pub fn make_downloads(&self) -> Result<(), Box<DiskError>> {
        make_own_dirs(&[(self.state(DOWNLOADS), DOWNLOADS_MODE)])
    }

    /// The names of all downloads on disk.
    pub fn downloads(&self) -> Vec<String> {
        let dir = self.state(DOWNLOADS);
        // Files behind a link in place of the directory are not ours.
        if dir.symlink_metadata().is_ok_and(|metadata| metadata.is_dir()) {
            list(&dir, "").unwrap_or_default()
        } else {
            Vec::new()
        }
    }

    /// Removes a download.
    ///
    /// # Errors
    /// As `remove_agent`.
    pub fn remove_download(&self, name: &str) -> Result<(), Box<DiskError>> {
        remove(&self.download(name))
    }
}

/// The content that was read; `None` where there is no such file.
fn unless_missing(read: io::Result<Vec<u8>>) -> io::Result<Option<Vec<u8>>> {
    match read {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The path of the record with this name in a directory.
fn record_in(dir: &Path, name: &str) -> PathBuf {
    dir.join([name, RECORD].concat())
}

/// Removes the temporary files that a crash left. One that cannot be removed is overwritten by the next write of its record.
fn remove_temporary(dir: &Path) {
    for stem in list(dir, TEMPORARY).unwrap_or_default() {
        let _ = fs::remove_file(dir.join([&stem, TEMPORARY].concat()));
    }
}

/// Writes the record with this name; one that is not `durable` need not outlive the boot.
fn write_record(dir: &Path, name: &str, text: &str, durable: bool) -> Result<(), Box<DiskError>> {
    write(dir, &[name, RECORD].concat(), text.as_bytes(), durable)
}

fn write_durable(dir: &Path, file: &str, text: &str) -> Result<(), Box<DiskError>> {
    write(dir, file, text.as_bytes(), true)
}

#[cfg(test)]
mod tests;
