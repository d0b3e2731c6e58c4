//! A job over many hosts as a whole: it is prepared in parts, and cancelled in parts, so that reports are stored in between.

/// Where a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Its executions are being written: no host gets it yet.
    Preparing,
    /// Hosts get it. Whether it is done shows in its executions.
    Open,
    /// Somebody cancelled it, and its executions are being withdrawn: no host gets it any more.
    Cancelling,
    /// Cancelled.
    Cancelled,
}

impl State {
    /// The word for it in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Preparing => "preparing",
            State::Open => "open",
            State::Cancelling => "cancelling",
            State::Cancelled => "cancelled",
        }
    }

    /// The state of a word.
    pub fn parse(word: &str) -> State {
        match word {
            "preparing" => State::Preparing,
            "cancelling" => State::Cancelling,
            "cancelled" => State::Cancelled,
            _ => State::Open,
        }
    }

    /// Whether it was cancelled; then nothing is tried once more.
    pub fn is_cancelled(self) -> bool {
        matches!(self, State::Cancelling | State::Cancelled)
    }

    /// The word for it in JSON. `busy`: whether something can still become of it on some host.
    pub fn told(self, busy: bool) -> &'static str {
        match self {
            State::Preparing => "preparing",
            State::Open if busy => "open",
            State::Open => "done",
            State::Cancelling | State::Cancelled => "cancelled",
        }
    }
}

/// Executions that one transaction writes or withdraws. A job for no more hosts than that is given in one transaction.
pub const PART: usize = 250;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_come_back_as_they_were() {
        for state in [State::Preparing, State::Open, State::Cancelling, State::Cancelled] {
            assert_eq!(State::parse(state.as_str()), state);
        }
        assert_eq!((State::Open.told(true), State::Open.told(false)), ("open", "done"));
    }
}
