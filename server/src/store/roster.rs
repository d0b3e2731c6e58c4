//! Lists of hosts for people: sorted, paged and counted by the database wherever the filter lets it.

use super::{Error, Row, Tx, Value, NEXT};
use crate::args;
use crate::model::facts::read_agent_line;
use crate::model::filter::{Filter, Match, Plain};
use crate::model::host::{AgentView, Freshness, View};
use serde_json::Value as Json;
use std::collections::BTreeMap;

/// Which hosts a list is about, before its filter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// Every one that is not retired or rejected.
    #[default]
    Active,
    /// Those that need somebody.
    Trouble,
    /// Accepted and lost.
    Lost,
    /// Accepted and late.
    Late,
    /// Accepted, with agents that are `fatal` or `killed`.
    Down,
    /// Waiting for a decision.
    Pending,
    /// Two machines speak as one.
    Conflict,
    /// Retired or rejected.
    Gone,
    /// All.
    All,
}

/// Every scope with its word in an address.
pub const SCOPES: [(Scope, &str); 9] = [
    (Scope::Active, "active"),
    (Scope::Trouble, "trouble"),
    (Scope::Lost, "lost"),
    (Scope::Late, "late"),
    (Scope::Down, "down"),
    (Scope::Pending, "pending"),
    (Scope::Conflict, "conflict"),
    (Scope::Gone, "gone"),
    (Scope::All, "all"),
];

impl Scope {
    fn sql(self) -> &'static str {
        match self {
            Scope::Active => "h.trouble >= 0",
            Scope::Trouble => "h.trouble > 0",
            Scope::Lost => "h.state = 'accepted' AND h.fresh = 'lost'",
            Scope::Late => "h.state = 'accepted' AND h.fresh = 'late'",
            Scope::Down => "h.state = 'accepted' AND h.down > 0",
            Scope::Pending => "h.state = 'pending'",
            Scope::Conflict => "h.state = 'conflict'",
            Scope::Gone => "h.trouble < 0",
            Scope::All => "1 = 1",
        }
    }
}

/// What a list is sorted by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// Those that need somebody first.
    #[default]
    Trouble,
    /// By name.
    Name,
    /// The newest first.
    New,
}

impl Order {
    fn sql(self) -> &'static str {
        match self {
            Order::Trouble => "h.trouble DESC, h.name, h.sn",
            Order::Name => "h.name, h.sn",
            Order::New => "h.created DESC, h.sn",
        }
    }
}

/// What a list shows.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// The first cut.
    pub scope: Scope,
    /// The filter.
    pub filter: Filter,
    /// The order.
    pub order: Order,
}

/// A page of a list.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// The `sn` of each host, in order.
    pub sns: Vec<String>,
    /// How many there are in all.
    pub total: i64,
}

/// The conditions of a list in SQL, and whether they are the whole filter.
fn conditions(wanted: &Wanted) -> (String, Vec<Value>, bool) {
    let (plain, all) = wanted.filter.plain();
    let (mut sql, mut args) = (wanted.scope.sql().to_string(), Vec::<Value>::new());
    for term in plain {
        args.push(term.value.into());
        sql.push_str(&format!(" AND {}", test(&term, args.len())));
    }
    (sql, args, all)
}

/// A term of a filter in SQL; its value is bound at `place`.
pub fn test(term: &Plain, place: usize) -> String {
    let (column, not) = (term.column, if term.negated { "NOT " } else { "" });
    let test = match term.by {
        Match::Whole => format!("h.{column} = ?{place}"),
        Match::Prefix => format!("substr(h.{column}, 1, length(?{place})) = ?{place}"),
        Match::Word => {
            format!("(h.{column} = ?{place} OR substr(h.{column}, 1, length(?{place}) + 1) = ?{place} || ' ')")
        }
    };
    format!("{not}({test})")
}

