use super::*;
use crate::store::{migrate, sqlite, EachRow, Value};
use serde_json::json;

/// Hands everything on, and remembers what changes something.
struct Counting<'a> {
    tx: &'a mut dyn Tx,
    changes: Vec<String>,
}

impl Tx for Counting<'_> {
    fn run(&mut self, sql: &str, args: &[Value]) -> Result<u64, Error> {
        self.changes.push(sql.split_whitespace().take(3).collect::<Vec<_>>().join(" "));
        self.tx.run(sql, args)
    }

    fn each(&mut self, sql: &str, args: &[Value], each: &mut EachRow) -> Result<(), Error> {
        self.tx.each(sql, args, each)
    }
}

/// Takes reports one after the other; what the last one changed.
fn changes_of_the_last(reports: &[serde_json::Value]) -> Vec<String> {
    let connection = sqlite::open(std::path::Path::new(":memory:")).expect("a database");
    migrate::migrate(&connection, |_| ()).expect("a schema");
    let (sn, nonce, peer, base) = (String::new(), String::new(), "10.0.0.1".to_string(), String::new());
    let sender = Sender { key: None, sn, nonce, peer, base };
    let mut changes = Vec::new();
    for (place, body) in reports.iter().enumerate() {
        let report = crate::wire::agent::read_status(body.to_string().as_bytes()).expect("a report");
        let now = 1000 + i64::try_from(place).expect("a small number") * 600;
        let taken = sqlite::transact(&connection, |tx| {
            let mut counting = Counting { tx, changes: Vec::new() };
            let answer = take(&mut counting, &report, &sender, now, &|| true)?;
            changes = counting.changes;
            Ok(answer)
        });
        assert!(matches!(taken, Ok(Answer::Taken { .. })), "{taken:?}");
    }
    changes
}

fn body(seq: i64, more: serde_json::Value) -> serde_json::Value {
    let mut body = json!({ "hostname": "web-01", "version": "bootagent-1.1.0-x86_64", "uptime": 5 * seq,
        "timestamp": 1000 + (seq - 1) * 600, "step": 600, "sn": "sn-1", "boot_id": "b", "seq": seq, "open": [],
        "agents": [{ "name": "web", "version": "1.0", "status": "running", "uptime": seq }] });
    for (key, value) in more.as_object().expect("an object") {
        body[key] = value.clone();
    }
    body
}

#[test]
fn a_report_that_changes_nothing_writes_one_row() {
    let changes = changes_of_the_last(&[body(1, json!({})), body(2, json!({})), body(3, json!({}))]);
    assert_eq!(changes, ["INSERT INTO reports"]);
}

#[test]
fn a_change_writes_what_changed() {
    let stopped = json!({ "agents": [{ "name": "web", "version": "1.0", "status": "stoped", "uptime": 0 }] });
    let changes = changes_of_the_last(&[body(1, json!({})), body(2, stopped)]);
    assert!(changes.contains(&"INSERT INTO events".to_string()), "{changes:?}");
    let renamed = changes_of_the_last(&[body(1, json!({})), body(2, json!({ "hostname": "web-02" }))]);
    assert!(renamed.contains(&"UPDATE hosts SET".to_string()), "{renamed:?}");
}
