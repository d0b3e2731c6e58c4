//! SQLite: one thread writes and commits in groups; readers see what was committed.

use super::{EachRow, Engine, Error, Row, Tx, Value, Work};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, ToSql};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{sync_channel, Receiver, SyncSender, TrySendError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Work that may wait; more is told to come back later.
const QUEUE: usize = 4000;
/// A group is committed when it has so many, or is so old.
const GROUP: usize = 200;
const GROUP_AGE: Duration = Duration::from_millis(5);
/// Connections for what hosts wait for, and as many for lists, which may take longer.
pub const READERS: usize = 2;

type Counts = Arc<[AtomicU64; 3]>;

/// The engine; dropped, it finishes what waits.
pub struct Sqlite {
    path: PathBuf,
    queue: Option<SyncSender<Box<dyn Work>>>,
    readers: Vec<Mutex<Connection>>,
    next_reader: AtomicU64,
    counts: Counts,
    writer: Option<std::thread::JoinHandle<()>>,
}

/// Opens a database to write to.
///
/// # Errors
/// What SQLite says.
pub fn open(path: &Path) -> Result<Connection, Error> {
    let connection = Connection::open(path).map_err(|error| Error::Engine(format!("{}: {error}", path.display())))?;
    let set = || -> rusqlite::Result<()> {
        connection.busy_timeout(Duration::from_secs(10))?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "cache_size", -65_536)?;
        connection.set_prepared_statement_cache_capacity(64);
        Ok(())
    };
    set().map_err(|error| Error::Engine(format!("{}: {error}", path.display())))?;
    Ok(connection)
}

/// Runs work on a connection, in a transaction of its own.
///
/// # Errors
/// What SQLite or the work says; then nothing of it is kept.
pub fn transact<T>(connection: &Connection, work: impl FnOnce(&mut dyn Tx) -> Result<T, Error>) -> Result<T, Error> {
    connection.execute_batch("BEGIN IMMEDIATE").map_err(said)?;
    let done = work(&mut Transaction(connection)).and_then(|out| {
        connection.execute_batch("COMMIT").map_err(said)?;
        Ok(out)
    });
    if done.is_err() && !connection.is_autocommit() {
        let _ = connection.execute_batch("ROLLBACK");
    }
    done
}

/// Writes what is in the log into the database, so that its one file is all of it.
///
/// # Errors
/// What SQLite says, or that somebody else reads it.
pub fn fold(connection: &Connection) -> Result<(), Error> {
    let busy = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0)).map_err(said)?;
    match busy {
        0 => Ok(()),
        _ => Err(Error::Engine("somebody else has it open".to_string())),
    }
}

impl Sqlite {
    /// Opens the database and starts the writer.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn start(path: &Path) -> Result<Sqlite, Error> {
        let connection = open(path)?;
        let mut readers = Vec::new();
        for _ in 0..2 * READERS {
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            let reader = Connection::open_with_flags(path, flags).map_err(said)?;
            reader.busy_timeout(Duration::from_secs(10)).map_err(said)?;
            reader.set_prepared_statement_cache_capacity(64);
            readers.push(Mutex::new(reader));
        }
        let (queue, waiting) = sync_channel(QUEUE);
        let counts = Counts::default();
        let counted = counts.clone();
        let writer = std::thread::Builder::new()
            .name("writer".to_string())
            .spawn(move || write_groups(&connection, &waiting, &counted))
            .map_err(|error| Error::Engine(error.to_string()))?;
        let (path, next_reader) = (path.to_path_buf(), AtomicU64::new(0));
        Ok(Sqlite { path, queue: Some(queue), readers, next_reader, counts, writer: Some(writer) })
    }

    fn read_on(
        &self,
        readers: &[Mutex<Connection>],
        work: &mut dyn FnMut(&mut dyn Tx) -> Result<(), Error>,
    ) -> Result<(), Error> {
        // One that is free, else each in turn.
        let connection = readers.iter().find_map(|reader| reader.try_lock().ok()).unwrap_or_else(|| {
            let place = self.next_reader.fetch_add(1, Ordering::Relaxed) as usize % readers.len();
            readers[place].lock().unwrap_or_else(PoisonError::into_inner)
        });
        work(&mut Transaction(&connection))
    }
}

impl Engine for Sqlite {
    fn write(&self, work: Box<dyn Work>) -> Result<(), Error> {
        match self.queue.as_ref().map(|queue| queue.try_send(work)) {
            Some(Ok(())) => Ok(()),
            Some(Err(TrySendError::Full(_))) => Err(Error::Busy),
            _ => Err(Error::Engine("the writer has ended".to_string())),
        }
    }

    fn read(&self, work: &mut dyn FnMut(&mut dyn Tx) -> Result<(), Error>) -> Result<(), Error> {
        self.read_on(&self.readers[..READERS], work)
    }

