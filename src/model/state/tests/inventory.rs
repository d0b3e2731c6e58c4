//! What the host says that it has of packages.

use super::*;
use crate::model::record::Installed;

/// An agent with a deb of this version on record.
fn agent(name: &str, package: &str, native: &str) -> AgentRecord {
    let (label, digest) = ("label".into(), Digest([1; 32]));
    let (package, native) = (package.into(), native.into());
    let installed = Installed { format: Format::Deb, package, version: label, digest, file: "".into(), native };
    AgentRecord { name: name.into(), package: Some(Box::new(installed)), ..AgentRecord::default() }
}

/// A host with these agents.
fn bench(agents: &[AgentRecord]) -> Bench {
    let mut bench = Bench::new(agents.iter().map(|agent| spec(&agent.name)).collect());
    bench.agents = agents.iter().map(|agent| (agent.name.clone(), agent.clone())).collect();
    bench.restart_daemon();
    bench
}

fn answer(bench: &mut Bench, output: &str) {
    bench.step(Event::ToolDone { owner: ToolOwner::Inventory, exit: Exit::Code(0), output: output.into() });
}

/// The versions and troubles that a report has.
fn told(bench: &Bench) -> (Vec<String>, Vec<String>) {
    let report = bench.state.report(None);
    let versions = report.agents.iter().map(|agent| agent.version.to_string()).collect();
    (versions, report.troubles.iter().map(ToString::to_string).collect())
}

/// A look that shows this. Returns the agents whose packages are asked for, and "kill" where the tool is killed.
fn look(bench: &mut Bench, changes: u64, tars: &[(&str, bool)]) -> String {
    let tars = tars.iter().map(|(name, is_there)| (Name::from(*name), *is_there)).collect();
    bench.done.clear();
    bench.step(Event::PackagesSeen { changes, tars });
    let asked = bench.take(|action| match action {
        Action::Tool(ToolOwner::Inventory, tool) => {
            Some(tool.argv[4..].chunks(3).map(|agent| &*agent[0]).collect::<Vec<_>>().join(" "))
        }
        Action::KillTool(ToolOwner::Inventory) => Some("kill".to_string()),
        _ => None,
    });
    asked.join("; ")
}

#[test]
fn packages_are_asked_for_after_a_change_and_again_where_there_was_no_answer() {
    let mut bench = bench(&[agent("a", "one", "1-1"), agent("b", "two", "1-1")]);
    // What the tool has answered since the look before, the seconds since then, what this look shows, and who is asked for.
    for (output, after, changes, want) in [
        (None, 0, 1, "a b"),
        // It runs, also longer than it may, and is killed.
        (None, 1, 1, ""),
        (None, 1, 2, ""),
        (None, 60, 2, "kill"),
        (None, 1, 2, "kill"),
        // The change in the meantime.
        (Some(""), 0, 2, "a b"),
        // The tool could not be run, was killed, or the package manager has failed: again at the next check.
        (Some("there is no program \"sh\" on this host"), 29, 2, ""),
        (None, 1, 2, "a b"),
        (Some("a 1-1"), 30, 2, "a b"),
        (Some("b 1-1 .\n"), 30, 2, "a"),
        (Some("a 1-1 .\n"), 30, 2, ""),
        (None, 3600, 2, ""),
        (None, 1, 3, "a b"),
        (Some("a 1-1 .\nb 1-1 .\n"), 1, 4, "a b"),
    ] {
        output.into_iter().for_each(|output| answer(&mut bench, output));
        bench.pass(secs(after));
        assert_eq!(look(&mut bench, changes, &[]), want, "{output:?} {after} {changes}");
    }
}

