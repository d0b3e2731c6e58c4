//! What the daemon does to the host, each when an action says so.

pub mod config_files;
pub mod spawn;
pub mod proc;
pub mod image;
pub mod identity;
pub mod helper;
pub mod cgroup;
pub mod limits;
pub mod tree;
pub mod disk;
pub mod store;
pub mod logs;
