//! Filters over hosts: `key op value` terms, all of which must hold. Parsed once, then asked for each host.

use super::host::View;
use super::version;
use std::cmp::Ordering;

/// What is compared.
#[derive(Clone, Debug, PartialEq)]
enum Key {
    Host,
    Sn,
    Group,
    State,
    Fresh,
    Os,
    Arch,
    Version,
    Label(String),
    Agent(String),
    AgentVersion(String),
    AgentStatus(String),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Op {
    Is,
    IsNot,
    Less,
    AtMost,
    More,
    AtLeast,
}

#[derive(Clone, Debug, PartialEq)]
struct Term {
    key: Key,
    op: Op,
    value: String,
}

/// A term that a database can answer by comparing a column.
#[derive(Clone, Debug, PartialEq)]
pub struct Plain<'a> {
    /// The column of a host.
    pub column: &'static str,
    /// Whether it must not be so.
    pub negated: bool,
    /// What it is compared with.
    pub value: &'a str,
    /// How.
    pub by: Match,
}

/// How a column is compared.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Match {
    /// The whole of it.
    Whole,
    /// Its beginning.
    Prefix,
    /// Its first word.
    Word,
}

/// A parsed filter; without terms it takes every host.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    terms: Vec<Term>,
}

const KEYS: &str =
    "host, sn, group, state, fresh, os, arch, version, label.NAME, agent.NAME, agent.NAME.version, agent.NAME.status";

impl Filter {
    /// Reads a filter such as `group=web and os="debian 12" agent.nginx.version < 1.24`.
    ///
    /// # Errors
    /// A sentence that names the term and what is permitted in its place.
    pub fn parse(text: &str) -> Result<Filter, String> {
        let mut terms = Vec::new();
        let mut rest = text.trim_start();
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix("and ") {
                rest = after.trim_start();
                continue;
            }
            let end = rest.find(|c: char| c.is_whitespace() || "=!<>".contains(c)).unwrap_or(rest.len());
            let (word, after) = rest.split_at(end);
            let after = after.trim_start();
            let Some((op, after)) = read_op(after) else {
                match word {
                    "late" | "lost" => {
                        terms.push(Term { key: Key::Fresh, op: Op::Is, value: word.to_string() });
                        rest = after;
                        continue;
                    }
                    _ => return Err(format!("filter: \"{word}\": want KEY OP VALUE, OP one of = != < <= > >=")),
                }
            };
            let (value, after) = read_value(after.trim_start())?;
            terms.push(Term { key: read_key(word)?, op, value });
            rest = after.trim_start();
        }
        Ok(Filter { terms })
    }

    /// Whether a host is meant.
    pub fn matches(&self, host: &View) -> bool {
        self.terms.iter().all(|term| term.holds(host))
    }

    /// The terms that a database can answer, and whether these are all of them.
    pub fn plain(&self) -> (Vec<Plain<'_>>, bool) {
        let plain: Vec<Plain> = self.terms.iter().filter_map(Term::plain).collect();
        let all = plain.len() == self.terms.len();
        (plain, all)
    }

    /// Whether it looks at labels, which are in the whole report.
    pub fn has_labels(&self) -> bool {
        self.terms.iter().any(|term| matches!(term.key, Key::Label(_)))
    }

    /// Whether it means hosts by their name and not by their `sn`: then a name of two hosts is a question.
    pub fn is_by_name(&self) -> bool {
        let has = |key: &Key| self.terms.iter().any(|term| term.key == *key && term.op == Op::Is);
        has(&Key::Host) && !has(&Key::Sn)
    }

    /// Whether it selects only by what the server knows of its own: group, sn and labels set on the server. Anything a
    /// host reports is its claim, and must not decide who gets secrets.
    pub fn is_by_server(&self) -> bool {
        !self.terms.is_empty() && self.terms.iter().all(|t| matches!(t.key, Key::Group | Key::Sn | Key::Label(_)))
    }
}

