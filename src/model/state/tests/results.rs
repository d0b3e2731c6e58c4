//! Records of jobs, how many there are, and how their results come to the servers.

use super::*;

// Records and bounds.

#[test]
fn a_job_whose_record_cannot_be_written_is_left_for_the_server() {
    let mut bench = Bench::new(vec![spec("web")]);
    bench.full = true;
    bench.offer(vec![Job::new("1", "web", JobAction::Stop)]);
    assert!(bench.state.job("1").is_none() && bench.runs("web"));
    bench.full = false;
    bench.offer(vec![Job::new("1", "web", JobAction::Stop)]);
    assert!(matches!(bench.agent_state("web"), AgentState::Stopping(_)));
    bench.full = true;
    bench.agent_ends("web", Exit::Signal(Sig::TERM));
    assert_eq!(bench.code("1"), None, "a result counts when it is on disk");
    bench.full = false;
    bench.pass(secs(10));
    assert_eq!(bench.code("1"), Some(Code::Success));
}

#[test]
fn jobs_stay_in_order_when_the_record_of_one_cannot_be_written() {
    let mut bench = Bench::new(vec![spec("web"), spec("other")]);
    let jobs = || {
        vec![
            Job::new("1", "web", JobAction::Stop),
            Job::new("2", "other", JobAction::Stop),
            Job::new("3", "web", JobAction::Start),
            Job::new("4", "other", JobAction::Start),
        ]
    };
    bench.unwritable = "1".into();
    bench.offer(jobs());
    assert!(["1", "3"].iter().all(|id| bench.state.job(id).is_none() && !bench.jobs.contains_key(*id)));
    assert!(["2", "4"].iter().all(|id| bench.jobs.contains_key(*id)), "jobs for others are done");
    assert!(bench.runs("web"));
    bench.unwritable = "".into();
    bench.offer(jobs());
    for name in ["other", "web"] {
        bench.agent_ends(name, Exit::Signal(Sig::TERM));
    }
    bench.pass(secs(20));
    assert!(bench.runs("web") && bench.runs("other"));
    assert!(["1", "2", "3", "4"].iter().all(|id| bench.code(id) == Some(Code::Success)));
}

#[test]
fn a_damaged_job_is_answered_and_never_run_again() {
    let mut bench = Bench::new(vec![spec("web")]);
    let recovered =
        Recovered { definitions: bench.definitions.clone(), damaged_jobs: vec!["1".into()], ..Recovered::default() };
    let mut out = Vec::new();
    bench.state = State::new(options(), recovered, bench.now, &mut out);
    bench.full = true;
    bench.answer(out);
    bench.offer(vec![Job::new("1", "web", JobAction::Stop)]);
    assert!(bench.runs("web"), "it is no new job because the disk is full");
    bench.full = false;
    bench.pass(secs(10));
    assert_eq!(bench.code("1"), Some(Code::Expired));
}

#[test]
fn a_job_is_run_once_however_often_it_is_offered() {
    let mut bench = Bench::new(vec![spec("web")]);
    let twice = || vec![Job::new("1", "web", JobAction::Restart), Job::new("1", "web", JobAction::Stop)];
    bench.offer(twice());
    bench.agent_ends("web", Exit::Signal(Sig::TERM));
    bench.pass(secs(10));
    bench.answer_status();
    assert_eq!(bench.take(results), [vec![("1".into(), Code::Success)]]);
    bench.step(Event::Replied(Reply::Failed { reason: "cut".into(), retry_after: None }));
    bench.offer(twice());
    bench.pass(secs(20));
    bench.answer_status();
    assert_eq!(bench.take(results).first(), Some(&vec![("1".into(), Code::Success)]), "sent again");
    bench.step(Event::Replied(Reply::Taken));
    assert_eq!(bench.jobs["1"].phase, Phase::Taken);
    bench.take(starts);
    bench.offer(twice());
    bench.restart_daemon();
    bench.take(starts);
    bench.offer(twice());
    bench.pass(secs(20));
    assert!(bench.runs("web") && bench.take(results).is_empty());
}

#[test]
fn open_jobs_and_remembered_ids_are_bounded() {
    let mut bench = Bench::new(vec![spec("web")]);
    let waiting = |number: usize| {
        let mut waiting = Job::new(&number.to_string(), "web", JobAction::Start);
        waiting.window = secs(1_000_000);
        waiting
    };
    bench.offer((0..OPEN_JOBS + 3).map(waiting).collect());
    assert_eq!((bench.state.jobs.open.len(), bench.jobs.len()), (OPEN_JOBS, OPEN_JOBS));

    let mut bench = Bench::new(Vec::new());
    let bad = |number: usize| {
        let (code, message) = (Code::BadJob, "action: missing".into());
        Err(RejectedJob { id: Some(number.to_string().into()), code, message, action: "".into(), name: "".into() })
    };
    let count = ENDED_JOBS + 100;
    for first in (0..count).step_by(64) {
        bench.reply_jobs((first..count.min(first + 64)).map(bad).collect());
        while bench.take(results).last().is_some() {
            bench.step(Event::Replied(Reply::Taken));
        }
    }
    let remembered = bench.state.jobs.remembered();
    assert_eq!(remembered.len(), ENDED_JOBS);
    assert!(!remembered.contains(&"0") && remembered.contains(&"100"));
}

