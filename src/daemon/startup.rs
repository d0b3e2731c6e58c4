//! What the daemon finds when it starts, and when it is told to read the definitions again.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::slice::from_ref;
use std::time::Duration;

use super::background::last_death;
use super::control::Control;
use super::identity::HelperUsers;
use super::recovered::{find, is_unreaped, own_definitions, read_definitions, tell_users, undone};
use super::reexec::{installed, taken};
use super::signing::Signing;
use super::{fault_injection, now, Copies, Daemon, Options};
use crate::error::Error;
use crate::host::config_files::{self, Basis};
use crate::host::disk::{clear, list, make_dir, make_durable_dir, publish, reason, DiskError};
use crate::host::helper::Binary;
use crate::host::limits::Limits;
use crate::host::logs::{Log, Outputs};
use crate::host::proc;
use crate::host::store::{boot_id, can_be_read, Store, CORRUPT};
use crate::host::tree::Trees;
use crate::kernel::{Level, Process, Resource, Sig, Time};
use crate::model::event::{Action, Event};
use crate::model::record::AgentRecord;
use crate::model::restart::Policy;
use crate::model::schedule::{parse_servers, Server};
use crate::model::spec::Name;
use crate::model::state::{self, State};
use crate::sorted_map::{SortedMap, SortedSet};
use crate::sys::file::{lock_holder, open_nofollow, try_lock, try_lock_reading};
use crate::sys::poll::Signals;
use crate::sys::setup_error::SetupErrorPipe;
use crate::sys::{account, monotonic, process, random};
use crate::wire::config::{self, Config};
use crate::wire::control::SOCKET;
use crate::wire::reexec_data::ReexecData;
use crate::work::watch;

/// Below `run_dir`; told for people and init scripts, never believed by us.
pub const PID_FILE: &str = "bootagent.pid";

/// What `Daemon::troubles` calls the configuration.
const CONFIGURATION: &str = "the configuration";

/// How often a bad configuration that closes exchanges and jobs is looked at again, at least.
const REOPEN: Duration = Duration::from_secs(10);

/// After this it is tried again to begin anew with the same good one, as what keeps us from it may be over.
const TRY_AGAIN: Duration = Duration::from_secs(300);

/// Open files that we may have; one for each agent that is not our child, and some.
const FILES: u64 = 65_536;

