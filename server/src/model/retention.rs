//! How long what happened is kept. It is deleted in small batches, so that reports come in between.

/// What is deleted when it is old.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// Events of hosts.
    Events,
    /// Executions that have ended.
    Executions,
    /// Jobs that have no execution any more.
    Jobs,
    /// The audit trail.
    Audit,
}

impl Kept {
    /// In this order: jobs go after their executions.
    pub const ALL: [Kept; 4] = [Kept::Events, Kept::Executions, Kept::Jobs, Kept::Audit];

    /// For how many days.
    pub fn days(self) -> i64 {
        match self {
            Kept::Events => 30,
            Kept::Executions | Kept::Jobs => 180,
            Kept::Audit => 400,
        }
    }

    /// What is from before this time is deleted.
    pub fn since(self, now: i64) -> i64 {
        now - self.days() * 86_400
    }
}

/// Rows that one transaction deletes.
pub const BATCH: i64 = 500;
/// Batches of each kind in one round. With a round each half a minute, that is more than a large fleet writes.
pub const BATCHES: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_its_days() {
        let now = 1_000 * 86_400;
        let days = Kept::ALL.map(|kept| (now - kept.since(now)) / 86_400);
        assert_eq!(days, [30, 180, 180, 400]);
    }
}
