//! Package files and directories, moved in steps that are each done or not: a rename, a link.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{symlink, DirBuilderExt};
use std::path::{Path, PathBuf};

use super::identity::Runner;
use super::{Daemon, HelperTask};
use crate::error::Error;
use crate::host::config_files;
use crate::host::disk::{self, list, make_durable_dir, reason};
use crate::kernel::Level;
use crate::model::event::{Event, Verified};
use crate::model::job::JobId;
use crate::model::package::{download_name, Format};
use crate::model::spec::Spec;
use crate::sys::file::{has_writer, open_nofollow};
use crate::sys::monotonic;
use crate::wire::config;
use crate::work::{HelperRequest, HelperResponse};

/// A package may unpack to so many times what may be downloaded.
const UNPACK_FACTOR: u64 = 10;

/// Members of one archive.
const UNPACK_ENTRIES: u64 = 200_000;

/// What the names of directories that were thrown away begin with.
const TRASH: &str = ".trash-";

/// Where rpm and deb packages put the definitions of their agents.
const OWN_DEFINITIONS: &str = "/usr/lib/bootagent";

impl Daemon {
    /// What a job's download is called.
    pub(super) fn download_name(&self, id: &str) -> String {
        download_name(self.state.sn(), id)
    }

    fn download(&self, id: &str) -> PathBuf {
        self.store.download(&self.download_name(id))
    }

    /// Version 1.0 called downloads as their jobs: what it has fetched is gone on with.
    pub(super) fn rename_downloads(&mut self) {
        for name in self.store.downloads() {
            if self.state.job(&name).is_some() {
                // What cannot be renamed is fetched again.
                let _ = fs::rename(self.store.download(&name), self.download(&name));
            }
        }
    }

    /// The file a job's package is fetched into; what an earlier attempt brought is still in it.
    pub(super) fn open_download(&mut self, id: &JobId) -> Result<File, Error> {
        let path = self.download(id);
        self.store.make_downloads()?;
        let file = open_nofollow(&path, OpenOptions::new().read(true).write(true).create(true), 0o600)
            .map_err(|error| with_context("open", &path, &error))?;
        if file.metadata().is_ok_and(|found| found.len() > 0) {
            self.resumed.insert(id.clone());
        }
        Ok(file)
    }

