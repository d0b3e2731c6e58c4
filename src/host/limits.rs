//! The control groups that limit an agent and identify its processes: for each limit the best that the host offers.
//!
//! Every agent gets a group in one writable hierarchy, with or without controllers. Memory and CPU are limited by cgroup
//! v2, else by v1, else by polling. `apply` sets the limits and reads them back at each start, `attach` finds what an
//! earlier daemon set. What is not possible comes back as notes for the log, each of them once. Nothing here polls.

mod agent_groups;
mod removal;
mod usage;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::Error;
use crate::host::cgroup::{self, Controller, Group, Hierarchy, Leaf};
use crate::kernel::{Pid, Process};
use crate::model::enforcement::{Enforcement, Version, TRACKING};
use crate::model::spec::{self, Name};
use crate::sorted_map::SortedMap;
use crate::sys::file::read_text;
use agent_groups::AgentGroups;
pub use usage::Usage;

/// How many different notes are remembered as logged. On a host with more of them some are logged again.
const MAX_LOGGED: usize = 256;

/// In less time than this a helper that has frozen a group thaws it (`work::rotate::FROZEN_MAX`).
const HELPER_THAWS: Duration = Duration::from_millis(100);

/// The limits of all agents.
#[derive(Debug)]
pub struct Limits {
    hierarchies: Vec<MountedHierarchy>,
    /// The index of the hierarchy whose groups identify the processes of agents.
    tracking: Option<usize>,
    name: String,
    parent: Option<Box<str>>,
    agents: SortedMap<Name, Box<AgentGroups>>,
    /// Groups that still had processes when their agent was released.
    leftover: Vec<Leaf>,
    logged: Vec<Box<str>>,
    notes: Vec<String>,
}

/// One hierarchy; our group in it is made when the first agent needs it.
#[derive(Debug)]
struct MountedHierarchy {
    hierarchy: Hierarchy,
    /// Our group in it, or why there can be none; `None` before it was tried.
    group: Option<Result<Group, Error>>,
}

/// What was done about the limits of an agent, and the ways into its groups, as `apply` and `attach` return it.
#[derive(Debug, Default)]
pub struct Applied {
    /// Files the child writes `0` to, one for each hierarchy of v1, before its program runs.
    pub cgroups: Vec<OwnedFd>,
    /// The open directory of its v2 group, in which the child can be created.
    pub cgroup: Option<OwnedFd>,
    /// What enforces the limits.
    pub enforcement: Enforcement,
    /// Lines for the log; each text comes only once.
    pub notes: Vec<String>,
}

impl Limits {
    /// Finds the hierarchies of this host. `parent` is the configuration's `cgroup`, the path of the group that all agents'
    /// groups are in. Notes about the host come with the first agent.
    pub fn detect(state_dir: &str, parent: Option<&str>) -> Limits {
        let read = |path| read_text(Path::new(path)).unwrap_or_default();
        let hierarchies = cgroup::hierarchies(&read("/proc/self/mountinfo"), &read("/proc/self/cgroup"));
        Limits::over(hierarchies, state_dir, parent)
    }

    /// Moves this process out of the groups of agents, where one that was started from below an agent is.
    pub fn leave_agents(&mut self) {
        for index in 0..self.hierarchies.len() {
            let own = &self.hierarchies[index].hierarchy.own;
            if own.ancestors().any(|dir| dir.ends_with(self.own_name())) {
                // Opening our group is what leaves it.
                let _ = self.group(index);
            }
        }
    }

    /// The path of our group below the top of a hierarchy, or below our own group.
    fn own_name(&self) -> &str {
        self.parent.as_deref().unwrap_or(&self.name).trim_matches('/')
    }

    /// The same with these hierarchies.
    pub fn over(hierarchies: Vec<Hierarchy>, state_dir: &str, parent: Option<&str>) -> Limits {
        let mounted = hierarchies.into_iter().map(|hierarchy| MountedHierarchy { hierarchy, group: None }).collect();
        let mut limits = Limits {
            hierarchies: mounted,
            tracking: None,
            name: cgroup::group_name(state_dir),
            parent: parent.map(Box::from),
            agents: SortedMap::new(),
            leftover: Vec::new(),
            logged: Vec::new(),
            notes: Vec::new(),
        };
        limits.tracking = limits.choose_tracking();
        if limits.tracking.is_none() {
            limits.note(limits.describe());
        }
        limits
    }

