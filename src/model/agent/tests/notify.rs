//! Agents that say when they are ready, and which process is their main one.

use super::*;

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
            agent.started(process(7), &Enforcement::default(), context);
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
        agent.started(process(7), &Enforcement::default(), context);
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
