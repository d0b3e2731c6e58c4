//! What happens by itself, every few seconds: deadlines, namesakes, hosts that are gone for good, what is too old.

use super::{clock, manage, Shared};
use crate::model::execution::Event;
use crate::model::host::{self, Freshness, Gaps, State};
use crate::store::{events, executions, groups, hosts, people, Error, Tx};
use std::sync::Arc;
use std::time::Duration;

/// How often.
const PAUSE: Duration = Duration::from_secs(2);
/// How long the server may be away before it counts as down.
pub const GAP: i64 = 10;

/// Runs until the server ends.
pub async fn run(shared: Arc<Shared>) {
    let mut last = clock::now();
    let mut rounds: u64 = 0;
    loop {
        tokio::time::sleep(PAUSE).await;
        let now = clock::now();
        if now < last - 1 || now > last + 60 {
            clock::say(&format!("the clock was set by {} s; deadlines move with it", now - last - 2));
        }
        last = now;
        rounds += 1;
        let (gaps, full) = (shared.gaps.clone(), rounds.is_multiple_of(15));
        let swept = shared.write(move |tx| sweep(tx, now, &gaps, full)).await;
        if let Err(error) = swept {
            shared.complain(&error);
        }
    }
}

/// One round. The rare parts only when `full`.
///
/// # Errors
/// What the engine says.
pub fn sweep(tx: &mut dyn Tx, now: i64, gaps: &Gaps, full: bool) -> Result<(), Error> {
    groups::keep(tx, "alive", &now.to_string())?;
    overdue(tx, now, gaps)?;
    namesakes(tx, now, gaps)?;
    if full {
        retire_silent(tx, now, gaps)?;
        events::forget(tx, now)?;
        people::forget_sessions(tx, now)?;
    }
    Ok(())
}

fn overdue(tx: &mut dyn Tx, now: i64, gaps: &Gaps) -> Result<(), Error> {
    let mut after = String::new();
    loop {
        let found = executions::overdue(tx, now, &after)?;
        let Some(last) = found.last() else { return Ok(()) };
        after.clone_from(&last.id);
        for mut stored in found {
            let host = hosts::get(tx, &stored.sn)?;
            let fresh = host.map_or(Freshness::Never, |h| host::freshness(h.seen, h.step, i64::MAX, now, gaps));
            let before = stored.execution.clone();
            stored.execution.step(Event::Tick { silent: fresh != Freshness::OnTime }, now);
            if stored.execution != before {
                executions::save(tx, &stored.id, &stored.execution)?;
                let text = format!("{} {}: {}", stored.action, stored.agent, stored.execution.reason);
                events::note(tx, now, "job", (&stored.sn, &stored.host), &text, 0)?;
            }
        }
    }
}

/// Judges hosts that came with the name of another: both alive, or the same one on a new machine.
fn namesakes(tx: &mut dyn Tx, now: i64, gaps: &Gaps) -> Result<(), Error> {
    let flagged = tx.rows("SELECT sn FROM hosts WHERE flagged = 1 ORDER BY random() LIMIT 200", &[])?;
    for row in flagged {
        let Some(mut host) = hosts::get(tx, &row.text(0))? else { continue };
        let mut others = hosts::named(tx, &host.name)?;
        others.retain(|other| other.sn != host.sn && !matches!(other.state, State::Retired | State::Rejected));
        let mut reason = String::new();
        for mut other in others {
            let silent = host::freshness(other.seen, other.step, i64::MAX, now, gaps) != Freshness::OnTime;
            let since_before = other.seen.is_none_or(|seen| seen <= host.created);
            if since_before && silent {
                let auto = groups::list(tx)?.iter().any(|group| group.name == other.group && group.replace_auto);
                if auto && matches!(host.state, State::Accepted | State::Pending) {
                    manage::replace(tx, &other.sn, &host.sn, "rule", now)?;
                    host = hosts::get(tx, &host.sn)?.unwrap_or(host);
                    continue;
                }
                let (name, old, new) = (&host.name, &other.sn, &host.sn);
                reason = format!("{name} came back as another machine: replace? bootserver host replace {old} {new}");
            } else if !since_before {
                reason = format!("another host has this name: {}; jobs by name ask which", other.sn);
                if other.reason.is_empty() {
                    other.reason = format!("another host has this name: {}; jobs by name ask which", host.sn);
                    hosts::save(tx, &other)?;
                }
            }
        }
        if host.state == State::Retired {
            tx.run("UPDATE hosts SET flagged = 0 WHERE sn = ?1", crate::args![&host.sn])?;
        } else if host.state != State::Conflict && host.reason != reason {
            if !reason.is_empty() {
                events::note(tx, now, "same name", (&host.sn, &host.name), &reason, 3600)?;
            }
            host.reason = reason;
            hosts::save(tx, &host)?;
        }
    }
    Ok(())
}

/// Retires hosts that are silent for longer than their group allows.
fn retire_silent(tx: &mut dyn Tx, now: i64, gaps: &Gaps) -> Result<(), Error> {
    for group in groups::list(tx)? {
        let Some(after) = group.retire_after else { continue };
        let sql = "SELECT h.sn, r.seen FROM hosts h JOIN reports r ON r.sn = h.sn \
            WHERE h.grp = ?1 AND h.state IN ('accepted', 'pending') AND r.seen < ?2 LIMIT 200";
        for row in tx.rows(sql, crate::args![&group.name, now - after])? {
            if host::heard(row.int(1), now, gaps) > after {
                let why = format!("silent for more than {after} s (retire_after of group {})", group.name);
                manage::set_state(tx, &row.text(0), State::Retired, &why, "rule", now)?;
            }
        }
    }
    Ok(())
}
