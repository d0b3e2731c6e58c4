//! Package files and directories below `state_dir`: from a download to the version that `current` names, and their removal.
//!
//! Each function carries out one action of a job. It changes what is visible by a single rename, so that after a crash each
//! step is either done or not, and can be done again. What is to be verified or unpacked goes to helpers. When which step is
//! due is for the state to decide.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{symlink, DirBuilderExt};
use std::path::{Path, PathBuf};

use super::helpers::HelperTask;
use super::identity::Runner;
use super::recovered::packaged_definition;
use super::Daemon;
use crate::error::Error;
use crate::host::config_files;
use crate::host::disk::{list, make_durable_dir, sync_dir, with_context};
use crate::kernel::Level;
use crate::model::event::{Event, Verified};
use crate::model::job::JobId;
use crate::model::package::{download_name, Format};
use crate::model::spec::Spec;
use crate::sys::file::{has_writer, open_nofollow};
use crate::sys::monotonic;
use crate::wire::config;
use crate::work::{Failure, HelperRequest, HelperResponse};

/// How many times larger than the largest download the content of a package may be.
const UNPACK_FACTOR: u64 = 10;

/// The most members of one archive.
const UNPACK_ENTRIES: u64 = 200_000;

/// The prefix of the names of directories that are to be removed.
const TRASH: &str = ".trash-";

impl Daemon {
    /// The name of the file with a job's download.
    pub(super) fn download_name(&self, id: &str) -> String {
        download_name(self.state.sn(), id)
    }

    fn download(&self, id: &str) -> PathBuf {
        self.records.store().download(&self.download_name(id))
    }

    /// Renames downloads of version 1.0, which named them after their jobs, so that they are resumed.
    pub(super) fn rename_downloads(&mut self) {
        for name in self.records.store().downloads() {
            if self.state.job(&name).is_some() {
                // A file that cannot be renamed is fetched again.
                let _ = fs::rename(self.records.store().download(&name), self.download(&name));
            }
        }
    }

    /// Opens the file a job's package is fetched into, with what an earlier attempt fetched; whether there is any of that.
    ///
    /// # Errors
    /// When it cannot be made or opened.
    pub(super) fn open_download(&self, id: &JobId) -> Result<(File, bool), Error> {
        let path = self.download(id);
        self.records.store().make_downloads()?;
        let file = open_nofollow(&path, OpenOptions::new().read(true).write(true).create(true), 0o600);
        let file = with_context(file, "open", &path)?;
        let resumed = file.metadata().is_ok_and(|metadata| metadata.len() > 0);
        Ok((file, resumed))
    }

