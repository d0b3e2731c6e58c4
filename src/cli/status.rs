//! The status report as people read it: counts first, then what is in trouble.
//!
//! JSON comes in and text goes out. Every key is optional, as the daemon may be of another version.

use std::path::Path;

use super::table::{align, duration, member, number_of, plain, shown, text_of, Column, Screen};
use crate::model::spec::Name;
use crate::text::{size, tenths};
use crate::wire::json::{self, Value};

const COLUMNS: [Column; 9] = [
    Column::text("NAME", "name"),
    Column::text("VERSION", "version"),
    Column::text("STATE", "status"),
    Column::number("UPTIME", "uptime"),
    Column::number("PID", "pid"),
    Column::number("CPU", "cpu"),
    Column::number("MEM", "memory"),
    Column::number("FAILURES", "failures"),
    Column::text("DETAIL", "detail"),
];

/// The columns that are left out one after the other where the terminal is too narrow.
const LESS_IMPORTANT: [&str; 6] = ["failures", "cpu", "memory", "version", "pid", "uptime"];

/// The states in the order in which they are counted, and as people spell them.
const STATES: [(&str, &str); 4] =
    [("running", "running"), ("stoped", "stopped"), ("killed", "killed"), ("fatal", "fatal")];

/// The report: how many agents are in which state, a line about the daemon, one for each trouble of the host, and one for
/// each agent.
pub fn status(body: &Value, agents_dir: &Path, screen: Screen) -> String {
    let agents = agents(body);
    let mut text = format!("{}\n{}\n", counts(agents), about_daemon(body));
    text.push_str(&troubles(body));
    text.push('\n');
    if agents.is_empty() {
        text.push_str(&format!(
            "no agents: put a definition NAME.json into \"{}\" and run \"bootagent reload\" (\"bootagent example\" prints \
             one), or have the server send an install job\n",
            agents_dir.display()
        ));
        return text;
    }
    let mut rows: Vec<&Value> = agents.iter().collect();
    rows.sort_by_key(|agent| rank(agent));
    let shortened = align(&mut text, &COLUMNS, &LESS_IMPORTANT, &rows, screen, &cell);
    if shortened {
        text.push_str("\n\"bootagent status NAME\" shows all about an agent\n");
    }
    text
}

/// All about one agent, one line for each fact.
pub fn status_of_one(body: &Value, screen: Screen) -> String {
    let Some(agent) = agents(body).first() else { return String::new() };
    let mut facts: Vec<(String, String)> = Vec::new();
    for (heading, key) in [
        ("state", "status"),
        ("detail", "detail"),
        ("version", "version"),
        ("uptime", "uptime"),
        ("pid", "pid"),
        ("CPU", "cpu"),
        ("memory", "memory"),
        ("abnormal ends in a row", "failures"),
    ] {
        facts.push((heading.to_string(), cell(agent, key).0));
    }
    for fact in member(body, "about").and_then(json::array).unwrap_or_default() {
        if let Some([heading, text]) = json::array(fact) {
            facts.push((plain(heading), plain(text)));
        }
    }
    facts.push(("limits held by".to_string(), text_of(agent, "limits_by")));
    facts.push(("limits given by a job".to_string(), text_of(agent, "job_limits")));
    facts.retain(|(_, text)| !matches!(text.as_str(), "" | "-"));
    let width = facts.iter().map(|(heading, _)| heading.chars().count()).max().unwrap_or(0);
    let mut text = format!("{}\n", text_of(agent, "name"));
    for (heading, fact) in &facts {
        let colour = if heading == "state" { colour(agent) } else { None };
        text.push_str(&format!("  {heading:width$}  {}\n", screen.coloured(fact, colour)));
    }
    text + &troubles(body)
}

/// Whether the one agent of the report runs.
pub fn is_running(body: &Value) -> bool {
    matches!(agents(body), [agent] if text_of(agent, "status") == "running")
}

/// Whether the daemon reports a trouble with something below `dir`.
pub fn has_trouble_with(body: &Value, dir: &str) -> bool {
    let troubles = member(body, "troubles").and_then(json::array).unwrap_or_default();
    troubles.iter().filter_map(json::text).any(|trouble| trouble.contains(dir))
}

/// The names of the agents in the report.
pub fn names(body: &Value) -> Vec<Name> {
    agents(body).iter().map(|agent| text_of(agent, "name").as_str().into()).collect()
}

fn agents(body: &Value) -> &[Value] {
    member(body, "agents").and_then(json::array).unwrap_or_default()
}

/// `60 agents: 57 running, 2 stopped, 1 fatal`.
fn counts(agents: &[Value]) -> String {
    let mut parts = Vec::new();
    for (state, spelled) in STATES {
        let count = agents.iter().filter(|agent| text_of(agent, "status") == state).count();
        if count > 0 {
            parts.push(format!("{count} {spelled}"));
        }
    }
    let total = crate::text::count(agents.len() as u64, "agent");
    if parts.is_empty() {
        return total;
    }
    format!("{total}: {}", parts.join(", "))
}

fn about_daemon(body: &Value) -> String {
    format!(
        "{}  {}  up {}  reports every {}",
        text_of(body, "hostname"),
        text_of(body, "version"),
        duration(number_of(body, "uptime")),
        duration(number_of(body, "step")),
    )
}

/// A line for each trouble of the host, after an empty one.
fn troubles(body: &Value) -> String {
    let troubles = member(body, "troubles").and_then(json::array).unwrap_or_default();
    let mut lines: Vec<String> = troubles.iter().map(plain).collect();
    if member(body, "silence").is_some() {
        let silence = duration(number_of(body, "silence"));
        lines.push(format!("no server has taken a report for {silence}: \"bootagent report\" says why"));
    }
    lines.iter().map(|line| format!("\n{line}")).collect::<String>() + if lines.is_empty() { "" } else { "\n" }
}

