//! Processes: made from definitions, tools and checks, reaped in one place, watched where they are not ours.

use std::ffi::CString;
use std::fs::{self, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Daemon, Owner, Watched};
use crate::error::Error;
use crate::host::disk::{publish, reason};
use crate::host::proc::{self, Snapshot};
use crate::host::spawn::{setup, Where, PATH};
use crate::kernel::{Exit, Level, Pid, Process, Resource, Sig, Stage};
use crate::model::event::{Event, ToolOwner};
use crate::model::package::Tool;
use crate::model::spec::{Name, Spec};
use crate::sys::account::own_uid;
use crate::sys::child::{spawn_child, Program, Setup};
use crate::sys::file::{open_nofollow, read_text, read_up_to};
use crate::sys::process::{self, c_text};
use crate::sys::setup_error::SetupError;
use crate::text::sanitize;

/// So much of an agent's output, or its check's, goes into what is said about its end.
pub(super) const TAIL: u64 = 400;

/// The descriptors that a start takes, and some: its output twice, /dev/null, control groups, accounts.
const SPARE: u64 = 16;

/// So much of a tool's output is read: from its beginning and from its end.
const OUTPUT: u64 = 4096;

/// A daemon without a pid file is known by what is left of its tree. Many fork twice, and what is between lives for a moment.
const GROWN: Duration = Duration::from_millis(500);

impl Daemon {
    /// Makes an agent's process.
    pub(super) fn start_agent(&mut self, name: Name) {
        let event = match self.exhausted_resource() {
            Some(reason) => Event::ResourceExhausted { name, reason: reason.into() },
            None => match self.spawn_agent(&name) {
                Ok(event) => event,
                Err(reason) => Event::NotStarted { name, reason: reason.into() },
            },
        };
        self.queue.push_back(event);
    }

    /// Whether we lack the descriptors that a start takes. Without /proc a start is tried.
    pub(super) fn exhausted_resource(&self) -> Option<String> {
        let open = match open_descriptors() {
            Ok(open) => open,
            Err(error) if error.kind() == ErrorKind::NotFound => return None,
            Err(error) => return Some(format!("no descriptors to spare: {}", reason(&error))),
        };
        let limit = process::limit(Resource::Nofile).map_or(0, |(soft, _)| soft);
        (open + SPARE > limit).then(|| format!("no descriptors to spare: {open} of {limit} are open"))
    }

    fn spawn_agent(&mut self, name: &Name) -> Result<Event, Error> {
        let spec = self.state.spec(name).ok_or("it has no definition")?;
        let prepared = self.limits.prepare(name, &spec.limits);
        for note in &prepared.notes {
            self.log.write(Level::Info, &note);
        }
        let output = self.outputs.open(name);
        self.set_condition("opening outputs", output.as_ref().err().map(|problem| &**problem));
        let mut setup = self.child(&spec, &spec.exec, output.ok())?;
        setup.cgroups = prepared.cgroups;
        setup.cgroup = prepared.cgroup;
        let pid = match spawn_child(&setup, &self.failures) {
            Ok(pid) => pid,
            // No child was made: nothing of this depends on the definition.
            Err(error) => {
                let reason = format!("{}: {}", Stage::Fork, reason(&error)).into();
                return Ok(Event::ResourceExhausted { name: name.clone(), reason });
            }
        };
        let process = Daemon::process(pid);
        self.trees.runs_as(name, Some(setup.uid.unwrap_or(own_uid())));
        self.trees.started(name, process);
        self.owners.insert(pid, Owner::Agent(name.clone()));
        Ok(Event::Started {
            name: name.clone(),
            process,
            limits_by: prepared.by,
            poll_cpu: prepared.polled.cpu,
            poll_memory: prepared.polled.memory,
        })
    }

    /// The child that runs `exec` as a definition says.
    pub(super) fn child(&self, spec: &Spec, exec: &[Box<str>], output: Option<OwnedFd>) -> Result<Setup, Error> {
        // Only a relative program is looked for in the package.
        let relative = exec.first().is_some_and(|program| !program.starts_with('/'));
        let current = relative.then(|| self.store.packages_dir(&spec.name).join("current"));
        let package = current.filter(|current| current.exists());
        let place = Where { state_dir: &self.config.state_dir, package: package.as_deref() };
        let mut setup = setup(spec, exec, &place, output, Vec::new()).map_err(|error| error.to_string())?;
        self.restore_limits(&mut setup);
        Ok(setup)
    }

