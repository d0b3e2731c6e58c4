//! What the daemon does to the host, each when an action says so.

pub mod files;
pub mod spawn;
pub mod helper;
pub mod proc;
pub mod cgroup;
pub mod limits;
pub mod tree;
pub mod disk;
pub mod store;
pub mod logs;