    /// How agents are told apart, in a sentence for the log.
    pub fn describe(&self) -> String {
        if let Some(group) = self.own_group() {
            return format!("agents are told apart by {} \"{}\"", group.version().name(), group.dir().display());
        }
        // One reason is enough: without permission it is the same for all hierarchies.
        let reason = self.hierarchies.iter().find_map(|mounted| Some(&**mounted.group.as_ref()?.as_ref().err()?));
        format!("agents are told apart by descent: {}", reason.unwrap_or("no control group hierarchy is mounted"))
    }

    /// Our group in the hierarchy that identifies the processes of agents.
    fn own_group(&self) -> Option<&Group> {
        self.hierarchies[self.tracking?].group.as_ref()?.as_ref().ok()
    }

    fn choose_tracking(&mut self) -> Option<usize> {
        TRACKING.into_iter().find_map(|(version, controller)| {
            let index = self.find_hierarchy(version, controller)?;
            self.group(index).is_ok().then_some(index)
        })
    }

    /// The index of the hierarchy with this interface that may have this controller.
    fn find_hierarchy(&self, version: Version, controller: &str) -> Option<usize> {
        let is_it = |hierarchy: &Hierarchy| hierarchy.version == version && hierarchy.may_have(controller);
        self.hierarchies.iter().position(|mounted| is_it(&mounted.hierarchy))
    }

    /// Our group in a hierarchy, made where it does not exist; or why there can be none, which is tried only once.
    fn group(&mut self, index: usize) -> Result<&mut Group, Error> {
        let MountedHierarchy { hierarchy, group } = &mut self.hierarchies[index];
        let made = group
            .get_or_insert_with(|| Group::open(hierarchy, &self.name, self.parent.as_deref()).map_err(Error::from));
        made.as_mut().map_err(|why| why.clone())
    }

    fn note(&mut self, note: String) {
        if self.logged.iter().any(|logged| **logged == *note) {
            return;
        }
        if self.logged.len() == MAX_LOGGED {
            self.logged.remove(0);
        }
        self.logged.push(note.as_str().into());
        self.notes.push(note);
    }

    /// Sets the limits of an agent that is about to be started, and reads them back. `oom_killed` counts from here on.
    pub fn apply(&mut self, name: &Name, limits: &spec::Limits) -> Applied {
        self.remove_leftover();
        let unlimited = by_controller(limits).iter().all(|(_, limit)| limit.is_none());
        // An agent that is started again has its group already, unless it was removed from outside.
        let last = self.agents.get(name).filter(|last| last.unlimited && unlimited && !last.killed.get());
        let kept = last
            .and_then(|last| last.tracking.as_ref())
            .filter(|leaf| self.own_group().is_some_and(|group| group.dir() == leaf.group()))
            .and_then(|leaf| Some((leaf.directory()?, leaf.clone())));
        if let Some((directory, leaf)) = kept {
            let groups = AgentGroups { tracking: Some(leaf), unlimited: true, ..AgentGroups::default() };
            return self.finish(name, limits, groups, Applied { cgroup: Some(directory), ..Applied::default() });
        }
        // Some kernels (seen with 6.18) kill what is made in a group to which cgroup.kill was written before, so an empty group
        // is made anew.
        if let Some(group) = self.own_group() {
            group.find(name).remove();
        }
        let mut groups = AgentGroups { memory_limit: limits.memory, ..AgentGroups::default() };
        groups.tracking = self.tracking.and_then(|index| self.leaf(index, name));
        for (controller, limit) in by_controller(limits) {
            let leaf = limit.and_then(|limit| self.set_limit(name, controller, limit));
            groups.limited[controller as usize] = leaf.map(Box::new);
        }
        groups.baseline = groups.memory().and_then(Leaf::oom_count);
        groups.unlimited = self.remove_old_limits(name, &groups, limits) && unlimited;
        let (cgroup, cgroups, errors) = groups.entrances();
        for error in errors {
            self.note(format!("agent \"{name}\": {error}"));
        }
        self.finish(name, limits, groups, Applied { cgroup, cgroups, ..Applied::default() })
    }