    /// Our own limit of open files is not for our children.
    pub(super) fn restore_limits(&self, setup: &mut Setup) {
        if let Some((soft, hard)) = self.nofile {
            if !setup.rlimits.iter().any(|(resource, ..)| *resource == Resource::Nofile) {
                setup.rlimits.push((Resource::Nofile, soft, hard));
            }
        }
    }

    /// Finds the main process that a forking agent's starter left: by its pid file, else as what is left of its tree.
    pub(super) fn find_main(&mut self, name: Name) {
        self.trees.forget_snapshot();
        let members = self.trees.members(&name, &self.limits);
        let alive: Vec<Process> = members.iter().filter(|stat| stat.alive()).map(|stat| stat.process).collect();
        let pidfile = self.state.spec(&name).and_then(|spec| spec.pidfile);
        let found = match pidfile {
            Some(pidfile) => {
                read_pid(Path::new(&*pidfile)).and_then(|pid| alive.iter().find(|p| p.pid == pid).copied())
            }
            // The oldest is the one that the starter made first; one so young may only be on its way to make another.
            None => {
                let oldest = alive.iter().min_by_key(|process| (process.ticks, process.pid)).copied();
                oldest.filter(|process| proc::age(*process).is_none_or(|age| age >= GROWN))
            }
        };
        if let Some(process) = found {
            self.follow_process(&name, process);
        }
        self.queue.push_back(Event::MainProcess(name, found));
    }

    /// Sees to it that the end of an agent's main process, which we did not make, is noticed.
    pub(super) fn follow_process(&mut self, name: &Name, process: Process) {
        self.trees.adopt(name, process);
        if process::is_child(process.pid) {
            self.owners.insert(process.pid, Owner::Agent(name.clone()));
        } else {
            self.watch(Owner::Agent(name.clone()), process);
        }
    }

    fn watch(&mut self, owner: Owner, process: Process) {
        let pidfd = process::pidfd_open(process.pid).ok();
        // Between the look at it and the descriptor it may have become another.
        let same = proc::alive(process);
        self.watched.push(Watched { owner, process, pidfd });
        if !same {
            self.watched_ended(self.watched.len() - 1);
        }
    }

    /// Notices the ends of those whose end nothing tells.
    pub(super) fn look_at_watched(&mut self) {
        // Also of those whose end is told: whom it was taken for when little could be read. Without /proc only that is known.
        let told = |watched: &Watched| watched.pidfd.is_some() && watched.process.ticks == 0;
        let gone = |watched: &Watched| !told(watched) && !proc::alive(watched.process);
        while let Some(index) = self.watched.iter().position(gone) {
            self.watched_ended(index);
        }
    }

    /// A process that is not our child has ended.
    pub(super) fn watched_ended(&mut self, index: usize) {
        if index >= self.watched.len() {
            return;
        }
        let watched = self.watched.swap_remove(index);
        self.child_ended(watched.owner, Exit::Unknown, None);
    }

    /// Takes every child that has ended.
    pub(super) fn reap(&mut self) {
        let mut strangers = 0;
        loop {
            match process::wait_any() {
                Ok(Some((pid, exit))) => match self.owners.remove(&pid) {
                    Some(Owner::Helper) => {
                        let failure = self.failures.take(pid);
                        if let Some((_, helper)) = self.helpers.iter_mut().find(|(_, helper)| helper.pid() == pid) {
                            helper.exited(exit, failure);
                        }
                    }
                    Some(owner) => {
                        let failure = self.failures.take(pid);
                        if !matches!(owner, Owner::Agent(_)) {
                            self.trees.remove_ours(pid);
                        }
                        self.child_ended(owner, exit, failure);
                    }
                    None => strangers += 1,
                },
                Ok(None) => break,
                Err(error) => {
                    self.set_condition("waiting for children", Some(&error.to_string()));
                    break;
                }
            }
        }
        if strangers > 0 {
            self.log(Level::Debug, &format_args!("{strangers} processes without a parent were reaped"));
            self.queue.push_back(Event::OrphanReaped);
        }
        self.trees.forget_snapshot();
    }

