//! Records on disk: what must survive a power cut under `state_dir`, what matters to this boot only under `run_dir`.
//!
//! A durable record is written as temporary file, fsync, rename, fsync of the directory (`disk`), so that at any moment
//! the old or the new one is there whole. A record that cannot be read is set aside as `*.corrupt` and named, so that
//! somebody hears of it. Nothing here decides what is written when.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::host::disk::{
    list, make_dir, make_durable_dir, make_own_dirs, make_way, read_file, reason, remove, remove_durable, sync_dir,
    with_context, write, write_synced, DiskError, TEMPORARY,
};
use crate::model::job::JobId;
use crate::model::record::{AgentRecord, Identity, JobRecord, RunRecord, Settings, StopRecord};
use crate::model::spec::is_job_id;
use crate::model::state::Unreadable;
use crate::sys::file::read_text;
use crate::wire::record;

const IDENTITY: &str = "identity.json";
const SETTINGS: &str = "settings.json";
const STOP: &str = "stop";
const NONCES: &str = "nonces";
const DOWNLOADS: &str = "downloads";
const GUARDS: &str = "guards";
/// Below `good`: the path of the configuration file that the copy is of.
const COPIED: &str = "path";
const RECORD: &str = ".json";

/// The largest counter of nonces: no host comes that far, and beyond it counting on would wrap.
const NONCES_MAX: u64 = 1 << 62;

/// The ending of what was set aside.
pub const CORRUPT: &str = ".corrupt";

/// Everything that was found at start.
#[derive(Debug, Default)]
pub struct Stored {
    /// The host's identity; `None` when it has none yet, or it could not be read.
    pub identity: Option<Identity>,
    /// Settings a server gave.
    pub settings: Settings,
    /// Agents by name.
    pub agents: Vec<AgentRecord>,
    /// Jobs in the order they came.
    pub jobs: Vec<JobRecord>,
    /// The agents' runs, of this boot or an earlier one.
    pub runs: Vec<RunRecord>,
    /// The last shutdown, of this boot or an earlier one.
    pub stop: Option<StopRecord>,
    /// Records that cannot be read, or that were set aside earlier and nobody has answered for since.
    pub corrupt: Vec<Corrupt>,
    /// Files and directories that are there and cannot be read just now: they stay where they are.
    pub unread: Vec<PathBuf>,
}

/// A record that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Corrupt {
    /// The job whose record it was: it is to be answered, and never run again.
    pub job: Option<JobId>,
    /// What was wrong with which file, and where it is now.
    pub message: String,
}

/// The directories of records, packages and downloads.
#[derive(Debug)]
pub struct Store {
    state_dir: PathBuf,
    run_dir: PathBuf,
    /// What was in the place of directories, and where it is now.
    moved: Vec<String>,
}

impl Store {
    /// The store in these directories, as they are: for a daemon that must run although `open` failed.
    pub fn new(state_dir: &Path, run_dir: &Path) -> Store {
        Store { state_dir: state_dir.into(), run_dir: run_dir.into(), moved: Vec::new() }
    }

    /// What has this name in the state directory.
    fn state(&self, name: &str) -> PathBuf {
        self.state_dir.join(name)
    }

    /// Where the records of the agents' runs are.
    fn runs(&self) -> PathBuf {
        self.run_dir.join("agents")
    }

    /// Makes the directories, and removes temporary files that a crash left.
    ///
    /// # Errors
    /// The first directory that is not there and cannot be made.
    pub fn open(state_dir: &Path, run_dir: &Path) -> Result<Store, Box<DiskError>> {
        make_durable_dir(state_dir)?;
        make_dir(run_dir)?;
        let records = ["agents", "jobs", "good", "good/agents.d"].map(|dir| state_dir.join(dir));
        let mut dirs = vec![state_dir.join("packages")];
        dirs.extend(records.iter().cloned());
        let runs = [run_dir.join("agents")];
        let mut store = Store::new(state_dir, run_dir);
        for dir in dirs.iter().chain(&runs).chain([&state_dir.join(DOWNLOADS)]) {
            if let Some(aside) = make_way(dir, CORRUPT) {
                let text = format!("\"{}\" was no directory; set aside as \"{}\"", dir.display(), aside.display());
                store.moved.push(text);
            }
        }
        make_own_dirs(&dirs, 0o755)?;
        make_own_dirs(&runs, 0o755)?;
        store.make_downloads()?;
        for dir in records.iter().chain(&runs).map(PathBuf::as_path).chain([state_dir]) {
            remove_temporary(dir);
        }
        Ok(store)
    }