impl Daemon {
    /// Everything up to the first turn of the loop.
    ///
    /// # Errors
    /// Why there can be no daemon.
    pub(super) fn start(
        options: &Options,
        handover: Option<Result<ReexecData, Error>>,
        out: &mut Vec<Action>,
    ) -> Result<Daemon, Error> {
        // Modes are what is asked for, whoever starts us.
        process::set_umask(0o022);
        let mut notes: Vec<(Level, String)> = Vec::new();
        let unreadable = |why: &Error| format!("what the image before this one left cannot be read: {why}");
        notes.extend(handover.as_ref().and_then(|read| read.as_ref().err()).map(|why| (Level::Error, unreadable(why))));
        let mut handover = handover.and_then(Result::ok);
        let (config, source, trouble) = configure(options, &mut notes);
        let closed = matches!(source, Basis::Defaults(_)).then(|| trouble.clone()).flatten();
        let run_dir = Path::new(&*config.run_dir);
        make_dir(run_dir).map_err(|error| format_error!("{error}; want a run_dir that can be written"))?;
        let kept = handover.as_ref().filter(|left| left.run_dir == *config.run_dir);
        let (locked, listener) = (kept.and_then(|left| taken(left.lock)), kept.and_then(|left| taken(left.listener)));
        let lock = locked.map_or_else(|| lock(&run_dir.join(watch::LOCK)), |fd| Ok(fd.into()))?;
        let (state_dir, log_dir) = (Path::new(&*config.state_dir), Path::new(&*config.log_dir));
        let locked = kept.and_then(|left| taken(left.state_lock));
        // That it cannot be made is told with what cannot be remembered.
        let _ = make_durable_dir(state_dir);
        let state_lock = locked.map_or_else(|| lock_state(state_dir), |fd| Ok(Some(fd.into())))?;
        let store = Store::open(state_dir, run_dir).unwrap_or_else(|error| {
            notes.push((Level::Error, format!("{error}; nothing can be remembered until that is mended")));
            Store::new(state_dir, run_dir)
        });
        let mut log = Log::new(log_dir, config.log_level, !options.background);
        let signals = Signals::new(&[Sig::CHLD, Sig::TERM, Sig::INT, Sig::QUIT, Sig::HUP, Sig::USR1, Sig::USR2])
            .map_err(|error| format_error!("cannot take signals: {error}"))?;
        let ends = handover.as_ref().and_then(|left| left.failures);
        let ends = ends.and_then(|(read, write)| taken(Some(read)).zip(taken(Some(write))));
        let failures = ends
            .map_or_else(SetupErrorPipe::new, |(read, write)| SetupErrorPipe::from_fds(read, write))
            .map_err(|error| format_error!("cannot make a pipe: {error}"))?;
        let socket = run_dir.join(SOCKET);
        let control = match (listener, &handover) {
            (Some(listener), Some(left)) => {
                Control::inherit(listener, &socket, left.last_client, &left.connections, monotonic())
            }
            _ => Control::listen(&socket)
                .map_err(|error| format_error!("cannot listen on \"{}\": {error}", socket.display()))?,
        };
        protect(&mut notes);
        let nofile = handover.as_ref().and_then(|left| left.nofile).or_else(raise_files);
        let program = handover.as_ref().map_or_else(installed, |left| left.program.clone());
        let mut binary = Binary::own(&std::env::current_exe().unwrap_or_else(|_| "/proc/self/exe".into()));
        let users = HelperUsers::new(&config, &mut binary);
        users.tell(&mut notes);
        notes.extend(config_files::shared_directories(&config).into_iter().map(|text| (Level::Warn, text)));
        let pid_told = write_pid_file(run_dir).is_ok();
        for (level, note) in &notes {
            log.write(*level, &note);
        }
        let trust = Signing::new(config.key_file.as_deref(), &store);
        let limits = Limits::detect(&config.state_dir, config.cgroup.as_deref());
        let mut trees = Trees::new(&config.state_dir);
        let stored = store.read_all();
        let sound = stored.corrupt.iter().all(|corrupt| corrupt.job.is_some());
        let mut unread = stored.unread.clone();
        let agents_dir = PathBuf::from(&*config.agents_dir);
        if !can_be_read(from_ref(&agents_dir)) {
            unread.push(agents_dir);
        }
        let mut unkept = Copies::default();
        let mut found = find(&config, &store, stored, &mut unkept, handover.is_some(), &mut log, out);
        for (run, alive) in &mut found.runs {
            *alive = run
                .process
                .filter(|_| *alive)
                .is_some_and(|process| trees.adopt(&run.name, process) || is_unreaped(process));
        }
        if trees.is_blind() {
            unread.push("/proc".into());
            found.unread.all = true;
        }
        if let Some(why) = trees.fault() {
            let lost =
                "of an agent no more is known than its control group and its session, and the next daemon finds none";
            log.write(Level::Warn, &format_args!("{why}: {lost}"));
        }
        tell_users(&found.definitions, &mut trees);
        let strays = trees.leftovers(&limits);
        for (name, left) in &strays {
            trees.claim(name, left);
            if !left.strength.holds() {
                found.marked.push(name.clone());
                continue;
            }
            let started = |process| proc::age(process).map_or(now().time, |age| now().time.before(age));
            found.unrecorded.push((name.clone(), left.main.map(|main| (main, started(main)))));
        }
        found.reexec = handover.as_mut().map(|left| std::mem::take(&mut left.state));
        found.damage.extend(last_death().map(|text| ("bootagent".into(), text.into())));
        found.undone = undone(run_dir);
        let renewed = found.reexec.as_ref().is_some_and(|carried| carried.job.is_some());
        let config_path = options.config_path.clone();
        let options = state_options(options, &config, closed.clone(), &program, &mut log);
        log.write(Level::Info, &format_args!("{} begins, process {}", options.version, process::own_id()));
        let state = State::new(options, found, now(), out);
        let mut daemon = Daemon {
            store,
            log,
            outputs: Outputs::new(log_dir),
            limits,
            trees,
            state,
            queue: VecDeque::new(),
            signals,
            failures,
            binary,
            control,
            owners: SortedMap::new(),
            watched: Vec::new(),
            helpers: Vec::new(),
            checks: Vec::new(),
            users,
            signing: trust,
            closed: closed.is_some(),
            tried: None,
            resumed: SortedSet::new(),
            tools: Vec::new(),
            nofile,
            trash: 0,
            check_at: monotonic() + config.checksecs,
            troubles: trouble.map(|trouble| (CONFIGURATION, trouble)).into_iter().collect(),
            unsaved: SortedMap::new(),
            pid_file_written: pid_told,
            unread,
            pending_backups: unkept,
            quit: None,
            power: None,
            fault_injector: fault_injection::FaultInjector::asked(renewed),
            lock,
            state_lock,
            program,
            config_path,
            watcher: None,
            config,
        };
        for (name, left) in strays {
            daemon.attach(&name, &left.processes);
        }
        let running = daemon.state.agents().filter_map(|agent| Some((agent.name().clone(), agent.process()?)));
        for (name, process) in running.collect::<Vec<_>>() {
            daemon.follow_process(&name, process);
            daemon.attach(&name, &[process]);
        }
        if let Some(left) = handover {
            daemon.inherit(left);
        }
        daemon.remove_leftovers(sound);
        daemon.report_keys();
        Ok(daemon)
    }

