use std::time::Duration;

use super::*;
use crate::model::job::{Code, JobAction};
use crate::model::record::Phase;
use crate::model::report::{Incident, Status};

const STATUS: &str = include_str!("../../../tests/proto/status-request.json");
const STATUS_BARE: &str = include_str!("../../../tests/proto/status-request-bare.json");
const RESULT: &str = include_str!("../../../tests/proto/result-request.json");
const LEDGER: &str = include_str!("../../../tests/proto/ledger.json");
const REPLY: &str = include_str!("../../../tests/proto/status-reply.json");
const REPLY_EMPTY: &str = include_str!("../../../tests/proto/status-reply-empty.json");
const REPLY_ALL_KEYS: &str = include_str!("../../../tests/proto/status-reply-all-keys.json");
const REPLY_BAD_JOBS: &str = include_str!("../../../tests/proto/status-reply-bad-jobs.json");
const RESULT_REPLY: &str = include_str!("../../../tests/proto/result-reply.json");

/// The text without the white space between its tokens; the order of keys stays.
fn compact(text: &str) -> String {
    let (mut out, mut quoted, mut escaped) = (String::new(), false, false);
    for c in text.chars() {
        if quoted || !c.is_whitespace() {
            out.push(c);
        }
        quoted ^= c == '"' && !escaped;
        escaped = quoted && c == '\\' && !escaped;
    }
    out
}

fn agent(name: &str, version: &str, status: Status, failures: u32, detail: &str) -> AgentReport {
    AgentReport {
        name: name.into(),
        version: version.into(),
        status,
        uptime: Duration::ZERO,
        pid: 0,
        failures,
        detail: detail.into(),
        cpu: None,
        memory: None,
        limits_by: None,
        job_limits: None,
    }
}

#[test]
fn a_status_is_written_to_the_letter() {
    let report = Report {
        hostname: "web-01".into(),
        version: "bootagent-1.0.0-x86_64".into(),
        uptime: Duration::from_millis(1_234_999),
        timestamp: 1_700_000_000,
        step: Duration::from_secs(600),
        agents: vec![
            AgentReport {
                uptime: Duration::from_secs(123),
                pid: 4711,
                cpu: Some(1.499_999),
                memory: Some(10 << 20),
                limits_by: Some("cgroup2".into()),
                ..agent("BasicAgent", "1.2.3", Status::Running, 0, "")
            },
            agent(
                "LogAgent",
                "0.9",
                Status::Stopped,
                1,
                "exited with status 1: cannot open \"/etc/log.conf\", restart in 180 s",
            ),
            AgentReport {
                limits_by: Some("CPU=cgroup1 memory=polled".into()),
                job_limits: Some("CPU=10% memory=20M".into()),
                ..agent("SecAgent", "3:4.5~rc1", Status::Killed, 2, "over its memory limit of 20M")
            },
            agent("old", "1", Status::Fatal, 4, "gave up after 4 early ends"),
        ],
        sn: "bfdcc18c-2d5f-4c3e-9a55-0a6c1a2f7b11".into(),
        boot_id: "0b1d6e0c-63a7-4b57-8d3c-6c4a0c9e8f10".into(),
        events: vec![Incident {
            timestamp: 1_699_999_990,
            name: "SecAgent".into(),
            message: "killed: 21.3 MB used, 20 MB allowed".into(),
        }],
        os: "debian 12".into(),
        labels: vec![("role".into(), "web".into()), ("site".into(), "ams \"1\"".into())],
        open: vec!["ddc8a9b9-1".into(), "r41.7".into()],
        silence: Some(Duration::from_secs(3700)),
        troubles: vec!["cannot write \"/run/bootagent/agents/old.json\": No space left on device".into()],
        seq: Some(17),
    };
    assert_eq!(status_body(&report), compact(STATUS));
    let bare = Report {
        hostname: "h".into(),
        version: "bootagent-1.0.0-armv7".into(),
        uptime: Duration::ZERO,
        timestamp: 0,
        step: Duration::from_millis(500),
        agents: Vec::new(),
        sn: "00000000-0000-4000-8000-000000000000".into(),
        boot_id: "".into(),
        events: Vec::new(),
        os: "".into(),
        labels: Vec::new(),
        open: Vec::new(),
        silence: None,
        troubles: Vec::new(),
        seq: None,
    };
    assert_eq!(status_body(&bare), compact(STATUS_BARE));
}

