use super::*;
use crate::model::job::Source;
use crate::model::package::Digest;

fn job(name: &str, action: JobAction) -> Job {
    Job::new("1", name, action)
}

fn source(format: Format) -> Source {
    Source { url: "".into(), digest: Digest([0; 32]), format }
}

/// The steps of a direction as words: a phase before each recorded step, a bar before the steps that change the host.
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

const TARS: [Format; 4] = [Format::Tar, Format::TarGz, Format::TarXz, Format::TarZst];
const PACKAGES: [Format; 4] = [Format::Rpm, Format::Deb, Format::Apk, Format::Ipk];

/// Every kind of job with its plan forward and back.
fn plans() -> Vec<(Job, bool, &'static str, &'static str)> {
    let undo = "installing: Stop Reinstall Relink Discard Restore starting: Clear Resume settling: Settle";
    let tar = "downloading: Download verified: Verify Place installing: Unpack Inspect Name | Adopt \
        starting: Stop Link Resume settling: Settle Retire Keep";
    let package = "downloading: Download verified: Verify Place Identify Query | installing: Install Inspect Adopt \
        starting: Stop Clear Resume settling: Settle Retire Keep";
    let same = "verified: Look | installing: Adopt starting: Stop Link Resume settling: Settle Keep";
    let own = "downloading: Download verified: Verify Place installing: Unpack TryNew starting: Reexec \
        | settling: Prove settling: Replace Remember";
    let mut plans = Vec::new();
    for format in TARS.into_iter().chain(PACKAGES) {
        let fresh = if format.is_tar() { tar } else { package };
        for action in [JobAction::Install(source(format)), JobAction::Upgrade(source(format))] {
            plans.push((job("web", action.clone()), false, fresh, undo));
            plans.push((job("web", action), true, same, undo));
        }
    }
    let config = || JobAction::Config { servers: None, step: None };
    for (name, action, forward, back) in [
        (
            "web",
            JobAction::Uninstall,
            "| starting: WantDown AskInstalled Stop installing: Remove Forget",
            "installing: Stop Reinstall Restore starting: Clear Resume settling: Settle",
        ),
        ("web", JobAction::Start, "| starting: Start settling: Settle", ""),
        ("web", JobAction::Stop, "| starting: WantDown Stop", ""),
        ("web", JobAction::Reload, "| starting: Reload", ""),
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
        plans.push((job(name, action), false, forward, back));
    }
    plans
}

#[test]
fn every_kind_of_job_has_its_plan() {
    for (job, same, forward, back) in plans() {
        let plan = Plan::of(&job, same).unwrap();
        assert_eq!(text(plan, Direction::Forward), forward, "{:?}", job.action);
        assert_eq!(text(plan, Direction::Back), back, "{:?}", job.action);
    }
    for action in [JobAction::Install(source(Format::Tar)), JobAction::Upgrade(source(Format::Deb)), JobAction::Stop] {
        assert_eq!(Plan::of(&job(SELF, action), false), None);
    }
}

#[test]
fn every_change_of_a_plan_is_undone_on_its_way_back() {
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
                // A stopped agent is started again; a started one is stopped first.
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
fn a_job_continues_with_the_last_recorded_step() {
    for (job, same, ..) in plans() {
        let plan = Plan::of(&job, same).unwrap();
        for direction in [Direction::Forward, Direction::Back] {
            let steps: Vec<Step> = plan.steps(direction).collect();
            let mut last = None;
            for (index, step) in steps.iter().enumerate() {
                assert!(!steps[..index].contains(step), "{step:?} comes twice, and a record could mean either");
                if plan.is_recorded(direction, *step) {
                    last = Some(*step);
                }
                let phase = step.phase(direction);
                assert_eq!(plan.resume(direction, phase, Some(*step)), last, "{:?} at {step:?}", job.action);
                // 1.0.0 records the phase alone; a step that is not in the plan says nothing.
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
fn every_step_has_a_name_of_its_own() {
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
