//! Requests and responses as bytes: a tag, then the fields in order; numbers as 8 bytes, texts as a 4-byte length and
//! their bytes, all little endian.
//!
//! The first four bytes are the length of all that follows, so that a frame cut short by a kill is never taken for a whole
//! one. Decoding is total: whatever the bytes are, the result is a value or `None`. The daemon has one side of the pipes
//! and a helper of the same binary the other, so there are no versions.

use crate::kernel::Pid;
use crate::model::package::Format;
use crate::work::{FailureKind, HelperRequest, HelperResponse, Route};

/// The formats by their number in a frame.
const FORMATS: [Format; 8] =
    [Format::Rpm, Format::Deb, Format::Apk, Format::Ipk, Format::Tar, Format::TarGz, Format::TarXz, Format::TarZst];

/// A request as one frame.
pub fn encode_request(request: &HelperRequest) -> Vec<u8> {
    match request {
        HelperRequest::Exchange { url, headers, body, max_body, route } => {
            let mut out = Writer::new(0);
            out.bytes(url.as_bytes());
            out.number(headers.len() as u64);
            for (name, value) in headers {
                out.bytes(name.as_bytes());
                out.bytes(value.as_bytes());
            }
            out.bytes(body);
            out.number(*max_body);
            out.route(route);
            out.end()
        }
        HelperRequest::Fetch { url, max_bytes, rate, route, digest } => {
            let mut out = Writer::new(1);
            out.bytes(url.as_bytes());
            out.number(*max_bytes);
            out.maybe(*rate);
            out.route(route);
            out.bytes(digest);
            out.end()
        }
        HelperRequest::Verify { keys, signature, name, version } => {
            let mut out = Writer::new(3);
            out.number(keys.len() as u64);
            for text in keys.iter().chain([signature, name, version]) {
                out.bytes(text.as_bytes());
            }
            out.end()
        }
        HelperRequest::Unpack { format, dir, max_bytes, max_entries } => {
            let mut out = Writer::new(2);
            out.number(FORMATS.iter().position(|known| known == format).unwrap_or(FORMATS.len()) as u64);
            out.bytes(dir.as_bytes());
            out.number(*max_bytes);
            out.number(*max_entries);
            out.end()
        }
        HelperRequest::Inspect { pids, mark } => {
            let mut out = Writer::new(4);
            out.number(pids.len() as u64);
            for pid in pids {
                out.number(pid.raw() as u64);
            }
            // No mark is empty.
            out.bytes(mark.as_deref().unwrap_or_default().as_bytes());
            out.end()
        }
        HelperRequest::Rotate { older, size, freezer } => {
            let mut out = Writer::new(5);
            out.bytes(older.as_bytes());
            out.number(*size);
            out.bytes(freezer.as_bytes());
            out.end()
        }
    }
}

/// The request that is exactly these bytes.
pub fn decode_request(bytes: &[u8]) -> Option<HelperRequest> {
    let mut frame = Reader::new(bytes)?;
    let request = match frame.byte()? {
        0 => {
            let url = frame.text()?;
            let mut headers = Vec::new();
            for _ in 0..frame.number()? {
                headers.push((frame.text()?, frame.text()?));
            }
            let (body, max_body) = (frame.bytes()?.to_vec(), frame.number()?);
            HelperRequest::Exchange { url, headers, body, max_body, route: frame.route()? }
        }
        1 => {
            let (url, max_bytes, rate) = (frame.text()?, frame.number()?, frame.maybe()?);
            let route = frame.route()?;
            HelperRequest::Fetch { url, max_bytes, rate, route, digest: frame.bytes()?.try_into().ok()? }
        }
        2 => HelperRequest::Unpack {
            format: *FORMATS.get(usize::try_from(frame.number()?).ok()?)?,
            dir: frame.text()?,
            max_bytes: frame.number()?,
            max_entries: frame.number()?,
        },
        3 => {
            let mut keys = Vec::new();
            for _ in 0..frame.number()? {
                keys.push(frame.text()?);
            }
            HelperRequest::Verify { keys, signature: frame.text()?, name: frame.text()?, version: frame.text()? }
        }
        4 => {
            let mut pids = Vec::new();
            for _ in 0..frame.number()? {
                pids.push(Pid::new(i32::try_from(frame.number()?).ok()?)?);
            }
            let mark = Some(frame.text()?).filter(|mark| !mark.is_empty());
            HelperRequest::Inspect { pids, mark }
        }
        5 => HelperRequest::Rotate { older: frame.text()?, size: frame.number()?, freezer: frame.text()? },
        _ => return None,
    };
    frame.done().then_some(request)
}

