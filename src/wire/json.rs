//! JSON as strict as RFC 8259: a text becomes a value or an error with its place, and a value becomes what it means.
//!
//! `parse` adds three rules: no key twice in one object, no half of a surrogate pair, no nesting over a given depth. It
//! takes away one: a byte order mark at the beginning is skipped, as some editors and servers write it.
//! Objects are read with `Fields`, which collects every fault together with its path.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use crate::error::Error;
pub use fields::Fields;
pub use miniserde::json::{Array, Number, Object, Value};
use scan::{scan, Kind, ScanError};

mod fields;
mod scan;

/// The deepest nesting of any text that is read.
pub const MAX_DEPTH: usize = 64;

/// The longest time that is accepted, in seconds: ten years. Anything longer is taken for a mistake.
pub const MAX_SECONDS: f64 = 315_360_000.0;

/// The most digits of a key that is the number of an element.
const KEY_MAX: usize = 20;

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
    parse_bytes(text.as_bytes(), max_depth)
}

/// As `parse`, for bytes that should be UTF-8. A syntax error before the first byte that is not is the one that is reported.
///
/// # Errors
/// The first place that is not JSON or not UTF-8.
pub fn parse_bytes(bytes: &[u8], max_depth: usize) -> Result<Value, SyntaxError> {
    let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
    let valid = match std::str::from_utf8(bytes) {
        Ok(text) => return scan(text, max_depth, Kind::Text).map_err(|error| error.place(text)),
        Err(error) => std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default(),
    };
    let error = match scan(valid, max_depth, Kind::Text) {
        Err(error) if error.at < valid.len() => error,
        _ => Box::new(ScanError { at: valid.len(), message: "not UTF-8".into() }),
    };
    Err(error.place(valid))
}

/// Reads the bytes of a server's reply. A fault inside one of its jobs makes that job alone unusable; see `split_fault`.
///
/// # Errors
/// The first place that is not JSON.
pub fn parse_reply(bytes: &[u8]) -> Result<Value, SyntaxError> {
    let text = String::from_utf8_lossy(bytes);
    let kind = if matches!(text, Cow::Borrowed(_)) { Kind::Reply } else { Kind::DamagedReply };
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    scan(text, MAX_DEPTH, kind).map_err(|error| error.place(text))
}

/// An element of a list in a reply without what is wrong inside it, and that with its place: it holds a key twice, a value that
/// follows the grammar and means nothing, or a string with a control character or with bytes that are not UTF-8. Of a key
/// that it holds twice it has the first value.
pub fn split_fault(element: &Value) -> (&Value, Option<&str>) {
    match element {
        Value::Array(array) => match &array[..] {
            [element, Value::String(fault)] => (element, Some(fault)),
            _ => (element, None),
        },
        _ => (element, None),
    }
}

/// Reads a whole text, an object, with `take`, which adds what is wrong with its members to the faults.
///
/// # Errors
/// The first place that is not JSON, or all faults in one text.
pub fn read<T>(text: &str, take: fn(Fields<'_, '_>) -> Option<T>) -> Result<T, Error> {
    let mut taken = None;
    read_checked(text, &mut |fields| taken = take(fields))?;
    taken.ok_or_else(|| "holds no usable value".into())
}

/// The part of `read` that does not depend on the type, so that it is compiled only once.
fn read_checked(text: &str, take: &mut dyn FnMut(Fields<'_, '_>)) -> Result<(), Error> {
    let value = parse(text, MAX_DEPTH).map_err(|syntax| syntax.to_string())?;
    let mut faults = Vec::new();
    if let Some(fields) = Fields::of(&value, &mut faults) {
        take(fields);
    }
    match faults.is_empty() {
        true => Ok(()),
        false => Err(faults.join("; ").into()),
    }
}

/// The value as compact JSON text.
pub fn write(value: &Value) -> String {
    miniserde::json::to_string(value)
}

/// The value as an error message shows it: cut after 60 characters, and of an array or object only its kind.
pub fn show(value: &Value) -> String {
    const MAX: usize = 60;
    let text = match value {
        Value::Array(array) if !array.is_empty() => return "an array".to_string(),
        Value::Object(object) if !object.is_empty() => return "an object".to_string(),
        other => write(other),
    };
    // JSON does not escape DEL and the control characters above it, and a terminal obeys some of them.
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    match text.char_indices().nth(MAX) {
        Some((cut, _)) => [&text[..cut], "...\""].concat(),
        None => text,
    }
}

/// The text of a string. One that contains NUL is refused, as no C string can hold it.
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

/// An integer of `min` to `max`, below 0 too.
pub fn signed(value: &Value, min: i32, max: i32) -> Option<i32> {
    let number = number(value).filter(|number| (f64::from(min)..=f64::from(max)).contains(number))?;
    (f64::from(number as i32) == number).then_some(number as i32)
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

/// Gives each element of a list to `take`: of an array, or of an object whose keys are all decimal numbers, in their order. PHP
/// writes an array with gaps so. False where it is no list.
pub fn each_element(value: &Value, take: &mut dyn FnMut(&Value)) -> bool {
    match value {
        Value::Array(array) => array.iter().for_each(take),
        Value::Object(object) => {
            // The keys are in the order of their texts, which is that of numbers where they are of one length. None has the
            // first length, so that nothing is taken before all are known to be numbers.
            for length in 0..=KEY_MAX {
                for (key, element) in object {
                    if key.is_empty() || key.len() > KEY_MAX || !key.bytes().all(|byte| byte.is_ascii_digit()) {
                        return false;
                    }
                    if key.len() == length {
                        take(element);
                    }
                }
            }
        }
        _ => return false,
    }
    true
}

/// Whether it is an empty array or object. Some languages write one for the other.
pub fn is_empty(value: &Value) -> bool {
    match value {
        Value::Array(array) => array.is_empty(),
        Value::Object(object) => object.is_empty(),
        _ => false,
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