    /// Takes over an agent that an earlier daemon started: the limits that are set in its groups stay as they are. A limit
    /// under which none of these processes of the agent is, its main process first of all, is polled from now on.
    pub fn attach(&mut self, name: &Name, limits: &spec::Limits, processes: &[Process]) -> Applied {
        let mut groups = AgentGroups { memory_limit: limits.memory, ..AgentGroups::default() };
        for index in 0..self.hierarchies.len() {
            let hierarchy = &self.hierarchies[index].hierarchy;
            let mut possible = by_controller(limits).to_vec();
            possible.retain(|(controller, limit)| limit.is_some() && hierarchy.may_have(controller.name()));
            if self.tracking != Some(index) && possible.is_empty() {
                continue;
            }
            // The group of an agent that runs already is not made.
            let Ok(group) = self.group(index) else { continue };
            let is_theirs = |leaf: &Leaf| {
                leaf.members().is_some_and(|pids| processes.iter().any(|process| pids.contains(&process.pid)))
            };
            let own = Some(group.find(name)).filter(is_theirs);
            let Some(leaf) = own.or_else(|| group.find_elsewhere(name, &is_theirs)) else { continue };
            for (controller, limit) in possible {
                let limited = &mut groups.limited[controller as usize];
                if limited.is_none() && limit.is_some_and(|limit| leaf.has(controller, limit)) {
                    *limited = Some(Box::new(leaf.clone()));
                }
            }
            if self.tracking == Some(index) {
                groups.tracking = Some(leaf);
            }
        }
        groups.baseline = groups.memory().and_then(Leaf::oom_count);
        self.finish(name, limits, groups, Applied::default())
    }

    fn finish(&mut self, name: &Name, limits: &spec::Limits, mut groups: AgentGroups, mut applied: Applied) -> Applied {
        groups.alarm = match groups.memory().map(Leaf::memory_alarm) {
            Some(Ok(alarm)) => alarm,
            // Without the alarm the end of the main process shows it.
            Some(Err(error)) => {
                self.note(format!("agent \"{name}\": {error}"));
                None
            }
            None => None,
        };
        applied.enforcement = groups.held().enforcement(limits);
        groups.held().notes(limits).for_each(|note| self.note(note.into()));
        // Groups of its last run that this run does not use, where they were not released in between.
        if let Some(old) = self.agents.remove(name) {
            for leaf in old.leaves() {
                if !groups.leaves().contains(&leaf) {
                    self.leftover.push(leaf.clone());
                }
            }
        }
        self.agents.insert(name.clone(), Box::new(groups));
        applied.notes = std::mem::take(&mut self.notes);
        applied
    }

    /// The ways into the groups of an agent that runs, as in `Applied`.
    pub fn entrances(&self, name: &str) -> (Option<OwnedFd>, Vec<OwnedFd>) {
        let (cgroup, cgroups, _) = self.agents.get(name).map(|groups| groups.entrances()).unwrap_or_default();
        (cgroup, cgroups)
    }

    /// Sets a limit by v2 or else by v1, and returns the leaf that has it.
    fn set_limit(&mut self, name: &Name, controller: Controller, limit: u64) -> Option<Leaf> {
        let of = controller.name();
        for version in Version::PREFERRED {
            let Some(index) = self.find_hierarchy(version, of) else { continue };
            let enabled = self.group(index).and_then(|group| group.enable(of).map_err(Error::from));
            if let Err(error) = enabled {
                self.note(format!("no {of} limits by {}: {error}", version.name()));
                continue;
            }
            let Some(leaf) = self.leaf(index, name) else { continue };
            match leaf.set(controller, Some(limit)) {
                Ok(()) => return Some(leaf),
                Err(error) => self.note(format!("agent \"{name}\": cannot set the {of} limit: {error}")),
            }
        }
        None
    }

