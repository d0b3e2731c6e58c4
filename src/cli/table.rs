//! The daemon's documents as tables.
//!
//! JSON comes in and text goes out. Every key is optional, as the daemon may be of another version. No value reaches the
//! terminal with control characters in it.

use std::path::Path;

use crate::text::visible;
use crate::wire::json::{self, Value};

/// How much of an agent's detail is shown in a table of several, characters; a single agent's is shown in full.
const DETAIL_MAX: usize = 72;

/// One column of a table.
struct Column {
    head: &'static str,
    /// The member that it shows.
    key: &'static str,
    /// Numbers are aligned to the right, texts to the left.
    is_number: bool,
}

const fn text_column(head: &'static str, key: &'static str) -> Column {
    Column { head, key, is_number: false }
}

const fn number_column(head: &'static str, key: &'static str) -> Column {
    Column { head, key, is_number: true }
}

const AGENTS: [Column; 9] = [
    text_column("NAME", "name"),
    text_column("VERSION", "version"),
    text_column("STATE", "status"),
    number_column("UPTIME", "uptime"),
    number_column("PID", "pid"),
    number_column("CPU", "cpu"),
    number_column("MEM", "memory"),
    number_column("FAILURES", "failures"),
    text_column("DETAIL", "detail"),
];

const JOBS: [Column; 6] = [
    text_column("ID", "id"),
    text_column("ACTION", "action"),
    text_column("NAME", "name"),
    text_column("STATE", "state"),
    number_column("CODE", "errcode"),
    text_column("MESSAGE", "message"),
];

/// The status report: a line about the daemon, one for each trouble of the host, one where no server takes reports, and then
/// one for each agent.
pub fn status(body: &Value, agents_dir: &Path) -> String {
    let mut text = format!(
        "{}  {}  up {}  reports every {}\n\n",
        text_of(body, "hostname"),
        text_of(body, "version"),
        duration(number_of(body, "uptime")),
        duration(number_of(body, "step")),
    );
    let troubles = member(body, "troubles").and_then(json::array).unwrap_or_default();
    for trouble in troubles {
        text.push_str(&plain(trouble));
        text.push('\n');
    }
    let silence = member(body, "silence").map(|_| duration(number_of(body, "silence")));
    if let Some(silence) = &silence {
        text.push_str(&format!("no server has taken a report for {silence}: \"bootagent report\" says why\n"));
    }
    if silence.is_some() || !troubles.is_empty() {
        text.push('\n');
    }
    let agents = member(body, "agents").and_then(json::array).unwrap_or_default();
    if agents.is_empty() {
        text.push_str(&format!(
            "no agents: put a definition NAME.json into \"{}\" and send SIGHUP, or have the server send an install job\n",
            agents_dir.display()
        ));
        return text;
    }
    let is_single = agents.len() == 1;
    align(&mut text, &AGENTS, agents, &|agent, key| match key {
        "uptime" | "pid" if number_of(agent, "pid") == 0.0 => "-".to_string(),
        "uptime" => duration(number_of(agent, key)),
        "cpu" => shown(agent, key, |cpu| tenths(cpu) + "%"),
        "memory" => shown(agent, key, size),
        "pid" | "failures" => (number_of(agent, key) as u64).to_string(),
        "detail" if !is_single => shortened(text_of(agent, key)),
        _ => text_of(agent, key),
    });
    let limits = text_of(&agents[0], "job_limits");
    if is_single && !limits.is_empty() {
        text.push_str(&format!("\nlimits given by a job, over the definition's: {limits}\n"));
    }
    if !is_single && agents.iter().any(|agent| text_of(agent, "detail").chars().count() > DETAIL_MAX) {
        text.push_str("\n\"bootagent status NAME\" shows all of DETAIL\n");
    }
    text
}

/// Whether the daemon reports troubles of the host.
pub fn has_troubles(body: &Value) -> bool {
    member(body, "troubles").is_some()
}

fn shortened(text: String) -> String {
    match text.char_indices().nth(DETAIL_MAX) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

/// The ledger of jobs, one line each.
pub fn jobs(body: &Value) -> String {
    let jobs = json::array(body).unwrap_or_default();
    if jobs.is_empty() {
        return "no jobs yet\n".to_string();
    }
    let mut text = String::new();
    align(&mut text, &JOBS, jobs, &|job, key| match key {
        "errcode" => shown(job, key, |code| (code as i64).to_string()),
        "message" => match text_of(job, key) {
            message if message.is_empty() => text_of(job, "progress"),
            message => message,
        },
        _ => text_of(job, key),
    });
    text
}

/// Adds the rows to `text` in columns two spaces apart; `cell` makes the text of a row's value for a key.
fn align(text: &mut String, columns: &[Column], rows: &[Value], cell: &dyn Fn(&Value, &str) -> String) {
    let mut lines = vec![String::new(); rows.len() + 1];
    for column in columns {
        let mut cells = vec![column.head.to_string()];
        for row in rows {
            cells.push(cell(row, column.key));
        }
        let width = cells.iter().map(|cell| cell.chars().count()).max().unwrap_or(0);
        for (line, cell) in lines.iter_mut().zip(&cells) {
            let blanks = std::iter::repeat_n(' ', width - cell.chars().count());
            if column.is_number {
                line.extend(blanks);
                line.push_str(cell);
            } else {
                line.push_str(cell);
                line.extend(blanks);
            }
            line.push_str("  ");
        }
    }
    for line in &lines {
        text.push_str(line.trim_end_matches(' '));
        text.push('\n');
    }
}

fn member<'v>(value: &'v Value, key: &str) -> Option<&'v Value> {
    json::object(value)?.get(key)
}

