//! The file that a download fills: hashed while it grows, and kept to its limits of size, space and rate.
//!
//! The bytes come from whatever reads them off the network or the disk. Each piece that arrives restarts the alarm: a
//! download that stands still for `stall_secs` ends by SIGALRM, and the daemon sees that.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

use crate::sys::{alarm, file};
use crate::text::{exact_size, size};
use crate::work::{announce, stall_secs, Failure, FailureKind, HelperResponse, Result};

/// Bytes read at once.
const CHUNK: usize = 128 << 10;
/// How much time a transfer with a rate limit may catch up: bytes come in pieces of any size, and every sleep takes
/// longer than asked for.
const LAG: Duration = Duration::from_millis(125);

/// The file being filled.
pub struct Sink<'a> {
    file: &'a File,
    hash: Sha256,
    /// Bytes in the file, all of them hashed.
    size: u64,
    max: u64,
    pace: Option<Pace>,
    buffer: Vec<u8>,
}

impl Sink<'_> {
    /// Hashes what the file holds already, so that the download continues behind it; a file larger than `max` bytes is
    /// emptied. `rate` is in bytes per second.
    ///
    /// # Errors
    /// When the file cannot be read, or not emptied.
    pub fn new(mut file: &File, max: u64, rate: Option<u64>) -> Result<Sink<'_>> {
        let cannot = |error: io::Error| Failure::storage("cannot read the part fetched before", &error);
        let mut hash = Sha256::new();
        let mut buffer = vec![0; CHUNK];
        let mut size = 0;
        file.rewind().map_err(cannot)?;
        while size <= max {
            match file.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => {
                    hash.update(&buffer[..count]);
                    size += count as u64;
                    alarm::alarm(stall_secs());
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(cannot(error)),
            }
        }
        let pace = rate.map(Pace::new);
        if let Some(pace) = &pace {
            buffer.truncate(pace.chunk());
        }
        let mut sink = Sink { file, hash, size, max, pace, buffer };
        if size > max {
            sink.restart()?;
        }
        Ok(sink)
    }

    /// Bytes in the file.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Whether what the file holds has this SHA-256.
    pub fn has(&self, digest: &[u8; 32]) -> bool {
        <[u8; 32]>::from(self.hash.clone().finalize()) == *digest
    }

    /// Empties the file.
    ///
    /// # Errors
    /// When that fails.
    pub fn restart(&mut self) -> Result<()> {
        let emptied = self.file.set_len(0).and_then(|()| self.file.rewind());
        emptied.map_err(|error| Failure::storage("cannot empty the file", &error))?;
        self.hash = Sha256::new();
        self.size = 0;
        Ok(())
    }

    /// Announces that the whole file will have `total` bytes.
    ///
    /// # Errors
    /// When that is more than allowed, or more than the disk has room for.
    pub fn expect(&self, total: u64) -> Result<()> {
        if total > self.max {
            let reason = format!("the file has {}, more than {}", exact_size(total), exact_size(self.max));
            return Err(Failure::new(FailureKind::TooBig, reason));
        }
        // For the daemon, which shows progress. Where it is gone, this process is about to end anyway.
        announce(total);
        let missing = total.saturating_sub(self.size);
        match file::free_space(self.file.as_fd()) {
            Ok(free) if free < missing => {
                let reason = format!("no space: {} to come, {} free", size(missing as f64), size(free as f64));
                Err(Failure::new(FailureKind::NoSpace, reason))
            }
            // Where the file system does not say how much is free, writing shows it.
            _ => Ok(()),
        }
    }

    /// Takes everything from `source` until it ends; `total` is the size of the whole file, where that is known.
    ///
    /// # Errors
    /// When the source or the file fails, more bytes come than allowed, or fewer than `total`.
    pub fn fill(&mut self, source: &mut dyn Read, total: Option<u64>) -> Result<()> {
        loop {
            let count = match source.read(&mut self.buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => {
                    let what = format!("the transfer broke off after {} bytes", self.size);
                    return Err(Failure::temporary(&what, &error));
                }
            };
            if self.size + count as u64 > self.max {
                let reason = format!("the file has more than {}", exact_size(self.max));
                return Err(Failure::new(FailureKind::TooBig, reason));
            }
            let bytes = &self.buffer[..count];
            self.file.write_all(bytes).map_err(|error| Failure::storage("cannot write the package", &error))?;
            self.hash.update(bytes);
            self.size += count as u64;
            if let Some(pace) = &mut self.pace {
                pace.wait(count);
            }
            alarm::alarm(stall_secs());
        }
        match total.filter(|total| *total > self.size) {
            Some(total) => {
                let reason = format!("the transfer ended after {} of {total} bytes", self.size);
                Err(Failure::new(FailureKind::Temporary, reason))
            }
            None => Ok(()),
        }
    }

    /// Puts the file on disk; `end` says what the source said about its completeness.
    ///
    /// # Errors
    /// When the disk fails or is full.
    pub fn finish(self, end: Completeness) -> Result<HelperResponse> {
        // A slow disk is not a stalled server.
        alarm::alarm(0);
        self.file.sync_all().map_err(|error| Failure::storage("cannot write the package to disk", &error))?;
        let counted = end == Completeness::Counted;
        Ok(HelperResponse::Fetched { digest: self.hash.finalize().into(), size: self.size, counted })
    }
}

/// What the source of a complete transfer said about the number of its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completeness {
    /// It said how many there are, or where they end, and so many came.
    Counted,
    /// It said nothing, and announced that the end of the connection is the end of the file.
    Uncounted,
    /// It may have been cut short, and was if the digest is wrong.
    Unended,
}

/// Keeps a transfer at a rate; of the time lost to the source no more than `LAG` is made up for.
struct Pace {
    rate: u64,
    next: Instant,
}

impl Pace {
    /// At most `rate` bytes per second.
    fn new(rate: u64) -> Pace {
        Pace { rate: rate.max(1), next: Instant::now() }
    }

    /// How many bytes to read at once: those of an eighth of a second.
    fn chunk(&self) -> usize {
        (self.rate / 8).clamp(1, CHUNK as u64) as usize
    }

    /// Sleeps as long as `count` bytes take.
    fn wait(&mut self, count: usize) {
        let now = Instant::now();
        self.next = self.next.max(now - LAG) + Duration::from_secs_f64(count as f64 / self.rate as f64);
        std::thread::sleep(self.next.saturating_duration_since(now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_low_rate_is_read_in_small_pieces() {
        for (rate, bytes) in [(0, 1), (8000, 1000), (u64::MAX, CHUNK)] {
            assert_eq!(Pace::new(rate).chunk(), bytes);
        }
    }
}
