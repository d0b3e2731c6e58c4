//! Package managers from outside: how apk and opkg are called, and what happens with scripts that hang, services that
//! packages start, held locks, and packages of one kind after another.
//!
//! Debian has neither apk-tools nor opkg, so that stand-ins take their place: scripts that take the same words, keep a
//! database of their own, and hold their locks and fail as these do (apk-tools 2.14: apk-add(8), apk-del(8), apk-info(8);
//! opkg 0.6: opkg(1)). Each sees mounts of its own, as does the database of rpm.

mod util;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use util::*;

/// A stand-in: `BEGIN` holds what the real one prints when another one has its lock, `DB` is its database.
const STAND_IN: &str = r#"#!/bin/bash
db=DB
echo "${0##*/} $*" >>$db/calls
exec 9>>$db/lock
case "$1" in add|install|del|remove) flock -n 9 || { echo 'LOCKED' >&2; exit 99; };; esac
last=${!#}
into() {
	[ $(cat $db/$1/version) != 4.0 ] || { echo 'the script of the package failed: no licence' >&2; return 1; }
	files=$db/$1/files
	tar -tf $db/$1/data.tar | grep -v '/$' | grep -v '^.PKGINFO$' | sed 's,^\./,,' >$files
	tar -C / --no-same-owner --exclude .PKGINFO -xf $db/$1/data.tar && mv $db/$1/version $db/$1/installed
}
out() {
	[ -e $db/$1/files ] || return 0
	while read -r file; do rm -f "/$file"; done <$db/$1/files
	rm -rf $db/${1:?}
}
case "$1" in
	add)
		name=$(tar -xzOf $last .PKGINFO | sed -n 's/^pkgname = //p')
		mkdir -p $db/$name
		tar -xzOf $last .PKGINFO | sed -n 's/^pkgver = //p' >$db/$name/version
		gzip -dc $last >$db/$name/data.tar
		into $name;;
	install)
		control=$(mktemp); tar -xzOf $last ./control.tar.gz | tar -xzOf - ./control >$control
		name=$(sed -n 's/^Package: //p' $control)
		mkdir -p $db/$name
		sed -n 's/^Version: //p' $control >$db/$name/version; rm $control
		tar -xzOf $last ./data.tar.gz | gzip -dc >$db/$name/data.tar
		into $name;;
	info) [ -e $db/$last/installed ] && echo $last-$(cat $db/$last/installed);;
	status) [ ! -e $db/$last/installed ] || printf 'Package: %s\nVersion: %s\nStatus: install user installed\n' $last $(cat $db/$last/installed);;
	del|remove) out $last;;
	*) echo "unknown: $*" >&2; exit 2;;
esac
"#;

/// A server and a started host; `commands` make its mounts.
fn pair(commands: impl Fn(&Host) -> String) -> (Server, Host) {
    let server = Server::new();
    let mut host = Host::with(&server);
    host.env("BOOTAGENT_LOCK_SECS", "0.2");
    let commands = commands(&host);
    if !commands.is_empty() {
        host.behind(&commands);
    }
    host.start();
    (server, host)
}

/// A job that installs `package`, served over http.
fn install(server: &Server, id: &str, name: &str, package: &Package) -> Job {
    let url = server.serve(&package.file, &package.bytes);
    Job::new(id, "install", name).package(&url, package).set("startsecs", "0.5")
}

/// Removes files and packages when the test ends, however it does; made before the host, so that no installer is left.
struct Cleanup {
    files: Vec<PathBuf>,
    commands: Vec<Vec<String>>,
    pids: Vec<i32>,
}

impl Cleanup {
    fn of(name: &str, commands: &[&[&str]]) -> Cleanup {
        let files = vec![format!("/usr/bin/{name}").into(), format!("/usr/lib/bootagent/{name}.json").into()];
        let commands = commands.iter().map(|words| words.iter().map(ToString::to_string).collect()).collect();
        Cleanup { files, commands, pids: Vec::new() }
    }
}

impl Drop for Cleanup {
    fn drop(&mut self) {
        self.commands.iter().for_each(|words| remove_package(words));
        self.files.iter().for_each(|file| drop(fs::remove_file(file)));
        // Stand-ins for a package manager leave it; while others use it, it is not empty.
        let _ = fs::remove_dir("/usr/lib/bootagent");
        self.pids.iter().for_each(|pid| kill(*pid, "KILL"));
    }
}

