//! The completion of the command line, driven in real shells.

mod util;

use std::io::Write;
use std::process::{Command, Stdio};

use util::*;

/// What is typed, with a tab at its end, and the arguments that the shell then has.
const TYPED: [(&str, &str); 7] = [
    ("stat", "status"),
    ("init syst", "init systemd"),
    ("completion z", "completion zsh"),
    ("status --j", "status --json"),
    ("sha256 boot", "sha256 bootagent.json"),
    ("-c boot", "-c bootagent.json"),
    ("-c bootagent.json stop web-", "-c bootagent.json stop web-server"),
];

fn host() -> Host {
    let mut host = Host::new();
    host.agent("web-server", "exec sleep 1000", &[]);
    host.start();
    host.wait_running("web-server");
    for (shell, file) in [("bash", "bash.sh"), ("zsh", "zsh.zsh"), ("fish", "fish.fish")] {
        host.write(file, &host.ok(&["completion", shell]));
    }
    host
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
fn type_into(host: &Host, shell: &str, setup: &str) {
    let mut child = Command::new("script")
        .args(["-qec", shell, "/dev/null"])
        .current_dir(&host.dir)
        .env("PATH", path(host))
        .env("TERM", "dumb")
        .stdin(Stdio::piped())
        .stdout(std::fs::File::create(host.path("terminal")).expect("the file can be made"))
        .spawn()
        .expect("script can be started");
    let mut terminal = child.stdin.take().expect("it is a pipe");
    writeln!(terminal, "{setup}\nbootagent() {{ echo \"$*\" >>called; }}; touch ready").expect("the shell reads");
    host.wait("the shell", || host.path("ready").exists());
    for (index, (typed, _)) in TYPED.iter().enumerate() {
        writeln!(terminal, "bootagent {typed}\t").expect("the shell reads");
        host.wait("the command", || host.lines("called") > index);
    }
    writeln!(terminal, "exit").expect("the shell reads");
    drop(terminal);
    child.wait().expect("the shell ends");
    let called = host.read("called");
    let want: String = TYPED.iter().map(|(_, want)| format!("{want}\n")).collect();
    assert_eq!(called, want, "{}", host.read("terminal"));
}

#[test]
fn bash_completes() {
    let host = host();
    type_into(&host, "bash --norc --noprofile -i", "source ./bash.sh");
}

#[test]
fn zsh_completes() {
    if is_there("zsh") {
        let host = host();
        type_into(&host, "zsh -f -i", "autoload -U compinit; compinit -u -D; source ./zsh.zsh");
    }
}

#[test]
fn fish_completes() {
    if !is_there("fish") {
        return;
    }
    let host = host();
    for (typed, want) in TYPED {
        let ask = format!("source fish.fish; complete -C 'bootagent {typed}'");
        let output = Command::new("fish")
            .args(["--no-config", "-c", &ask])
            .current_dir(&host.dir)
            .env("PATH", path(&host))
            .env("HOME", &host.dir)
            .output()
            .unwrap();
        let out = String::from_utf8(output.stdout).unwrap();
        // Each line is a completion of the last word, and perhaps a description after a tab.
        let found: Vec<&str> = out.lines().map(|line| line.split('\t').next().unwrap()).collect();
        assert_eq!(found, [want.rsplit(' ').next().unwrap()], "{typed}: {}", String::from_utf8_lossy(&output.stderr));
    }
}
