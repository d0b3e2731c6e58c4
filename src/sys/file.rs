//! Files, locks and sockets: what the standard library has no function for.
//!
//! Paths and open files come in, values or the kernel's errors go out. Nothing here decides where files are or what is in
//! them.

use std::ffi::{c_int, c_short, c_void, CStr, CString};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use super::cerr;
use crate::kernel::{Gid, Pid, Uid};

/// Appends to `bytes` what `read` returns, until its end or `limit` bytes; returns how many were appended.
///
/// One copy of this code serves all readers, while std's `read_to_end` is compiled for each of them.
///
/// # Errors
/// Those of `read` except EINTR; what was read before stays in `bytes`.
pub fn read_up_to(
    limit: u64,
    bytes: &mut Vec<u8>,
    read: &mut dyn FnMut(&mut [u8]) -> io::Result<usize>,
) -> io::Result<usize> {
    let before = bytes.len();
    let mut buffer = [0; 4096];
    loop {
        let got = bytes.len() - before;
        let room = usize::try_from(limit).unwrap_or(usize::MAX).saturating_sub(got).min(buffer.len());
        if room == 0 {
            return Ok(got);
        }
        match read(&mut buffer[..room]) {
            Ok(0) => return Ok(got),
            Ok(count) => bytes.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// The content of the file at `path`. A FIFO in its place is empty: the open does not wait for a writer.
///
/// # Errors
/// When it cannot be opened or read.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let mut content = Vec::new();
    read_up_to(u64::MAX, &mut content, &mut |to| file.read(to))?;
    Ok(content)
}

/// The content of the file at `path` as text; bytes that are not UTF-8 are replaced.
///
/// # Errors
/// As `read`.
pub fn read_text(path: &Path) -> io::Result<String> {
    read(path).map(|content| String::from_utf8_lossy(&content).into_owned())
}

/// Opens `path` as `options` say, but never through a symbolic link at its end; a file it makes gets `mode` (less the
/// umask), and the open neither waits for the other side of a FIFO nor takes a terminal as ours.
///
/// # Errors
/// ELOOP when the last component is a symbolic link.
pub fn open_nofollow(path: &Path, options: &mut OpenOptions, mode: u32) -> io::Result<File> {
    options.mode(mode).custom_flags(libc::O_NOFOLLOW | libc::O_NOCTTY | libc::O_NONBLOCK).open(path)
}

/// Makes the directory `path`, with exactly `mode`, in one that exists; one that is there already stays as it is.
///
/// # Errors
/// ENOTDIR when something else, a symbolic link too, has the name.
pub fn make_directory(path: &Path, mode: u32) -> io::Result<()> {
    match DirBuilder::new().mode(mode).create(path) {
        Ok(()) => std::fs::set_permissions(path, PermissionsExt::from_mode(mode)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            if std::fs::symlink_metadata(path)?.is_dir() {
                Ok(())
            } else {
                Err(io::Error::from_raw_os_error(libc::ENOTDIR))
            }
        }
        Err(error) => Err(error),
    }
}

/// Takes the write lock on all of `file`, fcntl(2) F_SETLK; false when another process has it.
///
/// Children do not inherit it and exec keeps it, but closing any descriptor of the same file loses it.
///
/// # Errors
/// When the file system has no locks, or the file is not open for writing.
pub fn try_lock(file: &File) -> io::Result<bool> {
    set_lock(file, libc::F_WRLCK as c_short)
}

/// As `try_lock` where `file` is open for reading only: takes a read lock and checks for locks of others. When two processes
/// try at the same moment, both may get false.
///
/// # Errors
/// When the file system has no locks.
pub fn try_lock_reading(file: &File) -> io::Result<bool> {
    Ok(set_lock(file, libc::F_RDLCK as c_short)? && lock_holder(file)?.is_none())
}

/// Takes a lock of this kind on the whole file; false when another process has one that excludes it.
fn set_lock(file: &File, kind: c_short) -> io::Result<bool> {
    let mut lock = whole_file();
    lock.l_type = kind;
    // SAFETY: F_SETLK reads the lock it is given.
    match cerr(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLK, &lock) }) {
        Ok(_) => Ok(true),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The process that keeps `try_lock` from its lock; `None` when none does, or one outside our pid namespace.
///
/// # Errors
/// When the file system has no locks.
pub fn lock_holder(file: &File) -> io::Result<Option<Pid>> {
    let mut lock = whole_file();
    // SAFETY: F_GETLK reads and rewrites the lock it is given.
    cerr(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETLK, &mut lock) })?;
    if lock.l_type == libc::F_UNLCK as c_short {
        return Ok(None);
    }
    Ok(Pid::new(lock.l_pid))
}

