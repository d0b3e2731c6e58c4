//! Child processes: agents and tools are started here, and every child is reaped here and nowhere else.
//!
//! Actions to start or kill something come in; the ends of processes go out as events. A process that is not a child of the
//! daemon, such as an agent of an earlier daemon, is watched through a pidfd instead, or looked at with each check.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{fchown, MetadataExt, OpenOptionsExt};
use std::path::Path;

use super::conditions::Condition;
use super::{Daemon, Owner};
use crate::error::Error;
use crate::host::disk::reason;
use crate::host::proc::{self, Snapshot, Stat};
use crate::host::spawn::{env_file, setup, user_of, Where};
use crate::kernel::{Exit, Level, Pid, Process, Resource, Sig, Stage};
use crate::model::event::{Event, ToolOwner};
use crate::model::main_process::{self, Evidence};
use crate::model::package::Tool;
use crate::model::spec::{Envs, KillMode, Kind, Name, Spec};
use crate::sorted_map::SortedMap;
use crate::sys::account::{own_gid, own_uid};
use crate::sys::child::{spawn_child, Setup};
use crate::sys::process;
use crate::sys::setup_error::{SetupError, SetupErrorPipe};
use crate::text::sanitize;

/// How much of the output of an agent or of a check goes into the message about its end, bytes.
pub(super) const TAIL: u64 = 400;

/// Shorter values of the environment are shown: they are no secrets, and a text without them would be unreadable.
const SECRET_MIN: usize = 6;

/// How many descriptors must be free for a start: for its output twice, /dev/null, control groups, accounts, and some more.
const SPARE: u64 = 16;

/// A process that is not a child of the daemon, and whose end must be noticed all the same.
#[derive(Debug)]
struct Watched {
    owner: Owner,
    process: Process,
    /// Becomes readable when the process ends; without one, the process is looked at with each check.
    pidfd: Option<OwnedFd>,
}

/// The children of the daemon, and the processes that it watches.
pub(super) struct Children {
    owners: SortedMap<Pid, Owner>,
    watched: Vec<Watched>,
    /// Tools that wait for the end of one that an earlier daemon left running.
    waiting_tools: Vec<(ToolOwner, Tool)>,
    /// Says why a child could not execute its program.
    setup_errors: SetupErrorPipe,
    /// The soft and the hard limit of open files that the daemon was started with, where its own is different.
    nofile: Option<(u64, u64)>,
}

impl Children {
    /// None yet; `nofile` is the limit of open files that the daemon was started with, if it has changed it.
    pub fn new(setup_errors: SetupErrorPipe, nofile: Option<(u64, u64)>) -> Children {
        let (watched, waiting_tools) = (Vec::new(), Vec::new());
        Children { owners: SortedMap::new(), watched, waiting_tools, setup_errors, nofile }
    }

    /// Notes what a child was made for.
    pub fn insert(&mut self, pid: Pid, owner: Owner) {
        self.owners.insert(pid, owner);
    }

    /// All children, with what they were made for.
    pub fn owners(&self) -> impl Iterator<Item = (&Pid, &Owner)> {
        self.owners.iter()
    }

    /// What a child was made for.
    pub fn owner(&self, pid: Pid) -> Option<&Owner> {
        self.owners.get(&pid)
    }

    /// Has a tool wait for the end of one that an earlier daemon left running for the same owner.
    pub fn add_waiting_tool(&mut self, owner: ToolOwner, tool: Tool) {
        self.waiting_tools.push((owner, tool));
    }

    /// The tool that has waited for another one of this owner.
    pub fn take_waiting_tool(&mut self, owner: &ToolOwner) -> Option<Tool> {
        let index = self.waiting_tools.iter().position(|(waiting, _)| waiting == owner)?;
        Some(self.waiting_tools.swap_remove(index).1)
    }

    /// What to poll for the ends of watched processes, by index.
    pub fn watched_fds(&self) -> impl Iterator<Item = (usize, BorrowedFd<'_>)> {
        let watched = self.watched.iter().enumerate();
        watched.filter_map(|(index, watched)| Some((index, watched.pidfd.as_ref()?.as_fd())))
    }

