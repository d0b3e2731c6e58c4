//! Looks at the files that show whether somebody has changed the agents' packages: at the start, with each check, and when
//! the state asks. What follows from a look is for the state to decide.

use super::Daemon;
use crate::host::disk::last_change;
use crate::model::event::Event;
use crate::model::package::inventory::DATABASES;

impl Daemon {
    /// Looks when the databases of package managers were changed, and which directories of tars are there.
    pub(super) fn look_at_packages(&mut self) {
        let mut changes = 1_u64;
        let mut add = |change: i64| changes = changes.wrapping_mul(31).wrapping_add(change as u64);
        for path in DATABASES {
            add(last_change(path));
        }
        let mut tars = Vec::new();
        for agent in self.state.agents() {
            if let Some(dir) = self.state.current(agent.name()) {
                let is_there = self.records.store().packages_dir(agent.name()).join(&*dir).is_dir();
                add(is_there.into());
                tars.push((agent.name().clone(), is_there));
            }
        }
        self.queue.push_back(Event::PackagesSeen { changes, tars });
    }
}
