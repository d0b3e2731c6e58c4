//! One attempt at a download: what is there is hashed, the rest is fetched behind it and hashed while it streams.
//!
//! `Sink` is the file being filled, with its limits; `http` and `file` are here, `ftp` has a file of its own. Every byte that
//! arrives puts the alarm off: a download that stands still for `stall_secs` ends by SIGALRM, name resolution included.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

use crate::sys::alarm;
use crate::sys::file::read_up_to;
use crate::work::exchange::{content_length, header, is_chunked, send};
use crate::work::url::{base64, percent_decoded, Scheme, Url};
use crate::work::{encode_total, ftp, stall_secs, FailureKind, HelperError, HelperResponse};

/// Bytes asked of the source at once.
const CHUNK: usize = 128 << 10;
/// Redirects followed.
const REDIRECTS_MAX: u32 = 5;
/// How far a paced transfer may be behind and catch up: bytes come in pieces of any size, and every sleep takes longer than
/// it should.
const LAG: Duration = Duration::from_millis(125);

/// Fetches `url` into `file`, going on behind what it holds.
pub fn fetch(url: &str, max_bytes: u64, rate: Option<u64>, file: File) -> Result<HelperResponse, Box<HelperError>> {
    alarm::alarm(stall_secs());
    let url = Url::parse(url).map_err(|reason| HelperError::new(FailureKind::Final, reason))?;
    let mut sink = Sink::new(file, max_bytes, rate)?;
    let counted = match url.scheme {
        Scheme::Http | Scheme::Https => http(url, &mut sink)?,
        Scheme::Ftp => ftp::fetch(&url, &mut sink)?,
        Scheme::File => copy(&url, &mut sink)?,
    };
    // A slow disk is not a stalled server.
    alarm::alarm(0);
    sink.file.sync_all().map_err(|error| HelperError::storage("cannot write the package to disk", &error))?;
    Ok(HelperResponse::Fetched { digest: sink.hash.finalize().into(), size: sink.size, counted, cut: sink.cut })
}

/// The file being filled.
pub struct Sink {
    file: File,
    hash: Sha256,
    /// Bytes in the file, all of them hashed.
    pub size: u64,
    max: u64,
    pace: Option<Pace>,
    buffer: Vec<u8>,
    /// The connection ended where nobody had announced it, and nothing else says that these are all bytes.
    cut: bool,
}

impl Sink {
    /// Hashes what the file holds already.
    fn new(mut file: File, max: u64, rate: Option<u64>) -> Result<Sink, Box<HelperError>> {
        let cannot = |error: io::Error| HelperError::storage("cannot read the part fetched before", &error);
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
        let mut sink = Sink { file, hash, size, max, pace, buffer, cut: false };
        if size > max {
            sink.restart()?;
        }
        Ok(sink)
    }

    /// Begins anew with an empty file.
    pub fn restart(&mut self) -> Result<(), Box<HelperError>> {
        let emptied = self.file.set_len(0).and_then(|()| self.file.rewind());
        emptied.map_err(|error| HelperError::storage("cannot empty the file", &error))?;
        self.hash = Sha256::new();
        self.size = 0;
        Ok(())
    }

    /// Whether `total` bytes, all of the file, may come and have room.
    pub fn expect(&self, total: u64) -> Result<(), Box<HelperError>> {
        if total > self.max {
            return Err(HelperError::new(
                FailureKind::TooBig,
                format_error!("the file has {total} bytes, more than {}", self.max),
            ));
        }
        // For those who watch it; when nobody does any more, this process is about to end.
        let mut out = io::stdout().lock();
        let _ = out.write_all(&encode_total(total)).and_then(|()| out.flush());
        let missing = total.saturating_sub(self.size);
        // Where the file system cannot say it, writing will.
        match alarm::free_space(self.file.as_fd()) {
            Ok(free) if free < missing => Err(HelperError::new(
                FailureKind::NoSpace,
                format_error!("no space: {missing} bytes to come, {free} free"),
            )),
            _ => Ok(()),
        }
    }

