//! Packages: `GET /packages/SHA256/NAME`, whole or a part; no listing.

use super::door::{header, reply, set, Reply};
use super::Shared;
use crate::model::release;
use crate::store::releases;
use http_body_util::BodyExt;
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::{Method, Request, Response};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::fs::File;
use tokio::io::{AsyncRead, AsyncSeekExt, ReadBuf};

/// Sends a package that a release has.
pub async fn serve(shared: &Arc<Shared>, path: &str, request: &Request<Incoming>) -> Reply {
    let missing = || reply(404, "text/plain", "no such package\n", &[]);
    let mut parts = path.trim_start_matches("/packages/").split('/');
    let (Some(digest), Some(name), None) = (parts.next(), parts.next(), parts.next()) else { return missing() };
    let is_digest = digest.len() == 64 && digest.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    if !is_digest || release::check_file_name("bootagent", name).is_err() {
        return missing();
    }
    if !shared.read_now(|tx| releases::is_served(tx, digest, name)).unwrap_or(false) {
        return missing();
    }
    let Ok(file) = File::open(shared.dir.join("packages").join(digest)).await else { return missing() };
    let Ok(size) = file.metadata().await.map(|meta| meta.len()) else { return missing() };
    let etag = format!("\"{digest}\"");
    let wanted = header(request.headers(), "if-range");
    let range = header(request.headers(), "range");
    let range = if wanted.is_empty() || wanted == etag { range } else { "" };
    send(file, size, range, &etag, request.method() == Method::HEAD).await
}

async fn send(mut file: File, size: u64, range: &str, etag: &str, head_only: bool) -> Reply {
    let (status, first, end) = match read_range(range, size) {
        None => (200, 0, size),
        Some(Some((first, end))) => (206, first, end),
        Some(None) => return reply(416, "text/plain", "", &[("content-range", format!("bytes */{size}"))]),
    };
    if file.seek(io::SeekFrom::Start(first)).await.is_err() {
        return reply(500, "text/plain", "cannot read the package\n", &[]);
    }
    let left = if head_only { 0 } else { end - first };
    let mut response = Response::new(FileBody { file, left, buffer: vec![0; 64 << 10] }.boxed());
    *response.status_mut() = hyper::StatusCode::from_u16(status).unwrap_or(hyper::StatusCode::OK);
    let headers = response.headers_mut();
    set(headers, "content-type", "application/octet-stream");
    set(headers, "accept-ranges", "bytes");
    set(headers, "etag", etag);
    set(headers, "content-length", &(end - first).to_string());
    if status == 206 {
        set(headers, "content-range", &format!("bytes {first}-{}/{size}", end - 1));
    }
    response
}

/// The bytes `first..end` of a range; `Some(None)` when there are none there. What cannot be read counts as no range.
fn read_range(range: &str, size: u64) -> Option<Option<(u64, u64)>> {
    let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    let (first, end) = match (first, last) {
        ("", suffix) => (size.saturating_sub(suffix.parse().ok()?), size),
        (first, "") => (first.parse().ok()?, size),
        (first, last) => (first.parse().ok()?, last.parse::<u64>().ok()?.saturating_add(1).min(size)),
    };
    Some((first < end).then_some((first, end)))
}

/// A part of a file, read as it is sent.
struct FileBody {
    file: File,
    left: u64,
    buffer: Vec<u8>,
}

impl Body for FileBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = self.get_mut();
        if this.left == 0 {
            return Poll::Ready(None);
        }
        let wanted = usize::try_from(this.left).unwrap_or(usize::MAX).min(this.buffer.len());
        let mut room = ReadBuf::new(&mut this.buffer[..wanted]);
        match Pin::new(&mut this.file).poll_read(context, &mut room) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(error)) => Poll::Ready(Some(Err(error))),
            Poll::Ready(Ok(())) if room.filled().is_empty() => {
                Poll::Ready(Some(Err(io::Error::from(io::ErrorKind::UnexpectedEof))))
            }
            Poll::Ready(Ok(())) => {
                let data = Bytes::copy_from_slice(room.filled());
                this.left -= data.len() as u64;
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

#[cfg(test)]
mod tests {
    use super::read_range;

    #[test]
    fn ranges() {
        assert_eq!(read_range("", 10), None);
        assert_eq!(read_range("bytes=2-", 10), Some(Some((2, 10))));
        assert_eq!(read_range("bytes=2-3", 10), Some(Some((2, 4))));
        assert_eq!(read_range("bytes=-3", 10), Some(Some((7, 10))));
        assert_eq!(read_range("bytes=10-", 10), Some(None));
        assert_eq!(read_range("lines=1-2", 10), None);
    }
}