/// The hosts from `first` on, `count` at most, and how many there are.
///
/// # Errors
/// What the engine says.
pub fn page(tx: &mut dyn Tx, wanted: &Wanted, first: i64, count: i64) -> Result<Page, Error> {
    let (sql, mut args, all) = conditions(wanted);
    let mut page = Page::default();
    if all {
        page.total = tx.number(&format!("SELECT count(*) FROM hosts h WHERE {sql}"), &args)?;
        let order = wanted.order.sql();
        args.extend([count.into(), first.into()]);
        let (limit, offset) = (args.len() - 1, args.len());
        let sql = format!("SELECT h.sn FROM hosts h WHERE {sql} ORDER BY {order} LIMIT ?{limit} OFFSET ?{offset}");
        page.sns = tx.rows(&sql, &args)?.iter().map(|row| row.text(0)).collect();
        return Ok(page);
    }
    each(tx, wanted, &mut |view| {
        if page.total >= first && page.total < first + count {
            page.sns.push(view.sn);
        }
        page.total += 1;
        Ok(())
    })?;
    Ok(page)
}

/// Hands every host of a list to `each`, in order, in short: without reasons, and with labels only where the filter has
/// some.
///
/// # Errors
/// What the engine or `each` says.
pub fn each(tx: &mut dyn Tx, wanted: &Wanted, each: &mut dyn FnMut(View) -> Result<(), Error>) -> Result<(), Error> {
    let (sql, args, all) = conditions(wanted);
    let body = if wanted.filter.has_labels() { "r.body" } else { "NULL" };
    let sql = format!(
        "SELECT h.sn, h.name, h.grp, h.state, h.os, h.arch, h.version, h.fresh, h.labels, h.reason, r.seen, r.step, \
         r.agents, h.pinned, {body}, h.clock_wrong FROM hosts h LEFT JOIN reports r ON r.sn = h.sn WHERE {sql} ORDER BY {}",
        wanted.order.sql()
    );
    tx.each(&sql, &args, &mut |row| {
        let view = view_of(&row);
        if all || wanted.filter.matches(&view) {
            each(view)?;
        }
        Ok(NEXT)
    })
}

fn view_of(row: &Row) -> View {
    let own: Json = serde_json::from_str(&row.text(8)).unwrap_or_default();
    let own_labels = crate::wire::agent::labels(Some(&own));
    let mut labels = BTreeMap::new();
    if let Some(body) = row.maybe_text(14).and_then(|text| serde_json::from_str::<Json>(&text).ok()) {
        labels = crate::wire::agent::labels(body.get("labels"));
    }
    labels.extend(own_labels.clone());
    View {
        sn: row.text(0),
        name: row.text(1),
        group: row.text(2),
        state: row.text(3),
        os: row.text(4),
        arch: row.text(5),
        version: row.text(6),
        freshness: Freshness::parse(&row.text(7)),
        labels,
        own_labels,
        reason: row.text(9),
        seen: row.maybe_int(10),
        step: row.maybe_int(11).unwrap_or(600),
        agents: read_agents(&row.text(12)),
        peer: String::new(),
        pinned: row.maybe_text(13),
        clock_wrong: row.int(15) != 0,
    }
}

/// The agents of a hot row.
fn read_agents(lines: &str) -> Vec<AgentView> {
    let agent = |(name, status, version): (&str, &str, &str)| AgentView {
        name: name.to_string(),
        version: version.to_string(),
        status: status.to_string(),
    };
    lines.lines().filter_map(read_agent_line).map(agent).collect()
}

/// How many hosts there are of each kind.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Accepted and heard of in time.
    pub on_time: i64,
    /// Accepted and late.
    pub late: i64,
    /// Accepted and lost, or never heard of.
    pub lost: i64,
    /// Accepted, with agents that are down.
    pub down: i64,
    /// Waiting for a decision.
    pub pending: i64,
    /// Two machines as one.
    pub conflict: i64,
    /// Refused.
    pub rejected: i64,
    /// Gone for good.
    pub retired: i64,
    /// In need of somebody, for whatever reason.
    pub trouble: i64,
}

impl Summary {
    /// Those that get jobs.
    pub fn accepted(&self) -> i64 {
        self.on_time + self.late + self.lost
    }

    /// Those that lists show by themselves.
    pub fn active(&self) -> i64 {
        self.accepted() + self.pending + self.conflict
    }