    /// Gives a job's download, which has been verified, its place as a package file.
    pub(super) fn place(&mut self, id: &str, name: &str, file: &str) -> Result<(), Error> {
        let (from, dir) = (self.download(id), self.store.packages_dir(name));
        let to = dir.join(file);
        make_durable_dir(&dir)?;
        match fs::rename(&from, &to) {
            Ok(()) => {
                self.fault_injector.pass("place-renamed");
                sync_dir(&dir)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound && to.exists() => Ok(()),
            Err(error) => Err(with_context("move", &from, &error)),
        }
    }

    /// Gives an unpacked directory its name.
    pub(super) fn rename(&mut self, name: &str, from: &str, to: &str) -> Result<(), Error> {
        let dir = self.store.packages_dir(name);
        let (from, to) = (dir.join(from), dir.join(to));
        if to.exists() {
            // Left by a job that was interrupted right here.
            self.move_to_trash(&to);
        }
        self.fault_injector.pass("rename-cleared");
        fs::rename(&from, &to).map_err(|error| with_context("move", &from, &error))?;
        sync_dir(&dir)
    }

    /// Lets `current` point to a version.
    pub(super) fn link(&mut self, name: &str, version: &str) -> Result<(), Error> {
        let dir = self.store.packages_dir(name);
        if !dir.join(version).is_dir() {
            return Err(format_error!("\"{}\" is not there", dir.join(version).display()));
        }
        let (current, next) = (dir.join("current"), dir.join(".current"));
        let _ = fs::remove_file(&next);
        symlink(version, &next).map_err(|error| with_context("link", &next, &error))?;
        self.fault_injector.pass("link-made");
        fs::rename(&next, &current).map_err(|error| with_context("link", &current, &error))?;
        sync_dir(&dir)
    }

    /// Has what was fetched verified as it lies there: its digest, and its signature where there must be one. An earlier
    /// daemon may have given it its place already.
    pub(super) fn verify_package(&mut self, id: JobId, name: &str, file: &str) {
        let mut path = self.download(&id);
        if fs::symlink_metadata(&path).is_err() {
            path = self.store.packages_dir(name).join(file);
        }
        let text = |text: Option<&str>| text.unwrap_or_default().to_string();
        let order = self.state.job(&id).map(|job| HelperRequest::Verify {
            keys: self.config.trusted_keys.iter().map(|key| key.to_string()).collect(),
            signature: text(job.signature.as_deref()),
            name: job.name.to_string(),
            version: text(job.version.as_deref()),
        });
        let Some(order) = order else { return };
        let opened = open_nofollow(&path, OpenOptions::new().read(true), 0);
        let started = match opened.map_err(|error| with_context("open", &path, &error)) {
            // A file system that knows no leases cannot say it.
            Ok(package) if has_writer(&package).unwrap_or(false) => {
                // Nobody but root could open it otherwise.
                let text =
                    "is open for writing elsewhere: what fetched it gave it away; let nothing else run as helper_user";
                Err(Verified::Hostile(format!("\"{}\" {text}", path.display()).into()))
            }
            opened => opened
                .and_then(|package| {
                    self.start_helper(HelperTask::Verify(id.clone()), &order, Some(package), Runner::Judge)
                })
                .map_err(|reason| Verified::Unknown(reason.into())),
        };
        if let Err(result) = started {
            self.queue.push_back(Event::Verified(id, result));
        }
    }

    /// Unpacks a package file into a new directory.
    pub(super) fn unpack(&mut self, job: JobId, name: &str, file: &str, dir: &str, format: Format) {
        let base = self.store.packages_dir(name);
        let (file, dir) = (base.join(file), base.join(dir));
        if dir.exists() {
            self.move_to_trash(&dir);
        }
        let open = || open_nofollow(&file, OpenOptions::new().read(true), 0);
        let prepared =
            fs::DirBuilder::new().mode(0o755).create(&dir).map_err(|error| with_context("make", &dir, &error));
        let started =
            prepared.and_then(|()| open().map_err(|error| with_context("open", &file, &error))).and_then(|package| {
                let order = HelperRequest::Unpack {
                    format,
                    dir: dir.to_string_lossy().into_owned(),
                    max_bytes: self.config.max_download.saturating_mul(UNPACK_FACTOR),
                    max_entries: UNPACK_ENTRIES,
                };
                self.start_helper(HelperTask::Unpack(job.clone(), dir.clone()), &order, Some(package), Runner::Daemon)
            });
        if let Err(reason) = started {
            self.queue.push_back(Event::Unpacked(job, Err(reason)));
        }
    }

    /// A package was unpacked: its single top directory, where there is one, is stripped.
    pub(super) fn unpacked(&mut self, dir: &Path, outcome: HelperResponse) -> Result<(), Error> {
        let top = match outcome {
            HelperResponse::Unpacked { top, .. } => top,
            HelperResponse::Failed { reason, .. } => return Err(reason.into()),
            HelperResponse::Exchanged { .. } | HelperResponse::Fetched { .. } | HelperResponse::Verified { .. } => {
                return Err("the helper did something else".into())
            }
        };
        if top.is_empty() {
            return Ok(());
        }
        let mut aside = dir.to_path_buf();
        aside.set_extension("top");
        if aside.exists() {
            self.move_to_trash(&aside);
        }
        let mut strip = fs::rename(dir.join(&top), &aside).and_then(|()| fs::remove_dir(dir));
        self.fault_injector.pass("top-aside");
        strip = strip.and_then(|()| fs::rename(&aside, dir));
        strip.map_err(|error| with_context("move", dir, &error))
    }

    /// Reads a definition: the text, else the package's own.
    pub(super) fn inspect(&self, name: &str, dir: &str, text: Option<&str>) -> Result<Option<Box<Spec>>, Error> {
        let in_tar = !dir.is_empty();
        let strict = text.is_none();
        let (label, text) = match text {
            Some(text) => (format!("definition of \"{name}\""), text.as_bytes().to_vec()),
            None => {
                let path = match in_tar {
                    true => self.store.packages_dir(name).join(dir).join("bootagent.json"),
                    false => Path::new(OWN_DEFINITIONS).join(format!("{name}.json")),
                };
                match config_files::read_file(&path) {
                    Ok(None) => return Ok(None),
                    Ok(Some(text)) => (path.to_string_lossy().into_owned(), text),
                    Err(why) => return Err(format_error!("{}: {why}", path.display())),
                }
            }
        };
        match config::read_definition(&label, &text, in_tar, strict) {
            Ok(spec) => Ok(Some(Box::new(spec))),
            Err(problems) => {
                let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
                Err(problems.join("; ").into())
            }
        }
    }

    /// Removes package files and directories; all of an agent's, where none is named.
    pub(super) fn drop_package(&mut self, name: &str, files: &[Box<str>]) {
        let dir = self.store.packages_dir(name);
        if files.is_empty() {
            return self.move_to_trash(&dir);
        }
        for file in files {
            self.move_to_trash(&dir.join(&**file));
        }
    }

    /// Removes a file, or puts a directory out of the way at once and has it removed in its own time.
    fn move_to_trash(&mut self, path: &Path) {
        if fs::remove_file(path).is_ok() || fs::symlink_metadata(path).is_err() {
            return;
        }
        self.trash += 1;
        // No agent can have this name, and no earlier daemon has used it.
        let away = self.store.packages_dir(&format!("{TRASH}{}-{}", monotonic().0, self.trash));
        match fs::rename(path, &away) {
            Ok(()) => {
                self.fault_injector.pass("thrown-away");
                self.run_detached(&["rm", "-rf", "--", &away.to_string_lossy()]);
            }
            Err(error) => self.log(Level::Warn, &with_context("remove", path, &error)),
        }
    }

    /// Removes packages that nobody keeps, as a job whose record was lost leaves them, and sets right what is current.
    pub(super) fn tidy_packages(&mut self) {
        let packages = self.store.packages_dir("");
        // Where a link leads nothing is ours to remove.
        if packages.symlink_metadata().is_ok_and(|found| found.is_symlink()) {
            return;
        }
        for name in list(&packages, "").unwrap_or_default() {
            // A record that could not be read is set aside, and its packages with it.
            if name.starts_with('.') || self.store.agent_is_corrupt(&name) {
                continue;
            }
            let Some(kept) = self.state.keeps(&name) else { continue };
            let dir = self.store.packages_dir(&name);
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
                if fs::read_link(dir.join("current")).is_ok_and(|found| found == Path::new(&*version)) {
                    continue;
                }
                if let Err(why) = self.link(&name, &version) {
                    self.log(Level::Error, &why);
                }
            }
        }
    }

    /// Removes what an earlier daemon had thrown away and could not remove any more.
    pub(super) fn empty_trash(&mut self) {
        let packages = self.store.packages_dir("");
        let Ok(entries) = fs::read_dir(&packages) else { return };
        for entry in entries.flatten() {
            if entry.file_name().to_string_lossy().starts_with(TRASH) {
                self.run_detached(&["rm", "-rf", "--", &entry.path().to_string_lossy()]);
            }
        }
    }
}

fn with_context(verb: &str, path: &Path, error: &io::Error) -> Error {
    format_error!("cannot {verb} \"{}\": {}", path.display(), reason(error))
}

fn sync_dir(dir: &Path) -> Result<(), Error> {
    Ok(disk::sync_dir(dir)?)
}