fn text_of(value: &Value, key: &str) -> String {
    member(value, key).map(plain).unwrap_or_default()
}

/// A text in one line, without control characters.
fn plain(value: &Value) -> String {
    visible(json::text(value).unwrap_or_default()).replace('\n', " ")
}

fn number_of(value: &Value, key: &str) -> f64 {
    member(value, key).and_then(json::number).unwrap_or(0.0)
}

/// A number as `show` formats it, `-` where there is none.
fn shown(value: &Value, key: &str, show: fn(f64) -> String) -> String {
    member(value, key).and_then(json::number).map_or("-".to_string(), show)
}

/// The two greatest units of a time in seconds: `3d4h`, `5m12s`.
fn duration(seconds: f64) -> String {
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

/// A number with one decimal, also where that is 0, so that columns stay aligned.
fn tenths(number: f64) -> String {
    let tenths = (number * 10.0).round() as u64;
    format!("{}.{}", tenths / 10, tenths % 10)
}

/// A size in bytes with a unit, in powers of 1024.
fn size(bytes: f64) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents_are_aligned() {
        let body = r#"{"hostname":"web-01","version":"bootagent-1.0.0-x86_64","uptime":273600,"step":600,"agents":[
            {"name":"a","version":"1","status":"running","uptime":312,"pid":4711,"failures":0,"detail":"","cpu":1.54,
             "memory":10485760},
            {"name":"longer","version":"1.2.3","status":"stoped","uptime":0,"pid":0,"failures":2,
             "detail":"exited with\nstatus 1"}]}"#;
        let body = json::parse(body, 8).unwrap();
        let want = "\
web-01  bootagent-1.0.0-x86_64  up 3d4h  reports every 10m0s

NAME    VERSION  STATE    UPTIME   PID   CPU  MEM  FAILURES  DETAIL
a       1        running   5m12s  4711  1.5%  10M         0
longer  1.2.3    stoped        -     -     -    -         2  exited with status 1
";
        assert_eq!(status(&body, Path::new("/etc/x")), want);
    }

    #[test]
    fn troubles_stand_before_the_agents() {
        let body = r#"{"hostname":"a","version":"b","silence":3700,"troubles":["cannot write \"/run/\u001bx\"","b"],"agents":[]}"#;
        let table = status(&json::parse(body, 8).unwrap(), Path::new("/etc/x"));
        let (head, agents) = table.split_once("\n\n").unwrap();
        assert!(head.starts_with("a  b  up 0s"), "{table}");
        let silence = "no server has taken a report for 1h1m: \"bootagent report\" says why";
        assert!(agents.starts_with(&format!("cannot write \"/run/ x\"\nb\n{silence}\n\nno agents: ")), "{table}");
    }

    #[test]
    fn a_long_detail_is_whole_only_for_one_agent() {
        let agent = format!("{{\"name\":\"a\",\"detail\":\"{}\"}}", "ä".repeat(100));
        let table = |agents: &str| {
            let body = json::parse(&format!("{{\"agents\":[{agents}]}}"), 8).unwrap();
            status(&body, Path::new("/etc/x"))
        };
        assert!(table(&agent).contains(&"ä".repeat(100)));
        let two = table(&format!("{agent},{agent}"));
        assert!(two.contains(&format!("{}...\n", "ä".repeat(72))) && !two.contains(&"ä".repeat(73)), "{two}");
        let hint = "\n\n\"bootagent status NAME\" shows all of DETAIL\n";
        assert!(two.ends_with(hint) && !table(&agent).contains("NAME\""), "{two}");
        let short = "{\"name\":\"a\",\"job_limits\":\"CPU=1%\"}";
        let limits = "limits given by a job, over the definition's: CPU=1%";
        assert!(table(short).ends_with(&format!("\n\n{limits}\n")), "{}", table(short));
        let two = table(&format!("{short},{short}"));
        assert!(!two.contains(limits) && !two.contains("NAME\""), "{two}");
    }

    #[test]
    fn a_host_without_agents_says_what_to_do() {
        let body = json::parse("{\"agents\":[]}", 8).unwrap();
        assert!(status(&body, Path::new("/etc/x")).contains("no agents: put a definition NAME.json into \"/etc/x\""));
    }

    #[test]
    fn jobs_are_aligned() {
        let body = r#"[{"id":"a-1","action":"install","name":"web","state":"taken","errcode":0,"message":"success"},
            {"id":"b","action":"config","name":"","state":"downloading","progress":"1.5 MB of 3.0 MB"}]"#;
        let want = "\
ID   ACTION   NAME  STATE        CODE  MESSAGE
a-1  install  web   taken           0  success
b    config         downloading     -  1.5 MB of 3.0 MB
";
        assert_eq!(jobs(&json::parse(body, 8).unwrap()), want);
        assert_eq!(jobs(&json::parse("[]", 8).unwrap()), "no jobs yet\n");
    }

    #[test]
    fn durations_and_sizes() {
        for (seconds, want) in
            [(0.0, "0s"), (59.9, "59s"), (60.0, "1m0s"), (3600.0, "1h0m"), (90061.0, "1d1h"), (-1.0, "0s")]
        {
            assert_eq!(duration(seconds), want);
        }
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
}