#[test]
fn results_and_ledger_are_written_to_the_letter() {
    let results = [
        ("ddc8a9b9-1".into(), Outcome::new(Code::Success, "success")),
        (
            "ddc8a9b9-2".into(),
            Outcome::new(Code::Checksum, "checksum: want SHA256:00, got SHA256:11\n\"quoted\"\u{1b}"),
        ),
    ];
    assert_eq!(results_body(&results), compact(RESULT));
    assert_eq!(results_body(&[]), "[]");
    let entries = [
        Entry {
            id: "a".into(),
            action: "install".into(),
            name: "BasicAgent".into(),
            phase: Phase::Downloading,
            outcome: None,
            progress: "1.5 MB of 3.0 MB".into(),
            age: None,
        },
        Entry {
            id: "b".into(),
            action: "dance".into(),
            name: "".into(),
            phase: Phase::Taken,
            outcome: Some(Outcome::new(Code::UnknownAction, "action")),
            progress: "".into(),
            age: None,
        },
    ];
    assert_eq!(ledger_body(&entries), compact(LEDGER));
}

#[test]
fn a_reply_brings_its_jobs_in_order() {
    let reply = reply(REPLY.as_bytes()).unwrap();
    assert_eq!(reply.errcode, Some(0));
    let jobs: Vec<Job> = reply.jobs.into_iter().map(|job| job.unwrap()).collect();
    let actions: Vec<_> = jobs.iter().map(|job| job.action.name()).collect();
    assert_eq!(actions, ["install", "upgrade", "uninstall", "start", "stop", "restart", "config", "config", "config"]);
    // What is kept of a job reads as the same job.
    for told in &jobs {
        assert_eq!(job::read_text(&told.text).as_ref(), Ok(told));
    }
    let JobAction::Install(source) = &jobs[0].action else { panic!("{:?}", jobs[0]) };
    assert_eq!(&*source.url, "ftp://user:secret@server:2121/BasicAgent/BasicAgent-1.5.6.rpm");
    assert_eq!(jobs[0].startsecs, Some(Duration::from_millis(2_500)));
    assert_eq!(jobs[0].window, Duration::from_secs(3_600));
    assert_eq!(jobs[0].expires, Some(Duration::from_secs(86_400)));
    assert_eq!(
        jobs[0].limits.as_ref().map(|l| (l.cpu, l.memory, l.resources.len())),
        Some((Some(1000), Some(20 << 20), 1))
    );
    assert_eq!(jobs[0].envs.as_ref().map(Vec::len), Some(2));
    assert_eq!(jobs[1].definition.as_ref().map(|spec| &*spec.exec[0]), Some("bin/web"));
    assert!(jobs[1].definition_text.starts_with('{'));
    assert_eq!(&*jobs[5].name, "bootagent");
    let JobAction::Config { servers: Some(servers), step } = &jobs[6].action else { panic!("{:?}", jobs[6]) };
    assert_eq!(
        (&*servers[0].base, servers.len(), *step),
        ("http://192.168.9.1:1234", 1, Some(Duration::from_secs(1200)))
    );
    assert_eq!((&*jobs[7].name, jobs[7].envs.as_ref().map(Vec::len)), ("BasicAgent", Some(0)));
    assert_eq!(jobs[8].action, JobAction::Config { servers: Some(Vec::new()), step: None });
}

