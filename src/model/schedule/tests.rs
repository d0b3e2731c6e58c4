use super::*;

#[test]
fn server_lists_are_read() {
    for (list, want) in [
        ("", Ok(vec![])),
        (" a:1 ,, b.c:65535,", Ok(vec!["http://a:1", "http://b.c:65535"])),
        ("http://a/x/", Ok(vec!["http://a/x"])),
        ("http://a:8080/", Ok(vec!["http://a:8080"])),
        ("a:0", Err("port")),
        ("a:65536", Err("port")),
        ("a:+80", Err("port")),
        ("a", Err("host:port")),
        (":80", Err("host name")),
        ("a:1;b:2", Err("commas")),
        ("a:1 b:2", Err("commas")),
        ("[::1]:80", Err("IPv6")),
        ("::1:80", Err("IPv6")),
        ("HTTP://a:1", Ok(vec!["http://a:1"])),
        ("ftp://a:1", Err("http://")),
        ("http://u:p@a:1", Err("user")),
        ("http://u@a:1", Err("user")),
        ("a:1/x?y", Err("path")),
        ("http://u:p/w@a:1", Err("server: a user")),
        ("a:1/x y", Err("commas")),
        ("a:1/x#y", Err("path")),
        ("gopher://a:1", Err("http://")),
        ("a:0,b:1,c", Err("\"a:0\": want a port of 1..65535; server \"c\": want host:port")),
    ] {
        match (parse_servers(list), want) {
            (Ok(got), Ok(want)) => assert_eq!(got.iter().map(|s| &*s.base).collect::<Vec<_>>(), want, "{list}"),
            (Err(got), Err(want)) => assert!(got.contains(want), "{list}: {got}"),
            (got, want) => panic!("{list}: got {got:?}, want {want:?}"),
        }
    }
}

fn schedule(servers: &str, step: u64) -> ExchangeSchedule {
    let servers = parse_servers(servers).unwrap();
    ExchangeSchedule::new(servers, Vec::new(), Duration::from_secs(step), Duration::ZERO, 7, Time::default())
}

fn ask(schedule: &mut ExchangeSchedule, now: Time, results: bool) -> Option<(ExchangeKind, String)> {
    schedule.next(now, results).map(|(kind, server)| (kind, server.base.trim_start_matches("http://").to_string()))
}

#[test]
fn reports_come_every_step_with_five_percent_of_jitter() {
    let mut schedule = schedule("a:1", 600);
    let mut now = Time::default();
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..1000 {
        assert_eq!(ask(&mut schedule, now, false), Some((ExchangeKind::Status, "a:1".into())));
        assert_eq!(schedule.answered(true, None, now), (Some(ExchangeKind::Status), Round::Good));
        let next = schedule.deadline(None).unwrap();
        let wait = next.since(now).as_secs_f64();
        assert!((570.0..=630.0).contains(&wait), "{wait}");
        seen.insert(wait as u64);
        assert_eq!(schedule.next(Time(next.0 - 1), false), None);
        now = next;
    }
    assert!(seen.len() > 40, "{seen:?}");
}

#[test]
fn the_first_report_is_within_the_splay() {
    for seed in 0..100 {
        let servers = parse_servers("a:1").unwrap();
        let splay = Duration::from_secs(30);
        let schedule =
            ExchangeSchedule::new(servers, Vec::new(), Duration::from_secs(600), splay, seed, Time::new(5, 0));
        let first = schedule.deadline(None).unwrap().since(Time::new(5, 0));
        assert!(first <= splay, "{first:?}");
    }
}

#[test]
fn hosts_that_started_together_drift_apart_within_hours() {
    let step = 600;
    let count = 1000;
    let mut due: Vec<(ExchangeSchedule, Time)> = (0..count)
        .map(|seed| {
            let mut schedule = schedule("a:1", step);
            (schedule.random, schedule.jitter_phase) = (Random(seed), seed as f64 / count as f64);
            (schedule, Time::default())
        })
        .collect();
    for report in 1..=20 {
        for (schedule, now) in &mut due {
            assert!(schedule.next(*now, false).is_some());
            schedule.answered(true, None, *now);
            *now = schedule.deadline(None).unwrap();
        }
        let mut minutes = std::collections::BTreeMap::new();
        due.iter().for_each(|(_, at)| *minutes.entry(at.0 / 60_000_000_000).or_insert(0) += 1);
        // A step has ten minutes. With an independent jitter each time there would be 300 in a minute after 20 reports.
        let most = minutes.values().max().copied().unwrap_or(0);
        assert!(report < 8 || most < 250, "{most} in one minute, {report} reports after the start");
        assert!(report < 20 || most < 120, "{most} in one minute, {report} reports after the start");
    }
}

