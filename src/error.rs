//! The error type of this program: one sentence for an operator.
//!
//! Code that fails says what failed and why; where code has to decide by the kind of a failure, it uses a type of its own.

use std::fmt;
use std::ops::Deref;

/// Why something failed, as a sentence for an operator.
///
/// It is one pointer, so a `Result` is hardly larger for it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::box_collection)]
pub struct Error(Box<String>);

/// Makes an `Error` as `format!` makes a `String`.
#[macro_export]
macro_rules! format_error {
    ($($text:tt)*) => {
        $crate::error::Error::from(::std::format_args!($($text)*))
    };
}

impl From<String> for Error {
    fn from(text: String) -> Error {
        Error(Box::new(text))
    }
}

impl From<fmt::Arguments<'_>> for Error {
    fn from(text: fmt::Arguments<'_>) -> Error {
        Error(Box::new(fmt::format(text)))
    }
}

impl From<&str> for Error {
    fn from(text: &str) -> Error {
        Error(Box::new(text.into()))
    }
}

impl From<Error> for String {
    fn from(error: Error) -> String {
        *error.0
    }
}

impl From<Error> for Box<str> {
    fn from(error: Error) -> Box<str> {
        error.0.into_boxed_str()
    }
}

impl Deref for Error {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}
