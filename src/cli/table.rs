//! The daemon's documents as tables that fit the terminal.
//!
//! JSON comes in and text goes out. Every key is optional, as the daemon may be of another version. No value reaches the
//! terminal with control characters in it.

use std::io::{self, IsTerminal};
use std::os::fd::AsFd;

use crate::sys::terminal;
use crate::text::{size, visible};
use crate::wire::json::{self, Value};

/// The width of a shortened last column, characters, before other columns are left out for it.
const LAST_WANTED: usize = 40;

/// The least width of a shortened last column, characters.
const LAST_MIN: usize = 20;

/// How far a text of the last column is indented that has a line of its own, characters.
const INDENT: usize = 4;

/// One column of a table.
pub struct Column {
    head: &'static str,
    /// The member that it shows.
    key: &'static str,
    /// Numbers are aligned to the right, texts to the left.
    is_number: bool,
}

impl Column {
    /// A column of texts.
    pub const fn text(head: &'static str, key: &'static str) -> Column {
        Column { head, key, is_number: false }
    }

    /// A column of numbers.
    pub const fn number(head: &'static str, key: &'static str) -> Column {
        Column { head, key, is_number: true }
    }
}

/// What the output goes to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Screen {
    /// Its width, columns; `None`: lines may be as long as they are.
    pub width: Option<usize>,
    /// Whether it shows colours.
    pub has_colours: bool,
}

impl Screen {
    /// That of standard output: `COLUMNS` or the terminal's own width, and colours on a terminal only, unless `NO_COLOR` is set
    /// (no-color.org).
    pub fn of_output() -> Screen {
        let variable = |name: &str| std::env::var(name).unwrap_or_default();
        let out = io::stdout();
        let is_terminal = out.is_terminal();
        let wanted = variable("COLUMNS").parse().ok().filter(|width| *width > 0);
        let own = if is_terminal { terminal::columns(out.as_fd()) } else { None };
        let has_colours = is_terminal && variable("NO_COLOR").is_empty() && variable("TERM") != "dumb";
        Screen { width: wanted.or(own), has_colours }
    }

    /// The text with the colour, where there are colours.
    pub fn coloured(self, text: &str, colour: Option<&str>) -> String {
        match colour.filter(|_| self.has_colours) {
            Some(colour) => format!("\x1b[{colour}m{text}\x1b[0m"),
            None => text.to_string(),
        }
    }
}

const JOBS: [Column; 7] = [
    Column::text("ID", "id"),
    Column::text("ACTION", "action"),
    Column::text("NAME", "name"),
    Column::text("STATE", "state"),
    Column::number("AGE", "age"),
    Column::number("CODE", "errcode"),
    Column::text("MESSAGE", "message"),
];

/// The ledger of jobs, one line each.
pub fn jobs(body: &Value, screen: Screen) -> String {
    let jobs = json::array(body).unwrap_or_default();
    if jobs.is_empty() {
        return "no jobs yet\n".to_string();
    }
    let mut text = String::new();
    let rows: Vec<&Value> = jobs.iter().collect();
    let shortened = align(&mut text, &JOBS, &["action", "age", "name"], &rows, screen, &|job, key| {
        let text = match key {
            "errcode" => shown(job, key, |code| (code as i64).to_string()),
            "age" => shown(job, key, duration),
            "state" => state_in_words(&text_of(job, key)),
            "message" => match text_of(job, key) {
                message if message.is_empty() => progress_in_words(text_of(job, "progress")),
                message => message,
            },
            _ => text_of(job, key),
        };
        (text, None)
    });
    if shortened {
        text.push_str("\n\"bootagent jobs --json\" shows all of MESSAGE\n");
    }
    text
}

/// A job's state for people: `done` alone would not say that the server has not heard of it yet.
fn state_in_words(state: &str) -> String {
    match state {
        "done" => "done, not sent",
        "taken" => "done, sent",
        other => other,
    }
    .to_string()
}

/// The progress of a download, `1572864 of 3145728 bytes`, for people: `1.5M of 3.0M`. Other texts stay what they are.
fn progress_in_words(progress: String) -> String {
    let Some(bytes) = progress.strip_suffix(" bytes") else { return progress };
    let in_units = |bytes: &str| bytes.parse::<u64>().ok().map(|bytes| size(bytes as f64));
    let sizes: Option<Vec<String>> = bytes.split(" of ").map(in_units).collect();
    sizes.map_or_else(|| progress.clone(), |sizes| sizes.join(" of "))
}

