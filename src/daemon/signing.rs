//! The daemon's part in signed exchanges: the key file, nonces that are never used twice, and the verification of replies.
//! The counter that makes nonces differ numbers all exchanges, signed or not: a report carries its number as `seq`.
//!
//! A key that cannot be used means that there are no exchanges at all: an unsigned one would be worse, and supervising agents
//! needs none. How a request is signed is in `wire::sign`.

use std::path::Path;

use super::conditions::Condition;
use super::Daemon;
use crate::error::Error;
use crate::host::config_files;
use crate::host::store::Store;
use crate::kernel::Level;
use crate::sys::{monotonic, random};
use crate::wire::sign::{nonce, Keys, Signed};

/// How many numbers are reserved in the counter on disk at a time: with one, each exchange would wait for the disk.
const RESERVED: u64 = 1000;

/// The keys and the counter of exchanges.
pub(super) struct Signing {
    /// `None`: exchanges are not signed. `Err`: there must be none, and why.
    keys: Result<Option<Keys>, Error>,
    /// The number of the next exchange.
    next: u64,
    /// The first number that no daemon may have used yet, as it is on disk.
    reserved: u64,
    /// The last reservation is on disk, so that no later daemon uses a number up to `reserved`.
    durable: bool,
}

impl Signing {
    /// With the keys in this file, if one is configured.
    pub fn new(key_file: Option<&str>, store: &Store) -> Signing {
        // Where the record is lost, the microseconds since the boot are more than any number that was used in this boot.
        let reserved = store.nonces().unwrap_or_else(|| monotonic().0 / 1_000);
        Signing { keys: read_keys(key_file), next: reserved, reserved, durable: true }
    }

    /// Whether the numbers that are used are reserved on disk.
    pub fn is_durable(&self) -> bool {
        self.durable
    }

    /// The `seq` that the next report will carry, if nothing else is sent before.
    pub fn next_number(&self) -> Option<u64> {
        self.durable.then_some(self.next)
    }
}

fn read_keys(key_file: Option<&str>) -> Result<Option<Keys>, Error> {
    let Some(path) = key_file else { return Ok(None) };
    let keys = config_files::read_key(Path::new(path)).and_then(|text| Keys::read(&text));
    keys.map(Some).map_err(|why| format_error!("key_file \"{path}\": {why}"))
}

impl Daemon {
    /// Reads the key file again; returns what is wrong with it.
    pub(super) fn reread_keys(&mut self) -> Option<Box<str>> {
        self.signing.keys = read_keys(self.config.key_file.as_deref());
        self.report_keys()
    }

    /// Logs and reports when the keys allow no exchanges.
    pub(super) fn report_keys(&mut self) -> Option<Box<str>> {
        let problem = self.signing.keys.as_ref().err();
        let problem: Option<Box<str>> =
            problem.map(|why| format!("{why}: there will be no exchanges with servers").into());
        if let Some(problem) = &problem {
            self.log(Level::Error, problem);
        }
        self.conditions.set_unlogged(Condition::SigningKeys, problem.clone());
        problem
    }

    /// The number of an exchange, which no other one of this state_dir has; and the same as the `seq` of a report. Where
    /// numbers cannot be reserved on disk there is no `seq`, as a later daemon would repeat it, and a server would take its
    /// reports for replays.
    pub(super) fn take_number(&mut self) -> (u64, Option<u64>) {
        self.reserve_numbers();
        let number = (self.signing.next, self.signing.next_number());
        self.signing.next += 1;
        number
    }

    /// Signs a POST of `body` to `url`, the exchange of this number; `None` where exchanges are not signed.
    ///
    /// # Errors
    /// When the keys cannot be used, or there are no random numbers.
    pub(super) fn sign(&self, url: &str, number: u64, body: &[u8]) -> Result<Option<Signed>, Error> {
        let Some(keys) = self.signing.keys.as_ref().map_err(Clone::clone)? else { return Ok(None) };
        let mut chance = [0; 32];
        random(&mut chance).map_err(|error| format_error!("cannot get random numbers for a nonce: {error}"))?;
        let nonce = nonce(self.state.sn(), number, &chance);
        Ok(Some(keys.sign(url, self.state.sn(), nonce, body)))
    }

    /// Makes sure that no later daemon uses the next number. Where that cannot be written, the random part of a nonce alone
    /// has to make it unique, and it is tried again with the next exchange.
    fn reserve_numbers(&mut self) {
        if self.signing.next < self.signing.reserved {
            return;
        }
        let reserved = self.signing.next + RESERVED;
        let result = self.records.store().write_nonces(reserved);
        self.signing.durable = result.is_ok();
        if self.signing.durable {
            self.signing.reserved = reserved;
        }
        self.note_record_result(result);
    }

    /// Verifies the reply to a request that was signed with `nonce`; without one, any reply is accepted.
    ///
    /// # Errors
    /// When the reply is not signed as it must be, or the keys cannot be used any more.
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
