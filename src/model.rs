//! The pure core: values and decisions. No clock, file, socket or log; time comes in as `now`.
#![forbid(unsafe_code)]

pub mod access;
pub mod spec;
pub mod restart;
pub mod package;
pub mod schedule;
pub mod job;
pub mod command;
pub mod plan;
pub mod record;
pub mod report;
pub mod trust;
pub mod ids;
pub mod progress;
pub mod event;
pub mod reexec_state;
pub mod membership;
pub mod agent;
pub mod state;
