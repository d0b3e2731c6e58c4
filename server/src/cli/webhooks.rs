//! `webhook`: who is told of events.

use super::client::{Client, Failure};
use super::print::{ago, cell};
use super::verbs::show;
use super::words::Webhook;
use crate::serve::clock;
use serde_json::{json, Value as Json};

/// Runs the verb.
///
/// # Errors
/// What the server says, or that it does not run.
pub fn run(webhook: &Webhook, client: &Client, as_json: bool) -> Result<(), Failure> {
    match webhook {
        Webhook::Add { name, url, events } => {
            let mut body = json!({ "name": name, "url": url });
            if !events.is_empty() {
                body["events"] = json!(events);
            }
            let made = client.post("webhooks", &body)?;
            if as_json {
                println!("{made}");
                return Ok(());
            }
            println!("webhook {name} is added; see whether a message arrives: bootserver webhook test {name}");
            println!("messages are signed with {} (it is not shown again)", cell(&made["secret"]));
        }
        Webhook::List => {
            let found = client.get("webhooks", &[])?;
            show(&found, as_json, &["WEBHOOK", "URL", "EVENTS", "LAST TRIED", "OUTCOME"], |hook| {
                let events = hook["events"].as_array().into_iter().flatten().filter_map(Json::as_str);
                let outcome = match hook["failures"].as_i64() {
                    Some(failures @ 1..) => format!("{} ({failures} times)", cell(&hook["outcome"])),
                    _ => cell(&hook["outcome"]),
                };
                let tried = ago(&hook["tried"], clock::now());
                vec![cell(&hook["name"]), cell(&hook["url"]), events.collect::<Vec<_>>().join(" "), tried, outcome]
            });
        }
        Webhook::Remove { name } => {
            client.post("webhooks/remove", &json!({ "name": name }))?;
            println!("webhook {name} is removed");
        }
        Webhook::Test { name } => {
            let done = client.post("webhooks/test", &json!({ "name": name }))?;
            println!("webhook {name} took the message: status {}", done["status"]);
        }
    }
    Ok(())
}
