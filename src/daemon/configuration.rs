//! Which configuration the daemon uses, and when it starts again with a better one.
//!
//! A good configuration file is copied to `good/`. In place of a bad one that copy is used, else the defaults; on the
//! defaults the daemon is *closed*: it supervises agents, but takes part in no exchange and no job, as nobody can say which
//! signatures the file asks for. A closed daemon reads the file again with each check, and executes itself anew when it is
//! good.

use std::path::Path;
use std::time::Duration;

use super::conditions::Condition;
use super::{Daemon, Options};
use crate::host::config_files::{self, Basis};
use crate::host::disk::{make_durable_dir, DiskError};
use crate::host::store::Store;
use crate::kernel::{Level, Time};
use crate::model::event::Event;
use crate::sys::monotonic;
use crate::wire::config::{self, Change, Config};

/// The longest time between two checks while the daemon is closed.
const CLOSED_CHECK: Duration = Duration::from_secs(10);

/// After a reexec with the same good configuration failed, the next attempt is not made before this.
const RETRY: Duration = Duration::from_secs(300);

/// The configuration that is used.
pub(super) struct Configured {
    pub config: Box<Config>,
    /// Why there are neither exchanges nor jobs, if so.
    pub closed: Option<Box<str>>,
    /// What a report says while the file is bad.
    pub problem: Option<Box<str>>,
    /// Why there is no copy of a good file, if so.
    pub copy_problem: Option<Box<str>>,
}

/// Whether the daemon is closed, and what it has tried to change that.
pub(super) struct Reopening {
    pub closed: bool,
    /// The content of the configuration file at the last attempt, and when that was.
    pub tried: Option<(Vec<u8>, Time)>,
}

/// Reads the configuration; a bad one is replaced by its last good copy, else by the defaults.
pub(super) fn configure(options: &Options, notes: &mut Vec<(Level, String)>) -> Configured {
    let (loaded, basis) = config_files::config_in_use(&options.config_path);
    let mut config = loaded.config;
    for problem in &loaded.problems {
        eprintln!("{problem}");
        notes.push((Level::Error, problem.to_string()));
    }
    let used = match &basis {
        Basis::File => {
            let store = Store::of(&config);
            let kept = loaded.text.as_ref().map(|text| keep_config(&store, &options.config_path, &config, text));
            let why =
                kept.and_then(Result::err).map(|error| format!("cannot keep a copy of the configuration: {error}"));
            notes.extend(why.clone().map(|why| (Level::Warn, why)));
            return Configured { config, closed: None, problem: None, copy_problem: why.map(Into::into) };
        }
        Basis::Copy => "the last good one is used",
        Basis::Defaults(_) => "the defaults are used",
    };
    let path = &options.config_path;
    let bad = format!("the configuration is bad: {used}, with state_dir \"{}\"", config.state_dir);
    notes.push((Level::Error, bad.clone()));
    let Basis::Defaults(why) = &basis else {
        let problem = format!("{bad}: \"bootagent check\" says what is wrong with {}", path.display());
        return Configured { config, closed: None, problem: Some(problem.into()), copy_problem: None };
    };
    config.checksecs = config.checksecs.min(CLOSED_CHECK);
    let problem = config_files::closed(path, why);
    notes.push((Level::Error, problem.clone()));
    Configured { config, closed: Some(problem.clone().into()), problem: Some(problem.into()), copy_problem: None }
}

/// Keeps a copy of a good configuration file, and which signatures it asks for. The latter is written first where it asks
/// for some, and removed last where it does not, so that at no moment less is asked for than the copy says. Where it cannot
/// be written, no copy that asks for less is kept either.
///
/// # Errors
/// When one of them cannot be written or removed.
pub(super) fn keep_config(store: &Store, path: &Path, config: &Config, text: &[u8]) -> Result<(), Box<DiskError>> {
    let guards = config.guards();
    make_durable_dir(Path::new(&*config.state_dir))?;
    if !guards.is_empty() {
        store.write_guards(Some(&guards)).or_else(|error| {
            let copy = store.good(config_files::GOOD).map(|copy| config::read_config(config_files::GOOD, &copy).0);
            if copy.is_some_and(|copy| !copy.asks_for(&guards)) {
                store.remove_good(config_files::GOOD)?;
            }
            Err(error)
        })?;
    }
    let name = config_files::copy_of(path);
    store.write_copied(&name, config_files::GOOD)?;
    store.keep_good(config_files::GOOD, text)?;
    if guards.is_empty() {
        store.write_guards(None)?;
    }
    forget_moved(path, &name, config)
}

