//! The commands of the command line other than `run`: those that ask the running daemon, and those that need none.
//!
//! Each prints its result to standard output and errors to standard error. Nothing here changes the host; only the daemon does.

use std::fmt::Display;
use std::fs::File;
use std::io::{self, ErrorKind, IsTerminal, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use crate::error::Error;
use crate::host::config_files;
use crate::host::disk::reason;
use crate::model::command::{Answer, Command};
use crate::model::package::Digest;
use crate::model::spec::Name;
use crate::sys::file::read_up_to;
use crate::text::visible;
use crate::wire::config::{Config, ConfigError};
use crate::wire::{control, json};

use table::Screen;

pub mod check;
pub mod completion;
pub mod help;
pub mod init;
pub mod logs;
mod status;
mod table;

/// A definition to start from.
pub const EXAMPLE: &str = include_str!("cli/example.json");

/// How often `status --watch` renews what it shows.
const WATCH: Duration = Duration::from_secs(2);

/// How many agents are started or stopped at the same time; the daemon has 64 places for clients.
const AT_ONCE: usize = 16;

/// How long to wait for an answer for which the daemon has to do nothing first: a slow disk may keep it busy for seconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// The exit code of a command that found no daemon.
const NOT_RUNNING: u8 = 3;

/// How a command ended: done, or the exit code after printing why it did not work. The code is 1, 3 where the daemon is not
/// running, and 0 where the reader of the output has stopped (`| head`).
pub type Ended = Result<(), u8>;

/// How an answer is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputFormat {
    /// As a table.
    Text,
    /// The daemon's document as it is, for programs.
    Json,
}

/// Gives `command` to the daemon that uses the configuration at `path`, waits until it is done, and shows the answer.
///
/// There is no timeout for what the daemon has to do first: it has one for each of its actions, and this process can be
/// interrupted.
pub fn send_command(path: &Path, command: &Command, format: OutputFormat) -> Ended {
    let answer = ask(path, command)?;
    match &*answer.body {
        "" => show_message(&answer),
        body if format == OutputFormat::Json => print(&format!("{body}\n")),
        body => print(&table::jobs(&parsed(body)?, Screen::of_output())),
    }
}

/// Shows the status of one agent or of all; with `watch` again and again, until it is interrupted. One agent that does not run is
/// exit code 1.
///
/// # Errors
/// The exit code, after printing why.
pub fn show_status(path: &Path, name: Option<Name>, format: OutputFormat, watch: bool) -> Ended {
    let command = Command::Status(name);
    if !watch {
        return show_status_once(path, &command, format);
    }
    loop {
        print(if io::stdout().is_terminal() { "\x1b[H\x1b[2J" } else { "\n" })?;
        let _ = show_status_once(path, &command, format);
        std::thread::sleep(WATCH);
    }
}

fn show_status_once(path: &Path, command: &Command, format: OutputFormat) -> Ended {
    let text = ask(path, command)?.body;
    let body = parsed(&text)?;
    let is_one = matches!(command, Command::Status(Some(_)));
    let printed = match format {
        OutputFormat::Json => print(&format!("{text}\n")),
        OutputFormat::Text => {
            let config = configuration(path)?.config;
            let screen = Screen::of_output();
            let printed = print(&match is_one {
                true => status::status_of_one(&body, screen),
                false => status::status(&body, Path::new(&*config.agents_dir), screen),
            });
            complain_of_files(path, &config, status::has_trouble_with(&body, &config.state_dir));
            printed
        }
    };
    if is_one && !status::is_running(&body) {
        return Err(1);
    }
    printed
}

/// Says what is wrong with the files, and which of them the daemon has not read yet. `lacks_copies`: the daemon may have been
/// unable to write down which definitions it has read.
fn complain_of_files(path: &Path, config: &Config, lacks_copies: bool) {
    let mut problems = config_files::config_of_daemon(path).map_or_else(|problems| problems, |loaded| loaded.problems);
    let change = config_files::change_since_read(path).filter(|_| problems.is_empty());
    problems.append(&mut config_files::read_agents(&config.agents_dir).problems);
    if !problems.is_empty() {
        list(&problems);
        complain(&"the last good version of such a file stays in use, if there was one, until the file is fixed");
    } else if !lacks_copies && !config_files::is_as_read(config) {
        let dir = &config.agents_dir;
        complain(&format_args!("\"{dir}\" has changed since the daemon read it: run \"bootagent reload\""));
    }
    if let Some(change) = change {
        let (path, command) = (path.display(), change.command());
        complain(&format_args!("\"{path}\" has changed since the daemon read it: run \"bootagent {command}\""));
    }
}