    /// Finds again the control groups that an earlier daemon put these processes of an agent into.
    fn attach(&mut self, name: &Name, processes: &[Process]) {
        let limits = self.state.spec(name).map(|spec| spec.limits).unwrap_or_default();
        let found = self.limits.attach(name, &limits, processes);
        for note in &found.notes {
            self.log(Level::Info, &note);
        }
        self.queue.push_back(Event::Attached {
            name: name.clone(),
            limits_by: found.by,
            poll_cpu: found.polled.cpu,
            poll_memory: found.polled.memory,
        });
    }

    /// Removes what jobs that are no more have left; packages only where all records of agents could be read.
    fn remove_leftovers(&mut self, sound: bool) {
        self.empty_trash();
        self.rename_downloads();
        if !self.unread.is_empty() {
            return;
        }
        let open: Vec<String> = self.state.job_ids().map(|id| self.download_name(id)).collect();
        for name in self.store.downloads() {
            if !open.contains(&name) {
                let _ = self.store.remove_download(&name);
            }
        }
        let run_dir = self.config.run_dir.clone();
        for ending in [".pid", ".out"] {
            for file in list(Path::new(&*run_dir), ending).unwrap_or_default() {
                if file.strip_prefix("tool-").is_some_and(|id| self.state.job(id).is_none()) {
                    let _ = fs::remove_file(Path::new(&*run_dir).join(file + ending));
                }
            }
        }
        if sound {
            self.tidy_packages();
        }
    }

    /// Where a bad configuration keeps us from talking: has another image begin as soon as the file is good. `ordered`: also
    /// where that failed before.
    pub(super) fn reopen(&mut self, ordered: bool) {
        if !self.closed {
            return;
        }
        let (loaded, source) = config_files::config_in_use(&self.config_path);
        let text = loaded.text.unwrap_or_default();
        let lately = |(tried, at): &(Vec<u8>, Time)| *tried == text && monotonic().since(*at) < TRY_AGAIN;
        if matches!(source, Basis::Defaults(_)) || !ordered && self.tried.as_ref().is_some_and(lately) {
            return;
        }
        self.tried = Some((text, monotonic()));
        self.log(Level::Info, &"the configuration is good again: beginning anew with it");
        self.queue.push_back(Event::Reexec);
    }

