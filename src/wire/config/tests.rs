use super::*;

fn texts(problems: &[ConfigError]) -> Vec<String> {
    problems.iter().map(ConfigError::to_string).collect()
}

#[test]
fn every_key_has_a_place_in_the_configuration() {
    let text = br#"{
        "svrlist": "a:1,,http://b:2/x/", "step": 0.5, "splay": 0, "hostname": "web-01",
        "agents_dir": "/a", "state_dir": "/s", "run_dir": "/r", "log_dir": "/l", "log_level": "debug",
        "checksecs": 0.1, "restartsecs": 0, "windowsecs": 0, "retries": 0,
        "max_download": "1G", "download_rate": 1000, "proxy": "p:3128", "helper_user": "net", "cgroup": "/agents", "key_file": "/k",
        "trusted_keys": ["RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3"],
        "labels": { "site": "Ulm 7/3 \u00e4", "role": "" }
    }"#;
    let want = Config {
        servers: vec![Server { base: "http://a:1".into() }, Server { base: "http://b:2/x".into() }],
        step: Duration::from_millis(500),
        splay: Duration::ZERO,
        hostname: Some("web-01".into()),
        agents_dir: "/a".into(),
        state_dir: "/s".into(),
        run_dir: "/r".into(),
        log_dir: "/l".into(),
        log_level: Level::Debug,
        checksecs: Duration::from_millis(100),
        restartsecs: Duration::ZERO,
        windowsecs: Duration::ZERO,
        retries: 0,
        max_download: 1 << 30,
        download_rate: Some(1000),
        proxy: Some("p:3128".into()),
        helper_user: Some("net".into()),
        cgroup: Some("/agents".into()),
        key_file: Some("/k".into()),
        trusted_keys: vec!["RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3".into()],
        labels: vec![("role".into(), "".into()), ("site".into(), "Ulm 7/3 \u{e4}".into())],
    };
    assert_eq!(read_config("bootagent.json", text), (want, vec![]));
    assert_eq!(read_config("bootagent.json", b"{}"), (Config::default(), vec![]));
}

