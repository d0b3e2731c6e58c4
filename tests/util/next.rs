//! What must stay as it is when another daemon follows.

use super::*;

/// Whether the agent goes on undisturbed, with the same process, over a kill -9 of the daemon and over a reexec.
pub fn outlives_daemons(host: &mut Host, name: &str) {
    let pid = host.wait_running(name).pid;
    host.kill9();
    host.start();
    assert_eq!(host.wait_running(name).pid, pid, "after a kill -9");
    let ran = host.cli(&["reexec"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(host.wait_running(name).pid, pid, "after a reexec");
}
