//! Debs that other people touch too: their configuration, their holds, what they installed by hand, and packages that
//! cannot go back.

mod util;

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use bootagent::model::package::{self, Format};

use util::*;

fn lacks_dpkg() -> bool {
    lacks_root() || lacks("dpkg-deb") || lacks("dpkg")
}

/// A server and a started host without agents.
fn pair() -> (Server, Host) {
    let server = Server::new();
    let mut host = Host::with(&server);
    // Others install packages on this host, too.
    host.env("BOOTAGENT_LOCK_SECS", "0.2");
    host.start();
    (server, host)
}

/// A job that installs `package`, served over http.
fn install(server: &Server, id: &str, name: &str, package: &Package) -> Job {
    let url = server.serve(&package.file, &package.bytes);
    Job::new(id, "install", name).package(&url, package).set("startsecs", "0.5")
}

/// What dpkg says of a package, such as `install ok installed 1.0`.
fn dpkg_says(package: &str) -> String {
    let format = "${Status} ${Version}";
    run(Command::new("dpkg-query").args(["-W", "-f", format, package])).expect("dpkg-query ends").out
}

fn dpkg_installs(host: &Host, package: &Package) {
    let path = host.path("build").join(&package.file);
    fs::write(&path, &package.bytes).expect("the host's directory can be written");
    by_hand(&["dpkg", "-i", &path.to_string_lossy()]);
}

#[test]
fn configuration_outlives_all_but_a_purge() {
    if lacks_dpkg() {
        return;
    }
    let name = unique_name("batest-conf");
    let package_name = format!("{name}-pkg");
    let _purge = Purge(&["dpkg", "--purge"], package_name.clone());
    let (server, host) = pair();
    let conf = format!("/etc/{name}.conf");
    let make = |version: &str, script: &str| {
        let mut files = host_files(&name, version, script).to_vec();
        files.push((conf[1..].to_string(), "the default\n".to_string()));
        deb(&host, &package_name, version, &borrowed(&files), &[("conffiles", &format!("{conf}\n"))])
    };
    let good = make("1.0", &staying("deb"));
    fs::write(&conf, "somebody's own\n").expect("/etc can be written");
    let is_kept = || fs::read_to_string(&conf).is_ok_and(|text| text == "somebody's own\n");
    // An install that is undone.
    host.does(&server, &install(&server, "c1", &name, &make("0.9", "#!/bin/sh\nexit 9\n")), 7);
    assert!(is_kept(), "gone with an install that was undone");
    host.does(&server, &install(&server, "c2", &name, &good), 0);
    // dpkg has it no more, and the same job again puts that right.
    by_hand(&["dpkg", "-r", &package_name]);
    host.does(&server, &install(&server, "c3", &name, &good), 0);
    assert!(dpkg_says(&package_name).starts_with("install ok installed") && is_kept());
    host.does(&server, &Job::new("c4", "uninstall", &name), 0);
    assert!(!dpkg_says(&package_name).starts_with("install ok installed") && is_kept(), "gone with an uninstall");
    host.does(&server, &install(&server, "c5", &name, &good), 0);
    host.does(&server, &Job::new("c6", "uninstall", &name).set("purge", "true"), 0);
    assert!(!PathBuf::from(&conf).exists(), "left by a purge");
}

