//! The table in the header of `agent.rs`, cell by cell. Longer ways through it are in the files beside this one.

mod kill_main;
mod notify;
mod stop;
mod watch;

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

/// Lets the agent take steps; returns the actions.
fn actions(agent: &mut Agent, now: Time, step: impl FnOnce(&mut Agent, &mut StepContext)) -> Vec<Action> {
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
    out
}

/// The same as words, without log lines and records.
fn acts(agent: &mut Agent, now: Time, step: impl FnOnce(&mut Agent, &mut StepContext)) -> String {
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
    let words: Vec<String> = actions(agent, now, step).iter().map(word).filter(|word| !word.is_empty()).collect();
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
        agent.started(process(7), &Enforcement::default(), context);
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

#[test]
fn what_a_run_has_made_goes_when_it_is_over() {
    for (name, is_over, is_down) in [
        ("Down", true, true),
        ("Waiting", true, false),
        ("Fatal", true, true),
        ("Starting", false, false),
        ("Running", false, false),
        ("Forking", false, false),
        ("Stopping", false, false),
        ("Stopping up", false, false),
    ] {
        let agent = agent_in(name);
        assert_eq!((agent.is_over(), agent.is_down()), (is_over, is_down), "{name}");
    }
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
        "started" => acts(agent, NOW, |agent, context| agent.started(process(9), &Enforcement::default(), context)),
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

const EVENTS: [&str; 15] = [
    "up",
    "down",
    "restart",
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
        ("time", "Starting", "start"),
    ]),
    ("Fatal", &[
        ("up", "Starting", "start"),
        ("down", "Down", ""),
        ("restart", "Starting", "start"),
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
        let out = actions(&mut agent, NOW, |agent, context| agent.request_start(context));
        let is_reset = |action: &Action| matches!(action, Action::SaveRun(run) if run.failures == 0);
        assert!(out.iter().any(is_reset), "{name}: {out:?}");
    }
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
        let report = agent.report(NOW, POLICY);
        assert_eq!((&*state_name(&agent), report.status, report.pid), ("Prestart", Status::Running, 0));
        assert!(agent.run_record("boot").stopping, "the next daemon begins anew");
        agent
    };
    let mut agent = in_prestart();
    assert_eq!((apply(&mut agent, "ended 0"), state_name(&agent)), ("start".into(), "Starting".into()));
    assert_eq!((apply(&mut agent, "started"), state_name(&agent)), ("".into(), "Running".into()));
    for (event, actions, state) in [
        ("ended 1", "count", "Stopping tree"),
        ("not started", "count", "Stopping tree"),
        ("time", "SIGTERM", "Stopping"),
        ("down", "SIGTERM", "Stopping down"),
        ("restart", "SIGTERM", "Stopping up"),
        ("up", "", "Prestart"),
    ] {
        let mut agent = in_prestart();
        assert_eq!((&*apply(&mut agent, event), &*state_name(&agent)), (actions, state), "{event}");
    }
    // The program behind it cannot be executed: what the prestart left is ended.
    let mut agent = in_prestart();
    apply(&mut agent, "ended 0");
    assert_eq!((apply(&mut agent, "not started"), state_name(&agent)), ("count".into(), "Stopping tree".into()));
    // The same is known only after the process was made.
    let mut agent = in_prestart();
    apply(&mut agent, "ended 0");
    apply(&mut agent, "started");
    assert_eq!((apply(&mut agent, "not started"), state_name(&agent)), ("count".into(), "Stopping tree".into()));
    let mut agent = in_prestart();
    apply(&mut agent, "ended 0");
    let word = acts(&mut agent, NOW, |agent, context| agent.resource_exhausted("no memory", context));
    assert_eq!((&*word, &*state_name(&agent)), ("count", "Stopping tree"));
    assert_eq!((apply(&mut agent, "none left"), state_name(&agent)), ("".into(), "Waiting".into()));
    // A stop between the order and the process.
    let mut agent = with_prestart();
    apply(&mut agent, "down");
    let word = acts(&mut agent, NOW, |agent, context| agent.prestart_started(process(6), context));
    assert_eq!((&*state_name(&agent), &*word), ("Stopping down", "SIGTERM"));
}

#[test]
fn a_forking_agent_of_which_nothing_is_left_has_ended_while_no_daemon_watched() {
    let mut before = agent(Kind::Forking);
    for event in ["up", "started", "ended 0"] {
        apply(&mut before, event);
    }
    let record = before.run_record("boot");
    assert!(record.forking && record.process.is_none());
    for (strays, actions, state) in [(false, "count", "Stopping tree"), (true, "", "Forking, starter ended")] {
        let mut agent = agent(Kind::Forking);
        let word = acts(&mut agent, NOW, |agent, context| agent.resume(&record, false, strays, context));
        assert_eq!((&*word, &*state_name(&agent)), (actions, state), "{strays}");
    }
}
