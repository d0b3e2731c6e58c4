//! Programs and processes as tests see them: what runs, waits and signals, and what keeps a test from running here.

use super::*;
use bootagent::host::proc::stat;
use bootagent::kernel::Pid;
use sha2::{Digest, Sha256};

/// The binary under test.
pub fn binary() -> PathBuf {
    std::env::var_os("BOOTAGENT_TEST_BIN").map_or_else(|| env!("CARGO_BIN_EXE_bootagent").into(), PathBuf::from)
}

/// The release before this one, statically linked for x86_64: `BOOTAGENT_OLD`, else where it lies beside a checkout. Without it,
/// or where it cannot be executed, `None`, loudly.
pub fn old_binary() -> Option<PathBuf> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/old/bootagent-1.0.0");
    let path = std::env::var_os("BOOTAGENT_OLD").map_or_else(beside, PathBuf::from);
    let runs = path.exists() && !is_emulated() && Command::new(&path).arg("version").output().is_ok();
    if !runs {
        skipped(&format!("{} (set BOOTAGENT_OLD)", path.display()));
    }
    runs.then(|| path.canonicalize().expect("a path that exists"))
}

/// The id that the smallest server gives the test host for the first attempt at a job.
pub fn as_sent(id: &str) -> String {
    let host = Sha256::digest("test-host");
    format!("{id}.{:02x}{:02x}{:02x}{:02x}.1", host[0], host[1], host[2], host[3])
}

/// An example of this package, where it was built beside the tests.
pub fn example(name: &str) -> Option<PathBuf> {
    let built: PathBuf = env!("CARGO_BIN_EXE_bootagent").into();
    built.parent().map(|place| place.join("examples").join(name)).filter(|path| path.exists())
}

/// Runs the binary without any host.
pub fn bootagent(args: &[&str]) -> Ran {
    let mut command = Command::new(binary());
    command.args(args).stdin(Stdio::null());
    run(&mut command).unwrap_or_else(|| panic!("bootagent {args:?} does not end"))
}

/// Runs a command to its end with its output caught; `None` when it does not end within a minute, and is killed.
pub fn run(command: &mut Command) -> Option<Ran> {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program can be executed");
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let (out, err) = (slurp(out), slurp(err));
    let deadline = Instant::now() + patience().max(Duration::from_secs(60));
    let status = loop {
        match child.try_wait().expect("our own child") {
            Some(status) => break status,
            None if Instant::now() > deadline => {
                let _ = child.kill();
                let _ = child.wait();
                return None;
            }
            None => let_pass(Duration::from_millis(2)),
        }
    };
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    let text = |pipe: Receiver<String>| {
        pipe.recv_timeout(Duration::from_secs(10)).expect("a process that was left behind holds the output open")
    };
    Some(Ran { code, out: text(out), err: text(err) })
}

/// Removes what a test has installed, at its end: `words` are a command of dpkg or rpm, the package last. It is tried
/// until the package is gone, as another one may hold the database's lock.
pub fn remove_package(words: &[impl AsRef<std::ffi::OsStr>]) {
    let (tool, package) = (words[0].as_ref(), words[words.len() - 1].as_ref());
    let [query, option] = if tool == "rpm" { ["rpm", "-q"] } else { ["dpkg-query", "-W"] };
    let gone = || run(Command::new(query).arg(option).arg(package)).is_some_and(|ran| ran.code != 0);
    let removed = patiently(|| {
        let _ = run(Command::new(tool).args(&words[1..]));
        gone().then_some(())
    });
    if removed.is_none() {
        eprintln!("package {} stays in the database of {}", package.to_string_lossy(), tool.to_string_lossy());
    }
    let _ = std::fs::remove_dir("/usr/lib/bootagent");
}