    /// Reads all definitions again. A directory that cannot be read changes nothing.
    pub(super) fn reload(&mut self) {
        let dir = self.config.agents_dir.clone();
        let sources = match config_files::read_directory(Path::new(&*dir)) {
            Ok(Some(sources)) => sources,
            Ok(None) => {
                return self.log(Level::Error, &format_args!("{dir}: there is no such directory, nothing is changed"))
            }
            Err(why) => return self.log(Level::Error, &format_args!("{dir}: {why}; nothing is changed")),
        };
        let records: Vec<AgentRecord> = self.state.agents().map(|agent| agent.record.clone()).collect();
        let mut problems = Vec::new();
        self.pending_backups = Copies::default();
        let (mut good, whole) = read_definitions(&self.store, &dir, sources, &mut self.pending_backups, &mut problems);
        for record in &records {
            good.append(&mut own_definitions(&self.store, record, &mut problems));
        }
        self.log(Level::Info, &format_args!("definitions read again from \"{dir}\""));
        self.queue.push_back(Event::Definitions { good, problems, whole });
    }
}

/// Reads the configuration; a bad one is replaced by the last good one, else by the defaults. Last, what is in trouble then.
fn configure(options: &Options, notes: &mut Vec<(Level, String)>) -> (Box<Config>, Basis, Option<Box<str>>) {
    let (loaded, source) = config_files::config_in_use(&options.config_path);
    let mut config = loaded.config;
    for problem in &loaded.problems {
        eprintln!("{problem}");
        notes.push((Level::Error, problem.to_string()));
    }
    let used = match &source {
        Basis::File => {
            let store = Store::new(Path::new(&*config.state_dir), Path::new(&*config.run_dir));
            if let Some(Err(error)) =
                loaded.text.as_ref().map(|text| keep_config(&store, &options.config_path, &config, text))
            {
                notes.push((Level::Warn, format!("cannot keep a copy of the configuration: {error}")));
            }
            return (config, source, None);
        }
        Basis::Copy => "last good one is",
        Basis::Defaults(_) => {
            config.checksecs = config.checksecs.min(REOPEN);
            "defaults are"
        }
    };
    let path = &options.config_path;
    let told = format!("the configuration is bad: the {used} used, with state_dir \"{}\"", config.state_dir);
    notes.push((Level::Error, told.clone()));
    let trouble = match &source {
        Basis::Defaults(why) => config_files::closed(path, why),
        Basis::File | Basis::Copy => {
            format!("{told}: \"bootagent check\" says what is wrong with {}", path.display())
        }
    };
    if source != Basis::Copy {
        notes.push((Level::Error, trouble.clone()));
    }
    (config, source, Some(trouble.into()))
}

/// Keeps a copy of a good configuration file, and what it asks of signatures: at no moment less than the copy, and where
/// that cannot be kept, no copy that asks for less.
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

/// Removes the copy in the default state_dir where the file has named another one since: it would be taken for the last good
/// one when no state_dir can be read from the file any more.
fn forget_moved(path: &Path, name: &[u8], config: &Config) -> Result<(), Box<DiskError>> {
    let usual = Config::default();
    if config.state_dir == usual.state_dir {
        return Ok(());
    }
    let usual = Store::new(Path::new(&*usual.state_dir), Path::new(&*usual.run_dir));
    match usual.copied() {
        Ok(Some(copied)) if copied == name => usual.remove_good(config_files::GOOD),
        // Version 1.0 did not say what it was of.
        Ok(None) if path == Path::new(config_files::CONFIG) => usual.remove_good(config_files::GOOD),
        _ => Ok(()),
    }
}

/// Writes the pid file.
///
/// # Errors
/// When it cannot be written; an old one is gone then, if it can be removed.
pub(super) fn write_pid_file(run_dir: &Path) -> Result<(), Box<DiskError>> {
    publish(run_dir, PID_FILE, &format!("{}\n", process::own_id()))
}

/// Makes and locks the file at `path`, below `run_dir`.
///
/// # Errors
/// That another process holds it, or why it cannot be had.
pub(super) fn lock(path: &Path) -> Result<File, Error> {
    // Another daemon holds a file, or nothing.
    clear(path, CORRUPT);
    let file = open_nofollow(path, OpenOptions::new().read(true).write(true).create(true), 0o600)
        .map_err(|error| format_error!("cannot open \"{}\": {error}", path.display()))?;
    match try_lock(&file) {
        Ok(true) => Ok(file),
        Ok(false) => Err(already_running(path, &file).into()),
        Err(error) => Err(format_error!("cannot lock \"{}\": {error}", path.display())),
    }
}

