//! The check of a package on disk: its digest, and its minisign signature, which must be by a trusted key, over these bytes
//! and for this version of this agent.
//!
//! The digest is computed again although the helper that fetched the package reported it: that process handled data from the
//! network, and this one has no network. A signature over the hash of the file, as minisign makes it by default, is verified while the file streams by; a legacy
//! one is over the file itself, which then must fit into memory.

use std::fs::File;
use std::io::{Read, Seek};

use minisign_verify::{PublicKey, Signature};
use sha2::{Digest as _, Sha256};

use crate::model::trust::is_about;
use crate::text::sanitize;
use crate::work::{Failure, FailureKind, Result};

/// The largest file with a legacy signature, bytes.
const LEGACY_MAX: u64 = 8 << 20;

/// Verifies the signature over all of `file`, if there are `keys`, and returns the digest of the file.
///
/// # Errors
/// When the file cannot be read, or the signature is not by one of the keys, over the file and for this name and version.
pub fn verify(file: &File, keys: &[String], signature: &str, name: &str, version: &str) -> Result<[u8; 32]> {
    let mut hash = Sha256::new();
    for_each_part(file, &mut |bytes| hash.update(bytes))?;
    let digest = hash.finalize().into();
    if keys.is_empty() {
        return Ok(digest);
    }
    let refused = |reason: String| Failure::new(FailureKind::Hostile, reason);
    let signature = Signature::decode(signature)
        .map_err(|error| refused(format!("signature: not the text of a .minisig file: {}", explained(&error))))?;
    let mut reason = "the signature is by none of the trusted keys".to_string();
    for key in keys {
        let Ok(key) = PublicKey::from_base64(key) else { continue };
        match verify_by(file, &key, &signature)? {
            Ok(()) => {
                let comment = signature.trusted_comment();
                if is_about(comment, name, version) {
                    return Ok(digest);
                }
                let comment = sanitize(comment, 200);
                return Err(refused(format!(
                    "the signature is about something else: want name={name} version={version}, got \"{comment}\""
                )));
            }
            Err(minisign_verify::Error::UnexpectedKeyId) => {}
            Err(error) => reason = explained(&error),
        }
    }
    Err(refused(reason))
}

/// Whether the signature is by this key and over the file. The outer error is for a file that cannot be used.
fn verify_by(file: &File, key: &PublicKey, signature: &Signature) -> Result<Result<(), minisign_verify::Error>> {
    let mut stream = match key.verify_stream(signature) {
        Ok(stream) => stream,
        Err(minisign_verify::Error::UnsupportedLegacyMode) => {
            if file.metadata().is_ok_and(|data| data.len() > LEGACY_MAX) {
                let reason = "a legacy signature is good for packages up to 8 MiB only: sign without -l";
                return Err(Failure::new(FailureKind::Hostile, reason));
            }
            let mut bytes = Vec::new();
            for_each_part(file, &mut |part| bytes.extend_from_slice(part))?;
            return Ok(key.verify(&bytes, signature, true));
        }
        Err(error) => return Ok(Err(error)),
    };
    for_each_part(file, &mut |bytes| stream.update(bytes))?;
    Ok(stream.finalize())
}

/// Calls `take` with each part of the file, in order.
fn for_each_part(mut file: &File, take: &mut dyn FnMut(&[u8])) -> Result<()> {
    let read = |error: std::io::Error| Failure::storage("cannot read the package", &error);
    file.rewind().map_err(read)?;
    let mut buffer = vec![0; 64 << 10];
    loop {
        match file.read(&mut buffer).map_err(read)? {
            0 => return Ok(()),
            length => take(&buffer[..length]),
        }
    }
}

/// Runs the parsers of signatures and keys, see `work::try_parsers`.
pub fn try_parsers(text: &str) {
    if let Ok(signature) = Signature::decode(text) {
        is_about(signature.trusted_comment(), "web", "1.0");
    }
    for line in text.lines() {
        let _ = PublicKey::from_base64(line);
    }
}

fn explained(error: &minisign_verify::Error) -> String {
    match error {
        minisign_verify::Error::InvalidSignature => {
            "the signature is not over this package, or its comment was changed".to_string()
        }
        minisign_verify::Error::InvalidEncoding => "it is cut, or not four lines with base64".to_string(),
        other => other.to_string().to_ascii_lowercase(),
    }
}
