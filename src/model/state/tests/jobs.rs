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
        bench.offer(vec![job("one", "web", order)]);
        bench.pass(secs(9));
        bench.agent_ends("web", Exit::Code(1));
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
fn a_download_without_progress_is_given_up_and_one_with_progress_is_not() {
    for progress in [false, true] {
        let mut bench = Bench::new(Vec::new());
        bench.offer(vec![package("one", "web", 1, false)]);
        for _ in 0..8 {
            bench
                .step(Event::Fetched("one".into(), Fetched::Cut { reason: "cut".into(), progress, retry_after: None }));
            bench.step(Event::Replied(Reply::Jobs { errcode: Some(0), jobs: Vec::new(), cancel: Vec::new() }));
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
        let progress = &bench.state.entries(bench.now)[0].progress;
        assert_eq!(**progress, *format!("download of http://p/a.tar interrupted, tried again in {pause} s: cut"));
        let fetches = |bench: &mut Bench| bench.take(|action| matches!(action, Action::Fetch(_)).then_some(())).len();
        fetches(&mut bench);
        bench.pass(secs(pause - 1) + Duration::from_millis(999));
        bench.answer_status();
        assert_eq!(fetches(&mut bench), 0, "after less than {pause} s");
        bench.pass(Duration::from_millis(1));
        assert_eq!(fetches(&mut bench), 1, "after {pause} s");
    }
}

#[test]
fn no_unsigned_header_makes_a_host_with_a_key_wait_for_long() {
    for (keyed, pause) in [(false, 3600), (true, 60)] {
        let mut bench = Bench::new(Vec::new());
        bench.start_with(Options { keyed, ..options() }, None, None);
        bench.offer(vec![package("one", "web", 1, false)]);
        let cut = Fetched::Cut { reason: "busy".into(), progress: true, retry_after: Some(1_000_000) };
        bench.step(Event::Fetched("one".into(), cut));
        let progress = &bench.state.entries(bench.now)[0].progress;
        assert_eq!(**progress, *format!("download of http://p/a.tar interrupted, tried again in {pause} s: busy"));
    }
}

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
        bench.step(Event::Fetched("next".into(), Fetched::Whole { digest, doubtful: false, cut: false }));
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
    assert_eq!(turns(&mut bench), ["+one"], "no other waits for it");
    bench.offer(vec![package("two", "b", 1, false), package("three", "c", 1, false)]);
    let mut seen = Vec::new();
    // The first one has been at it for longer than its turn.
    for (slow, seconds) in [("one", 0), ("two", 600), ("three", 600), ("one", 600), ("two", 600)] {
        bench.pass(secs(seconds));
        seen.extend(turns(&mut bench));
        let cut = Fetched::Cut { reason: "others wait".into(), progress: true, retry_after: None };
        bench.step(Event::Fetched(slow.into(), cut));
    }
    seen.extend(turns(&mut bench));
    assert_eq!(seen, ["-one", "+two", "-two", "+three", "-three", "+one", "-one", "+two", "-two", "+three"]);
    // One that does not end at once is cut off again after its next turn.
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
        // In between it may be cut short, and continues behind what is there.
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
        // The download is removed before it is fetched again, and at the end of the job.
        assert!(actions.ends_with(if want.is_some() { &["drop"] } else { &["drop", "fetch"] }), "{actions:?}");
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
    bench.offer(vec![job("deb", "web", JobAction::Install(source))]);
    bench.step(Event::Fetched("deb".into(), Fetched::Whole { digest: Digest([1; 32]), doubtful: false, cut: false }));
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
    bench.offer(vec![job("again", "web", JobAction::Restart)]);
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
fn an_interrupted_job_ends_as_it_would_have() {
    // How many events come before the daemon dies; and whether it records steps, which 1.0.0 does not.
    for (survived, with_steps) in (0..6).flat_map(|survived| [(survived, true), (survived, false)]) {
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
                    Some(Phase::Starting) if !matches!(bench.agent_state("web"), AgentState::Down) => {
                        bench.agent_ends("web", Exit::Signal(Sig::TERM));
                    }
                    Some(Phase::Starting) => bench.step(Event::Placed("next".into(), Ok(()))),
                    Some(Phase::Settling) => bench.pass(secs(10)),
                    _ => return assert!(count > 10, "over at step {step}"),
                }
            }
        };
        way(&mut bench, survived);
        if !with_steps {
            bench.forget_steps();
        }
        bench.restart_daemon();
        way(&mut bench, 20);
        assert_eq!(bench.code("next"), Some(Code::Success), "after {survived}: {:?}", bench.jobs["next"]);
        assert!(bench.runs("web"), "after {survived}");
    }
}