    /// Why an agent's child, or its health check, never became its program, with the directory or program it is about.
    fn explained(&self, name: &str, check: bool, failure: SetupError) -> String {
        let text = failure.to_string();
        let Some(spec) = self.state.spec(name) else { return text };
        let exec = spec.check.as_ref().filter(|_| check).map_or(&spec.exec, |check| &check.exec);
        let about = match failure.stage {
            Stage::Directory => &spec.directory,
            Stage::Exec => &exec[0],
            _ => return text,
        };
        match text.split_once(':') {
            Some((stage, cause)) => format!("{stage} \"{about}\":{cause}"),
            None => text,
        }
    }

    fn child_ended(&mut self, owner: Owner, exit: Exit, failure: Option<SetupError>) {
        match owner {
            Owner::Agent(name) => {
                self.trees.ended(&name);
                if let Some(failure) = failure {
                    let reason = self.explained(&name, false, failure);
                    self.queue.push_back(Event::NotStarted { name, reason: reason.into() });
                    return;
                }
                let killed = exit == Exit::Signal(Sig::KILL);
                let oom = self.limits.oom_killed(&name, killed).map(|oom| oom.to_string().into());
                let tail = self.tail(&name);
                self.queue.push_back(Event::Exited { name, exit, oom, tail });
            }
            Owner::Check(name) => {
                let said = self.heard(&name);
                let tail = failure.map_or(said, |failure| self.explained(&name, true, failure)).into();
                self.queue.push_back(Event::Checked(name, exit, tail));
            }
            Owner::Tool(owner) => {
                let _ = fs::remove_file(self.tool_pid(&owner));
                if let Some(index) = self.tools.iter().position(|(waiting, _)| *waiting == owner) {
                    // It was left by an earlier daemon: now the one that waited for it runs.
                    let (owner, tool) = self.tools.swap_remove(index);
                    return self.start_tool(owner, tool);
                }
                let output = match failure {
                    Some(failure) => failure.to_string(),
                    None => read_ends(&self.tool_output(&owner)).unwrap_or_default(),
                };
                let _ = fs::remove_file(self.tool_output(&owner));
                self.queue.push_back(Event::ToolDone { owner, exit, output: output.into() });
            }
            Owner::Helper | Owner::Detached => {}
        }
    }

    /// The last lines of an agent's output, without the values of its environment.
    fn tail(&mut self, name: &str) -> Box<str> {
        let Some(spec) = self.state.spec(name) else { return "".into() };
        let text = self.outputs.tail(name, TAIL + longest_value(&spec) as u64);
        if !text.is_empty() {
            // The next check tells whether that works.
            let _ = self.outputs.rotate(name, spec.log_size);
        }
        sanitize(&without_values(&text, &spec.envs), TAIL as usize).into()
    }

    /// Runs a tool, after one that an earlier daemon left running for the same owner.
    pub(super) fn start_tool(&mut self, owner: ToolOwner, tool: Tool) {
        if owner == ToolOwner::Reexec {
            if let Err(why) = self.flush_records() {
                return self.queue.push_back(Event::NotReexeced(why.into()));
            }
        }
        if let Some(left) = read_text(&self.tool_pid(&owner)).ok().and_then(|text| parse_process(&text)) {
            let owned = self.owners.get(&left.pid) == Some(&Owner::Tool(owner.clone()));
            if owned || proc::alive(left) && !self.owners.contains_key(&left.pid) {
                self.log(
                    Level::Info,
                    &format_args!("{}: waits for process {} of an earlier daemon", tool_of(&owner), left.pid),
                );
                self.tools.push((owner.clone(), tool));
                // One of the image before this one is our child, and is reaped.
                if !owned {
                    self.watch(Owner::Tool(owner), left);
                }
                return;
            }
        }
        match self.spawn_tool(&owner, &tool) {
            Ok(pid) => {
                self.trees.add_ours(pid);
                self.fault_injector.pass("tool-spawned");
                let process = Daemon::process(pid);
                let text = format!("{} {}\n", process.pid, process.ticks);
                let run_dir = Path::new(&*self.config.run_dir);
                if let Err(error) = publish(run_dir, &format!("tool-{}.pid", file_of(&owner)), &text) {
                    self.log(Level::Warn, &format_args!("{}: cannot note its process: {error}", tool_of(&owner)));
                }
                self.owners.insert(pid, Owner::Tool(owner));
            }
            Err(reason) => {
                self.queue.push_back(Event::ToolDone { owner, exit: Exit::Unknown, output: reason.into() });
            }
        }
    }

