//! Records on disk: those that must survive a power cut under `state_dir`, those that matter to this boot only under
//! `run_dir`.
//!
//! A durable record is written as temporary file, fsync, rename, fsync of the directory (`disk`), so that at any moment
//! the old or the new one is complete on disk. A record that does not parse is renamed to `*.corrupt` and reported. Nothing
//! here decides what is written when.

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
use crate::text;
use crate::wire::record;

const IDENTITY: &str = "identity.json";
const SETTINGS: &str = "settings.json";
const STOP: &str = "stop";
const NONCES: &str = "nonces";
const DOWNLOADS: &str = "downloads";
const GUARDS: &str = "guards";
/// The file in `good` with the path of the configuration file that the copy is of.
const COPIED: &str = "path";
const RECORD: &str = ".json";

/// The largest counter of nonces that is accepted. No host reaches it, and a larger one could overflow.
const NONCES_MAX: u64 = 1 << 62;

/// The ending of the name of a record that was set aside.
pub const CORRUPT: &str = ".corrupt";

/// All records that a daemon reads at its start.
#[derive(Debug, Default)]
pub struct Stored {
    /// The host's identity; `None` when it has none yet, or it could not be read.
    pub identity: Option<Identity>,
    /// The settings that a server gave.
    pub settings: Settings,
    /// The records of agents, ordered by name.
    pub agents: Vec<AgentRecord>,
    /// The records of jobs, in the order they were received.
    pub jobs: Vec<JobRecord>,
    /// The agents' runs, of this boot or an earlier one.
    pub runs: Vec<RunRecord>,
    /// The last shutdown, of this boot or an earlier one.
    pub stop: Option<StopRecord>,
    /// Records that cannot be read, and those of jobs that were set aside earlier and have not been answered since.
    pub corrupt: Vec<Corrupt>,
    /// Files and directories that exist and cannot be read at the moment. They stay where they are.
    pub unread: Vec<PathBuf>,
}

