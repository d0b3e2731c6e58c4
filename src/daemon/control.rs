//! The control socket: each client sends one command as a line, and gets one line back when the command has been carried out.
//!
//! Commands become events; answers come in by `answer`. A client that sends nothing, or does not read its answer, is
//! dropped after a while; one that waits for its answer may wait as long as it takes. What a command means is not known
//! here.

use std::collections::VecDeque;
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::reexec::take_descriptor;
use super::run_files::is_gone;
use crate::host::disk::clear;
use crate::host::store::CORRUPT;
use crate::kernel::Time;
use crate::model::command::Answer;
use crate::model::event::{Client, Event};
use crate::model::state::ENDING;
use crate::sys::poll::PollFd;
use crate::sys::process::set_umask;
use crate::sys::{account, file};
use crate::wire::control::{read_command, write_answer, MAX_COMMAND};
use crate::wire::reexec_data;

/// The most clients at a time; more wait in the socket's queue.
const CLIENTS: usize = 64;

/// How long a client may take to send its line, or to read its answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long no connection is accepted after one could not be.
const PAUSE: Duration = Duration::from_secs(1);

/// The socket and its clients.
pub struct Control {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the socket that was made at `path`.
    place: (u64, u64),
    connections: Vec<Connection>,
    /// The number of the newest client.
    last: u32,
    /// No connections are accepted before this.
    paused: Time,
}

struct Connection {
    client: Client,
    stream: UnixStream,
    line: Vec<u8>,
    answer: Vec<u8>,
    /// Its command was accepted, and is being carried out.
    waiting: bool,
    /// It sends nothing more, but may still read.
    ended: bool,
    /// When it is dropped; `None` while it waits for its answer.
    late: Option<Time>,
}

impl Control {
    /// Makes the socket, in place of one that an earlier daemon left: the caller holds the lock in `run_dir`.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn listen(path: &Path) -> io::Result<Control> {
        let (listener, place) = bind(path)?;
        let connections = Vec::new();
        Ok(Control { listener, path: path.into(), place, connections, last: 0, paused: Time::default() })
    }

    /// Whether somebody has removed or replaced the socket.
    pub fn is_lost(&self) -> bool {
        let place = fs::symlink_metadata(&self.path).map(|metadata| (metadata.dev(), metadata.ino()));
        place.map_or_else(|error| is_gone(&error), |place| place != self.place)
    }

    /// Makes the socket again; its clients stay connected.
    ///
    /// # Errors
    /// As `listen`.
    pub fn listen_again(&mut self) -> io::Result<()> {
        (self.listener, self.place) = bind(&self.path)?;
        Ok(())
    }

    /// The socket and the clients that were kept open over a reexec.
    pub fn inherit(
        listener: OwnedFd,
        path: &Path,
        last: u32,
        connections: &[reexec_data::Connection],
        now: Time,
    ) -> Control {
        let connections = connections.iter().filter_map(|connection| {
            let stream = take_descriptor(Some(connection.fd))?.into();
            let mut inherited = Connection::new(Client(connection.client), stream, now);
            inherited.line = connection.line.clone();
            inherited.answer = connection.answer.clone();
            if connection.waiting {
                inherited.wait();
            }
            Some(inherited)
        });
        let connections = connections.collect();
        // A socket that was removed is made again with the first check.
        let place = fs::symlink_metadata(path).map_or((0, 0), |metadata| (metadata.dev(), metadata.ino()));
        Control { listener: listener.into(), path: path.into(), place, connections, last, paused: Time::default() }
    }

    /// The number of the newest client, and all clients, for the binary that is about to be executed.
    pub fn connections(&self) -> (u32, Vec<reexec_data::Connection>) {
        let connections = self.connections.iter().map(|connection| reexec_data::Connection {
            client: connection.client.0,
            fd: connection.stream.as_raw_fd(),
            line: connection.line.clone(),
            answer: connection.answer.clone(),
            waiting: connection.waiting,
            command: None,
        });
        (self.last, connections.collect())
    }

    /// The descriptors to keep open over a reexec: the socket's, then the clients'.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let clients = self.connections.iter().map(|connection| connection.stream.as_fd());
        std::iter::once(self.listener.as_fd()).chain(clients)
    }

    /// What to poll for new clients, when there is room for them.
    pub fn listening(&self, now: Time) -> Option<BorrowedFd<'_>> {
        (self.connections.len() < CLIENTS && self.paused <= now).then(|| self.listener.as_fd())
    }

    /// What to poll for the clients, by index.
    pub fn clients(&self) -> impl Iterator<Item = (usize, PollFd<'_>)> {
        self.connections.iter().enumerate().map(|(index, connection)| {
            let fd = connection.stream.as_fd();
            let poll = match connection {
                Connection { answer, .. } if !answer.is_empty() => PollFd::writing(fd),
                Connection { ended: true, .. } => PollFd::ending(fd),
                _ => PollFd::reading(fd),
            };
            (index, poll)
        })
    }

    /// When a client must be dropped, or clients are accepted again.
    pub fn deadline(&self) -> Option<Time> {
        let paused = (self.paused > Time::default()).then_some(self.paused);
        self.connections.iter().filter_map(|connection| connection.late).chain(paused).min()
    }

    /// Accepts all new clients; returns what failed.
    pub fn accept(&mut self, now: Time) -> Option<String> {
        while self.connections.len() < CLIENTS {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
                Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionAborted) => continue,
                Err(error) => {
                    self.paused = now + PAUSE;
                    return Some(format!("cannot accept the connection of a command: {error}"));
                }
            };
            if let Err(error) = stream.set_nonblocking(true) {
                return Some(format!("cannot accept the connection of a command: {error}"));
            }
            self.last = self.last.wrapping_add(1);
            let mut connection = Connection::new(Client(self.last), stream, now);
            let own = account::own_uid().0;
            match file::peer(connection.stream.as_fd()) {
                Ok(peer) if peer.uid.0 == 0 || peer.uid.0 == own => {}
                _ => connection.refuse("only root may give commands"),
            }
            self.connections.push(connection);
        }
        None
    }

    /// Reads from a client, or writes to it.
    pub fn serve(&mut self, index: usize, queue: &mut VecDeque<Event>) {
        let Some(connection) = self.connections.get_mut(index) else { return };
        let stays = if connection.answer.is_empty() { connection.read(queue) } else { connection.write() };
        if !stays {
            self.drop_client(index, queue);
        }
    }

    /// Drops clients that take too long to send or to read.
    pub fn drop_late(&mut self, now: Time, queue: &mut VecDeque<Event>) {
        if self.paused <= now {
            self.paused = Time::default();
        }
        while let Some(index) = self.connections.iter().position(|client| client.late.is_some_and(|at| at <= now)) {
            self.drop_client(index, queue);
        }
    }

    fn drop_client(&mut self, index: usize, queue: &mut VecDeque<Event>) {
        let connection = self.connections.remove(index);
        if connection.waiting {
            queue.push_back(Event::Gone(connection.client));
        }
    }

    /// Answers a client; its connection is closed when it has read the answer.
    pub fn answer(&mut self, client: Client, line: &str, now: Time) {
        let Some(index) = self.connections.iter().position(|connection| connection.client == client) else { return };
        let connection = &mut self.connections[index];
        connection.waiting = false;
        connection.answer = line.as_bytes().to_vec();
        connection.late = Some(now + PATIENCE);
        // Most answers fit into the socket's buffer.
        if !connection.write() {
            self.connections.remove(index);
        }
    }

    /// Removes the socket and closes all connections, also those that were not accepted yet; each client is told why.
    pub fn close(&mut self) {
        let _ = fs::remove_file(&self.path);
        loop {
            self.accept(Time::default());
            if self.connections.is_empty() {
                return;
            }
            for connection in &mut self.connections {
                if connection.answer.is_empty() {
                    // Closing a socket with unread data in it would discard the answer.
                    connection.read(&mut VecDeque::new());
                    connection.answer_with(1, ENDING);
                }
                connection.write();
            }
            self.connections.clear();
        }
    }
}

