//! Text in, values out, and back: JSON, configuration, protocol. Pure: no file, socket, clock or log.
#![forbid(unsafe_code)]

pub mod control;
pub mod json;
pub mod emit;
pub mod definition;
pub mod config;
pub mod record;
pub mod job;
pub mod proto;
pub mod sign;
pub mod reexec_data;
