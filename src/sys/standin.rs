//! What the library would take from the C library for threads and for sorting, in place of which this program has less.
//!
//! Only static binaries have these: tests, which run in threads, are linked with the C library as it is.

/// Stands in for musl's, which gives a thread its name in `/proc` and is all that would bring printf(3) along, 9 KB of
/// it. The library calls this for threads that have a name, and there are none here.
#[no_mangle]
extern "C" fn pthread_setname_np(_: libc::pthread_t, _: *const libc::c_char) -> libc::c_int {
    0
}

/// Stands in for musl's: there are no threads here, and minreq would start one only for a timeout, which is never asked of
/// it. It begins with this, and ends the program when there is nothing to begin with: as the compiler sees that, it leaves
/// out what the library has for threads.
#[no_mangle]
extern "C" fn pthread_attr_init(_: *mut libc::pthread_attr_t) -> libc::c_int {
    libc::ENOMEM
}

/// Stands in for musl's, which has each thread make a call that is to hold for all of them, setgroups(2) for one: the only
/// thread makes it.
#[no_mangle]
extern "C" fn __synccall(call: extern "C" fn(*mut libc::c_void), context: *mut libc::c_void) {
    call(context);
}

/// Stands in for the C library's, 4 KB, which sorts the addresses that a name has: a handful, so the simplest way is fit.
///
/// # Safety
/// As qsort(3): `base` has `count` elements of `size` bytes each.
#[no_mangle]
unsafe extern "C" fn qsort(
    base: *mut u8,
    count: libc::size_t,
    size: libc::size_t,
    compare: unsafe extern "C" fn(*const u8, *const u8) -> libc::c_int,
) {
    for sorted in 1..count {
        for index in (1..=sorted).rev() {
            // SAFETY: both are elements, as `index` is from 1 to below `count`.
            unsafe {
                let (before, this) = (base.add((index - 1) * size), base.add(index * size));
                if compare(before, this) <= 0 {
                    break;
                }
                std::ptr::swap_nonoverlapping(before, this, size);
            }
        }
    }
}