/// Makes the socket, in place of what is at `path`; returns its device and inode too.
fn bind(path: &Path) -> io::Result<(UnixListener, (u64, u64))> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => clear(path, CORRUPT),
        _ => {}
    }
    let mask = set_umask(0o177);
    let listener = UnixListener::bind(path);
    set_umask(mask);
    let listener = listener?;
    listener.set_nonblocking(true)?;
    let metadata = fs::symlink_metadata(path)?;
    Ok((listener, (metadata.dev(), metadata.ino())))
}

impl Connection {
    fn new(client: Client, stream: UnixStream, now: Time) -> Connection {
        let (line, answer, late) = (Vec::new(), Vec::new(), Some(now + PATIENCE));
        Connection { client, stream, line, answer, waiting: false, ended: false, late }
    }

    /// Its command is being carried out, which may take as long as it takes.
    fn wait(&mut self) {
        self.waiting = true;
        self.late = None;
    }

    /// Reads what the client has sent; false when it is gone.
    fn read(&mut self, queue: &mut VecDeque<Event>) -> bool {
        let mut bytes = [0; 1024];
        loop {
            match self.stream.read(&mut bytes) {
                // It has shut down its sending side, or closed the connection: the next poll will show which.
                Ok(0) => return self.waiting && !std::mem::replace(&mut self.ended, true),
                // Everything after the first line is ignored.
                Ok(_) if self.waiting => return true,
                Ok(length) => self.line.extend_from_slice(&bytes[..length]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => return false,
            }
            let end = self.line.iter().position(|byte| *byte == b'\n');
            if end.is_none() && self.line.len() > MAX_COMMAND {
                self.refuse("the command is too long");
                return true;
            }
            if let Some(end) = end {
                self.line.truncate(end);
                match read_command(&self.line) {
                    Ok(command) => {
                        self.wait();
                        queue.push_back(Event::Command(self.client, command));
                    }
                    Err(problem) => {
                        self.refuse(&problem);
                        return true;
                    }
                }
            }
        }
    }

    fn refuse(&mut self, problem: &str) {
        self.answer_with(2, problem);
    }

    fn answer_with(&mut self, code: u8, message: &str) {
        self.answer = write_answer(&Answer { code, message: message.into(), body: "".into() }).into_bytes();
    }

    /// Writes as much of the answer as the client takes; false when it has all of it, or is gone.
    fn write(&mut self) -> bool {
        while !self.answer.is_empty() {
            match self.stream.write(&self.answer) {
                Ok(written) => drop(self.answer.drain(..written)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        false
    }
}
