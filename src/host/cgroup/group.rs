//! Our group in one hierarchy, below which each agent has a group.
//!
//! A hierarchy goes in, groups of agents (`Leaf`) come out, with the controllers they need enabled. Processes are never put
//! into this group itself.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::{directories, failed, make_dir, open_for_writing, read_file, write_file, Hierarchy, Leaf, Version, PREFIX};
use crate::host::disk::DiskError;
use crate::model::spec::Name;

/// The group in one hierarchy that the groups of all agents are in.
#[derive(Debug)]
pub struct Group {
    version: Version,
    /// The topmost group in which controllers are enabled.
    base: PathBuf,
    dir: Rc<Path>,
    own: PathBuf,
}

impl Group {
    /// Opens our group `name`, or the one at the path `parent` of the configuration, and makes it where it does not exist.
    /// It is tried at the top of the hierarchy first, where a service manager that cleans up does not reach the agents,
    /// then below the group we are in, where we may make groups when it was delegated to us.
    ///
    /// # Errors
    /// When the group can be used in neither place; the error is that of the first.
    pub fn open(hierarchy: &Hierarchy, name: &str, parent: Option<&str>) -> Result<Group, Box<DiskError>> {
        let mut bases = vec![hierarchy.mount.clone()];
        // A daemon that moved itself into its own group leaves the next daemon there, which must find the same place.
        let own = match hierarchy.own.file_name() {
            Some(last) if last == "daemon" && hierarchy.version == Version::V2 => hierarchy.own.parent(),
            _ => Some(hierarchy.own.as_path()),
        };
        bases.extend(own.filter(|own| parent.is_none() && *own != hierarchy.mount).map(PathBuf::from));
        let mut first_error = None;
        for base in bases {
            let group = Group {
                version: hierarchy.version,
                dir: base.join(parent.unwrap_or(name).trim_matches('/')).into(),
                base,
                own: hierarchy.own.clone(),
            };
            match group.make() {
                Ok(()) => return group.leave(),
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        Err(first_error.unwrap_or_else(|| failed("use", &hierarchy.mount, "no place for a group")))
    }

    fn make(&self) -> Result<(), Box<DiskError>> {
        let mut dir = self.base.clone();
        for part in self.dir.strip_prefix(&self.base).unwrap_or(Path::new("")) {
            if part == ".." {
                return Err(failed("make", &self.dir, "the path leaves the hierarchy"));
            }
            dir.push(part);
            make_dir(&dir)?;
        }
        open_for_writing(&self.dir.join("cgroup.procs")).map(drop)
    }

    /// Moves the daemon out of its group of agents. A daemon that an agent started begins there.
    fn leave(mut self) -> Result<Group, Box<DiskError>> {
        if self.own.starts_with(&self.dir) {
            self.vacate()?;
        }
        Ok(self)
    }

    /// The interface it has.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Makes sure that the groups below have `controller`, which is `memory`, `cpu` or `pids`. With v1 they have those of the
    /// hierarchy.
    ///
    /// # Errors
    /// When v2 has no such controller, or the kernel does not enable it.
    pub fn enable(&mut self, controller: &str) -> Result<(), Box<DiskError>> {
        if self.version == Version::V1 {
            return Ok(());
        }
        let below = self.dir.strip_prefix(&self.base).unwrap_or(Path::new("")).to_path_buf();
        let mut dir = self.base.clone();
        self.enable_in(&dir, controller)?;
        for part in &below {
            dir.push(part);
            self.enable_in(&dir, controller)?;
        }
        Ok(())
    }

    fn enable_in(&mut self, dir: &Path, controller: &str) -> Result<(), Box<DiskError>> {
        let control = dir.join("cgroup.subtree_control");
        let listed =
            |path: &Path| read_file(path).map(|text| text.split_ascii_whitespace().any(|name| name == controller));
        if listed(&control)? {
            return Ok(());
        }
        let available = dir.join("cgroup.controllers");
        if !listed(&available)? {
            return Err(failed("use", &available, &format!("\"{controller}\" is not among the controllers")));
        }
        // Only the root group may have both processes and controllers enabled; elsewhere the kernel says EBUSY.
        if dir == self.own && !self.is_root(dir) {
            self.vacate()?;
        }
        write_file(&control, &format!("+{controller}"))?;
        match listed(&control)? {
            true => Ok(()),
            false => Err(failed("write", &control, &format!("\"{controller}\" was not taken"))),
        }
    }

    /// Whether a group is the root of a whole hierarchy. Unlike the root of a namespace it has no such file.
    fn is_root(&self, dir: &Path) -> bool {
        !dir.join("cgroup.events").exists()
    }

    /// Moves the daemon to where it prevents nothing: to the root of a hierarchy, which may have processes, or else into a
    /// separate group below the one that was delegated to us.
    fn vacate(&mut self) -> Result<(), Box<DiskError>> {
        let mut place = self.base.clone();
        if self.version == Version::V2 && !self.is_root(&place) {
            place.push("daemon");
            make_dir(&place)?;
        }
        write_file(&place.join("cgroup.procs"), "0")?;
        self.own = place;
        Ok(())
    }

    /// The group of one agent, made where it does not exist.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn leaf(&self, name: &Name) -> Result<Leaf, Box<DiskError>> {
        let mut leaf = self.find(name);
        leaf.new = make_dir(&leaf.dir())?;
        Ok(leaf)
    }

    /// The group of one agent, whether it exists or not.
    pub fn find(&self, name: &Name) -> Leaf {
        Leaf { version: self.version, group: self.dir.clone(), name: name.clone(), new: false }
    }

    /// The group of an agent of which these processes run, in the group of an earlier daemon that named its own otherwise:
    /// version 1.0.0, or one whose `state_dir` was replaced since.
    pub fn find_elsewhere(&self, name: &Name, is_theirs: &dyn Fn(&Leaf) -> bool) -> Option<Leaf> {
        let is_daemons =
            |dir: &PathBuf| dir.file_name().is_some_and(|name| name.as_bytes().starts_with(PREFIX.as_bytes()));
        directories(&self.base).into_iter().filter(is_daemons).find_map(|dir| {
            let leaf = Leaf { version: self.version, group: dir.into(), name: name.clone(), new: false };
            is_theirs(&leaf).then_some(leaf)
        })
    }

    /// The names of all groups in it.
    pub fn leaves(&self) -> Vec<Name> {
        let mut names = Vec::new();
        for dir in directories(&self.dir) {
            names.extend(dir.file_name().and_then(|name| name.to_str()).map(Name::from));
        }
        names
    }

    /// Removes it if it is empty.
    pub fn close(&self) {
        let _ = fs::remove_dir(&self.dir);
    }
}
