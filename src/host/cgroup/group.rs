//! Our group in one hierarchy, with an agent's group each below it.

use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::{directories, make_dir, open_for_writing, read_file, write_file, CgroupError, Hierarchy, Leaf, Version};
use crate::model::spec::Name;

/// The group all of an agent's groups are in, in one hierarchy.
#[derive(Debug)]
pub struct Group {
    version: Version,
    /// Controllers are enabled from here on down.
    base: PathBuf,
    dir: Rc<Path>,
    own: PathBuf,
    controllers: Vec<Box<str>>,
}

impl Group {
    /// Makes our group `name`, or the one at the path `parent` where the configuration says so, or finds it made. It is
    /// tried at the top of the hierarchy first, where no service manager's cleaning up reaches the agents, then below
    /// the group we are in, which is ours where it was delegated to us.
    pub fn open(hierarchy: &Hierarchy, name: &str, parent: Option<&str>) -> Result<Group, Box<CgroupError>> {
        let mut bases = vec![hierarchy.mount.clone()];
        // A daemon that has moved itself into a group of its own is found again there by its successor.
        let own = match hierarchy.own.file_name() {
            Some(last) if last == "daemon" && hierarchy.version == Version::V2 => hierarchy.own.parent(),
            _ => Some(hierarchy.own.as_path()),
        };
        bases.extend(own.filter(|own| parent.is_none() && *own != hierarchy.mount).map(PathBuf::from));
        let mut first = None;
        for base in bases {
            let group = Group {
                version: hierarchy.version,
                dir: base.join(parent.unwrap_or(name).trim_matches('/')).into(),
                base,
                own: hierarchy.own.clone(),
                controllers: hierarchy.controllers.clone(),
            };
            match group.make() {
                Ok(()) => return group.leave(),
                Err(error) => first = first.or(Some(error)),
            }
        }
        Err(first.unwrap_or_else(|| CgroupError::text("use", &hierarchy.mount, "no place for a group")))
    }

    fn make(&self) -> Result<(), Box<CgroupError>> {
        let mut dir = self.base.clone();
        for part in self.dir.strip_prefix(&self.base).unwrap_or(Path::new("")) {
            if part == ".." {
                return Err(CgroupError::text("make", &self.dir, "the path leaves the hierarchy"));
            }
            dir.push(part);
            make_dir(&dir)?;
        }
        open_for_writing(&self.dir.join("cgroup.procs")).map(drop)
    }

    /// Takes us out of our own group of agents, where a daemon started by an agent finds itself.
    fn leave(mut self) -> Result<Group, Box<CgroupError>> {
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

    /// Makes sure that groups below have `controller`: `memory` or `cpu`.
    pub fn enable(&mut self, controller: &str) -> Result<(), Box<CgroupError>> {
        if self.version == Version::V1 {
            return match self.controllers.iter().any(|known| **known == *controller) {
                true => Ok(()),
                false => Err(CgroupError::text("use", &self.dir, "the hierarchy is without the controller")),
            };
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

    fn enable_in(&mut self, dir: &Path, controller: &str) -> Result<(), Box<CgroupError>> {
        let control = dir.join("cgroup.subtree_control");
        let listed =
            |path: &Path| read_file(path).map(|text| text.split_ascii_whitespace().any(|name| name == controller));
        if listed(&control)? {
            return Ok(());
        }
        let available = dir.join("cgroup.controllers");
        if !listed(&available)? {
            return Err(CgroupError::text(
                "use",
                &available,
                &format!("\"{controller}\" is not among the controllers"),
            ));
        }
        // Only the root group may hold processes and hand out controllers; any other is refused with EBUSY.
        if dir == self.own && !self.is_root(dir) {
            self.vacate()?;
        }
        write_file(&control, &format!("+{controller}"))?;
        match listed(&control)? {
            true => Ok(()),
            false => Err(CgroupError::text("write", &control, &format!("\"{controller}\" was not taken"))),
        }
    }

    /// The root of a whole hierarchy, as opposed to that of a namespace, is without this file.
    fn is_root(&self, dir: &Path) -> bool {
        !dir.join("cgroup.events").exists()
    }

    /// Moves us to where we are in nobody's way: the root of a hierarchy may hold processes, below a group that was
    /// delegated to us it takes one of our own.
    fn vacate(&mut self) -> Result<(), Box<CgroupError>> {
        let mut place = self.base.clone();
        if self.version == Version::V2 && !self.is_root(&place) {
            place.push("daemon");
            make_dir(&place)?;
        }
        write_file(&place.join("cgroup.procs"), "0")?;
        self.own = place;
        Ok(())
    }

    /// The group of one agent, made if need be.
    pub fn leaf(&self, name: &Name) -> Result<Leaf, Box<CgroupError>> {
        let mut leaf = self.find(name);
        leaf.new = make_dir(&leaf.dir())?;
        Ok(leaf)
    }

    /// The group of one agent, whether it is there or not.
    pub fn find(&self, name: &Name) -> Leaf {
        Leaf { version: self.version, group: self.dir.clone(), name: name.clone(), new: false }
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
