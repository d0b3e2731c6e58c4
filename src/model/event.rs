//! What goes into `state.step` and what comes out of it: everything that happens on the host is an `Event`, everything
//! that is done there an `Action`.

use std::fmt::Arguments;
use std::time::Duration;

use crate::error::Error;
use crate::kernel::{Exit, Level, Process, Sig, Time};
use crate::model::command::{Answer, Command};
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
    /// The wall clock, s since the epoch: only ever told, never acted on.
    pub wall: u64,
}

/// A connection to the control socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Client(pub u32);

/// Where an agent's definition comes from; an earlier one wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// A file in `agents.d`.
    File,
    /// A job.
    Job,
    /// The package itself.
    Package,
}

/// A definition and its source.
#[derive(Clone, Debug, PartialEq)]
pub struct Definition {
    /// Its source.
    pub origin: Origin,
    /// The definition, whose name says whose it is.
    pub spec: Box<Spec>,
}

/// What the tree of an agent uses.
#[derive(Clone, Debug, PartialEq)]
pub struct Usage {
    /// Whose it is.
    pub name: Name,
    /// Processor time of the tree since it was started; `None` where it cannot be known.
    pub cpu: Option<Duration>,
    /// Memory of the tree, bytes; `None` where it cannot be known.
    pub memory: Option<u64>,
}

/// How a download attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fetched {
    /// All bytes are on disk.
    Whole {
        /// What they hash to.
        digest: Digest,
        /// Some of them were there before this attempt, or nobody counted them: another attempt may bring others.
        doubtful: bool,
        /// They may have been cut short, which another attempt can make good.
        cut: bool,
    },
    /// It may work another time.
    Cut {
        /// Why it ended.
        reason: Box<str>,
        /// Whether it brought any bytes.
        progress: bool,
        /// The server asked to be left alone for so many seconds.
        retry_after: Option<u64>,
    },
    /// It will not work another time.
    Refused {
        /// Why.
        reason: Box<str>,
    },
}

/// For whom a tool runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToolOwner {
    /// A job: it is a tool of the host's package management.
    Job(JobId),
    /// A reexec: it is the binary that is to take our place, which is tried.
    Reexec,
}

/// What became of verifying a package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verified {
    /// It hashes to this, and is signed where it must be.
    Sound(Digest),
    /// It is not what a trusted key has signed, or may be changed by somebody: why.
    Hostile(Box<str>),
    /// It could not be read, and why.
    Unknown(Box<str>),
}

/// How a stop of the daemon is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// Stop the agents, then exit.
    Stop,
    /// Exit and let the agents go on.
    Leave,
}

