//! The downloads of jobs: attempts, pauses, and who may download at the same time.

use super::*;

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
        let progress = &bench.state.entries()[0].progress;
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
        let progress = &bench.state.entries()[0].progress;
        assert_eq!(**progress, *format!("download of http://p/a.tar interrupted, tried again in {pause} s: busy"));
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
    let whole = |number, doubtful| Fetched::Whole { digest: Digest([number; 32]), doubtful };
    for (fetches, want) in [
        (&[whole(2, false)][..], Some(Code::Checksum)),
        (&[whole(2, true)], None),
        (&[whole(2, true), whole(2, true)], Some(Code::Checksum)),
        (&[whole(2, true), whole(2, false)], Some(Code::Checksum)),
    ] {
        // In between it may be cut short, and continues behind what is there.
        for cuts in [1, 7] {
            let mut bench = Bench::new(Vec::new());
            bench.offer(vec![package("one", "web", 1, false)]);
            for number in 0..cuts {
                let cut = Fetched::Cut { reason: "cut".into(), progress: false, retry_after: None };
                bench.step(Event::Fetched("one".into(), cut));
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
