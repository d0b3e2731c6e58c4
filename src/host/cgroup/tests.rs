#![allow(clippy::unwrap_used)]

use super::leaf::bandwidth;
use super::*;
use crate::model::enforcement::OomCount;

fn find<'a>(all: &'a [Hierarchy], controller: &str) -> &'a Hierarchy {
    all.iter().find(|one| one.may_have(controller)).unwrap()
}

#[test]
fn a_unified_host() {
    let mounts = "24 30 0:22 / /proc rw,nosuid - proc proc rw\n\
        31 23 0:27 / /sys/fs/cgroup rw,nosuid,nodev shared:9 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n";
    let all = hierarchies(mounts, "0::/system.slice/bootagent.service\n");
    assert_eq!(all.len(), 1);
    assert_eq!(all[0].version, Version::V2);
    assert_eq!(all[0].mount, Path::new("/sys/fs/cgroup"));
    assert_eq!(all[0].own, Path::new("/sys/fs/cgroup/system.slice/bootagent.service"));
}

#[test]
fn a_hybrid_host() {
    let mounts = "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
        35 31 0:32 / /sys/fs/cgroup/memory rw shared:3 master:4 - cgroup cgroup rw,memory\n\
        40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
        41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
        50 31 0:29 / /mnt/again rw - cgroup cgroup rw,cpu,cpuacct\n";
    let own = "9:name=systemd:/init.scope\n4:memory:/a:b\n2:cpu,cpuacct:/\n0::/init.scope\n";
    let all = hierarchies(mounts, own);
    assert_eq!(all.len(), 4, "{all:?}");
    assert_eq!(find(&all, "cpu"), find(&all, "cpuacct"));
    assert_eq!(find(&all, "cpu").mount, Path::new("/sys/fs/cgroup/cpu,cpuacct"));
    assert_eq!(find(&all, "memory").own, Path::new("/sys/fs/cgroup/memory/a:b"));
    assert_eq!(find(&all, "name=systemd").version, Version::V1);
}

#[test]
fn a_container_may_see_only_a_part() {
    // Without a cgroup namespace the mount shows only our part of the hierarchy, and the path is that of the host.
    let mounts = "35 31 0:32 /docker/f00 /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n";
    let all = hierarchies(mounts, "4:memory:/docker/f00\n");
    assert_eq!(all[0].own, Path::new("/sys/fs/cgroup/memory"));
    let all = hierarchies(mounts, "4:memory:/docker/f00/x\n");
    assert_eq!(all[0].own, Path::new("/sys/fs/cgroup/memory/x"));
    // Our group is outside the root of the namespace.
    let all = hierarchies("35 31 0:32 / /cg rw - cgroup2 none rw\n", "0::/../../elsewhere\n");
    assert_eq!(all[0].own, Path::new("/cg"));
}

#[test]
fn odd_lines_are_ignored() {
    let all = hierarchies("35 31 0:32 / /sys/fs/c\\040g\\134x rw - cgroup2 none rw\n", "0::/\n");
    assert_eq!(all[0].mount, Path::new("/sys/fs/c g\\x"));
    for mounts in
        ["", "x", " - ", "1 2 3 / - cgroup2 none rw", "1 2 3 / /x - cgroup2", "1 2 3 / /x rw - cgroup cgroup rw,memory"]
    {
        assert_eq!(hierarchies(mounts, "0::/\n1:cpu:/\nx\n::\n"), [], "{mounts:?}");
    }
    assert_eq!(hierarchies("35 31 0:32 / /x rw - cgroup2 none rw\n", ""), [], "kernel without cgroups");
    assert_eq!(unescape("a\\0"), "a\\0");
    assert_eq!(unescape("\\\\x\\377"), "\\\\x\\377");
}

#[test]
fn two_daemons_never_share_a_group() {
    assert_eq!(group_name("/var/lib/bootagent"), group_name("/var/lib/bootagent/"));
    assert_eq!(group_name("/var/lib/bootagent") == "bootagent", is_on_host());
    assert!(mark_of("/tmp") != mark_of("/proc") && mark_of("/no/such").is_empty());
    let other = group_name("/tmp/x");
    assert!(other.starts_with("bootagent-") && other.len() == 22 && other != group_name("/tmp/y"), "{other}");
}

#[test]
fn a_share_is_a_quota_in_a_period() {
    for (share, want) in [
        (1000, (10_000, 100_000)),
        (10_000, (100_000, 100_000)),
        (25_000, (250_000, 100_000)),
        (100, (1000, 100_000)),
        (99, (9900, 1_000_000)),
        (10, (1000, 1_000_000)),
        (1, (1000, 1_000_000)),
    ] {
        assert_eq!(bandwidth(share), want, "{share}");
    }
}

