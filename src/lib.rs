//! BootAgent keeps a host's agents installed, running and within limits, and takes jobs from a control server.
//!
//! Read `docs/architecture.md` first, then `model::state`, `model::agent`, `model::plan`, `daemon`, `host::spawn`, `sys::child`.
//! Imports point one way: each module names only those before it in this list.

pub mod sorted_map;
#[macro_use]
pub mod error;
pub mod text;
pub mod kernel;
#[allow(unsafe_code)]
pub mod sys;
pub mod model;
pub mod wire;
pub mod work;
pub mod host;
pub mod daemon;
pub mod cli;

#[cfg(test)]
#[path = "../tests/util/skip.rs"]
#[allow(dead_code)]
mod skip;
