//! What goes into `State::step` and what comes out: everything that happens on the host is an `Event`, everything that is
//! to be done there is an `Action`.
//!
//! The daemon makes the events and performs the actions; `model::state` decides. Answers to actions come back as events.
//! Both are values: nothing here touches the host.

use std::fmt::Arguments;
use std::time::Duration;

use crate::error::Error;
use crate::kernel::{Exit, Level, Pid, Process, Sig, Time};
use crate::model::command::{Answer, Command};
use crate::model::enforcement::Enforcement;
use crate::model::job::{Job, JobId, Outcome, RejectedJob};
use crate::model::package::{Digest, Format, Tool};
use crate::model::record::{AgentRecord, Identity, JobRecord, RunRecord, Settings, StopRecord};
use crate::model::report::{Entry, Report};
use crate::model::schedule::Server;
use crate::model::spec::{Name, Spec};

/// When an event happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// The monotonic clock, which drives everything.
    pub time: Time,
    /// The wall clock, seconds since the epoch. It is only reported: no decision depends on it.
    pub wall: u64,
}

/// The number of a connection to the control socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Client(pub u32);

/// Where an agent's definition comes from; where there are several, the first of these wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// A file in `agents_dir`.
    File,
    /// A job.
    Job,
    /// The agent's package.
    Package,
}

/// A definition and its origin.
#[derive(Clone, Debug, PartialEq)]
pub struct Definition {
    /// Where it comes from.
    pub origin: Origin,
    /// The definition, with the agent's name.
    pub spec: Box<Spec>,
}

/// What an agent of `Kind::Notify` says about itself. It comes from its own processes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notification {
    /// It is ready.
    pub ready: bool,
    /// Its main process, one of its living processes.
    pub main: Option<Process>,
    /// What it is doing, a sentence for people.
    pub status: Option<Box<str>>,
}

/// Which processes of an agent a signal or a count is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All of them.
    Tree,
    /// All but those that earlier runs have left and that are spared.
    Run,
    /// The main process alone.
    Main,
}

/// What the processes of an agent use.
#[derive(Clone, Debug, PartialEq)]
pub struct Usage {
    /// The agent.
    pub name: Name,
    /// Processor time of its processes since it was started; `None` if it cannot be measured.
    pub cpu: Option<Duration>,
    /// Memory of its processes, bytes; `None` if it cannot be measured.
    pub memory: Option<u64>,
    /// How many of its processes are left by earlier runs, and spared.
    pub spared: u32,
}

/// How a download attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fetched {
    /// The whole file is on disk.
    Whole {
        /// Its digest.
        digest: Digest,
        /// A part of it is from an earlier attempt, or its size is not known: another attempt may get other bytes.
        doubtful: bool,
    },
    /// It failed, and another attempt may succeed.
    Cut {
        /// Why it failed.
        reason: Box<str>,
        /// Whether it brought any bytes.
        progress: bool,
        /// The server asked for no further request before this many seconds have passed.
        retry_after: Option<u64>,
    },
    /// It failed, and another attempt would fail too.
    Refused {
        /// Why it failed.
        reason: Box<str>,
    },
}

/// What a tool runs for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToolOwner {
    /// A job: it is a tool of the host's package management.
    Job(JobId),
    /// A reexec: the new binary is tried before the daemon executes it.
    Reexec,
    /// All agents: what the host has of their packages.
    Inventory,
}

/// The result of verifying a package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verified {
    /// It has this digest, and is signed where it must be.
    Sound(Digest),
    /// It has no signature by a trusted key, or somebody else can still change it: why it is refused.
    Hostile(Box<str>),
    /// It could not be read: why.
    Unknown(Box<str>),
}

/// What a shutdown of the daemon does with the agents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// Stop the agents, then exit.
    Stop,
    /// The same, with all that their runs have left: the machine goes down.
    Halt,
    /// Exit, and let the agents keep running.
    Leave,
}

