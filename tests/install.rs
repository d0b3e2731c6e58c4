//! Packages from outside: tarballs, debs and rpms over http, ftp and file, upgrades and how they are undone, what is
//! refused, and what is left afterwards.

mod util;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use util::*;

/// A server and a started host without agents.
fn pair() -> (Server, Host) {
    let server = Server::new();
    let mut host = Host::with(&server);
    // Others install packages on this host, too.
    host.env("BOOTAGENT_LOCK_SECS", "0.2");
    host.start();
    (server, host)
}

#[test]
fn a_tarball_is_installed_upgraded_and_uninstalled() {
    let (server, host) = pair();
    let keys = [("envs", "{ \"COLOUR\": \"green\" }")];
    let one = tarball(&host, "web", "1.0", &staying("this is 1.0, $COLOUR, in $PWD"), &keys);
    let began = Instant::now();
    host.does(&server, &install(&server, "i1", "web", &one), 0);
    let first = host.wait_running("web");
    assert_eq!(first.version, "1.0");
    assert!(began.elapsed().as_secs_f64() >= 0.4, "success was told before startsecs: {first:?}");
    host.wait("its output", || host.read("log/web.log").contains("this is 1.0, green"));
    assert!(host.path("state/packages/web/current/bin/agent").exists());
    assert_eq!(host.read("state/packages/web/1.0/bin/agent"), staying("this is 1.0, $COLOUR, in $PWD"));

    // The same once more, under another id: a success without work.
    let before = downloads(&server).len();
    host.does(&server, &install(&server, "i2", "web", &one), 0);
    assert_eq!(host.seen("web").map(|agent| agent.pid), Some(first.pid), "installed again");
    assert_eq!(downloads(&server).len(), before, "downloaded again");

    let two = tarball(&host, "web", "2.0", &staying("this is 2.0"), &[]);
    let mut job = install(&server, "u1", "web", &two);
    job = job.set("action", "\"upgrade\"");
    host.does(&server, &job, 0);
    let second = host.wait_running("web");
    assert_eq!(second.version, "2.0");
    assert!(!alive(first.pid) && host.agents_processes() == [second.pid], "both versions run");

    host.does(&server, &Job::new("r1", "uninstall", "web"), 0);
    assert_eq!(host.agents_processes(), []);
    assert_eq!(host.seen("web"), None);
    assert_eq!(traces(&host, "web"), [] as [PathBuf; 0]);
    assert!(host.read("log/web.log").contains("this is 1.0"), "the log stays");
    host.does(&server, &Job::new("r2", "uninstall", "web"), 3);
}

#[test]
fn an_installed_agent_outlives_everything() {
    let (server, mut host) = pair();
    let package = tarball(&host, "web", "1.0", &staying("up"), &[]);
    host.does(&server, &install(&server, "i1", "web", &package), 0);
    let pid = host.wait_running("web").pid;
    host.end("TERM");
    assert!(!alive(pid));
    host.start();
    let pid = host.wait_running("web").pid;
    kill(pid, "KILL");
    host.wait_seen("web", "to come back", |agent| agent.runs() && agent.pid != pid);
    assert_eq!(server.times_taken("i1"), 1);
}

#[test]
fn a_tarball_runs_as_its_user() {
    if lacks_root() {
        return;
    }
    let (server, host) = pair();
    let package = tarball(&host, "web", "1.0", &staying("up"), &[("user", "\"nobody\"")]);
    host.does(&server, &install(&server, "i1", "web", &package), 0);
    let uid = proc_status(host.wait_running("web").pid, "Uid");
    assert!(!uid.split(' ').any(|id| id == "0"), "{uid}");
}

#[test]
fn a_package_may_come_from_a_file() {
    let (server, host) = pair();
    let package = tarball(&host, "web", "1.0", &staying("up"), &[]);
    fs::write(host.path("a package.tar.gz"), &package.bytes).unwrap();
    let url = format!("file://{}/a%20package.tar.gz", host.dir.display());
    host.does(&server, &Job::new("i1", "install", "web").package(&url, &package).set("startsecs", "0.2"), 0);
    host.wait_running("web");
    let url = format!("file://{}/missing.tar.gz", host.dir.display());
    let message = host.does(&server, &Job::new("i2", "install", "other").package(&url, &package), 4);
    assert!(message.contains("No such file"), "{message}");
}