#[test]
fn the_start_of_agents_does_not_bring_the_first_report_forward() {
    let splay = Duration::from_secs(30);
    for seed in 0..100 {
        let mut schedule = ExchangeSchedule::new(
            parse_servers("a:1").unwrap(),
            Vec::new(),
            Duration::from_secs(600),
            splay,
            seed,
            Time(1),
        );
        let first = schedule.deadline(None);
        schedule.changed(Time(1));
        assert_eq!(schedule.deadline(None), first);
        let first = first.unwrap();
        assert_eq!(ask(&mut schedule, Time(first.0 - 1), false), None);
        assert_eq!(ask(&mut schedule, first, false), Some((ExchangeKind::Status, "a:1".into())));
        schedule.answered(true, None, first);
        assert!(
            schedule.deadline(None) >= Some(first + Duration::from_secs(570)),
            "the first report had the change already"
        );
    }
}

#[test]
fn hosts_that_were_given_the_same_retry_after_come_back_one_by_one() {
    for (wait, spread) in [(100, 100), (3600, 600)] {
        let mut late = Vec::new();
        for seed in 0..200 {
            let mut schedule = schedule("a:1", 600);
            schedule.random = Random(seed);
            schedule.next(Time::default(), false);
            schedule.answered(false, Some(wait), Time::default());
            let backoff = schedule.deadline(None).unwrap();
            assert_eq!(schedule.next(backoff, true), None);
            let back = schedule.deadline(Some(Time::default())).unwrap();
            assert!(schedule.next(back, true).is_some());
            late.push(back.since(Time::new(wait, 0)).as_secs());
            assert!(back >= Time::new(wait, 0), "{back:?}");
        }
        late.sort_unstable();
        assert!(late[20] < spread / 5 && late[180] > spread * 4 / 5 && late[199] <= spread, "{late:?}");
    }
}

#[test]
fn a_round_asks_every_server_once_and_the_next_begins_with_the_one_that_answered() {
    let mut schedule = schedule("a:1,b:1,c:1,a:1", 600);
    let now = Time::default();
    assert_eq!(ask(&mut schedule, now, false), Some((ExchangeKind::Status, "a:1".into())));
    assert_eq!(ask(&mut schedule, now, false), None, "one exchange at a time");
    assert_eq!(schedule.answered(false, None, now).1, Round::Next);
    assert_eq!(ask(&mut schedule, now, false), Some((ExchangeKind::Status, "b:1".into())));
    assert_eq!(schedule.answered(true, None, now).1, Round::Good);
    let now = schedule.deadline(None).unwrap();
    for (server, round) in [("b:1", Round::Next), ("c:1", Round::Next), ("a:1", Round::Failed)] {
        assert_eq!(ask(&mut schedule, now, false), Some((ExchangeKind::Status, server.into())));
        assert_eq!(schedule.answered(false, None, now).1, round);
    }
    assert!(schedule.deadline(None).unwrap() > now);
}

#[test]
fn the_silence_is_known_while_no_server_takes_a_report() {
    let mut schedule = schedule("a:1", 600);
    let at = |seconds| Time::default() + Duration::from_secs(seconds);
    for (now, good, want) in [(0, true, None), (700, false, Some(750)), (1400, false, Some(1450)), (2100, true, None)] {
        assert_eq!(ask(&mut schedule, at(now), false), Some((ExchangeKind::Status, "a:1".into())));
        schedule.answered(good, None, at(now));
        assert_eq!(schedule.silence(at(now + 50)), want.map(Duration::from_secs), "{now}");
    }
    let mut next = self::schedule("a:1", 600);
    next.resume(schedule.times(), at(2300));
    assert_eq!(next.times().heard, at(2100));
}

