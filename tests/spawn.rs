//! Real children: what `sys::child` promises about them, checked from inside and from outside.
//!
//! This is a program without threads, as `spawn_child` refuses to work beside other threads. Signals come by signalfd, as in
//! the daemon. Tests that need root are reported as skipped, or fail with BOOTAGENT_TEST_ALL=1.

#[path = "spawn/world.rs"]
mod world;

use std::ffi::CString;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bootagent::host::spawn::{setup, Where};
use bootagent::kernel::{Errno, Exit, Gid, Pid, Resource, Sig, Stage, Uid};
use bootagent::model::spec::Spec;
use bootagent::sys::account::own_uid;
use bootagent::sys::child::{spawn_child, Program, Setup};
use bootagent::sys::poll::{poll, PollFd, Signals};
use bootagent::sys::process::{self, Fork};
use bootagent::sys::setup_error::{SetupError, SetupErrorPipe};
use bootagent::sys::{self, file};
use world::*;

const DEADLINE: Duration = Duration::from_secs(20);

type Test = fn(&mut World) -> Result<(), String>;

/// What an error begins with that says why a test cannot be made here.
const SKIPPED: &str = "skipped: ";

const TESTS: &[(&str, Test)] = &[
    ("descriptors_that_collide_all_arrive", descriptors_that_collide_all_arrive),
    ("a_failure_is_told_even_from_under_the_arranged_descriptors", a_failure_is_told_from_under_the_descriptors),
    ("only_what_is_given_is_open", only_what_is_given_is_open),
    ("the_environment_is_exactly_what_is_given", the_environment_is_exactly_what_is_given),
    ("signals_are_default_and_unblocked", signals_are_default_and_unblocked),
    ("a_session_of_its_own", a_session_of_its_own),
    ("limits_are_set", limits_are_set),
    ("directory_umask_and_score_are_set", directory_umask_and_score_are_set),
    ("standard_descriptors_default_to_nothing", standard_descriptors_default_to_nothing),
    ("the_control_group_is_entered", the_control_group_is_entered),
    ("each_step_that_breaks_is_named", each_step_that_breaks_is_named),
    ("running_out_of_descriptors_is_named", running_out_of_descriptors_is_named),
    ("an_open_program_runs", an_open_program_runs),
    ("privileges_are_not_gained", privileges_are_not_gained),
    ("it_dies_with_its_parent", it_dies_with_its_parent),
    ("another_user_is_another_user", another_user_is_another_user),
    ("capabilities_are_dropped", capabilities_are_dropped),
    ("a_pidfd_signals_and_tells_the_end", a_pidfd_signals_and_tells_the_end),
    ("a_lock_keeps_others_out_and_is_not_inherited", a_lock_keeps_others_out),
    ("a_definition_runs", a_definition_runs),
    ("no_children_are_no_end", no_children_are_no_end),
];

fn main() {
    // What our starter left open.
    (3..64).for_each(|number| drop(sys::inherited(number)));
    // First of all, so that these get the low numbers that a child's own descriptors will want.
    let letters: Vec<OwnedFd> = "abcdef".chars().map(pipe_with).collect();
    let mut world = World {
        letters,
        failures: SetupErrorPipe::new().expect("a pipe"),
        signals: Signals::new(&[Sig::CHLD, Sig::TERM, Sig::HUP, Sig::USR1]).expect("a signalfd"),
    };
    let (mut passed, mut failed, mut skipped, mut filtered) = (0, 0, 0, 0);
    let filter: Option<String> = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    for (name, test) in TESTS {
        if filter.as_ref().is_some_and(|filter| !name.contains(filter.as_str())) {
            filtered += 1;
            continue;
        }
        match test(&mut world) {
            Ok(()) => {
                println!("test {name} ... ok");
                passed += 1;
            }
            Err(reason) => match reason.strip_prefix(SKIPPED) {
                Some(why) => {
                    println!("test {name} ... ignored, {why}");
                    skipped += 1;
                }
                None => {
                    println!("test {name} ... FAILED\n    {reason}");
                    failed += 1;
                }
            },
        }
    }
    let word = if failed == 0 { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {word}. {passed} passed; {failed} failed; {skipped} ignored; 0 measured; {filtered} filtered out\n"
    );
    process::exit_now(i32::from(failed > 0));
}

