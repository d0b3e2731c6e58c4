//! What one image of the daemon leaves to the next, which is executed in its place: what no record on disk holds.

use crate::kernel::Time;
use crate::model::event::Client;
use crate::model::job::JobId;
use crate::model::report::Incident;
use crate::model::schedule::Times;

/// What a state leaves to the one in the next image.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReexecState {
    /// When the first image of this process began.
    pub began: Time,
    /// When to talk, and to whom.
    pub times: Times,
    /// What the servers have not heard yet.
    pub incidents: Vec<Incident>,
    /// How many more there were.
    pub dropped_incidents: u64,
    /// An installer was killed.
    pub interrupted: bool,
    /// Clients that wait for the new image.
    pub clients: Vec<Client>,
    /// The job that ordered the new image.
    pub job: Option<JobId>,
    /// The new image is on trial: by then it must have exchanged something with a server.
    pub until: Option<Time>,
}