/// What the servers' answer to an exchange was.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// A good answer to a status.
    Jobs {
        /// Logged when it is not 0; `None`: the server sent none.
        errcode: Option<i64>,
        /// Each job, or why it cannot be one.
        jobs: Vec<Result<Job, RejectedJob>>,
    },
    /// The results were taken.
    Taken,
    /// The results were answered, but not taken.
    NotTaken(Box<str>),
    /// No good answer.
    Failed {
        /// What was wrong.
        reason: Box<str>,
        /// The server asked to be left alone for so many seconds.
        retry_after: Option<u64>,
    },
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The time asked for by `State::deadline` has come, or just: look what is due.
    Tick,
    /// All definitions were read again: every good one, from every source, and a sentence for each that is not.
    Definitions {
        /// Every file could be read, or was when it was last good: what is in none is gone.
        whole: bool,
        /// The good ones, and the last good ones in place of those that are bad now.
        good: Vec<Definition>,
        /// What is wrong with the others.
        problems: Vec<Box<str>>,
    },
    /// A person orders something.
    Command(Client, Command),
    /// A client went away without waiting for its answer.
    Gone(Client),
    /// The daemon is to end.
    Shutdown(Shutdown),
    /// A signal asks for a reexec.
    Reexec,
    /// The answer to `Action::Reexec`, when this image still runs: why.
    NotReexeced(Box<str>),

    /// An agent's process was made.
    Started {
        /// Whose.
        name: Name,
        /// The process.
        process: Process,
        /// What enforces its limits; `None` without limits.
        limits_by: Option<Box<str>>,
        /// Whether its CPU limit must be polled.
        poll_cpu: bool,
        /// Whether its memory limit must be polled.
        poll_memory: bool,
    },
    /// What enforces the limits of an agent that was taken over.
    Attached {
        /// Whose.
        name: Name,
        /// As in `Started`.
        limits_by: Option<Box<str>>,
        /// As in `Started`.
        poll_cpu: bool,
        /// As in `Started`.
        poll_memory: bool,
    },
    /// An agent's process could not be made, or could not become the agent.
    NotStarted {
        /// Whose.
        name: Name,
        /// Step and cause.
        reason: Box<str>,
    },
    /// The host had no process, memory or descriptor to spare for an agent's start: not the agent's fault.
    ResourceExhausted {
        /// Whose.
        name: Name,
        /// What was lacking.
        reason: Box<str>,
    },
    /// The memory limit of an agent was hit and nothing could be reclaimed, and this is what the kernel says; its main
    /// process may be alive.
    OutOfMemory(Name, Box<str>),
    /// The main process of an agent (or the starter of a forking one) ended.
    Exited {
        /// Whose.
        name: Name,
        /// How.
        exit: Exit,
        /// The kernel killed within its memory limit, and this is what it says.
        oom: Option<Box<str>>,
        /// The last lines of its output.
        tail: Box<str>,
    },
    /// The answer to `Action::FindMain`: the process that a forking agent left behind.
    MainProcess(Name, Option<Process>),
    /// The answer to `Action::Look`: how many processes of an agent are left.
    ProcessCount(Name, u32),
    /// Some process that is nobody's main process was reaped: a tree may be empty now.
    OrphanReaped,
    /// The answer to `Action::Measure`.
    Measured(Vec<Usage>),
    /// A health check ended.
    Checked(Name, Exit, Box<str>),

    /// The answer to `Action::Exchange`.
    Replied(Reply),
    /// The answer to `Action::SaveJob`; `Err` says why it is not on disk.
    Saved(JobId, Result<(), Error>),
    /// The answer to `Action::Fetch`.
    Fetched(JobId, Fetched),
    /// The answer to `Action::Tool`.
    ToolDone {
        /// Whose.
        owner: ToolOwner,
        /// How it ended.
        exit: Exit,
        /// Its output: the beginning and the last lines.
        output: Box<str>,
    },
    /// The answer to `Action::Verify`.
    Verified(JobId, Verified),
    /// The answer to `Action::Unpack`.
    Unpacked(JobId, Result<(), Error>),
    /// The answer to `Action::Place`, `Action::Rename`, `Action::Link` and `Action::Replace`.
    Placed(JobId, Result<(), Error>),
    /// The answer to `Action::Inspect`: the package's own definition, if it has one.
    Inspected(JobId, Result<Option<Box<Spec>>, Error>),
}