/// A server's reply in an exchange.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// A valid reply to a status.
    Jobs {
        /// The server's error code, which is logged unless it is 0; `None`: it sent none.
        errcode: Option<i64>,
        /// Each job, or why it is rejected.
        jobs: Vec<Result<Job, RejectedJob>>,
        /// Jobs that the server wants to end, if they have not changed anything.
        cancel: Vec<JobId>,
    },
    /// The server has taken the results.
    Taken,
    /// The server replied that it has not taken the results: why.
    NotTaken(Box<str>),
    /// The server replied, and the HTTP library cannot read that; our own HTTP client may be able to. Says what is not read.
    Unreadable(Box<str>),
    /// There was no valid reply.
    Failed {
        /// Why there was none.
        reason: Box<str>,
        /// The server asked for no further request before this many seconds have passed.
        retry_after: Option<u64>,
    },
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The time of `State::deadline` has come.
    Tick,
    /// All definitions were read again.
    Definitions {
        /// Every file could be read, now or earlier: an agent that has no definition among `good` has been removed.
        whole: bool,
        /// The valid definitions, and for an invalid file the last valid one that was read from it.
        good: Vec<Definition>,
        /// What is wrong with the invalid files, one sentence each.
        problems: Vec<Box<str>>,
    },
    /// `Action::Reread` is done; `Definitions` came before, unless the directory could not be read. One
    /// sentence each.
    Reread {
        /// What is wrong besides the definitions.
        problems: Vec<Box<str>>,
        /// What only another command reads again.
        notes: Vec<Box<str>>,
    },
    /// A command came over the control socket.
    Command(Client, Command),
    /// A client closed its connection before its answer.
    Gone(Client),
    /// The daemon is to end.
    Shutdown(Shutdown),
    /// A signal asks for a reexec.
    Reexec,
    /// `Action::Reexec` failed, and the old binary still runs: why.
    NotReexeced(Box<str>),

    /// An agent's `prestart` was started.
    PrestartStarted(Name, Process),
    /// An agent's process was started.
    Started {
        /// The agent.
        name: Name,
        /// The process.
        process: Process,
        /// What enforces its limits.
        enforcement: Enforcement,
    },
    /// What enforces the limits of an agent that was taken over.
    Attached(Name, Enforcement),
    /// An agent's process could not be made, or could not execute the agent's program.
    NotStarted {
        /// The agent.
        name: Name,
        /// The step that failed, and the cause.
        reason: Box<str>,
    },
    /// The host had too few processes, descriptors or too little memory to start an agent, which is not the agent's fault.
    ResourceExhausted {
        /// The agent.
        name: Name,
        /// The step that failed, and the cause.
        reason: Box<str>,
    },
    /// An agent reached its memory limit, and the kernel could reclaim nothing: the kernel's words. The main process may
    /// still be alive.
    OutOfMemory(Name, Box<str>),
    /// An agent has said something about itself.
    Notified(Name, Notification),
    /// The main process of an agent (or the starter of a forking one, or its `prestart`) ended.
    Exited {
        /// The agent.
        name: Name,
        /// The id that the process had.
        pid: Pid,
        /// How it ended.
        exit: Exit,
        /// The kernel has killed a process of the agent at its memory limit: the kernel's words.
        oom: Option<Box<str>>,
        /// The last lines of its output.
        tail: Box<str>,
    },
    /// The answer to `Action::FindMain`.
    MainProcess {
        /// The agent.
        name: Name,
        /// Its main process, if one is sure to be it.
        found: Option<Process>,
        /// How many processes of it are alive.
        left: u32,
    },
    /// The answer to `Action::CountProcesses`: how many processes of an agent are left.
    ProcessCount(Name, u32),
    /// A process of the agent got no signal, and why.
    Refused {
        /// The agent.
        name: Name,
        /// A clause for people.
        reason: Box<str>,
    },
    /// A process that is no agent's main process was reaped, or it became known which agent a process belongs to. An agent may
    /// have more processes now, or none.
    ProcessesChanged,
    /// The answer to `Action::Measure`.
    Measured(Vec<Usage>),
    /// The program that has an agent read its configuration again ended: how, and the last lines of the agent's output.
    ReloadEnded(Name, Exit, Box<str>),
    /// An agent's health check ended: how, and the last lines of its output.
    Checked(Name, Exit, Box<str>),
    /// The host had too few processes or too little memory for an agent's health check, and why.
    NotChecked(Name, Box<str>),

    /// The exchange that is under way has reached this address of the server, a number; its answer is the next event.
    Reached(u64),
    /// The answer to `Action::Exchange`.
    Replied(Reply),
    /// The answer to `Action::SaveJob`; the error says why the record is not on disk.
    Saved(JobId, Result<(), Error>),
    /// The answer to `Action::Fetch`.
    Fetched(JobId, Fetched),
    /// The answer to `Action::Tool`.
    ToolDone {
        /// What it ran for.
        owner: ToolOwner,
        /// How it ended.
        exit: Exit,
        /// The beginning and the last lines of its output.
        output: Box<str>,
    },
    /// The answer to `Action::Verify`.
    Verified(JobId, Verified),
    /// The answer to `Action::Unpack`.
    Unpacked(JobId, Result<(), Error>),
    /// The answer to `Action::PlacePackage`, `Action::Rename`, `Action::Link` and `Action::Replace`.
    Placed(JobId, Result<(), Error>),
    /// The answer to `Action::Inspect`: the package's own definition, if it has one.
    Inspected(JobId, Result<Option<Box<Spec>>, Error>),
    /// The answer to `Action::LookAtPackages`, which also comes at the start and with each check.
    PackagesSeen {
        /// A hash of when the databases of package managers were changed, and of `tars`.
        changes: u64,
        /// The agents that came in a tar, and whether the directory of that is there.
        tars: Vec<(Name, bool)>,
    },
}

