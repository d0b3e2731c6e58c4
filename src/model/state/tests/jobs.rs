//! Jobs through all their phases.

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
        bench.offer(vec![job("one", name, order)]);
        if matches!(bench.life("web"), AgentState::Stopping(_)) {
            bench.ends("web", Exit::Signal(Sig::TERM));
        }
        bench.pass(secs(10));
        assert_eq!(bench.code("one"), Some(code), "{what}");
    }
}

#[test]
fn an_agent_that_does_not_stay_up_fails_its_job() {
    for order in [JobAction::Start, JobAction::Restart] {
        let mut bench = Bench::new(vec![spec("web")]);
        bench.ends("web", Exit::Code(1));
        bench.offer(vec![job("one", "web", order)]);
        bench.pass(secs(9));
        bench.ends("web", Exit::Code(1));
        assert_eq!(bench.code("one"), Some(Code::Start));
    }
}

#[test]
fn an_install_that_fails_somewhere_says_where_and_leaves_nothing() {
    let digest = |number| Fetched::Whole { digest: Digest([number; 32]), doubtful: false, cut: false };
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
            bench.ends("web", Exit::Code(1));
            assert_eq!(bench.code("one"), Some(Code::Start), "{:?}", bench.jobs["one"].outcome);
        }
        assert!(bench.agents.is_empty() && bench.state.agents.get("web").is_none(), "step {fails}");
    }
    let mut bench = Bench::new(Vec::new());
    bench.offer(vec![package("one", "web", 1, false)]);
    bench.step(Event::Fetched(id(), digest(2)));
    assert_eq!(bench.code("one"), Some(Code::Checksum));

    // What fetched it may lie, and may have been taken over: what counts is what lies there in the end.
    for (found, code) in [
        (Verified::Sound(Digest([2; 32])), Code::Checksum),
        (Verified::Hostile("somebody can write to it".into()), Code::Refused),
        (Verified::Unknown("the disk is broken".into()), Code::Install),
    ] {
        let mut bench = Bench::new(Vec::new());
        bench.offer(vec![package("one", "web", 1, false)]);
        bench.step(Event::Fetched(id(), digest(1)));
        bench.step(Event::Verified(id(), found));
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
fn a_download_that_brings_nothing_is_given_up_and_one_that_goes_on_is_not() {
    for progress in [false, true] {
        let mut bench = Bench::new(Vec::new());
        bench.offer(vec![package("one", "web", 1, false)]);
        for _ in 0..8 {
            bench
                .step(Event::Fetched("one".into(), Fetched::Cut { reason: "cut".into(), progress, retry_after: None }));
            bench.step(Event::Replied(Reply::Jobs { errcode: Some(0), jobs: Vec::new() }));
            bench.pass(secs(60));
        }
        assert_eq!(bench.code("one"), if progress { None } else { Some(Code::Download) });
    }
}

#[test]
fn pauses_between_downloads_grow_and_a_server_may_ask_for_more() {
    let cut = |progress, retry_after| Fetched::Cut { reason: "cut".into(), progress, retry_after };
    let mut bench = Bench::new(Vec::new());
    bench.offer(vec![package("one", "web", 1, false)]);
    for (progress, retry_after, pause) in [
        (false, None, 1),
        (false, None, 2),
        (false, None, 4),
        (false, None, 8),
        (false, None, 16),
        (false, None, 32),
        (false, None, 60),
        (true, None, 1),
        (false, None, 1),
        (false, Some(1), 2),
        (false, Some(100), 100),
        (false, Some(1_000_000), 3600),
        (true, Some(7), 7),
    ] {
        bench.step(Event::Fetched("one".into(), cut(progress, retry_after)));
        let told = &bench.state.entries(bench.now)[0].progress;
        assert_eq!(**told, *format!("download interrupted, tried again in {pause} s: cut"));
        let fetches = |bench: &mut Bench| bench.take(|action| matches!(action, Action::Fetch(_)).then_some(())).len();
        fetches(&mut bench);
        bench.pass(secs(pause - 1) + Duration::from_millis(999));
        bench.hear();
        assert_eq!(fetches(&mut bench), 0, "after less than {pause} s");
        bench.pass(Duration::from_millis(1));
        assert_eq!(fetches(&mut bench), 1, "after {pause} s");
    }
}

#[test]
fn where_exchanges_are_signed_no_header_makes_a_host_wait_for_long() {
    for (keyed, pause) in [(false, 3600), (true, 60)] {
        let mut bench = Bench::new(Vec::new());
        bench.begin_with(Options { keyed, ..options() }, None, None);
        bench.offer(vec![package("one", "web", 1, false)]);
        let cut = Fetched::Cut { reason: "busy".into(), progress: true, retry_after: Some(1_000_000) };
        bench.step(Event::Fetched("one".into(), cut));
        let told = &bench.state.entries(bench.now)[0].progress;
        assert_eq!(**told, *format!("download interrupted, tried again in {pause} s: busy"));
    }
}

#[test]
fn what_an_earlier_daemon_began_to_install_is_verified_with_the_keys_of_now() {
    for (found, want) in [
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
        bench.step(Event::Fetched("next".into(), Fetched::Whole { digest, doubtful: false, cut: false }));
        bench.step(Event::Verified("next".into(), Verified::Sound(digest)));
        bench.step(Event::Placed("next".into(), Ok(())));
        assert_eq!(bench.state.phase_of("next"), Some(Phase::Installing));
        bench.begin_with(Options { signed: true, ..options() }, None, None);
        let unpacks = |bench: &Bench| bench.done.iter().any(|action| matches!(action, Action::Unpack { .. }));
        assert!(!unpacks(&bench), "{:?}", bench.done);
        assert!(bench.done.iter().any(|action| matches!(action, Action::Verify(..))), "{:?}", bench.done);
        bench.step(Event::Verified("next".into(), found));
        assert_eq!((bench.code("next"), unpacks(&bench)), (want, want.is_none()));
    }
}

#[test]
fn slow_downloads_take_turns() {
    let mut bench = Bench::new(Vec::new());
    bench.offer(vec![package("one", "a", 1, false)]);
    bench.pass(secs(100_000));
    let turns = |bench: &mut Bench| {
        bench.take(|action| match action {
            Action::Fetch(id) => Some(format!("+{id}")),
            Action::StopFetch(id) => Some(format!("-{id}")),
            _ => None,
        })
    };
    assert_eq!(turns(&mut bench), ["+one"], "nobody waits for it");
    bench.offer(vec![package("two", "b", 1, false), package("three", "c", 1, false)]);
    let mut seen = Vec::new();
    // The first has had its turn long ago.
    for (slow, context) in [("one", 0), ("two", 600), ("three", 600), ("one", 600), ("two", 600)] {
        bench.pass(secs(context));
        seen.extend(turns(&mut bench));
        let cut = Fetched::Cut { reason: "others wait".into(), progress: true, retry_after: None };
        bench.step(Event::Fetched(slow.into(), cut));
    }
    seen.extend(turns(&mut bench));
    assert_eq!(seen, ["-one", "+two", "-two", "+three", "-three", "+one", "-one", "+two", "-two", "+three"]);
    // One that does not end at once is told so again, and no sooner.
    bench.pass(secs(1199));
    assert_eq!(turns(&mut bench), ["-three"]);
}

#[test]
fn what_is_doubtful_is_fetched_once_more() {
    let whole = |number, doubtful| Fetched::Whole { digest: Digest([number; 32]), doubtful, cut: false };
    let cut = |number| Fetched::Whole { digest: Digest([number; 32]), doubtful: true, cut: true };
    for (fetches, want) in [
        (&[whole(2, false)][..], Some(Code::Checksum)),
        (&[whole(2, true)], None),
        (&[whole(2, true), whole(2, true)], Some(Code::Checksum)),
        (&[whole(2, true), whole(2, false)], Some(Code::Checksum)),
    ] {
        // In between it may be cut short, and goes on behind that.
        for cuts in [0, 1, 7] {
            let mut bench = Bench::new(Vec::new());
            bench.offer(vec![package("one", "web", 1, false)]);
            for number in 0..cuts {
                bench.step(Event::Fetched("one".into(), cut(2)));
                let dropped = bench.take(|action| matches!(action, Action::RemoveDownload(_)).then_some(()));
                assert!(dropped.is_empty() && bench.code("one").is_none(), "{number}");
                bench.pass(secs(60));
            }
            for fetched in fetches {
                bench.step(Event::Fetched("one".into(), fetched.clone()));
            }
            assert_eq!(bench.code("one"), want, "{fetches:?} after {cuts}");
        }
        let mut bench = Bench::new(Vec::new());
        bench.offer(vec![package("one", "web", 1, false)]);
        for fetched in fetches {
            bench.step(Event::Fetched("one".into(), fetched.clone()));
        }
        assert_eq!(bench.code("one"), want, "{fetches:?}");
        let actions = bench.take(|action| match action {
            Action::RemoveDownload(_) => Some("drop"),
            Action::Fetch(_) => Some("fetch"),
            _ => None,
        });
        // Nothing of it is left when it is fetched again, and at its end.
        assert!(actions.ends_with(if want.is_some() { &["drop"] } else { &["drop", "fetch"] }), "{actions:?}");
    }
}

#[test]
fn an_upgrade_that_does_not_stay_up_is_undone() {
    let mut bench = Bench::installed("web");
    bench.offer(vec![package("next", "web", 2, true)]);
    bench.bring("next", 2);
    bench.ends("web", Exit::Signal(Sig::TERM));
    bench.step(Event::Placed("next".into(), Ok(())));
    bench.pass(secs(5));
    bench.ends("web", Exit::Code(1));
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
fn an_undo_does_not_start_what_somebody_has_stopped() {
    let mut bench = Bench::installed("web");
    bench.offer(vec![package("next", "web", 2, true)]);
    bench.bring("next", 2);
    bench.ends("web", Exit::Signal(Sig::TERM));
    bench.step(Event::Placed("next".into(), Ok(())));
    bench.step(Event::Command(Client(1), Command::Stop("web".into())));
    bench.ends("web", Exit::Signal(Sig::TERM));
    bench.step(Event::Placed("next".into(), Ok(())));
    bench.step(Event::Inspected("next".into(), Ok(Some(Box::new(spec("web"))))));
    assert_eq!(bench.code("next"), Some(Code::RolledBack), "{:?}", bench.jobs["next"]);
    assert_eq!(bench.life("web"), AgentState::Down);
    assert_eq!(bench.agents["web"].wanted, Some(Wanted::Down));
}

#[test]
fn an_agent_whose_file_goes_while_a_job_is_undone_goes_too() {
    let mut bench = Bench::new(vec![spec("web")]);
    let source = Source { url: "http://p/a.deb".into(), digest: Digest([1; 32]), format: Format::Deb };
    bench.offer(vec![job("deb", "web", JobAction::Install(source))]);
    bench.step(Event::Fetched("deb".into(), Fetched::Whole { digest: Digest([1; 32]), doubtful: false, cut: false }));
    bench.step(Event::Verified("deb".into(), Verified::Sound(Digest([1; 32]))));
    bench.step(Event::Placed("deb".into(), Ok(())));
    let tool = |bench: &mut Bench, output: &str| {
        // What asks whether the package is there is told that it is not.
        let asks = bench.take(|action| match action {
            Action::Tool(_, tool) => Some(&*tool.argv[0] == "sh"),
            _ => None,
        });
        let exit = Exit::Code(i32::from(asks.last() == Some(&true)));
        bench.step(Event::ToolDone { owner: ToolOwner::Job("deb".into()), exit, output: output.into() });
    };
    tool(&mut bench, "Package: web-package\nVersion: 1\n");
    while bench.jobs["deb"].phase < Phase::Starting {
        tool(&mut bench, "");
        bench.step(Event::Inspected("deb".into(), Ok(None)));
    }
    bench.ends("web", Exit::Signal(Sig::TERM));
    bench.ends("web", Exit::Code(1));
    assert_eq!(bench.jobs["deb"].phase, Phase::Installing, "{:?}", bench.jobs["deb"]);
    // The package that is being removed has a definition too, which is all there is for now.
    let mut own = spec("web");
    own.autostart = false;
    let good = vec![Definition { origin: Origin::Package, spec: Box::new(own) }];
    bench.step(Event::Definitions { good, problems: Vec::new(), whole: true });
    tool(&mut bench, "");
    bench.step(Event::Inspected("deb".into(), Ok(None)));
    assert_eq!(bench.code("deb"), Some(Code::Start), "{:?}", bench.jobs["deb"]);
    bench.ends("web", Exit::Signal(Sig::TERM));
    assert!(bench.state.agents().next().is_none(), "{:?}", bench.state.agents().collect::<Vec<_>>());
}

#[test]
fn an_agent_whose_file_goes_during_a_job_goes_after_it() {
    let mut bench = Bench::new(vec![spec("web")]);
    bench.offer(vec![job("again", "web", JobAction::Restart)]);
    let gone = || Event::Definitions { good: Vec::new(), problems: Vec::new(), whole: true };
    bench.step(gone());
    bench.ends("web", Exit::Signal(Sig::TERM));
    assert!(bench.runs("web") && !bench.done.contains(&Action::Reload), "{:?}", bench.done);
    bench.pass(secs(10));
    assert_eq!(bench.code("again"), Some(Code::Success));
    assert!(bench.done.contains(&Action::Reload), "{:?}", bench.done);
    bench.step(gone());
    bench.ends("web", Exit::Signal(Sig::TERM));
    assert!(bench.state.agents().next().is_none());
}

#[test]
fn an_interrupted_job_ends_as_it_would_have() {
    // As many events as come before the daemon dies; and whether it notes steps, which 1.0.0 does not.
    for (survived, noted) in (0..6).flat_map(|survived| [(survived, true), (survived, false)]) {
        let mut bench = Bench::installed("web");
        bench.offer(vec![package("next", "web", 2, true)]);
        let digest = Digest([2; 32]);
        let way = |bench: &mut Bench, count: usize| {
            for step in 0..count {
                match bench.phase("next") {
                    Some(Phase::Downloading) => {
                        bench.step(Event::Fetched(
                            "next".into(),
                            Fetched::Whole { digest, doubtful: false, cut: false },
                        ));
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
                    Some(Phase::Starting) if !matches!(bench.life("web"), AgentState::Down) => {
                        bench.ends("web", Exit::Signal(Sig::TERM));
                    }
                    Some(Phase::Starting) => bench.step(Event::Placed("next".into(), Ok(()))),
                    Some(Phase::Settling) => bench.pass(secs(10)),
                    _ => return assert!(count > 10, "over at step {step}"),
                }
            }
        };
        way(&mut bench, survived);
        if !noted {
            bench.forget_steps();
        }
        bench.begin_anew();
        way(&mut bench, 20);
        assert_eq!(bench.code("next"), Some(Code::Success), "after {survived}: {:?}", bench.jobs["next"]);
        assert!(bench.runs("web"), "after {survived}");
    }
}

#[test]
fn what_was_begun_before_signatures_were_asked_for_is_held_and_then_refused() {
    let digest = Digest([2; 32]);
    let fetched = || Event::Fetched("next".into(), Fetched::Whole { digest, doubtful: false, cut: false });
    let verified = || Event::Verified("next".into(), Verified::Sound(digest));
    let placed = || Event::Placed("next".into(), Ok(()));
    // As many events as come before the daemon dies.
    for survived in 0..4 {
        let way = [fetched(), verified(), placed()];
        let mut bench = Bench::installed("web");
        bench.offer(vec![package("next", "web", 2, true)]);
        way.iter().take(survived).for_each(|event| bench.step(event.clone()));
        // By defaults in place of a bad configuration nothing goes on, and nobody waits for it without end.
        bench.begin_with(Options { closed: Some("it is bad".into()), ..options() }, None, None);
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
        let entries = bench.state.entries(bench.now);
        let entry = entries.iter().find(|entry| &*entry.id == "next").unwrap();
        assert_eq!(&*entry.progress, "waits for a good configuration", "after {survived}");
        // The job brings a definition, and has no signature.
        bench.begin_with(Options { signed: true, ..options() }, None, None);
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
        bench.step(Event::Fetched(
            "next".into(),
            Fetched::Whole { digest: Digest([2; 32]), doubtful: false, cut: false },
        ));
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
    bench.begin_anew();
    assert_eq!(bench.agents["web"].package.as_ref().map(|package| &*package.version), Some("2"));
    bench.step(Event::Unpacked("next".into(), Err("damaged".into())));
    bench.ends("web", Exit::Signal(Sig::TERM));
    bench.step(Event::Inspected("next".into(), Ok(Some(Box::new(spec("web"))))));
    bench.pass(secs(10));
    assert_eq!(bench.code("next"), Some(Code::Install));
    assert_eq!(bench.agents["web"].package.as_ref().map(|package| &*package.version), Some("1"));
    assert!(bench.runs("web"));
}

#[test]
fn a_resumed_job_goes_on_at_once() {
    let mut bench = Bench::new(Vec::new());
    bench.offer(vec![package("one", "web", 1, false)]);
    assert_eq!(bench.jobs["one"].phase, Phase::Downloading);
    bench.begin_anew();
    assert!(bench.done.contains(&Action::Fetch("one".into())), "{:?}", bench.done);
}

#[test]
fn jobs_of_an_agent_run_in_order_and_those_of_others_do_not_wait() {
    let mut bench = Bench::new(vec![spec("web"), spec("log")]);
    let (mut first, second) = (job("1", "web", JobAction::Restart), job("2", "web", JobAction::Start));
    first.window = secs(1000);
    bench.offer(vec![first, second, job("3", "log", JobAction::Start)]);
    assert_eq!((bench.jobs["1"].phase, bench.jobs["2"].phase), (Phase::Received, Phase::Received));
    bench.pass(secs(10));
    assert_eq!(bench.code("3"), Some(Code::Success));
    bench.step(Event::Replied(Reply::Taken));
    // The one that is not the first has no time of its own, whatever its window says.
    bench.pass(secs(1000));
    bench.ends("web", Exit::Signal(Sig::TERM));
    bench.pass(secs(20));
    assert_eq!((bench.code("1"), bench.code("2")), (Some(Code::Success), Some(Code::Success)));
}

#[test]
fn a_window_that_has_come_is_no_deadline_for_a_job_that_waits() {
    let mut bench = Bench::new(vec![spec("web")]);
    let mut late = job("2", "web", JobAction::Start);
    late.window = secs(5);
    bench.offer(vec![package("1", "web", 1, true), late]);
    bench.step(Event::OrphanReaped);
    bench.pass(secs(300));
    assert_eq!(bench.jobs["1"].phase, Phase::Downloading);
    assert!(bench.state.deadline().is_none_or(|at| at > bench.now.time));
}

#[test]
fn a_job_that_is_not_begun_in_time_expires() {
    let mut bench = Bench::new(vec![spec("web")]);
    let mut late = job("2", "web", JobAction::Start);
    late.expires = Some(secs(30));
    bench.offer(vec![package("1", "web", 1, true), late]);
    bench.pass(secs(29));
    assert_eq!(bench.code("2"), None);
    bench.pass(secs(1));
    assert_eq!(bench.code("2"), Some(Code::Expired));
}

#[test]
fn a_stop_cancels_what_was_queued_before_it_also_after_a_restart() {
    let waiting = |id| {
        let mut waiting = job(id, "web", JobAction::Start);
        waiting.window = secs(100_000);
        waiting
    };
    let mut bench = Bench::new(vec![spec("web")]);
    bench.offer(vec![waiting("1"), job("2", "web", JobAction::Stop)]);
    assert_eq!(bench.code("1"), Some(Code::Expired));
    assert!(bench.jobs["1"].outcome.as_ref().is_some_and(|outcome| outcome.message.contains("\"2\"")));

    let mut bench = Bench::new(vec![spec("web")]);
    bench.offer(vec![waiting("1")]);
    let mut record = bench.jobs["1"].clone();
    (record.id, record.text, record.seq) = ("2".into(), "2".into(), record.seq + 1);
    bench.jobs.insert("2".into(), record);
    bench.orders.push(job("2", "web", JobAction::Stop));
    bench.begin_anew();
    assert_eq!(bench.code("1"), Some(Code::Expired), "the daemon died between the two");
}

#[test]
fn a_stop_that_somebody_takes_back_ends() {
    let mut bench = Bench::new(vec![spec("web")]);
    bench.offer(vec![job("1", "web", JobAction::Stop)]);
    bench.step(Event::Command(Client(1), Command::Start("web".into())));
    assert_eq!(bench.code("1"), Some(Code::Expired));
    bench.ends("web", Exit::Signal(Sig::TERM));
    assert!(bench.runs("web"));
}

#[test]
fn an_upgrade_holds_against_a_start_meanwhile() {
    let mut bench = Bench::installed("web");
    bench.offer(vec![package("next", "web", 2, true)]);
    bench.bring("next", 2);
    bench.step(Event::Command(Client(1), Command::Restart("web".into())));
    bench.take(starts);
    bench.ends("web", Exit::Signal(Sig::TERM));
    assert!(bench.done.contains(&Action::Link("next".into(), "web".into(), "2".into())), "{:?}", bench.done);
    bench.step(Event::Placed("next".into(), Ok(())));
    bench.pass(secs(10));
    assert_eq!(bench.code("next"), Some(Code::Success));
}

#[test]
fn a_restart_meanwhile_undoes_no_upgrade_and_is_waited_for() {
    let mut bench = Bench::installed("web");
    bench.offer(vec![package("next", "web", 2, true)]);
    bench.bring("next", 2);
    bench.ends("web", Exit::Signal(Sig::TERM));
    bench.step(Event::Placed("next".into(), Ok(())));
    bench.step(Event::Command(Client(1), Command::Start("web".into())));
    bench.step(Event::Command(Client(2), Command::Restart("web".into())));
    bench.take(answers);
    bench.ends("web", Exit::Signal(Sig::TERM));
    assert_eq!((bench.code("next"), bench.take(answers)), (None, Vec::new()), "neither is over with the first start");
    bench.pass(secs(10));
    assert_eq!(bench.code("next"), Some(Code::Success));
    assert_eq!(bench.take(answers), [(1, 0), (2, 0)]);
}

#[test]
fn what_is_removed_while_somebody_starts_it_is_ended() {
    let mut bench = Bench::installed("web");
    bench.offer(vec![package("next", "web", 3, true)]);
    bench.step(Event::Fetched("next".into(), Fetched::Refused { reason: "not there".into() }));
    bench.offer(vec![job("gone", "web", JobAction::Uninstall)]);
    bench.ends("web", Exit::Signal(Sig::TERM));
    assert_eq!(bench.code("gone"), Some(Code::Success));
    assert!(bench.agents.is_empty() && bench.state.agents.get("web").is_none());

    let mut bench = Bench::installed("web");
    bench.state.forget("web", bench.now, &mut Vec::new());
    assert!(matches!(bench.life("web"), AgentState::Stopping(_)), "it runs, and is ended before it is forgotten");
    bench.ends("web", Exit::Signal(Sig::TERM));
    assert!(bench.state.agents.get("web").is_none());
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
    bench.bring("1", 1);
    bench.ends("web", Exit::Signal(Sig::TERM));
    bench.step(Event::Placed("1".into(), Ok(())));
    bench.pass(secs(100));
    assert_eq!(bench.jobs["1"].phase, Phase::Settling, "not healthy yet");
    bench.pass(secs(910));
    bench.step(Event::Checked("web".into(), Exit::Code(0), "".into()));
    assert_eq!(bench.code("1"), Some(Code::Success));
}

/// A job's way as the host sees it: what is done for it, word by word, and answered as it should be, but for question number
/// `fails`, counted from 0.
fn way(bench: &mut Bench, id: &str, fails: Option<usize>) -> Vec<String> {
    let mut words = Vec::new();
    let mut questions = 0;
    while bench.code(id).is_none() {
        let done = std::mem::take(&mut bench.done);
        let mut answer = None;
        for action in &done {
            let question = |word: &str, good, bad| (word.to_string(), Some((good, bad)));
            let placed = |result| Event::Placed(id.into(), result);
            let (word, asked) = match action {
                Action::SaveJob(record) => (format!("{}:", record.phase.name()), None),
                Action::Fetch(_) => {
                    let digest = match &bench.state.job(id).unwrap().action {
                        JobAction::Install(source) | JobAction::Upgrade(source) => source.digest,
                        _ => panic!("{id} has no package"),
                    };
                    let refused = Fetched::Refused { reason: "gone".into() };
                    let whole = Fetched::Whole { digest, doubtful: false, cut: false };
                    question("Fetch", Event::Fetched(id.into(), whole), Event::Fetched(id.into(), refused))
                }
                Action::PlacePackage(..) => question("Place", placed(Ok(())), placed(Err("full".into()))),
                Action::Rename { .. } => question("Rename", placed(Ok(())), placed(Err("full".into()))),
                Action::Link(_, _, dir) => question(&format!("Link {dir}"), placed(Ok(())), placed(Err("full".into()))),
                Action::Verify(_, _, file) => {
                    let digest = Digest([u8::from_str_radix(&file[..2], 16).unwrap(); 32]);
                    let bad = Verified::Hostile("not signed".into());
                    let good = Verified::Sound(digest);
                    question("Verify", Event::Verified(id.into(), good), Event::Verified(id.into(), bad))
                }
                Action::Unpack { .. } => question(
                    "Unpack",
                    Event::Unpacked(id.into(), Ok(())),
                    Event::Unpacked(id.into(), Err("damaged".into())),
                ),
                Action::Inspect { .. } => {
                    let own = || Some(Box::new(spec("web")));
                    let (good, bad) = (Ok(own()), Err("a bad one".into()));
                    question("Inspect", Event::Inspected(id.into(), good), Event::Inspected(id.into(), bad))
                }
                Action::Tool(owner, tool) => {
                    let last = tool.argv.last().and_then(|word| word.rsplit('/').next()).unwrap_or_default();
                    let option = tool.argv.iter().find(|word| ["-i", "-P", "-f"].contains(&&***word));
                    let ended = |code, output: &str| {
                        let output = format!("{output}: -{code}").into();
                        Event::ToolDone { owner: owner.clone(), exit: Exit::Code(code), output }
                    };
                    // A question for what is there is answered with no.
                    let good = i32::from(option.is_none());
                    let word = format!("{} {last}", option.map_or("query", |option| option));
                    question(&word, ended(good, "Package: pkg\nVersion: 7\n"), ended(2, "broken"))
                }
                Action::Signal(..) => ("Signal".to_string(), None),
                Action::Start(_) => ("Start".to_string(), None),
                Action::SaveAgent(_) => ("SaveAgent".to_string(), None),
                Action::RemoveAgent(_) => ("DropAgent".to_string(), None),
                Action::RemovePackage(..) => ("DropPackage".to_string(), None),
                _ => continue,
            };
            if let Some((good, bad)) = asked {
                answer = Some(if fails == Some(questions) { bad } else { good });
                let failed = if fails == Some(questions) { "!" } else { "" };
                words.push(format!("{word}{failed}"));
                questions += 1;
            } else {
                words.push(word);
            }
        }
        match answer {
            Some(event) => bench.step(event),
            None if matches!(bench.life("web"), AgentState::Stopping(_)) => bench.ends("web", Exit::Signal(Sig::TERM)),
            None => bench.pass(secs(10)),
        }
        assert!(words.len() < 100, "{words:?}");
    }
    words
}

/// The words from the one that failed on, up to the last record of the job.
fn after_failure(words: &[String]) -> String {
    let first = words.iter().position(|word| word.ends_with('!')).unwrap_or(words.len());
    words[first..].join(" ")
}

#[test]
fn each_kind_of_package_goes_its_way_and_back() {
    let deb = |number: u8| {
        let mut job = package("next", "web", number, true);
        let source = Source { url: "http://p/a.deb".into(), digest: Digest([number; 32]), format: Format::Deb };
        job.action = JobAction::Upgrade(source);
        job
    };
    let back_to_tar = "DropPackage Inspect SaveAgent starting: Start settling:";
    let tar = (
        package("next", "web", 2, true),
        "downloading: Fetch verified: Verify Place installing: Unpack Inspect Rename SaveAgent starting: Signal Link 2 \
         Start settling:",
        vec![
            (Code::Download, "Fetch!".to_string()),
            (Code::Refused, "Verify!".to_string()),
            (Code::Install, "Place!".to_string()),
            (Code::Install, "Unpack!".to_string()),
            (Code::BadJob, "Inspect!".to_string()),
            (Code::Install, "Rename!".to_string()),
            (Code::RolledBack, format!("Link 2! installing: Link 1 {back_to_tar}")),
        ],
    );
    let install = "-i 0202020202020202.deb";
    let back = format!("installing: Signal -P pkg Link 1 {back_to_tar}");
    let package = (
        deb(2),
        &*format!(
            "downloading: Fetch verified: Verify Place -f Version query pkg installing: {install} Inspect SaveAgent starting: \
             Signal Start settling:"
        ),
        vec![
            (Code::Download, "Fetch!".to_string()),
            (Code::Refused, "Verify!".to_string()),
            (Code::Install, "Place!".to_string()),
            (Code::Install, "-f Version!".to_string()),
            // Who asks and hears of no package goes on.
            (Code::Success, String::new()),
            (Code::RolledBack, format!("{install}! {back}")),
            (Code::RolledBack, format!("Inspect! {back}")),
        ],
    );
    for (job, forward, failures) in [tar, package] {
        let mut bench = Bench::installed("web");
        bench.done.clear();
        bench.offer(vec![job.clone()]);
        let words = way(&mut bench, "next", None).join(" ");
        assert_eq!(words, format!("received: {forward}"), "{:?}", bench.jobs["next"]);
        for (fails, (code, want)) in failures.into_iter().enumerate() {
            let mut bench = Bench::installed("web");
            bench.done.clear();
            bench.offer(vec![job.clone()]);
            let words = way(&mut bench, "next", Some(fails));
            assert_eq!(bench.code("next"), Some(code), "{fails}: {words:?} {:?}", bench.jobs["next"]);
            if code != Code::Success {
                assert_eq!(after_failure(&words), want, "{fails}");
                assert!(bench.runs("web"), "{fails}");
                assert_eq!(bench.agents["web"].package.as_ref().map(|package| &*package.version), Some("1"));
            }
        }
    }
}
