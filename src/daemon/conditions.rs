//! What does not work on the host at the moment, such as writing records.
//!
//! The rest of the daemon says after each attempt whether it succeeded. From that, this file logs when a condition begins and
//! when it ends, and nothing in between; while it lasts, every report to the server and to `bootagent status` names it.
//! Nothing here tries anything again.

use super::Daemon;
use crate::kernel::Level;
use crate::model::spec::Name;
use crate::sorted_map::SortedMap;

/// Something that the daemon does again and again, and that may fail.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Condition {
    Configuration,
    ConfigurationCopy,
    SigningKeys,
    RunDir,
    StateLock,
    PidFile,
    Records,
    Backups,
    /// Of one agent, as the two below.
    OutputFile(Name),
    OutputRotation(Name),
    OutputPlace(Name),
    Commands,
    Events,
    Signals,
    Children,
    Inspections,
    BlockedProcess,
}

impl Condition {
    /// The activity, as in "writing records works again".
    fn activity(&self) -> String {
        let text = match self {
            Condition::Configuration => "using the configuration",
            Condition::ConfigurationCopy => "copying the configuration",
            Condition::SigningKeys => "signing exchanges",
            Condition::RunDir => "using run_dir",
            Condition::StateLock => "locking state_dir",
            Condition::PidFile => "writing the pid file",
            Condition::Records => "writing records",
            Condition::Backups => "copying good definitions",
            Condition::OutputFile(name) => return format!("opening the output of agent \"{name}\""),
            Condition::OutputRotation(name) => return format!("rotating the output of agent \"{name}\""),
            Condition::OutputPlace(name) => return format!("finding the output of agent \"{name}\" at its path"),
            Condition::Commands => "accepting commands",
            Condition::Events => "waiting for events",
            Condition::Signals => "reading signals",
            Condition::Children => "waiting for children",
            Condition::Inspections => "inspecting processes",
            Condition::BlockedProcess => "reading every process",
        };
        text.to_string()
    }

    /// The agent whose condition it is.
    fn agent(&self) -> Option<&Name> {
        match self {
            Condition::OutputFile(name) | Condition::OutputRotation(name) | Condition::OutputPlace(name) => Some(name),
            _ => None,
        }
    }
}

/// The conditions that last, each with the message that began it.
#[derive(Debug, Default)]
pub(super) struct Conditions {
    problems: SortedMap<Condition, Box<str>>,
}

impl Conditions {
    /// Forgets what failed for agents that are not `there` any more.
    pub fn forget_agents(&mut self, there: &dyn Fn(&Name) -> bool) {
        self.problems.retain(|condition, _| condition.agent().is_none_or(there));
    }

    /// Sets a condition that somebody else logs.
    pub fn set_unlogged(&mut self, condition: Condition, problem: Option<Box<str>>) {
        match problem {
            Some(problem) => self.problems.insert(condition, problem),
            None => drop(self.problems.remove(&condition)),
        }
    }

    /// The message of a condition, while it lasts.
    pub fn problem(&self, condition: Condition) -> Option<&str> {
        self.problems.get(&condition).map(|problem| &**problem)
    }

    /// All messages for a report about the agents that it `has`.
    pub fn problems<'a>(&'a self, has: &'a dyn Fn(&Name) -> bool) -> impl Iterator<Item = &'a Box<str>> {
        let concerned = self.problems.iter().filter(move |(condition, _)| condition.agent().is_none_or(has));
        concerned.map(|(_, problem)| problem)
    }
}

impl Daemon {
    /// Notes how an attempt ended: `None` when it succeeded, else what failed and why. A change is logged.
    pub(super) fn set_condition(&mut self, condition: Condition, problem: Option<&str>) {
        let (activity, problems) = (condition.activity(), &mut self.conditions.problems);
        match problem {
            Some(problem) if !problems.contains_key(&condition) => {
                problems.insert(condition, problem.into());
                self.log(Level::Error, &format_args!("{problem} (reported once while {activity} fails)"));
            }
            None if problems.remove(&condition).is_some() => {
                self.log(Level::Info, &format_args!("{activity} works again"));
            }
            _ => {}
        }
    }
}
