//! What must hold of each parser whatever the bytes are, one function for each fuzzer; `tests/mangle.rs` has them too. Nothing
//! panics, what is said is fit to be shown, and what is accepted keeps its promises.

use bootagent::host::proc;
use bootagent::model::access::{self, Access, Place};
use bootagent::model::job::RejectedJob;
use bootagent::model::package;
use bootagent::model::record::{AgentRecord, Installed};
use bootagent::model::spec::{is_file_name, is_job_id, is_name, Spec};
use bootagent::text::{visible, MESSAGE_MAX};
use bootagent::wire::config::{self, ConfigError, Source};
use bootagent::wire::sign::Keys;
use bootagent::wire::{control, job, notification, proto, record, reexec_data};
use bootagent::work::{self, inspect, HelperResponse};

/// What a server sends: replies, jobs, and signatures of replies.
pub fn server(bytes: &[u8]) {
    if let Err(message) = proto::result_reply(bytes) {
        check_shown(&message);
    }
    match proto::reply(bytes) {
        Err(message) => check_shown(&message),
        Ok(reply) => {
            for job in reply.jobs {
                match job {
                    Ok(job) => assert_eq!(job::read_text(&job.text), Ok(job)),
                    Err(rejected) => check_rejected(&rejected),
                }
            }
        }
    }
    let text = String::from_utf8_lossy(bytes);
    match job::read_text(&text) {
        Ok(job) => assert!(is_job_id(&job.id) && (job.name.is_empty() || is_name(&job.name)), "{job:?}"),
        Err(rejected) => check_rejected(&rejected),
    }
    match Keys::read(bytes) {
        // Whatever a forger sends is not the one good signature.
        Ok(keys) => assert!(keys.verify(200, "0123456789abcdef0123456789abcdef", bytes, Some(&text)).is_err()),
        Err(message) => check_shown(&message),
    }
}

/// What a helper sends back, as the daemon takes it in: frames that say how much is to come, then one with the outcome.
pub fn helpers(bytes: &[u8]) {
    let mut rest = bytes.to_vec();
    let mut totals = Vec::new();
    while let Some(total) = work::take_announced(&mut rest) {
        totals.extend(work::encode_announced(total));
    }
    assert_eq!([&totals[..], &rest[..]].concat(), bytes);
    if let Some(outcome) = work::decode_response(&rest) {
        assert_eq!(work::decode_response(&work::encode_response(&outcome)).as_ref(), Some(&outcome));
        // A frame that was cut is never a whole one.
        assert_eq!(work::decode_response(&rest[..rest.len() - 1]), None);
        if let HelperResponse::Exchanged { body, signature, .. } = outcome {
            server(&body);
            if let Ok(keys) = Keys::read(b"a key of sixteen") {
                assert!(keys.verify(200, "0123456789abcdef0123456789abcdef", &body, signature.as_deref()).is_err());
            }
        }
    }
    if let Some(order) = work::decode_request(bytes) {
        assert_eq!(work::decode_request(&work::encode_request(&order)), Some(order));
    }
}

/// What a package, an archive, a package tool, an agent and the kernel say.
pub fn children(bytes: &[u8]) {
    work::try_parsers(bytes);
    proc::parse_stat(bytes);
    inspect::parse_environ(bytes, "/state");
    inspect::parse_rollup(bytes);
    inspect::ProcessTag::read(&String::from_utf8_lossy(bytes));
    proc::parse_status(bytes);
    let text = String::from_utf8_lossy(bytes);
    if let Some(pid) = proc::parse_pid(&text) {
        assert!(pid.raw() > 1);
    }
    if let Ok((package, version)) = package::identity(&text) {
        // What becomes an argument of a tool that runs as root.
        let safe = |b: u8| b.is_ascii_graphic() && b != b'/';
        assert!(!package.starts_with('-') && package.bytes().all(safe), "{package}");
        assert!(!version.is_empty());
    }
    let (whole, cut) = (notification::parse(bytes, false), notification::parse(bytes, true));
    assert!(whole.main.is_none_or(|pid| pid.raw() > 1) && (whole.ready || !cut.ready), "{whole:?} {cut:?}");
    access::is_mapped(&text, 65534);
    for place in [Place::File, Place::Listed, Place::Near, Place::Above] {
        let bare = Access { mode: 0o664, ..Access::default() };
        assert_eq!(access::writer(&bare, place), None);
        for access in [Access { acl: Some(bytes), ..bare }, Access { default_acl: Some(bytes), ..bare }] {
            if let Some(writer) = access::writer(&access, place) {
                assert!(!writer.by_group && writer.cure.starts_with("setfacl -"), "{writer:?}");
            }
        }
    }
}

