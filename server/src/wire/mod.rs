//! What goes over the wire, both ways: text in, values out, and back. Nothing here touches the host.

pub mod agent;
pub mod calls;
pub mod job;
pub mod kept;
pub mod multipart;
pub mod password;
pub mod sign;
/// The agent's own rules for text of another origin.
#[path = "../../../src/text.rs"]
#[allow(dead_code, reason = "the agent uses the rest")]
#[allow(clippy::manual_is_multiple_of, reason = "the oldest Rust that the agent is built with has no is_multiple_of")]
pub mod text;
pub mod url;
