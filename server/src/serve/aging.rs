//! Marks hosts as late and lost as time passes, so that lists and counts need not look at every host.

use super::{clock, Shared};
use crate::model::gaps::Turn;
use crate::model::host::{self, Freshness, Gaps, State};
use crate::store::{events, groups, hosts, roster, Error, Tx};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Hosts that one transaction marks at most, so that reports need not wait.
const BATCH: usize = 200;
/// The shortest pause between two looks; a look that takes long makes it longer.
const PAUSE: Duration = Duration::from_secs(1);

/// Runs until the server ends.
pub async fn run(shared: Arc<Shared>) {
    let mut pause = PAUSE;
    loop {
        tokio::time::sleep(pause).await;
        let begun = Instant::now();
        if let Err(error) = look(&shared).await {
            shared.complain(&error);
        }
        pause = PAUSE.max(begun.elapsed() * 50);
    }
}

/// A host and what it has become.
type Change = (String, Freshness);

async fn look(shared: &Arc<Shared>) -> Result<(), Error> {
    if shared.turn(clock::now()).1 != Turn::Steady {
        return Ok(());
    }
    let gaps = shared.gaps();
    let changes = shared.read_inside(move |tx| changed(tx, clock::now(), &gaps)).await?;
    for batch in changes.chunks(BATCH) {
        let (batch, gaps) = (batch.to_vec(), shared.gaps());
        shared.write(move |tx| batch.iter().try_for_each(|change| mark(tx, change, clock::now(), &gaps))).await?;
    }
    Ok(())
}

/// What is due.
fn changed(tx: &mut dyn Tx, now: i64, gaps: &Gaps) -> Result<Vec<Change>, Error> {
    let lost_after: HashMap<String, i64> =
        groups::list(tx)?.into_iter().map(|group| (group.name, group.lost_after)).collect();
    let judge = |row: &crate::store::Row| {
        let limit = lost_after.get(&row.text(3)).copied().unwrap_or(86_400);
        let fresh = host::freshness(Some(row.int(1)), row.int(2), limit, now, gaps);
        (fresh.as_str() != row.text(4)).then(|| (row.text(0), fresh))
    };
    Ok(roster::aging(tx, now)?.iter().filter_map(judge).collect())
}

/// Marks a host, unless it has reported meanwhile; a lost one is an event.
fn mark(tx: &mut dyn Tx, (sn, fresh): &Change, now: i64, gaps: &Gaps) -> Result<(), Error> {
    let Some(mut host) = hosts::get(tx, sn)? else { return Ok(()) };
    let still_late = host::freshness(host.seen, host.step, i64::MAX, now, gaps) != Freshness::OnTime;
    if still_late == (*fresh == Freshness::OnTime) {
        return Ok(());
    }
    host.facts.fresh = *fresh;
    hosts::save(tx, &host)?;
    if *fresh == Freshness::Lost && host.state == State::Accepted {
        let silent = now - host.seen.unwrap_or(now);
        events::note(tx, now, "lost", (&host.sn, &host.name), &format!("no report for {silent} s"), silent)?;
    }
    Ok(())
}
