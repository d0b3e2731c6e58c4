#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use super::*;
use crate::model::enforcement::{OutOfMemory, Polled};

/// A directory that looks like a cgroup v2 mount with one agent's group, made for one test and removed at its end.
struct Fake(PathBuf);

impl Fake {
    fn new(name: &str, controllers: &str) -> Fake {
        let dir = std::env::temp_dir().join(format!("bootagent-limits-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        let fake = Fake(dir);
        for group in ["", "bootagent/"] {
            fake.put(&format!("{group}cgroup.controllers"), controllers);
            fake.put(&format!("{group}cgroup.subtree_control"), controllers);
            fake.put(&format!("{group}cgroup.procs"), "");
        }
        for file in ["cgroup.procs", "cpu.max", "memory.max", "memory.swap.max", "memory.oom.group"] {
            fake.put(&format!("bootagent/web/{file}"), "");
        }
        fake
    }

    fn put(&self, path: &str, text: &str) {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn get(&self, path: &str) -> String {
        fs::read_to_string(self.0.join(path)).unwrap()
    }

    fn limits(&self) -> Limits {
        let (mount, own) = (self.0.clone(), self.0.clone());
        let hierarchy = Hierarchy { version: Version::V2, mount, own, controllers: Vec::new() };
        Limits::over(vec![hierarchy], "/var/lib/bootagent", None)
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn want(cpu: Option<u32>, memory: Option<u64>) -> spec::Limits {
    spec::Limits { cpu, memory, ..spec::Limits::default() }
}

const BOTH: (Option<u32>, Option<u64>) = (Some(1000), Some(20 << 20));

#[test]
fn without_any_group_limits_are_polled_and_noted_once() {
    let mut limits = Limits::over(Vec::new(), "/s", None);
    let applied = limits.apply(&"web".into(), &want(BOTH.0, BOTH.1));
    assert_eq!(applied.enforcement.by.as_deref(), Some("polled"));
    assert_eq!(applied.enforcement.polled, Polled { cpu: true, memory: true });
    assert!(applied.cgroups.is_empty());
    assert_eq!(applied.notes.len(), 3, "{:?}", applied.notes);
    let again = limits.apply(&"db".into(), &want(None, BOTH.1));
    assert_eq!((again.enforcement.by.as_deref(), again.notes.len()), (Some("polled"), 0));
    assert_eq!(again.enforcement.polled, Polled { cpu: false, memory: true });
    assert_eq!(limits.apply(&"x".into(), &want(None, None)).enforcement.by, None);
    assert_eq!((limits.members("web"), limits.populated("web"), limits.usage("web")), (None, None, Usage::default()));
    assert!(!limits.kill("web") && !limits.freeze("web", true) && limits.leftovers().is_empty());
    assert_eq!(limits.oom_killed("web", true), None);
    limits.release("web");
    limits.close();
}

#[test]
fn the_number_of_tasks_is_limited_or_said_to_be_not_held() {
    let fake = Fake::new("tasks", "cpu pids\n");
    fake.put("bootagent/web/pids.max", "");
    let mut limits = fake.limits();
    let tasks = |tasks| spec::Limits { tasks, ..spec::Limits::default() };
    let applied = limits.apply(&"web".into(), &tasks(Some(64)));
    assert_eq!((applied.enforcement.by.as_deref(), &*fake.get("bootagent/web/pids.max")), (Some("cgroup2"), "64"));
    assert_eq!(limits.apply(&"web".into(), &tasks(None)).enforcement.by, None);
    assert_eq!(fake.get("bootagent/web/pids.max"), "max");
    let mut without = Limits::over(Vec::new(), "/s", None);
    assert_eq!(without.apply(&"web".into(), &tasks(Some(64))).enforcement.by.as_deref(), Some("tasks=not held"));
    let all = spec::Limits { cpu: BOTH.0, memory: BOTH.1, ..tasks(Some(64)) };
    let by = without.apply(&"web".into(), &all).enforcement.by;
    assert_eq!(by.as_deref(), Some("CPU=polled memory=polled tasks=not held"));
}

#[test]
fn cgroup2_takes_both() {
    let fake = Fake::new("both", "cpu memory\n");
    let mut limits = fake.limits();
    let applied = limits.apply(&"web".into(), &want(BOTH.0, BOTH.1));
    assert_eq!(applied.enforcement.by.as_deref(), Some("cgroup2"), "{:?}", applied.notes);
    assert_eq!(applied.enforcement.polled, Polled::default());
    assert!(applied.cgroup.is_some() && applied.cgroups.is_empty(), "one group for all");
    assert_eq!(
        (fake.get("bootagent/web/memory.max"), fake.get("bootagent/web/cpu.max")),
        ("20971520".into(), "10000 100000".into())
    );
    // A definition without limits lifts those of the last start.
    fake.put("bootagent/web/memory.max", "");
    fake.put("bootagent/web/cpu.max", "");
    assert_eq!(limits.apply(&"web".into(), &want(None, None)).enforcement.by, None);
    assert_eq!((fake.get("bootagent/web/memory.max"), fake.get("bootagent/web/cpu.max")), ("max".into(), "max".into()));
}

#[test]
fn an_agent_that_is_started_again_keeps_its_group() {
    let fake = Fake::new("again", "cpu memory\n");
    let mut limits = fake.limits();
    assert!(limits.apply(&"web".into(), &want(None, None)).cgroup.is_some());
    fake.put("bootagent/web/memory.max", "");
    assert!(limits.apply(&"web".into(), &want(None, None)).cgroup.is_some());
    assert_eq!(fake.get("bootagent/web/memory.max"), "", "nothing was set, so nothing is lifted");
    assert!(limits.apply(&"web".into(), &want(None, BOTH.1)).enforcement.by.is_some());
    assert_eq!(fake.get("bootagent/web/memory.max"), "20971520");
    limits.apply(&"web".into(), &want(None, None));
    assert!(fake.get("bootagent/web/memory.max").starts_with("max"), "what was set is lifted");
    fs::remove_dir_all(fake.0.join("bootagent/web")).unwrap();
    assert!(limits.apply(&"web".into(), &want(None, None)).cgroup.is_some(), "a group that was removed is made again");
}

#[test]
fn a_missing_controller_costs_only_its_own_limit() {
    let fake = Fake::new("mix", "cpu\n");
    let mut limits = fake.limits();
    let applied = limits.apply(&"web".into(), &want(BOTH.0, BOTH.1));
    assert_eq!(applied.enforcement.by.as_deref(), Some("CPU=cgroup2 memory=polled"));
    assert_eq!(applied.enforcement.polled, Polled { cpu: false, memory: true });
    let notes = applied.notes.join("\n");
    assert!(
        notes.contains("no memory limits by cgroup2: cannot use ") && notes.contains("memory limits are polled"),
        "{notes}"
    );
    fs::remove_file(fake.0.join("bootagent/web/cpu.max")).unwrap();
    let applied = limits.apply(&"web".into(), &want(BOTH.0, None));
    assert_eq!(applied.enforcement.by.as_deref(), Some("polled"));
    assert!(
        applied.notes[0].starts_with("agent \"web\": cannot set the cpu limit: cannot open "),
        "{:?}",
        applied.notes
    );
}

#[test]
fn kills_are_counted_from_each_start() {
    let fake = Fake::new("oom", "cpu memory\n");
    fake.put("bootagent/web/memory.events", "oom 9\noom_kill 9\n");
    fake.put("bootagent/web/memory.peak", "4096\n");
    let mut limits = fake.limits();
    limits.apply(&"web".into(), &want(None, BOTH.1));
    assert_eq!(limits.oom_killed("web", true), None, "those were before this start");
    fake.put("bootagent/web/memory.events", "oom 9\noom_kill 10\n");
    let killed = limits.oom_killed("web", false).unwrap();
    assert_eq!(killed, OutOfMemory { peak: Some(4096), limit: 20 << 20 });
    assert_eq!(killed.to_string(), "out of memory: 4.0K used, limit 20M");
    assert_eq!(limits.oom_killed("web", true), None, "reported once");
    fake.put("bootagent/web/memory.events", "oom 9\noom_kill 12\n");
    limits.apply(&"web".into(), &want(None, BOTH.1));
    assert_eq!(limits.oom_killed("web", true), None, "a start begins a new count");
}

#[test]
fn the_limits_of_an_earlier_daemon_count_where_they_are_set() {
    let fake = Fake::new("attach", "cpu memory\n");
    let leader = Pid::new(4711).unwrap();
    fake.put("bootagent/web/cgroup.procs", "4711\n4712\n");
    fake.put("bootagent/web/memory.max", "20971520\n");
    fake.put("bootagent/web/cpu.max", "max 100000\n");
    fake.put("bootagent/not an agent/cgroup.procs", "1234\n");
    let mut limits = fake.limits();
    assert_eq!(limits.leftovers(), [("web".into(), vec![leader, Pid::new(4712).unwrap()])]);
    let taken = limits.attach(&"web".into(), &want(BOTH.0, BOTH.1), &[Process { pid: leader, ticks: 1 }]);
    assert_eq!(taken.enforcement.by.as_deref(), Some("CPU=polled memory=cgroup2"));
    assert!(taken.cgroups.is_empty() && limits.leftovers().is_empty());
    assert_eq!(limits.members("web").unwrap().len(), 2);
    assert_eq!(fake.get("bootagent/web/cpu.max"), "max 100000\n", "nothing is changed");
    // The group does not limit a main process that is not in it.
    let mut limits = fake.limits();
    let taken = limits.attach(&"web".into(), &want(None, BOTH.1), &[Process { pid: Pid::new(99).unwrap(), ticks: 1 }]);
    assert_eq!((taken.enforcement.by.as_deref(), limits.members("web")), (Some("polled"), None));
}

#[test]
fn groups_that_are_not_empty_are_removed_later() {
    let fake = Fake::new("release", "cpu memory\n");
    fs::create_dir(fake.0.join("bootagent/old")).unwrap();
    let mut limits = fake.limits();
    limits.remove_empty_groups();
    assert!(!fake.0.join("bootagent/old").exists(), "an empty group of an earlier daemon");
    limits.apply(&"web".into(), &want(None, None));
    limits.apply(&"db".into(), &want(None, None));
    limits.release("web");
    limits.release("db");
    assert!(fake.0.join("bootagent/web").exists() && !Path::new(&fake.0.join("bootagent/db")).exists());
    limits.apply(&"web".into(), &want(None, None));
    fs::remove_dir_all(fake.0.join("bootagent/web")).unwrap();
    fs::create_dir(fake.0.join("bootagent/web")).unwrap();
    limits.remove_empty_groups();
    assert!(fake.0.join("bootagent/web").exists(), "in use again");
    limits.release("web");
    assert!(!fake.0.join("bootagent/web").exists());
}

#[test]
fn groups_of_agents_that_are_gone_are_removed_in_every_hierarchy() {
    let place = std::env::temp_dir().join(format!("bootagent-limits-gone-{}", std::process::id()));
    let _ = fs::remove_dir_all(&place);
    let hierarchies = ["freezer", "memory", "pids"].map(|controller| Hierarchy {
        version: Version::V1,
        mount: place.join(controller),
        own: place.join(controller),
        controllers: vec![controller.into()],
    });
    for path in ["freezer/bootagent/gone", "memory/bootagent/gone", "memory/bootagent/lives", "pids"] {
        fs::create_dir_all(place.join(path)).unwrap();
    }
    for path in ["freezer/bootagent", "memory/bootagent", "memory/bootagent/lives"] {
        fs::write(place.join(path).join("cgroup.procs"), if path.ends_with("lives") { "4711\n" } else { "" }).unwrap();
    }
    let mut limits = Limits::over(hierarchies.to_vec(), "/var/lib/bootagent", None);
    limits.remove_empty_groups();
    assert!(!place.join("freezer/bootagent/gone").exists() && !place.join("memory/bootagent/gone").exists());
    assert!(place.join("memory/bootagent/lives").exists(), "a process is in it");
    assert!(!place.join("pids/bootagent").exists(), "no agent needs it");
    // Also those that become empty later.
    fs::remove_file(place.join("memory/bootagent/lives/cgroup.procs")).unwrap();
    limits.remove_empty_groups();
    assert!(!place.join("memory/bootagent/lives").exists());
    fs::remove_dir_all(&place).unwrap();
}

#[test]
fn agents_that_were_left_frozen_are_thawed() {
    for (version, file, frozen, thawed) in
        [(Version::V2, "cgroup.freeze", "1", "0"), (Version::V1, "freezer.state", "FROZEN", "THAWED")]
    {
        let fake = Fake::new("frozen", "");
        fake.put(&format!("bootagent/web/{file}"), frozen);
        let (mount, own, controllers) = (fake.0.clone(), fake.0.clone(), vec!["freezer".into()]);
        let hierarchy = Hierarchy { version, mount, own, controllers };
        let limits = Limits::over(vec![hierarchy], "/var/lib/bootagent", None);
        limits.thaw();
        assert_eq!(fake.get(&format!("bootagent/web/{file}")), thawed);
    }
}

#[test]
fn the_same_obstacle_is_noted_once() {
    let hierarchies = ["memory", "cpu", "freezer"].map(|controller| Hierarchy {
        version: Version::V1,
        mount: PathBuf::from("/nonexistent").join(controller),
        own: PathBuf::from("/nonexistent").join(controller),
        controllers: vec![controller.into()],
    });
    let mut limits = Limits::over(hierarchies.to_vec(), "/var/lib/bootagent", None);
    let applied = limits.apply(&"web".into(), &want(None, BOTH.1));
    let missing = "cannot make \"/nonexistent/memory/bootagent\": No such file or directory";
    assert_eq!(
        applied.notes,
        [
            format!("agents are told apart by descent: {missing}"),
            format!("no memory limits by cgroup1: {missing}"),
            "memory limits are polled".into(),
        ]
    );
    assert_eq!(applied.enforcement.by.as_deref(), Some("polled"));
}

#[test]
fn a_group_that_the_next_run_does_not_use_is_removed_later() {
    let fake = Fake::new("unused", "");
    fake.put("v1/cgroup.procs", "");
    for file in ["cgroup.procs", "memory.limit_in_bytes", "memory.oom_control", "cgroup.event_control"] {
        fake.put(&format!("v1/bootagent/{file}"), "");
        fake.put(&format!("v1/bootagent/web/{file}"), "");
    }
    let (mount, v1) = (fake.0.clone(), fake.0.join("v1"));
    let unified = Hierarchy { version: Version::V2, own: mount.clone(), mount, controllers: Vec::new() };
    let memory = Hierarchy { version: Version::V1, own: v1.clone(), mount: v1, controllers: vec!["memory".into()] };
    let mut limits = Limits::over(vec![unified, memory], "/var/lib/bootagent", None);
    for (wanted, leftover) in [(BOTH.1, 0), (BOTH.1, 0), (None, 1)] {
        limits.apply(&"web".into(), &want(None, wanted));
        assert_eq!(limits.leftover.len(), leftover, "{wanted:?}");
    }
}

#[test]
fn the_groups_of_an_agent_take_little_memory() {
    // There may be 1000 agents, and allocators round up to powers of two.
    assert!(size_of::<AgentGroups>() <= 128, "{}", size_of::<AgentGroups>());
}
