//! What agents of type `notify` say about themselves, as in sd_notify(3). Each of them has a socket, and gets its path as
//! NOTIFY_SOCKET.
//!
//! Every process may send to these sockets, and only the agent's own are heard: the kernel says which process has sent a
//! message, and `host::tree` which agent that process belongs to. A flood of messages is read slowly, so that it holds up
//! nothing else: the kernel keeps few messages, and the sender waits. The path stays the same while the agent runs. A reexec
//! keeps the socket too. A daemon that follows one that has died makes a new socket, and what was sent in between is lost.

use std::fs::remove_file;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::reexec::take_descriptor;
use super::Daemon;
use crate::error::Error;
use crate::host::disk::{last_change, list, make_dir, reason};
use crate::host::proc::alive;
use crate::kernel::{Level, Time};
use crate::model::agent::AgentState;
use crate::model::event::{Event, Notification};
use crate::model::secrets::{replace_values, TAIL};
use crate::model::spec::{notify_socket, Envs, Kind, Name, NOTIFY_DIR};
use crate::sys::monotonic;
use crate::sys::notify::{bind, receive, NoWaiting};
use crate::text::sanitize;
use crate::wire::notification::{parse, Notification as Said};

/// The name of a socket that is being made; no agent has one with a dot.
const DRAFT: &str = ".new";

/// The longest message that is read as a whole, bytes.
const LONGEST: usize = 4096;

/// How many messages of one agent are read in one go.
const BATCH: usize = 16;

/// How long no more messages are read after some were, unless a process has ended.
const PAUSE: Duration = Duration::from_millis(100);

/// The sockets of all agents that have one.
#[derive(Default)]
pub(super) struct Notifications(Vec<AgentSocket>);

/// The socket of one agent.
struct AgentSocket {
    name: Name,
    socket: OwnedFd,
    /// It is not read before this time.
    paused: Option<Time>,
    /// What its messages are shown without, and the `last_change` of the `env_file` that this was read from.
    hidden: (i64, Envs),
}

impl Notifications {
    /// The sockets to poll. Those that are paused are left out.
    pub fn poll_fds(&self, now: Time) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.0.iter().filter(move |one| !one.is_paused(now)).map(|one| one.socket.as_fd())
    }

    /// When the pause of a socket ends next.
    pub fn deadline(&self, now: Time) -> Option<Time> {
        self.0.iter().filter_map(|one| one.paused.filter(|until| *until > now)).min()
    }

    /// The descriptors, to be kept open over a reexec.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.0.iter().map(|one| one.socket.as_fd())
    }

    /// The numbers of the descriptors, with the agents that they are for.
    pub fn numbers(&self) -> Vec<(i32, Box<str>)> {
        self.0.iter().map(|one| (one.socket.as_raw_fd(), Box::from(&*one.name))).collect()
    }

    /// Adds the socket of an agent, in place of an earlier one.
    fn insert(&mut self, name: &Name, socket: OwnedFd) {
        self.close(|one| one.name == *name);
        self.0.push(AgentSocket { name: name.clone(), socket, paused: None, hidden: (i64::MIN, Envs::new()) });
    }

    /// Closes these sockets, with what was not read yet.
    fn close(&mut self, which: impl Fn(&AgentSocket) -> bool) {
        let _no_waiting = NoWaiting::begin();
        self.0.retain(|one| !which(one));
    }
}

impl Drop for Notifications {
    fn drop(&mut self) {
        self.close(|_| true);
    }
}

impl AgentSocket {
    fn is_paused(&self, now: Time) -> bool {
        self.paused.is_some_and(|until| until > now)
    }

    /// Takes the next messages, each with its sender.
    fn read(&self) -> Vec<(i32, Said)> {
        let mut messages = Vec::new();
        let mut buffer = [0; LONGEST];
        let _no_waiting = NoWaiting::begin();
        while messages.len() < BATCH {
            // After an error the next turn of the loop reads what else there is.
            let Ok(Some(datagram)) = receive(self.socket.as_fd(), &mut buffer) else { break };
            messages.push((datagram.sender, parse(datagram.bytes, datagram.truncated)));
        }
        messages
    }
}

