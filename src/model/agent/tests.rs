//! The table in the header of `agent.rs`, cell by cell, and longer ways through it.

use super::*;
use crate::kernel::{Exit, Pid};
use crate::model::event::{Definition, Notification, Usage};
use crate::model::record::RunRecord;
use crate::model::report::Status;
use crate::model::spec::{Check, Kind};

const NOW: Time = Time::new(1000, 0);
const POLICY: Policy =
    Policy { restartsecs: Duration::from_secs(180), windowsecs: Duration::from_secs(900), retries: 3 };

fn process(pid: i32) -> Process {
    Process { pid: Pid::new(pid).unwrap(), ticks: 1 }
}

fn agent(kind: Kind) -> Agent {
    let mut spec = Spec::new("web", "1", vec!["/bin/web".into()]);
    spec.kind = kind;
    let interval = Duration::from_secs(60);
    let check = Check { exec: vec!["/bin/ping".into()], interval, timeout: Duration::from_secs(10), retries: 2 };
    spec.check = Some(Box::new(check));
    let definition = Definition { origin: Origin::File, spec: Box::new(spec) };
    Agent::new(AgentRecord { name: "web".into(), ..AgentRecord::default() }, Some(definition), false, false)
}

/// Lets the agent take steps; returns the actions as words, without log lines and records.
fn acts(agent: &mut Agent, now: Time, step: impl FnOnce(&mut Agent, &mut StepContext)) -> String {
    let (mut out, mut reported) = (Vec::new(), Vec::new());
    step(
        agent,
        &mut StepContext {
            now,
            policy: POLICY,
            boot_id: "boot",
            shutdown: false,
            out: &mut out,
            reported: &mut reported,
        },
    );
    let word = |action: &Action| match action {
        Action::StartPrestart(_) => "prestart".to_string(),
        Action::Start(_) => "start".to_string(),
        Action::FindMain(_) => "find".to_string(),
        Action::Signal(_, Scope::Tree, sig) => sig.to_string(),
        Action::Signal(_, Scope::Run, sig) => format!("run:{sig}"),
        Action::Signal(_, Scope::Main, sig) => format!("main:{sig}"),
        Action::CountProcesses { .. } => "count".to_string(),
        Action::Spare(_) => "spare".to_string(),
        Action::Check(_) => "check".to_string(),
        Action::KillCheck(_) => "killcheck".to_string(),
        Action::Release(_) | Action::Log(..) | Action::SaveRun(_) | Action::SaveStop(_) => String::new(),
        other => format!("{other:?}"),
    };
    let words: Vec<String> = out.iter().map(word).filter(|word| !word.is_empty()).collect();
    words.join(" ")
}

/// An agent in the state of this name.
fn agent_in(name: &str) -> Agent {
    let mut agent = agent(if name.starts_with("Forking") { Kind::Forking } else { Kind::Simple });
    acts(&mut agent, NOW, |agent, context| {
        if name == "Down" {
            return;
        }
        agent.request_start(context);
        if name == "Starting" {
            return;
        }
        agent.started(process(7), &(None, false, false), context);
        match name {
            "Running" | "Forking" => {}
            "Forking, starter ended" => agent.exited(Exit::Code(0), None, "", context),
            "Stopping down" => agent.request_stop(context),
            "Stopping up" => agent.request_restart(context),
            "Stopping" => agent.exited(Exit::Code(1), None, "", context),
            "Waiting" | "Fatal" => {
                agent.failures = if name == "Fatal" { 3 } else { 0 };
                agent.exited(Exit::Code(1), None, "", context);
                agent.process_count(0, context);
            }
            other => panic!("no state {other}"),
        }
    });
    agent
}

fn state_name(agent: &Agent) -> String {
    match &agent.state {
        AgentState::Stopping(stopping) => {
            let then = match stopping.after {
                AfterStop::Down => " down",
                AfterStop::Up => " up",
                AfterStop::Policy(_) | AfterStop::Wait(_) | AfterStop::Finished | AfterStop::Fatal => "",
            };
            let leader = if stopping.main_process.is_some() || stopping.starting { "" } else { " tree" };
            format!("Stopping{then}{leader}")
        }
        AgentState::Forking { starter: None, .. } => "Forking, starter ended".to_string(),
        AgentState::Forking { .. } => "Forking".to_string(),
        state => format!("{state:?}").split(' ').next().unwrap_or_default().to_string(),
    }
}

