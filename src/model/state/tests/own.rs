//! Reexecs of the daemon: by clients on the host and by jobs, of the installed binary and of a new one on trial.

use super::*;

const NEXT: &str = "/packages/bootagent/next/bootagent";
const INSTALLED: &str = "/bootagent";

/// The binary that is executed, and whether it is on trial.
fn executed(action: &Action) -> Option<(String, bool)> {
    match action {
        Action::Reexec(program, until) => Some((program.to_string(), until.is_some())),
        _ => None,
    }
}

/// One exec of this binary; the new one is on trial.
fn exec(program: &str) -> Vec<(String, bool)> {
    vec![(program.to_string(), program == NEXT)]
}

/// A host on which a job has brought a new binary that is about to be tried.
fn downloaded() -> Bench {
    let mut bench = Bench::new(vec![spec("web")]);
    bench.offer(vec![package("up", "bootagent", 2, true)]);
    unpack(&mut bench);
    bench
}

fn unpack(bench: &mut Bench) {
    bench.step(Event::Fetched("up".into(), Fetched::Whole { digest: Digest([2; 32]), doubtful: false }));
    bench.step(Event::Verified("up".into(), Verified::Sound(Digest([2; 32]))));
    bench.step(Event::Placed("up".into(), Ok(())));
    bench.step(Event::Unpacked("up".into(), Ok(())));
}

fn tried(bench: &mut Bench, exit: Exit, output: &str) {
    bench.step(Event::ToolDone { owner: ToolOwner::Reexec, exit, output: output.into() });
}

/// The new binary says its version and finds the configuration good.
fn found_good(bench: &mut Bench) {
    tried(bench, Exit::Code(0), "bootagent-2 (some words)\n");
    tried(bench, Exit::Code(0), "ok\n");
}

/// Ends what is under way, so that the new binary may be executed.
fn quiet(bench: &mut Bench) {
    bench.answer_status();
    bench.pass(secs(1));
}

/// A host on which a new binary is on trial, and its first exchange has begun.
fn on_trial() -> Bench {
    let mut bench = downloaded();
    found_good(&mut bench);
    quiet(&mut bench);
    assert_eq!(bench.take(executed), exec(NEXT), "{:?}", bench.jobs["up"]);
    let before = bench.state.reexec_state(Some(bench.now.time + secs(60)));
    bench.start_version("2", Some(before), None);
    assert_eq!(bench.jobs["up"].phase, Phase::Settling);
    bench.step(Event::Tick);
    bench
}

/// The binary that runs executes one of this version.
fn reexec(bench: &mut Bench, version: &str) {
    let before = bench.state.reexec_state(None);
    bench.start_version(version, Some(before), None);
}

fn outcome(bench: &Bench) -> (Option<Code>, String) {
    let outcome = bench.jobs["up"].outcome.as_ref();
    (bench.code("up"), outcome.map_or(String::new(), |outcome| outcome.message.to_string()))
}

#[test]
fn a_new_binary_is_put_in_place_after_its_first_good_exchange() {
    let mut bench = on_trial();
    let puts = |action: &Action| matches!(action, Action::Replace(_, program) if **program == *NEXT).then_some(());
    assert!(bench.take(puts).is_empty(), "it has proved nothing yet");
    assert!(bench.is_asking(), "its first exchange begins at once");
    bench.step(Event::Replied(Reply::Failed { reason: "refused".into(), retry_after: None }));
    assert!(bench.take(puts).is_empty());
    bench.pass(secs(20));
    bench.step(Event::Replied(Reply::Jobs { errcode: Some(0), jobs: Vec::new(), cancel: Vec::new() }));
    assert_eq!(bench.take(puts).len(), 1);
    // The result is on record before the binary is replaced.
    assert_eq!(bench.jobs["up"].phase, Phase::Settling);
    assert_eq!(bench.jobs["up"].outcome.as_ref().map(|outcome| outcome.code), Some(Code::Success));
    bench.step(Event::Placed("up".into(), Ok(())));
    assert_eq!(outcome(&bench), (Some(Code::Success), "success, 2 runs".into()));
    let dropped =
        |action: &Action| matches!(action, Action::RemovePackage(name, _) if **name == *"bootagent").then_some(());
    assert_eq!(bench.take(dropped).len(), 1, "its package is removed");
    // The end of its trial changes nothing any more.
    bench.pass(secs(100));
    assert_eq!(bench.take(executed), []);
}