#[test]
fn what_cannot_be_undone_is_said_first() {
    if lacks_dpkg() {
        return;
    }
    let name = unique_name("batest-stuck");
    let package_name = format!("{name}-pkg");
    let _purge = Purge(&["dpkg", "--force-remove-reinstreq", "--purge"], package_name.clone());
    let (server, host) = pair();
    let flag = host.path("stuck");
    let prerm = format!("#!/bin/sh\n[ ! -e {} ]\n", flag.display());
    let make = |version: &str, postinst: &str| {
        let files = host_files(&name, version, &staying("deb"));
        deb(&host, &package_name, version, &borrowed(&files), &[("postinst", postinst), ("prerm", &prerm)])
    };
    host.does(&server, &install(&server, "u1", &name, &make("1.0", "#!/bin/sh\n")), 0);
    // An installer that fails after it has made it impossible to remove its package.
    let two = make("2.0", &format!("#!/bin/sh\ntouch {}; exit 1\n", flag.display()));
    let message = host.does(&server, &install(&server, "u2", &name, &two), 6);
    assert!(message.starts_with("cannot go back, 2.0 "), "{message}");
    assert_eq!(host.wait_running(&name).version, "2.0 half-configured");
    fs::remove_file(&flag).expect("the script has made it");
    // The next job mends it.
    host.does(&server, &install(&server, "u3", &name, &make("2.1", "#!/bin/sh\n")), 0);
    let three = make("3.0", "#!/bin/sh\n");
    host.does(&server, &install(&server, "u7", &name, &three), 0);
    // Another agent from the same package: it stays until both are gone.
    let other = format!("{name}-b");
    let definition = definition(&other, "3.0", "", &[("exec", &format!("[\"/usr/bin/{name}\"]"))]);
    host.does(&server, &install(&server, "u4", &other, &three).set("definition", &definition), 0);
    host.does(&server, &Job::new("u5", "uninstall", &name), 0);
    assert!(PathBuf::from(format!("/usr/bin/{name}")).exists(), "taken away from another agent");
    host.does(&server, &Job::new("u6", "uninstall", &other), 0);
    assert!(!PathBuf::from(format!("/usr/bin/{name}")).exists());
}

#[test]
fn the_undo_of_an_uninstall_brings_back_what_was_there() {
    if lacks_dpkg() {
        return;
    }
    let name = unique_name("batest-remove");
    let package_name = format!("{name}-pkg");
    let _purge = Purge(&["dpkg", "--force-remove-reinstreq", "--purge"], package_name.clone());
    let (server, host) = pair();
    let flag = host.path("stuck");
    let make = |version: &str, script: &str| {
        let files = host_files(&name, version, &staying("deb"));
        let text = format!("#!/bin/sh\n[ $1 != remove -o ! -e {} ]\n", flag.display());
        deb(&host, &package_name, version, &borrowed(&files), &[(script, &text)])
    };
    let uninstall = |id: &str, code: i64| host.does(&server, &Job::new(id, "uninstall", &name), code);
    host.does(&server, &install(&server, "b1", &name, &make("1.0", "prerm")), 0);
    // Somebody has another version there by now, and that cannot be removed: it stays as it is.
    dpkg_installs(&host, &make("3.0", "prerm"));
    fs::write(&flag, "").expect("the host's directory can be written");
    let message = uninstall("b2", 6);
    assert!(message.starts_with("cannot remove the package: ") && message.ends_with("; undone"), "{message}");
    assert_eq!(dpkg_says(&package_name), "install ok installed 3.0");
    host.wait_seen(&name, "to run the version that was there", |agent| agent.runs() && agent.version == "3.0");
    // It is removed by half: the version of the last job is all there is to go back to, and that is said.
    fs::remove_file(&flag).expect("it is there");
    dpkg_installs(&host, &make("4.0", "postrm"));
    fs::write(&flag, "").expect("the host's directory can be written");
    let message = uninstall("b3", 6);
    let lost = "cannot go back, 1.0 is installed: what was there before, 4.0, is not kept; cannot remove the package: ";
    assert!(message.starts_with(lost), "{message}");
    assert_eq!(dpkg_says(&package_name), "install ok installed 1.0");
    fs::remove_file(&flag).expect("it is there");
    // It is gone already.
    by_hand(&["dpkg", "-r", &package_name]);
    uninstall("b4", 0);
}

