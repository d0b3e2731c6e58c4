//! Commands that a person gives on the host over the control socket, and the answers to them.
//!
//! `wire::control` reads and writes them; `model::state` carries them out.

use crate::model::spec::Name;

/// A command that came over the control socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Show the report as it would be sent now; with a name only this agent's part.
    Status(Option<Name>),
    /// Start the agent, and keep it running from now on; answered when it has been alive for `startsecs`, or has ended
    /// before.
    Start(Name),
    /// Stop the agent, and keep it stopped from now on; answered when none of its processes is left.
    Stop(Name),
    /// Stop the agent if it runs, and start it; answered as `Start`.
    Restart(Name),
    /// Report to the servers now; answered when a server has taken the report, or none has.
    Report,
    /// Read the definitions and the key file again; answered with what has changed and with every error.
    Reread,
    /// Have the agent read its own configuration again; answered when that is done.
    Reload(Name),
    /// Show the ledger of jobs.
    Jobs,
    /// Execute the installed binary in the daemon's process; answered by the new binary.
    Reexec,
}

/// The answer to a command.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// The exit code of the client: 0 the command was done, 1 it failed, 2 it was not understood.
    pub code: u8,
    /// One sentence; empty when there is nothing to say.
    pub message: Box<str>,
    /// A JSON document for `Status` and `Jobs`; empty for the others.
    pub body: Box<str>,
}