#[test]
fn an_upgrade_to_the_installed_package_does_nothing() {
    let mut bench = on_trial();
    bench.answer_status();
    bench.step(Event::Placed("up".into(), Ok(())));
    let fetches = |action: &Action| matches!(action, Action::Fetch(_)).then_some(());
    for (id, version, number, works) in [("again", "2", 2, false), ("other", "2", 3, true), ("older", "1", 2, true)] {
        let before = bench.state.reexec_state(None);
        bench.start_version(version, Some(before), None);
        bench.offer(vec![package(id, "bootagent", number, true)]);
        assert_eq!(bench.take(fetches).len(), usize::from(works), "{id}");
        assert_eq!(bench.code(id), (!works).then_some(Code::Success), "{id}");
        bench.jobs.remove(id);
    }
}

#[test]
fn a_binary_that_fails_its_checks_changes_nothing() {
    let good = "bootagent-2\n";
    // How `version` ends and what it says, the same of `check`, and what is reported.
    for (version, check, want) in [
        ((Exit::Code(1), "no"), None, "version\" exited with status 1: no"),
        ((Exit::Code(0), "hello"), None, "does not say \"bootagent-\""),
        ((Exit::Unknown, "executing the program: Exec format error"), None, "Exec format error"),
        (
            (Exit::Code(0), good),
            Some((Exit::Code(1), "step: want a number")),
            "check\" exited with status 1: step: want",
        ),
        ((Exit::Code(0), good), Some((Exit::Signal(Sig::KILL), "")), "check\""),
    ] {
        let mut bench = downloaded();
        tried(&mut bench, version.0, version.1);
        if let Some((exit, output)) = check {
            tried(&mut bench, exit, output);
        }
        let (code, message) = outcome(&bench);
        assert_eq!(code, Some(Code::Install), "{message}");
        assert!(message.contains(want) && message.contains("nothing is changed"), "{message}");
        bench.pass(secs(100));
        assert_eq!(bench.take(executed), []);
    }
    // One that hangs is killed, and killed again.
    let mut bench = downloaded();
    bench.pass(secs(15));
    let kills = |action: &Action| matches!(action, Action::KillTool(ToolOwner::Reexec)).then_some(());
    assert!(!bench.take(kills).is_empty());
    bench.pass(secs(15));
    assert!(!bench.take(kills).is_empty());
    tried(&mut bench, Exit::Signal(Sig::KILL), "");
    assert!(outcome(&bench).1.contains("is not done within 10 s"), "{:?}", outcome(&bench));
    // And one that the kernel does not execute.
    let mut bench = downloaded();
    found_good(&mut bench);
    quiet(&mut bench);
    bench.step(Event::NotReexeced("cannot execute it: no memory".into()));
    assert_eq!(outcome(&bench).0, Some(Code::Install));
}

#[test]
fn without_an_exchange_the_installed_binary_runs_again() {
    let mut bench = on_trial();
    bench.step(Event::Replied(Reply::Failed { reason: "refused".into(), retry_after: None }));
    bench.pass(secs(59));
    assert_eq!(bench.take(executed), []);
    bench.pass(secs(5));
    // The result is on record before the exec, as the daemon may die in between.
    assert_eq!(bench.jobs["up"].outcome.as_ref().map(|outcome| outcome.code), Some(Code::RolledBack));
    assert_eq!(bench.take(executed), exec(INSTALLED));
    reexec(&mut bench, "1");
    let (code, message) = outcome(&bench);
    assert_eq!(code, Some(Code::RolledBack));
    assert!(message.contains("2 had no good exchange") && message.contains("1 runs again"), "{message}");
    bench.pass(secs(200));
    assert_eq!(bench.take(executed), [], "it happens once");
}

#[test]
fn a_binary_that_cannot_execute_the_installed_one_stays_and_reports_this() {
    let mut bench = on_trial();
    bench.step(Event::Replied(Reply::Failed { reason: "refused".into(), retry_after: None }));
    bench.pass(secs(70));
    assert_eq!(bench.take(executed), exec(INSTALLED));
    bench.step(Event::NotReexeced("cannot execute \"/bootagent\": gone".into()));
    let (code, message) = outcome(&bench);
    assert!(code == Some(Code::Install) && message.contains("it stays"), "{code:?} {message}");
    bench.pass(secs(200));
    assert_eq!(bench.take(executed), []);
}

