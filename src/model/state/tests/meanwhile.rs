//! What people do with an agent while a job is about it.

use super::*;

#[test]
fn an_undo_does_not_start_what_the_operator_has_stopped() {
    let mut bench = Bench::installed("web");
    bench.offer(vec![package("next", "web", 2, true)]);
    bench.deliver("next", 2);
    bench.agent_ends("web", Exit::Signal(Sig::TERM));
    bench.step(Event::Placed("next".into(), Ok(())));
    bench.step(Event::Command(Client(1), Command::Stop("web".into())));
    bench.agent_ends("web", Exit::Signal(Sig::TERM));
    bench.step(Event::Placed("next".into(), Ok(())));
    bench.step(Event::Inspected("next".into(), Ok(Some(Box::new(spec("web"))))));
    assert_eq!(bench.code("next"), Some(Code::RolledBack), "{:?}", bench.jobs["next"]);
    assert_eq!(bench.agent_state("web"), AgentState::Down);
    assert_eq!(bench.agents["web"].wanted, Some(Wanted::Down));
}

#[test]
fn an_agent_whose_file_goes_while_a_job_is_undone_goes_too() {
    let mut bench = Bench::new(vec![spec("web")]);
    let source = Source { url: "http://p/a.deb".into(), digest: Digest([1; 32]), format: Format::Deb };
    bench.offer(vec![Job::new("deb", "web", JobAction::Install(source))]);
    bench.step(Event::Fetched("deb".into(), Fetched::Whole { digest: Digest([1; 32]), doubtful: false }));
    bench.step(Event::Verified("deb".into(), Verified::Sound(Digest([1; 32]))));
    bench.step(Event::Placed("deb".into(), Ok(())));
    let tool = |bench: &mut Bench, output: &str| {
        // The package is there once it was installed.
        let phase = bench.jobs["deb"].phase;
        let asks = bench.take(|action| match action {
            Action::Tool(_, tool) => Some(tool.argv.iter().any(|word| **word == *"query")),
            _ => None,
        });
        let there = output.is_empty() && phase == Phase::Installing;
        let output = if asks.last() == Some(&true) && there { "1" } else { output };
        bench.step(Event::ToolDone { owner: ToolOwner::Job("deb".into()), exit: Exit::Code(0), output: output.into() });
    };
    tool(&mut bench, "Package: web-package\nVersion: 1\n");
    while bench.jobs["deb"].phase < Phase::Starting {
        tool(&mut bench, "");
        bench.step(Event::Inspected("deb".into(), Ok(None)));
    }
    bench.agent_ends("web", Exit::Signal(Sig::TERM));
    tool(&mut bench, "\n");
    bench.agent_ends("web", Exit::Code(1));
    assert_eq!(bench.jobs["deb"].phase, Phase::Installing, "{:?}", bench.jobs["deb"]);
    // The package that is being removed has a definition, too, which is the only one at this moment.
    let mut own = spec("web");
    own.autostart = false;
    let good = vec![Definition { origin: Origin::Package, spec: Box::new(own) }];
    bench.step(Event::Definitions { good, problems: Vec::new(), whole: true });
    tool(&mut bench, "");
    tool(&mut bench, "\n");
    bench.step(Event::Inspected("deb".into(), Ok(None)));
    tool(&mut bench, "\n");
    assert_eq!(bench.code("deb"), Some(Code::Start), "{:?}", bench.jobs["deb"]);
    bench.agent_ends("web", Exit::Signal(Sig::TERM));
    assert!(bench.state.agents().next().is_none(), "{:?}", bench.state.agents().collect::<Vec<_>>());
}

