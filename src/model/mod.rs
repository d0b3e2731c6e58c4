//! The pure core: values and decisions. No clock, file, socket or log; time comes in as `now`.
#![forbid(unsafe_code)]

pub mod command;
pub mod job;
pub mod pace;
pub mod package;
pub mod spec;
pub mod record;
pub mod report;
