//! Reads one JSON object key by key, and collects everything that is wrong with it, each with its path.
//!
//! A fault reads `limits.memory: want a size such as "20M", got "20X"`. The caller decides whether an unknown key is a
//! fault: it is one in what people write, and is ignored in what servers and other versions of the daemon write.

use std::time::Duration;

use crate::text::suggestion;

use super::{array, flag, integer, seconds, show, text, Object, Value};

/// Reads the members of one object, and collects what is wrong with them as `path.key: message` in `faults`.
pub struct Fields<'v, 'f> {
    object: &'v Object,
    /// Where it stands; empty for a whole text.
    path: String,
    faults: &'f mut Vec<String>,
    known: Vec<&'static str>,
}

impl<'v, 'f> Fields<'v, 'f> {
    /// The members of `value`, which is a whole text; a fault when it is not an object.
    pub fn of(value: &'v Value, faults: &'f mut Vec<String>) -> Option<Fields<'v, 'f>> {
        Fields::at(String::new(), value, faults)
    }

    fn at(path: String, value: &'v Value, faults: &'f mut Vec<String>) -> Option<Fields<'v, 'f>> {
        match value {
            Value::Object(object) => Some(Fields { object, path, faults, known: Vec::new() }),
            other => {
                faults.push(fault(&path, "", &format!("want an object, got {}", show(other))));
                None
            }
        }
    }

    /// The members of the member, if there is one; a fault when it is not an object.
    pub fn inside(&mut self, key: &'static str) -> Option<Fields<'v, '_>> {
        let value = self.get(key)?;
        Fields::at(join(&self.path, key), value, self.faults)
    }

    /// Gives each element of an array to `take`, which are objects; a fault, without its place, for one that is not.
    pub fn each(&mut self, key: &'static str, take: &mut dyn FnMut(Fields<'v, '_>)) {
        for value in self.get(key).and_then(array).unwrap_or_default() {
            Fields::of(value, self.faults).map(&mut *take);
        }
    }

    /// The members as they are.
    pub fn members(&self) -> &'v Object {
        self.object
    }

    /// How many faults there are so far, those of other objects included.
    pub fn fault_count(&self) -> usize {
        self.faults.len()
    }

    /// The member's value; `null` counts as missing.
    pub fn get(&mut self, key: &'static str) -> Option<&'v Value> {
        if !self.known.contains(&key) {
            self.known.push(key);
        }
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

    /// A string without NUL; empty where there is none.
    pub fn string(&mut self, key: &'static str) -> Box<str> {
        self.text(key).unwrap_or_default().into()
    }

    /// One of these words, as what it stands for.
    pub fn word<T: Copy>(&mut self, key: &'static str, words: &[(&str, T)]) -> Option<T> {
        let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        Some(words[self.place_among(&known, key)?].1)
    }

    /// The place of the member's value among the words.
    fn place_among(&mut self, words: &[&str], key: &'static str) -> Option<usize> {
        let value = self.get(key)?;
        let place = words.iter().position(|word| text(value) == Some(word));
        if place.is_none() {
            let (last, others) = words.split_last()?;
            self.wrong(key, &format!("\"{}\" or \"{last}\"", others.join("\", \"")), value);
        }
        place
    }

    /// The elements of an array, as `convert` makes them. Where it returns `None`, a fault says that the element is not a `want`;
    /// `all` says what the array should be.
    pub fn list<T>(
        &mut self,
        key: &'static str,
        all: &str,
        want: &str,
        convert: fn(&'v Value) -> Option<T>,
    ) -> Option<Vec<T>> {
        let mut list = Vec::new();
        self.take_elements(key, all, want, &mut |element| {
            list.push(convert(element)?);
            Some(())
        })?;
        Some(list)
    }

    /// The part of `list` that does not depend on the type, so that it is compiled only once.
    fn take_elements(
        &mut self,
        key: &'static str,
        all: &str,
        want: &str,
        take: &mut dyn FnMut(&'v Value) -> Option<()>,
    ) -> Option<()> {
        for (index, element) in self.read(key, all, array)?.iter().enumerate() {
            if take(element).is_none() {
                self.wrong(&format!("{key}[{index}]"), want, element);
            }
        }
        Some(())
    }

    /// `true` or `false`.
    pub fn flag(&mut self, key: &'static str) -> Option<bool> {
        self.read(key, "true or false", flag)
    }

    /// Whether it is `true`; what is missing is not.
    pub fn is_true(&mut self, key: &'static str) -> bool {
        self.flag(key).unwrap_or(false)
    }

    /// An integer of 0 or more.
    pub fn count(&mut self, key: &'static str) -> Option<u64> {
        self.integer(key, 0, u64::MAX)
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
        self.faults.push(fault(&self.path, key, message));
    }

    /// Adds a fault for every key that none of the calls above has named.
    pub fn refuse_unknown(&mut self) {
        for key in self.object.keys() {
            if !self.known.contains(&key.as_str()) {
                let shown = show(&Value::String(key.clone()));
                let meant = suggestion(key, &self.known).map(|meant| format!("; {meant}"));
                let message = format!("unknown key{}", meant.unwrap_or_default());
                self.faults.push(fault(&self.path, &shown[1..shown.len() - 1], &message));
            }
        }
    }
}

/// The path of `key` in what stands at `path`.
fn join(path: &str, key: &str) -> String {
    match path.is_empty() || key.is_empty() {
        true => [path, key].concat(),
        false => [path, ".", key].concat(),
    }
}

/// The line for a fault of the member `key` of what stands at `path`.
fn fault(path: &str, key: &str, message: &str) -> String {
    let place = join(path, key);
    match place.is_empty() {
        true => message.to_string(),
        false => [&place, ": ", message].concat(),
    }
}