/// Records for tests/run the name of something that a test makes on this host outside its directory, so that tests/run
/// recognizes it when it looks for leftovers.
pub fn note_made(name: &str) {
    let Some(file) = std::env::var_os("BOOTAGENT_TEST_RUN").map(|run| Path::new(&run).join("made")) else { return };
    let mut file = OpenOptions::new().append(true).create(true).open(file).expect("the run's directory is there");
    std::io::Write::write_all(&mut file, format!("{name}\n").as_bytes()).expect("the run's file can be written");
}

/// Reads a pipe to its end in a thread of its own.
fn slurp(pipe: Option<impl Read + Send + 'static>) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            let _ = pipe.read_to_end(&mut bytes);
        }
        sender.send(String::from_utf8_lossy(&bytes).into_owned())
    });
    receiver
}

/// Asks again and again until there is an answer, for as long as `PATIENCE` lasts.
pub fn patiently<T>(mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + patience();
    loop {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        if Instant::now() > deadline {
            return None;
        }
        pause();
    }
}

/// Between two looks at a condition.
pub fn pause() {
    let_pass(Duration::from_millis(20));
}

/// How long a test looks whether something happens that must not, and that no later event would show: longer than it
/// takes to start an agent again, or to send a report, with the times that a `Host` has.
const WINDOW: Duration = Duration::from_millis(500);

/// Whether `condition` is true for a short while; for what must not happen, where there is nothing to wait for.
pub fn stays(condition: impl FnMut() -> bool) -> bool {
    holds(WINDOW, condition)
}

/// Lets time pass where time is what is tried: a kill at that moment, a server that is slow. Not to wait for something.
pub fn let_pass(time: Duration) {
    std::thread::sleep(time);
}

/// Holds for `time` that `condition` is true, looking all the while.
pub fn holds(time: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + time;
    while Instant::now() < deadline {
        if !condition() {
            return false;
        }
        pause();
    }
    condition()
}

/// Sends a signal to one process, which may be gone.
pub fn kill(pid: i32, signal: &str) {
    assert!(pid > 1, "a signal to {pid} would reach strangers");
    let mut shell = Command::new("/bin/sh");
    let _ = shell.args(["-c", &format!("kill -s {signal} {pid} 2>/dev/null")]).status();
}

/// Whether a process is there and not a zombie.
pub fn alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// A field of /proc/PID/status; empty when there is none.
pub fn proc_status(pid: i32, field: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What the daemon writes into a file to find this process again.
pub fn noted(pid: u32, boot: &str) -> String {
    let process = Pid::new(pid as i32).and_then(stat).expect("it runs").process;
    format!("{} {} {boot}\n", process.pid, process.ticks)
}

/// The processes below one.
pub fn descendants(pid: i32) -> Vec<i32> {
    let mut found: Vec<i32> = Vec::new();
    for path in entries(Path::new("/proc")) {
        let Some(child) = path.file_name().and_then(|name| name.to_str()?.parse::<i32>().ok()) else { continue };
        if proc_status(child, "PPid") == pid.to_string() {
            found.push(child);
            found.extend(descendants(child));
        }
    }
    found
}

/// The user that the tests run as.
pub fn own_user() -> u32 {
    fs::metadata("/proc/self").map_or(0, |own| std::os::unix::fs::MetadataExt::uid(&own))
}

/// A set of signals in /proc/PID/status, bit 0 for signal 1; without the one of real time that qemu keeps to itself.
pub fn signals(pid: i32, field: &str) -> u64 {
    let set = u64::from_str_radix(&proc_status(pid, field), 16).expect("a set of signals");
    if is_emulated() {
        set & !(1 << 31)
    } else {
        set
    }
}

/// Whether the kernel is older than this one, so that the test under way has no meaning.
pub fn is_older_than_linux(major: u32, minor: u32) -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(['.', '-']).map(|number| number.trim().parse::<u32>().unwrap_or(0));
    let own = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    own < (major, minor) && cannot_apply(&format!("needs Linux {major}.{minor}"))
}

