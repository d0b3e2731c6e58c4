//! What each kind of job does, and how that is undone: a plan for each, as lists of steps.
//!
//! A plan has three lists. In `prepare` nothing that runs is touched: a failure there throws away what was brought, and the job
//! ends. Then `change` changes the host, and a failure there takes the job `back`. Not all that is on the way back need have
//! been done: a step that finds nothing to undo does nothing. The way back is not `change` in reverse, as the definition that
//! was in force before may be part of the package that was there before, which comes first.
//!
//! The step that a job stands at is on disk before it begins, wherever another phase of the ledger begins with it: after an
//! interruption the job goes on with that step, so all that follows up to the next such step can be done twice without harm.
//!
//! `state::jobs::step` says how each step begins and when it is done; `state::jobs::run` runs any plan, in either direction.

use crate::model::job::{Job, JobAction, SELF};
use crate::model::package::Format;

/// The steps of one kind of job.
#[derive(Debug, PartialEq, Eq)]
pub struct Plan {
    /// What comes before anything is changed.
    prepare: &'static [Step],
    /// What changes the host.
    change: &'static [Step],
    /// What undoes that; empty where a failure leaves things as they are.
    back: &'static [Step],
}

use Step::*;

/// Installs a tar, or upgrades to one.
static TAR: Plan = Plan {
    prepare: &[Download, Verify, Place, Unpack, Inspect, Name],
    change: &[Adopt, Stop, Link, Resume, Settle, Retire, Keep],
    back: &[Stop, Reinstall, Relink, Discard, Restore, Resume, Settle],
};

/// Installs a package by the host's package manager, or upgrades to one.
static PACKAGE: Plan = Plan {
    prepare: &[Download, Verify, Place, Identify, Query],
    change: &[Install, Inspect, Adopt, Stop, Resume, Settle, Retire, Keep],
    back: &[Stop, Reinstall, Relink, Discard, Restore, Resume, Settle],
};

/// Installs a package that the agent has already: only what the job says beside it is new.
static SAME: Plan = Plan {
    prepare: &[],
    change: &[Adopt, Stop, Link, Resume, Settle, Keep],
    back: &[Stop, Reinstall, Relink, Discard, Restore, Resume, Settle],
};

/// Removes an agent and its package.
static UNINSTALL: Plan =
    Plan { prepare: &[], change: &[WantDown, Stop, Remove, Forget], back: &[Stop, Reinstall, Restore, Resume, Settle] };

/// Starts an agent.
static START: Plan = Plan { prepare: &[], change: &[Start, Settle], back: &[] };

/// Stops an agent.
static STOP: Plan = Plan { prepare: &[], change: &[WantDown, Stop], back: &[] };

/// Stops an agent and starts it.
static RESTART: Plan = Plan { prepare: &[], change: &[WantUp, Stop, Start, Settle], back: &[] };

/// Gives an agent another environment or other limits.
static CONFIG: Plan =
    Plan { prepare: &[], change: &[Overlay, Stop, Start, Settle], back: &[Stop, Restore, Resume, Settle] };

/// Gives the daemon other servers or another reporting interval.
static SETTINGS: Plan = Plan { prepare: &[TryServers], change: &[ApplySettings], back: &[] };

/// Puts another binary in the place of the daemon's. From `Prove` on the new image runs; `GoBack` gives its place back.
static SELF_UPGRADE: Plan = Plan {
    prepare: &[Download, Verify, Place, Unpack, TryNew, Reexec],
    change: &[Prove, Replace, Remember],
    back: &[GoBack],
};

/// Executes the installed binary in the place of the daemon.
static SELF_RESTART: Plan = Plan { prepare: &[TryInstalled, Reexec], change: &[], back: &[] };

/// Of a job that has not begun, or has ended.
pub static NOTHING: Plan = Plan { prepare: &[], change: &[], back: &[] };

