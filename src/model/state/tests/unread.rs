//! Records that are there and cannot be read: nothing is decided because they are missing.

use super::*;

fn dropped(action: &Action) -> Option<()> {
    matches!(action, Action::RemoveAgent(_) | Action::RemoveJob(_) | Action::Signal(..)).then_some(())
}

/// Another daemon with the records of `bench`, of which it cannot read some.
fn without(bench: &mut Bench, definitions: Vec<Definition>, unread: Unreadable) {
    let read = |record: &JobRecord| bench.offered.iter().find(|job| job.text == record.text).cloned().map(Rc::new);
    let jobs = bench.jobs.values().map(|record| (record.clone(), read(record))).collect();
    let runs = bench.state.run_records().map(|run| (run, true)).collect();
    let recovered = Recovered { definitions, jobs, runs, unread, ..Recovered::default() };
    let mut out = Vec::new();
    bench.state = State::new(options(), recovered, bench.now, &mut out);
    bench.done.clear();
    bench.answer(out);
}

#[test]
fn an_agent_whose_record_cannot_be_read_is_left_as_it_is() {
    let mut bench = Bench::new(vec![spec("web"), spec("other")]);
    bench.offer(vec![package("1", "web", 1, true)]);
    assert!(bench.state.job("1").is_some());
    let unread = Unreadable { agents: vec!["web".into(), "down".into()], ..Unreadable::default() };
    without(&mut bench, vec![file(spec("other")), file(spec("down"))], unread);
    bench.step(Event::Definitions { good: vec![file(spec("other"))], problems: Vec::new(), whole: true });
    bench.offer(vec![Job::new("2", "web", JobAction::Restart), Job::new("3", "other", JobAction::Restart)]);
    bench.pass(secs(60));
    assert!(bench.state.job_record("1").is_none(), "a job of the agent on record waits");
    let known = ["2", "3"].map(|id| bench.jobs.contains_key(id));
    assert_eq!(known, [false, true], "its jobs wait at the server, those of others do not");
    assert!(bench.runs("web"), "its definition cannot be read, and it keeps running");
    assert!(!bench.runs("down"), "the operator may have stopped it");
    let signals = |action: &Action| match action {
        Action::Signal(name, ..) => Some(name.clone()),
        other => dropped(other).map(|()| "dropped".into()),
    };
    assert!(bench.take(signals).iter().all(|name| **name == *"other"), "the restart that was ordered");
    bench.step(Event::Command(Client(1), Command::Start("down".into())));
    assert_eq!(bench.take(starts), ["down".into()], "an order starts it");
}

#[test]
fn what_is_in_a_directory_that_cannot_be_read_is_not_guessed() {
    let mut bench = Bench::new(vec![spec("web"), spec("dead")]);
    let unread = Unreadable { all: true, ..Unreadable::default() };
    without(&mut bench, Vec::new(), unread);
    bench.offer(vec![Job::new("1", "web", JobAction::Stop), Job::new("2", "new", JobAction::Restart)]);
    bench.pass(secs(60));
    assert!(bench.runs("web") && bench.runs("dead"));
    assert_eq!(["1", "2"].map(|id| bench.jobs.contains_key(id)), [false; 2]);
    assert!(bench.take(dropped).is_empty());
}

#[test]
fn where_a_definition_cannot_be_read_none_is_gone() {
    let mut bench = Bench::new(vec![spec("web")]);
    bench.step(Event::Definitions { good: Vec::new(), problems: Vec::new(), whole: false });
    assert!(bench.runs("web") && bench.take(dropped).is_empty());
    bench.step(Event::Definitions { good: Vec::new(), problems: Vec::new(), whole: true });
    assert!(!bench.runs("web"));
}