#[test]
fn a_wrong_checksum_leaves_nothing_behind() {
    let (server, host) = pair();
    let mut package = tarball(&host, "web", "1.0", &staying("up"), &[]);
    package.checksum = checksum(b"something else");
    let message = host.does(&server, &install(&server, "i1", "web", &package), 5);
    assert!(!message.is_empty());
    assert_eq!(traces(&host, "web"), [] as [PathBuf; 0]);
    assert_eq!(host.seen("web"), None);
    // With the right one it works, in either case of the digits.
    package.checksum = checksum(&package.bytes).to_uppercase();
    host.does(&server, &install(&server, "i2", "web", &package), 0);
}

#[test]
fn a_bad_upgrade_is_undone() {
    let (server, host) = pair();
    let one = tarball(&host, "web", "1.0", &staying("up"), &[]);
    host.does(&server, &install(&server, "i1", "web", &one), 0);
    let broken = tarball(&host, "web", "2.0", "#!/bin/sh\necho no such database; exit 9\n", &[]);
    let message = host.does(&server, &install(&server, "u1", "web", &broken), 8);
    for word in ["1.0", "2.0", "status 9"] {
        assert!(message.contains(word), "\"{message}\" does not say {word}");
    }
    let agent = host.wait_running("web");
    assert_eq!(agent.version, "1.0");
    assert!(!host.path("state/packages/web/2.0").exists(), "the bad version was kept");
    assert_eq!(host.agents_processes(), [agent.pid]);

    // Undone, but not because of the agent: it never was stopped.
    let hostile = tar_of(&host, "web", "3.0", &[("bootagent.json", "{ \"name\": \"web\" }")]);
    let url = server.serve(&hostile.file, &hostile.bytes);
    server.give(&Job::new("u2", "upgrade", "web").package(&url, &hostile).text());
    assert_ne!(host.result(&server, "u2").0, 0);
    assert_eq!(host.wait_running("web").version, "1.0");
}

#[test]
fn a_stopped_agent_is_upgraded_without_a_start() {
    let (server, host) = pair();
    let one = tarball(&host, "web", "1.0", &staying("up"), &[]);
    host.does(&server, &install(&server, "i1", "web", &one), 0);
    host.ok(&["stop", "web"]);
    let two = tarball(&host, "web", "2.0", &staying("up"), &[]);
    let url = server.serve(&two.file, &two.bytes);
    host.does(&server, &Job::new("u1", "upgrade", "web").package(&url, &two).set("startsecs", "0.2"), 0);
    let agent = host.seen("web").unwrap();
    assert_eq!((agent.status.as_str(), agent.version.as_str()), ("stoped", "2.0"));
    host.ok(&["start", "web"]);
}

#[test]
fn an_install_that_does_not_stay_up_is_no_success() {
    let (server, host) = pair();
    let weak = tarball(&host, "web", "1.0", "#!/bin/sh\necho out of luck\nexit 4\n", &[("retries", "0")]);
    let message = host.does(&server, &install(&server, "i1", "web", &weak), 7);
    assert!(message.contains("status 4") && message.contains("out of luck"), "{message}");
    assert_eq!(host.agents_processes(), []);
    assert_ne!(host.seen("web").map(|agent| agent.status), Some("running".to_string()));
}

#[test]
fn definitions_have_their_order() {
    let (server, host) = pair();
    // A job's definition wins over the package's own.
    let package = tarball(&host, "web", "1.0", &staying("up"), &[("envs", "{ \"FROM\": \"package\" }")]);
    let ours = definition("web", "1.0", "", &[("exec", "[\"bin/agent\"]"), ("envs", "{ \"FROM\": \"job\" }")]);
    host.does(&server, &install(&server, "i1", "web", &package).set("definition", &ours), 0);
    let from = |pid: i32| {
        let bytes = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        text.split('\0').find_map(|entry| entry.strip_prefix("FROM=").map(str::to_string))
    };
    let first = host.wait_running("web").pid;
    assert_eq!(from(first).as_deref(), Some("job"));
    // A file in agents.d wins over both.
    let local = host.path("state/packages/web/current/bin/agent").display().to_string();
    let exec = format!("[\"{local}\"]");
    host.agent("web", "", &[("exec", &exec), ("envs", "{ \"FROM\": \"file\" }")]);
    host.signal("HUP");
    host.wait_seen("web", "to run by the file", |agent| agent.runs() && from(agent.pid).as_deref() == Some("file"));

    // No definition from anywhere, or one of another agent: undone.
    let nameless = tar_of(&host, "bare", "1.0", &[("bin/agent", &staying("up"))]);
    host.does(&server, &install(&server, "i2", "bare", &nameless), 1);
    assert_eq!(traces(&host, "bare"), [] as [PathBuf; 0]);
    let foreign = tarball(&host, "somebody-else", "1.0", &staying("up"), &[]);
    server.give(&install(&server, "i3", "me", &foreign).text());
    assert_ne!(host.result(&server, "i3").0, 0);
    assert_eq!(traces(&host, "me"), [] as [PathBuf; 0]);
}