fn already_running(path: &Path, file: &File) -> String {
    let holder = lock_holder(file).ok().flatten().map_or(String::new(), |pid| format!(" by process {pid}"));
    format!("another daemon is running, as \"{}\" is locked{holder}: stop it first", path.display())
}

/// The lock in `state_dir`, on a file that is open for reading only: one that is open for writing keeps its file system
/// from being made read-only. `None` where it cannot be had, as the agents are to run all the same.
///
/// # Errors
/// That another daemon holds it, be its `run_dir` another one or have been emptied.
pub(super) fn lock_state(state_dir: &Path) -> Result<Option<File>, Error> {
    let path = state_dir.join(watch::LOCK);
    // What stands there may be a pipe, whose other side never comes.
    let flags = libc::O_CREAT | libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags).mode(0o600).open(&path);
    match file.and_then(|file| Ok((try_lock_reading(&file)?, file))) {
        Ok((true, file)) => Ok(Some(file)),
        Ok((false, file)) => Err(already_running(&path, &file).into()),
        Err(_) => Ok(None),
    }
}

/// What keeps the daemon alive and its orphans at hand; each where the host allows it.
fn protect(notes: &mut Vec<(Level, String)>) {
    if let Err(error) = process::set_child_subreaper() {
        notes.push((Level::Warn, format!("orphans of agents go to init: {error}")));
    }
    if account::own_uid().0 == 0 {
        if let Err(error) = process::set_oom_score_adj(-900) {
            notes.push((
                Level::Info,
                format!(
                    "the kernel may pick the daemon when memory runs out: cannot set its oom_score_adj: {}",
                    reason(&error)
                ),
            ));
        }
    }
}

/// Raises our limit of open files; returns the one our children get back.
fn raise_files() -> Option<(u64, u64)> {
    let (soft, hard) = process::limit(Resource::Nofile).ok()?;
    let raised = hard.min(FILES);
    if soft >= raised {
        return None;
    }
    process::set_limit(Resource::Nofile, raised, hard).ok()?;
    Some((soft, hard))
}

/// The servers of the command line, else of the configuration, else those compiled in.
fn servers(options: &Options, config: &Config, log: &mut Log) -> Vec<Server> {
    if let Some(servers) = &options.servers {
        return servers.clone();
    }
    if !config.servers.is_empty() {
        return config.servers.clone();
    }
    parse_servers(env!("BOOTAGENT_SVRLIST")).unwrap_or_else(|problem| {
        log.write(Level::Error, &format_args!("compiled-in servers: {problem}"));
        Vec::new()
    })
}

fn state_options(
    options: &Options,
    config: &Config,
    closed: Option<Box<str>>,
    program: &str,
    log: &mut Log,
) -> state::Options {
    let mut seed = [0; 8];
    if let Err(error) = random(&mut seed) {
        log.write(Level::Warn, &format_args!("no random numbers, jitter comes from the clock: {error}"));
        seed = monotonic().0.to_le_bytes();
    }
    state::Options {
        hostname: config.hostname.clone().unwrap_or_else(|| crate::sys::hostname().into()),
        version: concat!("bootagent-", env!("CARGO_PKG_VERSION"), "-", env!("BOOTAGENT_ARCH")).into(),
        boot_id: fault_injection::boot_id(boot_id()),
        servers: servers(options, config, log),
        step: config.step,
        splay: config.splay,
        policy: Policy { restartsecs: config.restartsecs, windowsecs: config.windowsecs, retries: config.retries },
        checksecs: config.checksecs,
        times: fault_injection::times(),
        packages: format!("{}/packages", config.state_dir).into(),
        signed: !config.trusted_keys.is_empty(),
        keyed: config.key_file.is_some(),
        closed,
        program: program.into(),
        config: options.config_path.to_string_lossy().into(),
        seed: u64::from_le_bytes(seed),
    }
}
