//! The table in the header of `agent.rs`, cell by cell.

use super::*;
use crate::kernel::{Exit, Pid};
use crate::model::event::{Definition, Usage};
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

/// Lets the agent take steps; returns what is to be done, without log and records.
fn acts(agent: &mut Agent, now: Time, step: impl FnOnce(&mut Agent, &mut StepContext)) -> String {
    let (mut out, mut told) = (Vec::new(), Vec::new());
    step(
        agent,
        &mut StepContext { now, policy: POLICY, boot_id: "boot", shutdown: false, out: &mut out, reported: &mut told },
    );
    let word = |action: &Action| match action {
        Action::Start(_) => "start".to_string(),
        Action::FindMain(_) => "find".to_string(),
        Action::Signal(_, sig) => sig.to_string(),
        Action::CountProcesses { .. } => "look".to_string(),
        Action::Check(_) => "check".to_string(),
        Action::KillCheck(_) => "killcheck".to_string(),
        Action::Release(_) | Action::Log(..) | Action::SaveRun(_) | Action::SaveStop(_) => String::new(),
        other => format!("{other:?}"),
    };
    let words: Vec<String> = out.iter().map(word).filter(|word| !word.is_empty()).collect();
    words.join(" ")
}

/// An agent in the life of this name.
fn living(name: &str) -> Agent {
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
            "Forking, sought" => agent.exited(Exit::Code(0), None, "", context),
            "Stopping down" => agent.request_stop(context),
            "Stopping up" => agent.request_restart(context),
            "Stopping" => agent.exited(Exit::Code(1), None, "", context),
            "Waiting" | "Fatal" => {
                agent.failures = if name == "Fatal" { 3 } else { 0 };
                agent.exited(Exit::Code(1), None, "", context);
                agent.process_count(0, context);
            }
            other => panic!("no life {other}"),
        }
    });
    agent
}

fn life(agent: &Agent) -> String {
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
        AgentState::Forking { starter: None, .. } => "Forking, sought".to_string(),
        AgentState::Forking { .. } => "Forking".to_string(),
        life => format!("{life:?}").split(' ').next().unwrap_or_default().to_string(),
    }
}

/// One event.
fn happens(agent: &mut Agent, event: &str) -> String {
    let late = |secs| NOW + Duration::from_secs(secs);
    match event {
        "up" => acts(agent, NOW, |agent, context| agent.request_start(context)),
        "down" => acts(agent, NOW, |agent, context| agent.request_stop(context)),
        "restart" => acts(agent, NOW, |agent, context| agent.request_restart(context)),
        "pardon" => acts(agent, NOW, |agent, context| agent.reset_failures(context)),
        "started" => acts(agent, NOW, |agent, context| agent.started(process(9), &(None, false, false), context)),
        "not started" => acts(agent, NOW, |agent, context| agent.not_started("why", context)),
        "ended 0" => acts(agent, NOW, |agent, context| agent.exited(Exit::Code(0), None, "", context)),
        "ended 1" => acts(agent, NOW, |agent, context| agent.exited(Exit::Code(1), None, "", context)),
        "main" => acts(agent, NOW, |agent, context| agent.main_found(Some(process(8)), context)),
        "no main" => acts(agent, late(11), |agent, context| agent.main_found(None, context)),
        "left 0" => acts(agent, NOW, |agent, context| agent.process_count(0, context)),
        "left 2" => acts(agent, NOW, |agent, context| agent.process_count(2, context)),
        "stirred" => acts(agent, NOW, |agent, context| agent.orphan_reaped(context)),
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
    "pardon",
    "started",
    "not started",
    "ended 0",
    "ended 1",
    "main",
    "no main",
    "left 0",
    "left 2",
    "stirred",
    "over limit",
    "checked 1",
    "time",
];

/// For each life the events that mean something in it: what the life is then, and what is done. " tree" is a stop whose main
/// process is gone already. Every other event changes nothing.
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
        ("pardon", "Starting", "start"),
        ("time", "Starting", "start"),
    ]),
    ("Fatal", &[
        ("up", "Starting", "start"),
        ("down", "Down", ""),
        ("restart", "Starting", "start"),
        ("pardon", "Starting", "start"),
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
        ("ended 0", "Forking, sought", "find"),
        ("ended 1", "Stopping tree", "look"),
        ("over limit", "Stopping", "SIGKILL"),
        ("time", "Stopping", "SIGTERM"),
    ]),
    ("Forking, sought", &[
        ("down", "Stopping down tree", "look SIGTERM"),
        ("restart", "Stopping up tree", "look SIGTERM"),
        ("not started", "Waiting", ""),
        ("ended 0", "Forking, sought", "find"),
        ("ended 1", "Stopping tree", "look"),
        ("main", "Running", ""),
        ("no main", "Stopping tree", "look"),
        ("over limit", "Stopping tree", "look SIGKILL"),
        ("time", "Forking, sought", "find"),
    ]),
    ("Running", &[
        ("down", "Stopping down", "SIGTERM"),
        ("restart", "Stopping up", "SIGTERM"),
        ("not started", "Waiting", ""),
        ("ended 0", "Stopping tree", "look"),
        ("ended 1", "Stopping tree", "look"),
        ("over limit", "Stopping", "SIGKILL"),
        ("time", "Running", "check"),
    ]),
    ("Stopping down", &[
        ("up", "Stopping up", ""),
        ("restart", "Stopping up", ""),
        ("started", "Stopping down", "SIGTERM"),
        ("not started", "Stopping down tree", "look"),
        ("ended 0", "Stopping down tree", "look"),
        ("ended 1", "Stopping down tree", "look"),
        ("left 0", "Stopping down", ""),
        ("left 2", "Stopping down", ""),
        ("time", "Stopping down", "SIGKILL"),
    ]),
    ("Stopping up", &[
        ("down", "Stopping down", ""),
        ("started", "Stopping up", "SIGTERM"),
        ("not started", "Stopping up tree", "look"),
        ("ended 0", "Stopping up tree", "look"),
        ("ended 1", "Stopping up tree", "look"),
        ("left 0", "Stopping up", ""),
        ("left 2", "Stopping up", ""),
        ("time", "Stopping up", "SIGKILL"),
    ]),
    ("Stopping", &[
        ("up", "Stopping up tree", ""),
        ("down", "Stopping down tree", ""),
        ("restart", "Stopping up tree", ""),
        ("started", "Stopping", "SIGTERM"),
        ("not started", "Stopping tree", "look"),
        ("ended 0", "Stopping tree", "look"),
        ("ended 1", "Stopping tree", "look"),
        ("left 0", "Waiting", ""),
        ("left 2", "Stopping tree", "SIGTERM"),
        ("stirred", "Stopping tree", "look"),
        ("time", "Stopping tree", "look"),
    ]),
];