/// Gives the daemon a command for each of the agents, or for all that it has, and waits until all are done.
///
/// # Errors
/// The greatest exit code, after printing why.
pub fn send_to_agents(path: &Path, names: Option<Vec<Name>>, command: fn(Name) -> Command) -> Ended {
    let names = names.map_or_else(|| agent_names(path), Ok)?;
    if names.is_empty() {
        return print("there are no agents\n");
    }
    let is_one = names.len() == 1;
    let mut worst = Ok(());
    for group in names.chunks(AT_ONCE) {
        let mut connections = Vec::new();
        for name in group {
            connections.push((name, connect(path, &command(name.clone()))?));
        }
        for (name, connection) in connections {
            let ended = connection.answer().and_then(|answer| match is_one {
                true => show_message(&answer),
                false => print(&format!("{name}: {}\n", message(&answer))),
            });
            // An error is greater than none, and a greater code than a smaller one.
            worst = worst.max(ended);
        }
    }
    worst
}

/// The names of all agents of the daemon.
fn agent_names(path: &Path) -> Result<Vec<Name>, u8> {
    let body = parsed(&ask(path, &Command::Status(None))?.body)?;
    Ok(status::names(&body))
}

fn message(answer: &Answer) -> &str {
    if answer.message.is_empty() {
        return "done";
    }
    &answer.message
}

fn show_message(answer: &Answer) -> Ended {
    print(&format!("{}\n", message(answer)))
}

fn parsed(body: &str) -> Result<json::Value, u8> {
    json::parse(body, json::MAX_DEPTH)
        .map_err(|syntax| failed(&format_args!("cannot read the daemon's answer: {syntax}")))
}

/// The daemon's answer to a command that it carried out; the exit code, after printing why, when it did not.
fn ask(path: &Path, command: &Command) -> Result<Answer, u8> {
    connect(path, command)?.answer()
}

/// A connection to the daemon, which has been sent a command.
struct Connection {
    socket: PathBuf,
    stream: UnixStream,
    /// Why the command could not be sent. A daemon that refuses the client answers without reading, so it counts only if there
    /// is no answer.
    sent: io::Result<()>,
}

/// Connects to the daemon that uses the configuration at `path`, and sends it the command; the exit code, after printing why,
/// when there is no connection.
fn connect(path: &Path, command: &Command) -> Result<Connection, u8> {
    let config_files::Loaded { config, problems, .. } = configuration(path)?;
    let socket = Path::new(&*config.run_dir).join(control::SOCKET);
    match UnixStream::connect(&socket) {
        Ok(stream) => Ok(Connection::send(socket, stream, command)),
        Err(error) => {
            list(&problems);
            Err(unreachable(&socket, &error))
        }
    }
}

impl Connection {
    fn send(socket: PathBuf, mut stream: UnixStream, command: &Command) -> Connection {
        if matches!(command, Command::Status(_) | Command::Jobs) {
            let _ = stream.set_read_timeout(Some(ANSWER_TIMEOUT));
        }
        let sent = stream.write_all(control::write_command(command).as_bytes());
        Connection { socket, stream, sent }
    }

    /// Waits for the answer; the exit code, after printing why, when there is none or the command was not carried out.
    fn answer(self) -> Result<Answer, u8> {
        let socket = self.socket.clone();
        let answer = self
            .read()
            .map_err(|cause| failed(&format_args!("cannot talk to the daemon at \"{}\": {cause}", socket.display())))?;
        if answer.code != 0 {
            complain(if answer.message.is_empty() { &"the daemon could not do it" } else { &answer.message });
            return Err(answer.code);
        }
        Ok(answer)
    }

    fn read(mut self) -> Result<Answer, Error> {
        let mut line = Vec::new();
        let read = read_up_to(control::MAX_ANSWER as u64, &mut line, &mut |to| self.stream.read(to));
        if line.ends_with(b"\n") {
            return control::read_answer(&line);
        }
        match self.sent.and(read) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Err(format_error!(
                "no answer for {} s: its process is stopped, or waits for a disk",
                ANSWER_TIMEOUT.as_secs()
            )),
            Err(error) => Err(reason(&error)),
            Ok(0) => Err("it ended before it answered".into()),
            Ok(_) => Err("its answer is cut off".into()),
        }
    }
}

/// The configuration that a daemon with the file at `path` uses; the exit code, after printing why, where that cannot be known.
fn configuration(path: &Path) -> Result<config_files::Loaded, u8> {
    config_files::config_of_daemon(path).map_err(|problems| {
        list(&problems);
        failed(&"cannot find the daemon without its configuration: fix that first")
    })
}

/// Prints why there is no connection and what to do about it; returns the exit code.
fn unreachable(socket: &Path, error: &io::Error) -> u8 {
    let socket = socket.display();
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
            complain(&format_args!(
                "the daemon is not running (no answer on \"{socket}\"): start it with its init script or \"bootagent run -d\""
            ));
            NOT_RUNNING
        }
        ErrorKind::PermissionDenied => {
            failed(&format_args!("cannot connect to \"{socket}\": permission denied, this needs root"))
        }
        _ => failed(&format_args!("cannot connect to \"{socket}\": {}", reason(error))),
    }
}