#[test]
fn a_server_may_leave_out_jobs_or_write_every_key() {
    assert_eq!(reply(REPLY_EMPTY.as_bytes()), Ok(Reply { errcode: Some(0), jobs: Vec::new(), cancel: Vec::new() }));
    let jobs = reply(REPLY_ALL_KEYS.as_bytes()).unwrap().jobs;
    let start = jobs[0].as_ref().unwrap();
    assert_eq!((&start.action, &start.envs, &start.version), (&JobAction::Start, &None, &None));
    assert_eq!((start.window, start.expires, &start.signature), (Duration::ZERO, None, &None));
    let config = jobs[1].as_ref().unwrap();
    assert!(
        matches!(&config.action, JobAction::Config { servers: Some(_), step: Some(step) } if step.as_secs() == 600)
    );
    assert_eq!(&*config.name, "");
}

#[test]
fn a_bad_job_costs_its_neighbours_nothing() {
    let reply = reply(REPLY_BAD_JOBS.as_bytes()).unwrap();
    assert_eq!((reply.errcode, reply.jobs.len()), (Some(7), 14));
    let good: Vec<_> = reply.jobs.iter().flatten().map(|job| &*job.id).collect();
    assert_eq!(good, ["good-1", "good-2"]);
    let bad: Vec<_> = reply.jobs.iter().filter_map(|job| job.as_ref().err()).collect();
    for (rejected, (id, code, message)) in bad.iter().zip([
        (None, 1, "want an object, got \"stop\""),
        (None, 1, "id: missing"),
        (None, 1, "id: want 1 to 127 of A-Z a-z 0-9 . _ -, no dot first, got \"../../etc/passwd\""),
        (Some("bad-1"), 2, "action: want install, upgrade, uninstall, start, stop, restart, reload or config, got \"dance\""),
        (Some("bad-2"), 1, "action: missing"),
        (Some("bad-3"), 1, "name: missing"),
        (Some("bad-4"), 1, "name: want 1 to 50 of A-Z a-z 0-9 _ -, got \"a/b\""),
        (Some("bad-5"), 1, "checksum: missing"),
        (
            Some("bad-6"),
            1,
            "url: want ftp://, http:// or file://; checksum: want \"SHA256:\" and 64 hexadecimal digits, got \"MD5:00\"",
        ),
        (Some("bad-7"), 1, "step: want an integer of 10..86400, got 5"),
        (Some("bad-8"), 1, "nothing to change, want svrlist or step"),
        (
            Some("bad-9"),
            1,
            "envs: want names of A-Z a-z 0-9 _, no digit first, got \"1A\"; envs.B: want a string without NUL; limits.CPU: want a share such as \"10%\", got \"fast\"",
        ),
    ]) {
        assert_eq!((rejected.id.as_deref(), rejected.code as u8, &*rejected.message), (id, code, message));
    }
    assert_eq!((&*bad[3].action, &*bad[3].name), ("dance", "web"));
    assert_eq!((&*bad[6].action, &*bad[6].name), ("stop", ""));
}

#[test]
fn what_is_no_reply_is_said() {
    let deep = |levels: usize| format!("{{\"jobs\":{}{}}}", "[".repeat(levels), "]".repeat(levels));
    for (body, want) in [
        ("", "not JSON: 1:1: expected a value, got the end"),
        ("<html>", "not JSON: 1:1: expected a value"),
        ("[1]", "want a JSON object, got an array"),
        ("null", "want a JSON object, got null"),
        ("{\"errcode\":0", "not JSON: 1:13: expected \",\" or \"}\", got the end"),
        ("{\"jobs\":{\"a\":1}}", "jobs: want an array, got an object"),
        ("{\"jobs\":\"x\u{9b}y\"}", "jobs: want an array, got \"x y\""),
        (&deep(64), "not JSON: 1:72: nested over 64 deep"),
    ] {
        assert_eq!(reply(body.as_bytes()), Err(want.into()), "{body}");
    }
    assert!(reply(deep(63).as_bytes()).is_ok());
    assert!(reply(b"{\"a\":\"\",\xff}").is_err());
    for (body, want) in [
        ("{}", None),
        ("{\"errcode\":null,\"jobs\":null}", None),
        ("{\"errcode\":-3}", Some(-3)),
        ("{\"errcode\":0.0}", Some(0)),
        ("{\"errcode\":0.5}", None),
        ("{\"errcode\":\"0\"}", None),
    ] {
        assert_eq!(reply(body.as_bytes()).map(|reply| reply.errcode), Ok(want), "{body}");
    }
}