/// Removes the copy in the default state_dir where the file has since named another one: when no state_dir can be read from
/// the file any more, that copy would count as the last good one.
fn forget_moved(path: &Path, name: &[u8], config: &Config) -> Result<(), Box<DiskError>> {
    let default = Config::default();
    if config.state_dir == default.state_dir {
        return Ok(());
    }
    let default = Store::of(&default);
    match default.copied() {
        Ok(Some(copied)) if copied == name => default.remove_good(config_files::GOOD),
        // Version 1.0 did not write down which file it had copied.
        Ok(None) if path == Path::new(config_files::CONFIG) => default.remove_good(config_files::GOOD),
        _ => Ok(()),
    }
}

impl Daemon {
    /// Copies the configuration again where that failed, or where it is not on record which signatures it asks for.
    pub(super) fn recover_configuration_copy(&mut self) {
        let guards = self.config.guards();
        let recorded = self.records.store().guards();
        let is_recorded = recorded.is_ok_and(|recorded| recorded.as_deref() == Some(guards.as_bytes()));
        let has_failed = self.conditions.problem(Condition::ConfigurationCopy).is_some();
        if has_failed || !guards.is_empty() && !is_recorded {
            self.keep_configuration();
        }
    }

    /// Keeps a copy of the configuration file where it is good; else only which signatures the configuration in use asks for.
    /// What fails is tried again with the next check.
    pub(super) fn keep_configuration(&mut self) {
        let loaded = config_files::read_config(&self.config_path);
        let store = self.records.store();
        let kept = match loaded.text.filter(|_| loaded.problems.is_empty()) {
            Some(text) => keep_config(store, &self.config_path, &loaded.config, &text),
            None if self.config.guards().is_empty() => Ok(()),
            None => store.write_guards(Some(&self.config.guards())),
        };
        let problem = kept.err().map(|error| format!("cannot keep a copy of the configuration: {error}"));
        self.set_condition(Condition::ConfigurationCopy, problem.as_deref());
    }

    /// Reads the configuration file again for its labels; all else in it counts with the next start. Adds what is wrong with the
    /// file to `problems`, and what has changed to `notes`.
    pub(super) fn reread_labels(&mut self, problems: &mut Vec<Box<str>>, notes: &mut Vec<Box<str>>) {
        let loaded = config_files::read_config(&self.config_path);
        for problem in &loaded.problems {
            self.log(Level::Error, &problem);
            problems.push(problem.to_string().into());
        }
        if !loaded.problems.is_empty() || self.reopening.closed {
            return;
        }
        match self.config.take_over(&loaded.config) {
            None => {}
            Some(Change::Other) => {
                let path = self.config_path.display();
                let text = format!("{path} has changed in more than its labels: run \"bootagent reexec\"");
                self.log(Level::Warn, &text);
                notes.push(text.into());
            }
            Some(Change::Labels) => {
                let text = "the labels have changed";
                self.log(Level::Info, &text);
                notes.push(text.into());
                self.keep_configuration();
            }
        }
    }

    /// Executes the daemon anew once a bad configuration has become good. `ordered`: also when that failed a short time ago.
    pub(super) fn reopen(&mut self, ordered: bool) {
        if !self.reopening.closed {
            return;
        }
        let (loaded, basis) = config_files::config_in_use(&self.config_path);
        let text = loaded.text.unwrap_or_default();
        let now = monotonic();
        let tried = self.reopening.tried.as_ref();
        let tried_lately = tried.is_some_and(|(tried, at)| *tried == text && now.since(*at) < RETRY);
        if matches!(basis, Basis::Defaults(_)) || !ordered && tried_lately {
            return;
        }
        self.reopening.tried = Some((text, now));
        self.log(Level::Info, &"the configuration is good again: starting again with it");
        self.queue.push_back(Event::Reexec);
    }
}
