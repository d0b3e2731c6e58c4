//! The one loop: wait for events, hand them to `State::step`, carry out the actions that come back. What is done on the host
//! is done from here, and only because an action says so.
//!
//! `background` goes to the background before there is a loop. `startup` makes the daemon from the `configuration` and from
//! what is on the host (`recovered`). `act` carries out actions, with `children` (processes), `checks` (health checks),
//! `tools` (of packages), `programs` (what must not outlive the daemon), `helpers` (blocking work, run as the users of
//! `identity`, signed by `signing`), `inspections` (of other processes), `notifications` (what agents say), `outputs`,
//! `packages` and `records`. `control` serves the commands, `recovery` restores what was removed, `conditions` holds what
//! fails at the moment, and `reexec` replaces the running binary. Nothing here sleeps, blocks,
//! resolves a name or moves bulk data.

mod act;
mod agent_start;
mod background;
mod checks;
mod children;
mod conditions;
mod configuration;
mod control;
mod fault_injection;
mod helpers;
mod identity;
mod inspections;
mod inventory;
mod main_process;
mod notifications;
mod output_tail;
mod outputs;
mod packages;
mod programs;
mod records;
mod recovered;
mod recovery;
mod reexec;
mod run_files;
mod reloads;
mod reread;
mod runtime_directories;
mod secrets;
mod signing;
mod startup;
mod tools;

use std::collections::VecDeque;
use std::fmt::Display;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::host::image;
use crate::host::limits::Limits;
use crate::host::logs::{Log, Outputs};
use crate::host::tree::Trees;
use crate::kernel::{Level, Pid, Sig, Time};
use crate::model::agent::Agent;
use crate::model::event::{Action, Event, Now, Shutdown, ToolOwner};
use crate::model::schedule::Server;
use crate::model::spec::Name;
use crate::model::state::State;
use crate::sys::poll::{poll, PollFd, Signals};
use crate::sys::process::{self, Reboot};
use crate::sys::{self, monotonic};
use crate::wire::config::Config;
use background::Background;
use checks::Check;
use conditions::{Condition, Conditions};
use control::Control;

/// The pause after the loop could not wait for events.
const POLL_ERROR_DELAY: Duration = Duration::from_millis(100);

/// The longest that the end of the daemon waits for children to execute their programs.
const EXEC_GRACE: Duration = Duration::from_millis(500);

/// The longest that copies of good definitions delay the moment when the daemon is ready; the rest is written in idle
/// moments.
const BACKUP_TIME: Duration = Duration::from_millis(20);

/// The capacity of the queue that is kept between two bursts of events.
const QUEUE: usize = 16;

/// What the command line says.
#[derive(Clone, Debug)]
pub struct Options {
    /// The configuration file.
    pub config_path: PathBuf,
    /// Whether to go to the background once the daemon is ready.
    pub background: bool,
    /// Servers to use instead of the configured ones.
    pub servers: Option<Vec<Server>>,
}

/// What a child was made for.
#[derive(Clone, Debug, PartialEq)]
enum Owner {
    /// An agent's main process, or its starter.
    Agent(Name),
    /// An agent's `prestart`.
    Prestart(Name),
    /// An agent's health check.
    Check(Name),
    /// The program that has an agent read its configuration again.
    Reload(Name),
    /// A tool of the host's package management, or a binary that is tried out.
    Tool(ToolOwner),
    /// A helper in `helpers`.
    Helper,
    /// Something whose end nobody waits for, such as the removal of old files.
    Detached,
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
    Notification,
}

