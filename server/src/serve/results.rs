//! What results do to what is stored. A well-formed result is never refused: it is kept, or noted.

use super::report::{unheld, Sender};
use crate::model::execution::{Effect, Event, Execution};
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
            // An sn that nobody knows is anything: those have one pause together.
            let host = hosts::get(tx, &sender.sn)?.map(|host| (host.sn, host.name)).unwrap_or_default();
            events::note(tx, now, "unknown job", (&host.0, &host.1), &text, HOUR)?;
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
    unheld(tx, host.as_ref(), sender.key.as_ref(), &stored.sn, &stored.host)
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
        Some(Effect::Retry { not_before }) => {
            let attempt = stored.execution.attempt + 1;
            let reason = format!("attempt {attempt} of 3; waits after a download that did not work");
            make_anew(tx, &stored, attempt, not_before, reason, now)
        }
        Some(Effect::Again) => {
            let reason =
                "waits for the next maintenance window, as the last one closed before it was begun".to_string();
            make_anew(tx, &stored, stored.execution.attempt, now, reason, now)
        }
    }
}

/// Makes it once more, under an id of its own: a host runs an id once.
fn make_anew(
    tx: &mut dyn Tx,
    stored: &Stored,
    attempt: i64,
    not_before: i64,
    reason: String,
    now: i64,
) -> Result<(), Error> {
    if jobs::get(tx, &stored.job)?.is_none_or(|job| job.state.is_cancelled()) {
        return Ok(());
    }
    let old = &stored.execution;
    let new = Execution::new(old.version.clone(), old.slack, old.step);
    let execution = Execution { attempt, not_before, reason, windowed: old.windowed, ..new };
    let id = format!("{}-{}", stored.job, super::clock::random_id());
    executions::add(tx, &Stored { id, created: now, execution, ..stored.clone() })
}
