//! What came of a form, for the page that it was sent from.

use super::params::Params;

/// What came of a form; nothing, where the page is only looked at.
#[derive(Default)]
pub struct Sent {
    /// The fields as they were sent, where nothing was changed.
    pub fields: Params,
    /// Why nothing was changed.
    pub wrong: Option<String>,
    /// What was made.
    pub made: Option<Made>,
}

/// What was just made, with a secret that is shown this once.
pub struct Made {
    /// Its name, or what hosts name it by.
    pub name: String,
    /// What it proves itself with.
    pub secret: String,
}
