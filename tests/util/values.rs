//! Values of JSON, by a path of keys.

use miniserde::json::{Number, Value};

/// The value at a path such as `agents.0.name`; null when there is none. An empty path is the value itself.
pub fn at<'a>(value: &'a Value, path: &str) -> &'a Value {
    static NOTHING: Value = Value::Null;
    let mut value = value;
    for key in path.split('.').filter(|key| !key.is_empty()) {
        value = match value {
            Value::Object(object) => object.get(key).unwrap_or(&NOTHING),
            Value::Array(array) => key.parse().ok().and_then(|n: usize| array.get(n)).unwrap_or(&NOTHING),
            _ => &NOTHING,
        };
    }
    value
}

/// The string at a path; empty when there is none.
pub fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    match at(value, path) {
        Value::String(text) => text,
        _ => "",
    }
}

/// The number at a path; not a number when there is none.
pub fn number(value: &Value, path: &str) -> f64 {
    match at(value, path) {
        Value::Number(Number::U64(number)) => *number as f64,
        Value::Number(Number::I64(number)) => *number as f64,
        Value::Number(Number::F64(number)) => *number,
        _ => f64::NAN,
    }
}

/// The elements of the array at a path; none when there is no array.
pub fn items<'a>(value: &'a Value, path: &str) -> &'a [Value] {
    match at(value, path) {
        Value::Array(array) => array,
        _ => &[],
    }
}
