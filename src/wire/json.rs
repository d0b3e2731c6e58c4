//! JSON, strict as RFC 8259 has it: texts become values or say where they break it, and values become what they mean.
//!
//! `parse` adds three rules: no key twice in one object, no half surrogate pairs, no nesting over a given depth.
//! Objects are read with `Fields`, which says what is wrong with its path.

use std::fmt;
use std::time::Duration;

use crate::error::Error;
pub use fields::{fault, join, Fields};
pub use miniserde::json::{Array, Number, Object, Value};
use scan::{scan, ScanError};

mod fields;
mod scan;

/// The deepest nesting of any text that is read.
pub const MAX_DEPTH: usize = 64;

/// The key of what is wrong with an object that `parse_reply` found spoiled.
pub const SPOILED: &str = "\0";

/// The longest time that is taken for meant: ten years, in seconds.
pub const MAX_SECONDS: f64 = 315_360_000.0;

/// The first place where a text is not JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyntaxError {
    /// Counted from 1.
    pub line: u32,
    /// In characters, counted from 1.
    pub column: u32,
    /// What was expected or is wrong there.
    pub message: Box<str>,
}

impl fmt::Display for SyntaxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.line, self.column, self.message)
    }
}

/// Reads a whole text as one value, nested at most `max_depth` deep.
///
/// # Errors
/// The first place that is wrong.
pub fn parse(text: &str, max_depth: usize) -> Result<Value, SyntaxError> {
    scan(text, max_depth, false).map_err(|fail| fail.place(text))
}

/// As `parse`, of bytes that should be UTF-8.
///
/// # Errors
/// The first place that is wrong, be it JSON or UTF-8.
pub fn parse_bytes(bytes: &[u8], max_depth: usize) -> Result<Value, SyntaxError> {
    read_bytes(bytes, max_depth, false)
}

/// Reads the bytes of a server's reply. A key that comes twice within one of its jobs spoils that job only: the job gets the
/// member `SPOILED`, which says where.
///
/// # Errors
/// As `parse_bytes`.
pub fn parse_reply(bytes: &[u8], max_depth: usize) -> Result<Value, SyntaxError> {
    read_bytes(bytes, max_depth, true)
}

fn read_bytes(bytes: &[u8], max_depth: usize, forgiving: bool) -> Result<Value, SyntaxError> {
    let scan = |text| scan(text, max_depth, forgiving);
    let valid = match std::str::from_utf8(bytes) {
        Ok(text) => return scan(text).map_err(|fail| fail.place(text)),
        Err(error) => std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default(),
    };
    let fail = match scan(valid) {
        Err(fail) if fail.at < valid.len() => fail,
        _ => Box::new(ScanError { at: valid.len(), message: "not UTF-8".into() }),
    };
    Err(fail.place(valid))
}

/// What `take` makes of a whole text, unless it finds a fault in it.
///
/// # Errors
/// The first place that is no JSON, or all faults.
pub fn read<T>(text: &str, take: fn(&Value, &mut Vec<String>) -> Option<T>) -> Result<T, Error> {
    let mut taken = None;
    read_sound(text, &mut |value, faults| taken = take(value, faults))?;
    taken.ok_or_else(|| "says nothing".into())
}

/// `read` of any kind, so that there is this code once.
fn read_sound(text: &str, take: &mut dyn FnMut(&Value, &mut Vec<String>)) -> Result<(), Error> {
    let value = parse(text, MAX_DEPTH).map_err(|syntax| syntax.to_string())?;
    let mut faults = Vec::new();
    take(&value, &mut faults);
    match faults.is_empty() {
        true => Ok(()),
        false => Err(faults.join("; ").into()),
    }
}

/// The value as compact JSON text.
pub fn write(value: &Value) -> String {
    miniserde::json::to_string(value)
}

/// The value in an error message: short, an array or object only by its kind.
pub fn show(value: &Value) -> String {
    const MAX: usize = 60;
    let text = match value {
        Value::Array(array) if !array.is_empty() => return "an array".to_string(),
        Value::Object(object) if !object.is_empty() => return "an object".to_string(),
        other => write(other),
    };
    // JSON lets DEL and what follows it stand as they are, and terminals take some of that for orders.
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    match text.char_indices().nth(MAX) {
        Some((cut, _)) => [&text[..cut], "...\""].concat(),
        None => text,
    }
}

/// The text of a string without NUL, which no C string can hold.
pub fn text(value: &Value) -> Option<&str> {
    match value {
        Value::String(text) if !text.contains('\0') => Some(text),
        _ => None,
    }
}

/// An integer of 0 or more, also when written as `3.0`.
pub fn integer(value: &Value) -> Option<u64> {
    match value {
        Value::Number(Number::U64(number)) => Some(*number),
        Value::Number(Number::I64(number)) => u64::try_from(*number).ok(),
        // Beyond 2^53 a float no longer says which integer was meant.
        Value::Number(Number::F64(number)) if (0.0..9e15).contains(number) && *number as u64 as f64 == *number => {
            Some(*number as u64)
        }
        _ => None,
    }
}

/// Any number.
pub fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(Number::U64(number)) => Some(*number as f64),
        Value::Number(Number::I64(number)) => Some(*number as f64),
        Value::Number(Number::F64(number)) => Some(*number),
        _ => None,
    }
}

/// A time in seconds, fractions allowed, of 0 up to ten years.
pub fn seconds(value: &Value) -> Option<Duration> {
    number(value).filter(|seconds| (0.0..=MAX_SECONDS).contains(seconds)).map(Duration::from_secs_f64)
}

/// `true` or `false`.
pub fn flag(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(flag) => Some(*flag),
        _ => None,
    }
}

/// The elements of an array.
pub fn array(value: &Value) -> Option<&[Value]> {
    match value {
        Value::Array(array) => Some(array),
        _ => None,
    }
}

/// The members of an object.
pub fn object(value: &Value) -> Option<&Object> {
    match value {
        Value::Object(object) => Some(object),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
