//! Stops: which signals they send to what, what they wait for, and how they end.

use super::*;

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
    assert_eq!(agent.is_stuck(), None, "only its stop signal was refused so far");
    acts(&mut agent, at(10), |agent, context| agent.refused("its user", context));
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
fn an_agent_that_is_started_again_at_once_keeps_its_group() {
    for (name, releases) in [("Stopping up", false), ("Stopping down", true), ("Stopping", true)] {
        let mut agent = agent_in(name);
        let out = actions(&mut agent, NOW, |agent, context| {
            agent.exited(Exit::Code(0), None, "", context);
            agent.process_count(0, context);
        });
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
