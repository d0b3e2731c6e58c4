//! Jobs that are interrupted, and that the next daemon continues.

use super::*;

#[test]
fn a_resumed_install_is_verified_with_the_keys_trusted_now() {
    for (verified, want) in [
        (Verified::Sound(Digest([2; 32])), None),
        (Verified::Hostile("by none of the trusted keys".into()), Some(Code::Refused)),
        (Verified::Sound(Digest([3; 32])), Some(Code::Checksum)),
    ] {
        let mut bench = Bench::installed("web");
        let mut job = package("next", "web", 2, false);
        job.definition = None;
        job.signature = Some("nobody's".into());
        bench.offer(vec![job]);
        let digest = Digest([2; 32]);
        bench.step(Event::Fetched("next".into(), Fetched::Whole { digest, doubtful: false }));
        bench.step(Event::Verified("next".into(), Verified::Sound(digest)));
        bench.step(Event::Placed("next".into(), Ok(())));
        assert_eq!(bench.phase("next"), Some(Phase::Installing));
        bench.start_with(Options { signed: true, ..options() }, None, None);
        let unpacks = |bench: &Bench| bench.done.iter().any(|action| matches!(action, Action::Unpack { .. }));
        assert!(!unpacks(&bench), "{:?}", bench.done);
        assert!(bench.done.iter().any(|action| matches!(action, Action::Verify(..))), "{:?}", bench.done);
        bench.step(Event::Verified("next".into(), verified));
        assert_eq!((bench.code("next"), unpacks(&bench)), (want, want.is_none()));
    }
}

/// Answers what the job "next" waits for in its phase; false when it has ended.
fn answer_phase(bench: &mut Bench) -> bool {
    let digest = Digest([2; 32]);
    match bench.phase("next") {
        Some(Phase::Downloading) => {
            bench.step(Event::Fetched("next".into(), Fetched::Whole { digest, doubtful: false }));
        }
        Some(Phase::Verified) => {
            bench.step(Event::Verified("next".into(), Verified::Sound(digest)));
            bench.step(Event::Placed("next".into(), Ok(())));
        }
        Some(Phase::Installing) => {
            bench.step(Event::Unpacked("next".into(), Ok(())));
            bench.step(Event::Inspected("next".into(), Ok(None)));
            bench.step(Event::Placed("next".into(), Ok(())));
        }
        Some(Phase::Starting) if !matches!(bench.agent_state("web"), AgentState::Down) => {
            bench.agent_ends("web", Exit::Signal(Sig::TERM));
        }
        Some(Phase::Starting) => bench.step(Event::Placed("next".into(), Ok(()))),
        Some(Phase::Settling) => bench.pass(secs(10)),
        _ => return false,
    }
    true
}

#[test]
fn an_interrupted_job_ends_as_it_would_have() {
    // How many events come before the daemon dies; and whether it records steps, which 1.0.0 does not.
    for (survived, with_steps) in (0..6).flat_map(|survived| [(survived, true), (survived, false)]) {
        let mut bench = Bench::installed("web");
        bench.offer(vec![package("next", "web", 2, true)]);
        for step in 0..survived {
            assert!(answer_phase(&mut bench), "over at step {step}");
        }
        if !with_steps {
            bench.forget_steps();
        }
        bench.restart_daemon();
        // It ends in far fewer steps.
        (0..20).take_while(|_| answer_phase(&mut bench)).for_each(drop);
        assert_eq!(bench.code("next"), Some(Code::Success), "after {survived}: {:?}", bench.jobs["next"]);
        assert!(bench.runs("web"), "after {survived}");
    }
}

#[test]
fn a_job_from_before_signatures_were_needed_waits_and_is_then_refused() {
    let digest = Digest([2; 32]);
    let fetched = || Event::Fetched("next".into(), Fetched::Whole { digest, doubtful: false });
    let verified = || Event::Verified("next".into(), Verified::Sound(digest));
    let placed = || Event::Placed("next".into(), Ok(()));
    // How many events come before the daemon dies.
    for survived in 0..4 {
        let way = [fetched(), verified(), placed()];
        let mut bench = Bench::installed("web");
        bench.offer(vec![package("next", "web", 2, true)]);
        way.iter().take(survived).for_each(|event| bench.step(event.clone()));
        // While defaults stand in for a bad configuration no job continues, and none has a deadline.
        bench.start_with(Options { closed: Some("it is bad".into()), ..options() }, None, None);
        let phase = bench.phase("next");
        bench.pass(secs(100));
        let works = |action: &Action| {
            matches!(
                action,
                Action::Fetch(_)
                    | Action::Verify(..)
                    | Action::PlacePackage(..)
                    | Action::Unpack { .. }
                    | Action::Exchange(..)
            )
        };
        assert!(!bench.done.iter().any(works) && bench.phase("next") == phase, "after {survived}: {:?}", bench.done);
        assert!(bench.state.deadline().is_none_or(|at| at > bench.now.time), "after {survived}");
        let entries = bench.state.entries();
        let entry = entries.iter().find(|entry| &*entry.id == "next").unwrap();
        assert_eq!(&*entry.progress, "waits for a good configuration", "after {survived}");
        // The job brings a definition, and has no signature.
        bench.start_with(Options { signed: true, ..options() }, None, None);
        way.iter().for_each(|event| bench.step(event.clone()));
        let code = bench.code("next");
        assert_eq!(code, Some(Code::Refused), "after {survived}: {:?}", bench.jobs["next"]);
        assert!(!bench.done.iter().any(|action| matches!(action, Action::Unpack { .. })), "after {survived}");
        assert_eq!(bench.agents["web"].package.as_ref().map(|package| package.digest), Some(Digest([1; 32])));
    }
}

#[test]
fn an_upgrade_that_fails_only_when_it_is_resumed_is_undone() {
    let mut bench = Bench::installed("web");
    bench.offer(vec![package("next", "web", 2, true)]);
    let installing = |bench: &mut Bench| {
        bench.step(Event::Fetched("next".into(), Fetched::Whole { digest: Digest([2; 32]), doubtful: false }));
        bench.step(Event::Verified("next".into(), Verified::Sound(Digest([2; 32]))));
        bench.step(Event::Placed("next".into(), Ok(())));
        bench.jobs["next"].clone()
    };
    let record = installing(&mut bench);
    bench.step(Event::Unpacked("next".into(), Ok(())));
    bench.step(Event::Inspected("next".into(), Ok(None)));
    bench.step(Event::Placed("next".into(), Ok(())));
    // The daemon dies when the agent's record is on disk, and the job's is not.
    bench.jobs.insert("next".into(), record);
    bench.restart_daemon();
    assert_eq!(bench.agents["web"].package.as_ref().map(|package| &*package.version), Some("2"));
    bench.step(Event::Unpacked("next".into(), Err("damaged".into())));
    bench.agent_ends("web", Exit::Signal(Sig::TERM));
    bench.step(Event::Inspected("next".into(), Ok(Some(Box::new(spec("web"))))));
    bench.pass(secs(10));
    assert_eq!(bench.code("next"), Some(Code::Install));
    assert_eq!(bench.agents["web"].package.as_ref().map(|package| &*package.version), Some("1"));
    assert!(bench.runs("web"));
}

#[test]
fn a_resumed_job_continues_at_once() {
    let mut bench = Bench::new(Vec::new());
    bench.offer(vec![package("one", "web", 1, false)]);
    assert_eq!(bench.jobs["one"].phase, Phase::Downloading);
    bench.restart_daemon();
    assert!(bench.done.contains(&Action::Fetch("one".into())), "{:?}", bench.done);
}
