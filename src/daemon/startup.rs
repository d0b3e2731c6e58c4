//! The start of the daemon: from the command line and what is on the host to a `Daemon` that can enter its loop.
//!
//! Each step returns what it made, and they run in the order of their dependencies: the process itself, configuration,
//! directories and locks, store, sources of events, records and processes, state. Only what makes a daemon impossible is an
//! error; everything else is logged, and the daemon starts without it.

use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};
use std::slice::from_ref;

use super::background::{last_death, own_keeper};
use super::children::Children;
use super::conditions::{Condition, Conditions};
use super::configuration::{configure, Configured, Reopening};
use super::control::Control;
use super::helpers::Helpers;
use super::identity::HelperUsers;
use super::inspections::{environments_at_start, Inspections};
use super::notifications::Notifications;
use super::records::{Backups, Records};
use super::recovered::{is_unreaped, recover_state, set_users, undone};
use super::reexec::{installed, take_descriptor, Installed};
use super::run_files::{self, lock_state, RunFiles};
use super::secrets::Given;
use super::signing::Signing;
use super::{fault_injection, now, Daemon, Options};
use crate::error::Error;
use crate::host::cgroup::mark_of;
use crate::host::config_files;
use crate::host::disk::{list, make_dir, make_durable_dir, reason};
use crate::host::helper::Binary;
use crate::host::limits::Limits;
use crate::host::logs::{Log, Outputs};
use crate::host::machine::boot_id;
use crate::host::proc;
use crate::host::store::{can_be_read, Store};
use crate::host::tree::{Ask, Leftover, Trees};
use crate::kernel::{Level, Pid, Process, Resource, Sig, Uid};
use crate::model::event::{Action, Event};
use crate::model::oom_score;
use crate::model::restart::Policy;
use crate::model::schedule::{parse_servers, Server};
use crate::model::spec::Name;
use crate::model::state::{self, Recovered, State};
use crate::sorted_map::SortedMap;
use crate::sys::poll::Signals;
use crate::sys::setup_error::SetupErrorPipe;
use crate::sys::{account, monotonic, process, random};
use crate::wire::config::Config;
use crate::wire::control::SOCKET;
use crate::wire::reexec_data::ReexecData;
use crate::work::watch;

/// How many files the daemon may have open; it needs one for each agent that is not its child, and some.
const OPEN_FILES: u64 = 65_536;

/// What was found on the host.
struct Survey {
    records: Records,
    recovered: Recovered,
    trees: Trees,
    /// Processes of agents of which there is no record.
    leftovers: SortedMap<Name, Leftover>,
    /// What the programs of agents were started with, as noted.
    values: Vec<(String, String)>,
    /// Whether nothing but records of jobs is corrupt.
    sound: bool,
}

