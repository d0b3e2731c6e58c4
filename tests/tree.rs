//! Real trees of processes, found, limited and ended: `host::tree`, `host::limits` and the kernel together.
//!
//! This is a program without threads, as it forks, and a child subreaper as the daemon is. Tests that need root or a control
//! group are reported as skipped, or fail with BOOTAGENT_TEST_ALL=1.

#[path = "tree/groups.rs"]
mod groups;

use std::ffi::CString;
use std::path::Path;
use std::time::{Duration, Instant};

use bootagent::host::cgroup;
use bootagent::host::limits::{Applied, Limits};
use bootagent::host::proc::{self, Snapshot};
use bootagent::host::tree::{Leftover, Trees};
use bootagent::kernel::{self, Gid, Process, Resource, Sig, Uid};
use bootagent::model::event::Scope;
use bootagent::model::membership::Strength;
use bootagent::model::spec;
use bootagent::sorted_map::SortedMap;
use bootagent::sys::account::own_uid;
use bootagent::sys::child::{spawn_child, Program, Setup};
use bootagent::sys::process;
use bootagent::sys::setup_error::SetupErrorPipe;
use bootagent::work::inspect::{parse_environ, ProcessTag};
use groups::{a_group_holds_what_hides, memory_is_limited_and_the_kill_is_known, processor_time_is_limited};

const DEADLINE: Duration = Duration::from_secs(60);

/// `Err` fails, `Ok(Some(why))` skips.
type Verdict = Result<Option<&'static str>, String>;

type Test = fn(&World) -> Verdict;

const TESTS: &[(&str, Test)] = &[
    ("sessions_and_orphans_belong_to_the_tree", sessions_and_orphans_belong_to_the_tree),
    ("orphans_nobody_has_seen_are_known_by_their_environment", orphans_are_known_by_their_environment),
    ("a_mark_counts_for_the_agents_own_user_only", a_mark_counts_for_the_agents_own_user_only),
    ("what_ignores_term_is_killed", what_ignores_term_is_killed),
    ("what_is_stopped_feels_the_signal", what_is_stopped_feels_the_signal),
    ("another_process_with_the_id_is_left_alone", another_process_with_the_id_is_left_alone),
    ("helpers_are_in_no_tree", helpers_are_in_no_tree),
    ("an_earlier_daemons_agents_are_found", an_earlier_daemons_agents_are_found),
    ("usage_is_summed_over_the_tree", usage_is_summed_over_the_tree),
    ("a_fork_bomb_dies", a_fork_bomb_dies),
    ("a_group_holds_what_hides", a_group_holds_what_hides),
    ("memory_is_limited_and_the_kill_is_known", memory_is_limited_and_the_kill_is_known),
    ("processor_time_is_limited", processor_time_is_limited),
];

struct World {
    failures: SetupErrorPipe,
    state_dir: String,
    none: Limits,
}

fn main() {
    process::set_child_subreaper().expect("to be a subreaper");
    let state_dir = state_dir();
    let none = Limits::over(Vec::new(), &state_dir, None);
    let world = World { failures: SetupErrorPipe::new().expect("a pipe"), state_dir, none };
    let all = std::env::var_os("BOOTAGENT_TEST_ALL").is_some_and(|value| !value.is_empty());
    let filter: Option<String> = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let (mut passed, mut failed, mut skipped, mut filtered) = (0, 0, 0, 0);
    for (name, test) in TESTS {
        if filter.as_ref().is_some_and(|filter| !name.contains(filter.as_str())) {
            filtered += 1;
            continue;
        }
        match test(&world) {
            Ok(None) => {
                println!("test {name} ... ok");
                passed += 1;
            }
            Ok(Some(why)) if !all => {
                println!("test {name} ... ignored, {why}");
                skipped += 1;
            }
            Ok(Some(reason)) => {
                println!("test {name} ... FAILED\n    {reason}");
                failed += 1;
            }
            Err(reason) => {
                println!("test {name} ... FAILED\n    {reason}");
                failed += 1;
            }
        }
        // Whatever a failed test has left.
        let mut trees = Trees::new();
        for (name, left) in leftovers(&mut trees, &world.none) {
            trees.adopt(&name, left.processes[0]);
            trees.kill(&name, Scope::Tree, &world.none);
        }
        while let Ok(Some(_)) = process::wait_any() {}
    }
    let word = if failed == 0 { "ok" } else { "FAILED" };
    println!("\ntest result: {word}. {passed} passed; {failed} failed; {skipped} ignored; 0 measured; {filtered} filtered out");
    std::process::exit(i32::from(failed != 0));
}

