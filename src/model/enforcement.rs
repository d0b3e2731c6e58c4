//! What enforces the limits of an agent and tells agents apart, what is said of it, and when a process of an agent was killed
//! for want of memory.
//!
//! `host::limits` tries the control groups in the order given here, and reads what they count. `agent::watch` compares what
//! is polled with the limits.

use std::fmt;

use super::spec::Limits;
use crate::text::{exact_size, size};

/// The interface of a hierarchy of control groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// A separate hierarchy for each controller or set of controllers.
    V1,
    /// The unified hierarchy.
    V2,
}

impl Version {
    /// The interfaces in the order in which they are tried for a limit. Where neither holds it, see `Held::polled`.
    pub const PREFERRED: [Version; 2] = [Version::V2, Version::V1];

    /// Its name in `limits_by`.
    pub const fn name(self) -> &'static str {
        match self {
            Version::V1 => "cgroup1",
            Version::V2 => "cgroup2",
        }
    }
}

/// The hierarchies that can tell agents apart, the best first, each by its interface and, with v1, a controller: the freezer
/// can also stop a fork bomb, and those whose groups cost processor time or memory come last. Not cpuset, whose new groups
/// refuse processes.
pub const TRACKING: [(Version, &str); 9] = [
    (Version::V2, ""),
    (Version::V1, "freezer"),
    (Version::V1, "pids"),
    (Version::V1, "name=systemd"),
    (Version::V1, "devices"),
    (Version::V1, "cpuacct"),
    (Version::V1, "cpu"),
    (Version::V1, "memory"),
    (Version::V1, "blkio"),
];

/// The control groups that hold each limit of an agent, by their interface; `None` where there are none, or no such limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Processor time.
    pub cpu: Option<Version>,
    /// Memory.
    pub memory: Option<Version>,
    /// Processes and threads.
    pub tasks: Option<Version>,
}

/// Which limits the daemon enforces itself, by looking at the tree from time to time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Polled {
    /// The limit of processor time.
    pub cpu: bool,
    /// The limit of memory.
    pub memory: bool,
}

/// What enforces the limits of an agent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Enforcement {
    /// The value of `limits_by`, as `Held::describe` has it; `None` without limits.
    pub by: Option<Box<str>>,
    /// The limits that the daemon must enforce itself.
    pub polled: Polled,
}

impl Held {
    /// What enforces the limits of an agent.
    pub fn enforcement(self, limits: &Limits) -> Enforcement {
        Enforcement { by: self.describe(limits), polled: self.polled(limits) }
    }

    /// The limits that the daemon must enforce itself, as no control group does. It does not try that for tasks: a look from
    /// time to time would come too late.
    fn polled(self, limits: &Limits) -> Polled {
        Polled {
            cpu: limits.cpu.is_some() && self.cpu.is_none(),
            memory: limits.memory.is_some() && self.memory.is_none(),
        }
    }

    /// The value of `limits_by`: `cgroup2`, `cgroup1`, `polled` or, where they differ, `CPU=cgroup1 memory=polled`; a limit of
    /// tasks that nothing enforces is `not held`. `None` without these limits.
    fn describe(self, limits: &Limits) -> Option<Box<str>> {
        let by = |held: Option<Version>, without| held.map_or(without, Version::name);
        let all = [
            limits.cpu.map(|_| ("CPU", by(self.cpu, "polled"))),
            limits.memory.map(|_| ("memory", by(self.memory, "polled"))),
            limits.tasks.map(|_| ("tasks", by(self.tasks, "not held"))),
        ];
        let all: Vec<_> = all.into_iter().flatten().collect();
        let first = all.first()?.1;
        if first != "not held" && all.iter().all(|(_, by)| *by == first) {
            return Some(first.into());
        }
        let each: Vec<_> = all.iter().map(|(limit, by)| format!("{limit}={by}")).collect();
        Some(each.join(" ").into())
    }

    /// What the log says of limits that no control group holds.
    pub fn notes(self, limits: &Limits) -> impl Iterator<Item = &'static str> {
        let polled = self.polled(limits);
        let notes = [
            (limits.tasks.is_some() && self.tasks.is_none(), "limits of tasks are not held"),
            (polled.memory, "memory limits are polled"),
            (polled.cpu, "CPU limits are polled"),
        ];
        notes.into_iter().filter_map(|(applies, note)| applies.then_some(note))
    }
}