/// Whether the binary under test runs in an emulator: it is not of the processor that the tests were built for.
pub fn is_emulated() -> bool {
    static MACHINES: OnceLock<[Option<[u8; 2]>; 2]> = OnceLock::new();
    let machine = |path: &Path| {
        let mut header = [0; 20];
        File::open(path).and_then(|mut file| file.read_exact(&mut header)).ok()?;
        Some([header[18], header[19]])
    };
    let [ours, other] = MACHINES.get_or_init(|| [machine(Path::new("/proc/self/exe")), machine(&binary())]);
    ours != other
}

/// Whether a test is skipped as the binary under test is emulated, and the emulator has not got `what`.
pub fn emulator_lacks(what: &str) -> bool {
    if is_emulated() {
        cannot_apply(&format!("under an emulator there is no {what}"));
    }
    is_emulated()
}

/// Whether the binary under test is a release, which knows nothing of the faults and short times that tests ask for.
pub fn lacks_faults() -> bool {
    static LACKS: OnceLock<bool> = OnceLock::new();
    *LACKS.get_or_init(|| {
        let mark = b"BOOTAGENT_FAULT_LOG";
        std::env::var_os("BOOTAGENT_TEST_BIN").is_some()
            && !fs::read(binary()).is_ok_and(|bytes| bytes.windows(mark.len()).any(|part| part == mark))
    })
}

/// Whether a test is skipped as it asks for faults or short times, and the binary under test is a release.
pub fn needs_faults() -> bool {
    if lacks_faults() {
        cannot_apply("a release takes no faults and no short times");
    }
    lacks_faults()
}

/// Whether the tests run as root; when not, says that one is skipped.
pub fn lacks_root() -> bool {
    proc_status(std::process::id() as i32, "Uid").split(' ').nth(1) != Some("0") && skipped("root")
}

/// Whether a program is missing; when it is, says that a test is skipped.
pub fn lacks(program: &str) -> bool {
    find_program(program).is_none() && skipped(program)
}

/// How often something is done: what the variable says, for a run of hours, or as often as there is time for every day.
pub fn variable(name: &str, usual: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// A program on the PATH.
pub fn find_program(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let mut places = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    places.find_map(|place| Some(place.join(program)).filter(|file| file.is_file()))
}

/// The paths in a directory, sorted; none when it cannot be read.
pub fn entries(directory: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> =
        fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    found.sort();
    found
}

/// A file system of its own, as long as this lives.
pub struct Mount(pub PathBuf);

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = run(Command::new("umount").arg("-l").arg(&self.0));
    }
}

/// Writes a file that others can execute.
pub fn write_program(path: &Path, text: &str) {
    let mut draft = path.as_os_str().to_owned();
    draft.push(".text");
    fs::write(&draft, text).expect("the test's own directory");
    copy_program(Path::new(&draft), path);
    fs::remove_file(&draft).expect("the test's own file");
}

/// Copies a program, by another process: one of ours that is just being made would have the copy open for writing, and
/// nobody could execute it.
pub fn copy_program(from: &Path, to: &Path) {
    let ran = run(Command::new("cp").arg("--remove-destination").arg(from).arg(to)).expect("a copy ends");
    assert_eq!(ran.code, 0, "{ran:?}");
    fs::set_permissions(to, fs::Permissions::from_mode(0o755)).expect("the test's own file");
}

/// What has the daemon run as a user without any rights.
pub fn unprivileged(host: &Host) -> String {
    let dir = host.dir.display();
    let own = format!("for i in state run log; do mkdir -p {dir}/$i; chown 12345:12345 {dir}/$i; done;");
    format!("{own} exec setpriv --reuid=12345 --regid=12345 --clear-groups \"$0\" \"$@\";")
}

/// What unmounts the control groups of a daemon, for `Host::behind`.
pub const NO_GROUPS: &str = "umount -R -l /sys/fs/cgroup || exit 1;";

/// How often a text is in the daemon's own log.
pub fn said(host: &Host, text: &str) -> usize {
    host.read("log/bootagent.log").matches(text).count()
}