/// Whether any process has `file`, which is open here for reading only, open or mapped for writing: the kernel grants a
/// lease, fcntl(2) F_SETLEASE, only where none has. The lease is returned at once.
///
/// # Errors
/// When the file belongs to another user and we are not root, and where its file system has no leases (some that are not
/// local).
pub fn has_writer(file: &File) -> io::Result<bool> {
    const F_SETSIG: c_int = 10;
    // A process that opens the file between the two calls makes the kernel send a signal: one that is ignored by default,
    // as SIGIO would end this process.
    // SAFETY: this and the two calls below take numbers only.
    cerr(unsafe { libc::fcntl(file.as_raw_fd(), F_SETSIG, libc::SIGURG) })?;
    // SAFETY: see above.
    match cerr(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_RDLCK) }) {
        // SAFETY: see above.
        Ok(_) => cerr(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_UNLCK) }).map(|_| false),
        Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => Ok(true),
        Err(error) => Err(error),
    }
}

/// An extended attribute of the file at `path`, of a link itself; `None` where there is none, and where the file system has
/// no such attributes.
///
/// # Errors
/// When it exists and cannot be read.
pub fn attribute(path: &Path, name: &CStr) -> io::Result<Option<Vec<u8>>> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: path and name end in a NUL, and the call writes at most `room` bytes to `to`, which has as many.
    read_attribute(&|to, room| unsafe { libc::lgetxattr(path.as_ptr(), name.as_ptr(), to, room) })
}

/// An extended attribute of an open file; `None` as in `attribute`.
///
/// # Errors
/// When it exists and cannot be read.
pub fn attribute_of(file: &File, name: &CStr) -> io::Result<Option<Vec<u8>>> {
    // SAFETY: the name ends in a NUL, and the call writes at most `room` bytes to `to`, which has as many.
    read_attribute(&|to, room| unsafe { libc::fgetxattr(file.as_raw_fd(), name.as_ptr(), to, room) })
}

/// Calls `get` for the length of an attribute and then for the attribute, again when it has grown in between.
fn read_attribute(get: &dyn Fn(*mut c_void, usize) -> isize) -> io::Result<Option<Vec<u8>>> {
    loop {
        let mut value = Vec::new();
        let length = get(std::ptr::null_mut(), 0);
        if length >= 0 {
            value.resize(length as usize, 0);
        }
        let got = if length > 0 { get(value.as_mut_ptr().cast(), value.len()) } else { length };
        if got >= 0 {
            value.truncate(got as usize);
            return Ok(Some(value));
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::ERANGE) => {}
            Some(libc::ENODATA | libc::ENOTSUP | libc::ENOSYS) => return Ok(None),
            _ => return Err(error),
        }
    }
}

fn whole_file() -> libc::flock {
    // SAFETY: a flock is plain numbers, for which zeros are values: from the start, to the end, whatever that is.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = libc::F_WRLCK as c_short;
    lock.l_whence = libc::SEEK_SET as c_short;
    lock
}

/// Bytes that a process without privileges may still write to the file system of an open file: an undumpable process
/// cannot find its files by path in /proc.
///
/// # Errors
/// When the file system does not say.
pub fn free_space(file: BorrowedFd<'_>) -> io::Result<u64> {
    // SAFETY: a statvfs is plain numbers, for which zeros are values.
    let mut data: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is open while borrowed, and the call fills in the struct it is given.
    cerr(unsafe { libc::fstatvfs(file.as_raw_fd(), &mut data) })?;
    #[allow(clippy::unnecessary_cast, reason = "narrower on 32-bit targets")]
    let (blocks, size) = (data.f_bavail as u64, data.f_frsize as u64);
    Ok(blocks.saturating_mul(size))
}

/// The process on the other side of a unix socket, as it was when it connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// `None` for init, and for one outside our pid namespace.
    pub pid: Option<Pid>,
    /// Its effective user.
    pub uid: Uid,
    /// Its effective group.
    pub gid: Gid,
}