    /// Reads every record. A text that is none is set aside; what cannot be read just now is left as it is.
    pub fn read_all(&self) -> Stored {
        let moved = self.moved.iter().map(|text| Corrupt { job: None, message: text.clone() });
        let mut stored = Stored { corrupt: moved.collect(), ..Stored::default() };
        let (mut identity, mut settings) = (None, Settings::default());
        let (mut agents, mut runs, mut stop) = (Vec::new(), Vec::new(), None);
        let path = self.state(IDENTITY);
        take_record(&path, None, &mut stored, &mut |text| {
            identity = Some(record::read_identity(text)?);
            Ok(())
        });
        let path = self.state(SETTINGS);
        take_record(&path, None, &mut stored, &mut |text| {
            settings = record::read_settings(text)?;
            Ok(())
        });
        take_records(&self.state("agents"), false, &mut stored, &mut |name, text| {
            let agent = record::read_agent(text)?;
            is_about(&agent.name, name)?;
            agents.push(agent);
            Ok(())
        });
        take_records(&self.runs(), false, &mut stored, &mut |name, text| {
            let run = record::read_run(text)?;
            is_about(&run.name, name)?;
            runs.push(run);
            Ok(())
        });
        let path = self.run_dir.join([STOP, RECORD].concat());
        take_record(&path, None, &mut stored, &mut |text| {
            stop = Some(record::read_stop(text)?);
            Ok(())
        });
        self.read_jobs(&mut stored);
        Stored { identity, settings, agents, runs, stop, ..stored }
    }

    /// Whose the records are that could not be read.
    pub fn record_owners(&self, unread: &[PathBuf]) -> Unreadable {
        let mut owners = Unreadable::default();
        let jobs = self.state("jobs");
        let agents = [self.state("agents"), self.runs()];
        for path in unread {
            let stem = || path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            owners.all |= *path == jobs || agents.contains(path);
            let name = match path.parent() {
                Some(dir) if *dir == jobs => {
                    owners.jobs.push(stem().into());
                    continue;
                }
                Some(dir) if agents.iter().any(|agents| *agents == *dir) => stem().into(),
                _ if *path == self.state(SETTINGS) => "".into(),
                _ => continue,
            };
            if !owners.agents.contains(&name) {
                owners.agents.push(name);
            }
        }
        owners
    }

    /// Whether the host's identity is one of these.
    pub fn is_unread_identity(&self, unread: &[PathBuf]) -> bool {
        unread.contains(&self.state(IDENTITY))
    }

    /// Whether there is a record of the host's identity.
    pub fn has_identity(&self) -> bool {
        self.state(IDENTITY).exists()
    }

    /// The record of a job, as it is: one that cannot be read stays where it is.
    pub fn job(&self, id: &str) -> Option<JobRecord> {
        let text = read_file(&record_in(&self.state("jobs"), id)).ok()?;
        record::read_job(std::str::from_utf8(&text).ok()?).ok().filter(|job| *job.id == *id)
    }

    /// The records of all jobs in the order they came, with those that cannot be read left out.
    pub fn jobs(&self) -> Vec<JobRecord> {
        let ids = list(&self.state("jobs"), RECORD).unwrap_or_default();
        let mut jobs: Vec<JobRecord> = Vec::new();
        for id in ids {
            jobs.extend(self.job(&id));
        }
        jobs.sort_unstable_by_key(|job| job.seq);
        jobs
    }

    fn read_jobs(&self, stored: &mut Stored) {
        let dir = self.state("jobs");
        let mut jobs = Vec::new();
        take_records(&dir, true, stored, &mut |id, text| {
            let job = record::read_job(text)?;
            is_about(&job.id, id)?;
            jobs.push(job);
            Ok(())
        });
        stored.jobs = jobs;
        stored.jobs.sort_unstable_by_key(|job| job.seq);
        // A daemon that ended before it could answer for a record it had set aside must not have forgotten the id: it
        // is known until a new record stands in its place.
        for id in list(&dir, ".json.corrupt").unwrap_or_default() {
            let answered = stored.jobs.iter().any(|job| *job.id == *id);
            let told = stored.corrupt.iter().any(|known| known.job.as_deref() == Some(&*id));
            let unread = stored.unread.contains(&record_in(&dir, &id));
            if is_job_id(&id) && !answered && !told && !unread {
                let message = format!("the record of job \"{id}\" was set aside earlier, as it cannot be read");
                stored.corrupt.push(Corrupt { job: Some(id.into()), message });
            }
        }
    }