    /// Where children say why they could not execute their program.
    pub fn setup_errors(&self) -> &SetupErrorPipe {
        &self.setup_errors
    }

    /// The ends of that pipe, the reading one first, to be kept open over a reexec.
    pub fn setup_error_ends(&mut self) -> [BorrowedFd<'_>; 2] {
        self.setup_errors.ends()
    }

    /// Why this child could not execute its program, if it could not.
    pub fn take_setup_error(&mut self, pid: Pid) -> Option<SetupError> {
        self.setup_errors.take(pid)
    }

    /// The limit of open files that the daemon was started with, where its own is different: 1.0.0 gives it to its children.
    pub fn nofile(&self) -> Option<(u64, u64)> {
        self.nofile
    }

    /// Makes a child.
    ///
    /// # Errors
    /// When no process can be made.
    pub fn spawn(&self, setup: &Setup) -> io::Result<Pid> {
        spawn_child(setup, &self.setup_errors)
    }

    /// Forgets the processes of this owner.
    fn forget(&mut self, owner: &Owner) {
        self.owners.retain(|_, known| known != owner);
        self.watched.retain(|watched| watched.owner != *owner);
    }

    /// The process of this owner, child or not.
    fn find(&self, owner: &Owner) -> Option<Pid> {
        let child = self.owners.iter().find(|(_, known)| *known == owner).map(|(pid, _)| *pid);
        child.or_else(|| self.watched.iter().find(|watched| watched.owner == *owner).map(|watched| watched.process.pid))
    }
}

impl Daemon {
    /// Starts an agent, or only its `prestart`.
    pub(super) fn start_agent(&mut self, name: Name, prestart: bool) {
        let event = match self.exhausted_resource() {
            Some(reason) => Event::ResourceExhausted { name, reason: reason.into() },
            None => match self.spawn_agent(&name, prestart) {
                Ok(event) => event,
                Err(reason) => Event::NotStarted { name, reason: reason.into() },
            },
        };
        self.queue.push_back(event);
    }

    /// Why there are too few descriptors for a start, if so. Without /proc that is not known, and the start is tried.
    pub(super) fn exhausted_resource(&self) -> Option<String> {
        let open = match open_descriptors() {
            Ok(open) => open,
            Err(error) if error.kind() == ErrorKind::NotFound => return None,
            Err(error) => return Some(format!("no descriptors to spare: {}", reason(&error))),
        };
        let limit = process::limit(Resource::Nofile).map_or(0, |(soft, _)| soft);
        (open + SPARE > limit).then(|| format!("no descriptors to spare: {open} of {limit} are open"))
    }

    fn spawn_agent(&mut self, name: &Name, prestart: bool) -> Result<Event, Error> {
        let spec = self.state.spec(name).ok_or("it has no definition")?;
        let before = spec.prestart.as_ref().filter(|_| prestart);
        let prepared = self.limits.prepare(name, &spec.limits);
        for note in &prepared.notes {
            self.log.write(Level::Info, &note);
        }
        let output = self.outputs.open(name);
        let problem = output.as_ref().err().map(|problem| &**problem);
        self.set_condition(Condition::OutputFile(name.clone()), problem);
        self.set_condition(Condition::OutputPlace(name.clone()), None);
        let exec = before.map_or(&spec.exec, |program| &program.exec);
        let is_told = spec.kind == Kind::Notify && !prestart;
        let notify = is_told.then(|| self.open_notifications(name)).transpose()?;
        let mut setup = self.child(&spec, exec, output.ok(), notify.as_deref()).map_err(|why| match prestart {
            true => format_error!("prestart: {why}"),
            false => why,
        })?;
        give_output(&setup);
        // A prestart finds them too, and may put something in them.
        if prestart || spec.prestart.is_none() {
            let (user, group) = (setup.uid.unwrap_or(own_uid()), setup.gid.unwrap_or(own_gid()));
            self.make_runtime_directories(&spec, user, group)?;
            remove_pidfile(&spec);
            if spec.kill == KillMode::Main {
                self.trees.leave_behind(name, None, &self.limits);
            }
        }
        setup.cgroups = prepared.cgroups;
        setup.cgroup = prepared.cgroup;
        let pid = match self.children.spawn(&setup) {
            Ok(pid) => pid,
            // No child was made, which is not the fault of the definition.
            Err(error) => {
                let reason = format!("{}: {}", Stage::Fork, reason(&error)).into();
                return Ok(Event::ResourceExhausted { name: name.clone(), reason });
            }
        };
        let process = Daemon::process(pid);
        self.trees.runs_as(name, Some(setup.uid.unwrap_or(own_uid())));
        self.trees.started(name, process);
        if prestart {
            self.children.owners.insert(pid, Owner::Prestart(name.clone()));
            return Ok(Event::Preparing(name.clone(), process));
        }
        self.children.owners.insert(pid, Owner::Agent(name.clone()));
        Ok(Event::Started {
            name: name.clone(),
            process,
            limits_by: prepared.by,
            poll_cpu: prepared.polled.cpu,
            poll_memory: prepared.polled.memory,
        })
    }

