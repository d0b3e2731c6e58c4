//! What the server decides, as values and functions: time comes in as `now`, and nothing here touches the host.

pub mod address;
pub mod exchange;
pub mod execution;
pub mod facts;
pub mod filter;
pub mod gaps;
pub mod host;
pub mod identity;
pub mod job;
pub mod people;
pub mod release;
pub mod replay;
pub mod retention;
pub mod version;
pub mod webhook;
pub mod window;
