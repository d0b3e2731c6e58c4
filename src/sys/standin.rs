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
/// it. As the compiler sees that there is never one, it leaves out what the library has for them.
#[no_mangle]
extern "C" fn pthread_create(
    _: *mut libc::pthread_t,
    _: *const libc::pthread_attr_t,
    _: extern "C" fn(*mut libc::c_void) -> *mut libc::c_void,
    _: *mut libc::c_void,
) -> libc::c_int {
    libc::EAGAIN
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
