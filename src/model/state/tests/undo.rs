//! What a package manager says is installed decides how a job ends, and what is said of it.

use super::formats::describe;
use super::*;
use crate::model::plan::Direction;

/// A job that installs a deb whose package is `pkg` 7.
fn deb(id: &str, number: u8) -> Job {
    let mut job = package(id, "web", number, false);
    job.version = Some("7".into());
    job.action =
        JobAction::Install(Source { url: "http://p/a.deb".into(), digest: Digest([number; 32]), format: Format::Deb });
    job
}

/// Runs a job: queries are answered with these in turn, `!` for a failure; the installer fails or not. Returns its code and
/// message.
fn outcome(bench: &mut Bench, job: Job, queries: &[&str], fails: bool) -> (Code, String) {
    let (code, message, _) = outcome_with(bench, job, queries, fails, false);
    (code, message)
}

/// The same; what is new ends as soon as it has been started, or not. Then an installer that fails does so on the way back. A
/// former package that is removed while the agent runs ends it. Returns what was removed of the kept packages too.
fn outcome_with(
    bench: &mut Bench,
    job: Job,
    queries: &[&str],
    fails: bool,
    ends: bool,
) -> (Code, String, Vec<Vec<Box<str>>>) {
    let id = job.id.clone();
    let mut removed = Vec::new();
    let mut queries = queries.iter();
    bench.done.clear();
    bench.offer(vec![job]);
    for _ in 0..100 {
        if let Some(code) = bench.code(&id) {
            assert_eq!(queries.next(), None, "all are asked");
            return (code, bench.jobs[&id].outcome.as_ref().unwrap().message.to_string(), removed);
        }
        let mut answer = None;
        let mut is_killed = false;
        for action in std::mem::take(&mut bench.done) {
            if let Action::RemovePackage(_, files) = &action {
                removed.push(files.clone());
            }
            let Action::Tool(owner, tool) = &action else {
                answer = describe(bench, &id, &action).and_then(|(_, answers)| Some(answers?.0)).or(answer);
                continue;
            };
            let is = |word: &str| tool.argv.iter().any(|other| **other == *word);
            let (code, output) = match () {
                () if is("query") => match *queries.next().expect("no more queries") {
                    "!" => (2, "the database is broken"),
                    versions => (0, versions),
                },
                () if is("dpkg -i") => {
                    let is_back = bench.jobs[&id].direction == Direction::Back;
                    (i32::from(fails && (is_back || !ends)), "errors were encountered")
                }
                () if is("clear") => (0, "12"),
                () => (0, "Package: pkg\nVersion: 7\n"),
            };
            is_killed |= is("-r") && bench.runs("web");
            answer = Some(Event::ToolDone { owner: owner.clone(), exit: Exit::Code(code), output: output.into() });
        }
        if is_killed {
            bench.agent_ends("web", Exit::Signal(Sig::KILL));
        }
        match answer {
            Some(event) => bench.step(event),
            None if matches!(bench.agent_state("web"), AgentState::Stopping(_)) => {
                bench.agent_ends("web", Exit::Signal(Sig::TERM));
            }
            None if ends && bench.runs("web") && bench.jobs[&id].direction == Direction::Forward => {
                bench.agent_ends("web", Exit::Code(1));
            }
            None => bench.pass(secs(10)),
        }
    }
    panic!("the job does not end: {:?}", bench.jobs[&id]);
}

#[test]
fn nothing_is_installed_where_it_cannot_be_told_what_is() {
    let cannot = "cannot install: it cannot be told what is installed: query pkg: ";
    let mut bench = Bench::new(Vec::new());
    let (code, message) = outcome(&mut bench, deb("1", 1), &["!"], false);
    assert_eq!((code, message.starts_with(cannot)), (Code::Install, true), "{message}");
    assert!(bench.state.agents.get("web").is_none());
    // After the installer, it is undone.
    let (code, message) = outcome(&mut bench, deb("2", 1), &["", "!", ""], false);
    assert_eq!((code, message.starts_with(cannot)), (Code::Install, true), "{message}");
    // A package that is there already.
    assert_eq!(outcome(&mut bench, deb("3", 1), &["", "7"], false).0, Code::Success);
    let (code, message) = outcome(&mut bench, deb("4", 1), &["!"], false);
    assert_eq!((code, message.starts_with(cannot)), (Code::Install, true), "{message}");
    assert!(bench.runs("web"));
}

