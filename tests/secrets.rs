//! The values of an agent's environment are for root and the agent alone.

mod util;

use std::fs;
use std::os::unix::fs::MetadataExt;

use miniserde::json;
use util::*;

#[test]
fn secrets_of_jobs_are_not_told() {
    let server = Server::new();
    let mut host = Host::with(&server);
    host.agent("web", "echo \"token $TOKEN\"; exit 1", &[("autostart", "false"), ("startsecs", "1")]);
    host.start();
    let secret = "a job's secret";
    let envs = format!("{{ \"TOKEN\": \"{secret}\", \"ALSO\": 1 }}");
    let bad = host.does(&server, &Job::new("j1", "config", "web").set("envs", &envs), 1);
    let envs = format!("{{ \"TOKEN\": \"{secret}\" }}");
    host.does(&server, &Job::new("j2", "config", "web").set("envs", &envs), 0);
    let failed = host.does(&server, &Job::new("j3", "start", "web"), 7);
    assert!(failed.contains("token"), "{failed}");
    let mut told = vec![bad, failed, host.ok(&["jobs", "--json"]), host.ok(&["status", "--json"])];
    told.extend([host.read("log/bootagent.log"), host.read("daemon.out")]);
    told.extend(server.requests().into_iter().map(|request| request.body));
    for text in told {
        assert!(!text.contains(secret), "{text}");
    }
}

#[test]
fn values_of_envs_are_in_files_for_root_only() {
    let server = Server::new();
    let mut host = Host::with(&server);
    let secret = "MARKED-f3a81c-VALUE";
    let envs = ("envs", format!("{{ \"TOKEN\": \"{secret}\", \"LONG\": \"{}\" }}", "long ".repeat(300)));
    let envs = (envs.0, envs.1.as_str());
    // Ends that print it, checks that print it, and starts that come to nothing.
    host.agent("printing", "echo \"with $TOKEN\"; env; exit 1", &[envs]);
    let check = "{ \"exec\": [\"/bin/sh\", \"-c\", \"echo $TOKEN; echo $TOKEN >&2; exit 1\"], \"interval\": 0.2 }";
    host.agent("checked", "exec sleep 1000", &[envs, ("check", check), ("limits", "{ \"nofile\": 100 }")]);
    host.agent("missing", "", &[envs, ("exec", "[\"/no/such/program\", \"x\"]")]);
    host.agent("nobodys", "exec sleep 1000", &[envs, ("user", "\"no-such-user\"")]);
    host.start();
    let job = |id: &str, action: &str, name: &str| {
        let envs = format!("{{ \"TOKEN\": \"{secret}\", \"MORE\": \"{secret}{secret}\" }}");
        // Long enough for a shell on a busy machine; the end is told at once.
        Job::new(id, action, name).set("envs", &envs).set("startsecs", "10")
    };
    let package = tarball(&host, "packed", "1.0", "echo \"$TOKEN $MORE\"; exit 1", &[]);
    let url = server.serve(&package.file, &package.bytes);
    host.does(&server, &job("i1", "install", "packed").package(&url, &package), 7);
    host.does(&server, &job("c1", "config", "printing"), 7);
    host.does(&server, &job("c2", "config", "none"), 3);
    host.does(&server, &job("c3", "config", "checked").set("limits", "{ \"memory\": \"x\" }"), 1);
    host.wait("a check that fails", || host.seen("checked").is_some_and(|agent| agent.failures > 0));
    for name in ["printing", "missing", "nobodys"] {
        host.wait_seen(name, "to have failed", |agent| !agent.detail.is_empty());
    }
    let mut told = vec![host.ok(&["status"]), host.ok(&["status", "--json"]), host.ok(&["jobs"])];
    told.extend([host.ok(&["jobs", "--json"]), host.cli(&["check"]).err]);
    told.extend(server.requests().into_iter().map(|request| request.body));
    for text in told {
        assert!(!text.contains(secret), "{text}");
    }
    // On disk it is where the daemon needs it, which is root's; where we wrote it; and where agents print it.
    let mut folders = vec![host.dir.clone()];
    let mut holding = 0;
    while let Some(path) = folders.pop() {
        let found = fs::symlink_metadata(&path).expect("it was listed");
        if found.is_dir() {
            folders.extend(entries(&path));
            continue;
        }
        let bytes = if found.is_file() { fs::read(&path).expect("root may read it") } else { Vec::new() };
        if !bytes.windows(secret.len()).any(|part| part == secret.as_bytes()) {
            continue;
        }
        let place = path.strip_prefix(&host.dir).expect("it is below").display().to_string();
        let ours =
            ["state/agents/", "state/jobs/", "state/good/", "run/values-"].iter().any(|dir| place.starts_with(dir));
        let written = place.starts_with("agents.d/");
        let printed = place.starts_with("log/") && place != "log/bootagent.log";
        assert!(ours || written || printed, "it is in {place}");
        assert!(!ours || found.mode() & 0o7777 == 0o600, "{place} has mode {:o}", found.mode());
        holding += usize::from(ours);
    }
    assert!(holding >= 3, "it was not looked for");
}

