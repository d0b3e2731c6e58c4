//! The one loop: poll -> events -> `state.step` -> actions. Everything that is done on the host is done from here, and only
//! because an action says so.
//!
//! `background` is what happens before there is a loop, `load` reads what is there at the start, `act` does what actions
//! say, `identity` says whom helpers run as, `children` makes and reaps processes, `checks` runs health checks, `packages` moves package files, `control` speaks
//! with the commands, `reexec` puts another image in the place of this one. Nothing here sleeps, waits, resolves a name or
//! moves bulk data.

mod act;
mod background;
mod checks;
mod children;
mod control;
mod fault_injection;
mod recovered;
mod identity;
mod startup;
mod recovery;
mod packages;
mod reexec;
mod signing;

use std::collections::VecDeque;
use std::fmt::Display;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::host::helper::{Binary, Helper};
use crate::host::image;
use crate::host::limits::Limits;
use crate::host::logs::{Log, Outputs};
use crate::host::store::Store;
use crate::host::tree::Trees;
use crate::kernel::{Level, Pid, Process, Sig, Time};
use crate::model::event::{Action, Event, Now, Shutdown, ToolOwner};
use crate::model::job::JobId;
use crate::model::schedule::Server;
use crate::model::spec::Name;
use crate::model::state::State;
use crate::sorted_map::{SortedMap, SortedSet};
use crate::sys::poll::{poll, PollFd, Signals};
use crate::sys::process::{self, Reboot};
use crate::sys::setup_error::SetupErrorPipe;
use crate::sys::{self, monotonic};
use crate::wire::config::Config;
use background::Background;
use checks::Check;
use control::Control;

/// After an error that cannot be helped the loop goes on, but not at once.
const POLL_ERROR_DELAY: Duration = Duration::from_millis(100);

/// The longest that the end waits for children to become their programs.
const EXEC_GRACE: Duration = Duration::from_millis(500);

/// What the command line says.
#[derive(Clone, Debug)]
pub struct Options {
    /// The configuration file.
    pub config_path: PathBuf,
    /// Whether to go to the background once everything is up.
    pub background: bool,
    /// Servers instead of the configured ones.
    pub servers: Option<Vec<Server>>,
}

/// Whose process a child is.
#[derive(Clone, Debug, PartialEq)]
enum Owner {
    /// An agent's main process, or its starter.
    Agent(Name),
    /// An agent's health check.
    Check(Name),
    /// A tool of the host's package management, or a binary that is tried.
    Tool(ToolOwner),
    /// A helper in `helpers`.
    Helper,
    /// Something that nobody waits for, as the removal of old files.
    Detached,
}

/// What a helper was started for.
#[derive(Clone, Debug, PartialEq)]
enum HelperTask {
    /// An exchange; whether it carries results, and what it was signed with.
    Exchange { results: bool, nonce: Option<Box<str>> },
    /// A job's download.
    Fetch(JobId),
    /// The verification of a job's package.
    Verify(JobId),
    /// A job's unpacking, into this directory.
    Unpack(JobId, PathBuf),
}

/// A process that is not our child and whose end must be noticed all the same.
#[derive(Debug)]
struct Watched {
    owner: Owner,
    process: Process,
    /// Becomes readable at its end; without one it is looked at with each check.
    pidfd: Option<OwnedFd>,
}

/// What became ready.
#[derive(Clone, Copy, Debug)]
enum Ready {
    Signals,
    Listener,
    Client(usize),
    Helper(usize),
    Check(usize),
    Watched(usize),
    Memory(usize),
}

/// So long may copies of good definitions take before the daemon says that it is ready; the others wait for idle moments.
const BACKUP_TIME: Duration = Duration::from_millis(20);

/// So many events there is always room for.
const QUEUE: usize = 16;

/// Files below `good/` and what is to be in them. All of it is in one piece of memory, which goes back to the kernel at the
/// end: what an allocator has for hundreds of small pieces stays with the process.
#[derive(Debug, Default)]
struct Copies {
    bytes: Vec<u8>,
    /// Where the name of a file begins in `bytes`, and where its text does.
    places: Vec<(usize, usize)>,
}

impl Copies {
    fn push(&mut self, file: &str, text: &[u8]) {
        self.places.push((self.bytes.len(), self.bytes.len() + file.len()));
        self.bytes.extend_from_slice(file.as_bytes());
        self.bytes.extend_from_slice(text);
    }

