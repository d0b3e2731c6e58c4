//! The end of the daemon with its agents.

use super::*;

// Shutdown.

#[test]
fn a_shutdown_leaves_a_settling_upgrade_to_the_next_daemon() {
    let mut bench = Bench::installed("web");
    bench.offer(vec![package("next", "web", 2, true)]);
    bench.deliver("next", 2);
    bench.agent_ends("web", Exit::Signal(Sig::TERM));
    bench.step(Event::Placed("next".into(), Ok(())));
    assert_eq!(bench.jobs["next"].phase, Phase::Settling);
    bench.step(Event::Shutdown(Shutdown::Stop));
    bench.agent_ends("web", Exit::Signal(Sig::TERM));
    assert!(bench.done.contains(&Action::Quit(0)));
    let record = &bench.jobs["next"];
    assert_eq!((record.phase, &record.outcome), (Phase::Settling, &None), "no failure of the package's");
    bench.restart_daemon();
    bench.pass(secs(10));
    assert_eq!(bench.code("next"), Some(Code::Success));
}

#[test]
fn nothing_new_begins_in_a_shutdown() {
    let mut bench = Bench::installed("web");
    bench.offer(vec![package("next", "web", 2, true)]);
    bench.deliver("next", 2);
    bench.take(starts);
    bench.step(Event::Shutdown(Shutdown::Stop));
    bench.step(Event::Command(Client(1), Command::Start("web".into())));
    bench.step(Event::Definitions { whole: true, good: vec![file(spec("new"))], problems: Vec::new() });
    bench.agent_ends("web", Exit::Signal(Sig::TERM));
    bench.step(Event::Placed("next".into(), Ok(())));
    let done = std::mem::take(&mut bench.done);
    assert!(done.iter().filter_map(starts).next().is_none(), "{done:?}");
    assert_eq!(done.iter().filter_map(answers).collect::<Vec<_>>(), [(1, 1)]);
    assert!(done.contains(&Action::Quit(0)));
}

#[test]
fn a_shutdown_is_recorded_once_for_all_agents_and_the_next_daemon_starts_them_again() {
    let saved = |action: &Action| match action {
        Action::SaveRun(run) => Some(RunRecord::clone(run)),
        _ => None,
    };
    let stopped = |action: &Action| match action {
        Action::SaveStop(stop) => Some(stop.at),
        _ => None,
    };
    let mut bench = Bench::new(vec![spec("web")]);
    bench.agent_ends("web", Exit::Code(1));
    bench.pass(secs(180));
    let mut run = bench.done.iter().filter_map(saved).next_back().unwrap();
    assert!(run.process.is_some() && run.failures == 1 && !run.stopping, "{run:?}");
    bench.done.clear();
    bench.step(Event::Shutdown(Shutdown::Stop));
    bench.agent_ends("web", Exit::Signal(Sig::TERM));
    assert_eq!(bench.done.iter().filter_map(saved).count(), 0);
    let stops: Vec<Time> = bench.done.iter().filter_map(stopped).collect();
    assert!(stops.len() == 1 && stops[0] >= run.started, "{stops:?}");
    run.end_with(stops[0].before(secs(300)));
    assert!(!run.stopping, "it was started after that");
    run.end_with(stops[0]);
    assert!(run.stopping && run.failures == 0, "{run:?}");
    let runs = vec![(run, false)];
    let recovered = Recovered { definitions: bench.definitions.clone(), runs, leftovers: true, ..Recovered::default() };
    let mut out = Vec::new();
    let mut state = State::new(options(), recovered, bench.now, &mut out);
    // It counts processes before the first start, as there was another daemon.
    for _ in 0..2 {
        state.step(Event::ProcessCount("web".into(), 0), bench.now, &mut out);
    }
    assert!(out.iter().any(|action| starts(action).is_some()), "{out:?}");
}

#[test]
fn a_shutdown_ends_with_agents_that_do_not() {
    let mut bench = Bench::new(vec![spec("web")]);
    bench.offer(vec![package("first", "other", 1, false)]);
    bench.step(Event::Shutdown(Shutdown::Stop));
    bench.pass(secs(20));
    assert!(bench.done.contains(&Action::Quit(0)), "stopsecs and ten seconds");
}