    fn spawn_tool(&self, owner: &ToolOwner, tool: &Tool) -> Result<Pid, Error> {
        let mut setup = host_tool(&mut tool.argv.iter().map(|arg| &**arg))?;
        for variable in
            [c"LC_ALL=C", c"HOME=/root", c"DEBIAN_FRONTEND=noninteractive", c"DEBCONF_NONINTERACTIVE_SEEN=true"]
        {
            setup.envp.push(variable.to_owned());
        }
        setup.envp.push(c_text(["PATH=", PATH].concat().as_bytes()));
        let path = self.tool_output(owner);
        let output = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path)
            .and_then(|file| file.set_len(0).map(|()| file))
            .map_err(|error| format_error!("cannot open \"{}\": {error}", path.display()))?;
        setup.stderr = output.try_clone().ok().map(OwnedFd::from);
        setup.stdout = Some(output.into());
        self.restore_limits(&mut setup);
        spawn_child(&setup, &self.failures).map_err(|error| format_error!("{error}"))
    }

    /// Kills a check or tool with all that descends from it.
    pub(super) fn kill_owned(&mut self, owner: &Owner) {
        let watched = self.watched.iter().find(|watched| watched.owner == *owner).map(|watched| watched.process.pid);
        let owned = self.owners.iter().find(|(_, known)| *known == owner).map(|(pid, _)| *pid);
        let Some(pid) = owned.or(watched) else { return };
        for stat in Snapshot::below(&[pid]).stats() {
            let _ = process::signal(stat.process.pid, Sig::KILL);
        }
        let _ = process::signal_group(pid, Sig::KILL);
        let _ = process::signal(pid, Sig::KILL);
    }

    /// Runs something that nobody waits for.
    pub(super) fn run_detached(&mut self, argv: &[&str]) {
        let spawned = host_tool(&mut argv.iter().copied())
            .and_then(|setup| spawn_child(&setup, &self.failures).map_err(|error| format_error!("{error}")));
        match spawned {
            Ok(pid) => {
                self.track_child(pid, Owner::Detached);
            }
            Err(reason) => self.log(Level::Warn, &format_args!("cannot run {}: {reason}", argv.join(" "))),
        }
    }

    fn tool_pid(&self, owner: &ToolOwner) -> PathBuf {
        Path::new(&*self.config.run_dir).join(format!("tool-{}.pid", file_of(owner)))
    }

    fn tool_output(&self, owner: &ToolOwner) -> PathBuf {
        Path::new(&*self.config.run_dir).join(format!("tool-{}.out", file_of(owner)))
    }
}

/// What a tool's owner is called in the names of its files; no job's id begins with a dot.
fn file_of(owner: &ToolOwner) -> &str {
    match owner {
        ToolOwner::Job(id) => id,
        ToolOwner::Reexec => ".reexec",
    }
}

/// What a tool's owner is called in messages.
fn tool_of(owner: &ToolOwner) -> String {
    match owner {
        ToolOwner::Job(id) => format!("job \"{id}\""),
        ToolOwner::Reexec => "reexec".to_string(),
    }
}

/// How many descriptors we have open: the size of this directory from Linux 6.2 on, and in any case its entries.
fn open_descriptors() -> io::Result<u64> {
    const OWN: &str = "/proc/self/fd";
    match fs::metadata(OWN)?.len() {
        0 => Ok(fs::read_dir(OWN)?.count() as u64),
        open => Ok(open),
    }
}