/// The daemon's configuration and definitions of agents.
pub fn definitions(bytes: &[u8]) {
    check_problems(&config::read_config("bootagent.json", bytes).1);
    for (in_tar, strict) in [(false, false), (false, true), (true, false), (true, true)] {
        match config::read_definition("web.json", bytes, in_tar, strict) {
            Ok(spec) => check_spec(&spec, in_tar),
            Err(problems) => {
                assert!(!problems.is_empty());
                check_problems(&problems);
            }
        }
    }
    // Two files that say the same, one of which was another one when it was last good.
    let source = |file: &str, good: Option<&[u8]>| Source {
        file: file.into(),
        text: Ok(bytes.to_vec()),
        good: good.map(Into::into),
    };
    let good = br#"{"name":"good","version":"1","exec":["/bin/true"]}"#;
    let agents = config::read_agents("agents.d", &mut [source("b.json", Some(good)), source("a.json", None)]);
    check_problems(&agents.problems);
    for (index, agent) in agents.agents.iter().enumerate() {
        check_spec(&agent.spec, false);
        assert!(agents.agents[..index].iter().all(|other| other.spec.name != agent.spec.name), "{agents:?}");
    }
}

/// What the daemon itself has written, to be read by another one, perhaps from a disk that is failing.
pub fn records(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(read) = record::read_agent(&text) {
        assert!(is_name(&read.name), "{read:?}");
        check_agent(&read);
        assert_eq!(record::read_agent(&record::write_agent(&read)), Ok(read));
    }
    if let Ok(read) = record::read_job(&text) {
        assert!(is_job_id(&read.id) && read.seq.checked_add(1 << 32).is_some(), "{read:?}");
        assert!(read.name.is_empty() || is_name(&read.name) || read.outcome.is_some(), "{read:?}");
        read.before.iter().for_each(|before| check_agent(before));
        read.package.iter().for_each(|package| check_installed(package));
        assert_eq!(record::read_job(&record::write_job(&read)), Ok(read));
    }
    if let Ok(read) = record::read_run(&text) {
        assert!(is_name(&read.name) && read.process.is_none_or(|process| process.pid.raw() > 1), "{read:?}");
        assert_eq!(record::read_run(&record::write_run(&read)), Ok(read));
    }
    if let Ok(read) = record::read_stop(&text) {
        assert_eq!(record::read_stop(&record::write_stop(&read)), Ok(read));
    }
    if let Ok(read) = record::read_identity(&text) {
        assert_eq!(record::read_identity(&record::write_identity(&read)), Ok(read));
    }
    if let Ok(read) = record::read_settings(&text) {
        // Steps are kept in milliseconds.
        let again = record::read_settings(&record::write_settings(&read));
        assert_eq!(again.map(|again| again.svrlist), Ok(read.svrlist));
    }
    if let Ok(read) = reexec_data::read(&text) {
        let again = reexec_data::read(&reexec_data::write(&read)).expect("it reads what it writes");
        assert_eq!(reexec_data::write(&again), reexec_data::write(&read));
    }
}

/// The lines of the control socket, in both directions.
pub fn control(bytes: &[u8]) {
    match control::read_command(bytes) {
        Ok(command) => {
            let line = control::write_command(&command);
            assert_eq!(line.find('\n'), Some(line.len() - 1), "one line: {line:?}");
            assert_eq!(control::read_command(line.trim_end().as_bytes()), Ok(command));
        }
        Err(message) => check_shown(&message),
    }
    match control::read_answer(bytes) {
        Ok(answer) => {
            let line = control::write_answer(&answer);
            assert_eq!(line.find('\n'), Some(line.len() - 1), "one line: {line:?}");
            let again = control::read_answer(line.as_bytes()).expect("it reads what it writes");
            assert_eq!((again.code, &*again.message), (answer.code, &*visible(&answer.message)));
        }
        Err(message) => check_shown(&message),
    }
}

fn check_shown(message: &str) {
    assert!(!message.is_empty() && !message.contains(|c: char| c.is_control() && c != '\n'), "{message:?}");
}

fn check_problems(problems: &[ConfigError]) {
    problems.iter().for_each(|problem| check_shown(&problem.to_string()));
}

fn check_rejected(rejected: &RejectedJob) {
    assert!(!rejected.message.is_empty() && rejected.message.len() <= MESSAGE_MAX, "{rejected:?}");
    for shown in [&*rejected.message, &*rejected.action, &*rejected.name] {
        assert!(!shown.contains(char::is_control), "{rejected:?}");
    }
}

fn check_spec(spec: &Spec, in_tar: bool) {
    assert!(is_name(&spec.name) && !spec.exec.is_empty(), "{spec:?}");
    assert!(in_tar || spec.exec[0].starts_with('/'), "{spec:?}");
    assert!(spec.exec.iter().all(|word| !word.contains('\0')), "{spec:?}");
}

fn check_agent(agent: &AgentRecord) {
    agent.package.iter().chain(&agent.previous).for_each(|package| check_installed(package));
}

fn check_installed(package: &Installed) {
    for name in [&package.package, &package.file] {
        assert!(name.is_empty() || is_file_name(name) && !name.starts_with('-'), "{package:?}");
    }
}