    /// How to run `exec` as a definition says; `notify` is the socket that it is told to notify.
    ///
    /// # Errors
    /// When the definition cannot be followed on this host, such as when there is no such user.
    pub(super) fn child(
        &self,
        spec: &Spec,
        exec: &[Box<str>],
        output: Option<OwnedFd>,
        notify: Option<&str>,
    ) -> Result<Setup, Error> {
        // Only a relative program is looked for in the package.
        let relative = exec.first().is_some_and(|program| !program.starts_with('/'));
        let current = relative.then(|| self.records.store().packages_dir(&spec.name).join("current"));
        let package = current.filter(|current| current.exists());
        let place = Where { state_dir: &self.config.state_dir, mark: &self.mark, package: package.as_deref(), notify };
        setup(spec, exec, &place, output, Vec::new()).map_err(|error| error.to_string().into())
    }

    /// Finds the main process that a forking agent's starter, or the main process before it, has left.
    pub(super) fn find_main(&mut self, name: Name) {
        self.trees.forget_snapshot();
        let mut members = self.trees.members(&name, &self.limits);
        members.retain(Stat::alive);
        let evidence = match self.state.spec(&name).and_then(|spec| spec.pidfile) {
            Some(pidfile) => Evidence::PidFile(read_pid(Path::new(&*pidfile))),
            None => Evidence::Descent { incomplete: self.trees.is_asking(&name), uptime: proc::uptime() },
        };
        let found = main_process::find_main(&members.iter().map(Stat::kin).collect::<Vec<_>>(), evidence);
        if let Some(process) = found {
            self.follow_process(&name, process);
        }
        self.queue.push_back(Event::MainProcess { name, found, left: members.len() as u32 });
    }

    /// Makes sure that the end of an agent's main process, which the daemon did not start itself, is noticed.
    pub(super) fn follow_process(&mut self, name: &Name, process: Process) {
        self.trees.adopt(name, process);
        if process::is_child(process.pid) {
            self.children.owners.insert(process.pid, Owner::Agent(name.clone()));
        } else {
            self.watch(Owner::Agent(name.clone()), process);
        }
    }

    /// Does so for another process of the agent that has taken the place of its main process, which lives on perhaps.
    pub(super) fn follow_moved(&mut self, name: &Name, process: Process) {
        self.children.forget(&Owner::Agent(name.clone()));
        self.trees.keep_main(name);
        self.follow_process(name, process);
    }

    pub(super) fn watch(&mut self, owner: Owner, process: Process) {
        let pidfd = process::pidfd_open(process.pid).ok();
        // The process may have ended before the pidfd was opened, and its id may be another's now.
        let is_alive = proc::alive(process);
        self.children.watched.push(Watched { owner, process, pidfd });
        if !is_alive {
            self.watched_ended(self.children.watched.len() - 1);
        }
    }

