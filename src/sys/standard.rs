//! What a child has of the kernel's defaults instead of what the shell that started this process had: resource limits,
//! scheduling, the priority of its disk accesses, its timer slack.
//!
//! It runs between fork and exec, so there are only system calls here. What may not be set stays as it is: without
//! privileges a hard limit cannot be raised, for example.

use std::ffi::c_int;

use super::process::{prctl, resource_number};
use crate::kernel::Resource;

/// Resource limits: number, soft, hard. They are those of the kernel, but for a hard limit of open files that larger
/// programs need. `RLIMIT_SIGPENDING` is left out, as its default depends on the memory of the host.
const LIMITS: [(c_int, u64, u64); 15] = [
    (libc::RLIMIT_CPU as c_int, FREE, FREE),
    (libc::RLIMIT_FSIZE as c_int, FREE, FREE),
    (libc::RLIMIT_DATA as c_int, FREE, FREE),
    (libc::RLIMIT_STACK as c_int, 8 << 20, FREE),
    (libc::RLIMIT_CORE as c_int, 0, FREE),
    (libc::RLIMIT_RSS as c_int, FREE, FREE),
    (libc::RLIMIT_NPROC as c_int, FREE, FREE),
    (libc::RLIMIT_NOFILE as c_int, 1024, 524_288),
    (libc::RLIMIT_MEMLOCK as c_int, 8 << 20, 8 << 20),
    (libc::RLIMIT_AS as c_int, FREE, FREE),
    (libc::RLIMIT_LOCKS as c_int, FREE, FREE),
    (libc::RLIMIT_MSGQUEUE as c_int, 819_200, 819_200),
    (libc::RLIMIT_NICE as c_int, 0, 0),
    (libc::RLIMIT_RTPRIO as c_int, 0, 0),
    (libc::RLIMIT_RTTIME as c_int, FREE, FREE),
];

/// No limit.
const FREE: u64 = libc::RLIM_INFINITY;

/// The kernel's timer slack, ns.
const TIMER_SLACK: libc::c_ulong = 50_000;

/// Sets all of it for this process, but for the limits in `own`, which it gets later: a hard limit that was lowered here
/// could not be raised again without privileges. The scheduling comes first, as the limit of nice values may allow it.
pub(super) fn reset(own: &[(Resource, u64, u64)]) {
    reset_scheduling();
    let _ = prctl(libc::PR_SET_TIMERSLACK, TIMER_SLACK);
    for (number, soft, hard) in all_but(own) {
        reset_limit(number, soft, hard);
    }
}

fn all_but(own: &[(Resource, u64, u64)]) -> impl Iterator<Item = (c_int, u64, u64)> + '_ {
    let is_own = move |number| own.iter().any(|(resource, ..)| resource_number(*resource) == number);
    LIMITS.into_iter().filter(move |(number, ..)| !is_own(*number))
}

fn reset_limit(resource: c_int, soft: u64, hard: u64) {
    let mut limits = libc::rlimit { rlim_cur: soft, rlim_max: hard };
    // SAFETY: setrlimit reads the struct it is given.
    if unsafe { libc::setrlimit(resource as _, &limits) } == 0 {
        return;
    }
    // The hard limit cannot be raised so far.
    // SAFETY: getrlimit fills in the struct it is given.
    if unsafe { libc::getrlimit(resource as _, &mut limits) } == 0 {
        limits.rlim_cur = soft.min(limits.rlim_max);
        // SAFETY: as above.
        unsafe { libc::setrlimit(resource as _, &limits) };
    }
}

/// The usual policy on the processors of process 1: a host may keep some of them for other work.
fn reset_scheduling() {
    const IOPRIO_WHO_PROCESS: c_int = 1;
    // SAFETY: a sched_param is plain numbers, for which zeros are values.
    let parameters: libc::sched_param = unsafe { std::mem::zeroed() };
    // By its number, as musl's function of this name always fails.
    // SAFETY: the call reads the struct it is given.
    unsafe { libc::syscall(libc::SYS_sched_setscheduler, 0, libc::SCHED_OTHER, &raw const parameters) };
    // A priority of 0 stands for that which follows from the nice value.
    // SAFETY: the call takes numbers only.
    unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, 0) };
    // SAFETY: a cpu_set_t is plain numbers, for which zeros are values.
    let mut processors: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    let size = size_of::<libc::cpu_set_t>();
    // SAFETY: the call writes at most `size` bytes to the set.
    if unsafe { libc::sched_getaffinity(1, size, &mut processors) } == 0 {
        // SAFETY: the call reads at most `size` bytes of the set.
        unsafe { libc::sched_setaffinity(0, size, &processors) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_a_definition_are_not_lowered_before() {
        let own = [(Resource::Memlock, 1 << 30, 1 << 30), (Resource::Nofile, 1 << 20, 1 << 20)];
        let numbers: Vec<c_int> = all_but(&own).map(|(number, ..)| number).collect();
        assert_eq!(numbers.len(), LIMITS.len() - 2);
        assert!(!numbers.contains(&(libc::RLIMIT_MEMLOCK as c_int)) && numbers.contains(&(libc::RLIMIT_CORE as c_int)));
    }
}