impl Daemon {
    /// Makes the socket of an agent, in place of the one of its last run, and returns its path.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(super) fn open_notifications(&mut self, name: &Name) -> Result<String, Error> {
        let path = notify_socket(&self.config.run_dir, name)?;
        let dir = self.notify_dir();
        make_dir(&dir)?;
        let socket = bind(&dir.join(DRAFT), Path::new(&path))
            .map_err(|error| format_error!("NOTIFY_SOCKET: cannot make \"{path}\": {}", reason(&error)))?;
        self.notifications.insert(name, socket);
        Ok(path)
    }

    /// Removes the socket of an agent that is down.
    pub(super) fn close_notifications(&mut self, name: &str) {
        let before = self.notifications.0.len();
        self.notifications.close(|one| *one.name == *name);
        if self.notifications.0.len() < before {
            let _ = remove_file(self.notify_path(name));
        }
    }

    /// The directory of all sockets.
    fn notify_dir(&self) -> PathBuf {
        self.run_dir().join(NOTIFY_DIR)
    }

    /// The path of an agent's socket, `model::spec::notify_socket` without a check.
    fn notify_path(&self, name: &str) -> PathBuf {
        self.notify_dir().join(name)
    }

    /// At the start of the daemon: takes the sockets that a reexec has handed over, makes new ones for other agents that run,
    /// and removes those of agents that do not run.
    pub(super) fn recover_notifications(&mut self, inherited: Vec<(i32, Box<str>)>) {
        for (number, name) in inherited {
            if let Some(socket) = take_descriptor(Some(number)) {
                self.notifications.insert(&Name::from(name), socket);
            }
        }
        let names = self.names(&|agent| {
            let kind = agent.definition.as_ref().map(|definition| definition.spec.kind);
            kind == Some(Kind::Notify) && matches!(agent.state, AgentState::Running { .. } | AgentState::Stopping(_))
        });
        for file in list(&self.notify_dir(), "").unwrap_or_default() {
            if !names.iter().any(|name| **name == *file) {
                let _ = remove_file(self.notify_path(&file));
            }
        }
        self.notifications.close(|one| !names.contains(&one.name));
        for name in names {
            if !self.notifications.0.iter().any(|one| one.name == name) {
                self.reopen_notifications(&name);
            }
        }
    }

    /// Makes new sockets in place of those that somebody has removed.
    pub(super) fn restore_notifications(&mut self) {
        let names: Vec<Name> = self.notifications.0.iter().map(|one| one.name.clone()).collect();
        for name in names {
            if !self.notify_path(&name).exists() {
                self.reopen_notifications(&name);
            }
        }
    }

    /// Makes a new socket for an agent that runs. A failure is logged only, as the agent runs without it.
    fn reopen_notifications(&mut self, name: &Name) {
        if let Err(why) = self.open_notifications(name) {
            self.log(Level::Warn, &format_args!("agent \"{name}\": {why}"));
        }
    }

    /// Reads what all agents have said by now; `all`: on sockets that are paused too.
    pub(super) fn read_notifications(&mut self, all: bool) {
        let now = monotonic();
        let sockets = self.notifications.0.iter().filter(|one| all || !one.is_paused(now));
        let mut read: Vec<_> = sockets.map(|one| (one.name.clone(), one.read())).collect();
        read.retain(|(_, messages)| !messages.is_empty());
        if read.is_empty() {
            return;
        }
        // A sender may have been started since /proc was read. It is read once for all sockets, and not again for a while,
        // as everybody may send to each of them.
        self.trees.forget_snapshot();
        for one in &mut self.notifications.0 {
            one.paused = Some(now + PAUSE);
        }
        for (name, messages) in read {
            self.hear(name, messages);
        }
    }

    /// Queues one event for all messages that have come on the socket of an agent, each with its sender.
    fn hear(&mut self, name: Name, messages: Vec<(i32, Said)>) {
        // Of several messages the last word on each subject counts; what no message speaks of stays as it is.
        let mut heard: Option<Notification> = None;
        // The sender of the last message, and whether it is the agent's: a flood is mostly of one process.
        let mut last: Option<(i32, bool)> = None;
        for (sender, said) in messages {
            if last.is_none_or(|(pid, _)| pid != sender) {
                last = Some((sender, self.trees.find(&name, sender, &self.limits).is_some()));
            }
            if last != Some((sender, true)) {
                self.log(
                    Level::Debug,
                    &format_args!("agent \"{name}\": a message of process {sender}, which is not its own"),
                );
                continue;
            }
            let heard = heard.get_or_insert_default();
            heard.ready |= said.ready;
            let main = said.main.and_then(|pid| self.trees.find(&name, pid.raw(), &self.limits));
            heard.main = main.filter(|process| alive(*process)).or(heard.main);
            heard.status = said.status.map(Box::from).or(heard.status.take());
        }
        if let Some(mut heard) = heard {
            heard.status = heard.status.map(|text| self.clean(&name, &text));
            self.queue.push_back(Event::Notified(name, heard));
        }
    }

    /// A text of an agent as people may see it: without the values of its environment, on one line, and short. The `env_file`,
    /// which may be large, is read anew only when it has changed.
    fn clean(&mut self, name: &str, text: &str) -> Box<str> {
        let at = self.notifications.0.iter().position(|one| *one.name == *name);
        let (Some(spec), Some(at)) = (self.state.spec(name), at) else { return "".into() };
        let path = spec.env_file.as_deref().unwrap_or("");
        let change = last_change(path.strip_prefix('-').unwrap_or(path));
        if self.notifications.0[at].hidden.0 != change {
            self.notifications.0[at].hidden = (change, self.secrets(&spec));
        }
        sanitize(&replace_values(text, &self.notifications.0[at].hidden.1), TAIL as usize).into()
    }
}