#[test]
fn what_is_said_of_an_undo_is_what_the_database_says() {
    let no_other = "the agent has no other package to go back to; cannot install: ";
    for (queries, code, beginning, end) in [
        // Somebody else has installed 5, which is still there, or is not.
        (&["5", "5", "5"][..], Code::Install, "cannot install: ".to_string(), "; undone"),
        (
            &["5", "7 unpacked", "7 unpacked"],
            Code::Install,
            format!("cannot go back, 7 unpacked is installed: {no_other}"),
            "",
        ),
        // Nobody has.
        (&["", "", ""], Code::Install, "cannot install: ".to_string(), "; undone"),
        (
            &["", "7 unpacked", "7 unpacked"],
            Code::Install,
            "cannot go back, 7 unpacked is installed: the package manager reported no failure; ".to_string(),
            "",
        ),
        (&["5", "5", "!"], Code::Install, "cannot go back: query pkg: exited with status 2".to_string(), ""),
    ] {
        let (got, message) = outcome(&mut Bench::new(Vec::new()), deb("1", 1), queries, true);
        assert_eq!(got, code, "{queries:?} {message}");
        assert!(message.starts_with(&beginning) && message.ends_with(end), "{queries:?} {message}");
    }
    // The package of an earlier job is gone, and cannot be installed once more; or it comes back nevertheless.
    for (queries, code, beginning, version) in [
        (&["", "", "", ""][..], Code::Install, format!("cannot go back, nothing is installed: {no_other}"), None),
        (
            &["", "", "7 unpacked", "7"],
            Code::RolledBack,
            "rolled back from 7 to 7: cannot install: ".to_string(),
            Some("7"),
        ),
    ] {
        let mut bench = Bench::new(Vec::new());
        assert_eq!(outcome(&mut bench, deb("1", 1), &["", "7"], false).0, Code::Success);
        let (got, message) = outcome(&mut bench, deb("2", 1), queries, true);
        assert_eq!((got, message.starts_with(&beginning)), (code, true), "{queries:?} {message}");
        assert_eq!(bench.agents["web"].package.as_ref().map(|package| &*package.native), version, "{queries:?}");
    }
}

#[test]
fn another_build_of_the_same_version_is_told_from_the_former_one() {
    // The installer refuses it, and to bring the former one back; or only that, after the new one has ended at once.
    for (ends, reason, digest) in [(false, "cannot install: ", 1), (true, "the agent does not stay up: ", 2)] {
        let mut bench = Bench::new(Vec::new());
        assert_eq!(outcome(&mut bench, deb("1", 1), &["", "7"], false).0, Code::Success);
        let (code, message, _) = outcome_with(&mut bench, deb("2", 2), &["7", "7", "7"], true, ends);
        assert_eq!(code, Code::Install, "{message}");
        assert!(message.starts_with("cannot go back, 7 is installed: ") && message.contains(reason), "{message}");
        let package = bench.agents["web"].package.as_ref().expect("it has a package");
        assert_eq!(package.digest, Digest([digest; 32]), "{message}");
    }
}

#[test]
fn an_agent_that_the_former_package_ends_runs_in_the_end() {
    let mut bench = Bench::new(Vec::new());
    assert_eq!(outcome(&mut bench, deb("1", 1), &["", "7"], false).0, Code::Success);
    let mut job = package("2", "web", 2, false);
    job.version = Some("8".into());
    let (code, message) = outcome(&mut bench, job, &[""], false);
    assert_eq!((code, &*message), (Code::Success, "success"));
    assert!(bench.runs("web"));
}

