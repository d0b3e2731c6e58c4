//! Storage: an engine runs pieces of work in transactions. The tables' functions are written once, over [`Tx`], in SQL that
//! SQLite and PostgreSQL both read; an engine only binds values and commits.

pub mod events;
pub mod executions;
pub mod groups;
pub mod hosts;
pub mod jobs;
pub mod migrate;
pub mod people;
pub mod releases;
pub mod retention;
pub mod roster;
pub mod sqlite;
pub mod webhooks;

use std::fmt;
use std::ops::ControlFlow;

/// Why something was not stored or found.
#[derive(Clone, Debug)]
pub enum Error {
    /// Too much waits already: come back later.
    Busy,
    /// What the engine says.
    Engine(String),
    /// What was asked for cannot be done, said to whoever asked.
    Refused(String),
    /// What was asked for is not there, said to whoever asked.
    Missing(String),
    /// What whoever asked may not do, said to them.
    Forbidden(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Error::Busy => f.write_str("the queue of the database is full"),
            Error::Engine(text) => write!(f, "the database: {text}"),
            Error::Refused(text) | Error::Missing(text) | Error::Forbidden(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for Error {}

/// A refusal with its sentence.
///
/// # Errors
/// Always.
pub fn refused<T>(text: impl Into<String>) -> Result<T, Error> {
    Err(Error::Refused(text.into()))
}

/// Says that something is not there.
///
/// # Errors
/// Always.
pub fn missing<T>(text: impl Into<String>) -> Result<T, Error> {
    Err(Error::Missing(text.into()))
}

/// A value that is bound or found.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Nothing.
    Null,
    /// A number.
    Int(i64),
    /// Text.
    Text(String),
}

impl From<i64> for Value {
    fn from(number: i64) -> Value {
        Value::Int(number)
    }
}

impl From<bool> for Value {
    fn from(yes: bool) -> Value {
        Value::Int(i64::from(yes))
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::Text(text.to_string())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Value {
        Value::Text(text)
    }
}

impl From<&String> for Value {
    fn from(text: &String) -> Value {
        Value::Text(text.clone())
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Value {
        value.map_or(Value::Null, Into::into)
    }
}

/// Binds values of different types: `args![sn, now]`.
#[macro_export]
macro_rules! args {
    ($($value:expr),* $(,)?) => { &[$($crate::store::Value::from($value)),*] };
}

/// A row that was found, its columns by place.
#[derive(Clone, Debug)]
pub struct Row(pub Vec<Value>);

impl Row {
    /// A number; 0 where there is none.
    pub fn int(&self, column: usize) -> i64 {
        self.maybe_int(column).unwrap_or(0)
    }

    /// A number that may be missing.
    pub fn maybe_int(&self, column: usize) -> Option<i64> {
        match self.0.get(column) {
            Some(Value::Int(number)) => Some(*number),
            _ => None,
        }
    }

    /// Text; empty where there is none.
    pub fn text(&self, column: usize) -> String {
        self.maybe_text(column).unwrap_or_default()
    }

    /// Text that may be missing.
    pub fn maybe_text(&self, column: usize) -> Option<String> {
        match self.0.get(column) {
            Some(Value::Text(text)) => Some(text.clone()),
            _ => None,
        }
    }
}

/// What is done with each row of a query.
pub type EachRow<'a> = dyn FnMut(Row) -> Result<ControlFlow<()>, Error> + 'a;

/// To go on with the next row.
pub const NEXT: ControlFlow<()> = ControlFlow::Continue(());

/// A transaction. SQL names its values `?1`, `?2`.
pub trait Tx {
    /// Runs a statement and tells how many rows it changed.
    ///
    /// # Errors
    /// What the engine says.
    fn run(&mut self, sql: &str, args: &[Value]) -> Result<u64, Error>;

    /// Hands each row found to `each`, until it breaks off.
    ///
    /// # Errors
    /// What the engine or `each` says.
    fn each(&mut self, sql: &str, args: &[Value], each: &mut EachRow) -> Result<(), Error>;
}

impl dyn Tx + '_ {
    /// All rows that are found.
    ///
    /// # Errors
    /// What the engine says.
    pub fn rows(&mut self, sql: &str, args: &[Value]) -> Result<Vec<Row>, Error> {
        let mut rows = Vec::new();
        self.each(sql, args, &mut |row| {
            rows.push(row);
            Ok(NEXT)
        })?;
        Ok(rows)
    }

    /// The first row that is found.
    ///
    /// # Errors
    /// What the engine says.
    pub fn row(&mut self, sql: &str, args: &[Value]) -> Result<Option<Row>, Error> {
        Ok(self.rows(sql, args)?.into_iter().next())
    }

    /// The number in the first column of the first row; 0 without one.
    ///
    /// # Errors
    /// What the engine says.
    pub fn number(&mut self, sql: &str, args: &[Value]) -> Result<i64, Error> {
        Ok(self.row(sql, args)?.map_or(0, |row| row.int(0)))
    }
}

/// A piece of work that an engine runs in a transaction of its own or together with others.
pub trait Work: Send {
    /// Does it. An error undoes what it did, and nothing of its neighbours.
    ///
    /// # Errors
    /// Why nothing of it is to be kept.
    fn run(&mut self, tx: &mut dyn Tx) -> Result<(), Error>;
    /// Called when it is durable, or with why it is not.
    fn finish(self: Box<Self>, committed: Result<(), Error>);
}

/// An engine: SQLite today.
pub trait Engine: Send + Sync {
    /// Takes work that changes something. It is finished in the order in which it came.
    ///
    /// # Errors
    /// `Busy` when too much waits already; then `finish` is not called.
    fn write(&self, work: Box<dyn Work>) -> Result<(), Error>;
    /// Runs work that only reads, on the caller's thread, with what was committed before.
    ///
    /// # Errors
    /// What the engine or the work says.
    fn read(&self, work: &mut dyn FnMut(&mut dyn Tx) -> Result<(), Error>) -> Result<(), Error>;
    /// As `read`, for work that looks at many rows: hosts do not wait for it.
    ///
    /// # Errors
    /// What the engine or the work says.
    fn read_long(&self, work: &mut dyn FnMut(&mut dyn Tx) -> Result<(), Error>) -> Result<(), Error>;
    /// Writes a copy of everything to a file, while others go on.
    ///
    /// # Errors
    /// What the engine says.
    fn backup(&self, file: &std::path::Path) -> Result<(), Error>;
    /// How many pieces of work were committed, in how many transactions, and how long those took in microseconds.
    fn counts(&self) -> [u64; 3];
}
