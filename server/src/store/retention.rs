//! Deleting what is older than it is kept.

use super::{Error, Tx};
use crate::args;
use crate::model::retention::Kept;

/// Deletes what is from before a time, so many rows at most. Tells how many they were.
///
/// # Errors
/// What the engine says.
pub fn forget(tx: &mut dyn Tx, kept: Kept, since: i64, rows: i64) -> Result<i64, Error> {
    let sql = match kept {
        Kept::Events => "DELETE FROM events WHERE id IN (SELECT id FROM events WHERE received < ?1 LIMIT ?2)",
        Kept::Executions => "DELETE FROM executions WHERE id IN (SELECT id FROM executions WHERE ended < ?1 LIMIT ?2)",
        Kept::Jobs => {
            "DELETE FROM jobs WHERE id IN (SELECT id FROM jobs WHERE created < ?1 \
             AND NOT EXISTS (SELECT 1 FROM executions WHERE job = jobs.id) LIMIT ?2)"
        }
        Kept::Audit => "DELETE FROM audit WHERE id IN (SELECT id FROM audit WHERE time < ?1 LIMIT ?2)",
    };
    Ok(i64::try_from(tx.run(sql, args![since, rows])?).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{events, migrate, sqlite};

    #[test]
    fn what_is_too_old_goes_in_batches() {
        let connection = sqlite::open(std::path::Path::new(":memory:")).expect("a database");
        migrate::migrate(&connection, |_| ()).expect("the schema");
        let run = |tx: &mut dyn Tx| {
            for time in 0..7 {
                events::audit(tx, time, "a", "b", "c", ("", ""))?;
                events::note(tx, time, "host", ("sn", "web"), "text", 0)?;
            }
            let gone = [0; 4].map(|_| forget(tx, Kept::Events, 5, 2).expect("a batch"));
            let left = ["events", "audit"].map(|table| tx.number(&format!("SELECT count(*) FROM {table}"), &[]));
            Ok((gone, left.map(|count| count.expect("a count"))))
        };
        assert_eq!(sqlite::transact(&connection, run).expect("a transaction"), ([2, 2, 1, 0], [2, 7]));
    }
}
