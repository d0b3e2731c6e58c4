//! The part of the daemon's state that no record on disk has, and that a reexec hands over to the new binary.
//!
//! `model::state` makes it before a reexec and takes it after; `wire::reexec_data` turns it into text and back.

use crate::kernel::Time;
use crate::model::event::Client;
use crate::model::job::JobId;
use crate::model::report::Incident;
use crate::model::schedule::Times;

/// The state that a reexec hands over.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReexecState {
    /// When the daemon's process was started.
    pub began: Time,
    /// When exchanges with servers are due.
    pub times: Times,
    /// The incidents that were not reported to a server yet.
    pub incidents: Vec<Incident>,
    /// How many more incidents there were than could be kept.
    pub dropped_incidents: u64,
    /// An installer was killed, so that the package database may need a repair.
    pub interrupted: bool,
    /// The clients that wait for the new binary's answer.
    pub clients: Vec<Client>,
    /// The job that ordered the reexec.
    pub job: Option<JobId>,
    /// The new binary is on trial: until this time it must have exchanged a message with a server.
    pub until: Option<Time>,
}