// Results and servers.

#[test]
fn refused_results_never_keep_a_status_from_being_sent() {
    let mut bench = Bench::new(Vec::new());
    bench.answer_status();
    bench.offer((0..100).map(|n| Job::new(&format!("r{n}"), "nobody", JobAction::Stop)).collect());
    // Every exchange takes its time, and there is always a result that is due.
    let (mut statuses, mut refused) = (0, 0);
    for _ in 0..3000 {
        let results = bench.take(results).len();
        assert!(bench.is_asking() || results == 0);
        if bench.is_asking() && !bench.state.exchanges.sends_results() {
            statuses += 1;
            bench.step(Event::Replied(Reply::Jobs { errcode: Some(0), jobs: Vec::new(), cancel: Vec::new() }));
        } else if bench.is_asking() {
            refused += 1;
            bench.step(Event::Replied(Reply::NotTaken("errcode 1".into())));
        }
        bench.pass(secs(20));
    }
    // 60,000 s, and a status every 600 s.
    assert!((90..=110).contains(&statuses), "{statuses} statuses and {refused} refusals");
    assert!(refused > 1000, "{refused}");
}

#[test]
fn a_result_that_is_refused_goes_alone_and_holds_up_no_other() {
    let mut bench = Bench::new(Vec::new());
    bench.offer((0..70).map(|number| Job::new(&number.to_string(), "who", JobAction::Stop)).collect());
    let batch = bench.take(results).pop().unwrap();
    // The first result was sent as soon as it was there.
    let mut taken = batch.len();
    bench.step(Event::Replied(Reply::Taken));
    let batch = bench.take(results).pop().unwrap();
    assert_eq!(batch.len(), 64);
    bench.step(Event::Replied(Reply::NotTaken("errcode 1".into())));
    let mut alone = Vec::new();
    while let Some(results) = bench.take(results).pop() {
        if results.len() == 1 && &*results[0].0 == "7" {
            bench.step(Event::Replied(Reply::NotTaken("errcode 1".into())));
        } else {
            taken += results.len();
            bench.step(Event::Replied(Reply::Taken));
        }
        alone.push(results.len());
    }
    assert_eq!(taken, 69, "{alone:?}");
    assert_eq!(bench.state.jobs.open.len(), 1);
    bench.pass(secs(700));
    assert!(bench.state.exchanges.schedule.asking().is_some(), "it is tried again, and statuses go on");
}

#[test]
fn a_server_list_is_on_trial_first() {
    let config = || Job::new("1", "", JobAction::Config { servers: parse_servers("new:1,newer:2").ok(), step: None });
    let failed = || Event::Replied(Reply::Failed { reason: "not there".into(), retry_after: None });
    let good = |errcode| Event::Replied(Reply::Jobs { errcode, jobs: Vec::new(), cancel: Vec::new() });
    for (replies, code) in [
        (vec![good(Some(0))], Code::Success),
        (vec![failed(), good(Some(7))], Code::Success),
        (vec![failed(), failed()], Code::Download),
        (vec![good(None), good(None)], Code::Download),
    ] {
        let mut bench = Bench::new(Vec::new());
        bench.offer(vec![config()]);
        for reply in replies {
            bench.step(reply);
        }
        assert_eq!(bench.code("1"), Some(code));
        let given = if code == Code::Success { "http://new:1,http://newer:2" } else { "" };
        assert_eq!(&*bench.state.settings.svrlist, given);
    }
}

#[test]
fn a_server_with_an_unreadable_answer_is_asked_again_once() {
    let mut bench = Bench::new(vec![spec("web")]);
    let unreadable = || Event::Replied(Reply::Unreadable("bytes".into()));
    bench.offer(vec![Job::new("1", "web", JobAction::Stop)]);
    bench.agent_ends("web", Exit::Signal(Sig::TERM));
    bench.pass(secs(10));
    bench.answer_status();
    let sent = bench.take(results);
    assert_eq!(sent, [vec![("1".into(), Code::Success)]]);
    bench.step(unreadable());
    assert_eq!(bench.take(results), sent, "the same, to the same server, at once");
    bench.step(unreadable());
    assert!(bench.take(results).is_empty(), "a failed exchange");
    while bench.take(results).is_empty() {
        bench.pass(secs(60));
        bench.answer_status();
    }
    bench.step(Event::Replied(Reply::Taken));
    assert_eq!(bench.jobs["1"].phase, Phase::Taken);
}
