use std::time::Duration;

use super::*;

fn package(version: &str, format: Format) -> Installed {
    Installed {
        format,
        package: "basic-agent \"1\"".into(),
        version: version.into(),
        digest: Digest([0xab; 32]),
        file: "basic.deb".into(),
        native: "1:1-1".into(),
    }
}

fn full_agent() -> AgentRecord {
    AgentRecord {
        name: "BasicAgent".into(),
        wanted: Some(Wanted::Down),
        definition: Some("{\"name\":\"BasicAgent\",\n\"version\":\"1\"}".into()),
        envs: Some(vec![("Z".into(), "1\u{7}\"".into()), ("A".into(), "ü".into()), ("Z".into(), "".into())]),
        limits: Some(Limits {
            cpu: Some(1005),
            memory: Some(u64::MAX),
            tasks: Some(64),
            resources: vec![(Resource::Nproc, 64), (Resource::Core, u64::MAX), (Resource::As, 0)],
        }),
        package: Some(Box::new(package("2", Format::Deb))),
        previous: Some(Box::new(package("1", Format::TarXz))),
    }
}

fn full_job() -> JobRecord {
    JobRecord {
        id: "ddc8a9b9-1".into(),
        seq: 1 << 62,
        action: "upgrade".into(),
        name: "BasicAgent".into(),
        text: "{\"id\":\"ddc8a9b9-1\"}".into(),
        boot_id: "b".into(),
        received: Time(u64::MAX - 1),
        phase: Phase::Settling,
        step: Some(Step::Settle),
        direction: Direction::Back,
        before: Some(Box::new(full_agent())),
        package: Some(Box::new(package("3", Format::Rpm))),
        foreign: true,
        found: Some("1.0-1".into()),
        held: "hold:web hold:web-old".into(),
        note: "the package manager had trouble".into(),
        outcome: Some(Outcome::new(Code::RolledBack, "from 3 to 2")),
    }
}

fn full_run() -> RunRecord {
    RunRecord {
        name: "a".into(),
        boot_id: "b".into(),
        process: Pid::new(i32::MAX).map(|pid| Process { pid, ticks: u64::MAX }),
        forking: true,
        stopping: true,
        started: Time(1),
        started_with: Some(Fingerprints { whole: u64::MAX, process: Some(1) }),
        failures: u32::MAX,
        restart_at: Some(Time(2)),
        finished: false,
        fatal: true,
        killed: true,
        spares: Some(u64::MAX),
        detail: "exited with status 1".into(),
        unready: true,
        said: "loading".into(),
    }
}

#[test]
fn identity_and_settings_come_back() {
    let identity = Identity { sn: "bfdcc18c".into(), machine_id: "m".into() };
    assert_eq!(read_identity(&write_identity(&identity)), Ok(identity));
    for step in [None, Some(Duration::from_secs(86_400)), Some(Duration::from_secs(10))] {
        let settings = Settings { svrlist: "a:1,b:2".into(), step, package: "bootagent-1 SHA256:00".into() };
        assert_eq!(read_settings(&write_settings(&settings)), Ok(settings));
    }
    assert_eq!(read_settings("{}"), Ok(Settings::default()));
}

#[test]
fn what_would_cut_a_host_off_is_damage() {
    for step in ["0", "9", "0.001", "86401", "315360000", "1e300", "18446744073709551615", "-1"] {
        let read = read_settings(&format!("{{\"svrlist\":\"a:1\",\"step\":{step}}}"));
        assert!(read.is_err_and(|why| why.contains("step")), "{step}");
    }
    for sn in ["", "../x", "a b", "a\\r\\nX: y", "\u{e9}", &"a".repeat(65)] {
        let read = read_identity(&format!("{{\"sn\":\"{sn}\",\"machine_id\":\"m\"}}"));
        assert!(read.is_err_and(|why| why.contains("sn: not the name of a host")), "{sn}");
    }
}