/// The files of a package that brings agent `name`, below a directory.
fn write_files(root: &Path, name: &str, version: &str, script: &str) {
    let exec = format!("[\"/usr/bin/{name}\"]");
    for dir in ["usr/bin", "usr/lib/bootagent"] {
        fs::create_dir_all(root.join(dir)).expect("the host's directory can be written");
    }
    write_program(&root.join("usr/bin").join(name), script);
    let definition = definition(name, version, "", &[("exec", &exec)]);
    fs::write(root.join(format!("usr/lib/bootagent/{name}.json")), definition).expect("the same");
}

fn sh(command: &str, dir: &Path) {
    let ran = run(Command::new("sh").args(["-ec", command]).current_dir(dir)).expect("it ends");
    assert_eq!(ran.code, 0, "{command}: {}{}", ran.out, ran.err);
}

/// An .apk of version 2: compressed segments one after the other, of which only the last one ends as a tar does.
fn apk(host: &Host, package: &str, name: &str, version: &str, script: &str) -> Package {
    let work = host.path("build").join(unique_name("apk"));
    write_files(&work.join("root"), name, version, script);
    fs::write(work.join(".PKGINFO"), format!("# made by a test\npkgname = {package}\npkgver = {version}\n"))
        .expect("the host's directory can be written");
    // Two blocks: header and content.
    sh("tar -b1 -cf - .PKGINFO | head -c 1024 | gzip -c >control.gz", &work);
    sh("tar -C root -czf data.gz usr; cat control.gz data.gz >package.apk", &work);
    Package::at(&work.join("package.apk"), version)
}

/// An .ipk as OpenWrt's ipkg-build makes it.
fn ipk(host: &Host, package: &str, name: &str, version: &str, script: &str) -> Package {
    let work = host.path("build").join(unique_name("ipk"));
    write_files(&work.join("root"), name, version, script);
    let control = format!("Package: {package}\nVersion: {version}\nArchitecture: all\nDescription: of a test\n");
    fs::write(work.join("control"), control).expect("the host's directory can be written");
    fs::write(work.join("debian-binary"), "2.0\n").expect("the host's directory can be written");
    sh("tar -czf control.tar.gz ./control; tar -C root -czf data.tar.gz ./usr", &work);
    sh("tar -czf package.ipk ./debian-binary ./data.tar.gz ./control.tar.gz", &work);
    Package::at(&work.join("package.ipk"), version)
}

/// Somebody who holds the fcntl or flock lock of a file until it is dropped.
struct Holder(Child);

