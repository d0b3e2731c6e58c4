//! Packages that come in: streamed to a temporary file, hashed, and kept under their digest.

use super::clock;
use super::door::PATIENCE;
use super::Shared;
use http_body_util::BodyExt;
use hyper::body::{Bytes, Incoming};
use sha2::{Digest, Sha256};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use tokio::io::AsyncWriteExt;

/// A package that is being written; dropped, it is gone.
pub struct Upload {
    file: tokio::fs::File,
    temporary: PathBuf,
    packages: PathBuf,
    hash: Sha256,
    size: i64,
}

impl Upload {
    /// Begins one.
    ///
    /// # Errors
    /// What went wrong, with the path.
    pub async fn begin(shared: &Shared) -> Result<Upload, String> {
        let packages = shared.dir.join("packages");
        let temporary = packages.join(format!("upload-{}.tmp", clock::random_id()));
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        let file = tokio::fs::OpenOptions::from(options).open(&temporary).await;
        let file = file.map_err(|error| format!("cannot write {}: {error}", temporary.display()))?;
        Ok(Upload { file, temporary, packages, hash: Sha256::new(), size: 0 })
    }

    fn said(&self, error: &std::io::Error) -> String {
        format!("cannot write {}: {error}", self.temporary.display())
    }

    /// Writes some of it.
    ///
    /// # Errors
    /// What went wrong, with the path.
    pub async fn write(&mut self, data: &[u8]) -> Result<(), String> {
        self.hash.update(data);
        self.size += i64::try_from(data.len()).unwrap_or(0);
        let written = self.file.write_all(data).await;
        written.map_err(|error| self.said(&error))
    }

    /// Keeps it; its digest and its size.
    ///
    /// # Errors
    /// What went wrong, with the path.
    pub async fn keep(mut self) -> Result<(String, i64), String> {
        if self.size == 0 {
            return Err("the package is empty".to_string());
        }
        let flushed = self.file.flush().await;
        flushed.map_err(|error| self.said(&error))?;
        let synced = self.file.sync_all().await;
        synced.map_err(|error| self.said(&error))?;
        let digest = crate::wire::sign::hex(&self.hash.clone().finalize());
        keep(&self.temporary, &self.packages, &digest).map_err(|error| self.said(&error))?;
        Ok((digest, self.size))
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        // One that was kept has another name by now.
        let _ = std::fs::remove_file(&self.temporary);
    }
}

/// The next bytes of a body; `None` at its end.
///
/// # Errors
/// That it does not come.
pub async fn next(body: &mut Incoming) -> Result<Option<Bytes>, String> {
    loop {
        let frame = tokio::time::timeout(PATIENCE, body.frame()).await;
        let Some(frame) = frame.map_err(|_| "the upload stalled".to_string())? else { return Ok(None) };
        if let Ok(data) = frame.map_err(|error| format!("the upload broke off: {error}"))?.into_data() {
            return Ok(Some(data));
        }
    }
}

/// Stores a body below `packages/`; its digest and its size.
///
/// # Errors
/// What went wrong, with the path.
pub async fn store(shared: &Shared, mut body: Incoming) -> Result<(String, i64), String> {
    let mut upload = Upload::begin(shared).await?;
    while let Some(data) = next(&mut body).await? {
        upload.write(&data).await?;
    }
    upload.keep().await
}

fn keep(temporary: &std::path::Path, packages: &std::path::Path, digest: &str) -> std::io::Result<()> {
    std::fs::rename(temporary, packages.join(digest))?;
    std::fs::File::open(packages)?.sync_all()
}

/// Checks a .minisig text against what it signs for, as hosts will; whether it verifies only they can say, who have the
/// public key.
///
/// # Errors
/// What does not fit.
pub fn check_signature(text: &str, agent: &str, version: &str) -> Result<(), String> {
    let signature = minisign_verify::Signature::decode(text).map_err(|error| format!("the signature: {error}"))?;
    let comment = signature.trusted_comment();
    let wanted = [format!("name={agent}"), format!("version={version}")];
    match wanted.iter().all(|word| comment.split_whitespace().any(|found| found == word)) {
        true => Ok(()),
        false => Err(format!("the signature's trusted comment says \"{comment}\": want \"{}\"", wanted.join(" "))),
    }
}
