//! One exchange with a server: an HTTP POST and its whole reply, within a deadline and a size.

use crate::model::url::{Scheme, Url};
use crate::sys::alarm;
use crate::sys::file::read_up_to;
use crate::text::exact_size;
use crate::work::http::{self, Route};
use crate::work::{
    Failure, FailureKind, HelperResponse, Result, CONNECT_SECS, EXCHANGE_SECS, EXIT_NO_CONNECTION, EXIT_NO_REPLY,
};

/// Sends `body` and reads the reply, whatever its status; a redirect is a reply like any other. The process ends with one
/// of the two exit statuses when the time is over.
///
/// # Errors
/// When there is no connection, no whole reply, or one of more than `max_body` bytes.
pub fn exchange(
    url: &str,
    headers: &[(String, String)],
    body: Vec<u8>,
    max_body: u64,
    route: &Route,
) -> Result<HelperResponse> {
    alarm::end_after(CONNECT_SECS, EXCHANGE_SECS, [EXIT_NO_CONNECTION, EXIT_NO_REPLY])
        .map_err(|error| Failure::temporary("cannot set the alarm", &error))?;
    let url = Url::parse(url).map_err(|why| Failure::new(FailureKind::Final, format!("server url: {why}")))?;
    if !url.scheme.is_http() {
        return Err(Failure::new(FailureKind::Final, "server url: want http://"));
    }
    let mut reply = http::post(&url, headers, body, route)?;
    let length = reply.content_length();
    if let Some(length) = length.filter(|length| *length > max_body) {
        let reason = format!("the reply has {length} bytes, more than {}", exact_size(max_body));
        return Err(Failure::new(FailureKind::TooBig, reason));
    }
    let mut body = Vec::new();
    let read = read_up_to(max_body.saturating_add(1), &mut body, &mut |to| std::io::Read::read(&mut reply, to));
    read.map_err(|error| {
        let mut failure = Failure::temporary(&format!("the reply broke off after {} bytes", body.len()), &error);
        if error.kind() == std::io::ErrorKind::Other && url.scheme == Scheme::Http {
            // That is what the HTTP library calls a chunk or trailer that it cannot read.
            failure.kind = FailureKind::Unreadable;
        }
        failure
    })?;
    let size = body.len() as u64;
    if size > max_body {
        return Err(Failure::new(FailureKind::TooBig, format!("the reply has more than {}", exact_size(max_body))));
    }
    // Some servers name an encoding and use none.
    let is_json = matches!(body.trim_ascii_start().first(), Some(b'{' | b'['));
    if let Some(encoding) = reply.encoding().filter(|_| !is_json && reply.status / 100 == 2) {
        let reason = format!("the reply is compressed (Content-Encoding: {encoding}), though nobody asked for it");
        return Err(Failure::new(FailureKind::Temporary, reason));
    }
    if let Some(length) = length.filter(|length| *length > size) {
        let reason = format!("the reply ended after {size} of {length} bytes");
        return Err(Failure::new(FailureKind::Temporary, reason));
    }
    Ok(HelperResponse::Exchanged {
        status: reply.status,
        retry_after: reply.retry_after(),
        signature: reply.header("x-bootagent-signature").map(String::from),
        body,
    })
}
