//! `check`: what it passes, what it warns of, and every message that it has for what is wrong.

mod util;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use util::*;

#[test]
fn the_example_is_a_good_definition() {
    let host = Host::new();
    host.configure();
    host.write("agents.d/example.json", &host.ok(&["example"]));
    let ran = host.cli(&["check"]);
    assert!(ran.code == 0 && ran.err.is_empty() && ran.out.contains("1 agent"), "{ran:?}");
}

#[test]
fn check_passes_what_is_good() {
    let mut host = Host::new();
    host.configure();
    let ran = host.cli(&["check"]);
    assert!(ran.code == 0 && ran.err.is_empty(), "{ran:?}");
    host.agent("web", "exec sleep 1000", &[("limits", "{ \"CPU\": \"10%\", \"memory\": \"20M\", \"nofile\": 1024 }")]);
    host.set("max_download", "\"1.5G\"").set("svrlist", "\"one.example.org:80,http://two/path,\"");
    host.configure();
    let ran = host.cli(&["check"]);
    assert!(ran.code == 0 && ran.err.is_empty(), "{ran:?}");
    // Agents may all come with jobs, but a directory that is not there may be a misspelled one as well.
    fs::remove_dir_all(host.path("agents.d")).unwrap();
    let ran = host.cli(&["check"]);
    assert!(ran.code == 0 && ran.err.contains("warning: agents_dir: there is no directory"), "{ran:?}");
}

#[test]
fn check_warns_of_what_will_be_met_later() {
    let mut host = Host::new();
    host.agent("web", "exec sleep 1000", &[("limits", "{ \"fsize\": \"64K\" }"), ("log_size", "\"1M\"")]);
    host.configure();
    let ran = host.cli(&["check"]);
    let want = "warning: web.json: limits.fsize: 64K is not above log_size (1M)";
    assert!(ran.code == 0 && ran.err.contains(want) && !ran.err.contains("noexec"), "{ran:?}");
    if lacks_root() {
        return;
    }
    let dir = host.dir.display().to_string();
    host.set("state_dir", &format!("\"{dir}/not-there/yet\""));
    host.configure();
    // The program itself is elsewhere.
    let script = "mount --bind \"$0\" \"$0\" && mount -o remount,bind,noexec \"$0\" && exec \"$@\"";
    let config = host.path("bootagent.json").display().to_string();
    let mut command = Command::new("unshare");
    command.args(["-m", "/bin/sh", "-c", script, &dir]).arg(binary()).args(["-c", &config, "check"]);
    let ran = run(&mut command).expect("unshare is there");
    let want = format!("warning: state_dir: \"{dir}\" is mounted noexec: no program of a tar package");
    assert!(ran.code == 0 && ran.err.contains(&want), "{ran:?}");
}

#[test]
fn check_refuses_directories_that_cannot_be() {
    let mut host = Host::new();
    host.write("file", "");
    let dir = host.dir.clone();
    let quoted = |path: &str| format!("\"{}\"", dir.join(path).display());
    let long = quoted(&"x".repeat(100));
    for (key, value, cause) in [
        ("run_dir", quoted("state"), "want another directory than state_dir"),
        ("run_dir", long, "no socket can be made in it"),
        ("run_dir", quoted("file/x"), "Not a directory"),
        ("state_dir", quoted("file"), "not a directory"),
        ("log_dir", quoted("file"), "not a directory"),
    ] {
        let before = quoted(key.trim_end_matches("_dir"));
        host.set(key, &value);
        host.configure();
        let ran = host.cli(&["check"]);
        let line = ran.err.lines().find(|line| line.contains(&format!("bootagent.json: {key}: "))).unwrap_or_default();
        assert!(ran.code == 1 && line.contains(cause), "{key} {value}: {ran:?}");
        host.set(key, &before);
    }
}

/// The daemon in the default directories may be another one.
#[test]
fn a_file_that_tells_no_directories_leads_to_no_daemon() {
    let host = Host::new();
    host.write("empty.json", "");
    host.write("cut.json", "{ \"step\": 1, \"run_d");
    host.write("open.json", "{}");
    fs::set_permissions(host.path("open.json"), fs::Permissions::from_mode(0o666)).unwrap();
    let files =
        [("missing", "no such file"), ("empty", "expected a value"), ("cut", "cut.json:1:"), ("open", "mode 0666")];
    for (file, why) in files {
        if file == "open" && lacks_root() {
            continue;
        }
        let path = host.path(&format!("{file}.json")).display().to_string();
        for command in [&["status"][..], &["stop", "web"], &["jobs"], &["init", "sysv"]] {
            let ran = bootagent(&[&["-c", &path], command].concat());
            assert!(ran.code == 1 && ran.err.contains(&path) && ran.err.contains(why), "{file} {command:?}: {ran:?}");
            assert!(ran.out.is_empty() && !ran.err.contains("not running"), "{file} {command:?}: {ran:?}");
        }
        let ran = bootagent(&["-c", &path, "check"]);
        assert!(ran.code == 1 && ran.err.contains(why), "{file}: {ran:?}");
    }
}