/// Where the agent stands in the table: those in trouble first, and those that were stopped on purpose last.
fn rank(agent: &Value) -> usize {
    match (text_of(agent, "status").as_str(), text_of(agent, "detail").is_empty()) {
        ("fatal", _) => 0,
        ("killed", _) => 1,
        ("stoped", false) => 2,
        ("running", false) => 3,
        ("running", true) => 4,
        ("stoped", true) => 5,
        _ => 0,
    }
}

fn cell(agent: &Value, key: &str) -> (String, Option<&'static str>) {
    let text = match key {
        "uptime" | "pid" if number_of(agent, "pid") == 0.0 => "-".to_string(),
        "uptime" => duration(number_of(agent, key)),
        "cpu" => shown(agent, key, |cpu| tenths(cpu) + "%"),
        "memory" => shown(agent, key, size),
        "pid" | "failures" => (number_of(agent, key) as u64).to_string(),
        "status" => {
            let state = text_of(agent, key);
            STATES.iter().find(|(known, _)| *known == state).map_or(state, |(_, spelled)| spelled.to_string())
        }
        "version" if text_of(agent, key).is_empty() => "-".to_string(),
        _ => text_of(agent, key),
    };
    (text, if key == "status" { colour(agent) } else { None })
}

/// The colour of the agent's state, as SGR parameters of a terminal (ECMA-48).
fn colour(agent: &Value) -> Option<&'static str> {
    match text_of(agent, "status").as_str() {
        "fatal" | "killed" => Some("1;31"),
        "running" => Some("32"),
        _ if text_of(agent, "detail").is_empty() => None,
        _ => Some("33"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(body: &str, width: Option<usize>) -> String {
        status(&json::parse(body, 8).unwrap(), Path::new("/etc/x"), Screen { width, has_colours: false })
    }

    const THREE: &str = r#"{"hostname":"web-01","version":"bootagent-1.0.0-x86_64","uptime":273600,"step":600,"agents":[
        {"name":"a","version":"1","status":"running","uptime":312,"pid":4711,"failures":0,"detail":"","cpu":1.54,
         "memory":10485760},
        {"name":"c","version":"1","status":"fatal","failures":4,"detail":"exited with status 7"},
        {"name":"longer","version":"1.2.3","status":"stoped","uptime":0,"pid":0,"failures":2,
         "detail":"exited with\nstatus 1"}]}"#;

    #[test]
    fn trouble_stands_first() {
        let want = "\
3 agents: 1 running, 1 stopped, 1 fatal
web-01  bootagent-1.0.0-x86_64  up 3d4h  reports every 10m0s

NAME    VERSION  STATE    UPTIME   PID   CPU  MEM  FAILURES  DETAIL
c       1        fatal         -     -     -    -         4  exited with status 7
longer  1.2.3    stopped       -     -     -    -         2  exited with status 1
a       1        running   5m12s  4711  1.5%  10M         0
";
        assert_eq!(shown(THREE, None), want);
    }

    #[test]
    fn a_narrow_screen_is_not_overrun() {
        for width in [40, 60, 80, 200] {
            let table = shown(THREE, Some(width));
            let rows = table.lines().skip_while(|line| !line.starts_with("NAME")).take(4);
            assert!(rows.clone().all(|line| line.chars().count() <= width), "{width}: {table}");
            assert!(rows.clone().count() == 4 && table.contains("exited with status 7"), "{width}: {table}");
            assert_eq!(table.contains("status NAME"), width <= 80, "{width}: {table}");
        }
        let long = THREE.replace("exited with status 7", &"x".repeat(300));
        let table = shown(&long, Some(80));
        assert!(table.contains("xxx...\n") && table.contains("status NAME"), "{table}");
    }

    #[test]
    fn colours_are_only_where_they_are_wanted() {
        let body = json::parse(THREE, 8).unwrap();
        let coloured = status(&body, Path::new("/"), Screen { width: None, has_colours: true });
        assert!(coloured.contains("\x1b[1;31mfatal\x1b[0m  ") && coloured.contains("\x1b[32mrunning"), "{coloured}");
        assert!(!shown(THREE, None).contains('\x1b'));
    }

    #[test]
    fn troubles_stand_before_the_agents() {
        let body = r#"{"hostname":"a","version":"b","silence":3700,"troubles":["cannot write \"/run/\u001bx\"","b"],"agents":[]}"#;
        let text = shown(body, None);
        let silence = "no server has taken a report for 1h1m: \"bootagent report\" says why";
        let want =
            format!("0 agents\na  b  up 0s  reports every 0s\n\ncannot write \"/run/ x\"\nb\n{silence}\n\nno agents: ");
        assert!(text.starts_with(&want), "{text}");
    }

    #[test]
    fn one_agent_is_shown_whole() {
        let body =
            r#"{"agents":[{"name":"web","status":"running","pid":5,"uptime":61,"memory":1048576,"limits_by":"cgroup2",
            "detail":"DETAIL"}],"about":[["user","www-data"],["output","/var/log/bootagent/web.log"]]}"#
                .replace("DETAIL", &"x".repeat(300));
        let body = json::parse(&body, 8).unwrap();
        let text = status_of_one(&body, Screen::default());
        for want in
            ["web\n", "  state  ", "running\n", " 1m1s\n", &"x".repeat(300), " www-data\n", "/web.log\n", " cgroup2\n"]
        {
            assert!(text.contains(want), "{want}: {text}");
        }
        assert!(is_running(&body) && !is_running(&json::parse(THREE, 8).unwrap()));
    }
}