#[test]
fn a_look_is_the_answer_of_tars() {
    let mut tar = agent("a", "web-1", "");
    tar.package.as_mut().unwrap().format = Format::Tar;
    let mut bench = bench(&[tar, agent("b", "two", "1-1")]);
    for (changes, is_there, asked, version) in [(1, true, "b", "label"), (2, false, "b", ""), (3, true, "b", "label")] {
        assert_eq!(look(&mut bench, changes, &[("a", is_there)]), asked, "{changes}");
        answer(&mut bench, "b 1-1 .\n");
        assert_eq!(told(&bench).0, [version, "label"], "{changes}");
        assert_eq!(told(&bench).1.len(), usize::from(!is_there), "{changes}");
        assert!(bench.state.is_inventoried(), "{changes}");
    }
    // Another daemon than one that stops asks.
    bench.step(Event::Shutdown(Shutdown::Stop));
    assert_eq!(look(&mut bench, 4, &[("a", false)]), "");
    assert_eq!(told(&bench).1.len(), 0);
}

#[test]
fn only_a_job_that_changes_a_package_makes_an_answer_old() {
    let mut bench = bench(&[agent("a", "one", "1-1")]);
    let trouble =
        "agent \"a\": its package one has changed since a job installed it, and one that does so again puts that \
        right: want 1-1, got 2-1";
    let want = (vec!["2-1".to_string()], vec![trouble.to_string()]);
    answer(&mut bench, "a 2-1 .\n");
    assert_eq!(told(&bench), want);
    bench.offer(vec![Job::new("1", "a", JobAction::Restart)]);
    bench.agent_ends("a", Exit::Signal(Sig::TERM));
    bench.pass(secs(30));
    assert_eq!(bench.code("1"), Some(Code::Success));
    // Nothing is downloaded.
    bench.offer(vec![package("2", "a", 3, true)]);
    bench.step(Event::Fetched("2".into(), Fetched::Whole { digest: Digest([9; 32]), doubtful: false }));
    bench.pass(secs(3600));
    assert_eq!(bench.code("2"), Some(Code::Checksum));
    assert_eq!(told(&bench), want);
    assert!(bench.state.is_inventoried());
    bench.offer(vec![package("3", "a", 3, true)]);
    bench.deliver("3", 3);
    assert!(bench.state.is_changing_packages());
    // What the host has now will soon be another.
    assert_eq!(look(&mut bench, 7, &[("a", false)]), "");
    answer(&mut bench, "a .\n");
    assert_eq!(told(&bench), (vec!["3".to_string()], Vec::new()));
    bench.agent_ends("a", Exit::Signal(Sig::TERM));
    bench.step(Event::Placed("3".into(), Ok(())));
    bench.pass(secs(30));
    // The former package is removed, and the agent is started once more.
    for _ in 0..10 {
        for owner in bench.take(|action| if let Action::Tool(owner, _) = action { Some(owner.clone()) } else { None }) {
            bench.step(Event::ToolDone { owner, exit: Exit::Code(0), output: "".into() });
        }
        if matches!(bench.agent_state("a"), AgentState::Stopping(_)) {
            bench.agent_ends("a", Exit::Signal(Sig::TERM));
            bench.step(Event::Placed("3".into(), Ok(())));
        }
        bench.pass(secs(10));
    }
    assert_eq!(bench.code("3"), Some(Code::Success));
    assert_eq!(told(&bench), (vec!["3".to_string()], Vec::new()));
    assert!(!bench.state.is_inventoried());
}

#[test]
fn a_package_that_a_job_has_changed_for_another_agent_was_not_changed_by_hand() {
    let mut bench = bench(&[agent("a", "one", "1-1"), agent("b", "one", "2-1"), agent("c", "two", "1-1")]);
    answer(&mut bench, "a 2-1 .\nb 2-1 .\nc 1-1 .\n");
    assert_eq!(told(&bench), (["2-1", "label", "label"].map(String::from).to_vec(), Vec::new()));
    answer(&mut bench, "a 3-1 .\nb 3-1 .\nc 2-1 .\n");
    assert_eq!(told(&bench).1.len(), 3);
    answer(&mut bench, "a .\nb .\nc 1-1 .\n");
    assert_eq!(told(&bench).1.len(), 2);
}