fn descriptors_that_collide_all_arrive(world: &mut World) -> Result<(), String> {
    // Turned by one, each becomes the number that the next one has; and the last one is also standard input.
    let mut extra = std::mem::take(&mut world.letters);
    extra.rotate_right(1);
    let numbers: Vec<_> = extra.iter().map(AsRawFd::as_raw_fd).collect();
    same(numbers.iter().filter(|raw| (3..9).contains(*raw)).count(), 6)?;
    let mut setup = shell("for n in 3 4 5 6 7 8; do eval \"read x <&$n\"; echo $n$x; done; read y; echo 0$y");
    setup.stdin = Some(pipe_with('z'));
    setup.extra = extra;
    same(world.output(setup)?.replace('\n', " "), "3f 4a 5b 6c 7d 8e 0z ".to_string())?;
    // Those numbers are free again: now one is its own target already.
    let same_number = pipe_with('s');
    same(same_number.as_raw_fd(), 3)?;
    let mut setup = shell("read x <&3; echo $x");
    setup.extra = vec![same_number];
    same(world.output(setup)?, "s\n".to_string())
}

fn a_failure_is_told_from_under_the_descriptors(world: &mut World) -> Result<(), String> {
    let mut setup = command(&["/no/such/program"]);
    for _ in 0..20 {
        setup.extra.push(pipe_with('x'));
    }
    let end = world.run(setup)?;
    same(end.exit, Exit::Code(127))?;
    same(end.failure, Some(SetupError { stage: Stage::Exec, errno: Errno(libc::ENOENT), limit: None }))
}

fn only_what_is_given_is_open(world: &mut World) -> Result<(), String> {
    // Left open by whoever started us, so to speak.
    let leak = File::open("/dev/null").map_err(text)?;
    sys::set_cloexec(leak.as_fd(), false).map_err(text)?;
    let list = "for n in $(seq 0 99); do [ -e /proc/$$/fd/$n ] && echo $n; done; true";
    same(world.output(shell(list))?, "0\n1\n2\n".to_string())?;
    let mut setup = shell(list);
    setup.extra = vec![pipe_with('a'), pipe_with('b')];
    same(world.output(setup)?, "0\n1\n2\n3\n4\n".to_string())
}

fn the_environment_is_exactly_what_is_given(world: &mut World) -> Result<(), String> {
    let mut setup = command(&["/bin/cat", "/proc/self/environ"]);
    setup.envp = vec![c("A=1"), c("B="), c("C=x y")];
    same(world.output(setup)?, "A=1\0B=\0C=x y\0".to_string())
}

fn signals_are_default_and_unblocked(world: &mut World) -> Result<(), String> {
    let own = std::fs::read_to_string("/proc/self/status").map_err(text)?;
    if own.contains("SigBlk:\t0000000000000000") || own.contains("SigIgn:\t0000000000000000") {
        return Err("nothing is blocked or ignored here, so nothing would be shown".to_string());
    }
    let output = world.output(command(&["/bin/cat", "/proc/self/status"]))?;
    let lines: Vec<_> =
        output.lines().filter(|l| ["SigBlk:", "SigIgn:", "SigCgt:"].contains(&&l[..7.min(l.len())])).collect();
    same(lines, vec!["SigBlk:\t0000000000000000", "SigIgn:\t0000000000000000", "SigCgt:\t0000000000000000"])
}

fn a_session_of_its_own(world: &mut World) -> Result<(), String> {
    let output = world.output(command(&["/bin/cat", "/proc/self/stat"]))?;
    let fields: Vec<_> = output.split(' ').collect();
    same((fields[4], fields[5]), (fields[0], fields[0]))
}

fn limits_are_set(world: &mut World) -> Result<(), String> {
    let mut setup = command(&["/bin/cat", "/proc/self/limits"]);
    setup.rlimits = vec![(Resource::Nofile, 40, 41), (Resource::Core, 0, 0), (Resource::Cputime, 100, 100)];
    let output = world.output(setup)?;
    for (name, want) in
        [("Max open files", ["40", "41"]), ("Max core file size", ["0", "0"]), ("Max cpu time", ["100", "100"])]
    {
        let line = output.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        same(line.split_whitespace().take(2).collect::<Vec<_>>(), want.to_vec())?;
    }
    Ok(())
}

fn directory_umask_and_score_are_set(world: &mut World) -> Result<(), String> {
    let mut setup = shell("pwd; umask; cat /proc/self/oom_score_adj");
    setup.directory = c("/etc");
    setup.umask = 0o027;
    setup.oom_score_adj = Some(345);
    same(world.output(setup)?, "/etc\n0027\n345\n".to_string())
}