/// Applies the event of this name; returns the actions as words.
fn apply(agent: &mut Agent, event: &str) -> String {
    let late = |secs| NOW + Duration::from_secs(secs);
    match event {
        "up" => acts(agent, NOW, |agent, context| agent.request_start(context)),
        "down" => acts(agent, NOW, |agent, context| agent.request_stop(context)),
        "restart" => acts(agent, NOW, |agent, context| agent.request_restart(context)),
        "reset failures" => acts(agent, NOW, |agent, context| agent.reset_failures(context)),
        "started" => acts(agent, NOW, |agent, context| agent.started(process(9), &(None, false, false), context)),
        "not started" => acts(agent, NOW, |agent, context| agent.not_started("why", context)),
        "ended 0" => acts(agent, NOW, |agent, context| agent.exited(Exit::Code(0), None, "", context)),
        "ended 1" => acts(agent, NOW, |agent, context| agent.exited(Exit::Code(1), None, "", context)),
        "main" => acts(agent, NOW, |agent, context| agent.main_found(Some(process(8)), 1, context)),
        "no main" => acts(agent, late(11), |agent, context| agent.main_found(None, 0, context)),
        "none left" => acts(agent, NOW, |agent, context| agent.process_count(0, context)),
        "two left" => acts(agent, NOW, |agent, context| agent.process_count(2, context)),
        "processes changed" => acts(agent, NOW, |agent, context| agent.processes_changed(context)),
        "over limit" => acts(agent, NOW, |agent, context| agent.kill_for_limit(format_args!("memory"), context)),
        "checked 1" => acts(agent, NOW, |agent, context| agent.checked(Exit::Code(1), "", context)),
        "time" => acts(agent, late(200), |agent, context| agent.due(context)),
        other => panic!("no event {other}"),
    }
}

const EVENTS: [&str; 16] = [
    "up",
    "down",
    "restart",
    "reset failures",
    "started",
    "not started",
    "ended 0",
    "ended 1",
    "main",
    "no main",
    "none left",
    "two left",
    "processes changed",
    "over limit",
    "checked 1",
    "time",
];