#[test]
fn a_job_from_before_signatures_were_needed_waits_and_is_then_refused() {
    let digest = Digest([2; 32]);
    let fetched = || Event::Fetched("next".into(), Fetched::Whole { digest, doubtful: false, cut: false });
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
        let entries = bench.state.entries(bench.now);
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
    // A job that is not the first has no deadline, whatever its window says.
    bench.pass(secs(1000));
    bench.agent_ends("web", Exit::Signal(Sig::TERM));
    bench.pass(secs(20));
    assert_eq!((bench.code("1"), bench.code("2")), (Some(Code::Success), Some(Code::Success)));
}

#[test]
fn a_window_that_has_come_is_no_deadline_for_a_job_that_waits() {
    let mut bench = Bench::new(vec![spec("web")]);
    let mut late = job("2", "web", JobAction::Start);
    late.window = secs(5);
    bench.offer(vec![package("1", "web", 1, true), late]);
    bench.step(Event::ProcessesChanged);
    bench.pass(secs(300));
    assert_eq!(bench.jobs["1"].phase, Phase::Downloading);
    assert!(bench.state.deadline().is_none_or(|at| at > bench.now.time));
}

#[test]
fn a_job_that_does_not_begin_in_time_expires() {
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
    bench.offered.push(job("2", "web", JobAction::Stop));
    bench.restart_daemon();
    assert_eq!(bench.code("1"), Some(Code::Expired), "the daemon died between the two");
}

#[test]
fn a_stop_ends_when_the_operator_starts_the_agent() {
    let mut bench = Bench::new(vec![spec("web")]);
    bench.offer(vec![job("1", "web", JobAction::Stop)]);
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
    bench.offer(vec![job("gone", "web", JobAction::Uninstall)]);
    bench.agent_ends("web", Exit::Signal(Sig::TERM));
    assert_eq!(bench.code("gone"), Some(Code::Success));
    assert!(bench.agents.is_empty() && bench.state.agents.get("web").is_none());

    let mut bench = Bench::installed("web");
    bench.state.forget("web", bench.now, &mut Vec::new());
    assert!(
        matches!(bench.agent_state("web"), AgentState::Stopping(_)),
        "it runs, and is stopped before it is forgotten"
    );
    bench.agent_ends("web", Exit::Signal(Sig::TERM));
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
    bench.deliver("1", 1);
    bench.agent_ends("web", Exit::Signal(Sig::TERM));
    bench.step(Event::Placed("1".into(), Ok(())));
    bench.pass(secs(100));
    assert_eq!(bench.jobs["1"].phase, Phase::Settling, "not healthy yet");
    bench.pass(secs(910));
    bench.step(Event::Checked("web".into(), Exit::Code(0), "".into()));
    assert_eq!(bench.code("1"), Some(Code::Success));
}