/// The process on the other side of the connected unix socket `socket`, SO_PEERCRED.
///
/// # Errors
/// When it is no unix socket.
pub fn peer(socket: BorrowedFd<'_>) -> io::Result<Peer> {
    let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut size = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the pointer and the size describe `peer`, and the call keeps to them.
    cerr(unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERCRED, (&raw mut peer).cast(), &mut size)
    })?;
    Ok(Peer { pid: Pid::new(peer.pid), uid: Uid(peer.uid), gid: Gid(peer.gid) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::process;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    fn scratch(name: &str) -> std::path::PathBuf {
        let path = std::env::temp_dir().join(format!("bootagent-file-{}-{name}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let _ = std::fs::remove_dir(&path);
        path
    }

    #[test]
    fn reads_end_at_the_limit_the_end_or_an_error() {
        for (limit, steps, want, left) in [
            (100, &[Ok(3), Err(libc::EINTR), Ok(4), Ok(0)][..], Ok(7), 0),
            (5, &[Ok(3), Ok(4), Ok(0)], Ok(5), 1),
            (0, &[Ok(3)], Ok(0), 1),
            (100, &[Ok(3), Err(libc::EIO)], Err(Some(libc::EIO)), 0),
            (u64::MAX, &[Ok(9000), Ok(9000), Ok(0)], Ok(8192), 0),
        ] {
            let mut steps = steps.iter();
            let mut bytes = vec![b'x'];
            let got = read_up_to(limit, &mut bytes, &mut |to| match steps.next() {
                Some(Ok(count)) => Ok(to.len().min(*count)),
                Some(Err(errno)) => Err(io::Error::from_raw_os_error(*errno)),
                None => panic!("a read too many"),
            });
            assert_eq!(got.map_err(|error| error.raw_os_error()), want);
            assert_eq!((bytes.len(), steps.len()), (1 + want.unwrap_or(3), left));
        }
    }

    #[test]
    fn links_are_not_followed() {
        let (target, link) = (scratch("target"), scratch("link"));
        std::os::unix::fs::symlink(&target, &link).unwrap();
        let error = open_nofollow(&link, OpenOptions::new().write(true).create(true), 0o600).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ELOOP));
        assert!(!target.exists());
        assert_eq!(make_directory(&link, 0o755).unwrap_err().raw_os_error(), Some(libc::ENOTDIR));
        let file = open_nofollow(&target, OpenOptions::new().write(true).create_new(true), 0o600).unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::remove_file(link).unwrap();
        std::fs::remove_file(target).unwrap();
    }

    #[test]
    fn a_directory_gets_its_mode_and_keeps_it() {
        let path = scratch("directory");
        make_directory(&path, 0o777).unwrap();
        make_directory(&path, 0o700).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o777);
        std::fs::remove_dir(path).unwrap();
    }

    #[test]
    fn our_own_lock_is_no_obstacle() {
        let path = scratch("lock");
        let file = open_nofollow(&path, OpenOptions::new().write(true).create(true).truncate(false), 0o600).unwrap();
        assert!(try_lock(&file).unwrap() && try_lock(&file).unwrap());
        assert_eq!(lock_holder(&file).unwrap(), None);
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn writers_are_seen_whatever_they_hold() {
        let path = scratch("writer");
        let mut options = OpenOptions::new();
        let writer = open_nofollow(&path, options.read(true).write(true).create_new(true), 0o600).unwrap();
        let reader = File::open(&path).unwrap();
        assert!(has_writer(&reader).unwrap());
        let copy = writer.try_clone().unwrap();
        drop(writer);
        assert!(has_writer(&reader).unwrap(), "a copy of the descriptor is one");
        drop(copy);
        let another = File::open(&path).unwrap();
        assert!(!has_writer(&reader).unwrap() && !has_writer(&another).unwrap(), "readers are none");
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn attributes_are_there_or_not() {
        let path = scratch("attribute");
        std::fs::write(&path, "").unwrap();
        let file = File::open(&path).unwrap();
        assert_eq!(attribute(&path, c"user.bootagent-none").unwrap(), None);
        assert_eq!(attribute_of(&file, c"user.bootagent-none").unwrap(), None);
        assert!(attribute(&path.join("below"), c"user.bootagent-none").is_err());
        let name = c"user.bootagent";
        // SAFETY: path and name end in a NUL, and the value is three bytes.
        let set = |value: &[u8; 3]| unsafe {
            let path = CString::new(path.as_os_str().as_bytes()).unwrap();
            libc::setxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), 3, 0)
        };
        if set(b"abc") == 0 {
            assert_eq!(attribute(&path, name).unwrap().as_deref(), Some(&b"abc"[..]));
            assert_eq!(attribute_of(&file, name).unwrap().as_deref(), Some(&b"abc"[..]));
        } else {
            println!("skipped: the file system of {} has no attributes", path.display());
        }
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_peer_is_known() {
        let (one, _other) = UnixStream::pair().unwrap();
        let found = peer(one.as_fd()).unwrap();
        assert_eq!(found.pid.map(Pid::raw), Some(process::own_id()));
        assert_eq!(found.uid, crate::sys::account::own_uid());
    }

    #[test]
    fn the_root_has_a_size() {
        assert!(free_space(File::open("/tmp").unwrap().as_fd()).unwrap() > 0);
    }
}