    /// Looks for watched processes that have ended without an event.
    pub(super) fn look_at_watched(&mut self) {
        // Even a process with a pidfd is looked at, as its record may have named the wrong one. Only where its start time is
        // unknown, as without /proc, the pidfd is all there is.
        let only_pidfd = |watched: &Watched| watched.pidfd.is_some() && watched.process.ticks == 0;
        let gone = |watched: &Watched| !only_pidfd(watched) && !proc::alive(watched.process);
        while let Some(index) = self.children.watched.iter().position(gone) {
            self.watched_ended(index);
        }
    }

    /// Notes that a watched process has ended.
    pub(super) fn watched_ended(&mut self, index: usize) {
        if index >= self.children.watched.len() {
            return;
        }
        let Watched { owner, process, pidfd } = self.children.watched.swap_remove(index);
        // Its status goes to its parent: it can be read before the parent takes it, and newer kernels tell it afterwards. The
        // status of a tool says less than the package database, which is asked then.
        let exit = match owner {
            Owner::Agent(_) => proc::exit_of_zombie(process)
                .or_else(|| pidfd.and_then(|pidfd| process::pidfd_exit(pidfd.as_fd()).ok().flatten())),
            _ => None,
        };
        self.child_ended(owner, process.pid, exit.unwrap_or(Exit::Unknown), None);
    }

    /// Reaps every child that has ended.
    pub(super) fn reap(&mut self) {
        // Whose a message is can be told while its sender is there.
        self.read_all_notifications();
        let mut orphans = 0;
        loop {
            match process::wait_any() {
                Ok(Some((pid, exit))) => match self.children.owners.remove(&pid) {
                    Some(Owner::Helper) => {
                        let failure = self.children.take_setup_error(pid);
                        if self.helpers.exited(pid, exit, failure) {
                            self.trees.remove_ours(pid);
                        }
                    }
                    Some(owner) => {
                        let failure = self.children.take_setup_error(pid);
                        if !matches!(owner, Owner::Agent(_) | Owner::Prestart(_)) {
                            self.trees.remove_ours(pid);
                        }
                        self.child_ended(owner, pid, exit, failure);
                    }
                    None => orphans += 1,
                },
                Ok(None) => break,
                Err(error) => {
                    self.set_condition(Condition::Children, Some(&error.to_string()));
                    break;
                }
            }
        }
        if orphans > 0 {
            self.log(Level::Debug, &format_args!("reaped {orphans} orphans"));
            self.queue.push_back(Event::ProcessesChanged);
        }
        self.trees.forget_snapshot();
    }

    /// Why an agent, or a program that `pick` finds in its definition, could not be executed, with the directory or program it
    /// is about.
    fn explain(&self, name: &str, pick: fn(&Spec) -> Option<&[Box<str>]>, failure: SetupError) -> String {
        let text = failure.to_string();
        let Some(spec) = self.state.spec(name) else { return text };
        let path = match failure.stage {
            Stage::Directory => &spec.directory,
            Stage::Exec => &pick(&spec).unwrap_or(&spec.exec)[0],
            _ => return text,
        };
        match text.split_once(':') {
            Some((stage, cause)) => format!("{stage} \"{path}\":{cause}"),
            None => text,
        }
    }