/// A response as one frame.
pub fn encode_response(response: &HelperResponse) -> Vec<u8> {
    match response {
        HelperResponse::Exchanged { status, retry_after, signature, body } => {
            let mut out = Writer::new(0);
            out.number(u64::from(*status));
            out.maybe(*retry_after);
            out.number(u64::from(signature.is_some()));
            out.bytes(signature.as_deref().unwrap_or_default().as_bytes());
            out.bytes(body);
            out.end()
        }
        HelperResponse::Fetched { digest, size, counted } => {
            let mut out = Writer::new(1);
            out.bytes(digest);
            out.number(*size);
            out.number(u64::from(*counted));
            out.end()
        }
        HelperResponse::Verified { digest } => {
            let mut out = Writer::new(4);
            out.bytes(digest);
            out.end()
        }
        HelperResponse::Unpacked { entries, bytes, top } => {
            let mut out = Writer::new(2);
            out.number(*entries);
            out.number(*bytes);
            out.bytes(top.as_bytes());
            out.end()
        }
        // Its answers are lines and no frame, as each of them counts.
        HelperResponse::Inspected(_) => Vec::new(),
        HelperResponse::Rotated => Writer::new(6).end(),
        HelperResponse::Failed { kind, reason, progressed, retry_after } => {
            let mut out = Writer::new(3);
            out.number(*kind as u64);
            out.bytes(reason.as_bytes());
            out.number(*progressed);
            out.maybe(*retry_after);
            out.end()
        }
    }
}

/// The response that is exactly these bytes.
pub fn decode_response(bytes: &[u8]) -> Option<HelperResponse> {
    let mut frame = Reader::new(bytes)?;
    let response = match frame.byte()? {
        0 => {
            let status = u16::try_from(frame.number()?).ok()?;
            let retry_after = frame.maybe()?;
            let signed = frame.number()? == 1;
            let signature = frame.text()?;
            let body = frame.bytes()?.to_vec();
            HelperResponse::Exchanged { status, retry_after, signature: signed.then_some(signature), body }
        }
        1 => HelperResponse::Fetched {
            digest: frame.bytes()?.try_into().ok()?,
            size: frame.number()?,
            counted: frame.number()? == 1,
        },
        2 => HelperResponse::Unpacked { entries: frame.number()?, bytes: frame.number()?, top: frame.text()? },
        4 => HelperResponse::Verified { digest: frame.bytes()?.try_into().ok()? },
        6 => HelperResponse::Rotated,
        3 => {
            const KINDS: [FailureKind; 6] = [
                FailureKind::Temporary,
                FailureKind::Final,
                FailureKind::NoSpace,
                FailureKind::TooBig,
                FailureKind::Hostile,
                FailureKind::Unreadable,
            ];
            HelperResponse::Failed {
                kind: *KINDS.get(usize::try_from(frame.number()?).ok()?)?,
                reason: frame.text()?,
                progressed: frame.number()?,
                retry_after: frame.maybe()?,
            }
        }
        _ => return None,
    };
    frame.done().then_some(response)
}

/// A number that a helper announces before its response: how many bytes a download will have, or the address that an exchange
/// has reached.
pub fn encode_announced(number: u64) -> Vec<u8> {
    let mut out = Writer::new(5);
    out.number(number);
    out.end()
}

/// Removes a frame of `encode_announced` from the front of the bytes received so far.
pub fn take_announced(bytes: &mut Vec<u8>) -> Option<u64> {
    let length = encode_announced(0).len();
    let mut frame = Reader::new(bytes.get(..length)?)?;
    let number = if frame.byte()? == 5 { frame.number()? } else { return None };
    bytes.drain(..length);
    Some(number)
}

/// A frame being made.
struct Writer(Vec<u8>);

impl Writer {
    fn new(tag: u8) -> Writer {
        Writer(vec![0, 0, 0, 0, tag])
    }

