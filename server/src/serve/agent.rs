//! The door for hosts: the two POSTs, and packages.

use super::door::{self, header, reply, Reply, Unread};
use super::report::{self, Answer, Sender};
use super::{clock, packages, results, Shared};
use crate::store::groups::{self, Key};
use crate::store::{Error, Tx};
use crate::wire::{agent, sign};
use hyper::body::Incoming;
use hyper::{HeaderMap, Method, Request};
use serde_json::json;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Bytes of bodies that are in memory at one time, in KiB.
pub const BUDGET_KIB: usize = 128 << 10;
/// The longest body of a request that does not say which key signed it: up to 17 keys are tried on it.
const UNNAMED_MAX: usize = 256 << 10;

/// The addresses of a connection.
#[derive(Clone, Copy)]
pub struct Ends {
    /// The host.
    pub peer: SocketAddr,
    /// Our own, as the host sees it.
    pub local: SocketAddr,
}

/// Answers a request at the hosts' door.
pub async fn handle(shared: Arc<Shared>, budget: Arc<Semaphore>, ends: Ends, request: Request<Incoming>) -> Reply {
    let path = request.uri().path().to_string();
    let get = request.method() == Method::GET || request.method() == Method::HEAD;
    match path.as_str() {
        "/agent/status" | "/agent/job/result" if request.method() == Method::POST => {
            post(&shared, &budget, ends, &path, request).await
        }
        "/agent/status" | "/agent/job/result" => reply(405, "text/plain", "want POST\n", &[("allow", "POST".into())]),
        _ if path.starts_with("/packages/") && get => packages::serve(&shared, &path, &request).await,
        _ => {
            door::drain(request.into_body()).await;
            reply(404, "text/plain", "hosts are served /agent/ and /packages/ here\n", &[])
        }
    }
}

/// What signs the reply.
struct Seal {
    secret: Option<String>,
    nonce: String,
}

impl Seal {
    fn reply(&self, status: u16, body: &serde_json::Value, more: &[(&str, String)]) -> Reply {
        let text = body.to_string();
        let mut headers = more.to_vec();
        if let Some(secret) = &self.secret {
            headers.push(("x-bootagent-signature", sign::reply(secret, status, &self.nonce, &text)));
        }
        reply(status, "application/json", text, &headers)
    }

    /// Tells the host to come back later, in a way that it heeds.
    fn shed(&self, why: &str) -> Reply {
        let wait = 60 + clock::spread(60);
        let body = json!({ "errcode": 1, "message": why, "retry_after": wait });
        self.reply(503, &body, &[("retry-after", wait.to_string())])
    }
}

async fn post(
    shared: &Arc<Shared>,
    budget: &Arc<Semaphore>,
    ends: Ends,
    path: &str,
    request: Request<Incoming>,
) -> Reply {
    let (head, body) = request.into_parts();
    let nonce = header(&head.headers, "x-bootagent-nonce").to_string();
    let mut seal = Seal { secret: None, nonce };
    // Who cannot be right needs no room for a body, and no time for its digest.
    let named = match named_key(shared, &head.headers).and_then(|key| check_head(shared, key, &head.headers)) {
        Ok(key) => key,
        Err(refusal) => {
            door::drain(body).await;
            return refuse(shared, &seal, ends, &refusal);
        }
    };
    seal.secret = named.as_ref().map(|key| key.secret.clone());
    let longest = if named.is_some() || shared.allow_unsigned { door::BODY_MAX } else { UNNAMED_MAX };
    let (body, _room) = match door::read_within(body, longest, budget).await {
        Ok(read) => read,
        Err(Unread::NoRoom) => {
            shared.counts.shed.fetch_add(1, Ordering::Relaxed);
            return seal.shed("too many requests at one time");
        }
        Err(Unread::TooLong) => return seal.reply(413, &refusal(&format!("a body of more than {longest} bytes")), &[]),
        Err(Unread::Cut) => return seal.reply(408, &refusal("the body did not come whole in 10 s"), &[]),
    };
    let sender = match identify(shared, named, &head.headers, path, &body, ends) {
        Ok(sender) => sender,
        Err(refusal) => return refuse(shared, &seal, ends, &refusal),
    };
    seal.secret = sender.key.as_ref().map(|key| key.secret.clone());
    if path == "/agent/status" {
        status(shared, &seal, sender, &body, ends).await
    } else {
        result(shared, &seal, sender, &body).await
    }
}

enum Refusal {
    Engine(Error),
    Forbidden(String),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Refusal {
        Refusal::Engine(error)
    }
}

/// The key that a request says it is signed with.
fn named_key(shared: &Shared, headers: &HeaderMap) -> Result<Option<Key>, Refusal> {
    let id = header(headers, "x-bootagent-key");
    if id.is_empty() {
        return Ok(None);
    }
    match shared.read_now(|tx| groups::key(tx, id))? {
        Some(key) if key.revoked.is_none() => Ok(Some(key)),
        Some(_) => Err(Refusal::Forbidden(format!("key {id} is revoked"))),
        None => Err(Refusal::Forbidden("an unknown key".to_string())),
    }
}