/// A directory that looks like a cgroup v2 mount, made for one test and removed at its end.
struct Fake(PathBuf);

impl Fake {
    fn new(name: &str) -> Fake {
        let dir = std::env::temp_dir().join(format!("bootagent-cgroup-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        Fake(dir)
    }

    fn put(&self, path: &str, text: &str) -> &Fake {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    fn get(&self, path: &str) -> String {
        fs::read_to_string(self.0.join(path)).unwrap()
    }

    fn hierarchy(&self, own: &str) -> Hierarchy {
        Hierarchy { version: Version::V2, mount: self.0.clone(), own: self.0.join(own), controllers: Vec::new() }
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn controllers_are_enabled_one_by_one_from_the_top() {
    let fake = Fake::new("enable");
    fake.put("cgroup.controllers", "cpu memory pids\n").put("cgroup.subtree_control", "cpu\n");
    fake.put("bootagent/cgroup.controllers", "cpu\n").put("bootagent/cgroup.subtree_control", "cpu\n");
    fake.put("bootagent/cgroup.procs", "").put("cgroup.procs", "");
    let mut group = Group::open(&fake.hierarchy(""), "bootagent", None).unwrap();
    group.enable("cpu").unwrap();
    assert_eq!(fake.get("cgroup.subtree_control"), "cpu\n", "what is enabled already is not written");
    // The kernel would add the name. A plain file has exactly what was written, which does not read back as enabled.
    let error = group.enable("memory").unwrap_err().to_string();
    assert_eq!(fake.get("cgroup.subtree_control"), "+memory");
    assert!(error.starts_with("cannot write ") && error.ends_with("\"memory\" was not taken"), "{error}");
    let error = group.enable("io").unwrap_err().to_string();
    assert!(error.contains("cgroup.controllers\": \"io\" is not among the controllers"), "{error}");
    assert_eq!(fake.get("cgroup.procs"), "", "the daemon is not moved: a root group may have processes");
}

#[test]
fn the_daemon_leaves_a_delegated_group_before_controllers_are_enabled_in_it() {
    let fake = Fake::new("delegated");
    let unit = "system.slice/b.service";
    // No group can be made at the top.
    fake.put("bootagent", "a file in the way");
    fake.put(&format!("{unit}/cgroup.events"), "populated 1\n").put(&format!("{unit}/cgroup.controllers"), "cpu\n");
    fake.put(&format!("{unit}/cgroup.subtree_control"), "\n").put(&format!("{unit}/daemon/cgroup.procs"), "");
    fake.put(&format!("{unit}/bootagent/cgroup.procs"), "");
    let mut group = Group::open(&fake.hierarchy(unit), "bootagent", None).unwrap();
    assert_eq!(group.dir(), fake.0.join(unit).join("bootagent"));
    let _ = group.enable("cpu");
    assert_eq!(fake.get(&format!("{unit}/daemon/cgroup.procs")), "0");
    assert_eq!(fake.get(&format!("{unit}/cgroup.subtree_control")), "+cpu");
    // The next daemon starts in that group, and uses the same group for its agents.
    let next = Group::open(&fake.hierarchy(&format!("{unit}/daemon")), "bootagent", None).unwrap();
    assert_eq!(next.dir(), group.dir());
}

#[test]
fn a_daemon_started_by_an_agent_leaves_its_group() {
    let fake = Fake::new("inside");
    fake.put("cgroup.procs", "").put("bootagent/cgroup.procs", "").put("bootagent/web/cgroup.procs", "1\n");
    Group::open(&fake.hierarchy("bootagent/web"), "bootagent", None).unwrap();
    assert_eq!(fake.get("cgroup.procs"), "0");
    let error = Group::open(&fake.hierarchy(""), "bootagent", Some("/a/../b")).unwrap_err().to_string();
    assert!(error.contains("leaves the hierarchy"), "{error}");
    fake.put("own/agents/cgroup.procs", "");
    let group = Group::open(&fake.hierarchy(""), "bootagent", Some("/own/agents/")).unwrap();
    assert_eq!(group.dir(), fake.0.join("own/agents"));
}

#[test]
fn limits_of_a_leaf_are_written_and_read_back() {
    let fake = Fake::new("leaf");
    for file in ["cgroup.procs", "memory.max", "memory.swap.max", "memory.oom.group", "cpu.max"] {
        fake.put(&format!("b/web/{file}"), "");
    }
    fake.put("b/cgroup.procs", "");
    let group = Group::open(&fake.hierarchy(""), "b", None).unwrap();
    let leaf = group.leaf(&"web".into()).unwrap();
    assert!(!leaf.is_new() && group.leaf(&"fresh".into()).unwrap().is_new(), "what is there may have limits already");
    leaf.set(Controller::Memory, Some(20 << 20)).unwrap();
    leaf.set(Controller::Cpu, Some(1000)).unwrap();
    assert_eq!(fake.get("b/web/memory.max"), "20971520");
    assert_eq!((fake.get("b/web/memory.swap.max"), fake.get("b/web/memory.oom.group")), ("0".into(), "1".into()));
    assert_eq!(fake.get("b/web/cpu.max"), "10000 100000");
    // A plain file is not truncated by the next write, so begin with empty ones.
    fake.put("b/web/memory.max", "").put("b/web/memory.swap.max", "").put("b/web/cpu.max", "");
    leaf.set(Controller::Memory, None).unwrap();
    leaf.set(Controller::Cpu, None).unwrap();
    assert_eq!((fake.get("b/web/memory.max"), fake.get("b/web/memory.swap.max")), ("max".into(), "max".into()));
    assert_eq!(fake.get("b/web/cpu.max"), "max");
    fs::remove_file(fake.0.join("b/web/memory.max")).unwrap();
    let error = leaf.set(Controller::Memory, Some(1)).unwrap_err();
    assert!(error.missing() && error.to_string().ends_with("b/web/memory.max\": No such file or directory"), "{error}");
}

#[test]
fn a_leaf_reports_what_the_kernel_counts() {
    let fake = Fake::new("says");
    let own = std::process::id();
    fake.put("b/cgroup.procs", "").put("b/web/cgroup.procs", "0\n1\n12\n13\n").put("b/web/sub/cgroup.procs", "14\n");
    fake.put("b/web/cgroup.events", "populated 0\nfrozen 0\n");
    fake.put("b/web/memory.events", "low 0\noom 3\noom_kill 2\noom_group_kill 1\n")
        .put("b/web/memory.stat", "anon 3000\nfile 99999\nshmem 1000\n")
        .put("b/web/memory.swap.current", "96\n");
    fake.put("b/web/cpu.stat", "usage_usec 1500\nuser_usec 1000\n");
    let leaf = Group::open(&fake.hierarchy(""), "b", None).unwrap().find(&"web".into());
    let pids: Vec<i32> = leaf.members().unwrap().iter().map(|pid| pid.raw()).collect();
    assert_eq!(pids, [12, 13, 14]);
    assert!(!leaf.populated(), "the file of events decides");
    assert_eq!(leaf.oom_count(), Some(OomCount::Kills(2)));
    assert_eq!((leaf.memory(), leaf.cpu(), leaf.memory_peak()), (Some(4096), Some(1500), None));
    assert!(!leaf.kill(), "no cgroup.kill before 5.14");
    fake.put("b/web/cgroup.kill", "").put("b/web/sub/cgroup.procs", &format!("{own}\n"));
    assert!(!leaf.kill(), "the daemon itself is in it");
    assert_eq!(fake.get("b/web/cgroup.kill"), "");
    fake.put("b/web/sub/cgroup.procs", "");
    assert!(leaf.kill());
    assert_eq!(fake.get("b/web/cgroup.kill"), "1");
    let gone = Group::open(&fake.hierarchy(""), "b", None).unwrap().find(&"gone".into());
    assert!(gone.members().unwrap().is_empty() && !gone.populated() && gone.remove());
    assert!(!leaf.remove(), "a directory with files is not a control group: nothing is deleted");
    fs::create_dir_all(fake.0.join("b/nested/one/two")).unwrap();
    let nested = Group::open(&fake.hierarchy(""), "b", None).unwrap().find(&"nested".into());
    assert!(nested.remove() && !nested.dir().exists(), "the groups that its processes made are removed too");
}

#[test]
fn v1_counts_limit_hits_where_it_does_not_count_kills() {
    let fake = Fake::new("v1");
    fake.put("b/cgroup.procs", "").put("b/web/memory.failcnt", "7\n");
    fake.put("b/web/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\n");
    let hierarchy = Hierarchy { version: Version::V1, ..fake.hierarchy("") };
    let leaf = Group::open(&hierarchy, "b", None).unwrap().find(&"web".into());
    assert_eq!(leaf.oom_count(), Some(OomCount::Hits(7)));
    fake.put("b/web/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 4\n");
    assert_eq!(leaf.oom_count(), Some(OomCount::Kills(4)));
}