/// One step of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The package is fetched; what it hashes to is what the job says.
    Download,
    /// The download is verified: its digest, and its signature where there must be one.
    Verify,
    /// The download gets its place among the package files.
    Place,
    /// The package manager is asked for the package's own name and version.
    Identify,
    /// The package manager is asked whether somebody else has installed the package before.
    Query,
    /// The tar is unpacked.
    Unpack,
    /// The package's own definition is read, and the one that counts is chosen.
    Inspect,
    /// The unpacked directory gets the name of its version.
    Name,
    /// The package manager installs the package.
    Install,
    /// The agent's record gets the package, the definition and all that the job says.
    Adopt,
    /// The agent's record says that it should run.
    WantUp,
    /// The agent's record says that it should not run.
    WantDown,
    /// The agent's record gets the environment and limits of the job.
    Overlay,
    /// The agent is stopped, and nothing of it is left.
    Stop,
    /// `current` points to the new directory.
    Link,
    /// The agent should run, and is started.
    Start,
    /// The agent is started if it should run; if not, no `Settle` follows.
    Resume,
    /// The agent stays up as long as it must.
    Settle,
    /// A package of another kind or name that the new one replaces is removed.
    Retire,
    /// The package before the new one is kept to go back to, the one before that is not.
    Keep,
    /// The package is removed.
    Remove,
    /// The agent's files and records are removed.
    Forget,
    /// Undoes `Install` and `Remove`: the package manager removes the new package and installs the one before.
    Reinstall,
    /// Undoes `Link`: `current` points to the directory before.
    Relink,
    /// Undoes all that was brought, from `Place` on: the files of the new package are removed.
    Discard,
    /// Undoes `Adopt`, `Overlay` and `WantDown`: the agent's record and definition are what they were before.
    Restore,
    /// A server of the new list answers.
    TryServers,
    /// The daemon's settings are what the job says.
    ApplySettings,
    /// The new binary of the daemon says its version and finds the configuration good.
    TryNew,
    /// The same of the installed binary.
    TryInstalled,
    /// The binary that was tried is executed in the place of this one.
    Reexec,
    /// The new image exchanges something with a server.
    Prove,
    /// The new binary is put in the place of the installed one. That it has proved itself is on record before that.
    Replace,
    /// Which package the installed binary came in is remembered.
    Remember,
    /// Undoes `Reexec`: the installed binary runs again in the place of the new image, whose package is thrown away.
    GoBack,
}

/// Which way a job goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Direction {
    /// It does what was ordered.
    #[default]
    Forward,
    /// It undoes what it has done; its outcome is known.
    Back,
}

/// Where a job stands; the names are those of the ledger (`bootagent jobs`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Recorded, waiting for its turn.
    Received,
    /// The package is being fetched.
    Downloading,
    /// The package is here and its digest is right.
    Verified,
    /// The package manager or unpacker is at work; also while undoing.
    Installing,
    /// The agent is being stopped or started.
    Starting,
    /// The agent runs and must stay alive for `startsecs`.
    Settling,
    /// Ended; the server has not taken the result yet.
    Done,
    /// Ended, and the server has the result.
    Taken,
}