#[test]
fn agents_come_back() {
    let bare = AgentRecord { name: "a".into(), ..AgentRecord::default() };
    let emptied = AgentRecord { envs: Some(Vec::new()), limits: Some(Limits::default()), ..bare.clone() };
    let up = AgentRecord { wanted: Some(Wanted::Up), ..bare.clone() };
    for agent in [bare, emptied, up, full_agent()] {
        assert_eq!(read_agent(&write_agent(&agent)), Ok(agent));
    }
    let formats = [Format::Rpm, Format::Deb, Format::Apk, Format::Ipk, Format::Tar, Format::TarGz, Format::TarXz];
    for format in formats {
        let agent = AgentRecord { package: Some(Box::new(package("1", format))), ..full_agent() };
        assert_eq!(read_agent(&write_agent(&agent)), Ok(agent));
    }
}

#[test]
fn jobs_come_back_in_every_phase_and_with_every_code() {
    for (phase, _) in Phase::ALL {
        let direction = if phase < Phase::Done { Direction::Back } else { Direction::Forward };
        let job = JobRecord { phase, direction, ..full_job() };
        assert_eq!(read_job(&write_job(&job)), Ok(job));
    }
    for raw in 0..=10 {
        let outcome = Code::new(raw).map(|code| Outcome::new(code, "x"));
        assert!(outcome.is_some());
        let job = JobRecord { outcome, ..full_job() };
        assert_eq!(read_job(&write_job(&job)), Ok(job));
    }
    let bare = JobRecord {
        foreign: false,
        found: None,
        held: "".into(),
        note: "".into(),
        phase: Phase::Received,
        step: None,
        direction: Direction::Forward,
        before: None,
        package: None,
        outcome: None,
        ..full_job()
    };
    assert_eq!(read_job(&write_job(&bare)), Ok(bare));
}

#[test]
fn runs_come_back() {
    let bare = RunRecord { process: None, restart_at: None, fatal: false, killed: false, ..full_run() };
    let finished = RunRecord { finished: true, ..bare.clone() };
    for run in [bare, finished, full_run()] {
        assert_eq!(read_run(&write_run(&run)), Ok(run));
    }
}

#[test]
fn a_finished_run_is_read_from_1_0_0_and_by_1_0_0() {
    // 1.0.0 knows no `finished`: it writes and reads a restart at the end of time.
    let old = "{\"name\":\"a\",\"restart_at\":18446744073709551615}";
    assert_eq!(read_run(old).map(|run| (run.finished, run.restart_at)), Ok((true, None)));
    assert_eq!(
        read_run("{\"name\":\"a\",\"restart_at\":7}").map(|run| (run.finished, run.restart_at)),
        Ok((false, Some(Time(7))))
    );
    let finished = RunRecord { finished: true, restart_at: None, ..full_run() };
    assert!(write_run(&finished).contains("\"restart_at\":18446744073709551615"), "{}", write_run(&finished));
    let waiting = RunRecord { finished: false, restart_at: None, ..full_run() };
    assert!(!write_run(&waiting).contains("restart_at"), "{}", write_run(&waiting));
}

#[test]
fn a_newer_binarys_record_is_read() {
    let text =
        "{\"name\":\"a\",\"colour\":{\"x\":[1]},\"limits\":{\"gpu\":1,\"resources\":[[\"gpus\",1],[\"nofile\",2]]}}";
    let limits = Limits { resources: vec![(Resource::Nofile, 2)], ..Limits::default() };
    assert_eq!(read_agent(text), Ok(AgentRecord { name: "a".into(), limits: Some(limits), ..AgentRecord::default() }));
    assert_eq!(read_run("{\"name\":\"a\",\"new\":1}").map(|run| run.failures), Ok(0));
    assert_eq!(read_job("{\"id\":\"a\",\"phase\":\"received\",\"new\":null}").map(|job| job.seq), Ok(0));
}

#[test]
fn a_record_of_1_0_0_says_which_way_its_job_goes() {
    let failed = ",\"outcome\":{\"code\":7,\"message\":\"m\"}";
    let proved = ",\"outcome\":{\"code\":0,\"message\":\"m\"}";
    for (phase, rest, direction, step) in [
        ("installing", "", Direction::Forward, None),
        ("installing", failed, Direction::Back, None),
        ("settling", failed, Direction::Back, None),
        // A new binary of the daemon that has proved itself.
        ("settling", proved, Direction::Forward, None),
        ("done", failed, Direction::Forward, None),
        // This binary says it, and a later one may have steps that are not known here.
        ("settling", ",\"step\":\"replace\",\"direction\":\"forward\"", Direction::Forward, Some(Step::Replace)),
        ("installing", ",\"step\":\"stop\",\"direction\":\"back\"", Direction::Back, Some(Step::Stop)),
        ("installing", ",\"step\":\"melt\",\"direction\":\"up\"", Direction::Forward, None),
    ] {
        let read = read_job(&format!("{{\"id\":\"a\",\"phase\":\"{phase}\"{rest}}}"));
        assert_eq!(read.map(|job| (job.direction, job.step)), Ok((direction, step)), "{phase} {rest}");
    }
}