#[test]
fn the_output_of_an_undone_install_goes_with_it() {
    let (server, host) = pair();
    let bad = tarball(&host, "web", "1.0", "#!/bin/sh\necho why it ends; exit 3\n", &[]);
    let message = host.does(&server, &install(&server, "one", "web", &bad), 7);
    assert!(message.contains("why it ends"), "{message}");
    host.wait("the output to be removed", || !host.path("log/web.log").exists());
    // What an agent of this name wrote before stays.
    host.write("log/web.log", "earlier\n");
    host.does(&server, &install(&server, "two", "web", &bad), 7);
    assert!(host.read("log/web.log").starts_with("earlier\n"), "{}", host.read("log/web.log"));
}

#[test]
fn an_upgrade_that_does_not_say_how_to_run_its_agent_leaves_it_alone() {
    let (server, host) = pair();
    let one = tarball(&host, "web", "1.0", &staying("up"), &[]);
    host.does(&server, &install(&server, "one", "web", &one), 0);
    let before = host.wait_running("web").pid;
    let kept = entries(&host.path("state/packages/web"));
    let program = ("bin/agent", &*staying("up"));
    let foreign = definition("other", "2.0", "", &[]);
    for (id, files, why) in [
        ("none", &[program][..], "no definition: neither in agents.d, nor in the job, nor in the package"),
        ("bad", &[program, ("bootagent.json", "{ \"name\": 1 }")], "the package's definition: "),
        ("foreign", &[program, ("bootagent.json", &foreign)], "definition is of \"other\", not of \"web\""),
    ] {
        let two = tar_of(&host, "web", &format!("2.0-{id}"), files);
        let message = host.does(&server, &install(&server, id, "web", &two).set("version", "\"2.0\""), 1);
        assert!(message.contains(why) && !message.contains("undone"), "{id}: {message}");
        let now = host.wait_running("web");
        assert_eq!((now.pid, &*now.version), (before, "1.0"), "{id}\n{}", host.logs());
        assert_eq!(entries(&host.path("state/packages/web")), kept, "{id}");
    }
}

#[test]
fn a_hostile_tarball_reaches_nothing_outside() {
    let (server, host) = pair();
    let work = host.path("build/hostile");
    fs::create_dir_all(work.join("inside")).unwrap();
    fs::write(work.join("evil"), "evil").unwrap();
    std::os::unix::fs::symlink("/etc", work.join("inside/link")).unwrap();
    let archive = |name: &str, members: &[&str]| {
        let path = work.join(name);
        let mut tar = Command::new("tar");
        let ran = run(tar.arg("-C").arg(work.join("inside")).arg("-cPzf").arg(&path).args(members)).unwrap();
        assert_eq!(ran.code, 0, "{ran:?}");
        let bytes = fs::read(path).unwrap();
        Package { file: name.to_string(), version: "1.0".to_string(), checksum: checksum(&bytes), bytes }
    };
    for (n, package) in [archive("up.tar.gz", &["../evil"]), archive("link.tar.gz", &["link"])].into_iter().enumerate()
    {
        let job = install(&server, &format!("h{n}"), "web", &package);
        let message = host.does(&server, &job.set("definition", &definition("web", "1.0", "sleep 9", &[])), 6);
        assert!(!message.is_empty());
        assert_eq!(traces(&host, "web"), [] as [PathBuf; 0], "{}", package.file);
    }
    assert!(!host.path("state/packages/evil").exists() && !host.path("state/evil").exists());
}

