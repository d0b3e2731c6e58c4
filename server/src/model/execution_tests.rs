use super::*;

fn offered(version: Option<&str>) -> Execution {
    let mut execution = Execution::new(version.map(str::to_string), 0, 600);
    execution.step(Event::Offer { until: None }, 1000);
    execution
}

fn result(errcode: i64) -> Event {
    Event::Result { errcode, message: "m".into() }
}

#[test]
fn each_code_has_its_end() {
    for (errcode, state) in [
        (0, State::Verified),
        (1, State::Refused),
        (2, State::Refused),
        (3, State::Drift),
        (4, State::Retried),
        (5, State::Failed),
        (6, State::Failed),
        (7, State::Failed),
        (8, State::Failed),
        (9, State::Expired),
        (10, State::Refused),
        (77, State::Failed),
    ] {
        let mut execution = offered(None);
        execution.step(result(errcode), 1001);
        assert_eq!(execution.state, state, "{errcode}");
        assert_eq!(execution.ended, Some(1001));
    }
}

#[test]
fn a_download_is_tried_three_times() {
    let mut execution = offered(None);
    assert_eq!(execution.step(result(4), 1000), Some(Effect::Retry { not_before: 1600 }));
    let mut second = Execution { attempt: 2, ..offered(None) };
    assert_eq!(second.step(result(4), 1000), Some(Effect::Retry { not_before: 3400 }));
    let mut third = Execution { attempt: 3, ..offered(None) };
    assert_eq!(third.step(result(4), 1000), None);
    assert_eq!(third.state, State::Failed);
}

#[test]
fn a_version_is_seen_or_missed() {
    let report = |version: &str| Event::Report { open: Some(false), version: Some(version.into()) };
    let mut seen = offered(Some("2"));
    seen.step(result(0), 1001);
    assert_eq!(seen.state, State::Done);
    seen.step(report("1"), 1002);
    assert_eq!(seen.state, State::Done);
    seen.step(report("2"), 1003);
    assert_eq!(seen.state, State::Verified);
    let mut missed = offered(Some("2"));
    missed.step(result(0), 1001);
    missed.step(report("1"), 1001 + 1800);
    assert_eq!(missed.state, State::Mismatch);
}

#[test]
fn lost_by_silence_and_by_the_open_list() {
    let mut silent = offered(None);
    silent.step(Event::Tick { silent: true }, 1000 + 1799);
    assert_eq!(silent.state, State::Offered);
    silent.step(Event::Tick { silent: false }, 1000 + 1800);
    assert_eq!(silent.state, State::Offered);
    silent.step(Event::Tick { silent: true }, 1000 + 1800);
    assert_eq!(silent.state, State::Lost);
    silent.step(result(0), 9000);
    assert_eq!(silent.state, State::Verified);

    let mut unknown = offered(None);
    for at in 1..=3 {
        assert_eq!(unknown.state, State::Offered);
        unknown.step(Event::Report { open: Some(false), version: None }, 1000 + at);
    }
    assert_eq!(unknown.state, State::Lost);
}

#[test]
fn stuck_after_a_day() {
    let open = || Event::Report { open: Some(true), version: None };
    let mut execution = offered(None);
    execution.step(open(), 2000);
    assert_eq!((execution.state, execution.received), (State::Received, Some(2000)));
    execution.step(open(), 2000 + DAY - 1);
    assert_eq!(execution.state, State::Received);
    execution.step(open(), 2000 + DAY);
    assert_eq!(execution.state, State::Stuck);
}

#[test]
fn what_a_window_cut_off_is_made_anew_and_what_somebody_cancelled_is_not() {
    for (until, now, effect) in [
        (None, 5000, None),
        (Some(4000), 3999, None),
        (Some(4000), 4000, Some(Effect::Again)),
        (Some(4000), 9000, Some(Effect::Again)),
    ] {
        let mut execution = Execution::new(None, 0, 600);
        execution.step(Event::Offer { until }, 1000);
        assert_eq!(execution.step(result(9), now), effect, "{until:?} at {now}");
        assert_eq!(execution.state, State::Expired);
    }
}

#[test]
fn a_shut_window_is_told_while_it_waits() {
    let shut = || Event::Shut { text: "opens at ten".into() };
    let mut waiting = Execution::new(None, 0, 600);
    waiting.step(shut(), 1000);
    assert_eq!((waiting.state, waiting.reason.as_str()), (State::Waiting, "opens at ten"));
    let mut given = offered(None);
    given.step(shut(), 1000);
    assert_ne!(given.reason, "opens at ten");
}

#[test]
fn a_withdrawn_one_only_records_its_result() {
    let mut execution = offered(None);
    execution.step(Event::Cancel, 1001);
    execution.step(result(0), 1002);
    assert_eq!((execution.state, execution.errcode), (State::Withdrawn, Some(0)));
}

#[test]
fn the_first_result_wins() {
    let mut execution = offered(None);
    execution.step(result(6), 1001);
    assert_eq!(execution.step(result(6), 1002), None);
    assert!(matches!(execution.step(result(0), 1003), Some(Effect::Note(_))));
    assert_eq!((execution.state, execution.errcode), (State::Failed, Some(6)));
}

/// Some thousand lives with a fixed seed: whatever happens in whatever order, what must hold holds after each step.
#[test]
fn simulated_lives_keep_the_rules() {
    let mut seed: u64 = 42;
    let mut random = move |n: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % n
    };
    for life in 0..5000 {
        let mut execution = Execution::new((random(2) == 0).then(|| "2".to_string()), 0, 600);
        let mut now = 0;
        for _ in 0..30 {
            let before = execution.clone();
            now += i64::try_from(random(4000)).expect("a small number");
            let event = match random(6) {
                0 => Event::Offer { until: [None, Some(now + 600)][random(2) as usize] },
                1 => Event::Report { open: [None, Some(true), Some(false)][random(3) as usize], version: None },
                2 => Event::Report { open: None, version: Some(random(3).to_string()) },
                3 if random(3) == 0 => result(i64::try_from(random(11)).expect("a small number")),
                4 if random(5) == 0 => Event::Cancel,
                _ => Event::Tick { silent: random(2) == 0 },
            };
            let effect = execution.step(event.clone(), now);
            assert!(before.errcode.is_none() || execution.errcode == before.errcode, "life {life}: a result changed");
            assert_eq!(execution.state.is_open(), execution.ended.is_none(), "life {life}: {event:?} {execution:?}");
            let retried = matches!(effect, Some(Effect::Retry { .. }));
            assert_eq!(retried, execution.state == State::Retried && before.state != State::Retried, "life {life}");
            let reopened = !before.state.is_open() && execution.state.is_open();
            assert!(!reopened, "life {life}: {before:?} {event:?}");
            let has_deadline = matches!(execution.state, State::Offered | State::Received | State::Done);
            assert_eq!(execution.deadline.is_some(), has_deadline, "life {life}: {execution:?}");
        }
    }
}
