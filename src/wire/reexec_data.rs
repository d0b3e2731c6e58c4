//! What the daemon hands to the new binary when it executes it in its own process, as JSON: the open descriptors, the
//! children, and the part of the state that is in no record.
//!
//! The new binary may be of another version, so unknown keys are ignored and every key may be missing. What is missing is
//! recovered as after the death of a daemon. The keys keep their spelling, as 1.0.0 reads and writes them.

use crate::error::Error;
use crate::kernel::{Pid, Time};
use crate::model::command::Command;
use crate::model::event::Client;
use crate::model::reexec_state::ReexecState;
use crate::model::report::Incident;
use crate::model::schedule::{Peer, Times};
use crate::wire::control::{read_command, write_command};
use crate::wire::emit::Writer;
use crate::wire::json::{self, Fields, Value};

/// Everything that is handed over. Descriptors are given by their number.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReexecData {
    /// The process that this is for, which an exec does not change.
    pub pid: i32,
    /// The installed binary.
    pub program: String,
    /// The directory of `lock` and `listener`.
    pub run_dir: String,
    /// The locked file in `run_dir`.
    pub lock: Option<i32>,
    /// The locked file in `state_dir`.
    pub state_lock: Option<i32>,
    /// The control socket.
    pub listener: Option<i32>,
    /// The reading and the writing end of the pipe for setup errors of children.
    pub failures: Option<(i32, i32)>,
    /// The pipe to the watcher of a new version on trial.
    pub watcher: Option<i32>,
    /// The soft and the hard limit of open files that children get.
    pub nofile: Option<(u64, u64)>,
    /// The number of the last client.
    pub last_client: u32,
    /// Clients that are connected.
    pub connections: Vec<Connection>,
    /// Running package tools, each with the id of its job.
    pub tools: Vec<(Pid, Box<str>)>,
    /// Other children that are not agents.
    pub detached: Vec<Pid>,
    /// The sockets that agents send notifications to, each with the agent.
    pub notifications: Vec<(i32, Box<str>)>,
    /// The part of the state that is in no record.
    pub state: ReexecState,
}

/// A client of the control socket.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Connection {
    /// Its number.
    pub client: u32,
    /// Its socket.
    pub fd: i32,
    /// What the client has sent of its line so far. Without it, its command would be lost, or read from the middle on.
    pub line: Vec<u8>,
    /// The part of the answer that has not been sent yet.
    pub answer: Vec<u8>,
    /// Whether its command is being carried out.
    pub waiting: bool,
    /// The command that is being carried out, unless that is the reexec itself.
    pub command: Option<Command>,
}

/// The data as text.
pub fn write(data: &ReexecData) -> String {
    let mut json = Writer::new();
    json.open('{');
    json.key("pid").number(number(data.pid));
    json.key("program").text(&data.program);
    json.key("run_dir").text(&data.run_dir);
    for (key, fd) in
        [("lock", data.lock), ("state_lock", data.state_lock), ("listener", data.listener), ("watcher", data.watcher)]
    {
        json.optional_number(key, fd.map(number));
    }
    if let Some((read, write)) = data.failures {
        json.key("failures_read").number(number(read));
        json.key("failures_write").number(number(write));
    }
    if let Some((soft, hard)) = data.nofile {
        json.key("nofile_soft").number(soft);
        json.key("nofile_hard").number(hard);
    }
    json.key("last_client").number(u64::from(data.last_client));
    json.key("connections").open('[');
    for connection in &data.connections {
        json.open('{');
        json.key("client").number(u64::from(connection.client));
        json.key("fd").number(number(connection.fd));
        json.key("line").text(&bytes_to_text(&connection.line));
        json.key("answer").text(&bytes_to_text(&connection.answer));
        json.key("waiting").boolean(connection.waiting);
        if let Some(command) = &connection.command {
            json.key("command").raw(write_command(command).trim_end());
        }
        json.close('}');
    }
    json.close(']');
    json.key("tools").open('[');
    for (pid, job) in &data.tools {
        json.open('{');
        json.key("pid").number(number(pid.raw()));
        json.key("job").text(job);
        json.close('}');
    }
    json.close(']');
    json.key("errands").open('[');
    for pid in &data.detached {
        json.number(number(pid.raw()));
    }
    json.close(']');
    json.key("notifications").open('[');
    for (fd, name) in &data.notifications {
        json.open('{');
        json.key("fd").number(number(*fd));
        json.key("name").text(name);
        json.close('}');
    }
    json.close(']');
    put_state(&mut json, &data.state);
    json.close('}');
    json.finish()
}