/// Checks what can be checked before the body is there.
fn check_head(shared: &Shared, named: Option<Key>, headers: &HeaderMap) -> Result<Option<Key>, Refusal> {
    let wrong = |why: &str| Err(Refusal::Forbidden(why.to_string()));
    if named.is_none() && header(headers, "x-bootagent-signature").is_empty() {
        return match shared.allow_unsigned {
            true => Ok(None),
            false => wrong("unsigned, and keys are required"),
        };
    }
    if !sign::is_nonce(header(headers, "x-bootagent-nonce")) {
        return wrong("the nonce is not 32 hex digits");
    }
    let sn = header(headers, "x-bootagent-sn");
    if !sn.is_empty() && !agent::is_sn(sn) {
        return wrong("the sn is not 1 to 128 visible characters");
    }
    Ok(named)
}

/// Finds the key that signed a request; with `allow_unsigned`, none is right too where nothing is signed.
fn identify(
    shared: &Shared,
    named: Option<Key>,
    headers: &HeaderMap,
    path: &str,
    body: &[u8],
    ends: Ends,
) -> Result<Sender, Refusal> {
    let (sn, nonce) = (header(headers, "x-bootagent-sn"), header(headers, "x-bootagent-nonce"));
    let signature = header(headers, "x-bootagent-signature");
    let base = shared.public_url.clone().unwrap_or_else(|| format!("http://{}", ends.local));
    let sender = |key: Option<Key>| Sender {
        key,
        sn: sn.to_string(),
        nonce: nonce.to_string(),
        peer: ends.peer.ip().to_string(),
        base,
    };
    if signature.is_empty() && named.is_none() {
        return Ok(Sender { sn: String::new(), ..sender(None) });
    }
    let candidates = match named {
        Some(key) => vec![key],
        None => shared.read_now(|tx: &mut dyn Tx| groups::candidates(tx, sn))?,
    };
    let signed = |key: &Key| sign::is_signed(&key.secret, path, sn, nonce, body, signature);
    match candidates.into_iter().find(signed) {
        Some(key) => Ok(sender(Some(key))),
        None => Err(Refusal::Forbidden("wrongly signed".to_string())),
    }
}

async fn status(shared: &Arc<Shared>, seal: &Seal, sender: Sender, body: &[u8], ends: Ends) -> Reply {
    let report = match agent::read_status(body) {
        Ok(report) => report,
        Err(why) => {
            shared.counts.bad.fetch_add(1, Ordering::Relaxed);
            return seal.reply(200, &refusal(&why), &[]);
        }
    };
    let enrolling = shared.clone();
    let taken = shared
        .write(move |tx| {
            let now = clock::now();
            report::take(tx, &report, &sender, now, &|| enrolling.may_enroll(now))
        })
        .await;
    let counts = &shared.counts;
    match taken {
        Ok(Answer::Taken { jobs, cancel }) => {
            counts.taken.fetch_add(1, Ordering::Relaxed);
            let mut body = json!({ "errcode": 0, "jobs": jobs });
            if !cancel.is_empty() {
                body["cancel"] = json!(cancel);
            }
            seal.reply(200, &body, &[])
        }
        Ok(Answer::TurnedAway) => {
            counts.turned_away.fetch_add(1, Ordering::Relaxed);
            seal.reply(200, &json!({ "errcode": 0, "jobs": [] }), &[])
        }
        Ok(Answer::Unwanted(why)) => {
            counts.unwanted.fetch_add(1, Ordering::Relaxed);
            seal.reply(200, &refusal(&why), &[])
        }
        Ok(Answer::Forbidden(why)) => forbid(shared, seal, ends, &why),
        Err(error) => failed(shared, seal, &error),
    }
}

async fn result(shared: &Arc<Shared>, seal: &Seal, sender: Sender, body: &[u8]) -> Reply {
    let outcomes = match agent::read_results(body) {
        Ok(outcomes) => outcomes,
        Err(why) => {
            shared.counts.bad.fetch_add(1, Ordering::Relaxed);
            return seal.reply(200, &refusal(&why), &[]);
        }
    };
    let count = outcomes.len() as u64;
    match shared.write(move |tx| results::take(tx, &outcomes, &sender, clock::now())).await {
        Ok(()) => {
            shared.counts.results.fetch_add(count, Ordering::Relaxed);
            seal.reply(200, &json!({ "errcode": 0 }), &[])
        }
        Err(error) => failed(shared, seal, &error),
    }
}

fn refuse(shared: &Shared, seal: &Seal, ends: Ends, refusal: &Refusal) -> Reply {
    match refusal {
        Refusal::Engine(error) => failed(shared, seal, error),
        Refusal::Forbidden(why) => forbid(shared, seal, ends, why),
    }
}

fn refusal(why: &str) -> serde_json::Value {
    json!({ "errcode": 1, "message": why })
}

/// 403; counted, and one in a while told in the log.
fn forbid(shared: &Shared, seal: &Seal, ends: Ends, why: &str) -> Reply {
    static TOLD: AtomicU64 = AtomicU64::new(0);
    let count = shared.counts.forbidden.fetch_add(1, Ordering::Relaxed) + 1;
    let second = clock::now().unsigned_abs();
    if TOLD.swap(second, Ordering::Relaxed) != second {
        clock::say(&format!("refused {}: {why} ({count} refused since the start)", ends.peer.ip()));
    }
    seal.reply(403, &refusal(why), &[])
}

/// 503: it could not be stored, so it must come again.
fn failed(shared: &Shared, seal: &Seal, error: &Error) -> Reply {
    if let Error::Busy = error {
        shared.counts.shed.fetch_add(1, Ordering::Relaxed);
    } else {
        shared.counts.failed.fetch_add(1, Ordering::Relaxed);
        shared.complain(error);
    }
    seal.shed("busy, or cannot store")
}