impl Daemon {
    /// Everything up to the loop. `reexec_data` is what this process left for itself before it executed this binary.
    ///
    /// # Errors
    /// When another daemon uses the same directories, `run_dir` cannot be made, or there are no signals or sockets.
    pub(super) fn start(
        options: &Options,
        reexec_data: Option<Result<ReexecData, Error>>,
        actions: &mut Vec<Action>,
    ) -> Result<Daemon, Error> {
        let mut notes: Vec<(Level, String)> = Vec::new();
        let mut reexec_data = usable(reexec_data, &mut notes);
        let nofile = prepare_process(reexec_data.as_ref(), &mut notes);
        let Configured { config, closed, problem, copy_problem } = configure(options, &mut notes);
        // Descriptors are of use only for the same directories.
        let same_place = reexec_data.as_ref().filter(|data| data.run_dir == *config.run_dir);
        let mut run_files = lock_directories(&config, same_place)?;
        let store = open_store(&config, &mut notes);
        let (signals, setup_errors, control) = open_sources(&config, same_place, reexec_data.as_ref())?;
        let program = reexec_data.as_ref().map_or_else(installed, |data| data.program.clone());
        let helpers = open_helpers(&config, &mut notes);
        notes.extend(config_files::shared_directories(&config).into_iter().map(|text| (Level::Warn, text)));
        // An attempt that fails is repeated with the first check, and logged there.
        let _ = run_files.write_pid_file(Path::new(&*config.run_dir));
        let mut log = open_log(options, &config, &notes);
        let signing = Signing::new(config.key_file.as_deref(), &store);
        let mut limits = Limits::detect(&config.state_dir, config.cgroup.as_deref());
        limits.leave_agents();
        let mark = mark_of(&config.state_dir);
        let mut ask =
            |processes: &[(Pid, Uid)]| environments_at_start(&helpers.binary, &setup_errors, &mark, processes);
        let survey = survey(&config, store, &limits, reexec_data.as_mut(), &mut ask, &mut log, actions);
        let in_job = survey.recovered.reexec.as_ref().is_some_and(|state| state.job.is_some());
        let reopening = Reopening { closed: closed.is_some(), tried: None };
        let state_options = state_options(options, &config, closed, &program, &mut log);
        log.write(Level::Info, &format_args!("{} starts as process {}", state_options.version, process::own_id()));
        let mut daemon = Daemon {
            state: State::new(state_options, survey.recovered, now(), actions),
            records: survey.records,
            trees: survey.trees,
            outputs: Outputs::new(Path::new(&*config.log_dir)),
            full_outputs: Vec::new(),
            given: Given::default(),
            mark,
            log,
            conditions: Conditions::default(),
            limits,
            queue: VecDeque::new(),
            signals,
            control,
            children: Children::new(setup_errors, nofile),
            helpers,
            inspections: Inspections::default(),
            notifications: Notifications::default(),
            checks: Vec::new(),
            signing,
            reopening,
            trashed: 0,
            check_at: monotonic() + config.checksecs,
            run_files,
            installed: Installed { program, watcher: None },
            quit: None,
            power: None,
            fault_injector: fault_injection::FaultInjector::new(in_job),
            config_path: options.config_path.clone(),
            config,
        };
        daemon.conditions.set_unlogged(Condition::Configuration, problem);
        daemon.conditions.set_unlogged(Condition::ConfigurationCopy, copy_problem);
        daemon.take_over(survey.leftovers, survey.values, reexec_data);
        daemon.remove_leftovers(survey.sound);
        daemon.report_keys();
        daemon.look_at_packages();
        Ok(daemon)
    }

    /// Ends the health checks and reloads of an earlier daemon, finds and thaws the control groups of the agents that run,
    /// watches their processes, and takes what else was left by a reexec.
    fn take_over(
        &mut self,
        leftovers: SortedMap<Name, Leftover>,
        values: Vec<(String, String)>,
        mut reexec_data: Option<ReexecData>,
    ) {
        // A helper that rotates goes on over a reexec, and thaws what it has frozen itself.
        if reexec_data.is_none() {
            self.limits.thaw();
        }
        self.end_old_programs();
        self.recover_values(values);
        for (name, leftover) in leftovers {
            self.attach(&name, &leftover.processes);
        }
        let running = self.state.agents().filter_map(|agent| Some((agent.name().clone(), agent.process()?)));
        for (name, process) in running.collect::<Vec<_>>() {
            self.follow_process(&name, process);
            self.attach(&name, &[process]);
        }
        let spare = self.state.agents().filter(|agent| agent.spares());
        for (name, began) in spare.map(|agent| (agent.name().clone(), agent.run_began())).collect::<Vec<_>>() {
            self.trees.leave_behind(&name, began, &self.limits);
        }
        let inherited = reexec_data.as_mut().map(|data| std::mem::take(&mut data.notifications));
        self.recover_notifications(inherited.unwrap_or_default());
        if let Some(data) = reexec_data {
            self.inherit(data);
        }
    }

    /// Finds the control groups that an earlier daemon put these processes of an agent into.
    fn attach(&mut self, name: &Name, processes: &[Process]) {
        let limits = self.state.spec(name).map(|spec| spec.limits).unwrap_or_default();
        let attached = self.limits.attach(name, &limits, processes);
        for note in &attached.notes {
            self.log(Level::Info, &note);
        }
        self.queue.push_back(Event::Attached(name.clone(), attached.enforcement));
    }