#[test]
fn maintainer_scripts_do_as_they_like() {
    if lacks_dpkg() {
        return;
    }
    let name = unique_name("batest-odd");
    let package_name = format!("{name}-pkg");
    let _purge = Purge(&["dpkg", "--force-remove-reinstreq", "--purge"], package_name.clone());
    let (server, host) = pair();
    let program = format!("/usr/bin/{name}");
    let removes = format!("rm {program}");
    let mut installed = "";
    for (number, (version, script, text, code)) in [
        ("2:1.0~rc1-1", "postinst", "read x; [ -z \"$x\" ]", 0),
        // An older one, by its epoch.
        ("1:9.0", "postinst", "sleep 1000 >/dev/null & kill $!", 0),
        ("10", "preinst", "printf 'a\\000b\\377\\033[31m\\r\\n'; exit 1", 8),
        ("11", "postinst", "kill -9 $PPID; exec sleep 1", 8),
        ("12", "postinst", &removes, 8),
        ("13", "prerm", "[ $1 != upgrade ]", 0),
        // The script of the new package takes over where the old one fails.
        ("14", "prerm", "exit 0", 0),
        ("15", "prerm", "[ $1 = remove ]", 0),
        // That fails in both, and the way back is left to the old one.
        ("16", "prerm", "[ $1 = remove ]", 8),
        ("17", "prerm", "exit 0", 0),
    ]
    .into_iter()
    .enumerate()
    {
        let files = host_files(&name, version, &staying("deb"));
        let script = [(script, &*format!("#!/bin/sh\n{text}\n"))];
        let package = deb(&host, &package_name, version, &borrowed(&files), &script);
        let message = host.does(&server, &install(&server, &format!("o{number}"), &name, &package), code);
        installed = if code == 0 { version } else { installed };
        assert_eq!(dpkg_says(&package_name), format!("install ok installed {installed}"), "{version}: {message}");
        assert_eq!(host.wait_running(&name).version, installed, "{version}");
    }
    host.does(&server, &Job::new("o", "uninstall", &name), 0);
}

#[test]
fn a_hold_stays_one() {
    if lacks_dpkg() {
        return;
    }
    let name = unique_name("batest-hold");
    let package_name = format!("{name}-pkg");
    let _purge = Purge(&["dpkg", "--purge"], package_name.clone());
    let (server, host) = pair();
    let make = |version: &str, script: &str| {
        deb(&host, &package_name, version, &borrowed(&host_files(&name, version, script)), &[])
    };
    host.does(&server, &install(&server, "h1", &name, &make("1.0", &staying("one"))), 0);
    by_hand(&["sh", "-c", "echo \"$0 hold\" | dpkg --set-selections", &package_name]);
    assert_eq!(dpkg_says(&package_name), "hold ok installed 1.0");
    host.does(&server, &install(&server, "h2", &name, &make("2.0", &staying("two"))), 0);
    assert_eq!(dpkg_says(&package_name), "hold ok installed 2.0");
    host.does(&server, &install(&server, "h3", &name, &make("3.0", "#!/bin/sh\nexit 9\n")), 8);
    assert_eq!(dpkg_says(&package_name), "hold ok installed 2.0");
}