impl World {
    fn trees(&self) -> Trees {
        Trees::new()
    }

    /// What the child of a shell script needs; the environment says that it is the agent `name`.
    fn setup(&self, name: &str, script: &str) -> Setup {
        let argv = ["sh", "-c", script].map(text).to_vec();
        let envp = vec![
            text("PATH=/usr/sbin:/usr/bin:/sbin:/bin"),
            text(&format!("BOOTAGENT_NAME={name}")),
            text(&format!("BOOTAGENT_STATE_ID={}", self.state_dir)),
        ];
        Setup::new(Program::Path(text("/bin/sh")), argv, envp)
    }

    fn spawn(&self, setup: &Setup) -> Process {
        let pid = spawn_child(setup, &self.failures).expect("a child");
        proc::stat(pid).expect("a child we have not reaped").process
    }

    fn begin(&self, trees: &mut Trees, name: &str, script: &str) -> Process {
        let leader = self.spawn(&self.setup(name, script));
        trees.started(&name.into(), leader);
        leader
    }
}

/// What a helper of the daemon reads.
fn tag(pid: kernel::Pid) -> ProcessTag {
    let environ = std::fs::read(format!("/proc/{pid}/environ"));
    environ.map_or(ProcessTag::Unknown, |environ| parse_environ(&environ, &state_dir()))
}

/// Looks at all processes, and answers what is asked about them.
fn answer(trees: &mut Trees, name: &str, limits: &Limits) {
    trees.forget_snapshot();
    trees.members(name, limits);
    for process in trees.questions(usize::MAX) {
        trees.answer(process, tag(process.pid));
    }
}

fn leftovers(trees: &mut Trees, limits: &Limits) -> SortedMap<spec::Name, Leftover> {
    trees.leftovers(limits, &mut |asked| asked.iter().map(|(pid, _)| tag(*pid)).collect())
}

/// The state directory of the agents; there is none.
fn state_dir() -> String {
    format!("/tmp/bootagent-tree-{}", std::process::id())
}

fn text(text: &str) -> CString {
    CString::new(text).expect("no NUL in it")
}