    /// Keeps the host's identity.
    ///
    /// # Errors
    /// When it cannot be written; the old one is still there then. The same with all that follow.
    pub fn write_identity(&self, identity: &Identity) -> Result<(), Box<DiskError>> {
        write_durable(&self.state_dir, IDENTITY, &record::write_identity(identity))
    }

    /// Keeps the settings a server gave.
    ///
    /// # Errors
    /// As `write_identity`.
    pub fn write_settings(&self, settings: &Settings) -> Result<(), Box<DiskError>> {
        write_durable(&self.state_dir, SETTINGS, &record::write_settings(settings))
    }

    /// The first number of a nonce that was never used; `None` when none is kept, or it cannot be read.
    pub fn nonces(&self) -> Option<u64> {
        let content = read_file(&self.state(NONCES)).ok()?;
        std::str::from_utf8(&content).ok()?.trim().parse().ok().filter(|next| *next <= NONCES_MAX)
    }

    /// Keeps the first number of a nonce that was never used.
    ///
    /// # Errors
    /// As `write_identity`.
    pub fn write_nonces(&self, next: u64) -> Result<(), Box<DiskError>> {
        write_durable(&self.state_dir, NONCES, &format!("{next}\n"))
    }

    /// What the last good configuration asked of signatures; `None` when it asked for none.
    ///
    /// # Errors
    /// When that is there and cannot be read.
    pub fn guards(&self) -> io::Result<Option<Vec<u8>>> {
        unless_missing(read_file(&self.state(GUARDS)))
    }

    /// Keeps what the configuration asks of signatures; `None`: it asks for none.
    ///
    /// # Errors
    /// As `write_identity`.
    pub fn write_guards(&self, guards: Option<&str>) -> Result<(), Box<DiskError>> {
        match guards {
            Some(guards) if self.guards().is_ok_and(|kept| kept.as_deref() == Some(guards.as_bytes())) => Ok(()),
            Some(guards) => write_durable(&self.state_dir, GUARDS, guards),
            None => remove_durable(&self.state_dir, GUARDS),
        }
    }

    /// Keeps an agent's record; where the old one could not be read at the start, it says what the new one does not.
    ///
    /// # Errors
    /// As `write_identity`, and when the old one can still not be read.
    pub fn write_agent(&self, agent: &AgentRecord, unread: &[PathBuf]) -> Result<(), Box<DiskError>> {
        let path = record_in(&self.state("agents"), &agent.name);
        if unread.iter().any(|unread| path.starts_with(unread)) {
            match read_file(&path) {
                Ok(text) => {
                    let old = std::str::from_utf8(&text).ok().and_then(|text| record::read_agent(text).ok());
                    return self.write_agent(&agent.merged_onto(old.unwrap_or_default()), &[]);
                }
                Err(error) if is_passing(&error) => return with_context(Err(error), "read", &path),
                Err(_) => {}
            }
        }
        write_record(&self.state("agents"), &agent.name, &record::write_agent(agent), true)
    }

    /// Whether an agent's record was set aside, now or earlier.
    pub fn agent_is_corrupt(&self, name: &str) -> bool {
        self.state("agents").join([name, RECORD, CORRUPT].concat()).exists()
    }

    /// Keeps a job's record.
    ///
    /// # Errors
    /// As `write_identity`.
    pub fn write_job(&self, job: &JobRecord) -> Result<(), Box<DiskError>> {
        write_record(&self.state("jobs"), &job.id, &record::write_job(job), true)
    }

    /// Keeps the record of an agent's run until the next boot.
    ///
    /// # Errors
    /// When it cannot be written; on a full disk the old one is gone then, as it would tell of a process that is no more.
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

    /// Removes an agent's record; one that is not there is fine.
    ///
    /// # Errors
    /// When it is there and cannot be removed. The same with all that follow.
    pub fn remove_agent(&self, name: &str) -> Result<(), Box<DiskError>> {
        remove_durable(&self.state("agents"), &[name, RECORD].concat())
    }

    /// Removes a job's record, and what was set aside of an earlier one.
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

