//! Which processes a job takes for copies of its agent that the package has started, and ends.

mod util;

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command};

use bootagent::model::package;

use util::*;

/// A child of this test that ends with it.
struct Started(Child);

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts `words`, and waits until its program runs.
fn started(words: &[&str]) -> Started {
    let child = Command::new(words[0]).args(&words[1..]).spawn().expect("it starts");
    let line = format!("/proc/{}/cmdline", child.id());
    let runs = || fs::read(&line).unwrap_or_default().starts_with(words[0].as_bytes()).then_some(());
    patiently(runs).expect("the program runs");
    Started(child)
}

#[test]
fn only_copies_of_the_agent_are_ended() {
    let busybox = "/bin/busybox";
    if lacks("busybox") {
        return;
    }
    let host = Host::new();
    let link = host.path("sleep").display().to_string();
    std::os::unix::fs::symlink(busybox, &link).expect("a link can be made");
    let script = "echo begin >/dev/null\nwhile :; do\nsleep 1\ndone\n\n";
    let other = "while :; do\nsleep 1\ndone\n\n";
    let wait = host.path("wait").display().to_string();
    write_program(&PathBuf::from(&wait), other);
    let becomes = format!("exec /bin/sh {wait} $OPTIONS");
    type Words<'a> = &'a [&'a str];
    let cases: [(Words, &[Words], &[Words]); 5] = [
        // All commands of busybox are one program.
        (
            &[&link, "71"],
            &[&[&link, "72"], &[busybox, "sleep", "73"]],
            &[&[busybox, "tail", "-f", "/dev/null"], &["/bin/sleep", "74"]],
        ),
        (&[busybox, "sleep", "71"], &[&[&link, "72"]], &[&[busybox, "tail", "-f", "/dev/null"]]),
        // A script on several lines is told as a whole, not by a line that another has too.
        (&["/bin/sh", "-c", script], &[&["/bin/sh", "-c", script]], &[&["/bin/sh", "-c", other]]),
        // The value of an option of an interpreter is not its script.
        (
            &["/bin/sh", "-o", "nounset", &wait],
            &[&["/bin/sh", "-o", "nounset", &wait]],
            &[&["/bin/sh", "-o", "nounset", "-c", other], &["/bin/sh", "-c", other, "x", "nounset"]],
        ),
        // A shell becomes what it executes.
        (&["/bin/sh", "-c", &becomes], &[&["/bin/sh", &wait, "x"]], &[&["/bin/sh", "-c", other]]),
    ];
    for shell in [&["sh"][..], &[busybox, "sh"]] {
        for (exec, copies, others) in &cases {
            let exec: Vec<Box<str>> = exec.iter().map(|word| Box::from(*word)).collect();
            let since = bootagent::sys::monotonic();
            let copies: Vec<Started> = copies.iter().map(|words| started(words)).collect();
            let mut others: Vec<Started> = others.iter().map(|words| started(words)).collect();
            let traits = package::traits(&exec).expect("it has traits");
            let tool = package::clear(&[traits], since, "1").expect("it is a tool");
            // Those that were ended are there, as zombies, until this test has taken note of them.
            let reaper = std::thread::spawn(move || copies.into_iter().map(end_of).collect::<Vec<_>>());
            let words: Vec<&str> = shell.iter().copied().chain(tool.argv[1..].iter().map(|word| &**word)).collect();
            let ran = run(Command::new(words[0]).args(&words[1..])).expect("it ends");
            let mut ended: Vec<u32> = ran.out.split_whitespace().filter_map(|pid| pid.parse().ok()).collect();
            let mut want = reaper.join().expect("every copy has ended");
            ended.sort_unstable();
            want.sort_unstable();
            assert_eq!(ended, want, "{shell:?} {exec:?} {}", ran.err);
            for other in &mut others {
                assert!(other.0.try_wait().expect("it can be asked").is_none(), "{exec:?}");
            }
        }
    }
}

#[test]
fn a_stranger_that_init_has_started_is_no_copy() {
    let since = bootagent::sys::monotonic();
    let host = Host::new();
    let program = host.path("wait").display().to_string();
    write_program(&host.path("wait"), "#!/bin/sh\nwhile :; do\nsleep 1\ndone\n");
    for (begins, is_ended) in [("", false), ("SYSTEMD_OFFLINE=1", true)] {
        let start = format!("{begins} setsid {program} </dev/null >/dev/null 2>&1 & echo $!");
        let pid = run(Command::new("sh").args(["-c", &start])).expect("it starts").out.trim().to_string();
        let runs = || {
            fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default().ends_with(format!("{program}\0").as_bytes())
        };
        patiently(|| runs().then_some(())).expect("the program runs");
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
        // It may have another parent, which takes in the orphans of this test.
        let is_of_init = stat.rsplit_once(") ").is_some_and(|(_, rest)| rest[2..].starts_with("1 "));
        let exec = [program.as_str().into()];
        let traits = package::traits(&exec).expect("it has traits");
        let tool = package::clear(&[traits], since, "").expect("it is a tool");
        let ran = run(Command::new("sh").args(tool.argv[1..].iter().map(|word| &**word))).expect("it ends");
        let ended = ran.out.split_whitespace().any(|word| word == pid);
        let _ = Command::new("kill").arg("-9").arg(&pid).status();
        assert_eq!(ended, is_ended && is_of_init, "{begins} {ran:?}");
    }
}

/// Waits for the end of a child, and returns its id.
fn end_of(mut child: Started) -> u32 {
    let _ = child.0.wait();
    child.0.id()
}
