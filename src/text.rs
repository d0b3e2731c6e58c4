//! Finding, replacing and counting in short texts. The library's own ways are made for long ones, and ten times the code.

/// Where `part` begins in `text` for the first time; an empty part is nowhere.
pub fn find(text: &str, part: &str) -> Option<usize> {
    let windows = text.len().checked_sub(part.len()).filter(|_| !part.is_empty())?;
    (0..=windows).find(|&at| text.as_bytes()[at..].starts_with(part.as_bytes()))
}

/// What is before and what is behind the first `part` in `text`.
pub fn split_once<'t>(text: &'t str, part: &str) -> Option<(&'t str, &'t str)> {
    find(text, part).map(|at| (&text[..at], &text[at + part.len()..]))
}

/// The text with `new` for each `part`.
pub fn replace(mut text: &str, part: &str, new: &str) -> String {
    let mut replaced = String::with_capacity(text.len());
    while let Some((before, behind)) = split_once(text, part) {
        replaced.push_str(before);
        replaced.push_str(new);
        text = behind;
    }
    replaced + text
}

/// So many of a thing: `1 agent`, `2 agents`.
pub fn count(number: u64, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_not_many() {
        for (number, want) in [(0, "0 early ends"), (1, "1 early end"), (2, "2 early ends")] {
            assert_eq!(count(number, "early end"), want);
        }
    }

    #[test]
    fn as_the_library_does() {
        for text in ["", "a", "aa", "ab://c://d", "\u{e9}a\u{e9}", "://", "x".repeat(300).as_str()] {
            for part in ["a", "aa", "://", "\u{e9}", "x", "no"] {
                assert_eq!(find(text, part), text.find(part), "{text} {part}");
                assert_eq!(split_once(text, part), text.split_once(part), "{text} {part}");
                for new in ["", "***", part] {
                    assert_eq!(replace(text, part, new), text.replace(part, new), "{text} {part} {new}");
                }
            }
            assert_eq!(replace(text, "", "x"), text);
        }
    }
}