/// A request body's content.
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
    /// Read all definitions again, and say so with `Event::Definitions`.
    Reload,
    /// Answer a client and close its connection.
    Answer(Client, Answer),
    /// The same where an agent is as the client wants it, saying so if that is not recorded.
    AnswerSettled(Client, Name, Answer),
    /// Answer a client with a report.
    AnswerReport(Client, Box<Report>),
    /// Answer a client with the ledger: these entries, and those of the taken jobs from their records.
    AnswerJobs(Client, Vec<Entry>),
    /// Execute a binary in the place of this image. With a time it is on trial: a watcher sees to it that the installed one
    /// runs again, should it end or still be on trial then.
    Reexec(Box<str>, Option<Time>),
    /// End the daemon with this exit code.
    Quit(u8),

    /// Make an agent's process from its definition (`State::spec`).
    Start(Name),
    /// Find what a forking agent's starter left behind.
    FindMain(Name),
    /// Send a signal to every process of an agent.
    Signal(Name, Sig),
    /// Count the processes of an agent.
    CountProcesses {
        /// Whose.
        name: Name,
        /// Nothing of it is to follow: its control group may go with its last process.
        last: bool,
    },
    /// Nothing of an agent is left: remove its control groups.
    Release(Name),
    /// Measure what every running agent uses.
    Measure,
    /// Run an agent's health check.
    Check(Name),
    /// Kill an agent's health check.
    KillCheck(Name),

    /// Send something to a server.
    Exchange(Server, Message),
    /// Fetch a package to the job's download file, from where it is.
    Fetch(JobId),
    /// End a download attempt.
    StopFetch(JobId),
    /// Remove a job's download file.
    RemoveDownload(JobId),
    /// Run a tool.
    Tool(ToolOwner, Tool),
    /// Kill a tool with all it started.
    KillTool(ToolOwner),
    /// Move the job's download, which has been verified, to `packages/NAME/FILE`; nothing to do where it is there already.
    PlacePackage(JobId, Name, Box<str>),
    /// Verify the job's download, or `packages/NAME/FILE` where that was moved already: that nobody can write to it any more,
    /// its digest and, where there are trusted keys, that the job's signature is by one of them, over it, and about the job's
    /// name and version.
    Verify(JobId, Name, Box<str>),
    /// Unpack `packages/NAME/FILE` into the new directory `packages/NAME/DIR`.
    Unpack {
        /// For whom.
        job: JobId,
        /// Whose package.
        name: Name,
        /// The file below `packages/NAME/`.
        file: Box<str>,
        /// The directory below `packages/NAME/`.
        dir: Box<str>,
        /// Its format.
        format: Format,
    },
    /// Give a directory below `packages/NAME/` another name, in place of what may have that name.
    Rename {
        /// For whom.
        job: JobId,
        /// Whose package.
        name: Name,
        /// The name it has.
        from: Box<str>,
        /// The name it gets.
        to: Box<str>,
    },
    /// Read a definition: this text, else the package's own, in `packages/NAME/DIR`, or in `/usr/lib/bootagent` where
    /// `dir` is empty.
    Inspect {
        /// For whom.
        job: JobId,
        /// Whose definition.
        name: Name,
        /// The directory below `packages/NAME/`.
        dir: Box<str>,
        /// A definition that a job gave.
        text: Option<Box<str>>,
    },
    /// Put this binary in the place of the installed one: it is no longer on trial.
    Replace(JobId, Box<str>),
    /// Let `packages/NAME/current` point to `DIR`.
    Link(JobId, Name, Box<str>),
    /// Remove these files and directories below `packages/NAME/`; all of it, where the list is empty.
    RemovePackage(Name, Vec<Box<str>>),

    /// Write a job's record, and say so with `Event::Saved`.
    SaveJob(Box<JobRecord>),
    /// Give the record of a job that is over another `seq`.
    TouchJob(JobId, u64),
    /// Remove a job's record.
    RemoveJob(JobId),
    /// Write an agent's record.
    SaveAgent(Box<AgentRecord>),
    /// Remove an agent's records.
    RemoveAgent(Name),
    /// Write the settings a server gave.
    SaveSettings(Settings),
    /// Write the host's identity.
    SaveIdentity(Identity),
    /// Write what matters to this boot about an agent.
    SaveRun(Box<RunRecord>),
    /// Note that all agents are being ended.
    SaveStop(StopRecord),
}

/// Has a line written to the log. What `format_args!` makes is made a text here, once for all who log.
pub fn log(out: &mut Vec<Action>, level: Level, text: Arguments) {
    out.push(Action::Log(level, text.to_string()));
}

/// Has a client answered that asked for no document.
pub fn answer(out: &mut Vec<Action>, client: Client, code: u8, message: Arguments) {
    out.push(Action::Answer(client, Answer { code, message: message.to_string().into(), body: "".into() }));
}
