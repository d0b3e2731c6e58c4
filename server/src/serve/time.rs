//! The server's clock when it is not to be trusted: it was down meanwhile, or its clock was set. Deadlines move with the
//! clock, and nothing ages by it.

use super::{clock, Shared};
use crate::model::gaps::{self, Gap, Turn};
use crate::store::{executions, groups, hosts, Error, Tx};
use serde_json::Value as Json;
use std::sync::Arc;

/// What a start does: no time passed while no server ran.
///
/// # Errors
/// What the engine says.
pub fn begin(tx: &mut dyn Tx, now: i64) -> Result<Vec<Gap>, Error> {
    let alive = groups::setting(tx, "alive")?.and_then(|text| text.parse::<i64>().ok()).unwrap_or(now);
    let turn = gaps::turn(alive, now, 0);
    match turn {
        Turn::Steady | Turn::Deaf(_) => (),
        Turn::Forward(seconds) => clock::say(&format!("was down for {seconds} s: nothing has aged in it")),
        Turn::Back(seconds) => clock::say(&format!("the clock is {seconds} s before that of the last run: {MOVED}")),
    }
    note(tx, turn, alive, now)
}

const MOVED: &str = "deadlines move with it, and no host has aged";

/// Looks at the clock. One that was set is told in the log.
///
/// # Errors
/// What the engine says; then it has to be looked at again.
pub async fn look(shared: &Arc<Shared>, now: i64) -> Result<(), Error> {
    let (last, turn) = shared.turn(now);
    let gaps = shared.write(move |tx| note(tx, turn, last, now)).await?;
    match turn {
        Turn::Steady => (),
        Turn::Forward(seconds) => clock::say(&format!("the clock was set forward by {seconds} s: {MOVED}")),
        Turn::Back(seconds) => clock::say(&format!("the clock was set back by {seconds} s: {MOVED}")),
        Turn::Deaf(seconds) => clock::say(&format!("no report could be stored for {seconds} s: {MOVED}")),
    }
    if turn != Turn::Steady {
        shared.set_gaps(gaps);
    }
    shared.looked(now);
    Ok(())
}

/// Notes that the server is alive, and what the clock did since `last`.
fn note(tx: &mut dyn Tx, turn: Turn, last: i64, now: i64) -> Result<Vec<Gap>, Error> {
    groups::keep(tx, "alive", &now.to_string())?;
    if turn == Turn::Steady {
        return read(tx);
    }
    let mut gaps = read(tx)?;
    match turn {
        Turn::Forward(seconds) | Turn::Deaf(seconds) => {
            gaps::add(&mut gaps, Gap { from: last, to: last + seconds });
            executions::postpone(tx, seconds)?;
        }
        Turn::Back(seconds) => {
            gaps::cut(&mut gaps, now);
            executions::postpone(tx, -seconds)?;
            executions::turn_back(tx, now)?;
            hosts::turn_back(tx, now)?;
        }
        Turn::Steady => (),
    }
    let pairs: Vec<[i64; 2]> = gaps.iter().map(|gap| [gap.from, gap.to]).collect();
    groups::keep(tx, "gaps", &serde_json::json!(pairs).to_string())?;
    Ok(gaps)
}

fn read(tx: &mut dyn Tx) -> Result<Vec<Gap>, Error> {
    let text = groups::setting(tx, "gaps")?.unwrap_or_default();
    let list: Vec<Json> = serde_json::from_str(&text).unwrap_or_default();
    let gap = |pair: &Json| Some(Gap { from: pair.get(0)?.as_i64()?, to: pair.get(1)?.as_i64()? });
    Ok(list.iter().filter_map(gap).collect())
}