#[test]
fn the_wait_after_failed_rounds_grows_up_to_the_step() {
    for (step, caps) in [(600, vec![10, 20, 40, 80, 160, 320, 600, 600, 600]), (4, vec![4, 4, 4])] {
        for seed in 0..200 {
            let mut schedule = schedule("a:1", step);
            schedule.random = Random(seed);
            let mut now = Time::default();
            for cap in &caps {
                assert!(schedule.next(now, false).is_some());
                schedule.answered(false, None, now);
                let wait = schedule.deadline(None).unwrap().since(now);
                assert!(wait <= Duration::from_secs(*cap), "{wait:?} {cap}");
                now = schedule.deadline(None).unwrap();
            }
        }
    }
}

#[test]
fn results_go_first_and_do_not_delay_a_status() {
    let mut schedule = schedule("a:1", 600);
    let now = Time::default();
    assert_eq!(ask(&mut schedule, now, true), Some((ExchangeKind::Results, "a:1".into())));
    assert_eq!(schedule.answered(false, None, now).1, Round::Failed);
    assert_eq!(ask(&mut schedule, now, true), Some((ExchangeKind::Status, "a:1".into())));
    assert_eq!(schedule.answered(true, None, now).1, Round::Good);
    assert_eq!(ask(&mut schedule, now, true), Some((ExchangeKind::Results, "a:1".into())), "a server answers again");
}

#[test]
fn a_server_is_not_asked_before_its_retry_after_has_passed() {
    let mut schedule = schedule("a:1,b:1", 600);
    let now = Time::default();
    schedule.next(now, false);
    assert_eq!(schedule.answered(false, Some(100), now).1, Round::Next);
    schedule.next(now, false);
    assert_eq!(schedule.answered(false, Some(999_999), now).1, Round::Failed);
    let soon = now + Duration::from_secs(50);
    schedule.request_report();
    assert_eq!(schedule.next(soon, false), None);
    assert!(schedule.deadline(None).unwrap() >= now + Duration::from_secs(100));
    let later = now + Duration::from_secs(100);
    schedule.request_report();
    assert_eq!(ask(&mut schedule, later, false), Some((ExchangeKind::Status, "a:1".into())));
    assert_eq!(schedule.answered(false, None, later).1, Round::Failed, "b is not asked for an hour");
    let after = now + Duration::from_secs(3600);
    schedule.request_report();
    schedule.next(after, false);
    assert_eq!(schedule.answered(false, None, after).1, Round::Next);
}

#[test]
fn extra_statuses_are_ten_seconds_apart() {
    let mut schedule = schedule("a:1", 600);
    let mut now = Time::default();
    schedule.next(now, false);
    schedule.answered(true, None, now);
    schedule.changed(now);
    assert_eq!(schedule.deadline(None), Some(now));
    assert!(schedule.next(now, false).is_some());
    schedule.changed(now);
    schedule.answered(true, None, now);
    assert_eq!(schedule.deadline(None), Some(Time::new(10, 0)));
    now = Time::new(9, 0);
    assert_eq!(schedule.next(now, false), None);
    assert!(schedule.next(Time::new(10, 0), false).is_some());
}

#[test]
fn each_server_of_a_list_on_trial_is_asked_once() {
    let mut schedule = schedule("a:1", 600);
    let now = Time::default();
    schedule.try_servers(parse_servers("x:1,y:1").unwrap());
    assert_eq!(ask(&mut schedule, now, true), Some((ExchangeKind::Trial, "x:1".into())));
    assert_eq!(schedule.answered(false, None, now), (Some(ExchangeKind::Trial), Round::Next));
    assert_eq!(ask(&mut schedule, now, true), Some((ExchangeKind::Trial, "y:1".into())));
    assert_eq!(schedule.answered(false, None, now), (Some(ExchangeKind::Trial), Round::Failed));
    assert_eq!(ask(&mut schedule, now, false), Some((ExchangeKind::Status, "a:1".into())));
}

#[test]
fn without_servers_nothing_is_due() {
    let mut schedule = schedule("", 600);
    assert_eq!(schedule.deadline(Some(Time::default())), None);
    schedule.changed(Time::default());
    assert_eq!(schedule.deadline(None), None);
}