    fn leaf(&mut self, index: usize, name: &Name) -> Option<Leaf> {
        match self.group(index).ok()?.leaf(name) {
            Ok(leaf) => Some(leaf),
            Err(error) => {
                self.note(format!("agent \"{name}\": {error}"));
                None
            }
        }
    }

    /// Lifts the limits of an earlier definition that this one does not have, as the group may be that of the last start.
    /// False when a limit could not be lifted.
    fn remove_old_limits(&mut self, name: &str, groups: &AgentGroups, limits: &spec::Limits) -> bool {
        let mut notes = Vec::new();
        for leaf in groups.leaves().into_iter().filter(|leaf| !leaf.is_new()) {
            let lifted = by_controller(limits).into_iter().filter(|(_, limit)| limit.is_none());
            notes.extend(lifted.filter_map(|(controller, _)| leaf.set(controller, None).err()));
        }
        notes.retain(|error| !error.missing());
        for error in &notes {
            self.note(format!("agent \"{name}\": cannot lift the old limit: {error}"));
        }
        notes.is_empty()
    }

    /// The group that identifies the processes of an agent.
    fn tracking(&self, name: &str) -> Option<&Leaf> {
        self.agents.get(name)?.tracking.as_ref()
    }

    /// The processes in an agent's group; `None` where it has none, or it cannot be read.
    pub fn members(&self, name: &str) -> Option<Vec<Pid>> {
        self.tracking(name)?.members()
    }

    /// Whether an agent's group has processes, from one small file; `None` where the agent has no group.
    pub fn populated(&self, name: &str) -> Option<bool> {
        self.tracking(name).map(Leaf::populated)
    }

    /// Has the kernel kill all processes in an agent's group in one step; false where the kernel or the hierarchy cannot.
    pub fn kill(&self, name: &str) -> bool {
        let Some(groups) = self.agents.get(name) else { return false };
        let is_killed = groups.tracking.as_ref().is_some_and(Leaf::kill);
        groups.killed.set(groups.killed.get() || is_killed);
        is_killed
    }

    /// Freezes or thaws an agent's whole group; false where its hierarchy cannot do that.
    pub fn freeze(&self, name: &str, frozen: bool) -> bool {
        self.tracking(name).is_some_and(|leaf| leaf.freeze(frozen))
    }

    /// Thaws the groups of agents that an earlier daemon and its helper have left frozen. A helper that lives on thaws what it
    /// has frozen in less time than this waits, and loses no line. Only for the start: it may take that long.
    pub fn thaw(&self) {
        let Some(group) = self.own_group() else { return };
        let leaves = group.leaves().into_iter().map(|name| group.find(&name));
        let frozen: Vec<_> = leaves.filter(Leaf::is_frozen).collect();
        if frozen.is_empty() {
            return;
        }
        std::thread::sleep(HELPER_THAWS);
        for leaf in frozen {
            // It fails where the group has gone meanwhile.
            leaf.freeze(false);
        }
    }

    /// The file by which an agent's group is frozen, where its hierarchy can do that.
    pub fn freezer(&self, name: &str) -> Option<PathBuf> {
        self.tracking(name).map(Leaf::freezer).filter(|file| file.exists())
    }

    /// The agents of an earlier daemon that still have processes in their groups and have not been attached.
    pub fn leftovers(&self) -> Vec<(Name, Vec<Pid>)> {
        let mut leftovers = Vec::new();
        let Some(group) = self.own_group() else { return leftovers };
        for name in group.leaves() {
            if self.agents.contains_key(&*name) || !spec::is_name(&name) {
                continue;
            }
            let pids = group.find(&name).members().unwrap_or_default();
            if !pids.is_empty() {
                leftovers.push((name, pids));
            }
        }
        leftovers
    }
}

/// The limits of a definition that control groups can hold.
fn by_controller(limits: &spec::Limits) -> [(Controller, Option<u64>); 3] {
    [
        (Controller::Memory, limits.memory),
        (Controller::Cpu, limits.cpu.map(u64::from)),
        (Controller::Tasks, limits.tasks),
    ]
}

#[cfg(test)]
mod tests;