/// What a table shows in one place: a text, and its colour.
pub type Cell = (String, Option<&'static str>);

/// Makes what is shown of a row for a key.
pub type CellMaker<'c> = &'c dyn Fn(&Value, &str) -> Cell;

/// A column with what it shows.
struct Filled<'c> {
    column: &'c Column,
    cells: Vec<Cell>,
    /// That of the widest text, characters.
    width: usize,
}

/// Adds the rows to `text` in columns two spaces apart. On a narrow screen the columns `less_important` are left out one after
/// the other, and then the last column is shortened. Where even that would leave it too little, each of its texts gets a line
/// of its own below its row, and the other columns have all the room. Returns whether something is not shown.
pub fn align(
    text: &mut String,
    columns: &[Column],
    less_important: &[&str],
    rows: &[&Value],
    screen: Screen,
    cell: CellMaker<'_>,
) -> bool {
    let filled = columns.iter().map(|column| {
        let cells: Vec<Cell> = rows.iter().map(|row| cell(row, column.key)).collect();
        let widths = cells.iter().map(|(cell, _)| cell.chars().count());
        let width = widths.chain([column.head.len()]).max().unwrap_or(0);
        Filled { column, cells, width }
    });
    let mut filled: Vec<Filled<'_>> = filled.collect();
    let needs_lines = screen.width.is_some_and(|width| {
        let last = filled.last().map_or(0, |last| last.width.min(LAST_WANTED));
        let kept = filled.iter().rev().skip(1).filter(|filled| !less_important.contains(&filled.column.key));
        kept.map(|filled| filled.width + 2).sum::<usize>() + last > width
    });
    let last = if needs_lines { filled.pop() } else { None };
    let below = last.map_or(Vec::new(), |last| last.cells);
    let all = filled.len();
    let columns = fitting(filled, less_important, screen.width);
    let count = columns.len();
    let mut is_shortened = count < all;
    let mut lines = vec![String::new(); rows.len() + 1];
    let mut used = 0;
    for (index, Filled { column, cells, width }) in columns.into_iter().enumerate() {
        let room = screen.width.filter(|_| index + 1 == count).map(|width| width.saturating_sub(used).max(LAST_MIN));
        let cells = [(column.head.to_string(), None)].into_iter().chain(cells);
        for (line, (cell, colour)) in lines.iter_mut().zip(cells) {
            let cut = shortened(&cell, room.unwrap_or(usize::MAX));
            is_shortened |= cut.len() < cell.len();
            let blanks = " ".repeat(width.saturating_sub(cut.chars().count()));
            let cell = screen.coloured(&cut, colour);
            line.push_str(&if column.is_number { blanks + &cell } else { cell + &blanks });
            line.push_str("  ");
        }
        used += width + 2;
    }
    for (index, line) in lines.iter().enumerate() {
        text.push_str(line.trim_end_matches(' '));
        text.push('\n');
        // The first line has the headings.
        if let Some((cell, _)) =
            index.checked_sub(1).and_then(|row| below.get(row)).filter(|(cell, _)| !cell.is_empty())
        {
            let room = screen.width.map_or(usize::MAX, |width| width.saturating_sub(INDENT).max(LAST_MIN));
            let cut = shortened(cell, room);
            is_shortened |= cut.len() < cell.len();
            text.push_str(&format!("{:INDENT$}{cut}\n", ""));
        }
    }
    is_shortened
}

/// The columns that a screen of this width has room for.
fn fitting<'c>(mut columns: Vec<Filled<'c>>, less_important: &[&str], width: Option<usize>) -> Vec<Filled<'c>> {
    let Some(screen) = width else { return columns };
    for key in less_important {
        let others: usize = columns.iter().rev().skip(1).map(|column| column.width + 2).sum();
        let last = columns.last().map_or(0, |column| column.width);
        if others + last.min(LAST_WANTED) <= screen {
            break;
        }
        columns.retain(|filled| filled.column.key != *key);
    }
    columns
}

/// The text in at most `width` characters; what does not fit becomes `...`.
fn shortened(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_string();
    }
    text.chars().take(width.saturating_sub(3)).collect::<String>() + "..."
}

