//! What `make demo` shows must stay true, and it leaves nothing behind.

mod util;

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use util::*;

/// `make demo` with these variables, with everything temporary in the directory of `host`.
fn demo(host: &Host, variables: &[&str]) -> Option<Command> {
    if lacks("make") {
        return None;
    }
    let Some(server) = example("server") else {
        skipped("the smallest server (cargo build --examples)");
        return None;
    };
    let tmp = host.path("tmp");
    std::fs::create_dir_all(&tmp).expect("the host's directory can be written");
    let mut make = Command::new("make");
    make.arg("demo").args(variables).current_dir(env!("CARGO_MANIFEST_DIR"));
    make.env("BOOTAGENT", binary()).env("SERVER", server).env("TMPDIR", tmp);
    Some(make)
}

/// Nothing that the demo has made or started is there any more.
fn nothing_is_left(host: &Host) {
    host.wait("all processes to end", || host.processes().is_empty());
    assert_eq!(entries(&host.path("tmp")), [""; 0].map(PathBuf::from));
}

#[test]
fn the_demo_works() {
    let host = Host::new();
    let Some(mut make) = demo(&host, &[]) else { return };
    let ran = run(&mut make).expect("the demo ends");
    assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
    // The paths are longer here than elsewhere.
    let dir = host.dir.display().to_string();
    let wide: Vec<&str> = ran.out.lines().filter(|line| line.len() > 80 && !line.contains(&dir)).collect();
    assert_eq!(wide, [""; 0]);
    nothing_is_left(&host);
}

/// Starts the demo that stays up; returns when it does, with what it has said.
fn kept(host: &Host) -> Option<(Child, String)> {
    let mut make = demo(host, &["KEEP=1"])?;
    let out = File::create(host.path("said")).expect("the host's directory can be written");
    make.stdin(Stdio::piped()).stderr(out.try_clone().expect("a descriptor")).stdout(out);
    let mut child = make.spawn().expect("make can be executed");
    host.wait("the demo to stay", || {
        assert!(child.try_wait().expect("our own child").is_none(), "{}", host.read("said"));
        host.read("said").contains("Enter ends all this.")
    });
    Some((child, host.read("said")))
}

#[test]
fn the_demo_stays_up_until_enter() {
    let host = Host::new();
    let Some((mut child, said)) = kept(&host) else { return };
    let line = said.lines().find(|line| line.contains("are shown at http://")).expect("it says where");
    let address = line.rsplit("http://").next().expect("a part").trim_end_matches('/');
    let mut page = String::new();
    let mut stream = TcpStream::connect(address).expect("the server listens");
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").expect("it reads");
    stream.read_to_string(&mut page).expect("it answers");
    for name in ["<td>demo-host<", "<td>demo-host-2<", "<td>demo-host-3<"] {
        assert!(page.contains(name), "{name}: {page}");
    }
    // The commands that are to be tried, as they stand.
    let commands: Vec<&str> = said.lines().filter_map(|line| line.strip_prefix("    ")).collect();
    let tried = commands.iter().filter(|line| !line.contains("--watch") && !line.contains("-f ")).copied();
    let script = tried.collect::<Vec<_>>().join("\n").replace("alias bootagent='", "bootagent() { ");
    let script = script.replacen(".json'", ".json \"$@\"; }", 1);
    let ran = run(Command::new("sh").args(["-ec", &script])).expect("it ends");
    assert!(ran.code == 0 && ran.out.contains("demo-2") && ran.err.is_empty(), "{script}\n{ran:?}");
    child.stdin.take().expect("a pipe").write_all(b"\n").expect("it reads");
    let status = child.wait().expect("our own child");
    let said = host.read("said");
    assert!(status.success() && said.contains("Everything was seen to work"), "{said}");
    nothing_is_left(&host);
}

#[test]
fn a_demo_that_is_broken_off_leaves_nothing_behind() {
    let host = Host::new();
    let Some((mut child, _)) = kept(&host) else { return };
    // As a terminal does to all that it has started: here to the shell below make.
    for pid in descendants(child.id() as i32) {
        let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        if line.contains("demo.sh") {
            kill(pid, "INT");
        }
    }
    child.wait().expect("our own child");
    let said = host.read("said");
    assert!(!said.contains("did not work"), "{said}");
    nothing_is_left(&host);
}
