//! Which processes the kernel kills first when memory runs out: the values of `oom_score_adj`, from -1000 (never) to 1000
//! (first).

/// The daemon's: other processes are killed first.
pub const DAEMON: i32 = -900;

/// That of tools, helpers, and agents whose definition says nothing else. It is set for each, as a child would have the
/// daemon's.
pub const USUAL: i32 = 0;