    /// Empties the trash and gives downloads of 1.0.0 their new names. If every record could be read, also removes the
    /// downloads and tool files of jobs that have ended; and if they are `sound`, the packages that no agent keeps.
    fn remove_leftovers(&mut self, sound: bool) {
        self.empty_trash();
        self.rename_downloads();
        if !self.records.are_complete() {
            return;
        }
        // A job that has ended needs no download any more, also one whose record was damaged.
        let open = self.state.job_ids().filter(|id| self.state.job(id).is_some());
        let open: Vec<String> = open.map(|id| self.download_name(id)).collect();
        for name in self.records.store().downloads() {
            if !open.contains(&name) {
                let _ = self.records.store().remove_download(&name);
            }
        }
        for ending in [".pid", ".out"] {
            for file in list(self.run_dir(), ending).unwrap_or_default() {
                if file.strip_prefix("tool-").is_some_and(|id| self.state.job(id).is_none()) {
                    let _ = fs::remove_file(self.run_dir().join(file + ending));
                }
            }
        }
        if sound {
            self.tidy_packages();
        }
    }
}

/// The reexec data, if there is any that could be read.
fn usable(data: Option<Result<ReexecData, Error>>, notes: &mut Vec<(Level, String)>) -> Option<ReexecData> {
    match data? {
        Ok(data) => Some(data),
        Err(why) => {
            notes.push((Level::Error, format!("cannot read what was handed over by the reexec: {why}")));
            None
        }
    }
}

/// Makes `run_dir` and `state_dir`, and locks them, unless they are locked since before a reexec.
fn lock_directories(config: &Config, left: Option<&ReexecData>) -> Result<RunFiles, Error> {
    let (run_dir, state_dir) = (Path::new(&*config.run_dir), Path::new(&*config.state_dir));
    make_dir(run_dir).map_err(|error| format_error!("{error}; configure a run_dir that can be written"))?;
    let lock = match left.and_then(|left| take_descriptor(left.lock)) {
        Some(fd) => fd.into(),
        None => run_files::lock(&run_dir.join(watch::LOCK))?,
    };
    // A directory that cannot be made is reported when the store is opened.
    let _ = make_durable_dir(state_dir);
    let state_lock = match left.and_then(|left| take_descriptor(left.state_lock)) {
        Some(fd) => Some(fd.into()),
        None => lock_state(state_dir)?,
    };
    Ok(RunFiles { lock, state_lock, pid_file_written: false })
}

fn open_store(config: &Config, notes: &mut Vec<(Level, String)>) -> Store {
    Store::open(Path::new(&*config.state_dir), Path::new(&*config.run_dir)).unwrap_or_else(|error| {
        notes.push((Level::Error, format!("{error}; nothing can be recorded until that is fixed")));
        Store::of(config)
    })
}

/// Opens what the loop waits for, or takes it over from before a reexec. `same_place` is `reexec_data` again, but only if
/// `run_dir` has not changed since.
fn open_sources(
    config: &Config,
    same_place: Option<&ReexecData>,
    reexec_data: Option<&ReexecData>,
) -> Result<(Signals, SetupErrorPipe, Control), Error> {
    let listener = same_place.and_then(|data| take_descriptor(data.listener));
    let signals = Signals::new(&[Sig::CHLD, Sig::TERM, Sig::INT, Sig::QUIT, Sig::HUP, Sig::USR1, Sig::USR2])
        .map_err(|error| format_error!("cannot receive signals: {error}"))?;
    let ends = reexec_data.and_then(|data| data.failures);
    let ends = ends.and_then(|(read, write)| take_descriptor(Some(read)).zip(take_descriptor(Some(write))));
    let setup_errors = ends
        .map_or_else(SetupErrorPipe::new, |(read, write)| SetupErrorPipe::from_fds(read, write))
        .map_err(|error| format_error!("cannot make a pipe: {error}"))?;
    let socket = Path::new(&*config.run_dir).join(SOCKET);
    let control = match (listener, reexec_data) {
        (Some(listener), Some(data)) => {
            Control::inherit(listener, &socket, data.last_client, &data.connections, monotonic())
        }
        _ => Control::listen(&socket)
            .map_err(|error| format_error!("cannot listen on \"{}\": {error}", socket.display()))?,
    };
    Ok((signals, setup_errors, control))
}

/// The log, with what there was to say before.
fn open_log(options: &Options, config: &Config, notes: &[(Level, String)]) -> Log {
    let mut log = Log::new(Path::new(&*config.log_dir), config.log_level, !options.background);
    notes.iter().for_each(|(level, note)| log.write(*level, note));
    log
}

fn open_helpers(config: &Config, notes: &mut Vec<(Level, String)>) -> Helpers {
    let mut binary = Binary::own(&std::env::current_exe().unwrap_or_else(|_| "/proc/self/exe".into()));
    let users = HelperUsers::new(config, &mut binary);
    notes.append(&mut users.notes());
    Helpers::new(binary, users)
}