#[test]
fn an_agent_whose_file_goes_during_a_job_goes_after_it() {
    let mut bench = Bench::new(vec![spec("web")]);
    bench.offer(vec![Job::new("again", "web", JobAction::Restart)]);
    let gone = || Event::Definitions { good: Vec::new(), problems: Vec::new(), whole: true };
    bench.step(gone());
    bench.agent_ends("web", Exit::Signal(Sig::TERM));
    assert!(bench.runs("web") && !bench.done.contains(&Action::RereadDefinitions), "{:?}", bench.done);
    bench.pass(secs(10));
    assert_eq!(bench.code("again"), Some(Code::Success));
    assert!(bench.done.contains(&Action::RereadDefinitions), "{:?}", bench.done);
    bench.step(gone());
    bench.agent_ends("web", Exit::Signal(Sig::TERM));
    assert!(bench.state.agents().next().is_none());
}

#[test]
fn a_stop_ends_when_the_operator_starts_the_agent() {
    let mut bench = Bench::new(vec![spec("web")]);
    bench.offer(vec![Job::new("1", "web", JobAction::Stop)]);
    bench.step(Event::Command(Client(1), Command::Start("web".into())));
    assert_eq!(bench.code("1"), Some(Code::Expired));
    bench.agent_ends("web", Exit::Signal(Sig::TERM));
    assert!(bench.runs("web"));
}

#[test]
fn a_start_meanwhile_does_not_disturb_an_upgrade() {
    let mut bench = Bench::installed("web");
    bench.offer(vec![package("next", "web", 2, true)]);
    bench.deliver("next", 2);
    bench.step(Event::Command(Client(1), Command::Restart("web".into())));
    bench.take(starts);
    bench.agent_ends("web", Exit::Signal(Sig::TERM));
    assert!(bench.done.contains(&Action::Link("next".into(), "web".into(), "2".into())), "{:?}", bench.done);
    bench.step(Event::Placed("next".into(), Ok(())));
    bench.pass(secs(10));
    assert_eq!(bench.code("next"), Some(Code::Success));
}

#[test]
fn a_restart_meanwhile_undoes_no_upgrade_and_is_waited_for() {
    let mut bench = Bench::installed("web");
    bench.offer(vec![package("next", "web", 2, true)]);
    bench.deliver("next", 2);
    bench.agent_ends("web", Exit::Signal(Sig::TERM));
    bench.step(Event::Placed("next".into(), Ok(())));
    bench.step(Event::Command(Client(1), Command::Start("web".into())));
    bench.step(Event::Command(Client(2), Command::Restart("web".into())));
    bench.take(answers);
    bench.agent_ends("web", Exit::Signal(Sig::TERM));
    assert_eq!((bench.code("next"), bench.take(answers)), (None, Vec::new()), "the first start ends neither");
    bench.pass(secs(10));
    assert_eq!(bench.code("next"), Some(Code::Success));
    assert_eq!(bench.take(answers), [(1, 0), (2, 0)]);
}

#[test]
fn an_agent_that_is_started_while_it_is_removed_is_stopped() {
    let mut bench = Bench::installed("web");
    bench.offer(vec![package("next", "web", 3, true)]);
    bench.step(Event::Fetched("next".into(), Fetched::Refused { reason: "not there".into() }));
    bench.offer(vec![Job::new("gone", "web", JobAction::Uninstall)]);
    bench.agent_ends("web", Exit::Signal(Sig::TERM));
    assert_eq!(bench.code("gone"), Some(Code::Success));
    assert!(bench.agents.is_empty() && bench.state.agents.get("web").is_none());

    let mut bench = Bench::installed("web");
    bench.state.forget("web");
    let saved = std::mem::take(&mut bench.state.out).iter().find_map(|action| match action {
        Action::SaveAgent(record) => Some((record.package.is_some(), record.wanted)),
        _ => None,
    });
    assert_eq!(saved, Some((false, Some(Wanted::Down))), "a daemon that comes next does not start it");
    assert!(
        matches!(bench.agent_state("web"), AgentState::Stopping(_)),
        "it runs, and is stopped before it is forgotten"
    );
    bench.agent_ends("web", Exit::Signal(Sig::TERM));
    assert!(bench.state.agents.get("web").is_none());
}