#[test]
fn an_install_survives_the_death_of_the_daemon() {
    let (server, mut host) = pair();
    for (n, delay) in [0, 30, 80, 200, 400].into_iter().enumerate() {
        let (id, version) = (format!("k{n}"), format!("{n}.0"));
        let package = tarball(&host, "web", &version, &staying("up"), &[]);
        server.give(&install(&server, &id, "web", &package).text());
        host.wait("the job to be received", || host.job(&id).is_some());
        let_pass(Duration::from_millis(delay));
        host.kill9();
        host.start();
        let (code, message) = host.result(&server, &id);
        assert_eq!(code, 0, "killed after {delay} ms: {message}\n{}", host.logs());
        let agent = host.wait_running("web");
        assert_eq!(agent.version, version);
        assert_eq!(host.agents_processes(), [agent.pid], "killed after {delay} ms\n{}", host.logs());
        assert_eq!(server.times_taken(&id), 1);
    }
    assert!(entries(&host.path("state/packages/web")).len() <= 3, "more than one previous package is kept");
    assert_eq!(entries(&host.path("state/downloads")), [] as [PathBuf; 0]);
}

/// Whether dpkg knows the package as installed.
fn dpkg_has(package: &str) -> bool {
    let ran = run(Command::new("dpkg-query").args(["-W", "-f", "${Status}", package])).expect("dpkg-query ends");
    ran.out == "install ok installed"
}

#[test]
fn a_deb_is_installed_upgraded_undone_and_removed() {
    if lacks_root() || lacks("dpkg-deb") || lacks("dpkg") {
        return;
    }
    let name = unique_name("batest");
    // The package's own name is another one than the agent's.
    let package_name = format!("{name}-pkg");
    let _purge = Purge(&["dpkg", "--purge"], package_name.clone());
    let (server, host) = pair();
    let make = |version: &str, script: &str, maintainer: &[(&str, &str)]| {
        let files = host_files(&name, version, script);
        deb(&host, &package_name, version, &borrowed(&files), maintainer)
    };
    let one = make("1.0", &staying("deb 1.0"), &[]);
    host.does(&server, &install(&server, "d1", &name, &one), 0);
    assert!(dpkg_has(&package_name));
    let first = host.wait_running(&name);
    assert_eq!(first.version, "1.0");

    let two = make("2.0", &staying("deb 2.0"), &[("postinst", "#!/bin/sh\n[ ! -t 0 ] && echo configured\n")]);
    host.does(&server, &install(&server, "d2", &name, &two), 0);
    assert_eq!(host.wait_running(&name).version, "2.0");
    assert!(!alive(first.pid));

    let three = make("3.0", "#!/bin/sh\nexit 9\n", &[]);
    let message = host.does(&server, &install(&server, "d3", &name, &three), 8);
    assert!(message.contains("3.0") && message.contains("2.0"), "{message}");
    assert_eq!(host.wait_running(&name).version, "2.0");
    let version = run(Command::new("dpkg-query").args(["-W", "-f", "${Version}", &package_name])).unwrap().out;
    assert_eq!(version, "2.0", "the database does not know of the undo");

    let postinst = "#!/bin/sh\necho the licence is missing >&2; exit 1\n";
    let four = make("4.0", &staying("deb 4.0"), &[("postinst", postinst)]);
    server.give(&install(&server, "d4", &name, &four).text());
    let (code, message) = host.result(&server, "d4");
    assert!([6, 8].contains(&code) && message.contains("the licence is missing"), "{code} {message}");
    assert_eq!(host.wait_running(&name).version, "2.0");

    host.does(&server, &Job::new("d5", "uninstall", &name), 0);
    assert!(!dpkg_has(&package_name));
    assert_eq!(host.agents_processes(), []);
    assert_eq!(traces(&host, &name), [] as [PathBuf; 0]);
}