#[test]
fn check_says_every_error_with_its_place() {
    let host = Host::new();
    host.configure();
    // (file, text, the lines that must be printed, from "agents.d/" on)
    let files: [(&str, &str, &[&str]); 6] = [
        (
            "a-syntax",
            "{\n  \"name\": \"a\",\n  \"version\": \"1\"\n  \"exec\": []\n}\n",
            &["agents.d/a-syntax.json:4:3: expected \",\" or \"}\""],
        ),
        (
            "b-sizes",
            "{ \"name\": \"b\", \"version\": \"1\", \"exec\": [\"/bin/true\"],\n  \
             \"limits\": { \"memory\": \"20X\" }, \"log_size\": \"-1\" }",
            &[
                "agents.d/b-sizes.json: limits.memory: want a size such as \"20M\", got \"20X\"",
                "agents.d/b-sizes.json: log_size: ",
            ],
        ),
        ("c-missing", "{ \"name\": \"c\" }", &["agents.d/c-missing.json: version: ", "agents.d/c-missing.json: exec: "]),
        (
            "d-unknown",
            "{ \"name\": \"d\", \"version\": \"1\", \"exec\": [\"/bin/true\"], \"colour\": 1, \"check\": { \"exe\": 1 } }",
            &["agents.d/d-unknown.json: colour: ", "agents.d/d-unknown.json: check.exe: "],
        ),
        (
            "e-kinds",
            "{ \"name\": \"e/f\", \"version\": 1, \"exec\": \"/bin/true\", \"umask\": \"999\", \"user\": 7,\n  \
             \"stopsignal\": \"NONE\", \"autorestart\": \"maybe\", \"directory\": \"tmp\", \"exitcodes\": [256] }",
            &[
                "agents.d/e-kinds.json: name: ",
                "agents.d/e-kinds.json: version: ",
                "agents.d/e-kinds.json: exec: ",
                "agents.d/e-kinds.json: umask: ",
                "agents.d/e-kinds.json: stopsignal: ",
                "agents.d/e-kinds.json: autorestart: ",
                "agents.d/e-kinds.json: directory: ",
                "agents.d/e-kinds.json: exitcodes",
            ],
        ),
        (
            "f-relative",
            "{ \"name\": \"f\", \"version\": \"1\", \"exec\": [\"bin/true\"] }",
            &["agents.d/f-relative.json: exec"],
        ),
    ];
    for (file, text, _) in files {
        host.write(&format!("agents.d/{file}.json"), text);
    }
    host.agent("g-good", "exec sleep 1000", &[]);
    host.write("agents.d/h-twice.json", &definition("g-good", "1", "true", &[]));
    host.write("agents.d/not-looked-at.txt", "{");
    let ran = host.cli(&["check"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    for (_, _, wanted) in files {
        for line in wanted {
            assert!(ran.err.contains(line), "{line}\nis not in\n{}", ran.err);
        }
    }
    let twice = ran.err.lines().find(|line| line.contains("agents.d/h-twice.json: ")).unwrap_or_default();
    assert!(twice.contains("g-good.json"), "the first file of the name is not said: {twice:?}");
    assert!(!ran.err.contains("g-good.json: ") && !ran.err.contains("not-looked-at"), "{}", ran.err);
}

#[test]
fn check_says_every_error_of_the_daemons_own_file() {
    let mut host = Host::new();
    host.set("step", "0").set("retries", "-1").set("svrlist", "\"host:0\"").set("log_level", "\"loud\"");
    host.set("colour", "1").set("max_download", "\"many\"");
    host.configure();
    let ran = host.cli(&["check"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    for key in ["step", "retries", "svrlist", "log_level", "colour", "max_download"] {
        let line = format!("bootagent.json: {key}: ");
        assert!(ran.err.contains(&line), "{line}\nis not in\n{}", ran.err);
    }
    host.write("bootagent.json", "{ \"step\": 1, }");
    let ran = host.cli(&["check"]);
    assert!(ran.code == 1 && ran.err.contains("bootagent.json:1:14: "), "{ran:?}");
}

#[test]
fn a_helper_user_that_is_root_is_warned_of() {
    if lacks_root() {
        return;
    }
    let mut host = Host::new();
    host.set("helper_user", "\"root\"");
    host.configure();
    let ran = host.cli(&["check"]);
    let warning = "helper_user: \"root\" is root, ";
    assert!(ran.code == 0 && ran.err.contains(&format!("warning: {warning}")), "{ran:?}");
    host.start();
    assert!(host.read("log/bootagent.log").contains(&format!("warn  {warning}")), "{}", host.logs());
    host.set("helper_user", "\"0\"").configure();
    assert_eq!(host.cli(&["check"]).code, 1, "a number is no name");
}

#[test]
fn check_looks_for_user_group_and_program() {
    let host = Host::new();
    host.configure();
    host.agent("a", "", &[("exec", "[\"/nonexistent/program\"]")]);
    host.agent("b", "true", &[("user", "\"no-such-user\"")]);
    host.agent("c", "true", &[("group", "\"no-such-group\"")]);
    let ran = host.cli(&["check"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    for (file, cause) in [("a", "/nonexistent/program"), ("b", "no-such-user"), ("c", "no-such-group")] {
        let place = format!("agents.d/{file}.json");
        let line = ran.err.lines().find(|line| line.contains(&place)).unwrap_or_default();
        assert!(line.contains(cause), "{cause} is not said of {place} in\n{}", ran.err);
    }
}

#[test]
fn what_others_can_write_is_refused() {
    if lacks_root() {
        return;
    }
    let mut host = Host::new();
    host.agent("web", "exec sleep 1000", &[]);
    host.agent("open", "exec sleep 1000", &[]);
    fs::set_permissions(host.path("agents.d/open.json"), fs::Permissions::from_mode(0o666)).unwrap();
    host.configure();
    let ran = host.cli(&["check"]);
    assert!(ran.code == 1 && ran.err.contains("open.json"), "{ran:?}");
    host.start();
    host.wait_running("web");
    assert_ne!(host.seen("open").map(|agent| agent.status), Some("running".to_string()));
    host.end("TERM");
    fs::set_permissions(host.path("agents.d"), fs::Permissions::from_mode(0o777)).unwrap();
    let ran = host.cli(&["check"]);
    assert!(ran.code == 1 && ran.err.contains("agents.d"), "{ran:?}");
}
