//! Files of environment variables, read as systemd reads its EnvironmentFile: a text in, names and values out.
//!
//! `KEY=VALUE` on each line. Empty lines, comments (`#`, `;`) and lines that set no variable are skipped. A value may be in
//! quotes, a backslash takes the meaning from the next character and joins lines, and nothing is expanded.

use crate::model::spec::Envs;
use crate::wire::definition::is_variable;

/// The variables of a file, in its order.
pub fn parse(text: &str) -> Envs {
    let mut envs = Envs::new();
    let mut rest = text.chars().peekable();
    while let Some(first) = rest.next_if(|c| c.is_whitespace()).or_else(|| rest.peek().copied()) {
        if first.is_whitespace() {
            continue;
        }
        let mut key = String::new();
        while let Some(c) = rest.next_if(|c| *c != '\n' && *c != '=') {
            key.push(c);
        }
        // A comment may hold an equals sign too, and no quote or backslash in it counts.
        if matches!(first, '#' | ';') {
            while rest.next_if(|c| *c != '\n').is_some() {}
            continue;
        }
        if rest.next() != Some('=') {
            continue;
        }
        let value = value(&mut rest);
        let key = key.trim_end();
        if is_variable(key) && !value.contains('\0') {
            envs.push((key.into(), value.into()));
        }
    }
    envs
}

/// Reads a value to the end of its line. Quotes count at its beginning and right after other quotes only.
fn value(rest: &mut std::iter::Peekable<std::str::Chars>) -> String {
    let mut value = String::new();
    let mut quotes_count = true;
    // White space after this length was not quoted and is dropped at the end.
    let mut kept = 0;
    while let Some(c) = rest.next() {
        match c {
            '\n' => break,
            '\'' | '"' if quotes_count => {
                quoted(c, rest, &mut value);
                kept = value.len();
            }
            '\\' => {
                quotes_count = false;
                if let Some(c) = rest.next().filter(|c| *c != '\n') {
                    value.push(c);
                    kept = value.len();
                }
            }
            c if c.is_whitespace() => {
                if !quotes_count {
                    value.push(c);
                }
            }
            c => {
                quotes_count = false;
                value.push(c);
                kept = value.len();
            }
        }
    }
    value.truncate(kept);
    value
}

/// Reads to the closing quote.
fn quoted(quote: char, rest: &mut std::iter::Peekable<std::str::Chars>, value: &mut String) {
    while let Some(c) = rest.next().filter(|c| *c != quote) {
        match (c, rest.peek()) {
            ('\\', Some('\n')) if quote == '"' => {
                rest.next();
            }
            ('\\', Some(&next @ ('"' | '\\' | '`' | '$'))) if quote == '"' => {
                rest.next();
                value.push(next);
            }
            _ => value.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_systemd_reads_them() {
        for (text, want) in [
            ("", ""),
            ("A=1\nB=2", "A=1|B=2"),
            ("  A = 1 2 \t\n", "A=1 2"),
            ("# A=1\n;B=\"2\nC=3\r\n", "C=3"),
            ("no variable\nA=1", "A=1"),
            ("1A=1\nA-B=2\n=3\nA=", "A="),
            ("A=\"a b\"\nB='c \"d\" \\x'\nC=\"x\ny\"", "A=a b|B=c \"d\" \\x|C=x\ny"),
            ("A=\"a\\\"b\\\\ \\$X \\n\"", "A=a\"b\\ $X \\n"),
            ("A=\"one\" 'two'three", "A=onetwothree"),
            ("A=it's \"so\"", "A=it's \"so\""),
            ("A=one \\\ntwo\nB=a\\ b\\ \nC=$A", "A=one two|B=a b |C=$A"),
            ("A=\"never closed\nB=2", "A=never closed\nB=2"),
            ("A=\"x\" # no comment", "A=x# no comment"),
            ("A=x\0y\nB=1", "B=1"),
            ("export A=1", ""),
        ] {
            let got: Vec<String> = parse(text).iter().map(|(key, value)| format!("{key}={value}")).collect();
            assert_eq!(got.join("|"), want, "{text:?}");
        }
    }
}
