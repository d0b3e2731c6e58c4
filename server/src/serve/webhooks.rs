//! Webhooks: people add and remove them, and the server tells them of events in the log. The database keeps how far each
//! has been told (`Progress`), so that nothing is left out when the server or the receiver was down. A message may come
//! twice then, with the same id.

use super::post::{self, Post};
use super::{clock, Shared};
use crate::model::people::check_name;
use crate::model::webhook::{self, Message, Progress};
use crate::store::webhooks::{self, Webhook};
use crate::store::{events, refused, Error, Tx};
use crate::wire::sign;
use crate::wire::url::Url;
use serde_json::{json, Value as Json};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// How often the log is looked at.
const PAUSE: Duration = Duration::from_secs(2);

/// Adds a webhook; the answer has the secret that its messages are signed with.
///
/// # Errors
/// What the engine says, or what of the request will not do.
pub fn add(tx: &mut dyn Tx, body: &Json, who: &str) -> Result<Json, Error> {
    let text = |key: &str| body[key].as_str().unwrap_or_default().to_string();
    let (name, url) = (text("name"), text("url"));
    check_name("webhook", &name).map_err(Error::Refused)?;
    let parsed = Url::parse(&url).map_err(|why| Error::Refused(format!("url {why}")))?;
    if let Some(why) = parsed.host.parse().ok().and_then(webhook::forbidden) {
        return refused(format!("url \"{url}\": {} is {why}, where no message may go", parsed.host));
    }
    let kinds = match body["events"].as_array() {
        Some(list) => list.iter().map(|kind| kind.as_str().unwrap_or_default().to_string()).collect(),
        None => webhook::USUAL.map(str::to_string).to_vec(),
    };
    webhook::check_kinds(&kinds).map_err(Error::Refused)?;
    let (secret, now) = (clock::secret(), clock::now());
    let new = Webhook {
        name: name.clone(),
        url,
        secret: secret.clone(),
        kinds: kinds.clone(),
        created: now,
        by: who.to_string(),
        progress: Progress::default(),
        failures: 0,
        not_before: 0,
        outcome: String::new(),
        tried: None,
    };
    webhooks::add(tx, &new)?;
    // The rest of the URL may be a secret, and everybody can read the trail.
    let after = format!("{} at {}", kinds.join(" "), parsed.authority());
    events::audit(tx, now, who, "webhook add", &format!("webhook {name}"), ("", &after))?;
    Ok(json!({ "name": name, "secret": secret }))
}

/// Removes a webhook.
///
/// # Errors
/// What the engine says, or that there is none.
pub fn remove(tx: &mut dyn Tx, body: &Json, who: &str) -> Result<Json, Error> {
    let name = body["name"].as_str().unwrap_or_default();
    let before = webhooks::get(tx, name)?.kinds.join(" ");
    webhooks::remove(tx, name)?;
    events::audit(tx, clock::now(), who, "webhook remove", &format!("webhook {name}"), (&before, ""))?;
    Ok(json!({}))
}

/// Webhooks without their secrets.
///
/// # Errors
/// What the engine says.
pub fn list(tx: &mut dyn Tx) -> Result<Vec<Json>, Error> {
    let one = |hook: &Webhook| {
        json!({
            "name": hook.name, "url": hook.url, "events": hook.kinds, "created": hook.created, "by": hook.by,
            "failures": hook.failures, "outcome": hook.outcome, "tried": hook.tried,
        })
    };
    Ok(webhooks::list(tx)?.iter().map(one).collect())
}

/// Sends a message to see whether it arrives.
///
/// # Errors
/// What the engine says, or why it did not arrive.
pub async fn test(shared: &Arc<Shared>, body: &Json, who: String) -> Result<Json, Error> {
    let name = body["name"].as_str().unwrap_or_default().to_string();
    let hook = shared.read(move |tx| webhooks::get(tx, &name)).await?;
    let (object, path) = (hook.name.clone(), "/webhooks".to_string());
    let reason = format!("{who} asked for this message");
    let sent = tell(shared, &hook, &Message { id: 0, event: "test", time: clock::now(), object, reason, path }).await;
    match sent {
        Ok(status) => Ok(json!({ "status": status })),
        Err(why) => refused(format!("webhook {}: {why}", hook.name)),
    }
}