#[test]
fn a_hold_outlives_what_is_undone() {
    if lacks_dpkg() {
        return;
    }
    let name = unique_name("batest-held");
    let package_name = format!("{name}-pkg");
    let renamed = format!("{name}-new");
    let purge = |package: &str| Purge(&["dpkg", "--force-remove-reinstreq", "--purge"], package.to_string());
    let _purge = (purge(&package_name), purge(&renamed));
    let (server, host) = pair();
    let make = |package: &str, version: &str, (script, text): (&str, &str), fields: &str| {
        let files =
            host_files(&name, version, if fields.is_empty() { "#!/bin/sh\nexec sleep 1000\n" } else { "#!/bin/sh\n" });
        let text = format!("#!/bin/sh\n{text}\n");
        deb_with(&host, package, version, &borrowed(&files), &[(script, &text)], fields)
    };
    let is_held = |version: &str, what: &str| {
        assert_eq!(dpkg_says(&package_name), format!("hold ok installed {version}"), "{what}");
    };
    let flag = host.path("flag");
    let hinders = format!("[ $1 != remove -o ! -e {} ]", flag.display());
    host.does(&server, &install(&server, "h1", &name, &make(&package_name, "1.0", ("prerm", &hinders), "")), 0);
    by_hand(&["sh", "-c", "echo \"$0 hold\" | dpkg --set-selections", &package_name]);
    fs::write(&flag, "").expect("the host's directory can be written");
    let message = host.does(&server, &Job::new("h2", "uninstall", &name), 6);
    assert!(message.contains("fails, give a package in which it is mended: dpkg "), "{message}");
    is_held("1.0", "an uninstall");
    // Neither dpkg nor a shell that runs it can say anything of the hold.
    let kills =
        "p=$(ps -o ppid= -p $PPID | tr -d ' '); [ \"$(cat /proc/$p/comm)\" != sh ] || kill -9 $p; kill -9 $PPID";
    host.does(&server, &install(&server, "h3", &name, &make(&package_name, "2.0", ("postinst", kills), "")), 8);
    is_held("1.0", "an upgrade whose installer was killed");
    // dpkg has a package no more of which another one has all files.
    let fields = format!("Replaces: {package_name}\n");
    host.does(&server, &install(&server, "h4", &name, &make(&renamed, "2.0", ("postinst", ":"), &fields)), 8);
    is_held("1.0", "a package of another name");
    dpkg_installs(&host, &make(&package_name, "3.0", ("prerm", &hinders), ""));
    by_hand(&["sh", "-c", "echo \"$0 hold\" | dpkg --set-selections", &package_name]);
    host.does(&server, &Job::new("h5", "uninstall", &name), 6);
    is_held("3.0", "an uninstall of what was installed by hand");
    fs::remove_file(&flag).expect("it is there");
    host.does(&server, &Job::new("h6", "uninstall", &name), 0);
}

#[test]
fn a_former_package_that_stays_is_told() {
    if lacks_dpkg() {
        return;
    }
    let name = unique_name("batest-former");
    let [old, new] = ["old", "new"].map(|end| format!("{name}-{end}"));
    let purge = |package: &str| Purge(&["dpkg", "--force-remove-reinstreq", "--purge"], package.to_string());
    let _purge = (purge(&old), purge(&new));
    let (server, host) = pair();
    let flag = host.path("flag");
    let prerm = format!("#!/bin/sh\n[ $1 != remove -o ! -e {} ]\n", flag.display());
    let make = |package: &str, version: &str, fields: &str| {
        let mut files = host_files(&name, version, &staying("deb")).to_vec();
        files.push((format!("usr/share/{package}"), String::new()));
        deb_with(&host, package, version, &borrowed(&files), &[("prerm", &prerm)], fields)
    };
    host.does(&server, &install(&server, "f1", &name, &make(&old, "1.0", "")), 0);
    fs::write(&flag, "").expect("the host's directory can be written");
    let message =
        host.does(&server, &install(&server, "f2", &name, &make(&new, "2.0", &format!("Replaces: {old}\n"))), 0);
    let told = format!("; the former package {old} was not removed, remove it by hand");
    assert!(message.ends_with(&told) && message.contains("pre-removal script"), "{message}");
    assert_eq!(dpkg_says(&new), "install ok installed 2.0");
    assert!(dpkg_says(&old).ends_with(" ok installed 1.0"), "{}", dpkg_says(&old));
    assert_eq!(host.wait_running(&name).version, "2.0");
    fs::remove_file(&flag).expect("it is there");
    host.does(&server, &Job::new("f3", "uninstall", &name), 0);
}

