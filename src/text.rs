//! Texts for people: counted things, and what may go into a log, to a terminal or to a server.
//!
//! Texts of any origin come in: of an agent, a package, a server, a file's name. What comes out is on one line and of
//! bounded length, and cannot change how a terminal shows the text around it.

/// A number of things: `1 agent`, `2 agents`.
pub fn count(number: u64, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

/// How many words a suggestion names at most.
const SUGGESTED_MAX: usize = 5;

/// The question for somebody who wrote `word` and most likely meant one of `known`: one that differs in case, those that begin
/// with it, those that are spelled nearly so, or one that it begins with; in this order.
pub fn suggestion(word: &str, known: &[&str]) -> Option<String> {
    // Of those that are as near, one with the same first letter is meant.
    let far = |known: &str| (distance(word, known), known.as_bytes().first() != word.as_bytes().first());
    let nearest = known.iter().map(|known| far(known)).min()?;
    let all =
        |is_meant: &dyn Fn(&str) -> bool| known.iter().copied().filter(|known| is_meant(known)).collect::<Vec<_>>();
    let beginning = all(&|known| known.starts_with(word));
    let meant = match (nearest.0, beginning.len()) {
        (1.., 1..=SUGGESTED_MAX) if !word.is_empty() => beginning,
        (changes, _) if changes <= CHANGES_MAX.min(word.len().div_ceil(2)) && changes < word.len() => {
            all(&|known| far(known) == nearest)
        }
        _ => {
            let begun = all(&|known| known.len() > 2 && word.starts_with(known));
            vec![begun.into_iter().max_by_key(|known| known.len())?]
        }
    };
    Some(format!("did you mean \"{}\"?", meant.join("\" or \"")))
}

/// How many changes at most a word that was meant is away from what was written.
const CHANGES_MAX: usize = 2;

/// The edit distance: how many bytes must be changed, inserted, removed, or exchanged with the next one, to turn `a` into `b`;
/// case does not count. Any great number where the lengths alone make it more than `CHANGES_MAX`.
fn distance(a: &str, b: &str) -> usize {
    if a.len().abs_diff(b.len()) > CHANGES_MAX {
        return usize::MAX;
    }
    let (a, b) = (a.to_ascii_lowercase().into_bytes(), b.to_ascii_lowercase().into_bytes());
    // The entry `j` of row `i` is the distance of the first `i` bytes of `a` and the first `j` of `b`.
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let changed = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = changed.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

/// A number with one decimal, also where that is 0, so that columns stay aligned.
pub fn tenths(number: f64) -> String {
    let tenths = (number * 10.0).round() as u64;
    format!("{}.{}", tenths / 10, tenths % 10)
}

/// A size in bytes with a unit, in powers of 1024.
pub fn size(bytes: f64) -> String {
    let mut value = bytes;
    for unit in ["B", "K", "M", "G"] {
        if value < 1023.5 {
            let whole = value >= 9.95 || unit == "B";
            return if whole { (value.round() as u64).to_string() } else { tenths(value) } + unit;
        }
        value /= 1024.0;
    }
    tenths(value) + "T"
}

/// A size in bytes exactly, with the unit that people most likely gave it in: `8M`, `100000 bytes`.
pub fn exact_size(bytes: u64) -> String {
    match in_units(bytes) {
        (bytes, "") => format!("{bytes} bytes"),
        (value, unit) => format!("{value}{unit}"),
    }
}

/// A size in bytes as a whole number of the greatest unit.
pub fn in_units(bytes: u64) -> (u64, &'static str) {
    let mut value = bytes;
    let mut units = ["", "K", "M", "G"].into_iter().peekable();
    let mut unit = units.next();
    while value > 0 && value % 1024 == 0 && units.peek().is_some() {
        value /= 1024;
        unit = units.next();
    }
    (value, unit.unwrap_or_default())
}

/// The longest message of a result or a report, in bytes.
pub const MESSAGE_MAX: usize = 1024;

/// Ranges of invisible characters, in their order. They change how the characters around them are shown, or carry text
/// that nobody sees: all of the general category Cf (bidirectional marks, overrides and isolates, zero-width characters,
/// tags), and what else a terminal shows as nothing (variation selectors, fillers, and what Unicode reserves for them).
const INVISIBLE: [(u32, u32); 25] = [
    (0x00ad, 0x00ad),
    (0x034f, 0x034f),
    (0x0600, 0x0605),
    (0x061c, 0x061c),
    (0x06dd, 0x06dd),
    (0x070f, 0x070f),
    (0x0890, 0x0891),
    (0x08e2, 0x08e2),
    (0x115f, 0x1160),
    (0x17b4, 0x17b5),
    (0x180b, 0x180f),
    (0x200b, 0x200f),
    (0x202a, 0x202e),
    (0x2060, 0x206f),
    (0x3164, 0x3164),
    (0xfe00, 0xfe0f),
    (0xfeff, 0xfeff),
    (0xffa0, 0xffa0),
    (0xfff0, 0xfffb),
    (0x110bd, 0x110bd),
    (0x110cd, 0x110cd),
    (0x13430, 0x1343f),
    (0x1bca0, 0x1bca3),
    (0x1d173, 0x1d17a),
    (0xe0000, 0xe0fff),
];

/// `text` for a terminal: without invisible characters, and with a space for each control character except the line feed.
pub fn visible(text: &str) -> String {
    let is_visible = |c: &char| !INVISIBLE.iter().any(|(first, last)| (*first..=*last).contains(&u32::from(*c)));
    text.chars().filter(is_visible).map(|c| if c.is_control() && c != '\n' { ' ' } else { c }).collect()
}

/// `text` on one line of at most `max` bytes. Runs of white space and control characters become one space, line ends
/// become " | ", invisible characters are left out, and the middle of a longer text becomes " ... ", as both its
/// beginning and its last lines matter. Every text of another origin goes through here before it is logged, shown or sent.
pub fn sanitize(text: &str, max: usize) -> String {
    let mut line = String::with_capacity(text.len().min(max));
    let text = visible(text);
    for part in text.lines() {
        let mut words = part.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
        let Some(first) = words.next() else { continue };
        if !line.is_empty() {
            line.push_str(" | ");
        }
        line.push_str(first);
        for word in words {
            line.push(' ');
            line.push_str(word);
        }
    }
    if line.len() <= max {
        return line;
    }
    const GAP: &str = " ... ";
    let half = max.saturating_sub(GAP.len()) / 2;
    let mut head = half;
    while !line.is_char_boundary(head) {
        head -= 1;
    }
    let mut tail = line.len() - half;
    while !line.is_char_boundary(tail) {
        tail += 1;
    }
    format!("{}{GAP}{}", &line[..head], &line[tail..])
}

/// `ID` and `VERSION_ID` out of the text of os-release(5), such as `debian 12`; without a version the id alone, and empty
/// without an id. In a value that is quoted, no character is escaped that these two may hold.
pub fn os_release(text: &str) -> String {
    let (mut id, mut version) = ("", "");
    for line in text.lines() {
        match line.split_once('=') {
            Some(("ID", value)) => id = value,
            Some(("VERSION_ID", value)) => version = value,
            _ => {}
        }
    }
    let [id, version] = [id, version].map(|value| value.trim_matches(['"', '\'', ' ']));
    if id.is_empty() {
        return String::new();
    }
    sanitize(&[id, version].join(" "), 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operating_system_is_read() {
        for (text, want) in [
            ("PRETTY_NAME=\"Debian 12\"\nID=debian\nVERSION_ID=\"12\"\nID_LIKE=x\n", "debian 12"),
            ("ID='rhel'\r\nVERSION_ID='9.4'\r\n", "rhel 9.4"),
            ("# ID=no\nID=arch\nBUILD_ID=rolling", "arch"),
            ("ID=one\nID=two\nVERSION_ID=\"\"", "two"),
            ("VERSION_ID=\"12\"", ""),
            ("", ""),
        ] {
            assert_eq!(os_release(text), want, "{text}");
        }
    }

    #[test]
    fn what_was_meant_is_suggested() {
        let known =
            ["cputime", "CPU", "memory", "nofile", "nproc", "status", "start", "run", "restart", "reload", "restore"];
        for (word, want) in [
            ("mem", "memory"),
            ("m", "memory"),
            ("cpu", "CPU"),
            ("CPu", "CPU"),
            ("stat", "status"),
            ("st", "status|start"),
            ("re", "restart|reload|restore"),
            ("strat", "start"),
            ("memroy", "memory"),
            ("rnu", "run"),
            ("rn", "run"),
            ("restarted", "restart"),
            ("memory_limit", "memory"),
            ("x", ""),
            ("dance", ""),
            ("", ""),
        ] {
            let want = want.split('|').collect::<Vec<_>>().join("\" or \"");
            let want = Some(format!("did you mean \"{want}\"?")).filter(|_| !want.is_empty());
            assert_eq!(suggestion(word, &known), want, "{word}");
        }
        let many = ["aa", "ab", "ac", "ad", "ae", "af"];
        assert_eq!(suggestion("a", &many), None, "too many to be of help");
    }

    #[test]
    fn sizes() {
        for (bytes, want) in [
            (0.0, "0B"),
            (1023.0, "1023B"),
            (1024.0, "1.0K"),
            (10485760.0, "10M"),
            (1.5 * 1073741824.0, "1.5G"),
            (1023.9 * 1048576.0, "1.0G"),
            (3e12, "2.7T"),
        ] {
            assert_eq!(size(bytes), want);
        }
    }

    #[test]
    fn exact_sizes_have_the_unit_that_was_given() {
        for (bytes, want) in [
            (0, "0 bytes"),
            (1000, "1000 bytes"),
            (1536, "1536 bytes"),
            (2048, "2K"),
            (8 << 20, "8M"),
            ((8 << 20) + 1, "8388609 bytes"),
            (3 << 29, "1536M"),
            (5 << 30, "5G"),
            (1 << 50, "1048576G"),
        ] {
            assert_eq!(exact_size(bytes), want);
        }
    }

    #[test]
    fn one_thing_is_singular() {
        for (number, want) in [(0, "0 early ends"), (1, "1 early end"), (2, "2 early ends")] {
            assert_eq!(count(number, "early end"), want);
        }
    }

    #[test]
    fn sanitized_texts_are_short_and_on_one_visible_line() {
        for (text, max, want) in [
            ("a\u{202e}b\u{2066}c\u{200b}d\u{feff}e\u{e0041}f\u{e007f}g\u{ad}h", 100, "abcdefgh"),
            ("a\u{2028}b\u{2029}c\u{85}d\u{9b}e", 100, "a b c d e"),
            ("\u{200d}\u{202a}", 100, ""),
            (
                "\u{e9}t\u{e9} \u{4e2d}\u{6587} \u{1f600} e\u{301}",
                100,
                "\u{e9}t\u{e9} \u{4e2d}\u{6587} \u{1f600} e\u{301}",
            ),
            ("one\ttwo\n\n  three\x07\n", 100, "one two | three"),
            ("", 100, ""),
            ("abcdefghijklmnop", 15, "abcde ... lmnop"),
            ("äääääääääää", 15, "ää ... ää"),
        ] {
            assert_eq!(sanitize(text, max), want);
        }
        assert!(sanitize(&"x".repeat(5000), MESSAGE_MAX).len() <= MESSAGE_MAX);
    }
}
