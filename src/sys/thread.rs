//! What the library would take from the C library for its threads, which this program does without.

/// Stands in for musl's, which gives a thread its name in `/proc` and is all that would bring printf(3) along, 9 KB of
/// it. The library calls this for threads that have a name, and there are none here.
#[no_mangle]
extern "C" fn pthread_setname_np(_: libc::pthread_t, _: *const libc::c_char) -> libc::c_int {
    0
}