    /// Moves a job's download, which has been verified, to its place as a package file.
    ///
    /// # Errors
    /// When it cannot be moved, or the move cannot be made durable.
    pub(super) fn place(&mut self, id: &str, name: &str, file: &str) -> Result<(), Error> {
        let (from, dir) = (self.download(id), self.records.store().packages_dir(name));
        let to = dir.join(file);
        make_durable_dir(&dir)?;
        match fs::rename(&from, &to) {
            Ok(()) => {
                self.fault_injector.pass("place-renamed");
                Ok(sync_dir(&dir)?)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound && to.exists() => Ok(()),
            failed => Ok(with_context(failed, "move", &from)?),
        }
    }

    /// Gives an unpacked directory its final name.
    ///
    /// # Errors
    /// When it cannot be renamed, or that cannot be made durable.
    pub(super) fn rename(&mut self, name: &str, from: &str, to: &str) -> Result<(), Error> {
        let dir = self.records.store().packages_dir(name);
        let (from, to) = (dir.join(from), dir.join(to));
        if to.exists() {
            // A job that was interrupted right here has left it.
            self.move_to_trash(&to);
        }
        self.fault_injector.pass("rename-cleared");
        with_context(fs::rename(&from, &to), "move", &from)?;
        Ok(sync_dir(&dir)?)
    }

    /// Lets the link `current` point to a version.
    ///
    /// # Errors
    /// When there is no such version, or the link cannot be made.
    pub(super) fn link(&mut self, name: &str, version: &str) -> Result<(), Error> {
        let dir = self.records.store().packages_dir(name);
        if !dir.join(version).is_dir() {
            return Err(format_error!("there is no directory \"{}\"", dir.join(version).display()));
        }
        let (current, next) = (dir.join("current"), dir.join(".current"));
        let _ = fs::remove_file(&next);
        with_context(symlink(version, &next), "link", &next)?;
        self.fault_injector.pass("link-made");
        with_context(fs::rename(&next, &current), "link", &current)?;
        Ok(sync_dir(&dir)?)
    }

    /// Starts the verification of a download: of its digest, and of its signature where there must be one. An earlier daemon
    /// may have moved it to its place already.
    pub(super) fn verify_package(&mut self, id: JobId, name: &str, file: &str) {
        let mut path = self.download(&id);
        if fs::symlink_metadata(&path).is_err() {
            path = self.records.store().packages_dir(name).join(file);
        }
        let Some(job) = self.state.job(&id) else { return };
        let text = |text: Option<&str>| text.unwrap_or_default().to_string();
        let request = HelperRequest::Verify {
            keys: self.config.trusted_keys.iter().map(|key| key.to_string()).collect(),
            signature: text(job.signature.as_deref()),
            name: job.name.to_string(),
            version: text(job.version.as_deref()),
        };
        let started = match open_package(&path) {
            // On a file system without leases it is not known whether there is a writer.
            Ok(package) if has_writer(&package).unwrap_or(false) => {
                // Only root and the helper that fetched it could have opened it.
                let text =
                    "is open for writing elsewhere, in a process that its helper gave it to: let nothing else run as helper_user";
                Err(Verified::Hostile(format!("\"{}\" {text}", path.display()).into()))
            }
            opened => opened
                .and_then(|package| {
                    self.start_helper(HelperTask::Verify(id.clone()), &request, Some(package), Runner::Judge)
                })
                .map_err(|reason| Verified::Unknown(reason.into())),
        };
        if let Err(result) = started {
            self.queue.push_back(Event::Verified(id, result));
        }
    }

    /// Starts the unpacking of a package file into a new directory.
    pub(super) fn unpack(&mut self, job: JobId, name: &str, file: &str, dir: &str, format: Format) {
        let base = self.records.store().packages_dir(name);
        if let Err(reason) = self.start_unpacking(&job, &base.join(file), base.join(dir), format) {
            self.queue.push_back(Event::Unpacked(job, Err(reason)));
        }
    }

    fn start_unpacking(&mut self, job: &JobId, file: &Path, dir: PathBuf, format: Format) -> Result<(), Error> {
        if dir.exists() {
            self.move_to_trash(&dir);
        }
        with_context(fs::DirBuilder::new().mode(0o755).create(&dir), "make", &dir)?;
        let package = open_package(file)?;
        let request = HelperRequest::Unpack {
            format,
            dir: dir.to_string_lossy().into_owned(),
            max_bytes: self.config.max_download.saturating_mul(UNPACK_FACTOR),
            max_entries: UNPACK_ENTRIES,
        };
        self.start_helper(HelperTask::Unpack(job.clone(), dir), &request, Some(package), Runner::Daemon)
    }

    /// After an archive was unpacked into `dir`: strips its single top directory, where there is one.
    ///
    /// # Errors
    /// When it was not unpacked, or the directory cannot be moved.
    pub(super) fn strip_top(&mut self, dir: &Path, response: HelperResponse) -> Result<(), Error> {
        let HelperResponse::Unpacked { top, .. } = response else {
            return Err(Failure::of(response).reason.into());
        };
        if top.is_empty() {
            return Ok(());
        }
        let mut aside = dir.to_path_buf();
        aside.set_extension("top");
        if aside.exists() {
            self.move_to_trash(&aside);
        }
        let mut strip = fs::rename(dir.join(OsStr::from_bytes(&top)), &aside).and_then(|()| fs::remove_dir(dir));
        self.fault_injector.pass("top-aside");
        strip = strip.and_then(|()| fs::rename(&aside, dir));
        Ok(with_context(strip, "move", dir)?)
    }

    /// Reads a definition: `text`, else the one in the package; `None` when it has none.
    ///
    /// # Errors
    /// What is wrong with it, or why it cannot be read.
    pub(super) fn inspect(&self, name: &str, dir: &str, text: Option<&str>) -> Result<Option<Box<Spec>>, Error> {
        let strict = text.is_none();
        let (label, text) = match text {
            Some(text) => (format!("definition of \"{name}\""), text.as_bytes().to_vec()),
            None => {
                let path = packaged_definition(self.records.store(), name, dir);
                match config_files::read_file(&path) {
                    Ok(None) => return Ok(None),
                    Ok(Some(text)) => (path.to_string_lossy().into_owned(), text),
                    Err(why) => return Err(format_error!("{}: {why}", path.display())),
                }
            }
        };
        match config::read_definition(&label, &text, !dir.is_empty(), strict) {
            Ok(spec) => Ok(Some(Box::new(spec))),
            Err(problems) => {
                let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
                Err(problems.join("; ").into())
            }
        }
    }

    /// Removes package files and directories; all of the agent's when `files` is empty.
    pub(super) fn drop_package(&mut self, name: &str, files: &[Box<str>]) {
        let dir = self.records.store().packages_dir(name);
        if files.is_empty() {
            return self.move_to_trash(&dir);
        }
        for file in files {
            self.move_to_trash(&dir.join(&**file));
        }
    }

    /// Removes a file at once; renames a directory, and removes it in the background.
    fn move_to_trash(&mut self, path: &Path) {
        if fs::remove_file(path).is_ok() || fs::symlink_metadata(path).is_err() {
            return;
        }
        // No agent can have this name, and no earlier daemon has used it.
        self.trashed += 1;
        let away = self.records.store().packages_dir(&format!("{TRASH}{}-{}", monotonic().0, self.trashed));
        match fs::rename(path, &away) {
            Ok(()) => {
                self.fault_injector.pass("thrown-away");
                self.run_detached(&["rm", "-rf", "--", &away.to_string_lossy()]);
            }
            failed => {
                if let Err(error) = with_context(failed, "remove", path) {
                    self.log(Level::Warn, &error);
                }
            }
        }
    }

    /// Removes packages that no agent keeps, as a job whose record was lost leaves them, and corrects `current` links.
    pub(super) fn tidy_packages(&mut self) {
        let packages = self.records.store().packages_dir("");
        // What a link leads to is not the daemon's to remove.
        if packages.symlink_metadata().is_ok_and(|metadata| metadata.is_symlink()) {
            return;
        }
        for name in list(&packages, "").unwrap_or_default() {
            // Which packages an agent keeps is not known while its record is corrupt.
            if name.starts_with('.') || self.records.store().agent_is_corrupt(&name) {
                continue;
            }
            let Some(kept) = self.state.keeps(&name) else { continue };
            let dir = self.records.store().packages_dir(&name);
            if kept.is_empty() {
                self.move_to_trash(&dir);
                continue;
            }
            for file in list(&dir, "").unwrap_or_default() {
                if file != "current" && !kept.iter().any(|kept| **kept == *file) {
                    self.move_to_trash(&dir.join(file));
                }
            }
            if let Some(version) = self.state.current(&name) {
                if fs::read_link(dir.join("current")).is_ok_and(|target| target == Path::new(&*version)) {
                    continue;
                }
                if let Err(why) = self.link(&name, &version) {
                    self.log(Level::Error, &why);
                }
            }
        }
    }

    /// Removes directories that an earlier daemon had renamed and did not remove.
    pub(super) fn empty_trash(&mut self) {
        let packages = self.records.store().packages_dir("");
        for name in list(&packages, "").unwrap_or_default() {
            if name.starts_with(TRASH) {
                self.run_detached(&["rm", "-rf", "--", &packages.join(name).to_string_lossy()]);
            }
        }
    }
}

fn open_package(path: &Path) -> Result<File, Error> {
    Ok(with_context(open_nofollow(path, OpenOptions::new().read(true), 0), "open", path)?)
}
