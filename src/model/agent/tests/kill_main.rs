//! Agents with `"kill": "main"`, whose other processes outlive a stop.

use super::*;

/// A running agent whose children are not its to end.
fn sparing(kind: Kind) -> Agent {
    let mut agent = agent(kind);
    agent.definition.as_mut().unwrap().spec.kill = KillMode::Main;
    acts(&mut agent, NOW, |agent, context| {
        agent.request_start(context);
        agent.started(process(7), &Enforcement::default(), context);
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
fn what_earlier_runs_have_left_outlives_a_start_that_made_no_process() {
    for kill in [KillMode::Main, KillMode::Tree] {
        let mut agent = sparing(Kind::Simple);
        for event in ["down", "ended 0", "none left", "up"] {
            apply(&mut agent, event);
        }
        agent.definition.as_mut().unwrap().spec.kill = kill;
        assert_eq!((&*apply(&mut agent, "not started"), agent.spares()), ("spare", true), "{kill:?}");
        let mut agent = sparing(Kind::Simple);
        for event in ["down", "ended 0", "none left", "up"] {
            apply(&mut agent, event);
        }
        agent.definition.as_mut().unwrap().spec.kill = kill;
        let word = acts(&mut agent, NOW, |agent, context| agent.resource_exhausted("no memory", context));
        assert_eq!((&*word, agent.spares()), ("spare", true), "{kill:?}");
    }
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
    // The earlier daemon died in the middle of a start: what has begun since then is of that run.
    let mut starting = down.clone();
    apply(&mut starting, "up");
    let midst = starting.run_record("boot");
    for (age, state) in [(0, "Running"), (10, "Running"), (1000, "Down")] {
        let mut agent = fresh(Wanted::Up);
        acts(&mut agent, NOW, |agent, context| agent.resume(&midst, false, true, context));
        let main = Some((process(9), NOW.before(Duration::from_millis(age))));
        acts(&mut agent, NOW, |agent, context| agent.found_running(main, context));
        assert_eq!((&*state_name(&agent), agent.spares()), (state, true), "{age}");
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
