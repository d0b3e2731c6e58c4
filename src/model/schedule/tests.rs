use super::*;

#[test]
fn server_lists() {
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
        ("ftp://a:1", Err("http://")),
        ("http://u:p@a:1", Err("user")),
        ("http://u@a:1", Err("user")),
        ("a:1/x?y", Err("path")),
        ("a:0,b:1,c", Err("port of 1..65535, got \"0\"; server \"c\": want host:port")),
    ] {
        match (parse_servers(list), want) {
            (Ok(got), Ok(want)) => assert_eq!(got.iter().map(|s| &*s.base).collect::<Vec<_>>(), want, "{list}"),
            (Err(got), Err(want)) => assert!(got.contains(want), "{list}: {got}"),
            (got, want) => panic!("{list}: got {got:?}, want {want:?}"),
        }
    }
}

fn pace(servers: &str, step: u64) -> ExchangeSchedule {
    let servers = parse_servers(servers).unwrap();
    ExchangeSchedule::new(servers, Vec::new(), Duration::from_secs(step), Duration::ZERO, 7, Time::default())
}

fn asked(pace: &mut ExchangeSchedule, now: Time, results: bool) -> Option<(ExchangeKind, String)> {
    pace.next(now, results).map(|(talk, server)| (talk, server.base.trim_start_matches("http://").to_string()))
}

#[test]
fn reports_come_every_step_with_five_percent_of_jitter() {
    let mut pace = pace("a:1", 600);
    let mut now = Time::default();
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..1000 {
        assert_eq!(asked(&mut pace, now, false), Some((ExchangeKind::Status, "a:1".into())));
        assert_eq!(pace.answered(true, None, now), (Some(ExchangeKind::Status), Round::Good));
        let next = pace.deadline(None).unwrap();
        let wait = next.since(now).as_secs_f64();
        assert!((570.0..=630.0).contains(&wait), "{wait}");
        seen.insert(wait as u64);
        assert_eq!(pace.next(Time(next.0 - 1), false), None);
        now = next;
    }
    assert!(seen.len() > 40, "{seen:?}");
}

#[test]
fn the_first_report_is_within_the_splay() {
    for seed in 0..100 {
        let servers = parse_servers("a:1").unwrap();
        let splay = Duration::from_secs(30);
        let pace = ExchangeSchedule::new(servers, Vec::new(), Duration::from_secs(600), splay, seed, Time::new(5, 0));
        let first = pace.deadline(None).unwrap().since(Time::new(5, 0));
        assert!(first <= splay, "{first:?}");
    }
}

#[test]
fn a_common_start_is_spread_within_hours() {
    let step = 600;
    let count = 1000;
    let mut due: Vec<(ExchangeSchedule, Time)> = (0..count)
        .map(|seed| {
            let mut pace = pace("a:1", step);
            (pace.random, pace.jitter_phase) = (Random(seed), seed as f64 / count as f64);
            (pace, Time::default())
        })
        .collect();
    for report in 1..=20 {
        for (pace, now) in &mut due {
            assert!(pace.next(*now, false).is_some());
            pace.answered(true, None, *now);
            *now = pace.deadline(None).unwrap();
        }
        let mut minutes = std::collections::BTreeMap::new();
        due.iter().for_each(|(_, at)| *minutes.entry(at.0 / 60_000_000_000).or_insert(0) += 1);
        // A step has ten minutes; with a jitter that begins anew each time it would be 300 after 20 reports.
        let most = minutes.values().max().copied().unwrap_or(0);
        assert!(report < 8 || most < 250, "{most} in one minute, {report} reports after the start");
        assert!(report < 20 || most < 120, "{most} in one minute, {report} reports after the start");
    }
}

#[test]
fn agents_that_are_started_do_not_defeat_the_splay() {
    let splay = Duration::from_secs(30);
    for seed in 0..100 {
        let mut pace = ExchangeSchedule::new(
            parse_servers("a:1").unwrap(),
            Vec::new(),
            Duration::from_secs(600),
            splay,
            seed,
            Time(1),
        );
        let first = pace.deadline(None);
        pace.changed(Time(1));
        assert_eq!(pace.deadline(None), first);
        let first = first.unwrap();
        assert_eq!(asked(&mut pace, Time(first.0 - 1), false), None);
        assert_eq!(asked(&mut pace, first, false), Some((ExchangeKind::Status, "a:1".into())));
        pace.answered(true, None, first);
        assert!(pace.deadline(None) >= Some(first + Duration::from_secs(570)), "it was in the first report");
    }
}

#[test]
fn hosts_that_were_sent_away_until_one_moment_come_back_one_by_one() {
    for (wait, spread) in [(100, 100), (3600, 600)] {
        let mut late = Vec::new();
        for seed in 0..200 {
            let mut pace = pace("a:1", 600);
            pace.random = Random(seed);
            pace.next(Time::default(), false);
            pace.answered(false, Some(wait), Time::default());
            let backoff = pace.deadline(None).unwrap();
            assert_eq!(pace.next(backoff, true), None);
            let back = pace.deadline(Some(Time::default())).unwrap();
            assert!(pace.next(back, true).is_some());
            late.push(back.since(Time::new(wait, 0)).as_secs());
            assert!(back >= Time::new(wait, 0), "{back:?}");
        }
        late.sort_unstable();
        assert!(late[20] < spread / 5 && late[180] > spread * 4 / 5 && late[199] <= spread, "{late:?}");
    }
}

