//! What goes over the wire, both ways: text in, values out, and back. Nothing here touches the host.

pub mod agent;
pub mod job;
pub mod sign;