    /// Takes everything `source` gives until it ends; `total` is what the file then has, when that is known.
    pub fn fill(&mut self, source: &mut dyn Read, total: Option<u64>) -> Result<(), Box<HelperError>> {
        loop {
            let count = match source.read(&mut self.buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => {
                    return Err(HelperError::temporary(
                        &format!("the transfer broke off after {} bytes", self.size),
                        &error,
                    ));
                }
            };
            if self.size + count as u64 > self.max {
                return Err(HelperError::new(
                    FailureKind::TooBig,
                    format_error!("the file has more than {} bytes", self.max),
                ));
            }
            let bytes = &self.buffer[..count];
            self.file.write_all(bytes).map_err(|error| HelperError::storage("cannot write the package", &error))?;
            self.hash.update(bytes);
            self.size += count as u64;
            if let Some(pace) = &mut self.pace {
                pace.wait(count);
            }
            alarm::alarm(stall_secs());
        }
        match total.filter(|total| *total > self.size) {
            Some(total) => Err(HelperError::new(
                FailureKind::Temporary,
                format_error!("the transfer ended after {} of {total} bytes", self.size),
            )),
            None => Ok(()),
        }
    }
}

/// Keeps a transfer at a rate; of the time lost to the source no more than `LAG` is made up for.
struct Pace {
    rate: u64,
    next: Instant,
}

impl Pace {
    fn new(rate: u64) -> Pace {
        Pace { rate: rate.max(1), next: Instant::now() }
    }

