//! TLS: the certificate of the pages' door, read again when its files change, and whom a client of ours trusts.

use super::clock;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;

/// How often the files are looked at.
const PAUSE: Duration = Duration::from_secs(5);

/// A certificate, its key, and what was last read of them.
pub struct Tls {
    cert: PathBuf,
    key: PathBuf,
    current: Mutex<Current>,
}

struct Current {
    looked: Instant,
    /// When the files were last changed.
    stamps: [Option<SystemTime>; 2],
    config: Arc<ServerConfig>,
}

impl Tls {
    /// Reads both files.
    ///
    /// # Errors
    /// Which file will not do, and why.
    pub fn open(cert: &Path, key: &Path) -> Result<Tls, String> {
        let stamps = [stamp(cert), stamp(key)];
        let current = Current { looked: Instant::now(), stamps, config: read(cert, key)? };
        Ok(Tls { cert: cert.to_path_buf(), key: key.to_path_buf(), current: Mutex::new(current) })
    }

    /// What the next connection is accepted with. A certificate that was renewed is taken without a restart; files that
    /// will not do are told once, and the old certificate stays.
    pub fn acceptor(&self) -> TlsAcceptor {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.looked.elapsed() >= PAUSE {
            current.looked = Instant::now();
            let stamps = [stamp(&self.cert), stamp(&self.key)];
            if stamps != current.stamps {
                current.stamps = stamps;
                match read(&self.cert, &self.key) {
                    Ok(config) => {
                        current.config = config;
                        clock::say(&format!("took the new certificate in {}", self.cert.display()));
                    }
                    Err(why) => clock::say(&format!("{why}; the certificate stays as it was")),
                }
            }
        }
        TlsAcceptor::from(current.config.clone())
    }
}

fn stamp(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|meta| meta.modified()).ok()
}

fn read(cert: &Path, key: &Path) -> Result<Arc<ServerConfig>, String> {
    let meta = fs::metadata(key).map_err(|error| format!("cannot read {}: {error}", key.display()))?;
    if meta.permissions().mode() & 0o007 != 0 {
        return Err(format!("--tls-key {}: everybody can read it: chmod o= it", key.display()));
    }
    let chain = certificates(cert)?;
    let secret = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| format!("--tls-key {}: want a private key in PEM: {error}", key.display()))?;
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, secret))
        .map_err(|error| format!("--tls-cert {} and --tls-key {}: {error}", cert.display(), key.display()))?;
    Ok(Arc::new(config))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let said = |why: String| format!("--tls-cert {}: want certificates in PEM: {why}", path.display());
    let found: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(path).map_err(|error| said(error.to_string()))?.collect();
    match found.map_err(|error| said(error.to_string()))? {
        chain if chain.is_empty() => Err(said("it has none".to_string())),
        chain => Ok(chain),
    }
}

/// Whom a client of ours trusts: the machine's own certificates, or those in `SSL_CERT_FILE`.
///
/// # Errors
/// That there are none.
pub fn client() -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        return Err("no trusted certificates: install ca-certificates, or set SSL_CERT_FILE".to_string());
    }
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}