    /// Reports the end of a process to the state.
    fn child_ended(&mut self, owner: Owner, pid: Pid, exit: Exit, failure: Option<SetupError>) {
        match owner {
            Owner::Agent(name) => {
                self.read_all_notifications();
                self.trees.ended(&name);
                if let Some(failure) = failure {
                    let reason = self.explain(&name, |_| None, failure);
                    self.queue.push_back(Event::NotStarted { name, reason: reason.into() });
                    return;
                }
                let killed = exit == Exit::Signal(Sig::KILL);
                let oom = self.limits.oom_killed(&name, killed).map(|oom| oom.to_string().into());
                let tail = self.tail(&name);
                self.queue.push_back(Event::Exited { name, pid, exit, oom, tail });
            }
            Owner::Prestart(name) => {
                self.trees.ended(&name);
                if let Some(failure) = failure {
                    let why = self.explain(&name, |spec| Some(&spec.prestart.as_ref()?.exec), failure);
                    let reason = format!("prestart: {why}").into();
                    self.queue.push_back(Event::NotStarted { name, reason });
                    return;
                }
                let tail = if exit == Exit::Code(0) { "".into() } else { self.tail(&name) };
                self.queue.push_back(Event::Exited { name, pid, exit, oom: None, tail });
            }
            Owner::Check(name) => {
                let output = self.finish_check(&name);
                let explain = |failure| self.explain(&name, |spec| Some(&spec.check.as_ref()?.exec), failure);
                let tail = failure.map_or(output, explain).into();
                self.queue.push_back(Event::Checked(name, exit, tail));
            }
            Owner::Reload(name) => {
                let event = match failure {
                    Some(failure) => {
                        let why =
                            self.explain(&name, |spec| Some(&spec.reload.as_ref()?.program()?.exec), failure).into();
                        Event::AgentReloaded(name, Exit::Unknown, why)
                    }
                    None => {
                        let tail = if exit == Exit::Code(0) { "".into() } else { self.tail(&name) };
                        Event::AgentReloaded(name, exit, tail)
                    }
                };
                self.queue.push_back(event);
            }
            Owner::Tool(owner) => self.tool_ended(owner, exit, failure),
            Owner::Helper | Owner::Detached => {}
        }
    }

    /// The last lines of an agent's output, without the values of its environment.
    fn tail(&mut self, name: &Name) -> Box<str> {
        let Some(spec) = self.state.spec(name) else { return "".into() };
        let secrets = self.secrets(&spec);
        let text = self.outputs.tail(name, TAIL + longest_value(&secrets) as u64);
        if !text.is_empty() {
            self.rotate_output(name, spec.log_size);
        }
        sanitize(&without_values(&text, &secrets), TAIL as usize).into()
    }

    /// What is shown of an agent's environment by its name alone: values of a certain length, and whatever a job gave. The longest
    /// come first, as they may contain others.
    pub(super) fn secrets(&self, spec: &Spec) -> Envs {
        let record = self.state.agents().find(|agent| **agent.name() == *spec.name).map(|agent| &agent.record);
        let of_job = record.and_then(|record| record.envs.clone()).unwrap_or_default();
        let of_file = user_of(spec).and_then(|user| env_file(spec, user).ok()).unwrap_or_default();
        let mut secrets: Envs = of_file.into_iter().chain(spec.envs.iter().cloned()).collect();
        secrets
            .retain(|variable| variable.1.len() >= SECRET_MIN || !variable.1.is_empty() && of_job.contains(variable));
        secrets.sort_by_key(|(_, value)| usize::MAX - value.len());
        secrets
    }

    /// Kills a check or tool with all its descendants.
    pub(super) fn kill_owned(&mut self, owner: &Owner) {
        if let Some(pid) = self.children.find(owner) {
            kill_all_below(pid);
        }
    }
}

/// Kills a process that leads a group, with all its descendants and its group.
pub(super) fn kill_all_below(pid: Pid) {
    for stat in Snapshot::below(&[pid]).stats() {
        let _ = process::signal(stat.process.pid, Sig::KILL);
    }
    let _ = process::signal_group(pid, Sig::KILL);
    let _ = process::signal(pid, Sig::KILL);
}

/// Gives its output file to the user an agent runs as, so that it can open /dev/stderr and read what it has written. A file
/// system that has no owners is as good.
fn give_output(setup: &Setup) {
    if let Some(file) = &setup.stdout {
        let (user, group) = (setup.uid.unwrap_or(own_uid()), setup.gid.unwrap_or(own_gid()));
        let _ = fchown(file, Some(user.0), Some(group.0));
    }
}

/// How many descriptors the daemon has open: the size of this directory from Linux 6.2 on, else the number of its entries.
fn open_descriptors() -> io::Result<u64> {
    const OWN: &str = "/proc/self/fd";
    match fs::metadata(OWN)?.len() {
        0 => Ok(fs::read_dir(OWN)?.count() as u64),
        open => Ok(open),
    }
}

