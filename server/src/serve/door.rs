//! Connections: how many, how long, how large, and how they end.

use super::patient::Patient;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Bytes, Incoming};
use hyper::{HeaderMap, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::future::Future;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, SemaphorePermit};

/// What is sent back.
pub type Reply = Response<BoxBody<Bytes, io::Error>>;

/// How long a request may take to arrive.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// The longest body of a request.
pub const BODY_MAX: usize = 1 << 20;
/// How long what nobody wants is read before the end, so that the reply is not eaten by a reset.
const DRAIN: Duration = Duration::from_secs(2);

/// A reply with headers.
pub fn reply(status: u16, kind: &str, body: impl Into<Bytes>, headers: &[(&str, String)]) -> Reply {
    let mut response = Response::new(Full::new(body.into()).map_err(|never| match never {}).boxed());
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    set(response.headers_mut(), "content-type", kind);
    for (name, value) in headers {
        set(response.headers_mut(), name, value);
    }
    response
}

/// Sets a header whose value can be one.
pub fn set(headers: &mut HeaderMap, name: &str, value: &str) {
    if let (Ok(name), Ok(value)) = (name.parse::<hyper::header::HeaderName>(), value.parse()) {
        headers.insert(name, value);
    }
}

/// The text of a header; empty without it.
pub fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// Why a body could not be read.
pub enum Unread {
    /// Too much is in memory already.
    NoRoom,
    /// Longer than it may be.
    TooLong,
    /// Not complete in time, or cut off.
    Cut,
}

/// Reads a body of up to [`BODY_MAX`] bytes.
///
/// # Errors
/// Why not.
pub async fn read_body(body: Incoming) -> Result<Vec<u8>, Unread> {
    // More than one body can need: whoever comes here is known, and comes alone.
    let budget = Semaphore::new(BODY_MAX / 1024 + usize::try_from(CHUNK_KIB).unwrap_or(0) + 1);
    read_within(body, BODY_MAX, &budget).await.map(|(body, _)| body)
}

/// KiB of room that are taken at one time.
const CHUNK_KIB: u32 = 32;

/// Reads a body of up to `longest` bytes, and takes the room for it from a budget in KiB as it comes: what a peer says of its
/// length is no reason to keep room for it.
///
/// # Errors
/// Why not.
pub async fn read_within(
    mut body: Incoming,
    longest: usize,
    budget: &Semaphore,
) -> Result<(Vec<u8>, SemaphorePermit<'_>), Unread> {
    if body.size_hint().lower() > longest as u64 {
        drain(body).await;
        return Err(Unread::TooLong);
    }
    let read = async {
        let mut room = budget.try_acquire_many(CHUNK_KIB).map_err(|_| Unread::NoRoom)?;
        let mut whole = Vec::new();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|_| Unread::Cut)?.into_data() else { continue };
            let size = whole.len() + data.len();
            if size > longest {
                return Err(Unread::TooLong);
            }
            while size > room.num_permits() * 1024 {
                room.merge(budget.try_acquire_many(CHUNK_KIB).map_err(|_| Unread::NoRoom)?);
            }
            whole.extend_from_slice(&data);
        }
        Ok((whole, room))
    };
    let done = tokio::time::timeout(PATIENCE, read).await.unwrap_or(Err(Unread::Cut));
    if matches!(done, Err(Unread::NoRoom | Unread::TooLong)) {
        drain(body).await;
    }
    done
}

/// Reads and drops what is left of a body, 1 MiB or 2 s at most.
pub async fn drain(mut body: Incoming) {
    let read = async {
        let mut left = BODY_MAX;
        while let Some(Ok(frame)) = body.frame().await {
            match left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) {
                Some(less) => left = less,
                None => break,
            }
        }
    };
    let _ = tokio::time::timeout(DRAIN, read).await;
}

/// Serves one connection, one request.
pub async fn serve<S, H, F>(stream: S, handle: H)
where
    S: AsyncRead + AsyncWrite + Unpin,
    H: Fn(hyper::Request<Incoming>) -> F,
    F: Future<Output = Reply>,
{
    let service = hyper::service::service_fn(|request| {
        let answer = handle(request);
        async { Ok::<Reply, io::Error>(answer.await) }
    });
    // What goes wrong here is the peer's: cut off, too slow, not HTTP.
    let _ = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .max_buf_size(64 << 10)
        .keep_alive(false)
        .serve_connection(TokioIo::new(Patient::new(stream)), service)
        .await;
}
