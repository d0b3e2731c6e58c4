//! One attempt at a download: what the file holds already is kept and hashed, and the rest is fetched behind it.
//!
//! The URL's scheme says how: `http` and `file` are here, `ftp` has a file of its own. The bytes go to a `Sink`. Whether to
//! try again after a failure is decided in the daemon.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::OpenOptionsExt;

use crate::model::url::{decoded, Scheme, Url};
use crate::sys::alarm;
use crate::work::http::{self, Reply, Route};
use crate::work::sink::{Completeness, Sink};
use crate::work::{ftp, stall_secs, Failure, FailureKind, HelperResponse, Result};

/// Redirects followed.
const REDIRECTS_MAX: u32 = 5;

/// Fetches `url` into `file`, behind what it holds already, on this route; `rate` is in bytes per second. A file of more than
/// `max_bytes` is a failure, and one that has this SHA-256 already is complete, so that nothing is asked for.
///
/// # Errors
/// When the file is not complete and on disk; what has come so far is in it.
pub fn fetch(
    url: &str,
    max_bytes: u64,
    rate: Option<u64>,
    route: &Route,
    digest: &[u8; 32],
    file: &File,
) -> Result<HelperResponse> {
    alarm::alarm(stall_secs());
    let url = Url::parse(url).map_err(|why| Failure::new(FailureKind::Final, format!("package url: {why}")))?;
    let mut sink = Sink::new(file, max_bytes, rate)?;
    // An attempt may have fetched all of it and failed behind that.
    if sink.has(digest) {
        return sink.finish(Completeness::Counted);
    }
    let end = match url.scheme {
        Scheme::Http | Scheme::Https => fetch_http(url, route, digest, &mut sink)?,
        Scheme::Ftp => ftp::fetch(&url, route, &mut sink)?,
        Scheme::File => copy(&url, &mut sink)?,
    };
    if end == Completeness::Unended && !sink.has(digest) {
        let reason = format!("the transfer ended after {} bytes, without its last chunk", sink.size());
        return Err(Failure::new(FailureKind::Temporary, reason));
    }
    sink.finish(end)
}

/// What follows a request.
enum Next {
    /// Nothing, the file is there.
    Done(Completeness),
    /// The same request, from where the file ends now.
    Again,
    /// A request to where the reply leads.
    Redirected(Url),
}

/// Fetches over HTTP, and follows redirects.
fn fetch_http(mut url: Url, route: &Route, digest: &[u8; 32], sink: &mut Sink) -> Result<Completeness> {
    let mut redirects = 0;
    loop {
        let next = ask(&url, route, digest, sink).map_err(|mut failure| {
            if redirects > 0 {
                failure.reason = format!("redirected to {}: {}", url.shown(), failure.reason);
            }
            failure
        })?;
        match next {
            Next::Done(end) => return Ok(end),
            Next::Again => {}
            Next::Redirected(_) if redirects == REDIRECTS_MAX => {
                let reason = format!("redirected more than {REDIRECTS_MAX} times");
                return Err(Failure::new(FailureKind::Final, reason));
            }
            Next::Redirected(to) => {
                redirects += 1;
                url = to;
            }
        }
    }
}

/// Makes one request, and takes what the reply brings.
fn ask(url: &Url, route: &Route, digest: &[u8; 32], sink: &mut Sink) -> Result<Next> {
    alarm::alarm(stall_secs());
    let from = sink.size();
    let mut reply = http::get(url, from, route)?;
    // Some servers send what was asked for and call it 200, others call the whole file 206.
    let range = reply.header("content-range").and_then(content_range);
    let is_slice = range.is_some_and(|(start, _)| start == Some(from));
    match reply.status {
        200 | 203 if from == 0 || !is_slice => take_whole(&mut reply, digest, sink).map(Next::Done),
        200 | 203 | 206 if from > 0 || is_slice => {
            Ok(take_rest(&mut reply, range, sink)?.map_or(Next::Again, Next::Done))
        }
        416 if from > 0 => {
            if range == Some((None, Some(from))) {
                return Ok(Next::Done(Completeness::Counted));
            }
            sink.restart()?;
            Ok(Next::Again)
        }
        301 | 302 | 303 | 307 | 308 => redirected(url, &reply).map(Next::Redirected),
        _ => Err(refused(&reply)),
    }
}

/// Takes a reply that brings all of the file. Many servers call a file compressed because its name says so, and send it as it
/// is: then it has the right digest.
fn take_whole(reply: &mut Reply, digest: &[u8; 32], sink: &mut Sink) -> Result<Completeness> {
    let total = reply.content_length();
    if let Some(total) = total {
        sink.expect(total)?;
    }
    // What was fetched before is given up only when there is something in its place.
    let begin = reply.first_bytes(total)?;
    let encoding = reply.encoding().filter(|encoding| is_compressed(encoding, begin.get_ref())).map(String::from);
    if sink.size() > 0 {
        sink.restart()?;
    }
    sink.fill(&mut begin.chain(&mut *reply).take(total.unwrap_or(u64::MAX)), total)?;
    let end = reply.completeness(total);
    if let Some(encoding) = encoding.filter(|_| end != Completeness::Unended && !sink.has(digest)) {
        let reason = format!(
            "the checksum does not match, as the server compressed the file (Content-Encoding: {encoding}), though nobody \
             asked for it, or has another one"
        );
        return Err(Failure::new(FailureKind::Final, reason));
    }
    Ok(end)
}