#[test]
fn every_event_in_every_life() {
    for (name, cells) in TABLE {
        for event in EVENTS {
            let mut agent = living(name);
            assert_eq!(life(&agent).trim_end_matches(" tree"), name);
            let before = agent.clone();
            let acts = happens(&mut agent, event);
            match cells.iter().find(|(known, ..)| *known == event) {
                Some((_, after, done)) => assert_eq!((&*life(&agent), &*acts), (*after, *done), "{name}: {event}"),
                None => assert!(acts.is_empty() && agent == before, "{name}: {event}: {acts} {agent:?}"),
            }
        }
        let known = cells.iter().all(|(event, ..)| EVENTS.contains(event));
        assert!(known, "{name}: an event that none is");
    }
}

#[test]
fn a_stop_that_begins_with_the_start_waits_for_the_process() {
    let mut agent = living("Starting");
    acts(&mut agent, NOW, |agent, context| agent.request_stop(context));
    // Nothing is there yet, and something is about to be.
    assert_eq!(happens(&mut agent, "left 0"), "");
    assert_eq!(life(&agent), "Stopping down");
    assert_eq!(happens(&mut agent, "started"), "SIGTERM");
    assert_eq!(happens(&mut agent, "ended 0"), "look");
    happens(&mut agent, "left 0");
    assert_eq!(life(&agent), "Down");
}

#[test]
fn the_way_from_a_polite_signal_to_the_last_look() {
    let mut agent = living("Running");
    acts(&mut agent, NOW, |agent, context| agent.request_stop(context));
    let at = |secs| NOW + Duration::from_secs(secs);
    assert_eq!(agent.deadline(), Some(at(1)));
    assert_eq!(acts(&mut agent, at(10), |agent, context| agent.due(context)), "SIGKILL");
    assert!(agent.deadline() > Some(at(10)), "a deadline that is served lies ahead");
    assert_eq!(acts(&mut agent, at(11), |agent, context| agent.due(context)), "SIGKILL look");
    assert_eq!(acts(&mut agent, at(11), |agent, context| agent.process_count(1, context)), "");
    assert_eq!(
        acts(&mut agent, at(12), |agent, context| agent.exited(Exit::Signal(Sig::KILL), None, "", context)),
        "look"
    );
    acts(&mut agent, at(12), |agent, context| agent.process_count(0, context));
    assert_eq!((life(&agent).as_str(), agent.deadline()), ("Down", None));
}