fn read_op(text: &str) -> Option<(Op, &str)> {
    let ops =
        [("!=", Op::IsNot), ("<=", Op::AtMost), (">=", Op::AtLeast), ("=", Op::Is), ("<", Op::Less), (">", Op::More)];
    ops.iter().find_map(|(sign, op)| text.strip_prefix(sign).map(|rest| (*op, rest)))
}

fn read_value(text: &str) -> Result<(String, &str), String> {
    for quote in ['"', '\''] {
        if let Some(rest) = text.strip_prefix(quote) {
            let end = rest.find(quote).ok_or_else(|| format!("filter: {text}: the quote is not closed"))?;
            return Ok((rest[..end].to_string(), &rest[end + 1..]));
        }
    }
    let end = text.find(char::is_whitespace).unwrap_or(text.len());
    Ok((text[..end].to_string(), &text[end..]))
}

fn read_key(word: &str) -> Result<Key, String> {
    if let Some(name) = word.strip_prefix("label.").filter(|name| !name.is_empty()) {
        return Ok(Key::Label(name.to_string()));
    }
    if let Some(name) = word.strip_prefix("agent.").filter(|name| !name.is_empty()) {
        return Ok(match name.rsplit_once('.') {
            Some((name, "version")) => Key::AgentVersion(name.to_string()),
            Some((name, "status")) => Key::AgentStatus(name.to_string()),
            _ => Key::Agent(name.to_string()),
        });
    }
    Ok(match word {
        "host" | "name" => Key::Host,
        "sn" => Key::Sn,
        "group" => Key::Group,
        "state" => Key::State,
        "fresh" | "freshness" => Key::Fresh,
        "os" => Key::Os,
        "arch" => Key::Arch,
        "version" => Key::Version,
        _ => return Err(format!("filter: unknown key \"{word}\": want one of {KEYS}")),
    })
}

impl Term {
    /// The term as a comparison of a column, where it is one.
    fn plain(&self) -> Option<Plain<'_>> {
        let column = match self.key {
            Key::Host => "name",
            Key::Sn => "sn",
            Key::Group => "grp",
            Key::State => "state",
            Key::Fresh => "fresh",
            Key::Os => "os",
            Key::Arch => "arch",
            _ => return None,
        };
        let negated = match self.op {
            Op::Is => false,
            Op::IsNot => true,
            _ => return None,
        };
        let by = if self.key == Key::Os && !self.value.contains(' ') { Match::Word } else { Match::Whole };
        let (value, by) = match self.value.strip_suffix('*') {
            Some(prefix) if by == Match::Whole => (prefix, Match::Prefix),
            _ => (self.value.as_str(), by),
        };
        let wild = value.contains(['*', '?']);
        (!wild).then_some(Plain { column, negated, value, by })
    }

    fn holds(&self, host: &View) -> bool {
        let agent = |name: &str| host.agents.iter().find(|agent| agent.name == name);
        let is_version = matches!(self.key, Key::Version | Key::AgentVersion(_));
        let found: Option<&str> = match &self.key {
            Key::Host => Some(&host.name),
            Key::Sn => Some(&host.sn),
            Key::Group => Some(&host.group),
            Key::State => Some(&host.state),
            Key::Fresh => Some(host.freshness.as_str()),
            Key::Os => {
                // `os=debian` means every version of it.
                let id = host.os.split(' ').next().unwrap_or_default();
                Some(if self.value.contains(' ') { host.os.as_str() } else { id })
            }
            Key::Arch => Some(&host.arch),
            Key::Version => Some(&host.version),
            Key::Label(name) => host.labels.get(name).map(String::as_str),
            Key::Agent(name) => Some(if agent(name).is_some() { "yes" } else { "no" }),
            Key::AgentVersion(name) => agent(name).map(|agent| agent.version.as_str()),
            Key::AgentStatus(name) => agent(name).map(|agent| agent.status.as_str()),
        };
        let value = match (&self.key, self.value.as_str()) {
            (Key::AgentStatus(_), "stopped") => "stoped",
            (Key::Agent(_), "present" | "true") => "yes",
            (Key::Agent(_), "absent" | "false") => "no",
            (_, value) => value,
        };
        let Some(found) = found else { return self.op == Op::IsNot };
        let order = || if is_version { version::compare(found, value) } else { found.cmp(value) };
        match self.op {
            Op::Is => glob(value, found) || (is_version && order() == Ordering::Equal),
            Op::IsNot => !(glob(value, found) || (is_version && order() == Ordering::Equal)),
            Op::Less => order() == Ordering::Less,
            Op::AtMost => order() != Ordering::Greater,
            Op::More => order() == Ordering::Greater,
            Op::AtLeast => order() != Ordering::Less,
        }
    }
}