/// Reads all records and definitions, and finds the processes of agents.
fn survey(
    config: &Config,
    store: Store,
    limits: &Limits,
    reexec_data: Option<&mut ReexecData>,
    ask: Ask,
    log: &mut Log,
    actions: &mut Vec<Action>,
) -> Survey {
    let mut trees = Trees::new();
    trees.set_keeper(own_keeper(Path::new(&*config.run_dir)));
    let mut stored = store.read_all();
    let values = std::mem::take(&mut stored.values);
    let sound = stored.corrupt.iter().all(|corrupt| corrupt.job.is_some());
    let mut unreadable = stored.unread.clone();
    let agents_dir = PathBuf::from(&*config.agents_dir);
    if !can_be_read(from_ref(&agents_dir)) {
        unreadable.push(agents_dir);
    }
    let mut backups = Backups::default();
    let reexeced = reexec_data.is_some();
    let mut recovered = recover_state(config, &store, stored, &mut backups, reexeced, log, actions);
    for (run, alive) in &mut recovered.runs {
        *alive = run.process.is_some_and(|process| trees.adopt(&run.name, process) || is_unreaped(process));
    }
    if trees.is_blind() {
        unreadable.push("/proc".into());
        recovered.unread.all = true;
    }
    if let Some(why) = trees.fault() {
        let lost = "only the control groups and sessions of agents are known, and the next daemon will find no agent";
        log.write(Level::Warn, &format_args!("{why}: {lost}"));
    }
    recovered.choose_definitions();
    set_users(&recovered.definitions, &mut trees);
    let leftovers = claim_leftovers(&mut trees, limits, ask, &mut recovered);
    recovered.reexec = reexec_data.map(|data| std::mem::take(&mut data.state));
    recovered.damage.extend(last_death().map(|text| ("bootagent".into(), text.into())));
    recovered.undone = undone(Path::new(&*config.run_dir));
    Survey { records: Records::new(store, unreadable, backups), recovered, trees, leftovers, values, sound }
}

/// Finds processes of agents of which there is no record.
fn claim_leftovers(
    trees: &mut Trees,
    limits: &Limits,
    ask: Ask,
    recovered: &mut Recovered,
) -> SortedMap<Name, Leftover> {
    let mut leftovers = trees.leftovers(limits, ask);
    // The record of an agent that was removed stays while anything is left of it.
    let removed = recovered.forget_removed(&leftovers.keys().collect::<Vec<_>>());
    removed.iter().for_each(|name| drop(leftovers.remove(name)));
    for (name, leftover) in &leftovers {
        trees.claim(name, leftover);
        let started =
            |process: Process| proc::uptime().map_or(now().time, |uptime| now().time.before(process.age(uptime)));
        let main = leftover.main.map(|main| (main, started(main)));
        recovered.add_leftover(name.clone(), leftover.strength, main);
    }
    leftovers
}

/// Has orphans of agents become the daemon's children, keeps the kernel from killing the daemon when memory runs out, and
/// raises its limit of open files, each where the host allows it. Returns the limit that the daemon was started with, for its
/// children; `None` if it was not raised.
fn prepare_process(reexec_data: Option<&ReexecData>, notes: &mut Vec<(Level, String)>) -> Option<(u64, u64)> {
    // The modes of files are those that the code asks for, whatever umask the starter had.
    process::set_umask(0o022);
    if let Err(error) = process::set_child_subreaper() {
        notes.push((Level::Warn, format!("orphans of agents become children of init: {error}")));
    }
    if account::own_uid().0 == 0 {
        if let Err(error) = process::set_oom_score_adj(oom_score::DAEMON) {
            let cause = reason(&error);
            let text =
                format!("the kernel may kill the daemon when memory runs out: cannot set oom_score_adj: {cause}");
            notes.push((Level::Info, text));
        }
    }
    reexec_data.and_then(|data| data.nofile).or_else(raise_open_files)
}

/// Raises the daemon's limit of open files, and returns the former one; `None` if nothing was raised.
fn raise_open_files() -> Option<(u64, u64)> {
    let (soft, hard) = process::limit(Resource::Nofile).ok()?;
    let raised = hard.min(OPEN_FILES);
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
        log.write(Level::Warn, &format_args!("cannot get random numbers, jitter comes from the clock: {error}"));
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