/// Takes a reply that brings what is missing of the file. One that brings anything else empties the file and is `None`: a
/// request from the start has no range that could be wrong.
fn take_rest(reply: &mut Reply, range: Option<Range>, sink: &mut Sink) -> Result<Option<Completeness>> {
    let from = sink.size();
    match range {
        Some((Some(start), total)) if start == from => {
            let total = total.or_else(|| reply.content_length().map(|rest| from.saturating_add(rest)));
            if let Some(total) = total {
                sink.expect(total)?;
            }
            let rest = total.map_or(u64::MAX, |total| total - from);
            sink.fill(&mut Read::by_ref(reply).take(rest), total)?;
            Ok(Some(reply.completeness(total)))
        }
        _ => {
            reply.first_bytes(None)?;
            sink.restart()?;
            Ok(None)
        }
    }
}

/// Where a redirect leads: to HTTP only.
fn redirected(url: &Url, reply: &Reply) -> Result<Url> {
    let status = reply.status;
    let wrong = |reason| Failure::new(FailureKind::Final, reason);
    let location = reply.header("location").ok_or_else(|| wrong(format!("redirected ({status}) to nowhere")))?;
    let next = url
        .join(&encoded(location))
        .map_err(|why| wrong(format!("redirected ({status}) to a url that cannot be used: {why}")))?;
    match next.scheme.is_http() {
        true => Ok(next),
        false => Err(wrong(format!("redirected ({status}) to a url that is not http"))),
    }
}

/// A URL in which white space and bytes outside of ASCII are percent-encoded, as servers should send it.
fn encoded(location: &str) -> String {
    let mut out = String::new();
    for character in location.chars() {
        match character.is_whitespace() || !character.is_ascii() {
            true => character.encode_utf8(&mut [0; 4]).bytes().for_each(|byte| out.push_str(&format!("%{byte:02X}"))),
            false => out.push(character),
        }
    }
    out
}

/// Whether a body that begins so can have been compressed for its transfer.
fn is_compressed(encoding: &str, begin: &[u8]) -> bool {
    match &*encoding.to_ascii_lowercase() {
        "gzip" | "x-gzip" => begin == [0x1f, 0x8b],
        "zstd" => begin == [0x28, 0xb5],
        "br" | "deflate" | "compress" => true,
        _ => false,
    }
}

/// The failure that a status means which brings no file.
fn refused(reply: &Reply) -> Box<Failure> {
    let status = reply.status;
    let kind = match status {
        // One with less than three digits is of a line that was cut short.
        0..=99 | 408 | 429 | 500..=599 => FailureKind::Temporary,
        _ => FailureKind::Final,
    };
    let reason = format!("the server answered {status} {}", reply.phrase);
    let mut failure = Failure::new(kind, reason);
    if matches!(status, 429 | 503) {
        failure.retry_after = reply.retry_after();
    }
    failure
}

/// Start and total of a Content-Range.
type Range = (Option<u64>, Option<u64>);

/// Reads a Content-Range (RFC 9110, 14.4): `bytes 5-9/10`, `bytes 5-9/*`, `bytes */10`.
fn content_range(value: &str) -> Option<Range> {
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
fn copy(url: &Url, sink: &mut Sink) -> Result<Completeness> {
    let path = decoded(&url.path)
        .ok()
        .filter(|path| !path.contains(&0))
        .map(std::ffi::OsString::from_vec)
        .ok_or_else(|| Failure::new(FailureKind::Final, "the path in the url cannot be decoded"))?;
    let shown = path.to_string_lossy().into_owned();
    let cannot = |verb: &str, error| Failure::storage(&format!("cannot {verb} \"{shown}\""), &error);
    let irregular = || Failure::new(FailureKind::Final, format!("\"{shown}\" is no regular file"));
    // The type is checked before, as opening a device can have effects, and the open does not block, as that of a FIFO
    // waits for a writer.
    if !std::fs::metadata(&path).map_err(|error| cannot("open", error))?.is_file() {
        return Err(irregular());
    }
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&path);
    let file = opened.map_err(|error| cannot("open", error))?;
    let data = file.metadata().map_err(|error| cannot("read", error))?;
    if !data.is_file() {
        return Err(irregular());
    }
    if sink.size() > 0 {
        sink.restart()?;
    }
    sink.expect(data.len())?;
    // Files that the kernel makes up as they are read have no size, and may have no end.
    sink.fill(&mut file.take(data.len()), Some(data.len()))?;
    Ok(Completeness::Counted)
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
}
