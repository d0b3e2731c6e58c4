//! The schema, in numbered steps: each is applied once, in order, in one transaction with its number.

use super::{sqlite, Error};
use rusqlite::Connection;

const STEPS: [&str; 8] = [
    include_str!("sql/001.sql"),
    include_str!("sql/002.sql"),
    include_str!("sql/003.sql"),
    include_str!("sql/004.sql"),
    include_str!("sql/005.sql"),
    include_str!("sql/006.sql"),
    include_str!("sql/007.sql"),
    include_str!("sql/008.sql"),
];

/// The version of the schema that this server needs.
pub const WANTED: i64 = STEPS.len() as i64;

/// The version of the schema that is there.
///
/// # Errors
/// What SQLite says.
pub fn found(connection: &Connection) -> Result<i64, Error> {
    connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(|error| Error::Engine(error.to_string()))
}

/// Applies the steps that are missing, and says so.
///
/// # Errors
/// What SQLite says, or that the database is of a newer server.
pub fn migrate(connection: &Connection, say: impl Fn(&str)) -> Result<(), Error> {
    let found = found(connection)?;
    if found > WANTED {
        return Err(Error::Engine(format!("the schema is {found}, of a newer bootserver; this one knows {WANTED}")));
    }
    for (place, sql) in STEPS.iter().enumerate().skip(usize::try_from(found).unwrap_or(0)) {
        let number = place + 1;
        say(&format!("database: applying schema {number} of {WANTED}"));
        sqlite::transact(connection, |_| {
            let sql = format!("{sql};\nPRAGMA user_version = {number}");
            connection.execute_batch(&sql).map_err(|error| Error::Engine(format!("schema {number}: {error}")))
        })?;
    }
    Ok(())
}
