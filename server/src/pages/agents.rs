//! Agents of the fleet, by version.

use super::words;
use super::{Frame, Pager, Part};
use crate::store::roster::AgentKey;
use askama::Template;
use std::collections::BTreeMap;

/// An agent in one version.
#[derive(Clone, Debug)]
pub struct AgentRow {
    /// Its name.
    pub name: String,
    /// The version.
    pub version: String,
    /// Hosts by status.
    pub parts: Vec<Part>,
    /// Hosts in all.
    pub total: i64,
    /// Where they are listed.
    pub address: String,
}

/// The agents of the fleet, by name and version; the most frequent version of each first.
pub fn agents(counts: &BTreeMap<AgentKey, i64>) -> Vec<AgentRow> {
    let mut versions: BTreeMap<(&str, &str), Vec<Part>> = BTreeMap::new();
    for (key, count) in counts {
        let tone = words::agent_badge(&key.status).tone;
        let part = Part { tone, word: words::status(&key.status).to_string(), count: *count };
        versions.entry((&key.name, &key.version)).or_default().push(part);
    }
    let mut rows: Vec<AgentRow> = Vec::new();
    for ((name, version), mut parts) in versions {
        let place = |part: &Part| ["running", "stopped", "killed", "fatal"].iter().position(|word| *word == part.word);
        parts.sort_by_key(place);
        let total = parts.iter().map(|part| part.count).sum();
        let filter = format!("agent.{name}.version=\"{version}\"");
        let address = format!("/hosts?q={}", crate::wire::url::encode(&filter));
        rows.push(AgentRow { name: name.to_string(), version: version.to_string(), parts, total, address });
    }
    rows.sort_by(|a, b| (&a.name, -a.total).cmp(&(&b.name, -b.total)));
    rows
}

/// Leaves out a name that is that of the line before.
pub fn named_once(mut rows: Vec<AgentRow>) -> Vec<AgentRow> {
    for place in (1..rows.len()).rev() {
        if rows[place].name == rows[place - 1].name {
            rows[place].name.clear();
        }
    }
    rows
}

/// The list of agents.
#[derive(Template)]
#[template(path = "agents.html")]
pub struct Agents {
    /// What is around it.
    pub f: Frame,
    /// The lines.
    pub rows: Vec<AgentRow>,
    /// Where in the list this is.
    pub pager: Pager,
    /// The newest release of each agent that has one.
    pub releases: BTreeMap<String, String>,
}

impl Agents {
    /// The newest release of an agent.
    pub fn newest(&self, name: &str) -> Option<&String> {
        self.releases.get(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents_are_gathered_by_version() {
        let key = |version: &str, status: &str| AgentKey {
            name: "web".into(),
            version: version.into(),
            status: status.into(),
        };
        let counts = BTreeMap::from([(key("1", "running"), 2), (key("2", "running"), 7), (key("2", "fatal"), 1)]);
        let rows = agents(&counts);
        assert_eq!((rows[0].name.as_str(), rows[0].version.as_str(), rows[0].total), ("web", "2", 8));
        assert_eq!((rows[0].parts[0].word.as_str(), rows[0].parts[1].word.as_str()), ("running", "fatal"));
        assert_eq!((rows[1].name.as_str(), rows[1].total), ("web", 2));
        assert_eq!(named_once(rows)[1].name, "");
    }
}
