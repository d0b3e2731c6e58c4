//! JSON, strict as RFC 8259 has it: texts become values or say where they break it, and values are read with their path.
//!
//! `parse` adds three rules: no key twice in one object, no half surrogate pairs, no nesting over a given depth.
//! `Fields` reads one object key by key and collects what is wrong with it, such as `limits.memory: want a size such
//! as "20M", got "20X"`; whether a key that nobody asked for is wrong too is up to who reads.

use std::fmt;
use std::time::Duration;

pub use miniserde::json::{Array, Number, Object, Value};

/// The deepest nesting of any text that is read.
pub const MAX_DEPTH: usize = 64;

/// The longest time that is taken for meant: ten years, in seconds.
pub const MAX_SECONDS: f64 = 315_360_000.0;

/// The first place where a text is not JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Syntax {
    /// Counted from 1.
    pub line: u32,
    /// In characters, counted from 1.
    pub column: u32,
    /// What was expected or is wrong there.
    pub message: Box<str>,
}

impl fmt::Display for Syntax {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.line, self.column, self.message)
    }
}

/// Reads a whole text as one value, nested at most `max_depth` deep.
///
/// # Errors
/// The first place that is wrong.
pub fn parse(text: &str, max_depth: usize) -> Result<Value, Syntax> {
    scan(text, max_depth).map_err(|fail| fail.place(text))
}

/// As `parse`, of bytes that should be UTF-8.
///
/// # Errors
/// The first place that is wrong, be it JSON or UTF-8.
pub fn parse_bytes(bytes: &[u8], max_depth: usize) -> Result<Value, Syntax> {
    let valid = match std::str::from_utf8(bytes) {
        Ok(text) => return parse(text, max_depth),
        Err(error) => std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default(),
    };
    let fail = match scan(valid, max_depth) {
        Err(fail) if fail.at < valid.len() => fail,
        _ => Fail { at: valid.len(), message: "not UTF-8".into() },
    };
    Err(fail.place(valid))
}

struct Fail {
    at: usize,
    message: Box<str>,
}

impl Fail {
    fn place(self, text: &str) -> Syntax {
        let before = &text[..self.at];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Syntax {
            line: before.bytes().filter(|byte| *byte == b'\n').count() as u32 + 1,
            column: before[line_start..].chars().count() as u32 + 1,
            message: self.message,
        }
    }
}

fn scan(text: &str, max_depth: usize) -> Result<Value, Fail> {
    let mut scanner = Scanner { text, at: 0, depth: 0, max_depth };
    if text.starts_with('\u{feff}') {
        return Err(scanner.fail("a byte order mark is not JSON"));
    }
    let value = scanner.value()?;
    match scanner.peek() {
        None => Ok(value),
        Some(_) => Err(scanner.fail("expected the end")),
    }
}

struct Scanner<'t> {
    text: &'t str,
    at: usize,
    depth: usize,
    max_depth: usize,
}

impl<'t> Scanner<'t> {
    fn fail(&self, message: &str) -> Fail {
        self.fail_at(self.at, message)
    }

    fn fail_at(&self, at: usize, message: &str) -> Fail {
        let end = if at == self.text.len() { ", got the end" } else { "" };
        Fail { at, message: [message, end].concat().into() }
    }