/// The length of the longest value in an agent's environment, bytes: a value may begin that far before the last `TAIL` bytes.
pub(super) fn longest_value(envs: &Envs) -> usize {
    envs.iter().map(|(_, value)| value.len()).max().unwrap_or(0)
}

/// The last `TAIL` bytes of `text` with the values of `envs` replaced by `$NAME`. Where they begin in the middle of a value, they
/// begin after it.
pub(super) fn without_values(text: &str, envs: &Envs) -> String {
    let mut start = text.len().saturating_sub(TAIL as usize);
    for (_, value) in envs {
        let mut starts = (start + 1).saturating_sub(value.len())..start;
        let last = starts.rfind(|&at| text.as_bytes()[at..].starts_with(value.as_bytes()));
        start = last.map_or(start, |at| at + value.len());
    }
    while !text.is_char_boundary(start) {
        start += 1;
    }
    replace_values(&text[start..], envs)
}

/// `text` with the values of `envs` replaced by `$NAME`.
pub(super) fn replace_values(text: &str, envs: &Envs) -> String {
    envs.iter().fold(text.to_string(), |text, (name, value)| text.replace(&**value, &format!("${name}")))
}

/// The process id in a file: its leading number, whatever follows, as some daemons write more than that. The agent's user
/// can put anything in its place, so it is looked at before it is opened: reading a named pipe would block the daemon, and
/// opening a device may have an effect.
fn read_pid(path: &Path) -> Option<Pid> {
    let place = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(path).ok()?;
    place.metadata().ok().filter(Metadata::is_file)?;
    let mut file = File::open(format!("/proc/self/fd/{}", place.as_raw_fd())).ok()?;
    let mut text = [0; 32];
    let length = file.read(&mut text).ok()?;
    leading_pid(&text[..length])
}

fn leading_pid(text: &[u8]) -> Option<Pid> {
    let text = text.trim_ascii_start();
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    proc::parse_pid(std::str::from_utf8(&text[..digits]).ok()?)
}

/// Removes the pid file of an agent whose main process is gone: some daemons refuse to start while there is one. Another
/// user than root could lead the path elsewhere, so only a file of that user is removed.
fn remove_pidfile(spec: &Spec) {
    let Some(path) = spec.pidfile.as_deref() else { return };
    let is_theirs = |there: &Metadata| user_of(spec).is_some_and(|user| user.0 == 0 || there.uid() == user.0);
    if fs::symlink_metadata(path).is_ok_and(|there| !there.is_dir() && is_theirs(&there)) {
        let _ = fs::remove_file(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_file_begins_with_the_process_id() {
        let want = Pid::new(4711);
        for text in
            ["4711", "4711\n", "  4711\n", "4711\n/var/lib/data\n1700000000\n5432\n", "4711\0\0\0", "4711 host.example"]
        {
            assert_eq!(leading_pid(text.as_bytes()), want, "{text:?}");
        }
        for text in ["", "\n", "host", "-4711", "0", "99999999999999999999"] {
            assert_eq!(leading_pid(text.as_bytes()), None, "{text:?}");
        }
    }

    #[test]
    fn no_part_of_a_value_is_shown() {
        let (secret, lines) = ("a secret of some length", "two\nlines of a secret");
        let envs: Envs =
            [("SECRET", secret), ("SECRET", lines)].map(|(name, value)| (name.into(), value.into())).into();
        // Wherever what is shown begins.
        for padding in TAIL as usize - 60..TAIL as usize + 60 {
            for value in [secret, lines] {
                let text = format!("before {value}{} abc {value} \u{e9}nd", "x".repeat(padding));
                let shown = without_values(&text, &envs);
                assert!(shown.ends_with("x abc $SECRET \u{e9}nd"), "{padding}: {shown}");
                let first = shown.split("xxx").next().unwrap_or_default();
                assert!(["", "x"].contains(&first) || first.ends_with("$SECRET"), "{padding}: {shown}");
            }
        }
    }
}