#[test]
fn a_job_that_found_no_agent_comes_back() {
    let job = JobRecord { before: Some(Box::default()), ..full_job() };
    assert_eq!(read_job(&write_job(&job)), Ok(job));
}

#[test]
fn what_is_not_a_record_is_an_error() {
    for text in ["", "[]", "null", "{", "{}", "{\"name\":\"a/b\"}", "\0\0\0\0", "{\"name\":1}"] {
        assert!(read_agent(text).is_err() && read_run(text).is_err() && read_job(text).is_err(), "{text}");
        assert!(read_identity(text).is_err(), "{text}");
    }
    for (text, want) in [
        ("{\"id\":\"../x\",\"phase\":\"done\"}", "id"),
        ("{\"id\":\"a\",\"phase\":\"melting\"}", "phase"),
        ("{\"id\":\"a\",\"phase\":\"done\"}", "outcome"),
        ("{\"id\":\"a\",\"phase\":\"done\",\"outcome\":{\"code\":11}}", "outcome.code"),
        ("{\"id\":\"a\",\"phase\":\"received\",\"before\":{\"name\":\"../x\"}}", "before.name"),
        ("{\"id\":\"a\",\"phase\":\"installing\",\"name\":\"../x\"}", "name"),
        ("{\"id\":\"a\",\"phase\":\"received\",\"seq\":18446744073709551615}", "seq"),
    ] {
        let got = read_job(text).map(drop).unwrap_err();
        assert!(got.starts_with(want), "{text}: {got}");
    }
    assert!(read_run("{\"name\":\"a\",\"pid\":1}").is_err());
    assert!(read_agent("{\"name\":\"a\",\"envs\":{\"A\":\"secret\"}}").is_err_and(|e| !e.contains("secret")));
    assert!(read_agent("{\"name\":\"a\",\"wanted\":\"sideways\"}").is_err());
}

#[test]
fn a_cut_record_is_never_half_read() {
    let texts = [write_agent(&full_agent()), write_job(&full_job()), write_run(&full_run())];
    for text in texts {
        for end in (0..text.len()).filter(|end| text.is_char_boundary(*end)) {
            let cut = &text[..end];
            assert!(read_agent(cut).is_err() && read_job(cut).is_err() && read_run(cut).is_err(), "{cut}");
        }
    }
}

#[test]
fn packages_have_plain_names() {
    let digest = "SHA256:4a34b8d7d3009bb9ef9475fbf33e7bbe4a1e8db003aefc578a241c2f51c2c2f2";
    for (key, text, plain) in [
        ("package", "1.5.6", true),
        ("package", "1:2+b~c", true),
        ("package", "", true),
        ("package", "..", false),
        ("package", ".", false),
        ("package", "../../../etc", false),
        ("package", "/etc", false),
        ("package", "-rf", false),
        ("file", "job.deb", true),
        ("file", "../../settings.json", false),
        ("file", "--force", false),
    ] {
        for whose in ["package", "previous"] {
            let record = format!(
                "{{\"name\":\"a\",\"{whose}\":{{\"format\":\".tar\",\"digest\":\"{digest}\",\"{key}\":\"{text}\"}}}}"
            );
            assert_eq!(read_agent(&record).is_ok(), plain, "{record}");
        }
    }
}

#[test]
fn a_refused_job_may_have_any_name() {
    let text = "{\"id\":\"a\",\"phase\":\"done\",\"name\":\"../x\",\"outcome\":{\"code\":1,\"message\":\"name\"}}";
    assert_eq!(read_job(text).map(|job| job.name), Ok("../x".into()));
}