/// Prints the SHA-256 of a file in the form of a job's `checksum`.
///
/// # Errors
/// The exit code, after printing why.
pub fn sha256(path: &Path) -> Ended {
    let digest = digest(path)
        .map_err(|error| failed(&format_args!("cannot read \"{}\": {}", path.display(), reason(&error))))?;
    print(&format!("{digest}\n"))
}

fn digest(path: &Path) -> io::Result<Digest> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 128 << 10];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(Digest(hash.finalize().into())),
            Ok(count) => hash.update(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Writes `text` to standard output.
///
/// # Errors
/// The exit code of a command that ends with this: 0 when the reader has stopped (`| head`), else 1, after printing why.
pub fn print(text: &str) -> Ended {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|error| match error.kind() {
        ErrorKind::BrokenPipe => 0,
        _ => failed(&format_args!("cannot write to standard output: {}", reason(&error))),
    })
}

/// Writes the problems to standard error, each on a line that begins with its file, as compilers do.
fn list(problems: &[ConfigError]) {
    for problem in problems {
        let _ = io::stderr().write_all(format!("{problem}\n").as_bytes());
    }
}

/// Writes one line to standard error; when that fails, there is nowhere to report it.
pub fn complain(message: &dyn Display) {
    let _ = io::stderr().write_all(format!("bootagent: {}\n", visible(&message.to_string())).as_bytes());
}

/// As `complain`; returns the exit code of a command that did not work.
fn failed(message: &dyn Display) -> u8 {
    complain(message);
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_hashed() {
        let path = std::env::temp_dir().join(format!("bootagent-sha256-{}", std::process::id()));
        std::fs::write(&path, vec![b'a'; 1_000_000]).unwrap();
        let got = digest(&path).unwrap().to_string();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(got, "SHA256:cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
        assert!(digest(&path).is_err());
    }

    #[test]
    fn an_answer_that_is_cut_off_is_an_error() {
        for (line, want) in [
            ("{\"code\":0,\"message\":\"done\"}\n", Ok("done")),
            ("{\"code\":0,\"message\":\"done\"}", Err("cut off")),
            ("", Err("ended before")),
            ("junk\n", Err("one JSON object")),
        ] {
            let (client, mut daemon) = UnixStream::pair().unwrap();
            daemon.write_all(line.as_bytes()).unwrap();
            daemon.shutdown(std::net::Shutdown::Write).unwrap();
            let got = Connection::send(PathBuf::new(), client, &Command::Report).read();
            match (got, want) {
                (Ok(answer), Ok(want)) => assert_eq!(&*answer.message, want),
                (Err(got), Err(want)) => assert!(got.contains(want), "{line}: {got}"),
                (got, want) => panic!("{line}: got {got:?}, want {want:?}"),
            }
            let mut asked = vec![0; control::write_command(&Command::Report).len()];
            daemon.read_exact(&mut asked).unwrap();
            assert_eq!(control::read_command(&asked), Ok(Command::Report));
        }
    }

    /// The indented text in `document` from the line that begins with `start` to the next line that is not indented.
    fn example(document: &str, start: &str) -> String {
        let lines = document.lines().skip_while(|line| !line.trim_start().starts_with(start));
        lines.take_while(|line| line.starts_with("    ")).collect::<Vec<_>>().join("\n")
    }

    /// Every key of the object is explained in the tables of docs/configuration.md and in the manual page.
    fn check_keys(page: &str, object: &str) {
        let manual = include_str!("../man/bootagent.json.5");
        for key in json::object(&json::parse(object, 8).unwrap()).unwrap().keys() {
            let explained = |line: &str| line.starts_with("| ") && line.contains(&format!("`{key}`"));
            assert!(page.lines().any(explained), "docs/configuration.md: {key}");
            let explained = |line: &str| line.starts_with(".It Cm ") && line.split(' ').any(|word| word == key);
            assert!(manual.lines().any(explained), "bootagent.json.5: {key}");
        }
    }

    #[test]
    fn the_examples_of_the_documentation_are_right() {
        let page = include_str!("../docs/configuration.md");
        let text = example(page, "{ \"svrlist\": \"\",");
        check_keys(page, &text);
        let (config, problems) = crate::wire::config::read_config("configuration.md", text.as_bytes());
        assert_eq!(problems, []);
        assert_eq!(config, crate::wire::config::Config::default());

        let text = example(page, "{ \"name\": \"BasicAgent\", \"version\"");
        check_keys(page, &text);
        let spec = crate::wire::config::read_definition("configuration.md", text.as_bytes(), false, true).unwrap();
        let plain = crate::model::spec::Spec::new("BasicAgent", "1.2.3", spec.exec.clone());
        assert_eq!(
            (spec.autorestart, spec.startsecs, spec.stopsecs),
            (plain.autorestart, plain.startsecs, plain.stopsecs)
        );
        assert_eq!((spec.umask, spec.stopsignal, spec.log_size), (plain.umask, plain.stopsignal, plain.log_size));
    }
}
