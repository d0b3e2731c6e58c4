//! Jobs that a server cancels, in each of their phases.

use super::*;

impl Bench {
    /// A server's reply that has these jobs and cancels job `one`.
    fn cancel(&mut self, jobs: Vec<Job>) {
        self.offered.extend(jobs.clone());
        while self.is_asking() && self.state.exchanges.sends_results() {
            self.step(Event::Replied(Reply::Taken));
        }
        if !self.is_asking() {
            self.state.exchanges.schedule.request_report();
            self.step(Event::ProcessesChanged);
        }
        let cancel = ["no such job", "one", "one"].map(JobId::from).to_vec();
        let jobs = jobs.into_iter().map(Ok).collect();
        self.step(Event::Replied(Reply::Jobs { errcode: Some(0), jobs, cancel }));
    }

    /// The ids that a report calls open.
    fn open(&self) -> Vec<JobId> {
        self.state.report(None).open
    }
}

fn id() -> JobId {
    "one".into()
}

fn cut() -> Event {
    Event::Fetched(id(), Fetched::Cut { reason: "cut".into(), progress: false, retry_after: None })
}

fn whole() -> Event {
    Event::Fetched(id(), Fetched::Whole { digest: Digest([1; 32]), doubtful: false })
}

fn sound() -> Event {
    Event::Verified(id(), Verified::Sound(Digest([1; 32])))
}

#[test]
fn a_job_that_has_changed_nothing_is_cancelled_and_one_that_is_further_goes_on() {
    // What happened before the cancel, what ends the step that is under way, and whether the job is cancelled.
    let cases: [(&str, Vec<Event>, Option<Event>, bool); 7] = [
        ("it is downloaded", vec![], None, true),
        ("the next attempt is awaited", vec![cut()], None, true),
        ("it is verified", vec![whole()], Some(sound()), true),
        ("it is placed", vec![whole(), sound()], Some(Event::Placed(id(), Ok(()))), true),
        ("it is unpacked", vec![whole(), sound(), Event::Placed(id(), Ok(()))], None, false),
        (
            "it is named",
            vec![
                whole(),
                sound(),
                Event::Placed(id(), Ok(())),
                Event::Unpacked(id(), Ok(())),
                Event::Inspected(id(), Ok(None)),
            ],
            None,
            false,
        ),
        (
            "it settles",
            vec![
                whole(),
                sound(),
                Event::Placed(id(), Ok(())),
                Event::Unpacked(id(), Ok(())),
                Event::Inspected(id(), Ok(None)),
                Event::Placed(id(), Ok(())),
                Event::Placed(id(), Ok(())),
            ],
            None,
            false,
        ),
    ];
    for (what, before, end, cancelled) in cases {
        // The same with a daemon that takes over in between, which is told again.
        for restarted in [false, true] {
            let mut bench = Bench::new(Vec::new());
            bench.offer(vec![package("one", "web", 1, false)]);
            before.iter().for_each(|event| bench.step(event.clone()));
            assert_eq!(bench.open(), [id()], "{what}");
            if restarted {
                bench.restart_daemon();
            }
            bench.cancel(Vec::new());
            if !restarted {
                end.iter().for_each(|event| bench.step(event.clone()));
            }
            if restarted && cancelled && bench.code("one").is_none() {
                // Both steps of the phase begin with the verification again.
                bench.step(sound());
            }
            let got = bench.code("one");
            assert_eq!(got == Some(Code::Expired), cancelled, "{what}, restarted {restarted}: {got:?}");
            if cancelled {
                let outcome = bench.jobs["one"].outcome.clone().unwrap();
                assert_eq!(&*outcome.message, "cancelled by the server", "{what}");
                assert!(bench.open().is_empty() && bench.agents.is_empty(), "{what}");
                assert!(bench.done.contains(&Action::RemoveDownload(id())), "{what}");
            }
        }
    }
}

#[test]
fn a_download_is_stopped_and_makes_room_for_the_next() {
    let mut bench = Bench::new(Vec::new());
    bench.offer(vec![package("one", "web", 1, false), package("two", "log", 2, false)]);
    assert!(!bench.done.contains(&Action::Fetch("two".into())));
    bench.cancel(Vec::new());
    assert!(bench.done.contains(&Action::StopFetch(id())) && bench.done.contains(&Action::Fetch("two".into())));
    // The helper that was stopped says so.
    bench.step(cut());
    assert_eq!((bench.code("one"), bench.code("two")), (Some(Code::Expired), None));
}

#[test]
fn a_job_that_waits_is_cancelled_whatever_it_waits_for() {
    // In its window.
    let mut bench = Bench::new(vec![spec("web")]);
    let mut later = Job::new("one", "web", JobAction::Stop);
    later.window = secs(100_000);
    bench.offer(vec![later]);
    bench.cancel(Vec::new());
    assert_eq!(bench.code("one"), Some(Code::Expired));
    assert!(matches!(bench.agent_state("web"), AgentState::Running { .. }));

    // In the reply that brings it. Whoever orders it and cancels it at once wants it not to be done.
    let mut bench = Bench::new(vec![spec("web")]);
    bench.cancel(vec![Job::new("one", "web", JobAction::Stop)]);
    assert_eq!(bench.code("one"), Some(Code::Expired));
    assert!(matches!(bench.agent_state("web"), AgentState::Running { .. }));

    // For its server list to be tried.
    let servers = crate::model::schedule::parse_servers("new:1").ok();
    let mut bench = Bench::new(Vec::new());
    bench.state.exchanges.schedule.request_report();
    bench.step(Event::ProcessesChanged);
    bench.cancel(vec![Job::new("one", "", JobAction::Config { servers, step: None })]);
    assert_eq!((bench.code("one"), &*bench.settings.svrlist), (Some(Code::Expired), ""));

    // Behind another job of the agent.
    let mut bench = Bench::new(vec![spec("web")]);
    let restart = |id| Job::new(id, "web", JobAction::Restart);
    bench.offer(vec![restart("first"), restart("one")]);
    bench.cancel(Vec::new());
    assert_eq!((bench.code("first"), bench.code("one")), (None, Some(Code::Expired)));
}

#[test]
fn a_job_that_acts_on_an_agent_goes_on() {
    for action in [JobAction::Restart, JobAction::Stop] {
        let mut bench = Bench::new(vec![spec("web")]);
        bench.offer(vec![Job::new("one", "web", action)]);
        bench.cancel(Vec::new());
        bench.agent_ends("web", Exit::Signal(Sig::TERM));
        bench.pass(secs(10));
        assert_eq!(bench.code("one"), Some(Code::Success));
        assert!(bench.open().is_empty(), "a result that waits is not open");
        bench.cancel(Vec::new());
        assert_eq!(bench.code("one"), Some(Code::Success));
    }
}