/// Everything the daemon holds. Each part keeps to itself what is of no use to others.
struct Daemon {
    config: Box<Config>,
    config_path: PathBuf,
    /// What tells our agents from those of another daemon.
    mark: Box<str>,
    log: Log,
    conditions: Conditions,
    records: records::Records,
    run_files: run_files::RunFiles,
    state: State,
    /// Events that the state has not seen yet.
    queue: VecDeque<Event>,
    signals: Signals,
    control: Control,
    /// The output files of agents.
    outputs: Outputs,
    /// The agents whose outputs wait for a rotation, the one that has waited longest first.
    full_outputs: Vec<Name>,
    given: secrets::Given,
    limits: Limits,
    trees: Trees,
    children: children::Children,
    checks: Vec<Check>,
    helpers: helpers::Helpers,
    inspections: inspections::Inspections,
    notifications: notifications::Notifications,
    signing: signing::Signing,
    reopening: configuration::Reopening,
    /// How many directories of packages were renamed, to be removed in the background.
    trashed: u32,
    installed: reexec::Installed,
    /// When the next check is due.
    check_at: Time,
    /// The exit code, once the daemon is to end.
    quit: Option<u8>,
    /// As PID 1: what to do with the machine at the end.
    power: Option<Reboot>,
    fault_injector: fault_injection::FaultInjector,
}

/// Runs the daemon until it is told to end; returns its exit code: 0 after an ordered end, 1 when it cannot start.
pub fn run(options: Options) -> u8 {
    // A write beyond a limit of file sizes is to fail, and not to end the daemon or its keeper.
    process::ignore_file_size_signal();
    let reexec_data = reexec::take_reexec_data();
    let to_background = options.background && reexec_data.is_none();
    let ready = match to_background.then(|| background::enter(&options)) {
        None => None,
        Some(Ok(Background::Parent(code))) => return code,
        Some(Ok(Background::Child(ready))) => Some(ready),
        Some(Err(message)) => {
            eprintln!("bootagent: {message}");
            return 1;
        }
    };
    let mut actions = Vec::new();
    let daemon = match Daemon::start(&options, reexec_data, &mut actions) {
        // It lives as long as the process, so that its memory need not be freed piece by piece at the end.
        Ok(daemon) => Box::leak(Box::new(daemon)),
        Err(message) => {
            eprintln!("bootagent: {message}");
            return 1;
        }
    };
    log_panics(Path::new(&*daemon.config.log_dir));
    daemon.perform(actions);
    // Children may have ended before a reexec, whose signals were read by the old binary.
    daemon.reap();
    daemon.write_backups(BACKUP_TIME);
    if let Some(ready) = ready {
        daemon.notify_parent(ready);
    }
    daemon.run()
}

/// Has panics written to the daemon's log too: in the background, standard error leads nowhere.
fn log_panics(dir: &Path) {
    let dir = dir.to_path_buf();
    std::panic::set_hook(Box::new(move |panic| {
        Log::new(&dir, Level::Error, true).write(Level::Error, &format_args!("internal error: {panic}"));
    }));
}

