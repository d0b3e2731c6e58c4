//! The effects of the daemon on the host, and what it reads from the host.
//!
//! An action of the state, a check or a command goes in, what came of it goes out. No decision of `model` is made here.

pub mod path_check;
pub mod runtime_directory;
pub mod config_files;
pub mod spawn;
pub mod proc;
pub mod image;
pub mod identity;
pub mod machine;
pub mod helper;
pub mod cgroup;
pub mod limits;
pub mod tree;
pub mod disk;
pub mod store;
pub mod logs;
