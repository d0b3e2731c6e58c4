//! Reads one JSON object key by key, and collects everything that is wrong with it, each with its path.
//!
//! A fault reads `limits.memory: want a size such as "20M", got "20X"`. The caller decides whether an unknown key is a
//! fault: it is one in what people write, and is ignored in what servers and other versions of the daemon write.

use std::time::Duration;

use crate::text::suggestion;

use super::{flag, integer, seconds, show, text, Object, Value};

/// Reads the members of one object, and collects what is wrong with them as `path.key: message` in `faults`.
pub struct Fields<'v, 'f> {
    object: &'v Object,
    path: &'f str,
    faults: &'f mut Vec<String>,
    known: Vec<&'static str>,
}

impl<'v, 'f> Fields<'v, 'f> {
    /// The members of `value`, which stands at `path` (empty for a whole text); a fault when it is not an object.
    pub fn of(value: &'v Value, path: &'f str, faults: &'f mut Vec<String>) -> Option<Fields<'v, 'f>> {
        match value {
            Value::Object(object) => Some(Fields { object, path, faults, known: Vec::new() }),
            other => {
                faults.push(fault(path, "", &format!("want an object, got {}", show(other))));
                None
            }
        }
    }

    /// The member's value; `null` counts as missing.
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

    /// Converts the member, if there is one. Where `convert` returns `None`, the fault says `want`.
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

    /// An integer from `min` to `max`.
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

    /// Adds the fault that the member's value is not a `want`.
    pub fn wrong(&mut self, key: &str, want: &str, value: &Value) {
        let want = match value {
            Value::String(text) if text.contains('\0') => "a string without NUL",
            _ => want,
        };
        self.fault(key, &format!("want {want}, got {}", show(value)));
    }

    /// Adds a fault of the member.
    pub fn fault(&mut self, key: &str, message: &str) {
        self.faults.push(fault(self.path, key, message));
    }

    /// The path of a member and the list of faults, for reading what is inside it.
    pub fn inside(&mut self, key: &str) -> (String, &mut Vec<String>) {
        (join(self.path, key), self.faults)
    }

    /// Adds a fault for every key that none of the calls above has named.
    pub fn refuse_unknown(self) {
        for key in self.object.keys() {
            if !self.known.contains(&key.as_str()) {
                let shown = show(&Value::String(key.clone()));
                let meant = suggestion(key, &self.known).map(|meant| format!("; {meant}"));
                let message = format!("unknown key{}", meant.unwrap_or_default());
                self.faults.push(fault(self.path, &shown[1..shown.len() - 1], &message));
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

/// The line for a fault of the member `key` of what stands at `path`.
pub fn fault(path: &str, key: &str, message: &str) -> String {
    let place = join(path, key);
    match place.is_empty() {
        true => message.to_string(),
        false => [&place, ": ", message].concat(),
    }
}
