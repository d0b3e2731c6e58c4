//! bootserver: the control server of a fleet of BootAgent hosts.
//!
//! `model` decides, `wire` reads and writes what goes over the network, `store` keeps, `pages` makes HTML of it, `serve`
//! answers, `cli` is what people type. Each names only those before it.

mod model;
mod wire;
#[macro_use]
mod store;
mod cli;
mod pages;
mod serve;

fn main() -> std::process::ExitCode {
    cli::run()
}
