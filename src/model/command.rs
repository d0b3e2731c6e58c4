//! What a person orders on the host itself, and what is answered.

use crate::model::spec::Name;

/// An order that came over the control socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// The report as it would be sent now; of one agent only, when named.
    Status(Option<Name>),
    /// Want the agent up, and start it; answered when it has been alive for `startsecs`, or has ended before.
    Start(Name),
    /// Want the agent down, and stop it; answered when nothing of it is left.
    Stop(Name),
    /// Stop the agent if it runs, and start it; answered as `Start`.
    Restart(Name),
    /// Report to the servers now; answered when one took it or none did.
    Report,
    /// The ledger of jobs.
    Jobs,
    /// Execute the binary now on disk in place of the running one; answered by the new image.
    Reexec,
}

/// What a command's client is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// The exit code of the command: 0 done, 1 it did not work, 2 usage.
    pub code: u8,
    /// One sentence; empty when there is nothing to say.
    pub message: Box<str>,
    /// A JSON document, for `Status` and `Jobs`; else empty.
    pub body: Box<str>,
}
