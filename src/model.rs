//! The pure core: values and decisions.
//!
//! Events come in and actions go out, as `event` has them; `state` decides. The time comes in as `now`. Nothing here may
//! read a clock, touch a file or a socket, or write a log line.
#![forbid(unsafe_code)]

pub mod access;
pub mod oom_score;
pub mod basis;
pub mod spec;
pub mod restart;
pub mod package;
pub mod url;
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
pub mod runtime_directory;
pub mod reexec_state;
pub mod membership;
pub mod main_process;
pub mod descriptors;
pub mod ending;
pub mod enforcement;
pub mod measurement;
pub mod preparation;
pub mod keeper;
pub mod secrets;
pub mod agent;
pub mod state;
