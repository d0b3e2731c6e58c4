//! Child processes: agents and tools are started here, and every child is reaped here and nowhere else.
//!
//! Actions to start or kill something come in; the ends of processes go out as events. A process that is not a child of the
//! daemon, such as an agent of an earlier daemon, is watched through a pidfd instead, or looked at with each check.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::conditions::Condition;
use super::{Daemon, Owner};
use crate::host::proc::{self, Snapshot};
use crate::kernel::{Exit, Level, Pid, Process, Sig, Stage};
use crate::model::event::{Event, ToolOwner};
use crate::model::package::Tool;
use crate::model::spec::Name;
use crate::sorted_map::SortedMap;
use crate::sys::child::{spawn_child, Setup};
use crate::sys::process;
use crate::sys::setup_error::{SetupError, SetupErrorPipe};

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
    /// All children, with what they were made for.
    pub owners: SortedMap<Pid, Owner>,
    watched: Vec<Watched>,
    /// Tools that wait for the end of one that an earlier daemon left running for the same owner.
    pub waiting_tools: Vec<(ToolOwner, Tool)>,
    /// Says why a child could not execute its program.
    pub setup_errors: SetupErrorPipe,
    /// The soft and the hard limit of open files that the daemon was started with, where its own is different: 1.0.0 gives it
    /// to its children.
    pub nofile: Option<(u64, u64)>,
}

impl Children {
    /// None yet; `nofile` is the limit of open files that the daemon was started with, if it has changed it.
    pub fn new(setup_errors: SetupErrorPipe, nofile: Option<(u64, u64)>) -> Children {
        let (watched, waiting_tools) = (Vec::new(), Vec::new());
        Children { owners: SortedMap::new(), watched, waiting_tools, setup_errors, nofile }
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

    /// Makes a child.
    ///
    /// # Errors
    /// When no process can be made.
    pub fn spawn(&self, setup: &Setup) -> io::Result<Pid> {
        spawn_child(setup, &self.setup_errors)
    }

    /// Forgets the processes of this owner.
    pub fn forget(&mut self, owner: &Owner) {
        self.owners.retain(|_, known| known != owner);
        self.watched.retain(|watched| watched.owner != *owner);
    }

    /// The process of this owner, child or not.
    pub(super) fn find(&self, owner: &Owner) -> Option<Pid> {
        let child = self.owners.iter().find(|(_, known)| *known == owner).map(|(pid, _)| *pid);
        child.or_else(|| self.watched.iter().find(|watched| watched.owner == *owner).map(|watched| watched.process.pid))
    }
}

impl Daemon {
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
        self.read_notifications(true);
        let mut orphans = 0;
        loop {
            match process::wait_any() {
                Ok(Some((pid, exit))) => match self.children.owners.remove(&pid) {
                    Some(owner) => {
                        let failure = self.children.setup_errors.take(pid);
                        self.child_reaped(owner, pid, exit, failure);
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

    fn child_reaped(&mut self, owner: Owner, pid: Pid, exit: Exit, failure: Option<SetupError>) {
        let is_done = match owner {
            // The process of a helper is forgotten when its result is taken.
            Owner::Helper => self.helpers.exited(pid, exit, failure),
            Owner::Agent(_) | Owner::Prestart(_) => false,
            _ => true,
        };
        if is_done {
            self.trees.remove_ours(pid);
        }
        self.child_ended(owner, pid, exit, failure);
    }

    /// Why a process could not execute its program, with the directory or program that this is about.
    fn explain(&self, owner: &Owner, failure: SetupError) -> String {
        let text = failure.to_string();
        let (Owner::Agent(name) | Owner::Prestart(name) | Owner::Check(name) | Owner::Reload(name)) = owner else {
            return text;
        };
        let Some(spec) = self.state.spec(name) else { return text };
        let own_program = match owner {
            Owner::Prestart(_) => spec.prestart.as_ref().map(|prestart| &prestart.exec),
            Owner::Check(_) => spec.check.as_ref().map(|check| &check.exec),
            Owner::Reload(_) => spec.reload.as_ref().and_then(|reload| Some(&reload.program()?.exec)),
            _ => None,
        };
        let path = match failure.stage {
            Stage::Directory => &spec.directory,
            Stage::Exec => &own_program.unwrap_or(&spec.exec)[0],
            _ => return text,
        };
        text.replacen(':', &format!(" \"{path}\":"), 1)
    }

    /// Reports the end of a process to the state.
    fn child_ended(&mut self, owner: Owner, pid: Pid, exit: Exit, failure: Option<SetupError>) {
        let failure: Option<Box<str>> = failure.map(|failure| self.explain(&owner, failure).into());
        let event = match owner {
            Owner::Agent(name) => {
                self.read_notifications(true);
                self.trees.ended(&name);
                match failure {
                    Some(reason) => Event::NotStarted { name, reason },
                    None => {
                        let oom = self.out_of_memory(&name, exit);
                        let tail = self.tail(&name);
                        Event::Exited { name, pid, exit, oom, tail }
                    }
                }
            }
            Owner::Prestart(name) => {
                self.trees.ended(&name);
                match failure {
                    Some(why) => Event::NotStarted { name, reason: format!("prestart: {why}").into() },
                    None => {
                        let oom = self.out_of_memory(&name, exit);
                        let tail = self.tail_of_failure(&name, exit);
                        Event::Exited { name, pid, exit, oom, tail }
                    }
                }
            }
            Owner::Check(name) => {
                let output = self.finish_check(&name);
                Event::Checked(name, exit, failure.unwrap_or_else(|| output.into()))
            }
            Owner::Reload(name) => {
                self.forget_program("reload", &name);
                match failure {
                    Some(why) => Event::ReloadEnded(name, Exit::Unknown, why),
                    None => {
                        let tail = self.tail_of_failure(&name, exit);
                        Event::ReloadEnded(name, exit, tail)
                    }
                }
            }
            Owner::Tool(owner) => return self.tool_ended(owner, exit, failure),
            Owner::Helper | Owner::Detached => return,
        };
        self.queue.push_back(event);
    }

    /// What is told of an agent's memory, if processes of it were killed for it; `exit`: how its main process ended.
    fn out_of_memory(&mut self, name: &Name, exit: Exit) -> Option<Box<str>> {
        let killed = exit == Exit::Signal(Sig::KILL);
        self.limits.oom_killed(name, killed).map(|oom| oom.to_string().into())
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
