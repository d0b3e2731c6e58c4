//! What of an agent's environment nobody may see in a message, and messages without it.

use super::spec::Envs;

/// How much of the output of an agent or of a check goes into the message about its end, bytes.
pub const TAIL: u64 = 400;

/// Shorter values of the environment are shown: they are no secrets, and a text without them would be unreadable.
const SECRET_MIN: usize = 6;

/// What is shown of an environment by its name alone: values of a certain length, whatever a job gave, and those of `before`,
/// which were shown so earlier, NAME=VALUE with a NUL behind each. The longest come first, as they may contain others.
pub fn secrets(mut all: Envs, of_job: Option<&Envs>, before: &str) -> Envs {
    all.retain(|variable| {
        let value = &variable.1;
        value.len() >= SECRET_MIN || !value.is_empty() && of_job.is_some_and(|envs| envs.contains(variable))
    });
    for (name, value) in before.split('\0').filter_map(|line| line.split_once('=')) {
        all.push((name.into(), value.into()));
    }
    all.sort_by_key(|(_, value)| usize::MAX - value.len());
    all
}

/// Adds to `before`, as `secrets` takes it, what is not in it yet, and drops its oldest lines while it has more than `max`
/// bytes. Returns whether there was anything to add.
pub fn remember(before: &mut String, new: &Envs, max: usize) -> bool {
    let mut known: Vec<&str> = before.split_terminator('\0').collect();
    known.sort_unstable();
    let lines = new.iter().map(|(name, value)| [&**name, "=", &**value].concat());
    let fresh: Vec<String> = lines.filter(|line| known.binary_search(&&**line).is_err()).collect();
    for line in &fresh {
        before.push_str(line);
        before.push('\0');
    }
    if let Some(excess) = before.len().checked_sub(max + 1) {
        let end =
            before.as_bytes()[excess..].iter().position(|byte| *byte == 0).map_or(before.len(), |at| excess + at + 1);
        before.drain(..end);
    }
    !fresh.is_empty()
}

/// The length of the longest value in an agent's environment, bytes: a value may begin that far before the last `TAIL` bytes.
pub fn longest_value(envs: &Envs) -> usize {
    envs.iter().map(|(_, value)| value.len()).max().unwrap_or(0)
}

/// The last `TAIL` bytes of `text` with the values of `envs`, the longest first, replaced by `$NAME`. Where they begin in the
/// middle of a value, they begin after it.
pub fn without_values(text: &str, envs: &Envs) -> String {
    let mut start = text.len().saturating_sub(TAIL as usize);
    let mut hidden = start;
    for (_, value) in envs {
        let mut starts = (start + 1).saturating_sub(value.len())..start;
        let last = starts.rfind(|&at| text.as_bytes()[at..].starts_with(value.as_bytes()));
        hidden = last.map_or(hidden, |at| hidden.max(at + value.len()));
    }
    while !text.is_char_boundary(start) {
        start += 1;
    }
    hide_values(&text[start..], hidden.saturating_sub(start), envs)
}

/// `text` with the values of `envs`, the longest first, replaced by `$NAME`.
pub fn replace_values(text: &str, envs: &Envs) -> String {
    hide_values(text, 0, envs)
}

