//! Text becomes values, and values become text: JSON, configuration, definitions, protocol, records.
//!
//! Everything here is pure: no file, socket, clock or log. What a text may say is decided here; what is done about it is
//! decided in `model`.
#![forbid(unsafe_code)]

pub mod control;
pub mod json;
pub mod emit;
pub mod about;
pub mod env_file;
pub mod definition;
pub mod notification;
pub mod config;
pub mod record;
pub mod job;
pub mod proto;
pub mod sign;
pub mod reexec_data;