#[test]
fn a_daemon_that_dies_in_an_upgrade_continues_where_it_was() {
    // Before the new binary is executed the installed one continues the job.
    let mut bench = downloaded();
    tried(&mut bench, Exit::Code(0), "bootagent-2\n");
    bench.restart_daemon();
    bench.step(Event::Unpacked("up".into(), Ok(())));
    found_good(&mut bench);
    quiet(&mut bench);
    assert_eq!(bench.take(executed), exec(NEXT));
    // Right at the exec: it is not known whether this took place, so the binary is tried again.
    bench.restart_daemon();
    assert_eq!(bench.jobs["up"].phase, Phase::Installing);
    // The new binary had begun: that the installed one runs means that it has failed.
    for undone in [None, Some("it hung, and was killed")] {
        let mut bench = on_trial();
        bench.start_version("1", None, undone);
        let (code, message) = outcome(&bench);
        assert_eq!(code, Some(Code::RolledBack));
        assert!(message.contains("from bootagent-2 to 1: it "), "{message}");
        assert_eq!(message.contains("hung"), undone.is_some(), "{message}");
    }
    // The new binary had proved itself: from now on it is installed whatever happens. 1.0.0 records no step.
    for with_steps in [true, false] {
        let mut bench = on_trial();
        bench.answer_status();
        if !with_steps {
            bench.forget_steps();
        }
        bench.restart_daemon();
        bench.step(Event::Placed("up".into(), Ok(())));
        bench.step(Event::Tick);
        tried(&mut bench, Exit::Code(0), "bootagent-2\n");
        tried(&mut bench, Exit::Code(0), "ok\n");
        bench.pass(secs(60));
        assert_eq!(bench.take(executed), exec(INSTALLED));
        reexec(&mut bench, "2");
        assert_eq!(outcome(&bench), (Some(Code::Success), "success, 2 runs".into()));
    }
}

#[test]
fn nothing_new_begins_before_a_reexec() {
    let mut bench = downloaded();
    // An exchange is under way.
    bench.state.exchanges.schedule.request_report();
    bench.step(Event::ProcessesChanged);
    found_good(&mut bench);
    assert!(bench.is_asking());
    bench.step(Event::Tick);
    assert_eq!(bench.take(executed), []);
    bench.step(Event::Replied(Reply::Jobs { errcode: Some(0), jobs: Vec::new(), cancel: Vec::new() }));
    bench.pass(secs(1));
    assert_eq!(bench.take(executed), exec(NEXT));
    assert!(!bench.is_asking());
    // An exchange that never ends is waited for no longer than it may take.
    let mut bench = downloaded();
    bench.state.exchanges.schedule.request_report();
    bench.step(Event::ProcessesChanged);
    found_good(&mut bench);
    bench.pass(secs(41));
    assert_eq!(bench.take(executed), exec(NEXT));
}

#[test]
fn a_client_gets_a_reexec_or_the_reason_why_not() {
    let mut bench = Bench::new(vec![spec("web")]);
    bench.answer_status();
    let request = |bench: &mut Bench, client: u32| {
        bench.step(Event::Command(Client(client), Command::Reexec));
        bench.take(answers)
    };
    assert_eq!(request(&mut bench, 1), []);
    // A second one waits for the same.
    assert_eq!(request(&mut bench, 2), []);
    tried(&mut bench, Exit::Code(1), "broken");
    assert_eq!(bench.take(answers), [(1, 1), (2, 1)]);
    assert_eq!(request(&mut bench, 3), []);
    found_good(&mut bench);
    quiet(&mut bench);
    assert_eq!(bench.take(executed), exec(INSTALLED));
    let before = bench.state.reexec_state(None);
    assert_eq!(before.clients, [Client(3)]);
    bench.start_version("2", Some(before), None);
    assert_eq!(bench.take(answers), [(3, 0)]);

    let mut bench = downloaded();
    assert_eq!(request(&mut bench, 4), [(4, 1)], "in an upgrade");
    let mut bench = on_trial();
    assert_eq!(request(&mut bench, 5), [(5, 1)], "on trial");
    bench.step(Event::Shutdown(Shutdown::Stop));
    assert_eq!(request(&mut bench, 6), [(6, 1)], "while it is stopped");
}

#[test]
fn a_restart_by_a_job_is_a_reexec() {
    let mut bench = Bench::new(Vec::new());
    bench.offer(vec![Job::new("up", "bootagent", JobAction::Restart)]);
    found_good(&mut bench);
    quiet(&mut bench);
    assert_eq!(bench.take(executed), exec(INSTALLED));
    reexec(&mut bench, "2");
    assert_eq!(outcome(&bench), (Some(Code::Success), "success, 2 runs".into()));
    let mut bench = Bench::new(Vec::new());
    bench.offer(vec![Job::new("up", "bootagent", JobAction::Restart)]);
    tried(&mut bench, Exit::Code(1), "agents.d/web.json:1:1: expected a value");
    let (code, message) = outcome(&bench);
    assert!(code == Some(Code::Start) && message.contains("agents.d/web.json:1:1"), "{code:?} {message}");
    for order in [JobAction::Start, JobAction::Stop, JobAction::Uninstall] {
        let mut bench = Bench::new(Vec::new());
        bench.offer(vec![Job::new("up", "bootagent", order)]);
        assert_eq!(outcome(&bench).0, Some(Code::Refused));
    }
}
