#![allow(clippy::unwrap_used)]

use super::*;

/// Above the ids of real processes, so that none of those is looked at.
const BASE: i32 = 1 << 29;

fn process(number: i32) -> Process {
    Process { pid: Pid::new(BASE + number).unwrap(), ticks: 1000 + number as u64 }
}

/// A process by number, parent and session. 0, 1 and the id of this process are not changed.
fn stat(number: i32, parent: i32, session: i32) -> Stat {
    let real = |id: i32| if id <= 1 || id == calls::own_id() { id } else { BASE + id };
    Stat {
        process: process(number),
        parent: real(parent),
        session: real(session),
        state: b'S',
        kernel: false,
        threads: 1,
        used: 0,
    }
}

fn none() -> Limits {
    Limits::over(Vec::new(), "/s", None)
}

fn trees(agents: &[(&str, i32)]) -> Trees {
    let mut trees = Trees::new();
    for (name, leader) in agents {
        trees.started(&(*name).into(), process(*leader));
    }
    trees
}

fn numbers(trees: &mut Trees, name: &str) -> Vec<i32> {
    trees.members(name, &none()).iter().map(|stat| stat.process.pid.raw() - BASE).collect()
}

#[test]
fn a_child_that_has_no_session_of_its_own_yet_does_not_lend_the_daemons() {
    let us = calls::own_id();
    // What an agent was just made as is in our session until it has begun its own, and so is who started us from a shell.
    let mut trees = trees(&[("web", 10)]);
    let mut own = stat(1, 5, 5);
    own.process.pid = Pid::new(us).unwrap();
    trees.show(Snapshot::of(vec![own, stat(5, 1, 5), stat(6, 5, 5), stat(10, us, 5), stat(11, 10, 5)]));
    assert_eq!(numbers(&mut trees, "web"), [10, 11], "what is in the daemon's session is not the agent's");
    trees.show(Snapshot::of(vec![own, stat(5, 1, 5), stat(6, 5, 5), stat(10, us, 10), stat(12, us, 10)]));
    assert_eq!(numbers(&mut trees, "web"), [10, 12], "nor was it remembered");
}

#[test]
fn a_tree_is_known_by_descent_sessions_and_earlier_looks() {
    let us = calls::own_id();
    let mut trees = trees(&[("web", 10), ("db", 20)]);
    trees.show(Snapshot::of(vec![
        stat(10, us, 10),
        stat(11, 10, 10),
        stat(12, 11, 12), // leads a session of its own
        stat(13, 12, 12),
        stat(14, us, 10), // orphan in the leader's session
        stat(20, us, 20),
        stat(21, 20, 20),
        stat(30, us, 30), // a child of the daemon that belongs to no agent
        stat(31, 30, 30),
        stat(40, 1, 40),
    ]));
    assert_eq!(numbers(&mut trees, "web"), [10, 11, 12, 13, 14]);
    assert_eq!(numbers(&mut trees, "db"), [20, 21]);
    assert_eq!(numbers(&mut trees, "none"), []);

    // All parents die: 13 was seen, 15 is new in a session that 12 started.
    trees.ended("web");
    trees.show(Snapshot::of(vec![stat(13, us, 12), stat(15, 1, 12), stat(16, 15, 16), stat(20, us, 20)]));
    assert_eq!(numbers(&mut trees, "web"), [13, 15, 16]);

    // Other processes have got the ids of the tree, and one that of a session.
    let mut reused = stat(13, 1, 13);
    reused.process.ticks += 1;
    let mut session = stat(12, 1, 12);
    session.process.ticks += 5;
    trees.show(Snapshot::of(vec![reused, session, stat(17, 12, 12), stat(16, 1, 16)]));
    assert_eq!(numbers(&mut trees, "web"), [16], "a process with a reused id or session does not belong to it");
    trees.show(Snapshot::of(vec![stat(16, 1, 16), stat(18, 1, 12)]));
    assert_eq!(numbers(&mut trees, "web"), [16], "no process of the tree is left in that session");
    trees.show(Snapshot::of(vec![stat(18, 1, 12)]));
    assert_eq!(numbers(&mut trees, "web"), [], "it does not come back by that session");
}

#[test]
fn helpers_and_their_descendants_are_in_no_tree() {
    let us = calls::own_id();
    let mut trees = trees(&[("web", 10)]);
    trees.add_ours(process(11).pid);
    let all = vec![stat(10, us, 10), stat(11, 10, 10), stat(12, 11, 11), stat(13, 10, 10)];
    trees.show(Snapshot::of(all.clone()));
    assert_eq!(numbers(&mut trees, "web"), [10, 13]);
    trees.remove_ours(process(11).pid);
    trees.show(Snapshot::of(all));
    assert_eq!(numbers(&mut trees, "web"), [10, 11, 12, 13]);
}

#[test]
fn zombies_do_not_count_and_loops_of_parents_end() {
    let us = calls::own_id();
    let mut trees = trees(&[("web", 10)]);
    let mut zombie = stat(11, 10, 10);
    zombie.state = b'Z';
    let mut half_dead = stat(12, 10, 10);
    (half_dead.state, half_dead.threads) = (b'Z', 2);
    trees.show(Snapshot::of(vec![stat(10, us, 10), zombie, half_dead, stat(50, 51, 5), stat(51, 50, 5)]));
    assert_eq!(numbers(&mut trees, "web"), [10, 11, 12]);
    assert_eq!(trees.left("web", Scope::Tree, &none()), 2);
    assert_eq!(trees.left("none", Scope::Tree, &none()), 0);
}

#[test]
fn no_process_is_signalled_that_is_gone() {
    let mut trees = trees(&[("web", 10)]);
    trees.show(Snapshot::of(vec![stat(10, calls::own_id(), 10)]));
    assert_eq!(trees.signal("web", Scope::Tree, Sig::TERM, &none()), 0);
    assert!(!trees.adopt(&"db".into(), process(20)), "no such process");
    let own = proc::stat(Pid::new(calls::own_id()).unwrap()).unwrap().process;
    assert!(!trees.adopt(&"db".into(), own), "never the daemon itself");
    let other = Process { ticks: own.ticks + 1, ..own };
    assert!(!trees.adopt(&"db".into(), other));
}
