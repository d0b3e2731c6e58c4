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
    let report = bench.state.report(None, bench.now);
    let versions = report.agents.iter().map(|agent| agent.version.to_string()).collect();
    (versions, report.troubles.iter().map(ToString::to_string).collect())
}

/// The names of the agents whose packages are asked for.
fn asked(bench: &mut Bench, anew: bool) -> Vec<String> {
    let tool = bench.state.inventory_tool(anew);
    tool.map_or(Vec::new(), |tool| tool.argv[4..].chunks(3).map(|agent| agent[0].to_string()).collect())
}

#[test]
fn what_has_no_answer_is_asked_for_again() {
    let mut bench = bench(&[agent("a", "one", "1-1"), agent("b", "two", "1-1")]);
    assert_eq!(asked(&mut bench, true), ["a", "b"]);
    // The tool could not be run, was killed, or the package manager has failed.
    for output in ["", "there is no program \"sh\" on this host", "a 1-1"] {
        answer(&mut bench, output);
        assert!(!bench.state.is_inventoried(), "{output}");
        assert_eq!(asked(&mut bench, false), ["a", "b"], "{output}");
    }
    answer(&mut bench, "b 1-1 .\n");
    assert!(!bench.state.is_inventoried());
    assert_eq!(asked(&mut bench, false), ["a"]);
    answer(&mut bench, "a 1-1 .\n");
    assert!(bench.state.is_inventoried());
    assert!(asked(&mut bench, false).is_empty());
    assert_eq!(asked(&mut bench, true), ["a", "b"]);
    assert!(!bench.state.is_inventoried());
}

#[test]
fn only_a_job_that_changes_a_package_makes_an_answer_old() {
    let mut bench = bench(&[agent("a", "one", "1-1")]);
    let trouble = "agent \"a\": its package one was changed by hand, and a job that installs it puts that right: \
        want 1-1, got 2-1";
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
    answer(&mut bench, "a .\n");
    assert_eq!(told(&bench), (vec!["3".to_string()], Vec::new()));
    bench.agent_ends("a", Exit::Signal(Sig::TERM));
    bench.step(Event::Placed("3".into(), Ok(())));
    bench.pass(secs(30));
    // The former package is removed.
    for _ in 0..10 {
        for owner in bench.take(|action| if let Action::Tool(owner, _) = action { Some(owner.clone()) } else { None }) {
            bench.step(Event::ToolDone { owner, exit: Exit::Code(0), output: "".into() });
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
