//! The way of a job for each kind of package, with a failure of each of its steps.

use super::*;

/// An action as a word, and what can be answered to it: well and badly. `None`: the action is of no interest here.
pub(super) fn describe(bench: &Bench, id: &str, action: &Action) -> Option<(String, Option<(Event, Event)>)> {
    let question = |word: &str, good, bad| Some((word.to_string(), Some((good, bad))));
    let placed = |result| Event::Placed(id.into(), result);
    let place = |word: &str| question(word, placed(Ok(())), placed(Err("full".into())));
    let word = match action {
        Action::Fetch(_) => {
            let digest = match &bench.state.job(id).unwrap().action {
                JobAction::Install(source) | JobAction::Upgrade(source) => source.digest,
                _ => panic!("{id} has no package"),
            };
            let whole = Fetched::Whole { digest, doubtful: false };
            let refused = Fetched::Refused { reason: "gone".into() };
            return question("Fetch", Event::Fetched(id.into(), whole), Event::Fetched(id.into(), refused));
        }
        Action::PlacePackage(..) => return place("Place"),
        Action::Rename { .. } => return place("Rename"),
        Action::Link(_, _, dir) => return place(&format!("Link {dir}")),
        Action::Verify(_, _, file) => {
            let good = Verified::Sound(Digest([u8::from_str_radix(&file[..2], 16).unwrap(); 32]));
            let bad = Verified::Hostile("not signed".into());
            return question("Verify", Event::Verified(id.into(), good), Event::Verified(id.into(), bad));
        }
        Action::Unpack { .. } => {
            let unpacked = |result| Event::Unpacked(id.into(), result);
            return question("Unpack", unpacked(Ok(())), unpacked(Err("damaged".into())));
        }
        Action::Inspect { .. } => {
            let inspected = |result| Event::Inspected(id.into(), result);
            return question("Inspect", inspected(Ok(Some(Box::new(spec("web"))))), inspected(Err("a bad one".into())));
        }
        Action::Tool(owner, tool) => {
            let last = tool.argv.last().and_then(|word| word.rsplit('/').next()).unwrap_or_default();
            let option = tool.argv.iter().find(|word| ["dpkg -i", "-r", "-f", "query", "clear"].contains(&&***word));
            let ended = |code, output: &str| {
                let output = output.into();
                Event::ToolDone { owner: owner.clone(), exit: Exit::Code(code), output }
            };
            let option = option.map_or("look", |option| option);
            let output = match option {
                "query" if bench.installed => "7\n",
                "query" | "clear" => "",
                _ => "Package: pkg\nVersion: 7\n",
            };
            let last = if option == "clear" { "" } else { last };
            return question(format!("{option} {last}").trim_end(), ended(0, output), ended(2, "broken"));
        }
        Action::SaveJob(record) => return Some((format!("{}:", record.phase.name()), None)),
        Action::Signal(..) => "Signal",
        Action::Start(_) => "Start",
        Action::SaveAgent(_) => "SaveAgent",
        Action::RemoveAgent(_) => "DropAgent",
        Action::RemovePackage(..) => "DropPackage",
        _ => return None,
    };
    Some((word.to_string(), None))
}

/// What a job does, as the host sees it: a word for each action. Each question is answered well, but for number
/// `fails`, counted from 0.
fn way(bench: &mut Bench, id: &str, fails: Option<usize>) -> Vec<String> {
    let mut words = Vec::new();
    let mut questions = 0;
    while bench.code(id).is_none() {
        let mut answer = None;
        for action in std::mem::take(&mut bench.done) {
            match describe(bench, id, &action) {
                Some((word, Some((good, bad)))) => {
                    let failed = fails == Some(questions);
                    // What the package manager has.
                    bench.installed =
                        !failed && word.starts_with("dpkg -i") || bench.installed && !word.starts_with("-r");
                    words.push(if failed { format!("{word}!") } else { word });
                    answer = Some(if failed { bad } else { good });
                    questions += 1;
                }
                Some((word, None)) => words.push(word),
                None => {}
            }
        }
        match answer {
            Some(event) => bench.step(event),
            None if matches!(bench.agent_state("web"), AgentState::Stopping(_)) => {
                bench.agent_ends("web", Exit::Signal(Sig::TERM));
            }
            None => bench.pass(secs(10)),
        }
        assert!(words.len() < 100, "{words:?}");
    }
    words
}

/// The words from the one that failed on, up to the last record of the job.
fn after_failure(words: &[String]) -> String {
    let first = words.iter().position(|word| word.ends_with('!')).unwrap_or(words.len());
    words[first..].join(" ")
}

#[test]
fn each_kind_of_package_is_installed_and_undone() {
    let deb = |number: u8| {
        let mut job = package("next", "web", number, true);
        let source = Source { url: "http://p/a.deb".into(), digest: Digest([number; 32]), format: Format::Deb };
        job.action = JobAction::Upgrade(source);
        job
    };
    let back_to_tar = "DropPackage Inspect SaveAgent starting: Start settling:";
    let tar = (
        package("next", "web", 2, true),
        "downloading: Fetch verified: Verify Place installing: Unpack Inspect Rename SaveAgent starting: Signal Link 2 \
         Start settling:",
        vec![
            (Code::Download, "Fetch!".to_string()),
            (Code::Refused, "Verify!".to_string()),
            (Code::Install, "Place!".to_string()),
            (Code::Install, "Unpack!".to_string()),
            (Code::BadJob, "Inspect!".to_string()),
            (Code::Install, "Rename!".to_string()),
            (Code::RolledBack, format!("Link 2! installing: Link 1 {back_to_tar}")),
        ],
    );
    let install = "dpkg -i pkg";
    let back = format!("installing: Signal -r pkg query pkg Link 1 {}", back_to_tar.replace("Start", "clear Start"));
    let package = (
        deb(2),
        &*format!(
            "downloading: Fetch verified: Verify Place -f Version query pkg installing: {install} query pkg Inspect SaveAgent starting: \
             Signal clear Start settling:"
        ),
        vec![
            (Code::Download, "Fetch!".to_string()),
            (Code::Refused, "Verify!".to_string()),
            (Code::Install, "Place!".to_string()),
            (Code::Install, "-f Version!".to_string()),
            (Code::Install, "query pkg!".to_string()),
            (Code::RolledBack, format!("{install}! installing: query pkg {back}")),
            (Code::RolledBack, format!("query pkg! {back}")),
            (Code::RolledBack, format!("Inspect! {back}")),
        ],
    );
    for (job, forward, failures) in [tar, package] {
        let mut bench = Bench::installed("web");
        bench.done.clear();
        bench.offer(vec![job.clone()]);
        let words = way(&mut bench, "next", None).join(" ");
        assert_eq!(words, format!("received: {forward}"), "{:?}", bench.jobs["next"]);
        for (fails, (code, want)) in failures.into_iter().enumerate() {
            let mut bench = Bench::installed("web");
            bench.done.clear();
            bench.offer(vec![job.clone()]);
            let words = way(&mut bench, "next", Some(fails));
            assert_eq!(bench.code("next"), Some(code), "{fails}: {words:?} {:?}", bench.jobs["next"]);
            assert_eq!(after_failure(&words), want, "{fails}");
            assert!(bench.runs("web"), "{fails}");
            assert_eq!(bench.agents["web"].package.as_ref().map(|package| &*package.version), Some("1"));
        }
    }
}