#[test]
fn every_key_of_the_configuration_is_checked() {
    for (text, want) in [
        (r#""svrlist":["a:1"]"#, "svrlist: want a string, got an array"),
        (r#""svrlist":"a:1,b:0""#, r#"svrlist: server "b:0": want a port of 1..65535"#),
        (r#""step":0"#, "step: want seconds, above 0 and at most ten years, got 0"),
        (r#""splay":-1"#, "splay: want seconds, 0 or more and at most ten years, got -1"),
        (r#""hostname":"a b""#, r#"hostname: want 1 to 253 of A-Z a-z 0-9 . _ -, got "a b""#),
        (r#""hostname":"""#, r#"hostname: want 1 to 253 of A-Z a-z 0-9 . _ -, got """#),
        (r#""agents_dir":"agents.d""#, r#"agents_dir: want an absolute path, got "agents.d""#),
        (r#""state_dir":"""#, r#"state_dir: want an absolute path, got """#),
        (r#""run_dir":1"#, "run_dir: want an absolute path, got 1"),
        (r#""log_dir":"/l\u0000""#, r#"log_dir: want a string without NUL, got "/l\u0000""#),
        (r#""log_level":"trace""#, r#"log_level: want "error", "warn", "info" or "debug", got "trace""#),
        (r#""checksecs":0"#, "checksecs: want seconds, above 0 and at most ten years, got 0"),
        (r#""restartsecs":"3m""#, r#"restartsecs: want seconds, 0 or more and at most ten years, got "3m""#),
        (r#""windowsecs":1e9"#, "windowsecs: want seconds, 0 or more and at most ten years, got 1000000000.0"),
        (r#""retries":1.5"#, "retries: want an integer of 0..4294967295, got 1.5"),
        (r#""max_download":"big""#, r#"max_download: want a size above 0 such as "512M", got "big""#),
        (r#""proxy":"p""#, r#"proxy: want the host:port of an HTTP proxy, got "p""#),
        (r#""proxy":"http://p:1""#, r#"proxy: want the host:port of an HTTP proxy, got "http://p:1""#),
        (r#""proxy":"u@p:1""#, r#"proxy: want the host:port of an HTTP proxy, got "u@p:1""#),
        (r#""download_rate":0"#, r#"download_rate: want a size above 0 such as "512M", got 0"#),
        (r#""helper_user":1000"#, "helper_user: want a user name, got 1000"),
        (r#""cgroup":"/""#, r#"cgroup: want the path of a control group, got "/""#),
        (r#""cgroup":"a/../b""#, r#"cgroup: want the path of a control group, got "a/../b""#),
        (r#""key_file":"key""#, r#"key_file: want an absolute path, got "key""#),
        (r#""trusted_keys":"RW""#, r#"trusted_keys: want an array of minisign public keys, got "RW""#),
        (
            r#""trusted_keys":["RW"]"#,
            r#"trusted_keys[0]: want a minisign public key, "RW" and 54 more of base64, got "RW""#,
        ),
        (r#""labels":["a"]"#, "labels: want an object, got an array"),
        (r#""labels":{"a b":"c"}"#, "labels.a b: want a name of 1 to 50 of A-Z a-z 0-9 _ -"),
        (r#""labels":{"a":1}"#, "labels.a: want a text of at most 128 bytes on one line, got 1"),
        (r#""labels":{"a":"b\nc"}"#, r#"labels.a: want a text of at most 128 bytes on one line, got "b\nc""#),
        (r#""Step":1"#, "Step: unknown key; did you mean \"step\"?"),
        (r#""svr":1"#, "svr: unknown key; did you mean \"svrlist\"?"),
        (r#""log":1"#, "log: unknown key; did you mean \"log_dir\" or \"log_level\"?"),
        (r#""max_donwload":1"#, "max_donwload: unknown key; did you mean \"max_download\"?"),
    ] {
        let (config, problems) = read_config("/etc/b.json", format!("{{{text}}}").as_bytes());
        assert_eq!(texts(&problems), [format!("/etc/b.json: {want}")], "{text}");
        assert_eq!(config, Config::default(), "{text}");
    }
    let labels = |count: usize, length: usize| {
        let label = |number| format!("\"l{number}\":\"{}\"", "x".repeat(length));
        format!("{{\"labels\":{{{}}}}}", (0..count).map(label).collect::<Vec<_>>().join(","))
    };
    for (count, length, want) in [(32, 128, None), (33, 1, Some("at most 32 labels")), (1, 129, Some("128 bytes"))] {
        let (_, problems) = read_config("b.json", labels(count, length).as_bytes());
        assert_eq!(problems.len(), usize::from(want.is_some()), "{problems:?}");
        assert!(problems.iter().all(|problem| problem.message.contains(want.unwrap_or_default())), "{problems:?}");
    }
    let room = "/".repeat(MAX_RUN_DIR);
    for (text, want) in [
        (r#""run_dir":"/s/","state_dir":"/s""#.to_string(), &["run_dir: want another directory than state_dir"][..]),
        (format!(r#""run_dir":"{room}x""#), &["run_dir: longer than 92 bytes, so that no socket can be made in it"]),
        (format!(r#""run_dir":"{}x""#, &room[1..]), &[]),
    ] {
        let (_, problems) = read_config("b.json", format!("{{{text}}}").as_bytes());
        let want: Vec<String> = want.iter().map(|want| format!("b.json: {want}")).collect();
        assert_eq!(texts(&problems), want, "{text}");
    }
    let (_, problems) = read_config("b.json", b"[]");
    assert_eq!(texts(&problems), ["b.json: want an object, got []"]);
    let (config, problems) = read_config("b.json", b"{\"step\":\n x}");
    assert_eq!((config, texts(&problems)), (Config::default(), vec!["b.json:2:2: expected a value".to_string()]));
    let (config, problems) = read_config("b.json", br#"{"run_dir":"/r","step":0,"x":1,"retries":-1}"#);
    assert_eq!((&*config.run_dir, problems.len()), ("/r", 3));
}

#[test]
fn directories_are_found_in_what_is_no_json() {
    for (text, want) in [
        (r#"{"state_dir": "/s" "step":1}"#, "/s"),
        ("{\n\"step\": 10,,\n \"state_dir\"\t:\r\n \"/s/t\"", "/s/t"),
        (r#"{"state_dir":"s","x","state_dir":"/s\u0041"#, Config::default().state_dir.as_ref()),
        (r#"{"state_dir":"s","x","state_dir":"/s\u0041","#, "/sA"),
        (r#"{"state_dir":"/s\"/t","#, Config::default().state_dir.as_ref()),
        (r#"{"state_dir" "/s", "log_dir":"/l""#, Config::default().state_dir.as_ref()),
        (r#"{"state_dir":"/s","#, "/s"),
        (r#"{"state_dir":"/s"#, Config::default().state_dir.as_ref()),
        (r#"{"state_dir":"#, Config::default().state_dir.as_ref()),
        ("", Config::default().state_dir.as_ref()),
    ] {
        let (config, problems) = read_config("b.json", text.as_bytes());
        assert_eq!((&*config.state_dir, problems.len()), (want, 1), "{text}");
    }
    let text = b"\xff{\"agents_dir\":\"/a\",\"run_dir\":\"/r\",\"log_dir\":\"/l\",\"step\":5,";
    let (config, _) = read_config("b.json", text);
    assert_eq!((&*config.agents_dir, &*config.run_dir, &*config.log_dir), ("/a", "/r", "/l"));
    assert_eq!(config.step, Config::default().step);
}

fn source(file: &str, text: &str, good: Option<&str>) -> Source {
    Source { file: file.into(), text: Ok(text.into()), good: good.map(Into::into) }
}

fn agent(name: &str, version: &str) -> String {
    format!(r#"{{"name":"{name}","version":"{version}","exec":["/bin/{name}"]}}"#)
}

/// `file=name-version`, with a `*` after what is outdated, as one line.
fn line(read: &Agents) -> String {
    let mut line = String::new();
    for Defined { file, spec, outdated } in &read.agents {
        line += &format!("{file}={}-{}{} ", spec.name, spec.version, if *outdated { "*" } else { "" });
    }
    line.trim_end().to_string()
}

#[test]
fn all_files_are_read_and_all_errors_said() {
    let read = read_agents(
        "agents.d/",
        &mut [
            source("web.json", &agent("web", "1"), None),
            source("bad.json", "{\n  \"name\": \"bad\"\n}", None),
            source("cut.json", "{\n  \"name\": \"cut\"\n  \"version\": \"1\" }", None),
            Source {
                file: "dark.json".into(),
                text: Err(SourceError::Unreadable("cannot read: Permission denied".into())),
                good: None,
            },
            source("Zed.json", &agent("zed", "2"), None),
            source("web2.json", &agent("web", "3"), None),
            source("limits.json", r#"{"name":"l","version":"1","exec":["/l"],"limits":{"memory":"20X","x":1}}"#, None),
        ],
    );
    assert_eq!(line(&read), "Zed.json=zed-2 web.json=web-1");
    assert_eq!(
        texts(&read.problems),
        [
            "agents.d/bad.json: version: missing",
            "agents.d/bad.json: exec: missing",
            "agents.d/cut.json:3:3: expected \",\" or \"}\"",
            "agents.d/dark.json: cannot read: Permission denied",
            "agents.d/limits.json: limits.memory: want a size such as \"20M\", got \"20X\"",
            "agents.d/limits.json: limits.x: unknown key",
            "agents.d/web2.json: name: \"web\" is already defined in web.json",
        ]
    );
}

#[test]
fn a_bad_file_counts_as_it_was_when_it_was_good() {
    let (a1, a2, b1) = (agent("a", "1"), agent("a", "2"), agent("b", "1"));
    for (mut sources, want, problems) in [
        (vec![source("a.json", "{", Some(&a1)), source("b.json", &b1, Some("{"))], "a.json=a-1* b.json=b-1", 1),
        // The good text is not used while the file itself is good, nor when it would not be accepted today.
        (vec![source("a.json", &a2, Some(&a1))], "a.json=a-2", 0),
        (vec![source("a.json", "{", Some("{}"))], "", 1),
        // An agent that moved to another file is what that file says.
        (vec![source("a.json", "{", Some(&a1)), source("b.json", &a2, None)], "b.json=a-2", 1),
        // A duplicate falls back to the other agent it was before.
        (vec![source("a.json", &a1, None), source("b.json", &a2, Some(&b1))], "a.json=a-1 b.json=b-1*", 1),
        (vec![source("a.json", "{", Some(&a1)), source("b.json", "{", Some(&a2))], "a.json=a-1*", 2),
    ] {
        let read = read_agents("d", &mut sources);
        assert_eq!((line(&read).as_str(), read.problems.len()), (want, problems), "{:?}", read.problems);
    }
    let unreadable = Source {
        file: "a.json".into(),
        text: Err(SourceError::Unreadable("cannot read".into())),
        good: Some(a1.into()),
    };
    assert_eq!(line(&read_agents("d", &mut [unreadable])), "a.json=a-1*");
}

#[test]
fn a_running_daemon_takes_over_labels_alone() {
    let fra = r#""labels":{"site":"fra"}"#;
    for (before, now, want) in [
        ("", "", None),
        (fra, fra, None),
        // What the file says now without saying anything new.
        ("", r#""step":600"#, None),
        ("", fra, Some(Change::Labels)),
        (fra, "", Some(Change::Labels)),
        (fra, r#""labels":{"site":"ams"}"#, Some(Change::Labels)),
        (fra, r#""labels":{"site":"fra"},"step":60"#, Some(Change::Other)),
        (fra, r#""step":60"#, Some(Change::Other)),
    ] {
        let [mut used, new] = [before, now].map(|text| read_config("f", format!("{{{text}}}").as_bytes()).0);
        assert_eq!(used.take_over(&new), want, "{before} {now}");
        assert_eq!(used.labels, new.labels, "{before} {now}");
        assert_eq!(used.step, Config::default().step, "{before} {now}");
    }
}

#[test]
fn the_examples_are_good() {
    let (config, problems) = read_config("bootagent.json", include_bytes!("../../../examples/bootagent.json"));
    assert_eq!(texts(&problems), Vec::<String>::new());
    assert_eq!(config.servers.len(), 2);
    // Apart from what names servers and the helper it shows the defaults.
    assert_eq!(Config { servers: Vec::new(), helper_user: None, ..config }, Config::default());
    for (file, text) in [
        ("BasicAgent", include_str!("../../../examples/agents.d/BasicAgent.json")),
        ("node-exporter", include_str!("../../../examples/agents.d/node-exporter.json")),
        ("snmpd", include_str!("../../../examples/agents.d/snmpd.json")),
    ] {
        let name = read_definition(file, text.as_bytes(), false, true).map(|spec| spec.name);
        assert_eq!(name.map_err(|problems| texts(&problems)), Ok(file.into()));
    }
}

#[test]
fn mangled_files_never_panic() {
    let agent = include_bytes!("../../../examples/agents.d/BasicAgent.json");
    let config = include_bytes!("../../../examples/bootagent.json");
    let mut seed = 7u32;
    let mut random = |below: usize| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 8) as usize % below
    };
    let pieces: [&[u8]; 8] = [b"-1", b"1e309", b"1e18", b"null", b"[]", b"{}", b"\"\\u0000\"", b"\xff"];
    let mut wrong = 0;
    for _ in 0..5_000 {
        for whole in [&agent[..], config] {
            let (at, cut, piece) = (random(whole.len()), random(8), pieces[random(pieces.len())]);
            let end = (at + cut).min(whole.len());
            let text = [&whole[..at], piece, &whole[end..]].concat();
            wrong += usize::from(read_definition("f", &text, false, true).is_err());
            wrong += usize::from(!read_config("f", &text).1.is_empty());
        }
    }
    assert!(wrong > 18_500, "only {wrong} of 20000 were wrong");
}