#[test]
fn what_cannot_be_an_id_is_not_cancelled() {
    for (body, want) in [
        (r#"{"errcode":0,"cancel":["a","b.1"]}"#, &["a", "b.1"][..]),
        (r#"{"errcode":0,"cancel":["a",7,null,{},"../x","","b"]}"#, &["a", "b"]),
        (r#"{"errcode":0,"cancel":null}"#, &[]),
        (r#"{"errcode":0,"cancel":{}}"#, &[]),
        (r#"{"errcode":0,"cancel":"a"}"#, &[]),
    ] {
        let reply = reply(body.as_bytes()).unwrap();
        let cancel: Vec<&str> = reply.cancel.iter().map(|id| &**id).collect();
        assert_eq!((reply.errcode, &*cancel), (Some(0), want), "{body}");
    }
}

#[test]
fn a_list_with_gaps_is_read_in_the_order_of_its_keys() {
    let stop = |id: &str, more: &str| format!("{{\"id\":\"{id}\",\"action\":\"stop\",\"name\":\"web\"{more}}}");
    let (bad, name) = (stop("bad", ",\"x\":\"\\ud800\""), stop("same", ",\"name\":\"db\""));
    let jobs = format!("{{\"10\":{},\"9\":7,\"2\":{bad},\"11\":{name},\"0\":{}}}", stop("last", ""), stop("first", ""));
    let cancel = "{\"12\":\"c\",\"1\":{},\"5\":\"b\",\"0\":\"a\"}";
    let reply = reply(format!("{{\"errcode\":0,\"jobs\":{jobs},\"cancel\":{cancel}}}").as_bytes()).unwrap();
    let ids: Vec<_> =
        reply.jobs.iter().map(|job| job.as_ref().map(|job| &*job.id).map_err(|bad| bad.id.as_deref())).collect();
    assert_eq!(ids, [Ok("first"), Err(Some("bad")), Err(None), Ok("last"), Err(Some("same"))]);
    let rejected = |at: usize| &*reply.jobs[at].as_ref().unwrap_err().message;
    assert!(rejected(1).contains("half of a surrogate pair") && rejected(4).contains("duplicate key \"name\""));
    assert_eq!(reply.cancel.iter().map(|id| &**id).collect::<Vec<_>>(), ["a", "b", "c"]);
    for keys in
        ["\"0\":1,\"a\":1", "\"-1\":1", "\"+1\":1", "\"\":1", "\"1.0\":1", "\"1e1\":1", "\"123456789012345678901\":1"]
    {
        let jobs = format!("{{\"jobs\":{{{keys}}}}}");
        assert_eq!(super::reply(jobs.as_bytes()), Err("jobs: want an array, got an object".into()), "{keys}");
        let cancel = super::reply(format!("{{\"cancel\":{{{keys}}}}}").as_bytes()).unwrap().cancel;
        assert!(cancel.is_empty(), "{keys}");
    }
}

#[test]
fn jobs_without_an_id_do_not_flood() {
    let body = format!("{{\"jobs\":[{}{{\"id\":\"a\",\"action\":\"stop\",\"name\":\"b\"}}]}}", "{},".repeat(10_000));
    let jobs = reply(body.as_bytes()).unwrap().jobs;
    assert_eq!((jobs.len(), jobs.iter().flatten().count()), (NAMELESS_MAX + 1, 1));
}

#[test]
fn only_errcode_0_takes_results() {
    assert_eq!(result_reply(RESULT_REPLY.as_bytes()), Ok(()));
    assert_eq!(result_reply(b"{\"errcode\":0,\"more\":[1]}"), Ok(()));
    for (body, want) in [
        ("{\"errcode\":5}", "refused with errcode 5"),
        ("{\"errcode\":\"0\"}", "errcode: want 0, got no whole number"),
        ("{}", "errcode: want 0, got no whole number"),
        ("0", "want a JSON object, got 0"),
        ("", "not JSON: 1:1: expected a value, got the end"),
    ] {
        assert_eq!(result_reply(body.as_bytes()), Err(want.into()), "{body}");
    }
}

#[test]
fn a_key_that_comes_twice_costs_its_own_job_only() {
    let stop = |id: &str, more: &str| format!("{{\"id\":\"{id}\",\"action\":\"stop\",\"name\":\"web\"{more}}}");
    for (bad, want) in [
        (stop("bad", ",\"name\":\"db\""), "1:105: duplicate key \"name\""),
        (stop("bad", ",\"envs\":{\"A\":\"1\",\"A\":\"2\"}"), "duplicate key \"A\""),
        (stop("bad", ",\"x\":[[{\"a\":1,\"a\":{}}]]"), "duplicate key \"a\""),
        (stop("bad", ",\"id\":\"worse\""), "duplicate key \"id\""),
    ] {
        let text = format!(
            "{{\"errcode\":0,\"jobs\":[{},{bad},[[{{\"a\":1,\"a\":2}}]],{}]}}",
            stop("one", ""),
            stop("two", "")
        );
        let jobs = reply(text.as_bytes()).expect("a reply").jobs;
        let ids: Vec<_> = jobs.iter().map(|job| job.as_ref().map(|job| &*job.id)).collect();
        assert!(matches!(ids[..], [Ok("one"), Err(_), Err(_), Ok("two")]), "{ids:?}");
        let Err(rejected) = &jobs[1] else { unreachable!() };
        assert_eq!((rejected.id.as_deref(), rejected.code), (Some("bad"), Code::BadJob));
        assert!(rejected.message.contains(want), "{}", rejected.message);
    }
    // A duplicate key of the reply itself leaves open what the reply means.
    assert!(reply(b"{\"errcode\":0,\"errcode\":1}").is_err());
}

/// One pass over the text finds them all: a pass for each would take minutes here.
#[test]
fn many_duplicate_keys_cost_one_pass() {
    let jobs = vec!["{\"id\":\"a\",\"id\":\"a\"}"; 50_000].join(",");
    let jobs = reply(format!("{{\"jobs\":[{jobs}]}}").as_bytes()).expect("a reply").jobs;
    assert_eq!(jobs.len(), 50_000);
    assert!(jobs[49_999].as_ref().is_err_and(|rejected| rejected.message.contains("duplicate key")));
}

#[test]
fn a_duplicate_key_elsewhere_costs_no_job() {
    let stop = |id: &str| {
        format!("{{\"id\":\"{id}\",\"action\":\"stop\",\"name\":\"web\",\"\\u0000\":\"a key like any other\"}}")
    };
    for other in ["{\"x\":{\"a\":1,\"a\":2}}", "[0,{\"a\":1,\"a\":2}]", "[[{\"a\":1,\"a\":2}]]"] {
        let jobs = format!("\"jobs\":[{},{}]", stop("one"), stop("two"));
        for text in [format!("{{\"other\":{other},{jobs}}}"), format!("{{{jobs},\"other\":{other}}}")] {
            let jobs = reply(text.as_bytes()).expect("a reply").jobs;
            assert!(jobs.len() == 2 && jobs.iter().all(Result::is_ok), "{text}: {jobs:?}");
        }
    }
}

/// Bytes that are not UTF-8 cost the job that has them, and nothing where nobody reads them.
#[test]
fn a_text_in_another_encoding_costs_its_own_job_only() {
    let stop = |id: &str, more: &[u8]| {
        [b"{\"id\":\"", id.as_bytes(), b"\",\"action\":\"stop\",\"name\":\"web\",\"x\":\"", more, b"\"}"].concat()
    };
    let body = |more: &[u8], bad: &[u8]| {
        let jobs = [stop("one", b""), stop("bad", bad), stop("two", "\u{e9}".as_bytes())].join(&b',');
        [b"{\"msg\":\"", more, b"\",\"meta\":{\"a\":1,\"a\":2},\"errcode\":0,\"jobs\":[", &jobs, b"]}"].concat()
    };
    for (body, is_good) in [
        (body(b"caf\xe9", b""), true),
        (body(b"a\tb", "\u{fffd}".as_bytes()), true),
        (body(b"", b"caf\xe9"), false),
        (body(b"\xe9", b"\xe9"), false),
    ] {
        let jobs = reply(&body).expect("a reply").jobs;
        let ids: Vec<_> = jobs.iter().map(|job| job.as_ref().map(|job| &*job.id)).collect();
        assert!(matches!(ids[..], [Ok("one"), _, Ok("two")]) && ids[1].is_ok() == is_good, "{ids:?}");
        if let Err(rejected) = &jobs[1] {
            assert_eq!((rejected.id.as_deref(), rejected.code), (Some("bad"), Code::BadJob));
            assert!(rejected.message.contains("not UTF-8"), "{}", rejected.message);
        }
    }
    assert_eq!(result_reply(b"{\"errcode\":0,\"msg\":\"\xe9\",\"meta\":{\"a\":1,\"a\":2}}"), Ok(()));
    assert!(reply(b"{\"errcode\":0,\xe9}").is_err() && reply(b"\xe9").is_err());
}

#[test]
fn a_value_that_means_nothing_costs_its_own_job_only() {
    let stop = |id: &str, more: &str| format!("{{\"id\":\"{id}\",\"action\":\"stop\",\"name\":\"web\"{more}}}");
    for (bad, want) in [
        (stop("bad", ",\"x\":\"\\udce9\""), "half of a surrogate pair"),
        (stop("bad", ",\"envs\":{\"\\ud800\":\"\"}"), "half of a surrogate pair"),
        (stop("bad", ",\"x\":[{\"y\":-1e400}]"), "number out of range"),
        (stop("bad", ",\"window\":\"1\""), "window: want seconds"),
        (stop("bad", ",\"limits\":\"none\""), "limits: want an object"),
        (stop("bad", ",\"x\":\"a\tb\""), "control characters are written as"),
    ] {
        let others = "\"cancel\":[\"\\ud800\",\"c\"],\"more\":\"\\ud800\",\"even\":{\"more\":1e999}";
        let text =
            format!("\u{feff}{{{others},\"jobs\":[{},{bad},{}],\"errcode\":0}}", stop("one", ""), stop("two", ""));
        let reply = reply(text.as_bytes()).expect("a reply");
        let ids: Vec<_> = reply.jobs.iter().map(|job| job.as_ref().map(|job| &*job.id)).collect();
        assert!(matches!(ids[..], [Ok("one"), Err(_), Ok("two")]), "{ids:?}");
        let Err(rejected) = &reply.jobs[1] else { unreachable!() };
        assert_eq!((rejected.id.as_deref(), rejected.code), (Some("bad"), Code::BadJob));
        assert!(rejected.message.contains(want), "{}", rejected.message);
        assert_eq!((reply.errcode, reply.cancel), (Some(0), vec!["c".into()]));
    }
}

#[test]
fn an_empty_list_may_stand_for_an_empty_map() {
    assert_eq!(reply(b"{\"errcode\":0,\"jobs\":{}}").map(|reply| reply.jobs.len()), Ok(0));
    // An empty list alone says nothing: without an errcode nobody knows that it is an answer to this report.
    assert!(reply(b"[]").is_err() && reply(b"[0]").is_err() && reply(b"{\"jobs\":{\"a\":1}}").is_err());
}