/// For each state the events that change something in it: the new state, and the actions. " tree" is a stop whose main
/// process has ended already. Every other event changes nothing.
type Row = (&'static str, &'static [(&'static str, &'static str, &'static str)]);

#[rustfmt::skip]
const TABLE: [Row; 10] = [
    ("Down", &[
        ("up", "Starting", "start"),
        ("restart", "Starting", "start"),
    ]),
    ("Waiting", &[
        ("up", "Starting", "start"),
        ("down", "Down", ""),
        ("restart", "Starting", "start"),
        ("reset failures", "Starting", "start"),
        ("time", "Starting", "start"),
    ]),
    ("Fatal", &[
        ("up", "Starting", "start"),
        ("down", "Down", ""),
        ("restart", "Starting", "start"),
        ("reset failures", "Starting", "start"),
    ]),
    ("Starting", &[
        ("down", "Stopping down", ""),
        ("restart", "Stopping up", ""),
        ("started", "Running", ""),
        ("not started", "Waiting", ""),
    ]),
    ("Forking", &[
        ("down", "Stopping down", "SIGTERM"),
        ("restart", "Stopping up", "SIGTERM"),
        ("not started", "Waiting", ""),
        ("ended 0", "Forking, starter ended", "find"),
        ("ended 1", "Stopping tree", "count"),
        ("over limit", "Stopping", "SIGKILL"),
        ("time", "Stopping", "SIGTERM"),
    ]),
    ("Forking, starter ended", &[
        ("down", "Stopping down tree", "count SIGTERM"),
        ("restart", "Stopping up tree", "count SIGTERM"),
        ("not started", "Waiting", ""),
        ("ended 0", "Forking, starter ended", "find"),
        ("ended 1", "Stopping tree", "count"),
        ("main", "Running", ""),
        ("no main", "Stopping tree", "count"),
        ("over limit", "Stopping tree", "count SIGKILL"),
        ("time", "Forking, starter ended", "find"),
    ]),
    ("Running", &[
        ("down", "Stopping down", "SIGTERM"),
        ("restart", "Stopping up", "SIGTERM"),
        ("not started", "Waiting", ""),
        ("ended 0", "Stopping tree", "count"),
        ("ended 1", "Stopping tree", "count"),
        ("over limit", "Stopping", "SIGKILL"),
        ("time", "Running", "check"),
    ]),
    ("Stopping down", &[
        ("up", "Stopping up", ""),
        ("restart", "Stopping up", ""),
        ("started", "Stopping down", "SIGTERM"),
        ("not started", "Stopping down tree", "count"),
        ("ended 0", "Stopping down tree", "count"),
        ("ended 1", "Stopping down tree", "count"),
        ("none left", "Stopping down", ""),
        ("two left", "Stopping down", ""),
        ("time", "Stopping down", "SIGKILL"),
    ]),
    ("Stopping up", &[
        ("down", "Stopping down", ""),
        ("started", "Stopping up", "SIGTERM"),
        ("not started", "Stopping up tree", "count"),
        ("ended 0", "Stopping up tree", "count"),
        ("ended 1", "Stopping up tree", "count"),
        ("none left", "Stopping up", ""),
        ("two left", "Stopping up", ""),
        ("time", "Stopping up", "SIGKILL"),
    ]),
    ("Stopping", &[
        ("up", "Stopping up tree", ""),
        ("down", "Stopping down tree", ""),
        ("restart", "Stopping up tree", ""),
        ("started", "Stopping", "SIGTERM"),
        ("not started", "Stopping tree", "count"),
        ("ended 0", "Stopping tree", "count"),
        ("ended 1", "Stopping tree", "count"),
        ("none left", "Waiting", ""),
        ("two left", "Stopping tree", "SIGTERM"),
        ("processes changed", "Stopping tree", "count"),
        ("time", "Stopping tree", "count"),
    ]),
];

#[test]
fn every_event_in_every_state() {
    for (name, cells) in TABLE {
        for event in EVENTS {
            let mut agent = agent_in(name);
            assert_eq!(state_name(&agent).trim_end_matches(" tree"), name);
            let before = agent.clone();
            let acts = apply(&mut agent, event);
            match cells.iter().find(|(known, ..)| *known == event) {
                Some((_, after, done)) => {
                    assert_eq!((&*state_name(&agent), &*acts), (*after, *done), "{name}: {event}")
                }
                None => assert!(acts.is_empty() && agent == before, "{name}: {event}: {acts} {agent:?}"),
            }
        }
        let known = cells.iter().all(|(event, ..)| EVENTS.contains(event));
        assert!(known, "{name}: an unknown event");
    }
}

#[test]
fn a_stop_during_a_start_waits_for_the_process() {
    let mut agent = agent_in("Starting");
    acts(&mut agent, NOW, |agent, context| agent.request_stop(context));
    // There is no process yet, but one is being started.
    assert_eq!(apply(&mut agent, "none left"), "");
    assert_eq!(state_name(&agent), "Stopping down");
    assert_eq!(apply(&mut agent, "started"), "SIGTERM");
    assert_eq!(apply(&mut agent, "ended 0"), "count");
    apply(&mut agent, "none left");
    assert_eq!(state_name(&agent), "Down");
}

#[test]
fn a_stop_goes_from_its_signal_over_sigkill_to_the_last_count() {
    let mut agent = agent_in("Running");
    acts(&mut agent, NOW, |agent, context| agent.request_stop(context));
    let at = |secs| NOW + Duration::from_secs(secs);
    assert_eq!(agent.deadline(), Some(at(1)));
    assert_eq!(acts(&mut agent, at(10), |agent, context| agent.due(context)), "SIGKILL");
    assert!(agent.deadline() > Some(at(10)), "a deadline that was served is followed by a later one");
    assert_eq!(acts(&mut agent, at(11), |agent, context| agent.due(context)), "SIGKILL count");
    assert_eq!(acts(&mut agent, at(11), |agent, context| agent.process_count(1, context)), "");
    assert_eq!(
        acts(&mut agent, at(12), |agent, context| agent.exited(Exit::Signal(Sig::KILL), None, "", context)),
        "count"
    );
    acts(&mut agent, at(12), |agent, context| agent.process_count(0, context));
    assert_eq!((state_name(&agent).as_str(), agent.deadline()), ("Down", None));
}

#[test]
fn a_stop_is_stuck_while_its_last_sigkill_is_refused() {
    let mut agent = agent_in("Running");
    acts(&mut agent, NOW, |agent, context| agent.refused("no matter", context));
    assert_eq!(agent.is_stuck(), None, "nobody stops it");
    acts(&mut agent, NOW, |agent, context| agent.request_stop(context));
    acts(&mut agent, NOW, |agent, context| agent.refused("its user", context));
    assert_eq!((agent.is_stuck(), agent.last_end()), (None, "cannot be stopped: its user"), "SIGKILL may come through");
    let at = |secs| NOW + Duration::from_secs(secs);
    assert_eq!(acts(&mut agent, at(10), |agent, context| agent.due(context)), "SIGKILL");
    assert!(agent.is_stuck().is_some());
    acts(&mut agent, at(11), |agent, context| agent.due(context));
    assert_eq!(agent.is_stuck(), None, "this one may come through");
    acts(&mut agent, at(11), |agent, context| agent.refused("its user", context));
    assert!(agent.is_stuck().is_some());
    acts(&mut agent, at(12), |agent, context| agent.exited(Exit::Code(0), None, "", context));
    acts(&mut agent, at(12), |agent, context| agent.process_count(0, context));
    assert_eq!(state_name(&agent), "Down");
}

#[test]
fn leftover_processes_are_ended_and_nothing_else_changes() {
    for (before, wanted) in [
        ("Down", Wanted::Down),
        ("Down", Wanted::Up),
        ("finished", Wanted::Up),
        ("Waiting", Wanted::Up),
        ("Fatal", Wanted::Up),
    ] {
        let mut agent = agent_in(if before == "finished" { "Down" } else { before });
        agent.finished = before == "finished";
        agent.record.wanted = Some(wanted);
        let record = agent.run_record("boot");
        let was = state_name(&agent);
        assert_eq!(acts(&mut agent, NOW, |agent, context| agent.found_running(None, context)), "count", "{before}");
        let then = agent.run_record("boot");
        let what_follows = |run: &RunRecord| (run.restart_at, run.finished, run.fatal);
        assert_eq!(what_follows(&then), what_follows(&record), "{before}: for the next daemon");
        assert_eq!(record.finished, before == "finished");
        assert_eq!(acts(&mut agent, NOW, |agent, context| agent.process_count(2, context)), "SIGTERM", "{before}");
        for (after, done) in [(10, "SIGKILL"), (11, "SIGKILL count"), (12, "SIGKILL count")] {
            let now = NOW + Duration::from_secs(after);
            assert_eq!(acts(&mut agent, now, |agent, context| agent.due(context)), done, "{before}: after {after} s");
            assert_eq!(
                acts(&mut agent, now, |agent, context| agent.process_count(1, context)),
                "",
                "{before}: after {after} s"
            );
        }
        let starts = acts(&mut agent, NOW + Duration::from_secs(12), |agent, context| agent.process_count(0, context));
        if before == "Down" && wanted == Wanted::Up {
            assert_eq!((state_name(&agent).as_str(), starts.as_str()), ("Starting", "start"));
        } else {
            assert_eq!((state_name(&agent), starts.as_str()), (was, ""), "{before}");
            let after = agent.run_record("boot");
            assert_eq!((after.failures, what_follows(&after)), (record.failures, what_follows(&record)), "{before}");
        }
    }
}

#[test]
fn a_starter_that_does_not_end_is_a_failed_start() {
    let mut agent = agent_in("Forking");
    let late = NOW + STARTER_TIMEOUT;
    assert_eq!(agent.deadline(), Some(late));
    assert_eq!(acts(&mut agent, late, |agent, context| agent.due(context)), "SIGTERM");
    acts(&mut agent, late, |agent, context| agent.exited(Exit::Signal(Sig::TERM), None, "", context));
    acts(&mut agent, late, |agent, context| agent.process_count(0, context));
    assert_eq!(agent.report(late, POLICY).failures, 1);
    assert!(agent.last_end().contains("its starter has not ended"), "{}", agent.last_end());
}

#[test]
fn reset_failures_are_reset_on_record_too() {
    for name in ["Running", "Forking", "Stopping"] {
        let mut agent = agent_in(name);
        agent.failures = 2;
        let (mut out, mut reported) = (Vec::new(), Vec::new());
        agent.request_start(&mut StepContext {
            now: NOW,
            policy: POLICY,
            boot_id: "boot",
            shutdown: false,
            out: &mut out,
            reported: &mut reported,
        });
        let is_reset = |action: &Action| matches!(action, Action::SaveRun(run) if run.failures == 0);
        assert!(out.iter().any(is_reset), "{name}: {out:?}");
    }
}

#[test]
fn failed_health_checks_in_a_row_end_the_agent() {
    let mut agent = agent_in("Running");
    let mut now = NOW;
    for done in ["", "SIGTERM"] {
        now = agent.deadline().unwrap();
        assert_eq!(acts(&mut agent, now, |agent, context| agent.due(context)), "check");
        let late = agent.deadline().unwrap();
        assert_eq!(acts(&mut agent, late, |agent, context| agent.due(context)), "killcheck");
        assert_eq!(acts(&mut agent, late, |agent, context| agent.checked(Exit::Signal(Sig::KILL), "", context)), done);
    }
    acts(&mut agent, now, |agent, context| agent.exited(Exit::Code(0), None, "", context));
    acts(&mut agent, now, |agent, context| agent.process_count(0, context));
    assert_eq!((state_name(&agent).as_str(), agent.status()), ("Waiting", Status::Stopped));
}

#[test]
fn failed_health_checks_count_after_startsecs_or_after_one_that_passed() {
    let check = |agent: &mut Agent, at: u64, code: i32| {
        let now = NOW + Duration::from_secs(at);
        agent.state = match agent.state.clone() {
            AgentState::Running { process, since, .. } => {
                AgentState::Running { process, since, health: Health::Busy { until: now, late: false }, ready_by: None }
            }
            state => panic!("{state:?}"),
        };
        acts(agent, now, |agent, context| agent.checked(Exit::Code(code), "", context))
    };
    let mut agent = agent_in("Running");
    for at in 1..10 {
        assert_eq!(check(&mut agent, at, 1), "", "after {at} s of 10");
    }
    assert_eq!((check(&mut agent, 10, 1).as_str(), check(&mut agent, 11, 1).as_str()), ("", "SIGTERM"));
    let mut agent = agent_in("Running");
    for (at, code, done) in [(1, 1, ""), (2, 0, ""), (3, 1, ""), (4, 1, "SIGTERM")] {
        assert_eq!(check(&mut agent, at, code), done, "after {at} s");
    }
}

#[test]
fn only_limit_checks_count_against_a_polled_cpu_limit() {
    let mut agent = agent(Kind::Simple);
    agent.definition.as_mut().unwrap().spec.limits.cpu = Some(1000);
    acts(&mut agent, NOW, |agent, context| {
        agent.request_start(context);
        agent.started(process(7), &(Some("polled".into()), true, false), context);
    });
    // The agent uses half a core all the time; its limit is a tenth.
    let mut measure = |after: u64, check: bool| {
        let usage = Usage { name: "web".into(), cpu: Some(Duration::from_secs(after) / 2), memory: None, spared: 0 };
        acts(&mut agent, NOW + Duration::from_secs(after), |agent, context| agent.measured(&usage, check, context))
    };
    for (after, check) in
        [(0, true), (1, false), (2, false), (3, false), (4, false), (10, true), (11, false), (20, true)]
    {
        assert_eq!(measure(after, check), "", "after {after} s");
    }
    assert_eq!(measure(25, false), "");
    assert_eq!(measure(30, true), "SIGKILL", "the third check in a row");
}

#[test]
fn an_agent_that_is_started_again_at_once_keeps_its_group() {
    for (name, releases) in [("Stopping up", false), ("Stopping down", true), ("Stopping", true)] {
        let mut agent = agent_in(name);
        let (mut out, mut reported) = (Vec::new(), Vec::new());
        let context = &mut StepContext {
            now: NOW,
            policy: POLICY,
            boot_id: "boot",
            shutdown: false,
            out: &mut out,
            reported: &mut reported,
        };
        agent.exited(Exit::Code(0), None, "", context);
        agent.process_count(0, context);
        let released = out.iter().any(|action| matches!(action, Action::Release(_)));
        let started = out.iter().any(|action| matches!(action, Action::Start(_)));
        assert_eq!((released, started), (releases, !releases), "{name}: {out:?}");
    }
}

#[test]
fn with_kill_mixed_only_the_first_signal_goes_to_the_main_process_alone() {
    let mut agent = agent_in("Running");
    let definition = agent.definition.as_mut().unwrap();
    definition.spec.kill = KillMode::Mixed;
    let stopsecs = definition.spec.stopsecs;
    let first = acts(&mut agent, NOW, |agent, context| agent.request_stop(context));
    assert_eq!(first, format!("main:{}", Sig::TERM));
    let last = acts(&mut agent, NOW + stopsecs, |agent, context| agent.due(context));
    assert!(last.starts_with(&Sig::KILL.to_string()), "{last}");
}

#[test]
fn a_prestart_comes_before_each_start() {
    let with_prestart = || {
        let mut agent = agent(Kind::Simple);
        if let Some(definition) = &mut agent.definition {
            let program = Program { exec: vec!["/bin/test".into()], timeout: Duration::from_secs(60) };
            definition.spec.prestart = Some(Box::new(program));
        }
        let word = acts(&mut agent, NOW, |agent, context| agent.request_start(context));
        assert_eq!((&*state_name(&agent), &*word), ("Starting", "prestart"));
        agent
    };
    let in_prestart = || {
        let mut agent = with_prestart();
        acts(&mut agent, NOW, |agent, context| agent.prestart_started(process(6), context));
        assert_eq!((&*state_name(&agent), agent.report(NOW, POLICY).pid), ("Prestart", 0));
        assert!(agent.run_record("boot").stopping, "the next daemon begins anew");
        agent
    };
    let mut agent = in_prestart();
    assert_eq!((apply(&mut agent, "ended 0"), state_name(&agent)), ("start".into(), "Starting".into()));
    assert_eq!((apply(&mut agent, "started"), state_name(&agent)), ("".into(), "Running".into()));
    for (event, actions, state) in [
        ("ended 1", "count", "Stopping tree"),
        ("not started", "", "Waiting"),
        ("time", "SIGTERM", "Stopping"),
        ("down", "SIGTERM", "Stopping down"),
        ("restart", "SIGTERM", "Stopping up"),
        ("up", "", "Prestart"),
    ] {
        let mut agent = in_prestart();
        assert_eq!((&*apply(&mut agent, event), &*state_name(&agent)), (actions, state), "{event}");
    }
    // A stop between the order and the process.
    let mut agent = with_prestart();
    apply(&mut agent, "down");
    let word = acts(&mut agent, NOW, |agent, context| agent.prestart_started(process(6), context));
    assert_eq!((&*state_name(&agent), &*word), ("Stopping down", "SIGTERM"));
}

/// A running agent whose children are not its to end.
fn sparing(kind: Kind) -> Agent {
    let mut agent = agent(kind);
    agent.definition.as_mut().unwrap().spec.kill = KillMode::Main;
    acts(&mut agent, NOW, |agent, context| {
        agent.request_start(context);
        agent.started(process(7), &(None, false, false), context);
    });
    agent
}

#[test]
fn with_kill_main_a_stop_is_about_the_main_process_alone() {
    let late = NOW + STOPSECS;
    for (request, then) in [("down", "Down"), ("restart", "Starting")] {
        let mut agent = sparing(Kind::Simple);
        assert_eq!(apply(&mut agent, request), "main:SIGTERM");
        assert!(acts(&mut agent, late, |agent, context| agent.due(context)).starts_with("main:SIGKILL"));
        assert_eq!(apply(&mut agent, "ended 1"), "count");
        let done = apply(&mut agent, "none left");
        assert_eq!((&*state_name(&agent), &*done), (then, if then == "Down" { "spare" } else { "start" }));
        assert_eq!(agent.run_record("boot").spares, Some(1));
    }
    // Its own end stops nothing either.
    let mut agent = sparing(Kind::Simple);
    assert_eq!((apply(&mut agent, "ended 1"), apply(&mut agent, "none left")), ("count".into(), "spare".into()));
    assert_eq!(state_name(&agent), "Waiting");
}

#[test]
fn with_kill_main_a_start_that_fails_leaves_nothing_of_its_own() {
    let mut agent = sparing(Kind::Forking);
    assert_eq!(apply(&mut agent, "down"), "run:SIGTERM");
    let mut agent = sparing(Kind::Forking);
    apply(&mut agent, "ended 0");
    apply(&mut agent, "no main");
    assert_eq!((apply(&mut agent, "two left"), apply(&mut agent, "none left")), ("run:SIGTERM".into(), "spare".into()));
    // Its main process was known, and has ended without a successor.
    let mut agent = sparing(Kind::Forking);
    agent.definition.as_mut().unwrap().spec.pidfile = Some("/run/web.pid".into());
    for (event, done) in [("ended 0", "find"), ("main", ""), ("ended 1", "find"), ("no main", "count")] {
        assert_eq!(apply(&mut agent, event), done, "{event}");
    }
    assert!(matches!(&agent.state, AgentState::Stopping(stopping) if stopping.scope == Scope::Main));
}

#[test]
fn with_kill_main_a_limit_and_a_removal_end_all() {
    let mut agent = sparing(Kind::Simple);
    assert_eq!(
        acts(&mut agent, NOW, |agent, context| agent.kill_for_limit(format_args!("memory"), context)),
        "SIGKILL"
    );
    let mut agent = sparing(Kind::Simple);
    acts(&mut agent, NOW, |agent, context| agent.exited(Exit::Signal(Sig::KILL), Some("out of memory"), "", context));
    assert_eq!(apply(&mut agent, "two left"), "SIGTERM");
    let end = |agent: &mut Agent| acts(agent, NOW, |agent, context| agent.request_end(context));
    for before in ["down", "stopping", "up"] {
        let mut agent = sparing(Kind::Simple);
        if before != "up" {
            apply(&mut agent, "down");
        }
        if before == "down" {
            apply(&mut agent, "ended 0");
            apply(&mut agent, "none left");
            assert_eq!((end(&mut agent), apply(&mut agent, "two left")), ("count".into(), "SIGTERM".into()));
        } else {
            assert_eq!(end(&mut agent), "SIGTERM", "{before}");
            apply(&mut agent, "ended 0");
        }
        assert_eq!((apply(&mut agent, "none left"), state_name(&agent)), ("".into(), "Down".into()), "{before}");
        assert!(!agent.spares(), "{before}");
        assert_eq!(end(&mut agent), "", "{before}: once is enough");
    }
}

#[test]
fn with_kill_main_what_an_earlier_daemon_finds_is_left() {
    let found = |agent: &mut Agent, main: Option<i32>| {
        let main = main.map(|pid| (process(pid), NOW));
        acts(agent, NOW, |agent, context| agent.found_running(main, context));
        state_name(agent)
    };
    let fresh = |wanted| {
        let mut agent = agent(Kind::Simple);
        agent.definition.as_mut().unwrap().spec.kill = KillMode::Main;
        agent.record.wanted = Some(wanted);
        agent
    };
    // The record of a run that is over.
    let mut down = sparing(Kind::Simple);
    for event in ["down", "ended 0", "none left"] {
        apply(&mut down, event);
    }
    let record = down.run_record("boot");
    for wanted in [Wanted::Up, Wanted::Down] {
        let mut agent = fresh(wanted);
        acts(&mut agent, NOW, |agent, context| agent.resume(&record, false, true, context));
        assert_eq!((&*found(&mut agent, Some(9)), agent.spares()), ("Down", true), "{wanted:?}");
    }
    // Without a definition it is spared as the record says, and without a record it depends on what is wanted.
    let mut agent = Agent::new(AgentRecord { name: "web".into(), ..AgentRecord::default() }, None, true, false);
    acts(&mut agent, NOW, |agent, context| agent.resume(&record, false, true, context));
    assert_eq!(found(&mut agent, Some(9)), "Down");
    for (wanted, main, state) in
        [(Wanted::Up, Some(9), "Running"), (Wanted::Up, None, "Down"), (Wanted::Down, Some(9), "Down")]
    {
        let mut agent = fresh(wanted);
        assert_eq!((&*found(&mut agent, main), agent.spares()), (state, true), "{wanted:?} {main:?}");
    }
}

#[test]
fn what_earlier_runs_have_left_is_reported() {
    let mut agent = sparing(Kind::Simple);
    for (spared, want) in [(0, ""), (1, "1 process left by earlier runs"), (2, "2 processes left by earlier runs")] {
        let usage = Usage { name: "web".into(), cpu: None, memory: None, spared };
        acts(&mut agent, NOW, |agent, context| agent.measured(&usage, false, context));
        assert_eq!(&*agent.report(NOW, POLICY).detail, want);
    }
    apply(&mut agent, "down");
    apply(&mut agent, "ended 0");
    apply(&mut agent, "none left");
    assert_eq!(&*agent.report(NOW, POLICY).detail, "stopped; 2 processes left by earlier runs");
}

fn says(agent: &mut Agent, now: Time, ready: bool, main: Option<i32>, status: Option<&str>) -> String {
    let said = Notification { ready, main: main.map(process), status: status.map(Box::from) };
    acts(agent, now, |agent, context| agent.notified(&said, context))
}

#[test]
fn an_agent_that_says_when_it_is_ready_counts_as_started_then() {
    let starting = || {
        let mut agent = agent(Kind::Notify);
        acts(&mut agent, NOW, |agent, context| {
            agent.request_start(context);
            agent.started(process(7), &(None, false, false), context);
        });
        agent
    };
    let detail = |agent: &Agent| agent.report(NOW, POLICY).detail.to_string();
    let late = NOW + Duration::from_secs(100);
    let mut agent = starting();
    assert_eq!(
        (agent.status(), agent.report(NOW, POLICY).pid, detail(&agent)),
        (Status::Running, 7, "waits for READY=1".into())
    );
    assert_eq!(
        (agent.running_since(), agent.deadline()),
        (None, Some(late)),
        "10 times startsecs, and no health check"
    );
    says(&mut agent, NOW, false, None, Some("loading"));
    assert_eq!(detail(&agent), "waits for READY=1: loading");
    let then = NOW + Duration::from_secs(50);
    assert_eq!(says(&mut agent, then, true, None, Some("fine")), "");
    assert_eq!((agent.running_since(), detail(&agent)), (Some(then), "fine".into()));
    assert_eq!(agent.deadline(), Some(then + Duration::from_secs(10)), "its first health check");
    // Once is enough.
    says(&mut agent, late, true, None, None);
    assert_eq!(agent.running_since(), Some(then));
    // One that is late.
    let mut agent = starting();
    assert_eq!(acts(&mut agent, late, |agent, context| agent.due(context)), "SIGTERM");
    acts(&mut agent, late, |agent, context| agent.exited(Exit::Signal(Sig::TERM), None, "", context));
    acts(&mut agent, late, |agent, context| agent.process_count(0, context));
    assert_eq!((state_name(&agent).as_str(), agent.report(late, POLICY).failures), ("Waiting", 1));
    assert_eq!(agent.last_end(), "cannot start: it has not said READY=1 after 100 s");
    // One that ends before.
    let mut agent = starting();
    apply(&mut agent, "ended 0");
    assert_eq!(agent.last_end(), "exited with status 0 after 0 s, before it said READY=1");
    // A short startsecs, and one that would be too long.
    for (startsecs, want) in [(1, 90), (9, 90), (u64::MAX, u64::MAX)] {
        let mut agent = starting();
        agent.definition.as_mut().unwrap().spec.startsecs = Duration::from_secs(startsecs);
        assert_eq!(agent.ready_time().as_secs(), want);
    }
}

#[test]
fn a_main_process_moves_as_the_agent_says() {
    let mut agent = agent_in("Running");
    assert!(says(&mut agent, NOW, false, Some(8), None).starts_with("FollowMain("));
    assert_eq!(agent.process(), Some(process(8)));
    assert_eq!(agent.run_record("boot").process, Some(process(8)));
    assert_eq!(says(&mut agent, NOW, false, Some(8), None), "", "it is that already");
    let ends = |agent: &mut Agent, pid: i32| {
        let pid = Pid::new(pid).unwrap();
        acts(agent, NOW, |agent, context| agent.process_ended(pid, Exit::Code(0), None, "", context))
    };
    assert_eq!((ends(&mut agent, 7), state_name(&agent)), ("".into(), "Running".into()), "its former main process");
    assert_eq!((ends(&mut agent, 8), state_name(&agent)), ("count".into(), "Stopping tree".into()));
    for state in ["Down", "Waiting", "Starting", "Forking", "Stopping"] {
        let mut agent = agent_in(state);
        let before = agent.clone();
        assert_eq!((says(&mut agent, NOW, true, Some(8), Some("fine")), agent), ("".into(), before), "{state}");
    }
}

#[test]
fn the_next_daemon_knows_whether_an_agent_is_ready() {
    let mut agent = agent(Kind::Notify);
    acts(&mut agent, NOW, |agent, context| {
        agent.request_start(context);
        agent.started(process(7), &(None, false, false), context);
    });
    says(&mut agent, NOW, false, None, Some("loading"));
    let unready = agent.run_record("boot");
    says(&mut agent, NOW, true, None, None);
    let ready = agent.run_record("boot");
    let resumed = |run: &RunRecord| {
        let mut next = Agent::new(agent.record.clone(), agent.definition.clone(), true, false);
        acts(&mut next, NOW, |agent, context| agent.resume(run, true, false, context));
        next
    };
    let next = resumed(&ready);
    assert_eq!((next.is_unready(), &*next.report(NOW, POLICY).detail), (false, "loading"));
    let late = NOW + Duration::from_secs(100);
    for (reexec, done, state) in [(false, "", "Running"), (true, "SIGTERM", "Stopping")] {
        let mut next = resumed(&unready);
        assert!(next.is_unready());
        if reexec {
            next.was_heard();
        }
        // It may have said so when no daemon listened.
        assert_eq!(acts(&mut next, late, |agent, context| agent.due(context)), done);
        assert_eq!((&*state_name(&next), next.is_unready()), (state, false));
    }
}