    /// The last good copy of a configuration file, if one was kept. `file` is `bootagent.json`, or `agents.d/` and the
    /// file's name, wherever the directory is and whatever it is called. The same with all that follow.
    pub fn good(&self, file: &str) -> Option<Vec<u8>> {
        read_file(&self.state("good").join(file)).ok()
    }

    /// The same, told apart from one that is there and cannot be read.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub fn kept(&self, file: &str) -> io::Result<Option<Vec<u8>>> {
        unless_missing(read_file(&self.state("good").join(file)))
    }

    /// The path of the configuration file whose good copy is kept; `None` where nothing says it, as version 1.0 did not.
    ///
    /// # Errors
    /// When that is there and cannot be read.
    pub fn copied(&self) -> io::Result<Option<Vec<u8>>> {
        unless_missing(read_file(&self.state("good").join(COPIED)))
    }

    /// Keeps the path of the configuration file whose good copy is kept next: that of another file goes first.
    ///
    /// # Errors
    /// As `write_identity`.
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

    /// The definitions of which a good copy is kept, in byte order, each with `agents.d/` before it.
    pub fn good_definitions(&self) -> Vec<String> {
        let stems = list(&self.state("good/agents.d"), RECORD).unwrap_or_default();
        stems.into_iter().map(|stem| ["agents.d/", &stem, RECORD].concat()).collect()
    }

    /// Keeps a copy of a configuration file that is good; does nothing when the kept one is the same.
    ///
    /// # Errors
    /// As `write_identity`.
    pub fn keep_good(&self, file: &str, content: &[u8]) -> Result<(), Box<DiskError>> {
        if self.good(file).is_some_and(|kept| kept == content) {
            return Ok(());
        }
        let good = self.state("good");
        match file.split_once('/') {
            // Their directory is synced once for all of them.
            Some((dir, file)) => write_synced(&good.join(dir), file, content),
            None => write(&good, file, content, true),
        }
    }

    /// Sees to it that the good copies of definitions survive a power cut; before, each is there or is made again at the
    /// next start.
    ///
    /// # Errors
    /// When that cannot be done.
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

    /// Where an agent's packages are.
    pub fn packages_dir(&self, name: &str) -> PathBuf {
        let packages = self.state("packages");
        // Joining nothing would add a slash, by which a link in its place is followed.
        if name.is_empty() {
            packages
        } else {
            packages.join(name)
        }
    }

    /// Where what is fetched lies under this name, `package::download_name`.
    pub fn download(&self, name: &str) -> PathBuf {
        self.state(DOWNLOADS).join(name)
    }

    /// Makes the directory of what was fetched and not verified yet, which is closed to everybody else.
    ///
    /// # Errors
    /// When it is not there, or open, and cannot be made so.
    pub fn make_downloads(&self) -> Result<(), Box<DiskError>> {
        make_own_dirs(&[self.state(DOWNLOADS)], 0o700)
    }

    /// The names of what was fetched and is still there.
    pub fn downloads(&self) -> Vec<String> {
        let dir = self.state(DOWNLOADS);
        // Where a link leads nothing is ours.
        let ours = dir.symlink_metadata().is_ok_and(|found| found.is_dir());
        if ours {
            list(&dir, "").unwrap_or_default()
        } else {
            Vec::new()
        }
    }

    /// Removes what was fetched.
    ///
    /// # Errors
    /// As `remove_agent`.
    pub fn remove_download(&self, name: &str) -> Result<(), Box<DiskError>> {
        remove(&self.download(name))
    }
}

/// The host's machine-id, machine-id(5); empty where it has none.
pub fn machine_id() -> Box<str> {
    id_file("/etc/machine-id")
}

/// The id of this boot, random(4); empty where the kernel does not say.
pub fn boot_id() -> Box<str> {
    id_file("/proc/sys/kernel/random/boot_id")
}

fn id_file(path: &str) -> Box<str> {
    let Ok(text) = read_text(Path::new(path)) else { return "".into() };
    let id = text.trim();
    let plain = id.len() <= 64 && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if plain { id } else { "" }.into()
}

/// A random UUID (RFC 9562, version 4) of these random bytes.
pub fn uuid(mut random: [u8; 16]) -> Box<str> {
    random[6] = random[6] & 0x0f | 0x40;
    random[8] = random[8] & 0x3f | 0x80;
    let mut text = String::with_capacity(36);
    for (index, byte) in random.into_iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        for nibble in [byte >> 4, byte & 15] {
            text.push(char::from_digit(nibble.into(), 16).expect("a nibble is below 16"));
        }
    }
    text.into()
}

