//! Tools of the host that the daemon runs for a job, a reexec or an inventory: package managers, and the binary that is
//! checked.
//!
//! The process id of a tool is in a file below `run_dir`. The tool of a job may outlive the daemon, as an installer must not be
//! interrupted: the next daemon waits for it before it runs another one for the same job. It ends the others.

use std::ffi::CString;
use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::{Daemon, Owner};
use crate::error::Error;
use crate::host::disk::publish;
use crate::host::proc;
use crate::host::spawn::PATH;
use crate::kernel::{Exit, Level, Pid, Process};
use crate::model::event::{Event, ToolOwner};
use crate::model::oom_score;
use crate::model::package::Tool;
use crate::sys::child::{Program, Setup};
use crate::sys::file::{open_nofollow, read_up_to};
use crate::sys::process::c_text;

/// How much of a tool's output is read from its beginning, and how much from its end, bytes.
const OUTPUT: u64 = 4096;

/// How much of the output of an inventory is read, bytes: enough for ten thousand agents, and a bound for a package manager
/// that prints without end.
const INVENTORY: u64 = 1 << 20;

impl Daemon {
    /// Runs a tool, after the one that an earlier daemon left running for the same owner.
    pub(super) fn start_tool(&mut self, owner: ToolOwner, tool: Tool) {
        if owner == ToolOwner::Reexec {
            if let Err(why) = self.flush_records() {
                return self.queue.push_back(Event::NotReexeced(why.into()));
            }
        }
        let path = self.run_dir().join(tool_file(&owner, ".pid"));
        let noted = self.read_run_file(&path).and_then(|text| proc::parse_process(&text).map(|(process, _)| process));
        if let Some(earlier) = noted {
            let is_child = self.children.owners.get(&earlier.pid) == Some(&Owner::Tool(owner.clone()));
            if is_child || proc::alive(earlier) && !self.children.owners.contains_key(&earlier.pid) {
                self.log(
                    Level::Info,
                    &format_args!("{}: waiting for process {} of an earlier daemon", tool_of(&owner), earlier.pid),
                );
                self.children.waiting_tools.push((owner.clone(), tool));
                // A tool that this process started before a reexec is its child, and will be reaped.
                if !is_child {
                    self.watch(Owner::Tool(owner), earlier);
                }
                return;
            }
        }
        match self.spawn_tool(&owner, &tool) {
            Ok(pid) => {
                self.trees.add_ours(pid);
                self.fault_injector.pass("tool-spawned");
                let text = match owner {
                    // Version 1.0.0 writes and reads this, and an installer may outlive a change of the daemon's version.
                    ToolOwner::Job(_) => {
                        let Process { pid, ticks } = Daemon::process(pid);
                        format!("{pid} {ticks}\n")
                    }
                    ToolOwner::Reexec | ToolOwner::Inventory => self.note_of(pid),
                };
                if let Err(error) = publish(self.run_dir(), &tool_file(&owner, ".pid"), &text) {
                    self.log(
                        Level::Warn,
                        &format_args!("{}: cannot write down its process id: {error}", tool_of(&owner)),
                    );
                }
                self.children.owners.insert(pid, Owner::Tool(owner));
            }
            Err(reason) => {
                self.queue.push_back(Event::ToolDone { owner, exit: Exit::Unknown, output: reason.into() });
            }
        }
    }

    fn spawn_tool(&mut self, owner: &ToolOwner, tool: &Tool) -> Result<Pid, Error> {
        let mut setup = host_tool(&mut tool.argv.iter().map(|arg| &**arg))?;
        for variable in [
            c"LC_ALL=C",
            c"HOME=/root",
            c"DEBIAN_FRONTEND=noninteractive",
            c"DEBCONF_NONINTERACTIVE_SEEN=true",
            c"SYSTEMD_OFFLINE=1",
        ] {
            setup.envp.push(variable.to_owned());
        }
        let stand_ins = match make_stand_ins(Path::new(&*self.config.state_dir)) {
            Ok(dir) => format!("{dir}:"),
            Err(error) => {
                self.log(
                    Level::Warn,
                    &format_args!("cannot keep packages from starting services, as nothing can be written: {error}"),
                );
                String::new()
            }
        };
        setup.envp.push(c_text(["PATH=", &stand_ins, PATH].concat().as_bytes()));
        let (path, keeps) = (self.tool_output(owner), matches!(owner, ToolOwner::Job(_)) && !tool.asks());
        let output = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            // Only an earlier daemon can have left something of an installer, which may not say it again.
            .custom_flags(libc::O_NOFOLLOW | if keeps { 0 } else { libc::O_TRUNC })
            .open(&path)
            .map_err(|error| format_error!("cannot open \"{}\": {error}", path.display()))?;
        setup.stderr = output.try_clone().ok().map(OwnedFd::from);
        setup.stdout = Some(output.into());
        self.children.spawn(&setup).map_err(|error| format_error!("{error}"))
    }