fn standard_descriptors_default_to_nothing(world: &mut World) -> Result<(), String> {
    same(world.output(shell("wc -c; readlink /proc/self/fd/0"))?, "0\n/dev/null\n".to_string())?;
    let setup = shell("[ /proc/self/fd/1 -ef /dev/null ] && [ /proc/self/fd/2 -ef /dev/null ] && echo x");
    let pid = spawn_child(&setup, &world.failures).map_err(text)?;
    same(world.reap(pid, Instant::now() + DEADLINE)?, (Exit::Code(0), None))
}

fn the_control_group_is_entered(world: &mut World) -> Result<(), String> {
    let path = scratch("cgroup.procs");
    let mut setup = command(&["/bin/true"]);
    setup.cgroups = vec![File::create(&path).map_err(text)?.into()];
    world.output(setup)?;
    same(std::fs::read_to_string(&path).map_err(text)?, "0".to_string())?;
    std::fs::remove_file(path).map_err(text)
}

fn each_step_that_breaks_is_named(world: &mut World) -> Result<(), String> {
    let none = |_: &mut Setup| {};
    type Break = fn(&mut Setup);
    let cases: &[(&str, Break, Stage, i32)] = &[
        ("/no/such", none, Stage::Exec, libc::ENOENT),
        ("/etc/passwd", none, Stage::Exec, libc::EACCES),
        ("/bin/true", |s| s.directory = c("/no/such"), Stage::Directory, libc::ENOENT),
        ("/bin/true", |s| s.gid = Some(Gid(u32::MAX)), Stage::Gid, libc::EINVAL),
        ("/bin/true", |s| s.uid = Some(Uid(u32::MAX)), Stage::Uid, libc::EINVAL),
        ("/bin/true", |s| s.oom_score_adj = Some(5000), Stage::Priority, libc::EINVAL),
        // A group that cannot be entered: the file is not open for writing.
        ("/bin/true", |s| s.cgroups = vec![pipe_with('x')], Stage::Cgroup, libc::EBADF),
        ("/bin/true", |s| s.rlimits = vec![(Resource::Core, 1, 0)], Stage::Limits, libc::EINVAL),
    ];
    for (program, spoil, stage, errno) in cases {
        let mut setup = command(&[program]);
        spoil(&mut setup);
        let end = world.run(setup)?;
        let failure = end.failure.ok_or(format!("{stage:?} went well: {:?}", end.exit))?;
        same((failure.stage, failure.errno, end.exit), (*stage, Errno(*errno), Exit::Code(127)))?;
    }
    // Too many groups for root, too privileged for others.
    let mut setup = command(&["/bin/true"]);
    setup.groups = Some(vec![Gid(1); 65537]);
    same(world.run(setup)?.failure.map(|failure| failure.stage), Some(Stage::Groups))?;
    // Beyond fs.nr_open for root, beyond the hard limit for others.
    let mut setup = command(&["/bin/true"]);
    setup.rlimits = vec![(Resource::Core, 0, 0), (Resource::Nofile, u64::MAX, u64::MAX)];
    let said = world.run(setup)?.failure.map(|failure| failure.to_string());
    same(said.as_deref(), Some("setting resource limits: nofile unlimited: Operation not permitted"))
}

fn running_out_of_descriptors_is_named(world: &mut World) -> Result<(), String> {
    let (soft, hard) = process::limit(Resource::Nofile).map_err(text)?;
    let mut setup = command(&["/bin/true"]);
    for file in [&mut setup.stdin, &mut setup.stdout, &mut setup.stderr] {
        *file = Some(pipe_with('x'));
    }
    for _ in 0..30 {
        setup.extra.push(pipe_with('x'));
    }
    process::set_limit(Resource::Nofile, 25, hard).map_err(text)?;
    let spawned = spawn_child(&setup, &world.failures);
    process::set_limit(Resource::Nofile, soft, hard).map_err(text)?;
    let (exit, failure) = world.reap(spawned.map_err(text)?, Instant::now() + DEADLINE)?;
    same((exit, failure.map(|failure| failure.stage)), (Exit::Code(127), Some(Stage::Files)))
}