#[test]
fn an_uninstall_that_finds_nothing_and_leaves_something_says_so() {
    let mut bench = Bench::new(Vec::new());
    assert_eq!(outcome(&mut bench, deb("1", 1), &["", "7"], false).0, Code::Success);
    // Somebody else has removed the package, and installed another version while the job ran.
    let (code, message) = outcome(&mut bench, Job::new("2", "web", JobAction::Uninstall), &["", "5", "5", "5"], false);
    let told = "cannot go back, 5 is installed: the agent has no other package to go back to; cannot remove \
        the package: the package manager still has 5";
    assert_eq!((code, &*message), (Code::Install, told));
}

#[test]
fn a_tar_in_place_of_a_package_that_does_not_come_back_is_not_installed() {
    let mut bench = Bench::new(Vec::new());
    assert_eq!(outcome(&mut bench, deb("1", 1), &["", "7"], false).0, Code::Success);
    // The agent of the tar ends at once, and the deb cannot be installed again.
    let mut job = package("2", "web", 2, false);
    job.version = Some("8".into());
    let (code, message, _) = outcome_with(&mut bench, job, &[""], true, true);
    assert_eq!(
        (code, message.starts_with("cannot go back, nothing is installed: ")),
        (Code::Install, true),
        "{message}"
    );
    assert_eq!(bench.agents["web"].package, None);
}

#[test]
fn the_file_of_a_package_that_cannot_be_removed_is_kept() {
    let mut bench = Bench::new(vec![spec("web")]);
    // Its agent ends at once, and the package manager still has it after its removal.
    let (code, message, removed) = outcome_with(&mut bench, deb("1", 1), &["", "7", "7"], false, true);
    assert_eq!((code, message.starts_with("cannot go back, 7 is installed: ")), (Code::Start, true), "{message}");
    let file = bench.agents["web"].package.as_ref().map(|package| package.file.clone()).unwrap_or_default();
    assert!(!file.is_empty());
    assert!(removed.iter().all(|files| !files.is_empty() && !files.contains(&file)), "{removed:?}");
}

#[test]
fn what_an_installer_said_before_it_met_a_lock_is_told() {
    let mut bench = Bench::new(Vec::new());
    bench.offer(vec![deb("1", 1)]);
    let said = "error: %preun(pkg-6.noarch) scriptlet failed\nerror: can't create transaction lock on x";
    let mut queries = 0;
    let mut locked = false;
    while bench.code("1").is_none() {
        let mut answer = None;
        for action in std::mem::take(&mut bench.done) {
            answer = describe(&bench, "1", &action).and_then(|(_, answers)| Some(answers?.0)).or(answer);
            let Action::Tool(owner, tool) = &action else { continue };
            let is = |word: &str| tool.argv.iter().any(|other| **other == *word);
            let fails = is("dpkg -i") && !locked;
            locked |= fails;
            queries += usize::from(is("query"));
            let output = match () {
                () if fails => said,
                () if is("query") => ["", "7"][queries - 1],
                () if is("clear") => "",
                () => "Package: pkg\nVersion: 7\n",
            };
            let exit = Exit::Code(i32::from(fails));
            answer = Some(Event::ToolDone { owner: owner.clone(), exit, output: output.into() });
        }
        match answer {
            Some(event) => bench.step(event),
            None => bench.pass(secs(10)),
        }
    }
    let message = &bench.jobs["1"].outcome.as_ref().unwrap().message;
    assert!(message.contains("%preun(pkg-6.noarch) scriptlet failed"), "{message}");
}

#[test]
fn all_that_went_wrong_beside_a_success_is_said() {
    let (code, message) = outcome(&mut Bench::new(Vec::new()), deb("1", 1), &["", "7"], true);
    assert_eq!(code, Code::Success, "{message}");
    for part in
        ["success; the package manager had trouble beside it: ", "; the package had started the agent by itself"]
    {
        assert!(message.contains(part), "{message}");
    }
}