impl Holder {
    fn of(path: &Path, how: &str) -> Holder {
        let script = format!(
            "import fcntl,sys\nf=open(sys.argv[1],'a')\nfcntl.{how}(f,fcntl.LOCK_EX)\nprint('held',flush=True)\nsys.stdin.read()"
        );
        let mut python = Command::new("python3");
        python.args(["-c", &script]).arg(path).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut holder = python.spawn().expect("python3 is there");
        let mut line = String::new();
        let out = holder.stdout.take().expect("it is piped");
        BufReader::new(out).read_line(&mut line).expect("it says that it holds the lock");
        Holder(holder)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// How one of them is called, and makes its packages.
struct Manager {
    program: &'static str,
    locked: &'static str,
    make: fn(&Host, &str, &str, &str, &str) -> Package,
    /// Its command lines: to install, to ask, to remove; the file or name follows.
    install: &'static str,
    query: &'static str,
    remove: &'static str,
}

const APK: Manager = Manager {
    program: "apk",
    locked: "ERROR: Unable to lock database: temporary error (try again later)",
    make: apk,
    install: "apk add --no-network --allow-untrusted",
    query: "apk info -e",
    remove: "apk del",
};

const OPKG: Manager = Manager {
    program: "opkg",
    locked: " * opkg_conf_load: Could not lock /var/lock/opkg.lock: Resource temporarily unavailable.",
    make: ipk,
    install: "opkg install --force-downgrade --force-reinstall",
    query: "opkg status",
    remove: "opkg remove",
};

fn a_package_lives_and_goes(manager: &Manager) {
    if lacks_root() || lacks("python3") || lacks("unshare") || lacks("flock") || lacks("bash") {
        return;
    }
    let name = unique_name("batest");
    let package = format!("{name}-pkg");
    let _cleanup = Cleanup::of(&name, &[]);
    let (server, host) = pair(|host| {
        let (tools, db) = (host.path("tools"), host.path("db"));
        fs::create_dir_all(&tools).expect("the host's directory can be written");
        fs::create_dir_all(&db).expect("the host's directory can be written");
        let script = STAND_IN.replace("DB", &db.display().to_string()).replace("LOCKED", manager.locked);
        write_program(&tools.join(manager.program), &script);
        format!("mount --bind {} /usr/local/sbin;", tools.display())
    });
    let make = |version: &str, script: &str| (manager.make)(&host, &package, &name, version, script);
    let version = || host.read(&format!("db/{package}/installed")).trim().to_string();

    host.does(&server, &install(&server, "p1", &name, &make("1.0", &staying("one"))), 0);
    assert_eq!((host.wait_running(&name).version, version()), ("1.0".into(), "1.0".into()));
    // Up, and down again for one that does not stay up; both while somebody holds the lock at first.
    let holder = Holder::of(&host.path("db/lock"), "flock");
    server.give(&install(&server, "p2", &name, &make("2.0", &staying("two"))).text());
    let waits = || host.job("p2").is_some_and(|row| text(&row, "progress").contains("lock"));
    host.wait("the job to wait for the lock", waits);
    drop(holder);
    assert_eq!(host.result(&server, "p2").0, 0);
    assert_eq!((host.wait_running(&name).version, version()), ("2.0".into(), "2.0".into()));
    let message = host.does(&server, &install(&server, "p3", &name, &make("3.0", "#!/bin/sh\nexit 9\n")), 8);
    assert!(message.contains("from 3.0 to 2.0"), "{message}");
    assert_eq!((host.wait_running(&name).version, version()), ("2.0".into(), "2.0".into()));
    // One that its package manager does not take.
    let message = host.does(&server, &install(&server, "p4", &name, &make("4.0", &staying("four"))), 8);
    assert!(message.contains("no licence"), "{message}");
    assert_eq!((host.wait_running(&name).version, version()), ("2.0".into(), "2.0".into()));
    host.does(&server, &install(&server, "p5", &name, &make("1.0", &staying("one"))), 0);
    assert_eq!(version(), "1.0", "a downgrade is an upgrade, too");

    host.does(&server, &Job::new("p6", "uninstall", &name), 0);
    assert!(!host.path(&format!("db/{package}")).exists());
    assert!(!Path::new(&format!("/usr/bin/{name}")).exists());
    assert_eq!(host.agents_processes(), []);
    let calls = host.read("db/calls");
    for (call, least) in [(manager.install, 6), (manager.query, 1), (manager.remove, 1)] {
        let count = calls.lines().filter(|line| line.starts_with(&format!("{call} "))).count();
        assert!(count >= least, "\"{call}\" came {count} times\n{calls}");
    }
    let known = |line: &str| [manager.install, manager.query, manager.remove].iter().any(|call| line.starts_with(call));
    assert!(calls.lines().all(known), "something else is asked of it\n{calls}");
    // And a file that is none.
    let mut broken = make("5.0", &staying("five"));
    broken.bytes.truncate(50);
    broken.checksum = checksum(&broken.bytes);
    let message = host.does(&server, &install(&server, "p7", &name, &broken), 6);
    assert!(!message.is_empty());
    assert_eq!(host.seen(&name), None);
}

#[test]
fn an_apk_is_installed_upgraded_undone_and_removed() {
    a_package_lives_and_goes(&APK);
}

#[test]
fn an_ipk_is_installed_upgraded_undone_and_removed() {
    a_package_lives_and_goes(&OPKG);
}

/// The mounts of a host with a database of rpm of its own.
fn own_rpm(host: &Host) -> String {
    let dbpath = run(Command::new("rpm").args(["--eval", "%{_dbpath}"])).expect("rpm ends").out;
    fs::create_dir_all(host.path("rpmdb")).expect("the host's directory can be written");
    format!("mkdir -p {0}; mount --bind {1} {0};", dbpath.trim(), host.path("rpmdb").display())
}

fn rpm_files(name: &str, version: &str, script: &str) -> [(String, String); 2] {
    let exec = format!("[\"/usr/bin/{name}\"]");
    let definition = definition(name, version, "", &[("exec", &exec)]);
    [(format!("usr/bin/{name}"), script.to_string()), (format!("usr/lib/bootagent/{name}.json"), definition)]
}

fn borrowed(files: &[(String, String)]) -> Vec<(&str, &str)> {
    files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect()
}

#[test]
fn an_rpm_waits_for_its_lock_and_is_killed_when_a_script_hangs() {
    if lacks_root() || lacks("rpmbuild") || lacks("rpm") || lacks("python3") || lacks("unshare") {
        return;
    }
    let name = unique_name("batest");
    let package = format!("{name}-pkg");
    let mut cleanup = Cleanup::of(&name, &[]);
    let server = Server::new();
    let mut host = Host::with(&server);
    host.env("BOOTAGENT_LOCK_SECS", "0.2").env("BOOTAGENT_TOOL_SECS", "15");
    let mounts = own_rpm(&host);
    host.behind(&mounts);
    host.start();
    let files = rpm_files(&name, "1.0", &staying("rpm"));
    host.does(&server, &install(&server, "r1", &name, &rpm(&host, &package, "1.0", &borrowed(&files))), 0);
    let lock = host.path("rpmdb/.rpm.lock");
    assert!(lock.exists(), "{:?}", entries(&host.path("rpmdb")));
    let files = rpm_files(&name, "1.1", &staying("rpm"));
    let next = install(&server, "r2", &name, &rpm(&host, &package, "1.1", &borrowed(&files)));
    let holder = Holder::of(&lock, "lockf");
    server.give(&next.text());
    let installing = || host.job("r2").is_some_and(|row| text(&row, "state") == "installing");
    host.wait("the installer to be at work", installing);
    assert!(stays(|| server.result("r2").is_none()), "{:?}", server.result("r2"));
    drop(holder);
    assert_eq!(host.result(&server, "r2").0, 0);
    assert_eq!(host.wait_running(&name).version, "1.1");

    // A release gives a script more time than a test has.
    if lacks_faults() {
        host.does(&server, &Job::new("r4", "uninstall", &name), 0);
        return;
    }
    let mark = unique_name("97").replace('-', "");
    let files = rpm_files(&name, "1.2", &staying("rpm"));
    let scripts = format!("%post\nsleep {mark} &\nsleep 9876\n");
    let hangs = rpm_with(&host, &package, "1.2", &borrowed(&files), &scripts);
    server.give(&install(&server, "r3", &name, &hangs).text());
    let sleeper =
        || run(Command::new("pgrep").args(["-f", &format!("sleep {mark}")])).map_or(String::new(), |ran| ran.out);
    host.wait("the script to hang", || !sleeper().is_empty());
    cleanup.pids.extend(sleeper().lines().filter_map(|pid| pid.parse::<i32>().ok()));
    let told = (0..4).find_map(|_| patiently(|| server.result("r3")));
    let (code, message) = told.unwrap_or_else(|| panic!("no result\n{}", host.logs()));
    assert!(code == 8 && message.contains("took too long"), "{code} {message}");
    host.wait("what the script started to be killed", || sleeper().is_empty());
    cleanup.pids.clear();
    assert_eq!(host.wait_running(&name).version, "1.1");
    host.does(&server, &Job::new("r4", "uninstall", &name), 0);
    assert!(!Path::new(&format!("/usr/bin/{name}")).exists());
}

/// A package's own service is the package manager's matter: neither counted, nor stopped, nor killed with anything of ours.
#[test]
fn a_service_that_a_package_starts_is_left_alone() {
    if lacks_root() || lacks("dpkg-deb") || lacks("dpkg") {
        return;
    }
    let name = unique_name("batest");
    let package = format!("{name}-pkg");
    let mut cleanup = Cleanup::of(&name, &[&["dpkg", "--purge", &package]]);
    let (server, mut host) = pair(|_| String::new());
    let mark = unique_name("96").replace('-', "");
    // As a daemon does it: a session of its own, and its parent is gone.
    let postinst = format!("#!/bin/sh\nsetsid sleep {mark} >/dev/null 2>&1 </dev/null &\nexit 0\n");
    let files = rpm_files(&name, "1.0", &staying("deb"));
    let one = deb(&host, &package, "1.0", &borrowed(&files), &[("postinst", &postinst)]);
    host.does(&server, &install(&server, "s1", &name, &one), 0);
    let found = run(Command::new("pgrep").args(["-f", &format!("sleep {mark}")])).map_or(String::new(), |ran| ran.out);
    let service: i32 = found.trim().parse().unwrap_or_else(|_| panic!("one service, not {found:?}"));
    cleanup.pids.push(service);
    let agent = host.wait_running(&name);
    assert_ne!(agent.pid, service);
    let group = |pid: i32| fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    assert!(!group(service).contains("bootagent"), "{}", group(service));
    host.does(&server, &Job::new("s2", "restart", &name), 0);
    host.does(&server, &Job::new("s3", "stop", &name), 0);
    host.kill9();
    host.start();
    host.does(&server, &Job::new("s4", "start", &name), 0);
    let two = deb(&host, &package, "2.0", &borrowed(&rpm_files(&name, "2.0", &staying("deb"))), &[]);
    host.does(&server, &install(&server, "s5", &name, &two), 0);
    assert!(alive(service), "an upgrade has ended it\n{}", host.logs());
    host.does(&server, &Job::new("s6", "uninstall", &name), 0);
    assert_eq!(host.end("TERM").code(), Some(0));
    assert!(alive(service), "it ended with the daemon\n{}", host.logs());
}

/// The next package of another kind has the same files; those must not go with the former one.
#[test]
fn a_deb_becomes_an_rpm_becomes_a_tar() {
    if lacks_root() || lacks("dpkg") || lacks("rpmbuild") || lacks("rpm") || lacks("unshare") {
        return;
    }
    let name = unique_name("batest");
    let package = format!("{name}-pkg");
    let _cleanup = Cleanup::of(&name, &[&["dpkg", "--purge", &package]]);
    let (server, host) = pair(own_rpm);
    let program = format!("/usr/bin/{name}");
    let dpkg_has = || run(Command::new("dpkg-query").args(["-W", &package])).is_some_and(|ran| ran.code == 0);
    let rpm_has = || {
        let db = host.path("rpmdb").display().to_string();
        run(Command::new("rpm").args(["--dbpath", &db, "-q", &package])).is_some_and(|ran| ran.code == 0)
    };
    let one = deb(&host, &package, "1.0", &borrowed(&rpm_files(&name, "1.0", &staying("deb"))), &[]);
    host.does(&server, &install(&server, "c1", &name, &one), 0);
    assert!(dpkg_has() && !rpm_has());
    // One that does not stay up: the deb is there as before, with all its files.
    let bad = rpm(&host, &package, "2.0", &borrowed(&rpm_files(&name, "2.0", "#!/bin/sh\nexit 9\n")));
    host.does(&server, &install(&server, "c2", &name, &bad), 8);
    assert_eq!(host.wait_running(&name).version, "1.0");
    assert!(dpkg_has() && !rpm_has() && fs::read_to_string(&program).unwrap().contains("deb"));
    let two = rpm(&host, &package, "2.1", &borrowed(&rpm_files(&name, "2.1", &staying("rpm"))));
    host.does(&server, &install(&server, "c3", &name, &two), 0);
    assert!(!dpkg_has() && rpm_has());
    let text = fs::read_to_string(&program).unwrap_or_default();
    assert!(text.contains("rpm"), "the agent's program went with the deb: {text:?}");
    host.does(&server, &Job::new("c4", "restart", &name), 0);
    assert_eq!(host.wait_running(&name).version, "2.1");
    let three = tarball(&host, &name, "3.0", &staying("tar"), &[]);
    host.does(&server, &install(&server, "c5", &name, &three), 0);
    assert!(!dpkg_has() && !rpm_has() && !Path::new(&program).exists());
    assert_eq!(host.wait_running(&name).version, "3.0");
    host.does(&server, &Job::new("c6", "uninstall", &name), 0);
    assert_eq!(host.agents_processes(), []);
}

/// The recorded package was removed by somebody meanwhile: a job that brings it again installs it.
/// The next daemon waits for it, and has the package manager say how it went.
#[test]
fn an_installer_that_outlives_the_daemon_is_waited_for() {
    if lacks_root() || lacks("dpkg-deb") || lacks("dpkg") {
        return;
    }
    let name = unique_name("batest");
    let package_name = format!("{name}-pkg");
    let _cleanup = Cleanup::of(&name, &[&["dpkg", "--purge", &package_name]]);
    let (server, mut host) = pair(|_| String::new());
    let (steps, go) = (host.path("steps").display().to_string(), host.path("go").display().to_string());
    let waits = format!("i=0; while [ ! -e {go} ] && [ $i -lt 600 ]; do sleep 0.1; i=$((i+1)); done");
    let script = format!("#!/bin/sh\necho begin >>{steps}\n{waits}\necho end >>{steps}\n");
    let files = rpm_files(&name, "1.0", &staying("deb"));
    let package = deb(&host, &package_name, "1.0", &borrowed(&files), &[("postinst", &script)]);
    server.give(&install(&server, "o1", &name, &package).text());
    // Others may hold its lock.
    let begun = (0..4).any(|_| patiently(|| (host.lines("steps") == 1).then_some(())).is_some());
    assert!(begun, "{}", host.logs());
    host.kill9();
    host.start();
    let waited = || host.read("log/bootagent.log").contains("of an earlier daemon");
    host.wait("the next daemon to wait for it", waited);
    assert!(stays(|| host.read("steps") == "begin\n" && server.result("o1").is_none()));
    host.write("go", "");
    let told = (0..4).find_map(|_| patiently(|| server.result("o1")));
    assert_eq!(told.map(|(code, _)| code), Some(0), "{}", host.logs());
    assert_eq!(host.read("steps").replace("begin\nend\n", ""), "", "two at a time");
    assert_eq!(host.wait_running(&name).version, "1.0");
    assert_eq!(server.times_taken("o1"), 1);
    host.does(&server, &Job::new("o2", "uninstall", &name), 0);
}

#[test]
fn what_is_gone_is_brought_again() {
    let (server, host) = pair(|_| String::new());
    let package = tarball(&host, "web", "1.0", &staying("tar"), &[]);
    host.does(&server, &install(&server, "g1", "web", &package), 0);
    host.does(&server, &Job::new("g2", "stop", "web"), 0);
    fs::remove_dir_all(host.path("state/packages/web")).expect("it was unpacked there");
    host.does(&server, &install(&server, "g3", "web", &package), 0);
    assert_eq!(host.wait_running("web").version, "1.0");
    host.does(&server, &Job::new("g4", "uninstall", "web"), 0);
    assert_eq!(entries(&host.path("state/packages")), [] as [PathBuf; 0]);
}

#[test]
fn a_deb_that_is_gone_is_brought_again() {
    if lacks_root() || lacks("dpkg-deb") || lacks("dpkg") {
        return;
    }
    let name = unique_name("batest");
    let package_name = format!("{name}-pkg");
    let _cleanup = Cleanup::of(&name, &[&["dpkg", "--purge", &package_name]]);
    let (server, host) = pair(|_| String::new());
    let package = deb(&host, &package_name, "1.0", &borrowed(&rpm_files(&name, "1.0", &staying("deb"))), &[]);
    host.does(&server, &install(&server, "g5", &name, &package), 0);
    host.does(&server, &Job::new("g6", "stop", &name), 0);
    // Others may hold its lock.
    let purge = || run(Command::new("dpkg").args(["--purge", &package_name])).filter(|ran| ran.code == 0);
    let purged = patiently(purge).is_some();
    assert!(purged && !Path::new(&format!("/usr/bin/{name}")).exists());
    host.does(&server, &install(&server, "g7", &name, &package), 0);
    assert_eq!(host.wait_running(&name).version, "1.0");
    host.does(&server, &Job::new("g8", "uninstall", &name), 0);
}