fn an_open_program_runs(world: &mut World) -> Result<(), String> {
    let mut setup = command(&["sh", "-c", "read x <&3; echo $x"]);
    setup.program = Program::Fd(File::open("/bin/sh").map_err(text)?.into());
    setup.extra = vec![pipe_with('p')];
    same(world.output(setup)?, "p\n".to_string())?;
    let mut setup = command(&["x"]);
    setup.program = Program::Fd(File::open("/etc/passwd").map_err(text)?.into());
    same(world.run(setup)?.failure.map(|f| (f.stage, f.errno)), Some((Stage::Exec, Errno(libc::EACCES))))
}

fn privileges_are_not_gained(world: &mut World) -> Result<(), String> {
    for (on, want) in [(true, "NoNewPrivs:\t1"), (false, "NoNewPrivs:\t0")] {
        let mut setup = command(&["/bin/cat", "/proc/self/status"]);
        setup.no_new_privs = on;
        let output = world.output(setup)?;
        match output.lines().find(|line| line.starts_with("NoNewPrivs:")) {
            Some(line) => same(line, want)?,
            None => return skip("this kernel does not show NoNewPrivs (it does from 4.10 on)"),
        }
    }
    Ok(())
}

fn it_dies_with_its_parent(world: &mut World) -> Result<(), String> {
    if let Err(error) = process::set_child_subreaper() {
        return skip(&format!("becoming the parent of orphans: {error}"));
    }
    let users: &[Option<Uid>] = if own_uid() == Uid(0) { &[None, Some(Uid(65534))] } else { &[None] };
    for uid in users {
        let (read, write) = sys::pipe().map_err(text)?;
        let middle = match process::fork().map_err(text)? {
            Fork::Child => {
                let mut setup = command(&["/bin/sleep", "60"]);
                setup.death_signal = Some(Sig::KILL);
                setup.uid = *uid;
                let ready = spawn_child(&setup, &world.failures).and_then(|pid| {
                    // Not before the child has become its program: until then our end would be seen without a signal.
                    let comm = format!("/proc/{pid}/comm");
                    let deadline = Instant::now() + DEADLINE;
                    while std::fs::read_to_string(&comm).is_ok_and(|name| name != "sleep\n")
                        && Instant::now() < deadline
                    {
                        std::thread::yield_now();
                    }
                    File::from(write).write_all(&pid.raw().to_ne_bytes())
                });
                process::exit_now(i32::from(ready.is_err()));
            }
            Fork::Parent(pid) => pid,
        };
        drop(write);
        let mut raw = [0; 4];
        File::from(read).read_exact(&mut raw).map_err(text)?;
        let orphan = Pid::new(i32::from_ne_bytes(raw)).ok_or("no pid")?;
        let deadline = Instant::now() + DEADLINE;
        let mut ends = Vec::new();
        while ends.len() < 2 {
            while world.signals.next().map_err(text)?.is_some() {}
            while let Some(end) = process::wait_any().map_err(text)? {
                ends.push(end);
            }
            if ends.len() < 2 {
                wait_readable(world.signals.as_fd(), deadline)?;
            }
        }
        ends.sort_by_key(|(pid, _)| *pid != middle);
        same(ends, vec![(middle, Exit::Code(0)), (orphan, Exit::Signal(Sig::KILL))])?;
    }
    Ok(())
}

fn another_user_is_another_user(world: &mut World) -> Result<(), String> {
    if own_uid() != Uid(0) {
        return skip("changing the user needs root");
    }
    let closed = scratch("closed");
    std::fs::DirBuilder::new().mode(0o700).create(&closed).map_err(text)?;
    let as_user = |mut setup: Setup| {
        setup.uid = Some(Uid(65533));
        setup.gid = Some(Gid(65532));
        setup.groups = Some(vec![Gid(65532), Gid(65531)]);
        setup
    };
    let output = world.output(as_user(command(&["/bin/cat", "/proc/self/status"])))?;
    for want in ["Uid:\t65533\t65533\t65533\t65533", "Gid:\t65532\t65532\t65532\t65532", "Groups:\t65531 65532"] {
        if !output.lines().any(|line| line.trim_end() == want) {
            return Err(format!("no {want:?} in {output}"));
        }
    }
    // The directory is entered as the user, not as root.
    let mut setup = as_user(command(&["/bin/true"]));
    setup.directory = c(&closed.to_string_lossy());
    let failure = world.run(setup)?.failure.map(|f| (f.stage, f.errno));
    std::fs::remove_dir(&closed).map_err(text)?;
    same(failure, Some((Stage::Directory, Errno(libc::EACCES))))?;
    // A program in a directory closed to the user runs through its descriptor.
    std::fs::DirBuilder::new().mode(0o700).create(&closed).map_err(text)?;
    let copy = closed.join("echo");
    std::fs::copy("/bin/echo", &copy).map_err(text)?;
    std::fs::set_permissions(&copy, PermissionsExt::from_mode(0o755)).map_err(text)?;
    let mut setup = as_user(command(&["echo", "inside"]));
    setup.program = Program::Fd(File::open(&copy).map_err(text)?.into());
    let output = world.output(setup);
    std::fs::remove_dir_all(&closed).map_err(text)?;
    same(output?, "inside\n".to_string())
}

