//! What the working children read (FTP replies, archives, signatures, URLs, frames), what package tools print, and what the
//! kernel says of processes.
#![no_main]

use bootagent::{host::proc, model::package, work};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    work::try_parsers(bytes);
    proc::parse_stat(bytes);
    proc::parse_environ(bytes, "/state");
    proc::parse_rollup(bytes);
    proc::parse_status(bytes);
    let text = String::from_utf8_lossy(bytes);
    proc::parse_pid(&text);
    let _ = package::identity(&text);
});
