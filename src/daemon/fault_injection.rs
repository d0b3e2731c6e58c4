//! Fault injection for tests. A release build contains nothing of it.
//!
//! `BOOTAGENT_FAULT=POINT:N` stops the daemon with SIGSTOP when it passes a point for the Nth time, counted from the first job
//! it receives, so that a test can kill it there, fill its disk, or damage its files and continue it. A point is an action
//! about to be carried out or an event about to be handed to the state, by its name; after the first reexec of an upgrade of
//! the daemon itself it begins with `2-`, after the second with `3-`. `BOOTAGENT_FAULT_LOG=FILE` lists the points as they are
//! passed. `BOOTAGENT_BOOT_ID` replaces the kernel's boot id; `BOOTAGENT_TOOL_SECS`, `_LOCK_SECS`, `_FETCH_SECS` and
//! `_SAVE_SECS` replace the constants of `state::Times`, and `BOOTAGENT_STALL_SECS` how long a download may stall
//! (`work::stall_secs`). With `BOOTAGENT_FAULT_PANIC` set, the daemon panics at its first action.

#[cfg(not(debug_assertions))]
pub use none::*;
#[cfg(debug_assertions)]
pub use real::*;

#[cfg(debug_assertions)]
mod real {
    use std::fmt::Debug;
    use std::fs::OpenOptions;
    use std::io::Write;
    use std::time::Duration;

    use crate::kernel::{Pid, Sig};
    use crate::model::event::{Action, Event, Message, Reply, ToolOwner};
    use crate::model::plan::Direction;
    use crate::model::record::Phase;
    use crate::model::state::Times;
    use crate::sys::process;

    /// The fault that the environment asks for.
    #[derive(Debug)]
    pub struct FaultInjector {
        point: Option<(String, u32)>,
        log: Option<String>,
        /// A job was received.
        armed: bool,
        /// What the names of points begin with.
        prefix: String,
    }

    impl FaultInjector {
        /// As the environment says; `in_job`: this binary was executed by an upgrade of the daemon itself.
        pub fn new(in_job: bool) -> FaultInjector {
            const COUNT: &str = "BOOTAGENT_FAULT_IMAGE";
            let before = std::env::var(COUNT).ok().and_then(|text| text.parse().ok()).unwrap_or(1);
            let number: u32 = if in_job { before + 1 } else { 1 };
            // For the next reexec.
            std::env::set_var(COUNT, number.to_string());
            let prefix = if in_job { format!("{number}-") } else { String::new() };
            let point = std::env::var("BOOTAGENT_FAULT").ok().and_then(|text| {
                let (point, count) = text.rsplit_once(':')?;
                Some((point.to_string(), count.parse().ok()?))
            });
            FaultInjector { point, log: std::env::var("BOOTAGENT_FAULT_LOG").ok(), armed: in_job, prefix }
        }

        /// An action is about to be carried out.
        pub fn action(&mut self, action: &Action) {
            assert!(std::env::var_os("BOOTAGENT_FAULT_PANIC").is_none(), "a panic was asked for");
            if self.point.is_none() && self.log.is_none() {
                return;
            }
            self.armed |= matches!(action, Action::SaveJob(record) if record.phase == Phase::Received);
            match action {
                Action::SaveJob(record) => {
                    let undo = if record.direction == Direction::Back { "-undo" } else { "" };
                    self.pass(&format!("SaveJob-{}{undo}", record.phase.name()));
                }
                Action::Exchange(_, Message::Results(_)) => self.pass("Exchange-results"),
                Action::Tool(ToolOwner::Inventory, _) => {}
                Action::Tool(_, tool) => self.pass(&format!("Tool-{}", tool.argv.len())),
                _ => self.pass(&word(action)),
            }
        }

        /// An event is about to be handed to the state.
        pub fn event(&mut self, event: &Event) {
            if self.point.is_none() && self.log.is_none() {
                return;
            }
            match event {
                Event::Replied(Reply::Taken) => self.pass("Replied-taken"),
                _ => self.pass(&word(event)),
            }
        }

        /// A point between two steps of one action.
        pub fn pass(&mut self, point: &str) {
            if !self.armed {
                return;
            }
            let point = &format!("{}{point}", self.prefix);
            if let Some(mut log) =
                self.log.as_ref().and_then(|log| OpenOptions::new().append(true).create(true).open(log).ok())
            {
                let _ = writeln!(log, "{point}");
            }
            if let Some((wanted, left)) = self.point.as_mut().filter(|(wanted, _)| wanted == point) {
                *left = left.saturating_sub(1);
                if *left == 0 {
                    eprintln!("bootagent: stops at {wanted}");
                    self.point = None;
                    if let Some(own) = Pid::new(process::own_id()) {
                        let _ = process::signal(own, Sig::STOP);
                    }
                }
            }
        }
    }

    /// The name of a variant.
    fn word(value: &impl Debug) -> String {
        let text = format!("{value:?}");
        text.chars().take_while(|c| c.is_ascii_alphanumeric()).collect()
    }

    /// The boot id to use.
    pub fn boot_id(real: Box<str>) -> Box<str> {
        std::env::var("BOOTAGENT_BOOT_ID").map_or(real, Box::from)
    }

    /// The time limits of jobs.
    pub fn times() -> Times {
        let secs = |key: &str, usual: Duration| {
            let text = std::env::var(key).ok().and_then(|text| text.parse().ok());
            text.map_or(usual, Duration::from_secs_f64)
        };
        let usual = Times::default();
        Times {
            tool: secs("BOOTAGENT_TOOL_SECS", usual.tool),
            lock: secs("BOOTAGENT_LOCK_SECS", usual.lock),
            fetch: secs("BOOTAGENT_FETCH_SECS", usual.fetch),
            save: secs("BOOTAGENT_SAVE_SECS", usual.save),
        }
    }
}

#[cfg(not(debug_assertions))]
mod none {
    use crate::model::event::{Action, Event};
    use crate::model::state::Times;

    #[derive(Debug)]
    pub struct FaultInjector;

    impl FaultInjector {
        pub fn new(_: bool) -> FaultInjector {
            FaultInjector
        }

        pub fn action(&mut self, _: &Action) {}

        pub fn event(&mut self, _: &Event) {}

        pub fn pass(&mut self, _: &str) {}
    }

    pub fn boot_id(real: Box<str>) -> Box<str> {
        real
    }

    pub fn times() -> Times {
        Times::default()
    }
}
