//! What the working children read (FTP replies, archives, signatures, URLs, frames), and what the kernel says of processes.
#![no_main]

use bootagent::{host::proc, work};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    work::try_parsers(bytes);
    proc::parse_stat(bytes);
    proc::parse_environ(bytes, "/state");
    proc::parse_rollup(bytes);
    proc::parse_status(bytes);
    proc::parse_pid(&String::from_utf8_lossy(bytes));
});