#[test]
fn what_does_not_come_back_whole_is_mended_by_the_same_job() {
    if lacks_dpkg() {
        return;
    }
    let name = unique_name("batest-half");
    let package_name = format!("{name}-pkg");
    let _purge = Purge(&["dpkg", "--purge"], package_name.clone());
    let (server, host) = pair();
    let flag = host.path("flag");
    let make = |version: &str| {
        let files = host_files(&name, version, &staying("deb"));
        let text = format!("#!/bin/sh\n[ ! -e {} ]\n", flag.display());
        deb(&host, &package_name, version, &borrowed(&files), &[("postinst", &text)])
    };
    let one = make("1.0");
    host.does(&server, &install(&server, "m1", &name, &one), 0);
    fs::write(&flag, "").expect("the host's directory can be written");
    let message = host.does(&server, &install(&server, "m2", &name, &make("2.0")), 6);
    assert!(message.starts_with("cannot go back, 1.0 half-configured is installed: "), "{message}");
    assert_eq!(host.wait_running(&name).version, "1.0 half-configured");
    fs::remove_file(&flag).expect("it is there");
    host.does(&server, &install(&server, "m3", &name, &one), 0);
    assert_eq!(dpkg_says(&package_name), "install ok installed 1.0");
    assert_eq!(host.wait_running(&name).version, "1.0");
}

#[test]
fn what_was_installed_by_hand_is_gone_back_to_or_named() {
    if lacks_dpkg() {
        return;
    }
    let name = unique_name("batest-hand");
    let package_name = format!("{name}-pkg");
    let _purge = Purge(&["dpkg", "--purge"], package_name.clone());
    let (server, host) = pair();
    let make = |version: &str, script: &str| {
        deb(&host, &package_name, version, &borrowed(&host_files(&name, version, script)), &[])
    };
    let (one, two) = (make("1.0", &staying("one")), make("2.0", &staying("two")));
    host.does(&server, &install(&server, "b1", &name, &one), 0);
    host.does(&server, &install(&server, "b2", &name, &two), 0);
    // 1.0 is kept, so that the way back leads there.
    dpkg_installs(&host, &one);
    let message = host.does(&server, &install(&server, "b3", &name, &make("3.0", "#!/bin/sh\nexit 9\n")), 8);
    assert!(message.starts_with("rolled back from 3.0 to 1.0: "), "{message}");
    assert_eq!(host.wait_running(&name).version, "1.0");
    assert_eq!(dpkg_says(&package_name), "install ok installed 1.0");
    // 1.5 is not.
    dpkg_installs(&host, &make("1.5", &staying("hand")));
    let message = host.does(&server, &install(&server, "b4", &name, &make("4.0", "#!/bin/sh\nexit 9\n")), 8);
    assert!(message.contains("as what was there before, 1.5, is not kept"), "{message}");
    let back = message["rolled back from 4.0 to ".len()..][..3].to_string();
    assert_eq!(dpkg_says(&package_name), format!("install ok installed {back}"));
    assert_eq!(host.wait_running(&name).version, back);
}

#[test]
fn a_package_starts_no_copy_of_its_agent() {
    if lacks_dpkg() {
        return;
    }
    let name = unique_name("batest-self");
    let package_name = format!("{name}-pkg");
    let _purge = Purge(&["dpkg", "--purge"], package_name.clone());
    let (server, host) = pair();
    let make = |version: &str, postinst: &str| {
        let files = host_files(&name, version, "#!/bin/sh\nwhile :; do sleep 1; done\n");
        deb(&host, &package_name, version, &borrowed(&files), &[("postinst", postinst)])
    };
    // What starts services does nothing, whether this host has it or not.
    let politely =
        "#!/bin/sh\nset -e\nfor s in 'invoke-rc.d x' 'service x' 'rc-service x' 'deb-systemd-invoke x' 'systemctl x'\n\
        do $s start; done\n[ \"$SYSTEMD_OFFLINE\" = 1 ]\n";
    let message = host.does(&server, &install(&server, "p1", &name, &make("1.0", politely)), 0);
    assert_eq!(message, "success");
    // An init script that is called by its path starts a copy, which is ended, also where the package has another name and is
    // installed once more when the former one is removed.
    let rudely = format!("#!/bin/sh\nsetsid /usr/bin/{name} </dev/null >/dev/null 2>&1 &\nsleep 0.5\n");
    let renamed = format!("{name}-new");
    let _purge_renamed = Purge(&["dpkg", "--purge"], renamed.clone());
    let files = host_files(&name, "3.0", "#!/bin/sh\nwhile :; do sleep 1; done\n");
    let fields = format!("Replaces: {package_name}\n");
    let other = deb_with(&host, &renamed, "3.0", &borrowed(&files), &[("postinst", &rudely)], &fields);
    for (id, package) in [("p2", make("2.0", &rudely)), ("p3", other)] {
        let message = host.does(&server, &install(&server, id, &name, &package), 0);
        assert!(message.starts_with("success; the package had started the agent by itself"), "{message}");
        let ours = host.wait_running(&name);
        assert_eq!(copies_of(&format!("/usr/bin/{name}")), [PathBuf::from(format!("/proc/{}", ours.pid))], "{id}");
    }
}