#[test]
fn a_round_asks_every_server_once_and_stays_with_the_one_that_answers() {
    let mut pace = pace("a:1,b:1,c:1,a:1", 600);
    let now = Time::default();
    assert_eq!(asked(&mut pace, now, false), Some((ExchangeKind::Status, "a:1".into())));
    assert_eq!(asked(&mut pace, now, false), None, "one exchange at a time");
    assert_eq!(pace.answered(false, None, now).1, Round::Next);
    assert_eq!(asked(&mut pace, now, false), Some((ExchangeKind::Status, "b:1".into())));
    assert_eq!(pace.answered(true, None, now).1, Round::Good);
    let now = pace.deadline(None).unwrap();
    for (server, round) in [("b:1", Round::Next), ("c:1", Round::Next), ("a:1", Round::Failed)] {
        assert_eq!(asked(&mut pace, now, false), Some((ExchangeKind::Status, server.into())));
        assert_eq!(pace.answered(false, None, now).1, round);
    }
    assert!(pace.deadline(None).unwrap() > now);
}

#[test]
fn how_long_no_server_took_a_report_is_known_while_none_does() {
    let mut pace = pace("a:1", 600);
    let at = |seconds| Time::default() + Duration::from_secs(seconds);
    for (now, good, want) in [(0, true, None), (700, false, Some(750)), (1400, false, Some(1450)), (2100, true, None)] {
        assert_eq!(asked(&mut pace, at(now), false), Some((ExchangeKind::Status, "a:1".into())));
        pace.answered(good, None, at(now));
        assert_eq!(pace.silence(at(now + 50)), want.map(Duration::from_secs), "{now}");
    }
    let mut next = self::pace("a:1", 600);
    next.go_on(pace.times(), at(2300));
    assert_eq!(next.times().heard, at(2100));
}

#[test]
fn failed_rounds_wait_longer_up_to_the_step() {
    for (step, caps) in [(600, vec![10, 20, 40, 80, 160, 320, 600, 600, 600]), (4, vec![4, 4, 4])] {
        for seed in 0..200 {
            let mut pace = pace("a:1", step);
            pace.random = Random(seed);
            let mut now = Time::default();
            for cap in &caps {
                assert!(pace.next(now, false).is_some());
                pace.answered(false, None, now);
                let wait = pace.deadline(None).unwrap().since(now);
                assert!(wait <= Duration::from_secs(*cap), "{wait:?} {cap}");
                now = pace.deadline(None).unwrap();
            }
        }
    }
}

#[test]
fn results_go_first_and_never_hold_up_a_status() {
    let mut pace = pace("a:1", 600);
    let now = Time::default();
    assert_eq!(asked(&mut pace, now, true), Some((ExchangeKind::Results, "a:1".into())));
    assert_eq!(pace.answered(false, None, now).1, Round::Failed);
    assert_eq!(asked(&mut pace, now, true), Some((ExchangeKind::Status, "a:1".into())));
    assert_eq!(pace.answered(true, None, now).1, Round::Good);
    assert_eq!(asked(&mut pace, now, true), Some((ExchangeKind::Results, "a:1".into())), "a server answers again");
}

#[test]
fn a_server_that_asks_for_peace_gets_it() {
    let mut pace = pace("a:1,b:1", 600);
    let now = Time::default();
    pace.next(now, false);
    assert_eq!(pace.answered(false, Some(100), now).1, Round::Next);
    pace.next(now, false);
    assert_eq!(pace.answered(false, Some(999_999), now).1, Round::Failed);
    let soon = now + Duration::from_secs(50);
    pace.hurry();
    assert_eq!(pace.next(soon, false), None);
    assert!(pace.deadline(None).unwrap() >= now + Duration::from_secs(100));
    let later = now + Duration::from_secs(100);
    pace.hurry();
    assert_eq!(asked(&mut pace, later, false), Some((ExchangeKind::Status, "a:1".into())));
    assert_eq!(pace.answered(false, None, later).1, Round::Failed, "b is held for an hour");
    let after = now + Duration::from_secs(3600);
    pace.hurry();
    pace.next(after, false);
    assert_eq!(pace.answered(false, None, after).1, Round::Next);
}

#[test]
fn extra_statuses_are_ten_seconds_apart() {
    let mut pace = pace("a:1", 600);
    let mut now = Time::default();
    pace.next(now, false);
    pace.answered(true, None, now);
    pace.changed(now);
    assert_eq!(pace.deadline(None), Some(now));
    assert!(pace.next(now, false).is_some());
    pace.changed(now);
    pace.answered(true, None, now);
    assert_eq!(pace.deadline(None), Some(Time::new(10, 0)));
    now = Time::new(9, 0);
    assert_eq!(pace.next(now, false), None);
    assert!(pace.next(Time::new(10, 0), false).is_some());
}

#[test]
fn a_list_on_trial_is_asked_once_each() {
    let mut pace = pace("a:1", 600);
    let now = Time::default();
    pace.try_given(parse_servers("x:1,y:1").unwrap());
    assert_eq!(asked(&mut pace, now, true), Some((ExchangeKind::Trial, "x:1".into())));
    assert_eq!(pace.answered(false, None, now), (Some(ExchangeKind::Trial), Round::Next));
    assert_eq!(asked(&mut pace, now, true), Some((ExchangeKind::Trial, "y:1".into())));
    assert_eq!(pace.answered(false, None, now), (Some(ExchangeKind::Trial), Round::Failed));
    assert_eq!(asked(&mut pace, now, false), Some((ExchangeKind::Status, "a:1".into())));
}

#[test]
fn without_servers_there_is_nothing_to_wait_for() {
    let mut pace = pace("", 600);
    assert_eq!(pace.deadline(Some(Time::default())), None);
    pace.changed(Time::default());
    assert_eq!(pace.deadline(None), None);
}
