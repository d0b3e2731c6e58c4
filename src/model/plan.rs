//! What each kind of job does, and how it is undone: for each kind a plan, which is made of lists of steps.
//!
//! A plan has three lists. If a step of `prepare` fails, the new files are removed and the job ends; no agent was touched. If
//! a step of `change` fails, the steps of `back` undo the job, or the job ends as it is where `back` is empty. A step of `back`
//! does nothing if there is nothing to undo. `back` is not `change` in reverse: the previous package comes back before the
//! previous definition, which may be a part of it. `Reexec` is in `prepare`: if it fails, the old binary still runs.
//!
//! Where a step begins another phase of the ledger, the step is written to the job's record before it begins (the exceptions
//! are in `is_recorded`). After an interruption the job continues with that step, so that all steps up to the next recorded
//! one may be done twice without harm.
//!
//! `state::jobs::step` says how each step begins and when it is done; `state::jobs::run` runs a plan in either direction.

use crate::model::job::{Job, JobAction, SELF};
use crate::model::package::Format;

/// The steps of one kind of job; by default none, as of a job that has not begun or has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The steps before the host is changed.
    prepare: &'static [Step],
    /// The steps that change the host.
    change: &'static [Step],
    /// The steps that undo a change; empty if a failure leaves everything as it is.
    back: &'static [Step],
}

use Step::*;

/// Installs a tar, or upgrades to one.
static TAR: Plan = Plan {
    prepare: &[Download, Verify, Place, Unpack, Inspect, Name],
    change: &[Adopt, Stop, Link, Resume, Settle, Retire, Keep],
    back: &[Stop, Reinstall, Relink, Discard, Restore, Clear, Resume, Settle],
};

/// Installs a package by the host's package manager, or upgrades to one.
static PACKAGE: Plan = Plan {
    prepare: &[Download, Verify, Place, Identify, Query],
    change: &[Install, Inspect, Adopt, Stop, Clear, Resume, Settle, Retire, Keep],
    back: &[Stop, Reinstall, Relink, Discard, Restore, Clear, Resume, Settle],
};

/// Installs a package that the agent has already: only the settings of the job are new.
static SAME: Plan = Plan {
    prepare: &[Look],
    change: &[Adopt, Stop, Link, Resume, Settle, Keep],
    back: &[Stop, Reinstall, Relink, Discard, Restore, Clear, Resume, Settle],
};

/// Removes an agent and its package.
static UNINSTALL: Plan = Plan {
    prepare: &[],
    change: &[WantDown, AskInstalled, Stop, Remove, Forget],
    back: &[Stop, Reinstall, Restore, Clear, Resume, Settle],
};

/// Starts an agent.
static START: Plan = Plan { prepare: &[], change: &[Start, Settle], back: &[] };

/// Stops an agent.
static STOP: Plan = Plan { prepare: &[], change: &[WantDown, Stop], back: &[] };

/// Stops an agent and starts it.
static RESTART: Plan = Plan { prepare: &[], change: &[WantUp, Stop, Start, Settle], back: &[] };

/// Has an agent read its own configuration again.
static RELOAD: Plan = Plan { prepare: &[], change: &[Reload], back: &[] };

/// Gives an agent another environment or other limits.
static CONFIG: Plan =
    Plan { prepare: &[], change: &[Overlay, Stop, Start, Settle], back: &[Stop, Restore, Resume, Settle] };

/// Gives the daemon other servers or another reporting interval.
static SETTINGS: Plan = Plan { prepare: &[TryServers], change: &[ApplySettings], back: &[] };

/// Replaces the daemon's own binary. From `Prove` on the new binary runs; `GoBack` executes the installed one again.
static SELF_UPGRADE: Plan = Plan {
    prepare: &[Download, Verify, Place, Unpack, TryNew, Reexec],
    change: &[Prove, Replace, Remember],
    back: &[GoBack],
};

/// Executes the installed binary in the daemon's process.
static SELF_RESTART: Plan = Plan { prepare: &[TryInstalled, Reexec], change: &[], back: &[] };

