//! The archive as a stream of bytes: the package itself, or the output of the host's gzip or xz.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;

use crate::kernel::{Pid, Sig};
use crate::sys::child::{spawn_child, Program, Setup};
use crate::sys::setup_error::SetupErrorPipe;
use crate::sys::{pipe, set_nonblocking};
use crate::work::{Failure, FailureKind, Result};

/// Where the host's tools are looked for.
const TOOL_DIRS: [&str; 6] = ["/usr/bin", "/bin", "/usr/local/bin", "/usr/sbin", "/sbin", "/usr/local/sbin"];

/// Starts `tool -dc` on the package; busybox replaces a tool that is missing. The files are its standard output and its
/// standard error.
///
/// # Errors
/// When the host has neither, or the process cannot be made.
pub fn decompressor(tool: &str, package: OwnedFd) -> Result<(Pid, [File; 2], SetupErrorPipe)> {
    let program = find(tool).or_else(|| find("busybox")).ok_or_else(|| {
        Failure::new(FailureKind::Final, format!("cannot decompress the package: the host has no \"{tool}\""))
    })?;
    let cannot = |error: io::Error| Failure::temporary(&format!("cannot start \"{tool}\""), &error);
    let text = |text: &str| CString::new(text).map_err(|error| cannot(error.into()));
    let argv = vec![text(tool)?, c"-dc".to_owned()];
    let mut setup = Setup::new(Program::Path(text(&program)?), argv, vec![c"PATH=/usr/bin:/bin".to_owned()]);
    let (read, write) = pipe().map_err(cannot)?;
    let (messages, stderr) = pipe().map_err(cannot)?;
    // It is read only after the tool has ended, so a tool with much to say must not wait for a reader.
    set_nonblocking(stderr.as_fd()).map_err(cannot)?;
    let failures = SetupErrorPipe::new().map_err(cannot)?;
    setup.stdin = Some(package);
    setup.stdout = Some(write);
    setup.stderr = Some(stderr);
    setup.death_signal = Some(Sig::KILL);
    setup.no_new_privs = true;
    let pid = spawn_child(&setup, &failures).map_err(cannot)?;
    Ok((pid, [read, messages].map(File::from), failures))
}

/// The first executable file of this name in `TOOL_DIRS`.
fn find(name: &str) -> Option<String> {
    let mut paths = TOOL_DIRS.iter().map(|dir| [dir, "/", name].concat());
    paths.find(|path| fs::metadata(path).is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0))
}

/// The archive as a stream.
pub struct Source {
    /// Where it is read from.
    pub file: File,
    /// Bytes read so far.
    pub read: u64,
}

impl Source {
    /// Fills `buffer`; `Ok(false)` when the stream ends before the first byte.
    ///
    /// # Errors
    /// When reading fails, or the stream ends in the middle of the buffer.
    pub fn fill(&mut self, buffer: &mut [u8]) -> Result<bool> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.file.read(&mut buffer[filled..]) {
                Ok(0) if filled == 0 => return Ok(false),
                Ok(0) => return Err(self.ended()),
                Ok(count) => {
                    filled += count;
                    self.read += count as u64;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(Failure::temporary("cannot read the archive", &error)),
            }
        }
        Ok(true)
    }

    /// Fills `buffer` where the stream must not end.
    ///
    /// # Errors
    /// When reading fails, or the stream ends before the buffer is full.
    pub fn demand(&mut self, buffer: &mut [u8]) -> Result<()> {
        match buffer.is_empty() || self.fill(buffer)? {
            true => Ok(()),
            false => Err(self.ended()),
        }
    }

    fn ended(&self) -> Box<Failure> {
        Failure::new(FailureKind::Final, format!("the archive ends after {} bytes", self.read))
    }
}