/// The length of the longest value in an agent's environment: so much before the last `TAIL` bytes it may begin.
pub(super) fn longest_value(spec: &Spec) -> usize {
    spec.envs.iter().map(|(_, value)| value.len()).max().unwrap_or(0)
}

/// The last `TAIL` bytes of `text` with the values blotted out; one that they begin in the middle of is left out.
pub(super) fn without_values(text: &str, envs: &[(Box<str>, Box<str>)]) -> String {
    // A value as short as this is no secret, and would tear holes into every word.
    let values = || envs.iter().map(|(_, value)| &**value).filter(|value| value.len() >= 4);
    let mut start = text.len().saturating_sub(TAIL as usize);
    for value in values() {
        let mut across = (start + 1).saturating_sub(value.len())..start;
        let last = across.rfind(|&at| text.as_bytes()[at..].starts_with(value.as_bytes()));
        start = last.map_or(start, |at| at + value.len());
    }
    while !text.is_char_boundary(start) {
        start += 1;
    }
    values().fold(text[start..].to_string(), |text, value| text.replace(value, "***"))
}

/// The program of this name in the PATH of tools.
fn find_program(name: &str) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    PATH.split(':')
        .map(|dir| Path::new(dir).join(name))
        .find(|path| fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0))
}

/// The process id in a file that the agent's user can put anything in place of: a pipe would hold us up, and a link could
/// lead to a device that does something when it is opened.
fn read_pid(path: &Path) -> Option<Pid> {
    let mut text = [0; 32];
    let mut file = open_nofollow(path, OpenOptions::new().read(true), 0).ok()?;
    let length = file.metadata().ok().filter(Metadata::is_file).and_then(|_| file.read(&mut text).ok())?;
    proc::parse_pid(std::str::from_utf8(&text[..length]).ok()?.trim())
}

/// What executes a program of this host, looked up by its name as a shell does, in an empty environment.
fn host_tool(argv: &mut dyn Iterator<Item = &str>) -> Result<Setup, Error> {
    let mut args = Vec::new();
    for arg in argv {
        args.push(CString::new(arg).map_err(|_| "a zero byte in an argument")?);
    }
    let name = args.first().map_or("".into(), |name| name.to_string_lossy());
    let program = find_program(&name).ok_or_else(|| format_error!("\"{name}\" is not on this host"))?;
    let mut setup = Setup::new(Program::Path(c_text(program.as_os_str().as_bytes())), args, Vec::new());
    setup.oom_score_adj = Some(0);
    Ok(setup)
}

fn parse_process(text: &str) -> Option<Process> {
    let (pid, ticks) = text.trim().split_once(' ')?;
    Some(Process { pid: proc::parse_pid(pid)?, ticks: ticks.parse().ok()? })
}

/// The beginning and the last lines of a file.
fn read_ends(path: &Path) -> std::io::Result<String> {
    let mut file = open_nofollow(path, OpenOptions::new().read(true), 0)?;
    let length = file.metadata()?.len();
    let mut bytes = Vec::new();
    read_up_to(OUTPUT, &mut bytes, &mut |to| file.read(to))?;
    if length > OUTPUT {
        bytes.extend_from_slice(b"\n...\n");
        file.seek(SeekFrom::Start(length.saturating_sub(OUTPUT).max(OUTPUT)))?;
        read_up_to(OUTPUT, &mut bytes, &mut |to| file.read(to))?;
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_part_of_a_value_is_shown() {
        let (secret, lines) = ("a secret of some length", "two\nlines of a secret");
        let envs: Vec<(Box<str>, Box<str>)> =
            [("A", secret), ("B", lines), ("C", "abc")].map(|(name, value)| (name.into(), value.into())).into();
        // Wherever what is shown begins.
        for padding in TAIL as usize - 60..TAIL as usize + 60 {
            for value in [secret, lines] {
                let text = format!("before {value}{} abc {value} \u{e9}nd", "x".repeat(padding));
                let shown = without_values(&text, &envs);
                assert!(shown.ends_with("x abc *** \u{e9}nd"), "{padding}: {shown}");
                let first = shown.split("xxx").next().unwrap_or_default();
                assert!(["", "x"].contains(&first) || first.ends_with("***"), "{padding}: {shown}");
            }
        }
    }
}
