//! Packages that come in: streamed to a temporary file, hashed, and kept under their digest.

use super::clock;
use super::door::PATIENCE;
use super::Shared;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use sha2::{Digest, Sha256};
use std::os::unix::fs::OpenOptionsExt;
use tokio::io::AsyncWriteExt;

/// Stores a body below `packages/`; its digest and its size.
///
/// # Errors
/// What went wrong, with the path.
pub async fn store(shared: &Shared, mut body: Incoming) -> Result<(String, i64), String> {
    let packages = shared.dir.join("packages");
    let temporary = packages.join(format!("upload-{}.tmp", clock::random_id()));
    let said = |error: std::io::Error| format!("cannot write {}: {error}", temporary.display());
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let mut file = tokio::fs::OpenOptions::from(options).open(&temporary).await.map_err(said)?;
    let received = async {
        let (mut hash, mut size) = (Sha256::new(), 0_i64);
        loop {
            let frame = tokio::time::timeout(PATIENCE, body.frame()).await;
            let Some(frame) = frame.map_err(|_| "the upload stalled".to_string())? else { break };
            let data = frame.map_err(|error| format!("the upload broke off: {error}"))?.into_data();
            let Ok(data) = data else { continue };
            hash.update(&data);
            size += i64::try_from(data.len()).unwrap_or(0);
            file.write_all(&data).await.map_err(said)?;
        }
        if size == 0 {
            return Err("the package is empty: want its bytes as the body".to_string());
        }
        file.flush().await.map_err(said)?;
        file.sync_all().await.map_err(said)?;
        Ok::<_, String>((crate::wire::sign::hex(&hash.finalize()), size))
    };
    let done = received.await;
    let kept = match &done {
        Ok((digest, _)) => keep(&temporary, &packages, digest).map_err(said),
        Err(_) => Ok(()),
    };
    if done.is_err() || kept.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    kept.and(done)
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