/// One step of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The package is downloaded, with the digest of the job.
    Download,
    /// The download is verified: its digest, and its signature where there must be one.
    Verify,
    /// The download is moved to the package files.
    Place,
    /// The package manager is asked for the package's own name and version.
    Identify,
    /// The package that the agent has on record is looked for on the host.
    Look,
    /// The package manager is asked what is installed of the package.
    Query,
    /// The tar is unpacked.
    Unpack,
    /// The package's own definition is read, and the definition that counts is chosen.
    Inspect,
    /// The unpacked directory gets the name of its version.
    Name,
    /// The package manager installs the package.
    Install,
    /// The agent's record gets the package, the definition and the settings of the job.
    Adopt,
    /// The package manager is asked what is installed of the package that is about to be removed. It is like `Query`, but in
    /// the phase `Starting`: 1.0.0 cannot resume an uninstall in `Verified`.
    AskInstalled,
    /// The agent's record says that it should run.
    WantUp,
    /// The agent's record says that it should not run.
    WantDown,
    /// The agent's record gets the environment and limits of the job.
    Overlay,
    /// The agent is stopped, and none of its processes is left.
    Stop,
    /// Copies of the agent that its package has started by itself are ended.
    Clear,
    /// `current` points to the new directory.
    Link,
    /// The agent's record says that it should run, and it is started.
    Start,
    /// The agent is started if it should run; if not, no `Settle` follows.
    Resume,
    /// The agent reads its own configuration again.
    Reload,
    /// The agent stays alive for `startsecs`.
    Settle,
    /// A package of another format or name that the new one replaces is removed.
    Retire,
    /// The previous package is kept for a rollback, and the one before it is removed.
    Keep,
    /// The package is removed.
    Remove,
    /// The agent's files and records are removed.
    Forget,
    /// Undoes `Install` and `Remove`: the package manager removes the new package and installs the previous one.
    Reinstall,
    /// Undoes `Link`: `current` points to the previous directory.
    Relink,
    /// Undoes `Place`, `Unpack` and `Name`: the files of the new package are removed.
    Discard,
    /// Undoes `Adopt`, `Overlay` and `WantDown`: the agent has its previous record and definition.
    Restore,
    /// A server of the new list answers.
    TryServers,
    /// The daemon gets the settings of the job.
    ApplySettings,
    /// The new binary of the daemon is tried: it says its version, and checks the configuration.
    TryNew,
    /// The installed binary is tried in the same way.
    TryInstalled,
    /// The binary that was tried is executed in the daemon's process.
    Reexec,
    /// The new binary exchanges a message with a server.
    Prove,
    /// The new binary replaces the installed one. The record says before that the new binary has proved itself.
    Replace,
    /// The record says which package the installed binary came from.
    Remember,
    /// Undoes `Reexec`: the installed binary is executed again, and the package of the new one is removed.
    GoBack,
}

/// The direction of a job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Direction {
    /// The job does what the server ordered.
    #[default]
    Forward,
    /// The job is undone; its outcome is known.
    Back,
}

/// The phase of a job, as the ledger (`bootagent jobs`) shows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Recorded, waiting for its turn.
    #[default]
    Received,
    /// The package is being downloaded.
    Downloading,
    /// The package is downloaded, and its helper says that it has the digest of the job. Another helper verifies that.
    Verified,
    /// The package is being unpacked, installed or removed, or put back while the job is being undone.
    Installing,
    /// The agent is being changed, stopped or started, or the daemon is being replaced.
    Starting,
    /// What was started runs and must prove itself: an agent for `startsecs`, a new daemon by an exchange with a server.
    Settling,
    /// It has ended, and the server has not taken the result yet.
    Done,
    /// It has ended, and the server has taken the result.
    Taken,
}

impl Plan {
    /// The plan of a job; `None` if the daemon itself cannot have such a job. `same`: the agent has this very package already.
    pub fn of(job: &Job, same: bool) -> Option<&'static Plan> {
        let own = *job.name == *SELF;
        Some(match &job.action {
            JobAction::Upgrade(source) if own && source.format.is_tar() => &SELF_UPGRADE,
            JobAction::Restart if own => &SELF_RESTART,
            _ if own => return None,
            JobAction::Install(_) | JobAction::Upgrade(_) if same => &SAME,
            JobAction::Install(source) | JobAction::Upgrade(source) => match source.format {
                Format::Tar | Format::TarGz | Format::TarXz | Format::TarZst => &TAR,
                Format::Rpm | Format::Deb | Format::Apk | Format::Ipk => &PACKAGE,
            },
            JobAction::Uninstall => &UNINSTALL,
            JobAction::Start => &START,
            JobAction::Stop => &STOP,
            JobAction::Restart => &RESTART,
            JobAction::Reload => &RELOAD,
            JobAction::Config { .. } if job.name.is_empty() => &SETTINGS,
            JobAction::Config { .. } => &CONFIG,
        })
    }

    /// The steps of one direction.
    fn steps(&self, direction: Direction) -> impl Iterator<Item = Step> {
        let (first, second): (&[Step], &[Step]) = match direction {
            Direction::Forward => (self.prepare, self.change),
            Direction::Back => (self.back, &[]),
        };
        first.iter().chain(second).copied()
    }

    /// The first step of a direction.
    pub fn first(&self, direction: Direction) -> Option<Step> {
        self.steps(direction).next()
    }

    /// The step after this one.
    pub fn after(&self, direction: Direction, step: Step) -> Option<Step> {
        self.steps(direction).skip_while(|other| *other != step).nth(1)
    }

    /// Whether a job at this step may have changed the host, so that a failure starts the way back, where the plan has one.
    pub fn changes(&self, step: Step) -> bool {
        self.change.contains(&step)
    }

    /// Whether the step is written to the job's record before it begins, which it is where another phase begins.
    pub fn is_recorded(&self, direction: Direction, step: Step) -> bool {
        let before = self.steps(direction).take_while(|other| *other != step).last();
        let phase = step.phase(direction);
        let begins = before.is_none_or(|before| before.phase(direction) != phase);
        // `Replace` too: a daemon that resumes the job must not undo the upgrade to a binary that has proved itself.
        phase != Phase::Received && begins || step == Replace
    }

    /// The step that a job continues with after an interruption: the last recorded step of the phase up to `step`. Without a
    /// step, or with one that is not in this phase of the plan, it is the first recorded step of the phase: 1.0.0 records no
    /// step, and another version may have had other plans.
    pub fn resume(&self, direction: Direction, phase: Phase, step: Option<Step>) -> Option<Step> {
        let of_phase = || self.steps(direction).filter(|other| other.phase(direction) == phase);
        let mut reached = !of_phase().any(|other| step == Some(other));
        let mut last = None;
        for other in of_phase() {
            if self.is_recorded(direction, other) && (last.is_none() || !reached) {
                last = Some(other);
            }
            reached |= step == Some(other);
        }
        last
    }
}

