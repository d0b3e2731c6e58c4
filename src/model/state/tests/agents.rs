//! Agents and the commands of people, without jobs.

use super::*;

// Agents.

#[test]
fn limits_of_a_forking_agent_are_polled_once_its_main_process_is_known() {
    let mut forking = spec("web");
    forking.kind = Kind::Forking;
    let mut bench = Bench::new(vec![forking]);
    let pid = bench.state.agents.get("web").and_then(Agent::process).expect("its starter").pid;
    bench.step(Event::Exited { name: "web".into(), pid, exit: Exit::Code(0), oom: None, tail: "".into() });
    bench.step(Event::MainProcess {
        name: "web".into(),
        found: Some(Process { pid: Pid::new(9).unwrap(), ticks: 1 }),
        left: 1,
    });
    assert!(bench.runs("web"));
    bench.step(Event::Replied(Reply::Jobs { errcode: Some(0), jobs: Vec::new(), cancel: Vec::new() }));
    assert!(bench.state.poll_at.is_some_and(|at| at <= bench.now.time + secs(10)));
}

#[test]
fn what_runs_of_an_agent_without_a_definition_is_ended_before_it_is_forgotten() {
    let recovered = Recovered { unrecorded: vec![("web".into(), None)], leftovers: true, ..Recovered::default() };
    let now = Now { time: Time::new(1000, 0), wall: 1_700_001_000 };
    let mut out = Vec::new();
    let mut state = State::new(options(), recovered, now, &mut out);
    let look = Action::CountProcesses { name: "web".into(), scope: Scope::Tree, last: true };
    let drop = Action::RemoveAgent("web".into());
    assert!(out.contains(&look) && !out.contains(&drop), "{out:?}");
    out.clear();
    state.step(Event::ProcessCount("web".into(), 1), now, &mut out);
    let late = Now { time: now.time + secs(11), ..now };
    for (event, sig) in [(Event::ProcessesChanged, Sig::TERM), (Event::Tick, Sig::KILL)] {
        state.step(event, late, &mut out);
        assert!(out.contains(&Action::Signal("web".into(), Scope::Tree, sig)) && !out.contains(&drop), "{out:?}");
    }
    // A client that starts it meanwhile gets an error.
    out.clear();
    state.step(Event::Command(Client(1), Command::Start("web".into())), late, &mut out);
    assert_eq!(out.iter().filter_map(answers).collect::<Vec<_>>(), [(1, 1)]);
    state.step(Event::ProcessCount("web".into(), 0), late, &mut out);
    assert!(out.contains(&drop) && state.agents().next().is_none(), "{out:?}");
}

#[test]
fn a_restart_comes_in_its_time_and_the_fourth_early_end_is_the_last() {
    let mut bench = Bench::new(vec![spec("web")]);
    for failures in 1..=3 {
        bench.agent_ends("web", Exit::Code(1));
        bench.take(starts);
        bench.pass(secs(179));
        assert!(bench.take(starts).is_empty(), "before its time, after end {failures}");
        bench.pass(secs(1));
        assert_eq!(bench.take(starts).len(), 1, "after end {failures}");
    }
    bench.agent_ends("web", Exit::Code(1));
    assert_eq!(bench.agent_state("web"), AgentState::Fatal);
    bench.take(starts);
    bench.pass(secs(100_000));
    assert!(bench.take(starts).is_empty());
    bench.step(Event::Command(Client(1), Command::Start("web".into())));
    assert_eq!(bench.take(starts).len(), 1, "a start ends it");
}

#[test]
fn incidents_beyond_the_last_are_dropped_and_counted() {
    let mut bench = Bench::new(Vec::new());
    let problems = (0..INCIDENTS + 5).map(|number| format!("problem {number}").into()).collect();
    bench.step(Event::Definitions { whole: true, good: Vec::new(), problems });
    bench.take(starts);
    let report = |action: &Action| match action {
        Action::Exchange(_, Message::Status(report)) => Some(report.events.clone()),
        _ => None,
    };
    bench.step(Event::Replied(Reply::Jobs { errcode: Some(0), jobs: Vec::new(), cancel: Vec::new() }));
    bench.pass(secs(700));
    let events = bench.take(report).pop().unwrap();
    assert_eq!(events.len(), INCIDENTS + 1);
    assert_eq!(&*events[0].message, "5 earlier events dropped");
    assert_eq!(&*events[1].message, "problem 5");
    bench.step(Event::Replied(Reply::Jobs { errcode: Some(0), jobs: Vec::new(), cancel: Vec::new() }));
    bench.pass(secs(700));
    assert_eq!(bench.take(report).pop(), Some(Vec::new()), "reported once");
}

// Clients on the host.

#[test]
fn a_command_is_answered_when_it_is_done() {
    let mut bench = Bench::new(vec![spec("web")]);
    bench.step(Event::Command(Client(1), Command::Stop("web".into())));
    assert!(bench.take(answers).is_empty(), "it still runs");
    bench.agent_ends("web", Exit::Signal(Sig::TERM));
    assert_eq!(bench.take(answers), [(1, 0)]);
    bench.step(Event::Command(Client(2), Command::Start("web".into())));
    bench.pass(secs(9));
    assert!(bench.take(answers).is_empty(), "startsecs is 10");
    bench.pass(secs(1));
    assert_eq!(bench.take(answers), [(2, 0)]);
    bench.step(Event::Command(Client(3), Command::Restart("web".into())));
    bench.agent_ends("web", Exit::Signal(Sig::TERM));
    assert!(bench.runs("web"));
    bench.agent_ends("web", Exit::Code(1));
    assert_eq!(bench.take(answers), [(3, 1)]);
    bench.step(Event::Command(Client(4), Command::Start("who".into())));
    assert_eq!(bench.take(answers), [(4, 1)]);
    bench.step(Event::Command(Client(5), Command::Start("web".into())));
    bench.step(Event::Gone(Client(5)));
    bench.pass(secs(20));
    assert!(bench.take(answers).is_empty(), "its client is gone");
}

#[test]
fn a_report_is_answered_when_every_server_asked_for_a_pause() {
    let mut bench = Bench::new(Vec::new());
    bench.step(Event::Replied(Reply::Failed { reason: "busy".into(), retry_after: Some(500) }));
    bench.pass(secs(20));
    bench.take(answers);
    bench.step(Event::Command(Client(1), Command::Report));
    assert_eq!(bench.take(answers), [(1, 1)]);
}