    fn read_long(&self, work: &mut dyn FnMut(&mut dyn Tx) -> Result<(), Error>) -> Result<(), Error> {
        self.read_on(&self.readers[READERS..], work)
    }

    fn backup(&self, file: &Path) -> Result<(), Error> {
        let source = Connection::open_with_flags(&self.path, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(said)?;
        let mut target = Connection::open(file).map_err(said)?;
        let backup = rusqlite::backup::Backup::new(&source, &mut target).map_err(said)?;
        // In one step, from one view of the database: with pauses it would begin anew whenever a report is stored.
        backup.run_to_completion(std::ffi::c_int::MAX, Duration::ZERO, None).map_err(said)
    }

    fn counts(&self) -> [u64; 3] {
        [0, 1, 2].map(|place| self.counts[place].load(Ordering::Relaxed))
    }
}

impl Drop for Sqlite {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

/// Takes work until every sender is gone.
fn write_groups(connection: &Connection, waiting: &Receiver<Box<dyn Work>>, counts: &Counts) {
    while let Ok(first) = waiting.recv() {
        let begun = Instant::now();
        let mut begin = connection.execute_batch("BEGIN IMMEDIATE").map_err(said);
        let mut group = Vec::new();
        let mut next = Some(first);
        while let Some(mut work) = next.take() {
            let done = begin.clone().and_then(|()| run_alone(connection, work.as_mut()));
            if begin.is_ok() && connection.is_autocommit() {
                // A full disk makes SQLite undo the whole transaction by itself. Nothing of the group is kept then.
                begin = done.clone().and(Err(Error::Engine("the transaction was undone".to_string())));
            }
            group.push((work, done));
            if group.len() < GROUP {
                next = waiting.recv_timeout(GROUP_AGE.saturating_sub(begun.elapsed())).ok();
            }
        }
        let commit = Instant::now();
        let committed = begin.and_then(|()| connection.execute_batch("COMMIT").map_err(said));
        if committed.is_err() && !connection.is_autocommit() {
            let _ = connection.execute_batch("ROLLBACK");
        }
        let spent = u64::try_from(commit.elapsed().as_micros()).unwrap_or(u64::MAX);
        for (place, more) in [group.len() as u64, 1, spent].into_iter().enumerate() {
            counts[place].fetch_add(more, Ordering::Relaxed);
        }
        for (work, done) in group {
            work.finish(done.and(committed.clone()));
        }
    }
}

/// Runs one piece of a group; its error, or its panic, undoes it alone.
fn run_alone(connection: &Connection, work: &mut dyn Work) -> Result<(), Error> {
    connection.execute_batch("SAVEPOINT work").map_err(said)?;
    let done = catch_unwind(AssertUnwindSafe(|| work.run(&mut Transaction(connection))))
        .unwrap_or_else(|_| Err(Error::Engine("a fault of the server, see its log".to_string())));
    if done.is_err() {
        connection.execute_batch("ROLLBACK TO work").map_err(said)?;
    }
    connection.execute_batch("RELEASE work").map_err(said)?;
    done
}

struct Transaction<'a>(&'a Connection);

impl Tx for Transaction<'_> {
    fn run(&mut self, sql: &str, args: &[Value]) -> Result<u64, Error> {
        let mut statement = self.0.prepare_cached(sql).map_err(said)?;
        let changed = statement.execute(rusqlite::params_from_iter(args)).map_err(said)?;
        Ok(changed as u64)
    }

    fn each(&mut self, sql: &str, args: &[Value], each: &mut EachRow) -> Result<(), Error> {
        let mut statement = self.0.prepare_cached(sql).map_err(said)?;
        let columns = statement.column_count();
        let mut rows = statement.query(rusqlite::params_from_iter(args)).map_err(said)?;
        while let Some(row) = rows.next().map_err(said)? {
            let mut values = Vec::with_capacity(columns);
            for column in 0..columns {
                values.push(match row.get_ref(column).map_err(said)? {
                    ValueRef::Integer(number) => Value::Int(number),
                    ValueRef::Text(text) => Value::Text(String::from_utf8_lossy(text).into_owned()),
                    _ => Value::Null,
                });
            }
            if each(Row(values))?.is_break() {
                break;
            }
        }
        Ok(())
    }
}

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<rusqlite::types::ToSqlOutput<'_>> {
        match self {
            Value::Null => rusqlite::types::Null.to_sql(),
            Value::Int(number) => number.to_sql(),
            Value::Text(text) => text.to_sql(),
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn said(error: rusqlite::Error) -> Error {
    Error::Engine(error.to_string())
}

#[cfg(test)]
#[path = "sqlite_tests.rs"]
mod tests;
