//! The steps of making a child, to say which one failed.

use std::fmt;

/// The step of making a child that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Stage {
    /// fork(2).
    Fork,
    /// setsid(2).
    Session,
    /// Entering its control group.
    Cgroup,
    /// Opening and moving file descriptors.
    Files,
    /// setrlimit(2); `SetupError::limit` says which one.
    Limits,
    /// The out-of-memory score.
    Priority,
    /// setgroups(2).
    Groups,
    /// setgid(2).
    Gid,
    /// setuid(2).
    Uid,
    /// prctl(2): no new privileges, capabilities, parent death signal.
    Privileges,
    /// chdir(2).
    Directory,
    /// Default signal actions and mask.
    Signals,
    /// execve(2).
    Exec,
    /// setpriority(2).
    Nice,
    /// Reading its environment variables.
    Environment,
    /// capset(2), and raising ambient capabilities.
    Ambient,
}

/// Every stage, in the order of their numbers, with what it does.
const STAGES: [(Stage, &str); 16] = [
    (Stage::Fork, "making a process"),
    (Stage::Session, "starting a session"),
    (Stage::Cgroup, "entering the control group"),
    (Stage::Files, "arranging file descriptors"),
    (Stage::Limits, "setting resource limits"),
    (Stage::Priority, "setting the out-of-memory score"),
    (Stage::Groups, "setting supplementary groups"),
    (Stage::Gid, "setting the group"),
    (Stage::Uid, "setting the user"),
    (Stage::Privileges, "dropping privileges"),
    (Stage::Directory, "entering the working directory"),
    (Stage::Signals, "resetting signals"),
    (Stage::Exec, "executing the program"),
    (Stage::Nice, "setting the priority"),
    (Stage::Environment, "reading the environment"),
    (Stage::Ambient, "giving it capabilities"),
];

impl Stage {
    /// The stage with this number, as a child writes it to its parent.
    pub fn from_raw(raw: u8) -> Option<Stage> {
        STAGES.get(usize::from(raw)).map(|(stage, _)| *stage)
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(STAGES[*self as usize].1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stage_survives_the_pipe() {
        let mut raw = 0;
        while let Some(stage) = Stage::from_raw(raw) {
            assert_eq!(stage as u8, raw);
            raw += 1;
        }
        assert_eq!(Stage::from_raw(raw - 1), Some(Stage::Ambient));
    }
}