/// The name of every step in records.
const NAMES: [(Step, &str); 39] = [
    (Download, "download"),
    (Place, "place"),
    (Verify, "verify"),
    (Identify, "identify"),
    (Look, "look"),
    (Query, "query"),
    (AskInstalled, "ask installed"),
    (Unpack, "unpack"),
    (Inspect, "inspect"),
    (Name, "name"),
    (Install, "install"),
    (Adopt, "adopt"),
    (WantUp, "want up"),
    (WantDown, "want down"),
    (Overlay, "overlay"),
    (Stop, "stop"),
    (Clear, "clear"),
    (Link, "link"),
    (Start, "start"),
    (Resume, "resume"),
    (Reload, "reload"),
    (Settle, "settle"),
    (Retire, "retire"),
    (Keep, "keep"),
    (Remove, "remove"),
    (Forget, "forget"),
    (Reinstall, "reinstall"),
    (Relink, "relink"),
    (Discard, "discard"),
    (Restore, "restore"),
    (TryServers, "try servers"),
    (ApplySettings, "apply settings"),
    (TryNew, "try new"),
    (TryInstalled, "try installed"),
    (Reexec, "reexec"),
    (Prove, "prove"),
    (Replace, "replace"),
    (Remember, "remember"),
    (GoBack, "go back"),
];

impl Step {
    /// Its name in records.
    pub fn name(self) -> &'static str {
        NAMES.iter().find(|(step, _)| *step == self).map_or("", |(_, name)| name)
    }

    /// The step of this name.
    pub fn named(name: &str) -> Option<Step> {
        NAMES.iter().find(|(_, known)| *known == name).map(|(step, _)| *step)
    }

    /// The phase that the step belongs to. 1.0.0 knows phases and no steps, and continues a job by its phase.
    pub const fn phase(self, direction: Direction) -> Phase {
        match self {
            TryServers | ApplySettings => Phase::Received,
            Download => Phase::Downloading,
            Place | Verify | Identify | Look | Query => Phase::Verified,
            Unpack | Inspect | Name | Install | Adopt | Remove | Forget | TryNew => Phase::Installing,
            Reinstall | Relink | Discard | Restore => Phase::Installing,
            Stop => match direction {
                Direction::Forward => Phase::Starting,
                Direction::Back => Phase::Installing,
            },
            WantUp | WantDown | AskInstalled | Overlay | Clear | Link | Start | Resume | Reload | TryInstalled
            | Reexec => Phase::Starting,
            Settle | Retire | Keep | Prove | Replace | Remember | GoBack => Phase::Settling,
        }
    }
}

impl Phase {
    /// All of them, in order, with their names.
    pub const ALL: [(Phase, &str); 8] = [
        (Phase::Received, "received"),
        (Phase::Downloading, "downloading"),
        (Phase::Verified, "verified"),
        (Phase::Installing, "installing"),
        (Phase::Starting, "starting"),
        (Phase::Settling, "settling"),
        (Phase::Done, "done"),
        (Phase::Taken, "taken"),
    ];

    /// Its name in the ledger and in records.
    pub const fn name(self) -> &'static str {
        Phase::ALL[self as usize].1
    }

    /// The phase of this name.
    pub fn named(name: &str) -> Option<Phase> {
        Phase::ALL.iter().find(|(_, known)| *known == name).map(|(phase, _)| *phase)
    }
}

#[cfg(test)]
mod tests;