fn unless_missing(read: io::Result<Vec<u8>>) -> io::Result<Option<Vec<u8>>> {
    match read {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The record of this name in a directory.
fn record_in(dir: &Path, name: &str) -> PathBuf {
    dir.join([name, RECORD].concat())
}

/// Removes what a crash left; what cannot be removed now is overwritten by the next write of its record.
fn remove_temporary(dir: &Path) {
    for stem in list(dir, TEMPORARY).unwrap_or_default() {
        let _ = fs::remove_file(dir.join([&stem, TEMPORARY].concat()));
    }
}

/// Whether that one cannot read it now says nothing about what is in it.
fn is_passing(error: &io::Error) -> bool {
    // What is a socket or a device never was a record.
    let lasting = [libc::ELOOP, libc::ENOENT, libc::ENXIO, libc::ENODEV];
    error.raw_os_error().is_some_and(|code| !lasting.contains(&code))
}

/// Whether all these files and directories can be read, or are gone.
pub fn can_be_read(paths: &[PathBuf]) -> bool {
    let readable = |path: &PathBuf| match path.is_dir() {
        true => list(path, RECORD).map(drop),
        false => read_file(path).map(drop),
    };
    paths.iter().all(|path| !readable(path).is_err_and(|error| is_passing(&error)))
}

/// As `list`; a directory that cannot be read is told like a record that cannot.
fn list_or_tell(dir: &Path, ending: &str, stored: &mut Stored) -> Vec<String> {
    list(dir, ending).unwrap_or_else(|error| {
        stored.leave(dir, &error);
        Vec::new()
    })
}

impl Stored {
    /// Something is left as it is.
    fn leave(&mut self, path: &Path, error: &io::Error) {
        let cause = reason(error);
        let mut message = format!("cannot read \"{}\": {cause}", path.display());
        if is_passing(error) {
            message += "; it is read again with each check";
            self.unread.push(path.into());
        }
        self.corrupt.push(Corrupt { job: None, message });
    }
}

/// Lets `take` have every record in a directory, be it that of the `jobs` or another, with whose the record is by its
/// file's name.
fn take_records(dir: &Path, jobs: bool, stored: &mut Stored, take: &mut dyn FnMut(&str, &str) -> Result<(), Error>) {
    for name in list_or_tell(dir, RECORD, stored) {
        let job = Some(&*name).filter(|id| jobs && is_job_id(id));
        take_record(&record_in(dir, &name), job, stored, &mut |text| take(&name, text));
    }
}

/// Lets `take` have the record at `path`, if there is one, which may be that of a job; when it cannot take it, it is set
/// aside.
fn take_record(path: &Path, job: Option<&str>, stored: &mut Stored, take: &mut dyn FnMut(&str) -> Result<(), Error>) {
    let cause = match read_file(path) {
        Ok(content) => match std::str::from_utf8(&content).map_err(|_| "not UTF-8".into()).and_then(take) {
            Ok(()) => return,
            Err(cause) => cause,
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => return,
        Err(error) if is_passing(&error) => return stored.leave(path, &error),
        Err(error) => reason(&error),
    };
    let mut aside = path.as_os_str().to_owned();
    aside.push(CORRUPT);
    let place = match fs::rename(path, &aside) {
        Ok(()) => format!("set aside as \"{}\"", Path::new(&aside).display()),
        Err(error) => format!("cannot be set aside: {}", reason(&error)),
    };
    let message = format!("cannot read \"{}\": {cause}; {place}", path.display());
    stored.corrupt.push(Corrupt { job: job.map(Into::into), message });
}

/// A record must be the one its file name says.
fn is_about(name: &str, want: &str) -> Result<(), Error> {
    match name == want {
        true => Ok(()),
        false => Err(format_error!("is about \"{name}\"")),
    }
}

/// Writes the record of this name; one that is not `durable` need not outlive the boot.
fn write_record(dir: &Path, name: &str, text: &str, durable: bool) -> Result<(), Box<DiskError>> {
    write(dir, &[name, RECORD].concat(), text.as_bytes(), durable)
}

fn write_durable(dir: &Path, file: &str, text: &str) -> Result<(), Box<DiskError>> {
    write(dir, file, text.as_bytes(), true)
}

#[cfg(test)]
mod tests;
