//! All records as a daemon reads them at its start: those that do not parse are set aside, those that cannot be read at the
//! moment stay where they are.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{record_in, Store, CORRUPT, IDENTITY, RECORD, SETTINGS, STOP, VALUES, VALUES_PREFIX};
use crate::error::Error;
use crate::host::disk::{list, read_file, read_own, reason, with_ending};
use crate::model::job::JobId;
use crate::model::record::{AgentRecord, Identity, JobRecord, RunRecord, Settings, StopRecord};
use crate::model::spec::is_job_id;
use crate::model::state::Unreadable;
use crate::wire::record;

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
    /// The values that the programs of agents were started with, by the names of their files.
    pub values: Vec<(String, String)>,
    /// Records that cannot be read, and those of jobs that were set aside earlier and have not been answered since.
    pub corrupt: Vec<Corrupt>,
    /// Files and directories that exist and cannot be read at the moment. They stay where they are.
    pub unread: Vec<PathBuf>,
}

/// How a record is read: `read_own` where it says which processes are an agent's, as the daemon signals these.
type Read = fn(&Path) -> io::Result<Vec<u8>>;

/// A record that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Corrupt {
    /// The job whose record it was. The job must be answered, and never run again.
    pub job: Option<JobId>,
    /// What is wrong with which file, and where it is now.
    pub message: String,
}

impl Store {
    /// Reads every record. One that does not parse is set aside; one that cannot be read at the moment is left as it is.
    pub fn read_all(&self) -> Stored {
        let moved = self.moved.iter().map(|text| Corrupt { job: None, message: text.clone() });
        let mut stored = Stored { corrupt: moved.collect(), ..Stored::default() };
        stored.identity = stored.read_record(&self.state(IDENTITY), read_file, record::read_identity);
        stored.settings =
            stored.read_record(&self.state(SETTINGS), read_file, record::read_settings).unwrap_or_default();
        stored.agents =
            stored.read_records(&self.state("agents"), false, read_file, record::read_agent, |agent| &agent.name);
        stored.runs = stored.read_records(&self.runs(), false, read_own, record::read_run, |run| &run.name);
        stored.stop = stored.read_record(&record_in(&self.run_dir, STOP), read_own, record::read_stop);
        for name in list(&self.run_dir, VALUES).unwrap_or_default() {
            // An agent may have its `env_file` here.
            if name.starts_with(VALUES_PREFIX) {
                let path = self.run_dir.join([&name, VALUES].concat());
                let text = stored.read_record(&path, read_own, |text| Ok(text.to_string()));
                stored.values.extend(text.map(|text| (name, text)));
            }
        }
        self.read_jobs(&mut stored);
        stored
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
        stored.jobs = stored.read_records(&dir, true, read_file, record::read_job, |job| &job.id);
        sort(&mut stored.jobs);
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
}

/// Whether an error of reading is temporary, and says nothing about the content of the file.
pub(super) fn is_temporary(error: &io::Error) -> bool {
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

impl Stored {
    /// The record at `path`; `None` where there is none. One that does not parse is set aside.
    fn read_record<T>(&mut self, path: &Path, read: Read, parse: fn(&str) -> Result<T, Error>) -> Option<T> {
        let mut record = None;
        self.take(path, None, read, &mut |text| {
            record = Some(parse(text)?);
            Ok(())
        });
        record
    }

    /// The records in a directory, each `about` the agent or job that its file's name says. `jobs`: it is the directory of the
    /// records of jobs.
    fn read_records<T>(
        &mut self,
        dir: &Path,
        jobs: bool,
        read: Read,
        parse: fn(&str) -> Result<T, Error>,
        about: fn(&T) -> &str,
    ) -> Vec<T> {
        let mut records = Vec::new();
        self.take_all(dir, jobs, read, &mut |name, text| {
            let record = parse(text)?;
            is_about(about(&record), name)?;
            records.push(record);
            Ok(())
        });
        records
    }

    /// Passes every record in a directory to `take`, first the name in its file's name and then its text.
    fn take_all(&mut self, dir: &Path, jobs: bool, read: Read, take: &mut dyn FnMut(&str, &str) -> Result<(), Error>) {
        let names = list(dir, RECORD).unwrap_or_else(|error| {
            self.leave(dir, &error);
            Vec::new()
        });
        for name in names {
            let job = Some(&*name).filter(|id| jobs && is_job_id(id));
            self.take(&record_in(dir, &name), job, read, &mut |text| take(&name, text));
        }
    }

    /// Passes the text of the record at `path` to `take`, if there is one, and sets it aside when `take` fails. `job`: the job
    /// whose record it is.
    fn take(&mut self, path: &Path, job: Option<&str>, read: Read, take: &mut dyn FnMut(&str) -> Result<(), Error>) {
        let cause = match read(path) {
            Ok(content) => match std::str::from_utf8(&content).map_err(|_| "not UTF-8".into()).and_then(take) {
                Ok(()) => return,
                Err(cause) => cause,
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) if is_temporary(&error) => return self.leave(path, &error),
            Err(error) => reason(&error),
        };
        let aside = with_ending(path, CORRUPT);
        let place = match fs::rename(path, &aside) {
            Ok(()) => format!("set aside as \"{}\"", aside.display()),
            Err(error) => format!("cannot be set aside: {}", reason(&error)),
        };
        let message = format!("cannot read \"{}\": {cause}; {place}", path.display());
        self.corrupt.push(Corrupt { job: job.map(Into::into), message });
    }

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

/// Checks that a record is about the agent or job that its file's name says.
fn is_about(name: &str, want: &str) -> Result<(), Error> {
    match name == want {
        true => Ok(()),
        false => Err(format_error!("is about \"{name}\"")),
    }
}

/// Puts jobs in the order they were received.
fn sort(jobs: &mut [JobRecord]) {
    jobs.sort_unstable_by_key(|job| job.seq);
}