/// Sends one message; the status of the answer.
///
/// # Errors
/// Why it did not arrive.
async fn tell(shared: &Shared, hook: &Webhook, message: &Message) -> Result<u16, String> {
    let url = Url::parse(&hook.url)?;
    let Message { id, event, time, object, reason, path } = message;
    let link = format!("{}{path}", shared.front.base(&shared.doors));
    let body = json!({ "event": event, "time": time, "object": object, "reason": reason, "url": link }).to_string();
    let headers = vec![
        ("content-type", "application/json".to_string()),
        ("user-agent", concat!("bootserver/", env!("CARGO_PKG_VERSION")).to_string()),
        ("x-bootserver-id", format!("{}-{id}", hook.name)),
        ("x-bootserver-signature", format!("sha256={}", sign::text(&hook.secret, &body))),
    ];
    post::send(shared, &url, Post { body, headers }).await
}

/// When messages of a webhook were sent in the last minute.
type Sent = HashMap<String, VecDeque<i64>>;

/// Runs until the server ends.
pub async fn run(shared: Arc<Shared>) {
    let mut sent = Sent::new();
    loop {
        tokio::time::sleep(PAUSE).await;
        if let Err(error) = round(&shared, &mut sent).await {
            shared.complain(&error);
        }
    }
}

/// Tells all webhooks whose turn it is, at the same time, and waits for the last of them.
async fn round(shared: &Arc<Shared>, sent: &mut Sent) -> Result<(), Error> {
    let now = clock::now();
    let hooks = shared.read_inside(webhooks::list).await?;
    sent.retain(|name, _| hooks.iter().any(|hook| hook.name == *name));
    let mut tasks = JoinSet::new();
    for hook in hooks.into_iter().filter(|hook| hook.not_before <= now) {
        let times = sent.entry(hook.name.clone()).or_default();
        while times.front().is_some_and(|time| !(0..60).contains(&(now - time))) {
            times.pop_front();
        }
        let room = webhook::A_MINUTE.saturating_sub(times.len());
        if room > 0 {
            tasks.spawn(catch_up(shared.clone(), hook, room));
        }
    }
    while let Some(done) = tasks.join_next().await {
        let done = done.map_err(|_| Error::Engine("a fault of a webhook, see the log".to_string()))?;
        sent.entry(done.name).or_default().extend(std::iter::repeat_n(now, done.count));
        if let Err(error) = done.result {
            shared.complain(&error);
        }
    }
    Ok(())
}

/// What a webhook was told in one round.
struct Told {
    /// The name of the webhook.
    name: String,
    /// Messages that were sent. They count for the limit of a minute also where the database does not keep what became of
    /// them: the same ones are sent again then.
    count: usize,
    /// What the database says.
    result: Result<(), Error>,
}

async fn catch_up(shared: Arc<Shared>, hook: Webhook, room: usize) -> Told {
    let (name, mut count) = (hook.name.clone(), 0);
    let result = tell_news(&shared, hook, room, &mut count).await;
    Told { name, count, result }
}

/// Tells a webhook what has happened since it was told last, in at most `room` messages, and counts these.
async fn tell_news(shared: &Arc<Shared>, mut hook: Webhook, room: usize, count: &mut usize) -> Result<(), Error> {
    let (after, before) = (hook.progress.told, hook.clone());
    let (found, newest) = shared.read_inside(move |tx| webhooks::events(tx, after)).await?;
    let messages = webhook::messages(&found, &hook.progress, &hook.kinds, room);
    // What does not fit is told in the next minute.
    let mut is_told_all = messages.len() <= room;
    for message in messages.iter().take(room) {
        *count += 1;
        hook.tried = Some(clock::now());
        match tell(shared, &hook, message).await {
            Ok(status) => {
                (hook.failures, hook.not_before, hook.outcome) = (0, 0, format!("answered with status {status}"));
                hook.progress.arrived(message);
            }
            Err(why) => {
                if hook.failures == 0 {
                    clock::say(&format!("webhook {}: {why}; it is tried again until it arrives", hook.name));
                }
                hook.failures += 1;
                (hook.not_before, hook.outcome) = (clock::now() + webhook::pause(hook.failures), why);
                is_told_all = false;
                break;
            }
        }
    }
    if is_told_all {
        hook.progress.caught_up(newest);
    }
    if (&hook.progress, hook.tried) != (&before.progress, before.tried) {
        let saved = hook.clone();
        shared.write(move |tx| webhooks::save(tx, &saved)).await?;
    }
    Ok(())
}