/// What the kernel has counted of an agent that was out of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OomCount {
    /// The processes it has killed.
    Kills(u64),
    /// How often the limit was hit, where it does not count the kills.
    Hits(u64),
}

impl OomCount {
    /// Whether a process was killed since `before`. A hit shows one only together with `sigkilled`, the end of the main process
    /// by SIGKILL.
    pub fn shows_kill(self, before: OomCount, sigkilled: bool) -> bool {
        let (OomCount::Kills(before) | OomCount::Hits(before)) = before;
        match self {
            OomCount::Kills(now) => now > before,
            OomCount::Hits(now) => sigkilled && now > before,
        }
    }
}

/// The kernel killed a process of an agent because the agent had reached its memory limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfMemory {
    /// The most memory it used, bytes; `None` where the kernel does not record it.
    pub peak: Option<u64>,
    /// Its limit, bytes.
    pub limit: u64,
}

impl fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("out of memory: ")?;
        if let Some(peak) = self.peak {
            write!(f, "{} used, ", size(peak as f64))?;
        }
        write!(f, "limit {}", exact_size(self.limit))
    }
}

#[cfg(test)]
mod tests {
    use super::Version::{V1, V2};
    use super::*;

    #[test]
    fn what_no_control_group_holds_is_polled_or_said_to_be_not_held() {
        let all = Limits { cpu: Some(1), memory: Some(1), tasks: Some(1), resources: Vec::new() };
        let only = |cpu, memory, tasks| Limits {
            cpu: all.cpu.filter(|_| cpu),
            memory: all.memory.filter(|_| memory),
            tasks: all.tasks.filter(|_| tasks),
            resources: Vec::new(),
        };
        let held = |cpu, memory, tasks| Held { cpu, memory, tasks };
        let (tasks, memory, cpu) =
            ("limits of tasks are not held", "memory limits are polled", "CPU limits are polled");
        for (limits, held, by, notes) in [
            (Limits::default(), held(None, None, None), None, vec![]),
            (only(true, true, true), held(Some(V2), Some(V2), Some(V2)), Some("cgroup2"), vec![]),
            (only(true, true, false), held(Some(V1), Some(V1), None), Some("cgroup1"), vec![]),
            (only(true, true, false), held(None, None, None), Some("polled"), vec![memory, cpu]),
            (only(true, true, false), held(Some(V1), None, None), Some("CPU=cgroup1 memory=polled"), vec![memory]),
            (only(true, true, false), held(Some(V2), Some(V1), None), Some("CPU=cgroup2 memory=cgroup1"), vec![]),
            (only(true, false, false), held(None, None, None), Some("polled"), vec![cpu]),
            (only(false, true, false), held(Some(V1), Some(V2), None), Some("cgroup2"), vec![]),
            (only(false, false, true), held(None, None, None), Some("tasks=not held"), vec![tasks]),
            (only(false, false, true), held(None, None, Some(V1)), Some("cgroup1"), vec![]),
            (
                only(true, true, true),
                held(None, None, None),
                Some("CPU=polled memory=polled tasks=not held"),
                vec![tasks, memory, cpu],
            ),
        ] {
            assert_eq!(held.describe(&limits).as_deref(), by, "{limits} {held:?}");
            assert_eq!(held.notes(&limits).collect::<Vec<_>>(), notes, "{limits} {held:?}");
            let polled = Polled { cpu: notes.contains(&cpu), memory: notes.contains(&memory) };
            assert_eq!(held.polled(&limits), polled, "{limits} {held:?}");
        }
    }

    #[test]
    fn a_hit_of_the_limit_is_a_kill_only_with_an_end_by_sigkill() {
        use OomCount::{Hits, Kills};
        for (before, now, sigkilled, want) in [
            (Kills(2), Kills(2), true, false),
            (Kills(2), Kills(3), false, true),
            (Kills(2), Kills(3), true, true),
            (Kills(2), Kills(0), true, false),
            (Hits(7), Hits(7), true, false),
            (Hits(7), Hits(8), false, false),
            (Hits(7), Hits(8), true, true),
        ] {
            assert_eq!(now.shows_kill(before, sigkilled), want, "{before:?} {now:?} {sigkilled}");
        }
    }

    #[test]
    fn the_end_says_how_much_was_used_and_allowed() {
        let end = |peak| OutOfMemory { peak, limit: 20 << 20 }.to_string();
        assert_eq!(end(Some(4096)), "out of memory: 4.0K used, limit 20M");
        assert_eq!(end(None), "out of memory: limit 20M");
    }
}