/// An action as a word, and what can be answered to it: well and badly. `None`: the action is of no interest here.
pub(super) fn describe(bench: &Bench, id: &str, action: &Action) -> Option<(String, Option<(Event, Event)>)> {
    let question = |word: &str, good, bad| Some((word.to_string(), Some((good, bad))));
    let placed = |result| Event::Placed(id.into(), result);
    let place = |word: &str| question(word, placed(Ok(())), placed(Err("full".into())));
    let word = match action {
        Action::Fetch(_) => {
            let digest = match &bench.state.job(id).unwrap().action {
                JobAction::Install(source) | JobAction::Upgrade(source) => source.digest,
                _ => panic!("{id} has no package"),
            };
            let whole = Fetched::Whole { digest, doubtful: false, cut: false };
            let refused = Fetched::Refused { reason: "gone".into() };
            return question("Fetch", Event::Fetched(id.into(), whole), Event::Fetched(id.into(), refused));
        }
        Action::PlacePackage(..) => return place("Place"),
        Action::Rename { .. } => return place("Rename"),
        Action::Link(_, _, dir) => return place(&format!("Link {dir}")),
        Action::Verify(_, _, file) => {
            let good = Verified::Sound(Digest([u8::from_str_radix(&file[..2], 16).unwrap(); 32]));
            let bad = Verified::Hostile("not signed".into());
            return question("Verify", Event::Verified(id.into(), good), Event::Verified(id.into(), bad));
        }
        Action::Unpack { .. } => {
            let unpacked = |result| Event::Unpacked(id.into(), result);
            return question("Unpack", unpacked(Ok(())), unpacked(Err("damaged".into())));
        }
        Action::Inspect { .. } => {
            let inspected = |result| Event::Inspected(id.into(), result);
            return question("Inspect", inspected(Ok(Some(Box::new(spec("web"))))), inspected(Err("a bad one".into())));
        }
        Action::Tool(owner, tool) => {
            let last = tool.argv.last().and_then(|word| word.rsplit('/').next()).unwrap_or_default();
            let option = tool.argv.iter().find(|word| ["dpkg -i", "-r", "-f", "query", "clear"].contains(&&***word));
            let ended = |code, output: &str| {
                let output = output.into();
                Event::ToolDone { owner: owner.clone(), exit: Exit::Code(code), output }
            };
            let option = option.map_or("look", |option| option);
            let output = match option {
                "query" if bench.installed => "7\n",
                "query" | "clear" => "",
                _ => "Package: pkg\nVersion: 7\n",
            };
            let last = if option == "clear" { "" } else { last };
            return question(format!("{option} {last}").trim_end(), ended(0, output), ended(2, "broken"));
        }
        Action::SaveJob(record) => return Some((format!("{}:", record.phase.name()), None)),
        Action::Signal(..) => "Signal",
        Action::Start(_) => "Start",
        Action::SaveAgent(_) => "SaveAgent",
        Action::RemoveAgent(_) => "DropAgent",
        Action::RemovePackage(..) => "DropPackage",
        _ => return None,
    };
    Some((word.to_string(), None))
}

/// What a job does, as the host sees it: a word for each action. Each question is answered well, but for number
/// `fails`, counted from 0.
fn way(bench: &mut Bench, id: &str, fails: Option<usize>) -> Vec<String> {
    let mut words = Vec::new();
    let mut questions = 0;
    while bench.code(id).is_none() {
        let mut answer = None;
        for action in std::mem::take(&mut bench.done) {
            match describe(bench, id, &action) {
                Some((word, Some((good, bad)))) => {
                    let failed = fails == Some(questions);
                    // What the package manager has.
                    bench.installed =
                        !failed && word.starts_with("dpkg -i") || bench.installed && !word.starts_with("-r");
                    words.push(if failed { format!("{word}!") } else { word });
                    answer = Some(if failed { bad } else { good });
                    questions += 1;
                }
                Some((word, None)) => words.push(word),
                None => {}
            }
        }
        match answer {
            Some(event) => bench.step(event),
            None if matches!(bench.agent_state("web"), AgentState::Stopping(_)) => {
                bench.agent_ends("web", Exit::Signal(Sig::TERM));
            }
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
fn each_kind_of_package_is_installed_and_undone() {
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
    let install = "dpkg -i pkg";
    let back = format!("installing: Signal -r pkg query pkg Link 1 {}", back_to_tar.replace("Start", "clear Start"));
    let package = (
        deb(2),
        &*format!(
            "downloading: Fetch verified: Verify Place -f Version query pkg installing: {install} query pkg Inspect SaveAgent starting: \
             Signal clear Start settling:"
        ),
        vec![
            (Code::Download, "Fetch!".to_string()),
            (Code::Refused, "Verify!".to_string()),
            (Code::Install, "Place!".to_string()),
            (Code::Install, "-f Version!".to_string()),
            (Code::Install, "query pkg!".to_string()),
            (Code::RolledBack, format!("{install}! query pkg {back}")),
            (Code::RolledBack, format!("query pkg! {back}")),
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
            assert_eq!(after_failure(&words), want, "{fails}");
            assert!(bench.runs("web"), "{fails}");
            assert_eq!(bench.agents["web"].package.as_ref().map(|package| &*package.version), Some("1"));
        }
    }
}
