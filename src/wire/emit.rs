//! Writes compact JSON text, key by key, in the order of the caller's calls.
//!
//! miniserde's derive can neither leave out absent fields nor limit decimals; this can. The caller must close what it has
//! opened. Only what JSON requires is escaped, so UTF-8 stays as it is.

use std::fmt::{self, Write};
use std::time::Duration;

use crate::kernel::Decimal;

/// JSON text under construction. Commas are added where they are needed.
#[derive(Default)]
pub struct Writer {
    out: String,
}

impl Writer {
    /// An empty text.
    pub fn new() -> Writer {
        Writer::default()
    }

    /// The finished text.
    pub fn finish(self) -> String {
        self.out
    }

    /// Opens an object (`{`) or array (`[`).
    pub fn open(&mut self, bracket: char) {
        self.comma();
        self.put(bracket);
    }

    /// Closes an object (`}`) or array (`]`).
    pub fn close(&mut self, bracket: char) {
        self.put(bracket);
    }

    /// The key of the next value.
    pub fn key(&mut self, key: &str) -> &mut Writer {
        self.text(key);
        self.put(':');
        self
    }

    /// A string.
    pub fn text(&mut self, text: &str) {
        self.comma();
        self.put('"');
        let mut rest = text;
        // Only single bytes are escaped; what is between them is copied in one piece.
        while let Some(at) = rest.bytes().position(|byte| byte < b' ' || matches!(byte, b'"' | b'\\')) {
            self.out.push_str(&rest[..at]);
            let byte = rest.as_bytes()[at];
            rest = &rest[at + 1..];
            match byte {
                b'\n' => self.out.push_str("\\n"),
                b'\r' => self.out.push_str("\\r"),
                b'\t' => self.out.push_str("\\t"),
                0..b' ' => self.write(format_args!("\\u{byte:04x}")),
                _ => {
                    self.put('\\');
                    self.put(char::from(byte));
                }
            }
        }
        self.out.push_str(rest);
        self.put('"');
    }

    /// A whole number.
    pub fn number(&mut self, number: u64) {
        self.comma();
        self.write(format_args!("{number}"));
    }

    /// The key with a string, where there is one.
    pub fn optional_text(&mut self, key: &str, text: Option<&str>) {
        if let Some(text) = text {
            self.key(key).text(text);
        }
    }

    /// The key with a whole number, where there is one.
    pub fn optional_number(&mut self, key: &str, number: Option<u64>) {
        if let Some(number) = number {
            self.key(key).number(number);
        }
    }

    /// `true` or `false`.
    pub fn boolean(&mut self, value: bool) {
        self.raw(if value { "true" } else { "false" });
    }

    /// A number with at most two decimals; a number below 0 and NaN become 0.
    pub fn decimal(&mut self, number: f64) {
        self.raw(&Decimal::rounded(number, 100).to_string());
    }

    /// Seconds, with at most three decimals.
    pub fn seconds(&mut self, time: Duration) {
        self.raw(&Decimal::seconds(time).to_string());
    }

    /// A value that is JSON text already.
    pub fn raw(&mut self, json: &str) {
        self.comma();
        self.out.push_str(json);
    }

    fn write(&mut self, text: fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        let _ = self.out.write_fmt(text);
    }

    fn put(&mut self, character: char) {
        self.out.push(character);
    }

    fn comma(&mut self) {
        if !matches!(self.out.as_bytes().last(), None | Some(b'{' | b'[' | b':')) {
            self.put(',');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_nest_and_are_escaped() {
        let mut json = Writer::new();
        json.open('{');
        json.key("a\"b").text("\\ \u{7}\n\u{1f}é\u{7f}");
        json.key("list").open('[');
        json.number(u64::MAX);
        json.boolean(true);
        json.text("");
        json.raw("null");
        json.open('{');
        json.close('}');
        json.close(']');
        json.key("n").number(0);
        json.close('}');
        assert_eq!(
            json.finish(),
            "{\"a\\\"b\":\"\\\\ \\u0007\\n\\u001fé\u{7f}\",\"list\":[18446744073709551615,true,\"\",null,{}],\"n\":0}"
        );
    }

    #[test]
    fn decimals() {
        for (number, want) in [
            (0.0, "0"),
            (1.5, "1.5"),
            (1.25, "1.25"),
            (0.01, "0.01"),
            (0.004, "0"),
            (99.999, "100"),
            (-3.0, "0"),
            (f64::NAN, "0"),
            (f64::INFINITY, "184467440737095516.15"),
        ] {
            let mut json = Writer::new();
            json.decimal(number);
            assert_eq!(json.finish(), want, "{number}");
        }
        for (ms, want) in [(0, "0"), (600_000, "600"), (500, "0.5"), (1_002, "1.002")] {
            let mut json = Writer::new();
            json.seconds(Duration::from_millis(ms));
            assert_eq!(json.finish(), want);
        }
    }
}