#[test]
fn an_rpm_is_installed_upgraded_and_removed() {
    if lacks_root() || lacks("rpmbuild") || lacks("rpm") {
        return;
    }
    let name = unique_name("batest-rpm");
    let package_name = format!("{name}-pkg");
    let _purge = Purge(&["rpm", "-e"], package_name.clone());
    let (server, host) = pair();
    let known = || run(Command::new("rpm").args(["-q", "--qf", "%{VERSION}", &package_name])).unwrap();
    for version in ["1.0", "2.0"] {
        let files = host_files(&name, version, &staying("rpm"));
        let package = rpm(&host, &package_name, version, &borrowed(&files));
        host.does(&server, &install(&server, &format!("r{version}"), &name, &package), 0);
        assert_eq!(host.wait_running(&name).version, version);
        assert_eq!(known().out, version);
    }
    // rpm would take it for a list of packages, and fetch them.
    let bytes = format!("http://{}/listed.rpm\n", server.address).into_bytes();
    let list = Package { file: "list.rpm".into(), version: "3.0".into(), checksum: checksum(&bytes), bytes };
    host.does(&server, &install(&server, "list", &name, &list), 6);
    assert_eq!(server.requests_to("/listed.rpm").len(), 0);
    assert_eq!(known().out, "2.0");
    host.does(&server, &Job::new("r3", "uninstall", &name), 0);
    assert_ne!(known().code, 0, "the package is still there");
    assert_eq!(host.agents_processes(), []);
    assert!(!PathBuf::from(format!("/usr/bin/{name}")).exists());
}

#[test]
fn a_script_of_an_rpm_that_fails_behind_its_installation_is_told() {
    if lacks_root() || lacks("rpmbuild") || lacks("rpm") {
        return;
    }
    let name = unique_name("batest-post");
    let package_name = format!("{name}-pkg");
    let _purge = Purge(&["rpm", "-e"], package_name.clone());
    let (server, host) = pair();
    let make = |version: &str, scripts: &str| {
        rpm_with(&host, &package_name, version, &borrowed(&host_files(&name, version, &staying("rpm"))), scripts)
    };
    // To rpm the package is installed, and it ends with 0.
    let scripts = "%post\necho no key >&2; exit 3\n%postun\n[ $1 != 0 ]\n";
    let message = host.does(&server, &install(&server, "p1", &name, &make("1.0", scripts)), 0);
    for part in ["success; the package manager had trouble beside it: ", "no key", "%post(", "exit status 3"] {
        assert!(message.contains(part), "{part}: {message}");
    }
    assert_eq!(host.wait_running(&name).version, "1.0");
    let message = host.does(&server, &Job::new("p2", "uninstall", &name), 0);
    assert!(message.contains("%postun("), "{message}");
    // What failed before it is an installation that has failed.
    let message = host.does(&server, &install(&server, "p3", &name, &make("2.0", "%pre\nexit 3\n")), 6);
    assert!(message.starts_with("cannot install: ") && message.contains("%prein("), "{message}");
}

#[test]
fn formats_may_cross_and_be_undone() {
    if lacks_root() || lacks("dpkg-deb") || lacks("dpkg") {
        return;
    }
    let name = unique_name("batest-cross");
    let package_name = format!("{name}-pkg");
    let _purge = Purge(&["dpkg", "--purge"], package_name.clone());
    let (server, host) = pair();
    let in_deb = |version: &str, script: &str| {
        deb(&host, &package_name, version, &borrowed(&host_files(&name, version, script)), &[])
    };
    let one = in_deb("1.0", &staying("deb"));
    host.does(&server, &install(&server, "x1", &name, &one), 0);
    // A tar that does not stay up: the deb is there as before.
    let broken = tarball(&host, &name, "2.0", "#!/bin/sh\nexit 9\n", &[]);
    host.does(&server, &install(&server, "x2", &name, &broken), 8);
    assert_eq!(host.wait_running(&name).version, "1.0");
    assert!(dpkg_has(&package_name));
    // One that does: the deb goes.
    let two = tarball(&host, &name, "2.1", &staying("tar"), &[]);
    host.does(&server, &install(&server, "x3", &name, &two), 0);
    assert_eq!(host.wait_running(&name).version, "2.1");
    assert!(!dpkg_has(&package_name), "both packages are on the host");
    // And back: a deb that does not stay up goes again, one that does stays.
    let bad = in_deb("3.0", "#!/bin/sh\nexit 9\n");
    host.does(&server, &install(&server, "x4", &name, &bad), 8);
    assert_eq!(host.wait_running(&name).version, "2.1");
    assert!(!dpkg_has(&package_name), "the bad deb was left");
    let three = in_deb("3.1", &staying("deb"));
    host.does(&server, &install(&server, "x5", &name, &three), 0);
    assert!(dpkg_has(&package_name));
    host.does(&server, &Job::new("x6", "uninstall", &name), 0);
    assert!(!dpkg_has(&package_name));
    assert_eq!(traces(&host, &name), [] as [PathBuf; 0]);
}

