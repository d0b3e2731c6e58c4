use super::*;

/// Reads a definition made of the three required keys and `extra`, or every fault.
fn read(extra: &str, in_tar: bool) -> Result<Spec, Vec<String>> {
    let text = format!(r#"{{"name":"web","version":"1.0","exec":["/bin/web"]{extra}}}"#);
    whole(&text, in_tar)
}

fn whole(text: &str, in_tar: bool) -> Result<Spec, Vec<String>> {
    let value = json::parse(text, json::MAX_DEPTH).expect("the test's own text is JSON");
    let mut faults = Vec::new();
    Fields::of(&value, &mut faults).and_then(|fields| definition(fields, in_tar, true)).ok_or(faults)
}

#[test]
fn every_key_has_a_place_in_the_spec() {
    let text = r#"{
        "name": "BasicAgent", "version": "1.2.3~rc1", "exec": ["/usr/sbin/basicagent", "-f", ""],
        "type": "forking", "pidfile": "/run/basic.pid", "user": "1000", "group": "adm", "directory": "/srv",
        "umask": "0027", "envs": { "PATH": "/bin", "_x9": "" },
        "limits": { "CPU": "10%", "memory": "20M", "tasks": 64, "nofile": 1024, "nproc": "unlimited", "core": 0, "as": "1G" },
        "autostart": false, "autorestart": "unexpected", "exitcodes": [0, 255], "startsecs": 0.5,
        "stopsignal": "SIGINT", "stopsecs": 0, "kill": "mixed", "prestart": { "exec": ["/bin/y", "-t"] },
        "reload": { "exec": ["/bin/x"], "timeout": 5 }, "restartsecs": 0, "windowsecs": 5, "retries": 0,
        "check": { "exec": ["/bin/true", "x"], "interval": 1.5, "timeout": 2, "retries": 1 }, "log_size": 4096,
        "runtime_directory": ["basic", "b/x"], "env_file": "-/etc/default/basic", "nice": -20, "oom_score_adj": 1000,
        "no_new_privs": true, "capabilities": ["CAP_CHOWN", "net_bind_service"],
        "ambient_capabilities": ["CAP_CHOWN"]
    }"#;
    let mut want = Spec::new("BasicAgent", "1.2.3~rc1", vec!["/usr/sbin/basicagent".into(), "-f".into(), "".into()]);
    want.kind = Kind::Forking;
    want.pidfile = Some("/run/basic.pid".into());
    want.user = Some(Account::Id(1000));
    want.group = Some(Account::Name("adm".into()));
    want.directory = "/srv".into();
    want.umask = 0o027;
    want.runtime_directory = vec!["basic".into(), "b/x".into()];
    want.envs = vec![("PATH".into(), "/bin".into()), ("_x9".into(), "".into())];
    want.limits = Limits {
        cpu: Some(1000),
        memory: Some(20 << 20),
        tasks: Some(64),
        resources: vec![
            (Resource::Nofile, 1024),
            (Resource::Nproc, u64::MAX),
            (Resource::Core, 0),
            (Resource::As, 1 << 30),
        ],
    };
    want.autostart = false;
    want.autorestart = Autorestart::Unexpected;
    want.exitcodes = vec![0, 255];
    want.startsecs = Duration::from_millis(500);
    want.stopsignal = Sig::INT;
    want.stopsecs = Duration::ZERO;
    want.ambient_capabilities = 1;
    want.kill = KillMode::Mixed;
    let program = Program { exec: vec!["/bin/x".into()], timeout: Duration::from_secs(5) };
    let exec = vec!["/bin/y".into(), "-t".into()];
    want.prestart = Some(Box::new(Program { exec, timeout: Duration::from_secs(60) }));
    want.reload = Some(Reload::Exec(Box::new(program)));
    want.restartsecs = Some(Duration::ZERO);
    want.windowsecs = Some(Duration::from_secs(5));
    want.retries = Some(0);
    want.check = Some(Box::new(Check {
        exec: vec!["/bin/true".into(), "x".into()],
        interval: Duration::from_millis(1500),
        timeout: Duration::from_secs(2),
        retries: 1,
    }));
    want.log_size = 4096;
    want.env_file = Some("-/etc/default/basic".into());
    (want.nice, want.oom_score_adj) = (-20, 1000);
    want.no_new_privs = true;
    want.capabilities = Some(1 | 1 << 10);
    assert_eq!(whole(text, false), Ok(want));
}

