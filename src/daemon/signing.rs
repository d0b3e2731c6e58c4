//! The daemon's half of signed exchanges: the key file, nonces that are never used twice, and the judgement of replies.
//!
//! A key that cannot be used means no exchange at all: an unsigned one would be worse, and supervision needs none.

use std::path::Path;

use super::Daemon;
use crate::error::Error;
use crate::host::config_files;
use crate::host::store::Store;
use crate::kernel::Level;
use crate::sys::random;
use crate::wire::sign::{nonce, Keys, Signed};

/// So many nonces are taken from the counter on disk at a time, or each exchange would cost a write that is waited for.
const RESERVED: u64 = 1000;

/// What `Daemon::troubles` calls the keys.
const KEYS: &str = "signing exchanges";

/// What signs exchanges.
pub(super) struct Signing {
    /// `None`: exchanges are not signed. `Err`: there must be none, and why.
    keys: Result<Option<Keys>, Error>,
    /// The number of the next nonce.
    next: u64,
    /// The first number that no daemon may have used yet, as it is on disk.
    reserved: u64,
}

impl Signing {
    /// With the keys in this file, if one is configured.
    pub fn new(key_file: Option<&str>, store: &Store) -> Signing {
        let reserved = store.nonces().unwrap_or_default();
        Signing { keys: read_keys(key_file), next: reserved, reserved }
    }

    /// Why there can be no exchanges.
    pub fn problem(&self) -> Option<&str> {
        self.keys.as_ref().err().map(|why| &**why)
    }
}

fn read_keys(key_file: Option<&str>) -> Result<Option<Keys>, Error> {
    let Some(path) = key_file else { return Ok(None) };
    let keys = config_files::read_key(Path::new(path)).and_then(|text| Keys::read(&text));
    keys.map(Some).map_err(|why| format_error!("key_file \"{path}\": {why}"))
}

impl Daemon {
    /// Reads the key file again.
    pub(super) fn reload_keys(&mut self) {
        self.signing.keys = read_keys(self.config.key_file.as_deref());
        self.report_keys();
    }

    /// Says so when there can be no exchanges.
    pub(super) fn report_keys(&mut self) {
        self.troubles.remove(KEYS);
        if let Some(why) = self.signing.problem() {
            let text = format!("{why}: there will be no exchanges with servers");
            self.log(Level::Error, &text);
            self.troubles.insert(KEYS, text.into());
        }
    }

    /// Signs a POST of `body` to `url`; `None` where exchanges are not signed.
    pub(super) fn sign(&mut self, url: &str, body: &[u8]) -> Result<Option<Signed>, Error> {
        if !matches!(self.signing.keys, Ok(None)) {
            self.reserve_nonces();
        }
        let Some(keys) = self.signing.keys.as_ref().map_err(Clone::clone)? else { return Ok(None) };
        let mut chance = [0; 32];
        random(&mut chance).map_err(|error| format_error!("no random numbers for a nonce: {error}"))?;
        let nonce = nonce(self.state.sn(), self.signing.next, &chance);
        self.signing.next += 1;
        Ok(Some(keys.sign(url, self.state.sn(), nonce, body)))
    }

    /// Sees to it that the next number is one that no later daemon uses. Where it cannot be kept, randomness alone must do.
    fn reserve_nonces(&mut self) {
        if self.signing.next < self.signing.reserved {
            return;
        }
        let reserved = self.signing.next + RESERVED;
        let result = self.store.write_nonces(reserved);
        self.note_record_result(result);
        self.signing.reserved = reserved;
    }

    /// Whether a reply counts: one to a request that was signed with this nonce must be signed too.
    pub(super) fn verify(
        &self,
        nonce: Option<&str>,
        status: u16,
        body: &[u8],
        signature: Option<&str>,
    ) -> Result<(), Error> {
        let Some(nonce) = nonce else { return Ok(()) };
        match &self.signing.keys {
            Ok(Some(keys)) => keys.verify(status, nonce, body, signature).map_err(Error::from),
            Ok(None) => Err("there is no key any more".into()),
            Err(why) => Err(why.clone()),
        }
    }
}
