//! What goes over the wire, both ways: text in, values out, and back. Nothing here touches the host.

pub mod agent;
pub mod calls;
pub mod job;
pub mod multipart;
pub mod password;
pub mod sign;
pub mod url;