/// The same; the first `hidden` bytes are left out. Values may overlap: what is of any of them is not shown.
fn hide_values(text: &str, mut hidden: usize, envs: &Envs) -> String {
    // The longest value that begins at each byte.
    let mut begins = vec![None; text.len()];
    for variable in envs.iter().filter(|variable| !variable.1.is_empty()) {
        let mut from = 0;
        while let Some(found) = text[from..].find(&*variable.1) {
            begins[from + found].get_or_insert(variable);
            from += found + 1;
            while !text.is_char_boundary(from) {
                from += 1;
            }
        }
    }
    let (mut shown, mut last) = (String::new(), "");
    for (at, c) in text.char_indices() {
        match begins[at] {
            Some((name, value)) if at + value.len() > hidden => {
                // A value that overlaps itself is one.
                if at >= hidden || **name != *last {
                    shown.push('$');
                    shown.push_str(name);
                }
                (hidden, last) = (at + value.len(), name);
            }
            _ if at >= hidden => shown.push(c),
            _ => {}
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_given_is_remembered_once() {
        let mut before = String::new();
        for (name, value, max, added, want) in [
            ("OPTS", "-Dpassword=hunter22", 100, true, "OPTS=-Dpassword=hunter22\0"),
            ("OPTS", "-Dpassword=hunter22", 100, false, "OPTS=-Dpassword=hunter22\0"),
            // The end of another line is no line.
            ("password", "hunter22", 100, true, "OPTS=-Dpassword=hunter22\0password=hunter22\0"),
            ("key", "123456", 40, true, "password=hunter22\0key=123456\0"),
            ("large", "more than there is room for", 10, true, ""),
            ("exactly", "fits", 13, true, "exactly=fits\0"),
            ("too", "large", 9, true, ""),
        ] {
            let new = vec![(name.into(), value.into())];
            assert_eq!((remember(&mut before, &new, max), &*before), (added, want), "{name}");
        }
    }

    #[test]
    fn short_values_are_shown_unless_a_job_gave_them() {
        let envs = |pairs: &[(&str, &str)]| -> Envs {
            pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
        };
        let all = envs(&[("A", "short"), ("B", "at least"), ("C", "longest of all"), ("D", "job"), ("E", "")]);
        let of_job = envs(&[("D", "job"), ("E", "")]);
        let shown = |before: &str| secrets(all.clone(), Some(&of_job), before);
        assert_eq!(shown(""), envs(&[("C", "longest of all"), ("B", "at least"), ("D", "job")]));
        // What a job gave before counts too.
        let all = [("C", "longest of all"), ("B", "at least"), ("D", "older"), ("D", "job"), ("E", "=")];
        assert_eq!(shown("D=older\0E==\0"), envs(&all));
    }

    #[test]
    fn no_part_of_a_value_is_shown() {
        let (secret, lines) = ("a secret of some length", "two\nlines of a secret");
        let envs: Envs =
            [("SECRET", secret), ("SECRET", lines)].map(|(name, value)| (name.into(), value.into())).into();
        // Wherever what is shown begins.
        for padding in TAIL as usize - 60..TAIL as usize + 60 {
            for value in [secret, lines] {
                let text = format!("before {value}{} abc {value} \u{e9}nd", "x".repeat(padding));
                let shown = without_values(&text, &envs);
                assert!(shown.ends_with("x abc $SECRET \u{e9}nd"), "{padding}: {shown}");
                let first = shown.split("xxx").next().unwrap_or_default();
                assert!(["", "x"].contains(&first) || first.ends_with("$SECRET"), "{padding}: {shown}");
            }
        }
    }

    #[test]
    fn every_byte_of_any_value_is_hidden() {
        let envs = |values: &[&str]| -> Envs {
            let mut pairs = Vec::new();
            for (name, value) in ["A", "B", "C"].iter().zip(values) {
                pairs.push(((*name).into(), (*value).into()));
            }
            secrets(pairs, None, "")
        };
        for (values, text, want) in [
            (&["abcdef", "defghi"][..], "xabcdefghix defghi abcdef", "x$A$Bx $B $A"),
            (&["defghi", "abcdef"], "xabcdefghix", "x$B$Ax"),
            (&["abcdef", "defghi", "cdefghijk"], "abcdefghijkl", "$A$Cl"),
            (&["abcdef", "abcdefgh"], "abcdefgh abcdefg", "$B $Ag"),
            (&["abcdefgh", "cdefgh", "cdefghi"], "abcdefghi", "$A$C"),
            (&["abcabca"], "abcabcabcabc abcabcabcabcab", "$Abc $Ab"),
            (&["aaaaaa"], "aaaaaaaaaax", "$Ax"),
            (&["\u{e9}\u{e9}\u{e9}"], "\u{e9}\u{e9}\u{e9}\u{e9} \u{e9}", "$A \u{e9}"),
            (&["abcdef", "abcdef"], "abcdefabcdef", "$A$A"),
            (&["$A$A$A", "secret"], "secret $A$A$A", "$B $A"),
        ] {
            assert_eq!(replace_values(text, &envs(values)), want, "{values:?} in {text}");
        }
        // What is shown begins in the middle of one of them, which another one goes on.
        let envs = envs(&["abcdef", "defghi", "hijklmnop"]);
        for padding in TAIL as usize - 16..TAIL as usize + 1 {
            let shown = without_values(&format!("- abcdefghijklmnop{}", "x".repeat(padding)), &envs);
            let first = shown.trim_end_matches('x');
            assert!(["", "$C", "$B$C", "$A$B$C", " $A$B$C", "- $A$B$C"].contains(&first), "{padding}: {shown}");
        }
    }
}
