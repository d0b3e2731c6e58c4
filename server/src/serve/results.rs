//! What results do to what is stored. A well-formed result is never refused: it is kept, or noted.

use super::report::{held, Sender};
use crate::model::execution::{Effect, Event, Execution, State};
use crate::store::executions::{self, Stored};
use crate::store::{events, hosts, jobs, Error, Tx};
use crate::wire::agent::Outcome;

const HOUR: i64 = 3600;

/// Takes the results of one request.
///
/// # Errors
/// What the engine says.
pub fn take(tx: &mut dyn Tx, outcomes: &[Outcome], sender: &Sender, now: i64) -> Result<(), Error> {
    for outcome in outcomes {
        let Some(stored) = executions::get(tx, &outcome.id)? else {
            let text = format!("a result for a job that is not known: {} {}", outcome.id, outcome.errcode);
            events::note(tx, now, "unknown job", (&sender.sn, ""), &text, HOUR)?;
            continue;
        };
        if let Some(why) = stranger(tx, &stored, sender)? {
            let text = format!("a result for {} had no effect: {why}", stored.id);
            events::note(tx, now, "security", (&stored.sn, &stored.host), &text, 0)?;
            continue;
        }
        take_one(tx, stored, outcome, now)?;
    }
    Ok(())
}

/// Why the sender may not speak for the execution's host.
fn stranger(tx: &mut dyn Tx, stored: &Stored, sender: &Sender) -> Result<Option<String>, Error> {
    if !sender.sn.is_empty() && sender.sn != stored.sn {
        return Ok(Some(format!("it came from {}, and the job is of {}", sender.sn, stored.sn)));
    }
    let host = hosts::get(tx, &stored.sn)?;
    held(tx, host.as_ref(), sender.key.as_ref(), &stored.sn, &stored.host)
}

fn take_one(tx: &mut dyn Tx, mut stored: Stored, outcome: &Outcome, now: i64) -> Result<(), Error> {
    let before = stored.execution.clone();
    let event = Event::Result { errcode: outcome.errcode, message: outcome.message.clone() };
    let effect = stored.execution.step(event, now);
    if stored.execution != before {
        executions::save(tx, &stored.id, &stored.execution)?;
        if before.errcode.is_none() && outcome.errcode != 0 {
            let Stored { agent, action, .. } = &stored;
            let text = format!("{action} {agent}: {} {}", outcome.errcode, outcome.message);
            events::note(tx, now, "job", (&stored.sn, &stored.host), &text, 0)?;
        }
    }
    match effect {
        None => Ok(()),
        Some(Effect::Note(text)) => {
            let text = format!("{}: {text}", stored.id);
            events::note(tx, now, "job", (&stored.sn, &stored.host), &text, 0)
        }
        Some(Effect::Retry { not_before }) => retry(tx, &stored, not_before, now),
    }
}

/// Makes the next attempt, under an id of its own: a host runs an id once.
fn retry(tx: &mut dyn Tx, stored: &Stored, not_before: i64, now: i64) -> Result<(), Error> {
    if jobs::get(tx, &stored.job)?.is_none_or(|job| job.state == "cancelled") {
        return Ok(());
    }
    let old = &stored.execution;
    let execution = Execution {
        attempt: old.attempt + 1,
        not_before,
        state: State::Waiting,
        reason: format!("attempt {} of 3; waits after a download that did not work", old.attempt + 1),
        ..Execution::new(old.version.clone(), old.slack, old.step)
    };
    let id = format!("{}-{}", stored.job, super::clock::random_id());
    executions::add(tx, &Stored { id, created: now, execution, ..stored.clone() })
}
