//! The blocks of README.md, pasted into a shell as they stand.

mod util;

use std::process::Command;

use util::*;

const README: &str = include_str!("../README.md");

/// The indented block below a heading that has `line` in it, without the indent.
fn block(heading: &str, line: &str) -> String {
    let section = README.split("\n## ").find(|section| section.starts_with(heading)).expect("the heading is there");
    let block = section.split("\n\n").find(|block| block.starts_with("    ") && block.contains(line));
    let block = block.unwrap_or_else(|| panic!("no block with {line} below {heading}"));
    block.lines().map(|line| format!("{}\n", line.strip_prefix("    ").unwrap_or(line))).collect()
}

/// Types `text` into a shell that finds the binary under test as `bootagent`; what it and all that it starts say.
fn paste(host: &Host, user: Option<&str>, text: &str) -> String {
    host.write("pasted", text);
    let mut command = Command::new(if user.is_some() { "setpriv" } else { "/bin/sh" });
    if let Some(user) = user {
        command.args(["--reuid", user, "--regid", user, "--clear-groups", "/bin/sh"]);
    }
    let path = format!("{}:{}", host.path("bin").display(), std::env::var("PATH").expect("there is a PATH"));
    let pasted = std::fs::File::open(host.path("pasted")).expect("it was written");
    // The mark by which the host finds what was started.
    command.env("PATH", path).env("OF", host.path("pasted")).current_dir(&host.dir).stdin(pasted);
    let ran = run(&mut command).expect("it ends");
    ran.out + &ran.err
}

/// A host whose binary is called `bootagent`, in a directory that every user can read, and whose first try is in `try`.
fn host() -> Host {
    let mut host = Host::new();
    host.install();
    let state = host.path("try/state").display().to_string();
    host.set("state_dir", &format!("\"{state}\""));
    std::fs::create_dir_all(host.path("try")).expect("the host's directory can be written");
    host
}

fn in_host(host: &Host, text: &str) -> String {
    let build = "make build && export PATH=\"$PWD/target/debug:$PATH\" && ";
    text.replace(build, "").replace("/tmp/try", &host.path("try").display().to_string())
}

#[test]
fn the_first_try_works_and_goes_on_with_a_job() {
    let Some(server) = example("server") else {
        skipped("the example server (cargo build --examples)");
        return;
    };
    let host = host();
    let said = paste(&host, None, &in_host(&host, &block("Try it without a server", "bootagent example")));
    assert!(said.starts_with("1 agent: 1 running\n") && !said.contains("cannot"), "{said}");
    assert!(said.lines().last().is_some_and(|line| line.contains("20")), "the agent's output: {said}");
    host.wait("the daemon to end", || host.processes().is_empty());

    let address = Server::nowhere();
    let jobs = in_host(&host, &block("Give it jobs", "examples/server"))
        .replace("cargo build --example server\n", "")
        .replace("target/debug/examples/server", &format!("{} --listen {address}", server.display()))
        .replace("127.0.0.1:8080", &address);
    let said = paste(&host, None, &jobs);
    let done = said.lines().find(|line| line.starts_with("restart-example-1")).unwrap_or_default();
    assert!(done.contains("done, sent") && done.contains("success"), "{said}");
    host.wait("the daemon and the server to end", || host.processes().is_empty());
}

#[test]
fn the_first_try_needs_no_root() {
    if lacks_root() || lacks("setpriv") {
        return;
    }
    let host = host();
    std::os::unix::fs::chown(host.path("try"), Some(65534), Some(65534)).expect("root may");
    let said = paste(&host, Some("65534"), &in_host(&host, &block("Try it without a server", "bootagent example")));
    assert!(said.starts_with("1 agent: 1 running\n") && !said.contains("cannot"), "{said}");
    host.wait("the daemon to end", || host.processes().is_empty());
}

#[test]
fn the_agent_that_is_defined_runs() {
    if lacks_root() {
        return;
    }
    let mut host = host();
    host.start();
    let config = host.path("bootagent.json").display().to_string();
    let agents = host.path("agents.d").display().to_string();
    let text = block("Define an agent", "clock.json").replace("/etc/bootagent/agents.d", &agents);
    let said = paste(&host, None, &text.replace("bootagent ", &format!("bootagent -c {config} ")));
    assert!(said.contains("agent \"clock\": new\n") && said.contains("running"), "{said}");
}

#[test]
fn a_shell_reads_every_block() {
    // The others show what is printed, or how commands are used.
    let shown = ["    $ ", "    NAME", "    \"", "    bootagent [-c FILE]"];
    let blocks = README.split("\n\n").filter(|block| block.starts_with("    "));
    let mut count = 0;
    for block in blocks.filter(|block| !shown.iter().any(|start| block.starts_with(start))) {
        let ran = run(Command::new("/bin/sh").args(["-nc", block])).expect("it ends");
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{block}");
        count += 1;
    }
    assert!(count >= 6, "{count} blocks");
}
