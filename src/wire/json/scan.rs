//! The scanner behind `json::parse`: text in, a value or the first error out, in one pass.
//!
//! It calls itself for each level of nesting, which is bounded. Every error is at the first byte of a character, so that
//! line and column can be counted from it.

use super::{show, Array, Number, Object, SyntaxError, Value};

/// The nesting of the elements of a list in the outermost object, as jobs are in a reply.
const ELEMENT_DEPTH: usize = 3;

/// The first thing that is wrong in a text.
pub struct ScanError {
    /// The offset in the text, in bytes.
    pub at: usize,
    /// What was expected or is wrong there.
    pub message: Box<str>,
}

impl ScanError {
    /// The same error with its line and column in `text`.
    pub fn place(self, text: &str) -> SyntaxError {
        Cursor::new().place(self, text)
    }
}

/// A place in a text that only moves forward, so that all errors of a text together cost one pass over it.
struct Cursor {
    at: usize,
    line: u32,
    column: u32,
}

impl Cursor {
    fn new() -> Cursor {
        Cursor { at: 0, line: 1, column: 1 }
    }

    /// Moves to the error, which is not before the last one, and gives it this line and column.
    fn place(&mut self, error: ScanError, text: &str) -> SyntaxError {
        for character in text[self.at..error.at].chars() {
            match character {
                '\n' => (self.line, self.column) = (self.line + 1, 1),
                _ => self.column += 1,
            }
        }
        self.at = error.at;
        SyntaxError { line: self.line, column: self.column, message: error.message }
    }
}

/// What a text is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One in which nothing may be wrong.
    Text,
    /// A server's reply.
    Reply,
    /// A reply in which U+FFFD stands for bytes that are not UTF-8.
    DamagedReply,
}

/// Reads a whole text as one value, nested at most `max_depth` deep.
///
/// In a reply an element of a list in the outermost object with a key or value that is wrong becomes an array of the element and
/// what is wrong, see `json::split_fault`, and of other values nothing is wrong. No job is an array.
///
/// # Errors
/// The first place that is wrong.
pub fn scan(text: &str, max_depth: usize, kind: Kind) -> Result<Value, Box<ScanError>> {
    let mut scanner = Scanner { text, at: 0, depth: 0, max_depth, kind, fault: None, cursor: Cursor::new() };
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
    kind: Kind,
    /// What is wrong within the element that is being read.
    fault: Option<String>,
    /// The place of the last such fault.
    cursor: Cursor,
}