/// Whether `text` has the form of `pattern`, in which `*` is any number of characters and `?` one.
pub fn glob(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        if pattern.get(p) == Some(&'*') {
            star = Some((p, t));
            p += 1;
        } else if pattern.get(p).is_some_and(|c| *c == '?' || *c == text[t]) {
            (p, t) = (p + 1, t + 1);
        } else if let Some((at, from)) = star {
            star = Some((at, from + 1));
            (p, t) = (at + 1, from + 1);
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::host::AgentView;

    fn web() -> View {
        let mut host = View { sn: "a1".into(), name: "web-01".into(), group: "web".into(), ..View::default() };
        (host.os, host.arch, host.state) = ("debian 12".into(), "x86_64".into(), "accepted".into());
        host.version = "1.1.0".into();
        host.labels.insert("site".into(), "ams".into());
        host.agents.push(AgentView { name: "nginx".into(), version: "1.22.1".into(), status: "running".into() });
        host
    }

    #[test]
    fn terms_hold() {
        for (text, holds) in [
            ("", true),
            ("host=web-*", true),
            ("host=db-*", false),
            ("os=debian", true),
            ("os=\"debian 12\"", true),
            ("os='debian 11'", false),
            ("group=web and label.site=ams", true),
            ("label.role != db", true),
            ("label.role = db", false),
            ("version >= 1.0.9", true),
            ("agent.nginx.version < 1.22.10", true),
            ("agent.nginx=yes agent.redis=no", true),
            ("agent.nginx.status!=running", false),
            ("late", false),
        ] {
            assert_eq!(Filter::parse(text).expect(text).matches(&web()), holds, "{text}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        for (text, part) in [("nonsense=1", "unknown key"), ("host", "want KEY OP VALUE"), ("host=\"a", "not closed")] {
            assert!(Filter::parse(text).expect_err(text).contains(part), "{text}");
        }
    }

    #[test]
    fn what_a_database_can_answer_is_told() {
        let filter = Filter::parse("host=web-* group!=a os=debian state=accepted").expect("a filter");
        let (plain, all) = filter.plain();
        let ways: Vec<(&str, bool, &str, Match)> = plain.iter().map(|p| (p.column, p.negated, p.value, p.by)).collect();
        assert_eq!(
            ways,
            [
                ("name", false, "web-", Match::Prefix),
                ("grp", true, "a", Match::Whole),
                ("os", false, "debian", Match::Word),
                ("state", false, "accepted", Match::Whole)
            ]
        );
        assert!(all);
        for text in ["version=1.0", "host=*-01", "agent.web=yes", "label.a=b", "arch<x"] {
            assert!(!Filter::parse(text).expect(text).plain().1, "{text}");
        }
    }

    #[test]
    fn secrets_are_selected_by_what_the_server_knows() {
        assert!(Filter::parse("group=web label.a=b").expect("a filter").is_by_server());
        assert!(!Filter::parse("group=web os=debian").expect("a filter").is_by_server());
        assert!(!Filter::parse("").expect("a filter").is_by_server());
    }
}