impl Plan {
    /// The plan of a job; `None`: it cannot be done to the daemon. `same`: the agent has this very package already.
    pub fn of(job: &Job, same: bool) -> Option<&'static Plan> {
        let own = *job.name == *SELF;
        Some(match &job.action {
            JobAction::Upgrade(source) if own && source.format.is_tar() => &SELF_UPGRADE,
            JobAction::Restart if own => &SELF_RESTART,
            _ if own => return None,
            JobAction::Install(_) | JobAction::Upgrade(_) if same => &SAME,
            JobAction::Install(source) | JobAction::Upgrade(source) => match source.format {
                Format::Tar | Format::TarGz | Format::TarXz => &TAR,
                Format::Rpm | Format::Deb | Format::Apk | Format::Ipk => &PACKAGE,
            },
            JobAction::Uninstall => &UNINSTALL,
            JobAction::Start => &START,
            JobAction::Stop => &STOP,
            JobAction::Restart => &RESTART,
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

    /// Whether a job at this step may have changed the host, so that a failure takes it back.
    pub fn changes(&self, step: Step) -> bool {
        self.change.contains(&step)
    }

    /// Whether the step is on disk before it begins: where another phase of the ledger begins.
    pub fn is_recorded(&self, direction: Direction, step: Step) -> bool {
        let before = self.steps(direction).take_while(|other| *other != step).last();
        let phase = step.phase(direction);
        let begins = before.is_none_or(|before| before.phase(direction) != phase);
        // Whoever finds a job that has proved its binary must not take that away again.
        phase != Phase::Received && begins || step == Replace
    }

    /// The step with which a job goes on after an interruption: the last one that was on disk, up to `step`. The daemon before
    /// may have been 1.0.0, which notes no step, or another one with other plans: then it is the first one of the phase.
    pub fn resume(&self, direction: Direction, phase: Phase, step: Option<Step>) -> Option<Step> {
        let of_phase = || self.steps(direction).filter(|here| here.phase(direction) == phase);
        let mut reached = !of_phase().any(|here| step == Some(here));
        let mut last = None;
        for here in of_phase() {
            if self.is_recorded(direction, here) && (last.is_none() || !reached) {
                last = Some(here);
            }
            reached |= step == Some(here);
        }
        last
    }
}

/// Every step with its name in records.
const NAMES: [(Step, &str); 35] = [
    (Download, "download"),
    (Place, "place"),
    (Verify, "verify"),
    (Identify, "identify"),
    (Query, "query"),
    (Unpack, "unpack"),
    (Inspect, "inspect"),
    (Name, "name"),
    (Install, "install"),
    (Adopt, "adopt"),
    (WantUp, "want up"),
    (WantDown, "want down"),
    (Overlay, "overlay"),
    (Stop, "stop"),
    (Link, "link"),
    (Start, "start"),
    (Resume, "resume"),
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

    /// The phase of the ledger that it belongs to. 1.0.0 knows these phases and no steps, and must find its way by them.
    pub const fn phase(self, direction: Direction) -> Phase {
        match self {
            TryServers | ApplySettings => Phase::Received,
            Download => Phase::Downloading,
            Place | Verify | Identify | Query => Phase::Verified,
            Unpack | Inspect | Name | Install | Adopt | Remove | Forget | TryNew => Phase::Installing,
            Reinstall | Relink | Discard | Restore => Phase::Installing,
            Stop => match direction {
                Direction::Forward => Phase::Starting,
                Direction::Back => Phase::Installing,
            },
            WantUp | WantDown | Overlay | Link | Start | Resume | TryInstalled | Reexec => Phase::Starting,
            Settle | Retire | Keep | Prove | Replace | Remember | GoBack => Phase::Settling,
        }
    }
}

impl Phase {
    /// All of them, in order.
    pub const ALL: [Phase; 8] = [
        Phase::Received,
        Phase::Downloading,
        Phase::Verified,
        Phase::Installing,
        Phase::Starting,
        Phase::Settling,
        Phase::Done,
        Phase::Taken,
    ];

    /// Its name in the ledger and in records.
    pub const fn name(self) -> &'static str {
        match self {
            Phase::Received => "received",
            Phase::Downloading => "downloading",
            Phase::Verified => "verified",
            Phase::Installing => "installing",
            Phase::Starting => "starting",
            Phase::Settling => "settling",
            Phase::Done => "done",
            Phase::Taken => "taken",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::job::Source;
    use crate::model::package::Digest;

    fn job(name: &str, order: JobAction) -> Job {
        Job {
            id: "1".into(),
            action: order,
            name: name.into(),
            envs: None,
            limits: None,
            definition: None,
            definition_text: "".into(),
            version: None,
            startsecs: None,
            signature: None,
            window: Duration::ZERO,
            expires: None,
            text: "".into(),
        }
    }

    fn source(format: Format) -> Source {
        Source { url: "".into(), digest: Digest([0; 32]), format }
    }

    /// The steps of a direction: a phase before each one that is on disk before it begins, a bar before what changes the host.
    fn text(plan: &Plan, direction: Direction) -> String {
        let mut words = Vec::new();
        for step in plan.steps(direction) {
            if direction == Direction::Forward && plan.change.first() == Some(&step) {
                words.push("|".to_string());
            }
            if plan.is_recorded(direction, step) {
                words.push(format!("{}:", step.phase(direction).name()));
            }
            words.push(format!("{step:?}"));
        }
        words.join(" ")
    }

    const TARS: [Format; 3] = [Format::Tar, Format::TarGz, Format::TarXz];
    const PACKAGES: [Format; 4] = [Format::Rpm, Format::Deb, Format::Apk, Format::Ipk];

    /// Every order with its plan: what it does and how that is undone.
    fn plans() -> Vec<(Job, bool, &'static str, &'static str)> {
        let undo = "installing: Stop Reinstall Relink Discard Restore starting: Resume settling: Settle";
        let tar = "downloading: Download verified: Verify Place installing: Unpack Inspect Name | Adopt \
            starting: Stop Link Resume settling: Settle Retire Keep";
        let package =
            "downloading: Download verified: Verify Place Identify Query | installing: Install Inspect Adopt \
            starting: Stop Resume settling: Settle Retire Keep";
        let same = "| installing: Adopt starting: Stop Link Resume settling: Settle Keep";
        let own = "downloading: Download verified: Verify Place installing: Unpack TryNew starting: Reexec \
            | settling: Prove settling: Replace Remember";
        let mut plans = Vec::new();
        for format in TARS.into_iter().chain(PACKAGES) {
            let fresh = if format.is_tar() { tar } else { package };
            for order in [JobAction::Install(source(format)), JobAction::Upgrade(source(format))] {
                plans.push((job("web", order.clone()), false, fresh, undo));
                plans.push((job("web", order), true, same, undo));
            }
        }
        let config = || JobAction::Config { servers: None, step: None };
        for (name, order, forward, back) in [
            (
                "web",
                JobAction::Uninstall,
                "| starting: WantDown Stop installing: Remove Forget",
                "installing: Stop Reinstall Restore starting: Resume settling: Settle",
            ),
            ("web", JobAction::Start, "| starting: Start settling: Settle", ""),
            ("web", JobAction::Stop, "| starting: WantDown Stop", ""),
            ("web", JobAction::Restart, "| starting: WantUp Stop Start settling: Settle", ""),
            (
                "web",
                config(),
                "| starting: Overlay Stop Start settling: Settle",
                "installing: Stop Restore starting: Resume settling: Settle",
            ),
            ("", config(), "TryServers | ApplySettings", ""),
            (SELF, JobAction::Upgrade(source(Format::TarGz)), own, "settling: GoBack"),
            (SELF, JobAction::Restart, "starting: TryInstalled Reexec", ""),
        ] {
            plans.push((job(name, order), false, forward, back));
        }
        plans
    }

    #[test]
    fn what_each_action_does_with_each_kind_of_package_and_how_it_is_undone() {
        for (job, same, forward, back) in plans() {
            let plan = Plan::of(&job, same).unwrap();
            assert_eq!(text(plan, Direction::Forward), forward, "{:?}", job.action);
            assert_eq!(text(plan, Direction::Back), back, "{:?}", job.action);
        }
        for order in [JobAction::Install(source(Format::Tar)), JobAction::Upgrade(source(Format::Deb)), JobAction::Stop]
        {
            assert_eq!(Plan::of(&job(SELF, order), false), None);
        }
    }

    #[test]
    fn what_a_plan_does_is_undone_on_its_way_back() {
        for (job, same, ..) in plans() {
            let plan = Plan::of(&job, same).unwrap();
            if plan.back.is_empty() {
                continue;
            }
            for step in plan.steps(Direction::Forward) {
                let undo = match step {
                    Place | Unpack | Name if !plan.back.contains(&GoBack) => Discard,
                    Install | Remove => Reinstall,
                    Link => Relink,
                    Adopt | Overlay | WantDown => Restore,
                    // What was stopped runs again, what was started is stopped first.
                    Stop => Resume,
                    Start | Resume => Stop,
                    Reexec => GoBack,
                    _ => continue,
                };
                assert!(plan.back.contains(&undo), "{step:?} of {:?}", job.action);
            }
        }
    }

    #[test]
    fn a_job_goes_on_with_the_last_step_that_was_on_disk() {
        for (job, same, ..) in plans() {
            let plan = Plan::of(&job, same).unwrap();
            for direction in [Direction::Forward, Direction::Back] {
                let steps: Vec<Step> = plan.steps(direction).collect();
                let mut last = None;
                for (index, step) in steps.iter().enumerate() {
                    assert!(!steps[..index].contains(step), "{step:?} comes twice, and would not be told apart");
                    if plan.is_recorded(direction, *step) {
                        last = Some(*step);
                    }
                    let phase = step.phase(direction);
                    assert_eq!(plan.resume(direction, phase, Some(*step)), last, "{:?} at {step:?}", job.action);
                    // 1.0.0 notes the phase alone, and what does not belong there says nothing.
                    let first = steps.iter().find(|other| other.phase(direction) == phase).copied();
                    let first = first.filter(|_| phase != Phase::Received);
                    for unknown in [None, Some(Step::Overlay).filter(|_| !steps.contains(&Step::Overlay))] {
                        assert_eq!(plan.resume(direction, phase, unknown), first, "{:?} in {phase:?}", job.action);
                    }
                }
                assert_eq!(plan.resume(direction, Phase::Done, None), None);
            }
        }
    }

    #[test]
    fn names_lead_back_to_their_steps() {
        for (step, name) in NAMES {
            assert_eq!((Step::named(name), step.name()), (Some(step), name));
        }
        for (job, same, ..) in plans() {
            let plan = Plan::of(&job, same).unwrap();
            for step in plan.steps(Direction::Forward).chain(plan.steps(Direction::Back)) {
                assert_eq!(Step::named(step.name()), Some(step));
            }
        }
        assert_eq!(Step::named("melt"), None);
    }
}