impl Scanner<'_> {
    fn fail(&self, message: &str) -> Box<ScanError> {
        self.fail_at(self.at, message)
    }

    fn fail_at(&self, at: usize, message: &str) -> Box<ScanError> {
        let end = if at == self.text.len() { ", got the end" } else { "" };
        Box::new(ScanError { at, message: [message, end].concat().into() })
    }

    fn byte(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// Skips white space and returns the byte after it, which is not consumed.
    fn peek(&mut self) -> Option<u8> {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.byte() {
            self.at += 1;
        }
        self.byte()
    }

    fn accept(&mut self, byte: u8) -> bool {
        let accepted = self.peek() == Some(byte);
        self.at += usize::from(accepted);
        accepted
    }

    fn value(&mut self) -> Result<Value, Box<ScanError>> {
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
            Some(b'-' | b'0'..=b'9') => return self.number(),
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

    fn object(&mut self) -> Result<Value, Box<ScanError>> {
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
            let duplicate = object.contains_key(&key);
            if duplicate {
                let message = ["duplicate key ", &show(&Value::String(key.clone()))].concat();
                // In the outermost object it leaves open what a reply means.
                if self.depth == 1 {
                    return Err(self.fail_at(start, &message));
                }
                self.wrong(start, &message)?;
            }
            if !self.accept(b':') {
                return Err(self.fail("expected \":\""));
            }
            let value = self.element()?;
            if !duplicate {
                object.insert(key, value);
            }
            if self.accept(b'}') {
                return Ok(Value::Object(object));
            }
            if !self.accept(b',') {
                return Err(self.fail("expected \",\" or \"}\""));
            }
        }
    }

    /// Takes what is wrong with a value for a fault of its element, where that is allowed.
    fn wrong(&mut self, start: usize, message: &str) -> Result<(), Box<ScanError>> {
        let error = self.fail_at(start, message);
        if self.kind == Kind::Text {
            return Err(error);
        }
        if self.depth >= ELEMENT_DEPTH {
            self.note(*error);
        }
        Ok(())
    }

    /// Notes what is wrong with the element that is being read. The first fault is enough to refuse it.
    fn note(&mut self, error: ScanError) {
        if self.fault.is_none() {
            self.fault = Some(self.cursor.place(error, self.text).to_string());
        }
    }

    /// A value in an array or object, with what is wrong within it where it is an element of a list in the outermost object.
    fn element(&mut self) -> Result<Value, Box<ScanError>> {
        let mut value = self.value()?;
        if self.depth == ELEMENT_DEPTH - 1 {
            if let Some(fault) = self.fault.take() {
                let mut array = Array::new();
                array.push(value);
                array.push(Value::String(fault));
                value = Value::Array(array);
            }
        }
        Ok(value)
    }

    fn array(&mut self) -> Result<Value, Box<ScanError>> {
        let mut array = Array::new();
        if self.accept(b']') {
            return Ok(Value::Array(array));
        }
        loop {
            array.push(self.element()?);
            if self.accept(b']') {
                return Ok(Value::Array(array));
            }
            if !self.accept(b',') {
                return Err(self.fail("expected \",\" or \"]\""));
            }
        }
    }

    fn string(&mut self) -> Result<String, Box<ScanError>> {
        let start = self.at;
        self.at += 1;
        let mut string = String::new();
        let mut plain = self.at;
        loop {
            let byte = self.byte();
            match byte {
                Some(b'"' | b'\\') => string.push_str(&self.text[plain..self.at]),
                Some(0..0x20) => {
                    self.wrong(self.at, "expected a closing quote; control characters are written as \\u00XX")?;
                }
                Some(_) => {}
                None => return Err(self.fail("expected a closing quote")),
            }
            match byte {
                Some(b'"') => {
                    self.at += 1;
                    if self.kind == Kind::DamagedReply && string.contains(char::REPLACEMENT_CHARACTER) {
                        self.wrong(start, "not UTF-8")?;
                    }
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

    fn escape(&mut self) -> Result<char, Box<ScanError>> {
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
                    // Without a low half the high half is left alone, and it is not a character.
                    if (0xdc00..0xe000).contains(&low) {
                        0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00)
                    } else {
                        unit
                    }
                } else {
                    unit
                };
                match char::from_u32(code) {
                    Some(character) => character,
                    None => {
                        self.wrong(start, "half of a surrogate pair")?;
                        char::REPLACEMENT_CHARACTER
                    }
                }
            }
            _ => return Err(self.fail_at(start, r#"expected one of \" \\ \/ \b \f \n \r \t \uXXXX"#)),
        })
    }

    /// Four hexadecimal digits of the escape that begins at `start`.
    fn hex(&mut self, start: usize) -> Result<u32, Box<ScanError>> {
        let mut unit = 0;
        for _ in 0..4 {
            let digit = self.byte().and_then(|byte| char::from(byte).to_digit(16));
            unit =
                unit << 4 | digit.ok_or_else(|| self.fail_at(start, "expected four hexadecimal digits after \\u"))?;
            self.at += 1;
        }
        Ok(unit)
    }

    fn number(&mut self) -> Result<Value, Box<ScanError>> {
        let start = self.at;
        self.at += usize::from(self.byte() == Some(b'-'));
        let leading_zero = self.byte() == Some(b'0');
        if self.digits()? > 1 && leading_zero {
            return Err(self.fail_at(start, "a number does not begin with 0"));
        }
        if self.byte() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.byte() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.byte() {
                self.at += 1;
            }
            self.digits()?;
        }
        // The numbers of the standard library are exact to the last digit, and 15 KB larger.
        match miniserde::json::from_str::<Number>(&self.text[start..self.at]) {
            Ok(number) => Ok(Value::Number(number)),
            Err(_) => self.wrong(start, "number out of range").map(|()| Value::Null),
        }
    }

    /// Skips at least one digit and returns how many there were.
    fn digits(&mut self) -> Result<usize, Box<ScanError>> {
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
