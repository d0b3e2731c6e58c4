//! Jobs and their results, where nothing interferes.

use super::*;

#[test]
fn each_action_ends_with_its_code() {
    let config = |servers, step| JobAction::Config { servers, step };
    for (order, name, code) in [
        (JobAction::Start, "web", Code::Success),
        (JobAction::Start, "who", Code::NoAgent),
        (JobAction::Stop, "web", Code::Success),
        (JobAction::Stop, "who", Code::NoAgent),
        (JobAction::Restart, "web", Code::Success),
        (JobAction::Restart, "who", Code::NoAgent),
        (JobAction::Uninstall, "web", Code::Refused),
        (JobAction::Uninstall, "who", Code::NoAgent),
        (config(None, None), "web", Code::Success),
        (config(None, None), "who", Code::NoAgent),
        (config(None, Some(secs(60))), "", Code::Success),
        (config(Some(Vec::new()), None), "", Code::Success),
        (JobAction::Stop, "bootagent", Code::Refused),
    ] {
        let mut bench = Bench::new(vec![spec("web")]);
        let what = format!("{order:?} {name}");
        bench.offer(vec![Job::new("one", name, order)]);
        if matches!(bench.agent_state("web"), AgentState::Stopping(_)) {
            bench.agent_ends("web", Exit::Signal(Sig::TERM));
        }
        bench.pass(secs(10));
        assert_eq!(bench.code("one"), Some(code), "{what}");
    }
}

#[test]
fn an_agent_that_does_not_stay_up_fails_its_job() {
    for order in [JobAction::Start, JobAction::Restart] {
        let mut bench = Bench::new(vec![spec("web")]);
        bench.agent_ends("web", Exit::Code(1));
        bench.offer(vec![Job::new("one", "web", order)]);
        bench.pass(secs(9));
        bench.agent_ends("web", Exit::Code(1));
        assert_eq!(bench.code("one"), Some(Code::Start));
    }
}

#[test]
fn an_install_that_fails_somewhere_says_where_and_leaves_nothing() {
    let digest = |number| Fetched::Whole { digest: Digest([number; 32]), doubtful: false };
    let id = || JobId::from("one");
    let refused = Fetched::Refused { reason: "not there".into() };
    let unsigned = Event::Verified(id(), Verified::Hostile("not signed".into()));
    let way: [(Event, Event, Code); 6] = [
        (Event::Fetched(id(), digest(1)), Event::Fetched(id(), refused), Code::Download),
        (Event::Verified(id(), Verified::Sound(Digest([1; 32]))), unsigned, Code::Refused),
        (Event::Placed(id(), Ok(())), Event::Placed(id(), Err("no space".into())), Code::Install),
        (Event::Unpacked(id(), Ok(())), Event::Unpacked(id(), Err("damaged".into())), Code::Install),
        (Event::Inspected(id(), Ok(None)), Event::Inspected(id(), Err("a bad one".into())), Code::BadJob),
        (Event::Placed(id(), Ok(())), Event::Placed(id(), Err("no space".into())), Code::Install),
    ];
    for fails in 0..=way.len() {
        let mut bench = Bench::new(Vec::new());
        bench.offer(vec![package("one", "web", 1, false)]);
        for (good, bad, code) in way.iter().take(fails + 1) {
            let last = std::ptr::eq(good, &way[fails.min(way.len() - 1)].0) && fails < way.len();
            bench.step(if last { bad.clone() } else { good.clone() });
            if last {
                assert_eq!(bench.code("one"), Some(*code), "step {fails}: {:?}", bench.jobs["one"].outcome);
            }
        }
        if fails == way.len() {
            bench.step(Event::Placed(id(), Ok(())));
            bench.pass(secs(3));
            bench.agent_ends("web", Exit::Code(1));
            assert_eq!(bench.code("one"), Some(Code::Start), "{:?}", bench.jobs["one"].outcome);
        }
        assert!(bench.agents.is_empty() && bench.state.agents.get("web").is_none(), "step {fails}");
    }
    let mut bench = Bench::new(Vec::new());
    bench.offer(vec![package("one", "web", 1, false)]);
    bench.step(Event::Fetched(id(), digest(2)));
    assert_eq!(bench.code("one"), Some(Code::Checksum));

    // The helper that fetched it may be controlled by an attacker: what counts is the file on disk.
    for (verified, code) in [
        (Verified::Sound(Digest([2; 32])), Code::Checksum),
        (Verified::Hostile("somebody can write to it".into()), Code::Refused),
        (Verified::Unknown("the disk is broken".into()), Code::Install),
    ] {
        let mut bench = Bench::new(Vec::new());
        bench.offer(vec![package("one", "web", 1, false)]);
        bench.step(Event::Fetched(id(), digest(1)));
        bench.step(Event::Verified(id(), verified));
        bench.step(Event::Placed(id(), Ok(())));
        assert_eq!(bench.code("one"), Some(code));
        let done = bench.take(|action| match action {
            Action::Unpack { .. } => Some("unpacked"),
            Action::RemovePackage(..) => Some("dropped"),
            _ => None,
        });
        assert_eq!(done, ["dropped"]);
    }
}

#[test]
fn an_upgrade_that_does_not_stay_up_is_undone() {
    let mut bench = Bench::installed("web");
    bench.offer(vec![package("next", "web", 2, true)]);
    bench.deliver("next", 2);
    bench.agent_ends("web", Exit::Signal(Sig::TERM));
    bench.step(Event::Placed("next".into(), Ok(())));
    bench.pass(secs(5));
    bench.agent_ends("web", Exit::Code(1));
    let linked = bench.take(|action| match action {
        Action::Link(_, _, dir) => Some(dir.clone()),
        _ => None,
    });
    assert_eq!(linked.last().map(|dir| &**dir), Some("1"));
    bench.step(Event::Placed("next".into(), Ok(())));
    bench.step(Event::Inspected("next".into(), Ok(Some(Box::new(spec("web"))))));
    bench.pass(secs(10));
    assert_eq!(bench.code("next"), Some(Code::RolledBack));
    assert!(bench.runs("web"));
    let package = bench.agents["web"].package.as_ref().map(|package| &*package.version);
    assert_eq!(package, Some("1"));
}

#[test]
fn the_verdict_of_a_health_check_is_awaited_without_a_deadline() {
    let mut checked = spec("web");
    let check = crate::model::spec::Check {
        exec: vec!["/bin/ping".into()],
        interval: secs(1000),
        timeout: secs(10),
        retries: 2,
    };
    checked.check = Some(Box::new(check));
    let mut bench = Bench::new(vec![checked]);
    bench.offer(vec![package("1", "web", 1, true)]);
    bench.deliver("1", 1);
    bench.agent_ends("web", Exit::Signal(Sig::TERM));
    bench.step(Event::Placed("1".into(), Ok(())));
    bench.pass(secs(100));
    assert_eq!(bench.jobs["1"].phase, Phase::Settling, "not healthy yet");
    bench.pass(secs(910));
    bench.step(Event::Checked("web".into(), Exit::Code(0), "".into()));
    assert_eq!(bench.code("1"), Some(Code::Success));
}