/// The content of a request to a server.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// `POST /agent/status`.
    Status(Box<Report>),
    /// `POST /agent/job/result`.
    Results(Vec<(JobId, Outcome)>),
}

/// Something to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Write a line to the log.
    Log(Level, String),
    /// Read all definitions again; `Event::Definitions` answers.
    RereadDefinitions,
    /// Read all definitions again, and all else that a running daemon can read again; `Event::Reread` answers.
    Reread,
    /// Answer a client, and close its connection.
    Answer(Client, Answer),
    /// Answer a client whose command for this agent is done; if the agent's record could not be written, the answer says so
    /// too.
    AnswerSettled(Client, Name, Answer),
    /// Answer a client with a report.
    AnswerReport(Client, Box<Report>),
    /// Answer a client with the ledger: these entries, and those of jobs whose results the server has taken, from their
    /// records.
    AnswerJobs(Client, Vec<Entry>),
    /// Execute this binary in the daemon's process. With a time the new binary is on trial until then: a watcher executes
    /// the installed one again if the new one ends before it has proved itself, or has not proved itself by then.
    Reexec(Box<str>, Option<Time>),
    /// End the daemon with this exit code.
    Quit(u8),

    /// Start an agent's `prestart`; its start follows.
    StartPrestart(Name),
    /// Start an agent's process from its definition (`State::spec`).
    Start(Name),
    /// Find the main process of a forking agent whose starter has ended.
    FindMain(Name),
    /// The main process of an agent is another one of its processes now.
    FollowMain(Name, Process),
    /// Send a signal to these processes of an agent.
    Signal(Name, Scope, Sig),
    /// Count the processes of an agent.
    CountProcesses {
        /// The agent.
        name: Name,
        /// Which of them.
        scope: Scope,
        /// The agent is going down: its control group may be removed with its last process.
        last: bool,
    },
    /// No process of an agent is left: remove its control groups.
    Release(Name),
    /// An agent is down, and what its run has started is left alone: its control groups stay while a process is in them.
    Spare(Name),
    /// Measure the processor time and the memory of every running agent.
    Measure,
    /// Run an agent's health check.
    Check(Name),
    /// Kill an agent's health check.
    KillCheck(Name),

    /// Run the program that has an agent read its configuration again.
    Reload(Name),
    /// Kill that program.
    KillReload(Name),

    /// Send a message to a server.
    Exchange(Server, Message),
    /// Download a job's package to its download file, resuming at the size that the file has.
    Fetch(JobId),
    /// Stop a download attempt.
    StopFetch(JobId),
    /// Remove a job's download file.
    RemoveDownload(JobId),
    /// Run a tool.
    Tool(ToolOwner, Tool),
    /// Kill a tool and all processes that it started.
    KillTool(ToolOwner),
    /// Move the job's download, which has been verified, to `packages/NAME/FILE`, unless it is there already.
    PlacePackage(JobId, Name, Box<str>),
    /// Verify the job's download, or `packages/NAME/FILE` if it was moved already: that nobody else can write to it any
    /// more, its digest and, with trusted keys, that the job's signature is by one of them, over this file, and about the
    /// job's name and version.
    Verify(JobId, Name, Box<str>),
    /// Unpack `packages/NAME/FILE` into the new directory `packages/NAME/DIR`.
    Unpack {
        /// The job.
        job: JobId,
        /// The agent.
        name: Name,
        /// The file below `packages/NAME/`.
        file: Box<str>,
        /// The directory below `packages/NAME/`.
        dir: Box<str>,
        /// The format of the file.
        format: Format,
    },
    /// Rename a directory below `packages/NAME/`, replacing what may have the new name.
    Rename {
        /// The job.
        job: JobId,
        /// The agent.
        name: Name,
        /// The old name.
        from: Box<str>,
        /// The new name.
        to: Box<str>,
    },
    /// Read a definition: this text if there is one, else the package's own from `packages/NAME/DIR`, or from
    /// `/usr/lib/bootagent` if `dir` is empty.
    Inspect {
        /// The job.
        job: JobId,
        /// The agent.
        name: Name,
        /// The directory below `packages/NAME/`.
        dir: Box<str>,
        /// The definition of the job, if it has one.
        text: Option<Box<str>>,
    },
    /// Replace the installed binary of the daemon with this one, which has proved itself.
    Replace(JobId, Box<str>),
    /// Let `packages/NAME/current` point to `DIR`.
    Link(JobId, Name, Box<str>),
    /// Remove these files and directories below `packages/NAME/`; the whole directory if the list is empty.
    RemovePackage(Name, Vec<Box<str>>),
    /// Look whether somebody has changed the agents' packages; `Event::PackagesSeen` answers.
    LookAtPackages,

    /// Write a job's record; `Event::Saved` answers.
    SaveJob(Box<JobRecord>),
    /// Give the record of a job that has ended another `seq`, so that it is kept as long as a newer one.
    TouchJob(JobId, u64),
    /// Remove a job's record.
    RemoveJob(JobId),
    /// Write an agent's record.
    SaveAgent(Box<AgentRecord>),
    /// Remove an agent's records.
    RemoveAgent(Name),
    /// Remove the output of an agent whose install was undone.
    RemoveOutput(Name),
    /// Write the settings that a server gave.
    SaveSettings(Settings),
    /// Write the host's identity.
    SaveIdentity(Identity),
    /// Write an agent's run record, which counts for this boot only.
    SaveRun(Box<RunRecord>),
    /// Record that all agents are being stopped, as the daemon shuts down.
    SaveStop(StopRecord),
}

/// Adds an action that writes a line to the log.
pub fn log(out: &mut Vec<Action>, level: Level, text: Arguments) {
    out.push(Action::Log(level, text.to_string()));
}

/// Adds an action that answers a client without a document.
pub fn answer(out: &mut Vec<Action>, client: Client, code: u8, message: Arguments) {
    out.push(Action::Answer(client, Answer { code, message: message.to_string().into(), body: "".into() }));
}