/// A member of an object.
pub fn member<'v>(value: &'v Value, key: &str) -> Option<&'v Value> {
    json::object(value)?.get(key)
}

/// A text member in one line; empty where there is none.
pub fn text_of(value: &Value, key: &str) -> String {
    member(value, key).map(plain).unwrap_or_default()
}

/// A text in one line, without control characters.
pub fn plain(value: &Value) -> String {
    visible(json::text(value).unwrap_or_default()).replace('\n', " ")
}

/// A number member; 0 where there is none.
pub fn number_of(value: &Value, key: &str) -> f64 {
    member(value, key).and_then(json::number).unwrap_or(0.0)
}

/// A number as `show` formats it, `-` where there is none.
pub fn shown(value: &Value, key: &str, show: fn(f64) -> String) -> String {
    member(value, key).and_then(json::number).map_or("-".to_string(), show)
}

/// The two greatest units of a time in seconds: `3d4h`, `5m12s`.
pub fn duration(seconds: f64) -> String {
    // The cast saturates, and a NaN becomes 0.
    let seconds = seconds as u64;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{minutes}m{}s", seconds % 60),
        3600..86400 => format!("{hours}h{}m", minutes % 60),
        _ => format!("{days}d{}h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_are_aligned() {
        let body = r#"[{"id":"a-1","action":"install","name":"web","state":"taken","errcode":0,"message":"success","age":90},
            {"id":"b","action":"config","name":"","state":"downloading","progress":"1572864 of 3145728 bytes"}]"#;
        let body = json::parse(body, 8).unwrap();
        let want = "\
ID   ACTION   NAME  STATE          AGE  CODE  MESSAGE
a-1  install  web   done, sent   1m30s     0  success
b    config         downloading      -     -  1.5M of 3.0M
";
        assert_eq!(jobs(&body, Screen::default()), want);
        let narrow = Screen { width: Some(40), has_colours: false };
        let want = "\
ID   STATE        CODE  MESSAGE
a-1  done, sent      0  success
b    downloading     -  1.5M of 3.0M

\"bootagent jobs --json\" shows all of MESSAGE
";
        assert_eq!(jobs(&body, narrow), want);
        assert_eq!(jobs(&json::parse("[]", 8).unwrap(), narrow), "no jobs yet\n");
    }

    #[test]
    fn progress_is_told_in_units() {
        for (progress, want) in [
            ("1572864 of 3145728 bytes", "1.5M of 3.0M"),
            ("100 bytes", "100B"),
            ("waits for \"a1\"", "waits for \"a1\""),
            ("many bytes", "many bytes"),
            ("1e3 bytes", "1e3 bytes"),
            ("", ""),
        ] {
            assert_eq!(progress_in_words(progress.to_string()), want);
        }
    }

    #[test]
    fn long_names_leave_the_last_column_lines_of_its_own() {
        let id = "a".repeat(20);
        let body = format!(
            "[{{\"id\":\"{id}\",\"action\":\"install\",\"name\":\"web\",\"state\":\"taken\",\"errcode\":7,\"message\":\"{}\"}},\
             {{\"id\":\"b\",\"action\":\"start\",\"name\":\"web\",\"state\":\"starting\"}}]",
            "m".repeat(90)
        );
        let want = format!(
            "{:20}  ACTION   NAME  STATE       AGE  CODE\n{id}  install  web   done, sent    -     7\n    {}...\n{:20}  start    \
             web   starting      -     -\n\n\"bootagent jobs --json\" shows all of MESSAGE\n",
            "ID",
            "m".repeat(53),
            "b"
        );
        let screen = Screen { width: Some(60), has_colours: false };
        assert_eq!(jobs(&json::parse(&body, 8).unwrap(), screen), want);
    }

    #[test]
    fn a_text_is_shortened_to_its_width() {
        for (text, width, want) in
            [("short", 5, "short"), ("longer", 5, "lo..."), ("\u{e4}\u{e4}\u{e4}\u{e4}", 3, "..."), ("", 0, "")]
        {
            assert_eq!(shortened(text, width), want);
        }
    }

    #[test]
    fn durations() {
        for (seconds, want) in
            [(0.0, "0s"), (59.9, "59s"), (60.0, "1m0s"), (3600.0, "1h0m"), (90061.0, "1d1h"), (-1.0, "0s")]
        {
            assert_eq!(duration(seconds), want);
        }
    }
}
