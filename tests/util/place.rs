//! Directories below /run for tests.

use super::*;

/// A directory below /run that no other test has, and that is gone in the end.
pub struct Place(pub String);

impl Place {
    /// One whose name has `what` in it.
    pub fn new(what: &str) -> Place {
        Place(format!("bootagent-test-{}-{what}", std::process::id()))
    }

    /// Its path.
    pub fn path(&self) -> PathBuf {
        Path::new("/run").join(&self.0)
    }

    /// The value of `runtime_directory` for it.
    pub fn key(&self) -> String {
        format!("[\"{}\"]", self.0)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(self.path()).or_else(|_| fs::remove_file(self.path()));
    }
}
