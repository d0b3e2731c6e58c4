//! Health checks, and limits that the daemon enforces itself.

use super::*;

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
fn a_health_check_that_the_host_has_no_room_for_is_no_failure() {
    let mut agent = agent_in("Running");
    for _ in 0..5 {
        let now = agent.deadline().unwrap();
        assert_eq!(acts(&mut agent, now, |agent, context| agent.due(context)), "check");
        assert_eq!(acts(&mut agent, now, |agent, context| agent.not_checked("no memory", context)), "");
        assert!(agent.deadline().unwrap() > now, "the next one is due later");
    }
    assert_eq!(state_name(&agent), "Running");
}

#[test]
fn only_limit_checks_count_against_a_polled_cpu_limit() {
    let mut agent = agent(Kind::Simple);
    agent.definition.as_mut().unwrap().spec.limits.cpu = Some(1000);
    let polled = Enforcement { by: Some("polled".into()), polled: Polled { cpu: true, memory: false } };
    acts(&mut agent, NOW, |agent, context| {
        agent.request_start(context);
        agent.started(process(7), &polled, context);
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