    /// Every one that is known.
    pub fn all(&self) -> i64 {
        self.active() + self.rejected + self.retired
    }

    /// How many a scope has.
    pub fn of(&self, scope: Scope) -> i64 {
        match scope {
            Scope::Active => self.active(),
            Scope::Trouble => self.trouble,
            Scope::Lost => self.lost,
            Scope::Late => self.late,
            Scope::Down => self.down,
            Scope::Pending => self.pending,
            Scope::Conflict => self.conflict,
            Scope::Gone => self.rejected + self.retired,
            Scope::All => self.all(),
        }
    }
}

/// Counts all hosts.
///
/// # Errors
/// What the engine says.
pub fn summary(tx: &mut dyn Tx) -> Result<Summary, Error> {
    let sql =
        "SELECT state, fresh, sum(CASE WHEN down > 0 THEN 1 ELSE 0 END), count(*) FROM hosts GROUP BY state, fresh";
    let mut summary = Summary::default();
    for row in tx.rows(sql, &[])? {
        let count = row.int(3);
        match (row.text(0).as_str(), row.text(1).as_str()) {
            ("accepted", fresh) => {
                summary.down += row.int(2);
                match fresh {
                    "on-time" => summary.on_time += count,
                    "late" => summary.late += count,
                    _ => summary.lost += count,
                }
            }
            ("conflict", _) => summary.conflict += count,
            ("rejected", _) => summary.rejected += count,
            ("retired", _) => summary.retired += count,
            _ => summary.pending += count,
        }
    }
    summary.trouble = tx.number("SELECT count(*) FROM hosts WHERE trouble > 0", &[])?;
    Ok(summary)
}

/// How many accepted hosts there are of each value of a column, the most frequent first.
///
/// # Errors
/// What the engine says.
pub fn versions(tx: &mut dyn Tx) -> Result<Vec<(String, i64)>, Error> {
    let sql =
        "SELECT version, count(*) FROM hosts WHERE state = 'accepted' GROUP BY version ORDER BY 2 DESC, 1 LIMIT 50";
    Ok(tx.rows(sql, &[])?.iter().map(|row| (row.text(0), row.int(1))).collect())
}

/// How many accepted hosts have an agent in a version and a status.
///
/// # Errors
/// What the engine says.
pub fn agents(tx: &mut dyn Tx) -> Result<BTreeMap<AgentKey, i64>, Error> {
    // Most hosts have the same agents, so that few lists are read apart; and most are accepted, so that it is faster to take
    // the others away again than to look at the state of each.
    let all = "SELECT agents, count(*) FROM reports WHERE agents <> '' GROUP BY agents";
    let others = "SELECT r.agents, -count(*) FROM hosts h JOIN reports r ON r.sn = h.sn \
        WHERE h.state IN ('pending', 'rejected', 'retired', 'conflict') AND r.agents <> '' GROUP BY r.agents";
    let mut counts = BTreeMap::new();
    for sql in [all, others] {
        tx.each(sql, &[], &mut |row| {
            for agent in read_agents(&row.text(0)) {
                let key = AgentKey { name: agent.name, version: agent.version, status: agent.status };
                *counts.entry(key).or_insert(0) += row.int(1);
            }
            Ok(NEXT)
        })?;
    }
    counts.retain(|_, count| *count > 0);
    Ok(counts)
}

/// An agent, as hosts report it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AgentKey {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// `stoped`, `running`, `fatal` or `killed`.
    pub status: String,
}

/// Hosts whose freshness may have changed with time, `(sn, seen, step, group, fresh)`: those that were silent for three
/// steps and count as on time, and those that are late.
///
/// # Errors
/// What the engine says.
pub fn aging(tx: &mut dyn Tx, now: i64) -> Result<Vec<Row>, Error> {
    // In this order: few reports are old, and only their hosts are looked up.
    let sql = "SELECT h.sn, r.seen, r.step, h.grp, h.fresh FROM reports r CROSS JOIN hosts h \
        WHERE r.seen < ?1 - 3 * r.step AND h.sn = r.sn AND h.fresh IN ('on-time', 'late')";
    tx.rows(sql, args![now])
}