    /// What to read at once: an eighth of a second's bytes.
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

/// GET, with redirects followed here, as minreq would follow them to anywhere. Returns whether the bytes were counted.
fn http(mut url: Url, sink: &mut Sink) -> Result<bool, Box<HelperError>> {
    let mut redirects = 0;
    loop {
        alarm::alarm(stall_secs());
        let asked = sink.size;
        let mut reply = send(request(&url, asked)?)?;
        let status = reply.status_code;
        match status {
            200 | 203 => {
                let total = content_length(&reply);
                if let Some(total) = total {
                    sink.expect(total)?;
                }
                let begin = first(&mut reply, total)?;
                if asked > 0 {
                    sink.restart()?;
                }
                // minreq would not stop there, had it seen an interim reply first.
                sink.fill(&mut begin.chain(&mut reply).take(total.unwrap_or(u64::MAX)), total)?;
                return Ok(whole(&reply, sink) || total.is_some());
            }
            206 if asked > 0 => match header(&reply, "content-range").and_then(content_range) {
                Some((Some(start), total)) if start == asked => {
                    let total = total.or_else(|| content_length(&reply).map(|rest| asked.saturating_add(rest)));
                    if let Some(total) = total {
                        sink.expect(total)?;
                    }
                    let rest = total.map_or(u64::MAX, |total| total - asked);
                    sink.fill(&mut Read::by_ref(&mut reply).take(rest), total)?;
                    return Ok(whole(&reply, sink) || total.is_some());
                }
                // Not what was asked for: a request from the start has no range to get wrong.
                _ => {
                    first(&mut reply, None)?;
                    sink.restart()?;
                }
            },
            416 if asked > 0 => {
                if header(&reply, "content-range").and_then(content_range) == Some((None, Some(asked))) {
                    return Ok(true);
                }
                sink.restart()?;
            }
            301 | 302 | 303 | 307 | 308 => {
                redirects += 1;
                if redirects > REDIRECTS_MAX {
                    return Err(HelperError::new(
                        FailureKind::Final,
                        format_error!("redirected more than {REDIRECTS_MAX} times"),
                    ));
                }
                let location = header(&reply, "location").ok_or_else(|| {
                    HelperError::new(FailureKind::Final, format_error!("redirected ({status}) to nowhere"))
                })?;
                let next = url.join(location).map_err(|reason| HelperError::new(FailureKind::Final, reason))?;
                if !matches!(next.scheme, Scheme::Http | Scheme::Https) {
                    return Err(HelperError::new(
                        FailureKind::Final,
                        format_error!("redirected ({status}) to a url that is not http"),
                    ));
                }
                url = next;
            }
            _ => {
                let kind = match status {
                    // One with less than three digits is of a line cut short.
                    0..=99 | 408 | 429 | 500..=599 => FailureKind::Temporary,
                    _ => FailureKind::Final,
                };
                let phrase = reply.reason_phrase.trim();
                let mut fault = HelperError::new(kind, format_error!("{} answered {status} {phrase}", url.place()));
                if matches!(status, 429 | 503) {
                    fault.retry_after = header(&reply, "retry-after").and_then(|value| value.parse().ok());
                }
                return Err(fault);
            }
        }
    }
}

/// The first byte of a body that has any. minreq takes the end of the connection for the end of the head: what a head says that
/// nothing follows must not cost what was fetched before.
fn first(reply: &mut minreq::ResponseLazy, total: Option<u64>) -> Result<io::Cursor<Vec<u8>>, Box<HelperError>> {
    let mut byte = Vec::new();
    let read = read_up_to(1, &mut byte, &mut |to| reply.read(to));
    read.map_err(|error| HelperError::temporary("the transfer broke off before its first byte", &error))?;
    if byte.is_empty() && total != Some(0) {
        return Err(HelperError::new(FailureKind::Temporary, "the server closed the connection before the first byte"));
    }
    Ok(io::Cursor::new(byte))
}

/// The request for what comes after the first `from` bytes.
fn request(url: &Url, from: u64) -> Result<minreq::Request, Box<HelperError>> {
    let address = url.for_http().map_err(|reason| HelperError::new(FailureKind::Final, reason))?;
    let mut request = minreq::get(address).with_follow_redirects(false).with_header("Accept-Encoding", "identity");
    if from > 0 {
        request = request.with_header("Range", format!("bytes={from}-"));
    }
    if let Some(user) = &url.user {
        let pair = format!("{user}:{}", url.password.as_deref().unwrap_or_default());
        request = request.with_header("Authorization", format!("Basic {}", base64(pair.as_bytes())));
    }
    Ok(request)
}

/// Whether a chunked reply is known to be whole. minreq takes the end of the connection for the end of the chunks: as long as
/// there has been none they have come to their own. Behind one that was not announced they may have, as some servers close so,
/// or they were cut: the digest tells.
fn whole(reply: &minreq::ResponseLazy, sink: &mut Sink) -> bool {
    let closed = is_chunked(reply) && alarm::is_closed();
    sink.cut = closed && !header(reply, "connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
    is_chunked(reply) && !closed
}

/// Start and total of a Content-Range (RFC 9110, 14.4): `bytes 5-9/10`, `bytes 5-9/*`, `bytes */10`.
fn content_range(value: &str) -> Option<(Option<u64>, Option<u64>)> {
    let (range, total) = value.strip_prefix("bytes ")?.trim().split_once('/')?;
    let total = match total {
        "*" => None,
        total => Some(total.parse().ok()?),
    };
    if range == "*" {
        return Some((None, total));
    }
    let (start, end) = range.split_once('-')?;
    let (start, end): (u64, u64) = (start.parse().ok()?, end.parse().ok()?);
    (start <= end && total.is_none_or(|total| end < total)).then_some((Some(start), total))
}

/// Copies a local file; always from its start, as that costs nothing.
fn copy(url: &Url, sink: &mut Sink) -> Result<bool, Box<HelperError>> {
    let path = percent_decoded(&url.path)
        .filter(|path| !path.contains(&0))
        .map(std::ffi::OsString::from_vec)
        .ok_or_else(|| HelperError::new(FailureKind::Final, "the path in the url cannot be decoded"))?;
    let shown = path.to_string_lossy().into_owned();
    // Looked at first, as opening some devices does something, and without blocking, as opening a FIFO would wait for its
    // writer.
    let looked =
        std::fs::metadata(&path).map_err(|error| HelperError::storage(&format!("cannot open \"{shown}\""), &error))?;
    if !looked.is_file() {
        return Err(HelperError::new(FailureKind::Final, format_error!("\"{shown}\" is no regular file")));
    }
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&path);
    let file = opened.map_err(|error| HelperError::storage(&format!("cannot open \"{shown}\""), &error))?;
    let data = file.metadata().map_err(|error| HelperError::storage(&format!("cannot read \"{shown}\""), &error))?;
    if !data.is_file() {
        return Err(HelperError::new(FailureKind::Final, format_error!("\"{shown}\" is no regular file")));
    }
    if sink.size > 0 {
        sink.restart()?;
    }
    sink.expect(data.len())?;
    // What the kernel makes up as it is read has no size, and may have no end.
    sink.fill(&mut file.take(data.len()), Some(data.len()))?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges() {
        for (text, want) in [
            ("bytes 5-9/10", Some((Some(5), Some(10)))),
            ("bytes 5-9/*", Some((Some(5), None))),
            ("bytes */10", Some((None, Some(10)))),
            ("bytes 5-10/10", None),
            ("bytes 9-5/10", None),
            ("bytes 5-/10", None),
            ("bytes", None),
            ("items 5-9/10", None),
            ("bytes 5-9/x", None),
            ("bytes -1-9/10", None),
        ] {
            assert_eq!(content_range(text), want, "{text}");
        }
    }

    #[test]
    fn a_pace_asks_for_small_pieces() {
        assert_eq!(Pace::new(0).chunk(), 1);
        assert_eq!(Pace::new(8000).chunk(), 1000);
        assert_eq!(Pace::new(u64::MAX).chunk(), CHUNK);
    }
}