#[test]
fn what_is_missing_or_null_is_at_its_default() {
    let want = Spec::new("web", "1.0", vec!["/bin/web".into()]);
    assert_eq!(read("", false), Ok(want.clone()));
    let nulls = r#","type":null,"pidfile":null,"user":null,"group":null,"directory":null,"umask":null,"envs":null,
        "limits":null,"autostart":null,"autorestart":null,"exitcodes":null,"startsecs":null,"stopsignal":null,
        "stopsecs":null,"kill":null,"restartsecs":null,"windowsecs":null,"retries":null,"check":null,"log_size":null,
        "env_file":null,"nice":null,"oom_score_adj":null,"no_new_privs":null,"capabilities":null"#;
    assert_eq!(read(nulls, false), Ok(want.clone()));
    assert_eq!(read(r#","limits":{"CPU":null,"memory":null,"nofile":null}"#, false), Ok(want));
    let check = read(r#","check":{"exec":["/bin/true"]}"#, false).map(|spec| spec.check);
    let (interval, timeout) = (Duration::from_secs(60), Duration::from_secs(10));
    let want = Check { exec: vec!["/bin/true".into()], interval, timeout, retries: 3 };
    assert_eq!(check, Ok(Some(Box::new(want))));
}

/// A wrong value, and what is said of it.
const WRONG: &[(&str, &str)] = &[
    (r#""type":"daemon""#, r#"type: want "simple", "forking" or "notify", got "daemon""#),
    (r#""type":"simple","pidfile":"/run/x""#, r#"pidfile: only with type "forking""#),
    (r#""pidfile":"/run/x""#, r#"pidfile: only with type "forking""#),
    (r#""type":"forking","pidfile":"x.pid""#, r#"pidfile: want an absolute path, got "x.pid""#),
    (r#""user":"""#, r#"user: want a user name or number, got """#),
    (r#""user":"a:b""#, r#"user: want a user name or number, got "a:b""#),
    (r#""user":"-x""#, r#"user: want a user name or number, got "-x""#),
    (r#""user":-1"#, "user: want a user name or number, got -1"),
    (r#""user":4294967295,"group":0"#, "user: want a user name or number, got 4294967295"),
    (r#""user":"4294967296","group":0"#, r#"user: want a user name or number, got "4294967296""#),
    (r#""user":1000"#, "group: missing, a numeric user needs one"),
    (r#""user":"0""#, "group: missing, a numeric user needs one"),
    (r#""user":"0","group":null"#, "group: missing, a numeric user needs one"),
    (r#""user":1,"group":true"#, "group: want a group name or number, got true"),
    (r#""directory":"srv""#, r#"directory: want an absolute path, got "srv""#),
    (r#""directory":"/s\u0000""#, r#"directory: want a string without NUL, got "/s\u0000""#),
    (r#""umask":22"#, r#"umask: want an octal string such as "022", got 22"#),
    (r#""umask":"1000""#, r#"umask: want an octal string such as "022", got "1000""#),
    (r#""umask":"028""#, r#"umask: want an octal string such as "022", got "028""#),
    (r#""umask":"+22""#, r#"umask: want an octal string such as "022", got "+22""#),
    (r#""umask":"""#, r#"umask: want an octal string such as "022", got """#),
    (r#""envs":["A=secret"]"#, "envs: want an object of strings"),
    (r#""envs":"A=secret""#, "envs: want an object of strings"),
    (r#""envs":{"A":1}"#, "envs.A: want a string without NUL"),
    (r#""envs":{"A":"\u0000"}"#, "envs.A: want a string without NUL"),
    (r#""envs":{"A=secret":""}"#, r#"envs: want names of A-Z a-z 0-9 _, no digit first, got "A=...""#),
    (r#""envs":{"9A":""}"#, r#"envs: want names of A-Z a-z 0-9 _, no digit first, got "9A""#),
    (r#""envs":{"":""}"#, r#"envs: want names of A-Z a-z 0-9 _, no digit first, got """#),
    (r#""envs":{"BOOTAGENT_NAME":"x"}"#, "envs.BOOTAGENT_NAME: is set by the daemon"),
    (r#""limits":[1]"#, "limits: want an object, got an array"),
    (r#""limits":{"CPU":10}"#, r#"limits.CPU: want a share such as "10%", got 10"#),
    (r#""limits":{"CPU":"0%"}"#, r#"limits.CPU: want a share such as "10%", got "0%""#),
    (r#""limits":{"memory":"20X"}"#, r#"limits.memory: want a size such as "20M", got "20X""#),
    (r#""limits":{"memory":0}"#, r#"limits.memory: want a size such as "20M", got 0"#),
    (r#""limits":{"memory":-1}"#, r#"limits.memory: want a size such as "20M", got -1"#),
    (r#""limits":{"cpu":"10%"}"#, "limits.cpu: unknown key; did you mean \"CPU\"?"),
    (r#""limits":{"mem":"10M"}"#, "limits.mem: unknown key; did you mean \"memory\" or \"memlock\"?"),
    (r#""limits":{"nofile":"20M"}"#, r#"limits.nofile: want an integer or "unlimited", got "20M""#),
    (r#""limits":{"nproc":1.5}"#, r#"limits.nproc: want an integer or "unlimited", got 1.5"#),
    (r#""limits":{"cputime":-1}"#, r#"limits.cputime: want an integer or "unlimited", got -1"#),
    (r#""limits":{"core":"x"}"#, r#"limits.core: want a size such as "20M" or "unlimited", got "x""#),
    (r#""limits":{"fsize":[1]}"#, r#"limits.fsize: want a size such as "20M" or "unlimited", got an array"#),
    (r#""limits":{"stack":-1}"#, r#"limits.stack: want a size such as "20M" or "unlimited", got -1"#),
    (r#""limits":{"data":true}"#, r#"limits.data: want a size such as "20M" or "unlimited", got true"#),
    (r#""limits":{"as":""}"#, r#"limits.as: want a size such as "20M" or "unlimited", got """#),
    (r#""limits":{"memlock":1.5}"#, r#"limits.memlock: want a size such as "20M" or "unlimited", got 1.5"#),
    (r#""autostart":"yes""#, r#"autostart: want true or false, got "yes""#),
    (r#""autorestart":true"#, r#"autorestart: want "always", "unexpected", "on-signal" or "never", got true"#),
    (r#""exitcodes":0"#, "exitcodes: want an array of integers of 0..255, got 0"),
    (r#""exitcodes":[0,256]"#, "exitcodes[1]: want an integer of 0..255, got 256"),
    (r#""startsecs":-1"#, "startsecs: want seconds, 0 or more and at most ten years, got -1"),
    (r#""startsecs":"10""#, r#"startsecs: want seconds, 0 or more and at most ten years, got "10""#),
    (r#""stopsecs":1e10"#, "stopsecs: want seconds, 0 or more and at most ten years, got 10000000000.0"),
    (r#""stopsignal":"terminate""#, r#"stopsignal: want a signal such as "TERM", got "terminate""#),
    (r#""stopsignal":0"#, r#"stopsignal: want a signal such as "TERM", got 0"#),
    (r#""restartsecs":-0.1"#, "restartsecs: want seconds, 0 or more and at most ten years, got -0.1"),
    (r#""windowsecs":false"#, "windowsecs: want seconds, 0 or more and at most ten years, got false"),
    (r#""retries":-1"#, "retries: want an integer of 0..4294967295, got -1"),
    (r#""retries":4294967296"#, "retries: want an integer of 0..4294967295, got 4294967296"),
    (r#""check":"/bin/true""#, r#"check: want an object, got "/bin/true""#),
    (r#""check":{}"#, "check.exec: missing"),
    (r#""check":{"exec":["true"]}"#, r#"check.exec[0]: want an absolute path, got "true""#),
    (r#""check":{"exec":["/a"],"interval":0}"#, "check.interval: want seconds, above 0 and at most ten years, got 0"),
    (
        r#""check":{"exec":["/a"],"timeout":1e-12}"#,
        "check.timeout: want seconds, above 0 and at most ten years, got 1e-12",
    ),
    (r#""check":{"exec":["/a"],"retries":0}"#, "check.retries: want an integer of 1..4294967295, got 0"),
    (r#""check":{"exec":["/a"],"user":"x"}"#, "check.user: unknown key"),
    (r#""log_size":0"#, r#"log_size: want a size such as "1M", got 0"#),
    (
        r#""capabilities":["CAP_CHOWN","CAP_MAGIC"]"#,
        r#"capabilities[1]: want a name such as "CAP_CHOWN", got "CAP_MAGIC""#,
    ),
    (r#""env_file":"-x""#, r#"env_file: want an absolute path, "-" in front if it may be missing, got "-x""#),
    (r#""kill":"main process""#, r#"kill: want "tree", "mixed" or "main", got "main process""#),
    (r#""nice":20"#, "nice: want an integer of -20..19, got 20"),
    (r#""nice":0.5"#, "nice: want an integer of -20..19, got 0.5"),
    (r#""oom_score_adj":-1001"#, "oom_score_adj: want an integer of -1000..1000, got -1001"),
    (r#""capabilities":"all""#, r#"capabilities: want an array of names such as "CAP_CHOWN", got "all""#),
    (r#""no_new_privs":1"#, "no_new_privs: want true or false, got 1"),
    (r#""restart":"always""#, "restart: unknown key; did you mean \"restartsecs\"?"),
];

#[test]
fn every_key_is_checked() {
    for (extra, want) in WRONG {
        assert_eq!(read(&format!(",{extra}"), false), Err(vec![want.to_string()]), "{extra}");
    }
}

#[test]
fn what_is_required_is_checked() {
    let with = |name, version, exec| format!(r#"{{"name":{name},"version":{version},"exec":{exec}}}"#);
    let (name, version, exec) = (r#""a""#, r#""1""#, r#"["/a"]"#);
    for (text, want) in [
        (with("null", version, exec), "name: missing"),
        (with(r#""a b""#, version, exec), r#"name: want 1 to 50 of A-Z a-z 0-9 _ -, got "a b""#),
        (with(r#""bootagent""#, version, exec), r#"name: "bootagent" is the daemon's own"#),
        (with(name, "1", exec), "version: want a string of 1 to 100 of A-Z a-z 0-9 . _ + ~ : -, no dot first, got 1"),
        (
            with(name, r#""../1""#, exec),
            r#"version: want a string of 1 to 100 of A-Z a-z 0-9 . _ + ~ : -, no dot first, got "../1""#,
        ),
        (
            with(name, version, r#""/a -f""#),
            r#"exec: want an array of program and arguments such as ["/usr/sbin/agent", "-f"], got "/a -f""#,
        ),
        (
            with(name, version, "[]"),
            r#"exec: want an array of program and arguments such as ["/usr/sbin/agent", "-f"], got []"#,
        ),
        (with(name, version, r#"["a"]"#), r#"exec[0]: want an absolute path, got "a""#),
        (with(name, version, r#"["/"]"#), r#"exec[0]: want an absolute path, got "/""#),
        (with(name, version, r#"["/a", 1]"#), "exec[1]: want a string, got 1"),
        (with(name, version, r#"["/a", "\u0000"]"#), r#"exec[1]: want a string without NUL, got "\u0000""#),
        ("[]".to_string(), "want an object, got []"),
    ] {
        assert_eq!(whole(&text, false), Err(vec![want.to_string()]), "{text}");
    }
    let all = whole(r#"{"umask":1,"x":2}"#, false);
    let want = ["name: missing", "version: missing", "exec: missing"];
    let more = [r#"umask: want an octal string such as "022", got 1"#, "x: unknown key"];
    assert_eq!(all, Err([&want[..], &more].concat().into_iter().map(String::from).collect()));
}

#[test]
fn programs_in_a_tar_may_be_relative_but_stay_inside() {
    for (program, good) in [
        ("bin/a", true),
        ("a", true),
        ("./a", true),
        ("/bin/a", true),
        ("../a", false),
        ("a/../../b", false),
        ("", false),
    ] {
        let text = format!(r#"{{"name":"a","version":"1","exec":["{program}"]}}"#);
        match whole(&text, true) {
            Ok(spec) => assert!(good && &*spec.exec[0] == program, "{program}"),
            Err(faults) => {
                let want = format!("exec[0]: want an absolute path or one inside the package, got \"{program}\"");
                assert!(!good && faults == [want], "{program}: {faults:?}");
            }
        }
    }
    assert!(read(r#","check":{"exec":["bin/check"]}"#, true).is_ok());
}

#[test]
fn limits_of_a_job_may_have_unknown_keys() {
    let value = json::parse(r#"{"limits":{"CPU":"50%","io":"1M"}}"#, 2).expect("the test's own text is JSON");
    for (strict, want) in [(false, vec![]), (true, vec!["limits.io: unknown key"])] {
        let mut faults = Vec::new();
        let limits = limits(&mut Fields::of(&value, &mut faults).unwrap(), strict);
        assert_eq!(limits, Some(Limits { cpu: Some(5000), ..Limits::default() }));
        assert_eq!(faults, want);
    }
}

#[test]
fn what_a_newer_binary_recorded_is_read() {
    let text = "{\"name\":\"a\",\"version\":\"1\",\"exec\":[\"/x\"],\"colour\":1,\"limits\":{\"gpu\":1,\"nofile\":2},\
                \"check\":{\"exec\":[\"/y\"],\"mood\":1}}";
    let value = json::parse(text, json::MAX_DEPTH).unwrap();
    let mut faults = Vec::new();
    assert_eq!(definition(Fields::of(&value, &mut faults).unwrap(), false, true), None);
    assert_eq!(faults.len(), 3, "{faults:?}");
    faults.clear();
    let spec = definition(Fields::of(&value, &mut faults).unwrap(), false, false).unwrap();
    assert_eq!((&*spec.name, spec.limits.resources.len(), faults.len()), ("a", 1, 0));
}
