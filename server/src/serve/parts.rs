//! Jobs for many hosts, given and cancelled in parts: each part is a transaction of its own, and reports are stored in between.
//!
//! Seen from a host it is one step all the same. A job that is being prepared is offered to nobody until the last part is
//! there; one that is being cancelled is offered to nobody from the first part on. What a server leaves unfinished when it
//! is killed, the next one finishes: a job that was being prepared was not given, and goes; one that was being cancelled is
//! cancelled.

use super::give::{self, Cancelled, Chosen, Given, Selection, Wanted};
use super::{clock, Shared};
use crate::model::job::{State, PART};
use crate::store::{events, executions, jobs, refused, Error, Tx};
use serde_json::{json, Value as Json};
use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

/// The ids of the jobs that this server is preparing. Any other job that the database has as being prepared was left by a
/// server that was killed, or could not be given.
#[derive(Default)]
pub struct Preparing(Mutex<HashSet<String>>);

impl Preparing {
    fn ids(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps a job among those that are being prepared until it is dropped, so that `finish` does not remove it.
struct Hold {
    shared: Arc<Shared>,
    id: String,
}

impl Hold {
    fn new(shared: &Arc<Shared>, id: &str) -> Hold {
        shared.preparing.ids().insert(id.to_string());
        Hold { shared: shared.clone(), id: id.to_string() }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.shared.preparing.ids().remove(&self.id);
    }
}

/// Runs `work` to its end, also when whoever asked for it closes the connection.
async fn to_the_end<T: Send + 'static>(
    work: impl std::future::Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Error> {
    tokio::spawn(work).await.unwrap_or_else(|_| Err(Error::Engine("a fault of the server, see its log".to_string())))
}

/// Gives a job; the answer says to how many hosts, and why others were left out.
///
/// # Errors
/// What the engine says; what is wrong with the request; that no host is meant; that it was cancelled meanwhile.
pub async fn give(shared: &Arc<Shared>, wanted: Wanted) -> Result<Json, Error> {
    let shared = shared.clone();
    to_the_end(async move { give_all(&shared, wanted).await }).await
}

async fn give_all(shared: &Arc<Shared>, wanted: Wanted) -> Result<Json, Error> {
    let (gaps, asked) = (shared.gaps(), wanted.clone());
    let Selection { hosts, left_out, version, body } =
        shared.read(move |tx| give::select_some(tx, &asked, &gaps)).await?;
    let is_one_part = hosts.len() <= PART;
    let mut parts = split(hosts).into_iter();
    let first = parts.next().unwrap_or_default();
    let preparing = shared.clone();
    let (mut given, hold) = shared
        .write(move |tx| {
            let state = if is_one_part { State::Open } else { State::Preparing };
            let mut given = Given::begin(tx, wanted, version, body, state, left_out)?;
            let hold = Hold::new(&preparing, &given.id);
            given.add(tx, &first)?;
            if is_one_part {
                given.end(tx)?;
            }
            Ok((given, hold))
        })
        .await?;
    for part in parts {
        given = shared.write(move |tx| given.go_on(tx, &part)).await?;
    }
    if !is_one_part {
        given = shared
            .write(move |tx| {
                given.end(tx)?;
                Ok(given)
            })
            .await?;
    }
    drop(hold);
    Ok(given.answer())
}

fn split(hosts: Vec<Chosen>) -> Vec<Vec<Chosen>> {
    hosts.chunks(PART).map(<[Chosen]>::to_vec).collect()
}

/// Cancels a job, or one execution. The answer says how many executions are withdrawn, and how many of these may still act,
/// as their hosts have them already.
///
/// # Errors
/// What the engine says, or that there is no such job.
pub async fn cancel(shared: &Arc<Shared>, id: String, who: String) -> Result<Json, Error> {
    let shared = shared.clone();
    to_the_end(async move {
        let asked = id.clone();
        let Cancelled { withdrawn, may_act, mut more } = shared.write(move |tx| give::cancel(tx, &asked, &who)).await?;
        while more {
            let asked = id.clone();
            more = shared.write(move |tx| give::withdraw(tx, &asked, clock::now())).await?;
        }
        Ok(json!({ "id": id, "withdrawn": withdrawn, "may_act": may_act }))
    })
    .await
}

/// Removes jobs that nobody is preparing any more, and withdraws the rest of those that were cancelled.
///
/// # Errors
/// What the engine says.
pub async fn finish(shared: &Arc<Shared>) -> Result<(), Error> {
    for (id, state) in shared.read_now(jobs::unfinished)? {
        let mut more = true;
        while more {
            if state == State::Preparing && shared.preparing.ids().contains(&id) {
                break;
            }
            let job = id.clone();
            more = shared
                .write(move |tx| match state {
                    State::Preparing => remove_part(tx, &job, clock::now()),
                    _ => give::withdraw(tx, &job, clock::now()),
                })
                .await?;
        }
    }
    Ok(())
}

/// Removes a part of a job that was not prepared to its end, and the job itself when no part is left; tells whether there is
/// more to remove.
fn remove_part(tx: &mut dyn Tx, id: &str, now: i64) -> Result<bool, Error> {
    let Some(job) = jobs::get(tx, id)?.filter(|job| job.state == State::Preparing) else { return Ok(false) };
    if executions::remove(tx, id, PART)? > 0 {
        return Ok(true);
    }
    jobs::remove(tx, id)?;
    let text = format!("job {id} ({} {}) was not given: it was not prepared to its end", job.action, job.agent);
    events::note(tx, now, "server", ("", ""), &text, 0)?;
    events::audit(tx, now, "rule", "job removed", &format!("job {id}"), ("preparing", ""))?;
    Ok(false)
}

/// The error that a job was cancelled before all its hosts were added.
///
/// # Errors
/// Always.
pub fn gone<T>(id: &str) -> Result<T, Error> {
    refused(format!("job {id} was cancelled while it was prepared"))
}