    fn number(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    /// `None` is 0, and each number is written as one more.
    fn maybe(&mut self, value: Option<u64>) {
        self.number(value.map_or(0, |value| value.saturating_add(1)));
    }

    fn route(&mut self, route: &Route) {
        // No proxy has an empty name.
        self.bytes(route.proxy.as_deref().unwrap_or_default().as_bytes());
        self.number(route.turn);
        // No address is 0.
        self.number(route.first.unwrap_or(0));
        self.number(route.failed.len() as u64);
        route.failed.iter().for_each(|address| self.number(*address));
        self.number(u64::from(route.own_client));
    }

    fn bytes(&mut self, value: &[u8]) {
        self.0.extend_from_slice(&(value.len() as u32).to_le_bytes());
        self.0.extend_from_slice(value);
    }

    fn end(mut self) -> Vec<u8> {
        let length = (self.0.len() - 4) as u32;
        self.0[..4].copy_from_slice(&length.to_le_bytes());
        self.0
    }
}

/// The rest of a frame that is being read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Checks the length at the front against the bytes behind it.
    fn new(bytes: &'a [u8]) -> Option<Reader<'a>> {
        let mut frame = Reader(bytes);
        let length = frame.length()?;
        (length == frame.0.len()).then_some(frame)
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(head)
    }

    fn length(&mut self) -> Option<usize> {
        let bytes = self.take(4)?.try_into().ok()?;
        usize::try_from(u32::from_le_bytes(bytes)).ok()
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn number(&mut self) -> Option<u64> {
        let bytes = self.take(8)?.try_into().ok()?;
        Some(u64::from_le_bytes(bytes))
    }

    fn maybe(&mut self) -> Option<Option<u64>> {
        self.number().map(|value| value.checked_sub(1))
    }

    fn route(&mut self) -> Option<Route> {
        let proxy = Some(self.text()?).filter(|proxy| !proxy.is_empty());
        let (turn, first) = (self.number()?, Some(self.number()?).filter(|first| *first != 0));
        let mut failed = Vec::new();
        for _ in 0..self.number()? {
            failed.push(self.number()?);
        }
        Some(Route { proxy, turn, first, failed, own_client: self.number()? == 1 })
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = self.length()?;
        self.take(length)
    }

    fn text(&mut self) -> Option<String> {
        String::from_utf8(self.bytes()?.to_vec()).ok()
    }

    fn done(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requests() -> Vec<HelperRequest> {
        vec![
            HelperRequest::Exchange {
                url: "http://a/agent/status".into(),
                headers: vec![("X-A".into(), "1".into()), ("X-B".into(), String::new())],
                body: b"{}".to_vec(),
                max_body: 1 << 20,
                route: Route { first: Some(7), ..Route::default() },
            },
            HelperRequest::Fetch {
                url: "ftp://a/b.rpm".into(),
                max_bytes: u64::MAX,
                rate: None,
                route: Route::default(),
                digest: [0; 32],
            },
            HelperRequest::Fetch {
                url: String::new(),
                max_bytes: 0,
                rate: Some(0),
                route: Route {
                    proxy: Some("p:3128".into()),
                    turn: 7,
                    failed: vec![8, 9],
                    own_client: true,
                    ..Route::default()
                },
                digest: [9; 32],
            },
            HelperRequest::Verify {
                keys: vec!["RWa".into(), "RWb".into()],
                signature: "s\n".into(),
                name: "web".into(),
                version: "1".into(),
            },
            HelperRequest::Unpack { format: Format::TarXz, dir: "/x".into(), max_bytes: 1, max_entries: 2 },
            HelperRequest::Inspect { pids: vec![], mark: None },
            HelperRequest::Inspect { pids: vec![Pid::new(7).unwrap()], mark: Some("/s".into()) },
        ]
    }

    fn responses() -> Vec<HelperResponse> {
        vec![
            HelperResponse::Exchanged {
                status: 429,
                retry_after: Some(7),
                signature: Some("ab".into()),
                body: vec![0, 255],
            },
            HelperResponse::Exchanged { status: 200, retry_after: None, signature: None, body: Vec::new() },
            HelperResponse::Fetched { digest: [7; 32], size: 9, counted: true },
            HelperResponse::Verified { digest: [8; 32] },
            HelperResponse::Unpacked { entries: 1, bytes: 2, top: "a-1".into() },
            HelperResponse::Failed {
                kind: FailureKind::Hostile,
                reason: "x".into(),
                progressed: 3,
                retry_after: Some(4),
            },
        ]
    }

    #[test]
    fn frames_come_back_as_they_went() {
        for request in requests() {
            assert_eq!(decode_request(&encode_request(&request)), Some(request));
        }
        for response in responses() {
            assert_eq!(decode_response(&encode_response(&response)), Some(response));
        }
    }

    #[test]
    fn a_frame_cut_short_or_with_more_behind_it_is_none() {
        for mut bytes in responses().iter().map(encode_response).chain(requests().iter().map(encode_request)) {
            for end in 0..bytes.len() {
                assert_eq!(decode_response(&bytes[..end]), None);
                assert_eq!(decode_request(&bytes[..end]), None);
            }
            bytes.push(0);
            assert_eq!(decode_response(&bytes), None);
            assert_eq!(decode_request(&bytes), None);
        }
    }

    #[test]
    fn totals_come_off_the_front_and_nothing_else_does() {
        let mut bytes = [
            encode_announced(7),
            encode_announced(u64::MAX),
            encode_response(&HelperResponse::Verified { digest: [1; 32] }),
        ]
        .concat();
        assert_eq!((take_announced(&mut bytes), take_announced(&mut bytes)), (Some(7), Some(u64::MAX)));
        assert_eq!(take_announced(&mut bytes), None);
        assert_eq!(decode_response(&bytes), Some(HelperResponse::Verified { digest: [1; 32] }));
        for response in responses() {
            assert_eq!(take_announced(&mut encode_response(&response)), None);
        }
        for end in 0..encode_announced(7).len() {
            assert_eq!(take_announced(&mut encode_announced(7)[..end].to_vec()), None);
        }
    }

    #[test]
    fn mangled_frames_do_no_harm() {
        let mut seed = 1_u32;
        for bytes in responses().iter().map(encode_response).chain(requests().iter().map(encode_request)) {
            for _ in 0..2000 {
                let mut mangled = bytes.clone();
                for _ in 0..3 {
                    seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    let place = 4 + (seed >> 8) as usize % (mangled.len() - 4);
                    mangled[place] = seed as u8;
                }
                decode_request(&mangled);
                decode_response(&mangled);
            }
        }
    }
}
