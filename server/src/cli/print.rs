//! Tables for people. Columns are as wide as what is in them.

use crate::pages::time;
use crate::wire::text::visible;
use serde_json::Value as Json;

/// Prints rows under their headings.
pub fn table(headings: &[&str], rows: &[Vec<String>]) {
    let mut widths: Vec<usize> = headings.iter().map(|heading| heading.len()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: Vec<&str>| {
        let padded = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}", width = *width));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_string()
    };
    println!("{}", line(headings.to_vec()));
    for row in rows {
        println!("{}", line(row.iter().map(String::as_str).collect()));
    }
}

/// A value as a person reads it; nothing is `-`. What comes from hosts must not move the terminal's cursor.
pub fn cell(value: &Json) -> String {
    match value {
        Json::Null => "-".to_string(),
        Json::String(text) if text.is_empty() => "-".to_string(),
        Json::String(text) => visible(text).replace('\n', " "),
        other => other.to_string(),
    }
}

/// `3 min ago`, as the pages tell it.
pub fn ago(value: &Json, now: i64) -> String {
    value.as_i64().map_or_else(|| "never".to_string(), |at| time::ago(at, now))
}

/// `3 min ago (2026-11-29 16:22:03 UTC)`.
pub fn when(value: &Json, now: i64) -> String {
    value.as_i64().map_or_else(|| "never".to_string(), |at| time::both(at, now))
}

/// `a=1 b=2`.
pub fn pairs(value: &Json) -> String {
    let pair = |(name, value): (&String, &Json)| format!("{name}={}", cell(value));
    let text: Vec<String> = value.as_object().into_iter().flatten().map(pair).collect();
    text.join(" ")
}

/// Agents in short: `web 1.2 running`.
pub fn agents(value: &Json) -> String {
    let one = |agent: &Json| {
        let status = agent["status"].as_str().unwrap_or_default().replace("stoped", "stopped");
        format!("{} {} {status}", cell(&agent["name"]), cell(&agent["version"]))
    };
    let text: Vec<String> = value.as_array().into_iter().flatten().map(one).collect();
    text.join(", ")
}
