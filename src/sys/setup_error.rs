//! Why a child could not execute its program: written by the child itself to one pipe for all children.
//!
//! A record goes in between fork and exec, in `sys::child`, and comes out when the child is reaped. A child that executes its
//! program writes nothing.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::{pipe, poll, set_nonblocking};
use crate::kernel::{Errno, Pid, Resource, Stage};

/// Why a child could not execute its program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetupError {
    /// The step that failed.
    pub stage: Stage,
    /// The kernel's error.
    pub errno: Errno,
    /// For `Stage::Limits`: the limit that was being set.
    pub limit: Option<(Resource, u64)>,
}

impl fmt::Display for SetupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.stage)?;
        match self.limit {
            Some((resource, u64::MAX)) => write!(f, "{} unlimited: ", resource.key())?,
            Some((resource, value)) => write!(f, "{} {value}: ", resource.key())?,
            None => {}
        }
        self.errno.fmt(f)?;
        // execve uses these errors for causes that their usual texts do not name.
        match (self.stage, self.errno.0) {
            (Stage::Exec, libc::ENOENT) => f.write_str(" (it, or the interpreter or loader it names)"),
            (Stage::Exec, libc::EAGAIN) => f.write_str(" (the user has as many processes as nproc allows)"),
            _ => Ok(()),
        }
    }
}

/// The pipe for the errors of all children.
#[derive(Debug)]
pub struct SetupErrorPipe {
    read: File,
    pub(super) write: File,
    /// Records that were read and not yet taken, by process id.
    seen: Vec<(i32, SetupError)>,
    /// The signals that this process ignored when the pipe was made, as a bit set: children have to reset them, all others are
    /// at their default after an exec.
    pub(super) ignored: u64,
}

/// The size of a record: pid (4), errno (4), limit's value (8), stage (1), 1 + index in `Resource::ALL` (1, 0 for none), and
/// two zeros, in the machine's byte order. It is below PIPE_BUF, so records never mix. Another version of this program may
/// read it after a reexec.
const RECORD: usize = 20;

impl SetupErrorPipe {
    /// A new pipe.
    ///
    /// # Errors
    /// When no descriptors are left.
    pub fn new() -> io::Result<SetupErrorPipe> {
        let (read, write) = pipe()?;
        SetupErrorPipe::from_fds(read, write)
    }

    /// The pipe whose `ends` were kept open over a reexec.
    ///
    /// # Errors
    /// When the kernel refuses to change the descriptors, which it does not.
    pub fn from_fds(read: OwnedFd, write: OwnedFd) -> io::Result<SetupErrorPipe> {
        set_nonblocking(read.as_fd())?;
        set_nonblocking(write.as_fd())?;
        let ignored = poll::ignored_signals();
        Ok(SetupErrorPipe { read: File::from(read), write: File::from(write), seen: Vec::new(), ignored })
    }

    /// Its ends, the reading one first, to be kept open over a reexec; records that were not taken go back into the pipe.
    pub fn ends(&mut self) -> [BorrowedFd<'_>; 2] {
        for (pid, failure) in self.seen.drain(..) {
            // With a full pipe only the reason is lost; the exit status 127 is not.
            let _ = self.write.write(&encode(pid, &failure));
        }
        [self.read.as_fd(), self.write.as_fd()]
    }

    /// Why the child `pid`, which has just been reaped, could not execute its program; `None` when it could.
    ///
    /// To be called for every reaped child, so that no record is left for a later child of the same id.
    pub fn take(&mut self, pid: Pid) -> Option<SetupError> {
        // Writes of records are atomic, so a buffer for a number of records is filled with whole ones.
        let mut bytes = [0; RECORD * 32];
        while let Ok(count @ 1..) = self.read.read(&mut bytes) {
            for record in bytes[..count].chunks_exact(RECORD) {
                self.seen.extend(decode(record));
            }
        }
        let index = self.seen.iter().position(|(of, _)| *of == pid.raw())?;
        Some(self.seen.remove(index).1)
    }
}

pub(super) fn encode(pid: i32, failure: &SetupError) -> [u8; RECORD] {
    let (resource, value) = match failure.limit {
        Some((resource, value)) => (1 + resource as u8, value),
        None => (0, 0),
    };
    let mut record = [0; RECORD];
    record[..4].copy_from_slice(&pid.to_ne_bytes());
    record[4..8].copy_from_slice(&failure.errno.0.to_ne_bytes());
    record[8..16].copy_from_slice(&value.to_ne_bytes());
    record[16] = failure.stage as u8;
    record[17] = resource;
    record
}

fn decode(record: &[u8]) -> Option<(i32, SetupError)> {
    let pid = i32::from_ne_bytes(record.get(..4)?.try_into().ok()?);
    let errno = Errno(i32::from_ne_bytes(record.get(4..8)?.try_into().ok()?));
    let value = u64::from_ne_bytes(record.get(8..16)?.try_into().ok()?);
    let stage = Stage::from_raw(*record.get(16)?)?;
    let index = usize::from(*record.get(17)?);
    let limit = index.checked_sub(1).and_then(|index| Resource::ALL.get(index)).map(|resource| (*resource, value));
    Some((pid, SetupError { stage, errno, limit }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: SetupError =
        SetupError { stage: Stage::Limits, errno: Errno(libc::EPERM), limit: Some((Resource::Memlock, 65536)) };
    const EXEC: SetupError = SetupError { stage: Stage::Exec, errno: Errno(libc::ENOENT), limit: None };

    #[test]
    fn errors_belong_to_their_child_and_survive_a_reexec() {
        let mut pipe = SetupErrorPipe::new().unwrap();
        let [a, b, c] = [100, 200, 300].map(|raw| Pid::new(raw).unwrap());
        assert_eq!(pipe.take(a), None);
        pipe.write.write_all(&encode(a.raw(), &LIMITS)).unwrap();
        pipe.write.write_all(&encode(b.raw(), &EXEC)).unwrap();
        assert_eq!(pipe.take(c), None);
        assert_eq!(pipe.take(b), Some(EXEC));
        assert_eq!(pipe.take(b), None);
        let [read, write] = pipe.ends().map(|end| end.try_clone_to_owned().unwrap());
        let mut next = SetupErrorPipe::from_fds(read, write).unwrap();
        assert_eq!(next.take(a), Some(LIMITS));
    }

    #[test]
    fn a_thousand_errors_at_once_are_all_kept() {
        let mut pipe = SetupErrorPipe::new().unwrap();
        for raw in 2..1002 {
            pipe.write.write_all(&encode(raw, &EXEC)).unwrap();
        }
        for raw in (2..1002).rev() {
            assert_eq!(pipe.take(Pid::new(raw).unwrap()), Some(EXEC));
        }
        assert!(pipe.seen.is_empty());
    }

    #[test]
    fn strange_records_are_skipped() {
        let mut pipe = SetupErrorPipe::new().unwrap();
        pipe.write.write_all(&[0xff; RECORD]).unwrap();
        pipe.write.write_all(&encode(9, &EXEC)).unwrap();
        assert_eq!(pipe.take(Pid::new(9).unwrap()), Some(EXEC));
    }

    #[test]
    fn errors_name_the_step() {
        assert_eq!(LIMITS.to_string(), "setting resource limits: memlock 65536: Operation not permitted");
        let text = EXEC.to_string();
        assert!(text.starts_with("executing the program: No such file or directory ("), "{text}");
    }
}
