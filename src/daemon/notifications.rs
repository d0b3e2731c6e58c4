//! What agents of type `notify` say about themselves, sd_notify(3): a socket for each, whose path they get as NOTIFY_SOCKET.
//!
//! Everybody may send to these sockets, and only the agent's own processes are heard: the kernel says which process has sent a
//! message, and `host::tree` whose that is. A flood of messages is read slowly, so that it holds up nothing: the kernel keeps
//! few, and the sender waits. The path stays the same while the agent runs. Over a reexec the socket stays too; the daemon that
//! follows one that has died makes it anew, and what was sent in between is lost.

use std::fs::remove_file;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::reexec::take_descriptor;
use super::Daemon;
use crate::error::Error;
use crate::host::disk::{list, make_dir, reason};
use crate::host::proc::alive;
use crate::kernel::{Level, Time};
use crate::model::agent::{Agent, AgentState};
use crate::model::event::{Event, Notification};
use crate::model::secrets::{replace_values, TAIL};
use crate::model::spec::{notify_socket, Kind, Name, NOTIFY_DIR};
use crate::sys::monotonic;
use crate::sys::notify::{bind, receive, NoWaiting};
use crate::text::sanitize;
use crate::wire::notification::parse;

/// The name of a socket that is being made; no agent has one with a dot.
const DRAFT: &str = ".new";

/// The longest message that is read as a whole, bytes.
const MESSAGE: usize = 4096;

/// How many messages of one agent are read in one go, and how long no more are read if there were as many.
const MOST: usize = 16;
const PAUSE: Duration = Duration::from_millis(100);

/// The sockets.
#[derive(Default)]
pub(super) struct Notifications(Vec<Listening>);

/// The socket of one agent.
struct Listening {
    name: Name,
    socket: OwnedFd,
    /// It is not read before this time.
    paused: Option<Time>,
}

impl Notifications {
    /// What to poll, by index.
    pub fn poll_fds(&self, now: Time) -> impl Iterator<Item = (usize, BorrowedFd<'_>)> {
        let open = self.0.iter().enumerate().filter(move |(_, one)| one.paused.is_none_or(|until| until <= now));
        open.map(|(index, one)| (index, one.socket.as_fd()))
    }

    /// When the next socket is read again that is not read now.
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

    fn insert(&mut self, name: &Name, socket: OwnedFd) {
        self.close(|one| one.name == *name);
        self.0.push(Listening { name: name.clone(), socket, paused: None });
    }

    /// Closes these sockets, with what was not read yet.
    fn close(&mut self, which: impl Fn(&Listening) -> bool) {
        let _no_waiting = NoWaiting::begin();
        self.0.retain(|one| !which(one));
    }
}

impl Drop for Notifications {
    fn drop(&mut self) {
        self.close(|_| true);
    }
}

impl Daemon {
    /// Makes the socket of an agent, in place of that of its last run; returns its path.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(super) fn open_notifications(&mut self, name: &Name) -> Result<String, Error> {
        let path = notify_socket(&self.config.run_dir, name)?;
        let dir = Path::new(&*self.config.run_dir).join(NOTIFY_DIR);
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

    fn notify_path(&self, name: &str) -> PathBuf {
        Path::new(&*self.config.run_dir).join(NOTIFY_DIR).join(name)
    }

    /// At the start: takes the sockets that were handed over by a reexec, makes those of other agents that run anew, and removes
    /// those of agents that do not.
    pub(super) fn recover_notifications(&mut self, inherited: Vec<(i32, Box<str>)>) {
        for (number, name) in inherited {
            if let Some(socket) = take_descriptor(Some(number)) {
                self.notifications.insert(&Name::from(name), socket);
            }
        }
        let is_heard = |agent: &&Agent| {
            let kind = agent.definition.as_ref().map(|definition| definition.spec.kind);
            kind == Some(Kind::Notify) && matches!(agent.state, AgentState::Running { .. } | AgentState::Stopping(_))
        };
        let names: Vec<Name> = self.state.agents().filter(is_heard).map(|agent| agent.name().clone()).collect();
        for file in list(&self.notify_path(""), "").unwrap_or_default() {
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

    /// Makes the sockets again that somebody has removed.
    pub(super) fn restore_notifications(&mut self) {
        let names: Vec<Name> = self.notifications.0.iter().map(|one| one.name.clone()).collect();
        for name in names {
            if !self.notify_path(&name).exists() {
                self.reopen_notifications(&name);
            }
        }
    }

    fn reopen_notifications(&mut self, name: &Name) {
        if let Err(why) = self.open_notifications(name) {
            self.log(Level::Warn, &format_args!("agent \"{name}\": {why}"));
        }
    }

    /// Reads what all agents have said by now.
    pub(super) fn read_all_notifications(&mut self) {
        for index in 0..self.notifications.0.len() {
            self.read_notifications(index);
        }
    }

    /// Reads what an agent has said.
    pub(super) fn read_notifications(&mut self, index: usize) {
        let Some(one) = self.notifications.0.get_mut(index) else { return };
        let mut said = Vec::new();
        let mut buffer = [0; MESSAGE];
        let no_waiting = NoWaiting::begin();
        while said.len() < MOST {
            // An error is one of the message, and the next one may be good.
            let Ok(Some(datagram)) = receive(one.socket.as_fd(), &mut buffer) else { break };
            said.push((datagram.sender, parse(datagram.bytes, datagram.truncated)));
        }
        drop(no_waiting);
        if said.is_empty() {
            return;
        }
        one.paused = (said.len() == MOST).then(|| monotonic() + PAUSE);
        let name = one.name.clone();
        // A sender may have been made since the last look.
        self.trees.forget_snapshot();
        let mut heard: Option<Notification> = None;
        for (sender, said) in said {
            if self.trees.find(&name, sender, &self.limits).is_none() {
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
            heard.status = said.status.map(|text| self.clean(&name, &text)).or(heard.status.take());
        }
        self.queue.extend(heard.map(|heard| Event::Notified(name, heard)));
    }

    /// A text of an agent as people may see it: without the values of its environment, and what no message contains.
    fn clean(&self, name: &str, text: &str) -> Box<str> {
        let Some(spec) = self.state.spec(name) else { return "".into() };
        sanitize(&replace_values(text, &self.secrets(&spec)), TAIL as usize).into()
    }
}