fn put_state(json: &mut Writer, state: &ReexecState) {
    json.key("began").number(state.began.0);
    let times = &state.times;
    for (key, value) in [
        ("status_at", times.status.0),
        ("results_at", times.results.0),
        ("again", times.extra_again),
        ("heard", times.heard),
    ] {
        json.key(key).number(value.0);
    }
    json.key("status_failures").number(u64::from(times.status.1));
    json.key("results_failures").number(u64::from(times.results.1));
    json.optional_number("extra", times.extra.map(|at| at.0));
    json.optional_number("until", state.until.map(|at| at.0));
    json.key("server").text(&times.server);
    json.key("held").open('[');
    for (server, until) in &times.held {
        json.open('{');
        json.key("server").text(server);
        json.key("until").number(until.0);
        json.close('}');
    }
    json.close(']');
    json.key("peers").open('[');
    for (server, peer) in &times.peers {
        json.open('{');
        json.key("server").text(server);
        json.optional_number("first", peer.first);
        json.key("failed").open('[');
        peer.failed.iter().for_each(|address| json.number(*address));
        json.close(']');
        json.key("unreadable").boolean(peer.unreadable);
        json.close('}');
    }
    json.close(']');
    json.key("incidents").open('[');
    for incident in &state.incidents {
        json.open('{');
        json.key("timestamp").number(incident.timestamp);
        json.key("name").text(&incident.name);
        json.key("message").text(&incident.message);
        json.close('}');
    }
    json.close(']');
    json.key("dropped_incidents").number(state.dropped_incidents);
    json.key("interrupted").boolean(state.interrupted);
    json.key("clients").open('[');
    for client in &state.clients {
        json.number(u64::from(client.0));
    }
    json.close(']');
    json.optional_text("job", state.job.as_deref());
}

/// Reads what `write` wrote.
///
/// # Errors
/// What is wrong with the text.
pub fn read(text: &str) -> Result<ReexecData, Error> {
    json::read(text, take)
}

fn take(mut fields: Fields<'_, '_>) -> Option<ReexecData> {
    let failures = (whole(&mut fields, "failures_read"), whole(&mut fields, "failures_write"));
    let nofile = (fields.count("nofile_soft"), fields.count("nofile_hard"));
    Some(ReexecData {
        pid: whole(&mut fields, "pid").unwrap_or(0),
        program: fields.string("program").into(),
        run_dir: fields.string("run_dir").into(),
        lock: whole(&mut fields, "lock"),
        state_lock: whole(&mut fields, "state_lock"),
        listener: whole(&mut fields, "listener"),
        failures: failures.0.zip(failures.1),
        watcher: whole(&mut fields, "watcher"),
        nofile: nofile.0.zip(nofile.1),
        last_client: fields.count("last_client").unwrap_or(0) as u32,
        connections: each(&mut fields, "connections", take_connection),
        tools: each(&mut fields, "tools", |mut fields| {
            Some((whole(&mut fields, "pid").and_then(Pid::new)?, fields.text("job")?.into()))
        }),
        notifications: each(&mut fields, "notifications", |mut fields| {
            Some((whole(&mut fields, "fd")?, fields.text("name")?.into()))
        }),
        detached: numbers(&mut fields, "errands").filter_map(|pid| Pid::new(i32::try_from(pid).ok()?)).collect(),
        state: take_state(&mut fields),
    })
}

fn take_connection(mut fields: Fields<'_, '_>) -> Option<Connection> {
    let command = fields.get("command").and_then(|command| read_command(json::write(command).as_bytes()).ok());
    Some(Connection {
        client: fields.count("client")? as u32,
        fd: whole(&mut fields, "fd")?,
        line: bytes(&mut fields, "line"),
        answer: bytes(&mut fields, "answer"),
        waiting: fields.is_true("waiting"),
        command,
    })
}

fn take_state(fields: &mut Fields<'_, '_>) -> ReexecState {
    let mut time = |key| fields.count(key).map(Time);
    let (status, results) = (time("status_at").unwrap_or_default(), time("results_at").unwrap_or_default());
    let (began, extra_again) = (time("began").unwrap_or_default(), time("again").unwrap_or_default());
    let (extra, until) = (time("extra"), time("until"));
    let heard = time("heard").unwrap_or(began);
    ReexecState {
        began,
        times: Times {
            status: (status, fields.count("status_failures").unwrap_or(0) as u32),
            results: (results, fields.count("results_failures").unwrap_or(0) as u32),
            extra,
            extra_again,
            server: fields.string("server"),
            held: each(fields, "held", |mut fields| {
                Some((fields.text("server")?.into(), Time(fields.count("until")?)))
            }),
            peers: each(fields, "peers", |mut fields| {
                let server = fields.text("server")?.into();
                let first = fields.count("first");
                let failed = numbers(&mut fields, "failed").collect();
                Some((server, Peer { first, failed, unreadable: fields.is_true("unreadable") }))
            }),
            heard,
        },
        incidents: each(fields, "incidents", |mut fields| {
            Some(Incident {
                timestamp: fields.count("timestamp").unwrap_or(0),
                name: fields.string("name").into(),
                message: fields.string("message"),
            })
        }),
        dropped_incidents: fields.count("dropped_incidents").unwrap_or(0),
        interrupted: fields.is_true("interrupted"),
        clients: numbers(fields, "clients").filter_map(|client| u32::try_from(client).ok().map(Client)).collect(),
        job: fields.text("job").map(Into::into),
        until,
    }
}