fn capabilities_are_dropped(world: &mut World) -> Result<(), String> {
    if own_uid() != Uid(0) {
        return skip("dropping capabilities needs root");
    }
    let mut setup = command(&["/bin/cat", "/proc/self/status"]);
    // CAP_CHOWN and CAP_KILL.
    setup.bounding = Some(0x21);
    let output = world.output(setup)?;
    let line = output.lines().find_map(|line| line.strip_prefix("CapBnd:\t")).unwrap_or_default();
    same(line, "0000000000000021")
}

fn a_pidfd_signals_and_tells_the_end(world: &mut World) -> Result<(), String> {
    let pid = spawn_child(&command(&["/bin/sleep", "60"]), &world.failures).map_err(text)?;
    let deadline = Instant::now() + DEADLINE;
    match process::pidfd_open(pid) {
        Ok(pidfd) => {
            same(poll(&mut [PollFd::reading(pidfd.as_fd())], Some(Duration::ZERO)).map_err(text)?, 0)?;
            process::pidfd_signal(pidfd.as_fd(), Sig::TERM).map_err(text)?;
            wait_readable(pidfd.as_fd(), deadline)?;
        }
        Err(error) => {
            process::signal_group(pid, Sig::TERM).or_else(|_| process::signal(pid, Sig::TERM)).map_err(text)?;
            world.reap(pid, deadline)?;
            return skip(&format!("no pidfds: {error}"));
        }
    }
    same(process::exists(pid), true)?;
    same(world.reap(pid, deadline)?, (Exit::Signal(Sig::TERM), None))?;
    same(process::exists(pid), false)
}

fn a_lock_keeps_others_out(world: &mut World) -> Result<(), String> {
    let path = scratch("lock");
    let open = || file::open_nofollow(&path, File::options().write(true).create(true).truncate(false), 0o600);
    let ours = open().map_err(text)?;
    same(file::try_lock(&ours).map_err(text)?, true)?;
    let us = process::own_id();
    let pid = match process::fork().map_err(text)? {
        Fork::Child => {
            let refused = open().is_ok_and(|file| {
                matches!(file::try_lock(&file), Ok(false))
                    && matches!(file::lock_holder(&file), Ok(Some(pid)) if pid.raw() == us)
            });
            process::exit_now(i32::from(!refused));
        }
        Fork::Parent(pid) => pid,
    };
    same(world.reap(pid, Instant::now() + DEADLINE)?, (Exit::Code(0), None))?;
    std::fs::remove_file(path).map_err(text)
}

fn a_definition_runs(world: &mut World) -> Result<(), String> {
    let script =
        "echo $BOOTAGENT_NAME $BOOTAGENT_STATE_DIR $BOOTAGENT_STATE_ID $A $0; umask; pwd; ulimit -n; echo oops >&2";
    let mut spec = Spec::new("web", "1", vec!["sh".into(), "-c".into(), script.into()]);
    spec.envs = vec![("A".into(), "x".into())];
    spec.umask = 0o077;
    spec.directory = "/etc".into();
    spec.limits.resources = vec![(Resource::Nofile, 50)];
    let host = Where { state_dir: "/state", mark: "1:2", package: Some(Path::new("/bin")), notify: None, of_file: &[] };
    let log = scratch("log");
    let output = File::create(&log).map_err(text)?;
    let setup = setup(&spec, &spec.exec, &host, Some(output.into())).map_err(text)?;
    let pid = spawn_child(&setup, &world.failures).map_err(text)?;
    same(world.reap(pid, Instant::now() + DEADLINE)?, (Exit::Code(0), None))?;
    let said = std::fs::read_to_string(&log).map_err(text)?;
    std::fs::remove_file(log).map_err(text)?;
    same(said, "web /state 1:2 x /bin/sh\n0077\n/etc\n50\noops\n".to_string())
}

fn no_children_are_no_end(_: &mut World) -> Result<(), String> {
    same(process::wait_any().map_err(text)?, None)
}
