//! What is said of something that failed.

use std::fmt;
use std::ops::Deref;

/// Why something failed, as a sentence for a person.
///
/// It is one pointer, so a `Result` is hardly larger for it and mostly comes back in a register: that alone made the
/// program several kilobytes smaller than with a `String`, which every `?` moves through memory.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::box_collection)]
pub struct Reason(Box<String>);

/// Makes a reason as `format!` makes a text.
#[macro_export]
macro_rules! reason {
    ($($text:tt)*) => {
        $crate::reason::Reason::from(::std::format_args!($($text)*))
    };
}

impl From<String> for Reason {
    #[inline(never)]
    fn from(text: String) -> Reason {
        Reason(Box::new(text))
    }
}

impl From<fmt::Arguments<'_>> for Reason {
    #[inline(never)]
    fn from(text: fmt::Arguments<'_>) -> Reason {
        Reason(Box::new(fmt::format(text)))
    }
}

impl From<&str> for Reason {
    #[inline(never)]
    fn from(text: &str) -> Reason {
        Reason(Box::new(text.into()))
    }
}

impl From<Reason> for String {
    fn from(reason: Reason) -> String {
        *reason.0
    }
}

impl From<Reason> for Box<str> {
    fn from(reason: Reason) -> Box<str> {
        reason.0.into_boxed_str()
    }
}

impl Deref for Reason {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}