#[test]
fn noted_values_that_cannot_be_read_are_told() {
    let server = Server::new();
    let mut host = Host::with(&server);
    host.agent("web", "exec sleep 1000", &[("envs", "{ \"TOKEN\": \"a secret\" }")]);
    host.start();
    host.wait_running("web");
    let path = host.path("run/values-web.env");
    host.kill9();
    fs::remove_file(&path).expect("it is noted");
    fs::create_dir_all(path.join("full")).expect("it can be made");
    host.start();
    let line = format!("cannot read \"{}\": not a regular file, or too large; set aside", path.display());
    host.wait("it to be told", || said(&host, &line) == 1);
    let line = json::to_string(&line);
    host.wait("the server to be told", || {
        server.requests().iter().any(|sent| sent.body.contains(line.trim_matches('"')))
    });
    host.ok(&["restart", "web"]);
    host.wait("them to be noted again", || path.is_file());
}

#[test]
fn values_that_have_changed_since_the_start_are_not_told() {
    let server = Server::new();
    let mut host = Host::with(&server);
    let dir = host.dir.display().to_string();
    // It knows the value of its start, and reads that of now.
    let print = format!("echo with $TOKEN $ALSO; cat {dir}/env");
    let script = format!("while [ ! -e {dir}/go ]; do sleep 0.02; done; {print}; exit 3");
    let program = |script: &str| format!("{{ \"exec\": [\"/bin/sh\", \"-c\", \"{script}\"] }}");
    let (reload, file) = (program(&format!("{print}; exit 4")), format!("\"{dir}/env\""));
    host.agent("web", &script, &[("env_file", &file), ("reload", &reload), ("autorestart", "\"never\"")]);
    // All the values have "Hidden" in them, but the short ones of jobs.
    let change = |host: &Host, value: &str| host.write("env", &format!("TOKEN={value}\n"));
    change(&host, "firstHidden");
    host.start();
    for (round, how) in ["", "KILL", "run_dir", "USR2"].into_iter().enumerate() {
        host.wait_running("web");
        let noted = fs::symlink_metadata(host.path("run/values-web.env")).expect("it is noted");
        assert_eq!(noted.mode() & 0o7777, 0o600);
        change(&host, &format!("Hidden-{round}"));
        match how {
            "run_dir" => {
                fs::remove_dir_all(host.path("run")).expect("our own directory");
                host.wait("it to be made again", || host.path("run/values-web.env").exists());
                host.kill9();
                host.start();
            }
            "KILL" => {
                host.kill9();
                host.start();
            }
            "USR2" => drop(host.ok(&["reexec"])),
            _ => {}
        }
        let failed = host.does(&server, &Job::new(&format!("reload-{round}"), "reload", "web"), 7);
        assert!(failed.contains("with $TOKEN") && failed.contains("TOKEN=$TOKEN"), "{failed}");
        change(&host, &format!("anotherHidden-{round}"));
        host.write("go", "");
        let seen = host.wait_seen("web", "to have ended", |seen| !seen.runs());
        assert!(seen.detail.contains("with $TOKEN") && seen.detail.contains("TOKEN=$TOKEN"), "{seen:?}");
        host.wait("the values to be forgotten", || !host.path("run/values-web.env").exists());
        fs::remove_file(host.path("go")).expect("our own file");
        // The values that jobs give change as well.
        let envs = |value: &str| format!("{{ \"ALSO\": \"{value}\" }}");
        let job = |id: &str, value: &str| Job::new(&format!("{id}-{round}"), "config", "web").set("envs", &envs(value));
        host.does(&server, &job("give", &format!("Hid{round}")), 0);
        host.does(&server, &Job::new(&format!("start-{round}"), "start", "web"), 0);
    }
    let mut told = vec![host.ok(&["status", "--json"]), host.ok(&["jobs", "--json"]), host.read("log/bootagent.log")];
    told.extend(server.requests().into_iter().map(|request| request.body));
    for text in told {
        assert!(!text.contains("Hid"), "{text}");
    }
}