#[test]
fn what_an_earlier_daemon_left_is_ended_and_nothing_else_changes() {
    for (before, wanted) in [
        ("Down", Wanted::Down),
        ("Down", Wanted::Up),
        ("finished", Wanted::Up),
        ("Waiting", Wanted::Up),
        ("Fatal", Wanted::Up),
    ] {
        let mut agent = living(if before == "finished" { "Down" } else { before });
        agent.finished = before == "finished";
        agent.record.wanted = Some(wanted);
        let record = agent.run_record("boot");
        let was = life(&agent);
        assert_eq!(acts(&mut agent, NOW, |agent, context| agent.found_running(None, context)), "look", "{before}");
        let then = agent.run_record("boot");
        let what_follows = |run: &RunRecord| (run.restart_at, run.finished, run.fatal);
        assert_eq!(what_follows(&then), what_follows(&record), "{before}: for the next daemon");
        assert_eq!(record.finished, before == "finished");
        assert_eq!(acts(&mut agent, NOW, |agent, context| agent.process_count(2, context)), "SIGTERM", "{before}");
        for (after, done) in [(10, "SIGKILL"), (11, "SIGKILL look"), (12, "SIGKILL look")] {
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
            assert_eq!((life(&agent).as_str(), starts.as_str()), ("Starting", "start"));
        } else {
            assert_eq!((life(&agent), starts.as_str()), (was, ""), "{before}");
            let after = agent.run_record("boot");
            assert_eq!((after.failures, what_follows(&after)), (record.failures, what_follows(&record)), "{before}");
        }
    }
}

#[test]
fn a_starter_that_never_ends_is_no_start() {
    let mut agent = living("Forking");
    let late = NOW + STARTER_TIMEOUT;
    assert_eq!(agent.deadline(), Some(late));
    assert_eq!(acts(&mut agent, late, |agent, context| agent.due(context)), "SIGTERM");
    acts(&mut agent, late, |agent, context| agent.exited(Exit::Signal(Sig::TERM), None, "", context));
    acts(&mut agent, late, |agent, context| agent.process_count(0, context));
    assert_eq!(agent.report(late, POLICY).failures, 1);
    assert!(agent.last_end().contains("its starter has not ended"), "{}", agent.last_end());
}

#[test]
fn forgiven_failures_are_forgiven_on_record_too() {
    for name in ["Running", "Forking", "Stopping"] {
        let mut agent = living(name);
        agent.failures = 2;
        let (mut out, mut told) = (Vec::new(), Vec::new());
        agent.request_start(&mut StepContext {
            now: NOW,
            policy: POLICY,
            boot_id: "boot",
            shutdown: false,
            out: &mut out,
            reported: &mut told,
        });
        let saved = |action: &Action| matches!(action, Action::SaveRun(run) if run.failures == 0);
        assert!(out.iter().any(saved), "{name}: {out:?}");
    }
}

#[test]
fn health_checks_that_fail_in_a_row_end_the_agent() {
    let mut agent = living("Running");
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
    assert_eq!((life(&agent).as_str(), agent.status()), ("Waiting", Status::Stopped));
}

#[test]
fn only_checks_count_against_a_polled_cpu_limit() {
    let mut agent = agent(Kind::Simple);
    agent.definition.as_mut().unwrap().spec.limits.cpu = Some(1000);
    acts(&mut agent, NOW, |agent, context| {
        agent.request_start(context);
        agent.started(process(7), &(Some("polled".into()), true, false), context);
    });
    // Half a core all the time, where a tenth is allowed.
    let mut measure = |after: u64, check: bool| {
        let usage = Usage { name: "web".into(), cpu: Some(Duration::from_secs(after) / 2), memory: None };
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
fn one_that_starts_again_at_once_goes_on_in_its_group() {
    for (name, releases) in [("Stopping up", false), ("Stopping down", true), ("Stopping", true)] {
        let mut agent = living(name);
        let (mut out, mut told) = (Vec::new(), Vec::new());
        let context = &mut StepContext {
            now: NOW,
            policy: POLICY,
            boot_id: "boot",
            shutdown: false,
            out: &mut out,
            reported: &mut told,
        };
        agent.exited(Exit::Code(0), None, "", context);
        agent.process_count(0, context);
        let released = out.iter().any(|action| matches!(action, Action::Release(_)));
        let started = out.iter().any(|action| matches!(action, Action::Start(_)));
        assert_eq!((released, started), (releases, !releases), "{name}: {out:?}");
    }
}