#[test]
fn an_upgrade_must_be_healthy() {
    let (server, host) = pair();
    let check = |exec: &str| format!("{{ \"exec\": [{exec}], \"interval\": 0.1, \"timeout\": 5, \"retries\": 2 }}");
    let (good, bad) = (check("\"/bin/true\""), check("\"/bin/false\""));
    let one = tarball(&host, "web", "1.0", &staying("up"), &[("check", &good)]);
    host.does(&server, &install(&server, "h1", "web", &one), 0);
    let two = tarball(&host, "web", "2.0", &staying("up"), &[("check", &bad)]);
    let message = host.does(&server, &install(&server, "h2", "web", &two).set("startsecs", "0.1"), 8);
    assert!(message.contains("health check"), "{message}");
    assert_eq!(host.wait_running("web").version, "1.0");
}

#[test]
fn a_script_that_hangs_is_killed_and_undone() {
    if needs_faults() {
        return;
    }
    if lacks_root() || lacks("dpkg-deb") || lacks("dpkg") {
        return;
    }
    let name = unique_name("batest-hang");
    let package_name = format!("{name}-pkg");
    let _purge = Purge(&["dpkg", "--force-remove-reinstreq", "--purge"], package_name.clone());
    let server = Server::new();
    let mut host = Host::with(&server);
    host.env("BOOTAGENT_LOCK_SECS", "0.2").env("BOOTAGENT_TOOL_SECS", "6");
    host.start();
    let mark = unique_name("98");
    // The script is stopped by a signal, as is what called it.
    let hang = format!("#!/bin/sh\nsleep {} & kill -STOP $PPID $$\n", mark.replace('-', ""));
    let files = host_files(&name, "1.0", &staying("deb"));
    let package = deb(&host, &package_name, "1.0", &borrowed(&files), &[("preinst", &hang)]);
    let message = host.does(&server, &install(&server, "s1", &name, &package), 6);
    assert!(message.contains("took too long"), "{message}");
    assert!(!dpkg_has(&package_name));
    let left = run(Command::new("pgrep").args(["-f", &mark.replace('-', "")])).map(|ran| ran.code);
    assert_ne!(left, Some(0), "what the script started is still there");
    // The package manager is of use again.
    let package = deb(&host, &package_name, "1.1", &borrowed(&host_files(&name, "1.1", &staying("deb"))), &[]);
    host.does(&server, &install(&server, "s2", &name, &package), 0);
    host.does(&server, &Job::new("s3", "uninstall", &name), 0);
}

#[test]
fn a_held_lock_is_waited_for() {
    if lacks_root() || lacks("dpkg-deb") || lacks("dpkg") {
        return;
    }
    let name = unique_name("batest-lock");
    let package_name = format!("{name}-pkg");
    let _purge = Purge(&["dpkg", "--purge"], package_name.clone());
    let (server, host) = pair();
    const HOLD: &str = "import fcntl,sys\nf=open('/var/lib/dpkg/lock-frontend','w')\nfcntl.lockf(f,fcntl.LOCK_EX)\n\
        print('held',flush=True)\nsys.stdin.read()\n";
    let mut python = Command::new("python3");
    let holder = python.args(["-c", HOLD]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let Ok(mut holder) = holder else {
        skipped("python3");
        return;
    };
    let mut line = String::new();
    let _ = holder.stdout.take().map(|out| BufReader::new(out).read_line(&mut line));
    let package = deb(&host, &package_name, "1.0", &borrowed(&host_files(&name, "1.0", &staying("deb"))), &[]);
    server.give(&install(&server, "l1", &name, &package).text());
    let waits = || host.job("l1").is_some_and(|row| text(&row, "progress").contains("lock"));
    host.wait("the job to wait for the lock", waits);
    drop(holder.stdin.take());
    let _ = holder.wait();
    assert_eq!(host.result(&server, "l1").0, 0);
}