    /// Takes out the last one: a file and its text.
    fn pop(&mut self) -> Option<(String, Vec<u8>)> {
        let (begin, middle) = self.places.pop()?;
        let text = self.bytes.split_off(middle);
        let file = String::from_utf8_lossy(&self.bytes.split_off(begin)).into_owned();
        Some((file, text))
    }

    fn is_empty(&self) -> bool {
        self.places.is_empty()
    }
}

/// Everything the daemon holds.
struct Daemon {
    config: Box<Config>,
    store: Store,
    log: Log,
    outputs: Outputs,
    limits: Limits,
    trees: Trees,
    state: State,
    queue: VecDeque<Event>,
    signals: Signals,
    failures: SetupErrorPipe,
    binary: Binary,
    control: Control,
    owners: SortedMap<Pid, Owner>,
    watched: Vec<Watched>,
    helpers: Vec<(HelperTask, Helper)>,
    checks: Vec<Check>,
    /// Whom helpers run as.
    users: identity::HelperUsers,
    signing: signing::Signing,
    /// A bad configuration keeps us from exchanges and jobs.
    closed: bool,
    /// The configuration file with which it was last tried to begin anew then, and when.
    tried: Option<(Vec<u8>, Time)>,
    /// Downloads that began with bytes of an earlier attempt.
    resumed: SortedSet<JobId>,
    /// Package tools that wait for one that an earlier daemon left running.
    tools: Vec<(ToolOwner, crate::model::package::Tool)>,
    /// The limit of open files our children get, where ours is another.
    nofile: Option<(u64, u64)>,
    /// Directories that were thrown away, counted for their names.
    trash: u32,
    check_at: Time,
    /// What does not work at the moment, and what was last said about it.
    troubles: SortedMap<&'static str, Box<str>>,
    /// Records that could not be written or removed: done again with each check.
    unsaved: SortedMap<String, Action>,
    /// Whether the pid file is ours: written again with each check until it is.
    pid_file_written: bool,
    /// Records that could not be read at the start: read again with each check.
    unread: Vec<PathBuf>,
    /// Copies of good definitions that are still to be written.
    pending_backups: Copies,
    quit: Option<u8>,
    /// As PID 1: what to do with the machine at the end.
    power: Option<Reboot>,
    fault_injector: fault_injection::FaultInjector,
    /// Held as long as we live: no other daemon with the same `run_dir`.
    lock: File,
    /// The same for `state_dir`, as `run_dir` may be emptied or another one; `None` where it cannot be locked.
    state_lock: Option<File>,
    /// The installed binary.
    program: String,
    config_path: PathBuf,
    /// The pipe to whoever watches this image while it is on trial.
    watcher: Option<File>,
}

/// Runs the daemon until it is told to end; returns its exit code.
pub fn run(options: Options) -> u8 {
    let handover = reexec::take_reexec_data();
    let backgrounds = options.background && handover.is_none();
    let ready = match backgrounds.then(|| background::enter(&options)) {
        None => None,
        Some(Ok(Background::Parent(code))) => return code,
        Some(Ok(Background::Child(ready))) => Some(ready),
        Some(Err(message)) => {
            eprintln!("bootagent: {message}");
            return 1;
        }
    };
    let mut actions = Vec::new();
    let daemon = match Daemon::start(&options, handover, &mut actions) {
        // It lives as long as the process: the kernel takes back at once what would be given back piece by piece.
        Ok(daemon) => Box::leak(Box::new(daemon)),
        Err(message) => {
            eprintln!("bootagent: {message}");
            return 1;
        }
    };
    log_panics(Path::new(&*daemon.config.log_dir));
    daemon.perform(actions);
    // Children of an image before this one may have ended, and their signals been taken.
    daemon.reap();
    daemon.write_backups(BACKUP_TIME);
    if let Some(ready) = ready {
        daemon.notify_parent(ready);
    }
    daemon.run()
}

/// From now on a panic is said in the daemon's log too: in the background standard error leads nowhere.
fn log_panics(dir: &Path) {
    let dir = dir.to_path_buf();
    std::panic::set_hook(Box::new(move |panic| {
        Log::new(&dir, Level::Error, true).write(Level::Error, &format_args!("internal error: {panic}"));
    }));
}