/// A record that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Corrupt {
    /// The job whose record it was. The job must be answered, and never run again.
    pub job: Option<JobId>,
    /// What is wrong with which file, and where it is now.
    pub message: String,
}

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

    /// Reads every record. One that does not parse is set aside; one that cannot be read at the moment is left as it is.
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

    /// The agents and jobs whose records could not be read.
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

    /// Whether the record of the host's identity is one of these.
    pub fn is_unread_identity(&self, unread: &[PathBuf]) -> bool {
        unread.contains(&self.state(IDENTITY))
    }

    /// Whether a record of the host's identity exists.
    pub fn has_identity(&self) -> bool {
        self.state(IDENTITY).exists()
    }

    /// The record of a job; `None` where there is none or it cannot be read. It is not set aside.
    pub fn job(&self, id: &str) -> Option<JobRecord> {
        let text = read_file(&record_in(&self.state("jobs"), id)).ok()?;
        record::read_job(std::str::from_utf8(&text).ok()?).ok().filter(|job| *job.id == *id)
    }

    /// The records of all jobs in the order they were received, without those that cannot be read.
    pub fn jobs(&self) -> Vec<JobRecord> {
        let ids = list(&self.state("jobs"), RECORD).unwrap_or_default();
        let mut jobs: Vec<JobRecord> = Vec::new();
        for id in ids {
            jobs.extend(self.job(&id));
        }
        sort(&mut jobs);
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
        sort(&mut jobs);
        stored.jobs = jobs;
        // A daemon may have ended before it answered for a record that it had set aside. The id stays known until there is
        // a new record of the job.
        for id in list(&dir, ".json.corrupt").unwrap_or_default() {
            let answered = stored.jobs.iter().any(|job| *job.id == *id);
            let reported = stored.corrupt.iter().any(|known| known.job.as_deref() == Some(&*id));
            let unread = stored.unread.contains(&record_in(&dir, &id));
            if is_job_id(&id) && !answered && !reported && !unread {
                let message = format!("the record of job \"{id}\" was set aside earlier, as it cannot be read");
                stored.corrupt.push(Corrupt { job: Some(id.into()), message });
            }
        }
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
        make_own_dirs(&[self.state(DOWNLOADS)], 0o700)
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

/// The host's machine-id, machine-id(5); empty where it has none.
pub fn machine_id() -> Box<str> {
    id_file("/etc/machine-id")
}

/// The id of this boot, random(4); empty where the kernel gives none.
pub fn boot_id() -> Box<str> {
    id_file("/proc/sys/kernel/random/boot_id")
}

/// What os-release(5) says of the operating system, such as `debian 12`; empty where there is no such file, or no ID in it.
pub fn os_release() -> Box<str> {
    let files = ["/etc/os-release", "/usr/lib/os-release"];
    let text = files.iter().find_map(|file| read_text(Path::new(file)).ok()).unwrap_or_default();
    text::os_release(&text).into()
}

fn id_file(path: &str) -> Box<str> {
    let Ok(text) = read_text(Path::new(path)) else { return "".into() };
    let id = text.trim();
    let plain = id.len() <= 64 && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if plain { id } else { "" }.into()
}

/// The UUID (RFC 9562, version 4) of these random bytes.
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

/// Whether an error of reading is temporary, and says nothing about the content of the file.
fn is_temporary(error: &io::Error) -> bool {
    // A socket or a device was never a record.
    let permanent = [libc::ELOOP, libc::ENOENT, libc::ENXIO, libc::ENODEV];
    error.raw_os_error().is_some_and(|code| !permanent.contains(&code))
}

/// Whether all these files and directories can be read, or are gone.
pub fn can_be_read(paths: &[PathBuf]) -> bool {
    let readable = |path: &PathBuf| match path.is_dir() {
        true => list(path, RECORD).map(drop),
        false => read_file(path).map(drop),
    };
    paths.iter().all(|path| !readable(path).is_err_and(|error| is_temporary(&error)))
}

/// As `list`; a directory that cannot be read is reported like a record that cannot.
fn list_or_report(dir: &Path, ending: &str, stored: &mut Stored) -> Vec<String> {
    list(dir, ending).unwrap_or_else(|error| {
        stored.leave(dir, &error);
        Vec::new()
    })
}

impl Stored {
    /// Reports a file or directory that cannot be read and is left as it is.
    fn leave(&mut self, path: &Path, error: &io::Error) {
        let cause = reason(error);
        let mut message = format!("cannot read \"{}\": {cause}", path.display());
        if is_temporary(error) {
            message += "; it is read again with each check";
            self.unread.push(path.into());
        }
        self.corrupt.push(Corrupt { job: None, message });
    }
}

/// Passes every record in a directory to `take`, first the name in its file's name and then its text. `jobs`: it is the
/// directory of the records of jobs.
fn take_records(dir: &Path, jobs: bool, stored: &mut Stored, take: &mut dyn FnMut(&str, &str) -> Result<(), Error>) {
    for name in list_or_report(dir, RECORD, stored) {
        let job = Some(&*name).filter(|id| jobs && is_job_id(id));
        take_record(&record_in(dir, &name), job, stored, &mut |text| take(&name, text));
    }
}

/// Puts jobs in the order they were received.
fn sort(jobs: &mut [JobRecord]) {
    jobs.sort_unstable_by_key(|job| job.seq);
}

/// Passes the text of the record at `path` to `take`, if there is one, and sets it aside when `take` fails. `job`: the job
/// whose record it is.
fn take_record(path: &Path, job: Option<&str>, stored: &mut Stored, take: &mut dyn FnMut(&str) -> Result<(), Error>) {
    let cause = match read_file(path) {
        Ok(content) => match std::str::from_utf8(&content).map_err(|_| "not UTF-8".into()).and_then(take) {
            Ok(()) => return,
            Err(cause) => cause,
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => return,
        Err(error) if is_temporary(&error) => return stored.leave(path, &error),
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

/// Checks that a record is about the agent or job that its file's name says.
fn is_about(name: &str, want: &str) -> Result<(), Error> {
    match name == want {
        true => Ok(()),
        false => Err(format_error!("is about \"{name}\"")),
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