/// Reads each object of an array with `take`; those without a value are left out.
fn each<T>(fields: &mut Fields<'_, '_>, key: &'static str, take: fn(Fields<'_, '_>) -> Option<T>) -> Vec<T> {
    let mut taken = Vec::new();
    fields.each(key, &mut |element| taken.extend(take(element)));
    taken
}

/// The whole numbers of an array.
fn numbers<'v>(fields: &mut Fields<'v, '_>, key: &'static str) -> impl Iterator<Item = u64> + 'v {
    fields.get(key).and_then(json::array).unwrap_or_default().iter().filter_map(json::integer)
}

fn whole(fields: &mut Fields<'_, '_>, key: &'static str) -> Option<i32> {
    fields.integer(key, 0, i32::MAX as u64).map(|number| number as i32)
}

fn number(number: i32) -> u64 {
    u64::from(number.unsigned_abs())
}

/// Any bytes as text, as what has been read or is still to be written may begin or end within a character: each byte becomes
/// the character with its number.
fn bytes_to_text(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

fn bytes(fields: &mut Fields<'_, '_>, key: &'static str) -> Vec<u8> {
    match fields.get(key) {
        Some(Value::String(text)) => text.chars().map(|c| u8::try_from(c).unwrap_or(b'?')).collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pid(raw: i32) -> Pid {
        Pid::new(raw).unwrap()
    }

    #[test]
    fn everything_survives_write_and_read() {
        let full = ReexecData {
            pid: 77,
            program: "/usr/sbin/boot\"agent".into(),
            run_dir: "/run/ä".into(),
            lock: Some(3),
            state_lock: Some(8),
            listener: Some(4),
            failures: Some((5, 6)),
            watcher: Some(7),
            notifications: vec![(12, "web".into())],
            nofile: Some((1024, u64::MAX)),
            last_client: u32::MAX,
            connections: vec![
                Connection {
                    client: 1,
                    fd: 9,
                    waiting: true,
                    command: Some(Command::Start("web".into())),
                    ..Default::default()
                },
                Connection { client: 2, fd: 10, line: b"{\"com\xff\x01\x00".to_vec(), ..Default::default() },
                Connection { client: 3, fd: 11, answer: "caf\u{e9}\n".as_bytes()[4..].to_vec(), ..Default::default() },
            ],
            tools: vec![(pid(100), ".reexec".into())],
            detached: vec![pid(101), pid(102)],
            state: ReexecState {
                began: Time(u64::MAX),
                times: Times {
                    status: (Time(1), 2),
                    results: (Time(3), 4),
                    extra: Some(Time(5)),
                    extra_again: Time(6),
                    server: "http://a:1".into(),
                    held: vec![("http://b:1".into(), Time(7))],
                    peers: vec![(
                        "http://c:1".into(),
                        Peer { first: Some(12), failed: vec![u64::MAX, 13], unreadable: true },
                    )],
                    heard: Time(11),
                },
                incidents: vec![Incident { timestamp: 8, name: "web".into(), message: "said \"x\"".into() }],
                dropped_incidents: 9,
                interrupted: true,
                clients: vec![Client(4), Client(5)],
                job: Some("j1".into()),
                until: Some(Time(10)),
            },
        };
        for data in [full, ReexecData::default()] {
            assert_eq!(read(&write(&data)), Ok(data));
        }
    }

    #[test]
    fn data_of_another_version_is_read_as_far_as_possible() {
        let some =
            read("{\"pid\": 5, \"later\": [1], \"connections\": [{\"client\": 1}], \"errands\": [0, 2]}").unwrap();
        assert_eq!(some, ReexecData { pid: 5, detached: vec![pid(2)], ..ReexecData::default() });
        for bad in ["", "[]", "{\"pid\": 5", "{\"pid\": \"x\"}"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