    fn byte(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// The next byte that is not white space; it stays the next one.
    fn peek(&mut self) -> Option<u8> {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.byte() {
            self.at += 1;
        }
        self.byte()
    }

    fn accept(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn value(&mut self) -> Result<Value, Fail> {
        let next = self.peek();
        match next {
            Some(b'{' | b'[') => {
                if self.depth == self.max_depth {
                    return Err(self.fail(&format!("nested over {} deep", self.max_depth)));
                }
                self.at += 1;
                self.depth += 1;
                let value = if next == Some(b'{') { self.object()? } else { self.array()? };
                self.depth -= 1;
                return Ok(value);
            }
            Some(b'"') => return Ok(Value::String(self.string()?)),
            Some(b'-' | b'0'..=b'9') => return Ok(Value::Number(self.number()?)),
            _ => {}
        }
        for (word, value) in [("null", Value::Null), ("true", Value::Bool(true)), ("false", Value::Bool(false))] {
            if self.text[self.at..].starts_with(word) {
                self.at += word.len();
                return Ok(value);
            }
        }
        Err(self.fail("expected a value"))
    }

    fn object(&mut self) -> Result<Value, Fail> {
        let mut object = Object::new();
        if self.accept(b'}') {
            return Ok(Value::Object(object));
        }
        loop {
            if self.peek() != Some(b'"') {
                return Err(self.fail(if object.is_empty() {
                    "expected a key in quotes or \"}\""
                } else {
                    "expected a key in quotes"
                }));
            }
            let start = self.at;
            let key = self.string()?;
            if object.contains_key(&key) {
                return Err(self.fail_at(start, &format!("duplicate key {}", show(&Value::String(key)))));
            }
            if !self.accept(b':') {
                return Err(self.fail("expected \":\""));
            }
            let value = self.value()?;
            object.insert(key, value);
            if self.accept(b'}') {
                return Ok(Value::Object(object));
            }
            if !self.accept(b',') {
                return Err(self.fail("expected \",\" or \"}\""));
            }
        }
    }

    fn array(&mut self) -> Result<Value, Fail> {
        let mut array = Array::new();
        if self.accept(b']') {
            return Ok(Value::Array(array));
        }
        loop {
            array.push(self.value()?);
            if self.accept(b']') {
                return Ok(Value::Array(array));
            }
            if !self.accept(b',') {
                return Err(self.fail("expected \",\" or \"]\""));
            }
        }
    }

    fn string(&mut self) -> Result<String, Fail> {
        self.at += 1;
        let mut string = String::new();
        let mut plain = self.at;
        loop {
            let byte = self.byte();
            match byte {
                Some(b'"' | b'\\') => string.push_str(&self.text[plain..self.at]),
                Some(0..0x20) => {
                    return Err(self.fail("expected a closing quote; control characters are written as \\u00XX"))
                }
                Some(_) => {}
                None => return Err(self.fail("expected a closing quote")),
            }
            match byte {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(string);
                }
                Some(b'\\') => {
                    string.push(self.escape()?);
                    plain = self.at;
                }
                _ => self.at += 1,
            }
        }
    }

    fn escape(&mut self) -> Result<char, Fail> {
        let start = self.at;
        self.at += 2;
        Ok(match self.text.as_bytes().get(start + 1) {
            Some(plain @ (b'"' | b'\\' | b'/')) => char::from(*plain),
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                let unit = self.hex(start)?;
                let high = (0xd800..0xdc00).contains(&unit);
                let code = if high && self.text.as_bytes()[self.at..].starts_with(b"\\u") {
                    self.at += 2;
                    let low = self.hex(self.at - 2)?;
                    // Without a low half the high one stands for itself, which is no character.
                    if (0xdc00..0xe000).contains(&low) {
                        0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00)
                    } else {
                        unit
                    }
                } else {
                    unit
                };
                char::from_u32(code).ok_or_else(|| self.fail_at(start, "half of a surrogate pair"))?
            }
            _ => return Err(self.fail_at(start, r#"expected one of \" \\ \/ \b \f \n \r \t \uXXXX"#)),
        })
    }

    /// Four hexadecimal digits of the escape that begins at `start`.
    fn hex(&mut self, start: usize) -> Result<u32, Fail> {
        let mut unit = 0;
        for _ in 0..4 {
            let digit = self.byte().and_then(|byte| char::from(byte).to_digit(16));
            unit =
                unit << 4 | digit.ok_or_else(|| self.fail_at(start, "expected four hexadecimal digits after \\u"))?;
            self.at += 1;
        }
        Ok(unit)
    }

    fn number(&mut self) -> Result<Number, Fail> {
        let start = self.at;
        let negative = self.byte() == Some(b'-');
        self.at += usize::from(negative);
        let leading_zero = self.byte() == Some(b'0');
        if self.digits()? > 1 && leading_zero {
            return Err(self.fail_at(start, "a number does not begin with 0"));
        }
        let mut whole = true;
        if self.byte() == Some(b'.') {
            whole = false;
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.byte() {
            whole = false;
            self.at += 1;
            if let Some(b'+' | b'-') = self.byte() {
                self.at += 1;
            }
            self.digits()?;
        }
        let text = &self.text[start..self.at];
        if let (true, false, Ok(number)) = (whole, negative, text.parse()) {
            return Ok(Number::U64(number));
        }
        if let (true, true, Ok(number)) = (whole, negative, text.parse()) {
            return Ok(Number::I64(number));
        }
        match text.parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(Number::F64(number)),
            _ => Err(self.fail_at(start, "number out of range")),
        }
    }

    /// Passes over at least one digit and says how many there were.
    fn digits(&mut self) -> Result<usize, Fail> {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.byte() {
            self.at += 1;
        }
        if self.at == start {
            return Err(self.fail("expected a digit"));
        }
        Ok(self.at - start)
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

/// Reads the members of one object, and collects what is wrong with them as `path.key: message` in `faults`.
pub struct Fields<'v, 'f> {
    object: &'v Object,
    path: &'f str,
    faults: &'f mut Vec<String>,
    known: Vec<&'static str>,
}

impl<'v, 'f> Fields<'v, 'f> {
    /// The members of `value`, which stands at `path` (empty for a whole text); a fault when it is no object.
    pub fn of(value: &'v Value, path: &'f str, faults: &'f mut Vec<String>) -> Option<Fields<'v, 'f>> {
        match value {
            Value::Object(object) => Some(Fields { object, path, faults, known: Vec::new() }),
            other => {
                faults.push(fault(path, "", &format!("want an object, got {}", show(other))));
                None
            }
        }
    }

    /// The member's value; `null` is as good as none.
    pub fn get(&mut self, key: &'static str) -> Option<&'v Value> {
        self.known.push(key);
        self.object.get(key).filter(|value| !matches!(value, Value::Null))
    }

    /// The member's value; a fault when there is none.
    pub fn required(&mut self, key: &'static str) -> Option<&'v Value> {
        let value = self.get(key);
        if value.is_none() {
            self.fault(key, "missing");
        }
        value
    }

    /// What `convert` makes of the member, if there is one; a fault that says `want` when it makes nothing of it.
    pub fn read<T>(&mut self, key: &'static str, want: &str, convert: fn(&'v Value) -> Option<T>) -> Option<T> {
        let value = self.get(key)?;
        let converted = convert(value);
        if converted.is_none() {
            self.wrong(key, want, value);
        }
        converted
    }

    /// A string without NUL.
    pub fn text(&mut self, key: &'static str) -> Option<&'v str> {
        self.read(key, "a string", text)
    }

    /// `true` or `false`.
    pub fn flag(&mut self, key: &'static str) -> Option<bool> {
        self.read(key, "true or false", flag)
    }

    /// An integer within bounds.
    pub fn integer(&mut self, key: &'static str, min: u64, max: u64) -> Option<u64> {
        let value = self.get(key)?;
        let number = integer(value).filter(|number| (min..=max).contains(number));
        if number.is_none() {
            self.wrong(key, &format!("an integer of {min}..{max}"), value);
        }
        number
    }

    /// A time in seconds, fractions allowed, from 0 up to ten years.
    pub fn seconds(&mut self, key: &'static str) -> Option<Duration> {
        self.read(key, "seconds, 0 or more and at most ten years", seconds)
    }

    /// A time in seconds, fractions allowed, above 0 and up to ten years.
    pub fn seconds_above_0(&mut self, key: &'static str) -> Option<Duration> {
        self.read(key, "seconds, above 0 and at most ten years", |value| seconds(value).filter(|time| !time.is_zero()))
    }

    /// Notes that the member is not what it must be.
    pub fn wrong(&mut self, key: &str, want: &str, value: &Value) {
        let want = match value {
            Value::String(text) if text.contains('\0') => "a string without NUL",
            _ => want,
        };
        self.fault(key, &format!("want {want}, got {}", show(value)));
    }

    /// Notes what is wrong with the member.
    pub fn fault(&mut self, key: &str, message: &str) {
        self.faults.push(fault(self.path, key, message));
    }

    /// The path of a member, for reading what is in it, and where to note what is wrong there.
    pub fn inside(&mut self, key: &str) -> (String, &mut Vec<String>) {
        (join(self.path, key), self.faults)
    }

    /// Notes every key that nobody asked for.
    pub fn refuse_unknown(self) {
        for key in self.object.keys() {
            if !self.known.contains(&key.as_str()) {
                let shown = show(&Value::String(key.clone()));
                self.faults.push(fault(self.path, &shown[1..shown.len() - 1], "unknown key"));
            }
        }
    }
}

/// The path of `key` in what stands at `path`.
pub fn join(path: &str, key: &str) -> String {
    match path.is_empty() || key.is_empty() {
        true => [path, key].concat(),
        false => [path, ".", key].concat(),
    }
}

/// One line about what is wrong with the member `key` of what stands at `path`.
pub fn fault(path: &str, key: &str, message: &str) -> String {
    let place = join(path, key);
    match place.is_empty() {
        true => message.to_string(),
        false => [&place, ": ", message].concat(),
    }
}

#[cfg(test)]
mod tests;