/// The processes, by their directories in /proc, that have this word in their command line.
fn copies_of(program: &str) -> Vec<PathBuf> {
    let runs = |entry: &PathBuf| {
        let cmdline = fs::read(entry.join("cmdline")).unwrap_or_default();
        cmdline.split(|byte| *byte == 0).any(|word| word == program.as_bytes())
    };
    entries(&PathBuf::from("/proc")).into_iter().filter(runs).collect()
}

#[test]
fn a_database_that_cannot_tell_is_not_an_empty_one() {
    let host = Host::new();
    for (number, (format, program, says, want)) in [
        (Format::Deb, "dpkg-query", "echo 'installed 1:2.0-1'", Some("1:2.0-1")),
        (Format::Deb, "dpkg-query", "echo 'unpacked 2.0'; echo 'dpkg-query: warning: x' >&2", Some("2.0 unpacked")),
        (Format::Deb, "dpkg-query", "echo 'dpkg-query: no packages found matching pkg' >&2; exit 1", Some("")),
        (Format::Deb, "dpkg-query", "echo 'dpkg-query: error: parsing file status' >&2; exit 2", None),
        (Format::Rpm, "rpm", "echo 2.0-1; echo 'warning: x' >&2", Some("2.0-1")),
        (Format::Rpm, "rpm", "echo 'package pkg is not installed'; exit 1", Some("")),
        (
            Format::Rpm,
            "rpm",
            "echo 'error: cannot open Packages database' >&2; echo 'package pkg is not installed'; exit 1",
            None,
        ),
        (Format::Apk, "apk", "echo pkg-2.0-r0; echo 'WARNING: opening cache' >&2", Some("2.0-r0")),
        (Format::Apk, "apk", "exit 1", Some("")),
        (Format::Apk, "apk", "echo 'ERROR: Unable to read database: I/O error' >&2; exit 1", None),
        (Format::Ipk, "opkg", "echo 'Version: 2.0'; echo 'Status: install user installed'", Some("2.0")),
        (Format::Ipk, "opkg", "exit 0", Some("")),
        (Format::Ipk, "opkg", "echo ' * opkg_conf_load: Could not lock /var/lock/opkg.lock' >&2; exit 255", None),
        (Format::Ipk, "opkg", "exec /nonexistent", None),
    ]
    .into_iter()
    .enumerate()
    {
        let dir = host.path(&format!("query-{number}"));
        fs::create_dir_all(&dir).expect("the host's directory can be written");
        write_program(&dir.join(program), &format!("#!/bin/sh\n{says}\n"));
        let tool = package::query(format, "pkg").expect("it is a tool");
        let words: Vec<&str> = tool.argv.iter().map(|word| &**word).collect();
        let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", dir.display());
        let ran = run(Command::new(words[0]).args(&words[1..]).env("PATH", path)).expect("it ends");
        let got = (ran.code == 0).then_some(ran.out.trim());
        assert_eq!(got, want, "{says}: {} {}{}", ran.code, ran.out, ran.err);
        assert!(want.is_some() || !ran.out.is_empty(), "{says}: no reason");
    }
}
