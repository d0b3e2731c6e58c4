//! What happens by itself, every few seconds: deadlines, namesakes, hosts that are gone for good, what is too old.

use super::{clock, manage, parts, time, Shared};
use crate::model::execution::Event;
use crate::model::gaps;
use crate::model::host::{self, Freshness, Gaps, State};
use crate::model::identity::{Key, Known, Successor};
use crate::model::retention::{self, Kept};
use crate::store::hosts::Host;
use crate::store::{self, events, executions, groups, hosts, people, Error, Tx};
use std::sync::Arc;
use std::time::Duration;

/// How often.
const PAUSE: Duration = Duration::from_secs(2);
/// Batches of overdue executions that are looked at in one round, so that reports need not wait long for them.
const BATCHES: usize = 4;
/// Rounds after which the rare parts come.
const RARE: u64 = 15;

/// Runs until the server ends.
pub async fn run(shared: Arc<Shared>) {
    let mut rounds: u64 = 0;
    let mut cursor = Cursor::default();
    loop {
        tokio::time::sleep(PAUSE).await;
        let now = clock::now();
        rounds += 1;
        let swept = match time::look(&shared, now).await {
            Ok(()) => sweep(&shared, &mut cursor, rounds.is_multiple_of(RARE), now).await,
            // Nothing can be stored: a clock that was set meanwhile is seen in the next round.
            Err(error) => Err(error),
        };
        if let Err(error) = swept {
            shared.complain(&error);
        }
    }
}

/// How far the overdue executions were looked through: deadline and id.
type Cursor = (i64, String);

/// One round. Each part is a transaction of its own, so that reports come in between.
async fn sweep(shared: &Arc<Shared>, cursor: &mut Cursor, rare: bool, now: i64) -> Result<(), Error> {
    for _ in 0..BATCHES {
        let (gaps, after) = (shared.gaps(), std::mem::take(cursor));
        match shared.write(move |tx| overdue(tx, now, &gaps, &after)).await? {
            Some(next) => *cursor = next,
            None => break,
        }
    }
    parts::finish(shared).await?;
    let gaps = shared.gaps();
    shared.write(move |tx| namesakes(tx, now, &gaps)).await?;
    if rare {
        let gaps = shared.gaps();
        let silent = shared.read_inside(move |tx| silent(tx, now, &gaps)).await?;
        shared.write(move |tx| retire(tx, &silent, now)).await?;
        if gaps::may_forget(&shared.gaps(), now) {
            forget(shared, now).await?;
        }
        shared.write(move |tx| people::forget_sessions(tx, now)).await?;
    }
    Ok(())
}

/// Deletes what is older than it is kept, each batch in a transaction of its own.
async fn forget(shared: &Arc<Shared>, now: i64) -> Result<(), Error> {
    for kept in Kept::ALL {
        for _ in 0..retention::BATCHES {
            let since = kept.since(now);
            let gone = shared.write(move |tx| store::retention::forget(tx, kept, since, retention::BATCH)).await?;
            if gone < retention::BATCH {
                break;
            }
        }
    }
    Ok(())
}

/// Looks at a batch of executions whose deadline has passed; the cursor of the last one, `None` when there is none left.
fn overdue(tx: &mut dyn Tx, now: i64, gaps: &Gaps, after: &Cursor) -> Result<Option<Cursor>, Error> {
    let found = executions::overdue(tx, now, after)?;
    let next = found.last().and_then(|last| Some((last.execution.deadline?, last.id.clone())));
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
    Ok(next)
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
                if takes_its_place(tx, &host, &other)? {
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

/// Whether a host takes the place of a silent one of its name by rule.
fn takes_its_place(tx: &mut dyn Tx, host: &Host, old: &Host) -> Result<bool, Error> {
    let by_rule = groups::find(tx, &old.group)?.is_some_and(|group| group.replace_auto);
    let (old_key, new_key) = (key_of(tx, old)?, key_of(tx, host)?);
    let old = Known { group: &old.group, key: old_key.as_ref() };
    let new = Known { group: &host.group, key: new_key.as_ref() };
    Ok(Successor { old, new, state: host.state, by_rule }.replaces())
}

/// The key that a host is held to.
fn key_of(tx: &mut dyn Tx, host: &Host) -> Result<Option<Key>, Error> {
    host.key.as_ref().map_or(Ok(None), |id| groups::key(tx, id))
}

/// Hosts that are silent for longer than their group allows: sn, and after how many seconds.
fn silent(tx: &mut dyn Tx, now: i64, gaps: &Gaps) -> Result<Vec<(String, i64)>, Error> {
    let mut found = Vec::new();
    for group in groups::list(tx)? {
        let Some(after) = group.retire_after else { continue };
        let sql = "SELECT h.sn, r.seen FROM hosts h JOIN reports r ON r.sn = h.sn \
            WHERE h.grp = ?1 AND h.state IN ('accepted', 'pending') AND r.seen < ?2 LIMIT 200";
        for row in tx.rows(sql, crate::args![&group.name, now - after])? {
            if host::heard(row.int(1), now, gaps) > after {
                found.push((row.text(0), after));
            }
        }
    }
    Ok(found)
}

/// Retires them, unless they have reported meanwhile.
fn retire(tx: &mut dyn Tx, silent: &[(String, i64)], now: i64) -> Result<(), Error> {
    for (sn, after) in silent {
        let Some(host) = hosts::get(tx, sn)? else { continue };
        if host.seen.is_some_and(|seen| seen < now - after) {
            let why = format!("silent for more than {after} s (retire of group {})", host.group);
            manage::set_state(tx, sn, State::Retired, &why, "rule", now)?;
        }
    }
    Ok(())
}