impl Daemon {
    /// Tells the process that waits that we are ready, and lets go of its terminal.
    fn notify_parent(&mut self, mut ready: File) {
        use std::io::Write;
        if let Err(error) = sys::detach_standard_files() {
            self.log(Level::Warn, &format_args!("cannot let go of the terminal: {error}"));
        }
        // A parent that is gone needs no answer.
        let _ = ready.write_all(b"1");
    }

    fn run(&mut self) -> u8 {
        self.drain_events();
        while self.quit.is_none() {
            let ready = self.wait();
            let idle = ready.is_empty();
            for source in ready {
                self.serve(source);
            }
            self.control.drop_late(monotonic(), &mut self.queue);
            self.check();
            if idle {
                self.write_backups(Duration::ZERO);
            }
            self.finish_helpers();
            if self.state.deadline().is_some_and(|at| at <= monotonic()) {
                self.queue.push_back(Event::Tick);
            }
            self.drain_events();
        }
        self.end()
    }

    /// Waits until something happens or is due.
    fn wait(&mut self) -> Vec<Ready> {
        let now = monotonic();
        let helpers = self.helpers.iter().filter_map(|(_, helper)| helper.deadline());
        let own = [Some(self.check_at), self.control.deadline(), self.state.deadline()];
        let deadline = helpers.chain(own.into_iter().flatten()).min();
        let timeout =
            if self.pending_backups.is_empty() { deadline.map(|at| at.since(now)) } else { Some(Duration::ZERO) };
        let mut sources = vec![Ready::Signals];
        let mut fds = vec![PollFd::reading(self.signals.as_fd())];
        if let Some(listener) = self.control.listening(now) {
            sources.push(Ready::Listener);
            fds.push(PollFd::reading(listener));
        }
        for (index, fd) in self.control.clients() {
            sources.push(Ready::Client(index));
            fds.push(fd);
        }
        for (index, (_, helper)) in self.helpers.iter().enumerate() {
            for fd in helper.fds().into_iter().flatten() {
                sources.push(Ready::Helper(index));
                fds.push(fd);
            }
        }
        for (index, check) in self.checks.iter().enumerate() {
            if let Some(fd) = check.fd() {
                sources.push(Ready::Check(index));
                fds.push(fd);
            }
        }
        for (index, watched) in self.watched.iter().enumerate() {
            if let Some(pidfd) = &watched.pidfd {
                sources.push(Ready::Watched(index));
                fds.push(PollFd::reading(pidfd.as_fd()));
            }
        }
        for (index, fd) in self.limits.alarms().enumerate() {
            sources.push(Ready::Memory(index));
            fds.push(PollFd::reading(fd));
        }
        match poll(&mut fds, timeout) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Vec::new(),
            Err(error) => {
                drop(fds);
                self.set_condition("waiting for events", Some(&error.to_string()));
                // Waiting for nothing is the one wait that still works.
                let _ = poll(&mut [], Some(POLL_ERROR_DELAY));
                return vec![Ready::Signals];
            }
        }
        let mut ready = Vec::new();
        // What is removed while it is served must not move what is served after it.
        for (source, fd) in sources.iter().zip(&fds).rev() {
            if fd.ready() || fd.invalid() {
                ready.push(*source);
            }
        }
        ready
    }

    fn serve(&mut self, source: Ready) {
        match source {
            Ready::Signals => self.take_signals(),
            Ready::Listener => {
                let problem = self.control.accept(monotonic());
                self.set_condition("taking commands", problem.as_deref());
            }
            Ready::Client(index) => self.control.serve(index, &mut self.queue),
            Ready::Helper(index) => {
                if let Some((_, helper)) = self.helpers.get_mut(index) {
                    helper.ready();
                }
            }
            Ready::Check(index) => {
                if let Some(check) = self.checks.get_mut(index) {
                    check.read();
                }
            }
            Ready::Watched(index) => self.watched_ended(index),
            Ready::Memory(index) => {
                if let Some((name, memory)) = self.limits.alarmed(index) {
                    self.queue.push_back(Event::OutOfMemory(name, memory.to_string().into()));
                }
            }
        }
    }

    fn take_signals(&mut self) {
        let as_init = process::own_id() == 1;
        loop {
            let sig = match self.signals.next() {
                Ok(Some(sig)) => sig,
                Ok(None) => break,
                Err(error) => {
                    self.set_condition("reading signals", Some(&error.to_string()));
                    break;
                }
            };
            match sig {
                Sig::CHLD => {}
                Sig::TERM | Sig::INT => self.stop_for(sig, as_init.then_some(Reboot::Restart)),
                Sig::USR1 if as_init => self.stop_for(sig, Some(Reboot::Halt)),
                Sig::USR2 if as_init => self.stop_for(sig, Some(Reboot::PowerOff)),
                Sig::QUIT if !as_init => {
                    self.log(Level::Info, &"SIGQUIT: ending, agents go on");
                    self.queue.push_back(Event::Shutdown(Shutdown::Leave));
                }
                Sig::HUP => {
                    self.reload_keys();
                    self.reload_identities();
                    self.reload();
                    self.reopen(true);
                }
                Sig::USR2 => self.queue.push_back(Event::Reexec),
                _ => {}
            }
        }
        // Whatever the signals said: children that have ended are always taken.
        self.reap();
    }

    fn stop_for(&mut self, sig: Sig, power: Option<Reboot>) {
        self.log(Level::Info, &format_args!("{sig}: stopping the agents"));
        self.power = power;
        self.queue.push_back(Event::Shutdown(Shutdown::Stop));
    }

    /// Hands all events to the state, does what it says, until nothing is left to do.
    fn drain_events(&mut self) {
        self.trees.forget_snapshot();
        let mut actions = Vec::new();
        while let Some(event) = self.queue.pop_front() {
            self.fault_injector.event(&event);
            self.state.step(event, now(), &mut actions);
            self.perform(std::mem::take(&mut actions));
        }
        // Where hundreds of agents are started at once it becomes long, and it is empty now.
        self.queue.shrink_to(QUEUE);
        // Nor is the look at all processes kept while the daemon waits.
        self.trees.forget_snapshot();
    }

    fn perform(&mut self, actions: Vec<Action>) {
        for action in actions {
            self.fault_injector.action(&action);
            self.act(action);
        }
    }

    /// What is looked at from time to time, as nothing tells of it.
    fn check(&mut self) {
        let now = monotonic();
        if now < self.check_at {
            return;
        }
        self.check_at = now + self.config.checksecs;
        self.look_at_watched();
        self.limits.remove_empty_groups();
        self.recover();
        self.reopen(false);
        let sizes: Vec<(Name, u64)> = self
            .state
            .agents()
            .filter_map(|agent| {
                let definition = agent.definition.as_ref()?;
                Some((agent.name().clone(), definition.spec.log_size))
            })
            .collect();
        let mut problem = None;
        for (name, size) in sizes {
            problem = problem.or(self.outputs.rotate(&name, size).err());
        }
        self.set_condition("turning over outputs", problem.as_deref());
    }

    /// A child of ours that is in no agent's tree.
    fn track_child(&mut self, pid: Pid, owner: Owner) {
        self.trees.add_ours(pid);
        self.owners.insert(pid, owner);
    }

    fn log(&mut self, level: Level, text: &dyn Display) {
        self.log.write(level, text);
    }

    /// A child that is not its program yet would end with us: those that were just made get the moment they need.
    fn wait_for_exec(&self) {
        let image = |pid: &str| std::fs::read_link(format!("/proc/{pid}/exe")).ok();
        let ours = image("self");
        let until = monotonic() + EXEC_GRACE;
        for (pid, owner) in self.owners.iter() {
            let agent = matches!(owner, Owner::Agent(_));
            while agent && ours.is_some() && image(&pid.to_string()) == ours && monotonic() < until {
                // A pause, as nothing tells of an exec.
                let _ = poll(&mut [], Some(Duration::from_millis(1)));
            }
        }
    }

    fn end(&mut self) -> u8 {
        let code = self.quit.unwrap_or(0);
        for (_, helper) in &mut self.helpers {
            helper.stop();
        }
        self.dismiss_watcher();
        self.control.close();
        self.wait_for_exec();
        let _ = std::fs::remove_file(Path::new(&*self.config.run_dir).join(startup::PID_FILE));
        image::remove(Path::new(&*self.config.run_dir));
        self.log(Level::Info, &"ended");
        if self.state.agents().all(|agent| agent.is_down()) {
            self.forget_stopped();
            self.limits.close();
        }
        if let Some(power) = self.power {
            sys::process::sync();
            if let Err(error) = process::reboot(power) {
                self.log.write(Level::Error, &format_args!("cannot end the machine's run: {error}"));
            }
        }
        code
    }
}

fn now() -> Now {
    Now { time: monotonic(), wall: sys::wall() }
}