impl Daemon {
    /// Tells the process that started this one that the daemon is ready, and closes its terminal.
    fn notify_parent(&mut self, mut ready: File) {
        use std::io::Write;
        if let Err(error) = sys::detach_standard_files() {
            self.log(Level::Warn, &format_args!("cannot close the terminal: {error}"));
        }
        // The starter may have ended already.
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
            self.helpers.end_late(monotonic());
            self.finish_helpers();
            if self.state.deadline().is_some_and(|at| at <= monotonic()) {
                self.queue.push_back(Event::Tick);
            }
            self.drain_events();
        }
        self.end()
    }

    /// Waits until something is ready or due.
    fn wait(&mut self) -> Vec<Ready> {
        let now = monotonic();
        let deadlines = [
            Some(self.check_at),
            self.control.deadline(),
            self.state.deadline(),
            self.helpers.deadline(),
            self.notifications.deadline(now),
        ];
        let timeout = match self.records.pending_backups.is_empty() {
            true => Time::earliest(&deadlines).map(|at| at.since(now)),
            false => Some(Duration::ZERO),
        };
        let (sources, mut fds) = self.sources(now);
        match poll(&mut fds, timeout) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Vec::new(),
            Err(error) => {
                drop(fds);
                self.set_condition(Condition::Events, Some(&error.to_string()));
                // Polling no descriptor cannot fail for lack of memory, so it serves as the pause.
                let _ = poll(&mut [], Some(POLL_ERROR_DELAY));
                return vec![Ready::Signals];
            }
        }
        let ready = sources.iter().zip(&fds).filter(|(_, fd)| fd.ready() || fd.invalid()).map(|(source, _)| *source);
        // From the last index to the first, as serving a source may remove it and move those after it.
        ready.rev().collect()
    }

    /// What to poll, and what each descriptor belongs to.
    fn sources(&self, now: Time) -> (Vec<Ready>, Vec<PollFd<'_>>) {
        let mut sources = vec![Ready::Signals];
        let mut fds = vec![PollFd::reading(self.signals.as_fd())];
        let mut add = |source, fd| {
            sources.push(source);
            fds.push(fd);
        };
        if let Some(listener) = self.control.listening(now) {
            add(Ready::Listener, PollFd::reading(listener));
        }
        for (index, fd) in self.control.clients() {
            add(Ready::Client(index), fd);
        }
        for (index, fd) in self.helpers.poll_fds() {
            add(Ready::Helper(index), fd);
        }
        for (index, check) in self.checks.iter().enumerate() {
            if let Some(fd) = check.fd() {
                add(Ready::Check(index), fd);
            }
        }
        for (index, pidfd) in self.children.watched_fds() {
            add(Ready::Watched(index), PollFd::reading(pidfd));
        }
        for (index, fd) in self.limits.alarms().enumerate() {
            add(Ready::Memory(index), PollFd::reading(fd));
        }
        for fd in self.notifications.poll_fds(now) {
            add(Ready::Notification, PollFd::reading(fd));
        }
        (sources, fds)
    }

    fn serve(&mut self, source: Ready) {
        match source {
            Ready::Signals => self.take_signals(),
            Ready::Listener => {
                let problem = self.control.accept(monotonic());
                self.set_condition(Condition::Commands, problem.as_deref());
            }
            Ready::Client(index) => self.control.serve(index, &mut self.queue),
            Ready::Helper(index) => self.helpers.serve(index),
            Ready::Check(index) => {
                if let Some(check) = self.checks.get_mut(index) {
                    check.read();
                }
            }
            Ready::Watched(index) => self.watched_ended(index),
            Ready::Notification => self.read_notifications(false),
            Ready::Memory(index) => {
                if let Some((name, memory)) = self.limits.alarmed(index) {
                    self.queue.push_back(Event::OutOfMemory(name, memory.to_string().into()));
                }
            }
        }
    }

    /// Does what the pending signals ask for.
    fn take_signals(&mut self) {
        let as_init = process::own_id() == 1;
        loop {
            let sig = match self.signals.next() {
                Ok(Some(sig)) => sig,
                Ok(None) => break,
                Err(error) => {
                    self.set_condition(Condition::Signals, Some(&error.to_string()));
                    break;
                }
            };
            match sig {
                Sig::CHLD => {}
                Sig::TERM | Sig::INT => self.stop_for(sig, as_init.then_some(Reboot::Restart)),
                Sig::USR1 if as_init => self.stop_for(sig, Some(Reboot::Halt)),
                Sig::USR2 if as_init => self.stop_for(sig, Some(Reboot::PowerOff)),
                Sig::QUIT if !as_init => {
                    self.log(Level::Info, &"SIGQUIT: ending, agents keep running");
                    self.queue.push_back(Event::Shutdown(Shutdown::Leave));
                }
                Sig::HUP => self.reread_all(),
                Sig::USR2 => self.queue.push_back(Event::Reexec),
                _ => {}
            }
        }
        // In any case: one SIGCHLD may stand for several children, or may have been lost.
        self.reap();
    }

    fn stop_for(&mut self, sig: Sig, power: Option<Reboot>) {
        self.log(Level::Info, &format_args!("{sig}: stopping the agents"));
        self.power = power;
        let how = if self.power.is_some() { Shutdown::Halt } else { Shutdown::Stop };
        self.queue.push_back(Event::Shutdown(how));
    }

    /// Hands all events to the state and carries out its actions, until no event is left.
    fn drain_events(&mut self) {
        self.trees.forget_snapshot();
        let mut actions = Vec::new();
        while let Some(event) = self.queue.pop_front() {
            self.fault_injector.event(&event);
            self.state.step(event, now(), &mut actions);
            self.perform(std::mem::take(&mut actions));
        }
        // It is empty now, but it has grown where hundreds of agents were started at once.
        self.queue.shrink_to(QUEUE);
        self.inspect_environments();
        // Nor is the look at all processes kept while the daemon waits.
        self.trees.forget_snapshot();
    }

    fn perform(&mut self, actions: Vec<Action>) {
        for action in actions {
            self.fault_injector.action(&action);
            self.act(action);
        }
    }

    /// Looks at what causes no event, when a check is due.
    fn check(&mut self) {
        let now = monotonic();
        if now < self.check_at {
            return;
        }
        self.check_at = now + self.config.checksecs;
        self.look_at_watched();
        self.look_at_blocking();
        self.limits.remove_empty_groups();
        self.remove_old_runtime_directories();
        self.release_spared();
        self.recover();
        self.reopen(false);
        self.look_at_outputs();
        self.look_at_packages();
    }

    /// Notes a child of the daemon that belongs to no agent's tree.
    fn track_child(&mut self, pid: Pid, owner: Owner) {
        self.trees.add_ours(pid);
        self.children.owners.insert(pid, owner);
    }

    fn run_dir(&self) -> &Path {
        Path::new(&*self.config.run_dir)
    }

    /// The names of these agents, so that something can be done to each.
    fn names(&self, which: &dyn Fn(&Agent) -> bool) -> Vec<Name> {
        self.state.agents().filter(|agent| which(agent)).map(|agent| agent.name().clone()).collect()
    }

    fn log(&mut self, level: Level, text: &dyn Display) {
        self.log.write(level, text);
    }

    /// Waits for agents that were just started to execute their programs: before that they would end with the daemon.
    fn wait_for_exec(&self) {
        let binary = |pid: &str| std::fs::read_link(format!("/proc/{pid}/exe")).ok();
        let own = binary("self");
        let until = monotonic() + EXEC_GRACE;
        for (pid, owner) in &self.children.owners {
            let is_agent = matches!(owner, Owner::Agent(_) | Owner::Prestart(_));
            while is_agent && own.is_some() && binary(&pid.to_string()) == own && monotonic() < until {
                // There is no event to wait for when a child executes its program.
                let _ = poll(&mut [], Some(Duration::from_millis(1)));
            }
        }
    }

    /// Ends everything that must not outlive the daemon; returns the exit code.
    fn end(&mut self) -> u8 {
        let code = self.quit.unwrap_or(0);
        self.helpers.stop_all();
        self.stop_programs();
        self.dismiss_watcher();
        self.control.close();
        self.wait_for_exec();
        run_files::remove_pid_file(self.run_dir());
        image::remove(self.run_dir());
        for agent in self.state.unstopped() {
            let text = format!("agent \"{}\": still runs as the daemon ends: {}", agent.name(), agent.last_end());
            self.log.write(Level::Error, &text);
        }
        self.log(Level::Info, &"ended");
        if self.state.agents().all(|agent| agent.is_down()) {
            self.forget_stopped();
            self.release_spared();
            self.limits.close();
        }
        if let Some(power) = self.power {
            sys::process::sync();
            if let Err(error) = process::reboot(power) {
                self.log(Level::Error, &format_args!("cannot halt or restart the machine: {error}"));
            }
        }
        code
    }
}

fn now() -> Now {
    Now { time: monotonic(), wall: sys::wall() }
}
