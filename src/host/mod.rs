//! What the daemon does to the host, each when an Action says so.

pub mod spawn;
pub mod proc;
pub mod cgroup;
pub mod limits;
pub mod tree;
