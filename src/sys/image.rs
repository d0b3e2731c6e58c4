//! System calls for a copy of this program that its users cannot read: where it can be executed from, and a file in memory
//! to hold it. Which place is used is decided in `host::image`.

use std::ffi::{c_ulong, CString};
use std::fs::File;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::{cerr, cerr_long};

/// Whether nothing can be executed on the file system of `path`, as it is mounted.
///
/// # Errors
/// When there is no such path, or its directory may not be searched.
pub fn is_noexec(path: &Path) -> io::Result<bool> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: a statvfs is plain numbers, for which zeros are values.
    let mut data: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: the path ends in a NUL and the call fills in the struct it is given.
    cerr(unsafe { libc::statvfs(path.as_ptr(), &mut data) })?;
    Ok(data.f_flag & libc::ST_NOEXEC != 0)
}

/// An empty file in memory only that can be executed, memfd_create(2).
///
/// # Errors
/// ENOSYS before Linux 3.17, and EACCES where the setting vm.memfd_noexec forbids it.
pub fn memory_file() -> io::Result<File> {
    // From Linux 6.3 on a flag says that the file is to be executed; before, the flag is an error.
    const EXEC: c_ulong = 0x10;
    const CLOEXEC: c_ulong = 1;
    let make = |flags: c_ulong| {
        // SAFETY: the name ends in a NUL, and the call only reads it.
        cerr_long(unsafe { libc::syscall(libc::SYS_memfd_create, c"bootagent".as_ptr(), flags) })
    };
    let fd = match make(EXEC | CLOEXEC) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => make(CLOEXEC),
        made => made,
    }?;
    // SAFETY: the call succeeded, so this is an open descriptor that nothing else owns.
    Ok(File::from(unsafe { OwnedFd::from_raw_fd(fd as RawFd) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_systems_without_execution_are_known() {
        assert!(!is_noexec(Path::new("/bin")).unwrap());
        assert!(is_noexec(Path::new("/no/such/place")).is_err());
    }
}
