//! The last word of a process that aborts itself.
//!
//! In the small build (`cross/build`) a panic prints nothing: it is one trapping instruction. Its address, looked up in
//! the same build with symbols, names the place: `SYMBOLS=1 cross/build`, then `addr2line -fe`.

use std::io;

use super::cerr;

/// What a trap is on x86 and 32-bit ARM, and on 64-bit ARM.
const TRAPS: [libc::c_int; 2] = [libc::SIGILL, libc::SIGTRAP];

/// From now on a trap writes one line to standard error before it ends this process. Children executed from here do not
/// inherit it.
///
/// # Errors
/// None that a kernel we know gives; nothing is lost but the line then.
pub fn say_where() -> io::Result<()> {
    let handler: extern "C" fn(libc::c_int, *const libc::siginfo_t) = on_trap;
    // SAFETY: sigaction is plain data for which all zeroes is a good value (empty mask, no flags).
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as libc::sighandler_t;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_RESETHAND | libc::SA_NODEFER;
    for trap in TRAPS {
        // SAFETY: `action` is initialised and outlives the call; the handler makes async-signal-safe calls only.
        cerr(unsafe { libc::sigaction(trap, &action, std::ptr::null_mut()) })?;
    }
    Ok(())
}

/// System calls only: it may have interrupted anything. The action is the default again, so that the same signal ends us.
extern "C" fn on_trap(signal: libc::c_int, info: *const libc::siginfo_t) {
    // SAFETY: the kernel hands a handler with SA_SIGINFO a valid siginfo_t; for a signal that somebody sent, the field is
    // another, a number nonetheless.
    let address = unsafe { (*info).si_addr() } as usize;
    let mut line = *b"bootagent: internal error, aborted at 0x0000000000000000\n";
    let end = line.len() - 1;
    for (index, digit) in line[end - 16..end].iter_mut().rev().enumerate() {
        *digit = b"0123456789abcdef"[(address as u64 >> (4 * index)) as usize & 15];
    }
    // SAFETY: the buffer lives through the call, which reads `line.len()` bytes of it.
    unsafe { libc::write(2, line.as_ptr().cast(), line.len()) };
    // SAFETY: raise touches no memory of ours.
    unsafe { libc::raise(signal) };
}
