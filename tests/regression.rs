//! One test for each fixed bug, named for the behaviour.

mod util;

use util::*;

/// A daemon that is told to stop while it waits for a restart, and one that has nothing to do, end as well.
#[test]
fn a_daemon_with_nothing_running_ends_at_once() {
    let mut host = Host::new();
    host.set("restartsecs", "1000");
    host.agent("weak", "exit 1", &[]);
    host.start();
    host.wait_seen("weak", "to fail", |agent| agent.status == "stoped" && agent.failures == 1);
    assert_eq!(host.end("TERM").code(), Some(0));
    let mut empty = Host::new();
    empty.start();
    assert_eq!(empty.end("INT").code(), Some(0));
}
