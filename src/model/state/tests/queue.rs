//! The order of jobs: which wait for which, and for how long.

use super::*;

#[test]
fn jobs_of_an_agent_run_in_order_and_those_of_others_do_not_wait() {
    let mut bench = Bench::new(vec![spec("web"), spec("log")]);
    let (mut first, second) = (Job::new("1", "web", JobAction::Restart), Job::new("2", "web", JobAction::Start));
    first.window = secs(1000);
    bench.offer(vec![first, second, Job::new("3", "log", JobAction::Start)]);
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
    let mut late = Job::new("2", "web", JobAction::Start);
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
    let mut late = Job::new("2", "web", JobAction::Start);
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
        let mut waiting = Job::new(id, "web", JobAction::Start);
        waiting.window = secs(100_000);
        waiting
    };
    let mut bench = Bench::new(vec![spec("web")]);
    bench.offer(vec![waiting("1"), Job::new("2", "web", JobAction::Stop)]);
    assert_eq!(bench.code("1"), Some(Code::Expired));
    assert!(bench.jobs["1"].outcome.as_ref().is_some_and(|outcome| outcome.message.contains("\"2\"")));

    let mut bench = Bench::new(vec![spec("web")]);
    bench.offer(vec![waiting("1")]);
    let mut record = bench.jobs["1"].clone();
    (record.id, record.text, record.seq) = ("2".into(), "2".into(), record.seq + 1);
    bench.jobs.insert("2".into(), record);
    bench.offered.push(Job::new("2", "web", JobAction::Stop));
    bench.restart_daemon();
    assert_eq!(bench.code("1"), Some(Code::Expired), "the daemon died between the two");
}
