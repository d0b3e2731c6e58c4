//! The completion of the command line, driven in real shells.

mod util;

use std::io::Write;
use std::process::{Command, Stdio};

use util::*;

/// What is typed, with a tab at its end, and the arguments that the shell then has.
type Typed = [(&'static str, &'static str)];

const TYPED: [(&str, &str); 11] = [
    ("stat", "status"),
    ("init syst", "init systemd"),
    ("completion z", "completion zsh"),
    ("status --j", "status --json"),
    ("sha256 boot", "sha256 bootagent.json"),
    ("-c boot", "-c bootagent.json"),
    ("--config=boot", "--config=bootagent.json"),
    ("-c bootagent.json stop web-", "-c bootagent.json stop web-server"),
    ("--config bootagent.json stop web-", "--config bootagent.json stop web-server"),
    ("--config=bootagent.json stop web-", "--config=bootagent.json stop web-server"),
    ("-cbootagent.json stop web-", "-cbootagent.json stop web-server"),
];

/// The same while no daemon runs.
const WITHOUT_DAEMON: [(&str, &str); 3] = [
    ("-c bootagent.json logs web-", "-c bootagent.json logs web-server"),
    ("--config=bootagent.json logs uninst", "--config=bootagent.json logs uninstalled"),
    ("-c ~/bootagent.json restart web-", "-c ~/bootagent.json restart web-server"),
];

/// A host with an agent and the output of one that is gone, and the scripts for the shells.
fn host() -> Host {
    let host = Host::new();
    host.configure();
    host.agent("web-server", "exec sleep 1000", &[]);
    host.write("log/uninstalled.log", "");
    for (shell, file) in [("bash", "bash.sh"), ("zsh", "zsh.zsh"), ("fish", "fish.fish")] {
        host.write(file, &host.ok(&["completion", shell]));
    }
    host
}

/// Does `check` with a host without a daemon, and then with the daemon.
fn check_both(check: impl Fn(&Host, &Typed)) {
    let mut host = host();
    check(&host, &WITHOUT_DAEMON);
    host.start();
    host.wait_running("web-server");
    check(&host, &TYPED);
}

fn is_there(shell: &str) -> bool {
    Command::new(shell).arg("--version").output().is_ok() || !skipped(shell)
}

/// The PATH with the directory of the binary under test first, where it is called `bootagent`.
fn path(host: &Host) -> String {
    let dir = host.path("bin");
    if !dir.exists() {
        std::fs::create_dir_all(&dir).expect("the directory can be made");
        std::os::unix::fs::symlink(binary(), dir.join("bootagent")).expect("the link can be made");
    }
    format!("{}:{}", dir.display(), std::env::var("PATH").expect("there is a PATH"))
}

/// Types into an interactive shell on a terminal; a function in the place of the program writes what it is called with.
fn type_into(host: &Host, table: &Typed, shell: &str, setup: &str) {
    let _ = std::fs::remove_file(host.path("called"));
    let _ = std::fs::remove_file(host.path("ready"));
    let mut child = Command::new("script")
        .args(["-qec", shell, "/dev/null"])
        .current_dir(&host.dir)
        .env("PATH", path(host))
        .env("TERM", "dumb")
        .env("HOME", &host.dir)
        .stdin(Stdio::piped())
        .stdout(std::fs::File::create(host.path("terminal")).expect("the file can be made"))
        .spawn()
        .expect("script can be started");
    let mut terminal = child.stdin.take().expect("it is a pipe");
    writeln!(terminal, "{setup}\nbootagent() {{ printf '%s\\n' \"$*\" | sed \"s,$HOME,~,\" >>called; }}; touch ready")
        .expect("the shell reads");
    host.wait("the shell", || host.path("ready").exists());
    for (index, (typed, _)) in table.iter().enumerate() {
        writeln!(terminal, "bootagent {typed}\t").expect("the shell reads");
        host.wait("the command", || host.lines("called") > index);
    }
    writeln!(terminal, "exit").expect("the shell reads");
    drop(terminal);
    child.wait().expect("the shell ends");
    let called = host.read("called");
    let want: String = table.iter().map(|(_, want)| format!("{want}\n")).collect();
    assert_eq!(called, want, "{}", host.read("terminal"));
}

#[test]
fn bash_completes() {
    check_both(|host, table| type_into(host, table, "bash --norc --noprofile -i", "source ./bash.sh"));
}

#[test]
fn zsh_completes() {
    if is_there("zsh") {
        let setup = "autoload -U compinit; compinit -u -D; source ./zsh.zsh";
        check_both(|host, table| type_into(host, table, "zsh -f -i", setup));
    }
}

#[test]
fn fish_completes() {
    if is_there("fish") {
        check_both(ask_fish);
    }
}

fn ask_fish(host: &Host, table: &Typed) {
    for (typed, want) in table {
        let ask = format!("source fish.fish; complete -C 'bootagent {typed}'");
        let output = Command::new("fish")
            .args(["--no-config", "-c", &ask])
            .current_dir(&host.dir)
            .env("PATH", path(host))
            .env("HOME", &host.dir)
            .output()
            .expect("fish can be executed");
        let out = String::from_utf8_lossy(&output.stdout);
        // Each line is a completion of the last word, and perhaps a description after a tab.
        let found: Vec<&str> = out.lines().filter_map(|line| line.split('\t').next()).collect();
        assert_eq!(
            found,
            [want.rsplit(' ').next().unwrap_or_default()],
            "{typed}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}