/// Until it holds, reaping whatever ends; an error after `DEADLINE`.
fn wait_until(what: &str, trees: &mut Trees, mut holds: impl FnMut(&mut Trees) -> bool) -> Result<(), String> {
    let end = Instant::now() + DEADLINE;
    loop {
        while let Ok(Some(_)) = process::wait_any() {}
        trees.forget_snapshot();
        if holds(trees) {
            return Ok(());
        }
        if Instant::now() > end {
            return Err(format!("not in time: {what}"));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn check(holds: bool, what: &str) -> Result<(), String> {
    if holds {
        Ok(())
    } else {
        Err(what.into())
    }
}

/// Kills until nothing is left, as the daemon does, and reports the main process's end when it is seen.
fn end(trees: &mut Trees, name: &str, limits: &Limits) -> Result<(), String> {
    wait_until("an empty tree", trees, |trees| {
        trees.kill(name, Scope::Tree, limits);
        if trees.main_process(name).is_some_and(|leader| !proc::alive(leader)) {
            trees.ended(name);
        }
        while let Ok(Some(_)) = process::wait_any() {}
        trees.forget_snapshot();
        trees.left(name, Scope::Tree, limits) == 0
    })?;
    trees.forget_snapshot();
    check(!leftovers(trees, limits).contains_key(name), "left() says 0, but something runs")
}

fn sessions_and_orphans_belong_to_the_tree(world: &World) -> Verdict {
    let mut trees = world.trees();
    // 1 leader, 2 in its session, 3 in one of its own, 4 whose child in another is seen before 4 ends.
    let leader = world.begin(
        &mut trees,
        "web",
        "sleep 1000 & setsid sleep 1000 & sh -c 'setsid sleep 1000 & exec sleep 1001' & exec sleep 1000",
    );
    let mut parent = None;
    wait_until("five processes", &mut trees, |trees| {
        let members = trees.members("web", &world.none);
        let below = |stat: &&proc::Stat| members.iter().any(|parent| parent.process.pid.raw() == stat.parent);
        let deep = members.iter().filter(below).find(|stat| stat.parent != leader.pid.raw());
        parent = deep.and_then(|stat| kernel::Pid::new(stat.parent));
        members.len() == 5 && deep.is_some_and(|stat| stat.session == stat.process.pid.raw())
    })?;
    process::signal(parent.ok_or("no parent")?, Sig::KILL).map_err(|error| error.to_string())?;
    wait_until("its orphan", &mut trees, |trees| trees.left("web", Scope::Tree, &world.none) == 4)?;
    process::signal(leader.pid, Sig::KILL).map_err(|error| error.to_string())?;
    wait_until("three orphans", &mut trees, |trees| trees.left("web", Scope::Tree, &world.none) == 3)?;
    trees.ended("web");
    trees.forget_snapshot();
    check(trees.left("web", Scope::Tree, &world.none) == 3, "without a main process they are still counted")?;
    check(trees.signal("web", Scope::Tree, Sig::TERM, &world.none) == 3, "each got the signal")?;
    wait_until("an empty tree", &mut trees, |trees| trees.left("web", Scope::Tree, &world.none) == 0)?;
    Ok(None)
}

fn orphans_are_known_by_their_environment(world: &World) -> Verdict {
    let mut trees = world.trees();
    world.begin(&mut trees, "other", "exec sleep 1000");
    let leader = world.begin(&mut trees, "web", "setsid sh -c 'setsid sleep 1000 & exit' & wait; exit 0");
    // No check happens before the whole line up to the main process is gone.
    wait_until("its end", &mut trees, |_| !proc::alive(leader))?;
    trees.ended("web");
    trees.forget_snapshot();
    check(
        trees.left("web", Scope::Tree, &world.none) == 0 && trees.waits_for_answers("web"),
        "a stop waits for the answer",
    )?;
    check(trees.waits_for_answers("other"), "another agent of the user may have made it")?;
    answer(&mut trees, "web", &world.none);
    check(!trees.waits_for_answers("web"), "the answer is there")?;
    let left = trees.left("web", Scope::Tree, &world.none);
    check(left == 1, &format!("the orphan is known by its environment, not {left} of them"))?;
    trees.forget_snapshot();
    check(trees.left("web", Scope::Tree, &world.none) == 0, "it is counted once, and waited for no longer")?;
    let (usage, parts) = trees.usage("web", &world.none);
    check(
        parts.is_empty() && usage.memory == Some(0) && usage.cpu == Some(0),
        "what it uses is not held against the agent",
    )?;
    check(trees.left("other", Scope::Tree, &world.none) == 1, "and is not the other's")?;
    end(&mut trees, "web", &world.none)?;
    trees.forget_snapshot();
    check(trees.left("other", Scope::Tree, &world.none) == 1, "the other agent lives")?;
    end(&mut trees, "other", &world.none)?;
    Ok(None)
}

fn a_mark_counts_for_the_agents_own_user_only(world: &World) -> Verdict {
    if own_uid().0 != 0 {
        return Ok(Some("needs root, to be another user"));
    }
    let mut trees = world.trees();
    trees.runs_as(&"web".into(), Some(Uid(64_123)));
    world.begin(&mut trees, "web", "exec sleep 1000");
    // An orphan of each kind, which names the agent and nothing else ties to it: whose are its real, effective and saved
    // user, and is it killed with what is only marked?
    for (users, killed) in [
        ((64_123, 64_123, 64_123), true),
        ((64_124, 64_124, 64_124), false),
        ((0, 0, 0), false),
        ((64_123, 0, 0), false),
        ((64_123, 64_123, 0), false),
    ] {
        let (real, effective, saved) = users;
        let script = format!(
            "exec /usr/bin/python3 -c 'import os, time; \
             os.fork() and os._exit(0); os.setresuid({real}, {effective}, {saved}); time.sleep(1000)'"
        );
        let parent = world.spawn(&world.setup("web", &script));
        let mut orphan = None;
        wait_until("an orphan with its users", &mut trees, |_| {
            let all = Snapshot::take();
            let in_session = all.stats().iter().find(|stat| stat.session == parent.pid.raw() && stat.alive());
            orphan = in_session.filter(|stat| stat.process != parent).map(|stat| stat.process);
            let ids = orphan.and_then(|orphan| proc::users(orphan.pid));
            ids.is_some_and(|ids| ids == [Uid(real), Uid(effective), Uid(saved)]) && !proc::alive(parent)
        })?;
        let orphan = orphan.ok_or("no orphan")?;
        answer(&mut trees, "web", &world.none);
        check(trees.members("web", &world.none).len() == if killed { 2 } else { 1 }, &format!("{users:?}: members"))?;
        check(trees.left("web", Scope::Tree, &world.none) == 1, &format!("{users:?}: it is waited for"))?;
        let memory = trees.usage("web", &world.none).0.memory.unwrap_or(u64::MAX);
        check(memory < 3 << 20, &format!("{users:?}: {memory} bytes are more than sleep needs"))?;
        let sent = trees.signal("web", Scope::Tree, Sig::CONT, &world.none);
        check(sent == 1 + usize::from(killed), &format!("{users:?}: {sent} processes got the signal"))?;
        process::signal(orphan.pid, Sig::KILL).map_err(|error| error.to_string())?;
    }
    end(&mut trees, "web", &world.none)?;
    Ok(None)
}

fn what_ignores_term_is_killed(world: &World) -> Verdict {
    let mut trees = world.trees();
    let script = "trap '' TERM; setsid sh -c 'sleep 1000; sleep 1000' & sleep 1000; sleep 1000";
    world.begin(&mut trees, "web", script);
    wait_until("its children", &mut trees, |trees| trees.left("web", Scope::Tree, &world.none) == 4)?;
    check(trees.signal("web", Scope::Tree, Sig::TERM, &world.none) == 4, "each got the signal")?;
    trees.forget_snapshot();
    check(trees.left("web", Scope::Tree, &world.none) == 4, "and ignored it")?;
    end(&mut trees, "web", &world.none)?;
    Ok(None)
}

fn what_is_stopped_feels_the_signal(world: &World) -> Verdict {
    let mut trees = world.trees();
    let leader = world.begin(&mut trees, "web", "exec sleep 1000");
    process::signal(leader.pid, Sig::STOP).map_err(|error| error.to_string())?;
    wait_until("a stopped process", &mut trees, |_| proc::stat(leader.pid).is_some_and(|stat| stat.stopped()))?;
    trees.signal("web", Scope::Tree, Sig::TERM, &world.none);
    wait_until("its end", &mut trees, |_| !proc::alive(leader))?;
    Ok(None)
}

fn another_process_with_the_id_is_left_alone(world: &World) -> Verdict {
    let mut trees = world.trees();
    let stranger = world.spawn(&Setup::new(
        Program::Path(text("/bin/sleep")),
        vec![text("sleep"), text("1000")],
        vec![text("PATH=/bin")],
    ));
    let before = Process { ticks: stranger.ticks - 1, ..stranger };
    check(!trees.adopt(&"web".into(), before), "a record of the process that had the id before")?;
    check(trees.adopt(&"web".into(), stranger), "the very process")?;
    // The id changed hands after the last look: the tree still names the one before.
    trees.forget("web");
    let left = Leftover { main: None, processes: vec![before], strength: Strength::Descended };
    trees.claim(&"web".into(), &left);
    let mut stale = Snapshot::take().stats().to_vec();
    stale.iter_mut().filter(|stat| stat.process == stranger).for_each(|stat| stat.process = before);
    trees.show(Snapshot::of(stale));
    check(trees.members("web", &world.none).len() == 1, "the tree has it")?;
    check(trees.signal("web", Scope::Tree, Sig::KILL, &world.none) == 0, "but no signal is sent")?;
    trees.kill("web", Scope::Tree, &world.none);
    check(proc::alive(stranger), "the stranger lives")?;
    process::signal(stranger.pid, Sig::KILL).map_err(|error| error.to_string())?;
    Ok(None)
}

fn helpers_are_in_no_tree(world: &World) -> Verdict {
    let mut trees = world.trees();
    world.begin(&mut trees, "web", "exec sleep 1000");
    let helper = world.spawn(&world.setup("web", "sleep 1000; sleep 1000"));
    trees.add_ours(helper.pid);
    wait_until("the helper's child", &mut trees, |_| {
        proc::children_of(helper.pid.raw()).is_none_or(|all| all.len() == 1)
    })?;
    let members = trees.members("web", &world.none);
    check(members.len() == 1, "only the agent itself")?;
    end(&mut trees, "web", &world.none).or_else(|error| match error.contains("something runs") {
        true => Ok(()),
        false => Err(error),
    })?;
    check(proc::alive(helper), "the helper lives")?;
    trees.remove_ours(helper.pid);
    check(trees.adopt(&"web".into(), helper), "what is no helper any more can be taken over")?;
    end(&mut trees, "web", &world.none)?;
    Ok(None)
}

fn an_earlier_daemons_agents_are_found(world: &World) -> Verdict {
    // To the new daemon all of these are processes without a record.
    let leader = world.spawn(&world.setup("web", "setsid sleep 1000 & sleep 1000; exit 0"));
    let mut strange = world.setup("web", "exec sleep 1000");
    strange.envp.pop();
    let stranger = world.spawn(&strange);
    let mut trees = world.trees();
    wait_until("three processes", &mut trees, |trees| {
        leftovers(trees, &world.none).get("web").is_some_and(|all| all.processes.len() == 3)
    })?;
    let found = leftovers(&mut trees, &world.none);
    let all = found.get("web").ok_or("nothing is found")?;
    check(found.len() == 1 && all.processes[0] == leader, "the main process comes first")?;
    check(all.main.is_none() && all.strength == Strength::Marked, "but an environment makes it none")?;
    check(trees.adopt(&"web".into(), leader), "it is taken over, as its record says")?;
    check(leftovers(&mut trees, &world.none).is_empty(), "and left over no more")?;
    check(trees.left("web", Scope::Tree, &world.none) == 3, "with its children")?;
    end(&mut trees, "web", &world.none)?;
    check(proc::alive(stranger), "a process without our directory in its environment is not ours")?;
    process::signal(stranger.pid, Sig::KILL).map_err(|error| error.to_string())?;
    Ok(None)
}

fn usage_is_summed_over_the_tree(world: &World) -> Verdict {
    let mut trees = world.trees();
    let spin = "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done";
    world.begin(&mut trees, "web", &format!("sh -c '{spin}; exec sleep 1000' & sh -c '{spin}'; exec sleep 1000"));
    let (mut last, mut most) = (0, 0);
    let mut back = false;
    wait_until("50 ms of processor time", &mut trees, |trees| {
        let (usage, _) = trees.usage("web", &world.none);
        let cpu = usage.cpu.unwrap_or(0);
        back |= cpu < last;
        last = cpu;
        most = most.max(usage.memory.unwrap_or(0));
        cpu >= 50_000 && trees.left("web", Scope::Tree, &world.none) == 2
    })?;
    check(!back, "processor time never goes back")?;
    check((100_000..1 << 30).contains(&most), &format!("two shells' memory, not {most} bytes"))?;
    end(&mut trees, "web", &world.none)?;
    Ok(None)
}

fn a_fork_bomb_dies(world: &World) -> Verdict {
    if own_uid().0 != 0 {
        return Ok(Some("needs root, to give a bomb a user with few processes"));
    }
    let mut trees = world.trees();
    // A shell ends when it cannot fork; this one goes on.
    let script = "exec /usr/bin/python3 -c '
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
while True:
    try:
        os.fork() or os.setsid()
    except OSError:
        time.sleep(0.01)
'";
    let mut bomb = world.setup("web", script);
    // A user of this run's own: what another run has left would use up its processes.
    let user = 62_000 + std::process::id() % 2_000;
    bomb.uid = Some(Uid(user));
    bomb.gid = Some(Gid(user));
    bomb.groups = Some(Vec::new());
    bomb.rlimits = vec![(Resource::Nproc, 150, 150)];
    let leader = world.spawn(&bomb);
    trees.runs_as(&"web".into(), Some(Uid(user)));
    trees.started(&"web".into(), leader);
    wait_until("a swarm", &mut trees, |trees| trees.left("web", Scope::Tree, &world.none) >= 50)?;
    let began = Instant::now();
    end(&mut trees, "web", &world.none)?;
    check(began.elapsed() < Duration::from_secs(20), "it takes a moment, not minutes")?;
    Ok(None)
}