    /// Takes the result of a tool that has ended, and starts the one that waited for it.
    pub(super) fn tool_ended(&mut self, owner: ToolOwner, exit: Exit, failure: Option<Box<str>>) {
        let _ = fs::remove_file(self.run_dir().join(tool_file(&owner, ".pid")));
        // An earlier daemon had left it; now the tool that waited for it can run.
        if let Some(tool) = self.children.take_waiting_tool(&owner) {
            return self.start_tool(owner, tool);
        }
        let path = self.tool_output(&owner);
        let output = match failure {
            Some(failure) => failure.into_string(),
            // Each line is an answer, and one that is cut is none.
            None if owner == ToolOwner::Inventory => read_output(&path, INVENTORY, false).unwrap_or_default(),
            None => read_output(&path, OUTPUT, true).unwrap_or_default(),
        };
        let _ = fs::remove_file(path);
        self.queue.push_back(Event::ToolDone { owner, exit, output: output.into() });
    }

    /// Runs a program whose end nobody waits for.
    pub(super) fn run_detached(&mut self, argv: &[&str]) {
        let spawned = host_tool(&mut argv.iter().copied())
            .and_then(|setup| self.children.spawn(&setup).map_err(|error| format_error!("{error}")));
        match spawned {
            Ok(pid) => {
                self.track_child(pid, Owner::Detached);
            }
            Err(reason) => self.log(Level::Warn, &format_args!("cannot run {}: {reason}", argv.join(" "))),
        }
    }

    fn tool_output(&self, owner: &ToolOwner) -> PathBuf {
        self.run_dir().join(tool_file(owner, ".out"))
    }
}

/// The name of a tool's file below `run_dir`; no job's id begins with a dot.
fn tool_file(owner: &ToolOwner, ending: &str) -> String {
    let owner = match owner {
        ToolOwner::Job(id) => id,
        ToolOwner::Reexec => ".reexec",
        ToolOwner::Inventory => ".inventory",
    };
    ["tool-", owner, ending].concat()
}

/// The name of a tool's owner in messages.
fn tool_of(owner: &ToolOwner) -> String {
    match owner {
        ToolOwner::Job(id) => format!("job \"{id}\""),
        ToolOwner::Reexec => "reexec".to_string(),
        ToolOwner::Inventory => "inventory".to_string(),
    }
}

/// The program with this name in the PATH of tools.
fn find_program(name: &str) -> Option<PathBuf> {
    PATH.split(':').map(|dir| Path::new(dir).join(name)).find(|path| {
        fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
    })
}

/// How to execute a program of this host in an empty environment; it is looked up by its name as a shell does.
fn host_tool(argv: &mut dyn Iterator<Item = &str>) -> Result<Setup, Error> {
    let mut args = Vec::new();
    for arg in argv {
        args.push(CString::new(arg).map_err(|_| "an argument contains a zero byte")?);
    }
    let name = args.first().map_or("".into(), |name| name.to_string_lossy());
    let program = find_program(&name).ok_or_else(|| format_error!("there is no program \"{name}\" on this host"))?;
    let mut setup = Setup::new(Program::Path(c_text(program.as_os_str().as_bytes())), args, Vec::new());
    (setup.standard, setup.nice, setup.oom_score_adj) = (true, Some(0), Some(oom_score::USUAL));
    Ok(setup)
}

/// Makes the programs that stand in for those which start and stop services, where they are missing, and returns their
/// directory. They do nothing: the agents of packages are started here, and only here.
fn make_stand_ins(state_dir: &Path) -> io::Result<String> {
    const PROGRAM: &[u8] = b"#!/bin/sh\n# Services of packages are started by bootagent.\nexit 0\n";
    let dir = state_dir.join("stand-ins");
    let make_executable = |path: &Path| fs::set_permissions(path, Permissions::from_mode(0o755));
    if let Err(error) = fs::create_dir(&dir).and_then(|()| make_executable(&dir)) {
        if error.kind() != io::ErrorKind::AlreadyExists {
            return Err(error);
        }
    }
    for name in ["invoke-rc.d", "deb-systemd-invoke", "systemctl", "service", "rc-service"] {
        let path = dir.join(name);
        let mode = fs::symlink_metadata(&path).map_or(0, |data| data.permissions().mode());
        if mode & 0o777 != 0o755 || fs::read(&path).ok().as_deref() != Some(PROGRAM) {
            let new = dir.join(".new");
            fs::write(&new, PROGRAM).and_then(|()| make_executable(&new)).and_then(|()| fs::rename(&new, &path))?;
        }
    }
    Ok(dir.to_string_lossy().into_owned())
}

/// The beginning of a file, `most` bytes, and with `end` also as many of its last bytes.
fn read_output(path: &Path, most: u64, end: bool) -> io::Result<String> {
    let mut file = open_nofollow(path, OpenOptions::new().read(true), 0)?;
    let length = file.metadata()?.len();
    let mut bytes = Vec::new();
    read_up_to(most, &mut bytes, &mut |to| file.read(to))?;
    if end && length > most {
        bytes.extend_from_slice(b"\n...\n");
        file.seek(SeekFrom::Start(length.saturating_sub(most).max(most)))?;
        read_up_to(most, &mut bytes, &mut |to| file.read(to))?;
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