#[test]
fn the_address_that_answered_comes_first_and_one_that_failed_last() {
    let mut schedule = schedule("a:1", 10);
    let server = Server { base: "http://a:1".into() };
    let peer = |first, failed: &[u64]| Peer { first, failed: failed.to_vec(), unreadable: false };
    // What an exchange has reached, whether it was good, whether the server asked for a pause; and what is known then.
    for (reached, good, pause, first, failed) in [
        (None, false, None, None, &[][..]),
        (Some(1), false, None, None, &[1]),
        (Some(2), false, None, None, &[1, 2]),
        (Some(3), true, None, Some(3), &[1, 2]),
        (None, false, None, Some(3), &[1, 2]),
        (Some(3), false, Some(5), Some(3), &[1, 2]),
        (Some(1), false, None, Some(3), &[2, 1]),
        (Some(3), false, None, None, &[2, 1, 3]),
        (Some(1), true, None, Some(1), &[2, 3]),
        (None, true, None, Some(1), &[2, 3]),
    ] {
        let mut now = schedule.deadline(None).unwrap();
        while ask(&mut schedule, now, false).is_none() {
            now = now + Duration::from_secs(1);
        }
        reached.into_iter().for_each(|address| schedule.reached(address));
        schedule.answered(good, pause, now);
        assert_eq!(schedule.peer(&server), peer(first, failed), "{reached:?} {good}");
    }
    let many = (10..10 + 2 * peers::FAILED_MAX as u64).chain([1]);
    for address in many {
        let mut now = schedule.deadline(None).unwrap();
        while ask(&mut schedule, now, false).is_none() {
            now = now + Duration::from_secs(1);
        }
        schedule.reached(address);
        schedule.answered(false, None, now);
    }
    let Peer { first, failed, .. } = schedule.peer(&server);
    assert_eq!((first, failed.len(), failed.last()), (None, peers::FAILED_MAX, Some(&1)));
}

#[test]
fn a_server_with_an_unreadable_answer_is_asked_again_at_once() {
    let mut schedule = schedule("a:1,b:1", 10);
    let b = Server { base: "http://b:1".into() };
    let now = Time::default();
    assert!(!schedule.ask_again(), "none is asked yet");
    assert_eq!(ask(&mut schedule, now, false), Some((ExchangeKind::Status, "a:1".into())));
    schedule.answered(false, None, now);
    assert_eq!(ask(&mut schedule, now, false), Some((ExchangeKind::Status, "b:1".into())));
    assert!(schedule.ask_again());
    assert_eq!(ask(&mut schedule, now, false), Some((ExchangeKind::Status, "b:1".into())), "by the other client");
    assert!(!schedule.ask_again(), "only once");
    schedule.reached(7);
    schedule.answered(true, None, now);
    let known = Peer { first: Some(7), failed: vec![], unreadable: true };
    assert_eq!(schedule.peer(&b), known);

    let mut next = self::schedule("b:1", 10);
    next.resume(schedule.times(), now);
    assert_eq!(next.peer(&b), known, "over a reexec");
    for number in 0..2 * REMEMBERED_MAX {
        next.try_servers(parse_servers(&format!("t{number}:1")).unwrap());
        ask(&mut next, now, false);
        next.reached(8);
        next.answered(false, None, now);
    }
    assert_eq!(next.times().peers.len(), REMEMBERED_MAX);
    assert_eq!(next.peer(&b), known, "its list is not on trial");
}

#[test]
fn the_server_that_answered_on_trial_is_asked_next() {
    for (answers, next) in [([false, true], "c:1"), ([true, true], "b:1")] {
        let mut schedule = schedule("a:1", 600);
        let now = Time::default();
        let list = parse_servers("b:1,c:1").unwrap();
        schedule.try_servers(list.clone());
        for good in answers {
            if schedule.deadline(None) == Some(now) && schedule.next(now, false).is_some() {
                schedule.answered(good, None, now);
            }
        }
        schedule.set_servers(list);
        assert_eq!(schedule.server().map(|server| &*server.base), Some(&*format!("http://{next}")));
    }
}
