//! How a test says that it cannot run on this machine, so that it counts as ignored and not as passed.

use std::fs::OpenOptions;
use std::io::Write;

/// Whether a test that cannot run fails: `BOOTAGENT_TEST_ALL` is set.
pub fn all_must_run() -> bool {
    std::env::var_os("BOOTAGENT_TEST_ALL").is_some_and(|value| !value.is_empty())
}

/// Says that the test under way is skipped, as this machine has not got `what`; fails where every test must run.
pub fn skipped(what: &str) -> bool {
    assert!(!all_must_run(), "this test needs {what} (make deps)");
    cannot_apply(&format!("needs {what} (make deps)"))
}

/// Says that the test under way is skipped, as it has no meaning for the binary under test; never a failure.
pub fn cannot_apply(why: &str) -> bool {
    note_skip(std::thread::current().name().unwrap_or("a thread without a name"), why);
    true
}

/// Records for `tests/runner`, by which cargo starts each test program, that `test` is skipped and why. Without that program
/// the skip would count as passed, so it is a failure then.
pub fn note_skip(test: &str, why: &str) {
    let file = std::env::var_os("BOOTAGENT_TEST_SKIPS");
    let file = file.unwrap_or_else(|| panic!("{test} {why}; `cargo test` or tests/runner would count it as ignored"));
    let mut file = OpenOptions::new().append(true).create(true).open(file).expect("the runner's file can be written");
    // In one write, as other tests may write theirs at the same time.
    file.write_all(format!("{test}\t{why}\n").as_bytes()).expect("the runner's file can be written");
    eprintln!("skipped: {why}");
}
