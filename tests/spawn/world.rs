//! What the tests make children with, and how they wait for their ends.

use super::*;

pub struct World {
    /// Reading ends of pipes with one letter each, on the lowest free descriptors there were.
    pub letters: Vec<OwnedFd>,
    pub failures: SetupErrorPipe,
    pub signals: Signals,
}

/// What became of a child.
#[derive(Debug, PartialEq)]
pub struct End {
    pub exit: Exit,
    pub failure: Option<SetupError>,
    pub output: String,
}

impl World {
    /// Runs a child to its end, its output to us.
    pub fn run(&mut self, mut setup: Setup) -> Result<End, String> {
        let (read, write) = sys::pipe().map_err(text)?;
        setup.stderr = Some(write.try_clone().map_err(text)?);
        setup.stdout = Some(write);
        let pid = spawn_child(&setup, &self.failures).map_err(text)?;
        drop(setup);
        let deadline = Instant::now() + DEADLINE;
        let (mut reader, mut output) = (File::from(read), Vec::new());
        loop {
            let mut bytes = [0; 4096];
            wait_readable(reader.as_fd(), deadline)?;
            match reader.read(&mut bytes).map_err(text)? {
                0 => break,
                count => output.extend_from_slice(&bytes[..count]),
            }
        }
        let (exit, failure) = self.reap(pid, deadline)?;
        Ok(End { exit, failure, output: String::from_utf8_lossy(&output).into_owned() })
    }

    /// Waits for the end of `pid` as the daemon does.
    pub fn reap(&mut self, pid: Pid, deadline: Instant) -> Result<(Exit, Option<SetupError>), String> {
        loop {
            while self.signals.next().map_err(text)?.is_some() {}
            while let Some((gone, exit)) = process::wait_any().map_err(text)? {
                let failure = self.failures.take(gone);
                if gone == pid {
                    return Ok((exit, failure));
                }
            }
            wait_readable(self.signals.as_fd(), deadline)?;
        }
    }

    /// `run` of a child that must end well; its output.
    pub fn output(&mut self, setup: Setup) -> Result<String, String> {
        let end = self.run(setup)?;
        match (end.exit, end.failure) {
            (Exit::Code(0), None) => Ok(end.output),
            _ => Err(format!("{end:?}")),
        }
    }
}

pub fn wait_readable(fd: std::os::fd::BorrowedFd<'_>, deadline: Instant) -> Result<(), String> {
    let left = deadline.saturating_duration_since(Instant::now());
    match poll(&mut [PollFd::reading(fd)], Some(left)).map_err(text)? {
        0 => Err("nothing happened before the deadline".to_string()),
        _ => Ok(()),
    }
}

pub fn text(error: impl ToString) -> String {
    error.to_string()
}

pub fn c(text: &str) -> CString {
    CString::new(text).expect("no zero byte")
}

pub fn command(argv: &[&str]) -> Setup {
    Setup::new(Program::Path(c(argv[0])), argv.iter().map(|text| c(text)).collect(), vec![c("PATH=/usr/bin:/bin")])
}

pub fn shell(script: &str) -> Setup {
    command(&["/bin/sh", "-c", script])
}

pub fn pipe_with(letter: char) -> OwnedFd {
    let (read, write) = sys::pipe().expect("a pipe");
    File::from(write).write_all(format!("{letter}\n").as_bytes()).expect("room in it");
    read
}

pub fn scratch(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("bootagent-spawn-{}-{name}", std::process::id()))
}

pub fn same<T: PartialEq + std::fmt::Debug>(got: T, want: T) -> Result<(), String> {
    if got == want {
        Ok(())
    } else {
        Err(format!("got {got:?}, want {want:?}"))
    }
}

/// A test that cannot be made here, as this machine has not got what it needs; a failure where every test must run.
pub fn skip(why: &str) -> Result<(), String> {
    let all = std::env::var_os("BOOTAGENT_TEST_ALL").is_some_and(|all| !all.is_empty());
    Err(if all { why.to_string() } else { format!("{SKIPPED}{why}") })
}
